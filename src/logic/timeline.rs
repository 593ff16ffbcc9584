// SPDX-License-Identifier: MPL-2.0

//! Times: the private ones that encoders see, the frames that they stand for, and the DTS of what leaves.
//!
//! All times are nanoseconds.

use super::ids::FrameNo;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// 1000 hours. Private timestamps begin here, and the output is shifted by as much where DTS would become negative, because that is the
/// minimum PTS that GStreamer's own reordering encoders set (`gst_video_encoder_set_min_pts` in x264enc and its like).
pub const THOUSAND_HOURS: u64 = 1_000 * 3_600 * 1_000_000_000;

/// The latest time there is: the greatest number stands for no time at all.
pub const LATEST: u64 = u64::MAX - 1;

/// Frames that are later than this, 146 years, follow the one before them instead: their time is wrong, and without some room after it
/// nothing that comes later could get a timestamp of its own. (Encoders count with signed numbers besides.)
const FARTHEST: u64 = 1 << 62;

/// No frame counts for more than this where others follow it.
const LONGEST: u64 = THOUSAND_HOURS;

/// More reordering than this is taken for a wrong DTS of the encoder, not for B-frames (H.264 and H.265 allow 16 reference frames).
pub const DEEPEST: usize = 16;

/// Steps back in time up to this are jitter, in nanoseconds: the next frames are expected to be where they would have been
/// without it. Longer ones are jumps: time goes on from there.
const JITTER: u64 = 200_000_000;

/// A frame that is no later than the one before it is moved behind that by this part of a frame's duration.
const NUDGE: u64 = 8;

/// Where no time is left, by this, in nanoseconds: it lasts longer than any stream.
const NUDGE_BEYOND: u64 = 1_000_000;

/// Gives each frame its private timestamp: 1000 h + running time, always increasing.
#[derive(Debug, Default)]
pub struct PrivateClock {
    /// The last timestamp given out; 0: none was.
    last: u64,
    /// Where the frame that got it ends.
    end: u64,
    /// Jumps back so far: what they are added up to.
    offset: u64,
}

impl PrivateClock {
    /// What frames with this running time get from now on, unless they step back.
    pub fn private(&self, running_time: u64) -> u64 {
        THOUSAND_HOURS
            .saturating_add(running_time)
            .saturating_add(self.offset)
    }

    /// The running time from which on no frame has come.
    pub fn after_last(&self) -> u64 {
        self.last.saturating_add(1).saturating_sub(self.private(0))
    }

    /// A frame without a running time follows the one before it; one that isn't later than the one before it is moved
    /// behind it. `duration`: of the frame, as far as it is known.
    pub fn stamp(&mut self, running_time: Option<u64>, duration: u64) -> u64 {
        let duration = duration.clamp(1, LONGEST);
        let wanted = running_time.map(|time| self.private(time));
        let wanted = wanted.filter(|&time| time <= FARTHEST);
        let wanted = match wanted {
            Some(wanted) if wanted.saturating_add(JITTER) < self.last => {
                self.offset = self.offset.saturating_add(self.end - wanted);
                self.end
            }
            Some(wanted) => wanted,
            None => self.end.max(THOUSAND_HOURS),
        };
        let wanted = wanted.min(FARTHEST);
        let nudge = match self.last {
            FARTHEST.. => NUDGE_BEYOND,
            _ => (duration / NUDGE).max(1),
        };
        let stamp = match wanted > self.last {
            true => wanted,
            false => self.last.saturating_add(nudge).min(LATEST),
        };
        self.last = stamp;
        self.end = stamp.saturating_add(duration);
        stamp
    }
}

/// What is known of each frame, found by its number or by its private timestamp.
#[derive(Debug)]
pub struct FrameTable<T> {
    /// Number of the first entry.
    first: FrameNo,
    /// Private timestamp, and what the caller wants to know; the timestamps increase.
    entries: VecDeque<(u64, T)>,
}

impl<T> Default for FrameTable<T> {
    fn default() -> Self {
        Self {
            first: FrameNo(0),
            entries: VecDeque::new(),
        }
    }
}

