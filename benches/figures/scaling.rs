// SPDX-License-Identifier: MPL-2.0

//! How the time falls with the number of sessions, where the encoder is a card with so many engines, and what is lost to chunks of
//! uneven difficulty, to encoders that open slowly, and to a source that is too slow.

use crate::Form;
use crate::engine::Scenes;
use crate::process::{Played, played, player};
use crate::source::{SINK, TINY, stills};
use crate::table::Table;
use std::process::Command;

/// Of one frame, in microseconds: long beside the lateness with which a sleeper wakes.
const TIME: u64 = 10_000;

/// Chunks as they are planned, and of a length that is set.
const PLANS: [(&str, &str); 2] = [("automatic", ""), ("100", "chunk-frames=100")];

pub fn measure(form: Form) -> Vec<Table> {
    let bench = Bench::new(form);
    vec![
        bench.linear(),
        bench.slow_source(),
        bench.beyond_engines(),
        bench.opening(),
        bench.uneven(),
    ]
}

struct Bench {
    form: Form,
    rounds: usize,
    /// Frames for each engine.
    share: u64,
    /// Seconds of a frame, as one plain encoder has it.
    frame: f64,
}

impl Bench {
    fn new(form: Form) -> Self {
        let (rounds, share) = match form {
            Form::Full => (3, 400),
            Form::Short => (1, 24),
        };
        let mut bench = Self {
            form,
            rounds,
            share,
            frame: 0.0,
        };
        let mut plain = bench.player(bench.share, "", &engine(1, ""));
        bench.frame = bench.median(rounds, &mut plain).seconds() / bench.share as f64;
        bench
    }

    fn full<'a, T>(&self, full: &'a [T], short: &'a [T]) -> &'a [T] {
        match self.form {
            Form::Full => full,
            Form::Short => short,
        }
    }

    fn player(&self, frames: u64, source: &str, encoder: &str) -> Command {
        let source = stills(frames, TINY, source);
        player(self.form, &format!("{source} ! {encoder} ! {SINK}"))
    }

    fn run(&self, player: &mut Command) -> Played {
        self.median(1, player)
    }

    /// (What takes a fixed time hardly differs from run to run.)
    fn median(&self, rounds: usize, player: &mut Command) -> Played {
        played(rounds, std::slice::from_mut(player)).remove(0)
    }

    fn about(&self, about: &str) -> String {
        format!(
            "{about} A frame takes {:.0} ms of an engine and nothing of a core; there are {} frames for each engine. Linear is the \
             time that a plain encoder with one engine takes for its share of the frames.",
            TIME as f64 / 1000.0,
            self.share
        )
    }

    /// As many sessions as engines.
    fn linear(&self) -> Table {
        let mut rows = Vec::new();
        for &sessions in self.full(&[1, 2, 4, 8, 16, 32, 64], &[2]) {
            let mut row = vec![sessions.to_string()];
            for (_, plan) in PLANS {
                let frames = self.share * sessions;
                let ours = ours(sessions, plan, &engine(sessions, ""));
                let mut player = self.player(frames, "", &ours);
                let took = self.median(self.rounds, &mut player).seconds();
                row.push(format!("{:.3}", self.frame * self.share as f64 / took));
            }
            rows.push(row);
        }
        Table {
            title: "Scaling",
            about: self.about("Speed as a part of linear, with a source that costs nothing, by the length of chunks."),
            columns: vec![
                "sessions and engines",
                "chunks automatic",
                "chunks of 100",
            ],
            rows,
        }
    }

    /// The source has a speed of its own.
    fn slow_source(&self) -> Table {
        let source_time = TIME / 8;
        let mut rows = Vec::new();
        for &sessions in self.full(&[4, 8, 16, 32], &[2]) {
            let frames = 2 * self.share * sessions.min(8);
            let mut row = vec![
                sessions.to_string(),
                format!("{:.2}", sessions as f64 / 8.0),
            ];
            for plan in ["", "chunk-frames=25"] {
                let ours = ours(sessions, plan, &engine(sessions, ""));
                let source = format!("time={source_time}");
                let took = self.run(&mut self.player(frames, &source, &ours)).seconds();
                let alone = frames as f64 * source_time as f64 / 1e6;
                let linear = self.frame * frames as f64 / sessions as f64;
                row.push(format!("{:.3}", alone.max(linear) / took));
            }
            rows.push(row);
        }
        Table {
            title: "A source that is too slow",
            about: "The source delivers as much as 8 engines encode. Speed as a part of what is possible: of linear, or, with more \
                    engines, of what the source alone delivers. What is lost is the end: the last chunk is encoded by one \
                    engine when no more comes, and in a stream as short as these it is a good part of it."
                .to_string(),
            columns: vec![
                "sessions and engines",
                "of the source's speed",
                "chunks automatic",
                "chunks of 25",
            ],
            rows,
        }
    }

