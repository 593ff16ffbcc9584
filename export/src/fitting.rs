// SPDX-License-Identifier: MPL-2.0

//! A bitrate that is to be kept, or a size that isn't to be passed: how many bits the picture gets for that, and what is done if that wasn't so.

use crate::failure::Failure;
use crate::join::Audio;
use crate::plan::Plan;
use crate::source::{Source, make};
use crate::streams::Fate;
use indicatif::HumanBytes;

/// What isn't aimed at of a size, as encoders don't hit one exactly: as much more in each round.
const MARGIN: f64 = 0.003;

/// What is so near to the size isn't encoded again to come nearer.
const NEAR: f64 = 0.97;

/// A bitrate is kept where the average differs by no more.
const KEPT: f64 = 0.02;

/// So often it is tried to keep to the size, and to come near to it: what is too large can't stay.
const MOST_ROUNDS: u32 = 6;
const ROUNDS_FOR_MORE: u32 = 2;

/// Encoded anew with another rate, an encoder that could change anything has changed more than that.
const NOTHING: f64 = 0.005;

/// Bytes that a file's own structures take for each frame, with the sound that belongs to it.
const FOR_FRAME: u64 = 24;

/// Bits per second of sound that is encoded, where nobody says it.
const OF_SOUND: f64 = 192_000.0;

/// How near an output is to its size.
pub struct Fitting {
    limit: Option<u64>,
    /// Bytes of the picture that were asked for in any case.
    asked: u64,
    rounds: u32,
    /// Bytes of the picture in the round before, and how many it was to have instead.
    last: Option<(u64, u64)>,
    /// It was tried with all chunks.
    changed_all: bool,
    /// The bitrate wasn't reached.
    missed: bool,
}

/// What is encoded again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Bytes that the picture is to have.
    pub wanted: u64,
    /// All chunks, and not only those that are furthest from what was expected.
    pub all: bool,
}

impl Fitting {
    pub fn new(plan: &Plan) -> Self {
        let asked = plan.passes.as_ref().and_then(|passes| passes.bitrate);
        let bytes = |bitrate: u64| (bitrate as f64 * plan.seconds() / 8.0) as u64;
        Self {
            limit: plan.request.size_limit,
            asked: asked.map_or(u64::MAX, bytes),
            rounds: 0,
            last: None,
            changed_all: false,
            missed: false,
        }
    }

    /// What is to be said of a bitrate that the encoder didn't keep to.
    pub fn missed(&self) -> Option<String> {
        self.missed.then(|| {
            "The average bitrate isn't the one that was asked for: the encoder makes no other of this film.".into()
        })
    }

    /// What the picture gets at first, before it is known how large the rest is.
    pub fn bits(&self, plan: &Plan, audio: &Audio) -> u64 {
        self.wanted_of(beside(plan, audio)).saturating_mul(8)
    }

    /// Bytes of the picture that are aimed at with so many beside it.
    fn wanted_of(&self, beside: u64) -> u64 {
        let limit = self.limit.unwrap_or(u64::MAX);
        let margin = limit as f64 * MARGIN * f64::from(self.rounds + 1);
        let left = limit.saturating_sub(beside).saturating_sub(margin as u64);
        left.min(self.asked)
    }

    /// The file has so many bytes, and of these the picture: `None`, it is good, or what is to be done.
    pub fn decide(&mut self, bytes: u64, picture: u64) -> Result<Option<Change>, Failure> {
        self.rounds += 1;
        let beside = bytes.saturating_sub(picture);
        let wanted = self.wanted_of(beside);
        let limit = self.limit.unwrap_or(u64::MAX);
        let changed_nothing = self.last.is_some_and(|(before, asked)| {
            let near = |one: u64, other: u64, by: f64| {
                (one as f64 - other as f64).abs() < other as f64 * by
            };
            near(picture, before, NOTHING) && !near(asked, before, 2.0 * NOTHING)
        });
        let is_over = bytes > limit;
        let all = changed_nothing && !self.changed_all;
        if is_over && (changed_nothing && !all || self.rounds > MOST_ROUNDS) {
            return Err(Failure::usage(format!(
                "the output can't be made as small as {}: with the fewest bits that the encoder takes it has {} ({} of the picture and {} \
                 beside it). Allow that, make the sound smaller (--audio) or the picture (an encoder that begins with `videoscale ! \
                 video/x-raw,width=…,height=… !`).",
                HumanBytes(limit),
                HumanBytes(bytes),
                HumanBytes(picture),
                HumanBytes(beside)
            )));
        }
        let part = picture as f64 / wanted.max(1) as f64;
        let is_near = match self.limit {
            Some(_) => part >= NEAR && picture as f64 <= self.asked as f64 * (1.0 + KEPT),
            None => (part - 1.0).abs() < KEPT,
        };
        if !is_over && (is_near || changed_nothing || self.rounds > ROUNDS_FOR_MORE) {
            self.missed = self.limit.is_none() && !is_near;
            return Ok(None);
        }
        self.last = Some((picture, wanted));
        self.changed_all |= all;
        Ok(Some(Change { wanted, all }))
    }
}

