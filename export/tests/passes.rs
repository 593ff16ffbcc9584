// SPDX-License-Identifier: MPL-2.0

//! Two passes over chunks, and outputs that may be no larger than a size.

mod common;

use common::command::{done, fails, made_of, names, packets, vtexport};
use common::play;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const X264: &str = "x264enc speed-preset=superfast bitrate=200";
const X265: &str = "x265enc speed-preset=ultrafast bitrate=200";
const VP8: &str = "vp8enc deadline=1000000 cpu-used=5 target-bitrate=200000";
const VP9: &str = "vp9enc deadline=1000000 cpu-used=8 target-bitrate=200000";

/// A film with sound, whose first part is easy and whose second one is hard to encode.
fn film(dir: &Path) -> PathBuf {
    gst::init().unwrap();
    let video = "video/x-raw,format=I420,width=320,height=240,framerate=25/1";
    let path = dir.join("film.mkv");
    play(&format!(
        "concat name=c ! videoconvert ! x264enc speed-preset=ultrafast pass=quant quantizer=12 key-int-max=25 ! h264parse ! matroskamux name=m ! \
         filesink location={} \
         videotestsrc num-buffers=150 pattern=ball ! {video} ! c. \
         videotestsrc num-buffers=150 pattern=zone-plate kx2=10 ky2=10 kt=4 ! {video} ! c. \
         audiotestsrc num-buffers=300 samplesperbuffer=1920 ! audio/x-raw,rate=48000,channels=2 ! opusenc bitrate=32000 ! m.",
        path.display()
    ));
    path
}

/// Bits per second of the picture.
fn bitrate(file: &Path) -> u64 {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v", "-of", "csv=p=0"])
        .args(["-show_entries", "packet=size"])
        .arg(file)
        .output()
        .unwrap();
    let sizes = String::from_utf8(output.stdout).unwrap();
    let sizes = sizes.lines().map(|line| line.trim_matches(','));
    let bytes: u64 = sizes.map(|size| size.parse::<u64>().unwrap()).sum();
    bytes * 8 / 12
}

#[test]
fn the_bitrate_is_kept_and_the_bytes_depend_on_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let film = film(dir);
    for (encoder, output, tolerance) in [
        (X264, "out.mp4", 0.1),
        (X265, "out.mkv", 0.1),
        (VP8, "out.webm", 0.2),
        (VP9, "out.webm", 0.2),
    ] {
        let made = |jobs: &str| {
            let options = [
                "--multi-pass",
                "--chunk-frames",
                "100",
                "--threads",
                "1",
                "--jobs",
                jobs,
                "--video",
                encoder,
            ];
            made_of(dir, &film, output, &options)
        };
        let path = made("1");
        let (one, rate) = (packets(&path, "v"), bitrate(&path));
        assert_eq!(one.len(), 300, "{encoder}");
        assert!(
            (rate as f64 / 200_000.0 - 1.0).abs() < tolerance,
            "{encoder}: {rate}"
        );
        assert!(packets(&made("3"), "v") == one, "{encoder}");
    }
}

#[test]
fn both_passes_can_be_made_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let film = film(dir);
    let film = film.to_str().unwrap();
    let options = [
        "--multi-pass",
        "--chunk-frames",
        "100",
        "--threads",
        "1",
        "--video",
        // (Which keeps to its bitrate at once.)
        "vp8enc deadline=1000000 cpu-used=5 target-bitrate=300000",
    ];
    let by_hand = dir.join("by-hand");
    std::fs::create_dir(&by_hand).unwrap();
    let plan = "by-hand/plan.json";
    done(
        dir,
        &[&["plan", film, "-o", "a.mkv", "--plan", plan][..], &options].concat(),
    );
    let said = fails(dir, &["chunk", plan, "--index", "1"], 75);
    assert!(said.contains("--index 0 --first-pass"), "{said}");
    for index in ["2", "0", "1"] {
        done(dir, &["chunk", plan, "--index", index, "--first-pass"]);
    }
    let said = done(dir, &["status", plan]);
    assert!(
        said.starts_with("3 first passes are made, 0 of 3 chunks"),
        "{said}"
    );
    for index in ["1", "2", "0"] {
        done(dir, &["chunk", plan, "--index", index]);
    }
    // What the first pass wrote was changed: it is made again, and the same.
    std::fs::write(by_hand.join("passes/000001"), "nonsense").unwrap();
    std::fs::remove_file(by_hand.join("records/000001.json")).unwrap();
    let said = fails(dir, &["chunk", plan, "--index", "1"], 75);
    assert!(said.contains("--index 1 --first-pass"), "{said}");
    done(dir, &["chunk", plan, "--index", "1", "--first-pass"]);
    done(dir, &["chunk", plan, "--index", "1"]);
    done(dir, &["join", plan, "-o", "a.mkv"]);
    let expected = [&[film, "-o", "b.mkv", "--quiet"][..], &options].concat();
    done(dir, &expected);
    assert!(packets(&dir.join("a.mkv"), "v") == packets(&dir.join("b.mkv"), "v"));
    assert_eq!(packets(&dir.join("a.mkv"), "v").len(), 300);
}

