// SPDX-License-Identifier: MPL-2.0

//! What the parts of a stream share: the engine behind the one lock, its condition variables, and leaves.

use super::decision::{Decision, Sequential};
use super::input::InputState;
use super::output::intake::Intake;
use super::output::writer::Writer;
use super::video::Video;
use super::{input, output};
use crate::cache::Files;
use crate::clock;
use crate::encoder::description::Recipe;
use crate::encoder::model::Models;
use crate::host::Host;
use crate::job::Job;
use crate::logic::engine::{Engine, Settings};
use crate::logic::ids::SessionId;
use crate::panics::{self, Part};
use crate::session::{Session, SlotOwner};
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// So long downstream may take to accept the first packets before finished chunks stop waiting for it.
const EARLY_START_TIMEOUT: Duration = Duration::from_secs(1);

/// How the stream is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// No caps yet.
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
pub(super) struct Encoding {
    pub(super) job: Job,
    /// Most bytes of raw frames that may be held, as set or by the machine's memory.
    pub(super) max_raw_bytes: u64,
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
    pub(super) fn new(job: Job, max_raw_bytes: u64) -> Self {
        Self {
            job,
            max_raw_bytes,
            mode: Mode::Undecided,
            started: false,
            recipe: None,
            placed_with: 0,
            decision: None,
            sink_caps: None,
            proposal: Proposal::default(),
            downstream: None,
            cache: None,
            latency: None,
        }
    }

    /// As the user knows it.
    pub(super) fn encoder_name(&self) -> String {
        let recipe = self.recipe.as_ref();
        recipe.map_or_else(String::new, |recipe| recipe.description.clone())
    }

    /// Sessions that were decided on, whatever became of them: what is planned depends on that alone.
    pub(super) fn sessions(&self) -> u64 {
        let decision = self.decision.as_ref();
        decision.map_or(1, |decision| decision.sessions as u64)
    }

    /// Encoders encode chunks, or will.
    fn is_chunked(&self) -> bool {
        match self.mode {
            Mode::Undecided => {
                let decision = self.decision.as_ref();
                decision.is_none_or(|it| it.sequential.is_none())
            }
            Mode::Sequential(_) => false,
            Mode::Parallel => true,
        }
    }

    pub(super) fn settings(&self) -> Settings {
        use crate::encoder::profile::ForcedKey;
        let decision = self.decision.as_ref();
        let key_period = self.job.key_frame_interval;
        Settings {
            max_raw_bytes: self.max_raw_bytes,
            max_attempts: self.job.max_attempts,
            forces_keys: decision.is_none_or(|it| it.profile.forced_key != ForcedKey::Ignored),
            key_period: key_period.map(|it| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX)),
        }
    }
}

