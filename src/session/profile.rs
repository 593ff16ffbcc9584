// SPDX-License-Identifier: MPL-2.0

//! What is known of single encoders, as data: what has to be set so that several of them can encode the chunks of
//! one stream. An encoder without a row is left as it is.

use gst::prelude::*;

/// What an encoder needs where the user has not set the property.
struct Row {
    factory: &'static str,
    /// The property and its value, for an encoder that shares the machine with others.
    setting: (&'static str, &'static str),
    /// The property is a list in which later entries win: ours go before what the user has set.
    is_list: bool,
}

const fn row(factory: &'static str, property: &'static str, value: &'static str) -> Row {
    Row {
        factory,
        setting: (property, value),
        is_list: false,
    }
}

/// One thread each: N encoders with as many threads as there are cores would hold each other up, and x264
/// is deterministic only with one thread. x265 besides opens its GOPs by default. (It isn't told to repeat its headers: the
/// first packet of x265enc 1.22 then has bytes of uninitialised memory in it.)
const ROWS: &[Row] = &[
    row("x264enc", "threads", "1"),
    row("vp8enc", "threads", "1"),
    row("vp9enc", "threads", "1"),
    row("av1enc", "threads", "1"),
    row("openh264enc", "multi-thread", "1"),
    Row {
        factory: "x265enc",
        setting: ("option-string", "pools=1:frame-threads=1:open-gop=0"),
        is_list: true,
    },
];

/// Prepares an encoder, or every known encoder in a bin, for encoding chunks beside others.
pub(super) fn apply(encoder: &gst::Element) {
    if let Some(bin) = encoder.downcast_ref::<gst::Bin>() {
        for element in bin.iterate_recurse().into_iter().flatten() {
            apply_to(&element);
        }
    } else {
        apply_to(encoder);
    }
}

fn apply_to(encoder: &gst::Element) {
    let Some(factory) = encoder.factory() else {
        return;
    };
    for row in ROWS.iter().filter(|row| factory.name() == row.factory) {
        let (property, value) = row.setting;
        if !encoder.has_property(property) {
            continue;
        }
        if row.is_list {
            let set = encoder.property::<Option<String>>(property);
            let set = set.filter(|set| !set.is_empty());
            let list = set.map_or(value.to_string(), |set| format!("{value}:{set}"));
            encoder.set_property(property, list);
        } else if is_untouched(encoder, &factory, property) {
            encoder.set_property_from_str(property, value);
        }
    }
}

/// The property has the value that a new encoder has (which for vp9enc isn't the one that its class announces).
fn is_untouched(encoder: &gst::Element, factory: &gst::ElementFactory, property: &str) -> bool {
    let Ok(new) = factory.create().build() else {
        return false;
    };
    let (is, was) = (
        encoder.property_value(property),
        new.property_value(property),
    );
    is.compare(&was) == Some(std::cmp::Ordering::Equal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(factory: &str) -> Option<gst::Element> {
        gst::init().unwrap();
        gst::ElementFactory::make(factory).build().ok()
    }

    #[test]
    fn each_named_property_exists_where_the_encoder_is_installed() {
        for row in ROWS {
            let Some(encoder) = make(row.factory) else {
                eprintln!("{}: not installed, not checked", row.factory);
                continue;
            };
            assert!(encoder.has_property(row.setting.0), "{}", row.factory);
            apply(&encoder);
            let set = encoder
                .property_value(row.setting.0)
                .serialize()
                .unwrap()
                .replace('\\', "");
            assert!(set.contains(row.setting.1), "{}: {set}", row.factory);
        }
    }

    #[test]
    fn what_the_user_has_set_stays() {
        let Some(x264) = make("x264enc") else { return };
        x264.set_property("threads", 3u32);
        apply(&x264);
        assert_eq!(x264.property::<u32>("threads"), 3);
        let Some(x265) = make("x265enc") else { return };
        x265.set_property("option-string", "open-gop=1");
        apply(&x265);
        let options: String = x265.property("option-string");
        assert!(options.ends_with(":open-gop=1"), "{options}");
    }
}
