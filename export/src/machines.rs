// SPDX-License-Identifier: MPL-2.0

//! A task for each chunk, on whichever machines a scheduler has: the same chunks, in the same folder, which all of them have to see.
//!
//! Nothing but states comes through the scheduler. What a task is at is read from what it writes beside the plan, and that a chunk is done is
//! believed of its record alone. Whatever ends the command cancels what is queued and runs, and leaves what is done.
//!
//! Who wakes this: nobody, it looks every second.

use crate::chunk::Made;
use crate::failure::Failure;
use crate::folder::{Folder, Rates};
use crate::jobs::{Event, Step, failed_with, interrupted};
use crate::plan::{Plan, below};
use crate::tasks::{Act, Copy, Seen, State, Tasks};
use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How often the scheduler is asked, and how much more seldom for each task that runs, whose files are looked at.
const ASKS: Duration = Duration::from_secs(1);
const ASKS_EACH: Duration = Duration::from_millis(5);

/// A scheduler that doesn't answer for so long is worth a word, and isn't waited for any longer.
const SILENT: Duration = Duration::from_secs(30);
const GONE: Duration = Duration::from_secs(600);

/// How often somebody looks whether all is to end.
const TICK: Duration = Duration::from_millis(50);

/// Bytes at the end of what a task says that are read.
const LAST_WORDS: u64 = 2_000;

/// What runs tasks on machines. With it all that is queued or runs is cancelled.
pub trait Scheduler {
    fn submit(&mut self, copies: &[Copy]) -> Result<(), Failure>;
    fn cancel(&mut self, copies: &[Copy]);
    /// Of the tasks that it knows. `None`: it can't be asked now. The error: it never can.
    fn states(&mut self) -> Result<Option<HashMap<Copy, State>>, Failure>;
    /// What a task ended with, if it is known.
    fn ended(&self, copy: Copy) -> Option<Ended>;
    /// What people should read.
    fn says(&mut self) -> Vec<String>;
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// `None`: it was ended.
    pub code: Option<i32>,
    /// Which the task itself doesn't say.
    pub text: String,
}

/// What tasks are.
#[derive(Debug, Clone)]
pub struct Work {
    pub step: Step,
    /// The plan, and the directory of what tasks say, as all machines find them: below `roots.work`, if there is one.
    pub plan: PathBuf,
    pub said: PathBuf,
    /// The same directory, as it is found here.
    pub here: PathBuf,
    pub roots: Roots,
    /// The plan's.
    pub id: String,
    /// Cores of a task.
    pub threads: u32,
}

/// Directories that each machine may have at a place of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    /// That of the plan and its chunks.
    pub work: Option<PathBuf>,
    pub source: Option<PathBuf>,
}

impl Work {
    pub fn new(plan: &Plan, folder: &Folder, step: Step, roots: &Roots) -> Result<Self, Failure> {
        let here = folder.make_tasks()?;
        let named = "--work-root names: --temporary-directory says where chunks are kept";
        let from_root = |path: PathBuf| match &roots.work {
            Some(root) => below(&path, root, named),
            None => Ok(path),
        };
        Ok(Self {
            step,
            plan: from_root(here.with_file_name("plan.json"))?,
            said: from_root(here.clone())?,
            here,
            roots: roots.clone(),
            id: plan.id.clone(),
            threads: plan.threads,
        })
    }
}

/// Chunks that are encoded elsewhere.
pub struct Machines<'a> {
    pub plan: &'a Plan,
    pub folder: &'a Folder,
    pub step: Step,
    /// All is to end.
    pub stops: &'a AtomicBool,
    pub told: &'a (dyn Fn(Event) + Sync),
}

