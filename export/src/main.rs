// SPDX-License-Identifier: MPL-2.0

//! `vtexport`: see `vtexport --help`.

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use vtexport::inspect::Report;
use vtexport::scan::scan;
use vtexport::source::{Source, SourceError};

/// The source can't be used: EX_DATAERR of sysexits.h.
const UNUSABLE: u8 = 65;

/// This installation can't do it: EX_CONFIG of sysexits.h.
const CANNOT: u8 = 78;

/// Looks into video files.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says what is in a file, which pictures its video has, and whether ranges of it can be decoded by themselves.
    Inspect {
        /// The video file.
        file: PathBuf,
        /// The number of the video stream to look into, counted from 0.
        #[arg(long, default_value_t = 0, value_name = "NUMBER")]
        video_stream: usize,
        /// Print it as JSON, for programs. Times are in seconds.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    if let Err(error) = gst::init() {
        eprintln!("vtexport: GStreamer doesn't start: {error}");
        return ExitCode::from(CANNOT);
    }
    let Command::Inspect {
        file,
        video_stream,
        json,
    } = command;
    match inspect(&file, video_stream) {
        Ok(report) if json => match serde_json::to_string_pretty(&report) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("vtexport: {error}");
                return ExitCode::FAILURE;
            }
        },
        Ok(report) => println!("{report}"),
        Err(error) => {
            eprintln!("vtexport: {error}");
            return ExitCode::from(match error {
                SourceError::Missing(_) => CANNOT,
                _ => UNUSABLE,
            });
        }
    }
    ExitCode::SUCCESS
}

fn inspect(file: &std::path::Path, number: usize) -> Result<Report, SourceError> {
    let source = Source::open(file)?;
    let scanned = scan(file, number)?;
    Ok(Report::new(&source, number, &scanned))
}
