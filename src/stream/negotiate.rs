// SPDX-License-Identifier: MPL-2.0

//! How a stream begins: with which encoder, in chunks or straight through, and by which plan.

use super::CAT;
use super::decision::{Decision, Sequential};
use super::shared::{Mode, Shared};
use super::workers;
use crate::encoder::choice;
use crate::encoder::description::{Chunked, EncoderError, Recipe};
use crate::encoder::profile::{ForcedKey, Threads};
use crate::job::Cut;
use crate::logic::ids::SessionId;
use crate::logic::plan::Plan;
use crate::logic::request::{Beginning, BudgetTooSmall, Overlap, Request};
use crate::logic::split::{self, Scaling, Split};
use crate::media::bitstream::alignment_of_parts;
use crate::media::raw::{are_fields, frame_bytes, frame_duration, frame_rate, picture_size};
use crate::media::thumbnails::Thumbnails;
use crate::session::Session;
use crate::session::failure::Failure;
use gst::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Why an encoder isn't used in chunks.
const PARTS_OF_FRAMES: &str = "its packets are parts of frames, by the alignment that it or what comes after it asks for (alignment=au, \
                               or tu for AV1, makes them whole)";

impl Shared {
    /// The first caps: decides how the stream is encoded.
    pub(super) fn begin(self: &Arc<Self>, caps: &gst::Caps, event: gst::Event) -> bool {
        // Upstream sends caps again that were refused, with its first frame.
        if self.stops() || self.lock().flow().is_some() {
            return self.stops();
        }
        let Some(first) = self.session(SessionId(0)) else {
            let error = gst::CoreError::StateChange;
            self.fail(gst::error_msg!(error, ("Not started")));
            return false;
        };
        if let Err(error) = self.begin_with(&first, caps, event) {
            match self.posted_ahead(&first) {
                // It says better than we could why the stream doesn't begin.
                Some(Failure::Posted(posted)) => self.fail_as_posted(&first, posted.message),
                _ => self.fail(error),
            }
            // To refuse caps would be upstream's error, which may hear sooner of that than of the stop.
            return self.stops();
        }
        true
    }

    fn begin_with(
        self: &Arc<Self>,
        first: &Arc<Session>,
        caps: &gst::Caps,
        event: gst::Event,
    ) -> Result<(), gst::ErrorMessage> {
        if frame_bytes(caps).is_none() {
            return Err(gst::error_msg!(
                gst::StreamError::Format,
                ("The caps {caps} are not raw video with a size")
            ));
        }
        let snapshot = self.ask_downstream();
        if !self.is_placed(first) {
            let description = self.choose(&snapshot, caps)?;
            self.models.chosen(&description)?;
            self.place(first, &description)?;
        }
        let is_live = || {
            let mut latency = gst::query::Latency::new();
            self.sink.peer_query(&mut latency) && latency.result().0
        };
        let makes_parts = || alignment_of_parts(&first.makes().intersect(&snapshot)).is_some();
        let decided = self.decision().and_then(|it| it.sequential);
        let sequential = if decided.is_some() {
            decided
        } else if makes_parts() {
            Some(Sequential::Encoder(PARTS_OF_FRAMES))
        } else if are_fields(caps) {
            Some(Sequential::AlternatingFields)
        } else if is_live() {
            self.sequential_live(caps)
        } else {
            None
        };
        self.input.lock().set_caps(caps.clone(), snapshot.clone());
        if let Some(reason) = sequential {
            return Ok(self.begin_sequential(first, reason, event)?);
        }
        let split = self.split(caps)?;
        self.encoding.lock().ample = split.ample;
        if let Some(reason) = split.alone {
            self.tell_of_memory();
            return Ok(self.begin_sequential(first, reason.into(), event)?);
        }
        self.give_threads(first, &split)?;
        self.begin_parallel(first, &split.plan, caps, snapshot)
    }

    /// How the stream is encoded, by all that is known before its first frame.
    fn split(&self, caps: &gst::Caps) -> Result<Split, BudgetTooSmall> {
        let told = self.encoding.lock().job.source_frames;
        let frames = told.or_else(|| self.frames_to_come(caps, &self.segment_to_come()));
        self.encoding.lock().frames_to_come = frames;
        self.split_of(caps, frames, None, true)
    }

