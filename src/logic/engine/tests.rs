// SPDX-License-Identifier: MPL-2.0

//! The engine alone, with imagined sessions: whatever happens in whatever order, each frame leaves once and in order, memory is
//! bounded, nobody who is over does harm, and nobody waits for ever. Whoever was told to wait does nothing until it is woken.

use super::*;
use crate::logic::bucket::Bucket;
use crate::logic::ids::{AttemptId, FrameNo, SessionId};
use crate::logic::plan::{Plan, Seams};
use crate::logic::request::{Beginning, Overlap, Request};
use crate::logic::scenes::Change;
use crate::logic::store::{Fault, Kind};
use crate::logic::timeline::{DEEPEST, Shown, Timeline, dts_before};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::rc::Rc;

/// A raw frame: its number, and its private timestamp.
#[derive(Debug, Clone)]
struct Raw {
    number: u64,
    private: u64,
    /// Counts the references.
    _alive: Rc<()>,
}

/// What an imagined encoder makes: which frame it is, and all that the encoder was fed since the last key frame.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Coded {
    number: u64,
    refers: u64,
    bits: u64,
}

impl Payload for Coded {
    fn is_same(&self, other: &Self) -> bool {
        self == other
    }

    fn bits(&self) -> u64 {
        self.bits
    }
}

struct Imagined;

impl Media for Imagined {
    type Frame = Raw;
    type Packet = Coded;
    type Event = u64;
    type Failure = &'static str;
    type Flow = &'static str;

    fn is_eos(event: &u64) -> bool {
        *event == u64::MAX
    }

    fn is_end(event: &u64) -> bool {
        Self::is_eos(event)
    }

    fn stamp(frame: &mut Raw, private: u64) {
        frame.private = private;
    }
}

const GAP: u64 = 40_000_000;
const BYTES: u64 = 10;

/// Ten bits come in for each frame.
const VBV: Vbv = Vbv {
    rate: 250,
    size: 150,
    initial: 135,
    steady: 90,
};

/// How encoders behave.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// B-frames between two others.
    bframes: usize,
    ignores_keys: bool,
    /// Two encoders make different packets of the same frames.
    is_random: bool,
}

/// An imagined encoder.
struct Encoder {
    manner: Manner,
    /// Fed and not coded yet.
    waiting: Vec<Raw>,
    refers: u64,
    seed: u64,
    is_fresh: bool,
    /// What it was told of its decoder's buffer.
    buffered: u64,
    /// Coded, with times.
    out: VecDeque<(Kind, PacketTimes, Coded)>,
}

impl Encoder {
    fn new(manner: Manner, seed: u64, vbv: Option<Vbv>) -> Self {
        let buffered = vbv.map_or(VBV.initial, |vbv| vbv.initial);
        Self {
            manner,
            buffered,
            waiting: Vec::new(),
            refers: 0,
            seed: if manner.is_random { seed } else { 0 },
            is_fresh: true,
            out: VecDeque::new(),
        }
    }

    fn code(&mut self, frame: &Raw, kind: Kind) {
        self.refers = match kind {
            Kind::Key => frame.number + self.seed + self.buffered * 1_000,
            _ => self.refers.wrapping_mul(31).wrapping_add(frame.number),
        };
        let delay = if self.is_fresh {
            self.manner.bframes.min(1) as u64 * GAP
        } else {
            0
        };
        self.is_fresh = false;
        let times = PacketTimes {
            pts: Some(frame.private),
            dts: Some(frame.private - delay),
        };
        let coded = Coded {
            number: frame.number,
            refers: self.refers,
            // A key frame takes most of what it was told of.
            bits: match kind {
                Kind::Key => self.buffered * 3 / 4,
                _ => 4 + frame.number * 7 % 13,
            },
        };
        self.out.push_back((kind, times, coded));
    }

    /// The last one that waits, then those that are shown before it.
    fn group(&mut self) {
        let mut group = std::mem::take(&mut self.waiting);
        if let Some(last) = group.pop() {
            self.code(&last, Kind::Delta);
        }
        for frame in group {
            self.code(&frame, Kind::Delta);
        }
    }

    fn feed(&mut self, frame: Raw, force_key: bool) {
        if self.is_fresh || force_key && !self.manner.ignores_keys {
            self.group();
            self.code(&frame, Kind::Key);
            return;
        }
        self.waiting.push(frame);
        if self.waiting.len() > self.manner.bframes {
            self.group();
        }
    }
}

/// What a session's worker is at.
enum Worker {
    Idle,
    Working {
        attempt: AttemptId,
        position: FrameNo,
        encoder: Encoder,
        has_fed: bool,
        verified: bool,
    },
    /// It tells of that attempt, which failed.
    Telling(AttemptId),
    /// It hangs, in the midst of that attempt.
    Hanging(AttemptId),
    Gone,
}

