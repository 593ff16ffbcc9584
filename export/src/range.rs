// SPDX-License-Identifier: MPL-2.0

//! Pictures of a range, decoded without what is before them, and exactly those that the scan found.
//!
//! Decoding begins at the key frame before the range. Where the planned times don't come (an index that lies, a container that can't
//! seek to a frame), it begins again at an earlier key frame, and at last at the beginning of the file. What has no times is decoded from
//! the beginning and counted. Right before fast.

use crate::failure::Failure;
use crate::scan::Scan;
use crate::source::{SourceError, ignore, make, said};
use gst::prelude::*;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How often the bus is looked at while no picture comes.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(50);

/// Pictures that wait to be taken: enough for a decoder not to wait, and little memory.
const WAITING: u64 = 4;

/// Bytes of them.
const LITTLE: u64 = 8 << 20;

/// How many of such a size wait at most.
pub(crate) fn few(bytes: usize, most: u64) -> u64 {
    (LITTLE / (bytes as u64).max(1)).clamp(1, most)
}

/// Where decoding begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the picture of this number, a key frame.
    Key(usize),
    Beginning,
}

/// What comes of a range.
pub enum Step<'a> {
    /// Decoding begins here. What came before doesn't count.
    Begins(Start),
    /// One before the range was decoded on the way.
    Skipped,
    /// The picture of this number, counted from 0 in the whole file.
    Picture(usize, &'a gst::SampleRef),
}

/// Why a range couldn't be decoded, even from the beginning of the file.
#[derive(Debug, thiserror::Error)]
pub enum RangeError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("the decoder failed: {0}")]
    Decoder(String),
    #[error("picture {number} of the file didn't come at its time, {planned:.6} s, but {}", what_came(.came))]
    Differs {
        number: usize,
        /// In seconds.
        planned: f64,
        came: Option<f64>,
    },
    #[error("picture {0} of the file is damaged")]
    Damaged(usize),
    /// Whoever took the pictures wants no more.
    #[error("{0}")]
    Stopped(Box<Failure>),
}

fn what_came(time: &Option<f64>) -> String {
    time.map_or_else(
        || "the file ended".into(),
        |time| format!("one at {time:.6} s"),
    )
}

