// SPDX-License-Identifier: MPL-2.0

//! Where chunks join in the decoder's buffer: in order, and encoded again where it would be empty.
//!
//! A chunk that was verified keeps its frames until all before it have joined, as it may be encoded again.

use super::{Engine, Media, Stream};
use crate::logic::bucket::{Bucket, Vbv};
use crate::logic::ids::ChunkId;
use crate::logic::store::Kind;

/// Attempts at one chunk that wants more than there is in the buffer. Measured: the second one nearly always fits.
const MOST_TRIES: u32 = 3;

/// The decoder's buffer.
pub(super) struct Joins {
    vbv: Vbv,
    bucket: Bucket,
    /// Private time up to which it was filled.
    until: Option<u64>,
    /// The chunk that is next: all before it are in the bucket.
    next: ChunkId,
    /// That one is encoded again, or it is what is left of one of which some was sent.
    correction: Option<Correction>,
}

/// What an attempt at the next chunk begins with.
#[derive(Clone, Copy)]
struct Correction {
    buffered: u64,
    /// Attempts, with that one.
    tries: u32,
}

/// What a chunk's encoder is told.
pub(super) struct Told {
    /// The buffer, with what is in it at first.
    pub(super) vbv: Vbv,
    /// That isn't as the encoder is set.
    pub(super) tells: bool,
    /// It has no lead, whose bits nobody could foretell: so many are there at its first own frame.
    pub(super) is_exact: bool,
}

impl Joins {
    pub(super) fn new(vbv: Vbv) -> Self {
        Self {
            vbv,
            bucket: Bucket::new(vbv),
            until: None,
            next: ChunkId(0),
            correction: None,
        }
    }

    /// As the encoder is set at the beginning of the stream; else a guess, until it is known what is there.
    pub(super) fn told(&self, chunk: ChunkId) -> Told {
        let correction = self.correction.filter(|_| chunk == self.next);
        let guess = match chunk {
            ChunkId(0) => self.vbv.initial,
            _ => self.vbv.steady,
        };
        let initial = correction.map_or(guess, |it| it.buffered);
        Told {
            vbv: Vbv {
                initial,
                ..self.vbv
            },
            tells: chunk > ChunkId(0) || correction.is_some(),
            is_exact: correction.is_some(),
        }
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

/// Bits of each picture, in decoding order, and private times of those that are shown, in that order.
struct Pictures {
    bits: Vec<u64>,
    times: Vec<u64>,
}

impl Pictures {
    /// They are taken out, one at each time. The time after the last one is that of the next chunk.
    fn take_from(&self, bucket: &mut Bucket, mut until: Option<u64>) -> Option<u64> {
        for (bits, &time) in self.bits.iter().zip(&self.times) {
            bucket.fill(until.map_or(0, |until| time.saturating_sub(until)));
            bucket.take(*bits);
            until = Some(time);
        }
        until
    }
}

impl<M: Media> Stream<M> {
    /// Puts a chunk that was verified into the decoder's buffer, if there is one.
    pub(super) fn join(&mut self, chunk: ChunkId) -> Join {
        let Some(joins) = &self.joins else {
            return Join::Joins { runs_dry: false };
        };
        if chunk > joins.next {
            return Join::Waits;
        }
        let mut bucket = joins.bucket;
        let until = self.pictures(chunk).take_from(&mut bucket, joins.until);
        let missing = bucket.take_missing();
        let again = self.correction(chunk, missing);
        if let Some(joins) = &mut self.joins {
            joins.correction = again;
            if again.is_some() {
                return Join::Again;
            }
            joins.bucket = bucket;
            joins.until = until;
            joins.next = chunk.next();
        }
        Join::Joins {
            runs_dry: missing > 0,
        }
    }

    /// With what the chunk is encoded again, if so many bits aren't there for it.
    fn correction(&self, chunk: ChunkId, missing: u64) -> Option<Correction> {
        let joins = self.joins.as_ref().filter(|_| missing > 0)?;
        let last = joins.correction;
        let tries = last.map_or(1, |it| it.tries);
        // The beginning of the stream is what one encoder makes of it, and what has left can't be changed.
        let is_first = chunk == ChunkId(0) && last.is_none();
        if is_first || self.stores.has_left_in_part(chunk) || tries >= MOST_TRIES {
            return None;
        }
        let buffered = match last {
            None => joins.bucket.safe_level(),
            Some(last) => joins.vbv.corrected(last.buffered, missing),
        };
        let tries = tries + 1;
        let is_other = last.is_none_or(|last| last.buffered != buffered);
        is_other.then_some(Correction { buffered, tries })
    }

    /// What was made of a chunk.
    fn pictures(&self, chunk: ChunkId) -> Pictures {
        let (mut bits, mut times) = (Vec::new(), Vec::new());
        let mut unshown = 0_u64;
        for (frame, kind, size) in self.stores.made(chunk) {
            unshown = unshown.saturating_add(size);
            let shown = frame.filter(|_| kind != Kind::Invisible);
            if let Some(time) = shown.and_then(|frame| self.frames.private(frame)) {
                bits.push(std::mem::take(&mut unshown));
                times.push(time);
            }
        }
        times.sort_unstable();
        Pictures { bits, times }
    }

    /// Some of a chunk was sent, and the chunk is the rest of it, which begins with what is in the buffer then.
    pub(super) fn account_for_sent(&mut self, chunk: ChunkId) {
        let sent = self.pictures(chunk);
        if let Some(joins) = &mut self.joins
            && joins.next == chunk
        {
            joins.until = sent.take_from(&mut joins.bucket, joins.until);
            joins.bucket.take_missing();
            let buffered = joins.bucket.safe_level();
            joins.correction = Some(Correction { buffered, tries: 1 });
        }
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

    /// An encoder isn't told what the others were: from here on nobody keeps account of their decoder's buffer.
    pub fn end_account(&mut self) {
        self.settings.vbv = None;
        self.stream.joins = None;
        self.finish_chunks();
        self.wake_takers();
    }
}
