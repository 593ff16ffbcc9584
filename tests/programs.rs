// SPDX-License-Identifier: MPL-2.0

//! The programs of docs/embedding.md: each encodes a film, shows how far it is, says what went wrong, and ends with a playable file when it
//! is interrupted.

mod common;

use common::{Pipeline, init, tool};
use gst::prelude::*;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

/// So many frames.
fn film(dir: &Path, frames: u64) -> PathBuf {
    init();
    let path = dir.join(format!("{frames}.mp4"));
    let pipeline = Pipeline::parse(&format!(
        "videotestsrc num-buffers={frames} ! video/x-raw,width=320,height=240,framerate=25/1 ! \
         x264enc speed-preset=ultrafast ! h264parse ! mp4mux ! filesink location={}",
        path.display()
    ));
    pipeline.run().expect_eos();
    path
}

/// What is in a file, decoded to its end.
fn frames_in(path: &Path) -> u64 {
    let pipeline = Pipeline::parse(&format!(
        "filesrc location={} ! decodebin ! videoconvert ! video/x-raw ! fakesink name=sink sync=false",
        path.display()
    ));
    let output = common::record(&pipeline.element("sink").static_pad("sink").unwrap());
    pipeline.run().expect_eos();
    let frames = output.lock().unwrap().packets.len();
    frames as u64
}

/// How a program is started, and what it makes.
struct Program {
    name: &'static str,
    /// With what runs it.
    command: Vec<PathBuf>,
    extension: &'static str,
}

impl Program {
    fn command(&self, dir: &Path) -> Command {
        let mut command = tool(dir, self.command[0].to_str().unwrap());
        command.args(&self.command[1..]);
        command
    }
}

fn programs(dir: &Path) -> [Program; 3] {
    let examples = std::env::current_exe().unwrap();
    // (Of all tests, cargo builds it; of one alone, `cargo build --examples` does.)
    let examples = examples.parent().unwrap().with_file_name("examples");
    let flags = Command::new("pkg-config")
        .args(["--cflags", "--libs", "gstreamer-1.0"])
        .output()
        .unwrap();
    let flags = String::from_utf8(flags.stdout).unwrap();
    let built = dir.join("encode-c");
    let compiled = Command::new("cc")
        .args(["-Wall", "-Werror", "-o"])
        .arg(&built)
        .arg(root().join("examples/encode.c"))
        .args(flags.split_whitespace())
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{compiled:?}");
    // That of the system has what Debian's packages bring.
    let python = ["/usr/bin/python3", "python3"].map(PathBuf::from);
    let [system, other] = python;
    let python = if system.exists() { system } else { other };
    [
        Program {
            name: "Rust",
            command: vec![examples.join("encode")],
            extension: "mp4",
        },
        Program {
            name: "C",
            command: vec![built],
            extension: "mkv",
        },
        Program {
            name: "Python",
            command: vec![python, root().join("examples/encode.py")],
            extension: "mkv",
        },
    ]
}

fn run(mut program: Command, from: &Path, to: &Path) -> Output {
    program.arg(from).arg(to).output().unwrap()
}

#[test]
fn they_encode_a_film_and_say_what_went_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let from = film(dir.path(), 60);
    for program in programs(dir.path()) {
        let name = program.name;
        let to = dir.path().join(format!("{name}.{}", program.extension));
        let command = || program.command(dir.path());
        let output = run(command(), &from, &to);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {errors}");
        assert_eq!(frames_in(&to), 60, "{name}");

        let nothing = run(command(), &dir.path().join("nothing.mp4"), &to);
        assert!(!nothing.status.success(), "{name}");
        let errors = String::from_utf8_lossy(&nothing.stderr);
        assert!(
            errors.to_lowercase().contains("no such file") || errors.contains("not found"),
            "{name}: {errors}"
        );
        let usage = command().output().unwrap();
        assert!(!usage.status.success(), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn they_end_with_a_playable_file_when_they_are_interrupted() {
    const FRAMES: u64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let from = film(dir.path(), FRAMES);
    for program in programs(dir.path()) {
        let name = program.name;
        let to = dir.path().join(format!("{name}.{}", program.extension));
        let mut child = program
            .command(dir.path())
            .arg(&from)
            .arg(&to)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let pid = rustix::process::Pid::from_child(&child);
        let mut said = Vec::new();
        for line in lines.map_while(Result::ok) {
            // It is under way.
            if line.contains("frames/s") && said.iter().all(|it: &String| !it.contains("frames/s"))
            {
                rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
            }
            said.push(line);
        }
        let status = child.wait().unwrap();
        assert!(status.success(), "{name}: {status:?} {said:?}");
        let frames = frames_in(&to);
        assert!((1..FRAMES).contains(&frames), "{name}: {frames} {said:?}");
    }
}
