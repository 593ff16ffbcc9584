// SPDX-License-Identifier: MPL-2.0

//! Pads and tasks of the distributor.

use super::state::{Mode, State, Waiting, frame_bytes, frame_duration};
use crate::aggregator::{self, Aggregator, FrameTimes};
use crate::locking::{lock, wait};
use crate::logic::budget::Admission;
use crate::logic::frame::{Chunk, ChunkId, FrameNo, SessionId};
use crate::logic::reorder::Delivered;
use crate::logic::roster::{AfterFailure, Attempt, MAX_ATTEMPTS};
use crate::parallelenc::ParallelEnc;
use crate::parallelenc::report::Snapshot;
use crate::parallelenc::settings::{Job, Sequential};
use crate::session::encoder::{self, EncoderError};
use crate::session::{Failure, Input, Session, Step, Work};
use gst::prelude::*;
use gst::subclass::prelude::*;
use once_cell::sync::{Lazy, OnceCell};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

static CAT: Lazy<gst::DebugCategory> = Lazy::new(|| {
    gst::DebugCategory::new(
        "vtparalleldistributor",
        gst::DebugColorFlags::empty(),
        Some("vtparallelenc: raw frames to chunks, chunks to sessions"),
    )
});

pub(crate) struct Distributor {
    sink: gst::Pad,
    aggregator: OnceCell<Aggregator>,
    /// From READY to NULL.
    state: Mutex<Option<State>>,
    /// For the chain function where the budget is spent.
    room: Condvar,
}

#[glib::object_subclass]
impl ObjectSubclass for Distributor {
    const NAME: &'static str = "GstVtParallelDistributor";
    type Type = super::Distributor;
    type ParentType = gst::Element;

    fn with_class(class: &Self::Class) -> Self {
        // PANIC: `pad_templates` below has it.
        let template = class.pad_template("sink").expect("sink template");
        let sink = gst::Pad::builder_from_template(&template)
            .chain_function(|_, parent, buffer| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::FlowError::Error),
                    |this| this.sink_chain(buffer),
                )
            })
            .event_function(|_, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |this| this.sink_event(event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |this| this.sink_query(pad, query))
            })
            .build();
        Self {
            sink,
            aggregator: OnceCell::new(),
            state: Mutex::default(),
            room: Condvar::new(),
        }
    }
}

impl ObjectImpl for Distributor {
    fn constructed(&self) {
        self.parent_constructed();
        // PANIC: the element has no other pad yet.
        self.obj().add_pad(&self.sink).expect("sink pad");
    }
}

impl GstObjectImpl for Distributor {}

