// SPDX-License-Identifier: MPL-2.0

//! What comes in: frames and events.

use super::failure::budget_error;
use super::imp::{CAT, Distributor};
use super::keys::key_request;
use super::state::{Mode, Pool, buffers_per_picture, frame_duration};
use crate::aggregator::FrameTimes;
use crate::cache::Picture;
use crate::locking::lock;
use crate::logic::budget::Admission;
use crate::logic::frame::{FrameNo, SessionId};
use crate::logic::timeline::LATEST;
use crate::panics::may_panic;
use crate::session::encoder;
use glib::translate::from_glib_none;
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
        may_panic!("distributor-chain");
        match self.mode() {
            Mode::Undecided if self.is_stopped() => Err(gst::FlowError::Flushing),
            Mode::Undecided => Err(gst::FlowError::NotNegotiated),
            Mode::Sequential(_) => {
                if let Some(state) = &mut *lock(&self.state) {
                    // Nothing but a panic.
                    state.flow?;
                    state.tally.frames_in += 1;
                }
                let straight = self.straight().ok_or(gst::FlowError::Flushing)?;
                straight.push(buffer)
            }
            Mode::Parallel => self.take_in(buffer),
        }
    }

    pub(super) fn take_in(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.refresh_downstream();
        self.plan_with_length();
        let key_interval = self.key_interval();
        let guard = lock(&self.state);
        let Some(stream) = guard.as_ref().and_then(|state| state.stream.as_ref()) else {
            return Err(gst::FlowError::Flushing);
        };
        let capacity = stream.planner.plan().capacity_frames;
        let known = stream.known_pool();
        let caps = guard.as_ref().and_then(|state| state.caps.clone());
        let keeps = guard.as_ref().is_some_and(|state| state.cache.is_some());
        let clipped = clip(&stream.segment, &buffer);
        drop(guard);
        let Some(times) = clipped else {
            gst::debug!(
                CAT,
                imp = self,
                "Dropping {buffer:?}, it is outside the segment"
            );
            return Ok(gst::FlowSuccess::Ok);
        };
        let pool = pool_of(&buffer, known);
        let (buffer, copied) = self.holdable(buffer, pool, capacity, caps.as_deref())?;
        // While its pixels are still in the processor's cache: somebody has just written them.
        let picture = caps
            .filter(|_| keeps)
            .and_then(|caps| picture(&buffer, &caps));
        let bytes = buffer.size() as u64;
        let mut waited = false;
        let mut guard = lock(&self.state);
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
                self.aggregator().input_waits();
            }
            guard = self.wait(&self.room, guard);
        };
        result?;
        if let Some(state) = guard.as_mut() {
            may_panic!("distributor-chain-locked");
            state.tally.frames_copied += u64::from(copied);
            state.take_in(
                self.aggregator(),
                stampable(buffer),
                times,
                bytes,
                key_interval,
                picture,
            );
            if let Some(stream) = &mut state.stream {
                stream.pool = pool.filter(|_| !copied);
            }
        }
        Ok(gst::FlowSuccess::Ok)
    }

    /// The frame as it may be held. One of a pool that may not have enough buffers for all that is held (`capacity` frames) is
    /// copied, and goes back at once: nobody knows how many of them upstream needs itself.
    fn holdable(
        &self,
        buffer: gst::Buffer,
        pool: Option<Pool>,
        capacity: u64,
        caps: Option<&gst::CapsRef>,
    ) -> Result<(gst::Buffer, bool), gst::FlowError> {
        match pool.and_then(|pool| pool.most) {
            Some(size) if u64::from(size) < capacity => (),
            _ => return Ok((buffer, false)),
        }
        if let Some(copy) = copied(&buffer, caps.is_some_and(are_of_system_memory)) {
            return Ok((copy, true));
        }
        self.fail(gst::error_msg!(
            gst::ResourceError::NoSpaceLeft,
            ("Chunks hold up to {capacity} frames, but upstream's buffer pool has fewer, and its memory can't be copied; set \
                 allow-parallel=false, or download the video to system memory before vtparallelenc")
        ));
        Err(gst::FlowError::Error)
    }

    /// Asks upstream how long the stream will be, to plan equal chunks. Before the first frame: some parsers know it only after some
    /// frames, but the first encoder has been told by then that nobody does, and when upstream gets to know it is chance.
    pub(super) fn plan_with_length(&self) {
        let (caps, segment, told) = {
            let state = lock(&self.state);
            let Some(state) = state.as_ref() else { return };
            let (Some(stream), Some(caps)) = (&state.stream, &state.caps) else {
                return;
            };
            if stream.planner.next_frame() != FrameNo(0) {
                return;
            }
            let unit = buffers_per_picture(caps);
            let told = state
                .job
                .source_frames
                .map(|frames| frames.saturating_mul(unit));
            (caps.clone(), stream.segment.clone(), told)
        };
        let frames = told.or_else(|| self.frames_to_come(&caps, &segment));
        gst::info!(CAT, imp = self, "Frames to come: {frames:?}");
        let mut guard = lock(&self.state);
        let Some(state) = guard.as_mut() else { return };
        // The length can't make a plan impossible that was possible without it.
        if let (Some(_), Ok(plan)) = (frames, state.plan(&caps, frames)) {
            let capacity_frames = plan.capacity_frames;
            if state.replan(plan) {
                self.announce(&caps, capacity_frames);
                let shrinks = state.shrinks(&plan, &caps);
                drop(guard);
                self.warn_of_shrunk_chunks(shrinks);
                self.tell_latency();
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
        may_panic!("distributor-event");
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
                // One that isn't in time says nothing of timestamps: it is passed on, and the last one holds.
                match segment.segment().downcast_ref::<gst::ClockTime>() {
                    Some(times) => self.new_segment(times.clone(), event),
                    None => self.before_next_frame(event),
                }
            }
            gst::EventView::StreamStart(_) => {
                self.new_stream();
                self.before_next_frame(event);
            }
            gst::EventView::SegmentDone(_) => {
                if let Some(state) = &mut *lock(&self.state) {
                    // All that came before it leaves before it, as nothing may come after it.
                    state.cut(self.aggregator());
                }
                self.before_next_frame(event);
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
                    state.end(self.aggregator());
                    state.flow.err().filter(|_| !state.flow_returned)
                };
                // Said before the end can be.
                if let Some(flow) = unheard {
                    self.refused_after_end(flow);
                }
                self.before_next_frame(event);
            }
            _ if gst_video::ForceKeyUnitEvent::is(&event) => {
                if let Some((request, _)) = key_request(&event)
                    && let Some(state) = &mut *lock(&self.state)
                {
                    state.keys.ask(request);
                }
            }
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
            let state = lock(&self.state);
            let old = state.as_ref().and_then(|state| state.caps.as_ref());
            if old.is_some_and(|old| is_same_video(old, &caps)) {
                return true;
            }
        }
        // A plain encoder asks it with new caps as well.
        let downstream = self.aggregator().ask_downstream();
        let shrinks = {
            let mut guard = lock(&self.state);
            let Some(state) = guard.as_mut() else {
                return false;
            };
            let plan = match state.plan(&caps, None) {
                Ok(plan) => plan,
                Err(error) => {
                    drop(guard);
                    self.fail(budget_error(error));
                    return false;
                }
            };
            state.cut(self.aggregator());
            self.announce(&caps, plan.capacity_frames);
            let shrinks = state.shrinks(&plan, &caps);
            state.set_caps(caps);
            state.downstream = Some(downstream);
            state.replan(plan);
            shrinks
        };
        self.warn_of_shrunk_chunks(shrinks);
        self.before_next_frame(event);
        self.tell_latency();
        true
    }

    /// Another stream begins, perhaps after the end of the last one: nothing of that one holds any more.
    fn new_stream(&self) {
        let mut state = lock(&self.state);
        let Some(state) = state.as_mut() else { return };
        state.cut(self.aggregator());
        state.tags_leave(self.aggregator());
        state.tagged(None);
        if let Some(stream) = &mut state.stream {
            stream.ended = false;
        }
    }

    /// Downstream may accept something else since it said so: the next chunk's encoder is told.
    fn refresh_downstream(&self) {
        let Some(downstream) = self.aggregator().renewed_downstream() else {
            return;
        };
        gst::debug!(CAT, imp = self, "Downstream accepts {downstream}");
        if let Some(state) = &mut *lock(&self.state) {
            // Frames that are still as it accepted them before are encoded for that.
            let raw = state.caps.as_ref();
            if raw.is_some_and(|raw| !encoder::restricted(raw, &downstream).is_empty()) {
                state.downstream = Some(downstream);
            }
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
        self.aggregator().event(FrameNo(0), eos);
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
        // FLUSH_START has freed them.
        self.settle();
        let sessions = self.sessions();
        for session in &sessions {
            // Waits for the task.
            let _ = session.src.pause_task();
        }
        // What the aggregator's task still has to say is of the old stream.
        self.aggregator().rest();
        let old = lock(&self.state).as_mut().and_then(|state| state.flush());
        drop(old);
        self.aggregator().flush_stop(event);
        self.herald();
        // (One may have taken another's place.)
        for session in &self.sessions() {
            self.start_task(&session.src, session.id);
        }
    }
}

