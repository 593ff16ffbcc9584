// SPDX-License-Identifier: MPL-2.0

//! Properties that the application sets on every encoder, beside those of the description: through
//! `encoder::property` and `encoder-properties`. Each fresh encoder gets those of its moment.

use super::description::{EncoderError, name_of};
use gst::prelude::*;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// A leaf among the locks.
#[derive(Debug, Default)]
pub(crate) struct Overrides(Mutex<Set>);

#[derive(Debug, Default)]
struct Set {
    /// Property names and values, as text.
    values: BTreeMap<String, String>,
    /// How often something was set or forgotten.
    revision: u64,
}

impl Overrides {
    /// Remembers the property's value on `encoder` for all others.
    pub(crate) fn take_over(&self, encoder: &gst::Element, property: &str) -> Option<String> {
        let value = as_text(&encoder.property_value(property))?;
        let mut set = self.0.lock();
        set.values.insert(property.to_string(), value.clone());
        set.revision += 1;
        Some(value)
    }

    pub(crate) fn contains(&self, property: &str) -> bool {
        self.0.lock().values.contains_key(property)
    }

    /// The property isn't set on all others any more.
    pub(crate) fn forget(&self, property: &str) {
        let mut set = self.0.lock();
        // GObject takes either for the other.
        set.values.remove(&property.replace('_', "-"));
        set.revision += 1;
    }

    /// Another one than before: something was set since.
    pub(crate) fn revision(&self) -> u64 {
        self.0.lock().revision
    }

    pub(crate) fn apply(&self, encoder: &gst::Element) {
        let set = self.0.lock().values.clone();
        for (property, value) in set {
            // What was read off an encoder of this description fits another one.
            let _ = set_from_text(encoder, &property, &value);
        }
    }
}

/// Of GstVideoEncoder: the least time between two key frames that are asked for, in nanoseconds.
pub(super) const KEY_INTERVAL: &str = "min-force-key-unit-interval";

pub(super) fn key_interval(encoder: &gst::Element) -> u64 {
    let has_it = encoder.has_property_with_type(KEY_INTERVAL, u64::static_type());
    let interval = has_it.then(|| encoder.property(KEY_INTERVAL));
    // The greatest number is no time at all.
    interval.filter(|&it| it != u64::MAX).unwrap_or(0)
}

/// A value as [`set_from_text`] takes it; `None` where it has no text (an object).
pub(crate) fn as_text(value: &glib::Value) -> Option<String> {
    if let Ok(text) = value.get::<Option<String>>() {
        return Some(text.unwrap_or_default());
    }
    value.serialize().ok().map(Into::into)
}

/// Sets a property from text, or says why it can't be.
pub(crate) fn set_from_text(
    encoder: &gst::Element,
    property: &str,
    text: &str,
) -> Result<(), &'static str> {
    let spec = encoder
        .find_property(property)
        .ok_or("there is no such property")?;
    let flags = spec.flags();
    let fixed = glib::ParamFlags::CONSTRUCT_ONLY;
    if !flags.contains(glib::ParamFlags::WRITABLE) || flags.contains(fixed) {
        return Err("it can't be set");
    }
    let value = if spec.value_type() == glib::Type::STRING {
        text.to_value()
    } else {
        let value = glib::Value::deserialize_with_pspec(text, &spec);
        value.map_err(|_| "the value is of another type or unknown")?
    };
    if !spec.value_is_valid(&value) {
        return Err("the value is out of range");
    }
    encoder.set_property_from_value(property, &value);
    Ok(())
}

/// Sets the fields of `properties` on an encoder.
pub(crate) fn set_properties(
    encoder: &gst::Element,
    properties: &gst::StructureRef,
) -> Result<(), EncoderError> {
    for (field, value) in properties {
        let text = as_text(value).ok_or("its value has no text");
        let set = text.and_then(|text| set_from_text(encoder, field, &text));
        set.map_err(|reason| EncoderError::Property {
            encoder: name_of(encoder),
            property: field.to_string(),
            reason,
        })?;
    }
    Ok(())
}
