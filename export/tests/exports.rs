// SPDX-License-Identifier: MPL-2.0

//! The command, as people run it: what it makes is what the element makes, whatever happens on the way.

mod common;

use common::command::{done, fails, made_of, names, packets, vtexport};
use common::{X264, made, made_by_ffmpeg, play};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const FAST: &str = "x264enc pass=qual quantizer=30 vbv-buf-capacity=0 speed-preset=ultrafast";

/// What the element makes of a file in one pipeline.
fn by_the_element(source: &Path, encoder: &str, chunk_frames: u32, then: &str, to: &Path) {
    use std::sync::Once;
    static ONCE: Once = Once::new();
    gst::init().unwrap();
    ONCE.call_once(|| vtparallelenc::plugin_register_static().unwrap());
    play(&format!(
        "filesrc location={} ! decodebin ! video/x-raw ! videoconvert ! \
         vtparallelenc sessions=2 threads-per-session=1 chunk-frames={chunk_frames} encoder=\"{encoder}\" ! {then} ! filesink location={}",
        source.display(),
        to.display()
    ));
}

#[test]
fn the_picture_is_that_of_the_element_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    gst::init().unwrap();
    let mp4 = made(dir, "source.mp4", 100, &format!("{X264} ! mp4mux"));
    let mkv = made(dir, "source.mkv", 100, &format!("{X264} ! matroskamux"));
    let varying = made_by_ffmpeg(
        dir,
        "varying.mkv",
        "-vf select='mod(n\\,5)' -fps_mode vfr -c:v libx264 -bf 2 -g 15",
    );
    let (x265, vp8) = (
        "x265enc speed-preset=ultrafast",
        "vp8enc deadline=1000000 cpu-used=5 end-usage=cq cq-level=20",
    );
    for (source, encoder, output, then) in [
        (&mp4, FAST, "out.mp4", "h264parse ! mp4mux"),
        (&mp4, FAST, "out.mkv", "h264parse ! matroskamux"),
        (&mkv, FAST, "out.mov", "h264parse ! qtmux"),
        (&mp4, FAST, "out.ts", "h264parse ! mpegtsmux"),
        (&mkv, x265, "out.mp4", "h265parse ! mp4mux"),
        (&mp4, vp8, "out.webm", "webmmux"),
        (&varying, FAST, "out.mp4", "h264parse ! mp4mux"),
        (&varying, vp8, "out.webm", "webmmux"),
    ] {
        let what = format!("{} with {encoder}, as {output}", source.display());
        let length = ["--chunk-frames", "30", "--threads", "1", "--video", encoder];
        let reference = dir.join(format!("reference.{output}"));
        by_the_element(source, encoder, 30, then, &reference);
        let expected = packets(&reference, "v");
        assert!(expected.len() > 40, "{what}");
        for jobs in ["1", "3"] {
            let length = [&length[..], &["--jobs", jobs]].concat();
            let made = made_of(dir, source, output, &length);
            let made = packets(&made, "v");
            assert_eq!(made.len(), expected.len(), "{what}");
            for (number, (made, expected)) in made.iter().zip(&expected).enumerate() {
                assert_eq!(made, expected, "{what}: packet {number}");
            }
        }
    }
}

/// A film with sound, of two minutes at a size that takes a moment.
fn film(dir: &Path, frames: u32) -> PathBuf {
    let path = dir.join("film.mp4");
    gst::init().unwrap();
    play(&format!(
        "videotestsrc num-buffers={frames} pattern=ball ! video/x-raw,width=320,height=240,framerate=25/1 ! {X264} ! mp4mux name=m ! \
         filesink location={} audiotestsrc num-buffers={} samplesperbuffer=1920 ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! \
         aacparse ! m.",
        path.display(),
        frames
    ));
    path
}

