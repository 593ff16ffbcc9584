// SPDX-License-Identifier: MPL-2.0

//! TAG events: upstream's, which encoders merge their own into, and those of an encoder's packets.

use gst::prelude::*;

/// The tags of an event, if they are of this stream and not of all.
pub(crate) fn of_stream(event: &gst::Event) -> Option<gst::TagList> {
    match event.view() {
        gst::EventView::Tag(tag) if tag.tag().scope() == gst::TagScope::Stream => {
            Some(tag.tag_owned())
        }
        _ => None,
    }
}

/// As it was written by [`to_text`], if it was. `is_global`: the tags are of all streams.
pub(crate) fn from_text(text: &str, is_global: bool) -> Option<gst::TagList> {
    let value = glib::Value::deserialize(text, gst::TagList::static_type()).ok()?;
    let mut tags: gst::TagList = value.get().ok()?;
    tags.make_mut().set_scope(match is_global {
        true => gst::TagScope::Global,
        false => gst::TagScope::Stream,
    });
    Some(tags)
}

/// The tags as text, without their scope; `None` where a value has no text.
pub(crate) fn to_text(tags: &gst::TagList) -> Option<String> {
    tags.to_value().serialize().ok().map(Into::into)
}
