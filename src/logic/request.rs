// SPDX-License-Identifier: MPL-2.0

//! What a [plan](super::plan) is made from, and what follows from it for lengths and memory.

use super::lengths::{FIRST_CHUNK, Length, whole};
use super::plan::Seams;
use super::split::{Overhead, SeamCost};
use thiserror::Error;

/// Longest automatic chunk, in frames: the key frame distance that encoders choose themselves (x264 and
/// x265: 250). Measured on x264: 240-frame chunks cost 2 % of the bits, 96-frame chunks 14 %.
pub const LONGEST_AUTOMATIC_CHUNK: u64 = 250;

/// As above, where each frame is a key frame: longer chunks save no bits, only encoders to open (measured at 1080p: 1 ms each), and
/// need more memory.
const LONGEST_AUTOMATIC_INTRA_CHUNK: u64 = 100;

/// As above, where a bitrate is the encoder's target: its rate control begins anew with each chunk and settles only as it goes on.
/// Measured on x264 and x265, three minutes at 300 and 900 kbit/s: chunks of 250 frames spend 5 % less to 4 % more than one encoder, those
/// of 500 within 2.2 %.
const LONGEST_SETTLING_CHUNK: u64 = 500;

/// The last rounds of chunks are made shorter so that all sessions end together, but no shorter than this, in frames. Each chunk
/// costs the bits of about 20 frames (x264, the measurement above), and what the sessions end apart is about half of a last
/// chunk: the sum of both is smallest at 58 frames. (With an overlap, whose
/// frames are encoded as well, at twice as many more.)
const SHORTEST_LAST_CHUNK: u64 = 60;

/// As above, where each frame is a key frame and chunks cost no bits, but still an encoder to open.
const SHORTEST_LAST_INTRA_CHUNK: u64 = 24;

/// Where there is room for it, chunks are so many times as long as what is encoded around them: that costs a tenth of the time.
/// (Encoders that were told that they may end encode the rest of a trail as well when they are closed: measured on x264enc and x265enc.)
const CHUNK_TO_OVERLAP: u64 = 10;

/// As [`SHORTEST_LAST_CHUNK`], where a rate control has to settle.
const SHORTEST_SETTLING_CHUNK: u64 = 240;

/// Where memory is short, fewer sessions work before chunks of several frames for each key frame become shorter than this:
/// at 20 frames' bits for each chunk, what more sessions gain in time is then lost in bits.
const SHORTEST_SHARED_CHUNK: u64 = 24;

/// A greater distance of key frames is none that chunks could be multiples of, in frames: ten seconds at 60 frames a second.
const LONGEST_KEY_DISTANCE: u64 = 600;

/// Distances that segments and ladders have, in frames: four seconds at 30 frames a second. They are kept where fewer sessions have room
/// for that; greater ones only where all have, as an encoder that is told of one makes other key frames between them.
const LONGEST_SEGMENT: u64 = 120;

/// Frames fed around a chunk's own ones, on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlap {
    Exactly(u64),
    /// As many, but no more than a third of the chunk: beyond, it costs more than it gains.
    UpTo(u64),
}

impl Overlap {
    /// In frames.
    pub fn most(self) -> u64 {
        match self {
            Self::Exactly(frames) | Self::UpTo(frames) => frames,
        }
    }

    pub(super) fn of(self, length: Length) -> u64 {
        match self {
            Self::Exactly(frames) => frames,
            Self::UpTo(frames) => frames.min(length.longest() / 3),
        }
    }
}

/// What the beginning of a chunk costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// Nothing, as each frame is a key frame.
    Nothing,
    /// The bits of a key frame, where none would stand there anyway.
    KeyFrame,
    /// That, and the time in which a rate control settles.
    Settling,
}

impl Beginning {
    /// The longest chunk that gains anything, in frames.
    pub(super) fn longest(self) -> u64 {
        match self {
            Self::Nothing => LONGEST_AUTOMATIC_INTRA_CHUNK,
            Self::KeyFrame => LONGEST_AUTOMATIC_CHUNK,
            Self::Settling => LONGEST_SETTLING_CHUNK,
        }
    }

