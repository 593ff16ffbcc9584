// SPDX-License-Identifier: MPL-2.0

//! All chunks become a file, with the source's sound and subtitles beside the picture.
//!
//! The picture comes of the element, to which stand-ins of all frames are given, and which finds every chunk by what determines it. Where
//! there are no chunks, the frames themselves come, decoded from the beginning. Sound and subtitles come from the source as they are,
//! where the output's type holds them; sound is encoded anew where it doesn't.

use crate::element::Encoding;
use crate::failure::{Code, Failure};
use crate::folder::{Folder, beside};
use crate::plan::{Chunk, Place, Plan, Way};
use crate::range::{self, RangeError, Step};
use crate::source::{Source, make};
use crate::streams::Streams;
use gst::prelude::*;
use std::fs::File;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use vtparallelenc::export::{self, Digest, given::Part};

/// What becomes of the sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audio {
    /// As it is; encoded anew, with the encoder of the type, where the type doesn't hold it.
    Copy,
    /// Encoded anew, by this description.
    Encode(String),
    None,
}

/// What is wanted of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub audio: Audio,
    /// The index comes first.
    pub for_network: bool,
    /// Where it is ended early, what is there becomes a file.
    pub keep_partial: bool,
}

/// What was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Joined {
    pub bytes: u64,
    pub frames: u64,
    /// What didn't go over, or not as it was.
    pub notes: Vec<String>,
    /// It was ended early.
    pub is_partial: bool,
}

/// Writes the output beside its place, of the first chunks. `told`: how many frames the element was given.
pub fn join(
    plan: &Plan,
    folder: &Folder,
    output: &Path,
    options: &Options,
    chunks: usize,
    told: &mut dyn FnMut(u64) -> Result<(), Failure>,
) -> Result<Joined, Failure> {
    let part = beside(output);
    let made = write(plan, folder, &part, options, chunks, told);
    let made = made.and_then(|joined| {
        let synced = File::open(&part).and_then(|file| {
            file.sync_all()?;
            Ok(file.metadata()?.len())
        });
        let bytes = synced.map_err(|error| Failure::unwritten(output, &error))?;
        let mut notes = joined.notes;
        notes.extend(lost_orientation(plan, &part));
        Ok(Joined {
            bytes,
            notes,
            ..joined
        })
    });
    made.map_err(|failure| {
        let _ = std::fs::remove_file(&part);
        match failure {
            Failure {
                code: Code::Again,
                missing: None,
                ..
            } => Failure::again(format!("{}: {}", output.display(), failure.text)),
            failure => failure,
        }
    })
}

/// What was written beside it takes its place.
pub fn put(output: &Path) -> Result<(), Failure> {
    let put = std::fs::rename(beside(output), output);
    put.map_err(|error| Failure::unwritten(output, &error))
}

fn write(
    plan: &Plan,
    folder: &Folder,
    part: &Path,
    options: &Options,
    chunks: usize,
    told: &mut dyn FnMut(u64) -> Result<(), Failure>,
) -> Result<Joined, Failure> {
    plan.source.check_all(plan.may_have_copies())?;
    // Now, and not when all is made. (The muxer's sink would say less.)
    File::create(part).map_err(|error| Failure::unwritten(part, &error))?;
    let encoding = Encoding::new(plan)?;
    let (enc, request) = (&encoding.enc, &plan.request);
    match plan.way {
        Way::Chunks => {
            let rates = folder.rates(plan);
            let mut given = plan.given(Part::Join, folder.second_passes(rates.as_ref()));
            given.ends = given.ends.iter().copied().take(chunks).collect();
            encoding.give(plan, given, &folder.kept());
        }
        Way::Whole { .. } => {
            enc.set_property("allow-parallel", !request.no_parallel);
            encoding.ask(request);
        }
    }
    if encoding.muxer.has_property("faststart") {
        encoding
            .muxer
            .set_property("faststart", options.for_network);
    }
    let sink = make("filesink")?;
    sink.set_property("location", part);
    encoding.feed.pipeline.add(&sink)?;
    encoding.muxer.link(&sink)?;
    let streams = Streams::attach(&encoding, plan, options)?;
    let given = &plan.chunks[..chunks.min(plan.chunks.len())];
    let given_frames = given.last().map_or(0, |last| last.own[1]);
    if plan.way == Way::Chunks && given_frames < plan.frames() {
        // Before any sound comes, which is read far ahead.
        let end = plan.time_range().from + plan.time(given_frames);
        streams.until.store(end, Ordering::SeqCst);
    }
    encoding.feed.start(gst::State::Playing)?;
    streams.wait(&encoding)?;
    let (frames, is_partial) = match plan.way {
        Way::Chunks => {
            stand_ins(plan, folder, &encoding, given, told)?;
            (given_frames, given_frames < plan.frames())
        }
        Way::Whole { .. } => whole(plan, &encoding, options, &streams.until, told)?,
    };
    encoding.feed.finish(|| match is_partial {
        true => Ok(()),
        false => told(frames),
    })?;
    let notes = std::mem::take(&mut *streams.notes.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Joined {
        bytes: 0,
        frames,
        notes,
        is_partial,
    })
}

