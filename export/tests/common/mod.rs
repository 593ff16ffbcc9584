// SPDX-License-Identifier: MPL-2.0

//! Files to look into, and what a decoder makes of them.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod command;

use gst::prelude::*;
use gst_video::prelude::*;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

pub fn play(description: &str) {
    gst::init().unwrap();
    let pipeline = gst::parse::launch(description).unwrap();
    wait(&pipeline, description);
}

fn wait(pipeline: &gst::Element, what: &str) {
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let end = bus.timed_pop_filtered(gst::ClockTime::from_seconds(120), &ends);
    let end = end.unwrap_or_else(|| panic!("{what} hangs"));
    assert_eq!(end.type_(), gst::MessageType::Eos, "{what}: {end:?}");
    pipeline.set_state(gst::State::Null).unwrap();
}

/// What one sees of a decoded picture.
pub fn hash(buffer: &gst::BufferRef, caps: &gst::CapsRef) -> u64 {
    let info = gst_video::VideoInfo::from_caps(caps).unwrap();
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info).unwrap();
    let mut hasher = DefaultHasher::new();
    for component in 0..info.n_components() {
        let plane = info.format_info().plane()[component as usize];
        let width = frame.comp_width(component) as usize * frame.comp_pstride(component) as usize;
        let stride = frame.plane_stride()[plane as usize] as usize;
        let data = frame.plane_data(plane).unwrap();
        for row in data
            .chunks(stride)
            .take(frame.comp_height(component) as usize)
        {
            hasher.write(&row[..width.min(row.len())]);
        }
    }
    hasher.finish()
}

/// Stream times and hashes of what a decoder makes of the whole file.
pub fn decoded(path: &Path) -> Vec<(u64, u64)> {
    let description = format!(
        "filesrc location={} ! decodebin name=d ! video/x-raw ! fakesink name=sink async=false",
        path.display()
    );
    let pipeline = gst::parse::launch(&description).unwrap();
    let sink = pipeline.clone().downcast::<gst::Bin>().unwrap();
    let pad = sink.by_name("sink").unwrap().static_pad("sink").unwrap();
    let times = Arc::new(Mutex::new(Vec::new()));
    pad.add_probe(gst::PadProbeType::BUFFER, {
        let times = times.clone();
        move |pad, info| {
            let segment = pad.sticky_event::<gst::event::Segment>(0).unwrap();
            let segment = segment
                .segment()
                .downcast_ref::<gst::ClockTime>()
                .unwrap()
                .clone();
            let pts = info.buffer().unwrap().pts().unwrap();
            let time = segment.to_stream_time(pts).unwrap();
            let hash = hash(info.buffer().unwrap(), &pad.current_caps().unwrap());
            times.lock().unwrap().push((time.nseconds(), hash));
            gst::PadProbeReturn::Ok
        }
    });
    wait(&pipeline, &description);
    std::mem::take(&mut times.lock().unwrap())
}

/// A file that a pipeline makes of so many frames of 320x240.
pub fn made(dir: &Path, name: &str, frames: u32, then: &str) -> PathBuf {
    let path = dir.join(name);
    play(&format!(
        "videotestsrc num-buffers={frames} ! video/x-raw,width=320,height=240,framerate=25/1 ! {then} ! filesink location={}",
        path.display()
    ));
    path
}

pub const X264: &str =
    "x264enc speed-preset=ultrafast bframes=3 b-adapt=false key-int-max=20 ! h264parse";

/// A file that ffmpeg makes.
pub fn made_by_ffmpeg(dir: &Path, name: &str, encoder: &str) -> PathBuf {
    let output = Command::new("ffmpeg")
        .current_dir(dir)
        .args([
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            "testsrc=size=320x240:rate=25",
        ])
        .args(["-frames:v", "60", "-pix_fmt", "yuv420p"])
        .args(encoder.split(' '))
        .arg(name)
        .output()
        .unwrap();
    assert!(output.status.success(), "{name}: {output:?}");
    dir.join(name)
}

pub const BFRAMES: &str = "-c:v libx264 -bf 3 -g 20";
