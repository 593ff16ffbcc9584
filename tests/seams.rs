// SPDX-License-Identifier: MPL-2.0

//! An encoder that does not do what a seam needs is found out before its packets leave.

mod common;

use common::scripted::Gate;
use common::{
    End, Output, app_src, constant, encode, encode_times, feed, gray, record, scripted_pipeline,
};
use gst::prelude::*;

fn run(encoder: &str, properties: &str) -> (End, Output) {
    let (end, output, _) = encode_times(
        &format!(
            "vtparallelenc name=enc encoder=\"{encoder}\" sessions=2 chunk-frames=10 min-chunk-frames=2 \
             {properties}"
        ),
        &constant(40),
    );
    (end, output)
}

/// The stream fails with this text, and nothing of the chunk has left.
fn assert_found(encoder: &str, properties: &str, text: &str, whole: usize) {
    let (end, output) = run(encoder, properties);
    let error = end.error();
    assert!(error.contains(text), "{encoder}: {error}");
    assert!(
        output.packets.len() <= whole,
        "{encoder}: {:?}",
        output.packets
    );
}

/// All frames come out, once, whatever the overlap; the encoder is named in one warning; and the bytes don't depend on
/// which session was faster.
fn assert_falls_back(encoder: &str, properties: &str) {
    let run = |sessions: u32| {
        let pipeline = scripted_pipeline(&format!(
            "vtparallelenc name=enc encoder=\"{encoder}\" sessions={sessions} min-chunk-frames=2 {properties}"
        ));
        let warnings = pipeline.warnings();
        let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
        feed(&pipeline, &constant(60));
        pipeline.run().expect_eos();
        let mut warnings = warnings.lock().unwrap().clone();
        // A first frame that isn't there may have got lost, so there is another attempt before that is called a habit.
        warnings.retain(|warning| !warning.contains("which is not its first frame"));
        assert_eq!(warnings.len(), 1, "{encoder} {properties}: {warnings:?}");
        assert!(warnings[0].contains(encoder), "{warnings:?}");
        let output = output.lock().unwrap().clone();
        output.packets
    };
    let one = run(1);
    let mut numbers: Vec<u64> = one.iter().map(|packet| packet.frame()).collect();
    numbers.sort_unstable();
    assert_eq!(
        numbers,
        (0..60).collect::<Vec<_>>(),
        "{encoder} {properties}"
    );
    for _ in 0..5 {
        for sessions in [2, 3, 8] {
            assert_eq!(run(sessions), one, "{encoder} {properties} {sessions}");
        }
    }
}

#[test]
fn an_encoder_that_ignores_forced_key_frames_gets_no_overlap() {
    let encoder = "scriptedenc ignore-keys=true";
    for overlap in [
        "overlap-before=3",
        "overlap-before=3 overlap-after=3",
        "overlap-before=30 overlap-after=30",
    ] {
        assert_falls_back(encoder, &format!("chunk-frames=10 {overlap}"));
    }
    // Nothing of a chunk refers to a trail that comes after all of it, key frame or not.
    let output = encode(
        &format!("encoder=\"{encoder}\" sessions=2 chunk-frames=10 overlap-after=3"),
        40,
    );
    assert_eq!(output.packets.len(), 40);
}

#[test]
fn an_encoder_with_open_gops_gets_no_overlap() {
    // Groups of three after the first frame, so that a chunk of 11 ends inside one.
    let encoder = "scriptedenc bframes=2 open-gop=true";
    for overlap in [
        "overlap-before=3",
        "overlap-after=3",
        "overlap-before=3 overlap-after=3",
    ] {
        assert_falls_back(encoder, &format!("chunk-frames=11 {overlap}"));
    }
    // Both at once, and keys where the encoder wants them.
    assert_falls_back(
        "scriptedenc bframes=2 ignore-keys=true",
        "chunk-frames=11 overlap-before=4 overlap-after=5",
    );
}

#[test]
fn an_encoder_that_marks_no_key_frames_encodes_the_whole_stream_alone() {
    for script in ["", "bframes=2 look-ahead=9"] {
        let plain = encode_times(
            &format!("scriptedenc mark-none=true {script}"),
            &constant(200),
        )
        .1;
        for sessions in [1, 2, 3, 8] {
            for overlap in ["", "overlap-before=4 overlap-after=4"] {
                let pipeline = scripted_pipeline(&format!(
                    "vtparallelenc name=enc encoder=\"scriptedenc mark-none=true {script}\" sessions={sessions} \
                     chunk-frames=10 min-chunk-frames=2 max-raw-bytes=16000 {overlap}"
                ));
                let warnings = pipeline.warnings();
                let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
                feed(&pipeline, &constant(200));
                pipeline.run().expect_eos();
                let output = output.lock().unwrap();
                assert_eq!(
                    output.bytes(),
                    plain.bytes(),
                    "{script} {sessions} {overlap}"
                );
                output.assert_timestamps();
                let warnings = warnings.lock().unwrap();
                let said = warnings
                    .iter()
                    .filter(|text| text.contains("whole stream"))
                    .count();
                assert_eq!(said, 1, "{warnings:?}");
                let stats = pipeline.stats();
                assert!(stats.has_field("sequential-reason"), "{stats}");
                assert_eq!(stats.get::<u64>("bytes-held").unwrap(), 0, "{stats}");
                // A budget of 62 frames for 200, and one frame more for the one that is urgent.
                assert!(
                    stats.get::<u64>("bytes-peak").unwrap() <= 16_000 + 256,
                    "{stats}"
                );
            }
        }
    }
}

