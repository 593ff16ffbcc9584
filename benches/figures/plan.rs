// SPDX-License-Identifier: MPL-2.0

//! What plans are worth on machines that aren't here: the real brains (planner, chunker, roster) in virtual time, with models of
//! encoders, on made films.
//!
//! A source gives frames as fast as the memory takes them. A session takes the time of its frames, its overlap and an encoder's opening.

use crate::Form;
use crate::models::{ENCODERS, Encoder, Film, LEAST_KEY_DISTANCE, PICTURES, Picture, Seams, seams};
use crate::table::Table;
use gstvtparallelenc::logic::ids::{ChunkId, SessionId};
use gstvtparallelenc::logic::plan::Plan;
use gstvtparallelenc::logic::request::{Beginning, Overlap, Request};
use gstvtparallelenc::logic::roster::Roster;
use gstvtparallelenc::logic::split::{self, Cores, Overhead, Scaling, SeamCost};
use plotters::prelude::*;
use std::collections::HashMap;
use std::path::PathBuf;

/// What the default of `max-bitrate-overhead` is.
const BOUND: Overhead = Overhead(100);

/// To make and open an encoder, and to close it, in seconds (measured at 1080p: 3 to 8 ms).
const OPENING: f64 = 0.008;

/// What they really cost.
fn cost(seams: &Seams, film: &Film, encoder: &Encoder) -> Overhead {
    let mut cost = 0;
    for pair in seams[..seams.len() - 1].windows(2) {
        let more = match is_key(pair[1], pair[0], film, encoder) {
            true => 0,
            false => 650,
        };
        cost += encoder.at_key + more;
    }
    Overhead(cost * 100 / film.frames.max(1))
}

/// The encoder makes a key frame of this frame by itself, if it has made one of `from`.
fn is_key(frame: u64, from: u64, film: &Film, encoder: &Encoder) -> bool {
    let mut last = from;
    let first = film.cuts.partition_point(|cut| *cut <= from);
    let cuts = film.cuts[first..].iter().copied();
    let cuts = cuts
        .filter(|_| encoder.at_cuts)
        .take_while(|cut| *cut <= frame);
    for cut in cuts {
        last += (cut - last) / encoder.key_distance * encoder.key_distance;
        if cut - last >= LEAST_KEY_DISTANCE {
            last = cut;
        }
    }
    (frame - last).is_multiple_of(encoder.key_distance)
}

/// Seconds until all is encoded.
fn simulate(
    plan: &Plan,
    threads: u32,
    seams: &Seams,
    film: &Film,
    encoder: &Encoder,
    picture: &Picture,
    cores: u32,
) -> f64 {
    let sessions = plan.sessions as usize;
    let speed = encoder.speed(picture, threads);
    let busy = match encoder.engines {
        Some(_) => 1.0,
        None => (speed * sessions as f64 / f64::from(cores)).max(1.0),
    };
    // Average frames in a second.
    let rate = speed / (encoder.time * picture.time * busy);
    let chunks = seams.len() - 1;
    let mut roster = Roster::new(sessions, plan.sessions);
    let mut done = vec![false; chunks];
    let mut released = 0;
    let mut offered = 0;
    // Of each session: its chunk, and what is left of it, beginning with the opening of an encoder and the overlap.
    let mut work: Vec<Option<(usize, f64)>> = vec![None; sessions];
    let mut time = 0.0;
    loop {
        let oldest = done.iter().position(|done| !done).unwrap_or(chunks);
        if oldest == chunks {
            return time;
        }
        roster.next_to_send = ChunkId(oldest as u64);
        // (All of the oldest chunk comes, whatever is held.)
        let admitted = (plan.capacity_frames + released)
            .max(seams[oldest + 1])
            .min(film.frames);
        while offered < chunks && seams[offered] < admitted {
            roster.offer(ChunkId(offered as u64), 1);
            offered += 1;
        }
        for (id, session) in work.iter_mut().enumerate() {
            if session.is_none()
                && let Some((chunk, _)) = roster.take(SessionId(id))
            {
                let chunk = chunk.0 as usize;
                let start = seams[chunk];
                let lead = if chunk == 0 { 0 } else { plan.before };
                let end = seams[chunk + 1] + plan.after;
                let left = film.work_of(start.saturating_sub(lead), end);
                *session = Some((chunk, left + OPENING * rate));
            }
        }
        // The next that can end has all its frames.
        let ends = work.iter().flatten();
        let ends = ends.filter(|(chunk, _)| seams[chunk + 1] <= admitted);
        let step = ends.map(|(_, left)| *left).fold(f64::INFINITY, f64::min);
        assert!(step.is_finite(), "nobody goes on");
        time += step / rate;
        for (id, session) in work.iter_mut().enumerate() {
            let Some((chunk, left)) = session else {
                continue;
            };
            let chunk = *chunk;
            // What isn't there can't be encoded.
            let lacks = film.work_of(admitted, seams[chunk + 1] + plan.after);
            *left = (*left - step).max(lacks.min(*left));
            if *left <= 1e-9 && seams[chunk + 1] <= admitted {
                *session = None;
                roster.succeeded(SessionId(id));
                done[chunk] = true;
                released += seams[chunk + 1] - seams[chunk];
            }
        }
    }
}

