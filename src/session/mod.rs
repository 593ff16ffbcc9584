// SPDX-License-Identifier: MPL-2.0

//! One live encoder in one slot.
//!
//! ```text
//!   distributor                slot                   aggregator
//!  ─────────────┐        ┌────────────────────┐        ┌────────────
//!     src_%u pad├───────►│ encoder (fresh)    ├───────►│sink_%u pad
//!  ─────────────┘        └────────────────────┘        └────────────
//!   place ─► prime ─► feed, frame by frame ─► EOS ─► verify ─► NULL, removed
//! ```
//!
//! Once all own frames of the chunk are there and the trail has begun, the aggregator returns EOS to the encoder, and the session
//! doesn't wait for what is left of the trail.
//!
//! A session runs in the pad task of its `src_%u`, which is the only thread that changes its encoder's state once
//! frames flow. (The first encoder is placed and primed before, by the application and the upstream thread.) It doesn't choose its
//! chunks and keeps no frames: it asks the distributor for both.

pub(crate) mod bitstream;
pub(crate) mod cached;
pub(crate) mod encoder;
pub(crate) mod hints;
pub(crate) mod opening;
pub(crate) mod overrides;
pub(crate) mod profile;
mod slot;
pub(crate) mod threads;

use crate::aggregator;
use crate::cache::Files;
use crate::distributor::{self, Distributor, SHUTDOWN_TIMEOUT};
use crate::locking::lock;
use crate::logic::frame::{Chunk, ChunkId, FrameNo, SessionId};
use crate::logic::reorder::Fault;
use crate::panics::{self, may_panic};
use cached::Known;
use encoder::{EncoderError, Recipe};
use gst::prelude::*;
use gst::subclass::prelude::*;
use hints::Hints;
use once_cell::sync::Lazy;
use opening::{Standing, close_in_turn, open_in_turn};
use overrides::Overrides;
use slot::Slot;
use std::fmt;
use std::sync::mpsc::{RecvTimeoutError, SendError};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

static CAT: Lazy<gst::DebugCategory> = Lazy::new(|| {
    gst::DebugCategory::new(
        "vtparallelsession",
        gst::DebugColorFlags::empty(),
        Some("vtparallelenc: one live encoder in its slot"),
    )
});

/// What the session's encoder is told before the first frame.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    pub(crate) caps: gst::Caps,
    /// What downstream accepts: some encoders adapt to it.
    pub(crate) downstream: Option<gst::Caps>,
    /// Upstream's stream tags: the encoder merges its own into them.
    pub(crate) tags: Option<gst::TagList>,
    pub(crate) hints: Hints,
}

/// A chunk to encode.
pub(crate) struct Work {
    pub(crate) chunk: ChunkId,
    /// It isn't cut from others.
    pub(crate) is_whole: bool,
    /// There may be no other attempt, so the distributor wants to know what was fed.
    pub(crate) lets_go: bool,
    /// The first frame that is fed.
    pub(crate) first: FrameNo,
    pub(crate) input: Input,
    pub(crate) recipe: Recipe,
    /// Where chunks are kept.
    pub(crate) cache: Option<Arc<Files>>,
}

/// What the session does next with its chunk.
pub(crate) enum Step {
    Feed {
        buffer: gst::Buffer,
        force_key: bool,
        /// TAG events that stood before the frame.
        tags: Vec<gst::Event>,
    },
    /// All was fed: send EOS.
    Drain(Chunk),
}

/// Why an attempt ended without its chunk.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A flush, a stop or another session's failure: nobody's fault, nothing to report.
    Aborted,
    /// The chunk's overlap was dropped meanwhile, or a key frame is wanted where it has none: it begins anew.
    Replanned,
    /// Downstream takes no more, which upstream learns from the aggregator.
    Downstream,
    Encoder(EncoderError),
    /// No encoder could be opened, for this reason.
    Unopened(Box<Failure>),
    /// The encoder's own error message.
    Posted(gst::Message),
    Flow {
        encoder: String,
        flow: gst::FlowError,
    },
    Fault(Fault),
    /// The encoder stood still and was left to itself.
    Stalled {
        encoder: String,
        /// What it was doing.
        doing: &'static str,
        time: Duration,
    },
}

