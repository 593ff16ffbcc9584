// SPDX-License-Identifier: MPL-2.0

//! Answers to queries, apart from the pads that give them.

use gst::prelude::*;

/// A ghost pad's query function. GStreamer's own puts the answer to a CAPS query into the order of the filter or the template, and
/// upstream takes what comes first.
pub(crate) fn ask_target(
    pad: &gst::GhostPad,
    parent: Option<&gst::Object>,
    query: &mut gst::QueryRef,
) -> bool {
    let of_caps = matches!(
        query.type_(),
        gst::QueryType::Caps | gst::QueryType::AcceptCaps
    );
    let Some(target) = pad.target().filter(|_| of_caps) else {
        return gst::Pad::query_default(pad, parent, query);
    };
    let answered = target.query(query);
    if let (gst::QueryViewMut::Caps(query), Some(template)) = (query.view_mut(), pad.pad_template())
        && let Some(caps) = query.result_owned()
    {
        let first = gst::CapsIntersectMode::First;
        query.set_result(&caps.intersect_with_mode(template.caps(), first));
    }
    answered
}

/// Answers a CAPS query of an encoder with what comes after it, in the order that the encoder prefers.
pub(crate) fn answer_encoder(query: &mut gst::query::Caps, caps: gst::Caps) {
    let answer = match query.filter_owned() {
        Some(filter) => filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First),
        None => caps,
    };
    query.set_result(&answer);
}

/// Answers a CAPS query with what an encoder takes, as GstVideoEncoder does: in the encoder's order, as upstream takes the first.
pub(crate) fn answer_as_encoder(query: &mut gst::query::Caps, takes: gst::Caps) {
    let answer = match query.filter() {
        Some(filter) => takes.intersect(filter),
        None => takes,
    };
    query.set_result(&answer);
}

/// Answers a CONVERT query for raw video with these caps.
pub(crate) fn convert_raw(caps: &gst::Caps, query: &mut gst::query::Convert) -> bool {
    let (value, format) = query.get();
    let info = super::raw::pixels(caps);
    let converted = info.and_then(|info| info.convert_generic(value, format));
    if let Some(converted) = converted {
        query.set(value, converted);
    }
    converted.is_some()
}

/// Answers a CONVERT query for encoded video of which so many bytes last so long, between bytes and time.
pub(crate) fn convert_encoded(
    bytes: u64,
    time: gst::ClockTime,
    query: &mut gst::query::Convert,
) -> bool {
    use gst::GenericFormattedValue as Value;
    let (value, format) = query.get();
    let time = time.nseconds();
    let scale = |value: u64, by: u64, of: u64| {
        let scaled = u128::from(value) * u128::from(by) / u128::from(of.max(1));
        u64::try_from(scaled).ok().filter(|_| of > 0)
    };
    let converted = match (value, format) {
        (Value::Bytes(Some(count)), gst::Format::Time) => scale(*count, time, bytes)
            .map(|time| Value::Time(Some(gst::ClockTime::from_nseconds(time)))),
        (Value::Time(Some(span)), gst::Format::Bytes) => scale(span.nseconds(), bytes, time)
            .map(|count| Value::Bytes(Some(gst::format::Bytes::from_u64(count)))),
        _ => (value.format() == format).then_some(value),
    };
    if let Some(converted) = converted {
        query.set(value, converted);
    }
    converted.is_some()
}
