// SPDX-License-Identifier: MPL-2.0

//! A panic in our own code, wherever it is called from: the application gets an error that says so, the element shuts down and is
//! freed without a complaint of GStreamer's, starts again, and others work as if nothing had been.
//!
//! Points of panic belong to the process, so all is done in one test, one after the other.

mod common;

use common::rig::Rig;
use common::scripted::{Gate, Release, hanging};
use common::{End, Pipeline, constant, feed, record, scripted_pipeline};
use gst::prelude::*;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const FRAMES: u64 = 60;

/// Nothing here takes nearly as long: what does hangs.
const HANG: Duration = Duration::from_secs(30);

const CHUNKS: &str = "chunk-frames=10 min-chunk-frames=4 overlap-before=2 overlap-after=2";

/// How the stream is encoded.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Sessions(u32),
    Sequential,
}

const ALL: &[Way] = &[Way::Sessions(1), Way::Sessions(2), Way::Sequential];
const CHUNKED: &[Way] = &[Way::Sessions(1), Way::Sessions(2)];
const SEQUENTIAL: &[Way] = &[Way::Sequential];

impl Way {
    fn encoder(self, properties: &str, encoder: &str) -> String {
        let way = match self {
            Way::Sessions(sessions) => format!("sessions={sessions} {CHUNKS}"),
            Way::Sequential => "allow-parallel=false".to_string(),
        };
        format!(
            "vtparallelenc name=enc {way} {properties} encoder=\"scriptedenc bframes=1 {encoder}\" encoder::bitrate=5"
        )
    }
}

/// Points that a run comes by, which are what is caught (as the error names it) or are said to be in a lock, in these ways; where it is to panic after it came by so often, `after` says so.
struct Point {
    name: &'static str,
    after: u32,
    ways: &'static [Way],
}

const fn point(name: &'static str, after: u32, ways: &'static [Way]) -> Point {
    Point { name, after, ways }
}

const POINTS: &[Point] = &[
    point("taking a frame", 0, ALL),
    point("taking a frame", 15, ALL),
    point("taking a frame, locked", 0, CHUNKED),
    point("taking a frame, locked", 15, CHUNKED),
    point("event from upstream", 0, ALL),
    // The caps, and the end.
    point("event from upstream", 1, ALL),
    point("event from upstream", 3, ALL),
    point("query from upstream", 0, ALL),
    point("starting or stopping a session", 0, ALL),
    point("starting or stopping the output", 0, ALL),
    point("event from an encoder", 0, SEQUENTIAL),
    point("query from an encoder", 0, SEQUENTIAL),
    point("opening an encoder", 0, ALL),
    point("opening an encoder", 1, CHUNKED),
    point("taking a chunk, locked", 0, CHUNKED),
    point("taking a chunk, locked", 2, CHUNKED),
    point("a session's task", 0, CHUNKED),
    point("a session's task", 2, CHUNKED),
    point("feeding a frame, locked", 0, CHUNKED),
    point("feeding a frame, locked", 17, CHUNKED),
    point("closing an encoder", 0, ALL),
    point("closing an encoder", 1, CHUNKED),
    point("delivering a chunk, locked", 1, CHUNKED),
    point("an encoder's message", 0, ALL),
    point("an encoder's message", 4, ALL),
    point("taking a packet", 0, ALL),
    point("taking a packet", 15, ALL),
    point("taking a packet, locked", 0, CHUNKED),
    point("taking a packet, locked", 15, CHUNKED),
    point("event of an encoder", 0, ALL),
    point("event of an encoder", 3, ALL),
    point("query of an encoder", 0, ALL),
    point("the output's task", 0, ALL),
    point("the output's task", 3, CHUNKED),
    point("the output's task, locked", 0, ALL),
    point("the output's task, locked", 3, CHUNKED),
    point("event from downstream", 0, ALL),
    point("query from downstream", 0, ALL),
    point("stats", 0, ALL),
    point("chunk-frames", 0, CHUNKED),
    point("a message", 0, ALL),
    point("a message", 5, ALL),
    point("before NullToReady", 0, ALL),
    point("before ReadyToPaused", 0, ALL),
    point("before PausedToPlaying", 0, ALL),
    point("before PlayingToPaused", 0, ALL),
    point("before PausedToReady", 0, ALL),
    point("before ReadyToNull", 0, ALL),
    point("after NullToReady", 0, ALL),
    point("after ReadyToPaused", 0, ALL),
    point("after PausedToPlaying", 0, ALL),
    point("after PlayingToPaused", 0, ALL),
    point("after PausedToReady", 0, ALL),
    point("after ReadyToNull", 0, ALL),
    point("a child", 0, CHUNKED),
    point("setting a property of the encoder", 0, CHUNKED),
];

