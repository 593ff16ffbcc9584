// SPDX-License-Identifier: MPL-2.0

//! One encoder of a library opens or closes at a time, in the whole process.
//!
//! Encoder libraries keep tables and thread pools that all of their encoders share, and some set them up or take them down
//! without a lock of their own (SVT-AV1, SVT-HEVC, SVT-VP9, kvazaar). Opening takes milliseconds, so taking turns costs nothing.
//!
//! An encoder may hang in its turn. When its session is left to itself, the turn is the next one's. Nobody may watch that session,
//! as it may be another element's: so a turn also ends for whoever has waited for it as long as its own `stall-timeout`. Who
//! waits to open an encoder doesn't wait any more when its element is stopped; to close one it does, in a thread that nobody waits for
//! for long.
//!
//! Not in turn is what opens or closes where nothing may be held: the one encoder of a stream without chunks takes its caps, which go
//! on downstream, and stops with its bin; an encoder behind a queue in a chain opens in that queue's thread.

use crate::locking::{lock, wait, wait_timeout};
use once_cell::sync::Lazy;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How a session stands to others, seen from outside.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// So long somebody else may have the turn that it waits for. `None`: for ever.
    patience: Option<Duration>,
    /// It waits until another one has opened or closed its encoder.
    awaits_turn: AtomicBool,
    /// Its encoder hangs: it is left to itself, and nobody waits for it.
    is_left: AtomicBool,
    /// Its element is stopped: it opens no encoder any more.
    is_stopped: AtomicBool,
}

impl Standing {
    pub(super) fn new(patience: Option<Duration>) -> Self {
        Self {
            patience,
            ..Self::default()
        }
    }

    pub(super) fn patience(&self) -> Option<Duration> {
        self.patience
    }

    pub(crate) fn awaits_turn(&self) -> bool {
        self.awaits_turn.load(Ordering::SeqCst)
    }

    pub(crate) fn is_left(&self) -> bool {
        self.is_left.load(Ordering::SeqCst)
    }

    /// Nobody waits for the session any more.
    pub(crate) fn leave(&self) {
        self.tell(&self.is_left);
    }

    /// The session opens no encoder any more.
    pub(crate) fn stop(&self) {
        self.tell(&self.is_stopped);
    }

    fn tell(&self, flag: &AtomicBool) {
        let _turns = lock(&TURNS);
        flag.store(true, Ordering::SeqCst);
        FREED.notify_all();
    }

    fn opens_no_more(&self) -> bool {
        self.is_left() || self.is_stopped.load(Ordering::SeqCst)
    }
}

/// Who has a turn.
#[derive(Debug)]
struct Taken {
    /// No other turn has it.
    number: u64,
    by: Arc<Standing>,
}

#[derive(Debug, Default)]
struct Turns {
    /// Turns that were taken so far.
    count: u64,
    /// Whose turn it is, for each GStreamer plugin: what shares a library is in the same one.
    taken: BTreeMap<String, Taken>,
}

static TURNS: Lazy<Mutex<Turns>> = Lazy::new(Mutex::default);

/// Woken when a turn ends, and when somebody is left to itself or stopped.
static FREED: Condvar = Condvar::new();

/// What is done in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Open,
    Close,
}

/// A turn, until it is dropped.
struct Turn<'a> {
    plugin: &'a str,
    number: u64,
}

impl<'a> Turn<'a> {
    /// `None`: no encoder is to be opened any more.
    fn take(plugin: &'a str, whose: &Arc<Standing>, act: Act) -> Option<Self> {
        let mut turns = lock(&TURNS);
        whose.awaits_turn.store(true, Ordering::SeqCst);
        // The turn that is waited for, and for how long.
        let (mut before, mut waited) = (0, Duration::ZERO);
        let is_granted = loop {
            if act == Act::Open && whose.opens_no_more() {
                break false;
            }
            let taken = turns.taken.get(plugin).filter(|it| !it.by.is_left());
            let Some(taken) = taken else { break true };
            if before != taken.number {
                (before, waited) = (taken.number, Duration::ZERO);
            }
            let rest = whose
                .patience
                .map(|patience| patience.saturating_sub(waited));
            if rest.is_some_and(|rest| rest.is_zero()) {
                break true;
            }
            turns = wait_awhile(turns, rest, &mut waited);
        };
        whose.awaits_turn.store(false, Ordering::SeqCst);
        is_granted.then(|| {
            turns.count += 1;
            let number = turns.count;
            let taken = Taken {
                number,
                by: whose.clone(),
            };
            turns.taken.insert(plugin.to_string(), taken);
            Self { plugin, number }
        })
    }
}

