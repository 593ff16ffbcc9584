// SPDX-License-Identifier: MPL-2.0

//! How cores are split: so many sessions, with so many threads each, or one encoder with all of them.
//!
//! [`best`] makes the [plan](super::plan) of each split and takes the one that is over first in a usual film, of those that cost no more bits than they
//! may and that are no slower than one encoder even where a film has no cuts.
//! A split depends on counts alone: cores, the picture's size, the film's length, the memory.

use super::plan::Plan;
use super::request::{BudgetTooSmall, Request};

/// A film of unknown length is planned as if it had this many frames: an hour, at 24 a second.
const LONG_FILM: u64 = 86_400;

/// Chunks have to be faster than one encoder by this part to be worth their memory and their seams.
const WORTH_CHUNKS: f64 = 1.02;

/// And more sessions by this part to be worth theirs. (One of 64 more is 1.6 % faster.)
const WORTH_SESSIONS: f64 = 1.005;

/// What more memory would buy is told if it is at least this.
const WORTH_MEMORY: f64 = 1.1;

/// How an encoder's own threads share its work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    /// With `t` threads it is `t` to the power of this as fast as with one.
    pub exponent: f64,
    /// More threads gain nothing.
    pub most: u32,
}

impl Scaling {
    /// It has one thread, or nobody knows how to give it more.
    pub const NONE: Self = Self {
        exponent: 0.0,
        most: 1,
    };

    /// How many times as fast as with one thread.
    pub fn speed(self, threads: u32) -> f64 {
        f64::from(threads.clamp(1, self.most.max(1))).powf(self.exponent)
    }
}

/// What may be used, and what was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cores {
    /// That may be busy at the same time, at least 1.
    pub cores: u32,
    /// Threads of each session; `None` leaves it to the plan.
    pub threads: Option<u32>,
    pub scaling: Scaling,
    /// With more than one thread an encoder doesn't make the same twice: no session has more, unless they were asked for.
    pub threads_vary: bool,
    /// The whole stream may be encoded by one encoder, without chunks.
    pub may_be_alone: bool,
}

/// How a stream is encoded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Split {
    /// In chunks, by sessions that have so many threads each.
    pub plan: Plan,
    pub threads: u32,
    /// But by one encoder, with threads of its own, for this reason.
    pub alone: Option<Alone>,
    /// How long it takes if its shots are as long as they usually are: in the time of one frame with one thread.
    pub time: f64,
    /// What more memory would buy.
    pub ample: Option<Ample>,
}

/// Memory with which a plan isn't limited any more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ample {
    /// That the plan would hold, in bytes.
    pub raw_bytes: u64,
    /// So many times as fast.
    pub speed_up: f64,
}

/// Why one encoder is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alone {
    /// It is as fast.
    AsFast,
    /// Chunks that cost as few bits as they may aren't faster: the best of those that cost more would cost so much.
    Overhead(Overhead),
}

/// A part of the bits, in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Overhead(pub u64);

impl Overhead {
    /// Of 100 or less.
    pub fn of_percent(percent: f64) -> Self {
        Self((percent * 100.0).round() as u64)
    }

    pub fn percent(self) -> f64 {
        self.0 as f64 / 100.0
    }
}

/// What a seam costs, in hundredths of the bits of an average frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeamCost {
    /// Where the encoder makes a key frame anyway.
    pub at_key: u64,
    pub elsewhere: u64,
}

/// The split that is over first. `request` has the most sessions that there may be; what was asked for is what is done, whatever it costs.
pub fn best(request: &Request, cores: Cores) -> Result<Split, BudgetTooSmall> {
    let mut split = best_within(request, cores)?;
    let unlimited = Request {
        max_raw_bytes: u64::MAX,
        ..request.clone()
    };
    let ample = best_within(&unlimited, cores)?;
    let frames = ample.plan.capacity_frames;
    let speed_up = split.time / ample.time;
    split.ample = (speed_up >= WORTH_MEMORY).then(|| Ample {
        raw_bytes: frames.saturating_mul(request.frame_bytes),
        speed_up,
    });
    Ok(split)
}

