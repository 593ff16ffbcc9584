// SPDX-License-Identifier: MPL-2.0

//! What the distributor knows. Decides with the brains; `imp` acts.

use super::decision::{Decision, Sequential};
use crate::aggregator::{self, FrameTimes};
use crate::cache::{Files, Picture};
use crate::logic::budget::{Admission, Budget};
use crate::logic::frame::{Chunk, ChunkId, FrameNo, FrameRange, SessionId};
use crate::logic::keys::{Due, KeyRequests};
use crate::logic::planner::{
    BudgetTooSmall, Neighbours, Next, Opening, Overlap, Plan, Planner, Request, Verdict,
};
use crate::logic::reorder::{Delivered, Side};
use crate::logic::roster::Roster;
use crate::logic::tally::Tally;
use crate::logic::timeline::{FrameTable, PrivateClock};
use crate::parallelenc::settings::Job;
use crate::session::cached::{Content, Fed};
use crate::session::encoder::Recipe;
use crate::session::hints::Hints;
use crate::session::{Input, Session, Step};
use gst::prelude::*;
use gst_video::VideoBufferFlags;
use gst_video::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// How the stream is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// No caps yet.
    Undecided,
    /// Everything goes straight through session 0.
    Sequential(Sequential),
    Parallel,
}

/// What a session's task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    Nothing,
    Chunk,
    Frame,
    Eos,
}

/// One session, as the distributor sees it.
pub(super) struct Slot {
    pub(super) session: Arc<Session>,
    pub(super) waiting: Waiting,
    /// It takes no chunk any more.
    pub(super) closed: bool,
    /// It hung, and was left to itself. Another slot has taken its place.
    pub(super) gone: bool,
    /// It was taken out of the element.
    pub(super) parted: bool,
    /// Its task has an attempt.
    pub(super) at_work: bool,
    /// One of its encoders has made a packet.
    pub(super) works: bool,
    pub(super) progress: Progress,
}

/// How far a session has come with its attempt, or with the last one.
pub(super) struct Progress {
    pub(super) stage: Stage,
    /// The chunk, whatever became of it meanwhile, and the first frame that is fed.
    pub(super) chunk: Option<ChunkId>,
    pub(super) first: FrameNo,
    /// The next frame that is fed, after the one that it was handed.
    pub(super) position: FrameNo,
    /// All frames were fed.
    pub(super) drains: bool,
    /// The encoder has sent EOS.
    pub(super) ended: bool,
    /// The first ERROR message of the encoder.
    pub(super) error: Option<gst::Message>,
    /// The chunk lost its overlap, or is to have another key frame: the attempt ends.
    pub(super) replanned: bool,
    /// No encoder made the chunk this time.
    pub(super) from_cache: bool,
    /// When it began.
    pub(super) since: Instant,
}

/// Whom an attempt waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stage {
    /// Its encoder.
    Encodes,
    /// Its encoder, which is being closed: what it made is whole.
    Whole(Chunk, Delivered),
    /// The cache, which is read or written.
    OnDisk,
    /// Nobody: it is over, but for what follows from it.
    Returned,
}

impl Progress {
    pub(super) fn new(chunk: Option<ChunkId>, first: FrameNo) -> Self {
        Self {
            stage: Stage::Encodes,
            chunk,
            first,
            position: first,
            drains: false,
            ended: false,
            error: None,
            replanned: false,
            from_cache: false,
            since: Instant::now(),
        }
    }
}

/// A frame that is held.
pub(super) struct Held {
    /// With its private timestamp.
    pub(super) buffer: gst::Buffer,
    bytes: u64,
    /// Downstream or upstream asked for a key frame here.
    pub(super) force_key: bool,
    /// TAG events that stood before it.
    tags: Vec<gst::Event>,
    /// What it shows, where chunks are kept and it can be told from others.
    picture: Option<Picture>,
}

/// A pool that frames come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pool {
    /// Where it is: which one it is, while a frame of it is held.
    pub(super) address: usize,
    /// The most buffers that it may have, if there is a limit.
    pub(super) most: Option<u32>,
}

/// An attempt that failed.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) attempt: u32,
    pub(super) session: SessionId,
    pub(super) reason: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            attempt,
            session,
            reason,
        } = self;
        write!(f, "attempt {attempt} in session {session}: {reason}")
    }
}

/// Everything about the frames of one stream; replaced at each start and flush.
pub(super) struct Stream {
    pub(super) planner: Planner,
    pub(super) roster: Roster,
    pub(super) budget: Budget,
    pub(super) clock: PrivateClock,
    pub(super) frames: FrameTable<Option<Held>>,
    /// The last frame's pool, if it is of one.
    pub(super) pool: Option<Pool>,
    /// What the encoder of each live chunk is told.
    inputs: BTreeMap<ChunkId, Input>,
    /// Chunks that are whole but may still lose their overlap.
    pub(super) on_trial: BTreeMap<ChunkId, Delivered>,
    pub(super) segment: gst::FormattedSegment<gst::ClockTime>,
    /// Failed attempts at chunks that aren't done.
    pub(super) failures: BTreeMap<ChunkId, Vec<Failed>>,
    /// TAG events since the last frame.
    tags: Vec<gst::Event>,
    /// What downstream accepted when the last chunk was opened.
    downstream: Option<gst::Caps>,
    /// The last chunk that was begun without the cache because the input stood still.
    uncached: Option<ChunkId>,
    /// EOS has come in.
    pub(super) ended: bool,
}