/// The caps describe the same video, as GstVideoEncoder sees it: it ignores such a change.
fn is_same_video(a: &gst::Caps, b: &gst::Caps) -> bool {
    if a == b {
        return true;
    }
    let info = |caps: &gst::Caps| gst_video::VideoInfo::from_caps(caps).ok();
    let in_same_memory = a
        .features(0)
        .zip(b.features(0))
        .is_some_and(|(a, b)| a.is_equal(b));
    in_same_memory && info(a).zip(info(b)).is_some_and(|(a, b)| a == b)
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
    let stop = duration.and_then(|duration| start.checked_add(duration));
    let (start, end) = segment.clip(start, stop)?;
    let clipped = end.zip(start).map(|(end, start)| end.saturating_sub(start));
    Some(FrameTimes {
        pts: start,
        // Where no time says when it ends, it is as long as it was.
        duration: if stop.is_none() && duration.is_some() {
            duration
        } else {
            clipped
        },
    })
}

/// What a frame shows, if it can be told from others.
fn picture(buffer: &gst::BufferRef, caps: &gst::CapsRef) -> Option<Picture> {
    let info = gst_video::VideoInfo::from_caps(caps).ok()?;
    match Picture::of(buffer, &info) {
        Ok(picture) => Some(picture),
        Err(why) => {
            gst::log!(CAT, "A frame can't be told from others: {why}");
            None
        }
    }
}

