// SPDX-License-Identifier: MPL-2.0

//! Events leave where one encoder would let them leave.

mod common;

use common::{Output, app_src, constant, gray, record, scripted_pipeline};
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

#[test]
fn a_serialized_event_keeps_its_place() {
    let send = |number: u64, src: &gst_app::AppSrc| {
        if number % 9 == 5 {
            let structure = gst::Structure::builder(format!("mark-{number}")).build();
            src.send_event(gst::event::CustomDownstream::new(structure));
        }
    };
    for encoder in ["scriptedenc", CHUNKED] {
        let (_, order) = run(encoder, send);
        for number in (0..50).filter(|number| number % 9 == 5) {
            let mark = format!("mark-{number}");
            let at = order
                .iter()
                .position(|entry| entry.ends_with(&mark))
                .unwrap();
            let frame = order
                .iter()
                .position(|entry| *entry == number.to_string())
                .unwrap();
            assert!(
                at < frame,
                "{encoder}: {mark} at {at}, its frame at {frame}"
            );
        }
        let marks = order.iter().filter(|entry| entry.contains("mark-")).count();
        assert_eq!(
            marks,
            (0..50).filter(|number| number % 9 == 5).count(),
            "{encoder}"
        );
    }
}

#[test]
fn new_caps_begin_a_new_chunk() {
    let pipeline = scripted_pipeline(CHUNKED);
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    let src = app_src(&pipeline);
    for (number, &time) in constant(50).iter().enumerate() {
        if number == 20 || number == 22 {
            let caps = common::GRAY.replace("framerate=25/1", &format!("framerate={number}/1"));
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
    let mut frames: Vec<_> = output.packets.iter().map(|packet| packet.frame()).collect();
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

#[test]
fn a_requested_key_frame_is_made_where_it_was_asked_for() {
    let ask = |number: u64, src: &gst_app::AppSrc| {
        if number == 17 {
            src.send_event(gst_video::DownstreamForceKeyUnitEvent::builder().build());
        }
    };
    let (output, _) = run(CHUNKED, ask);
    let packet = output
        .packets
        .iter()
        .find(|packet| packet.frame() == 17)
        .unwrap();
    assert!(packet.is_key(), "{packet:?}");
}
