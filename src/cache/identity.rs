// SPDX-License-Identifier: MPL-2.0

//! What of an encoder counts: what it is, how it is set, and how its elements are linked.

use super::key::{KeyHasher, Unhashable};
use crate::media::outside::{Outside, text_of};
use gst::prelude::*;

/// The encoder, or all elements of a bin with how they are linked: what they are and how they are set. Ask before it runs: some
/// encoders write into their own properties then.
pub(crate) fn encoder_identity(
    hasher: &mut KeyHasher,
    encoder: &gst::Element,
) -> Result<(), Unhashable> {
    hasher.text("GStreamer", &gst::version_string());
    let mut elements = Vec::new();
    collect(encoder, &mut elements);
    for element in &elements {
        hash_element(hasher, element)?;
        for pad in element.pads() {
            hasher.text("pad", &pad_name(&pad));
            hasher.number("offset", pad.offset() as u64);
            hash_properties(hasher, pad.upcast_ref(), &factory_name(element))?;
            if let Some(peer) = pad.peer() {
                hash_link(hasher, &peer, &elements);
            }
        }
    }
    Ok(())
}

/// In the order in which they were added; names have numbers that count what the process made before.
fn collect(element: &gst::Element, into: &mut Vec<gst::Element>) {
    into.push(element.clone());
    if let Some(bin) = element.downcast_ref::<gst::Bin>() {
        for child in bin.children().iter().rev() {
            collect(child, into);
        }
    }
}

fn factory_name(element: &gst::Element) -> String {
    let factory = element.factory();
    factory.map_or_else(|| element.type_().name().into(), |it| it.name().into())
}

fn hash_element(hasher: &mut KeyHasher, element: &gst::Element) -> Result<(), Unhashable> {
    let factory = element.factory();
    let factory = factory.ok_or_else(|| Unhashable::Factory(factory_name(element)))?;
    hasher.text("factory", &factory.name());
    // An application may register an element of its own without one.
    if let Some(plugin) = factory.plugin() {
        hasher.text("plugin", &plugin.plugin_name());
        hasher.text("version", &plugin.version());
    }
    hash_properties(hasher, element.upcast_ref(), &factory.name())
}

/// The name by which its element knows a pad. Those of ghost pads may have numbers that count what the process made before.
fn pad_name(pad: &gst::Pad) -> String {
    match pad.parent_element().filter(|_| pad.is::<gst::GhostPad>()) {
        Some(bin) => {
            let at = bin.pads().iter().position(|other| other == pad);
            format!("{:?} {at:?}", pad.direction())
        }
        None => pad.name().into(),
    }
}

/// A pad inside a bin that is linked to outside it is linked to a part of the ghost pad.
fn hash_link(hasher: &mut KeyHasher, peer: &gst::Pad, elements: &[gst::Element]) {
    let parent = peer.parent();
    let ghost = parent.and_downcast::<gst::GhostPad>();
    let pad = ghost.as_ref().map_or(peer, |ghost| ghost.upcast_ref());
    let element = pad.parent_element();
    let at = elements.iter().position(|it| Some(it) == element.as_ref());
    // Nothing else around the encoder is a part of it.
    if let Some(at) = at {
        hasher.text("linked", if ghost.is_some() { "out" } else { "across" });
        hasher.number("to", at as u64);
        hasher.text("its pad", &pad_name(pad));
    }
}