impl ElementImpl for Distributor {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: Lazy<gst::subclass::ElementMetadata> = Lazy::new(|| {
            gst::subclass::ElementMetadata::new(
                "Parallel encoding distributor",
                "Generic/Video",
                "Cuts a video into chunks for several encoders",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: Lazy<Vec<gst::PadTemplate>> = Lazy::new(|| {
            let raw = crate::parallelenc::raw_caps();
            let template =
                |name, direction, presence| gst::PadTemplate::new(name, direction, presence, &raw);
            [
                template("sink", gst::PadDirection::Sink, gst::PadPresence::Always),
                template("src_%u", gst::PadDirection::Src, gst::PadPresence::Request),
            ]
            .into_iter()
            .flatten()
            .collect()
        });
        &TEMPLATES
    }
}

// Called by the bin.
impl Distributor {
    pub(crate) fn sink(&self) -> &gst::Pad {
        &self.sink
    }

    pub(crate) fn connect(&self, aggregator: &Aggregator) {
        let _ = self.aggregator.set(aggregator.clone());
    }

    fn aggregator(&self) -> &aggregator::imp::Aggregator {
        // PANIC: the bin connects both before either can be reached.
        self.aggregator.get().expect("connected").imp()
    }

    fn bin(&self) -> Option<ParallelEnc> {
        self.obj().parent().and_downcast()
    }

    /// NULL to READY: makes the sessions, and the first encoder where it is known.
    pub(crate) fn prepare(&self, job: Job) -> Result<(), EncoderError> {
        let sinks = self.aggregator().add_sessions(job.sessions);
        let sessions: Vec<_> = sinks
            .into_iter()
            .enumerate()
            .map(|(id, sink)| {
                let id = SessionId(id);
                Arc::new(Session::new(id, self.src_pad(id), sink))
            })
            .collect();
        for session in &sessions {
            if self.obj().add_pad(&session.src).is_err() {
                gst::error!(CAT, imp = self, "No place for {}", session.src.name());
            }
        }
        let placed = match sessions.first() {
            Some(first) => self.place_first(first, &job),
            None => Ok(()),
        };
        *lock(&self.state) = Some(State::new(job, sessions));
        placed
    }

    /// READY to PAUSED: a new stream, with sessions for what was set meanwhile.
    pub(crate) fn start(&self, job: Job) -> Result<(), EncoderError> {
        let prepared = lock(&self.state).as_ref().map(|state| state.job.clone());
        if prepared.as_ref() != Some(&job) {
            self.unprepare();
            self.prepare(job.clone())?;
        }
        self.aggregator().start();
        let first = {
            let mut state = lock(&self.state);
            let Some(state) = state.as_mut() else {
                return Ok(());
            };
            let sessions: Vec<_> = state
                .slots
                .iter()
                .map(|slot| slot.session.clone())
                .collect();
            let first = sessions.first().cloned();
            *state = State::new(job.clone(), sessions);
            first
        };
        match first.filter(|first| !first.is_placed()) {
            Some(first) => self.place_first(&first, &job),
            None => Ok(()),
        }
    }

    /// Where it is known which encoder it will be, it answers for itself from the beginning.
    fn place_first(&self, session: &Session, job: &Job) -> Result<(), EncoderError> {
        match (self.bin(), &job.encoder) {
            (Some(bin), Some(description)) => {
                session.place(bin.upcast_ref(), description, job.sequential.is_none())
            }
            _ => Ok(()),
        }
    }

    /// PAUSED to READY, before anything else: whatever waits returns.
    pub(crate) fn stop(&self) {
        if let Some(state) = &mut *lock(&self.state) {
            state.stopped = true;
            state.wake_all();
        }
        self.room.notify_all();
        self.aggregator().stop();
    }

    /// PAUSED to READY, when no task runs any more: no encoder stays. A next start places a new one.
    pub(crate) fn stopped(&self) {
        for session in self.sessions() {
            session.clear();
        }
        if let Some(state) = &mut *lock(&self.state) {
            state.stream = None;
        }
    }

    /// READY to NULL.
    pub(crate) fn unprepare(&self) {
        for session in self.sessions() {
            session.clear();
            let _ = self.obj().remove_pad(&session.src);
        }
        *lock(&self.state) = None;
        self.aggregator().remove_sessions();
    }

    fn sessions(&self) -> Vec<Arc<Session>> {
        let state = lock(&self.state);
        let slots = state.iter().flat_map(|state| &state.slots);
        slots.map(|slot| slot.session.clone()).collect()
    }

    /// An encoder posted an error. Remembered for its session's task, which acts on it; `false` where
    /// nobody would, and the message is the application's.
    pub(crate) fn encoder_failed(&self, id: SessionId, message: &gst::Message) -> bool {
        let mut state = lock(&self.state);
        let Some(state) = state.as_mut().filter(|state| state.is_chunked()) else {
            return false;
        };
        let Some(slot) = state.slots.get_mut(id.0) else {
            return false;
        };
        slot.error.get_or_insert_with(|| message.clone());
        slot.session.wake.notify_all();
        true
    }

    /// An encoder said that it leaves a frame out.
    pub(crate) fn encoder_skipped(&self, id: SessionId, private: gst::ClockTime) {
        self.aggregator().skip(id, private);
    }

    /// The encoders' messages are ours: chunks are encoded.
    pub(crate) fn is_chunked(&self) -> bool {
        lock(&self.state).as_ref().is_some_and(State::is_chunked)
    }

    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        let state = lock(&self.state);
        let state = state.as_ref()?;
        let aggregator = self.aggregator();
        let mut tally = state.tally.clone();
        tally.frames_out = aggregator.frames_out();
        let budget = state.stream.as_ref().map(|stream| &stream.budget);
        Some(Snapshot {
            tally,
            encoder: state.description.clone(),
            sequential: match state.mode {
                Mode::Sequential(reason) => Some(reason),
                _ => None,
            },
            bytes_held: budget.map_or(0, |budget| budget.held_bytes()),
            bytes_peak: budget.map_or(0, |budget| budget.peak_bytes()),
            bytes_bound: state.bytes_bound(),
            leaves_early: aggregator.leaves_early(),
        })
    }
}

// Failures, and who gets to know of them.
impl Distributor {
    /// Ends the stream with an error: upstream gets an error flow, everything that waits returns.
    pub(crate) fn fail(&self, error: gst::ErrorMessage) {
        if self.give_up(gst::FlowError::Error)
            && let Some(bin) = self.bin()
        {
            gst::error!(CAT, imp = self, "{error}");
            bin.imp().post_error_message(error);
        }
    }

    /// Ends the stream with the error that an encoder posted.
    fn fail_as_posted(&self, message: gst::Message) {
        if self.give_up(gst::FlowError::Error)
            && let Some(bin) = self.bin()
        {
            bin.imp().forward_message(message);
        }
    }

    /// The flow of all sessions is an error from now on. `false` if it was before.
    fn give_up(&self, flow: gst::FlowError) -> bool {
        let mut guard = lock(&self.state);
        let Some(state) = guard.as_mut().filter(|state| state.flow.is_ok()) else {
            return false;
        };
        for slot in &state.slots {
            let combined = state.combiner.update_pad_flow(&slot.session.src, Err(flow));
            state.flow = combined.map(drop);
        }
        state.wake_all();
        drop(guard);
        self.room.notify_all();
        true
    }

