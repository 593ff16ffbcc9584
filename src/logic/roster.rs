// SPDX-License-Identifier: MPL-2.0

//! Which session encodes which chunk, and what becomes of a chunk whose session failed.

use super::ids::{ChunkId, SessionId};
use std::collections::BTreeMap;

/// A session that fails so often without a success between is closed.
pub const MOST_FAILURES: u32 = 3;

/// A slot, and how often its encoders failed since the last success.
#[derive(Debug, Clone, Copy)]
struct Seat {
    slot: Slot,
    failures: u32,
}

/// A slot's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Idle,
    Running(Attempt),
    /// It could not open an encoder, which it could before: it takes no chunk until another session has let go of its own.
    Resting,
    /// It takes no chunk any more.
    Closed,
}

/// One try at a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    pub chunk: ChunkId,
    /// 1 for the first try.
    pub number: u32,
}

/// What becomes of a chunk whose session failed.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// Warn of this attempt, then [offer](Roster::offer_again) the next one and wake a session. `closes`: it was one failure too
    /// many for its session, which takes no more.
    Again {
        attempt: Attempt,
        next: Attempt,
        closes: bool,
    },
    /// The stream fails: report this attempt's error.
    GiveUp { attempt: Attempt, because: Because },
}

/// Why there is no other attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// There were as many as there may be.
    Attempts,
    /// What has left can't be made again.
    Left,
    /// Another attempt would end the same way.
    Hopeless,
    /// No session is left to make it.
    Sessions,
}

/// Hands chunks to sessions, the oldest first.
#[derive(Debug)]
pub struct Roster {
    seats: Vec<Seat>,
    /// Sessions that may work at the same time.
    sessions: u64,
    /// Tries at one chunk, the first included, before the stream fails.
    max_attempts: u32,
    /// Chunks that nobody has, with the number of the attempt that comes next.
    waiting: BTreeMap<ChunkId, u32>,
    /// First chunk that hasn't left yet.
    next_to_leave: ChunkId,
}

impl Roster {
    /// `seats`: sessions that there are, whatever became of them; `sessions`: that may work at the same time.
    pub fn new(seats: usize, sessions: u64, max_attempts: u32) -> Self {
        let idle = Seat {
            slot: Slot::Idle,
            failures: 0,
        };
        Self {
            seats: vec![idle; seats],
            sessions,
            max_attempts,
            waiting: BTreeMap::new(),
            next_to_leave: ChunkId(0),
        }
    }

    /// A new chunk may be taken.
    pub fn offer(&mut self, chunk: ChunkId) {
        self.waiting.insert(chunk, 1);
    }

    /// So many sessions may work at the same time from now on.
    pub fn set_sessions(&mut self, sessions: u64) {
        self.sessions = sessions;
    }

    /// So many sessions more may work.
    fn places(&self) -> usize {
        let seats = self.seats.iter();
        let running = seats.filter(|seat| matches!(seat.slot, Slot::Running(_)));
        let sessions = usize::try_from(self.sessions).unwrap_or(usize::MAX);
        sessions.saturating_sub(running.count())
    }

    /// As many sessions work as may.
    fn is_full(&self) -> bool {
        self.places() == 0
    }

    /// How far ahead of the output a chunk may be taken: what was encoded and cannot leave, because
    /// downstream is slow or an older chunk is, stays bounded.
    pub fn window(&self) -> u64 {
        2 * self.sessions
    }

    /// Chunks that sessions could take now.
    fn offered(&self) -> impl Iterator<Item = (&ChunkId, &u32)> {
        let end = self.next_to_leave.0.saturating_add(self.window());
        self.waiting.range(..ChunkId(end))
    }

    /// Of these sessions, which wait for a chunk, as many as there are chunks for: wake them.
    pub fn takers(
        &self,
        sessions: impl Iterator<Item = SessionId>,
    ) -> impl Iterator<Item = SessionId> {
        let is_idle =
            |id: &SessionId| matches!(self.seats.get(id.0), Some(seat) if seat.slot == Slot::Idle);
        let chunks = self.offered().count();
        sessions.filter(is_idle).take(chunks.min(self.places()))
    }

    /// An idle session asks for work. `None`: wait until a chunk is offered, failed or left.
    pub fn take(&mut self, session: SessionId) -> Option<Attempt> {
        if self.seats[session.0].slot != Slot::Idle || self.is_full() {
            return None;
        }
        let (&chunk, &number) = self.offered().next()?;
        self.waiting.remove(&chunk);
        let attempt = Attempt { chunk, number };
        self.seats[session.0].slot = Slot::Running(attempt);
        Some(attempt)
    }

