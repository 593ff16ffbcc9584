// SPDX-License-Identifier: MPL-2.0

//! What is in a source beside its picture: sound, subtitles, and what is said of all of it.

use crate::element::{Encoding, takes};
use crate::failure::Failure;
use crate::formats::{codec_of, default_audio_encoder};
use crate::join::{Audio, Options};
use crate::plan::{Plan, TimeRange};
use crate::source::{described, ignore, make};
use crate::subtitles::plain;
use gst::prelude::*;
use gst_video::{ValidVideoTimeCode, VideoTimeCodeMeta};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long it may take until the source's streams are known.
const PATIENCE: Duration = Duration::from_secs(60);

/// The source's other streams.
pub struct Streams {
    pub notes: Arc<Mutex<Vec<String>>>,
    /// All streams are known, and what they are called.
    known: Receiver<()>,
    /// What comes later than this stream time in nanoseconds is left out.
    pub until: Arc<AtomicU64>,
}

/// What becomes of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It goes over as it is.
    Copied,
    /// Its text does.
    WithoutMarkup,
    /// It is encoded anew, by this description.
    Encoded(String),
    LeftOut,
}

impl Fate {
    /// Of sound with such caps.
    pub fn of_sound(muxer: &gst::Element, audio: &Audio, caps: &gst::Caps) -> Self {
        let codec: gst::Caps = caps.iter().map(codec_of).collect();
        match audio {
            Audio::None => Self::LeftOut,
            Audio::Encode(encoder) => Self::Encoded(encoder.clone()),
            Audio::Copy if takes(muxer, &codec).is_some() => Self::Copied,
            Audio::Copy => default_audio_encoder(muxer).map_or(Self::LeftOut, Self::Encoded),
        }
    }

    /// Of subtitles.
    pub fn of_text(muxer: &gst::Element, caps: &gst::Caps) -> Self {
        let is_taken = |caps: &gst::Caps| takes(muxer, caps).is_some();
        match plain_text(caps) {
            _ if is_taken(caps) => Self::Copied,
            Some(plain) if is_taken(&plain) => Self::WithoutMarkup,
            _ => Self::LeftOut,
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copied => write!(to, "goes over as it is"),
            Self::WithoutMarkup => write!(to, "goes over as plain text"),
            Self::Encoded(encoder) => write!(to, "is encoded anew with {encoder}"),
            Self::LeftOut => write!(to, "is left out"),
        }
    }
}

/// Where sound can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// Between packets: some milliseconds after the beginning of a range.
    Packet,
    /// Exactly.
    Sample,
}

/// What its callbacks share.
struct Shared {
    muxer: gst::Element,
    ending: String,
    audio: Audio,
    /// The number of the video stream that is exported.
    stream: usize,
    /// Video streams that have come.
    streams: Mutex<usize>,
    notes: Arc<Mutex<Vec<String>>>,
    until: Arc<AtomicU64>,
    /// What of the film is exported.
    range: TimeRange,
    /// Taken when all is known.
    known: Mutex<Option<Sender<()>>>,
    /// What the exported stream is called, its language, how it is turned.
    tags: Arc<Mutex<gst::TagList>>,
}

