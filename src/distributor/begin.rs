// SPDX-License-Identifier: MPL-2.0

//! How a stream begins: with which encoder, in chunks or straight through.

use super::decision::{Decision, Sequential};
use super::failure::{Refusal, budget_error};
use super::imp::{CAT, Distributor};
use super::state::{Mode, Proposal, frame_bytes, frame_duration};
use crate::locking::lock;
use crate::logic::frame::SessionId;
use crate::parallelenc::ParallelEnc;
use crate::parallelenc::settings::Job;
use crate::session::Session;
use crate::session::bitstream::alignment_of_parts;
use crate::session::encoder::{self, EncoderError, Recipe};
use crate::session::overrides::Overrides;
use crate::session::profile::ForcedKey;
use gst::prelude::*;
use gst::subclass::prelude::*;
use std::sync::Arc;
use std::time::Duration;

/// Why an encoder isn't used in chunks.
const PARTS_OF_FRAMES: &str = "its packets are parts of frames, by the alignment that it or what comes after it asks for (alignment=au, \
                               or tu for AV1, makes them whole)";

impl Distributor {
    /// The first caps: decides how the stream is encoded.
    pub(super) fn sink_caps(&self, caps: &gst::Caps, event: gst::Event) -> bool {
        // Upstream sends caps again that were refused, with its first frame.
        let failed = lock(&self.state)
            .as_ref()
            .is_none_or(|state| state.flow.is_err());
        if failed || self.is_stopped() {
            return self.is_stopped();
        }
        match self.begin(caps, event) {
            Ok(()) => return true,
            Err(Refusal::Ours(error)) => self.fail(error),
            Err(Refusal::Encoders(message)) => self.fail_as_posted(SessionId(0), message),
        }
        // To refuse caps would be upstream's error, which may hear sooner of that than of the stop.
        self.is_stopped()
    }

    pub(super) fn begin(&self, caps: &gst::Caps, event: gst::Event) -> Result<(), Refusal> {
        let Some((job, session)) = self.job() else {
            return Err(gst::error_msg!(gst::CoreError::StateChange, ("Not started")).into());
        };
        if frame_bytes(caps).is_none() {
            return Err(gst::error_msg!(
                gst::StreamError::Format,
                ("The caps {caps} are not raw video with a size")
            )
            .into());
        }
        let snapshot = self.aggregator().ask_downstream();
        if !self.is_placed(&session) {
            let description = self.choose(&job, &snapshot, caps)?;
            if let Some(bin) = self.bin() {
                bin.imp().encoder_chosen(&description)?;
            }
            let placed = self.place(&job, &description);
            placed.map_err(|error| Refusal::of(self, &session, &error))?;
        }
        let sequential = self.sequential().or_else(|| {
            let made = session.makes().intersect(&snapshot);
            let alignment = alignment_of_parts(&made)?;
            gst::info!(CAT, imp = self, "What is made has alignment={alignment}");
            Some(Sequential::Encoder(PARTS_OF_FRAMES))
        });
        let is_live = sequential.is_none() && {
            let mut latency = gst::query::Latency::new();
            self.sink.peer_query(&mut latency) && latency.result().0
        };
        let sequential = sequential.or_else(|| match frame_duration(caps) {
            _ if !is_live => None,
            _ if !job.allow_parallel_live => Some(Sequential::LiveSource),
            None => Some(Sequential::LiveWithoutRate),
            Some(_) => (!self.holds_its_latency(caps)).then_some(Sequential::LiveBeyondMemory),
        });
        if let Some(state) = &mut *lock(&self.state) {
            state.set_caps(caps.clone());
            state.downstream = Some(snapshot.clone());
            if is_live {
                // What comes live doesn't come again, and nothing may wait for all of a chunk.
                state.cache = None;
            }
        }
        match sequential {
            Some(reason) => self.begin_sequential(&session, reason, event),
            None => self.begin_parallel(&session, caps, snapshot),
        }
    }

    /// A live source doesn't wait: what chunks delay it by has to fit into the memory.
    fn holds_its_latency(&self, caps: &gst::Caps) -> bool {
        let state = lock(&self.state);
        let Some(state) = state.as_ref() else {
            return true;
        };
        // (Nobody knows whether fewer sessions would keep up.)
        let plan = state.plan(caps, None);
        plan.is_ok_and(|plan| plan.sessions == state.sessions())
    }

    pub(super) fn job(&self) -> Option<(Job, Arc<Session>)> {
        let state = lock(&self.state);
        let state = state.as_ref()?;
        Some((state.job.clone(), state.slots.first()?.session.clone()))
    }

