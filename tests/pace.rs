// SPDX-License-Identifier: MPL-2.0

//! Input that comes slowly, or stops for a while, while output is held back: whoever waits for that output gets it, and a source that
//! is slow by itself costs nothing. Time passes when a test says so.

mod common;

use common::rig::{Entry, Rig};
use common::{alone, until};
use gstvtparallelenc::clock_by_hand as clock;
use std::path::Path;
use std::time::Duration;

const FRAMES: u64 = 60;

/// As frames come from a camera or a file.
const QUICK: Duration = Duration::from_millis(40);

/// Time passes, and whoever watches the input sees it.
fn advance(time: Duration) {
    clock::advance(time);
    let looks = clock::looks();
    until("somebody watches", || clock::looks() >= looks + 2);
}

fn rig(script: &str, cache: Option<&Path>, more: &str) -> Rig {
    // Before anybody looks at it.
    clock::advance(Duration::ZERO);
    let location = cache.map_or(String::new(), |dir| {
        format!("cache-location={}", dir.display())
    });
    Rig::new(&format!(
        "vtparallelenc sessions=2 chunk-frames=10 min-chunk-frames=4 {location} {more} encoder=\"scriptedenc {script}\""
    ))
}

/// One frame, then nothing for so long.
fn push(rig: &Rig, number: u64, pause: Duration) {
    rig.push(number).unwrap();
    advance(pause);
}

fn is_early(rig: &Rig) -> bool {
    rig.stats().get("leaves-early").unwrap()
}

fn failed(rig: &Rig) -> u64 {
    rig.stats().get("attempts-failed").unwrap()
}

/// Texts of the warnings so far.
fn warnings(rig: &Rig) -> Vec<String> {
    let messages = rig.messages(&[gst::MessageType::Warning]);
    let texts = messages.iter().map(|message| match message.view() {
        gst::MessageView::Warning(warning) => warning.error().message().to_string(),
        _ => unreachable!(),
    });
    texts.collect()
}

fn stalls(rig: &Rig) -> usize {
    let said = warnings(rig);
    said.iter()
        .filter(|it| it.contains("max-size-time"))
        .count()
}

/// What left, with its times.
fn packets(rig: &Rig) -> Vec<String> {
    let entries = rig.entries();
    let packets = entries.iter().filter_map(Entry::buffer);
    let packets = packets.map(|it| {
        let bytes = it.map_readable().unwrap().to_vec();
        let text = String::from_utf8(bytes).unwrap();
        format!("{text}, {:?} {:?}", it.pts(), it.dts())
    });
    packets.collect()
}

fn frames(rig: &Rig) -> Vec<u64> {
    let mut frames = rig.frames();
    frames.sort_unstable();
    frames
}

const OVERLAP: &str = "overlap-before=2 overlap-after=2";

/// The packets of a stream that comes as fast as it is taken.
fn at_full_speed(script: &str, more: &str) -> Vec<String> {
    let rig = rig(script, None, more);
    rig.push_all(0..FRAMES);
    rig.end();
    packets(&rig)
}

#[test]
fn a_source_that_is_slow_by_itself_costs_nothing() {
    let _alone = alone();
    for script in ["", "bframes=2 look-ahead=3"] {
        let reference = at_full_speed(script, OVERLAP);
        for is_kept in [false, true] {
            for fails in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let name = format!("slow-{is_kept}-{}", script.len());
                let fault = format!("failure={name} fault=error@frame fault-frame=25");
                let script = if fails {
                    format!("{script} {fault}")
                } else {
                    script.to_string()
                };
                let rig = rig(&script, is_kept.then_some(dir.path()), OVERLAP);
                for number in 0..FRAMES {
                    push(&rig, number, Duration::from_millis(1500));
                    assert!(!is_early(&rig), "{number}");
                }
                rig.end();
                assert_eq!(stalls(&rig), 0, "{script} {is_kept}");
                assert_eq!(packets(&rig), reference, "{script} {is_kept}");
                assert_eq!(failed(&rig), u64::from(fails));
            }
        }
    }
}

