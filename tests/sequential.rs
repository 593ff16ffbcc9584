// SPDX-License-Identifier: MPL-2.0

//! Without chunks it is the plain encoder, byte for byte, timestamps and events included.

mod common;

use common::pictures::{clip, encode, pipeline, synthetic};
use common::{Output, constant, encode_times, record};
use gst::prelude::*;

fn assert_plain(plain: &Output, ours: &Output, what: &str) {
    assert_eq!(plain.packets.len(), ours.packets.len(), "{what}");
    for (plain, ours) in plain.packets.iter().zip(&ours.packets) {
        assert!(plain == ours, "{what}: {ours:?} is not {plain:?}");
    }
    assert_eq!(plain.event_types(), ours.event_types(), "{what}");
    for (plain, ours) in plain.events.iter().zip(&ours.events) {
        // Stream ids are made from element names, which differ; the rest is equal.
        if plain.type_() != gst::EventType::StreamStart {
            assert_eq!(
                plain.structure().map(|structure| structure.to_string()),
                ours.structure().map(|structure| structure.to_string()),
                "{what}"
            );
        }
    }
}

#[test]
fn real_encoders_give_what_they_give_alone() {
    for pictures in [Some(synthetic(60)), clip(60)].into_iter().flatten() {
        for encoder in [
            // (Its macroblock tree doesn't give the same twice, alone as well: see identity.rs.)
            "x264enc threads=1 speed-preset=veryfast option-string=no-mbtree=1",
            "x264enc threads=1 tune=zerolatency",
            "vp9enc target-bitrate=500000 cpu-used=8",
            "theoraenc",
            "jpegenc",
        ] {
            let plain = encode(&pictures, encoder);
            for alone in ["allow-parallel=false sessions=4", "sessions=1"] {
                let ours = encode(
                    &pictures,
                    &format!("vtparallelenc encoder=\"{encoder}\" {alone}"),
                );
                assert_plain(&plain, &ours, &format!("{encoder} {alone}"));
            }
        }
    }
}

/// All sessions would write one file, and each pass is over the whole film.
#[test]
fn several_passes_are_those_of_one_encoder() {
    let dir = tempfile::tempdir().unwrap();
    let pictures = synthetic(60);
    let passes = |name: &str, around: &dyn Fn(String) -> String| {
        let file = dir.path().join(name);
        let pass = |number: u32| {
            let encoder = format!(
                "x264enc threads=1 speed-preset=veryfast bitrate=300 option-string=no-mbtree=1 pass=pass{number} multipass-cache-file={}",
                file.display()
            );
            encode(&pictures, &around(encoder))
        };
        let first = pass(1);
        let kept = std::fs::read(&file).unwrap();
        (first, kept, pass(2))
    };
    let plain = passes("plain", &|encoder| encoder);
    let ours = passes("ours", &|encoder| {
        format!("vtparallelenc encoder=\"{encoder}\" sessions=2 chunk-frames=20")
    });
    assert_plain(&plain.0, &ours.0, "first pass");
    assert_eq!(plain.1, ours.1);
    assert_plain(&plain.2, &ours.2, "second pass");
}

#[test]
fn the_reason_is_reported() {
    let reason = |properties: &str| {
        let (end, output, stats) = encode_times(
            &format!("vtparallelenc name=enc encoder=scriptedenc {properties}"),
            &constant(30),
        );
        end.expect_eos();
        assert_eq!(output.packets.len(), 30);
        let stats = stats.unwrap();
        assert!(!stats.get::<bool>("parallel").unwrap());
        assert_eq!(stats.get::<u64>("frames-out").unwrap(), 30);
        stats.get::<String>("sequential-reason").unwrap()
    };
    assert!(reason("allow-parallel=false").contains("allow-parallel"));
    assert!(reason("sessions=1").contains("one session"));
}

#[test]
fn a_live_source_is_not_delayed_by_chunks() {
    let pipeline = common::Pipeline::parse(
        "videotestsrc is-live=true num-buffers=5 ! video/x-raw,format=GRAY8,width=16,height=16,framerate=100/1 ! \
         vtparallelenc name=enc encoder=scriptedenc sessions=2 ! fakesink",
    );
    pipeline.run().expect_eos();
    let reason: String = pipeline.stats().get("sequential-reason").unwrap();
    assert!(reason.contains("live"), "{reason}");
}

