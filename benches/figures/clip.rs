// SPDX-License-Identifier: MPL-2.0

//! The film that is encoded, and its pictures as they are.

use crate::Form;
use crate::process::run;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Beside the project's root: thirty seconds of a film, 24 frames each second.
const FILM: &str = "../shared/media/big-buck-bunny-480p-30s.mp4";

/// A camera that stands still over a road: no cuts.
const STILL: &str = "../shared/media/car-detection.mp4";

/// What is made where there is no film: it turns, it counts, it flickers, it has noise.
const MADE: &str = "rotate=angle=t/3,noise=alls=3:allf=t";

/// A film, and a folder in which things are made of it.
pub struct Clip {
    pub film: PathBuf,
    pub name: String,
    folder: TempDir,
    size: (u64, u64),
    /// Of the raw video that is made of it, unless one wants others.
    frames: u64,
}

/// What a raw frame looks like, in the words of `rawvideoparse` and of ffmpeg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    I420,
    /// 4:2:2 with ten bits.
    I422Ten,
}

impl Format {
    pub fn gstreamer(self) -> &'static str {
        match self {
            Self::I420 => "I420",
            Self::I422Ten => "I422_10LE",
        }
    }

    fn nick(self) -> &'static str {
        match self {
            Self::I420 => "i420",
            Self::I422Ten => "i422-10le",
        }
    }

    pub fn ffmpeg(self) -> &'static str {
        match self {
            Self::I420 => "yuv420p",
            Self::I422Ten => "yuv422p10le",
        }
    }

    fn frame_bytes(self, (width, height): (u64, u64)) -> u64 {
        let samples = width * height;
        match self {
            Self::I420 => samples * 3 / 2,
            Self::I422Ten => samples * 2 * 2,
        }
    }
}

/// Frames of a second.
pub const RATE: u64 = 24;

impl Clip {
    pub fn new(form: Form) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (size, frames) = match form {
            // A minute: the end of a shorter film says more of its last chunks than of the encoder.
            Form::Full => ((848, 480), 1440),
            Form::Short => ((128, 96), 48),
        };
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILM);
        let given = match std::env::var_os("VT_CLIP") {
            Some(path) => Some(PathBuf::from(path)),
            None => Some(beside).filter(|beside| beside.exists()),
        };
        let (film, name) = match given.filter(|_| form == Form::Full) {
            Some(film) => {
                let name = film.file_name().unwrap_or_default().to_string_lossy();
                let name = format!("`{name}`");
                (film, name)
            }
            None => {
                let film = folder.path().join("film.mp4");
                make(&film, size, frames);
                (film, "a test picture that turns".to_string())
            }
        };
        Self {
            film,
            name,
            folder,
            size,
            frames,
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The film's frames and seconds.
    pub fn length(&self) -> (u64, f64) {
        let mut command = Command::new("ffprobe");
        command.args("-v error -select_streams v:0 -count_packets".split(' '));
        command.args("-show_entries stream=nb_read_packets:format=duration -of csv=p=0".split(' '));
        let output = command.arg(&self.film).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let mut lines = said.lines();
        let mut next = || {
            lines
                .next()
                .unwrap_or_else(|| panic!("{command:?}: {said}"))
        };
        (next().parse().unwrap(), next().parse().unwrap())
    }

    /// So many minutes with a cut every few seconds, put together of pieces of the film: each is a part of the picture, as it is or turned.
    pub fn cut(&self, size: (u64, u64), minutes: u64) -> Raw {
        let wanted = minutes * 60 * RATE;
        let path = self.folder().join("cut.i420");
        let mut file = File::create(&path).unwrap();
        let seconds = self.length().1;
        let mut state = 7_u64;
        let mut any = |from: f64, to: f64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            from + (to - from) * (state >> 40) as f64 / (1_u64 << 24) as f64
        };
        let mut frames = 0;
        while frames < wanted {
            let piece = (any(1.5, 12.0) * RATE as f64) as u64;
            let piece = piece.min(wanted - frames);
            let start = any(0.0, (seconds - piece as f64 / RATE as f64).max(0.0));
            let part = any(0.55, 1.0);
            let (x, y) = (any(0.0, 1.0), any(0.0, 1.0));
            let flip = if any(0.0, 1.0) < 0.5 { ",hflip" } else { "" };
            let mut command = ffmpeg();
            command
                .args(["-ss", &start.to_string(), "-i"])
                .arg(&self.film);
            let (width, height) = size;
            command.args(["-an", "-vf"]).arg(format!(
                "fps={RATE},crop=iw*{part}:ih*{part}:(iw-ow)*{x}:(ih-oh)*{y},scale={width}:{height}{flip}"
            ));
            let piece = piece.to_string();
            command.args([
                "-pix_fmt",
                "yuv420p",
                "-frames:v",
                &piece,
                "-f",
                "rawvideo",
                "-",
            ]);
            let made = command.output().unwrap();
            assert!(made.status.success(), "{command:?}");
            let made_frames = made.stdout.len() as u64 / Format::I420.frame_bytes(size);
            assert!(made_frames > 0, "{command:?}");
            file.write_all(&made.stdout).unwrap();
            frames += made_frames;
        }
        Raw {
            path,
            format: Format::I420,
            size,
            frames,
        }
    }

    /// The film of a camera that stands still, where it is there.
    pub fn still() -> Option<Self> {
        let film = Path::new(env!("CARGO_MANIFEST_DIR")).join(STILL);
        film.exists().then(|| Self {
            film,
            name: "a camera that stands still".to_string(),
            folder: tempfile::tempdir().unwrap(),
            size: (768, 432),
            frames: 377,
        })
    }

    /// So many of its frames, from its beginning and again, in a file without anything else.
    pub fn raw(&self, format: Format, frames: Option<u64>) -> Raw {
        let frames = frames.unwrap_or(self.frames);
        let path = self.folder().join(format!("{frames}.{}", format.nick()));
        if !path.exists() {
            let (width, height) = self.size;
            let film = self.film.as_os_str();
            let mut command = ffmpeg();
            command.args(["-stream_loop".as_ref(), "-1".as_ref(), "-i".as_ref(), film]);
            command.args(["-an", "-vf"]);
            command.arg(format!("scale={width}:{height}:flags=bicubic"));
            command.args(["-pix_fmt", format.ffmpeg(), "-f", "rawvideo"]);
            run(command.args(["-frames:v", &frames.to_string()]).arg(&path));
        }
        Raw {
            path,
            format,
            size: self.size,
            frames,
        }
    }
}

