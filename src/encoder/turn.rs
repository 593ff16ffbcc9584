// SPDX-License-Identifier: MPL-2.0

//! One encoder of a library opens or closes at a time, in the whole process.
//!
//! Encoder libraries keep tables and thread pools that all of their encoders share, and some set them up or take them down
//! without a lock of their own (SVT-AV1, SVT-HEVC, SVT-VP9, kvazaar). Opening takes milliseconds, so taking turns costs nothing.
//!
//! An encoder may hang in its turn. When its session is abandoned, the turn is the next one's. Nobody may watch that session,
//! as it may be another element's: so a turn also ends for whoever has waited for it as long as its own `stall-timeout`. Who
//! waits to open an encoder doesn't wait any more when its element is stopped; to close one it does, in a thread that nobody waits for
//! for long.
//!
//! Not in turn is what opens or closes where nothing may be held: the one encoder of a stream without chunks takes its caps, which go
//! on downstream, and stops with its bin; an encoder behind a queue in a chain opens in that queue's thread.

use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What is to be known of a session from outside.
#[derive(Debug, Default)]
pub(crate) struct SessionStatus {
    /// So long somebody else may have the turn that it waits for. `None`: for ever.
    patience: Option<Duration>,
    /// It waits until another one has opened or closed its encoder.
    awaits_turn: AtomicBool,
    /// Its encoder hangs, and nobody waits for it.
    is_abandoned: AtomicBool,
    /// Its element is stopped: it opens no encoder any more.
    is_stopped: AtomicBool,
}

impl SessionStatus {
    pub(crate) fn new(patience: Option<Duration>) -> Self {
        Self {
            patience,
            ..Self::default()
        }
    }

    pub(crate) fn patience(&self) -> Option<Duration> {
        self.patience
    }

    pub(crate) fn awaits_turn(&self) -> bool {
        self.awaits_turn.load(Ordering::SeqCst)
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::SeqCst)
    }

    /// Nobody waits for the session any more.
    pub(crate) fn abandon(&self) {
        self.tell(&self.is_abandoned);
    }

    /// The session opens no encoder any more.
    pub(crate) fn stop(&self) {
        self.tell(&self.is_stopped);
    }

    fn tell(&self, flag: &AtomicBool) {
        let _turns = TURNS.lock();
        flag.store(true, Ordering::SeqCst);
        FREED.notify_all();
    }

    fn opens_no_more(&self) -> bool {
        self.is_abandoned() || self.is_stopped.load(Ordering::SeqCst)
    }
}

/// Who has a turn.
#[derive(Debug)]
struct Taken {
    /// No other turn has it.
    number: u64,
    by: Arc<SessionStatus>,
}

#[derive(Debug)]
struct Turns {
    /// Turns that were taken so far.
    count: u64,
    /// Whose turn it is, for each GStreamer plugin: what shares a library is in the same one.
    taken: BTreeMap<String, Taken>,
}

static TURNS: Mutex<Turns> = Mutex::new(Turns {
    count: 0,
    taken: BTreeMap::new(),
});

/// Woken when a turn ends, and when somebody is abandoned or stopped.
static FREED: Condvar = Condvar::new();

/// A turn, until it is dropped.
struct Turn<'a> {
    plugin: &'a str,
    number: u64,
}

impl<'a> Turn<'a> {
    /// `None`: the caller has given up waiting.
    fn take(
        plugin: &'a str,
        whose: &Arc<SessionStatus>,
        gives_up: impl Fn() -> bool,
    ) -> Option<Self> {
        const SLICE: Duration = Duration::from_millis(100);
        let mut turns = TURNS.lock();
        whose.awaits_turn.store(true, Ordering::SeqCst);
        // The turn that is waited for, and for how long.
        let (mut before, mut waited) = (0, Duration::ZERO);
        let is_granted = loop {
            if gives_up() {
                break false;
            }
            let taken = turns.taken.get(plugin).filter(|it| !it.by.is_abandoned());
            let Some(taken) = taken else { break true };
            if before != taken.number {
                (before, waited) = (taken.number, Duration::ZERO);
            }
            match whose.patience.map(|it| it.saturating_sub(waited)) {
                None => FREED.wait(&mut turns),
                Some(Duration::ZERO) => break true,
                // Added up: while the process stands still, so does whoever has the turn.
                Some(rest) => {
                    let since = Instant::now();
                    FREED.wait_for(&mut turns, SLICE.min(rest));
                    waited += since.elapsed().min(SLICE);
                }
            }
        };
        whose.awaits_turn.store(false, Ordering::SeqCst);
        is_granted.then(|| {
            turns.count += 1;
            let number = turns.count;
            let by = whose.clone();
            let taken = Taken { number, by };
            turns.taken.insert(plugin.to_string(), taken);
            Self { plugin, number }
        })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = TURNS.lock();
        // Somebody else may have it already.
        let taken = turns.taken.get(self.plugin);
        if taken.is_some_and(|taken| taken.number == self.number) {
            turns.taken.remove(self.plugin);
            FREED.notify_all();
        }
    }
}

