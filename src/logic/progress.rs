// SPDX-License-Identifier: MPL-2.0

//! How far a stream is, and how fast: what follows from counters and times.
//!
//! What is done is what packets are there for, in whatever order: chunks leave whole, so that what has left goes in steps of hundreds of
//! frames. The time that is left goes by what was done since the first packet came, because an encoder that looks ahead takes many frames
//! before that.

use super::engine::{Engine, Media};
use super::tally::Tally;

const SECOND: f64 = 1e9;

/// When what happened first, in nanoseconds of the clock; a flush begins anew.
#[derive(Debug, Clone, Default)]
pub struct Since {
    pub frame: Option<u64>,
    pub packet: Option<u64>,
    /// Frames that were done before.
    pub done: u64,
    /// Nanoseconds that each session had a chunk before.
    pub busy: Vec<u64>,
    /// When the stream's end was on its way, or it was stopped.
    pub over: Option<u64>,
}

/// A stream at one moment.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    pub tally: Tally,
    /// Bytes of raw frames that are held, and the most that were.
    pub held_bytes: (u64, u64),
    /// Frames of the stream of which there are packets, or which an encoder left out.
    pub done: u64,
    /// Frames that it has, where that is known.
    pub total: Option<u64>,
    /// Nanoseconds since its first frame.
    pub elapsed: u64,
    /// Of these, a session's part that it had a chunk, for each.
    pub busy: Vec<f64>,
    pub is_over: bool,
    since_packet: u64,
}

impl Progress {
    /// Of 1.
    pub fn fraction(&self) -> Option<f64> {
        let total = self.total.filter(|&total| total > 0)?;
        Some((self.done as f64 / total as f64).min(1.0))
    }

    pub fn frames_per_second(&self) -> f64 {
        rate(self.done, self.elapsed)
    }

    /// Nanoseconds, where that can be said.
    pub fn time_left(&self) -> Option<u64> {
        let rest = self.total?.saturating_sub(self.done);
        let rate = rate(self.done, self.since_packet);
        (rate > 0.0).then(|| (rest as f64 / rate * SECOND) as u64)
    }

    /// Sessions that were busy, in the mean: so many times as fast as one of them.
    pub fn speed_up(&self) -> f64 {
        self.busy.iter().sum()
    }
}

/// In frames per second.
pub fn rate(frames: u64, nanoseconds: u64) -> f64 {
    match nanoseconds {
        0 => 0.0,
        _ => frames as f64 * SECOND / nanoseconds as f64,
    }
}

impl<M: Media> Engine<M> {
    /// A frame came in.
    pub fn count_in(&mut self, now: u64) {
        self.tally.frames_in += 1;
        self.since.frame.get_or_insert(now);
        self.since.over = None;
    }

    /// The stream's end is about to be sent, or it is stopped: time stands still.
    pub fn end_progress(&mut self, now: u64) {
        self.since.over.get_or_insert(now);
    }

    /// A packet of the one encoder that has all.
    pub fn passes_out(&mut self, now: u64) {
        self.tally.frames_out += 1;
        self.since.packet.get_or_insert(now);
    }

    /// The stream begins anew, after a flush.
    pub fn begin_progress(&mut self) {
        self.since = Since {
            done: self.tally.frames_out + self.tally.frames_skipped,
            busy: self.tally.sessions.iter().map(|it| it.busy).collect(),
            ..Since::default()
        };
    }

    /// `total`: frames that the stream has, where that is known.
    pub fn progress(&self, now: u64, total: Option<u64>) -> Progress {
        let now = self.since.over.unwrap_or(now);
        let out = self.tally.frames_out + self.tally.frames_skipped;
        // (Packets that are parts of frames are more than these.)
        let done = (out + self.held_pictures()).min(self.tally.frames_in);
        let from = |since: Option<u64>| since.map_or(0, |since| now.saturating_sub(since));
        let elapsed = from(self.since.frame);
        let before = self.since.busy.iter().copied();
        let before = before.chain(std::iter::repeat(0));
        let busy = self.busy(now).zip(before);
        Progress {
            done: done.saturating_sub(self.since.done),
            tally: self.tally.clone(),
            held_bytes: self.held_bytes(),
            total,
            elapsed,
            is_over: self.since.over.is_some(),
            busy: busy
                .map(|(busy, before)| match elapsed {
                    0 => 0.0,
                    _ => (busy.saturating_sub(before) as f64 / elapsed as f64).min(1.0),
                })
                .collect(),
            since_packet: from(self.since.packet),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(done: u64, since_packet: u64) -> Progress {
        Progress {
            done,
            total: Some(1_000),
            elapsed: 10_000_000_000,
            busy: vec![1.0, 0.5],
            since_packet,
            ..Progress::default()
        }
    }

    #[test]
    fn the_time_left_goes_by_the_time_since_the_first_packet() {
        let progress = progress(100, 5_000_000_000);
        assert_eq!(progress.fraction(), Some(0.1));
        assert_eq!(progress.frames_per_second(), 10.0);
        assert_eq!(progress.time_left(), Some(45_000_000_000));
        assert_eq!(progress.speed_up(), 1.5);
    }

    #[test]
    fn nothing_is_said_that_is_not_known() {
        let nothing = Progress::default();
        assert_eq!(nothing.fraction(), None);
        assert_eq!(nothing.time_left(), None);
        assert_eq!(nothing.frames_per_second(), 0.0);
        assert_eq!(nothing.speed_up(), 0.0);
        // No packet has come.
        assert_eq!(progress(0, 0).time_left(), None);
        // There is more than was said.
        let more = progress(1_200, 1);
        assert_eq!((more.fraction(), more.time_left()), (Some(1.0), Some(0)));
    }
}
