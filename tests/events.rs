// SPDX-License-Identifier: MPL-2.0

//! Events leave where one encoder would let them leave.

mod common;

use common::rig::{Rig, assert_same};
use common::{GRAY, Output, app_src, constant, feed, gray, record, scripted_pipeline};
use gst::prelude::*;

/// Runs frames 0..50 with `before` called ahead of each; what leaves in order, as text.
fn run(encoder: &str, mut before: impl FnMut(u64, &gst_app::AppSrc)) -> (Output, Vec<String>) {
    let pipeline = scripted_pipeline(encoder);
    let sink = pipeline.element("sink").static_pad("sink").unwrap();
    let output = record(&sink);
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = order.clone();
    sink.add_probe(
        gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM,
        move |_, info| {
            let mut order = kept.lock().unwrap();
            match &info.data {
                Some(gst::PadProbeData::Buffer(buffer)) => {
                    let text = buffer.map_readable().unwrap();
                    let text = std::str::from_utf8(&text).unwrap();
                    order.push(text.split(' ').next().unwrap().to_string());
                }
                Some(gst::PadProbeData::Event(event)) => {
                    let name = event
                        .structure()
                        .map(|structure| structure.name().to_string());
                    order.push(format!("{:?} {}", event.type_(), name.unwrap_or_default()));
                }
                _ => (),
            }
            gst::PadProbeReturn::Ok
        },
    );
    // The application's events must not overtake the frames that wait in appsrc.
    pipeline.element("src").set_property("max-buffers", 1u64);
    pipeline.element("src").set_property("block", true);
    pipeline.set_state(gst::State::Playing).unwrap();
    let src = app_src(&pipeline);
    for (number, &time) in constant(50).iter().enumerate() {
        before(number as u64, &src);
        src.push_buffer(gray(number as u64, time)).unwrap();
    }
    src.end_of_stream().unwrap();
    pipeline.end().expect_eos();
    let output = output.lock().unwrap().clone();
    let order = order.lock().unwrap().clone();
    (output, order)
}

const CHUNKED: &str = "vtparallelenc name=enc encoder=\"scriptedenc bframes=2\" sessions=3 chunk-frames=12 \
     min-chunk-frames=4 overlap-before=3 overlap-after=3";

#[test]
fn the_frame_of_a_stream_is_that_of_the_plain_encoder() {
    let (plain, plain_order) = run("scriptedenc bframes=2", |_, _| ());
    let (ours, order) = run(CHUNKED, |_, _| ());
    let events = |order: &[String]| -> Vec<String> {
        order
            .iter()
            .filter(|entry| entry.contains(' '))
            .cloned()
            .collect()
    };
    assert_eq!(events(&plain_order), events(&order));
    assert_eq!(plain.packets.len(), ours.packets.len());
    // STREAM_START is upstream's own.
    let id = |output: &Output| {
        let event = output
            .events
            .iter()
            .find(|event| event.type_() == gst::EventType::StreamStart);
        match event.unwrap().view() {
            gst::EventView::StreamStart(start) => start.stream_id().len(),
            _ => unreachable!(),
        }
    };
    assert_eq!(id(&plain), id(&ours));
}

/// Without B-frames, so that packets leave in the frames' order.
const PLAIN: &str = "scriptedenc";
const OURS: &str = "vtparallelenc name=enc encoder=scriptedenc sessions=3 chunk-frames=12 min-chunk-frames=4 \
     overlap-before=3 overlap-after=3";

fn tags(title: &str, scope: gst::TagScope) -> gst::Event {
    let mut tags = gst::TagList::new();
    let list = tags.make_mut();
    list.set_scope(scope);
    list.add::<gst::tags::Title>(&title, gst::TagMergeMode::Append);
    // What a plain encoder doesn't take over.
    list.add::<gst::tags::VideoCodec>(&"raw", gst::TagMergeMode::Append);
    list.add::<gst::tags::Bitrate>(&1000, gst::TagMergeMode::Append);
    gst::event::Tag::new(tags)
}