/// Encodes in chunks on one machine; what was simulated before is known.
struct Machine<'a> {
    film: &'a Film,
    encoder: &'a Encoder,
    picture: &'a Picture,
    cores: u32,
    memory: u64,
}

type Known = HashMap<String, Seams>;

impl Machine<'_> {
    fn request(&self) -> Request {
        let Encoder { engines, .. } = self.encoder;
        Request {
            sessions: engines.unwrap_or(self.cores).min(64).into(),
            sessions_are_automatic: true,
            beginning: Beginning::KeyFrame,
            longest_chunk: None,
            chunk_frames: None,
            key_distance: Some(self.encoder.key_distance),
            least_key_distance: LEAST_KEY_DISTANCE,
            follows_cuts: self.encoder.at_cuts,
            min_chunk_frames: 12,
            before: Overlap::UpTo(self.encoder.lead),
            after: Overlap::UpTo(self.encoder.lead * 2),
            source_frames: Some(self.film.frames),
            frame_bytes: self.picture.frame_bytes,
            max_raw_bytes: (self.memory << 30) / 4,
            seam_cost: Some(SeamCost {
                at_key: self.encoder.at_key,
                elsewhere: self.encoder.at_key + 650,
            }),
            max_overhead: Some(BOUND),
        }
    }

    fn scaling(&self) -> Scaling {
        match self.encoder.believed > 0.0 {
            true => Scaling {
                exponent: self.encoder.believed,
                most: self.encoder.most_threads(self.picture.size),
            },
            false => Scaling::NONE,
        }
    }

    fn alone(&self) -> f64 {
        let frames = self.film.frames as f64;
        let speed = self.encoder.speed(self.picture, self.cores);
        frames * self.encoder.time * self.picture.time / speed
    }

    fn chunks(&self, plan: &Plan, threads: u32, known: &mut Known) -> (f64, Overhead) {
        let key = format!(
            "{} {:?} {:?} {}",
            self.encoder.name, plan.length, plan.seams, plan.min_frames
        );
        let seams = known.entry(key).or_insert_with(|| seams(plan, self.film));
        let time = simulate(
            plan,
            threads,
            seams,
            self.film,
            self.encoder,
            self.picture,
            self.cores,
        );
        (time, cost(seams, self.film, self.encoder))
    }

    /// Seconds and cost, sessions and threads of our plan.
    fn ours(&self, known: &mut Known) -> (f64, Overhead, String) {
        let cores = Cores {
            cores: self.encoder.engines.unwrap_or(self.cores),
            threads: None,
            scaling: self.scaling(),
            threads_vary: false,
            may_be_alone: true,
        };
        // One encoder isn't a matter of plans.
        let split = match self.encoder.engines {
            Some(1) => return (self.alone(), Overhead(0), "alone".to_string()),
            _ => split::best(&self.request(), cores).unwrap(),
        };
        if split.alone.is_some() {
            return (self.alone(), Overhead(0), "alone".to_string());
        }
        let (time, cost) = self.chunks(&split.plan, split.threads, known);
        let how = format!("{} x {}", split.plan.sessions, split.threads);
        (time, cost, how)
    }

    /// The least of all sessions, threads and lengths that cost no more than they may.
    fn best(&self, known: &mut Known) -> f64 {
        let mut least = self.alone();
        let most = self.request().sessions;
        let grid = [1_u64, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
        for sessions in grid.into_iter().filter(|sessions| *sessions <= most) {
            for bound in [25, 50, 100, 300] {
                let plan = Plan::make(&Request {
                    sessions,
                    max_overhead: Some(Overhead(bound)),
                    ..self.request()
                });
                let Ok(plan) = plan else { continue };
                let share = (u64::from(self.cores) / sessions).max(1) as u32;
                let threads = share.min(self.encoder.most_threads(self.picture.size));
                let (time, cost) = self.chunks(&plan, threads, known);
                if cost <= BOUND {
                    least = least.min(time);
                }
            }
        }
        least
    }

    /// Workers that each decode for themselves: scenes, the longest first, none longer than ten seconds.
    fn as_av1an(&self) -> Option<f64> {
        let rule = self.encoder.av1an.as_ref()?;
        let (width, height) = self.picture.size;
        let megapixels = f64::from(width * height) / 1e6;
        let by_memory = self.memory as f64 / (rule.gigabytes * megapixels);
        let workers = (self.cores / rule.threads).max(1);
        let workers = f64::from(workers).min(by_memory).max(1.0) as usize;
        let threads = rule.threads.min(self.cores);
        let rate =
            self.encoder.speed(self.picture, threads) / (self.encoder.time * self.picture.time);
        let ends = self.film.cuts.iter().skip(1).chain([&self.film.frames]);
        let scenes = self.film.cuts.iter().zip(ends);
        let mut scenes: Vec<f64> = scenes
            .map(|(start, end)| self.film.work_of(*start, *end) / rate + OPENING)
            .collect();
        scenes.sort_by(|a, b| b.total_cmp(a));
        let mut workers = vec![0.0_f64; workers];
        for scene in scenes {
            let free = workers.iter_mut().min_by(|a, b| a.total_cmp(b))?;
            *free += scene;
        }
        workers.into_iter().reduce(f64::max)
    }
}

