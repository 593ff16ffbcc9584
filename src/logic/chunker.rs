// SPDX-License-Identifier: MPL-2.0

//! Frames become chunks: where each begins and ends, what its session is fed next, and where a key frame is forced.
//!
//! The chunker follows the frames one by one, by a [`Plan`]. It depends on counts alone, never on timing: the same
//! frames give the same chunks.
//!
//! ```text
//!          chunk c: lead │        own        │ trail
//!     ─────────────┬─────┼───────────────────┼──────┬─────────
//!                  │before│       length      │after │            frames ─►
//!     ─────────────┴─────┼───────────────────┼──────┴─────────
//!                 own of c−1 │             lead of c+1 │ own of c+1
//! ```
//!
//! A chunk is *open* until it is known where it ends: after its planned length, or at the best [seam](super::cuts) near that. It ends as
//! soon as `min_frames` more frames have come, because only then the frames after it are sure to be a chunk of their own; otherwise they
//! are a short tail and join it.

use super::cuts::{Film, Search, Window};
use super::given::Given;
use super::ids::{Chunk, ChunkId, FrameNo, FrameRange};
use super::live::Live;
pub use super::live::{Bounds, Neighbours};
use super::plan::Plan;
use super::scenes::Change;
use super::store::Side;
use smallvec::SmallVec;
use std::collections::VecDeque;

/// On this chunk and the one before it an encoder shows whether it can be cut with an overlap: the first one has a trail, the second a
/// lead. Later chunks wait for them, so that which chunks have an overlap never depends on which was faster.
const LAST_TRIAL: ChunkId = ChunkId(1);

/// What has become of the chunks.
#[must_use]
#[derive(Debug, Default)]
pub struct Step {
    /// It is known where this chunk ends: tell who has it.
    pub closed: Option<Bounds>,
    /// This chunk begins: offer it to the sessions.
    pub opened: Option<Bounds>,
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

/// Follows the frames and says which chunk each of them belongs to.
#[derive(Debug)]
pub struct Chunker {
    pub plan: Plan,
    /// The number that the next frame will get.
    pub arrived: FrameNo,
    /// First frame since the last cut: no overlap reaches across it.
    section_start: FrameNo,
    /// Chunks opened since the last cut: the index of the next planned length.
    section_chunks: u64,
    /// Opened and not done, oldest first. Only the last one can be open.
    live: VecDeque<Live>,
    pub next_id: ChunkId,
    /// The frames from the open chunk's first one on.
    film: Film,
    /// Where chunks end that were planned before.
    given: Option<Given>,
}

impl Chunker {
    pub fn new(plan: Plan) -> Self {
        Self::with(plan, None)
    }

    pub fn with(plan: Plan, given: Option<Given>) -> Self {
        Self {
            plan,
            given,
            arrived: FrameNo(0),
            section_start: FrameNo(0),
            section_chunks: 0,
            live: VecDeque::new(),
            next_id: ChunkId(0),
            film: Film::default(),
        }
    }

    /// The next frame has come. `change`: what is new in it, where that was looked at; `is_asked`: a key frame was asked for.
    pub fn frame(&mut self, change: Option<Change>, is_asked: bool) -> Step {
        let frame = self.arrived;
        if self.plan.seams.is_some() {
            self.film.push(frame, change, is_asked);
        }
        self.arrived.0 += 1;
        if let Some(index) = self.only() {
            let opened = (frame == FrameNo(0)).then(|| self.open_only(index));
            return Step {
                closed: None,
                opened: opened.flatten(),
            };
        }
        let Some(open) = self.live.back_mut().filter(|live| live.is_open()) else {
            let opened = self.has_more().then(|| self.open(frame));
            return Step {
                closed: None,
                opened,
            };
        };
        // What comes after a frame tells whether that is a cut.
        open.look(&self.film, frame);
        match open.search.seam() {
            // Now it is sure that the frames after it are a chunk of their own.
            Some(seam) if self.is_enough_after(seam) => self.part_at(seam),
            _ => Step::default(),
        }
    }

    /// Where a chunk of a film of `total` frames ends, if it isn't known.
    fn expected_end(&self, start: FrameNo, index: u64, total: u64) -> u64 {
        let window = self.window(index, start);
        let end = start.0.saturating_add(window.goal.max(1));
        let is_last = end.saturating_add(self.plan.min_frames) > total;
        if is_last { total.max(start.0) } else { end }
    }

