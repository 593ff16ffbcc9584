// SPDX-License-Identifier: MPL-2.0

//! The element and `vtexport` against what else encodes a film on all cores: ffmpeg with the encoder's own threads, and ffmpeg in segments.

use crate::Form;
use crate::clip::{Clip, ffmpeg};
use crate::plugin;
use crate::process::{self, gst_launch, in_turns, median, run_with_children};
use crate::quality::{self, Quality};
use crate::table::Table;
use std::path::Path;
use std::process::Command;

/// The same encoder with the same settings, as each of both programs says them.
struct Case {
    name: &'static str,
    gstreamer: &'static str,
    /// Between the encoder and the muxer.
    parser: &'static str,
    ffmpeg: &'static str,
    /// For all cores, where that isn't what ffmpeg does anyway.
    ffmpeg_threads: &'static str,
}

const CASES: [Case; 4] = [
    Case {
        name: "libx264",
        // (With a buffer, x264enc holds the peaks of `pass=qual` to its default bitrate.)
        gstreamer: "x264enc speed-preset=medium pass=qual quantizer=23 vbv-buf-capacity=0",
        parser: "h264parse ! ",
        // (x264enc makes a key frame every ten seconds.)
        ffmpeg: "-c:v libx264 -preset medium -crf 23 -g 240",
        ffmpeg_threads: "",
    },
    Case {
        name: "libx265",
        gstreamer: "x265enc speed-preset=superfast option-string=crf=24",
        parser: "h265parse ! ",
        ffmpeg: "-c:v libx265 -preset superfast -crf 24 -x265-params log-level=error",
        ffmpeg_threads: "",
    },
    Case {
        name: "libvpx-vp9",
        gstreamer: "vp9enc cpu-used=5 end-usage=cq cq-level=32 target-bitrate=4000000",
        parser: "",
        // The rest are the defaults of `vp9enc`.
        ffmpeg: "-c:v libvpx-vp9 -deadline good -cpu-used 5 -crf 32 -b:v 4M -g 128 -lag-in-frames 25 -auto-alt-ref 0 \
                 -undershoot-pct 25 -overshoot-pct 25 -static-thresh 1 -tile-columns 6 -frame-parallel 1 -arnr-maxframes 0",
        ffmpeg_threads: "-row-mt 1 -threads CORES",
    },
    Case {
        name: "libaom-av1",
        // (GStreamer 1.22 has no av1enc that can be told a quality, and its quantizers end at 0, which is without loss, where nobody says more.)
        gstreamer: "av1enc cpu-used=8 target-bitrate=800 max-quantizer=63 keyframe-max-dist=240",
        parser: "av1parse ! ",
        ffmpeg: "-c:v libaom-av1 -cpu-used 8 -b:v 800k -g 240",
        ffmpeg_threads: "-row-mt 1 -threads CORES",
    },
];

/// Cuts the film, without encoding it, at the first key frame of each part; encodes the parts, as many at a time as there are cores; and puts
/// them together.
const SEGMENTS: &str = r#"
film=$1 result=$2 folder=$3 cores=$4 seconds=$5
shift 5
rm -rf "$folder" && mkdir "$folder" && cd "$folder" || exit
quiet="-hide_banner -loglevel error -nostdin -y"
ffmpeg $quiet -i "$film" -map 0:v:0 -c copy -f segment -segment_time "$seconds" -reset_timestamps 1 %03d.mkv || exit
printf '%s\n' *.mkv | xargs -P "$cores" -I SEGMENT \
    ffmpeg $quiet -i SEGMENT -threads 1 "$@" encoded-SEGMENT || exit
for segment in encoded-*; do echo "file '$segment'"; done >list
ffmpeg $quiet -f concat -i list -c copy "$result"
"#;

/// So many segments for each core.
const SEGMENTS_EACH: usize = 3;

impl Case {
    fn threads(&self, cores: usize) -> String {
        self.ffmpeg_threads.replace("CORES", &cores.to_string())
    }
}

