// SPDX-License-Identifier: MPL-2.0

//! Chunks that were planned before, elsewhere: those of a film whose chunks are encoded in processes of their own.
//!
//! One process encodes one chunk: it has the frames that this one is fed and no others. Another joins what all of them made: it has all
//! frames, of which only the digests are there.

use super::ids::{ChunkId, FrameRange};
use std::path::PathBuf;
use std::sync::Arc;

/// The chunks of a film, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The number of frames up to the end of each chunk; they increase.
    pub ends: Arc<[u64]>,
    pub part: Part,
    /// Of each chunk, where its encoder makes the second of two passes over it; else empty.
    pub passes: Arc<[SecondPass]>,
}

/// What the second pass over a chunk follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecondPass {
    /// Bits per second of all frames that the chunk's encoder is fed.
    pub bitrate: u64,
    /// Where the first pass wrote what it found. (Whoever joins needn't have that.)
    pub statistics: PathBuf,
    /// The digest of what stands there.
    pub digest: String,
    /// The level that the first one announced. Some encoders derive it from the bitrate, which isn't the same in all chunks of a stream.
    pub level: Option<String>,
}

/// What is done with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// This one is encoded and kept. The first frame that comes is the first one that it is fed.
    Chunk(usize),
    /// All of them are taken from what is kept. Frames that come after the last one are its trail: the film may have more of them.
    Join,
}

impl Given {
    /// The chunk that is encoded, if it is one.
    pub fn only(&self) -> Option<usize> {
        match self.part {
            Part::Chunk(index) => Some(index),
            Part::Join => None,
        }
    }

    /// The second pass over a chunk, if it is one.
    pub fn pass(&self, chunk: ChunkId) -> Option<&SecondPass> {
        let index = match self.part {
            Part::Chunk(index) => index,
            Part::Join => usize::try_from(chunk.0).ok()?,
        };
        self.passes.get(index)
    }

    /// The own frames of a chunk, counted in the film.
    pub fn own(&self, index: usize) -> Option<FrameRange> {
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        Some(FrameRange::new(start, *self.ends.get(index)?))
    }

    /// All frames of the film.
    pub fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The frames that a chunk is fed with such an overlap, counted in the film.
    pub fn fed(&self, index: usize, before: u64, after: u64) -> Option<FrameRange> {
        let own = self.own(index)?;
        let end = own.end.0.saturating_add(after).min(self.total());
        Some(FrameRange::new(own.start.0.saturating_sub(before), end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_fed_what_the_film_has_around_it() {
        let film = Given {
            ends: [10, 25, 30].into(),
            part: Part::Join,
            passes: [].into(),
        };
        assert_eq!(film.own(0), Some(FrameRange::new(0, 10)));
        assert_eq!(film.own(2), Some(FrameRange::new(25, 30)));
        assert_eq!((film.own(3), film.fed(3, 1, 1)), (None, None));
        assert_eq!(film.fed(0, 4, 8), Some(FrameRange::new(0, 18)));
        assert_eq!(film.fed(1, 12, 8), Some(FrameRange::new(0, 30)));
    }
}
