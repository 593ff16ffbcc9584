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
//! A session runs in the pad task of its `src_%u`, which is the only thread that changes its encoder's state once
//! frames flow. (The first encoder is placed and primed before, by the application and the upstream thread.) It doesn't choose its
//! chunks and keeps no frames: it asks the distributor for both.

pub(crate) mod attempt;
pub(crate) mod failure;
mod instance;
pub(crate) mod replay;
mod slot;

use crate::distributor::Distributor;
use crate::encoder::description::{EncoderError, Recipe, encoder_within};
use crate::encoder::hints::Hints;
use crate::encoder::properties::{self, Overrides};
use crate::encoder::turn::SessionStatus;
use crate::job::SHUTDOWN_TIMEOUT;
use crate::logic::ids::SessionId;
use crate::panics;
use gst::prelude::*;
use gst::subclass::prelude::*;
use instance::Live;
use once_cell::sync::Lazy;
use parking_lot::{Condvar, Mutex};
use slot::Slot;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SendError};
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

/// A slot and its task.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    /// The distributor's pad, with the session's task.
    pub(crate) src: gst::Pad,
    pub(crate) slot: Slot,
    /// For the session's task, with the distributor's state.
    pub(crate) wake: Condvar,
    pub(crate) status: Arc<SessionStatus>,
    /// An encoder that was placed ahead of its first chunk, or the only one of a sequential stream.
    placed: Mutex<Option<Live>>,
}

impl Session {
    pub(crate) fn new(id: SessionId, src: gst::Pad, distributor: &Distributor) -> Self {
        let status = Arc::new(SessionStatus::default());
        Self {
            id,
            src,
            slot: Slot::new(distributor, id, &status),
            wake: Condvar::new(),
            status,
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
            status: self.status.clone(),
            encoder: encoder_within(&element),
            element,
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
    fn enter(&self, live: &Live) -> Result<(), EncoderError> {
        let added = self.slot.add(&live.element);
        added.map_err(|_| live.cannot_start())?;
        let started = live.in_turn(|| live.element.set_state(gst::State::Ready));
        started.map_err(|_| live.cannot_start())?;
        Ok(())
    }

    /// Does what an encoder may hang in, for so long at most, or as long as a shutdown waits once `stops` says so; then the session is
    /// left to itself.
    fn within<R: Send + 'static>(
        self: &Arc<Self>,
        time: Option<Duration>,
        stops: &dyn Fn() -> bool,
        act: impl FnOnce(&Self) -> Result<R, EncoderError> + Send + 'static,
    ) -> Result<R, EncoderError> {
        const SLICE: Duration = Duration::from_millis(100);
        const OPENING: &str = "opening an encoder";
        let time = time.unwrap_or(Duration::MAX);
        let (done, result) = std::sync::mpsc::channel();
        let this = self.clone();
        let thread = std::thread::Builder::new().name("vtparallelenc-open".to_string());
        let spawned = thread.spawn(move || {
            // What comes too late is dropped here.
            if let Err(SendError(Err(panic))) = done.send(panics::contained(OPENING, || act(&this)))
            {
                panics::tell(this.slot.imp(), OPENING, &panic);
            }
            if this.status.is_abandoned() {
                this.dispose_abandoned();
            }
        });
        spawned.map_err(|error| EncoderError::NoThread(error.to_string()))?;
        // Counted while this thread runs: when the process is stopped, so is the encoder.
        let (mut waited, mut stopping) = (Duration::ZERO, Duration::ZERO);
        loop {
            let slice = SLICE.min(time);
            match result.recv_timeout(slice) {
                Ok(Ok(result)) => return result,
                // As if there were no other thread.
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(RecvTimeoutError::Timeout) if self.status.awaits_turn() => (),
                Err(RecvTimeoutError::Timeout)
                    if waited + slice < time && stopping < SHUTDOWN_TIMEOUT =>
                {
                    waited += slice;
                    stopping += if stops() { slice } else { Duration::ZERO };
                }
                Err(_) => {
                    self.abandon();
                    if result.try_recv().is_ok() {
                        // At the last moment. It didn't see that nobody waits.
                        self.dispose();
                    }
                    return Err(EncoderError::Hangs { time });
                }
            }
        }
    }

    /// Nobody waits for the session any more, and its slot doesn't follow the element's state.
    pub(crate) fn abandon(&self) {
        self.slot.set_locked_state(true);
        self.status.abandon();
        self.wake.notify_all();
    }

    /// Nobody waits for the session, and it has come back after all: it leaves nothing behind. Not called in its task, which this
    /// waits for.
    fn dispose(&self) {
        let _ = self.src.stop_task();
        let _ = self.slot.set_state(gst::State::Null);
    }

    /// As above, in a thread of its own.
    pub(crate) fn dispose_abandoned(&self) {
        let dispose = || self.dispose();
        // Half done is not enough: what isn't at NULL can't be freed.
        panics::caught(self.slot.imp(), "disposing of a session", dispose, dispose);
    }

    /// Places an encoder ahead of its use: it answers queries until then. It may take so long to open.
    pub(crate) fn place(
        self: &Arc<Self>,
        recipe: &Recipe,
        time: Option<Duration>,
    ) -> Result<(), EncoderError> {
        self.clear();
        let recipe = recipe.clone();
        // (Nobody stops what is only starting.)
        let live = self.within(time, &|| false, move |this| {
            let live = this.make(&recipe, None)?;
            this.enter(&live)?;
            Ok(live)
        })?;
        self.connect(&live)?;
        *self.placed.lock() = Some(live);
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
            let _ = properties::set_from_text(&encoder, property, value);
        }
    }

    fn placed_encoder(&self) -> Option<gst::Element> {
        let placed = self.placed.lock();
        placed.as_ref().map(|live| live.encoder.clone())
    }

    fn connect(&self, live: &Live) -> Result<(), EncoderError> {
        self.slot
            .connect(&live.element)
            .ok_or_else(|| live.cannot_start())
    }

    pub(crate) fn is_placed(&self) -> bool {
        self.placed.lock().is_some()
    }

    /// Takes the placed encoder out.
    pub(crate) fn clear(&self) {
        let placed = self.placed.lock().take();
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
        let Some(mut live) = self.placed.lock().take() else {
            return Ok(());
        };
        let caps = caps.clone();
        let primed = self.within(time, stops, move |this| {
            this.prime(&mut live, &caps)?;
            Ok(live)
        });
        let mut live = primed?;
        live.downstream = Some(downstream);
        *self.placed.lock() = Some(live);
        Ok(())
    }

    /// Starts the placed encoder, the only one of its stream. It goes with its bin from now on, as an encoder without us
    /// would.
    pub(crate) fn start_placed(&self) -> Result<(), EncoderError> {
        // Out of its place while it starts: no lock is held then, and nobody else takes it in this time.
        let Some(live) = self.placed.lock().take() else {
            return Ok(());
        };
        let started = live.in_turn(|| live.element.set_state(gst::State::Paused));
        started.map_err(|_| live.cannot_start())?;
        live.element.set_locked_state(false);
        self.slot.moves_encoder();
        let synced = live.element.sync_state_with_parent();
        synced.map_err(|_| live.cannot_start())?;
        *self.placed.lock() = Some(live);
        Ok(())
    }

    /// Starts the encoder and tells it what comes.
    fn prime(&self, live: &mut Live, caps: &gst::Caps) -> Result<(), EncoderError> {
        live.in_turn(|| self.open(live, caps))?;
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
}