    /// The attempt that the session makes.
    pub fn attempt_of(&self, session: SessionId) -> Option<Attempt> {
        match self.seats[session.0].slot {
            Slot::Running(attempt) => Some(attempt),
            Slot::Idle | Slot::Resting | Slot::Closed => None,
        }
    }

    /// The chunk that the session has.
    pub fn chunk_of(&self, session: SessionId) -> Option<ChunkId> {
        self.attempt_of(session).map(|attempt| attempt.chunk)
    }

    /// All packets of the chunks before `next` have left.
    pub fn left(&mut self, next: ChunkId) {
        self.next_to_leave = self.next_to_leave.max(next);
    }

    /// The session delivered its chunk.
    pub fn succeeded(&mut self, session: SessionId) {
        self.seats[session.0] = Seat {
            slot: Slot::Idle,
            failures: 0,
        };
        self.rouse();
    }

    /// The session gives its chunk back, to be begun anew: through no fault of its own, so it is the same attempt.
    pub fn give_back(&mut self, session: SessionId) {
        self.put_back(session, Slot::Idle);
        self.rouse();
    }

    /// The session's chunk waits again, and its slot is `then`.
    fn put_back(&mut self, session: SessionId, then: Slot) {
        let slot = std::mem::replace(&mut self.seats[session.0].slot, then);
        if let Slot::Running(attempt) = slot {
            self.waiting.insert(attempt.chunk, attempt.number);
        }
    }

    /// Some session let go of its encoder.
    fn rouse(&mut self) {
        for seat in &mut self.seats {
            if seat.slot == Slot::Resting {
                seat.slot = Slot::Idle;
            }
        }
    }

    /// Sessions that may take a chunk, now or later.
    fn open(&self) -> usize {
        let open = self.seats.iter().filter(|seat| seat.slot != Slot::Closed);
        open.count()
    }

    /// The session could not open an encoder, while others have theirs: its chunk waits, for the same attempt, and it waits for one
    /// of them to let go. `None`: nobody else has one, so that can't be why.
    pub fn rest(&mut self, session: SessionId) -> Option<AfterFailure> {
        let attempt = self.attempt_of(session)?;
        let running = self.seats.iter().enumerate();
        let mut others =
            running.filter(|(id, seat)| *id != session.0 && matches!(seat.slot, Slot::Running(_)));
        others.next()?;
        let closes = self.count_failure(session);
        // (This session lets go of nothing that others wait for.)
        let then = if closes { Slot::Closed } else { Slot::Resting };
        self.seats[session.0].slot = then;
        Some(AfterFailure::Again {
            attempt,
            next: attempt,
            closes,
        })
    }

    /// One more failure. `true`: one too many.
    fn count_failure(&mut self, session: SessionId) -> bool {
        let seat = &mut self.seats[session.0];
        seat.failures += 1;
        seat.failures >= MOST_FAILURES
    }

    /// No encoder could be opened in the session's slot: it is closed from now on, and its chunk waits for another. `false`:
    /// it is the last one, and stays.
    #[must_use]
    pub fn close(&mut self, session: SessionId) -> bool {
        if self.open() <= 1 {
            return false;
        }
        self.put_back(session, Slot::Closed);
        self.rouse();
        true
    }

    /// Another session takes the place of this one, closed or not, and its failures with it.
    pub fn replace(&mut self, session: SessionId, is_closed: bool) -> SessionId {
        let failures = self.seats[session.0].failures;
        let slot = match is_closed {
            true => Slot::Closed,
            false => Slot::Idle,
        };
        self.put_back(session, Slot::Closed);
        self.seats.push(Seat { slot, failures });
        SessionId(self.seats.len() - 1)
    }

    /// The session takes no chunk, whatever there is, unless another one lets go of its own.
    pub fn is_out(&self, session: SessionId) -> bool {
        match self.seats[session.0].slot {
            Slot::Resting | Slot::Closed => true,
            Slot::Idle => self.is_full(),
            Slot::Running(_) => false,
        }
    }

    #[cfg(test)]
    fn is_closed(&self, session: SessionId) -> bool {
        self.seats[session.0].slot == Slot::Closed
    }

    /// The chunk is in nobody's hands.
    pub fn is_waiting(&self, chunk: ChunkId) -> bool {
        self.waiting.contains_key(&chunk)
    }

