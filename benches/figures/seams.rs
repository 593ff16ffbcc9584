// SPDX-License-Identifier: MPL-2.0

//! What seams cost in bits and quality, against one encoder that makes its key frames where it wants.

use crate::Form;
use crate::clip::{Clip, Format, RATE, Raw};
use crate::process::{self, gst_launch};
use crate::quality;
use crate::table::Table;
use plotters::prelude::*;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An encoder; `@` stands for its quality.
struct Case {
    encoder: &'static str,
    /// Follows it: one thread.
    one: &'static str,
    parser: &'static str,
    /// Four, from good to bad.
    qualities: [u32; 4],
    /// Of its decoder's buffer, where it has one: milliseconds of the bitrate that its quality is.
    buffer: Option<u32>,
}

/// (A VBV would hold the peaks of `pass=qual` to x264enc's default bitrate.)
const CASES: [Case; 10] = [
    Case {
        encoder: "x264enc speed-preset=fast pass=qual vbv-buf-capacity=0 quantizer=@",
        one: " threads=1",
        parser: "h264parse ! ",
        qualities: [20, 24, 28, 32],
        buffer: None,
    },
    Case {
        encoder: "x265enc speed-preset=superfast option-string=log-level=none:pools=1:frame-threads=1:crf=@",
        one: "",
        parser: "h265parse ! ",
        qualities: [22, 26, 30, 34],
        buffer: None,
    },
    Case {
        encoder: "vp8enc cpu-used=3 end-usage=cq target-bitrate=4000000 cq-level=@",
        one: " threads=1",
        parser: "",
        qualities: [16, 24, 32, 40],
        buffer: None,
    },
    Case {
        encoder: "vp9enc deadline=1 cpu-used=5 end-usage=cq target-bitrate=4000000 cq-level=@",
        one: " threads=1",
        parser: "",
        qualities: [24, 32, 40, 48],
        buffer: None,
    },
    Case {
        encoder: "av1enc usage-profile=realtime cpu-used=10 end-usage=q min-quantizer=@ max-quantizer=@",
        one: " threads=1",
        parser: "av1parse ! ",
        qualities: [24, 32, 40, 48],
        buffer: None,
    },
    Case {
        encoder: "openh264enc complexity=high rate-control=off qp-min=@ qp-max=@",
        one: " multi-thread=1",
        parser: "h264parse ! ",
        qualities: [24, 28, 32, 36],
        buffer: None,
    },
    Case {
        encoder: "x264enc speed-preset=fast vbv-buf-capacity=0 bitrate=@",
        one: " threads=1",
        parser: "h264parse ! ",
        qualities: [1_000, 600, 300, 150],
        buffer: None,
    },
    Case {
        encoder: "x265enc speed-preset=superfast option-string=log-level=none:pools=1:frame-threads=1 bitrate=@",
        one: "",
        parser: "h265parse ! ",
        qualities: [800, 400, 200, 100],
        buffer: None,
    },
    Case {
        encoder: "x264enc speed-preset=fast vbv-buf-capacity=2000 bitrate=@",
        one: " threads=1",
        parser: "h264parse ! ",
        qualities: [1_000, 600, 300, 150],
        buffer: Some(2_000),
    },
    Case {
        encoder: "x265enc speed-preset=superfast option-string=log-level=none:pools=1:frame-threads=1:vbv-bufsize=@:vbv-maxrate=@ bitrate=@",
        one: "",
        parser: "h265parse ! ",
        qualities: [800, 400, 200, 100],
        buffer: Some(1_000),
    },
];

/// How a case is encoded in chunks: sessions, and whether the length of the film is known before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    sessions: u32,
    is_known: bool,
}

impl Run {
    const fn new(sessions: u32, is_known: bool) -> Self {
        Self { sessions, is_known }
    }
}

/// The picture is of the first case with this.
const PICTURE: Run = Run::new(2, false);

