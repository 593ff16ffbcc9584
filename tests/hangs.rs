// SPDX-License-Identifier: MPL-2.0

//! Encoders that hang while something else happens: a stop, a flush, an end, other caps, another stream. Nobody waits for them longer
//! than was said, and when they come back after all, nothing of theirs gets through and nothing of theirs is left.

mod common;

use common::rig::{Entry, Rig};
use common::scripted::{Gate, Release, hanging};
use common::{
    GRAY, Output, Packet, Pipeline, app_src, encode, push, record, scripted_pipeline, start_again,
    threads, until, when_passed,
};
use gst::glib;
use gst::prelude::*;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// No wait takes nearly as long: one that does hangs.
const HANG: Duration = Duration::from_secs(60);

/// So long encoders may stand still here. Long enough for one that works, on a machine that has much else to do.
const STALL: gst::ClockTime = gst::ClockTime::from_mseconds(300);

const FRAMES: u64 = 60;

/// Whoever is starved for as long as [`STALL`] is given up too, which costs an attempt and nothing else.
fn properties(sessions: u64) -> String {
    format!(
        "sessions={sessions} chunk-frames=10 min-chunk-frames=4 overlap-before=2 overlap-after=2 max-attempts=20 \
         stall-timeout={}",
        STALL.nseconds()
    )
}

const SCRIPT: &str = "bframes=2 look-ahead=3";

/// An encoder that hangs `times` times where it is told to.
fn hangs(name: &str, place: &str, when: &str, times: usize) -> String {
    format!(
        "encoder=\"scriptedenc {SCRIPT} failure={name} fault=hang@{place} {when} fault-times={times}\""
    )
}

/// All encoders that were made, as long as they live.
type Encoders = Arc<Mutex<Vec<glib::WeakRef<gst::Element>>>>;

fn encoders_of(enc: &gst::Element) -> Encoders {
    let encoders = Encoders::default();
    let kept = encoders.clone();
    enc.connect("encoder-setup", false, move |arguments| {
        let encoder: gst::Element = arguments[1].get().unwrap();
        kept.lock().unwrap().push(encoder.downgrade());
        None
    });
    encoders
}

fn are_gone(encoders: &Encoders) -> bool {
    let encoders = encoders.lock().unwrap();
    encoders.iter().all(|encoder| encoder.upgrade().is_none())
}

fn assert_same(is: &[Packet], should: &[Packet], what: &str) {
    for (at, (is, should)) in is.iter().zip(should).enumerate() {
        assert_eq!(is, should, "{what}: packet {at}");
    }
    assert_eq!(is.len(), should.len(), "{what}");
}

fn sink_pad(pipeline: &Pipeline) -> gst::Pad {
    pipeline.element("sink").static_pad("sink").unwrap()
}

/// Places where encoders hang, with what makes any number of them hang there.
const PLACES: [(&str, &str); 7] = [
    ("device", "fault-skips=1"),
    ("open", "fault-skips=1"),
    ("frame", "fault-frame=5 fault-every=10"),
    ("end", ""),
    ("finish", ""),
    ("close", ""),
    ("undevice", ""),
];

/// Stops while `hung` encoders hang, starts again, and lets them go while the new stream runs (`early`) or after it.
fn stop_and_start(
    name: &str,
    properties: &str,
    place: (&str, &str),
    hung: usize,
    state: gst::State,
    early: bool,
    reference: &Output,
) {
    let what = format!("{hung} at {place:?}, {state:?}, early {early}");
    let _release = Release(name.to_string());
    let gate = hanging(name);
    let pipeline = scripted_pipeline(&format!(
        "vtparallelenc name=enc {properties} {}",
        hangs(name, place.0, place.1, hung)
    ));
    let encoders = encoders_of(&pipeline.element("enc"));
    push(&pipeline, 0..FRAMES);
    pipeline.set_state(gst::State::Playing).unwrap();
    gate.wait_for(hung);
    let stopped = pipeline.set_state(state).unwrap();
    assert_eq!(stopped, gst::StateChangeSuccess::Success, "{what}");

    let output = record(&sink_pad(&pipeline));
    let begun = when_passed(&sink_pad(&pipeline), 15);
    start_again(&pipeline, FRAMES);
    if early {
        begun.recv_timeout(HANG).expect(&what);
        gate.open();
    }
    pipeline.end().expect_eos();
    assert_same(&output.lock().unwrap().packets, &reference.packets, &what);
    pipeline.set_state(gst::State::Null).unwrap();
    gate.open();
    until(&what, || are_gone(&encoders));
}

