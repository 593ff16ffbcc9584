// SPDX-License-Identifier: MPL-2.0

//! Encodes a file with several encoders at once, shows how far it is, and says what was gained.
//!
//! `encode INPUT OUTPUT.mp4`: the picture to H.264 by `vtparallelenc`, the sound to AAC.

use gst::prelude::*;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ENCODER: &str = "x264enc speed-preset=medium pass=qual quantizer=23";

/// Frames that are encoded a second time by one session, to have something to compare with.
const COMPARED: u64 = 1_000;

/// How far the encoding was at some time.
struct Mark {
    seconds: f64,
    frames: u64,
}

/// A finished run.
struct Run {
    marks: Vec<Mark>,
    stats: gst::Structure,
    warnings: Vec<String>,
    is_interrupted: bool,
}

impl Run {
    fn frames(&self) -> u64 {
        self.marks.last().map_or(0, |mark| mark.frames)
    }

    fn seconds(&self) -> f64 {
        self.marks.last().map_or(0.0, |mark| mark.seconds)
    }

    /// When so many frames were done.
    fn seconds_until(&self, frames: u64) -> Option<f64> {
        let mark = self.marks.iter().find(|mark| mark.frames >= frames)?;
        Some(mark.seconds)
    }
}

fn add(pipeline: &gst::Pipeline, description: &str) -> Result<gst::Element, Box<dyn Error>> {
    let bin = gst::parse::bin_from_description(description, true)?;
    pipeline.add(&bin)?;
    bin.sync_state_with_parent()?;
    Ok(bin.upcast())
}

/// Links a decoded pad to its encoder and the muxer.
fn link(
    pipeline: &gst::Pipeline,
    pad: &gst::Pad,
    branch: &str,
    target: &gst::Element,
) -> Result<(), Box<dyn Error>> {
    let branch = add(pipeline, branch)?;
    branch.link(target)?;
    pad.link(&branch.static_pad("sink").ok_or("no sink pad")?)?;
    Ok(())
}

fn run(
    input: &str,
    output: Option<&str>,
    properties: &str,
    frames: Option<u64>,
) -> Result<Run, Box<dyn Error>> {
    let pipeline = gst::Pipeline::new();
    let source = gst::ElementFactory::make("uridecodebin")
        .property(
            "uri",
            glib::filename_to_uri(std::path::absolute(input)?, None)?,
        )
        .build()?;
    let sound = output.is_some();
    let end = match output {
        Some(output) => {
            let sink = gst::ElementFactory::make("filesink")
                .property("location", output)
                .build()?;
            let mux = gst::ElementFactory::make("mp4mux").build()?;
            pipeline.add_many([&mux, &sink])?;
            mux.link(&sink)?;
            mux
        }
        None => {
            let sink = gst::ElementFactory::make("fakesink").build()?;
            pipeline.add(&sink)?;
            sink
        }
    };
    pipeline.add(&source)?;

    let video = format!(
        "queue ! videoconvert ! vtparallelenc name=enc encoder=\"{ENCODER}\" {properties} ! h264parse"
    );
    // The sound waits for the picture, which is held back by seconds.
    let audio = "queue max-size-time=0 max-size-bytes=0 max-size-buffers=0 ! audioconvert ! audioresample ! avenc_aac";
    let weak = pipeline.downgrade();
    let mut has_video = false;
    let state = std::sync::Mutex::new(move |pad: &gst::Pad| {
        let Some(pipeline) = weak.upgrade() else {
            return Ok(());
        };
        let caps = pad.query_caps(None);
        let is = |kind| {
            caps.structure(0)
                .is_some_and(|s| s.name().starts_with(kind))
        };
        if is("video/") && !std::mem::replace(&mut has_video, true) {
            link(&pipeline, pad, &video, &end)
        } else if is("audio/") && sound {
            link(&pipeline, pad, audio, &end)
        } else {
            Ok(())
        }
    });
    source.connect_pad_added(move |source, pad| {
        let mut linked = state.lock().unwrap();
        if let Err(error) = (linked)(pad) {
            gst::element_error!(source, gst::CoreError::Pad, ("{error}"));
        }
    });
    let result = watch(&pipeline, frames);
    pipeline.set_state(gst::State::Null)?;
    result
}

