// SPDX-License-Identifier: MPL-2.0

//! Which session encodes which chunk: the oldest chunk goes to whoever is free.

use super::ids::{ChunkId, SessionId};
use std::collections::BTreeMap;

/// A seat for one session.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seat {
    pub slot: Slot,
    /// How often its encoders failed since the last success.
    pub failures: u32,
}

/// What a session has to do with chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Slot {
    /// It may take one.
    #[default]
    Idle,
    /// It has one.
    Running,
    /// It could not open an encoder, which it could before: it takes no chunk until another session has let go of its own.
    AwaitsDevice,
    /// It takes no chunk any more.
    Closed,
}

/// Hands chunks to sessions, the oldest first.
#[derive(Debug)]
pub struct Roster {
    /// One for each session that there is, whatever became of it.
    pub seats: Vec<Seat>,
    /// Sessions that may work at the same time.
    pub sessions: u64,
    /// Chunks that nobody has, with the number of the attempt that comes next.
    pub waiting: BTreeMap<ChunkId, u32>,
    /// First chunk whose packets weren't all sent.
    pub next_to_send: ChunkId,
    /// The chunk that can't be encoded: with it the stream fails, and only older ones are taken.
    pub doomed: Option<ChunkId>,
}

impl Roster {
    pub fn new(seats: usize, sessions: u64) -> Self {
        Self {
            seats: vec![Seat::default(); seats],
            sessions,
            waiting: BTreeMap::new(),
            next_to_send: ChunkId(0),
            doomed: None,
        }
    }

    /// A chunk may be taken, for its `number`th attempt.
    pub fn offer(&mut self, chunk: ChunkId, number: u32) {
        self.waiting.insert(chunk, number);
    }

    fn is(&self, session: SessionId, slot: Slot) -> bool {
        let seat = self.seats.get(session.0);
        seat.is_some_and(|seat| seat.slot == slot)
    }

    fn running(&self) -> impl Iterator<Item = SessionId> {
        let sessions = (0..self.seats.len()).map(SessionId);
        sessions.filter(|id| self.is(*id, Slot::Running))
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
    fn offered(&self) -> impl Iterator<Item = ChunkId> {
        let end = ChunkId(self.next_to_send.0.saturating_add(self.window()));
        let end = self.doomed.map_or(end, |doomed| doomed.min(end));
        self.waiting.range(..end).map(|(chunk, _)| *chunk)
    }

    /// The chunk is that with which the stream fails, or a later one.
    pub fn is_doomed(&self, chunk: ChunkId) -> bool {
        self.doomed.is_some_and(|doomed| doomed <= chunk)
    }

    /// The stream fails, and all that is good of it was sent, or nobody is left to encode it.
    pub fn is_over(&self) -> bool {
        self.is_doomed(self.next_to_send) || self.doomed.is_some() && self.open() == 0
    }

    /// Of these sessions, which wait for a chunk, as many as there are chunks for: wake them.
    pub fn takers(
        &self,
        sessions: impl Iterator<Item = SessionId>,
    ) -> impl Iterator<Item = SessionId> {
        let chunks = self.offered().count();
        sessions
            .filter(|id| self.is(*id, Slot::Idle))
            .take(chunks.min(self.places()))
    }

    /// The chunk that an idle session gets if it takes one. `None`: wait until a chunk is offered, failed or was sent.
    pub fn offered_to(&self, session: SessionId) -> Option<ChunkId> {
        let may_take = self.is(session, Slot::Idle) && self.places() > 0;
        self.offered().next().filter(|_| may_take)
    }

    /// An idle session takes the chunk that is offered to it, for an attempt of this number.
    pub fn take(&mut self, session: SessionId) -> Option<(ChunkId, u32)> {
        let chunk = self.offered_to(session)?;
        let number = self.waiting.remove(&chunk)?;
        self.seats[session.0].slot = Slot::Running;
        Some((chunk, number))
    }

    /// The session delivered its chunk.
    pub fn succeeded(&mut self, session: SessionId) {
        self.seats[session.0].failures = 0;
        self.end(session, Slot::Idle);
    }

    /// The session's attempt is over. Its chunk is nobody's until it is offered again.
    pub fn end(&mut self, session: SessionId, then: Slot) {
        self.seats[session.0].slot = then;
        // One that couldn't open an encoder lets go of nothing that others wait for.
        if then == Slot::AwaitsDevice {
            return;
        }
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
        self.running().any(|other| other != session)
    }

    /// Another session takes the place of this one, closed if it was, and its failures with it.
    pub fn replace(&mut self, session: SessionId) -> SessionId {
        let mut next = self.seats[session.0];
        if next.slot != Slot::Closed {
            next.slot = Slot::Idle;
        }
        self.end(session, Slot::Closed);
        self.seats.push(next);
        SessionId(self.seats.len() - 1)
    }

    /// The session takes no chunk, whatever there is, unless another one lets go of its own.
    pub fn is_out(&self, session: SessionId) -> bool {
        match self.seats[session.0].slot {
            Slot::AwaitsDevice | Slot::Closed => true,
            Slot::Idle => self.places() == 0,
            Slot::Running => false,
        }
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
        let (chunk, number) = roster.take(session)?;
        Some((chunk.0, number))
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
        roster.end(B, Slot::Closed);
        assert_eq!(woken(&roster), [SessionId(2)]);
        // Nor for a chunk that is too far from the output.
        roster.offer(ChunkId(6), 1);
        assert_eq!(woken(&roster), [SessionId(2)]);
        roster.next_to_send = ChunkId(1);
        assert_eq!(woken(&roster), [SessionId(2), SessionId(3)]);
        roster.sessions = 2;
        assert_eq!(woken(&roster), [SessionId(2)]);
    }

    #[test]
    fn a_session_that_cannot_open_waits_for_another_to_let_go() {
        let mut roster = roster(3);
        takes(&mut roster, A).unwrap();
        assert!(!roster.others_run(A));
        takes(&mut roster, B).unwrap();
        assert!(roster.others_run(A));
        roster.end(A, Slot::AwaitsDevice);
        roster.offer(ChunkId(0), 1);
        assert_eq!(takes(&mut roster, A), None);
        roster.succeeded(B);
        assert_eq!(takes(&mut roster, A), Some((0, 1)));
    }

    #[test]
    fn the_place_of_a_session_is_taken_with_its_failures() {
        let mut roster = roster(3);
        takes(&mut roster, A).unwrap();
        roster.seats[A.0].failures += 1;
        let next = roster.replace(A);
        assert_eq!((next, roster.seats[next.0].failures), (SessionId(2), 1));
        assert_eq!(roster.open(), 2);
        roster.offer(ChunkId(0), 2);
        assert_eq!(takes(&mut roster, A), None);
        assert_eq!(takes(&mut roster, next), Some((0, 2)));
        roster.end(B, Slot::Closed);
        let closed = roster.replace(B);
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
        roster.next_to_send = ChunkId(1);
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
