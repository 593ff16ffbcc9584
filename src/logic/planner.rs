// SPDX-License-Identifier: MPL-2.0

//! Where chunks begin and end, who is fed what, and where a key frame is forced.
//!
//! [`Plan::make`] settles the lengths before the first frame; [`Planner`] then follows the frames one
//! by one. Both depend on counts alone, never on timing: the same frames give the same chunks.
//!
//! ```text
//!          chunk c: lead │        own        │ trail
//!     ─────────────┬─────┼───────────────────┼──────┬─────────
//!                  │before│       length      │after │            frames ─►
//!     ─────────────┴─────┼───────────────────┼──────┴─────────
//!                 own of c−1 │             lead of c+1 │ own of c+1
//! ```
//!
//! A chunk is *open* until the planner knows where it ends. It ends after its planned length as soon as
//! `min_frames` more frames have come, because only then the frames after it are sure to be a chunk
//! of their own; otherwise they are a short tail and join it.

use super::frame::{Chunk, ChunkId, FrameNo, FrameRange};
use super::reorder::Side;
use std::collections::VecDeque;
use std::fmt;

/// Longest automatic chunk, in frames: the key frame distance that encoders choose themselves (x264 and
/// x265: 250). Measured on x264: 240-frame chunks cost 2 % of the bits, 96-frame chunks 14 %.
pub const LONGEST_AUTOMATIC_CHUNK: u64 = 250;

/// As above, where each frame is a key frame: longer chunks save no bits, only encoders to open (measured at 1080p: 1 ms each), and
/// need more memory.
const LONGEST_AUTOMATIC_INTRA_CHUNK: u64 = 100;

/// The last rounds of chunks are made shorter so that all sessions end together, but no shorter than this, in frames. Each chunk
/// costs the bits of about 20 frames (x264, the measurement above), and what the sessions end apart is about half of a last
/// chunk: the sum of both is smallest at 58 frames. (With a lead, whose frames are encoded as well, at three times as many more.)
const SHORTEST_LAST_CHUNK: u64 = 60;

/// As above, where each frame is a key frame and chunks cost no bits, but still an encoder to open.
const SHORTEST_LAST_INTRA_CHUNK: u64 = 24;

/// Where the length of the source isn't known, the first round has chunks of this length, in frames, and each further round is longer
/// by a quarter: whenever the source ends, what the sessions end apart is a part of what they have done.
const FIRST_CHUNK: u64 = 100;

/// Where memory is short, fewer sessions work before chunks of several frames for each key frame become shorter than this:
/// at 20 frames' bits for each chunk, what more sessions gain in time is then lost in bits.
const SHORTEST_SHARED_CHUNK: u64 = 24;

/// The chunks on which an encoder shows whether it can be cut with an overlap: the first with a trail, the second with a
/// lead. Later chunks wait for them, so that which chunks have an overlap never depends on which was faster.
const TRIALS: [ChunkId; 2] = [ChunkId(0), ChunkId(1)];

/// Frames fed around a chunk's own ones, on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    Exactly(u64),
    /// As many, but no more than a quarter of the chunk: beyond, it costs more than it gains.
    UpTo(u64),
}

impl Overlap {
    /// So many buffers for each frame.
    pub fn times(self, buffers: u64) -> Self {
        match self {
            Self::Exactly(frames) => Self::Exactly(frames.saturating_mul(buffers)),
            Self::UpTo(frames) => Self::UpTo(frames.saturating_mul(buffers)),
        }
    }

    /// In frames.
    pub fn most(self) -> u64 {
        match self {
            Self::Exactly(frames) | Self::UpTo(frames) => frames,
        }
    }

    fn of(self, length: Length) -> u64 {
        match self {
            Self::Exactly(frames) => frames,
            Self::UpTo(frames) => frames.min(length.longest() / 4),
        }
    }
}

/// What a plan is made from.
#[derive(Debug, Clone)]
pub struct Request {
    /// Sessions that may encode at the same time, at least 1.
    pub sessions: u64,
    /// They were left to us: fewer may work where memory is short.
    pub sessions_are_automatic: bool,
    /// Each frame is a key frame, so that a chunk's beginning costs no bits.
    pub is_intra: bool,
    /// A chunk's frames stay until it is done, for another attempt; otherwise they go as they are fed.
    pub keeps_fed: bool,
    /// Frames that a chunk owns; `None` leaves it to the plan.
    pub chunk_frames: Option<u64>,
    /// A chunk shorter than this joins the one before it.
    pub min_chunk_frames: u64,
    /// Frames fed before the own ones.
    pub before: Overlap,
    /// Frames fed after the own ones.
    pub after: Overlap,
    /// Frames that will come, where that is known.
    pub source_frames: Option<u64>,
    /// Size of one raw frame in bytes.
    pub frame_bytes: u64,
    /// Raw frames may not hold more bytes than this.
    pub max_raw_bytes: u64,
}

impl Request {
    /// Raw frames that the memory holds.
    fn room(&self) -> u64 {
        self.max_raw_bytes / self.frame_bytes.max(1)
    }

    /// The longest chunk that gains anything.
    fn longest(&self, min_frames: u64) -> u64 {
        min_frames.max(match self.is_intra {
            true => LONGEST_AUTOMATIC_INTRA_CHUNK,
            false => LONGEST_AUTOMATIC_CHUNK,
        })
    }

    /// Quarters of a chunk that are held where no session waits for memory. Frames that stay: all chunks that are encoded, and the
    /// beginning of the next one. Frames that go: sessions are in the midst of theirs on average.
    fn quarters(&self, sessions: u64) -> u64 {
        match self.keeps_fed {
            true => sessions.saturating_mul(4).saturating_add(1),
            false => self.wanted_quarters(sessions),
        }
    }

    /// As above, with room for the next chunk where the source is no faster than the sessions.
    fn wanted_quarters(&self, sessions: u64) -> u64 {
        match self.keeps_fed {
            true => sessions.saturating_mul(4).saturating_add(4),
            false => sessions.saturating_mul(2).saturating_add(2),
        }
    }

    /// Held beside a chunk's own frames: its lead, and its trail or the tail that may join it.
    fn around(before: u64, after: u64, min_frames: u64) -> u64 {
        before.saturating_add(after.max(min_frames))
    }

    /// Frames that the chunks themselves may have, if the overlap is as large as it may be.
    fn room_for_chunks(&self, min_frames: u64) -> u64 {
        let around = Self::around(self.before.most(), self.after.most(), min_frames);
        self.room().saturating_sub(around)
    }

    /// The longest chunk with which so many sessions can work.
    fn share(&self, sessions: u64, min_frames: u64) -> u64 {
        let quarters = self.room_for_chunks(min_frames).saturating_mul(4);
        quarters / self.quarters(sessions)
    }

    /// Sessions that can work with chunks of this length, at least 1.
    fn sessions_with(&self, length: u64, min_frames: u64) -> u64 {
        let quarters = self.room_for_chunks(min_frames).saturating_mul(4) / length.max(1);
        let sessions = match self.keeps_fed {
            true => quarters.saturating_sub(1) / 4,
            false => quarters.saturating_sub(2) / 2,
        };
        sessions.clamp(1, self.sessions.max(1))
    }

    /// One chunk with all around it fits into the memory.
    fn fit(&self, length: Length, min_frames: u64) -> Result<(), BudgetTooSmall> {
        let (before, after) = (self.before.of(length), self.after.of(length));
        let around = before.checked_add(after.max(min_frames));
        let needed = around.and_then(|around| around.checked_add(length.longest()));
        if needed.is_some_and(|needed| needed <= self.room()) {
            return Ok(());
        }
        let needed_frames = needed.unwrap_or(u64::MAX);
        Err(BudgetTooSmall {
            needed_frames,
            needed_bytes: needed_frames.saturating_mul(self.frame_bytes.max(1)),
            max_raw_bytes: self.max_raw_bytes,
        })
    }
}

/// How long each chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// All chunks have this many frames.
    Fixed(u64),
    /// Of a source of known length.
    Tapering(Taper),
    /// Of a source of unknown length: see [`FIRST_CHUNK`].
    Growing { sessions: u64, longest: u64 },
}

/// Rounds of one chunk for each session. Each takes two thirds of what is left, but no chunk is longer than `longest`; what is
/// left is spread evenly once chunks would be shorter than `shortest`. (Two thirds and 60 frames are what came out best in
/// simulated films of 400 to 150,000 frames and 2 to 64 sessions, of scenes of 30 to 200 frames whose difficulty is
/// log-normal with a deviation of 0.2 and 0.4, by the sum of the time over the ideal and of 20 frames' bits for each chunk. Equal
/// chunks, three rounds at least, were 1 to 7 % worse.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taper {
    pub total: u64,
    pub sessions: u64,
    pub longest: u64,
    pub shortest: u64,
    /// Chunks may not be shorter than this.
    pub min_frames: u64,
}

