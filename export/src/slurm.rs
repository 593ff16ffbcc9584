// SPDX-License-Identifier: MPL-2.0

//! Tasks of Slurm: arrays, which `sbatch` takes. Those whose node dies are requeued by Slurm, as are those that another time may go better, if
//! it is told so (RequeueExit=75).

use crate::failure::Failure;
use crate::jobs::{Step, helper};
use crate::machines::{Ended, Scheduler, Work};
use crate::tasks::{Copy, State};
use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Tasks of an array: its numbers are below Slurm's MaxArraySize, which is 1001 where nobody sets it.
const ARRAY: usize = 1_000;

/// How often tasks are submitted again that it didn't take, as somebody may have no more than so many.
const ASKS_AGAIN: Duration = Duration::from_secs(10);

/// Why a task stays queued until somebody releases it, which nobody does but for JobHeldUser.
const HELD: [&str; 4] = [
    "requeued held",
    "held state",
    "JobHoldMaxRequeue",
    "JobHeldAdmin",
];

/// By which a machine says where it has them.
const WORK_ROOT: &str = "VTEXPORT_WORK_ROOT";
const SOURCE_ROOT: &str = "VTEXPORT_SOURCE_ROOT";

/// The machines of Slurm.
pub struct Slurm<'a> {
    work: Work,
    /// This program, at the same place on all machines.
    program: &'a Path,
    /// More options of `sbatch`.
    options: &'a [String],
    /// By which all are known, and cancelled.
    name: String,
    /// The tasks of each array, by its number in Slurm.
    arrays: HashMap<u64, Vec<Copy>>,
    /// Tasks that it didn't take, and since when.
    refused: Vec<Copy>,
    refused_at: Instant,
    says: Vec<String>,
}

impl<'a> Slurm<'a> {
    pub fn new(work: Work, program: &'a Path, options: &'a [String]) -> Self {
        let id = work.id.get(..8).unwrap_or_default();
        Self {
            name: format!("vtexport-{id}-{}", std::process::id()),
            work,
            program,
            options,
            arrays: HashMap::new(),
            refused: Vec::new(),
            refused_at: Instant::now(),
            says: Vec::new(),
        }
    }

    /// The inner error: it doesn't take them now.
    fn submit_array(&mut self, copies: &[Copy]) -> Result<Result<(), Failure>, Failure> {
        let avoided = self.failed_on(copies);
        let mut said = self.sbatch(copies, &avoided)?;
        // It may have no other machines.
        if !said.status.success() && !avoided.is_empty() {
            said = self.sbatch(copies, &BTreeSet::new())?;
        }
        if !said.status.success() {
            let said = String::from_utf8_lossy(&said.stderr).trim().to_string();
            let text = format!("Slurm takes no such tasks: {said}");
            return Ok(Err(Failure::usage(text)));
        }
        // (With the cluster's name after it, where there are several.)
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let id = said.trim().split(';').next().and_then(|id| id.parse().ok());
        let id = id.ok_or_else(|| {
            Failure::cannot(format!("sbatch says no number of a job, but {said:?}"))
        })?;
        self.arrays.insert(id, copies.to_vec());
        Ok(Ok(()))
    }