/// Bytes that the file has beside its picture, as far as that can be known before it is written.
fn beside(plan: &Plan, audio: &Audio) -> u64 {
    let encoders = match audio {
        Audio::None => Vec::new(),
        Audio::Encode(encoder) => vec![encoder.clone()],
        Audio::Copy => encoded(plan),
    };
    let sound: f64 = match audio {
        Audio::Copy if encoders.is_empty() => plan.beside as f64 * plan.part(),
        _ => encoders.iter().map(|it| rate_of(it)).sum::<f64>() * plan.seconds() / 8.0,
    };
    sound as u64 + plan.expected_frames() * FOR_FRAME
}

/// With what the sound is encoded that the output doesn't hold as it is.
fn encoded(plan: &Plan) -> Vec<String> {
    let source = Source::open(&plan.source.path).map_or_else(|_| Vec::new(), |it| it.audio);
    let Ok(muxer) = make(&plan.muxer) else {
        return Vec::new();
    };
    let fates = source.iter().filter_map(|sound| {
        let caps = sound.caps.as_ref()?;
        match Fate::of_sound(&muxer, &Audio::Copy, caps) {
            Fate::Encoded(encoder) => Some(encoder),
            _ => None,
        }
    });
    fates.collect()
}

/// Bits per second that a description of a sound encoder says.
fn rate_of(encoder: &str) -> f64 {
    let rate = encoder.split_whitespace();
    let rate = rate.filter_map(|word| word.strip_prefix("bitrate=")).next();
    let rate = rate.and_then(|rate| rate.parse::<f64>().ok());
    match rate {
        // (Some say it in thousands.)
        Some(rate) if rate < 2_000.0 => rate * 1_000.0,
        Some(rate) => rate,
        None => OF_SOUND,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitting(limit: u64) -> Fitting {
        Fitting {
            limit: Some(limit),
            asked: u64::MAX,
            rounds: 0,
            last: None,
            changed_all: false,
            missed: false,
        }
    }

    #[test]
    fn what_is_too_large_is_made_smaller() {
        let mut fit = fitting(100_000);
        // 12,000 are beside the picture.
        let change = fit.decide(102_000, 90_000).unwrap().unwrap();
        assert_eq!((change.wanted, change.all), (100_000 - 12_000 - 600, false));
        assert_eq!(fit.decide(99_500, 87_500).unwrap(), None);
    }

    #[test]
    fn what_is_much_too_small_is_made_larger_once_or_twice() {
        let mut fit = fitting(100_000);
        assert!(fit.decide(60_000, 58_000).unwrap().is_some());
        assert!(fit.decide(80_000, 78_000).unwrap().is_some());
        assert_eq!(fit.decide(90_000, 88_000).unwrap(), None);
        // As good as the encoder makes it.
        let mut fit = fitting(100_000);
        assert!(fit.decide(60_000, 58_000).unwrap().is_some());
        assert_eq!(fit.decide(60_000, 58_000).unwrap(), None);
    }

    #[test]
    fn what_was_asked_for_is_enough() {
        let mut fit = Fitting {
            asked: 40_000,
            ..fitting(100_000)
        };
        assert_eq!(fit.decide(42_000, 40_000).unwrap(), None);
        // And more isn't.
        let change = fit.decide(45_000, 43_000).unwrap().unwrap();
        assert_eq!(change.wanted, 40_000);
    }

    #[test]
    fn a_bitrate_that_isnt_kept_is_said() {
        let mut fit = Fitting {
            limit: None,
            asked: 10_000,
            ..fitting(0)
        };
        assert!(fit.decide(6_000, 5_000).unwrap().is_some());
        assert_eq!((fit.missed(), fit.decide(6_000, 5_000)), (None, Ok(None)));
        assert!(fit.missed().is_some());
    }

    #[test]
    fn what_gets_no_smaller_is_an_error_that_names_the_least() {
        let mut fit = fitting(10_000);
        assert!(fit.decide(30_000, 20_000).unwrap().is_some());
        // Those that were to shrink couldn't; perhaps others can.
        assert!(fit.decide(30_010, 20_010).unwrap().unwrap().all);
        let said = fit.decide(30_010, 20_010).unwrap_err().text;
        assert!(said.contains("29.31 KiB"), "{said}");
    }

    #[test]
    fn a_sound_encoder_says_its_rate() {
        assert_eq!(rate_of("opusenc bitrate=96000"), 96_000.0);
        assert_eq!(rate_of("lamemp3enc bitrate=192"), 192_000.0);
        assert_eq!(rate_of("flacenc"), OF_SOUND);
    }
}
