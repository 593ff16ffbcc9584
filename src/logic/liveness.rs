// SPDX-License-Identifier: MPL-2.0

//! Whether sessions are alive: whoever is at work and shows no sign of life for too many ticks isn't.
//!
//! Ticks are counted, not time: while the whole process stands still (a debugger, a machine that sleeps), nobody ticks, and nobody
//! is given up for it.

use super::ids::{ChunkId, FrameNo, SessionId};
use std::collections::BTreeMap;

/// How far a session at work has come. Any change is a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sign {
    pub chunk: ChunkId,
    /// The next frame that it is fed.
    pub position: FrameNo,
    /// Packets that its encoder has made.
    pub packets: u64,
    /// Its encoder has sent EOS.
    pub ended: bool,
    /// What the encoder made was verified.
    pub verified: bool,
}

/// Counts the ticks without a sign of life.
#[derive(Debug, Default)]
pub struct Liveness {
    silent: BTreeMap<SessionId, (Sign, u32)>,
    /// Ticks since whoever is at work was told to stop.
    stopping: u32,
}

impl Liveness {
    /// A tick passed. Gives up all sessions at work that showed no sign of life for `patience` ticks. `None` as a sign: the
    /// session isn't at work, or it is waiting for somebody else.
    pub fn tick(
        &mut self,
        signs: impl IntoIterator<Item = (SessionId, Option<Sign>)>,
        patience: u32,
    ) -> Vec<SessionId> {
        let last = std::mem::take(&mut self.silent);
        let mut given_up = Vec::new();
        for (session, sign) in signs {
            let Some(sign) = sign else { continue };
            let ticks = match last.get(&session) {
                Some((same, ticks)) if *same == sign => ticks + 1,
                _ => 0,
            };
            self.silent.insert(session, (sign, ticks));
            if ticks >= patience {
                given_up.push(session);
            }
        }
        given_up
    }

    /// A tick passed in which everybody was to stop. `true`: that has been so for `patience` ticks.
    pub fn stop_tick(&mut self, patience: u32) -> bool {
        self.stopping += 1;
        self.stopping >= patience
    }

    /// Nobody is to stop.
    pub fn go_on(&mut self) {
        self.stopping = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(0);
    const B: SessionId = SessionId(1);

    fn sign(position: u64, packets: u64) -> Option<Sign> {
        Some(Sign {
            chunk: ChunkId(0),
            position: FrameNo(position),
            packets,
            ended: false,
            verified: false,
        })
    }

    #[test]
    fn silence_for_as_long_as_patience_lasts() {
        let mut liveness = Liveness::default();
        for _ in 0..3 {
            assert_eq!(liveness.tick([(A, sign(1, 0))], 3), []);
        }
        assert_eq!(liveness.tick([(A, sign(1, 0))], 3), [A]);
    }

    #[test]
    fn a_packet_or_a_frame_is_a_sign_of_life() {
        let mut liveness = Liveness::default();
        for tick in 0..20 {
            let alive = [(A, sign(tick / 2, 0)), (B, sign(0, tick / 2))];
            assert_eq!(liveness.tick(alive, 2), []);
        }
    }

    #[test]
    fn who_waits_for_others_is_not_watched() {
        let mut liveness = Liveness::default();
        for _ in 0..2 {
            assert_eq!(liveness.tick([(A, sign(1, 0))], 3), []);
        }
        assert_eq!(liveness.tick([(A, None)], 3), []);
        for _ in 0..3 {
            assert_eq!(liveness.tick([(A, sign(1, 0))], 3), [], "it began anew");
        }
        assert_eq!(liveness.tick([(A, sign(1, 0))], 3), [A]);
    }

    #[test]
    fn stopping_has_a_limit_whatever_signs_there_are() {
        let mut liveness = Liveness::default();
        assert!(!liveness.stop_tick(2));
        assert!(liveness.stop_tick(2));
        liveness.go_on();
        assert!(!liveness.stop_tick(2));
    }
}
