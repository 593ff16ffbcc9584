// SPDX-License-Identifier: MPL-2.0

//! Starting the task of a pad, and starting it again.

use crate::panics::CAT;
use glib::translate::from_glib_none;
use gst::prelude::*;

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

/// A panic kept the pad from being started or stopped. What it waits for returns, as the stream has failed, so its task can be
/// stopped even so; and what is stopped may not fail.
pub(crate) fn activated_in_vain(pad: &gst::Pad, active: bool) -> Result<(), gst::LoggableError> {
    if active {
        return Err(gst::loggable_error!(CAT, "Panicked while starting"));
    }
    pad.stop_task()
        .map_err(|error| gst::loggable_error!(CAT, "Task can't be stopped: {error}"))
}
