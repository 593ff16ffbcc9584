// SPDX-License-Identifier: MPL-2.0

//! What the `stats` property says.

use crate::distributor::decision::Sequential;
use crate::logic::planner::Plan;
use crate::logic::tally::Tally;

/// Everything that is reported, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) tally: Tally,
    pub(crate) encoder: Option<String>,
    pub(crate) sequential: Option<Sequential>,
    pub(crate) sessions_open: u64,
    /// As it was made last.
    pub(crate) plan: Option<Plan>,
    pub(crate) bytes_held: u64,
    pub(crate) bytes_peak: u64,
    pub(crate) bytes_bound: u64,
    pub(crate) leaves_early: bool,
}

impl Snapshot {
    pub(crate) fn structure(&self) -> gst::Structure {
        let tally = &self.tally;
        let sessions = tally.sessions().iter().map(|session| {
            gst::Structure::builder("session")
                .field("frames", session.frames)
                .field("frames-per-second", session.frames_per_second())
                .build()
        });
        let mut stats = gst::Structure::builder("vtparallelenc-stats")
            .field("parallel", self.sequential.is_none())
            .field("chunk-frames", tally.chunk_frames)
            .field("chunks-planned", tally.chunks_planned)
            .field("chunks-finished", tally.chunks_finished)
            .field("chunks-from-cache", tally.chunks_from_cache)
            .field("attempts-failed", tally.attempts_failed)
            .field("frames-in", tally.frames_in)
            .field("frames-out", tally.frames_out)
            .field("frames-skipped", tally.frames_skipped)
            .field("frames-copied", tally.frames_copied)
            .field("bytes-held", self.bytes_held)
            .field("bytes-peak", self.bytes_peak)
            .field("bytes-bound", self.bytes_bound)
            .field("leaves-early", self.leaves_early)
            .field("overlap-before", self.plan.map_or(0, |plan| plan.before))
            .field("overlap-after", self.plan.map_or(0, |plan| plan.after))
            .field("sessions-open", self.sessions_open)
            .field("sessions", gst::Array::new(sessions));
        if let Some(reason) = self.sequential {
            stats = stats.field("sequential-reason", reason.to_string());
        } else if let Some(plan) = self.plan {
            stats = stats
                .field("sessions-planned", plan.sessions)
                .field("limited-by", plan.limit.name());
        }
        if let Some(encoder) = &self.encoder {
            stats = stats.field("encoder", encoder);
        }
        stats.build()
    }
}
