// SPDX-License-Identifier: MPL-2.0

//! Raw frames in flight: how many may be held, and which frame may not be made to wait.

/// What the caller does with a frame that stands at the door.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Take the frame; it is counted as held.
    Admitted,
    /// Wait until frames were released, then ask again.
    Full,
}

/// Counts the raw frames that the element holds against the two limits of the plan.
#[derive(Debug)]
pub struct Budget {
    /// No frame is admitted that would raise `held_bytes` above this, unless it is urgent.
    limit_bytes: u64,
    /// No frame is admitted that would raise `held_frames` above this, unless it is urgent.
    limit_frames: u64,
    held_bytes: u64,
    held_frames: u64,
    peak_bytes: u64,
}

impl Budget {
    pub fn new(limit_bytes: u64, limit_frames: u64) -> Self {
        Self {
            limit_bytes,
            limit_frames,
            held_bytes: 0,
            held_frames: 0,
            peak_bytes: 0,
        }
    }

    /// A frame of `bytes` wants in. `urgent`: the oldest unfinished chunk cannot finish without it, so
    /// making it wait would be waiting for ourselves. (The planner refuses plans where one chunk is
    /// larger than the limit, so an urgent frame exceeds it only where buffers are larger than their
    /// caps announce.)
    pub fn admit(&mut self, bytes: u64, urgent: bool) -> Admission {
        let fits = self.held_bytes.saturating_add(bytes) <= self.limit_bytes
            && self.held_frames < self.limit_frames;
        if !fits && !urgent {
            return Admission::Full;
        }
        self.held_bytes = self.held_bytes.saturating_add(bytes);
        self.held_frames += 1;
        self.peak_bytes = self.peak_bytes.max(self.held_bytes);
        Admission::Admitted
    }

    /// A frame of `bytes` that was admitted is let go.
    pub fn release(&mut self, bytes: u64) {
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
        self.held_frames = self.held_frames.saturating_sub(1);
    }

    /// Other frames come from now on (new caps): new limits, what is held stays counted.
    pub fn set_limits(&mut self, limit_bytes: u64, limit_frames: u64) {
        self.limit_bytes = limit_bytes;
        self.limit_frames = limit_frames;
    }

    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_at_either_limit_and_resumes_on_release() {
        let mut bytes = Budget::new(100, 10);
        assert_eq!(bytes.admit(60, false), Admission::Admitted);
        assert_eq!(bytes.admit(60, false), Admission::Full);
        bytes.release(60);
        assert_eq!(bytes.admit(60, false), Admission::Admitted);

        let mut frames = Budget::new(100, 1);
        assert_eq!(frames.admit(1, false), Admission::Admitted);
        assert_eq!(frames.admit(1, false), Admission::Full);
    }

    #[test]
    fn an_urgent_frame_never_waits_and_is_counted() {
        let mut budget = Budget::new(10, 1);
        assert_eq!(budget.admit(10, false), Admission::Admitted);
        assert_eq!(budget.admit(10, true), Admission::Admitted);
        assert_eq!(budget.held_bytes(), 20);
        assert_eq!(budget.held_frames, 2);
        budget.release(10);
        budget.release(10);
        assert_eq!(budget.held_bytes(), 0);
        assert_eq!(budget.peak_bytes(), 20);
    }

    #[test]
    fn sizes_near_the_end_of_the_range_do_not_overflow() {
        let mut budget = Budget::new(u64::MAX, u64::MAX);
        assert_eq!(budget.admit(u64::MAX, true), Admission::Admitted);
        assert_eq!(budget.admit(u64::MAX, true), Admission::Admitted);
        assert_eq!(budget.held_bytes(), u64::MAX);
    }
}