/// It says how far it reorders with its first packet, and holds back two frames.
const SCRIPT: &str = "bframes=1 look-ahead=1";

/// More than the input may stand still by its pace.
const PAUSE: Duration = Duration::from_millis(1100);

/// The chunks before the open one, which have all their frames, have left: the input doesn't stand still before that. (4 frames of the
/// next one tell where a chunk of 10 ends.)
fn settle(rig: &Rig, number: u64) {
    let whole = (number + 1).saturating_sub(4) / 10 * 10;
    until("whole chunks leave", || frames(rig).len() as u64 >= whole);
}

/// Nothing comes after frame `number`, until all has left that its encoder has made.
fn pause(rig: &Rig, number: u64) {
    settle(rig, number);
    clock::advance(PAUSE);
    until("what is held leaves", || {
        frames(rig).len() as u64 >= number - 1
    });
    assert!(is_early(rig));
}

#[test]
fn a_pause_costs_one_chunk() {
    let _alone = alone();
    // Its encoder never makes the same twice.
    let rig = rig(
        &format!("{SCRIPT} vary-packets=true failure=pause fault=error@frame fault-frame=45"),
        None,
        "",
    );
    for number in 0..15 {
        push(&rig, number, QUICK);
    }
    pause(&rig, 14);
    assert_eq!(stalls(&rig), 1);
    for number in 15..FRAMES {
        push(&rig, number, QUICK);
    }
    until("chunks are whole again", || !is_early(&rig));
    rig.end();
    assert_eq!(failed(&rig), 1);
    assert_eq!(stalls(&rig), 0);
    assert_eq!(frames(&rig), (0..FRAMES).collect::<Vec<_>>());
}

#[test]
fn pauses_are_told_once() {
    let _alone = alone();
    let rig = rig(SCRIPT, None, "");
    for number in 0..FRAMES {
        push(&rig, number, QUICK);
        if number % 20 == 6 {
            pause(&rig, number);
        }
    }
    rig.end();
    assert_eq!(stalls(&rig), 1);
    assert_eq!(frames(&rig), (0..FRAMES).collect::<Vec<_>>());
}

#[test]
fn a_chunk_of_the_cache_that_is_begun_is_not_cut_by_a_pause() {
    let _alone = alone();
    let reference = at_full_speed(SCRIPT, "");
    let dir = tempfile::tempdir().unwrap();
    let rig = rig(SCRIPT, Some(dir.path()), "");
    for number in 0..FRAMES {
        push(&rig, number, QUICK);
        // With fewer frames than a chunk has at least, and with more.
        if [2, 16].contains(&number) {
            settle(&rig, number);
            clock::advance(PAUSE);
            until("packets leave early", || is_early(&rig));
            pause(&rig, number);
        }
    }
    rig.end();
    assert_eq!(packets(&rig), reference);
}

#[test]
fn a_chunk_that_lacks_its_trail_ends_and_the_next_one_goes_on() {
    let _alone = alone();
    // Fifteen frames don't bring it to the end of the first chunk.
    let rig = rig("look-ahead=6", None, "overlap-after=8");
    for number in 0..FRAMES {
        push(&rig, number, QUICK);
        // The next one has as many frames as a chunk has at least.
        if number == 14 {
            clock::advance(PAUSE);
            until("packets leave early", || is_early(&rig));
            clock::advance(PAUSE);
            until("the chunk is whole", || frames(&rig).len() >= 10);
        }
    }
    rig.end();
    let entries = rig.entries();
    let keys = entries.iter().filter(|entry| entry.is_key());
    let keys: Vec<_> = keys.filter_map(Entry::frame).collect();
    assert_eq!(keys, [0, 10, 20, 30, 40, 50]);
    assert_eq!(frames(&rig), (0..FRAMES).collect::<Vec<_>>());
}