pub(super) struct State {
    pub(super) job: Job,
    /// Most bytes of raw frames that may be held, as set or by the machine's memory.
    max_raw_bytes: u64,
    pub(super) mode: Mode,
    /// How the encoders are made: as set, or as chosen.
    pub(super) recipe: Option<Recipe>,
    /// The revision of the properties that the first encoder was placed with.
    pub(super) placed_with: u64,
    /// Made with the recipe.
    pub(super) decision: Option<Decision>,
    pub(super) slots: Vec<Slot>,
    /// Raw caps of the frames that come.
    pub(super) caps: Option<gst::Caps>,
    /// What the encoder accepts, asked before the first frame.
    pub(super) sink_caps: Option<gst::Caps>,
    /// What the encoder proposed to upstream.
    pub(super) proposal: Proposal,
    /// The first field of each picture, where pictures come as two fields.
    pub(super) first_field: Option<Field>,
    /// What downstream accepts, as the encoders of the chunks that open from now on see it.
    pub(super) downstream: Option<gst::Caps>,
    /// Upstream's stream tags: from which frame on which; `None` after they were taken back.
    stream_tags: VecDeque<(FrameNo, Option<gst::TagList>)>,
    /// The last tags of all streams, which encoders only pass on.
    global_tags: Option<gst::Event>,
    /// Key frames that were asked for.
    pub(super) keys: KeyRequests,
    /// Where chunks are kept.
    pub(super) cache: Option<Arc<Files>>,
    /// That it can't be written to was said.
    pub(super) cache_warned: bool,
    /// Serialized events before the first caps.
    pub(super) early: Vec<gst::Event>,
    pub(super) stream: Option<Stream>,
    /// The first encoder is being opened, by upstream's thread or the application's.
    pub(super) opens_first: bool,
    /// It was started, so it can't be started again.
    pub(super) started: bool,
    pub(super) stopped: bool,
    pub(super) flushing: bool,
    /// Joins the flow of all sessions into the one that upstream gets.
    pub(super) combiner: gst_base::UniqueFlowCombiner,
    /// What upstream gets from now on, where that is an error.
    pub(super) flow: Result<(), gst::FlowError>,
    /// An error was or is being posted.
    pub(super) fails: bool,
    /// Upstream was given the error flow, so that it knows.
    pub(super) flow_returned: bool,
    pub(super) tally: Tally,
    /// Frames that were let go and are about to be dropped.
    pub(super) releasing: usize,
    /// The latency that was last announced.
    pub(super) latency: Option<gst::ClockTime>,
    /// Sessions that were closed, and why, as far as that wasn't said yet.
    pub(super) closings: Vec<(SessionId, String)>,
    /// It was found that the encoder can't be cut at all: one chunk goes on to the end.
    pub(super) joined: bool,
    /// That was said.
    pub(super) join_warned: bool,
    /// It was found that the encoder can't be cut with an overlap.
    pub(super) overlap_dropped: bool,
    /// That was said, of all chunks or of one.
    pub(super) overlap_warned: bool,
    /// What was said last of chunks that are shorter than they were to be.
    shrinkage: Option<String>,
}

/// What upstream is told of how to allocate frames: as the first encoder says it, but for its pool and allocator.
#[derive(Debug, Clone, Default)]
pub(super) struct Proposal {
    pub(super) takes_video_meta: bool,
    pub(super) params: Vec<gst::AllocationParams>,
}

/// Taken for the duration of a frame of which nobody says it: 25 per second, as GStreamer's encoders assume.
pub(super) const UNKNOWN_DURATION: gst::ClockTime = gst::ClockTime::from_mseconds(40);

/// Size of one raw frame, or an error where the caps aren't raw video.
pub(super) fn frame_bytes(caps: &gst::Caps) -> Option<u64> {
    if let Ok(info) = gst_video::VideoInfo::from_caps(caps) {
        return Some((info.size() as u64).max(1));
    }
    // Formats of a memory feature that only its driver can measure: at most 4 bytes for a pixel.
    let structure = caps.structure(0)?;
    let width = u64::try_from(structure.get::<i32>("width").ok()?).ok()?;
    let height = u64::try_from(structure.get::<i32>("height").ok()?).ok()?;
    Some((width * height * 4).max(1))
}

/// One of the two that make a picture, as caps and flags of interlaced video name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Top,
    Bottom,
}

impl Field {
    /// The first one of each picture, where each buffer is one field (interlace-mode alternate).
    fn first(caps: &gst::Caps) -> Option<Self> {
        let structure = caps.structure(0)?;
        let mode: &str = structure.get("interlace-mode").ok()?;
        let order = structure.get::<&str>("field-order");
        (mode == "alternate").then_some(match order {
            Ok("bottom-field-first") => Self::Bottom,
            _ => Self::Top,
        })
    }