/// Not every muxer writes how a picture is turned, though it is told.
fn lost_orientation(plan: &Plan, output: &Path) -> Option<String> {
    let turned = plan.orientation.as_ref()?;
    let written = || {
        Source::open(output)
            .ok()?
            .video
            .first()?
            .orientation
            .clone()
    };
    // As `videoflip` calls it.
    let direction = match turned.as_str() {
        "rotate-90" => "90r",
        "rotate-180" => "180",
        "rotate-270" => "90l",
        _ => "identity",
    };
    (written().as_ref() != Some(turned)).then(|| {
        format!(
            "The source's picture is turned ({turned}), which {} doesn't write here. An encoder that begins with `videoflip \
             video-direction={direction} !` turns it.",
            plan.muxer
        )
    })
}

/// What is left of each frame of these chunks, which are there, and of those after them that the last one was fed.
fn stand_ins(
    plan: &Plan,
    folder: &Folder,
    encoding: &Encoding,
    chunks: &[Chunk],
    told: &mut dyn FnMut(u64) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let rates = folder.rates(plan);
    let mut trail = Vec::new();
    let mut frame = 0;
    let mut push = |digest: &Digest| {
        let mut left = export::stand_in(digest);
        let fields = left.make_mut();
        fields.set_pts(gst::ClockTime::from_nseconds(plan.time(frame)));
        fields.set_duration(plan.duration(frame).map(gst::ClockTime::from_nseconds));
        encoding.feed.push(left)?;
        frame += 1;
        told(frame)
    };
    for chunk in chunks {
        let record = folder.read(plan, rates.as_ref(), chunk.index);
        let digests = record.and_then(|record| record.digests());
        let (own, after) = digests.ok_or_else(|| {
            let index = chunk.index;
            let plan = folder.plan();
            Failure::again(format!(
                "chunk {index} isn't encoded: `vtexport chunk {} --index {index}` does that",
                plan.display()
            ))
        })?;
        own.iter().try_for_each(&mut push)?;
        trail = after;
    }
    trail.iter().try_for_each(push)
}

/// The frames themselves, to the end.
fn whole(
    plan: &Plan,
    encoding: &Encoding,
    options: &Options,
    until: &AtomicU64,
    told: &mut dyn FnMut(u64) -> Result<(), Failure>,
) -> Result<(u64, bool), Failure> {
    let mut frames = 0;
    let mut ends = false;
    let caps = plan.caps()?;
    let mut last = caps.clone();
    let decoded = range::decode_all(&plan.source.path, plan.request.stream, |step| {
        let Step::Picture(number, sample) = step else {
            return Ok(());
        };
        let time = range::stream_time(sample);
        let number = match plan.place(number) {
            Place::Before => return Ok(()),
            Place::At(number) => number,
            Place::After => return Err(Failure::again("that is all")),
        };
        let frame = sample.buffer_owned();
        let mut frame = frame.ok_or_else(|| Failure::failed("the decoder made no frame"))?;
        if let Some(caps) = sample.caps().filter(|caps| !caps.is_strictly_equal(&last)) {
            last = caps.to_owned();
            encoding.feed.set_caps(&last);
        }
        let fields = frame.make_mut();
        let shown = time.map(|time| time.saturating_sub(plan.time_range().from));
        fields.set_pts(shown.map(gst::ClockTime::from_nseconds));
        fields.set_dts(gst::ClockTime::NONE);
        encoding.feed.push(frame)?;
        frames = number + 1;
        told(frames).inspect_err(|failure| {
            ends = options.keep_partial && failure.code == Code::Again;
            let end = time.map_or(0, |time| time + plan.duration(0).unwrap_or(0));
            until.store(end, Ordering::SeqCst);
        })
    });
    match decoded {
        Err(RangeError::Stopped(_)) if ends => Ok((frames, true)),
        Err(RangeError::Stopped(_)) if frames == plan.frames() => Ok((frames, false)),
        decoded => Ok(decoded.map(|()| (frames, false))?),
    }
}