pub fn measure(form: Form) -> Vec<Table> {
    let rounds = process::rounds(form, 3);
    let clip = Clip::new(form);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (frames, seconds) = clip.length();
    let mut rows = Vec::new();
    let cases = match form {
        Form::Full => &CASES[..],
        Form::Short => &CASES[..1],
    };
    let names = std::env::var("VT_ENCODERS").ok();
    let is_wanted = |case: &&Case| {
        let encoder = case.gstreamer.split(' ').next();
        let wanted = |names: &String| names.split(',').any(|name| Some(name) == encoder);
        names.as_ref().is_none_or(wanted)
    };
    for case in cases.iter().filter(is_wanted) {
        let result = |name: &str| clip.folder().join(name);
        let [ours, exported, theirs, segments] =
            ["ours.mkv", "exported.mkv", "theirs.mkv", "segments.mkv"].map(result);
        let part = seconds / (SEGMENTS_EACH * cores) as f64;
        let mut commands = [
            parallel(form, case, &clip.film, &ours),
            export(form, case, &clip.film, &exported),
            plain(case, cores, &clip.film, &theirs),
            in_segments(case, cores, part, &clip, &segments),
        ];
        let taken = in_turns(rounds, &mut commands, run_with_children);
        let names = [
            "`vtparallelenc`",
            "`vtexport`",
            "ffmpeg, own threads",
            "ffmpeg, in segments",
        ];
        let results = [ours, exported, theirs, segments];
        for ((name, taken), video) in names.iter().zip(&taken).zip(&results) {
            let taken = median(taken);
            let quality = quality::quality(video, &[], &clip.film, frames);
            let Quality { bytes, psnr, vmaf } = quality;
            rows.push(vec![
                case.name.to_string(),
                name.to_string(),
                format!("{:.1} s", taken.time.as_secs_f64()),
                format!("{:.1} s", taken.cpu.as_secs_f64()),
                format!("{} MB", taken.peak_bytes / 1_000_000),
                format!("{:.0} kB", bytes as f64 / 1000.0),
                format!("{psnr:.2} dB"),
                vmaf.map_or("–".into(), |vmaf| format!("{vmaf:.2}")),
            ]);
        }
    }
    let settings = cases.iter().map(|case| {
        let threads = match case.threads(cores).as_str() {
            "" => "by itself".to_string(),
            threads => format!("with `{threads}`"),
        };
        let ffmpeg: Vec<_> = words(case.ffmpeg).collect();
        format!(
            "- {}: `{}`; `{}`, which takes its own threads {threads}.\n",
            case.name,
            case.gstreamer,
            ffmpeg.join(" ")
        )
    });
    let settings: String = settings.collect();
    vec![Table {
        title: "Against others",
        about: format!(
            "{film}, {frames} frames, decoded and encoded on {cores} cores, without its sound; medians of {rounds}. `vtexport` decodes each chunk where it encodes it, in processes. *In segments*: ffmpeg \
             cuts the film at its key frames into about {segments} segments, {cores} processes with one thread each encode them, and ffmpeg \
             puts them together. Memory is what all processes have in RAM at once, as seen {PER_SECOND} times a second (what they share \
             counts for each). {vmaf}\n\n{settings}\n\
             Not here: Av1an (0.5.2) links with VapourSynth, of which neither Debian 12 nor PyPI has the library.",
            film = clip.name,
            segments = SEGMENTS_EACH * cores,
            PER_SECOND = process::LOOKS_PER_SECOND,
            vmaf = quality::about(),
        ),
        columns: vec![
            "encoder", "with", "time", "CPU time", "memory", "size", "PSNR", "VMAF",
        ],
        rows,
    }]
}

fn parallel(form: Form, case: &Case, film: &Path, result: &Path) -> Command {
    let Case {
        gstreamer, parser, ..
    } = case;
    let (film, result) = (film.display(), result.display());
    gst_launch(
        form,
        &format!(
            "filesrc location=\"{film}\" ! decodebin ! vtparallelenc encoder=\"{gstreamer}\" ! {parser}matroskamux ! \
             filesink location=\"{result}\""
        ),
    )
}

fn export(form: Form, case: &Case, film: &Path, result: &Path) -> Command {
    let mut command = plugin::vtexport(form);
    command.arg(film).arg("-o").arg(result);
    command.args(["--overwrite", "--quiet", "--audio", "none"]);
    command.args(["--video", case.gstreamer]);
    command
}

fn plain(case: &Case, cores: usize, film: &Path, result: &Path) -> Command {
    let threads = case.threads(cores);
    let mut command = ffmpeg();
    command.arg("-i").arg(film).args(["-map", "0:v:0"]);
    command.args(words(case.ffmpeg)).args(words(&threads));
    command.arg(result);
    command
}

fn in_segments(case: &Case, cores: usize, part: f64, clip: &Clip, result: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", SEGMENTS, "segments"]);
    command.arg(&clip.film).arg(result);
    command.arg(clip.folder().join("segments"));
    command.args([cores.to_string(), part.to_string()]);
    command.args(words(case.ffmpeg));
    command
}

fn words(options: &str) -> impl Iterator<Item = &str> {
    options.split_whitespace()
}
