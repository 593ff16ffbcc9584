// SPDX-License-Identifier: MPL-2.0

//! Encoders that fail, hang and lie, at every moment of their lives: what leaves is what would have left without that, or an error
//! that says what was lost.

mod common;

use common::scripted::{Release, hanging};
use common::{End, Output, Pipeline, app_src, constant, feed, gray, record, scripted_pipeline};
use gst::prelude::*;
use std::sync::{Arc, Mutex};

/// Chunks of ten: the second one is where faults happen.
const FRAMES: u64 = 60;

/// So long encoders may stand still where a test lets one hang.
const STALL: gst::ClockTime = gst::ClockTime::from_mseconds(300);

/// A run, and what became of it.
struct Run {
    end: End,
    output: Output,
    stats: gst::Structure,
    attempts_failed: u64,
    /// The details of each warning about an attempt.
    failed: Vec<gst::Structure>,
    warnings: Vec<String>,
    /// The error's details.
    details: Option<gst::Structure>,
}

impl Run {
    /// `fault`: properties of the encoder; `name` is that of its failure.
    fn of(name: &str, properties: &str, encoder: &str, frames: u64) -> Self {
        let _release = Release(name.to_string());
        let pipeline = scripted_pipeline(&format!(
            "vtparallelenc name=enc {properties} encoder=\"scriptedenc failure={name} {encoder}\""
        ));
        let run = Self::with(&pipeline, frames);
        pipeline.set_state(gst::State::Null).unwrap();
        run
    }

    fn with(pipeline: &Pipeline, frames: u64) -> Self {
        feed(pipeline, &constant(frames));
        Self::watch(pipeline)
    }

    /// Plays to the end.
    fn watch(pipeline: &Pipeline) -> Self {
        let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
        type Told = (Vec<gst::Structure>, Vec<String>, Option<gst::Structure>);
        let told = Arc::new(Mutex::new(Told::default()));
        let kept = told.clone();
        pipeline.bus().unwrap().set_sync_handler(move |_, message| {
            let mut told = kept.lock().unwrap();
            match message.view() {
                gst::MessageView::Warning(warning) => {
                    told.1.push(warning.error().message().to_string());
                    told.0.extend(warning.details().map(|it| it.to_owned()));
                }
                gst::MessageView::Error(error) => {
                    told.2 = told.2.take().or(error.details().map(|it| it.to_owned()));
                }
                _ => (),
            }
            gst::BusSyncReply::Pass
        });
        let end = pipeline.run();
        let stats = pipeline.stats();
        // (After an error before the pipeline has prerolled GStreamer calls this a failure, whatever the elements say.)
        let _ = pipeline.set_state(gst::State::Ready);
        // Now nobody is about to say anything.
        let attempts_failed = pipeline.stats().get("attempts-failed").unwrap();
        let (failed, warnings, details) = std::mem::take(&mut *told.lock().unwrap());
        Self {
            end,
            output: output.lock().unwrap().clone(),
            stats,
            attempts_failed,
            failed,
            warnings,
            details,
        }
    }

    fn stat(&self, field: &str) -> u64 {
        self.stats.get(field).unwrap()
    }

    /// It ended well, with these packets, and held what it had announced.
    fn assert_same(&self, reference: &Self, what: &str) {
        assert!(matches!(self.end, End::Eos), "{what}: {:?}", self.end);
        let pairs = self.output.packets.iter().zip(&reference.output.packets);
        for (at, (is, should)) in pairs.enumerate() {
            assert_eq!(is, should, "{what}: packet {at}, {:#?}", self.warnings);
        }
        assert_eq!(
            self.output.packets.len(),
            reference.output.packets.len(),
            "{what}"
        );
        self.assert_sound(what);
        assert_eq!(self.stat("bytes-held"), 0, "{what}");
    }

