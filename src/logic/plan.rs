// SPDX-License-Identifier: MPL-2.0

//! What was asked for becomes a plan: sessions, chunk lengths, overlap and memory.
//!
//! [`Plan::make`] settles them before the first frame. It depends on counts alone, never on timing; the
//! [chunker](super::chunker) then follows the frames one by one.

use super::cuts::Window;
use super::lengths::{Length, Taper, whole};
use super::request::{Beginning, BudgetTooSmall, Request};
use super::split::Overhead;

/// Frames of a shot: four seconds at 24 a second, as in films of the last decades.
const USUAL_SHOT: u64 = 96;

/// Where the length is unknown, the first chunks are so many times as long as what is encoded around them: that costs a sixth of their
/// time, and the next ones are longer. (A film may end with them.)
const FIRST_CHUNK_TO_OVERLAP: u64 = 6;

/// What keeps a plan's chunks from being longer, or its sessions from being more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Limit {
    /// The length of a chunk was set.
    #[default]
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

/// Where chunks may end that end where a key frame stands anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seams {
    /// The greatest distance of the encoder's key frames, in frames; unknown where that is `None`.
    pub key_distance: Option<u64>,
    /// A cut that comes sooner after a key frame gets none.
    pub least_key_distance: u64,
    /// Chunks aren't shorter than this, in frames: each seam costs bits.
    pub least: u64,
    /// Frames of the longest chunk.
    pub most: u64,
}

impl Seams {
    /// Around this length, and so wide that it holds a key frame that the encoder makes by itself.
    pub(super) fn window(self, goal: u64, min_frames: u64) -> Window {
        let least = min_frames.max(goal / 2).max(self.least).min(goal);
        let most = match self.key_distance {
            Some(distance) => {
                let beyond = goal.saturating_add(distance.div_ceil(2));
                least.saturating_add(distance).max(beyond)
            }
            // Whatever it costs, it costs there as well: not so far that sessions end apart.
            None => goal.saturating_add(goal / 4),
        };
        Window {
            least,
            goal,
            most: most.min(self.most).max(goal),
        }
    }
}

/// The settled lengths. Before anything is known, all of them are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    pub length: Length,
    /// `None`: each chunk has the planned length exactly.
    pub seams: Option<Seams>,
    /// At least 1, never more than the chunk length.
    pub min_frames: u64,
    pub before: u64,
    pub after: u64,
    /// Frames of the source, where that is known.
    pub source_frames: Option<u64>,
    /// Sessions that work at the same time; fewer than were asked for where the memory is short.
    pub sessions: u64,
    /// Raw frames that the element may hold at once: one chunk for each session, one that is being
    /// taken in, and the overlap; fewer where the memory is short.
    pub capacity_frames: u64,
    pub limit: Limit,
    /// Bytes of raw frames that the plan was made for.
    pub max_raw_bytes: u64,
    /// Each chunk ends where the encoder makes a key frame by itself, as far as anyone can tell before.
    pub seams_are_at_keys: bool,
    /// What seams are expected to cost; `None`: nobody knows.
    pub overhead: Option<Overhead>,
    /// Where nothing else is known of the film, chunks end at multiples of this, in frames.
    pub grain: u64,
    /// What was asked for didn't fit into the memory, so chunks are shorter.
    pub shrunk: Option<Shrunk>,
}

/// What was asked for, where the plan had to make less of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shrunk {
    /// `None`: the length was the plan's own to choose.
    pub chunk_frames: Option<u64>,
    pub min_chunk_frames: u64,
    /// Chunks would have been multiples of this.
    pub key_distance: Option<u64>,
    /// What one chunk of that would need.
    pub needs: BudgetTooSmall,
}

impl Plan {
    pub fn overlaps(&self) -> bool {
        self.before > 0 || self.after > 0
    }

    /// How long chunk number `index` may be, which begins after so many frames.
    pub(super) fn window(&self, index: u64, done: u64) -> Window {
        let Some(seams) = self.seams else {
            return Window::exactly(self.length.of(index));
        };
        seams.window(self.length.after(index, done), self.min_frames)
    }

    /// How far the encoder's key frames are apart, at least and at most.
    pub(super) fn key_distances(&self) -> (u64, Option<u64>) {
        let seams = self.seams;
        seams.map_or((0, None), |it| (it.least_key_distance, it.key_distance))
    }

    /// Frames of the longest chunk, without a tail that may join it.
    pub fn longest(&self) -> u64 {
        let length = self.length.longest();
        self.seams.map_or(length, |seams| seams.most.max(length))
    }