    /// Up to which frame a chunk of a film of `total` frames is going to be fed, as far as anyone can tell.
    pub fn expected_fed_end(&self, chunk: ChunkId, total: u64) -> Option<u64> {
        let live = self.live(chunk)?;
        let end = match live.own_end {
            Some(end) => end.0,
            None => self.expected_end(live.start, self.section_chunks.saturating_sub(1), total),
        };
        Some(end.saturating_add(live.after).min(total.max(end)))
    }

    /// Frames that chunks of a film of `total` frames are going to be fed that haven't begun, as far as anyone can tell. What is beyond many
    /// chunks is spread over the sessions.
    pub fn to_come(&self, total: u64) -> impl Iterator<Item = u64> {
        const MANY: u64 = 1_000;
        let open = self.live.back().filter(|live| live.is_open());
        let first = self.section_chunks;
        let mut index = first;
        let mut start = match open {
            Some(open) => self.expected_end(open.start, index.saturating_sub(1), total),
            None => self.arrived.0,
        };
        let mut share = None;
        std::iter::from_fn(move || {
            let own = FrameNo(start);
            let end = if index - first < MANY {
                self.expected_end(own, index, total)
            } else {
                let rest = || {
                    total
                        .saturating_sub(start)
                        .div_ceil(self.plan.sessions.max(1))
                };
                let share = *share.get_or_insert_with(rest);
                start.saturating_add(share.max(1)).min(total)
            };
            let fed_end = end.saturating_add(self.plan.after).min(total);
            let lead = self
                .plan
                .before
                .min(start.saturating_sub(self.section_start.0));
            (start, index) = (end, index + 1);
            (own.0 < total).then(|| lead.saturating_add(fed_end - own.0))
        })
    }

    fn is_enough_after(&self, seam: FrameNo) -> bool {
        self.arrived.0 >= seam.0.saturating_add(self.plan.min_frames)
    }

    /// The open chunk ends here, and the next one begins.
    fn part_at(&mut self, seam: FrameNo) -> Step {
        let closed = self.close(seam);
        let opened = self.has_more().then(|| self.open(seam));
        Step { closed, opened }
    }

    fn open(&mut self, start: FrameNo) -> Bounds {
        self.film.forget_before(start);
        let window = self.window(self.section_chunks, start);
        let plan = &self.plan;
        let search = Search::new(start, window, plan.key_distances());
        let lead_start = FrameNo(start.0.saturating_sub(plan.before)).max(self.section_start);
        // Not before that, and not after it, if that is known.
        let target = search.safe_end();
        let is_exact = search.seam().is_some();
        // What was said of the length holds until the first cut.
        let total = plan.source_frames.filter(|_| self.section_start.0 == 0);
        let total = total.filter(|&total| total > start.0);
        let is_last = |total: u64| target.0.saturating_add(plan.min_frames) > total;
        let own_end = |total: u64| if is_last(total) { total } else { target.0 };
        let fed_end = |total: u64| own_end(total).saturating_add(plan.after).min(total);
        let planned = total.filter(|&total| is_exact || is_last(total));
        let live = Live {
            id: self.next_id,
            lead_start,
            keeps_from: lead_start,
            start,
            target,
            search,
            own_end: None,
            after: plan.after,
            neighbours: Neighbours {
                before: start > self.section_start,
                after: !total.is_some_and(is_last),
                fed: planned.map(|total| fed_end(total) - lead_start.0),
            },
            planned: planned.map(|total| own_end(total) - start.0),
        };
        self.next_id = live.id.next();
        self.section_chunks += 1;
        let bounds = live.bounds();
        self.live.push_back(live);
        if let (Some(open), Some(last)) = (self.live.back_mut(), self.arrived.0.checked_sub(1)) {
            open.look(&self.film, FrameNo(last));
        }
        bounds
    }

    /// Frames that come belong to chunks. (What comes after those that were given is the last one's trail.)
    fn has_more(&self) -> bool {
        let given = self.given.as_ref();
        given.is_none_or(|given| self.section_chunks < given.ends.len() as u64)
    }

    /// How long the chunk may be that is the `index`th since the last cut and begins here.
    fn window(&self, index: u64, start: FrameNo) -> Window {
        let given = self.given.as_ref().zip(usize::try_from(index).ok());
        match given.and_then(|(given, index)| given.own(index)) {
            Some(own) => Window::exactly(own.len()),
            None => {
                let done = start.0.saturating_sub(self.section_start.0);
                self.plan.window(index, done)
            }
        }
    }