    /// What upstream says that it will send, before the segment does; all, where it doesn't say.
    pub(super) fn segment_to_come(&self) -> gst::FormattedSegment<gst::ClockTime> {
        let mut segment = gst::FormattedSegment::new();
        let mut query = gst::query::Segment::new(gst::Format::Time);
        if self.sink.peer_query(&mut query)
            && let (
                _,
                gst::GenericFormattedValue::Time(start),
                gst::GenericFormattedValue::Time(stop),
            ) = query.result()
        {
            segment.set_start(start.unwrap_or_default());
            segment.set_stop(stop);
        }
        segment
    }

    /// The plan for so many frames of these caps that come next, of which none has come yet: a part of a film may want other threads than
    /// all of it. That one encoder would be better is said too late: it is one session then.
    pub(super) fn plan_anew(&self, caps: &gst::Caps, frames: u64) -> Result<Plan, BudgetTooSmall> {
        let of = |may_be_alone| self.split_of(caps, Some(frames), None, may_be_alone);
        let mut split = of(true)?;
        if split.alone.is_some() {
            split = of(false)?;
        }
        self.encoding.lock().ample = split.ample;
        // The one that was placed for others is dropped.
        self.settle_threads(&split);
        Ok(split.plan)
    }

    /// All encoders of the stream have so many, and the first one was placed before that was known.
    fn give_threads(
        self: &Arc<Self>,
        first: &Arc<Session>,
        split: &Split,
    ) -> Result<(), EncoderError> {
        let Some(recipe) = self.settle_threads(split) else {
            return Ok(());
        };
        let _opening = OpeningFirst::begin(self);
        first.place(&recipe, &|| self.stops())
    }

    /// How encoders are made from now on, if that changes.
    fn settle_threads(&self, split: &Split) -> Option<Recipe> {
        let mut encoding = self.encoding.lock();
        let (cores, asked) = (encoding.cores.number(), encoding.job.threads);
        encoding.threads = split.threads;
        let recipe = encoding.recipe.as_mut()?;
        let chunked = recipe.chunked.as_mut()?;
        let threads = match chunked.profile.threads {
            // Its bits don't depend on their number.
            Threads::Free(_) => asked.unwrap_or_else(|| {
                let share = u64::from(cores) / split.plan.sessions.max(1);
                u32::try_from(share).unwrap_or(u32::MAX).max(1)
            }),
            _ => split.threads,
        };
        let changes = std::mem::replace(&mut chunked.threads, threads) != threads;
        changes.then(|| recipe.clone())
    }

    /// There is no format for upstream, whose stream has begun, and which can't say why: perhaps downstream takes nothing that the encoder
    /// makes.
    pub(super) fn warn_of_downstream(&self) {
        let is_start = |event: &gst::Event| event.type_() == gst::EventType::StreamStart;
        let has_begun = self.input.lock().early.iter().any(is_start);
        let first = self.session(SessionId(0));
        let Some(first) = first.filter(|it| has_begun && it.placed_encoder().is_some()) else {
            return;
        };
        let made = first.makes();
        if !made.can_intersect(&self.src.peer_query_caps(None)) {
            self.warn_of_refusal(&made);
        }
    }

    /// Why a live source is encoded by one encoder, if it is.
    fn sequential_live(&self, caps: &gst::Caps) -> Option<Sequential> {
        {
            let mut encoding = self.encoding.lock();
            // What comes live doesn't come again, and nothing may wait for all of a chunk, nor for where it ends.
            encoding.cache = None;
            encoding.job.cut = Cut::Fixed;
            encoding.is_live = true;
            if !encoding.job.allow_parallel_live {
                return Some(Sequential::LiveSource);
            }
        }
        if frame_duration(caps).is_none() {
            return Some(Sequential::LiveWithoutRate);
        }
        // A live source doesn't wait: what chunks delay it by has to fit into the memory. (Nobody knows whether fewer sessions would keep
        // up.)
        let sessions = self.encoding.lock().sessions();
        let fits = self
            .plan(caps, None)
            .is_ok_and(|plan| plan.sessions == sessions);
        (!fits).then_some(Sequential::LiveBeyondMemory)
    }

