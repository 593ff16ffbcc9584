// SPDX-License-Identifier: MPL-2.0

//! How far a stream is, and how fast: what follows from counters and times.
//!
//! What is done is what packets are there for, in whatever order: chunks leave whole, so that what has left goes in steps of hundreds of
//! frames. How long the rest takes goes by how fast a session was so far, overlaps and the opening of encoders included, and by the chunks
//! that are left, which end apart.

use super::engine::{Engine, Media};
use super::tally::Tally;

/// An encoder that looks ahead has done so much of the work for a frame that it has taken and not made a packet of. (Assumed: no other value
/// was tried. It counts while few packets have come.)
pub const LOOKED_AT: f64 = 1.0 / 3.0;

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
    /// Nanoseconds, where that can be said.
    pub time_left: Option<u64>,
    pub is_over: bool,
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

/// Frames of which an encoder made `packets`, and took `fed`: as many as it could have made packets of in the same time.
pub fn encoded(packets: u64, fed: u64) -> f64 {
    packets as f64 + fed.saturating_sub(packets) as f64 * LOOKED_AT
}

/// How long it takes until all sessions are done, in the time that one takes for a frame. `left`: of what each session has. Chunks of so many
/// frames are taken by whoever is done first.
pub fn until_all_are_done(mut left: Vec<f64>, chunks: impl Iterator<Item = f64>) -> f64 {
    for chunk in chunks {
        if let Some(first) = left.iter_mut().min_by(|a, b| a.total_cmp(b)) {
            *first += chunk;
        }
    }
    left.into_iter().fold(0.0, f64::max)
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
            time_left: total.and_then(|total| self.time_left(now, total, elapsed)),
            is_over: self.since.over.is_some(),
            busy: busy
                .map(|(busy, before)| match elapsed {
                    0 => 0.0,
                    _ => (busy.saturating_sub(before) as f64 / elapsed as f64).min(1.0),
                })
                .collect(),
        }
    }

    /// Nanoseconds until a stream of so many frames has been encoded, once there was a packet.
    fn time_left(&self, now: u64, total: u64, elapsed: u64) -> Option<u64> {
        self.since.packet?;
        let (encoded, busy, left, came) = match self.is_in_chunks() {
            true => {
                let (encoded, busy) = self.encoded(now);
                let chunks = self.chunks_to_come(total).map(|frames| frames as f64);
                let left = until_all_are_done(self.left_to_sessions(total), chunks);
                (encoded, busy, left, self.frames_came())
            }
            false => {
                let since = |frames: u64| frames.saturating_sub(self.since.done);
                let came = since(self.tally.frames_in);
                let encoded = encoded(since(self.tally.frames_out), came);
                (encoded, elapsed, total as f64 - encoded, came)
            }
        };
        let at_rate = |left: f64, frames: f64, time: u64| left.max(0.0) / frames * time as f64;
        // The source may be what is slow.
        let until_all_came = at_rate(total as f64 - came as f64, came as f64, elapsed);
        let until_all_are_encoded = at_rate(left, encoded, busy);
        (encoded > 0.0).then(|| until_all_are_encoded.max(until_all_came) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_ends_apart() {
        let none = std::iter::empty;
        assert_eq!(until_all_are_done(vec![], none()), 0.0);
        assert_eq!(until_all_are_done(vec![10.0, 30.0], none()), 30.0);
        assert_eq!(
            until_all_are_done(vec![10.0, 30.0], [25.0].into_iter()),
            35.0
        );
        assert_eq!(
            until_all_are_done(vec![0.0; 3], [10.0, 10.0, 10.0, 10.0].into_iter()),
            20.0
        );
    }

    #[test]
    fn a_frame_that_was_looked_at_is_done_in_part() {
        assert_eq!(encoded(0, 30), 10.0);
        assert_eq!(encoded(30, 30), 30.0);
        // Headers are packets as well.
        assert_eq!(encoded(31, 30), 31.0);
    }

    #[test]
    fn rates_and_shares_follow() {
        let progress = Progress {
            done: 100,
            total: Some(1_000),
            elapsed: 10_000_000_000,
            busy: vec![1.0, 0.5],
            ..Progress::default()
        };
        assert_eq!(progress.fraction(), Some(0.1));
        assert_eq!(progress.frames_per_second(), 10.0);
        assert_eq!(progress.speed_up(), 1.5);
    }

    #[test]
    fn nothing_is_said_that_is_not_known() {
        let nothing = Progress::default();
        assert_eq!(nothing.fraction(), None);
        assert_eq!(nothing.time_left, None);
        assert_eq!(nothing.frames_per_second(), 0.0);
        assert_eq!(nothing.speed_up(), 0.0);
        // There is more than was said.
        let more = Progress {
            done: 1_200,
            total: Some(1_000),
            ..nothing
        };
        assert_eq!(more.fraction(), Some(1.0));
    }
}
