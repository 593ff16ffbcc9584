// SPDX-License-Identifier: MPL-2.0

//! An element alone between two pads of the test, which sees everything that leaves it on either side, and may send
//! anything from any thread.

use super::gray;
use gst::prelude::*;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What leaves downstream, in order.
#[derive(Debug, Clone)]
pub enum Entry {
    Buffer(gst::Buffer),
    Event(gst::Event),
}

/// What upstream answers, and what reached it.
#[derive(Default)]
pub struct Upstream {
    pub events: Vec<gst::Event>,
    pub queries: Vec<gst::QueryType>,
    pub duration: Option<gst::ClockTime>,
    pub is_live: bool,
    /// Minimum and maximum latency.
    pub latency: (gst::ClockTime, Option<gst::ClockTime>),
}

/// What downstream answers, and what reached it.
pub struct Downstream {
    pub entries: Vec<Entry>,
    pub queries: Vec<gst::QueryType>,
    /// Returned for each packet.
    pub flow: Result<gst::FlowSuccess, gst::FlowError>,
    /// Caps that it says it accepts.
    pub caps: gst::Caps,
    /// It takes none of those that it is sent.
    pub refuses_caps: bool,
}

/// Called with downstream's pad and each packet, before it is taken.
type Hook = Box<dyn FnMut(&gst::Pad, &gst::BufferRef) + Send>;

pub struct Rig {
    pub enc: gst::Element,
    pub src: gst::Pad,
    pub sink: gst::Pad,
    pub upstream: Arc<Mutex<Upstream>>,
    pub downstream: Arc<Mutex<Downstream>>,
    hook: Arc<Mutex<Option<Hook>>>,
    ended: mpsc::Receiver<()>,
    bus: gst::Bus,
}

/// No answer takes nearly as long: one that does hangs.
const HANG: Duration = Duration::from_secs(60);

impl Rig {
    /// An encoder that runs, without a stream.
    pub fn bare(encoder: &str) -> Self {
        super::init();
        let enc = gst::parse::launch(encoder).unwrap();
        let upstream = Arc::new(Mutex::new(Upstream::default()));
        let downstream = Arc::new(Mutex::new(Downstream {
            entries: Vec::new(),
            queries: Vec::new(),
            flow: Ok(gst::FlowSuccess::Ok),
            caps: gst::Caps::new_any(),
            refuses_caps: false,
        }));
        let (sender, ended) = mpsc::channel();
        let (events, queries) = (upstream.clone(), upstream.clone());
        let src = gst::Pad::builder(gst::PadDirection::Src)
            .event_function(move |_, _, event| {
                events.lock().unwrap().events.push(event);
                true
            })
            .query_function(move |_, _, query| {
                let mut upstream = queries.lock().unwrap();
                upstream.queries.push(query.type_());
                match query.view_mut() {
                    gst::QueryViewMut::Duration(duration) => {
                        upstream.duration.is_some_and(|time| {
                            duration.set(time);
                            true
                        })
                    }
                    gst::QueryViewMut::Latency(latency) => {
                        let (min, max) = upstream.latency;
                        latency.set(upstream.is_live, min, max);
                        true
                    }
                    gst::QueryViewMut::Position(position) => {
                        position.set(gst::ClockTime::from_seconds(7));
                        true
                    }
                    gst::QueryViewMut::Seeking(seeking) => {
                        seeking.set(true, gst::ClockTime::ZERO, gst::ClockTime::from_seconds(9));
                        true
                    }
                    _ => false,
                }
            })
            .build();
        let (chained, evented, queried) =
            (downstream.clone(), downstream.clone(), downstream.clone());
        let hook = Arc::new(Mutex::new(None::<Hook>));
        let hooked = hook.clone();
        let sink = gst::Pad::builder(gst::PadDirection::Sink)
            .chain_function(move |pad, _, buffer| {
                if let Some(hook) = &mut *hooked.lock().unwrap() {
                    hook(pad, &buffer);
                }
                let mut downstream = chained.lock().unwrap();
                downstream.entries.push(Entry::Buffer(buffer));
                downstream.flow
            })
            .event_function(move |_, _, event| {
                let kind = event.type_();
                let mut downstream = evented.lock().unwrap();
                downstream.entries.push(Entry::Event(event));
                if kind == gst::EventType::Eos {
                    let _ = sender.send(());
                }
                kind != gst::EventType::Caps || !downstream.refuses_caps
            })
            .query_function(move |_, _, query| {
                let mut downstream = queried.lock().unwrap();
                downstream.queries.push(query.type_());
                match query.view_mut() {
                    gst::QueryViewMut::Caps(caps) => {
                        let answer = match caps.filter_owned() {
                            Some(filter) => filter.intersect(&downstream.caps),
                            None => downstream.caps.clone(),
                        };
                        caps.set_result(&answer);
                        true
                    }
                    // What it was told before it may still get.
                    gst::QueryViewMut::AcceptCaps(accept) => {
                        accept.set_result(true);
                        true
                    }
                    _ => false,
                }
            })
            .build();
        let bus = gst::Bus::new();
        enc.set_bus(Some(&bus));
        src.link(&enc.static_pad("sink").unwrap()).unwrap();
        enc.static_pad("src").unwrap().link(&sink).unwrap();
        sink.set_active(true).unwrap();
        src.set_active(true).unwrap();
        enc.set_state(gst::State::Playing).unwrap();
        Self {
            enc,
            src,
            sink,
            upstream,
            downstream,
            hook,
            ended,
            bus,
        }
    }