    /// The encoder that is set, or the one that downstream's caps ask for.
    fn choose(&self, snapshot: &gst::Caps, raw: &gst::Caps) -> Result<String, EncoderError> {
        if let Some(description) = &self.encoding.lock().job.encoder {
            return Ok(description.clone());
        }
        let chosen = choice::choose(snapshot, raw, &self.makes());
        if let Err(EncoderError::CannotChoose { downstream }) = &chosen {
            self.tell_of_missing_encoder(downstream);
        }
        let name = chosen?.name().to_string();
        gst::info!(CAT, obj = self.sink, "Chose {name} for {snapshot}");
        Ok(name)
    }

    /// What the element makes: all that its kind may, whichever encoder it has.
    pub(super) fn makes(&self) -> gst::Caps {
        let src = self.host.bin().and_then(|bin| bin.static_pad("src"));
        src.map_or_else(gst::Caps::new_any, |src| src.pad_template_caps())
    }

    /// The first encoder is in its slot, with all properties that were set.
    fn is_placed(&self, first: &Session) -> bool {
        let set = self.models.overrides();
        let is_fresh = {
            let encoding = self.encoding.lock();
            let recipe = encoding.recipe.as_ref();
            recipe.is_some_and(|recipe| {
                Arc::ptr_eq(&recipe.overrides, &set) && set.revision() == encoding.placed_with
            })
        };
        is_fresh && first.placed_encoder().is_some()
    }

    /// Where it is known which encoder it will be, it answers for itself from the beginning.
    pub(super) fn place_first(self: &Arc<Self>) -> Result<(), EncoderError> {
        let description = self.encoding.lock().job.encoder.clone();
        match (description, self.session(SessionId(0))) {
            (Some(description), Some(first)) if !self.is_placed(&first) => {
                self.place(&first, &description)
            }
            _ => Ok(()),
        }
    }

    /// Puts the first encoder into its slot, and decides by it how the stream is encoded and with how many sessions.
    fn place(
        self: &Arc<Self>,
        first: &Arc<Session>,
        description: &str,
    ) -> Result<(), EncoderError> {
        let mut recipe = Recipe {
            description: description.to_string(),
            overrides: self.models.overrides(),
            chunked: None,
            alone: None,
        };
        // The generic element makes whatever its encoder makes.
        let makes = self.makes();
        let is_generic = makes.is_any() || makes == crate::media::caps::encoded();
        let traits = recipe.traits(Some(&makes).filter(|_| !is_generic))?;
        let (sessions, settings) = {
            let mut encoding = self.encoding.lock();
            let decision = Decision::new(encoding.cores.whole, &encoding.job, &traits);
            gst::info!(CAT, obj = self.sink, "{description}: {decision:?}");
            if decision.sequential.is_none() {
                recipe.chunked = Some(Chunked {
                    profile: decision.profile,
                    threads: encoding.job.threads.unwrap_or(1),
                    takes_hints: traits.takes_hints,
                });
            }
            let sessions = decision.sessions;
            encoding.decision = Some(decision);
            encoding.placed_with = recipe.overrides.revision();
            encoding.recipe = Some(recipe.clone());
            (sessions, encoding.settings())
        };
        self.lock().settings = settings;
        {
            let _opening = OpeningFirst::begin(self);
            first.place(&recipe, &|| self.stops())?;
        }
        if self.stops() {
            return Err(EncoderError::Stopped);
        }
        workers::add_sessions(self, sessions);
        self.host.encoder_known();
        Ok(())
    }

    fn begin_sequential(
        self: &Arc<Self>,
        first: &Arc<Session>,
        reason: Sequential,
        caps: gst::Event,
    ) -> Result<(), EncoderError> {
        gst::info!(CAT, obj = self.sink, "One encoder for all: {reason}");
        self.passes.store(true, Ordering::SeqCst);
        // What was placed for encoding beside others isn't what a plain encoder is. (That it is linked is nothing to upstream: while
        // the mode isn't decided, it doesn't hear of it.)
        let plain = {
            let mut encoding = self.encoding.lock();
            let asked = encoding.job.threads;
            let cores = encoding.cores.number();
            let recipe = encoding.recipe.as_mut();
            recipe.and_then(|recipe| {
                let profile = recipe.chunked.take()?.profile;
                // That it is the better plan goes by all cores.
                let is_planned = matches!(reason, Sequential::AsFast | Sequential::Overhead(_));
                let takes_all = profile.own_threads.is_none_or(|own| own.are_automatic);
                let threads = asked.or((!takes_all).then_some(cores));
                recipe.alone = threads.filter(|_| is_planned).map(|it| (profile, it));
                Some(recipe.clone())
            })
        };
        {
            let _opening = OpeningFirst::begin(self);
            let stops = || self.stops();
            if let Some(plain) = plain {
                first.place(&plain, &stops)?;
            }
            first.start_placed(&stops)?;
        }
        self.encoding.lock().mode = Mode::Sequential(reason);
        self.ask_length();
        self.tell_of_sequential(reason);
        // What was set while it was being placed and started reached nobody.
        if !self.is_placed(first)
            && let Some(encoder) = first.placed_encoder()
        {
            self.models.overrides().apply(&encoder);
        }
        let early = std::mem::take(&mut self.input.lock().early);
        for event in early.into_iter().chain([caps]) {
            first.src.push_event(event);
        }
        Ok(())
    }

