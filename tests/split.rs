// SPDX-License-Identifier: MPL-2.0

//! How cores are split, and what that costs: with threads and chunks the same, so are the bytes, and nothing is bought with bits in
//! silence.

mod common;

use common::pictures::{encode, encode_with_stats, pipeline, synthetic};
use common::{End, Pipeline, init, up_to};
use gst::prelude::*;
use std::sync::{Arc, Mutex};

fn there(factory: &str) -> bool {
    init();
    let is_there = gst::ElementFactory::find(factory).is_some();
    if !is_there {
        eprintln!("no {factory}");
    }
    is_there
}

fn bytes(output: &common::Output) -> Vec<Vec<u8>> {
    output.bytes().iter().map(|it| it.to_vec()).collect()
}

#[test]
fn with_the_same_threads_any_number_of_sessions_gives_the_same_bytes() {
    let pictures = synthetic(150);
    for (factory, encoder) in [
        (
            "x264enc",
            "x264enc speed-preset=superfast pass=qual quantizer=26 option-string=no-mbtree=1",
        ),
        (
            "x265enc",
            "x265enc speed-preset=ultrafast option-string=log-level=none:crf=28",
        ),
        (
            "vp9enc",
            "vp9enc deadline=1 cpu-used=8 target-bitrate=400000",
        ),
    ] {
        if !there(factory) {
            continue;
        }
        for threads in [1_u32, 3] {
            let run = |sessions: u32| {
                let (output, stats) = encode_with_stats(
                    &pictures,
                    &format!(
                        "vtparallelenc name=enc sessions={sessions} threads-per-session={threads} chunk-frames=37 \
                         max-bitrate-overhead=100 encoder=\"{encoder}\""
                    ),
                );
                let stats = stats.unwrap();
                assert_eq!(stats.get("threads-per-session"), Ok(threads), "{stats}");
                bytes(&output)
            };
            let one = run(1);
            assert_eq!(one.len(), 150);
            for sessions in [2, 3] {
                assert!(run(sessions) == one, "{encoder}: {threads} x {sessions}");
            }
        }
    }
}

/// What its encoders have in this property while it runs.
fn set_on_encoders(
    properties: &str,
    frames: usize,
    property: &str,
) -> (Vec<String>, gst::Structure) {
    let pictures = synthetic(frames);
    let pipeline = pipeline(
        &pictures,
        &format!("vtparallelenc name=enc {properties}"),
        "fakesink name=sink sync=false",
    );
    seen_on_encoders(&pipeline, property)
}

fn seen_on_encoders(pipeline: &Pipeline, property: &str) -> (Vec<String>, gst::Structure) {
    let seen = watched(pipeline, property);
    match pipeline.run() {
        End::Eos => (),
        end => panic!("{end:?}"),
    }
    let stats = pipeline.stats();
    pipeline.set_state(gst::State::Null).unwrap();
    let seen = seen.lock().unwrap().clone();
    (seen, stats)
}

/// What encoders that are made from now on have in this property.
fn watched(pipeline: &Pipeline, property: &str) -> Arc<Mutex<Vec<String>>> {
    let enc = pipeline.element("enc");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let of = seen.clone();
    let property = property.to_string();
    enc.downcast_ref::<gst::Bin>()
        .unwrap()
        .connect_deep_element_added(move |_, _, element| {
            let is_encoder = element.has_property(&property);
            // It gets its properties before it is opened.
            if is_encoder && let Some(pad) = element.static_pad("src") {
                let (of, property) = (of.clone(), property.clone());
                pad.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
                    let element = pad.parent_element();
                    let value = element.and_then(|it| {
                        let value = it.property_value(&property);
                        Some(value.serialize().ok()?.to_string())
                    });
                    of.lock().unwrap().extend(value);
                    gst::PadProbeReturn::Remove
                });
            }
        });
    seen
}

#[test]
fn threads_are_given_to_each_encoder_unless_the_user_has() {
    if !there("x264enc") {
        return;
    }
    let of = |properties: &str| {
        let chunks = "sessions=2 chunk-frames=30 max-bitrate-overhead=100";
        let (seen, stats) = set_on_encoders(&format!("{chunks} {properties}"), 90, "threads");
        assert!(seen.len() >= 3, "{seen:?}");
        assert!(seen.iter().all(|it| *it == seen[0]), "{seen:?}");
        assert_eq!(stats.get::<u64>("chunks-finished"), Ok(3), "{stats}");
        seen[0].clone()
    };
    let preset = "speed-preset=ultrafast";
    assert_eq!(of(&format!("encoder=\"x264enc {preset}\"")), "1");
    assert_eq!(
        of(&format!(
            "threads-per-session=3 encoder=\"x264enc {preset}\""
        )),
        "3"
    );
    assert_eq!(
        of(&format!(
            "threads-per-session=3 encoder=\"x264enc {preset} threads=2\""
        )),
        "2"
    );
}