    fn assert_sound(&self, what: &str) {
        assert!(
            self.stat("bytes-peak") <= self.stat("bytes-bound"),
            "{what}: {}",
            self.stats
        );
        // Each failed attempt that was followed by another was told, with all there is to say.
        assert_eq!(
            self.failed.len() as u64,
            self.attempts_failed,
            "{what}: {:#?}",
            self.warnings
        );
        for details in &self.failed {
            assert_eq!(details.name(), "vtparallelenc-attempt-failed");
            for field in ["chunk", "first-frame", "frames", "session"] {
                assert!(details.get::<u64>(field).is_ok(), "{what}: {details}");
            }
            for field in ["attempt", "max-attempts"] {
                assert!(details.get::<u32>(field).unwrap() > 0, "{what}: {details}");
            }
            for field in ["cause", "reason", "encoder"] {
                assert!(
                    !details.get::<String>(field).unwrap().is_empty(),
                    "{what}: {details}"
                );
            }
        }
    }
}

fn properties(sessions: u64, overlap: u64) -> String {
    format!(
        "sessions={sessions} chunk-frames=10 min-chunk-frames=4 overlap-before={overlap} overlap-after={overlap}"
    )
}

/// For encoders that stand still.
fn impatient(properties: &str) -> String {
    format!("{properties} stall-timeout={}", STALL.nseconds())
}

/// Does this fault come to light only because time passes?
fn stalls(what: &str) -> bool {
    ["hang", "untie"].contains(&what)
}

const SCRIPT: &str = "bframes=2 look-ahead=3";

/// Moments of an encoder's life, and what says them. The first encoder of all is opened ahead, so the second one's opening and
/// closing count as well.
const MOMENTS: [(&str, &str); 8] = [
    ("open", ""),
    ("open", "fault-skips=1"),
    ("frame", "fault-frame=10"),
    ("frame", "fault-frame=15"),
    ("frame", "fault-frame=19"),
    ("finish", "fault-skips=1"),
    ("close", ""),
    ("close", "fault-skips=1"),
];

/// Every moment, with each number of sessions and each overlap.
fn campaign(whats: &[&str]) {
    std::thread::scope(|scope| {
        for (sessions, overlap) in [1, 2, 8].into_iter().flat_map(|n| [(n, 0), (n, 8)]) {
            scope.spawn(move || {
                let properties = properties(sessions, overlap);
                let name =
                    format!("reference {whats:?} {sessions} {overlap}").replace([' ', '"'], "");
                let name = name.replace(['[', ']', ','], "-");
                let reference = Run::of(&name, &properties, SCRIPT, FRAMES);
                assert_eq!(reference.output.packets.len() as u64, FRAMES);
                assert!(reference.failed.is_empty());
                for what in whats {
                    let properties = match stalls(what) {
                        true => impatient(&properties),
                        false => properties.clone(),
                    };
                    for (number, (moment, when)) in MOMENTS.into_iter().enumerate() {
                        let name = format!("{what}-{number}-{sessions}-{overlap}");
                        let fault = format!("{SCRIPT} fault={what}@{moment} {when}");
                        let run = Run::of(&name, &properties, &fault, FRAMES);
                        run.assert_same(
                            &reference,
                            &format!("{what}@{moment} {when}, {properties}"),
                        );
                    }
                }
            });
        }
    });
}

#[test]
fn an_error_costs_its_chunks_time() {
    campaign(&["error", "flow"]);
}

#[test]
fn a_hang_costs_its_chunks_time() {
    campaign(&["hang"]);
}

#[test]
fn a_hang_over_its_caps_costs_its_chunks_time() {
    // The very first one hangs in upstream's thread, with the lock of a pad.
    for (skips, sessions) in [(0, 1), (0, 2), (1, 2), (2, 1)] {
        let properties = impatient(&properties(sessions, 0));
        let name = format!("hang-format-{skips}-{sessions}");
        let reference = Run::of(&format!("{name}-not"), &properties, SCRIPT, FRAMES);
        let fault = format!("{SCRIPT} fault=hang@format fault-skips={skips}");
        Run::of(&name, &properties, &fault, FRAMES).assert_same(&reference, &name);
    }
}

