// SPDX-License-Identifier: MPL-2.0

//! Raw frames: what their caps say of them, their times, their memory and their pool.

use glib::translate::from_glib_none;
use gst::prelude::*;

/// Taken for the duration of a frame of which nobody says it: 25 per second, as GStreamer's encoders assume.
pub(crate) const UNKNOWN_DURATION: gst::ClockTime = gst::ClockTime::from_mseconds(40);

/// What the caps say of the pixels; `None` where they are no raw video, or where only a driver or a decoder knows how they lie in memory
/// (DMA_DRM, ENCODED: these have no planes and no size).
pub(crate) fn pixels(caps: &gst::CapsRef) -> Option<gst_video::VideoInfo> {
    let info = gst_video::VideoInfo::from_caps(caps).ok()?;
    (info.n_planes() > 0 && info.size() > 0).then_some(info)
}

/// Size of one raw frame in bytes, at most for all that is known where only its driver can measure it; `None` where the caps aren't raw
/// video.
pub(crate) fn frame_bytes(caps: &gst::CapsRef) -> Option<u64> {
    if let Some(info) = pixels(caps) {
        return Some(info.size() as u64);
    }
    let structure = caps.structure(0)?;
    // (GStreamer takes negative ones, too.)
    let side = |name| {
        structure
            .get::<i32>(name)
            .map(|it| u64::try_from(it).unwrap_or(0))
    };
    let (width, height) = (side("width").ok()?, side("height").ok()?);
    let drm_format = structure.get::<&str>("drm-format").unwrap_or_default();
    let halves = half_bytes_of_a_pixel(drm_format.split(':').next().unwrap_or_default());
    Some((width * height).saturating_mul(halves).div_ceil(2).max(1))
}

/// Width and height of a picture, as far as the caps say them.
pub(crate) fn picture_size(caps: &gst::CapsRef) -> Option<(u32, u32)> {
    let structure = caps.structure(0)?;
    let side = |name| u32::try_from(structure.get::<i32>(name).ok()?).ok();
    Some((side("width")?, side("height")?))
}

/// Half bytes for a pixel of a format as Linux names it (drm_fourcc.h), as many as most formats have where it isn't listed.
fn half_bytes_of_a_pixel(fourcc: &str) -> u64 {
    match fourcc {
        "R8" => 2,
        "NV12" | "NV21" | "YU12" | "YV12" => 3,
        "NV16" | "NV61" | "YU16" | "YV16" | "YUYV" | "YVYU" | "UYVY" | "VYUY" | "RG16" | "BG16" => {
            4
        }
        "NV15" | "P010" | "P012" | "P016" | "RG24" | "BG24" | "NV24" | "NV42" | "YU24" => 6,
        "XR48" | "AR48" | "XB48" | "AB48" | "XR4H" | "AR4H" | "XB4H" | "AB4H" | "Y412" | "Y416" => {
            16
        }
        _ => 8,
    }
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
    let in_same_memory = a
        .features(0)
        .zip(b.features(0))
        .is_some_and(|(a, b)| a.is_equal(b));
    in_same_memory && pixels(a).zip(pixels(b)).is_some_and(|(a, b)| a == b)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_driver_can_measure_has_no_pixels_but_a_size() {
        gst::init().unwrap();
        for (format, bytes) in [
            ("format=ENCODED", 64 * 48 * 4),
            (
                "format=DMA_DRM,drm-format=NV12:0x0100000000000002",
                64 * 48 * 3 / 2,
            ),
            ("format=DMA_DRM,drm-format=AR24", 64 * 48 * 4),
            ("format=DMA_DRM,drm-format=AB4H", 64 * 48 * 8),
            ("format=DMA_DRM,drm-format=P010", 64 * 48 * 3),
            ("format=none-of-these", 64 * 48 * 4),
        ] {
            let caps =
                format!("video/x-raw(memory:DMABuf),{format},width=64,height=48,framerate=25/1");
            let caps: gst::Caps = caps.parse().unwrap();
            assert!(pixels(&caps).is_none(), "{format}");
            assert_eq!(frame_bytes(&caps), Some(bytes), "{format}");
        }
        let caps: gst::Caps = "video/x-raw,format=I420,width=64,height=48,framerate=25/1"
            .parse()
            .unwrap();
        assert!(pixels(&caps).is_some());
        assert_eq!(frame_bytes(&caps), Some(64 * 48 * 3 / 2));
        assert_eq!(
            frame_bytes(&gst::Caps::new_empty_simple("audio/x-raw")),
            None
        );
    }

    #[test]
    fn caps_of_the_same_size_in_another_layout_are_other_video() {
        gst::init().unwrap();
        let caps = |format: &str| -> gst::Caps {
            let caps = format!(
                "video/x-raw(memory:DMABuf),format=DMA_DRM,drm-format={format},width=64,height=48"
            );
            caps.parse().unwrap()
        };
        assert!(is_same_video(&caps("NV12"), &caps("NV12")));
        assert!(!is_same_video(
            &caps("NV12"),
            &caps("NV12:0x0100000000000002")
        ));
    }
}