/// The pool that the frame is of, if it is of one. `known`: what is known already.
fn pool_of(buffer: &gst::BufferRef, known: Option<Pool>) -> Option<Pool> {
    // SAFETY: the buffer is valid.
    let address = unsafe { (*buffer.as_ptr()).pool } as usize;
    if known.is_some_and(|known| known.address == address) {
        return known;
    }
    // SAFETY: the buffer is valid, and holds a reference to its pool if it has one.
    let pool: Option<gst::BufferPool> = unsafe { from_glib_none((*buffer.as_ptr()).pool) };
    if let Some(pool) = pool {
        let most = pool.config().params().map(|(_, _, _, most)| most);
        let most = most.filter(|&most| most > 0);
        return Some(Pool { address, most });
    }
    // Another buffer may have lent its memory.
    let mut parents = buffer.iter_meta::<gst::ParentBufferMeta>();
    parents.find_map(|parent| pool_of(parent.parent(), known))
}

/// The caps name no other memory, so that any will do.
fn are_of_system_memory(caps: &gst::CapsRef) -> bool {
    let mut features = caps.features(0).into_iter().flat_map(|it| it.iter());
    features.all(|feature| !feature.starts_with("memory:") || feature == "memory:SystemMemory")
}

/// A copy in memory of the same kind, or in system memory where that will do.
fn copied(buffer: &gst::BufferRef, is_in_system_memory: bool) -> Option<gst::Buffer> {
    let copy = buffer.copy_deep().ok()?;
    let kind = |memory: &gst::MemoryRef| {
        let allocator = memory.allocator();
        allocator.map(|allocator| allocator.type_())
    };
    let kinds = |buffer: &gst::BufferRef| -> Vec<_> { buffer.iter_memories().map(kind).collect() };
    if !is_in_system_memory && kinds(buffer) != kinds(&copy) {
        return None;
    }
    Some(copy)
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
