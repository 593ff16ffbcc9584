// SPDX-License-Identifier: MPL-2.0

//! What the element itself costs: instructions, allocations and time for a frame, and whether that grows.

use crate::Form;
use crate::process::{played, player};
use crate::source::{FULL_HD, SINK, TINY, stills};
use crate::table::Table;
use crate::valgrind;
use std::process::Command;

pub fn measure(form: Form) -> Vec<Table> {
    let mut tables = vec![speed(form), x264(form)];
    tables.extend(counted(form));
    tables
}

/// An encoder that does nothing, alone, behind what passes frames on, and in the element.
const PLAIN: &str = "engineenc";
const PASSED_ON: &str = "queue ! identity ! engineenc";
const X264: &str = "x264enc threads=1 speed-preset=ultrafast pass=qual quantizer=23";

fn ours(sessions: u64, properties: &str, encoder: &str) -> String {
    format!("vtparallelenc name=vt sessions={sessions} {properties} encoder=\"{encoder}\"")
}

fn tiny(form: Form, frames: u64, encoder: &str) -> Command {
    let source = stills(frames, TINY, "");
    player(form, &format!("{source} ! {encoder} ! {SINK}"))
}

/// Frames in a second, and the processor's time for each.
fn speed(form: Form) -> Table {
    let (rounds, frames, sessions): (usize, u64, &[u64]) = match form {
        Form::Full => (3, 100_000, &[1, 2, 8, 64]),
        Form::Short => (1, 200, &[2]),
    };
    let mut names = vec![
        "the source alone".to_string(),
        "the plain encoder".to_string(),
        "queue ! identity ! the plain encoder".to_string(),
    ];
    let mut encoders = vec!["identity".to_string(), PLAIN.into(), PASSED_ON.into()];
    for &sessions in sessions {
        names.push(format!("vtparallelenc, {sessions} sessions, automatic"));
        encoders.push(ours(sessions, "", PLAIN));
        names.push(format!("vtparallelenc, {sessions} sessions, chunks of 100"));
        encoders.push(ours(sessions, "chunk-frames=100", PLAIN));
    }
    let players = encoders.iter().map(|encoder| tiny(form, frames, encoder));
    let mut players: Vec<_> = players.collect();
    let runs = played(rounds, &mut players);
    let rows = names.into_iter().zip(&runs).map(|(name, run)| {
        let cpu = run.taken.cpu.as_secs_f64();
        vec![
            name,
            format!("{:.0}", frames as f64 / run.seconds()),
            format!("{:.1}", cpu * 1e6 / frames as f64),
        ]
    });
    Table {
        title: "Frames through the element",
        about: format!(
            "{frames} frames, of which none is looked at by an encoder that does nothing. With one session and chunks of \
             automatic length there is one encoder for all, and nothing is cut."
        ),
        columns: vec!["", "frames in a second", "µs of the processor for a frame"],
        rows: rows.collect(),
    }
}

/// Beside the fastest encoder that there is in software.
fn x264(form: Form) -> Table {
    let (rounds, frames, size) = match form {
        Form::Full => (3, 750, FULL_HD),
        Form::Short => (1, 24, TINY),
    };
    let variants = [
        ("the plain encoder", X264.to_string()),
        (
            "queue ! identity ! the plain encoder",
            format!("queue ! identity ! {X264}"),
        ),
        ("vtparallelenc, 1 session, nothing cut", ours(1, "", X264)),
        (
            "vtparallelenc, 1 session, chunks of 250",
            ours(1, "chunk-frames=250", X264),
        ),
        ("vtparallelenc, 2 sessions, automatic", ours(2, "", X264)),
    ];
    let source = stills(frames, size, "stills=16");
    let players = variants
        .iter()
        .map(|(_, encoder)| player(form, &format!("{source} ! {encoder} ! {SINK}")));
    let mut players: Vec<_> = players.collect();
    let runs = played(rounds, &mut players);
    let plain = runs[0].taken.cpu.as_secs_f64();
    let rows = variants.iter().zip(&runs).map(|((name, _), run)| {
        vec![
            name.to_string(),
            format!("{:.3}", run.taken.cpu.as_secs_f64() / plain),
            format!("{:.2}", runs[0].seconds() / run.seconds()),
        ]
    });
    Table {
        title: "Beside x264",
        about: format!(
            "`{X264}`, {frames} frames of {}x{}: the time of the processor, and the speed, both against the plain encoder.",
            size.0, size.1
        ),
        columns: vec!["", "time of the processor", "speed"],
        rows: rows.collect(),
    }
}