/// A pipeline whose errors are heard at once, in any state.
struct Heard {
    pipeline: Pipeline,
    errors: Receiver<String>,
    /// It ended, well or not.
    ended: Receiver<()>,
    warned: Receiver<()>,
}

impl Heard {
    fn new(encoder: &str) -> Self {
        Self::hear(scripted_pipeline(encoder))
    }

    fn hear(pipeline: Pipeline) -> Self {
        let ((error, errors), (end, ended), (warning, warned)) = (channel(), channel(), channel());
        pipeline.bus().unwrap().set_sync_handler(move |_, message| {
            match message.view() {
                gst::MessageView::Error(it) => {
                    let _ = error.send(format!("{} {:?}", it.error(), it.debug()));
                    let _ = end.send(());
                }
                gst::MessageView::Eos(_) => {
                    let _ = end.send(());
                }
                gst::MessageView::Warning(_) => {
                    let _ = warning.send(());
                }
                _ => (),
            }
            gst::BusSyncReply::Drop
        });
        Self {
            pipeline,
            errors,
            ended,
            warned,
        }
    }

    /// Starts, and does what an application and its pipeline may do to the element.
    fn run(&self) {
        let pipeline = &self.pipeline;
        if pipeline.set_state(gst::State::Paused).is_err() {
            return;
        }
        feed(pipeline, &constant(FRAMES));
        if pipeline.set_state(gst::State::Playing).is_err() {
            return;
        }
        let enc = pipeline.element("enc");
        let (sink, src) = (
            enc.static_pad("sink").unwrap(),
            enc.static_pad("src").unwrap(),
        );
        let mut position = gst::query::Position::new(gst::Format::Time);
        src.query(&mut position);
        sink.query_caps(None);
        let custom = gst::Structure::new_empty("of-this-test");
        src.send_event(gst::event::CustomUpstream::new(custom));
        let _ = enc.property::<Option<gst::Structure>>("stats");
        let _ = enc.property::<u32>("sessions");
        let proxy = enc.dynamic_cast_ref::<gst::ChildProxy>().unwrap();
        let _ = proxy.child_by_index(0);
        self.ended.recv_timeout(HANG).expect("it ends");
    }

    fn stop(&self) {
        self.pipeline.set_state(gst::State::Null).unwrap();
    }

    fn assert_panicked(&self) {
        let errors: Vec<String> = self.errors.try_iter().collect();
        assert!(
            errors.iter().any(|text| text.contains("Panicked: ")),
            "{errors:?}"
        );
    }

    /// Nothing of it is left.
    fn free(self) {
        let weak = self.pipeline.element("enc").downgrade();
        drop(self);
        assert!(weak.upgrade().is_none(), "the element is freed");
    }
}

