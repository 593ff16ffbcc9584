// SPDX-License-Identifier: MPL-2.0

//! Threads that do something again and again while the element runs.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// A thread that does something at each tick.
pub(crate) struct Ticker {
    /// It ends when this is dropped.
    ends: Sender<()>,
    thread: JoinHandle<()>,
}

impl Ticker {
    /// `tick` says whether there is another one.
    pub(super) fn start(
        name: &str,
        period: Duration,
        mut tick: impl FnMut() -> bool + Send + 'static,
    ) -> std::io::Result<Self> {
        let (ends, ended) = mpsc::channel();
        let thread = std::thread::Builder::new().name(name.to_string());
        let thread = thread.spawn(move || {
            while ended.recv_timeout(period) == Err(RecvTimeoutError::Timeout) && tick() {}
        })?;
        Ok(Self { ends, thread })
    }

    pub(super) fn is_here(&self) -> bool {
        self.thread.thread().id() == std::thread::current().id()
    }

    /// There is no other tick; nobody waits for this one. What it tells may be heard by an application that waits for who ends it.
    pub(super) fn leave(self) {
        drop(self.ends);
    }

    /// Waits for it, unless it is itself what ends it: an application may stop the element where it hears of what a tick tells.
    pub(super) fn end(self) {
        let is_here = self.is_here();
        let Self { ends, thread } = self;
        drop(ends);
        if !is_here {
            let _ = thread.join();
        }
    }
}
