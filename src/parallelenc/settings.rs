// SPDX-License-Identifier: MPL-2.0

//! The properties' data and defaults, and the job that they come to.

use crate::job::{Cut, Job};
use crate::logic::given::Given;
use crate::logic::split::Overhead;
use std::path::PathBuf;
use std::time::Duration;

/// Half a second of film: shorter chunks cost more for their key frame than a session idle for as long.
pub(crate) const DEFAULT_MIN_CHUNK_FRAMES: u32 = 12;
/// More overlap than the longest look-ahead (x264: 250) buys nothing.
pub(crate) const MAX_OVERLAP: i32 = 1_000;
/// One failure may be an accident, and so may two; three of one chunk are its fault or its encoder's.
pub(crate) const DEFAULT_MAX_ATTEMPTS: u32 = 3;
/// In nanoseconds. No encoder takes so long for a frame, but some do for a look-ahead of hundreds of large ones.
pub(crate) const DEFAULT_STALL_TIMEOUT: u64 = 30_000_000_000;
/// In nanoseconds: as often as people look.
pub(crate) const DEFAULT_PROGRESS_INTERVAL: u64 = 1_000_000_000;
/// Two hours at 10 Mbit/s.
pub(crate) const DEFAULT_CACHE_MAX_BYTES: u64 = 10 << 30;
/// In percent: too little to be seen, and what seams at key frames cost in chunks of 70 frames.
pub(crate) const DEFAULT_MAX_OVERHEAD: f64 = 1.0;
/// As the encoder at hand needs it.
pub(crate) const AUTOMATIC_OVERLAP: i32 = -1;

/// The properties as they were set.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) encoder: Option<String>,
    pub(crate) sessions: u32,
    pub(crate) threads_per_session: u32,
    pub(crate) chunk_frames: u32,
    pub(crate) cut: Cut,
    pub(crate) min_chunk_frames: u32,
    pub(crate) overlap_before: i32,
    pub(crate) overlap_after: i32,
    pub(crate) source_frame_count: u64,
    pub(crate) key_frame_interval: u64,
    pub(crate) allow_parallel: bool,
    pub(crate) allow_parallel_live: bool,
    pub(crate) max_bitrate_overhead: f64,
    pub(crate) max_raw_bytes: u64,
    pub(crate) max_attempts: u32,
    pub(crate) stall_timeout: u64,
    pub(crate) progress_interval: u64,
    pub(crate) timeline_location: Option<String>,
    pub(crate) cache_location: Option<String>,
    pub(crate) cache_max_bytes: u64,
    /// No property: see `export`.
    pub(crate) given: Option<Given>,
    /// Nor this.
    pub(crate) longest_chunk: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            encoder: None,
            sessions: 0,
            threads_per_session: 0,
            chunk_frames: 0,
            cut: Cut::default(),
            min_chunk_frames: DEFAULT_MIN_CHUNK_FRAMES,
            overlap_before: AUTOMATIC_OVERLAP,
            overlap_after: AUTOMATIC_OVERLAP,
            source_frame_count: 0,
            key_frame_interval: 0,
            allow_parallel: true,
            allow_parallel_live: false,
            max_bitrate_overhead: DEFAULT_MAX_OVERHEAD,
            max_raw_bytes: 0,
            max_attempts: DEFAULT_MAX_ATTEMPTS,
            stall_timeout: DEFAULT_STALL_TIMEOUT,
            progress_interval: DEFAULT_PROGRESS_INTERVAL,
            timeline_location: None,
            cache_location: None,
            cache_max_bytes: DEFAULT_CACHE_MAX_BYTES,
            given: None,
            longest_chunk: None,
        }
    }
}

impl Settings {
    pub(crate) fn job(&self) -> Job {
        let nonzero = |value: u64| Some(value).filter(|&value| value > 0);
        let path = |set: Option<&String>| set.filter(|set| !set.is_empty()).map(PathBuf::from);
        Job {
            encoder: self.encoder.clone(),
            sessions: Some(self.sessions).filter(|&sessions| sessions > 0),
            threads: Some(self.threads_per_session).filter(|&threads| threads > 0),
            chunk_frames: nonzero(self.chunk_frames.into()),
            longest_chunk: self.longest_chunk,
            cut: self.cut,
            min_chunk_frames: self.min_chunk_frames.into(),
            overlap_before: u64::try_from(self.overlap_before).ok(),
            overlap_after: u64::try_from(self.overlap_after).ok(),
            source_frames: nonzero(self.source_frame_count),
            key_frame_interval: nonzero(self.key_frame_interval).map(Duration::from_nanos),
            allow_parallel: self.allow_parallel,
            allow_parallel_live: self.allow_parallel_live,
            max_overhead: Overhead::of_percent(self.max_bitrate_overhead),
            max_raw_bytes: nonzero(self.max_raw_bytes),
            max_attempts: self.max_attempts,
            stall_timeout: nonzero(self.stall_timeout).map(Duration::from_nanos),
            progress_interval: nonzero(self.progress_interval).map(Duration::from_nanos),
            timeline: path(self.timeline_location.as_ref()),
            cache: path(self.cache_location.as_ref())
                .map(|location| (location, self.cache_max_bytes)),
            given: self.given.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::parallelenc::ParallelEnc;
    use crate::shares::READINGS;
    use gst::prelude::*;

    #[test]
    fn the_memory_is_read_once_for_a_start_and_only_where_it_limits() {
        gst::init().unwrap();
        for (max_raw_bytes, expected) in [(0_u64, 1), (100 << 20, 0)] {
            let enc: ParallelEnc = glib::Object::new();
            enc.set_property("encoder", "jpegenc");
            enc.set_property("max-raw-bytes", max_raw_bytes);
            let readings = |states: &[gst::State]| {
                READINGS.set(0);
                for &state in states {
                    enc.set_state(state).unwrap();
                }
                READINGS.get()
            };
            let (up, down) = (gst::State::Playing, gst::State::Ready);
            assert_eq!(readings(&[gst::State::Ready, up]), expected);
            assert_eq!(readings(&[gst::State::Paused, up, down]), 0);
            // Another stream is another start.
            assert_eq!(readings(&[up]), expected);
            assert_eq!(readings(&[down, gst::State::Null]), 0);
        }
    }
}