    /// The encoder that is set, or the one that downstream's caps ask for.
    fn choose(
        &self,
        job: &Job,
        snapshot: &gst::Caps,
        raw: &gst::Caps,
    ) -> Result<String, EncoderError> {
        if let Some(description) = &job.encoder {
            return Ok(description.clone());
        }
        let chosen = encoder::choose(snapshot, raw, &self.makes());
        if let (Err(EncoderError::CannotChoose { downstream }), Some(bin)) = (&chosen, self.bin()) {
            bin.imp().encoder_missing(downstream);
        }
        let name = chosen?.name().to_string();
        gst::info!(CAT, imp = self, "Chose {name} for {snapshot}");
        Ok(name)
    }

    /// What the element makes: all that its kind may, whichever encoder it has.
    pub(super) fn makes(&self) -> gst::Caps {
        let src = self.bin().and_then(|bin| bin.static_pad("src"));
        src.map_or_else(gst::Caps::new_any, |src| src.pad_template_caps())
    }

    /// What was set on the encoder, beside its description.
    fn overrides(&self) -> Arc<Overrides> {
        let bin = self.bin();
        bin.map(|bin| bin.imp().overrides()).unwrap_or_default()
    }

    /// The first encoder is in its slot, with all properties that were set.
    pub(super) fn is_placed(&self, first: &Session) -> bool {
        let set = self.overrides();
        let state = lock(&self.state);
        let placed = state
            .as_ref()
            .and_then(|state| Some((state.recipe.as_ref()?, state.placed_with)));
        let is_fresh = placed.is_some_and(|(recipe, with)| {
            Arc::ptr_eq(&recipe.overrides, &set) && set.revision() == with
        });
        drop(state);
        is_fresh && first.is_placed()
    }

    fn sequential(&self) -> Option<Sequential> {
        let state = lock(&self.state);
        state.as_ref()?.decision.as_ref()?.sequential
    }

    /// Puts the first encoder into its slot, and decides by it how the stream is encoded and with how many sessions.
    pub(super) fn place(&self, job: &Job, description: &str) -> Result<(), EncoderError> {
        let mut recipe = Recipe {
            description: description.to_string(),
            overrides: self.overrides(),
            threads: None,
        };
        // The generic element makes whatever its encoder makes.
        let bound = self
            .bin()
            .filter(|bin| bin.type_() != ParallelEnc::static_type());
        let traits = recipe.traits(bound.map(|_| self.makes()).as_ref())?;
        let decision = Decision::new(job, &traits);
        gst::info!(CAT, imp = self, "{description}: {decision:?}");
        if decision.sequential.is_none() {
            recipe.threads = Some(decision.threads);
        }
        let sessions = decision.sessions;
        let revision = recipe.overrides.revision();
        if let Some(state) = lock(&self.state).as_mut() {
            state.decision = Some(decision);
            state.placed_with = revision;
            state.recipe = Some(recipe.clone());
        }
        let Some(first) = self.session(SessionId(0)) else {
            return Ok(());
        };
        {
            let _opening = OpeningFirst::begin(self);
            first.place(&recipe, job.stall_timeout, &|| self.is_stopped())?;
        }
        if self.is_stopped() {
            return Err(EncoderError::Stopped);
        }
        self.add_sessions(sessions);
        if let Some(bin) = self.bin() {
            bin.imp().encoder_known();
        }
        Ok(())
    }

    fn begin_sequential(
        &self,
        session: &Arc<Session>,
        reason: Sequential,
        caps: gst::Event,
    ) -> Result<(), Refusal> {
        gst::info!(
            CAT,
            imp = self,
            "One encoder for the whole stream: {reason}"
        );
        self.aggregator().pass_through();
        let plain = {
            let mut state = lock(&self.state);
            let recipe = state.as_mut().and_then(|state| state.recipe.as_mut());
            recipe.and_then(|recipe| {
                recipe.threads.take()?;
                Some(recipe.clone())
            })
        };
        // What was placed for encoding beside others isn't what a plain encoder is. (That it is linked is nothing to upstream: while
        // the mode isn't decided, it doesn't hear of it.)
        {
            let _opening = OpeningFirst::begin(self);
            let (time, stops) = (self.stall_timeout(), || self.is_stopped());
            if let Some(plain) = plain {
                let placed = session.place(&plain, time, &stops);
                placed.map_err(|error| Refusal::of(self, session, &error))?;
            }
            session.start_placed(time, &stops)?;
        }
        let early = {
            let mut state = lock(&self.state);
            let Some(state) = state.as_mut() else {
                return Ok(());
            };
            state.mode = Mode::Sequential(reason);
            std::mem::take(&mut state.early)
        };
        // What was set while it was being placed and started reached nobody.
        if !self.is_placed(session) {
            session.override_placed(&self.overrides());
        }
        for event in early.into_iter().chain([caps]) {
            session.src.push_event(event);
        }
        Ok(())
    }

