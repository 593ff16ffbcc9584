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

use super::shared::{Branch, Shared};
use crate::logic::ids::SessionId;
use crate::media::caps::pad_template;
use crate::media::queries::{answer_encoder, convert_encoded};
use crate::tasks;
use gst::prelude::*;
use gst::subclass::prelude::*;
use intake::Intake;
use once_cell::sync::Lazy;
use parking_lot::Mutex;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

pub(super) static CAT: Lazy<gst::DebugCategory> = Lazy::new(|| {
    gst::DebugCategory::new(
        "vtparalleloutput",
        gst::DebugColorFlags::empty(),
        Some("vtparallelenc: packets of all sessions to one stream"),
    )
});

mod imp {
    use super::*;

    #[derive(Default)]
    pub(crate) struct Output;

    #[glib::object_subclass]
    impl ObjectSubclass for Output {
        const NAME: &'static str = "GstVtParallelAggregator";
        type Type = super::Output;
        type ParentType = gst::Element;
    }

    impl ObjectImpl for Output {}
    impl GstObjectImpl for Output {}

    impl ElementImpl for Output {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: Lazy<gst::subclass::ElementMetadata> = Lazy::new(|| {
                gst::subclass::ElementMetadata::new(
                    "Parallel encoding aggregator",
                    "Generic/Video",
                    "Joins the packets of several encoders into one stream",
                    env!("CARGO_PKG_AUTHORS"),
                )
            });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: Lazy<Vec<gst::PadTemplate>> = Lazy::new(|| {
                vec![
                    pad_template("src", &gst::Caps::new_any()),
                    pad_template("sink_%u", &gst::Caps::new_any()),
                ]
            });
            &TEMPLATES
        }
    }
}

glib::wrapper! {
    pub(crate) struct Output(ObjectSubclass<imp::Output>)
        @extends gst::Element, gst::Object;
}

/// The element, with its src pad.
pub(super) fn element(shared: &Shared) -> Result<Output, glib::BoolError> {
    let output: Output = glib::Object::builder()
        .property("name", "aggregator")
        .build();
    output.add_pad(&shared.src)?;
    Ok(output)
}

pub(super) fn src_pad(shared: &Weak<Shared>) -> gst::Pad {
    let (activate, event, query) = (shared.clone(), shared.clone(), shared.clone());
    let template = pad_template("src", &gst::Caps::new_any());
    gst::Pad::builder_from_template(&template)
        .name("src")
        .activatemode_function(move |pad, _, mode, active| {
            Shared::guarded(
                &activate,
                "starting or stopping the output",
                || tasks::activation_after_panic(pad, active),
                |shared| {
                    let starts = || shared.start_output();
                    tasks::activate(pad, mode, active, starts, || shared.stop())
                },
            )
        })
        .event_function(move |_, _, it| {
            Shared::guarded(
                &event,
                "event from downstream",
                || false,
                |shared| shared.src_event(it),
            )
        })
        .query_function(move |pad, parent, it| {
            Shared::guarded(
                &query,
                "query from downstream",
                || false,
                |shared| shared.src_query(pad, parent, it),
            )
        })
        .build()
}

/// A session's sink pad, and what comes on it.
pub(super) fn session_pad(shared: &Weak<Shared>, id: SessionId) -> (gst::Pad, Arc<Mutex<Intake>>) {
    let (chain, event, query) = (shared.clone(), shared.clone(), shared.clone());
    let intake = Arc::<Mutex<Intake>>::default();
    let intakes = [intake.clone(), intake.clone(), intake.clone()];
    let [packets, events, queries] = intakes;
    let template = pad_template("sink_%u", &gst::Caps::new_any());
    let pad = gst::Pad::builder_from_template(&template)
        .name(format!("sink_{id}"))
        .chain_function(move |_, _, buffer| {
            Shared::guarded(
                &chain,
                "taking a packet",
                || Err(gst::FlowError::Error),
                |shared| shared.take_packet(&packets, buffer),
            )
        })
        .event_function(move |_, _, it| {
            Shared::guarded(
                &event,
                "event of an encoder",
                || false,
                |shared| shared.take_event(&events, it),
            )
        })
        .query_function(move |pad, parent, it| {
            Shared::guarded(
                &query,
                "query of an encoder",
                || false,
                |shared| shared.answer_encoder(&queries, pad, parent, it),
            )
        })
        .build();
    (pad, intake)
}

// The encoders' side.
impl Shared {
    fn answer_encoder(
        &self,
        intake: &Mutex<Intake>,
        pad: &gst::Pad,
        parent: Option<&gst::Object>,
        query: &mut gst::QueryRef,
    ) -> bool {
        if self.passes() {
            return self.src.peer_query(query);
        }
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let told = intake.lock().downstream();
                let told = told.or_else(|| self.encoding.lock().downstream.clone());
                let caps = told.unwrap_or_else(|| self.src.peer_query_caps(None));
                answer_encoder(query, caps);
                true
            }
            gst::QueryViewMut::AcceptCaps(_) => gst::Pad::query_default(pad, parent, query),
            // An encoder looks for a device or display to share.
            gst::QueryViewMut::Context(_) => self.src.peer_query(query),
            // ALLOCATION too: packets of several encoders in one downstream pool could starve it.
            _ => false,
        }
    }
}

// Downstream's side.
impl Shared {
    fn straight_sink(&self) -> Option<gst::Pad> {
        let branch: Branch = self.branch(SessionId(0))?;
        Some(branch.sink)
    }

    fn src_event(&self, event: gst::Event) -> bool {
        if self.passes() {
            return self
                .straight_sink()
                .is_some_and(|sink| sink.push_event(event));
        }
        if event.type_() == gst::EventType::Reconfigure {
            for flag in [&self.reconfigures, &self.reconfigured] {
                flag.store(true, Ordering::SeqCst);
            }
        }
        self.upstream_event(event)
    }

    fn src_query(
        &self,
        pad: &gst::Pad,
        parent: Option<&gst::Object>,
        query: &mut gst::QueryRef,
    ) -> bool {
        if self.passes() {
            return self
                .straight_sink()
                .is_some_and(|sink| sink.peer_query(query));
        }
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let sent = self.writer.lock().sent_caps();
                let caps = sent.unwrap_or_else(|| {
                    let encoder = self.straight_sink().and_then(|sink| sink.peer());
                    encoder.map_or_else(gst::Caps::new_any, |encoder| encoder.query_caps(None))
                });
                answer_encoder(query, caps);
                true
            }
            gst::QueryViewMut::AcceptCaps(_) => gst::Pad::query_default(pad, parent, query),
            gst::QueryViewMut::Convert(query) => {
                let (bytes, time) = self.writer.lock().sent_amount();
                convert_encoded(bytes, time, query)
            }
            // What came in is far ahead, and a progress bar shows what is done.
            gst::QueryViewMut::Position(query) if query.format() == gst::Format::Time => {
                let position = self.writer.lock().position();
                match position {
                    Some(position) => query.set(position),
                    None => return self.upstream_query(query),
                }
                true
            }
            // Packets come out of many pools, and nobody can pull them.
            gst::QueryViewMut::Allocation(_) | gst::QueryViewMut::Scheduling(_) => false,
            _ => self.upstream_query(query),
        }
    }
}
