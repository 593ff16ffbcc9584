// SPDX-License-Identifier: MPL-2.0

//! Which encoder, with which properties.

mod common;

use common::scripted::Gate;
use common::{Pipeline, app_src, constant, feed, init, record, scripted_pipeline, until};
use gst::prelude::*;
use std::sync::{Arc, Mutex};

const PICTURES: &str =
    "videotestsrc num-buffers=30 ! video/x-raw,width=128,height=96,framerate=25/1";

fn chosen(description: &str) -> (Option<String>, common::End) {
    let pipeline = Pipeline::parse(description);
    let end = pipeline.run();
    (pipeline.element("enc").property("active-encoder"), end)
}

#[test]
fn the_encoder_is_chosen_by_what_downstream_accepts() {
    for (rest, expected) in [
        ("video/x-h265 ! fakesink", "x265enc"),
        ("video/x-h264 ! fakesink", "x264enc"),
        ("video/x-vp9 ! webmmux ! fakesink", "vp9enc"),
        // What the muxer names first among equals.
        ("webmmux ! fakesink", "vp8enc"),
        ("oggmux ! fakesink", "theoraenc"),
        ("image/jpeg ! fakesink", "jpegenc"),
    ] {
        let (encoder, end) = chosen(&format!(
            "{PICTURES} ! vtparallelenc name=enc chunk-frames=10 sessions=2 ! {rest}"
        ));
        end.expect_eos();
        assert_eq!(encoder.as_deref(), Some(expected), "{rest}");
    }
}

#[test]
fn an_element_of_one_format_needs_no_downstream_to_say_which() {
    for (element, expected) in [
        ("vtparallelh264enc", "x264enc"),
        ("vtparallelvp9enc", "vp9enc"),
        ("vtparalleltheoraenc", "theoraenc"),
        ("vtparalleljpeg2000enc", "openjpegenc"),
        ("vtparallelh264enc encoder=openh264enc", "openh264enc"),
    ] {
        let (encoder, end) = chosen(&format!(
            "{PICTURES} ! {element} name=enc chunk-frames=10 sessions=2 ! fakesink"
        ));
        end.expect_eos();
        assert_eq!(encoder.as_deref(), Some(expected), "{element}");
    }
}

#[test]
fn an_encoder_of_another_format_is_refused() {
    let (_, end) = chosen(&format!(
        "{PICTURES} ! vtparallelh264enc name=enc encoder=vp8enc ! fakesink"
    ));
    let error = end.error();
    assert!(
        error.contains("'vp8enc' does not make video/x-h264"),
        "{error}"
    );
}

#[test]
fn a_missing_encoder_is_asked_for() {
    init();
    // Nobody has an encoder for it.
    let pipeline = Pipeline::parse(&format!(
        "{PICTURES} ! vtparallelenc name=enc ! video/x-svq,svqversion=(int)3 ! fakesink"
    ));
    let missing = Arc::new(Mutex::new(Vec::new()));
    let kept = missing.clone();
    pipeline.bus().unwrap().set_sync_handler(move |_, message| {
        if let gst::MessageView::Element(element) = message.view()
            && let Some(structure) = element
                .structure()
                .filter(|it| it.name() == "missing-plugin")
        {
            kept.lock().unwrap().push(structure.to_owned());
        }
        gst::BusSyncReply::Pass
    });
    let error = pipeline.run().error();
    assert!(error.contains("video/x-svq"), "{error}");
    let missing = missing.lock().unwrap();
    assert_eq!(missing.len(), 1);
    assert_eq!(missing[0].get::<&str>("type").unwrap(), "encoder");
    assert_eq!(
        missing[0].get::<gst::Caps>("detail").unwrap().to_string(),
        "video/x-svq"
    );
}

