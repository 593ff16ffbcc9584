// SPDX-License-Identifier: MPL-2.0

//! Seeks: to any place, in any state, from any thread. What leaves after one is what was asked for, and nothing of before.

mod common;

use common::{End, Output, Pipeline, record};
use gst::prelude::*;
use std::sync::{Arc, Mutex};

const PLAIN: &str = "scriptedenc keep-times=true";
const OURS: &str =
    "vtparallelenc name=enc encoder=scriptedenc sessions=3 chunk-frames=12 min-chunk-frames=4";
const OVERLAPPING: &str = "vtparallelenc name=enc encoder=scriptedenc sessions=2 chunk-frames=9 min-chunk-frames=4 \
     overlap-before=3 overlap-after=5";
/// One encoder for the stream.
const ALONE: &str =
    "vtparallelenc name=enc encoder=\"scriptedenc keep-times=true\" allow-parallel=false";

fn pipeline(encoder: &str) -> (Pipeline, Arc<Mutex<Output>>) {
    let pipeline = Pipeline::parse(&format!(
        "videotestsrc ! video/x-raw,format=GRAY8,width=16,height=16,framerate=25/1 ! {encoder} ! fakesink name=sink sync=false"
    ));
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    (pipeline, output)
}

/// Numbers that look random, the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }
}

fn ms(time: u64) -> gst::ClockTime {
    gst::ClockTime::from_mseconds(time)
}

fn seek(pipeline: &Pipeline, flags: gst::SeekFlags, start: u64, stop: Option<u64>) -> bool {
    let stop_type = match stop {
        Some(_) => gst::SeekType::Set,
        None => gst::SeekType::None,
    };
    pipeline
        .seek(
            1.0,
            flags,
            gst::SeekType::Set,
            ms(start),
            stop_type,
            stop.map(ms),
        )
        .is_ok()
}

/// What left between two flushes.
#[derive(Debug, Default)]
struct Section {
    segment: Option<gst::FormattedSegment<gst::ClockTime>>,
    /// Stream times of the packets.
    times: Vec<gst::ClockTime>,
    is_discont: bool,
    is_key: bool,
    ended: bool,
}

/// As a sink sees it.
fn sections(pipeline: &Pipeline) -> Arc<Mutex<Vec<Section>>> {
    let sections = Arc::new(Mutex::new(vec![Section::default()]));
    let kept = sections.clone();
    let pad = pipeline.element("sink").static_pad("sink").unwrap();
    let mask = gst::PadProbeType::BUFFER
        | gst::PadProbeType::EVENT_DOWNSTREAM
        | gst::PadProbeType::EVENT_FLUSH;
    pad.add_probe(mask, move |_, info| {
        let mut sections = kept.lock().unwrap();
        match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                let section = sections.last_mut().unwrap();
                let segment = section.segment.as_ref().expect("a segment comes first");
                if section.times.is_empty() {
                    section.is_discont = buffer.flags().contains(gst::BufferFlags::DISCONT);
                    section.is_key = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
                }
                let time = segment
                    .to_stream_time(buffer.pts())
                    .expect("in the segment");
                section.times.push(time);
            }
            Some(gst::PadProbeData::Event(event)) => match event.view() {
                gst::EventView::FlushStop(_) => sections.push(Section::default()),
                gst::EventView::Segment(segment) => {
                    let segment = segment.segment().downcast_ref().cloned();
                    sections.last_mut().unwrap().segment = segment;
                }
                gst::EventView::Eos(_) => sections.last_mut().unwrap().ended = true,
                _ => (),
            },
            _ => (),
        }
        gst::PadProbeReturn::Ok
    });
    sections
}

/// The pipeline ended well. `false`: with an error of GStreamer's capsfilter, which tells upstream of an error where an event meets a flush,
/// with any encoder; what it got from the encoder is none.
fn ended_well(pipeline: &Pipeline, encoder: &str, end: &End) -> bool {
    let End::Error { source, debug, .. } = end else {
        return true;
    };
    let last = pipeline.element("sink").static_pad("sink").unwrap();
    let encoder_of = last.peer().unwrap().parent_element().unwrap();
    let peer = encoder_of.static_pad("sink").unwrap().peer().unwrap();
    let is_filters = source.starts_with("videotestsrc")
        && debug.contains("reason error (-5)")
        && peer.last_flow_result() != Err(gst::FlowError::Error);
    assert!(is_filters, "{encoder}: {end:?}");
    false
}

