// SPDX-License-Identifier: MPL-2.0

//! What becomes of attempts that end without their chunks: carries out what the verdict says.

use super::sessions::{AttemptPhase, SessionState};
use super::verdict::{self, Ending, Facts, Fate, GiveUpReason};
use super::{Engine, Media};
use crate::logic::ids::{AttemptId, ChunkId, FrameNo, FrameRange, SessionId};
use crate::logic::roster::Slot;
use crate::logic::store::{Kind, Side};

/// An attempt that failed.
#[derive(Debug, Clone)]
pub struct FailedAttempt<F> {
    pub number: u32,
    pub session: SessionId,
    pub failure: F,
}

/// What is known of a chunk of which an attempt failed.
#[derive(Debug, Clone)]
pub struct Report<F> {
    pub session: SessionId,
    pub chunk: ChunkId,
    /// Of the attempt.
    pub number: u32,
    pub max_attempts: u32,
    /// The chunk's own frames, as far as they have come.
    pub frames: FrameRange,
    /// When the first of them begins and the last one ends, in the stream's own time.
    pub start: Option<u64>,
    pub end: Option<u64>,
    /// All attempts at it that failed, the last one too.
    pub attempts: Vec<FailedAttempt<F>>,
}

/// Why a chunk is encoded again.
#[derive(Debug)]
pub enum Again<F> {
    /// It was planned anew, or begins after what was sent of it.
    Replanned,
    /// Its overlap was dropped, which explains the fault.
    WithoutOverlap,
    /// The session is closed, as it can't open an encoder.
    SessionClosed,
    /// The attempt failed. `closes`: once too often in a row for its session, which is closed.
    Failed { report: Report<F>, closes: bool },
}

/// What follows from the end of an attempt.
#[must_use]
pub enum Consequence<M: Media> {
    /// Nothing, or nobody waits for it any more.
    Nothing,
    /// Say why, as the stream may end with it, and then [retry](Engine::retry).
    Again {
        chunk: ChunkId,
        /// Of the attempt that is over.
        number: u32,
        why: Again<M::Failure>,
    },
    /// The stream fails: say why.
    GiveUp(Report<M::Failure>, GiveUpReason),
}

impl<M: Media> Engine<M> {
    /// The attempt is over without its chunk.
    pub fn ended(
        &mut self,
        attempt: AttemptId,
        ending: &Ending,
        failure: M::Failure,
        now: u64,
    ) -> Consequence<M> {
        let is_aborting = self.is_aborting();
        let Some(work) = self.work(attempt) else {
            return Consequence::Nothing;
        };
        work.phase = AttemptPhase::Done;
        if is_aborting || *ending == Ending::Aborted {
            // Older chunks than the one that is doomed may wait for it.
            self.stream.roster.end(attempt.session, Slot::Idle);
            self.wake_takers();
            return Consequence::Nothing;
        }
        let (chunk, number) = (work.chunk, work.number);
        let busy = now.saturating_sub(work.since);
        self.tally.attempt(attempt.session, 0, busy);
        let Some(facts) = self.facts(attempt, ending) else {
            return Consequence::Nothing;
        };
        let fate = verdict::judge(&facts, ending);
        self.stream.stores.retract(chunk);
        // One session less may be what somebody waits for.
        self.wakes.room = true;
        let (next, slot) = match fate {
            Fate::Dropped => return Consequence::Nothing,
            Fate::GiveUp(reason) => {
                let report = self.report(attempt.session, chunk, number, failure);
                let closes = reason == GiveUpReason::NoSession;
                let slot = if closes { Slot::Closed } else { Slot::Idle };
                self.stream.roster.end(attempt.session, slot);
                return Consequence::GiveUp(report, reason);
            }
            Fate::Anew { .. } | Fate::Resume(_) => (number, Slot::Idle),
            Fate::CloseSession | Fate::AwaitDevice { closes: true } => (number, Slot::Closed),
            Fate::AwaitDevice { closes: false } => (number, Slot::AwaitsDevice),
            Fate::Again { closes: true } => (number + 1, Slot::Closed),
            Fate::Again { closes: false } => (number + 1, Slot::Idle),
        };
        self.stream.roster.end(attempt.session, slot);
        // The chunk is offered again when it was said why.
        self.stream.retries.insert(attempt, (chunk, next));
        let session = &mut self.sessions[attempt.session.0];
        if slot == Slot::Closed && session.state == SessionState::Open {
            session.state = SessionState::Closed;
        }
        self.wake_takers();
        let why = match fate {
            Fate::Anew { drop: Some(side) } => {
                self.drop_overlap(chunk, side);
                Again::WithoutOverlap
            }
            Fate::Resume(start) => {
                self.resume(chunk, start);
                Again::Replanned
            }
            Fate::CloseSession => Again::SessionClosed,
            Fate::AwaitDevice { closes } | Fate::Again { closes } => {
                self.stream.roster.seats[attempt.session.0].failures += 1;
                self.tally.attempts_failed += 1;
                let report = self.report(attempt.session, chunk, number, failure);
                Again::Failed { report, closes }
            }
            _ => Again::Replanned,
        };
        Consequence::Again { chunk, number, why }
    }

