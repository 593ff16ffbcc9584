// SPDX-License-Identifier: MPL-2.0

//! Key frames that others ask for: which frame answers which request.
//!
//! Downstream asks for a moment, which may lie ahead, or may have been passed: then frames of it may still be held. Upstream asks
//! for a moment or for the next frame. All times are running times in nanoseconds.

use super::frame::FrameNo;
use std::collections::BTreeSet;

/// One wish for a key frame, as a force-key-unit event says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The first frame that is shown at this time or later; `None`: the next one that comes.
    pub time: Option<u64>,
    /// Stream headers are wanted with it.
    pub all_headers: bool,
    /// Counts requests of the asker; it is told again in the answer.
    pub count: u32,
}

/// The requests that wait, and the key frames that are known to come.
#[derive(Debug, Default)]
pub struct KeyRequests {
    waiting: Vec<Request>,
    /// Frames that haven't left and are going to be key frames.
    known: BTreeSet<FrameNo>,
    /// Running time of the last frame of which a key frame was asked.
    last_forced: Option<u64>,
}

impl KeyRequests {
    /// Lets a request wait for its frame.
    pub fn ask(&mut self, request: Request) {
        self.waiting.push(request);
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The next frame has this running time. Returns the requests that it answers as a key frame. If the last one that was asked
    /// for is less than `interval` ago, they wait.
    pub fn due(&mut self, time: Option<u64>, interval: u64) -> Vec<Request> {
        // (Without a time nobody knows whether it is time; it is, as with GstVideoEncoder.)
        let is_due = |request: &Request| {
            request
                .time
                .zip(time)
                .is_none_or(|(wanted, now)| wanted <= now)
        };
        let too_soon = self
            .last_forced
            .zip(time)
            .is_some_and(|(last, time)| last.saturating_add(interval) > time);
        if interval > 0 && too_soon {
            return Vec::new();
        }
        let (due, waiting) = self.waiting.drain(..).partition(is_due);
        self.waiting = waiting;
        let due: Vec<Request> = due;
        if !due.is_empty() {
            self.last_forced = time.or(self.last_forced);
        }
        due
    }

    /// This frame is going to be a key frame.
    pub fn comes(&mut self, frame: FrameNo) {
        self.known.insert(frame);
    }

    /// All frames before this one have left.
    pub fn left(&mut self, frame: FrameNo) {
        self.known = self.known.split_off(&frame);
    }

    /// The first frame from this one on that is known to be going to be a key frame.
    pub fn next_known(&self, frame: FrameNo) -> Option<FrameNo> {
        self.known.range(frame..).next().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: Option<u64>) -> Request {
        Request {
            time,
            all_headers: false,
            count: 0,
        }
    }

    #[test]
    fn a_request_waits_for_its_time_and_one_without_for_nothing() {
        let mut keys = KeyRequests::default();
        keys.ask(at(Some(100)));
        keys.ask(at(Some(60)));
        assert_eq!(keys.due(Some(40), 0), []);
        keys.ask(at(None));
        assert_eq!(keys.due(Some(80), 0), [at(Some(60)), at(None)]);
        assert_eq!(keys.due(Some(90), 0), []);
        assert_eq!(keys.due(None, 0), [at(Some(100))]);
        assert!(keys.is_empty());
    }

    #[test]
    fn requests_keep_their_interval() {
        let mut keys = KeyRequests::default();
        keys.ask(at(None));
        assert_eq!(keys.due(Some(0), 100).len(), 1);
        keys.ask(at(Some(40)));
        assert_eq!(keys.due(Some(40), 100), []);
        assert_eq!(keys.due(Some(80), 100), []);
        assert_eq!(keys.due(Some(120), 100).len(), 1);
    }

    #[test]
    fn key_frames_are_known_until_they_leave() {
        let mut keys = KeyRequests::default();
        for frame in [0, 10, 20] {
            keys.comes(FrameNo(frame));
        }
        assert_eq!(keys.next_known(FrameNo(5)), Some(FrameNo(10)));
        keys.left(FrameNo(10));
        assert_eq!(keys.next_known(FrameNo(0)), Some(FrameNo(10)));
        assert_eq!(keys.next_known(FrameNo(21)), None);
    }
}
