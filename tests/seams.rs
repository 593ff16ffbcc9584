// SPDX-License-Identifier: MPL-2.0

//! An encoder that does not do what a seam needs is found out before its packets leave.

mod common;

use common::scripted::Gate;
use common::{End, Output, constant, encode, encode_times, feed, record, scripted_pipeline};
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
fn an_encoder_that_marks_no_key_frames_is_an_error_that_says_what_to_do() {
    for overlap in ["", "overlap-before=4 overlap-after=4"] {
        let text = "set allow-parallel=false";
        assert_found("scriptedenc mark-none=true", overlap, text, 0);
    }
}

#[test]
fn an_unknown_encoder_of_an_opaque_format_is_cut_only_if_it_says_that_it_can_be() {
    let plain = encode_times("hintedenc failure=plain", &constant(60)).1;
    let run = |encoder: &str, properties: &str| {
        let (end, output, stats) = encode_times(
            &format!(
                "vtparallelenc name=enc encoder=\"hintedenc failure=unknown {encoder}\" chunk-frames=10 {properties}"
            ),
            &constant(60),
        );
        end.expect_eos();
        (output, stats.unwrap())
    };
    for properties in ["sessions=3", "overlap-before=4 overlap-after=4"] {
        let (output, stats) = run("", properties);
        assert_eq!(output.packets, plain.packets, "{properties}");
        let reason: String = stats.get("sequential-reason").unwrap();
        assert!(reason.contains("isn't known"), "{reason}");
    }
    let (output, stats) = run("recommended-parallelization-limit=3", "");
    assert_eq!(output.frames(), (0..60).collect::<Vec<_>>());
    assert_eq!(stats.get::<u64>("chunks-finished"), Ok(6), "{stats}");
    assert_eq!(stats.get::<u64>("sessions-open"), Ok(3), "{stats}");
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