    /// An encoder whose stream of `scriptedenc` pictures has begun.
    pub fn new(encoder: &str) -> Self {
        Self::with_caps(encoder, super::GRAY)
    }

    pub fn with_caps(encoder: &str, caps: &str) -> Self {
        let rig = Self::bare(encoder);
        rig.begin(caps);
        rig
    }

    /// STREAM_START, CAPS, SEGMENT.
    pub fn begin(&self, caps: &str) {
        self.send(gst::event::StreamStart::new("rig"));
        let caps: gst::Caps = caps.parse().unwrap();
        self.send(gst::event::Caps::new(&caps));
        self.begin_segment();
    }

    pub fn begin_segment(&self) {
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        self.send(gst::event::Segment::new(&segment));
    }

    /// An event that has to be taken.
    pub fn send(&self, event: gst::Event) {
        let text = format!("{event:?}");
        assert!(self.src.push_event(event), "{text}");
    }

    /// A picture at 25 per second.
    pub fn push(&self, number: u64) -> Result<gst::FlowSuccess, gst::FlowError> {
        push_to(&self.src, number)
    }

    pub fn push_all(&self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            self.push(number).unwrap();
        }
    }

    /// A flush and a new segment.
    pub fn flush(&self) {
        self.send(gst::event::FlushStart::new());
        self.send(gst::event::FlushStop::new(true));
        self.begin_segment();
    }

    /// Pushes frames until one is refused.
    pub fn push_until_refused(&self) {
        let _ = (0..2000)
            .map(|number| self.push(number))
            .find(Result::is_err);
    }

    /// The frames that left so far, in order.
    pub fn frames(&self) -> Vec<u64> {
        self.entries().iter().filter_map(Entry::frame).collect()
    }

    /// Sends EOS and waits for it at the other end.
    pub fn end(&self) {
        self.send(gst::event::Eos::new());
        self.wait_for_end();
    }

    pub fn wait_for_end(&self) {
        if self.ended.recv_timeout(HANG).is_err() {
            let errors = self.messages(&[gst::MessageType::Error]);
            panic!("it hangs: {errors:?}");
        }
    }

    /// Sees each packet before it is taken.
    pub fn on_packet(&self, hook: impl FnMut(&gst::Pad, &gst::BufferRef) + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    /// What left so far, which is forgotten.
    pub fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut self.downstream.lock().unwrap().entries)
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.downstream.lock().unwrap().entries.clone()
    }

    /// What left so far, as text that is the same whatever the output's timestamps are moved by: packets by their frame's number
    /// and times, events by what they say.
    pub fn story(&self) -> Vec<String> {
        story(&self.entries())
    }

    /// Messages of these types on the bus.
    pub fn messages(&self, types: &[gst::MessageType]) -> Vec<gst::Message> {
        std::iter::from_fn(|| self.bus.pop_filtered(types)).collect()
    }

    pub fn stats(&self) -> gst::Structure {
        self.enc.property("stats")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.enc.set_state(gst::State::Null);
        let _ = self.src.set_active(false);
        let _ = self.sink.set_active(false);
        // Its messages hold the element, which holds it.
        self.bus.set_flushing(true);
        self.enc.set_bus(None);
    }
}