const RUNS: [Run; 4] = [
    PICTURE,
    Run::new(8, false),
    Run::new(2, true),
    Run::new(8, true),
];

/// Frames around a seam that are looked at, on each side.
const AROUND: usize = 8;

/// One encoded video.
struct Encoded {
    /// Of each frame, as it is shown: bytes, whether it is a key frame, PSNR of the luma in dB, and SSIM.
    bytes: Vec<u64>,
    keys: Vec<usize>,
    psnr: Vec<f64>,
    ssim: Vec<f64>,
    /// What is in the decoder's buffer at its emptiest, as a part of its size, and how often it isn't enough.
    buffer: Option<(f64, usize)>,
    vmaf: Option<f64>,
    /// Frames with which chunks begin.
    starts: Vec<usize>,
}

impl Encoded {
    fn size(&self) -> f64 {
        self.bytes.iter().sum::<u64>() as f64
    }

    /// Mean over all frames, in dB.
    fn quality(&self) -> f64 {
        mean(&self.psnr)
    }

    fn worst(&self) -> f64 {
        self.psnr.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// Frames with which chunks begin, but for the first.
    fn seams(&self) -> impl Iterator<Item = usize> {
        self.starts.iter().skip(1).copied()
    }

    /// By how much quality changes where this frame follows, in dB.
    fn jump(&self, frame: usize) -> f64 {
        let before = &self.psnr[frame.saturating_sub(AROUND)..frame];
        let after = &self.psnr[frame..self.psnr.len().min(frame + AROUND)];
        (mean(after) - mean(before)).abs()
    }
}

pub fn measure(form: Form) -> Vec<Table> {
    let clip = Clip::new(form);
    let (cases, runs) = match form {
        Form::Full => (CASES.as_slice(), RUNS.as_slice()),
        Form::Short => (&CASES[..1], &RUNS[..1]),
    };
    let wanted = std::env::var("VT_FILMS").ok();
    let is_wanted = |film: &str| {
        wanted
            .as_ref()
            .is_none_or(|it| it.split(',').any(|it| it == film))
    };
    let mut tables = Vec::new();
    let once = |clip: &Clip| clip.raw(Format::I420, Some(clip.length().0));
    let mut measure = |name: &str, raw: &Raw| {
        tables.push(table(form, name, &clip, raw, cases, runs));
    };
    if form == Form::Short {
        measure(&clip.name, &clip.raw(Format::I420, Some(48)));
        return tables;
    }
    if is_wanted("clip") {
        measure(&clip.name, &once(&clip));
    }
    if is_wanted("cut") {
        let cut = clip.cut((640, 360), 3);
        measure("three minutes of pieces of it", &cut);
    }
    if is_wanted("long") {
        let long = clip.cut((320, 180), 10);
        measure("ten minutes of pieces of it", &long);
    }
    if let Some(still) = Clip::still().filter(|_| is_wanted("still")) {
        measure(&still.name, &once(&still));
    }
    tables
}

fn table(form: Form, name: &str, clip: &Clip, raw: &Raw, cases: &[Case], runs: &[Run]) -> Table {
    let frames = raw.frames;
    let mut rows = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        let wanted = std::env::var("VT_ENCODERS").ok();
        let is_wanted = |names: &String| names.split(',').any(|it| case.encoder.starts_with(it));
        if form == Form::Full && !wanted.as_ref().is_none_or(is_wanted) {
            continue;
        }
        let of = |element: &dyn Fn(&str) -> String| {
            let encoded = case.qualities.iter().map(|quality| {
                let encoder = case.encoder.replace('@', &quality.to_string());
                encode(form, clip, raw, case, *quality, &element(&encoder))
            });
            encoded.collect::<Vec<_>>()
        };
        let plain = of(&|encoder| format!("{encoder}{}", case.one));
        for &run in runs {
            let sessions = run.sessions;
            let known = match run.is_known {
                true => format!(" source-frame-count={frames}"),
                false => String::new(),
            };
            let ours = of(&|encoder| {
                format!("vtparallelenc sessions={sessions}{known} encoder=\"{encoder}\"")
            });
            let row = row(case, run, &plain, &ours);
            if form == Form::Full {
                // It takes minutes.
                eprintln!("{}", row.join(" | "));
                if at == 0 && run == PICTURE {
                    draw(&plain[1], &ours[1]);
                }
            }
            rows.push(row);
        }
    }
    Table {
        title: "What seams cost",
        about: format!(
            "{} as raw video in a file, {frames} frames. Against the same encoder with one thread, which makes its key frames where it \
             wants (*known*: with the film's length, as from a file): BD-rate of the luma's PSNR over four qualities, then size and PSNR at the second of them. *Seams at its key frames* are those where \
             the encoder alone has one, too. *Jump* is the change of the mean PSNR from the {AROUND} frames before a seam to the {AROUND} after it; the figure \
             is the most by which it is larger than that of the encoder alone at the same frames. *Buffer*: what is in the decoder's (VBV) at its emptiest, over all \
             qualities, and how often it isn't enough. {}",
            name,
            quality::about(),
        ),
        columns: vec![
            "encoder",
            "sessions",
            "chunks",
            "seams at its key frames",
            "BD-rate",
            "size",
            "PSNR",
            "SSIM",
            "VMAF",
            "worst frame",
            "jump",
            "buffer alone",
            "buffer in chunks",
        ],
        rows,
    }
}

