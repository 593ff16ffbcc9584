// SPDX-License-Identifier: MPL-2.0

//! How far an export is, and how that is shown: as bars at a terminal, as lines elsewhere, as JSON to programs.

use crate::chunk::Made;
use crate::jobs::Event;
use crate::plan::Plan;
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use vtparallelenc::logic::progress::{LOOKED_AT, until_all_are_done};

/// How often bars are drawn anew, a program hears of it, and a file or a pipe gets a line.
const BARS: Duration = Duration::from_millis(100);
const JSON: Duration = Duration::from_secs(1);
const LINES: Duration = Duration::from_secs(5);

/// So many jobs have bars.
const MOST_BARS: usize = 16;

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Bars, or lines where the standard error output is no terminal.
    People,
    Json,
    Quiet,
}

/// What is known of an export that is under way. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Snapshot {
    pub frames: u64,
    pub frames_total: u64,
    pub fraction: f64,
    pub frames_per_second: f64,
    pub elapsed: f64,
    /// `None`: nobody can say yet.
    pub time_left: Option<f64>,
    /// Of the chunks that are done.
    pub bytes: u64,
    /// Of the whole picture, if it goes on like this.
    pub bytes_expected: Option<u64>,
    pub chunks_done: usize,
    pub chunks: usize,
    /// What works, by its place.
    pub jobs: Vec<Option<JobState>>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobState {
    pub chunk: usize,
    /// Packets that were made, those around the chunk too.
    pub packets: u64,
    pub of: u64,
}

struct Place {
    index: usize,
    made: Made,
    since: Instant,
    /// When the first packets were seen, and how far it was: before that, a process starts, a decoder comes to the range, and an encoder
    /// looks ahead.
    first: Option<(Instant, Made)>,
}

/// How fast jobs were.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    /// Frames that were encoded, and in how many seconds.
    frames: u64,
    seconds: f64,
    /// Jobs whose first packets were seen, how many seconds it took until then, and how many frames they looked ahead.
    jobs: u32,
    opening: f64,
    ahead: u64,
}

/// What a chunk takes.
#[derive(Debug, Clone, Copy)]
struct Costs {
    /// Seconds until the first packet.
    opening: f64,
    /// Frames that were taken until then.
    ahead: f64,
    /// Seconds from one packet to the next.
    per_frame: f64,
}

impl Costs {
    /// Seconds for so many packets, the last ones of a chunk: no more is looked ahead at its end.
    fn rest(&self, packets: u64) -> f64 {
        let packets = packets as f64;
        (packets - packets.min(self.ahead) * LOOKED_AT) * self.per_frame
    }
}

impl Pace {
    fn add(&mut self, place: &Place, now: Instant) {
        if let Some((first, made)) = place.first {
            self.frames += place.made.packets.saturating_sub(made.packets);
            self.ahead += made.fed.saturating_sub(made.packets);
            self.seconds += now.duration_since(first).as_secs_f64();
            self.jobs += 1;
            self.opening += first.duration_since(place.since).as_secs_f64();
        }
    }

    /// `None`: nobody can say yet.
    fn costs(&self) -> Option<Costs> {
        let jobs = f64::from(self.jobs);
        (self.frames > 0).then(|| Costs {
            opening: self.opening / jobs,
            ahead: self.ahead as f64 / jobs,
            per_frame: self.seconds / self.frames as f64,
        })
    }
}

struct State {
    begun: Instant,
    /// What each chunk's encoder is fed, and of that its own.
    sizes: Vec<(u64, u64)>,
    /// Chunks that aren't done and not in work, in their order.
    waiting: Vec<usize>,
    places: Vec<Option<Place>>,
    done: usize,
    own_done: u64,
    /// Of an earlier run.
    own_before: u64,
    bytes: u64,
    /// Of attempts that are over.
    pace: Pace,
    /// Seconds that these took.
    busy: f64,
    told: Instant,
}

/// Who shows it.
enum Display {
    Bars {
        all: MultiProgress,
        whole: ProgressBar,
        jobs: Mutex<Vec<ProgressBar>>,
    },
    Lines,
    Json,
    Quiet,
}

pub struct Progress {
    state: Mutex<State>,
    display: Display,
}

impl Progress {
    /// For these chunks of a plan in so many places, or more as chunks are begun there, the others being done with so many bytes.
    pub fn new(
        plan: &Plan,
        waiting: &[usize],
        places: usize,
        bytes_done: u64,
        style: Style,
    ) -> Self {
        let sizes = plan.chunks.iter().map(|chunk| {
            let fed = chunk.fed();
            (fed.end - fed.start, chunk.frames())
        });
        let sizes: Vec<_> = sizes.collect();
        let is_done = |index: &usize| !waiting.contains(index);
        let done = (0..sizes.len()).filter(is_done);
        let now = Instant::now();
        let own_before = done.clone().map(|index| sizes[index].1).sum();
        let state = State {
            begun: now,
            waiting: waiting.to_vec(),
            places: (0..places).map(|_| None).collect(),
            own_done: own_before,
            own_before,
            done: done.count(),
            bytes: bytes_done,
            pace: Pace::default(),
            busy: 0.0,
            told: now,
            sizes,
        };
        let display = match style {
            Style::Quiet => Display::Quiet,
            Style::Json => Display::Json,
            Style::People if std::io::stderr().is_terminal() => bars(plan.expected_frames()),
            Style::People => Display::Lines,
        };
        Self {
            state: Mutex::new(state),
            display,
        }
    }