#[test]
fn a_stop_while_the_first_one_hangs_over_its_caps_ends() {
    for sessions in [1, 2] {
        let name = format!("stop-format-{sessions}");
        let _release = Release(name.clone());
        let pipeline = scripted_pipeline(&format!(
            "vtparallelenc name=enc {} encoder=\"scriptedenc failure={name} fault=hang@format fault-times=9\"",
            impatient(&properties(sessions, 0))
        ));
        for (number, &time) in constant(FRAMES).iter().enumerate() {
            app_src(&pipeline)
                .push_buffer(gray(number as u64, time))
                .unwrap();
        }
        pipeline.set_state(gst::State::Playing).unwrap();
        hanging(&name).wait_for(1);
        pipeline.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn a_panic_costs_its_chunks_time() {
    campaign(&["panic"]);
}

#[test]
fn a_wrong_output_costs_its_chunks_time() {
    campaign(&["lose", "double", "garbage", "mute"]);
}

#[test]
fn an_early_end_costs_its_chunks_time() {
    campaign(&["end", "late"]);
}

#[test]
fn an_end_that_never_comes_costs_its_chunks_time() {
    campaign(&["untie"]);
}

/// It ends with an error, which has all there is to say.
fn assert_fails(run: &Run, parts: &[&str], what: &str) {
    let End::Error {
        source,
        message,
        debug,
    } = &run.end
    else {
        panic!("{what}: no error, {:?}", run.warnings);
    };
    let text = format!("{message} [{debug}]");
    assert_eq!(source, "enc", "{what}: {text}");
    for part in parts {
        assert!(text.contains(part), "{what}: {part:?} isn't in {text}");
    }
    run.assert_sound(what);
    let details = run.details.as_ref().expect("details");
    let attempts = details.get::<gst::Array>("attempts").unwrap();
    assert_eq!(
        attempts.as_slice().len(),
        debug
            .lines()
            .filter(|line| line.contains("attempt "))
            .count(),
        "{what}: {text}"
    );
}

#[test]
fn the_last_attempts_error_says_all_of_them() {
    for (max, sessions) in [(1, 2), (2, 1), (3, 2), (3, 8)] {
        let name = format!("always-{max}-{sessions}");
        let run = Run::of(
            &name,
            &format!("{} max-attempts={max}", properties(sessions, 0)),
            "fault=error@frame fault-frame=25 fault-times=1000",
            FRAMES,
        );
        let what = format!("{max} attempts, {sessions} sessions");
        assert_fails(
            &run,
            &[
                "Chunk 2 (frames 20 to 2",
                "could not be encoded",
                "Could not encode stream.",
                "attempt 1 in session",
                &format!("attempt {max} in session"),
                "scripted fault",
            ],
            &what,
        );
        // Up to then there were warnings, and no error.
        assert_eq!(run.failed.len() as u32, max - 1, "{what}");
        let details = run.details.unwrap();
        assert_eq!(details.get::<u64>("chunk").unwrap(), 2);
        assert_eq!(details.get::<u64>("first-frame").unwrap(), 20);
        // As many as have come by then.
        let frames = details.get::<u64>("frames").unwrap();
        assert!((6..=10).contains(&frames), "{frames}");
        assert_eq!(details.get::<u32>("attempt").unwrap(), max);
        assert_eq!(details.get::<u32>("max-attempts").unwrap(), max);
        assert_eq!(details.get::<String>("cause").unwrap(), "error-message");
        let time = |field| details.get::<gst::ClockTime>(field).unwrap();
        assert_eq!(time("start-time"), gst::ClockTime::from_mseconds(800));
        assert_eq!(
            time("end-time"),
            gst::ClockTime::from_mseconds(800 + 40 * frames)
        );
    }
}

/// The application is slow to take the first error, and more follow from what the other sessions do meanwhile.
#[test]
fn the_error_comes_before_the_end() {
    let _release = Release("before the end".to_string());
    let pipeline = scripted_pipeline(&format!(
        "vtparallelenc name=enc {} max-attempts=1 \
         encoder=\"scriptedenc failure=\\\"before the end\\\" fault=lose@open fault-times=4\"",
        properties(4, 0)
    ));
    pipeline.bus().unwrap().set_sync_handler(|_, message| {
        if message.type_() == gst::MessageType::Error {
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        gst::BusSyncReply::Pass
    });
    feed(&pipeline, &constant(FRAMES));
    let error = pipeline.run().error();
    assert!(error.contains("could not be encoded"), "{error}");
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_session_that_fails_three_times_in_a_row_is_closed_and_with_the_last_one_the_stream_fails() {
    let run = Run::of(
        "three-in-a-row",
        &format!("{} max-attempts=9", properties(1, 0)),
        "fault=error@frame fault-frame=25 fault-times=1000",
        FRAMES,
    );
    assert_fails(
        &run,
        &["no session is left", "attempt 3 in session 0"],
        "one session",
    );
    let run = Run::of(
        "twice-three-in-a-row",
        &format!("{} max-attempts=9", properties(2, 0)),
        "fault=error@frame fault-frame=25 fault-times=1000",
        FRAMES,
    );
    // (One of them may have had a success between.)
    assert_fails(&run, &["Chunk 2", "attempt 3 in session"], "two sessions");
}

/// What becomes of an encoder that always lies in the same way.
enum Outcome {
    /// Nobody notices.
    Repaired,
    /// Each packet has its own PTS, and the DTS are sound.
    Restored,
    Error(&'static str),
}

#[test]
fn what_becomes_of_every_lie() {
    use Outcome::{Error, Repaired, Restored};
    for (lie, outcome) in [
        (
            "lose@frame fault-frame=15",
            Error("1 frames were not delivered"),
        ),
        ("double@frame fault-frame=15", Error("was delivered twice")),
        // A millisecond late of forty: it is still clear which frame is meant, and that has its own time.
        ("shift@open", Restored),
        ("garbage@open", Error("a timestamp that no input frame had")),
        (
            "mute@open",
            Error("none of the chunk's 10 frames was delivered"),
        ),
        ("end@frame fault-frame=15", Error("")),
        // What comes after the end GStreamer itself refuses.
        ("late@close", Repaired),
        ("untie@open", Error("stood still for 300ms while draining")),
        ("hang@end", Error("stood still for 300ms while draining")),
        (
            "hang@frame fault-frame=15",
            Error("stood still for 300ms while encoding"),
        ),
        (
            "flow@frame fault-frame=15",
            Error("returned Error without saying why"),
        ),
        ("panic@frame fault-frame=15", Error("Panicked")),
    ] {
        for sessions in [1, 2] {
            let what = format!("{lie}, {sessions} sessions");
            let name = format!("lie-{}-{sessions}", lie.replace([' ', '='], "-"));
            let properties = properties(sessions, 0);
            let reference = Run::of(&format!("{name}-not"), &properties, SCRIPT, FRAMES);
            let (kind, _) = lie.split_once('@').unwrap();
            let properties = match stalls(kind) {
                true => impatient(&properties),
                false => properties,
            };
            let script = format!("{SCRIPT} fault-times=100000 fault={lie}");
            let run = Run::of(&name, &properties, &script, FRAMES);
            match outcome {
                Repaired => run.assert_same(&reference, &what),
                Restored => {
                    run.end.expect_eos();
                    run.output.assert_timestamps();
                    let told = |output: &Output| -> Vec<_> {
                        let packets = output.packets.iter();
                        packets.map(|it| (it.bytes.clone(), it.pts)).collect()
                    };
                    assert_eq!(told(&run.output), told(&reference.output), "{what}");
                }
                Error(text) => assert_fails(&run, &["could not be encoded", text], &what),
            }
        }
    }
}

/// Frames of one chunk come, then nothing does until packets leave early, then the rest with a fault.
fn early(name: &str, script: &str) -> (Run, Run) {
    let encoder = |name: &str, script: &str| {
        format!(
            "vtparallelenc name=enc sessions=1 chunk-frames=20 min-chunk-frames=4 encoder=\"scriptedenc failure={name} {script}\""
        )
    };
    let reference = {
        let pipeline = scripted_pipeline(&encoder("early-reference", ""));
        Run::with(&pipeline, 40)
    };
    let pipeline = scripted_pipeline(&encoder(name, script));
    let sink = pipeline.element("sink").static_pad("sink").unwrap();
    let (sender, left) = std::sync::mpsc::channel();
    let sender = Mutex::new(sender);
    sink.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let _ = sender.lock().unwrap().send(());
        gst::PadProbeReturn::Ok
    });
    let (src, enc) = (app_src(&pipeline), pipeline.element("enc"));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let times = constant(40);
            for (number, &time) in times.iter().enumerate() {
                if number == 15 {
                    left.recv().unwrap();
                    let stats: gst::Structure = enc.property("stats");
                    assert_eq!(stats.get("leaves-early"), Ok(true));
                }
                src.push_buffer(gray(number as u64, time)).unwrap();
            }
            src.end_of_stream().unwrap();
        });
        (reference, Run::watch(&pipeline))
    })
}

