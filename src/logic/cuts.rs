// SPDX-License-Identifier: MPL-2.0

//! Where a film has its cuts and an encoder its key frames: the best seam of each chunk.
//!
//! A chunk begins with a key frame. Where one would stand anyway that costs nothing: at a cut, which an encoder finds as well, and at its
//! greatest distance from the last key frame. Elsewhere it costs a whole key frame, even one frame beside a cut. So a chunk ends in a
//! window, at the cut that is nearest to the length that the plan wants, or else at the nearest key frame that the encoder would make
//! for its distance. Where the window has neither, as memory is short or nobody knows the distance, it ends before the frame of which the
//! least is in the frame before.
//!
//! What is chosen depends on the frames alone: not on who encodes them, nor on when they come.

use super::ids::FrameNo;
use super::scenes::Change;
use std::collections::VecDeque;

/// A frame is the first of a scene if so much of it is new, from 0 to 1,
const CUT: f64 = 0.7;
/// by so much more than of each of the last frames,
const RISE: f64 = 0.4;
/// and it costs so many times as much as each of them,
const JUMP: u32 = 2;
/// or else all of it is new, and by so much more: a scene may be flatter than the one before it.
const ALL: f64 = 0.95;
const LEAP: f64 = 0.6;
/// (Several of them: where frames are repeated to fill a rate, each other one has nothing new.)
const LAST: u64 = 4;
/// It is a flash, and no cut, if the frame after it has so little of this frame's newness compared with the frame before it.
const FLASH: f64 = 0.5;

/// How long a chunk may be, in frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub least: u64,
    /// As long as possible near this.
    pub goal: u64,
    pub most: u64,
}

impl Window {
    pub fn exactly(length: u64) -> Self {
        Self {
            least: length,
            goal: length,
            most: length,
        }
    }
}

/// What is known of a frame.
#[derive(Debug, Clone, Copy, Default)]
struct Looked {
    change: Option<Change>,
    /// A key frame was asked for here.
    is_asked: bool,
}

/// What is known of the frames that may begin a chunk, and of a few before them.
#[derive(Debug, Default)]
pub struct Film {
    first: FrameNo,
    looked: VecDeque<Looked>,
}

impl Film {
    /// The next frame.
    pub fn push(&mut self, frame: FrameNo, change: Option<Change>, is_asked: bool) {
        if self.first.0 + self.looked.len() as u64 != frame.0 {
            self.looked.clear();
            self.first = frame;
        }
        self.looked.push_back(Looked { change, is_asked });
    }

    /// No chunk begins before this frame any more.
    pub fn forget_before(&mut self, frame: FrameNo) {
        while self.first.0.saturating_add(LAST) < frame.0 && self.looked.pop_front().is_some() {
            self.first.0 += 1;
        }
    }

    fn looked(&self, frame: u64) -> Option<&Looked> {
        let at = usize::try_from(frame.checked_sub(self.first.0)?).ok()?;
        self.looked.get(at)
    }

    fn change(&self, frame: u64) -> Option<Change> {
        self.looked(frame)?.change
    }

    fn is_asked(&self, frame: u64) -> bool {
        self.looked(frame).is_some_and(|looked| looked.is_asked)
    }

    fn newness(&self, frame: u64) -> f64 {
        self.change(frame).map_or(0.0, |change| change.newness())
    }

    /// The frame is the first of a scene. What comes after it belongs to that, if it has come.
    fn is_cut(&self, frame: u64) -> bool {
        let Some(change) = self.change(frame) else {
            return false;
        };
        let newness = change.newness();
        let is_all_new = newness >= ALL;
        let mut last = (frame.saturating_sub(LAST)..frame).filter_map(|it| self.change(it));
        let stands_out = last.all(|last| {
            let rise = newness - last.newness();
            let jumps = change.inter >= JUMP.saturating_mul(last.inter);
            rise >= RISE && jumps || rise >= LEAP && is_all_new
        });
        let next = self.change(frame.saturating_add(1));
        let is_flash = next.is_some_and(|next| next.newness_past_one() < newness * FLASH);
        newness >= CUT && stands_out && !is_flash
    }
}

/// Why a seam may be somewhere, the best reason last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// There is a cut, which comes too soon after another one for a key frame.
    SoonCut,
    /// The encoder has a key frame at the latest here, if no cut was missed before.
    Distance,
    /// It has one here.
    Key,
}

/// Where a seam may be.
#[derive(Debug, Clone, Copy)]
struct Place {
    frame: u64,
    reason: Reason,
}

/// Looks for the end of one chunk.
#[derive(Debug, Clone)]
pub struct Search {
    /// The chunk's first frame.
    start: u64,
    window: Window,
    /// How far the encoder's key frames are apart: a cut that comes sooner gets none, and one comes at the latest.
    least_distance: u64,
    distance: Option<u64>,
    /// The first frame that wasn't looked at.
    next: u64,
    /// Where the encoder has its last key frame, for all that is known.
    last_key: u64,
    /// The first place in the window where a key frame stands anyway, and the best of them.
    first: Option<u64>,
    best: Option<Place>,
    /// The frame of which most is new, from the goal on.
    newest: Option<(f64, u64)>,
    /// What it was decided for.
    seam: Option<u64>,
}

