// SPDX-License-Identifier: MPL-2.0

//! One encoder, from when it is made until it is closed.

use super::CAT;
use super::slot::Slot;
use crate::encoder::description::{EncoderError, name_of};
use crate::encoder::turn::{SessionStatus, in_turn};
use crate::panics;
use gst::prelude::*;
use gst::subclass::prelude::*;
use std::sync::Arc;

/// An encoder in its slot, linked on both sides. Leaves it when dropped.
pub(super) struct Live {
    pub(super) slot: Slot,
    pub(super) status: Arc<SessionStatus>,
    pub(super) element: gst::Element,
    /// The encoder in it, or it itself.
    pub(super) encoder: gst::Element,
    /// What it was primed with: raw caps, and what downstream accepts.
    pub(super) caps: Option<gst::Caps>,
    pub(super) downstream: Option<gst::Caps>,
}

impl Live {
    pub(super) fn name(&self) -> String {
        name_of(&self.element)
    }

    pub(super) fn cannot_start(&self) -> EncoderError {
        EncoderError::CannotStart {
            encoder: self.name(),
        }
    }

    /// Opens or closes the encoder when its library's turn comes.
    pub(super) fn in_turn<R>(&self, act: impl FnOnce() -> R) -> R {
        let factory = self.encoder.factory();
        let plugin = factory.and_then(|factory| factory.plugin_name());
        in_turn(plugin.as_deref().unwrap_or_default(), &self.status, act)
    }
}

impl Drop for Live {
    /// Where it panics, perhaps while another panic unwinds, what is left is to stop the encoder, whoever's turn it is.
    fn drop(&mut self) {
        let stop = || {
            let _ = self.element.set_state(gst::State::Null);
            let _ = self.slot.remove(&self.element);
        };
        panics::caught(self.slot.imp(), "closing an encoder", stop, || self.close());
    }
}

impl Live {
    fn close(&self) {
        // First NULL, while its messages still come to us.
        let stopped = self.in_turn(|| {
            let stop = || self.element.set_state(gst::State::Null);
            stop().or_else(|_| stop())
        });
        if stopped.is_err() {
            gst::warning!(
                CAT,
                obj = self.slot,
                "The encoder {} can't be stopped, and is left as it is",
                self.name()
            );
            // It may not be freed in a state like this.
            std::mem::forget(self.element.clone());
        }
        if self.element.parent().as_ref() == Some(self.slot.upcast_ref()) {
            self.slot.disconnect();
            let _ = self.slot.remove(&self.element);
        }
    }
}