#[test]
fn what_has_left_early_is_made_again_the_same() {
    let (reference, run) = early("early-again", "fault=error@frame fault-frame=17");
    // The rest of it, and what comes after it, is whole before it leaves.
    assert_eq!(run.stats.get("leaves-early"), Ok(false));
    assert_eq!(run.stat("attempts-failed"), 1);
    let bytes = |run: &Run| -> Vec<Vec<u8>> {
        run.output
            .packets
            .iter()
            .map(|it| it.bytes.clone())
            .collect()
    };
    assert_eq!(bytes(&run), bytes(&reference));
}

#[test]
fn what_has_left_early_and_comes_out_otherwise_is_an_error() {
    let (_, run) = early(
        "early-other",
        "fault=error@frame fault-frame=17 vary-packets=true",
    );
    let End::Error { message, .. } = &run.end else {
        panic!("no error")
    };
    for part in ["Chunk 0", "some of it has left", "isn't deterministic"] {
        assert!(message.contains(part), "{message}");
    }
    // The first attempt's failure is told as well.
    assert_eq!(run.failed.len(), 1);
}

/// A small generator that is the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.roll(of.len() as u64) as usize]
    }
}

#[test]
fn five_hundred_random_schedules() {
    const THREADS: u64 = 4;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for schedule in 0..500 / THREADS {
                    let seed = 0x9e37_79b9_7f4a_7c15 ^ (thread << 32 | schedule);
                    random_schedule(seed);
                }
            });
        }
    });
}