struct World {
    engine: Engine<Imagined>,
    workers: Vec<Worker>,
    manner: Manner,
    has_vbv: bool,
    /// Sessions that wait, so that only a wake makes them go on.
    asleep: BTreeSet<usize>,
    input_sleeps: bool,
    output_sleeps: bool,
    /// The frame that stands at the door.
    at_door: Option<(Raw, Incoming)>,
    frames: u64,
    to_come: u64,
    has_ended: bool,
    sent: Vec<Coded>,
    events: Vec<u64>,
    dts: Vec<u64>,
    timeline: Timeline<Option<u64>>,
    keys: BTreeSet<u64>,
    has_failed: bool,
    /// Frames before the chunk with which the stream fails.
    good: u64,
    /// No session is left.
    is_lost: bool,
    eos_sent: bool,
    seeds: u64,
    alive: Vec<std::rc::Weak<()>>,
    bound: u64,
    rate: f64,
    repeats: bool,
    over: Vec<AttemptId>,
    now: u64,
}

#[derive(Debug, Clone, Copy)]
struct Setup {
    sessions: usize,
    /// Sessions beyond those that the plan has use for.
    spare: usize,
    own: u64,
    overlap: u64,
    min: u64,
    frames: u64,
    manner: Manner,
    early: bool,
    rate: f64,
    repeats: bool,
    room: u64,
    /// Encoders are told of their decoder's buffer.
    has_vbv: bool,
    /// They aren't told that they may end.
    drains_anyway: bool,
    /// Chunks end where a key frame stands anyway; the encoder's greatest distance of them, 0 if nobody knows it.
    seams: Option<u64>,
}

/// One session that makes chunks of ten frames, with room for all.
const SETUP: Setup = Setup {
    sessions: 1,
    spare: 0,
    own: 10,
    overlap: 0,
    min: 1,
    frames: 25,
    manner: Manner {
        bframes: 0,
        ignores_keys: false,
        is_random: false,
    },
    early: false,
    rate: 1.0,
    repeats: false,
    room: 99,
    has_vbv: false,
    drains_anyway: false,
    seams: None,
};

fn plan(setup: &Setup) -> Plan {
    let plan = Plan::make(&Request {
        sessions: setup.sessions as u64,
        sessions_are_automatic: false,
        beginning: Beginning::KeyFrame,
        longest_chunk: None,
        chunk_frames: Some(setup.own),
        key_distance: None,
        least_key_distance: 0,
        follows_cuts: false,
        min_chunk_frames: setup.min,
        before: Overlap::UpTo(setup.overlap),
        after: Overlap::UpTo(setup.overlap),
        source_frames: None,
        frame_bytes: BYTES,
        max_raw_bytes: BYTES * setup.room.max(2),
        seam_cost: None,
        max_overhead: None,
    });
    let plan = plan.unwrap();
    // As long as there is room for.
    let longest = plan.length.longest();
    let around = plan.before + plan.after.max(plan.min_frames).max(2);
    let most = plan.capacity_frames.saturating_sub(around);
    let seams = setup.seams.filter(|_| most >= longest);
    let seams = seams.map(|distance| Seams {
        least: 0,
        key_distance: Some(distance).filter(|&distance| distance > 0),
        least_key_distance: distance / 4,
        most: most.min(longest * 2),
    });
    Plan { seams, ..plan }
}

/// Each eleventh frame begins a scene, or flashes.
fn change(number: u64) -> Change {
    let is_cut = |number: u64| number % 11 == 5;
    let cost = |is_cut| if is_cut { 1_000 } else { 40 };
    Change {
        intra: 1_000,
        inter: cost(is_cut(number)),
        past_one: cost(
            is_cut(number) || !number.is_multiple_of(3) && is_cut(number.saturating_sub(1)),
        ),
    }
}

impl World {
    fn new(setup: &Setup) -> Self {
        let bound = BYTES * setup.room.max(2);
        let mut engine = Engine::new(Settings {
            max_attempts: 3,
            forces_keys: !setup.manner.ignores_keys,
            key_period: None,
            vbv: setup.has_vbv.then_some(VBV),
            drains_anyway: setup.drains_anyway,
            given: None,
        });
        for _ in 0..setup.sessions + setup.spare {
            engine.add_session();
        }
        engine.begin(plan(setup));
        if setup.early {
            engine.arm_early_start(true);
        }
        Self {
            engine,
            workers: (0..setup.sessions + setup.spare)
                .map(|_| Worker::Idle)
                .collect(),
            manner: setup.manner,
            has_vbv: setup.has_vbv,
            asleep: BTreeSet::new(),
            input_sleeps: false,
            output_sleeps: false,
            at_door: None,
            frames: 0,
            to_come: setup.frames,
            has_ended: false,
            sent: Vec::new(),
            events: Vec::new(),
            dts: Vec::new(),
            timeline: Timeline::default(),
            keys: BTreeSet::new(),
            has_failed: false,
            good: 0,
            is_lost: false,
            eos_sent: false,
            seeds: 0,
            alive: Vec::new(),
            bound,
            rate: setup.rate,
            repeats: setup.repeats,
            over: Vec::new(),
            now: 0,
        }
    }