    /// The chunk that is the only one to be encoded, if it is so.
    fn only(&self) -> Option<usize> {
        self.given.as_ref()?.only()
    }

    /// Only one chunk of the film is encoded: it begins with its lead, and all of it is known.
    fn open_only(&mut self, index: usize) -> Option<Bounds> {
        let given = self.given.as_ref()?;
        let (before, after) = (self.plan.before, self.plan.after);
        let live = Live::alone(self.next_id, given, index, (before, after))?;
        self.next_id = live.id.next();
        let bounds = live.bounds();
        self.live.push_back(live);
        Some(bounds)
    }

    /// The open chunk ends here.
    fn close(&mut self, end: FrameNo) -> Option<Bounds> {
        let open = self.live.back_mut().filter(|live| live.is_open())?;
        open.own_end = Some(end);
        Some(open.bounds())
    }

    /// A key frame is wanted at the next frame. The open chunk ends before it if it is long enough, so that the key frame
    /// costs nothing; otherwise it has to be forced.
    pub fn split(&mut self) -> Option<Bounds> {
        let (arrived, min_frames) = (self.arrived.0, self.plan.min_frames);
        let open = self.live.back_mut().filter(|live| live.is_open())?;
        if arrived - open.start.0 < min_frames {
            return None;
        }
        // With what would have been its tail it has no room for as long a trail.
        let tail = arrived.saturating_sub(open.search.limit().0);
        let room = open.after.max(min_frames).saturating_sub(tail);
        open.after = open.after.min(room);
        self.close(self.arrived)
    }

    fn last_open(&self) -> Option<&Live> {
        self.live.back().filter(|live| live.is_open())
    }

    /// The chunk whose end isn't known, if frames of it have come.
    pub fn open_chunk(&self) -> Option<ChunkId> {
        self.last_open().map(|live| live.id)
    }

    /// The first own frame of that chunk.
    pub fn open_start(&self) -> Option<FrameNo> {
        self.last_open().map(|live| live.start)
    }

    /// The chunk that isn't done and owns this frame.
    pub fn owner(&self, frame: FrameNo) -> Option<ChunkId> {
        let mut bounds = self.live.iter().map(Live::bounds);
        let owner = bounds.find(|bounds| bounds.own.contains(frame))?;
        Some(owner.id)
    }

    /// The stream ends, or what follows may not share a chunk or an overlap with what came before (new
    /// caps, a new segment). The open chunk, if there is one, ends here with its tail, and at the best seam that it has before that.
    pub fn cut(&mut self) -> SmallVec<[Step; 1]> {
        let mut steps = SmallVec::new();
        while let Some(seam) = self.seam_at_end() {
            steps.push(self.part_at(seam));
        }
        self.section_start = self.arrived;
        self.section_chunks = 0;
        if let Some(closed) = self.close(self.arrived) {
            steps.push(Step {
                closed: Some(closed),
                opened: None,
            });
        }
        self.end_trails();
        steps
    }

    fn seam_at_end(&mut self) -> Option<FrameNo> {
        let open = self.live.back_mut().filter(|live| live.is_open())?;
        let seam = open.search.seam_at_end(&self.film, self.arrived)?;
        Some(seam).filter(|&seam| self.is_enough_after(seam))
    }

    /// Chunks have no more of their trail than what has come.
    fn end_trails(&mut self) {
        for live in &mut self.live {
            // (A chunk that is the only one ends before its frames come.)
            if let Some(end) = live.own_end {
                live.after = live.after.min(self.arrived.0.saturating_sub(end.0));
            }
        }
    }

    /// Somebody waits for what waits for frames: chunks that lack their trail have no more of it, and frames that may be a tail go to
    /// the open chunk, which ends with them. It doesn't end otherwise.
    pub fn give_out(&mut self) -> SmallVec<[Step; 1]> {
        if let Some(open) = self.live.back_mut().filter(|live| live.is_open()) {
            // (What it finds without knowing what comes next doesn't stay: whether input stops here is chance.)
            let mut ahead = open.search.clone();
            ahead.look(&self.film, self.arrived);
            if self.arrived > ahead.safe_end() {
                return self.cut();
            }
            open.target = ahead.safe_end();
        }
        self.end_trails();
        SmallVec::new()
    }

