// SPDX-License-Identifier: MPL-2.0

//! The sessions' tasks: which chunk, which frame, and what becomes of an attempt.

use super::failure::encoder_error;
use super::imp::{CAT, Distributor};
use super::state::{State, Waiting};
use crate::locking::{lock, wait, wait_timeout};
use crate::logic::frame::{Chunk, ChunkId, FrameNo, SessionId};
use crate::logic::reorder::{Delivered, Fault};
use crate::logic::roster::{AfterFailure, Attempt, MAX_ATTEMPTS};
use crate::pad_task;
use crate::session::{Failure, Session, Step, Work};
use gst::prelude::*;
use gst::subclass::prelude::*;
use std::sync::{Arc, Condvar, MutexGuard};
use std::time::{Duration, Instant};

/// So long downstream may take to accept the first packets before whole chunks stop waiting for it.
const HERALD_TIMEOUT: Duration = Duration::from_secs(1);

/// What a failed attempt comes to.
#[derive(Clone, Copy)]
enum Outcome<'a> {
    /// The chunk was planned anew, through no fault of the attempt. `says`: without its overlap, for the first time, for which
    /// the application gets a warning.
    Anew {
        says: bool,
    },
    /// The encoder can't be cut: all chunks become one. `says`: as above.
    Join {
        says: bool,
    },
    /// No encoder could be opened, for this reason.
    Unopened(&'a Failure),
    /// What has left of the chunk can't be made again: it begins after that.
    Later,
    /// Some of the chunk has left, or its frames have.
    Unrepeatable,
    Failed,
}

