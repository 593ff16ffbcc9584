// SPDX-License-Identifier: MPL-2.0

//! What comes in: frames and events.

use super::failure::budget_error;
use super::imp::{CAT, Distributor};
use super::state::{Mode, frame_duration};
use crate::aggregator::FrameTimes;
use crate::locking::{lock, wait};
use crate::logic::budget::Admission;
use crate::logic::frame::{FrameNo, SessionId};
use crate::logic::timeline::LATEST;
use gst::prelude::*;
use gst::subclass::prelude::*;

impl Distributor {
    pub(super) fn mode(&self) -> Mode {
        lock(&self.state)
            .as_ref()
            .map_or(Mode::Undecided, |state| state.mode)
    }

    /// Where everything goes while the stream is sequential.
    pub(super) fn straight(&self) -> Option<gst::Pad> {
        Some(self.session(SessionId(0))?.src.clone())
    }

    pub(super) fn sink_chain(
        &self,
        buffer: gst::Buffer,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        match self.mode() {
            Mode::Undecided => Err(gst::FlowError::NotNegotiated),
            Mode::Sequential(_) => {
                if let Some(state) = &mut *lock(&self.state) {
                    state.tally.frames_in += 1;
                }
                let straight = self.straight().ok_or(gst::FlowError::Flushing)?;
                straight.push(buffer)
            }
            Mode::Parallel => self.take_in(buffer),
        }
    }

    pub(super) fn take_in(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.plan_with_length();
        let mut guard = lock(&self.state);
        let Some(stream) = guard.as_ref().and_then(|state| state.stream.as_ref()) else {
            return Err(gst::FlowError::Flushing);
        };
        let Some(times) = clip(&stream.segment, &buffer) else {
            drop(guard);
            gst::debug!(
                CAT,
                imp = self,
                "Dropping {buffer:?}, it is outside the segment"
            );
            return Ok(gst::FlowSuccess::Ok);
        };
        let bytes = buffer.size() as u64;
        let mut waited = false;
        let result = loop {
            let Some(state) = guard.as_mut() else {
                break Err(gst::FlowError::Flushing);
            };
            if state.stopped || state.flushing {
                break Err(gst::FlowError::Flushing);
            }
            if let Err(flow) = state.flow {
                state.flow_returned = true;
                break Err(flow);
            }
            if state.stream.as_ref().is_some_and(|stream| stream.ended) {
                // Only a flush begins anew.
                break Err(gst::FlowError::Eos);
            }
            if state.admit(bytes) == Admission::Admitted {
                break Ok(());
            }
            if !waited {
                waited = true;
                self.aggregator().input_waits(true);
            }
            guard = wait(&self.room, guard);
        };
        if waited {
            self.aggregator().input_waits(false);
        }
        result?;
        if let Some(state) = guard.as_mut() {
            state.take_in(self.aggregator(), stampable(buffer), times, bytes);
        }
        Ok(gst::FlowSuccess::Ok)
    }

    /// Asks upstream how long the stream will be, to plan equal chunks. Some parsers know it only after some frames, so
    /// this asks at fixed frames until it is known or too late for the first chunk.
    pub(super) fn plan_with_length(&self) {
        const ASK_AT: [FrameNo; 4] = [FrameNo(0), FrameNo(16), FrameNo(32), FrameNo(64)];
        let (caps, segment, told) = {
            let state = lock(&self.state);
            let Some(state) = state.as_ref() else { return };
            let (Some(stream), Some(caps)) = (&state.stream, &state.caps) else {
                return;
            };
            if stream.length_known || !ASK_AT.contains(&stream.planner.next_frame()) {
                return;
            }
            let told = state.job.source_frames;
            (caps.clone(), stream.segment.clone(), told)
        };
        let frames = told.or_else(|| self.frames_to_come(&caps, &segment));
        gst::info!(CAT, imp = self, "Frames to come: {frames:?}");
        let mut guard = lock(&self.state);
        let Some(state) = guard.as_mut() else { return };
        // The length can't make a plan impossible that was possible without it.
        if let (Some(_), Ok(plan)) = (frames, state.plan(&caps, frames)) {
            let capacity_frames = plan.capacity_frames;
            if let Some(stream) = &mut state.stream {
                stream.length_known = true;
            }
            if state.replan(plan) {
                self.announce(&caps, capacity_frames);
            }
        }
    }

