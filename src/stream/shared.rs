// SPDX-License-Identifier: MPL-2.0

//! What the parts of a stream share: the engine behind the one lock, its condition variables, and leaves.

use super::decision::{Decision, Sequential};
use super::input::InputState;
use super::notices::Post;
use super::output::intake::Intake;
use super::output::writer::Writer;
use super::ticker::Ticker;
use super::trace::Trace;
use super::video::Video;
use super::{input, output};
use crate::cache::Files;
use crate::clock;
use crate::encoder::description::Recipe;
use crate::encoder::model::{Models, PropertySet};
use crate::encoder::properties::set_from_text;
use crate::host::Host;
use crate::job::Job;
use crate::logic::engine::{Engine, Settings};
use crate::logic::given::{Part, SecondPass};
use crate::logic::ids::{ChunkId, SessionId};
use crate::logic::split::Ample;
use crate::session::{Session, SlotOwner};
use crate::shares::{Cores, Memory};
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// So long downstream may take to accept the first packets before finished chunks stop waiting for it.
const EARLY_START_TIMEOUT: Duration = Duration::from_secs(1);

/// How the stream is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Mode {
    /// No caps yet.
    #[default]
    Undecided,
    /// Everything goes straight through session 0.
    Sequential(Sequential),
    Parallel,
}

/// A session with its pads in the output.
#[derive(Clone)]
pub(super) struct Branch {
    pub(super) session: Arc<Session>,
    /// The output's.
    pub(super) sink: gst::Pad,
    /// What comes on it; a leaf.
    pub(super) intake: Arc<Mutex<Intake>>,
}

/// What upstream is told of how to allocate frames: as the first encoder says it, but for its pool and allocator.
#[derive(Debug, Clone, Default)]
pub(super) struct Proposal {
    pub(super) takes_video_meta: bool,
    pub(super) params: Vec<gst::AllocationParams>,
}

/// How frames are encoded: fixed once a stream has begun, but for what says otherwise.
#[derive(Default)]
pub(super) struct Encoding {
    pub(super) job: Job,
    /// For raw frames, from READY on.
    pub(super) memory: Memory,
    /// For sessions, from READY on.
    pub(super) cores: Cores,
    /// Threads of each session.
    pub(super) threads: u32,
    /// What more memory would buy.
    pub(super) ample: Option<Ample>,
    /// Frames that the stream has, as far as that is known.
    pub(super) frames_to_come: Option<u64>,
    /// Nothing may wait for memory.
    pub(super) is_live: bool,
    pub(super) mode: Mode,
    /// It was started, so it can't be started again.
    pub(super) started: bool,
    /// How the encoders are made: as set, or as chosen.
    pub(super) recipe: Option<Recipe>,
    /// The revision of the properties that the first encoder was placed with.
    pub(super) placed_with: u64,
    /// Made with the recipe.
    pub(super) decision: Option<Decision>,
    /// What the encoder accepts, asked before the first frame.
    pub(super) sink_caps: Option<gst::Caps>,
    pub(super) proposal: Proposal,
    /// What downstream accepts, as encoders see it that have no chunk yet.
    pub(super) downstream: Option<gst::Caps>,
    /// Where chunks are kept. Taken away when it hangs.
    pub(super) cache: Option<Arc<Files>>,
    /// The latency that was last announced.
    pub(super) latency: Option<gst::ClockTime>,
}

impl Encoding {
    /// As the user knows it.
    pub(super) fn encoder_name(&self) -> String {
        let recipe = self.recipe.as_ref();
        recipe.map_or_else(String::new, |recipe| recipe.description.clone())
    }

    /// Sessions that were decided on, whatever became of them: what is planned depends on that alone.
    pub(super) fn sessions(&self) -> u64 {
        let decision = self.decision.as_ref();
        decision.map_or(1, |decision| decision.sessions.into())
    }

    pub(super) fn settings(&self) -> Settings {
        use crate::encoder::profile::ForcedKey;
        let decision = self.decision.as_ref();
        let key_period = self.job.key_frame_interval;
        Settings {
            max_attempts: self.job.max_attempts,
            forces_keys: decision.is_none_or(|it| it.profile.forced_key != ForcedKey::Ignored),
            vbv: decision.and_then(|it| it.vbv),
            key_period: key_period.map(|it| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX)),
            drains_anyway: decision.is_some_and(|it| it.profile.drains_anyway),
            given: self.job.given.clone(),
        }
    }
}

