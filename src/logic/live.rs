// SPDX-License-Identifier: MPL-2.0

//! A chunk from its first frame until it is done: what it owns, and what its session is fed.

use super::cuts::{Film, Search, Window};
use super::given::Given;
use super::ids::{Chunk, ChunkId, FrameNo, FrameRange};
use super::store::Side;

/// What is known of the frames around a chunk when it opens. It depends on the plan alone, so an encoder may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Neighbours {
    /// Frames come before its own ones.
    pub before: bool,
    /// Frames come after its own ones, or it isn't known that none do.
    pub after: bool,
    /// All frames that its encoder will be fed, where the length of the source is known.
    pub fed: Option<u64>,
}

/// A chunk's own frames; without an end until that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub id: ChunkId,
    pub own: FrameRange,
}

/// A chunk that opened and isn't done.
#[derive(Debug)]
pub struct Live {
    pub(super) id: ChunkId,
    /// First fed frame.
    pub lead_start: FrameNo,
    /// First frame that it keeps from being let go: not later than the next chunk's first one, while that hasn't begun.
    pub(super) keeps_from: FrameNo,
    /// First own frame.
    pub start: FrameNo,
    /// It has the frames up to here in any case, and ends here once that is decided, unless a short tail joins it.
    pub(super) target: FrameNo,
    /// What decides that.
    pub(super) search: Search,
    /// End of the own frames, once that is known.
    pub(super) own_end: Option<FrameNo>,
    /// Frames that follow its own ones as its trail.
    pub(super) after: u64,
    /// What its encoder may be told of the frames around it.
    pub neighbours: Neighbours,
    /// The own ones of the frames that its encoder will be fed, where the length of the source is known.
    pub(super) planned: Option<u64>,
}

impl Live {
    pub(super) fn is_open(&self) -> bool {
        self.own_end.is_none()
    }

    /// Looks for its end among the frames before this one.
    pub(super) fn look(&mut self, film: &Film, until: FrameNo) {
        self.search.look(film, until);
        self.target = self.search.safe_end();
    }

    /// Where its trail ends.
    pub fn end(&self) -> FrameNo {
        let end = self.own_end.map(|end| end.0.saturating_add(self.after));
        FrameNo(end.unwrap_or(u64::MAX))
    }

    /// End of the frames that may be fed now, and whether it is final.
    pub(super) fn feed_end(&self, arrived: FrameNo) -> (FrameNo, bool) {
        if self.is_open() {
            return (arrived.min(self.target), false);
        }
        (arrived.min(self.end()), arrived >= self.end())
    }

    pub fn bounds(&self) -> Bounds {
        let end = self.own_end.map_or(u64::MAX, |end| end.0);
        Bounds {
            id: self.id,
            own: FrameRange::new(self.start.0, end),
        }
    }

    /// Every frame that this chunk needs or may come to need.
    pub(super) fn needs(&self) -> FrameRange {
        FrameRange::new(self.keeps_from.0, self.end().0)
    }

    /// It is fed nothing before this frame.
    pub(super) fn begin_with(&mut self, start: FrameNo) {
        self.lead_start = start;
        // The chunk after an open one may reach back as far as that would have.
        if !self.is_open() {
            self.keeps_from = start;
        }
    }

    /// On which side of the own frames this one is; `None`: it is one of them.
    pub fn side_of(&self, frame: FrameNo) -> Option<Side> {
        match self.own_end {
            _ if frame < self.start => Some(Side::Lead),
            Some(end) if frame >= end => Some(Side::Trail),
            _ => None,
        }
    }

    /// It is fed frames around its own ones on this side.
    pub fn has_overlap(&self, side: Side) -> bool {
        match side {
            Side::Lead => self.lead_start < self.start,
            Side::Trail => self.after > 0,
        }
    }

    pub(super) fn overlaps(&self) -> bool {
        self.has_overlap(Side::Lead) || self.has_overlap(Side::Trail)
    }

    /// The chunk, if it is fed up to, not including, `fed_end`.
    pub fn chunk(&self, fed_end: FrameNo) -> Option<Chunk> {
        Some(Chunk {
            id: self.id,
            own: FrameRange::new(self.start.0, self.own_end?.0),
            fed: FrameRange::new(self.lead_start.0, fed_end.0),
        })
    }

    /// The only chunk that is encoded, with all that is known of it before its frames come. The first of these is the first that it is fed.
    pub(super) fn alone(
        id: ChunkId,
        given: &Given,
        index: usize,
        (before, after): (u64, u64),
    ) -> Option<Self> {
        let own = given.own(index)?;
        let fed = given.fed(index, before, after)?;
        let start = FrameNo(own.start.0 - fed.start.0);
        let end = FrameNo(start.0 + own.len());
        Some(Self {
            id,
            lead_start: FrameNo(0),
            keeps_from: FrameNo(0),
            start,
            target: end,
            search: Search::new(start, Window::exactly(own.len()), (0, None)),
            own_end: Some(end),
            after: fed.end.0 - own.end.0,
            neighbours: Neighbours {
                before: own.start.0 > 0,
                after: own.end.0 < given.total(),
                fed: Some(fed.len()),
            },
            planned: Some(own.len()),
        })
    }
}
