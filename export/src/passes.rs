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

use crate::chunk::{Made, frames};
use crate::element::{linked, pad_of};
use crate::failure::Failure;
use crate::feed::Feed;
use crate::folder::{FirstPass, Folder, Pass, Rates, Record};
use crate::plan::{Chunk, Plan};
use crate::source::ignoring_sink;
use gst::prelude::*;
use std::path::Path;
use std::time::Instant;
use vtparallelenc::export::{self, Statistics};
use vtparallelenc::logic::timeline::THOUSAND_HOURS;

/// What the first pass found of a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Seen {
    /// What it took, in bits, at this step of the quantizer; and by how much its type's step differs from that of others.
    Quantized {
        step: f64,
        differs: f64,
        texture: f64,
        motion: f64,
        other: f64,
    },
    /// How much was left of it after prediction.
    Error(f64),
}

/// The quantizer's step for a number: it doubles with each sixth.
fn step_of(quantizer: f64) -> f64 {
    0.85 * ((quantizer - 12.0) / 6.0).exp2()
}

/// Key frames get a finer step than others, and what nothing refers to a coarser one: x264's and x265's ip-factor and pb-factor.
const OF_KEYS: f64 = 1.0 / 1.4;
const OF_UNREFERRED: f64 = 1.3;

/// The largest number of x264's and x265's quantizers.
const LARGEST: f64 = 51.0;

impl Seen {
    /// The bits that it takes at this level: a step, or what an error is divided by.
    fn bits(&self, level: f64) -> f64 {
        match *self {
            Self::Error(error) => (1.0 + error.max(0.0)).sqrt() / level,
            Self::Quantized {
                step,
                differs,
                texture,
                motion,
                other,
            } => {
                let new = (level * differs).clamp(step_of(0.0), step_of(LARGEST));
                // As these encoders expect it of themselves: the exponents are theirs.
                (texture + 0.1) * (step / new).powf(1.1)
                    + motion * (step.max(1.0) / new.max(1.0)).sqrt()
                    + other
            }
        }
    }
}

/// What the first pass over a chunk wrote, a frame after the other.
fn read(statistics: &Path, kind: Statistics, frames: usize) -> Option<Vec<Seen>> {
    let written = std::fs::read(statistics).ok()?;
    let seen = match kind {
        Statistics::Quantizers => quantizers(std::str::from_utf8(&written).ok()?)?,
        Statistics::Errors(place) => errors(&written, frames, place)?,
    };
    (seen.len() == frames).then_some(seen)
}

/// A line for each frame in the order of coding: `in:3 out:1 type:P q:21.5 tex:4598 mv:603 misc:135 …`
fn quantizers(text: &str) -> Option<Vec<Seen>> {
    let mut seen = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("in:")) {
        let field = |name: &str| {
            let mut words = line.split_whitespace();
            words.find_map(|word| word.strip_prefix(name)?.strip_prefix(':'))
        };
        let number = |name: &str| field(name)?.parse::<f64>().ok();
        seen.push((
            field("in")?.parse::<usize>().ok()?,
            Seen::Quantized {
                step: step_of(number("q")?),
                differs: match field("type")? {
                    "I" | "i" | "K" => OF_KEYS,
                    "b" => OF_UNREFERRED,
                    _ => 1.0,
                },
                texture: number("tex")?,
                motion: number("mv")?,
                other: number("misc")?,
            },
        ));
    }
    seen.sort_by_key(|(number, _)| *number);
    let are_all = seen.iter().map(|(number, _)| *number).eq(0..seen.len());
    are_all.then(|| seen.into_iter().map(|(_, seen)| seen).collect())
}

