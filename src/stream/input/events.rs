// SPDX-License-Identifier: MPL-2.0

//! Events from upstream, and key frames that are asked for.

use super::InputState;
use crate::encoder::description::EncoderError;
use crate::logic::keys;
use crate::logic::scenes::Scenes;
use crate::media::raw::{UNKNOWN_DURATION, are_fields, is_same_video};
use crate::media::tags::of_stream;
use crate::stream::CAT;
use crate::stream::shared::{Mode, Shared};
use crate::stream::workers;
use gst::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Shared {
    pub(super) fn sink_event(self: &Arc<Self>, event: gst::Event) -> bool {
        gst::log!(CAT, obj = self.sink, "{event:?}");
        match (self.mode(), event.view()) {
            (Mode::Undecided, gst::EventView::Caps(caps)) => self.begin(&caps.caps_owned(), event),
            (Mode::Sequential(_), _) => {
                if event.type_() == gst::EventType::FlushStop {
                    self.lock().begin_progress();
                    // Another part of it may come.
                    self.encoding.lock().frames_to_come = None;
                }
                // One that stays comes again with the next frame, whose flow says why it didn't go on: upstream would end with an error
                // where the encoder only flushes.
                let stays = event.is_sticky() && event.type_() != gst::EventType::Caps;
                let straight = self.straight();
                straight.is_some_and(|straight| straight.push_event(event) || stays)
            }
            (_, gst::EventView::FlushStart(_)) => {
                self.lock().begin_flush();
                self.src.push_event(event);
                true
            }
            (_, gst::EventView::FlushStop(_)) => {
                self.flush_stop(event);
                true
            }
            _ if !event.is_serialized() => self.src.push_event(event),
            (Mode::Parallel, _) => self.serialized(event),
            (Mode::Undecided, _) => {
                let is_end = event.type_() == gst::EventType::Eos;
                self.input.lock().early.push(event);
                if is_end {
                    // No caps, so no frames either: what came goes on as it is.
                    self.send_events(|input| &mut input.early);
                }
                true
            }
        }
    }

    /// A serialized event of a stream that is encoded in chunks.
    pub(in crate::stream) fn serialized(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Caps(caps) => return self.new_caps(caps.caps_owned()),
            gst::EventView::Segment(segment) => {
                // One that isn't in time says nothing of timestamps: it is passed on, and the last one holds.
                if let Some(times) = segment.segment().downcast_ref::<gst::ClockTime>() {
                    // Frames on both sides of a new segment have no common timeline.
                    self.lock().cut();
                    let mut input = self.input.lock();
                    input.segment = times.clone();
                    input.expected = None;
                }
                self.lock().event(event);
            }
            gst::EventView::StreamStart(_) => {
                // Another stream begins, perhaps after the end of the last one: nothing of that one holds any more.
                self.lock().begin_another();
                self.send_waiting_tags();
                let mut input = self.input.lock();
                input.tags = None;
                input.tell_tags();
                drop(input);
                self.lock().event(event);
            }
            gst::EventView::SegmentDone(_) => {
                // All that came before it leaves before it, as nothing may come after it.
                let mut engine = self.lock();
                engine.cut();
                engine.event(event);
            }
            gst::EventView::Tag(_) => self.add_tags(event),
            gst::EventView::Eos(_) => {
                self.lock().end();
                self.send_waiting_tags();
                // Said before the end can be.
                self.tell_of_unheard_refusal();
                self.lock().event(event);
            }
            _ => match key_request(&event) {
                Some((request, _)) => {
                    let interval = self.models.key_interval();
                    self.lock().ask_for_key(request, interval);
                }
                None => self.lock().event(event),
            },
        }
        true
    }

    /// Stream tags are the encoders' affair, which merge their own into them; the last ones count, as with GstVideoEncoder.
    fn add_tags(&self, event: gst::Event) {
        let mut input = self.input.lock();
        match of_stream(&event) {
            Some(tags) => input.tags = Some(tags),
            None => input.global_tags = Some(event.clone()),
        }
        input.waiting_tags.push(event);
    }

    /// No encoder gets the tags that came since the last frame.
    fn send_waiting_tags(&self) {
        self.input.lock().tell_tags();
        self.send_events(|input| &mut input.waiting_tags);
    }

    /// Events that wait are sent in their place.
    fn send_events(&self, waiting: fn(&mut InputState) -> &mut Vec<gst::Event>) {
        let events = std::mem::take(waiting(&mut self.input.lock()));
        let mut engine = self.lock();
        for event in events {
            engine.event(event);
        }
    }

    fn new_caps(&self, caps: gst::Caps) -> bool {
        let old = self.input.lock().caps.clone();
        if old.is_some_and(|old| is_same_video(&old, &caps)) {
            return true;
        }
        if are_fields(&caps) {
            // (Its own error would come before ours if upstream heard of it now.)
            self.fail_after_all(gst::error_msg!(
                gst::StreamError::Format,
                ("The video changes to alternating fields, of which chunks can't be made; set allow-parallel=false")
            ));
            return true;
        }
        if !caps.is_subset(&self.takes(Some(&caps))) {
            let encoder = self.encoding.lock().encoder_name();
            let error = EncoderError::CapsRefused { encoder, caps };
            self.fail_after_all(error.message());
            return true;
        }
        // A plain encoder asks it with new caps as well.
        let downstream = self.ask_downstream();
        let plan = match self.plan(&caps, None) {
            Ok(plan) => plan,
            Err(error) => {
                self.fail_after_all(error.into());
                return true;
            }
        };
        {
            let mut engine = self.lock();
            engine.cut();
            engine.replan(plan);
        }
        {
            let mut input = self.input.lock();
            input.set_caps(caps, downstream);
            input.look_for_cuts(&plan);
        }
        self.warn_of_plan(&plan);
        self.tell_of_plan();
        self.tell_latency();
        true
    }

    /// What downstream accepts now. Encoders that have no chunk yet are told the same from now on.
    pub(in crate::stream) fn ask_downstream(&self) -> gst::Caps {
        self.reconfigures.store(false, Ordering::SeqCst);
        let caps = self.src.peer_query_caps(None);
        self.encoding.lock().downstream = Some(caps.clone());
        caps
    }

    /// Downstream may accept something else since it said so: the next chunk's encoder is told.
    pub(super) fn refresh_downstream(&self) {
        if !self.reconfigures.load(Ordering::SeqCst) {
            return;
        }
        let downstream = self.ask_downstream();
        gst::debug!(CAT, obj = self.sink, "Downstream accepts {downstream}");
        let raw = self.input.lock().caps.clone();
        let recipe = self.encoding.lock().recipe.clone();
        let takes = recipe.and_then(|recipe| recipe.takes(downstream.clone(), raw.as_ref()));
        // Frames that are still as it accepted them before are encoded for that.
        if takes.is_some_and(|takes| !takes.is_empty()) {
            let mut input = self.input.lock();
            input.set_context(|context| context.downstream = Some(downstream));
        }
    }

    fn flush_stop(self: &Arc<Self>, event: gst::Event) {
        // FLUSH_START has freed them.
        self.wait_until_idle();
        for branch in self.branches() {
            // Waits for the task.
            let _ = branch.session.src.pause_task();
        }
        // What the output's task still has to say is of the old stream.
        let _ = self.src.pause_task();
        let stays = |event: &gst::Event| {
            let ends = [gst::EventType::Segment, gst::EventType::Eos];
            event.is_sticky() && !ends.contains(&event.type_())
        };
        let old = self.lock().end_flush(stays);
        drop(old);
        self.flows.lock().reset();
        {
            let mut input = self.input.lock();
            input.segment = gst::FormattedSegment::new();
            input.expected = None;
            input.early.retain(stays);
            input.asked_length = false;
            // What comes isn't compared with what came before.
            if let Some(lookout) = &mut input.lookout {
                lookout.scenes = Scenes::default();
            }
            input.pool = None;
            input.tell_tags();
            // They may not have left; if they have, they don't again.
            input.waiting_tags = input.global_tags.clone().into_iter().collect();
        }
        self.writer.lock().flushed(self.src.current_caps());
        self.src.push_event(event);
        self.start_output();
        self.arm_early_start();
        // (One may have taken another's place.)
        for branch in self.branches() {
            workers::start_task(self, &branch.session.src, branch.session.id);
        }
    }

    /// An event from downstream, of a stream that isn't sequential.
    pub(in crate::stream) fn upstream_event(&self, event: gst::Event) -> bool {
        let Some((request, as_of_upstream)) = key_request(&event) else {
            return self.sink.push_event(event);
        };
        if self.mode() == Mode::Undecided {
            // Whoever encodes gets it with what came before the first frame.
            self.input.lock().early.push(as_of_upstream);
            return true;
        }
        let interval = self.models.key_interval();
        let duration = self.input.lock().duration.unwrap_or(UNKNOWN_DURATION);
        self.lock()
            .request_key(request, interval, duration.nseconds());
        true
    }

    /// An event that an encoder sends up.
    pub(super) fn encoders_event(self: &Arc<Self>, event: gst::Event) -> bool {
        match self.mode() {
            Mode::Sequential(_) => self.sink.push_event(event),
            // One session's QoS or latency is not the stream's.
            _ => true,
        }
    }
}

/// What a force-key-unit event asks for, and the event that says the same from upstream.
fn key_request(event: &gst::EventRef) -> Option<(keys::Request, gst::Event)> {
    if !gst_video::ForceKeyUnitEvent::is(event) {
        return None;
    }
    let (time, all_headers, count) = match gst_video::ForceKeyUnitEvent::parse(event).ok()? {
        gst_video::ForceKeyUnitEvent::Downstream(it) => (it.running_time, it.all_headers, it.count),
        gst_video::ForceKeyUnitEvent::Upstream(it) => (it.running_time, it.all_headers, it.count),
    };
    let request = keys::Request {
        time: time.map(gst::ClockTime::nseconds),
        all_headers,
        count,
    };
    let as_of_upstream = gst_video::DownstreamForceKeyUnitEvent::builder()
        .running_time(time)
        .all_headers(all_headers)
        .count(count)
        .build();
    Some((request, as_of_upstream))
}
