// SPDX-License-Identifier: MPL-2.0

//! Counters, and the rates that follow from them.

use super::ids::SessionId;
use super::progress::rate;

/// What one session has done.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SessionTally {
    /// Frames fed to its encoders, overlap included.
    pub frames: u64,
    /// Nanoseconds that it had a chunk.
    pub busy: u64,
}

impl SessionTally {
    /// Frames per second of the time in which it had a chunk.
    pub fn frames_per_second(&self) -> f64 {
        rate(self.frames, self.busy)
    }
}

/// Everything that is counted since the start; a flush doesn't reset it.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub chunks_planned: u64,
    pub chunks_finished: u64,
    /// Of these, chunks that an earlier run encoded.
    pub chunks_from_cache: u64,
    /// Attempts that failed and were repeated.
    pub attempts_failed: u64,
    /// How often a chunk was encoded again, as it wanted more than there was in the decoder's buffer.
    pub vbv_retries: u64,
    /// Chunks that leave it empty all the same.
    pub vbv_underflows: u64,
    pub frames_in: u64,
    pub frames_out: u64,
    /// Frames that an encoder said it left out.
    pub frames_skipped: u64,
    /// Frames in which cuts were to be looked for, and that couldn't be read.
    pub frames_unseen: u64,
    /// Frames that were copied because their pool has too few buffers.
    pub frames_copied: u64,
    pub sessions: Vec<SessionTally>,
}

impl Tally {
    /// Frames that encoders were fed for chunks that were delivered, their overlaps and those that were encoded again included.
    pub fn frames_encoded(&self) -> u64 {
        self.sessions.iter().map(|session| session.frames).sum()
    }

    /// A session ended an attempt that took `busy` nanoseconds.
    pub fn attempt(&mut self, session: SessionId, frames: u64, busy: u64) {
        if let Some(tally) = self.sessions.get_mut(session.0) {
            tally.frames += frames;
            tally.busy += busy;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_busy_time() {
        let mut tally = Tally {
            sessions: vec![SessionTally::default(); 2],
            ..Tally::default()
        };
        tally.attempt(SessionId(1), 50, 1_000_000_000);
        tally.attempt(SessionId(1), 50, 3_000_000_000);
        assert_eq!(tally.sessions[1].frames_per_second(), 25.0);
        assert_eq!(tally.sessions[0].frames_per_second(), 0.0);
    }
}