/// A row of numbers for each frame, the first of which counts it, and one row more for all of them.
fn errors(written: &[u8], frames: usize, place: usize) -> Option<Vec<Seen>> {
    let row = written.len() / (frames + 1);
    if row == 0 || !written.len().is_multiple_of(frames + 1) {
        return None;
    }
    let number = |row: &[u8], place: usize| {
        let bytes = row.get(place * 8..place * 8 + 8)?;
        Some(f64::from_le_bytes(bytes.try_into().ok()?))
    };
    let rows = written.chunks(row).take(frames).enumerate();
    rows.map(|(index, row)| {
        let is_its = number(row, 0)? == index as f64;
        Some(Seen::Error(number(row, place)?)).filter(|_| is_its)
    })
    .collect()
}

/// Of each chunk: what was found of the frames that it is fed, and which of them are its own.
struct Film(Vec<(Vec<Seen>, std::ops::Range<usize>)>);

impl Film {
    /// What all first passes found.
    fn read(plan: &Plan, folder: &Folder) -> Result<Self, Failure> {
        let kind = export::two_passes(&plan.encoder).map_err(Failure::cannot)?;
        let chunks = plan.chunks.iter().map(|chunk| {
            let fed = chunk.fed();
            let frames = usize::try_from(fed.end - fed.start).unwrap_or(0);
            let path = folder.statistics(chunk.index);
            let seen = read(&path, kind.statistics, frames);
            let seen = seen.ok_or_else(|| {
                Failure::failed(format!(
                    "the first pass wrote statistics that can't be read: {}",
                    path.display()
                ))
            })?;
            let of = |frame: u64| usize::try_from(frame - fed.start).unwrap_or(0);
            Ok((seen, of(chunk.own[0])..of(chunk.own[1])))
        });
        Ok(Self(chunks.collect::<Result<_, Failure>>()?))
    }

    /// The bits of each chunk's own frames.
    fn own(&self, level: f64) -> Vec<f64> {
        let bits = |(seen, own): &(Vec<Seen>, std::ops::Range<usize>)| {
            seen[own.clone()].iter().map(|it| it.bits(level)).sum()
        };
        self.0.iter().map(bits).collect()
    }

    /// Of all that each is fed.
    fn fed(&self, level: f64) -> Vec<f64> {
        let bits = |(seen, _): &(Vec<Seen>, _)| seen.iter().map(|it| it.bits(level)).sum();
        self.0.iter().map(bits).collect()
    }

    /// What is needed of each for anything at all: encoders take no bitrate that is lower.
    fn least(&self) -> Vec<f64> {
        let needed = |seen: &Seen| match *seen {
            Seen::Quantized { other, .. } => other,
            Seen::Error(_) => 0.0,
        };
        let bits = |(seen, _): &(Vec<Seen>, _)| seen.iter().map(needed).sum();
        self.0.iter().map(bits).collect()
    }

    /// Where the film has so many bits, or as near to it as there is one.
    fn level(&self, bits: f64) -> f64 {
        let (mut low, mut high) = (1e-9_f64, 1e12_f64);
        for _ in 0..120 {
            let level = (low * high).sqrt();
            match self.own(level).iter().sum::<f64>() > bits {
                true => low = level,
                false => high = level,
            }
        }
        high
    }
}

/// In bits per second: they count in kbit, and some need a little more than they say.
const BEYOND_LEAST: f64 = 2_000.0;

