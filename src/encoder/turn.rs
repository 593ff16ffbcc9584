// SPDX-License-Identifier: MPL-2.0

//! One encoder of a library opens or closes at a time, in the whole process.
//!
//! Encoder libraries keep tables and thread pools that all of their encoders share, and some set them up or take them down
//! without a lock of their own (SVT-AV1, SVT-HEVC, SVT-VP9, kvazaar). Opening takes milliseconds, so taking turns costs nothing.
//!
//! An encoder may hang in its turn. When its session is left to itself, the turn is the next one's.
//!
//! Not in turn is what opens or closes where nothing may be held: the one encoder of a stream without chunks takes its caps, which go
//! on downstream, and stops with its bin; an encoder behind a queue in a chain opens in that queue's thread.

use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How a session stands to others, seen from outside.
#[derive(Debug, Default)]
pub(crate) struct SessionStatus {
    /// It waits until another one has opened or closed its encoder.
    awaits_turn: AtomicBool,
    /// Its encoder hangs: it is left to itself, and nobody waits for it.
    is_abandoned: AtomicBool,
}

impl SessionStatus {
    pub(crate) fn awaits_turn(&self) -> bool {
        self.awaits_turn.load(Ordering::SeqCst)
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::SeqCst)
    }

    /// Nobody waits for the session any more.
    pub(crate) fn abandon(&self) {
        let _turns = TURNS.lock();
        self.is_abandoned.store(true, Ordering::SeqCst);
        FREED.notify_all();
    }
}

/// Whose turn it is, for each GStreamer plugin: what shares a library is in the same one.
static TURNS: Mutex<BTreeMap<String, Arc<SessionStatus>>> = Mutex::new(BTreeMap::new());

/// Woken when a turn ends, and when somebody is left to itself.
static FREED: Condvar = Condvar::new();

/// A turn, until it is dropped.
struct Turn<'a> {
    plugin: &'a str,
    whose: &'a Arc<SessionStatus>,
}

impl<'a> Turn<'a> {
    fn take(plugin: &'a str, whose: &'a Arc<SessionStatus>) -> Self {
        let mut turns = TURNS.lock();
        whose.awaits_turn.store(true, Ordering::SeqCst);
        while turns.get(plugin).is_some_and(|other| !other.is_abandoned()) {
            FREED.wait(&mut turns);
        }
        whose.awaits_turn.store(false, Ordering::SeqCst);
        turns.insert(plugin.to_string(), whose.clone());
        Self { plugin, whose }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = TURNS.lock();
        // Somebody else may have it already.
        if turns
            .get(self.plugin)
            .is_some_and(|mine| Arc::ptr_eq(mine, self.whose))
        {
            turns.remove(self.plugin);
            FREED.notify_all();
        }
    }
}

/// Opens or closes an encoder of a plugin when it is its turn. Waits only for another one to open or close, which waits for
/// nothing of ours.
pub(crate) fn in_turn<R>(plugin: &str, whose: &Arc<SessionStatus>, act: impl FnOnce() -> R) -> R {
    let _turn = Turn::take(plugin, whose);
    act()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_turn_ends_with_who_is_left_to_itself() {
        const PLUGIN: &str = "a plugin of this test";
        let hung = Arc::new(SessionStatus::default());
        let (entered, has_entered) = channel();
        let (release, released) = channel::<()>();
        let hanging = {
            let hung = hung.clone();
            std::thread::spawn(move || {
                in_turn(PLUGIN, &hung, || {
                    entered.send(()).unwrap();
                    let _ = released.recv();
                });
            })
        };
        has_entered.recv().unwrap();
        let next = Arc::new(SessionStatus::default());
        let waiting = {
            let next = next.clone();
            std::thread::spawn(move || in_turn(PLUGIN, &next, || 7))
        };
        while !next.awaits_turn() {
            std::thread::yield_now();
        }
        hung.abandon();
        assert_eq!(waiting.join().unwrap(), 7);
        // What comes back late takes nothing from anybody.
        release.send(()).unwrap();
        hanging.join().unwrap();
        assert_eq!(in_turn(PLUGIN, &next, || 8), 8);
    }

    #[test]
    fn a_session_that_panics_in_its_turn_gives_it_back() {
        const PLUGIN: &str = "another plugin of this test";
        let mine = Arc::new(SessionStatus::default());
        let panicked = std::panic::catch_unwind(|| in_turn(PLUGIN, &mine, || panic!("on purpose")));
        assert!(panicked.is_err());
        assert_eq!(in_turn(PLUGIN, &mine, || 1), 1);
    }
}