    /// Downstream takes no more: upstream gets the same. If upstream has ended, nobody else would say so.
    pub(crate) fn downstream_refused(&self, flow: gst::FlowError) {
        let ended = {
            let state = lock(&self.state);
            let stream = state.as_ref().and_then(|state| state.stream.as_ref());
            stream.is_none_or(|stream| stream.ended)
        };
        let is_error = !matches!(flow, gst::FlowError::Eos | gst::FlowError::Flushing);
        if self.give_up(flow)
            && ended
            && is_error
            && let Some(bin) = self.bin()
        {
            gst::element_error!(
                bin,
                gst::StreamError::Failed,
                ("Internal data stream error."),
                ["downstream of vtparallelenc returned {flow:?} after the end of its input"]
            );
        }
    }

    /// Output was held back while no input came, and leaves early now.
    pub(crate) fn warn_of_stall(&self, holds_back: Option<gst::ClockTime>) {
        let Some(bin) = self.bin() else { return };
        let time = holds_back.map_or_else(
            || "as much time as the chunks being encoded".to_string(),
            |time| format!("{:.0} seconds", time.nseconds() as f64 / 1e9 + 1.0),
        );
        gst::element_warning!(
            bin,
            gst::StreamError::Encode,
            ("No video came for a second while encoded video was held back; it leaves early from now on, which \
                 may cost parallelism. If another branch of the pipeline waits for it, let that branch's queue hold {time} \
                 (max-size-time, with max-size-bytes=0 and max-size-buffers=0)")
        );
    }

