// SPDX-License-Identifier: MPL-2.0

//! Tasks of Slurm: arrays, which `sbatch` takes. Those whose node dies are requeued by Slurm, as are those that another time may go better, if
//! it is told so (RequeueExit=75).

use crate::failure::Failure;
use crate::jobs::Step;
use crate::machines::{Ended, Scheduler, Work};
use crate::tasks::{Copy, State};
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Tasks of an array: its numbers are below Slurm's MaxArraySize, which is 1001 where nobody sets it.
const ARRAY: usize = 1_000;

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
        }
    }

    fn submit_array(&mut self, copies: &[Copy]) -> Result<(), Failure> {
        let mut command = Command::new("sbatch");
        command
            .args(["--parsable", "--requeue", "--output=/dev/null"])
            .arg(format!("--array=0-{}", copies.len() - 1))
            .arg(format!("--job-name={}", self.name))
            .arg(format!("--cpus-per-task={}", self.work.threads.max(1)))
            .args(self.options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let said = run(command, &self.script(copies)?).map_err(|error| {
            Failure::cannot(format!(
                "sbatch can't be run: {error}. --engine slurm needs Slurm's commands here."
            ))
        })?;
        if !said.status.success() {
            let said = String::from_utf8_lossy(&said.stderr).trim().to_string();
            return Err(Failure::usage(format!("Slurm takes no such tasks: {said}")));
        }
        // (With the cluster's name after it, where there are several.)
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let id = said.trim().split(';').next().and_then(|id| id.parse().ok());
        let id = id.ok_or_else(|| {
            Failure::cannot(format!("sbatch says no number of a job, but {said:?}"))
        })?;
        self.arrays.insert(id, copies.to_vec());
        Ok(())
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
             rm -f \"$said.code\"\n\
             {program} chunk {plan} --index ${{1%-*}} --json{first_pass} >\"$said.out\" 2>\"$said.err\" || code=$?\n\
             echo ${{code:-0}} >\"$said.code\"\n\
             exit ${{code:-0}}\n",
            work_root = root("VTEXPORT_WORK_ROOT", roots.work.as_deref())?,
            source_root = root("VTEXPORT_SOURCE_ROOT", roots.source.as_deref())?,
            names = names.join(" "),
            said = at(&self.work.said)?,
            program = quoted(self.program)?,
            plan = at(&self.work.plan)?,
        ))
    }
}

impl Scheduler for Slurm<'_> {
    fn submit(&mut self, copies: &[Copy]) -> Result<(), Failure> {
        let mut arrays = copies.chunks(ARRAY);
        arrays.try_for_each(|array| self.submit_array(array))
    }

    fn cancel(&mut self, copies: &[Copy]) {
        let of_array = self.arrays.iter().flat_map(|(id, array)| {
            let these = array.iter().enumerate();
            let these = these.filter(|(_, copy)| copies.contains(copy));
            these.map(move |(place, _)| format!("{id}_{place}"))
        });
        let _ = Command::new("scancel")
            .args(of_array)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }

    fn states(&mut self) -> Result<Option<HashMap<Copy, State>>, Failure> {
        let said = Command::new("squeue")
            .args(["--noheader", "--array", "--format=%F %K %T %r"])
            .arg(format!("--name={}", self.name))
            .stderr(Stdio::null())
            .output();
        let Some(said) = said.ok().filter(|said| said.status.success()) else {
            return Ok(None);
        };
        let state = |line: &str| {
            let mut words = line.split_whitespace();
            let array = self.arrays.get(&words.next()?.parse().ok()?)?;
            let place: usize = words.next()?.parse().ok()?;
            let state = match words.next()? {
                "RUNNING" | "COMPLETING" | "SUSPENDED" | "STOPPED" => State::Runs,
                // It stays there until somebody releases it ("launch failed requeued held").
                _ if line.ends_with("requeued held") => State::Ended,
                _ => State::Waits,
            };
            Some((*array.get(place)?, state))
        };
        let text = String::from_utf8_lossy(&said.stdout);
        Ok(Some(text.lines().filter_map(state).collect()))
    }

    fn ended(&self, copy: Copy) -> Option<Ended> {
        let code = std::fs::read_to_string(self.work.here.join(format!("{copy}.code"))).ok()?;
        let code = code.trim().parse().ok();
        code.map(|code| Ended {
            code: Some(code),
            text: String::new(),
        })
    }

    fn says(&mut self) -> Vec<String> {
        Vec::new()
    }
}

impl Drop for Slurm<'_> {
    fn drop(&mut self) {
        let _ = Command::new("scancel")
            .arg(format!("--name={}", self.name))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
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
