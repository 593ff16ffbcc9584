// SPDX-License-Identifier: MPL-2.0

//! The element `vtparallelenc` of this workspace, set as a plan says, with what comes after it.

use crate::digest;
use crate::failure::Failure;
use crate::formats::codec_of;
use crate::plan::{Plan, Request};
use crate::source::make;
use gst::prelude::*;
use gst_app::{AppSrc, AppStreamType};
use std::path::Path;
use vtparallelenc::export::{self, given::Given};
use vtparallelenc::parallelenc::ParallelEnc;

/// Raw frames that wait before the element.
const WAITING: u64 = 2;

/// Frames without pixels that wait before it: as many as are taken in a few ticks.
const WAITING_STAND_INS: u64 = 1_000;

/// Frames of the longest chunk: what is encoded around it costs 3 % of its time then, where it costs most (x264enc: 34 frames), and what is lost
/// with a process is less than a minute of film.
const LONGEST_CHUNK: u64 = 1_000;

/// How often the bus is looked at while frames wait.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(2);

/// How long an encoder may be silent before its pipeline is given up: longer than the element waits itself.
const SILENCE: gst::ClockTime = gst::ClockTime::from_seconds(90);

/// Frames in, through the element, to a muxer.
pub struct Encoding {
    pub pipeline: gst::Pipeline,
    pub enc: ParallelEnc,
    pub muxer: gst::Element,
    /// After the element.
    valve: gst::Element,
    src: AppSrc,
    bus: gst::Bus,
}

impl Drop for Encoding {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

/// Elements that make what muxers take of what encoders make.
fn parser(encoded: &gst::Caps) -> Option<&'static str> {
    let name = encoded.structure(0)?.name();
    Some(match name.as_str() {
        "video/x-h264" => "h264parse",
        "video/x-h265" => "h265parse",
        "video/x-av1" => "av1parse",
        "video/mpeg" => match encoded.structure(0)?.get::<i32>("mpegversion") {
            Ok(4) => "mpeg4videoparse",
            _ => "mpegvideoparse",
        },
        _ => return None,
    })
}

/// An encoder by its description, alone.
fn parsed(description: &str) -> Result<gst::Bin, Failure> {
    let bin = gst::parse::bin_from_description(description, true);
    bin.map_err(|error| {
        Failure::cannot(format!(
            "the encoder `{description}` can't be made: {}",
            error.message()
        ))
    })
}

fn pad_of(element: &impl IsA<gst::Element>, name: &str) -> Result<gst::Pad, Failure> {
    let element: &gst::Element = element.upcast_ref();
    let pad = element.static_pad(name);
    pad.ok_or_else(|| Failure::failed(format!("{} has no pad {name}", element.name())))
}

fn linked<E>(result: Result<impl Sized, E>, what: &str) -> Result<(), Failure>
where
    E: std::fmt::Display,
{
    result
        .map(|_| ())
        .map_err(|error| Failure::cannot(format!("{what} can't be linked: {error}")))
}

/// The encoder, or with a converter before it where it doesn't take such frames.
pub fn fitting(encoder: &str, caps: &gst::Caps) -> Result<String, Failure> {
    let takes = |description: &str| -> Result<bool, Failure> {
        let accepted = pad_of(&parsed(description)?, "sink")?.query_caps(None);
        Ok(accepted.can_intersect(caps))
    };
    if takes(encoder)? {
        return Ok(encoder.into());
    }
    let converted = format!("videoconvert ! {encoder}");
    match takes(&converted)? {
        true => Ok(converted),
        false => Err(Failure::cannot(format!(
            "the encoder `{encoder}` takes no frames like the source's: {caps}"
        ))),
    }
}

