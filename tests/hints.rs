// SPDX-License-Identifier: MPL-2.0

//! What VideoToolbox tells the sessions of one movie, and what it recommends, for encoders with properties of these names.

mod common;

use common::rig::{Entry, Rig};
use common::scripted::HINTS;
use common::{constant, encode_times, feed, scripted_pipeline};
use gst::prelude::*;

/// Encodes, and returns what the encoders were told, in no particular order.
fn told(name: &str, properties: &str, frames: u64) -> Vec<String> {
    let (end, output, _) = encode_times(
        &format!(
            "vtparallelenc name=enc encoder=\"hintedenc failure={name}\" min-chunk-frames=2 {properties}"
        ),
        &constant(frames),
    );
    end.expect_eos();
    assert_eq!(output.packets.len() as u64, frames);
    let mut told = HINTS.lock().unwrap().remove(name).unwrap();
    // The first encoder is opened to see whether it takes the caps, before there is a chunk for it.
    assert_eq!(told.remove(0), "false false 0 0");
    told.sort();
    told
}

#[test]
fn each_encoder_is_told_of_its_chunk() {
    // VideoToolbox's own example: 400 frames for 4 sessions.
    for sessions in [1, 4] {
        let told = told(
            &format!("whole{sessions}"),
            &format!("sessions={sessions} chunk-frames=100 source-frame-count=400"),
            400,
        );
        let expected = [
            "false true 100 25",
            "true false 100 25",
            "true true 100 25",
            "true true 100 25",
        ];
        assert_eq!(told, expected, "{sessions} sessions");
    }
}

#[test]
fn the_overlap_counts_and_a_tail_belongs_to_its_chunk() {
    let told = told(
        "overlap",
        "sessions=3 chunk-frames=10 overlap-before=2 overlap-after=3 source-frame-count=31",
        31,
    );
    // 0..10 and 3 after; 8..20 and 3 after; 18..31, with the tail of one frame.
    assert_eq!(
        told,
        ["false true 13 25", "true false 13 25", "true true 15 25"]
    );
}

#[test]
fn what_is_not_known_is_not_said() {
    let told = told("unknown", "sessions=2 chunk-frames=10", 20);
    assert_eq!(told, ["false true 0 25", "true true 0 25"]);
}

/// The frames that chunks begin with, and what their encoders were told, where upstream knows its length after so many frames.
fn with_length_known_after(known_after: Option<u64>) -> (Vec<u64>, Vec<String>) {
    const FRAMES: u64 = 150;
    let name = format!("length-{known_after:?}");
    let rig = Rig::bare(&format!(
        "vtparallelenc sessions=2 min-chunk-frames=2 encoder=\"hintedenc failure={name}\""
    ));
    rig.begin(common::GRAY);
    for number in 0..FRAMES {
        if known_after == Some(number) {
            let length = gst::ClockTime::from_mseconds(40) * FRAMES;
            rig.upstream.lock().unwrap().duration = Some(length);
        }
        rig.push(number).unwrap();
    }
    rig.end();
    let entries = rig.entries();
    let keys = entries.iter().filter(|entry| entry.is_key());
    let keys = keys.filter_map(Entry::frame).collect();
    let mut told = HINTS.lock().unwrap().remove(&name).unwrap();
    told.sort();
    (keys, told)
}

#[test]
fn the_plan_depends_on_the_length_alone_and_not_on_when_it_becomes_known() {
    let known = with_length_known_after(Some(0));
    let unknown = with_length_known_after(None);
    assert_eq!(known.0, [0, 75]);
    assert_eq!(unknown.0, [0, 100]);
    for frames in 1..=100 {
        let late = with_length_known_after(Some(frames));
        assert!(late == known || late == unknown, "{frames}: {late:?}");
    }
}

#[test]
fn what_an_encoder_recommends_is_readable_and_taken() {
    let pipeline = scripted_pipeline(
        "vtparallelenc name=enc encoder=\"hintedenc failure=recommends recommended-parallelization-limit=5 \
         recommended-parallelized-subdivision-minimum-frame-count=30 \
         recommended-parallelized-subdivision-minimum-duration=1600000000\"",
    );
    let enc = pipeline.element("enc");
    let of = |name: &str| {
        enc.property_value(name)
            .transform::<u64>()
            .unwrap()
            .get::<u64>()
            .unwrap()
    };
    assert_eq!(of("recommended-parallelization-limit"), 0);
    feed(&pipeline, &constant(100));
    enc.set_property("source-frame-count", 100u64);
    pipeline.run().expect_eos();
    assert_eq!(of("recommended-parallelization-limit"), 5);
    assert_eq!(
        of("recommended-parallelized-subdivision-minimum-frame-count"),
        30
    );
    assert_eq!(
        of("recommended-parallelized-subdivision-minimum-duration"),
        1_600_000_000
    );
    let stats = pipeline.stats();
    // At 25 frames per second 1.6 s are 40 frames: 100 frames make two such chunks, not five.
    assert_eq!(stats.get::<u64>("chunks-finished").unwrap(), 2);
    assert_eq!(stats.get::<u64>("sessions-open").unwrap(), 5);
}
