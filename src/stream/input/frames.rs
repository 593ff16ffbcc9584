// SPDX-License-Identifier: MPL-2.0

//! Frames that come in.

use crate::cache::FrameDigest;
use crate::clock;
use crate::logic::engine::{Admission, FrameTimes, Incoming};
use crate::media::raw::{
    self, UNKNOWN_DURATION, are_of_system_memory, may_be_pooled, pool_of, stampable,
};
use crate::media::tags::of_stream;
use crate::panics::may_panic;
use crate::stream::CAT;
use crate::stream::shared::{Mode, Shared};
use crate::stream::video::Frame;
use gst::prelude::*;
use gst::{FlowError, FlowSuccess};
use std::sync::Arc;

impl Shared {
    pub(super) fn sink_chain(
        self: &Arc<Self>,
        buffer: gst::Buffer,
    ) -> Result<FlowSuccess, FlowError> {
        match self.mode() {
            Mode::Undecided if self.stops() => Err(FlowError::Flushing),
            Mode::Undecided => Err(FlowError::NotNegotiated),
            Mode::Sequential(_) => {
                {
                    let mut engine = self.lock();
                    // Nothing but a panic.
                    if let Some(flow) = engine.flow() {
                        return Err(flow);
                    }
                    engine.count_in(clock::now());
                }
                let straight = self.straight().ok_or(FlowError::Flushing)?;
                straight.push(buffer)
            }
            Mode::Parallel => self.take_in(buffer),
        }
    }

    fn take_in(&self, buffer: gst::Buffer) -> Result<FlowSuccess, FlowError> {
        self.refresh_downstream();
        self.plan_with_length();
        match self.prepared(buffer)? {
            Some((frame, incoming)) => self.admitted(frame, &incoming),
            None => Ok(FlowSuccess::Ok),
        }
    }

    /// The frame as it may be held, with all that is known of it; `None` if it is outside the segment.
    fn prepared(&self, buffer: gst::Buffer) -> Result<Option<(Frame, Incoming)>, FlowError> {
        let (keeps, is_given, most_bytes) = {
            let encoding = self.encoding.lock();
            let is_given = encoding.job.given.is_some();
            (encoding.cache.is_some(), is_given, encoding.memory.bytes())
        };
        let mut input = self.input.lock();
        let Some((pts, duration)) = raw::clip(&input.segment, &buffer) else {
            drop(input);
            gst::debug!(CAT, obj = self.sink, "Outside the segment: {buffer:?}");
            return Ok(None);
        };
        let assumed = duration.or(input.duration).unwrap_or(UNKNOWN_DURATION);
        // Muxers give up a stream in which a packet has no time.
        let pts = pts.or(input.expected);
        let follows = input.segment.rate() > 0.0;
        input.expected = pts
            .filter(|_| follows)
            .and_then(|it| it.checked_add(assumed));
        let running_time = input.segment.to_running_time(pts);
        let context = input.context.clone().ok_or(FlowError::NotNegotiated)?;
        // Who plans chunks has looked at their frames.
        let carried = is_given.then(|| FrameDigest::carried_by(&buffer)).flatten();
        let info = (keeps && carried.is_none())
            .then(|| input.info.clone())
            .flatten();
        let known = input.pool;
        drop(input);

        let buffer = match may_be_pooled(&buffer) {
            true => self.holdable(buffer, known, &context.caps)?,
            false => buffer,
        };
        // While its pixels are still in the processor's cache: somebody has just written them.
        let digest = carried.or_else(|| {
            let info = info?;
            let digest = FrameDigest::of(&buffer, &info);
            digest
                .inspect_err(|why| gst::log!(CAT, "A frame can't be told from others: {why}"))
                .ok()
        });
        let mut lookout = self.input.lock().lookout.take();
        let change = match lookout.as_mut().map(|it| it.look(&buffer)) {
            Some(Ok(change)) => change,
            Some(Err(())) => {
                self.lock().tally.frames_unseen += 1;
                None
            }
            None => None,
        };
        gst::trace!(CAT, obj = self.sink, "What is new: {change:?}");
        let bytes = buffer.size() as u64;
        let mut buffer = stampable(buffer);
        buffer.make_mut().set_duration(duration);
        if carried.is_some() {
            FrameDigest::remove_from(buffer.make_mut());
        }

        let mut input = self.input.lock();
        input.lookout = lookout;
        let tags = std::mem::take(&mut input.waiting_tags);
        if tags.iter().any(|event| of_stream(event).is_some()) {
            input.tell_tags();
        }
        drop(input);
        let frame = Frame {
            buffer,
            tags,
            digest,
            context,
        };
        let incoming = Incoming {
            times: FrameTimes {
                pts: pts.map(gst::ClockTime::nseconds),
                duration: duration.map(gst::ClockTime::nseconds),
                running_time: running_time.map(gst::ClockTime::nseconds),
            },
            assumed_duration: assumed.nseconds(),
            bytes,
            most_bytes,
            change,
        };
        Ok(Some((frame, incoming)))
    }

