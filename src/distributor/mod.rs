// SPDX-License-Identifier: MPL-2.0

//! Raw frames in, chunks to sessions.
//!
//! ```text
//!                  ┌─────────────────────────────────────┐
//!  sink ─► clip ─► │ frames held, by number              │ ─► task of src_0 ─► session 0
//!          count   │ budget: may it come in?             │        ⋮
//!                  │ planner: whose is it?               │ ─► task of src_N ─► session N
//!                  │ roster: who encodes which chunk?    │
//!                  └─────────────────────────────────────┘
//! ```
//!
//! The chain function takes frames in and waits only where the budget is spent. Each session's task takes the
//! oldest chunk that nobody has and feeds it; frames stay here until the chunk was verified.
//!
//! Where parallel encoding isn't possible, everything goes straight through to session 0 instead. This element never
//! looks at packets; the aggregator does.

use gst::subclass::prelude::*;

mod attempts;
mod begin;
pub(crate) mod decision;
mod failure;
pub(crate) mod imp;
mod input;
mod keys;
mod requests;
pub(crate) mod snapshot;
mod state;
mod tasks;
mod watch;

glib::wrapper! {
    pub(crate) struct Distributor(ObjectSubclass<imp::Distributor>)
        @extends gst::Element, gst::Object;
}

impl Distributor {
    pub(crate) fn new() -> Self {
        glib::Object::builder()
            .property("name", "distributor")
            .build()
    }

    pub(crate) fn sink(&self) -> &gst::Pad {
        self.imp().sink()
    }
}