    /// The lock is let go: frames are dropped, and whoever has something to do is woken.
    fn wake(&mut self) {
        if let Some(freed) = self.engine.take_freed() {
            drop(freed);
            self.engine.dropped();
        }
        let wakes = self.engine.take_wakes().unwrap_or_default();
        self.asleep
            .retain(|id| !wakes.sessions.contains(&SessionId(*id)));
        self.input_sleeps &= !wakes.room;
        self.output_sleeps &= !wakes.output;
    }

    /// Upstream does something. `false`: it can't.
    fn input(&mut self) -> bool {
        if self.input_sleeps || self.has_ended {
            return false;
        }
        let (raw, incoming) = match self.at_door.take() {
            Some(door) => door,
            None if self.frames < self.to_come => {
                let alive = Rc::new(());
                self.alive.push(Rc::downgrade(&alive));
                let number = self.frames;
                // Some timestamps come twice.
                let shown = if self.repeats && number % 5 == 3 {
                    number - 1
                } else {
                    number
                };
                let raw = Raw {
                    number,
                    private: 0,
                    _alive: alive,
                };
                let incoming = Incoming {
                    times: FrameTimes {
                        pts: Some((shown as f64 * GAP as f64 * self.rate) as u64),
                        duration: Some(GAP),
                        running_time: Some(shown * GAP),
                    },
                    assumed_duration: GAP,
                    bytes: BYTES,
                    // Others come and go that the memory is shared with.
                    most_bytes: self.bound / (1 + number / 20 % 3),
                    change: Some(change(number)),
                };
                (raw, incoming)
            }
            None => {
                self.engine.end();
                self.engine.event(u64::MAX);
                self.has_ended = true;
                self.wake();
                return true;
            }
        };
        match self.engine.frame(raw, &incoming, self.frames + self.now) {
            Admission::Taken => {
                if self.frames.is_multiple_of(7) {
                    self.engine.event(self.frames + 1);
                }
                self.frames += 1;
            }
            Admission::Full(raw) => {
                self.at_door = Some((raw, incoming));
                self.wake();
                self.input_sleeps = true;
            }
            Admission::Flushing(_) => panic!("nobody flushes"),
            // Whoever is told that the stream is over says that it has ended.
            Admission::Ended(_) | Admission::Halted(..) => {
                self.to_come = self.frames;
            }
        }
        self.wake();
        true
    }

    fn seed(&mut self) -> u64 {
        self.seeds += 1;
        self.seeds * 1_000_000
    }

    /// The attempt of a worker fails; it is to be told of.
    fn fails(&mut self, attempt: AttemptId, ending: &Ending) {
        match self.engine.ended(attempt, ending, "failed", 1) {
            Consequence::Nothing | Consequence::Again { .. } => (),
            Consequence::GiveUp(report, reason) => {
                assert!(!report.attempts.is_empty());
                if self.engine.doom(Some(report.chunk)) {
                    self.good = report.frames.start.0;
                }
                self.is_lost |= reason == GiveUpReason::NoSession;
            }
        }
        self.wake();
    }

    /// The failed attempt was told of.
    fn told(&mut self, attempt: AttemptId) {
        self.engine.retry(attempt);
        self.engine.rest(attempt);
        self.over.push(attempt);
        self.wake();
    }

    fn stop_worker(&mut self, id: usize, attempt: AttemptId, why: Why) {
        self.workers[id] = Worker::Telling(attempt);
        let ending = match why {
            Why::Aborted | Why::Halted => Ending::Aborted,
            Why::Replanned => Ending::Replanned,
            Why::Fault(fault) => Ending::Faulty(fault),
            Why::EncoderFailed => Ending::EncoderFailed,
        };
        self.fails(attempt, &ending);
    }

    /// A session does one thing. `false`: it can't.
    fn session(&mut self, id: usize) -> bool {
        if self.asleep.contains(&id) {
            return false;
        }
        let session = SessionId(id);
        let seed = self.seed();
        match &mut self.workers[id] {
            Worker::Gone | Worker::Hanging(_) => return false,
            Worker::Telling(attempt) => {
                let attempt = *attempt;
                self.workers[id] = Worker::Idle;
                self.told(attempt);
            }
            worker @ Worker::Idle => match self.engine.take(session, self.now) {
                Take::Chunk(assigned) => {
                    *worker = Worker::Working {
                        attempt: assigned.attempt,
                        position: assigned.first,
                        encoder: Encoder::new(self.manner, seed, assigned.vbv),
                        has_fed: false,
                        verified: false,
                    };
                }
                Take::Wait => {
                    self.wake();
                    self.asleep.insert(id);
                }
                Take::Stop => {
                    self.workers[id] = Worker::Gone;
                }
            },
            Worker::Working {
                attempt,
                position,
                encoder,
                has_fed,
                verified,
            } => {
                let attempt = *attempt;
                if *verified {
                    match self.engine.delivered(attempt, self.now + 1) {
                        Ok(()) => {
                            self.engine.rest(attempt);
                            self.over.push(attempt);
                            self.workers[id] = Worker::Idle;
                        }
                        Err(why) => self.stop_worker(id, attempt, why),
                    }
                } else if let Some((kind, times, coded)) = encoder.out.pop_front() {
                    match self.engine.packet(attempt, kind, times, coded, self.now) {
                        Ok(is_complete) => {
                            if is_complete {
                                *has_fed = true;
                                encoder.out.clear();
                            }
                        }
                        Err(_) => {
                            let why = self.engine.why(attempt).unwrap_or(Why::EncoderFailed);
                            self.stop_worker(id, attempt, why);
                        }
                    }
                } else if *has_fed {
                    self.engine.encoder_ended(attempt);
                    match self.engine.verify(attempt, false) {
                        Ok(_) => *verified = true,
                        Err(why) => self.stop_worker(id, attempt, why),
                    }
                } else {
                    match self.engine.next(attempt, *position) {
                        Ok(Some(Next::Feed {
                            frame, force_key, ..
                        })) => {
                            assert_eq!(frame.number, position.0);
                            *position = FrameNo(position.0 + 1);
                            encoder.feed(frame, force_key);
                        }
                        Ok(Some(Next::Drain)) => {
                            encoder.group();
                            *has_fed = true;
                        }
                        Ok(None) => {
                            self.wake();
                            self.asleep.insert(id);
                        }
                        Err(why) => self.stop_worker(id, attempt, why),
                    }
                }
            }
        }
        self.wake();
        true
    }

