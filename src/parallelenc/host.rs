// SPDX-License-Identifier: MPL-2.0

//! The bin as its parts know it.

use super::ParallelEnc;
use super::imp::ENCODER_SETUP;
use crate::encoder::model;
use crate::host::Host;
use gst::prelude::*;
use gst::subclass::prelude::*;

impl Host for glib::WeakRef<ParallelEnc> {
    fn bin(&self) -> Option<gst::Bin> {
        self.upgrade().and_upcast()
    }

    fn panicked(&self, text: &str, what: &str) {
        if let Some(bin) = self.upgrade() {
            bin.imp().panicked(text, what);
        }
    }

    fn encoder_made(&self, encoder: &gst::Element) {
        if let Some(bin) = self.upgrade() {
            bin.emit_by_name::<()>(ENCODER_SETUP, &[encoder]);
        }
    }

    fn encoder_known(&self) {
        if let Some(bin) = self.upgrade() {
            bin.notify("active-encoder");
        }
    }

    fn model_added(&self, model: &gst::Element) {
        if let Some(bin) = self.upgrade() {
            bin.child_added(model, model::NAME);
        }
    }

    fn model_removed(&self, model: &gst::Element) {
        if let Some(bin) = self.upgrade() {
            bin.child_removed(model, model::NAME);
        }
    }
}
