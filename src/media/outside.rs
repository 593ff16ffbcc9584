// SPDX-License-Identifier: MPL-2.0

//! Properties that refer to something outside their element: a file, or another pass over the same film. What a file says can't be a
//! part of a key, as another pass or anybody else writes it; and sessions beside each other would all read and write the same one.

use gst::prelude::*;

/// What a property refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outside {
    Passes,
    File,
    /// By an option in a text of several.
    Option,
}

impl Outside {
    /// If the property does with this value.
    pub(crate) fn of(spec: &glib::ParamSpec, value: &glib::Value) -> Option<Self> {
        if let Some((_, of)) = glib::EnumValue::from_value(value) {
            return is_one_of_several_passes(of.nick()).then_some(Self::Passes);
        }
        if let Some((_, flags)) = glib::FlagsValue::from_value(value) {
            let mut nicks = flags.iter().map(|flag| flag.nick());
            return nicks.any(is_one_of_several_passes).then_some(Self::Passes);
        }
        let name: Vec<&str> = spec.name().split('-').collect();
        let is_named = |words: &[&str]| name.iter().any(|word| words.contains(word));
        let is_default = || text_of(value) == text_of(spec.default_value());
        let Ok(text) = value.get::<Option<String>>() else {
            let refers = is_named(&["pass", "passes", "multipass"]) && !is_default();
            return refers.then_some(Self::Passes);
        };
        let text = text.unwrap_or_default();
        let names_file = is_named(&["file", "filename", "location", "path", "uri", "url"]);
        // The file of several passes is only used when there are, and that is another property.
        if names_file && !is_named(&["multipass"]) && !text.is_empty() && !is_default() {
            return Some(Self::File);
        }
        let mut options = text.split([':', ',', ';', ' ']);
        options.any(is_option_with_file).then_some(Self::Option)
    }

    /// What is said of the property.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Passes => "says that there are several passes",
            Self::File => "names a file",
            Self::Option => "has an option that may read or write a file",
        }
    }

    /// Why its encoder can't be one of several.
    pub(crate) fn why_alone(self) -> &'static str {
        match self {
            Self::Passes => "it makes one of several passes over the whole film",
            Self::File => "one of its properties names a file, which all sessions would use",
            Self::Option => {
                "one of its options may read or write a file, which all sessions would use"
            }
        }
    }
}

/// As the nick of a mode or flag.
fn is_one_of_several_passes(nick: &str) -> bool {
    let single = ["one-pass", "single-pass", "1-pass", "onepass", "singlepass"];
    let other = nick.contains("bypass") || nick.contains("passthrough");
    nick.contains("pass") && !other && !single.contains(&nick)
}

/// One of those that x264, x265, libaom and SVT-AV1 take as text.
fn is_option_with_file(option: &str) -> bool {
    const FILES: [&str; 17] = [
        "pass", "multi", "stats", "file", "qpfile", "zonefile", "table", "cqm", "cqmfile",
        "scaling", "dhdr10", "rpu", "load", "save", "csv", "recon", "dump",
    ];
    let Some((name, value)) = option.split_once('=') else {
        return false;
    };
    let mut words = name.split(['-', '_']);
    value.contains(['/', '\\']) || words.any(|word| FILES.contains(&word))
}

/// The value as text that is another one for another value, and tells no addresses.
pub(crate) fn text_of(value: &glib::Value) -> Option<String> {
    let kind = value.type_();
    if is_null(value) {
        return Some("null".to_string());
    }
    if let Ok(text) = value.get::<String>() {
        return Some(format!("\"{text}\""));
    }
    if kind.is_a(glib::Type::FLAGS) {
        // As names, unknown ones would be lost.
        let flags = value.transform::<u32>().ok()?;
        return Some(flags.get::<u32>().ok()?.to_string());
    }
    let by_address = [
        glib::Type::OBJECT,
        glib::Type::INTERFACE,
        glib::Type::POINTER,
        glib::Type::PARAM_SPEC,
    ];
    if by_address.iter().any(|other| kind.is_a(*other)) {
        return None;
    }
    value.serialize().ok().map(Into::into)
}

/// Whether it is a string, object or boxed value that isn't there.
fn is_null(value: &glib::Value) -> bool {
    use glib::gobject_ffi::{g_value_fits_pointer, g_value_peek_pointer};
    use glib::translate::ToGlibPtr;
    let value = value.to_glib_none().0;
    // SAFETY: the value is initialised, and its pointer is only asked for where its type has one.
    unsafe { g_value_fits_pointer(value) != 0 && g_value_peek_pointer(value).is_null() }
}