    pub(super) fn of(buffer: &gst::BufferRef) -> Self {
        // A top field is one field, top field first.
        match buffer.video_flags().contains(VideoBufferFlags::TFF) {
            true => Self::Top,
            false => Self::Bottom,
        }
    }
}

/// Buffers that make one picture.
pub(super) fn buffers_per_picture(caps: &gst::Caps) -> u64 {
    1 + u64::from(Field::first(caps).is_some())
}

/// Time that one frame is shown, or one field where each buffer is a field, if the caps say so.
pub(super) fn frame_duration(caps: &gst::Caps) -> Option<gst::ClockTime> {
    let rate = caps.structure(0)?.get::<gst::Fraction>("framerate").ok()?;
    // 0/1 is a variable rate.
    let numer = u64::try_from(rate.numer()).ok().filter(|&n| n > 0)?;
    let denom = u64::try_from(rate.denom()).ok()?;
    gst::ClockTime::SECOND.mul_div_round(denom, numer.saturating_mul(buffers_per_picture(caps)))
}

/// The tags of an event, if they are of this stream and not of all.
fn of_stream(event: &gst::Event) -> Option<gst::TagList> {
    match event.view() {
        gst::EventView::Tag(tag) if tag.tag().scope() == gst::TagScope::Stream => {
            Some(tag.tag_owned())
        }
        _ => None,
    }
}

/// What the plan made less of than was asked for, if it did, in pictures, which are `unit` buffers each.
fn shrinkage(plan: &Plan, unit: u64) -> Option<String> {
    let shrunk = plan.shrunk?;
    let min_asked = shrunk.chunk_frames.map_or(shrunk.min_chunk_frames, |own| {
        own.min(shrunk.min_chunk_frames)
    });
    let less = [
        ("chunk-frames", shrunk.chunk_frames, plan.length.longest()),
        ("min-chunk-frames", Some(min_asked), plan.min_frames),
    ];
    let less = less.into_iter().filter_map(|(property, asked, is)| {
        let asked = asked.filter(|asked| *asked > is)?;
        Some(format!(
            "{property} is {} instead of {}",
            is.div_ceil(unit),
            asked.div_ceil(unit)
        ))
    });
    let less: Vec<_> = less.collect();
    Some(format!(
        "The memory for raw video is too small: {}, so {}; raise max-raw-bytes to at least {} to have what was set",
        shrunk.needs,
        less.join(" and "),
        shrunk.needs.needed_bytes
    ))
}

impl State {
    pub(super) fn new(job: Job, max_raw_bytes: u64) -> Self {
        Self {
            max_raw_bytes,
            mode: Mode::Undecided,
            recipe: None,
            placed_with: 0,
            decision: None,
            tally: Tally::default(),
            slots: Vec::new(),
            job,
            caps: None,
            sink_caps: None,
            proposal: Proposal::default(),
            first_field: None,
            downstream: None,
            stream_tags: VecDeque::new(),
            global_tags: None,
            keys: KeyRequests::default(),
            cache: None,
            cache_warned: false,
            early: Vec::new(),
            stream: None,
            opens_first: false,
            started: false,
            stopped: false,
            flushing: false,
            combiner: gst_base::UniqueFlowCombiner::new(),
            flow: Ok(()),
            fails: false,
            flow_returned: false,
            releasing: 0,
            latency: None,
            closings: Vec::new(),
            joined: false,
            join_warned: false,
            overlap_dropped: false,
            overlap_warned: false,
            shrinkage: None,
        }
    }

    /// As the user knows it.
    pub(super) fn encoder_name(&self) -> String {
        let recipe = self.recipe.as_ref();
        recipe
            .map(|recipe| recipe.description.clone())
            .unwrap_or_default()
    }

    pub(super) fn add(&mut self, session: Arc<Session>) {
        self.combiner.add_pad(&session.src);
        self.tally.add_session();
        self.slots.push(Slot {
            session,
            waiting: Waiting::Nothing,
            closed: false,
            gone: false,
            parted: false,
            at_work: false,
            works: false,
            progress: Progress::new(None, FrameNo(0)),
        });
    }

    /// Sessions that were decided on, whatever became of them: what is planned depends on that alone.
    pub(super) fn sessions(&self) -> u64 {
        let decision = self.decision.as_ref();
        decision.map_or(1, |decision| decision.sessions as u64)
    }

    /// Sessions in which an encoder can be opened, for all that is known.
    pub(super) fn open_sessions(&self) -> usize {
        let open = self.slots.iter().filter(|slot| !slot.closed && !slot.gone);
        open.count()
    }

    /// Nothing goes on until the next start or the end of the flush.
    pub(super) fn is_aborting(&self) -> bool {
        self.stopped || self.flushing || self.flow.is_err()
    }

