// SPDX-License-Identifier: MPL-2.0

//! One live encoder in one slot.
//!
//! ```text
//!      input                 slot                    output
//!  ─────────────┐        ┌────────────────────┐        ┌────────────
//!     src_%u pad├───────►│ encoder (fresh)    ├───────►│sink_%u pad
//!  ─────────────┘        └────────────────────┘        └────────────
//!   place ─► prime ─► feed, frame by frame ─► EOS ─► verify ─► NULL, removed
//! ```
//!
//! A session runs in the task of its `src_%u`, which is the only thread that changes its encoder's state once
//! frames flow. (The first encoder is placed and primed before, by the application and the upstream thread.) It doesn't choose its
//! chunks and keeps no frames: it asks its [`Assignment`] for both.

mod attempt;
pub(crate) mod failure;
mod instance;
pub(crate) mod replay;
mod slot;

use crate::cache::{Files, FrameDigest, Recording};
use crate::encoder::description::{self, EncoderError, Recipe};
use crate::encoder::hints::Hints;
use crate::encoder::turn::SessionStatus;
use crate::host::Host;
use crate::job::SHUTDOWN_TIMEOUT;
use crate::logic::engine::Doing;
use crate::logic::given::SecondPass;
use crate::logic::ids::{Chunk, ChunkId, FrameNo, SessionId};
use crate::media::tags::of_stream;
use crate::panics;
use failure::Failure;
use gst::prelude::*;
use gst::subclass::prelude::*;
use instance::Instance;
use once_cell::sync::Lazy;
use parking_lot::{Condvar, Mutex};
use replay::Content;
use slot::Slot;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SendError};
use std::sync::{Arc, Weak};
use std::time::Duration;

static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| crate::category("vtparallelsession", "one live encoder in its slot"));

/// Encoders that were opened in this process.
static OPENED: AtomicU64 = AtomicU64::new(0);

/// What a thread does that opens an encoder, for whoever reads of a panic.
const OPENING: &str = "opening an encoder";

/// What the encoder of a chunk that begins with a frame is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Context {
    /// Raw caps.
    pub(crate) caps: gst::Caps,
    /// What downstream accepts: some encoders adapt to it.
    pub(crate) downstream: Option<gst::Caps>,
    /// Upstream's stream tags before the frame: the encoder merges its own into them.
    pub(crate) tags: Option<gst::TagList>,
}

/// A raw frame.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// With its private timestamp.
    pub(crate) buffer: gst::Buffer,
    /// TAG events that stood before it.
    pub(crate) tags: Vec<gst::Event>,
    /// `None` if the cache is off or the frame can't be hashed.
    pub(crate) digest: Option<FrameDigest>,
    pub(crate) context: Arc<Context>,
}

impl Frame {
    /// The stream tags that an encoder is told which begins with this frame. Those that stand right before it come with it.
    pub(crate) fn tags_before(&self) -> Option<gst::TagList> {
        let come = self.tags.iter().any(|event| of_stream(event).is_some());
        self.context.tags.clone().filter(|_| !come)
    }
}

/// A chunk to encode.
pub(crate) struct Work {
    pub(crate) chunk: ChunkId,
    /// The first frame that is fed.
    pub(crate) first: FrameNo,
    /// That frame, which says what the encoder is told.
    pub(crate) opens: Frame,
    pub(crate) hints: Hints,
    pub(crate) recipe: Recipe,
    /// Where chunks are kept.
    pub(crate) cache: Option<Arc<Files>>,
    pub(crate) keeping: Keeping,
    /// The encoder makes the second of two passes over it.
    pub(crate) pass: Option<SecondPass>,
}

/// What has to be in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// It spares the encoder, where the chunk is there.
    Optional,
    /// Nothing is looked up, as the frames go when they are fed; that the chunk is kept is all that it is encoded for. This is all of it.
    Required(Chunk),
    /// The chunk is there, or nobody can make it: only the frames' digests are there.
    Only,
}

/// One attempt at a chunk, as who assigned it sees it. Once the attempt is over for that side, everything fails with
/// [`Failure::Aborted`] or does nothing.
pub(crate) trait Assignment {
    /// Waits for the frame at this position, and says whether it is to be a key frame. `None`: all was fed, send EOS.
    fn next(&self, position: FrameNo) -> Result<Option<(Frame, bool)>, Failure>;

