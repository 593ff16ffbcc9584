// SPDX-License-Identifier: MPL-2.0

//! A task of Slurm for each chunk, on whichever machines it has: the same chunks, in the same folder, which all of them have to see.
//!
//! Tasks are submitted as arrays by `sbatch`, and run `vtexport chunk`. What they are at is read from what they write beside the plan, so that
//! nothing but a state comes through the scheduler; that a chunk is done is believed of its record alone. Tasks whose node dies are requeued by
//! Slurm; those that fail are submitted again, three attempts in all. Whatever ends the command cancels what is queued and runs, and
//! leaves what is done.
//!
//! Who wakes this: nobody, it looks every second.

use crate::chunk::Made;
use crate::failure::{Code, Failure};
use crate::folder::{Folder, Rates};
use crate::jobs::{Event, MOST_ATTEMPTS, Step, failed_with, interrupted};
use crate::plan::Plan;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often the scheduler is asked.
const ASKS: Duration = Duration::from_secs(1);

/// How often somebody looks whether all is to end.
const TICK: Duration = Duration::from_millis(50);

/// A task that isn't queued any more has failed if its record isn't there after so long: other machines see files later.
const LATE: Duration = Duration::from_secs(5);

/// Indices of an array are below Slurm's MaxArraySize, which is 1001 where nobody sets it.
const ARRAY: usize = 1_000;

/// Bytes at the end of what a task says that are read.
const LAST_WORDS: u64 = 2_000;

/// How tasks are run.
pub struct Tasks<'a> {
    pub plan: &'a Plan,
    pub folder: &'a Folder,
    pub step: Step,
    /// This program, at the same place on all machines.
    pub program: &'a Path,
    /// More options of `sbatch`.
    pub options: &'a [String],
    /// All is to end.
    pub stops: &'a AtomicBool,
    pub told: &'a (dyn Fn(Event) + Sync),
}

/// A chunk that isn't done.
struct Task {
    index: usize,
    /// Among all of them.
    place: usize,
    attempt: u32,
    is_begun: bool,
    /// Since when it isn't queued.
    gone: Option<Instant>,
}

/// Arrays of this command, by the name that they begin with, which is followed by what is added to their numbers. What is queued of them is
/// cancelled with this.
struct Queued {
    name: String,
    chunks: usize,
}

impl Queued {
    fn name(&self, offset: usize) -> String {
        format!("{}-{offset}", self.name)
    }

    fn names(&self) -> String {
        let offsets = (0..self.chunks).step_by(ARRAY);
        let names: Vec<String> = offsets.map(|offset| self.name(offset)).collect();
        format!("--name={}", names.join(","))
    }