    /// Encoders encode chunks, or will: what they say is for their sessions.
    pub(super) fn is_chunked(&self) -> bool {
        match self.mode {
            Mode::Undecided => self
                .decision
                .as_ref()
                .is_none_or(|it| it.sequential.is_none()),
            Mode::Sequential(_) => false,
            Mode::Parallel => true,
        }
    }

    /// Forgets all frames; caps, tags and the plan hold for what comes after the flush. Returns what is to be dropped
    /// when no lock is held.
    #[must_use]
    pub(super) fn flush(&mut self) -> Option<Stream> {
        self.flushing = false;
        self.flow = Ok(());
        self.fails = false;
        self.flow_returned = false;
        // Nobody is at it any more, unless it panicked.
        self.releasing = 0;
        self.combiner.reset();
        self.keys = KeyRequests::default();
        let tags = self.stream_tags.pop_back();
        self.stream_tags = tags
            .map(|(_, tags)| (FrameNo(0), tags))
            .into_iter()
            .collect();
        self.early.retain(|event| {
            !matches!(event.type_(), gst::EventType::Segment | gst::EventType::Eos)
        });
        let old = self.stream.take();
        if let Some(old) = &old {
            // Whether the encoder can be cut shows itself again.
            let caps = self.caps.clone().filter(|_| old.planner.is_joined());
            let anew = caps.and_then(|caps| self.plan(&caps, None).ok());
            self.begin_stream(anew.unwrap_or(*old.planner.plan()));
            if let Some(stream) = &mut self.stream {
                // They may not have left; if they have, they don't again.
                stream.tags.extend(self.global_tags.clone());
            }
        }
        old
    }

    /// Wakes the sessions that wait for this; where they wait for a chunk, no more of them than can have one.
    pub(super) fn wake(&self, waiting: Waiting) {
        let waiters = self.slots.iter().filter(|slot| slot.waiting == waiting);
        match (&self.stream, waiting) {
            (Some(stream), Waiting::Chunk) => {
                let waiters = waiters.map(|slot| slot.session.id);
                for id in stream.roster.takers(waiters) {
                    self.slots[id.0].session.wake.notify_all();
                }
            }
            _ => waiters.for_each(|slot| slot.session.wake.notify_all()),
        }
    }

    pub(super) fn wake_all(&self) {
        for slot in &self.slots {
            slot.session.wake.notify_all();
        }
    }

    pub(super) fn plan(
        &self,
        caps: &gst::Caps,
        source_frames: Option<u64>,
    ) -> Result<Plan, BudgetTooSmall> {
        let job = &self.job;
        // All that was set is in pictures.
        let unit = buffers_per_picture(caps);
        let decision = self.decision.as_ref();
        let overlap = |of: fn(&Decision) -> Overlap| {
            decision.map_or(Overlap::Exactly(0), |it| of(it).times(unit))
        };
        let make = |min_chunk_frames: u64| {
            Plan::make(&Request {
                sessions: self.sessions(),
                sessions_are_automatic: job.sessions.is_none(),
                is_intra: decision.is_some_and(|it| it.profile.is_intra()),
                // What is kept is looked up and compared as a whole.
                keeps_fed: job.max_attempts > 1 || self.cache.is_some(),
                chunk_frames: job.chunk_frames.map(|frames| frames.saturating_mul(unit)),
                min_chunk_frames: min_chunk_frames.saturating_mul(unit),
                before: overlap(|it| it.before),
                after: overlap(|it| it.after),
                source_frames,
                frame_bytes: frame_bytes(caps).unwrap_or(1),
                max_raw_bytes: self.max_raw_bytes,
            })
        };
        let recommended = decision.map_or(0, |it| {
            let frame = frame_duration(caps).map_or(u64::MAX, gst::ClockTime::nseconds);
            it.min_chunk_frames.max(
                it.min_chunk_duration
                    .div_ceil(frame.saturating_mul(unit).max(1)),
            )
        });
        // What an encoder recommends can't make anything shorter than it is without it.
        let plan = make(job.min_chunk_frames.max(recommended)).ok();
        let mut plan = match plan.filter(|plan| plan.shrunk.is_none()) {
            Some(plan) => plan,
            None => make(job.min_chunk_frames)?,
        };
        if self.overlap_dropped {
            // The chunks are those that they would be otherwise, whenever it was found.
            (plan.before, plan.after) = (0, 0);
        }
        Ok(plan)
    }

    /// What is to be said of a plan that is less than was asked for, unless it was said before.
    #[must_use]
    pub(super) fn shrinks(&mut self, plan: &Plan, caps: &gst::Caps) -> Option<String> {
        let text = shrinkage(plan, buffers_per_picture(caps))?;
        let is_new = self.shrinkage.as_ref() != Some(&text);
        is_new.then(|| self.shrinkage.insert(text).clone())
    }

