// SPDX-License-Identifier: MPL-2.0

//! How long `vtexport` takes for a film on one to ten thousand machines, and what limits it.
//!
//! What limits an export is found by leaving one of all effects out at a time: the one without which it is over soonest.

use crate::Form;
use crate::cluster::Cluster;
use crate::export::{Cut, DASK, EFFECTS, Effect, Export, SIZES, SLURM, Size, THREADS};
use crate::models::{Film, RATE};
use crate::table::{Table, median};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::PathBuf;

/// Sessions that a plan of the element has at most.
const MOST_JOBS: usize = 64;

/// Frames of the chunks that are tried, and their columns.
const LENGTHS: [(u64, &str); 7] = [
    (30, "30"),
    (60, "60"),
    (120, "120"),
    (240, "240"),
    (480, "480"),
    (960, "960"),
    (1_500, "1500"),
];

/// The longest chunks count as best that take so many times as long as the fastest at most.
const AS_FAST: f64 = 1.05;

/// What gains less when it is left out limits nothing.
const LEAST_GAIN: f64 = 0.02;

/// What takes so many times as long is as good.
const AS_GOOD: f64 = 1.02;

/// Up to so many machines second copies are never worse.
const MOST_WORTH_COPIES: usize = 1_000;

/// A machine that is three times slower may delay the end by so much, where each machine has so many chunks.
const ONE_SLOW: f64 = 1.15;
const CHUNKS_EACH: usize = 5;

/// What is measured.
struct Bench {
    film: Film,
    machines: &'static [usize],
    /// Chunks of set lengths.
    set: [(u64, Cut); 7],
    /// Ways in which machines may be.
    draws: u64,
}

/// Of one cut of the film: with second copies and without.
#[derive(Clone, Copy)]
struct Times {
    usual: f64,
    single: f64,
}

/// What came of so many machines.
struct Row {
    machines: usize,
    ideal: f64,
    /// The plan that it makes by itself, and the one it would make if it might have a job for each machine.
    own: Times,
    told: Times,
    /// Of chunks of set lengths, and which of these are best.
    set: Vec<Times>,
    best: usize,
    cells: Vec<String>,
}

impl Bench {
    fn new(form: Form) -> Self {
        let (seconds, machines, draws): (_, &[usize], _) = match form {
            Form::Full => (
                7_200,
                &[
                    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000,
                ],
                9,
            ),
            Form::Short => (600, &[1, 10, 100], 3),
        };
        let film = Film::new("", seconds);
        Self {
            set: LENGTHS.map(|(frames, _)| (frames, Cut::new(&film, 1, Some(frames)))),
            film,
            machines,
            draws,
        }
    }

    fn export<'a>(&'a self, size: &'a Size, machines: usize) -> Export<'a> {
        Export {
            film: &self.film,
            size,
            machines,
            copies: true,
            dispatch: DASK,
            without: None,
        }
    }

    fn seconds(&self, export: Export<'_>, cut: &Cut) -> f64 {
        median((0..self.draws).map(|draw| export.once(cut, draw)).collect())
    }

    fn times(&self, export: Export<'_>, cut: &Cut) -> Times {
        let single = Export {
            copies: false,
            ..export
        };
        Times {
            usual: self.seconds(export, cut),
            single: self.seconds(single, cut),
        }
    }

    /// What limits it, and what part of the time would be gained without that.
    fn limit(&self, export: Export<'_>, cut: &Cut, usual: f64) -> String {
        let gain = |effect: Effect| {
            let without = Some(effect);
            1.0 - self.seconds(Export { without, ..export }, cut) / usual
        };
        let mut gains = EFFECTS.map(|(effect, name)| (gain(effect), name));
        gains.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        let limits = gains.iter().take(2).filter(|(gain, _)| *gain >= LEAST_GAIN);
        let limits: Vec<_> = limits
            .map(|(gain, name)| format!("{name} {:.0} %", gain * 100.0))
            .collect();
        match limits.is_empty() {
            true => "encoding".into(),
            false => limits.join(", "),
        }
    }