impl Streams {
    /// Takes them from the source into the encoding's muxer, as far as that takes them.
    pub fn attach(encoding: &Encoding, plan: &Plan, options: &Options) -> Result<Self, Failure> {
        let pipeline = &encoding.feed.pipeline;
        let file = make("filesrc")?;
        file.set_property("location", &plan.source.path);
        let parse = make("parsebin")?;
        let queue = make("multiqueue")?;
        queue.set_property("max-size-buffers", 0_u32);
        queue.set_property("max-size-time", 0_u64);
        queue.set_property("max-size-bytes", 32_u32 << 20);
        pipeline.add_many([&file, &parse, &queue])?;
        file.link(&parse)?;
        let (sender, known) = channel();
        let notes = Arc::new(Mutex::new(Vec::new()));
        let until = Arc::new(AtomicU64::new(plan.time_range().to));
        let tags = Arc::new(Mutex::new(gst::TagList::new()));
        // (Of those muxers, that one writes it.)
        let code = plan.first_time_code().filter(|_| plan.muxer == "qtmux");
        if let Some(code) = plan.time_code.as_ref().filter(|_| code.is_none()) {
            let ending = &plan.request.ending;
            let left_out = format!(
                "The time code ({code}) is left out, as it isn't written into {ending} files here."
            );
            notes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(left_out);
        }
        mark_first_packet(encoding, &tags, code)?;
        let shared = Arc::new(Shared {
            muxer: encoding.muxer.clone(),
            ending: plan.request.ending.clone(),
            audio: options.audio.clone(),
            stream: plan.request.stream,
            streams: Mutex::new(0),
            notes: notes.clone(),
            until: until.clone(),
            range: plan.time_range(),
            known: Mutex::new(Some(sender)),
            tags,
        });
        parse.connect_pad_added({
            let (pipeline, queue) = (pipeline.downgrade(), queue.downgrade());
            move |parse, pad| {
                let (Some(pipeline), Some(queue)) = (pipeline.upgrade(), queue.upgrade()) else {
                    return;
                };
                if let Err(error) = shared.take(&pipeline, &queue, pad) {
                    gst::element_error!(parse, gst::CoreError::Pad, ("{error}"));
                }
            }
        });
        Ok(Self {
            notes,
            known,
            until,
        })
    }

    /// Until the muxer has a pad for each stream: it takes none later. Woken when all streams are known; an error is looked for at each
    /// tick.
    pub fn wait(&self, encoding: &Encoding) -> Result<(), Failure> {
        let mut waited = Duration::ZERO;
        let tick = Duration::from_millis(20);
        loop {
            match self.known.recv_timeout(tick) {
                Err(RecvTimeoutError::Timeout) if waited < PATIENCE => (),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Failure::source(
                        "the source's streams aren't known after a minute",
                    ));
                }
                _ => return Ok(()),
            }
            waited += tick;
            if let Some(error) = encoding.feed.error() {
                return Err(Failure::source(error.text));
            }
        }
    }
}

/// The video stream's tags go before its first packet, and a time code with it.
fn mark_first_packet(
    encoding: &Encoding,
    tags: &Arc<Mutex<gst::TagList>>,
    code: Option<ValidVideoTimeCode>,
) -> Result<(), Failure> {
    let src = encoding.enc.static_pad("src");
    let src = src.ok_or_else(|| Failure::failed("the encoder has no source pad"))?;
    let tags = tags.clone();
    src.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        if let (Some(code), Some(packet)) = (&code, info.buffer_mut()) {
            VideoTimeCodeMeta::add(packet.make_mut(), code);
        }
        let tags = std::mem::take(&mut *tags.lock().unwrap_or_else(PoisonError::into_inner));
        if tags.n_tags() > 0 {
            pad.push_event(gst::event::Tag::new(tags));
        }
        gst::PadProbeReturn::Remove
    });
    Ok(())
}

/// What is true of the source's packets and not of ours.
const NOT_OURS: [&str; 12] = [
    "codec",
    "video-codec",
    "audio-codec",
    "subtitle-codec",
    "container-format",
    "bitrate",
    "nominal-bitrate",
    "minimum-bitrate",
    "maximum-bitrate",
    "encoder",
    "encoder-version",
    "has-crc",
];

fn kept(tags: &gst::TagListRef) -> gst::TagList {
    let mut kept = gst::TagList::new();
    let list = kept.make_mut();
    for (tag, values) in tags.iter_generic() {
        if !NOT_OURS.contains(&tag.as_str()) {
            for value in values {
                let _ = list.add_generic(tag, value.clone(), gst::TagMergeMode::Append);
            }
        }
    }
    kept
}

impl Shared {
    fn note(&self, note: String) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// A packet of the video has come: all pads are there (they come at once, before any packet), and what is said of the video.
    fn all_is_known(&self) {
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(known) = known {
            let _ = known.send(());
        }
    }

