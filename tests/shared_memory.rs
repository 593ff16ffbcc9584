// SPDX-License-Identifier: MPL-2.0

//! All elements of a process hold no more raw video together than one may hold alone.
//!
//! The bound belongs to the process, so all is done in one test.

mod common;

use common::scripted::Gate;
use common::{Pipeline, app_src, init, until};
use gst::prelude::*;
use std::ops::Range;

/// 33 MB a frame, so that a few hundred are a quarter of any machine's memory.
const SIZE: (usize, usize) = (7680, 4320);

struct Job {
    pipeline: Pipeline,
    gate: std::sync::Arc<Gate>,
    /// All frames but their numbers.
    rest: gst::Memory,
}

impl Job {
    fn ready(name: &str) -> Self {
        let pipeline = Pipeline::parse(&format!(
            "appsrc name=src format=time max-bytes=0 caps=video/x-raw\\,format=(string)GRAY8\\,width={}\\,height={}\\,framerate=25/1 ! \
             vtparallelenc name=enc sessions=8 chunk-frames=1000 min-chunk-frames=1 cut=fixed encoder=\"scriptedenc gate={name}\" ! \
             fakesink name=sink sync=false",
            SIZE.0, SIZE.1
        ));
        pipeline.set_state(gst::State::Ready).unwrap();
        Self {
            pipeline,
            gate: Gate::named(name),
            rest: gst::Memory::from_slice(vec![0; SIZE.0 * SIZE.1 - 8]),
        }
    }

    fn push(&self, frames: Range<u64>) {
        for number in frames {
            let mut buffer = gst::Buffer::from_slice(number.to_le_bytes());
            let frame = buffer.get_mut().unwrap();
            frame.append_memory(self.rest.clone());
            frame.set_pts(gst::ClockTime::from_mseconds(40) * number);
            app_src(&self.pipeline).push_buffer(buffer).unwrap();
        }
    }

    fn bytes(&self, stat: &str) -> u64 {
        self.pipeline.stats().get(stat).unwrap()
    }

    /// Gets a frame, from which on its plan is known.
    fn begin(&self) -> u64 {
        self.pipeline.set_state(gst::State::Playing).unwrap();
        self.push(0..1);
        until("a plan", || self.bytes("frames-in") == 1);
        self.bytes("bytes-bound")
    }
}

#[test]
fn elements_of_a_process_share_its_memory() {
    init();
    let frame = (SIZE.0 * SIZE.1) as u64;
    let first = Job::ready("first");
    let whole = first.begin();
    let frames = whole / frame;
    assert!(frames >= 12, "a machine with {frames} frames");

    // Two more come: from now on each has a third, and a plan for that.
    let others = [Job::ready("second"), Job::ready("third")];
    for job in &others {
        let bound = job.begin();
        assert!(bound <= whole / 3 + frame && bound + 2 * frame > whole / 3);
    }
    // Encoders stand still, so all comes in that may.
    let all = || others.iter().chain([&first]);
    for job in all() {
        job.push(1..frames * 2);
        let has_its_share = || job.bytes("bytes-held") + 2 * frame > whole / 3;
        until("the share is used", has_its_share);
    }
    let held: u64 = all().map(|job| job.bytes("bytes-peak")).sum();
    assert!(held <= whole + 3 * frame, "{held} of {whole}");

    // They end, and what was theirs is the first one's again.
    for job in &others {
        job.gate.open();
        app_src(&job.pipeline).end_of_stream().unwrap();
        job.pipeline.end().expect_eos();
        job.pipeline.set_state(gst::State::Null).unwrap();
    }
    until("room for more", || {
        // (Where the source stands with its frame, what is released makes it go on.)
        first.gate.let_pass(1);
        first.bytes("bytes-held") > whole / 2
    });
    first.gate.open();
    app_src(&first.pipeline).end_of_stream().unwrap();
    first.pipeline.end().expect_eos();
    assert_eq!(first.bytes("frames-out"), frames * 2);
    assert!(first.bytes("bytes-peak") <= whole);
}
