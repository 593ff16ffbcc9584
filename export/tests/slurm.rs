// SPDX-License-Identifier: MPL-2.0

//! Tasks of Slurm, for which stand scripts here that take its commands' options and run each task as a process of this machine.
#![cfg(unix)]

mod common;

use common::command::{fails, made_of, names, packets, vtexport};
use common::{X264, made};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const FAST: &str = "x264enc speed-preset=ultrafast pass=quant vbv-buf-capacity=0";

const SBATCH: &str = r#"#!/bin/sh
for option; do
    case $option in
    --array=0-*) last=${option#--array=0-} ;;
    --job-name=*) name=${option#--job-name=} ;;
    --partition=nosuch) echo "sbatch: error: invalid partition specified: nosuch" >&2 && exit 1 ;;
    esac
done
# Somebody has no more than so many.
if [ -e "$SLURM/limit" ] && [ -e "$SLURM/submitted" ]; then
    rm "$SLURM/limit"
    echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2
    exit 1
fi
cat >"$SLURM/$$.sh"
echo "$@" >>"$SLURM/submitted"
copies=$(sed -n 's/^set -- //p' "$SLURM/$$.sh")
for number in $(seq 0 "$last"); do
    script=$SLURM/$$.sh
    set -- $copies
    shift "$number"
    # What befalls a task.
    if [ -e "$SLURM/befalls-$1" ]; then script=$SLURM/befalls-$1; fi
    echo "$name $$ $number RUNNING" >"$SLURM/queued-$$-$number"
    (
        # What a machine says.
        if [ -e "$SLURM/machine" ]; then . "$SLURM/machine"; fi
        export SLURM_ARRAY_TASK_ID=$number
        setsid sh -c 'echo $$ >"$0"; exec sh "$1"' "$SLURM/task-$$-$number" "$script"
        rm -f "$SLURM/queued-$$-$number"
    ) >/dev/null 2>&1 </dev/null &
done
echo $$
"#;

const SQUEUE: &str = r#"#!/bin/sh
cat "$SLURM"/queued-* 2>/dev/null | cut -d " " -f 2-
exit 0
"#;

const SCANCEL: &str = r#"#!/bin/sh
echo "$@" >>"$SLURM/cancelled"
for task; do
    case $task in
    --name=*) tasks=$(cd "$SLURM" && ls | sed -n 's/^queued-//p') ;;
    *) tasks=$(echo "$task" | tr _ -) ;;
    esac
    for number in $tasks; do
        rm -f "$SLURM/queued-$number"
        kill -- "-$(cat "$SLURM/task-$number")"
    done
done
"#;

/// A folder with the commands, which note there what they do.
fn slurm(dir: &Path) -> PathBuf {
    let slurm = dir.join("slurm");
    std::fs::create_dir(&slurm).unwrap();
    for (name, script) in [("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", SCANCEL)] {
        let path = slurm.join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    slurm
}

fn command(dir: &Path, slurm: &Path, arguments: &[&str]) -> Command {
    let path = std::env::var("PATH").unwrap();
    let mut command = vtexport(dir, arguments);
    command
        .env("PATH", format!("{}:{path}", slurm.display()))
        .env("SLURM", slurm);
    command
}

fn run(dir: &Path, slurm: &Path, film: &Path, more: &[&str]) -> Output {
    let film = film.to_str().unwrap();
    let arguments = [film, "-o", "a.mp4", "--engine", "slurm"];
    let length = ["--chunk-frames", "20", "--threads", "1"];
    let video = match more.contains(&"--video") {
        true => &[][..],
        false => &["--video", FAST],
    };
    command(dir, slurm, &[&arguments[..], &length, video, more].concat())
        .output()
        .unwrap()
}

fn said(slurm: &Path, what: &str) -> String {
    std::fs::read_to_string(slurm.join(what)).unwrap_or_default()
}

#[test]
fn the_picture_is_that_of_one_machine() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    gst::init().unwrap();
    let film = made(dir, "film.mp4", 100, &format!("{X264} ! mp4mux"));
    let length = ["--chunk-frames", "20", "--threads", "1", "--video", FAST];
    let expected = packets(&made_of(dir, &film, "expected.mp4", &length), "v");
    let slurm = slurm(dir);
    // Nobody knows why the one fails, and the other says that another time it may be better.
    let fails = format!(
        "echo 1 m17 >{}/a.mp4.vtexport/tasks/1-1.code",
        dir.display()
    );
    std::fs::write(slurm.join("befalls-1-1"), fails).unwrap();
    let again = format!(
        "cd {}/a.mp4.vtexport/tasks; echo vtexport: no space >3-1.err; echo 75 >3-1.code",
        dir.display()
    );
    std::fs::write(slurm.join("befalls-3-1"), again).unwrap();
    let more = [
        "--partition",
        "fast",
        "--slurm-options",
        "--mem=1G --time=5",
    ];
    let output = run(dir, &slurm, &film, &more);
    assert!(output.status.success(), "{output:?}");
    assert!(packets(&dir.join("a.mp4"), "v") == expected);
    let submitted = said(&slurm, "submitted");
    let submitted: Vec<&str> = submitted.lines().collect();
    assert!((2..=3).contains(&submitted.len()), "{submitted:?}");
    for part in [
        "--array=0-4 ",
        "--cpus-per-task=1",
        "--requeue",
        "--partition=fast --mem=1G --time=5",
    ] {
        assert!(submitted[0].contains(part), "{part}: {submitted:?}");
    }
    assert!(
        submitted[1..].iter().all(|it| !it.contains("--array=0-4")),
        "{submitted:?}"
    );
    // Where it failed it isn't tried again.
    assert!(
        submitted[1..].iter().any(|it| it.contains("--exclude=m17")),
        "{submitted:?}"
    );
    assert!(!dir.join("a.mp4.vtexport").exists());
}