fn custom(number: u64) -> gst::Event {
    let structure = gst::Structure::builder("mark").field("number", number);
    gst::event::CustomDownstream::new(structure.build())
}

fn segment(start: u64, stop: Option<u64>, base: u64, rate: f64) -> gst::Event {
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_rate(rate);
    segment.set_start(gst::ClockTime::from_mseconds(start));
    segment.set_stop(stop.map(gst::ClockTime::from_mseconds));
    segment.set_base(gst::ClockTime::from_mseconds(base));
    segment.set_time(gst::ClockTime::from_mseconds(start + 5));
    gst::event::Segment::new(&segment)
}

fn caps_event() -> gst::Event {
    gst::event::Caps::new(&GRAY.parse::<gst::Caps>().unwrap())
}

#[test]
fn serialized_events_keep_their_places() {
    for bframes in ["", " bframes=2"] {
        let plain = format!("{PLAIN}{bframes}");
        let ours = OURS.replace(PLAIN, &format!("\"{plain}\""));
        let count = |encoder: &str| {
            let rig = Rig::new(encoder);
            for number in 0..50 {
                rig.send(custom(number));
                rig.push(number).unwrap();
            }
            rig.end();
            // Each before its own frame, none doubled, none lost, in order.
            let entries = rig.entries();
            let mut last = None;
            let mut left = 0;
            for entry in &entries {
                if let Some(structure) = entry.event().and_then(|event| event.structure())
                    && structure.name() == "mark"
                {
                    let number: u64 = structure.get("number").unwrap();
                    assert!(Some(number) > last, "{encoder}: {number} after {last:?}");
                    last = Some(number);
                    left += 1;
                }
                if let Some(frame) = entry.frame() {
                    assert!(
                        last >= Some(frame),
                        "{encoder}: frame {frame} before its event"
                    );
                }
            }
            left
        };
        assert_eq!(count(&plain), 50);
        assert_eq!(count(&ours), 50);
    }
}

#[test]
fn each_kind_of_event_leaves_as_with_the_plain_encoder() {
    assert_same(PLAIN, OURS, None, |rig| {
        rig.send(
            gst::event::StreamStart::builder("my/stream")
                .flags(gst::StreamFlags::SELECT)
                .build(),
        );
        rig.send(caps_event());
        rig.send(segment(200, Some(1900), 0, 1.0));
        rig.send(tags("before", gst::TagScope::Stream));
        for number in 0..50 {
            match number {
                7 => rig.send(tags("whole", gst::TagScope::Global)),
                13 => rig.send(tags("second", gst::TagScope::Stream)),
                14 => rig.send(gst::event::Gap::new(
                    gst::ClockTime::from_mseconds(560),
                    None,
                )),
                15 | 16 | 31 => rig.send(custom(number)),
                26 => rig.send(gst::event::Toc::new(
                    &gst::Toc::new(gst::TocScope::Global),
                    false,
                )),
                _ => (),
            }
            rig.push(number).unwrap();
        }
        rig.send(custom(99));
        rig.end();
    });
}

#[test]
fn frames_are_clipped_as_the_plain_encoder_clips_them() {
    // Cut in the middle of a frame at both ends, played at another rate, after something else, and twice.
    assert_same(PLAIN, OURS, None, |rig| {
        rig.send(gst::event::StreamStart::new("rig"));
        rig.send(caps_event());
        rig.send(segment(210, Some(950), 0, 2.0));
        rig.push_all(0..30);
        rig.send(segment(1010, None, 370, 1.0));
        rig.push_all(20..60);
        rig.send(segment(3000, Some(3010), 3000, 0.5));
        rig.push_all(70..80);
        rig.end();
    });
}

#[test]
fn a_segment_that_is_not_in_time_is_passed_on() {
    let story = |encoder: &str| {
        let rig = Rig::bare(encoder);
        rig.send(gst::event::StreamStart::new("rig"));
        rig.send(caps_event());
        let bytes = gst::FormattedSegment::<gst::format::Bytes>::new();
        rig.send(gst::event::Segment::new(&bytes));
        rig.push_all(0..30);
        rig.end();
        // (Nobody can tell by how much the plain encoder has moved the times.)
        let story = rig.story().into_iter();
        let story = story.map(|it| it.split(" at ").next().map(str::to_string));
        story.collect::<Vec<_>>()
    };
    assert_eq!(story(PLAIN), story(OURS));
}

