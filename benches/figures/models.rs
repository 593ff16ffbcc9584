// SPDX-License-Identifier: MPL-2.0

//! What figures in virtual time are made with: models of encoders and pictures, made films, and the real chunker that cuts them.

use gstvtparallelenc::logic::chunker::Chunker;
use gstvtparallelenc::logic::plan::Plan;
use gstvtparallelenc::logic::scenes::Change;
use gstvtparallelenc::logic::split::Scaling;

/// A cut that comes sooner after a key frame gets none.
pub const LEAST_KEY_DISTANCE: u64 = 24;

/// Frames of a second.
pub const RATE: u64 = 24;

pub struct Picture {
    pub name: &'static str,
    pub size: (u32, u32),
    pub frame_bytes: u64,
    /// Of the time of a 480p frame.
    pub time: f64,
}

pub const PICTURES: [Picture; 3] = [
    Picture {
        name: "480p",
        size: (848, 480),
        frame_bytes: 848 * 480 * 3 / 2,
        time: 1.0,
    },
    Picture {
        name: "1080p",
        size: (1920, 1080),
        frame_bytes: 1920 * 1080 * 3 / 2,
        time: 5.0,
    },
    Picture {
        name: "2160p, 10 bit",
        size: (3840, 2160),
        frame_bytes: 3840 * 2160 * 3,
        time: 25.0,
    },
];

/// What Av1an does: so many threads for each worker, and as many workers as cores and memory hold (in GB for each megapixel).
pub struct Av1an {
    pub threads: u32,
    pub gigabytes: f64,
}

pub struct Encoder {
    pub name: &'static str,
    /// Seconds for a frame of 480p with one thread.
    pub time: f64,
    /// What its threads really gain: so many times as fast, to the power of this.
    pub exponent: f64,
    /// What the planner believes.
    pub believed: f64,
    /// One thread for so many rows or columns.
    pub rows: Option<u32>,
    pub columns: Option<u32>,
    /// Sessions that there may be, where that isn't a matter of cores.
    pub engines: Option<u32>,
    pub key_distance: u64,
    pub at_cuts: bool,
    pub at_key: u64,
    pub lead: u64,
    pub av1an: Option<Av1an>,
}

pub const ENCODERS: [Encoder; 7] = [
    Encoder {
        name: "x264",
        time: 0.030,
        exponent: 0.8,
        believed: 0.75,
        rows: Some(68),
        columns: None,
        engines: None,
        key_distance: 240,
        at_cuts: true,
        at_key: 70,
        lead: 10,
        av1an: Some(Av1an {
            threads: 8,
            gigabytes: 0.7,
        }),
    },
    Encoder {
        name: "x265",
        time: 0.080,
        exponent: 0.8,
        believed: 0.85,
        rows: Some(128),
        columns: None,
        engines: None,
        key_distance: 250,
        at_cuts: true,
        at_key: 70,
        lead: 10,
        av1an: Some(Av1an {
            threads: 8,
            gigabytes: 0.6,
        }),
    },
    Encoder {
        name: "VP9",
        time: 0.017,
        exponent: 0.6,
        believed: 0.55,
        rows: None,
        columns: Some(256),
        engines: None,
        key_distance: 128,
        at_cuts: false,
        at_key: 440,
        lead: 0,
        av1an: Some(Av1an {
            threads: 3,
            gigabytes: 0.3,
        }),
    },
    Encoder {
        name: "AV1 (libaom)",
        time: 0.060,
        exponent: 0.55,
        believed: 0.5,
        rows: Some(135),
        columns: None,
        engines: None,
        key_distance: 30,
        at_cuts: false,
        at_key: 10,
        lead: 0,
        av1an: Some(Av1an {
            threads: 4,
            gigabytes: 0.4,
        }),
    },
    Encoder {
        name: "SVT-AV1",
        time: 0.030,
        exponent: 0.9,
        believed: 0.9,
        rows: Some(68),
        columns: None,
        // It is left to its own threads.
        engines: Some(1),
        key_distance: 161,
        at_cuts: false,
        at_key: 10,
        lead: 0,
        av1an: None,
    },
    Encoder {
        name: "without threads",
        time: 0.010,
        exponent: 0.0,
        believed: 0.0,
        rows: None,
        columns: None,
        engines: None,
        key_distance: 64,
        at_cuts: true,
        at_key: 100,
        lead: 0,
        av1an: Some(Av1an {
            threads: 1,
            gigabytes: 0.1,
        }),
    },
    Encoder {
        name: "card of 3 engines",
        time: 0.003,
        exponent: 0.0,
        believed: 0.0,
        rows: None,
        columns: None,
        engines: Some(3),
        key_distance: 250,
        at_cuts: false,
        at_key: 100,
        lead: 0,
        av1an: None,
    },
];