impl Failure {
    /// What it is, for applications.
    pub(crate) fn cause(&self) -> &'static str {
        match self.innermost() {
            Self::Aborted | Self::Replanned | Self::Downstream => "aborted",
            Self::Encoder(_) | Self::Unopened(_) => "not-opened",
            Self::Posted(_) => "error-message",
            Self::Flow { .. } => "error-flow",
            Self::Fault(_) => "wrong-output",
            Self::Stalled { .. } => "stalled",
        }
    }

    /// The failure without what was said around it.
    pub(crate) fn innermost(&self) -> &Self {
        match self {
            Self::Unopened(why) => why.innermost(),
            other => other,
        }
    }

    /// In one line, without the encoder's debug text.
    pub(crate) fn summary(&self) -> String {
        match self.innermost() {
            Self::Posted(message) => match message.view() {
                gst::MessageView::Error(error) => error.error().message().to_string(),
                _ => self.to_string(),
            },
            other => other.to_string(),
        }
    }

    /// An error of the kind that the encoder posted, or that fits best, with this text.
    pub(crate) fn error(&self, text: &str) -> glib::Error {
        match self.innermost() {
            Self::Posted(message) => match message.view() {
                gst::MessageView::Error(error) => {
                    let error = error.error();
                    glib::Error::with_domain(error.domain(), error.code(), text)
                }
                _ => glib::Error::new(gst::StreamError::Encode, text),
            },
            Self::Encoder(EncoderError::CapsRefused { .. }) => {
                glib::Error::new(gst::StreamError::Format, text)
            }
            Self::Encoder(_) => glib::Error::new(gst::LibraryError::Init, text),
            _ => glib::Error::new(gst::StreamError::Encode, text),
        }
    }

    /// The encoder complained of what it is to encode, not of itself.
    fn is_of_stream(&self) -> bool {
        match self {
            Self::Posted(message) => matches!(
                message.view(),
                gst::MessageView::Error(error)
                    if error.error().is::<gst::StreamError>()
                        || error.error().matches(gst::CoreError::Negotiation)
            ),
            Self::Encoder(EncoderError::CapsRefused { .. }) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aborted => f.write_str("it was aborted"),
            Self::Replanned => f.write_str("it was planned anew"),
            Self::Downstream => f.write_str("downstream takes no more"),
            Self::Encoder(error) => error.fmt(f),
            Self::Unopened(why) => why.fmt(f),
            Self::Posted(message) => match message.view() {
                gst::MessageView::Error(error) => {
                    write!(f, "{}", error.error().message())?;
                    match error.debug() {
                        Some(debug) => write!(f, " ({debug})"),
                        None => Ok(()),
                    }
                }
                _ => write!(f, "{message:?}"),
            },
            Self::Flow { encoder, flow } => {
                write!(
                    f,
                    "the encoder {encoder} returned {flow:?} without saying why"
                )
            }
            Self::Fault(fault) => fault.fmt(f),
            Self::Stalled {
                encoder,
                doing,
                time,
            } => write!(
                f,
                "the encoder {encoder} stood still for {time:?} while {doing} (stall-timeout)"
            ),
        }
    }
}

/// An encoder in its slot, linked on both sides. Leaves it when dropped.
struct Live {
    slot: Slot,
    standing: Arc<Standing>,
    element: gst::Element,
    /// The encoder in it, or it itself.
    encoder: gst::Element,
    /// It was told to open, so it has something to close.
    is_opened: bool,
    /// What it was primed with: raw caps, and what downstream accepts.
    caps: Option<gst::Caps>,
    downstream: Option<gst::Caps>,
}