    fn take(
        self: &Arc<Self>,
        pipeline: &gst::Pipeline,
        queue: &gst::Element,
        pad: &gst::Pad,
    ) -> Result<(), Failure> {
        let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
        let name = caps
            .structure(0)
            .map_or_else(String::new, |it| it.name().to_string());
        let kind = name.split('/').next().unwrap_or_default();
        match kind {
            "video" | "image" => self.watch(pipeline, pad),
            "audio" => self.audio(pipeline, queue, pad, &caps),
            "text" | "subpicture" | "closedcaption" => {
                self.cut(pad, Edge::Packet);
                self.copy(queue, pad, &caps, "subtitles")
            }
            _ if name.starts_with("application/x-subtitle")
                || name.starts_with("application/x-ssa") =>
            {
                self.cut(pad, Edge::Packet);
                self.copy(queue, pad, &caps, "subtitles")
            }
            _ => {
                self.note(format!("A stream of {} is left out.", described(&caps)));
                Ok(ignore(pipeline, pad)?)
            }
        }
    }

    /// Of what comes on the pad only that goes on which belongs to the picture, which may be a part of the film.
    fn cut(&self, pad: &gst::Pad, edge: Edge) {
        let (until, range) = (self.until.clone(), self.range);
        let source = Mutex::new(gst::FormattedSegment::<gst::ClockTime>::new());
        let mask = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
        pad.add_probe(mask, move |_, info| {
            let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut info.data {
                Some(gst::PadProbeData::Event(event)) => {
                    if let gst::EventView::Segment(segment) = event.view()
                        && let Some(time) = segment.segment().downcast_ref::<gst::ClockTime>()
                    {
                        *source = time.clone();
                        let seqnum = event.seqnum();
                        let part = part_of(time, range);
                        *event = gst::event::Segment::builder(&part).seqnum(seqnum).build();
                    }
                    gst::PadProbeReturn::Ok
                }
                Some(gst::PadProbeData::Buffer(packet)) => {
                    let time = |pts| Some(source.to_stream_time(pts)?.nseconds());
                    let begins = packet.pts().and_then(time);
                    let ends = packet.pts().zip(packet.duration());
                    let ends = ends.and_then(|(pts, duration)| time(pts + duration));
                    let first = match edge {
                        Edge::Packet => begins,
                        Edge::Sample => ends.or(begins),
                    };
                    let is_late = begins.is_some_and(|it| it >= until.load(Ordering::SeqCst));
                    match is_late || first.is_some_and(|it| it < range.from) {
                        true => gst::PadProbeReturn::Drop,
                        false => gst::PadProbeReturn::Ok,
                    }
                }
                _ => gst::PadProbeReturn::Ok,
            }
        });
    }

    /// The exported video isn't taken from here, but what is said of it.
    fn watch(self: &Arc<Self>, pipeline: &gst::Pipeline, pad: &gst::Pad) -> Result<(), Failure> {
        let number = {
            let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
            *streams += 1;
            *streams - 1
        };
        if number != self.stream {
            self.note(format!("Video stream {number} is left out."));
            return Ok(ignore(pipeline, pad)?);
        }
        let shared = self.clone();
        let mask = gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::BUFFER;
        pad.add_probe(mask, move |_, info| match &info.data {
            Some(gst::PadProbeData::Event(event)) => {
                shared.said(event);
                gst::PadProbeReturn::Ok
            }
            _ => {
                shared.all_is_known();
                gst::PadProbeReturn::Remove
            }
        });
        // What was said before the pad was there.
        pad.sticky_events_foreach(|event| {
            self.said(event);
            std::ops::ControlFlow::Continue(gst::EventForeachAction::Keep)
        });
        Ok(ignore(pipeline, pad)?)
    }

    fn said(&self, event: &gst::Event) {
        match event.view() {
            gst::EventView::Tag(tag) => {
                let kept = kept(tag.tag());
                let setter = self.muxer.dynamic_cast_ref::<gst::TagSetter>();
                match (tag.tag().scope(), setter) {
                    (gst::TagScope::Global, Some(setter)) => {
                        setter.merge_tags(&kept, gst::TagMergeMode::Replace);
                    }
                    (gst::TagScope::Global, None) => (),
                    _ => {
                        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
                        *tags = tags.merge(&kept, gst::TagMergeMode::Replace);
                    }
                }
            }
            gst::EventView::Toc(toc) => match self.muxer.dynamic_cast_ref::<gst::TocSetter>() {
                Some(setter) => setter.set_toc(Some(&toc.toc().0.to_owned())),
                None => self.note(format!("{} files hold no chapters here.", self.ending)),
            },
            _ => (),
        }
    }

