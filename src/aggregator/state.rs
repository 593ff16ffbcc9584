// SPDX-License-Identifier: MPL-2.0

//! What the aggregator knows, and what it sends next. Decides only; `imp` acts.

use super::recorder::Recorder;
use crate::cache::Recording;
use crate::logic::frame::{ChunkId, FrameNo, FrameRange, SessionId};
use crate::logic::keys;
use crate::logic::pace::{Pace, Stall};
use crate::logic::reorder::{Accepted, Fault, Kind, Pop, Reorder};
use crate::logic::timeline::{
    DEEPEST, FrameTable, LATEST, THOUSAND_HOURS, Timeline, announced_depth, reorder_depth,
};
use crate::session::bitstream::{self, Described, Format};
use std::collections::{BTreeMap, VecDeque};
use twox_hash::XxHash3_128;

/// A frame's own times, as upstream gave them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameTimes {
    pub(crate) pts: Option<gst::ClockTime>,
    pub(crate) duration: Option<gst::ClockTime>,
}

/// A packet in the store.
#[derive(Debug)]
pub(super) struct Packet {
    buffer: gst::Buffer,
    /// As its encoder made it, until it is sent.
    made: Option<gst::Buffer>,
    /// Caps of the session when it made this packet.
    caps: Option<gst::Caps>,
    /// TAG events that the encoder sent between the last packet and this one.
    tags: Vec<gst::Event>,
    /// Reordering that the session's encoder announced by its first DTS.
    announced: usize,
}

/// One session's side of the aggregator; replaced for each attempt.
#[derive(Debug, Default)]
pub(super) struct Feed {
    chunk: Option<ChunkId>,
    /// The frame that its encoder is fed first.
    first: Option<FrameNo>,
    /// What downstream accepts, as the attempt's encoder sees it.
    downstream: Option<gst::Caps>,
    caps: Option<gst::Caps>,
    /// What the caps declare.
    format: Format,
    /// The alignment by which its packets are parts of frames.
    parts: Option<String>,
    /// The parameter sets of the attempt's first packet, which some encoders send just once.
    sets: Option<Vec<Vec<u8>>>,
    /// It has made a packet of a frame.
    pub(super) proven: bool,
    /// What its first picture is.
    pub(super) opens_with: Option<Kind>,
    /// So many packets have come.
    pub(super) packets: u64,
    pub(super) waits_for_room: bool,
    /// Its chunk is whole: what it still makes is nobody's.
    pub(super) is_whole: bool,
    /// What it makes is to be kept.
    recorder: Option<Recorder>,
    tags: Vec<gst::Event>,
    announced: Option<usize>,
    fault: Option<Fault>,
}

/// What the task sends at once, in this order.
#[derive(Debug)]
pub(super) struct Batch {
    /// Events, and stream headers. Most packets have none.
    pub(super) before: Vec<Item>,
    pub(super) packet: Option<gst::Buffer>,
}

/// What may come before a packet.
#[derive(Debug)]
pub(super) enum Item {
    Event(gst::Event),
    Buffer(gst::Buffer),
}

/// The first packets, which leave before their chunk is whole: what comes after us may ask for key frames when it sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Herald {
    /// It doesn't, or it has.
    No,
    /// It may.
    Wanted,
    /// It leaves. Downstream doesn't have it yet.
    Leaves,
}

/// What the task does next.
#[must_use]
pub(super) enum Step {
    /// Send this.
    Send(Batch),
    /// Send this, the last that leaves before its chunk is whole, and tell the distributor that downstream has it.
    SendAhead(Batch),
    /// All chunks before this one have left, all frames before `end`: tell the distributor.
    Left { next: ChunkId, end: FrameNo },
    /// Nothing can leave.
    Wait,
    /// A later chunk's encoder describes another stream than the one that was begun: fail.
    CapsDiffer {
        chunk: ChunkId,
        /// What differs.
        differences: String,
    },
}

/// What has been sent; replaced at a flush.
#[derive(Debug, Default)]
struct Sent {
    caps: Option<gst::Caps>,
    /// Those of the last packet's encoder, where only parameter sets differ that go in band.
    encoder_caps: Option<gst::Caps>,
    tags: Vec<gst::TagList>,
    headers: Vec<gst::Buffer>,
    /// The chunk of the last packet.
    chunk: Option<ChunkId>,
    /// As it left, and its first frame.
    segment: gst::FormattedSegment<gst::ClockTime>,
    segment_from: FrameNo,
    any_buffer: bool,
    frames: u64,
    bytes: u64,
    /// The time that all of it is shown, unless a packet has no duration.
    time: gst::ClockTime,
    is_timeless: bool,
}