    /// What is known of why the session's attempt cannot go on; `None` if nothing is.
    pub(crate) fn failure(&self, id: SessionId) -> Option<Failure> {
        if let Some(fault) = self.aggregator().take_fault(id) {
            return Some(Failure::Fault(fault));
        }
        let mut state = lock(&self.state);
        let Some(state) = state.as_mut() else {
            return Some(Failure::Aborted);
        };
        if state.stopped || state.flushing {
            return Some(Failure::Aborted);
        }
        if state.flow.is_err() || self.aggregator().flow().is_err() {
            return Some(Failure::Downstream);
        }
        let error = state.slots.get_mut(id.0)?.error.take()?;
        Some(Failure::Posted(error))
    }
}

// The sessions' tasks.
impl Distributor {
    fn src_pad(&self, id: SessionId) -> gst::Pad {
        // PANIC: `pad_templates` above has it.
        let template = self.obj().pad_template("src_%u").expect("src template");
        gst::Pad::builder_from_template(&template)
            .name(format!("src_{id}"))
            .activatemode_function(move |pad, parent, mode, active| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::loggable_error!(CAT, "Panic while activating")),
                    |this| this.src_activatemode(pad, id, mode, active),
                )
            })
            .event_function(|_, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |this| this.src_event(event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |this| this.src_query(pad, query))
            })
            .build()
    }

    fn src_activatemode(
        &self,
        pad: &gst::Pad,
        id: SessionId,
        mode: gst::PadMode,
        active: bool,
    ) -> Result<(), gst::LoggableError> {
        if mode != gst::PadMode::Push {
            return Err(gst::loggable_error!(CAT, "Only push mode is supported"));
        }
        if active {
            self.start_task(pad, id);
            return Ok(());
        }
        self.stop();
        pad.stop_task()
            .map_err(|error| gst::loggable_error!(CAT, "Task can't be stopped: {error}"))
    }

    fn start_task(&self, pad: &gst::Pad, id: SessionId) {
        if !pad.is_active() {
            return;
        }
        let weak = self.downgrade();
        let started = pad.start_task(move || {
            if let Some(this) = weak.upgrade() {
                this.run(id);
            }
        });
        if started.is_err() {
            gst::error!(CAT, imp = self, "The task of session {id} can't be started");
        }
    }

    fn session(&self, id: SessionId) -> Option<Arc<Session>> {
        let state = lock(&self.state);
        Some(state.as_ref()?.slots.get(id.0)?.session.clone())
    }

    /// One turn of a session's task: one attempt at one chunk.
    fn run(&self, id: SessionId) {
        let (Some(session), Some(bin)) = (self.session(id), self.bin()) else {
            return;
        };
        let Some((attempt, work)) = self.take_chunk(id) else {
            let _ = session.src.pause_task();
            return;
        };
        gst::debug!(
            CAT,
            imp = self,
            "Session {id}: attempt {} at chunk {}",
            attempt.number,
            work.chunk
        );
        let started = Instant::now();
        let result = session.run(bin.upcast_ref(), self, self.aggregator(), &work);
        let busy = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.aggregator().leave(id);
        match result {
            Ok((chunk, delivered)) => self.delivered(id, chunk, delivered, busy),
            Err(Failure::Aborted | Failure::Downstream) => {
                gst::debug!(
                    CAT,
                    imp = self,
                    "Session {id}: chunk {} aborted",
                    work.chunk
                );
            }
            Err(failure) => self.attempt_failed(id, &failure, busy),
        }
    }

    /// Waits for a chunk. `None`: the stream is aborted.
    fn take_chunk(&self, id: SessionId) -> Option<(Attempt, Work)> {
        let mut guard = lock(&self.state);
        loop {
            let state = guard.as_mut().filter(|state| !state.is_aborting())?;
            let description = state.description.clone();
            let taken = state.stream.as_mut().and_then(|stream| {
                let attempt = stream.roster.take(id)?;
                Some((attempt, stream.planner.first_fed(attempt.chunk)?))
            });
            let slot = &mut state.slots[id.0];
            slot.waiting = Waiting::Chunk;
            if let Some((attempt, first)) = taken {
                slot.waiting = Waiting::Nothing;
                slot.ended = false;
                slot.error = None;
                let work = Work {
                    chunk: attempt.chunk,
                    first,
                    input: state.input(attempt.chunk)?,
                    description: description?,
                };
                return Some((attempt, work));
            }
            let session = slot.session.clone();
            guard = wait(&session.wake, guard);
        }
    }

    /// Waits until it is known what the session does next with its chunk.
    pub(crate) fn next_step(
        &self,
        id: SessionId,
        chunk: ChunkId,
        position: FrameNo,
    ) -> Result<Step, Failure> {
        self.wait_as(id, Waiting::Frame, |state| state.step(id, chunk, position))
    }

    /// Waits until the session's encoder has sent its EOS.
    pub(crate) fn wait_for_eos(&self, id: SessionId) -> Result<(), Failure> {
        self.wait_as(id, Waiting::Eos, |state| {
            state.slots[id.0].ended.then_some(())
        })
    }

    fn wait_as<R>(
        &self,
        id: SessionId,
        waiting: Waiting,
        mut ready: impl FnMut(&mut State) -> Option<R>,
    ) -> Result<R, Failure> {
        let mut guard = lock(&self.state);
        let result = loop {
            let Some(state) = guard.as_mut().filter(|state| !state.is_aborting()) else {
                break Err(Failure::Aborted);
            };
            if state.slots[id.0].error.is_some() {
                drop(guard);
                // A fault says more than the error that it led to.
                return Err(self.failure(id).unwrap_or(Failure::Aborted));
            }
            if let Some(result) = ready(state) {
                break Ok(result);
            }
            let slot = &mut state.slots[id.0];
            slot.waiting = waiting;
            let session = slot.session.clone();
            guard = wait(&session.wake, guard);
        };
        if let Some(state) = guard.as_mut() {
            state.slots[id.0].waiting = Waiting::Nothing;
        }
        result
    }

    /// The session's encoder has sent EOS.
    pub(crate) fn encoder_ended(&self, id: SessionId) {
        let mut state = lock(&self.state);
        if let Some(slot) = state.as_mut().and_then(|state| state.slots.get_mut(id.0)) {
            slot.ended = true;
            slot.session.wake.notify_all();
        }
    }

    fn delivered(&self, id: SessionId, chunk: Chunk, delivered: Delivered, busy: u64) {
        gst::debug!(CAT, imp = self, "Session {id}: {chunk} done, {delivered:?}");
        let mut guard = lock(&self.state);
        let Some(state) = guard.as_mut() else { return };
        state.tally.frames_skipped += delivered.skipped;
        state.tally.attempt(id, chunk.fed.len(), busy);
        let free = state.delivered(id, chunk.id);
        if let Some(stream) = &state.stream {
            self.aggregator()
                .forget_before(stream.planner.oldest_needed());
        }
        drop(guard);
        drop(free);
        self.room.notify_all();
    }

    fn attempt_failed(&self, id: SessionId, failure: &Failure, busy: u64) {
        let mut guard = lock(&self.state);
        let Some(state) = guard.as_mut() else { return };
        state.tally.attempt(id, 0, busy);
        let Some(stream) = &mut state.stream else {
            return;
        };
        let aggregator = self.aggregator();
        if aggregator.is_proven() {
            stream.roster.prove();
        }
        let repeatable = stream
            .roster
            .chunk_of(id)
            .is_some_and(|chunk| aggregator.is_repeatable(chunk));
        let verdict = stream.roster.failed(id, repeatable);
        if verdict == Some(AfterFailure::Again) {
            state.tally.attempts_failed += 1;
            state.wake(Waiting::Chunk);
        }
        let own = stream_chunk(state, verdict);
        drop(guard);
        match verdict {
            Some(AfterFailure::GiveUp(attempt)) => self.report_failure(id, attempt, own, failure),
            _ => gst::warning!(CAT, imp = self, "Session {id}: trying again: {failure}"),
        }
    }

    /// The last attempt at a chunk failed, or the first one of all.
    fn report_failure(
        &self,
        id: SessionId,
        attempt: Attempt,
        frames: Option<String>,
        failure: &Failure,
    ) {
        match failure {
            Failure::Posted(message) => {
                gst::error!(
                    CAT,
                    imp = self,
                    "Session {id}, chunk {}: {failure}",
                    attempt.chunk
                );
                self.fail_as_posted(message.clone());
            }
            Failure::Encoder(error) => self.fail(encoder_error(error)),
            _ => self.fail(gst::error_msg!(
                gst::StreamError::Encode,
                ("Chunk {} could not be encoded: {failure}", attempt.chunk),
                [
                    "session {id}, frames {}, attempt {} of at most {MAX_ATTEMPTS}",
                    frames.unwrap_or_default(),
                    attempt.number
                ]
            )),
        }
    }

    /// All packets of the chunks before `next` have left.
    pub(crate) fn chunks_left(&self, next: ChunkId) {
        if let Some(state) = &mut *lock(&self.state) {
            if let Some(stream) = &mut state.stream {
                stream.roster.left(next);
            }
            state.wake(Waiting::Chunk);
        }
    }
}