    fn facts(&self, attempt: AttemptId, ending: &Ending) -> Option<Facts> {
        let id = attempt.session;
        let session = self.sessions.get(id.0)?;
        let work = session.work.as_ref()?;
        let stream = &self.stream;
        let live = stream.chunker.live(work.chunk)?;
        let mut facts = Facts {
            number: work.number,
            max_attempts: self.settings.max_attempts,
            replanned: work.replanned,
            made_packets: work.made.any,
            opened_without_key: work.made.opens_with == Some(Kind::Delta),
            has_overlap: false,
            any_made_packets: stream.any_packets,
            session_works: session.works,
            failures: stream.roster.seats[id.0].failures,
            others_run: stream.roster.others_run(id),
            open_sessions: stream.roster.open(),
            resume_at: stream.stores.resume_at(work.chunk),
        };
        let side = ending.side(&facts);
        facts.has_overlap = match side {
            // Others know of a chunk that was given that it has it.
            _ if self.settings.given.is_some() => false,
            Some(Side::Lead) => work.first < live.start,
            Some(Side::Trail) => live.has_overlap(Side::Trail),
            None => false,
        };
        Some(facts)
    }

    /// Remembers a failed attempt, and says all that is known of its chunk.
    fn report(
        &mut self,
        session: SessionId,
        chunk: ChunkId,
        number: u32,
        failure: M::Failure,
    ) -> Report<M::Failure> {
        let stream = &mut self.stream;
        let attempts = stream.failures.entry(chunk).or_default();
        attempts.push(FailedAttempt {
            number,
            session,
            failure,
        });
        let attempts = attempts.clone();
        let frames = stream.chunker.own(chunk).unwrap_or(FrameRange::new(0, 0));
        let last = FrameNo(frames.end.0.saturating_sub(1)).max(frames.start);
        let times = |frame| stream.frames.get(frame).map(|entry| entry.times);
        Report {
            session,
            chunk,
            number,
            max_attempts: self.settings.max_attempts,
            frames,
            start: times(frames.start).and_then(|times| times.pts),
            end: times(last).and_then(|times| {
                let duration = times.duration.unwrap_or_default();
                Some(times.pts?.saturating_add(duration))
            }),
            attempts,
        }
    }

    /// The stream fails with this chunk, or with what would come next: nothing more comes in, older chunks are encoded, and what is good
    /// leaves before the [end](crate::logic::engine::Output::Fail). `false`: it fails with an older one, or has ended.
    pub fn doom(&mut self, chunk: Option<ChunkId>) -> bool {
        self.cut();
        let chunk = chunk.unwrap_or(self.stream.chunker.next_id);
        if self.is_aborting() || self.stream.roster.is_doomed(chunk) {
            return false;
        }
        self.stream.roster.doomed = Some(chunk);
        self.wake_everybody();
        true
    }

    /// It was said why the chunk is encoded again: it may be taken.
    pub fn retry(&mut self, attempt: AttemptId) {
        if let Some((chunk, number)) = self.stream.retries.remove(&attempt) {
            self.stream.roster.offer(chunk, number);
            self.wake_takers();
            self.recall_if_stuck();
        }
    }

    /// A chunk loses its overlap where that explains its fault, and others with it.
    fn drop_overlap(&mut self, chunk: ChunkId, side: Side) {
        let (losing, unneeded) = self.stream.chunker.drop_overlap(chunk, side);
        self.stream.let_go(&unneeded);
        self.overlap_dropped |= !self.stream.chunker.plan.overlaps();
        for losing in losing.into_iter().filter(|losing| *losing != chunk) {
            self.begin_anew(losing);
        }
    }
}
