// SPDX-License-Identifier: MPL-2.0

//! What the `stats` property says.

use super::shared::{Mode, Shared};
use crate::media::raw::frame_bytes;

impl Shared {
    /// Everything that is reported, at one moment.
    pub(crate) fn stats(&self) -> gst::Structure {
        let caps = self.input.lock().caps.clone();
        let (encoder, mode, total) = {
            let encoding = self.encoding.lock();
            let recipe = encoding.recipe.as_ref();
            let encoder = recipe.map(|recipe| recipe.description.clone());
            (encoder, encoding.mode, encoding.frames_to_come)
        };
        let engine = self.lock();
        let progress = engine.progress(crate::clock::now(), total);
        // As it was made last.
        let plan = engine.plan().copied();
        let leaves_early = engine.leaves_early();
        let sessions_open = engine.open_sessions() as u64;
        drop(engine);
        // Most bytes of raw frames that will be held.
        let bytes_bound = plan.zip(caps).map_or(0, |(plan, caps)| {
            let frame = frame_bytes(&caps).unwrap_or(1);
            plan.capacity_frames.saturating_mul(frame)
        });

        let tally = &progress.tally;
        let mut stats = gst::Structure::builder("vtparallelenc-stats")
            .field("parallel", !matches!(mode, Mode::Sequential(_)))
            .field("chunks-planned", tally.chunks_planned)
            .field("chunks-finished", tally.chunks_finished)
            .field("chunks-from-cache", tally.chunks_from_cache)
            .field("attempts-failed", tally.attempts_failed)
            .field("vbv-retries", tally.vbv_retries)
            .field("vbv-underflows", tally.vbv_underflows)
            .field("frames-skipped", tally.frames_skipped)
            .field("frames-encoded", tally.frames_encoded())
            .field("frames-copied", tally.frames_copied)
            .field("frames-unseen", tally.frames_unseen)
            .field("bytes-peak", progress.held_bytes.1)
            .field("bytes-bound", bytes_bound)
            .field("leaves-early", leaves_early)
            .field("sessions-open", sessions_open);
        stats = Self::progress_fields(&progress, stats);
        stats = match (mode, plan) {
            (Mode::Sequential(reason), _) => self
                .memory_fields(without_plan(stats))
                .field("sequential-reason", reason.to_string())
                .field("sequential-nick", reason.nick()),
            (_, Some(plan)) => self.plan_fields(&plan, stats),
            (_, None) => without_plan(stats),
        };
        stats.field_if_some("encoder", encoder).build()
    }
}

/// What there is with each plan is 0 without one.
fn without_plan(stats: gst::structure::Builder) -> gst::structure::Builder {
    stats
        .field("chunk-frames", 0_u64)
        .field("overlap-before", 0_u64)
        .field("overlap-after", 0_u64)
}