    fn row(&self, size: &Size, machines: usize) -> Row {
        let export = self.export(size, machines);
        let ideal = median((0..self.draws).map(|draw| export.ideal(draw)).collect());
        let planned = |jobs: usize| Cut::new(&self.film, jobs as u64, None);
        let (own_cut, told_cut) = (planned(machines.min(MOST_JOBS)), planned(machines));
        let (own, told) = (self.times(export, &own_cut), self.times(export, &told_cut));
        let set: Vec<_> = self
            .set
            .iter()
            .map(|(_, cut)| self.times(export, cut))
            .collect();
        let least = set.iter().map(|it| it.usual).fold(f64::INFINITY, f64::min);
        let is_as_fast = |it: &Times| it.usual <= least * AS_FAST;
        let best = set.iter().rposition(is_as_fast).unwrap_or(0);
        let (length, cut) = &self.set[best];
        let slurm = Export {
            dispatch: SLURM,
            ..export
        };
        let percent = |part: f64| format!("{:.0} %", part * 100.0);
        let cells = vec![
            machines.to_string(),
            clock(ideal),
            priced(&own_cut.chunks(), &own_cut),
            clock(own.usual),
            clock(own.single),
            percent(ideal / own.usual),
            self.limit(export, &own_cut, own.usual),
            priced(length, cut),
            clock(set[best].usual),
            clock(set[best].single),
            clock(self.seconds(slurm, cut)),
            percent(ideal / set[best].usual),
            self.limit(export, cut, set[best].usual),
        ];
        Row {
            machines,
            ideal,
            own,
            told,
            set,
            best,
            cells,
        }
    }

    /// How much later it ends with one machine that is three times slower than without it, if all others are about as fast.
    fn one_slow(&self, export: Export<'_>, cut: &Cut) -> f64 {
        let tasks = export.tasks(cut);
        let ratio = |draw: u64| {
            let mut cluster = export.cluster(draw);
            cluster.leaving = 0.0;
            for speed in &mut cluster.speeds {
                *speed = speed.max(0.8);
            }
            cluster.speeds[0] = 1.0 / 3.0;
            let with = cluster.run(&tasks);
            cluster.speeds.remove(0);
            with / cluster.run(&tasks)
        };
        (0..self.draws).map(ratio).fold(0.0, f64::max)
    }
}

pub fn measure(form: Form) -> Vec<Table> {
    let bench = Bench::new(form);
    let mut tables = Vec::new();
    let mut all = Vec::new();
    for size in &SIZES {
        let rows = bench.machines.iter().map(|it| bench.row(size, *it));
        let rows: Vec<Row> = rows.collect();
        bench.check(size, &rows);
        tables.push(bench.overview(size, &rows, bench.check_slow(size)));
        tables.push(bench.lengths(size, &rows));
        all.push((size, rows));
    }
    if form == Form::Full {
        draw(&all);
    }
    tables
}

impl Bench {
    /// What has to be true whatever the figures are.
    fn check(&self, size: &Size, rows: &[Row]) {
        let name = size.picture.name;
        for row in rows {
            let cuts = [row.own, row.told]
                .into_iter()
                .chain(row.set.iter().copied());
            for times in cuts {
                let Times { usual, single } = times;
                let at = format!("{name}, {} machines: {usual} s", row.machines);
                assert!(usual >= row.ideal, "{at} are less than the ideal");
                // (Beyond, they read as much again from a storage that has no more.)
                let is_worth = row.machines > MOST_WORTH_COPIES || usual <= single * AS_GOOD;
                assert!(is_worth, "{at}, without second copies {single} s");
            }
        }
        for (length, cut) in &self.set {
            let times = self.machines.iter().map(|it| self.alike(size, *it, cut));
            let times: Vec<f64> = times.collect();
            let is_no_slower = |two: &[f64]| two[1] <= two[0] * AS_GOOD;
            assert!(
                times.windows(2).all(is_no_slower),
                "{name}, chunks of {length}: more machines are slower: {times:?}"
            );
        }
    }

    /// Seconds of machines that are all alike, and stay.
    fn alike(&self, size: &Size, machines: usize, cut: &Cut) -> f64 {
        let export = self.export(size, machines);
        let cluster = Cluster {
            speeds: vec![1.0; machines],
            leaving: 0.0,
            copies: false,
            ..export.cluster(0)
        };
        cluster.run(&export.tasks(cut))
    }

    /// One machine that is three times slower doesn't decide when it is over. The most that it delays the end, with second copies and without.
    fn check_slow(&self, size: &Size) -> (f64, f64) {
        let mut most = (0.0_f64, 0.0_f64);
        for &machines in self.machines.iter().filter(|it| **it >= 10) {
            let export = self.export(size, machines);
            let enough = self
                .set
                .iter()
                .filter(|(_, cut)| cut.chunks() >= CHUNKS_EACH * machines);
            for (length, cut) in enough {
                let ratio = self.one_slow(export, cut);
                let single = Export {
                    copies: false,
                    ..export
                };
                most = (most.0.max(ratio), most.1.max(self.one_slow(single, cut)));
                assert!(
                    ratio <= ONE_SLOW,
                    "{machines} machines, chunks of {length}: {ratio} times as long with a slow one"
                );
            }
        }
        most
    }
}

