// SPDX-License-Identifier: MPL-2.0

//! How much raw video an element may hold: what was set, or its share of what a process may.

use std::sync::atomic::{AtomicU64, Ordering};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Where the memory's size can't be read: a quarter of the 4 GiB that any machine for video has.
const UNKNOWN_QUARTER: u64 = 1 << 30;

/// Elements of this process that share a quarter of the memory.
static SHARERS: AtomicU64 = AtomicU64::new(0);

/// Bytes of raw video that an element may hold.
#[derive(Debug)]
pub(crate) enum Memory {
    /// As the user set it: this element's alone.
    Own(u64),
    Shared(Share),
}

impl Memory {
    /// Reads files of the system where nothing was set: not to be made with a lock held.
    pub(crate) fn new(set: Option<u64>) -> Self {
        set.map_or_else(|| Self::Shared(Share::of(quarter_of_memory())), Self::Own)
    }

    /// At this moment.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Own(bytes) => *bytes,
            Self::Shared(share) => part(share.whole, SHARERS.load(Ordering::Relaxed)),
        }
    }
}

/// Nothing may be held before anything is known.
impl Default for Memory {
    fn default() -> Self {
        Self::Own(0)
    }
}

/// A part in what the process may hold, as large as each other's, while it lives: with each element that comes or goes, all change.
#[derive(Debug)]
pub(crate) struct Share {
    whole: u64,
}

impl Share {
    fn of(whole: u64) -> Self {
        SHARERS.fetch_add(1, Ordering::Relaxed);
        Self { whole }
    }
}

fn part(whole: u64, sharers: u64) -> u64 {
    whole / sharers.max(1)
}

impl Drop for Share {
    fn drop(&mut self) {
        SHARERS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A quarter of the machine's memory, or of the container's limit where that is less.
fn quarter_of_memory() -> u64 {
    #[cfg(test)]
    READINGS.with(|readings| readings.set(readings.get() + 1));
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let Ok(system) = System::new_with_specifics(memory) else {
        return UNKNOWN_QUARTER;
    };
    let machine = system.total_memory();
    let limit = system
        .cgroup_limits()
        .map_or(machine, |limits| limits.total_memory.min(machine));
    limit / 4
}

#[cfg(test)]
thread_local! {
    /// How often this thread has read the memory's size.
    pub(crate) static READINGS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_memory_is_a_plausible_figure() {
        let quarter = quarter_of_memory();
        assert!(quarter > 16 << 20, "{quarter}");
        assert!(quarter < 1 << 50, "{quarter}");
    }

    #[test]
    fn what_was_set_is_not_shared() {
        let own = Memory::new(Some(1_000));
        let _others = [Memory::new(None), Memory::new(None)];
        assert_eq!(own.bytes(), 1_000);
    }

    #[test]
    fn the_shares_are_never_more_than_the_whole() {
        assert_eq!(part(1_001, 1), 1_001);
        assert_eq!(part(1_001, 5), 200);
        assert_eq!(part(1_001, 0), 1_001);
    }
}
