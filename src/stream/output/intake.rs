// SPDX-License-Identifier: MPL-2.0

//! What comes out of a session's encoder, before it is anybody's: looked into, and perhaps recorded.

use crate::cache::Recorder;
use crate::clock;
use crate::logic::engine::{PacketTimes, Refused};
use crate::logic::ids::AttemptId;
use crate::logic::store::{Fault, Kind};
use crate::media::bitstream::{Format, alignment_of_parts, as_first};
use crate::panics::may_panic;
use crate::stream::CAT;
use crate::stream::shared::Shared;
use crate::stream::video::{Context, Packet};
use gst::prelude::*;
use gst::{FlowError, FlowSuccess};
use parking_lot::Mutex;
use std::sync::Arc;

/// What came on a session's pad; replaced for each attempt.
#[derive(Default)]
pub(crate) struct Intake {
    /// Whose packets they are. An encoder that is primed before its chunk is known sends its caps before.
    attempt: Option<AttemptId>,
    /// Private time from which on a picture is one of the chunk's own, or of its trail; 0: there is none before.
    own_from: u64,
    /// The first of these has come.
    begun: bool,
    pub(super) context: Option<Arc<Context>>,
    caps: Option<gst::Caps>,
    /// What the caps declare.
    format: Format,
    /// The alignment by which its packets are parts of frames.
    parts: Option<String>,
    /// The parameter sets of the attempt's first packet, which some encoders send just once.
    sets: Option<Arc<Vec<Vec<u8>>>>,
    /// TAG events since the last packet.
    tags: Vec<gst::Event>,
    /// Remembers it for the cache.
    pub(in crate::stream) recorder: Option<Recorder>,
}

impl Intake {
    /// What comes from now on is of this attempt.
    pub(in crate::stream) fn begin(
        &mut self,
        attempt: AttemptId,
        own_from: u64,
        context: Arc<Context>,
    ) {
        self.attempt = Some(attempt);
        self.own_from = own_from;
        self.context = Some(context);
        self.begun = false;
        self.sets = None;
    }

    fn caps(&mut self, caps: gst::Caps) {
        if let Some(recorder) = &mut self.recorder {
            recorder.caps(&caps);
        }
        self.format = Format::of(&caps);
        self.parts = alignment_of_parts(&caps);
        self.caps = Some(caps);
    }

    fn tags(&mut self, event: gst::Event) {
        if let Some(recorder) = &mut self.recorder {
            recorder.tags(&event);
        }
        self.tags.push(event);
    }

    /// What a packet is, and the packet as it may be sent.
    fn packet(&mut self, buffer: gst::Buffer) -> (Kind, PacketTimes, Packet) {
        if let Some(recorder) = &mut self.recorder {
            recorder.packet(&buffer);
        }
        let times = PacketTimes {
            pts: buffer.pts().map(gst::ClockTime::nseconds),
            dts: buffer.dts().map(gst::ClockTime::nseconds),
        };
        let claimed = claimed_kind(&buffer);
        let (buffer, kind) = match claimed {
            Kind::Key | Kind::Delta => self.examine(buffer, claimed, times.pts),
            _ => (buffer, claimed),
        };
        let packet = Packet {
            buffer,
            caps: self.caps.clone(),
            tags: std::mem::take(&mut self.tags),
            sets: self.sets.clone().filter(|_| kind == Kind::Key),
            context: self.context.clone(),
        };
        (kind, times, packet)
    }

