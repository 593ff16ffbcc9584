// SPDX-License-Identifier: MPL-2.0

//! Raw frames in flight: how many may be held, and which frame may not be made to wait.

/// Counts the raw frames that the element holds against two limits: the plan's, and one in bytes that may change at any time.
#[derive(Debug)]
pub struct Budget {
    /// No frame is admitted that would raise `held_frames` above this, unless it is urgent.
    pub limit_frames: u64,
    pub held_bytes: u64,
    held_frames: u64,
    pub peak_bytes: u64,
}

impl Budget {
    pub fn new(limit_frames: u64) -> Self {
        Self {
            limit_frames,
            held_bytes: 0,
            held_frames: 0,
            peak_bytes: 0,
        }
    }

    /// A frame of `bytes` wants in, and would let no more than `most_bytes` be held: `true` counts it as held, with `false` it waits until frames were released. `urgent`: the oldest
    /// unfinished chunk can't finish without it, so making it wait would be waiting for ourselves. (No plan has a chunk that is
    /// larger than the limit that it was made with, so an urgent frame exceeds it only where buffers are larger than their caps
    /// announce, or where the limit was lowered since.)
    #[must_use]
    pub fn admit(&mut self, bytes: u64, most_bytes: u64, urgent: bool) -> bool {
        let held_bytes = self.held_bytes.saturating_add(bytes);
        let fits = held_bytes <= most_bytes && self.held_frames < self.limit_frames;
        if fits || urgent {
            self.held_bytes = held_bytes;
            self.held_frames += 1;
            self.peak_bytes = self.peak_bytes.max(held_bytes);
        }
        fits || urgent
    }

    /// A frame of `bytes` that was admitted is let go.
    pub fn release(&mut self, bytes: u64) {
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
        self.held_frames = self.held_frames.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_at_either_limit_and_resumes_on_release() {
        let mut bytes = Budget::new(10);
        assert!(bytes.admit(60, 100, false));
        assert!(!bytes.admit(60, 100, false));
        bytes.release(60);
        assert!(bytes.admit(60, 100, false));

        let mut frames = Budget::new(1);
        assert!(frames.admit(1, 100, false));
        assert!(!frames.admit(1, 100, false));
    }

    #[test]
    fn an_urgent_frame_never_waits_and_is_counted() {
        let mut budget = Budget::new(1);
        assert!(budget.admit(10, 10, false));
        assert!(budget.admit(10, 10, true));
        assert_eq!(budget.held_bytes, 20);
        assert_eq!(budget.held_frames, 2);
        budget.release(10);
        budget.release(10);
        assert_eq!(budget.held_bytes, 0);
        assert_eq!(budget.peak_bytes, 20);
    }

    #[test]
    fn sizes_near_the_end_of_the_range_do_not_overflow() {
        let mut budget = Budget::new(u64::MAX);
        assert!(budget.admit(u64::MAX, u64::MAX, true));
        assert!(budget.admit(u64::MAX, u64::MAX, true));
        assert_eq!(budget.held_bytes, u64::MAX);
    }
}
