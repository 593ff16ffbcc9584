// SPDX-License-Identifier: MPL-2.0

//! Packets of all sessions in, one stream out.
//!
//! ```text
//!  sink_0 ─► chain: which frame? ─┐
//!    ⋮                            ├─► reorder (held until verified) ─► task: events, times ─► src
//!  sink_N ─► chain: which frame? ─┘
//! ```
//!
//! The chain functions run in the encoders' threads and never block: what they bring goes into a store that is
//! bounded by the chunks that sessions may take ahead of the output. One task, that of the src pad, sends.
//!
//! This element may not decide where chunks begin or who encodes them; the distributor tells it.

use crate::distributor::Distributor;
use gst::subclass::prelude::*;

pub(crate) mod imp;
mod state;

pub(crate) use state::FrameTimes;

glib::wrapper! {
    pub(crate) struct Aggregator(ObjectSubclass<imp::Aggregator>)
        @extends gst::Element, gst::Object;
}

impl Aggregator {
    pub(crate) fn new(distributor: &Distributor) -> Self {
        let aggregator: Self = glib::Object::builder()
            .property("name", "aggregator")
            .build();
        aggregator.imp().connect(distributor);
        aggregator
    }
}
