// SPDX-License-Identifier: MPL-2.0

//! Raw frames in: the distributor.
//!
//! ```text
//!                  ┌───────────────────────────────────┐
//!  sink ─► clip ─► │ engine: may it come in? whose is  │ ─► task of src_0 ─► session 0
//!          copy    │ it? who encodes which chunk?      │        ⋮
//!                  │ frames held, by number            │ ─► task of src_N ─► session N
//!                  └───────────────────────────────────┘
//! ```
//!
//! The chain function takes frames in and waits only where the budget is spent. Each session's task (`workers`) takes the
//! oldest chunk that nobody has and feeds it; frames stay until the chunk was verified.
//!
//! Where parallel encoding isn't possible, everything goes straight through to session 0 instead. The input never looks at packets.

mod events;
mod frames;
mod queries;

use super::shared::Shared;
use super::video::Context;
use super::workers;
use crate::logic::ids::SessionId;
use crate::media::caps::{self, pad_template};
use crate::media::raw::Pool;
use crate::tasks;
use gst::prelude::*;
use gst::subclass::prelude::*;
use once_cell::sync::Lazy;
use std::sync::{Arc, Weak};

pub(super) static CAT: Lazy<gst::DebugCategory> = Lazy::new(|| {
    gst::DebugCategory::new(
        "vtparallelinput",
        gst::DebugColorFlags::empty(),
        Some("vtparallelenc: raw frames to chunks, chunks to sessions"),
    )
});

/// What is known of the stream that comes in. The streaming thread's own, which flushes and queries look into.
#[derive(Default)]
pub(crate) struct InputState {
    segment: gst::FormattedSegment<gst::ClockTime>,
    /// Raw caps of the frames that come.
    caps: Option<gst::Caps>,
    /// What they describe, where that is raw pixels.
    info: Option<gst_video::VideoInfo>,
    /// Of one frame, if the caps say so.
    duration: Option<gst::ClockTime>,
    /// When the next frame begins if it doesn't say so: where the last one ends.
    expected: Option<gst::ClockTime>,
    /// What the encoder of a chunk is told that begins with the next frame.
    context: Option<Arc<Context>>,
    /// Upstream's stream tags, those that wait for the next frame too.
    tags: Option<gst::TagList>,
    /// The last tags of all streams, which encoders only pass on.
    global_tags: Option<gst::Event>,
    /// TAG events since the last frame.
    waiting_tags: Vec<gst::Event>,
    /// Serialized events before the first caps.
    early: Vec<gst::Event>,
    /// The last frame's pool, if it is of one.
    pool: Option<Pool>,
    /// Upstream was asked for the source's length.
    asked_length: bool,
}

impl InputState {
    pub(super) fn caps(&self) -> Option<gst::Caps> {
        self.caps.clone()
    }

    pub(super) fn duration(&self) -> Option<gst::ClockTime> {
        self.duration
    }

    /// Frames that come have these caps, and downstream accepts this.
    pub(super) fn set_caps(&mut self, caps: gst::Caps, downstream: gst::Caps) {
        self.info = crate::media::raw::pixels(&caps);
        self.duration = crate::media::raw::frame_duration(&caps);
        self.caps = Some(caps.clone());
        self.context = Some(Arc::new(Context {
            caps,
            downstream: Some(downstream),
            tags: self.tags.clone(),
        }));
    }

    fn set_context(&mut self, change: impl FnOnce(&mut Context)) {
        if let Some(context) = &mut self.context {
            change(Arc::make_mut(context));
        }
    }

    pub(super) fn take_early(&mut self) -> Vec<gst::Event> {
        std::mem::take(&mut self.early)
    }
}

mod imp {
    use super::*;

    #[derive(Default)]
    pub(crate) struct Input;

    #[glib::object_subclass]
    impl ObjectSubclass for Input {
        const NAME: &'static str = "GstVtParallelDistributor";
        type Type = super::Input;
        type ParentType = gst::Element;
    }

    impl ObjectImpl for Input {}
    impl GstObjectImpl for Input {}

    impl ElementImpl for Input {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: Lazy<gst::subclass::ElementMetadata> = Lazy::new(|| {
                gst::subclass::ElementMetadata::new(
                    "Parallel encoding distributor",
                    "Generic/Video",
                    "Cuts a video into chunks for several encoders",
                    env!("CARGO_PKG_AUTHORS"),
                )
            });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: Lazy<Vec<gst::PadTemplate>> = Lazy::new(|| {
                vec![
                    pad_template("sink", &caps::raw()),
                    pad_template("src_%u", &caps::raw()),
                ]
            });
            &TEMPLATES
        }
    }
}

glib::wrapper! {
    pub(crate) struct Input(ObjectSubclass<imp::Input>)
        @extends gst::Element, gst::Object;
}

/// The element, with its sink pad.
pub(super) fn element(shared: &Shared) -> Result<Input, glib::BoolError> {
    let input: Input = glib::Object::builder()
        .property("name", "distributor")
        .build();
    input.add_pad(&shared.sink)?;
    Ok(input)
}

pub(super) fn sink_pad(shared: &Weak<Shared>) -> gst::Pad {
    let (chain, event, query) = (shared.clone(), shared.clone(), shared.clone());
    let template = pad_template("sink", &caps::raw());
    gst::Pad::builder_from_template(&template)
        .name("sink")
        .chain_function(move |_, _, buffer| {
            Shared::guarded(
                &chain,
                "taking a frame",
                || Err(gst::FlowError::Error),
                |shared| shared.sink_chain(buffer),
            )
        })
        .event_function(move |_, _, it| {
            Shared::guarded(
                &event,
                "event from upstream",
                || false,
                |shared| shared.sink_event(it),
            )
        })
        .query_function(move |pad, parent, it| {
            Shared::guarded(
                &query,
                "query from upstream",
                || false,
                |shared| shared.sink_query(pad, parent, it),
            )
        })
        .build()
}

/// A session's src pad, with its task.
pub(super) fn session_pad(shared: &Weak<Shared>, id: SessionId) -> gst::Pad {
    let (activate, event, query) = (shared.clone(), shared.clone(), shared.clone());
    let template = pad_template("src_%u", &caps::raw());
    gst::Pad::builder_from_template(&template)
        .name(format!("src_{id}"))
        .activatemode_function(move |pad, parent, mode, active| {
            if parent.is_none() {
                // It is added to a running element; its task starts when it is linked.
                return Ok(());
            }
            Shared::guarded(
                &activate,
                "starting or stopping a session",
                || tasks::activation_after_panic(pad, active),
                |shared| {
                    let starts = || workers::start_task(shared, pad, id);
                    tasks::activate(pad, mode, active, starts, || shared.stop())
                },
            )
        })
        .event_function(move |_, _, it| {
            Shared::guarded(
                &event,
                "event from an encoder",
                || false,
                |shared| shared.encoders_event(it),
            )
        })
        .query_function(move |pad, parent, it| {
            Shared::guarded(
                &query,
                "query from an encoder",
                || false,
                |shared| shared.encoders_query(pad, parent, it),
            )
        })
        .build()
}
