// SPDX-License-Identifier: MPL-2.0

//! Sessions whose encoder hangs are left to themselves, with their threads, and others take their places.
//!
//! One thread watches while the element runs. It is the only one that gives sessions up, also for whoever waits for them to come to
//! rest (a flush, the shutdown). What it does itself takes no lock that an encoder has: it parts pads and bins, and it posts messages. A
//! handler of these runs in its thread, and may stop the element there: then it watches on while it waits for the others.

use super::imp::{CAT, Distributor};
use super::state::{Slot, Stage, State, Waiting};
use crate::aggregator;
use crate::locking::{lock, wait, wait_timeout};
use crate::logic::frame::SessionId;
use crate::logic::watch::{Sign, Watch};
use crate::panics::{self, may_panic};
use crate::parallelenc::ParallelEnc;
use crate::session::encoder::EncoderError;
use crate::session::{Failure, Session};
use gst::prelude::*;
use gst::subclass::prelude::*;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// So long the shutdown waits for encoders at most. Most of what one may still do (its look-ahead) is done by then, and people
/// press Ctrl-C again after that.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// So often the watch looks at least.
const LONGEST_TICK: Duration = Duration::from_secs(1);

/// A timeout is so many ticks at least.
const LEAST_TICKS: u32 = 8;

/// The thread that watches.
pub(super) struct Watcher {
    ends: Arc<(Mutex<bool>, Condvar)>,
    thread: JoinHandle<()>,
}

/// What it goes by.
#[derive(Clone, Copy)]
struct Patience {
    tick: Duration,
    /// Ticks without a sign of life, unless that may take for ever.
    stall: Option<u32>,
    /// Ticks after a stop.
    stop: u32,
    /// As they were set.
    stall_timeout: Duration,
    stop_timeout: Duration,
}

impl Patience {
    fn new(stall_timeout: Option<Duration>) -> Self {
        let stop_timeout = stall_timeout.unwrap_or(Duration::MAX).min(SHUTDOWN_TIMEOUT);
        let tick = (stop_timeout / LEAST_TICKS).clamp(Duration::from_millis(1), LONGEST_TICK);
        let ticks = |time: Duration| {
            let ticks = time.as_nanos().div_ceil(tick.as_nanos());
            u32::try_from(ticks).unwrap_or(u32::MAX)
        };
        Self {
            tick,
            stall: stall_timeout.map(ticks),
            stop: ticks(stop_timeout),
            stall_timeout: stall_timeout.unwrap_or(Duration::MAX),
            stop_timeout,
        }
    }
}

impl Watcher {
    /// This very thread watches.
    fn is_here(&self) -> bool {
        self.thread.thread().id() == std::thread::current().id()
    }
}

impl Distributor {
    /// Watches from now on.
    pub(super) fn start_watch(&self) {
        let patience = Patience::new(self.stall_timeout());
        let ends = Arc::new((Mutex::new(false), Condvar::new()));
        let weak = self.downgrade();
        let thread = std::thread::Builder::new().name("vtparallelenc-watch".to_string());
        let spawned = thread.spawn({
            let ends = ends.clone();
            move || {
                let mut watch = Watch::default();
                let mut told = false;
                let (ended, woken) = &*ends;
                loop {
                    let mut guard = lock(ended);
                    if !*guard {
                        guard = wait_timeout(woken, guard, patience.tick);
                    }
                    if *guard {
                        return;
                    }
                    drop(guard);
                    let Some(this) = weak.upgrade() else { return };
                    // It goes on, as somebody has to, but what it panics at would come each time.
                    let ticked = panics::contained(|| this.tick(&mut watch, patience));
                    if let Err(panic) = ticked
                        && !std::mem::replace(&mut told, true)
                    {
                        panics::tell(&*this, "the watch", &panic);
                    }
                }
            }
        });
        match spawned {
            Ok(thread) => *lock(&self.watcher) = Some(Watcher { ends, thread }),
            Err(error) => gst::error!(CAT, imp = self, "Nobody watches the sessions: {error}"),
        }
    }

    /// No session is at work any more.
    pub(super) fn end_watch(&self) {
        let Some(watcher) = lock(&self.watcher).take() else {
            return;
        };
        *lock(&watcher.ends.0) = true;
        watcher.ends.1.notify_all();
        // The thread that watches ends when it comes back to its next tick.
        if !watcher.is_here() {
            let _ = watcher.thread.join();
        }
    }

