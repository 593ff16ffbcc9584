// SPDX-License-Identifier: MPL-2.0

//! What the `stats` property says.

use crate::distributor::snapshot::Snapshot;

pub(super) fn stats(of: &Snapshot) -> gst::Structure {
    let tally = &of.tally;
    let sessions = tally.sessions().iter().map(|session| {
        gst::Structure::builder("session")
            .field("frames", session.frames)
            .field("frames-per-second", session.frames_per_second())
            .build()
    });
    let mut stats = gst::Structure::builder("vtparallelenc-stats")
        .field("parallel", of.sequential.is_none())
        .field("chunk-frames", tally.chunk_frames)
        .field("chunks-planned", tally.chunks_planned)
        .field("chunks-finished", tally.chunks_finished)
        .field("chunks-from-cache", tally.chunks_from_cache)
        .field("attempts-failed", tally.attempts_failed)
        .field("frames-in", tally.frames_in)
        .field("frames-out", tally.frames_out)
        .field("frames-skipped", tally.frames_skipped)
        .field("frames-copied", tally.frames_copied)
        .field("bytes-held", of.bytes_held)
        .field("bytes-peak", of.bytes_peak)
        .field("bytes-bound", of.bytes_bound)
        .field("leaves-early", of.leaves_early)
        .field("overlap-before", of.plan.map_or(0, |plan| plan.before))
        .field("overlap-after", of.plan.map_or(0, |plan| plan.after))
        .field("sessions-open", of.sessions_open)
        .field("sessions", gst::Array::new(sessions));
    if let Some(reason) = of.sequential {
        stats = stats.field("sequential-reason", reason.to_string());
    } else if let Some(plan) = of.plan {
        stats = stats
            .field("sessions-planned", plan.sessions)
            .field("limited-by", plan.limit.name());
    }
    if let Some(encoder) = &of.encoder {
        stats = stats.field("encoder", encoder);
    }
    stats.build()
}