pub(crate) struct Shared {
    pub(super) host: Arc<dyn Host>,
    pub(crate) models: Models,
    /// The input's sink pad.
    pub(crate) sink: gst::Pad,
    /// The output's src pad.
    pub(crate) src: gst::Pad,
    engine: Mutex<Engine<Video>>,
    /// For who waits for room in the budget, or for no frame to be held.
    pub(super) room: Condvar,
    /// For who waits until no session is at work.
    pub(super) idle: Condvar,
    /// For the output's task.
    pub(super) output: Condvar,
    /// A leaf, as all below.
    pub(super) encoding: Mutex<Encoding>,
    /// By their sessions' numbers, those that were abandoned too.
    pub(super) branches: RwLock<Vec<Branch>>,
    pub(super) input: Mutex<InputState>,
    pub(super) writer: Mutex<Writer>,
    /// Joins the flows of the output's sink pads into the one that upstream gets.
    pub(super) flows: Mutex<gst_base::UniqueFlowCombiner>,
    /// What the stream ends with, and whose error it is, when all that is good has left.
    pub(super) last_error: Mutex<Option<(Option<SessionId>, gst::FlowError, Post)>>,
    pub(super) notices: Mutex<super::notices::Said>,
    pub(super) watch: Mutex<Option<Ticker>>,
    /// A timeline is written.
    pub(super) traces: AtomicBool,
    /// Before the engine's lock.
    pub(super) trace: Mutex<Option<Trace>>,
    /// Tells of progress.
    pub(super) progress_ticker: Mutex<Option<Ticker>>,
    /// Session 0 goes straight through; set before its first packet.
    pub(super) passes: AtomicBool,
    /// The first encoder is being opened, by upstream's thread or the application's.
    pub(super) opens_first: AtomicBool,
    /// Downstream said that it may accept something else now, and wasn't asked since.
    pub(super) reconfigures: AtomicBool,
    /// It said so since the start.
    pub(super) reconfigured: AtomicBool,
}

/// The engine's lock. When it is let go, whoever a call has given something to do is woken, and what was freed is dropped.
pub(super) struct Locked<'a> {
    shared: &'a Shared,
    engine: MutexGuard<'a, Engine<Video>>,
}

impl Deref for Locked<'_> {
    type Target = Engine<Video>;

    fn deref(&self) -> &Self::Target {
        &self.engine
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.engine
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.carry_out();
    }
}

impl Locked<'_> {
    fn wake(&mut self) {
        let Some(wakes) = self.engine.take_wakes() else {
            return;
        };
        let shared = self.shared;
        for (is_woken, condvar) in [
            (wakes.room, &shared.room),
            (wakes.idle, &shared.idle),
            (wakes.output, &shared.output),
        ] {
            if is_woken {
                condvar.notify_all();
            }
        }
        if wakes.sessions.is_empty() {
            return;
        }
        let branches = shared.branches.read();
        for branch in wakes.sessions.iter().filter_map(|id| branches.get(id.0)) {
            branch.session.wake.notify_all();
        }
    }

    /// `true`: the lock was let go meanwhile, so that all may be otherwise.
    fn carry_out(&mut self) -> bool {
        self.wake();
        let Some(freed) = self.engine.take_freed() else {
            return false;
        };
        MutexGuard::unlocked(&mut self.engine, || drop(freed));
        self.engine.dropped();
        self.wake();
        true
    }

    /// Waits to be woken. While downstream takes the first packets, finished chunks keep their frames: if that takes long, downstream
    /// may be waiting for what is behind these frames, and they go.
    pub(super) fn wait(&mut self, condvar: &Condvar) {
        if self.carry_out() {
            return;
        }
        if !self.engine.is_starting_early() {
            condvar.wait(&mut self.engine);
            return;
        }
        let waited = condvar.wait_for(&mut self.engine, EARLY_START_TIMEOUT);
        if waited.timed_out() {
            self.engine.end_early_start();
        }
    }

    /// Waits to be woken, or until then.
    pub(super) fn wait_until(&mut self, condvar: &Condvar, until: Option<u64>) {
        if self.carry_out() {
            return;
        }
        match until {
            Some(until) => {
                let rest = until.saturating_sub(clock::now());
                clock::wait(condvar, &mut self.engine, rest);
            }
            None => condvar.wait(&mut self.engine),
        }
    }
}

