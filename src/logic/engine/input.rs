// SPDX-License-Identifier: MPL-2.0

//! What comes in: frames, events, and requests for key frames.

use super::{Engine, Entry, Freed, Media, Queued, SessionState};
use crate::logic::budget;
use crate::logic::chunker::{Closing, Opening, Verdict};
use crate::logic::ids::{ChunkId, FrameNo, SessionId};
use crate::logic::keys;

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
    /// The least time between two key frames that are asked for.
    pub key_interval: u64,
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
    /// The number that the next frame gets.
    pub fn next_frame(&self) -> FrameNo {
        let stream = self.stream.as_ref();
        stream.map_or(FrameNo(0), |stream| stream.chunker.next_frame())
    }

    /// The frame before the next one is still held.
    pub fn holds_last(&self) -> bool {
        let last = self.next_frame().0.checked_sub(1).map(FrameNo);
        let stream = self.stream.as_ref().zip(last);
        stream.is_some_and(|(stream, last)| {
            let entry = stream.frames.get(last);
            entry.is_some_and(|entry| entry.held.is_some())
        })
    }

    /// A frame stands at the door.
    pub fn frame(&mut self, frame: M::Frame, incoming: &Incoming, now: u64) -> Admission<M> {
        if self.is_stopped || self.is_flushing {
            return Admission::Flushing(frame);
        }
        if let Some(flow) = self.flow() {
            self.flow_returned = true;
            return Admission::Halted(frame, flow);
        }
        let Some(stream) = &mut self.stream else {
            return Admission::Flushing(frame);
        };
        if stream.ended {
            return Admission::Ended(frame);
        }
        // Making a frame wait that the oldest chunk can't be finished without would be waiting for ourselves.
        let urgent = stream.chunker.is_starving();
        if stream.budget.admit(incoming.bytes, urgent) == budget::Admission::Full {
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
        if let Some(stream) = &mut self.stream
            && stream.pace.is_at_door()
        {
            stream.pace.interrupted();
        }
    }

    /// Upstream waits for us, and no frame comes for that.
    pub fn stand_at_door(&mut self, now: u64) {
        if let Some(stream) = &mut self.stream {
            stream.pace.arrives(now);
        }
    }

    /// An admitted frame comes in: numbered, stamped, given to its chunk.
    fn take_in(&mut self, mut frame: M::Frame, incoming: &Incoming, now: u64) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let times = incoming.times;
        let duration = times.duration.unwrap_or(incoming.assumed_duration);
        let private = stream.clock.stamp(times.running_time, duration);
        M::stamp(&mut frame, private);
        let number = stream.chunker.next_frame();
        let due = stream.keys.due(times.running_time, incoming.key_interval);
        if due.forces {
            let closed = stream.chunker.split();
            stream.close(closed);
            stream.keys.comes(number, private);
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
                held: Some(frame),
            },
        );
        let begins = stream.pace.taken(now);
        self.tally.frames_in += 1;
        let (closed, opened) = match stream.chunker.frame() {
            Verdict::Continues => (None, None),
            Verdict::Opens(opened) => (None, Some(opened)),
            Verdict::Splits { closed, opened } => (Some(closed), Some(opened)),
        };
        stream.close(closed);
        let opens = opened.is_some();
        let mut offers = std::mem::take(&mut stream.awaits_rest);
        if let Some(Opening { id, start }) = opened {
            stream.stores.open(id, start);
            stream.impatient = false;
            let private = stream.private(start);
            stream.keys.comes(start, private);
            stream.roster.offer(id, 1);
            self.tally.chunks_planned += 1;
            offers = true;
        }
        if offers {
            self.wake_takers();
        }
        self.wake_waiting_for_frames();
        // The output begins to watch the input.
        self.wakes.output |= begins || opens;
    }

    /// Wakes the sessions that wait for a frame.
    pub(super) fn wake_waiting_for_frames(&mut self) {
        let Self {
            sessions, wakes, ..
        } = self;
        for (id, session) in sessions.iter().enumerate() {
            if session.waits_for_frame() {
                wakes.session(SessionId(id));
            }
        }
    }

    /// The chunk ends here: what follows has other caps or another segment, or doesn't follow.
    pub fn cut(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let closed = stream.chunker.cut();
        stream.close(closed);
        if std::mem::take(&mut stream.awaits_rest) {
            self.wake_takers();
        }
        self.wake_waiting_for_frames();
    }

    /// No frame comes any more until another stream begins.
    pub fn end(&mut self) {
        self.cut();
        if let Some(stream) = &mut self.stream {
            stream.ended = true;
        }
    }

    /// Another stream begins, perhaps after the end of the last one.
    pub fn begin_another(&mut self) {
        self.cut();
        if let Some(stream) = &mut self.stream {
            stream.ended = false;
        }
    }

    /// A serialized event stands before the next frame.
    pub fn event(&mut self, event: M::Event) {
        let kind = M::kind(&event);
        self.ends += usize::from(kind.is_end());
        self.wakes.output |= kind.is_end();
        self.events.push_back(Queued {
            before: self.next_frame(),
            kind,
            event,
        });
    }

    /// Upstream asks for a key frame.
    pub fn ask_for_key(&mut self, request: keys::Request) {
        if let Some(stream) = &mut self.stream {
            stream.keys.ask(request);
        }
    }

    /// Downstream asks for a key frame. Frames are taken in long before they leave: as long as that frame's chunk isn't finished, it is
    /// forced there, if need be in another attempt at the chunk; otherwise the next key frame answers. Those that are going to be
    /// asked for next are made with it. `frame_duration`: of one frame, as far as it is known.
    pub fn request_key(&mut self, request: keys::Request, key_interval: u64, frame_duration: u64) {
        let frame = request.time.and_then(|time| self.first_shown_at(time));
        let answer = match frame {
            // Its frame hasn't come, or it is gone: was it a key frame that wasn't sent?
            None => request.time.and_then(|time| self.known_at(time)),
            Some(frame) if self.is_known_key(frame) || self.force_late(frame) => Some(frame),
            Some(frame) => self.next_known(frame),
        };
        let expected = self.expected_after(request, key_interval, frame_duration);
        let Some(stream) = &mut self.stream else {
            return;
        };
        match answer {
            Some(frame) => stream.asked.entry(frame).or_default().push(request),
            None => stream.keys.ask(request),
        }
        for time in expected {
            let frame = self.first_shown_at(time);
            if let Some(frame) = frame.filter(|frame| !self.is_known_key(*frame)) {
                self.force_late(frame);
            }
        }
    }

    /// The first frame that was taken in and is shown at this running time, or after it.
    fn first_shown_at(&self, time: u64) -> Option<FrameNo> {
        let stream = self.stream.as_ref()?;
        stream.frames.first_from(stream.clock.private(time))
    }

    fn known_at(&self, time: u64) -> Option<FrameNo> {
        let stream = self.stream.as_ref()?;
        stream.keys.known_at(stream.clock.private(time))
    }

    fn next_known(&self, frame: FrameNo) -> Option<FrameNo> {
        self.stream.as_ref()?.keys.next_known(frame)
    }

    fn is_known_key(&self, frame: FrameNo) -> bool {
        self.next_known(frame) == Some(frame)
    }

    /// Moments in what was taken in for which the next requests are to be expected.
    fn expected_after(
        &mut self,
        request: keys::Request,
        key_interval: u64,
        frame_duration: u64,
    ) -> Vec<u64> {
        let (Some(stream), Some(time)) = (&mut self.stream, request.time) else {
            return Vec::new();
        };
        // What is held, and what was encoded and waits to leave.
        let plan = *stream.chunker.plan();
        let waiting = plan.length.longest().saturating_mul(stream.roster.window());
        let depth = frame_duration.saturating_mul(plan.capacity_frames.saturating_add(waiting));
        let least = frame_duration.saturating_mul(plan.min_frames);
        let first = stream.first_key.filter(|_| stream.early.is_on());
        let until = stream.clock.after_last();
        let least = least.max(key_interval);
        stream.keys.expect(time, first, least, depth, until)
    }

    /// Forces a key frame at a frame that was taken in. `false`: it is too late for that.
    fn force_late(&mut self, frame: FrameNo) -> bool {
        let Some(stream) = &self.stream else {
            return false;
        };
        let Some(owner) = stream.chunker.owner(frame) else {
            return false;
        };
        let entry = stream.frames.get(frame);
        if entry.is_none_or(|entry| entry.held.is_none()) {
            return false;
        }
        let was_fed = stream.verified.contains_key(&owner) || self.position_in(owner) > Some(frame);
        if was_fed && !(self.settings.forces_keys && self.begin_anew(owner)) {
            return false;
        }
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let private = stream.private(frame);
        stream.keys.comes(frame, private);
        stream.late_keys += 1;
        if let Some(entry) = stream.frames.get_mut(frame) {
            entry.force_key = true;
        }
        true
    }

    /// What was made of the chunk is thrown away, and it begins anew. `false`: some of it was sent, and couldn't be made again.
    pub(super) fn begin_anew(&mut self, chunk: ChunkId) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
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
        let Self {
            sessions, wakes, ..
        } = self;
        for (id, session) in sessions.iter_mut().enumerate() {
            if let Some(work) = session.work.as_mut().filter(|work| work.chunk == chunk) {
                work.replanned = true;
                wakes.session(SessionId(id));
            }
        }
    }

    /// Frames can't come in, the oldest chunk is in nobody's hands, and nobody can take it, as all sessions wait for frames: the one
    /// with the newest chunk gives it back.
    pub(super) fn recall_if_stuck(&mut self) {
        let Some(stream) = self.stream.as_ref().filter(|it| it.pace.is_at_door()) else {
            return;
        };
        let Some(oldest) = stream.chunker.oldest() else {
            return;
        };
        let mut newest = None;
        for (id, session) in self.sessions.iter().enumerate() {
            let is_out = stream.roster.is_out(SessionId(id));
            // Another one takes the place of a session that was abandoned.
            let is_replaced = session.state == SessionState::Abandoned;
            if session.waits_for_frame() {
                newest = newest.max(session.work.as_ref().map(|work| work.chunk));
            } else if !is_out || is_replaced {
                return;
            }
        }
        if stream.roster.is_waiting(oldest)
            && let Some(newest) = newest
        {
            self.recall(newest);
        }
    }

    /// Sticky events that a flush kept from being sent go first after it.
    pub fn put_back(&mut self, events: Vec<M::Event>) {
        for event in events.into_iter().rev() {
            let kind = M::kind(&event);
            self.ends += usize::from(kind.is_end());
            self.events.push_front(Queued {
                before: FrameNo(0),
                kind,
                event,
            });
        }
    }

    /// Frames of a chunk that is over for what was sent of it go: it begins with `start`.
    pub(super) fn resume(&mut self, chunk: ChunkId, start: FrameNo) -> Freed<M> {
        let mut freed = Vec::new();
        if let Some(stream) = &mut self.stream {
            stream.stores.resume(chunk, start);
            let ranges = stream.chunker.begin_at(chunk, start);
            stream.let_go(&ranges, &mut freed);
            stream.awaits_rest = stream.chunker.next_frame() <= start;
            self.releasing += usize::from(!freed.is_empty());
        }
        Freed(freed)
    }
}

impl<M: Media> super::Stream<M> {
    pub(super) fn close(&mut self, closed: Option<Closing>) {
        if let Some(Closing { id, own }) = closed {
            self.stores.close(id, own);
        }
    }
}