fn stop_and_start_everywhere() {
    for sessions in [1, 3] {
        let properties = properties(sessions);
        let reference = encode(
            &format!("{properties} encoder=\"scriptedenc {SCRIPT}\""),
            FRAMES,
        );
        for (number, place) in PLACES.into_iter().enumerate() {
            for hung in 1..=3 {
                let state = match hung {
                    2 => gst::State::Ready,
                    _ => gst::State::Null,
                };
                let early = (number + hung + sessions as usize).is_multiple_of(2);
                let name = format!("stop-{sessions}-{number}-{hung}");
                stop_and_start(&name, &properties, place, hung, state, early, &reference);
            }
        }
    }
}

#[test]
fn encoders_that_hang_while_the_element_is_stopped_leave_nothing_behind() {
    const TEST: &str = "encoders_that_hang_while_the_element_is_stopped_leave_nothing_behind";
    if common::leaves_nothing_behind(TEST) {
        // Nobody else's threads are there.
        common::init();
        let before = threads("");
        stop_and_start_everywhere();
        until("no thread of ours is left", || {
            threads("vtparallelenc") == 0
        });
        // (GLib keeps some of the threads that pipelines had for the next ones.)
        glib::ThreadPool::stop_unused_threads();
        until("no thread is left", || threads("") <= before);
        // SAFETY: this process runs this test alone, and no GStreamer object is left.
        unsafe { gst::deinit() };
    }
}

#[test]
fn one_that_hangs_before_there_is_a_stream() {
    // The very first one, which the application's thread opens with the element. Then it starts as if nothing had been.
    for state in [gst::State::Ready, gst::State::Playing] {
        let name = format!("first-{state:?}");
        let _release = Release(name.clone());
        let pipeline = scripted_pipeline(&format!(
            "vtparallelenc name=enc {} {}",
            properties(2),
            hangs(&name, "device", "", 1)
        ));
        let encoders = encoders_of(&pipeline.element("enc"));
        assert!(pipeline.set_state(state).is_err());
        assert!(hanging(&name).stands(1));
        let text = pipeline.end().error();
        assert!(text.contains("300ms"), "{text}");
        pipeline.set_state(gst::State::Null).unwrap();

        let output = record(&sink_pad(&pipeline));
        let begun = when_passed(&sink_pad(&pipeline), 15);
        start_again(&pipeline, FRAMES);
        begun.recv_timeout(HANG).unwrap();
        hanging(&name).open();
        pipeline.end().expect_eos();
        assert_eq!(output.lock().unwrap().packets.len() as u64, FRAMES);
        pipeline.set_state(gst::State::Null).unwrap();
        until("all are gone", || are_gone(&encoders));
    }
}

#[test]
fn without_a_timeout_a_stop_has_its_own() {
    let properties = properties(3).replace(&format!("{}", STALL.nseconds()), "0");
    let reference = encode(
        &format!("{properties} encoder=\"scriptedenc {SCRIPT}\""),
        FRAMES,
    );
    let place = ("frame", "fault-frame=5 fault-every=10");
    stop_and_start(
        "no-timeout",
        &properties,
        place,
        3,
        gst::State::Ready,
        true,
        &reference,
    );
}