    /// How much video the aggregator has to expect to be held back.
    pub(super) fn announce(&self, caps: &gst::Caps, capacity_frames: u64) {
        let time = frame_duration(caps).map(|frame| {
            let held = frame.nseconds().saturating_mul(capacity_frames);
            gst::ClockTime::from_nseconds(held.min(LATEST))
        });
        self.aggregator().holds_back(time);
    }

    pub(super) fn frames_to_come(
        &self,
        caps: &gst::Caps,
        segment: &gst::FormattedSegment<gst::ClockTime>,
    ) -> Option<u64> {
        let frame = frame_duration(caps).filter(|frame| !frame.is_zero())?;
        let duration = self.sink.peer_query_duration::<gst::ClockTime>();
        let end = match (segment.stop(), duration) {
            (Some(stop), Some(duration)) => stop.min(duration),
            (stop, duration) => stop.or(duration)?,
        };
        let rest = end.saturating_sub(segment.start().unwrap_or_default());
        let (rest, frame) = (rest.nseconds(), frame.nseconds());
        Some(rest.saturating_add(frame / 2) / frame).filter(|&frames| frames > 0)
    }

    pub(super) fn sink_event(&self, event: gst::Event) -> bool {
        gst::log!(CAT, imp = self, "{event:?}");
        match (self.mode(), event.view()) {
            (Mode::Undecided, gst::EventView::Caps(caps)) => {
                self.sink_caps(&caps.caps_owned(), event)
            }
            (Mode::Sequential(_), _) => self
                .straight()
                .is_some_and(|straight| straight.push_event(event)),
            (_, gst::EventView::FlushStart(_)) => {
                self.flush_start(event);
                true
            }
            (_, gst::EventView::FlushStop(_)) => {
                self.flush_stop(event);
                true
            }
            _ if !event.is_serialized() => self.aggregator().src().push_event(event),
            (Mode::Parallel, _) => self.serialized(event),
            (Mode::Undecided, gst::EventView::Eos(_)) => self.end_without_frames(event),
            (Mode::Undecided, _) => {
                if let Some(state) = &mut *lock(&self.state) {
                    state.early.push(event);
                }
                true
            }
        }
    }