#[test]
fn sound_goes_over_as_it_is_or_encoded_anew_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let film = film(dir, 100);
    let quick = ["--chunk-frames", "40", "--video", FAST];
    let sound = |path: &Path| {
        let hashes = packets(path, "a");
        hashes
            .iter()
            .map(|it| it.split(',').next_back().unwrap().to_string())
            .collect::<Vec<_>>()
    };
    let (expected, copied) = (sound(&film), sound(&made_of(dir, &film, "a.mp4", &quick)));
    assert!(copied.len() > 80);
    assert_eq!(copied, expected);
    assert_eq!(sound(&made_of(dir, &film, "a.mkv", &quick)), expected);
    // In a stream that needs another framing.
    assert_eq!(
        sound(&made_of(dir, &film, "a.ts", &quick)).len(),
        expected.len()
    );
    let none = [&quick[..], &["--audio", "none"]].concat();
    assert_eq!(packets(&made_of(dir, &film, "a.mp4", &none), "a").len(), 0);
    let vp8 = [
        "--chunk-frames",
        "40",
        "--video",
        "vp8enc deadline=1 cpu-used=8",
    ];
    let said = done(
        dir,
        &[&[film.to_str().unwrap(), "-o", "a.webm"][..], &vp8].concat(),
    );
    assert!(said.contains("is encoded anew with opusenc"), "{said}");
    assert!(packets(&dir.join("a.webm"), "a").len() > 80);
    let vorbis = [&quick[..], &["--audio", "vorbisenc"]].concat();
    assert!(packets(&made_of(dir, &film, "b.mkv", &vorbis), "a").len() > 20);
}

#[test]
fn what_doesnt_go_in_ranges_is_encoded_in_one() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    gst::init().unwrap();
    let raw = made(
        dir,
        "source.h264",
        60,
        &format!("{X264} ! video/x-h264,stream-format=byte-stream"),
    );
    let mp4 = made(dir, "source.mp4", 60, &format!("{X264} ! mp4mux"));
    let vbv = "x264enc bitrate=300 vbv-buf-capacity=300 speed-preset=ultrafast";
    for (source, arguments, reason) in [
        (&raw, &["--video", FAST][..], "no range of the source"),
        (
            &mp4,
            &["--video", vbv, "--chunk-frames", "30"],
            "decoder's buffer",
        ),
        (&mp4, &["--video", FAST, "--no-parallel"], "--no-parallel"),
    ] {
        let said = done(
            dir,
            &[
                &[source.to_str().unwrap(), "-o", "a.mp4", "--overwrite"][..],
                arguments,
            ]
            .concat(),
        );
        assert!(said.contains(reason), "{said}");
        assert_eq!(packets(&dir.join("a.mp4"), "v").len(), 60, "{reason}");
    }
}

/// Waits until it is so.
fn until(what: &str, child: &mut Child, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(60), "in vain: {what}");
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn records(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("records")).map_or(0, |files| {
        files
            .flatten()
            .filter(|file| file.path().extension().is_some_and(|it| it == "json"))
            .count()
    })
}

/// Processes that encode a chunk of this directory's plan.
fn jobs(dir: &Path) -> Vec<i32> {
    let plan = dir.join("a.mp4.vtexport/plan.json");
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter(|id| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let directory = std::fs::read_link(format!("/proc/{id}/cwd"));
        line.contains("--attended") && directory.is_ok_and(|it| plan.starts_with(it))
    })
    .collect()
}

/// `false`: it had ended.
fn kill(id: i32) -> bool {
    let kill = Command::new("kill").args(["-9", &id.to_string()]).output();
    kill.unwrap().status.success()
}

const SLOW: [&str; 8] = [
    "--chunk-frames",
    "60",
    "--jobs",
    "2",
    "--threads",
    "1",
    "--video",
    "x264enc pass=qual quantizer=30 vbv-buf-capacity=0 speed-preset=slow",
];