#[test]
fn properties_of_the_encoder_are_set_as_on_gst_launchs_command_line() {
    // The encoder is known from the description, or only once downstream has been asked.
    for encoder in ["encoder=x264enc", ""] {
        let pipeline = Pipeline::parse(&format!(
            "{PICTURES} ! vtparallelenc name=enc {encoder} chunk-frames=10 sessions=2 encoder::bitrate=333 \
             encoder::speed-preset=ultrafast ! video/x-h264 ! fakesink"
        ));
        let enc = pipeline.element("enc");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        enc.connect("encoder-setup", false, move |values| {
            let encoder = values[1].get::<gst::Element>().unwrap();
            let preset = encoder.property_value("speed-preset").serialize().unwrap();
            let of = (encoder.property::<u32>("bitrate"), preset.to_string());
            kept.lock().unwrap().push(of);
            None
        });
        pipeline.run().expect_eos();
        let seen = seen.lock().unwrap();
        // Three chunks, of which the first may get the encoder that was placed before.
        assert!(seen.len() >= 3, "{seen:?}");
        assert!(
            seen.iter()
                .all(|seen| *seen == (333, "ultrafast".to_string())),
            "{seen:?}"
        );
        let child = enc.dynamic_cast_ref::<gst::ChildProxy>().unwrap();
        assert_eq!(child.children_count(), 1);
        assert_eq!(child.child_property::<u32>("encoder::bitrate"), 333);
    }
}

#[test]
fn a_structure_sets_properties_of_any_kind() {
    let pipeline = Pipeline::parse(&format!(
        "{PICTURES} ! vtparallelh264enc name=enc sessions=1 \
         encoder-properties=\"any,bitrate=444,speed-preset=ultrafast,option-string=(string)no-mbtree,vbv-buf-capacity=700\" ! \
         fakesink"
    ));
    let enc = pipeline.element("enc");
    let seen = Arc::new(Mutex::new(None));
    let kept = seen.clone();
    enc.connect("encoder-setup", false, move |values| {
        *kept.lock().unwrap() = Some(values[1].get::<gst::Element>().unwrap());
        None
    });
    pipeline.run().expect_eos();
    let x264 = seen.lock().unwrap().clone().unwrap();
    assert_eq!(x264.property::<u32>("bitrate"), 444);
    assert_eq!(x264.property::<u32>("vbv-buf-capacity"), 700);
    assert!(
        x264.property::<String>("option-string")
            .contains("no-mbtree")
    );

    for (field, reason) in [
        ("bitrat=3", "there is no such property"),
        ("speed-preset=warp", "of another type or unknown"),
        ("bitrate=(uint)3000000000", "out of range"),
        ("parent=3", "of another type or unknown"),
        ("name=5", "NONE"),
    ] {
        let (_, end) = chosen(&format!(
            "{PICTURES} ! vtparallelh264enc name=enc encoder-properties=\"any,{field}\" ! fakesink"
        ));
        match end {
            common::End::Eos => assert_eq!(reason, "NONE"),
            end => {
                let error = end.error();
                let name = field.split('=').next().unwrap();
                assert!(error.contains(reason) && error.contains(name), "{error}");
            }
        }
    }
}

/// Encodes `frames` frames and sets `encoder::bitrate` while the encoder has frame 3. Checks for each packet whether
/// it was made with the new bitrate.
fn assert_set_in_mid_stream(
    gate: &str,
    properties: &str,
    frames: u64,
    is_new: impl Fn(u64) -> bool,
) {
    let pipeline = scripted_pipeline(&format!(
        "vtparallelenc name=enc encoder=\"scriptedenc gate={gate}\" {properties}"
    ));
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    feed(&pipeline, &constant(frames));
    let gate = Gate::named(gate);
    gate.let_pass(3);
    pipeline.set_state(gst::State::Playing).unwrap();
    while gate.wait_for(1) != [3] {
        std::thread::yield_now();
    }
    let enc = pipeline.element("enc");
    let child = enc.dynamic_cast_ref::<gst::ChildProxy>().unwrap();
    child.set_child_property("encoder::bitrate", 7u32);
    gate.open();
    pipeline.end().expect_eos();
    let output = output.lock().unwrap();
    assert_eq!(output.packets.len() as u64, frames);
    for packet in &output.packets {
        let text = String::from_utf8(packet.bytes.clone()).unwrap();
        assert_eq!(text.ends_with(" at 7"), is_new(packet.frame()), "{text}");
    }
}

