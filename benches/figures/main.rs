// SPDX-License-Identifier: MPL-2.0

//! What `vtparallelenc` gains and what it costs, as tables in Markdown.
//!
//! ```sh
//! cargo bench                      # all tables
//! cargo bench -- scaling memory    # these
//! ```
//!
//! `cargo test` runs the short form of each, which says only that it runs. All runs that are compared are made side by side, one
//! after the other in turns, and a figure is the median: machines differ, and so do their moments.

mod clip;
mod cluster;
mod cost;
mod encoders;
mod engine;
mod export;
mod machines;
mod memory;
mod models;
mod passes;
mod peers;
mod plan;
mod plugin;
mod predictions;
mod process;
mod quality;
mod scaling;
mod seams;
mod source;
mod table;
mod valgrind;

use std::process::ExitCode;
use table::Table;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// To see that it runs.
    Short,
    Full,
}

type Measure = fn(Form) -> Vec<Table>;

/// Name and measurement, in the order of the document.
const FIGURES: [(&str, Measure); 10] = [
    ("encoders", encoders::measure),
    ("peers", peers::measure),
    ("passes", passes::measure),
    ("scaling", scaling::measure),
    ("cost", cost::measure),
    ("memory", memory::measure),
    ("seams", seams::measure),
    ("plan", plan::measure),
    ("machines", machines::measure),
    ("predictions", predictions::measure),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [play, pipeline] = arguments.as_slice()
        && play == process::PLAY
    {
        return process::play(pipeline);
    }
    // Cargo says so when it benchmarks, and not when it tests.
    let form = match arguments.iter().any(|it| it == "--bench") {
        true => Form::Full,
        false => Form::Short,
    };
    let names: Vec<_> = arguments.iter().filter(|it| !it.starts_with('-')).collect();
    let known = |name: &str| FIGURES.iter().any(|(known, _)| *known == name);
    if let Some(name) = names.iter().find(|name| !known(name)) {
        let known: Vec<_> = FIGURES.iter().map(|(name, _)| *name).collect();
        eprintln!(
            "There is no figure '{name}'; there are: {}",
            known.join(", ")
        );
        return ExitCode::FAILURE;
    }
    println!("{}", table::machine());
    for (name, measure) in FIGURES {
        if names.is_empty() || names.iter().any(|wanted| *wanted == name) {
            for table in measure(form) {
                println!("{table}");
            }
        }
    }
    ExitCode::SUCCESS
}