    /// The longest that a frame waits until it may leave, in frames, with sessions that just keep up with the input.
    ///
    /// A chunk of exact length opens when `min_frames` of it have come, at a moment when the session that has the chunk `sessions` before
    /// it is at its end; so it ends `sessions` chunks later, and not before its own last frame and its trail have come.
    pub fn latency_frames(&self) -> u64 {
        let length = self.longest();
        let encoding = length.saturating_mul(self.sessions.max(1));
        encoding
            .max(length.saturating_add(self.after))
            .saturating_add(self.min_frames)
    }

    /// If one chunk doesn't fit into the memory, its length is given up first, then `min_frames`, and nothing else: an overlap that
    /// was set is what it was set to. Chunks are so long that they cost no more bits than they may, as far as the memory allows.
    pub fn make(request: &Request) -> Result<Self, BudgetTooSmall> {
        let affordable = request.affordable(true);
        // Of multiples, those that are a little shorter may do as well.
        let multiple = whole(affordable, request.unit(request.min_chunk_frames.max(1)));
        if (1..affordable).contains(&multiple) {
            let plan = Self::affordable(request, multiple)?;
            if plan.seams_are_at_keys && plan.overhead <= request.max_overhead {
                return Ok(plan);
            }
        }
        let plan = Self::affordable(request, affordable)?;
        if plan.seams_are_at_keys {
            return Ok(plan);
        }
        Self::affordable(request, request.affordable(false))
    }

    /// Chunks aren't planned shorter than `affordable`, where the plan is free to choose.
    fn affordable(request: &Request, affordable: u64) -> Result<Self, BudgetTooSmall> {
        let own = request.chunk_frames.unwrap_or(u64::MAX);
        let min_frames = request.min_chunk_frames.min(own).max(1);
        let unit = request.unit(min_frames);
        let length = match request.chunk_frames {
            Some(own) => Length::Fixed(own.max(1)),
            None => {
                let most = request.longest(min_frames, affordable);
                let sessions = Self::sessions(request, min_frames);
                let share = request.share(sessions, min_frames);
                let least = min_frames.checked_next_multiple_of(unit);
                let longest = whole(share.min(most), unit).max(least.unwrap_or(min_frames));
                let least = min_frames.max(affordable).min(longest);
                Self::automatic(request, unit, sessions, longest, least)
            }
        };
        let Err(needs) = request.fit(length, min_frames) else {
            return Ok(Self::of(request, length, min_frames, affordable));
        };
        let shrunk = Shrunk {
            chunk_frames: request.chunk_frames,
            min_chunk_frames: request.min_chunk_frames,
            key_distance: None,
            needs,
        };
        if unit > 1 {
            let plan = Self::make(&Request {
                key_distance: None,
                ..request.clone()
            })?;
            return Ok(Self {
                shrunk: Some(Shrunk {
                    key_distance: Some(unit),
                    ..shrunk
                }),
                limit: Limit::Memory,
                ..plan
            });
        }
        let sessions = request.sessions.max(1);
        let shorter = |min_frames: u64| {
            // As long as leaves room for all sessions.
            let share = request.share(sessions, min_frames);
            let length = Length::Fixed(share.max(min_frames));
            request.fit(length, min_frames)?;
            Ok(Self {
                shrunk: Some(shrunk),
                limit: Limit::Memory,
                ..Self::of(request, length, min_frames, affordable)
            })
        };
        // A tail takes as much room as a chunk.
        let around = request.before.most().saturating_add(request.after.most());
        let rest = request.room().saturating_sub(around);
        let least = (rest / (Request::quarters(sessions) / 4 + 2)).clamp(1, min_frames);
        shorter(min_frames).or_else(|_| shorter(least))
    }

