// SPDX-License-Identifier: MPL-2.0

//! The time by which the input is watched: it always goes on, at the machine's pace. Tests set it by hand, so that nobody waits for
//! seconds in them.

use crate::locking::wait_timeout;
use once_cell::sync::Lazy;
use std::sync::{Condvar, MutexGuard};
use std::time::{Duration, Instant};

static START: Lazy<Instant> = Lazy::new(Instant::now);

/// Nanoseconds since some moment before anybody asked.
pub(crate) fn now() -> u64 {
    #[cfg(feature = "failpoints")]
    if let Some(now) = by_hand::now() {
        return now;
    }
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Waits for so many nanoseconds at most. Whoever returns looks at the time again.
pub(crate) fn wait<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    nanoseconds: u64,
) -> MutexGuard<'a, T> {
    let time = Duration::from_nanos(nanoseconds);
    #[cfg(feature = "failpoints")]
    let time = by_hand::slice().unwrap_or(time);
    wait_timeout(condvar, guard, time)
}

/// Time as a test wants it, for the whole process, from the first call on.
#[cfg(feature = "failpoints")]
pub mod by_hand {
    use crate::locking::lock;
    use std::sync::Mutex;
    use std::time::Duration;

    #[derive(Debug)]
    struct Hand {
        /// `None`: the clock goes by itself.
        now: Option<u64>,
        /// How often somebody has looked.
        looks: u64,
    }

    static HAND: Mutex<Hand> = Mutex::new(Hand {
        now: None,
        looks: 0,
    });

    /// So much time passes at once.
    pub fn advance(time: Duration) {
        let passed = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut hand = lock(&HAND);
        hand.now = Some(hand.now.unwrap_or(0).saturating_add(passed));
    }

    /// How often somebody has looked so far. Who watches an input does so all the time.
    pub fn looks() -> u64 {
        lock(&HAND).looks
    }

    pub(super) fn now() -> Option<u64> {
        let mut hand = lock(&HAND);
        hand.looks += 1;
        hand.now
    }

    /// So often whoever waits looks again.
    pub(super) fn slice() -> Option<Duration> {
        const SLICE: Duration = Duration::from_millis(1);
        lock(&HAND).now.map(|_| SLICE)
    }
}
