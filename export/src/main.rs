// SPDX-License-Identifier: MPL-2.0

//! `vtexport`: see `vtexport --help`.

// They panic where nothing can be written.
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod arguments;

use arguments::{Arguments, Command, Encode, Exporting, Place, Shown};
use clap::{CommandFactory, Parser};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vtexport::chunk::{self, Made};
use vtexport::element;
use vtexport::export::{Engine, Export, checked_output};
use vtexport::failure::{Code, Failure};
use vtexport::folder::Folder;
use vtexport::formats::{self, FileType, formats};
use vtexport::inspect::{Outlook, Report};
use vtexport::jobs::Step;
use vtexport::join::{self, Audio, Options};
use vtexport::machines::Roots;
use vtexport::passes;
use vtexport::plan::{Plan, Request, Way};
use vtexport::presets::{self, presets};
use vtexport::progress::{Style, print_json, say, tell};
use vtexport::scan::scan;
use vtexport::source::Source;

/// What plans for other machines count on.
const MOST_JOBS: u32 = 64;

/// How often a job tells how far it is.
const TELLS: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(format_args!("vtexport: {failure}"));
            ExitCode::from(failure.code as u8)
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    // What is generated of the definition needs no GStreamer.
    match &arguments.command {
        Some(Command::Completions { shell }) => {
            let mut command = Arguments::command();
            clap_complete::generate(*shell, &mut command, "vtexport", &mut io::stdout());
            return Ok(());
        }
        Some(Command::Man) => {
            let page = clap_mangen::Man::new(Arguments::command());
            let rendered = page.render(&mut io::stdout());
            return rendered.map_err(|error| Failure::failed(error.to_string()));
        }
        _ => (),
    }
    gst::init().map_err(|error| Failure::cannot(format!("GStreamer doesn't start: {error}")))?;
    match arguments.command {
        None => export(arguments.exporting),
        Some(Command::Inspect {
            encode,
            output,
            sound,
            json,
        }) => inspect(&encode, &output, &sound, json),
        Some(Command::Formats { json }) => {
            let formats = formats();
            let presets = presets();
            let types = formats.iter().map(ToString::to_string);
            let names = presets.iter().map(ToString::to_string);
            let heading = "\nPresets for --video:".to_string();
            let lines: Vec<String> = types.chain([heading]).chain(names).collect();
            let data = serde_json::json!({ "types": formats, "presets": presets });
            print(&lines.join("\n"), &data, json)
        }
        Some(Command::Plan {
            encode,
            output,
            plan,
            place,
        }) => make_plan(&encode, &output, &plan, place),
        Some(Command::Chunk {
            plan,
            index,
            place,
            first_pass,
            json,
            attended,
        }) => {
            let step = match first_pass {
                true => Step::FirstPass,
                false => Step::Packets,
            };
            let at = plan;
            let plan = Plan::read(&at)?.found_below(place.source_root.as_deref())?;
            one_chunk(
                &plan,
                &Folder::of_plan(&at),
                index_of(index)?,
                step,
                json,
                attended,
            )
        }
        Some(Command::Join {
            plan,
            place,
            output,
            sound,
            overwrite,
        }) => {
            let folder = Folder::of_plan(&plan);
            let plan = Plan::read(&plan)?.found_below(place.source_root.as_deref())?;
            checked_output(&plan.source.path, &output, overwrite)?;
            let options = options(&sound, false);
            let chunks = plan.chunks.len();
            let joined = join::join(&plan, &folder, &output, &options, chunks, &mut |_| Ok(()));
            let joined = joined.inspect_err(|failure| {
                // It isn't done, whatever its record says.
                failure
                    .missing
                    .into_iter()
                    .for_each(|index| folder.forget(index));
            })?;
            join::put(&output)?;
            joined.notes.iter().for_each(say);
            tell(format_args!(
                "{}: {} frames, {} bytes",
                output.display(),
                joined.frames,
                joined.bytes
            ));
            Ok(())
        }
        Some(Command::Status {
            plan,
            missing,
            json,
        }) => status(&plan, missing, json),
        Some(Command::Tag { encoders, jobs }) => tags(&encoders, jobs),
        Some(Command::Completions { .. } | Command::Man) => Ok(()),
    }
}

