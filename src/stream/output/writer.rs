// SPDX-License-Identifier: MPL-2.0

//! Packets as they leave: with the caps, events and tags that stand before them, and with their times. Knows what was sent.

use crate::logic::engine::{FrameTimes, Sending};
use crate::logic::ids::ChunkId;
use crate::logic::keys;
use crate::logic::store::Kind;
use crate::logic::timeline::{LATEST, Shown, THOUSAND_HOURS, Timeline, dts_before};
use crate::media::bitstream::{Described, Format, as_first, compare, sets_for_band};
use crate::stream::video::{Context, Video, same_bytes};
use std::sync::Arc;

/// What the task sends, one after the other.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) events: Vec<gst::Event>,
    /// Stream headers, again.
    pub(super) headers: Vec<gst::Buffer>,
    /// A packet, or stream headers.
    pub(super) packet: Option<gst::Buffer>,
}

/// A frame's PTS as it is sent, and the segment that it is of.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SentPts {
    segment: u64,
    pts: Option<u64>,
}

/// What has been sent; replaced at a flush.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    timeline: Timeline<SentPts>,
    /// Largest reordering so far, in packets.
    depth: usize,
    /// What PTS, DTS and the segment are moved by; decided with the first packet.
    shift: Option<gst::ClockTime>,
    pub(super) caps: Option<gst::Caps>,
    /// Those of the last packet's encoder, where only parameter sets differ that go in band.
    encoder_caps: Option<gst::Caps>,
    /// The encoder is told something else from here on, so that it may describe another stream.
    caps_may_change: bool,
    /// Of the chunk of the last packet.
    context: Option<Arc<Context>>,
    tags: Vec<gst::TagList>,
    headers: Vec<gst::Buffer>,
    /// The chunk of the last packet.
    chunk: Option<ChunkId>,
    /// As it left.
    segment: gst::FormattedSegment<gst::ClockTime>,
    /// Counts segments: timestamps of different ones aren't compared.
    segments: u64,
    any_buffer: bool,
    bytes: u64,
    /// The time that all of it is shown, unless a packet has no duration.
    time: gst::ClockTime,
    is_timeless: bool,
}

impl Writer {
    /// A flush has forgotten what was sent, but for what is still true of the stream. `caps`: those that downstream really has.
    pub(in crate::stream) fn flushed(&mut self, caps: Option<gst::Caps>) {
        let tags = std::mem::take(&mut self.tags);
        *self = Self {
            caps,
            tags,
            ..Self::default()
        };
    }

    /// Bytes that have left, and the time that they are shown; no time where nobody can tell.
    pub(super) fn sent_amount(&self) -> (u64, gst::ClockTime) {
        let time = match self.is_timeless {
            true => gst::ClockTime::ZERO,
            false => self.time,
        };
        (self.bytes, time)
    }

    /// Events that no packet follows.
    pub(super) fn events(&mut self, events: Vec<gst::Event>) -> Outgoing {
        let mut out = Outgoing::default();
        self.push_events(events, None, &mut out.events);
        out
    }

    /// A packet, and before it what stands before it. An error says how its encoder describes another stream than the one that was begun,
    /// where the format can't say so in band.
    pub(super) fn packet(&mut self, sending: Sending<Video>) -> Result<Outgoing, String> {
        let Sending {
            chunk,
            frame,
            kind,
            mut packet,
            opens,
            events,
            answers,
            ..
        } = sending;
        let mut out = Outgoing::default();
        if let Some(opens) = &opens {
            self.depth = self.depth.max(opens.depth);
            let shift = if self.depth > 0 { THOUSAND_HOURS } else { 0 };
            let shift = gst::ClockTime::from_nseconds(shift);
            self.shift.get_or_insert(shift);
        }
        if self.chunk != Some(chunk) {
            self.chunk = Some(chunk);
            self.begin_chunk(packet.context.take());
        }
        let (caps, sets) = self.described(packet.caps.take())?;
        let mut buffer = self.with_sets(packet.buffer, &sets);
        self.push_events(events, caps, &mut out.events);
        self.caps_may_change = false;
        self.push_new_tags(packet.tags, &mut out.events);
        if let Some(opens) = &opens {
            let duration = opens.duration.unwrap_or(1);
            self.timeline
                .begin_chunk(self.depth, &opens.first, duration);
        }
        let wants_headers = answers.iter().any(|request| request.all_headers);
        if let (true, Some(sets)) = (wants_headers, &packet.sets) {
            buffer = self.with_sets(buffer, sets);
        }
        let buffer = match frame {
            Some(frame) => {
                let is_shown = kind != Kind::Invisible;
                self.stamped(buffer, frame.private, frame.times, is_shown)
            }
            None if self.is_known_header(&buffer) => return Ok(out),
            None => buffer,
        };
        let buffer = self.counted(buffer, kind);
        self.push_answers(&answers, buffer.pts(), &mut out.events);
        if wants_headers {
            out.headers.clone_from(&self.headers);
        }
        out.packet = Some(buffer);
        Ok(out)
    }

