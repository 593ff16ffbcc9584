// SPDX-License-Identifier: MPL-2.0

//! Tasks of pads: starting them, starting them again, and the threads that they run in.
//!
//! The tasks of sessions, and those within their encoders, have threads of a pool of their own, not of the one that all of GStreamer
//! shares: an encoder that hangs keeps its thread for ever, and GStreamer waits for all threads of its own pool when a program ends
//! (`gst_deinit`, which gst-launch-1.0 calls).

use glib::translate::from_glib_none;
use gst::prelude::*;
use once_cell::sync::Lazy;

/// Starts the pad's task, or lets the one go on that was paused: that runs what it was made with, and another function given to
/// GStreamer (1.22) would be neither run nor freed.
pub(crate) fn start(
    pad: &gst::Pad,
    run: impl FnMut() + Send + 'static,
) -> Result<(), glib::BoolError> {
    let paused: Option<gst::Task> = {
        let _object = pad.object_lock();
        // SAFETY: the pad is valid, and its task is only changed with the object's lock held.
        unsafe { from_glib_none((*pad.as_ptr()).task) }
    };
    match paused {
        Some(task) => task.start(),
        None => pad.start_task(run),
    }
}

/// A pool without a bound of its own; it lives as long as the process.
static THREADS: Lazy<Option<gst::TaskPool>> = Lazy::new(|| {
    let threads = gst::TaskPool::new();
    threads.set_object_flags(gst::ObjectFlags::MAY_BE_LEAKED);
    threads.prepare().is_ok().then_some(threads)
});

/// The message announces a task that is about to be started: it gets a thread of its own, unless the application has given it
/// one. Messages pass here first.
pub(crate) fn give_thread(message: &gst::Message) {
    let gst::MessageView::StreamStatus(status) = message.view() else {
        return;
    };
    let (kind, _) = status.get();
    let task = status.stream_status_object();
    let task = task.and_then(|task| task.get::<gst::Task>().ok());
    if let (gst::StreamStatusType::Create, Some(task), Some(threads)) = (kind, task, &*THREADS) {
        task.set_pool(threads);
    }
}
