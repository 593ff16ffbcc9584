// SPDX-License-Identifier: MPL-2.0

//! Every frame leaves exactly once and in order, whatever the lengths.

mod common;

use common::{constant, encode, encode_times};
use gst::prelude::*;

/// Frames 0..n, each once, the packets in an order that a decoder can follow.
fn assert_complete(properties: &str, frames: u64) {
    let output = encode(properties, frames);
    let mut numbers: Vec<u64> = output.frames();
    numbers.sort_unstable();
    assert_eq!(
        numbers,
        (0..frames).collect::<Vec<_>>(),
        "{properties}, {frames} frames"
    );
    output.assert_timestamps();
    for packet in &output.packets {
        let time = gst::ClockTime::from_mseconds(40) * packet.frame();
        assert_eq!(packet.running_time, Some(time), "{properties}: {packet:?}");
        assert_eq!(packet.duration, Some(gst::ClockTime::from_mseconds(40)));
    }
    let disconts = output
        .packets
        .iter()
        .map(|packet| packet.flags.contains(gst::BufferFlags::DISCONT));
    assert!(
        disconts.eq((0..frames).map(|n| n == 0)),
        "one DISCONT, at the start"
    );
}

#[test]
fn any_number_of_frames_around_the_chunk_length() {
    for frames in [0, 1, 2, 3, 19, 20, 21, 24, 25, 39, 40, 41, 60, 61, 100] {
        for encoder in ["scriptedenc", "scriptedenc bframes=2 look-ahead=5"] {
            assert_complete(
                &format!("encoder=\"{encoder}\" sessions=3 chunk-frames=20 min-chunk-frames=5"),
                frames,
            );
        }
    }
}

#[test]
fn overlaps_shorter_and_longer_than_a_chunk() {
    for (before, after) in [(0, 3), (3, 0), (3, 3), (7, 9), (50, 50)] {
        for frames in [1, 10, 11, 37, 64] {
            assert_complete(
                &format!(
                    "encoder=\"scriptedenc bframes=2 look-ahead=4\" sessions=3 chunk-frames=10 \
                     min-chunk-frames=4 overlap-before={before} overlap-after={after}"
                ),
                frames,
            );
        }
    }
}

#[test]
fn chunks_of_one_frame() {
    assert_complete("encoder=scriptedenc sessions=4 chunk-frames=1", 30);
}

#[test]
fn the_automatic_plan() {
    for frames in [0, 1, 5, 100, 1_000] {
        assert_complete("encoder=\"scriptedenc bframes=1\" sessions=3", frames);
    }
    // 256 bytes each: room for 60 frames.
    assert_complete("encoder=scriptedenc sessions=3 max-raw-bytes=15360", 500);
}

#[test]
fn a_known_length_gives_every_session_the_same() {
    let (end, output, stats) = encode_times(
        "vtparallelenc name=enc encoder=scriptedenc sessions=2 source-frame-count=720",
        &constant(720),
    );
    end.expect_eos();
    let keys: Vec<_> = output
        .packets
        .iter()
        .filter(|packet| packet.is_key())
        .collect();
    let starts: Vec<_> = keys.iter().map(|packet| packet.frame()).collect();
    assert_eq!(starts, [0, 240, 480, 600]);
    let stats = stats.unwrap();
    assert_eq!(stats.get::<u64>("chunks-finished").unwrap(), 4);
    assert_eq!(stats.get::<u64>("frames-out").unwrap(), 720);
}

/// Runs frames with these times and caps.
fn run_odd(caps: &str, times: &common::Times) -> (common::End, common::Output) {
    let pipeline = common::scripted_pipeline(
        "vtparallelenc name=enc encoder=\"scriptedenc bframes=1\" sessions=2 chunk-frames=10",
    );
    let output = common::record(&pipeline.element("sink").static_pad("sink").unwrap());
    let src = common::app_src(&pipeline);
    src.set_caps(Some(&caps.parse().unwrap()));
    for (number, &time) in times.iter().enumerate() {
        src.push_buffer(common::gray(number as u64, time)).unwrap();
    }
    src.end_of_stream().unwrap();
    let end = pipeline.run();
    let output = output.lock().unwrap().clone();
    (end, output)
}

/// All of them come out.
fn assert_odd(caps: &str, times: &common::Times) {
    let (end, output) = run_odd(caps, times);
    end.expect_eos();
    let mut frames: Vec<_> = output.frames();
    frames.sort_unstable();
    let all: Vec<_> = (0..times.len() as u64).collect();
    assert_eq!(frames, all, "{caps}");
}

#[test]
fn odd_frame_rates_and_times() {
    for rate in ["0/1", "1/2147483647", "2147483647/1", "30000/1001"] {
        assert_odd(&common::GRAY.replace("25/1", rate), &constant(45));
    }
    // Without durations, and an hour's gap.
    let frame = gst::ClockTime::from_mseconds(40);
    let gap = |n: u64| frame * n + gst::ClockTime::from_seconds(3600) * (n / 20);
    assert_odd(common::GRAY, &(0..45).map(|n| (gap(n), None)).collect());
}

#[test]
fn times_near_the_end_of_the_range_are_refused_or_encoded() {
    // 1000 hours don't fit behind them any more.
    let start = u64::MAX - 1_000_000_000;
    let late = |n: u64| gst::ClockTime::from_nseconds(start + n * 40_000);
    let (end, output) = run_odd(common::GRAY, &(0..45).map(|n| (late(n), None)).collect());
    match end {
        common::End::Eos => assert_eq!(output.packets.len(), 45),
        common::End::Error { message, .. } => assert!(!message.contains("Panic"), "{message}"),
    }
}
