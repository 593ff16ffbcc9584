// SPDX-License-Identifier: MPL-2.0

//! The timeline: what every session did when, as a file that viewers of trace events open.

mod common;

use common::scripted::{Gate, hanging};
use common::{End, Pipeline, constant, feed, scripted_pipeline, tool};
use gst::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

fn read(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn play(properties: &str, frames: u64) -> (End, Vec<String>) {
    let pipeline = scripted_pipeline(&format!("vtparallelenc name=enc {properties}"));
    let warnings = pipeline.warnings();
    feed(&pipeline, &constant(frames));
    let end = pipeline.run();
    pipeline.set_state(gst::State::Null).unwrap();
    let warnings = warnings.lock().unwrap().clone();
    (end, warnings)
}

/// Beginning and end of each phase of a row, in microseconds.
fn phases(events: &[Value]) -> BTreeMap<u64, Vec<(String, f64, f64)>> {
    let mut rows: BTreeMap<u64, Vec<_>> = BTreeMap::new();
    for event in events.iter().filter(|event| event["ph"] == "X") {
        let from = event["ts"].as_f64().unwrap();
        let to = from + event["dur"].as_f64().unwrap();
        let name = event["name"].as_str().unwrap().to_string();
        let row = rows.entry(event["tid"].as_u64().unwrap()).or_default();
        row.push((name, from, to));
    }
    rows
}

#[test]
fn each_session_has_a_row_without_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("timeline.json");
    let (end, warnings) = play(
        &format!(
            "encoder=scriptedenc sessions=2 chunk-frames=20 overlap-before=3 overlap-after=2 timeline-location={}",
            path.display()
        ),
        100,
    );
    end.expect_eos();
    assert!(warnings.is_empty(), "{warnings:?}");
    let events = read(&path);
    let names: Vec<_> = events
        .iter()
        .filter(|event| event["name"] == "thread_name")
        .map(|event| event["args"]["name"].as_str().unwrap())
        .collect();
    for name in ["input", "session 0"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let rows = phases(&events);
    let mut chunks = std::collections::BTreeSet::new();
    for (row, phases) in rows.iter().filter(|(row, _)| **row >= 10) {
        for two in phases.windows(2) {
            // Times are written with a thousandth of a microsecond.
            assert!((two[0].2 - two[1].1).abs() < 0.01, "row {row}: {two:?}");
        }
    }
    for event in &events {
        chunks.extend(event["args"]["chunk"].as_u64());
    }
    assert_eq!(chunks.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    let all: Vec<_> = rows.values().flatten().map(|(name, ..)| &**name).collect();
    // As Chrome's trace viewer takes it.
    let last = events.last().unwrap();
    assert_eq!(last["args"]["labels"], "ended", "{last}");
    for phase in ["opening", "own frames", "draining"] {
        assert!(all.contains(&phase), "no {phase}: {all:?}");
    }
    // What is held is a curve.
    let held = events
        .iter()
        .filter(|event| event["name"] == "raw bytes held");
    assert!(held.count() > 0);
}

#[test]
fn one_that_hangs_is_seen_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("timeline.json");
    let gate = hanging("timeline");
    let (end, _) = play(
        &format!(
            "encoder=\"scriptedenc failure=timeline fault=hang@frame fault-frame=5 fault-times=1\" sessions=2 chunk-frames=20 \
             max-attempts=3 stall-timeout=300000000 timeline-location={}",
            path.display()
        ),
        60,
    );
    end.expect_eos();
    gate.open();
    let rows = phases(&read(&path));
    let mut all = rows.values().flatten();
    assert!(all.any(|(name, ..)| name == "hung"), "{rows:?}");
}

/// Where input is faster than what comes after it, it waits for memory.
#[test]
fn waiting_for_memory_is_seen_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("timeline.json");
    let gate = Gate::named("timeline-memory");
    let pipeline = scripted_pipeline(&format!(
        "vtparallelenc name=enc encoder=\"scriptedenc gate=timeline-memory\" sessions=1 chunk-frames=10 max-raw-bytes=5120 \
         timeline-location={}",
        path.display()
    ));
    feed(&pipeline, &constant(100));
    pipeline.set_state(gst::State::Playing).unwrap();
    // All that the memory holds has come, and nothing more for a while.
    common::until("the memory is full", || {
        pipeline.stats().get("bytes-held") == Ok(5120_u64)
    });
    std::thread::sleep(std::time::Duration::from_millis(5));
    gate.open();
    pipeline.end().expect_eos();
    pipeline.set_state(gst::State::Null).unwrap();
    let rows = phases(&read(&path));
    let input = rows.get(&1).map_or(&[][..], Vec::as_slice);
    let waits = |name: &str| name == "waiting for memory";
    assert!(input.iter().any(|(name, ..)| waits(name)), "{rows:?}");
}

