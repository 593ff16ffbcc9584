// SPDX-License-Identifier: MPL-2.0

//! The tools that choose encoders for their users: encodebin, uritranscodebin and GES, by name and by caps. Each makes a file with
//! sound, whose frames are read back one by one.

mod common;

use common::pictures::{I420, number_of, pipeline, synthetic};
use common::{Pipeline, alone, record};
use gst::prelude::*;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

const FRAMES: usize = 75;

/// The pictures that are in the file with the plain encoder. (From GStreamer 1.27 on, videorate repeats the last one.)
static PLAIN: LazyLock<Vec<usize>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out.mp4");
    let plain = "x264enc|element-properties,bitrate=(uint)3000";
    encodebin_pipeline("encodebin", &profile(plain), &to)
        .run()
        .expect_eos();
    let numbers = read(&to).numbers;
    assert_eq!(numbers[..FRAMES], (0..FRAMES).collect::<Vec<_>>());
    numbers
});

const H264: &str = "vtparallelh264enc|element-properties,chunk-frames=(uint)20,sessions=(uint)2,\
    encoder-properties=[p,bitrate=(uint)3000,speed-preset=(string)ultrafast]";

fn profile(video: &str) -> String {
    format!("video/quicktime,variant=iso:{video}:audio/mpeg,mpegversion=4")
}

/// A file with numbered pictures and three seconds of sound.
fn source(file: &Path, encoder: &str) {
    let pipeline = pipeline(
        &synthetic(FRAMES),
        encoder,
        &format!(
            "queue ! matroskamux name=mux ! filesink location={} \
             audiotestsrc num-buffers=141 samplesperbuffer=1024 ! audio/x-raw,rate=48000 ! opusenc ! queue ! mux.",
            file.display()
        ),
    );
    pipeline.run().expect_eos();
}

const SOURCE_H264: &str = "x264enc pass=quant quantizer=15 speed-preset=ultrafast ! h264parse";

struct Film {
    numbers: Vec<usize>,
    times: Vec<gst::ClockTime>,
    /// Length of the sound.
    sound: gst::ClockTime,
    /// Numbers of the key frames.
    keys: Vec<usize>,
}

fn read(file: &Path) -> Film {
    let back = I420
        .replace(",framerate=25/1", "")
        .replace(",interlace-mode=progressive", "")
        .replace(",colorimetry=bt601,chroma-site=jpeg", "");
    let pipeline = Pipeline::parse(&format!(
        "filesrc location={} ! qtdemux name=demux \
         demux.video_0 ! queue ! h264parse ! identity name=encoded ! avdec_h264 ! videoconvert ! videoscale ! {back} ! \
         fakesink name=video sync=false \
         demux.audio_0 ! queue ! decodebin ! audioconvert ! fakesink name=audio sync=false",
        file.display()
    ));
    let pad = |name: &str| pipeline.element(name).static_pad("sink").unwrap();
    let (video, encoded, audio) = (
        record(&pad("video")),
        record(&pad("encoded")),
        record(&pad("audio")),
    );
    pipeline.run().expect_eos();
    let (video, encoded, audio) = (
        video.lock().unwrap(),
        encoded.lock().unwrap(),
        audio.lock().unwrap(),
    );
    let ends = audio
        .packets
        .iter()
        .filter_map(|packet| Some(packet.running_time? + packet.duration?));
    let first = video.packets[0].running_time.unwrap();
    // In decoding order the n-th key frame is the n-th in time.
    let keys = encoded.packets.iter().filter(|packet| packet.is_key());
    let frame = |time: gst::ClockTime| ((time - first).mseconds() as f64 / 40.0).round() as usize;
    Film {
        numbers: video
            .packets
            .iter()
            .map(|packet| number_of(&packet.bytes))
            .collect(),
        times: video
            .packets
            .iter()
            .map(|packet| packet.running_time.unwrap() - first)
            .collect(),
        sound: ends.max().unwrap(),
        keys: keys
            .map(|packet| frame(packet.running_time.unwrap()))
            .collect(),
    }
}

/// All frames, in order, at their times, with all of the sound, and a key frame where each chunk begins.
fn assert_whole(file: &Path) {
    let film = read(file);
    assert_eq!(film.numbers, *PLAIN);
    for (number, time) in film.times.iter().enumerate() {
        let expected = gst::ClockTime::from_mseconds(40) * number as u64;
        assert!(
            time.absdiff(expected) < gst::ClockTime::from_mseconds(2),
            "frame {number} at {time}"
        );
    }
    let three = gst::ClockTime::from_seconds(3);
    assert!(
        film.sound.absdiff(three) < gst::ClockTime::from_mseconds(150),
        "{}",
        film.sound
    );
    for start in [0, 20, 40] {
        assert!(film.keys.contains(&start), "{:?}", film.keys);
    }
}