#[test]
fn a_killed_job_costs_an_attempt_and_a_killed_command_what_was_in_work() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let film = film(dir, 600);
    let expected = packets(&made_of(dir, &film, "expected.mp4", &SLOW), "v");
    assert_eq!(expected.len(), 600);
    let folder = dir.join("a.mp4.vtexport");
    let arguments = [&[film.to_str().unwrap(), "-o", "a.mp4"][..], &SLOW].concat();
    let start = || {
        let mut command = vtexport(dir, &arguments);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };

    // A job.
    let mut command = start();
    until("a job", &mut command, || {
        jobs(dir).into_iter().take(1).any(kill)
    });
    until("a chunk", &mut command, || records(&folder) > 1);

    // The command itself. Its jobs end with it.
    command.kill().unwrap();
    let ended = command.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(said.contains("was ended by signal 9"), "{said}");
    let since = Instant::now();
    while !jobs(dir).is_empty() {
        assert!(since.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!dir.join("a.mp4").exists());
    let there = records(&folder);
    assert!((1..10).contains(&there), "{there}");

    // Two at once would get in each other's way.
    let mut command = start();
    until("a job", &mut command, || !jobs(dir).is_empty());
    let said = fails(dir, &arguments, 75);
    assert!(said.contains("another vtexport is at work"), "{said}");

    // Ctrl-C.
    until("another chunk", &mut command, || records(&folder) > there);
    let interrupted = Command::new("kill")
        .args(["-INT", &command.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupted.success());
    let ended = command.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(75), "{said}");
    assert!(said.contains("the same command goes on"), "{said}");
    assert!(
        said.contains(&format!("{there} of 10 chunks are there")),
        "{said}"
    );

    // What is damaged is made again.
    let file = std::fs::read_dir(folder.join("records"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(&file, "{}").unwrap();
    let ended = start().wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(packets(&dir.join("a.mp4"), "v"), expected);
    assert!(!folder.exists());
}

#[test]
fn steps_can_be_taken_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let film = film(dir, 100);
    let film = film.to_str().unwrap();
    let quick = ["--chunk-frames", "40", "--threads", "1", "--video", FAST];
    let expected = packets(&made_of(dir, Path::new(film), "expected.mp4", &quick), "v");
    let said = done(
        dir,
        &[
            &["plan", film, "-o", "a.mp4", "--plan", "work/plan.json"][..],
            &quick,
        ]
        .concat(),
    );
    assert!(said.contains("100 frames in 3 chunks"), "{said}");
    let plan = "work/plan.json";
    let said = fails(dir, &["join", plan, "-o", "a.mp4"], 75);
    assert!(said.contains("chunk 0 isn't encoded"), "{said}");
    assert!(!dir.join("a.mp4").exists() && !dir.join("a.mp4.part").exists());
    // Two at once at the same chunk, and in any order.
    let both: Vec<_> = (0..2)
        .map(|_| {
            vtexport(dir, &["chunk", plan, "--index", "2"])
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut one in both {
        assert!(one.wait().unwrap().success());
    }
    let said = done(dir, &["status", plan]);
    assert!(
        said.contains("1 of 3 chunks are done") && said.contains("missing: 0 1"),
        "{said}"
    );
    assert_eq!(done(dir, &["status", plan, "--missing"]), "0\n1\n");
    for index in ["1", "0"] {
        done(dir, &["chunk", plan, "--index", index]);
    }
    assert_eq!(done(dir, &["status", plan, "--missing"]), "");
    let status: serde_json::Value =
        serde_json::from_str(&done(dir, &["status", plan, "--json"])).unwrap();
    assert_eq!(status["done"], serde_json::json!([0, 1, 2]));
    done(dir, &["join", plan, "-o", "a.mp4"]);
    assert_eq!(packets(&dir.join("a.mp4"), "v"), expected);
    let said = fails(dir, &["chunk", plan, "--index", "3"], 2);
    assert!(said.contains("no chunk 3: the plan has 3"), "{said}");

    // Another encoder's chunk takes nobody's place: the damaged file is made again.
    let kept = std::fs::read_dir(dir.join("work/chunks"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(&kept, "no chunk").unwrap();
    let said = fails(dir, &["join", plan, "-o", "b.mp4"], 75);
    assert!(said.contains("isn't kept"), "{said}");
    assert!(!dir.join("b.mp4").exists());
    let said = done(dir, &["status", plan]);
    assert!(said.contains("2 of 3 chunks are done"), "{said}");

    // The source is another.
    std::fs::write(film, "another").unwrap();
    let said = fails(dir, &["chunk", plan, "--index", "0"], 65);
    assert!(said.contains("isn't the file any more"), "{said}");
    // The plan is another.
    let text = std::fs::read_to_string(dir.join(plan)).unwrap();
    std::fs::write(dir.join(plan), text.replace("\"before\":", "\"before\":1")).unwrap();
    let said = fails(dir, &["status", plan], 2);
    assert!(said.contains("changed by hand"), "{said}");
}

#[test]
fn machines_that_see_the_source_elsewhere_work_at_the_same_plan() {
    let dir = tempfile::tempdir().unwrap();
    let [here, there, work] = ["here", "there", "work"].map(|name| dir.path().join(name));
    for dir in [here.join("films"), there.join("films"), work.clone()] {
        std::fs::create_dir_all(dir).unwrap();
    }
    let film = film(&here.join("films"), 100);
    std::fs::copy(&film, there.join("films/film.mp4")).unwrap();
    let quick = ["--chunk-frames", "40", "--threads", "1", "--video", FAST];
    let expected = packets(&made_of(dir.path(), &film, "expected.mp4", &quick), "v");
    let plan = [
        "plan",
        film.to_str().unwrap(),
        "-o",
        "a.mp4",
        "--full-digest",
    ];
    let root = ["--source-root", here.to_str().unwrap()];
    done(&work, &[&plan[..], &root, &quick].concat());
    // Whoever doesn't know where it is hears that.
    std::fs::remove_dir_all(&here).unwrap();
    let said = fails(&work, &["chunk", "plan.json", "--index", "0"], 2);
    assert!(
        said.contains("films/film.mp4, below a directory that --source-root"),
        "{said}"
    );
    let variables = [
        "SLURM_ARRAY_TASK_ID",
        "JOB_COMPLETION_INDEX",
        "AWS_BATCH_JOB_ARRAY_INDEX",
    ];
    for (index, variable) in variables.iter().enumerate() {
        let mut chunk = vtexport(&work, &["chunk", "plan.json"]);
        chunk.env("VTEXPORT_SOURCE_ROOT", &there);
        let output = chunk.env(variable, index.to_string()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.starts_with(&format!("chunk {index}: ")), "{output:?}");
    }
    let said = fails(&work, &["chunk", "plan.json"], 2);
    assert!(
        said.contains("--source-root") || said.contains("which chunk?"),
        "{said}"
    );
    let join = [
        "join",
        "plan.json",
        "-o",
        "a.mp4",
        "--source-root",
        there.to_str().unwrap(),
    ];
    done(&work, &join);
    assert!(packets(&work.join("a.mp4"), "v") == expected);
    let outside = [
        &["plan", "a.mp4", "-o", "b.mp4"][..],
        &["--source-root", "/usr"],
    ]
    .concat();
    let said = fails(&work, &outside, 2);
    assert!(said.contains("isn't below /usr"), "{said}");
}

#[test]
fn bad_input_is_named_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let film = film(dir, 30);
    let film = film.to_str().unwrap();
    std::fs::write(dir.join("text.mp4"), "this is no film, and was never one").unwrap();
    std::fs::write(dir.join("empty.mp4"), "").unwrap();
    std::fs::write(dir.join("there.mp4"), "mine").unwrap();
    std::fs::create_dir(dir.join("folder.mp4")).unwrap();
    let before = names(dir);
    for (arguments, code, says) in [
        (&["nothing.mp4", "-o", "a.mp4"][..], 65, "can't be opened"),
        (&["folder.mp4", "-o", "a.mp4"], 65, "is a directory"),
        (&["text.mp4", "-o", "a.mp4"], 65, "isn't a video file"),
        (&["empty.mp4", "-o", "a.mp4"], 65, "is empty"),
        (&[film, "-o", "there.mp4"], 2, "--overwrite replaces it"),
        (
            &[film, "-o", film, "--overwrite"],
            2,
            "is the source itself",
        ),
        (
            &[film, "-o", "folder.mp4", "--overwrite"],
            2,
            "is a directory",
        ),
        (&[film, "-o", "a.xyz"], 2, "doesn't end with a type"),
        (&[film, "-o", "no/where/a.mp4"], 2, "isn't a directory"),
        (&[film], 2, "-o film.mp4"),
        (&["-o", "a.mp4"], 2, "which file"),
        (
            &[film, "-o", "a.mp4", "--video", "nosuchenc"],
            78,
            "nosuchenc",
        ),
        (
            &[film, "-o", "a.mp4", "--video", "x264enc nosuch=1"],
            78,
            "nosuch",
        ),
        (
            &[film, "-o", "a.webm", "--video", FAST],
            78,
            "takes no H.264",
        ),
        (
            &[film, "-o", "a.mp4", "--video-stream", "1"],
            65,
            "1 video streams",
        ),
        (
            &[film, "-o", "a.mp4", "--audio", "nosuchenc", "--video", FAST],
            1,
            "nosuchenc",
        ),
        (&[film, "-o", "a.mp4", "--jobs", "0"], 2, "--jobs"),
        (
            &[film, "-o", "a.mp4", "--time-range", "9..8"],
            2,
            "ends before it begins",
        ),
        (
            &[film, "-o", "a.mp4", "--time-range", "90..91"],
            2,
            "are from 0.000 to 1.160 s",
        ),
        (&[film, "-o", "a.mp4", "--json", "--quiet"], 2, "--quiet"),
        (&["status", "nothing.json"], 2, "can't be read"),
        (&["status", "text.mp4"], 2, "is no plan"),
    ] {
        let said = fails(dir, arguments, code);
        assert!(said.contains(says), "{arguments:?}: {said}");
        assert_eq!(names(dir), before, "{arguments:?}");
    }
    assert_eq!(std::fs::read(dir.join("there.mp4")).unwrap(), b"mine");
}

#[test]
fn programs_hear_of_it_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let film = film(dir, 300);
    let said = done(
        dir,
        &[
            &[film.to_str().unwrap(), "-o", "a.mp4", "--json"][..],
            &SLOW,
        ]
        .concat(),
    );
    let lines: Vec<serde_json::Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let done = lines.last().unwrap();
    assert_eq!(done["event"], "done");
    assert_eq!(done["summary"]["frames"], 300);
    assert!(done["summary"]["bytes"].as_u64().unwrap() > 1000);
    let progress = lines.iter().filter(|line| line["event"] == "progress");
    let fractions: Vec<f64> = progress
        .map(|it| it["progress"]["fraction"].as_f64().unwrap())
        .collect();
    assert!(
        fractions.is_sorted() && fractions.iter().all(|it| (0.0..=1.0).contains(it)),
        "{fractions:?}"
    );
}

#[test]
fn help_manual_and_completions_come_of_one_definition() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let help = done(dir, &["--help"]);
    for word in [
        "--video",
        "--audio",
        "Exit codes",
        "Examples",
        "inspect",
        "chunk",
    ] {
        assert!(help.contains(word), "{word}: {help}");
    }
    assert!(!help.contains("attended"));
    let man = done(dir, &["man"]);
    assert!(
        man.contains(".TH vtexport") && man.contains("optimize"),
        "{man}"
    );
    for shell in ["bash", "zsh", "fish"] {
        assert!(done(dir, &["completions", shell]).contains("vtexport"));
    }
}

/// What is there of a film that was cut off is exported.
#[test]
fn a_truncated_film_is_exported_with_an_error_unless_that_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    gst::init().unwrap();
    let whole = made(dir, "whole.mkv", 200, &format!("{X264} ! matroskamux"));
    let bytes = std::fs::read(&whole).unwrap();
    std::fs::write(dir.join("half.mkv"), &bytes[..bytes.len() / 2]).unwrap();
    let quick = [
        "-o",
        "a.mp4",
        "--overwrite",
        "--chunk-frames",
        "40",
        "--video",
        FAST,
    ];
    done(dir, &[&["whole.mkv"][..], &quick].concat());
    assert_eq!(packets(&dir.join("a.mp4"), "v").len(), 200);
    let said = fails(dir, &[&["half.mkv"][..], &quick].concat(), 1);
    assert!(said.contains("is truncated"), "{said}");
    let frames = packets(&dir.join("a.mp4"), "v").len();
    assert!((50..150).contains(&frames), "{frames}");
    done(
        dir,
        &[&["half.mkv", "--allow-truncated"][..], &quick].concat(),
    );
    assert_eq!(packets(&dir.join("a.mp4"), "v").len(), frames);
}

/// What is said goes where there is no space for it: what is done and the exit code are as elsewhere.
#[test]
#[cfg(target_os = "linux")]
fn nobody_has_to_read_what_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let film = film(dir, 60);
    let full = || std::fs::File::create("/dev/full").unwrap();
    let code = |arguments: &[&str]| {
        let mut command = vtexport(dir, arguments);
        command
            .stdout(full())
            .stderr(full())
            .status()
            .unwrap()
            .code()
    };
    assert_eq!(code(&["nosuch.mp4", "-o", "a.mp4"]), Some(65));
    let film = film.to_str().unwrap();
    let quick = ["--chunk-frames", "20", "--threads", "1", "--video", FAST];
    assert_eq!(
        code(&[&[film, "-o", "a.mp4"], &quick[..]].concat()),
        Some(0)
    );
    let planned = [
        &["plan", film, "-o", "b.mp4", "--plan", "work/plan.json"],
        &quick[..],
    ];
    assert_eq!(code(&planned.concat()), Some(0));
    let chunk = ["chunk", "work/plan.json", "--json", "--index"];
    assert_eq!(code(&[&chunk[..], &["0"]].concat()), Some(0));
    assert_eq!(code(&[&chunk[..], &["9"]].concat()), Some(2));
}

