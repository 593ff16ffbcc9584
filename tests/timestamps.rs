// SPDX-License-Identifier: MPL-2.0

//! DTS increase strictly and are never after PTS, and every frame keeps its time: at any frame rate, in the files that
//! muxers write, as ffprobe reads them.

mod common;

use common::pictures::{self, I420, synthetic};
use common::{Pipeline, Times, encode_times};
use gst::prelude::*;
use std::process::Command;

/// Frame durations that change all the time, from 8 to 250 ms.
fn variable(frames: u64) -> Times {
    let mut pts = gst::ClockTime::ZERO;
    (0..frames)
        .map(|n| {
            let duration = gst::ClockTime::from_mseconds(8 + (n * n * 37 + n * 11) % 243);
            let time = (pts, Some(duration));
            pts += duration;
            time
        })
        .collect()
}

/// Frames at `numer`/`denom` per second, their times rounded to nanoseconds.
fn rate(frames: u64, numer: u64, denom: u64) -> Times {
    let second = gst::ClockTime::SECOND;
    let at = |n: u64| second.mul_div_floor(n * denom, numer).unwrap();
    (0..frames)
        .map(|n| (at(n), Some(at(n + 1) - at(n))))
        .collect()
}

#[test]
fn any_rate_any_reordering_any_chunk() {
    for (name, times) in [
        ("variable", variable(90)),
        ("30000/1001", rate(90, 30000, 1001)),
        ("24000/1001", rate(90, 24000, 1001)),
    ] {
        for encoder in [
            "scriptedenc",
            "scriptedenc bframes=1",
            "scriptedenc bframes=3 look-ahead=6",
            // Reordering that the encoder's DTS don't announce, and that only later chunks have.
            "scriptedenc bframes=2 plain-dts=true",
        ] {
            for chunk in [1, 2, 7, 30] {
                let (end, output, _) = encode_times(
                    &format!(
                        "vtparallelenc name=enc encoder=\"{encoder}\" sessions=3 chunk-frames={chunk} \
                         min-chunk-frames=1 overlap-before=2"
                    ),
                    &times,
                );
                end.expect_eos();
                output.assert_timestamps();
                assert_eq!(output.packets.len(), times.len());
                for packet in &output.packets {
                    let (pts, duration) = times[packet.frame() as usize];
                    assert_eq!(packet.running_time, Some(pts), "{name} {encoder} {chunk}");
                    assert_eq!(packet.duration, duration);
                }
            }
        }
    }
}

#[test]
fn a_constant_rate_has_the_timestamps_of_the_plain_encoder() {
    let pictures = synthetic(60);
    let encoder = "x264enc threads=1 speed-preset=veryfast bframes=3 b-pyramid=true";
    let plain = pictures::encode(&pictures, encoder);
    let ours = pictures::encode(
        &pictures,
        &format!("vtparallelenc encoder=\"{encoder}\" sessions=2 chunk-frames=60"),
    );
    assert_eq!(plain.packets, ours.packets);
    let in_chunks = pictures::encode(
        &pictures,
        &format!("vtparallelenc encoder=\"{encoder}\" sessions=2 chunk-frames=20"),
    );
    let dts = |output: &common::Output| -> Vec<_> {
        output.packets.iter().map(|packet| packet.dts).collect()
    };
    assert_eq!(dts(&plain), dts(&in_chunks));
}

/// (PTS, DTS) of each packet in seconds, in the file's order.
fn probe(file: &std::path::Path) -> Vec<(f64, Option<f64>)> {
    let output = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-select_streams",
            "v",
            "-show_entries",
            "packet=pts_time,dts_time",
        ])
        .args(["-of", "csv=print_section=0"])
        .arg(file)
        .output()
        .expect("ffprobe is needed: Debian package ffmpeg");
    assert!(output.status.success());
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| {
            let mut fields = line.split(',');
            let pts = fields.next().unwrap().parse().unwrap();
            (pts, fields.next().and_then(|dts| dts.parse().ok()))
        })
        .collect()
}

fn assert_file(mux: &str, extension: &str, times: &Times) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(format!("out.{extension}"));
    let pipeline = Pipeline::parse(&format!(
        "appsrc name=src format=time max-bytes=0 caps={} ! vtparallelenc sessions=2 chunk-frames=17 min-chunk-frames=2 \
         encoder=\"x264enc threads=1 speed-preset=veryfast bframes=3 b-pyramid=true\" ! h264parse ! {mux} ! filesink location={}",
        I420.replace(',', "\\,").replace("I420", "(string)I420"),
        file.display()
    ));
    let src = common::app_src(&pipeline);
    for (picture, &(pts, duration)) in synthetic(times.len()).into_iter().zip(times) {
        let mut buffer = gst::Buffer::from_slice(picture);
        buffer.get_mut().unwrap().set_pts(pts);
        buffer.get_mut().unwrap().set_duration(duration);
        src.push_buffer(buffer).unwrap();
    }
    src.end_of_stream().unwrap();
    pipeline.run().expect_eos();
    pipeline.set_state(gst::State::Null).unwrap();

    let packets = probe(&file);
    assert_eq!(packets.len(), times.len(), "{mux}");
    assert!(
        packets
            .iter()
            .any(|&(pts, dts)| dts.is_some_and(|dts| dts < pts)),
        "no B-frames"
    );
    // Matroska keeps no DTS; ffprobe derives them, all but the first ones.
    let derived = packets.iter().position(|(_, dts)| dts.is_some()).unwrap();
    assert!(derived <= 2, "{mux}");
    let mut last = f64::NEG_INFINITY;
    for &(pts, dts) in &packets[derived..] {
        let dts = dts.unwrap_or_else(|| panic!("{mux}: no DTS at {pts}"));
        assert!(dts > last, "{mux}: DTS {dts} after {last}");
        assert!(dts <= pts + 1e-6, "{mux}: DTS {dts} after PTS {pts}");
        last = dts;
    }
    let mut pts: Vec<f64> = packets.iter().map(|&(pts, _)| pts).collect();
    pts.sort_by(f64::total_cmp);
    for (pts, (time, _)) in pts.iter().zip(times) {
        // A millisecond is the finest that Matroska keeps.
        let wanted = time.nseconds() as f64 / 1e9;
        assert!(
            (pts - pts_start(&packets) - wanted).abs() < 0.0016,
            "{mux}: {pts} is not {wanted}"
        );
    }
}

fn pts_start(packets: &[(f64, Option<f64>)]) -> f64 {
    packets
        .iter()
        .map(|&(pts, _)| pts)
        .fold(f64::INFINITY, f64::min)
}

#[test]
fn b_frames_at_a_variable_rate_in_mp4() {
    assert_file("mp4mux", "mp4", &variable(80));
}

#[test]
fn b_frames_at_a_variable_rate_in_matroska() {
    assert_file("matroskamux", "mkv", &variable(80));
}

#[test]
fn b_frames_at_ntsc_rate_in_mp4() {
    assert_file("mp4mux", "mp4", &rate(80, 30000, 1001));
}
