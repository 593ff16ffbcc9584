// SPDX-License-Identifier: MPL-2.0

//! Pads and the task of the aggregator.

use super::state::{Batch, Feed, FrameTimes, Item, Stall, State, Step};
use crate::cache::Recording;
use crate::distributor::{self, Distributor};
use crate::host::Host;
use crate::logic::ids::{Chunk, ChunkId, FrameNo, FrameRange, SessionId};
use crate::logic::keys;
use crate::logic::reorder::{Delivered, Fault, Kind};
use crate::media::queries::{answer_caps, convert_encoded};
use crate::panics::{self, Part, may_panic};
use crate::tasks;
use gst::prelude::*;
use gst::subclass::prelude::*;
use once_cell::sync::{Lazy, OnceCell};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::sync::Arc;
use std::time::{Duration, Instant};

static CAT: Lazy<gst::DebugCategory> = Lazy::new(|| {
    gst::DebugCategory::new(
        "vtparallelaggregator",
        gst::DebugColorFlags::empty(),
        Some("vtparallelenc: packets of all sessions to one stream"),
    )
});

/// Input that stands still for so long while output is held back may be waiting for that output.
const INPUT_STALL: Duration = Duration::from_secs(1);

pub(crate) struct Aggregator {
    src: gst::Pad,
    distributor: OnceCell<glib::WeakRef<Distributor>>,
    host: OnceCell<Arc<dyn Host>>,
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
                    || tasks::activation_after_panic(pad, active),
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
            host: OnceCell::new(),
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
    fn host(&self) -> Option<Arc<dyn Host>> {
        self.host.get().cloned()
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

    pub(crate) fn attach(&self, host: Arc<dyn Host>) {
        let _ = self.host.set(host);
    }

    pub(crate) fn src(&self) -> &gst::Pad {
        &self.src
    }

    /// Makes the sink pad of another session.
    pub(crate) fn add_session(&self, id: SessionId) -> gst::Pad {
        let pad = self.sink_pad(id);
        self.state.lock().feeds.push(Feed::default());
        // An element that runs wants pads that do.
        if self.obj().current_state() >= gst::State::Paused {
            let _ = pad.set_active(true);
        }
        if self.obj().add_pad(&pad).is_err() {
            gst::error!(CAT, imp = self, "No place for {}", pad.name());
        }
        self.sinks.lock().push(pad.clone());
        pad
    }

    /// The session is left to itself: nobody waits for what its encoder still sends.
    pub(crate) fn remove_session(&self, id: SessionId) {
        let name = format!("sink_{id}");
        let mut sinks = self.sinks.lock();
        let at = sinks.iter().position(|pad| pad.name() == name);
        let pad = at.map(|at| sinks.remove(at));
        drop(sinks);
        if let Some(pad) = pad {
            let _ = self.obj().remove_pad(&pad);
        }
    }

    pub(crate) fn remove_sessions(&self) {
        for pad in std::mem::take(&mut *self.sinks.lock()) {
            let _ = self.obj().remove_pad(&pad);
        }
        *self.state.lock() = State::new(0);
    }

    /// A new stream begins.
    pub(crate) fn start(&self) {
        for flag in [&self.passes, &self.reconfigured] {
            flag.store(false, std::sync::atomic::Ordering::SeqCst);
        }
        let mut state = self.state.lock();
        *state = State::new(state.feeds.len());
    }

    /// The task returns; nothing is sent any more.
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.wake.notify_all();
    }

    pub(crate) fn flush_start(&self, event: gst::Event) {
        self.state.lock().flushing = true;
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
            let mut state = self.state.lock();
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
        self.state.lock().downstream = Some(caps.clone());
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
        let told = self.state.lock().downstream.clone();
        told.unwrap_or_else(|| self.src.peer_query_caps(None))
    }

    /// The longest time of video that chunks hold back.
    pub(crate) fn holds_back(&self, time: Option<gst::ClockTime>) {
        self.state.lock().holds_back = time;
    }

    /// A serialized event stood before the next frame.
    pub(crate) fn event(&self, before: FrameNo, event: gst::Event) {
        if self.state.lock().event(before, event) {
            self.wake.notify_all();
        }
    }

    /// The next frame has come in.
    pub(crate) fn frame(&self, private: u64, times: FrameTimes) {
        if self.state.lock().frame(private, times) {
            self.wake.notify_all();
        }
    }