fn random_schedule(seed: u64) {
    let mut dice = Dice(seed);
    for _ in 0..8 {
        dice.roll(2);
    }
    let sessions = 1 + dice.roll(8);
    let chunk = 4 + dice.roll(20);
    let overlap = *dice.pick(&[0, 0, 3, 8]);
    let frames = 1 + dice.roll(120);
    let script = format!("bframes={} look-ahead={}", dice.roll(4), dice.roll(6));
    let max = 1 + dice.roll(4);
    let faults = 1 + dice.roll(3);
    let what = *dice.pick(&[
        "error", "flow", "lose", "double", "garbage", "mute", "end", "late", "panic",
    ]);
    let moment = *dice.pick(&["open", "frame", "frame", "frame", "end", "finish", "close"]);
    let frame = dice.roll(frames);
    let skips = dice.roll(3);
    let properties = format!(
        "sessions={sessions} chunk-frames={chunk} min-chunk-frames=3 overlap-before={overlap} overlap-after={overlap} \
         max-attempts={max}"
    );
    let fault = format!(
        "fault={what}@{moment} fault-frame={frame} fault-times={faults} fault-skips={skips}"
    );
    let told = format!("seed {seed:#x}: {frames} frames, {properties}, {script}, {fault}");
    let reference = Run::of(
        &format!("schedule-{seed}-not"),
        &properties,
        &script,
        frames,
    );
    let run = Run::of(
        &format!("schedule-{seed}"),
        &properties,
        &format!("{script} {fault}"),
        frames,
    );
    assert!(
        matches!(reference.end, End::Eos),
        "{told}: {:?}",
        reference.end
    );
    // Who may fail once more than there are faults doesn't fail.
    let survives = faults < max.min(3);
    match &run.end {
        End::Eos => run.assert_same(&reference, &told),
        End::Error { message, debug, .. } => {
            assert!(!survives, "{told}: {message} [{debug}]");
            assert!(
                message.contains("could not be encoded"),
                "{told}: {message} [{debug}]"
            );
            run.assert_sound(&told);
            // What left is as it should be, as far as it goes.
            let left = &run.output.packets;
            let pairs = left.iter().zip(&reference.output.packets);
            for (at, (is, should)) in pairs.enumerate() {
                assert_eq!(is, should, "{told}: packet {at}");
            }
            assert!(left.len() <= reference.output.packets.len(), "{told}");
        }
    }
}
