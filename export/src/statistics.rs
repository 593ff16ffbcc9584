// SPDX-License-Identifier: MPL-2.0

//! What encoders write in the first of two passes, and how many bits each frame takes by that at any level of quality.

use std::ops::Range;
use std::path::Path;
use vtparallelenc::export::Statistics;

/// What the first pass found of a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Seen {
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
pub fn read(statistics: &Path, kind: Statistics, frames: usize) -> Option<Vec<Seen>> {
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
pub struct Film(Vec<(Vec<Seen>, Range<usize>)>);

impl Film {
    pub fn new(chunks: Vec<(Vec<Seen>, Range<usize>)>) -> Self {
        Self(chunks)
    }

    /// The bits of each chunk's own frames.
    pub fn own(&self, level: f64) -> Vec<f64> {
        let bits = |(seen, own): &(Vec<Seen>, Range<usize>)| {
            seen[own.clone()].iter().map(|it| it.bits(level)).sum()
        };
        self.0.iter().map(bits).collect()
    }

    /// Of all that each is fed.
    pub fn fed(&self, level: f64) -> Vec<f64> {
        let bits = |(seen, _): &(Vec<Seen>, _)| seen.iter().map(|it| it.bits(level)).sum();
        self.0.iter().map(bits).collect()
    }

    /// What is needed of each for anything at all: encoders take no bitrate that is lower.
    pub fn least(&self) -> Vec<f64> {
        let needed = |seen: &Seen| match *seen {
            Seen::Quantized { other, .. } => other,
            Seen::Error(_) => 0.0,
        };
        let bits = |(seen, _): &(Vec<Seen>, _)| seen.iter().map(needed).sum();
        self.0.iter().map(bits).collect()
    }

    /// Where the film has so many bits, or as near to it as there is one.
    pub fn level(&self, bits: f64) -> f64 {
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
}
