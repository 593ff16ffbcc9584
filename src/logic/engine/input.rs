// SPDX-License-Identifier: MPL-2.0

//! What comes in: frames, events, and requests for key frames.

use super::{Engine, Entry, Media, SessionState};
use crate::logic::chunker::{Bounds, Step};
use crate::logic::early_start::EarlyStart;
use crate::logic::ids::{ChunkId, FrameNo, SessionId};
use crate::logic::keys;
use crate::logic::scenes::Change;

/// A frame's times, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameTimes {
    /// In the stream's own time, as upstream gave it.
    pub pts: Option<u64>,
    pub duration: Option<u64>,
    pub running_time: Option<u64>,
}

/// What is said of a frame that comes in.
#[derive(Debug, Clone, Copy)]
pub struct Incoming {
    pub times: FrameTimes,
    /// Taken for its duration where that isn't known.
    pub assumed_duration: u64,
    /// What it holds of the budget.
    pub bytes: u64,
    /// The budget, as far as it isn't urgent.
    pub most_bytes: u64,
    /// What is new in it, where that was looked at.
    pub change: Option<Change>,
}

/// What becomes of a frame at the door.
#[must_use]
pub enum Admission<M: Media> {
    /// It was taken in.
    Taken,
    /// The budget is spent: come again with it when room was made.
    Full(M::Frame),
    /// A flush or a stop has begun.
    Flushing(M::Frame),
    /// The stream is over: only a flush or another stream begins anew.
    Ended(M::Frame),
    /// The stream has ended before its end.
    Halted(M::Frame, M::Flow),
}

impl<M: Media> Engine<M> {
    /// The frame before the next one is still held.
    pub fn holds_last(&self) -> bool {
        let next = self.stream.chunker.arrived;
        let last = next.0.checked_sub(1).map(FrameNo);
        let entry = last.and_then(|last| self.stream.frames.get(last));
        entry.is_some_and(|entry| entry.held.is_some())
    }

    /// A frame stands at the door.
    pub fn frame(&mut self, frame: M::Frame, incoming: &Incoming, now: u64) -> Admission<M> {
        if self.is_stopped || self.is_flushing {
            return Admission::Flushing(frame);
        }
        if let Some(flow) = self.flow {
            self.flow_returned = true;
            return Admission::Halted(frame, flow);
        }
        let stream = &mut self.stream;
        if stream.ended {
            return Admission::Ended(frame);
        }
        if stream.roster.doomed.is_some() {
            stream.pace.arrives(now);
            return Admission::Full(frame);
        }
        // Making a frame wait that the oldest chunk can't be finished without would be waiting for ourselves.
        let urgent = stream.chunker.is_starving();
        if !stream
            .budget
            .admit(incoming.bytes, incoming.most_bytes, urgent)
        {
            stream.pace.arrives(now);
            // Nobody could free anything by itself.
            self.recall_if_stuck();
            return Admission::Full(frame);
        }
        self.take_in(frame, incoming, now);
        Admission::Taken
    }

    /// Whoever stood at the door has gone, with a frame that was taken in or without.
    pub fn leave_door(&mut self) {
        self.stream.pace.leaves_door();
    }

    /// Upstream waits for us, and no frame comes for that.
    pub fn stand_at_door(&mut self, now: u64) {
        self.stream.pace.arrives(now);
    }

    /// An admitted frame comes in: numbered, stamped, given to its chunk.
    fn take_in(&mut self, mut frame: M::Frame, incoming: &Incoming, now: u64) {
        let stream = &mut self.stream;
        let times = incoming.times;
        let duration = times.duration.unwrap_or(incoming.assumed_duration);
        let private = stream.clock.stamp(times.running_time, duration);
        M::stamp(&mut frame, private);
        let number = stream.chunker.arrived;
        let due = stream.keys.due(times.running_time);
        if due.forces {
            let closed = stream.chunker.split();
            stream.bound(closed);
        }
        if !due.requests.is_empty() {
            stream.asked.entry(number).or_default().extend(due.requests);
        }
        stream.frames.push(
            private,
            Entry {
                times,
                bytes: incoming.bytes,
                force_key: due.forces,
                is_key: due.forces,
                held: Some(frame),
            },
        );
        let begins = stream.pace.taken(now);
        let step = stream.chunker.frame(incoming.change, due.forces);
        // One may have been resumed where no frame had come.
        let is_resumed = stream.chunker.open_start() == Some(number);
        self.count_in(now);
        let opens = self.carry_out(step);
        if opens || is_resumed {
            self.wake_takers();
        }
        // The output begins to watch the input.
        self.wakes.output |= begins || opens;
        self.wake_waiting_for_frames();
    }

