// SPDX-License-Identifier: MPL-2.0

//! Stopping, flushing and starting again, at any moment: nothing hangs, nothing is left, nothing old comes out.
//!
//! GStreamer's leaks tracer looks at a hundred stops each time. Memory that no object holds is valgrind's affair, by hand:
//!
//! ```sh
//! cargo test --test flows --test seeking --no-run
//! valgrind --leak-check=full --show-leak-kinds=definite target/debug/deps/flows-… --test-threads=1
//! ```
//!
//! Last run on 2026-11-22 (valgrind 3.19, GStreamer 1.22.0): no invalid access; definitely lost are 16,384 bytes that GLib
//! allocates when it is loaded.

mod common;

use common::rig::{Entry, Rig, push_to};
use common::scripted::Gate;
use common::{Pipeline, app_src, push, record, scripted_pipeline, when_passed};
use gst::prelude::*;
use std::sync::mpsc;

const ENCODER: &str = "vtparallelenc name=enc encoder=\"scriptedenc bframes=2 look-ahead=3\" sessions=3 \
     chunk-frames=10 min-chunk-frames=3 overlap-before=2 overlap-after=2";

fn stop(pipeline: &Pipeline) {
    let stopped = pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(stopped, gst::StateChangeSuccess::Success);
    let enc: gst::Bin = pipeline.element("enc").downcast().unwrap();
    let encoders = enc
        .iterate_recurse()
        .into_iter()
        .flatten()
        .filter(|element| element.factory().is_some_and(|f| f.name() == "scriptedenc"));
    assert_eq!(encoders.count(), 0, "an encoder was left behind");
}

/// Stops a hundred times, each time at another moment.
fn stop_a_hundred_times() {
    for moment in 0..100 {
        let pipeline = scripted_pipeline(ENCODER);
        let enc = pipeline.element("enc");
        let frames = 60;
        let passed = match moment % 4 {
            // While frames go in.
            0 => Some(when_passed(
                &enc.static_pad("sink").unwrap(),
                1 + moment / 2,
            )),
            // While packets come out.
            1 => Some(when_passed(&enc.static_pad("src").unwrap(), 1 + moment / 4)),
            // At once, and while it starts.
            _ => None,
        };
        push(&pipeline, 0..frames);
        if moment % 3 == 0 {
            app_src(&pipeline).end_of_stream().unwrap();
        }
        pipeline.set_state(gst::State::Playing).unwrap();
        if let Some(passed) = passed {
            passed.recv().unwrap();
        }
        stop(&pipeline);
    }
}

#[test]
fn stopping_at_any_moment() {
    stop_a_hundred_times();
}

#[test]
fn stopping_leaves_nothing_behind() {
    if common::leaves_nothing_behind("stopping_leaves_nothing_behind") {
        stop_a_hundred_times();
        // SAFETY: this process runs this test alone, and no GStreamer object is left.
        unsafe { gst::deinit() };
    }
}

#[test]
fn stopping_while_downstream_blocks() {
    for packets in [1, 5, 11] {
        let pipeline = scripted_pipeline(ENCODER);
        let src = pipeline.element("enc").static_pad("src").unwrap();
        let (sender, blocked) = mpsc::channel();
        let mut passed = 0;
        let block = std::sync::Mutex::new(move || {
            passed += 1;
            if passed == packets {
                let _ = sender.send(());
            }
            passed >= packets
        });
        src.add_probe(
            gst::PadProbeType::BUFFER | gst::PadProbeType::BLOCK,
            move |_, _| match (block.lock().unwrap())() {
                true => gst::PadProbeReturn::Ok,
                false => gst::PadProbeReturn::Pass,
            },
        );
        push(&pipeline, 0..60);
        pipeline.set_state(gst::State::Playing).unwrap();
        blocked.recv().unwrap();
        stop(&pipeline);
    }
}

#[test]
fn stopping_while_encoders_are_at_work() {
    for at_work in 1..=3 {
        let name = format!("at-work-{at_work}");
        let gate = Gate::named(&name);
        let pipeline = scripted_pipeline(&format!(
            "vtparallelenc name=enc encoder=\"scriptedenc gate={name}\" sessions={at_work} chunk-frames=10"
        ));
        push(&pipeline, 0..60);
        pipeline.set_state(gst::State::Playing).unwrap();
        gate.wait_for(at_work);
        // They are inside their encoders and stay there until the element already stops.
        let enc = pipeline.element("enc");
        // The first task that a stop ends.
        let aggregator = enc
            .downcast::<gst::Bin>()
            .unwrap()
            .by_name("aggregator")
            .unwrap();
        let opener = aggregator.static_pad("src").unwrap();
        let opened = gate.clone();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while opener.task_state() == gst::TaskState::Started {
                    std::thread::yield_now();
                }
                opened.open();
            });
            stop(&pipeline);
        });
    }
}

