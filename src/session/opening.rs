// SPDX-License-Identifier: MPL-2.0

//! One encoder of a library opens or closes at a time, in the whole process.
//!
//! Encoder libraries keep tables and thread pools that all of their encoders share, and some set them up or take them down
//! without a lock of their own (SVT-AV1, SVT-HEVC, SVT-VP9, kvazaar). Opening takes milliseconds, so taking turns costs nothing.
//!
//! Not in turn is what opens or closes where nothing may be held: the one encoder of a stream without chunks takes its caps, which go
//! on downstream, and stops with its bin; an encoder behind a queue in a chain opens in that queue's thread.

use crate::locking::lock;
use once_cell::sync::Lazy;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// One turn for each GStreamer plugin: what shares a library is in the same one.
static TURNS: Lazy<Mutex<BTreeMap<String, Arc<Mutex<()>>>>> = Lazy::new(Mutex::default);

/// Opens or closes an encoder of a plugin when it is its turn. Waits only for another one to open or close, which waits for
/// nothing of ours.
pub(super) fn in_turn<R>(plugin: &str, act: impl FnOnce() -> R) -> R {
    let turn = lock(&TURNS).entry(plugin.to_string()).or_default().clone();
    let _mine = lock(&turn);
    act()
}
