// SPDX-License-Identifier: MPL-2.0

//! A long stream takes no more memory than a short one, however it is encoded.
//!
//! The allocator belongs to the process, so all is done in one test, one after the other.

mod common;

use common::rig::Rig;
use gst::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering};

/// Bytes that Rust code, ours and the frames', has allocated.
static LIVE: AtomicIsize = AtomicIsize::new(0);

struct Counting;

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size().cast_signed(), Ordering::Relaxed);
        // SAFETY: what is promised to us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size().cast_signed(), Ordering::Relaxed);
        // SAFETY: what is promised to us.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FRAMES: u64 = 20_000;

/// A table with an entry for each frame would take more.
const MOST: isize = 100_000;

/// Bytes that are allocated once these frames have left, those that the test itself keeps not counted.
fn live_after(rig: &Rig, frames: std::ops::Range<u64>) -> isize {
    for number in frames {
        rig.push(number).unwrap();
        if number.is_multiple_of(500) {
            rig.take();
        }
    }
    rig.src.peer_query(&mut gst::query::Drain::new());
    rig.take();
    LIVE.load(Ordering::Relaxed)
}

/// What is added from the first frames to the last.
fn growth(encoder: &str) -> isize {
    let rig = Rig::new(encoder);
    let before = live_after(&rig, 0..2_000);
    let after = live_after(&rig, 2_000..FRAMES);
    rig.end();
    after - before
}

#[test]
fn nothing_grows_with_the_stream() {
    common::init();
    // It keeps the times of all frames that it was given.
    let plain = growth("scriptedenc bframes=1");
    let growth_with = |properties: &str| {
        growth(&format!(
            "vtparallelenc {properties} encoder=\"scriptedenc bframes=1\""
        ))
    };
    let sequential = growth_with("allow-parallel=false");
    assert!(sequential - plain < MOST, "{sequential}, alone {plain}");
    let parallel = growth_with(
        "sessions=2 chunk-frames=10 min-chunk-frames=4 overlap-before=2 overlap-after=2",
    );
    assert!(parallel < MOST, "{parallel}");
}
