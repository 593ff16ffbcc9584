// SPDX-License-Identifier: MPL-2.0

//! Raw video is never copied, and never more of it is held than was announced.

mod common;

use common::scripted::Gate;
use common::{app_src, constant, feed, gray, scripted_pipeline};
use gst::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

#[test]
fn a_frame_is_the_same_memory_wherever_it_is_encoded() {
    let pipeline = scripted_pipeline(
        "vtparallelenc name=enc encoder=scriptedenc sessions=2 chunk-frames=10 overlap-before=4 overlap-after=4",
    );
    // Frame number to the addresses at which encoders saw it.
    let seen = Arc::new(Mutex::new(BTreeMap::<u64, Vec<usize>>::new()));
    let sent: BTreeMap<u64, usize> = constant(40)
        .into_iter()
        .enumerate()
        .map(|(number, time)| {
            let number = number as u64;
            let buffer = gray(number, time);
            let address = buffer.map_readable().unwrap().as_ptr() as usize;
            app_src(&pipeline).push_buffer(buffer).unwrap();
            (number, address)
        })
        .collect();
    app_src(&pipeline).end_of_stream().unwrap();
    pipeline.set_state(gst::State::Ready).unwrap();
    let enc: gst::Bin = pipeline.element("enc").downcast().unwrap();
    for session in 0..2 {
        let slot = enc.by_name(&format!("session{session}")).unwrap();
        let seen = seen.clone();
        slot.static_pad("sink")
            .unwrap()
            .add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                let map = info.buffer().unwrap().map_readable().unwrap();
                let number = u64::from_le_bytes(map[..8].try_into().unwrap());
                let address = map.as_ptr() as usize;
                seen.lock()
                    .unwrap()
                    .entry(number)
                    .or_default()
                    .push(address);
                gst::PadProbeReturn::Ok
            });
    }
    pipeline.run().expect_eos();
    let seen = seen.lock().unwrap();
    for (number, address) in sent {
        let addresses = &seen[&number];
        let own: BTreeSet<_> = addresses.iter().collect();
        assert_eq!(own, BTreeSet::from([&address]), "frame {number}");
    }
    // 4 frames before each of 3 seams are encoded twice, and one after it: an encoder without look-ahead needs no more.
    assert_eq!(seen.values().map(Vec::len).sum::<usize>(), 40 + 3 * (4 + 1));
}

#[test]
fn a_buffer_that_upstream_keeps_is_not_copied_either() {
    let pipeline = scripted_pipeline(
        "tee name=t ! queue ! vtparallelenc name=enc encoder=scriptedenc sessions=2 chunk-frames=10",
    );
    let kept: Vec<gst::Buffer> = constant(20)
        .into_iter()
        .enumerate()
        .map(|(number, time)| gray(number as u64, time))
        .collect();
    for buffer in &kept {
        app_src(&pipeline).push_buffer(buffer.clone()).unwrap();
    }
    app_src(&pipeline).end_of_stream().unwrap();
    pipeline.set_state(gst::State::Ready).unwrap();
    let enc: gst::Bin = pipeline.element("enc").downcast().unwrap();
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    for session in 0..2 {
        let seen = seen.clone();
        let slot = enc.by_name(&format!("session{session}")).unwrap();
        slot.static_pad("sink")
            .unwrap()
            .add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                let map = info.buffer().unwrap().map_readable().unwrap();
                seen.lock().unwrap().insert(map.as_ptr() as usize);
                gst::PadProbeReturn::Ok
            });
    }
    pipeline.run().expect_eos();
    let addresses: BTreeSet<_> = kept
        .iter()
        .map(|buffer| buffer.map_readable().unwrap().as_ptr() as usize)
        .collect();
    assert_eq!(*seen.lock().unwrap(), addresses);
    // And what upstream keeps is as it was.
    for (buffer, (pts, duration)) in kept.iter().zip(constant(20)) {
        assert_eq!((buffer.pts(), buffer.duration()), (Some(pts), duration));
    }
}

#[test]
fn the_bound_is_announced_and_kept() {
    for (properties, bound) in [
        // (3 sessions + 1) x 10 + 5 that may be a tail.
        ("sessions=3 chunk-frames=10 min-chunk-frames=5", 45),
        // The budget is what bounds.
        (
            "sessions=3 chunk-frames=10 min-chunk-frames=5 max-raw-bytes=5120",
            20,
        ),
        ("sessions=3 max-raw-bytes=25600", 100),
    ] {
        let name = format!("bound-{bound}");
        let gate = Gate::named(&name);
        let pipeline = scripted_pipeline(&format!(
            "vtparallelenc name=enc encoder=\"scriptedenc gate={name}\" {properties}"
        ));
        feed(&pipeline, &constant(1_000));
        pipeline.set_state(gst::State::Playing).unwrap();
        // Encoders stand still, so everything that may come in does.
        gate.wait_for(1);
        let stats = pipeline.stats();
        assert_eq!(
            stats.get::<u64>("bytes-bound").unwrap(),
            bound * 256,
            "{properties}"
        );
        gate.open();
        pipeline.end().expect_eos();
        let stats = pipeline.stats();
        let peak: u64 = stats.get("bytes-peak").unwrap();
        assert!(peak <= bound * 256, "{properties}: {stats}");
        assert!(peak >= bound * 256 / 2, "{properties}: {stats}");
        assert_eq!(stats.get::<u64>("frames-out").unwrap(), 1_000);
    }
}

#[test]
fn frames_are_held_until_their_chunk_is_verified() {
    for attempts in [1, 2] {
        let name = format!("fed-{attempts}");
        let gate = Gate::named(&name);
        let pipeline = scripted_pipeline(&format!(
            "vtparallelenc name=enc encoder=\"scriptedenc gate={name}\" sessions=2 chunk-frames=1000 max-attempts={attempts}"
        ));
        let src = app_src(&pipeline);
        pipeline.set_state(gst::State::Playing).unwrap();
        for (frame, times) in (0..).zip(constant(100)) {
            src.push_buffer(gray(frame, times)).unwrap();
        }
        gate.let_pass(50);
        while gate.wait_for(1) != [50] || pipeline.stats().get::<u64>("frames-in") != Ok(100) {
            std::thread::yield_now();
        }
        let stats = pipeline.stats();
        assert_eq!(
            stats.get::<u64>("bytes-held").unwrap(),
            100 * 256,
            "{stats}"
        );
        gate.open();
        src.end_of_stream().unwrap();
        pipeline.end().expect_eos();
        assert_eq!(pipeline.stats().get::<u64>("frames-out"), Ok(100));
    }
}
