// SPDX-License-Identifier: MPL-2.0

//! The distributor as an element: its pads, its sessions, its states.

use super::decision::{Decision, Sequential};
use super::state::{Mode, State};
use super::watch::Watcher;
use crate::aggregator::{self, Aggregator};
use crate::cache::Files;
use crate::locking::lock;
use crate::logic::frame::SessionId;
use crate::panics::{self, Part};
use crate::parallelenc::ParallelEnc;
use crate::parallelenc::report::Snapshot;
use crate::parallelenc::settings::{Job, quarter_of_memory};
use crate::session::Session;
use crate::session::encoder::EncoderError;
use gst::prelude::*;
use gst::subclass::prelude::*;
use once_cell::sync::{Lazy, OnceCell};
use std::sync::{Arc, Condvar, Mutex};

pub(super) static CAT: Lazy<gst::DebugCategory> = Lazy::new(|| {
    gst::DebugCategory::new(
        "vtparalleldistributor",
        gst::DebugColorFlags::empty(),
        Some("vtparallelenc: raw frames to chunks, chunks to sessions"),
    )
});

pub(crate) struct Distributor {
    pub(super) sink: gst::Pad,
    aggregator: OnceCell<Aggregator>,
    /// From READY to NULL.
    pub(super) state: Mutex<Option<State>>,
    /// For the chain function where the budget is spent.
    pub(super) room: Condvar,
    /// For who waits until no session is at work.
    pub(super) calm: Condvar,
    /// While the element runs.
    pub(super) watcher: Mutex<Option<Watcher>>,
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
                panics::pad_function(
                    parent,
                    "taking a frame",
                    || Err(gst::FlowError::Error),
                    |this: &Self| this.sink_chain(buffer),
                )
            })
            .event_function(|_, parent, event| {
                panics::pad_function(
                    parent,
                    "event from upstream",
                    || false,
                    |this: &Self| this.sink_event(event),
                )
            })
            .query_function(|pad, parent, query| {
                panics::pad_function(
                    parent,
                    "query from upstream",
                    || false,
                    |this: &Self| this.sink_query(pad, query),
                )
            })
            .build();
        Self {
            sink,
            aggregator: OnceCell::new(),
            state: Mutex::default(),
            room: Condvar::new(),
            calm: Condvar::new(),
            watcher: Mutex::default(),
        }
    }
}

impl ObjectImpl for Distributor {
    fn constructed(&self) {
        self.parent_constructed();
        // PANIC: the element has no other pad yet.
        let add = || self.obj().add_pad(&self.sink).expect("sink pad");
        panics::caught(self, "making the distributor", || (), add);
    }
}

impl GstObjectImpl for Distributor {}

impl Part for Distributor {
    fn whole(&self) -> Option<ParallelEnc> {
        self.bin()
    }
}

