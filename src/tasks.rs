// SPDX-License-Identifier: MPL-2.0

//! Tasks of pads: starting them, starting them again, and the threads that they run in.
//!
//! The tasks of sessions, and those within their encoders, have threads of their own, not of the pool that all of GStreamer shares: an
//! encoder that hangs keeps its thread for ever, and GStreamer's own pool waits for all of its threads when a program ends
//! (`gst_deinit`, which gst-launch-1.0 calls).

use crate::panics;
use glib::translate::from_glib_none;
use gst::prelude::*;
use gst::subclass::prelude::*;
use once_cell::sync::Lazy;
use std::thread::JoinHandle;

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

mod imp {
    use super::*;

    #[derive(Default)]
    pub struct Threads;

    #[glib::object_subclass]
    impl ObjectSubclass for Threads {
        const NAME: &'static str = "GstVtParallelThreads";
        type Type = super::Threads;
        type ParentType = gst::TaskPool;
    }

    impl ObjectImpl for Threads {}
    impl GstObjectImpl for Threads {}

    impl TaskPoolImpl for Threads {
        type Handle = Thread;

        fn push(
            &self,
            run: gst::subclass::TaskPoolFunction,
        ) -> Result<Option<Thread>, glib::Error> {
            let failed = |why: &str| glib::Error::new(gst::CoreError::Thread, why);
            let spawned = panics::contained("starting a thread", || {
                let thread = std::thread::Builder::new().name("vtparallelenc".to_string());
                thread.spawn(move || run.call())
            });
            // Of all elements, so it can't be told to one; whoever starts the task learns that there is no thread.
            let spawned = spawned.map_err(|_| failed("Panicked"))?;
            let spawned = spawned.map_err(|error| failed(&error.to_string()))?;
            Ok(Some(Thread(spawned)))
        }
    }
}

/// A task's thread.
pub struct Thread(JoinHandle<()>);

impl TaskHandle for Thread {
    fn join(self) {
        let _ = self.0.join();
    }
}

glib::wrapper! {
    pub struct Threads(ObjectSubclass<imp::Threads>)
        @extends gst::TaskPool, gst::Object;
}

static THREADS: Lazy<Threads> = Lazy::new(|| {
    let threads: Threads = glib::Object::new();
    // It lives as long as the process.
    threads.set_object_flags(gst::ObjectFlags::MAY_BE_LEAKED);
    threads
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
    if let (gst::StreamStatusType::Create, Some(task)) = (kind, task) {
        task.set_pool(&*THREADS);
    }
}
