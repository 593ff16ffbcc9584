// SPDX-License-Identifier: MPL-2.0

//! Stopping, flushing and starting again, at any moment: nothing hangs, nothing is left, nothing old comes out.

mod common;

use common::scripted::Gate;
use common::{Pipeline, app_src, constant, gray, record, scripted_pipeline};
use gst::prelude::*;
use std::process::Command;
use std::sync::mpsc;

const ENCODER: &str = "vtparallelenc name=enc encoder=\"scriptedenc bframes=2 look-ahead=3\" sessions=3 \
     chunk-frames=10 min-chunk-frames=3 overlap-before=2 overlap-after=2";

const CANNOT_BE_CUT: &str =
    "vtparallelenc encoder=\"scriptedenc mark-none=true bframes=1\" sessions=3 chunk-frames=10";

fn push(pipeline: &Pipeline, frames: std::ops::Range<u64>) {
    let src = app_src(pipeline);
    for number in frames {
        let time = constant(number + 1)[number as usize];
        src.push_buffer(gray(number, time)).unwrap();
    }
}

/// Calls back when the `nth` buffer passes the pad.
fn when_passed(pad: &gst::Pad, nth: usize) -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    let mut passed = 0;
    let count = std::sync::Mutex::new(move || {
        passed += 1;
        if passed == nth {
            let _ = sender.send(());
        }
    });
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        (count.lock().unwrap())();
        gst::PadProbeReturn::Ok
    });
    receiver
}

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
    // In a process of its own, whose end is looked at by GStreamer's leaks tracer.
    const INNER: &str = "VT_TEST_LEAKS";
    if std::env::var_os(INNER).is_some() {
        stop_a_hundred_times();
        // SAFETY: this process runs this test alone, and no GStreamer object is left.
        unsafe { gst::deinit() };
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "stopping_leaves_nothing_behind",
            "--test-threads=1",
        ])
        .env(INNER, "1")
        .env("GST_TRACERS", "leaks(check-refs=true)")
        .env("GST_DEBUG", "GST_TRACER:7")
        .env("GST_DEBUG_NO_COLOR", "1")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    // The tracer was there: it says how it will speak.
    assert!(log.contains("new format string: object-alive"), "{log}");
    let alive: Vec<_> = log
        .lines()
        .filter(|line| line.contains("object-alive, ") && !line.contains("format string"))
        .collect();
    assert!(alive.is_empty(), "{alive:#?}");
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
        // The first pad that a stop deactivates.
        let aggregator = enc
            .downcast::<gst::Bin>()
            .unwrap()
            .by_name("aggregator")
            .unwrap();
        let opener = aggregator.static_pad("src").unwrap();
        let opened = gate.clone();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while opener.is_active() {
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

fn push_to(pad: &gst::Pad, number: u64) -> Result<gst::FlowSuccess, gst::FlowError> {
    let frame = gst::ClockTime::from_mseconds(40);
    pad.push(gray(number, (frame * number, Some(frame))))
}

/// The element alone between two pads of the test, which may flush from any thread.
struct Bench {
    enc: gst::Element,
    src: gst::Pad,
    sink: gst::Pad,
    output: std::sync::Arc<std::sync::Mutex<common::Output>>,
    ended: mpsc::Receiver<()>,
    /// The encoder marks its key frames.
    marks_keys: bool,
}

impl Bench {
    fn new(encoder: &str) -> Self {
        common::init();
        let enc = gst::parse::launch(encoder).unwrap();
        let src = gst::Pad::builder(gst::PadDirection::Src).build();
        let (sender, ended) = mpsc::channel();
        let sink = gst::Pad::builder(gst::PadDirection::Sink)
            .chain_function(|_, _, _| Ok(gst::FlowSuccess::Ok))
            .event_function(move |_, _, event| {
                if event.type_() == gst::EventType::Eos {
                    let _ = sender.send(());
                }
                true
            })
            .build();
        src.link(&enc.static_pad("sink").unwrap()).unwrap();
        enc.static_pad("src").unwrap().link(&sink).unwrap();
        let output = record(&sink);
        sink.set_active(true).unwrap();
        src.set_active(true).unwrap();
        enc.set_state(gst::State::Playing).unwrap();
        assert!(src.push_event(gst::event::StreamStart::new("bench")));
        let caps: gst::Caps = common::GRAY.parse().unwrap();
        assert!(src.push_event(gst::event::Caps::new(&caps)));
        let bench = Self {
            enc,
            src,
            sink,
            output,
            ended,
            marks_keys: !encoder.contains("mark-none"),
        };
        bench.begin_segment();
        bench
    }

    fn begin_segment(&self) {
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        assert!(self.src.push_event(gst::event::Segment::new(&segment)));
    }

    fn push(&self, number: u64) -> Result<gst::FlowSuccess, gst::FlowError> {
        push_to(&self.src, number)
    }

    fn flush(&self) {
        assert!(self.src.push_event(gst::event::FlushStart::new()));
        assert!(self.src.push_event(gst::event::FlushStop::new(true)));
        self.begin_segment();
    }

    /// Frames 1000..1033 come out whole and alone after the last flush.
    fn assert_goes_on(&self) {
        for number in 1000..1033 {
            self.push(number).unwrap();
        }
        assert!(self.src.push_event(gst::event::Eos::new()));
        self.ended
            .recv_timeout(std::time::Duration::from_secs(60))
            .expect("it hangs");
        let output = self.output.lock().unwrap();
        let frames: Vec<_> = output.packets.iter().map(|packet| packet.frame()).collect();
        let first_new = frames.iter().position(|&frame| frame >= 1000).unwrap();
        let mut new = frames[first_new..].to_vec();
        new.sort_unstable();
        assert_eq!(new, (1000..1033).collect::<Vec<_>>());
        assert_eq!(output.packets[first_new].is_key(), self.marks_keys);
        assert!(
            output.packets[first_new]
                .flags
                .contains(gst::BufferFlags::DISCONT)
        );
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.enc.set_state(gst::State::Null);
        let _ = self.src.set_active(false);
        let _ = self.sink.set_active(false);
    }
}

#[test]
fn a_flush_in_the_middle_of_a_chunk() {
    // One that can be cut, and one that can't.
    for encoder in [ENCODER, CANNOT_BE_CUT] {
        for before in [0, 1, 4, 10, 13, 25, 47] {
            let bench = Bench::new(encoder);
            for number in 0..before {
                bench.push(number).unwrap();
            }
            bench.flush();
            bench.assert_goes_on();
        }
    }
}

#[test]
fn a_flush_from_another_thread_while_upstream_waits() {
    let gate = Gate::named("flush");
    let bench = Bench::new(
        "vtparallelenc encoder=\"scriptedenc gate=flush\" sessions=2 chunk-frames=10 min-chunk-frames=3",
    );
    std::thread::scope(|scope| {
        // More than fits: this thread ends up waiting for room.
        let src = bench.src.clone();
        let pusher = scope.spawn(move || (0..500).map(|n| push_to(&src, n)).find(Result::is_err));
        gate.wait_for(2);
        assert!(bench.src.push_event(gst::event::FlushStart::new()));
        assert_eq!(pusher.join().unwrap(), Some(Err(gst::FlowError::Flushing)));
        gate.open();
        assert!(bench.src.push_event(gst::event::FlushStop::new(true)));
        bench.begin_segment();
    });
    bench.assert_goes_on();
}

#[test]
fn an_end_and_a_flush_and_all_over_again() {
    for encoder in [ENCODER, CANNOT_BE_CUT] {
        let bench = Bench::new(encoder);
        for _ in 0..10 {
            for number in 0..25 {
                bench.push(number).unwrap();
            }
            assert!(bench.src.push_event(gst::event::Eos::new()));
            bench
                .ended
                .recv_timeout(std::time::Duration::from_secs(60))
                .expect("it hangs");
            bench.flush();
        }
        assert_eq!(bench.output.lock().unwrap().packets.len(), 250);
        bench.assert_goes_on();
    }
}
