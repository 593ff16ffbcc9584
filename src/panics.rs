// SPDX-License-Identifier: MPL-2.0

//! What becomes of a panic in our own code: an error of the element, and the end of its stream.
//!
//! Whatever GStreamer, GObject or a thread of ours calls runs inside [`caught`]. A panic
//! there is logged and posted as an error of the public bin, the stream fails so that everything that waits returns, and the caller
//! gets a fallback. It unwinds what it was in the middle of first, so no lock is held by then. The state behind one is replaced
//! at the next start.
//!
//! gstreamer-rs catches panics as well, in a part of these functions (not in properties, child proxies, presets, notifications, or
//! in the task of a pad that has left its element: these abort). But from then on it doesn't call that object's functions any more,
//! those that shut it down included: tasks aren't stopped, children stay where they are. So none gets that far.
//!
//! What panics at NULL, where nobody may hear it yet, is told again when the element is to leave NULL, which it refuses then.
//!
//! Some panics still abort:
//!
//! - What runs while a class or an instance is set up by GObject (`class_init`, `properties`, `signals`, `metadata`,
//!   `pad_templates`, `with_class`, `new`): there is nothing yet that could fail. It runs the same way each time.
//! - Callbacks of the application, written in Rust, that we call (`encoder-setup`, a bus's sync handler): the panic has to pass
//!   through GObject to reach us, and can't. So with an encoder's own functions, which its own wrapper catches.
//! - A build with `panic = "abort"`.

use crate::host::Host;
use once_cell::sync::Lazy;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| crate::category("vtparallelpanics", "panics in its own code"));

/// What a panic was thrown with.
pub(crate) type Payload = Box<dyn Any + Send>;

/// A part of the public bin that is called from outside.
pub(crate) trait Part {
    /// The bin, once this is a part of it.
    fn host(&self) -> Option<Arc<dyn Host>>;
}

impl Part for Arc<dyn Host> {
    fn host(&self) -> Option<Arc<dyn Host>> {
        Some(self.clone())
    }
}

/// Does `act`, or, if that panics, tells the application and does `fallback`. `what`: what it is, for whoever reads the error, and for
/// [`may_panic`].
///
/// Nothing may be half done that `fallback` relies on. Locks that the caller holds would be held while the application is told: it
/// may hold none.
pub(crate) fn caught<R>(
    part: &(impl Part + ?Sized),
    what: &str,
    fallback: impl FnOnce() -> R,
    act: impl FnOnce() -> R,
) -> R {
    contained(what, act).unwrap_or_else(|payload| {
        tell(part, what, &payload);
        fallback()
    })
}

/// As [`caught`], for one of several things where the next is done whatever becomes of this.
pub(crate) fn reporting(part: &(impl Part + ?Sized), what: &str, act: impl FnOnce()) {
    caught(part, what, || (), act);
}

/// Does `act`; a panic is the caller's to tell, or to let go on in a thread where it is told.
pub(crate) fn contained<R>(what: &str, act: impl FnOnce() -> R) -> Result<R, Payload> {
    // What was half changed is replaced at the next start, and until then the stream has failed.
    catch_unwind(AssertUnwindSafe(|| {
        may_panic!(what);
        act()
    }))
}

/// Tells the application of a panic, and ends the stream.
pub(crate) fn tell(part: &(impl Part + ?Sized), what: &str, payload: &Payload) {
    let why = payload.downcast_ref::<&str>().copied();
    let why = why.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let text = match why {
        Some(why) => format!("Panicked: {why}"),
        None => "Panicked".to_string(),
    };
    gst::error!(CAT, "{text} ({what})");
    let told = contained("telling of a panic", || {
        if let Some(host) = part.host() {
            host.panicked(&text, what);
        }
    });
    if told.is_err() {
        gst::error!(CAT, "Panicked again while telling of it");
    }
}

/// A point where a test may let our code panic: see `tests/panics.rs`. Nothing without the feature that only tests have. Whatever is
/// [`contained`] begins with one; others are where a lock is held.
macro_rules! may_panic {
    ($point:expr) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($point);
        #[cfg(not(feature = "failpoints"))]
        let _ = $point;
    };
}
pub(crate) use may_panic;