fn row(case: &Case, run: Run, plain: &[Encoded], ours: &[Encoded]) -> Vec<String> {
    let curve = |encoded: &[Encoded]| -> Vec<(f64, f64)> {
        let points = encoded.iter().map(|it| (it.quality(), it.size().ln()));
        points.collect()
    };
    let rate = bd_rate(&curve(plain), &curve(ours));
    let seams: usize = ours.iter().map(|it| it.seams().count()).sum();
    let at_keys = plain.iter().zip(ours).map(|(plain, ours)| {
        let seams = ours.seams();
        seams.filter(|seam| plain.keys.contains(seam)).count()
    });
    let (alone, chunks) = (&plain[1], &ours[1]);
    let jumps = chunks
        .seams()
        .map(|seam| chunks.jump(seam) - alone.jump(seam));
    let jump = jumps.reduce(f64::max);
    vec![
        format!("`{}`", case.encoder),
        match run.is_known {
            true => format!("{}, known", run.sessions),
            false => run.sessions.to_string(),
        },
        chunks.starts.len().to_string(),
        format!("{} of {}", at_keys.sum::<usize>(), seams),
        rate.map_or("–".into(), |rate| format!("{rate:+.2} %")),
        format!("{:+.2} %", (chunks.size() / alone.size() - 1.0) * 100.0),
        format!("{:+.3} dB", chunks.quality() - alone.quality()),
        format!("{:+.4}", mean(&chunks.ssim) - mean(&alone.ssim)),
        alone
            .vmaf
            .zip(chunks.vmaf)
            .map_or("–".into(), |(alone, chunks)| {
                format!("{:+.2}", chunks - alone)
            }),
        format!("{:+.2} dB", chunks.worst() - alone.worst()),
        jump.map_or("–".into(), |jump| format!("{jump:+.2} dB")),
        buffer(plain),
        buffer(ours),
    ]
}

fn mean(of: &[f64]) -> f64 {
    of.iter().sum::<f64>() / of.len().max(1) as f64
}

/// The emptiest of all, and how often it isn't enough.
fn buffer(of: &[Encoded]) -> String {
    let of = of.iter().filter_map(|it| it.buffer);
    let all = of.reduce(|(least, times), (other, more)| (least.min(other), times + more));
    all.map_or("–".into(), |(least, times)| {
        format!("{least:.2}, {times}")
    })
}