/// The packets that left, in order.
fn packets(rig: &Rig) -> Vec<Vec<u8>> {
    let entries = rig.entries();
    let packets = entries.iter().filter_map(Entry::buffer);
    packets
        .map(|packet| packet.map_readable().unwrap().to_vec())
        .collect()
}

/// Does the same with an encoder that hangs, in each place, and with one that doesn't. `act` gets what waits until it hangs.
fn assert_unmoved(name: &str, act: impl Fn(&Rig, &dyn Fn())) {
    for sessions in [1, 2] {
        let properties = properties(sessions);
        let undisturbed = Rig::new(&format!(
            "vtparallelenc {properties} encoder=\"scriptedenc {SCRIPT}\""
        ));
        act(&undisturbed, &|| ());
        let undisturbed = packets(&undisturbed);
        assert!(!undisturbed.is_empty());
        for (number, (place, when)) in PLACES.into_iter().enumerate() {
            let name = format!("{name}-{sessions}-{number}");
            let _release = Release(name.clone());
            let rig = Rig::new(&format!(
                "vtparallelenc {properties} {}",
                hangs(&name, place, when, 1)
            ));
            act(&rig, &|| drop(hanging(&name).wait_for(1)));
            assert_eq!(packets(&rig), undisturbed, "{place} {when}, {sessions}");
        }
    }
}

#[test]
fn a_flush_while_an_encoder_hangs() {
    assert_unmoved("flush", |rig, hangs| {
        rig.push_all(0..45);
        hangs();
        rig.send(gst::event::FlushStart::new());
        rig.send(gst::event::FlushStop::new(true));
        // What left before is chance.
        rig.take();
        rig.begin_segment();
        rig.push_all(1000..1033);
        rig.end();
    });
}

#[test]
fn an_end_while_an_encoder_hangs() {
    assert_unmoved("end", |rig, hangs| {
        rig.push_all(0..45);
        hangs();
        rig.end();
    });
}

#[test]
fn other_caps_while_an_encoder_hangs() {
    assert_unmoved("caps", |rig, hangs| {
        rig.push_all(0..25);
        hangs();
        let caps: gst::Caps = GRAY.replace("25/1", "50/1").parse().unwrap();
        rig.send(gst::event::Caps::new(&caps));
        rig.push_all(25..60);
        rig.end();
    });
}

#[test]
fn another_stream_after_one_whose_encoder_hung() {
    assert_unmoved("stream", |rig, hangs| {
        rig.push_all(0..25);
        hangs();
        rig.end();
        rig.begin(GRAY);
        rig.push_all(100..133);
        rig.end();
    });
}

#[test]
fn one_that_is_let_go_while_another_works_at_its_chunk() {
    for sessions in [1, 2] {
        // Others that stand at the gate are given up in the end, too: three times in a row would be too often.
        let stall = format!("stall-timeout={}", STALL.nseconds());
        let properties = properties(sessions).replace(&stall, "stall-timeout=2000000000");
        let reference = encode(
            &format!("{properties} encoder=\"scriptedenc {SCRIPT}\""),
            FRAMES,
        );
        let name = format!("let-go-{sessions}");
        let _release = Release(name.clone());
        let gate = Gate::named(&name);
        let pipeline = scripted_pipeline(&format!(
            "vtparallelenc name=enc {properties} encoder=\"scriptedenc {SCRIPT} gate={name} failure={name} \
             fault=hang@frame fault-frame=5 fault-every=10\""
        ));
        let encoders = encoders_of(&pipeline.element("enc"));
        let output = record(&sink_pad(&pipeline));
        push(&pipeline, 0..FRAMES);
        app_src(&pipeline).end_of_stream().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        until("one hangs", || {
            gate.let_pass(1);
            hanging(&name).stands(1)
        });
        // (The second session may only be opening its first one.)
        until("each has one", || {
            encoders.lock().unwrap().len() >= sessions as usize
        });
        let others = encoders.lock().unwrap().len();
        until("another one works", || {
            encoders.lock().unwrap().len() > others
        });
        until("it is given up", || {
            pipeline.stats().get::<u64>("attempts-failed").unwrap() > 0
        });
        hanging(&name).open();
        // All others are at the gate: none gets so far as to end its chunk without coming to where the first one hangs.
        until("it is gone", || {
            let encoders = encoders.lock().unwrap();
            encoders.iter().any(|encoder| encoder.upgrade().is_none())
        });
        gate.open();
        pipeline.end().expect_eos();
        assert_same(&output.lock().unwrap().packets, &reference.packets, &name);
    }
}