pub fn push_to(pad: &gst::Pad, number: u64) -> Result<gst::FlowSuccess, gst::FlowError> {
    let frame = gst::ClockTime::from_mseconds(40);
    pad.push(gray(number, (frame * number, Some(frame))))
}

impl Entry {
    pub fn buffer(&self) -> Option<&gst::BufferRef> {
        match self {
            Entry::Buffer(buffer) => Some(buffer),
            Entry::Event(_) => None,
        }
    }

    pub fn event(&self) -> Option<&gst::Event> {
        match self {
            Entry::Buffer(_) => None,
            Entry::Event(event) => Some(event),
        }
    }

    /// The frame's number of a packet of `scriptedenc`.
    pub fn frame(&self) -> Option<u64> {
        let bytes = self.buffer()?.map_readable().ok()?;
        let text = std::str::from_utf8(&bytes).ok()?;
        text.split(' ').next()?.parse().ok()
    }

    pub fn is_key(&self) -> bool {
        self.buffer()
            .is_some_and(|buffer| !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT))
    }
}

fn story(entries: &[Entry]) -> Vec<String> {
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    let time = |time: Option<gst::ClockTime>| time.map_or("none".into(), |it| it.to_string());
    let mut story = Vec::new();
    for entry in entries {
        story.push(match entry {
            Entry::Buffer(buffer) => {
                let what = match entry.frame() {
                    Some(frame) => format!("frame {frame}"),
                    None => "packet".to_string(),
                };
                let running = buffer.pts().map(|pts| segment.to_running_time_full(pts));
                format!("{what} at {running:?} for {}", time(buffer.duration()))
            }
            Entry::Event(event) => match event.view() {
                gst::EventView::Caps(caps) => format!("caps {}", caps.caps()),
                gst::EventView::Segment(event) => {
                    let Some(times) = event.segment().downcast_ref::<gst::ClockTime>() else {
                        story.push(format!("segment {:?}", event.segment()));
                        continue;
                    };
                    segment = times.clone();
                    format!(
                        "segment of {} at rate {} {} from {} time {} {:?} offset {}",
                        time(
                            times
                                .stop()
                                .map(|stop| stop.saturating_sub(times.start().unwrap()))
                        ),
                        times.rate(),
                        times.applied_rate(),
                        time(times.base()),
                        time(times.time()),
                        times.flags(),
                        event.running_time_offset(),
                    )
                }
                gst::EventView::Tag(tag) => format!("tag {:?} {}", tag.tag().scope(), tag.tag()),
                gst::EventView::StreamStart(start) => format!(
                    "stream-start {} {:?} {:?}",
                    start.stream_id(),
                    start.group_id(),
                    start.stream_flags()
                ),
                _ => match gst_video::DownstreamForceKeyUnitEvent::parse(event) {
                    Ok(key) => format!(
                        "key at {} {} headers {} count {}",
                        time(key.running_time),
                        time(key.stream_time),
                        key.all_headers,
                        key.count
                    ),
                    Err(_) => {
                        let about = event.structure().map(|it| it.to_string());
                        format!("{} {}", event.type_().name(), about.unwrap_or_default())
                    }
                },
            },
        });
    }
    // GstVideoEncoder sends some tags twice in a row.
    story.dedup_by(|a, b| a.starts_with("tag ") && a == b);
    story
}

/// Does the same with the plain encoder and with ours, and compares what leaves.
pub fn assert_same(plain: &str, ours: &str, caps: Option<&str>, act: impl Fn(&Rig)) {
    let of = |encoder: &str| {
        let rig = match caps {
            Some(caps) => Rig::with_caps(encoder, caps),
            None => Rig::bare(encoder),
        };
        act(&rig);
        rig.story()
    };
    let (plain_story, our_story) = (of(plain), of(ours));
    for at in 0..plain_story.len().max(our_story.len()) {
        let around = |story: &[String]| {
            let range = at.saturating_sub(2)..(at + 4).min(story.len());
            story.get(range).map(<[_]>::to_vec)
        };
        assert_eq!(
            plain_story.get(at),
            our_story.get(at),
            "{:#?}\ninstead of{:#?}",
            around(&our_story),
            around(&plain_story)
        );
    }
}
