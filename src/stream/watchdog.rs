// SPDX-License-Identifier: MPL-2.0

//! Sessions whose encoder hangs are abandoned, with their threads, and others take their places.
//!
//! One thread watches while the element runs. It gives up sessions that have an attempt, also for whoever waits for them to come to
//! rest (a flush, the shutdown); a session that hangs with the first encoder is given up by whoever opens or closes it. What it does itself takes no lock that an encoder has: it takes pads and slots out of the element. It
//! also posts messages, whose handlers are the application's: as long as one doesn't return, nobody watches, unless it stops the element.

use super::CAT;
use super::shared::Shared;
use super::ticker::Ticker;
use super::trace::Phase;
use super::workers;
use crate::clock;
use crate::job::SHUTDOWN_TIMEOUT;
use crate::logic::engine::{Abandoned, Doing};
use crate::logic::ids::SessionId;
use crate::panics;
use crate::session::failure::Failure;
use gst::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What it is, for whoever reads of a panic.
const WATCH: &str = "the watch";

/// So often the watch looks at least.
const LONGEST_TICK: Duration = Duration::from_secs(1);

/// A timeout is so many ticks at least.
const LEAST_TICKS: u32 = 8;

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

impl Shared {
    fn patience(&self) -> Patience {
        Patience::new(self.encoding.lock().job.stall_timeout)
    }

    /// Watches from now on.
    pub(super) fn start_watch(self: &Arc<Self>) {
        let patience = self.patience();
        let weak = Arc::downgrade(self);
        let mut told = false;
        let watch = move || {
            let Some(shared) = weak.upgrade() else {
                return false;
            };
            // It goes on, as somebody has to, but what it panics at would come each time.
            let ticked = panics::contained(WATCH, || shared.tick(patience));
            if let Err(panic) = ticked
                && !std::mem::replace(&mut told, true)
            {
                panics::tell(&shared.host, WATCH, &panic);
            }
            true
        };
        match Ticker::start("vtparallelenc-watch", patience.tick, watch) {
            Ok(ticker) => *self.watch.lock() = Some(ticker),
            Err(error) => {
                gst::error!(CAT, obj = self.sink, "Nobody watches the sessions: {error}");
            }
        }
    }

    /// No session is at work any more.
    pub(super) fn end_watch(&self) {
        let watch = self.watch.lock().take();
        if let Some(watch) = watch {
            watch.end();
        }
    }

    /// Waits until no session is at work, after all were told to stop. Woken by each that rests, or is abandoned.
    ///
    /// An application may stop the element where it hears of what the watch tells: then the watch watches on while it waits, and doesn't
    /// wait for the session that it is just abandoning.
    pub(super) fn wait_until_idle(self: &Arc<Self>) {
        let is_watch = self.watch.lock().as_ref().is_some_and(Ticker::is_here);
        let patience = self.patience();
        let tick = u64::try_from(patience.tick.as_nanos()).unwrap_or(u64::MAX);
        loop {
            {
                let mut engine = self.lock();
                let is_idle = match is_watch {
                    true => engine.has_only_abandoned_at_work(),
                    false => engine.is_idle(),
                };
                if is_idle && !self.opens_first.load(Ordering::SeqCst) {
                    return;
                }
                let next = is_watch.then(|| clock::now().saturating_add(tick));
                engine.wait_until(&self.idle, next);
            }
            if is_watch {
                self.tick(patience);
            }
        }
    }

    fn tick(self: &Arc<Self>, patience: Patience) {
        self.replace_abandoned();
        let (hung, stops) = {
            let mut engine = self.lock();
            let hung = engine.tick(patience.stall, patience.stop, |id| self.awaits_turn(id));
            (hung, engine.is_stopped())
        };
        let time = match stops {
            true => patience.stop_timeout,
            false => patience.stall_timeout,
        };
        for id in hung {
            self.abandon(id, time);
        }
    }

    /// The session's encoder hangs: it is left with its thread, and its chunk is encoded again. Another session takes its place at the
    /// next tick.
    fn abandon(self: &Arc<Self>, id: SessionId, time: Duration) {
        let Some(session) = self.session(id) else {
            return;
        };
        let abandoned = {
            let mut engine = self.lock();
            let Some(abandoned) = engine.abandon(id) else {
                return;
            };
            // Under the lock, so that whoever comes back late finds it so.
            session.abandon();
            abandoned
        };
        let hangs_in_cache = abandoned.doing == Doing::CacheIo;
        if hangs_in_cache {
            // The next one would hang there as well.
            self.encoding.lock().cache = None;
        }
        let failure = Failure::Stalled {
            encoder: self.encoding.lock().encoder_name(),
            doing: abandoned.doing,
            time,
        };
        gst::warning!(CAT, obj = session.slot, "It is left behind: {failure}");
        if hangs_in_cache {
            self.cache_failed("it doesn't answer");
        }
        // One doesn't keep the next from being done: somebody may be waiting for the session to come to rest.
        panics::reporting(&self.host, "abandoning a session", || {
            self.tell_of_session(id, "given-up", Some(&failure.to_string()));
            self.traced(|trace, now| trace.phase(id.0, Phase::Hung, None, now));
            self.end_abandoned(&abandoned, failure);
        });
        self.lock().rest(abandoned.attempt);
    }

    fn end_abandoned(self: &Arc<Self>, abandoned: &Abandoned, failure: Failure) {
        let attempt = abandoned.attempt;
        if abandoned.is_over {
            return;
        }
        if !abandoned.is_verified {
            workers::end_attempt(self, attempt, failure);
        } else if self.delivered(attempt).is_err() {
            workers::end_attempt(self, attempt, Failure::Replanned);
        }
    }

    /// Other sessions take the places of those that were abandoned. Not while the bin changes its state: it goes
    /// through its children in the order in which they are linked.
    fn replace_abandoned(self: &Arc<Self>) {
        let abandoned = self.lock().abandoned();
        if abandoned.is_empty() {
            return;
        }
        let Some(_still) = self.host.bin().and_then(StateLock::try_take) else {
            return;
        };
        for id in abandoned {
            let next = self.lock().replace(id);
            if let Some(next) = next {
                workers::add_branch(self, next);
                self.unlink_session(id);
            }
        }
    }

    /// Takes those that were abandoned out of the element, which changes its state just now.
    pub(super) fn unlink_abandoned(&self) {
        let abandoned = self.lock().abandoned();
        for id in abandoned {
            self.unlink_session(id);
        }
    }

    fn unlink_session(&self, id: SessionId) {
        if let Some(branch) = self.branch(id) {
            workers::unlink(self, &branch);
        }
        self.lock().unlinked(id);
    }
}

/// That an element doesn't change its state.
struct StateLock(gst::Bin);

impl StateLock {
    /// `None`: it is just changing it. Nobody waits here: whoever changes it may be waiting for us.
    fn try_take(bin: gst::Bin) -> Option<Self> {
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
