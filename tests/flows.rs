// SPDX-License-Identifier: MPL-2.0

//! What downstream returns, upstream gets: the same, and soon.

mod common;

use common::rig::Rig;
use common::scripted::{Release, hanging};
use gst::prelude::*;

const CHUNKS: &str = "sessions=2 chunk-frames=10 min-chunk-frames=3";

const REFUSALS: [gst::FlowError; 5] = [
    gst::FlowError::Eos,
    gst::FlowError::Flushing,
    gst::FlowError::NotNegotiated,
    gst::FlowError::NotLinked,
    gst::FlowError::Error,
];

/// The frame with which upstream hears of downstream's refusal, and what it hears.
fn heard(encoder: &str, refuse: impl Fn(&Rig)) -> (u64, gst::FlowError) {
    let rig = Rig::new(encoder);
    rig.push_all(0..5);
    refuse(&rig);
    // (Upstream isn't faster than the encoders: it waits for each chunk.)
    for number in 5..2000 {
        if let Err(flow) = rig.push(number) {
            return (number, flow);
        }
        if number % 10 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
    panic!("{encoder}: nothing is heard");
}

#[test]
fn upstream_gets_the_same_soon() {
    for flow in REFUSALS {
        let refuse = |rig: &Rig| rig.downstream.lock().unwrap().flow = Err(flow);
        let (_, plain) = heard("scriptedenc", refuse);
        let (at, ours) = heard(
            &format!("vtparallelenc encoder=scriptedenc {CHUNKS}"),
            refuse,
        );
        assert_eq!((plain, ours), (flow, flow));
        // The first chunk is whole at frame 13. (The machine may be busy with other things.)
        assert!(at < 500, "{flow:?} at {at}");
    }
}

#[test]
fn an_unlinked_pad_is_not_linked() {
    let unlink = |rig: &Rig| {
        rig.enc
            .static_pad("src")
            .unwrap()
            .unlink(&rig.sink)
            .unwrap();
    };
    let (_, plain) = heard("scriptedenc", unlink);
    let (_, ours) = heard(
        &format!("vtparallelenc encoder=scriptedenc {CHUNKS}"),
        unlink,
    );
    assert_eq!(
        (plain, ours),
        (gst::FlowError::NotLinked, gst::FlowError::NotLinked)
    );
}

#[test]
fn a_waiting_upstream_is_told() {
    // Frames 0 and 10 wait at the gate, and upstream for room.
    for flow in REFUSALS {
        let name = format!("flow {flow:?}");
        let gate = common::scripted::Gate::named(&name);
        let rig = Rig::new(&format!(
            "vtparallelenc encoder=\"scriptedenc gate=\\\"{name}\\\"\" {CHUNKS}"
        ));
        std::thread::scope(|scope| {
            let src = rig.src.clone();
            let pusher = scope.spawn(move || {
                let mut results = (0..500).map(|n| common::rig::push_to(&src, n));
                results.find_map(Result::err)
            });
            gate.wait_for(2);
            rig.downstream.lock().unwrap().flow = Err(flow);
            gate.open();
            assert_eq!(pusher.join().unwrap(), Some(flow));
        });
    }
}

#[test]
fn a_flush_begins_anew_after_a_refusal() {
    for encoder in [
        "scriptedenc",
        &format!("vtparallelenc encoder=scriptedenc {CHUNKS}"),
    ] {
        for flow in REFUSALS {
            let rig = Rig::new(encoder);
            rig.downstream.lock().unwrap().flow = Err(flow);
            rig.push_until_refused();
            rig.downstream.lock().unwrap().flow = Ok(gst::FlowSuccess::Ok);
            rig.flush();
            rig.take();
            rig.push_all(0..25);
            rig.end();
            let frames = rig.frames().len();
            assert_eq!(frames, 25, "{encoder} {flow:?}");
        }
    }
}

#[test]
fn an_end_after_a_refusal_arrives() {
    for encoder in [
        "scriptedenc",
        &format!("vtparallelenc encoder=scriptedenc {CHUNKS}"),
    ] {
        for flow in REFUSALS {
            let rig = Rig::new(encoder);
            rig.downstream.lock().unwrap().flow = Err(flow);
            rig.push_until_refused();
            rig.src.push_event(gst::event::Eos::new());
            rig.wait_for_end();
        }
    }
}

/// What downstream returns isn't kept back by the pad of a session that hangs, or that has left the element.
#[test]
fn a_session_that_is_given_up_has_no_say() {
    for (index, flow) in REFUSALS.into_iter().enumerate() {
        let name = format!("no-say-{index}");
        let _release = Release(name.clone());
        let rig = Rig::new(&format!(
            "vtparallelenc {CHUNKS} stall-timeout=300000000 \
             encoder=\"scriptedenc failure={name} fault=hang@frame fault-frame=15\""
        ));
        rig.push_all(0..25);
        let since = std::time::Instant::now();
        while !hanging(&name).stands(1) {
            assert!(since.elapsed().as_secs() < 30, "none hangs");
            std::thread::yield_now();
        }
        rig.downstream.lock().unwrap().flow = Err(flow);
        // Upstream waits for room until another session has taken the chunk.
        let heard = (25..2000).find_map(|number| rig.push(number).err());
        assert_eq!(heard, Some(flow));
    }
}
