// SPDX-License-Identifier: MPL-2.0

//! All brains as one machine: the only thing behind the lock.
//!
//! ```text
//!  input:    frame ─► budget ─► table, clock ─► keys ─► chunker ─► chunks
//!  sessions: take ─► roster;  next ─► chunker;  packet ─► store;  ended ─► verdict
//!  output:   pop ─► store ─► packets in order, with the events before them
//! ```
//!
//! Each part of the element calls it under the lock and carries out what it returns outside. Nothing waits in here. A call that
//! can't be answered yet says so, and [`Wakes`] says whom a later call answers.
//!
//! Whatever a session does is done for an [`AttemptId`]. One that is over is ignored: a session that was given up can do no harm,
//! however late it comes back.
//!
//! Times are nanoseconds. `now` is of one clock that never goes back; others are private time (`timeline`), running time, or the
//! stream's own, as said.

mod abandonment;
mod deliveries;
mod endings;
mod input;
mod output;
mod sessions;
mod verdict;

#[cfg(test)]
mod tests;

use super::budget::Budget;
use super::chunker::Chunker;
use super::early_start::EarlyStart;
use super::ids::{AttemptId, ChunkId, FrameNo, FrameRange, SessionId};
use super::keys::{self, KeyRequests};
use super::liveness::Liveness;
use super::pace::Pace;
use super::plan::Plan;
use super::roster::Roster;
use super::store::{Delivered, Payload, Stores};
use super::tally::Tally;
use super::timeline::{FrameTable, PrivateClock};
pub use abandonment::{Abandoned, Doing};
pub use deliveries::{Accepted, PacketTimes, Refused};
pub use endings::{Again, Consequence, FailedAttempt, Report};
pub use input::{Admission, FrameTimes, Incoming};
pub use output::{Output, Sending, Stalled};
pub use sessions::{Assigned, Content, Next, Take, Why};
use sessions::{Session, SessionState};
use std::collections::{BTreeMap, VecDeque};
pub use verdict::{Ending, Fate, GiveUpReason};

/// What the engine handles without looking into it.
pub trait Media {
    /// A reference to a raw frame.
    type Frame: Clone;
    /// A packet that an encoder made.
    type Packet: Payload;
    /// What is sent in the order of the frames, beside packets.
    type Event;
    /// Why an attempt failed, for whoever reads of it.
    type Failure: Clone;
    /// What ends the stream: the flow that upstream gets.
    type Flow: Copy;

    /// What an event is to the order of things.
    fn kind(event: &Self::Event) -> EventKind;

    /// Gives a frame its private timestamp.
    fn stamp(frame: &mut Self::Frame, private: u64);
}

/// Who has something to do after a call; the caller wakes them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Wakes {
    /// A bit for each of the first sessions.
    sessions: u128,
    /// All sessions, those without a bit too.
    pub all_sessions: bool,
    /// Who waits for room in the budget, or for no frame to be held.
    pub room: bool,
    /// Who waits for no session to be at work.
    pub idle: bool,
    /// The output.
    pub output: bool,
}

impl Wakes {
    fn bit(id: SessionId) -> Option<u128> {
        1u128.checked_shl(u32::try_from(id.0).ok()?)
    }

    fn session(&mut self, id: SessionId) {
        match Self::bit(id) {
            Some(bit) => self.sessions |= bit,
            None => self.all_sessions = true,
        }
    }

    pub fn wakes(&self, id: SessionId) -> bool {
        self.all_sessions || Self::bit(id).is_some_and(|bit| self.sessions & bit != 0)
    }

