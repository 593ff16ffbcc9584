// SPDX-License-Identifier: MPL-2.0

//! What programs are told: element messages, whose names and fields docs/messages.md lists.
//!
//! Each is posted where what it tells of happens, without a lock: chunks by their session's thread, progress by one of its own. Handlers
//! are the application's, and whoever posts waits for them.

use super::CAT;
use super::decision::Sequential;
use super::shared::{Mode, Shared};
use super::ticker::Ticker;
use crate::clock;
use crate::encoder::description::Recipe;
use crate::logic::engine::Finished;
use crate::logic::ids::{ChunkId, SessionId};
use crate::logic::plan::Plan;
use crate::logic::progress::{Progress, rate};
use crate::panics;
use crate::session::failure::Failure;
use gst::prelude::*;
use gst::structure::Builder;
use std::sync::Arc;

/// What it is, for whoever reads of a panic.
const PROGRESS: &str = "telling of progress";

impl Shared {
    fn post(&self, structure: gst::Structure) {
        if let Some(bin) = self.host.bin() {
            let message = gst::message::Element::builder(structure).src(&bin).build();
            let _ = bin.post_message(message);
        }
    }

    /// How the stream is encoded in chunks, unless that was said before.
    pub(super) fn tell_of_plan(&self) {
        let Some(plan) = self.lock().plan().copied() else {
            return;
        };
        let told = self.notices.lock().told.replace(plan);
        if told != Some(plan) {
            let message = gst::Structure::builder("vtparallelenc-plan");
            self.post(self.plan_fields(&plan, message).build());
        }
    }

    /// What is known of a plan, in messages and statistics.
    pub(super) fn plan_fields(&self, plan: &Plan, fields: Builder) -> Builder {
        let threads = {
            let encoding = self.encoding.lock();
            encoding.recipe.as_ref().and_then(Recipe::threads)
        };
        let cut = match plan.seams {
            Some(_) => "scene",
            None => "fixed",
        };
        self.memory_fields(fields)
            .field("cut", cut)
            .field("chunk-frames", plan.length.longest())
            .field("overlap-before", plan.before)
            .field("overlap-after", plan.after)
            .field("sessions-planned", plan.sessions)
            .field_if_some("threads-per-session", threads)
            .field_if_some("source-frames", plan.source_frames)
            .field("max-raw-bytes", plan.max_raw_bytes)
            .field_if_some("expected-overhead", plan.overhead.map(|it| it.percent()))
            .field("limited-by", plan.limit.name())
    }

    /// What more memory would buy.
    pub(super) fn memory_fields(&self, fields: Builder) -> Builder {
        let ample = self.encoding.lock().ample;
        fields
            .field_if_some("ample-raw-bytes", ample.map(|it| it.raw_bytes))
            .field_if_some("ample-speed-up", ample.map(|it| it.speed_up))
    }

    /// One encoder has the whole stream.
    pub(super) fn tell_of_sequential(&self, reason: Sequential) {
        let message = gst::Structure::builder("vtparallelenc-sequential")
            .field("reason", reason.nick())
            .field("text", reason.to_string());
        self.post(self.memory_fields(message).build());
    }

    pub(super) fn tell_of_session(&self, id: SessionId, state: &str, why: Option<&str>) {
        let message = gst::Structure::builder("vtparallelenc-session")
            .field("session", id.0 as u64)
            .field("state", state)
            .field_if_some("text", why);
        self.post(message.build());
    }

    /// A session begins an attempt at a chunk, whose first own frame is this.
    pub(super) fn tell_of_chunk(&self, id: SessionId, chunk: ChunkId, attempt: u32, first: u64) {
        let message = chunk_fields(id, chunk, attempt, "started");
        self.post(message.field("first-frame", first).build());
    }

    /// Before its packets can leave, so that the end of the stream comes after it.
    pub(super) fn tell_of_finished(&self, id: SessionId, finished: &Finished) {
        let chunk = &finished.chunk;
        let message = chunk_fields(id, chunk.id, finished.number, "finished")
            .field("first-frame", chunk.own.start.0)
            .field("frames", chunk.own.len())
            .field("frames-encoded", chunk.fed.len())
            .field("frames-skipped", finished.skipped)
            .field("from-cache", finished.from_cache)
            .field("busy", finished.busy);
        self.post(message.build());
    }

    /// An attempt at a chunk is over without it.
    pub(super) fn tell_of_end_of_attempt(
        &self,
        id: SessionId,
        chunk: ChunkId,
        attempt: u32,
        state: &str,
        failure: &Failure,
    ) {
        let message = chunk_fields(id, chunk, attempt, state);
        self.post(message.field("text", failure.to_string()).build());
    }

