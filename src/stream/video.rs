// SPDX-License-Identifier: MPL-2.0

//! What the engine handles here: raw frames, packets, events and flows of GStreamer.

use crate::cache::FrameDigest;
use crate::logic::engine::Media;
use crate::logic::store::Payload;
use crate::media::tags::of_stream;
use crate::session::failure::Failure;
use std::sync::Arc;

pub(crate) struct Video;

/// What the encoder of a chunk that begins with a frame is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Context {
    /// Raw caps.
    pub(crate) caps: gst::Caps,
    /// What downstream accepts.
    pub(crate) downstream: Option<gst::Caps>,
    /// Upstream's stream tags before the frame.
    pub(crate) tags: Option<gst::TagList>,
}

/// A raw frame.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// With its private timestamp.
    pub(crate) buffer: gst::Buffer,
    /// TAG events that stood before it.
    pub(crate) tags: Vec<gst::Event>,
    /// `None` if the cache is off or the frame can't be hashed.
    pub(crate) digest: Option<FrameDigest>,
    pub(crate) context: Arc<Context>,
}

impl Frame {
    /// The stream tags that an encoder is told which begins with this frame. Those that stand right before it come with it.
    pub(crate) fn tags_before(&self) -> Option<gst::TagList> {
        let come = self.tags.iter().any(|event| of_stream(event).is_some());
        self.context.tags.clone().filter(|_| !come)
    }
}

/// A coded packet.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) buffer: gst::Buffer,
    /// Caps of the encoder when it made this packet.
    pub(crate) caps: Option<gst::Caps>,
    /// TAG events that the encoder sent between the last packet and this one.
    pub(crate) tags: Vec<gst::Event>,
    /// Parameter sets of the attempt's first packet, with a key frame.
    pub(crate) sets: Option<Arc<Vec<Vec<u8>>>>,
    /// Of the chunk's first frame.
    pub(crate) context: Option<Arc<Context>>,
}

impl Payload for Packet {
    fn is_same(&self, other: &Self) -> bool {
        match (self.buffer.map_readable(), other.buffer.map_readable()) {
            (Ok(a), Ok(b)) => a.as_slice() == b.as_slice(),
            _ => false,
        }
    }
}

impl Media for Video {
    type Frame = Frame;
    type Packet = Packet;
    type Event = gst::Event;
    type Failure = Arc<Failure>;
    type Flow = gst::FlowError;

    fn is_eos(event: &gst::Event) -> bool {
        event.type_() == gst::EventType::Eos
    }

    fn is_end(event: &gst::Event) -> bool {
        Self::is_eos(event) || event.type_() == gst::EventType::SegmentDone
    }

    fn stamp(frame: &mut Frame, private: u64) {
        let buffer = frame.buffer.make_mut();
        buffer.set_pts(gst::ClockTime::from_nseconds(private));
        buffer.set_dts(gst::ClockTime::NONE);
    }
}
