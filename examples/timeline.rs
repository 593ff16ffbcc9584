// SPDX-License-Identifier: MPL-2.0

//! Draws a timeline that `vtparallelenc timeline-location=FILE` wrote: `timeline FILE PICTURE.svg` or `… PICTURE.png`.
//!
//! Sessions are rows and chunks are bars, with their numbers; grey is time in which a session had nothing to do. Below is what was held. A
//! PNG is made of the SVG by GStreamer's rsvgdec (gstreamer1.0-plugins-bad).

use gst::prelude::*;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::Value;
use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 1200;
const ROW: i32 = 34;
/// Left of the rows, for their names.
const LEFT: i32 = 90;
const TOP: i32 = 50;
const CURVE: i32 = 110;

/// Phases in the order of the legend.
const PHASES: [(&str, RGBColor); 11] = [
    ("own frames", RGBColor(46, 125, 50)),
    ("lead", RGBColor(129, 199, 132)),
    ("trail", RGBColor(174, 213, 129)),
    ("draining", RGBColor(3, 155, 229)),
    ("opening", RGBColor(255, 179, 0)),
    ("closing", RGBColor(255, 224, 130)),
    ("cache", RGBColor(126, 87, 194)),
    ("waiting for frames", RGBColor(144, 164, 174)),
    ("waiting for memory", RGBColor(96, 125, 139)),
    ("no chunk", RGBColor(224, 224, 224)),
    ("hung", RGBColor(198, 40, 40)),
];

/// A phase of a row, in seconds.
struct Bar {
    row: u64,
    name: String,
    from: f64,
    to: f64,
    chunk: Option<u64>,
}

#[derive(Default)]
struct Timeline {
    title: String,
    rows: BTreeMap<u64, String>,
    bars: Vec<Bar>,
    held: Vec<(f64, f64)>,
    end: f64,
}