impl Taper {
    fn of(&self, index: u64) -> u64 {
        // Wide enough for any figures.
        let wide = |frames: u64| u128::from(frames);
        let (sessions, longest) = (wide(self.sessions.max(1)), wide(self.longest.max(1)));
        let (total, shortest) = (wide(self.total), wide(self.shortest));
        let mut round = wide(index) / sessions;
        // As long as two thirds of what is left are longer than that.
        let share = total / sessions;
        let full = match (share * 2).checked_sub(longest * 3) {
            Some(beyond) => beyond / (longest * 2) + 1,
            None => 0,
        };
        if round < full {
            return self.longest;
        }
        round -= full;
        let mut left = total - full * sessions * longest;
        loop {
            let share = left / sessions;
            let length = (share * 2 / 3).min(longest);
            // What doesn't fit into one round takes another one in any case.
            let least = match share > longest {
                true => wide(self.min_frames),
                false => shortest,
            };
            if length < least || share - length < least {
                break;
            }
            if round == 0 {
                return length as u64;
            }
            round -= 1;
            left -= length * sessions;
        }
        let rounds = left.div_ceil(sessions * longest);
        let most = left / wide(self.min_frames.max(1));
        let chunks = (rounds * sessions).min(most).max(1);
        let index = round * sessions + wide(index) % sessions;
        if index >= chunks {
            // More came than was announced, which the memory wasn't planned for.
            return self.of(0);
        }
        ((left / chunks) as u64 + u64::from(index < left % chunks)).max(1)
    }
}

impl Length {
    /// Frames that chunk number `index` should own.
    fn of(self, index: u64) -> u64 {
        match self {
            Length::Fixed(frames) => frames,
            Length::Tapering(taper) => taper.of(index),
            Length::Growing { sessions, longest } => {
                let mut length = FIRST_CHUNK;
                for _ in 0..index / sessions.max(1) {
                    if length >= longest {
                        break;
                    }
                    length += length / 4;
                }
                length.min(longest)
            }
        }
    }

    /// Frames of the longest chunk that is planned.
    pub fn longest(self) -> u64 {
        match self {
            Length::Growing { longest, .. } => longest,
            other => other.of(0),
        }
    }
}

/// What keeps a plan's chunks from being longer, or its sessions from being more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The length of a chunk was set.
    ChunkFrames,
    /// There are no more frames to share.
    SourceLength,
    /// Longer chunks would gain nothing.
    LongestChunk,
    /// The memory for raw frames.
    Memory,
}

impl Limit {
    /// As statistics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChunkFrames => "chunk-frames",
            Self::SourceLength => "source-length",
            Self::LongestChunk => "longest-chunk",
            Self::Memory => "max-raw-bytes",
        }
    }
}

/// The settled lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub length: Length,
    /// At least 1, never more than the chunk length.
    pub min_frames: u64,
    pub before: u64,
    pub after: u64,
    /// Frames of the source, where that is known.
    pub source_frames: Option<u64>,
    /// Sessions that work at the same time; fewer than were asked for where the memory is short.
    pub sessions: u64,
    /// Raw frames that the element may hold at once: one chunk for each session, one that is being
    /// taken in, and the overlap; fewer where the memory is short, and half of them where they go as they are fed.
    pub capacity_frames: u64,
    /// A chunk's frames stay until it is done; otherwise they go as they are fed, once the encoder has shown itself.
    pub keeps_fed: bool,
    pub limit: Limit,
    /// What was asked for didn't fit into the memory, so chunks are shorter.
    pub shrunk: Option<Shrunk>,
}

/// What was asked for, where the plan had to make less of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shrunk {
    /// `None`: the length was the plan's own to choose.
    pub chunk_frames: Option<u64>,
    pub min_chunk_frames: u64,
    /// What one chunk of that would need.
    pub needs: BudgetTooSmall,
}

/// One chunk with its overlap is larger than all the memory that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetTooSmall {
    /// Frames that must be held for one chunk: lead, own, and trail or undecided tail.
    pub needed_frames: u64,
    /// The same in bytes.
    pub needed_bytes: u64,
    pub max_raw_bytes: u64,
}

impl fmt::Display for BudgetTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "one chunk needs {} raw frames ({} bytes), but max-raw-bytes is {}",
            self.needed_frames, self.needed_bytes, self.max_raw_bytes
        )
    }
}

impl Plan {
    pub fn overlaps(&self) -> bool {
        self.before > 0 || self.after > 0
    }

    /// The longest that a frame waits until it may leave, in frames, with sessions that just keep up with the input.
    ///
    /// A chunk opens when `min_frames` of it have come, at a moment when the session that has the chunk `sessions` before it is
    /// at its end; so it ends `sessions` chunks later, and not before its own last frame and its trail have come.
    pub fn latency_frames(&self) -> u64 {
        let length = self.length.longest();
        let encoding = length.saturating_mul(self.sessions.max(1));
        encoding
            .max(length.saturating_add(self.after))
            .saturating_add(self.min_frames)
    }

    /// If one chunk doesn't fit into the memory, its length is given up first, then `min_frames`, and nothing else: an overlap that
    /// was set is what it was set to.
    pub fn make(request: &Request) -> Result<Self, BudgetTooSmall> {
        let min_frames = request
            .chunk_frames
            .map_or(request.min_chunk_frames, |own| {
                request.min_chunk_frames.min(own)
            })
            .max(1);
        let length = match request.chunk_frames {
            Some(own) => Length::Fixed(own.max(1)),
            None => {
                let most = request.longest(min_frames);
                let sessions = Self::sessions(request, min_frames);
                let share = request.share(sessions, min_frames);
                Self::automatic(request, sessions, share.clamp(min_frames, most), min_frames)
            }
        };
        let Err(needs) = request.fit(length, min_frames) else {
            return Ok(Self::of(request, length, min_frames));
        };
        let shrunk = |length: Length, min_frames: u64| {
            let shrunk = Shrunk {
                chunk_frames: request.chunk_frames,
                min_chunk_frames: request.min_chunk_frames,
                needs,
            };
            Self {
                shrunk: Some(shrunk),
                limit: Limit::Memory,
                ..Self::of(request, length, min_frames)
            }
        };
        // As long as leaves room for all sessions.
        let share = |min_frames| request.share(request.sessions.max(1), min_frames);
        let shorter = Length::Fixed(share(min_frames).max(min_frames));
        if request.fit(shorter, min_frames).is_ok() {
            return Ok(shrunk(shorter, min_frames));
        }
        // A tail takes as much room as a chunk.
        let around = request.before.most().saturating_add(request.after.most());
        let rest = request.room().saturating_sub(around);
        let shares = request.quarters(request.sessions.max(1)) / 4 + 2;
        let min_frames = (rest / shares).clamp(1, min_frames);
        let shortest = Length::Fixed(share(min_frames).max(min_frames));
        request.fit(shortest, min_frames)?;
        Ok(shrunk(shortest, min_frames))
    }

    fn of(request: &Request, length: Length, min_frames: u64) -> Self {
        let (before, after) = (request.before.of(length), request.after.of(length));
        let around = Request::around(before, after, min_frames);
        let longest = length.longest();
        let sessions = request.sessions_with(longest, min_frames);
        let wanted = request.wanted_quarters(sessions).saturating_mul(longest);
        let capacity_frames = (wanted.div_ceil(4))
            .saturating_add(around)
            .min(request.room());
        let automatic = request.longest(min_frames);
        let share = request.share(sessions, min_frames);
        let limit = match request.chunk_frames {
            _ if sessions < request.sessions => Limit::Memory,
            Some(_) => Limit::ChunkFrames,
            None if share <= longest && share < automatic => Limit::Memory,
            None if longest < automatic => Limit::SourceLength,
            None => Limit::LongestChunk,
        };
        Self {
            length,
            min_frames,
            before,
            after,
            source_frames: request.source_frames.filter(|&frames| frames > 0),
            sessions,
            capacity_frames,
            keeps_fed: request.keeps_fed,
            limit,
            shrunk: None,
        }
    }

    /// Sessions that work. Where the memory is short, fewer than there may be, so that chunks needn't be too short; two in any case.
    fn sessions(request: &Request, min_frames: u64) -> u64 {
        let shortest = match request.is_intra {
            true => min_frames,
            false => min_frames.max(SHORTEST_SHARED_CHUNK),
        };
        match request.sessions_are_automatic {
            true => request.sessions_with(shortest, min_frames).max(2),
            false => u64::MAX,
        }
        .min(request.sessions)
        .max(1)
    }