    fn tick(&self, watch: &mut Watch, patience: Patience) {
        may_panic!("watch");
        let (signs, at_work, stops) = {
            let state = lock(&self.state);
            let Some(state) = state.as_ref() else { return };
            let aggregator = self.aggregator();
            let signs: Vec<_> = state
                .slots
                .iter()
                .map(|slot| (slot.session.id, state.sign(slot, aggregator)))
                .collect();
            // Whatever they wait for: who waits for something of ours has been woken.
            let at_work = state.slots.iter().filter(|slot| slot.is_at_work());
            let at_work: Vec<_> = at_work.map(|slot| slot.session.clone()).collect();
            (signs, at_work, state.stopped)
        };
        self.replace_left();
        let silent = watch.tick(signs, patience.stall.unwrap_or(u32::MAX));
        if !stops {
            watch.go_on();
        } else if watch.stop_tick(patience.stop) {
            for session in at_work {
                self.set_aside(&session, patience.stop_timeout);
            }
            return;
        }
        for session in at_work.iter().filter(|it| silent.contains(&it.id)) {
            self.set_aside(session, patience.stall_timeout);
        }
    }

    /// The session's encoder hangs: it is left to itself, and its chunk is encoded again. Another session takes its place at the
    /// next tick.
    fn set_aside(&self, session: &Arc<Session>, time: Duration) {
        let id = session.id;
        let (failure, stage, aborts) = {
            let mut guard = lock(&self.state);
            let Some(state) = guard.as_mut() else { return };
            let encoder = state.encoder_name();
            let aborts = state.is_aborting();
            // Somebody may have stopped the element, and started it again, since this was asked for.
            let slot = state.slots.get_mut(id.0);
            let slot = slot.filter(|slot| Arc::ptr_eq(&slot.session, session));
            let Some(slot) = slot.filter(|slot| slot.is_at_work()) else {
                return;
            };
            let stage = slot.progress.stage;
            let doing = slot.doing();
            slot.gone = true;
            slot.works |= self.aggregator().has_made_packets(id);
            // Under the lock: whoever comes back late finds it so, whatever stands here by then.
            slot.session.leave();
            let failure = Failure::Stalled {
                encoder,
                doing,
                time,
            };
            if let Stage::OnDisk = stage {
                // The next one would hang there as well.
                state.cache = None;
            }
            (failure, stage, aborts)
        };
        gst::warning!(
            CAT,
            imp = self,
            "Session {id} is left behind with its thread and its encoder: {failure}"
        );
        if let Stage::OnDisk = stage {
            self.cache_failed("it doesn't answer");
        }
        // One doesn't keep the next from being done: somebody may be waiting for the session to come to rest.
        let or_not = |act: &dyn Fn()| panics::caught(self, "leaving a session", || (), act);
        or_not(&|| {
            may_panic!("leaving");
            // What it still makes is nobody's.
            self.aggregator().leave(id);
            match stage {
                _ if aborts => (),
                Stage::Whole(chunk, delivered) => {
                    let _ = self.take_delivered(id, chunk, delivered);
                }
                _ => self.attempt_failed(id, &failure),
            }
        });
        self.comes_to_rest(session);
    }

    /// Other sessions take the places of those that were left to themselves. Not while the bin changes its state: it goes
    /// through its children in the order in which they are linked.
    fn replace_left(&self) {
        let left = self.left();
        if left.is_empty() {
            return;
        }
        let Some(_still) = self.bin().and_then(StateLock::try_take) else {
            return;
        };
        for session in left {
            if self.replace(session.id) {
                self.part(&session);
            }
        }
    }

    /// Takes those that were left to themselves out of the element, which changes its state just now.
    pub(super) fn part_left(&self) {
        for session in self.left() {
            self.part(&session);
        }
    }

    /// Sessions that were left to themselves and are still part of the element.
    fn left(&self) -> Vec<Arc<Session>> {
        let state = lock(&self.state);
        let slots = state.iter().flat_map(|state| &state.slots);
        let left = slots.filter(|slot| slot.gone && !slot.parted);
        left.map(|slot| slot.session.clone()).collect()
    }

    /// The first encoder hangs before there is a chunk: another session takes the place of its own.
    pub(super) fn leave_placed(&self, session: &Session, error: &EncoderError) {
        let id = session.id;
        if let Some(state) = &mut *lock(&self.state) {
            state.slots[id.0].gone = true;
            session.wake.notify_all();
        }
        gst::warning!(
            CAT,
            imp = self,
            "Session {id} is left behind with its thread and its encoder: {error}"
        );
        self.warn_of_first(session, error);
    }

    /// Takes the session's pads and slot out of the element, so that nobody who changes the element's state waits for them.
    fn part(&self, session: &Session) {
        if let Some(bin) = self.bin() {
            let _ = bin.remove(&session.slot);
        }
        if let Some(state) = &mut *lock(&self.state) {
            state.slots[session.id.0].parted = true;
            state.combiner.remove_pad(&session.src);
        }
        let _ = self.obj().remove_pad(&session.src);
        self.aggregator().remove_session(session.id);
    }

