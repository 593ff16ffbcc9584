// SPDX-License-Identifier: MPL-2.0

//! A process for each chunk, so many at a time: what goes wrong in one costs an attempt at one chunk.
//!
//! A job reads nothing, but its input ends when whoever started it is gone, and then it ends, too.

use crate::chunk::Made;
use crate::failure::{Code, Failure};
use crate::folder::{Folder, Rates};
use crate::plan::Plan;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Attempts at one chunk: one failure may be an accident, and so may two.
pub const MOST_ATTEMPTS: u32 = 3;

/// A job that says nothing for so long hangs: its encoder is given up sooner.
pub const SILENCE: Duration = Duration::from_secs(120);

/// How often somebody looks whether all is to end.
const TICK: Duration = Duration::from_millis(50);

/// Lines of a job's last words.
const LAST_WORDS: usize = 12;

/// What happens, for who shows it.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A chunk is begun in this place.
    Begun { place: usize, index: usize },
    /// So far it is.
    Made { place: usize, made: Made },
    /// It is done, with so many bytes.
    Done {
        place: usize,
        index: usize,
        bytes: u64,
    },
    /// An attempt failed.
    Failed {
        place: usize,
        index: usize,
        attempt: u32,
        why: String,
    },
    /// It waits again.
    Left { place: usize, index: usize },
    /// What people should read.
    Said { text: String },
}

/// What a job makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// What the second pass wants to know.
    FirstPass,
    Packets,
}

impl Step {
    /// Bytes of what is made of a chunk, if that is done. `rates`: of the second pass.
    pub(crate) fn made(
        self,
        plan: &Plan,
        folder: &Folder,
        rates: Option<&Rates>,
        index: usize,
    ) -> Option<u64> {
        match self {
            Self::FirstPass => folder.first_pass(plan, index).map(|_| 0),
            Self::Packets => folder.read(plan, rates, index).map(|record| record.bytes),
        }
    }
}

/// How jobs are run.
pub struct Jobs<'a> {
    pub plan: &'a Plan,
    pub folder: &'a Folder,
    /// What is made of each chunk.
    pub step: Step,
    /// This program.
    pub program: &'a Path,
    /// See [`SILENCE`].
    pub silence: Duration,
    /// All is to end.
    pub stops: &'a AtomicBool,
    pub told: &'a (dyn Fn(Event) + Sync),
}