/// Plays to the end, or until `frames` frames are done, and shows how far it is.
fn watch(pipeline: &gst::Pipeline, frames: Option<u64>) -> Result<Run, Box<dyn Error>> {
    let bus = pipeline.bus().ok_or("no bus")?;
    let mut run = Run {
        marks: Vec::new(),
        stats: gst::Structure::new_empty("none"),
        warnings: Vec::new(),
        is_interrupted: false,
    };
    let mut display = Display::new();
    let started = Instant::now();
    // (Why it doesn't start is on the bus.)
    let _ = pipeline.set_state(gst::State::Playing);
    loop {
        let message = bus.timed_pop(gst::ClockTime::from_mseconds(100));
        if let Some(enc) = pipeline.by_name("enc") {
            run.stats = enc.property("stats");
            run.marks.push(Mark {
                seconds: started.elapsed().as_secs_f64(),
                frames: run.stats.get("frames-done")?,
            });
            display.show(&run);
        }
        if INTERRUPTED.load(Ordering::SeqCst) && !std::mem::replace(&mut run.is_interrupted, true) {
            // What has come is encoded, and the file gets its index.
            display.say("Interrupted: finishing what has come; again to end at once");
            pipeline.send_event(gst::event::Eos::new());
        }
        let enough = frames.is_some_and(|frames| run.frames() >= frames);
        match message.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Eos(_)) => break,
            Some(gst::MessageView::Error(error)) => {
                let from = error.src().map(|src| src.path_string()).unwrap_or_default();
                return Err(format!("{from}: {}", error.error().message()).into());
            }
            Some(gst::MessageView::Warning(warning)) => {
                run.warnings.push(warning.error().message().to_string());
            }
            _ if enough => break,
            _ => (),
        }
    }
    display.end();
    if run.frames() == 0 {
        return Err("there is no video in it".into());
    }
    Ok(run)
}

/// Ctrl-C was pressed.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A bar on a terminal, and a line now and then elsewhere.
struct Display {
    bar: ProgressBar,
    said: Instant,
}

impl Display {
    /// So often a line comes where there is no terminal.
    const LINES: Duration = Duration::from_secs(5);

    fn new() -> Self {
        let bar = ProgressBar::no_length();
        let style = ProgressStyle::with_template("{wide_bar} {percent:>3} %  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            bar,
            said: Instant::now(),
        }
    }

    fn show(&mut self, run: &Run) {
        let stats = &run.stats;
        if let Ok(total) = stats.get("frames-total") {
            self.bar.set_length(total);
        }
        self.bar.set_position(run.frames());
        let rate: f64 = stats.get("average-frames-per-second").unwrap_or(0.0);
        let left = stats.get::<u64>("time-left").ok();
        let left = left
            .filter(|_| run.frames() > 0)
            .map_or_else(String::new, |left| {
                format!(", {} left", HumanDuration(Duration::from_nanos(left)))
            });
        let text = format!("{} frames, {rate:.1} frames/s{left}", run.frames());
        if !self.bar.is_hidden() {
            self.bar.set_message(text);
        } else if self.said.elapsed() >= Self::LINES {
            self.said = Instant::now();
            let percent = stats.get::<f64>("fraction");
            let percent =
                percent.map_or_else(|_| String::new(), |it| format!("{:.0} %, ", it * 100.0));
            eprintln!("{percent}{text}");
        }
    }

    fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output] = arguments.as_slice() else {
        return Err("two arguments are needed: a video file, and the .mp4 file to make".into());
    };
    gst::init()?;
    gstvtparallelenc::plugin_register_static()?;
    if same_file(input, output) {
        return Err("the output would overwrite the input".into());
    }
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    })?;

    eprintln!("Encoding {input} with {ENCODER}");
    let run_ours = run(input, Some(output), "", None)?;
    let is_parallel: bool = run_ours.stats.get("parallel")?;
    let compared = run_ours.frames().min(COMPARED);
    // What one would do without this element, and one session with a thread, in chunks of the encoder's own distance of key frames.
    let mut others = vec![(
        "one thread",
        "sessions=1 threads-per-session=1 chunk-frames=250 max-bitrate-overhead=100",
    )];
    if is_parallel {
        others.push(("its own threads", "allow-parallel=false"));
    }
    let mut rows = Vec::new();
    for (what, properties) in others {
        if run_ours.is_interrupted || INTERRUPTED.load(Ordering::SeqCst) {
            break;
        }
        eprintln!("Encoding {compared} frames by one encoder with {what}, to compare");
        let other = run(input, None, properties, Some(compared))?;
        let ours = run_ours.seconds_until(compared);
        rows.extend(ours.map(|seconds| (what, other.seconds() / seconds)));
    }

    println!();
    println!("frames     {:>10}", run_ours.frames());
    println!("seconds    {:>10.1}", run_ours.seconds());
    match is_parallel {
        true => {
            let sessions: u64 = run_ours.stats.get("sessions-planned")?;
            let threads: u32 = run_ours.stats.get("threads-per-session")?;
            println!("sessions   {sessions:>10}   with {threads} thread(s) each");
        }
        false => {
            let why: String = run_ours.stats.get("sequential-reason")?;
            println!("sessions   {:>10}   {why}", 1);
        }
    }
    for (what, speed_up) in rows {
        println!(
            "speed-up   {speed_up:>10.2}   against one encoder with {what}, over {compared} frames"
        );
    }
    println!("file       {output}");
    if run_ours.is_interrupted {
        println!("           of what had come when it was interrupted");
    }
    for warning in &run_ours.warnings {
        println!("warning    {warning}");
    }
    Ok(())
}

fn same_file(a: &str, b: &str) -> bool {
    match (std::fs::canonicalize(a), std::fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}
