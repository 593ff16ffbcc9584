// SPDX-License-Identifier: MPL-2.0

//! A file becomes another: planned, encoded by jobs, joined. What an earlier run of the same command has done is taken over.

use crate::chunk::Made;
use crate::dask::Dask;
use crate::element;
use crate::failure::{Code, Failure};
use crate::fitting::{Change, Fitting};
use crate::folder::{Folder, Record, beside};
use crate::formats::{self, FileType};
use crate::jobs::{Event, Jobs, SILENCE, Step};
use crate::join::{self, Joined, Options};
use crate::machines::{Machines, Roots, Scheduler, Work};
use crate::passes;
use crate::plan::{Plan, Request, Way};
use crate::progress::{Progress, Style, clock};
use crate::slurm::Slurm;
use indicatif::HumanBytes;
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use vtparallelenc::export::keeps_average_bitrate;

/// What one command exports.
pub struct Export {
    pub request: Request,
    pub output: PathBuf,
    pub options: Options,
    pub overwrite: bool,
    pub folder: Folder,
    pub style: Style,
    /// This program, which each job runs.
    pub program: PathBuf,
    pub engine: Engine,
    pub roots: Roots,
}

/// What runs the jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// This machine.
    Local,
    /// The machines of Slurm.
    Slurm {
        /// More options of `sbatch`.
        options: Vec<String>,
    },
    /// The workers of Dask.
    Dask {
        /// The address of its scheduler.
        scheduler: String,
    },
}

impl fmt::Display for Engine {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Local => "local",
            Self::Slurm { .. } => "slurm",
            Self::Dask { .. } => "dask",
        })
    }
}

/// What was done. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    pub output: PathBuf,
    pub frames: u64,
    pub seconds: f64,
    pub frames_per_second: f64,
    /// How many times as fast as the film plays.
    pub speed: f64,
    /// How many times as fast as one job, by what this run's jobs took; `None`: it had none.
    pub speed_up: Option<f64>,
    pub bytes: u64,
    /// Bits per second.
    pub bitrate: u64,
    pub notes: Vec<String>,
    /// One encoder encoded all, for this reason.
    pub whole: Option<String>,
    /// The source ended at the first of these seconds, and said that it would at the second.
    pub truncated: Option<[f64; 2]>,
}

/// The type of an output, which may be written there.
pub fn checked_output(source: &Path, output: &Path, overwrite: bool) -> Result<FileType, Failure> {
    let kind = formats::of_name(output).ok_or_else(|| {
        Failure::usage(format!(
            "the name {} doesn't end with a type of files that can be written: mp4, mov, mkv, webm or ts",
            output.display()
        ))
    })?;
    if !kind.is_installed {
        return Err(Failure::cannot(format!("{kind}")));
    }
    let is_same = |there: &Path| Some(there.canonicalize().ok()? == source.canonicalize().ok()?);
    if is_same(output) == Some(true) {
        return Err(Failure::usage(format!(
            "{} is the source itself: the output needs another name",
            output.display()
        )));
    }
    if output.is_dir() {
        return Err(Failure::usage(format!(
            "{} is a directory: name a file in it",
            output.display()
        )));
    }
    if output.exists() && !overwrite {
        return Err(Failure::usage(format!(
            "{} is there already; --overwrite replaces it",
            output.display()
        )));
    }
    let directory = output.parent().filter(|it| !it.as_os_str().is_empty());
    if let Some(directory) = directory.filter(|it| !it.is_dir()) {
        return Err(Failure::usage(format!(
            "{} isn't a directory",
            directory.display()
        )));
    }
    Ok(kind)
}

impl Export {
    /// Does it all. `stops`: it is to end.
    pub fn run(&self, stops: &AtomicBool) -> Result<Summary, Failure> {
        let since = Instant::now();
        let kind = checked_output(&self.request.source, &self.output, self.overwrite)?;
        let lock = self.folder.lock()?;
        if lock.is_none() {
            return Err(Failure::again(format!(
                "another vtexport is at work on {}",
                self.output.display()
            )));
        }
        let done = self.all(&kind, since, stops);
        // What was only planned is of no use to anybody.
        if done.is_ok() || !self.folder.has_records() {
            self.folder.remove();
        }
        done
    }