/// The parallel encoder that the pipeline gets, once it has one.
fn encoder_of(pipeline: &Pipeline) -> Arc<Mutex<Option<gst::Element>>> {
    let found = Arc::new(Mutex::new(None));
    let kept = found.clone();
    pipeline.connect_deep_element_added(move |_, _, element| {
        let factory = element.factory();
        if factory.is_some_and(|factory| factory.name() == "vtparallelh264enc") {
            *kept.lock().unwrap() = Some(element.clone());
        }
    });
    found
}

fn assert_parallel(encoder: &Arc<Mutex<Option<gst::Element>>>) {
    let encoder = encoder.lock().unwrap().clone().expect("a parallel encoder");
    let stats: gst::Structure = encoder.property("stats");
    assert!(stats.get::<bool>("parallel").unwrap(), "{stats}");
    assert!(stats.get::<u64>("chunks-finished").unwrap() >= 3, "{stats}");
    let active: String = encoder.property("active-encoder");
    assert_eq!(active, "x264enc");
}

#[test]
fn uritranscodebin_by_name() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.mkv"), dir.path().join("out.mp4"));
    source(&from, SOURCE_H264);
    let pipeline = Pipeline::parse(&format!(
        "uritranscodebin source-uri=file://{} dest-uri=file://{} profile=\"{}\"",
        from.display(),
        to.display(),
        profile(H264)
    ));
    let encoder = encoder_of(&pipeline);
    pipeline.run().expect_eos();
    assert_parallel(&encoder);
    assert_whole(&to);
}

fn encodebin_pipeline(element: &str, profile: &str, to: &Path) -> Pipeline {
    pipeline(
        &synthetic(FRAMES),
        "queue",
        &format!(
            "enc.video_0 {element} name=enc profile=\"{profile}\" ! filesink location={} \
             audiotestsrc num-buffers=141 samplesperbuffer=1024 ! audio/x-raw,rate=48000 ! \
             queue max-size-time=0 max-size-bytes=0 max-size-buffers=0 ! enc.audio_0",
            to.display()
        ),
    )
}

fn encodebin(element: &str, profile: &str) {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out.mp4");
    let pipeline = encodebin_pipeline(element, profile, &to);
    let encoder = encoder_of(&pipeline);
    // With a profile of caps alone it was added while the pipeline was parsed.
    let found = pipeline
        .iterate_recurse()
        .into_iter()
        .flatten()
        .find(|element| {
            element
                .factory()
                .is_some_and(|factory| factory.name() == "vtparallelh264enc")
        });
    if let Some(found) = found {
        found.set_property("chunk-frames", 20u32);
        *encoder.lock().unwrap() = Some(found);
    }
    pipeline.run().expect_eos();
    assert_parallel(&encoder);
    assert_whole(&to);
}

#[test]
fn encodebin_by_name() {
    let _alone = alone();
    for element in ["encodebin", "encodebin2"] {
        encodebin(element, &profile(H264));
    }
}

#[test]
fn encodebin_by_caps_where_the_rank_is_raised() {
    let _alone = alone();
    let ours = gst::ElementFactory::find("vtparallelh264enc").unwrap();
    assert_eq!(ours.rank(), gst::Rank::MARGINAL);
    ours.set_rank(gst::Rank::PRIMARY + 100);
    encodebin("encodebin", &profile("video/x-h264"));
    ours.set_rank(gst::Rank::MARGINAL);
}

/// Runs a tool with our plugin; it has to end well.
fn run_tool(dir: &Path, tool: &str, arguments: &[&str]) {
    let output = common::tool(dir, "timeout")
        .args(["60", tool])
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{tool}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn ges_renders_a_timeline() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.mkv"), dir.path().join("out.mp4"));
    source(&from, SOURCE_H264);
    run_tool(
        dir.path(),
        "ges-launch-1.0",
        &[
            "--no-interactive",
            "--video-caps=video/x-raw,width=320,height=240,framerate=25/1",
            "--audio-caps=audio/x-raw,rate=48000,channels=2",
            "+clip",
            &format!("file://{}", from.display()),
            "inpoint=0.0",
            "duration=3.0",
            "-o",
            &format!("file://{}", to.display()),
            "-f",
            &profile(H264),
        ],
    );
    assert_whole(&to);
}

#[test]
fn gst_transcoder_transcodes() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.mkv"), dir.path().join("out.mp4"));
    // What is H.264 already it would hand through.
    source(&from, "jpegenc quality=95");
    run_tool(
        dir.path(),
        "gst-transcoder-1.0",
        &[from.to_str().unwrap(), to.to_str().unwrap(), &profile(H264)],
    );
    assert_whole(&to);
}