/// What a worker of Dask offers is the same each time, and is one of this encoder.
#[test]
fn tags_tell_encoders_apart() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let both = done(dir, &["tag", "x264enc", "vp8enc", "--jobs", "3"]);
    let both: Vec<&str> = both.split_whitespace().collect();
    assert_eq!(both.len(), 2);
    for (tag, name) in both.iter().zip(["vtexport-vp8enc-", "vtexport-x264enc-"]) {
        assert!(tag.starts_with(name) && tag.ends_with("=3"), "{tag}");
        let alone = tag.replace("=3", "=1");
        let all = done(dir, &["tag"]);
        assert!(all.split_whitespace().any(|it| it == alone), "{all}");
    }
    let said = fails(dir, &["tag", "nosuchenc"], 78);
    assert!(said.contains("nosuchenc"), "{said}");
    let said = fails(dir, &["tag", "identity"], 2);
    assert!(said.contains("no video encoder"), "{said}");
}

/// Each line of the documents that runs the command.
#[test]
fn what_the_documents_say_runs() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    gst::init().unwrap();
    made(dir, "film.mov", 300, &format!("{X264} ! qtmux"));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/export.md");
    let text = std::fs::read_to_string(page).unwrap();
    let mut ran = 0;
    for line in text.lines().filter(|line| line.starts_with("vtexport ")) {
        let output = Command::new("sh")
            .args([
                "-euc",
                &format!("vtexport() {{ \"$VTEXPORT\" \"$@\"; }}; {line}"),
            ])
            .env("VTEXPORT", env!("CARGO_BIN_EXE_vtexport"))
            .current_dir(dir)
            .output()
            .unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        ran += 1;
    }
    assert!(ran >= 7, "{ran}");
}

