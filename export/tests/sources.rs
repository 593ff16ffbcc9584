// SPDX-License-Identifier: MPL-2.0

//! The pictures that a scan finds are those that a decoder makes, for many kinds of files; where a file doesn't tell them, that is said.

mod common;

use common::{BFRAMES, X264, decoded, made, made_by_ffmpeg, play};
use std::path::Path;
use std::process::{Command, Output};
use vtexport::scan::{Scan, Trouble, scan};

/// As much as times are rounded: a tick of Matroska's clock, and of 90 kHz.
const ROUNDED: u64 = 1_000_001;

/// As the scan finds them, which has to be as a decoder does.
fn found(path: &Path) -> Scan {
    let scan = scan(path, 0).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(scan.trouble(), None, "{}", path.display());
    let decoded = decoded(path);
    let times: Vec<u64> = scan.pictures.iter().map(|it| it.time).collect();
    assert_eq!(
        times.len(),
        decoded.len(),
        "{}: {times:?}\n{decoded:?}",
        path.display()
    );
    for (scanned, (decoded, _)) in times.iter().zip(&decoded) {
        let apart = scanned.abs_diff(*decoded);
        assert!(
            apart <= ROUNDED,
            "{}: {times:?}\n{decoded:?}",
            path.display()
        );
    }
    scan
}

#[test]
fn containers_with_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let scan = found(&made(dir.path(), "b.mp4", 75, &format!("{X264} ! mp4mux")));
    assert_eq!((scan.pictures.len(), scan.key_frames()), (75, 4));
    assert_eq!(scan.key_distance(), Some(800_000_000));
    let scan = found(&made(
        dir.path(),
        "b.mkv",
        75,
        &format!("{X264} ! matroskamux"),
    ));
    assert_eq!((scan.pictures.len(), scan.key_frames()), (75, 4));
    let scan = found(&made(
        dir.path(),
        "hevc.mp4",
        60,
        "x265enc speed-preset=ultrafast option-string=bframes=3:log-level=none key-int-max=20 ! h265parse ! mp4mux",
    ));
    assert_eq!((scan.pictures.len(), scan.key_frames()), (60, 3));
    let prores = "video/x-raw,format=I422_10LE";
    let scan = found(&made(
        dir.path(),
        "prores.mov",
        10,
        &format!("videoconvert ! {prores} ! avenc_prores_ks ! qtmux"),
    ));
    assert_eq!((scan.pictures.len(), scan.key_frames()), (10, 10));
    let scan = found(&made(dir.path(), "mjpeg.avi", 30, "jpegenc ! avimux"));
    assert_eq!((scan.pictures.len(), scan.key_frames()), (30, 30));
}

#[test]
fn formats_of_the_web() {
    let dir = tempfile::tempdir().unwrap();
    // With pictures that aren't shown.
    let scan = found(&made(
        dir.path(),
        "vp8.webm",
        75,
        "vp8enc auto-alt-ref=true lag-in-frames=16 cpu-used=8 deadline=1000000 keyframe-max-dist=30 ! webmmux",
    ));
    assert_eq!(scan.pictures.len(), 75);
    let scan = found(&made(
        dir.path(),
        "vp9.webm",
        75,
        "vp9enc auto-alt-ref=true lag-in-frames=16 cpu-used=8 deadline=1000000 keyframe-max-dist=30 ! webmmux",
    ));
    assert_eq!(scan.pictures.len(), 75);
    let scan = found(&made(
        dir.path(),
        "av1.mkv",
        20,
        "av1enc usage-profile=realtime cpu-used=10 keyframe-max-dist=10 ! av1parse ! matroskamux",
    ));
    assert_eq!((scan.pictures.len(), scan.key_frames()), (20, 2));
    let scan = found(&made(dir.path(), "theora.ogv", 75, "theoraenc ! oggmux"));
    assert_eq!(scan.pictures.len(), 75);
}

