// SPDX-License-Identifier: MPL-2.0

//! Raw frames: what their caps say of them, their times, their memory and their pool.

use glib::translate::from_glib_none;
use gst::prelude::*;

/// Taken for the duration of a frame of which nobody says it: 25 per second, as GStreamer's encoders assume.
pub(crate) const UNKNOWN_DURATION: gst::ClockTime = gst::ClockTime::from_mseconds(40);

/// Size of one raw frame in bytes, or `None` where the caps aren't raw video.
pub(crate) fn frame_bytes(caps: &gst::CapsRef) -> Option<u64> {
    if let Ok(info) = gst_video::VideoInfo::from_caps(caps) {
        return Some((info.size() as u64).max(1));
    }
    // Formats of a memory feature that only its driver can measure: at most 4 bytes for a pixel.
    let structure = caps.structure(0)?;
    let width = u64::try_from(structure.get::<i32>("width").ok()?).ok()?;
    let height = u64::try_from(structure.get::<i32>("height").ok()?).ok()?;
    Some((width * height * 4).max(1))
}

/// Time that one frame is shown, if the caps say so.
pub(crate) fn frame_duration(caps: &gst::CapsRef) -> Option<gst::ClockTime> {
    let rate = frame_rate(caps)?;
    // 0/1 is a variable rate.
    let numer = u64::try_from(rate.numer()).ok().filter(|&n| n > 0)?;
    let denom = u64::try_from(rate.denom()).ok()?;
    gst::ClockTime::SECOND.mul_div_round(denom, numer)
}

pub(crate) fn frame_rate(caps: &gst::CapsRef) -> Option<gst::Fraction> {
    caps.structure(0)?.get("framerate").ok()
}

/// Each buffer is one field of a picture (interlace-mode alternate).
pub(crate) fn are_fields(caps: &gst::CapsRef) -> bool {
    let structure = caps.structure(0);
    structure.is_some_and(|it| it.get::<&str>("interlace-mode") == Ok("alternate"))
}

/// The caps describe the same video, as GstVideoEncoder sees it: it ignores such a change.
pub(crate) fn is_same_video(a: &gst::CapsRef, b: &gst::CapsRef) -> bool {
    if a == b {
        return true;
    }
    let info = |caps: &gst::CapsRef| gst_video::VideoInfo::from_caps(caps).ok();
    let in_same_memory = a
        .features(0)
        .zip(b.features(0))
        .is_some_and(|(a, b)| a.is_equal(b));
    in_same_memory && info(a).zip(info(b)).is_some_and(|(a, b)| a == b)
}

/// The frame's times inside the segment, as GstVideoEncoder clips them: PTS and duration; `None` if it is outside.
pub(crate) fn clip(
    segment: &gst::FormattedSegment<gst::ClockTime>,
    buffer: &gst::BufferRef,
) -> Option<(Option<gst::ClockTime>, Option<gst::ClockTime>)> {
    let (pts, duration) = (buffer.pts(), buffer.duration());
    let Some(start) = pts else {
        return Some((pts, duration));
    };
    let stop = duration.and_then(|duration| start.checked_add(duration));
    let (start, end) = segment.clip(start, stop)?;
    let clipped = end.zip(start).map(|(end, start)| end.saturating_sub(start));
    // Where no time says when it ends, it is as long as it was.
    let is_endless = stop.is_none() && duration.is_some();
    Some((start, if is_endless { duration } else { clipped }))
}

/// A pool that frames come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pool {
    /// Where it is: which one it is, while a frame of it is held.
    address: usize,
    /// The most buffers that it may have, if there is a limit.
    pub(crate) most: Option<u32>,
}

/// The frame comes out of a pool, or another buffer has lent it its memory.
pub(crate) fn may_be_pooled(buffer: &gst::BufferRef) -> bool {
    // SAFETY: the buffer is valid.
    let is_pooled = unsafe { !(*buffer.as_ptr()).pool.is_null() };
    is_pooled || buffer.iter_meta::<gst::ParentBufferMeta>().next().is_some()
}

/// The pool that the frame is of, if it is of one. `known`: what is known already.
pub(crate) fn pool_of(buffer: &gst::BufferRef, known: Option<Pool>) -> Option<Pool> {
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
pub(crate) fn are_of_system_memory(caps: &gst::CapsRef) -> bool {
    let mut features = caps.features(0).into_iter().flat_map(|it| it.iter());
    features.all(|feature| !feature.starts_with("memory:") || feature == "memory:SystemMemory")
}

/// A copy in memory of the same kind, or in system memory where that will do.
pub(crate) fn copied(buffer: &gst::BufferRef, is_in_system_memory: bool) -> Option<gst::Buffer> {
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
pub(crate) fn stampable(buffer: gst::Buffer) -> gst::Buffer {
    if buffer.is_writable() {
        return buffer;
    }
    let mut copy = buffer.copy();
    gst::ParentBufferMeta::add(copy.make_mut(), &buffer);
    copy
}