/// As above, with nothing said of memory.
fn best_within(request: &Request, cores: Cores) -> Result<Split, BudgetTooSmall> {
    let frames = request.source_frames.unwrap_or(LONG_FILM);
    let of = |sessions: u64| {
        let share = u32::try_from(u64::from(cores.cores) / sessions).unwrap_or(1);
        let most = match cores.threads_vary {
            true => 1,
            false => cores.scaling.most.max(1),
        };
        let plan = Plan::make(&Request {
            sessions,
            ..request.clone()
        })?;
        let threads = cores
            .threads
            .unwrap_or(match request.sessions_are_automatic {
                true => share.clamp(1, most),
                false => 1,
            });
        // No more than all cores are busy. (Measured on 2: 4 sessions, or 2 with 2 threads each, take the time of 2 with one.)
        let speed = cores.scaling.speed(threads);
        let busy = speed * plan.sessions as f64 / f64::from(cores.cores.max(1));
        let speed = speed / busy.max(1.0);
        let (usual, worst) = plan.times(frames);
        let split = Split {
            plan,
            threads,
            alone: None,
            time: usual / speed,
            ample: None,
        };
        Ok((split, worst / speed))
    };
    let most = request.sessions.max(1);
    if !request.sessions_are_automatic {
        return Ok(of(most)?.0);
    }
    // (Threads without a core are no faster, and those of some encoders wait in loops.)
    let most = cores.threads.map_or(most, |threads| {
        most.min((cores.cores / threads.max(1)).max(1).into())
    });
    let mut best = of(1)?.0;
    best.time = f64::INFINITY;
    let mut alone = f64::INFINITY;
    if cores.may_be_alone {
        let speed = cores.scaling.speed(cores.threads.unwrap_or(cores.cores));
        alone = frames as f64 / speed;
        best.time = alone;
        best.alone = Some(Alone::AsFast);
    }
    let mut dear = None;
    for sessions in 1..=most {
        let (split, worst) = of(sessions)?;
        // The memory is short.
        if sessions > 1 && split.plan.sessions < sessions {
            break;
        }
        if worst > alone {
            continue;
        }
        let worth = match best.alone {
            Some(_) => WORTH_CHUNKS,
            None => WORTH_SESSIONS,
        };
        if split.time * worth >= best.time {
            continue;
        }
        let overhead = split.plan.overhead.filter(|&overhead| {
            let is_free = request.chunk_frames.is_none() && (cores.may_be_alone || sessions > 1);
            is_free && request.max_overhead.is_some_and(|most| overhead > most)
        });
        match overhead {
            Some(overhead) => dear = Some((split.time, overhead)),
            None => best = split,
        }
    }
    if let Some((faster, overhead)) = dear
        && best.alone.is_some()
        && faster * WORTH_CHUNKS < best.time
    {
        best.alone = Some(Alone::Overhead(overhead));
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::super::plan;
    use super::super::request::Beginning;
    use super::*;

    /// Pictures of 1080p, of an encoder with a key frame at cuts and every 250 frames at the latest.
    fn request(sessions: u64, frames: Option<u64>) -> Request {
        Request {
            sessions,
            sessions_are_automatic: true,
            key_distance: Some(250),
            follows_cuts: true,
            source_frames: frames,
            frame_bytes: 3_110_400,
            max_raw_bytes: 64 << 30,
            seam_cost: Some(SeamCost {
                at_key: 70,
                elsewhere: 650,
            }),
            max_overhead: Some(Overhead(100)),
            ..plan::tests::request()
        }
    }

    fn cores(cores: u32, scaling: Scaling) -> Cores {
        Cores {
            cores,
            threads: None,
            scaling,
            threads_vary: false,
            may_be_alone: true,
        }
    }

    const GOOD: Scaling = Scaling {
        exponent: 0.8,
        most: 16,
    };

    /// Sessions, threads of each, and why it is one encoder.
    fn split(request: &Request, cores: Cores) -> (u64, u32, Option<Alone>) {
        let split = best(request, cores).unwrap();
        (split.plan.sessions, split.threads, split.alone)
    }

    #[test]
    fn a_long_film_has_a_session_for_each_core() {
        for number in [2, 4, 16, 64] {
            let request = request(number, Some(200_000));
            let cores = cores(number.try_into().unwrap(), GOOD);
            assert_eq!(split(&request, cores), (number, 1, None));
            let unknown = Request {
                source_frames: None,
                ..request
            };
            assert_eq!(split(&unknown, cores), (number, 1, None));
        }
    }

    #[test]
    fn a_short_film_has_few_sessions_with_more_threads() {
        // No cut is promised, and without any there are eight chunks of 250 frames; in a usual film there are twenty.
        assert_eq!(
            split(&request(16, Some(1_900)), cores(16, GOOD)),
            (4, 4, None)
        );
        assert_eq!(
            split(&request(16, Some(900)), cores(16, Scaling::NONE)),
            (10, 1, None)
        );
        // One chunk only.
        let alone = Some(Alone::AsFast);
        assert_eq!(split(&request(16, Some(200)), cores(16, GOOD)).2, alone);
        assert_eq!(split(&request(16, Some(1)), cores(16, GOOD)).2, alone);
    }

    #[test]
    fn where_memory_is_short_threads_share_a_session() {
        let short = Request {
            max_raw_bytes: 3_110_400 * 1_200,
            ..request(16, Some(100_000))
        };
        let (sessions, threads, alone) = split(&short, cores(16, GOOD));
        assert!(sessions < 16 && threads > 1, "{sessions} x {threads}");
        assert!(sessions * u64::from(threads) <= 16);
        assert_eq!(alone, None);
        // With as much as would be enough, nothing limits it.
        let ample = best(&short, cores(16, GOOD)).unwrap().ample.unwrap();
        assert!(ample.speed_up > 1.1, "{ample:?}");
        let enough = Request {
            max_raw_bytes: ample.raw_bytes,
            ..short.clone()
        };
        let (sessions, threads, alone) = split(&enough, cores(16, GOOD));
        assert_eq!((sessions, threads, alone), (16, 1, None));
        assert_eq!(best(&enough, cores(16, GOOD)).unwrap().ample, None);
        // With so little, all chunks would be too dear.
        let shorter = Request {
            max_raw_bytes: 3_110_400 * 60,
            ..short
        };
        let (.., alone) = split(&shorter, cores(16, GOOD));
        assert!(matches!(alone, Some(Alone::Overhead(_))), "{alone:?}");
        // What was asked for is done.
        let asked = Request {
            sessions_are_automatic: false,
            ..shorter
        };
        let asked = best(&asked, cores(16, GOOD)).unwrap();
        assert_eq!((asked.threads, asked.alone), (1, None));
        assert!(asked.plan.overhead > Some(Overhead(100)));
    }

    #[test]
    fn where_seams_cost_more_chunks_are_longer() {
        let blind = |max: u64| Request {
            key_distance: None,
            follows_cuts: false,
            max_overhead: Some(Overhead(max)),
            ..request(4, Some(100_000))
        };
        for max in [50, 100, 400] {
            let plan = best(&blind(max), cores(4, GOOD)).unwrap().plan;
            assert!(plan.overhead <= Some(Overhead(max)), "{plan:?}");
            assert!(plan.length.longest() >= 65_000 / max, "{plan:?}");
        }
        // The first chunk begins with no seam.
        let short = Request {
            source_frames: Some(720),
            ..blind(100)
        };
        let plan = best(&short, cores(4, GOOD)).unwrap().plan;
        assert_eq!(plan.length.longest(), 360, "{plan:?}");
        assert_eq!(plan.sessions, 2);
        // Multiples of the key frame distance, two seams.
        let multiples = Request {
            key_distance: Some(128),
            seam_cost: Some(SeamCost {
                at_key: 330,
                elsewhere: 900,
            }),
            ..short
        };
        let plan = best(&multiples, cores(4, GOOD)).unwrap().plan;
        assert_eq!(plan.length.longest(), 256, "{plan:?}");
        let none = best(&blind(0), cores(4, GOOD)).unwrap();
        assert!(matches!(none.alone, Some(Alone::Overhead(_))));
        // Nobody knows what it costs, or it costs nothing.
        let unknown = Request {
            seam_cost: None,
            ..blind(0)
        };
        assert_eq!(split(&unknown, cores(4, GOOD)), (4, 1, None));
        let intra = Request {
            beginning: Beginning::Nothing,
            longest_chunk: None,
            ..blind(0)
        };
        assert_eq!(split(&intra, cores(4, GOOD)), (4, 1, None));
    }

    #[test]
    fn each_seam_of_a_film_is_counted() {
        let of = |frames: u64| {
            let plan = Plan::make(&Request {
                chunk_frames: Some(100),
                ..request(2, Some(frames))
            });
            plan.unwrap().overhead
        };
        // What is shorter than min-chunk-frames joins the last chunk.
        assert_eq!(of(111), Some(Overhead(0)));
        assert_eq!(of(112), Some(Overhead(650 * 100 / 112)));
        assert_eq!(of(199), Some(Overhead(650 * 100 / 199)));
        assert_eq!(of(1_000), Some(Overhead(650 * 100 * 9 / 1_000)));
    }

    #[test]
    fn an_encoder_whose_own_threads_are_better_is_left_to_them() {
        let better = Scaling {
            exponent: 1.1,
            most: 16,
        };
        let of = |number: u64| {
            split(
                &request(number, Some(100_000)),
                cores(number as u32, better),
            )
        };
        assert_eq!(of(2).2, Some(Alone::AsFast));
        assert_eq!(of(16).2, Some(Alone::AsFast));
        assert_eq!(of(64), (4, 16, None));
    }

    #[test]
    fn threads_that_were_asked_for_are_given() {
        let four = Cores {
            threads: Some(4),
            ..cores(16, GOOD)
        };
        assert_eq!(split(&request(16, Some(100_000)), four), (4, 4, None));
        let varying = Cores {
            threads_vary: true,
            ..cores(16, GOOD)
        };
        assert_eq!(split(&request(16, Some(100_000)), varying), (16, 1, None));
        // Four chunks at most, and one encoder has all cores.
        let alone = Some(Alone::AsFast);
        assert_eq!(split(&request(16, Some(900)), varying).2, alone);
        let one = Cores {
            may_be_alone: false,
            ..cores(1, GOOD)
        };
        assert_eq!(split(&request(1, Some(100_000)), one), (1, 1, None));
    }
}
