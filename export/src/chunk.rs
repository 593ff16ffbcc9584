// SPDX-License-Identifier: MPL-2.0

//! One chunk: its frames are decoded, encoded and kept. It is a function of the plan and the source.

use crate::element::Encoding;
use crate::failure::Failure;
use crate::folder::{Folder, Record};
use crate::plan::{Chunk, Plan};
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
    plan.source.check()?;
    plan.check_installation()?;
    if let Some(record) = folder.read(plan, index) {
        return Ok(record);
    }
    let record = make(plan, folder, chunk, told)?;
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
}

impl Made {
    fn of(enc: &ParallelEnc) -> Self {
        let (fed, packets) = export::at_hand(enc);
        Self { fed, packets }
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
    fn begin(plan: &Plan, folder: &Folder, index: usize) -> Result<Self, Failure> {
        let encoding = Encoding::new(plan)?;
        encoding.give(plan, plan.given(Part::Chunk(index)), &folder.kept());
        encoding.sink_to_nowhere()?;
        let bytes = Arc::new(AtomicU64::new(0));
        let counted = bytes.clone();
        encoding.keep_from_muxer(move |packet| {
            counted.fetch_add(packet.size() as u64, Ordering::Relaxed);
        })?;
        encoding.start(gst::State::Playing)?;
        Ok(Self {
            encoding,
            digests: Vec::new(),
            trail: Vec::new(),
            bytes,
        })
    }
}

fn make(
    plan: &Plan,
    folder: &Folder,
    chunk: &Chunk,
    told: &mut dyn FnMut(Made) -> Result<(), Failure>,
) -> Result<Record, Failure> {
    let since = Instant::now();
    let caps = plan.caps()?;
    let info = gst_video::VideoInfo::from_caps(&caps)
        .map_err(|_| Failure::cannot(format!("frames like these can't be looked at: {caps}")))?;
    let index = chunk.index;
    let own = chunk.own[0]..chunk.own[1];
    let fed = chunk.fed();
    let range = plan.in_source(fed.start)..plan.in_source(fed.end);
    let offset = plan.in_source(0);
    let (source, stream) = (&plan.source.path, plan.request.stream);
    let mut work: Option<Work> = None;
    let start = range::decode(source, stream, &plan.scan(), range, |step| {
        let Step::Picture(number, sample) = step else {
            // What was decoded from a later key frame isn't what was planned.
            work = None;
            return Ok(());
        };
        let work = match &mut work {
            Some(work) => work,
            none => none.insert(Work::begin(plan, folder, index)?),
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
        let fields = frame.make_mut();
        fields.set_pts(gst::ClockTime::from_nseconds(plan.time(number)));
        fields.set_dts(gst::ClockTime::NONE);
        fields.set_duration(plan.duration(number).map(gst::ClockTime::from_nseconds));
        export::carry(fields, &digest);
        work.encoding.push(frame)?;
        told(Made::of(&work.encoding.enc))
    })?;
    let work = work.ok_or_else(|| Failure::failed("the chunk has no frames"))?;
    let enc = work.encoding.enc.clone();
    work.encoding.finish(|| told(Made::of(&enc)))?;
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
    })
}