/// To people, or as JSON.
fn print(text: &impl Display, data: &impl Serialize, json: bool) -> Result<(), Failure> {
    let written = match json {
        true => serde_json::to_string_pretty(data).map_err(io::Error::from),
        false => Ok(text.to_string()),
    };
    // (Who reads it may have enough of it: `vtexport formats | head`.)
    let printed = written.and_then(|text| writeln!(io::stdout(), "{text}"));
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(error.to_string()))
        }
        _ => Ok(()),
    }
}

/// As Dask takes resources.
fn tags(encoders: &[String], jobs: u32) -> Result<(), Failure> {
    let tags = match encoders {
        [] => {
            let formats = formats();
            let all = formats.iter().flat_map(|it| &it.video);
            let all = all.flat_map(|codec| &codec.encoders);
            // (One that can't be made is none that this machine has.)
            all.filter_map(|name| element::tag(name).ok()).collect()
        }
        encoders => encoders
            .iter()
            .map(|name| element::tag(name))
            .collect::<Result<BTreeSet<_>, _>>()?,
    };
    let offered = tags.iter().map(|tag| format!("{tag}={jobs}"));
    let offered: Vec<String> = offered.collect();
    print(&offered.join(" "), &offered, false)
}

fn request(encode: &Encode, output: &Path, size_limit: Option<u64>) -> Result<Request, Failure> {
    let source = encode
        .input
        .clone()
        .ok_or_else(|| Failure::usage("which file is to be exported?"))?;
    let ending = output
        .extension()
        .and_then(|it| it.to_str())
        .unwrap_or_default();
    let ending = ending.to_ascii_lowercase();
    let video = encode.video.clone();
    let video = video.unwrap_or_else(|| presets::default(&ending).into());
    // It may be read elsewhere.
    let absolute =
        std::path::absolute(&source).map_err(|error| Failure::source_gone(&source, &error))?;
    Ok(Request {
        source: absolute,
        stream: encode.video_stream,
        encoder: video,
        chunk_frames: encode.chunk_frames,
        jobs: encode.jobs,
        threads: encode.threads,
        no_parallel: encode.no_parallel,
        time_range: encode.time_range,
        full_digest: encode.full_digest,
        scene_cuts: encode.scene_cuts,
        multi_pass: encode.multi_pass,
        size_limit,
        ending,
    })
}

fn options(sound: &arguments::Sound, keep_partial: bool) -> Options {
    Options {
        audio: match sound.audio.as_str() {
            "copy" => Audio::Copy,
            "none" => Audio::None,
            encoder => Audio::Encode(encoder.into()),
        },
        for_network: sound.optimize_for_network_use,
        keep_partial,
    }
}

fn export(exporting: Exporting) -> Result<(), Failure> {
    let engine = engine(&exporting)?;
    let roots = roots(&engine, &exporting)?;
    let output = exporting.output.ok_or_else(|| {
        Failure::usage("where is it to be written? `-o film.mp4` says so; --help tells more")
    })?;
    let limit = exporting.file_length_limit;
    let mut request = request(&exporting.encode, &output, limit)?;
    if roots.source.is_some() {
        request.source = canonical(&request.source)?;
    }
    if engine != Engine::Local {
        // (The machine that plans isn't one of those that encode.)
        request.jobs.get_or_insert(MOST_JOBS);
        request.threads.get_or_insert(1);
    }
    let style = match exporting.shown {
        Shown { json: true, .. } => Style::Json,
        Shown { quiet: true, .. } => Style::Quiet,
        _ => Style::People,
    };
    let folder = match &exporting.temporary_directory {
        Some(directory) => Folder::within(directory, &output),
        None => Folder::beside(&output),
    };
    let program = std::env::current_exe();
    let export = Export {
        request,
        output,
        options: options(&exporting.sound, exporting.keep_partial),
        overwrite: exporting.overwrite,
        folder,
        style,
        engine,
        roots,
        program: program.map_err(|error| Failure::failed(error.to_string()))?,
    };
    let stops = stops()?;
    let summary = export.run(&stops)?;
    match style {
        Style::Json => print_json(&serde_json::json!({ "event": "done", "summary": summary })),
        Style::Quiet => summary.notes.iter().for_each(say),
        Style::People => tell(&summary),
    }
    match summary.truncated {
        Some([end, said]) if !exporting.allow_truncated => Err(Failure::failed(format!(
            "the source ends after {end:.3} s, and says that it has {said:.3}: it is truncated. What is there was exported; with \
             --allow-truncated that isn't an error"
        ))),
        _ => Ok(()),
    }
}

