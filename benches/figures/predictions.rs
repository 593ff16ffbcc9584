// SPDX-License-Identifier: MPL-2.0

//! What the planner believes of sessions and threads, against what they take here.

use crate::Form;
use crate::clip::{Clip, Format};
use crate::process::{self, gst_launch};
use crate::table::Table;
use gstvtparallelenc::logic::split::Scaling;
use std::hint::black_box;
use std::time::Instant;

struct Case {
    encoder: &'static str,
    /// Of its row.
    exponent: f64,
}

const CASES: [Case; 6] = [
    Case {
        encoder: "x264enc speed-preset=fast pass=qual vbv-buf-capacity=0 quantizer=24",
        exponent: 0.75,
    },
    Case {
        encoder: "x265enc speed-preset=superfast option-string=crf=26:log-level=none",
        exponent: 0.85,
    },
    Case {
        encoder: "vp8enc deadline=1 cpu-used=4 target-bitrate=1000000",
        exponent: 0.35,
    },
    Case {
        encoder: "vp9enc deadline=1 cpu-used=6 end-usage=cq cq-level=30 target-bitrate=4000000",
        exponent: 0.55,
    },
    Case {
        encoder: "av1enc usage-profile=realtime cpu-used=10 end-usage=q min-quantizer=40 max-quantizer=40",
        exponent: 0.5,
    },
    Case {
        encoder: "openh264enc complexity=high rate-control=off",
        exponent: 0.0,
    },
];

/// Sessions and threads of each; the first is what the others are compared with.
const SPLITS: [(u32, u32); 5] = [(1, 1), (2, 1), (1, 2), (4, 1), (2, 2)];

/// Chunks of the film, so that one more or less doesn't matter.
const CHUNKS: u64 = 12;

pub fn measure(form: Form) -> Vec<Table> {
    let clip = Clip::new(form);
    let raw = clip.raw(Format::I420, None);
    let (cases, splits, rounds) = match form {
        Form::Full => (&CASES[..], &SPLITS[..], process::rounds(form, 1)),
        Form::Short => (&CASES[..1], &SPLITS[..2], 1),
    };
    let slower = together(form);
    let mut rows = Vec::new();
    for case in cases {
        let mut commands: Vec<_> = splits
            .iter()
            .map(|(sessions, threads)| {
                gst_launch(
                    form,
                    &format!(
                        "{} ! vtparallelenc sessions={sessions} threads-per-session={threads} chunk-frames={} max-bitrate-overhead=100 \
                         encoder=\"{}\" ! fakesink",
                        raw.source(),
                        (raw.frames / CHUNKS).max(1),
                        case.encoder
                    ),
                )
            })
            .collect();
        let taken = process::in_turns(rounds, &mut commands, process::run);
        let times: Vec<f64> = taken
            .iter()
            .map(|taken| process::median(taken).time.as_secs_f64())
            .collect();
        let mut row = vec![format!("`{}`", case.encoder)];
        for ((sessions, threads), time) in splits.iter().zip(&times).skip(1) {
            let believed = believed(case, *sessions, *threads, slower);
            row.push(format!("{believed:.2}, {:.2}", time / times[0]));
        }
        rows.push(row);
    }
    let mut columns = vec!["encoder"];
    columns.extend(
        ["2 x 1", "1 x 2", "4 x 1", "2 x 2"]
            .iter()
            .take(splits.len() - 1),
    );
    vec![Table {
        title: "What the planner believes, and what it is",
        about: format!(
            "`cargo bench -- predictions`: {}, {} frames in {CHUNKS} chunks. For sessions x threads of each: the time that the planner's model says, then what it took, both against \
             one session with one thread. Two threads that only count take {slower:.2} of the time of one for the same work each, which the model is \
             multiplied by, where two cores are busy.",
            clip.name, raw.frames
        ),
        columns,
        rows,
    }]
}

/// Against one session with one thread, on two cores, which slow each other down.
fn believed(case: &Case, sessions: u32, threads: u32, slower: f64) -> f64 {
    let scaling = Scaling {
        exponent: case.exponent,
        most: 2,
    };
    let speed = (scaling.speed(threads) * f64::from(sessions)).min(2.0);
    // All of it where both cores are busy all the time.
    let part = speed - 1.0;
    (1.0 + (slower - 1.0) * part) / speed
}

/// How many times as long two threads take as one, each with the same work.
fn together(form: Form) -> f64 {
    let steps: u64 = match form {
        Form::Full => 1 << 30,
        Form::Short => 1 << 20,
    };
    let count = || {
        let mut state = 1_u64;
        for _ in 0..steps {
            state = black_box(state.wrapping_mul(6_364_136_223_846_793_005) ^ state >> 7);
        }
        state
    };
    let timed = |threads: usize| {
        let since = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| black_box(count()));
            }
        });
        since.elapsed().as_secs_f64()
    };
    timed(2) / timed(1)
}