impl Part for glib::WeakRef<super::Distributor> {
    fn whole(&self) -> Option<ParallelEnc> {
        self.upgrade()?.imp().bin()
    }
}

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

    pub(super) fn aggregator(&self) -> &aggregator::imp::Aggregator {
        // PANIC: the bin connects both before either can be reached.
        self.aggregator.get().expect("connected").imp()
    }

    pub(super) fn bin(&self) -> Option<ParallelEnc> {
        self.obj().parent().and_downcast()
    }

    /// NULL to READY: the first session, and where the encoder is known that and all the others.
    pub(crate) fn prepare(&self, job: Job) -> Result<(), EncoderError> {
        // Of an earlier run, or of one that a panic kept from being cleared away.
        self.unprepare();
        let max_raw_bytes = job.max_raw_bytes.unwrap_or_else(quarter_of_memory);
        *lock(&self.state) = Some(State::new(job, max_raw_bytes));
        self.add_sessions(1);
        self.place_first()
    }

    /// A session with its slot in the bin, linked on both sides.
    fn make_session(&self, id: SessionId) {
        let session = self.new_session(id);
        if let Some(state) = lock(&self.state).as_mut() {
            state.add(session.clone());
        }
        self.put_in(&session);
    }

    pub(super) fn new_session(&self, id: SessionId) -> Arc<Session> {
        let src = self.src_pad(id);
        Arc::new(Session::new(id, src, &self.obj(), self.stall_timeout()))
    }

    /// Makes a session that is among the slots part of the element.
    pub(super) fn put_in(&self, session: &Session) {
        let id = session.id;
        let sink = self.aggregator().add_session(id);
        // An element that runs wants pads that do, from before they are its own.
        let runs = self.obj().current_state() >= gst::State::Paused;
        let made = (!runs || session.src.set_active(true).is_ok())
            && self.obj().add_pad(&session.src).is_ok()
            && self.bin().is_some_and(|bin| bin.add(&session.slot).is_ok())
            && session.link(&sink).is_some()
            && (!runs || session.slot.sync_state_with_parent().is_ok());
        if made && runs {
            self.start_task(&session.src, id);
        }
        if !made {
            gst::error!(CAT, imp = self, "Session {id} can't be linked");
        }
    }

    /// Makes sessions until there are as many.
    pub(super) fn add_sessions(&self, sessions: usize) {
        for id in self.sessions().len()..sessions {
            self.make_session(SessionId(id));
        }
    }

    /// READY to PAUSED: a new stream, with sessions for what was set meanwhile.
    pub(crate) fn start(&self, job: &Job) -> Result<(), EncoderError> {
        let is_prepared = lock(&self.state)
            .as_ref()
            .is_some_and(|state| state.job == *job && !state.started && state.flow.is_ok());
        if !is_prepared {
            self.prepare(job.clone())?;
        }
        if let Some(state) = lock(&self.state).as_mut() {
            state.started = true;
        }
        self.open_cache(job);
        self.aggregator().start();
        self.place_first()?;
        self.start_watch();
        Ok(())
    }

    /// Without a cache it goes on as well.
    fn open_cache(&self, job: &Job) {
        let Some((directory, max_bytes)) = &job.cache else {
            return;
        };
        match Files::open(directory, *max_bytes) {
            Ok(files) => {
                if let Some(state) = lock(&self.state).as_mut() {
                    state.cache = Some(Arc::new(files));
                }
            }
            Err(error) => self.cache_failed(&error.to_string()),
        }
    }

    /// Where it is known which encoder it will be, it answers for itself from the beginning.
    fn place_first(&self) -> Result<(), EncoderError> {
        let Some((job, first)) = self.job() else {
            return Ok(());
        };
        match &job.encoder {
            Some(description) if !self.is_placed(&first) => self.place(&job, description),
            _ => Ok(()),
        }
    }

    /// PAUSED to READY, before anything else: no session is at work any more, or it is left to itself.
    pub(crate) fn shut_down(&self) {
        self.stop();
        self.settle();
        self.part_left();
    }

    /// Whatever waits returns.
    pub(super) fn stop(&self) {
        if let Some(state) = &mut *lock(&self.state) {
            state.stopped = true;
            for slot in &state.slots {
                slot.session.standing.stop();
            }
            state.wake_all();
        }
        self.room.notify_all();
        self.aggregator().stop();
    }

    /// PAUSED to READY, when no task runs any more: no encoder stays. A next start places a new one.
    pub(crate) fn stopped(&self) {
        self.end_watch();
        for session in self.sessions() {
            // One that doesn't close is left to itself; a next start makes others.
            let _ = session.clear(&|| true);
        }
        let old = lock(&self.state)
            .as_mut()
            .and_then(|state| state.stream.take());
        drop(old);
    }

    /// READY to NULL.
    pub(crate) fn unprepare(&self) {
        self.end_watch();
        self.part_left();
        for session in self.sessions() {
            let is_closed = session.clear(&|| true).is_ok() && !session.standing.is_left();
            if is_closed {
                // (Otherwise whoever closes it after all does that, too.)
                let _ = session.slot.set_state(gst::State::Null);
            }
            if let Some(bin) = self.bin() {
                let _ = bin.remove(&session.slot);
            }
            let _ = self.obj().remove_pad(&session.src);
        }
        let old = lock(&self.state).take();
        drop(old);
        self.aggregator().remove_sessions();
    }

    pub(super) fn sessions(&self) -> Vec<Arc<Session>> {
        let state = lock(&self.state);
        let slots = state.iter().flat_map(|state| &state.slots);
        let slots = slots.filter(|slot| !slot.gone);
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
        let error = &mut slot.progress.error;
        error.get_or_insert_with(|| message.clone());
        slot.session.wake.notify_all();
        true
    }

    /// An encoder said that it leaves a frame out.
    pub(crate) fn encoder_skipped(&self, id: SessionId, private: gst::ClockTime) {
        self.aggregator().skip(id, private);
    }

    /// A fresh encoder is about to be opened: the application may set it up.
    pub(crate) fn announce_encoder(&self, encoder: &gst::Element) {
        if let Some(bin) = self.bin() {
            bin.imp().announce_encoder(encoder);
        }
    }

    /// The application has set a property of the encoder: chunks get it with their next encoder, a stream without chunks at
    /// once.
    pub(crate) fn encoder_property_set(&self, property: &str, value: &str) {
        if let (Mode::Sequential(_), Some(first)) = (self.mode(), self.session(SessionId(0))) {
            first.set_placed(property, value);
        }
    }

    /// The encoders' messages are ours: chunks are encoded.
    pub(crate) fn is_chunked(&self) -> bool {
        lock(&self.state).as_ref().is_some_and(State::is_chunked)
    }

    /// Once the encoder is known.
    pub(crate) fn decision(&self) -> Option<Decision> {
        lock(&self.state).as_ref()?.decision.clone()
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
            encoder: state
                .recipe
                .as_ref()
                .map(|recipe| recipe.description.clone()),
            profile: state.decision.as_ref().map(|decision| decision.profile),
            sessions_open: state.open_sessions() as u64,
            plan: state.stream.as_ref().map(|stream| *stream.planner.plan()),
            sequential: match state.mode {
                Mode::Sequential(reason) => Some(reason),
                _ if state.joined => Some(Sequential::Encoder(
                    "its packets don't say which of them are key frames",
                )),
                _ => None,
            },
            bytes_held: budget.map_or(0, |budget| budget.held_bytes()),
            bytes_peak: budget.map_or(0, |budget| budget.peak_bytes()),
            bytes_bound: state.bytes_bound(),
            leaves_early: aggregator.leaves_early(),
        })
    }
}
