// SPDX-License-Identifier: MPL-2.0

//! In bigger pipelines: ladders, previews, segmented output, RTP. Each is run with the plain encoder and with ours.

mod common;

use common::{Pipeline, record};
use gst::prelude::*;
use std::path::Path;
use std::process::Command;

const X264: &str =
    "x264enc threads=1 speed-preset=ultrafast key-int-max=1000 bframes=2 rc-lookahead=5";

fn in_chunks(frames: u32) -> String {
    format!(
        "vtparallelenc encoder=\"{X264}\" sessions=2 chunk-frames={frames} min-chunk-frames=2 overlap-before=0 overlap-after=0"
    )
}

/// As nobody sets it up who only swaps the encoder.
fn automatic() -> String {
    format!("vtparallelenc encoder=\"{X264}\" sessions=2")
}

fn source(frames: u32) -> String {
    format!(
        "videotestsrc num-buffers={frames} pattern=ball ! video/x-raw,format=I420,width=96,height=64,framerate=25/1"
    )
}

/// PTS in milliseconds and whether it is a key frame, of each packet of a file in the order of their PTS.
fn packets(file: &Path) -> Vec<(i64, bool)> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v"])
        .args([
            "-show_entries",
            "packet=pts_time,flags",
            "-of",
            "csv=print_section=0",
        ])
        .arg(file)
        .output()
        .expect("ffprobe is needed: Debian package ffmpeg");
    assert!(output.status.success(), "{}", file.display());
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let mut packets: Vec<_> = text
        .lines()
        // (In a transport stream, packets have more to say.)
        .filter(|line| line.starts_with(|first: char| first.is_ascii_digit()))
        .map(|line| {
            let mut fields = line.split(',');
            let time: f64 = fields.next().unwrap().parse().unwrap();
            let is_key = fields.next().unwrap().starts_with('K');
            ((time * 1000.0).round() as i64, is_key)
        })
        .collect();
    packets.sort_unstable();
    packets
}

/// Decodes all of a file; panics at the first complaint.
fn decode(file: &Path) {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-xerror", "-i"])
        .arg(file)
        .args(["-f", "null", "-"])
        .output()
        .expect("ffmpeg is needed: Debian package ffmpeg");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && complaints.is_empty(),
        "{complaints}"
    );
}

fn times(file: &Path) -> Vec<i64> {
    let first = packets(file)[0].0;
    packets(file).iter().map(|(time, _)| time - first).collect()
}

#[test]
fn a_ladder_from_one_tee() {
    for queue in ["queue", "queue max-size-buffers=2"] {
        let dir = tempfile::tempdir().unwrap();
        let run = |encoder: &str, name: &str| {
            let file = |rung: &str| dir.path().join(format!("{name}-{rung}.mp4"));
            let rung = |rung: &str, size: &str| {
                format!(
                    "t. ! {queue} ! videoscale ! video/x-raw,{size} ! {encoder} ! h264parse ! mp4mux ! filesink location={}",
                    file(rung).display()
                )
            };
            Pipeline::parse(&format!(
                "{} ! tee name=t {} {}",
                source(150),
                rung("large", "width=96,height=64"),
                rung("small", "width=48,height=32")
            ))
            .run()
            .expect_eos();
            for rung in ["large", "small"] {
                decode(&file(rung));
            }
            (times(&file("large")), times(&file("small")))
        };
        let plain = run(X264, "plain");
        assert_eq!(plain.0.len(), 150);
        assert_eq!(run(&in_chunks(20), "ours"), plain);
    }
}

#[test]
fn behind_a_tee_with_a_preview() {
    for preview in ["sync=false", "sync=true async=false"] {
        let pipeline = Pipeline::parse(&format!(
            "{} ! tee name=t t. ! queue ! {} ! fakesink name=sink async=false t. ! queue max-size-buffers=3 ! fakesink name=preview {preview}",
            source(60),
            in_chunks(10)
        ));
        let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
        let shown = record(&pipeline.element("preview").static_pad("sink").unwrap());
        pipeline.run().expect_eos();
        assert_eq!(output.lock().unwrap().packets.len(), 60);
        assert_eq!(shown.lock().unwrap().packets.len(), 60);
        output.lock().unwrap().assert_timestamps();
    }
}

