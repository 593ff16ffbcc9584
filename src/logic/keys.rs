// SPDX-License-Identifier: MPL-2.0

//! Key frames that others ask for: which frame answers which request.
//!
//! Downstream asks for a moment, which may lie ahead, or may have been passed: then frames of it may still be held. Upstream asks
//! for a moment or for the next frame. All times are running times in nanoseconds.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::num::NonZeroU64;

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

/// The requests that wait for their frames, and those that are going to come.
#[derive(Debug, Default)]
pub struct KeyRequests {
    /// By their time, those for the next frame first, and the last one that came first: GstVideoEncoder answers them in this order.
    waiting: BTreeMap<(Option<u64>, Reverse<u64>), Request>,
    /// How many have come.
    asked: u64,
    /// The least time between two key frames of which one is asked for, as it was when that was last asked.
    pub interval: u64,
    /// Running time of the last frame of which a key frame was asked.
    last_forced: Option<u64>,
    /// Times for which requests are going to come, if the next ones are as far apart as the last ones. Who cuts a stream into segments
    /// asks for the next key frame when the last one arrives: then the frame has long been taken in.
    expected: Vec<u64>,
    /// Time of downstream's last request, and its distance from the one before.
    last_request: Option<(u64, Option<u64>)>,
    /// A key frame comes with the first frame of each multiple of this time, too.
    period: Option<NonZeroU64>,
    /// Which of these periods the last frame was of.
    period_number: Option<u64>,
}

/// Segments are as long as frames make them: so far the distance of requests may differ from one to the next, in nanoseconds.
const JITTER: u64 = 100_000_000;

/// More requests than this aren't expected at once, whatever times are given: they would all be looked up.
const MOST_EXPECTED: u64 = 10_000;

impl KeyRequests {
    pub fn new(period: Option<u64>) -> Self {
        Self {
            period: period.and_then(NonZeroU64::new),
            ..Self::default()
        }
    }

    /// Lets a request wait for its frame.
    pub fn ask(&mut self, request: Request) {
        let nth = Reverse(self.asked);
        self.waiting.insert((request.time, nth), request);
        self.asked += 1;
    }

    /// A request for `time` came. If the last ones were as far apart, or it is the first one since the stream began with a key frame at
    /// `first`, others are expected to follow at this distance, which is at least `least`, up to `depth` ahead: for that time frames are
    /// taken in before they leave. Returns the times that are expected up to, not including, `until`, of frames that were taken in already.
    pub fn expect(
        &mut self,
        time: u64,
        first: Option<u64>,
        least: u64,
        depth: u64,
        until: u64,
    ) -> Vec<u64> {
        let Some(before) = self.last_request.map(|(last, _)| last).or(first) else {
            self.last_request = Some((time, None));
            return Vec::new();
        };
        // A second request for the same moment, as of another branch, says nothing of a distance.
        let Some(period) = time.checked_sub(before).filter(|&period| period > 0) else {
            return Vec::new();
        };
        let last = self.last_request.replace((time, Some(period)));
        let is_regular =
            last.is_none_or(|(_, last)| last.is_some_and(|last| period.abs_diff(last) <= JITTER));
        // What comes in time needs no expectation.
        let is_due = is_regular && period >= least && period < depth;
        let count = (depth / period).saturating_add(2).min(MOST_EXPECTED);
        let times = (1..=if is_due { count } else { 0 })
            .map(|n| time.saturating_add(period.saturating_mul(n)));
        let passed;
        (passed, self.expected) = times.partition(|expected| *expected < until);
        passed
    }

    /// The next frame has this running time. Returns the requests that it answers. If the last key frame that was asked for is
    /// less than the interval ago, they wait.
    pub fn due(&mut self, time: Option<u64>) -> Due {
        let number = self.period.zip(time).map(|(period, time)| time / period);
        let mut due = Due {
            requests: Vec::new(),
            forces: number.is_some_and(|number| {
                let last = self.period_number.replace(number);
                last.is_none_or(|last| last < number)
            }),
        };
        let next = self
            .last_forced
            .map(|last| last.saturating_add(self.interval));
        let is_too_soon = next.zip(time).is_some_and(|(next, time)| next > time);
        let any = !self.waiting.is_empty() || !self.expected.is_empty();
        if any && (self.interval == 0 || !is_too_soon) {
            // A frame without a time answers all of them, as with GstVideoEncoder.
            let later = match time.and_then(|now| now.checked_add(1)) {
                Some(later) => self.waiting.split_off(&(Some(later), Reverse(u64::MAX))),
                None => BTreeMap::new(),
            };
            let requests = std::mem::replace(&mut self.waiting, later);
            due.requests = requests.into_values().collect();
            // What was wanted before the last forced key frame had that: the next one answers, as with GstVideoEncoder.
            due.forces |= due.requests.iter().any(|request| {
                let had = request.time.zip(self.last_forced);
                had.is_none_or(|(wanted, last)| wanted > last)
            });
            let expected = self.expected.len();
            self.expected
                .retain(|expected| time.is_none_or(|time| *expected > time));
            due.forces |= self.expected.len() < expected;
        }
        if due.forces {
            self.last_forced = time.or(self.last_forced);
        }
        due
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
        assert_eq!(keys.due(Some(40)).requests, []);
        keys.ask(at(None));
        assert_eq!(keys.due(Some(80)).requests, [at(None), at(Some(60))]);
        assert_eq!(keys.due(Some(90)).requests, []);
        assert_eq!(keys.due(None).requests, [at(Some(100))]);
        assert!(keys.waiting.is_empty());
    }