fn engine(exporting: &Exporting) -> Result<Engine, Failure> {
    let of_slurm = exporting.partition.is_some() || exporting.slurm_options.is_some();
    let is_slurm = exporting.engine == arguments::Engine::Slurm;
    if of_slurm && !is_slurm {
        return Err(Failure::usage(
            "--partition and --slurm-options are for --engine slurm",
        ));
    }
    let scheduler = exporting.scheduler.clone();
    match (exporting.engine, scheduler) {
        (arguments::Engine::Dask, Some(scheduler)) => Ok(Engine::Dask { scheduler }),
        (arguments::Engine::Dask, None) => Err(Failure::usage(
            "where is Dask's scheduler? --scheduler tls://HOST:8786 says it",
        )),
        (_, Some(_)) => Err(Failure::usage("--scheduler is for --engine dask")),
        (arguments::Engine::Local, None) => Ok(Engine::Local),
        (arguments::Engine::Slurm, None) => {
            let partition = exporting.partition.iter();
            let partition = partition.map(|name| format!("--partition={name}"));
            let more = exporting.slurm_options.iter();
            let more = more.flat_map(|options| options.split_whitespace().map(String::from));
            Ok(Engine::Slurm {
                options: partition.chain(more).collect(),
            })
        }
    }
}

/// This machine has no use for them but to go on where others were.
fn roots(engine: &Engine, exporting: &Exporting) -> Result<Roots, Failure> {
    let given = |root: &Option<PathBuf>| root.as_deref().map(canonical).transpose();
    let source = given(&exporting.place.source_root)?;
    if *engine != Engine::Local {
        let work = given(&exporting.work_root)?;
        return Ok(Roots { work, source });
    }
    let input = exporting.encode.input.as_deref();
    let input = input.and_then(|path| path.canonicalize().ok());
    let is_below = |root: &PathBuf| input.is_some_and(|path| path.starts_with(root));
    Ok(Roots {
        work: None,
        source: source.filter(is_below),
    })
}

fn canonical(path: &Path) -> Result<PathBuf, Failure> {
    let canonical = path.canonicalize();
    canonical.map_err(|error| Failure::usage(format!("{} can't be read: {error}", path.display())))
}

/// Set by Ctrl-C. The second one ends at once.
fn stops() -> Result<Arc<AtomicBool>, Failure> {
    let stops = Arc::new(AtomicBool::new(false));
    let set = stops.clone();
    let handled = ctrlc::set_handler(move || {
        if set.swap(true, Ordering::SeqCst) {
            std::process::exit(Code::Again as i32);
        }
        say("Ending. Once more ends at once.");
    });
    handled.map_err(|error| Failure::failed(error.to_string()))?;
    Ok(stops)
}

fn inspect(
    encode: &Encode,
    output: &Path,
    sound: &arguments::Sound,
    json: bool,
) -> Result<(), Failure> {
    let request = request(encode, output, None)?;
    let stream = request.stream;
    let source = Source::open(&request.source)?;
    let plan = kind_of(output).and_then(|kind| Plan::make(request, &kind, &AtomicBool::new(false)));
    let scanned = match &plan {
        Ok(plan) => plan.scan(),
        Err(_) => scan(&source.path, stream)?,
    };
    let outlook = Outlook::new(&source, plan.as_ref(), &options(sound, false).audio);
    let report = Report::new(&source, stream, &scanned, outlook);
    print(&report, &report, json)
}

fn kind_of(output: &Path) -> Result<FileType, Failure> {
    formats::of_name(output).ok_or_else(|| {
        Failure::usage(format!(
            "{} isn't of a type that can be written",
            output.display()
        ))
    })
}