    /// Chunks such that all sessions end together; if one of them does it all, as long as may be.
    fn automatic(request: &Request, sessions: u64, longest: u64, min_frames: u64) -> Length {
        let shortest = match request.is_intra {
            true => SHORTEST_LAST_INTRA_CHUNK,
            false => SHORTEST_LAST_CHUNK,
        };
        // A lead costs as much time as that many frames' bits.
        let shortest = shortest.saturating_add(request.before.most().saturating_mul(3));
        match request.source_frames.filter(|&total| total > 0) {
            _ if sessions == 1 => Length::Fixed(longest),
            None if longest <= FIRST_CHUNK => Length::Fixed(longest),
            Some(total) => Length::Tapering(Taper {
                total,
                sessions,
                longest,
                shortest: shortest.max(min_frames),
                min_frames,
            }),
            None => Length::Growing { sessions, longest },
        }
    }
}

/// A chunk begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    pub id: ChunkId,
    /// Its first own frame.
    pub start: FrameNo,
    pub neighbours: Neighbours,
}

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

/// A chunk's own frames are all known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    pub id: ChunkId,
    pub own: FrameRange,
}

/// What a frame's arrival means for the chunks.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No chunk begins or ends: wake the session that waits for frames.
    Continues,
    /// The frame is the first of a section: offer the new chunk to the sessions.
    Opens(Opening),
    /// It is now sure that one chunk ended and the next one began: tell both.
    Splits { closed: Closing, opened: Opening },
}

/// What a session does next with its chunk.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Feed this frame; ask for a key frame first if `force_key`.
    Feed { frame: FrameNo, force_key: bool },
    /// The next frame is not there, or it isn't known yet whose it is.
    Wait,
    /// All was fed: send EOS. The chunk is final.
    Drain(Chunk),
}

/// A chunk that opened and isn't done.
#[derive(Debug)]
struct Live {
    id: ChunkId,
    /// First fed frame.
    lead_start: FrameNo,
    /// The first of its frames that it still needs.
    held_from: FrameNo,
    /// First own frame.
    start: FrameNo,
    /// `start` and the planned length: where the chunk ends unless a short tail joins it.
    target: FrameNo,
    /// `target` was moved by one frame, to where a picture begins.
    moved: bool,
    /// End of the own frames, once that is known.
    own_end: Option<FrameNo>,
    /// End of the section, once that is known: no trail goes beyond it.
    barrier: Option<FrameNo>,
    /// Frames that follow its own ones as its trail.
    after: u64,
    /// Its lead and trail are fed; otherwise they are only held.
    overlaps: bool,
}

impl Live {
    /// The first frame that is fed.
    fn feed_start(&self) -> FrameNo {
        if self.overlaps {
            self.lead_start
        } else {
            self.start
        }
    }

    /// End of the frames that may be fed now, and whether it is final.
    fn feed_end(&self, arrived: u64) -> (FrameNo, bool) {
        let arrived = FrameNo(arrived);
        let Some(own_end) = self.own_end else {
            return (arrived.min(self.target), false);
        };
        let after = if self.overlaps { self.after } else { 0 };
        let wanted = FrameNo(own_end.0.saturating_add(after));
        let wanted = self.barrier.map_or(wanted, |barrier| wanted.min(barrier));
        (arrived.min(wanted), arrived >= wanted)
    }

    /// Every frame that this chunk needs or may come to need.
    fn needs(&self) -> FrameRange {
        let end = match (self.own_end, self.barrier) {
            (None, _) => u64::MAX,
            (Some(end), None) => end.0.saturating_add(self.after),
            (Some(end), Some(barrier)) => end.0.saturating_add(self.after).min(barrier.0),
        };
        FrameRange::new(self.held_from.0, end)
    }
}

/// Follows the frames and says which chunk each of them belongs to.
#[derive(Debug)]
pub struct Planner {
    plan: Plan,
    /// Frames that have come.
    arrived: u64,
    /// First frame since the last cut: no overlap reaches across it.
    section_start: FrameNo,
    /// Chunks opened since the last cut: the index of the next planned length.
    section_chunks: u64,
    /// Opened and not done, oldest first. Only the last one can be open.
    live: VecDeque<Live>,
    next_id: ChunkId,
    /// Chunks go on to the next cut, see [`join`](Self::join).
    joined: bool,
}

