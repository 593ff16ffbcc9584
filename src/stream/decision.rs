// SPDX-License-Identifier: MPL-2.0

//! What follows from the settings and the encoder at hand: how many sessions at most, with how much overlap,
//! or one encoder for the whole stream.

use crate::encoder::description::Traits;
use crate::encoder::profile::{Concurrency, OwnKeys, Profile};
use crate::job::{Job, MAX_SESSIONS};
use crate::logic::bucket::Vbv;
use crate::logic::request::{Beginning, Overlap};
use crate::logic::split::{Alone, Overhead, SeamCost};

/// Why one encoder encodes the whole stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Sequential {
    #[error("allow-parallel is false")]
    NotAllowed,
    #[error("there is one session and no chunk length was set")]
    OneSession,
    #[error(
        "the source is live, and chunks would delay it by their length; allow-parallel-live allows that"
    )]
    LiveSource,
    #[error(
        "the source is live without a frame rate, so that nobody could say by how much chunks delay it"
    )]
    LiveWithoutRate,
    #[error(
        "the source is live, and max-raw-bytes doesn't hold it for as long as chunks delay it; set a smaller chunk-frames"
    )]
    LiveBeyondMemory,
    #[error(
        "each buffer is one field (interlace-mode=alternate), and chunks are made of whole pictures"
    )]
    AlternatingFields,
    #[error("the encoder can't be used in chunks: {0}")]
    Encoder(&'static str),
    #[error("one encoder with threads of its own is as fast as chunks would be")]
    AsFast,
    #[error(
        "chunks that are faster would cost about {:.1} % of the bits, which is more than max-bitrate-overhead",
        .0.percent()
    )]
    Overhead(Overhead),
}

impl Sequential {
    /// As messages and statistics name it.
    pub(crate) fn nick(self) -> &'static str {
        match self {
            Self::NotAllowed => "allow-parallel",
            Self::OneSession => "one-session",
            Self::LiveSource => "live",
            Self::LiveWithoutRate => "live-without-rate",
            Self::LiveBeyondMemory => "live-beyond-memory",
            Self::AlternatingFields => "alternating-fields",
            Self::Encoder(_) => "encoder",
            Self::AsFast => "as-fast",
            Self::Overhead(_) => "max-bitrate-overhead",
        }
    }
}

impl From<Alone> for Sequential {
    fn from(alone: Alone) -> Self {
        match alone {
            Alone::AsFast => Self::AsFast,
            Alone::Overhead(overhead) => Self::Overhead(overhead),
        }
    }
}

/// Made once the encoder is known.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    /// Factory name of the encoder.
    pub(crate) encoder: String,
    pub(crate) profile: &'static Profile,
    pub(crate) sequential: Option<Sequential>,
    /// At least 1, and at most so many.
    pub(crate) sessions: u32,
    /// Sessions where the user leaves it to us, at most.
    pub(crate) automatic_sessions: u32,
    /// Each keeps a core busy.
    pub(crate) is_limited_by_cores: bool,
    pub(crate) seam_cost: Option<SeamCost>,
    pub(crate) before: Overlap,
    pub(crate) after: Overlap,
    pub(crate) beginning: Beginning,
    pub(crate) own_keys: OwnKeys,
    pub(crate) vbv: Option<Vbv>,
    pub(crate) min_chunk_frames: u64,
    /// Shortest chunk in nanoseconds that the encoder recommends.
    pub(crate) min_chunk_duration: u64,
}

impl Decision {
    /// `cores`: of the process.
    pub(crate) fn new(cores: u32, job: &Job, traits: &Traits) -> Self {
        let automatic = match (traits.recommended.sessions, traits.concurrency) {
            (0, Concurrency::Cores) => cores,
            (0, Concurrency::Engines(engines)) => engines,
            (_, Concurrency::Alone(_)) => 1,
            (recommended, _) => recommended,
        };
        let automatic_sessions = automatic.clamp(1, MAX_SESSIONS);
        let sessions = job.sessions.unwrap_or(automatic_sessions);
        let sequential = match traits.concurrency {
            _ if !job.allow_parallel => Some(Sequential::NotAllowed),
            Concurrency::Alone(reason) => Some(Sequential::Encoder(reason)),
            _ if sessions == 1 && !job.wants_chunks() => Some(Sequential::OneSession),
            _ => None,
        };
        let overlap =
            |set: Option<u64>, automatic| set.map_or(Overlap::UpTo(automatic), Overlap::Exactly);
        Self {
            encoder: traits.name.clone(),
            profile: traits.profile,
            sequential,
            automatic_sessions,
            sessions: if sequential.is_some() { 1 } else { sessions },
            is_limited_by_cores: (traits.recommended.sessions, traits.concurrency)
                == (0, Concurrency::Cores),
            seam_cost: traits.seam_cost,
            before: overlap(job.overlap_before, traits.overlap.0),
            after: overlap(job.overlap_after, traits.overlap.1),
            beginning: traits.beginning,
            own_keys: traits.own_keys,
            vbv: traits.vbv,
            min_chunk_frames: job.min_chunk_frames.max(traits.recommended.minimum_frames),
            min_chunk_duration: traits.recommended.minimum_duration,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Cut;

    fn traits(factory: &str) -> Traits {
        gst::init().unwrap();
        let encoder = gst::ElementFactory::make(factory).build();
        Traits::of(&encoder.unwrap(), |_| false)
    }

    /// With everything left to us.
    fn automatic() -> Job {
        Job {
            encoder: None,
            sessions: None,
            threads: None,
            max_overhead: Overhead(100),
            chunk_frames: None,
            longest_chunk: None,
            cut: Cut::default(),
            min_chunk_frames: 12,
            overlap_before: None,
            overlap_after: None,
            source_frames: None,
            key_frame_interval: None,
            allow_parallel: true,
            allow_parallel_live: false,
            max_raw_bytes: Some(1 << 30),
            max_attempts: 3,
            stall_timeout: None,
            timeline: None,
            progress_interval: None,
            cache: None,
            given: None,
        }
    }

    fn decide(job: &Job, traits: &Traits) -> Decision {
        Decision::new(8, job, traits)
    }

    #[test]
    fn one_session_is_sequential_unless_chunks_are_asked_for() {
        let jpeg = traits("jpegenc");
        let mut job = Job {
            sessions: Some(1),
            ..automatic()
        };
        let sequential = |job: &Job| decide(job, &jpeg).sequential;
        assert_eq!(sequential(&job), Some(Sequential::OneSession));
        job.chunk_frames = Some(10);
        assert_eq!(sequential(&job), None);
        job.allow_parallel = false;
        assert_eq!(sequential(&job), Some(Sequential::NotAllowed));
    }

    #[test]
    fn automatic_sessions_are_those_that_the_encoder_gains_from() {
        let mut of = traits("jpegenc");
        let auto = automatic();
        assert_eq!(decide(&auto, &of).sessions, 8);
        of.recommended.sessions = 20;
        assert_eq!(decide(&auto, &of).sessions, 20);
        let three = Job {
            sessions: Some(3),
            ..automatic()
        };
        assert_eq!(decide(&three, &of).sessions, 3);
        let alone = traits("y4menc");
        let Some(Sequential::Encoder(_)) = decide(&three, &alone).sequential else {
            panic!("y4menc has one header");
        };
    }
}
