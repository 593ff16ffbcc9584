// SPDX-License-Identifier: MPL-2.0

//! What is to be done, as the properties say it: fixed from READY on. `None` is automatic.

use crate::logic::given::Given;
use crate::logic::split::Overhead;
use std::path::PathBuf;
use std::time::Duration;

/// More sessions than this aren't made.
pub(crate) const MAX_SESSIONS: u32 = 64;

/// Nor encoders with more threads (x264's most).
pub(crate) const MAX_THREADS: u32 = 128;

/// So long a shutdown waits for encoders at most. Most of what one may still do (its look-ahead) is done by then, and people
/// press Ctrl-C again after that.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Where chunks end that have no set length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "GstVtParallelEncCut")]
pub enum Cut {
    /// Where the encoder makes a key frame by itself: at a cut, or at its greatest distance from the last one.
    #[default]
    #[enum_value(name = "Where a key frame stands anyway", nick = "scene")]
    Scene,
    /// By counting frames.
    #[enum_value(name = "By counting frames", nick = "fixed")]
    Fixed,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Job {
    /// Factory name or bin description; `None` leaves it to downstream's caps.
    pub(crate) encoder: Option<String>,
    /// At least 1.
    pub(crate) sessions: Option<u32>,
    /// Threads of each, at least 1.
    pub(crate) threads: Option<u32>,
    pub(crate) chunk_frames: Option<u64>,
    /// Of automatic chunks, where that isn't to be what gains anything.
    pub(crate) longest_chunk: Option<u64>,
    pub(crate) cut: Cut,
    pub(crate) min_chunk_frames: u64,
    pub(crate) overlap_before: Option<u64>,
    pub(crate) overlap_after: Option<u64>,
    /// Frames that will come, as far as the application said so.
    pub(crate) source_frames: Option<u64>,
    /// Distance of regular key frames, in running time.
    pub(crate) key_frame_interval: Option<Duration>,
    pub(crate) allow_parallel: bool,
    pub(crate) allow_parallel_live: bool,
    /// What seams may cost.
    pub(crate) max_overhead: Overhead,
    /// Most bytes of raw frames; `None`: a [share](crate::shares::Memory) of the process's.
    pub(crate) max_raw_bytes: Option<u64>,
    /// At least 1.
    pub(crate) max_attempts: u32,
    pub(crate) stall_timeout: Option<Duration>,
    /// Where a timeline is written.
    pub(crate) timeline: Option<PathBuf>,
    /// How often progress is told; `None`: never.
    pub(crate) progress_interval: Option<Duration>,
    /// Where chunks are kept, and how many bytes of them; 0 is no bound.
    pub(crate) cache: Option<(PathBuf, u64)>,
    /// Chunks that were planned before.
    pub(crate) given: Option<Given>,
}

impl Job {
    /// Chunks were asked for, or what only they can do.
    pub(crate) fn wants_chunks(&self) -> bool {
        self.chunk_frames.is_some() || self.cache.is_some() || self.key_frame_interval.is_some()
    }
}
