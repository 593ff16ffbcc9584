// SPDX-License-Identifier: MPL-2.0

//! What is to be done, as it was set, and the limits within which it is.

use std::path::PathBuf;
use std::time::Duration;

/// Sessions of one element.
pub(crate) const MAX_SESSIONS: u32 = 64;

/// So long the shutdown waits for encoders at most. Most of what one may still do (its look-ahead) is done by then, and people
/// press Ctrl-C again after that.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// The settings as they are worked with, fixed from READY on. `None` is automatic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    /// Factory name or bin description; `None` leaves it to downstream's caps.
    pub(crate) encoder: Option<String>,
    /// At least 1.
    pub(crate) sessions: Option<usize>,
    pub(crate) chunk_frames: Option<u64>,
    pub(crate) min_chunk_frames: u64,
    pub(crate) overlap_before: Option<u64>,
    pub(crate) overlap_after: Option<u64>,
    /// Frames that will come, as far as the application said so.
    pub(crate) source_frames: Option<u64>,
    pub(crate) allow_parallel: bool,
    pub(crate) allow_parallel_live: bool,
    pub(crate) max_raw_bytes: u64,
    /// At least 1.
    pub(crate) max_attempts: u32,
    pub(crate) stall_timeout: Option<Duration>,
    /// Where chunks are kept, and how many bytes of them; 0 is no bound.
    pub(crate) cache: Option<(PathBuf, u64)>,
}