/// The fed frames of a chunk that is given up.
fn stream_chunk(state: &State, verdict: Option<AfterFailure>) -> Option<String> {
    let Some(AfterFailure::GiveUp(attempt)) = verdict else {
        return None;
    };
    let planner = &state.stream.as_ref()?.planner;
    Some(format!("from {}", planner.first_fed(attempt.chunk)?))
}

pub(crate) fn encoder_error(error: &EncoderError) -> gst::ErrorMessage {
    match error {
        EncoderError::CannotChoose { .. }
        | EncoderError::Description { .. }
        | EncoderError::NotAnEncoder { .. } => {
            gst::error_msg!(gst::LibraryError::Settings, ("{error}"))
        }
        EncoderError::CannotStart { .. } => gst::error_msg!(gst::LibraryError::Init, ("{error}")),
        EncoderError::CapsRefused { .. } => {
            gst::error_msg!(gst::StreamError::Format, ("{error}"))
        }
    }
}

// Upstream's side.
impl Distributor {
    fn mode(&self) -> Mode {
        lock(&self.state)
            .as_ref()
            .map_or(Mode::Undecided, |state| state.mode)
    }

    /// Where everything goes while the stream is sequential.
    fn straight(&self) -> Option<gst::Pad> {
        Some(self.session(SessionId(0))?.src.clone())
    }