#[test]
fn what_isnt_taken_now_is_submitted_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    gst::init().unwrap();
    let film = made(dir, "film.mp4", 60, &format!("{X264} ! mp4mux"));
    let slurm = slurm(dir);
    let fails = format!("echo 1 >{}/a.mp4.vtexport/tasks/1-1.code", dir.display());
    std::fs::write(slurm.join("befalls-1-1"), fails).unwrap();
    std::fs::write(slurm.join("limit"), "").unwrap();
    let output = run(dir, &slurm, &film, &[]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words}");
    assert!(
        words.contains("QOSMaxSubmitJobPerUserLimit (It is asked again.)"),
        "{words}"
    );
    assert_eq!(said(&slurm, "submitted").lines().count(), 2);
    assert_eq!(packets(&dir.join("a.mp4"), "v").len(), 60);
}

#[test]
fn what_fails_for_good_ends_all() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    gst::init().unwrap();
    let film = made(dir, "film.mp4", 60, &format!("{X264} ! mp4mux"));
    let slurm = slurm(dir);
    let other = format!(
        "cd {}/a.mp4.vtexport/tasks\n\
         until [ -e ../records/000000.json ] && [ -e ../records/000002.json ]; do sleep 0.1; done\n\
         echo vtexport: another encoder is here >1-1.err; echo 78 >1-1.code",
        dir.display()
    );
    std::fs::write(slurm.join("befalls-1-1"), other).unwrap();
    let output = run(dir, &slurm, &film, &[]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{words}");
    assert!(words.contains("chunk 1 (frames 20 to 39"), "{words}");
    assert!(words.contains("another encoder is here"), "{words}");
    // What is done stays, whatever it was.
    assert!(words.contains("What is done is kept in"), "{words}");
    let records = std::fs::read_dir(dir.join("a.mp4.vtexport/records"));
    assert_eq!(records.unwrap().count(), 2);
    assert!(said(&slurm, "cancelled").contains("--name=vtexport-"));

    let output = run(dir, &slurm, &film, &["--partition", "nosuch"]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{words}");
    assert!(words.contains("invalid partition"), "{words}");

    let average = [
        "--video",
        "x264enc speed-preset=ultrafast bitrate=500 vbv-buf-capacity=0",
    ];
    for (more, why) in [
        (&average[..], "can't keep an average bitrate in one pass"),
        (
            &["--no-parallel"],
            "the film is encoded in one: --no-parallel",
        ),
        (&["--work-root", slurm.to_str().unwrap()], "isn't below"),
        (&["--source-root", slurm.to_str().unwrap()], "isn't below"),
    ] {
        let output = run(dir, &slurm, &film, more);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(words.contains(why), "{words}");
    }

    let local = fails(
        dir,
        &[film.to_str().unwrap(), "-o", "a.mp4", "--partition", "fast"],
        2,
    );
    assert!(local.contains("are for --engine slurm"), "{local}");

    std::fs::remove_file(slurm.join("sbatch")).unwrap();
    let mut without = command(dir, &slurm, &[]);
    without
        .env("PATH", &slurm)
        .args([film.to_str().unwrap(), "-o", "a.mp4"]);
    without.args(["--engine", "slurm", "--chunk-frames", "20", "--video", FAST]);
    let output = without.output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{words}");
    assert!(words.contains("needs Slurm's commands"), "{words}");
    assert_eq!(names(dir), ["film.mp4", "slurm"]);
}

#[test]
fn a_task_that_is_stuck_gets_a_second_copy() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    gst::init().unwrap();
    let film = made(dir, "film.mp4", 60, &format!("{X264} ! mp4mux"));
    let slurm = slurm(dir);
    std::fs::write(slurm.join("befalls-1-1"), "sleep 1000").unwrap();
    let output = run(dir, &slurm, &film, &[]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(packets(&dir.join("a.mp4"), "v").len(), 60);
    // Or a third one, if that took as long.
    let submitted = said(&slurm, "submitted").lines().count();
    assert!((2..=3).contains(&submitted), "{submitted}");
    // What is too late is cancelled alone, by its array and number, and all at the end.
    let cancelled = said(&slurm, "cancelled");
    let cancelled: Vec<&str> = cancelled.lines().collect();
    let (all, late) = cancelled.split_last().unwrap();
    assert!(all.starts_with("--name="), "{cancelled:?}");
    assert!(!late.is_empty());
    for task in late.iter().flat_map(|it| it.split_whitespace()) {
        let (array, number) = task.split_once('_').unwrap();
        assert!([array, number].iter().all(|it| it.parse::<u32>().is_ok()));
    }
}

#[test]
fn machines_may_have_directories_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    gst::init().unwrap();
    std::fs::create_dir(dir.join("films")).unwrap();
    std::fs::create_dir(dir.join("it's work")).unwrap();
    let film = made(dir, "films/film.mp4", 60, &format!("{X264} ! mp4mux"));
    let expected = packets(
        &made_of(
            dir,
            &film,
            "expected.mp4",
            &["--chunk-frames", "20", "--threads", "1", "--video", FAST],
        ),
        "v",
    );
    let slurm = slurm(dir);
    let roots = [
        "--source-root",
        "films",
        "--work-root",
        "it's work",
        "--temporary-directory",
        "it's work",
    ];
    let output = run(dir, &slurm, &film, &roots);
    assert!(output.status.success(), "{output:?}");
    assert!(packets(&dir.join("a.mp4"), "v") == expected);
    // Elsewhere, nothing is at the place that it has here.
    let elsewhere = dir.join("elsewhere");
    std::os::unix::fs::symlink(dir, &elsewhere).unwrap();
    let machine = format!(
        "export VTEXPORT_SOURCE_ROOT={0}/films VTEXPORT_WORK_ROOT=\"{0}/it's work\"\n",
        elsewhere.display()
    );
    std::fs::write(slurm.join("machine"), machine).unwrap();
    std::fs::remove_file(dir.join("a.mp4")).unwrap();
    let output = run(dir, &slurm, &film, &roots);
    assert!(output.status.success(), "{output:?}");
    assert!(packets(&dir.join("a.mp4"), "v") == expected);
    assert_eq!(std::fs::read_dir(dir.join("it's work")).unwrap().count(), 0);
    // This machine goes on with that, and knows where the source is.
    let wrong = format!(
        "cd \"{}/it's work/a.mp4.vtexport/tasks\"\n\
         until [ -e ../records/000000.json ]; do sleep 0.1; done\n\
         echo 78 >1-1.code",
        dir.display()
    );
    std::fs::write(slurm.join("befalls-1-1"), wrong).unwrap();
    std::fs::remove_file(dir.join("a.mp4")).unwrap();
    let output = run(dir, &slurm, &film, &roots);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let here = [
        film.to_str().unwrap(),
        "-o",
        "a.mp4",
        "--temporary-directory",
        "it's work",
    ];
    let same = [
        "--chunk-frames",
        "20",
        "--threads",
        "1",
        "--jobs",
        "64",
        "--video",
        FAST,
    ];
    let output = vtexport(dir, &[&here[..], &same].concat())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words}");
    assert!(words.contains("chunks are there already"), "{words}");
    assert!(packets(&dir.join("a.mp4"), "v") == expected);
}

