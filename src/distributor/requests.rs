// SPDX-License-Identifier: MPL-2.0

//! Queries from both sides, and what downstream and the encoders ask of upstream.

use super::imp::Distributor;
use super::keys::key_request;
use super::state::{Mode, Proposal, frame_duration};
use crate::locking::{lock, wait};
use crate::logic::timeline::LATEST;
use crate::panics::may_panic;
use crate::queries::{answer_caps, convert_raw};
use crate::session::encoder;
use gst::prelude::*;
use gst::subclass::prelude::*;

impl Distributor {
    pub(super) fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        may_panic!("distributor-query");
        let straight = self.straight();
        let mode = self.mode();
        if let (Mode::Sequential(_), Some(straight)) = (mode, &straight) {
            return straight.peer_query(query);
        }
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                answer_caps(query, self.sink_caps_answer(pad, straight));
                true
            }
            gst::QueryViewMut::AcceptCaps(_) => {
                gst::Pad::query_default(pad, Some(&*self.obj()), query)
            }
            gst::QueryViewMut::Allocation(query) => {
                mode == Mode::Parallel && self.allocation(query)
            }
            gst::QueryViewMut::Drain(_) => self.drain(),
            gst::QueryViewMut::Convert(query) => {
                let state = lock(&self.state);
                let caps = state.as_ref().and_then(|state| state.caps.clone());
                drop(state);
                caps.is_some_and(|caps| convert_raw(&caps, query))
            }
            // Pull mode.
            gst::QueryViewMut::Scheduling(_) => false,
            _ => self.aggregator().src().peer_query(query),
        }
    }

    /// What can be encoded: as the encoder said before it began, or says now, or as far as it is known which
    /// encoder it will be.
    fn sink_caps_answer(&self, pad: &gst::Pad, straight: Option<gst::Pad>) -> gst::Caps {
        let (asked, recipe) = {
            let state = lock(&self.state);
            let state = state.as_ref();
            (
                state.and_then(|state| state.sink_caps.clone()),
                state.and_then(|state| state.recipe.clone()),
            )
        };
        let template = pad.pad_template_caps();
        match (asked, recipe, straight) {
            (Some(_), Some(recipe), _) if self.aggregator().was_reconfigured() => {
                // The encoders at work have seen what downstream accepted before.
                let takes = recipe.takes().unwrap_or(template);
                encoder::restricted(&takes, &self.aggregator().src().peer_query_caps(None))
            }
            (Some(asked), ..) => asked,
            (None, Some(_), Some(straight)) => straight.peer_query_caps(None),
            _ => {
                let downstream = self.aggregator().downstream_caps();
                let chosen = encoder::choose(&downstream, &template, &self.makes());
                chosen.map_or(template, |factory| encoder::raw_caps(&factory))
            }
        }
    }

    /// As a tee answers: the metas that the encoder copes with, nobody's pool. And nothing is asked of upstream's pool, although
    /// hundreds of its frames may be held: whoever makes a pool allocates at once what is asked of it, and some decoders make one
    /// for every frame (avdec_h264 of GStreamer 1.22, where the width isn't a multiple of 32), which each frame that is held keeps alive.
    /// A pool without limits grows by itself, and what comes out of one that is too small is copied.
    fn allocation(&self, query: &mut gst::query::Allocation) -> bool {
        let proposal = match &*lock(&self.state) {
            Some(state) if state.stream.is_some() => state.proposal.clone(),
            _ => return false,
        };
        if proposal.takes_video_meta {
            query.add_allocation_meta::<gst_video::VideoMeta>(None);
        }
        for params in &proposal.params {
            query.add_allocation_param(None::<&gst::Allocator>, *params);
        }
        true
    }

    /// What the encoder that is placed first proposes, for itself and all that come after it.
    pub(super) fn proposal(&self, caps: &gst::Caps) -> Proposal {
        let mut query = gst::query::Allocation::new(Some(caps), false);
        let straight = self.straight();
        if !straight.is_some_and(|straight| straight.peer_query(&mut query)) {
            return Proposal::default();
        }
        let params = query.allocation_params().map(|(_, params)| params);
        Proposal {
            takes_video_meta: query
                .find_allocation_meta::<gst_video::VideoMeta>()
                .is_some(),
            params: params.collect(),
        }
    }

    /// An event from downstream, of a stream that isn't sequential.
    pub(crate) fn upstream_event(&self, event: gst::Event) -> bool {
        let Some((request, as_of_upstream)) = key_request(&event) else {
            return self.sink.push_event(event);
        };
        let key_interval = self.set_key_interval();
        if let Some(state) = &mut *lock(&self.state) {
            match state.mode {
                // Whoever encodes gets it with what came before the first frame.
                Mode::Undecided => state.early.push(as_of_upstream),
                _ => state.key_asked(self.aggregator(), request, key_interval),
            }
        }
        true
    }

    /// The shortest time between two key frames that are asked for, in nanoseconds, as set on the encoder. It is ours to keep: it
    /// would keep the sessions' encoders from making the key frames that part chunks.
    pub(super) fn key_interval(&self) -> u64 {
        let waits = {
            let state = lock(&self.state);
            state.as_ref().is_some_and(|state| !state.keys.is_empty())
        };
        if waits { self.set_key_interval() } else { 0 }
    }

    fn set_key_interval(&self) -> u64 {
        self.bin().map_or(0, |bin| bin.imp().key_interval())
    }

    pub(crate) fn upstream_query(&self, query: &mut gst::QueryRef) -> bool {
        let answered = self.sink.peer_query(query);
        if let gst::QueryViewMut::Latency(latency) = query.view_mut()
            && answered
        {
            let (is_live, min, max) = latency.result();
            let own = self.latency().unwrap_or_default();
            let longer = |time: gst::ClockTime| time.saturating_add(own);
            latency.set(is_live, longer(min), max.map(longer));
        }
        answered
    }

    /// What chunks add to the latency, where the frame rate is known. The budget holds as much.
    fn latency(&self) -> Option<gst::ClockTime> {
        let state = lock(&self.state);
        let state = state
            .as_ref()
            .filter(|state| state.mode == Mode::Parallel)?;
        if state.joined {
            return None;
        }
        let plan = *state.stream.as_ref()?.planner.plan();
        let frame = frame_duration(state.caps.as_ref()?)?.nseconds();
        let frames = plan.latency_frames();
        let time = frame.saturating_mul(frames).min(LATEST);
        Some(gst::ClockTime::from_nseconds(time))
    }

    /// Has the application ask for the latency again, if it is another.
    pub(super) fn tell_latency(&self) {
        let latency = self.latency();
        let is_new = lock(&self.state).as_mut().is_some_and(|state| {
            let old = std::mem::replace(&mut state.latency, latency);
            old != latency
        });
        if let Some(bin) = self.bin().filter(|_| is_new) {
            let _ = bin.post_message(gst::message::Latency::builder().src(&bin).build());
        }
    }

    /// Upstream wants its frames back: the open chunk ends here, and all are let go as their chunks are done. `false` if the
    /// stream is aborted before that.
    fn drain(&self) -> bool {
        let mut guard = lock(&self.state);
        if let Some(state) = guard.as_mut() {
            state.cut(self.aggregator());
        }
        // Chunks are done whether downstream takes them or not.
        drop(guard);
        self.aggregator().end_herald();
        guard = lock(&self.state);
        // That no frame comes meanwhile is no wonder, and afterwards nothing is held.
        self.aggregator().input_interrupted();
        loop {
            let Some(state) = guard.as_ref() else {
                return true;
            };
            let stream = state.stream.as_ref();
            let holds = stream.is_some_and(|stream| stream.planner.oldest().is_some());
            if !holds && state.releasing == 0 {
                return true;
            }
            if state.is_aborting() {
                return false;
            }
            guard = wait(&self.room, guard);
        }
    }

    pub(super) fn src_event(&self, event: gst::Event) -> bool {
        may_panic!("distributor-src-event");
        match self.mode() {
            Mode::Sequential(_) => self.sink.push_event(event),
            // One session's QoS or latency is not the stream's.
            _ => true,
        }
    }

    pub(super) fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        may_panic!("distributor-src-query");
        match (self.mode(), query.view()) {
            (Mode::Sequential(_), _) => self.sink.peer_query(query),
            (_, gst::QueryView::Caps(_) | gst::QueryView::AcceptCaps(_)) => {
                gst::Pad::query_default(pad, Some(&*self.obj()), query)
            }
            // An encoder looks for a device or display to share.
            (_, gst::QueryView::Context(_)) => self.sink.peer_query(query),
            _ => false,
        }
    }
}