    /// The output does one thing. `false`: it can't.
    fn output(&mut self) -> bool {
        if self.output_sleeps {
            return false;
        }
        match self.engine.pop() {
            Output::Send(sending) => {
                self.events.extend(&sending.events);
                let frame = sending.frame.expect("no headers here");
                if let Some(opens) = &sending.opens {
                    let duration = opens.duration.unwrap_or(1);
                    self.timeline
                        .begin_chunk(opens.depth.min(DEEPEST), &opens.first, duration);
                }
                let of = frame.times.pts;
                let dts = self.timeline.stamp(Shown {
                    private: frame.private,
                    of,
                });
                assert!(dts.private <= frame.private);
                let pts = of.unwrap();
                let own = dts.of.flatten();
                self.dts.push(
                    own.unwrap_or_else(|| dts_before(pts, frame.private, dts.private, self.rate)),
                );
                if sending.kind == Kind::Key {
                    self.keys.insert(frame.number.0);
                }
                self.sent.push(sending.packet);
                if sending.ends_early_start {
                    self.engine.end_early_start();
                }
            }
            Output::Events(events) => {
                self.eos_sent |= events.contains(&u64::MAX);
                self.events.extend(events);
            }
            Output::Wait(_) => {
                self.wake();
                self.output_sleeps = true;
            }
            Output::Fail => {
                if self.engine.begin_to_tell() {
                    self.has_failed = true;
                }
                self.engine.fail("error");
            }
            Output::Rest => panic!("nobody stops"),
        }
        self.wake();
        true
    }

    /// Whatever is told under an old name has no effect.
    fn late(&mut self, pick: usize) {
        let Some(&attempt) = self.over.get(pick % self.over.len().max(1)) else {
            return;
        };
        assert!(self.engine.next(attempt, FrameNo(0)).is_err());
        let coded = Coded {
            number: 0,
            refers: 0,
            bits: 0,
        };
        let times = PacketTimes::default();
        assert!(
            self.engine
                .packet(attempt, Kind::Key, times, coded, 0)
                .is_err()
        );
        assert!(self.engine.verify(attempt, false).is_err());
        assert!(self.engine.delivered(attempt, self.now + 1).is_err());
        let fault = Ending::Faulty(Fault::UnknownTime);
        let consequence = self.engine.ended(attempt, &fault, "late", 1);
        assert!(matches!(consequence, Consequence::Nothing));
        assert!(!self.engine.begin_again(attempt));
        self.engine.skip(attempt, 0);
        self.engine.encoder_ended(attempt);
        self.engine.retry(attempt);
        self.engine.rest(attempt);
        self.wake();
    }

    /// A session hangs from now on.
    fn hang(&mut self, id: usize) {
        if let Worker::Working { attempt, .. } = self.workers[id] {
            self.workers[id] = Worker::Hanging(attempt);
        }
    }

    /// The watch gives up those that hang.
    fn watch(&mut self) -> bool {
        let hung = self
            .workers
            .iter()
            .position(|it| matches!(it, Worker::Hanging(_)));
        let Some(id) = hung else { return false };
        let Worker::Hanging(old) = self.workers[id] else {
            return false;
        };
        let abandoned = self.engine.abandon(SessionId(id)).expect("it was there");
        self.workers[id] = Worker::Gone;
        assert!(self.engine.work(old).is_none());
        if abandoned.is_verified {
            if let Err(Why::Replanned) = self.engine.delivered(abandoned.attempt, 1) {
                self.fails(abandoned.attempt, &Ending::Replanned);
            }
        } else {
            self.fails(abandoned.attempt, &Ending::Stalled);
        }
        self.told(abandoned.attempt);
        assert!(self.engine.abandoned().contains(&SessionId(id)));
        let next = self.engine.replace(SessionId(id)).expect("nobody stops");
        self.engine.unlinked(SessionId(id));
        assert_eq!(next.0, self.workers.len());
        self.workers.push(Worker::Idle);
        self.wake();
        true
    }