/// Those of the elements and pads themselves; what GStreamer has for all of them names or places them.
fn hash_properties(
    hasher: &mut KeyHasher,
    object: &glib::Object,
    of: &str,
) -> Result<(), Unhashable> {
    let refused = |spec: &glib::ParamSpec, why| Unhashable::Property {
        of: of.to_string(),
        name: spec.name().to_string(),
        why,
    };
    let common = [gst::Object::static_type(), gst::Pad::static_type()];
    let mut specs = object.list_properties().to_vec();
    specs.retain(|spec| {
        spec.flags().contains(glib::ParamFlags::WRITABLE) && !common.contains(&spec.owner_type())
    });
    specs.sort_by_key(|spec| spec.name());
    for spec in specs {
        if !spec.flags().contains(glib::ParamFlags::READABLE) {
            return Err(refused(&spec, "can't be read"));
        }
        let value = object.property_value(spec.name());
        let text = text_of(&value).ok_or_else(|| refused(&spec, "has no text"))?;
        if let Some(outside) = Outside::of(&spec, &value) {
            return Err(refused(&spec, outside.text()));
        }
        hasher.text("property", spec.name());
        hasher.text("value", &text);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::key::Key;
    use super::*;
    use std::collections::BTreeMap;

    fn parsed(description: &str) -> gst::Element {
        gst::init().unwrap();
        gst::parse::bin_from_description(description, true)
            .unwrap()
            .upcast()
    }

    fn identity(encoder: &gst::Element) -> Result<Key, Unhashable> {
        let mut hasher = KeyHasher::default();
        encoder_identity(&mut hasher, encoder)?;
        Ok(hasher.finish())
    }

    /// Which property, and why.
    fn refused(description: &str) -> (String, &'static str) {
        match identity(&parsed(description)) {
            Err(Unhashable::Property { name, why, .. }) => (name, why),
            other => panic!("{description}: {other:?}"),
        }
    }

    /// All that can be made here: hardware may be missing.
    fn installed() -> Vec<gst::ElementFactory> {
        gst::init().unwrap();
        let kind = gst::ElementFactoryType::VIDEO_ENCODER;
        let factories = gst::ElementFactory::factories_with_type(kind, gst::Rank::NONE);
        let factories = factories.into_iter();
        factories
            .filter(|factory| factory.create().build().is_ok())
            .collect()
    }

    #[test]
    fn every_installed_encoder_is_the_same_when_made_again() {
        let mut keys = BTreeMap::new();
        let factories = installed();
        assert!(factories.len() >= 8, "{factories:?}");
        for factory in &factories {
            let [one, other] = [(); 2].map(|()| factory.create().build().unwrap());
            assert_ne!(one.name(), other.name());
            let one = identity(&one);
            assert_eq!(one, identity(&other), "{}", factory.name());
            let key = one.unwrap_or_else(|why| panic!("{why}"));
            let before = keys.insert(key.to_string(), factory.name());
            assert_eq!(before, None, "{}", factory.name());
        }
    }

    /// Another value of the property, as easy to come by.
    fn other_value(spec: &glib::ParamSpec, value: &glib::Value) -> Option<glib::Value> {
        let kind = value.type_();
        if kind.is_a(glib::ValueArray::static_type()) {
            return None;
        }
        if let Ok(value) = value.get::<bool>() {
            return Some((!value).to_value());
        }
        if let Some((class, value)) = glib::EnumValue::from_value(value) {
            let mut others = class.values().iter();
            return others
                .find(|other| *other != value)?
                .to_value(&class)
                .into();
        }
        let mut other = value.clone();
        for text in ["1", "2", "another"] {
            let text = glib::Value::deserialize(text, kind).ok()?;
            if spec.value_is_valid(&text) {
                other = text;
            }
            if text_of(&other) != text_of(value) {
                return Some(other);
            }
        }
        None
    }

    #[test]
    fn every_property_of_every_installed_encoder_counts() {
        let mut counted = 0;
        for factory in installed() {
            let default = identity(&factory.create().build().unwrap()).unwrap();
            for spec in factory.create().build().unwrap().list_properties() {
                let encoder = factory.create().build().unwrap();
                // (Of vp8enc's one says that it does nothing any more, in a warning.)
                let is_settable = spec.flags().contains(glib::ParamFlags::READWRITE)
                    && spec.name() != "arnr-type"
                    && !spec.flags().contains(glib::ParamFlags::CONSTRUCT_ONLY);
                let value = is_settable.then(|| encoder.property_value(spec.name()));
                let Some(value) = value.filter(|_| !["name", "parent"].contains(&spec.name()))
                else {
                    continue;
                };
                let Some(other) = other_value(&spec, &value) else {
                    continue;
                };
                encoder.set_property_from_value(spec.name(), &other);
                if text_of(&encoder.property_value(spec.name())) == text_of(&value) {
                    continue;
                }
                assert_ne!(
                    identity(&encoder),
                    Ok(default),
                    "{}: {}",
                    factory.name(),
                    spec.name()
                );
                counted += 1;
            }
        }
        assert!(counted > 200, "{counted}");
    }

    #[test]
    fn how_elements_of_a_bin_are_set_ordered_and_linked_counts() {
        let key = |description: &str| identity(&parsed(description)).unwrap();
        let one = "videoscale ! videoconvert ! jpegenc quality=80 ! identity";
        assert_eq!(key(one), key(one));
        let others = [
            "videoscale ! videoconvert ! jpegenc quality=81 ! identity",
            "videoconvert ! videoscale ! jpegenc quality=80 ! identity",
            "videoscale ! videoconvert ! jpegenc quality=80",
            "videoscale ! videoconvert ! jpegenc quality=80 ! identity sync=true",
            "videoscale ! videoconvert ! jpegenc quality=80 ! identity ! capsfilter caps=image/jpeg,width=9",
        ];
        assert!(others.iter().all(|other| key(other) != key(one)));
        // In the same order, and linked otherwise.
        let linked = "videoscale name=a videoconvert name=b jpegenc name=c";
        let [one, other] =
            ["a. ! b. b. ! c.", "b. ! a. a. ! c."].map(|links| key(&format!("{linked} {links}")));
        assert_ne!(one, other);
        // Bins in bins have pads with counted names.
        let nested = "videoconvert ! ( videoscale ! jpegenc )";
        assert_eq!(key(nested), key(nested));
        assert_ne!(
            key(nested),
            key("videoconvert ! ( videoscale ! jpegenc quality=9 )")
        );
    }

    #[test]
    fn several_passes_and_files_are_refused() {
        for (description, property) in [
            ("x264enc pass=pass1", "pass"),
            ("x264enc pass=pass3", "pass"),
            ("vp8enc multipass-mode=first-pass", "multipass-mode"),
            ("vp9enc multipass-mode=last-pass", "multipass-mode"),
            ("theoraenc multipass-mode=second-pass", "multipass-mode"),
            ("av1enc enc-pass=second-pass", "enc-pass"),
            ("avenc_mpeg4 pass=pass2", "pass"),
        ] {
            let factory = description.split(' ').next().unwrap();
            gst::init().unwrap();
            if gst::ElementFactory::find(factory).is_none() {
                continue;
            }
            let (name, why) = refused(description);
            assert_eq!(
                (name.as_str(), why),
                (property, "says that there are several passes")
            );
        }
        for options in [
            "pass=2",
            "ref=2:stats=x.log",
            "bframes=1:qpfile=here",
            "cqm=a/b",
        ] {
            let (name, _) = refused(&format!("x264enc option-string={options}"));
            assert_eq!(name, "option-string");
        }
        let (name, why) = refused("jpegenc ! filesink location=here");
        assert_eq!((name.as_str(), why), ("location", "names a file"));
        for fine in [
            "x264enc pass=qual",
            "x264enc option-string=ref=2:bframes=1",
            "x264enc multipass-cache-file=here",
        ] {
            assert!(identity(&parsed(fine)).is_ok(), "{fine}");
        }
    }

    #[test]
    fn an_object_has_no_text() {
        gst::init().unwrap();
        let make = |factory| gst::ElementFactory::make(factory).build().unwrap();
        let sink = make("splitmuxsink");
        assert!(identity(&sink).is_ok());
        sink.set_property("muxer", make("matroskamux"));
        let refused = identity(&sink).unwrap_err().to_string();
        assert_eq!(refused, "property muxer of splitmuxsink has no text");
    }
}