/// Seeks as below, until GStreamer lets it.
fn assert_seeks(encoder: &str, seed: u64) {
    assert!((0..5).any(|round| seeks(encoder, seed + 10 * round)));
}

/// Seeks 200 times, in PAUSED and PLAYING, sometimes before the last seek is done, and plays a last piece to its end. `false`: GStreamer's own
/// error came between.
fn seeks(encoder: &str, seed: u64) -> bool {
    let (pipeline, _) = pipeline(encoder);
    let sections = sections(&pipeline);
    let mut dice = Dice(seed);
    pipeline.set_state(gst::State::Paused).unwrap();
    assert_eq!(
        pipeline.state(gst::ClockTime::from_seconds(60)).1,
        gst::State::Paused
    );
    let mut targets = vec![0];
    for _ in 0..200 {
        let target = dice.roll(100_000);
        let flags = match dice.roll(3) {
            0 => gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE,
            1 => gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT,
            _ => gst::SeekFlags::FLUSH,
        };
        assert!(seek(&pipeline, flags, target, None), "{encoder}: {target}");
        targets.push(target);
        match dice.roll(8) {
            0 => drop(pipeline.set_state(gst::State::Playing)),
            1 => drop(pipeline.set_state(gst::State::Paused)),
            2 => std::thread::sleep(std::time::Duration::from_millis(dice.roll(8))),
            3 | 4 => {
                let (done, ..) = pipeline.state(gst::ClockTime::from_seconds(60));
                if done.is_err() && !ended_well(&pipeline, encoder, &pipeline.end()) {
                    return false;
                }
                assert!(done.is_ok(), "{encoder}: it hangs");
            }
            _ => (),
        }
    }
    assert!(seek(&pipeline, gst::SeekFlags::FLUSH, 7_000, Some(9_000)));
    targets.push(7_000);
    let _ = pipeline.set_state(gst::State::Playing);
    if !ended_well(&pipeline, encoder, &pipeline.end()) {
        return false;
    }
    let sections = sections.lock().unwrap();
    assert_eq!(sections.len(), targets.len(), "{encoder}");
    for (section, &target) in sections.iter().zip(&targets) {
        let Some(first) = section.times.first() else {
            continue;
        };
        // The frame that is shown at that time, from there on; then all others.
        assert_eq!(*first, ms(target), "{encoder}");
        assert!(section.is_discont, "{encoder}");
        for pair in section.times[1..].windows(2) {
            assert_eq!(pair[1] - pair[0], ms(40), "{encoder}: after {target}");
        }
    }
    let last = sections.last().unwrap();
    assert!(last.ended);
    assert_eq!(last.times.len(), 50, "{encoder}");
    if let Some(enc) = pipeline.by_name("enc") {
        let stats: gst::Structure = enc.property("stats");
        assert_eq!(stats.get::<u64>("bytes-held").unwrap(), 0);
    }
    true
}

#[test]
fn two_hundred_seeks_of_the_plain_encoder() {
    assert_seeks(PLAIN, 1);
}

#[test]
fn two_hundred_seeks() {
    assert_seeks(OURS, 1);
    assert_seeks(OURS, 2);
}

#[test]
fn two_hundred_seeks_with_overlap() {
    assert_seeks(OVERLAPPING, 3);
}

#[test]
fn two_hundred_seeks_where_one_encoder_has_the_stream() {
    assert_seeks(ALONE, 5);
}

#[test]
fn two_hundred_seeks_of_a_real_encoder() {
    assert_seeks(
        "vtparallelenc name=enc encoder=\"jpegenc\" sessions=3 chunk-frames=12 min-chunk-frames=4",
        6,
    );
}

