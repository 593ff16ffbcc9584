// SPDX-License-Identifier: MPL-2.0

//! The command, and what it leaves.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub fn vtexport(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vtexport"));
    command.current_dir(dir).args(arguments);
    command
}

pub fn run(dir: &Path, arguments: &[&str]) -> Output {
    vtexport(dir, arguments).output().unwrap()
}

/// It has to end well; what it printed.
pub fn done(dir: &Path, arguments: &[&str]) -> String {
    let output = run(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// It has to end with this code; what it said.
pub fn fails(dir: &Path, arguments: &[&str], code: i32) -> String {
    let output = run(dir, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// Time, flags and hash of each packet of the streams of a kind, as an independent program reads them.
pub fn packets(file: &Path, streams: &str) -> Vec<String> {
    let entries = "packet=pts_time,dts_time,flags,data_hash";
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", streams])
        .args(["-show_data_hash", "md5", "-show_entries", entries])
        .args(["-of", "json"])
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packets = all["packets"].as_array().cloned().unwrap_or_default();
    let of = |packet: &serde_json::Value| {
        let fields = ["pts_time", "dts_time", "flags", "data_hash"];
        fields.map(|field| packet[field].to_string()).join(",")
    };
    packets.iter().map(of).collect()
}

pub fn made_of(dir: &Path, source: &Path, output: &str, more: &[&str]) -> PathBuf {
    let mut arguments = vec![
        source.to_str().unwrap(),
        "-o",
        output,
        "--overwrite",
        "--quiet",
    ];
    arguments.extend(more);
    done(dir, &arguments);
    let left = dir.join(format!("{output}.vtexport"));
    assert!(!left.exists(), "{left:?}");
    assert!(!dir.join(format!("{output}.part")).exists());
    dir.join(output)
}

pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
