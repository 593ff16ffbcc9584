// SPDX-License-Identifier: MPL-2.0

//! What chunks delay, and live sources.

mod common;

use common::rig::{Entry, Rig};
use gst::prelude::*;

fn ms(time: u64) -> gst::ClockTime {
    gst::ClockTime::from_mseconds(time)
}

/// A rig whose source is live, or not, and has a latency of its own.
fn rig(encoder: &str, is_live: bool, caps: &str) -> Rig {
    let rig = Rig::bare(encoder);
    {
        let mut upstream = rig.upstream.lock().unwrap();
        upstream.is_live = is_live;
        upstream.latency = (ms(30), Some(ms(70)));
    }
    // (Of linking and starting.)
    rig.messages(&[gst::MessageType::Latency]);
    rig.begin(caps);
    rig
}

fn latency(rig: &Rig) -> (bool, gst::ClockTime, Option<gst::ClockTime>) {
    let mut query = gst::query::Latency::new();
    assert!(rig.sink.peer_query(&mut query));
    query.result()
}

/// What a bin's pad says where nothing is live: GStreamer drops the rest, as nobody heeds it.
const NOT_LIVE: (bool, gst::ClockTime, Option<gst::ClockTime>) =
    (false, gst::ClockTime::ZERO, None);

fn reason(rig: &Rig) -> Option<String> {
    rig.stats().get("sequential-reason").ok()
}

const CHUNKS: &str = "encoder=scriptedenc sessions=3 chunk-frames=10 min-chunk-frames=4";

#[test]
fn the_latency_is_what_chunks_mean() {
    for (more, frames) in [
        // Three sessions that just keep up, and the frames that decide where a chunk ends.
        ("overlap-before=0 overlap-after=0", 34),
        ("overlap-before=6 overlap-after=6", 34),
        // The last frame of a chunk waits for a trail that is longer than all sessions take.
        ("overlap-before=0 overlap-after=30", 44),
    ] {
        for is_live in [false, true] {
            let encoder = format!("vtparallelenc {CHUNKS} {more} allow-parallel-live=true");
            let rig = rig(&encoder, is_live, common::GRAY);
            let expected = |own| match is_live {
                true => (true, ms(30) + own, Some(ms(70) + own)),
                false => NOT_LIVE,
            };
            assert_eq!(latency(&rig), expected(ms(40 * frames)), "{more}");
            // Said once.
            rig.push_all(0..60);
            assert_eq!(rig.messages(&[gst::MessageType::Latency]).len(), 1);
            // At another rate it is another, and said again.
            let rate = |rate: &str| {
                let caps = common::GRAY.replace("25/1", rate);
                rig.send(gst::event::Caps::new(&caps.parse::<gst::Caps>().unwrap()));
            };
            rate("50/1");
            assert_eq!(latency(&rig), expected(ms(20 * frames)));
            assert_eq!(rig.messages(&[gst::MessageType::Latency]).len(), 1);
            rig.push_all(60..80);
            rig.end();
            assert_eq!(reason(&rig), None);
        }
    }
}

#[test]
fn no_frame_waits_longer_than_was_said() {
    // Encoders that keep up: what has come in for longer than the latency has left.
    let encoder =
        format!("vtparallelenc {CHUNKS} overlap-before=3 overlap-after=3 allow-parallel-live=true");
    let rig = rig(&encoder, true, common::GRAY);
    let (_, min, _) = latency(&rig);
    let frames = (min - ms(30)).mseconds() / 40;
    for number in 0..200 {
        rig.push(number).unwrap();
        let Some(due) = number.checked_sub(frames) else {
            continue;
        };
        let start = std::time::Instant::now();
        // (The machine isn't real time: all others may run first.)
        while rig.entries().iter().filter_map(Entry::frame).max() < Some(due) {
            assert!(start.elapsed().as_secs() < 60, "frame {due} waits");
            std::thread::yield_now();
        }
    }
    rig.end();
}

#[test]
fn a_live_source_is_encoded_by_one_encoder_and_the_reason_is_said() {
    let alone = rig("scriptedenc", true, common::GRAY);
    for (more, caps, why) in [
        ("", common::GRAY.to_string(), "allow-parallel-live"),
        (
            "allow-parallel-live=true",
            common::GRAY.replace("25/1", "0/1"),
            "without a frame rate",
        ),
        // Less than three sessions and a rest hold.
        (
            "allow-parallel-live=true max-raw-bytes=8000",
            common::GRAY.to_string(),
            "max-raw-bytes",
        ),
    ] {
        let rig = rig(&format!("vtparallelenc {CHUNKS} {more}"), true, &caps);
        rig.push_all(0..40);
        // Each frame leaves as it comes.
        assert_eq!(rig.frames().len(), 40);
        rig.end();
        let reason = reason(&rig).unwrap();
        assert!(reason.contains("live") && reason.contains(why), "{reason}");
        assert_eq!(latency(&rig), latency(&alone));
    }
}

#[test]
fn a_stream_that_is_not_live_needs_no_rate() {
    let caps = common::GRAY.replace("25/1", "0/1");
    let rig = rig(&format!("vtparallelenc {CHUNKS}"), false, &caps);
    assert_eq!(latency(&rig), NOT_LIVE);
    rig.push_all(0..40);
    rig.end();
    assert_eq!(reason(&rig), None);
    assert!(rig.messages(&[gst::MessageType::Latency]).is_empty());
}

#[test]
fn an_unlimited_latency_stays_unlimited() {
    let rig = rig(
        &format!("vtparallelenc {CHUNKS} overlap-after=0 allow-parallel-live=true"),
        true,
        common::GRAY,
    );
    rig.upstream.lock().unwrap().latency = (ms(10), None);
    assert_eq!(latency(&rig), (true, ms(10 + 34 * 40), None));
    rig.upstream.lock().unwrap().latency = (gst::ClockTime::MAX, None);
    assert_eq!(latency(&rig).1, gst::ClockTime::MAX);
}

#[test]
fn a_live_pipeline_in_chunks_is_on_time() {
    // A sink that waits for its time drops what is late.
    let pipeline = common::Pipeline::parse(
        "videotestsrc is-live=true num-buffers=60 ! video/x-raw,format=GRAY8,width=16,height=16,framerate=50/1 \
         ! vtparallelenc name=enc encoder=jpegenc sessions=2 chunk-frames=5 min-chunk-frames=2 allow-parallel-live=true \
         ! jpegdec qos=false ! fakesink name=sink sync=true qos=false",
    );
    let sink = pipeline.element("sink");
    let output = common::record(&sink.static_pad("sink").unwrap());
    pipeline.set_state(gst::State::Playing).unwrap();
    // Once its latency is known the pipeline has it.
    pipeline.end().expect_eos();
    assert!(pipeline.stats().get::<bool>("parallel").unwrap());
    assert_eq!(output.lock().unwrap().packets.len(), 60);
    let mut query = gst::query::Latency::new();
    assert!(pipeline.query(&mut query));
    let (is_live, min, _) = query.result();
    assert!(is_live);
    // Two sessions of five frames, and two: 240 ms.
    assert!(min >= ms(240), "{min}");
    let configured = pipeline.latency().or(Some(min));
    assert!(configured >= Some(ms(240)));
}
