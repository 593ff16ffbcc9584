// SPDX-License-Identifier: MPL-2.0

//! Against the encoder itself: with one thread, with its own threads, and as often as there are cores, with a part of the film each.

use crate::Form;
use crate::clip::{Clip, Format, Raw};
use crate::plugin;
use crate::process::{self, Taken, gst_launch, in_turns};
use crate::quality::{self, Quality};
use crate::table::{Table, median};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An encoder, and how it is asked for one thread and for all cores.
struct Case {
    /// With the settings that are the same in all runs.
    encoder: &'static str,
    /// Follows these settings: one thread.
    one: &'static str,
    /// Follows these settings: what may be its best threads. The fastest counts. Empty: it has none.
    own: &'static [&'static str],
    /// Between the encoder and the muxer.
    parser: &'static str,
    format: Format,
    /// Where it is so fast or so slow that the film is too short or too long.
    frames: Option<u64>,
}

const CASE: Case = Case {
    encoder: "",
    one: "",
    own: &[],
    parser: "",
    format: Format::I420,
    frames: None,
};

/// `CORES` stands for their number, `LOG` for its logarithm.
const CASES: &[Case] = &[
    Case {
        encoder: "x264enc speed-preset=fast pass=qual quantizer=23",
        one: " threads=1",
        own: &[" threads=0", " threads=CORES"],
        parser: "h264parse ! ",
        ..CASE
    },
    Case {
        encoder: "x264enc speed-preset=fast bitrate=800",
        one: " threads=1",
        own: &[" threads=0", " threads=CORES"],
        parser: "h264parse ! ",
        ..CASE
    },
    Case {
        encoder: "x265enc speed-preset=superfast option-string=crf=26:log-level=0",
        one: ":pools=1:frame-threads=1",
        own: &["", ":frame-threads=CORES"],
        parser: "h265parse ! ",
        ..CASE
    },
    Case {
        encoder: "vp8enc cpu-used=3 end-usage=cq cq-level=20 target-bitrate=4000000",
        one: " threads=1",
        own: &[" threads=CORES", " threads=CORES token-partitions=8"],
        ..CASE
    },
    Case {
        encoder: "vp9enc deadline=1 cpu-used=5 end-usage=cq cq-level=30 target-bitrate=4000000",
        one: " threads=1",
        own: &[" threads=CORES row-mt=true", " threads=CORES"],
        ..CASE
    },
    Case {
        encoder: "av1enc usage-profile=realtime cpu-used=10 end-usage=q min-quantizer=40 max-quantizer=40",
        one: " threads=1",
        own: &[
            " threads=CORES row-mt=true",
            " threads=CORES row-mt=true tile-columns=LOG",
        ],
        parser: "av1parse ! ",
        ..CASE
    },
    Case {
        encoder: "openh264enc complexity=high rate-control=off qp-min=24 qp-max=24",
        one: " multi-thread=1",
        own: &[
            " multi-thread=CORES slice-mode=auto",
            " multi-thread=CORES num-slices=CORES",
        ],
        parser: "h264parse ! ",
        ..CASE
    },
    Case {
        encoder: "theoraenc quality=40 speed-level=2",
        ..CASE
    },
    Case {
        encoder: "avenc_prores_ks",
        own: &[
            " threads=auto thread-type=slice",
            " threads=auto thread-type=frame",
        ],
        format: Format::I422Ten,
        frames: Some(400),
        ..CASE
    },
    Case {
        encoder: "avenc_ffv1",
        own: &[
            " threads=auto thread-type=slice slices=4",
            " threads=auto thread-type=frame",
        ],
        ..CASE
    },
    Case {
        encoder: "avenc_mjpeg pass=quant quantizer=4 mbd=rd trellis=1",
        own: &[
            " threads=auto thread-type=slice",
            " threads=auto thread-type=frame",
        ],
        ..CASE
    },
    Case {
        encoder: "mpeg2enc disable-encode-retries=true reduction-4x4=4 reduction-2x2=4 quantisation=6",
        parser: "mpegvideoparse ! ",
        frames: Some(120),
        ..CASE
    },
    Case {
        encoder: "avenc_mpeg2video pass=quant quantizer=4",
        own: &[
            " threads=auto thread-type=slice",
            " threads=auto thread-type=frame",
        ],
        parser: "mpegvideoparse ! ",
        ..CASE
    },
];