    fn check(&self) {
        let (held, peak) = self.engine.held_bytes();
        assert!(held <= self.bound && peak <= self.bound, "{held}, {peak}");
        let alive = self.alive.iter().filter(|it| it.strong_count() > 0).count() as u64;
        // What the encoders themselves hold back comes on top.
        let coding: usize = self
            .workers
            .iter()
            .map(|worker| match worker {
                Worker::Working { encoder, .. } => encoder.waiting.len(),
                _ => 0,
            })
            .sum();
        let door = u64::from(self.at_door.is_some());
        assert!(alive <= held / BYTES + coding as u64 + door);
        // In order: each frame once, and none after one that refers to what comes.
        let numbers: BTreeSet<u64> = self.sent.iter().map(|coded| coded.number).collect();
        assert_eq!(numbers.len(), self.sent.len(), "a frame was sent twice");
    }

    /// Runs until nobody can do anything.
    fn finish(&mut self) {
        loop {
            let mut moved = false;
            while self.output() {
                moved = true;
            }
            for id in 0..self.workers.len() {
                while self.session(id) {
                    moved = true;
                }
            }
            while self.input() {
                moved = true;
            }
            moved |= self.watch();
            if !moved {
                break;
            }
        }
    }

    /// Nobody waits for ever: the stream has ended, and all of it was sent, or it has failed.
    fn assert_ended(&self) {
        self.check();
        assert!(self.has_ended && self.eos_sent, "somebody waits for ever");
        if self.has_failed {
            // What is good has left first.
            let sent: BTreeSet<u64> = self.sent.iter().map(|coded| coded.number).collect();
            let is_whole = (0..self.good).all(|number| sent.contains(&number));
            assert!(is_whole || self.is_lost, "{sent:?} of {}", self.good);
            return;
        }
        assert_eq!(self.sent.len() as u64, self.frames, "frames are missing");
        assert_eq!(self.engine.held_bytes().0, 0);
        assert!(self.engine.is_idle() && self.engine.is_drained());
        assert!(
            self.alive.iter().all(|it| it.strong_count() == 0),
            "a frame leaks"
        );
        let others: Vec<_> = self.events.iter().filter(|it| **it != u64::MAX).collect();
        assert!(others.is_sorted(), "{others:?}");
        // As one encoder makes them: between two key frames, all of the frames between them.
        let mut from = 0;
        for to in self.keys.iter().copied().chain([self.frames]) {
            let group: BTreeSet<u64> = self.sent[from as usize..to as usize]
                .iter()
                .map(|coded| coded.number)
                .collect();
            assert_eq!(group, (from..to).collect());
            from = to;
        }
        // (What left before a chunk was begun anew isn't in its account, and here each frame has the same time.)
        let is_steady = !self.manner.is_random && !self.repeats;
        if self.has_vbv && is_steady && self.engine.tally.vbv_underflows == 0 {
            let mut bucket = Bucket::new(VBV);
            for coded in &self.sent {
                bucket.take(coded.bits);
                bucket.fill(GAP);
            }
            assert_eq!(bucket.take_missing(), 0, "the buffer runs dry unseen");
        }
    }
}

fn setups() -> impl Strategy<Value = Setup> {
    let manner = (
        0usize..4,
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.1),
    );
    let numbers = (1usize..5, 0usize..3, 2u64..20, 0u64..8, 1u64..6, 0u64..70);
    let more = (
        any::<bool>(),
        prop_oneof![Just(1.0), Just(2.0)],
        any::<bool>(),
        0u64..60,
        prop::option::of(0u64..30),
        prop::bool::weighted(0.3),
        any::<bool>(),
    );
    (numbers, manner, more).prop_map(
        |(
            (sessions, spare, own, overlap, min, frames),
            manner,
            (early, rate, repeats, more, seams, has_vbv, drains_anyway),
        )| {
            Setup {
                sessions,
                spare,
                own,
                overlap,
                min,
                frames,
                manner: Manner {
                    bframes: manner.0,
                    ignores_keys: manner.1,
                    is_random: manner.2,
                },
                early,
                rate,
                repeats,
                // Two frames and the overlap around them, at least.
                room: 2 + 2 * overlap + more,
                has_vbv,
                drains_anyway,
                seams,
            }
        },
    )
}

/// What happens next: to whom.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Input,
    /// Frames come until they have to wait.
    Inputs,
    Session(usize),
    /// A session goes on until it has to wait.
    Runs(usize),
    Output,
    EncoderFails(usize),
    Hangs(usize),
    Watch,
    Late(usize),
    KeyRequest(u64),
    KeyAsked,
    Cut,
    EarlyStartEnds,
    Replan(u64),
}