#[test]
fn streams_without_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let scan = found(&made(
        dir.path(),
        "b.ts",
        75,
        &format!("{X264} ! mpegtsmux"),
    ));
    assert_eq!((scan.pictures.len(), scan.key_frames()), (75, 4));
}

/// Frames are dropped here and there: no rate tells their times.
#[test]
fn a_rate_that_varies() {
    let dir = tempfile::tempdir().unwrap();
    let drops = format!("identity drop-probability=0.3 ! {X264} ! matroskamux");
    let scan = found(&made(dir.path(), "varies.mkv", 100, &drops));
    assert!(scan.pictures.len() < 100);
    let (shortest, longest) = scan.gaps().unwrap();
    assert!(longest > shortest * 3 / 2);
}

/// A part of a file, cut without encoding: what comes before is in it, and isn't shown.
#[test]
fn an_edit_list() {
    let dir = tempfile::tempdir().unwrap();
    let whole = made(dir.path(), "whole.mp4", 75, &format!("{X264} ! mp4mux"));
    let part = dir.path().join("part.mp4");
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-ss", "1.2", "-i"])
        .arg(&whole)
        .args(["-c", "copy"])
        .arg(&part)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let scan = found(&part);
    assert!(scan.hidden > 0, "{scan:?}");
    assert_eq!(scan.pictures.len(), 45);
}

#[test]
fn files_of_others() {
    let dir = tempfile::tempdir().unwrap();
    // What it is encoded with, and how many key frames it has.
    let kinds = [
        ("mpeg2.ts", "-c:v mpeg2video -bf 2 -g 15", 6),
        (
            "fields.ts",
            "-c:v libx264 -flags +ildct+ilme -x264opts tff=1",
            1,
        ),
        (
            "open.ts",
            "-c:v libx264 -bf 3 -g 20 -x264opts open-gop=1",
            3,
        ),
        (
            "open.mp4",
            "-c:v libx264 -bf 3 -g 20 -x264opts open-gop=1",
            3,
        ),
        (
            "hevc.mp4",
            "-c:v libx265 -x265-params log-level=0:keyint=20:open-gop=1",
            3,
        ),
        (
            "fragments.mp4",
            "-c:v libx264 -bf 3 -g 20 -movflags frag_keyframe+empty_moov",
            3,
        ),
        ("video.flv", BFRAMES, 3),
        ("video.m2ts", BFRAMES, 3),
        ("video.y4m", "-c:v wrapped_avframe", 60),
        ("video.wmv", "-c:v wmv2 -g 15", 4),
        ("video.ivf", "-c:v libvpx -g 20", 3),
        (
            "nine.ivf",
            "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 20",
            3,
        ),
        ("intra.avi", "-c:v huffyuv -pix_fmt yuv422p", 60),
        ("ffv1.mkv", "-c:v ffv1 -g 12", 5),
    ];
    gst::init().unwrap();
    for (name, encoder, keys) in kinds {
        let scan = found(&made_by_ffmpeg(dir.path(), name, encoder));
        assert_eq!(
            (scan.pictures.len(), scan.key_frames()),
            (60, keys),
            "{name}"
        );
    }
}

/// Their packets have no times, so nothing is found by them, and that is said.
#[test]
fn files_without_times() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = [
        ("video.avi", BFRAMES),
        ("mpeg4.avi", "-c:v mpeg4 -bf 2 -g 20"),
        ("video.vob", "-c:v mpeg2video -bf 2 -g 15"),
        ("video.m2v", "-c:v mpeg2video -bf 2"),
        ("video.h264", BFRAMES),
    ];
    gst::init().unwrap();
    for (name, encoder) in kinds {
        let scan = scan(&made_by_ffmpeg(dir.path(), name, encoder), 0).unwrap();
        let trouble = scan.trouble();
        assert!(
            matches!(trouble, Some(Trouble::Untimed(_))),
            "{name}: {trouble:?}"
        );
    }
}

