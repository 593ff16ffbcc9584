// SPDX-License-Identifier: MPL-2.0

//! One encoder in its slot, from its making to NULL.

use super::slot::Slot;
use crate::encoder::description::{self, EncoderError};
use crate::encoder::turn::{SessionStatus, close_in_turn, open_in_turn};
use crate::panics;
use gst::prelude::*;
use gst::subclass::prelude::*;
use std::sync::Arc;

/// An encoder in its slot, linked on both sides. Leaves it when dropped.
pub(super) struct Instance {
    pub(super) slot: Slot,
    pub(super) status: Arc<SessionStatus>,
    pub(super) element: gst::Element,
    /// The encoder in it, or it itself.
    pub(super) encoder: gst::Element,
    /// It was told to open, so it has something to close.
    pub(super) is_opened: bool,
    /// What it was primed with: raw caps, and what downstream accepts.
    pub(super) caps: Option<gst::Caps>,
    pub(super) downstream: Option<gst::Caps>,
    /// That it was made with, where it is one of several.
    pub(super) threads: Option<u32>,
}

impl Instance {
    pub(super) fn name(&self) -> String {
        description::name_of(&self.element)
    }

    pub(super) fn cannot_start(&self) -> EncoderError {
        EncoderError::CannotStart {
            encoder: self.name(),
        }
    }

    pub(super) fn refuses(&self, caps: &gst::Caps) -> EncoderError {
        EncoderError::CapsRefused {
            encoder: self.name(),
            caps: caps.clone(),
        }
    }

    /// Takes the encoder to the state of its bin.
    pub(super) fn follow_bin(&self) -> Result<(), EncoderError> {
        let followed = self.element.sync_state_with_parent();
        followed.map_err(|_| self.cannot_start())
    }

    /// What has a library of its own.
    fn plugin(&self) -> glib::GString {
        let factory = self.encoder.factory();
        let plugin = factory.and_then(|factory| factory.plugin_name());
        plugin.unwrap_or_default()
    }

    /// Opens the encoder when its library's turn comes.
    pub(super) fn open_in_turn<R>(
        &self,
        act: impl FnOnce() -> Result<R, EncoderError>,
    ) -> Result<R, EncoderError> {
        open_in_turn(&self.plugin(), &self.status, act).unwrap_or(Err(EncoderError::Stopped))
    }

    /// Opens the encoder as far as this state takes it, in turn.
    pub(super) fn open_to(&self, state: gst::State) -> Result<(), EncoderError> {
        self.open_in_turn(|| {
            let opened = self.element.set_state(state);
            opened.map(drop).map_err(|_| self.cannot_start())
        })
    }

    fn close(&self) {
        // First NULL, while its messages still come to us.
        let stop = || {
            let stop = || self.element.set_state(gst::State::Null);
            stop().or_else(|_| stop())
        };
        let stopped = match self.is_opened {
            true => close_in_turn(&self.plugin(), &self.status, stop),
            false => stop(),
        };
        if stopped.is_err() {
            gst::warning!(
                super::CAT,
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

impl Drop for Instance {
    /// Where it panics, perhaps while another panic unwinds, what is left is to stop the encoder, whoever's turn it is.
    fn drop(&mut self) {
        let stop = || {
            let _ = self.element.set_state(gst::State::Null);
            let _ = self.slot.remove(&self.element);
        };
        panics::caught(self.slot.imp(), "closing an encoder", stop, || self.close());
    }
}
