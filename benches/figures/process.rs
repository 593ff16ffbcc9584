// SPDX-License-Identifier: MPL-2.0

//! Processes, and what they took.

use crate::{engine, plugin, source, table};
use gst::prelude::*;
use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use wait4::Wait4;

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    pub time: Duration,
    /// Of all its threads and children.
    pub cpu: Duration,
    /// Most memory in RAM at once.
    pub peak_bytes: u64,
}

/// Runs it to its end, which has to be a good one.
pub fn run(command: &mut Command) -> Taken {
    heard(command).0
}

/// Runs it to its end, which has to be a good one, and listens to what it says.
fn heard(command: &mut Command) -> (Taken, String) {
    let since = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut said = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    let _ = stdout.read_to_string(&mut said);
    let end = child.wait4().unwrap();
    let time = since.elapsed();
    assert!(end.status.success(), "{command:?}: {}", end.status);
    let taken = Taken {
        time,
        cpu: end.rusage.utime + end.rusage.stime,
        peak_bytes: end.rusage.maxrss,
    };
    (taken, said)
}

/// How often [`run_with_children`] looks.
pub const LOOKS_PER_SECOND: u64 = 10;

/// As [`run`], with the memory of all its processes together: what is said of them at the end is the most that one of them had.
pub fn run_with_children(command: &mut Command) -> Taken {
    let done = AtomicBool::new(false);
    let ours = Pid::from_u32(std::process::id());
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut system = System::new().unwrap();
            let mut peak = 0;
            while !done.load(Ordering::Relaxed) {
                peak = peak.max(bytes_below(&mut system, ours));
                std::thread::sleep(Duration::from_secs(1) / LOOKS_PER_SECOND as u32);
            }
            peak
        });
        let taken = run(command);
        done.store(true, Ordering::Relaxed);
        let peak_bytes = watch.join().unwrap();
        Taken {
            peak_bytes,
            ..taken
        }
    })
}

/// What the children of this process, and theirs, have in RAM.
fn bytes_below(system: &mut System, root: Pid) -> u64 {
    let what = ProcessRefreshKind::nothing().with_memory().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
    let parent = |pid: &Pid| system.process(*pid).and_then(|process| process.parent());
    let below = |pid: &Pid| std::iter::successors(parent(pid), parent).any(|it| it == root);
    let processes = system.processes().iter();
    let children = processes.filter(|(pid, _)| below(pid));
    children.map(|(_, process)| process.memory()).sum()
}

/// How often each is run: so many times, or as `VT_ROUNDS` says; once in the short form.
pub fn rounds(form: crate::Form, rounds: usize) -> usize {
    let asked = || std::env::var("VT_ROUNDS").ok()?.parse().ok();
    match form {
        crate::Form::Full => asked().unwrap_or(rounds).max(1),
        crate::Form::Short => 1,
    }
}

/// Runs each of them so many times, in turns: what the machine does otherwise hits all alike. For each of them, what its runs took.
pub fn in_turns(
    rounds: usize,
    commands: &mut [Command],
    run: fn(&mut Command) -> Taken,
) -> Vec<Vec<Taken>> {
    let mut all = vec![Vec::new(); commands.len()];
    for _ in 0..rounds {
        for (taken, command) in all.iter_mut().zip(commands.iter_mut()) {
            taken.push(run(command));
        }
    }
    all
}

pub fn median(taken: &[Taken]) -> Taken {
    let median = |of: fn(&Taken) -> f64| table::median(taken.iter().map(of).collect());
    Taken {
        time: Duration::from_secs_f64(median(|it| it.time.as_secs_f64())),
        cpu: Duration::from_secs_f64(median(|it| it.cpu.as_secs_f64())),
        peak_bytes: median(|it| it.peak_bytes as f64) as u64,
    }
}

/// What a player took, and what it says of its pipeline.
#[derive(Debug, Clone)]
pub struct Played {
    pub taken: Taken,
    said: BTreeMap<String, f64>,
}

impl Played {
    /// One of the figures that [`play`] prints.
    pub fn said(&self, name: &str) -> f64 {
        let figure = self.said.get(name);
        *figure.unwrap_or_else(|| panic!("the player says no '{name}': {:?}", self.said))
    }

    /// The first frame of each chunk, where `engineenc` encodes them.
    pub fn starts(&self) -> Vec<u64> {
        let starts = (0..).map_while(|chunk| self.said.get(&start_of(chunk)));
        starts.map(|&start| start as u64).collect()
    }

    /// Seconds from the first frame to the end.
    pub fn seconds(&self) -> f64 {
        self.said(SECONDS)
    }
}