    /// The first packets of the stream may leave before their chunk is finished, so that a muxer that wants key frames at certain times
    /// can say so while there is time for them. Not if the encoder might turn out to need that chunk without its overlap.
    pub(super) fn arm_early_start(&self) {
        // What was given isn't changed for what comes after us.
        if self.encoding.lock().job.given.is_some() {
            return;
        }
        let Some(decision) = self.decision() else {
            return;
        };
        let overlaps = decision.before.most() > 0 || decision.after.most() > 0;
        let profile = decision.profile;
        let is_closed = matches!(profile.forced_key, ForcedKey::Closed | ForcedKey::Always);
        if is_closed || !overlaps {
            self.lock().arm_early_start(profile.was_run);
        }
    }

    fn begin_parallel(
        self: &Arc<Self>,
        first: &Arc<Session>,
        plan: &Plan,
        caps: &gst::Caps,
        downstream: gst::Caps,
    ) -> Result<(), gst::ErrorMessage> {
        let sink_caps = first.src.peer_query_caps(None);
        gst::info!(CAT, obj = self.sink, "{plan:?}");
        {
            let mut encoding = self.encoding.lock();
            encoding.sink_caps = Some(sink_caps);
            encoding.mode = Mode::Parallel;
        }
        self.input.lock().look_for_cuts(plan);
        self.lock().begin(*plan);
        self.warn_of_plan(plan);
        let early = std::mem::take(&mut self.input.lock().early);
        for event in early {
            self.serialized(event);
        }
        self.arm_early_start();
        self.tell_latency();
        let primed = {
            let _opening = OpeningFirst::begin(self);
            let primed = first.prime_placed(caps, downstream, &|| self.stops());
            if matches!(primed, Err(EncoderError::Hangs { .. })) {
                // Another session takes the place of its own.
                self.lock().abandon_placed(first.id);
            }
            primed
        };
        match primed {
            Ok(()) => {
                let proposal = self.proposal(caps);
                self.encoding.lock().proposal = proposal;
            }
            // Another one may do better. If none does, their chunk's last attempt says so.
            Err(error @ (EncoderError::Hangs { .. } | EncoderError::CannotStart { .. })) => {
                self.warn_of_first(first, &error);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// The plan for frames of these caps, once it is settled how many threads each session has.
    pub(super) fn plan(
        &self,
        caps: &gst::Caps,
        source_frames: Option<u64>,
    ) -> Result<Plan, BudgetTooSmall> {
        let threads = self.encoding.lock().threads.max(1);
        let split = self.split_of(caps, source_frames, Some(threads), false)?;
        self.encoding.lock().ample = split.ample;
        Ok(split.plan)
    }

    /// `threads`: as settled.
    fn split_of(
        &self,
        caps: &gst::Caps,
        source_frames: Option<u64>,
        threads: Option<u32>,
        may_be_alone: bool,
    ) -> Result<Split, BudgetTooSmall> {
        let encoding = self.encoding.lock();
        let job = &encoding.job;
        let decision = encoding.decision.as_ref();
        let overlap = |of: fn(&Decision) -> Overlap| decision.map_or(Overlap::Exactly(0), of);
        let frame = frame_duration(caps).map(gst::ClockTime::nseconds);
        let keys = decision.map(|it| it.own_keys).unwrap_or_default();
        let rate = frame_rate(caps);
        let distance = keys.distance.map(|it| it.frames(rate));
        let (key_distance, follows_cuts) = match job.cut {
            Cut::Fixed => (distance.filter(|_| keys.is_set), false),
            // Without a distance, cuts are all that is known.
            Cut::Scene => {
                let follows = keys.at_cuts || distance.is_none();
                (distance, follows && Thumbnails::can_be_made(caps))
            }
        };
        // How many of a video card's engines are busy is no matter of cores.
        let by_cores = decision.is_some_and(|it| it.is_limited_by_cores);
        // (A live source has a session for each, as it doesn't wait.)
        let are_ours = job.sessions.is_none() && by_cores && !encoding.is_live;
        let most = encoding.sessions();
        // Another run has to find the same chunks, with more elements or fewer beside it, and whatever was cut from the film.
        let of_cache = job.cache.as_ref().map(|_| 1);
        let threads_each = threads.or(job.threads).or(of_cache);
        let cores = match are_ours {
            true => encoding.cores.number(),
            false => {
                let most = u32::try_from(most).unwrap_or(u32::MAX);
                most.saturating_mul(threads_each.unwrap_or(1))
            }
        };
        let (width, height) = picture_size(caps).unwrap_or_default();
        let scaling = decision.map(|it| it.profile.scaling(width, height));
        let cores = split::Cores {
            cores,
            threads: threads_each,
            scaling: scaling.unwrap_or(Scaling::NONE),
            // (Measured on x264: each of six runs made other bytes.)
            threads_vary: decision.is_some_and(|it| it.vbv.is_some()),
            may_be_alone: may_be_alone && !job.wants_chunks(),
        };
        let make = |min_chunk_frames: u64| {
            let request = Request {
                sessions: most.min(cores.cores.into()),
                sessions_are_automatic: job.sessions.is_none(),
                beginning: decision.map_or(Beginning::KeyFrame, |it| it.beginning),
                chunk_frames: job.chunk_frames,
                longest_chunk: job.longest_chunk,
                key_distance,
                least_key_distance: keys.least_distance(rate),
                follows_cuts,
                min_chunk_frames,
                before: overlap(|it| it.before),
                after: overlap(|it| it.after),
                source_frames,
                frame_bytes: frame_bytes(caps).unwrap_or(1),
                max_raw_bytes: encoding.memory.bytes(),
                seam_cost: decision.and_then(|it| it.seam_cost),
                // What was asked for is done, whatever it costs.
                max_overhead: Some(job.max_overhead).filter(|_| job.cut == Cut::Scene),
            };
            match encoding.is_live {
                // Nobody knows whether fewer sessions would keep up.
                true => Plan::make(&request).map(|plan| Split {
                    plan,
                    threads: cores.threads.unwrap_or(1),
                    alone: None,
                    time: 0.0,
                    ample: None,
                }),
                false => split::best(&request, cores),
            }
        };
        let recommended = decision.map_or(0, |it| {
            let by_duration = it
                .min_chunk_duration
                .div_ceil(frame.unwrap_or(u64::MAX).max(1));
            it.min_chunk_frames.max(by_duration)
        });
        // What an encoder recommends can't make anything shorter than it is without it.
        let split = make(job.min_chunk_frames.max(recommended)).ok();
        let is_whole = |split: &Split| split.plan.shrunk.is_none();
        match split.filter(is_whole) {
            Some(split) => Ok(split),
            None => make(job.min_chunk_frames),
        }
    }

    /// No installed encoder makes what downstream accepts: tells the application which would be needed.
    fn tell_of_missing_encoder(&self, accepted: &gst::Caps) {
        let Some(format) = accepted.structure(0).filter(|_| !accepted.is_any()) else {
            return;
        };
        let mut caps = gst::Caps::new_empty_simple(format.name());
        if let Ok(version) = format.get::<i32>("mpegversion") {
            caps.make_mut().set("mpegversion", version);
        }
        let Some(bin) = self.host.bin() else { return };
        let message = gst_pbutils::MissingPluginMessage::builder_for_encoder(&caps);
        let _ = bin.post_message(message.src(&bin).build());
    }
}

/// The first encoder is being opened: nobody touches its session as long as this lives, and who stops the element waits for it.
struct OpeningFirst<'a>(&'a Shared);

impl<'a> OpeningFirst<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.opens_first.store(true, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for OpeningFirst<'_> {
    fn drop(&mut self) {
        // Under the lock, so that who is about to wait has seen it.
        let _engine = self.0.lock();
        self.0.opens_first.store(false, Ordering::SeqCst);
        self.0.idle.notify_all();
    }
}
