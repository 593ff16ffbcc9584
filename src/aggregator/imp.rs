// SPDX-License-Identifier: MPL-2.0

//! Pads and the task of the aggregator.

use super::state::{Batch, Feed, FrameTimes, Item, State, Step};
use crate::cache::Recording;
use crate::clock;
use crate::distributor::{self, Distributor};
use crate::locking::{lock, wait};
use crate::logic::frame::{Chunk, ChunkId, FrameNo, FrameRange, SessionId};
use crate::logic::keys;
use crate::logic::pace::Stall;
use crate::logic::reorder::{Delivered, Fault, Kind};
use crate::pad_task;
use crate::panics::{self, Part, may_panic};
use crate::parallelenc::ParallelEnc;
use crate::queries::{answer_caps, convert_encoded};
use gst::prelude::*;
use gst::subclass::prelude::*;
use once_cell::sync::{Lazy, OnceCell};
use std::sync::{Condvar, Mutex};

static CAT: Lazy<gst::DebugCategory> = Lazy::new(|| {
    gst::DebugCategory::new(
        "vtparallelaggregator",
        gst::DebugColorFlags::empty(),
        Some("vtparallelenc: packets of all sessions to one stream"),
    )
});

pub(crate) struct Aggregator {
    src: gst::Pad,
    distributor: OnceCell<glib::WeakRef<Distributor>>,
    /// One for each session, from READY to NULL.
    sinks: Mutex<Vec<gst::Pad>>,
    /// Downstream said that it may accept something else now, and wasn't asked since.
    reconfigures: std::sync::atomic::AtomicBool,
    /// It said so since the start.
    reconfigured: std::sync::atomic::AtomicBool,
    /// Session 0 goes straight through; set before its first packet.
    passes: std::sync::atomic::AtomicBool,
    state: Mutex<State>,
    /// For the task. Woken by whatever may let a packet leave, and by flush and stop.
    wake: Condvar,
}

#[glib::object_subclass]
impl ObjectSubclass for Aggregator {
    const NAME: &'static str = "GstVtParallelAggregator";
    type Type = super::Aggregator;
    type ParentType = gst::Element;

    fn with_class(class: &Self::Class) -> Self {
        // PANIC: `pad_templates` below has it.
        let template = class.pad_template("src").expect("src template");
        let src = gst::Pad::builder_from_template(&template)
            .activatemode_function(|pad, parent, mode, active| {
                panics::pad_function(
                    parent,
                    "starting or stopping the output",
                    || pad_task::activated_in_vain(pad, active),
                    |this: &Self| this.src_activatemode(pad, mode, active),
                )
            })
            .event_function(|_, parent, event| {
                panics::pad_function(
                    parent,
                    "event from downstream",
                    || false,
                    |this: &Self| this.src_event(event),
                )
            })
            .query_function(|pad, parent, query| {
                panics::pad_function(
                    parent,
                    "query from downstream",
                    || false,
                    |this: &Self| this.src_query(pad, query),
                )
            })
            .build();
        Self {
            src,
            distributor: OnceCell::new(),
            sinks: Mutex::default(),
            reconfigures: false.into(),
            reconfigured: false.into(),
            passes: false.into(),
            state: Mutex::new(State::new(0)),
            wake: Condvar::new(),
        }
    }
}

impl ObjectImpl for Aggregator {
    fn constructed(&self) {
        self.parent_constructed();
        // PANIC: the element has no other pad yet.
        let add = || self.obj().add_pad(&self.src).expect("src pad");
        panics::caught(self, "making the aggregator", || (), add);
    }
}

impl GstObjectImpl for Aggregator {}

impl Part for Aggregator {
    fn whole(&self) -> Option<ParallelEnc> {
        self.obj().parent().and_downcast()
    }
}

