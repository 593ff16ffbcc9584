// SPDX-License-Identifier: MPL-2.0

//! What caps say of raw video: how large a frame is, how long it is shown, how it is laid out.

use gst::prelude::*;

/// Taken for the duration of a frame of which nobody says it: 25 per second, as GStreamer's encoders assume.
pub(crate) const UNKNOWN_DURATION: gst::ClockTime = gst::ClockTime::from_mseconds(40);

/// Size of one raw frame, or an error where the caps aren't raw video.
pub(crate) fn frame_bytes(caps: &gst::Caps) -> Option<u64> {
    if let Ok(info) = gst_video::VideoInfo::from_caps(caps) {
        return Some((info.size() as u64).max(1));
    }
    // Formats of a memory feature that only its driver can measure: at most 4 bytes for a pixel.
    let structure = caps.structure(0)?;
    let width = u64::try_from(structure.get::<i32>("width").ok()?).ok()?;
    let height = u64::try_from(structure.get::<i32>("height").ok()?).ok()?;
    Some((width * height * 4).max(1))
}

/// Each buffer is one field of a picture.
pub(crate) fn is_alternating(caps: &gst::CapsRef) -> bool {
    let mode = caps.structure(0).map(|caps| caps.get("interlace-mode"));
    mode == Some(Ok("alternate"))
}

/// Time that one frame is shown, if the caps say so.
pub(crate) fn frame_duration(caps: &gst::Caps) -> Option<gst::ClockTime> {
    let rate = caps.structure(0)?.get::<gst::Fraction>("framerate").ok()?;
    // 0/1 is a variable rate.
    let numer = u64::try_from(rate.numer()).ok().filter(|&n| n > 0)?;
    let denom = u64::try_from(rate.denom()).ok()?;
    gst::ClockTime::SECOND.mul_div_round(denom, numer)
}

/// The caps describe the same video, as GstVideoEncoder sees it: it ignores such a change.
pub(crate) fn is_same_video(a: &gst::Caps, b: &gst::Caps) -> bool {
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
