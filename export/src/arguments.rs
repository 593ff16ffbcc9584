// SPDX-License-Identifier: MPL-2.0

//! What the command takes: the one definition of its help, its manual page and its completions.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use vtexport::plan::TimeRange;

/// Exports a video file: encodes its picture in chunks, by several processes at once, and writes it with its sound as one file.
///
/// With the same --chunk-frames and --threads the picture is the same to the byte for any number of jobs. What is done is kept until the output is whole, so that the same command
/// goes on where an earlier one was ended.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  vtexport film.mov -o film.mp4\n  vtexport film.mkv -o film.webm --video \"vp9enc end-usage=cq cq-level=30\" --audio \"opusenc\"\n\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 65 the source can't be used, 75 ended or out of space (the same command goes \
                  on), 78 this installation can't do it."
)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub exporting: Exporting,
}

#[derive(Debug, Args)]
pub struct Exporting {
    #[command(flatten)]
    pub encode: Encode,
    /// The file to write. Its ending says its type: mp4, mov, mkv, webm or ts.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub sound: Sound,
    /// Replace the output if it is there.
    #[arg(long)]
    pub overwrite: bool,
    /// Write a file of what is done when it is ended by Ctrl-C.
    #[arg(long)]
    pub keep_partial: bool,
    /// Make the output no larger than that (25MB, 1.5GB, 700MiB), as good as it can be then, in two passes. A preset's quality is left out then; a
    /// bitrate in --video isn't passed.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub file_length_limit: Option<u64>,
    /// Don't fail if the source ends before it says that it does. What is there is exported in any case.
    #[arg(long)]
    pub allow_truncated: bool,
    /// Where chunks are kept until the output is whole: by default in a directory beside the output, of its name with .vtexport.
    #[arg(long, value_name = "DIRECTORY")]
    pub temporary_directory: Option<PathBuf>,
    /// What runs the jobs: this machine, those of Slurm, or the workers of Dask. Each has to see the source and the directory of the chunks
    /// (--temporary-directory).
    #[arg(long, value_enum, default_value_t = Engine::Local)]
    pub engine: Engine,
    /// The address of Dask's scheduler: tls://HOST:8786. Certificates are those of Dask's own configuration.
    #[arg(long, value_name = "ADDRESS")]
    pub scheduler: Option<String>,
    /// The partition of Slurm's machines.
    #[arg(long, value_name = "NAME")]
    pub partition: Option<String>,
    /// More options of sbatch, with blanks between them, and none within: "--mem=4G --time=1:00:00".
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    pub slurm_options: Option<String>,
    /// A directory that all machines see, each perhaps at another place: tasks find the plan and its chunks from there. A machine that has it
    /// elsewhere says where in VTEXPORT_WORK_ROOT. For --engine slurm and dask.
    #[arg(
        long,
        value_name = "DIRECTORY",
        env = "VTEXPORT_WORK_ROOT",
        hide_env = true
    )]
    pub work_root: Option<PathBuf>,
    #[command(flatten)]
    pub place: Place,
    #[command(flatten)]
    pub shown: Shown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    Local,
    Slurm,
    Dask,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct Shown {
    /// Print progress and the summary as JSON, a line each, for programs.
    #[arg(long)]
    pub json: bool,
    /// Print nothing but warnings and errors.
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Encode {
    /// The video file to export.
    #[arg(value_name = "INPUT")]
    pub input: Option<PathBuf>,
    /// A preset (h264, h265-high, vp9, av1; `vtexport formats` lists them), or a video encoder with its properties, as gst-launch-1.0 takes it:
    /// "x265enc speed-preset=fast". By default h264, for webm vp9, each in constant quality.
    #[arg(long, value_name = "PRESET|ENCODER")]
    pub video: Option<String>,
    /// The number of the video stream, counted from 0.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub video_stream: usize,
    /// Frames of each chunk. By default, chunks are so long that they cost no more than one percent of the bits, 1500 frames at most as long as
    /// that does, and shorter at the end of the film.
    #[arg(long, value_name = "FRAMES", value_parser = clap::value_parser!(u64).range(1..))]
    pub chunk_frames: Option<u64>,
    /// Let chunks end at cuts, where a key frame costs nothing. All of the film is decoded beforehand to find them.
    #[arg(long, conflicts_with_all = ["chunk_frames", "no_parallel"])]
    pub scene_cuts: bool,
    /// Jobs that work at the same time. By default, as many as use the processor best; with --engine slurm or dask, the plan has chunks for 64, and
    /// as many work as there are machines.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub jobs: Option<u32>,
    /// Threads of each encoder. By default, as many as use the processor best; with --engine slurm or dask 1.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=128))]
    pub threads: Option<u32>,
    /// Export this part of the film only: 1:30..2:45, 90.5.. or ..0:30, in hours, minutes and seconds. The picture is cut at frames; the sound
    /// at packets, or to the sample where --audio names an encoder.
    #[arg(long, value_name = "FROM..TO", value_parser = time_range)]
    pub time_range: Option<TimeRange>,
    /// Know the source by a digest of all of it, which has to be read for that, and again where it is joined: by default by its size and a digest of samples.
    #[arg(long)]
    pub full_digest: bool,
    /// Encode with one encoder, in one process.
    #[arg(long)]
    pub no_parallel: bool,
    /// Encode in two passes, so that the bits of the encoder's bitrate go where they are needed: --video "x264enc bitrate=2000" (kbit/s).
    /// x264enc, x265enc, vp8enc and vp9enc can.
    #[arg(long)]
    pub multi_pass: bool,
}

#[derive(Debug, Args)]
pub struct Sound {
    /// What becomes of the sound: copy (encoded anew only where the output's type doesn't hold it), none, or an encoder as "opusenc bitrate=96000".
    #[arg(long, default_value = "copy", value_name = "copy|none|ENCODER")]
    pub audio: String,
    /// Write the index first, so that playing can begin before all is loaded (mp4 and mov).
    #[arg(long)]
    pub optimize_for_network_use: bool,
}

#[derive(Debug, Args)]
pub struct Place {
    /// A directory that all machines see, each perhaps at another place: the plan has the source's path from there. A machine that has it
    /// elsewhere says where in VTEXPORT_SOURCE_ROOT.
    #[arg(
        long,
        value_name = "DIRECTORY",
        env = "VTEXPORT_SOURCE_ROOT",
        hide_env = true
    )]
    pub source_root: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Says what is in a file, which pictures its video has, whether ranges of it can be decoded by themselves, and what an export with the
    /// same options would do.
    Inspect {
        #[command(flatten)]
        encode: Encode,
        /// The file that would be written, for its type.
        #[arg(short, long, default_value = "film.mp4", value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        sound: Sound,
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
    /// Plans an export: which frames each chunk has. Nothing is decoded but the first frame, unless --scene-cuts asks for it.
    Plan {
        #[command(flatten)]
        encode: Encode,
        /// The file that will be written, for its type.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Where the plan is written, in a directory in which the chunks are kept, too.
        #[arg(long, default_value = "plan.json", value_name = "FILE")]
        plan: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Encodes one chunk of a plan, unless it is done.
    Chunk {
        /// The plan.
        plan: PathBuf,
        /// The number of the chunk, counted from 0. By default that of the task of an array, as Slurm (SLURM_ARRAY_TASK_ID), Kubernetes
        /// (JOB_COMPLETION_INDEX) or AWS Batch (AWS_BATCH_JOB_ARRAY_INDEX) says it.
        #[arg(long, value_name = "NUMBER")]
        index: Option<usize>,
        #[command(flatten)]
        place: Place,
        /// Make the first of its two passes.
        #[arg(long)]
        first_pass: bool,
        /// Print how many frames were taken and packets made as JSON, a line each, for programs.
        #[arg(long)]
        json: bool,
        /// End when the standard input does.
        #[arg(long, hide = true)]
        attended: bool,
    },
    /// Writes the output of a plan whose chunks are done.
    Join {
        /// The plan.
        plan: PathBuf,
        #[command(flatten)]
        place: Place,
        /// The file to write.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        sound: Sound,
        /// Replace the output if it is there.
        #[arg(long)]
        overwrite: bool,
    },
    /// Says which chunks of a plan are done.
    Status {
        /// The plan.
        plan: PathBuf,
        /// Print the numbers of the chunks that aren't, a line each, for programs.
        #[arg(long, conflicts_with = "json")]
        missing: bool,
        /// Print it as JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Prints what a worker of Dask offers to get tasks for encoders that it has: `dask worker tls://HOST:8786 --resources "$(vtexport tag)"`.
    Tag {
        /// Encoders, by their names; by default all of them.
        encoders: Vec<String>,
        /// Tasks that it runs at the same time.
        #[arg(long, default_value_t = 1, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
        jobs: u32,
    },
    /// Prints what a shell completes.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page.
    Man,
}

/// Bytes, as people write them.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err("sizes end with B, kB, MB, GB, KiB, MiB or GiB".into()),
    };
    let number = digits.trim().parse::<f64>().ok();
    let bytes = number.map(|number| number * unit);
    match bytes.filter(|bytes| (1.0..1e18).contains(bytes)) {
        Some(bytes) => Ok(bytes as u64),
        None => Err("that is no size: 25MB is".into()),
    }
}