    /// Goes on with another plan: after a [`cut`](Self::cut), or because the source's length became known while the first
    /// chunk is still open, which then gets the new length. `false` if it is too late for that: the old plan stays.
    pub fn replan(&mut self, plan: Plan) -> bool {
        if let Some(open) = self.live.back_mut().filter(|live| live.is_open()) {
            let window = plan.window(0, 0);
            let mut search = Search::new(open.start, window, plan.key_distances());
            if let Some(last) = self.arrived.0.checked_sub(1) {
                search.look(&self.film, FrameNo(last));
            }
            // (Frames up to the last target were fed.)
            if self.section_chunks > 1 || search.safe_end() < self.arrived.min(open.target) {
                return false;
            }
            open.target = search.safe_end();
            open.search = search;
            open.after = plan.after;
        }
        self.plan = plan;
        true
    }

    pub fn live(&self, chunk: ChunkId) -> Option<&Live> {
        self.live.iter().find(|live| live.id == chunk)
    }

    /// The chunk's own frames, as far as they are known.
    pub fn own(&self, chunk: ChunkId) -> Option<FrameRange> {
        let live = self.live(chunk)?;
        let end = live.own_end.unwrap_or(self.arrived.min(live.target));
        Some(FrameRange::new(live.start.0, end.0))
    }

    /// An attempt at the chunk showed that forced key frames don't part it from its overlap on this side. It loses that, and
    /// with one of the first two chunks, on which the encoder shows itself, all later ones do. Begin these live chunks anew, and let
    /// the frames go. No chunks: it has no overlap there, so it can't be that.
    #[must_use]
    pub fn drop_overlap(&mut self, chunk: ChunkId, side: Side) -> (Vec<ChunkId>, Vec<FrameNo>) {
        let live = self.live(chunk).filter(|live| live.has_overlap(side));
        let Some(mut needed) = live.map(Live::needs) else {
            return (Vec::new(), Vec::new());
        };
        let is_trial = chunk <= LAST_TRIAL;
        if is_trial {
            (self.plan.before, self.plan.after) = (0, 0);
        }
        let mut losing = Vec::new();
        for live in self.live.iter_mut().filter(|live| live.overlaps()) {
            if live.id == chunk || is_trial && live.id > chunk {
                needed.end = needed.end.max(live.end());
                live.begin_with(live.start);
                live.after = 0;
                live.neighbours.fed = live.planned;
                losing.push(live.id);
            }
        }
        (losing, self.unneeded(needed))
    }

    /// The chunk begins with this frame: those before it have left, and can't be made again. Let the frames go that are returned.
    #[must_use]
    pub fn begin_at(&mut self, chunk: ChunkId, start: FrameNo) -> Vec<FrameNo> {
        let Some(live) = self.live.iter_mut().find(|live| live.id == chunk) else {
            return Vec::new();
        };
        let gone = FrameRange::new(live.keeps_from.0, start.0);
        live.start = start;
        live.begin_with(start);
        self.unneeded(gone)
    }

    /// What the encoder shows on an older chunk may still take the overlap from this one: nothing of it may leave, and its
    /// frames have to stay.
    pub fn is_on_trial(&self, chunk: ChunkId) -> bool {
        let overlaps = self.live(chunk).is_some_and(Live::overlaps);
        let oldest = self.oldest().filter(|oldest| *oldest < chunk);
        overlaps && oldest.is_some_and(|oldest| oldest <= LAST_TRIAL)
    }

    /// The chunk, once all of it is known and there.
    pub fn complete(&self, chunk: ChunkId) -> Option<Chunk> {
        let live = self.live(chunk)?;
        let (end, is_final) = live.feed_end(self.arrived);
        live.chunk(end).filter(|_| is_final)
    }

    /// What the session does that has fed the chunk's frames up to, not including, `position`.
    pub fn next(&self, chunk: ChunkId, position: FrameNo) -> Option<Next> {
        let live = self.live(chunk)?;
        let (end, _) = live.feed_end(self.arrived);
        if position < end {
            // A fresh encoder begins with a key frame: only where something was fed before the first
            // own frame does it have to be asked for.
            let after_lead = position == live.start && live.has_overlap(Side::Lead);
            let at_trail = live.own_end == Some(position);
            return Some(Next::Feed {
                frame: position,
                force_key: after_lead || at_trail,
            });
        }
        Some(self.complete(chunk).map_or(Next::Wait, Next::Drain))
    }