impl Bench {
    fn overview(&self, size: &Size, rows: &[Row], slow: (f64, f64)) -> Table {
        Table {
            title: size.title,
            about: format!(
                "Simulated, by `cargo bench -- machines`: x265 with {THREADS} threads on machines of as many cores, a film of {} without sound; chunks by the planner \
                 and the chunker as they are; all else is a model, with its figures in `benches/figures/export.rs`. Medians over {} draws of machines. *Ideal*: all \
                 machines encode all the time, each frame once, and nothing else takes time. *Plan's own*: what `vtexport --jobs` plans for so many machines, at most \
                 {MOST_JOBS}; in parentheses the part of the bits that seams are expected to cost. *Best*: the longest chunks (`--chunk-frames`) with which it takes no \
                 more than {:.0} % longer than with any. *Without copies*: nothing that is late runs a second time. *100 tasks a second*: a scheduler that takes {SLURM} s for a \
                 task instead of {DASK}. *Limited by*: the two effects without which most of the time would be gained, and how much. With {CHUNKS_EACH} chunks for each machine \
                 or more, one machine that is three times slower delays the end by {:.0} % at most; without second copies by {:.0} %.",
                clock(self.film.frames as f64 / RATE as f64),
                self.draws,
                (AS_FAST - 1.0) * 100.0,
                (slow.0 - 1.0).max(0.0) * 100.0,
                (slow.1 - 1.0).max(0.0) * 100.0,
            ),
            columns: vec![
                "machines",
                "ideal",
                "plan's own: chunks",
                "time",
                "without copies",
                "ideal / time",
                "limited by",
                "best: frames",
                "time",
                "without copies",
                "100 tasks a second",
                "ideal / time",
                "limited by",
            ],
            rows: rows.iter().map(|row| row.cells.clone()).collect(),
        }
    }

    fn lengths(&self, size: &Size, rows: &[Row]) -> Table {
        let prices = self.set.iter().map(|(length, cut)| priced(length, cut));
        let prices: Vec<_> = prices.collect();
        let cells = |row: &Row| {
            let times = row.set.iter().chain([&row.own, &row.told]);
            let times = times.map(|it| clock(it.usual));
            std::iter::once(row.machines.to_string())
                .chain(times)
                .collect()
        };
        let lengths = LENGTHS.iter().map(|(_, name)| *name);
        Table {
            title: size.lengths,
            about: format!(
                "Times by frames of a chunk. Seams are expected to cost so much of the bits: {}. *A job each*: the plan's own, if it might have a job for each \
                 machine.",
                prices.join(", ")
            ),
            columns: std::iter::once("machines")
                .chain(lengths)
                .chain(["plan's own", "a job each"])
                .collect(),
            rows: rows.iter().map(cells).collect(),
        }
    }
}

/// A number with the part of the bits that a cut into chunks costs.
fn priced(number: &impl ToString, cut: &Cut) -> String {
    format!("{} ({:.1} %)", number.to_string(), cut.price.percent())
}

fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    format!("{hours}:{minutes:02}:{:02}", seconds % 60)
}

/// Times over machines, both in logarithms.
fn draw(all: &[(&Size, Vec<Row>)]) {
    let path = PathBuf::from("target/machines.svg");
    let area = SVGBackend::new(&path, (1_200, 520)).into_drawing_area();
    area.fill(&WHITE).unwrap();
    for (area, (size, rows)) in area.split_evenly((1, all.len())).iter().zip(all) {
        chart(area, size.picture.name, rows);
    }
    area.present().unwrap();
    eprintln!("{}", path.display());
}

/// What it shows, its colour, and the seconds of a row.
type Line<'a> = (&'a str, RGBColor, &'a dyn Fn(&Row) -> f64);

fn chart(area: &DrawingArea<SVGBackend<'_>, Shift>, name: &str, rows: &[Row]) {
    let most = rows.last().map_or(1, |row| row.machines) as f64;
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_right(32)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .caption(name, ("sans-serif", 16))
        .build_cartesian_2d((1.0..most).log_scale(), (0.01..2_000.0).log_scale())
        .unwrap();
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("machines")
        .y_desc("minutes")
        .x_label_formatter(&|machines| format!("{machines:.0}"))
        .draw()
        .unwrap();
    let best = |row: &Row| row.set[row.best];
    let lines: [Line<'_>; 4] = [
        ("ideal", RGBColor(150, 150, 150), &|row| row.ideal),
        ("plan's own", RGBColor(0, 140, 60), &|row| row.own.usual),
        (
            "best length, without second copies",
            RGBColor(220, 120, 0),
            &|row| best(row).single,
        ),
        ("best length", RGBColor(0, 90, 200), &|row| best(row).usual),
    ];
    for (name, color, of) in lines {
        let points = rows.iter().map(|row| (row.machines as f64, of(row) / 60.0));
        let line = LineSeries::new(points, color.stroke_width(2));
        chart
            .draw_series(line)
            .unwrap()
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.8))
        .draw()
        .unwrap();
}