/// As people write it.
fn time_range(text: &str) -> Result<TimeRange, String> {
    let (from, to) = text
        .split_once("..")
        .ok_or("there are two times with .. between them, as in 1:30..2:45")?;
    let time = |text: &str, unset: u64| match text {
        "" => Ok(unset),
        text => nanoseconds(text).ok_or(format!(
            "{text} is no time: 90.5 and 1:30.5 and 0:01:30.5 are"
        )),
    };
    let range = TimeRange {
        from: time(from, 0)?,
        to: time(to, u64::MAX)?,
    };
    match range.from < range.to {
        true => Ok(range),
        false => Err("it ends before it begins".into()),
    }
}

/// Hours, minutes and seconds, the last of which may be parted.
fn nanoseconds(text: &str) -> Option<u64> {
    let mut seconds = 0.0;
    let parts: Vec<&str> = text.split(':').collect();
    for part in &parts {
        let is_number = part.starts_with(|first: char| first.is_ascii_digit());
        let number: f64 = part.parse().ok().filter(|_| is_number)?;
        seconds = seconds * 60.0 + number;
    }
    (parts.len() <= 3 && seconds < 1e9).then(|| (seconds * 1e9).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let range = |text| time_range(text).map(|it| (it.from, it.to));
        assert_eq!(range("1:30..2:45"), Ok((90_000_000_000, 165_000_000_000)));
        assert_eq!(range("..0:01:02.5"), Ok((0, 62_500_000_000)));
        assert_eq!(range("0.04.."), Ok((40_000_000, u64::MAX)));
        for wrong in [
            "",
            "1:30",
            "2..1",
            "1..1",
            "a..b",
            "-1..2",
            "1:2:3:4..",
            "1e99..",
            "nan..",
            "1:..2",
        ] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