    /// Chunks ended and began. `true`: one began.
    fn carry_out(&mut self, Step { closed, opened }: Step) -> bool {
        let stream = &mut self.stream;
        stream.bound(closed);
        stream.bound(opened);
        let Some(Bounds { id, own }) = opened else {
            return false;
        };
        stream.impatient = false;
        if let Some(first) = stream.frames.get_mut(own.start) {
            first.is_key = true;
        }
        stream.roster.offer(id, 1);
        self.tally.chunks_planned += 1;
        true
    }

    /// What waits for more frames gets what there is. `true`: a chunk ended for that.
    pub(super) fn give_out(&mut self) -> bool {
        let steps = self.stream.chunker.give_out();
        let any = !steps.is_empty();
        self.carry_out_all(steps);
        any
    }

    fn carry_out_all(&mut self, steps: impl IntoIterator<Item = Step>) {
        for step in steps {
            self.carry_out(step);
        }
    }

    /// Wakes the sessions that wait for a frame.
    pub(super) fn wake_waiting_for_frames(&mut self) {
        for (id, session) in self.sessions.iter().enumerate() {
            if session.waits_for_frame() {
                self.wakes.session(SessionId(id));
            }
        }
    }

    /// The chunk ends here: what follows has other caps or another segment, or doesn't follow.
    pub fn cut(&mut self) {
        let steps = self.stream.chunker.cut();
        self.carry_out_all(steps);
        self.wake_takers();
        self.wake_waiting_for_frames();
    }

    /// No frame comes any more until another stream begins.
    pub fn end(&mut self) {
        self.cut();
        self.stream.ended = true;
    }

    /// Another stream begins, perhaps after the end of the last one.
    pub fn begin_another(&mut self) {
        self.cut();
        self.stream.ended = !self.stream.is_planned;
    }

    /// A serialized event stands before the next frame.
    pub fn event(&mut self, event: M::Event) {
        self.wakes.output |= M::is_end(&event);
        let before = self.stream.chunker.arrived;
        self.events.push_back((before, event));
    }

    /// Sticky events that a flush kept from being sent go first after it.
    pub fn put_back(&mut self, events: Vec<M::Event>) {
        for event in events.into_iter().rev() {
            self.events.push_front((FrameNo(0), event));
        }
    }

    /// Upstream asks for a key frame. `key_interval`: the least time between two that are asked for.
    pub fn ask_for_key(&mut self, request: keys::Request, key_interval: u64) {
        self.stream.keys.interval = key_interval;
        self.stream.keys.ask(request);
    }

    /// Downstream asks for a key frame. Frames are taken in long before they leave: as long as that frame's chunk isn't finished, it is
    /// forced there, if need be in another attempt at the chunk; otherwise the next key frame answers. Those that are going to be
    /// asked for next are made with it. `frame_duration`: of one frame, as far as it is known.
    pub fn request_key(&mut self, request: keys::Request, key_interval: u64, frame_duration: u64) {
        self.stream.keys.interval = key_interval;
        if let Some(time) = request.time {
            self.force_key_at(time);
        }
        let stream = &mut self.stream;
        match request.time.and_then(|time| stream.next_key(time)) {
            Some(frame) => stream.asked.entry(frame).or_default().push(request),
            None => stream.keys.ask(request),
        }
        if let Some(time) = request.time {
            for expected in stream.expect_after(time, frame_duration) {
                self.force_key_at(expected);
            }
        }
    }

    /// Makes a key frame of the first frame that was taken in and is shown at this running time or later, unless it is one or it is too
    /// late for that.
    pub(super) fn force_key_at(&mut self, time: u64) {
        let stream = &self.stream;
        let Some(frame) = stream.frames.first_from(stream.clock.private(time)) else {
            return;
        };
        let entry = stream.frames.get(frame);
        if entry.is_none_or(|entry| entry.is_key || entry.held.is_none()) {
            return;
        }
        let Some(owner) = stream.chunker.owner(frame) else {
            return;
        };
        let was_fed = stream.verified.contains_key(&owner) || self.position_in(owner) > Some(frame);
        if was_fed && !(self.settings.forces_keys && self.begin_anew(owner)) {
            return;
        }
        self.stream.late_keys += 1;
        if let Some(entry) = self.stream.frames.get_mut(frame) {
            entry.force_key = true;
            entry.is_key = true;
        }
    }