    fn all(&self, kind: &FileType, since: Instant, stops: &AtomicBool) -> Result<Summary, Failure> {
        let plan = self.plan(kind, stops)?;
        self.check_engine(&plan)?;
        let mut remade = Vec::new();
        let mut jobs = None;
        let mut fitting = Fitting::new(&plan);
        if plan.passes.is_some() {
            jobs = Some(self.step(&plan, Step::FirstPass, stops)?);
            if !passes::are_spread(&plan, &self.folder) {
                let bits = fitting.bits(&plan, &self.options.audio);
                let rates = passes::spread(&plan, &self.folder, bits)?;
                self.folder.write_rates(&rates)?;
            }
        }
        let mut joined = loop {
            if plan.way == Way::Chunks {
                let encoded = self.step(&plan, Step::Packets, stops);
                if encoded.is_err() && self.options.keep_partial && stops.load(Ordering::SeqCst) {
                    return Err(self.part(&plan));
                }
                let (busy, wall) = encoded?;
                let before = jobs.unwrap_or((0.0, 0.0));
                jobs = Some((before.0 + busy, before.1 + wall));
            }
            match self.joined(&plan, plan.chunks.len(), stops) {
                // What is kept of it is damaged: once, it is made anew.
                Err(Failure {
                    missing: Some(index),
                    ..
                }) if !remade.contains(&index) => {
                    self.folder.forget(index);
                    remade.push(index);
                }
                joined => {
                    let joined = joined?;
                    if joined.is_partial || !self.fits_better(&plan, &joined, &mut fitting)? {
                        break joined;
                    }
                }
            }
        };
        if let Some(note) = fitting.missed() {
            joined.notes.push(note);
        }
        join::put(&self.output)?;
        if joined.is_partial {
            return Err(self.ended_early(joined.frames, ""));
        }
        Ok(self.summary(&plan, joined, since.elapsed().as_secs_f64(), jobs))
    }

    /// That of an earlier run, if nothing has changed since.
    fn plan(&self, kind: &FileType, stops: &AtomicBool) -> Result<Plan, Failure> {
        let root = self.roots.source.as_deref();
        let earlier = Plan::read(&self.folder.plan()).ok();
        let earlier = earlier.and_then(|plan| self.found(plan));
        let is_good = |plan: &Plan| {
            plan.is_what_was_asked(&self.request)
                && plan.source.is_untouched()
                && plan.check_installation().is_ok()
        };
        if let Some(plan) = earlier.filter(is_good) {
            return Ok(plan);
        }
        let plan = Plan::make(self.request.clone(), kind, stops)?;
        let plan = match root {
            Some(root) => plan.put_below(root)?,
            None => plan,
        };
        self.folder.clear();
        self.folder.write_plan(&plan)?;
        plan.found_below(root)
    }

    /// An earlier plan, with its source. Other machines need the root that they are told; this one goes on with any.
    fn found(&self, plan: Plan) -> Option<Plan> {
        let source = self.request.source.canonicalize().ok()?;
        let root = match &self.roots.source {
            Some(root) => Some(root.as_path()),
            None if self.engine == Engine::Local && source.ends_with(&plan.source.path) => source
                .ancestors()
                .nth(plan.source.path.components().count()),
            None => None,
        };
        let is_for_all = plan.may_have_copies() || root.is_none();
        let is_good = is_for_all || self.engine == Engine::Local;
        is_good.then(|| plan.found_below(root).ok())?
    }

    /// What can't be had of other machines isn't had of this one without a word.
    fn check_engine(&self, plan: &Plan) -> Result<(), Failure> {
        if self.engine == Engine::Local {
            return Ok(());
        }
        if let Way::Whole { reason } = &plan.way {
            return Err(Failure::usage(format!(
                "--engine {} is for chunks, and the film is encoded in one: {reason}. Without --engine, this machine does that.",
                self.engine
            )));
        }
        if plan.passes.is_none() && keeps_average_bitrate(&plan.encoder) {
            return Err(Failure::usage(format!(
                "--engine {} can't keep an average bitrate in one pass, as no chunk knows what the others take: --multi-pass spreads the bits \
                 over all of them, and a constant quality needs none of that.",
                self.engine
            )));
        }
        Ok(())
    }

