// SPDX-License-Identifier: MPL-2.0

//! Encoders hang while they are opened, or another element of the process keeps ours from opening or closing any: whoever stops our
//! element doesn't wait for that, and whoever has time for it goes on without.

mod common;

use common::scripted::{Gate, Release, hanging};
use common::{
    Pipeline, alone, app_src, push, record, scripted_pipeline, start_again, threads, until,
};
use gst::prelude::*;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// No wait takes nearly as long: one that does hangs.
const HANG: Duration = Duration::from_secs(60);

const FRAMES: u64 = 60;

/// Threads of ours that open or close an encoder for somebody else.
const OPENING: &str = "vtparallelenc-o";

/// Changes the state in a thread of its own, so that a test can fail where that hangs.
fn assert_goes_to(pipeline: &Pipeline, state: gst::State, what: &str) {
    let (sender, receiver) = mpsc::channel();
    let element = pipeline.0.clone();
    std::thread::spawn(move || {
        let _ = sender.send(element.set_state(state));
    });
    let changed = receiver.recv_timeout(HANG);
    assert_eq!(changed, Ok(Ok(gst::StateChangeSuccess::Success)), "{what}");
}

/// Another element, whose only encoder hangs as it is started, and which has no timeout.
struct Holder {
    /// Before the pipeline, which stops when it is dropped.
    _release: Release,
    gate: Arc<Gate>,
    pipeline: Pipeline,
}

impl Holder {
    fn new(name: &str) -> Self {
        let release = Release(name.to_string());
        let gate = hanging(name);
        let pipeline = scripted_pipeline(&format!(
            "vtparallelenc name=enc sessions=1 stall-timeout=0 encoder=\"scriptedenc failure={name} fault=hang@open\""
        ));
        push(&pipeline, 0..3);
        app_src(&pipeline).end_of_stream().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        gate.wait_for(1);
        Self {
            pipeline,
            gate,
            _release: release,
        }
    }

    /// Its own stream goes on as if nothing had been.
    fn let_go(self) {
        self.gate.open();
        self.pipeline.end().expect_eos();
        self.pipeline.set_state(gst::State::Null).unwrap();
    }
}

/// Encoders that were made and are to be opened next.
fn count_encoders(pipeline: &Pipeline) -> Arc<Mutex<usize>> {
    let count = Arc::new(Mutex::new(0));
    let counted = count.clone();
    pipeline
        .element("enc")
        .connect("encoder-setup", false, move |_| {
            *counted.lock().unwrap() += 1;
            None
        });
    count
}

/// An element that is to wait for its turn, in one of the places where it may.
struct Waiter {
    place: &'static str,
    pipeline: Pipeline,
    made: Arc<Mutex<usize>>,
    /// Keeps the caps from coming.
    blocked: Option<gst::PadProbeId>,
}

const PLACES: [&str; 5] = ["first caps", "start", "replaced", "chunks", "close"];

impl Waiter {
    /// Before anybody has the turn.
    fn new(place: &'static str, stall_timeout: u64) -> Self {
        let chunks = match place {
            "start" => "sessions=1",
            _ => "sessions=2 chunk-frames=10",
        };
        let pipeline = scripted_pipeline(&format!(
            "vtparallelenc name=enc {chunks} stall-timeout={stall_timeout} encoder=scriptedenc"
        ));
        let mut waiter = Self {
            place,
            made: count_encoders(&pipeline),
            pipeline,
            blocked: None,
        };
        waiter.pipeline.set_state(gst::State::Ready).unwrap();
        match place {
            "chunks" => {
                waiter.pipeline.set_state(gst::State::Playing).unwrap();
                push(&waiter.pipeline, 0..1);
                let frames_in = || waiter.pipeline.stats().get::<u64>("frames-in").unwrap();
                until("the stream begins", || frames_in() == 1);
            }
            "replaced" => {
                waiter.blocked = waiter
                    .source()
                    .add_probe(gst::PadProbeType::BLOCK_DOWNSTREAM, |_, _| {
                        gst::PadProbeReturn::Ok
                    });
                waiter.pipeline.set_state(gst::State::Playing).unwrap();
                // The encoder that is there was made without that.
                let children = waiter.pipeline.element("enc");
                let children = children.dynamic_cast::<gst::ChildProxy>();
                children
                    .unwrap()
                    .set_child_property("encoder::bitrate", 7_u32);
            }
            _ => (),
        }
        waiter
    }

    fn source(&self) -> gst::Pad {
        app_src(&self.pipeline).static_pad("src").unwrap()
    }

