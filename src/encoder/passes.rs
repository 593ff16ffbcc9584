// SPDX-License-Identifier: MPL-2.0

//! Two passes of an encoder over the same frames: the first one writes what it found, and the second one reads that, so that it knows where
//! the bits of its bitrate are needed.
//!
//! Passes are made over each chunk. What is decided for all chunks (how long they are, what is fed around them) is decided as for a quality,
//! because a chunk of which all is known beforehand needs no time to settle either: an encoder of passes is [told one](Passes::quality), and
//! the passes themselves are set when that is done.

use super::description::{encoder_within, is_mentioned, name_of, outside_of, parse};
use super::profile::{Profile, any_has, most};
use super::properties::{set_from_text, set_properties};
use crate::logic::given::SecondPass;
use gst::prelude::*;
use std::path::Path;

/// How an encoder is told of its passes: properties and values, in which `@F` stands for the file of the statistics and `@R` for the bitrate
/// as [`rate`](Self::rate) says it; and for the level, without which that property is left out. What is set of a list goes after what is there.
#[derive(Debug)]
pub(crate) struct Passes {
    /// What makes a quality its target.
    pub(crate) quality: &'static [(&'static str, &'static str)],
    /// What else is set, unless the user has set it.
    pub(crate) defaults: &'static [(&'static str, &'static str)],
    pub(crate) first: &'static [(&'static str, &'static str)],
    pub(crate) second: &'static [(&'static str, &'static str)],
    /// The property that holds the bitrate, and how many bits per second one of it is.
    pub(crate) rate: (&'static str, u64),
    /// Properties, and patterns of their values, with which it makes one pass only.
    pub(crate) one_pass: &'static [(&'static str, &'static str)],
    pub(crate) statistics: Statistics,
}

/// What the first pass writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistics {
    /// x264's and x265's: a line for each frame, with its quantizer and what its parts took.
    Quantizers,
    /// libvpx's: a row of numbers for each frame, one of which is how much was left after prediction. It is the number in this place, counted
    /// from 0.
    Errors(usize),
}

/// What is known of an encoder that is to make two passes.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What is set of it beside its description.
    pub properties: gst::Structure,
    /// In bits per second, if the description says it.
    pub bitrate: Option<u64>,
    pub statistics: Statistics,
}

/// An encoder is known to keep an average bitrate, in one pass. (Of most others nobody knows it.)
pub fn keeps_average_bitrate(description: &str) -> bool {
    parse(description).is_ok_and(|made| {
        let encoder = encoder_within(&made);
        let row = Profile::of(&encoder);
        row.can_keep_quality() && row.is_driven_by_bitrate(&encoder)
    })
}

/// An encoder for two passes. An error is a sentence that says why it can't be one.
pub fn prepared(description: &str) -> Result<Prepared, String> {
    let made = parse(description).map_err(|error| error.to_string())?;
    let encoder = encoder_within(&made);
    let name = name_of(&encoder);
    let row = Profile::of(&encoder);
    let passes = row.passes.as_ref().ok_or_else(|| {
        format!("the encoder {name} can't be told of two passes here; x264enc, x265enc, vp8enc and vp9enc can")
    })?;
    if let Some((property, _)) = passes.one_pass.iter().find(|it| any_has(&encoder, &[**it])) {
        return Err(format!(
            "the encoder {name} makes one pass only with its property {property} as it is"
        ));
    }
    if let Some(outside) = outside_of(&made) {
        return Err(format!(
            "a property of the encoder {name} {}; two passes set that by themselves",
            outside.text()
        ));
    }
    if !row.is_driven_by_bitrate(&encoder) {
        return Err(format!(
            "the encoder {name} is told a quality, and two passes need a bitrate: leave the quality out"
        ));
    }
    let mut properties = gst::Structure::new_empty("encoder-properties");
    let unset = |(property, _): &&(&str, _)| !is_mentioned(description, property);
    for (property, value) in passes
        .quality
        .iter()
        .chain(passes.defaults.iter().filter(unset))
    {
        properties.set(*property, with(row, &encoder, property, value));
    }
    set_properties(&encoder, &properties).map_err(|error| error.to_string())?;
    if row.vbv(&encoder).is_some() {
        return Err(format!(
            "the encoder {name} keeps a decoder's buffer (VBV), which two passes over chunks can't: leave it out"
        ));
    }
    let (rate, unit) = passes.rate;
    let bitrate = || {
        u64::try_from(
            encoder
                .property_value(rate)
                .transform::<i64>()
                .ok()?
                .get::<i64>()
                .ok()?,
        )
        .ok()
    };
    Ok(Prepared {
        properties,
        bitrate: bitrate()
            .filter(|_| is_mentioned(description, rate))
            .map(|bitrate| bitrate.saturating_mul(unit)),
        statistics: passes.statistics,
    })
}

