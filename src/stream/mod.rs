// SPDX-License-Identifier: MPL-2.0

//! Two private elements, and what runs between them.
//!
//! ```text
//!          ┌───────────────── Shared: the engine, one lock ─────────────────┐
//!          │                                                                │
//!  sink ─► input ─► src_N ─► task (workers) ─► session N ─► sink_N ─► output ─► src
//!                    (assignment: one attempt)               (intake)  (task, writer)
//! ```
//!
//! The elements have nothing but pads, which hold a [`Shared`], and don't know each other. All that they decide, the [engine](crate::logic::engine) decides, behind
//! its lock; the parts carry out what it returns when the lock is let go.

mod assignment;
pub(crate) mod decision;
mod elements;
mod input;
mod messages;
mod negotiate;
mod notices;
mod output;
mod report;
mod shared;
mod ticker;
mod trace;
mod video;
mod watchdog;
mod workers;

use crate::cache::Files;
use crate::clock;
use crate::encoder::description::EncoderError;
use crate::job::Job;
use crate::logic::plan::Plan;
use crate::shares::{Cores, Memory};
use decision::Decision;
use gst::prelude::*;
use once_cell::sync::Lazy;
use shared::Encoding;
pub(crate) use shared::Shared;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Frames in, chunks, attempts, packets out: what happens in the element. (What happens to one encoder has its own.)
static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| crate::category("vtparallelstream", "chunks, attempts and packets"));

impl Shared {
    /// The two elements, to be children of the bin.
    pub(crate) fn elements(&self) -> Result<[gst::Element; 2], glib::BoolError> {
        Ok([
            elements::element("distributor", &self.sink)?,
            elements::element("aggregator", &self.src)?,
        ])
    }

    /// NULL to READY: the first session, and where the encoder is known that and all the others.
    pub(crate) fn prepare(self: &Arc<Self>, job: Job) -> Result<(), EncoderError> {
        // Of an earlier run, or of one that a panic kept from being cleared away.
        self.unprepare();
        let encoding = Encoding {
            memory: Memory::new(job.max_raw_bytes),
            cores: Cores::new(job.sessions.is_none()),
            job,
            ..Encoding::default()
        };
        let settings = encoding.settings();
        *self.encoding.lock() = encoding;
        self.renew(settings);
        *self.input.lock() = Default::default();
        *self.notices.lock() = Default::default();
        workers::add_sessions(self, 1);
        self.place_first()
    }

    /// READY to PAUSED: a new stream, with sessions for what was set meanwhile.
    pub(crate) fn start(self: &Arc<Self>, job: &Job) -> Result<(), EncoderError> {
        let is_prepared = {
            let encoding = self.encoding.lock();
            encoding.job == *job && !encoding.started
        };
        if !is_prepared || self.lock().flow().is_some() || self.branches.read().is_empty() {
            self.prepare(job.clone())?;
        }
        self.encoding.lock().started = true;
        if let Some((directory, max_bytes)) = &job.cache {
            // Without a cache it goes on as well.
            match Files::open(directory, *max_bytes) {
                Ok(files) => self.encoding.lock().cache = Some(Arc::new(files)),
                Err(error) => self.cache_failed(&error.to_string()),
            }
        }
        self.start_trace();
        for flag in [&self.passes, &self.reconfigured] {
            flag.store(false, Ordering::SeqCst);
        }
        *self.writer.lock() = Default::default();
        self.place_first()?;
        self.start_watch();
        self.start_progress();
        Ok(())
    }

    /// PAUSED to READY, before anything else: no session is at work any more, or it is abandoned.
    pub(crate) fn shut_down(self: &Arc<Self>) {
        self.stop();
        self.wait_until_idle();
        self.unlink_abandoned();
    }

    /// PAUSED to READY, when no task runs any more: no encoder stays. A next start places a new one.
    pub(crate) fn stopped(&self) {
        self.end_progress();
        self.end_watch();
        self.end_trace();
        for branch in self.branches() {
            // One that doesn't close is left behind; a next start makes others.
            let _ = branch.session.clear(&|| true);
        }
        let old = self.lock().discard();
        drop(old);
    }

    /// READY to NULL.
    pub(crate) fn unprepare(&self) {
        self.end_progress();
        self.end_watch();
        self.end_trace();
        self.unlink_abandoned();
        for branch in self.branches() {
            let session = &branch.session;
            let is_closed = session.clear(&|| true).is_ok() && !session.status.is_abandoned();
            if is_closed {
                // Otherwise whoever closes it after all does that, too.
                let _ = session.slot.set_state(gst::State::Null);
            }
            workers::unlink(self, &branch);
        }
        let old = std::mem::take(&mut *self.branches.write());
        drop(old);
        *self.flows.lock() = gst_base::UniqueFlowCombiner::new();
        // The others' shares grow.
        let mut encoding = self.encoding.lock();
        encoding.memory = Memory::default();
        encoding.cores = Cores::default();
    }

    /// A message of a child's passes here first.
    pub(crate) fn see(&self, message: &gst::Message) {
        let of = message.src().and_then(|pad| pad.parent());
        if of.is_some() && of == self.sink.parent() {
            crate::tasks::give_thread(message);
        }
    }

    /// Once the encoder is known.
    /// Frames that encoders have taken for the chunks at hand, and packets that they have made of these.
    pub(crate) fn at_hand(&self) -> (u64, u64) {
        self.lock().at_hand()
    }

    /// The plan, with the threads of each session, where the stream is encoded in chunks and its caps have come.
    pub(crate) fn planned(&self) -> Option<(Plan, u32)> {
        let plan = *self.lock().plan()?;
        let encoding = self.encoding.lock();
        let threads = encoding.recipe.as_ref()?.threads();
        Some((plan, threads.unwrap_or(1)))
    }

    pub(crate) fn decision(&self) -> Option<Decision> {
        self.encoding.lock().decision.clone()
    }

    /// Whatever waits returns.
    pub(in crate::stream) fn stop(&self) {
        {
            let mut engine = self.lock();
            engine.end_progress(clock::now());
            engine.stop();
        }
        for branch in self.branches() {
            branch.session.status.stop();
        }
    }
}
