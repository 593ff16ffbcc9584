// SPDX-License-Identifier: MPL-2.0

//! How a file is exported: which frames, in which chunks, by which encoder. It is written once, and all that comes after is a function of
//! it and of the source.

use crate::digest::{self, SourceId};
use crate::element;
use crate::failure::Failure;
use crate::formats::FileType;
use crate::presets;
use crate::range;
use crate::scan::{Picture, Scan, scan};
use crate::scenes;
use crate::source::Source;
use crate::time_code;
use gst_video::VideoInfo;
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use vtparallelenc::export::given::{Given, Part, SecondPass};
use vtparallelenc::export::two_passes;

/// Of the file's format. Another version reads no plan of this one.
const VERSION: u32 = 2;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub source: PathBuf,
    /// The number of the video stream, counted from 0.
    pub stream: usize,
    /// The ending of the output's name: its type.
    pub ending: String,
    /// As the element's property `encoder` takes it, or the name of a preset.
    pub encoder: String,
    /// Frames of a chunk; `None`: as the element plans it.
    pub chunk_frames: Option<u64>,
    /// Jobs that work at the same time; `None`: as the element plans it.
    pub jobs: Option<u32>,
    /// Threads of each encoder; `None`: as the element plans it.
    pub threads: Option<u32>,
    /// One encoder encodes all.
    pub no_parallel: bool,
    /// What of the film is exported, in nanoseconds of its time; `None`: all.
    pub time_range: Option<TimeRange>,
    /// The source is known by a digest of all of it, too.
    pub full_digest: bool,
    /// Chunks end at cuts, where that is near enough.
    pub scene_cuts: bool,
    /// Two passes are made.
    pub multi_pass: bool,
    /// The output has no more bytes.
    pub size_limit: Option<u64>,
}

/// How the chunks are encoded in two passes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passes {
    /// What is set of the encoder beside its description.
    pub properties: String,
    /// Of the picture, in bits per second; `None`: as the size allows.
    pub bitrate: Option<u64>,
}

/// From the first of these nanoseconds up to, not including, the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeRange {
    pub from: u64,
    pub to: u64,
}

impl Default for TimeRange {
    fn default() -> Self {
        Self {
            from: 0,
            to: u64::MAX,
        }
    }
}

/// How the video is encoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Way {
    /// Each chunk by a job of its own.
    Chunks,
    /// In one pipeline, for this reason.
    Whole { reason: String },
}

/// A chunk, in numbers of the film's frames and in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chunk {
    pub index: usize,
    pub own: [u64; 2],
    pub lead: u64,
    pub trail: u64,
    pub from: f64,
    pub to: f64,
}

/// All that determines what is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    version: u32,
    /// A digest of the rest.
    #[serde(default)]
    pub id: String,
    pub request: Request,
    pub source: SourceId,
    pub way: Way,
    /// With what is needed before it, as the frames come.
    pub encoder: String,
    pub passes: Option<Passes>,
    pub muxer: String,
    /// Of the raw frames.
    pub caps: String,
    pub jobs: u64,
    pub threads: u32,
    pub before: u64,
    pub after: u64,
    pub chunks: Vec<Chunk>,
    /// The source ends before it says that it does: at the first of these seconds instead of the second.
    pub truncated: Option<[f64; 2]>,
    /// What encodes them: versions, and digests of the plugins' files. Elsewhere it may make other bytes.
    pub fingerprint: Vec<String>,
    /// Numbers of the exported frames among those of the source.
    first: usize,
    end: usize,
    /// Of all frames of the source, in nanoseconds of stream time.
    times: Vec<u64>,
    /// Numbers of the key frames.
    keys: Vec<usize>,
    hidden: usize,
    untimed: usize,
    begins_amid: bool,
    /// How the picture is turned when it is shown, if it is.
    pub orientation: Option<String>,
    /// Of the source's first frame.
    pub time_code: Option<String>,
    /// Bytes of what is beside the video.
    pub beside: u64,
    /// Of each frame in nanoseconds, if all are the same; else up to the next one.
    duration: Option<u64>,
}

/// What all plans have, whichever version they are of.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// Where a frame of the source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Before,
    /// It is exported, as the frame of this number.
    At(u64),
    After,
}

