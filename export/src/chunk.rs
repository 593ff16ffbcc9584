// SPDX-License-Identifier: MPL-2.0

//! One chunk: its frames are decoded, encoded and kept. It is a function of the plan and the source.

use crate::element::Encoding;
use crate::failure::Failure;
use crate::folder::{Folder, Rates, Record};
use crate::passes;
use crate::plan::{Chunk, Plan, video_info};
use crate::range::{self, Start, Step};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use vtparallelenc::export::{self, given::Part};
use vtparallelenc::parallelenc::ParallelEnc;

/// Encodes a chunk, unless that is done. `told`: how far it is.
pub fn encode(
    plan: &Plan,
    folder: &Folder,
    index: usize,
    told: &mut dyn FnMut(Made) -> Result<(), Failure>,
) -> Result<Record, Failure> {
    let chunk = plan.chunk(index)?;
    plan.source.check(plan.may_have_copies())?;
    plan.check_installation()?;
    let rates = passes::rates(plan, folder)?;
    if let Some(record) = folder.read(plan, rates.as_ref(), index) {
        return Ok(record);
    }
    if let Some(rates) = &rates {
        let found = folder.first_pass(plan, index).map(|found| found.digest);
        if found.as_ref() != Some(&rates.passes[index].digest) {
            return Err(passes::not_made(folder, index));
        }
    }
    let record = make(plan, folder, chunk, rates.as_ref(), told)?;
    folder.write(&record)?;
    Ok(record)
}

/// How far an encoder is with a chunk, what is around that too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Frames that it has taken.
    pub fed: u64,
    /// Packets that it has made.
    pub packets: u64,
    /// Frames before them that were decoded on the way.
    #[serde(default)]
    pub skipped: u64,
}

impl Made {
    fn of(enc: &ParallelEnc, skipped: u64) -> Self {
        let (fed, packets) = export::at_hand(enc);
        Self {
            fed,
            packets,
            skipped,
        }
    }
}

/// An encoder at work on a chunk, and what it was fed.
struct Work {
    encoding: Encoding,
    digests: Vec<String>,
    trail: Vec<String>,
    bytes: Arc<AtomicU64>,
}

impl Work {
    fn begin(
        plan: &Plan,
        folder: &Folder,
        rates: Option<&Rates>,
        index: usize,
    ) -> Result<Self, Failure> {
        let encoding = Encoding::new(plan)?;
        let given = plan.given(Part::Chunk(index), folder.second_passes(rates));
        encoding.give(plan, given, &folder.kept());
        encoding.sink_to_nowhere()?;
        let bytes = Arc::new(AtomicU64::new(0));
        let counted = bytes.clone();
        encoding.keep_from_muxer(move |packet| {
            counted.fetch_add(packet.size() as u64, Ordering::Relaxed);
        })?;
        encoding.feed.start(gst::State::Playing)?;
        Ok(Self {
            encoding,
            digests: Vec::new(),
            trail: Vec::new(),
            bytes,
        })
    }
}

/// What comes of a chunk's frames.
pub(crate) enum Came {
    /// They come anew, from the first one, because what came isn't what was planned.
    Anew,
    /// So many were decoded that are before them.
    Skipped(u64),
    /// With its number in the film, and as the plan says that it comes.
    Frame(u64, gst::Buffer),
}

/// All frames that the chunk's encoder is fed.
pub(crate) fn frames(
    plan: &Plan,
    chunk: &Chunk,
    each: &mut dyn FnMut(Came) -> Result<(), Failure>,
) -> Result<Start, Failure> {
    let caps = plan.caps()?;
    let fed = chunk.fed();
    let range = plan.in_source(fed.start)..plan.in_source(fed.end);
    let offset = plan.in_source(0);
    let (source, stream) = (&plan.source.path, plan.request.stream);
    let mut skipped = 0;
    let start = range::decode(source, stream, &plan.scan(), range, |step| {
        let (number, sample) = match step {
            Step::Begins(_) => return each(Came::Anew),
            Step::Skipped => {
                skipped += 1;
                return each(Came::Skipped(skipped));
            }
            Step::Picture(number, sample) => (number, sample),
        };
        let number = (number - offset) as u64;
        if sample.caps().is_none_or(|it| !it.is_strictly_equal(&caps)) {
            return Err(Failure::cannot(format!(
                "frame {number} isn't like the first one of the film ({}, not {caps}), and a film of several formats can't be encoded \
                 in ranges: --no-parallel encodes it in one",
                sample
                    .caps()
                    .map_or_else(String::new, |caps| caps.to_string())
            )));
        }
        let buffer = sample.buffer_owned();
        let mut frame = buffer.ok_or_else(|| Failure::failed("the decoder made no frame"))?;
        let fields = frame.make_mut();
        fields.set_pts(gst::ClockTime::from_nseconds(plan.time(number)));
        fields.set_dts(gst::ClockTime::NONE);
        fields.set_duration(plan.duration(number).map(gst::ClockTime::from_nseconds));
        each(Came::Frame(number, frame))
    })?;
    Ok(start)
}

fn make(
    plan: &Plan,
    folder: &Folder,
    chunk: &Chunk,
    rates: Option<&Rates>,
    told: &mut dyn FnMut(Made) -> Result<(), Failure>,
) -> Result<Record, Failure> {
    let since = Instant::now();
    let caps = plan.caps()?;
    let info = video_info(&caps)?;
    let index = chunk.index;
    let own = chunk.own[0]..chunk.own[1];
    let mut work: Option<Work> = None;
    let mut before = 0;
    let start = frames(plan, chunk, &mut |came| {
        let (number, mut frame) = match came {
            Came::Anew => {
                work = None;
                return Ok(());
            }
            Came::Skipped(skipped) => {
                before = skipped;
                return told(Made {
                    skipped,
                    ..Made::default()
                });
            }
            Came::Frame(number, frame) => (number, frame),
        };
        let work = match &mut work {
            Some(work) => work,
            none => none.insert(Work::begin(plan, folder, rates, index)?),
        };
        let digest = export::digest(&frame, &info, number).map_err(|why| {
            Failure::cannot(format!(
                "{why}, which can't be kept: --no-parallel encodes the film in one"
            ))
        })?;
        if own.contains(&number) {
            work.digests.push(digest.to_string());
        } else if number >= own.end {
            work.trail.push(digest.to_string());
        }
        export::carry(frame.make_mut(), &digest);
        work.encoding.feed.push(frame)?;
        told(Made::of(&work.encoding.enc, before))
    })?;
    let work = work.ok_or_else(|| Failure::failed("the chunk has no frames"))?;
    let enc = work.encoding.enc.clone();
    let feed = &work.encoding.feed;
    feed.finish(|| told(Made::of(&enc, before)))?;
    Ok(Record {
        plan: plan.id.clone(),
        index,
        bytes: work.bytes.load(Ordering::Relaxed),
        digests: work.digests,
        trail: work.trail,
        seconds: since.elapsed().as_secs_f64(),
        decoded_from: match start {
            Start::Key(number) => Some(number),
            Start::Beginning => None,
        },
        pass: rates.map(|rates| rates.passes[index].clone()),
    })
}