/// How the bits of the picture are spread over the chunks, all of whose first passes are made.
pub fn spread(plan: &Plan, folder: &Folder, bits: u64) -> Result<Rates, Failure> {
    let film = Film::read(plan, folder)?;
    let level = film.level(bits as f64);
    let (own, fed) = (film.own(level), film.fed(level));
    let least = film.least();
    let mut leasts = Vec::new();
    let passes = plan
        .chunks
        .iter()
        .zip(fed.iter().zip(&least))
        .map(|(chunk, (bits, least))| {
            let found = folder.first_pass(plan, chunk.index);
            let found = found.ok_or_else(|| not_made(folder, chunk.index))?;
            let fed = chunk.fed();
            let seconds = (plan.time(fed.end) - plan.time(fed.start)) as f64 / 1e9;
            let least = least / seconds.max(0.001) + BEYOND_LEAST;
            leasts.push(least as u64);
            Ok(Pass {
                bitrate: (bits / seconds.max(0.001)).max(least) as u64,
                digest: found.digest,
                level: found.level,
            })
        });
    let passes = passes.collect::<Result<_, Failure>>()?;
    Ok(Rates {
        plan: plan.id.clone(),
        passes,
        least: leasts,
        expected: own.iter().map(|bits| (bits / 8.0) as u64).collect(),
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
    let all = 0..plan.chunks.len();
    if let Some(missing) = all
        .into_iter()
        .find(|&it| folder.first_pass(plan, it).is_none())
    {
        return Err(not_made(folder, missing));
    }
    // (Where a size is the limit, who knows what else is in the file has written them.)
    let bitrate = allowed(plan, passes.bitrate);
    let rates = spread(plan, folder, (bitrate as f64 * plan.seconds()) as u64)?;
    folder.write_rates(&rates)?;
    Ok(Some(rates))
}

/// Chunks whose bits are changed a little keep their quality beside their neighbours'.
const LITTLE: f64 = 0.1;

/// The picture has these bytes, and is to have so many: what is encoded again for that, and with which rate. The chunks that are furthest from
/// what was expected of them come first.
pub fn corrected(rates: &Rates, made: &[Record], wanted: u64) -> Rates {
    let bytes: u64 = made.iter().map(|record| record.bytes).sum();
    let mut rates = rates.clone();
    let expected = rates.expected.clone();
    let mut change = |index: usize, by: f64| {
        let rate = &mut rates.passes[index].bitrate;
        *rate = ((*rate as f64 * by) as u64).max(rates.least[index]);
    };
    let by = wanted as f64 / bytes.max(1) as f64;
    let mut rest = wanted as f64 - bytes as f64;
    if (by - 1.0).abs() > LITTLE / 2.0 {
        (0..made.len()).for_each(|index| change(index, by));
        return rates;
    }
    let beyond = made.iter().zip(&expected).map(|(record, &expected)| {
        let beyond = record.bytes as f64 / expected.max(1) as f64;
        (beyond, record.index)
    });
    let mut order: Vec<(f64, usize)> = beyond.collect();
    order.sort_by(|one, other| one.0.total_cmp(&other.0));
    if rest < 0.0 {
        order.reverse();
    }
    for (_, index) in order {
        let most = made[index].bytes as f64 * LITTLE;
        let part = rest.clamp(-most, most);
        change(index, 1.0 + part / (made[index].bytes.max(1) as f64));
        rest -= part;
        if rest.abs() < 1.0 {
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
    plan.source.check()?;
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
    let mut feed: Option<(Feed, gst::Pad, u64)> = None;
    frames(plan, chunk, &mut |frame| {
        let Some((number, mut frame)) = frame else {
            feed = None;
            return Ok(());
        };
        let (feed, _, pushed) = match &mut feed {
            Some(feed) => feed,
            none => {
                let encoder = make()?;
                let output = pad_of(&encoder, "src")?;
                none.insert((through(plan, chunk, &encoder)?, output, 0))
            }
        };
        frame.make_mut().set_pts(private_time(plan, number));
        feed.push(frame)?;
        *pushed += 1;
        let taken = pushed.saturating_sub(feed.waiting());
        told(Made {
            fed: taken,
            packets: taken,
        })
    })?;
    let (feed, output, pushed) = feed.ok_or_else(|| Failure::failed("the chunk has no frames"))?;
    feed.finish(|| {
        let taken = pushed.saturating_sub(feed.waiting());
        told(Made {
            fed: taken,
            packets: taken,
        })
    })?;
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

    const X264: &str = "#options: 854x480 fps=24/1 keyint=240 bitrate=300\n\
        in:0 out:0 type:I dur:2 cpbdur:2 q:20.00 aq:19.00 tex:40000 mv:0 misc:2000 imb:18 d:- ref:0 ;\n\
        in:2 out:1 type:P dur:2 cpbdur:2 q:23.00 aq:22.00 tex:9000 mv:900 misc:100 imb:18 d:- ref:0 ;\n\
        in:1 out:2 type:b dur:2 cpbdur:2 q:25.00 aq:24.00 tex:500 mv:400 misc:100 imb:0 d:- ref:0 ;\n";

    #[test]
    fn statistics_of_quantizers_are_read_in_the_order_of_the_frames() {
        let seen = quantizers(X264).unwrap();
        let textures: Vec<f64> = seen
            .iter()
            .map(|seen| match seen {
                Seen::Quantized { texture, .. } => *texture,
                Seen::Error(_) => unreachable!(),
            })
            .collect();
        assert_eq!(textures, [40_000.0, 500.0, 9_000.0]);
        // At their own step frames take what they took.
        let Seen::Quantized { step, differs, .. } = seen[0] else {
            unreachable!()
        };
        let bits = seen[0].bits(step / differs);
        assert!((bits - 42_000.0).abs() < 1.0, "{bits}");
        // One is missing.
        let without = X264.replace("in:1 ", "in:3 ");
        assert_eq!(quantizers(&without), None);
    }

    #[test]
    fn statistics_of_errors_have_a_row_for_each_frame_and_one_more() {
        let rows = [[0.0, 7.0, 100.0], [1.0, 7.0, 400.0], [2.0, 14.0, 500.0]];
        let written: Vec<u8> = rows
            .iter()
            .flatten()
            .flat_map(|it: &f64| it.to_le_bytes())
            .collect();
        let seen = errors(&written, 2, 2).unwrap();
        assert_eq!(seen, [Seen::Error(100.0), Seen::Error(400.0)]);
        let part = seen[1].bits(1.0) / seen[0].bits(1.0);
        assert!((part - 2.0).abs() < 0.01, "{part}");
        for wrong in [&written[..70], &[], &written[8..]] {
            assert_eq!(errors(wrong, 2, 2), None);
        }
    }

    #[test]
    fn bits_are_spread_over_the_film_at_one_level() {
        let easy = vec![Seen::Error(100.0); 10];
        let hard = vec![Seen::Error(10_000.0); 20];
        // The first two of the hard chunk are the easy one's last.
        let film = Film(vec![(easy, 0..10), (hard, 2..20)]);
        let level = film.level(1e6);
        let (own, fed) = (film.own(level), film.fed(level));
        assert!((own.iter().sum::<f64>() - 1e6).abs() < 10.0, "{own:?}");
        assert!((own[1] / own[0] - 17.9).abs() < 0.1, "{own:?}");
        assert!((fed[1] / own[1] - 20.0 / 18.0).abs() < 1e-6);
        assert_eq!(film.least(), [0.0, 0.0]);
    }

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
        let corrected = corrected(&rates, &made, 4_000);
        let bitrates: Vec<u64> = corrected.passes.iter().map(|it| it.bitrate).collect();
        assert_eq!(bitrates[0], 100_000);
        assert_eq!(bitrates[1], 90_000);
        assert_eq!(bitrates[2], 100_000);
        assert!((97_000..97_300).contains(&bitrates[3]), "{bitrates:?}");
    }

    #[test]
    fn what_is_much_too_large_costs_all_and_none_more_than_it_can_give() {
        let (rates, made) = made(&[1_000, 3_000]);
        let half = corrected(&rates, &made, 2_000);
        assert!(half.passes.iter().all(|it| it.bitrate == 50_000));
        let least = corrected(&rates, &made, 1);
        assert!(least.passes.iter().all(|it| it.bitrate == 1_000));
        let more = corrected(&rates, &made, 4_100);
        let bitrates: Vec<u64> = more.passes.iter().map(|it| it.bitrate).collect();
        assert_eq!(bitrates, [110_000, 100_000]);
    }
}