    fn of(request: &Request, length: Length, min_frames: u64, affordable: u64) -> Self {
        let (before, after) = (request.before.of(length), request.after.of(length));
        let around = Request::around(before, after, min_frames);
        let longest = length.longest();
        let sessions = request.sessions_with(longest, min_frames);
        // With room for the next chunk, where the source is no faster than the sessions.
        let seams = request.seams(length, min_frames, affordable);
        let beyond = seams.map_or(0, |seams| seams.most - longest);
        let wanted = sessions.saturating_add(1).saturating_mul(longest);
        let wanted = wanted.saturating_add(around).saturating_add(beyond);
        let capacity_frames = wanted.min(request.room());
        let automatic = request.longest(min_frames, affordable);
        let share = request.share(sessions, min_frames);
        let unit = request.unit(min_frames);
        let limit = match request.chunk_frames {
            _ if sessions < request.sessions => Limit::Memory,
            Some(_) => Limit::ChunkFrames,
            None if whole(share, unit) <= longest && share < automatic => Limit::Memory,
            None if longest < automatic => Limit::SourceLength,
            None => Limit::LongestChunk,
        };
        let distance = request.key_distance.unwrap_or(u64::MAX);
        let holds_key = |seams: &Seams| {
            let window = seams.window(longest, min_frames);
            window.most - window.least >= distance
        };
        let seams_are_at_keys =
            request.is_free() && unit > 1 || seams.as_ref().is_some_and(holds_key);
        let source_frames = request.source_frames.filter(|&frames| frames > 0);
        let cost = request.seam_cost.map(|cost| match seams_are_at_keys {
            true => cost.at_key,
            false => cost.elsewhere,
        });
        let cost = match request.beginning {
            Beginning::Nothing => Some(0),
            _ => cost,
        };
        Self {
            length,
            seams,
            min_frames,
            before,
            after,
            source_frames,
            sessions,
            capacity_frames,
            limit,
            max_raw_bytes: request.max_raw_bytes,
            seams_are_at_keys,
            overhead: cost.map(|cost| length.overhead(cost, source_frames, min_frames)),
            grain: match seams_are_at_keys && seams.is_some() {
                true => length.shortest().max(distance),
                false => length.shortest(),
            },
            shrunk: None,
        }
    }

    /// How long a film of so many frames takes, whose shots are as long as they usually are, and one without cuts, if its frames are
    /// alike: in the time of one frame with one thread.
    pub fn times(&self, frames: u64) -> (f64, f64) {
        let usual = self.grain.min(USUAL_SHOT).max(self.length.shortest());
        (self.time(frames, usual), self.time(frames, self.grain))
    }

    /// As above, with chunks that end at multiples of `grain`.
    fn time(&self, frames: u64, grain: u64) -> f64 {
        let (sessions, grain) = (self.sessions.max(1), grain.max(1));
        let chunks = frames.div_ceil(grain);
        let planned = self.length.longest().min(frames);
        // Seams at cuts miss their goals by a quarter of a shot; of many chunks the last ones end apart by half of one.
        let missed = self.seams.map_or(0, |_| USUAL_SHOT / 4);
        let own = match chunks.div_ceil(sessions) {
            _ if sessions == 1 => frames as f64,
            rounds @ 0..4 => {
                let even = rounds.saturating_mul(grain).max(planned);
                even.saturating_add(missed).min(frames) as f64
            }
            _ => frames as f64 / sessions as f64 + grain as f64 / 2.0,
        };
        let longest = self.length.longest().max(grain);
        let length = longest.min(frames).max(1) as f64;
        let around = match sessions {
            1 => 0,
            _ => self.before.saturating_add(self.after),
        };
        own * (1.0 + around as f64 / length)
    }

    /// Sessions that work. Where the memory is short, fewer than there may be, so that chunks needn't be too short; two in any case.
    fn sessions(request: &Request, min_frames: u64) -> u64 {
        let shortest = min_frames.max(request.beginning.shortest_shared());
        match request.sessions_are_automatic {
            true => request.sessions_with(shortest, min_frames).max(2),
            false => u64::MAX,
        }
        .min(request.sessions)
        .max(1)
    }

