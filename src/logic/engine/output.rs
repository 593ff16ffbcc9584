// SPDX-License-Identifier: MPL-2.0

//! What goes out: packets in order, with the events that stood before their frames.

use super::input::FrameTimes;
use super::{Engine, Freed, Lifecycle, Media};
use crate::logic::ids::{ChunkId, FrameNo};
use crate::logic::keys;
use crate::logic::pace::Stall;
use crate::logic::store::{Kind, Left, Pop};
use crate::logic::timeline::DEEPEST;

/// What is sent next.
#[must_use]
pub enum Output<M: Media> {
    Send(Sending<M>),
    /// No packet follows these: the end of a stream or a segment, with what stood before it.
    Events(Vec<M::Event>),
    /// Wait until it is woken, or until then: input may have [stopped](Engine::stalled).
    Wait {
        until: Option<u64>,
    },
    /// Rest until the next start or the end of the flush.
    Rest,
}

/// A packet, with all that the output wants to know of it.
pub struct Sending<M: Media> {
    pub chunk: ChunkId,
    /// `None`: stream headers.
    pub frame: Option<SentFrame>,
    pub kind: Kind,
    pub packet: M::Packet,
    /// It is the first one of its chunk.
    pub opens: Option<Opens>,
    /// What stood before its frame.
    pub events: Vec<M::Event>,
    /// The requests that this key frame answers.
    pub answers: Vec<keys::Request>,
    /// With it downstream has the [first packets](Engine::end_early_start).
    pub ends_early_start: bool,
}

/// The frame that a packet shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentFrame {
    pub number: FrameNo,
    /// In private time.
    pub private: u64,
    pub times: FrameTimes,
}

/// What is known of a chunk whose first packet is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opens {
    /// Its packets are reordered by so many.
    pub depth: usize,
    /// Private PTS of its first frames, one more than that, or as many as it has.
    pub first: Vec<u64>,
    /// Of its first frame.
    pub duration: Option<u64>,
}

/// What was done about input that has stopped.
#[must_use]
pub enum Stalled {
    /// It hasn't.
    No,
    /// Packets leave as they come now, for some chunks.
    LeavesEarly,
    /// What was withheld was given out. `cut`: the open chunk ends where it is.
    GivenOut { cut: bool },
}

impl<M: Media> Engine<M> {
    /// Takes what leaves next.
    pub fn pop(&mut self) -> Output<M> {
        if self.is_stopped || self.is_flushing {
            return Output::Rest;
        }
        if matches!(self.lifecycle, Lifecycle::Refused(_)) {
            // Downstream takes no more packets, but it waits for the end.
            return self.pop_end_alone();
        }
        loop {
            let Some(stream) = &mut self.stream else {
                return self.pop_ends();
            };
            if let Some(left) = stream.first.pop_front() {
                let is_last = stream.first.is_empty();
                return self.send(left, is_last);
            }
            match stream.stores.pop() {
                Pop::Packet(left) => return self.send(left, false),
                Pop::ChunkDone { chunk, end } => {
                    stream.roster.sent(chunk.next());
                    stream.keys.sent(end);
                    stream.forget_frames();
                    self.wake_takers();
                }
                Pop::Nothing if self.flow().is_some() => return self.pop_end_alone(),
                Pop::Nothing => return self.pop_ends(),
            }
        }
    }

    fn wait(&self) -> Output<M> {
        Output::Wait {
            until: self.deadline(),
        }
    }

    /// Of what is still to be said, only the end of the stream is.
    fn pop_end_alone(&mut self) -> Output<M> {
        let is_eos = |it: &super::Queued<M::Event>| it.kind == super::EventKind::Eos;
        let end = self.events.iter().position(is_eos);
        match end.and_then(|end| self.events.remove(end)) {
            Some(end) => {
                self.ends -= 1;
                Output::Events(vec![end.event])
            }
            None => Output::Wait { until: None },
        }
    }

    /// A stream or a segment is over, and all packets before that have left: it is said at once, as no frame need come any more.
    fn pop_ends(&mut self) -> Output<M> {
        if self.ends == 0 {
            return self.wait();
        }
        let stream = self.stream.as_ref();
        let held = stream.and_then(|stream| stream.stores.oldest_held());
        let held = held.unwrap_or(FrameNo(u64::MAX));
        let mut before = self.events.iter().take_while(|it| it.before <= held);
        match before.position(|it| it.kind.is_end()) {
            Some(end) => Output::Events(self.take_events(end + 1)),
            None => self.wait(),
        }
    }

