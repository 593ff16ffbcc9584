// SPDX-License-Identifier: MPL-2.0

//! Answers that several pads give in the same way.

/// Answers a CAPS query with `caps`, in the order that the asker prefers.
pub(crate) fn answer_caps(query: &mut gst::query::Caps, caps: gst::Caps) {
    let answer = match query.filter_owned() {
        Some(filter) => filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First),
        None => caps,
    };
    query.set_result(&answer);
}
