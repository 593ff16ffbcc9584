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
mod joins;
mod output;
mod sessions;
mod verdict;

#[cfg(test)]
mod tests;

use super::bucket::Vbv;
use super::budget::Budget;
use super::chunker::Chunker;
use super::early_start::EarlyStart;
use super::given::Given;
use super::ids::{AttemptId, ChunkId, FrameNo, SessionId};
use super::keys::{self, KeyRequests};
use super::pace::Pace;
use super::plan::Plan;
use super::progress::Since;
use super::roster::{Roster, Slot};
use super::store::{Payload, Stores};
use super::tally::Tally;
use super::timeline::{FrameTable, PrivateClock};
pub use abandonment::{Abandoned, Doing};
pub use deliveries::{Finished, PacketTimes, Refused};
pub use endings::{Again, Consequence, FailedAttempt, Report};
pub use input::{Admission, FrameTimes, Incoming};
use joins::{Join, Joins};
pub use output::{Output, Sending, Stalled};
pub use sessions::{Assigned, Content, Next, Take, Why};
use sessions::{Session, SessionState};
use smallvec::SmallVec;
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

    /// The event is the end of the stream: no frame comes after it.
    fn is_eos(event: &Self::Event) -> bool;

    /// The event is the end of the stream or of a segment: it leaves when all that came before has left.
    fn is_end(event: &Self::Event) -> bool;

    /// Gives a frame its private timestamp.
    fn stamp(frame: &mut Self::Frame, private: u64);
}

/// Who has something to do after a call; the caller wakes them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wakes {
    /// Each once.
    pub sessions: SmallVec<[SessionId; 4]>,
    /// Who waits for room in the budget, or for no frame to be held.
    pub room: bool,
    /// Who waits for no session to be at work.
    pub idle: bool,
    /// The output.
    pub output: bool,
}

impl Wakes {
    fn session(&mut self, id: SessionId) {
        if !self.sessions.contains(&id) {
            self.sessions.push(id);
        }
    }
}

/// What is known of a chunk that was verified.
#[derive(Debug, Clone, Copy)]
struct Verified {
    /// Frames that its encoder left out.
    skipped: u64,
    /// Of the attempt.
    number: u32,
    /// An earlier run encoded it.
    from_cache: bool,
}

/// What is known of a frame.
struct Entry<M: Media> {
    times: FrameTimes,
    bytes: u64,
    /// Downstream or upstream asked for a key frame here.
    force_key: bool,
    /// It is going to be a key frame: one was asked for here, or a chunk begins here.
    is_key: bool,
    /// Until every chunk that needs it is done.
    held: Option<M::Frame>,
}

/// Everything about the frames of one stream; replaced at each start and flush.
pub struct Stream<M: Media> {
    /// The caps have come. Before, there is a stream without frames.
    is_planned: bool,
    chunker: Chunker,
    roster: Roster,
    budget: Budget,
    clock: PrivateClock,
    frames: FrameTable<Entry<M>>,
    stores: Stores<M::Packet>,
    early: EarlyStart,
    pace: Pace,
    /// Chunks that were verified, and whose frames stay for now.
    verified: BTreeMap<ChunkId, Verified>,
    /// Where there is a decoder's buffer to be kept.
    joins: Option<Joins>,
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
    /// The open chunk is begun although not all of it is there, even where whole chunks are waited for.
    impatient: bool,
    /// Frames that were let go, to be dropped when the lock isn't held.
    freed: Vec<M::Frame>,
}

/// What a stream is encoded with.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Tries at one chunk, the first included, before the stream fails.
    pub max_attempts: u32,
    /// The encoders make key frames where they are asked for.
    pub forces_keys: bool,
    /// Distance of regular key frames in nanoseconds of running time.
    pub key_period: Option<u64>,
    /// What the encoders are told of their decoder's buffer.
    pub vbv: Option<Vbv>,
    /// An encoder that is closed encodes first what it still has: nothing is gained by telling it that it may end.
    pub drains_anyway: bool,
    /// Chunks that were planned before.
    pub given: Option<Given>,
}

/// Frames that are held at once where each goes as soon as it was fed, so that nobody waits for a frame that is on its way; whoever sends them may have more.
const FRAMES_AHEAD: u64 = 3;