#[test]
fn starting_again_after_a_stop() {
    let pipeline = scripted_pipeline(ENCODER);
    for _ in 0..5 {
        let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
        pipeline.set_state(gst::State::Playing).unwrap();
        push(&pipeline, 0..33);
        app_src(&pipeline).end_of_stream().unwrap();
        pipeline.end().expect_eos();
        assert_eq!(output.lock().unwrap().packets.len(), 33);
        stop(&pipeline);
    }
}

#[test]
fn settings_changed_at_ready_hold_from_then_on() {
    let pipeline =
        scripted_pipeline("vtparallelenc name=enc encoder=scriptedenc sessions=2 chunk-frames=10");
    pipeline.set_state(gst::State::Ready).unwrap();
    pipeline.element("enc").set_property("chunk-frames", 15u32);
    pipeline.element("enc").set_property("sessions", 4u32);
    push(&pipeline, 0..30);
    app_src(&pipeline).end_of_stream().unwrap();
    pipeline.run().expect_eos();
    let stats = pipeline.stats();
    assert_eq!(stats.get::<u64>("chunks-finished").unwrap(), 2);
    assert_eq!(stats.get::<gst::ArrayRef<'_>>("sessions").unwrap().len(), 4);
}

/// Frames 1000..1033 come out whole and alone after the last flush.
fn assert_goes_on(rig: &Rig) {
    rig.push_all(1000..1033);
    rig.end();
    let entries = rig.entries();
    let frames: Vec<_> = entries.iter().filter_map(Entry::frame).collect();
    let first_new = frames.iter().position(|&frame| frame >= 1000).unwrap();
    let mut new = frames[first_new..].to_vec();
    new.sort_unstable();
    assert_eq!(new, (1000..1033).collect::<Vec<_>>());
    let mut packets = entries.iter().filter(|entry| entry.frame().is_some());
    let first = packets.nth(first_new).unwrap();
    assert!(first.is_key());
    assert!(
        first
            .buffer()
            .unwrap()
            .flags()
            .contains(gst::BufferFlags::DISCONT)
    );
}

#[test]
fn a_flush_in_the_middle_of_a_chunk() {
    for before in [0, 1, 4, 10, 13, 25, 47] {
        let rig = Rig::new(ENCODER);
        rig.push_all(0..before);
        rig.flush();
        assert_goes_on(&rig);
    }
}

#[test]
fn a_flush_from_another_thread_while_upstream_waits() {
    let gate = Gate::named("flush");
    let encoder = "vtparallelenc encoder=\"scriptedenc gate=flush\" sessions=2 chunk-frames=10 min-chunk-frames=3";
    let rig = Rig::new(encoder);
    std::thread::scope(|scope| {
        // More than fits: this thread ends up waiting for room.
        let src = rig.src.clone();
        let pusher = scope.spawn(move || (0..500).map(|n| push_to(&src, n)).find(Result::is_err));
        gate.wait_for(2);
        assert!(rig.src.push_event(gst::event::FlushStart::new()));
        assert_eq!(pusher.join().unwrap(), Some(Err(gst::FlowError::Flushing)));
        gate.open();
        assert!(rig.src.push_event(gst::event::FlushStop::new(true)));
        rig.begin_segment();
    });
    assert_goes_on(&rig);
}

#[test]
fn an_end_and_a_flush_and_all_over_again() {
    let rig = Rig::new(ENCODER);
    for _ in 0..10 {
        rig.push_all(0..25);
        rig.end();
        rig.flush();
    }
    assert_eq!(rig.frames().len(), 250);
    assert_goes_on(&rig);
}

/// Changes the pipeline's state from two threads, `times` in all, and plays it to its end.
fn change_states(encoder: &str, sink: &str, times: u32) {
    let pipeline = Pipeline::parse(&format!(
        "videotestsrc num-buffers=70 ! video/x-raw,format=GRAY8,width=16,height=16,framerate=25/1 ! {encoder} ! {sink}"
    ));
    const STATES: [gst::State; 4] = [
        gst::State::Null,
        gst::State::Ready,
        gst::State::Paused,
        gst::State::Playing,
    ];
    let change = |seed: u64| {
        let mut dice = seed;
        for _ in 0..times / 2 {
            dice = dice
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let _ = pipeline.set_state(STATES[(dice >> 40) as usize % STATES.len()]);
            if (dice >> 50).is_multiple_of(4) {
                std::thread::sleep(std::time::Duration::from_micros((dice >> 45) % 2000));
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| change(1));
        scope.spawn(|| change(2));
    });
    stop(&pipeline);
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    pipeline.bus().unwrap().set_flushing(true);
    pipeline.bus().unwrap().set_flushing(false);
    pipeline.run().expect_eos();
    assert_eq!(output.lock().unwrap().packets.len(), 70);
    stop(&pipeline);
}

#[test]
fn five_hundred_state_changes_from_two_threads() {
    change_states(ENCODER, "fakesink name=sink sync=false", 500);
    // Encoders that are slow to open: their session is opening when the state changes.
    change_states(
        "vtparallelenc name=enc encoder=\"scriptedenc open-ms=2\" sessions=3 chunk-frames=5 min-chunk-frames=2",
        "fakesink name=sink sync=false",
        200,
    );
}

#[test]
fn five_hundred_state_changes_while_downstream_waits() {
    // A sink that shows each packet in its time: all before it wait for that.
    change_states(
        ENCODER,
        "fakesink name=sink sync=true ts-offset=-2500000000",
        500,
    );
}

#[test]
fn it_is_neither_source_nor_sink_and_changes_its_state_at_once() {
    common::init();
    let factories = gst::ElementFactory::factories_with_type(
        gst::ElementFactoryType::VIDEO_ENCODER,
        gst::Rank::NONE,
    );
    let ours: Vec<_> = factories
        .into_iter()
        .filter(|factory| factory.name().starts_with("vtparallel"))
        .collect();
    assert_eq!(ours.len(), 14);
    for factory in ours {
        for encoder in [None, Some("scriptedenc")] {
            let enc = factory.create().build().unwrap();
            // (Those of one format don't take it.)
            let encoder = encoder.filter(|_| factory.name() == "vtparallelenc");
            enc.set_property("encoder", encoder);
            let bus = gst::Bus::new();
            enc.set_bus(Some(&bus));
            for _ in 0..3 {
                for state in [
                    gst::State::Ready,
                    gst::State::Paused,
                    gst::State::Playing,
                    gst::State::Paused,
                    gst::State::Playing,
                    gst::State::Ready,
                    gst::State::Paused,
                    gst::State::Null,
                ] {
                    let changed = enc.set_state(state);
                    assert_eq!(
                        changed,
                        Ok(gst::StateChangeSuccess::Success),
                        "{} {state:?}",
                        factory.name()
                    );
                    let flags = enc.element_flags();
                    assert!(!flags.intersects(gst::ElementFlags::SINK | gst::ElementFlags::SOURCE));
                }
            }
            let types = [
                gst::MessageType::AsyncStart,
                gst::MessageType::AsyncDone,
                gst::MessageType::Error,
            ];
            assert!(bus.pop_filtered(&types).is_none());
        }
    }
}

#[test]
fn the_application_hears_of_no_session() {
    let pipeline = scripted_pipeline(ENCODER);
    push(&pipeline, 0..200);
    app_src(&pipeline).end_of_stream().unwrap();
    let heard = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = heard.clone();
    pipeline.bus().unwrap().set_sync_handler(move |_, message| {
        let source = message.src().map(|source| source.path_string().to_string());
        kept.lock()
            .unwrap()
            .push((message.type_(), source.unwrap_or_default()));
        gst::BusSyncReply::Pass
    });
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(gst::ClockTime::from_seconds(60)).0.unwrap();
    let before = heard.lock().unwrap().len();
    pipeline.set_state(gst::State::Playing).unwrap();
    pipeline.end().expect_eos();
    let heard = heard.lock().unwrap();
    // Twenty chunks, twenty encoders: all that is told of them is which threads there are.
    let of_sessions = heard[before..].iter().filter(|(kind, source)| {
        source.contains("session") && *kind != gst::MessageType::StreamStatus
    });
    let of_encoders = of_sessions.filter(|(_, source)| source.contains("encoder"));
    assert_eq!(of_encoders.count(), 0, "{heard:?}");
}
