// SPDX-License-Identifier: MPL-2.0

//! The first packets leave before their chunk is whole, so that what comes after us can ask for key frames in time: whoever cuts
//! the stream into segments does, and frames are taken in long before they leave.

mod common;

use common::rig::{Entry, Rig};
use common::scripted::Gate;
use gst::prelude::*;
use std::sync::mpsc;

/// It reorders, and says so by its first DTS.
const ENCODER: &str = "scriptedenc bframes=1 look-ahead=3";

fn rig(script: &str, more: &str) -> Rig {
    // (A gate lets through whoever comes: one session, where there is one.)
    let sessions = if script.contains("gate") { 1 } else { 2 };
    Rig::new(&format!(
        "vtparallelenc encoder=\"{ENCODER} {script}\" sessions={sessions} min-chunk-frames=4 overlap-before=0 overlap-after=0 {more}"
    ))
}

fn frames(rig: &Rig) -> Vec<u64> {
    let mut frames: Vec<_> = rig.frames();
    frames.sort_unstable();
    frames
}

fn keys(rig: &Rig) -> Vec<u64> {
    let entries = rig.entries();
    let keys = entries.iter().filter(|entry| entry.is_key());
    keys.filter_map(Entry::frame).collect()
}

/// Waits until so many packets have left.
fn wait_for(rig: &Rig, packets: usize) {
    let start = std::time::Instant::now();
    while frames(rig).len() < packets {
        assert!(start.elapsed().as_secs() < 60, "it hangs");
        std::thread::yield_now();
    }
}

/// Opens its gate at the end of a test, however it ends: the encoder behind it is to be stopped.
struct Opened(std::sync::Arc<Gate>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.open();
    }
}

#[test]
fn it_leaves_alone_and_early() {
    let gate = Gate::named("herald");
    let rig = rig("gate=herald", "chunk-frames=50");
    let _opened = Opened(gate.clone());
    // (Both chunks are taken in.)
    rig.push_all(0..90);
    // Until the first packets are made, and more.
    gate.let_pass(12);
    wait_for(&rig, 3);
    gate.let_pass(12);
    while gate.wait_for(1) != [24] {
        std::thread::yield_now();
    }
    // Until time passes the first frame, and without a gap.
    assert_eq!(frames(&rig), [0, 1, 2]);
    gate.open();
    rig.end();
    assert_eq!(frames(&rig), (0..90).collect::<Vec<_>>());
    assert_eq!(keys(&rig), [0, 50]);
}

#[test]
fn it_says_as_much_as_it_would_say_later() {
    // The bytes, times and flags of a run that is held up behind its first packet, and of one that isn't.
    let of = |gate: Option<&str>| {
        let script = gate.map_or(String::new(), |name| format!("gate={name}"));
        let rig = rig(&script, "chunk-frames=20");
        let _opened = Opened(Gate::named(gate.unwrap_or("none")));
        rig.push_all(0..40);
        if let Some(name) = gate {
            let gate = Gate::named(name);
            gate.let_pass(12);
            wait_for(&rig, 3);
            gate.open();
        }
        rig.end();
        let entries = rig.entries();
        let packets = entries.iter().filter_map(Entry::buffer);
        let packets = packets.map(|it| {
            (
                it.map_readable().unwrap().to_vec(),
                it.pts(),
                it.dts(),
                it.flags(),
            )
        });
        packets.collect::<Vec<_>>()
    };
    assert_eq!(of(Some("herald-late")), of(None));
}

#[test]
fn a_failed_attempt_makes_it_again() {
    // (One that makes no packet at all would count as not opened.)
    for (name, fails_at) in [("herald-9", 9), ("herald-19", 19)] {
        let of = |script: &str| {
            let rig = rig(script, "chunk-frames=20");
            rig.push_all(0..70);
            rig.end();
            let entries = rig.entries();
            let packets = entries.iter().filter_map(Entry::buffer);
            let packets: Vec<_> = packets
                .map(|it| it.map_readable().unwrap().to_vec())
                .collect();
            (packets, rig.stats().get::<u64>("attempts-failed").unwrap())
        };
        let (plain, _) = of("");
        let (repeated, failed) = of(&format!("fail-at={fails_at} fail-times=1 failure={name}"));
        assert_eq!(plain, repeated);
        assert_eq!(failed, 1);
    }
}

#[test]
fn what_is_not_made_again_stays_as_it_left() {
    // The rest of the chunk stands alone: the second attempt's first packet isn't the first one's.
    let gate = Gate::named("herald-varies");
    let rig = rig(
        "vary-packets=true fail-at=15 fail-times=1 failure=herald-varies gate=herald-varies",
        "chunk-frames=20",
    );
    let _opened = Opened(gate.clone());
    rig.push_all(0..40);
    gate.let_pass(12);
    wait_for(&rig, 3);
    gate.open();
    rig.end();
    assert_eq!(frames(&rig), (0..40).collect::<Vec<_>>());
    assert_eq!(keys(&rig), [0, 3, 20]);
}

