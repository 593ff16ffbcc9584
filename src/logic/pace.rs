// SPDX-License-Identifier: MPL-2.0

//! How fast the input comes by itself, and whether it stands still.
//!
//! Input that stands still while output is held may be waiting for that output, on the far side of a muxer. A source that is slow by
//! itself (a renderer, a filter that takes its time) waits for nothing, so what counts as standing still goes by the gaps between its
//! frames. Time in which a frame waits at our own door is none of them, and a gap that ended as soon as output was handed out isn't
//! either: that one was our doing.
//!
//! Times are nanoseconds since any moment.

use std::collections::VecDeque;

const SECOND: u64 = 1_000_000_000;

/// So long the input may stand still before its pace is known.
const FIRST_PATIENCE: u64 = 5 * SECOND;

/// So long it may in any case.
const LEAST_PATIENCE: u64 = SECOND;

/// Gaps that tell of a pace, and how many times the longest of them is too long.
const KNOWN_GAPS: usize = 2;
const TOO_LONG: u64 = 4;

/// So many gaps are remembered.
const GAPS: usize = 16;

/// What is done about input that stands still.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// Let the packets of so many chunks leave before their chunks are whole.
    LeaveEarly { chunks: u64 },
    /// They do already: give up what waits for more frames.
    GiveUpWithheld,
}

/// Where the next frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Next {
    /// Nobody knows: none has come yet, or the input was interrupted.
    #[default]
    Unknown,
    Upstream(Gap),
    /// At our door.
    Waits,
}

/// The next frame is with upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    since: u64,
    /// When something was last done about it.
    stalled: Option<u64>,
    /// All was done that can be done about it.
    is_exhausted: bool,
}

#[derive(Debug, Default)]
pub struct Pace {
    next: Next,
    /// The last ones.
    gaps: VecDeque<u64>,
    /// How often packets were let go early.
    stalls: u32,
}

impl Pace {
    /// A frame has come to our door.
    pub fn arrives(&mut self, now: u64) {
        let Next::Upstream(gap) = std::mem::replace(&mut self.next, Next::Waits) else {
            return;
        };
        let was_freed = |stalled: u64| now.saturating_sub(stalled) <= self.patience() / 2;
        if !gap.stalled.is_some_and(was_freed) {
            self.gaps.push_back(now.saturating_sub(gap.since));
            if self.gaps.len() > GAPS {
                self.gaps.pop_front();
            }
        }
    }

    /// The frame was taken in. `true`: the input wasn't watched, and is to be watched again.
    #[must_use]
    pub fn taken(&mut self, now: u64) -> bool {
        let is_watched = self.watched().is_some();
        self.arrives(now);
        self.next = Next::Upstream(Gap {
            since: now,
            stalled: None,
            is_exhausted: false,
        });
        !is_watched
    }

    /// The stream ends or is flushed: how long it takes until another frame comes says nothing.
    pub fn interrupted(&mut self) {
        self.next = Next::Unknown;
    }

    /// Whoever stood at our door has gone, with a frame that was taken in or without.
    pub fn leaves_door(&mut self) {
        if self.is_at_door() {
            self.interrupted();
        }
    }

    /// So long the input may stand still.
    fn patience(&self) -> u64 {
        let longest = self.gaps.iter().max();
        match longest.filter(|_| self.gaps.len() >= KNOWN_GAPS) {
            Some(longest) => longest.saturating_mul(TOO_LONG).max(LEAST_PATIENCE),
            None => FIRST_PATIENCE,
        }
    }

    /// The next frame stands at our own door.
    pub fn is_at_door(&self) -> bool {
        self.next == Next::Waits
    }

    /// The gap that goes on, unless there is nothing to be done about it.
    fn watched(&self) -> Option<Gap> {
        match self.next {
            Next::Upstream(gap) => Some(gap).filter(|gap| !gap.is_exhausted),
            _ => None,
        }
    }

    /// When the input will have stood still for too long. `None`: there is nothing to wait for, or nothing to be done.
    pub fn deadline(&self) -> Option<u64> {
        let gap = self.watched()?;
        let since = gap.stalled.unwrap_or(gap.since);
        Some(since.saturating_add(self.patience()))
    }