/// One chunk is no work for several sessions, and one encoder may have all cores for it.
#[test]
fn a_film_of_one_chunk_is_encoded_by_one_encoder_with_all_cores() {
    let cores = std::thread::available_parallelism().unwrap().get();
    if cores < 2 {
        return;
    }
    let pictures = synthetic(60);
    if there("x264enc") {
        let encoder =
            "x264enc speed-preset=superfast pass=qual quantizer=26 option-string=no-mbtree=1";
        let (output, stats) = encode_with_stats(
            &pictures,
            &format!("vtparallelenc name=enc source-frame-count=60 encoder=\"{encoder}\""),
        );
        let stats = stats.unwrap();
        let reason: String = stats.get("sequential-reason").unwrap();
        assert!(reason.contains("as fast"), "{reason}");
        assert!(bytes(&output) == bytes(&encode(&pictures, encoder)));
    }
    if there("vp8enc") {
        // It takes one unless it is told.
        let (seen, _) = set_on_encoders(
            "source-frame-count=60 encoder=\"vp8enc deadline=1 cpu-used=8\"",
            60,
            "threads",
        );
        assert_eq!(seen, [cores.to_string()]);
        let (seen, _) = set_on_encoders(
            "source-frame-count=60 encoder=\"vp8enc deadline=1 cpu-used=8 threads=1\"",
            60,
            "threads",
        );
        assert_eq!(seen, ["1"]);
    }
    // What has no threads isn't slower in chunks.
    let (_, stats) = encode_with_stats(
        &synthetic(60),
        "vtparallelenc name=enc source-frame-count=60 encoder=jpegenc",
    );
    assert_eq!(stats.unwrap().get::<bool>("parallel"), Ok(true));
}

/// A part of a long film is planned as what it is, whether that is known before it begins or only when it does.
#[test]
fn a_short_part_of_a_long_film_is_planned_as_a_short_film() {
    let cores = std::thread::available_parallelism().unwrap().get();
    if cores < 2 || !there("x264enc") {
        return;
    }
    let part = |seconds: u64| up_to(gst::ClockTime::from_seconds(seconds));
    let film = || {
        Pipeline::parse(
            "videotestsrc name=source num-buffers=100000 ! video/x-raw,width=320,height=240,framerate=25/1 ! \
             vtparallelenc name=enc encoder=\"x264enc speed-preset=ultrafast pass=qual quantizer=40 vbv-buf-capacity=0\" ! \
             fakesink name=sink sync=false",
        )
    };
    // Before it begins.
    for (seconds, is_short) in [(1, true), (400, false)] {
        let pipeline = film();
        assert!(pipeline.element("source").send_event(part(seconds)));
        let (seen, stats) = seen_on_encoders(&pipeline, "threads");
        assert_eq!(stats.get("frames-out"), Ok(25 * seconds), "{stats}");
        assert_eq!(stats.get("parallel"), Ok(!is_short), "{stats}");
        assert_eq!(stats.has_field("sequential-reason"), is_short, "{stats}");
        // One encoder takes as many as it wants.
        let threads = if is_short { "0" } else { "1" };
        assert!(seen.iter().all(|it| it == threads), "{seen:?}");
    }
    // After a part of it was encoded.
    let pipeline = film();
    pipeline.set_state(gst::State::Paused).unwrap();
    let (result, ..) = pipeline.state(gst::ClockTime::from_seconds(60));
    result.unwrap();
    assert_eq!(pipeline.stats().get("threads-per-session"), Ok(1_u32));
    let seen = watched(&pipeline, "threads");
    assert!(pipeline.send_event(part(1)));
    match pipeline.run() {
        End::Eos => (),
        end => panic!("{end:?}"),
    }
    let stats = pipeline.stats();
    assert_eq!(stats.get("source-frames"), Ok(25_u64), "{stats}");
    assert_eq!(stats.get("sessions-planned"), Ok(1_u64), "{stats}");
    let threads: u32 = stats.get("threads-per-session").unwrap();
    assert!(threads > 1, "{stats}");
    // (One may have been made for the whole film as the seek began.)
    assert_eq!(seen.lock().unwrap().last(), Some(&threads.to_string()));
}