/// Raw video in a file.
pub struct Raw {
    pub path: PathBuf,
    pub format: Format,
    size: (u64, u64),
    pub frames: u64,
}

impl Raw {
    fn parser(&self) -> String {
        let nick = self.format.nick();
        let (width, height) = self.size;
        format!("rawvideoparse format={nick} width={width} height={height} framerate={RATE}/1")
    }

    /// The beginning of a pipeline.
    pub fn source(&self) -> String {
        format!(
            "filesrc location={} ! {}",
            self.path.display(),
            self.parser()
        )
    }

    /// The beginning of a pipeline that plays one of so many equal parts, as a command of a shell, which has to read the file. (Its `dd`
    /// copies nothing: it moves to where the part begins.)
    pub fn part(&self, part: u64, of: u64) -> (String, String) {
        let bytes = self.format.frame_bytes(self.size);
        let (begin, end) = (self.frames * part / of, self.frames * (part + 1) / of);
        let count = end - begin;
        (
            format!("dd bs={bytes} skip={begin} count=0 status=none"),
            format!(
                "fdsrc blocksize={bytes} num-buffers={count} ! {}",
                self.parser()
            ),
        )
    }

    /// How `videotestsrc` looks like it.
    pub fn caps(&self) -> String {
        let (width, height) = self.size;
        let format = self.format.gstreamer();
        format!("video/x-raw,format={format},width={width},height={height},framerate={RATE}/1")
    }

    /// What ffmpeg needs to read it.
    pub fn input(&self) -> Vec<String> {
        let (width, height) = self.size;
        let format = self.format.ffmpeg();
        format!("-f rawvideo -pixel_format {format} -video_size {width}x{height} -framerate {RATE}")
            .split(' ')
            .map(String::from)
            .collect()
    }

    pub fn seconds(&self) -> f64 {
        self.frames as f64 / RATE as f64
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Large; its folder goes in any case.
        let _ = std::fs::remove_file(&self.path);
    }
}

pub fn ffmpeg() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "error", "-y"]);
    command
}

fn make(film: &Path, (width, height): (u64, u64), frames: u64) {
    let source = format!("testsrc2=size={width}x{height}:rate={RATE},{MADE}");
    let mut command = ffmpeg();
    command.args([
        "-f",
        "lavfi",
        "-i",
        &source,
        "-frames:v",
        &frames.to_string(),
    ]);
    command.args(["-c:v", "libx264", "-preset", "veryfast", "-crf", "18"]);
    run(command.args(["-pix_fmt", "yuv420p"]).arg(film));
}
