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

/// What the next frame answers.
#[must_use]
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Due {
    pub requests: Vec<Request>,
    /// It has to become a key frame for that; otherwise the next key frame will do.
    pub forces: bool,
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

    /// The next frame has this running time. Returns the requests that it answers. If the last key frame that was asked for is
    /// less than `interval` ago, they wait.
    pub fn due(&mut self, time: Option<u64>, interval: u64) -> Due {
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
            return Due::default();
        }
        let (requests, waiting): (Vec<_>, _) = self.waiting.drain(..).partition(is_due);
        self.waiting = waiting;
        // What was wanted before the last forced key frame had that: the next one answers, as with GstVideoEncoder.
        let forces = requests.iter().any(|request: &Request| {
            let had = request.time.zip(self.last_forced);
            had.is_none_or(|(wanted, last)| wanted > last)
        });
        if forces {
            self.last_forced = time.or(self.last_forced);
        }
        Due { requests, forces }
    }

    /// This frame is going to be a key frame.
    pub fn comes(&mut self, frame: FrameNo) {
        self.known.insert(frame);
    }

    /// Other frames than those that were known are going to be key frames.
    pub fn forget_known(&mut self) {
        self.known.clear();
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
        assert_eq!(keys.due(Some(40), 0).requests, []);
        keys.ask(at(None));
        assert_eq!(keys.due(Some(80), 0).requests, [at(Some(60)), at(None)]);
        assert_eq!(keys.due(Some(90), 0).requests, []);
        assert_eq!(keys.due(None, 0).requests, [at(Some(100))]);
        assert!(keys.is_empty());
    }

    #[test]
    fn requests_keep_their_interval() {
        let mut keys = KeyRequests::default();
        keys.ask(at(None));
        assert!(keys.due(Some(0), 100).forces);
        keys.ask(at(Some(40)));
        assert_eq!(keys.due(Some(40), 100), Due::default());
        assert_eq!(keys.due(Some(80), 100), Due::default());
        assert!(keys.due(Some(120), 100).forces);
        // Asked for again, it is answered without another key frame.
        keys.ask(at(Some(110)));
        let due = keys.due(Some(400), 0);
        assert_eq!((due.requests.len(), due.forces), (1, false));
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