    /// The input has stood still for too long. `leaves_early`: packets leave early already.
    pub fn stalls(&mut self, now: u64, leaves_early: bool) -> Stall {
        if let Next::Upstream(gap) = &mut self.next {
            gap.stalled = Some(now);
            gap.is_exhausted = leaves_early;
        }
        if leaves_early {
            return Stall::GiveUpWithheld;
        }
        // What happens at each chunk soon happens no more.
        let chunks = 1u64.checked_shl(self.stalls).unwrap_or(u64::MAX);
        self.stalls = self.stalls.saturating_add(1);
        Stall::LeaveEarly { chunks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = SECOND / 1000;

    /// Frames with these gaps between them. Returns the time of the last one.
    fn run(pace: &mut Pace, mut now: u64, gaps: &[u64]) -> u64 {
        let _ = pace.taken(now);
        for gap in gaps {
            now += gap;
            let _ = pace.taken(now);
        }
        now
    }

    fn time_left(pace: &Pace, now: u64) -> Option<u64> {
        pace.deadline().map(|deadline| deadline.saturating_sub(now))
    }

    #[test]
    fn nothing_stands_still_before_it_has_come() {
        let mut pace = Pace::default();
        assert_eq!(time_left(&pace, u64::MAX), None);
        assert!(pace.taken(7));
        assert_eq!(time_left(&pace, 7), Some(5 * SECOND));
    }

    #[test]
    fn patience_follows_the_pace() {
        let patience = |gaps: &[u64]| {
            let mut pace = Pace::default();
            let now = run(&mut pace, 0, gaps);
            time_left(&pace, now).unwrap()
        };
        assert_eq!(patience(&[]), 5 * SECOND);
        assert_eq!(patience(&[40 * MILLISECOND]), 5 * SECOND);
        assert_eq!(patience(&[40 * MILLISECOND; 2]), SECOND);
        assert_eq!(patience(&[250 * MILLISECOND; 2]), SECOND);
        assert_eq!(patience(&[1500 * MILLISECOND; 9]), 6 * SECOND);
        // One gap tells for as long as it is among the last.
        let mut gaps = vec![900 * MILLISECOND];
        gaps.extend([MILLISECOND; GAPS - 1]);
        assert_eq!(patience(&gaps), 3600 * MILLISECOND);
        gaps.push(MILLISECOND);
        assert_eq!(patience(&gaps), SECOND);
        // Beyond the end of time is never.
        assert_eq!(
            patience(&[u64::MAX / 4, u64::MAX / 4]),
            u64::MAX - u64::MAX / 4 * 2
        );
    }

    #[test]
    fn a_source_that_is_slow_by_itself_never_stalls() {
        for gap in [1, 1500 * MILLISECOND, 4 * SECOND] {
            let mut pace = Pace::default();
            let mut now = 0;
            for _ in 0..100 {
                let _ = pace.taken(now);
                now += gap;
                assert!(time_left(&pace, now).unwrap() > 0, "{gap}");
            }
        }
    }

    #[test]
    fn time_at_our_door_is_no_gap() {
        let mut pace = Pace::default();
        let now = run(&mut pace, 0, &[MILLISECOND; 3]);
        pace.arrives(now + MILLISECOND);
        assert_eq!(time_left(&pace, now + 100 * SECOND), None);
        assert!(pace.taken(now + 100 * SECOND));
        assert_eq!(time_left(&pace, now + 100 * SECOND), Some(SECOND));
        assert!(!pace.taken(now + 100 * SECOND + MILLISECOND));
    }

    #[test]
    fn what_stalls_is_given_more_each_time() {
        let mut pace = Pace::default();
        let mut now = run(&mut pace, 0, &[MILLISECOND; 3]);
        for chunks in [1, 2, 4, 8] {
            now += SECOND;
            assert_eq!(time_left(&pace, now), Some(0));
            assert_eq!(pace.stalls(now, false), Stall::LeaveEarly { chunks });
            assert_eq!(time_left(&pace, now), Some(SECOND));
            now += SECOND;
            assert_eq!(pace.stalls(now, true), Stall::GiveUpWithheld);
            assert_eq!(time_left(&pace, now), None);
            // It had waited for us.
            now += MILLISECOND;
            assert!(pace.taken(now));
            assert_eq!(time_left(&pace, now), Some(SECOND));
        }
        pace.stalls = u32::MAX;
        let most = Stall::LeaveEarly { chunks: u64::MAX };
        assert_eq!(pace.stalls(now, false), most);
        assert_eq!(pace.stalls(now, false), most);
    }

    #[test]
    fn a_gap_that_output_didnt_end_is_the_inputs_own() {
        let mut pace = Pace::default();
        let now = run(&mut pace, 0, &[MILLISECOND; 3]) + SECOND;
        let _ = pace.stalls(now, false);
        let now = now + SECOND;
        let _ = pace.taken(now);
        assert_eq!(time_left(&pace, now), Some(8 * SECOND));
    }

    #[test]
    fn an_interruption_is_no_gap() {
        let mut pace = Pace::default();
        let now = run(&mut pace, 0, &[MILLISECOND; 3]);
        pace.interrupted();
        assert_eq!(time_left(&pace, now + 100 * SECOND), None);
        assert!(pace.taken(now + 100 * SECOND));
        assert_eq!(time_left(&pace, now + 100 * SECOND), Some(SECOND));
    }
}
