// SPDX-License-Identifier: MPL-2.0

//! Chunks end where one encoder has its key frames: at cuts, and at its greatest distance from the last one.

mod common;

use common::{Output, Pipeline, record};
use gst::prelude::*;

const WIDTH: usize = 160;
const HEIGHT: usize = 96;

/// Frames with which scenes begin.
const CUTS: [u64; 4] = [0, 130, 370, 760];
const FRAMES: u64 = 900;

/// Grainy squares of any gray, larger than the picture.
fn scene(seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761);
    let mut any = move |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % below
    };
    let squares: Vec<u32> = (0..64 * 64).map(|_| any(128)).collect();
    let at = (0..HEIGHT).flat_map(|y| (0..2 * WIDTH).map(move |x| (x, y)));
    at.map(|(x, y)| (40 + squares[x / 8 + y / 8 * 64] + any(24)) as u8)
        .collect()
}

/// A film of scenes over which a camera moves slowly.
fn film(frames: u64) -> impl Iterator<Item = gst::Buffer> {
    let scenes: Vec<_> = (1..=CUTS.len() as u32).map(scene).collect();
    (0..frames).map(move |number| {
        let of = CUTS.partition_point(|&cut| cut <= number) - 1;
        let moved = (number - CUTS[of]) as usize / 4 % WIDTH;
        let mut picture = vec![128; WIDTH * HEIGHT * 3 / 2];
        for y in 0..HEIGHT {
            let row = &scenes[of][y * 2 * WIDTH + moved..][..WIDTH];
            picture[y * WIDTH..][..WIDTH].copy_from_slice(row);
        }
        let mut buffer = gst::Buffer::from_slice(picture);
        let times = buffer.get_mut().unwrap();
        times.set_pts(gst::ClockTime::from_mseconds(number * 40));
        times.set_duration(gst::ClockTime::from_mseconds(40));
        buffer
    })
}

struct Encoded {
    output: Output,
    stats: Option<gst::Structure>,
}

impl Encoded {
    fn keys(&self) -> Vec<u64> {
        let keys = self.output.packets.iter().filter(|packet| packet.is_key());
        keys.map(|packet| packet.running_time.unwrap().mseconds() / 40)
            .collect()
    }

    fn stat(&self, name: &str) -> u64 {
        self.stats.as_ref().unwrap().get(name).unwrap()
    }

    fn cut(&self) -> &str {
        self.stats.as_ref().unwrap().get("cut").unwrap()
    }
}

fn encode(encoder: &str, frames: u64) -> Encoded {
    common::init();
    let pipeline = Pipeline::parse(&format!(
        "appsrc name=src format=time caps=video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate=25/1 ! {encoder} ! \
         fakesink name=sink"
    ));
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    let src = common::app_src(&pipeline);
    for buffer in film(frames) {
        src.push_buffer(buffer).unwrap();
    }
    src.end_of_stream().unwrap();
    pipeline.run().expect_eos();
    let output = output.lock().unwrap().clone();
    assert_eq!(output.packets.len() as u64, frames);
    let stats = pipeline.by_name("vt").map(|vt| vt.property("stats"));
    Encoded { output, stats }
}

fn ours(settings: &str, encoder: &str) -> String {
    format!("vtparallelenc name=vt {settings} encoder=\"{encoder}\"")
}

const X264: &str = "x264enc speed-preset=veryfast threads=1 pass=qual quantizer=30";

#[test]
fn key_frames_stand_where_one_encoder_has_them() {
    let plain = encode(X264, FRAMES).keys();
    assert!(CUTS.iter().all(|cut| plain.contains(cut)), "{plain:?}");
    for settings in [
        "sessions=2",
        "sessions=5",
        "sessions=3 source-frame-count=900",
    ] {
        let cut = encode(&ours(settings, X264), FRAMES);
        assert_eq!(cut.keys(), plain, "{settings}");
        assert_eq!(cut.cut(), "scene");
        assert!(cut.stat("chunks-finished") >= 3, "{settings}");
    }
    let counted = encode(&ours("sessions=2 cut=fixed", X264), FRAMES);
    assert_ne!(counted.keys(), plain);
    assert_eq!(counted.cut(), "fixed");
}

#[test]
fn a_distance_that_was_set_counts_from_the_last_cut() {
    let encoder = &format!("{X264} key-int-max=50");
    let plain = encode(encoder, FRAMES).keys();
    assert_eq!(plain[..5], [0, 50, 100, 130, 180]);
    for settings in ["sessions=2", "sessions=4 source-frame-count=900"] {
        let cut = encode(&ours(settings, encoder), FRAMES);
        assert_eq!(cut.keys(), plain, "{settings}");
    }
}

#[test]
fn the_same_film_gives_the_same_bytes_whoever_is_faster() {
    // (With its macroblock tree x264 itself doesn't make the same bytes twice on all machines: see tests/identity.rs.)
    let encoder = &format!("{X264} option-string=no-mbtree=1");
    let once = encode(&ours("sessions=3", encoder), 400);
    for _ in 0..3 {
        let again = encode(&ours("sessions=3", encoder), 400);
        assert!(again.output.bytes() == once.output.bytes());
    }
    // With less memory chunks are others, and each frame is still there.
    let small = WIDTH * HEIGHT * 3 / 2 * 60;
    let short = encode(
        &ours(&format!("sessions=3 max-raw-bytes={small}"), X264),
        400,
    );
    assert!(short.stat("chunks-finished") > once.stat("chunks-finished"));
    assert!(short.stat("bytes-peak") <= small as u64);
}

/// x264enc counts ten seconds' worth of frames, rounded down.
#[test]
fn without_cuts_seams_stand_at_the_encoders_distance() {
    let encoder = "x264enc speed-preset=veryfast threads=1 pass=qual quantizer=40";
    for (rate, distance) in [("24000/1001", 239), ("30000/1001", 299), ("10/1", 100)] {
        let source = format!(
            "pattern=checkers-8 ! video/x-raw,format=I420,width=64,height=48,framerate={rate}"
        );
        let still = |encoder: &str| common::key_frames(700, &source, encoder);
        let plain = still(encoder);
        let expected: Vec<_> = (0..700).step_by(distance).collect();
        assert_eq!(plain, expected, "{rate}");
        assert_eq!(still(&ours("sessions=2", encoder)), plain, "{rate}");
    }
}

/// One scene, one frame, none.
#[test]
fn short_films_are_one_chunk() {
    for frames in [0, 1, 2, 11, 100] {
        let cut = encode(&ours("sessions=2", X264), frames);
        assert_eq!(cut.keys().len() as u64, frames.min(1), "{frames}");
    }
}

/// Their memory isn't what the caps say: chunks are counted then, and that is told.
#[test]
fn frames_that_cannot_be_read_are_counted_and_encoded() {
    let pipeline =
        common::scripted_pipeline("vtparallelenc name=enc encoder=scriptedenc sessions=2");
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    let src = common::app_src(&pipeline);
    let caps = "video/x-raw,format=I420,width=640,height=480,framerate=25/1";
    src.set_caps(Some(&caps.parse().unwrap()));
    for (number, &time) in common::constant(300).iter().enumerate() {
        src.push_buffer(common::gray(number as u64, time)).unwrap();
    }
    src.end_of_stream().unwrap();
    pipeline.run().expect_eos();
    assert_eq!(output.lock().unwrap().packets.len(), 300);
    let stats = pipeline.stats();
    assert_eq!(stats.get::<u64>("frames-unseen").unwrap(), 300);
    assert_eq!(stats.get::<u64>("chunks-finished").unwrap(), 3);
}