    /// Waits until all of the chunk is there, which then counts as fed. `None`: begin without it, as input has stopped.
    fn content(&self) -> Result<Option<Content>, Failure>;

    /// The chunk that counts as fed is fed after all.
    fn feed_from_first(&self);

    /// Waits until the encoder has sent its EOS, or may end.
    fn wait_for_eos(&self) -> Result<(), Failure>;

    fn has_ended(&self) -> bool;

    /// Why the attempt can't go on, if it can't.
    fn failure(&self) -> Option<Failure>;

    /// All own frames are there, and the encoder was told that it may end.
    fn is_complete(&self) -> bool;

    /// The session has delivered all it has: is that all of the chunk? It counts as delivered from here on.
    fn verify(&self, from_cache: bool) -> Result<(), Failure>;

    /// The encoder is closed: the chunk's packets may leave.
    fn delivered(&self) -> Result<(), Failure>;

    /// What the session does from now on, besides what follows from the other calls.
    fn does(&self, doing: Doing);

    /// The cache is being read or written, or isn't any more.
    fn uses_cache(&self, uses: bool);

    /// The chunk was delivered, and is being kept.
    fn keeps(&self);

    /// Forgets what came for the attempt, which begins again. `false`: it can't.
    fn begin_again(&self) -> bool;

    /// What the encoder makes from now on is remembered. The first frame that it is fed has this private time. `needs_metas`: it can only
    /// be kept with all metas of its packets.
    fn record(&self, base: u64, needs_metas: bool);

    /// What was remembered, if it can be kept, and the chunk is still what its content was.
    fn take_recording(&self) -> Option<Recording>;

    /// An event or a packet comes as its encoder sent it in an earlier run. `false`: it isn't taken.
    fn replay_event(&self, event: gst::Event) -> bool;
    fn replay_packet(&self, packet: gst::Buffer) -> bool;

    /// The encoder leaves out the frame with this private time.
    fn skip(&self, private: gst::ClockTime);

    /// The encoder has another decoder's buffer than it was told of, as something was set since: nobody keeps account of it any more.
    fn end_account(&self);

    /// Chunks can't be kept.
    fn cache_failed(&self, reason: &str);
}

/// Who hears what an encoder in a slot posts. All of it runs in the thread that posts, with the encoder's locks held.
pub(crate) trait SlotOwner: Send + Sync {
    /// Chunks are encoded: the encoders' messages are for their sessions.
    fn is_chunked(&self) -> bool;

    /// An encoder posted an error.
    fn error(&self, session: SessionId, message: &gst::Message);

    /// An encoder leaves out the frame with this private time.
    fn skipped(&self, session: SessionId, private: gst::ClockTime);
}

/// A slot and its task.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    /// The input's pad, with the session's task.
    pub(crate) src: gst::Pad,
    pub(crate) slot: Slot,
    /// For the session's task, with the engine's lock.
    pub(crate) wake: Condvar,
    pub(crate) status: Arc<SessionStatus>,
    /// The first error that the encoder at hand has posted; a leaf among the locks.
    pub(crate) posted: Mutex<Option<gst::Message>>,
    /// An encoder that was placed ahead of its first chunk, or the only one of a sequential stream.
    placed: Mutex<Option<Instance>>,
}

impl Session {
    /// `stall_timeout`: so long another one may keep its encoder from being opened or closed.
    pub(crate) fn new(
        id: SessionId,
        src: gst::Pad,
        host: Arc<dyn Host>,
        owner: Weak<dyn SlotOwner>,
        stall_timeout: Option<Duration>,
    ) -> Self {
        let status = Arc::new(SessionStatus::new(stall_timeout));
        Self {
            id,
            src,
            slot: Slot::new(id, host, owner, &status),
            wake: Condvar::new(),
            status,
            posted: Mutex::default(),
            placed: Mutex::default(),
        }
    }

    /// Links the slot between the input's pad and the output's.
    pub(crate) fn link(&self, sink: &gst::Pad) -> Option<()> {
        self.src.link(&self.slot.static_pad("sink")?).ok()?;
        self.slot.static_pad("src")?.link(sink).ok()?;
        Some(())
    }