/// Out of a number each, which is made and shrunk faster than a choice of strategies.
fn happenings() -> impl Strategy<Value = Vec<Happens>> {
    let happens = |number: u16| {
        let whom = usize::from(number / 128);
        match number % 128 {
            0..=29 => Happens::Input,
            30..=34 => Happens::Inputs,
            35..=89 => Happens::Session(whom % 6),
            90..=94 => Happens::Runs(whom % 6),
            95..=109 => Happens::Output,
            110 => Happens::EncoderFails(whom % 6),
            111 => Happens::Hangs(whom % 6),
            112..=114 => Happens::Watch,
            115..=117 => Happens::Late(whom),
            118..=119 => Happens::KeyRequest(whom as u64 % 80),
            120..=121 => Happens::KeyAsked,
            122..=123 => Happens::Cut,
            124..=125 => Happens::EarlyStartEnds,
            _ => Happens::Replan(2 + whom as u64 % 18),
        }
    };
    let numbers = prop::collection::vec(any::<u16>(), 0..250);
    numbers.prop_map(move |numbers| numbers.into_iter().map(happens).collect())
}

fn happen(world: &mut World, setup: &Setup, what: Happens) {
    let session = |id: usize| id % world.workers.len();
    match what {
        Happens::Input => {
            world.input();
        }
        Happens::Session(id) => {
            let id = session(id);
            world.session(id);
        }
        Happens::Inputs => while world.input() {},
        Happens::Runs(id) => {
            let id = session(id);
            while world.session(id) {}
        }
        Happens::Output => {
            world.output();
        }
        Happens::EncoderFails(id) => world.engine.encoder_failed(SessionId(session(id))),
        Happens::Hangs(id) => {
            let id = session(id);
            world.hang(id);
        }
        Happens::Watch => {
            world.watch();
        }
        Happens::Late(pick) => world.late(pick),
        Happens::KeyRequest(frame) => {
            let request = keys::Request {
                time: Some(frame * GAP),
                all_headers: false,
                count: 0,
            };
            world.engine.request_key(request, 0, GAP);
        }
        Happens::KeyAsked => {
            let request = keys::Request {
                time: None,
                all_headers: false,
                count: 0,
            };
            world.engine.ask_for_key(request, 0);
        }
        Happens::Cut => world.engine.cut(),
        Happens::EarlyStartEnds => world.engine.end_early_start(),
        Happens::Replan(own) => {
            let plan = plan(&Setup { own, ..*setup });
            world.engine.replan(plan);
        }
    }
    world.wake();
    world.check();
}

/// Runs a world in this order of things, and to its end.
fn run(setup: &Setup, happenings: &[Happens]) -> World {
    let mut world = World::new(setup);
    for &what in happenings {
        happen(&mut world, setup, what);
    }
    world.finish();
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn whatever_happens_each_frame_leaves_once_and_nobody_waits_for_ever(
        setup in setups(),
        happenings in happenings(),
    ) {
        run(&setup, &happenings).assert_ended();
    }
}