fn make_plan(encode: &Encode, output: &Path, at: &Path, place: Place) -> Result<(), Failure> {
    let folder = Folder::of_plan(at);
    if folder.plan() != at {
        return Err(Failure::usage(
            "the file of a plan is called plan.json: its chunks are kept beside it",
        ));
    }
    let request = request(encode, output, None)?;
    let plan = Plan::make(request, &kind_of(output)?, &AtomicBool::new(false))?;
    let plan = match place.source_root {
        Some(root) => plan.put_below(&root)?,
        None => plan,
    };
    folder.write_plan(&plan)?;
    match &plan.way {
        Way::Chunks => tell(format_args!(
            "{}: {} frames in {} chunks, {} jobs with {} threads each",
            at.display(),
            plan.frames(),
            plan.chunks.len(),
            plan.jobs,
            plan.threads
        )),
        Way::Whole { reason } => tell(format_args!(
            "{}: {} frames in one: {reason}",
            at.display(),
            plan.frames()
        )),
    }
    Ok(())
}

/// Whose number, where nobody says one, is that of the task of an array.
const ARRAYS: [&str; 3] = [
    "SLURM_ARRAY_TASK_ID",
    "JOB_COMPLETION_INDEX",
    "AWS_BATCH_JOB_ARRAY_INDEX",
];

fn index_of(said: Option<usize>) -> Result<usize, Failure> {
    let of_array = || {
        ARRAYS
            .iter()
            .find_map(|name| std::env::var(name).ok()?.parse().ok())
    };
    said.or_else(of_array)
        .ok_or_else(|| Failure::usage("which chunk? --index says it, or the task of an array"))
}

fn one_chunk(
    plan: &Plan,
    folder: &Folder,
    index: usize,
    step: Step,
    json: bool,
    attended: bool,
) -> Result<(), Failure> {
    if attended {
        // Whoever started this holds the other end, and is gone when it is closed.
        std::thread::spawn(|| {
            let _ = io::stdin().read(&mut [0]);
            std::process::exit(Code::Again as i32);
        });
    }
    let (mut last, mut before) = (Instant::now(), Made::default());
    let mut told = |made: Made| {
        // (Over a first pass nobody watches but who reads this.)
        let is_news = step == Step::Packets || made != before;
        if json && is_news && last.elapsed() >= TELLS {
            (last, before) = (Instant::now(), made);
            print_json(&made);
        }
        Ok(())
    };
    if step == Step::FirstPass {
        let done = passes::first(plan, folder, index, &mut told)?;
        if !json {
            tell(format_args!(
                "chunk {index}, first pass: {:.1} s",
                done.seconds
            ));
        }
        return Ok(());
    }
    let record = chunk::encode(plan, folder, index, &mut told)?;
    if !json {
        tell(format_args!(
            "chunk {index}: {} frames, {} bytes, {:.1} s",
            record.digests.len(),
            record.bytes,
            record.seconds
        ));
    }
    Ok(())
}

/// What `vtexport status --json` prints.
#[derive(Serialize)]
struct Status {
    chunks: usize,
    done: Vec<usize>,
    missing: Vec<usize>,
    bytes: u64,
    /// First passes that are made, where there are two.
    first_passes: Option<usize>,
}

fn status(path: &Path, only_missing: bool, json: bool) -> Result<(), Failure> {
    let plan = Plan::read(path)?;
    let folder = Folder::of_plan(path);
    let records = folder.read_all(&plan);
    let (done, missing): (Vec<usize>, Vec<usize>) =
        (0..records.len()).partition(|&index| records[index].is_some());
    let status = Status {
        chunks: records.len(),
        first_passes: plan.passes.as_ref().map(|_| {
            let all = 0..records.len();
            all.filter(|&index| folder.first_pass(&plan, index).is_some())
                .count()
        }),
        bytes: records.iter().flatten().map(|record| record.bytes).sum(),
        done,
        missing,
    };
    if only_missing {
        let numbers = status.missing.iter().map(ToString::to_string);
        return match numbers.collect::<Vec<_>>().join("\n") {
            none if none.is_empty() => Ok(()),
            lines => print(&lines, &status, json),
        };
    }
    let text = format!(
        "{}{} of {} chunks are done, {} bytes{}",
        status.first_passes.map_or_else(String::new, |made| {
            format!("{made} first passes are made, ")
        }),
        status.done.len(),
        status.chunks,
        status.bytes,
        match status.missing.as_slice() {
            [] => String::new(),
            missing => format!(
                "; missing: {}",
                missing
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
            ),
        }
    );
    print(&text, &status, json)
}