    /// The output is to be nearer to the bitrate that it should have or the size that it may have: there are other rates now.
    fn fits_better(
        &self,
        plan: &Plan,
        joined: &Joined,
        fitting: &mut Fitting,
    ) -> Result<bool, Failure> {
        let Some(rates) = self.folder.rates(plan) else {
            return Ok(false);
        };
        let made: Vec<Record> = self.folder.read_all(plan).into_iter().flatten().collect();
        let pictures = made.iter().map(|record| record.bytes).sum();
        let decided = fitting.decide(joined.bytes, pictures);
        let decided = decided.and_then(|change| {
            let Some(Change { wanted, all }) = change else {
                return Ok(false);
            };
            let (plan, folder) = (plan, &self.folder);
            let rates = passes::corrected(plan, folder, &rates, &made, wanted, all)?;
            folder.write_rates(&rates)?;
            Ok(true)
        });
        if !matches!(decided, Ok(false)) {
            let _ = std::fs::remove_file(beside(&self.output));
        }
        decided.map_err(|failure| match failure.code {
            // Of such a size it can't be had, and for another one all is made anew.
            Code::Usage => {
                self.folder.clear();
                failure
            }
            _ => self.resumable(failure),
        })
    }

    /// Makes what isn't there, and says how many seconds jobs and the wall clock took for it.
    fn step(&self, plan: &Plan, step: Step, stops: &AtomicBool) -> Result<(f64, f64), Failure> {
        let since = Instant::now();
        let rates = self.folder.rates(plan);
        let all = 0..plan.chunks.len();
        let made = all.map(|index| step.made(plan, &self.folder, rates.as_ref(), index));
        let made: Vec<Option<u64>> = made.collect();
        let (done, waiting): (Vec<usize>, Vec<usize>) =
            (0..made.len()).partition(|&index| made[index].is_some());
        let bytes = made.iter().flatten().sum();
        // (How many machines there are is seen when they work.)
        let places = match self.engine {
            Engine::Local => plan.places(waiting.len()),
            Engine::Slurm { .. } | Engine::Dask { .. } => 0,
        };
        let progress = Progress::new(plan, &waiting, places, bytes, self.style);
        if plan.passes.is_some() {
            progress.begin(match step {
                Step::FirstPass => "first pass",
                Step::Packets => "second pass",
            });
        }
        if !done.is_empty() {
            progress.say(&format!(
                "{} of {} chunks are there already.",
                done.len(),
                plan.chunks.len()
            ));
        }
        let ended = self.run_step(plan, step, waiting, &|event| progress.see(event), stops);
        progress.end();
        ended.map_err(|failure| self.resumable(failure))?;
        Ok((progress.busy(), since.elapsed().as_secs_f64()))
    }

    fn run_step(
        &self,
        plan: &Plan,
        step: Step,
        waiting: Vec<usize>,
        told: &(dyn Fn(Event) + Sync),
        stops: &AtomicBool,
    ) -> Result<(), Failure> {
        let (folder, program) = (&self.folder, self.program.as_path());
        let work = || Work::new(plan, folder, step, &self.roots);
        let mut scheduler: Box<dyn Scheduler> = match &self.engine {
            _ if waiting.is_empty() => return Ok(()),
            Engine::Local => {
                return Jobs {
                    plan,
                    folder,
                    step,
                    program,
                    silence: SILENCE,
                    stops,
                    told,
                }
                .run(waiting);
            }
            Engine::Slurm { options } => Box::new(Slurm::new(work()?, program, options)),
            Engine::Dask { scheduler } => {
                let tag = element::tag(&plan.encoder)?;
                Box::new(Dask::new(&work()?, scheduler, &tag)?)
            }
        };
        Machines {
            plan,
            folder,
            step,
            stops,
            told,
        }
        .run(&mut *scheduler, &waiting)
    }

    /// It was ended: the chunks that are done, up to the first that isn't, become a file.
    fn part(&self, plan: &Plan) -> Failure {
        let records = self.folder.read_all(plan);
        let done = records.iter().take_while(|record| record.is_some()).count();
        if done == 0 {
            let failure = Failure::again("ended before the first chunk was done");
            return self.resumable(failure);
        }
        // That isn't ended by what has ended the rest; once more is.
        match self.joined(plan, done, &AtomicBool::new(false)) {
            Ok(joined)
                if plan
                    .request
                    .size_limit
                    .is_some_and(|limit| joined.bytes > limit) =>
            {
                let _ = std::fs::remove_file(beside(&self.output));
                let failure = Failure::again("ended, and what is done is larger than it may be");
                self.resumable(failure)
            }
            Ok(joined) => match join::put(&self.output) {
                Ok(()) => {
                    self.ended_early(joined.frames, "; with --overwrite the same command goes on")
                }
                Err(failure) => failure,
            },
            Err(failure) => failure,
        }
    }