#[test]
fn if_all_attempts_hang_the_error_says_so() {
    for (sessions, place, when, first) in [1, 2].into_iter().flat_map(|sessions| {
        [
            (sessions, "frame", "fault-frame=15", 10),
            (sessions, "open", "", 0),
            (sessions, "device", "fault-skips=1", 10),
        ]
    }) {
        let name = format!("all-hang-{place}-{sessions}");
        let _release = Release(name.clone());
        let pipeline = scripted_pipeline(&format!(
            "vtparallelenc name=enc {} {}",
            properties(sessions).replace("max-attempts=20", "max-attempts=3"),
            hangs(&name, place, when, 1000)
        ));
        push(&pipeline, 0..FRAMES);
        app_src(&pipeline).end_of_stream().unwrap();
        let details = Arc::new(Mutex::new(None));
        let kept = details.clone();
        pipeline.bus().unwrap().set_sync_handler(move |_, message| {
            if let gst::MessageView::Error(error) = message.view() {
                let mut kept = kept.lock().unwrap();
                *kept = kept.take().or(error.details().map(|it| it.to_owned()));
            }
            gst::BusSyncReply::Pass
        });
        let text = pipeline.run().error();
        let details = details.lock().unwrap().take().unwrap();
        let what = format!("{name}: {text}, {details}");
        assert!(text.contains("in 3 attempts"), "{what}");
        assert!(text.contains("stood still"), "{what}");
        let chunk: u64 = details.get("chunk").unwrap();
        let start: u64 = details.get("first-frame").unwrap();
        assert!(
            text.contains(&format!("Chunk {chunk} (frames {start} to {}", start + 9)),
            "{what}"
        );
        assert_eq!(details.get::<u64>("frames"), Ok(10), "{what}");
        assert_eq!(details.get::<&str>("cause"), Ok("stalled"), "{what}");
        let attempts: gst::ArrayRef<'_> = details.get("attempts").unwrap();
        assert_eq!(attempts.len(), 3, "{what}");
        for attempt in attempts.iter() {
            let attempt: &str = attempt.get().unwrap();
            assert!(attempt.contains("stood still"), "{what}");
        }
        if sessions == 1 {
            assert_eq!(start, first, "{what}");
        }
        pipeline.set_state(gst::State::Null).unwrap();
    }
}

/// The encoder of the first chunk says that it failed, in a thread of its own, while its session waits for the next frame; and then
/// it hangs as it is closed.
fn fails_while_its_session_waits(name: &str) -> Pipeline {
    let pipeline = scripted_pipeline(&format!(
        "vtparallelenc name=enc {} {}",
        properties(2),
        hangs(name, "close", "", 1)
    ));
    let encoders = encoders_of(&pipeline.element("enc"));
    pipeline.set_state(gst::State::Ready).unwrap();
    let encoder = encoders.lock().unwrap()[0].upgrade().unwrap();
    let (sender, fed) = mpsc::channel();
    let sink = encoder.static_pad("sink").unwrap();
    sink.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let _ = sender.send(std::fs::read_link("/proc/thread-self").unwrap());
        gst::PadProbeReturn::Ok
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    push(&pipeline, 0..5);
    let threads: Vec<_> = (0..5).map(|_| fed.recv_timeout(HANG).unwrap()).collect();
    until("its session waits", || sleeps(&threads[4]));
    gst::element_error!(encoder, gst::StreamError::Encode, ["scripted failure"]);
    hanging(name).wait_for(1);
    pipeline
}