impl Distributor {
    pub(super) fn src_pad(&self, id: SessionId) -> gst::Pad {
        // PANIC: `pad_templates` above has it.
        let template = self.obj().pad_template("src_%u").expect("src template");
        gst::Pad::builder_from_template(&template)
            .name(format!("src_{id}"))
            .activatemode_function(move |pad, parent, mode, active| {
                if parent.is_none() {
                    // It is added to a running element; its task starts when it is linked.
                    return Ok(());
                }
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::loggable_error!(CAT, "Panic while activating")),
                    |this| this.src_activatemode(pad, id, mode, active),
                )
            })
            .event_function(|_, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |this| this.src_event(event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |this| this.src_query(pad, query))
            })
            .build()
    }

    pub(super) fn src_activatemode(
        &self,
        pad: &gst::Pad,
        id: SessionId,
        mode: gst::PadMode,
        active: bool,
    ) -> Result<(), gst::LoggableError> {
        if mode != gst::PadMode::Push {
            return Err(gst::loggable_error!(CAT, "Only push mode is supported"));
        }
        if active {
            self.start_task(pad, id);
            return Ok(());
        }
        self.stop();
        pad.stop_task()
            .map_err(|error| gst::loggable_error!(CAT, "Task can't be stopped: {error}"))
    }

    pub(super) fn start_task(&self, pad: &gst::Pad, id: SessionId) {
        if !pad.is_active() {
            return;
        }
        let weak = self.downgrade();
        let started = pad_task::start(pad, move || {
            if let Some(this) = weak.upgrade() {
                this.run(id);
            }
        });
        if started.is_err() {
            gst::error!(CAT, imp = self, "The task of session {id} can't be started");
        }
    }

    pub(super) fn session(&self, id: SessionId) -> Option<Arc<Session>> {
        let state = lock(&self.state);
        Some(state.as_ref()?.slots.get(id.0)?.session.clone())
    }

    /// One turn of a session's task: one attempt at one chunk.
    pub(super) fn run(&self, id: SessionId) {
        let Some(session) = self.session(id) else {
            return;
        };
        let Some((attempt, work)) = self.take_chunk(id) else {
            let _ = session.src.pause_task();
            return;
        };
        let chunk = attempt.chunk;
        gst::debug!(
            CAT,
            imp = self,
            "Session {id}: attempt {} at chunk {chunk}",
            attempt.number
        );
        match session.run(self, self.aggregator(), &work) {
            Ok(()) => gst::debug!(CAT, imp = self, "Session {id}: chunk {chunk} done"),
            Err(Failure::Aborted | Failure::Downstream) => {
                gst::debug!(CAT, imp = self, "Session {id}: chunk {chunk} aborted");
            }
            Err(failure) => self.attempt_failed(id, &failure),
        }
        self.aggregator().leave(id);
    }

    /// Waits for a chunk. `None`: the stream is aborted.
    pub(super) fn take_chunk(&self, id: SessionId) -> Option<(Attempt, Work)> {
        let mut guard = lock(&self.state);
        loop {
            // Downstream's refusal is known there first.
            if self.aggregator().flow().is_err() {
                return None;
            }
            let state = guard.as_mut().filter(|state| !state.is_aborting())?;
            let recipe = state.recipe.clone();
            let taken = state.stream.as_mut().and_then(|stream| {
                let attempt = stream.roster.take(id)?;
                Some((attempt, stream.planner.first_fed(attempt.chunk)?))
            });
            let slot = &mut state.slots[id.0];
            slot.waiting = Waiting::Chunk;
            if let Some((attempt, first)) = taken {
                slot.waiting = Waiting::Nothing;
                slot.ended = false;
                slot.error = None;
                slot.replanned = false;
                slot.position = first;
                slot.since = Instant::now();
                let work = Work {
                    chunk: attempt.chunk,
                    is_whole: state.joined,
                    first,
                    input: state.input(attempt.chunk)?,
                    recipe: recipe?,
                };
                return Some((attempt, work));
            }
            let session = slot.session.clone();
            guard = self.wait(&session.wake, guard);
        }
    }

    /// Waits. While downstream takes the first packets, chunks that are whole keep their frames: if that takes long, downstream may be
    /// waiting for what is behind these frames, and they go.
    pub(super) fn wait<'a>(
        &'a self,
        condvar: &Condvar,
        guard: MutexGuard<'a, Option<State>>,
    ) -> MutexGuard<'a, Option<State>> {
        if !self.aggregator().herald_leaves() {
            return wait(condvar, guard);
        }
        let since = Instant::now();
        let guard = wait_timeout(condvar, guard, HERALD_TIMEOUT);
        if since.elapsed() < HERALD_TIMEOUT {
            return guard;
        }
        drop(guard);
        self.aggregator().end_herald();
        lock(&self.state)
    }

    /// Waits until it is known what the session does next with its chunk.
    pub(crate) fn next_step(
        &self,
        id: SessionId,
        chunk: ChunkId,
        position: FrameNo,
    ) -> Result<Step, Failure> {
        self.wait_as(id, Waiting::Frame, |state| {
            let step = state.step(chunk, position)?;
            state.slots[id.0].position = FrameNo(position.0 + 1);
            Some(step)
        })
    }

    /// A session that has a whole stream has fed it up to, not including, `position`: there is no other attempt, so these
    /// frames go.
    pub(crate) fn fed(&self, chunk: ChunkId, position: FrameNo) {
        let free = lock(&self.state)
            .as_mut()
            .map(|state| state.fed(chunk, position));
        drop(free);
        self.room.notify_all();
    }

    /// Waits until the session's encoder has sent its EOS.
    pub(crate) fn wait_for_eos(&self, id: SessionId) -> Result<(), Failure> {
        self.wait_as(id, Waiting::Eos, |state| {
            state.slots[id.0].ended.then_some(())
        })
    }

    pub(super) fn wait_as<R>(
        &self,
        id: SessionId,
        waiting: Waiting,
        mut ready: impl FnMut(&mut State) -> Option<R>,
    ) -> Result<R, Failure> {
        let mut guard = lock(&self.state);
        let result = loop {
            let Some(state) = guard.as_mut().filter(|state| !state.is_aborting()) else {
                break Err(Failure::Aborted);
            };
            if state.slots[id.0].replanned {
                break Err(Failure::Replanned);
            }
            if state.slots[id.0].error.is_some() {
                drop(guard);
                // A fault says more than the error that it led to.
                return Err(self.failure(id).unwrap_or(Failure::Aborted));
            }
            if let Some(result) = ready(state) {
                break Ok(result);
            }
            let slot = &mut state.slots[id.0];
            slot.waiting = waiting;
            let session = slot.session.clone();
            if state.is_stuck() {
                self.room.notify_all();
            }
            guard = self.wait(&session.wake, guard);
        };
        if let Some(state) = guard.as_mut() {
            state.slots[id.0].waiting = Waiting::Nothing;
        }
        result
    }

    /// The session's encoder has sent EOS.
    pub(crate) fn encoder_ended(&self, id: SessionId) {
        let mut state = lock(&self.state);
        if let Some(slot) = state.as_mut().and_then(|state| state.slots.get_mut(id.0)) {
            slot.ended = true;
            slot.session.wake.notify_all();
        }
    }

    pub(crate) fn has_ended(&self, id: SessionId) -> bool {
        let state = lock(&self.state);
        let slot = state.as_ref().and_then(|state| state.slots.get(id.0));
        slot.is_some_and(|slot| slot.ended)
    }

    /// The session's chunk is whole: its frames go, its packets may leave.
    pub(crate) fn delivered(
        &self,
        id: SessionId,
        chunk: Chunk,
        delivered: Delivered,
    ) -> Result<(), Failure> {
        gst::debug!(CAT, imp = self, "Session {id}: {chunk}, {delivered:?}");
        let mut guard = lock(&self.state);
        let Some(state) = guard.as_mut() else {
            return Err(Failure::Aborted);
        };
        if state.slots[id.0].replanned {
            return Err(Failure::Replanned);
        }
        state.count_attempt(id, chunk.fed.len());
        state.slots[id.0].works = true;
        let free = state.delivered(self.aggregator(), id, chunk.id, delivered);
        state.releasing += 1;
        state.wake(Waiting::Chunk);
        if let Some(stream) = &state.stream {
            let needed = stream.planner.oldest_needed();
            self.aggregator().forget_before(needed);
        }
        drop(guard);
        self.warn_of_closed_sessions();
        self.let_go(free);
        Ok(())
    }

    /// Drops the frames of chunks that may leave, while no lock is held.
    fn let_go(&self, free: Vec<(ChunkId, Vec<gst::Buffer>)>) {
        for (chunk, frames) in free {
            drop(frames);
            self.aggregator().finish(chunk);
        }
        if let Some(state) = &mut *lock(&self.state) {
            state.releasing = state.releasing.saturating_sub(1);
        }
        self.room.notify_all();
    }

    /// Downstream has the first packet, or nobody waits for that any more: what is whole may leave.
    pub(crate) fn heralded(&self) {
        let free = {
            let mut state = lock(&self.state);
            let Some(state) = state.as_mut() else { return };
            let free = state.free(self.aggregator());
            state.releasing += 1;
            if let Some(stream) = &state.stream {
                let needed = stream.planner.oldest_needed();
                self.aggregator().forget_before(needed);
            }
            state.wake(Waiting::Chunk);
            free
        };
        self.let_go(free);
    }

    pub(super) fn attempt_failed(&self, id: SessionId, failure: &Failure) {
        let Some(outcome) = self.judge(id, failure) else {
            return;
        };
        // Said before the chunk goes on, because with it the stream may end.
        let encoder = || {
            lock(&self.state)
                .as_ref()
                .map(State::encoder_name)
                .unwrap_or_default()
        };
        match &outcome {
            Outcome::Anew { says: true } => self.warn_of_dropped_overlap(&encoder(), failure),
            Outcome::Join { says: true } => self.warn_of_joined_chunks(&encoder(), failure),
            _ => (),
        }
        self.conclude(id, failure, outcome);
    }

    /// What a failure comes to. The session keeps its chunk until that is carried out.
    fn judge<'a>(&self, id: SessionId, failure: &'a Failure) -> Option<Outcome<'a>> {
        let mut guard = lock(&self.state);
        let state = guard.as_mut()?;
        state.count_attempt(id, 0);
        let aggregator = self.aggregator();
        let made_packets = aggregator.has_made_packets(id);
        state.slots[id.0].works |= made_packets;
        let stream = state.stream.as_mut()?;
        if aggregator.is_proven() {
            stream.roster.prove();
        }
        let chunk = stream.roster.chunk_of(id)?;
        if stream.planner.has_let_go(chunk) || !aggregator.retract(chunk) {
            return Some(Outcome::Unrepeatable);
        }
        let side = match failure {
            Failure::Fault(fault) => fault.side(),
            _ => None,
        };
        let explained = side.is_some_and(|side| state.drop_overlap(id, side, aggregator));
        if explained || state.slots[id.0].replanned {
            let says = explained && !std::mem::replace(&mut state.overlap_warned, true);
            return Some(Outcome::Anew { says });
        }
        Some(match failure {
            Failure::Fault(Fault::Differs(_)) => Outcome::Later,
            Failure::Fault(Fault::StartNotKey(_)) if state.can_join(aggregator) => Outcome::Join {
                says: !std::mem::replace(&mut state.join_warned, true),
            },
            Failure::Unopened(why) => Outcome::Unopened(why),
            // Some encoders open what they encode with when the first frame comes.
            Failure::Posted(_) | Failure::Flow { .. } if !made_packets => {
                Outcome::Unopened(failure)
            }
            _ => Outcome::Failed,
        })
    }

    fn conclude(&self, id: SessionId, failure: &Failure, outcome: Outcome<'_>) {
        let mut guard = lock(&self.state);
        let Some(state) = guard.as_mut() else { return };
        let joins = matches!(outcome, Outcome::Join { .. });
        // Another session may have said so meanwhile.
        let joined = joins && (state.joined || state.join(self.aggregator()));
        let works = state.slots[id.0].works;
        let Some(stream) = &mut state.stream else {
            return;
        };
        let chunk = stream.roster.chunk_of(id);
        let later = chunk
            .filter(|_| matches!(outcome, Outcome::Later))
            .and_then(|chunk| Some((chunk, self.aggregator().begin_after_ahead(chunk)?)));
        let gone = later.map(|(chunk, start)| stream.begin_at(chunk, start));
        let roster = &mut stream.roster;
        let verdict = match outcome {
            Outcome::Join { .. } if !joined => roster.failed(id, true),
            Outcome::Later if gone.is_none() => roster.failed(id, true),
            Outcome::Anew { .. } | Outcome::Join { .. } | Outcome::Later => {
                roster.give_back(id);
                None
            }
            Outcome::Unopened(_) if works && roster.rest(id) => None,
            Outcome::Unopened(why) if !works && roster.close(id) => {
                gst::warning!(CAT, imp = self, "Session {id} is closed: {why}");
                state.slots[id.0].closed = true;
                state.closings.push((id, why.to_string()));
                None
            }
            Outcome::Unrepeatable => roster.failed(id, false),
            _ => roster.failed(id, true),
        };
        if verdict == Some(AfterFailure::Again) {
            state.tally.attempts_failed += 1;
        }
        state.wake(Waiting::Chunk);
        drop(guard);
        drop(gone);
        // A session less may be what the budget was waiting for.
        self.room.notify_all();
        match verdict {
            Some(AfterFailure::GiveUp(attempt)) => self.report_failure(id, attempt, failure),
            _ => gst::info!(
                CAT,
                imp = self,
                "Session {id}: its chunk begins anew: {failure}"
            ),
        }
    }

    /// The last attempt at a chunk failed, or the first one of all.
    pub(super) fn report_failure(&self, id: SessionId, attempt: Attempt, failure: &Failure) {
        match failure {
            Failure::Unopened(why) => self.report_failure(id, attempt, why),
            Failure::Posted(message) => {
                gst::error!(
                    CAT,
                    imp = self,
                    "Session {id}, chunk {}: {failure}",
                    attempt.chunk
                );
                self.fail_as_posted(id, message.clone());
            }
            Failure::Encoder(error) => self.fail(encoder_error(error)),
            _ => self.fail(gst::error_msg!(
                gst::StreamError::Encode,
                ("Chunk {} could not be encoded: {failure}", attempt.chunk),
                [
                    "session {id}, attempt {} of at most {MAX_ATTEMPTS}",
                    attempt.number
                ]
            )),
        }
    }

    /// All packets of the chunks before `next` have left, which are those of the frames before `end`.
    pub(crate) fn chunks_left(&self, next: ChunkId, end: FrameNo) {
        if let Some(state) = &mut *lock(&self.state) {
            state.keys.left(end);
            if let Some(stream) = &mut state.stream {
                stream.roster.left(next);
            }
            state.wake(Waiting::Chunk);
        }
    }
}