impl ElementImpl for Aggregator {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: Lazy<gst::subclass::ElementMetadata> = Lazy::new(|| {
            gst::subclass::ElementMetadata::new(
                "Parallel encoding aggregator",
                "Generic/Video",
                "Joins the packets of several encoders into one stream",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: Lazy<Vec<gst::PadTemplate>> = Lazy::new(|| {
            let any = gst::Caps::new_any();
            let template =
                |name, direction, presence| gst::PadTemplate::new(name, direction, presence, &any);
            [
                template("src", gst::PadDirection::Src, gst::PadPresence::Always),
                template(
                    "sink_%u",
                    gst::PadDirection::Sink,
                    gst::PadPresence::Request,
                ),
            ]
            .into_iter()
            .flatten()
            .collect()
        });
        &TEMPLATES
    }
}

// Called by the bin and the distributor.
impl Aggregator {
    pub(super) fn connect(&self, distributor: &Distributor) {
        let _ = self.distributor.set(distributor.downgrade());
    }

    pub(crate) fn src(&self) -> &gst::Pad {
        &self.src
    }

    /// Makes the sink pad of another session.
    pub(crate) fn add_session(&self, id: SessionId) -> gst::Pad {
        let pad = self.sink_pad(id);
        lock(&self.state).feeds.push(Feed::default());
        // An element that runs wants pads that do.
        if self.obj().current_state() >= gst::State::Paused {
            let _ = pad.set_active(true);
        }
        if self.obj().add_pad(&pad).is_err() {
            gst::error!(CAT, imp = self, "No place for {}", pad.name());
        }
        lock(&self.sinks).push(pad.clone());
        pad
    }

    /// The session is left to itself: nobody waits for what its encoder still sends.
    pub(crate) fn remove_session(&self, id: SessionId) {
        let name = format!("sink_{id}");
        let mut sinks = lock(&self.sinks);
        let at = sinks.iter().position(|pad| pad.name() == name);
        let pad = at.map(|at| sinks.remove(at));
        drop(sinks);
        if let Some(pad) = pad {
            let _ = self.obj().remove_pad(&pad);
        }
    }

    pub(crate) fn remove_sessions(&self) {
        for pad in std::mem::take(&mut *lock(&self.sinks)) {
            let _ = self.obj().remove_pad(&pad);
        }
        *lock(&self.state) = State::new(0);
    }

    /// A new stream begins.
    pub(crate) fn start(&self) {
        for flag in [&self.passes, &self.reconfigured] {
            flag.store(false, std::sync::atomic::Ordering::SeqCst);
        }
        let mut state = lock(&self.state);
        *state = State::new(state.feeds.len());
    }

    /// The task returns; nothing is sent any more.
    pub(crate) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.wake.notify_all();
    }

    pub(crate) fn flush_start(&self, event: gst::Event) {
        lock(&self.state).flushing = true;
        self.wake.notify_all();
        self.src.push_event(event);
    }

    /// Waits for the task, which FLUSH_START has freed.
    pub(crate) fn rest(&self) {
        let _ = self.src.pause_task();
    }

    /// The task rests.
    pub(crate) fn flush_stop(&self, event: gst::Event) {
        {
            let mut state = lock(&self.state);
            *state = state.flushed(self.src.current_caps());
        }
        self.src.push_event(event);
        self.start_task();
    }

    /// From now on session 0 goes straight through.
    pub(crate) fn pass_through(&self) {
        self.passes.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    fn passes(&self) -> bool {
        self.passes.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// What downstream accepts now. Encoders that have no chunk yet are told the same from now on.
    pub(crate) fn ask_downstream(&self) -> gst::Caps {
        self.reconfigures
            .store(false, std::sync::atomic::Ordering::SeqCst);
        let caps = self.src.peer_query_caps(None);
        lock(&self.state).downstream = Some(caps.clone());
        caps
    }

    /// Downstream has said since the start that it may accept something else.
    pub(crate) fn was_reconfigured(&self) -> bool {
        self.reconfigured.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// What downstream accepts, if it has said that this may have changed.
    pub(crate) fn renewed_downstream(&self) -> Option<gst::Caps> {
        let renews = self.reconfigures.load(std::sync::atomic::Ordering::SeqCst);
        renews.then(|| self.ask_downstream())
    }

    /// What downstream accepted when the stream began, or accepts now.
    pub(crate) fn downstream_caps(&self) -> gst::Caps {
        let told = lock(&self.state).downstream.clone();
        told.unwrap_or_else(|| self.src.peer_query_caps(None))
    }

    /// The longest time of video that chunks hold back.
    pub(crate) fn holds_back(&self, time: Option<gst::ClockTime>) {
        lock(&self.state).holds_back = time;
    }

    /// A serialized event stood before the next frame.
    pub(crate) fn event(&self, before: FrameNo, event: gst::Event) {
        if lock(&self.state).event(before, event) {
            self.wake.notify_all();
        }
    }

    /// The next frame has come in.
    pub(crate) fn frame(&self, private: u64, times: FrameTimes) {
        if lock(&self.state).frame(private, times, clock::now()) {
            self.wake.notify_all();
        }
    }

    /// The next frame waits for room: that the input stands still is our doing.
    pub(crate) fn input_waits(&self) {
        lock(&self.state).pace.arrives(clock::now());
    }

    /// When the next frame comes says nothing of the input's pace.
    pub(crate) fn input_interrupted(&self) {
        lock(&self.state).pace.interrupted();
    }

    pub(crate) fn open(&self, chunk: ChunkId, start: FrameNo) {
        lock(&self.state).reorder.open(chunk, start);
        // The task begins to watch the input.
        self.wake.notify_all();
    }

    pub(crate) fn close(&self, chunk: ChunkId, own: FrameRange) {
        lock(&self.state).reorder.close(chunk, own);
    }

    /// All chunks become this one.
    pub(crate) fn join(&self, chunk: ChunkId, own: FrameRange) {
        lock(&self.state).join(chunk, own);
        self.wake.notify_all();
    }

    /// An attempt begins: what comes on the session's pad is of this chunk. Its encoder is fed this frame first, and sees
    /// downstream accept this.
    pub(crate) fn begin(
        &self,
        session: SessionId,
        chunk: ChunkId,
        first: FrameNo,
        downstream: Option<gst::Caps>,
    ) {
        lock(&self.state).begin(session, chunk, first, downstream);
    }

    /// A key frame of this frame, or else the next one, answers this request.
    pub(crate) fn key_asked(&self, frame: FrameNo, request: keys::Request) {
        lock(&self.state).key_asked(frame, request);
    }

    /// The attempt is over.
    pub(crate) fn leave(&self, session: SessionId) {
        lock(&self.state).leave(session);
    }

    /// Packets of the session's attempt.
    pub(crate) fn packets_made(&self, session: SessionId) -> u64 {
        self.feed(session, |feed| feed.packets)
    }

    /// The first picture of the session's attempt isn't a key frame, for all that its packet says.
    pub(crate) fn opens_without_key(&self, session: SessionId) -> bool {
        self.feed(session, |feed| feed.opens_with == Some(Kind::Delta))
    }

    /// All that the session's chunk owns is there, and its encoder is at the trail.
    pub(crate) fn is_whole(&self, session: SessionId) -> bool {
        self.feed(session, |feed| feed.is_whole)
    }

    /// The session's encoder waits until a packet has left.
    pub(crate) fn waits_for_room(&self, session: SessionId) -> bool {
        self.feed(session, |feed| feed.waits_for_room)
    }

    /// What is known of the session's attempt; nothing, once the session was taken out.
    fn feed<R: Default>(&self, session: SessionId, of: impl FnOnce(&Feed) -> R) -> R {
        let state = lock(&self.state);
        state.feeds.get(session.0).map(of).unwrap_or_default()
    }

    /// Some encoder has made a packet.
    pub(crate) fn is_proven(&self) -> bool {
        lock(&self.state).proven
    }

    /// Some packet has left.
    pub(crate) fn has_left(&self) -> bool {
        lock(&self.state).reorder.has_left()
    }

    /// The encoder of the session's attempt has made a packet.
    pub(crate) fn has_made_packets(&self, session: SessionId) -> bool {
        lock(&self.state).feeds[session.0].proven
    }

    /// What was kept of an attempt comes again, as its encoder sent it. `false`: it isn't taken.
    pub(crate) fn replay_packet(&self, session: SessionId, packet: gst::Buffer) -> bool {
        self.take_packet(session, packet).is_ok()
    }

    pub(crate) fn replay_event(&self, session: SessionId, event: gst::Event) -> bool {
        self.sink_event(session, event)
    }

    /// What the session's encoder makes from now on is remembered. The first frame that it is fed has this private time.
    pub(crate) fn record(&self, session: SessionId, base: u64) {
        lock(&self.state).record(session, base);
    }

    /// What was remembered, if it can be kept.
    pub(crate) fn take_recording(&self, session: SessionId) -> Option<Recording> {
        lock(&self.state).take_recording(session)
    }

    /// The session's encoder said that it leaves out the frame with this private time.
    pub(crate) fn skip(&self, session: SessionId, private: gst::ClockTime) {
        lock(&self.state).skip(session, private.nseconds());
    }

    /// The first packet may leave before its chunk is whole. `announces`: an encoder whose first DTS is its PTS doesn't reorder.
    pub(crate) fn herald(&self, announces: bool) {
        lock(&self.state).herald(announces);
    }

    /// Downstream may ask for key frames when it has the first packet, and doesn't have it yet.
    pub(crate) fn is_heralded(&self) -> bool {
        lock(&self.state).is_heralded()
    }

    /// The first packet is on its way downstream.
    pub(crate) fn herald_leaves(&self) -> bool {
        lock(&self.state).herald_leaves()
    }

    /// Downstream has the first packet, or nobody waits for that any more.
    pub(crate) fn end_herald(&self) {
        lock(&self.state).end_herald();
        self.with_distributor(|distributor| distributor.heralded());
    }

    /// No packet leaves before its chunk is whole.
    pub(crate) fn forgo_herald(&self) {
        lock(&self.state).end_herald();
    }

    /// Running time in nanoseconds of the first key frame that left.
    pub(crate) fn first_key(&self) -> Option<u64> {
        lock(&self.state).first_key()
    }

    /// A chunk may have to begin anew without having failed: it isn't known yet whether the encoder can be cut, or whether what comes
    /// after us wants key frames at moments that were fed.
    pub(crate) fn may_begin_anew(&self) -> bool {
        let state = lock(&self.state);
        !state.begun || state.is_heralded()
    }

    /// What an attempt at the chunk made is thrown away, and what it still makes. `false`: some of it has left for good.
    pub(crate) fn begin_anew(&self, chunk: ChunkId) -> bool {
        lock(&self.state).begin_anew(chunk)
    }

    /// The chunk begins after what has left of it. Returns where.
    pub(crate) fn begin_after_ahead(&self, chunk: ChunkId) -> Option<FrameNo> {
        lock(&self.state).begin_after_ahead(chunk)
    }

    /// When the first of these frames begins and the last one ends, as upstream said it.
    pub(crate) fn times_of(
        &self,
        frames: FrameRange,
    ) -> (Option<gst::ClockTime>, Option<gst::ClockTime>) {
        lock(&self.state).times_of(frames)
    }

    /// The session has delivered all it has: is that all of the chunk?
    pub(crate) fn verify(&self, chunk: Chunk) -> Result<Delivered, Fault> {
        lock(&self.state).reorder.verify(chunk)
    }

    /// The chunk was verified: its packets may leave.
    pub(crate) fn finish(&self, chunk: ChunkId) {
        lock(&self.state).reorder.finish(chunk);
        self.wake.notify_all();
    }

    /// What was wrong with a packet of the session's attempt.
    pub(crate) fn take_fault(&self, session: SessionId) -> Option<Fault> {
        lock(&self.state).take_fault(session)
    }

    /// Forgets what an attempt delivered, so that another can. `false` if some of it has left already.
    pub(crate) fn retract(&self, chunk: ChunkId) -> bool {
        lock(&self.state).reorder.retract(chunk)
    }

    /// No session delivers frames before this one any more.
    pub(crate) fn forget_before(&self, frame: FrameNo) {
        lock(&self.state).forget_before(frame);
    }

    /// The stream has failed: after what is finished comes no more but the end.
    pub(crate) fn fail(&self) {
        lock(&self.state).failed = true;
        self.wake.notify_all();
    }

    /// What downstream returned, where that was an error.
    pub(crate) fn flow(&self) -> Result<(), gst::FlowError> {
        lock(&self.state).flow
    }

    pub(crate) fn frames_out(&self) -> u64 {
        lock(&self.state).frames_sent()
    }

    pub(crate) fn leaves_early(&self) -> bool {
        lock(&self.state).reorder.leaves_early()
    }
}

// The sessions' side.
impl Aggregator {
    fn sink_pad(&self, id: SessionId) -> gst::Pad {
        // PANIC: `pad_templates` above has it.
        let template = self.obj().pad_template("sink_%u").expect("sink template");
        gst::Pad::builder_from_template(&template)
            .name(format!("sink_{id}"))
            .chain_function(move |_, parent, buffer| {
                panics::pad_function(
                    parent,
                    "taking a packet",
                    || Err(gst::FlowError::Error),
                    |this: &Self| this.sink_chain(id, buffer),
                )
            })
            .event_function(move |_, parent, event| {
                panics::pad_function(
                    parent,
                    "event of an encoder",
                    || false,
                    |this: &Self| this.sink_event(id, event),
                )
            })
            .query_function(move |pad, parent, query| {
                panics::pad_function(
                    parent,
                    "query of an encoder",
                    || false,
                    |this: &Self| this.sink_query(id, pad, query),
                )
            })
            .build()
    }

    fn distributor(&self) -> Option<Distributor> {
        self.distributor.get()?.upgrade()
    }

    fn with_distributor<R>(
        &self,
        act: impl FnOnce(&distributor::imp::Distributor) -> R,
    ) -> Option<R> {
        Some(act(self.distributor()?.imp()))
    }

    fn sink_chain(
        &self,
        id: SessionId,
        buffer: gst::Buffer,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        may_panic!("aggregator-chain");
        if self.passes() {
            lock(&self.state).count_passed();
            return self.src.push(buffer);
        }
        if self.take_packet(id, buffer)? {
            // The rest of the trail needn't be encoded.
            self.with_distributor(|distributor| distributor.encoder_ended(id));
            return Err(gst::FlowError::Eos);
        }
        Ok(gst::FlowSuccess::Ok)
    }

    /// A packet of a session's attempt. `true`: its chunk is whole, so that no other one is wanted.
    fn take_packet(&self, id: SessionId, buffer: gst::Buffer) -> Result<bool, gst::FlowError> {
        let mut state = lock(&self.state);
        loop {
            if state.flushing || state.stopped {
                return Err(gst::FlowError::Flushing);
            }
            state.flow?;
            if !state.reorder.is_crowded() {
                break;
            }
            // Only the one encoder of a stream that can't be cut may have to wait, as it would for downstream itself.
            state.feeds[id.0].waits_for_room = true;
            state = wait(&self.wake, state);
            state.feeds[id.0].waits_for_room = false;
        }
        gst::trace!(CAT, imp = self, "Session {id}: {buffer:?}");
        may_panic!("aggregator-chain-locked");
        let was_heralded = state.is_heralded();
        let accepted = state.packet(id, buffer);
        let is_whole = state.feeds[id.0].is_whole;
        let ended = was_heralded && !state.is_heralded();
        let wakes = state.reorder.leaves_early() || state.herald_leaves();
        drop(state);
        if wakes {
            self.wake.notify_all();
        }
        if ended {
            self.end_herald();
        }
        accepted
            .map(|()| is_whole)
            .map_err(|()| gst::FlowError::Error)
    }

    fn sink_event(&self, id: SessionId, event: gst::Event) -> bool {
        may_panic!("aggregator-event");
        if self.passes() {
            return self.src.push_event(event);
        }
        match event.view() {
            gst::EventView::Caps(caps) => lock(&self.state).caps(id, caps.caps_owned()),
            gst::EventView::Tag(_) => lock(&self.state).tags(id, event),
            gst::EventView::Eos(_) => {
                self.with_distributor(|distributor| distributor.encoder_ended(id));
            }
            // The sessions' own stream, and what the encoder makes of our force-key-unit events.
            _ => gst::trace!(CAT, imp = self, "Session {id}: dropped {event:?}"),
        }
        true
    }

    fn sink_query(&self, id: SessionId, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        may_panic!("aggregator-query");
        if self.passes() {
            return self.src.peer_query(query);
        }
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let told = lock(&self.state).downstream_of(id);
                let caps = told.unwrap_or_else(|| self.src.peer_query_caps(None));
                answer_caps(query, caps);
                true
            }
            gst::QueryViewMut::AcceptCaps(_) => {
                gst::Pad::query_default(pad, Some(&*self.obj()), query)
            }
            // An encoder looks for a device or display to share.
            gst::QueryViewMut::Context(_) => self.src.peer_query(query),
            // ALLOCATION too: packets of several encoders in one downstream pool could starve it.
            _ => false,
        }
    }
}

// Downstream's side.
impl Aggregator {
    fn session_0(&self) -> Option<gst::Pad> {
        lock(&self.sinks).first().cloned()
    }

    fn src_event(&self, event: gst::Event) -> bool {
        may_panic!("aggregator-src-event");
        if self.passes() {
            return self.session_0().is_some_and(|sink| sink.push_event(event));
        }
        if event.type_() == gst::EventType::Reconfigure {
            for flag in [&self.reconfigures, &self.reconfigured] {
                flag.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let handed = self.with_distributor(|distributor| distributor.upstream_event(event));
        handed.unwrap_or(false)
    }

    fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        may_panic!("aggregator-src-query");
        if self.passes() {
            return self.session_0().is_some_and(|sink| sink.peer_query(query));
        }
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let sent = lock(&self.state).sent_caps();
                let caps = sent.unwrap_or_else(|| {
                    let encoder = self.session_0().and_then(|sink| sink.peer());
                    encoder.map_or_else(gst::Caps::new_any, |encoder| encoder.query_caps(None))
                });
                answer_caps(query, caps);
                true
            }
            gst::QueryViewMut::AcceptCaps(_) => {
                gst::Pad::query_default(pad, Some(&*self.obj()), query)
            }
            gst::QueryViewMut::Convert(query) => {
                let (bytes, time) = lock(&self.state).sent_amount();
                convert_encoded(bytes, time, query)
            }
            // Packets come out of many pools, and nobody can pull them.
            gst::QueryViewMut::Allocation(_) | gst::QueryViewMut::Scheduling(_) => false,
            _ => {
                let answered =
                    self.with_distributor(|distributor| distributor.upstream_query(query));
                answered.unwrap_or(false)
            }
        }
    }

    fn src_activatemode(
        &self,
        pad: &gst::Pad,
        mode: gst::PadMode,
        active: bool,
    ) -> Result<(), gst::LoggableError> {
        if mode != gst::PadMode::Push {
            return Err(gst::loggable_error!(CAT, "Only push mode is supported"));
        }
        if active {
            self.start_task();
            return Ok(());
        }
        self.stop();
        pad.stop_task()
            .map_err(|error| gst::loggable_error!(CAT, "Task can't be stopped: {error}"))
    }

    fn start_task(&self) {
        if !self.src.is_active() {
            return;
        }
        let weak = self.downgrade();
        let started = pad_task::start(&self.src, move || {
            if let Some(this) = weak.upgrade() {
                let rest = || this.send_no_more();
                panics::caught(&*this, "the aggregator's task", rest, || this.run());
            }
        });
        if started.is_err() {
            gst::error!(CAT, imp = self, "The source task can't be started");
        }
    }

    /// The task panicked: nothing leaves any more, so who waits for room waits in vain.
    fn send_no_more(&self) {
        lock(&self.state).flow = Err(gst::FlowError::Error);
        self.wake.notify_all();
        let _ = self.src.pause_task();
    }

    /// One turn of the task: waits until something can leave, and sends it.
    fn run(&self) {
        may_panic!("aggregator-task");
        let mut state = lock(&self.state);
        may_panic!("aggregator-task-locked");
        let step = loop {
            if state.is_idle() {
                drop(state);
                let _ = self.src.pause_task();
                return;
            }
            let was_crowded = state.reorder.is_crowded();
            let step = state.next();
            if was_crowded {
                self.wake.notify_all();
            }
            match step {
                Step::Wait => state = self.wait_for_output(state),
                step => break step,
            }
        };
        drop(state);
        match step {
            Step::Wait => (),
            Step::Left { next, end } => {
                self.with_distributor(|distributor| distributor.chunks_left(next, end));
            }
            Step::Send(batch) => {
                if let Err(flow) = self.send(batch) {
                    self.refused(flow);
                }
            }
            Step::SendAhead(batch) => {
                let sent = self.send(batch);
                self.end_herald();
                if let Err(flow) = sent {
                    self.refused(flow);
                }
            }
            Step::CapsDiffer { chunk, differences } => {
                let error = gst::error_msg!(
                    gst::StreamError::Encode,
                    ("The encoder describes chunk {chunk} differently from those before it ({differences}), and the \
                         format can't say so in band; set allow-parallel=false, or a format that can (for H.264 and H.265 \
                         stream-format=byte-stream)")
                );
                self.with_distributor(|distributor| distributor.fail(error));
                let _ = self.src.pause_task();
            }
        }
    }

    /// Waits on `wake`. Where frames are under way and the input stands still, only until it has stood still for
    /// too long: the input may be waiting for what is held back here.
    fn wait_for_output<'a>(
        &'a self,
        mut state: std::sync::MutexGuard<'a, State>,
    ) -> std::sync::MutexGuard<'a, State> {
        let now = clock::now();
        match state.time_to_stall(now).filter(|_| !self.passes()) {
            None => return wait(&self.wake, state),
            Some(0) => (),
            Some(time) => return clock::wait(&self.wake, state, time),
        }
        let stall = state.stalls(now);
        let told = matches!(stall, Stall::LeaveEarly { .. }) && state.tells_of_stall();
        let holds_back = state.holds_back;
        drop(state);
        self.end_herald();
        self.with_distributor(|distributor| {
            if told {
                distributor.warn_of_stall(holds_back);
            }
            if stall == Stall::GiveUpWithheld {
                distributor.release_withheld();
            }
        });
        lock(&self.state)
    }

    fn send(&self, batch: Batch) -> Result<(), gst::FlowError> {
        may_panic!("aggregator-sends");
        let mut unsent = Vec::new();
        let mut result = Ok(());
        let packet = batch.packet.map(Item::Buffer);
        for item in batch.before.into_iter().chain(packet) {
            match item {
                Item::Event(event) => {
                    gst::log!(CAT, imp = self, "Sending {event:?}");
                    // Caps come again from the encoder.
                    let lasts = event.is_sticky() && event.type_() != gst::EventType::Caps;
                    if !self.src.push_event(event.clone()) && lasts && self.is_flushing() {
                        unsent.push(event);
                    }
                }
                Item::Buffer(buffer) => {
                    gst::trace!(CAT, imp = self, "Sending {buffer:?}");
                    result = self.src.push(buffer).map(drop);
                }
            }
        }
        if !unsent.is_empty() {
            lock(&self.state).put_back(unsent);
        }
        result
    }

    fn is_flushing(&self) -> bool {
        self.src.pad_flags().contains(gst::PadFlags::FLUSHING)
    }

    /// Downstream doesn't take any more: upstream and the sessions get to know.
    fn refused(&self, flow: gst::FlowError) {
        gst::debug!(CAT, imp = self, "Downstream returned {flow:?}");
        {
            let mut state = lock(&self.state);
            if state.flushing || state.stopped {
                return;
            }
            state.flow = Err(flow);
        }
        self.wake.notify_all();
        self.with_distributor(|distributor| distributor.downstream_refused(flow));
    }
}