    fn sink_chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        match self.mode() {
            Mode::Undecided => Err(gst::FlowError::NotNegotiated),
            Mode::Sequential(_) => {
                if let Some(state) = &mut *lock(&self.state) {
                    state.tally.frames_in += 1;
                }
                let straight = self.straight().ok_or(gst::FlowError::Flushing)?;
                straight.push(buffer)
            }
            Mode::Parallel => self.take_in(buffer),
        }
    }

    fn take_in(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        self.plan_with_length();
        let mut guard = lock(&self.state);
        let Some(stream) = guard.as_ref().and_then(|state| state.stream.as_ref()) else {
            return Err(gst::FlowError::Flushing);
        };
        let Some(times) = clip(&stream.segment, &buffer) else {
            drop(guard);
            gst::debug!(
                CAT,
                imp = self,
                "Dropping {buffer:?}, it is outside the segment"
            );
            return Ok(gst::FlowSuccess::Ok);
        };
        let bytes = buffer.size() as u64;
        let mut waited = false;
        let result = loop {
            let Some(state) = guard.as_mut() else {
                break Err(gst::FlowError::Flushing);
            };
            if state.stopped || state.flushing {
                break Err(gst::FlowError::Flushing);
            }
            if let Err(flow) = state.flow {
                break Err(flow);
            }
            if state.admit(bytes) == Admission::Admitted {
                break Ok(());
            }
            if !waited {
                waited = true;
                self.aggregator().input_waits(true);
            }
            guard = wait(&self.room, guard);
        };
        if waited {
            self.aggregator().input_waits(false);
        }
        result?;
        if let Some(state) = guard.as_mut() {
            state.take_in(self.aggregator(), stampable(buffer), times, bytes);
        }
        Ok(gst::FlowSuccess::Ok)
    }

    /// Before the first frame: asks upstream how long the stream will be, and plans equal chunks.
    fn plan_with_length(&self) {
        let (caps, segment, known) = {
            let state = lock(&self.state);
            let Some(state) = state.as_ref() else { return };
            let (Some(stream), Some(caps)) = (&state.stream, &state.caps) else {
                return;
            };
            if stream.planner.next_frame() != FrameNo(0) {
                return;
            }
            (
                caps.clone(),
                stream.segment.clone(),
                state.job.source_frames,
            )
        };
        let frames = known.or_else(|| self.frames_to_come(&caps, &segment));
        gst::info!(CAT, imp = self, "Frames to come: {frames:?}");
        let mut guard = lock(&self.state);
        let Some(state) = guard.as_mut() else { return };
        // The length can't make a plan that was possible without it impossible.
        if let Ok(plan) = state.plan(&caps, frames) {
            self.announce(&caps, plan.capacity_frames);
            if let Some(stream) = &mut state.stream {
                stream
                    .budget
                    .set_limits(state.job.max_raw_bytes, plan.capacity_frames);
                stream.planner.replan(plan);
            }
        }
    }

    /// How much video the aggregator has to expect to be held back.
    fn announce(&self, caps: &gst::Caps, capacity_frames: u64) {
        let time = frame_duration(caps).map(|frame| {
            gst::ClockTime::from_nseconds(frame.nseconds().saturating_mul(capacity_frames))
        });
        self.aggregator().holds_back(time);
    }

    fn frames_to_come(
        &self,
        caps: &gst::Caps,
        segment: &gst::FormattedSegment<gst::ClockTime>,
    ) -> Option<u64> {
        let frame = frame_duration(caps).filter(|frame| !frame.is_zero())?;
        let duration = self.sink.peer_query_duration::<gst::ClockTime>();
        let end = match (segment.stop(), duration) {
            (Some(stop), Some(duration)) => stop.min(duration),
            (stop, duration) => stop.or(duration)?,
        };
        let rest = end.saturating_sub(segment.start().unwrap_or_default());
        let (rest, frame) = (rest.nseconds(), frame.nseconds());
        Some(rest.saturating_add(frame / 2) / frame).filter(|&frames| frames > 0)
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        gst::log!(CAT, imp = self, "{event:?}");
        match (self.mode(), event.view()) {
            (Mode::Undecided | Mode::Sequential(_), gst::EventView::Caps(caps)) => {
                self.sink_caps(caps.caps_owned(), event)
            }
            (Mode::Sequential(_), _) => self
                .straight()
                .is_some_and(|straight| straight.push_event(event)),
            (_, gst::EventView::FlushStart(_)) => {
                self.flush_start(event);
                true
            }
            (_, gst::EventView::FlushStop(_)) => {
                self.flush_stop(event);
                true
            }
            _ if !event.is_serialized() => self.aggregator().src().push_event(event),
            (Mode::Parallel, _) => self.serialized(event),
            (Mode::Undecided, gst::EventView::Eos(_)) => self.end_without_frames(event),
            (Mode::Undecided, _) => {
                if let Some(state) = &mut *lock(&self.state) {
                    state.early.push(event);
                }
                true
            }
        }
    }

    /// A serialized event of a stream that is encoded in chunks.
    fn serialized(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Caps(caps) => return self.new_caps(caps.caps_owned(), event),
            gst::EventView::Segment(segment) => {
                let Some(times) = segment.segment().downcast_ref::<gst::ClockTime>() else {
                    self.fail(gst::error_msg!(
                        gst::StreamError::Format,
                        ("The segment isn't in time; vtparallelenc needs timestamps")
                    ));
                    return false;
                };
                let times = times.clone();
                self.new_segment(times, event);
            }
            gst::EventView::Tag(_) => {
                if let Some(state) = &mut *lock(&self.state) {
                    state.add_tags(event);
                }
            }
            gst::EventView::Eos(_) => {
                let mut state = lock(&self.state);
                let Some(state) = state.as_mut() else {
                    return false;
                };
                state.cut(self.aggregator());
                if let Some(stream) = &mut state.stream {
                    stream.ended = true;
                }
                self.aggregator().end(event);
            }
            _ if gst_video::ForceKeyUnitEvent::is(&event) => self.force_key_frame(),
            _ => self.before_next_frame(event),
        }
        true
    }

    fn before_next_frame(&self, event: gst::Event) {
        let state = lock(&self.state);
        let stream = state.as_ref().and_then(|state| state.stream.as_ref());
        let before = stream.map_or(FrameNo(0), |stream| stream.planner.next_frame());
        self.aggregator().event(before, event);
    }

    fn new_segment(&self, segment: gst::FormattedSegment<gst::ClockTime>, event: gst::Event) {
        {
            let mut state = lock(&self.state);
            let Some(state) = state.as_mut() else { return };
            // Frames on both sides of a new segment have no common timeline.
            state.cut(self.aggregator());
            if let Some(stream) = &mut state.stream {
                stream.segment = segment;
            }
        }
        self.before_next_frame(event);
    }

    fn new_caps(&self, caps: gst::Caps, event: gst::Event) -> bool {
        {
            let mut guard = lock(&self.state);
            let Some(state) = guard.as_mut() else {
                return false;
            };
            if state.caps.as_ref() == Some(&caps) {
                return true;
            }
            let plan = match state.plan(&caps, None) {
                Ok(plan) => plan,
                Err(error) => {
                    drop(guard);
                    self.fail(budget_error(error));
                    return false;
                }
            };
            state.cut(self.aggregator());
            state.caps = Some(caps);
            if let Some(stream) = &mut state.stream {
                stream
                    .budget
                    .set_limits(state.job.max_raw_bytes, plan.capacity_frames);
                stream.planner.replan(plan);
            }
        }
        self.before_next_frame(event);
        true
    }

    fn force_key_frame(&self) {
        let mut state = lock(&self.state);
        if let Some(stream) = state.as_mut().and_then(|state| state.stream.as_mut()) {
            stream.force_key = true;
        }
    }

    /// No caps, so no frames either: what came goes on as it is.
    fn end_without_frames(&self, eos: gst::Event) -> bool {
        let early = lock(&self.state)
            .as_mut()
            .map(|state| std::mem::take(&mut state.early));
        for event in early.into_iter().flatten() {
            self.aggregator().event(FrameNo(0), event);
        }
        self.aggregator().end(eos);
        true
    }

    /// The first caps, or any of a sequential stream: decides how the stream is encoded.
    fn sink_caps(&self, caps: gst::Caps, event: gst::Event) -> bool {
        if let Mode::Sequential(_) = self.mode() {
            return self
                .straight()
                .is_some_and(|straight| straight.push_event(event));
        }
        match self.begin(caps, event) {
            Ok(()) => return true,
            Err(Refusal::Ours(error)) => self.fail(error),
            Err(Refusal::Encoders(message)) => self.fail_as_posted(message),
        }
        false
    }

    fn begin(&self, caps: gst::Caps, event: gst::Event) -> Result<(), Refusal> {
        let Some((job, session)) = self.job() else {
            return Err(gst::error_msg!(gst::CoreError::StateChange, ("Not started")).into());
        };
        if frame_bytes(&caps).is_none() {
            return Err(gst::error_msg!(
                gst::StreamError::Format,
                ("The caps {caps} are not raw video with a size")
            )
            .into());
        }
        let snapshot = self.aggregator().snapshot_caps();
        let description = match &job.encoder {
            Some(description) => description.clone(),
            None => encoder::choose(&snapshot, &caps)?,
        };
        let sequential = job.sequential.or_else(|| {
            let mut latency = gst::query::Latency::new();
            let is_live = self.sink.peer_query(&mut latency) && latency.result().0;
            is_live.then_some(Sequential::LiveSource)
        });
        if let Some(state) = &mut *lock(&self.state) {
            state.description = Some(description.clone());
            state.caps = Some(caps.clone());
        }
        match sequential {
            Some(reason) => self.begin_sequential(&job, &session, &description, reason, event),
            None => self.begin_parallel(&session, &description, caps),
        }
    }

    fn job(&self) -> Option<(Job, Arc<Session>)> {
        let state = lock(&self.state);
        let state = state.as_ref()?;
        Some((state.job.clone(), state.slots.first()?.session.clone()))
    }

    fn place(&self, session: &Session, description: &str, beside: bool) -> Result<(), Refusal> {
        let Some(bin) = self.bin() else {
            return Err(gst::error_msg!(gst::CoreError::StateChange, ("Not in its bin")).into());
        };
        Ok(session.place(bin.upcast_ref(), description, beside)?)
    }

    fn begin_sequential(
        &self,
        job: &Job,
        session: &Session,
        description: &str,
        reason: Sequential,
        caps: gst::Event,
    ) -> Result<(), Refusal> {
        gst::info!(
            CAT,
            imp = self,
            "One encoder for the whole stream: {reason}"
        );
        // What was placed for encoding beside others isn't what a plain encoder is.
        if job.sequential.is_none() || !session.is_placed() {
            self.place(session, description, false)?;
        }
        self.aggregator().pass_through();
        let early = {
            let mut state = lock(&self.state);
            let Some(state) = state.as_mut() else {
                return Ok(());
            };
            state.mode = Mode::Sequential(reason);
            std::mem::take(&mut state.early)
        };
        session.release_placed()?;
        for event in early.into_iter().chain([caps]) {
            session.src.push_event(event);
        }
        Ok(())
    }

    fn begin_parallel(
        &self,
        session: &Session,
        description: &str,
        caps: gst::Caps,
    ) -> Result<(), Refusal> {
        if !session.is_placed() {
            self.place(session, description, true)?;
        }
        let sink_caps = session.src.peer_query_caps(None);
        let (early, input) = {
            let mut state = lock(&self.state);
            let Some(state) = state.as_mut() else {
                return Ok(());
            };
            let plan = state.plan(&caps, None).map_err(budget_error)?;
            gst::info!(CAT, imp = self, "{plan:?}");
            self.announce(&caps, plan.capacity_frames);
            state.sink_caps = Some(sink_caps);
            state.begin_stream(plan);
            state.mode = Mode::Parallel;
            let early = std::mem::take(&mut state.early);
            (early, Input { caps, tags: None })
        };
        for event in early {
            self.serialized(event);
        }
        let primed = session.prime_placed(&input);
        primed.map_err(|error| match self.failure(session.id) {
            Some(Failure::Posted(message)) => Refusal::Encoders(message),
            _ => error.into(),
        })
    }

    fn flush_start(&self, event: gst::Event) {
        if let Some(state) = &mut *lock(&self.state) {
            state.flushing = true;
            state.wake_all();
        }
        self.room.notify_all();
        self.aggregator().flush_start(event);
    }

    fn flush_stop(&self, event: gst::Event) {
        let sessions = self.sessions();
        for session in &sessions {
            // Waits for the task, which FLUSH_START has freed.
            let _ = session.src.pause_task();
        }
        if let Some(state) = &mut *lock(&self.state) {
            state.flush();
        }
        self.aggregator().flush_stop(event);
        for session in &sessions {
            self.start_task(&session.src, session.id);
        }
    }

    fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        let straight = self.straight();
        let mode = self.mode();
        if let (Mode::Sequential(_), Some(straight)) = (mode, &straight) {
            return straight.peer_query(query);
        }
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let asked = lock(&self.state)
                    .as_ref()
                    .and_then(|state| state.sink_caps.clone());
                let caps = asked.unwrap_or_else(|| match straight {
                    Some(straight) if straight.is_linked() => straight.peer_query_caps(None),
                    _ => pad.pad_template_caps(),
                });
                query.set_result(&match query.filter_owned() {
                    Some(filter) => {
                        filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First)
                    }
                    None => caps,
                });
                true
            }
            gst::QueryViewMut::AcceptCaps(_) => {
                gst::Pad::query_default(pad, Some(&*self.obj()), query)
            }
            gst::QueryViewMut::Allocation(query) => {
                mode == Mode::Parallel && self.allocation(straight.as_ref(), query)
            }
            // Frames are held until their chunk is done: they can't be handed back on request.
            gst::QueryViewMut::Drain(_) => false,
            _ => self.aggregator().src().peer_query(query),
        }
    }

    /// As a tee answers: the metas that the encoder copes with, an honest minimum, nobody's pool.
    fn allocation(&self, straight: Option<&gst::Pad>, query: &mut gst::query::Allocation) -> bool {
        let (unused, bytes, frames, known) = {
            let state = lock(&self.state);
            let Some(state) = state.as_ref() else {
                return false;
            };
            let Some((stream, caps)) = state.stream.as_ref().zip(state.caps.as_ref()) else {
                return false;
            };
            (
                stream.planner.next_frame() == FrameNo(0),
                frame_bytes(caps).unwrap_or(1),
                stream.planner.plan().capacity_frames,
                state.takes_video_meta,
            )
        };
        // Once frames flow the encoder is its session's; what it said before holds for the others too.
        let takes_video_meta = match straight.filter(|_| unused) {
            Some(straight) => {
                straight.peer_query(query.query_mut());
                while query.allocation_pools().next().is_some() {
                    query.remove_nth_allocation_pool(0);
                }
                let found = query.find_allocation_meta::<gst_video::VideoMeta>();
                found.is_some()
            }
            None => {
                if known {
                    query.add_allocation_meta::<gst_video::VideoMeta>(None);
                }
                known
            }
        };
        if let Some(state) = &mut *lock(&self.state) {
            state.takes_video_meta = takes_video_meta;
        }
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        query.add_allocation_pool(None::<&gst::BufferPool>, small(bytes), small(frames), 0);
        true
    }
}

