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
//! Both elements hold a [`Shared`] and don't know each other. All that they decide, the [engine](crate::logic::engine) decides, behind
//! its lock; the parts carry out what it returns when the lock is let go.

mod assignment;
pub(crate) mod decision;
mod input;
mod negotiate;
mod notices;
mod output;
pub(crate) mod report;
mod shared;
mod video;
mod watchdog;
mod workers;

use crate::cache::Files;
use crate::encoder::description::EncoderError;
use crate::encoder::model::Models;
use crate::encoder::properties::set_from_text;
use crate::host::Host;
use crate::job::{Job, quarter_of_memory};
use crate::logic::ids::SessionId;
use decision::Decision;
use gst::prelude::*;
use report::Snapshot;
use shared::{Encoding, Mode, Shared};
use std::sync::Arc;

/// All of the element that is between its pads.
pub(crate) struct Stream {
    shared: Arc<Shared>,
    /// The input and the output.
    elements: [gst::Element; 2],
}

impl Stream {
    pub(crate) fn new(host: Arc<dyn Host>, models: Arc<Models>) -> Result<Self, glib::BoolError> {
        let shared = Shared::new(host, models);
        let elements = [
            input::element(&shared)?.upcast(),
            output::element(&shared)?.upcast(),
        ];
        Ok(Self { shared, elements })
    }

    /// The children of the bin.
    pub(crate) fn elements(&self) -> &[gst::Element; 2] {
        &self.elements
    }

    pub(crate) fn sink(&self) -> &gst::Pad {
        &self.shared.sink
    }

    pub(crate) fn src(&self) -> &gst::Pad {
        &self.shared.src
    }

    /// NULL to READY: the first session, and where the encoder is known that and all the others.
    pub(crate) fn prepare(&self, job: Job) -> Result<(), EncoderError> {
        // Of an earlier run, or of one that a panic kept from being cleared away.
        self.unprepare();
        let max_raw_bytes = job.max_raw_bytes.unwrap_or_else(quarter_of_memory);
        let encoding = Encoding::new(job, max_raw_bytes);
        let settings = encoding.settings();
        *self.shared.encoding.lock() = encoding;
        self.shared.renew(settings);
        *self.shared.input.lock() = Default::default();
        *self.shared.notices.lock() = Default::default();
        workers::add_sessions(&self.shared, 1);
        self.shared.place_first()
    }

    /// READY to PAUSED: a new stream, with sessions for what was set meanwhile.
    pub(crate) fn start(&self, job: &Job) -> Result<(), EncoderError> {
        let shared = &self.shared;
        let is_prepared = {
            let encoding = shared.encoding.lock();
            encoding.job == *job && !encoding.started
        };
        if !is_prepared || shared.lock().flow().is_some() || shared.count_branches() == 0 {
            self.prepare(job.clone())?;
        }
        shared.encoding.lock().started = true;
        if let Some((directory, max_bytes)) = &job.cache {
            // Without a cache it goes on as well.
            match Files::open(directory, *max_bytes) {
                Ok(files) => shared.encoding.lock().cache = Some(Arc::new(files)),
                Err(error) => shared.cache_failed(&error.to_string()),
            }
        }
        shared.set_passes(false);
        let reconfigured = &shared.reconfigured;
        reconfigured.store(false, std::sync::atomic::Ordering::SeqCst);
        *shared.writer.lock() = Default::default();
        shared.place_first()?;
        shared.start_watch();
        Ok(())
    }

    /// PAUSED to READY, before anything else: no session is at work any more, or it is abandoned.
    pub(crate) fn shut_down(&self) {
        self.shared.stop();
        self.shared.wait_until_idle();
        self.shared.unlink_abandoned();
    }

    /// PAUSED to READY, when no task runs any more: no encoder stays. A next start places a new one.
    pub(crate) fn stopped(&self) {
        self.shared.end_watch();
        for branch in self.shared.branches() {
            // One that doesn't close is left behind; a next start makes others.
            let _ = branch.session.clear(&|| true);
        }
        let old = self.shared.lock().discard();
        drop(old);
    }

    /// READY to NULL.
    pub(crate) fn unprepare(&self) {
        self.shared.end_watch();
        self.shared.unlink_abandoned();
        for branch in self.shared.branches() {
            let session = &branch.session;
            let is_closed = session.clear(&|| true).is_ok() && !session.status.is_abandoned();
            if is_closed {
                // Otherwise whoever closes it after all does that, too.
                let _ = session.slot.set_state(gst::State::Null);
            }
            workers::unlink(&self.shared, &branch);
        }
        self.shared.clear_branches();
    }

    /// Our own code panicked: the stream ends.
    pub(crate) fn panicked(&self) {
        self.shared.panicked();
    }

    /// A message of a child's passes here first.
    pub(crate) fn see(&self, message: &gst::Message) {
        let of = message.src().and_then(|pad| pad.parent());
        if of.is_some_and(|parent| parent == *self.elements[0].upcast_ref::<gst::Object>()) {
            crate::tasks::give_thread(message);
        }
    }

    /// The application has set a property of the encoder: chunks get it with their next encoder, a stream without chunks at
    /// once.
    pub(crate) fn encoder_property_set(&self, property: &str, value: &str) {
        if let (Mode::Sequential(_), Some(first)) =
            (self.shared.mode(), self.shared.session(SessionId(0)))
            && let Some(encoder) = first.placed_encoder()
        {
            let _ = set_from_text(&encoder, property, value);
        }
    }

    /// Once the encoder is known.
    pub(crate) fn decision(&self) -> Option<Decision> {
        self.shared.encoding.lock().decision.clone()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        report::snapshot(&self.shared)
    }
}

impl Shared {
    /// Whatever waits returns.
    pub(in crate::stream) fn stop(&self) {
        self.lock().stop();
        for branch in self.branches() {
            branch.session.status.stop();
        }
    }
}