    /// The session could not deliver its chunk. `final_because`: there can be no other attempt, for this reason.
    pub fn failed(
        &mut self,
        session: SessionId,
        final_because: Option<Because>,
    ) -> Option<AfterFailure> {
        let attempt = self.attempt_of(session)?;
        let closes = self.count_failure(session);
        let then = if closes { Slot::Closed } else { Slot::Idle };
        self.seats[session.0].slot = then;
        self.rouse();
        let because = match final_because {
            Some(because) => Some(because),
            None if attempt.number >= self.max_attempts => Some(Because::Attempts),
            None => (self.open() == 0).then_some(Because::Sessions),
        };
        if let Some(because) = because {
            return Some(AfterFailure::GiveUp { attempt, because });
        }
        let next = Attempt {
            number: attempt.number + 1,
            ..attempt
        };
        Some(AfterFailure::Again {
            attempt,
            next,
            closes,
        })
    }

    /// The next attempt at a chunk may be made.
    pub fn offer_again(&mut self, next: Attempt) {
        self.waiting.insert(next.chunk, next.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(0);
    const B: SessionId = SessionId(1);

    fn roster(chunks: u64) -> Roster {
        let mut roster = Roster::new(2, 2, 3);
        for chunk in 0..chunks {
            roster.offer(ChunkId(chunk));
        }
        roster
    }

    fn attempt(chunk: u64, number: u32) -> Option<Attempt> {
        Some(Attempt {
            chunk: ChunkId(chunk),
            number,
        })
    }

    #[test]
    fn free_sessions_take_the_oldest_chunk() {
        let mut roster = roster(3);
        assert_eq!(roster.take(B), attempt(0, 1));
        assert_eq!(roster.take(A), attempt(1, 1));
        roster.succeeded(A);
        assert_eq!(roster.take(A), attempt(2, 1));
        roster.succeeded(A);
        assert_eq!(roster.take(A), None);
    }

    /// The session fails, and its chunk is offered again.
    fn fails(roster: &mut Roster, session: SessionId, chunk: u64, number: u32) -> bool {
        let verdict = roster.failed(session, None);
        again(
            roster,
            verdict,
            attempt(chunk, number),
            attempt(chunk, number + 1),
        )
    }

    fn rests(roster: &mut Roster, session: SessionId, chunk: u64) -> bool {
        let verdict = roster.rest(session);
        again(roster, verdict, attempt(chunk, 1), attempt(chunk, 1))
    }

    /// Offers the next attempt. Returns whether the session is closed.
    fn again(
        roster: &mut Roster,
        verdict: Option<AfterFailure>,
        failed: Option<Attempt>,
        expected: Option<Attempt>,
    ) -> bool {
        let Some(AfterFailure::Again {
            attempt,
            next,
            closes,
        }) = verdict
        else {
            panic!("{verdict:?}");
        };
        assert_eq!((Some(attempt), Some(next)), (failed, expected));
        roster.offer_again(next);
        closes
    }

    fn give_up(chunk: u64, number: u32, because: Because) -> Option<AfterFailure> {
        attempt(chunk, number).map(|attempt| AfterFailure::GiveUp { attempt, because })
    }

    #[test]
    fn as_many_are_woken_as_there_are_chunks_and_places() {
        let mut roster = Roster::new(4, 3, 3);
        let woken = |roster: &Roster| {
            let waiting = (0..4).map(SessionId);
            roster.takers(waiting).collect::<Vec<_>>()
        };
        assert_eq!(woken(&roster), []);
        roster.offer(ChunkId(0));
        roster.offer(ChunkId(1));
        assert_eq!(woken(&roster), [A, B]);
        // Not who has one, or can't have one.
        roster.take(A).unwrap();
        assert!(roster.close(B));
        assert_eq!(woken(&roster), [SessionId(2)]);
        // Nor for a chunk that is too far from the output.
        roster.offer(ChunkId(6));
        assert_eq!(woken(&roster), [SessionId(2)]);
        roster.left(ChunkId(1));
        assert_eq!(woken(&roster), [SessionId(2), SessionId(3)]);
        roster.set_sessions(2);
        assert_eq!(woken(&roster), [SessionId(2)]);
    }

    #[test]
    fn a_session_that_cannot_open_waits_for_another_to_let_go() {
        let mut roster = roster(3);
        assert_eq!(roster.take(A), attempt(0, 1));
        assert_eq!(roster.rest(A), None, "nobody else has an encoder");
        assert_eq!(roster.take(B), attempt(1, 1));
        assert!(!rests(&mut roster, A, 0));
        assert_eq!(roster.take(A), None);
        roster.succeeded(B);
        assert_eq!(roster.take(A), attempt(0, 1), "the same attempt");
    }

    #[test]
    fn a_session_that_never_can_is_closed() {
        let mut roster = roster(9);
        assert_eq!(roster.take(B), attempt(0, 1));
        for time in 1..=MOST_FAILURES {
            assert_eq!(roster.take(A), attempt(1, 1));
            assert_eq!(rests(&mut roster, A, 1), time == MOST_FAILURES);
            roster.rouse();
        }
        assert!(roster.is_closed(A));
        assert_eq!(roster.take(A), None);
    }

    #[test]
    fn failures_in_a_row_close_a_session_and_the_last_one_ends_the_stream() {
        let mut roster = Roster::new(2, 2, 9);
        roster.offer(ChunkId(0));
        for number in 1..=2 {
            assert_eq!(roster.take(A), attempt(0, number));
            assert!(!fails(&mut roster, A, 0, number));
        }
        // A success counts all over again.
        assert_eq!(roster.take(A), attempt(0, 3));
        roster.succeeded(A);
        roster.offer(ChunkId(1));
        for (number, session) in [A, A, A, B, B].into_iter().enumerate() {
            let number = number as u32 + 1;
            assert_eq!(roster.take(session), attempt(1, number));
            let closes = number == 3;
            assert_eq!(fails(&mut roster, session, 1, number), closes);
        }
        assert_eq!(roster.take(A), None);
        assert_eq!(roster.take(B), attempt(1, 6));
        assert_eq!(roster.failed(B, None), give_up(1, 6, Because::Sessions));
    }

    #[test]
    fn a_session_that_takes_anothers_place_inherits_its_failures() {
        let mut roster = Roster::new(1, 1, 9);
        roster.offer(ChunkId(0));
        assert_eq!(roster.take(A), attempt(0, 1));
        assert!(!fails(&mut roster, A, 0, 1));
        assert_eq!(roster.replace(A, false), B);
        assert!(roster.is_closed(A));
        assert_eq!(roster.take(B), attempt(0, 2));
        assert!(!fails(&mut roster, B, 0, 2));
        assert_eq!(roster.take(B), attempt(0, 3));
        assert_eq!(roster.failed(B, None), give_up(0, 3, Because::Sessions));
    }

    #[test]
    fn a_closed_slot_gives_its_chunk_to_another_and_the_last_one_stays() {
        let mut roster = roster(2);
        assert_eq!(roster.take(A), attempt(0, 1));
        assert!(roster.close(A));
        assert_eq!(roster.take(A), None);
        assert_eq!(roster.take(B), attempt(0, 1));
        assert!(!roster.close(B));
        assert_eq!(roster.chunk_of(B), Some(ChunkId(0)));
    }

    #[test]
    fn a_failed_chunk_is_tried_again_before_newer_ones() {
        let mut roster = roster(3);
        let _ = roster.take(A);
        let _ = roster.take(B);
        roster.succeeded(B);
        assert!(!fails(&mut roster, A, 0, 1));
        assert_eq!(roster.take(B), attempt(0, 2));
        assert_eq!(roster.take(A), attempt(2, 1));
    }

    #[test]
    fn a_chunk_that_keeps_failing_ends_the_stream() {
        let mut roster = roster(1);
        for (number, session) in [(1, A), (2, B)] {
            assert_eq!(roster.take(session), attempt(0, number));
            assert!(!fails(&mut roster, session, 0, number));
        }
        assert_eq!(roster.take(A), attempt(0, 3));
        assert_eq!(roster.failed(A, None), give_up(0, 3, Because::Attempts));
    }

    #[test]
    fn what_cannot_be_repeated_isnt() {
        for because in [Because::Left, Because::Hopeless] {
            let mut roster = roster(1);
            let _ = roster.take(A);
            assert_eq!(roster.failed(A, Some(because)), give_up(0, 1, because));
        }
    }

    #[test]
    fn sessions_do_not_run_away_from_the_output() {
        let mut roster = roster(9);
        let _ = roster.take(A);
        for chunk in 1..4 {
            assert_eq!(roster.take(B), attempt(chunk, 1));
            roster.succeeded(B);
        }
        assert_eq!(roster.take(B), None);
        roster.succeeded(A);
        roster.left(ChunkId(1));
        assert_eq!(roster.take(B), attempt(4, 1));
    }
}
