// SPDX-License-Identifier: MPL-2.0

//! The pictures of a file, found without decoding one: their times and the key frames among them.
//!
//! The file is demuxed and parsed to its end. What comes is the list that a decoder would make, as far as a container tells: times in the
//! order of presentation, cut to what is to be shown (edit lists). Where it doesn't tell, [`Scan::trouble`] says what is missing; such a
//! file can be decoded from its beginning only.

use crate::source::{SourceError, ignoring_sink, make, said};
use gst::prelude::*;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// A picture that is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Picture {
    /// When, in nanoseconds of stream time: as a player shows it, from 0 or soon after it.
    pub time: u64,
    /// Decoding may begin here.
    pub is_key: bool,
}

/// What was found in one video stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// In the order in which they are shown.
    pub pictures: Vec<Picture>,
    /// Packets without a time.
    pub untimed: usize,
    /// Pictures that begin before what is to be shown, and aren't: others may refer to them.
    pub hidden: usize,
    /// The first packet is no key frame.
    pub begins_amid: bool,
    /// Where the last packet of any stream of the file ends, in nanoseconds of stream time.
    pub end: u64,
    /// Bytes of the packets of all other streams.
    pub beside: u64,
}

/// No parser looks into VP8, and IVF files don't tell key frames. (RFC 6386, 9.1.)
fn is_vp8_delta(packet: &gst::BufferRef) -> bool {
    let mut tag = [0];
    packet.copy_to_slice(0, &mut tag).is_ok() && tag[0] & 1 == 1
}

/// Why ranges of a stream can't be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Nothing,
    Untimed(usize),
    Repeated(usize),
    NoKeyFrame,
    BeginsAmid,
}

impl fmt::Display for Trouble {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(to, "it has no pictures"),
            Self::Untimed(count) => write!(to, "{count} of its packets have no time"),
            Self::Repeated(count) => write!(to, "{count} of its pictures have the time of another"),
            Self::NoKeyFrame => write!(to, "none of its pictures is a key frame"),
            Self::BeginsAmid => write!(to, "it doesn't begin with a key frame"),
        }
    }
}

impl Scan {
    /// What keeps a range from being found by times alone.
    pub fn trouble(&self) -> Option<Trouble> {
        let two = self.pictures.windows(2);
        let repeated = two.filter(|two| two[0].time == two[1].time).count();
        if self.untimed > 0 {
            Some(Trouble::Untimed(self.untimed))
        } else if self.pictures.is_empty() {
            Some(Trouble::Nothing)
        } else if repeated > 0 {
            Some(Trouble::Repeated(repeated))
        } else if self.begins_amid {
            Some(Trouble::BeginsAmid)
        } else if self.key_frames() == 0 {
            Some(Trouble::NoKeyFrame)
        } else {
            None
        }
    }

    fn keys(&self) -> impl Iterator<Item = &Picture> {
        self.pictures.iter().filter(|picture| picture.is_key)
    }

    pub fn key_frames(&self) -> usize {
        self.keys().count()
    }

    /// The longest time between two key frames, in nanoseconds.
    pub fn key_distance(&self) -> Option<u64> {
        let times: Vec<u64> = self.keys().map(|picture| picture.time).collect();
        times.windows(2).map(|two| two[1] - two[0]).max()
    }

    /// The shortest and the longest time from one picture to the next, in nanoseconds.
    pub fn gaps(&self) -> Option<(u64, u64)> {
        let gaps = self
            .pictures
            .windows(2)
            .map(|two| two[1].time - two[0].time);
        gaps.clone().min().zip(gaps.max())
    }

    /// A packet came.
    fn packet(
        &mut self,
        packet: &gst::BufferRef,
        segment: &gst::FormattedSegment<gst::ClockTime>,
        is_vp8: bool,
    ) {
        let is = |flag| packet.flags().contains(flag);
        // What isn't shown, but others refer to; and what comes before any picture.
        let is_header = is(gst::BufferFlags::HEADER) && packet.pts().is_none();
        if is(gst::BufferFlags::DECODE_ONLY) || is_header {
            return;
        }
        let is_delta = is(gst::BufferFlags::DELTA_UNIT) || is_vp8 && is_vp8_delta(packet);
        let count = self.pictures.len() + self.untimed + self.hidden;
        self.begins_amid |= count == 0 && is_delta;
        let Some(pts) = packet.pts() else {
            self.untimed += 1;
            return;
        };
        let end = packet.duration().map(|duration| pts + duration);
        let shown = segment.clip(pts, end).and_then(|(from, _)| from);
        match shown.and_then(|from| segment.to_stream_time(from)) {
            Some(time) => self.pictures.push(Picture {
                time: time.nseconds(),
                is_key: !is_delta,
            }),
            None => self.hidden += 1,
        }
    }
}

/// Scans a file's video stream of this number, counted from 0.
pub fn scan(path: &Path, number: usize) -> Result<Scan, SourceError> {
    let found = Arc::new(Mutex::new(Found::default()));
    let pipeline = gst::Pipeline::new();
    let file = make("filesrc")?;
    file.set_property("location", path);
    let parse = make("parsebin")?;
    let elements = [&file, &parse];
    let is_linked = pipeline.add_many(elements).and_then(|()| file.link(&parse));
    is_linked.map_err(|error| SourceError::Missing(error.to_string()))?;
    parse.connect_pad_added({
        let (found, pipeline) = (found.clone(), pipeline.downgrade());
        move |_, pad| {
            let Some(pipeline) = pipeline.upgrade() else {
                return;
            };
            if let Err(error) = take(&pipeline, pad, &found, number) {
                gst::element_error!(pipeline, gst::CoreError::Pad, ("{error}"));
            }
        }
    });
    let ended = run(&pipeline);
    let _ = pipeline.set_state(gst::State::Null);
    let found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    ended.map_err(|said| SourceError::Unknown {
        path: path.into(),
        said,
    })?;
    if found.streams == 0 {
        return Err(SourceError::NoVideo(path.into()));
    }
    if number >= found.streams {
        return Err(SourceError::NoSuchStream {
            path: path.into(),
            count: found.streams,
            number,
        });
    }
    let mut scan = found.scan;
    (scan.end, scan.beside) = (found.end, found.beside);
    scan.pictures.sort();
    Ok(scan)
}