    fn sbatch(&self, copies: &[Copy], avoided: &BTreeSet<String>) -> Result<Output, Failure> {
        let mut command = command("sbatch");
        let avoided: Vec<&str> = avoided.iter().map(String::as_str).collect();
        command
            .args(["--parsable", "--requeue", "--output=/dev/null"])
            .arg(format!("--array=0-{}", copies.len() - 1))
            .arg(format!("--job-name={}", self.name))
            .arg(format!("--cpus-per-task={}", self.work.threads.max(1)))
            .args((!avoided.is_empty()).then(|| format!("--exclude={}", avoided.join(","))))
            .args(self.options)
            // (What is here is said in the script; each machine may say otherwise.)
            .env_remove(WORK_ROOT)
            .env_remove(SOURCE_ROOT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        run(command, &self.script(copies)?).map_err(|error| {
            Failure::cannot(format!(
                "sbatch can't be run: {error}. --engine slurm needs Slurm's commands here."
            ))
        })
    }

    /// Machines on which earlier tasks for the same chunks failed.
    fn failed_on(&self, copies: &[Copy]) -> BTreeSet<String> {
        let earlier = copies.iter().flat_map(|copy| {
            let index = copy.index;
            (1..copy.number).map(move |number| Copy { index, number })
        });
        let ends = earlier.filter_map(|copy| self.end_of(copy));
        let failed = ends.filter(|(code, _)| *code != 0);
        failed
            .map(|(_, machine)| machine)
            .filter(|it| !it.is_empty())
            .collect()
    }

    /// What a task ended with, and where.
    fn end_of(&self, copy: Copy) -> Option<(i32, String)> {
        let said = std::fs::read_to_string(self.work.here.join(format!("{copy}.code"))).ok()?;
        let mut words = said.split_whitespace();
        let code = words.next()?.parse().ok()?;
        Some((code, words.next().unwrap_or_default().into()))
    }

    /// What the tasks of an array run, each of which has a number of its own.
    fn script(&self, copies: &[Copy]) -> Result<String, Failure> {
        let names: Vec<String> = copies.iter().map(ToString::to_string).collect();
        let first_pass = match self.work.step {
            Step::FirstPass => " --first-pass",
            Step::Packets => "",
        };
        let roots = &self.work.roots;
        let at = |path: &Path| -> Result<String, Failure> {
            let root = roots
                .work
                .as_ref()
                .map_or("", |_| "\"$VTEXPORT_WORK_ROOT\"/");
            Ok(format!("{root}{}", quoted(path)?))
        };
        Ok(format!(
            "#!/bin/sh\n\
             {work_root}{source_root}\
             set -- {names}\n\
             shift $SLURM_ARRAY_TASK_ID\n\
             said={said}/$1\n\
             code=75\n\
             if rm -f \"$said.code\" && : >\"$said.out\" && : >\"$said.err\"; then\n\
             {program} chunk {plan} --index ${{1%-*}} --json{first_pass} >\"$said.out\" 2>\"$said.err\"\n\
             code=$?\n\
             fi\n\
             echo \"$code $SLURMD_NODENAME\" >\"$said.code\"\n\
             exit $code\n",
            work_root = root(WORK_ROOT, roots.work.as_deref())?,
            source_root = root(SOURCE_ROOT, roots.source.as_deref())?,
            names = names.join(" "),
            said = at(&self.work.said)?,
            program = quoted(self.program)?,
            plan = at(&self.work.plan)?,
        ))
    }
}

impl Scheduler for Slurm<'_> {
    fn submit(&mut self, copies: &[Copy]) -> Result<(), Failure> {
        for array in copies.chunks(ARRAY) {
            // (After one that it doesn't take, the others wait, too.)
            if self.refused.is_empty() {
                let Err(failure) = self.submit_array(array)? else {
                    continue;
                };
                // What it takes none of it never does.
                if self.arrays.is_empty() {
                    return Err(failure);
                }
                let text = format!("{} (It is asked again.)", failure.text);
                self.says.push(text);
                self.refused_at = Instant::now();
            }
            self.refused.extend(array);
        }
        Ok(())
    }

    fn cancel(&mut self, copies: &[Copy]) {
        let of_array = self.arrays.iter().flat_map(|(id, array)| {
            let these = array.iter().enumerate();
            let these = these.filter(|(_, copy)| copies.contains(copy));
            these.map(move |(place, _)| format!("{id}_{place}"))
        });
        let of_array: Vec<String> = of_array.collect();
        self.refused.retain(|copy| !copies.contains(copy));
        if !of_array.is_empty() {
            let _ = command("scancel").args(of_array).status();
        }
    }

    fn states(&mut self) -> Result<Option<HashMap<Copy, State>>, Failure> {
        if !self.refused.is_empty() && self.refused_at.elapsed() >= ASKS_AGAIN {
            let refused = std::mem::take(&mut self.refused);
            self.submit(&refused)?;
        }
        let said = command("squeue")
            .args(["--noheader", "--me", "--array", "--format=%F %K %T %r"])
            .arg(format!("--name={}", self.name))
            .env_remove("SQUEUE_STATES")
            .env_remove("SQUEUE_USERS")
            .stdout(Stdio::piped())
            .output();
        let Some(said) = said.ok().filter(|said| said.status.success()) else {
            return Ok(None);
        };
        let state = |line: &str| {
            let mut words = line.split_whitespace();
            let array = self.arrays.get(&words.next()?.parse().ok()?)?;
            let place: usize = words.next()?.parse().ok()?;
            let state = match words.next()? {
                "RUNNING" | "COMPLETING" => State::Runs,
                _ if HELD.iter().any(|reason| line.ends_with(reason)) => State::Ended,
                _ => State::Waits,
            };
            Some((*array.get(place)?, state))
        };
        let text = String::from_utf8_lossy(&said.stdout);
        let queued = text.lines().filter_map(state);
        let refused = self.refused.iter().map(|copy| (*copy, State::Waits));
        Ok(Some(queued.chain(refused).collect()))
    }

    fn ended(&self, copy: Copy) -> Option<Ended> {
        let (code, _) = self.end_of(copy)?;
        Some(Ended {
            code: Some(code),
            text: String::new(),
        })
    }

    fn says(&mut self) -> Vec<String> {
        std::mem::take(&mut self.says)
    }
}

impl Drop for Slurm<'_> {
    fn drop(&mut self) {
        let _ = command("scancel")
            .arg(format!("--name={}", self.name))
            .status();
    }
}

/// One of Slurm's.
fn command(name: &str) -> Command {
    let mut command = helper(name);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
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

/// A script's line: where a directory is, if the machine doesn't say that it has it elsewhere.
fn root(name: &str, root: Option<&Path>) -> Result<String, Failure> {
    root.map_or(Ok(String::new()), |root| {
        let root = quoted(root)?;
        Ok(format!("{name}=${{{name}:-{root}}}; export {name}\n"))
    })
}

/// As a shell takes it for one word.
fn quoted(path: &Path) -> Result<String, Failure> {
    let text = path.to_str();
    let text = text.ok_or_else(|| Failure::usage(format!("{} is no text", path.display())))?;
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}