pub(super) struct State {
    pub(super) reorder: Reorder<Packet>,
    frames: FrameTable<FrameTimes>,
    timeline: Timeline,
    /// Largest reordering seen so far, in packets.
    depth: usize,
    /// What PTS, DTS and the segment are moved by; decided with the first packet.
    shift: Option<gst::ClockTime>,
    /// Serialized events, each with the frame that it stood before; the frames increase.
    events: VecDeque<(FrameNo, gst::Event)>,
    /// How many of them are the end of a stream or a segment.
    ends: usize,
    herald: Herald,
    /// An encoder whose first DTS is its PTS doesn't reorder.
    announces: bool,
    /// The packets that leave so.
    heralds: VecDeque<(ChunkId, Option<FrameNo>, Packet)>,
    /// Packets of the next chunk that left before it was whole: of which frame, and a digest of what their encoder made.
    ahead: Vec<(Option<FrameNo>, Option<u128>)>,
    /// Running time of the first key frame that left, in nanoseconds.
    first_key: Option<u64>,
    /// Requests for key frames, each with the frame from which on a key frame answers it.
    keys: BTreeMap<FrameNo, Vec<keys::Request>>,
    /// What downstream accepts, as encoders see it that have no chunk yet.
    pub(super) downstream: Option<gst::Caps>,
    pub(super) feeds: Vec<Feed>,
    sent: Sent,
    /// New raw caps were passed, so the next chunk's caps may differ.
    caps_may_change: bool,
    /// EOS has come in, and no frame since.
    ended: bool,
    /// Whether the input stands still.
    pub(super) pace: Pace,
    /// That it did was said.
    stall_told: bool,
    /// Longest time of video that is held back, as planned.
    pub(super) holds_back: Option<gst::ClockTime>,
    /// Nothing is sent any more until the next start.
    pub(super) stopped: bool,
    pub(super) flushing: bool,
    /// What downstream returned, where that was an error.
    pub(super) flow: Result<(), gst::FlowError>,
    /// Some encoder has made a packet of a frame.
    pub(super) proven: bool,
    /// A chunk was begun with a key frame.
    pub(super) begun: bool,
    /// A chunk could not be encoded: neither it nor what comes after it is going to leave.
    pub(super) failed: bool,
}

impl State {
    pub(super) fn new(sessions: usize) -> Self {
        Self {
            reorder: Reorder::default(),
            frames: FrameTable::default(),
            timeline: Timeline::default(),
            depth: 0,
            shift: None,
            events: VecDeque::new(),
            ends: 0,
            herald: Herald::No,
            announces: false,
            heralds: VecDeque::new(),
            ahead: Vec::new(),
            first_key: None,
            keys: BTreeMap::new(),
            downstream: None,
            feeds: (0..sessions).map(|_| Feed::default()).collect(),
            sent: Sent::default(),
            caps_may_change: true,
            ended: false,
            pace: Pace::default(),
            stall_told: false,
            holds_back: None,
            stopped: false,
            flushing: false,
            flow: Ok(()),
            proven: false,
            begun: false,
            failed: false,
        }
    }