    /// A stream of frames begins.
    pub(super) fn begin_stream(&mut self, plan: Plan) {
        self.joined = false;
        self.tally.chunk_frames = plan.length.longest();
        let mut roster = Roster::new(self.slots.len(), plan.sessions, self.job.max_attempts);
        // (The last one that is left stays open.)
        let (gone, there): (Vec<_>, Vec<_>) = self.slots.iter().partition(|slot| slot.gone);
        let closed = there.into_iter().filter(|slot| slot.closed);
        for slot in gone.into_iter().chain(closed) {
            let _ = roster.close(slot.session.id);
        }
        self.stream = Some(Stream {
            budget: Budget::new(self.max_raw_bytes, plan.capacity_frames),
            planner: Planner::new(plan),
            roster,
            clock: PrivateClock::default(),
            frames: FrameTable::default(),
            pool: None,
            inputs: BTreeMap::new(),
            on_trial: BTreeMap::new(),
            segment: gst::FormattedSegment::new(),
            failures: BTreeMap::new(),
            tags: Vec::new(),
            downstream: self.downstream.clone(),
            uncached: None,
            ended: false,
        });
    }

    /// Goes on with another plan, if it isn't too late for it.
    pub(super) fn replan(&mut self, plan: Plan) -> bool {
        let limit_bytes = self.max_raw_bytes;
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let capacity_frames = plan.capacity_frames;
        let replanned = stream.planner.replan(plan);
        if replanned {
            stream.roster.set_sessions(plan.sessions);
            stream.budget.set_limits(limit_bytes, capacity_frames);
            self.tally.chunk_frames = plan.length.longest();
        }
        replanned
    }

    /// Most bytes of raw frames that will be held.
    pub(super) fn bytes_bound(&self) -> u64 {
        let (Some(stream), Some(caps)) = (&self.stream, &self.caps) else {
            return 0;
        };
        let frames = stream.planner.plan().capacity_frames;
        frames.saturating_mul(frame_bytes(caps).unwrap_or(1))
    }

    /// Stream tags are the encoders' affair, which merge their own into them; the last ones count, as with GstVideoEncoder.
    pub(super) fn add_tags(&mut self, event: gst::Event) {
        if let gst::EventView::Tag(tag) = event.view() {
            match tag.tag().scope() {
                gst::TagScope::Stream => self.tagged(Some(tag.tag_owned())),
                _ => self.global_tags = Some(event.clone()),
            }
        }
        if let Some(stream) = &mut self.stream {
            stream.tags.push(event);
        }
    }

    /// Upstream's stream tags from the next frame on.
    pub(super) fn tagged(&mut self, tags: Option<gst::TagList>) {
        let stream = self.stream.as_ref();
        let next = stream.map_or(FrameNo(0), |stream| stream.planner.next_frame());
        match self.stream_tags.back_mut() {
            // Nothing begins between them.
            Some(last) if last.0 == next => last.1 = tags,
            _ => self.stream_tags.push_back((next, tags)),
        }
    }

    /// The stream tags that hold before this frame.
    fn tags_at(&self, frame: FrameNo) -> Option<gst::TagList> {
        let known = self.stream_tags.iter().rev();
        let mut before = known.filter(|(from, _)| *from <= frame);
        before.next()?.1.clone()
    }

    /// No chunk begins before this frame any more.
    fn forget_tags_before(&mut self, frame: FrameNo) {
        while self
            .stream_tags
            .get(1)
            .is_some_and(|(from, _)| *from <= frame)
        {
            self.stream_tags.pop_front();
        }
    }

    pub(super) fn set_caps(&mut self, caps: gst::Caps) {
        self.first_field = Field::first(&caps);
        self.caps = Some(caps);
    }

    /// A frame of `bytes` stands at the door.
    pub(super) fn admit(&mut self, bytes: u64) -> Admission {
        let stream = self.stream.as_ref();
        let urgent = stream.is_some_and(|it| it.planner.is_starving());
        let Some(stream) = &mut self.stream else {
            return Admission::Admitted;
        };
        let admission = stream.budget.admit(bytes, urgent);
        if admission == Admission::Full && self.is_stuck() && !self.frees_a_session() {
            // All of them have let frames go: one has to end its chunk.
            if let Some(stream) = &mut self.stream {
                return stream.budget.admit(bytes, true);
            }
        }
        admission
    }

    /// The session with the newest chunk of those that wait for frames gives it back, and takes an older one. `false`: none can.
    fn frees_a_session(&mut self) -> bool {
        let Some(stream) = &self.stream else {
            return false;
        };
        let waiting = self.slots.iter_mut().filter_map(|slot| {
            let chunk = stream.roster.chunk_of(slot.session.id)?;
            let is_whole = !stream.planner.has_let_go(chunk);
            (slot.waiting == Waiting::Frame && is_whole).then_some((chunk, slot))
        });
        let Some((_, slot)) = waiting.max_by_key(|(chunk, _)| *chunk) else {
            return false;
        };
        slot.progress.replanned = true;
        slot.session.wake.notify_all();
        true
    }