#[derive(Default)]
struct Found {
    /// Of all streams.
    end: u64,
    /// Of those that aren't looked for.
    beside: u64,
    /// Video streams.
    streams: usize,
    scan: Scan,
}

/// A stream has been found: packets of the one that is looked for are noted, others go nowhere.
fn take(
    pipeline: &gst::Pipeline,
    pad: &gst::Pad,
    found: &Arc<Mutex<Found>>,
    number: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    let name = caps.structure(0).map(|it| it.name().to_string());
    let name = name.unwrap_or_default();
    let is_wanted = (name.starts_with("video/") || name.starts_with("image/")) && {
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.streams += 1;
        found.streams == number + 1
    };
    let mut chain = vec![ignoring_sink()?];
    // Pictures, not parts of them.
    let whole = match name.as_str() {
        _ if !is_wanted => None,
        "video/x-h264" => Some(("h264parse", "video/x-h264,alignment=au")),
        "video/x-h265" => Some(("h265parse", "video/x-h265,alignment=au")),
        "video/x-av1" => Some(("av1parse", "video/x-av1,alignment=tu")),
        "video/x-vp9" => Some(("vp9parse", "video/x-vp9,alignment=super-frame")),
        _ => None,
    };
    if let Some((parser, caps)) = whole {
        let filter = make("capsfilter")?;
        filter.set_property_from_str("caps", caps);
        chain.splice(0..0, [make(parser)?, filter]);
    }
    pipeline.add_many(&chain)?;
    gst::Element::link_many(&chain)?;
    let last = chain.last().and_then(|sink| sink.static_pad("sink"));
    if let Some(last) = last {
        let found = found.clone();
        let is_vp8 = name == "video/x-vp8";
        let segment = Mutex::new(gst::FormattedSegment::new());
        let types = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
        last.add_probe(types, move |_, info| {
            let mut segment = segment.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(gst::EventView::Segment(event)) = info.event().map(|it| it.view())
                && let Some(time) = event.segment().downcast_ref::<gst::ClockTime>()
            {
                *segment = time.clone();
            } else if let Some(packet) = info.buffer() {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                let end = packet
                    .pts()
                    .map(|pts| pts + packet.duration().unwrap_or_default());
                let end = end.and_then(|end| segment.to_stream_time(end));
                found.end = found.end.max(end.map_or(0, gst::ClockTime::nseconds));
                match is_wanted {
                    true => found.scan.packet(packet, &segment, is_vp8),
                    false => found.beside += packet.size() as u64,
                }
            }
            gst::PadProbeReturn::Ok
        });
    }
    for element in chain.iter().rev() {
        element.sync_state_with_parent()?;
    }
    let first = chain[0].static_pad("sink").ok_or("no sink pad")?;
    pad.link(&first)?;
    Ok(())
}

/// Until all has come. Woken by the end of the streams or by an error, one of which a pipeline that plays posts.
fn run(pipeline: &gst::Pipeline) -> Result<(), String> {
    let bus = pipeline.bus().ok_or("a pipeline without a bus")?;
    let is_playing = pipeline.set_state(gst::State::Playing);
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    if is_playing.is_err() {
        let said = bus.pop_filtered(&ends).and_then(|message| said(&message));
        return Err(said.unwrap_or_else(|| "it can't be played".into()));
    }
    let end = bus.timed_pop_filtered(gst::ClockTime::NONE, &ends);
    match end.and_then(|message| said(&message)) {
        Some(said) => Err(said),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pictures(times: &[u64]) -> Scan {
        let picture = |&time: &u64| Picture {
            time,
            is_key: time.is_multiple_of(50),
        };
        Scan {
            pictures: times.iter().map(picture).collect(),
            ..Scan::default()
        }
    }

    #[test]
    fn what_keeps_ranges_from_being_found_is_named() {
        assert_eq!(pictures(&[0, 10, 20]).trouble(), None);
        assert_eq!(pictures(&[]).trouble(), Some(Trouble::Nothing));
        assert_eq!(pictures(&[0, 10, 10]).trouble(), Some(Trouble::Repeated(1)));
        assert_eq!(pictures(&[10, 20]).trouble(), Some(Trouble::NoKeyFrame));
        let untimed = Scan {
            untimed: 3,
            ..pictures(&[0])
        };
        assert_eq!(untimed.trouble(), Some(Trouble::Untimed(3)));
        let amid = Scan {
            begins_amid: true,
            ..pictures(&[10, 50])
        };
        assert_eq!(amid.trouble(), Some(Trouble::BeginsAmid));
    }

    #[test]
    fn distances_are_between_neighbours() {
        let scan = pictures(&[0, 10, 25, 50, 150]);
        assert_eq!((scan.key_frames(), scan.key_distance()), (3, Some(100)));
        assert_eq!(scan.gaps(), Some((10, 100)));
        assert_eq!(pictures(&[0]).gaps(), None);
        assert_eq!(pictures(&[0]).key_distance(), None);
    }
}