impl Jobs<'_> {
    /// Encodes the chunks that aren't there.
    pub fn run(&self, chunks: Vec<usize>) -> Result<(), Failure> {
        let places = self.plan.places(chunks.len());
        let left = Mutex::new(VecDeque::from(chunks));
        let failed = Mutex::new(None);
        thread::scope(|scope| {
            for place in 0..places {
                let (left, failed) = (&left, &failed);
                scope.spawn(move || {
                    loop {
                        let has_failed = locked(failed).is_some();
                        if has_failed || self.stops.load(Ordering::SeqCst) {
                            return;
                        }
                        let Some(index) = locked(left).pop_front() else {
                            return;
                        };
                        if let Err(failure) = self.chunk(place, index, failed) {
                            locked(failed).get_or_insert(failure);
                        }
                    }
                });
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(failure) => Err(failure),
            None if self.stops.load(Ordering::SeqCst) => Err(interrupted()),
            None => Ok(()),
        }
    }

    fn chunk(
        &self,
        place: usize,
        index: usize,
        failed: &Mutex<Option<Failure>>,
    ) -> Result<(), Failure> {
        let chunk = self.plan.chunk(index)?;
        let mut last = Failure::failed("");
        for attempt in 1..=MOST_ATTEMPTS {
            (self.told)(Event::Begun { place, index });
            let ended = self.attempt(place, index, failed)?;
            let rates = self.folder.rates(self.plan);
            let made = self
                .step
                .made(self.plan, self.folder, rates.as_ref(), index);
            match (ended, made) {
                (Ok(()), Some(bytes)) => {
                    (self.told)(Event::Done {
                        place,
                        index,
                        bytes,
                    });
                    return Ok(());
                }
                (Ok(()), None) => last = Failure::failed("it left no record"),
                (Err(failure), _) => last = failure,
            }
            let why = last.text.clone();
            (self.told)(Event::Failed {
                place,
                index,
                attempt,
                why,
            });
            // Another attempt would be the same.
            if last.code != Code::Failed {
                break;
            }
        }
        Err(chunk.cannot_be_encoded(&last))
    }

    /// One process, to its end. The outer error: all ends.
    fn attempt(
        &self,
        place: usize,
        index: usize,
        failed: &Mutex<Option<Failure>>,
    ) -> Result<Result<(), Failure>, Failure> {
        let spawned = Command::new(self.program)
            .arg("chunk")
            .arg(self.folder.plan())
            .args(["--index", &index.to_string(), "--json", "--attended"])
            .args((self.step == Step::FirstPass).then_some("--first-pass"))
            .args(self.plan.source_root().map(|root| {
                let option = OsString::from("--source-root=");
                [option, root.into()].into_iter().collect::<OsString>()
            }))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let child = spawned.map_err(|error| {
            Failure::failed(format!("{} can't be run: {error}", self.program.display()))
        })?;
        let mut job = Job::new(child);
        let mut silent_since = Instant::now();
        loop {
            match job.lines.recv_timeout(TICK) {
                Ok(line) => {
                    silent_since = Instant::now();
                    if let Ok(made) = serde_json::from_str(&line) {
                        (self.told)(Event::Made { place, made });
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    if self.stops.load(Ordering::SeqCst) {
                        return Err(interrupted());
                    }
                    if let Some(failure) = locked(failed).clone() {
                        return Err(failure);
                    }
                    if silent_since.elapsed() > self.silence {
                        let how = format!(
                            "said nothing for {} s and was ended",
                            self.silence.as_secs_f64()
                        );
                        return Ok(Err(failed_with(None, &how, &job.last_words())));
                    }
                }
            }
        }
        Ok(job.end())
    }
}

/// A program that helps this one. Ctrl-C isn't for it: this one then ends what it does.
pub(crate) fn helper(name: &str) -> Command {
    let mut command = Command::new(name);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command
}

pub(crate) fn interrupted() -> Failure {
    Failure::again("interrupted")
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process, which is ended with this.
struct Job {
    child: Child,
    lines: Receiver<String>,
    words: Option<thread::JoinHandle<Vec<String>>>,
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Job {
    fn new(mut child: Child) -> Self {
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                let read = BufReader::new(stdout).lines();
                for line in read.map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let words = child
            .stderr
            .take()
            .map(|stderr| thread::spawn(move || last_lines(stderr)));
        Self {
            child,
            lines,
            words,
        }
    }

    /// What it printed last. It is ended for that.
    fn last_words(&mut self) -> String {
        let _ = self.child.kill();
        let words = self.words.take().and_then(|words| words.join().ok());
        let words = words.unwrap_or_default();
        words.join("\n    ")
    }

    fn end(&mut self) -> Result<(), Failure> {
        let status = self.child.wait();
        let status = status.map_err(|error| Failure::failed(error.to_string()))?;
        if status.success() {
            return Ok(());
        }
        let words = self.last_words();
        Err(failed_with(status.code(), &ended_with(status), &words))
    }
}

/// Why a process failed that ended with this code, or otherwise. `words`: what it said last.
pub(crate) fn failed_with(code: Option<i32>, how: &str, words: &str) -> Failure {
    let class = match code {
        Some(2) => Code::Usage,
        Some(65) => Code::Source,
        Some(75) => Code::Again,
        Some(78) => Code::Cannot,
        _ => Code::Failed,
    };
    // Its own words say enough, where it could say any.
    let text = match (code, words.strip_prefix("vtexport: ")) {
        (Some(_), Some(words)) => words.to_string(),
        _ if words.is_empty() => format!("its process {how}"),
        _ => format!("its process {how}: {words}"),
    };
    Failure {
        code: class,
        ..Failure::failed(text)
    }
}

#[cfg(unix)]
fn ended_with(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status.signal() {
        Some(signal) => format!("was ended by signal {signal}"),
        None => format!("ended with {status}"),
    }
}

#[cfg(not(unix))]
fn ended_with(status: ExitStatus) -> String {
    format!("ended with {status}")
}

pub(crate) fn last_lines(from: impl Read) -> Vec<String> {
    let mut last = VecDeque::new();
    for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
        if last.len() == LAST_WORDS {
            last.pop_front();
        }
        last.push_back(String::from_utf8_lossy(&line).into_owned());
    }
    last.into()
}
