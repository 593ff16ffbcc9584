// SPDX-License-Identifier: MPL-2.0

//! Upstream's buffers: what is asked of its pool, and that a pool that can't spare any doesn't starve.

mod common;

use common::rig::{Entry, Rig};
use gst::prelude::*;
use std::sync::mpsc;

const OURS: &str = "vtparallelenc encoder=scriptedenc sessions=3 chunk-frames=20 min-chunk-frames=4 overlap-before=0 \
     overlap-after=0";

fn pool(most: u32) -> gst::BufferPool {
    let pool = gst::BufferPool::new();
    let mut config = pool.config();
    config.set_params(Some(&common::GRAY.parse().unwrap()), 256, 0, most);
    pool.set_config(config).unwrap();
    pool.set_active(true).unwrap();
    pool
}

/// A frame of the pool, which waits until one is free.
fn take(pool: &gst::BufferPool, number: u64) -> gst::Buffer {
    let mut buffer = pool.acquire_buffer(None).unwrap();
    let frame = buffer.get_mut().unwrap();
    let mut bytes = vec![0; 256];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    frame.copy_from_slice(0, &bytes).unwrap();
    frame.set_pts(gst::ClockTime::from_mseconds(number * 40));
    frame.set_duration(gst::ClockTime::from_mseconds(40));
    frame
        .add_custom("VtTestPoolMeta")
        .mut_structure()
        .set("frame", number);
    buffer
}

trait AddCustom {
    fn add_custom(
        &mut self,
        name: &'static str,
    ) -> gst::MetaRefMut<'_, gst::meta::CustomMeta, gst::meta::Standalone>;
}

impl AddCustom for gst::BufferRef {
    fn add_custom(
        &mut self,
        name: &'static str,
    ) -> gst::MetaRefMut<'_, gst::meta::CustomMeta, gst::meta::Standalone> {
        gst::meta::CustomMeta::add(self, name).unwrap()
    }
}

/// Pushes frames of a pool with so many buffers; panics if it starves. Returns the number of frames that were copied.
fn run(
    encoder: &str,
    most: u32,
    wrap: impl Fn(gst::Buffer) -> gst::Buffer + Send + 'static,
) -> u64 {
    static ONCE: std::sync::Once = std::sync::Once::new();
    common::init();
    ONCE.call_once(|| gst::meta::CustomMeta::register("VtTestPoolMeta", &["video"]));
    let rig = Rig::new(encoder);
    let src = rig.src.clone();
    let (sender, pushed) = mpsc::channel();
    std::thread::spawn(move || {
        let pool = pool(most);
        for number in 0..200 {
            src.push(wrap(take(&pool, number))).unwrap();
        }
        // (Straight through, whoever comes after us would have to say so.)
        src.peer_query(&mut gst::query::Drain::new());
        let all: Vec<_> = (0..most).map(|number| take(&pool, number.into())).collect();
        drop(all);
        sender.send(()).unwrap();
    });
    pushed
        .recv_timeout(std::time::Duration::from_secs(60))
        .expect("the pool starves");
    rig.end();
    let entries = rig.entries();
    let frames: Vec<_> = entries.iter().filter_map(Entry::frame).collect();
    assert_eq!(frames, (0..200).collect::<Vec<_>>());
    for entry in &entries {
        let Some(buffer) = entry.buffer() else {
            continue;
        };
        let meta = gst::meta::CustomMeta::from_buffer(buffer, "VtTestPoolMeta").unwrap();
        assert_eq!(meta.structure().get("frame").ok(), entry.frame());
    }
    rig.stats().get("frames-copied").unwrap()
}

#[test]
fn a_pool_of_few_buffers_does_not_starve() {
    for most in [1, 2, 4, 16] {
        // One copy for each frame, and no more.
        assert_eq!(run(OURS, most, |buffer| buffer), 200);
    }
}

#[test]
fn a_pool_that_is_large_enough_is_not_copied() {
    // Three sessions and the chunk that is taken in, with the rest that may join it.
    assert_eq!(run(OURS, 84, |buffer| buffer), 0);
    assert_eq!(run(OURS, 83, |buffer| buffer), 200);
    // Straight through.
    let alone = "vtparallelenc encoder=scriptedenc allow-parallel=false";
    assert_eq!(run(alone, 4, |buffer| buffer), 0);
}

#[test]
fn memory_that_another_buffer_has_lent_is_the_pools() {
    let lent = |buffer: gst::Buffer| {
        let mut copy = buffer.copy();
        gst::ParentBufferMeta::add(copy.make_mut(), &buffer);
        copy
    };
    assert_eq!(run(OURS, 3, lent), 200);
}

#[test]
fn nothing_is_asked_of_a_pool() {
    let ask = |encoder: &str, before: u64| {
        let rig = Rig::new(encoder);
        rig.push_all(0..before);
        let caps: gst::Caps = common::GRAY.parse().unwrap();
        let mut query = gst::query::Allocation::new(Some(&caps), true);
        let answered = rig.src.peer_query(&mut query);
        let pools: Vec<_> = query
            .allocation_pools()
            .map(|(pool, size, min, max)| (pool.is_some(), size, min, max))
            .collect();
        let video_meta = query.find_allocation_meta::<gst_video::VideoMeta>();
        (answered, pools, video_meta.is_some())
    };
    // In the middle of a stream as at its start.
    for before in [0, 7, 50] {
        let (answered, pools, video_meta) = ask(OURS, before);
        assert!(answered);
        assert_eq!(pools, []);
        assert!(video_meta);
    }
    // Alone it is the encoder that answers.
    let alone = ask("vtparallelenc encoder=scriptedenc allow-parallel=false", 0);
    assert_eq!(alone, ask("scriptedenc", 0));
}

#[test]
fn a_source_with_a_pool_of_four_in_a_pipeline() {
    for queue in ["", "queue max-size-buffers=2 !"] {
        let pipeline = common::Pipeline::parse(&format!(
            "appsrc name=src format=time block=true max-buffers=2 caps=video/x-raw\\,format=(string)GRAY8\\,width=16\\,height=16\\,framerate=25/1 \
             ! {queue} tee name=t ! vtparallelenc name=enc encoder=scriptedenc sessions=2 chunk-frames=50 ! fakesink name=sink sync=false async=false \
             t. ! queue max-size-buffers=1 ! fakesink sync=false async=false"
        ));
        let output = common::record(&pipeline.element("sink").static_pad("sink").unwrap());
        pipeline.set_state(gst::State::Playing).unwrap();
        let src = common::app_src(&pipeline);
        let feeder = std::thread::spawn(move || {
            common::init();
            let pool = pool(4);
            for number in 0..300 {
                let mut buffer = pool.acquire_buffer(None).unwrap();
                let frame = buffer.get_mut().unwrap();
                frame.copy_from_slice(0, &u64::to_le_bytes(number)).unwrap();
                frame.set_pts(gst::ClockTime::from_mseconds(number * 40));
                frame.set_duration(gst::ClockTime::from_mseconds(40));
                src.push_buffer(buffer).unwrap();
            }
            src.end_of_stream().unwrap();
        });
        pipeline.end().expect_eos();
        feeder.join().unwrap();
        assert_eq!(output.lock().unwrap().packets.len(), 300);
        assert_eq!(pipeline.stats().get::<u64>("frames-copied").unwrap(), 300);
    }
}
