// SPDX-License-Identifier: MPL-2.0

//! Which session encodes which chunk: the oldest chunk goes to whoever is free.

use super::ids::{AttemptId, ChunkId, SessionId};
use std::collections::BTreeMap;

/// A seat for one session.
#[derive(Debug, Clone, Copy)]
struct Seat {
    slot: Slot,
    /// How often its encoders failed since the last success.
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Idle,
    Running(Attempt),
    /// It could not open an encoder, which it could before: it takes no chunk until another session has let go of its own.
    AwaitsDevice,
    /// It takes no chunk any more.
    Closed,
}

/// One try at a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    pub id: AttemptId,
    pub chunk: ChunkId,
    /// 1 for the first try.
    pub number: u32,
}

/// What becomes of a session whose attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It may take another chunk.
    Idle,
    /// It waits until another session lets go of its encoder.
    AwaitsDevice,
    /// It takes no chunk any more.
    Closed,
}

/// Hands chunks to sessions, the oldest first.
#[derive(Debug)]
pub struct Roster {
    seats: Vec<Seat>,
    /// Sessions that may work at the same time.
    sessions: u64,
    /// Chunks that nobody has, with the number of the attempt that comes next.
    waiting: BTreeMap<ChunkId, u32>,
    /// First chunk whose packets weren't all sent.
    next_to_send: ChunkId,
}

impl Roster {
    /// `seats`: sessions that there are, whatever became of them; `sessions`: that may work at the same time.
    pub fn new(seats: usize, sessions: u64) -> Self {
        let idle = Seat {
            slot: Slot::Idle,
            failures: 0,
        };
        Self {
            seats: vec![idle; seats],
            sessions,
            waiting: BTreeMap::new(),
            next_to_send: ChunkId(0),
        }
    }

    /// There is one session more.
    pub fn add(&mut self) {
        self.seats.push(Seat {
            slot: Slot::Idle,
            failures: 0,
        });
    }

    /// A chunk may be taken, for its `number`th attempt.
    pub fn offer(&mut self, chunk: ChunkId, number: u32) {
        self.waiting.insert(chunk, number);
    }

    /// So many sessions may work at the same time from now on.
    pub fn set_sessions(&mut self, sessions: u64) {
        self.sessions = sessions;
    }

    fn running(&self) -> impl Iterator<Item = (SessionId, Attempt)> {
        let seats = self.seats.iter().enumerate();
        seats.filter_map(|(id, seat)| match seat.slot {
            Slot::Running(attempt) => Some((SessionId(id), attempt)),
            _ => None,
        })
    }

    /// So many sessions more may work.
    fn places(&self) -> usize {
        let sessions = usize::try_from(self.sessions).unwrap_or(usize::MAX);
        sessions.saturating_sub(self.running().count())
    }

    /// How far ahead of the output a chunk may be taken: what was encoded and cannot leave, because
    /// downstream is slow or an older chunk is, stays bounded.
    pub fn window(&self) -> u64 {
        self.sessions.saturating_mul(2)
    }