/// Ctrl-C when some chunks are done: they are a film.
#[test]
fn what_is_done_becomes_a_film_if_asked() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let film = film(dir, 600);
    let whole = packets(&made_of(dir, &film, "whole.mp4", &SLOW), "v");
    let folder = dir.join("a.mp4.vtexport");
    let arguments = [
        &[
            film.to_str().unwrap(),
            "-o",
            "a.mp4",
            "--overwrite",
            "--keep-partial",
        ][..],
        &SLOW,
    ]
    .concat();
    let ended = ended_after(dir, &arguments, || records(&folder) > 1);
    assert!(ended.contains("frames are in a.mp4"), "{ended}");
    let part = packets(&dir.join("a.mp4"), "v");
    assert!(
        part.len() >= 60 && part.len() < 600 && part.len().is_multiple_of(60),
        "{}",
        part.len()
    );
    let hashes = |packets: &[String]| {
        let hashes = packets
            .iter()
            .map(|it| it.split(',').next_back().unwrap().to_string());
        hashes.collect::<Vec<_>>()
    };
    assert_eq!(hashes(&part), hashes(&whole)[..part.len()]);
    // As much sound as picture, and 48000 / 1024 packets in a second of 25 frames.
    let sound = packets(&dir.join("a.mp4"), "a").len();
    let expected = part.len() * 48_000 / 1_024 / 25;
    assert!(sound.abs_diff(expected) < 5, "{sound} {expected}");
    // It goes on.
    done(dir, &arguments);
    assert_eq!(packets(&dir.join("a.mp4"), "v"), whole);

    // In one pipeline.
    let arguments = [&arguments[..], &["--no-parallel"]].concat();
    let since = Instant::now();
    let ended = ended_after(dir, &arguments, || {
        since.elapsed() > Duration::from_millis(700)
    });
    assert!(ended.contains("frames are in a.mp4"), "{ended}");
    let part = packets(&dir.join("a.mp4"), "v").len();
    assert!((1..600).contains(&part), "{part}");
}

