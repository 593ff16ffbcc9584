// SPDX-License-Identifier: MPL-2.0

//! Frames into a pipeline, no more at once than are needed, and what it says of itself.

use crate::failure::Failure;
use crate::range::few;
use gst::prelude::*;
use gst_app::{AppSrc, AppStreamType};

/// Raw frames that wait before the element.
const WAITING: u64 = 2;

/// Frames without pixels that wait before it: as many as are taken in a few ticks.
const WAITING_STAND_INS: u64 = 1_000;

/// How often the bus is looked at while frames wait.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(2);

/// How long an encoder may be silent before its pipeline is given up: longer than the element waits itself.
const SILENCE: gst::ClockTime = gst::ClockTime::from_seconds(90);

/// A pipeline that begins with frames that are pushed.
pub struct Feed {
    pub pipeline: gst::Pipeline,
    src: AppSrc,
    bus: gst::Bus,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Feed {
    /// Its first element is there, and is [`src`](Self::src).
    pub fn new(caps: &gst::Caps) -> Result<Self, Failure> {
        let src = AppSrc::builder()
            .caps(caps)
            .format(gst::Format::Time)
            .stream_type(AppStreamType::Stream)
            .max_bytes(0)
            .build();
        let pipeline = gst::Pipeline::new();
        let bus = pipeline
            .bus()
            .ok_or_else(|| Failure::failed("a pipeline without a bus"))?;
        Ok(Self { pipeline, src, bus })
    }

    pub fn src(&self) -> AppSrc {
        self.src.clone()
    }

    pub fn bus(&self) -> &gst::Bus {
        &self.bus
    }

    /// Frames that were pushed and aren't taken.
    pub fn waiting(&self) -> u64 {
        self.src.current_level_buffers()
    }

    /// All elements are closed.
    pub fn stop(&self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }

    pub fn start(&self, state: gst::State) -> Result<(), Failure> {
        let unsaid = || Failure::failed("the pipeline doesn't start");
        match self.pipeline.set_state(state) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.error().unwrap_or_else(unsaid)),
        }
    }

    /// The frames from here on have other caps.
    pub fn set_caps(&self, caps: &gst::Caps) {
        self.src.set_caps(Some(caps));
    }

    /// The first error that was posted.
    pub fn error(&self) -> Option<Failure> {
        let error = self.bus.pop_filtered(&[gst::MessageType::Error]);
        error.and_then(|message| posted(&message))
    }

    /// Waits until there is room for a frame, and gives it. Woken by an error at once, looks at the room at each tick.
    pub fn push(&self, frame: gst::Buffer) -> Result<(), Failure> {
        let mut waited = gst::ClockTime::ZERO;
        let most = if frame.size() == 0 {
            WAITING_STAND_INS
        } else {
            few(frame.size(), WAITING)
        };
        while self.src.current_level_buffers() >= most {
            let message = self
                .bus
                .timed_pop_filtered(TICK, &[gst::MessageType::Error]);
            if let Some(error) = message.and_then(|message| posted(&message)) {
                return Err(error);
            }
            waited += TICK;
            if waited > SILENCE {
                return Err(Failure::failed(format!(
                    "the encoder took no frame for {SILENCE:.0}"
                )));
            }
        }
        let pushed = self.src.push_buffer(frame);
        pushed.map(|_| ()).map_err(|flow| {
            let unsaid = || Failure::failed(format!("the encoder takes no more frames: {flow}"));
            self.error().unwrap_or_else(unsaid)
        })
    }

    /// No frame comes any more: waits until all is made. `ticks`: what is done meanwhile, a hundred times a second.
    pub fn finish(&self, mut ticks: impl FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
        let _ = self.src.end_of_stream();
        let ends = [gst::MessageType::Eos, gst::MessageType::Error];
        let tick = gst::ClockTime::from_mseconds(10);
        loop {
            ticks()?;
            match self.bus.timed_pop_filtered(tick, &ends) {
                Some(end) => return posted(&end).map_or(Ok(()), Err),
                None => continue,
            }
        }
    }
}

/// What an error message says. The element says of a chunk more than is true of one that is encoded alone: there, it is always the first.
fn posted(message: &gst::Message) -> Option<Failure> {
    let gst::MessageView::Error(error) = message.view() else {
        return None;
    };
    let details = error.details();
    let of = |field: &str| details.and_then(|details| details.get::<String>(field).ok());
    let text = of("reason").unwrap_or_else(|| error.error().to_string());
    let chunk = details.and_then(|details| details.get::<u64>("chunk").ok());
    if error.error().matches(gst::ResourceError::NotFound)
        && of("cause").as_deref() == Some("not-kept")
    {
        let chunk = chunk.and_then(|chunk| usize::try_from(chunk).ok());
        return Some(Failure {
            missing: chunk,
            ..Failure::again(match chunk {
                Some(chunk) => format!("chunk {chunk} can't be joined: {text}"),
                None => text,
            })
        });
    }
    if error.error().matches(gst::ResourceError::NoSpaceLeft) {
        return Some(Failure::again(text));
    }
    Some(Failure::failed(text))
}