impl Plan {
    /// Looks into the source, and plans. `kind`: of the output.
    pub fn make(request: Request, kind: &FileType, stops: &AtomicBool) -> Result<Self, Failure> {
        let opened = Source::open(&request.source)?;
        let mut source = SourceId::of(&request.source)?;
        if request.full_digest {
            let all = digest::of_file(&request.source);
            source.full_digest =
                Some(all.map_err(|error| Failure::source_gone(&request.source, &error))?);
        }
        let scan = scan(&request.source, request.stream)?;
        let frames = within(request.time_range, &request.source, &scan)?;
        let first = first_picture(&request, &scan)?;
        let caps = first
            .caps()
            .ok_or_else(|| Failure::failed("the decoder says nothing of its pictures"))?;
        let asked = named(&request, caps)?;
        let encoder = element::fitting(&asked, &caps.to_owned())?;
        let mut plan = Self {
            version: VERSION,
            id: String::new(),
            source,
            way: Way::Chunks,
            muxer: kind.muxer.into(),
            caps: caps.to_string(),
            jobs: 1,
            threads: 0,
            before: 0,
            after: 0,
            chunks: Vec::new(),
            truncated: truncated(opened.duration, scan.end).filter(|_| scan.untimed == 0),
            fingerprint: element::fingerprint(&encoder)?,
            passes: passes(&request, &encoder)?,
            encoder,
            first: frames.start,
            end: frames.end,
            times: scan.pictures.iter().map(|picture| picture.time).collect(),
            keys: (0..)
                .zip(&scan.pictures)
                .filter(|(_, it)| it.is_key)
                .map(|(number, _)| number)
                .collect(),
            hidden: scan.hidden,
            untimed: scan.untimed,
            begins_amid: scan.begins_amid,
            beside: scan.beside,
            orientation: opened.video.get(request.stream).and_then(|video| {
                let orientation = video.orientation.clone();
                orientation.filter(|it| it != "rotate-0")
            }),
            time_code: first
                .buffer()
                .and_then(|first| time_code::of(&request.source, first)),
            duration: constant_duration(caps),
            request,
        };
        let trouble = scan
            .trouble()
            .map(|trouble| format!("no range of the source can be decoded by itself: {trouble}"));
        let forbidden = plan
            .request
            .no_parallel
            .then(|| "--no-parallel".to_string());
        if let Some(trouble) = trouble.as_ref().filter(|_| plan.passes.is_some()) {
            return Err(Failure::source(format!(
                "two passes can't be made: {trouble}"
            )));
        }
        let changes = match &trouble {
            None if plan.request.scene_cuts => {
                let info = video_info(caps)?;
                let (path, stream) = (&plan.source.path, plan.request.stream);
                scenes::changes(path, stream, &scan, &info, plan.first..plan.end, stops)?
            }
            _ => Vec::new(),
        };
        let planned = element::plan(&plan, &changes)?;
        match (forbidden.or(trouble), planned) {
            (None, Ok(planned)) => plan.take(&planned),
            _ if plan.passes.is_some() => plan.alone(),
            (Some(reason), _) | (None, Err(reason)) => plan.way = Way::Whole { reason },
        }
        plan.id = plan.digest();
        Ok(plan)
    }

    fn take(&mut self, planned: &vtparallelenc::export::Plan) {
        self.jobs = planned.sessions;
        self.threads = planned.threads;
        (self.before, self.after) = (planned.before, planned.after);
        let given = Given {
            ends: planned.ends.clone().into(),
            part: Part::Join,
            passes: [].into(),
        };
        let chunks = 0..planned.ends.len();
        let chunk = |index| {
            let (own, fed) = (
                given.own(index)?,
                given.fed(index, self.before, self.after)?,
            );
            let seconds = |frame: u64| self.time(frame) as f64 / 1e9;
            Some(Chunk {
                index,
                own: [own.start.0, own.end.0],
                lead: own.start.0 - fed.start.0,
                trail: fed.end.0 - own.end.0,
                from: seconds(own.start.0),
                to: seconds(own.end.0),
            })
        };
        self.chunks = chunks.filter_map(chunk).collect();
    }

    /// All of it is one chunk.
    fn alone(&mut self) {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = self.request.threads;
        self.jobs = 1;
        self.threads = threads.unwrap_or(u32::try_from(cores).unwrap_or(1));
        self.chunks = vec![Chunk {
            index: 0,
            own: [0, self.frames()],
            lead: 0,
            trail: 0,
            from: 0.0,
            to: self.seconds(),
        }];
    }