#[test]
fn an_output_is_never_larger_than_it_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let film = film(dir);
    for (output, encoder, limit) in [
        ("a.mp4", Some("x264enc speed-preset=superfast"), 400_000),
        (
            "a.webm",
            Some("vp8enc deadline=1000000 cpu-used=5"),
            300_000,
        ),
        ("a.mkv", None, 250_000),
        // (Its sound is encoded anew.)
        ("a.ts", Some("x265enc speed-preset=ultrafast"), 600_000),
    ] {
        // (In one chunk, too, which is corrected alone.)
        let lengths = if output == "a.mp4" {
            &["75", "300"][..]
        } else {
            &["75"]
        };
        for chunks in lengths.iter().copied() {
            let limit_text = limit.to_string();
            let mut options = vec!["--file-length-limit", &limit_text, "--chunk-frames", chunks];
            options.extend(
                encoder
                    .map(|encoder| ["--video", encoder])
                    .into_iter()
                    .flatten(),
            );
            if output == "a.ts" {
                options.extend(["--audio", "avenc_aac bitrate=64000"]);
            }
            let bytes = made_of(dir, &film, output, &options)
                .metadata()
                .unwrap()
                .len();
            let part = bytes as f64 / limit as f64;
            assert!(
                (0.9..=1.0).contains(&part),
                "{output} in chunks of {chunks}: {bytes}"
            );
        }
    }
    // A bitrate that was asked for isn't passed.
    let options = ["--file-length-limit", "10MB", "--video", X264];
    let path = made_of(dir, &film, "b.mp4", &options);
    assert!(
        (180_000..220_000).contains(&bitrate(&path)),
        "{}",
        bitrate(&path)
    );
}

#[test]
fn what_cant_be_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let film = film(dir);
    let film = film.to_str().unwrap();
    let fails = |more: &[&str], code: i32| {
        let said = fails(dir, &[&[film, "-o", "out.mkv"][..], more].concat(), code);
        assert_eq!(names(dir), ["film.mkv"], "{more:?}: {said}");
        said
    };
    for (options, code, expected) in [
        (&["--multi-pass"][..], 2, "need a bitrate"),
        (
            &["--multi-pass", "--video", "jpegenc"],
            2,
            "can't be told of two passes",
        ),
        (
            &["--multi-pass", "--video", "x264enc pass=qual"],
            2,
            "leave the quality out",
        ),
        (
            &[
                "--multi-pass",
                "--video",
                "vp9enc deadline=1 target-bitrate=100000",
            ],
            2,
            "one pass only",
        ),
        (
            &[
                "--multi-pass",
                "--video",
                "x264enc bitrate=100 vbv-buf-capacity=500",
            ],
            2,
            "VBV",
        ),
        (&["--file-length-limit", "much"], 2, "sizes end with"),
        (
            &[
                "--file-length-limit",
                "40kB",
                "--video",
                "x264enc speed-preset=ultrafast",
            ],
            2,
            "with the fewest bits that the encoder takes it has ",
        ),
    ] {
        let said = fails(options, code);
        assert!(said.contains(expected), "{options:?}: {said}");
    }
}

/// By Ctrl-C, or by who can't be caught.
fn resumes(signal: &str) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let film = film(dir);
    let arguments = [
        film.to_str().unwrap(),
        "-o",
        "out.mp4",
        "--multi-pass",
        "--video",
        X264,
    ];
    let arguments = [
        &arguments[..],
        &["--chunk-frames", "30", "--jobs", "1", "--json"],
    ]
    .concat();
    let passes = dir.join("out.mp4.vtexport/passes");
    let made = || {
        let files = std::fs::read_dir(&passes).into_iter().flatten().flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        names.filter(|name| name.ends_with(".json")).count()
    };
    let mut command = vtexport(dir, &arguments);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while made() < 3 {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ends before it is killed"
        );
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let pid = child.id().to_string();
    let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
    assert!(sent.success());
    child.wait().unwrap();
    let kept = made();
    assert!((3..10).contains(&kept), "{kept}");
    let said = done(dir, &arguments);
    assert!(said.contains("of 10 chunks are there already"), "{said}");
    let resumed = packets(&dir.join("out.mp4"), "v");
    let fresh = made_of(dir, &film, "fresh.mp4", &arguments[3..10]);
    assert!(resumed == packets(&fresh, "v"));
}

#[test]
fn what_was_made_of_the_first_pass_is_taken_over() {
    resumes("-KILL");
    resumes("-INT");
}

#[test]
fn a_first_pass_that_was_damaged_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let film = film(dir);
    let options = [
        "--multi-pass",
        "--chunk-frames",
        "100",
        "--threads",
        "1",
        "--video",
        X265,
    ];
    let expected = packets(&made_of(dir, &film, "expected.mkv", &options), "v");
    let arguments = [
        &[film.to_str().unwrap(), "-o", "a.mkv", "--quiet"][..],
        &options,
    ]
    .concat();
    let folder = dir.join("a.mkv.vtexport");
    let mut child = vtexport(dir, &arguments).spawn().unwrap();
    let records =
        || std::fs::read_dir(folder.join("records")).is_ok_and(|mut it| it.next().is_some());
    while !records() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for index in ["000001", "000002"] {
        std::fs::write(folder.join("passes").join(index), "damaged").unwrap();
    }
    done(dir, &arguments);
    assert!(packets(&dir.join("a.mkv"), "v") == expected);
    assert!(!dir.join("a.mkv.part").exists() && !folder.exists());
}

#[test]
fn more_than_any_encoder_takes_may_be_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let film = film(dir);
    for (output, encoder) in [("a.mkv", "x264enc speed-preset=ultrafast"), ("a.webm", VP8)] {
        let options = ["--file-length-limit", "900GB", "--video", encoder];
        assert_eq!(
            packets(&made_of(dir, &film, output, &options), "v").len(),
            300
        );
    }
}