    /// The state after a flush: what is still true of the stream stays, sent or not. `caps`: those that
    /// downstream really has.
    pub(super) fn flushed(&mut self, caps: Option<gst::Caps>) -> Self {
        let stays = |event: &gst::Event| {
            let ends = [gst::EventType::Segment, gst::EventType::Eos];
            event.is_sticky() && !ends.contains(&event.type_())
        };
        let events = std::mem::take(&mut self.events).into_iter();
        let mut pace = std::mem::take(&mut self.pace);
        pace.interrupted();
        // An encoder that waits for its first chunk has told its caps already.
        let feeds = std::mem::take(&mut self.feeds);
        Self {
            events: events
                .filter(|(_, event)| stays(event))
                .map(|(_, event)| (FrameNo(0), event))
                .collect(),
            sent: Sent {
                caps,
                tags: std::mem::take(&mut self.sent.tags),
                frames: self.sent.frames,
                ..Sent::default()
            },
            downstream: self.downstream.take(),
            holds_back: self.holds_back,
            stopped: self.stopped,
            proven: self.proven,
            pace,
            stall_told: self.stall_told,
            feeds,
            ..Self::new(0)
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.stopped || self.flushing
    }

    /// Frames are under way and more may come: time until the input has stood still for too long.
    pub(super) fn time_to_stall(&self, now: u64) -> Option<u64> {
        let under_way =
            !self.reorder.is_empty() && !self.ended && self.flow.is_ok() && !self.failed;
        self.pace.time_left(now).filter(|_| under_way)
    }

    /// The input has stood still for too long: what is held leaves early.
    pub(super) fn stalls(&mut self, now: u64) -> Stall {
        let stall = self.pace.stalls(now, self.reorder.leaves_early());
        let Stall::LeaveEarly { chunks } = stall else {
            // All there is, even if that may give wrong DTS with an encoder that announces none.
            self.reorder.leave_at_once();
            return stall;
        };
        // An encoder that doesn't announce how far it reorders shows it in its first packets.
        let announced = self.feeds.iter().filter_map(|feed| feed.announced).max();
        let announced = announced.unwrap_or(0).max(self.depth);
        self.herald = Herald::No;
        let packets = if announced > 0 { 1 } else { DEEPEST + 1 };
        self.reorder.leave_early(packets, chunks);
        stall
    }

    /// `true`: the application is to be told of the stall. Once a stream.
    pub(super) fn tells_of_stall(&mut self) -> bool {
        !std::mem::replace(&mut self.stall_told, true)
    }

    pub(super) fn join(&mut self, chunk: ChunkId, own: FrameRange) {
        self.herald = Herald::No;
        // So many show how far the encoder reorders.
        self.reorder.join(chunk, own, DEEPEST + 1);
        for feed in &mut self.feeds {
            // What still comes is of chunks that are no more.
            feed.chunk = None;
        }
    }

    /// A packet has come of this chunk, whose encoder announced to reorder by so many.
    fn try_herald(&mut self, chunk: ChunkId, announced: usize, is_in_order: bool) {
        // Without knowing how far it reorders nobody could give a packet its DTS.
        if announced == 0 && !(self.announces && is_in_order) {
            self.herald = Herald::No;
            return;
        }
        // Until time passes the first frame: that is when a muxer asks for the next key frame.
        let Some(first) = self.reorder.take_first(chunk, announced + 1) else {
            return;
        };
        self.herald = Herald::Leaves;
        for (frame, packet) in first {
            self.ahead.push((frame, digest(packet.made.as_ref())));
            self.heralds.push_back((chunk, frame, packet));
        }
    }

    /// What an attempt at the chunk made is thrown away, and what it still makes. `false`: some of it has left for good.
    pub(super) fn begin_anew(&mut self, chunk: ChunkId) -> bool {
        // With another key frame it would come out otherwise than what has left.
        if self.reorder.has_begun_to_leave(chunk) || !self.reorder.retract(chunk) {
            return false;
        }
        for feed in &mut self.feeds {
            if feed.chunk == Some(chunk) {
                feed.chunk = None;
            }
        }
        true
    }

    /// The first packet of the stream may leave before its chunk is whole.
    pub(super) fn herald(&mut self, announces: bool) {
        self.herald = Herald::Wanted;
        self.announces = announces;
    }

    /// What the first packet makes downstream ask for may still come.
    pub(super) fn is_heralded(&self) -> bool {
        self.herald != Herald::No
    }

    /// The first packet is on its way downstream.
    pub(super) fn herald_leaves(&self) -> bool {
        self.herald == Herald::Leaves
    }

    pub(super) fn end_herald(&mut self) {
        self.herald = Herald::No;
    }

    /// What has left of the chunk can't be made again: the rest of it begins after that. Returns where.
    pub(super) fn begin_after_ahead(&mut self, chunk: ChunkId) -> Option<FrameNo> {
        let start = self.reorder.begin_after_ahead(chunk)?;
        self.ahead.clear();
        Some(start)
    }

    pub(super) fn first_key(&self) -> Option<u64> {
        self.first_key
    }

    pub(super) fn frames_sent(&self) -> u64 {
        self.sent.frames
    }

    /// Bytes that have left, and the time that they are shown.
    pub(super) fn sent_amount(&self) -> (u64, gst::ClockTime) {
        let time = self.sent.time;
        let time = if self.sent.is_timeless {
            gst::ClockTime::ZERO
        } else {
            time
        };
        (self.sent.bytes, time)
    }

    pub(super) fn times_of(
        &self,
        frames: FrameRange,
    ) -> (Option<gst::ClockTime>, Option<gst::ClockTime>) {
        let last = FrameNo(frames.end.0.saturating_sub(1)).max(frames.start);
        let from = self.frames.get(frames.start).and_then(|times| times.pts);
        let to = self.frames.get(last).and_then(|times| {
            let duration = times.duration.unwrap_or_default();
            Some(times.pts?.saturating_add(duration))
        });
        (from, to)
    }

    pub(super) fn count_passed(&mut self) {
        self.sent.frames += 1;
    }

    pub(super) fn sent_caps(&self) -> Option<gst::Caps> {
        self.sent.caps.clone()
    }

    /// A frame came in. `true`: the input wasn't watched, and is to be watched again.
    #[must_use]
    pub(super) fn frame(&mut self, private: u64, times: FrameTimes, now: u64) -> bool {
        self.frames.push(private, times);
        self.ended = false;
        self.pace.taken(now)
    }

    /// `true`: it may leave at once.
    #[must_use]
    pub(super) fn event(&mut self, before: FrameNo, event: gst::Event) -> bool {
        let may_leave = is_end(&event);
        self.ends += usize::from(may_leave);
        if event.type_() == gst::EventType::Eos {
            self.ended = true;
            self.pace.interrupted();
        }
        // (A chunk is opened after its first frame has come.)
        let at = self.events.partition_point(|(other, _)| *other <= before);
        self.events.insert(at, (before, event));
        may_leave
    }

    pub(super) fn key_asked(&mut self, frame: FrameNo, request: keys::Request) {
        self.keys.entry(frame).or_default().push(request);
    }

    /// What downstream accepts, as the session's encoder sees it.
    pub(super) fn downstream_of(&self, session: SessionId) -> Option<gst::Caps> {
        // (A query may come while the element is shut down.)
        let own = self.feeds.get(session.0);
        let own = own.and_then(|feed| feed.downstream.clone());
        own.or_else(|| self.downstream.clone())
    }

    /// A flush kept these events from being sent; they go first after it.
    pub(super) fn put_back(&mut self, events: Vec<gst::Event>) {
        for event in events.into_iter().rev() {
            self.ends += usize::from(is_end(&event));
            self.events.push_front((FrameNo(0), event));
        }
    }

    pub(super) fn begin(
        &mut self,
        session: SessionId,
        chunk: ChunkId,
        first: FrameNo,
        downstream: Option<gst::Caps>,
    ) {
        // An encoder that was primed before its chunk was known has sent its caps and tags already.
        let feed = &mut self.feeds[session.0];
        feed.chunk = Some(chunk);
        feed.first = Some(first);
        feed.downstream = downstream;
    }

    /// The attempt is over.
    pub(super) fn leave(&mut self, session: SessionId) {
        self.feeds[session.0] = Feed::default();
    }

    pub(super) fn caps(&mut self, session: SessionId, caps: gst::Caps) {
        let feed = &mut self.feeds[session.0];
        if let Some(recorder) = &mut feed.recorder {
            recorder.caps(&caps);
        }
        feed.format = Format::of(&caps);
        feed.parts = bitstream::alignment_of_parts(&caps);
        feed.caps = Some(caps);
    }

    pub(super) fn tags(&mut self, session: SessionId, event: gst::Event) {
        let feed = &mut self.feeds[session.0];
        if let Some(recorder) = &mut feed.recorder {
            recorder.tags(&event);
        }
        feed.tags.push(event);
    }

    pub(super) fn take_fault(&mut self, session: SessionId) -> Option<Fault> {
        self.feeds[session.0].fault.take()
    }

    /// What the session's encoder makes from now on is remembered. Its first frame has this private time.
    pub(super) fn record(&mut self, session: SessionId, base: u64) {
        if let Some(feed) = self.feeds.get_mut(session.0) {
            feed.recorder = Some(Recorder::new(base));
        }
    }

    pub(super) fn take_recording(&mut self, session: SessionId) -> Option<Recording> {
        let feed = self.feeds.get_mut(session.0)?;
        feed.recorder.take()?.finish()
    }

    pub(super) fn skip(&mut self, session: SessionId, private: u64) {
        if let Some(recorder) = &mut self.feeds[session.0].recorder {
            recorder.skip(private);
        }
        if let (Some(chunk), Some(frame)) = (self.feeds[session.0].chunk, self.frames.find(private))
        {
            self.reorder.skip(chunk, frame);
        }
    }

    pub(super) fn forget_before(&mut self, frame: FrameNo) {
        let held = self.reorder.oldest_held().unwrap_or(frame);
        self.frames.forget_before(frame.min(held));
    }

    /// A packet of the session's attempt. An error is kept as the attempt's fault.
    pub(super) fn packet(&mut self, session: SessionId, buffer: gst::Buffer) -> Result<(), ()> {
        let feed = &mut self.feeds[session.0];
        feed.packets += 1;
        let Some(chunk) = feed.chunk else {
            return Err(());
        };
        if let Some(alignment) = feed.parts.clone() {
            feed.fault = Some(Fault::Parts { alignment });
            return Err(());
        }
        if feed.is_whole {
            return Ok(());
        }
        if let Some(recorder) = &mut feed.recorder {
            recorder.packet(&buffer);
        }
        let frame = buffer
            .pts()
            .and_then(|pts| self.frames.find(pts.nseconds()));
        // By its DTS it isn't reordered.
        let is_in_order = buffer.dts().is_some() && buffer.dts() == buffer.pts();
        let announced = match (feed.announced, frame) {
            (Some(announced), _) => announced,
            // (Where the first frame is missing, the delay of another one says nothing.)
            (None, Some(frame)) if feed.first != Some(frame) => *feed.announced.insert(0),
            (None, Some(first)) => {
                let delay = buffer.pts().zip(buffer.dts());
                let delay = delay.map_or(0, |(pts, dts)| {
                    pts.nseconds().saturating_sub(dts.nseconds())
                });
                let frames = (first.0..).map(FrameNo);
                let times = frames.map_while(|frame| self.frames.private(frame));
                *feed.announced.insert(announced_depth(delay, times))
            }
            (None, None) => 0,
        };
        let flags = buffer.flags();
        let claimed = if flags.contains(gst::BufferFlags::DECODE_ONLY) {
            Kind::Invisible
        } else if flags.contains(gst::BufferFlags::HEADER) && buffer.pts().is_none() {
            Kind::Header
        } else if flags.contains(gst::BufferFlags::DELTA_UNIT) {
            Kind::Delta
        } else {
            Kind::Key
        };
        let is_first = frame.is_some_and(|frame| self.reorder.is_first(chunk, frame));
        let asked = frame.and_then(|frame| self.keys.get(&frame));
        let all_headers = asked.is_some_and(|asked| asked.iter().any(|it| it.all_headers));
        let made = buffer.clone();
        let (buffer, kind) = match claimed {
            Kind::Key if all_headers && !is_first => feed.examine(buffer, claimed, true),
            Kind::Key | Kind::Delta => feed.examine(buffer, claimed, is_first),
            _ => (buffer, claimed),
        };
        if matches!(kind, Kind::Key | Kind::Delta) {
            feed.opens_with.get_or_insert(kind);
        }
        let packet = Packet {
            buffer,
            made: Some(made),
            caps: feed.caps.clone(),
            tags: std::mem::take(&mut feed.tags),
            announced,
        };
        let accepted = self.reorder.accept(chunk, frame, kind, packet);
        let is_picture = frame.is_some();
        let accepted = accepted.and_then(|accepted| match accepted {
            Accepted::Again { index, payload } => {
                let is = digest(payload.made.as_ref());
                let was = self.ahead.get(index);
                let is_same = is.is_some() && was == Some(&(frame, is));
                let first = self.reorder.oldest_held().unwrap_or(FrameNo(0));
                let differs = Fault::Differs(frame.unwrap_or(first));
                is_same.then_some(()).ok_or(differs)
            }
            Accepted::Held => {
                self.begun |= is_picture;
                Ok(())
            }
            Accepted::Trimmed => {
                feed.is_whole = self.reorder.is_whole(chunk);
                Ok(())
            }
        });
        match accepted {
            Ok(()) => {
                feed.proven = true;
                self.proven = true;
                if self.herald == Herald::Wanted && frame.is_some() {
                    self.try_herald(chunk, announced, is_in_order);
                }
                Ok(())
            }
            Err(fault) => {
                feed.fault = Some(fault);
                Err(())
            }
        }
    }

    /// Decides what leaves next.
    pub(super) fn next(&mut self) -> Step {
        if self.flow.is_err() {
            // Downstream takes no more packets, but it waits for the end.
            return self.give_up();
        }
        if let Some((chunk, frame, packet)) = self.heralds.pop_front() {
            let is_last = self.heralds.is_empty();
            return match self.send(chunk, frame, packet, true) {
                Step::Send(batch) if is_last => Step::SendAhead(batch),
                step => step,
            };
        }
        match self.reorder.pop() {
            Pop::Packet {
                chunk,
                frame,
                payload,
                ahead,
            } => {
                if ahead {
                    self.ahead.push((frame, digest(payload.made.as_ref())));
                }
                self.send(chunk, frame, payload, false)
            }
            Pop::ChunkLeft { chunk, end } => {
                // Nobody makes them again.
                self.ahead.clear();
                Step::Left {
                    next: chunk.next(),
                    end,
                }
            }
            Pop::Nothing if self.failed => self.give_up(),
            Pop::Nothing => self.send_end(),
        }
    }

    /// No packet leaves any more: of what is still to be said, only the end is.
    fn give_up(&mut self) -> Step {
        let is_end = |event: &gst::Event| event.type_() == gst::EventType::Eos;
        let end = self.events.iter().position(|(_, event)| is_end(event));
        match end.and_then(|end| self.events.remove(end)) {
            Some((_, end)) => {
                self.ends -= 1;
                Step::Send(Batch {
                    before: vec![Item::Event(end)],
                    packet: None,
                })
            }
            None => Step::Wait,
        }
    }

    /// A stream or a segment is over, and all packets before that have left: it is said at once, as no frame need come any more.
    fn send_end(&mut self) -> Step {
        if self.ends == 0 {
            return Step::Wait;
        }
        let left = self.reorder.oldest_held().unwrap_or(FrameNo(u64::MAX));
        let events = self.events.iter();
        let end = events
            .take_while(|(before, _)| *before <= left)
            .position(|(_, event)| is_end(event));
        let Some(end) = end else {
            return Step::Wait;
        };
        let mut items = Vec::new();
        self.push_events(end + 1, None, &mut items);
        Step::Send(Batch {
            before: items,
            packet: None,
        })
    }

    fn send(
        &mut self,
        chunk: ChunkId,
        frame: Option<FrameNo>,
        packet: Packet,
        ahead: bool,
    ) -> Step {
        let mut items = Vec::new();
        // Stream headers stand before the chunk's first frame.
        let due = frame.or(self.reorder.oldest_held()).unwrap_or(FrameNo(0));
        let opens_chunk = self.sent.chunk != Some(chunk);
        if opens_chunk {
            // (How many are there by now is of no account where the encoder says how far it reorders.)
            let held = self.reorder.held(chunk).filter(|_| !ahead);
            let held = held.filter_map(|(frame, _)| frame);
            let depth = reorder_depth(frame.into_iter().chain(held));
            self.depth = self.depth.max(depth).max(packet.announced);
            let shift = if self.depth > 0 { THOUSAND_HOURS } else { 0 };
            self.shift
                .get_or_insert(gst::ClockTime::from_nseconds(shift));
            self.sent.chunk = Some(chunk);
        }

        self.caps_may_change |= self.caps_due(due);
        let mut packet = packet;
        // So that what is sent is its own.
        packet.made = None;
        let caps = match self.described(chunk, packet.caps.take()) {
            Ok((caps, sets)) => {
                if !sets.is_empty() {
                    let format = self.sent.encoder_caps.as_deref().map(Format::of);
                    packet.buffer = with_sets(packet.buffer, format.unwrap_or_default(), &sets);
                }
                caps
            }
            Err(differs) => return differs,
        };
        self.push_due_events(due, caps, &mut items);
        self.caps_may_change = false;
        self.push_new_tags(packet.tags, &mut items);

        if opens_chunk {
            self.begin_timeline(due);
        }
        let flags = packet.buffer.flags();
        let is_key =
            !flags.intersects(gst::BufferFlags::DELTA_UNIT | gst::BufferFlags::DECODE_ONLY);
        let packet = self.stamped(frame, packet.buffer);
        if let (Some(packet), Some(frame), true) = (&packet, frame, is_key) {
            self.push_key_events(frame, packet.pts(), &mut items);
        }
        Step::Send(Batch {
            before: items,
            packet,
        })
    }

    /// What downstream is told before a packet of an encoder with these caps: the caps, if they are another stream's and
    /// may be; and the parameter sets that go in band. An error where they may not.
    fn described(
        &mut self,
        chunk: ChunkId,
        caps: Option<gst::Caps>,
    ) -> Result<(Option<gst::Caps>, Vec<Vec<u8>>), Step> {
        let Some(is) = caps else {
            return Ok((None, Vec::new()));
        };
        // The same or not: GStreamer compares caps by their address first, and the next packet most likely has these.
        let last = self.sent.encoder_caps.replace(is.clone());
        if last.as_ref() == Some(&is) {
            return Ok((None, Vec::new()));
        }
        let described = match &self.sent.caps {
            // Other sets may have come in band meanwhile.
            Some(was) if *was == is && last.is_some() => {
                Described::InBand(bitstream::sets_for_band(&is))
            }
            Some(was) if *was == is => Described::Same,
            Some(was) if !self.caps_may_change => bitstream::compare(was, &is),
            _ => {
                self.sent.caps = Some(is.clone());
                self.sent.headers.clear();
                return Ok((Some(is), Vec::new()));
            }
        };
        match described {
            Described::Same => Ok((None, Vec::new())),
            Described::InBand(sets) => Ok((None, sets)),
            Described::Differently(differences) => Err(Step::CapsDiffer { chunk, differences }),
        }
    }

    /// Raw caps stand before this frame, or before one that comes earlier.
    fn caps_due(&self, frame: FrameNo) -> bool {
        self.events
            .iter()
            .take_while(|(before, _)| *before <= frame)
            .any(|(_, event)| event.type_() == gst::EventType::Caps)
    }

    fn shift(&self) -> gst::ClockTime {
        self.shift.unwrap_or(gst::ClockTime::ZERO)
    }

    fn shifted(&self, pts: gst::ClockTime) -> u64 {
        pts.saturating_add(self.shift()).nseconds().min(LATEST)
    }

    fn begin_timeline(&mut self, first: FrameNo) {
        let frames = (first.0..).map(FrameNo).take(self.depth + 1);
        let first_times: Vec<u64> = frames
            .map_while(|frame| self.frames.private(frame))
            .collect();
        let duration = self.frames.get(first).and_then(|times| times.duration);
        let duration = duration.map_or(1, gst::ClockTime::nseconds);
        self.timeline
            .begin_chunk(self.depth, &first_times, duration);
    }

    /// The DTS of a frame with this PTS, as both leave, for the one in private time. Running time may go faster than the
    /// stream's, or the other way.
    fn dts(&self, pts: u64, private: u64, private_dts: u64) -> u64 {
        // That of another frame, where it is of this segment: timestamps may step back.
        let frame = self.frames.exact(private_dts);
        let frame = frame.filter(|frame| *frame >= self.sent.segment_from);
        let of_frame = frame.and_then(|frame| self.frames.get(frame)?.pts);
        if let Some(of_frame) = of_frame {
            return self.shifted(of_frame);
        }
        let delay = private.saturating_sub(private_dts);
        let rate = self.sent.segment.rate();
        let moved = if rate == 1.0 {
            pts.saturating_sub(delay)
        } else {
            // (A delay of hours is exact to a nanosecond in this; conversion saturates.)
            let delay = delay as f64 * rate;
            if delay < 0.0 {
                pts.saturating_add(-delay as u64)
            } else {
                pts.saturating_sub(delay as u64)
            }
        };
        moved.min(LATEST)
    }

    /// The events that stood before `frame` or earlier, with `caps`.
    fn push_due_events(&mut self, frame: FrameNo, caps: Option<gst::Caps>, items: &mut Vec<Item>) {
        let due = self.events.partition_point(|(before, _)| *before <= frame);
        // What was still to be said of a stream that is over comes before the next one.
        let mut ends = self.events.iter().take(due);
        let over = ends.rposition(|(_, event)| event.type_() == gst::EventType::Eos);
        let over = over.map_or(0, |last| last + 1);
        self.push_events(over, None, items);
        self.push_events(due - over, caps, items);
    }

    /// STREAM_START, then `caps`, then the others of the first `due` events.
    fn push_events(&mut self, due: usize, caps: Option<gst::Caps>, items: &mut Vec<Item>) {
        let mut others = Vec::new();
        let events: Vec<_> = self.events.drain(..due).collect();
        for (before, event) in events {
            self.ends -= usize::from(is_end(&event));
            match event.view() {
                gst::EventView::StreamStart(_) => {
                    // It takes the tags of the last stream from all that comes after us.
                    self.sent.tags.clear();
                    items.push(Item::Event(event));
                }
                // Raw caps: what they become comes from the encoder.
                gst::EventView::Caps(_) => self.caps_may_change = true,
                _ => others.push((before, event)),
            }
        }
        items.extend(caps.map(|caps| Item::Event(gst::event::Caps::new(&caps))));
        for (before, event) in others {
            let event = match event.view() {
                gst::EventView::Segment(segment) => {
                    let segment = shifted_segment(segment, self.shift());
                    if let gst::EventView::Segment(shifted) = segment.view()
                        && let Some(times) = shifted.segment().downcast_ref()
                    {
                        self.sent.segment = times.clone();
                        self.sent.segment_from = before;
                    }
                    segment
                }
                gst::EventView::Tag(tag) => self.merged(tag, &event),
                _ => event,
            };
            items.push(Item::Event(event));
        }
    }

    /// Tags that no encoder gets any more, as the last one would have merged them.
    fn merged(&self, new: &gst::event::Tag, event: &gst::Event) -> gst::Event {
        let new = new.tag_owned();
        let is_stream = |tags: &&gst::TagList| tags.scope() == gst::TagScope::Stream;
        match self.sent.tags.iter().find(is_stream) {
            // What is said of the encoded video stays, as upstream doesn't know it.
            Some(sent) if is_stream(&&new) => {
                gst::event::Tag::new(new.merge(sent, gst::TagMergeMode::Replace))
            }
            _ => event.clone(),
        }
    }

    /// Says which requests the key frame answers, and sends the stream headers with it that they want.
    fn push_key_events(
        &mut self,
        frame: FrameNo,
        pts: Option<gst::ClockTime>,
        items: &mut Vec<Item>,
    ) {
        let running_time = self.sent.segment.to_running_time(pts);
        self.first_key = self
            .first_key
            .or(running_time.map(gst::ClockTime::nseconds));
        let later = self.keys.split_off(&FrameNo(frame.0.saturating_add(1)));
        let answered = std::mem::replace(&mut self.keys, later);
        let answered: Vec<_> = answered.into_values().flatten().collect();
        for request in &answered {
            let event = gst_video::DownstreamForceKeyUnitEvent::builder()
                .timestamp(pts)
                .stream_time(self.sent.segment.to_stream_time(pts))
                .running_time(running_time)
                .all_headers(request.all_headers)
                .count(request.count)
                .build();
            items.push(Item::Event(event));
        }
        if answered.iter().any(|request| request.all_headers) {
            items.extend(self.sent.headers.iter().cloned().map(Item::Buffer));
        }
    }

    fn push_new_tags(&mut self, events: Vec<gst::Event>, items: &mut Vec<Item>) {
        for event in events {
            let gst::EventView::Tag(tag) = event.view() else {
                continue;
            };
            let tags = tag.tag_owned();
            let same_scope = |sent: &gst::TagList| sent.scope() == tags.scope();
            let known = self.sent.tags.iter().position(same_scope);
            match known {
                Some(at) if self.sent.tags[at] == tags => continue,
                Some(at) => self.sent.tags[at] = tags,
                None => self.sent.tags.push(tags),
            }
            items.push(Item::Event(event));
        }
    }

    /// The packet with the times of its frame; `None` for stream headers that were sent before.
    fn stamped(&mut self, frame: Option<FrameNo>, mut buffer: gst::Buffer) -> Option<gst::Buffer> {
        let invisible = buffer.flags().contains(gst::BufferFlags::DECODE_ONLY);
        let discont = !std::mem::replace(&mut self.sent.any_buffer, true);
        match frame {
            Some(frame) => {
                let times = self.frames.get(frame).copied();
                let private = self.frames.private(frame).unwrap_or(THOUSAND_HOURS);
                let private_dts = if invisible {
                    self.timeline.stamp_invisible(private)
                } else {
                    self.sent.frames += 1;
                    self.timeline.stamp(private)
                };
                let pts = times.and_then(|times| times.pts);
                let pts = pts.map(|pts| self.shifted(pts));
                let dts = pts.map(|pts| self.dts(pts, private, private_dts));
                let buffer = buffer.make_mut();
                buffer.set_pts(pts.map(gst::ClockTime::from_nseconds));
                buffer.set_dts(dts.map(gst::ClockTime::from_nseconds));
                if let Some(duration) = times.and_then(|times| times.duration)
                    && !invisible
                {
                    buffer.set_duration(duration);
                }
            }
            None => {
                let is_same = |sent: &gst::Buffer| same_bytes(sent, &buffer);
                if self.sent.headers.iter().any(is_same) {
                    return None;
                }
                let mut again = buffer.clone();
                again.make_mut().unset_flags(gst::BufferFlags::DISCONT);
                self.sent.headers.push(again);
            }
        }
        self.sent.bytes += buffer.size() as u64;
        if frame.is_some() && !invisible {
            let time = buffer.duration();
            self.sent.is_timeless |= time.is_none();
            self.sent.time = self.sent.time.saturating_add(time.unwrap_or_default());
        }
        let flags = buffer.flags();
        if flags.contains(gst::BufferFlags::DISCONT) != discont {
            let buffer = buffer.make_mut();
            if discont {
                buffer.set_flags(gst::BufferFlags::DISCONT);
            } else {
                buffer.unset_flags(gst::BufferFlags::DISCONT);
            }
        }
        Some(buffer)
    }
}

impl Feed {
    /// Looks into the packet of a picture, which its encoder claims to be a key frame or not. As the first of its chunk
    /// it has to be one, and to have the parameter sets with it where the format carries them in band; so has one with which
    /// all headers were asked for.
    fn examine(
        &mut self,
        buffer: gst::Buffer,
        claimed: Kind,
        is_first: bool,
    ) -> (gst::Buffer, Kind) {
        let format = self.format;
        if self.sets.is_none()
            && let Ok(packet) = buffer.map_readable()
        {
            self.sets = Some(format.parameter_sets(&packet));
        }
        if !is_first {
            return (buffer, claimed);
        }
        let told = buffer.map_readable().ok();
        match told.and_then(|packet| format.is_random_access(&packet)) {
            Some(false) => return (buffer, Kind::Delta),
            None if claimed != Kind::Key => return (buffer, claimed),
            _ => (),
        }
        let sets = self.sets.as_deref().unwrap_or_default();
        (with_sets(buffer, format, sets), Kind::Key)
    }
}

/// The packet with the parameter sets, unless it has some.
fn with_sets(buffer: gst::Buffer, format: Format, sets: &[Vec<u8>]) -> gst::Buffer {
    if sets.is_empty() {
        return buffer;
    }
    let whole = buffer.map_readable().ok().and_then(|packet| {
        let lacks = format.parameter_sets(&packet).is_empty();
        lacks.then(|| format.with_parameter_sets(&packet, sets))?
    });
    let Some(whole) = whole else { return buffer };
    let mut whole = gst::Buffer::from_mut_slice(whole);
    let parts =
        gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::META;
    // PANIC: the buffer is new.
    let copied = buffer.copy_into(whole.get_mut().expect("own buffer"), parts, ..);
    if copied.is_ok() { whole } else { buffer }
}

/// The end of a stream or a segment.
fn is_end(event: &gst::Event) -> bool {
    matches!(
        event.type_(),
        gst::EventType::SegmentDone | gst::EventType::Eos
    )
}

/// The same for packets of the same bytes, and for no others.
fn digest(packet: Option<&gst::Buffer>) -> Option<u128> {
    let bytes = packet?.map_readable().ok()?;
    Some(XxHash3_128::oneshot(&bytes))
}

fn same_bytes(a: &gst::BufferRef, b: &gst::BufferRef) -> bool {
    match (a.map_readable(), b.map_readable()) {
        (Ok(a), Ok(b)) => a.as_slice() == b.as_slice(),
        _ => false,
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
    let mut builder = gst::event::Segment::builder(&segment).seqnum(event.seqnum());
    let offset = event.running_time_offset();
    if offset != 0 {
        builder = builder.running_time_offset(offset);
    }
    builder.build()
}