    /// A fresh encoder that isn't opened.
    fn make(&self, recipe: &Recipe, hints: Option<&Hints>) -> Result<Instance, EncoderError> {
        let element = recipe.make()?;
        element.set_property("name", "encoder");
        // The session's task moves its encoder, the bin must not.
        element.set_locked_state(true);
        let instance = Instance {
            slot: self.slot.clone(),
            status: self.status.clone(),
            encoder: description::encoder_within(&element),
            element,
            is_opened: false,
            caps: None,
            downstream: None,
            threads: recipe.threads(),
        };
        if let Some(hints) = hints {
            hints.apply(&instance.encoder, recipe);
        }
        self.slot.announce(&instance.encoder);
        Ok(instance)
    }

    /// Puts an encoder into the slot, at READY.
    fn enter(&self, instance: &mut Instance) -> Result<(), EncoderError> {
        let added = self.slot.add(&instance.element);
        added.map_err(|_| instance.cannot_start())?;
        let opened = instance.open_to(gst::State::Ready);
        instance.is_opened = !matches!(opened, Err(EncoderError::Stopped));
        opened
    }

    /// Does in a thread what an encoder may hang in, and places the encoder that comes of it. Waits for `stall-timeout` at most, or as
    /// long as a shutdown does once `stops` says so; then the session is abandoned. Before that, time in which another one has the turn
    /// doesn't count. No lock is held meanwhile, and nobody else places an encoder.
    fn within_timeout(
        self: &Arc<Self>,
        what: &'static str,
        stops: &dyn Fn() -> bool,
        act: impl FnOnce(&Self) -> Result<Option<Instance>, EncoderError> + Send + 'static,
    ) -> Result<(), EncoderError> {
        const SLICE: Duration = Duration::from_millis(100);
        let time = self.status.patience().unwrap_or(Duration::MAX);
        let (done, result) = std::sync::mpsc::channel();
        let this = self.clone();
        let thread = std::thread::Builder::new().name("vtparallelenc-open".to_string());
        let spawned = thread.spawn(move || {
            // What comes too late is dropped here.
            if let Err(SendError(Err(panic))) = done.send(panics::contained(what, || act(&this))) {
                panics::tell(this.slot.imp(), what, &panic);
            }
            if this.status.is_abandoned() {
                this.dispose_abandoned();
            }
        });
        let thread = spawned.map_err(|error| EncoderError::NoThread(error.to_string()))?;
        // Counted while this thread runs: when the process is stopped, so is the encoder.
        let (mut waited, mut stopping) = (Duration::ZERO, Duration::ZERO);
        let stop_time = time.min(SHUTDOWN_TIMEOUT);
        let slice = SLICE.min(time);
        loop {
            match result.recv_timeout(slice) {
                Ok(Ok(placed)) => {
                    // It does no more than to let go of what is ours.
                    let _ = thread.join();
                    *self.placed.lock() = placed?;
                    return Ok(());
                }
                // As if there were no other thread.
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Err(RecvTimeoutError::Timeout) if waited < time && stopping < stop_time => {
                    // (Who waits for its turn does so for a bounded time.)
                    if !self.status.awaits_turn() {
                        waited += slice;
                    }
                    if stops() {
                        stopping += slice;
                    }
                }
                Err(_) => {
                    self.abandon();
                    if result.try_recv().is_ok() {
                        // At the last moment. It didn't see that nobody waits.
                        self.dispose_abandoned();
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
    pub(crate) fn dispose_abandoned(&self) {
        let dispose = || {
            let _ = self.src.stop_task();
            let _ = self.slot.set_state(gst::State::Null);
        };
        // Half done is not enough: what isn't at NULL can't be freed.
        panics::caught(self.slot.imp(), "disposing of a session", dispose, dispose);
    }

    /// Places an encoder ahead of its use: it answers queries until then.
    pub(crate) fn place(
        self: &Arc<Self>,
        recipe: &Recipe,
        stops: &dyn Fn() -> bool,
    ) -> Result<(), EncoderError> {
        self.clear(stops)?;
        let recipe = recipe.clone();
        self.within_timeout(OPENING, stops, move |this| {
            let mut instance = this.make(&recipe, None)?;
            this.enter(&mut instance)?;
            this.connect(&instance)?;
            Ok(Some(instance))
        })
    }

    /// The encoder that was placed, where it still is.
    pub(crate) fn placed_encoder(&self) -> Option<gst::Element> {
        let placed = self.placed.lock();
        placed.as_ref().map(|instance| instance.encoder.clone())
    }

    fn take_placed(&self) -> Option<Instance> {
        self.placed.lock().take()
    }

    fn connect(&self, instance: &Instance) -> Result<(), EncoderError> {
        self.slot
            .connect(&instance.element)
            .ok_or_else(|| instance.cannot_start())
    }

    /// What the placed encoder, with what follows it, can make.
    pub(crate) fn makes(&self) -> gst::Caps {
        description::made_by(self.slot.upcast_ref())
    }

    /// Takes the placed encoder out, and closes it.
    pub(crate) fn clear(self: &Arc<Self>, stops: &dyn Fn() -> bool) -> Result<(), EncoderError> {
        let Some(placed) = self.take_placed() else {
            return Ok(());
        };
        self.within_timeout("closing the first encoder", stops, move |_| {
            drop(placed);
            Ok(None)
        })
    }

    /// As above, in the session's task, which is watched.
    pub(crate) fn clear_in_task(&self) {
        drop(self.take_placed());
    }

    /// Primes the placed encoder, so that it refuses what it can't encode before the first frame.
    pub(crate) fn prime_placed(
        self: &Arc<Self>,
        caps: &gst::Caps,
        downstream: gst::Caps,
        stops: &dyn Fn() -> bool,
    ) -> Result<(), EncoderError> {
        let Some(mut instance) = self.take_placed() else {
            return Ok(());
        };
        let caps = caps.clone();
        self.within_timeout(OPENING, stops, move |this| {
            this.prime(&mut instance, &caps)?;
            instance.downstream = Some(downstream);
            Ok(Some(instance))
        })
    }

    /// Starts the placed encoder, the only one of its stream. It goes with its bin from now on, as an encoder without us
    /// would.
    pub(crate) fn start_placed(
        self: &Arc<Self>,
        stops: &dyn Fn() -> bool,
    ) -> Result<(), EncoderError> {
        let Some(instance) = self.take_placed() else {
            return Ok(());
        };
        self.within_timeout(OPENING, stops, move |this| {
            instance.open_to(gst::State::Paused)?;
            instance.follow_bin()?;
            instance.element.set_locked_state(false);
            this.slot.moves_encoder();
            // The bin may have changed its state meanwhile.
            instance.follow_bin()?;
            Ok(Some(instance))
        })
    }

    /// Starts the encoder and tells it what comes.
    fn prime(&self, instance: &mut Instance, caps: &gst::Caps) -> Result<(), EncoderError> {
        instance.open_in_turn(|| self.open(instance, caps))?;
        instance.caps = Some(caps.clone());
        Ok(())
    }

    fn open(&self, instance: &Instance, caps: &gst::Caps) -> Result<(), EncoderError> {
        // The pads still have the events of the last encoder, EOS among them. Sent while no encoder is linked, the new
        // ones replace them, so that this encoder never sees an old one.
        self.slot.disconnect();
        // (From GStreamer 1.25.1 on, the tags of another stream only go if its name is another.)
        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        let id = format!("vtparallelenc/{}/{number}", self.id);
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_start(gst::ClockTime::ZERO);
        let segment = || gst::event::Segment::new(&segment);
        self.src.push_event(gst::event::StreamStart::new(&id));
        self.src.push_event(gst::event::Caps::new(caps));
        self.src.push_event(segment());

        self.connect(instance)?;
        let started = instance.element.set_state(gst::State::Paused);
        started.map_err(|_| instance.cannot_start())?;
        // With it go those before it that this encoder hasn't seen.
        self.src.push_event(segment());
        // What a sticky event's receiver thinks of it is only visible in what it keeps.
        let sink = instance.element.static_pad("sink");
        let kept = sink.and_then(|sink| sink.current_caps());
        if kept.as_ref() != Some(caps) {
            return Err(instance.refuses(caps));
        }
        Ok(())
    }
}