/// Lets our code panic at a point until it is dropped.
struct Panics(&'static str);

impl Panics {
    fn at(name: &'static str, after: u32) -> Self {
        let action = match after {
            0 => "panic".to_string(),
            after => format!("{after}*off->panic"),
        };
        fail::cfg(name, &action).unwrap();
        Self(name)
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        fail::remove(self.0);
    }
}

/// Encodes all frames, if nothing panics.
fn assert_works(pipeline: &Pipeline) {
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    let bus = pipeline.bus().unwrap();
    bus.unset_sync_handler();
    // What was posted before anybody listened.
    while bus.pop().is_some() {}
    pipeline.set_state(gst::State::Paused).unwrap();
    feed(pipeline, &constant(FRAMES));
    let end = pipeline.run();
    assert!(matches!(end, End::Eos), "{end:?}");
    assert_eq!(output.lock().unwrap().packets.len() as u64, FRAMES);
    pipeline.set_state(gst::State::Null).unwrap();
}

fn at_point(point: &Point, way: Way) {
    let panics = Panics::at(point.name, point.after);
    let heard = Heard::new(&way.encoder("", ""));
    heard.run();
    heard.stop();
    heard.assert_panicked();
    drop(panics);
    // What was never set is missing.
    if !["chunk-frames", "setting a property of the encoder"].contains(&point.name) {
        assert_works(&heard.pipeline);
    }
    heard.free();
    assert_works(&scripted_pipeline(&way.encoder("", "")));
}

fn at_watch(way: Way) {
    // A watch looks the more often, the less it waits. No packet comes, so nothing else goes on.
    let name = format!("watch {way:?}").replace(['(', ')', ' '], "-");
    let panics = Panics::at("the watch", 0);
    let encoder = way.encoder("stall-timeout=300000000", &format!("gate={name}"));
    let heard = Heard::new(&encoder);
    heard.run();
    Gate::named(&name).open();
    heard.stop();
    heard.assert_panicked();
    drop(panics);
    assert_works(&heard.pipeline);
    heard.free();
}

/// While a panic closes an encoder, closing it panics.
fn twice_at_once(way: Way) {
    let panics = (
        Panics::at("feeding a frame, locked", 3),
        Panics::at("closing an encoder", 0),
    );
    let heard = Heard::new(&way.encoder("", ""));
    heard.run();
    heard.stop();
    heard.assert_panicked();
    drop(panics);
    heard.free();
    assert_works(&scripted_pipeline(&way.encoder("", "")));
}

/// An encoder hangs, and its session is left to itself.
fn while_leaving(name: &'static str, way: Way) {
    let failure = format!("{name} {way:?}").replace(['(', ')', ' '], "-");
    let panics = Panics::at(name, 0);
    let release = Release(failure.clone());
    let heard = Heard::new(&way.encoder(
        "stall-timeout=300000000",
        &format!("failure={failure} fault=hang@frame fault-frame=15"),
    ));
    heard.pipeline.set_state(gst::State::Playing).unwrap();
    let (replaced, is_replaced) = channel();
    let enc: gst::Bin = heard.pipeline.element("enc").downcast().unwrap();
    enc.connect_element_added(move |_, slot| {
        let replaced = replaced.clone();
        let src = slot.static_pad("src").unwrap();
        src.connect_linked(move |_, _| {
            let _ = replaced.send(());
        });
    });
    feed(&heard.pipeline, &constant(FRAMES));
    if name != "abandoning a session" {
        heard.warned.recv_timeout(HANG).expect("it is left");
        hanging(&failure).open();
    }
    let error = heard.errors.recv_timeout(HANG).expect("it fails");
    // (Where the stream had ended before that, there may be no other.)
    assert!(error.contains("Panicked: "), "{error}");
    // GStreamer complains if elements are linked while it sorts them for a change of the state.
    is_replaced.recv_timeout(HANG).expect("it is replaced");
    drop(release);
    heard.stop();
    drop(panics);
    assert_works(&scripted_pipeline(&way.encoder("", "")));
}

/// Without pads nothing can be linked; it says why when it is started.
fn at_its_making() {
    let panics = Panics::at("making the element", 0);
    let pipeline = gst::Pipeline::new();
    let enc = gst::ElementFactory::make("vtparallelenc")
        .name("enc")
        .build();
    pipeline.add(&enc.unwrap()).unwrap();
    let heard = Heard::hear(Pipeline(pipeline));
    let started = heard.pipeline.set_state(gst::State::Ready);
    assert!(started.is_err(), "it refuses");
    heard.assert_panicked();
    heard.stop();
    drop(panics);
    heard.free();
}

fn at_presets() {
    for (point, names) in [("names of presets", false), ("a preset", true)] {
        let heard = Heard::new(&Way::Sessions(1).encoder("", ""));
        let enc = heard.pipeline.element("enc");
        let preset = enc.dynamic_cast_ref::<gst::Preset>().unwrap();
        let panics = Panics::at(point, 0);
        assert_eq!(!preset.property_names().is_empty(), names);
        let _ = preset.save_preset("of this test");
        let _ = preset.load_preset("of this test");
        drop(panics);
        // Said when it can be heard, and only then.
        let started = heard.pipeline.set_state(gst::State::Ready);
        assert!(started.is_err(), "it refuses");
        heard.assert_panicked();
        heard.stop();
        assert_works(&heard.pipeline);
        drop(enc);
        heard.free();
    }
}

/// A flush begins anew after a panic as after any failure.
fn with_a_flush_after_it() {
    for name in [
        "a session's task",
        "delivering a chunk, locked",
        "the output's task",
    ] {
        let panics = Panics::at(name, 1);
        let rig = Rig::new(&Way::Sessions(2).encoder("", ""));
        rig.push_until_refused();
        let errors = rig.messages(&[gst::MessageType::Error]);
        assert!(!errors.is_empty(), "{name}");
        drop(panics);
        rig.flush();
        rig.take();
        rig.push_all(0..FRAMES);
        assert!(rig.src.peer_query(&mut gst::query::Drain::new()), "{name}");
        rig.end();
        let mut frames = rig.frames();
        frames.sort_unstable();
        assert_eq!(frames, Vec::from_iter(0..FRAMES), "{name}");
    }
}

/// The process isn't to print what is meant to be.
fn hush() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<String>();
        if !text.is_some_and(|text| text.starts_with("failpoint")) {
            usual(info);
        }
    }));
}

