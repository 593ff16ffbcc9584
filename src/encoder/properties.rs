// SPDX-License-Identifier: MPL-2.0

//! Properties that the application sets on every encoder, beside those of the description: through
//! `encoder::property` and `encoder-properties`. Each fresh encoder gets those of its moment.

use crate::locking::lock;
use gst::prelude::*;
use std::collections::BTreeMap;
use std::sync::Mutex;

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
        let mut set = lock(&self.0);
        set.values.insert(property.to_string(), value.clone());
        set.revision += 1;
        Some(value)
    }

    pub(crate) fn contains(&self, property: &str) -> bool {
        lock(&self.0).values.contains_key(property)
    }

    /// The property isn't set on all others any more.
    pub(crate) fn forget(&self, property: &str) {
        let mut set = lock(&self.0);
        // GObject takes either for the other.
        set.values.remove(&property.replace('_', "-"));
        set.revision += 1;
    }

    /// Another one than before: something was set since.
    pub(crate) fn revision(&self) -> u64 {
        lock(&self.0).revision
    }

    pub(crate) fn apply(&self, encoder: &gst::Element) {
        let set = lock(&self.0).values.clone();
        for (property, value) in set {
            // What was read off an encoder of this description fits another one.
            let _ = set_from_text(encoder, &property, &value);
        }
    }
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