/// Of a file that ends in the middle, what is there is found; of one that begins in the middle, too, and that is said.
#[test]
fn parts_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let whole = made_by_ffmpeg(
        dir.path(),
        "whole.mp4",
        &format!("{BFRAMES} -movflags +faststart"),
    );
    let bytes = std::fs::read(whole).unwrap();
    let part = dir.path().join("part.mp4");
    std::fs::write(&part, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let scan = found(&part);
    assert!(
        (20..60).contains(&scan.pictures.len()),
        "{}",
        scan.pictures.len()
    );
    let whole = made_by_ffmpeg(dir.path(), "whole.ts", BFRAMES);
    let bytes = std::fs::read(whole).unwrap();
    let part = dir.path().join("part.ts");
    std::fs::write(&part, &bytes[bytes.len() / 188 / 4 * 188..]).unwrap();
    let scan = vtexport::scan::scan(&part, 0).unwrap();
    assert!(
        (20..60).contains(&scan.pictures.len()),
        "{}",
        scan.pictures.len()
    );
}

fn vtexport(arguments: &[&str], path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vtexport"))
        .arg("inspect")
        .args(arguments)
        .arg(path)
        .output()
        .unwrap()
}

#[test]
fn what_is_in_a_file_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("film.mkv");
    play(&format!(
        "matroskamux name=m ! filesink location={} \
         videotestsrc num-buffers=50 ! video/x-raw,width=320,height=240,framerate=24000/1001 ! {X264} ! m. \
         audiotestsrc num-buffers=90 ! audio/x-raw,rate=48000,channels=2 ! taginject tags=language-code=de ! opusenc ! m.",
        path.display()
    ));
    let output = vtexport(&[], &path);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    for part in [
        "film.mkv: Matroska, 2.0",
        "320x240, 23.976 frames/s",
        "50 frames from 0.000 to 2.0",
        "3 key frames, at most 0.834 s apart",
        "can be decoded in ranges",
        "audio     Opus, 48000 Hz, 2 channels",
        "; goes over as it is",
        "export    as mp4: x264enc",
        "in one pipeline: one encoder with threads of its own is as fast",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let output = vtexport(&["--json"], &path);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["video"][0]["frames"], 50);
    assert_eq!(report["video"][0]["key_frames"], 3);
    assert_eq!(report["audio"][0]["channels"], 2);
    assert_eq!(report["export"]["can"]["ending"], "mp4");
    let output = vtexport(&["-o", "a.webm", "--video", "h264"], &path);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("export    can't be done: webmmux takes no H.264"),
        "{said}"
    );
}

/// What can't be used is named, with an exit code that programs understand.
#[test]
fn what_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = dir.path().join("nothing.mp4");
    let empty = dir.path().join("empty.mp4");
    let text = dir.path().join("text.mp4");
    let sound = dir.path().join("sound.mkv");
    let film = made(dir.path(), "film.mp4", 10, &format!("{X264} ! mp4mux"));
    std::fs::write(&empty, "").unwrap();
    std::fs::write(&text, "This is no video.\n".repeat(100)).unwrap();
    play(&format!(
        "audiotestsrc num-buffers=10 ! opusenc ! matroskamux ! filesink location={}",
        sound.display()
    ));
    let cases: [(&Path, &[&str], &str); 6] = [
        (&nothing, &[], "can't be opened"),
        (dir.path(), &[], "is a directory"),
        (&empty, &[], "is empty"),
        (&text, &[], "isn't a video file"),
        (&sound, &[], "There is no video in"),
        (&film, &["--video-stream", "1"], "has 1 video streams"),
    ];
    for (path, arguments, part) in cases {
        let output = vtexport(arguments, path);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(65), "{}: {said}", path.display());
        assert!(said.contains(part), "{}: {said}", path.display());
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(output.stdout.is_empty());
    }
    let output = Command::new(env!("CARGO_BIN_EXE_vtexport"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