/// The encoder of the first pass, beside others, which writes its statistics there when it is closed.
pub fn first(
    description: &str,
    properties: &gst::StructureRef,
    threads: u32,
    bitrate: u64,
    statistics: &Path,
) -> Result<gst::Element, String> {
    let made = parse(description).map_err(|error| error.to_string())?;
    let encoder = encoder_within(&made);
    set_properties(&encoder, properties).map_err(|error| error.to_string())?;
    let row = Profile::of(&encoder);
    row.apply(&encoder, threads, |property| {
        is_mentioned(description, property) || properties.has_field(property)
    });
    set(&encoder, |passes| passes.first, (bitrate, None), statistics)?;
    Ok(made)
}

/// Tells an encoder, which isn't opened, of its second pass.
pub(crate) fn second(encoder: &gst::Element, pass: &SecondPass) -> Result<(), String> {
    let told = (pass.bitrate, pass.level.as_deref());
    set(encoder, |passes| passes.second, told, &pass.statistics)
}

fn set(
    encoder: &gst::Element,
    pass: impl Fn(&Passes) -> &'static [(&'static str, &'static str)],
    (bitrate, level): (u64, Option<&str>),
    statistics: &Path,
) -> Result<(), String> {
    let row = Profile::of(encoder);
    let Some(passes) = &row.passes else {
        return Err(format!("{} makes no two passes", name_of(encoder)));
    };
    let path = statistics.to_str();
    let path = path.ok_or_else(|| format!("{} is no text", statistics.display()))?;
    let most = most(encoder, passes.rate.0).map_or(u64::MAX, u64::from);
    let rate = (bitrate / passes.rate.1).clamp(1, most.max(1)).to_string();
    let is_known = |value: &str| level.is_some() || !value.contains("@L");
    for (property, value) in pass(passes).iter().filter(|(_, value)| is_known(value)) {
        if row.list == Some(property) && value.contains("@F") && path.contains(':') {
            return Err(format!(
                "{} can't write into {path}, as there is a colon in its name: the output needs another name, or --temporary-directory another one",
                name_of(encoder)
            ));
        }
        let value = value.replace("@R", &rate).replace("@F", path);
        let value = value.replace("@L", level.unwrap_or_default());
        let value = with(row, encoder, property, &value);
        set_from_text(encoder, property, &value)
            .map_err(|why| format!("{property} of {}: {why}", name_of(encoder)))?;
    }
    Ok(())
}

/// The value, or a list that ends with it.
fn with(row: &Profile, encoder: &gst::Element, property: &str, value: &str) -> String {
    let list = (row.list == Some(property)).then(|| encoder.property::<Option<String>>(property));
    match list.flatten().filter(|list| !list.is_empty()) {
        Some(list) => format!("{list}:{value}"),
        None => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_installed(factory: &str) -> bool {
        gst::init().unwrap();
        gst::ElementFactory::find(factory).is_some()
    }

    #[test]
    fn an_encoder_is_told_of_its_passes() {
        let pass = SecondPass {
            bitrate: 1_234_567,
            statistics: "a file".into(),
            digest: String::new(),
            level: Some("1.3".into()),
        };
        if is_installed("x264enc") {
            let prepared = prepared("x264enc bitrate=1000 option-string=ref=2").unwrap();
            assert_eq!(prepared.bitrate, Some(1_000_000));
            assert_eq!(
                prepared.properties.to_string(),
                "encoder-properties, pass=(string)qual, vbv-buf-capacity=(string)0;"
            );
            let encoder = gst::ElementFactory::make("x264enc").build().unwrap();
            second(&encoder, &pass).unwrap();
            assert_eq!(encoder.property::<u32>("bitrate"), 1_234);
            let file: String = encoder.property("multipass-cache-file");
            assert_eq!(file, "a file");
            let options: String = encoder.property("option-string");
            assert_eq!(options, "stitchable=1:level=1.3");
        }
        if is_installed("x265enc") {
            let encoder = parse("x265enc option-string=ref=2").unwrap();
            second(&encoder, &pass).unwrap();
            let options: String = encoder.property("option-string");
            assert_eq!(options, "ref=2:pass=2:stats=a file:bitrate=1234");
            let colon = SecondPass {
                statistics: "a:b".into(),
                ..pass.clone()
            };
            assert!(second(&encoder, &colon).unwrap_err().contains("colon"));
        }
        if is_installed("vp9enc") {
            let encoder = gst::ElementFactory::make("vp9enc").build().unwrap();
            second(&encoder, &pass).unwrap();
            // (It counts in kbit.)
            assert_eq!(encoder.property::<i32>("target-bitrate"), 1_234_000);
            assert_eq!(prepared("vp9enc").unwrap().bitrate, None);
        }
    }

    #[test]
    fn what_makes_no_two_passes_is_refused() {
        for (description, why) in [
            ("x264enc pass=qual", "is told a quality"),
            ("x264enc pass=pass1", "says that there are several passes"),
            (
                "vp9enc deadline=1",
                "one pass only with its property deadline",
            ),
            ("x264enc vbv-buf-capacity=500", "VBV"),
            ("jpegenc", "can't be told of two passes"),
            ("nosuchenc", "can't be made"),
        ] {
            let factory = description.split(' ').next().unwrap();
            if is_installed(factory) || factory == "nosuchenc" {
                let refused = prepared(description).unwrap_err();
                assert!(refused.contains(why), "{refused}");
            }
        }
    }
}