    /// The shortest one at the end of a film that gains anything, in frames.
    pub(super) fn shortest_last(self) -> u64 {
        match self {
            Self::Nothing => SHORTEST_LAST_INTRA_CHUNK,
            Self::KeyFrame => SHORTEST_LAST_CHUNK,
            Self::Settling => SHORTEST_SETTLING_CHUNK,
        }
    }

    /// The shortest one with which one session more gains anything, in frames.
    pub(super) fn shortest_shared(self) -> u64 {
        match self {
            Self::Nothing => 1,
            Self::KeyFrame => SHORTEST_SHARED_CHUNK,
            Self::Settling => SHORTEST_SETTLING_CHUNK,
        }
    }

    /// The first one of a film whose length isn't known, in frames.
    pub(super) fn first(self) -> u64 {
        match self {
            Self::Settling => SHORTEST_SETTLING_CHUNK,
            _ => FIRST_CHUNK,
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
    pub beginning: Beginning,
    /// Frames that a chunk owns; `None` leaves it to the plan.
    pub chunk_frames: Option<u64>,
    /// Frames of the longest chunk where that is the plan's to choose; `None`: those of the longest one that gains anything, as longer ones take
    /// memory.
    pub longest_chunk: Option<u64>,
    /// The greatest distance of the encoder's key frames, in frames: where chunks that the plan is free to choose begin.
    pub key_distance: Option<u64>,
    /// A cut that comes sooner after a key frame gets none.
    pub least_key_distance: u64,
    /// The encoder makes key frames at cuts, too, and counts from the last one. Otherwise each such chunk is a multiple of the distance.
    pub follows_cuts: bool,
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
    /// `None`: nobody knows.
    pub seam_cost: Option<SeamCost>,
    /// What seams may cost where the plan is free to choose; `None`: whatever they do.
    pub max_overhead: Option<Overhead>,
}

impl Request {
    /// Raw frames that the memory holds.
    pub(super) fn room(&self) -> u64 {
        self.max_raw_bytes / self.frame_bytes.max(1)
    }

    /// The shortest chunk that costs no more bits than it may.
    pub(super) fn affordable(&self, is_at_key: bool) -> u64 {
        let cost = self.seam_cost.filter(|_| self.is_free());
        let cost = cost.map_or(0, |cost| match is_at_key {
            true => cost.at_key,
            false => cost.elsewhere,
        });
        let most = self.max_overhead.map_or(0, |most| most.0);
        // (Hundredths of a frame, of a percent.)
        let shortest = cost.saturating_mul(100).checked_div(most).unwrap_or(0);
        match self.source_frames {
            // There is one seam less than there are chunks.
            Some(frames) if shortest > 0 => frames.div_ceil((frames / shortest).saturating_add(1)),
            _ => shortest,
        }
    }

    /// The longest chunk that gains anything, if shorter ones than `affordable` cost too many bits.
    pub(super) fn longest(&self, min_frames: u64, affordable: u64) -> u64 {
        let with_overlap = self.automatic_overlap().saturating_mul(CHUNK_TO_OVERLAP);
        let longest = self
            .longest_chunk
            .unwrap_or_else(|| self.beginning.longest());
        let longest = min_frames.max(longest);
        // (Any film that is long enough can be cut into chunks of one to one and a half times what is affordable.)
        let affordable = affordable.saturating_add(affordable / 2);
        let longest = longest.max(with_overlap).max(affordable);
        let unit = self.unit(min_frames);
        whole(longest, unit).max(unit)
    }

    /// Frames that are encoded around each chunk, where their number is the plan's to choose.
    pub(super) fn automatic_overlap(&self) -> u64 {
        let free = |overlap| match overlap {
            Overlap::Exactly(_) => 0,
            Overlap::UpTo(frames) => frames,
        };
        free(self.before).saturating_add(free(self.after))
    }

    /// Where chunks begin is the plan's to choose.
    pub(super) fn is_free(&self) -> bool {
        self.chunk_frames.is_none() && self.beginning != Beginning::Nothing
    }

    /// Each chunk is a multiple of so many frames.
    pub(super) fn unit(&self, min_frames: u64) -> u64 {
        let is_fixed = self.is_free() && !self.follows_cuts;
        let distance = self.key_distance.filter(|_| is_fixed);
        let has_room = |distance: u64| self.share(self.sessions.max(1), min_frames) >= distance;
        let is_kept = |distance: &u64| match *distance {
            0 => false,
            1..=LONGEST_SEGMENT => true,
            _ => *distance <= LONGEST_KEY_DISTANCE && has_room(*distance),
        };
        distance.filter(is_kept).unwrap_or(1)
    }

    /// Where chunks of about this length may end, if the encoder follows cuts.
    pub(super) fn seams(&self, length: Length, min_frames: u64, least: u64) -> Option<Seams> {
        if !(self.is_free() && self.follows_cuts) {
            return None;
        }
        let goal = length.longest();
        let key_distance = self.key_distance.filter(|&distance| distance > 0);
        // No session gets much more than its share.
        let share = self.share(self.sessions.max(1), min_frames).max(goal);
        // (What comes after a frame tells whether it begins a scene.)
        let room = self.room_for_chunks(min_frames.max(2));
        let most = share.saturating_add(share / 2).min(room);
        if most < goal {
            return None;
        }
        let seams = Seams {
            key_distance,
            least_key_distance: self.least_key_distance,
            least,
            most,
        };
        let most = seams.window(goal, min_frames).most;
        Some(Seams { most, ..seams })
    }

    /// Quarters of a chunk that are held while no session waits for memory: the chunks that are encoded, and the beginning of the next one.
    pub(super) fn quarters(sessions: u64) -> u64 {
        sessions.saturating_mul(4).saturating_add(1)
    }

    /// Held beside a chunk's own frames: its lead, and its trail or the tail that may join it.
    pub(super) fn around(before: u64, after: u64, min_frames: u64) -> u64 {
        before.saturating_add(after.max(min_frames))
    }

    /// Frames that the chunks themselves may have, if the overlap is as large as it may be.
    pub(super) fn room_for_chunks(&self, min_frames: u64) -> u64 {
        let around = Self::around(self.before.most(), self.after.most(), min_frames);
        self.room().saturating_sub(around)
    }

    /// The longest chunk with which so many sessions can work.
    pub(super) fn share(&self, sessions: u64, min_frames: u64) -> u64 {
        let quarters = self.room_for_chunks(min_frames).saturating_mul(4);
        quarters / Self::quarters(sessions)
    }

    /// Sessions that can work with chunks of this length, at least 1.
    pub(super) fn sessions_with(&self, length: u64, min_frames: u64) -> u64 {
        let quarters = self.room_for_chunks(min_frames).saturating_mul(4) / length.max(1);
        (quarters.saturating_sub(1) / 4).clamp(1, self.sessions.max(1))
    }

    /// One chunk with all around it fits into the memory.
    pub(super) fn fit(&self, length: Length, min_frames: u64) -> Result<(), BudgetTooSmall> {
        let (before, after) = (self.before.of(length), self.after.of(length));
        let around = Self::around(before, after, min_frames);
        let needed_frames = around.saturating_add(length.longest());
        // (The greatest number stands for all that is greater.)
        if needed_frames <= self.room() && needed_frames < u64::MAX {
            return Ok(());
        }
        Err(BudgetTooSmall {
            needed_frames,
            needed_bytes: needed_frames.saturating_mul(self.frame_bytes.max(1)),
            max_raw_bytes: self.max_raw_bytes,
        })
    }
}

/// One chunk with its overlap is larger than all the memory that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "one chunk needs {needed_frames} raw frames ({needed_bytes} bytes), but max-raw-bytes is {max_raw_bytes}"
)]
pub struct BudgetTooSmall {
    /// Frames that must be held for one chunk: lead, own, and trail or undecided tail.
    pub needed_frames: u64,
    /// The same in bytes.
    pub needed_bytes: u64,
    pub max_raw_bytes: u64,
}