/// Waits until a turn ends, or for some of the time that is left, and adds that up: while the process stands still, so does whoever
/// has the turn.
fn wait_awhile<'a>(
    turns: MutexGuard<'a, Turns>,
    rest: Option<Duration>,
    waited: &mut Duration,
) -> MutexGuard<'a, Turns> {
    const SLICE: Duration = Duration::from_millis(100);
    let Some(rest) = rest else {
        return wait(&FREED, turns);
    };
    let since = Instant::now();
    let turns = wait_timeout(&FREED, turns, SLICE.min(rest));
    *waited += since.elapsed().min(SLICE);
    turns
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = lock(&TURNS);
        // Somebody else may have it already.
        if turns
            .taken
            .get(self.plugin)
            .is_some_and(|taken| taken.number == self.number)
        {
            turns.taken.remove(self.plugin);
            FREED.notify_all();
        }
    }
}

/// Opens an encoder of a plugin when it is its turn. `None`: the session is stopped or left to itself, so it doesn't open one.
///
/// Waits for another one to open or close, for `stall-timeout`, and for a stop.
pub(super) fn open_in_turn<R>(
    plugin: &str,
    whose: &Arc<Standing>,
    act: impl FnOnce() -> R,
) -> Option<R> {
    let _turn = Turn::take(plugin, whose, Act::Open)?;
    Some(act())
}

/// Closes an encoder of a plugin when it is its turn. Waits for another one to open or close, and for `stall-timeout`.
pub(super) fn close_in_turn<R>(plugin: &str, whose: &Arc<Standing>, act: impl FnOnce() -> R) -> R {
    let _turn = Turn::take(plugin, whose, Act::Close);
    act()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::thread::JoinHandle;

    fn standing(patience: Option<Duration>) -> Arc<Standing> {
        Arc::new(Standing::new(patience))
    }

    /// A thread that has the turn until it is told to end it.
    fn hold(plugin: &'static str, whose: &Arc<Standing>) -> (Sender<()>, JoinHandle<()>) {
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
        whose: &Arc<Standing>,
        act: impl FnOnce(&Arc<Standing>) -> R + Send + 'static,
    ) -> JoinHandle<R> {
        let theirs = whose.clone();
        let thread = std::thread::spawn(move || act(&theirs));
        while !whose.awaits_turn() {
            std::thread::yield_now();
        }
        thread
    }

    #[test]
    fn a_turn_ends_with_who_is_left_to_itself() {
        const PLUGIN: &str = "a plugin of this test";
        let hung = standing(None);
        let (release, hanging) = hold(PLUGIN, &hung);
        let next = standing(None);
        let waiting = await_turn(&next, |next| open_in_turn(PLUGIN, next, || 7));
        hung.leave();
        assert_eq!(waiting.join().unwrap(), Some(7));
        // What comes back late takes nothing from anybody.
        release.send(()).unwrap();
        hanging.join().unwrap();
        assert_eq!(open_in_turn(PLUGIN, &next, || 8), Some(8));
    }

    #[test]
    fn a_turn_ends_for_who_has_waited_long_enough_and_for_nobody_else() {
        const PLUGIN: &str = "a plugin that hangs";
        let hung = standing(None);
        let (release, hanging) = hold(PLUGIN, &hung);
        let patient = standing(None);
        let waiting = await_turn(&patient, |it| close_in_turn(PLUGIN, it, || 1));
        let next = standing(Some(Duration::from_millis(1)));
        // It has the turn while the first one still thinks that it has it.
        let (other_release, other) = hold(PLUGIN, &next);
        release.send(()).unwrap();
        hanging.join().unwrap();
        assert!(!waiting.is_finished());
        assert!(lock(&TURNS).taken.contains_key(PLUGIN));
        other_release.send(()).unwrap();
        other.join().unwrap();
        assert_eq!(waiting.join().unwrap(), 1);
        assert!(!lock(&TURNS).taken.contains_key(PLUGIN));
    }

    #[test]
    fn who_is_stopped_opens_nothing_but_closes_what_is_open() {
        const PLUGIN: &str = "a plugin that is busy";
        let busy = standing(None);
        let (release, hanging) = hold(PLUGIN, &busy);
        let stopped = standing(None);
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
        let mine = standing(None);
        let panicked =
            std::panic::catch_unwind(|| open_in_turn(PLUGIN, &mine, || panic!("on purpose")));
        assert!(panicked.is_err());
        assert_eq!(open_in_turn(PLUGIN, &mine, || 1), Some(1));
    }
}
