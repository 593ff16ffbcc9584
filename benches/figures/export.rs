// SPDX-License-Identifier: MPL-2.0

//! An export of `vtexport` over many machines in virtual time: chunks by the real planner and chunker, with models of an encoder, of
//! machines, of a scheduler and of a storage.

use crate::cluster::{Cluster, Task};
use crate::models::{
    ENCODERS, Encoder, Film, LEAST_KEY_DISTANCE, PICTURES, Picture, RATE, Random, Seams, seams,
};
use gstvtparallelenc::logic::plan::Plan;
use gstvtparallelenc::logic::request::{Beginning, Overlap, Request};
use gstvtparallelenc::logic::split::{Overhead, SeamCost};

/// Frames of the longest chunk, as `vtexport` asks for it.
const LONGEST_CHUNK: u64 = 1_500;

/// Cores of a machine, and threads of its one encoder.
pub const THREADS: u32 = 8;

/// To begin a process, and to open the source and the encoder, in seconds (measured: 0.3 with pictures of 64x64; the rest is assumed).
const START: f64 = 0.5;

/// Key frames of the source come after so many frames (assumed). Decoding begins with one.
const SOURCE_KEYS: u64 = 48;

/// Bytes that each task reads before its part: samples of the source (`export/src/digest.rs`: 32 of 64 KiB), and for each frame of the film
/// what the plan and the source's index say of it (measured: 2.9 MB and 0.7 MB for two hours).
const SAMPLES: f64 = 32.0 * 65_536.0;
const OF_FRAME: f64 = 21.0;

/// Of the storage, in bytes in a second, for all and for one machine (assumed).
const STORAGE: f64 = 1e9;
const EACH: f64 = 120e6;

/// Seconds of a scheduler for one task: Dask's (measured), and those of an array of Slurm (assumed).
pub const DASK: f64 = 0.0032;
pub const SLURM: f64 = 0.01;

/// To find the film's frames, in seconds of one of its seconds (measured: 0.3 s for 90 s), if it can be read so fast: the scan reads all of it.
const SCAN: f64 = 0.3 / 90.0;

/// Bytes in a second that the machine reads and writes which scans and joins (assumed), and frames that it joins (measured with the chunks of 43,200
/// frames: 1.4 to 1.9 s).
const FRONT: f64 = 400e6;
const JOINED: f64 = 25_000.0;

/// A part of all machines is so many times slower; the others are within a fifth of each other (assumed).
const SLOW: f64 = 0.05;
const SLOWER: f64 = 3.0;

/// How many of all machines are taken away in an hour (assumed).
const LEAVING: f64 = 1.0 / 200.0;

/// A picture's size, with its bits in a second of the source and of the output, and frames that one machine decodes in a second (all assumed).
pub struct Size {
    pub title: &'static str,
    pub lengths: &'static str,
    pub picture: &'static Picture,
    pub source: f64,
    pub output: f64,
    pub decoded: f64,
}

pub const SIZES: [Size; 2] = [
    Size {
        title: "Many machines, 1080p",
        lengths: "Many machines, 1080p: lengths of chunks",
        picture: &PICTURES[1],
        source: 20e6,
        output: 5e6,
        decoded: 300.0,
    },
    Size {
        title: "Many machines, 2160p, 10 bit",
        lengths: "Many machines, 2160p, 10 bit: lengths of chunks",
        picture: &PICTURES[2],
        source: 60e6,
        output: 15e6,
        decoded: 75.0,
    },
];

/// What may be left out of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The scan before, and the join after it.
    Ends,
    Storage,
    /// Chunks are as many as they are.
    Grain,
    /// Machines differ, and leave.
    Unequal,
    Scheduler,
    /// What each task does beside its own frames.
    Around,
}

pub const EFFECTS: [(Effect, &str); 6] = [
    (Effect::Ends, "scan and join"),
    (Effect::Storage, "storage"),
    (Effect::Grain, "too few chunks"),
    (Effect::Unequal, "unequal machines"),
    (Effect::Scheduler, "scheduler"),
    (Effect::Around, "starts and overlap"),
];

/// How the film is cut.
pub struct Cut {
    pub seams: Seams,
    pub before: u64,
    pub after: u64,
    /// Of the bits, as the plan expects it.
    pub price: Overhead,
}

impl Cut {
    /// By the planner, as `vtexport` asks it: for so many jobs, or in chunks of so many frames.
    pub fn new(film: &Film, jobs: u64, chunk_frames: Option<u64>) -> Self {
        let encoder = x265();
        let plan = Plan::make(&Request {
            sessions: jobs,
            sessions_are_automatic: false,
            beginning: Beginning::KeyFrame,
            longest_chunk: Some(LONGEST_CHUNK),
            chunk_frames,
            // (It cuts anywhere, without having seen the film.)
            key_distance: None,
            least_key_distance: LEAST_KEY_DISTANCE,
            follows_cuts: false,
            min_chunk_frames: 12,
            before: Overlap::UpTo(encoder.lead),
            after: Overlap::UpTo(encoder.lead * 2),
            source_frames: Some(film.frames),
            // (No process holds more than a few frames.)
            frame_bytes: 1,
            max_raw_bytes: u64::MAX,
            seam_cost: Some(SeamCost {
                at_key: encoder.at_key,
                elsewhere: encoder.at_key + 650,
            }),
            max_overhead: None,
        });
        let plan = plan.expect("memory doesn't limit it");
        Self {
            seams: seams(&plan, film),
            before: plan.before,
            after: plan.after,
            price: plan.overhead.unwrap_or_default(),
        }
    }

