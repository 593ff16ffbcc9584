// SPDX-License-Identifier: MPL-2.0

//! The bin as its parts know it.

use super::ParallelEnc;
use super::imp::ENCODER_SETUP;
use crate::host::Host;
use gst::prelude::*;
use gst::subclass::prelude::*;

pub(super) struct WeakHost(glib::WeakRef<ParallelEnc>);

impl WeakHost {
    pub(super) fn new(bin: &ParallelEnc) -> Self {
        Self(bin.downgrade())
    }
}

impl Host for WeakHost {
    fn bin(&self) -> Option<gst::Bin> {
        self.0.upgrade().and_upcast()
    }

    fn post_error(&self, error: gst::ErrorMessage) {
        if let Some(bin) = self.0.upgrade() {
            bin.imp().post_error_message(error);
        }
    }

    fn panicked(&self, text: &str, what: &str) {
        if let Some(bin) = self.0.upgrade() {
            bin.imp().panicked(text, what);
        }
    }

    fn encoder_made(&self, encoder: &gst::Element) {
        if let Some(bin) = self.0.upgrade() {
            bin.emit_by_name::<()>(ENCODER_SETUP, &[encoder]);
        }
    }

    fn encoder_chosen(&self, description: &str) -> Result<(), gst::ErrorMessage> {
        let Some(bin) = self.0.upgrade() else {
            return Ok(());
        };
        let chosen = bin.imp().encoder_chosen(description);
        chosen.map_err(|error| error.message())
    }

    fn encoder_known(&self) {
        if let Some(bin) = self.0.upgrade() {
            bin.notify("active-encoder");
        }
    }

    fn encoder_missing(&self, accepted: &gst::Caps) {
        if let Some(bin) = self.0.upgrade() {
            bin.imp().encoder_missing(accepted);
        }
    }
}