/// Ctrl-C as soon as it is so; what it said.
fn ended_after(dir: &Path, arguments: &[&str], is_so: impl Fn() -> bool) -> String {
    let mut command = vtexport(dir, arguments);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut command = command.spawn().unwrap();
    until("ending", &mut command, is_so);
    let interrupt = ["-INT", &command.id().to_string()];
    assert!(
        Command::new("kill")
            .args(interrupt)
            .status()
            .unwrap()
            .success()
    );
    let ended = command.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(75), "{said}");
    said
}

/// A part of a film is what its own frames make, and no other.
#[test]
fn a_time_range_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let film = film(dir, 300);
    let decoded = |path: &Path| common::decoded(path);
    let whole = decoded(&film);
    let lossless = "x264enc pass=quant quantizer=0 speed-preset=ultrafast vbv-buf-capacity=0";
    for (range, frames) in [("2..6.4", 50..160), ("..1", 0..25), ("0:00:10..", 250..300)] {
        for more in [&["--chunk-frames", "40"][..], &["--no-parallel"]] {
            let arguments = [
                &[
                    "--video",
                    lossless,
                    "--audio",
                    "avenc_aac",
                    "--time-range",
                    range,
                ],
                more,
            ]
            .concat();
            let part = made_of(dir, &film, "part.mp4", &arguments);
            let expected = &whole[frames.clone()];
            let made = decoded(&part);
            assert_eq!(made.len(), frames.len(), "{arguments:?}");
            for (number, (made, expected)) in made.iter().zip(expected).enumerate() {
                assert_eq!(made.1, expected.1, "frame {number} of {arguments:?}");
                let time = expected.0 - frames.start as u64 * 40_000_000;
                assert!(made.0.abs_diff(time) < 2_000_000, "{number}");
            }
        }
    }
}