#[test]
fn an_application_that_stops_when_it_hears_of_one_that_hangs() {
    // In the thread that tells it, which is the one that gives up encoders that hang; and another one hangs as well.
    let name = "stopped-by-handler";
    let pipeline = scripted_pipeline(&format!(
        "vtparallelenc name=enc {} {}",
        properties(2),
        hangs(name, "frame", "fault-frame=5 fault-every=10", 2)
    ));
    let _release = Release(name.to_string());
    let encoders = encoders_of(&pipeline.element("enc"));
    let (sender, stopped) = mpsc::channel();
    let weak = pipeline.downgrade();
    let heard = std::sync::atomic::AtomicBool::new(false);
    let bus = pipeline.bus().unwrap();
    bus.set_sync_handler(move |_, message| {
        let is_first = message.type_() == gst::MessageType::Warning
            && !heard.swap(true, std::sync::atomic::Ordering::SeqCst);
        if let Some(pipeline) = weak.upgrade().filter(|_| is_first) {
            let _ = sender.send(pipeline.set_state(gst::State::Null));
        }
        gst::BusSyncReply::Pass
    });
    push(&pipeline, 0..FRAMES);
    pipeline.set_state(gst::State::Playing).unwrap();
    stopped.recv_timeout(HANG).unwrap().unwrap();
    bus.unset_sync_handler();

    let output = record(&sink_pad(&pipeline));
    start_again(&pipeline, FRAMES);
    pipeline.end().expect_eos();
    assert_eq!(output.lock().unwrap().packets.len() as u64, FRAMES);
    pipeline.set_state(gst::State::Null).unwrap();
    hanging(name).open();
    until("all are gone", || are_gone(&encoders));
}

/// Whether a thread of this process waits, each time in a row that it is looked at.
fn sleeps(thread: &Path) -> bool {
    let stat = Path::new("/proc").join(thread).join("stat");
    (0..100).all(|_| std::fs::read_to_string(&stat).unwrap().contains(") S "))
}

#[test]
fn one_that_fails_while_its_session_waits_and_hangs_then() {
    // The application stops, or the stream goes on without that encoder.
    for stops in [true, false] {
        let name = format!("fails-waiting-{stops}");
        let pipeline = fails_while_its_session_waits(&name);
        let _release = Release(name);
        if stops {
            let (sender, stopped) = mpsc::channel();
            let element = pipeline.0.clone();
            std::thread::spawn(move || sender.send(element.set_state(gst::State::Null)));
            stopped.recv_timeout(HANG).unwrap().unwrap();
            continue;
        }
        let output = record(&sink_pad(&pipeline));
        push(&pipeline, 5..FRAMES);
        app_src(&pipeline).end_of_stream().unwrap();
        pipeline.end().expect_eos();
        assert_eq!(output.lock().unwrap().frames().len() as u64, FRAMES);
    }
}

/// Nothing is said on the bus for as long.
fn assert_silence(pipeline: &Pipeline, time: gst::ClockTime) {
    let types = [gst::MessageType::Warning, gst::MessageType::Error];
    let said = pipeline.bus().unwrap().timed_pop_filtered(time, &types);
    assert!(said.is_none(), "{said:?}");
}

/// Ends well, with all frames, and no attempt failed.
fn assert_undisturbed(pipeline: &Pipeline, output: &Arc<Mutex<Output>>, frames: u64) {
    pipeline.end().expect_eos();
    assert_eq!(output.lock().unwrap().packets.len() as u64, frames);
    let stats = pipeline.stats();
    assert_eq!(stats.get::<u64>("attempts-failed"), Ok(0), "{stats}");
}

