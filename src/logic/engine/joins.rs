// SPDX-License-Identifier: MPL-2.0

//! Where chunks join in the decoder's buffer: in order, and encoded again where it would be empty.

use super::{Engine, Media, Stream};
use crate::logic::bucket::{Bucket, Vbv};
use crate::logic::ids::{ChunkId, FrameNo};
use crate::logic::store::Kind;
use std::collections::BTreeMap;

/// Attempts at one chunk that wants more than there is in the buffer. Measured: the second one nearly always fits.
const MOST_TRIES: u32 = 3;

/// The decoder's buffer.
pub(super) struct Joins {
    vbv: Vbv,
    bucket: Bucket,
    /// The chunk that is next: all before it are in the bucket.
    next: ChunkId,
    /// Of chunks that are encoded again.
    corrections: BTreeMap<ChunkId, Correction>,
}

/// What another attempt at a chunk begins with.
struct Correction {
    buffered: u64,
    /// Attempts, with that one.
    tries: u32,
}

/// What a chunk's encoder is told.
pub(super) struct Beginning {
    /// Bits that are in the buffer.
    pub(super) buffered: u64,
    /// It has no lead, whose bits nobody could foretell: so many are there at its first own frame.
    pub(super) is_exact: bool,
}

impl Joins {
    pub(super) fn new(vbv: Vbv) -> Self {
        Self {
            vbv,
            bucket: Bucket::new(vbv),
            next: ChunkId(0),
            corrections: BTreeMap::new(),
        }
    }

    /// `None`: as the encoder is set, for the beginning of the stream.
    pub(super) fn beginning(&self, chunk: ChunkId) -> Option<Beginning> {
        let correction = self.corrections.get(&chunk);
        (chunk > ChunkId(0)).then(|| Beginning {
            buffered: correction.map_or(self.vbv.steady, |it| it.buffered),
            is_exact: correction.is_some(),
        })
    }
}

/// What becomes of a chunk that was verified.
pub(super) enum Join {
    /// It waits for those before it.
    Waits,
    /// It joins them. `runs_dry`: it leaves the buffer empty at some moment, and nothing helps.
    Joins { runs_dry: bool },
    /// It wants more than is in the buffer, and is to be encoded again.
    Again,
}

impl<M: Media> Stream<M> {
    /// Puts a chunk that was verified into the decoder's buffer, if there is one.
    pub(super) fn join(&mut self, chunk: ChunkId) -> Join {
        let leaves = self.stores.has_left_in_part(chunk);
        let pictures = self.pictures(chunk);
        let Some(joins) = &mut self.joins else {
            return Join::Joins { runs_dry: false };
        };
        if chunk > joins.next {
            return Join::Waits;
        }
        let mut bucket = joins.bucket;
        for (bits, duration) in pictures {
            bucket.picture(bits, duration);
        }
        let missing = bucket.take_missing();
        let again = joins.corrections.get(&chunk);
        let tries = again.map_or(1, |it| it.tries);
        // The beginning of the stream is what one encoder makes of it.
        let may_change = chunk > ChunkId(0) && !leaves && tries < MOST_TRIES;
        if missing > 0 && may_change {
            let buffered = match again {
                None => joins.bucket.safe_level(),
                Some(it) => joins.vbv.corrected(it.buffered, missing),
            };
            let tries = tries + 1;
            joins
                .corrections
                .insert(chunk, Correction { buffered, tries });
            return Join::Again;
        }
        joins.bucket = bucket;
        joins.next = chunk.next();
        joins.corrections.remove(&chunk);
        Join::Joins {
            runs_dry: missing > 0,
        }
    }

    /// Bits of each picture of the chunk, and the time that passes after it, in decoding order.
    fn pictures(&self, chunk: ChunkId) -> Vec<(u64, u64)> {
        if self.joins.is_none() {
            return Vec::new();
        }
        let mut unshown = 0;
        let packets = self.stores.made(chunk).filter_map(|(frame, kind, bits)| {
            unshown += bits;
            let shown = frame.filter(|_| kind != Kind::Invisible)?;
            Some((std::mem::take(&mut unshown), self.duration(shown)))
        });
        packets.collect()
    }

    /// Until the next frame is shown.
    fn duration(&self, frame: FrameNo) -> u64 {
        let of = |frame| self.frames.private(frame);
        let next = of(frame).zip(of(FrameNo(frame.0 + 1)));
        let told = || self.frames.get(frame)?.times.duration;
        let until_next = next.map(|(this, next)| next.saturating_sub(this));
        until_next.or_else(told).unwrap_or(0)
    }
}

impl<M: Media> Engine<M> {
    /// A chunk was verified, and wants more than there is in the decoder's buffer.
    pub(super) fn encode_again(&mut self, chunk: ChunkId, number: u32) {
        self.tally.vbv_retries += 1;
        let stream = &mut self.stream;
        stream.stores.retract(chunk);
        stream.roster.offer(chunk, number);
        self.wake_takers();
        self.recall_if_stuck();
    }
}