/// What doesn't change what is made, only when.
fn schedules() -> impl Strategy<Value = Vec<Happens>> {
    let happens = |number: u16| {
        let whom = usize::from(number / 128);
        match number % 128 {
            0..=27 => Happens::Input,
            28..=99 => Happens::Session(whom % 4),
            100..=124 => Happens::Output,
            125 => Happens::Hangs(whom % 4),
            _ => Happens::Watch,
        }
    };
    let numbers = prop::collection::vec(any::<u16>(), 0..250);
    numbers.prop_map(move |numbers| numbers.into_iter().map(happens).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Packets and their DTS, at any rate, and where timestamps come twice.
    #[test]
    fn what_leaves_depends_on_no_schedule(
        setup in setups(),
        others in 1usize..5,
        schedule in schedules(),
    ) {
        let manner = Manner { is_random: false, ..setup.manner };
        // (One that ignores forced keys costs attempts, so that hangs on top may be too many.)
        let setup = Setup { manner, ..setup };
        let reference = run(&setup, &[]);
        reference.assert_ended();
        let other = Setup { sessions: others, ..setup };
        // Where the memory is short, the plan depends on the number of sessions.
        let chunks = |plan: Plan| (plan.length, plan.seams, plan.min_frames, plan.before, plan.after);
        prop_assume!(chunks(plan(&other)) == chunks(plan(&setup)));
        let world = run(&other, &schedule);
        world.assert_ended();
        // What has begun to leave, as input stood still, isn't encoded again.
        let is_kept = |world: &World| world.engine.tally.vbv_underflows == 0;
        if !world.has_failed && !reference.has_failed && is_kept(&world) && is_kept(&reference) {
            prop_assert_eq!(&world.sent, &reference.sent);
            prop_assert_eq!(&world.dts, &reference.dts);
        }
    }

    /// A flush forgets all of it; a stop wakes everybody.
    #[test]
    fn a_flush_begins_anew_and_a_stop_ends_it(
        setup in setups(),
        happenings in happenings(),
        stops in any::<bool>(),
    ) {
        let mut world = World::new(&setup);
        for &what in &happenings {
            happen(&mut world, &setup, what);
        }
        if stops {
            world.engine.stop();
        } else {
            world.engine.begin_flush();
        }
        let wakes = world.engine.take_wakes().unwrap();
        prop_assert_eq!(wakes.sessions.len(), world.workers.len());
        prop_assert!(wakes.room && wakes.output && wakes.idle);
        let raw = Raw { number: 0, private: 0, _alive: Rc::new(()) };
        let incoming = Incoming {
            times: FrameTimes::default(), assumed_duration: GAP, bytes: BYTES, most_bytes: BYTES, change: None,
        };
        let refused = world.engine.frame(raw, &incoming, 0);
        prop_assert!(matches!(refused, Admission::Flushing(_)));
        prop_assert!(matches!(world.engine.pop(), Output::Rest));
        for id in 0..world.workers.len() {
            world.asleep.clear();
            if let Worker::Working { attempt, .. } | Worker::Hanging(attempt) = world.workers[id] {
                prop_assert!(world.engine.next(attempt, FrameNo(0)).is_err());
                world.fails(attempt, &Ending::Aborted);
                world.told(attempt);
            } else if let Worker::Telling(attempt) = world.workers[id] {
                world.told(attempt);
            }
            world.workers[id] = Worker::Idle;
        }
        prop_assert!(world.engine.is_idle());
        if stops {
            prop_assert!(matches!(world.engine.take(SessionId(0), 0), Take::Stop));
            return Ok(());
        }
        world.at_door = None;
        drop(world.engine.end_flush(|_| false));
        prop_assert!(world.alive.iter().all(|it| it.strong_count() == 0));
        // What comes then is as in a new one.
        let mut again = World::new(&setup);
        std::mem::swap(&mut again.engine, &mut world.engine);
        if setup.early {
            again.engine.arm_early_start(true);
        }
        let workers = (0..world.workers.len()).map(SessionId);
        again.workers = workers
            .map(|id| if again.engine.is_abandoned(id) { Worker::Gone } else { Worker::Idle })
            .collect();
        // One that had failed too often stays closed, and may have been the only one.
        prop_assume!(again.engine.open_sessions() > 0);
        again.wake();
        again.finish();
        again.assert_ended();
    }
}

/// Frames wait for room, the oldest chunk failed, and before it is offered again, the only place is taken for the next one: whoever has
/// that one gives it back when it runs out of frames.
/// Sessions that are as fast as each other do one thing in each moment.
#[test]
fn the_time_left_is_right_after_a_tenth() {
    for (sessions, own, overlap, frames) in [(2, 50, 5, 640), (3, 100, 10, 700), (4, 30, 0, 1_000)]
    {
        let setup = Setup {
            sessions,
            own,
            overlap,
            min: own,
            frames,
            room: 10_000,
            manner: Manner {
                bframes: 3,
                ..SETUP.manner
            },
            drains_anyway: true,
            ..SETUP
        };
        let mut world = World::new(&setup);
        let mut told = Vec::new();
        while !world.eos_sent {
            world.now += 1_000;
            for _ in 0..3 {
                world.input();
            }
            for id in 0..sessions {
                world.session(id);
            }
            while world.output() {}
            let progress = world.engine.progress(world.now, Some(frames));
            if progress.fraction() >= Some(0.1) {
                told.push((world.now, progress.time_left.unwrap()));
            }
            assert!(world.now < 10_000_000, "{setup:?}");
        }
        let end = world.now;
        // The last frames are a moment in which anything is much.
        let enough = told.iter().filter(|(now, _)| end - now > end / 10);
        let wrong: Vec<_> = enough
            .map(|&(now, left)| (now, left as f64 / (end - now) as f64))
            .filter(|(_, ratio)| !(0.8..=1.25).contains(ratio))
            .collect();
        assert!(wrong.is_empty(), "{end}: {wrong:?}");
        assert!(told.len() > 100);
    }
}

#[test]
fn the_only_place_goes_to_the_oldest_chunk() {
    let setup = Setup {
        spare: 1,
        own: 7,
        overlap: 2,
        min: 7,
        frames: 40,
        room: 16,
        ..SETUP
    };
    let failure = [
        Happens::Inputs,
        Happens::Session(0),
        Happens::EncoderFails(0),
        Happens::Session(0),
        Happens::Session(1),
        Happens::Session(0),
        // Woken in vain.
        Happens::Input,
        Happens::Runs(1),
    ];
    run(&setup, &failure).assert_ended();
}

/// A chunk loses its overlap while it is open, and a key frame ends it after one frame: the next one's lead reaches back beyond it.
#[test]
fn the_next_chunk_has_its_lead_whatever_the_open_one_has_lost() {
    let setup = Setup {
        sessions: 4,
        spare: 1,
        own: 17,
        overlap: 4,
        frames: 53,
        manner: Manner {
            ignores_keys: true,
            ..SETUP.manner
        },
        room: 52,
        ..SETUP
    };
    let order = [
        Happens::Inputs,
        Happens::KeyAsked,
        Happens::Session(1),
        Happens::Runs(0),
        Happens::Input,
    ];
    run(&setup, &order).assert_ended();
}

/// What left of a chunk can't be made again, and was all that had come: whoever waits for the rest goes on with its first frame.
#[test]
fn a_resumed_chunk_is_taken_when_its_first_frame_comes() {
    let setup = Setup {
        early: true,
        manner: Manner {
            is_random: true,
            ..SETUP.manner
        },
        ..SETUP
    };
    let mut world = World::new(&setup);
    world.input();
    let runs = |world: &mut World| {
        while world.session(0) {
            while world.output() {}
        }
    };
    runs(&mut world);
    assert_eq!(world.sent.len(), 1);
    world.engine.encoder_failed(SessionId(0));
    world.wake();
    runs(&mut world);
    assert!(matches!(world.workers[0], Worker::Idle));
    world.input();
    assert!(!world.asleep.contains(&0));
    world.finish();
    world.assert_ended();
}

#[test]
fn a_stall_lets_packets_leave_and_then_what_is_withheld() {
    let setup = Setup {
        own: 8,
        min: 4,
        frames: 10,
        ..SETUP
    };
    let mut world = World::new(&setup);
    for _ in 0..10 {
        world.input();
    }
    for _ in 0..50 {
        world.session(0);
        world.output();
    }
    // Eight frames of the chunk are made; two may be its tail or the next chunk's.
    assert!(world.sent.is_empty());
    let Output::Wait(Some(until)) = world.engine.pop() else {
        panic!("it watches the input");
    };
    let stalled = world.engine.stalled(until - 1);
    assert!(matches!(stalled, Stalled::No));
    let stalled = world.engine.stalled(until);
    assert!(matches!(stalled, Stalled::LeavesEarly));
    // An encoder without reordering says nothing: as many as show it.
    for _ in 0..50 {
        world.output();
    }
    assert!(world.sent.is_empty());
    let until = world.engine.deadline().unwrap();
    let stalled = world.engine.stalled(until);
    assert!(matches!(stalled, Stalled::GivenOut { cut: true }));
    assert_eq!(world.engine.deadline(), None, "nothing more can be done");
    world.wake();
    world.to_come = 10;
    for _ in 0..50 {
        world.session(0);
        world.output();
    }
    assert_eq!(world.sent.len(), 10);
}

#[test]
fn stopping_has_a_limit_whatever_signs_there_are() {
    let setup = Setup { spare: 1, ..SETUP };
    let mut world = World::new(&setup);
    world.input();
    world.session(0);
    assert_eq!(world.engine.tick(Some(9), 2, |_| false), []);
    world.engine.stop();
    assert_eq!(world.engine.tick(Some(9), 2, |_| false), []);
    world.session(0);
    assert_eq!(world.engine.tick(Some(9), 2, |_| false), [SessionId(0)]);
}

/// They answer requests for moments that have passed.
#[test]
fn key_frames_are_known_until_they_leave() {
    let setup = Setup {
        sessions: 2,
        ..SETUP
    };
    let mut world = World::new(&setup);
    for _ in 0..25 {
        world.input();
    }
    assert_eq!(world.frames, 25);
    let key = |world: &World, time| Some(world.engine.stream.next_key(time * GAP)?.0);
    let known = [0, 1, 10, 11, 21].map(|time| key(&world, time));
    assert_eq!(known, [Some(0), Some(10), Some(10), Some(20), None]);
    // One that is asked for is known from then on.
    world.engine.force_key_at(23 * GAP);
    assert_eq!(key(&world, 21), Some(23));
    while world.session(0) {
        while world.output() {}
    }
    assert_eq!(world.sent.len(), 20);
    assert_eq!(key(&world, 0), Some(20));
}

/// Each chunk's key frame takes three quarters of what its encoder was told of, so the buffer gets emptier, and there is less than was
/// guessed.
#[test]
fn a_chunk_that_wants_more_than_there_is_is_encoded_again() {
    let sent = |sessions| {
        let setup = Setup {
            sessions,
            own: 5,
            frames: 60,
            has_vbv: true,
            ..SETUP
        };
        let mut world = World::new(&setup);
        world.finish();
        world.assert_ended();
        let tally = &world.engine.tally;
        assert!(tally.vbv_retries > 0);
        assert_eq!((tally.vbv_underflows, tally.attempts_failed), (0, 0));
        assert_eq!(tally.chunks_finished, 12);
        world.sent
    };
    assert_eq!(sent(1), sent(4));
}

/// Between being found to hang and being abandoned, a session may come to rest.
#[test]
fn a_session_that_rests_is_not_abandoned() {
    let mut engine = Engine::<Imagined>::new(Settings {
        max_attempts: 3,
        forces_keys: true,
        key_period: None,
        vbv: None,
        drains_anyway: false,
        given: None,
    });
    let id = engine.add_session();
    assert!(engine.abandon(id).is_none());
    assert!(!engine.is_abandoned(id));
    assert!(engine.abandoned().is_empty());
    engine.abandon_placed(id);
    assert_eq!(engine.abandoned(), [id]);
}
