// SPDX-License-Identifier: MPL-2.0

//! What is held in memory, how soon the first packet leaves, and what is left of the speed where memory is short.

use crate::Form;
use crate::process::{FIRST_PACKET, played, player, resident_at};
use crate::source::{FULL_HD, LOOKS, SINK, TINY, stills};
use crate::table::Table;

pub fn measure(form: Form) -> Vec<Table> {
    vec![
        bound(form),
        first_packet(form),
        short_of_memory(form),
        two_hours(form),
    ]
}

/// How a picture is called, its size, and what its pixels are in.
const PICTURES: [(&str, (u32, u32), &str, u64); 3] = [
    ("480p", (854, 480), "I420", 614_880),
    ("1080p", FULL_HD, "I420", 3_110_400),
    ("2160p, 10 bit", (3840, 2160), "I420_10LE", 24_883_200),
];

fn mebibytes(bytes: f64) -> String {
    format!("{:.0}", bytes / f64::from(1 << 20))
}

/// The process's memory against what the element says that it will hold at most.
fn bound(form: Form) -> Table {
    /// An engine's time for a frame, so that the source, which has to write all of a frame, is twice as fast as all engines.
    const NANOSECONDS_PER_BYTE: f64 = 1.6;
    // An encoder of this picture in so many sessions; how many frames are taken for it.
    let runs: &[(usize, u64, &str)] = match form {
        Form::Full => &[
            (0, 2, "engineenc"),
            (0, 16, "engineenc"),
            (1, 2, "engineenc"),
            (1, 4, "engineenc"),
            (1, 16, "engineenc"),
            (2, 2, "engineenc"),
            (2, 16, "engineenc"),
            (0, 2, "x264enc"),
            (1, 2, "x264enc"),
        ],
        Form::Short => &[(0, 2, "engineenc")],
    };
    let mut rows = Vec::new();
    for &(picture, sessions, encoder) in runs {
        let (name, (width, height), format, bytes) = PICTURES[picture];
        let time = NANOSECONDS_PER_BYTE * (bytes * sessions) as f64 / 1000.0;
        let described = match encoder {
            "engineenc" => format!("engineenc time={time:.0} engines={sessions}"),
            other => format!("{other} threads=1 speed-preset=ultrafast pass=qual quantizer=23"),
        };
        // Enough to fill the memory: chunks have 250 frames at most, and there are so many more of them than sessions.
        let frames = match form {
            Form::Full => (3 * (sessions + 1) * 250).min((20 << 30) / bytes),
            Form::Short => 60,
        };
        let play = |encoder: &str, frames: u64| {
            let pipeline = format!(
                "stillsrc num-buffers={frames} fresh=true ! \
                 video/x-raw,format={format},width={width},height={height},framerate=25/1 ! {encoder} ! {SINK}"
            );
            let mut players = [player(form, &pipeline)];
            played(1, &mut players).remove(0)
        };
        let plain = play(&described, 30);
        let ours = format!("vtparallelenc name=vt sessions={sessions} encoder=\"{described}\"");
        let ours = play(&ours, frames);
        let bound = ours.said("bytes-bound");
        let peak = ours.taken.peak_bytes as f64;
        let more = peak - plain.taken.peak_bytes as f64;
        rows.push(vec![
            name.to_string(),
            encoder.to_string(),
            sessions.to_string(),
            mebibytes(bound),
            format!("{:.3}", ours.said("bytes-peak") / bound),
            mebibytes(peak),
            mebibytes(peak - more),
            format!("{:.3}", more / bound),
        ]);
    }
    Table {
        title: "Memory",
        about: "The most raw video that the element says it will hold (`bytes-bound` in `stats`) with chunks planned automatically, \
                what of that it held, and the most memory of the process in RAM, with the element and with the plain encoder. \
                The last column is what the element adds to the process, as a part of the bound."
            .to_string(),
        columns: vec![
            "picture",
            "encoder",
            "sessions",
            "bound, MiB",
            "held of the bound",
            "process, MiB",
            "with the plain encoder, MiB",
            "more, of the bound",
        ],
        rows,
    }
}