    /// The packet with these parameter sets in it, if there are any.
    fn with_sets(&self, buffer: gst::Buffer, sets: &[Vec<u8>]) -> gst::Buffer {
        if sets.is_empty() {
            return buffer;
        }
        let format = self.encoder_caps.as_deref().map(Format::of);
        as_first(buffer, format.unwrap_or_default(), sets)
    }

    /// The packets that come are of another chunk. What its encoder makes may be something else if it was told something else.
    fn begin_chunk(&mut self, context: Option<Arc<Context>>) {
        let told = |context: &Context| (context.caps.clone(), context.downstream.clone());
        let is_same = match (&self.context, &context) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new) || told(old) == told(new),
            _ => false,
        };
        self.caps_may_change |= !is_same;
        self.context = context;
    }

    /// What downstream is told before a packet of an encoder with these caps: the caps, if they are another stream's and
    /// may be; and the parameter sets that go in band. An error where they may not.
    fn described(
        &mut self,
        caps: Option<gst::Caps>,
    ) -> Result<(Option<gst::Caps>, Vec<Vec<u8>>), String> {
        let Some(is) = caps else {
            return Ok((None, Vec::new()));
        };
        let last = self.encoder_caps.as_ref();
        if last.is_some_and(|last| last.as_ptr() == is.as_ptr()) {
            return Ok((None, Vec::new()));
        }
        // The same or not: the next packet most likely has these.
        let last = self.encoder_caps.replace(is.clone());
        if last.as_ref() == Some(&is) {
            return Ok((None, Vec::new()));
        }
        let described = match &self.caps {
            // Other sets may have come in band meanwhile.
            Some(was) if *was == is && last.is_some() => Described::InBand(sets_for_band(&is)),
            Some(was) if *was == is => Described::Same,
            Some(was) if !self.caps_may_change => compare(was, &is),
            _ => {
                self.caps = Some(is.clone());
                self.headers.clear();
                return Ok((Some(is), Vec::new()));
            }
        };
        match described {
            Described::Same => Ok((None, Vec::new())),
            Described::InBand(sets) => Ok((None, sets)),
            Described::Differently(differences) => Err(differences),
        }
    }

    /// How far the stream is that was sent, in stream time; `None`: no segment was.
    pub(super) fn position(&self) -> Option<gst::ClockTime> {
        let started = (self.segments > 0).then_some(&self.segment)?;
        started.to_stream_time(started.position())
    }

    fn shift(&self) -> gst::ClockTime {
        self.shift.unwrap_or(gst::ClockTime::ZERO)
    }

    /// The events that stood before a packet, with `caps`: what was still to be said of a stream that is over comes before the next one.
    fn push_events(
        &mut self,
        mut events: Vec<gst::Event>,
        caps: Option<gst::Caps>,
        out: &mut Vec<gst::Event>,
    ) {
        // Mostly so.
        if events.is_empty() && caps.is_none() {
            return;
        }
        let over = events
            .iter()
            .rposition(|it| it.type_() == gst::EventType::Eos);
        let next = events.split_off(over.map_or(0, |last| last + 1));
        self.push_of_one_stream(events, None, out);
        self.push_of_one_stream(next, caps, out);
    }

    /// STREAM_START, then `caps`, then the others.
    fn push_of_one_stream(
        &mut self,
        events: Vec<gst::Event>,
        caps: Option<gst::Caps>,
        out: &mut Vec<gst::Event>,
    ) {
        let is_start = |event: &gst::Event| event.type_() == gst::EventType::StreamStart;
        let (starts, others): (Vec<_>, Vec<_>) = events.into_iter().partition(is_start);
        if !starts.is_empty() {
            // It takes the tags of the last stream from all that comes after us.
            self.tags.clear();
        }
        let caps = caps.map(|caps| gst::event::Caps::new(&caps));
        out.extend(starts.into_iter().chain(caps));
        for event in others {
            let event = match event.view() {
                gst::EventView::Segment(segment) => {
                    let segment = shifted_segment(segment, self.shift());
                    if let gst::EventView::Segment(shifted) = segment.view()
                        && let Some(times) = shifted.segment().downcast_ref()
                    {
                        self.segment = times.clone();
                        self.segments += 1;
                    }
                    segment
                }
                gst::EventView::Tag(tag) => self.merged(tag, &event),
                _ => event,
            };
            out.push(event);
        }
    }

    /// Tags that no encoder gets any more, as the last one would have merged them.
    fn merged(&self, new: &gst::event::Tag, event: &gst::Event) -> gst::Event {
        let new = new.tag_owned();
        let is_stream = |tags: &&gst::TagList| tags.scope() == gst::TagScope::Stream;
        match self.tags.iter().find(is_stream) {
            // What is said of the encoded video stays, as upstream doesn't know it.
            Some(sent) if is_stream(&&new) => {
                gst::event::Tag::new(new.merge(sent, gst::TagMergeMode::Replace))
            }
            _ => event.clone(),
        }
    }

    /// Says which requests the key frame answers.
    fn push_answers(
        &self,
        answers: &[keys::Request],
        pts: Option<gst::ClockTime>,
        out: &mut Vec<gst::Event>,
    ) {
        for request in answers {
            let event = gst_video::DownstreamForceKeyUnitEvent::builder()
                .timestamp(pts)
                .stream_time(self.segment.to_stream_time(pts))
                .running_time(self.segment.to_running_time(pts))
                .all_headers(request.all_headers)
                .count(request.count)
                .build();
            out.push(event);
        }
    }

    fn push_new_tags(&mut self, events: Vec<gst::Event>, out: &mut Vec<gst::Event>) {
        for event in events {
            let gst::EventView::Tag(tag) = event.view() else {
                continue;
            };
            let tags = tag.tag_owned();
            let same_scope = |sent: &gst::TagList| sent.scope() == tags.scope();
            let known = self.tags.iter().position(same_scope);
            match known {
                Some(at) if self.tags[at] == tags => continue,
                Some(at) => self.tags[at] = tags,
                None => self.tags.push(tags),
            }
            out.push(event);
        }
    }

    /// The packet with the times of its frame.
    fn stamped(
        &mut self,
        mut buffer: gst::Buffer,
        private: u64,
        times: FrameTimes,
        is_shown: bool,
    ) -> gst::Buffer {
        let pts = times.pts.map(|pts| {
            let shifted = pts.saturating_add(self.shift().nseconds());
            shifted.min(LATEST)
        });
        let segment = self.segments;
        let dts = match is_shown {
            true => self.timeline.stamp(Shown {
                private,
                of: SentPts { segment, pts },
            }),
            false => self.timeline.stamp_invisible(private),
        };
        // The PTS of another frame of this segment, or what is as long before this one's in running time.
        let of_segment = dts.of.filter(|of| of.segment == segment);
        let of_frame = of_segment.and_then(|of| of.pts);
        let rate = self.segment.rate();
        let dts =
            pts.map(|pts| of_frame.unwrap_or_else(|| dts_before(pts, private, dts.private, rate)));
        let stamped = buffer.make_mut();
        stamped.set_pts(pts.map(gst::ClockTime::from_nseconds));
        stamped.set_dts(dts.map(gst::ClockTime::from_nseconds));
        if let Some(duration) = times.duration.filter(|_| is_shown) {
            stamped.set_duration(gst::ClockTime::from_nseconds(duration));
        }
        let end = pts.map(|pts| pts.saturating_add(times.duration.unwrap_or(0)).min(LATEST));
        let edge = if rate < 0.0 { pts } else { end }.map(gst::ClockTime::from_nseconds);
        let at = self.segment.position();
        // Packets come in decoding order.
        self.segment
            .set_position(if rate < 0.0 { edge } else { at.max(edge) });
        buffer
    }

    /// Stream headers that were sent before. Others are remembered.
    fn is_known_header(&mut self, buffer: &gst::Buffer) -> bool {
        let is_known = self.headers.iter().any(|sent| same_bytes(sent, buffer));
        if !is_known {
            let mut again = buffer.clone();
            again.make_mut().unset_flags(gst::BufferFlags::DISCONT);
            self.headers.push(again);
        }
        is_known
    }

    /// The packet as it is sent: only the first one is a beginning.
    fn counted(&mut self, mut buffer: gst::Buffer, kind: Kind) -> gst::Buffer {
        let discont = !std::mem::replace(&mut self.any_buffer, true);
        self.bytes += buffer.size() as u64;
        if matches!(kind, Kind::Key | Kind::Delta) {
            let time = buffer.duration();
            self.is_timeless |= time.is_none();
            self.time = self.time.saturating_add(time.unwrap_or_default());
        }
        if buffer.flags().contains(gst::BufferFlags::DISCONT) != discont {
            let buffer = buffer.make_mut();
            if discont {
                buffer.set_flags(gst::BufferFlags::DISCONT);
            } else {
                buffer.unset_flags(gst::BufferFlags::DISCONT);
            }
        }
        buffer
    }
}

/// The segment moved by `shift`, as GstVideoEncoder moves it for encoders that set a minimum PTS.
fn shifted_segment(event: &gst::event::Segment, shift: gst::ClockTime) -> gst::Event {
    let mut segment = event.segment().clone();
    if let Some(times) = segment.downcast_mut::<gst::ClockTime>() {
        let moved = |time: Option<gst::ClockTime>| time.map(|time| time.saturating_add(shift));
        times.set_start(moved(times.start()));
        times.set_stop(moved(times.stop()));
        times.set_position(moved(times.position()));
    }
    gst::event::Segment::builder(&segment)
        .seqnum(event.seqnum())
        .running_time_offset(event.running_time_offset())
        .build()
}
