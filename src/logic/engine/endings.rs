// SPDX-License-Identifier: MPL-2.0

//! What becomes of attempts that end without their chunks: carries out what the verdict says.

use super::sessions::{AttemptPhase, SessionState};
use super::verdict::{self, Ending, Facts, Fate, GiveUpReason};
use super::{Engine, Freed, Media};
use crate::logic::ids::{AttemptId, ChunkId, FrameNo, FrameRange, SessionId};
use crate::logic::roster::Then;
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
    Again(Again<M::Failure>, Freed<M>),
    /// The stream fails: say why.
    GiveUp(Report<M::Failure>, GiveUpReason),
}

impl<M: Media> Engine<M> {
    /// The attempt is over without its chunk. `busy`: how long it took.
    pub fn ended(
        &mut self,
        attempt: AttemptId,
        ending: &Ending,
        failure: M::Failure,
        busy: u64,
    ) -> Consequence<M> {
        let is_aborting = self.is_aborting();
        let Some(work) = self.work(attempt) else {
            return Consequence::Nothing;
        };
        work.phase = AttemptPhase::Done;
        if is_aborting || *ending == Ending::Aborted {
            return Consequence::Nothing;
        }
        let (chunk, number) = (work.chunk, work.number);
        self.tally.attempt(attempt.session, 0, busy);
        let Some(facts) = self.facts(attempt, ending) else {
            return Consequence::Nothing;
        };
        let fate = verdict::judge(&facts, ending);
        if let Some(stream) = &mut self.stream {
            stream.stores.retract(chunk);
        }
        // One session less may be what somebody waits for.
        self.wakes.room = true;
        match fate {
            Fate::Dropped => Consequence::Nothing,
            Fate::Anew { drop } => {
                self.again(attempt, (chunk, number), Then::Idle);
                let dropped = drop.is_some_and(|side| self.drop_overlap(chunk, side));
                let again = match dropped {
                    true => Again::WithoutOverlap,
                    false => Again::Replanned,
                };
                Consequence::Again(again, Freed(Vec::new()))
            }
            Fate::Resume(start) => {
                self.again(attempt, (chunk, number), Then::Idle);
                Consequence::Again(Again::Replanned, self.resume(chunk, start))
            }
            Fate::CloseSession => {
                self.again(attempt, (chunk, number), Then::Closed);
                Consequence::Again(Again::SessionClosed, Freed(Vec::new()))
            }
            Fate::AwaitDevice { closes } => {
                let then = if closes {
                    Then::Closed
                } else {
                    Then::AwaitsDevice
                };
                self.fails(attempt, (chunk, number), number, then, failure)
            }
            Fate::Again { closes } => {
                let then = if closes { Then::Closed } else { Then::Idle };
                self.fails(attempt, (chunk, number), number + 1, then, failure)
            }
            Fate::GiveUp(reason) => {
                let report = self.report(attempt.session, chunk, number, failure);
                Consequence::GiveUp(report, reason)
            }
        }
    }

    fn facts(&mut self, attempt: AttemptId, ending: &Ending) -> Option<Facts> {
        let session = self.sessions.get(attempt.session.0)?;
        let work = session.work.as_ref()?;
        let stream = self.stream.as_ref()?;
        let id = attempt.session;
        let mut facts = Facts {
            number: work.number,
            max_attempts: self.settings.max_attempts,
            replanned: work.replanned,
            made_packets: work.made_packets,
            opened_without_key: work.opens_with == Some(Kind::Delta),
            has_overlap: false,
            any_made_packets: stream.any_packets,
            session_works: session.works,
            failures: stream.roster.failures(id),
            others_run: stream.roster.others_run(id),
            open_sessions: stream.roster.open(),
            resume_at: stream.stores.resume_at(work.chunk),
        };
        let side = ending.side(&facts);
        facts.has_overlap = side.is_some_and(|side| stream.chunker.has_overlap(work.chunk, side));
        Some(facts)
    }

    /// The chunk is offered again when it was said why.
    fn again(&mut self, attempt: AttemptId, next: (ChunkId, u32), then: Then) {
        if let Some(stream) = &mut self.stream {
            stream.roster.end(attempt.session, then);
            stream.retries.insert(attempt, next);
        }
        let session = &mut self.sessions[attempt.session.0];
        if then == Then::Closed && session.state == SessionState::Open {
            session.state = SessionState::Closed;
        }
        self.wake_takers();
    }

    /// One failure more of a session.
    fn fails(
        &mut self,
        attempt: AttemptId,
        (chunk, number): (ChunkId, u32),
        next: u32,
        then: Then,
        failure: M::Failure,
    ) -> Consequence<M> {
        if let Some(stream) = &mut self.stream {
            stream.roster.count_failure(attempt.session);
        }
        self.tally.attempts_failed += 1;
        let report = self.report(attempt.session, chunk, number, failure);
        self.again(attempt, (chunk, next), then);
        let closes = then == Then::Closed;
        Consequence::Again(Again::Failed { report, closes }, Freed(Vec::new()))
    }

    /// Remembers a failed attempt, and says all that is known of its chunk.
    fn report(
        &mut self,
        session: SessionId,
        chunk: ChunkId,
        number: u32,
        failure: M::Failure,
    ) -> Report<M::Failure> {
        let mut report = Report {
            session,
            chunk,
            number,
            max_attempts: self.settings.max_attempts,
            frames: FrameRange::new(0, 0),
            start: None,
            end: None,
            attempts: Vec::new(),
        };
        let Some(stream) = &mut self.stream else {
            return report;
        };
        let failures = stream.failures.entry(chunk).or_default();
        failures.push(FailedAttempt {
            number,
            session,
            failure,
        });
        report.attempts = failures.clone();
        if let Some(own) = stream.chunker.own(chunk) {
            let last = FrameNo(own.end.0.saturating_sub(1)).max(own.start);
            let times = |frame| stream.frames.get(frame).map(|entry| entry.times);
            report.frames = own;
            report.start = times(own.start).and_then(|times| times.pts);
            report.end = times(last).and_then(|times| {
                let duration = times.duration.unwrap_or_default();
                Some(times.pts?.saturating_add(duration))
            });
        }
        report
    }

    /// It was said why the chunk is encoded again: it may be taken.
    pub fn retry(&mut self, attempt: AttemptId) {
        let stream = self.stream.as_mut();
        let retry = stream.and_then(|it| Some((it.retries.remove(&attempt)?, it)));
        if let Some(((chunk, number), stream)) = retry {
            stream.roster.offer(chunk, number);
            self.wake_takers();
            self.recall_if_stuck();
        }
    }

    /// A chunk loses its overlap where that explains its fault, and others with it.
    fn drop_overlap(&mut self, chunk: ChunkId, side: Side) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let losing = stream.chunker.drop_overlap(chunk, side);
        self.overlap_dropped |= !stream.chunker.plan().overlaps();
        for &losing in losing.iter().filter(|losing| **losing != chunk) {
            self.begin_anew(losing);
        }
        !losing.is_empty()
    }
}