    /// What was made of the chunk is thrown away, and it begins anew. `false`: some of it was sent, and couldn't be made again.
    pub(super) fn begin_anew(&mut self, chunk: ChunkId) -> bool {
        let stream = &mut self.stream;
        // With another key frame it would come out otherwise than what was sent.
        if stream.stores.has_begun_to_leave(chunk) || !stream.stores.retract(chunk) {
            return false;
        }
        if stream.verified.remove(&chunk).is_some() {
            stream.roster.offer(chunk, 1);
            self.wake_takers();
        }
        self.recall(chunk);
        true
    }

    /// Who works at the chunk gives it back, to begin it anew.
    pub(super) fn recall(&mut self, chunk: ChunkId) {
        for (id, session) in self.sessions.iter_mut().enumerate() {
            if let Some(work) = session.work.as_mut().filter(|work| work.chunk == chunk) {
                work.replanned = true;
                self.wakes.session(SessionId(id));
            }
        }
    }

    /// Frames can't come in or aren't needed, the oldest chunk is in nobody's hands, and nobody can take it, as all sessions wait for frames: the one
    /// with the newest chunk gives it back.
    pub(super) fn recall_if_stuck(&mut self) {
        let stream = &self.stream;
        let oldest = stream.chunker.oldest();
        let waiting = oldest.filter(|oldest| stream.roster.waiting.contains_key(oldest));
        // One of which all is there can be encoded whether frames come or not.
        let is_complete = waiting.and_then(|oldest| stream.chunker.complete(oldest));
        let is_stuck = is_complete.is_some() || stream.pace.is_at_door();
        if waiting.is_none() || !is_stuck {
            return;
        }
        let mut newest = None;
        for (id, session) in self.sessions.iter().enumerate() {
            // Another one takes the place of a session that was abandoned.
            let is_replaced = session.state == SessionState::Abandoned;
            if session.waits_for_frame() {
                newest = newest.max(session.work.as_ref().map(|work| work.chunk));
            } else if is_replaced || !stream.roster.is_out(SessionId(id)) {
                return;
            }
        }
        if let Some(newest) = newest {
            self.recall(newest);
        }
    }

    /// Frames of a chunk that is over for what was sent of it go: it begins with `start`.
    pub(super) fn resume(&mut self, chunk: ChunkId, start: FrameNo) {
        self.stream.account_for_sent(chunk);
        self.stream.stores.resume(chunk, start);
        let gone = self.stream.chunker.begin_at(chunk, start);
        self.stream.let_go(&gone);
    }
}

impl<M: Media> super::Stream<M> {
    /// A chunk begins, or it is known where it ends.
    pub(super) fn bound(&mut self, chunk: Option<Bounds>) {
        if let Some(Bounds { id, own }) = chunk {
            self.stores.set_own(id, own);
        }
    }

    /// The first frame shown at this running time or later that is going to be a key frame and wasn't sent.
    pub(super) fn next_key(&self, time: u64) -> Option<FrameNo> {
        let unsent = self.stores.oldest_held()?;
        let mut frames = self.frames.from(self.clock.private(time));
        let (frame, _) = frames.find(|(frame, entry)| *frame >= unsent && entry.is_key)?;
        Some(frame)
    }

    /// A request for `time` came: moments in what was taken in for which the next requests are to be expected.
    fn expect_after(&mut self, time: u64, frame_duration: u64) -> Vec<u64> {
        // What is held, and what was encoded and waits to leave.
        let plan = &self.chunker.plan;
        let waiting = plan.longest().saturating_mul(self.roster.window());
        let depth = frame_duration.saturating_mul(plan.capacity_frames.saturating_add(waiting));
        let least = frame_duration.saturating_mul(plan.min_frames);
        let first = self.first_key.filter(|_| self.early != EarlyStart::Off);
        let until = self.clock.after_last();
        let least = least.max(self.keys.interval);
        self.keys.expect(time, first, least, depth, until)
    }
}