    /// Something happened in a job.
    pub fn see(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Begun { place, index } => {
                state.waiting.retain(|waiting| *waiting != index);
                let places = state.places.len().max(place + 1);
                state.places.resize_with(places, || None);
                state.places[place] = Some(Place {
                    index,
                    made: Made::default(),
                    since: Instant::now(),
                    first: None,
                });
            }
            Event::Made { place, made } => {
                if let Some(place) = &mut state.places[place] {
                    // (What is done isn't at hand any more.)
                    if made.packets >= place.made.packets {
                        place.made = made;
                    }
                    if made.packets > 0 {
                        place.first.get_or_insert_with(|| (Instant::now(), made));
                    }
                }
            }
            Event::Done {
                place,
                index,
                bytes,
            } => {
                state.end(place);
                state.done += 1;
                state.bytes += bytes;
                state.own_done += state.sizes[index].1;
            }
            Event::Failed {
                place,
                index,
                attempt,
                why,
            } => {
                state.end(place);
                drop(state);
                self.say(&format!("Chunk {index}, attempt {attempt}: {why}"));
                return;
            }
            Event::Left { place, index } => {
                state.end(place);
                state.waiting.push(index);
            }
            Event::Said { text } => {
                drop(state);
                match self.display {
                    Display::Quiet => say(text),
                    _ => self.say(&text),
                }
                return;
            }
        }
        self.show(&mut state);
    }

    /// One of several things that are done with all frames.
    pub fn begin(&self, what: &str) {
        match &self.display {
            Display::Bars { whole, .. } => whole.set_prefix(format!("{what} ")),
            Display::Lines => say(what),
            Display::Json => print_json(&serde_json::json!({ "event": "begun", "what": what })),
            Display::Quiet => (),
        }
    }

    /// Something that people should read.
    pub fn say(&self, text: &str) {
        match &self.display {
            Display::Bars { whole, .. } => whole.suspend(|| say(text)),
            Display::Lines => say(text),
            Display::Json => print_json(&serde_json::json!({ "event": "warning", "text": text })),
            Display::Quiet => (),
        }
    }

    /// Seconds that all jobs were at work together.
    pub fn busy(&self) -> f64 {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .busy
    }

    pub fn end(&self) {
        if let Display::Bars { whole, jobs, .. } = &self.display {
            let jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
            jobs.iter().for_each(ProgressBar::finish_and_clear);
            whole.finish_and_clear();
        }
    }

    fn show(&self, state: &mut State) {
        let every = match self.display {
            Display::Bars { .. } => BARS,
            Display::Json => JSON,
            Display::Lines => LINES,
            Display::Quiet => return,
        };
        let now = Instant::now();
        if now.duration_since(state.told) < every {
            return;
        }
        state.told = now;
        let snapshot = state.snapshot(now);
        match &self.display {
            Display::Bars { all, whole, jobs } => {
                whole.set_position(snapshot.frames);
                whole.set_message(in_words(&snapshot));
                let mut jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
                while jobs.len() < snapshot.jobs.len().min(MOST_BARS) {
                    jobs.push(bar(all, ProgressBar::new(1), "      {bar:40.dim} {msg}"));
                }
                for (bar, job) in jobs.iter().zip(&snapshot.jobs) {
                    if let Some(job) = job {
                        bar.set_length(job.of);
                        bar.set_position(job.packets);
                        bar.set_message(format!("chunk {}", job.chunk));
                    }
                }
            }
            Display::Lines => say(format_args!(
                "{:3.0} %  {} of {} frames, {}",
                snapshot.fraction * 100.0,
                snapshot.frames,
                snapshot.frames_total,
                in_words(&snapshot)
            )),
            Display::Json => {
                print_json(&serde_json::json!({ "event": "progress", "progress": snapshot }));
            }
            Display::Quiet => (),
        }
    }
}

