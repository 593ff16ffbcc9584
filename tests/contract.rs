// SPDX-License-Identifier: MPL-2.0

//! What others build on (elements, pads, properties, signals, messages and their fields) is that of docs/contract.txt. What changes there
//! belongs into CHANGELOG.md. `VT_BLESS=1 cargo test --test contract` writes the file anew.

mod common;

use common::{constant, feed, init, scripted_pipeline};
use gst::glib;
use gst::prelude::*;
use std::collections::BTreeSet;
use std::fmt::Write;

/// Type, range and default of a property.
fn described(spec: &glib::ParamSpec) -> String {
    let mut text = format!("{}: {}", spec.name(), spec.value_type());
    macro_rules! range {
        ($($kind:ty),*) => {
            $(if let Some(spec) = spec.downcast_ref::<$kind>() {
                write!(text, ", {:?} to {:?}", spec.minimum(), spec.maximum()).unwrap();
            })*
        };
    }
    range!(
        glib::ParamSpecUInt,
        glib::ParamSpecInt,
        glib::ParamSpecUInt64,
        glib::ParamSpecDouble
    );
    if let Some(spec) = spec.downcast_ref::<glib::ParamSpecEnum>() {
        let class = spec.enum_class();
        let nicks: Vec<_> = class.values().iter().map(|it| it.nick()).collect();
        write!(text, ", one of {}", nicks.join(", ")).unwrap();
    }
    let flags = spec.flags();
    if !flags.contains(glib::ParamFlags::WRITABLE) {
        text.push_str(", read only");
    } else {
        let default = spec.default_value();
        // (There is no text of a structure that isn't there.)
        let is_text = !spec.is::<glib::ParamSpecBoxed>();
        let default = is_text.then(|| default.serialize().ok()).flatten();
        let default = default.map_or_else(|| "none".to_string(), |it| it.to_string());
        write!(text, ", default {default}").unwrap();
    }
    if flags.contains(gst::PARAM_FLAG_MUTABLE_READY) {
        text.push_str(", may be set up to READY");
    }
    text
}

fn elements(text: &mut String) {
    let registry = gst::Registry::get();
    let mut factories: Vec<_> = registry
        .features_by_plugin("vtparallelenc")
        .into_iter()
        .collect();
    factories.sort_by_key(|feature| feature.name());
    for feature in factories {
        let factory = feature.downcast::<gst::ElementFactory>().unwrap();
        writeln!(
            text,
            "element {}, rank {}",
            factory.name(),
            i32::from(factory.rank())
        )
        .unwrap();
        for template in factory.static_pad_templates() {
            let caps = template.caps();
            let formats: BTreeSet<_> = caps.iter().map(|it| it.name().to_string()).collect();
            let formats: Vec<_> = formats.into_iter().collect();
            let formats = match caps.is_any() {
                true => "anything".to_string(),
                false => formats.join(", "),
            };
            let presence = template.presence();
            let name = template.name_template();
            writeln!(text, "  pad {name}, {presence:?}: {formats}").unwrap();
        }
    }
    let enc = gst::ElementFactory::make("vtparallelenc").build().unwrap();
    let own = enc.type_();
    let bin = gst::Bin::static_type();
    let mut specs: Vec<_> = enc.list_properties().iter().cloned().collect();
    specs.retain(|spec| spec.owner_type() == own || !bin.is_a(spec.owner_type()));
    specs.sort_by_key(|spec| spec.name().to_string());
    for spec in specs {
        writeln!(text, "property {}", described(&spec)).unwrap();
    }
    let signal = glib::subclass::signal::SignalId::lookup("encoder-setup", own);
    let query = signal.unwrap().query();
    let types = query.param_types().iter().map(|it| it.type_().name());
    let types: Vec<_> = types.collect();
    writeln!(text, "signal {}({})", query.signal_name(), types.join(", ")).unwrap();
}

/// Fields of structures, by their names, as some streams make them.
fn structures(text: &mut String) {
    let mut fields: BTreeSet<String> = BTreeSet::new();
    let mut add = |structure: &gst::StructureRef| {
        for (field, value) in structure {
            let name = structure.name();
            if !name.starts_with("vtparallelenc-") {
                // Somebody else's, who may say it or not.
                continue;
            }
            fields.insert(format!("{name}: {field}, {}", value.type_()));
            if let Ok(inner) = value.get::<gst::Array>() {
                for it in inner
                    .iter()
                    .filter_map(|it| it.get::<gst::Structure>().ok())
                {
                    for (of, value) in it.iter() {
                        fields.insert(format!("{name}: {field}, {of}, {}", value.type_()));
                    }
                }
            }
        }
    };
    for properties in [
        "encoder=scriptedenc sessions=2 chunk-frames=20 source-frame-count=60",
        "encoder=\"scriptedenc fail-at=5 fail-times=1 failure=contract\" sessions=8 chunk-frames=20 max-raw-bytes=10240",
        "encoder=scriptedenc allow-parallel=false",
        "encoder=\"scriptedenc fail-at=5 failure=contract-always\" sessions=1 chunk-frames=20 max-attempts=1",
    ] {
        let pipeline = scripted_pipeline(&format!("vtparallelenc name=enc {properties}"));
        let told = pipeline.said(|message| match message.view() {
            gst::MessageView::Warning(it) => it.details().map(ToOwned::to_owned),
            gst::MessageView::Error(it) => it.details().map(ToOwned::to_owned),
            gst::MessageView::Element(it) => it.structure().map(ToOwned::to_owned),
            _ => None,
        });
        feed(&pipeline, &constant(60));
        let _ = pipeline.run();
        let stats = pipeline.stats();
        pipeline.set_state(gst::State::Null).unwrap();
        add(&stats);
        for structure in told.lock().unwrap().iter() {
            add(structure);
        }
    }
    for field in fields {
        writeln!(text, "structure {field}").unwrap();
    }
}

#[test]
fn it_is_what_was_agreed() {
    init();
    let mut text = String::new();
    elements(&mut text);
    structures(&mut text);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/contract.txt");
    if std::env::var_os("VT_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let agreed = std::fs::read_to_string(&path).unwrap_or_default();
    let (is, was): (BTreeSet<_>, BTreeSet<_>) = (text.lines().collect(), agreed.lines().collect());
    let new: Vec<_> = is.difference(&was).collect();
    let gone: Vec<_> = was.difference(&is).collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "new: {new:#?}\ngone: {gone:#?}\nIf that is meant: VT_BLESS=1 cargo test --test contract, and a line in CHANGELOG.md"
    );
}