    fn digest(&self) -> String {
        let without = Self {
            id: String::new(),
            ..self.clone()
        };
        // (What was read can be written.)
        digest::of_bytes(&serde_json::to_vec(&without).unwrap_or_default())
    }

    /// Reads one that was written, and checks it.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("{} can't be read: {error}", path.display()))
        })?;
        let no_plan = |error| {
            Failure::usage(format!(
                "{} is no plan of vtexport: {error}",
                path.display()
            ))
        };
        let Versioned { version } = serde_json::from_str(&text).map_err(no_plan)?;
        if version != VERSION {
            return Err(Failure::cannot(format!(
                "{} is a plan of another version of vtexport ({version}, and this one reads {VERSION}). Plan anew.",
                path.display(),
            )));
        }
        let plan: Self = serde_json::from_str(&text).map_err(no_plan)?;
        if plan.digest() != plan.id {
            return Err(Failure::usage(format!(
                "{} was changed by hand, or is damaged. Plan anew.",
                path.display()
            )));
        }
        Ok(plan)
    }

    /// Machines may have copies of the source, each at its place.
    pub fn may_have_copies(&self) -> bool {
        self.request.source.is_relative()
    }

    /// The directory here that the source's path is said from, if there is one.
    pub fn source_root(&self) -> Option<&Path> {
        let below = self.request.source.components().count();
        let root = self.source.path.ancestors().nth(below);
        root.filter(|_| self.may_have_copies())
    }

    /// Where the source is on this machine, if the plan has its path from a root.
    pub fn found_below(mut self, root: Option<&Path>) -> Result<Self, Failure> {
        if self.source.path.is_relative() {
            let root = root.ok_or_else(|| {
                Failure::usage(format!(
                    "the plan's source is {}, below a directory that --source-root names",
                    self.source.path.display()
                ))
            })?;
            self.source.path = root.join(&self.source.path);
        }
        Ok(self)
    }

    /// From here on the plan says where the source is below this directory, which may be another elsewhere.
    pub fn put_below(mut self, root: &Path) -> Result<Self, Failure> {
        let below = below(&self.source.path, root, "--source-root names")?;
        self.source.path.clone_from(&below);
        self.request.source = below;
        self.id = self.digest();
        Ok(self)
    }

    /// It was made for that. (A source below a root is asked for by its whole path.)
    pub fn is_what_was_asked(&self, request: &Request) -> bool {
        let source = self.source.path.clone();
        let asked = Request {
            source,
            ..self.request.clone()
        };
        asked == *request
    }

    /// This installation makes what the plan's chunks are to be.
    pub fn check_installation(&self) -> Result<(), Failure> {
        let here = element::fingerprint(&self.encoder)?;
        if here != self.fingerprint {
            let other = here.iter().find(|it| !self.fingerprint.contains(it));
            return Err(Failure::cannot(format!(
                "this installation isn't the one that the plan was made with: here is {}",
                other.map_or("less", String::as_str)
            )));
        }
        Ok(())
    }

    pub fn frames(&self) -> u64 {
        self.end.saturating_sub(self.first) as u64
    }

    /// Jobs that work at the same time at so many chunks.
    pub fn places(&self, chunks: usize) -> usize {
        let jobs = usize::try_from(self.jobs).unwrap_or(1);
        jobs.clamp(1, chunks.max(1))
    }

    /// The number of a frame among those of the source.
    pub fn in_source(&self, frame: u64) -> usize {
        let frame = usize::try_from(frame).unwrap_or(usize::MAX);
        frame.saturating_add(self.first)
    }

    /// Where a frame of the source is, counted from 0.
    pub fn place(&self, number: usize) -> Place {
        // (Those without times are all there are.)
        match number.checked_sub(self.first) {
            None => Place::Before,
            Some(frame) if number < self.end || self.request.time_range.is_none() => {
                Place::At(frame as u64)
            }
            Some(_) => Place::After,
        }
    }

    /// What of the film is exported.
    pub fn time_range(&self) -> TimeRange {
        self.request.time_range.unwrap_or_default()
    }

    /// How much of the source that is.
    pub fn part(&self) -> f64 {
        self.frames() as f64 / self.times.len().max(1) as f64
    }

    /// With those whose times aren't known.
    pub fn expected_frames(&self) -> u64 {
        self.frames() + self.untimed as u64
    }

    /// How long the film is, in seconds.
    pub fn seconds(&self) -> f64 {
        let nanoseconds = match (self.untimed, self.duration) {
            (0, _) | (_, None) => self.time(self.frames()).saturating_sub(self.time(0)),
            (_, Some(duration)) => self.expected_frames().saturating_mul(duration),
        };
        nanoseconds as f64 / 1e9
    }

    /// When a frame is shown, in nanoseconds from where the export begins; of the one after the last, when that ends.
    pub fn time(&self, frame: u64) -> u64 {
        self.time_in_source(self.in_source(frame))
            .saturating_sub(self.time_range().from)
    }

    fn time_in_source(&self, index: usize) -> u64 {
        let ends = || {
            let last = self.frames().saturating_sub(1);
            let duration = self.duration(last).unwrap_or(0);
            self.times.last().map_or(0, |time| time + duration)
        };
        self.times.get(index).copied().unwrap_or_else(ends)
    }

    /// How long a frame is shown, in nanoseconds.
    pub fn duration(&self, frame: u64) -> Option<u64> {
        let index = self.in_source(frame);
        let gap = |index: usize| {
            Some(
                self.times
                    .get(index + 1)?
                    .saturating_sub(*self.times.get(index)?),
            )
        };
        self.duration
            .or_else(|| gap(index))
            .or_else(|| gap(index.checked_sub(1)?))
    }

    /// What a decoder of ranges wants to know.
    pub fn scan(&self) -> Scan {
        let mut pictures: Vec<Picture> = self
            .times
            .iter()
            .map(|&time| Picture {
                time,
                is_key: false,
            })
            .collect();
        for &key in &self.keys {
            if let Some(picture) = pictures.get_mut(key) {
                picture.is_key = true;
            }
        }
        Scan {
            pictures,
            untimed: self.untimed,
            hidden: self.hidden,
            begins_amid: self.begins_amid,
            end: 0,
            beside: self.beside,
        }
    }

    /// Of the first frame that is exported.
    pub fn first_time_code(&self) -> Option<gst_video::ValidVideoTimeCode> {
        let code = self.time_code.as_ref()?;
        let caps = self.caps().ok()?;
        let info = VideoInfo::from_caps(&caps).ok()?;
        time_code::later(code, info.fps(), self.first as u64)
    }

    pub fn caps(&self) -> Result<gst::Caps, Failure> {
        let caps = self.caps.parse();
        caps.map_err(|_| Failure::usage(format!("the plan's caps aren't caps: {}", self.caps)))
    }

    /// `passes`: the second ones over each chunk, if there are two.
    pub fn given(&self, part: Part, passes: Arc<[SecondPass]>) -> Given {
        let ends = self.chunks.iter().map(|chunk| chunk.own[1]);
        Given {
            ends: ends.collect::<Arc<[u64]>>(),
            part,
            passes,
        }
    }

    pub fn chunk(&self, index: usize) -> Result<&Chunk, Failure> {
        let count = self.chunks.len();
        self.chunks.get(index).ok_or_else(|| match count {
            0 => Failure::usage("the plan has no chunks: `vtexport join` encodes the whole"),
            _ => Failure::usage(format!(
                "there is no chunk {index}: the plan has {count}, counted from 0"
            )),
        })
    }
}