#[test]
fn a_stream_that_cannot_be_cut_fails_with_its_encoder_and_does_not_hang() {
    for look_ahead in [0, 9, 30] {
        for fail_at in [3, 12, 30, 150] {
            for sessions in [1, 3] {
                let (end, _, _) = encode_times(
                    &format!(
                        "vtparallelenc name=enc encoder=\"scriptedenc mark-none=true look-ahead={look_ahead} \
                         fail-at={fail_at}\" sessions={sessions} chunk-frames=10 source-frame-count=200"
                    ),
                    &constant(200),
                );
                let error = end.error();
                assert!(
                    error.contains("scripted failure"),
                    "{look_ahead} {fail_at} {sessions}: {error}"
                );
            }
        }
    }
}

#[test]
fn a_stream_that_cannot_be_cut_waits_for_downstream() {
    let pipeline = scripted_pipeline(
        "vtparallelenc name=enc encoder=\"scriptedenc mark-none=true\" sessions=2 chunk-frames=10 max-raw-bytes=16000",
    );
    let (sender, blocked) = std::sync::mpsc::channel();
    let sink = pipeline.element("sink").static_pad("sink").unwrap();
    let output = record(&sink);
    let mask = gst::PadProbeType::BLOCK | gst::PadProbeType::BUFFER;
    let probe = sink.add_probe(mask, move |_, _| {
        let _ = sender.send(());
        gst::PadProbeReturn::Ok
    });
    feed(&pipeline, &constant(1000));
    pipeline.set_state(gst::State::Playing).unwrap();
    blocked.recv().unwrap();
    // The source is taken in only as far as raw frames (40) and packets (65) may wait, and those on their way.
    let taken = || pipeline.stats().get::<u64>("frames-in").unwrap();
    while taken() < 100 {
        std::thread::yield_now();
    }
    for _ in 0..10_000 {
        std::thread::yield_now();
    }
    assert!(taken() < 120, "{} frames came in", taken());
    sink.remove_probe(probe.unwrap());
    pipeline.end().expect_eos();
    let numbers: Vec<u64> = output.lock().unwrap().frames();
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
}

#[test]
fn new_caps_are_no_trouble_for_a_stream_that_cannot_be_cut() {
    let pipeline = scripted_pipeline(
        "vtparallelenc name=enc encoder=\"scriptedenc mark-none=true bframes=1\" sessions=3 chunk-frames=5",
    );
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    let src = app_src(&pipeline);
    let caps = src.caps().unwrap();
    for (number, &time) in constant(60).iter().enumerate() {
        if number == 40 {
            let mut other = caps.clone();
            other
                .make_mut()
                .set("pixel-aspect-ratio", gst::Fraction::new(4, 3));
            src.set_caps(Some(&other));
        }
        src.push_buffer(gray(number as u64, time)).unwrap();
    }
    src.end_of_stream().unwrap();
    pipeline.run().expect_eos();
    let mut numbers: Vec<u64> = output.lock().unwrap().frames();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..60).collect::<Vec<_>>());
}

#[test]
fn a_lost_frame() {
    assert_found("scriptedenc lose=15", "", "not delivered", 10);
}

#[test]
fn a_doubled_frame() {
    assert_found("scriptedenc double=15", "", "delivered twice", 10);
}

#[test]
fn frames_that_the_encoder_says_it_skips_are_counted() {
    let (end, output, stats) = encode_times(
        "vtparallelenc name=enc encoder=\"scriptedenc skip-every=7\" sessions=3 chunk-frames=10 \
         min-chunk-frames=2 overlap-before=3 overlap-after=3",
        &constant(70),
    );
    end.expect_eos();
    let numbers: Vec<u64> = output.frames();
    let kept: Vec<u64> = (0..70).filter(|number| number % 7 != 6).collect();
    assert_eq!(numbers, kept);
    output.assert_timestamps();
    let stats = stats.unwrap();
    assert_eq!(stats.get::<u64>("frames-skipped").unwrap(), 10);
    assert_eq!(stats.get::<u64>("frames-out").unwrap(), 60);
}

#[test]
fn a_description_that_changes_from_chunk_to_chunk() {
    assert_found("scriptedenc vary-caps=true", "", "allow-parallel=false", 10);
}

/// An encoder has shown all that is wanted of the trail with its first packet of that.
#[test]
fn the_trail_is_encoded_no_further_than_it_has_to_be() {
    let gate = Gate::named("trail");
    let pipeline = scripted_pipeline(
        "vtparallelenc name=enc encoder=\"scriptedenc gate=trail\" sessions=1 chunk-frames=10 min-chunk-frames=5 \
         overlap-before=0 overlap-after=8",
    );
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    feed(&pipeline, &constant(20));
    pipeline.set_state(gst::State::Playing).unwrap();
    // Its ten frames and the first one after them; then the next chunk begins.
    gate.let_pass(11);
    let since = std::time::Instant::now();
    while output.lock().unwrap().packets.len() < 10 {
        assert!(
            since.elapsed().as_secs() < 60,
            "the next frame is at the gate: {:?}",
            gate.wait_for(1)
        );
        std::thread::yield_now();
    }
    assert_eq!(gate.wait_for(1), [10]);
    gate.open();
    pipeline.end().expect_eos();
    let frames: Vec<_> = output.lock().unwrap().frames();
    assert_eq!(frames, (0..20).collect::<Vec<_>>());
}
