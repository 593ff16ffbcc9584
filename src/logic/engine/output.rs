// SPDX-License-Identifier: MPL-2.0

//! What goes out: packets in order, with the events that stood before their frames.

use super::input::FrameTimes;
use super::{Engine, Media};
use crate::logic::early_start::EarlyStart;
use crate::logic::ids::{ChunkId, FrameNo};
use crate::logic::keys;
use crate::logic::pace::Stall;
use crate::logic::store::{Held, Kind, Left, Pop};
use crate::logic::timeline::DEEPEST;

/// What is sent next.
#[must_use]
pub enum Output<M: Media> {
    Send(Sending<M>),
    /// No packet follows these: the end of a stream or a segment, with what stood before it.
    Events(Vec<M::Event>),
    /// All that is good has left: say why the stream fails, and [fail](Engine::fail).
    Fail,
    /// Wait until it is woken, or until then: input may have [stopped](Engine::stalled).
    Wait(Option<u64>),
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
        if self.is_refused {
            // Downstream takes no more packets, but it waits for the end.
            return self.pop_end_alone();
        }
        loop {
            match self.stream.stores.pop() {
                Pop::Packet(left) => return Output::Send(self.sending(left)),
                Pop::ChunkDone(chunk) => {
                    self.stream.roster.next_to_send = chunk.next();
                    self.stream.forget_frames();
                    self.wake_takers();
                }
                Pop::Nothing if self.flow.is_none() && self.stream.roster.is_over() => {
                    return Output::Fail;
                }
                Pop::Nothing if self.flow.is_some() && self.stream.is_planned => {
                    return self.pop_end_alone();
                }
                Pop::Nothing => return self.pop_ends(),
            }
        }
    }

    /// Of what is still to be said, only the end of the stream is.
    fn pop_end_alone(&mut self) -> Output<M> {
        let is_eos = |(_, event): &(FrameNo, M::Event)| M::is_eos(event);
        let end = self.events.iter().position(is_eos);
        match end.and_then(|end| self.events.remove(end)) {
            Some((_, end)) => Output::Events(vec![end]),
            None => Output::Wait(None),
        }
    }

    /// A stream or a segment is over, and all packets before that have left: it is said at once, as no frame need come any more.
    fn pop_ends(&mut self) -> Output<M> {
        let held = self.stream.stores.oldest_held();
        let is_before = |before: FrameNo| held.is_none_or(|held| before <= held);
        let mut before = self.events.iter().take_while(|it| is_before(it.0));
        match before.position(|(_, event)| M::is_end(event)) {
            Some(end) => Output::Events(self.take_events(end + 1)),
            None => Output::Wait(self.deadline()),
        }
    }

    fn take_events(&mut self, count: usize) -> Vec<M::Event> {
        let taken = self.events.drain(..count);
        taken.map(|(_, event)| event).collect()
    }

    fn sending(&mut self, left: Left<M::Packet>) -> Sending<M> {
        let stream = &mut self.stream;
        let Held {
            frame,
            kind,
            payload,
        } = left.packet;
        // Stream headers stand before the chunk's first frame.
        let due = frame.or(stream.stores.oldest_held()).unwrap_or(FrameNo(0));
        let sent = frame.and_then(|number| {
            Some(SentFrame {
                number,
                private: stream.frames.private(number)?,
                times: stream.frames.get(number)?.times,
            })
        });
        let mut answers = Vec::new();
        if let Some(key) = sent.filter(|_| kind == Kind::Key) {
            stream.first_key = stream.first_key.or(key.times.running_time);
            while let Some(asked) = stream
                .asked
                .first_entry()
                .filter(|it| *it.key() <= key.number)
            {
                answers.append(&mut asked.remove());
            }
        }
        if kind != Kind::Invisible && frame.is_some() {
            self.tally.frames_out += 1;
        }
        let pushes = stream.early == EarlyStart::Pushing;
        let ends_early_start = pushes && stream.stores.has_sent_first();
        let opens = left.opens;
        let opens = opens.map(|depth| stream.opens(left.chunk, due, depth));
        let events = self.events.partition_point(|it| it.0 <= due);
        Sending {
            chunk: left.chunk,
            frame: sent,
            kind,
            packet: payload,
            opens,
            events: self.take_events(events),
            answers,
            ends_early_start,
        }
    }

    /// When input counts as stopped; `None`: it isn't watched, as nothing is under way, or nothing can be done about it.
    pub(super) fn deadline(&self) -> Option<u64> {
        let stream = &self.stream;
        // What was given is as it was given, and nobody waits for what comes of it but who sends the frames.
        let may_change = self.settings.given.is_none();
        let is_under_way = self.flow.is_none() && !stream.stores.is_empty() && !stream.ended;
        let is_under_way = is_under_way && may_change;
        stream.pace.deadline().filter(|_| is_under_way)
    }

    /// Time has passed: does something about input that has stopped.
    pub fn stalled(&mut self, now: u64) -> Stalled {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Stalled::No;
        }
        let stream = &mut self.stream;
        match stream.pace.stalls(now, stream.stores.leaves_early()) {
            Stall::LeaveEarly { chunks } => {
                stream.stores.leave_early(chunks, DEEPEST + 1);
                self.end_early_start();
                Stalled::LeavesEarly
            }
            Stall::GiveUpWithheld => {
                // All there is, even if that may give wrong DTS with an encoder that says nothing.
                stream.stores.leave_at_once();
                let cut = self.give_out();
                self.stream.impatient = true;
                self.wake_takers();
                self.wake_waiting_for_frames();
                Stalled::GivenOut { cut }
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