/// Does it in a thread of its own, so that what hangs is an error.
fn bounded(what: &str, act: impl FnOnce() + Send + 'static) {
    eprintln!("{what}");
    let (done, is_done) = channel();
    let thread = std::thread::spawn(move || {
        act();
        let _ = done.send(());
    });
    match is_done.recv_timeout(2 * HANG) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("{what}: it hangs"),
        _ => thread.join().unwrap_or_else(|_| panic!("{what}")),
    }
}

#[test]
fn a_panic_is_an_error_and_no_more() {
    // (Where GStreamer keeps presets.)
    let home = tempfile::tempdir().unwrap();
    // SAFETY: this file's only test; GStreamer isn't initialized yet.
    unsafe { std::env::set_var("XDG_DATA_HOME", home.path()) };
    common::init();
    glib::log_set_always_fatal(glib::LogLevels::LEVEL_CRITICAL | glib::LogLevels::LEVEL_WARNING);
    hush();
    let scenario = fail::FailScenario::setup();
    for point in POINTS {
        for &way in point.ways {
            let what = format!("{} after {}, {way:?}", point.name, point.after);
            bounded(&what, move || at_point(point, way));
        }
    }
    for &way in CHUNKED {
        bounded(&format!("twice, {way:?}"), move || twice_at_once(way));
        bounded(&format!("watch, {way:?}"), move || at_watch(way));
        for name in ["abandoning a session", "disposing of a session"] {
            bounded(&format!("{name}, {way:?}"), move || {
                while_leaving(name, way);
            });
        }
    }
    bounded("making", at_its_making);
    bounded("presets", at_presets);
    bounded("flush", with_a_flush_after_it);
    scenario.teardown();
}
