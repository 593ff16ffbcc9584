// SPDX-License-Identifier: MPL-2.0

//! The sessions' tasks: which chunk, and what becomes of an attempt. And the sessions themselves, as parts of the element.

use super::assignment::Assigned;
use super::shared::{Branch, Shared};
use super::{input, output};
use crate::encoder::description::Recipe;
use crate::encoder::hints::Hints;
use crate::logic::engine::{self, Again, Consequence, Take};
use crate::logic::ids::SessionId;
use crate::media::raw::frame_rate;
use crate::panics::{self, may_panic};
use crate::session::failure::Failure;
use crate::session::{Input, Session, SlotOwner, Work};
use crate::tasks;
use gst::prelude::*;
use once_cell::sync::Lazy;
use std::sync::{Arc, Weak};
use std::time::Instant;

static CAT: Lazy<gst::DebugCategory> = Lazy::new(|| {
    gst::DebugCategory::new(
        "vtparallelworkers",
        gst::DebugColorFlags::empty(),
        Some("vtparallelenc: who encodes which chunk, and what becomes of it"),
    )
});

/// Makes sessions until there are as many.
pub(super) fn add_sessions(shared: &Arc<Shared>, sessions: usize) {
    while shared.count_branches() < sessions {
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
    shared.add_branch(branch);
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
    if !pad.is_active() {
        return;
    }
    let weak = Arc::downgrade(shared);
    let started = tasks::start(pad, move || {
        if let Some(shared) = weak.upgrade() {
            // Here, because the pad may have left its element.
            panics::caught(
                &*shared,
                "a session's task",
                || give_up(&shared, id),
                || turn(&shared, id),
            );
        }
    });
    if started.is_err() {
        gst::error!(CAT, obj = pad, "The task of session {id} can't be started");
    }
}

/// One turn of a session's task: one attempt at one chunk.
fn turn(shared: &Arc<Shared>, id: SessionId) {
    let Some(branch) = shared.branch(id) else {
        return;
    };
    let session = branch.session;
    let recipe = shared.encoding.lock().recipe.clone();
    let taken = recipe.and_then(|recipe| Some((recipe, take(shared, &session)?)));
    let Some((recipe, assigned)) = taken else {
        let _ = session.src.pause_task();
        return;
    };
    let (chunk, number, attempt) = (assigned.chunk, assigned.number, assigned.attempt);
    gst::debug!(CAT, obj = session.slot, "Attempt {number} at chunk {chunk}");
    let intake = branch.intake.clone();
    let (work, assignment) = prepare(shared, &session, intake, recipe, assigned);
    let result = session.run(&work, &assignment);
    // What the encoder still sends is nobody's. One that waits for its first chunk even now has told its caps, and won't again.
    session.clear_in_task();
    *branch.intake.lock() = output::intake::Intake::default();
    match result {
        Ok(()) => gst::debug!(CAT, obj = session.slot, "Chunk {chunk} done"),
        Err(failure) => attempt_failed(shared, &assignment, failure),
    }
    come_to_rest(shared, &session, |engine| engine.rest(attempt));
}

/// The session's attempt is over: from here on nobody can abandon it. If somebody has, nobody waits for it, and it is disposed of; its
/// task can't wait for itself.
fn come_to_rest(
    shared: &Shared,
    session: &Arc<Session>,
    rest: impl FnOnce(&mut engine::Engine<super::video::Video>),
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
fn take(shared: &Shared, session: &Session) -> Option<engine::Assigned<super::video::Video>> {
    let mut engine = shared.lock();
    loop {
        may_panic!("taking a chunk, locked");
        match engine.take(session.id) {
            Take::Chunk(assigned) => return Some(assigned),
            Take::Wait => engine.wait(&session.wake),
            Take::Stop => return None,
        }
    }
}

/// All that the session needs to make the attempt.
fn prepare(
    shared: &Arc<Shared>,
    session: &Arc<Session>,
    intake: Arc<parking_lot::Mutex<output::intake::Intake>>,
    recipe: Recipe,
    assigned: engine::Assigned<super::video::Video>,
) -> (Work, Assigned) {
    let opens = assigned.opens;
    let context = opens.context.clone();
    let cache = shared.encoding.lock().cache.clone();
    *session.posted.lock() = None;
    let work = Work {
        chunk: assigned.chunk,
        first: assigned.first,
        input: Input {
            caps: context.caps.clone(),
            downstream: context.downstream.clone(),
            tags: opens.tags_before(),
            hints: Hints {
                neighbours: assigned.neighbours,
                rate: frame_rate(&context.caps),
            },
        },
        recipe,
        cache,
    };
    let assignment = Assigned {
        shared: shared.clone(),
        session: session.clone(),
        intake,
        attempt: assigned.attempt,
        own_from: assigned.own_from,
        context,
        since: Instant::now(),
    };
    (work, assignment)
}

/// An attempt ended without its chunk: carries out what follows from that.
fn attempt_failed(shared: &Arc<Shared>, assignment: &Assigned, failure: Failure) {
    let busy = assignment.busy();
    end_attempt(shared, assignment.attempt, failure, busy);
}

pub(super) fn end_attempt(
    shared: &Arc<Shared>,
    attempt: crate::logic::ids::AttemptId,
    failure: Failure,
    busy: u64,
) {
    let id = attempt.session;
    let ending = failure.ending();
    let failure = Arc::new(failure);
    let consequence = shared.lock().ended(attempt, &ending, failure.clone(), busy);
    match consequence {
        Consequence::Nothing => {
            gst::debug!(CAT, "Session {id}: its attempt is over: {failure}");
        }
        Consequence::Again(again) => {
            // Said before the chunk goes on, because with it the stream may end.
            match &again {
                Again::Replanned => {
                    gst::info!(CAT, "Session {id}: its chunk begins anew: {failure}");
                }
                Again::WithoutOverlap => shared.warn_of_dropped_overlap(&failure),
                Again::SessionClosed => shared.note_closed_session(id, &failure),
                Again::Failed { report, closes } => {
                    shared.warn_of_attempt(report, *closes, &failure);
                }
            }
            shared.lock().retry(attempt);
        }
        Consequence::GiveUp(report, reason) => shared.tell_of_failure(&report, reason, &failure),
    }
}

/// The session's task panicked, which has closed its encoder. It has no attempt any more, and nobody waits for it; it rests until
/// the next start or the end of a flush.
fn give_up(shared: &Arc<Shared>, id: SessionId) {
    let Some(branch) = shared.branch(id) else {
        return;
    };
    let session = branch.session;
    panics::reporting(&**shared, "a session after a panic", || {
        session.clear_in_task();
    });
    let _ = session.src.pause_task();
    *branch.intake.lock() = output::intake::Intake::default();
    come_to_rest(shared, &session, |engine| engine.rest_after_panic(id));
}