/// The number of frames of each file in a folder, in the order of their names.
fn frames_of_files(dir: &Path, extension: &str) -> Vec<usize> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == extension))
        .collect();
    files.sort();
    let frames = files.iter().map(|file| {
        let packets = packets(file);
        assert!(
            packets[0].1,
            "{} doesn't begin with a key frame",
            file.display()
        );
        packets.len()
    });
    frames.collect()
}

/// Plays a pipeline with a splitmuxsink, whose parser is named `parse`, to its end. That of 1.22.0 sometimes doesn't say on the bus that
/// it is at its end, with any encoder, though all files are complete: they are looked at then.
fn run_segments(description: &str) {
    let pipeline = Pipeline::parse(description);
    let (sender, ended) = std::sync::mpsc::channel();
    let pad = pipeline.element("parse").static_pad("src").unwrap();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if info.event().unwrap().type_() == gst::EventType::Eos {
            let _ = sender.send(());
        }
        gst::PadProbeReturn::Ok
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let said = |seconds| {
        let types = [gst::MessageType::Eos, gst::MessageType::Error];
        let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(seconds), &types);
        let message = message.map(|message| message.type_());
        assert_ne!(message, Some(gst::MessageType::Error));
        message.is_some()
    };
    let hang = std::time::Duration::from_secs(60);
    ended.recv_timeout(hang).expect("the encoder hangs");
    if !said(5) {
        println!("splitmuxsink doesn't end");
    }
}

/// Segments of two seconds in 15 seconds of video.
const SEGMENTS: [usize; 8] = [50, 50, 50, 50, 50, 50, 50, 25];

fn split(encoder: &str) -> Vec<usize> {
    let dir = tempfile::tempdir().unwrap();
    run_segments(&format!(
        "{} ! {encoder} ! h264parse name=parse ! splitmuxsink max-size-time=2000000000 send-keyframe-requests=true location={}/%03d.mp4",
        source(375),
        dir.path().display()
    ));
    frames_of_files(dir.path(), "mp4")
}

#[test]
fn splitmuxsink_makes_segments_of_exact_length() {
    assert_eq!(split(X264), SEGMENTS, "the plain encoder");
    assert_eq!(split(&in_chunks(10)), SEGMENTS);
    assert_eq!(split(&in_chunks(25)), SEGMENTS);
    // Chunks that are longer than segments, and all frames taken in before the first packet leaves: frames that the muxer asks for
    // were encoded already.
    assert_eq!(split(&in_chunks(150)), SEGMENTS);
    assert_eq!(split(&automatic()), SEGMENTS);
    assert_eq!(
        split("vtparallelenc encoder=\"x264enc speed-preset=ultrafast\" sessions=3"),
        SEGMENTS
    );
}

fn hls(encoder: &str) -> (Vec<usize>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    run_segments(&format!(
        "{} ! {encoder} ! h264parse name=parse ! hlssink2 target-duration=2 max-files=100 playlist-length=100 \
         location={path}/%03d.ts playlist-location={path}/list.m3u8",
        source(375)
    ));
    let list = std::fs::read_to_string(dir.path().join("list.m3u8")).unwrap();
    let durations = list
        .lines()
        .filter_map(|line| line.strip_prefix("#EXTINF:"));
    let durations = durations.map(|it| it.trim_end_matches(',').to_string());
    (frames_of_files(dir.path(), "ts"), durations.collect())
}

#[test]
fn hlssink2_makes_segments_of_exact_length() {
    let plain = hls(X264);
    assert_eq!(plain.0, SEGMENTS, "the plain encoder");
    assert_eq!(hls(&in_chunks(10)), plain);
    assert_eq!(hls(&automatic()), plain);
}

fn dash(encoder: &str) -> Vec<usize> {
    let dir = tempfile::tempdir().unwrap();
    run_segments(&format!(
        "{} ! {encoder} ! h264parse name=parse ! dashsink.video_0 dashsink name=dashsink muxer=ts target-duration=2 mpd-root-path={} \
         mpd-filename=list.mpd",
        source(375),
        dir.path().display()
    ));
    frames_of_files(dir.path(), "ts")
}

