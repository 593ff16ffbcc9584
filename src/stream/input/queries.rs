// SPDX-License-Identifier: MPL-2.0

//! Queries from upstream and from encoders, and those from downstream that go up.

use crate::clock;
use crate::encoder::choice;
use crate::encoder::description::Recipe;
use crate::logic::timeline::LATEST;
use crate::media::caps;
use crate::media::queries::{answer_as_encoder, convert_raw};
use crate::stream::shared::{Mode, Proposal, Shared};
use gst::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Shared {
    pub(super) fn sink_query(self: &Arc<Self>, query: &mut gst::QueryRef) -> Option<bool> {
        let mode = self.mode();
        if let (Mode::Sequential(_), Some(straight)) = (mode, self.straight()) {
            return Some(straight.peer_query(query));
        }
        Some(match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let takes = self.takes(query.filter());
                if takes.is_empty() && mode == Mode::Undecided {
                    self.warn_of_downstream();
                }
                answer_as_encoder(query, takes);
                true
            }
            // In mid-stream the event is told of in its turn, as GStreamer would end the stream at once, with all that is held.
            gst::QueryViewMut::AcceptCaps(query) if mode == Mode::Parallel => {
                query.set_result(query.caps().can_intersect(&caps::raw()));
                true
            }
            gst::QueryViewMut::AcceptCaps(_) => return None,
            gst::QueryViewMut::Allocation(query) => {
                mode == Mode::Parallel && self.allocation(query)
            }
            gst::QueryViewMut::Drain(_) => self.drain(),
            gst::QueryViewMut::Convert(query) => {
                let caps = self.input.lock().caps.clone();
                caps.is_some_and(|caps| convert_raw(&caps, query))
            }
            // Pull mode.
            gst::QueryViewMut::Scheduling(_) => false,
            _ => self.src.peer_query(query),
        })
    }

    /// What can be encoded: as the encoder said before it began, or says now, or as far as it is known which
    /// encoder it will be.
    pub(super) fn takes(&self, filter: Option<&gst::CapsRef>) -> gst::Caps {
        let (asked, recipe) = {
            let encoding = self.encoding.lock();
            (encoding.sink_caps.clone(), encoding.recipe.clone())
        };
        let template = caps::raw();
        let filter = filter.map(|it| it.to_owned());
        let filter = filter.as_ref();
        match (asked, recipe, self.straight()) {
            (Some(asked), Some(recipe), _) if self.reconfigured.load(Ordering::SeqCst) => {
                // The encoders at work have seen what downstream accepted before.
                let downstream = self.src.peer_query_caps(None);
                recipe.takes(downstream, filter).unwrap_or(asked)
            }
            (Some(asked), ..) => asked,
            // (In GstVideoEncoder's answer the order of fields depends on the filter, and with it what upstream chooses.)
            (None, Some(_), Some(straight)) => straight.peer_query_caps(filter),
            _ => {
                let told = self.encoding.lock().downstream.clone();
                let downstream = told.unwrap_or_else(|| self.src.peer_query_caps(None));
                let Ok(factory) = choice::choose(&downstream, &template, &self.makes()) else {
                    return template;
                };
                let recipe = Recipe {
                    description: factory.name().to_string(),
                    overrides: self.models.overrides(),
                    chunked: None,
                    alone: None,
                };
                let takes = recipe.takes(downstream, filter);
                takes.unwrap_or_else(|| caps::taken_by(&factory))
            }
        }
    }

    /// As a tee answers: the metas that the encoder copes with, nobody's pool. And nothing is asked of upstream's pool, although
    /// hundreds of its frames may be held: whoever makes a pool allocates at once what is asked of it, and some decoders make one
    /// for every frame (avdec_h264 of GStreamer 1.22, where the width isn't a multiple of 32), which each frame that is held keeps alive.
    /// A pool without limits grows by itself, and what comes out of one that is too small is copied.
    fn allocation(&self, query: &mut gst::query::Allocation) -> bool {
        let proposal = self.encoding.lock().proposal.clone();
        if proposal.takes_video_meta {
            query.add_allocation_meta::<gst_video::VideoMeta>(None);
        }
        for params in &proposal.params {
            query.add_allocation_param(None::<&gst::Allocator>, *params);
        }
        true
    }

    /// What the encoder that is placed first proposes, for itself and all that come after it.
    pub(in crate::stream) fn proposal(&self, caps: &gst::Caps) -> Proposal {
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

    /// A query from downstream that goes up, of a stream that isn't sequential.
    pub(in crate::stream) fn upstream_query(&self, query: &mut gst::QueryRef) -> bool {
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
        if self.mode() != Mode::Parallel {
            return None;
        }
        let frame = self.input.lock().duration?.nseconds();
        let frames = self.lock().plan()?.latency_frames();
        let time = frame.saturating_mul(frames).min(LATEST);
        Some(gst::ClockTime::from_nseconds(time))
    }

    /// Has the application ask for the latency again, if it is another.
    pub(in crate::stream) fn tell_latency(&self) {
        let latency = self.latency();
        let old = std::mem::replace(&mut self.encoding.lock().latency, latency);
        if let Some(bin) = self.host.bin().filter(|_| old != latency) {
            let _ = bin.post_message(gst::message::Latency::builder().src(&bin).build());
        }
    }

    /// Upstream wants its frames back: the open chunk ends here, and all are let go as their chunks are done. `false` if the
    /// stream is aborted before that.
    fn drain(&self) -> bool {
        let mut engine = self.lock();
        engine.cut();
        // Chunks are done whether downstream takes them or not.
        engine.end_early_start();
        // That no frame comes meanwhile is no wonder.
        engine.stand_at_door(clock::now());
        let drained = loop {
            if engine.is_drained() {
                break true;
            }
            if engine.is_aborting() {
                break false;
            }
            engine.wait(&self.room);
        };
        engine.leave_door();
        drained
    }

    pub(super) fn encoders_query(self: &Arc<Self>, query: &mut gst::QueryRef) -> Option<bool> {
        match (self.mode(), query.view()) {
            (Mode::Sequential(_), _) => Some(self.sink.peer_query(query)),
            (_, gst::QueryView::Caps(_) | gst::QueryView::AcceptCaps(_)) => None,
            // An encoder looks for a device or display to share.
            (_, gst::QueryView::Context(_)) => Some(self.sink.peer_query(query)),
            _ => Some(false),
        }
    }
}