    /// The oldest chunk that isn't done lacks frames (or there is none): making the next frame wait would be waiting for ourselves.
    pub fn is_starving(&self) -> bool {
        // The frames of a chunk that is the only one go as they are fed.
        if self.only().is_some() {
            return false;
        }
        let oldest = self.live.front();
        oldest.is_none_or(|oldest| !oldest.feed_end(self.arrived).1)
    }

    /// The chunk was delivered. Let the frames go that are returned: no other chunk needs them.
    #[must_use]
    pub fn done(&mut self, chunk: ChunkId) -> Vec<FrameNo> {
        let Some(index) = self.live.iter().position(|live| live.id == chunk) else {
            return Vec::new();
        };
        let needed = self.live[index].needs();
        self.live.remove(index);
        self.unneeded(needed)
    }

    /// The frames of the range that have come and that no live chunk needs.
    fn unneeded(&self, range: FrameRange) -> Vec<FrameNo> {
        let needed: Vec<_> = self.live.iter().map(Live::needs).collect();
        let frames = (range.start.0..range.end.0.min(self.arrived.0)).map(FrameNo);
        frames
            .filter(|frame| !needed.iter().any(|needed| needed.contains(*frame)))
            .collect()
    }

    /// The oldest chunk that isn't done.
    pub fn oldest(&self) -> Option<ChunkId> {
        self.live.front().map(|live| live.id)
    }