impl Shared {
    pub(crate) fn new(host: Arc<dyn Host>) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Self>| Self {
            models: Models::new(host.clone(), encoder_property_set(weak.clone())),
            host,
            sink: input::sink_pad(weak),
            src: output::src_pad(weak),
            engine: Mutex::new(Engine::new(Settings::default())),
            room: Condvar::new(),
            idle: Condvar::new(),
            output: Condvar::new(),
            encoding: Mutex::default(),
            branches: RwLock::default(),
            input: Mutex::default(),
            writer: Mutex::default(),
            flows: Mutex::new(gst_base::UniqueFlowCombiner::new()),
            last_error: Mutex::default(),
            notices: Mutex::default(),
            watch: Mutex::default(),
            traces: false.into(),
            trace: Mutex::default(),
            progress_ticker: Mutex::default(),
            passes: false.into(),
            opens_first: false.into(),
            reconfigures: false.into(),
            reconfigured: false.into(),
        })
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        Locked {
            shared: self,
            engine: self.engine.lock(),
        }
    }

    /// Another engine, for another job. Attempts of the old one stay over.
    pub(super) fn renew(&self, settings: Settings) {
        let old = {
            let mut engine = self.engine.lock();
            let new = Engine::after(&engine, settings);
            std::mem::replace(&mut *engine, new)
        };
        // What it holds is dropped without the lock.
        drop(old);
    }

    pub(super) fn mode(&self) -> Mode {
        self.encoding.lock().mode
    }

    pub(super) fn stops(&self) -> bool {
        self.lock().is_stopped()
    }

    /// All chunks were encoded before, and their frames aren't here.
    pub(super) fn is_joining(&self) -> bool {
        let encoding = self.encoding.lock();
        let given = encoding.job.given.as_ref();
        given.is_some_and(|given| given.part == Part::Join)
    }

    /// What the encoder of a chunk follows that makes the second of two passes.
    pub(super) fn second_pass(&self, chunk: ChunkId) -> Option<SecondPass> {
        let encoding = self.encoding.lock();
        encoding.job.given.as_ref()?.pass(chunk).cloned()
    }

    pub(super) fn passes(&self) -> bool {
        self.passes.load(Ordering::SeqCst)
    }

    pub(super) fn branch(&self, id: SessionId) -> Option<Branch> {
        self.branches.read().get(id.0).cloned()
    }

    /// Where everything goes while the stream is sequential.
    pub(super) fn straight(&self) -> Option<gst::Pad> {
        Some(self.session(SessionId(0))?.src.clone())
    }

    pub(super) fn session(&self, id: SessionId) -> Option<Arc<Session>> {
        Some(self.branches.read().get(id.0)?.session.clone())
    }

    /// Those that weren't abandoned. (Nobody may wait for one that was.)
    pub(super) fn branches(&self) -> Vec<Branch> {
        let all = self.branches.read().clone();
        let engine = self.lock();
        let there = all.into_iter();
        there
            .filter(|branch| !engine.is_abandoned(branch.session.id))
            .collect()
    }

    /// The session waits until an encoder of another one is open or closed.
    pub(super) fn awaits_turn(&self, id: SessionId) -> bool {
        let branches = self.branches.read();
        branches
            .get(id.0)
            .is_some_and(|it| it.session.status.awaits_turn())
    }
}

/// Called when the application has set a property of the encoder: chunks get it with their next encoder, a stream without chunks at
/// once.
fn encoder_property_set(shared: Weak<Shared>) -> PropertySet {
    Arc::new(move |property, value| {
        if let Some(shared) = shared.upgrade()
            && let Mode::Sequential(_) = shared.mode()
            && let Some(first) = shared.session(SessionId(0))
            && let Some(encoder) = first.placed_encoder()
        {
            let _ = set_from_text(&encoder, property, value);
        }
    })
}

impl SlotOwner for Shared {
    fn is_chunked(&self) -> bool {
        let encoding = self.encoding.lock();
        match encoding.mode {
            Mode::Undecided => {
                let decision = encoding.decision.as_ref();
                decision.is_none_or(|it| it.sequential.is_none())
            }
            Mode::Sequential(_) => false,
            Mode::Parallel => true,
        }
    }

    /// Remembered for the session's task, which acts on it.
    fn error(&self, id: SessionId, message: &gst::Message) {
        if let Some(session) = self.session(id) {
            session.posted.lock().get_or_insert_with(|| message.clone());
        }
        self.lock().encoder_failed(id);
    }

    fn skipped(&self, id: SessionId, private: gst::ClockTime) {
        let Some(branch) = self.branch(id) else {
            return;
        };
        self.skip(&branch.intake, private);
    }
}