    /// Looks into the packet of a picture, which its encoder claims to be a key frame or not. As the first of its chunk
    /// it has to be one, and to have the parameter sets with it where the format carries them in band.
    fn examine(
        &mut self,
        buffer: gst::Buffer,
        claimed: Kind,
        pts: Option<u64>,
    ) -> (gst::Buffer, Kind) {
        let format = self.format;
        if self.sets.is_none()
            && let Ok(packet) = buffer.map_readable()
        {
            self.sets = Some(Arc::new(format.parameter_sets(&packet)));
        }
        let is_own = pts.is_some_and(|pts| pts >= self.own_from);
        if !is_own || std::mem::replace(&mut self.begun, true) {
            return (buffer, claimed);
        }
        let told = buffer.map_readable().ok();
        let is_first = self.own_from == 0;
        match told.and_then(|packet| format.is_random_access(&packet, is_first)) {
            Some(false) => return (buffer, Kind::Delta),
            None if claimed != Kind::Key => return (buffer, claimed),
            _ => (),
        }
        let sets = self.sets.as_deref().map(Vec::as_slice).unwrap_or_default();
        (as_first(buffer, format, sets), Kind::Key)
    }
}

fn claimed_kind(buffer: &gst::BufferRef) -> Kind {
    let flags = buffer.flags();
    if flags.contains(gst::BufferFlags::DECODE_ONLY) {
        Kind::Invisible
    } else if flags.contains(gst::BufferFlags::HEADER) && buffer.pts().is_none() {
        Kind::Header
    } else if flags.contains(gst::BufferFlags::DELTA_UNIT) {
        Kind::Delta
    } else {
        Kind::Key
    }
}

impl Shared {
    pub(in crate::stream) fn take_packet(
        &self,
        intake: &Mutex<Intake>,
        buffer: gst::Buffer,
    ) -> Result<FlowSuccess, FlowError> {
        if self.passes() {
            // Neither headers nor what isn't shown.
            if let Kind::Key | Kind::Delta = claimed_kind(&buffer) {
                self.lock().passes_out(clock::now());
            }
            return self.src.push(buffer);
        }
        gst::trace!(CAT, obj = self.src, "{buffer:?}");
        let (attempt, parts, (kind, times, packet)) = {
            let mut intake = intake.lock();
            let Some(attempt) = intake.attempt else {
                return Err(FlowError::Error);
            };
            (attempt, intake.parts.clone(), intake.packet(buffer))
        };
        if let Some(alignment) = parts {
            self.lock().fault(attempt, Fault::Parts { alignment });
            return Err(FlowError::Error);
        }
        let accepted = {
            let mut engine = self.lock();
            may_panic!("taking a packet, locked");
            engine.packet(attempt, kind, times, packet, clock::now())
        };
        match accepted {
            Ok(false) => Ok(FlowSuccess::Ok),
            // The rest of the trail needn't be encoded.
            Ok(true) => Err(FlowError::Eos),
            Err(Refused::Flushing) => Err(FlowError::Flushing),
            Err(Refused::Halted(flow)) => Err(flow),
            Err(Refused::Over) => Err(FlowError::Error),
        }
    }

    /// The encoder leaves out the frame with this private time.
    pub(in crate::stream) fn skip(&self, intake: &Mutex<Intake>, private: gst::ClockTime) {
        let private = private.nseconds();
        let attempt = {
            let mut intake = intake.lock();
            if let Some(recorder) = &mut intake.recorder {
                recorder.skip(private);
            }
            intake.attempt
        };
        if let Some(attempt) = attempt {
            self.lock().skip(attempt, private);
        }
    }

    pub(in crate::stream) fn take_event(&self, intake: &Mutex<Intake>, event: gst::Event) -> bool {
        if self.passes() {
            if event.type_() == gst::EventType::Eos {
                self.tell_of_end();
            }
            return self.src.push_event(event);
        }
        match event.view() {
            gst::EventView::Caps(caps) => intake.lock().caps(caps.caps_owned()),
            gst::EventView::Tag(_) => intake.lock().tags(event),
            gst::EventView::Eos(_) => {
                let attempt = intake.lock().attempt;
                if let Some(attempt) = attempt {
                    self.lock().encoder_ended(attempt);
                }
            }
            // The sessions' own stream, and what the encoder makes of our force-key-unit events.
            _ => gst::trace!(CAT, obj = self.src, "Dropped {event:?}"),
        }
        true
    }
}