#[test]
fn what_was_asked_for_and_costs_more_is_done_with_a_warning() {
    if !there("x264enc") {
        return;
    }
    let pictures = synthetic(150);
    let run = |properties: &str, encoder: &str| {
        let pipeline = pipeline(
            &pictures,
            &format!("vtparallelenc name=enc sessions=2 {properties} encoder=\"{encoder}\""),
            "fakesink name=sink sync=false",
        );
        let warnings = pipeline.warnings();
        match pipeline.run() {
            End::Eos => (),
            end => panic!("{end:?}"),
        }
        let stats = pipeline.stats();
        pipeline.set_state(gst::State::Null).unwrap();
        let warnings = warnings.lock().unwrap().clone();
        (warnings, stats)
    };
    let x264 = "x264enc speed-preset=ultrafast";
    let (warnings, stats) = run("chunk-frames=30", x264);
    let expected: f64 = stats.get("expected-overhead").unwrap();
    assert!(expected > 1.0, "{stats}");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let (percent, limit) = (format!("{expected:.1} %"), "max-bitrate-overhead (1.0 %)");
    assert!(
        warnings[0].contains(&percent) && warnings[0].contains(limit),
        "{warnings:?}"
    );
    assert_eq!(stats.get::<u64>("chunks-finished"), Ok(5), "{stats}");
    for (properties, encoder) in [
        ("chunk-frames=30 max-bitrate-overhead=100", x264),
        // It costs nothing.
        ("chunk-frames=30", "jpegenc"),
        // Key frames stand where chunks begin, as far as anyone can tell.
        ("chunk-frames=0", x264),
    ] {
        let (warnings, stats) = run(properties, encoder);
        assert!(
            warnings.is_empty(),
            "{properties} {encoder}: {warnings:?}, {stats}"
        );
    }
    // Nobody knows.
    let (_, stats) = run("chunk-frames=30", "theoraenc");
    assert!(!stats.has_field("expected-overhead"), "{stats}");
}

/// The plan that was made here can be asked for elsewhere.
#[test]
fn statistics_say_what_makes_the_same_bytes_elsewhere() {
    if !there("vp9enc") {
        return;
    }
    let pictures = synthetic(400);
    let encoder = "vp9enc deadline=1 cpu-used=8 end-usage=cq cq-level=40 target-bitrate=1000000 keyframe-max-dist=50";
    let (here, stats) = encode_with_stats(
        &pictures,
        &format!(
            "vtparallelenc name=enc source-frame-count=400 max-bitrate-overhead=100 encoder=\"{encoder}\""
        ),
    );
    let stats = stats.unwrap();
    if stats.get("parallel") != Ok(true) {
        assert_eq!(
            std::thread::available_parallelism().unwrap().get(),
            1,
            "{stats}"
        );
        return;
    }
    let there = format!(
        "vtparallelenc name=enc sessions={} threads-per-session={} source-frame-count={} max-raw-bytes={} max-bitrate-overhead=100 encoder=\"{encoder}\"",
        stats.get::<u64>("sessions-planned").unwrap(),
        stats.get::<u32>("threads-per-session").unwrap(),
        stats.get::<u64>("source-frames").unwrap(),
        stats.get::<u64>("max-raw-bytes").unwrap(),
    );
    assert!(bytes(&encode(&pictures, &there)) == bytes(&here), "{there}");
}

/// What the first chunk of each session is encoded with is settled after the session has begun to wait for it.
#[test]
fn all_encoders_of_a_stream_have_the_same_threads() {
    if !there("openjpegenc") {
        return;
    }
    let cores = std::thread::available_parallelism().unwrap().get();
    for sessions in [1, 2] {
        let description =
            format!("sessions={sessions} chunk-frames=5 min-chunk-frames=1 encoder=openjpegenc");
        let (seen, _) = set_on_encoders(&description, 20, "num-threads");
        let threads = (cores / sessions).max(1).to_string();
        assert!(seen.len() >= 4, "{seen:?}");
        assert!(seen.iter().all(|it| *it == threads), "{sessions}: {seen:?}");
    }
    let description = "sessions=2 threads-per-session=3 chunk-frames=5 encoder=openjpegenc";
    let (seen, _) = set_on_encoders(description, 20, "num-threads");
    assert!(seen.iter().all(|it| *it == "3"), "{seen:?}");
}

#[test]
fn one_session_takes_chunks_of_an_encoder_that_downstream_chose() {
    if !there("vp8enc") {
        return;
    }
    let (output, stats) = encode_with_stats(
        &synthetic(40),
        "vtparallelvp8enc name=enc sessions=1 chunk-frames=10 max-bitrate-overhead=100",
    );
    assert_eq!(output.packets.len(), 40);
    assert_eq!(stats.unwrap().get::<u64>("chunks-finished"), Ok(4));
}

/// One encoder wouldn't make them.
#[test]
fn regular_key_frames_come_in_a_film_of_one_chunk() {
    if !there("x264enc") {
        return;
    }
    let output = encode(
        &synthetic(60),
        "vtparallelenc source-frame-count=60 key-frame-interval=1000000000 encoder=\"x264enc speed-preset=ultrafast\"",
    );
    let keys = output.packets.iter().enumerate();
    let keys = keys.filter(|(_, packet)| packet.is_key());
    let keys: Vec<_> = keys.map(|(at, _)| at).collect();
    for expected in [0, 25, 50] {
        assert!(keys.contains(&expected), "{keys:?}");
    }
}
