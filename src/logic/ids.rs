// SPDX-License-Identifier: MPL-2.0

//! Names for frames, chunks, sessions and attempts, so that raw integers do not travel.

use std::fmt;

/// A frame's place among all frames that entered since the start or the last flush; the first is 0.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameNo(pub u64);

/// A chunk's place in the output; the first is 0.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub u64);

/// A slot for one live encoder; the first is 0.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub usize);

/// One try at a chunk by one session. Each gets another number, for as long as the element lives: who has an old one is told so.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    pub session: SessionId,
    pub number: u64,
}

impl fmt::Display for FrameNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ChunkId {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A half-open run of frames: `start` belongs to it, `end` does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRange {
    pub start: FrameNo,
    pub end: FrameNo,
}

impl FrameRange {
    pub fn new(start: u64, end: u64) -> Self {
        Self {
            start: FrameNo(start),
            end: FrameNo(end.max(start)),
        }
    }

    pub fn len(&self) -> u64 {
        self.end.0 - self.start.0
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn contains(&self, frame: FrameNo) -> bool {
        self.start <= frame && frame < self.end
    }

    pub fn iter(&self) -> impl Iterator<Item = FrameNo> + use<> {
        (self.start.0..self.end.0).map(FrameNo)
    }
}

/// A run of frames that one session must deliver, with the overlap around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub id: ChunkId,
    /// The frames whose packets leave.
    pub own: FrameRange,
    /// The own frames with the lead before and the trail after them: what the session is given.
    pub fed: FrameRange,
}
