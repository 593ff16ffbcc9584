// SPDX-License-Identifier: MPL-2.0

//! Two passes over all chunks: the first one finds out how hard each frame is to encode, and the second one has as many bits for each chunk
//! as one encoder of the whole film would give it, which knows all of it as well.
//!
//! ```text
//!  first pass over each chunk ─► statistics ─► rates: how many bits each chunk gets ─► second pass over each chunk
//!                                                ▲                                      │
//!                                                └── where a size is not to be passed ──┘
//! ```
//!
//! Bits follow from the first pass alone, by a rule that encoders have themselves: all frames get the same quantizer, apart from what their
//! types differ by (x264, x265), or bits by the root of what prediction leaves (libvpx); which quantizer that is follows from how many bits
//! there are. A chunk that is in work learns nothing of others.

use crate::chunk::{Came, Made, frames};
use crate::element::{linked, pad_of};
use crate::failure::Failure;
use crate::feed::Feed;
use crate::folder::{FirstPass, Folder, Pass, Rates, Record};
use crate::plan::{Chunk, Plan};
use crate::source::ignoring_sink;
use crate::statistics::{self, Film};
use gst::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use vtparallelenc::export::{self, Statistics};
use vtparallelenc::logic::timeline::THOUSAND_HOURS;

/// In bits per second: they count in kbit, and some need a little more than they say.
const BEYOND_LEAST: f64 = 2_000.0;

/// How the bits of the picture are spread over the chunks, all of whose first passes are made.
pub fn spread(plan: &Plan, folder: &Folder, bits: u64) -> Result<Rates, Failure> {
    let found = plan.chunks.iter().map(|chunk| {
        let found = folder.first_pass(plan, chunk.index);
        found.ok_or_else(|| not_made(folder, chunk.index))
    });
    let found = found.collect::<Result<Vec<FirstPass>, Failure>>()?;
    let film = read(plan, folder)?;
    let level = film.level(bits as f64);
    let seconds = |chunk: &Chunk| {
        let fed = chunk.fed();
        ((plan.time(fed.end) - plan.time(fed.start)) as f64 / 1e9).max(0.001)
    };
    let per_second = |bits: &[f64]| -> Vec<f64> {
        let chunks = bits.iter().zip(&plan.chunks);
        chunks.map(|(bits, chunk)| bits / seconds(chunk)).collect()
    };
    let least = per_second(&film.least());
    let least: Vec<u64> = least.iter().map(|it| (it + BEYOND_LEAST) as u64).collect();
    let wanted = per_second(&film.fed(level));
    let passes = wanted.iter().zip(&least).zip(found);
    let passes = passes.map(|((wanted, least), found)| Pass {
        bitrate: (*wanted as u64).max(*least),
        digest: found.digest,
        level: found.level,
    });
    let own = film.own(level);
    Ok(Rates {
        plan: plan.id.clone(),
        passes: passes.collect(),
        least,
        expected: own.iter().map(|bits| (bits / 8.0) as u64).collect(),
    })
}

/// What all first passes found.
fn read(plan: &Plan, folder: &Folder) -> Result<Film, Failure> {
    let kind = export::two_passes(&plan.encoder).map_err(Failure::cannot)?;
    let chunks = plan.chunks.iter().map(|chunk| {
        let fed = chunk.fed();
        let frames = usize::try_from(fed.end - fed.start).unwrap_or(0);
        let path = folder.statistics(chunk.index);
        let seen = statistics::read(&path, kind.statistics, frames);
        let seen = seen.ok_or_else(|| {
            Failure::failed(format!(
                "the first pass wrote statistics that can't be read: {}",
                path.display()
            ))
        })?;
        let of = |frame: u64| usize::try_from(frame - fed.start).unwrap_or(0);
        Ok((seen, of(chunk.own[0])..of(chunk.own[1])))
    });
    Ok(Film::new(chunks.collect::<Result<_, Failure>>()?))
}

/// The rates of the second pass are known, and are of the first passes that are there.
pub fn are_spread(plan: &Plan, folder: &Folder) -> bool {
    folder.rates(plan).is_some_and(|rates| {
        let mut passes = rates.passes.iter().enumerate();
        passes.all(|(index, pass)| {
            let found = folder.first_pass(plan, index);
            found.is_some_and(|found| found.digest == pass.digest)
        })
    })
}

pub(crate) fn not_made(folder: &Folder, index: usize) -> Failure {
    Failure::again(format!(
        "the first pass over chunk {index} isn't made: `vtexport chunk {} --index {index} --first-pass` does that",
        folder.plan().display()
    ))
}

/// The rates of the second pass; they follow from the first one.
pub fn rates(plan: &Plan, folder: &Folder) -> Result<Option<Rates>, Failure> {
    let Some(passes) = &plan.passes else {
        return Ok(None);
    };
    if let Some(rates) = folder.rates(plan) {
        return Ok(Some(rates));
    }
    // (Where a size is the limit, who knows what else is in the file has written them.)
    let bitrate = allowed(plan, passes.bitrate);
    let rates = spread(plan, folder, (bitrate as f64 * plan.seconds()) as u64)?;
    folder.write_rates(&rates)?;
    Ok(Some(rates))
}