    fn ended_early(&self, frames: u64, and: &str) -> Failure {
        Failure::again(format!(
            "ended: the first {frames} frames are in {}{and}",
            self.output.display()
        ))
    }

    /// What is done stays.
    fn resumable(&self, failure: Failure) -> Failure {
        if !self.folder.has_records() {
            return failure;
        }
        // (Of another source it is taken over by none.)
        let goes_on = match failure.code {
            Code::Source => "",
            Code::Failed | Code::Again => "; the same command goes on from there",
            Code::Usage | Code::Cannot => {
                "; the same command goes on from there when that is mended"
            }
        };
        Failure {
            text: format!(
                "{}. What is done is kept in {}{goes_on}.",
                failure.text.trim_end_matches('.'),
                self.folder.path().display()
            ),
            ..failure
        }
    }

    fn joined(&self, plan: &Plan, chunks: usize, stops: &AtomicBool) -> Result<Joined, Failure> {
        let progress = match plan.way {
            Way::Whole { .. } => Some(Whole::new(plan, self.style)),
            Way::Chunks => None,
        };
        let mut told = |frames| {
            if let Some(progress) = &progress {
                progress.see(frames);
            }
            match stops.load(Ordering::SeqCst) {
                true => Err(Failure::again("interrupted")),
                false => Ok(()),
            }
        };
        let (folder, output) = (&self.folder, &self.output);
        let joined = join::join(plan, folder, output, &self.options, chunks, &mut told);
        if let Some(progress) = &progress {
            progress.end();
        }
        joined.map_err(|failure| match plan.way {
            Way::Chunks => self.resumable(failure),
            Way::Whole { .. } => failure,
        })
    }

    fn summary(
        &self,
        plan: &Plan,
        joined: Joined,
        seconds: f64,
        busy: Option<(f64, f64)>,
    ) -> Summary {
        let film = plan.seconds();
        Summary {
            output: self.output.clone(),
            frames: joined.frames,
            seconds,
            frames_per_second: joined.frames as f64 / seconds,
            speed: film / seconds,
            speed_up: busy
                .filter(|(busy, _)| *busy > 0.0)
                .map(|(busy, wall)| busy / wall),
            bytes: joined.bytes,
            bitrate: (joined.bytes as f64 * 8.0 / film.max(0.001)) as u64,
            notes: joined.notes,
            truncated: plan.truncated,
            whole: match &plan.way {
                Way::Whole { reason } => Some(reason.clone()),
                Way::Chunks => None,
            },
        }
    }
}

/// How far it is where one pipeline does all.
struct Whole(Progress);

impl Whole {
    /// As if the film were one chunk.
    fn new(plan: &Plan, style: Style) -> Self {
        let mut alone = plan.clone();
        alone.jobs = 1;
        alone.chunks = vec![crate::plan::Chunk {
            index: 0,
            own: [0, plan.expected_frames()],
            lead: 0,
            trail: 0,
            from: 0.0,
            to: 0.0,
        }];
        let progress = Progress::new(&alone, &[0], 1, 0, style);
        progress.see(Event::Begun { place: 0, index: 0 });
        Self(progress)
    }

    fn see(&self, frames: u64) {
        self.0.see(Event::Made {
            place: 0,
            made: Made {
                fed: frames,
                packets: frames,
                skipped: 0,
            },
        });
    }

    fn end(&self) {
        self.0.end();
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(to, "{}", self.output.display())?;
        writeln!(to, "  frames       {}", self.frames)?;
        writeln!(
            to,
            "  time         {} ({:.1} s)",
            clock(self.seconds),
            self.seconds
        )?;
        writeln!(
            to,
            "  speed        {:.1} frames/s, {:.2} times as fast as it plays",
            self.frames_per_second, self.speed
        )?;
        match (self.speed_up, &self.whole) {
            (Some(speed_up), _) => writeln!(
                to,
                "  against one  {speed_up:.2} jobs were at work on average"
            )?,
            (None, Some(reason)) => writeln!(to, "  in one       {reason}")?,
            (None, None) => (),
        }
        write!(
            to,
            "  size         {}, {:.0} kbit/s on average",
            HumanBytes(self.bytes),
            self.bitrate as f64 / 1000.0
        )?;
        for note in &self.notes {
            write!(to, "\n  note         {note}")?;
        }
        Ok(())
    }
}