    /// The next frame waits for room: that the input stands still is our doing.
    pub(crate) fn input_waits(&self, waits: bool) {
        {
            let mut state = self.state.lock();
            state.input_waits = waits;
            state.last_input = Instant::now();
        }
        // The task begins to watch the input again.
        self.wake.notify_all();
    }

    pub(crate) fn open(&self, chunk: ChunkId, start: FrameNo) {
        self.state.lock().reorder.open(chunk, start);
        // The task begins to watch the input.
        self.wake.notify_all();
    }

    pub(crate) fn close(&self, chunk: ChunkId, own: FrameRange) {
        self.state.lock().reorder.close(chunk, own);
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
        self.state.lock().begin(session, chunk, first, downstream);
    }

    /// A key frame of this frame, or else the next one, answers this request.
    pub(crate) fn key_asked(&self, frame: FrameNo, request: keys::Request) {
        self.state.lock().key_asked(frame, request);
    }

    /// The attempt is over.
    pub(crate) fn leave(&self, session: SessionId) {
        self.state.lock().leave(session);
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

    /// What is known of the session's attempt; nothing, once the session was taken out.
    fn feed<R: Default>(&self, session: SessionId, of: impl FnOnce(&Feed) -> R) -> R {
        let state = self.state.lock();
        state.feeds.get(session.0).map(of).unwrap_or_default()
    }

    /// Some encoder has made a packet.
    pub(crate) fn is_proven(&self) -> bool {
        self.state.lock().proven
    }

    /// The encoder of the session's attempt has made a packet.
    pub(crate) fn has_made_packets(&self, session: SessionId) -> bool {
        self.state.lock().feeds[session.0].proven
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
        self.state.lock().record(session, base);
    }

    /// What was remembered, if it can be kept.
    pub(crate) fn take_recording(&self, session: SessionId) -> Option<Recording> {
        self.state.lock().take_recording(session)
    }

    /// The session's encoder said that it leaves out the frame with this private time.
    pub(crate) fn skip(&self, session: SessionId, private: gst::ClockTime) {
        self.state.lock().skip(session, private.nseconds());
    }

    /// The first packet may leave before its chunk is whole. `announces`: an encoder whose first DTS is its PTS doesn't reorder.
    pub(crate) fn herald(&self, announces: bool) {
        self.state.lock().herald(announces);
    }

    /// Downstream may ask for key frames when it has the first packet, and doesn't have it yet.
    pub(crate) fn is_heralded(&self) -> bool {
        self.state.lock().is_heralded()
    }

    /// The first packet is on its way downstream.
    pub(crate) fn herald_leaves(&self) -> bool {
        self.state.lock().herald_leaves()
    }

    /// Downstream has the first packet, or nobody waits for that any more.
    pub(crate) fn end_herald(&self) {
        self.state.lock().end_herald();
        self.with_distributor(|distributor| distributor.heralded());
    }

    /// No packet leaves before its chunk is whole.
    pub(crate) fn forgo_herald(&self) {
        self.state.lock().end_herald();
    }

    /// Running time in nanoseconds of the first key frame that left.
    pub(crate) fn first_key(&self) -> Option<u64> {
        self.state.lock().first_key()
    }

    /// What an attempt at the chunk made is thrown away, and what it still makes. `false`: some of it has left for good.
    pub(crate) fn begin_anew(&self, chunk: ChunkId) -> bool {
        self.state.lock().begin_anew(chunk)
    }

    /// The chunk begins after what has left of it. Returns where.
    pub(crate) fn begin_after_ahead(&self, chunk: ChunkId) -> Option<FrameNo> {
        self.state.lock().begin_after_ahead(chunk)
    }

    /// When the first of these frames begins and the last one ends, as upstream said it.
    pub(crate) fn times_of(
        &self,
        frames: FrameRange,
    ) -> (Option<gst::ClockTime>, Option<gst::ClockTime>) {
        self.state.lock().times_of(frames)
    }

    /// The session has delivered all it has: is that all of the chunk?
    pub(crate) fn verify(&self, chunk: Chunk) -> Result<Delivered, Fault> {
        self.state.lock().reorder.verify(chunk)
    }

    /// The chunk was verified: its packets may leave.
    pub(crate) fn finish(&self, chunk: ChunkId) {
        self.state.lock().reorder.finish(chunk);
        self.wake.notify_all();
    }

    /// What was wrong with a packet of the session's attempt.
    pub(crate) fn take_fault(&self, session: SessionId) -> Option<Fault> {
        self.state.lock().take_fault(session)
    }

    /// Forgets what an attempt delivered, so that another can. `false` if some of it has left already.
    pub(crate) fn retract(&self, chunk: ChunkId) -> bool {
        self.state.lock().reorder.retract(chunk)
    }

    /// No session delivers frames before this one any more.
    pub(crate) fn forget_before(&self, frame: FrameNo) {
        self.state.lock().forget_before(frame);
    }

    /// The stream has failed: after what is finished comes no more but the end.
    pub(crate) fn fail(&self) {
        self.state.lock().failed = true;
        self.wake.notify_all();
    }

    /// What downstream returned, where that was an error.
    pub(crate) fn flow(&self) -> Result<(), gst::FlowError> {
        self.state.lock().flow
    }

    pub(crate) fn frames_out(&self) -> u64 {
        self.state.lock().frames_sent()
    }

    pub(crate) fn leaves_early(&self) -> bool {
        self.state.lock().reorder.leaves_early()
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
        if self.passes() {
            self.state.lock().count_passed();
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
        let mut state = self.state.lock();
        if state.flushing || state.stopped {
            return Err(gst::FlowError::Flushing);
        }
        state.flow?;
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
        if self.passes() {
            return self.src.push_event(event);
        }
        match event.view() {
            gst::EventView::Caps(caps) => self.state.lock().caps(id, caps.caps_owned()),
            gst::EventView::Tag(_) => self.state.lock().tags(id, event),
            gst::EventView::Eos(_) => {
                self.with_distributor(|distributor| distributor.encoder_ended(id));
            }
            // The sessions' own stream, and what the encoder makes of our force-key-unit events.
            _ => gst::trace!(CAT, imp = self, "Session {id}: dropped {event:?}"),
        }
        true
    }

    fn sink_query(&self, id: SessionId, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        if self.passes() {
            return self.src.peer_query(query);
        }
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let told = self.state.lock().downstream_of(id);
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
        self.sinks.lock().first().cloned()
    }

    fn src_event(&self, event: gst::Event) -> bool {
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
        if self.passes() {
            return self.session_0().is_some_and(|sink| sink.peer_query(query));
        }
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let sent = self.state.lock().sent_caps();
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
                let (bytes, time) = self.state.lock().sent_amount();
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
        let started = tasks::start(&self.src, move || {
            if let Some(this) = weak.upgrade() {
                let rest = || this.send_no_more();
                panics::caught(&*this, "the aggregator's task", rest, || this.run());
            }
        });
        if started.is_err() {
            gst::error!(CAT, imp = self, "The source task can't be started");
        }
    }

    /// The task panicked: nothing leaves any more.
    fn send_no_more(&self) {
        self.state.lock().flow = Err(gst::FlowError::Error);
        let _ = self.src.pause_task();
    }

    /// One turn of the task: waits until something can leave, and sends it.
    fn run(&self) {
        let mut state = self.state.lock();
        may_panic!("aggregator-task-locked");
        let step = loop {
            if state.is_idle() {
                drop(state);
                let _ = self.src.pause_task();
                return;
            }
            match state.next() {
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
    fn wait_for_output<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if !state.watches_input() || self.passes() {
            self.wake.wait(&mut state);
            return state;
        }
        let rest = INPUT_STALL.saturating_sub(state.last_input.elapsed());
        if !rest.is_zero() {
            self.wake.wait_for(&mut state, rest);
            return state;
        }
        let stall = state.stalled();
        let holds_back = state.holds_back;
        drop(state);
        self.end_herald();
        self.with_distributor(|distributor| match stall {
            Stall::First => distributor.warn_of_stall(holds_back),
            Stall::Again => distributor.release_withheld(),
        });
        self.state.lock()
    }

    fn send(&self, batch: Batch) -> Result<(), gst::FlowError> {
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
            self.state.lock().put_back(unsent);
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
            let mut state = self.state.lock();
            if state.flushing || state.stopped {
                return;
            }
            state.flow = Err(flow);
        }
        self.with_distributor(|distributor| distributor.downstream_refused(flow));
    }
}