/// Chunks whose bits are changed a little keep their quality beside their neighbours'.
const LITTLE: f64 = 0.1;

/// The picture has the bytes of these records, and is to have so many: with which rates it is encoded again for that. `all`: in all chunks.
pub fn corrected(
    plan: &Plan,
    folder: &Folder,
    rates: &Rates,
    made: &[Record],
    wanted: u64,
    all: bool,
) -> Result<Rates, Failure> {
    let bytes: u64 = made.iter().map(|record| record.bytes).sum();
    let by = wanted as f64 / bytes.max(1) as f64;
    if !all && (by - 1.0).abs() <= LITTLE / 2.0 {
        return Ok(moved(rates, made, wanted));
    }
    // As much more or less than what was expected before; unless that was nothing.
    let expected = rates.expected.iter().sum::<u64>() as f64;
    let bytes = match expected * 4.0 < wanted as f64 {
        true => wanted as f64,
        false => expected * by,
    };
    spread(plan, folder, (bytes * 8.0) as u64)
}

/// A few chunks get other rates, those first that are furthest from what was expected of them.
fn moved(rates: &Rates, made: &[Record], wanted: u64) -> Rates {
    let bytes: u64 = made.iter().map(|record| record.bytes).sum();
    let mut rest = wanted as f64 - bytes as f64;
    let beyond = made.iter().zip(&rates.expected);
    let beyond = beyond.map(|(record, &expected)| {
        let beyond = record.bytes as f64 / expected.max(1) as f64;
        (beyond, record)
    });
    let mut order: Vec<(f64, &Record)> = beyond.collect();
    order.sort_by(|one, other| one.0.total_cmp(&other.0));
    if rest < 0.0 {
        order.reverse();
    }
    let mut rates = rates.clone();
    for (_, record) in order {
        let bytes = record.bytes.max(1) as f64;
        let part = rest.clamp(-bytes * LITTLE, bytes * LITTLE);
        let least = rates.least[record.index];
        let rate = &mut rates.passes[record.index].bitrate;
        let before = *rate as f64;
        *rate = ((before * (1.0 + part / bytes)) as u64).max(least);
        // Some can't go as far.
        rest -= bytes * (*rate as f64 / before - 1.0);
        if rest.abs() < bytes / 1_000.0 {
            break;
        }
    }
    rates
}

/// Makes the first pass over a chunk, unless that is done.
pub fn first(
    plan: &Plan,
    folder: &Folder,
    index: usize,
    told: &mut dyn FnMut(Made) -> Result<(), Failure>,
) -> Result<FirstPass, Failure> {
    let chunk = plan.chunk(index)?;
    let passes = plan.passes.as_ref();
    let passes = passes.ok_or_else(|| {
        Failure::usage("this plan has one pass: `vtexport plan --multi-pass` makes two")
    })?;
    plan.source.check(plan.may_have_copies())?;
    plan.check_installation()?;
    if let Some(done) = folder.first_pass(plan, index) {
        return Ok(done);
    }
    let since = Instant::now();
    // Whoever else is at work on the same writes elsewhere.
    let (directory, statistics) = folder.place_for_statistics()?;
    let properties: gst::Structure = passes
        .properties
        .parse()
        .map_err(|_| Failure::usage("the plan's encoder properties can't be read"))?;
    let bitrate = allowed(plan, passes.bitrate);
    let make = || {
        let made = export::first_pass(
            &plan.encoder,
            &properties,
            plan.threads,
            bitrate,
            &statistics,
        );
        made.map_err(Failure::cannot)
    };
    let level = write_statistics(plan, chunk, make, told)?;
    let done = FirstPass {
        plan: plan.id.clone(),
        index,
        digest: String::new(),
        level,
        seconds: since.elapsed().as_secs_f64(),
    };
    folder.keep_statistics(done, &directory)
}

/// Bits per second that the picture may have: what was asked for, or less where the output may not be so large.
pub fn allowed(plan: &Plan, asked: Option<u64>) -> u64 {
    let of_limit = |bytes: u64| (bytes as f64 * 8.0 / plan.seconds().max(0.001)) as u64;
    let limit = plan.request.size_limit.map_or(u64::MAX, of_limit);
    asked.unwrap_or(u64::MAX).min(limit)
}