    #[test]
    fn requests_keep_their_interval() {
        let mut keys = KeyRequests {
            interval: 100,
            ..KeyRequests::default()
        };
        keys.ask(at(None));
        assert!(keys.due(Some(0)).forces);
        keys.ask(at(Some(40)));
        assert_eq!(keys.due(Some(40)), Due::default());
        assert_eq!(keys.due(Some(80)), Due::default());
        assert!(keys.due(Some(120)).forces);
        // Asked for again, it is answered without another key frame.
        keys.ask(at(Some(110)));
        keys.interval = 0;
        let due = keys.due(Some(400));
        assert_eq!((due.requests.len(), due.forces), (1, false));
    }

    #[test]
    fn regular_key_frames_come_with_the_first_frame_of_each_period() {
        let mut keys = KeyRequests::new(Some(100));
        let times = [0, 40, 80, 120, 160, 200, 410, 430];
        let forced = times.map(|time| keys.due(Some(time)).forces);
        assert_eq!(forced, [true, false, false, true, false, true, true, false]);
        assert!(!keys.due(None).forces);
        // What is asked for there is answered there.
        keys.interval = 1_000;
        keys.ask(at(Some(500)));
        let due = keys.due(Some(500));
        assert_eq!(
            (due.requests.len(), due.forces),
            (0, true),
            "too soon for it"
        );
        assert_eq!(keys.due(Some(1_500)).requests.len(), 1);
    }

    #[test]
    fn what_was_asked_for_twice_is_expected_again() {
        let mut keys = KeyRequests::default();
        // Asked for 50 when the key frame of 0 had left, 120 were taken in, and 200 are before they leave.
        assert_eq!(keys.expect(50, Some(0), 10, 200, 120), [100]);
        for (time, is_key) in [
            (120, false),
            (149, false),
            (150, true),
            (151, false),
            (260, true),
        ] {
            let due = keys.due(Some(time));
            assert_eq!((due.forces, due.requests.len()), (is_key, 0), "{time}");
        }
        // Nobody has asked since: 300 and 350 are the last.
        assert!(keys.due(Some(300)).forces);
        assert!(keys.due(Some(350)).forces);
        assert!(!keys.due(Some(400)).forces);
        // So far apart, each request comes in time.
        assert!(keys.expect(500, None, 10, 200, 700).is_empty());
        assert!(!keys.due(Some(900)).forces);
    }

    #[test]
    fn what_is_expected_has_an_end() {
        let mut keys = KeyRequests::default();
        let passed = keys.expect(1, Some(0), 0, u64::MAX, u64::MAX);
        assert_eq!(passed.len() as u64, MOST_EXPECTED);
        let mut keys = KeyRequests::default();
        let late = u64::MAX - 3;
        let passed = keys.expect(late, Some(late - 2), 1, u64::MAX, u64::MAX);
        assert!(passed.len() <= 1);
        assert!(keys.due(Some(u64::MAX)).forces);
        keys.interval = u64::MAX;
        assert!(keys.due(Some(u64::MAX - 1)).requests.is_empty());
    }

    #[test]
    fn what_is_irregular_is_not_expected() {
        const SECOND: u64 = 1_000_000_000;
        let at = |seconds: u64| seconds * SECOND;
        let mut keys = KeyRequests::default();
        let mut expect = |time: u64| keys.expect(at(time), None, SECOND, at(60), at(100)).len();
        // One, another, and the same distance again.
        assert_eq!(expect(10), 0);
        assert_eq!(expect(14), 0);
        assert_eq!(expect(14), 0);
        assert!(expect(18) > 0);
        assert_eq!(expect(19), 0);
        // A distance that is too small for anybody is no distance.
        let mut keys = KeyRequests::default();
        assert!(keys.expect(3, Some(0), SECOND, at(60), at(100)).is_empty());
    }
}