    /// A stream goes over as it is, if the muxer takes it.
    fn copy(
        &self,
        queue: &gst::Element,
        pad: &gst::Pad,
        caps: &gst::Caps,
        what: &str,
    ) -> Result<(), Failure> {
        let pipeline = queue.parent().and_downcast::<gst::Pipeline>();
        let pipeline = pipeline.ok_or_else(|| Failure::failed("no pipeline"))?;
        if let (Fate::WithoutMarkup, Some(plain)) =
            (Fate::of_text(&self.muxer, caps), plain_text(caps))
        {
            let setter = make("capssetter")?;
            setter.set_property("caps", &plain);
            make_plain(pad);
            return self.through(&pipeline, queue, pad, &[setter], &plain);
        }
        let Some(template) = takes(&self.muxer, caps) else {
            self.note(format!(
                "{} ({what}) are left out, as {} files don't hold them.",
                described(caps),
                self.ending
            ));
            return Ok(ignore(&pipeline, pad)?);
        };
        let muxer_pad = self.muxer.request_pad(&template, None, None);
        let muxer_pad = muxer_pad.ok_or_else(|| Failure::failed("the muxer has no more pads"))?;
        queued(queue, pad, &muxer_pad)
    }

    fn audio(
        &self,
        pipeline: &gst::Pipeline,
        queue: &gst::Element,
        pad: &gst::Pad,
        caps: &gst::Caps,
    ) -> Result<(), Failure> {
        let encoder = match Fate::of_sound(&self.muxer, &self.audio, caps) {
            Fate::Encoded(encoder) => encoder,
            Fate::Copied | Fate::WithoutMarkup => {
                self.cut(pad, Edge::Packet);
                let Some(parser) = audio_parser(caps) else {
                    return self.copy(queue, pad, caps, "sound");
                };
                let codec: gst::Caps = caps.iter().map(codec_of).collect();
                let parser = make(parser)?;
                return self.through(pipeline, queue, pad, &[parser], &codec);
            }
            Fate::LeftOut if self.audio == Audio::None => return Ok(ignore(pipeline, pad)?),
            Fate::LeftOut => {
                return Err(Failure::cannot(format!(
                    "there is no encoder for the sound of {} files; --audio none leaves it out",
                    self.ending
                )));
            }
        };
        if self.audio == Audio::Copy {
            self.note(format!(
                "The sound ({}) is encoded anew with {encoder}, as {} files don't hold it.",
                described(caps),
                self.ending
            ));
        }
        // Its first and last samples are cut by the encoder.
        self.cut(pad, Edge::Sample);
        let bin = gst::parse::bin_from_description(
            &format!("audioconvert ! audioresample ! {encoder}"),
            true,
        );
        let bin = bin.map_err(|error| {
            Failure::cannot(format!(
                "the encoder `{encoder}` can't be made: {}",
                error.message()
            ))
        })?;
        let makes = bin
            .static_pad("src")
            .map_or_else(gst::Caps::new_empty, |pad| pad.query_caps(None));
        let makes: gst::Caps = makes.iter().map(codec_of).collect();
        let mut chain = vec![bin.upcast()];
        if let Some(parser) = audio_parser(&makes) {
            chain.push(make(parser)?);
        }
        let decode = make("decodebin")?;
        pipeline.add(&decode)?;
        let first = self.chain(pipeline, queue, &chain, &makes)?;
        decode.connect_pad_added(move |decode, pad| {
            if let Err(error) = pad.link(&first) {
                gst::element_error!(decode, gst::CoreError::Pad, ("{error}"));
            }
        });
        let sink = decode
            .static_pad("sink")
            .ok_or_else(|| Failure::failed("no pad"))?;
        pad.link(&sink)?;
        Ok(decode.sync_state_with_parent()?)
    }

    /// From the pad through these elements and a queue to the muxer.
    fn through(
        &self,
        pipeline: &gst::Pipeline,
        queue: &gst::Element,
        pad: &gst::Pad,
        chain: &[gst::Element],
        makes: &gst::Caps,
    ) -> Result<(), Failure> {
        let first = self.chain(pipeline, queue, chain, makes)?;
        pad.link(&first)?;
        Ok(())
    }