impl Chunk {
    /// That all attempts failed, the last one so.
    pub(crate) fn cannot_be_encoded(&self, last: &Failure) -> Failure {
        Failure {
            text: format!(
                "chunk {} (frames {} to {}, {:.3} to {:.3} s) can't be encoded: {}",
                self.index,
                self.own[0],
                self.own[1] - 1,
                self.from,
                self.to,
                last.text
            ),
            ..last.clone()
        }
    }

    /// The frames that its encoder is fed.
    pub fn fed(&self) -> Range<u64> {
        self.own[0] - self.lead..self.own[1] + self.trail
    }

    pub fn frames(&self) -> u64 {
        self.own[1] - self.own[0]
    }
}

impl Request {
    fn has_two_passes(&self) -> bool {
        self.multi_pass || self.size_limit.is_some()
    }
}

pub(crate) fn video_info(caps: &gst::CapsRef) -> Result<VideoInfo, Failure> {
    VideoInfo::from_caps(caps)
        .map_err(|_| Failure::cannot(format!("frames like these can't be looked at: {caps}")))
}

/// The encoder that was asked for, which may be a preset's.
fn named(request: &Request, caps: &gst::CapsRef) -> Result<String, Failure> {
    let info = video_info(caps)?;
    let preset = presets::encoder(&request.encoder, &info, request.has_two_passes());
    Ok(preset.unwrap_or_else(|| request.encoder.clone()))
}