impl Search {
    pub fn new(start: FrameNo, window: Window, distances: (u64, Option<u64>)) -> Self {
        let start = start.0;
        let (least_distance, distance) = distances;
        let is_exact = window.least >= window.most;
        Self {
            start,
            window,
            least_distance,
            distance: distance.filter(|&distance| distance > 0),
            next: start.saturating_add(1),
            last_key: start,
            first: None,
            best: None,
            newest: None,
            seam: is_exact.then(|| start.saturating_add(window.most)),
        }
    }

    /// Looks at the frames before this one.
    pub fn look(&mut self, film: &Film, until: FrameNo) {
        while self.seam.is_none() && self.next < until.0 {
            self.consider(film, self.next);
            self.next += 1;
        }
    }

    fn consider(&mut self, film: &Film, frame: u64) {
        let Window { least, goal, most } = self.window;
        let length = frame - self.start;
        let is_far = |best: &Place| {
            // What might be nearer or better, but for what waiting costs.
            let off = match best.reason {
                Reason::Key => goal.abs_diff(best.frame - self.start),
                _ => goal,
            };
            length > goal.saturating_add(off.min(goal / 4))
        };
        if let Some(best) = self.best.filter(is_far) {
            self.seam = Some(best.frame);
            return;
        }
        let since = frame - self.last_key;
        let is_cut = film.is_cut(frame);
        let is_soon = since < self.least_distance;
        let reason = if film.is_asked(frame) || is_cut && !is_soon {
            Some(Reason::Key)
        } else if self.distance == Some(since) {
            Some(Reason::Distance)
        } else {
            is_cut.then_some(Reason::SoonCut)
        };
        if reason > Some(Reason::SoonCut) {
            self.last_key = frame;
        }
        if length < least {
            return;
        }
        if let Some(reason) = reason {
            self.first.get_or_insert(frame);
            let off = |frame: u64| goal.abs_diff(frame - self.start);
            let is_better = self.best.is_none_or(|best| match best.reason == reason {
                true => off(frame) < off(best.frame),
                false => reason > best.reason,
            });
            if is_better {
                self.best = Some(Place { frame, reason });
            }
        }
        let newness = film.newness(frame);
        if length >= goal && self.newest.is_none_or(|(most, _)| newness > most) {
            self.newest = Some((newness, frame));
        }
        if length >= most {
            let newest = self.newest.map_or(frame, |(_, frame)| frame);
            self.seam = Some(self.best.map_or(newest, |best| best.frame));
        }
    }

    /// Where the chunk ends, once that is decided.
    pub fn seam(&self) -> Option<FrameNo> {
        self.seam.map(FrameNo)
    }

    /// Where it ends if no frame comes any more, unless it has all of them.
    pub fn seam_at_end(&mut self, film: &Film, end: FrameNo) -> Option<FrameNo> {
        self.look(film, end);
        let best = self.best.map(|best| best.frame);
        // Where nobody knows what a key frame would cost, a shorter last chunk is worth it.
        let newest = self.newest.filter(|_| self.distance.is_none());
        let newest = newest.map(|(_, frame)| frame);
        self.seam.or(best).or(newest).map(FrameNo)
    }

    /// It doesn't end before this frame.
    pub fn safe_end(&self) -> FrameNo {
        let Window { least, goal, .. } = self.window;
        let after = |length: u64| self.start.saturating_add(length);
        // From the goal on any frame may be the newest one.
        let looked = self.next.clamp(after(least), after(goal).max(after(least)));
        FrameNo(self.seam.or(self.first).unwrap_or(looked))
    }

