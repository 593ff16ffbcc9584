// SPDX-License-Identifier: MPL-2.0

//! An encoder that does not do what a seam needs is found out before its packets leave.

mod common;

use common::{End, Output, constant, encode, encode_times};

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

#[test]
fn an_encoder_that_ignores_forced_key_frames() {
    assert_found(
        "scriptedenc ignore-keys=true",
        "overlap-after=3",
        "overlap-after=0",
        0,
    );
    assert_found(
        "scriptedenc ignore-keys=true",
        "overlap-before=3",
        "overlap-before=0",
        10,
    );
    // What the messages advise works.
    let output = encode(
        "encoder=\"scriptedenc ignore-keys=true\" sessions=2 chunk-frames=10 min-chunk-frames=2",
        40,
    );
    assert_eq!(output.packets.len(), 40);
}

#[test]
fn an_encoder_with_open_gops() {
    // Groups of three after the first frame, so that a chunk of 11 ends inside one.
    let encoder = "scriptedenc bframes=2 open-gop=true";
    let chunks = "chunk-frames=11";
    assert_found(
        encoder,
        &format!("{chunks} overlap-after=3"),
        "closed GOP",
        0,
    );
    assert_found(
        encoder,
        &format!("{chunks} overlap-before=3"),
        "closed GOP",
        11,
    );
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
    let numbers: Vec<u64> = output.packets.iter().map(|packet| packet.frame()).collect();
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