/// From the first frame in to the first packet out.
fn first_packet(form: Form) -> Table {
    const X264: &str =
        "x264enc threads=1 speed-preset=veryfast pass=qual quantizer=23 rc-lookahead=20 bframes=2";
    let (rounds, frames, size, sessions): (usize, u64, (u32, u32), &[u64]) = match form {
        Form::Full => (1, 600, (1280, 720), &[2, 8]),
        Form::Short => (1, 48, TINY, &[2]),
    };
    let engine = |engines: u64| format!("engineenc time=2000 engines={engines}");
    let mut rows = Vec::new();
    for &sessions in sessions {
        for (name, encoder) in [
            ("engineenc", engine(sessions)),
            ("x264enc", X264.to_string()),
        ] {
            let source = stills(frames, size, "stills=16");
            let ours = |properties: &str| {
                format!(
                    "vtparallelenc name=vt sessions={sessions} {properties} encoder=\"{encoder}\""
                )
            };
            let encoders = [encoder.clone(), ours(""), ours("chunk-frames=25")];
            let mut players =
                encoders.map(|encoder| player(form, &format!("{source} ! {encoder} ! {SINK}")));
            let runs = played(rounds, &mut players);
            let first = |run: usize| runs[run].said(FIRST_PACKET);
            let mut row = vec![name.to_string(), sessions.to_string()];
            for run in [1, 2] {
                row.push(format!("{:.2}", first(run) / first(0)));
                let chunk = runs[run].said("chunk-frames") / frames as f64;
                let chunk = chunk * runs[0].seconds();
                row.push(format!("{:.2}", first(run) / chunk));
            }
            rows.push(row);
        }
    }
    Table {
        title: "Time to the first packet",
        about: "From the first frame in to the first packet out, as a multiple of what the plain encoder takes for that, and of what \
                it takes for a chunk. It leaves before its chunk is whole where the encoder says how far it reorders."
            .to_string(),
        columns: vec![
            "encoder",
            "sessions",
            "automatic, of the plain encoder",
            "automatic, of a chunk",
            "chunks of 25, of the plain encoder",
            "chunks of 25, of a chunk",
        ],
        rows,
    }
}

/// The speed with 256 MiB.
fn short_of_memory(form: Form) -> Table {
    const BYTES: u64 = 256 << 20;
    const TIME: u64 = 10_000;
    let (rounds, share, sessions): (usize, u64, &[u64]) = match form {
        Form::Full => (1, 300, &[2, 4, 8, 16]),
        Form::Short => (1, 24, &[2]),
    };
    let pictures = match form {
        Form::Full => &PICTURES[..],
        Form::Short => &PICTURES[..1],
    };
    let mut rows = Vec::new();
    for &(name, (width, height), format, bytes) in pictures {
        for &sessions in sessions {
            let frames = share * sessions;
            let players = [0, BYTES].map(|most| {
                player(
                    form,
                    &format!(
                        "stillsrc num-buffers={frames} ! \
                         video/x-raw,format={format},width={width},height={height},framerate=25/1 ! \
                         vtparallelenc name=vt sessions={sessions} max-raw-bytes={most} \
                         encoder=\"engineenc time={TIME} engines={sessions}\" ! {SINK}"
                    ),
                )
            });
            let mut players = players;
            let runs = played(rounds, &mut players);
            rows.push(vec![
                name.to_string(),
                sessions.to_string(),
                (BYTES / bytes).to_string(),
                format!("{:.0}", runs[1].said("chunk-frames")),
                format!("{:.3}", runs[0].seconds() / runs[1].seconds()),
            ]);
        }
    }
    Table {
        title: "Short of memory",
        about: "The speed with `max-raw-bytes` of 256 MiB as a part of that without it, where an encoder opens at once. Chunks are \
                as short as that takes."
            .to_string(),
        columns: vec![
            "picture",
            "sessions",
            "frames in 256 MiB",
            "chunk, frames",
            "of the speed",
        ],
        rows,
    }
}

/// 25 frames in each of 7,200 seconds.
fn two_hours(form: Form) -> Table {
    let (frames, sessions): (u64, &[u64]) = match form {
        Form::Full => (180_000, &[2, 16]),
        Form::Short => (1_000, &[2]),
    };
    let mut rows = Vec::new();
    for &sessions in sessions {
        for (name, plan) in [("automatic", ""), ("12", "chunk-frames=12")] {
            let source = stills(frames, TINY, "");
            let pipeline = format!(
                "{source} ! vtparallelenc name=vt sessions={sessions} {plan} encoder=engineenc ! {SINK}"
            );
            let mut players = [player(form, &pipeline)];
            let run = played(1, &mut players).remove(0);
            let mut row = vec![sessions.to_string(), name.to_string()];
            row.extend(
                LOOKS.map(|part| {
                    format!("{:.1}", run.said(&resident_at(part)) / f64::from(1 << 20))
                }),
            );
            rows.push(row);
        }
    }
    Table {
        title: "Two hours",
        about: format!(
            "Memory of the process in RAM, in MiB, after a part of {frames} frames, as fast as they go."
        ),
        columns: vec!["sessions", "chunks", "10 %", "50 %", "100 %"],
        rows,
    }
}
