// SPDX-License-Identifier: MPL-2.0

//! The sessions' tasks: which chunk, and what becomes of an attempt. And the sessions themselves, as parts of the element.

use super::CAT;
use super::assignment::Assigned;
use super::shared::{Branch, Shared};
use super::trace::{Of, Phase};
use super::video::Video;
use super::{input, output};
use crate::clock;
use crate::encoder::hints::Hints;
use crate::logic::engine::{self, Again, Consequence, Take};
use crate::logic::ids::{AttemptId, SessionId};
use crate::media::raw::frame_rate;
use crate::panics::{self, may_panic};
use crate::session::failure::Failure;
use crate::session::{Keeping, Session, SlotOwner, Work};
use gst::prelude::*;
use std::sync::{Arc, Weak};

/// Makes sessions until there are as many.
pub(super) fn add_sessions(shared: &Arc<Shared>, sessions: u32) {
    while shared.branches.read().len() < sessions as usize {
        let id = shared.lock().add_session();
        add_branch(shared, id);
    }
}

/// Makes a session of the engine's part of the element: its slot in the bin, linked on both sides.
pub(super) fn add_branch(shared: &Arc<Shared>, id: SessionId) {
    let weak = Arc::downgrade(shared);
    let owner: Weak<dyn SlotOwner> = weak.clone();
    let src = input::session_pad(&weak, id);
    let (sink, intake) = output::session_pad(&weak, id);
    let timeout = shared.encoding.lock().job.stall_timeout;
    let host = shared.host.clone();
    let session = Arc::new(Session::new(id, src, host, owner, timeout));
    let branch = Branch {
        session: session.clone(),
        sink: sink.clone(),
        intake,
    };
    shared.flows.lock().add_pad(&branch.sink);
    shared.branches.write().push(branch);
    let (Some(distributor), Some(aggregator), Some(bin)) = (
        shared.sink.parent_element(),
        shared.src.parent_element(),
        shared.host.bin(),
    ) else {
        return;
    };
    // An element that runs wants pads that do, from before they are its own.
    let runs = distributor.current_state() >= gst::State::Paused;
    let activates = |pad: &gst::Pad| !runs || pad.set_active(true).is_ok();
    let made = activates(&sink)
        && aggregator.add_pad(&sink).is_ok()
        && activates(&session.src)
        && distributor.add_pad(&session.src).is_ok()
        && bin.add(&session.slot).is_ok()
        && session.link(&sink).is_some()
        && (!runs || session.slot.sync_state_with_parent().is_ok());
    if made && runs {
        start_task(shared, &session.src, id);
    }
    if !made {
        gst::error!(CAT, obj = bin, "Session {id} can't be linked");
    }
}

/// Takes a session's slot and pads out of the element.
pub(super) fn unlink(shared: &Shared, branch: &Branch) {
    if let Some(bin) = shared.host.bin() {
        let _ = bin.remove(&branch.session.slot);
    }
    shared.flows.lock().remove_pad(&branch.sink);
    for (pad, of) in [
        (&branch.session.src, &shared.sink),
        (&branch.sink, &shared.src),
    ] {
        if let Some(element) = of.parent_element() {
            let _ = element.remove_pad(pad);
        }
    }
}

pub(super) fn start_task(shared: &Arc<Shared>, pad: &gst::Pad, id: SessionId) {
    let rest = move |shared: &Arc<Shared>| give_up(shared, id);
    shared.start_task(pad, "a session's task", rest, move |shared| {
        turn(shared, id);
    });
}