    /// More sessions than engines.
    fn beyond_engines(&self) -> Table {
        let engines = self.full(&[4], &[2])[0];
        let mut rows = Vec::new();
        for &sessions in self.full(&[4, 5, 8, 16, 32], &[4]) {
            let mut row = vec![sessions.to_string()];
            for (_, plan) in PLANS {
                let frames = self.share * engines;
                let ours = ours(sessions, plan, &engine(engines, ""));
                let took = self.run(&mut self.player(frames, "", &ours)).seconds();
                row.push(format!("{:.3}", self.frame * self.share as f64 / took));
            }
            rows.push(row);
        }
        Table {
            title: "More sessions than engines",
            about: self.about(&format!(
                "Speed as a part of linear with {engines} engines."
            )),
            columns: vec!["sessions", "chunks automatic", "chunks of 100"],
            rows,
        }
    }

    /// Each encoder takes its time to open.
    fn opening(&self) -> Table {
        let mut rows = Vec::new();
        for &sessions in self.full(&[4, 16], &[2]) {
            for open in [20, 100] {
                let mut row = vec![sessions.to_string(), open.to_string()];
                for (_, plan) in PLANS {
                    let frames = self.share * sessions;
                    let engine = engine(sessions, &format!("open-time={}", open * 1000));
                    let ours = ours(sessions, plan, &engine);
                    let took = self.run(&mut self.player(frames, "", &ours)).seconds();
                    row.push(format!("{:.3}", self.frame * self.share as f64 / took));
                }
                rows.push(row);
            }
        }
        Table {
            title: "Encoders that open slowly",
            about: self.about("Speed as a part of linear, where opening an encoder takes its time, once for each chunk."),
            columns: vec![
                "sessions and engines",
                "opening, ms",
                "chunks automatic",
                "chunks of 100",
            ],
            rows,
        }
    }

    /// Some chunks are harder than others.
    fn uneven(&self) -> Table {
        let scene = match self.form {
            Form::Full => 100,
            Form::Short => 3,
        };
        let mut rows = Vec::new();
        for (scenes, name, is) in [
            (Scenes::OneHard, "one scene ten times as hard", "one-hard"),
            (Scenes::Random, "any scene up to 16 times as hard", "random"),
        ] {
            for &sessions in self.full(&[4, 16], &[2]) {
                for (plan, set) in PLANS {
                    let frames = self.share * sessions;
                    let uneven = format!("scenes={is} scene-frames={scene}");
                    let ours = ours(sessions, set, &engine(sessions, &uneven));
                    let run = self.run(&mut self.player(frames, "", &ours));
                    // How late a sleeper wakes has nothing to do with how long it sleeps.
                    let even = TIME as f64 / 1e6;
                    let late = self.frame - even;
                    let seconds =
                        |frame: u64| even * scenes.percent(frame / scene) as f64 / 100.0 + late;
                    let mut starts = run.starts();
                    starts.push(frames);
                    let chunks: Vec<f64> = starts
                        .windows(2)
                        .map(|it| (it[0]..it[1]).map(seconds).sum())
                        .collect();
                    let took = run.seconds();
                    rows.push(vec![
                        name.to_string(),
                        sessions.to_string(),
                        plan.to_string(),
                        format!("{:.3}", bound(sessions, &chunks) / took),
                        format!("{:.3}", in_order(sessions, &chunks) / took),
                    ]);
                }
            }
        }
        Table {
            title: "Chunks of uneven difficulty",
            about: format!(
                "Scenes have {scene} frames. Speed as a part of the bound that no schedule of these chunks passes (all that is to be \
                 done by all sessions, or the hardest chunk), and of the schedule that gives each chunk in its order to the next \
                 free session, without any end to what may be held."
            ),
            columns: vec![
                "difficulty",
                "sessions and engines",
                "chunks",
                "of the bound",
                "of that schedule",
            ],
            rows,
        }
    }
}

fn engine(engines: u64, properties: &str) -> String {
    format!("engineenc time={TIME} engines={engines} {properties}")
}

fn ours(sessions: u64, properties: &str, encoder: &str) -> String {
    format!("vtparallelenc name=vt sessions={sessions} {properties} encoder=\"{encoder}\"")
}

/// No schedule is faster.
fn bound(sessions: u64, chunks: &[f64]) -> f64 {
    let all = chunks.iter().sum::<f64>() / sessions as f64;
    chunks.iter().copied().fold(all, f64::max)
}

/// Each chunk goes to the session that is free first.
fn in_order(sessions: u64, chunks: &[f64]) -> f64 {
    let mut free_at = vec![0.0_f64; sessions as usize];
    for chunk in chunks {
        // PANIC: there is at least one.
        let first = free_at.iter_mut().min_by(|a, b| a.total_cmp(b)).unwrap();
        *first += chunk;
    }
    free_at.into_iter().fold(0.0, f64::max)
}
