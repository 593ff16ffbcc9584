// SPDX-License-Identifier: MPL-2.0

//! What is in a file, for people and for programs.

use crate::failure::Failure;
use crate::join;
use crate::plan::{Chunk, Plan, Way};
use crate::scan::Scan;
use crate::source::{Audio, Source, Subtitle, Video, make};
use crate::streams::Fate;
use serde::Serialize;
use std::fmt::{self, Write};

/// Gaps between frames of a constant rate differ by as much as times are rounded: a millisecond in Matroska and WebM, in nanoseconds.
const ROUNDED: u64 = 1_000_001;

/// What `vtexport inspect --json` prints. Times are in seconds.
#[derive(Debug, Serialize)]
pub struct Report {
    pub file: String,
    pub container: Option<String>,
    pub duration: Option<f64>,
    pub video: Vec<VideoReport>,
    pub audio: Vec<Audio>,
    pub subtitles: Vec<Subtitle>,
    /// What an export would do.
    pub export: Outlook,
}

/// What an export would do with a source, or why it can't.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outlook {
    Can(Box<Doing>),
    Cannot(String),
}

#[derive(Debug, Serialize)]
pub struct Doing {
    /// The ending of the output's name.
    pub ending: String,
    pub encoder: String,
    /// In two passes.
    pub two_passes: bool,
    /// Why one encoder would encode all, if it would.
    pub whole: Option<String>,
    pub chunks: usize,
    /// Frames of the longest one.
    pub chunk_frames: u64,
    pub jobs: u64,
    pub threads: u32,
    /// Of the film's first frame.
    pub time_code: Option<String>,
    /// What becomes of each stream of sound, and of subtitles.
    pub audio: Vec<String>,
    pub subtitles: Vec<String>,
}

impl Outlook {
    /// With sound as it is asked for.
    pub fn new(source: &Source, plan: Result<&Plan, &Failure>, audio: &join::Audio) -> Self {
        let plan = match plan {
            Ok(plan) => plan,
            Err(failure) => return Self::Cannot(failure.text.clone()),
        };
        let muxer = match make(&plan.muxer) {
            Ok(muxer) => muxer,
            Err(error) => return Self::Cannot(error.to_string()),
        };
        let none = gst::Caps::new_empty();
        let sound = source.audio.iter();
        let sound =
            sound.map(|it| Fate::of_sound(&muxer, audio, it.caps.as_ref().unwrap_or(&none)));
        let texts = source.subtitles.iter();
        let texts = texts.map(|it| Fate::of_text(&muxer, it.caps.as_ref().unwrap_or(&none)));
        Self::Can(Box::new(Doing {
            ending: plan.request.ending.clone(),
            encoder: plan.encoder.clone(),
            two_passes: plan.passes.is_some(),
            whole: match &plan.way {
                Way::Chunks => None,
                Way::Whole { reason } => Some(reason.clone()),
            },
            chunks: plan.chunks.len(),
            chunk_frames: plan.chunks.iter().map(Chunk::frames).max().unwrap_or(0),
            jobs: plan.jobs,
            threads: plan.threads,
            time_code: plan.time_code.clone(),
            audio: sound
                .map(|fate| match (&fate, audio) {
                    (Fate::LeftOut, join::Audio::Copy) => {
                        "can't be encoded here; --audio none leaves it out".into()
                    }
                    _ => fate.to_string(),
                })
                .collect(),
            subtitles: texts.map(|fate| fate.to_string()).collect(),
        }))
    }
}

#[derive(Debug, Serialize)]
pub struct VideoReport {
    pub codec: String,
    pub width: u32,
    pub height: u32,
    pub interlaced: bool,
    pub language: Option<String>,
    /// That are shown, where the stream was scanned.
    pub frames: Option<usize>,
    pub first: Option<f64>,
    pub last: Option<f64>,
    /// As the file says it, or as its times are; `None`: they vary.
    pub frames_per_second: Option<f64>,
    pub average_frames_per_second: Option<f64>,
    pub key_frames: Option<usize>,
    /// The longest time between two.
    pub key_distance: Option<f64>,
    /// Why no range of it can be decoded by itself, if that is so.
    pub from_the_beginning: Option<String>,
}