    fn take_events(&mut self, count: usize) -> Vec<M::Event> {
        let taken = self.events.drain(..count);
        let mut ends = 0;
        let events = taken.map(|queued| {
            ends += usize::from(queued.kind.is_end());
            queued.event
        });
        let events = events.collect();
        self.ends -= ends;
        events
    }

    fn send(&mut self, left: Left<M::Packet>, ends_early_start: bool) -> Output<M> {
        let Left {
            chunk,
            frame,
            kind,
            payload,
            opens,
        } = left;
        let stream = self.stream.as_ref();
        // Stream headers stand before the chunk's first frame.
        let held = stream.and_then(|stream| stream.stores.oldest_held());
        let due = frame.or(held).unwrap_or(FrameNo(0));
        let count = self.events.partition_point(|it| it.before <= due);
        let events = if count > 0 {
            self.take_events(count)
        } else {
            Vec::new()
        };
        let mut sending = Sending {
            chunk,
            frame: None,
            kind,
            packet: payload,
            opens: None,
            events,
            answers: Vec::new(),
            ends_early_start,
        };
        let Some(stream) = &mut self.stream else {
            return Output::Send(sending);
        };
        sending.frame = frame.and_then(|number| {
            Some(SentFrame {
                number,
                private: stream.frames.private(number)?,
                times: stream.frames.get(number)?.times,
            })
        });
        sending.opens = opens.map(|depth| stream.opens(chunk, due, depth));
        if kind == Kind::Key
            && let Some(frame) = sending.frame
        {
            stream.first_key = stream.first_key.or(frame.times.running_time);
            let later = FrameNo(frame.number.0.saturating_add(1));
            if stream
                .asked
                .first_key_value()
                .is_some_and(|(asked, _)| *asked < later)
            {
                let later = stream.asked.split_off(&later);
                let answered = std::mem::replace(&mut stream.asked, later);
                sending.answers = answered.into_values().flatten().collect();
            }
        }
        if kind != Kind::Invisible && frame.is_some() {
            self.tally.frames_out += 1;
        }
        Output::Send(sending)
    }

    /// When input counts as stopped; `None`: it isn't watched, as nothing is under way, or nothing can be done about it.
    pub(super) fn deadline(&self) -> Option<u64> {
        let is_running = matches!(self.lifecycle, Lifecycle::Running);
        let stream = self.stream.as_ref().filter(|_| is_running)?;
        let is_under_way = !stream.stores.is_empty() && !stream.ended;
        stream.pace.deadline().filter(|_| is_under_way)
    }

    /// Time has passed: does something about input that has stopped.
    pub fn stalled(&mut self, now: u64) -> (Stalled, Freed<M>) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return (Stalled::No, Freed(Vec::new()));
        }
        let Some(stream) = &mut self.stream else {
            return (Stalled::No, Freed(Vec::new()));
        };
        match stream.pace.stalls(now, stream.stores.leaves_early()) {
            Stall::LeaveEarly { chunks } => {
                stream.stores.leave_early(chunks, DEEPEST + 1);
                (Stalled::LeavesEarly, self.end_early_start())
            }
            Stall::GiveUpWithheld => {
                // All there is, even if that may give wrong DTS with an encoder that says nothing.
                stream.stores.leave_at_once();
                stream.impatient = true;
                let closed = stream.chunker.give_out();
                let cut = closed.is_some();
                stream.close(closed);
                self.wake_waiting_for_frames();
                (Stalled::GivenOut { cut }, Freed(Vec::new()))
            }
        }
    }
}

impl<M: Media> super::Stream<M> {
    fn opens(&self, chunk: ChunkId, first: FrameNo, depth: usize) -> Opens {
        let own = self.stores.own(chunk);
        let frames = (first.0..).map(FrameNo).take(depth + 1);
        // No frame of the next chunk: whether that has come is chance.
        let frames = frames.take_while(|frame| own.is_none_or(|own| *frame < own.end));
        let entry = self.frames.get(first);
        Opens {
            depth,
            first: frames.map_while(|it| self.frames.private(it)).collect(),
            duration: entry.and_then(|entry| entry.times.duration),
        }
    }
}