    /// How far the stream is at this moment.
    pub(super) fn progress(&self) -> Progress {
        let total = self.encoding.lock().frames_to_come;
        self.lock().progress(clock::now(), total)
    }

    /// Some parsers know the length only after some frames: too late for the plan, but not for whoever waits.
    pub(super) fn ask_length(&self) {
        let (told, is_known) = {
            let encoding = self.encoding.lock();
            let is_known = encoding.frames_to_come.is_some() || encoding.is_live;
            (encoding.job.source_frames, is_known)
        };
        let caps = self.input.lock().caps.clone();
        if let Some(caps) = caps.filter(|_| !is_known) {
            let ask = || self.frames_to_come(&caps, &self.segment_to_come());
            let frames = told.or_else(ask);
            self.encoding.lock().frames_to_come = frames;
        }
    }

    /// Tells of progress from now on, regularly.
    pub(super) fn start_progress(self: &Arc<Self>) {
        let Some(period) = self.encoding.lock().job.progress_interval else {
            return;
        };
        let weak = Arc::downgrade(self);
        let mut before = None;
        let ticker = Ticker::start("vtparallelenc-progress", period, move || {
            let Some(shared) = weak.upgrade() else {
                return false;
            };
            let told = panics::contained(PROGRESS, || shared.tell_of_progress(&mut before));
            if let Err(panic) = &told {
                panics::tell(&shared.host, PROGRESS, panic);
            }
            told.is_ok()
        });
        match ticker {
            Ok(ticker) => *self.progress_ticker.lock() = Some(ticker),
            Err(error) => {
                gst::warning!(CAT, "Nobody tells of progress: {error}");
            }
        }
    }

    pub(super) fn end_progress(&self) {
        let ticker = self.progress_ticker.lock().take();
        if let Some(ticker) = ticker {
            ticker.leave();
        }
    }

    /// `before`: what was done at the last time, and when that was.
    fn tell_of_progress(&self, before: &mut Option<(u64, u64)>) {
        // Nothing has begun, or all is over, which was told.
        let is_under_way = |progress: &Progress| progress.elapsed > 0 && !progress.is_over;
        if !is_under_way(&self.progress()) {
            return;
        }
        self.ask_length();
        let progress = self.progress();
        if !is_under_way(&progress) {
            return;
        }
        let (then, done) = before
            .replace((progress.elapsed, progress.done))
            .unwrap_or_default();
        // After a flush it begins anew.
        let since = progress.elapsed.checked_sub(then);
        let frames = progress.done.checked_sub(done);
        let now = match since.zip(frames) {
            Some((since, frames)) => rate(frames, since),
            None => progress.frames_per_second(),
        };
        self.post_progress(&progress, now);
    }

    /// The stream's end is about to be sent.
    pub(super) fn tell_of_end(&self) {
        let is_wanted = self.encoding.lock().job.progress_interval.is_some();
        self.lock().end_progress(clock::now());
        if !is_wanted {
            return;
        }
        self.ask_length();
        let progress = self.progress();
        if progress.elapsed > 0 {
            self.post_progress(&progress, progress.frames_per_second());
        }
    }

    fn post_progress(&self, progress: &Progress, frames_per_second: f64) {
        let message = gst::Structure::builder("vtparallelenc-progress")
            .field("parallel", self.mode() == Mode::Parallel)
            .field("frames-per-second", frames_per_second);
        self.post(Self::progress_fields(progress, message).build());
    }

    /// What is known of progress, in messages and statistics.
    pub(super) fn progress_fields(progress: &Progress, fields: Builder) -> Builder {
        let tally = &progress.tally;
        let sessions = tally.sessions.iter().zip(&progress.busy);
        let sessions = sessions.map(|(session, busy)| {
            gst::Structure::builder("session")
                .field("frames", session.frames)
                .field("frames-per-second", session.frames_per_second())
                .field("busy-share", *busy)
                .build()
        });
        fields
            .field("frames-in", tally.frames_in)
            .field("frames-out", tally.frames_out)
            .field("frames-done", progress.done)
            .field_if_some("frames-total", progress.total)
            .field_if_some("fraction", progress.fraction())
            .field("elapsed", progress.elapsed)
            .field_if_some("time-left", progress.time_left)
            .field("average-frames-per-second", progress.frames_per_second())
            .field("speed-up", progress.speed_up())
            .field("bytes-held", progress.held_bytes.0)
            .field("sessions", gst::Array::new(sessions))
    }
}

fn chunk_fields(id: SessionId, chunk: ChunkId, attempt: u32, state: &str) -> Builder {
    gst::Structure::builder("vtparallelenc-chunk")
        .field("chunk", chunk.0)
        .field("session", id.0 as u64)
        .field("attempt", attempt)
        .field("state", state)
}