/// What is said of a file and its streams, as an independent program reads it.
fn described(file: &Path) -> String {
    let entries = "stream=codec_type,pix_fmt,color_transfer,color_primaries,color_space,sample_aspect_ratio,field_order:\
                   stream_tags=language:format_tags=title,artist:chapter_tags=title:frame_side_data=side_data_type";
    let output = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-show_chapters",
            "-show_frames",
            "-read_intervals",
            "%+#1",
        ])
        .args(["-show_entries", entries, "-of", "json"])
        .arg(file)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_time_code_goes_over_or_is_said_to_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Where minutes lack two numbers.
    let film = made_by_ffmpeg(
        dir,
        "film.mov",
        "-r 30000/1001 -c:v libx264 -timecode 00:00:59;28",
    );
    let code = |file: &Path| {
        let output = Command::new("ffprobe")
            .args(["-v", "error", "-select_streams", "v", "-of", "csv=p=0"])
            .args(["-show_entries", "stream_tags=timecode"])
            .arg(file)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    let quick = ["--chunk-frames", "20", "--video", FAST];
    assert_eq!(code(&made_of(dir, &film, "a.mov", &quick)), "00:00:59;28");
    let part = [&quick[..], &["--time-range", "0.1.."]].concat();
    assert_eq!(code(&made_of(dir, &film, "b.mov", &part)), "00:01:00;03");
    let film = film.to_str().unwrap();
    let said = done(dir, &[&[film, "-o", "c.mp4"][..], &quick].concat());
    assert!(
        said.contains("The time code (00:00:59;28) is left out"),
        "{said}"
    );
    let said = done(dir, &["inspect", film]);
    assert!(said.contains("\ntime code 00:00:59;28\n"), "{said}");
}

