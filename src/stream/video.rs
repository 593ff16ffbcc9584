// SPDX-License-Identifier: MPL-2.0

//! What the engine handles here: raw frames, packets, events and flows of GStreamer.

use crate::logic::engine::Media;
use crate::logic::store::Payload;
use crate::session::failure::Failure;
pub(crate) use crate::session::{Context, Frame};
use gst::FlowError;
use std::sync::Arc;

pub(crate) struct Video;

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
        same_bytes(&self.buffer, &other.buffer)
    }

    fn bits(&self) -> u64 {
        self.buffer.size() as u64 * 8
    }
}

pub(super) fn same_bytes(a: &gst::BufferRef, b: &gst::BufferRef) -> bool {
    match (a.map_readable(), b.map_readable()) {
        (Ok(a), Ok(b)) => a.as_slice() == b.as_slice(),
        _ => false,
    }
}

/// The longest duration of a frame that encoders are told.
const LONGEST: gst::ClockTime = gst::ClockTime::from_seconds(24 * 3600);

impl Media for Video {
    type Frame = Frame;
    type Packet = Packet;
    type Event = gst::Event;
    type Failure = Arc<Failure>;
    type Flow = FlowError;

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
        // What is restored when its packet leaves. Some encoders refuse what they can't compute with.
        if buffer.duration() > Some(LONGEST) {
            buffer.set_duration(gst::ClockTime::NONE);
        }
    }
}
