// SPDX-License-Identifier: MPL-2.0

//! Packets of all sessions in, one stream out: the aggregator.
//!
//! ```text
//!  sink_0 ─► intake: what is it? ─┐
//!    ⋮                            ├─► engine (held until verified) ─► task ─► writer: events, times ─► src
//!  sink_N ─► intake: what is it? ─┘
//! ```
//!
//! The chain functions run in the encoders' threads and don't wait for anything but the locks: what they bring goes into a store that is
//! bounded by the chunks that sessions may take ahead of the output. One task, that of the src pad, sends.

pub(super) mod intake;
mod task;
pub(super) mod writer;

use super::elements::PadBuilder;
use super::shared::Shared;
use crate::logic::ids::SessionId;
use crate::media::queries::{answer_encoder, convert_encoded};
use gst::prelude::*;
use intake::Intake;
use parking_lot::Mutex;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

pub(super) fn src_pad(shared: &Weak<Shared>) -> gst::Pad {
    PadBuilder::new(shared, "src", "src", &gst::Caps::new_any())
        .task("starting or stopping the output", |shared, _| {
            shared.start_output();
        })
        .event("event from downstream", Shared::src_event)
        .query("query from downstream", Shared::src_query)
        .build()
}

/// A session's sink pad, and what comes on it.
pub(super) fn session_pad(shared: &Weak<Shared>, id: SessionId) -> (gst::Pad, Arc<Mutex<Intake>>) {
    let intake = Arc::<Mutex<Intake>>::default();
    let [packets, events, queries] = [intake.clone(), intake.clone(), intake.clone()];
    let name = format!("sink_{id}");
    let pad = PadBuilder::new(shared, "sink_%u", &name, &gst::Caps::new_any())
        .chain("taking a packet", move |shared, packet| {
            shared.take_packet(&packets, packet)
        })
        .event("event of an encoder", move |shared, event| {
            shared.take_event(&events, event)
        })
        .query("query of an encoder", move |shared, query| {
            shared.answer_encoder(&queries, query)
        })
        .build();
    (pad, intake)
}

// The encoders' side.
impl Shared {
    fn answer_encoder(&self, intake: &Mutex<Intake>, query: &mut gst::QueryRef) -> Option<bool> {
        if self.passes() {
            return Some(self.src.peer_query(query));
        }
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let context = intake.lock().context.clone();
                let told = context.and_then(|context| context.downstream.clone());
                let told = told.or_else(|| self.encoding.lock().downstream.clone());
                let caps = told.unwrap_or_else(|| self.src.peer_query_caps(None));
                answer_encoder(query, caps);
                Some(true)
            }
            // Downstream is asked when they are sent. A parser takes more than it says: what it can find out may be missing.
            gst::QueryViewMut::AcceptCaps(query) => {
                query.set_result(true);
                Some(true)
            }
            // An encoder looks for a device or display to share.
            gst::QueryViewMut::Context(_) => Some(self.src.peer_query(query)),
            // ALLOCATION too: packets of several encoders in one downstream pool could starve it.
            _ => Some(false),
        }
    }
}

// Downstream's side.
impl Shared {
    fn straight_sink(&self) -> Option<gst::Pad> {
        Some(self.branch(SessionId(0))?.sink)
    }

    fn src_event(self: &Arc<Self>, event: gst::Event) -> bool {
        if self.passes() {
            let sink = self.straight_sink();
            return sink.is_some_and(|sink| sink.push_event(event));
        }
        if event.type_() == gst::EventType::Reconfigure {
            for flag in [&self.reconfigures, &self.reconfigured] {
                flag.store(true, Ordering::SeqCst);
            }
        }
        self.upstream_event(event)
    }

    fn src_query(self: &Arc<Self>, query: &mut gst::QueryRef) -> Option<bool> {
        if self.passes() {
            let sink = self.straight_sink();
            return Some(sink.is_some_and(|sink| sink.peer_query(query)));
        }
        Some(match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let sent = self.writer.lock().caps.clone();
                let caps = sent.unwrap_or_else(|| {
                    let encoder = self.straight_sink().and_then(|sink| sink.peer());
                    encoder.map_or_else(gst::Caps::new_any, |encoder| encoder.query_caps(None))
                });
                answer_encoder(query, caps);
                true
            }
            gst::QueryViewMut::AcceptCaps(_) => return None,
            gst::QueryViewMut::Convert(query) => {
                let (bytes, time) = self.writer.lock().sent_amount();
                convert_encoded(bytes, time, query)
            }
            // What came in is far ahead, and a progress bar shows what is done.
            gst::QueryViewMut::Position(query) if query.format() == gst::Format::Time => {
                let position = self.writer.lock().position();
                match position {
                    Some(position) => query.set(position),
                    None => return Some(self.upstream_query(query)),
                }
                true
            }
            // Packets come out of many pools, and nobody can pull them.
            gst::QueryViewMut::Allocation(_) | gst::QueryViewMut::Scheduling(_) => false,
            _ => self.upstream_query(query),
        })
    }
}