// Downstream's requests, and what encoders ask of upstream.
impl Distributor {
    /// An event from downstream, of a stream that isn't sequential.
    pub(crate) fn upstream_event(&self, event: gst::Event) -> bool {
        if gst_video::ForceKeyUnitEvent::is(&event) {
            self.force_key_frame();
            return true;
        }
        self.sink.push_event(event)
    }

    pub(crate) fn upstream_query(&self, query: &mut gst::QueryRef) -> bool {
        self.sink.peer_query(query)
    }

    fn src_event(&self, event: gst::Event) -> bool {
        match self.mode() {
            Mode::Sequential(_) => self.sink.push_event(event),
            // One session's QoS or latency is not the stream's.
            _ => true,
        }
    }

    fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        match (self.mode(), query.view()) {
            (Mode::Sequential(_), _) => self.sink.peer_query(query),
            (_, gst::QueryView::Caps(_) | gst::QueryView::AcceptCaps(_)) => {
                gst::Pad::query_default(pad, Some(&*self.obj()), query)
            }
            _ => false,
        }
    }
}

/// Why a stream doesn't begin.
enum Refusal {
    Ours(gst::ErrorMessage),
    /// The encoder's own error message says it better than we could.
    Encoders(gst::Message),
}

impl From<gst::ErrorMessage> for Refusal {
    fn from(error: gst::ErrorMessage) -> Self {
        Self::Ours(error)
    }
}