#[derive(Default)]
struct Ratios {
    product: f64,
    least: f64,
    number: u32,
}

impl Ratios {
    fn add(&mut self, ratio: f64) {
        if self.number == 0 {
            self.least = ratio;
        }
        self.product += ratio.ln();
        self.least = self.least.min(ratio);
        self.number += 1;
    }

    fn text(&self) -> String {
        match self.number {
            0 => "–".to_string(),
            number => format!(
                "{:.2} ({:.2})",
                (self.product / f64::from(number)).exp(),
                self.least
            ),
        }
    }
}

pub fn measure(form: Form) -> Vec<Table> {
    let films = [("30 s", 30), ("10 min", 600), ("2 h", 7_200)];
    let (films, cores, memories) = match form {
        Form::Full => (
            &films[..],
            &[1, 2, 4, 8, 16, 32, 64, 128][..],
            &[8, 32, 128, 512][..],
        ),
        Form::Short => (&films[..1], &[2, 16][..], &[8][..]),
    };
    let films: Vec<_> = films
        .iter()
        .map(|(name, it)| Film::new(name, *it))
        .collect();
    let mut rows = Vec::new();
    // Against the best plan, by encoder and picture, and cores.
    let mut cells: HashMap<(usize, usize, usize), Ratios> = HashMap::new();
    let mut dearest = Overhead(0);
    for (film_at, film) in films.iter().enumerate() {
        let mut known = Known::new();
        for (encoder_at, encoder) in ENCODERS.iter().enumerate() {
            for (picture_at, picture) in PICTURES.iter().enumerate() {
                let (mut own, mut av1an, mut best) =
                    (Ratios::default(), Ratios::default(), Ratios::default());
                let mut how = Vec::new();
                for (cores_at, &cores) in cores.iter().enumerate() {
                    for &memory in memories {
                        let machine = Machine {
                            film,
                            encoder,
                            picture,
                            cores,
                            memory,
                        };
                        let (time, cost, plan) = machine.ours(&mut known);
                        dearest = dearest.max(cost);
                        own.add(machine.alone() / time);
                        if let Some(other) = machine.as_av1an() {
                            av1an.add(other / time);
                        }
                        let ratio = machine.best(&mut known) / time;
                        best.add(ratio);
                        let at = (encoder_at, picture_at, cores_at);
                        cells.entry(at).or_default().add(ratio);
                        if memory == 32 && [16, 64].contains(&cores) {
                            how.push(format!("{cores}: {plan}"));
                        }
                    }
                }
                rows.push(vec![
                    film.name.to_string(),
                    encoder.name.to_string(),
                    picture.name.to_string(),
                    own.text(),
                    av1an.text(),
                    best.text(),
                    how.join(", "),
                ]);
            }
        }
        if form == Form::Full {
            eprintln!("{film_at}: {}", film.name);
        }
    }
    if form == Form::Full {
        draw(&cells, cores);
    }
    vec![Table {
        title: "Plans on other machines",
        about: format!(
            "Simulated, by `cargo bench -- plan`: the planner, the chunker and the roster as they are, with models of encoders (time of a frame, gain of own \
             threads, opening, overlap) and made films of scenes of 30 to 200 frames; cores {cores:?} x memory {memories:?} GB. Times of others over ours, above 1 where ours is faster: \
             the geometric mean over all machines, and the least in parentheses. *Own threads*: one encoder with all cores. *Av1an*: its rule for workers and threads, each of which \
             decodes for itself. *Best*: the best of all plans that a search over sessions, threads and lengths finds within the same memory and the same \
             bits. *Plan*: sessions x threads with 32 GB on 16 and 64 cores. The dearest of all plans costs {:.2} % of the bits.",
            dearest.percent()
        ),
        columns: vec![
            "film",
            "encoder",
            "picture",
            "own threads / ours",
            "Av1an / ours",
            "best / ours",
            "plan",
        ],
        rows,
    }]
}

