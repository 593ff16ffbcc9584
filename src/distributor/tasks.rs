// SPDX-License-Identifier: MPL-2.0

//! The sessions' tasks: which chunk, which frame, and what becomes of an attempt.

use super::imp::{CAT, Distributor};
use super::state::{Progress, Stage, State, Waiting};
use crate::locking::{lock, wait, wait_timeout};
use crate::logic::frame::{Chunk, ChunkId, FrameNo, SessionId};
use crate::logic::reorder::Delivered;
use crate::logic::roster::Attempt;
use crate::pad_task;
use crate::panics::{self, may_panic};
use crate::session::cached::Content;
use crate::session::{Failure, Session, Step, Work};
use gst::prelude::*;
use gst::subclass::prelude::*;
use std::sync::{Arc, Condvar, MutexGuard};
use std::time::{Duration, Instant};

/// So long downstream may take to accept the first packets before whole chunks stop waiting for it.
const HERALD_TIMEOUT: Duration = Duration::from_secs(1);

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
                panics::pad_function(
                    parent,
                    "starting or stopping a session",
                    || pad_task::activated_in_vain(pad, active),
                    |this: &Self| this.src_activatemode(pad, id, mode, active),
                )
            })
            .event_function(|_, parent, event| {
                panics::pad_function(
                    parent,
                    "event from an encoder",
                    || false,
                    |this: &Self| this.src_event(event),
                )
            })
            .query_function(|pad, parent, query| {
                panics::pad_function(
                    parent,
                    "query from an encoder",
                    || false,
                    |this: &Self| this.src_query(pad, query),
                )
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
                // Here, because the pad may have left its element.
                panics::caught(
                    &*this,
                    "a session's task",
                    || this.give_up_attempt(id),
                    || this.run(id),
                );
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
        may_panic!("session-begins");
        let result = session.run(self, self.aggregator(), &work);
        if !self.has_returned(&session) {
            may_panic!("session-comes-back");
            bury(session);
            return;
        }
        match result {
            Ok(()) => gst::debug!(CAT, imp = self, "Session {id}: chunk {chunk} done"),
            Err(Failure::Aborted | Failure::Downstream) => {
                gst::debug!(CAT, imp = self, "Session {id}: chunk {chunk} aborted");
            }
            Err(failure) => self.attempt_failed(id, &failure),
        }
        self.aggregator().leave(id);
        self.comes_to_rest(&session);
    }

    /// The session's task panicked, which has closed its encoder. It has no attempt any more, and nobody waits for it; it rests until
    /// the next start or the end of a flush.
    fn give_up_attempt(&self, id: SessionId) {
        let Some(session) = self.session(id) else {
            return;
        };
        let or_not = |act: &dyn Fn()| panics::caught(self, "a session after a panic", || (), act);
        // One that still waits for its first chunk has told its caps, which are forgotten with this attempt. While the watch sees it.
        or_not(&|| session.clear_in_task());
        if !self.has_returned(&session) {
            or_not(&|| bury(session.clone()));
            return;
        }
        let _ = session.src.pause_task();
        or_not(&|| self.aggregator().leave(id));
        if let Some(state) = &mut *lock(&self.state) {
            state.slots[id.0].waiting = Waiting::Nothing;
        }
        self.comes_to_rest(&session);
    }

    /// The session's encoder is closed, whatever it has made. `false`: nobody has waited for that.
    fn has_returned(&self, session: &Session) -> bool {
        let mut state = lock(&self.state);
        if session.standing.is_left() {
            return false;
        }
        if let Some(state) = state.as_mut() {
            state.slots[session.id.0].progress.stage = Stage::Returned;
        }
        true
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
            if state.slots[id.0].gone {
                return None;
            }
            let recipe = state.recipe.clone();
            let taken = state.stream.as_mut().and_then(|stream| {
                let attempt = stream.roster.take(id)?;
                let first = stream.planner.first_fed(attempt.chunk)?;
                Some((attempt, first, stream.planner.lets_go()))
            });
            let slot = &mut state.slots[id.0];
            slot.waiting = Waiting::Chunk;
            may_panic!("session-takes-chunk-locked");
            if let Some((attempt, first, lets_go)) = taken {
                slot.waiting = Waiting::Nothing;
                slot.at_work = true;
                slot.progress = Progress::new(Some(attempt.chunk), first);
                let work = Work {
                    chunk: attempt.chunk,
                    is_whole: state.joined,
                    lets_go,
                    first,
                    input: state.input(attempt.chunk)?,
                    recipe: recipe?,
                    cache: state.cache.clone(),
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
        session: &Session,
        chunk: ChunkId,
        position: FrameNo,
    ) -> Result<Step, Failure> {
        self.wait_as(session, Waiting::Frame, |state| {
            let step = state.step(chunk, position)?;
            let progress = &mut state.slots[session.id.0].progress;
            progress.position = FrameNo(position.0 + 1);
            progress.drains = matches!(step, Step::Drain(_));
            Some(step)
        })
    }

    /// Waits until all of the session's chunk is there, which then counts as fed. `None`: it isn't waited for.
    pub(crate) fn content(
        &self,
        session: &Session,
        chunk: ChunkId,
    ) -> Result<Option<Content>, Failure> {
        self.wait_as(session, Waiting::Frame, |state| {
            let Some(content) = state.content(chunk) else {
                return state.is_uncached(chunk).then_some(None);
            };
            state.slots[session.id.0].progress.position = content.chunk.fed.end;
            Some(Some(content))
        })
    }

    /// The session reads from the cache or writes to it, with its chunk delivered or not: a disk may hang as well as an encoder.
    pub(crate) fn on_disk(&self, session: &Session, on_disk: bool, is_delivered: bool) {
        let mut state = lock(&self.state);
        if let Some(state) = state.as_mut().filter(|_| !session.standing.is_left()) {
            state.slots[session.id.0].progress.stage = match (on_disk, is_delivered) {
                (true, _) => Stage::OnDisk,
                (false, true) => Stage::Returned,
                (false, false) => Stage::Encodes,
            };
        }
    }

    /// The chunk is still what it was when it was looked up.
    pub(crate) fn is_still(&self, chunk: ChunkId, content: &Content) -> bool {
        let state = lock(&self.state);
        let now = state.as_ref().and_then(|state| state.content(chunk));
        now.is_some_and(|now| now.is_same(content))
    }

    /// The chunk that counts as fed is fed after all.
    pub(crate) fn feed_from(&self, session: &Session, first: FrameNo) {
        let mut state = lock(&self.state);
        if let Some(state) = state.as_mut().filter(|_| !session.standing.is_left()) {
            state.slots[session.id.0].progress.position = first;
        }
    }

    /// A session has fed its chunk up to, not including, `position`: where there is no other attempt, these frames go.
    pub(crate) fn fed(&self, session: &Session, chunk: ChunkId, position: FrameNo) {
        // Whoever comes back late means another stream's chunk, and one that begins anew needs them again.
        let free = lock(&self.state)
            .as_mut()
            .filter(|_| !session.standing.is_left())
            .filter(|state| !state.slots[session.id.0].progress.replanned)
            .map(|state| state.fed(self.aggregator(), chunk, position));
        if free.is_some_and(|free| !free.is_empty()) {
            self.room.notify_all();
        }
    }

    /// The session's chunk, once all that it owns was delivered: what is left of its trail needn't be encoded.
    pub(crate) fn cut_short(&self, session: &Session, chunk: ChunkId) -> Option<Chunk> {
        let state = lock(&self.state);
        let state = state.as_ref().filter(|_| !session.standing.is_left())?;
        let position = state.slots[session.id.0].progress.position;
        if !self.aggregator().is_whole(session.id) {
            return None;
        }
        state.stream.as_ref()?.planner.cut_short(chunk, position)
    }

    /// Waits until the session's encoder has sent its EOS.
    pub(crate) fn wait_for_eos(&self, session: &Session) -> Result<(), Failure> {
        self.wait_as(session, Waiting::Eos, |state| {
            state.slots[session.id.0].progress.ended.then_some(())
        })
    }

    pub(super) fn wait_as<R>(
        &self,
        session: &Session,
        waiting: Waiting,
        mut ready: impl FnMut(&mut State) -> Option<R>,
    ) -> Result<R, Failure> {
        let id = session.id;
        let mut guard = lock(&self.state);
        let result = loop {
            if session.standing.is_left() {
                // Another one may have its number.
                return Err(Failure::Aborted);
            }
            let Some(state) = guard.as_mut().filter(|state| !state.is_aborting()) else {
                break Some(Err(Failure::Aborted));
            };
            if state.slots[id.0].progress.replanned {
                break Some(Err(Failure::Replanned));
            }
            if state.slots[id.0].progress.error.is_some() {
                break None;
            }
            if let Some(result) = ready(state) {
                break Some(Ok(result));
            }
            let slot = &mut state.slots[id.0];
            slot.waiting = waiting;
            if state.is_stuck() {
                self.room.notify_all();
            }
            guard = self.wait(&session.wake, guard);
        };
        // Else what it does next, closing its encoder, would count as waiting.
        if let Some(state) = guard.as_mut() {
            state.slots[id.0].waiting = Waiting::Nothing;
        }
        drop(guard);
        // A fault says more than the error that it led to.
        result.unwrap_or_else(|| Err(self.failure(session).unwrap_or(Failure::Aborted)))
    }

    /// The session's encoder has sent EOS.
    pub(crate) fn encoder_ended(&self, id: SessionId) {
        let mut state = lock(&self.state);
        if let Some(slot) = state.as_mut().and_then(|state| state.slots.get_mut(id.0)) {
            slot.progress.ended = true;
            slot.session.wake.notify_all();
        }
    }

    pub(crate) fn has_ended(&self, session: &Session) -> bool {
        let state = lock(&self.state);
        let slot = state
            .as_ref()
            .and_then(|state| state.slots.get(session.id.0));
        !session.standing.is_left() && slot.is_some_and(|slot| slot.progress.ended)
    }

    /// The session's chunk is whole, whatever becomes of its encoder when that is closed.
    pub(crate) fn verified(
        &self,
        session: &Session,
        chunk: Chunk,
        delivered: Delivered,
        from_cache: bool,
    ) {
        let mut state = lock(&self.state);
        if let Some(state) = state.as_mut().filter(|_| !session.standing.is_left()) {
            let progress = &mut state.slots[session.id.0].progress;
            progress.stage = Stage::Whole(chunk, delivered);
            progress.from_cache = from_cache;
        }
    }

    /// The session's chunk is whole, and its encoder closed.
    pub(crate) fn delivered(
        &self,
        session: &Session,
        chunk: Chunk,
        delivered: Delivered,
    ) -> Result<(), Failure> {
        if !self.has_returned(session) {
            return Err(Failure::Aborted);
        }
        self.take_delivered(session.id, chunk, delivered)
    }

    /// A chunk is whole: its frames go, its packets may leave.
    pub(super) fn take_delivered(
        &self,
        id: SessionId,
        chunk: Chunk,
        delivered: Delivered,
    ) -> Result<(), Failure> {
        gst::debug!(CAT, imp = self, "Session {id}: {chunk}, {delivered:?}");
        let mut guard = lock(&self.state);
        let Some(state) = guard.as_mut().filter(|state| !state.is_aborting()) else {
            return Err(Failure::Aborted);
        };
        if state.slots[id.0].progress.replanned {
            return Err(Failure::Replanned);
        }
        state.count_attempt(id, chunk.fed.len());
        state.slots[id.0].works = true;
        state.tally.chunks_from_cache += u64::from(state.slots[id.0].progress.from_cache);
        let free = state.delivered(self.aggregator(), id, chunk.id, delivered);
        state.releasing += 1;
        may_panic!("session-delivers-locked");
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

/// A session that nobody waits for has come back after all. (Its task can't wait for itself.)
fn bury(session: Arc<Session>) {
    let _ = session.src.pause_task();
    let thread = std::thread::Builder::new().name("vtparallelenc-bury".to_string());
    let _ = thread.spawn(move || session.bury_or_tell());
}