#[test]
fn one_that_is_slow_but_alive_is_not_given_up() {
    let name = "slow";
    let gate = Gate::named(name);
    let stall = gst::ClockTime::from_seconds(2);
    let pipeline = scripted_pipeline(&format!(
        "vtparallelenc name=enc sessions=1 chunk-frames=10 stall-timeout={} encoder=\"scriptedenc gate={name}\"",
        stall.nseconds()
    ));
    let output = record(&sink_pad(&pipeline));
    push(&pipeline, 0..20);
    app_src(&pipeline).end_of_stream().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    // Much longer than the timeout in all, and each frame a good part of it.
    for _ in 0..6 {
        gate.wait_for(1);
        assert_silence(&pipeline, stall * 6 / 10);
        gate.let_pass(1);
    }
    gate.open();
    assert_undisturbed(&pipeline, &output, 20);
}

#[test]
fn one_that_waits_for_its_turn_is_not_given_up() {
    // Two hang one after the other while they have their turn: whoever is next waits for twice the timeout.
    let name = "turn";
    let _release = Release(name.to_string());
    let pipeline = scripted_pipeline(&format!(
        "vtparallelenc name=enc {} {}",
        properties(4).replace(&format!("={}", STALL.nseconds()), "=1000000000"),
        hangs(name, "open", "fault-skips=1", 2)
    ));
    let output = record(&sink_pad(&pipeline));
    push(&pipeline, 0..FRAMES);
    app_src(&pipeline).end_of_stream().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    pipeline.end().expect_eos();
    assert_eq!(output.lock().unwrap().packets.len() as u64, FRAMES);
    let stats = pipeline.stats();
    assert_eq!(stats.get::<u64>("attempts-failed"), Ok(2), "{stats}");
}

/// Runs gst-launch-1.0 with an encoder that hangs for an hour and sends SIGINT once it says this, if anything. It has to end by itself.
fn launch(options: &[&str], encoder: &str, properties: &str, interrupt: Option<&str>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let pipeline = format!(
        "videotestsrc num-buffers=100 ! video/x-raw,format=I420,width=32,height=32 ! \
         vtparallelenc {properties} encoder=\"{encoder}\" ! fakesink"
    );
    let mut child = common::tool(dir.path(), "gst-launch-1.0")
        .args(options)
        .args(pipeline.split(' '))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let (sender, lines) = mpsc::channel();
    let out: Box<dyn std::io::Read + Send> = Box::new(child.stdout.take().unwrap());
    let err: Box<dyn std::io::Read + Send> = Box::new(child.stderr.take().unwrap());
    for pipe in [out, err] {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
    }
    drop(sender);
    let mut said = String::new();
    let mut interrupt = interrupt;
    loop {
        match lines.recv_timeout(HANG) {
            Ok(line) => {
                said += &line;
                said += "\n";
                if interrupt.is_some_and(|sign| line.contains(sign)) {
                    interrupt = None;
                    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                panic!("it hangs: {options:?} {pipeline}\n{said}");
            }
        }
    }
    let status = child.wait().unwrap();
    // It wasn't ended by a signal.
    assert!(status.code().is_some(), "{status}\n{said}");
    assert_eq!(interrupt, None, "{said}");
    said
}

const SLEEPS: &str = "identity sleep-time=4294967295";

#[test]
fn a_process_whose_encoder_hangs_for_ever_ends() {
    let quick = "sessions=2 chunk-frames=10 stall-timeout=300000000";
    for encoder in [
        format!("{SLEEPS} ! jpegenc"),
        format!("jpegenc ! {SLEEPS}"),
        format!("jpegenc ! queue ! {SLEEPS}"),
    ] {
        // After its error.
        let said = launch(&[], &encoder, quick, None);
        assert!(said.contains("stood still"), "{said}");
        let endless = format!("{quick} max-attempts=1000");
        // After Ctrl-C, and after Ctrl-C with an EOS, which comes after all attempts.
        launch(&[], &encoder, &endless, Some("stood still"));
        let some = format!("{quick} max-attempts=5");
        launch(&["-e"], &encoder, &some, Some("stood still"));
    }
}