/// Opens an encoder of a plugin when it is its turn. `None`: the session is stopped or abandoned, so it doesn't open one.
///
/// Waits for another one to open or close, for `stall-timeout`, and for a stop.
pub(crate) fn open_in_turn<R>(
    plugin: &str,
    whose: &Arc<SessionStatus>,
    act: impl FnOnce() -> R,
) -> Option<R> {
    let _turn = Turn::take(plugin, whose, || whose.opens_no_more())?;
    Some(act())
}

/// Closes an encoder of a plugin when it is its turn. Waits for another one to open or close, and for `stall-timeout`.
pub(crate) fn close_in_turn<R>(
    plugin: &str,
    whose: &Arc<SessionStatus>,
    act: impl FnOnce() -> R,
) -> R {
    let _turn = Turn::take(plugin, whose, || false);
    act()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::thread::JoinHandle;

    fn status(patience: Option<Duration>) -> Arc<SessionStatus> {
        Arc::new(SessionStatus::new(patience))
    }

    /// A thread that has the turn until it is told to end it.
    fn hold(plugin: &'static str, whose: &Arc<SessionStatus>) -> (Sender<()>, JoinHandle<()>) {
        let (entered, has_entered) = channel();
        let (release, released) = channel::<()>();
        let whose = whose.clone();
        let thread = std::thread::spawn(move || {
            let held = open_in_turn(plugin, &whose, || {
                entered.send(()).unwrap();
                let _ = released.recv();
            });
            assert_eq!(held, Some(()));
        });
        has_entered.recv().unwrap();
        (release, thread)
    }

    /// A thread that does something in turn, and waits for that.
    fn await_turn<R: Send + 'static>(
        whose: &Arc<SessionStatus>,
        act: impl FnOnce(&Arc<SessionStatus>) -> R + Send + 'static,
    ) -> JoinHandle<R> {
        let theirs = whose.clone();
        let thread = std::thread::spawn(move || act(&theirs));
        while !whose.awaits_turn() {
            std::thread::yield_now();
        }
        thread
    }

    #[test]
    fn a_turn_ends_with_who_is_abandoned_to_itself() {
        const PLUGIN: &str = "a plugin of this test";
        let hung = status(None);
        let (release, hanging) = hold(PLUGIN, &hung);
        let next = status(None);
        let waiting = await_turn(&next, |next| open_in_turn(PLUGIN, next, || 7));
        hung.abandon();
        assert_eq!(waiting.join().unwrap(), Some(7));
        // What comes back late takes nothing from anybody.
        release.send(()).unwrap();
        hanging.join().unwrap();
        assert_eq!(open_in_turn(PLUGIN, &next, || 8), Some(8));
    }

    #[test]
    fn a_turn_ends_for_who_has_waited_long_enough_and_for_nobody_else() {
        const PLUGIN: &str = "a plugin that hangs";
        let hung = status(None);
        let (release, hanging) = hold(PLUGIN, &hung);
        let patient = status(None);
        let waiting = await_turn(&patient, |it| close_in_turn(PLUGIN, it, || 1));
        let next = status(Some(Duration::from_millis(1)));
        // It has the turn while the first one still thinks that it has it.
        let (other_release, other) = hold(PLUGIN, &next);
        release.send(()).unwrap();
        hanging.join().unwrap();
        assert!(!waiting.is_finished());
        assert!(TURNS.lock().taken.contains_key(PLUGIN));
        other_release.send(()).unwrap();
        other.join().unwrap();
        assert_eq!(waiting.join().unwrap(), 1);
        assert!(!TURNS.lock().taken.contains_key(PLUGIN));
    }

    #[test]
    fn who_is_stopped_opens_nothing_but_closes_what_is_open() {
        const PLUGIN: &str = "a plugin that is busy";
        let busy = status(None);
        let (release, hanging) = hold(PLUGIN, &busy);
        let stopped = status(None);
        let waiting = await_turn(&stopped, |it| open_in_turn(PLUGIN, it, || ()));
        stopped.stop();
        assert_eq!(waiting.join().unwrap(), None);
        let waiting = await_turn(&stopped, |it| close_in_turn(PLUGIN, it, || 2));
        release.send(()).unwrap();
        hanging.join().unwrap();
        assert_eq!(waiting.join().unwrap(), 2);
        assert_eq!(open_in_turn(PLUGIN, &stopped, || ()), None);
    }

    #[test]
    fn a_session_that_panics_in_its_turn_gives_it_back() {
        const PLUGIN: &str = "another plugin of this test";
        let mine = status(None);
        let panicked =
            std::panic::catch_unwind(|| open_in_turn(PLUGIN, &mine, || panic!("on purpose")));
        assert!(panicked.is_err());
        assert_eq!(open_in_turn(PLUGIN, &mine, || 1), Some(1));
    }
}