impl Live {
    fn name(&self) -> String {
        encoder::name_of(&self.element)
    }

    fn cannot_start(&self) -> EncoderError {
        EncoderError::CannotStart {
            encoder: self.name(),
        }
    }

    /// Takes the encoder to the state of its bin.
    fn follow_bin(&self) -> Result<(), EncoderError> {
        let followed = self.element.sync_state_with_parent();
        followed.map_err(|_| self.cannot_start())
    }

    /// What has a library of its own.
    fn plugin(&self) -> glib::GString {
        let factory = self.encoder.factory();
        let plugin = factory.and_then(|factory| factory.plugin_name());
        plugin.unwrap_or_default()
    }

    /// Opens the encoder when its library's turn comes.
    fn open_in_turn<R>(
        &self,
        act: impl FnOnce() -> Result<R, EncoderError>,
    ) -> Result<R, EncoderError> {
        open_in_turn(&self.plugin(), &self.standing, act).unwrap_or(Err(EncoderError::Stopped))
    }

    /// Opens the encoder as far as this state takes it, in turn.
    fn open_to(&self, state: gst::State) -> Result<(), EncoderError> {
        self.open_in_turn(|| {
            let opened = self.element.set_state(state);
            opened.map(drop).map_err(|_| self.cannot_start())
        })
    }
}

impl Drop for Live {
    /// Where it panics, perhaps while another panic unwinds, what is left is to stop the encoder, whoever's turn it is.
    fn drop(&mut self) {
        let stop = || {
            let _ = self.element.set_state(gst::State::Null);
            let _ = self.slot.remove(&self.element);
        };
        panics::caught(self.slot.imp(), "closing an encoder", stop, || self.close());
    }
}

impl Live {
    fn close(&self) {
        may_panic!("session-closes");
        // First NULL, while its messages still come to us.
        let stop = || {
            let stop = || self.element.set_state(gst::State::Null);
            stop().or_else(|_| stop())
        };
        let stopped = match self.is_opened {
            true => close_in_turn(&self.plugin(), &self.standing, stop),
            false => stop(),
        };
        if stopped.is_err() {
            gst::warning!(
                CAT,
                obj = self.slot,
                "The encoder {} can't be stopped, and is left as it is",
                self.name()
            );
            // It may not be freed in a state like this.
            std::mem::forget(self.element.clone());
        }
        if self.element.parent().as_ref() == Some(self.slot.upcast_ref()) {
            self.slot.disconnect();
            let _ = self.slot.remove(&self.element);
        }
    }
}

/// A slot and its task.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    /// The distributor's pad, with the session's task.
    pub(crate) src: gst::Pad,
    pub(crate) slot: Slot,
    /// For the session's task, with the distributor's state.
    pub(crate) wake: Condvar,
    pub(crate) standing: Arc<Standing>,
    /// An encoder that was placed ahead of its first chunk, or the only one of a sequential stream.
    placed: Mutex<Option<Live>>,
}

impl Session {
    /// `stall_timeout`: so long another one may keep its encoder from being opened or closed.
    pub(crate) fn new(
        id: SessionId,
        src: gst::Pad,
        distributor: &Distributor,
        stall_timeout: Option<Duration>,
    ) -> Self {
        let standing = Arc::new(Standing::new(stall_timeout));
        Self {
            id,
            src,
            slot: Slot::new(distributor, id, &standing),
            wake: Condvar::new(),
            standing,
            placed: Mutex::default(),
        }
    }

    /// Links the slot between the distributor's pad and the aggregator's.
    pub(crate) fn link(&self, sink: &gst::Pad) -> Option<()> {
        self.src.link(&self.slot.static_pad("sink")?).ok()?;
        self.slot.static_pad("src")?.link(sink).ok()?;
        Some(())
    }

