// SPDX-License-Identifier: MPL-2.0

//! Thousands of chunks, of which one in a hundred fails: every frame leaves in its order, and nothing grows.
//!
//! The full form takes some seconds:
//!
//! ```sh
//! VT_SOAK_FRAMES=200000 cargo test --release --test soak -- --nocapture
//! ```

mod common;

use common::{app_src, gray, scripted_pipeline};
use gst::glib;
use gst::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A frame in a thousand is a chunk in a hundred.
const FAIL_ONE_IN: u64 = 1000;
const CHUNK: u64 = 10;

/// What memory may grow by from the first quarter to the end. The allocator keeps what its arenas once needed, in pieces: that was
/// seen to make 0.1 MiB in the full form, and this leaves room for another allocator or more arenas. A leak of 14 bytes for each
/// frame, or 140 for each chunk, is as much there.
const MAY_GROW_KB: u64 = 2 * 1024;

/// Entries of such a directory of this process.
fn count(directory: &str) -> usize {
    std::fs::read_dir(format!("/proc/self/{directory}"))
        .unwrap()
        .count()
}

/// Memory of this process that is in RAM.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let figure = line.and_then(|line| line.split_whitespace().nth(1));
    figure.unwrap().parse().unwrap()
}

/// Encodes so many frames; returns the memory in use when each of `looks` of them had left, and how many attempts failed.
fn run(name: &str, frames: u64, looks: &[u64]) -> (Vec<u64>, u64) {
    let pipeline = scripted_pipeline(&format!(
        "vtparallelenc name=enc sessions=4 chunk-frames={CHUNK} min-chunk-frames=4 overlap-before=2 overlap-after=2 \
         max-attempts=10 encoder=\"scriptedenc look-ahead=3 failure={name} fail-one-in={FAIL_ONE_IN}\""
    ));
    let src = app_src(&pipeline);
    src.set_property("max-buffers", 100u64);
    src.set_property("block", true);
    // What is recorded doesn't grow: which frame is next, and the first one that wasn't.
    let next = Arc::new(AtomicU64::new(0));
    let wrong = Arc::new(Mutex::new(None::<String>));
    let memory = Arc::new(Mutex::new(Vec::new()));
    let pad = pipeline.element("sink").static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, {
        let (next, wrong, memory) = (next.clone(), wrong.clone(), memory.clone());
        let looks = looks.to_vec();
        move |_, info| {
            let expected = next.fetch_add(1, Ordering::SeqCst);
            let buffer = info.buffer().unwrap();
            let bytes = buffer.map_readable().unwrap();
            let text = std::str::from_utf8(&bytes).unwrap();
            let number = text.split(' ').next().unwrap().parse();
            // Without B-frames nothing is moved.
            let time = gst::ClockTime::from_mseconds(40) * expected;
            if number != Ok(expected) || buffer.pts() != Some(time) {
                let mut wrong = wrong.lock().unwrap();
                wrong.get_or_insert(format!(
                    "{text} at {:?} instead of {expected}",
                    buffer.pts()
                ));
            }
            if looks.contains(&(expected + 1)) {
                memory.lock().unwrap().push(resident_kb());
            }
            gst::PadProbeReturn::Ok
        }
    });
    // Warnings that nobody fetches would grow, too.
    let warnings = Arc::new(AtomicU64::new(0));
    let counted = warnings.clone();
    pipeline.bus().unwrap().set_sync_handler(move |_, message| {
        match message.type_() {
            gst::MessageType::Eos | gst::MessageType::Error => return gst::BusSyncReply::Pass,
            gst::MessageType::Warning => counted.fetch_add(1, Ordering::SeqCst),
            _ => 0,
        };
        gst::BusSyncReply::Drop
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    let duration = gst::ClockTime::from_mseconds(40);
    for number in 0..frames {
        let pushed = src.push_buffer(gray(number, (duration * number, Some(duration))));
        if pushed.is_err() {
            break;
        }
    }
    let _ = src.end_of_stream();
    // As long as frames leave it doesn't hang.
    let bus = pipeline.bus().unwrap();
    let end = loop {
        let before = next.load(Ordering::SeqCst);
        let message = bus.timed_pop(gst::ClockTime::from_seconds(60));
        assert!(
            message.is_some() || next.load(Ordering::SeqCst) > before,
            "it hangs at frame {before}"
        );
        if let Some(message) = message {
            break message;
        }
    };
    let stats = pipeline.stats();
    assert_eq!(end.type_(), gst::MessageType::Eos, "{end:?}");
    assert_eq!(*wrong.lock().unwrap(), None);
    assert_eq!(next.load(Ordering::SeqCst), frames);
    for (field, expected) in [
        ("frames-in", frames),
        ("frames-out", frames),
        ("chunks-finished", frames.div_ceil(CHUNK)),
        ("frames-skipped", 0),
        ("bytes-held", 0),
    ] {
        assert_eq!(stats.get::<u64>(field), Ok(expected), "{field}: {stats}");
    }
    assert!(stats.get::<u64>("bytes-peak").unwrap() <= stats.get::<u64>("bytes-bound").unwrap());
    let failed = stats.get::<u64>("attempts-failed").unwrap();
    // Each of them was told.
    assert!(warnings.load(Ordering::SeqCst) >= failed, "{stats}");
    // About as many as chance has it; one that fails in the overlap alone, or with its session's first packet, doesn't count.
    let expected = frames / FAIL_ONE_IN;
    assert!((expected / 4..=expected * 2).contains(&failed), "{stats}");
    pipeline.set_state(gst::State::Null).unwrap();
    let memory = memory.lock().unwrap().clone();
    (memory, failed)
}

/// Waits until as many threads have ended as will: those of GLib's pool that nobody needs, and ours.
fn wait_for_threads(most: usize) {
    let since = std::time::Instant::now();
    while common::threads("") > most {
        glib::ThreadPool::stop_unused_threads();
        assert!(
            since.elapsed() < std::time::Duration::from_secs(60),
            "{} threads instead of {most}",
            common::threads("")
        );
        std::thread::yield_now();
    }
}

#[test]
fn nothing_grows() {
    let frames = std::env::var("VT_SOAK_FRAMES").ok();
    let frames: u64 = frames.map_or(6_000, |it| it.parse().unwrap());
    common::init();
    // What is made once, with the first pipeline of the process, doesn't count.
    let threads = common::threads("");
    run("first", 1_000, &[]);
    wait_for_threads(threads);
    let descriptors = count("fd");

    let since = std::time::Instant::now();
    let looks = [frames / 10, frames / 4, frames / 2, frames];
    let (memory, failed) = run("soak", frames, &looks);
    let time = since.elapsed();
    wait_for_threads(threads);
    println!(
        "{frames} frames in {time:.1?}, {failed} attempts failed; {memory:?} kB at 10, 25, 50, 100 %; \
         {threads} threads before, {} after; {descriptors} descriptors before, {} after",
        common::threads(""),
        count("fd")
    );
    assert_eq!(common::threads(""), threads);
    assert_eq!(count("fd"), descriptors);
    let [_, quarter, _, end] = memory[..] else {
        panic!("{memory:?}")
    };
    assert!(end <= quarter + MAY_GROW_KB, "{memory:?}");
}