/// As a muxer does that cuts segments of `period` frames: with the key frame of one it asks for that of the next.
fn ask_at_each_segment(rig: &Rig, period: u64) {
    let mut next = 0;
    rig.on_packet(move |pad, packet| {
        let text = packet.map_readable().unwrap();
        let text = std::str::from_utf8(&text).unwrap();
        let frame: u64 = text.split(' ').next().unwrap().parse().unwrap();
        if frame == next && !packet.flags().contains(gst::BufferFlags::DELTA_UNIT) {
            next += period;
            let event = gst_video::UpstreamForceKeyUnitEvent::builder()
                .running_time(gst::ClockTime::from_mseconds(next * 40))
                .all_headers(true)
                .build();
            // (Refused while a flush is under way.)
            let _ = pad.push_event(event);
        }
    });
}

#[test]
fn segments_are_of_exact_length_whatever_the_chunks() {
    for period in [10, 25, 40, 60, 100, 170] {
        for chunk in [8, 30, 60, 150, 1000] {
            let rig = rig("", &format!("chunk-frames={chunk}"));
            ask_at_each_segment(&rig, period);
            rig.push_all(0..400);
            rig.end();
            assert_eq!(frames(&rig), (0..400).collect::<Vec<_>>());
            let keys = keys(&rig);
            for segment in (0..400).step_by(period as usize) {
                assert!(
                    keys.contains(&segment),
                    "{period} in {chunk}: no {segment} in {keys:?}"
                );
            }
            // Each answered once.
            let story = rig.story();
            let answers = story.iter().filter(|it| it.starts_with("key at")).count();
            assert_eq!(
                answers as u64,
                399 / period,
                "{period} in {chunk}: {story:#?}"
            );
        }
    }
}

#[test]
fn after_a_seek_again() {
    let rig = rig("", "chunk-frames=100");
    ask_at_each_segment(&rig, 30);
    rig.push_all(0..250);
    rig.flush();
    rig.take();
    ask_at_each_segment(&rig, 40);
    rig.push_all(0..250);
    rig.end();
    // (With 100 a chunk begins anyway.)
    let keys = keys(&rig);
    assert!(
        [0, 40, 80, 120, 160, 200, 240]
            .iter()
            .all(|it| keys.contains(it)),
        "{keys:?}"
    );
}

#[test]
fn a_downstream_that_keeps_it_waiting_delays_nothing_else() {
    // As a sink does that waits for PLAYING, or a muxer for its other streams: those may be behind our input.
    let rig = rig("", "chunk-frames=10");
    let (release, released) = mpsc::channel::<()>();
    rig.on_packet(move |_, _| {
        let _ = released.recv();
    });
    // Far more than are taken in before the chunks that are whole let go of theirs.
    let capacity = 34;
    rig.push_all(0..capacity * 2);
    drop(release);
    rig.push_all(capacity * 2..100);
    rig.end();
    assert_eq!(frames(&rig), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_pool_with_just_enough_buffers_does_not_starve_for_it() {
    // All its frames are held by chunks that are whole, nobody waits at our door, and downstream waits for what is behind them.
    let rig = rig("", "chunk-frames=10");
    let (release, released) = mpsc::channel::<()>();
    rig.on_packet(move |_, _| {
        let _ = released.recv();
    });
    let capacity = 34;
    // What may be encoded before anything leaves (four chunks), and less than is held then.
    let pictures = 65;
    let pool = gst::BufferPool::new();
    let mut config = pool.config();
    config.set_params(Some(&common::GRAY.parse().unwrap()), 256, 0, capacity);
    pool.set_config(config).unwrap();
    pool.set_active(true).unwrap();
    for number in 0..pictures {
        let mut buffer = pool.acquire_buffer(None).unwrap();
        let frame = buffer.get_mut().unwrap();
        frame.copy_from_slice(0, &u64::to_le_bytes(number)).unwrap();
        frame.set_pts(gst::ClockTime::from_mseconds(number * 40));
        frame.set_duration(gst::ClockTime::from_mseconds(40));
        rig.src.push(buffer).unwrap();
    }
    drop(release);
    rig.end();
    assert_eq!(frames(&rig), (0..pictures).collect::<Vec<_>>());
    assert_eq!(rig.stats().get::<u64>("frames-copied").unwrap(), 0);
}

#[test]
fn it_can_be_stopped_and_flushed_while_it_leaves() {
    for stops in [true, false] {
        let rig = rig("", "chunk-frames=10");
        let (sender, reached) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        rig.on_packet(move |_, _| {
            let _ = sender.send(());
            let _ = released.recv();
        });
        rig.push_all(0..20);
        reached.recv().unwrap();
        std::thread::scope(|scope| {
            let src = rig.src.clone();
            let pusher = scope.spawn(move || {
                let mut results = (20..500).map(|n| common::rig::push_to(&src, n));
                results.find_map(Result::err)
            });
            std::thread::sleep(std::time::Duration::from_millis(20));
            if stops {
                scope.spawn(move || {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    drop(release);
                });
                rig.enc.set_state(gst::State::Ready).unwrap();
            } else {
                assert!(rig.src.push_event(gst::event::FlushStart::new()));
                drop(release);
            }
            assert_eq!(pusher.join().unwrap(), Some(gst::FlowError::Flushing));
        });
    }
}
