// SPDX-License-Identifier: MPL-2.0

//! Processes that do what they shouldn't.
#![cfg(unix)]

mod common;

use common::command::done;
use common::{X264, made};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use vtexport::failure::{Code, Failure};
use vtexport::folder::Folder;
use vtexport::jobs::{Event, Jobs, Step};
use vtexport::plan::Plan;

/// In place of the command: it notes its process, and does this.
fn program(dir: &Path, does: &str) -> PathBuf {
    let path = dir.join("program");
    let script = format!(
        "#!/bin/sh\necho $$ >>{}/processes\n{}\n",
        dir.display(),
        does.replace("VTEXPORT", env!("CARGO_BIN_EXE_vtexport"))
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Runs such jobs for all chunks of a plan; how that ended, and what was told of attempts that failed.
fn run(dir: &Path, does: &str) -> (Result<(), Failure>, Vec<String>) {
    let folder = Folder::of_plan(&dir.join("plan.json"));
    let plan = Plan::read(&folder.plan()).unwrap();
    let failures = Mutex::new(Vec::new());
    let jobs = Jobs {
        plan: &plan,
        folder: &folder,
        step: Step::Packets,
        program: &program(dir, does),
        silence: Duration::from_millis(1_500),
        stops: &AtomicBool::new(false),
        told: &|event| {
            if let Event::Failed { why, .. } = event {
                failures.lock().unwrap().push(why);
            }
        },
    };
    let ended = jobs.run((0..plan.chunks.len()).collect());
    (ended, failures.into_inner().unwrap())
}

/// A plan of three chunks.
fn planned(dir: &Path) {
    gst::init().unwrap();
    let film = made(dir, "film.mp4", 60, &format!("{X264} ! mp4mux"));
    let encoder = "x264enc speed-preset=ultrafast vbv-buf-capacity=0 pass=quant";
    let film = film.to_str().unwrap();
    let arguments = [
        "plan",
        film,
        "-o",
        "a.mp4",
        "--plan",
        "plan.json",
        "--chunk-frames",
        "20",
    ];
    done(
        dir,
        &[&arguments[..], &["--jobs", "2", "--video", encoder]].concat(),
    );
}

/// None of the processes is there any more.
fn are_gone(dir: &Path) -> usize {
    let processes = std::fs::read_to_string(dir.join("processes")).unwrap();
    for process in processes.lines() {
        assert!(!Path::new("/proc").join(process).exists(), "{process}");
    }
    processes.lines().count()
}

#[test]
fn one_that_hangs_is_ended_and_the_chunk_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    planned(dir);
    // The first of all hangs.
    let does = format!(
        "mkdir {0}/was-there 2>/dev/null && exec sleep 1000\nexec VTEXPORT \"$@\"",
        dir.display()
    );
    let (ended, failures) = run(dir, &does);
    assert_eq!(ended, Ok(()));
    assert_eq!(failures.len(), 1);
    assert!(
        failures[0].contains("said nothing for 1.5 s"),
        "{failures:?}"
    );
    assert_eq!(are_gone(dir), 4);
    done(dir, &["join", "plan.json", "-o", "a.mp4"]);
}

#[test]
fn one_that_always_hangs_is_given_up_with_its_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    planned(dir);
    let (ended, failures) = run(dir, "echo these are my last words >&2; exec sleep 1000");
    let failure = ended.unwrap_err();
    assert_eq!(failure.code, Code::Failed);
    for part in [
        "chunk ",
        " to ",
        "said nothing for 1.5 s",
        "these are my last words",
    ] {
        assert!(failure.text.contains(part), "{part}: {}", failure.text);
    }
    assert!((3..=6).contains(&failures.len()), "{failures:?}");
    are_gone(dir);
}

#[test]
fn one_that_says_it_is_done_and_isnt_has_failed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    planned(dir);
    let (ended, _) = run(dir, "exit 0");
    let said = ended.unwrap_err().text;
    assert!(said.contains("left no record"), "{said}");
    // What fails for good isn't tried again.
    std::fs::remove_file(dir.join("processes")).unwrap();
    let (ended, failures) = run(dir, "echo vtexport: no such encoder here >&2; exit 78");
    let failure = ended.unwrap_err();
    assert_eq!(failure.code, Code::Cannot);
    assert!(
        failure.text.ends_with("no such encoder here"),
        "{}",
        failure.text
    );
    assert!(failures.len() <= 2, "{failures:?}");
    assert!(are_gone(dir) <= 2);
}