/// Of what a crash left, too: each line is an event.
fn read(path: &str) -> Result<Timeline, Box<dyn Error>> {
    let mut timeline = Timeline::default();
    for (number, line) in std::fs::read_to_string(path)?.lines().enumerate() {
        let line = line.trim().trim_end_matches(',');
        if line.is_empty() || line == "[" || line == "]" {
            continue;
        }
        let event: Value = match serde_json::from_str(line) {
            Ok(event) => event,
            Err(error) => {
                eprintln!("line {}: {error}; the rest is left out", number + 1);
                break;
            }
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let seconds = |name: &str| event[name].as_f64().unwrap_or(0.0) / 1e6;
        let (from, name) = (seconds("ts"), text(&event["name"]));
        let row = event["tid"].as_u64().unwrap_or(0);
        match event["ph"].as_str() {
            Some("M") if name == "process_name" => timeline.title = text(&event["args"]["name"]),
            Some("M") if name == "thread_name" => {
                timeline.rows.insert(row, text(&event["args"]["name"]));
            }
            Some("X") => timeline.bars.push(Bar {
                row,
                name,
                from,
                to: from + seconds("dur"),
                chunk: event["args"]["chunk"].as_u64(),
            }),
            Some("C") if name == "raw bytes held" => {
                let bytes = event["args"]["value"].as_f64().unwrap_or(0.0);
                timeline.held.push((from, bytes / f64::from(1 << 20)));
            }
            _ => (),
        }
    }
    let ends = timeline.bars.iter().map(|bar| bar.to);
    timeline.end = ends
        .chain(timeline.held.iter().map(|it| it.0))
        .fold(0.0, f64::max);
    match timeline.end > 0.0 {
        true => Ok(timeline),
        false => Err(format!("{path}: there is nothing in it").into()),
    }
}

fn color(name: &str) -> RGBColor {
    let known = PHASES.iter().find(|(phase, _)| *phase == name);
    known.map_or(BLACK, |(_, color)| *color)
}

fn draw(timeline: &Timeline, path: &str) -> Result<(), Box<dyn Error>> {
    let rows = i32::try_from(timeline.rows.len())?;
    let height = TOP + rows * ROW + 40 + CURVE + 50;
    let area = SVGBackend::new(path, (WIDTH, height.try_into()?)).into_drawing_area();
    area.fill(&WHITE)?;
    let font = |size: i32| ("sans-serif", size).into_font();
    let width = i32::try_from(WIDTH)? - LEFT - 20;
    let x = |seconds: f64| LEFT + (seconds / timeline.end * f64::from(width)) as i32;
    let y = |row: u64| {
        let index = timeline.rows.keys().position(|it| *it == row);
        TOP + i32::try_from(index.unwrap_or(0)).unwrap_or(0) * ROW
    };
    let centered = |size: i32| {
        let style = TextStyle::from(font(size)).color(&BLACK);
        style.pos(Pos::new(HPos::Center, VPos::Center))
    };
    let title = format!("{}: {:.1} s", timeline.title, timeline.end);
    area.draw(&Text::new(title, (10, 8), font(16)))?;
    for (row, name) in &timeline.rows {
        area.draw(&Text::new(name.clone(), (10, y(*row) + 8), font(13)))?;
    }
    for bar in &timeline.bars {
        let corners = [
            (x(bar.from), y(bar.row) + 3),
            (x(bar.to), y(bar.row) + ROW - 5),
        ];
        area.draw(&Rectangle::new(corners, color(&bar.name).filled()))?;
    }
    // Each attempt at a chunk is a frame around its phases.
    let mut chunks: BTreeMap<(u64, u64), (f64, f64)> = BTreeMap::new();
    for bar in &timeline.bars {
        if let Some(chunk) = bar.chunk {
            let span = chunks.entry((bar.row, chunk)).or_insert((bar.from, bar.to));
            *span = (span.0.min(bar.from), span.1.max(bar.to));
        }
    }
    for ((row, chunk), (from, to)) in chunks {
        let (left, right) = (x(from), x(to));
        let corners = [(left, y(row) + 2), (right, y(row) + ROW - 4)];
        area.draw(&Rectangle::new(corners, BLACK.stroke_width(1)))?;
        if right - left > 16 {
            let middle = (left.midpoint(right), y(row) + ROW / 2);
            let style = centered(13).color(&WHITE);
            area.draw(&Text::new(chunk.to_string(), middle, style))?;
        }
    }
    curve(timeline, &area, TOP + rows * ROW + 14, &x)?;
    legend(&area, height - 22)?;
    area.present()?;
    Ok(())
}

/// What is held, and the time.
fn curve(
    timeline: &Timeline,
    area: &Area<'_>,
    top: i32,
    x: &impl Fn(f64) -> i32,
) -> Result<(), Box<dyn Error>> {
    let small = ("sans-serif", 11).into_font();
    let most = timeline.held.iter().map(|it| it.1).fold(1.0, f64::max);
    let y = |held: f64| top + CURVE - (held / most * f64::from(CURVE)) as i32;
    // It is what it was until it is said to be otherwise.
    let mut line = Vec::new();
    for (at, held) in &timeline.held {
        line.extend(
            line.last()
                .map(|(_, before): &(i32, i32)| (x(*at), *before)),
        );
        line.push((x(*at), y(*held)));
    }
    let ink = RGBColor(21, 101, 192);
    area.draw(&PathElement::new(line, ink.stroke_width(2)))?;
    let axis = vec![
        (LEFT, top),
        (LEFT, top + CURVE),
        (x(timeline.end), top + CURVE),
    ];
    area.draw(&PathElement::new(axis, BLACK))?;
    for (held, label) in [(most, format!("{most:.0} MiB")), (0.0, "0".to_string())] {
        area.draw(&Text::new(label, (10, y(held) - 5), small.clone()))?;
    }
    area.draw(&Text::new(
        "raw video",
        (10, top + CURVE / 2 - 5),
        small.clone(),
    ))?;
    let step = [
        0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 3600.0,
    ];
    let step = step.into_iter().find(|step| timeline.end / step <= 12.0);
    let step = step.unwrap_or(timeline.end);
    let mut at = 0.0;
    while at <= timeline.end {
        let label = format!("{} s", (at * 10.0).round() / 10.0);
        area.draw(&Text::new(label, (x(at), top + CURVE + 4), small.clone()))?;
        at += step;
    }
    Ok(())
}

fn legend(area: &Area<'_>, top: i32) -> Result<(), Box<dyn Error>> {
    let mut left = 10;
    for (name, color) in PHASES {
        area.draw(&Rectangle::new(
            [(left, top), (left + 12, top + 12)],
            color.filled(),
        ))?;
        let font = ("sans-serif", 12).into_font();
        area.draw(&Text::new(name, (left + 16, top), font))?;
        left += 34 + 7 * i32::try_from(name.len())?;
    }
    Ok(())
}

/// A PNG of an SVG.
fn png(svg: &Path, png: &str) -> Result<(), Box<dyn Error>> {
    gst::init()?;
    let pipeline = gst::parse::launch(
        "filesrc name=from ! rsvgdec ! videoconvert ! pngenc ! filesink name=to",
    )?;
    let pipeline = pipeline
        .downcast::<gst::Pipeline>()
        .map_err(|_| "no pipeline")?;
    for (name, location) in [("from", svg), ("to", Path::new(png))] {
        let element = pipeline.by_name(name).ok_or("no such element")?;
        element.set_property(
            "location",
            location.to_str().ok_or("a path that isn't text")?,
        );
    }
    pipeline.set_state(gst::State::Playing)?;
    let bus = pipeline.bus().ok_or("no bus")?;
    let kinds = [gst::MessageType::Eos, gst::MessageType::Error];
    let end = bus.timed_pop_filtered(gst::ClockTime::NONE, &kinds);
    pipeline.set_state(gst::State::Null)?;
    match end.as_ref().map(|end| end.view()) {
        Some(gst::MessageView::Error(error)) => Err(error.error().message().to_string().into()),
        _ => Ok(()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else {
        return Err(
            "two arguments are needed: a timeline, and the .svg or .png file to make".into(),
        );
    };
    let timeline = read(from)?;
    match Path::new(to).extension().and_then(|it| it.to_str()) {
        Some("svg") => draw(&timeline, to),
        Some("png") => {
            let dir = tempfile::tempdir()?;
            let svg = dir.path().join("timeline.svg");
            draw(&timeline, svg.to_str().ok_or("a path that isn't text")?)?;
            png(&svg, to)
        }
        _ => Err(format!("{to}: neither .svg nor .png").into()),
    }
}