    /// Another session takes the place of one that was left to itself.
    /// `false`: not now.
    fn replace(&self, id: SessionId) -> bool {
        let Some(slots) = lock(&self.state).as_ref().map(|state| state.slots.len()) else {
            return false;
        };
        let session = self.new_session(SessionId(slots));
        {
            let mut guard = lock(&self.state);
            // Who flushes makes a new roster for those that there are.
            let state = guard.as_mut();
            let state = state.filter(|state| !state.stopped && !state.flushing);
            let Some(state) = state.filter(|state| state.slots.len() == slots) else {
                return false;
            };
            let is_closed = state.slots[id.0].closed;
            if let Some(stream) = &mut state.stream {
                let _ = stream.roster.replace(id, is_closed);
            }
            state.add(session.clone());
            state.slots[slots].closed = is_closed;
        }
        self.put_in(&session);
        true
    }

    /// The session's task has no attempt any more.
    pub(super) fn comes_to_rest(&self, session: &Arc<Session>) {
        if let Some(state) = &mut *lock(&self.state)
            && let Some(slot) = state.slots.get_mut(session.id.0)
            && Arc::ptr_eq(&slot.session, session)
        {
            slot.at_work = false;
        }
        self.calm.notify_all();
    }

    /// Waits until no session is at work, after all were told to stop. Woken by each that comes to rest, or is left to itself.
    pub(super) fn settle(&self) {
        if lock(&self.watcher).as_ref().is_some_and(Watcher::is_here) {
            self.settle_watching();
            return;
        }
        let mut guard = lock(&self.state);
        while guard
            .as_ref()
            .is_some_and(|state| state.opens_first || state.slots.iter().any(|slot| slot.at_work))
        {
            guard = wait(&self.calm, guard);
        }
    }

    /// As above, in the thread that watches, in the middle of leaving a session. That one isn't waited for.
    fn settle_watching(&self) {
        let patience = Patience::new(self.stall_timeout());
        let mut watch = Watch::default();
        loop {
            let guard = lock(&self.state);
            let is_busy = guard
                .as_ref()
                .is_some_and(|state| state.opens_first || state.slots.iter().any(Slot::is_at_work));
            if !is_busy {
                return;
            }
            drop(wait_timeout(&self.calm, guard, patience.tick));
            self.tick(&mut watch, patience);
        }
    }
}

/// That an element doesn't change its state.
struct StateLock(ParallelEnc);

impl StateLock {
    /// `None`: it is just changing it. Nobody waits here: whoever changes it may be waiting for us.
    fn try_take(bin: ParallelEnc) -> Option<Self> {
        let element = bin.upcast_ref::<gst::Element>().as_ptr();
        // SAFETY: the element is valid, and its lock is there as long as it is.
        let taken = unsafe { glib::ffi::g_rec_mutex_trylock(&raw mut (*element).state_lock) };
        (taken != glib::ffi::GFALSE).then(|| Self(bin))
    }
}

impl Drop for StateLock {
    fn drop(&mut self) {
        let element = self.0.upcast_ref::<gst::Element>().as_ptr();
        // SAFETY: as above, and this thread has taken it.
        unsafe { glib::ffi::g_rec_mutex_unlock(&raw mut (*element).state_lock) }
    }
}

impl State {
    /// How far a session has come that is at work. `None`: it isn't, or it waits for somebody else.
    fn sign(&self, slot: &Slot, aggregator: &aggregator::imp::Aggregator) -> Option<Sign> {
        let id = slot.session.id;
        let waits = matches!(slot.waiting, Waiting::Chunk | Waiting::Frame)
            || slot.session.standing.awaits_turn()
            || aggregator.waits_for_room(id);
        if !slot.is_at_work() || waits {
            return None;
        }
        let progress = &slot.progress;
        Some(Sign {
            chunk: progress.chunk?,
            position: progress.position,
            packets: aggregator.packets_made(id),
            ended: progress.ended,
            verified: matches!(progress.stage, Stage::Whole(..)),
        })
    }
}

impl Slot {
    /// Its task has an attempt that isn't over, and somebody waits for that.
    fn is_at_work(&self) -> bool {
        self.at_work && !self.gone && !matches!(self.progress.stage, Stage::Returned)
    }

    /// What its encoder is doing.
    fn doing(&self) -> &'static str {
        let progress = &self.progress;
        match progress.stage {
            Stage::OnDisk => "the cache was used",
            Stage::Whole(..) => "closing",
            _ if self.waiting == Waiting::Eos || progress.drains => "draining",
            _ if progress.position == progress.first => "opening",
            _ => "encoding",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_what_was_asked_for() {
        for millis in [1, 8, 100, 1_000, 30_000, 3_600_000] {
            let time = Duration::from_millis(millis);
            let patience = Patience::new(Some(time));
            let stall = patience.stall.unwrap();
            assert!(patience.tick * stall >= time, "{millis}");
            assert!(patience.tick * stall <= time + LONGEST_TICK, "{millis}");
            assert!(patience.tick * patience.stop <= SHUTDOWN_TIMEOUT + LONGEST_TICK);
        }
        let never = Patience::new(None);
        assert_eq!(never.stall, None);
        assert!(never.tick * never.stop >= SHUTDOWN_TIMEOUT);
    }
}
