// SPDX-License-Identifier: MPL-2.0

//! In a pipeline with sound: in step with it, and never a silent deadlock.

mod common;

use common::{End, Pipeline};
use gst::prelude::*;
use std::path::Path;
use std::process::Command;

/// A file with 8 seconds of picture and sound, interleaved as files are.
fn make_source(file: &Path, frames_per_second: u32) {
    Pipeline::parse(&format!(
        "videotestsrc num-buffers={} pattern=ball ! \
         video/x-raw,format=I420,width=160,height=120,framerate={frames_per_second}/1 ! \
         x264enc speed-preset=ultrafast tune=zerolatency ! h264parse ! mp4mux name=m ! filesink location={} \
         audiotestsrc num-buffers=375 samplesperbuffer=1024 ! audio/x-raw,rate=48000,channels=1 ! \
         avenc_aac ! queue max-size-time=0 max-size-buffers=0 max-size-bytes=0 ! m.",
        8 * frames_per_second,
        file.display()
    ))
    .run()
    .expect_eos();
}

/// Transcodes the picture beside the sound, which waits in `queue`.
fn transcode(source: &Path, target: &Path, queue: &str) -> Pipeline {
    Pipeline::parse(&format!(
        "filesrc location={} ! qtdemux name=d \
         d.video_0 ! queue ! h264parse ! avdec_h264 ! vtparallelenc name=enc sessions=2 chunk-frames=50 \
         encoder=\"x264enc threads=1 speed-preset=veryfast\" ! h264parse ! mp4mux name=m ! filesink location={} \
         d.audio_0 ! {queue} ! m.",
        source.display(),
        target.display()
    ))
}

fn count_packets(file: &Path, stream: &str) -> usize {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", stream, "-count_packets"])
        .args([
            "-show_entries",
            "stream=nb_read_packets",
            "-of",
            "csv=print_section=0",
        ])
        .arg(file)
        .output()
        .expect("ffprobe is needed: Debian package ffmpeg");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

#[test]
fn with_room_for_the_sound_it_is_parallel_and_quiet() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("in.mp4"), dir.path().join("out.mp4"));
    make_source(&source, 25);
    let pipeline = transcode(
        &source,
        &target,
        "queue max-size-time=0 max-size-bytes=0 max-size-buffers=0",
    );
    pipeline.run().expect_eos();
    let stats = pipeline.stats();
    assert!(!stats.get::<bool>("leaves-early").unwrap(), "{stats}");
    assert_eq!(stats.get::<u64>("chunks-finished").unwrap(), 4);
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(count_packets(&target, "v"), 200);
    assert_eq!(count_packets(&target, "a"), count_packets(&source, "a"));
}

#[test]
fn without_room_it_says_so_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("in.mp4"), dir.path().join("out.mp4"));
    make_source(&source, 25);
    // 1.2 s of sound, and chunks of 2 s: the sound's queue is full before a chunk is done.
    let pipeline = transcode(
        &source,
        &target,
        "queue max-size-time=1200000000 max-size-bytes=0 max-size-buffers=0",
    );
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut warning = None;
    let end = loop {
        let types = [
            gst::MessageType::Warning,
            gst::MessageType::Eos,
            gst::MessageType::Error,
        ];
        let bus = pipeline.bus().unwrap();
        let message = bus
            .timed_pop_filtered(gst::ClockTime::from_seconds(120), &types)
            .expect("the pipeline hangs");
        match message.view() {
            gst::MessageView::Warning(text) => warning = Some(text.error().message().to_string()),
            gst::MessageView::Eos(_) => break End::Eos,
            other => panic!("{other:?}"),
        }
    };
    end.expect_eos();
    let warning = warning.expect("no warning");
    assert!(warning.contains("max-size-time"), "{warning}");
    assert!(pipeline.stats().get::<bool>("leaves-early").unwrap());
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(count_packets(&target, "v"), 200);
    assert_eq!(count_packets(&target, "a"), count_packets(&source, "a"));
}

#[test]
fn what_is_withheld_at_a_chunks_end_is_given_out_too() {
    // 5 frames a second: the 11 frames that may be a tail last longer than the sound's queue.
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("in.mp4"), dir.path().join("out.mov"));
    make_source(&source, 5);
    let transcode = |encoder: &str| {
        Pipeline::parse(&format!(
            "filesrc location={} ! qtdemux name=d \
             d.video_0 ! queue ! h264parse ! avdec_h264 max-threads=1 ! {encoder} ! \
             qtmux name=m ! filesink location={} \
             d.audio_0 ! queue max-size-time=1200000000 max-size-bytes=0 max-size-buffers=0 ! m.",
            source.display(),
            target.display()
        ))
        .run()
        .expect_eos();
        assert_eq!(count_packets(&target, "v"), 40);
    };
    // What works with the plain encoder works with chunks.
    transcode("jpegenc");
    for overlap in ["", "overlap-after=8"] {
        transcode(&format!(
            "vtparallelenc name=enc sessions=2 chunk-frames=10 min-chunk-frames=9 {overlap} encoder=jpegenc"
        ));
    }
}