    /// An admitted frame comes in: numbered, stamped, given to its chunk.
    pub(super) fn take_in(
        &mut self,
        aggregator: &aggregator::imp::Aggregator,
        mut buffer: gst::Buffer,
        times: FrameTimes,
        bytes: u64,
        key_interval: u64,
        picture: Option<Picture>,
    ) {
        let Some(caps) = self.caps.clone() else {
            return;
        };
        let Some(stream) = &mut self.stream else {
            return;
        };
        let running_time = times
            .pts
            .and_then(|pts| stream.segment.to_running_time(pts));
        let running_time = running_time.map(gst::ClockTime::nseconds);
        let duration = times.duration.or_else(|| frame_duration(&caps));
        let private = stream.clock.stamp(
            running_time,
            duration.unwrap_or(UNKNOWN_DURATION).nseconds(),
        );
        {
            let buffer = buffer.make_mut();
            buffer.set_pts(gst::ClockTime::from_nseconds(private));
            buffer.set_dts(gst::ClockTime::NONE);
            buffer.set_duration(times.duration);
        }
        let frame = stream.planner.next_frame();
        let begins = self
            .first_field
            .is_none_or(|first| Field::of(&buffer) == first);
        let due = if begins {
            self.keys.due(running_time, key_interval)
        } else {
            Due::default()
        };
        if due.forces {
            if let Some(closed) = stream.planner.split() {
                aggregator.close(closed.id, closed.own);
            }
            self.keys.comes(frame, private);
        }
        for request in due.requests {
            aggregator.key_asked(frame, request);
        }
        // A chunk that begins here is told the tags up to here; one that goes on gets them with the frame.
        let tags = std::mem::take(&mut stream.tags);
        stream.frames.push(
            private,
            Some(Held {
                buffer,
                bytes,
                force_key: due.forces,
                tags,
                picture,
            }),
        );
        aggregator.frame(private, times);
        self.tally.frames_in += 1;
        let opened = match stream.planner.frame(begins) {
            Verdict::Continues => None,
            Verdict::Opens(opened) => Some(opened),
            Verdict::Splits { closed, opened } => {
                aggregator.close(closed.id, closed.own);
                Some(opened)
            }
        };
        if let Some(opened) = opened {
            self.open(aggregator, opened, &caps);
        }
        self.wake(Waiting::Frame);
    }

    fn open(
        &mut self,
        aggregator: &aggregator::imp::Aggregator,
        opened: Opening,
        caps: &gst::Caps,
    ) {
        let tags = self.tags_at(opened.start);
        let Some(stream) = &mut self.stream else {
            return;
        };
        // Those that stand right before it come with it, all of them and in order.
        let first = stream.frames.get(opened.start).and_then(Option::as_ref);
        let come = first.is_some_and(|first| first.tags.iter().any(|it| of_stream(it).is_some()));
        let tags = tags.filter(|_| !come);
        aggregator.open(opened.id, opened.start);
        self.keys.comes(opened.start, stream.private(opened.start));
        stream.roster.offer(opened.id);
        let downstream = self.downstream.clone();
        if stream.downstream != downstream {
            // What the encoder makes may be something else from here on.
            aggregator.event(opened.start, gst::event::Caps::new(caps));
            stream.downstream = downstream.clone();
        }
        let rate = caps
            .structure(0)
            .and_then(|caps| caps.get("framerate").ok());
        let hints = Hints {
            neighbours: opened.neighbours,
            rate,
        };
        let input = Input {
            caps: caps.clone(),
            downstream,
            tags,
            hints,
        };
        stream.inputs.insert(opened.id, input);
        self.forget_tags_before(opened.start);
        self.tally.chunks_planned += 1;
        self.wake(Waiting::Chunk);
    }