#[test]
fn a_property_set_in_mid_stream_holds_from_the_next_chunk_on() {
    let properties = "sessions=1 chunk-frames=10";
    assert_set_in_mid_stream("rates", properties, 30, |frame| frame >= 10);
}

#[test]
fn a_property_set_in_mid_stream_reaches_the_one_encoder_of_a_stream_without_chunks() {
    // Frame 3 had read its script before.
    assert_set_in_mid_stream("one-rate", "allow-parallel=false", 9, |frame| frame > 3);
}

#[test]
fn properties_set_in_ready_hold_for_the_first_chunk_and_the_plan() {
    let pipeline = Pipeline::parse(&format!(
        "{PICTURES} ! vtparallelenc name=enc encoder=x264enc sessions=2 chunk-frames=10 ! fakesink"
    ));
    let enc = pipeline.element("enc");
    pipeline.set_state(gst::State::Ready).unwrap();
    let child = enc.dynamic_cast_ref::<gst::ChildProxy>().unwrap();
    child.set_child_property("encoder::bitrate", 222u32);
    child
        .child_by_name("encoder")
        .unwrap()
        .set_property_from_str("pass", "quant");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    enc.connect("encoder-setup", false, move |values| {
        let encoder = values[1].get::<gst::Element>().unwrap();
        kept.lock()
            .unwrap()
            .push(encoder.property::<u32>("bitrate"));
        None
    });
    pipeline.run().expect_eos();
    let seen = seen.lock().unwrap();
    // The first chunk's encoder too is made anew.
    assert!(
        seen.len() >= 3 && seen.iter().all(|&rate| rate == 222),
        "{seen:?}"
    );
    // The quantizer is constant now.
    let stats = pipeline.stats();
    assert_eq!(stats.get::<u64>("overlap-before").unwrap(), 0, "{stats}");
}

#[test]
fn raw_video_in_any_memory_reaches_the_encoder_as_it_is() {
    init();
    let caps = |features: &str| {
        gst::Caps::builder("video/x-raw")
            .features([features])
            .field("format", "GRAY8")
            .field("width", 16)
            .field("height", 16)
            .field("framerate", gst::Fraction::new(25, 1))
            .build()
    };
    for parallel in [true, false] {
        let pipeline = scripted_pipeline(&format!(
            "vtparallelenc name=enc encoder=scriptedenc sessions=2 chunk-frames=10 allow-parallel={parallel}"
        ));
        let enc = pipeline.element("enc");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        enc.connect("encoder-setup", false, move |values| {
            let encoder = values[1].get::<gst::Element>().unwrap();
            kept.lock().unwrap().push(encoder.clone());
            None
        });
        let src = app_src(&pipeline);
        let gpu = caps("memory:VtTest");
        src.set_caps(Some(&gpu));
        let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
        pipeline.set_state(gst::State::Ready).unwrap();
        // What the encoder takes is offered, and no more.
        let accepted = enc.static_pad("sink").unwrap().query_caps(None);
        assert!(accepted.can_intersect(&gpu), "{accepted}");
        assert!(!accepted.can_intersect(&caps("memory:Other")), "{accepted}");
        let encoder_caps = Arc::new(Mutex::new(Vec::new()));
        let kept = encoder_caps.clone();
        enc.connect("encoder-setup", false, move |values| {
            let encoder = values[1].get::<gst::Element>().unwrap();
            let kept = kept.clone();
            let mask = gst::PadProbeType::EVENT_DOWNSTREAM;
            encoder
                .static_pad("sink")
                .unwrap()
                .add_probe(mask, move |_, info| {
                    if let Some(gst::EventView::Caps(caps)) = info.event().map(|event| event.view())
                    {
                        kept.lock().unwrap().push(caps.caps_owned());
                    }
                    gst::PadProbeReturn::Ok
                });
            None
        });
        feed(&pipeline, &constant(30));
        pipeline.run().expect_eos();
        assert_eq!(output.lock().unwrap().packets.len(), 30);
        let encoder_caps = encoder_caps.lock().unwrap();
        assert!(
            encoder_caps.iter().all(|caps| *caps == gpu),
            "{encoder_caps:?}"
        );
    }
}