impl Report {
    /// `scan`: of the video stream of this number.
    pub fn new(source: &Source, number: usize, scan: &Scan, export: Outlook) -> Self {
        let scan_of = |index: usize| (index == number).then_some(scan);
        let video = source.video.iter().enumerate();
        Self {
            file: source.path.display().to_string(),
            container: source.container.clone(),
            duration: source.duration.map(seconds),
            video: video
                .map(|(index, video)| VideoReport::new(video, scan_of(index)))
                .collect(),
            audio: source.audio.clone(),
            subtitles: source.subtitles.clone(),
            export,
        }
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

impl VideoReport {
    fn new(video: &Video, scan: Option<&Scan>) -> Self {
        let first = scan.and_then(|scan| scan.pictures.first());
        let last = scan.and_then(|scan| scan.pictures.last());
        Self {
            codec: video.codec.clone(),
            width: video.width,
            height: video.height,
            interlaced: video.is_interlaced,
            language: video.language.clone(),
            frames: scan.map(|scan| scan.pictures.len() + scan.untimed),
            first: first.map(|picture| seconds(picture.time)),
            last: last.map(|picture| seconds(picture.time)),
            frames_per_second: match scan {
                Some(scan) => constant_rate(video, scan),
                None => stated_rate(video),
            },
            average_frames_per_second: scan.and_then(average_rate),
            key_frames: scan.map(Scan::key_frames),
            key_distance: scan.and_then(Scan::key_distance).map(seconds),
            from_the_beginning: scan.and_then(Scan::trouble).map(|it| it.to_string()),
        }
    }
}

fn stated_rate(video: &Video) -> Option<f64> {
    let (numerator, denominator) = video.rate;
    (numerator > 0 && denominator > 0).then(|| f64::from(numerator) / f64::from(denominator))
}

fn average_rate(scan: &Scan) -> Option<f64> {
    let (first, last) = (scan.pictures.first()?, scan.pictures.last()?);
    let gaps = scan.pictures.len() - 1;
    (last.time > first.time).then(|| gaps as f64 / seconds(last.time - first.time))
}

/// The rate at which the pictures come, if it is one.
fn constant_rate(video: &Video, scan: &Scan) -> Option<f64> {
    if scan.untimed > 0 {
        return stated_rate(video);
    }
    let (shortest, longest) = scan.gaps()?;
    if longest - shortest > 2 * ROUNDED {
        return None;
    }
    // Times are rounded, what a file says of itself isn't; but it may say what isn't so.
    let average = average_rate(scan)?;
    let stated = stated_rate(video).filter(|stated| (stated / average - 1.0).abs() < 0.01);
    stated.or(Some(average))
}

impl fmt::Display for Report {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let container = self.container.as_deref().unwrap_or("no container");
        write!(to, "{}: {container}", self.file)?;
        if let Some(duration) = self.duration {
            write!(to, ", {duration:.3} s")?;
        }
        for video in &self.video {
            write!(
                to,
                "\nvideo     {}, {}x{}",
                video.codec, video.width, video.height
            )?;
            if video.interlaced {
                write!(to, ", interlaced")?;
            }
            match (video.frames_per_second, video.average_frames_per_second) {
                (Some(rate), _) => write!(to, ", {} frames/s", short(rate))?,
                (None, Some(average)) => {
                    write!(to, ", {} frames/s on average", short(average))?;
                }
                (None, None) => (),
            }
            spoken(to, video.language.as_deref())?;
            let Some(frames) = video.frames else {
                write!(to, "\n          not looked into: --video-stream chooses it")?;
                continue;
            };
            write!(to, "\n          {frames} frames")?;
            if let Some((first, last)) = video.first.zip(video.last) {
                write!(to, " from {first:.3} to {last:.3} s")?;
            }
            write!(to, ", {} key frames", video.key_frames.unwrap_or_default())?;
            if let Some(distance) = video.key_distance {
                write!(to, ", at most {distance:.3} s apart")?;
            }
            match &video.from_the_beginning {
                Some(why) => write!(
                    to,
                    "\n          can be decoded from its beginning only: {why}"
                )?,
                None => write!(to, "\n          can be decoded in ranges")?,
            }
        }
        for (index, audio) in self.audio.iter().enumerate() {
            write!(
                to,
                "\naudio     {}, {} Hz, {} channels",
                audio.codec, audio.sample_rate, audio.channels
            )?;
            spoken(to, audio.language.as_deref())?;
            self.export.of(to, |doing| doing.audio.get(index))?;
        }
        for (index, subtitle) in self.subtitles.iter().enumerate() {
            write!(to, "\nsubtitles {}", subtitle.codec)?;
            spoken(to, subtitle.language.as_deref())?;
            self.export.of(to, |doing| doing.subtitles.get(index))?;
        }
        write!(to, "\n{}", self.export)
    }
}

impl Outlook {
    /// What becomes of a stream.
    fn of<'a>(
        &'a self,
        to: &mut fmt::Formatter<'_>,
        which: impl Fn(&'a Doing) -> Option<&'a String>,
    ) -> fmt::Result {
        match self {
            Self::Can(doing) => which(doing).map_or(Ok(()), |fate| write!(to, "; {fate}")),
            Self::Cannot(_) => Ok(()),
        }
    }
}

impl fmt::Display for Outlook {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let doing = match self {
            Self::Can(doing) => doing,
            Self::Cannot(why) => return write!(to, "export    can't be done: {why}"),
        };
        if let Some(code) = &doing.time_code {
            writeln!(to, "time code {code}")?;
        }
        write!(to, "export    as {}: {}", doing.ending, doing.encoder)?;
        match &doing.whole {
            Some(reason) => write!(to, "\n          in one pipeline: {reason}")?,
            None => write!(
                to,
                "\n          {} chunks of up to {} frames, {} at a time, with {} threads each",
                doing.chunks, doing.chunk_frames, doing.jobs, doing.threads
            )?,
        }
        match doing.two_passes {
            true => write!(to, ", in two passes"),
            false => Ok(()),
        }
    }
}