    /// What was made of the chunk is thrown away, and it begins anew. `false`: some of it has left for good.
    pub(super) fn begin_anew(
        &mut self,
        chunk: ChunkId,
        aggregator: &aggregator::imp::Aggregator,
    ) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        if stream.planner.has_let_go(chunk) || !aggregator.begin_anew(chunk) {
            return false;
        }
        if stream.on_trial.remove(&chunk).is_some() {
            stream.roster.offer(chunk);
        }
        for slot in &mut self.slots {
            slot.progress.replanned |= stream.roster.chunk_of(slot.session.id) == Some(chunk);
        }
        self.wake_all();
        true
    }

    /// The chunk ends here: what follows has other caps or another segment, or doesn't follow.
    pub(super) fn cut(&mut self, aggregator: &aggregator::imp::Aggregator) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        if let Some(closed) = stream.planner.cut() {
            aggregator.close(closed.id, closed.own);
        }
        self.wake(Waiting::Frame);
    }

    /// No frame comes any more.
    pub(super) fn end(&mut self, aggregator: &aggregator::imp::Aggregator) {
        self.cut(aggregator);
        let Some(stream) = &mut self.stream else {
            return;
        };
        stream.ended = true;
        self.tags_leave(aggregator);
    }

    /// No encoder gets the tags that came since the last frame.
    pub(super) fn tags_leave(&mut self, aggregator: &aggregator::imp::Aggregator) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let next = stream.planner.next_frame();
        for tags in std::mem::take(&mut stream.tags) {
            aggregator.event(next, tags);
        }
    }

    /// Frames that no session is fed until more come are fed, and the open chunk, which isn't begun before all of it is there where
    /// chunks are kept, is begun without the cache.
    pub(super) fn give_out(&mut self, aggregator: &aggregator::imp::Aggregator) {
        let Some(stream) = self.stream.as_mut().filter(|stream| !stream.ended) else {
            return;
        };
        if let Some(closed) = stream.planner.give_out() {
            aggregator.close(closed.id, closed.own);
        }
        stream.uncached = stream.planner.open_chunk();
        self.wake(Waiting::Frame);
    }

    /// The chunk isn't waited for as a whole.
    pub(super) fn is_uncached(&self, chunk: ChunkId) -> bool {
        let stream = self.stream.as_ref();
        stream.is_some_and(|stream| stream.uncached == Some(chunk))
    }

    pub(super) fn input(&self, chunk: ChunkId) -> Option<Input> {
        self.stream.as_ref()?.inputs.get(&chunk).cloned()
    }

    /// All that is fed to a chunk's encoder, once that is known and there.
    pub(super) fn content(&self, chunk: ChunkId) -> Option<Content> {
        let stream = self.stream.as_ref()?;
        let chunk = stream.planner.whole(chunk)?;
        let mut fed = Vec::new();
        for frame in chunk.fed.iter() {
            let held = stream.frames.get(frame)?.as_ref()?;
            fed.push(Fed {
                picture: held.picture,
                time: stream.private(frame),
                duration: held.buffer.duration(),
                force_key: held.force_key,
                tags: held.tags.clone(),
            });
        }
        Some(Content { chunk, fed })
    }

    /// What a session feeds next, if that is known.
    pub(super) fn step(&self, chunk: ChunkId, at: FrameNo) -> Option<Step> {
        let stream = self.stream.as_ref()?;
        match stream.planner.next(chunk, at)? {
            Next::Wait => None,
            Next::Drain(chunk) => Some(Step::Drain(chunk)),
            Next::Feed { frame, force_key } => {
                let held = stream.frames.get(frame)?.as_ref()?;
                Some(Step::Feed {
                    buffer: held.buffer.clone(),
                    force_key: force_key || held.force_key,
                    tags: held.tags.clone(),
                })
            }
        }
    }

    /// The session's attempt ends.
    pub(super) fn count_attempt(&mut self, session: SessionId, frames: u64) {
        let busy = self.slots[session.0].progress.since.elapsed().as_nanos();
        let busy = u64::try_from(busy).unwrap_or(u64::MAX);
        self.tally.attempt(session, frames, busy);
    }

    /// The session's chunk was verified. Returns all chunks that may leave now.
    pub(super) fn delivered(
        &mut self,
        aggregator: &aggregator::imp::Aggregator,
        session: SessionId,
        chunk: ChunkId,
        delivered: Delivered,
    ) -> Vec<(ChunkId, Vec<gst::Buffer>)> {
        let Some(stream) = &mut self.stream else {
            return Vec::new();
        };
        stream.roster.succeeded(session);
        stream.on_trial.insert(chunk, delivered);
        if stream.planner.oldest() == Some(chunk) && !aggregator.herald_leaves() {
            // It has made no packet that could have left first.
            aggregator.forgo_herald();
        }
        self.free(aggregator)
    }

    /// Chunks that were verified and may leave now, with their frames. None may while the first packet is on its way: a key frame
    /// that it makes downstream ask for can only be made while there are frames.
    #[must_use]
    pub(super) fn free(
        &mut self,
        aggregator: &aggregator::imp::Aggregator,
    ) -> Vec<(ChunkId, Vec<gst::Buffer>)> {
        let Some(stream) = self.stream.as_mut().filter(|_| !aggregator.is_heralded()) else {
            return Vec::new();
        };
        let mut free = Vec::new();
        // In order: each may be what the next ones wait for.
        let waiting: Vec<_> = stream.on_trial.keys().copied().collect();
        for chunk in waiting {
            if stream.planner.is_on_trial(chunk) {
                continue;
            }
            let delivered = stream.on_trial.remove(&chunk);
            self.tally.frames_skipped += delivered.map_or(0, |delivered| delivered.skipped);
            self.tally.chunks_finished += 1;
            free.push((chunk, stream.release(chunk)));
        }
        free
    }

    /// It isn't too late for [`join`](Self::join), and it hasn't been done.
    pub(super) fn can_join(&self, aggregator: &aggregator::imp::Aggregator) -> bool {
        let stream = self.stream.as_ref();
        let can_join = stream.is_some_and(|stream| stream.planner.can_join());
        can_join && !self.joined && !aggregator.has_left()
    }

    /// The encoder can't be cut: all chunks become one. `false`: it is too late for that.
    pub(super) fn join(&mut self, aggregator: &aggregator::imp::Aggregator) -> bool {
        if !self.can_join(aggregator) {
            return false;
        }
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let Some(whole) = stream.planner.join() else {
            return false;
        };
        for slot in &mut self.slots {
            slot.progress.replanned |= stream.roster.chunk_of(slot.session.id).is_some();
        }
        stream.roster.keep_only(whole.id);
        stream.inputs.retain(|chunk, _| *chunk == whole.id);
        if let Some(input) = stream.inputs.get_mut(&whole.id) {
            input.hints.neighbours = Neighbours {
                before: false,
                after: false,
                fed: stream.planner.plan().source_frames,
            };
        }
        stream.on_trial.clear();
        self.keys.forget_known();
        self.keys
            .comes(whole.own.start, stream.private(whole.own.start));
        aggregator.join(whole.id, whole.own);
        self.joined = true;
        self.tally.chunks_planned = 1;
        self.wake_all();
        true
    }

    /// Lets the frames go that were fed to a chunk, where there is no other attempt at it.
    #[must_use]
    pub(super) fn fed(
        &mut self,
        aggregator: &aggregator::imp::Aggregator,
        chunk: ChunkId,
        position: FrameNo,
    ) -> Vec<gst::Buffer> {
        let stream = self.stream.as_mut();
        let Some(stream) =
            stream.filter(|stream| stream.planner.is_joined() || !aggregator.may_begin_anew())
        else {
            return Vec::new();
        };
        let ranges = stream.planner.fed(chunk, position).into_iter();
        let free = ranges.flat_map(|range| stream.let_go(range)).collect();
        stream.frames.forget_before(stream.planner.oldest_needed());
        if stream.planner.is_joined() {
            // No chunk opens that would.
            self.forget_tags_before(position);
        }
        free
    }

    /// The oldest chunk is in nobody's hands, and nobody can take it: sessions wait for frames, or for those who do.
    pub(super) fn is_stuck(&self) -> bool {
        let Some(stream) = &self.stream else {
            return false;
        };
        let oldest = stream.planner.oldest();
        oldest.is_some_and(|chunk| stream.roster.is_waiting(chunk))
            && self.slots.iter().all(|slot| {
                // (Another one takes the place of a session that was left.)
                let is_left = slot.gone && !slot.parted;
                let is_out = stream.roster.is_out(slot.session.id) && !is_left;
                slot.waiting == Waiting::Frame || is_out
            })
    }

    /// An attempt's chunk loses its overlap where that explains its fault, and others with it. `false`: it explains nothing.
    pub(super) fn drop_overlap(
        &mut self,
        session: SessionId,
        side: Side,
        aggregator: &aggregator::imp::Aggregator,
    ) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let chunk = stream.roster.chunk_of(session);
        let Some(losing) = chunk.and_then(|chunk| stream.planner.drop_overlap(chunk, side)) else {
            return false;
        };
        self.overlap_dropped |= !stream.planner.plan().overlaps();
        for &(chunk, neighbours) in &losing {
            if let Some(input) = stream.inputs.get_mut(&chunk) {
                input.hints.neighbours = neighbours;
            }
        }
        for (chunk, _) in losing {
            self.begin_anew(chunk, aggregator);
        }
        true
    }
}