fn encode(form: Form, clip: &Clip, raw: &Raw, case: &Case, quality: u32, element: &str) -> Encoded {
    let result = clip.folder().join("seams.mkv");
    let log = clip.folder().join("seams.log");
    let pipeline = format!(
        "{} ! {element} ! {}matroskamux ! filesink location={}",
        raw.source(),
        case.parser,
        result.display()
    );
    let mut command = gst_launch(form, &pipeline);
    command
        .env("GST_DEBUG", "vtparallelstream:4")
        .env("GST_DEBUG_NO_COLOR", "1")
        .env("GST_DEBUG_FILE", &log);
    process::run(&mut command);
    let (coded, bytes, keys) = packets(&result);
    let (psnr, ssim) = quality::of_frames(&result, &raw.input(), &raw.path);
    // (It takes longer than most encoders.)
    let vmaf = (form == Form::Full && quality == case.qualities[1])
        .then(|| quality::quality(&result, &raw.input(), &raw.path, raw.frames).vmaf);
    assert_eq!(bytes.len() as u64, raw.frames, "{pipeline}");
    assert_eq!(psnr.len() as u64, raw.frames, "{pipeline}");
    let starts = starts(&log);
    let is_in_chunks = element.contains("vtparallelenc");
    assert_eq!(
        is_in_chunks,
        !starts.is_empty(),
        "no chunk in the log: {pipeline}"
    );
    Encoded {
        bytes,
        keys,
        psnr,
        ssim,
        buffer: case.buffer.map(|time| bucket(&coded, quality, time)),
        vmaf: vmaf.flatten(),
        starts,
    }
}

/// The decoder's buffer at its emptiest, as a part of its size, and how often it isn't enough: it takes in so many kbit/s and holds so many
/// milliseconds of that, and x264 and x265 begin with nine tenths.
fn bucket(coded: &[u64], kbits: u32, time: u32) -> (f64, usize) {
    let rate = f64::from(kbits) * 1e3;
    let size = rate * f64::from(time) / 1e3;
    let (mut level, mut least, mut times) = (0.9 * size, size, 0);
    for bytes in coded {
        level -= *bytes as f64 * 8.0;
        least = least.min(level);
        times += usize::from(level < 0.0);
        level = (level.max(0.0) + rate / RATE as f64).min(size);
    }
    (least / size, times)
}

/// Bytes of each frame as it is decoded, and as it is shown, and which are key frames.
fn packets(video: &Path) -> (Vec<u64>, Vec<u64>, Vec<usize>) {
    let mut command = Command::new("ffprobe");
    command.args("-v error -select_streams v:0 -show_entries packet=pts,size,flags".split(' '));
    command.args(["-of", "csv=p=0"]).arg(video);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let packets = said.lines().map(|line| {
        let mut fields = line.split(',');
        let mut next = || {
            fields
                .next()
                .unwrap_or_else(|| panic!("{command:?}: {line}"))
        };
        let (pts, size): (i64, u64) = (next().parse().unwrap(), next().parse().unwrap());
        (pts, size, next().contains('K'))
    });
    let mut packets: Vec<_> = packets.collect();
    let coded = packets.iter().map(|(_, size, _)| *size).collect();
    packets.sort_by_key(|(pts, _, _)| *pts);
    let keys = packets
        .iter()
        .enumerate()
        .filter(|(_, (_, _, is_key))| *is_key);
    let keys = keys.map(|(at, _)| at).collect();
    let shown = packets.into_iter().map(|(_, size, _)| size).collect();
    (coded, shown, keys)
}

/// With which frames chunks begin, as the log says it; none for a plain encoder.
fn starts(log: &Path) -> Vec<usize> {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let starts = log.lines().filter_map(|line| {
        let (_, rest) = line.split_once(", from frame ")?;
        rest.split(' ').next()?.parse().ok()
    });
    let mut starts: Vec<usize> = starts.collect();
    starts.sort_unstable();
    starts.dedup();
    starts
}