    /// It ends here at the latest.
    pub fn limit(&self) -> FrameNo {
        FrameNo(self.start.saturating_add(self.window.most))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// So much is new of a hundred.
    pub(in super::super) fn change(new: u32) -> Change {
        Change {
            intra: 1_000,
            inter: new * 10,
            past_one: new * 10,
        }
    }

    /// Nothing moves but at these frames.
    fn film(frames: u64, cuts: &[u64]) -> Film {
        let mut film = Film::default();
        for frame in 0..frames {
            let is_new = |frame: &u64| cuts.contains(frame);
            let mut change = change(if is_new(&frame) { 100 } else { 5 });
            // Compared with what was before the cut.
            if frame.checked_sub(1).is_some_and(|last| is_new(&last)) {
                change.past_one = 1_000;
            }
            film.push(FrameNo(frame), Some(change), false);
        }
        film
    }

    const WINDOW: Window = Window {
        least: 120,
        goal: 250,
        most: 370,
    };

    fn seam(film: &Film, window: Window, distance: Option<u64>) -> Option<u64> {
        let mut search = Search::new(FrameNo(0), window, (24, distance));
        search.look(film, FrameNo(film.looked.len() as u64));
        search.seam().map(|it| it.0)
    }

    #[test]
    fn a_cut_is_preferred_and_among_cuts_the_nearest() {
        let of = |cuts: &[u64]| seam(&film(600, cuts), WINDOW, Some(240));
        assert_eq!(of(&[140]), Some(140));
        assert_eq!(of(&[140, 265, 300]), Some(265));
        assert_eq!(
            of(&[119, 371]),
            Some(359),
            "the distance counts from the last cut"
        );
        assert_eq!(of(&[]), Some(240));
        assert_eq!(of(&[10]), Some(240), "too soon for a key frame");
        assert_eq!(of(&[24]), Some(264));
        assert_eq!(of(&[300]), Some(300), "certain, and not much later");
        assert_eq!(of(&[320]), Some(240), "much later");
        assert_eq!(of(&[200, 220]), Some(200), "the other comes too soon");
    }

    #[test]
    fn without_a_key_frame_anywhere_the_newest_frame_is_taken() {
        let mut film = film(600, &[]);
        film.looked[300].change = Some(change(20));
        film.looked[200].change = Some(change(30));
        assert_eq!(seam(&film, WINDOW, None), Some(300));
        let short = Window {
            most: 290,
            ..WINDOW
        };
        assert_eq!(
            seam(&film, short, Some(1_000)),
            Some(250),
            "the first of those that are alike"
        );
        let unknown = Film {
            looked: vec![Looked::default(); 600].into(),
            ..Film::default()
        };
        assert_eq!(seam(&unknown, WINDOW, None), Some(250));
        assert_eq!(seam(&unknown, WINDOW, Some(240)), Some(240));
    }

    #[test]
    fn a_key_frame_that_is_asked_for_is_a_seam_too() {
        let mut film = film(600, &[]);
        film.looked[130].is_asked = true;
        assert_eq!(seam(&film, WINDOW, Some(240)), Some(130));
        assert_eq!(seam(&film, WINDOW, Some(100)), Some(130), "certain");
    }

    #[test]
    fn a_flash_a_fade_and_repeated_frames_are_no_cuts() {
        let cuts = |film: &Film| -> Vec<u64> {
            let frames = 0..film.looked.len() as u64;
            frames.filter(|&frame| film.is_cut(frame)).collect()
        };
        assert_eq!(cuts(&film(100, &[50])), [50]);
        let mut flash = film(100, &[50, 51]);
        flash.looked[51].change = Some(Change {
            past_one: 50,
            ..change(100)
        });
        assert_eq!(cuts(&flash), [0; 0]);
        let mut fade = film(100, &[]);
        for frame in 40..60 {
            fade.looked[frame].change = Some(change(100));
        }
        assert_eq!(cuts(&fade), [40], "where it begins");
        let mut pairs = film(100, &[]);
        for frame in (0..100).step_by(2) {
            pairs.looked[frame].change = Some(change(90));
        }
        assert_eq!(cuts(&pairs), [0; 0]);
        assert_eq!(cuts(&film(51, &[50])), [50], "nothing comes after it");
    }

    proptest! {
        #[test]
        fn the_seam_lies_in_the_window_and_what_was_safe_stays_so(
            new in prop::collection::vec(prop::option::of(0u32..110), 1..400),
            (least, more, most) in (1u64..80, 0u64..80, 0u64..80),
            (soon, distance) in (0u64..9, prop::option::of(0u64..90)),
            asked in prop::collection::btree_set(0usize..400, 0..4),
            start in 0u64..30,
        ) {
            let window = Window { least, goal: least + more, most: least + more + most };
            let mut film = Film::default();
            let mut search = Search::new(FrameNo(start), window, (soon, distance));
            let mut safe = 0;
            for (frame, new) in new.iter().enumerate() {
                film.push(FrameNo(frame as u64), new.map(change), asked.contains(&frame));
                search.look(&film, FrameNo(frame as u64));
                prop_assert!(search.safe_end().0 >= safe);
                safe = search.safe_end().0;
                prop_assert!(safe >= start + least && safe <= start + window.most);
            }
            if let Some(seam) = search.seam() {
                prop_assert!(seam.0 >= start + least && seam.0 <= start + window.most);
                prop_assert_eq!(seam.0, safe);
            }
            let end = FrameNo(new.len() as u64);
            // Whoever looks later finds the same.
            let mut late = Search::new(FrameNo(start), window, (soon, distance));
            late.look(&film, FrameNo(end.0.saturating_sub(1)));
            prop_assert_eq!((late.seam(), late.safe_end()), (search.seam(), search.safe_end()));
            let at_end = late.seam_at_end(&film, end);
            prop_assert!(at_end.is_none_or(|seam| seam.0 >= start + least && seam >= search.safe_end()));
            // Nobody needs what is forgotten.
            film.forget_before(FrameNo(start));
            let mut after = Search::new(FrameNo(start), window, (soon, distance));
            after.look(&film, FrameNo(end.0.saturating_sub(1)));
            prop_assert_eq!(after.seam(), search.seam());
        }
    }
}