    /// Goes on until it waits.
    fn wait(&mut self) {
        match self.place {
            // Where it is stopped, it closes the encoder that it opened first.
            "close" => (),
            "chunks" => {
                push(&self.pipeline, 1..FRAMES);
                until("another encoder is made", || {
                    *self.made.lock().unwrap() >= 2
                });
            }
            _ => {
                let before = threads(OPENING);
                self.pipeline.set_state(gst::State::Playing).unwrap();
                push(&self.pipeline, 0..FRAMES);
                if let Some(blocked) = self.blocked.take() {
                    self.source().remove_probe(blocked);
                }
                until("the first encoder is opened", || threads(OPENING) > before);
            }
        }
    }
}

#[test]
fn a_stop_ends_the_wait_for_a_turn() {
    let _alone = alone();
    let mut waiters = PLACES.map(|place| Waiter::new(place, 0));
    let holder = Holder::new("stop");
    for waiter in &mut waiters {
        waiter.wait();
    }
    std::thread::scope(|scope| {
        for waiter in &waiters {
            scope.spawn(|| assert_goes_to(&waiter.pipeline, gst::State::Null, waiter.place));
        }
    });
    holder.let_go();
    until("no thread is left", || threads(OPENING) == 0);
    // What it left behind keeps nobody from anything.
    for Waiter {
        pipeline, place, ..
    } in &waiters
    {
        let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
        start_again(pipeline, FRAMES);
        pipeline.end().expect_eos();
        let packets = output.lock().unwrap().packets.len() as u64;
        assert_eq!(packets, FRAMES, "{place}");
        pipeline.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn a_turn_that_never_ends_passes_on() {
    let _alone = alone();
    for place in PLACES {
        let mut waiter = Waiter::new(place, 1_000_000_000);
        let holder = Holder::new(&format!("pass at {place}").replace(' ', "-"));
        waiter.wait();
        let pipeline = &waiter.pipeline;
        if place != "close" {
            app_src(pipeline).end_of_stream().unwrap();
            pipeline.end().expect_eos();
            let stats = pipeline.stats();
            assert_eq!(stats.get("attempts-failed"), Ok(0_u64), "{place}: {stats}");
            assert_eq!(stats.get("frames-out"), Ok(FRAMES), "{place}: {stats}");
        }
        assert_goes_to(pipeline, gst::State::Null, place);
        holder.let_go();
    }
}

#[test]
fn a_stop_while_the_first_encoder_hangs() {
    let _alone = alone();
    // Where it hangs; how the element is set. The timeouts are longer than anybody waits here.
    for (place, properties, state) in [
        // The only one, which is started.
        ("open", "sessions=1 stall-timeout=0", gst::State::Playing),
        (
            "format",
            "sessions=2 chunk-frames=10 stall-timeout=3600000000000",
            gst::State::Paused,
        ),
    ] {
        let name = format!("stop-{place}");
        let pipeline = scripted_pipeline(&format!(
            "vtparallelenc name=enc {properties} encoder=\"scriptedenc failure={name} fault=hang@{place}\""
        ));
        let _release = Release(name.clone());
        push(&pipeline, 0..FRAMES);
        pipeline.set_state(state).unwrap();
        hanging(&name).wait_for(1);
        assert_goes_to(&pipeline, gst::State::Null, &name);
        let said = pipeline
            .bus()
            .unwrap()
            .pop_filtered(&[gst::MessageType::Error, gst::MessageType::Warning]);
        assert!(said.is_none(), "{said:?}");
    }
}

#[test]
fn a_stop_while_the_encoder_that_was_chosen_hangs() {
    let _alone = alone();
    // Downstream says which one it is, so that it is made by upstream's thread, where the application keeps it.
    let pipeline = Pipeline::parse(
        "videotestsrc ! video/x-raw,format=I420,width=16,height=16 ! \
             vtparallelenc name=enc sessions=2 chunk-frames=10 stall-timeout=0 ! image/jpeg ! fakesink",
    );
    let (entered, has_entered) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    pipeline
        .element("enc")
        .connect("encoder-setup", false, move |_| {
            let _ = entered.send(());
            // Until it is let go.
            let _ = released.lock().unwrap().recv();
            None
        });
    pipeline.set_state(gst::State::Playing).unwrap();
    has_entered.recv_timeout(HANG).unwrap();
    assert_goes_to(&pipeline, gst::State::Null, "chosen");
    drop(release);
    until("no thread is left", || threads(OPENING) == 0);
}