#[test]
fn sessions_that_cannot_be_opened_are_closed_and_the_others_go_on() {
    for late in [false, true] {
        for (limit, sessions) in [(1, 2), (1, 4), (2, 8), (3, 4)] {
            let pipeline = scripted_pipeline(&format!(
                "vtparallelenc name=enc encoder=\"scriptedenc max-open={limit} opens-late={late} \
                 failure=limit{late}{limit}of{sessions}\" sessions={sessions} chunk-frames=5 min-chunk-frames=2"
            ));
            let warnings = pipeline.warnings();
            let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
            feed(&pipeline, &constant(100));
            pipeline.run().expect_eos();
            let numbers: Vec<u64> = output.lock().unwrap().frames();
            assert_eq!(numbers, (0..100).collect::<Vec<_>>());
            let stats = pipeline.stats();
            let open: u64 = stats.get("sessions-open").unwrap();
            assert!((1..=sessions).contains(&open), "{stats}");
            // Each closed session is said, once. (The last one perhaps only when the end has left.)
            let closed = |text: &&String| {
                text.contains("could not open an encoder") || text.contains("is closed")
            };
            let said = || warnings.lock().unwrap().iter().filter(closed).count() as u64;
            until("each closed session is said", || said() >= sessions - open);
            assert_eq!(said(), sessions - open);
        }
    }
}

#[test]
fn a_start_that_was_stopped_before_the_first_caps_is_forgotten() {
    let pipeline =
        scripted_pipeline("vtparallelenc name=enc encoder=scriptedenc sessions=2 chunk-frames=10");
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    let enc = pipeline.element("enc");
    enc.set_locked_state(true);
    enc.set_state(gst::State::Paused).unwrap();
    enc.set_state(gst::State::Ready).unwrap();
    enc.set_locked_state(false);
    feed(&pipeline, &constant(30));
    pipeline.run().expect_eos();
    assert_eq!(output.lock().unwrap().packets.len(), 30);
}

#[test]
fn a_start_without_an_encoder_is_forgotten_too() {
    let pipeline = Pipeline::parse(&format!("{PICTURES} ! vtparallelenc name=enc ! fakesink"));
    assert!(pipeline.run().error().contains("encoder=x264enc"));
    for encoder in [Some("jpegenc"), None] {
        // After an error, a pipeline may say that even this failed.
        let _ = pipeline.set_state(gst::State::Ready);
        // What the last run still had to say.
        let bus = pipeline.bus().unwrap();
        bus.set_flushing(true);
        bus.set_flushing(false);
        pipeline.element("enc").set_property("encoder", encoder);
        match encoder {
            Some(_) => pipeline.run().expect_eos(),
            None => assert!(pipeline.run().error().contains("encoder=x264enc")),
        }
    }
}

#[test]
fn what_was_set_on_a_chosen_encoder_holds_for_the_next_run() {
    let pipeline = Pipeline::parse(&format!(
        "{PICTURES} ! vtparallelh264enc name=enc chunk-frames=10 sessions=2 encoder::bitrate=321 ! fakesink"
    ));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    pipeline
        .element("enc")
        .connect("encoder-setup", false, move |values| {
            let encoder = values[1].get::<gst::Element>().unwrap();
            kept.lock()
                .unwrap()
                .push(encoder.property::<u32>("bitrate"));
            None
        });
    for _ in 0..2 {
        pipeline.run().expect_eos();
        pipeline.set_state(gst::State::Ready).unwrap();
    }
    let seen = seen.lock().unwrap();
    assert!(
        seen.len() >= 6 && seen.iter().all(|&rate| rate == 321),
        "{seen:?}"
    );
}

#[test]
fn video_that_no_encoder_takes_is_named() {
    let (_, end) = chosen(
        "videotestsrc num-buffers=3 ! video/x-raw,format=RGB,width=64,height=64 ! vtparallelenc name=enc ! video/x-vp8 ! fakesink",
    );
    let error = end.error();
    // Upstream may see it before we do.
    assert!(
        error.contains("takes the video") || error.contains("not-negotiated"),
        "{error}"
    );
}