    /// The first frame of a live chunk: nothing that a session delivers from now on lies before it.
    pub fn oldest_needed(&self) -> FrameNo {
        let needed = self.live.iter().map(|live| live.keeps_from);
        needed.min().unwrap_or(self.arrived)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::cuts::tests::change;
    use super::super::plan::Seams;
    use super::super::plan::tests::{fixed, request};
    use super::super::request::{Overlap, Request};
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    impl Chunker {
        /// Something waits for frames that haven't come, beyond the open chunk's own: frames that may be a tail, or a chunk that lacks
        /// its trail.
        fn withholds(&self) -> bool {
            self.live.iter().any(|live| match live.own_end {
                None => self.arrived > live.target,
                Some(_) => !live.feed_end(self.arrived).1,
            })
        }
    }

    /// Feeds `frames` frames and ends; returns the final chunks.
    fn chunks_of(plan: Plan, frames: u64) -> Vec<Chunk> {
        let mut chunker = Chunker::new(plan);
        for _ in 0..frames {
            let _ = chunker.frame(None, false);
        }
        chunker.cut();
        drained(&chunker)
    }

    fn drained(chunker: &Chunker) -> Vec<Chunk> {
        chunker
            .live
            .iter()
            .map(|live| {
                let mut position = live.lead_start;
                loop {
                    match chunker.next(live.id, position).unwrap() {
                        Next::Feed { frame, .. } => position = FrameNo(frame.0 + 1),
                        Next::Drain(chunk) => break chunk,
                        Next::Wait => panic!("chunk {} never ends", live.id),
                    }
                }
            })
            .collect()
    }

    pub(in super::super) fn own_lengths(plan: Plan, frames: u64) -> Vec<u64> {
        chunks_of(plan, frames)
            .iter()
            .map(|chunk| chunk.own.len())
            .collect()
    }

    #[test]
    fn what_is_expected_to_come_comes() {
        for (own, overlap, min, total) in [
            (50, 5, 12, 640),
            (50, 0, 1, 101),
            (30, 10, 12, 95),
            (7, 2, 7, 40),
        ] {
            let plan = fixed(own, min, overlap, overlap);
            let chunks = chunks_of(plan, total);
            let mut chunker = Chunker::new(plan);
            for arrived in 0..=total {
                let begun = chunker.next_id.0 as usize;
                let fed = |chunk: &Chunk| chunk.fed.len();
                let to_come: Vec<u64> = chunker.to_come(total).collect();
                let expected: Vec<u64> = chunks[begun..].iter().map(fed).collect();
                assert_eq!(to_come, expected, "{plan:?} after {arrived}");
                for chunk in &chunks[..begun] {
                    let end = chunker.expected_fed_end(chunk.id, total);
                    assert_eq!(end, Some(chunk.fed.end.0), "{plan:?} after {arrived}");
                }
                let _ = chunker.frame(None, false);
            }
        }
    }

    #[test]
    fn of_absurdly_many_chunks_the_rest_is_spread() {
        let plan = Plan {
            sessions: 3,
            ..fixed(50, 12, 0, 0)
        };
        let chunker = Chunker::new(plan);
        for total in [1_000_000, u64::MAX] {
            let to_come: Vec<u64> = chunker.to_come(total).collect();
            assert_eq!(to_come.len(), 1_003);
            let sum: u128 = to_come.iter().map(|&it| u128::from(it)).sum();
            assert_eq!(sum, total.into());
        }
        let most = Plan {
            before: u64::MAX,
            after: u64::MAX,
            ..plan
        };
        let mut chunker = Chunker::new(most);
        let _ = chunker.frame(None, false);
        assert!(chunker.to_come(u64::MAX).all(|fed| fed >= 50));
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

    /// Even chunks of what is left would be longer than fits, as none may be shorter than `min_frames`.
    #[test]
    fn no_chunk_of_a_length_that_becomes_even_is_longer_than_the_longest() {
        let plan = Plan::make(&Request {
            min_chunk_frames: 24,
            before: Overlap::Exactly(7),
            source_frames: Some(361),
            frame_bytes: 7,
            max_raw_bytes: 55 * 7,
            ..request()
        });
        let plan = plan.unwrap();
        let longest = plan.length.longest();
        let lengths: Vec<u64> = (0..100).map(|index| plan.length.of(index)).collect();
        assert!(lengths.iter().all(|&it| it <= longest), "{lengths:?}");
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
        let mut chunker = Chunker::new(fixed(4, 1, 2, 2));
        for _ in 0..12 {
            let _ = chunker.frame(None, false);
        }
        chunker.cut();
        let forced = |chunk, from: u64, to: u64| -> Vec<u64> {
            (from..to)
                .filter(|&at| {
                    matches!(
                        chunker.next(ChunkId(chunk), FrameNo(at)),
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
        let mut chunker = Chunker::new(fixed(4, 3, 0, 0));
        for _ in 0..6 {
            let _ = chunker.frame(None, false);
        }
        assert_eq!(chunker.next(ChunkId(0), FrameNo(4)), Some(Next::Wait));
        assert!(chunker.is_starving());
        assert!(chunker.frame(None, false).closed.is_some());
        assert!(matches!(
            chunker.next(ChunkId(0), FrameNo(4)),
            Some(Next::Drain(_))
        ));
        assert!(!chunker.is_starving());
    }

    #[test]
    fn a_length_that_becomes_known_late_still_gives_equal_chunks() {
        let known = Plan::make(&Request {
            source_frames: Some(100),
            ..request()
        })
        .unwrap();
        let after = |frames: u64| {
            let mut chunker = Chunker::new(Plan::make(&request()).unwrap());
            for _ in 0..frames {
                let _ = chunker.frame(None, false);
            }
            let accepted = chunker.replan(known);
            for _ in frames..100 {
                let _ = chunker.frame(None, false);
            }
            chunker.cut();
            let lengths: Vec<u64> = drained(&chunker)
                .iter()
                .map(|chunk| chunk.own.len())
                .collect();
            (accepted, lengths)
        };
        assert_eq!(after(0), (true, vec![50, 50]));
        assert_eq!(after(50), (true, vec![50, 50]));
        assert_eq!(after(51), (false, vec![100]));
    }

    #[test]
    fn a_cut_frees_what_is_withheld() {
        let mut chunker = Chunker::new(fixed(4, 3, 0, 2));
        for frames in 1..=6 {
            let _ = chunker.frame(None, false);
            assert_eq!(chunker.withholds(), frames > 4, "{frames}");
        }
        assert_eq!(chunker.cut().len(), 1);
        assert!(!chunker.withholds());
        assert_eq!(drained(&chunker)[0].own, FrameRange::new(0, 6));
    }

    #[test]
    fn what_is_withheld_is_given_out_and_no_chunk_gets_shorter_than_the_least() {
        for (before, after) in [(0, 0), (2, 8), (5, 3)] {
            let mut chunker = Chunker::new(fixed(10, 4, before, after));
            let mut closed = Vec::new();
            for number in 0..200 {
                closed.extend(chunker.frame(None, false).closed);
                if number % 7 == 6 {
                    let withheld = chunker.withholds();
                    let open = chunker.open_chunk();
                    let ends = chunker.give_out();
                    assert!(!chunker.withholds());
                    assert!(withheld || ends.is_empty());
                    let ends: Vec<_> = ends.iter().filter_map(|step| step.closed).collect();
                    assert_eq!(
                        ends.first().map(|it| it.id),
                        open.filter(|_| !ends.is_empty())
                    );
                    closed.extend(ends);
                }
            }
            closed.extend(chunker.cut().iter().filter_map(|step| step.closed));
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
            for chunk in drained(&chunker) {
                assert!(chunk.fed.end.0 <= chunk.own.end.0 + after);
            }
        }
    }

    #[test]
    fn no_overlap_reaches_across_a_cut() {
        let mut chunker = Chunker::new(fixed(10, 1, 5, 5));
        for _ in 0..12 {
            let _ = chunker.frame(None, false);
        }
        let closed = chunker.cut()[0].closed.unwrap();
        assert_eq!(closed.own, FrameRange::new(10, 12));
        assert!(
            chunker.cut().is_empty(),
            "a second cut in one place is none"
        );
        for _ in 0..12 {
            let _ = chunker.frame(None, false);
        }
        chunker.cut();
        let fed: Vec<_> = drained(&chunker).iter().map(|chunk| chunk.fed).collect();
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

    /// A chunker with four chunks of 10 frames, of which the last one is open.
    fn four_chunks(before: u64, after: u64) -> Chunker {
        let mut chunker = Chunker::new(fixed(10, 2, before, after));
        for _ in 0..38 {
            let _ = chunker.frame(None, false);
        }
        chunker
    }

    #[test]
    fn later_chunks_wait_for_those_on_which_the_encoder_shows_itself() {
        let mut chunker = four_chunks(3, 3);
        let on_trial =
            |chunker: &Chunker| [0, 1, 2, 3].map(|chunk| chunker.is_on_trial(ChunkId(chunk)));
        assert_eq!(on_trial(&chunker), [false, true, true, true]);
        let _ = chunker.done(ChunkId(0));
        assert_eq!(on_trial(&chunker), [false, false, true, true]);
        let _ = chunker.done(ChunkId(1));
        assert_eq!(on_trial(&chunker), [false, false, false, false]);
        assert_eq!(
            on_trial(&four_chunks(0, 0)),
            [false; 4],
            "no overlap, no trial"
        );
    }

    #[test]
    fn the_overlap_is_dropped_from_the_chunk_that_showed_it_on() {
        let fed_from = |chunker: &Chunker| {
            [0, 1, 2, 3].map(|chunk| chunker.live(ChunkId(chunk)).unwrap().lead_start.0)
        };
        let mut chunker = four_chunks(3, 3);
        assert_eq!(fed_from(&chunker), [0, 7, 17, 27]);
        assert_eq!(
            chunker.drop_overlap(ChunkId(0), Side::Lead).0,
            [],
            "it has none"
        );
        let (losing, unneeded) = chunker.drop_overlap(ChunkId(1), Side::Lead);
        assert_eq!(unneeded, [], "all are some chunk's own");
        assert_eq!(losing, [1, 2, 3].map(ChunkId));
        assert_eq!(fed_from(&chunker), [0, 10, 20, 30]);
        assert_eq!(
            chunker.drop_overlap(ChunkId(1), Side::Lead).0,
            [],
            "that can't be it again"
        );
        // The first chunk keeps its trail, the second has none any more.
        let drain = |chunker: &Chunker, chunk, at| match chunker.next(ChunkId(chunk), FrameNo(at)) {
            Some(Next::Drain(chunk)) => chunk.fed,
            next => panic!("{next:?}"),
        };
        assert_eq!(drain(&chunker, 0, 13), FrameRange::new(0, 13));
        assert_eq!(drain(&chunker, 1, 20), FrameRange::new(10, 20));
        // Nor has one that opens now.
        for _ in 38..42 {
            let _ = chunker.frame(None, false);
        }
        assert_eq!(chunker.live(ChunkId(4)).unwrap().lead_start, FrameNo(40));
        assert!(!chunker.plan.overlaps());
        // All frames are let go in the end.
        let mut free = 0;
        let _ = chunker.cut();
        for chunk in 0..5 {
            free += chunker.done(ChunkId(chunk)).len();
        }
        assert_eq!(free, 42);
    }

    #[test]
    fn a_later_chunk_loses_its_overlap_alone() {
        let mut chunker = four_chunks(3, 3);
        let _ = chunker.done(ChunkId(1));
        // Nobody else needs its lead any more.
        let (losing, unneeded) = chunker.drop_overlap(ChunkId(2), Side::Trail);
        assert_eq!(unneeded, [17, 18, 19].map(FrameNo));
        assert_eq!(losing, [ChunkId(2)]);
        assert_eq!(chunker.live(ChunkId(2)).unwrap().lead_start, FrameNo(20));
        assert_eq!(chunker.live(ChunkId(3)).unwrap().lead_start, FrameNo(27));
        assert!(chunker.plan.overlaps());
    }

    proptest! {
        #[test]
        fn every_frame_is_own_once_and_freed_once(
            own in 1u64..30,
            min in 1u64..20,
            before in 0u64..40,
            after in 0u64..40,
            sections in prop::collection::vec(0u64..60, 1..4),
            seams in prop::option::of((prop::option::of(0u64..40), 0u64..40)),
            new in prop::collection::vec(prop::option::of(0u32..110), 180),
            asked in any::<prop::sample::Index>(),
            order in prop::collection::vec(any::<prop::sample::Index>(), 180),
        ) {
            let mut plan = fixed(own, min, before, after);
            plan.seams = seams.map(|(key_distance, more)| Seams { key_distance, least_key_distance: 2, least: 0, most: own + more });
            let min = plan.min_frames;
            let most = plan.longest();
            let mut chunker = Chunker::new(plan);
            let mut cuts = vec![0u64];
            let mut fed = BTreeMap::new();
            for frames in &sections {
                for _ in 0..*frames {
                    let at = chunker.arrived.0 as usize;
                    let _ = chunker.frame(new[at].map(change), at == asked.index(180));
                    // What may be fed stays its own.
                    for live in &chunker.live {
                        let (safe, _) = live.feed_end(chunker.arrived);
                        prop_assert!(live.own_end.is_none_or(|end| fed.get(&live.id) <= Some(&end)));
                        fed.insert(live.id, safe.min(live.own_end.unwrap_or(safe)));
                    }
                }
                let steps = chunker.cut();
                prop_assert!(seams.is_some() || steps.len() <= 1);
                cuts.push(chunker.arrived.0);
            }
            let chunks = drained(&chunker);

            let mut at = 0;
            for chunk in &chunks {
                prop_assert_eq!(chunk.own.start.0, at);
                at = chunk.own.end.0;
                let section = cuts.partition_point(|&cut| cut <= chunk.own.start.0);
                let (low, high) = (cuts[section - 1], cuts[section]);
                prop_assert!(chunk.own.end.0 <= high);
                prop_assert_eq!(chunk.fed.start.0, chunk.own.start.0.saturating_sub(before).max(low));
                prop_assert_eq!(chunk.fed.end.0, (chunk.own.end.0 + after).min(high));
                prop_assert!(chunk.own.len() < most + min);
                prop_assert!(chunk.own.len() >= min || chunk.own == FrameRange::new(low, high));
            }
            prop_assert_eq!(at, chunker.arrived.0);

            // Whatever the order in which chunks are done, each frame is let go once, and never
            // while a chunk that isn't done is fed it.
            let mut pending = chunks;
            let mut freed = BTreeSet::new();
            for pick in order {
                if pending.is_empty() {
                    break;
                }
                let done = pending.remove(pick.index(pending.len()));
                for frame in chunker.done(done.id) {
                    prop_assert!(freed.insert(frame));
                    prop_assert!(pending.iter().all(|chunk| !chunk.fed.contains(frame)));
                }
            }
            prop_assert_eq!(freed.len() as u64, chunker.arrived.0);
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
            follows_cuts in any::<bool>(),
            key_distance in prop::option::of(1u64..300),
            new in prop::collection::vec(prop::option::of(0u32..110), 1..50),
        ) {
            let Ok(plan) = Plan::make(&Request {
                sessions, chunk_frames: own, min_chunk_frames: min,
                before: Overlap::Exactly(before), after: Overlap::Exactly(after),
                source_frames: total, frame_bytes: 7, max_raw_bytes: room * 7, follows_cuts, key_distance, ..request()
            }) else { return Ok(()) };
            let capacity = plan.capacity_frames;
            prop_assert!(capacity <= room);
            let mut chunker = Chunker::new(plan);
            let mut held = 0u64;
            for frame in 0..frames {
                // Full, and the oldest chunk is still short of frames: that would be a deadlock.
                prop_assert!(held < capacity || !chunker.is_starving());
                if held == capacity {
                    let oldest = chunker.live[0].id;
                    held -= chunker.done(oldest).len() as u64;
                }
                if held < capacity {
                    let new = new[frame as usize % new.len()];
                    let _ = chunker.frame(new.map(change), false);
                    held += 1;
                }
            }
        }

    }
}