#[test]
fn dashsink_makes_segments_of_exact_length() {
    assert_eq!(dash(X264), SEGMENTS, "the plain encoder");
    assert_eq!(dash(&in_chunks(10)), SEGMENTS);
    assert_eq!(dash(&automatic()), SEGMENTS);
}

#[test]
fn over_rtp() {
    let run = |encoder: &str| {
        let pipeline = Pipeline::parse(&format!(
            "{} ! {encoder} ! rtph264pay config-interval=-1 ! rtph264depay ! h264parse ! avdec_h264 ! fakesink name=sink",
            source(90)
        ));
        let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
        pipeline.run().expect_eos();
        let output = output.lock().unwrap();
        let times: Vec<_> = output
            .packets
            .iter()
            .map(|packet| packet.running_time)
            .collect();
        times
    };
    let plain = run(X264);
    assert_eq!(plain.len(), 90);
    assert_eq!(run(&in_chunks(20)).len(), 90);
    assert_eq!(run(&automatic()).len(), 90);
}

#[test]
fn one_after_the_other() {
    let pipeline = Pipeline::parse(&format!(
        "{} ! {} ! h264parse ! avdec_h264 ! {} ! h264parse ! avdec_h264 ! fakesink name=sink",
        source(120),
        in_chunks(15),
        automatic()
    ));
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    pipeline.run().expect_eos();
    assert_eq!(output.lock().unwrap().packets.len(), 120);
}

#[test]
fn every_muxer() {
    let dir = tempfile::tempdir().unwrap();
    for (muxer, extension) in [
        ("mp4mux", "mp4"),
        ("qtmux", "mov"),
        ("matroskamux", "mkv"),
        ("mpegtsmux", "ts"),
    ] {
        let run = |encoder: &str, name: &str| {
            let file = dir.path().join(format!("{name}.{extension}"));
            Pipeline::parse(&format!(
                "{} ! {encoder} ! h264parse ! {muxer} ! filesink location={}",
                source(100),
                file.display()
            ))
            .run()
            .expect_eos();
            decode(&file);
            times(&file)
        };
        let plain = run(X264, "plain");
        assert_eq!(plain.len(), 100, "{muxer}");
        assert_eq!(run(&in_chunks(20), "ours"), plain, "{muxer}");
    }
}

#[test]
fn a_live_source_with_a_preview() {
    // The preview's queue holds a frame while its sink waits for the other: nothing may go through it a second time. An encoder
    // with several threads needs several frames for its first packet.
    for encoder in [
        "x264enc speed-preset=ultrafast",
        "vtparallelenc encoder=\"x264enc speed-preset=ultrafast\"",
        "vtparallelenc encoder=\"x264enc speed-preset=ultrafast\" allow-parallel=false",
        "vtparallelenc encoder=\"x264enc speed-preset=ultrafast\" allow-parallel-live=true chunk-frames=5 min-chunk-frames=2",
    ] {
        let pipeline = Pipeline::parse(&format!(
            "videotestsrc name=src is-live=true num-buffers=40 ! video/x-raw,format=I420,width=96,height=64,framerate=25/1 ! tee name=t \
             t. ! queue ! {encoder} ! fakesink name=sink sync=false t. ! queue ! fakesink name=preview sync=true"
        ));
        let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let count = asked.clone();
        let src = pipeline.element("src").static_pad("src").unwrap();
        src.add_probe(gst::PadProbeType::EVENT_UPSTREAM, move |_, info| {
            let event = info.event().unwrap();
            let asks = event.type_() == gst::EventType::Reconfigure;
            count.fetch_add(asks.into(), std::sync::atomic::Ordering::SeqCst);
            gst::PadProbeReturn::Ok
        });
        pipeline.run().expect_eos();
        assert_eq!(output.lock().unwrap().packets.len(), 40, "{encoder}");
        // (Those of the pipeline's own links are over.)
        assert_eq!(
            asked.load(std::sync::atomic::Ordering::SeqCst),
            0,
            "{encoder}"
        );
    }
}
