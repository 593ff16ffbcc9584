// SPDX-License-Identifier: MPL-2.0

//! A file that is to be exported: whether it can be, and what streams are in it.

use gst_pbutils::prelude::*;
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};

/// How long it may take to find out what is in a file. (From a disk it takes a moment; from a network it may not.)
const PATIENCE: gst::ClockTime = gst::ClockTime::from_seconds(60);

/// Why a file can't be exported.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{0} can't be opened: {1}. Is the name right?", .path.display(), .error)]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{} is a directory. Name one file in it.", .0.display())]
    Directory(PathBuf),
    #[error("{} is empty.", .0.display())]
    Empty(PathBuf),
    #[error("{} isn't a video file that can be read: {said}", .path.display())]
    Unknown { path: PathBuf, said: String },
    #[error("There is no video in {}.", .0.display())]
    NoVideo(PathBuf),
    #[error("{} has {count} video streams; number {number} isn't one of them. They count from 0.", .path.display())]
    NoSuchStream {
        path: PathBuf,
        count: usize,
        number: usize,
    },
    #[error("GStreamer lacks an element: {0}. Is the package with it installed?")]
    Missing(String),
}

/// A file with a video stream in it.
#[derive(Debug, Clone)]
pub struct Source {
    pub path: PathBuf,
    /// What it is called: "Quicktime", say. `None`: a stream without a container.
    pub container: Option<String>,
    pub video: Vec<Video>,
    pub audio: Vec<Audio>,
    pub subtitles: Vec<Subtitle>,
    /// Nanoseconds, where it says so.
    pub duration: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct Video {
    pub codec: String,
    pub width: u32,
    pub height: u32,
    /// Frames per second as a fraction; 0/1 where it doesn't say so, or they vary.
    pub rate: (i32, i32),
    pub is_interlaced: bool,
    pub language: Option<String>,
    /// How it is to be turned, as GStreamer's tag says it: "rotate-90", say.
    pub orientation: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Audio {
    pub codec: String,
    pub sample_rate: u32,
    pub channels: u32,
    pub language: Option<String>,
    #[serde(skip)]
    pub caps: Option<gst::Caps>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Subtitle {
    pub codec: String,
    pub language: Option<String>,
    #[serde(skip)]
    pub caps: Option<gst::Caps>,
}

impl Source {
    /// Looks into a file.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let unreadable = |error| SourceError::Unreadable {
            path: path.into(),
            error,
        };
        let metadata = path.metadata().map_err(unreadable)?;
        if metadata.is_dir() {
            return Err(SourceError::Directory(path.into()));
        }
        // Whoever may not read it is told here and not by a pipeline.
        std::fs::File::open(path).map_err(unreadable)?;
        if metadata.is_file() && metadata.len() == 0 {
            return Err(SourceError::Empty(path.into()));
        }
        let unknown = |said: String| SourceError::Unknown {
            path: path.into(),
            said,
        };
        let absolute = path.canonicalize().map_err(unreadable)?;
        let uri = gst::glib::filename_to_uri(&absolute, None);
        let uri = uri.map_err(|error| unknown(error.to_string()))?;
        let discoverer = gst_pbutils::Discoverer::new(PATIENCE);
        let discoverer = discoverer.map_err(|error| unknown(error.to_string()))?;
        let info = discoverer.discover_uri(&uri);
        let info = info.map_err(|error| unknown(error.to_string()))?;
        let source = Self {
            path: path.into(),
            container: container(&info),
            video: info.video_streams().iter().map(Video::of).collect(),
            audio: info.audio_streams().iter().map(Audio::of).collect(),
            subtitles: info.subtitle_streams().iter().map(Subtitle::of).collect(),
            duration: info.duration().map(gst::ClockTime::nseconds),
        };
        match source.video.is_empty() {
            true => Err(SourceError::NoVideo(path.into())),
            false => Ok(source),
        }
    }
}

fn container(info: &gst_pbutils::DiscovererInfo) -> Option<String> {
    let stream = info.stream_info()?;
    stream
        .is::<gst_pbutils::DiscovererContainerInfo>()
        .then(|| codec(&stream))
}

/// What a codec or a container is called.
pub(crate) fn described(caps: &gst::Caps) -> String {
    let mut caps = caps.clone();
    // As it has to be.
    caps.fixate();
    gst_pbutils::pb_utils_get_codec_description(&caps).into()
}

fn codec(stream: &impl IsA<gst_pbutils::DiscovererStreamInfo>) -> String {
    let caps = stream.caps();
    caps.map_or_else(|| "unknown".into(), |caps| described(&caps))
}

impl Video {
    fn of(stream: &gst_pbutils::DiscovererVideoInfo) -> Self {
        let rate = stream.framerate();
        Self {
            codec: codec(stream),
            width: stream.width(),
            height: stream.height(),
            rate: (rate.numer(), rate.denom()),
            is_interlaced: stream.is_interlaced(),
            language: language(stream),
            orientation: stream.tags().and_then(|tags| {
                let orientation = tags.get::<gst::tags::ImageOrientation>()?;
                Some(orientation.get().into())
            }),
        }
    }
}

impl Audio {
    fn of(stream: &gst_pbutils::DiscovererAudioInfo) -> Self {
        Self {
            codec: codec(stream),
            sample_rate: stream.sample_rate(),
            channels: stream.channels(),
            language: stream.language().map(Into::into),
            caps: stream.caps(),
        }
    }
}

impl Subtitle {
    fn of(stream: &gst_pbutils::DiscovererSubtitleInfo) -> Self {
        Self {
            codec: codec(stream),
            language: stream.language().map(Into::into),
            caps: stream.caps(),
        }
    }
}

fn language(stream: &impl IsA<gst_pbutils::DiscovererStreamInfo>) -> Option<String> {
    let tags = stream.tags()?;
    let code = tags.get::<gst::tags::LanguageCode>()?;
    Some(code.get().into())
}

pub(crate) fn make(factory: &str) -> Result<gst::Element, SourceError> {
    let made = gst::ElementFactory::make(factory).build();
    made.map_err(|_| SourceError::Missing(factory.into()))
}

/// A sink for what nobody wants, that isn't waited for: all streams may come in one thread.
pub(crate) fn ignoring_sink() -> Result<gst::Element, SourceError> {
    let sink = make("fakesink")?;
    sink.set_property("async", false);
    sink.set_property("enable-last-sample", false);
    Ok(sink)
}

/// A stream that nobody wants goes nowhere.
pub(crate) fn ignore(pipeline: &gst::Pipeline, pad: &gst::Pad) -> Result<(), SourceError> {
    let refused = |error: &dyn std::fmt::Display| SourceError::Missing(error.to_string());
    let sink = ignoring_sink()?;
    pipeline.add(&sink).map_err(|error| refused(&error))?;
    sink.sync_state_with_parent()
        .map_err(|error| refused(&error))?;
    let to = sink.static_pad("sink");
    let to = to.ok_or_else(|| refused(&"fakesink without a pad"))?;
    pad.link(&to).map_err(|error| refused(&error))?;
    Ok(())
}

/// What an error message says.
pub(crate) fn said(message: &gst::Message) -> Option<String> {
    match message.view() {
        gst::MessageView::Error(error) => Some(error.error().to_string()),
        _ => None,
    }
}
