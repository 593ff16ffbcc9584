// SPDX-License-Identifier: MPL-2.0

//! Encodes a file with several encoders at once, shows how far it is, and says what was gained.
//!
//! `encode INPUT OUTPUT.mp4`: the picture to H.264 by `vtparallelenc`, the sound to AAC.

use gst::prelude::*;
use std::error::Error;
use std::io::Write;
use std::time::Instant;

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
    };
    let started = Instant::now();
    pipeline.set_state(gst::State::Playing)?;
    loop {
        let message = bus.timed_pop(gst::ClockTime::from_mseconds(100));
        if let Some(enc) = pipeline.by_name("enc") {
            run.stats = enc.property("stats");
            run.marks.push(Mark {
                seconds: started.elapsed().as_secs_f64(),
                frames: run.stats.get("frames-out")?,
            });
            show(pipeline, &run);
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
    eprintln!();
    if run.frames() == 0 {
        return Err("there is no video in it".into());
    }
    Ok(run)
}

fn show(pipeline: &gst::Pipeline, run: &Run) {
    let position = pipeline.query_position::<gst::ClockTime>();
    let duration = pipeline.query_duration::<gst::ClockTime>();
    let percent = position
        .zip(duration)
        .map(|(position, duration)| 100 * position.nseconds() / duration.nseconds().max(1));
    let percent = percent.map_or("   ?".into(), |percent| format!("{percent:4}"));
    let rate = run.frames() as f64 / run.seconds().max(0.001);
    eprint!(
        "\r{percent} %   {:6} frames   {rate:6.1} frames/s ",
        run.frames()
    );
    let _ = std::io::stderr().flush();
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

    eprintln!("Encoding {input} with {ENCODER}");
    let parallel = run(input, Some(output), "", None)?;
    let compared = parallel.frames().min(COMPARED);
    // As long a chunk as the encoder's own distance of key frames.
    eprintln!("Encoding {compared} frames with one session, to compare");
    let alone = run(input, None, "sessions=1 chunk-frames=250", Some(compared))?;

    let sessions = parallel.stats.get::<gst::ArrayRef<'_>>("sessions")?.len();
    let is_parallel: bool = parallel.stats.get("parallel")?;
    let speed_up = parallel
        .seconds_until(compared)
        .map(|seconds| alone.seconds() / seconds);
    println!();
    println!("frames     {:>10}", parallel.frames());
    println!("seconds    {:>10.1}", parallel.seconds());
    println!("sessions   {:>10}", if is_parallel { sessions } else { 1 });
    if let Some(speed_up) = speed_up {
        println!("speed-up   {speed_up:>10.2}   against one session, over {compared} frames");
    }
    println!("file       {output}");
    for warning in &parallel.warnings {
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
