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

use super::elements::PadBuilder;
use super::shared::Shared;
use super::video::Context;
use super::workers;
use crate::logic::ids::SessionId;
use crate::logic::plan::Plan;
use crate::logic::scenes::{Change, Scenes};
use crate::media::caps;
use crate::media::raw::Pool;
use crate::media::thumbnails::Thumbnails;
use std::sync::{Arc, Weak};

/// Compares frames with those before them.
struct Lookout {
    thumbnails: Thumbnails,
    scenes: Scenes,
}

impl Lookout {
    /// `Err`: it can't be seen.
    fn look(&mut self, buffer: &gst::BufferRef) -> Result<Option<Change>, ()> {
        let picture = self.thumbnails.of(buffer).ok_or(())?;
        Ok(self.scenes.look(picture))
    }
}

/// What is known of the stream that comes in. The streaming thread's own, which flushes and queries look into.
#[derive(Default)]
pub(crate) struct InputState {
    segment: gst::FormattedSegment<gst::ClockTime>,
    /// Raw caps of the frames that come.
    pub(super) caps: Option<gst::Caps>,
    /// What they describe, where that is raw pixels.
    info: Option<gst_video::VideoInfo>,
    /// Of one frame, if the caps say so.
    pub(super) duration: Option<gst::ClockTime>,
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
    pub(super) early: Vec<gst::Event>,
    /// The last frame's pool, if it is of one.
    pool: Option<Pool>,
    /// Who looks for cuts, if anybody does; taken while it looks.
    lookout: Option<Box<Lookout>>,
    /// Upstream was asked for the source's length.
    asked_length: bool,
}

impl InputState {
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

    /// If chunks end at cuts by this plan.
    pub(super) fn look_for_cuts(&mut self, plan: &Plan) {
        let info = self.info.as_ref().filter(|_| plan.seams.is_some());
        self.lookout = info.and_then(Thumbnails::new).map(|thumbnails| {
            let scenes = Scenes::default();
            Box::new(Lookout { thumbnails, scenes })
        });
    }

    fn set_context(&mut self, change: impl FnOnce(&mut Context)) {
        if let Some(context) = &mut self.context {
            change(Arc::make_mut(context));
        }
    }

    /// A chunk that begins with a later frame is told the tags that have come.
    fn tell_tags(&mut self) {
        let now = self.tags.clone();
        self.set_context(|context| context.tags = now);
    }
}

pub(super) fn sink_pad(shared: &Weak<Shared>) -> gst::Pad {
    PadBuilder::new(shared, "sink", "sink", &caps::raw())
        .chain("taking a frame", Shared::sink_chain)
        .event("event from upstream", Shared::sink_event)
        .query("query from upstream", Shared::sink_query)
        .build()
}

/// A session's src pad, with its task.
pub(super) fn session_pad(shared: &Weak<Shared>, id: SessionId) -> gst::Pad {
    PadBuilder::new(shared, "src_%u", &format!("src_{id}"), &caps::raw())
        .task("starting or stopping a session", move |shared, pad| {
            workers::start_task(shared, pad, id);
        })
        .event("event from an encoder", Shared::encoders_event)
        .query("query from an encoder", Shared::encoders_query)
        .build()
}