    pub fn chunks(&self) -> usize {
        self.seams.len() - 1
    }
}

fn x265() -> &'static Encoder {
    let it = ENCODERS.iter().find(|it| it.name == "x265");
    it.expect("there is one")
}

/// An export, and how it differs from the usual one.
#[derive(Clone, Copy)]
pub struct Export<'a> {
    pub film: &'a Film,
    pub size: &'a Size,
    pub machines: usize,
    pub copies: bool,
    pub dispatch: f64,
    pub without: Option<Effect>,
}

impl Export<'_> {
    /// Seconds of the usual machine for an average frame.
    fn frame(&self) -> f64 {
        let encoder = x265();
        encoder.time * self.size.picture.time / encoder.speed(self.size.picture, THREADS)
    }

    fn lacks(&self, effect: Effect) -> bool {
        self.without == Some(effect)
    }

    /// The first machines of as many as anyone likes: more machines are the same ones and others.
    fn speeds(&self, draw: u64) -> Vec<f64> {
        let mut random = Random::of(draw << 32 | 0xFFFF_FFFF);
        let mut speed = || match (random.part() < SLOW, random.part()) {
            (true, _) => 1.0 / SLOWER,
            (false, part) => 0.8 + 0.4 * part,
        };
        let speeds: Vec<f64> = (0..self.machines).map(|_| speed()).collect();
        match self.lacks(Effect::Unequal) {
            true => {
                let mean = speeds.iter().sum::<f64>() / self.machines as f64;
                vec![mean; self.machines]
            }
            false => speeds,
        }
    }

    pub fn cluster(&self, draw: u64) -> Cluster {
        let or = |effect, instead: f64, usual: f64| match self.lacks(effect) {
            true => instead,
            false => usual,
        };
        Cluster {
            speeds: self.speeds(draw),
            leaving: or(Effect::Unequal, 0.0, LEAVING),
            draw,
            dispatch: or(Effect::Scheduler, 0.0, self.dispatch),
            storage: or(Effect::Storage, 1e18, STORAGE),
            each: or(Effect::Storage, 1e18, EACH),
            copies: self.copies,
        }
    }

    pub fn tasks(&self, cut: &Cut) -> Vec<Task> {
        let frames = self.film.frames;
        let bytes = (self.size.source + self.size.output) / 8.0 / RATE as f64;
        let head = SAMPLES + OF_FRAME * frames as f64;
        let is_bare = self.lacks(Effect::Around);
        let task = |own: &[u64]| {
            let bare = Task {
                frames: own[1] - own[0],
                seconds: self.film.work_of(own[0], own[1]) * self.frame(),
                head: 0.0,
                body: (own[1] - own[0]) as f64 * bytes,
            };
            if is_bare {
                return bare;
            }
            let fed = own[0].saturating_sub(cut.before)..(own[1] + cut.after).min(frames);
            let unused = fed.start % SOURCE_KEYS;
            let decoding = unused as f64 / self.size.decoded;
            let encoding = self.film.work_of(fed.start, fed.end) * self.frame();
            Task {
                seconds: START + decoding + encoding,
                head,
                body: (fed.end - fed.start + unused) as f64 * bytes,
                ..bare
            }
        };
        cut.seams.windows(2).map(task).collect()
    }

    /// Before the first chunk, and after the last one.
    pub fn ends(&self) -> f64 {
        let frames = self.film.frames as f64;
        let seconds = frames / RATE as f64;
        let bytes = |bits: f64| bits / 8.0 * seconds;
        let scan = (seconds * SCAN).max(bytes(self.size.source) / FRONT);
        let join = 2.0 * bytes(self.size.output) / FRONT + frames / JOINED;
        match self.lacks(Effect::Ends) {
            true => 0.0,
            false => scan + join,
        }
    }

    /// Seconds of one draw of machines.
    pub fn once(&self, cut: &Cut, draw: u64) -> f64 {
        let mut tasks = self.tasks(cut);
        let mut cluster = self.cluster(draw);
        if self.lacks(Effect::Grain) {
            // So many for each machine that nobody waits for the last one, for the same price.
            let parts = (8 * self.machines).div_ceil(tasks.len()).max(8);
            let part = parts as f64;
            cluster.dispatch /= part;
            let small = |task: Task| Task {
                seconds: task.seconds / part,
                head: task.head / part,
                body: task.body / part,
                ..task
            };
            tasks = tasks
                .into_iter()
                .flat_map(|task| std::iter::repeat_n(small(task), parts))
                .collect();
        }
        self.ends() + cluster.run(&tasks)
    }

    /// What nobody passes: all machines encode from the first moment to the last one, and each frame once.
    pub fn ideal(&self, draw: u64) -> f64 {
        let work = self.film.frames as f64 * self.frame();
        work / self.speeds(draw).iter().sum::<f64>()
    }
}