/// What leaves, and why it wasn't encoded in chunks, if it wasn't.
fn encode_saying_why(pictures: &[Vec<u8>], encoder: &str) -> (Output, Option<String>) {
    let pipeline = pipeline(pictures, encoder, "fakesink name=sink sync=false");
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    pipeline.run().expect_eos();
    let reason = pipeline.stats().get("sequential-reason").ok();
    pipeline.set_state(gst::State::Null).unwrap();
    let output = output.lock().unwrap().clone();
    (output, reason)
}

const CHUNKS: &str = "vtparallelenc name=enc sessions=2 chunk-frames=20";

#[test]
fn packets_that_are_parts_of_frames_come_from_one_encoder() {
    let pictures = synthetic(50);
    const X264: &str = "x264enc threads=1 tune=zerolatency";
    const X265: &str = "x265enc speed-preset=ultrafast option-string=pools=none:frame-threads=1";
    const AV1: &str = "av1enc cpu-used=8 threads=1 lag-in-frames=20 target-bitrate=1500";
    for (encoder, parser, caps) in [
        (X264, "h264parse", "video/x-h264,alignment=nal"),
        (
            X264,
            "h264parse",
            "video/x-h264,stream-format=byte-stream,alignment=nal",
        ),
        (X265, "h265parse", "video/x-h265,alignment=nal"),
        (AV1, "av1parse", "video/x-av1,alignment=obu"),
        (AV1, "av1parse", "video/x-av1,alignment=frame"),
    ] {
        let plain = encode(&pictures, &format!("{encoder} ! {parser} ! {caps}"));
        assert!(plain.packets.len() > pictures.len(), "{caps}");
        // The chain says so, or what comes after it wants it so.
        for ours in [
            format!("{CHUNKS} encoder=\"{encoder} ! {parser} ! capsfilter caps={caps}\""),
            format!("{CHUNKS} encoder=\"{encoder} ! {parser}\" ! {caps}"),
        ] {
            let (output, reason) = encode_saying_why(&pictures, &ours);
            let reason = reason.expect(&ours);
            assert!(reason.contains("parts of frames"), "{reason}");
            assert_eq!(output.packets, plain.packets, "{ours}");
        }
    }
}

#[test]
fn packets_that_are_whole_frames_are_encoded_in_chunks() {
    let pictures = synthetic(50);
    for (encoder, caps) in [
        ("x264enc threads=1 ! h264parse", "video/x-h264"),
        ("x264enc threads=1 ! h264parse", "video/x-h264,alignment=au"),
        ("av1enc cpu-used=8 ! av1parse", "video/x-av1"),
        ("vp9enc cpu-used=8 deadline=1 ! vp9parse", "video/x-vp9"),
        ("jpegenc ! jpegparse", "image/jpeg"),
    ] {
        let ours = format!("{CHUNKS} encoder=\"{encoder}\" ! {caps}");
        let (output, reason) = encode_saying_why(&pictures, &ours);
        assert_eq!(reason, None, "{ours}");
        assert_eq!(output.packets.len(), pictures.len(), "{ours}");
    }
}

#[test]
fn an_encoder_whose_caps_say_too_late_that_it_makes_parts_is_refused() {
    let ours = format!("{CHUNKS} encoder=\"scriptedenc alignment=nal\"");
    let (end, _, stats) = encode_times(&ours, &constant(50));
    let error = end.error();
    for part in ["alignment=nal", "alignment=au", "allow-parallel=false"] {
        assert!(error.contains(part), "{error}");
    }
    let failed = stats.unwrap().get::<u64>("attempts-failed");
    assert_eq!(failed, Ok(0), "another attempt would be the same");
    for fine in ["au", "tu"] {
        let ours = format!("{CHUNKS} encoder=\"scriptedenc alignment={fine}\"");
        encode_times(&ours, &constant(50)).0.expect_eos();
    }
}
