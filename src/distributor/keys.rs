// SPDX-License-Identifier: MPL-2.0

//! Key frames that are asked for: what the events say, and what becomes of those for frames that were taken in already.

use super::state::State;
use crate::aggregator;
use crate::encoder::profile::ForcedKey;
use crate::logic::ids::FrameNo;
use crate::logic::keys;
use crate::media::raw::{UNKNOWN_DURATION, frame_duration};

impl State {
    /// Downstream asks for a key frame. Frames are taken in long before they leave: as long as that frame's chunk hasn't left, it is
    /// forced there, if need be in another attempt at the chunk; otherwise the next key frame answers. Those that are going to be
    /// asked for next are made with it.
    pub(super) fn key_asked(
        &mut self,
        aggregator: &aggregator::imp::Aggregator,
        request: keys::Request,
        key_interval: u64,
    ) {
        match request.time.and_then(|time| self.first_shown_at(time)) {
            // Its frame hasn't come, or it is gone: was it a key frame that hasn't left?
            None => match request.time.and_then(|time| self.known_at(time)) {
                Some(known) => aggregator.key_asked(known, request),
                None => self.keys.ask(request),
            },
            Some(frame) => {
                let is_key = self.keys.next_known(frame) == Some(frame)
                    || self.force_taken_in(aggregator, frame);
                let answer = if is_key {
                    Some(frame)
                } else {
                    self.keys.next_known(frame)
                };
                match answer {
                    Some(answer) => aggregator.key_asked(answer, request),
                    None => self.keys.ask(request),
                }
            }
        }
        for time in self.expected_after(aggregator, request, key_interval) {
            let frame = self.first_shown_at(time);
            if let Some(frame) = frame.filter(|it| self.keys.next_known(*it) != Some(*it)) {
                self.force_taken_in(aggregator, frame);
            }
        }
    }

    /// The first frame that was taken in and is shown at this running time, or after it.
    fn first_shown_at(&self, time: u64) -> Option<FrameNo> {
        let stream = self.stream.as_ref()?;
        stream.frames.first_from(stream.clock.private(time))
    }

    fn known_at(&self, time: u64) -> Option<FrameNo> {
        let stream = self.stream.as_ref()?;
        self.keys.known_at(stream.clock.private(time))
    }

    /// Moments in what was taken in for which the next requests are to be expected.
    fn expected_after(
        &mut self,
        aggregator: &aggregator::imp::Aggregator,
        request: keys::Request,
        key_interval: u64,
    ) -> Vec<u64> {
        let (Some(stream), Some(caps)) = (&self.stream, &self.caps) else {
            return Vec::new();
        };
        let Some(time) = request.time else {
            return Vec::new();
        };
        let frame = frame_duration(caps).unwrap_or(UNKNOWN_DURATION).nseconds();
        // What is held, and what was encoded and waits to leave.
        let plan = stream.planner.plan();
        let waiting = plan.length.longest().saturating_mul(stream.roster.window());
        let depth = frame.saturating_mul(plan.capacity_frames.saturating_add(waiting));
        let least = frame.saturating_mul(plan.min_frames).max(key_interval);
        let first = aggregator.first_key().filter(|_| aggregator.is_heralded());
        let until = stream.clock.after_last();
        self.keys.expect(time, first, least, depth, until)
    }

    /// Forces a key frame at a frame that was taken in, unless it is too late for that.
    fn force_taken_in(&mut self, aggregator: &aggregator::imp::Aggregator, frame: FrameNo) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let Some(owner) = stream.planner.owner(frame) else {
            return false;
        };
        if stream.frames.get(frame).is_none_or(Option::is_none) {
            return false;
        }
        let was_fed = stream.on_trial.contains_key(&owner)
            || self.slots.iter().any(|slot| {
                stream.roster.chunk_of(slot.session.id) == Some(owner)
                    && slot.progress.position > frame
            });
        if was_fed {
            let ignores = self
                .decision
                .as_ref()
                .is_some_and(|decision| decision.profile.forced_key == ForcedKey::Ignored);
            if ignores || !self.begin_anew(owner, aggregator) {
                return false;
            }
        }
        let Some(stream) = &mut self.stream else {
            return false;
        };
        self.keys.comes(frame, stream.private(frame));
        if let Some(held) = stream.frames.get_mut(frame).and_then(Option::as_mut) {
            held.force_key = true;
        }
        true
    }
}

/// What a force-key-unit event asks for, and the event that says the same from upstream.
pub(super) fn key_request(event: &gst::EventRef) -> Option<(keys::Request, gst::Event)> {
    if !gst_video::ForceKeyUnitEvent::is(event) {
        return None;
    }
    let (time, all_headers, count) = match gst_video::ForceKeyUnitEvent::parse(event).ok()? {
        gst_video::ForceKeyUnitEvent::Downstream(it) => (it.running_time, it.all_headers, it.count),
        gst_video::ForceKeyUnitEvent::Upstream(it) => (it.running_time, it.all_headers, it.count),
    };
    let request = keys::Request {
        time: time.map(gst::ClockTime::nseconds),
        all_headers,
        count,
    };
    let as_of_upstream = gst_video::DownstreamForceKeyUnitEvent::builder()
        .running_time(time)
        .all_headers(all_headers)
        .count(count)
        .build();
    Some((request, as_of_upstream))
}
