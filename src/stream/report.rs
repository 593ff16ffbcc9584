// SPDX-License-Identifier: MPL-2.0

//! What the `stats` property says.

use super::shared::{Mode, Shared};
use crate::encoder::description::Recipe;
use crate::media::raw::frame_bytes;

impl Shared {
    /// Everything that is reported, at one moment.
    pub(crate) fn stats(&self) -> gst::Structure {
        let caps = self.input.lock().caps.clone();
        let (encoder, mode, threads, ample) = {
            let encoding = self.encoding.lock();
            let recipe = encoding.recipe.as_ref();
            let encoder = recipe.map(|recipe| recipe.description.clone());
            let threads = recipe.and_then(Recipe::threads);
            (encoder, encoding.mode, threads, encoding.ample)
        };
        let engine = self.lock();
        let (bytes_held, bytes_peak) = engine.held_bytes();
        // As it was made last.
        let plan = engine.plan().copied();
        // Most bytes of raw frames that will be held.
        let bytes_bound = plan.zip(caps).map_or(0, |(plan, caps)| {
            let frame = frame_bytes(&caps).unwrap_or(1);
            plan.capacity_frames.saturating_mul(frame)
        });
        let leaves_early = engine.leaves_early();
        let sessions_open = engine.open_sessions() as u64;
        let tally = engine.tally.clone();
        drop(engine);

        let sessions = tally.sessions.iter().map(|session| {
            gst::Structure::builder("session")
                .field("frames", session.frames)
                .field("frames-per-second", session.frames_per_second())
                .build()
        });
        let mut stats = gst::Structure::builder("vtparallelenc-stats")
            .field("parallel", !matches!(mode, Mode::Sequential(_)))
            .field("chunk-frames", tally.chunk_frames)
            .field("chunks-planned", tally.chunks_planned)
            .field("chunks-finished", tally.chunks_finished)
            .field("chunks-from-cache", tally.chunks_from_cache)
            .field("attempts-failed", tally.attempts_failed)
            .field("vbv-retries", tally.vbv_retries)
            .field("vbv-underflows", tally.vbv_underflows)
            .field("frames-in", tally.frames_in)
            .field("frames-out", tally.frames_out)
            .field("frames-skipped", tally.frames_skipped)
            .field("frames-encoded", tally.frames_encoded())
            .field("frames-copied", tally.frames_copied)
            .field("frames-unseen", tally.frames_unseen)
            .field("bytes-held", bytes_held)
            .field("bytes-peak", bytes_peak)
            .field("bytes-bound", bytes_bound)
            .field("leaves-early", leaves_early)
            .field("overlap-before", plan.map_or(0, |plan| plan.before))
            .field("overlap-after", plan.map_or(0, |plan| plan.after))
            .field("sessions-open", sessions_open)
            .field("sessions", gst::Array::new(sessions));
        if let Mode::Sequential(reason) = mode {
            stats = stats.field("sequential-reason", reason.to_string());
        } else if let Some(plan) = plan {
            stats = stats
                .field(
                    "cut",
                    if plan.seams.is_some() {
                        "scene"
                    } else {
                        "fixed"
                    },
                )
                .field("sessions-planned", plan.sessions)
                .field_if_some("threads-per-session", threads)
                .field_if_some("source-frames", plan.source_frames)
                .field("max-raw-bytes", plan.max_raw_bytes)
                .field_if_some("expected-overhead", plan.overhead.map(|it| it.percent()))
                .field("limited-by", plan.limit.name());
        }
        stats
            .field_if_some("ample-raw-bytes", ample.map(|it| it.raw_bytes))
            .field_if_some("ample-speed-up", ample.map(|it| it.speed_up))
            .field_if_some("encoder", encoder)
            .build()
    }
}