/// Counts the same pipeline with two numbers of frames: the difference is the frames' alone.
fn for_a_frame(frames: [u64; 2], count: impl Fn(u64) -> u64) -> f64 {
    let counted = frames.map(&count);
    let more = counted[1] as f64 - counted[0] as f64;
    more / (frames[1] - frames[0]) as f64
}

/// What is counted, and so is the same each time.
fn counted(form: Form) -> Vec<Table> {
    const COLUMNS: [&str; 4] = [
        "",
        "instructions for a frame",
        "more than the plain encoder's",
        "allocations for a frame",
    ];
    if !valgrind::is_there() {
        return vec![Table {
            title: "Instructions",
            about: valgrind::MISSING.to_string(),
            columns: vec![],
            rows: vec![],
        }];
    }
    // The registry is written by the first process that wants one.
    played(1, &mut [tiny(form, 10, PLAIN)]);
    let instructions = |frames: [u64; 2], encoder: &str| {
        for_a_frame(frames, |frames| {
            valgrind::instructions(&tiny(form, frames, encoder))
        })
    };
    let allocations = |frames: [u64; 2], encoder: &str| {
        for_a_frame(frames, |frames| {
            valgrind::allocations(&tiny(form, frames, encoder))
        })
    };
    let frames = match form {
        Form::Full => [2_000, 4_000],
        Form::Short => [50, 100],
    };
    let variants = [
        ("the source alone", "identity".to_string()),
        ("the plain encoder", PLAIN.to_string()),
        (
            "queue ! identity ! the plain encoder",
            PASSED_ON.to_string(),
        ),
        ("vtparallelenc, 1 session, nothing cut", ours(1, "", PLAIN)),
        (
            "vtparallelenc, 1 session, chunks of 50",
            ours(1, "chunk-frames=50", PLAIN),
        ),
        (
            "vtparallelenc, 4 sessions, chunks of 50",
            ours(4, "chunk-frames=50", PLAIN),
        ),
        (
            "vtparallelenc, 4 sessions, chunks of 250",
            ours(4, "chunk-frames=250", PLAIN),
        ),
    ];
    let variants = match form {
        Form::Full => &variants[..],
        Form::Short => &variants[1..2],
    };
    let counts: Vec<_> = variants
        .iter()
        .map(|(name, encoder)| {
            (
                name,
                instructions(frames, encoder),
                allocations(frames, encoder),
            )
        })
        .collect();
    let plain = counts
        .iter()
        .find(|(name, ..)| **name == "the plain encoder");
    let plain = plain.map_or(0.0, |(_, instructions, _)| *instructions);
    let rows = counts.iter().map(|(name, instructions, allocations)| {
        vec![
            name.to_string(),
            format!("{instructions:.0}"),
            format!("{:+.0}", instructions - plain),
            format!("{allocations:.1}"),
        ]
    });
    let mut tables = vec![Table {
        title: "Instructions",
        about: "Instructions outside the kernel and blocks of memory for a frame, counted by valgrind in two runs of different \
                length. The encoder does nothing. No pixel is copied, as a test proves by the memory's address."
            .to_string(),
        columns: COLUMNS.to_vec(),
        rows: rows.collect(),
    }];
    if form == Form::Short {
        return tables;
    }
    let row = |what: String, frames: [u64; 2], encoder: &str| {
        vec![what, format!("{:.0}", instructions(frames, encoder))]
    };
    let encoder = ours(4, "chunk-frames=50", PLAIN);
    let mut rows = Vec::new();
    for (from, to) in [(0, 1_000), (1_000, 10_000), (10_000, 50_000)] {
        let from = from.max(100);
        rows.push(row(format!("frames {from} to {to}"), [from, to], &encoder));
    }
    for length in [10, 50, 250, 1_000] {
        let encoder = ours(4, &format!("chunk-frames={length}"), PLAIN);
        rows.push(row(
            format!("chunks of {length}"),
            [6_000, 12_000],
            &encoder,
        ));
    }
    for sessions in [1, 4, 16, 64] {
        let encoder = ours(sessions, "chunk-frames=50", PLAIN);
        rows.push(row(
            format!("{sessions} sessions"),
            [6_000, 12_000],
            &encoder,
        ));
    }
    tables.push(Table {
        title: "Whether that grows",
        about: "Instructions for a frame with the length of the stream, of the chunks, and with the number of sessions; where \
                nothing else is said, with 4 sessions and chunks of 50 frames."
            .to_string(),
        columns: vec!["", "instructions for a frame"],
        rows,
    });
    tables
}