/// One turn of a session's task: one attempt at one chunk.
fn turn(shared: &Arc<Shared>, id: SessionId) {
    let Some(branch) = shared.branch(id) else {
        return;
    };
    let session = branch.session.clone();
    let taken = take(shared, &session);
    // As it is from the first chunk on: before, it isn't settled how many threads an encoder has.
    let recipe = || shared.encoding.lock().recipe.clone();
    let Some((recipe, taken)) = taken.and_then(|taken| Some((recipe()?, taken))) else {
        let _ = session.src.pause_task();
        return;
    };
    let (chunk, number, attempt) = (taken.chunk, taken.number, taken.attempt);
    let (start, lead) = (taken.start, taken.start.0 - taken.first.0);
    gst::info!(
        CAT,
        obj = session.slot,
        "Attempt {number} at chunk {chunk}, from frame {start} on with {lead} before it"
    );
    if let Some(vbv) = taken.vbv {
        gst::debug!(CAT, obj = session.slot, "Its decoder's buffer: {vbv:?}");
    }
    if taken.is_sessions_first {
        shared.tell_of_session(id, "opened", None);
    }
    shared.tell_of_chunk(id, chunk, number, start.0);
    let context = taken.opens.context.clone();
    let keeping = match taken.chunk_to_come {
        Some(chunk) => Keeping::Required(chunk),
        None if shared.is_joining() => Keeping::Only,
        None => Keeping::Optional,
    };
    let cache = shared.encoding.lock().cache.clone();
    let pass = shared.second_pass(chunk);
    let work = Work {
        chunk,
        first: taken.first,
        hints: Hints {
            neighbours: taken.neighbours,
            rate: frame_rate(&context.caps),
            vbv: taken.vbv,
            tells_vbv: taken.tells_vbv,
        },
        opens: taken.opens,
        recipe,
        cache,
        keeping,
        pass,
    };
    let assignment = Assigned {
        shared: shared.clone(),
        branch,
        attempt,
        own_from: taken.own_from,
        context,
        of: Of {
            chunk: chunk.0,
            attempt: number,
        },
    };
    *session.posted.lock() = None;
    assignment.begin();
    let result = session.run(&work, &assignment);
    // What the encoder still sends is nobody's. One that waits for its first chunk even now has told its caps, and won't again.
    session.clear_in_task();
    *assignment.branch.intake.lock() = output::intake::Intake::default();
    match result {
        Ok(()) => gst::info!(CAT, obj = session.slot, "Chunk {chunk} done"),
        Err(failure) => end_attempt(shared, attempt, failure),
    }
    if !session.status.is_abandoned() {
        shared.traced(|trace, now| trace.phase(id.0, Phase::Idle, None, now));
    }
    come_to_rest(shared, &session, |engine| engine.rest(attempt));
}

/// The session's attempt is over: from here on nobody can abandon it. If somebody has, nobody waits for it, and it is disposed of; its
/// task can't wait for itself.
fn come_to_rest(
    shared: &Shared,
    session: &Arc<Session>,
    rest: impl FnOnce(&mut engine::Engine<Video>),
) {
    {
        // Whoever abandons it holds the lock.
        let mut engine = shared.lock();
        if !session.status.is_abandoned() {
            rest(&mut engine);
            return;
        }
    }
    let _ = session.src.pause_task();
    let session = session.clone();
    let thread = std::thread::Builder::new().name("vtparallelenc-dispose".to_string());
    let _ = thread.spawn(move || session.dispose_abandoned());
}

/// Waits for a chunk: until one is offered, a flush, a stop, the end of the stream, or until the session is abandoned. `None`: there is
/// nothing to do.
fn take(shared: &Shared, session: &Session) -> Option<engine::Assigned<Video>> {
    let mut engine = shared.lock();
    loop {
        may_panic!("taking a chunk, locked");
        match engine.take(session.id, clock::now()) {
            Take::Chunk(assigned) => return Some(assigned),
            Take::Wait => engine.wait(&session.wake),
            Take::Stop => return None,
        }
    }
}

/// An attempt ended without its chunk: carries out what follows from that.
pub(super) fn end_attempt(shared: &Arc<Shared>, attempt: AttemptId, failure: Failure) {
    let id = attempt.session;
    let ending = failure.ending();
    let failure = Arc::new(failure);
    let consequence = shared
        .lock()
        .ended(attempt, &ending, failure.clone(), clock::now());
    match consequence {
        Consequence::Nothing => {
            gst::debug!(CAT, "Session {id}: its attempt is over: {failure}");
        }
        Consequence::Again { chunk, number, why } => {
            let state = match why {
                Again::Replanned | Again::WithoutOverlap => "replanned",
                Again::SessionClosed | Again::Failed { .. } => "failed",
            };
            shared.tell_of_end_of_attempt(id, chunk, number, state, &failure);
            if let Again::SessionClosed | Again::Failed { closes: true, .. } = &why {
                shared.tell_of_session(id, "closed", Some(&failure.to_string()));
            }
            shared.tell_of_attempt(id, &why, &failure);
            shared.lock().retry(attempt);
        }
        Consequence::GiveUp(report, reason) => {
            let (chunk, number) = (report.chunk, report.number);
            shared.tell_of_end_of_attempt(id, chunk, number, "failed", &failure);
            shared.tell_of_failure(&report, reason, &failure);
        }
    }
}

/// The session's task panicked, which has closed its encoder. It has no attempt any more, and nobody waits for it; it rests until
/// the next start or the end of a flush.
fn give_up(shared: &Arc<Shared>, id: SessionId) {
    let Some(Branch {
        session, intake, ..
    }) = shared.branch(id)
    else {
        return;
    };
    panics::reporting(&shared.host, "a session after a panic", || {
        session.clear_in_task();
    });
    let _ = session.src.pause_task();
    *intake.lock() = output::intake::Intake::default();
    come_to_rest(shared, &session, |engine| engine.rest_after_panic(id));
}