    /// These elements and a queue before the muxer; returns the first one's pad.
    fn chain(
        &self,
        pipeline: &gst::Pipeline,
        queue: &gst::Element,
        chain: &[gst::Element],
        makes: &gst::Caps,
    ) -> Result<gst::Pad, Failure> {
        let template = takes(&self.muxer, makes);
        let template = template.ok_or_else(|| {
            Failure::cannot(format!(
                "{} files hold no {}; `vtexport formats` lists what they hold",
                self.ending,
                described(makes)
            ))
        })?;
        let muxer_pad = self.muxer.request_pad(&template, None, None);
        let muxer_pad = muxer_pad.ok_or_else(|| Failure::failed("the muxer has no more pads"))?;
        pipeline.add_many(chain)?;
        gst::Element::link_many(chain)?;
        let ends = chain.first().zip(chain.last());
        let ends = ends
            .and_then(|(first, last)| Some((first.static_pad("sink")?, last.static_pad("src")?)));
        let (first, last) = ends.ok_or_else(|| Failure::failed("no pads"))?;
        queued(queue, &last, &muxer_pad)?;
        for element in chain.iter().rev() {
            element.sync_state_with_parent()?;
        }
        Ok(first)
    }
}

/// Through the queue, so that no stream waits for another.
fn queued(queue: &gst::Element, from: &gst::Pad, to: &gst::Pad) -> Result<(), Failure> {
    let sink = queue.request_pad_simple("sink_%u");
    let sink = sink.ok_or_else(|| Failure::failed("no pad of a queue"))?;
    let name = sink.name().replace("sink", "src");
    let src = queue
        .static_pad(&name)
        .ok_or_else(|| Failure::failed("no pad of a queue"))?;
    src.link(to)?;
    from.link(&sink)?;
    Ok(())
}

/// The same segment, of which only what is shown in the range is there, from the running time 0 on.
fn part_of(
    source: &gst::FormattedSegment<gst::ClockTime>,
    range: TimeRange,
) -> gst::FormattedSegment<gst::ClockTime> {
    let mut part = source.clone();
    let position =
        |time: u64| source.position_from_stream_time(gst::ClockTime::from_nseconds(time));
    if range.from > 0
        && let Some(start) = position(range.from)
    {
        part.set_start(start);
        part.set_time(gst::ClockTime::ZERO);
        part.set_base(gst::ClockTime::ZERO);
    }
    if range.to < u64::MAX
        && let Some(stop) = position(range.to)
    {
        part.set_stop(stop);
    }
    part
}

/// Text with markup, as plain text.
fn plain_text(caps: &gst::Caps) -> Option<gst::Caps> {
    let text = caps.structure(0).filter(|it| it.name() == "text/x-raw")?;
    let is_markup = text
        .get::<&str>("format")
        .is_ok_and(|it| it == "pango-markup");
    let plain = gst::Caps::builder("text/x-raw").field("format", "utf8");
    is_markup.then(|| plain.build())
}

fn make_plain(pad: &gst::Pad) {
    pad.add_probe(gst::PadProbeType::BUFFER, |_, info| {
        let Some(gst::PadProbeData::Buffer(buffer)) = &mut info.data else {
            return gst::PadProbeReturn::Ok;
        };
        let text = buffer
            .map_readable()
            .map(|it| plain(&String::from_utf8_lossy(&it)));
        if let Ok(text) = text {
            let mut plain = gst::Buffer::from_mut_slice(text.into_bytes());
            let (flags, timestamps) = (
                gst::BufferCopyFlags::FLAGS,
                gst::BufferCopyFlags::TIMESTAMPS,
            );
            let _ = buffer.copy_into(plain.make_mut(), flags | timestamps, ..);
            *buffer = plain;
        }
        gst::PadProbeReturn::Ok
    });
}

/// What makes of a codec what any muxer takes.
fn audio_parser(caps: &gst::Caps) -> Option<&'static str> {
    let structure = caps.structure(0)?;
    Some(match structure.name().as_str() {
        "audio/mpeg" => match structure.get::<i32>("mpegversion") {
            Ok(1) => "mpegaudioparse",
            _ => "aacparse",
        },
        "audio/x-ac3" | "audio/x-eac3" => "ac3parse",
        "audio/x-opus" => "opusparse",
        "audio/x-flac" => "flacparse",
        _ => return None,
    })
}
