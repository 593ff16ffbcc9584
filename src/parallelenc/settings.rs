// SPDX-License-Identifier: MPL-2.0

//! The properties' data and defaults, and the job that they come to.

use std::fmt;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

pub(crate) const MAX_SESSIONS: u32 = 64;
/// Half a second of film: shorter chunks cost more for their key frame than a session idle for as long.
pub(crate) const DEFAULT_MIN_CHUNK_FRAMES: u32 = 12;
/// More overlap than the longest look-ahead (x264: 250) buys nothing.
pub(crate) const MAX_OVERLAP: u32 = 1_000;

/// The properties as they were set.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) encoder: Option<String>,
    pub(crate) sessions: u32,
    pub(crate) chunk_frames: u32,
    pub(crate) min_chunk_frames: u32,
    pub(crate) overlap_before: u32,
    pub(crate) overlap_after: u32,
    pub(crate) source_frame_count: u64,
    pub(crate) allow_parallel: bool,
    pub(crate) max_raw_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            encoder: None,
            sessions: 0,
            chunk_frames: 0,
            min_chunk_frames: DEFAULT_MIN_CHUNK_FRAMES,
            overlap_before: 0,
            overlap_after: 0,
            source_frame_count: 0,
            allow_parallel: true,
            max_raw_bytes: 0,
        }
    }
}

/// Why one encoder encodes the whole stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sequential {
    NotAllowed,
    OneSession,
    LiveSource,
}

impl fmt::Display for Sequential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Sequential::NotAllowed => "allow-parallel is false",
            Sequential::OneSession => "there is one session and no chunk length was set",
            Sequential::LiveSource => {
                "the source is live, and chunks would delay it by their length"
            }
        })
    }
}

/// The settings with every automatic value decided, fixed from READY on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    /// Factory name or bin description; `None` leaves it to downstream's caps.
    pub(crate) encoder: Option<String>,
    /// At least 1.
    pub(crate) sessions: usize,
    pub(crate) chunk_frames: Option<u64>,
    pub(crate) min_chunk_frames: u64,
    pub(crate) overlap_before: u64,
    pub(crate) overlap_after: u64,
    /// Frames that will come, as far as the application said so.
    pub(crate) source_frames: Option<u64>,
    pub(crate) max_raw_bytes: u64,
    /// Known before the first frame: no chunks.
    pub(crate) sequential: Option<Sequential>,
}

impl Settings {
    pub(crate) fn job(&self) -> Job {
        let nonzero = |value: u64| Some(value).filter(|&value| value > 0);
        let sessions = match self.sessions {
            0 => std::thread::available_parallelism()
                .map_or(1, usize::from)
                .min(MAX_SESSIONS as usize),
            sessions => sessions as usize,
        };
        let sequential = if !self.allow_parallel {
            Some(Sequential::NotAllowed)
        } else if sessions == 1 && self.chunk_frames == 0 {
            Some(Sequential::OneSession)
        } else {
            None
        };
        Job {
            encoder: self.encoder.clone(),
            sessions,
            chunk_frames: nonzero(self.chunk_frames.into()),
            min_chunk_frames: self.min_chunk_frames.into(),
            overlap_before: self.overlap_before.into(),
            overlap_after: self.overlap_after.into(),
            source_frames: nonzero(self.source_frame_count),
            max_raw_bytes: nonzero(self.max_raw_bytes).unwrap_or_else(quarter_of_memory),
            sequential,
        }
    }
}

/// Where the memory's size can't be read: a quarter of the 4 GiB that any machine for video has.
const UNKNOWN_QUARTER: u64 = 1 << 30;

/// A quarter of the machine's memory, or of the container's limit where that is less.
fn quarter_of_memory() -> u64 {
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
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_memory_is_a_plausible_figure() {
        let quarter = quarter_of_memory();
        assert!(quarter > 16 << 20, "{quarter}");
        assert!(quarter < 1 << 50, "{quarter}");
    }

    #[test]
    fn one_session_is_sequential_unless_chunks_are_asked_for() {
        let mut settings = Settings {
            sessions: 1,
            ..Settings::default()
        };
        assert_eq!(settings.job().sequential, Some(Sequential::OneSession));
        settings.chunk_frames = 10;
        assert_eq!(settings.job().sequential, None);
        settings.allow_parallel = false;
        assert_eq!(settings.job().sequential, Some(Sequential::NotAllowed));
    }
}