impl Encoder {
    pub fn most_threads(&self, (width, height): (u32, u32)) -> u32 {
        let rows = self.rows.map(|rows| height / rows);
        let columns = self.columns.map(|it| 1 << (width / it).max(1).ilog2());
        rows.or(columns).unwrap_or(1).max(1)
    }

    /// How many times as fast it really is.
    pub fn speed(&self, picture: &Picture, threads: u32) -> f64 {
        let scaling = Scaling {
            exponent: self.exponent,
            most: self.most_threads(picture.size),
        };
        scaling.speed(threads)
    }
}

/// Numbers from 0 to 1 without chance: the same for each run.
pub struct Random(pub u64);

impl Random {
    /// One of many, none of which is like another.
    pub fn of(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        random.part();
        random
    }

    pub fn part(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 40) as f64 / f64::from(1 << 24)
    }
}

/// A made film: scenes of 30 to 200 frames, of which some are harder than others.
pub struct Film {
    pub name: &'static str,
    pub frames: u64,
    /// Frames with which scenes begin.
    pub cuts: Vec<u64>,
    /// The time of all frames before each, in that of an average one.
    pub work: Vec<f64>,
}

impl Film {
    pub fn new(name: &'static str, seconds: u64) -> Self {
        let frames = seconds * RATE;
        let mut random = Random(11);
        let mut any = || random.part();
        let (mut cuts, mut hardness) = (Vec::new(), Vec::new());
        while (hardness.len() as u64) < frames {
            cuts.push(hardness.len() as u64);
            let scene = 30.0 * (200.0_f64 / 30.0).powf(any());
            // (The sum of twelve is nearly normal.)
            let normal = (0..12).map(|_| any()).sum::<f64>() - 6.0;
            let hard = (0.3 * normal).exp();
            hardness.extend(std::iter::repeat_n(hard, scene as usize));
        }
        hardness.truncate(usize::try_from(frames).unwrap());
        let mean = hardness.iter().sum::<f64>() / frames as f64;
        let mut work = vec![0.0];
        for hard in hardness {
            work.push(work[work.len() - 1] + hard / mean);
        }
        Self {
            name,
            frames,
            cuts,
            work,
        }
    }

    pub fn work_of(&self, from: u64, to: u64) -> f64 {
        self.work[to.min(self.frames) as usize] - self.work[from.min(self.frames) as usize]
    }
}

/// The chunks' first frames, and the film's length.
pub type Seams = Vec<u64>;

/// Cuts a film by the real chunker.
pub fn seams(plan: &Plan, film: &Film) -> Seams {
    let mut chunker = Chunker::new(*plan);
    let mut seams = Vec::new();
    let mut scene = 0;
    for frame in 0..film.frames {
        while film.cuts.get(scene + 1).is_some_and(|cut| *cut <= frame) {
            scene += 1;
        }
        let new = |frames: u64| match frame - film.cuts[scene] < frames {
            true => 950,
            false => 100,
        };
        let change = Change {
            intra: 1_000,
            inter: new(1),
            past_one: new(2),
        };
        let step = chunker.frame(Some(change), false);
        if let Some(opened) = step.opened {
            seams.push(opened.own.start.0);
        }
        if let Some(closed) = step.closed {
            let _ = chunker.done(closed.id);
        }
    }
    for step in chunker.cut() {
        seams.extend(step.opened.map(|it| it.own.start.0));
    }
    seams.push(film.frames);
    seams
}