impl Stream {
    /// The pool of the last frame, as long as that is held: GStreamer doesn't let anyone configure it anew in this time.
    pub(super) fn known_pool(&self) -> Option<Pool> {
        let last = self.planner.next_frame().0.checked_sub(1)?;
        self.frames.get(FrameNo(last))?.as_ref()?;
        self.pool
    }

    pub(super) fn private(&self, frame: FrameNo) -> u64 {
        self.frames.private(frame).unwrap_or_default()
    }

    /// Lets a chunk's frames go, unless another chunk needs them.
    fn release(&mut self, chunk: ChunkId) -> Vec<gst::Buffer> {
        self.inputs.remove(&chunk);
        self.failures.remove(&chunk);
        let ranges = self.planner.done(chunk).into_iter();
        let free = ranges.flat_map(|range| self.let_go(range)).collect();
        self.frames.forget_before(self.planner.oldest_needed());
        free
    }

    /// The chunk begins with this frame.
    pub(super) fn begin_at(&mut self, chunk: ChunkId, start: FrameNo) -> Vec<gst::Buffer> {
        // What is gone no longer brings its tags.
        let first = self.planner.first_fed(chunk).unwrap_or(start);
        let gone = FrameRange::new(first.0, start.0).iter();
        let gone = gone.filter_map(|frame| self.frames.get(frame)?.as_ref());
        let tags = gone
            .flat_map(|held| &held.tags)
            .filter_map(of_stream)
            .last();
        if let (Some(tags), Some(input)) = (tags, self.inputs.get_mut(&chunk)) {
            input.tags = Some(tags);
        }
        let ranges = self.planner.begin_at(chunk, start).into_iter();
        ranges.flat_map(|range| self.let_go(range)).collect()
    }

    fn let_go(&mut self, range: FrameRange) -> Vec<gst::Buffer> {
        let mut free = Vec::new();
        for frame in range.iter() {
            if let Some(held) = self.frames.get_mut(frame).and_then(Option::take) {
                self.budget.release(held.bytes);
                free.push(held.buffer);
            }
        }
        free
    }
}