#[test]
fn ctrl_c_cancels_what_is_queued_and_leaves_what_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    gst::init().unwrap();
    let film = made(dir, "film.mp4", 60, &format!("{X264} ! mp4mux"));
    let slurm = slurm(dir);
    for copy in ["2-1", "2-2"] {
        std::fs::write(slurm.join(format!("befalls-{copy}")), "sleep 1000").unwrap();
    }
    let arguments = [
        film.to_str().unwrap(),
        "-o",
        "a.mp4",
        "--engine",
        "slurm",
        "--video",
        FAST,
    ];
    let length = ["--chunk-frames", "20", "--threads", "1"];
    let mut command = command(dir, &slurm, &[&arguments[..], &length].concat());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let records = dir.join("a.mp4.vtexport/records");
    let done = || std::fs::read_dir(&records).map_or(0, Iterator::count);
    while done() < 2 {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(10));
    }
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(75), "{words}");
    assert!(words.contains("the same command goes on"), "{words}");
    assert!(said(&slurm, "cancelled").contains("--name=vtexport-"));
    assert_eq!(done(), 2);
    // The rest is done here.
    let quick = [&arguments[..3], &["--quiet", "--video", FAST], &length].concat();
    let ended = vtexport(dir, &quick).status().unwrap();
    assert!(ended.success());
    assert_eq!(packets(&dir.join("a.mp4"), "v").len(), 60);
}