/// To the standard error output. (Where there is no space for it, or nobody who reads it, the rest goes on.)
pub fn say(text: impl fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// To the standard output, likewise.
pub fn tell(text: impl fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

pub fn print_json(value: &impl Serialize) {
    if let Ok(line) = serde_json::to_string(value) {
        tell(line);
    }
}

fn bars(frames: u64) -> Display {
    let all = MultiProgress::new();
    let template = "{prefix}{percent:>3} % {bar:40} {pos}/{len} frames  {msg}";
    let whole = bar(&all, ProgressBar::new(frames), template);
    Display::Bars {
        all,
        whole,
        jobs: Mutex::default(),
    }
}

/// One more below the others.
fn bar(all: &MultiProgress, bar: ProgressBar, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    all.add(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
}

fn in_words(snapshot: &Snapshot) -> String {
    let left = match snapshot.time_left {
        Some(seconds) => format!("{} left", clock(seconds)),
        None => "time left not known yet".into(),
    };
    let size = match snapshot.bytes_expected {
        Some(expected) => format!(
            ", {} of about {}",
            HumanBytes(snapshot.bytes),
            HumanBytes(expected)
        ),
        None => String::new(),
    };
    format!("{:.1} frames/s, {left}{size}", snapshot.frames_per_second)
}

/// 1:02:03
pub fn clock(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

impl State {
    fn end(&mut self, place: usize) {
        if let Some(ended) = self.places[place].take() {
            self.pace.add(&ended, Instant::now());
            self.busy += ended.since.elapsed().as_secs_f64();
        }
    }

    /// Packets of a chunk, as far as they count for the film.
    fn own_of(&self, place: &Place) -> u64 {
        let (fed, own) = self.sizes[place.index];
        (place.made.packets.saturating_mul(own) / fed.max(1)).min(own)
    }

    fn snapshot(&self, now: Instant) -> Snapshot {
        let total: u64 = self.sizes.iter().map(|(_, own)| own).sum();
        let at_work: u64 = self
            .places
            .iter()
            .flatten()
            .map(|place| self.own_of(place))
            .sum();
        let frames = self.own_done + at_work;
        let elapsed = now.duration_since(self.begun).as_secs_f64();
        let mut pace = self.pace;
        for place in self.places.iter().flatten() {
            pace.add(place, now);
        }
        Snapshot {
            frames,
            frames_total: total,
            fraction: frames as f64 / total.max(1) as f64,
            frames_per_second: frames.saturating_sub(self.own_before) as f64 / elapsed.max(0.001),
            elapsed,
            time_left: pace.costs().map(|costs| self.time_left(costs, now)),
            bytes: self.bytes,
            bytes_expected: (self.own_done > 0)
                .then(|| (self.bytes as f64 / self.own_done as f64 * total as f64) as u64),
            chunks_done: self.done,
            chunks: self.sizes.len(),
            jobs: self
                .places
                .iter()
                .map(|place| {
                    let place = place.as_ref()?;
                    Some(JobState {
                        chunk: place.index,
                        packets: place.made.packets,
                        of: self.sizes[place.index].0,
                    })
                })
                .collect(),
        }
    }

    /// Each place goes on with what is left of its chunk, and with the next ones as it gets free.
    fn time_left(&self, costs: Costs, now: Instant) -> f64 {
        let of = |index: usize| self.sizes[index].0;
        let left = |place: &Place| {
            let opening = match place.first {
                Some(_) => 0.0,
                None => costs.opening - now.duration_since(place.since).as_secs_f64(),
            };
            opening.max(0.0) + costs.rest(of(place.index).saturating_sub(place.made.packets))
        };
        let places = self.places.iter();
        let places = places.map(|place| place.as_ref().map_or(0.0, left));
        let waiting = self.waiting.iter();
        let waiting = waiting.map(|&index| costs.opening + costs.rest(of(index)));
        until_all_are_done(places.collect(), waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_reads_as_people_write_it() {
        assert_eq!([0.4, 59.6, 3723.0].map(clock), ["0:00", "1:00", "1:02:03"]);
    }

    #[test]
    fn time_left_is_that_of_the_place_that_ends_last() {
        let now = Instant::now();
        let place = |index, packets| {
            let made = Made {
                packets,
                ..Made::default()
            };
            Some(Place {
                index,
                made,
                since: now,
                first: (packets > 0).then_some((now, made)),
            })
        };
        let state = State {
            begun: now,
            sizes: vec![(100, 90), (100, 90), (100, 90), (40, 30)],
            waiting: vec![2, 3],
            places: vec![place(0, 50), place(1, 0)],
            done: 0,
            own_done: 0,
            own_before: 0,
            bytes: 0,
            pace: Pace::default(),
            busy: 0.0,
            told: now,
        };
        // 50 + 100 in one place, 100 + 40 in the other, each of which opens one more.
        let costs = Costs {
            opening: 0.5,
            ahead: 0.0,
            per_frame: 0.1,
        };
        assert_eq!(state.time_left(costs, now), 15.5);
        let opening = 2.0;
        assert_eq!(state.time_left(Costs { opening, ..costs }, now), 18.0);
        // What was looked at takes less: 30 frames of each chunk.
        let looks_ahead = Costs {
            ahead: 30.0,
            ..costs
        };
        assert_eq!(state.time_left(looks_ahead, now), 13.5);
        let snapshot = state.snapshot(now);
        assert_eq!((snapshot.frames, snapshot.frames_total), (45, 300));
    }
}
