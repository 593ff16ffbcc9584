// SPDX-License-Identifier: MPL-2.0

//! Encoders that fail, hang and lie, at every moment of their lives: what leaves is what would have left without that, or an error
//! that says what was lost.

mod common;

use common::scripted::{Release, hanging};
use common::{End, Output, Pipeline, constant, feed, record, scripted_pipeline};
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
        feed(pipeline, &constant(frames));
        let end = pipeline.run();
        let stats = pipeline.stats();
        pipeline.set_state(gst::State::Ready).unwrap();
        let (failed, warnings, details) = std::mem::take(&mut *told.lock().unwrap());
        Self {
            end,
            output: output.lock().unwrap().clone(),
            stats,
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
            self.stat("attempts-failed"),
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
        "sessions={sessions} chunk-frames=10 min-chunk-frames=4 overlap-before={overlap} overlap-after={overlap} \
         stall-timeout={}",
        STALL.nseconds()
    )
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