fn spoken(to: &mut fmt::Formatter<'_>, language: Option<&str>) -> fmt::Result {
    match language {
        Some(language) => write!(to, ", {language}"),
        None => Ok(()),
    }
}

/// With as many decimals as say something.
fn short(value: f64) -> String {
    let mut text = String::new();
    // (Nothing fails that writes into a string.)
    let _ = write!(text, "{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::Picture;

    fn video(rate: (i32, i32)) -> Video {
        Video {
            codec: "H.264".into(),
            width: 640,
            height: 360,
            rate,
            is_interlaced: false,
            language: Some("de".into()),
            orientation: None,
        }
    }

    fn scan(times: &[u64]) -> Scan {
        let pictures = times.iter().map(|&milliseconds| Picture {
            time: milliseconds * 1_000_000,
            is_key: milliseconds == 0,
        });
        Scan {
            pictures: pictures.collect(),
            ..Scan::default()
        }
    }

    #[test]
    fn a_rate_is_constant_if_its_times_are() {
        let rounded = scan(&[0, 33, 67, 100, 133, 167]);
        assert_eq!(constant_rate(&video((30, 1)), &rounded), Some(30.0));
        let average = constant_rate(&video((60, 1)), &rounded).unwrap();
        assert!((average - 29.94).abs() < 0.01, "{average}");
        let varies = scan(&[0, 33, 67, 200]);
        assert_eq!(constant_rate(&video((30, 1)), &varies), None);
        let untimed = Scan {
            untimed: 6,
            ..Scan::default()
        };
        assert_eq!(constant_rate(&video((30, 1)), &untimed), Some(30.0));
    }

    #[test]
    fn it_is_told_to_people() {
        let source = Source {
            path: "film.mp4".into(),
            container: Some("Quicktime".into()),
            video: vec![video((24_000, 1_001)), video((0, 1))],
            audio: Vec::new(),
            subtitles: Vec::new(),
            duration: Some(125_000_000),
        };
        let why = Outlook::Cannot("it is a test".into());
        let report = Report::new(&source, 0, &scan(&[0, 42, 83]), why);
        assert_eq!(
            report.to_string(),
            "film.mp4: Quicktime, 0.125 s\n\
             video     H.264, 640x360, 23.976 frames/s, de\n          \
             3 frames from 0.000 to 0.083 s, 1 key frames\n          \
             can be decoded in ranges\n\
             video     H.264, 640x360, de\n          \
             not looked into: --video-stream chooses it\n\
             export    can't be done: it is a test"
        );
    }
}