impl From<EncoderError> for Refusal {
    fn from(error: EncoderError) -> Self {
        Self::Ours(encoder_error(&error))
    }
}

fn budget_error(error: crate::logic::planner::BudgetTooSmall) -> gst::ErrorMessage {
    gst::error_msg!(
        gst::LibraryError::Settings,
        ("The memory for raw video is too small: {error}; raise max-raw-bytes, or lower chunk-frames, \
             min-chunk-frames or the overlap")
    )
}

/// The frame's times inside the segment, as GstVideoEncoder clips them; `None` if it is outside.
fn clip(
    segment: &gst::FormattedSegment<gst::ClockTime>,
    buffer: &gst::BufferRef,
) -> Option<FrameTimes> {
    let (pts, duration) = (buffer.pts(), buffer.duration());
    let Some(start) = pts else {
        return Some(FrameTimes { pts, duration });
    };
    let stop = duration.map(|duration| start.saturating_add(duration));
    let (start, stop) = segment.clip(start, stop)?;
    Some(FrameTimes {
        pts: start,
        duration: stop
            .zip(start)
            .map(|(stop, start)| stop.saturating_sub(start)),
    })
}

/// A buffer whose times can be set. Where upstream keeps the one that came, a copy of the buffer but not of its
/// memory; it holds on to the original, so that a pool gets that back whole.
fn stampable(buffer: gst::Buffer) -> gst::Buffer {
    if buffer.is_writable() {
        return buffer;
    }
    let mut copy = buffer.copy();
    gst::ParentBufferMeta::add(copy.make_mut(), &buffer);
    copy
}