    pub fn any_session(&self) -> bool {
        self.all_sessions || self.sessions != 0
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether the stream goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lifecycle<F> {
    Running,
    /// A chunk or something of ours failed: chunks that are finished leave, then the end.
    Failed(F),
    /// Downstream takes no more packets: only the end leaves.
    Refused(F),
}

/// What kind of thing an event is to the order of things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The end of the stream: no frame comes after it.
    Eos,
    /// The end of a segment: it leaves when all that came before has left.
    SegmentDone,
    Other,
}

impl EventKind {
    fn is_end(self) -> bool {
        self != Self::Other
    }
}

/// An event in its place.
#[derive(Debug)]
struct Queued<E> {
    /// The frame that it stood before.
    before: FrameNo,
    kind: EventKind,
    event: E,
}

/// What is known of a frame.
struct Entry<M: Media> {
    times: FrameTimes,
    bytes: u64,
    /// Downstream or upstream asked for a key frame here.
    force_key: bool,
    /// Until every chunk that needs it is done.
    held: Option<M::Frame>,
}

/// Everything about the frames of one stream; replaced at each start and flush.
pub struct Stream<M: Media> {
    chunker: Chunker,
    roster: Roster,
    budget: Budget,
    clock: PrivateClock,
    frames: FrameTable<Entry<M>>,
    stores: Stores<M::Packet>,
    /// The first packets, which are on their way.
    first: VecDeque<super::store::Left<M::Packet>>,
    early: EarlyStart,
    pace: Pace,
    /// Chunks that were verified, and whose frames stay for now.
    verified: BTreeMap<ChunkId, Delivered>,
    /// Failed attempts at chunks that aren't done.
    failures: BTreeMap<ChunkId, Vec<FailedAttempt<M::Failure>>>,
    /// Attempts that failed and are to be told of before the next one is offered.
    retries: BTreeMap<AttemptId, (ChunkId, u32)>,
    keys: KeyRequests,
    /// Requests for key frames, each with the frame from which on a key frame answers it.
    asked: BTreeMap<FrameNo, Vec<keys::Request>>,
    /// Running time of the first key frame that was sent.
    first_key: Option<u64>,
    /// Key frames that were forced at frames which had come.
    late_keys: u64,
    /// Some encoder has made a packet.
    any_packets: bool,
    /// EOS has come in.
    ended: bool,
    /// A chunk was resumed of which no frame has come.
    awaits_rest: bool,
    /// The open chunk is begun although not all of it is there, even where whole chunks are waited for.
    impatient: bool,
}

/// What a stream is encoded with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// Raw frames may not hold more bytes than this.
    pub max_raw_bytes: u64,
    /// Tries at one chunk, the first included, before the stream fails.
    pub max_attempts: u32,
    /// The encoders make key frames where they are asked for.
    pub forces_keys: bool,
    /// Distance of regular key frames in nanoseconds of running time.
    pub key_period: Option<u64>,
}

/// Frames and other things that were let go: to be dropped when the lock isn't held, and then [counted](Engine::dropped).
#[must_use]
pub struct Freed<M: Media>(pub Vec<M::Frame>);

pub struct Engine<M: Media> {
    settings: Settings,
    sessions: Vec<Session<M>>,
    /// The number of the next attempt, of whatever stream.
    next_attempt: u64,
    stream: Option<Stream<M>>,
    /// Events that weren't sent; the frames increase.
    events: VecDeque<Queued<M::Event>>,
    /// How many of them are an end.
    ends: usize,
    lifecycle: Lifecycle<M::Flow>,
    is_flushing: bool,
    is_stopped: bool,
    /// The first error was or is being told.
    is_telling: bool,
    /// Upstream was given the flow that ended the stream.
    flow_returned: bool,
    /// Frames were let go that aren't dropped yet, so often.
    releasing: usize,
    /// It was found that the encoder can't be cut with an overlap.
    overlap_dropped: bool,
    liveness: Liveness,
    tally: Tally,
    wakes: Wakes,
}