impl<T> FrameTable<T> {
    /// Adds the next frame.
    pub fn push(&mut self, private: u64, entry: T) {
        self.entries.push_back((private, entry));
    }

    fn index(&self, frame: FrameNo) -> Option<usize> {
        usize::try_from(frame.0.checked_sub(self.first.0)?).ok()
    }

    fn time(&self, index: usize) -> Option<u64> {
        self.entries.get(index).map(|&(private, _)| private)
    }

    pub fn get(&self, frame: FrameNo) -> Option<&T> {
        self.entries.get(self.index(frame)?).map(|(_, entry)| entry)
    }

    pub fn get_mut(&mut self, frame: FrameNo) -> Option<&mut T> {
        let index = self.index(frame)?;
        self.entries.get_mut(index).map(|(_, entry)| entry)
    }

    pub fn private(&self, frame: FrameNo) -> Option<u64> {
        self.time(self.index(frame)?)
    }

    /// The frame that an encoder means by `private`. Encoders that count in units of the frame rate round
    /// the time, so the nearest frame is meant, as long as it is nearer than half a frame.
    pub fn find(&self, private: u64) -> Option<FrameNo> {
        let after = self.entries.partition_point(|&(time, _)| time < private);
        let distance = |index: usize| Some((self.time(index)?.abs_diff(private), index));
        let nearest = [Some(after), after.checked_sub(1)].into_iter().flatten();
        let (distance, index) = nearest.filter_map(distance).min_by_key(|it| it.0)?;
        (distance <= self.reach(index)).then(|| FrameNo(self.first.0 + index as u64))
    }

    /// Half the shorter distance from an entry to its neighbours.
    fn reach(&self, index: usize) -> u64 {
        let neighbours = [index.checked_sub(1), Some(index + 1)];
        let distance = |other: usize| Some(self.time(other)?.abs_diff(self.time(index)?));
        let distances = neighbours.into_iter().flatten().filter_map(distance);
        // The only frame there is: any rounding is forgiven that a frame rate above 1 causes.
        distances.min().map_or(500_000_000, |gap| gap / 2)
    }

    /// The frames with this private timestamp or a later one.
    pub fn from(&self, private: u64) -> impl Iterator<Item = (FrameNo, &T)> {
        let at = self.entries.partition_point(|&(time, _)| time < private);
        let numbers = (self.first.0 + at as u64..).map(FrameNo);
        numbers.zip(self.entries.range(at..).map(|(_, entry)| entry))
    }

    /// The first of these; `None` also if an earlier frame than is known could have that time.
    pub fn first_from(&self, private: u64) -> Option<FrameNo> {
        let (frame, _) = self.from(private).next()?;
        (frame > self.first || frame == FrameNo(0)).then_some(frame)
    }

    /// Forgets the frames before `frame`.
    pub fn forget_before(&mut self, frame: FrameNo) {
        while self.first < frame && self.entries.pop_front().is_some() {
            self.first.0 += 1;
        }
    }
}

/// How far packets are reordered: the most packets that come before one which is shown before them.
pub fn reorder_depth(decoding_order: impl Iterator<Item = FrameNo>) -> usize {
    // In presentation order.
    let mut seen: Vec<FrameNo> = Vec::new();
    let mut depth = 0;
    for frame in decoding_order {
        let at = seen.partition_point(|earlier| *earlier < frame);
        depth = depth.max(seen.len() - at);
        if seen.get(at) != Some(&frame) {
            seen.insert(at, frame);
        }
    }
    depth
}

/// How far an encoder says it may reorder: the frames that its first DTS lies before its first PTS.
pub fn announced_depth(delay: u64, first_times: impl Iterator<Item = u64>) -> usize {
    let mut first = None;
    let mut times = first_times.take(DEEPEST + 1);
    let reaches = |time: u64| time.saturating_sub(*first.get_or_insert(time)) >= delay;
    times.position(reaches).unwrap_or(0)
}

/// A frame's PTS in private time, and what else is known of the frame: it comes with the DTS that is this PTS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown<T> {
    pub private: u64,
    pub of: T,
}