    pub(super) fn is_stopped(&self) -> bool {
        let state = lock(&self.state);
        state.as_ref().is_none_or(|state| state.stopped)
    }

    pub(super) fn stall_timeout(&self) -> Option<Duration> {
        lock(&self.state).as_ref()?.job.stall_timeout
    }

    /// Chunks are shorter than they were to be.
    pub(super) fn warn_of_shrunk_chunks(&self, shrinks: Option<String>) {
        let (Some(text), Some(bin)) = (shrinks, self.bin()) else {
            return;
        };
        gst::warning!(CAT, imp = self, "{text}");
        gst::element_warning!(bin, gst::LibraryError::Settings, ("{text}"));
    }

    /// Lets the first packet of the stream leave before its chunk is whole, so that a muxer that wants key frames at certain times
    /// can say so while there is time for them. Not if the encoder might turn out to need that chunk without its overlap.
    pub(super) fn herald(&self) {
        let announces = {
            let state = lock(&self.state);
            let decision = state.as_ref().and_then(|state| state.decision.as_ref());
            let Some(decision) = decision else { return };
            let overlaps = decision.before.most() > 0 || decision.after.most() > 0;
            let profile = decision.profile;
            let is_closed = matches!(profile.forced_key, ForcedKey::Closed | ForcedKey::Always);
            if overlaps && !is_closed {
                return;
            }
            profile.was_run()
        };
        self.aggregator().herald(announces);
    }

    fn begin_parallel(
        &self,
        session: &Arc<Session>,
        caps: &gst::Caps,
        downstream: gst::Caps,
    ) -> Result<(), Refusal> {
        let sink_caps = session.src.peer_query_caps(None);
        let (early, shrinks) = {
            let mut state = lock(&self.state);
            let Some(state) = state.as_mut() else {
                return Ok(());
            };
            let plan = state.plan(caps, None).map_err(budget_error)?;
            gst::info!(CAT, imp = self, "{plan:?}");
            self.announce(caps, plan.capacity_frames);
            state.sink_caps = Some(sink_caps);
            state.begin_stream(plan);
            state.mode = Mode::Parallel;
            let shrinks = state.shrinks(&plan, caps);
            (std::mem::take(&mut state.early), shrinks)
        };
        self.warn_of_shrunk_chunks(shrinks);
        for event in early {
            self.serialized(event);
        }
        self.herald();
        self.tell_latency();
        let timeout = self.stall_timeout();
        let primed = {
            let _opening = OpeningFirst::begin(self);
            let primed = session.prime_placed(caps, downstream, timeout, &|| self.is_stopped());
            if let Err(error @ EncoderError::Hangs { .. }) = &primed {
                self.leave_placed(session, error);
            }
            primed
        };
        let proposal = match primed {
            Ok(()) => self.proposal(caps),
            // Another one may not. If all of them do, their chunk's last attempt says so. (Whoever asks this one waits for it.)
            Err(EncoderError::Hangs { .. }) => Proposal::default(),
            Err(error @ EncoderError::CannotStart { .. }) => {
                self.warn_of_first(session, &error);
                Proposal::default()
            }
            Err(error) => return Err(Refusal::of(self, session, &error)),
        };
        if let Some(state) = &mut *lock(&self.state) {
            state.proposal = proposal;
        }
        Ok(())
    }
}

/// The first encoder is being opened: nobody touches its session as long as this lives, and who stops the element waits for it.
struct OpeningFirst<'a>(&'a Distributor);

impl<'a> OpeningFirst<'a> {
    fn begin(distributor: &'a Distributor) -> Self {
        if let Some(state) = &mut *lock(&distributor.state) {
            state.opens_first = true;
        }
        Self(distributor)
    }
}

impl Drop for OpeningFirst<'_> {
    fn drop(&mut self) {
        if let Some(state) = &mut *lock(&self.0.state) {
            state.opens_first = false;
        }
        self.0.calm.notify_all();
    }
}
