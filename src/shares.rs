// SPDX-License-Identifier: MPL-2.0

//! What an element may use: what was set, or its share of what the process may. Elements count from READY on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Where the memory's size can't be read: a quarter of the 4 GiB that any machine for video has.
const UNKNOWN_QUARTER: u64 = 1 << 30;

/// Who shares something.
#[derive(Debug)]
struct Sharers(AtomicU64);

impl Sharers {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// So many parts are equal to it.
    fn part_of(&self, whole: u64) -> u64 {
        whole / self.0.load(Ordering::Relaxed).max(1)
    }
}

/// One of them, while it lives: with each that comes or goes, all parts change.
#[derive(Debug)]
struct Sharer(&'static Sharers);

impl Sharer {
    fn of(sharers: &'static Sharers) -> Self {
        sharers.0.fetch_add(1, Ordering::Relaxed);
        Self(sharers)
    }
}

impl Drop for Sharer {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Elements of this process that share a quarter of the memory.
static OF_MEMORY: Sharers = Sharers::new();

/// And those that share the cores.
static OF_CORES: Sharers = Sharers::new();

/// An element that shares cores has two at least, where there are two: those of a ladder don't all need theirs.
const LEAST_CORES: u64 = 2;

/// Cores that an element may keep busy.
#[derive(Debug, Default)]
pub(crate) struct Cores {
    /// The process's.
    pub(crate) whole: u32,
    /// Nobody has said how many sessions it has.
    share: Option<Sharer>,
}

impl Cores {
    /// Reads files of the system: not to be made with a lock held.
    pub(crate) fn new(are_shared: bool) -> Self {
        Self {
            whole: of_process(),
            share: are_shared.then(|| Sharer::of(&OF_CORES)),
        }
    }

    /// At this moment, at least 1.
    pub(crate) fn number(&self) -> u32 {
        let whole = self.whole.max(1).into();
        let part = self.share.as_ref().map(|it| it.0.part_of(whole));
        let part = part.map_or(whole, |part| part.max(LEAST_CORES).min(whole));
        u32::try_from(part).unwrap_or(u32::MAX)
    }
}

/// Cores that the process may use: by its affinity and its container's quota.
fn of_process() -> u32 {
    let cores = available_parallelism().map_or(1, usize::from);
    u32::try_from(cores).unwrap_or(u32::MAX)
}

/// Bytes of raw video that an element may hold.
#[derive(Debug)]
pub(crate) enum Memory {
    /// As the user set it: this element's alone.
    Own(u64),
    Shared(MemoryShare),
}

impl Memory {
    /// Reads files of the system where nothing was set: not to be made with a lock held.
    pub(crate) fn new(set: Option<u64>) -> Self {
        set.map_or_else(
            || Self::Shared(MemoryShare::of(quarter_of_memory())),
            Self::Own,
        )
    }

    /// At this moment.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Own(bytes) => *bytes,
            Self::Shared(share) => share.share.0.part_of(share.whole),
        }
    }
}

/// Nothing may be held before anything is known.
impl Default for Memory {
    fn default() -> Self {
        Self::Own(0)
    }
}

/// A part in what the process may hold.
#[derive(Debug)]
pub(crate) struct MemoryShare {
    whole: u64,
    share: Sharer,
}

impl MemoryShare {
    fn of(whole: u64) -> Self {
        let share = Sharer::of(&OF_MEMORY);
        Self { whole, share }
    }
}

/// A quarter of what is available of the machine's memory, or of the container's limit where that is less.
fn quarter_of_memory() -> u64 {
    #[cfg(test)]
    READINGS.with(|readings| readings.set(readings.get() + 1));
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let Ok(system) = System::new_with_specifics(memory) else {
        return UNKNOWN_QUARTER;
    };
    // (What is free of a container's limit doesn't count what the page cache would give back.)
    let available = system.available_memory();
    let limit = system.cgroup_limits().map(|limits| limits.total_memory);
    limit.map_or(available, |limit| limit.min(available)) / 4
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
        static SHARERS: Sharers = Sharers::new();
        assert_eq!(SHARERS.part_of(1_001), 1_001);
        let mut all: Vec<_> = (0..5).map(|_| Sharer::of(&SHARERS)).collect();
        assert_eq!(SHARERS.part_of(1_001), 200);
        all.truncate(1);
        assert_eq!(SHARERS.part_of(1_001), 1_001);
    }

    #[test]
    fn cores_that_were_asked_for_are_not_shared() {
        let whole = of_process();
        let _others: Vec<_> = (0..64).map(|_| Cores::new(true)).collect();
        assert_eq!(Cores::new(false).number(), whole);
        assert_eq!(Cores::new(true).number(), whole.min(2));
    }
}
