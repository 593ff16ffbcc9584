// SPDX-License-Identifier: MPL-2.0

//! `vtexport`: see `vtexport --help`.

use clap::{Parser, Subcommand};
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use vtexport::formats::formats;
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
    /// Lists the types of files that can be written, with the encoders that this installation has for each.
    Formats {
        /// Print it as JSON, for programs.
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
    match command {
        Command::Inspect {
            file,
            video_stream,
            json,
        } => match inspect(&file, video_stream) {
            Ok(report) => print(&report, &report, json),
            Err(error) => {
                eprintln!("vtexport: {error}");
                ExitCode::from(match error {
                    SourceError::Missing(_) => CANNOT,
                    _ => UNUSABLE,
                })
            }
        },
        Command::Formats { json } => {
            let formats = formats();
            let lines: Vec<String> = formats.iter().map(ToString::to_string).collect();
            print(&lines.join("\n"), &formats, json)
        }
    }
}

/// To people, or as JSON.
fn print(text: &impl Display, data: &impl Serialize, json: bool) -> ExitCode {
    let written = match json {
        true => serde_json::to_string_pretty(data).map_err(io::Error::from),
        false => Ok(text.to_string()),
    };
    // (Who reads it may have enough of it: `vtexport formats | head`.)
    let printed = written.and_then(|text| writeln!(io::stdout(), "{text}"));
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("vtexport: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn inspect(file: &std::path::Path, number: usize) -> Result<Report, SourceError> {
    let source = Source::open(file)?;
    let scanned = scan(file, number)?;
    Ok(Report::new(&source, number, &scanned))
}
