// SPDX-License-Identifier: MPL-2.0

//! Which session encodes which chunk, and what becomes of a chunk whose session failed.

use super::frame::{ChunkId, SessionId};
use std::collections::BTreeMap;

/// Tries at one chunk, the first included, before the stream fails.
pub const MAX_ATTEMPTS: u32 = 3;

/// A slot's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Idle,
    Running(Attempt),
    /// It could not open an encoder, which it could before: it takes no chunk until another session has let go of its own.
    Resting,
    /// No encoder can be opened in it.
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
    /// The chunk waits for the next free session: wake one.
    Again,
    /// The stream fails: report this attempt's error.
    GiveUp(Attempt),
}

/// Hands chunks to sessions, the oldest first.
#[derive(Debug)]
pub struct Roster {
    slots: Vec<Slot>,
    /// Chunks that nobody has, with the number of the attempt that comes next.
    waiting: BTreeMap<ChunkId, u32>,
    /// Some encoder has encoded something: a failure is an accident, not a wrong configuration.
    proven: bool,
    /// First chunk that hasn't left yet.
    next_to_leave: ChunkId,
}

impl Roster {
    pub fn new(sessions: usize) -> Self {
        Self {
            slots: vec![Slot::Idle; sessions],
            waiting: BTreeMap::new(),
            proven: false,
            next_to_leave: ChunkId(0),
        }
    }

    /// A new chunk may be taken.
    pub fn offer(&mut self, chunk: ChunkId) {
        self.waiting.insert(chunk, 1);
    }

    /// How far ahead of the output a chunk may be taken: what was encoded and cannot leave, because
    /// downstream is slow or an older chunk is, stays bounded.
    pub fn window(&self) -> u64 {
        2 * self.slots.len() as u64
    }

    /// An idle session asks for work. `None`: wait until a chunk is offered, failed or left.
    pub fn take(&mut self, session: SessionId) -> Option<Attempt> {
        if self.slots[session.0] != Slot::Idle {
            return None;
        }
        let (&chunk, &number) = self.waiting.first_key_value()?;
        if chunk.0 >= self.next_to_leave.0.saturating_add(self.window()) {
            return None;
        }
        self.waiting.remove(&chunk);
        let attempt = Attempt { chunk, number };
        self.slots[session.0] = Slot::Running(attempt);
        Some(attempt)
    }

    /// The chunk that the session has.
    pub fn chunk_of(&self, session: SessionId) -> Option<ChunkId> {
        match self.slots[session.0] {
            Slot::Running(attempt) => Some(attempt.chunk),
            Slot::Idle | Slot::Resting | Slot::Closed => None,
        }
    }

    /// A packet came out of an encoder.
    pub fn prove(&mut self) {
        self.proven = true;
    }

    /// All packets of the chunks before `next` have left.
    pub fn left(&mut self, next: ChunkId) {
        self.next_to_leave = self.next_to_leave.max(next);
    }

    /// The session delivered its chunk.
    pub fn succeeded(&mut self, session: SessionId) {
        self.slots[session.0] = Slot::Idle;
        self.rouse();
        self.proven = true;
    }

    /// The session gives its chunk back, to be begun anew: through no fault of its own, so it is the same attempt.
    pub fn give_back(&mut self, session: SessionId) {
        self.put_back(session, Slot::Idle);
        self.rouse();
    }

    /// The session's chunk waits again, and its slot is `then`.
    fn put_back(&mut self, session: SessionId, then: Slot) {
        let slot = std::mem::replace(&mut self.slots[session.0], then);
        if let Slot::Running(attempt) = slot {
            self.waiting.insert(attempt.chunk, attempt.number);
        }
    }

