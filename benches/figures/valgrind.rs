// SPDX-License-Identifier: MPL-2.0

//! What a process does, counted: the same each time, but for the order in which its threads run.

use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// Said in a table's place where it isn't installed.
pub const MISSING: &str = "not counted: valgrind isn't installed";

pub fn is_there() -> bool {
    static IS_THERE: LazyLock<bool> = LazyLock::new(|| {
        let version = Command::new("valgrind")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        version.is_ok_and(|version| version.success())
    });
    *IS_THERE
}

/// Runs the command in a tool, and returns what that has to say at the end.
fn report(tool: &[&str], command: &Command) -> String {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(tool)
        .arg(format!("--log-file={}", log.path().display()))
        .arg("--fair-sched=yes")
        .arg(command.get_program())
        .args(command.get_args())
        // GLib's own allocator hides what is allocated.
        .env("G_SLICE", "always-malloc")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => valgrind.env(name, value),
            None => valgrind.env_remove(name),
        };
    }
    let end = valgrind.status().unwrap();
    assert!(end.success(), "{valgrind:?}: {end}");
    std::fs::read_to_string(log.path()).unwrap()
}

/// The number that follows these words in the report.
fn number_after(words: &str, report: &str) -> u64 {
    let at = report.rfind(words);
    let rest = at.map(|at| &report[at + words.len()..]);
    let digits = rest.unwrap_or_default().trim_start().chars();
    let digits = digits.take_while(|it| it.is_ascii_digit() || *it == ',');
    let number: String = digits.filter(char::is_ascii_digit).collect();
    number
        .parse()
        .unwrap_or_else(|_| panic!("no '{words}' in: {report}"))
}

/// Instructions that it runs, outside the kernel.
pub fn instructions(command: &Command) -> u64 {
    let tool = ["--tool=callgrind", "--callgrind-out-file=/dev/null"];
    number_after("Collected :", &report(&tool, command))
}

/// Blocks of memory that it allocates.
pub fn allocations(command: &Command) -> u64 {
    let tool = ["--tool=dhat", "--dhat-out-file=/dev/null"];
    let report = report(&tool, command);
    let total = report.lines().find(|line| line.contains("Total:"));
    number_after("bytes in", total.unwrap_or_default())
}