impl Machines<'_> {
    /// Encodes the chunks that aren't there.
    pub fn run(&self, scheduler: &mut dyn Scheduler, chunks: &[usize]) -> Result<(), Failure> {
        let said = self.folder.tasks();
        let rates = self.folder.rates(self.plan);
        let since = Instant::now();
        let mut tasks = Tasks::new(self.plan, chunks)?;
        self.carry_out(tasks.begin(since.elapsed()), scheduler)?;
        let mut asked = since;
        // When it answered last, and whether people know that it doesn't.
        let (mut answered, mut is_told) = (since, false);
        while !tasks.are_done() {
            if self.stops.load(Ordering::SeqCst) {
                return Err(interrupted());
            }
            thread::sleep(TICK);
            let running = u32::try_from(tasks.running()).unwrap_or(u32::MAX);
            if asked.elapsed() < ASKS.max(ASKS_EACH.saturating_mul(running)) {
                continue;
            }
            asked = Instant::now();
            let states = scheduler.states()?;
            for text in scheduler.says() {
                (self.told)(Event::Said { text });
            }
            // Where it can't be asked it may be another time: it may have been started anew.
            let Some(states) = states else {
                self.wait_for_scheduler(answered.elapsed(), &mut is_told)?;
                continue;
            };
            (answered, is_told) = (asked, false);
            let look = Look {
                machines: self,
                scheduler: &*scheduler,
                states,
                rates: rates.as_ref(),
                written: self.folder.written(self.step),
                said: &said,
            };
            let acts = tasks.see(since.elapsed(), &look)?;
            self.carry_out(acts, scheduler)?;
        }
        Ok(())
    }

    fn wait_for_scheduler(&self, silent: Duration, is_told: &mut bool) -> Result<(), Failure> {
        if silent >= GONE {
            let minutes = GONE.as_secs() / 60;
            return Err(Failure::again(format!(
                "the scheduler doesn't answer for {minutes} minutes"
            )));
        }
        if silent >= SILENT && !*is_told {
            *is_told = true;
            let text = format!("The scheduler doesn't answer for {} s.", SILENT.as_secs());
            (self.told)(Event::Said { text });
        }
        Ok(())
    }

    fn carry_out(&self, acts: Vec<Act>, scheduler: &mut dyn Scheduler) -> Result<(), Failure> {
        let (mut submitted, mut cancelled) = (Vec::new(), Vec::new());
        for act in acts {
            match act {
                Act::Submit(copy) => submitted.push(copy),
                Act::Cancel(copy) => cancelled.push(copy),
                Act::Tell(event) => (self.told)(event),
            }
        }
        if !cancelled.is_empty() {
            scheduler.cancel(&cancelled);
        }
        match submitted.is_empty() {
            true => Ok(()),
            false => scheduler.submit(&submitted),
        }
    }
}

/// What is seen of tasks at one time.
struct Look<'a> {
    machines: &'a Machines<'a>,
    scheduler: &'a dyn Scheduler,
    states: HashMap<Copy, State>,
    rates: Option<&'a Rates>,
    /// Chunks of which there is something.
    written: HashSet<usize>,
    said: &'a Path,
}

impl Seen for Look<'_> {
    fn state(&self, copy: Copy) -> State {
        self.states.get(&copy).copied().unwrap_or(State::Ended)
    }

    fn done(&self, index: usize) -> Option<u64> {
        let Machines {
            plan, folder, step, ..
        } = self.machines;
        let is_there = self.written.contains(&index);
        is_there.then(|| step.made(plan, folder, self.rates, index))?
    }

    fn made(&self, copy: Copy) -> Option<Made> {
        let text = last_bytes(&self.said.join(format!("{copy}.out")))?;
        let mut lines = text.lines().rev();
        lines.find_map(|line| serde_json::from_str(line).ok())
    }

    fn failure(&self, copy: Copy, is_late: bool) -> Option<Failure> {
        let words = || last_bytes(&self.said.join(format!("{copy}.err"))).unwrap_or_default();
        let failed = |code, how: &str| Some(failed_with(code, how, words().trim()));
        match self.scheduler.ended(copy) {
            Some(Ended { code: Some(0), .. }) => {
                is_late.then(|| Failure::failed("it left no record"))
            }
            // As shells tell it.
            Some(Ended {
                code: Some(signal @ 129..),
                ..
            }) => failed(None, &format!("was ended by signal {}", signal - 128)),
            Some(Ended { code, text }) if !text.is_empty() => {
                Some(failed_with(code, "ended", &format!("vtexport: {text}")))
            }
            Some(Ended { code, .. }) => {
                let how = code.map_or("was ended".into(), |code| format!("ended with {code}"));
                failed(code, &how)
            }
            None if is_late => failed(None, "was ended, nobody says by whom"),
            None => None,
        }
    }
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
