// SPDX-License-Identifier: MPL-2.0

//! Tags, as events and as text.

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

/// As [`from_text`] reads it; `None` where a value has no text. The scope isn't in it.
pub(crate) fn to_text(tags: &gst::TagList) -> Option<String> {
    tags.to_value().serialize().ok().map(Into::into)
}

pub(crate) fn from_text(text: &str) -> Option<gst::TagList> {
    let value = glib::Value::deserialize(text, gst::TagList::static_type()).ok()?;
    value.get().ok()
}