#[test]
fn what_is_said_of_a_film_goes_over() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    gst::init().unwrap();
    let film = film(dir, 100);
    std::fs::write(
        dir.join("meta.txt"),
        ";FFMETADATA1\ntitle=Night\nartist=Somebody\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=2000\ntitle=One\n\
         [CHAPTER]\nTIMEBASE=1/1000\nSTART=2000\nEND=4000\ntitle=Two\n",
    )
    .unwrap();
    std::fs::write(
        dir.join("text.srt"),
        "1\n00:00:01,000 --> 00:00:02,000\nTom & Jerry\n",
    )
    .unwrap();
    let made = Command::new("ffmpeg")
        .current_dir(dir)
        .args([
            "-v",
            "error",
            "-i",
            film.to_str().unwrap(),
            "-i",
            "text.srt",
            "-i",
            "meta.txt",
        ])
        .args([
            "-map",
            "0",
            "-map",
            "1",
            "-map_metadata",
            "2",
            "-map_chapters",
            "2",
            "-c",
            "copy",
            "-c:s",
            "srt",
        ])
        .args([
            "-metadata:s:a:0",
            "language=deu",
            "-metadata:s:s:0",
            "language=fra",
            "said.mkv",
        ])
        .status();
    assert!(made.unwrap().success());
    let quick = ["--chunk-frames", "40", "--video", FAST];
    let source = dir.join("said.mkv");
    for (output, words) in [
        (
            "a.mkv",
            &["Night", "Somebody", "ger", "fre", "\"One\"", "\"Two\""][..],
        ),
        ("a.mp4", &["Night", "Somebody", "deu", "fra"]),
    ] {
        let output = made_of(dir, &source, output, &quick);
        let said = described(&output);
        assert!(
            words.iter().all(|word| said.contains(word)),
            "{words:?}: {said}"
        );
        let text = Command::new("ffmpeg")
            .args([
                "-v",
                "error",
                "-i",
                output.to_str().unwrap(),
                "-f",
                "srt",
                "-",
            ])
            .output()
            .unwrap();
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(
            text.contains("00:00:01,000 --> ") && text.contains("Tom & Jerry"),
            "{text}"
        );
    }

    let hdr = "-pix_fmt yuv420p10le -vf setsar=16/11 -c:v libx265 -preset ultrafast -tag:v hvc1 -x265-params \
               log-level=error:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:max-cll=1000,400:\
               master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)";
    let hdr = made_by_ffmpeg(dir, "hdr.mp4", hdr);
    let x265 = [
        "--chunk-frames",
        "30",
        "--video",
        "x265enc speed-preset=ultrafast",
    ];
    let said = described(&made_of(dir, &hdr, "b.mp4", &x265));
    for word in [
        "yuv420p10le",
        "smpte2084",
        "bt2020nc",
        "16:11",
        "Mastering display metadata",
        "Content light level metadata",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let fields = made_by_ffmpeg(
        dir,
        "fields.mp4",
        "-vf interlace -flags +ildct+ilme -c:v libx264 -x264-params tff=1",
    );
    let x264 = [
        "--chunk-frames",
        "15",
        "--video",
        &format!("{FAST} interlaced=true")[..],
    ];
    let said = described(&made_of(dir, &fields, "c.mp4", &x264));
    assert!(said.contains("\"tt\"") || said.contains("\"tb\""), "{said}");

    // mp4mux is told how a picture is turned, and doesn't write it: it is said then.
    let turned = Command::new("ffmpeg")
        .current_dir(dir)
        .args([
            "-v",
            "error",
            "-i",
            film.to_str().unwrap(),
            "-c",
            "copy",
            "-metadata:s:v:0",
            "rotate=90",
            "turned.mp4",
        ])
        .status();
    assert!(turned.unwrap().success());
    let rotation = |name: &str| described_rotation(&dir.join(name));
    if rotation("turned.mp4") {
        let said = done(dir, &[&["turned.mp4", "-o", "d.mp4"][..], &quick].concat());
        assert!(
            rotation("d.mp4") || said.contains("picture is turned"),
            "{said}"
        );
    }
}

/// The picture is to be turned. (Newer versions of ffmpeg write no such tag.)
fn described_rotation(file: &Path) -> bool {
    let output = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-show_entries",
            "stream_side_data=rotation",
            "-of",
            "csv=p=0",
        ])
        .arg(file)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().contains("90")
}