/// What makes the bytes, as far as anyone can tell: versions, and the plugins' own files.
pub fn fingerprint(encoder: &str) -> Result<Vec<String>, Failure> {
    let bin = parsed(encoder)?;
    let mut all = vec![
        format!("vtexport {}", env!("CARGO_PKG_VERSION")),
        gst::version_string().to_string(),
    ];
    for element in bin.iterate_elements().into_iter().flatten() {
        let Some(factory) = element.factory() else {
            continue;
        };
        let plugin = factory.plugin();
        let version = plugin.as_ref().map(|plugin| plugin.version());
        let file = plugin.and_then(|plugin| plugin.filename());
        let file = file.and_then(|file| digest::of_file(Path::new(&file)).ok());
        all.push(format!(
            "{} {} {}",
            factory.name(),
            version.as_deref().unwrap_or("without a version"),
            file.as_deref().unwrap_or("without a file")
        ));
    }
    Ok(all)
}

/// The plan that the element makes. `Ok(Err)`: one encoder has to encode all, for this reason.
pub fn plan(plan: &Plan) -> Result<Result<export::Plan, String>, Failure> {
    let encoding = Encoding::new(plan)?;
    let enc = &encoding.enc;
    encoding.ask(&plan.request);
    export::plan_up_to(enc, LONGEST_CHUNK);
    // Jobs see no more of the film than their chunks.
    enc.set_property_from_str("cut", "fixed");
    // (No process holds more than a few frames.)
    enc.set_property("max-raw-bytes", u64::MAX);
    encoding.sink_to_nowhere()?;
    encoding.start(gst::State::Paused)?;
    let sink = pad_of(enc, "sink")?;
    sink.send_event(gst::event::StreamStart::new("plan"));
    sink.send_event(gst::event::Caps::new(&plan.caps()?));
    if let Some(error) = encoding.error() {
        return Err(Failure::cannot(error.text));
    }
    Ok(match export::plan(enc, plan.frames()) {
        Some(planned) if planned.has_vbv => Err(
            "the encoder keeps a decoder's buffer (VBV), of which no chunk knows how full it is when it begins".into(),
        ),
        Some(planned) => Ok(planned),
        None => {
            let stats = enc.property::<gst::Structure>("stats");
            Err(stats.get("sequential-reason").unwrap_or_else(|_| "there is no plan".into()))
        }
    })
}

impl Encoding {
    /// The element with the plan's encoder, and the plan's muxer after it.
    pub fn new(plan: &Plan) -> Result<Self, Failure> {
        let enc: ParallelEnc = gst::glib::Object::builder()
            .property("name", "encode")
            .build();
        enc.set_property("encoder", &plan.encoder);
        enc.set_property("source-frame-count", plan.expected_frames());
        let src = AppSrc::builder()
            .caps(&plan.caps()?)
            .format(gst::Format::Time)
            .stream_type(AppStreamType::Stream)
            .max_bytes(0)
            .build();
        let muxer = make(&plan.muxer)?;
        let valve = make("valve")?;
        let pipeline = gst::Pipeline::new();
        let bus = pipeline
            .bus()
            .ok_or_else(|| Failure::failed("a pipeline without a bus"))?;
        let encoding = Self {
            pipeline,
            enc,
            muxer,
            valve,
            src,
            bus,
        };
        let makes = pad_of(&parsed(&plan.encoder)?, "src")?.query_caps(None);
        let mut chain = vec![
            encoding.src.clone().upcast(),
            encoding.enc.clone().upcast(),
            encoding.valve.clone(),
        ];
        if let Some(parser) = parser(&makes) {
            chain.push(make(parser)?);
        }
        linked(encoding.pipeline.add_many(&chain), "the encoder")?;
        linked(encoding.pipeline.add(&encoding.muxer), "the muxer")?;
        linked(gst::Element::link_many(&chain), "the encoder")?;
        let last = &chain[chain.len() - 1];
        let codec: gst::Caps = makes.iter().map(codec_of).collect();
        let muxer = encoding.muxer_pad(&codec)?;
        linked(pad_of(last, "src")?.link(&muxer), "the muxer")?;
        Ok(encoding)
    }