impl Planner {
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            arrived: 0,
            section_start: FrameNo(0),
            section_chunks: 0,
            live: VecDeque::new(),
            next_id: ChunkId(0),
            joined: false,
        }
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The number that the next frame will get.
    pub fn next_frame(&self) -> FrameNo {
        FrameNo(self.arrived)
    }

    /// The next frame has come. `begins`: a chunk may begin with it, which it can't with the second field of a picture.
    pub fn frame(&mut self, begins: bool) -> Verdict {
        let number = self.arrived;
        self.arrived += 1;
        if let Some(open) = self.live.back_mut().filter(|live| live.own_end.is_none())
            && open.target.0 == number
            && !begins
            && !std::mem::replace(&mut open.moved, true)
        {
            open.target.0 += 1;
        }
        match self.live.back_mut().filter(|live| live.own_end.is_none()) {
            None => Verdict::Opens(self.open(FrameNo(self.arrived - 1))),
            Some(open) if self.arrived >= open.target.0.saturating_add(self.plan.min_frames) => {
                let own_end = open.target;
                open.own_end = Some(own_end);
                let closed = Closing {
                    id: open.id,
                    own: FrameRange::new(open.start.0, own_end.0),
                };
                let opened = self.open(own_end);
                Verdict::Splits { closed, opened }
            }
            Some(_) => Verdict::Continues,
        }
    }

    /// A key frame is wanted at the next frame. The open chunk ends before it if it is long enough, so that the key frame
    /// costs nothing; otherwise it has to be forced.
    pub fn split(&mut self) -> Option<Closing> {
        let arrived = self.arrived;
        let min_frames = self.plan.min_frames;
        let open = self.live.back_mut().filter(|live| live.own_end.is_none())?;
        if self.joined || arrived - open.start.0 < min_frames {
            return None;
        }
        open.own_end = Some(FrameNo(arrived));
        Some(Closing {
            id: open.id,
            own: FrameRange::new(open.start.0, arrived),
        })
    }

    /// The next frame begins a chunk in any case.
    pub fn opens_next(&self) -> bool {
        self.live.back().is_none_or(|live| live.own_end.is_some())
    }

    /// The chunk whose end isn't known, if frames of it have come.
    pub fn open_chunk(&self) -> Option<ChunkId> {
        let open = self.live.back().filter(|live| live.own_end.is_none());
        open.map(|live| live.id)
    }

    /// The chunk that isn't done and owns this frame.
    pub fn owner(&self, frame: FrameNo) -> Option<ChunkId> {
        let owns = |live: &&Live| live.start <= frame && live.own_end.is_none_or(|end| frame < end);
        self.live.iter().rev().find(owns).map(|live| live.id)
    }

    fn open(&mut self, start: FrameNo) -> Opening {
        let id = self.next_id;
        let length = self.plan.length.of(self.section_chunks);
        let lead_start = FrameNo(start.0.saturating_sub(self.plan.before)).max(self.section_start);
        let target = FrameNo(start.0.saturating_add(length));
        let neighbours = self.neighbours(lead_start, start, target, self.plan.after);
        self.live.push_back(Live {
            id,
            lead_start,
            held_from: lead_start,
            start,
            target,
            moved: false,
            own_end: None,
            barrier: None,
            after: self.plan.after,
            overlaps: self.plan.overlaps(),
        });
        self.next_id = id.next();
        self.section_chunks += 1;
        Opening {
            id,
            start,
            neighbours,
        }
    }

    fn neighbours(
        &self,
        feed_start: FrameNo,
        start: FrameNo,
        target: FrameNo,
        after: u64,
    ) -> Neighbours {
        let before = start > self.section_start;
        // What was said of the length holds until the first cut.
        let total = self
            .plan
            .source_frames
            .filter(|_| self.section_start.0 == 0);
        let Some(total) = total.filter(|&total| total > start.0) else {
            return Neighbours {
                before,
                after: true,
                fed: None,
            };
        };
        let is_last = target.0.saturating_add(self.plan.min_frames) > total;
        let own_end = if is_last { total } else { target.0 };
        let fed_end = own_end.saturating_add(after).min(total);
        Neighbours {
            before,
            after: !is_last,
            fed: Some(fed_end - feed_start.0),
        }
    }

    /// The stream ends, or what follows may not share a chunk or an overlap with what came before (new
    /// caps, a new segment). The open chunk, if there is one, ends here with its tail.
    pub fn cut(&mut self) -> Option<Closing> {
        let arrived = FrameNo(self.arrived);
        for live in &mut self.live {
            live.barrier.get_or_insert(arrived);
        }
        self.section_start = arrived;
        self.section_chunks = 0;
        let open = self.live.back_mut().filter(|live| live.own_end.is_none())?;
        open.own_end = Some(arrived);
        Some(Closing {
            id: open.id,
            own: FrameRange::new(open.start.0, arrived.0),
        })
    }

    /// Goes on with another plan: before the first frame, or after a [`cut`](Self::cut). `false` if a chunk was begun by the old plan,
    /// which stays.
    pub fn replan(&mut self, plan: Plan) -> bool {
        if self.open_chunk().is_some() {
            return false;
        }
        self.plan = plan;
        if self.joined {
            self.plan.length = Length::Fixed(u64::MAX);
            (self.plan.before, self.plan.after) = (0, 0);
        }
        true
    }

    fn live(&self, chunk: ChunkId) -> Option<&Live> {
        self.live.iter().find(|live| live.id == chunk)
    }

    /// The chunk's own frames, as far as they are known.
    pub fn own(&self, chunk: ChunkId) -> Option<FrameRange> {
        let live = self.live(chunk)?;
        let end = live
            .own_end
            .unwrap_or(FrameNo(self.arrived).min(live.target));
        Some(FrameRange::new(live.start.0, end.0))
    }

    /// The first frame that a new attempt at the chunk is fed.
    pub fn first_fed(&self, chunk: ChunkId) -> Option<FrameNo> {
        self.live(chunk).map(Live::feed_start)
    }

    /// An attempt at the chunk showed that forced key frames don't part it from its overlap on this side. It loses that, and
    /// with one of the first two chunks, on which the encoder shows itself, all later ones do. Begin these live chunks anew,
    /// with these neighbours. `None`: the chunk had no overlap there, so it can't be that.
    pub fn drop_overlap(
        &mut self,
        chunk: ChunkId,
        side: Side,
    ) -> Option<Vec<(ChunkId, Neighbours)>> {
        let has_side = |live: &&Live| match side {
            Side::Lead => live.lead_start < live.start,
            Side::Trail => live.after > 0,
        };
        self.live(chunk)
            .filter(|live| live.overlaps)
            .filter(has_side)?;
        let is_trial = TRIALS.contains(&chunk);
        if is_trial {
            (self.plan.before, self.plan.after) = (0, 0);
        }
        let mut losing = Vec::new();
        for live in &mut self.live {
            if live.overlaps && (live.id == chunk || is_trial && live.id > chunk) {
                live.overlaps = false;
                losing.push((live.id, live.start, live.target));
            }
        }
        let losing = losing.into_iter();
        Some(
            losing
                .map(|(id, start, target)| (id, self.neighbours(start, start, target, 0)))
                .collect(),
        )
    }

    pub fn is_joined(&self) -> bool {
        self.joined
    }

    /// Some of the chunk's frames are gone, so it can't be begun anew.
    pub fn has_let_go(&self, chunk: ChunkId) -> bool {
        self.live(chunk)
            .is_some_and(|live| live.held_from > live.lead_start)
    }

    /// No chunk was delivered, there was no cut between chunks, and all frames are there.
    pub fn can_join(&self) -> bool {
        let first = self
            .live
            .front()
            .filter(|_| self.live.len() as u64 == self.next_id.0);
        first.is_some_and(|first| {
            let fits =
                |live: &Live| live.barrier == first.barrier && live.held_from == live.lead_start;
            self.live.iter().all(fits)
        })
    }

    /// The encoder can't be cut: all frames that came become one chunk, which goes on to the next cut, and so does each after
    /// it. `None`: it is too late, a chunk was delivered or there was a cut.
    pub fn join(&mut self) -> Option<Closing> {
        if !self.can_join() {
            return None;
        }
        self.live.truncate(1);
        let only = self.live.front_mut()?;
        let barrier = only.barrier;
        only.own_end = barrier;
        only.target = FrameNo(u64::MAX);
        only.overlaps = false;
        self.next_id = only.id.next();
        self.plan.length = Length::Fixed(u64::MAX);
        (self.plan.before, self.plan.after) = (0, 0);
        self.joined = true;
        Some(Closing {
            id: only.id,
            own: FrameRange::new(only.start.0, barrier.map_or(u64::MAX, |end| end.0)),
        })
    }

    /// Frames go as they are fed, as there is no other attempt.
    pub fn lets_go(&self) -> bool {
        self.joined || !self.plan.keeps_fed
    }

    /// The chunk's frames up to, not including, `position` were fed. Where there is no other attempt, and the encoder can't show any
    /// more that it takes another one, let the frames go that are returned.
    #[must_use]
    pub fn fed(&mut self, chunk: ChunkId, position: FrameNo) -> Vec<FrameRange> {
        if !self.lets_go() {
            return Vec::new();
        }
        let may_begin_anew = |live: &Live| {
            let is_open = |trial: &ChunkId| *trial <= live.id && self.live(*trial).is_some();
            live.overlaps && TRIALS.iter().any(is_open)
        };
        let (before, arrived) = (self.plan.before, self.arrived);
        let may_go = self.live(chunk).is_some_and(|live| !may_begin_anew(live));
        let live = self.live.iter_mut().find(|live| live.id == chunk);
        let Some(live) = live.filter(|_| may_go) else {
            return Vec::new();
        };
        // The lead of the chunk that comes next may begin among them.
        let until = match live.own_end {
            Some(_) => position,
            None => {
                let next = live.target.0.min(arrived);
                position.min(FrameNo(next.saturating_sub(before)))
            }
        };
        let from = live.held_from;
        live.held_from = until.max(from);
        let gone = FrameRange::new(from.0, live.held_from.0);
        self.unneeded(gone)
    }

    /// The chunk begins with this frame: those before it have left, and can't be made again. Let the frames go that are returned.
    #[must_use]
    pub fn begin_at(&mut self, chunk: ChunkId, start: FrameNo) -> Vec<FrameRange> {
        let Some(live) = self.live.iter_mut().find(|live| live.id == chunk) else {
            return Vec::new();
        };
        let gone = FrameRange::new(live.held_from.0, start.0);
        live.start = start;
        live.lead_start = start;
        live.held_from = start;
        self.unneeded(gone)
    }

    /// What the encoder shows on an older chunk may still take the overlap from this one: nothing of it may leave, and its
    /// frames have to stay.
    pub fn is_on_trial(&self, chunk: ChunkId) -> bool {
        let overlaps = self.live(chunk).is_some_and(|live| live.overlaps);
        let open = |trial: &ChunkId| *trial < chunk && self.live(*trial).is_some();
        overlaps && TRIALS.iter().any(open)
    }

    /// The chunk, once all of it is known and there.
    pub fn whole(&self, chunk: ChunkId) -> Option<Chunk> {
        let live = self.live(chunk)?;
        let own_end = live.own_end?;
        let (end, is_final) = live.feed_end(self.arrived);
        is_final.then(|| Chunk {
            id: chunk,
            own: FrameRange::new(live.start.0, own_end.0),
            fed: FrameRange::new(live.feed_start().0, end.0),
        })
    }

    /// The chunk, of which the frames up to, not including, `position` were fed, and no more are needed.
    pub fn cut_short(&self, chunk: ChunkId, position: FrameNo) -> Option<Chunk> {
        let live = self.live(chunk)?;
        let own_end = live.own_end?;
        Some(Chunk {
            id: chunk,
            own: FrameRange::new(live.start.0, own_end.0),
            fed: FrameRange::new(live.feed_start().0, position.0),
        })
    }

    /// What the session does that has fed the chunk's frames up to, not including, `position`.
    pub fn next(&self, chunk: ChunkId, position: FrameNo) -> Option<Next> {
        let live = self.live(chunk)?;
        let (end, _) = live.feed_end(self.arrived);
        if position < end {
            // A fresh encoder begins with a key frame: only where something was fed before the first
            // own frame does it have to be asked for.
            let after_lead = position == live.start && live.feed_start() < live.start;
            let at_trail = live.own_end == Some(position);
            return Some(Next::Feed {
                frame: position,
                force_key: after_lead || at_trail,
            });
        }
        Some(self.whole(chunk).map_or(Next::Wait, Next::Drain))
    }

    /// The oldest chunk that isn't done lacks frames (or there is none): making the next frame wait would
    /// be waiting for ourselves.
    pub fn is_starving(&self) -> bool {
        // A joined chunk's frames go as they are fed.
        !self.joined
            && self
                .live
                .front()
                .is_none_or(|oldest| !oldest.feed_end(self.arrived).1)
    }

    /// Something waits for frames that haven't come, beyond the open chunk's own: frames that may be a tail, or a chunk
    /// that lacks its trail.
    pub fn withholds(&self) -> bool {
        self.live.iter().any(|live| match live.own_end {
            None => self.arrived > live.target.0,
            Some(_) => !live.feed_end(self.arrived).1,
        })
    }

    /// Somebody waits for what [`withholds`](Self::withholds) says: chunks that lack their trail have no more of it, and frames that
    /// may be a tail go to the open chunk, which ends with them. It doesn't end otherwise.
    pub fn give_out(&mut self) -> Option<Closing> {
        let arrived = FrameNo(self.arrived);
        let open = self.live.back().filter(|live| live.own_end.is_none());
        if open.is_some_and(|open| arrived > open.target) {
            return self.cut();
        }
        for live in self.live.iter_mut().filter(|it| it.own_end.is_some()) {
            live.barrier.get_or_insert(arrived);
        }
        None
    }

    /// The chunk was delivered. Let the frames go that are returned: no other chunk needs them.
    #[must_use]
    pub fn done(&mut self, chunk: ChunkId) -> Vec<FrameRange> {
        let Some(index) = self.live.iter().position(|live| live.id == chunk) else {
            return Vec::new();
        };
        let Some(done) = self.live.remove(index) else {
            return Vec::new();
        };
        let fed = done.needs();
        self.unneeded(FrameRange::new(fed.start.0, fed.end.0.min(self.arrived)))
    }

    /// The frames of the range that no live chunk needs.
    fn unneeded(&self, range: FrameRange) -> Vec<FrameRange> {
        let mut free = vec![range];
        for needs in self.live.iter().map(|live| live.needs()) {
            free = free
                .into_iter()
                .flat_map(|range| {
                    [
                        FrameRange::new(range.start.0, range.end.0.min(needs.start.0)),
                        FrameRange::new(range.start.0.max(needs.end.0), range.end.0),
                    ]
                })
                .filter(|range| !range.is_empty())
                .collect();
        }
        free
    }

    /// The oldest chunk that isn't done.
    pub fn oldest(&self) -> Option<ChunkId> {
        self.live.front().map(|live| live.id)
    }

    /// The first frame of a live chunk: nothing that a session delivers from now on lies before it. (A joined chunk has no end, and
    /// its packets are told by themselves from those that left.)
    pub fn oldest_needed(&self) -> FrameNo {
        self.live
            .iter()
            .map(|live| match self.joined {
                true => live.held_from,
                false => live.lead_start,
            })
            .min()
            .unwrap_or(FrameNo(self.arrived))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn request() -> Request {
        Request {
            sessions: 2,
            sessions_are_automatic: false,
            is_intra: false,
            keeps_fed: true,
            chunk_frames: None,
            min_chunk_frames: 12,
            before: Overlap::Exactly(0),
            after: Overlap::Exactly(0),
            source_frames: None,
            frame_bytes: 1_000,
            max_raw_bytes: 1_000_000_000,
        }
    }

    fn fixed(own: u64, min: u64, before: u64, after: u64) -> Plan {
        Plan::make(&Request {
            chunk_frames: Some(own),
            min_chunk_frames: min,
            before: Overlap::Exactly(before),
            after: Overlap::Exactly(after),
            ..request()
        })
        .unwrap()
    }

    /// Feeds `frames` frames and ends; returns the final chunks.
    fn chunks_of(plan: Plan, frames: u64) -> Vec<Chunk> {
        let mut planner = Planner::new(plan);
        for _ in 0..frames {
            let _ = planner.frame(true);
        }
        planner.cut();
        drained(&planner)
    }

    fn drained(planner: &Planner) -> Vec<Chunk> {
        planner
            .live
            .iter()
            .map(|live| {
                let mut position = live.lead_start;
                loop {
                    match planner.next(live.id, position).unwrap() {
                        Next::Feed { frame, .. } => position = FrameNo(frame.0 + 1),
                        Next::Drain(chunk) => break chunk,
                        Next::Wait => panic!("chunk {} never ends", live.id),
                    }
                }
            })
            .collect()
    }

    fn own_lengths(plan: Plan, frames: u64) -> Vec<u64> {
        chunks_of(plan, frames)
            .iter()
            .map(|chunk| chunk.own.len())
            .collect()
    }

    #[test]
    fn a_known_length_is_cut_into_rounds_that_taper() {
        let plan = |source_frames, sessions| {
            Plan::make(&Request {
                source_frames: Some(source_frames),
                sessions,
                ..request()
            })
            .unwrap()
        };
        assert_eq!(own_lengths(plan(720, 2), 720), [240, 240, 120, 120]);
        assert_eq!(own_lengths(plan(720, 3), 720), [160, 160, 160, 80, 80, 80]);
        assert_eq!(own_lengths(plan(718, 2), 718), [239, 239, 120, 120]);
        assert_eq!(
            own_lengths(plan(2_000, 2), 2_000),
            [250, 250, 250, 250, 250, 250, 166, 166, 84, 84]
        );
        // What can't be spread evenly goes to the first ones; what is as long as two rounds, but no longer, is not parted unevenly.
        assert_eq!(own_lengths(plan(101, 2), 101), [51, 50]);
        assert_eq!(own_lengths(plan(230, 2), 230), [115, 115]);
        assert_eq!(own_lengths(plan(520, 2), 520), [173, 173, 87, 87]);
        // A lead makes short chunks dear.
        let leads = |source_frames| {
            Plan::make(&Request {
                source_frames: Some(source_frames),
                before: Overlap::Exactly(24),
                ..request()
            })
            .unwrap()
        };
        assert_eq!(own_lengths(leads(400), 400), [200, 200]);
        assert_eq!(own_lengths(leads(720), 720), [240, 240, 120, 120]);
        // Nobody else could end later.
        assert_eq!(own_lengths(plan(720, 1), 720), [250, 250, 220]);
        // Too short for all sessions: fewer chunks, none shorter than the minimum.
        assert_eq!(own_lengths(plan(30, 8), 30), [15, 15]);
        assert_eq!(own_lengths(plan(5, 8), 5), [5]);
    }

    #[test]
    fn a_source_that_announced_a_wrong_length_is_still_cut() {
        let plan = Plan::make(&Request {
            source_frames: Some(100),
            ..request()
        })
        .unwrap();
        assert_eq!(own_lengths(plan, 130), [50, 50, 30]);
        assert_eq!(own_lengths(plan, 600), [50; 12]);
        assert_eq!(own_lengths(plan, 105), [50, 55]);
        assert_eq!(own_lengths(plan, 70), [50, 20]);
    }

    #[test]
    fn an_unknown_length_gives_chunks_as_long_as_memory_allows() {
        let growing = Plan::make(&request()).unwrap();
        assert_eq!(growing.length.longest(), 250);
        assert_eq!(
            own_lengths(growing, 2_000),
            [100, 100, 125, 125, 156, 156, 195, 195, 243, 243, 250, 112]
        );
        assert_eq!(growing.limit, Limit::LongestChunk);
        let short = Plan::make(&Request {
            max_raw_bytes: 192_000,
            ..request()
        })
        .unwrap();
        // 192 frames: 12 that may be a tail, 80 for each of two sessions, and 20 of the next chunk.
        assert_eq!(short.length, Length::Fixed(80));
        assert_eq!(short.capacity_frames, 192);
        assert_eq!(short.limit, Limit::Memory);
    }

    #[test]
    fn frames_that_go_as_they_are_fed_take_half_of_the_memory() {
        let plan = |keeps_fed, max_raw_bytes| {
            Plan::make(&Request {
                keeps_fed,
                max_raw_bytes,
                sessions: 7,
                ..request()
            })
            .unwrap()
        };
        let ample = 1_000_000_000;
        assert_eq!(plan(true, ample).capacity_frames, 8 * 250 + 12);
        assert_eq!(plan(false, ample).capacity_frames, 8 * 250 / 2 + 12);
        // And where it is short, chunks are nearly twice as long.
        assert_eq!(plan(true, 592_000).length, Length::Fixed(80));
        assert_eq!(plan(false, 592_000).length.longest(), 145);
    }

    #[test]
    fn fewer_sessions_work_before_chunks_get_too_short() {
        let plan = |max_raw_bytes, sessions_are_automatic, is_intra| {
            let plan = Plan::make(&Request {
                max_raw_bytes,
                sessions: 16,
                sessions_are_automatic,
                is_intra,
                ..request()
            });
            let plan = plan.unwrap();
            assert_eq!(plan.limit, Limit::Memory);
            (plan.sessions, plan.length.longest())
        };
        // 312 frames, 12 of which may be a tail.
        assert_eq!(plan(312_000, true, false), (12, 24));
        assert_eq!(plan(312_000, true, true), (16, 18));
        assert_eq!(plan(312_000, false, false), (16, 18));
        assert_eq!(plan(112_000, true, false), (3, 30));
        // Two in any case.
        assert_eq!(plan(52_000, true, false), (2, 17));
    }

    #[test]
    fn a_length_that_was_set_may_leave_sessions_without_memory() {
        let plan = |max_raw_bytes| {
            let plan = Plan::make(&Request {
                chunk_frames: Some(100),
                max_raw_bytes,
                sessions: 4,
                ..request()
            });
            let plan = plan.unwrap();
            (plan.sessions, plan.limit)
        };
        assert_eq!(plan(1_000_000), (4, Limit::ChunkFrames));
        assert_eq!(plan(437_000), (4, Limit::ChunkFrames));
        assert_eq!(plan(436_000), (3, Limit::Memory));
        assert_eq!(plan(112_000), (1, Limit::Memory));
    }

    #[test]
    fn the_plan_shrinks_before_it_gives_up() {
        let plan = |max_raw_bytes| {
            Plan::make(&Request {
                max_raw_bytes,
                ..request()
            })
        };
        let lengths = |max_raw_bytes| {
            let plan = plan(max_raw_bytes).unwrap();
            (plan.length, plan.min_frames, plan.shrunk.is_some())
        };
        assert_eq!(lengths(24_000), (Length::Fixed(12), 12, false));
        // The minimum, so that two sessions work, one chunk comes in, and a tail is undecided.
        assert_eq!(lengths(23_999), (Length::Fixed(8), 5, true));
        assert_eq!(lengths(8_000), (Length::Fixed(2), 2, true));
        assert_eq!(lengths(2_000), (Length::Fixed(1), 1, true));
        let error = plan(1_999).unwrap_err();
        assert_eq!(error.needed_frames, 2);
        assert_eq!(error.needed_bytes, 2_000);
        assert!(error.to_string().contains("max-raw-bytes is 1999"));
    }

    #[test]
    fn a_fixed_length_is_kept_where_it_fits() {
        assert_eq!(own_lengths(fixed(240, 12, 0, 0), 720), [240; 3]);
        let plan = |chunk_frames, max_raw_bytes| {
            let plan = Plan::make(&Request {
                chunk_frames: Some(chunk_frames),
                max_raw_bytes,
                ..request()
            });
            plan.unwrap()
        };
        assert_eq!(plan(100, 112_000).length, Length::Fixed(100));
        assert_eq!(plan(100, 112_000).shrunk, None);
        // A frame less, and all sessions get their share.
        let shrunk = plan(100, 111_999);
        assert_eq!((shrunk.length, shrunk.min_frames), (Length::Fixed(44), 12));
        assert_eq!(shrunk.capacity_frames, 111);
        let asked = shrunk.shrunk.unwrap();
        assert_eq!(
            (asked.chunk_frames, asked.min_chunk_frames),
            (Some(100), 12)
        );
        assert_eq!(asked.needs.needed_frames, 112);
        // No limit on what was asked for but the memory.
        assert_eq!(
            plan(u64::MAX, 3_000_012_000).length,
            Length::Fixed(1_333_333)
        );
    }

    #[test]
    fn an_overlap_that_was_set_does_not_shrink() {
        let plan = |before, after, max_raw_bytes| {
            Plan::make(&Request {
                chunk_frames: Some(100),
                before,
                after,
                max_raw_bytes,
                ..request()
            })
        };
        let (set, automatic) = (Overlap::Exactly(20), Overlap::UpTo(20));
        let of = |plan: Plan| (plan.length, plan.before, plan.after, plan.min_frames);
        let shrunk = plan(set, set, 100_000).unwrap();
        assert_eq!(of(shrunk), (Length::Fixed(26), 20, 20, 12));
        let shrunk = plan(automatic, automatic, 100_000).unwrap();
        assert_eq!(of(shrunk), (Length::Fixed(26), 6, 6, 12));
        assert_eq!(plan(set, set, 41_000).unwrap().length, Length::Fixed(1));
        assert_eq!(plan(set, set, 40_999).unwrap_err().needed_frames, 41);
    }

    #[test]
    fn a_short_tail_joins_the_chunk_before_it() {
        assert_eq!(own_lengths(fixed(20, 5, 0, 0), 40), [20, 20]);
        assert_eq!(own_lengths(fixed(20, 5, 0, 0), 41), [20, 21]);
        assert_eq!(own_lengths(fixed(20, 5, 0, 0), 44), [20, 24]);
        assert_eq!(own_lengths(fixed(20, 5, 0, 0), 45), [20, 20, 5]);
        assert_eq!(own_lengths(fixed(20, 1, 0, 0), 41), [20, 20, 1]);
        assert_eq!(own_lengths(fixed(20, 5, 0, 0), 1), [1]);
        assert!(own_lengths(fixed(20, 5, 0, 0), 0).is_empty());
    }

    #[test]
    fn lead_and_trail_surround_the_own_frames() {
        let chunks = chunks_of(fixed(20, 5, 3, 4), 60);
        let fed: Vec<_> = chunks.iter().map(|chunk| chunk.fed).collect();
        assert_eq!(
            fed,
            [
                FrameRange::new(0, 24),
                FrameRange::new(17, 44),
                FrameRange::new(37, 60)
            ]
        );
        // An overlap may be longer than a chunk.
        let long = chunks_of(fixed(4, 1, 10, 10), 16);
        assert_eq!(long[2].own, FrameRange::new(8, 12));
        assert_eq!(long[2].fed, FrameRange::new(0, 16));
    }

    #[test]
    fn keys_are_forced_where_own_frames_begin_and_end() {
        let mut planner = Planner::new(fixed(4, 1, 2, 2));
        for _ in 0..12 {
            let _ = planner.frame(true);
        }
        planner.cut();
        let forced = |chunk, from: u64, to: u64| -> Vec<u64> {
            (from..to)
                .filter(|&at| {
                    matches!(
                        planner.next(ChunkId(chunk), FrameNo(at)),
                        Some(Next::Feed {
                            force_key: true,
                            ..
                        })
                    )
                })
                .collect()
        };
        assert_eq!(
            forced(0, 0, 6),
            [4],
            "a fresh encoder needs no force at its start"
        );
        assert_eq!(forced(1, 2, 10), [4, 8]);
        assert_eq!(
            forced(2, 6, 12),
            [8],
            "nothing is fed after the last own frame"
        );
    }

    #[test]
    fn a_chunk_waits_until_it_is_known_where_it_ends() {
        let mut planner = Planner::new(fixed(4, 3, 0, 0));
        for _ in 0..6 {
            let _ = planner.frame(true);
        }
        assert_eq!(planner.next(ChunkId(0), FrameNo(4)), Some(Next::Wait));
        assert!(planner.is_starving());
        assert!(matches!(planner.frame(true), Verdict::Splits { .. }));
        assert!(matches!(
            planner.next(ChunkId(0), FrameNo(4)),
            Some(Next::Drain(_))
        ));
        assert!(!planner.is_starving());
    }

    #[test]
    fn a_length_that_is_known_before_the_first_frame_gives_equal_chunks() {
        let known = Plan::make(&Request {
            source_frames: Some(100),
            ..request()
        })
        .unwrap();
        let after = |frames: u64| {
            let mut planner = Planner::new(Plan::make(&request()).unwrap());
            for _ in 0..frames {
                let _ = planner.frame(true);
            }
            let accepted = planner.replan(known);
            for _ in frames..100 {
                let _ = planner.frame(true);
            }
            planner.cut();
            let lengths: Vec<u64> = drained(&planner)
                .iter()
                .map(|chunk| chunk.own.len())
                .collect();
            (accepted, lengths)
        };
        assert_eq!(after(0), (true, vec![50, 50]));
        assert_eq!(after(1), (false, vec![100]));
    }

    #[test]
    fn a_cut_frees_what_is_withheld() {
        let mut planner = Planner::new(fixed(4, 3, 0, 2));
        for frames in 1..=6 {
            let _ = planner.frame(true);
            assert_eq!(planner.withholds(), frames > 4, "{frames}");
        }
        assert!(planner.cut().is_some());
        assert!(!planner.withholds());
        assert_eq!(drained(&planner)[0].own, FrameRange::new(0, 6));
    }

    #[test]
    fn what_is_withheld_is_given_out_and_no_chunk_gets_shorter_than_the_least() {
        for (before, after) in [(0, 0), (2, 8), (5, 3)] {
            let mut planner = Planner::new(fixed(10, 4, before, after));
            let mut closed = Vec::new();
            for number in 0..200 {
                match planner.frame(true) {
                    Verdict::Splits { closed: ends, .. } => closed.push(ends),
                    Verdict::Opens(_) | Verdict::Continues => (),
                }
                if number % 7 == 6 {
                    let withheld = planner.withholds();
                    let open = planner.open_chunk();
                    let ends = planner.give_out();
                    assert!(!planner.withholds());
                    assert!(withheld || ends.is_none());
                    assert_eq!(ends.map(|ends| ends.id), open.filter(|_| ends.is_some()));
                    closed.extend(ends);
                }
            }
            closed.extend(planner.cut());
            let (last, others) = closed.split_last().unwrap();
            assert_eq!(last.own.end, FrameNo(200));
            assert!(others.iter().all(|ends| ends.own.len() >= 10), "{others:?}");
            let starts = closed.iter().skip(1).map(|ends| ends.own.start);
            assert!(
                closed
                    .iter()
                    .map(|ends| ends.own.end)
                    .zip(starts)
                    .all(|(a, b)| a == b)
            );
            for chunk in drained(&planner) {
                assert!(chunk.fed.end.0 <= chunk.own.end.0 + after);
            }
        }
    }

    #[test]
    fn no_overlap_reaches_across_a_cut() {
        let mut planner = Planner::new(fixed(10, 1, 5, 5));
        for _ in 0..12 {
            let _ = planner.frame(true);
        }
        let closed = planner.cut().unwrap();
        assert_eq!(closed.own, FrameRange::new(10, 12));
        assert!(planner.cut().is_none(), "a second cut in one place is none");
        for _ in 0..12 {
            let _ = planner.frame(true);
        }
        planner.cut();
        let fed: Vec<_> = drained(&planner).iter().map(|chunk| chunk.fed).collect();
        assert_eq!(
            fed,
            [
                FrameRange::new(0, 12),
                FrameRange::new(5, 12),
                FrameRange::new(12, 24),
                FrameRange::new(17, 24)
            ]
        );
    }

    #[test]
    fn an_automatic_overlap_is_at_most_a_quarter_of_the_chunk() {
        let overlaps = |chunk_frames| {
            let plan = Plan::make(&Request {
                chunk_frames: Some(chunk_frames),
                before: Overlap::UpTo(24),
                after: Overlap::UpTo(10),
                ..request()
            });
            let plan = plan.unwrap();
            (plan.before, plan.after)
        };
        assert_eq!(overlaps(200), (24, 10));
        assert_eq!(overlaps(60), (15, 10));
        assert_eq!(overlaps(3), (0, 0));
    }

    /// A planner with four chunks of 10 frames, of which the last one is open.
    fn four_chunks(before: u64, after: u64) -> Planner {
        let mut planner = Planner::new(fixed(10, 2, before, after));
        for _ in 0..38 {
            let _ = planner.frame(true);
        }
        planner
    }

    #[test]
    fn later_chunks_wait_for_those_on_which_the_encoder_shows_itself() {
        let mut planner = four_chunks(3, 3);
        let on_trial =
            |planner: &Planner| [0, 1, 2, 3].map(|chunk| planner.is_on_trial(ChunkId(chunk)));
        assert_eq!(on_trial(&planner), [false, true, true, true]);
        let _ = planner.done(ChunkId(0));
        assert_eq!(on_trial(&planner), [false, false, true, true]);
        let _ = planner.done(ChunkId(1));
        assert_eq!(on_trial(&planner), [false, false, false, false]);
        assert_eq!(
            on_trial(&four_chunks(0, 0)),
            [false; 4],
            "no overlap, no trial"
        );
    }

    #[test]
    fn the_overlap_is_dropped_from_the_chunk_that_showed_it_on() {
        let fed_from = |planner: &Planner| {
            [0, 1, 2, 3].map(|chunk| planner.first_fed(ChunkId(chunk)).unwrap().0)
        };
        let mut planner = four_chunks(3, 3);
        assert_eq!(fed_from(&planner), [0, 7, 17, 27]);
        assert_eq!(
            planner.drop_overlap(ChunkId(0), Side::Lead),
            None,
            "it has none"
        );
        let losing = planner.drop_overlap(ChunkId(1), Side::Lead).unwrap();
        let losing: Vec<_> = losing.into_iter().map(|(chunk, _)| chunk.0).collect();
        assert_eq!(losing, [1, 2, 3]);
        assert_eq!(fed_from(&planner), [0, 10, 20, 30]);
        assert_eq!(
            planner.drop_overlap(ChunkId(1), Side::Lead),
            None,
            "that can't be it again"
        );
        // The first chunk keeps its trail, the second has none any more.
        let drain = |planner: &Planner, chunk, at| match planner.next(ChunkId(chunk), FrameNo(at)) {
            Some(Next::Drain(chunk)) => chunk.fed,
            next => panic!("{next:?}"),
        };
        assert_eq!(drain(&planner, 0, 13), FrameRange::new(0, 13));
        assert_eq!(drain(&planner, 1, 20), FrameRange::new(10, 20));
        // Nor has one that opens now.
        for _ in 38..42 {
            let _ = planner.frame(true);
        }
        assert_eq!(planner.first_fed(ChunkId(4)), Some(FrameNo(40)));
        assert!(!planner.plan().overlaps());
        // All frames are let go in the end.
        let mut free = 0;
        let _ = planner.cut();
        for chunk in 0..5 {
            free += planner
                .done(ChunkId(chunk))
                .iter()
                .map(|range| range.len())
                .sum::<u64>();
        }
        assert_eq!(free, 42);
    }

    #[test]
    fn what_cannot_be_cut_is_joined_to_one_chunk_until_the_next_cut() {
        let mut planner = four_chunks(3, 3);
        let joined = planner.join().unwrap();
        assert_eq!((joined.id, joined.own.start), (ChunkId(0), FrameNo(0)));
        assert_eq!(planner.first_fed(ChunkId(1)), None);
        for _ in 38..60 {
            assert_eq!(planner.frame(true), Verdict::Continues);
        }
        assert!(!planner.is_starving(), "its frames go as they are fed");
        assert!(!planner.has_let_go(ChunkId(0)));
        let fed = planner.fed(ChunkId(0), FrameNo(38));
        assert_eq!(fed, [FrameRange::new(0, 38)]);
        assert!(planner.has_let_go(ChunkId(0)));
        let again = planner.fed(ChunkId(0), FrameNo(38));
        assert_eq!(again.iter().map(FrameRange::len).sum::<u64>(), 0);
        assert_eq!(planner.oldest_needed(), FrameNo(38));
        assert_eq!(
            planner.cut().map(|closed| closed.own),
            Some(FrameRange::new(0, 60))
        );
        let Some(Next::Drain(chunk)) = planner.next(ChunkId(0), FrameNo(60)) else {
            panic!("all was fed");
        };
        assert_eq!(chunk.own, FrameRange::new(0, 60));
        assert_eq!(planner.done(ChunkId(0)), [FrameRange::new(38, 60)]);
        assert!(matches!(planner.frame(true), Verdict::Opens(_)));
        for _ in 61..200 {
            assert_eq!(planner.frame(true), Verdict::Continues);
        }
    }

    #[test]
    fn what_was_delivered_is_not_joined() {
        for delivered in [0, 1] {
            let mut planner = four_chunks(0, 0);
            let _ = planner.done(ChunkId(delivered));
            assert_eq!(planner.join(), None, "chunk {delivered}");
        }
        let mut planner = four_chunks(0, 0);
        let _ = planner.cut();
        let _ = planner.frame(true);
        assert_eq!(planner.join(), None, "two sections");
    }

    #[test]
    fn a_later_chunk_loses_its_overlap_alone() {
        let mut planner = four_chunks(3, 3);
        let losing = planner.drop_overlap(ChunkId(2), Side::Trail).unwrap();
        assert_eq!((losing.len(), losing[0].0), (1, ChunkId(2)));
        assert_eq!(planner.first_fed(ChunkId(2)), Some(FrameNo(20)));
        assert_eq!(planner.first_fed(ChunkId(3)), Some(FrameNo(27)));
        assert!(planner.plan().overlaps());
    }

    /// Any number, those near both ends of the range above all.
    fn any_number() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..500, Just(u64::MAX), (u64::MAX - 500).., any::<u64>()]
    }

    fn any_overlap() -> impl Strategy<Value = Overlap> {
        let automatic = any_number().prop_map(Overlap::UpTo);
        prop_oneof![any_number().prop_map(Overlap::Exactly), automatic]
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_fits_or_is_refused(
            sessions in any_number(),
            chunk_frames in prop::option::of(any_number()),
            min_chunk_frames in any_number(),
            before in any_overlap(),
            after in any_overlap(),
            source_frames in prop::option::of(any_number()),
            frame_bytes in any_number(),
            max_raw_bytes in any_number(),
            (sessions_are_automatic, is_intra, keeps_fed) in any::<(bool, bool, bool)>(),
        ) {
            let request = Request {
                sessions, sessions_are_automatic, is_intra, keeps_fed, chunk_frames, min_chunk_frames, before, after,
                source_frames, frame_bytes, max_raw_bytes,
            };
            let room = max_raw_bytes / frame_bytes.max(1);
            match Plan::make(&request) {
                Err(error) => prop_assert!(error.needed_frames > room || error.needed_frames == u64::MAX),
                Ok(plan) => {
                    let own = plan.length.longest();
                    let needed = u128::from(own) + u128::from(plan.before) + u128::from(plan.after.max(plan.min_frames));
                    prop_assert!(needed <= u128::from(room));
                    prop_assert!(needed <= u128::from(plan.capacity_frames) && plan.capacity_frames <= room);
                    prop_assert!(1 <= plan.min_frames);
                    // (A source may be shorter than any chunk.)
                    prop_assert!(plan.min_frames <= own || source_frames.is_some());
                    let longest = chunk_frames.map_or(u64::MAX, |asked| asked.max(1));
                    prop_assert!(own <= longest && plan.min_frames <= min_chunk_frames.max(1));
                    match plan.shrunk {
                        Some(shrunk) => prop_assert!(shrunk.needs.needed_frames > room || room == u64::MAX),
                        None => prop_assert!(chunk_frames.is_none_or(|asked| own == asked.max(1))),
                    }
                    for (asked, planned) in [(before, plan.before), (after, plan.after)] {
                        match asked {
                            Overlap::Exactly(frames) => prop_assert_eq!(planned, frames),
                            Overlap::UpTo(most) => prop_assert_eq!(planned, most.min(own / 4)),
                        }
                    }
                    let mut planner = Planner::new(plan);
                    for _ in 0..9 {
                        let _ = planner.frame(true);
                    }
                    let _ = planner.cut();
                    let _ = plan.latency_frames();
                    prop_assert!(1 <= plan.sessions && plan.sessions <= sessions.max(1));
                }
            }
        }

        #[test]
        fn what_fits_is_never_shrunk(
            own in 1u64..300,
            min in 1u64..300,
            before in 0u64..100,
            after in 0u64..100,
            sessions in 1u64..9,
            more in 0u64..3,
        ) {
            let min_frames = min.min(own);
            let room = own + before + after.max(min_frames) + more;
            let make = |room: u64| Plan::make(&Request {
                sessions, chunk_frames: Some(own), min_chunk_frames: min,
                before: Overlap::Exactly(before), after: Overlap::Exactly(after),
                frame_bytes: 7, max_raw_bytes: room * 7, ..request()
            });
            let plan = make(room).unwrap();
            prop_assert_eq!((plan.length, plan.min_frames, plan.shrunk), (Length::Fixed(own), min_frames, None));
            let less = make(own + before + after.max(min_frames) - 1);
            prop_assert!(less.is_err() || less.is_ok_and(|plan| plan.shrunk.is_some()));
        }

        #[test]
        fn every_frame_is_own_once_and_freed_once(
            own in 1u64..30,
            min in 1u64..20,
            before in 0u64..40,
            after in 0u64..40,
            sections in prop::collection::vec(0u64..60, 1..4),
            order in prop::collection::vec(any::<prop::sample::Index>(), 180),
        ) {
            let plan = fixed(own, min, before, after);
            let min = plan.min_frames;
            let mut planner = Planner::new(plan);
            let mut cuts = vec![0u64];
            for frames in &sections {
                for _ in 0..*frames {
                    let _ = planner.frame(true);
                }
                planner.cut();
                cuts.push(planner.next_frame().0);
            }
            let chunks = drained(&planner);

            let mut at = 0;
            for chunk in &chunks {
                prop_assert_eq!(chunk.own.start.0, at);
                at = chunk.own.end.0;
                let section = cuts.partition_point(|&cut| cut <= chunk.own.start.0);
                let (low, high) = (cuts[section - 1], cuts[section]);
                prop_assert!(chunk.own.end.0 <= high);
                prop_assert_eq!(chunk.fed.start.0, chunk.own.start.0.saturating_sub(before).max(low));
                prop_assert_eq!(chunk.fed.end.0, (chunk.own.end.0 + after).min(high));
                prop_assert!(chunk.own.len() < own + min);
                prop_assert!(chunk.own.len() >= min || chunk.own == FrameRange::new(low, high));
            }
            prop_assert_eq!(at, planner.next_frame().0);

            // Whatever the order in which chunks are done, each frame is let go once, and never
            // while a chunk that isn't done is fed it.
            let mut pending = chunks;
            let mut freed = BTreeSet::new();
            for pick in order {
                if pending.is_empty() {
                    break;
                }
                let done = pending.remove(pick.index(pending.len()));
                for range in planner.done(done.id) {
                    for frame in range.iter() {
                        prop_assert!(freed.insert(frame));
                        prop_assert!(pending.iter().all(|chunk| !chunk.fed.contains(frame)));
                    }
                }
            }
            prop_assert_eq!(freed.len() as u64, planner.next_frame().0);
        }

        /// Sessions feed their chunks in any order, and frames come whenever the memory holds them.
        #[test]
        fn frames_that_go_as_they_are_fed_go_once_and_never_too_early(
            own in prop::option::of(1u64..60),
            min in 1u64..10,
            before in 0u64..20,
            after in 0u64..20,
            sessions in 1u64..5,
            total in prop::option::of(1u64..900),
            frames in 1u64..600,
            picks in prop::collection::vec(any::<prop::sample::Index>(), 50),
        ) {
            let plan = Plan::make(&Request {
                sessions, chunk_frames: own, min_chunk_frames: min, keeps_fed: false, source_frames: total,
                before: Overlap::Exactly(before), after: Overlap::Exactly(after), ..request()
            }).unwrap();
            let mut planner = Planner::new(plan);
            let mut freed = BTreeSet::new();
            // Where each of the sessions stands.
            let mut taken: Vec<(ChunkId, FrameNo)> = Vec::new();
            let mut next = ChunkId(0);
            let mut gone = 0;
            let mut picks = picks.into_iter().cycle();
            while gone < frames {
                let came = planner.next_frame().0;
                if came < frames && (came - gone < plan.capacity_frames || planner.is_starving()) {
                    let _ = planner.frame(true);
                    if came + 1 == frames {
                        planner.cut();
                    }
                }
                while taken.len() < sessions as usize && let Some(first) = planner.first_fed(next) {
                    taken.push((next, first));
                    next = next.next();
                }
                if taken.is_empty() {
                    continue;
                }
                let at = picks.next().unwrap().index(taken.len());
                let (chunk, position) = taken[at];
                let mut free = Vec::new();
                match planner.next(chunk, position) {
                    Some(Next::Feed { frame, .. }) => {
                        prop_assert!(!freed.contains(&frame), "{} is still to be fed", frame);
                        taken[at].1 = FrameNo(frame.0 + 1);
                        free = planner.fed(chunk, taken[at].1);
                    }
                    Some(Next::Drain(_)) => {
                        taken.remove(at);
                        free = planner.done(chunk);
                    }
                    Some(Next::Wait) => (),
                    None => prop_assert!(false, "{} is gone", chunk),
                }
                for frame in free.iter().flat_map(FrameRange::iter) {
                    prop_assert!(freed.insert(frame), "{} goes twice", frame);
                }
                gone = freed.len() as u64;
            }
        }

        #[test]
        fn what_a_chunk_needs_to_finish_fits_into_the_capacity(
            own in prop::option::of(1u64..300),
            min in 1u64..30,
            before in 0u64..40,
            after in 0u64..40,
            sessions in 1u64..9,
            room in 1u64..5_000,
            total in prop::option::of(1u64..3_000),
            frames in 0u64..3_000,
        ) {
            let Ok(plan) = Plan::make(&Request {
                sessions, chunk_frames: own, min_chunk_frames: min,
                before: Overlap::Exactly(before), after: Overlap::Exactly(after),
                source_frames: total, frame_bytes: 7, max_raw_bytes: room * 7, ..request()
            }) else { return Ok(()) };
            let capacity = plan.capacity_frames;
            prop_assert!(capacity <= room);
            let mut planner = Planner::new(plan);
            let mut held = 0u64;
            for _ in 0..frames {
                // Full, and the oldest chunk is still short of frames: that would be a deadlock.
                prop_assert!(held < capacity || !planner.is_starving());
                if held == capacity {
                    let oldest = planner.live[0].id;
                    held -= planner.done(oldest).iter().map(FrameRange::len).sum::<u64>();
                }
                if held < capacity {
                    let _ = planner.frame(true);
                    held += 1;
                }
            }
        }
    }
}