/// Of `CASES`, for the short form.
const SHORT: [&str; 2] = ["x264enc", "theoraenc"];

impl Case {
    fn name(&self) -> &'static str {
        self.encoder.split(' ').next().unwrap_or_default()
    }

    /// With this behind its settings.
    fn with(&self, threads: &str) -> String {
        let log = (usize::BITS - 1 - cores().leading_zeros()).to_string();
        let threads = threads.replace("CORES", &cores().to_string());
        format!("{}{}", self.encoder, threads.replace("LOG", &log))
    }

    fn pipeline(&self, source: &str, encoder: &str, result: &Path) -> String {
        let result = result.display();
        let parser = self.parser;
        format!("{source} ! {encoder} ! {parser}matroskamux ! filesink location={result}")
    }

    /// Nothing, if it encodes a few pictures here.
    fn fails(&self, form: Form, raw: &Raw) -> Option<String> {
        let source = format!("videotestsrc num-buffers=8 ! {}", raw.caps());
        let encoder = self.with(self.one);
        let parser = self.parser;
        let pipeline = format!("{source} ! {encoder} ! {parser}matroskamux ! fakesink");
        let output = gst_launch(form, &pipeline)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = said.lines().find(|line| line.contains("reason"));
        let reason = reason.or(said.lines().next()).unwrap_or_default();
        (!output.status.success()).then(|| reason.trim().to_string())
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What came out for one of them.
struct Outcome {
    case: &'static Case,
    /// Of its own threads the best; `None`: it has none.
    own: Option<String>,
    /// Medians of what a round's runs say of each other.
    own_by_one: f64,
    parts_by_one: f64,
    automatic_by_one: f64,
    own_by_automatic: f64,
    ideal_by_automatic: f64,
    /// Cores that were busy with one thread: some of them have helpers.
    busy: f64,
    overlap: f64,
    own_cpu_by_one: f64,
    automatic_cpu_by_one: f64,
    one_quality: Quality,
    own_quality: Quality,
    automatic_quality: Quality,
    seconds: f64,
}

pub fn measure(form: Form) -> Vec<Table> {
    let rounds = process::rounds(form, 3);
    let clip = Clip::new(form);
    let mut outcomes = Vec::new();
    let mut failures = Vec::new();
    for case in CASES {
        let wanted = match (form, std::env::var("VT_ENCODERS")) {
            (Form::Short, _) => SHORT.contains(&case.name()),
            (Form::Full, Ok(names)) => names.split(',').any(|name| name == case.name()),
            (Form::Full, Err(_)) => true,
        };
        if !wanted {
            continue;
        }
        let frames = case.frames.filter(|_| form == Form::Full);
        let raw = clip.raw(case.format, frames);
        match case.fails(form, &raw) {
            Some(reason) => failures.push((case, reason)),
            None => {
                let outcome = compare(form, rounds, &clip, case, &raw);
                if form == Form::Full {
                    // It takes minutes.
                    eprintln!("{}", time_row(&outcome).join(" | "));
                }
                outcomes.push(outcome);
            }
        }
    }
    vec![
        times(&clip, rounds, &outcomes, &failures),
        qualities(&outcomes),
    ]
}

fn compare(form: Form, rounds: usize, clip: &Clip, case: &'static Case, raw: &Raw) -> Outcome {
    let result = |name: &str| clip.folder().join(name).with_extension("mkv");
    let plain = |threads: &str, result: &Path| {
        gst_launch(
            form,
            &case.pipeline(&raw.source(), &case.with(threads), result),
        )
    };
    let (one, own, automatic) = (result("one"), result("own"), result("automatic"));
    let fastest = |threads: &&&str| process::run(&mut plain(threads, &own)).time;
    let best = match case.own {
        [only] => Some(only),
        several => several.iter().min_by_key(fastest),
    };

    let stats = clip.folder().join("stats");
    let encoder = format!("vtparallelenc encoder=\"{}\"", case.encoder);
    let mut parallel = gst_launch(form, &case.pipeline(&raw.source(), &encoder, &automatic));
    parallel
        .env("GST_DEBUG", "vtparallelenc:4")
        .env("GST_DEBUG_NO_COLOR", "1")
        .env("GST_DEBUG_FILE", &stats);
    let mut commands = vec![
        plain(case.one, &one),
        in_parts(form, clip, case, raw),
        parallel,
    ];
    commands.extend(best.map(|threads| plain(threads, &own)));
    let taken = in_turns(rounds, &mut commands, process::run);
    let overlap = overlap(&stats);

    let (ones, parts, automatics) = (&taken[0], &taken[1], &taken[2]);
    // What has no threads has its best with one.
    let owns = taken.get(3).unwrap_or(ones);
    let medians = |of: &[Taken], by: &[Taken], seconds: fn(&Taken) -> f64| {
        let pairs = of.iter().zip(by);
        median(pairs.map(|(of, by)| seconds(of) / seconds(by)).collect())
    };
    let ratio = |of: &[Taken], by: &[Taken]| medians(of, by, |taken| taken.time.as_secs_f64());
    let cpu = |of: &[Taken], by: &[Taken]| medians(of, by, |taken| taken.cpu.as_secs_f64());
    let judge = |video: &PathBuf| quality::quality(video, &raw.input(), &raw.path, raw.frames);
    let one_quality = judge(&one);
    let busy = |taken: &Taken| taken.cpu.as_secs_f64() / taken.time.as_secs_f64();
    Outcome {
        case,
        own: best.map(|threads| case.with(threads)[case.encoder.len()..].to_string()),
        own_by_one: ratio(owns, ones),
        parts_by_one: ratio(parts, ones),
        automatic_by_one: ratio(automatics, ones),
        own_by_automatic: ratio(owns, automatics),
        ideal_by_automatic: ratio(ones, automatics) * (1.0 + overlap) / cores() as f64,
        busy: median(ones.iter().map(busy).collect()),
        overlap,
        own_cpu_by_one: cpu(owns, ones),
        automatic_cpu_by_one: cpu(automatics, ones),
        one_quality,
        own_quality: best.map_or(one_quality, |_| judge(&own)),
        automatic_quality: judge(&automatic),
        seconds: raw.seconds(),
    }
}

/// As many of the plain encoder as there are cores, each with its part of the film, and nothing of ours.
fn in_parts(form: Form, clip: &Clip, case: &Case, raw: &Raw) -> Command {
    let encoder = case.with(case.one);
    let (mut script, mut waits) = (String::new(), String::new());
    for part in 0..cores() {
        let (seek, source) = raw.part(part as u64, cores() as u64);
        let result = clip.folder().join(format!("part{part}.mkv"));
        let pipeline = case.pipeline(&source, &encoder, &result);
        let file = raw.path.display();
        script += &format!("({seek}; exec gst-launch-1.0 -q {pipeline}) <{file} & p{part}=$!\n");
        waits += &format!("wait $p{part} || exit\n");
    }
    let mut shell = Command::new("sh");
    plugin::found_by(form, &mut shell);
    shell.args(["-c", &(script + &waits)]);
    shell
}

/// Frames that were encoded for nothing, of those that came in: `stats` says so at the end.
fn overlap(log: &Path) -> f64 {
    let log = std::fs::read_to_string(log).unwrap();
    let stats = log
        .lines()
        .rfind(|line| line.contains("vtparallelenc-stats"));
    let stats = stats.expect("no stats in the log");
    let number = |name: &str| {
        let (_, value) = stats.split_once(&format!(" {name}=(guint64)"))?;
        let digits = value.split(|it: char| !it.is_ascii_digit()).next()?;
        digits.parse::<f64>().ok()
    };
    let get = |name| number(name).unwrap_or_else(|| panic!("no {name} in {stats}"));
    let seams = get("chunks-finished") - 1.0;
    seams.max(0.0) * (get("overlap-before") + get("overlap-after")) / get("frames-in")
}

fn times(clip: &Clip, rounds: usize, outcomes: &[Outcome], failures: &[(&Case, String)]) -> Table {
    let mean = |outcomes: &mut dyn Iterator<Item = &Outcome>| {
        let logs: Vec<f64> = outcomes.map(|it| it.own_by_automatic.ln()).collect();
        (logs.iter().sum::<f64>() / logs.len() as f64).exp()
    };
    let all = mean(&mut outcomes.iter());
    let threaded = mean(&mut outcomes.iter().filter(|it| it.own.is_some()));
    let mut rows: Vec<_> = outcomes.iter().map(time_row).collect();
    let dash = || "–".to_string();
    rows.extend(failures.iter().map(|(case, reason)| {
        let mut row = vec![dash(); 8];
        row[0] = case.name().to_string();
        row[1] = format!("doesn't run here: {reason}");
        row
    }));
    Table {
        title: "Against the encoder itself",
        about: format!(
            "{clip} as raw video in a file, through `gst-launch-1.0` into a file; {cores} cores. *One thread* is the encoder with one \
             thread, *own threads* with the best of its own, *side by side* are {cores} of it with one thread, each with its part of the \
             film, and without this element: what the machine allows. *Automatic* is `vtparallelenc encoder=\"…\"`. Figures are ratios of \
             times, below 1 where the first is faster, of runs that followed each other; medians of {rounds}. *Ideal* is the time of \
             one thread, and of the overlap's share, divided by the number of cores; *busy* are the cores that one thread kept busy, and \
             where that is more than 1, the ideal can't be reached. Where an encoder has no threads, its own threads are one.\n\n\
             Targets, on 2 cores: ideal / automatic at least 0.97; automatic / own threads never above 1; own threads / automatic at \
             least 1.4 in the geometric mean. Geometric mean of own threads / automatic: **{all:.2}** (of those with threads: {threaded:.2}).",
            clip = clip.name,
            cores = cores(),
        ),
        columns: vec![
            "encoder",
            "own threads",
            "busy",
            "own threads / one thread",
            "side by side / one thread",
            "automatic / one thread",
            "automatic / own threads",
            "ideal / automatic (overlap)",
        ],
        rows,
    }
}

fn time_row(outcome: &Outcome) -> Vec<String> {
    let own = outcome.own.as_deref().map(|own| match own.trim() {
        "" => "by default".to_string(),
        own => format!("`{}`", own.trim_start_matches(':')),
    });
    vec![
        format!("`{}`", outcome.case.encoder),
        own.unwrap_or("none".to_string()),
        format!("{:.2}", outcome.busy),
        format!("{:.2}", outcome.own_by_one),
        format!("{:.2}", outcome.parts_by_one),
        format!("{:.2}", outcome.automatic_by_one),
        format!("{:.2}", outcome.own_by_automatic.recip()),
        format!(
            "{:.2} ({:.0} %)",
            outcome.ideal_by_automatic,
            outcome.overlap * 100.0
        ),
    ]
}

fn qualities(outcomes: &[Outcome]) -> Table {
    let row = |outcome: &Outcome| {
        let one = outcome.one_quality;
        let kbits = one.bytes as f64 * 8.0 / 1000.0 / outcome.seconds;
        let against = |other: Quality, cpu: f64| {
            let percent = |of: f64| (of - 1.0) * 100.0;
            format!(
                "{:+.0} %, {:+.1} %, {}",
                percent(cpu),
                percent(other.bytes as f64 / one.bytes as f64),
                difference(other, one)
            )
        };
        let own = outcome.own.as_ref();
        let own = own.map(|_| against(outcome.own_quality, outcome.own_cpu_by_one));
        vec![
            outcome.case.name().to_string(),
            format!("{kbits:.0}"),
            format!("{:.2}", one.psnr),
            one.vmaf.map_or("–".into(), |vmaf| format!("{vmaf:.2}")),
            own.unwrap_or("–".into()),
            against(outcome.automatic_quality, outcome.automatic_cpu_by_one),
        ]
    };
    Table {
        title: "What that costs",
        about: format!(
            "Of the same runs, in the same order: the CPU time, and the results' size, PSNR of the luma, and VMAF, against one thread. A key frame at the \
             beginning of each chunk costs bits where the encoder wouldn't have put one there. {}",
            quality::about()
        ),
        columns: vec![
            "encoder",
            "one thread, kbit/s",
            "PSNR, dB",
            "VMAF",
            "own threads: CPU time, size, PSNR, VMAF",
            "automatic: CPU time, size, PSNR, VMAF",
        ],
        rows: outcomes.iter().map(row).collect(),
    }
}

/// In PSNR and VMAF.
fn difference(of: Quality, by: Quality) -> String {
    let psnr = match of.psnr == by.psnr {
        // Both may be without loss.
        true => 0.0,
        false => of.psnr - by.psnr,
    };
    let vmaf = of.vmaf.zip(by.vmaf);
    let vmaf = vmaf.map_or("–".into(), |(of, by)| format!("{:+.2}", of - by));
    format!("{psnr:+.2} dB, {vmaf}")
}