/// How two passes are made, if they are asked for.
fn passes(request: &Request, encoder: &str) -> Result<Option<Passes>, Failure> {
    if !request.has_two_passes() {
        return Ok(None);
    }
    let prepared = two_passes(encoder).map_err(Failure::usage)?;
    if prepared.bitrate.is_none() && request.size_limit.is_none() {
        return Err(Failure::usage(
            "two passes need a bitrate, which the encoder is told as in --video \"x264enc bitrate=2000\", or a size: --file-length-limit",
        ));
    }
    Ok(Some(Passes {
        properties: prepared.properties.to_string(),
        bitrate: prepared.bitrate,
    }))
}

/// A path from a root, both without links. `named`: what says so of the root.
pub(crate) fn below(path: &Path, root: &Path, named: &str) -> Result<PathBuf, Failure> {
    let absolute = |path: &Path| {
        let absolute = path.canonicalize();
        absolute.map_err(|error| Failure::source_gone(path, &error))
    };
    let (path, root) = (absolute(path)?, absolute(root)?);
    path.strip_prefix(&root).map(PathBuf::from).map_err(|_| {
        Failure::usage(format!(
            "{} isn't below {}, which {named}",
            path.display(),
            root.display()
        ))
    })
}

/// Times are rounded, to a millisecond in Matroska: so much later a range may begin than its first frame.
const ROUNDED_TIME: u64 = 1_000_000;

/// The numbers of the frames that are shown in a range.
fn within(range: Option<TimeRange>, source: &Path, scan: &Scan) -> Result<Range<usize>, Failure> {
    let Some(TimeRange { from, to }) = range else {
        return Ok(0..scan.pictures.len());
    };
    if scan.untimed > 0 {
        return Err(Failure::source(format!(
            "{} doesn't tell the times of its frames, so no time range of it can be exported",
            source.display()
        )));
    }
    let before = |time: u64| {
        let time = time.saturating_sub(ROUNDED_TIME);
        scan.pictures.partition_point(|picture| picture.time < time)
    };
    let frames = before(from)..before(to);
    if frames.is_empty() {
        let seconds = |time: u64| time as f64 / 1e9;
        let times = scan.pictures.first().zip(scan.pictures.last());
        let times = times.map_or((0, 0), |(first, last)| (first.time, last.time));
        return Err(Failure::usage(format!(
            "there is no frame in that time range: those of {} are from {:.3} to {:.3} s",
            source.display(),
            seconds(times.0),
            seconds(times.1)
        )));
    }
    Ok(frames)
}

/// What a container says of its length is rounded, and estimated where it isn't known: so much may be missing.
const ROUNDED: u64 = 1_000_000_000;

/// Where it ends in seconds, and where it should.
fn truncated(said: Option<u64>, end: u64) -> Option<[f64; 2]> {
    let said = said.filter(|said| *said > end + ROUNDED.max(end / 100))?;
    Some([end, said].map(|time| time as f64 / 1e9))
}

/// As decoders compute it.
fn constant_duration(caps: &gst::CapsRef) -> Option<u64> {
    let rate: gst::Fraction = caps.structure(0)?.get("framerate").ok()?;
    let (frames, seconds) = (
        u64::try_from(rate.numer()).ok()?,
        u64::try_from(rate.denom()).ok()?,
    );
    (frames > 0).then(|| seconds.saturating_mul(1_000_000_000) / frames)
}

/// The first picture of the source, for what its caps say.
fn first_picture(request: &Request, scan: &Scan) -> Result<gst::Sample, Failure> {
    let mut first = None;
    range::decode(&request.source, request.stream, scan, 0..1, |step| {
        if let range::Step::Picture(_, sample) = step {
            first = Some(sample.to_owned());
        }
        Ok(())
    })?;
    first.ok_or_else(|| {
        Failure::source(format!(
            "no picture of {} can be decoded",
            request.source.display()
        ))
    })
}