#[test]
fn a_stream_without_frames_is_its_frame() {
    for with_caps in [true, false] {
        assert_same(PLAIN, OURS, None, |rig| {
            rig.send(gst::event::StreamStart::new("rig"));
            if with_caps {
                rig.send(caps_event());
            }
            rig.send(segment(0, None, 0, 1.0));
            rig.send(custom(1));
            rig.end();
            // What the encoder makes of the caps, nobody needs.
            let entries = &mut rig.downstream.lock().unwrap().entries;
            entries.retain(|entry| {
                entry
                    .event()
                    .is_none_or(|event| event.type_() != gst::EventType::Caps)
            });
        });
    }
}

#[test]
fn the_end_of_a_segment_comes_after_its_frames_and_does_not_wait() {
    let rig = Rig::new(OURS);
    rig.push_all(0..17);
    rig.send(gst::event::SegmentDone::new(gst::ClockTime::from_mseconds(
        680,
    )));
    // No frame comes any more: the plain encoder keeps the event back until one does.
    let is_done = |rig: &Rig| {
        rig.story()
            .last()
            .is_some_and(|it| it.starts_with("segment-done"))
    };
    while !is_done(&rig) {
        std::thread::yield_now();
    }
    assert_eq!(rig.frames().len(), 17);
    rig.send(segment(0, None, 680, 1.0));
    rig.push_all(0..17);
    rig.end();
    let frames: Vec<_> = rig.frames();
    assert_eq!(frames, (0..17).chain(0..17).collect::<Vec<_>>());
}

#[test]
fn another_stream_after_the_end_of_one() {
    // (The plain encoder goes on, too; x264enc doesn't.) Upstream waits for each end, or doesn't.
    for waits in [true, false] {
        assert_same(PLAIN, OURS, None, |rig| {
            for (stream, first) in [("one", 0), ("two", 1), ("three", 40)] {
                rig.send(gst::event::StreamStart::new(stream));
                rig.send(caps_event());
                rig.send(segment(first * 40, None, 0, 1.0));
                rig.send(tags("the same", gst::TagScope::Stream));
                rig.push_all(first..first + 25);
                rig.send(gst::event::Eos::new());
                if waits {
                    rig.wait_for_end();
                }
            }
            for _ in 0..if waits { 0 } else { 3 } {
                rig.wait_for_end();
            }
        });
    }
}

#[test]
fn another_stream_without_an_end_drops_the_tags_of_the_last() {
    assert_same(PLAIN, OURS, None, |rig| {
        rig.send(gst::event::StreamStart::new("one"));
        rig.send(caps_event());
        rig.send(segment(0, None, 0, 1.0));
        rig.send(tags("one", gst::TagScope::Stream));
        rig.push_all(0..20);
        rig.send(gst::event::StreamStart::new("two"));
        rig.send(caps_event());
        rig.send(segment(800, None, 800, 1.0));
        rig.push_all(20..50);
        rig.end();
    });
}

#[test]
fn tags_are_those_of_the_plain_encoder() {
    // Real encoders say what they are and at which rate they encode.
    let i420 = "video/x-raw,format=I420,width=64,height=64,framerate=25/1";
    for encoder in [
        "x264enc threads=1 bitrate=300",
        "vp8enc target-bitrate=300000",
        "jpegenc",
    ] {
        let of = |encoder: &str| {
            let rig = Rig::with_caps(encoder, i420);
            rig.send(tags("title", gst::TagScope::Stream));
            for number in 0..40u64 {
                let mut buffer = gst::Buffer::from_slice(vec![number as u8; 64 * 64 * 3 / 2]);
                let times = buffer.get_mut().unwrap();
                times.set_pts(gst::ClockTime::from_mseconds(number * 40));
                times.set_duration(gst::ClockTime::from_mseconds(40));
                if number == 20 {
                    rig.send(tags("other", gst::TagScope::Stream));
                }
                rig.src.push(buffer).unwrap();
            }
            rig.end();
            let story = rig.story();
            let tags = story.into_iter().filter(|entry| entry.starts_with("tag "));
            // (x264enc says the same again.)
            let mut tags: Vec<_> = tags.collect();
            tags.dedup();
            tags
        };
        let plain = of(encoder);
        let ours = of(&format!(
            "vtparallelenc encoder=\"{encoder}\" sessions=2 chunk-frames=12 min-chunk-frames=4"
        ));
        assert_eq!(plain, ours, "{encoder}");
    }
}

