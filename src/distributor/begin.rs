// SPDX-License-Identifier: MPL-2.0

//! How a stream begins: with which encoder, in chunks or straight through.

use super::failure::{Refusal, budget_error};
use super::imp::{CAT, Distributor};
use super::state::{Mode, frame_bytes};
use crate::locking::lock;
use crate::logic::frame::SessionId;
use crate::parallelenc::settings::{Job, Sequential};
use crate::session::encoder;
use crate::session::{Input, Session};
use gst::prelude::*;
use gst::subclass::prelude::*;
use std::sync::Arc;

impl Distributor {
    /// The first caps: decides how the stream is encoded.
    pub(super) fn sink_caps(&self, caps: gst::Caps, event: gst::Event) -> bool {
        match self.begin(caps, event) {
            Ok(()) => return true,
            Err(Refusal::Ours(error)) => self.fail(error),
            Err(Refusal::Encoders(message)) => self.fail_as_posted(SessionId(0), message),
        }
        false
    }

    pub(super) fn begin(&self, caps: gst::Caps, event: gst::Event) -> Result<(), Refusal> {
        let Some((job, session)) = self.job() else {
            return Err(gst::error_msg!(gst::CoreError::StateChange, ("Not started")).into());
        };
        if frame_bytes(&caps).is_none() {
            return Err(gst::error_msg!(
                gst::StreamError::Format,
                ("The caps {caps} are not raw video with a size")
            )
            .into());
        }
        let snapshot = self.aggregator().snapshot_caps();
        let description = match &job.encoder {
            Some(description) => description.clone(),
            None => encoder::choose(&snapshot, &caps)?.name().to_string(),
        };
        let sequential = job.sequential.or_else(|| {
            let mut latency = gst::query::Latency::new();
            let is_live = self.sink.peer_query(&mut latency) && latency.result().0;
            is_live.then_some(Sequential::LiveSource)
        });
        if let Some(state) = &mut *lock(&self.state) {
            state.description = Some(description.clone());
            state.caps = Some(caps.clone());
        }
        match sequential {
            Some(reason) => self.begin_sequential(&job, &session, &description, reason, event),
            None => self.begin_parallel(&session, &description, caps),
        }
    }

    pub(super) fn job(&self) -> Option<(Job, Arc<Session>)> {
        let state = lock(&self.state);
        let state = state.as_ref()?;
        Some((state.job.clone(), state.slots.first()?.session.clone()))
    }

    pub(super) fn begin_sequential(
        &self,
        job: &Job,
        session: &Session,
        description: &str,
        reason: Sequential,
        caps: gst::Event,
    ) -> Result<(), Refusal> {
        gst::info!(
            CAT,
            imp = self,
            "One encoder for the whole stream: {reason}"
        );
        // What was placed for encoding beside others isn't what a plain encoder is.
        if job.sequential.is_none() || !session.is_placed() {
            let placed = session.place(description, false);
            placed.map_err(|error| Refusal::of(self, session.id, &error))?;
        }
        self.aggregator().pass_through();
        let early = {
            let mut state = lock(&self.state);
            let Some(state) = state.as_mut() else {
                return Ok(());
            };
            state.mode = Mode::Sequential(reason);
            std::mem::take(&mut state.early)
        };
        session.release_placed()?;
        for event in early.into_iter().chain([caps]) {
            session.src.push_event(event);
        }
        Ok(())
    }

    pub(super) fn begin_parallel(
        &self,
        session: &Session,
        description: &str,
        caps: gst::Caps,
    ) -> Result<(), Refusal> {
        if !session.is_placed() {
            let placed = session.place(description, true);
            placed.map_err(|error| Refusal::of(self, session.id, &error))?;
        }
        let sink_caps = session.src.peer_query_caps(None);
        let (early, input) = {
            let mut state = lock(&self.state);
            let Some(state) = state.as_mut() else {
                return Ok(());
            };
            let plan = state.plan(&caps, None).map_err(budget_error)?;
            gst::info!(CAT, imp = self, "{plan:?}");
            self.announce(&caps, plan.capacity_frames);
            state.sink_caps = Some(sink_caps);
            state.begin_stream(plan);
            state.mode = Mode::Parallel;
            let early = std::mem::take(&mut state.early);
            (early, Input { caps, tags: None })
        };
        for event in early {
            self.serialized(event);
        }
        let primed = session.prime_placed(&input);
        primed.map_err(|error| Refusal::of(self, session.id, &error))
    }
}