/// Bits that the second needs more than the first, in percent, at the same quality: the mean over the qualities that both have
/// (Bjøntegaard). Of each: quality and logarithm of size.
fn bd_rate(first: &[(f64, f64)], second: &[(f64, f64)]) -> Option<f64> {
    let least = |curve: &[(f64, f64)]| curve.iter().map(|it| it.0).reduce(f64::min);
    let most = |curve: &[(f64, f64)]| curve.iter().map(|it| it.0).reduce(f64::max);
    let from = least(first)?.max(least(second)?);
    let to = most(first)?.min(most(second)?);
    if from >= to {
        return None;
    }
    const STEPS: u32 = 1_000;
    let at = |step: u32| from + (to - from) * (f64::from(step) + 0.5) / f64::from(STEPS);
    let sum: f64 = (0..STEPS)
        .map(|step| through(second, at(step)) - through(first, at(step)))
        .sum();
    Some(((sum / f64::from(STEPS)).exp() - 1.0) * 100.0)
}

/// The polynomial through these points (Lagrange), of which four make a cubic one.
fn through(points: &[(f64, f64)], x: f64) -> f64 {
    let term = |(at, &(own, value)): (usize, &(f64, f64))| {
        let others = points.iter().enumerate().filter(|(other, _)| *other != at);
        others.fold(value, |term, (_, (other, _))| {
            term * (x - other) / (own - other)
        })
    };
    points.iter().enumerate().map(term).sum()
}

/// Bits and quality of each frame, alone and in chunks, with seams and key frames.
fn draw(plain: &Encoded, ours: &Encoded) {
    let path = PathBuf::from("target/seams.svg");
    let area = SVGBackend::new(&path, (1_200, 640)).into_drawing_area();
    area.fill(&WHITE).unwrap();
    let (upper, lower) = area.split_vertically(320);
    let frames = plain.psnr.len();
    let kbits = |it: &Encoded| -> Vec<f64> {
        // Of a second around each frame.
        let half = RATE as usize / 2;
        let around = |at: usize| {
            let window = &it.bytes[at.saturating_sub(half)..(at + half).min(frames)];
            window.iter().sum::<u64>() as f64 / window.len() as f64 * 8.0 * RATE as f64 / 1e3
        };
        (0..frames).map(around).collect()
    };
    let charts = [
        (
            &upper,
            "PSNR of the luma, dB",
            plain.psnr.clone(),
            ours.psnr.clone(),
        ),
        (&lower, "kbit/s, over a second", kbits(plain), kbits(ours)),
    ];
    for (area, title, plain_values, our_values) in charts {
        let all = || plain_values.iter().chain(&our_values);
        let (low, high) = (
            all().copied().fold(f64::INFINITY, f64::min),
            all().copied().fold(0.0, f64::max),
        );
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(56)
            .caption(title, ("sans-serif", 16))
            .build_cartesian_2d(0..frames, low..high)
            .unwrap();
        chart.configure_mesh().disable_mesh().draw().unwrap();
        let vertical = |at: usize| [(at, low), (at, high)];
        for &key in &plain.keys {
            let style = RGBColor(200, 200, 200).stroke_width(1);
            chart
                .draw_series(LineSeries::new(vertical(key), style))
                .unwrap();
        }
        for seam in ours.seams() {
            let style = RGBColor(220, 120, 0).stroke_width(2);
            chart
                .draw_series(LineSeries::new(vertical(seam), style))
                .unwrap();
        }
        let lines = [
            (
                "one encoder (its key frames grey)",
                &plain_values,
                RGBColor(90, 90, 90),
            ),
            (
                "in chunks (seams orange)",
                &our_values,
                RGBColor(0, 90, 200),
            ),
        ];
        for (name, values, color) in lines {
            let points = values.iter().copied().enumerate();
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(1)))
                .unwrap()
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperMiddle)
            .background_style(WHITE.mix(0.8))
            .draw()
            .unwrap();
    }
    area.present().unwrap();
    eprintln!("{}", path.display());
}