    /// Brings the frame in; waits for room where there is none, until that was made or the stream ends.
    fn admitted(&self, mut frame: Frame, incoming: &Incoming) -> Result<FlowSuccess, FlowError> {
        let mut waited = None;
        let mut engine = self.lock();
        // Dropped without the lock.
        let (_refused, flow) = loop {
            may_panic!("taking a frame, locked");
            match engine.frame(frame, incoming, clock::now()) {
                Admission::Taken => break (None, Ok(FlowSuccess::Ok)),
                Admission::Full(again) => {
                    frame = again;
                    waited = waited.or_else(|| Some(clock::now()));
                    engine.wait(&self.room);
                }
                Admission::Flushing(frame) => break (Some(frame), Err(FlowError::Flushing)),
                // Only a flush begins anew.
                Admission::Ended(frame) => break (Some(frame), Err(FlowError::Eos)),
                Admission::Halted(frame, flow) => break (Some(frame), Err(flow)),
            }
        };
        if waited.is_some() {
            engine.leave_door();
        }
        drop(engine);
        if let Some(since) = waited {
            self.traced(|trace, now| trace.input_waited(since, now));
        }
        self.sample();
        flow
    }

    /// The frame as it may be held. One of a pool that may not have enough buffers for all that is held is
    /// copied, and goes back at once: nobody knows how many of them upstream needs itself.
    fn holdable(
        &self,
        buffer: gst::Buffer,
        known: Option<raw::Pool>,
        caps: &gst::CapsRef,
    ) -> Result<gst::Buffer, FlowError> {
        let (capacity, holds_last) = {
            let engine = self.lock();
            let capacity = engine.plan().map_or(0, |plan| plan.capacity_frames);
            (capacity, engine.holds_last())
        };
        // While a frame of it is held, GStreamer doesn't let anyone configure a pool anew.
        let pool = pool_of(&buffer, known.filter(|_| holds_last));
        let is_large = |size: u32| u64::from(size) >= capacity;
        if pool.and_then(|pool| pool.most).is_none_or(is_large) {
            self.input.lock().pool = pool;
            return Ok(buffer);
        }
        self.input.lock().pool = None;
        if let Some(copy) = raw::copied(&buffer, are_of_system_memory(caps)) {
            self.lock().tally.frames_copied += 1;
            return Ok(copy);
        }
        self.fail(gst::error_msg!(
            gst::ResourceError::NoSpaceLeft,
            ("Chunks hold up to {capacity} frames, but upstream's buffer pool has fewer, and its memory can't be copied; set \
                 allow-parallel=false, or download the video to system memory before vtparallelenc")
        ));
        Err(FlowError::Error)
    }

    /// Asks upstream how long the stream will be, to plan equal chunks. Before the first frame: some parsers know it only after some
    /// frames, but the first encoder has been told by then that nobody does, and when upstream gets to know it is chance.
    fn plan_with_length(&self) {
        let (caps, segment) = {
            let mut input = self.input.lock();
            if std::mem::replace(&mut input.asked_length, true) {
                return;
            }
            let Some(caps) = input.caps.clone() else {
                return;
            };
            (caps, input.segment.clone())
        };
        let told = self.encoding.lock().job.source_frames;
        let frames = told.or_else(|| self.frames_to_come(&caps, &segment));
        self.encoding.lock().frames_to_come = frames;
        gst::info!(CAT, obj = self.sink, "Frames to come: {frames:?}");
        // The length can't make a plan impossible that was possible without it.
        if let Some(Ok(plan)) = frames.map(|frames| self.plan_anew(&caps, frames)) {
            let replanned = self.lock().replan(plan);
            if replanned {
                self.warn_of_plan(&plan);
                self.tell_latency();
            }
        }
        self.tell_of_memory();
        self.tell_of_plan();
    }

    pub(in crate::stream) fn frames_to_come(
        &self,
        caps: &gst::Caps,
        segment: &gst::FormattedSegment<gst::ClockTime>,
    ) -> Option<u64> {
        let frame = raw::frame_duration(caps).filter(|frame| !frame.is_zero())?;
        let duration = self.sink.peer_query_duration::<gst::ClockTime>();
        let end = match (segment.stop(), duration) {
            (Some(stop), Some(duration)) => stop.min(duration),
            (stop, duration) => stop.or(duration)?,
        };
        let rest = end.saturating_sub(segment.start().unwrap_or_default());
        let (rest, frame) = (rest.nseconds(), frame.nseconds());
        Some(rest.saturating_add(frame / 2) / frame).filter(|&frames| frames > 0)
    }
}