#[test]
fn seeks_from_another_thread_while_states_change() {
    for encoder in [PLAIN, OURS, OVERLAPPING, ALONE] {
        let (pipeline, _) = pipeline(encoder);
        let sections = sections(&pipeline);
        pipeline.set_state(gst::State::Playing).unwrap();
        std::thread::scope(|scope| {
            let seeker = scope.spawn(|| {
                let mut dice = Dice(7);
                // Some are refused: nothing plays in READY.
                (0..200)
                    .filter(|_| seek(&pipeline, gst::SeekFlags::FLUSH, dice.roll(90_000), None))
                    .count()
            });
            let mut dice = Dice(8);
            while !seeker.is_finished() {
                let state = match dice.roll(4) {
                    0 => gst::State::Ready,
                    1 => gst::State::Paused,
                    _ => gst::State::Playing,
                };
                let _ = pipeline.set_state(state);
                std::thread::sleep(std::time::Duration::from_millis(dice.roll(4)));
            }
            let _ = seeker.join().unwrap();
        });
        // (What the capsfilter told, see above, is over.)
        pipeline.set_state(gst::State::Ready).unwrap();
        let errors = pipeline.bus().unwrap();
        while let Some(message) = errors.pop_filtered(&[gst::MessageType::Error]) {
            let source = message.src().map(|source| source.name().to_string());
            assert!(
                source.unwrap().starts_with("videotestsrc"),
                "{encoder}: {message:?}"
            );
        }
        pipeline.set_state(gst::State::Paused).unwrap();
        let (done, ..) = pipeline.state(gst::ClockTime::from_seconds(60));
        assert!(done.is_ok(), "{encoder}: it hangs");
        assert!(seek(&pipeline, gst::SeekFlags::FLUSH, 1_000, Some(2_000)));
        pipeline.set_state(gst::State::Playing).unwrap();
        let end = pipeline.end();
        assert!(matches!(end, End::Eos), "{encoder}: {end:?}");
        let sections = sections.lock().unwrap();
        assert_eq!(sections.last().unwrap().times.len(), 25, "{encoder}");
    }
}

#[test]
fn after_the_end_it_plays_again() {
    for encoder in [PLAIN, OURS, OVERLAPPING, ALONE] {
        let (pipeline, _) = pipeline(encoder);
        let sections = sections(&pipeline);
        pipeline.set_state(gst::State::Paused).unwrap();
        pipeline.state(gst::ClockTime::from_seconds(60)).0.unwrap();
        for round in 1..=10 {
            assert!(seek(
                &pipeline,
                gst::SeekFlags::FLUSH,
                round * 1_000,
                Some(round * 1_000 + 1_200)
            ));
            pipeline.set_state(gst::State::Playing).unwrap();
            pipeline.end().expect_eos();
            let sections = sections.lock().unwrap();
            let last = sections.last().unwrap();
            assert_eq!(
                (last.times.len(), last.times[0]),
                (30, ms(round * 1_000)),
                "{encoder}"
            );
            assert!(last.ended && last.is_discont);
        }
    }
}

#[test]
fn segments_follow_each_other_without_a_flush() {
    for encoder in [PLAIN, OURS, OVERLAPPING] {
        let (pipeline, output) = pipeline(encoder);
        pipeline.set_state(gst::State::Paused).unwrap();
        pipeline.state(gst::ClockTime::from_seconds(60)).0.unwrap();
        let flags = gst::SeekFlags::SEGMENT;
        assert!(seek(
            &pipeline,
            flags | gst::SeekFlags::FLUSH,
            400,
            Some(1_000)
        ));
        pipeline.set_state(gst::State::Playing).unwrap();
        let done = |pipeline: &Pipeline| {
            let types = [gst::MessageType::SegmentDone, gst::MessageType::Error];
            let bus = pipeline.bus().unwrap();
            let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &types);
            assert_eq!(
                message.expect("it hangs").type_(),
                gst::MessageType::SegmentDone
            );
        };
        for start in [3_000, 5_000, 2_000] {
            done(&pipeline);
            assert!(seek(&pipeline, flags, start, Some(start + 600)));
        }
        done(&pipeline);
        assert!(seek(&pipeline, gst::SeekFlags::empty(), 0, Some(200)));
        pipeline.end().expect_eos();
        let output = output.lock().unwrap();
        let times: Vec<_> = output
            .packets
            .iter()
            .map(|packet| packet.running_time.unwrap())
            .collect();
        // Four pieces of 15 frames, and 5 frames: one after the other.
        let expected: Vec<_> = (0..65).map(|frame| ms(frame * 40)).collect();
        let after_flush = &times[times.len() - 65..];
        assert_eq!(after_flush, expected, "{encoder}");
    }
}