    /// A serialized event of a stream that is encoded in chunks.
    pub(super) fn serialized(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Caps(caps) => return self.new_caps(caps.caps_owned(), event),
            gst::EventView::Segment(segment) => {
                let Some(times) = segment.segment().downcast_ref::<gst::ClockTime>() else {
                    self.fail(gst::error_msg!(
                        gst::StreamError::Format,
                        ("The segment isn't in time; vtparallelenc needs timestamps")
                    ));
                    return false;
                };
                let times = times.clone();
                self.new_segment(times, event);
            }
            gst::EventView::Tag(_) => {
                if let Some(state) = &mut *lock(&self.state) {
                    state.add_tags(event);
                }
            }
            gst::EventView::Eos(_) => {
                let unheard = {
                    let mut state = lock(&self.state);
                    let Some(state) = state.as_mut() else {
                        return false;
                    };
                    state.cut(self.aggregator());
                    if let Some(stream) = &mut state.stream {
                        stream.ended = true;
                    }
                    state.flow.err().filter(|_| !state.flow_returned)
                };
                // Said before the end can be.
                if let Some(flow) = unheard {
                    self.refused_after_end(flow);
                }
                self.aggregator().end(event);
            }
            _ if gst_video::ForceKeyUnitEvent::is(&event) => self.force_key_frame(),
            _ => self.before_next_frame(event),
        }
        true
    }

    pub(super) fn before_next_frame(&self, event: gst::Event) {
        let state = lock(&self.state);
        let stream = state.as_ref().and_then(|state| state.stream.as_ref());
        let before = stream.map_or(FrameNo(0), |stream| stream.planner.next_frame());
        self.aggregator().event(before, event);
    }

    pub(super) fn new_segment(
        &self,
        segment: gst::FormattedSegment<gst::ClockTime>,
        event: gst::Event,
    ) {
        {
            let mut state = lock(&self.state);
            let Some(state) = state.as_mut() else { return };
            // Frames on both sides of a new segment have no common timeline.
            state.cut(self.aggregator());
            if let Some(stream) = &mut state.stream {
                stream.segment = segment;
            }
        }
        self.before_next_frame(event);
    }

    pub(super) fn new_caps(&self, caps: gst::Caps, event: gst::Event) -> bool {
        {
            let mut guard = lock(&self.state);
            let Some(state) = guard.as_mut() else {
                return false;
            };
            if state.caps.as_ref() == Some(&caps) {
                return true;
            }
            let plan = match state.plan(&caps, None) {
                Ok(plan) => plan,
                Err(error) => {
                    drop(guard);
                    self.fail(budget_error(error));
                    return false;
                }
            };
            state.cut(self.aggregator());
            state.caps = Some(caps);
            state.replan(plan);
        }
        self.before_next_frame(event);
        true
    }

    pub(super) fn force_key_frame(&self) {
        let mut state = lock(&self.state);
        if let Some(stream) = state.as_mut().and_then(|state| state.stream.as_mut()) {
            stream.force_key = true;
        }
    }

    /// No caps, so no frames either: what came goes on as it is.
    pub(super) fn end_without_frames(&self, eos: gst::Event) -> bool {
        let early = lock(&self.state)
            .as_mut()
            .map(|state| std::mem::take(&mut state.early));
        for event in early.into_iter().flatten() {
            self.aggregator().event(FrameNo(0), event);
        }
        self.aggregator().end(eos);
        true
    }

    pub(super) fn flush_start(&self, event: gst::Event) {
        if let Some(state) = &mut *lock(&self.state) {
            state.flushing = true;
            state.wake_all();
        }
        self.room.notify_all();
        self.aggregator().flush_start(event);
    }

    pub(super) fn flush_stop(&self, event: gst::Event) {
        let sessions = self.sessions();
        for session in &sessions {
            // Waits for the task, which FLUSH_START has freed.
            let _ = session.src.pause_task();
        }
        // What the aggregator's task still has to say is of the old stream.
        self.aggregator().rest();
        let old = lock(&self.state).as_mut().and_then(|state| state.flush());
        drop(old);
        self.aggregator().flush_stop(event);
        for session in &sessions {
            self.start_task(&session.src, session.id);
        }
    }
}

/// The frame's times inside the segment, as GstVideoEncoder clips them; `None` if it is outside.
fn clip(
    segment: &gst::FormattedSegment<gst::ClockTime>,
    buffer: &gst::BufferRef,
) -> Option<FrameTimes> {
    let (pts, duration) = (buffer.pts(), buffer.duration());
    let Some(start) = pts else {
        return Some(FrameTimes { pts, duration });
    };
    let stop = duration.map(|duration| start.saturating_add(duration));
    let (start, stop) = segment.clip(start, stop)?;
    Some(FrameTimes {
        pts: start,
        duration: stop
            .zip(start)
            .map(|(stop, start)| stop.saturating_sub(start)),
    })
}

/// A buffer whose times can be set. Where upstream keeps the one that came, a copy of the buffer but not of its
/// memory; it holds on to the original, so that a pool gets that back whole.
fn stampable(buffer: gst::Buffer) -> gst::Buffer {
    if buffer.is_writable() {
        return buffer;
    }
    let mut copy = buffer.copy();
    gst::ParentBufferMeta::add(copy.make_mut(), &buffer);
    copy
}