/// A DTS in private time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dts<T> {
    pub private: u64,
    /// The frame whose PTS it is, unless it was made otherwise.
    pub of: Option<T>,
}

/// Makes the DTS, in private time: strictly increasing, and never after the PTS.
///
/// With packets reordered by `depth`, the DTS of packet *i* is the *i − depth*-th PTS in presentation
/// order. That is what encoders with B-frames do themselves at a constant frame rate, it holds at a variable one, and
/// it goes on over a seam as if there was none. A heap of the last `depth` PTS yields it.
#[derive(Debug, Default)]
pub struct Timeline<T: Ord> {
    depth: usize,
    /// PTS that were not yet used as a DTS.
    heap: BinaryHeap<Reverse<Shown<T>>>,
    /// DTS for the next packets that the heap cannot give: the first ones, or where the depth grew.
    ready: VecDeque<u64>,
    last_dts: Option<u64>,
}

impl<T: Copy + Ord> Timeline<T> {
    /// A chunk comes whose packets are reordered by `depth`. `first_pts`: the PTS of its first `depth` + 1 frames
    /// in presentation order, as far as it has so many; `duration`: of one frame.
    pub fn begin_chunk(&mut self, depth: usize, first_pts: &[u64], duration: u64) {
        let Some(&first) = first_pts.first() else {
            return;
        };
        let more = depth.saturating_sub(self.depth);
        match self.last_dts {
            // Before the first PTS, as x264 does: each PTS less the time that the reordering takes.
            None => {
                let pts = |index: usize| {
                    first_pts.get(index).copied().unwrap_or_else(|| {
                        first.saturating_add(duration.saturating_mul(index as u64))
                    })
                };
                let delay = pts(depth).saturating_sub(first);
                self.ready = (0..depth)
                    .map(|index| pts(index).saturating_sub(delay))
                    .collect();
            }
            // As many DTS more between the last one and the one that would be next.
            Some(last) => {
                let next = self.heap.peek().map_or(first, |Reverse(next)| next.private);
                let step = next.saturating_sub(last) / (more as u64 + 1);
                let ready = (1..=more as u64).map(|index| last.saturating_add(step * index));
                self.ready.extend(ready);
            }
        }
        self.depth = self.depth.max(depth);
    }

    /// The DTS of the next packet in decoding order.
    pub fn stamp(&mut self, shown: Shown<T>) -> Dts<T> {
        self.heap.push(Reverse(shown));
        let dts = match self.ready.pop_front() {
            Some(private) => Dts { private, of: None },
            None => {
                let Reverse(earliest) = self.heap.pop().unwrap_or(Reverse(shown));
                Dts {
                    private: earliest.private,
                    of: Some(earliest.of),
                }
            }
        };
        let least = self.last_dts.map_or(0, |last| last.saturating_add(1));
        let private = dts.private.max(least).min(LATEST);
        let of = dts.of.filter(|_| private == dts.private);
        self.last_dts = Some(private);
        Dts { private, of }
    }

    /// The DTS that belongs to a packet which isn't shown itself: just before the next one.
    pub fn stamp_invisible(&mut self, pts: u64) -> Dts<T> {
        let next = self.ready.front().copied();
        let next = next.or_else(|| self.heap.peek().map(|Reverse(next)| next.private));
        let last = self.last_dts.map_or(0, |last| last.saturating_add(1));
        let private = next.unwrap_or(pts).min(pts).saturating_sub(1).max(last);
        self.last_dts = Some(private);
        Dts { private, of: None }
    }
}

