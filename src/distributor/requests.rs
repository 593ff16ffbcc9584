// SPDX-License-Identifier: MPL-2.0

//! Queries from both sides, and what downstream and the encoders ask of upstream.

use super::imp::Distributor;
use super::state::{Mode, frame_bytes};
use crate::locking::lock;
use crate::logic::frame::{FrameNo, SessionId};
use crate::queries::answer_caps;
use crate::session::encoder;
use gst::prelude::*;
use gst::subclass::prelude::*;

impl Distributor {
    pub(super) fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
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
                mode == Mode::Parallel && self.allocation(straight.as_ref(), query)
            }
            // Frames are held until their chunk is done: they can't be handed back on request.
            gst::QueryViewMut::Drain(_) => false,
            _ => self.aggregator().src().peer_query(query),
        }
    }

    /// What can be encoded: as the encoder said before it began, or says now, or as far as it is known which
    /// encoder it will be.
    fn sink_caps_answer(&self, pad: &gst::Pad, straight: Option<gst::Pad>) -> gst::Caps {
        let (asked, known) = {
            let state = lock(&self.state);
            let state = state.as_ref();
            (
                state.and_then(|state| state.sink_caps.clone()),
                state.is_some_and(|state| state.recipe.is_some()),
            )
        };
        let template = pad.pad_template_caps();
        match (asked, known, straight) {
            (Some(asked), ..) => asked,
            (None, true, Some(straight)) => straight.peer_query_caps(None),
            _ => {
                let downstream = self.aggregator().snapshot_or_ask();
                let chosen = encoder::choose(&downstream, &template, &self.makes());
                chosen.map_or(template, |factory| encoder::raw_caps(&factory))
            }
        }
    }

    /// As a tee answers: the metas that the encoder copes with, an honest minimum, nobody's pool.
    pub(super) fn allocation(
        &self,
        straight: Option<&gst::Pad>,
        query: &mut gst::query::Allocation,
    ) -> bool {
        let (unused, bytes, frames, known) = {
            let state = lock(&self.state);
            let Some(state) = state.as_ref() else {
                return false;
            };
            let Some((stream, caps)) = state.stream.as_ref().zip(state.caps.as_ref()) else {
                return false;
            };
            (
                stream.planner.next_frame() == FrameNo(0),
                frame_bytes(caps).unwrap_or(1),
                stream.planner.plan().capacity_frames,
                state.takes_video_meta,
            )
        };
        // Once frames flow the encoder is its session's; what it said before holds for the others too.
        let is_placed = self
            .session(SessionId(0))
            .is_some_and(|session| session.is_placed());
        let takes_video_meta = match straight.filter(|_| unused && is_placed) {
            Some(straight) => {
                straight.peer_query(query.query_mut());
                while query.allocation_pools().next().is_some() {
                    query.remove_nth_allocation_pool(0);
                }
                let found = query.find_allocation_meta::<gst_video::VideoMeta>();
                found.is_some()
            }
            None => {
                if known {
                    query.add_allocation_meta::<gst_video::VideoMeta>(None);
                }
                known
            }
        };
        if let Some(state) = &mut *lock(&self.state) {
            state.takes_video_meta = takes_video_meta;
        }
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        query.add_allocation_pool(None::<&gst::BufferPool>, small(bytes), small(frames), 0);
        true
    }

    /// An event from downstream, of a stream that isn't sequential.
    pub(crate) fn upstream_event(&self, event: gst::Event) -> bool {
        if gst_video::ForceKeyUnitEvent::is(&event) {
            self.force_key_frame();
            return true;
        }
        self.sink.push_event(event)
    }

    pub(crate) fn upstream_query(&self, query: &mut gst::QueryRef) -> bool {
        self.sink.peer_query(query)
    }

    pub(super) fn src_event(&self, event: gst::Event) -> bool {
        match self.mode() {
            Mode::Sequential(_) => self.sink.push_event(event),
            // One session's QoS or latency is not the stream's.
            _ => true,
        }
    }

    pub(super) fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        match (self.mode(), query.view()) {
            (Mode::Sequential(_), _) => self.sink.peer_query(query),
            (_, gst::QueryView::Caps(_) | gst::QueryView::AcceptCaps(_)) => {
                gst::Pad::query_default(pad, Some(&*self.obj()), query)
            }
            _ => false,
        }
    }
}