#[test]
fn where_it_cannot_be_written_encoding_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    for path in [
        dir.path().join("nowhere").join("timeline.json"),
        dir.path().into(),
        "/dev/full".into(),
    ] {
        let (end, warnings) = play(
            &format!(
                "encoder=scriptedenc sessions=2 chunk-frames=20 timeline-location={}",
                path.display()
            ),
            60,
        );
        end.expect_eos();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("timeline-location"), "{warnings:?}");
        assert!(warnings[0].contains(path.to_str().unwrap()), "{warnings:?}");
    }
}

/// What is there when the process is killed can be read, line by line.
#[cfg(unix)]
#[test]
fn a_crash_leaves_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("timeline.json");
    let mut child = tool(dir.path(), "gst-launch-1.0")
        .args(["-q", "videotestsrc", "!"])
        .args([
            "vtparallelenc",
            "encoder=jpegenc",
            "sessions=2",
            "chunk-frames=5",
        ])
        .arg(format!("timeline-location={}", path.display()))
        .args(["!", "fakesink"])
        .spawn()
        .unwrap();
    common::until("something is written", || {
        std::fs::metadata(&path).is_ok_and(|it| it.len() > 20_000)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("["));
    let mut events = 0;
    for line in lines.map(str::trim_end).filter(|line| !line.is_empty()) {
        let line = line.strip_suffix(',').unwrap();
        serde_json::from_str::<Value>(line).unwrap();
        events += 1;
    }
    assert!(events > 100, "{events}");
}

#[test]
fn the_tool_draws_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("timeline.json");
    let (end, _) = play(
        &format!(
            "encoder=scriptedenc sessions=2 chunk-frames=20 timeline-location={}",
            path.display()
        ),
        100,
    );
    end.expect_eos();
    let example = std::env::current_exe().unwrap();
    let example = example.parent().unwrap().with_file_name("examples");
    // (Of all tests, cargo builds it; of one alone, `cargo build --examples` does.)
    let run = |to: &Path| {
        std::process::Command::new(example.join("timeline"))
            .arg(&path)
            .arg(to)
            .output()
            .unwrap()
    };
    let svg = dir.path().join("timeline.svg");
    let output = run(&svg);
    assert!(output.status.success(), "{output:?}");
    let drawn = std::fs::read_to_string(&svg).unwrap();
    for part in ["<svg", "session 0", "session 1", "own frames"] {
        assert!(drawn.contains(part), "{part}");
    }
    let wrong = run(&dir.path().join("timeline.pdf"));
    assert!(!wrong.status.success());
    let said = String::from_utf8_lossy(&wrong.stderr).to_string();
    assert!(said.contains("neither .svg nor .png"), "{said}");
    Pipeline::parse("fakesrc num-buffers=0 ! fakesink");
    if gst::ElementFactory::find("rsvgdec").is_some() {
        let png = dir.path().join("timeline.png");
        let output = run(&png);
        assert!(output.status.success(), "{output:?}");
        let bytes = std::fs::read(&png).unwrap();
        assert!(bytes.starts_with(b"\x89PNG"), "no PNG");
    }
}