    /// Chunks that sessions could take now.
    fn offered(&self) -> impl Iterator<Item = (&ChunkId, &u32)> {
        let end = self.next_to_send.0.saturating_add(self.window());
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

    /// The chunk that an idle session gets if it takes one. `None`: wait until a chunk is offered, failed or was sent.
    pub fn offered_to(&self, session: SessionId) -> Option<ChunkId> {
        if self.seats.get(session.0)?.slot != Slot::Idle || self.places() == 0 {
            return None;
        }
        self.offered().next().map(|(chunk, _)| *chunk)
    }

    /// The chunk needs no session.
    pub fn withdraw(&mut self, chunk: ChunkId) {
        self.waiting.remove(&chunk);
    }

    /// An idle session takes the chunk that is offered to it. Its attempt gets this name.
    pub fn take(&mut self, session: SessionId, id: AttemptId) -> Option<Attempt> {
        let chunk = self.offered_to(session)?;
        let number = self.waiting.remove(&chunk)?;
        let attempt = Attempt { id, chunk, number };
        self.seats[session.0].slot = Slot::Running(attempt);
        Some(attempt)
    }

    /// The session goes on with its attempt under another name.
    pub fn rename(&mut self, session: SessionId, id: AttemptId) {
        if let Some(Seat {
            slot: Slot::Running(attempt),
            ..
        }) = self.seats.get_mut(session.0)
        {
            attempt.id = id;
        }
    }

    /// All packets of the chunks before `next` were sent.
    pub fn sent(&mut self, next: ChunkId) {
        self.next_to_send = self.next_to_send.max(next);
    }

    /// The session delivered its chunk.
    pub fn succeeded(&mut self, session: SessionId) {
        self.seats[session.0].failures = 0;
        self.end(session, Then::Idle);
    }

    /// The session's attempt is over. Its chunk is nobody's until it is offered again.
    pub fn end(&mut self, session: SessionId, then: Then) {
        self.seats[session.0].slot = match then {
            Then::Idle => Slot::Idle,
            Then::AwaitsDevice => Slot::AwaitsDevice,
            Then::Closed => Slot::Closed,
        };
        // One that couldn't open an encoder lets go of nothing that others wait for.
        if then != Then::AwaitsDevice {
            self.retry_waiting();
        }
    }

    /// Some session let go of its encoder.
    fn retry_waiting(&mut self) {
        for seat in &mut self.seats {
            if seat.slot == Slot::AwaitsDevice {
                seat.slot = Slot::Idle;
            }
        }
    }

    /// Sessions that may take a chunk, now or later.
    pub fn open(&self) -> usize {
        let open = self.seats.iter().filter(|seat| seat.slot != Slot::Closed);
        open.count()
    }

    /// Another session has an encoder.
    pub fn others_run(&self, session: SessionId) -> bool {
        self.running().any(|(other, _)| other != session)
    }

    /// Failures of the session since its last success.
    pub fn failures(&self, session: SessionId) -> u32 {
        self.seats[session.0].failures
    }

    pub fn count_failure(&mut self, session: SessionId) {
        self.seats[session.0].failures += 1;
    }

    /// Another session takes the place of this one, closed or not, and its failures with it.
    pub fn replace(&mut self, session: SessionId, is_closed: bool) -> SessionId {
        let failures = self.seats[session.0].failures;
        let slot = if is_closed { Slot::Closed } else { Slot::Idle };
        self.end(session, Then::Closed);
        self.seats.push(Seat { slot, failures });
        SessionId(self.seats.len() - 1)
    }

    /// The session takes no chunk, whatever there is, unless another one lets go of its own.
    pub fn is_out(&self, session: SessionId) -> bool {
        match self.seats[session.0].slot {
            Slot::AwaitsDevice | Slot::Closed => true,
            Slot::Idle => self.places() == 0,
            Slot::Running(_) => false,
        }
    }

    /// The session takes no chunk any more.
    pub fn is_closed(&self, session: SessionId) -> bool {
        self.seats[session.0].slot == Slot::Closed
    }

    /// The chunk is in nobody's hands.
    pub fn is_waiting(&self, chunk: ChunkId) -> bool {
        self.waiting.contains_key(&chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(0);
    const B: SessionId = SessionId(1);

    fn roster(chunks: u64) -> Roster {
        let mut roster = Roster::new(2, 2);
        for chunk in 0..chunks {
            roster.offer(ChunkId(chunk), 1);
        }
        roster
    }

    fn takes(roster: &mut Roster, session: SessionId) -> Option<(u64, u32)> {
        let attempt = roster.take(session, AttemptId { session, number: 0 })?;
        Some((attempt.chunk.0, attempt.number))
    }

    #[test]
    fn free_sessions_take_the_oldest_chunk() {
        let mut roster = roster(3);
        assert_eq!(takes(&mut roster, B), Some((0, 1)));
        assert_eq!(takes(&mut roster, A), Some((1, 1)));
        roster.succeeded(A);
        roster.offer(ChunkId(1), 2);
        assert_eq!(
            takes(&mut roster, A),
            Some((1, 2)),
            "again, before a newer one"
        );
        roster.succeeded(A);
        assert_eq!(takes(&mut roster, A), Some((2, 1)));
        roster.succeeded(A);
        assert_eq!(takes(&mut roster, A), None);
    }

    #[test]
    fn as_many_are_woken_as_there_are_chunks_and_places() {
        let mut roster = Roster::new(4, 3);
        let woken = |roster: &Roster| {
            let waiting = (0..4).map(SessionId);
            roster.takers(waiting).collect::<Vec<_>>()
        };
        assert_eq!(woken(&roster), []);
        roster.offer(ChunkId(0), 1);
        roster.offer(ChunkId(1), 1);
        assert_eq!(woken(&roster), [A, B]);
        // Not who has one, or can't have one.
        takes(&mut roster, A).unwrap();
        roster.end(B, Then::Closed);
        assert_eq!(woken(&roster), [SessionId(2)]);
        // Nor for a chunk that is too far from the output.
        roster.offer(ChunkId(6), 1);
        assert_eq!(woken(&roster), [SessionId(2)]);
        roster.sent(ChunkId(1));
        assert_eq!(woken(&roster), [SessionId(2), SessionId(3)]);
        roster.set_sessions(2);
        assert_eq!(woken(&roster), [SessionId(2)]);
    }

    #[test]
    fn a_session_that_cannot_open_waits_for_another_to_let_go() {
        let mut roster = roster(3);
        takes(&mut roster, A).unwrap();
        assert!(!roster.others_run(A));
        takes(&mut roster, B).unwrap();
        assert!(roster.others_run(A));
        roster.end(A, Then::AwaitsDevice);
        roster.offer(ChunkId(0), 1);
        assert_eq!(takes(&mut roster, A), None);
        roster.succeeded(B);
        assert_eq!(takes(&mut roster, A), Some((0, 1)));
    }

    #[test]
    fn the_place_of_a_session_is_taken_with_its_failures() {
        let mut roster = roster(3);
        takes(&mut roster, A).unwrap();
        roster.count_failure(A);
        let next = roster.replace(A, false);
        assert_eq!((next, roster.failures(next)), (SessionId(2), 1));
        assert_eq!(roster.open(), 2);
        roster.offer(ChunkId(0), 2);
        assert_eq!(takes(&mut roster, A), None);
        assert_eq!(takes(&mut roster, next), Some((0, 2)));
        let closed = roster.replace(B, true);
        assert_eq!(roster.open(), 1);
        assert!(roster.is_out(closed));
    }

    #[test]
    fn sessions_do_not_run_too_far_ahead_of_the_output() {
        let mut roster = roster(9);
        for _ in 0..roster.window() {
            takes(&mut roster, A).unwrap();
            roster.succeeded(A);
        }
        assert_eq!(takes(&mut roster, A), None);
        roster.sent(ChunkId(1));
        assert!(takes(&mut roster, A).is_some());
    }

    #[test]
    fn fewer_may_work_than_there_are() {
        let mut roster = Roster::new(3, 1);
        roster.offer(ChunkId(0), 1);
        roster.offer(ChunkId(1), 1);
        assert!(takes(&mut roster, A).is_some());
        assert_eq!(takes(&mut roster, B), None);
        assert!(roster.is_out(B));
        roster.succeeded(A);
        assert!(takes(&mut roster, B).is_some());
    }
}