    /// Chunks that are queued, and whether they are in work. `None`: nobody says it.
    fn states(&self) -> Option<Vec<(usize, bool)>> {
        let said = Command::new("squeue")
            .args(["--noheader", "--array", "--format=%j %K %T"])
            .arg(self.names())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8(said.stdout).ok()?;
        let state = |line: &str| {
            let mut words = line.split_whitespace();
            let (_, offset) = words.next()?.rsplit_once('-')?;
            let number: usize = words.next()?.parse().ok()?;
            let offset: usize = offset.parse().ok()?;
            Some((offset + number, words.next()? == "RUNNING"))
        };
        let states = text.lines().filter_map(state).collect();
        said.status.success().then_some(states)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut cancel = Command::new("scancel");
        let _ = cancel
            .arg(self.names())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

impl Tasks<'_> {
    /// Encodes the chunks that aren't there.
    pub fn run(&self, chunks: &[usize]) -> Result<(), Failure> {
        let logs = self.logs()?;
        let id = self.plan.id.get(..8).unwrap_or_default();
        let queued = Queued {
            name: format!("vtexport-{id}-{}", std::process::id()),
            chunks: self.plan.chunks.len(),
        };
        let mut tasks: Vec<Task> = chunks
            .iter()
            .enumerate()
            .map(|(place, &index)| Task {
                index,
                place,
                attempt: 1,
                is_begun: false,
                gone: None,
            })
            .collect();
        self.submit(&queued, &logs, chunks)?;
        let rates = self.folder.rates(self.plan);
        let mut asked = Instant::now();
        while !tasks.is_empty() {
            if self.stops.load(Ordering::SeqCst) {
                return Err(interrupted());
            }
            thread::sleep(TICK);
            if asked.elapsed() < ASKS {
                continue;
            }
            asked = Instant::now();
            // Where it can't be asked it may be another time: it may have been started anew.
            let states = queued.states();
            let mut again = Vec::new();
            let mut left = Vec::new();
            for mut task in tasks {
                match self.look(&mut task, rates.as_ref(), states.as_deref(), &logs)? {
                    Seen::Done => continue,
                    Seen::Goes => (),
                    Seen::Failed => again.push(task.index),
                }
                left.push(task);
            }
            tasks = left;
            if !again.is_empty() {
                self.submit(&queued, &logs, &again)?;
            }
        }
        Ok(())
    }

    fn logs(&self) -> Result<PathBuf, Failure> {
        let logs = self.folder.path().join("slurm");
        let made = std::fs::create_dir_all(&logs).and_then(|()| std::path::absolute(&logs));
        made.map_err(|error| Failure::unwritten(&logs, &error))
    }

    fn submit(&self, queued: &Queued, logs: &Path, chunks: &[usize]) -> Result<(), Failure> {
        let mut rest = chunks;
        while let Some(&first) = rest.first() {
            let offset = first / ARRAY * ARRAY;
            let within = rest.partition_point(|&index| index < offset + ARRAY);
            let (these, others) = rest.split_at(within);
            rest = others;
            for index in these {
                let _ = std::fs::remove_file(logs.join(format!("{index}.code")));
            }
            let numbers: Vec<String> = these.iter().map(|it| (it - offset).to_string()).collect();
            let mut command = Command::new("sbatch");
            command
                .arg(format!("--array={}", numbers.join(",")))
                .arg(format!("--job-name={}", queued.name(offset)))
                .arg(format!("--cpus-per-task={}", self.plan.threads.max(1)))
                .args(["--requeue", "--output=/dev/null"])
                .args(self.options)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let script = self.script(logs, offset)?;
            let said = run(command, &script).map_err(|error| {
                Failure::cannot(format!(
                    "sbatch can't be run: {error}. --engine slurm needs Slurm's commands here."
                ))
            })?;
            if !said.status.success() {
                let said = String::from_utf8_lossy(&said.stderr).trim().to_string();
                return Err(Failure::usage(format!("Slurm takes no such tasks: {said}")));
            }
        }
        Ok(())
    }

    /// What a task runs, which has a number of its own.
    fn script(&self, logs: &Path, offset: usize) -> Result<String, Failure> {
        let plan = self.folder.plan();
        let plan = std::path::absolute(&plan).map_err(|error| Failure::unwritten(&plan, &error))?;
        let first_pass = match self.step {
            Step::FirstPass => " --first-pass",
            Step::Packets => "",
        };
        Ok(format!(
            "#!/bin/sh\n\
             index=$((SLURM_ARRAY_TASK_ID + {offset}))\n\
             cd {logs} || exit 75\n\
             {program} chunk {plan} --index $index --json{first_pass} >$index.out 2>$index.err\n\
             code=$?\n\
             echo $code >$index.code\n\
             exit $code\n",
            logs = quoted(logs)?,
            program = quoted(self.program)?,
            plan = quoted(&plan)?,
        ))
    }

    /// How it is with a task. `queued`: what is, and whether that runs. The error: there won't be another attempt.
    fn look(
        &self,
        task: &mut Task,
        rates: Option<&Rates>,
        queued: Option<&[(usize, bool)]>,
        logs: &Path,
    ) -> Result<Seen, Failure> {
        let (index, place) = (task.index, task.place);
        if let Some(bytes) = self.step.made(self.plan, self.folder, rates, index) {
            if !task.is_begun {
                (self.told)(Event::Begun { place, index });
            }
            (self.told)(Event::Done {
                place,
                index,
                bytes,
            });
            return Ok(Seen::Done);
        }
        let Some(queued) = queued else {
            return Ok(Seen::Goes);
        };
        match queued.iter().find(|(number, _)| *number == index) {
            Some((_, runs)) => {
                task.gone = None;
                if *runs && !task.is_begun {
                    task.is_begun = true;
                    (self.told)(Event::Begun { place, index });
                }
                if let Some(made) = last_made(&logs.join(format!("{index}.out"))).filter(|_| *runs)
                {
                    (self.told)(Event::Made { place, made });
                }
                Ok(Seen::Goes)
            }
            None if task.gone.get_or_insert_with(Instant::now).elapsed() < LATE => Ok(Seen::Goes),
            None => {
                let failure = failure(logs, index);
                if task.is_begun {
                    (self.told)(Event::Failed {
                        place,
                        index,
                        attempt: task.attempt,
                        why: failure.text.clone(),
                    });
                }
                let is_last = task.attempt == MOST_ATTEMPTS;
                if is_last || !matches!(failure.code, Code::Failed | Code::Again) {
                    let chunk = self.plan.chunk(index)?;
                    return Err(chunk.cannot_be_encoded(&failure));
                }
                (task.attempt, task.is_begun, task.gone) = (task.attempt + 1, false, None);
                Ok(Seen::Failed)
            }
        }
    }
}

enum Seen {
    Done,
    Goes,
    /// It is to be submitted again.
    Failed,
}

/// Runs it with this as its input.
fn run(mut command: Command, input: &str) -> std::io::Result<Output> {
    let mut child = command.spawn()?;
    // One that ends without reading all of it has said why.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

/// As a shell takes it for one word.
fn quoted(path: &Path) -> Result<String, Failure> {
    let text = path.to_str();
    let text = text.ok_or_else(|| Failure::usage(format!("{} is no text", path.display())))?;
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}

fn last_bytes(path: &Path) -> Option<String> {
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS)))
        .ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// How far a task is.
fn last_made(path: &Path) -> Option<Made> {
    let text = last_bytes(path)?;
    let mut lines = text.lines().rev();
    lines.find_map(|line| serde_json::from_str(line).ok())
}

/// Why a task ended that made nothing.
fn failure(logs: &Path, index: usize) -> Failure {
    let code = std::fs::read_to_string(logs.join(format!("{index}.code"))).ok();
    let code = code.and_then(|code| code.trim().parse::<i32>().ok());
    let words = last_bytes(&logs.join(format!("{index}.err"))).unwrap_or_default();
    let words = words.trim();
    match code {
        // As shells tell it.
        Some(signal @ 129..) => failed_with(
            None,
            &format!("was ended by signal {}", signal - 128),
            words,
        ),
        Some(code) => failed_with(Some(code), &format!("ended with {code}"), words),
        None => failed_with(None, "was ended by Slurm", words),
    }
}
