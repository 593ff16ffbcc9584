// SPDX-License-Identifier: MPL-2.0

//! DTS increase strictly and are never after PTS, and every frame keeps its time: at any frame rate, in the files that
//! muxers write, as ffprobe reads them.

mod common;

use common::pictures::{self, I420, synthetic};
use common::rig::{Entry, Rig, assert_same};
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
    assert_file_of(mux, extension, times, &[]);
}

/// `untimed`: frames that come without a timestamp.
fn assert_file_of(mux: &str, extension: &str, times: &Times, untimed: &[usize]) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(format!("out.{extension}"));
    let pipeline = Pipeline::parse(&format!(
        "appsrc name=src format=time max-bytes=0 caps={} ! vtparallelenc sessions=2 chunk-frames=17 min-chunk-frames=2 \
         encoder=\"x264enc threads=1 speed-preset=veryfast bframes=3 b-pyramid=true\" ! h264parse ! {mux} ! filesink location={}",
        I420.replace(',', "\\,").replace("I420", "(string)I420"),
        file.display()
    ));
    let src = common::app_src(&pipeline);
    let pictures = synthetic(times.len()).into_iter();
    for (number, (picture, &(pts, duration))) in pictures.zip(times).enumerate() {
        let mut buffer = gst::Buffer::from_slice(picture);
        let of = buffer.get_mut().unwrap();
        of.set_pts((!untimed.contains(&number)).then_some(pts));
        of.set_duration(duration);
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

/// (The plain encoder's packet has none: matroskamux leaves it out.)
#[test]
fn a_frame_without_a_timestamp_begins_where_the_last_one_ends() {
    for (mux, extension) in [("mp4mux", "mp4"), ("qtmux", "mov"), ("matroskamux", "mkv")] {
        let times = rate(80, 25, 1);
        assert_file_of(mux, extension, &times, &[33, 34, 50, 79]);
    }
}

/// PTS and duration in milliseconds, as far as the frame has them.
type Odd = (Option<u64>, Option<u64>);

/// Twenty-five frames per second, but for what makes them odd.
fn odd_times() -> Vec<(&'static str, Vec<Odd>)> {
    let regular = |n: u64| (Some(n * 40), Some(40));
    let with = |odd: &dyn Fn(u64) -> Odd| (0..60).map(odd).collect::<Vec<_>>();
    vec![
        ("regular", with(&regular)),
        ("no durations", with(&|n| (Some(n * 40), None))),
        (
            "some durations",
            with(&|n| (Some(n * 40), (n % 3 > 0).then_some(40))),
        ),
        ("gaps", with(&|n| (Some(n * 40 + n / 7 * 500), Some(40)))),
        (
            "an hour's gap",
            with(&|n| (Some(n * 40 + n / 31 * 3_600_000), Some(40))),
        ),
        (
            "small steps back",
            with(&|n| (Some(n * 40 + 100 - 60 * u64::from(n % 9 == 4)), Some(40))),
        ),
        ("jumps back", with(&|n| (Some(n % 25 * 40), Some(40)))),
        ("equal pairs", with(&|n| (Some(n / 2 * 80), Some(40)))),
        ("all equal", with(&|_| (Some(1000), Some(40)))),
        (
            "no first PTS",
            with(&|n| ((n > 0).then_some(n * 40), Some(40))),
        ),
        ("no PTS at all", with(&|_| (None, None))),
        ("jitter", with(&|n| (Some(n * 40 + n * 7 % 13), Some(40)))),
        ("late", with(&|n| (Some(n * 40 + 987_654_321), Some(40)))),
    ]
}

fn odd_buffer(mut buffer: gst::Buffer, (pts, duration): Odd) -> gst::Buffer {
    let times = buffer.get_mut().unwrap();
    times.set_pts(pts.map(gst::ClockTime::from_mseconds));
    times.set_duration(duration.map(gst::ClockTime::from_mseconds));
    buffer
}

#[test]
fn odd_times_are_those_of_the_plain_encoder() {
    let gray = |n| common::gray(n, (gst::ClockTime::ZERO, None));
    for (_, times) in odd_times() {
        for rate in ["25/1", "0/1", "30000/1001"] {
            let caps = common::GRAY.replace("25/1", rate);
            // (With timestamps moved, the plain encoder gives a frame without one another than this.)
            for plain in [
                "scriptedenc keep-times=true",
                "scriptedenc keep-times=true skip-every=7",
            ] {
                let ours = format!(
                    "vtparallelenc encoder=\"{plain}\" sessions=3 chunk-frames=11 min-chunk-frames=4"
                );
                assert_same(plain, &ours, Some(&caps), |rig| {
                    for (number, &odd) in times.iter().enumerate() {
                        rig.src.push(odd_buffer(gray(number as u64), odd)).unwrap();
                    }
                    rig.end();
                });
            }
        }
    }
}

/// PTS less the first one, DTS less PTS, durations: what has to be the same wherever the output begins.
fn relative(rig: &Rig) -> Vec<(Option<i64>, Option<i64>, Option<gst::ClockTime>)> {
    let entries = rig.entries();
    let packets: Vec<_> = entries.iter().filter_map(Entry::buffer).collect();
    let first = packets.iter().find_map(|packet| packet.pts());
    let less = |a: Option<gst::ClockTime>, b: Option<gst::ClockTime>| {
        Some(a?.nseconds() as i64 - b?.nseconds() as i64)
    };
    let all = packets.iter().map(|packet| {
        (
            less(packet.pts(), first),
            less(packet.dts(), packet.pts()),
            packet.duration(),
        )
    });
    all.collect()
}

#[test]
fn odd_times_with_a_real_encoder() {
    let i420 = "video/x-raw,format=I420,width=64,height=64,framerate=25/1";
    let encoder = "x264enc threads=1 speed-preset=ultrafast key-int-max=1000";
    for (name, times) in odd_times() {
        if name == "no PTS in the middle" {
            // GstVideoEncoder moves a timestamp that isn't there, to some other time.
            continue;
        }
        let of = |encoder: &str| {
            let rig = Rig::with_caps(encoder, i420);
            for (number, &odd) in times.iter().enumerate() {
                let picture = gst::Buffer::from_slice(vec![number as u8; 64 * 64 * 3 / 2]);
                rig.src.push(odd_buffer(picture, odd)).unwrap();
            }
            rig.end();
            relative(&rig)
        };
        let ours = format!(
            "vtparallelenc encoder=\"{encoder}\" sessions=2 chunk-frames=12 min-chunk-frames=4"
        );
        assert_eq!(of(encoder), of(&ours), "{name}");
    }
}

#[test]
fn backwards_as_the_plain_encoder_does() {
    let segment = |rate| {
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_rate(rate);
        segment.set_stop(gst::ClockTime::from_mseconds(60 * 40));
        gst::event::Segment::new(&segment)
    };
    for rate in [-1.0, -2.5, 3.0] {
        let act = |rig: &Rig| {
            rig.send(gst::event::StreamStart::new("rig"));
            rig.send(gst::event::Caps::new(
                &common::GRAY.parse::<gst::Caps>().unwrap(),
            ));
            rig.send(segment(rate));
            let mut numbers: Vec<u64> = (0..60).collect();
            if rate < 0.0 {
                numbers.reverse();
            }
            rig.push_all(numbers);
            rig.end();
        };
        for script in ["", " bframes=2"] {
            let plain = format!("scriptedenc{script}");
            let ours = format!("vtparallelenc encoder=\"{plain}\" sessions=3 chunk-frames=60");
            assert_same(&plain, &ours, None, act);
            let ours = format!(
                "vtparallelenc encoder=\"{plain}\" sessions=3 chunk-frames=11 min-chunk-frames=4"
            );
            let rig = Rig::bare(&ours);
            act(&rig);
            // In running time, which goes on while timestamps go back, no packet is decoded after it is shown, or before the last one.
            let entries = rig.entries();
            let segment = entries
                .iter()
                .find_map(|entry| match entry.event()?.view() {
                    gst::EventView::Segment(it) => {
                        it.segment().downcast_ref::<gst::ClockTime>().cloned()
                    }
                    _ => None,
                });
            let segment = segment.unwrap();
            let mut last = None;
            for packet in entries.iter().filter_map(Entry::buffer) {
                let running = |time| match segment.to_running_time_full(time) {
                    Some(gst::Signed::Positive(time)) => time.nseconds() as i64,
                    Some(gst::Signed::Negative(time)) => -(time.nseconds() as i64),
                    None => panic!("no time"),
                };
                let (dts, pts) = (
                    running(packet.dts().unwrap()),
                    running(packet.pts().unwrap()),
                );
                assert!(dts <= pts, "{rate}: {dts} {pts}");
                assert!(
                    last.is_none_or(|last| dts > last),
                    "{rate}: {dts} after {last:?}"
                );
                last = Some(dts);
            }
        }
    }
}