    /// Chunks such that all sessions end together, none of them shorter than `least`; if one of them does it all, as long as may be.
    fn automatic(request: &Request, unit: u64, sessions: u64, longest: u64, least: u64) -> Length {
        let shortest = request.beginning.shortest_last();
        // A round more costs the time of an overlap, and gains half of its chunk.
        let overlap = request.before.most().saturating_add(request.after.most());
        let shortest = shortest.saturating_add(overlap.saturating_mul(2));
        let first = request.beginning.first().max(least);
        let around = request.automatic_overlap();
        let first = first.max(around.saturating_mul(FIRST_CHUNK_TO_OVERLAP));
        match request.source_frames.filter(|&total| total > 0) {
            _ if sessions == 1 => Length::Fixed(longest),
            Some(total) if total < unit => Length::Fixed(unit),
            None if longest <= first => Length::Fixed(longest),
            // (What is less than a unit is a chunk of its own, or joins the last one.)
            Some(total) => Length::Tapering(Taper {
                unit,
                total: total / unit,
                sessions,
                longest: longest / unit,
                shortest: shortest.max(least).div_ceil(unit),
                least: least.div_ceil(unit),
            }),
            None => Length::Growing {
                first,
                sessions,
                longest,
                unit,
            },
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::chunker::Chunker;
    use super::super::chunker::tests::own_lengths;
    use super::super::request::Overlap;
    use super::super::split::SeamCost;
    use super::*;
    use proptest::prelude::*;

    pub(in super::super) fn request() -> Request {
        Request {
            sessions: 2,
            sessions_are_automatic: false,
            beginning: Beginning::KeyFrame,
            longest_chunk: None,
            chunk_frames: None,
            key_distance: None,
            least_key_distance: 0,
            follows_cuts: false,
            min_chunk_frames: 12,
            before: Overlap::Exactly(0),
            after: Overlap::Exactly(0),
            source_frames: None,
            frame_bytes: 1_000,
            max_raw_bytes: 1_000_000_000,
            seam_cost: None,
            max_overhead: None,
        }
    }

    pub(in super::super) fn fixed(own: u64, min: u64, before: u64, after: u64) -> Plan {
        Plan::make(&Request {
            chunk_frames: Some(own),
            min_chunk_frames: min,
            before: Overlap::Exactly(before),
            after: Overlap::Exactly(after),
            ..request()
        })
        .unwrap()
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
    fn fewer_sessions_work_before_chunks_get_too_short() {
        let plan = |max_raw_bytes, sessions_are_automatic, beginning| {
            let plan = Plan::make(&Request {
                max_raw_bytes,
                sessions: 16,
                sessions_are_automatic,
                beginning,
                ..request()
            });
            let plan = plan.unwrap();
            assert_eq!(plan.limit, Limit::Memory);
            (plan.sessions, plan.length.longest())
        };
        // 312 frames, 12 of which may be a tail.
        assert_eq!(plan(312_000, true, Beginning::KeyFrame), (12, 24));
        assert_eq!(plan(312_000, true, Beginning::Nothing), (16, 18));
        assert_eq!(plan(312_000, false, Beginning::KeyFrame), (16, 18));
        assert_eq!(plan(112_000, true, Beginning::KeyFrame), (3, 30));
        // Two in any case.
        assert_eq!(plan(52_000, true, Beginning::KeyFrame), (2, 17));
        // Where a rate control has to settle, as few as that takes.
        assert_eq!(plan(1_212_000, true, Beginning::Settling), (4, 282));
        assert_eq!(plan(1_212_000, false, Beginning::Settling), (16, 73));
    }

    #[test]
    fn chunks_are_multiples_of_the_distance_of_key_frames_that_was_set() {
        let plan = |source_frames, max_raw_bytes| {
            Plan::make(&Request {
                key_distance: Some(48),
                source_frames,
                max_raw_bytes,
                ..request()
            })
            .unwrap()
        };
        let known = plan(Some(720), 1 << 40);
        assert_eq!(own_lengths(known, 720), [192, 192, 192, 144]);
        // What is left of a distance begins where a key frame comes in any case.
        assert_eq!(
            own_lengths(plan(Some(700), 1 << 40), 700),
            [192, 192, 144, 144, 28]
        );
        assert_eq!(
            own_lengths(plan(Some(680), 1 << 40), 680),
            [192, 192, 144, 152]
        );
        let unknown = plan(None, 1 << 40);
        assert_eq!(own_lengths(unknown, 700), [96, 96, 96, 96, 144, 144, 28]);
        // Where the memory is short, too, as long as it holds one.
        assert_eq!(plan(None, 125_000).length, Length::Fixed(48));
        let one = plan(None, 100_000);
        assert_eq!(
            (one.length, one.sessions, one.limit),
            (Length::Fixed(48), 1, Limit::Memory)
        );
        let none = plan(None, 59_000);
        assert_eq!((none.length, none.sessions), (Length::Fixed(20), 2));
        assert_eq!(none.shrunk.map(|it| it.key_distance), Some(Some(48)));
        // A long one isn't worth a session.
        let long = |max_raw_bytes| {
            Plan::make(&Request {
                key_distance: Some(250),
                sessions: 8,
                max_raw_bytes,
                ..request()
            })
            .unwrap()
        };
        assert_eq!(
            (long(1 << 40).length.longest(), long(1 << 40).sessions),
            (250, 8)
        );
        assert_eq!(
            (long(1_000_000).length.longest(), long(1_000_000).sessions),
            (119, 8)
        );
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
        assert_eq!(of(shrunk), (Length::Fixed(26), 8, 8, 12));
        assert_eq!(plan(set, set, 41_000).unwrap().length, Length::Fixed(1));
        assert_eq!(plan(set, set, 40_999).unwrap_err().needed_frames, 41);
    }

    #[test]
    fn an_automatic_overlap_is_at_most_a_third_of_the_chunk() {
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
        assert_eq!(overlaps(60), (20, 10));
        assert_eq!(overlaps(2), (0, 0));
    }

    /// Any number, those near both ends of the range above all.
    fn any_number() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..500, Just(u64::MAX), (u64::MAX - 500).., any::<u64>()]
    }

    fn any_overlap() -> impl Strategy<Value = Overlap> {
        let automatic = any_number().prop_map(Overlap::UpTo);
        prop_oneof![any_number().prop_map(Overlap::Exactly), automatic]
    }

    #[test]
    fn a_film_shorter_than_the_key_frame_distance_is_one_chunk() {
        for frames in [1, 60, 127] {
            let plan = Plan::make(&Request {
                key_distance: Some(128),
                source_frames: Some(frames),
                ..request()
            });
            assert_eq!(own_lengths(plan.unwrap(), frames), [frames]);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_fits_or_is_refused(
            sessions in any_number(),
            chunk_frames in prop::option::of(any_number()),
            min_chunk_frames in any_number(),
            longest_chunk in prop::option::of(any_number()),
            before in any_overlap(),
            after in any_overlap(),
            source_frames in prop::option::of(any_number()),
            frame_bytes in any_number(),
            max_raw_bytes in any_number(),
            (sessions_are_automatic, follows_cuts) in any::<(bool, bool)>(),
            beginning in prop_oneof![Just(Beginning::Nothing), Just(Beginning::KeyFrame), Just(Beginning::Settling)],
            key_distance in prop::option::of(any_number()),
            seam_cost in prop::option::of((any_number(), any_number())),
            max_overhead in prop::option::of(any_number()),
        ) {
            let seam_cost = seam_cost.map(|(at_key, elsewhere)| SeamCost { at_key, elsewhere });
            let max_overhead = max_overhead.map(Overhead);
            let request = Request {
                sessions, sessions_are_automatic, beginning, longest_chunk, chunk_frames, key_distance, least_key_distance: 3, follows_cuts, min_chunk_frames, before, after,
                source_frames, frame_bytes, max_raw_bytes, seam_cost, max_overhead,
            };
            let unit = request.unit(min_chunk_frames.min(chunk_frames.unwrap_or(u64::MAX)).max(1));
            let room = max_raw_bytes / frame_bytes.max(1);
            match Plan::make(&request) {
                Err(error) => prop_assert!(error.needed_frames > room || error.needed_frames == u64::MAX),
                Ok(plan) => {
                    let own = plan.length.longest();
                    let most = plan.longest();
                    prop_assert!(most >= own);
                    prop_assert!(plan.seams.is_none() || follows_cuts && beginning != Beginning::Nothing && chunk_frames.is_none());
                    let needed = u128::from(most) + u128::from(plan.before) + u128::from(plan.after.max(plan.min_frames));
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
                    if plan.shrunk.is_none() {
                        prop_assert!((0..9).all(|index| plan.length.of(index) % unit == 0));
                    }
                    for (asked, planned) in [(before, plan.before), (after, plan.after)] {
                        match asked {
                            Overlap::Exactly(frames) => prop_assert_eq!(planned, frames),
                            Overlap::UpTo(most) => prop_assert_eq!(planned, most.min(own / 3)),
                        }
                    }
                    for (index, done) in [(0, 0), (1, 17), (7, 1_000), (u64::MAX, u64::MAX)] {
                        let window = plan.window(index, done);
                        prop_assert!(window.least <= window.goal && window.goal <= window.most);
                        prop_assert!(0 < window.least && window.most <= most);
                    }
                    let mut chunker = Chunker::new(plan);
                    for _ in 0..9 {
                        let _ = chunker.frame(None, false);
                    }
                    let _ = chunker.cut();
                    let _ = plan.latency_frames();
                    let (usual, worst) = plan.times(source_frames.unwrap_or(1_000));
                    prop_assert!(0.0 <= usual && worst.is_finite());
                    prop_assert_eq!(plan.overhead.is_some(), seam_cost.is_some() || beginning == Beginning::Nothing);
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

    }
}