    /// A fresh encoder that isn't opened.
    fn make(&self, recipe: &Recipe, hints: Option<&Hints>) -> Result<Live, EncoderError> {
        let element = recipe.make()?;
        element.set_property("name", "encoder");
        // The session's task moves its encoder, the bin must not.
        element.set_locked_state(true);
        let live = Live {
            slot: self.slot.clone(),
            standing: self.standing.clone(),
            encoder: encoder::encoder_within(&element),
            element,
            is_opened: false,
            caps: None,
            downstream: None,
        };
        if let Some(hints) = hints {
            hints.apply(&live.encoder, recipe);
        }
        self.slot.announce(&live.encoder);
        Ok(live)
    }

    /// Puts an encoder into the slot, at READY.
    fn enter(&self, live: &mut Live) -> Result<(), EncoderError> {
        let added = self.slot.add(&live.element);
        added.map_err(|_| live.cannot_start())?;
        let opened = live.open_to(gst::State::Ready);
        live.is_opened = !matches!(opened, Err(EncoderError::Stopped));
        opened
    }

    /// Does what an encoder may hang in, for so long at most, or as long as a shutdown waits once `stops` says so; then the session is
    /// left to itself. Before that, time in which another one has the turn doesn't count.
    fn within<R: Send + 'static>(
        self: &Arc<Self>,
        time: Option<Duration>,
        stops: &dyn Fn() -> bool,
        act: impl FnOnce(&Self) -> Result<R, EncoderError> + Send + 'static,
    ) -> Result<R, EncoderError> {
        const SLICE: Duration = Duration::from_millis(100);
        let time = time.unwrap_or(Duration::MAX);
        let (done, result) = std::sync::mpsc::channel();
        let this = self.clone();
        let thread = std::thread::Builder::new().name("vtparallelenc-open".to_string());
        let spawned = thread.spawn(move || {
            // What comes too late is dropped here.
            if let Err(SendError(Err(panic))) = done.send(panics::contained(|| act(&this))) {
                panics::tell(this.slot.imp(), "opening an encoder", &panic);
            }
            if this.standing.is_left() {
                this.bury_or_tell();
            }
        });
        let thread = spawned.map_err(|error| EncoderError::NoThread(error.to_string()))?;
        // Counted while this thread runs: when the process is stopped, so is the encoder.
        let (mut waited, mut stopping) = (Duration::ZERO, Duration::ZERO);
        loop {
            let slice = SLICE.min(time);
            match result.recv_timeout(slice) {
                Ok(Ok(result)) => {
                    // It does no more than to let go of what is ours.
                    let _ = thread.join();
                    return result;
                }
                // As if there were no other thread.
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(RecvTimeoutError::Timeout)
                    if waited + slice < time && stopping < SHUTDOWN_TIMEOUT =>
                {
                    if stops() {
                        stopping += slice;
                    }
                    if !self.standing.awaits_turn() {
                        waited += slice;
                    }
                }
                Err(_) => {
                    self.leave();
                    if result.try_recv().is_ok() {
                        // At the last moment. It didn't see that nobody waits.
                        self.bury();
                    }
                    return Err(EncoderError::Hangs { time });
                }
            }
        }
    }

    /// Nobody waits for the session any more, and its slot doesn't follow the element's state.
    pub(crate) fn leave(&self) {
        self.slot.set_locked_state(true);
        self.standing.leave();
        self.wake.notify_all();
    }

    /// Nobody waits for the session, and it has come back after all: it leaves nothing behind. Not called in its task, which this
    /// waits for.
    fn bury(&self) {
        let _ = self.src.stop_task();
        let _ = self.slot.set_state(gst::State::Null);
    }

    /// As above, in a thread of its own.
    pub(crate) fn bury_or_tell(&self) {
        let bury = || {
            may_panic!("session-is-buried");
            self.bury();
        };
        // Half done is not enough: what isn't at NULL can't be freed.
        panics::caught(self.slot.imp(), "leaving a session", || self.bury(), bury);
    }

    /// Places an encoder ahead of its use: it answers queries until then. It may take so long to open.
    pub(crate) fn place(
        self: &Arc<Self>,
        recipe: &Recipe,
        time: Option<Duration>,
        stops: &dyn Fn() -> bool,
    ) -> Result<(), EncoderError> {
        self.clear(stops)?;
        let recipe = recipe.clone();
        let live = self.within(time, stops, move |this| {
            may_panic!("session-opens");
            let mut live = this.make(&recipe, None)?;
            this.enter(&mut live)?;
            Ok(live)
        })?;
        self.connect(&live)?;
        *lock(&self.placed) = Some(live);
        Ok(())
    }

    /// Sets on the placed encoder all that was set on all.
    pub(crate) fn override_placed(&self, set: &Overrides) {
        if let Some(encoder) = self.placed_encoder() {
            set.apply(&encoder);
        }
    }

    /// Sets a property of the placed encoder.
    pub(crate) fn set_placed(&self, property: &str, value: &str) {
        if let Some(encoder) = self.placed_encoder() {
            let _ = overrides::set_from_text(&encoder, property, value);
        }
    }

    fn placed_encoder(&self) -> Option<gst::Element> {
        let placed = lock(&self.placed);
        placed.as_ref().map(|live| live.encoder.clone())
    }

    fn connect(&self, live: &Live) -> Result<(), EncoderError> {
        self.slot
            .connect(&live.element)
            .ok_or_else(|| live.cannot_start())
    }

    /// What the placed encoder, with what follows it, can make.
    pub(crate) fn makes(&self) -> gst::Caps {
        let src = self.slot.static_pad("src");
        src.map_or_else(gst::Caps::new_any, |src| src.query_caps(None))
    }

    pub(crate) fn is_placed(&self) -> bool {
        lock(&self.placed).is_some()
    }

    /// Takes the placed encoder out, and closes it.
    pub(crate) fn clear(self: &Arc<Self>, stops: &dyn Fn() -> bool) -> Result<(), EncoderError> {
        let Some(placed) = lock(&self.placed).take() else {
            return Ok(());
        };
        self.within(self.standing.patience(), stops, move |_| {
            drop(placed);
            Ok(())
        })
    }

    /// As above, in the session's task, which is watched.
    pub(crate) fn clear_in_task(&self) {
        let placed = lock(&self.placed).take();
        drop(placed);
    }

    /// Primes the placed encoder, so that it refuses what it can't encode before the first frame.
    pub(crate) fn prime_placed(
        self: &Arc<Self>,
        caps: &gst::Caps,
        downstream: gst::Caps,
        time: Option<Duration>,
        stops: &dyn Fn() -> bool,
    ) -> Result<(), EncoderError> {
        let Some(mut live) = lock(&self.placed).take() else {
            return Ok(());
        };
        let caps = caps.clone();
        let primed = self.within(time, stops, move |this| {
            may_panic!("session-opens");
            this.prime(&mut live, &caps)?;
            Ok(live)
        });
        let mut live = primed?;
        live.downstream = Some(downstream);
        *lock(&self.placed) = Some(live);
        Ok(())
    }

    /// Starts the placed encoder, the only one of its stream. It goes with its bin from now on, as an encoder without us
    /// would.
    pub(crate) fn start_placed(
        self: &Arc<Self>,
        time: Option<Duration>,
        stops: &dyn Fn() -> bool,
    ) -> Result<(), EncoderError> {
        // Out of its place while it starts: no lock is held then, and nobody else takes it in this time.
        let Some(live) = lock(&self.placed).take() else {
            return Ok(());
        };
        let live = self.within(time, stops, move |_| {
            may_panic!("session-opens");
            live.open_to(gst::State::Paused)?;
            live.follow_bin()?;
            Ok(live)
        })?;
        live.element.set_locked_state(false);
        self.slot.moves_encoder();
        // The bin may have changed its state meanwhile.
        live.follow_bin()?;
        *lock(&self.placed) = Some(live);
        Ok(())
    }

    /// Starts the encoder and tells it what comes.
    fn prime(&self, live: &mut Live, caps: &gst::Caps) -> Result<(), EncoderError> {
        live.open_in_turn(|| self.open(live, caps))?;
        live.caps = Some(caps.clone());
        Ok(())
    }

    fn open(&self, live: &Live, caps: &gst::Caps) -> Result<(), EncoderError> {
        // The pads still have the events of the last encoder, EOS among them. Sent while no encoder is linked, the new
        // ones replace them, so that this encoder never sees an old one.
        self.slot.disconnect();
        let id = format!("vtparallelenc/{}", self.id);
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_start(gst::ClockTime::ZERO);
        // The very event that was sent would not be sent again.
        let event = || gst::event::Caps::new(caps);
        self.src.push_event(gst::event::StreamStart::new(&id));
        self.src.push_event(event());
        self.src.push_event(gst::event::Segment::new(&segment));

        self.connect(live)?;
        let started = live.element.set_state(gst::State::Paused);
        started.map_err(|_| live.cannot_start())?;
        self.src.push_event(event());
        // What a sticky event's receiver thinks of it is only visible in what it keeps.
        let sink = live.element.static_pad("sink");
        let kept = sink.and_then(|sink| sink.current_caps());
        if kept.as_ref() != Some(caps) {
            return Err(EncoderError::CapsRefused {
                encoder: live.name(),
                caps: caps.clone(),
            });
        }
        Ok(())
    }

    /// The one that was made for this chunk, or else the placed encoder if it is primed for this input, or a fresh one.
    fn primed(&self, work: &Work, made: Option<Live>) -> Result<Live, EncoderError> {
        let placed = lock(&self.placed).take();
        // What wants to know of its chunk had to be made for it.
        let fits = |live: &Live| {
            live.caps.as_ref() == Some(&work.input.caps)
                && live.downstream == work.input.downstream
                && !hints::are_wanted(&live.encoder)
        };
        let live = match placed.filter(|placed| made.is_none() && fits(placed)) {
            Some(live) => live,
            None => {
                let mut live = match made {
                    Some(made) => made,
                    None => self.make(&work.recipe, Some(&work.input.hints))?,
                };
                self.enter(&mut live)?;
                self.prime(&mut live, &work.input.caps)?;
                live
            }
        };
        if let Some(tags) = &work.input.tags {
            self.src.push_event(gst::event::Tag::new(tags.clone()));
        }
        Ok(live)
    }

    /// What comes of the session from now on is of this chunk.
    fn begin(&self, aggregator: &aggregator::imp::Aggregator, work: &Work) {
        let downstream = work.input.downstream.clone();
        aggregator.begin(self.id, work.chunk, work.first, downstream);
    }

    /// One attempt at a chunk, to the end.
    pub(crate) fn run(
        &self,
        distributor: &distributor::imp::Distributor,
        aggregator: &aggregator::imp::Aggregator,
        work: &Work,
    ) -> Result<(), Failure> {
        self.begin(aggregator, work);
        let unopened = |error| {
            let is_open = matches!(error, EncoderError::CapsRefused { .. });
            match distributor.failure(self) {
                Some(none @ (Failure::Aborted | Failure::Downstream)) => none,
                // Where caps are refused, it isn't for want of room.
                None if is_open => Failure::Encoder(error),
                Some(why) if is_open && why.is_of_stream() => why,
                why => Failure::Unopened(Box::new(why.unwrap_or(Failure::Encoder(error)))),
            }
        };
        let mut made = None;
        let mut keep = None;
        if let Some(files) = work.cache.as_deref().filter(|_| !work.is_whole) {
            // What was placed is open, and may have changed its properties since: nobody could tell which one it is.
            self.clear_in_task();
            let fresh = self.make(&work.recipe, Some(&work.input.hints));
            let fresh = fresh.map_err(unopened)?;
            let (known, base) =
                self.look_up(distributor, aggregator, work, files, &fresh.element)?;
            match known {
                Known::Delivered(chunk, delivered) => {
                    drop(fresh);
                    distributor.verified(self, chunk, delivered, true);
                    return distributor.delivered(self, chunk, delivered);
                }
                Known::Keep(key, content) => {
                    aggregator.record(self.id, base);
                    keep = Some((files, key, content));
                }
                Known::No => (),
            }
            made = Some(fresh);
            distributor.feed_from(self, work.first);
        }
        let live = self.primed(work, made).map_err(unopened)?;
        let chunk = match self.feed(distributor, work, &live) {
            Ok(chunk) => chunk,
            Err(none @ (Failure::Aborted | Failure::Downstream | Failure::Replanned)) => {
                return Err(none);
            }
            // Its encoder was told that it may end, whatever it says to that.
            Err(failure) => match distributor.cut_short(self, work.chunk) {
                Some(chunk) => chunk,
                None => return Err(failure),
            },
        };
        let delivered = aggregator.verify(chunk).map_err(Failure::Fault)?;
        distributor.verified(self, chunk, delivered, false);
        let recording = aggregator.take_recording(self.id);
        let keep = keep.filter(|(.., content)| distributor.is_still(work.chunk, content));
        // Before another session learns that this one has let go.
        drop(live);
        distributor.delivered(self, chunk, delivered)?;
        // The chunk needn't wait for the disk.
        if let (Some((files, key, _)), Some(recording)) = (keep, recording) {
            self.keep(distributor, files, key, &recording);
        }
        Ok(())
    }

    /// Feeds the chunk to its encoder, and waits until that has ended.
    fn feed(
        &self,
        distributor: &distributor::imp::Distributor,
        work: &Work,
        live: &Live,
    ) -> Result<Chunk, Failure> {
        let refused = |flow| {
            distributor
                .failure(self)
                .unwrap_or_else(|| self.unexplained(live, flow))
        };
        let mut position = work.first;
        let chunk = loop {
            match distributor.next_step(self, work.chunk, position)? {
                Step::Feed {
                    buffer,
                    force_key,
                    tags,
                } => {
                    for tag in tags {
                        self.src.push_event(tag);
                    }
                    if force_key {
                        self.src.push_event(force_key_unit(buffer.pts()));
                    }
                    may_panic!("session-feeds");
                    self.src.push(buffer).map_err(refused)?;
                    position = FrameNo(position.0 + 1);
                    if work.lets_go {
                        distributor.fed(self, work.chunk, position);
                    }
                }
                Step::Drain(chunk) => break chunk,
            }
        };
        let drained = self.src.push_event(gst::event::Eos::new());
        if !drained && !distributor.has_ended(self) {
            return Err(refused(gst::FlowError::Error));
        }
        distributor.wait_for_eos(self)?;
        may_panic!("session-ends");
        distributor.failure(self).map_or(Ok(chunk), Err)
    }

    /// The encoder returned an error and nobody said why.
    fn unexplained(&self, live: &Live, flow: gst::FlowError) -> Failure {
        match (&live.caps, flow) {
            (Some(caps), gst::FlowError::NotNegotiated) => {
                Failure::Encoder(EncoderError::CapsRefused {
                    encoder: live.name(),
                    caps: caps.clone(),
                })
            }
            _ => Failure::Flow {
                encoder: live.name(),
                flow,
            },
        }
    }
}

/// Asks the encoder for a key frame at exactly the frame with this private time, which is its running time too.
fn force_key_unit(time: Option<gst::ClockTime>) -> gst::Event {
    gst_video::DownstreamForceKeyUnitEvent::builder()
        .timestamp(time)
        .stream_time(time)
        .running_time(time)
        .all_headers(true)
        .build()
}