impl<M: Media> Engine<M> {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            sessions: Vec::new(),
            next_attempt: 0,
            stream: None,
            events: VecDeque::new(),
            ends: 0,
            lifecycle: Lifecycle::Running,
            is_flushing: false,
            is_stopped: false,
            is_telling: false,
            flow_returned: false,
            releasing: 0,
            overlap_dropped: false,
            liveness: Liveness::default(),
            tally: Tally::default(),
            wakes: Wakes::default(),
        }
    }

    /// One that takes the place of another: what is over for that one is over for this one.
    pub fn after(old: &Self, settings: Settings) -> Self {
        Self {
            next_attempt: old.next_attempt,
            ..Self::new(settings)
        }
    }

    /// Whom to wake, since it was asked last.
    pub fn take_wakes(&mut self) -> Wakes {
        std::mem::take(&mut self.wakes)
    }

    pub fn settings(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// A stream of frames begins, with this plan.
    pub fn begin(&mut self, plan: Plan) {
        let plan = self.without_dropped_overlap(plan);
        self.tally.chunk_frames = plan.length.longest();
        let mut roster = Roster::new(self.sessions.len(), plan.sessions);
        // Those that were abandoned first: the last one that is left stays open.
        let abandoned = |session: &Session<M>| session.is_abandoned();
        for is_abandoned in [true, false] {
            for (id, session) in self.sessions.iter().enumerate() {
                let is_out = session.state != SessionState::Open;
                if is_out && abandoned(session) == is_abandoned && roster.open() > 1 {
                    roster.end(SessionId(id), super::roster::Then::Closed);
                }
            }
        }
        let mut keys = KeyRequests::default();
        keys.set_period(self.settings.key_period);
        self.stream = Some(Stream {
            budget: Budget::new(self.settings.max_raw_bytes, plan.capacity_frames),
            chunker: Chunker::new(plan),
            roster,
            clock: PrivateClock::default(),
            frames: FrameTable::default(),
            stores: Stores::default(),
            first: VecDeque::new(),
            early: EarlyStart::default(),
            pace: Pace::default(),
            verified: BTreeMap::new(),
            failures: BTreeMap::new(),
            retries: BTreeMap::new(),
            keys,
            asked: BTreeMap::new(),
            first_key: None,
            late_keys: 0,
            any_packets: false,
            ended: false,
            awaits_rest: false,
            impatient: false,
        });
    }

    /// Goes on with another plan: `false` if it is too late for that.
    pub fn replan(&mut self, plan: Plan) -> bool {
        let plan = self.without_dropped_overlap(plan);
        let max_raw_bytes = self.settings.max_raw_bytes;
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let replanned = stream.chunker.replan(plan);
        if replanned {
            stream.roster.set_sessions(plan.sessions);
            stream
                .budget
                .set_limits(max_raw_bytes, plan.capacity_frames);
            self.tally.chunk_frames = plan.length.longest();
            // There may be more room, and more sessions may work.
            self.wakes.room = true;
            self.wake_takers();
        }
        replanned
    }

    /// The chunks are those that they would be otherwise, whenever it was found that they can have no overlap.
    fn without_dropped_overlap(&self, mut plan: Plan) -> Plan {
        if self.overlap_dropped {
            (plan.before, plan.after) = (0, 0);
        }
        plan
    }

    pub fn plan(&self) -> Option<&Plan> {
        Some(self.stream.as_ref()?.chunker.plan())
    }

    /// FLUSH_START, or the like: whatever waits returns.
    pub fn begin_flush(&mut self) {
        self.is_flushing = true;
        self.wake_everybody();
    }

    /// Forgets all frames. The plan holds for what comes after the flush, and so do events that are still true. Returns what is to be
    /// dropped when the lock isn't held.
    #[must_use = "to be dropped without the lock"]
    pub fn end_flush(&mut self, stays: impl Fn(&M::Event) -> bool) -> Option<Stream<M>> {
        self.is_flushing = false;
        self.lifecycle = Lifecycle::Running;
        self.is_telling = false;
        self.flow_returned = false;
        // Nobody is at it any more, unless it panicked.
        self.releasing = 0;
        self.events.retain_mut(|queued| {
            queued.before = FrameNo(0);
            stays(&queued.event)
        });
        self.ends = self.events.iter().filter(|it| it.kind.is_end()).count();
        let old = self.stream.take();
        if let Some(plan) = old.as_ref().map(|old| *old.chunker.plan()) {
            self.begin(plan);
        }
        old
    }

    /// After a stop: gives up all frames, to be dropped when the lock isn't held. What was counted stays.
    #[must_use = "to be dropped without the lock"]
    pub fn discard(&mut self) -> Option<Stream<M>> {
        self.stream.take()
    }

    /// Nothing goes on until the next start.
    pub fn stop(&mut self) {
        self.is_stopped = true;
        self.wake_everybody();
    }

    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    pub fn is_flushing(&self) -> bool {
        self.is_flushing
    }

    /// Nothing goes on until the next start or the end of the flush.
    pub fn is_aborting(&self) -> bool {
        self.is_stopped || self.is_flushing || self.flow().is_some()
    }

    /// What upstream gets from now on, where the stream has ended before its end.
    pub fn flow(&self) -> Option<M::Flow> {
        match self.lifecycle {
            Lifecycle::Running => None,
            Lifecycle::Failed(flow) | Lifecycle::Refused(flow) => Some(flow),
        }
    }

    /// An error is about to be told. `false`: another one was, or nobody wants to hear of it after a stop or in a flush.
    #[must_use]
    pub fn begin_to_tell(&mut self) -> bool {
        let is_wanted = !self.is_stopped && !self.is_flushing;
        is_wanted && !std::mem::replace(&mut self.is_telling, true)
    }

    /// The stream has failed: chunks that are finished leave, then its end.
    pub fn fail(&mut self, flow: M::Flow) {
        if self.flow().is_none() {
            self.lifecycle = Lifecycle::Failed(flow);
            self.wake_everybody();
        }
    }

    /// Downstream takes no more packets.
    pub fn refuse(&mut self, flow: M::Flow) {
        if self.is_stopped || self.is_flushing {
            return;
        }
        if self.flow().is_none() {
            self.lifecycle = Lifecycle::Refused(flow);
        } else if let Lifecycle::Failed(first) = self.lifecycle {
            self.lifecycle = Lifecycle::Refused(first);
        }
        self.wake_everybody();
    }

    /// Upstream has ended, or there is no stream, and it was never given the flow that ended the stream: nobody else says so.
    pub fn is_unheard(&self) -> bool {
        let has_ended = self.stream.as_ref().is_none_or(|stream| stream.ended);
        !self.flow_returned && has_ended
    }

    fn wake_everybody(&mut self) {
        self.wakes = Wakes {
            sessions: 0,
            all_sessions: true,
            room: true,
            idle: true,
            output: true,
        };
    }

    /// Wakes sessions that wait for a chunk, no more of them than can have one.
    fn wake_takers(&mut self) {
        let Some(stream) = &self.stream else { return };
        let waiting = self.sessions.iter().enumerate();
        let waiting = waiting.filter(|(_, session)| session.waits_for_chunk);
        let takers = stream.roster.takers(waiting.map(|(id, _)| SessionId(id)));
        for id in takers {
            self.wakes.session(id);
        }
    }

    /// The frames were dropped that a call had freed.
    pub fn dropped(&mut self, freed: usize) {
        self.releasing = self.releasing.saturating_sub(freed);
        self.wakes.room |= freed > 0;
    }

    /// No frame is held, and none is about to be dropped.
    pub fn is_drained(&self) -> bool {
        let chunks = self.stream.as_ref().and_then(|it| it.chunker.oldest());
        chunks.is_none() && self.releasing == 0
    }

    pub fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// Bytes of raw frames that are held, and the most that were.
    pub fn held_bytes(&self) -> (u64, u64) {
        let budget = self.stream.as_ref().map(|stream| &stream.budget);
        budget.map_or((0, 0), |budget| (budget.held_bytes(), budget.peak_bytes()))
    }

    pub fn leaves_early(&self) -> bool {
        let stream = self.stream.as_ref();
        stream.is_some_and(|stream| stream.stores.leaves_early())
    }

    /// The first packets may leave before their chunk is finished, and frames stay until downstream has them. `tells`: an encoder
    /// whose first DTS is its first PTS doesn't reorder.
    pub fn arm_early_start(&mut self, tells: bool) {
        if let Some(stream) = &mut self.stream {
            stream.early.arm(tells);
        }
    }

    /// The first packets are on their way, and frames stay until downstream has them: whoever waits for frames to go should end that
    /// when it takes long.
    pub fn is_starting_early(&self) -> bool {
        let stream = self.stream.as_ref();
        stream.is_some_and(|stream| stream.early.is_pushing())
    }

    /// Downstream has the first packets, or nobody waits for that any more: chunks that were verified are finished.
    pub fn end_early_start(&mut self) -> Freed<M> {
        let ended = self.stream.as_mut().is_some_and(|it| it.early.end());
        if !ended {
            return Freed(Vec::new());
        }
        self.finish_chunks()
    }

    /// Finishes chunks that were verified, unless their frames may still be needed: their packets leave.
    fn finish_chunks(&mut self) -> Freed<M> {
        let mut freed = Vec::new();
        let Some(stream) = self.stream.as_mut().filter(|it| !it.early.is_on()) else {
            return Freed(freed);
        };
        // In order: each may be what the next ones wait for.
        let verified: Vec<_> = stream.verified.keys().copied().collect();
        for chunk in verified {
            if stream.chunker.is_on_trial(chunk) {
                continue;
            }
            let delivered = stream.verified.remove(&chunk);
            self.tally.frames_skipped += delivered.map_or(0, |delivered| delivered.skipped);
            self.tally.chunks_finished += 1;
            stream.failures.remove(&chunk);
            let ranges = stream.chunker.done(chunk);
            stream.let_go(&ranges, &mut freed);
            stream.stores.finish(chunk);
        }
        stream.forget_frames();
        self.wakes.output = true;
        self.wakes.room = true;
        if !freed.is_empty() {
            self.releasing += 1;
        }
        Freed(freed)
    }
}

impl<M: Media> Freed<M> {
    /// What to [count](Engine::dropped) when they are dropped.
    pub fn count(&self) -> usize {
        usize::from(!self.0.is_empty())
    }
}

impl<M: Media> Stream<M> {
    fn private(&self, frame: FrameNo) -> u64 {
        self.frames.private(frame).unwrap_or_default()
    }

    /// The frames go.
    fn let_go(&mut self, ranges: &[FrameRange], freed: &mut Vec<M::Frame>) {
        for frame in ranges.iter().flat_map(FrameRange::iter) {
            if let Some(entry) = self.frames.get_mut(frame)
                && let Some(held) = entry.held.take()
            {
                self.budget.release(entry.bytes);
                freed.push(held);
            }
        }
    }

    /// Forgets what is known of frames that no session delivers and no packet is of any more.
    fn forget_frames(&mut self) {
        let needed = self.chunker.oldest_needed();
        let held = self.stores.oldest_held().unwrap_or(needed);
        let first = self.first.iter().filter_map(|left| left.frame).min();
        let first = first.unwrap_or(needed);
        self.frames.forget_before(needed.min(held).min(first));
    }
}