#[test]
fn new_caps_begin_a_new_chunk() {
    let pipeline = scripted_pipeline(CHUNKED);
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    let src = app_src(&pipeline);
    for (number, &time) in constant(50).iter().enumerate() {
        if number == 20 || number == 22 {
            let caps = GRAY.replace("framerate=25/1", &format!("framerate={number}/1"));
            let caps: gst::Caps = caps.parse().unwrap();
            let sample = gst::Sample::builder()
                .caps(&caps)
                .buffer(&gray(number as u64, time))
                .build();
            src.push_sample(&sample).unwrap();
        } else {
            src.push_buffer(gray(number as u64, time)).unwrap();
        }
    }
    src.end_of_stream().unwrap();
    pipeline.run().expect_eos();
    let output = output.lock().unwrap();
    output.assert_timestamps();
    let mut frames: Vec<_> = output.frames();
    frames.sort_unstable();
    assert_eq!(frames, (0..50).collect::<Vec<_>>());
    for start in [20, 22] {
        let packet = output
            .packets
            .iter()
            .find(|packet| packet.frame() == start)
            .unwrap();
        assert!(packet.is_key(), "{packet:?}");
    }
    let rates: Vec<i32> = output
        .events
        .iter()
        .filter_map(|event| match event.view() {
            gst::EventView::Caps(caps) => {
                let caps = caps.caps().structure(0)?;
                Some(caps.get::<gst::Fraction>("framerate").ok()?.numer())
            }
            _ => None,
        })
        .collect();
    assert_eq!(rates, [25, 20, 22]);
}

/// What comes to four encoders, one after the other. (The first one may have been told something before anybody looked.)
fn what_four_encoders_get() -> Output {
    let pipeline =
        scripted_pipeline("vtparallelenc name=enc encoder=scriptedenc sessions=1 chunk-frames=10");
    let bin: gst::Bin = pipeline.element("enc").downcast().unwrap();
    pipeline.set_state(gst::State::Paused).unwrap();
    let distributor = bin.by_name("distributor").unwrap();
    let output = record(&distributor.static_pad("src_0").unwrap());
    feed(&pipeline, &constant(35));
    pipeline.run().expect_eos();
    let got = output.lock().unwrap();
    got.clone()
}

/// As gst-validate wants it.
#[test]
fn an_encoder_is_told_its_caps_once() {
    let got = what_four_encoders_get();
    let types = got.event_types();
    let streams = types.split(|kind| *kind == gst::EventType::StreamStart);
    let caps = |stream: &[gst::EventType]| {
        stream
            .iter()
            .filter(|kind| **kind == gst::EventType::Caps)
            .count()
    };
    let told: Vec<_> = streams.skip(1).map(caps).collect();
    assert!(told == [1; 3] || told == [1; 2], "{told:?}");
}

/// As gst-validate wants it: the end of what an encoder gets is of one operation with its segment.
#[test]
fn an_encoders_end_is_of_its_segment() {
    let got = what_four_encoders_get();
    let (mut segment, mut ends) = (None, 0);
    for event in &got.events {
        match event.type_() {
            gst::EventType::Segment => segment = Some(event.seqnum()),
            gst::EventType::Eos => {
                ends += 1;
                assert!(segment.is_none() || segment == Some(event.seqnum()));
            }
            _ => (),
        }
    }
    assert!(ends >= 3 && segment.is_some(), "{ends} ends");
}
