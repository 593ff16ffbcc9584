// SPDX-License-Identifier: MPL-2.0

//! GstPreset keeps the element's own properties, and only those.

mod common;

use gst::prelude::*;
use gst_pbutils::prelude::*;

#[test]
fn a_preset_keeps_what_was_set() {
    // (Where GStreamer keeps presets.)
    let home = tempfile::tempdir().unwrap();
    // SAFETY: this file's only test; GStreamer isn't initialized yet.
    unsafe { std::env::set_var("XDG_DATA_HOME", home.path()) };
    common::init();
    for (factory, encoder) in [
        ("vtparallelenc", "x264enc"),
        ("vtparallelh264enc", "x264enc"),
    ] {
        let make = || gst::ElementFactory::make(factory).build().unwrap();
        let saved = make();
        saved.set_property("encoder", encoder);
        saved.set_property("sessions", 3u32);
        saved.set_property("overlap-before", 7i32);
        saved.set_property("max-raw-bytes", 123_456_789u64);
        saved.set_property("allow-parallel-live", true);
        let properties = gst::Structure::builder("p")
            .field("bitrate", 1234u32)
            .build();
        saved.set_property("encoder-properties", &properties);
        let preset = saved.dynamic_cast_ref::<gst::Preset>().unwrap();
        let names = preset.property_names();
        assert!(names.iter().any(|name| name == "chunk-frames"), "{names:?}");
        for other in [
            "name",
            "message-forward",
            "async-handling",
            "stats",
            "active-encoder",
        ] {
            assert!(!names.iter().any(|name| name == other), "{other}");
        }
        assert!(!names.iter().any(|name| name.contains("::")), "{names:?}");
        preset.save_preset("mine").unwrap();

        let loaded = make();
        let preset = loaded.dynamic_cast_ref::<gst::Preset>().unwrap();
        assert!(preset.preset_names().iter().any(|name| name == "mine"));
        preset.load_preset("mine").unwrap();
        assert_eq!(
            loaded.property::<Option<String>>("encoder").as_deref(),
            Some(encoder)
        );
        assert_eq!(loaded.property::<u32>("sessions"), 3);
        assert_eq!(loaded.property::<i32>("overlap-before"), 7);
        assert_eq!(loaded.property::<u64>("max-raw-bytes"), 123_456_789);
        assert!(loaded.property::<bool>("allow-parallel-live"));
        let properties: gst::Structure = loaded.property("encoder-properties");
        assert_eq!(properties.get::<u32>("bitrate"), Ok(1234));
        let proxy = loaded.dynamic_cast_ref::<gst::ChildProxy>().unwrap();
        assert_eq!(proxy.child_property::<u32>("encoder::bitrate"), 1234);

        // One that leaves the encoder open takes away what was set, and what an older one of its name said.
        let open = make();
        open.set_property("sessions", 5u32);
        open.dynamic_cast_ref::<gst::Preset>()
            .unwrap()
            .save_preset("mine")
            .unwrap();
        preset.load_preset("mine").unwrap();
        assert_eq!(loaded.property::<Option<String>>("encoder"), None);
        assert_eq!(
            loaded.property::<Option<gst::Structure>>("encoder-properties"),
            None
        );
        assert_eq!(loaded.property::<u32>("sessions"), 5);
        preset.delete_preset("mine").unwrap();
    }
    assert_encodebin_loads_presets();
}

/// A preset that an encoding profile names reaches the encoder.
fn assert_encodebin_loads_presets() {
    let enc = gst::ElementFactory::make("vtparallelh264enc")
        .build()
        .unwrap();
    enc.set_property("encoder", "x264enc speed-preset=ultrafast");
    enc.set_property("sessions", 3u32);
    let properties = gst::Structure::builder("p")
        .field("bitrate", 1234u32)
        .build();
    enc.set_property("encoder-properties", &properties);
    let preset = enc.dynamic_cast_ref::<gst::Preset>().unwrap();
    preset.save_preset("of-a-profile").unwrap();
    let profile =
        gst_pbutils::EncodingVideoProfile::builder(&gst::Caps::builder("video/x-h264").build())
            .preset("of-a-profile")
            .preset_name("vtparallelh264enc")
            .build();
    let pipeline = common::Pipeline::parse(
        "videotestsrc name=from num-buffers=60 encodebin name=bin ! fakesink",
    );
    let bin: gst::Bin = pipeline.element("bin").downcast().unwrap();
    bin.set_property("profile", &profile);
    pipeline.element("from").link(&bin).unwrap();
    pipeline.run().expect_eos();
    let encoders = bin.iterate_all_by_element_factory_name("vtparallelh264enc");
    let loaded = encoders.into_iter().next().unwrap().unwrap();
    assert_eq!(loaded.property::<u32>("sessions"), 3);
    let proxy = loaded.dynamic_cast_ref::<gst::ChildProxy>().unwrap();
    assert_eq!(proxy.child_property::<u32>("encoder::bitrate"), 1234);
}