    /// Some session let go of its encoder.
    fn rouse(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| **slot == Slot::Resting) {
            *slot = Slot::Idle;
        }
    }

    /// The session could not open an encoder, while others have theirs: its chunk waits, and it waits for one of them. `false`:
    /// nobody else has one, so that can't be why.
    #[must_use]
    pub fn rest(&mut self, session: SessionId) -> bool {
        let running = self.slots.iter().enumerate();
        let mut others =
            running.filter(|(id, slot)| *id != session.0 && matches!(slot, Slot::Running(_)));
        if others.next().is_none() {
            return false;
        }
        // (This session lets go of nothing that others wait for.)
        self.put_back(session, Slot::Resting);
        true
    }

    /// No encoder could be opened in the session's slot: it is closed from now on, and its chunk waits for another. `false`:
    /// it is the last one, and stays.
    #[must_use]
    pub fn close(&mut self, session: SessionId) -> bool {
        let open = self.slots.iter().filter(|slot| **slot != Slot::Closed);
        if open.count() <= 1 {
            return false;
        }
        self.put_back(session, Slot::Closed);
        self.rouse();
        true
    }

    /// All chunks but this one are no more, whoever has them.
    pub fn keep_only(&mut self, chunk: ChunkId) {
        self.waiting.retain(|waiting, _| *waiting == chunk);
        for slot in &mut self.slots {
            if matches!(slot, Slot::Running(attempt) if attempt.chunk != chunk) {
                *slot = Slot::Idle;
            }
        }
    }

    /// The session takes no chunk, whatever there is.
    pub fn is_out(&self, session: SessionId) -> bool {
        matches!(self.slots[session.0], Slot::Resting | Slot::Closed)
    }

    /// The chunk is in nobody's hands.
    pub fn is_waiting(&self, chunk: ChunkId) -> bool {
        self.waiting.contains_key(&chunk)
    }

    /// The session could not deliver its chunk. `repeatable`: nothing of it has left yet.
    pub fn failed(&mut self, session: SessionId, repeatable: bool) -> Option<AfterFailure> {
        let Slot::Running(attempt) = std::mem::replace(&mut self.slots[session.0], Slot::Idle)
        else {
            return None;
        };
        self.rouse();
        if !self.proven || !repeatable || attempt.number >= MAX_ATTEMPTS {
            return Some(AfterFailure::GiveUp(attempt));
        }
        self.waiting.insert(attempt.chunk, attempt.number + 1);
        Some(AfterFailure::Again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(0);
    const B: SessionId = SessionId(1);

    fn roster(chunks: u64) -> Roster {
        let mut roster = Roster::new(2);
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

    #[test]
    fn a_session_that_cannot_open_waits_for_another_to_let_go() {
        let mut roster = roster(3);
        assert_eq!(roster.take(A), attempt(0, 1));
        assert!(!roster.rest(A), "nobody else has an encoder");
        assert_eq!(roster.take(B), attempt(1, 1));
        assert!(roster.rest(A));
        assert_eq!(roster.take(A), None);
        roster.succeeded(B);
        assert_eq!(roster.take(A), attempt(0, 1), "the same attempt");
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
        assert_eq!(roster.failed(A, true), Some(AfterFailure::Again));
        assert_eq!(roster.take(B), attempt(0, 2));
        assert_eq!(roster.take(A), attempt(2, 1));
    }

    #[test]
    fn a_chunk_that_keeps_failing_ends_the_stream() {
        let mut roster = roster(1);
        roster.prove();
        for number in 1..MAX_ATTEMPTS {
            assert_eq!(roster.take(A), attempt(0, number));
            assert_eq!(roster.failed(A, true), Some(AfterFailure::Again));
        }
        assert_eq!(roster.take(A), attempt(0, MAX_ATTEMPTS));
        let last = attempt(0, MAX_ATTEMPTS).map(AfterFailure::GiveUp);
        assert_eq!(roster.failed(A, true), last);
    }

    #[test]
    fn an_encoder_that_never_worked_isnt_tried_again() {
        let mut roster = roster(1);
        let _ = roster.take(A);
        let first = attempt(0, 1).map(AfterFailure::GiveUp);
        assert_eq!(roster.failed(A, true), first);
    }

    #[test]
    fn a_chunk_that_has_begun_to_leave_isnt_tried_again() {
        let mut roster = roster(1);
        roster.prove();
        let _ = roster.take(A);
        let first = attempt(0, 1).map(AfterFailure::GiveUp);
        assert_eq!(roster.failed(A, false), first);
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
