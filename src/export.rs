// SPDX-License-Identifier: MPL-2.0

//! For programs that have each chunk of a film encoded by a process of its own, as `vtexport` does.
//!
//! ```text
//!  plan:   caps, frames ────► [`plan`] ─────────────────────────────► where chunks end
//!  chunk:  its frames ──────► [`give`] Part::Chunk, cache-location ─► a chunk in the cache
//!  join:   stand-ins of all ► [`give`] Part::Join, cache-location ──► the stream, as the element makes it
//! ```
//!
//! A [stand-in](stand_in) is what is left of a frame when its pixels are gone: its times and its digest. A chunk is found by all that
//! determines it, so that what was made of other frames, times, caps or by another encoder isn't found, and is verified as each chunk is.
//! Whoever joins sets what the chunks' own elements had: `encoder`, `threads-per-session`, `overlap-before`, `overlap-after`,
//! `chunk-frames` (no chunk may be longer), `source-frame-count` (all frames) and what comes after the element.
//!
//! This is no public interface: it is for the workspace's own members, and may change with each version.

use crate::cache::FrameDigest;
use crate::logic::chunker::Chunker;
use crate::logic::given::Given;
use crate::logic::scenes::{Change, Scenes};
use crate::media::thumbnails::Thumbnails;
use crate::parallelenc::ParallelEnc;
use glib::subclass::prelude::*;

pub use crate::cache::FrameDigest as Digest;
pub use crate::encoder::passes::{
    Prepared, Statistics, first as first_pass, keeps_average_bitrate, prepared as two_passes,
};
pub use crate::logic::given;

/// How a film is encoded in chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The number of frames up to the end of each chunk.
    pub ends: Vec<u64>,
    /// Frames that each chunk is fed before and after its own.
    pub before: u64,
    pub after: u64,
    /// Sessions that were planned for, with so many threads each.
    pub sessions: u64,
    pub threads: u32,
    /// How full the decoder's buffer is where a chunk begins isn't known before those before it are encoded.
    pub has_vbv: bool,
}

/// Compares frames with those before them, as the element does to find cuts: those of a film from any place on are compared alike after two.
pub struct Lookout {
    thumbnails: Thumbnails,
    scenes: Scenes,
}

impl Lookout {
    /// `None`: frames like these can't be looked at.
    pub fn new(info: &gst_video::VideoInfo) -> Option<Self> {
        Some(Self {
            thumbnails: Thumbnails::new(info)?,
            scenes: Scenes::default(),
        })
    }

    /// The next frame. `None`: it can't be compared.
    pub fn look(&mut self, frame: &gst::BufferRef) -> Option<Change> {
        self.scenes.look(self.thumbnails.of(frame)?)
    }
}

/// The plan of an element that has caps and no frame yet, for a film of so many frames, of which is known how they differ from those before them, or
/// nothing. `None`: one encoder encodes all, or there are no caps.
pub fn plan(enc: &ParallelEnc, frames: u64, changes: &[Option<Change>]) -> Option<Plan> {
    let stream = enc.imp().stream()?;
    let (plan, threads) = stream.planned()?;
    let mut chunker = Chunker::new(plan);
    let of = |frame: u64| *changes.get(usize::try_from(frame).ok()?)?;
    let steps = (0..frames).map(|frame| chunker.frame(of(frame), false));
    let mut ends: Vec<u64> = steps
        .filter_map(|step| Some(step.closed?.own.end.0))
        .collect();
    let last = chunker.cut();
    ends.extend(last.iter().filter_map(|step| Some(step.closed?.own.end.0)));
    Some(Plan {
        ends,
        before: plan.before,
        after: plan.after,
        sessions: plan.sessions,
        threads,
        has_vbv: stream.decision().is_some_and(|it| it.vbv.is_some()),
    })
}

/// Automatic chunks may be so long: whoever holds no frames of them needn't have short ones. Before it is started.
pub fn plan_up_to(enc: &ParallelEnc, frames: u64) {
    enc.imp().plan_up_to(frames);
}

/// The element's chunks are these. Before it is started.
pub fn give(enc: &ParallelEnc, given: Given) {
    enc.imp().give(given);
}

/// Frames that encoders have taken for the chunks at hand, those around them too, and packets that they have made of these: the difference is
/// what they look ahead.
pub fn at_hand(enc: &ParallelEnc) -> (u64, u64) {
    let stream = enc.imp().stream();
    stream.map_or((0, 0), |stream| stream.at_hand())
}

/// The digest of the frame at this place in a film: of its visible pixels, its flags, and of the place where it carries what can't be hashed.
/// An error says why it can't be told from others.
pub fn digest(
    buffer: &gst::BufferRef,
    info: &gst_video::VideoInfo,
    place: u64,
) -> Result<Digest, String> {
    FrameDigest::in_film(buffer, info, place).map_err(|why| why.to_string())
}

/// The frame carries its digest from now on.
pub fn carry(buffer: &mut gst::BufferRef, digest: &Digest) {
    digest.add_to(buffer);
}

/// What is left of a frame.
pub fn stand_in(digest: &Digest) -> gst::Buffer {
    let mut buffer = gst::Buffer::new();
    digest.add_to(buffer.make_mut());
    buffer
}
