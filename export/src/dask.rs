// SPDX-License-Identifier: MPL-2.0

//! Tasks of Dask distributed. A program in Python (`export/dask`) submits them and tells how they are; it is told in lines of JSON, and cancels all
//! when its input ends.
//!
//! Who wakes this: a thread reads what the program says, until it ends; nobody waits for that.

use crate::failure::Failure;
use crate::jobs::{Step, failed_with, helper, last_lines, locked};
use crate::machines::{Ended, Scheduler, Work};
use crate::tasks::{Copy, State};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The program.
const BRIDGE: &str = "vtexport-dask";

/// So long it has to cancel what is under way when it is no longer needed.
const ENDING: Duration = Duration::from_secs(10);

/// How often somebody looks whether it has ended.
const TICK: Duration = Duration::from_millis(20);

/// The machines of Dask.
pub struct Dask {
    bridge: Child,
    /// Closed, it ends all.
    orders: Option<ChildStdin>,
    words: Option<JoinHandle<Vec<String>>>,
    heard: Arc<Mutex<Heard>>,
}

/// What the program said.
#[derive(Debug, Default)]
struct Heard {
    tasks: HashMap<Copy, Task>,
    says: Vec<String>,
}

#[derive(Debug, Default)]
struct Task {
    runs: bool,
    ended: Option<Ended>,
}

/// A line of it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Task(Told),
    Say { say: String },
}

#[derive(Debug, Deserialize)]
struct Told {
    task: String,
    state: String,
    #[serde(default)]
    code: Option<i32>,
    #[serde(default)]
    text: String,
}

impl Heard {
    fn take(&mut self, line: Line) {
        match line {
            Line::Say { say } => self.says.push(say),
            Line::Task(told) => {
                let copy = told.task.parse().ok();
                // (Of one that was cancelled nobody asks.)
                let Some(task) = copy.and_then(|copy| self.tasks.get_mut(&copy)) else {
                    return;
                };
                task.runs = told.state == "running";
                task.ended = (told.state == "ended").then_some(Ended {
                    code: told.code,
                    text: told.text,
                });
            }
        }
    }
}

impl Dask {
    /// `tag`: what workers offer that have the plan's encoder.
    pub fn new(work: &Work, scheduler: &str, tag: &str) -> Result<Self, Failure> {
        let spawned = helper(BRIDGE)
            .args(["run", "--scheduler", scheduler, "--tag", tag])
            .args((work.step == Step::FirstPass).then_some("--first-pass"))
            .args(root("--work-root", work.roots.work.as_deref()))
            .args(root("--source-root", work.roots.source.as_deref()))
            .arg(&work.plan)
            .arg(&work.said)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut bridge = spawned.map_err(|error| {
            Failure::cannot(format!(
                "{BRIDGE} can't be run: {error}. --engine dask needs the Python package of that name, which is in export/dask, here and on all workers."
            ))
        })?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        if let Some(stdout) = bridge.stdout.take() {
            let heard = heard.clone();
            thread::spawn(move || {
                let lines = BufReader::new(stdout).lines().map_while(Result::ok);
                for line in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                    locked(&heard).take(line);
                }
            });
        }
        let words = bridge.stderr.take();
        let words = words.map(|stderr| thread::spawn(move || last_lines(stderr)));
        Ok(Self {
            orders: bridge.stdin.take(),
            bridge,
            words,
            heard,
        })
    }

    fn order(&mut self, order: &Value) {
        // (One that is gone is noticed where it is asked how tasks are.)
        if let Some(orders) = &mut self.orders {
            let _ = writeln!(orders, "{order}").and_then(|()| orders.flush());
        }
    }
}

impl Scheduler for Dask {
    fn submit(&mut self, copies: &[Copy]) -> Result<(), Failure> {
        for (place, &copy) in copies.iter().enumerate() {
            locked(&self.heard).tasks.insert(copy, Task::default());
            // The first one goes first.
            let priority = copies.len() - place;
            self.order(&json!({
                "submit": { "task": copy.to_string(), "index": copy.index, "priority": priority }
            }));
        }
        Ok(())
    }

    fn cancel(&mut self, copies: &[Copy]) {
        for copy in copies {
            locked(&self.heard).tasks.remove(copy);
            self.order(&json!({ "cancel": copy.to_string() }));
        }
    }

    fn states(&mut self) -> Result<Option<HashMap<Copy, State>>, Failure> {
        let status = self.bridge.try_wait();
        let status = status.map_err(|error| Failure::failed(error.to_string()))?;
        if let Some(status) = status {
            let words = self.words.take().and_then(|words| words.join().ok());
            let words = words.unwrap_or_default().join("\n    ");
            let how = format!("ended with {status}");
            let failure = failed_with(status.code(), &how, &words);
            return Err(Failure {
                text: failure
                    .text
                    .replace("its process", BRIDGE)
                    .replace("vtexport-dask: ", ""),
                ..failure
            });
        }
        let heard = locked(&self.heard);
        let state = |task: &Task| match task {
            Task { ended: Some(_), .. } => State::Ended,
            Task { runs: true, .. } => State::Runs,
            Task { .. } => State::Waits,
        };
        let tasks = heard.tasks.iter();
        Ok(Some(
            tasks.map(|(copy, task)| (*copy, state(task))).collect(),
        ))
    }

    fn ended(&self, copy: Copy) -> Option<Ended> {
        locked(&self.heard).tasks.get(&copy)?.ended.clone()
    }

    fn says(&mut self) -> Vec<String> {
        std::mem::take(&mut locked(&self.heard).says)
    }
}

impl Drop for Dask {
    fn drop(&mut self) {
        self.orders = None;
        let since = Instant::now();
        while since.elapsed() < ENDING && matches!(self.bridge.try_wait(), Ok(None)) {
            thread::sleep(TICK);
        }
        let _ = self.bridge.kill();
        let _ = self.bridge.wait();
    }
}

fn root<'a>(option: &'a str, root: Option<&'a Path>) -> impl Iterator<Item = &'a OsStr> {
    root.into_iter()
        .flat_map(move |root| [option.as_ref(), root.as_os_str()])
}