/// As [`in_turns`], with players; their medians.
pub fn played(rounds: usize, players: &mut [Command]) -> Vec<Played> {
    let mut all = vec![Vec::new(); players.len()];
    for _ in 0..rounds {
        for (played, player) in all.iter_mut().zip(players.iter_mut()) {
            let (taken, text) = heard(player);
            let figures = text.lines().filter_map(|line| {
                let (name, figure) = line.split_once(' ')?;
                Some((name.to_string(), figure.parse().ok()?))
            });
            played.push((taken, figures.collect::<BTreeMap<String, f64>>()));
        }
    }
    let played = all.into_iter().map(|runs| {
        let (taken, said): (Vec<_>, Vec<_>) = runs.into_iter().unzip();
        let median = |name: &String| {
            let figures = said.iter().filter_map(|said| said.get(name).copied());
            table::median(figures.collect())
        };
        Played {
            taken: self::median(&taken),
            said: said[0]
                .keys()
                .map(|name| (name.clone(), median(name)))
                .collect(),
        }
    });
    played.collect()
}

/// `gst-launch-1.0` with the plugin, as anyone would call it.
pub fn gst_launch(form: crate::Form, pipeline: &str) -> Command {
    let mut command = Command::new("gst-launch-1.0");
    plugin::found_by(form, &mut command);
    command.arg("-q").args(words(pipeline));
    command
}

/// The words of a pipeline's description; quotes keep spaces together.
fn words(pipeline: &str) -> Vec<String> {
    let words = glib::shell_parse_argv(pipeline).unwrap();
    let words = words.into_iter().map(|word| word.into_string().unwrap());
    words.collect()
}

/// First argument of this program where it is to play the pipeline in the second.
pub const PLAY: &str = "play";

/// As `gst-launch-1.0`, with the source and the encoder of these benchmarks.
pub fn player(form: crate::Form, pipeline: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    plugin::found_by(form, &mut command);
    command.args([PLAY, pipeline]);
    command
}

/// Figures that a player prints: seconds from the first frame to the end, and to the first packet.
const SECONDS: &str = "seconds";
pub const FIRST_PACKET: &str = "first-packet";

/// Those of the element's statistics that it prints, if there is one.
const STATS: [&str; 5] = [
    "bytes-bound",
    "bytes-peak",
    "chunk-frames",
    "chunks-planned",
    "frames-copied",
];

/// Plays the pipeline to its end, and prints figures of it, each with its name before it. What it asks about are the elements named
/// `vt` and `sink`, if there are such.
pub fn play(pipeline: &str) -> ExitCode {
    gst::init().unwrap();
    engine::register();
    source::register();
    let pipeline = gst::parse::launch(pipeline).unwrap();
    let pipeline: gst::Pipeline = pipeline.downcast().unwrap();
    let (first, packet) = std::sync::mpsc::channel();
    if let Some(sink) = pipeline.by_name("sink") {
        let pad = sink.static_pad("sink").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            let _ = first.send(Instant::now());
            gst::PadProbeReturn::Remove
        });
    }
    let started = Instant::now();
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let types = [gst::MessageType::Eos, gst::MessageType::Error];
    let end = bus
        .timed_pop_filtered(gst::ClockTime::NONE, &types)
        .unwrap();
    let ended = Instant::now();
    if let gst::MessageView::Error(error) = end.view() {
        eprintln!("{error:?}");
        pipeline.set_state(gst::State::Null).unwrap();
        return ExitCode::FAILURE;
    }
    let seen = source::seen();
    let since = seen.began.unwrap_or(started);
    println!("{SECONDS} {}", (ended - since).as_secs_f64());
    if let Ok(packet) = packet.try_recv() {
        println!("{FIRST_PACKET} {}", (packet - since).as_secs_f64());
    }
    for (part, bytes) in seen.resident {
        println!("{} {bytes}", resident_at(part));
    }
    for (chunk, start) in engine::starts().into_iter().enumerate() {
        println!("{} {start}", start_of(chunk));
    }
    let encoder = pipeline.by_name("vt");
    if let Some(encoder) = encoder.filter(|it| it.has_property("stats")) {
        let stats: gst::Structure = encoder.property("stats");
        for name in STATS {
            println!("{name} {}", stats.get::<u64>(name).unwrap());
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
    ExitCode::SUCCESS
}

/// The name of the figure that says which frame a chunk began with.
fn start_of(chunk: usize) -> String {
    format!("chunk-{chunk}")
}

/// The name of the figure that says how much memory was in RAM after so many percent of the frames.
pub fn resident_at(part: u64) -> String {
    format!("resident-{part}")
}