/// A time that is as long before `pts`, in a stream of this `rate`, as `private_dts` is before `private_pts` in running time.
pub fn dts_before(pts: u64, private_pts: u64, private_dts: u64, rate: f64) -> u64 {
    let delay = private_pts.saturating_sub(private_dts);
    // (A delay of hours is exact to a nanosecond in this; conversion saturates.)
    let moved = -(delay as f64 * rate) as i64;
    pts.saturating_add_signed(moved).min(LATEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(times: &[u64]) -> FrameTable<()> {
        let mut table = FrameTable::default();
        for &time in times {
            table.push(time, ());
        }
        table
    }

    #[test]
    fn private_times_increase_whatever_comes_in() {
        let mut clock = PrivateClock::default();
        assert_eq!(clock.stamp(None, 40), THOUSAND_HOURS);
        assert_eq!(clock.stamp(None, 40), THOUSAND_HOURS + 40);
        assert_eq!(clock.stamp(Some(100), 40), THOUSAND_HOURS + 100);
        assert_eq!(clock.stamp(Some(100), 40), THOUSAND_HOURS + 105);
        assert_eq!(clock.stamp(Some(90), 0), THOUSAND_HOURS + 106);
        assert_eq!(clock.stamp(Some(140), 40), THOUSAND_HOURS + 140);
        // What is too late for any clock follows the one before it.
        assert_eq!(clock.stamp(Some(u64::MAX), 40), THOUSAND_HOURS + 180);
        assert_eq!(clock.stamp(Some(1 << 62), 40), THOUSAND_HOURS + 220);
        assert_eq!(clock.stamp(Some(500), 40), THOUSAND_HOURS + 500);
    }

    #[test]
    fn time_goes_on_after_a_jump_back() {
        let mut clock = PrivateClock::default();
        let at = |time: u64| time * 1_000_000_000;
        assert_eq!(clock.stamp(Some(at(9)), at(1)), THOUSAND_HOURS + at(9));
        for second in 0..4 {
            let stamp = clock.stamp(Some(at(second)), at(1));
            assert_eq!(stamp, THOUSAND_HOURS + at(10 + second));
        }
    }

    #[test]
    fn a_rounded_time_finds_its_frame_and_a_wrong_one_none() {
        let table = table(&[1_000, 1_040, 1_080]);
        assert_eq!(table.find(1_040), Some(FrameNo(1)));
        assert_eq!(table.find(1_055), Some(FrameNo(1)));
        assert_eq!(table.find(1_065), Some(FrameNo(2)));
        assert_eq!(table.find(990), Some(FrameNo(0)));
        assert_eq!(table.find(970), None);
        assert_eq!(table.find(1_101), None);
        assert_eq!(table.find(u64::MAX), None);
    }

    #[test]
    fn forgotten_frames_keep_the_numbers_of_the_others() {
        let mut table = table(&[0, 10, 20]);
        table.forget_before(FrameNo(2));
        assert_eq!(table.find(20), Some(FrameNo(2)));
        assert_eq!(table.get(FrameNo(1)), None);
        assert_eq!(table.private(FrameNo(2)), Some(20));
        table.forget_before(FrameNo(9));
        assert_eq!(table.find(20), None);
    }

    #[test]
    fn depth_is_measured_and_announced() {
        let depth = |order: &[u64]| reorder_depth(order.iter().map(|&frame| FrameNo(frame)));
        assert_eq!(depth(&[0, 1, 2]), 0);
        assert_eq!(depth(&[0, 2, 1]), 1);
        assert_eq!(depth(&[0, 4, 2, 1, 3]), 2);
        // A packet that isn't shown, and the one of the same frame that is.
        assert_eq!(depth(&[0, 3, 3, 1, 2]), 1);
        let times = [100, 140, 180, 220];
        assert_eq!(announced_depth(0, times.into_iter()), 0);
        assert_eq!(announced_depth(80, times.into_iter()), 2);
        assert_eq!(announced_depth(9_999, times.into_iter()), 0);
    }

    /// Stamps chunks of PTS in decoding order.
    fn stamp(chunks: &[&[u64]]) -> Vec<u64> {
        let mut timeline = Timeline::default();
        let mut out = Vec::new();
        for chunk in chunks {
            let mut sorted = chunk.to_vec();
            sorted.sort_unstable();
            let depth = reorder_depth(chunk.iter().map(|&pts| FrameNo(pts)));
            timeline.begin_chunk(depth, &sorted[..sorted.len().min(depth + 1)], 40);
            out.extend(
                chunk
                    .iter()
                    .map(|&private| timeline.stamp(Shown { private, of: () }).private),
            );
        }
        out
    }

    #[test]
    fn dts_are_those_of_x264_at_a_constant_rate() {
        let dts = stamp(&[&[1000, 1160, 1080, 1040, 1120], &[1200, 1320, 1240, 1280]]);
        assert_eq!(dts, [920, 960, 1000, 1040, 1080, 1120, 1160, 1200, 1240]);
    }

    #[test]
    fn a_dts_comes_with_the_frame_whose_pts_it_is() {
        let mut timeline = Timeline::default();
        timeline.begin_chunk(1, &[1000, 1040], 40);
        let of: Vec<_> = [(1000, 0), (1080, 2), (1040, 1)]
            .into_iter()
            .map(|(private, of)| timeline.stamp(Shown { private, of }))
            .map(|dts| (dts.private, dts.of))
            .collect();
        assert_eq!(of, [(960, None), (1000, Some(0)), (1040, Some(1))]);
    }

    #[test]
    fn a_delay_lasts_as_long_at_any_rate() {
        assert_eq!(dts_before(1_000, 500, 480, 1.0), 980);
        assert_eq!(dts_before(1_000, 500, 480, 2.0), 960);
        assert_eq!(dts_before(1_000, 500, 480, -1.0), 1_020);
        assert_eq!(dts_before(10, 500, 480, 2.0), 0);
        assert_eq!(dts_before(u64::MAX, 500, 0, -1.0), LATEST);
    }

    #[test]
    fn without_reordering_dts_is_pts() {
        assert_eq!(stamp(&[&[1000, 1040], &[1080]]), [1000, 1040, 1080]);
    }

    #[test]
    fn a_depth_that_grows_fits_between_the_times() {
        assert_eq!(
            stamp(&[&[1000, 1040], &[1080, 1160, 1120]]),
            [1000, 1040, 1060, 1080, 1120]
        );
    }

    fn any_time() -> impl Strategy<Value = u64> {
        let ends = prop_oneof![Just(1u64 << 62), Just(1 << 63), Just(u64::MAX)];
        let near = (ends, 0u64..9).prop_map(|(end, before)| end - before);
        prop_oneof![0u64..1_000_000_000_000, near, any::<u64>()]
    }

    proptest! {
        #[test]
        fn private_times_increase_and_leave_room(
            frames in prop::collection::vec((prop::option::of(any_time()), any_time()), 1..300),
        ) {
            let mut clock = PrivateClock::default();
            let mut last = 0;
            for (time, duration) in frames {
                let stamp = clock.stamp(time, duration);
                prop_assert!(stamp > last);
                prop_assert!(stamp <= i64::MAX as u64);
                let _ = (clock.after_last(), clock.private(duration));
                last = stamp;
            }
        }

        #[test]
        fn dts_increase_and_are_not_after_pts(
            gaps in prop::collection::vec(1_000u64..1_000_000_000, 1..200),
            lengths in prop::collection::vec(1usize..30, 1..40),
            swaps in prop::collection::vec((0usize..30, 1usize..5), 0..60),
        ) {
            let mut pts = THOUSAND_HOURS;
            let mut times = gaps.iter().map(|gap| { pts += gap; pts });
            let mut chunks = Vec::new();
            for length in lengths {
                let chunk: Vec<u64> = times.by_ref().take(length).collect();
                if !chunk.is_empty() {
                    chunks.push(chunk);
                }
            }
            // Reorders inside each chunk, its first frame stays first.
            for (chunk, &(at, distance)) in chunks.iter_mut().zip(&swaps) {
                if at >= 1 && at + distance < chunk.len() {
                    let moved = chunk.remove(at + distance);
                    chunk.insert(at, moved);
                }
            }
            let slices: Vec<&[u64]> = chunks.iter().map(Vec::as_slice).collect();
            let dts = stamp(&slices);
            for (dts, pts) in dts.iter().zip(chunks.iter().flatten()) {
                prop_assert!(dts <= pts);
            }
            prop_assert!(dts.is_sorted_by(|a, b| a < b));
        }
    }
}