/// Frames through the encoder, which is closed then: some write when they are. The level that it announced.
fn write_statistics(
    plan: &Plan,
    chunk: &Chunk,
    make: impl Fn() -> Result<gst::Element, Failure>,
    told: &mut dyn FnMut(Made) -> Result<(), Failure>,
) -> Result<Option<String>, Failure> {
    let mut work: Option<(Feed, gst::Pad, u64)> = None;
    let packets = Arc::new(AtomicU64::new(0));
    // (libvpx makes none.)
    let kind = export::two_passes(&plan.encoder).map(|it| it.statistics);
    let has_packets = kind == Ok(Statistics::Quantizers);
    let made = |feed: &Feed, pushed: u64| {
        let fed = pushed.saturating_sub(feed.waiting());
        let packets = packets.load(Ordering::Relaxed);
        Made {
            fed,
            packets: if has_packets { packets } else { fed },
            skipped: 0,
        }
    };
    frames(plan, chunk, &mut |came| {
        let (number, mut frame) = match came {
            Came::Anew => {
                work = None;
                return Ok(());
            }
            Came::Skipped(skipped) => {
                return told(Made {
                    skipped,
                    ..Made::default()
                });
            }
            Came::Frame(number, frame) => (number, frame),
        };
        let (feed, _, pushed) = match &mut work {
            Some(work) => work,
            none => {
                let encoder = make()?;
                let output = pad_of(&encoder, "src")?;
                packets.store(0, Ordering::Relaxed);
                let counted = packets.clone();
                output.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    gst::PadProbeReturn::Ok
                });
                none.insert((through(plan, chunk, &encoder)?, output, 0))
            }
        };
        frame.make_mut().set_pts(private_time(plan, number));
        feed.push(frame)?;
        *pushed += 1;
        told(made(feed, *pushed))
    })?;
    let (feed, output, pushed) = work.ok_or_else(|| Failure::failed("the chunk has no frames"))?;
    feed.finish(|| told(made(&feed, pushed)))?;
    let caps = output.current_caps();
    feed.stop();
    Ok(caps.and_then(|caps| caps.structure(0)?.get("level").ok()))
}

/// As in the second pass: some encoders shift earlier ones, and then a key frame that is asked for by its time comes with another frame.
fn private_time(plan: &Plan, number: u64) -> gst::ClockTime {
    gst::ClockTime::from_nseconds(THOUSAND_HOURS + plan.time(number))
}

/// A pipeline for the frames of a chunk, with key frames where the second pass asks for them: where its own begin, and after them.
fn through(plan: &Plan, chunk: &Chunk, encoder: &gst::Element) -> Result<Feed, Failure> {
    let feed = Feed::new(&plan.caps()?)?;
    let sink = ignoring_sink()?;
    let chain = [feed.src().upcast(), encoder.clone(), sink];
    linked(feed.pipeline.add_many(&chain), "the encoder")?;
    linked(gst::Element::link_many(&chain), "the encoder")?;
    let mut keys = vec![private_time(plan, chunk.own[0])];
    if chunk.trail > 0 {
        keys.push(private_time(plan, chunk.own[1]));
    }
    let input = pad_of(encoder, "sink")?;
    input.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
        for &time in &keys {
            let key = gst_video::DownstreamForceKeyUnitEvent::builder()
                .timestamp(time)
                .stream_time(time)
                .running_time(time)
                .all_headers(true);
            pad.send_event(key.build());
        }
        gst::PadProbeReturn::Remove
    });
    feed.start(gst::State::Playing)?;
    Ok(feed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(bytes: &[u64]) -> (Rates, Vec<Record>) {
        let rates = Rates {
            plan: String::new(),
            passes: bytes
                .iter()
                .map(|_| Pass {
                    bitrate: 100_000,
                    digest: String::new(),
                    level: None,
                })
                .collect(),
            least: vec![1_000; bytes.len()],
            expected: vec![1_000; bytes.len()],
        };
        let record = |(index, &bytes): (usize, &u64)| Record {
            plan: String::new(),
            index,
            digests: Vec::new(),
            trail: Vec::new(),
            bytes,
            seconds: 0.0,
            decoded_from: None,
            pass: None,
        };
        (rates, bytes.iter().enumerate().map(record).collect())
    }

    #[test]
    fn what_is_a_little_too_large_costs_the_chunks_that_went_furthest() {
        let (rates, made) = made(&[1_000, 1_100, 990, 1_050]);
        let moved = moved(&rates, &made, 4_000);
        let bitrates: Vec<u64> = moved.passes.iter().map(|it| it.bitrate).collect();
        assert_eq!(bitrates[0], 100_000);
        assert_eq!(bitrates[1], 90_000);
        assert_eq!(bitrates[2], 100_000);
        assert!((97_000..97_300).contains(&bitrates[3]), "{bitrates:?}");
    }

    #[test]
    fn none_gives_more_than_it_can() {
        let (mut rates, made) = made(&[1_000, 1_100]);
        rates.least[1] = 98_000;
        let moved = moved(&rates, &made, 2_040);
        let bitrates: Vec<u64> = moved.passes.iter().map(|it| it.bitrate).collect();
        assert_eq!(bitrates[1], 98_000);
        assert!((96_100..96_300).contains(&bitrates[0]), "{bitrates:?}");
    }
}
