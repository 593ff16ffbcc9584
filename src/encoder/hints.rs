// SPDX-License-Identifier: MPL-2.0

//! What VideoToolbox tells and asks of an encoder that encodes a part of a video, for encoders that have properties of
//! these names (VTCompressionProperties.h: MoreFramesBeforeStart, MoreFramesAfterEnd, SourceFrameCount, ExpectedFrameRate;
//! RecommendedParallelizationLimit, RecommendedParallelizedSubdivisionMinimumFrameCount and …MinimumDuration).

use super::description::Recipe;
use super::properties::set_from_text;
#[cfg(target_os = "macos")]
use super::videotoolbox;
use crate::logic::bucket::Vbv;
use crate::logic::chunker::Neighbours;
use gst::prelude::*;

const LIMIT: &str = "recommended-parallelization-limit";
const MINIMUM_FRAMES: &str = "recommended-parallelized-subdivision-minimum-frame-count";
const MINIMUM_DURATION: &str = "recommended-parallelized-subdivision-minimum-duration";

const BEFORE: &str = "more-frames-before-start";
const AFTER: &str = "more-frames-after-end";
const FRAMES: &str = "source-frame-count";
const RATE: &str = "expected-frame-rate";

/// What an encoder recommends, by its properties or by VideoToolbox itself; 0 where it doesn't.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Recommended {
    pub(crate) sessions: u32,
    pub(crate) minimum_frames: u64,
    /// In nanoseconds.
    pub(crate) minimum_duration: u64,
}

impl Recommended {
    pub(crate) fn of(encoder: &gst::Element) -> Self {
        #[cfg(target_os = "macos")]
        if let Some(asked) = videotoolbox::recommended(&super::description::name_of(encoder)) {
            return asked;
        }
        let number = |property: &str| number(encoder, property).unwrap_or(0);
        Self {
            sessions: u32::try_from(number(LIMIT)).unwrap_or(u32::MAX),
            minimum_frames: number(MINIMUM_FRAMES),
            minimum_duration: number(MINIMUM_DURATION),
        }
    }
}

fn number(encoder: &gst::Element, property: &str) -> Option<u64> {
    encoder.find_property(property)?;
    let value = encoder.property_value(property);
    let value = value.transform::<u64>().ok()?;
    value.get().ok()
}

/// What an encoder is told of its chunk.
#[derive(Debug, Clone)]
pub(crate) struct Hints {
    pub(crate) neighbours: Neighbours,
    pub(crate) rate: Option<gst::Fraction>,
    /// Its decoder's buffer, with what is in it when it begins.
    pub(crate) vbv: Option<Vbv>,
    /// That isn't as it is set.
    pub(crate) tells_vbv: bool,
}

/// The encoder wants to know.
pub(super) fn are_wanted(encoder: &gst::Element) -> bool {
    [BEFORE, AFTER, FRAMES, RATE]
        .iter()
        .any(|property| encoder.has_property(property))
}

impl Hints {
    /// The encoder, with all that was set since, has the decoder's buffer that it was told of.
    pub(crate) fn have_its_vbv(&self, encoder: &gst::Element, recipe: &Recipe) -> bool {
        self.vbv.is_none_or(|told| {
            let has = recipe.profile().and_then(|profile| profile.vbv(encoder));
            has.is_some_and(|has| {
                let is_told = told.initial.abs_diff(has.initial) <= told.size / 1_000;
                (told.rate, told.size) == (has.rate, has.size) && is_told
            })
        })
    }

    /// Sets all that the user hasn't, and what is in the decoder's buffer.
    pub(crate) fn apply(&self, encoder: &gst::Element, recipe: &Recipe) {
        let vbv = self.vbv.filter(|_| self.tells_vbv);
        if let Some((vbv, profile)) = vbv.zip(recipe.profile()) {
            profile.begin_with(encoder, vbv.initial as f64 / vbv.size as f64);
        }
        if !recipe.takes_hints() {
            return;
        }
        let of = &self.neighbours;
        let set = |property, value: String| {
            if encoder.has_property(property) && !recipe.sets(property) {
                // A type that doesn't take a number or truth value isn't the property that is meant.
                let _ = set_from_text(encoder, property, &value);
            }
        };
        set(BEFORE, of.before.to_string());
        set(AFTER, of.after.to_string());
        set(FRAMES, of.fed.unwrap_or(0).to_string());
        let rate = self.rate.filter(|it| it.numer() > 0 && it.denom() > 0);
        if let Some(rate) = rate {
            let spec = encoder.find_property(RATE);
            let as_text = match spec.map(|spec| spec.value_type()) {
                Some(kind) if kind == gst::Fraction::static_type() => {
                    format!("{}/{}", rate.numer(), rate.denom())
                }
                _ => (f64::from(rate.numer()) / f64::from(rate.denom())).to_string(),
            };
            set(RATE, as_text);
        }
    }
}