    /// A pad of the muxer for such a stream.
    fn muxer_pad(&self, caps: &gst::Caps) -> Result<gst::Pad, Failure> {
        let template = takes(&self.muxer, caps);
        let pad = template.and_then(|template| self.muxer.request_pad(&template, None, None));
        pad.ok_or_else(|| {
            let muxer = self
                .muxer
                .factory()
                .map_or_else(String::new, |it| it.name().into());
            let codec = crate::source::described(caps);
            Failure::cannot(format!(
                "{muxer} takes no {codec}; `vtexport formats` lists what each type of file holds"
            ))
        })
    }

    /// What the user may have set of the plan; the rest is the element's to plan.
    pub fn ask(&self, request: &Request) {
        let frames = request.chunk_frames.unwrap_or(0);
        let frames = u32::try_from(frames).unwrap_or(u32::MAX);
        self.enc.set_property("sessions", request.jobs.unwrap_or(0));
        let threads = request.threads.unwrap_or(0);
        self.enc.set_property("threads-per-session", threads);
        self.enc.set_property("chunk-frames", frames);
    }

    /// What all have that make or join the plan's chunks.
    pub fn give(&self, plan: &Plan, given: Given, kept: &Path) {
        let enc = &self.enc;
        let number = |number: u64| i32::try_from(number).unwrap_or(i32::MAX);
        let longest = plan.chunks.iter().map(crate::plan::Chunk::frames).max();
        let longest = u32::try_from(longest.unwrap_or(0)).unwrap_or(u32::MAX);
        enc.set_property("threads-per-session", plan.threads);
        enc.set_property("overlap-before", number(plan.before));
        enc.set_property("overlap-after", number(plan.after));
        enc.set_property("chunk-frames", longest);
        enc.set_property("min-chunk-frames", 1_u32);
        enc.set_property("max-attempts", 1_u32);
        enc.set_property("max-raw-bytes", u64::MAX);
        enc.set_property("cache-location", kept);
        enc.set_property("cache-max-bytes", 0_u64);
        let sessions = match given.only() {
            Some(_) => 1,
            None => u32::try_from(plan.jobs).unwrap_or(1).min(64),
        };
        enc.set_property("sessions", sessions);
        export::give(enc, given);
    }

    /// What is made isn't looked at.
    pub fn sink_to_nowhere(&self) -> Result<(), Failure> {
        let sink = crate::source::ignoring_sink()?;
        linked(self.pipeline.add(&sink), "a sink")?;
        linked(self.muxer.link(&sink), "a sink")
    }

    /// What the element makes goes nowhere: it is kept. (One chunk needn't be a stream: it may lack what the first one brings.) What comes after
    /// the element is there for what it accepts.
    pub fn keep_from_muxer(
        &self,
        seen: impl Fn(&gst::BufferRef) + Send + Sync + 'static,
    ) -> Result<(), Failure> {
        self.valve.set_property("drop", true);
        let bus = self.bus.clone();
        let mask = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
        pad_of(&self.enc, "src")?.add_probe(mask, move |_, info| {
            match &info.data {
                Some(gst::PadProbeData::Buffer(packet)) => seen(packet),
                Some(gst::PadProbeData::Event(event)) if event.type_() == gst::EventType::Eos => {
                    let _ = bus.post(gst::message::Eos::new());
                }
                _ => (),
            }
            gst::PadProbeReturn::Ok
        });
        Ok(())
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
            WAITING
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

/// The template of the muxer's pads that take such a stream.
pub fn takes(muxer: &gst::Element, caps: &gst::Caps) -> Option<gst::PadTemplate> {
    let templates = muxer.pad_template_list();
    templates.into_iter().find(|template| {
        template.direction() == gst::PadDirection::Sink && template.caps().can_intersect(caps)
    })
}