pub struct Engine<M: Media> {
    pub settings: Settings,
    pub tally: Tally,
    sessions: Vec<Session>,
    /// The number of the next attempt, of whatever stream.
    next_attempt: u64,
    stream: Stream<M>,
    /// Events that weren't sent, each with the frame that it stood before; the frames increase.
    events: VecDeque<(FrameNo, M::Event)>,
    /// The stream has ended before its end, and upstream gets this: chunks that are finished leave, then the end.
    flow: Option<M::Flow>,
    /// Downstream takes no more packets: only the end leaves.
    is_refused: bool,
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
    /// Ticks since the stop.
    stop_ticks: u32,
    /// When what began.
    pub(super) since: Since,
    wakes: Wakes,
}

impl<M: Media> Engine<M> {
    pub fn new(settings: Settings) -> Self {
        Self {
            stream: Stream::new(None, &settings, 0),
            settings,
            tally: Tally::default(),
            sessions: Vec::new(),
            next_attempt: 0,
            events: VecDeque::new(),
            flow: None,
            is_refused: false,
            is_flushing: false,
            is_stopped: false,
            is_telling: false,
            flow_returned: false,
            releasing: 0,
            overlap_dropped: false,
            stop_ticks: 0,
            since: Since::default(),
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

    /// Whom to wake, since it was asked last. `None`: nobody.
    pub fn take_wakes(&mut self) -> Option<Wakes> {
        let wakes = &mut self.wakes;
        let any = wakes.room || wakes.idle || wakes.output || !wakes.sessions.is_empty();
        any.then(|| std::mem::take(wakes))
    }

    /// Frames that were let go since it was asked last: to be dropped when the lock isn't held, and then [counted](Self::dropped).
    /// `None`: none were.
    #[must_use]
    pub fn take_freed(&mut self) -> Option<Vec<M::Frame>> {
        let freed = &mut self.stream.freed;
        if freed.is_empty() {
            return None;
        }
        self.releasing += 1;
        Some(std::mem::take(freed))
    }

    /// The frames were dropped that were taken.
    pub fn dropped(&mut self) {
        self.releasing = self.releasing.saturating_sub(1);
        self.wakes.room = true;
    }

    /// A stream of frames begins, with this plan.
    pub fn begin(&mut self, plan: Plan) {
        let mut plan = self.without_dropped_overlap(plan);
        if self.encodes_one_chunk() {
            plan.capacity_frames = FRAMES_AHEAD;
        }
        self.stream = Stream::new(Some(plan), &self.settings, self.sessions.len());
        let sessions = (0..self.sessions.len()).map(SessionId);
        let is_open = |id: &SessionId| self.sessions[id.0].state == SessionState::Open;
        let mut out: Vec<_> = sessions.filter(|id| !is_open(id)).collect();
        // Those that were abandoned first: the last one that is left stays open.
        out.sort_by_key(|id| !self.is_abandoned(*id));
        for id in out {
            if self.stream.roster.open() > 1 {
                self.stream.roster.end(id, Slot::Closed);
            }
        }
    }

    /// Goes on with another plan: `false` if it is too late for that.
    pub fn replan(&mut self, plan: Plan) -> bool {
        if self.settings.given.is_some() {
            return false;
        }
        let plan = self.without_dropped_overlap(plan);
        let stream = &mut self.stream;
        let replanned = stream.is_planned && stream.chunker.replan(plan);
        if replanned {
            stream.roster.sessions = plan.sessions;
            stream.budget.limit_frames = plan.capacity_frames;
            // There may be more room, and more sessions may work.
            self.wakes.room = true;
            self.wake_takers();
        }
        replanned
    }

    /// Only one chunk of the film is encoded, once: frames go as they are fed.
    pub(super) fn encodes_one_chunk(&self) -> bool {
        let given = self.settings.given.as_ref();
        given.is_some_and(|given| given.only().is_some())
    }

    /// The chunks are those that they would be otherwise, whenever it was found that they can have no overlap.
    fn without_dropped_overlap(&self, mut plan: Plan) -> Plan {
        if self.overlap_dropped {
            (plan.before, plan.after) = (0, 0);
        }
        plan
    }

    pub fn plan(&self) -> Option<&Plan> {
        let plan = &self.stream.chunker.plan;
        self.stream.is_planned.then_some(plan)
    }

    /// FLUSH_START, or the like: whatever waits returns.
    pub fn begin_flush(&mut self) {
        self.is_flushing = true;
        self.wake_everybody();
    }

    /// Forgets all frames. The plan holds for what comes after the flush, and so do events that are still true. Returns what is to be
    /// dropped when the lock isn't held.
    #[must_use = "to be dropped without the lock"]
    pub fn end_flush(&mut self, stays: impl Fn(&M::Event) -> bool) -> Stream<M> {
        self.is_flushing = false;
        self.flow = None;
        self.is_refused = false;
        self.is_telling = false;
        self.flow_returned = false;
        // Nobody is at it any more, unless it panicked.
        self.releasing = 0;
        self.events.retain_mut(|(before, event)| {
            *before = FrameNo(0);
            stays(event)
        });
        let old = self.discard();
        self.begin_progress();
        if old.is_planned {
            self.begin(old.chunker.plan);
        }
        old
    }

    /// After a stop: gives up all frames, to be dropped when the lock isn't held. What was counted stays.
    #[must_use = "to be dropped without the lock"]
    pub fn discard(&mut self) -> Stream<M> {
        let none = Stream::new(None, &self.settings, self.sessions.len());
        std::mem::replace(&mut self.stream, none)
    }

    /// Nothing goes on until the next start.
    pub fn stop(&mut self) {
        self.is_stopped = true;
        self.wake_everybody();
    }

    pub fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Nothing goes on until the next start or the end of the flush.
    pub fn is_aborting(&self) -> bool {
        self.is_stopped || self.is_flushing || self.flow.is_some()
    }

    /// What upstream gets from now on, where the stream has ended before its end.
    pub fn flow(&self) -> Option<M::Flow> {
        self.flow
    }

    /// An error is about to be told. `false`: another one was, or nobody wants to hear of it after a stop or in a flush.
    #[must_use]
    pub fn begin_to_tell(&mut self) -> bool {
        let is_wanted = !self.is_stopped && !self.is_flushing;
        is_wanted && !std::mem::replace(&mut self.is_telling, true)
    }

    /// The stream has failed: chunks that are finished leave, then its end.
    pub fn fail(&mut self, flow: M::Flow) {
        if self.flow.is_none() {
            self.flow = Some(flow);
            self.wake_everybody();
        }
    }

    /// Downstream takes no more packets.
    pub fn refuse(&mut self, flow: M::Flow) {
        if !self.is_stopped && !self.is_flushing {
            self.flow.get_or_insert(flow);
            self.is_refused = true;
            self.wake_everybody();
        }
    }

    /// Upstream has ended, or there is no stream, and it was never given the flow that ended the stream: nobody else says so.
    pub fn is_unheard(&self) -> bool {
        !self.flow_returned && self.stream.ended
    }

    fn wake_everybody(&mut self) {
        self.wakes = Wakes {
            sessions: (0..self.sessions.len()).map(SessionId).collect(),
            room: true,
            idle: true,
            output: true,
        };
    }

    /// Wakes sessions that wait for a chunk, no more of them than can have one.
    fn wake_takers(&mut self) {
        let sessions = self.sessions.iter().enumerate();
        let waiting = sessions.filter(|(_, session)| session.waits_for_chunk);
        let waiting = waiting.map(|(id, _)| SessionId(id));
        for taker in self.stream.roster.takers(waiting) {
            self.wakes.session(taker);
        }
    }

    /// No frame is held, and none is about to be dropped.
    pub fn is_drained(&self) -> bool {
        let stream = &self.stream;
        stream.chunker.oldest().is_none() && stream.freed.is_empty() && self.releasing == 0
    }

    /// Bytes of raw frames that are held, and the most that were.
    pub fn held_bytes(&self) -> (u64, u64) {
        let budget = &self.stream.budget;
        (budget.held_bytes, budget.peak_bytes)
    }

    /// Frames of which packets are held that haven't left.
    pub fn held_pictures(&self) -> u64 {
        self.stream.stores.pictures()
    }

    /// The stream is encoded in chunks: there is a plan.
    pub(super) fn is_in_chunks(&self) -> bool {
        self.stream.is_planned
    }

    /// Frames that have come for chunks.
    pub(super) fn frames_came(&self) -> u64 {
        self.stream.chunker.arrived.0
    }

    pub fn leaves_early(&self) -> bool {
        self.stream.stores.leaves_early()
    }

    /// The first packets may leave before their chunk is finished, and frames stay until downstream has them. `tells`: an encoder
    /// whose first DTS is its first PTS doesn't reorder.
    pub fn arm_early_start(&mut self, tells: bool) {
        self.stream.early = EarlyStart::Armed { tells };
    }

    /// The first packets are on their way, and frames stay until downstream has them: whoever waits for frames to go should end that
    /// when it takes long.
    pub fn is_starting_early(&self) -> bool {
        self.stream.early == EarlyStart::Pushing
    }

    /// Downstream has the first packets, or nobody waits for that any more: chunks that were verified are finished.
    pub fn end_early_start(&mut self) {
        if std::mem::take(&mut self.stream.early) != EarlyStart::Off {
            self.finish_chunks();
        }
    }

    /// Finishes chunks that were verified, unless their frames may still be needed: their packets leave.
    fn finish_chunks(&mut self) {
        if self.stream.early != EarlyStart::Off {
            return;
        }
        // In order: each may be what the next ones wait for.
        for (chunk, verified) in std::mem::take(&mut self.stream.verified) {
            let stream = &mut self.stream;
            if stream.chunker.is_on_trial(chunk) {
                stream.verified.insert(chunk, verified);
                continue;
            }
            match stream.join(chunk) {
                Join::Joins { runs_dry } => self.tally.vbv_underflows += u64::from(runs_dry),
                Join::Waits => {
                    stream.verified.insert(chunk, verified);
                    continue;
                }
                Join::Again => {
                    self.encode_again(chunk, verified.number);
                    continue;
                }
            }
            self.tally.frames_skipped += verified.skipped;
            self.tally.chunks_finished += 1;
            self.tally.chunks_from_cache += u64::from(verified.from_cache);
            stream.failures.remove(&chunk);
            let unneeded = stream.chunker.done(chunk);
            stream.let_go(&unneeded);
            stream.stores.finish(chunk);
        }
        self.stream.forget_frames();
        self.wakes.output = true;
        self.wakes.room = true;
    }
}

impl<M: Media> Stream<M> {
    fn new(plan: Option<Plan>, settings: &Settings, sessions: usize) -> Self {
        let is_planned = plan.is_some();
        let plan = plan.unwrap_or_default();
        Self {
            is_planned,
            ended: !is_planned,
            chunker: Chunker::with(plan, settings.given.clone()),
            roster: Roster::new(sessions, plan.sessions),
            budget: Budget::new(plan.capacity_frames),
            clock: PrivateClock::default(),
            frames: FrameTable::default(),
            stores: Stores::default(),
            early: EarlyStart::default(),
            pace: Pace::default(),
            verified: BTreeMap::new(),
            joins: settings.vbv.map(Joins::new),
            failures: BTreeMap::new(),
            retries: BTreeMap::new(),
            keys: KeyRequests::new(settings.key_period),
            asked: BTreeMap::new(),
            first_key: None,
            late_keys: 0,
            any_packets: false,
            impatient: false,
            freed: Vec::new(),
        }
    }

    fn private(&self, frame: FrameNo) -> u64 {
        self.frames.private(frame).unwrap_or_default()
    }

    fn let_go(&mut self, unneeded: &[FrameNo]) {
        self.freed.reserve(unneeded.len());
        for frame in unneeded {
            if let Some(entry) = self.frames.get_mut(*frame)
                && let Some(held) = entry.held.take()
            {
                self.budget.release(entry.bytes);
                self.freed.push(held);
            }
        }
    }

    /// Forgets what is known of frames that no session delivers and no packet is of any more.
    fn forget_frames(&mut self) {
        let needed = self.chunker.oldest_needed();
        let held = self.stores.oldest_held().unwrap_or(needed);
        self.frames.forget_before(needed.min(held));
    }
}