pub(crate) struct Shared {
    pub(super) host: Arc<dyn Host>,
    pub(super) models: Arc<Models>,
    /// The input's sink pad.
    pub(super) sink: gst::Pad,
    /// The output's src pad.
    pub(super) src: gst::Pad,
    engine: Mutex<Engine<Video>>,
    /// For who waits for room in the budget, or for no frame to be held.
    pub(super) room: Condvar,
    /// For who waits until no session is at work.
    pub(super) idle: Condvar,
    /// For the output's task.
    pub(super) output: Condvar,
    /// A leaf, as all below.
    pub(super) encoding: Mutex<Encoding>,
    branches: RwLock<Vec<Branch>>,
    pub(super) input: Mutex<InputState>,
    pub(super) writer: Mutex<Writer>,
    /// Joins the flows of the output's sink pads into the one that upstream gets.
    pub(super) flows: Mutex<gst_base::UniqueFlowCombiner>,
    pub(super) notices: Mutex<super::notices::Said>,
    pub(super) watch: Mutex<Option<super::watchdog::Watch>>,
    /// Session 0 goes straight through; set before its first packet.
    passes: AtomicBool,
    /// The first encoder is being opened, by upstream's thread or the application's.
    opens_first: AtomicBool,
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
        let wakes = self.engine.take_wakes();
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
        for id in wakes.sessions {
            if let Some(branch) = shared.branches.read().get(id.0) {
                branch.session.wake.notify_all();
            }
        }
    }

    /// `true`: the lock was let go meanwhile, so that all may be otherwise.
    fn carry_out(&mut self) -> bool {
        self.wake();
        let freed = self.engine.take_freed();
        if freed.is_empty() {
            return false;
        }
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
    pub(crate) fn new(host: Arc<dyn Host>, models: Arc<Models>) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Self>| Self {
            host,
            models,
            sink: input::sink_pad(weak),
            src: output::src_pad(weak),
            engine: Mutex::new(Engine::new(Settings::default())),
            room: Condvar::new(),
            idle: Condvar::new(),
            output: Condvar::new(),
            encoding: Mutex::new(Encoding::new(Job::default(), 0)),
            branches: RwLock::default(),
            input: Mutex::default(),
            writer: Mutex::default(),
            flows: Mutex::new(gst_base::UniqueFlowCombiner::new()),
            notices: Mutex::default(),
            watch: Mutex::default(),
            passes: false.into(),
            opens_first: false.into(),
            reconfigures: false.into(),
            reconfigured: false.into(),
        })
    }

    /// Does `act` for a pad or a task, as long as there is something to do it on.
    pub(super) fn guarded<R>(
        weak: &Weak<Self>,
        what: &str,
        fallback: impl Fn() -> R,
        act: impl FnOnce(&Arc<Self>) -> R,
    ) -> R {
        match weak.upgrade() {
            Some(shared) => panics::caught(&*shared, what, &fallback, || act(&shared)),
            None => fallback(),
        }
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

    pub(super) fn passes(&self) -> bool {
        self.passes.load(Ordering::SeqCst)
    }

    pub(super) fn set_passes(&self, passes: bool) {
        self.passes.store(passes, Ordering::SeqCst);
    }

    pub(super) fn is_opening_first(&self) -> bool {
        self.opens_first.load(Ordering::SeqCst)
    }

    /// The first encoder is being opened, or isn't any more.
    pub(super) fn opens_first(&self, opens: bool) {
        self.opens_first.store(opens, Ordering::SeqCst);
        // Under the lock, so that who is about to wait has seen it.
        let _engine = self.engine.lock();
        self.idle.notify_all();
    }

    /// Waits until no session is at work, after all were told to stop. Woken by each that rests, or is abandoned.
    pub(super) fn wait_until_idle(self: &Arc<Self>) {
        if self.is_watch() {
            self.watch_until_idle();
            return;
        }
        let mut engine = self.lock();
        while self.is_opening_first() || !engine.is_idle() {
            engine.wait_until(&self.idle, None);
        }
    }

    pub(super) fn branch(&self, id: SessionId) -> Option<Branch> {
        self.branches.read().get(id.0).cloned()
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

    /// How many there are, with those that were abandoned.
    pub(super) fn count_branches(&self) -> usize {
        self.branches.read().len()
    }

    /// The session waits until an encoder of another one is open or closed.
    pub(super) fn awaits_turn(&self, id: SessionId) -> bool {
        let branches = self.branches.read();
        branches
            .get(id.0)
            .is_some_and(|it| it.session.status.awaits_turn())
    }

    pub(super) fn add_branch(&self, branch: Branch) {
        self.flows.lock().add_pad(&branch.sink);
        self.branches.write().push(branch);
    }

    /// Forgets all.
    pub(super) fn clear_branches(&self) {
        let old = std::mem::take(&mut *self.branches.write());
        drop(old);
    }
}

impl Part for Shared {
    fn host(&self) -> Option<Arc<dyn Host>> {
        Some(self.host.clone())
    }
}

impl SlotOwner for Shared {
    fn is_chunked(&self) -> bool {
        self.encoding.lock().is_chunked()
    }

    /// Remembered for the session's task, which acts on it.
    fn error(&self, id: SessionId, message: &gst::Message) -> bool {
        if let Some(session) = self.session(id) {
            session.posted.lock().get_or_insert_with(|| message.clone());
        }
        self.lock().encoder_failed(id);
        true
    }

    fn skipped(&self, id: SessionId, private: gst::ClockTime) {
        let Some(branch) = self.branch(id) else {
            return;
        };
        self.skip(&branch.intake, private);
    }
}