/// A heat map: encoders and pictures as rows, cores as columns.
fn draw(cells: &HashMap<(usize, usize, usize), Ratios>, cores: &[u32]) {
    let path = PathBuf::from("target/plans.svg");
    let rows = ENCODERS.len() * PICTURES.len();
    let area = SVGBackend::new(&path, (900, 60 + 24 * rows as u32)).into_drawing_area();
    area.fill(&WHITE).unwrap();
    let font = ("sans-serif", 13).into_font();
    let put = |text: &str, x: i32, y: i32| {
        let text = Text::new(text.to_string(), (x, y), font.clone());
        area.draw(&text).unwrap();
    };
    put(
        "Time of the best plan / ours: mean over memories and films, by cores",
        10,
        6,
    );
    for (at, cores) in cores.iter().enumerate() {
        put(&cores.to_string(), 260 + 76 * at as i32, 30);
    }
    for (encoder_at, encoder) in ENCODERS.iter().enumerate() {
        for (picture_at, picture) in PICTURES.iter().enumerate() {
            let y = 52 + 24 * (encoder_at * PICTURES.len() + picture_at) as i32;
            put(&format!("{}, {}", encoder.name, picture.name), 10, y);
            for at in 0..cores.len() {
                let Some(cell) = cells.get(&(encoder_at, picture_at, at)) else {
                    continue;
                };
                let ratio = (cell.product / f64::from(cell.number)).exp();
                // Red at 0.7, white at 1.
                let part = ((1.0 - ratio) / 0.3).clamp(0.0, 1.0);
                let fade = (255.0 * (1.0 - part)) as u8;
                let x = 244 + 76 * at as i32;
                let square = Rectangle::new(
                    [(x, y - 4), (x + 74, y + 18)],
                    RGBColor(255, fade, fade).filled(),
                );
                area.draw(&square).unwrap();
                put(&format!("{ratio:.2}"), x + 20, y);
            }
        }
    }
    area.present().unwrap();
    eprintln!("{}", path.display());
}
