// SPDX-License-Identifier: MPL-2.0

//! Whether sessions are alive: whoever is at work and shows no sign of life for too many ticks isn't.
//!
//! Ticks are counted, not time: while the whole process stands still (a debugger, a machine that sleeps), nobody ticks, and nobody
//! is given up for it.

use super::ids::FrameNo;

/// How far an attempt has come. Any change is a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sign {
    /// The next frame that it is fed.
    pub position: FrameNo,
    /// Packets that its encoder has made.
    pub packets: u64,
    /// Its encoder has sent EOS.
    pub ended: bool,
    /// What the encoder made was verified.
    pub verified: bool,
}

/// Counts the ticks of an attempt without a sign of life.
#[derive(Debug, Default)]
pub struct Liveness {
    last: Option<Sign>,
    ticks: u32,
}

impl Liveness {
    /// A tick passed. `true`: there was no sign of life for `patience` ticks. `None` as a sign: it waits for somebody else.
    #[must_use]
    pub fn tick(&mut self, sign: Option<Sign>, patience: u32) -> bool {
        let is_silent = sign.is_some() && sign == self.last;
        self.ticks = if is_silent { self.ticks + 1 } else { 0 };
        self.last = sign;
        sign.is_some() && self.ticks >= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(position: u64, packets: u64) -> Option<Sign> {
        Some(Sign {
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
            assert!(!liveness.tick(sign(1, 0), 3));
        }
        assert!(liveness.tick(sign(1, 0), 3));
    }

    #[test]
    fn a_packet_or_a_frame_is_a_sign_of_life() {
        let (mut fed, mut making) = (Liveness::default(), Liveness::default());
        for tick in 0..20 {
            assert!(!fed.tick(sign(tick / 2, 0), 2));
            assert!(!making.tick(sign(0, tick / 2), 2));
        }
    }

    #[test]
    fn who_waits_for_others_is_not_watched() {
        let mut liveness = Liveness::default();
        for _ in 0..2 {
            assert!(!liveness.tick(sign(1, 0), 3));
        }
        assert!(!liveness.tick(None, 3));
        for _ in 0..3 {
            assert!(!liveness.tick(sign(1, 0), 3), "it began anew");
        }
        assert!(liveness.tick(sign(1, 0), 3));
    }
}
