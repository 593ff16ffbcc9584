// SPDX-License-Identifier: MPL-2.0

//! What the `stats` property says.

use super::decision::Sequential;
use super::shared::{Mode, Shared};
use crate::logic::plan::Plan;
use crate::logic::tally::Tally;
use crate::media::raw::frame_bytes;

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
        let sessions = tally.sessions.iter().map(|session| {
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

/// What is to be reported now.
pub(super) fn snapshot(shared: &Shared) -> Snapshot {
    let caps = shared.input.lock().caps();
    let (encoder, sequential) = {
        let encoding = shared.encoding.lock();
        let recipe = encoding.recipe.as_ref();
        let sequential = match encoding.mode {
            Mode::Sequential(reason) => Some(reason),
            _ => None,
        };
        (recipe.map(|recipe| recipe.description.clone()), sequential)
    };
    let engine = shared.lock();
    let (bytes_held, bytes_peak) = engine.held_bytes();
    let plan = engine.plan().copied();
    // Most bytes of raw frames that will be held.
    let bytes_bound = plan.zip(caps).map_or(0, |(plan, caps)| {
        let frame = frame_bytes(&caps).unwrap_or(1);
        plan.capacity_frames.saturating_mul(frame)
    });
    Snapshot {
        tally: engine.tally.clone(),
        encoder,
        sequential,
        sessions_open: engine.open_sessions() as u64,
        plan,
        bytes_held,
        bytes_peak,
        bytes_bound,
        leaves_early: engine.leaves_early(),
    }
}
