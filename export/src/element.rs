// SPDX-License-Identifier: MPL-2.0

//! The element `vtparallelenc` of this workspace, set as a plan says, with what comes after it.

use crate::digest;
use crate::failure::Failure;
use crate::feed::Feed;
use crate::formats::codec_of;
use crate::plan::{Plan, Request};
use crate::source::make;
use gst::prelude::*;
use std::path::Path;
use vtparallelenc::export::{self, given::Given};
use vtparallelenc::logic::scenes::Change;
use vtparallelenc::parallelenc::ParallelEnc;

/// Frames of the longest chunk: what is encoded around it costs 2 % of its time then, where it costs most (x264enc: 34 frames), and what is lost
/// with a process is a minute of film.
const LONGEST_CHUNK: u64 = 1_500;

/// Frames in, through the element, to a muxer.
pub struct Encoding {
    pub feed: Feed,
    pub enc: ParallelEnc,
    pub muxer: gst::Element,
    /// After the element.
    valve: gst::Element,
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

pub fn pad_of(element: &impl IsA<gst::Element>, name: &str) -> Result<gst::Pad, Failure> {
    let element: &gst::Element = element.upcast_ref();
    let pad = element.static_pad(name);
    pad.ok_or_else(|| Failure::failed(format!("{} has no pad {name}", element.name())))
}

pub fn linked<E>(result: Result<impl Sized, E>, what: &str) -> Result<(), Failure>
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

/// What a machine offers that has this encoder, as a name: of the versions, and of the encoder's own file. (Each task compares all of the
/// [`fingerprint`].)
pub fn tag(encoder: &str) -> Result<String, Failure> {
    let factories = parsed(encoder)?;
    let factories = factories.iterate_elements().into_iter().flatten();
    let mut factories = factories.filter_map(|element| element.factory());
    let encoder = factories.find(|it| it.has_type(gst::ElementFactoryType::VIDEO_ENCODER));
    let encoder = encoder.ok_or_else(|| Failure::usage("that is no video encoder"))?;
    let name = encoder.name();
    let all = digest::of_bytes(fingerprint(&name)?.join("\n").as_bytes());
    Ok(format!("vtexport-{name}-{}", all.get(..8).unwrap_or(&all)))
}

/// The plan that the element makes. `Ok(Err)`: one encoder has to encode all, for this reason.
/// `changes`: how its frames differ, where its chunks are to end at cuts.
pub fn plan(
    plan: &Plan,
    changes: &[Option<Change>],
) -> Result<Result<export::Plan, String>, Failure> {
    let encoding = Encoding::new(plan)?;
    let enc = &encoding.enc;
    encoding.ask(&plan.request);
    export::plan_up_to(enc, LONGEST_CHUNK);
    if changes.is_empty() {
        enc.set_property_from_str("cut", "fixed");
    }
    // (No process holds more than a few frames.)
    enc.set_property("max-raw-bytes", u64::MAX);
    encoding.sink_to_nowhere()?;
    encoding.feed.start(gst::State::Paused)?;
    let sink = pad_of(enc, "sink")?;
    sink.send_event(gst::event::StreamStart::new("plan"));
    sink.send_event(gst::event::Caps::new(&plan.caps()?));
    if let Some(error) = encoding.feed.error() {
        return Err(Failure::cannot(error.text));
    }
    Ok(match export::plan(enc, plan.frames(), changes) {
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
        if let Some(passes) = &plan.passes {
            enc.set_property_from_str("encoder-properties", &passes.properties);
        }
        enc.set_property("source-frame-count", plan.expected_frames());
        let muxer = make(&plan.muxer)?;
        let valve = make("valve")?;
        let encoding = Self {
            feed: Feed::new(&plan.caps()?)?,
            enc,
            muxer,
            valve,
        };
        let pipeline = &encoding.feed.pipeline;
        let makes = pad_of(&parsed(&plan.encoder)?, "src")?.query_caps(None);
        let mut chain = vec![
            encoding.feed.src().upcast(),
            encoding.enc.clone().upcast(),
            encoding.valve.clone(),
        ];
        if let Some(parser) = parser(&makes) {
            chain.push(make(parser)?);
        }
        linked(pipeline.add_many(&chain), "the encoder")?;
        linked(pipeline.add(&encoding.muxer), "the muxer")?;
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
        linked(self.feed.pipeline.add(&sink), "a sink")?;
        linked(self.muxer.link(&sink), "a sink")
    }

    /// What the element makes goes nowhere: it is kept. (One chunk needn't be a stream: it may lack what the first one brings.) What comes after
    /// the element is there for what it accepts.
    pub fn keep_from_muxer(
        &self,
        seen: impl Fn(&gst::BufferRef) + Send + Sync + 'static,
    ) -> Result<(), Failure> {
        self.valve.set_property("drop", true);
        let bus = self.feed.bus().clone();
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
}

/// The template of the muxer's pads that take such a stream.
pub fn takes(muxer: &gst::Element, caps: &gst::Caps) -> Option<gst::PadTemplate> {
    let templates = muxer.pad_template_list();
    templates.into_iter().find(|template| {
        template.direction() == gst::PadDirection::Sink && template.caps().can_intersect(caps)
    })
}