/// Decodes the pictures of these numbers of the video stream of this number, and says where that began in the end. An error of `step` ends
/// it.
pub fn decode(
    path: &Path,
    stream: usize,
    scan: &Scan,
    range: Range<usize>,
    mut step: impl FnMut(Step<'_>) -> Result<(), Failure>,
) -> Result<Start, RangeError> {
    let mut last = None;
    for start in starts(scan, range.start) {
        step(Step::Begins(start)).map_err(stopped)?;
        match attempt(path, stream, scan, range.clone(), start, &mut step) {
            Ok(()) => return Ok(start),
            Err(error @ RangeError::Stopped(_)) => return Err(error),
            Err(error) => last = Some(error),
        }
    }
    // (There is always one attempt.)
    Err(last.unwrap_or_else(|| RangeError::Decoder("it wasn't tried".into())))
}

/// Decodes all pictures, whatever was found of them, with numbers from 0.
pub fn decode_all(
    path: &Path,
    stream: usize,
    mut step: impl FnMut(Step<'_>) -> Result<(), Failure>,
) -> Result<(), RangeError> {
    let decoder = Decoder::open(path, stream)?;
    decoder.play()?;
    for number in 0.. {
        let Some(sample) = decoder.next()? else {
            break;
        };
        step(Step::Picture(number, &sample)).map_err(stopped)?;
    }
    Ok(())
}

/// Where decoding may begin for a range that begins with this picture, in the order in which it is tried.
fn starts(scan: &Scan, first: usize) -> Vec<Start> {
    let mut starts = Vec::new();
    if scan.trouble().is_none() {
        let before = scan.pictures.iter().enumerate().take(first + 1);
        let keys = before.filter(|(_, picture)| picture.is_key);
        starts.extend(keys.map(|(number, _)| Start::Key(number)).rev().take(2));
    }
    starts.retain(|start| *start != Start::Key(0));
    starts.push(Start::Beginning);
    starts
}

/// What may differ between a planned time and the one that comes: both are rounded, neighbours are further apart.
fn tolerance(scan: &Scan) -> u64 {
    let shortest = scan.gaps().map_or(u64::MAX, |(shortest, _)| shortest);
    (shortest / 2).clamp(1, 2_000_000)
}

fn attempt(
    path: &Path,
    stream: usize,
    scan: &Scan,
    range: Range<usize>,
    start: Start,
    step: &mut impl FnMut(Step<'_>) -> Result<(), Failure>,
) -> Result<(), RangeError> {
    let decoder = Decoder::open(path, stream)?;
    if let Start::Key(number) = start {
        decoder.seek(scan.pictures[number].time)?;
    }
    decoder.play()?;
    let tolerance = tolerance(scan);
    let counts = scan.trouble().is_some();
    let mut counted = 0;
    let mut wanted = range.start;
    while wanted < range.end {
        let planned = scan.pictures.get(wanted).map(|picture| picture.time);
        let differs = |came: Option<u64>| RangeError::Differs {
            number: wanted,
            planned: planned.map_or(f64::NAN, seconds),
            came: came.map(seconds),
        };
        let Some(sample) = decoder.next()? else {
            return Err(differs(None));
        };
        let (came, is_damaged) = looked_at(&sample);
        let is_wanted = match (counts, came, planned) {
            (true, ..) => counted == wanted,
            (false, Some(came), Some(planned)) => match came.abs_diff(planned) <= tolerance {
                true => true,
                // What is decoded on the way.
                false if came < planned && wanted == range.start => false,
                false => return Err(differs(Some(came))),
            },
            (false, ..) => return Err(differs(came)),
        };
        counted += 1;
        if !is_wanted {
            step(Step::Skipped).map_err(stopped)?;
            continue;
        }
        if is_damaged {
            return Err(RangeError::Damaged(wanted));
        }
        step(Step::Picture(wanted, &sample)).map_err(stopped)?;
        wanted += 1;
    }
    Ok(())
}

fn stopped(failure: Failure) -> RangeError {
    RangeError::Stopped(Box::new(failure))
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// When a picture is shown, in nanoseconds of stream time, and whether the decoder says that it is damaged.
fn looked_at(sample: &gst::SampleRef) -> (Option<u64>, bool) {
    let flags = sample.buffer().map(gst::BufferRef::flags);
    let is_damaged = flags.is_none_or(|flags| flags.contains(gst::BufferFlags::CORRUPTED));
    (stream_time(sample), is_damaged)
}

/// When a picture is shown, in nanoseconds of stream time.
pub fn stream_time(sample: &gst::SampleRef) -> Option<u64> {
    let segment = sample
        .segment()
        .and_then(|it| it.downcast_ref::<gst::ClockTime>());
    let pts = sample.buffer().and_then(gst::BufferRef::pts);
    let time = segment.zip(pts);
    let time = time.and_then(|(segment, pts)| segment.to_stream_time(pts));
    time.map(gst::ClockTime::nseconds)
}

/// A file's video stream, being decoded.
struct Decoder {
    pipeline: gst::Pipeline,
    bus: gst::Bus,
    sink: gst_app::AppSink,
}

impl Drop for Decoder {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Decoder {
    /// Opens it, with its first picture decoded.
    fn open(path: &Path, number: usize) -> Result<Self, RangeError> {
        let pipeline = gst::Pipeline::new();
        let missing = |error: gst::glib::BoolError| SourceError::Missing(error.to_string());
        let file = make("filesrc")?;
        file.set_property("location", path);
        let decode = make("decodebin")?;
        // Other streams aren't decoded.
        decode.set_property("expose-all-streams", false);
        decode.set_property_from_str("caps", "video/x-raw(ANY)");
        let sink = gst_app::AppSink::builder()
            .sync(false)
            .max_buffers(1)
            .build();
        pipeline
            .add_many([&file, &decode, sink.upcast_ref()])
            .map_err(missing)?;
        file.link(&decode).map_err(missing)?;
        let streams = Arc::new(AtomicUsize::new(0));
        // Without the one that is wanted, no picture would come, and no end.
        decode.connect_no_more_pads({
            let streams = streams.clone();
            move |decode| {
                if streams.load(Ordering::SeqCst) <= number {
                    gst::element_error!(decode, gst::StreamError::Decode, ("no decoder for it"));
                }
            }
        });
        decode.connect_pad_added({
            let (sink, pipeline) = (sink.downgrade(), pipeline.downgrade());
            move |_, pad| {
                let (Some(sink), Some(pipeline)) = (sink.upgrade(), pipeline.upgrade()) else {
                    return;
                };
                let index = streams.fetch_add(1, Ordering::SeqCst);
                let linked = if index == number {
                    let to = sink.static_pad("sink");
                    to.map(|to| pad.link(&to).map(|_| ()).map_err(|error| error.to_string()))
                } else {
                    Some(ignore(&pipeline, pad).map_err(|error| error.to_string()))
                };
                if let Some(Err(error)) = linked {
                    gst::element_error!(pipeline, gst::CoreError::Pad, ("{error}"));
                }
            }
        });
        let bus = pipeline.bus();
        let bus = bus.ok_or_else(|| RangeError::Decoder("a pipeline without a bus".into()))?;
        let decoder = Self {
            pipeline,
            bus,
            sink,
        };
        decoder.pause()?;
        Ok(decoder)
    }

    /// Waits for a picture. Woken by the pipeline, which posts one of these, or ends without one.
    fn pause(&self) -> Result<(), RangeError> {
        let is_paused = self.pipeline.set_state(gst::State::Paused);
        self.settled(is_paused.is_err())
    }

    fn settled(&self, has_failed: bool) -> Result<(), RangeError> {
        let ends = [gst::MessageType::AsyncDone, gst::MessageType::Error];
        let message = match has_failed {
            true => self.bus.pop_filtered(&ends[1..]),
            false => self.bus.timed_pop_filtered(gst::ClockTime::NONE, &ends),
        };
        let message = message.ok_or_else(|| RangeError::Decoder("it can't be played".into()))?;
        said(&message).map_or(Ok(()), |said| Err(RangeError::Decoder(said)))
    }

    /// Goes on at the key frame that is shown at this time, or at one before it.
    fn seek(&self, time: u64) -> Result<(), RangeError> {
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::KEY_UNIT | gst::SeekFlags::SNAP_BEFORE;
        // Times are rounded, and it isn't to be the one before for a nanosecond.
        let time = gst::ClockTime::from_nseconds(time + 1_000_000);
        let sought = self.pipeline.seek_simple(flags, time);
        sought.map_err(|error| RangeError::Decoder(error.to_string()))?;
        self.settled(false)
    }

    fn play(&self) -> Result<(), RangeError> {
        let is_playing = self.pipeline.set_state(gst::State::Playing);
        is_playing.map_err(|error| RangeError::Decoder(error.to_string()))?;
        Ok(())
    }

    /// The next picture; `None` at the end. Woken by a picture and by the end; an error is looked for at each tick.
    fn next(&self) -> Result<Option<gst::Sample>, RangeError> {
        loop {
            if let Some(sample) = self.sink.try_pull_sample(TICK) {
                let bytes = sample.buffer().map_or(0, gst::BufferRef::size);
                self.sink.set_max_buffers(few(bytes, WAITING) as u32);
                return Ok(Some(sample));
            }
            let error = self.bus.pop_filtered(&[gst::MessageType::Error]);
            if let Some(said) = error.and_then(|message| said(&message)) {
                return Err(RangeError::Decoder(said));
            }
            if self.sink.is_eos() {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::Picture;

    fn scan(keys: &[usize], count: usize) -> Scan {
        let picture = |number: usize| Picture {
            time: number as u64 * 40_000_000,
            is_key: keys.contains(&number),
        };
        Scan {
            pictures: (0..count).map(picture).collect(),
            ..Scan::default()
        }
    }

    #[test]
    fn decoding_begins_at_the_key_frame_before_or_earlier() {
        let film = scan(&[0, 20, 40, 60], 80);
        let beginning = Start::Beginning;
        assert_eq!(starts(&film, 0), [beginning]);
        assert_eq!(starts(&film, 19), [beginning]);
        assert_eq!(starts(&film, 20), [Start::Key(20), beginning]);
        assert_eq!(
            starts(&film, 59),
            [Start::Key(40), Start::Key(20), beginning]
        );
        // Without times, there is nothing to go to.
        let untimed = Scan { untimed: 1, ..film };
        assert_eq!(starts(&untimed, 59), [beginning]);
    }

    #[test]
    fn times_are_compared_as_they_are_rounded() {
        assert_eq!(tolerance(&scan(&[0], 3)), 2_000_000);
        assert_eq!(tolerance(&scan(&[0], 1)), 2_000_000);
        let mut close = scan(&[0], 3);
        close.pictures[2].time = close.pictures[1].time + 1_000_000;
        assert_eq!(tolerance(&close), 500_000);
    }
}
