// SPDX-License-Identifier: MPL-2.0

//! What is known of single encoders, as data: one row for each, and a row for the unknown.
//!
//! A row says what has to be set so that several of an encoder can encode the chunks of one stream, and what to expect of
//! it. What was set by the user, in the description or through `encoder::property`, is never changed. Nothing here is believed where
//! it can be seen: whether a chunk stands alone is read off its packets.

mod rows;

use super::passes::Passes;
use super::properties::{as_text, set_from_text};
use crate::logic::bucket::Vbv;
use crate::logic::request::Beginning;
use crate::logic::split::{Scaling, SeamCost};
use gst::prelude::*;
use rows::{ROWS, UNKNOWN, UNKNOWN_HARDWARE};

/// Frames of an automatic lead where a bitrate drives the encoder, and at most of a trail: with 24 each, x264 at an average bitrate
/// loses 0.1 dB over 240-frame chunks where it loses 0.3 dB without; more gained nothing.
const AUTOMATIC_OVERLAP: u64 = 24;

/// How many threads an encoder takes, and through which property. (Of several names, here and in all rows, the first that it has.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// It has one thread, or no say in it.
    Fixed,
    /// The property that holds their number. What is encoded doesn't depend on it: cores / sessions.
    Free(&'static str),
    /// The property and its value, in which `@` stands for their number. What is encoded depends on it, so it is the same for all
    /// sessions of a stream.
    Deciding(&'static str, &'static str),
}

/// How well an encoder's own threads share its work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct OwnThreads {
    /// See [`Scaling::exponent`].
    pub(crate) exponent: f64,
    pub(crate) most: Most,
    /// It takes as many as there are cores where it isn't told otherwise.
    pub(crate) are_automatic: bool,
}

/// How many threads gain something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Most {
    /// One for so many rows of the picture.
    Rows(u32),
    /// One for so many columns, and as many as are a power of two.
    Columns(u32),
}

/// How many frames an encoder looks ahead, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookAhead {
    Frames(u64),
    /// As many as this property says.
    Property(&'static str),
}

/// What a force-key-unit event makes of the frame that it is sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForcedKey {
    /// A key frame that no later frame refers across, with the settings of the row.
    Closed,
    /// A key frame, perhaps of an open GOP, or nobody knows what.
    Perhaps,
    /// Nothing.
    Ignored,
    /// Every frame is one.
    Always,
}

/// How many may be open beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Concurrency {
    /// One for each core.
    Cores,
    /// As many as its hardware has engines: sessions beyond gain nothing.
    Engines(u32),
    /// It can't be used in chunks, for this reason.
    Alone(&'static str),
}

/// The greatest distance of key frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distance {
    Frames(u64),
    /// So many seconds' worth of frames, rounded down, or so many frames where the rate is unknown or variable.
    Seconds(u64, u64),
}

impl Distance {
    /// In frames, at this rate.
    pub(crate) fn frames(self, rate: Option<gst::Fraction>) -> u64 {
        match self {
            Self::Frames(frames) => frames,
            Self::Seconds(seconds, unknown) => {
                let frames = frames_of(seconds, rate).filter(|&frames| frames > 0);
                frames.unwrap_or(unknown)
            }
        }
    }
}

/// Frames of so many seconds, rounded down.
fn frames_of(seconds: u64, rate: Option<gst::Fraction>) -> Option<u64> {
    let rate = rate?;
    let frames = u64::try_from(rate.numer()).ok()?.saturating_mul(seconds);
    frames.checked_div(u64::try_from(rate.denom()).ok()?)
}

/// Where an encoder makes key frames by itself, with the settings that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct OwnKeys {
    /// The greatest distance of two; unknown where that is `None`.
    pub(crate) distance: Option<Distance>,
    /// The user has set that.
    pub(crate) is_set: bool,
    /// At cuts, too, and then it counts from there.
    pub(crate) at_cuts: bool,
    /// But not at those that come sooner than a second or a tenth of the distance after one.
    pub(crate) waits: bool,
}

impl OwnKeys {
    /// A cut gets one that many frames after the last one, or later.
    pub(crate) fn least_distance(&self, rate: Option<gst::Fraction>) -> u64 {
        let tenth = self.distance.filter(|_| self.waits);
        let tenth = tenth.map_or(0, |distance| distance.frames(rate) / 10);
        frames_of(1, rate).map_or(tenth, |second| tenth.min(second))
    }
}

/// What an encoder's rate follows, with the settings that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drive {
    /// Each frame has the same quantizer, or nearly.
    Quantizer,
    /// A quality.
    Quality,
    /// A bitrate is its target, for all that is known.
    Bitrate,
}

/// What is in the buffer on average where a bitrate is the target, as a part of its size. Measured on x264, buffers of 0.6 and 2 seconds at
/// 300 to 900 kbit/s: chunks that begin with 0.6 spend within 0.5 % of what one encoder does, and few have to be encoded again; with 0.8,
/// 4 % more, as the buffer is empty most of the time; with 0.4, 4 % less. (A quality seldom takes all that the buffer allows for.)
const STEADY_VBV: f64 = 0.6;

/// How an encoder is told of its decoder's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VbvSettings {
    /// Properties: the rate in kbit/s, and the buffer's size in milliseconds of it.
    Properties(&'static str, &'static str),
    /// Options of [`OPTIONS`]: the greatest rate in kbit/s, and the buffer's size in kbit; and the property that holds the rate where no
    /// greatest one is set.
    Options(&'static str, &'static str, &'static str),
}

/// A seam costs as much more where a bitrate is the target and a VBV keeps the encoder near it, in hundredths of the bits of an average frame:
/// x264enc, half a minute of film and a quarter of a fixed camera, -0.3 to 1.3 % in 2 to 5 chunks.
const VBV_SEAM: u64 = 130;

/// And where no VBV does: there x264enc and x265enc had from 4 % less to 10 % more.
const SETTLING_SEAM: u64 = 430;

/// The property of x264enc and x265enc that is a list of options, in which later ones win.
const OPTIONS: &str = "option-string";

/// The option for what is in the buffer when the stream begins: up to 1 a part of its size, above that kbit.
const VBV_INITIAL: &str = "vbv-init";

/// What that is where it isn't set, in x264 and x265.
const DEFAULT_VBV_INITIAL: f64 = 0.9;

/// One row. Of what is known, it has what is used; `docs/encoders.md` has the rest.
#[derive(Debug)]
pub(crate) struct Profile {
    /// Patterns of its factories' names, with blanks between them.
    pub(crate) factories: &'static str,
    /// The version of its plugin from which on it is so.
    pub(crate) since: (u32, u32, u32),
    pub(crate) threads: Threads,
    /// `None`: they gain nothing, or nobody knows what.
    pub(crate) own_threads: Option<OwnThreads>,
    pub(crate) look_ahead: LookAhead,
    pub(crate) forced_key: ForcedKey,
    /// The property that holds the greatest distance of its key frames, in frames.
    pub(crate) key_distance: Option<&'static str>,
    /// What that is where the property holds none.
    pub(crate) default_distance: Option<Distance>,
    /// A property that is a list of options, and the one of them that holds the same.
    pub(crate) key_distance_option: Option<(&'static str, &'static str)>,
    /// The same, of the option that says how much of a cut makes a key frame; 0 is none.
    pub(crate) cuts_option: Option<(&'static str, &'static str)>,
    /// It makes key frames at cuts, and counts their distance from there, unless a property has a value of these patterns; `None`:
    /// never.
    pub(crate) cuts_unless: Option<&'static [(&'static str, &'static str)]>,
    /// But not soon after one: see [`OwnKeys::waits`].
    pub(crate) cuts_wait: bool,
    /// What has to be set for chunks: property and value.
    pub(crate) settings: &'static [(&'static str, &'static str)],
    /// And where its rate control has to settle in each of them ([`Beginning::Settling`]).
    pub(crate) settling: &'static [(&'static str, &'static str)],
    /// The property that is a list in which later entries win: ours go before what the user has set.
    pub(crate) list: Option<&'static str>,
    /// Properties, and patterns of their values, for which each frame has the same quantizer or what is nearly that: an overlap buys
    /// nothing.
    pub(crate) constant_quantizer: &'static [(&'static str, &'static str)],
    /// As above, for which quality drives the rate, and what is known of other frames moves it a little.
    pub(crate) constant_quality: &'static [(&'static str, &'static str)],
    /// Frames of an automatic lead there; its trail is the look-ahead.
    pub(crate) quality_lead: u64,
    /// It encodes what it still has before it is closed: see [`Settings::drains_anyway`](crate::logic::engine::Settings).
    pub(crate) drains_anyway: bool,
    pub(crate) concurrency: Concurrency,
    /// What a seam costs; `None`: nobody knows.
    pub(crate) seam_cost: Option<SeamCost>,
    /// Where it keeps its decoder's buffer from running dry.
    pub(crate) vbv: Option<VbvSettings>,
    /// Properties, and patterns of their values, with which it keeps account of its decoder's buffer in a way that can't begin anew: one
    /// encoder encodes the whole stream.
    pub(crate) alone_with: &'static [(&'static str, &'static str)],
    /// How it makes two passes over the same frames, where it can.
    pub(crate) passes: Option<Passes>,
    /// With GStreamer 1.22; else the row was only read in the source of GStreamer 1.22 to 1.28.
    pub(crate) was_run: bool,
}

/// One of the patterns, which have blanks between them, is that of the name.
fn any_matches(patterns: &str, name: &str) -> bool {
    let mut patterns = patterns.split_whitespace();
    patterns.any(|pattern| matches(pattern, name))
}

/// `*` stands for anything, `?` for one character.
fn matches(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('*') => {
            let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.into_iter()
                .any(|at| matches(rest.as_str(), &name[at..]))
        }
        Some(letter) => {
            let mut name = name.chars();
            let same = name.next().is_some_and(|is| letter == '?' || letter == is);
            same && matches(rest.as_str(), name.as_str())
        }
    }
}

impl Profile {
    /// The encoder's row: the first that names it.
    pub(crate) fn of(encoder: &gst::Element) -> &'static Self {
        let name = encoder.factory().map(|factory| factory.name().to_string());
        let name = name.unwrap_or_default();
        let version = encoder.factory().map_or((0, 0, 0), |it| version(&it));
        let mut rows = ROWS.iter().filter(|row| row.since <= version);
        let class = || encoder.metadata(gst::ELEMENT_METADATA_KLASS);
        match rows.find(|row| any_matches(row.factories, &name)) {
            Some(row) => row,
            None if class().is_some_and(|class| class.contains("Hardware")) => &UNKNOWN_HARDWARE,
            None => &UNKNOWN,
        }
    }

    /// The encoder has a row of its own.
    pub(crate) fn is_known(&self) -> bool {
        !self.factories.is_empty()
    }

    /// A bitrate is the encoder's target, and it could have another.
    pub(super) fn is_driven_by_bitrate(&self, encoder: &gst::Element) -> bool {
        self.drive(encoder) == Drive::Bitrate
    }

    /// A row that says how the encoder is driven by a quality says as well how it isn't.
    pub(super) fn can_keep_quality(&self) -> bool {
        !self.constant_quality.is_empty()
    }

    fn drive(&self, encoder: &gst::Element) -> Drive {
        if any_has(encoder, self.constant_quantizer) {
            Drive::Quantizer
        } else if any_has(encoder, self.constant_quality) {
            Drive::Quality
        } else {
            Drive::Bitrate
        }
    }

    /// What the beginning of a chunk costs.
    pub(crate) fn beginning(&self, encoder: &gst::Element) -> Beginning {
        let settles = match self.drive(encoder) {
            Drive::Bitrate => self.can_keep_quality(),
            Drive::Quality => self.quality_lead > AUTOMATIC_OVERLAP,
            Drive::Quantizer => false,
        };
        match self.forced_key {
            ForcedKey::Always => Beginning::Nothing,
            // What a decoder's buffer holds is far less than a chunk.
            _ if settles && self.vbv(encoder).is_none() => Beginning::Settling,
            _ => Beginning::KeyFrame,
        }
    }

    /// What a seam costs, with the settings that the encoder has, where not each frame is a key frame.
    pub(crate) fn seam_cost(&self, encoder: &gst::Element) -> Option<SeamCost> {
        let more = match self.drive(encoder) {
            Drive::Bitrate if self.vbv(encoder).is_some() => VBV_SEAM,
            Drive::Bitrate => SETTLING_SEAM,
            Drive::Quality | Drive::Quantizer => 0,
        };
        self.seam_cost.map(|cost| SeamCost {
            at_key: cost.at_key + more,
            elsewhere: cost.elsewhere + more,
        })
    }

    /// How the encoder's own threads share a picture of this size.
    pub(crate) fn scaling(&self, width: u32, height: u32) -> Scaling {
        self.own_threads.map_or(Scaling::NONE, |own| {
            let most = match own.most {
                Most::Rows(rows) => height / rows,
                Most::Columns(columns) => 1 << (width / columns).max(1).ilog2(),
            };
            Scaling {
                exponent: own.exponent,
                most: most.max(1),
            }
        })
    }

    /// How many may be open beside each other, with the settings that it has.
    pub(crate) fn concurrency(&self, encoder: &gst::Element) -> Concurrency {
        match any_has(encoder, self.alone_with) {
            true => Concurrency::Alone(
                "the state of its decoder's buffer (CBR, HRD) goes on from frame to frame",
            ),
            false => self.concurrency,
        }
    }

    /// The decoder's buffer that the encoder is told of.
    pub(crate) fn vbv(&self, encoder: &gst::Element) -> Option<Vbv> {
        let number = |text: String| text.trim().parse::<f64>().ok();
        let option = |name: &str| option(encoder, OPTIONS, name).and_then(number);
        let property = |name: &str| number(serialized(encoder, name));
        let settings = self.vbv?;
        let drive = self.drive(encoder);
        let (rate, size) = match settings {
            _ if drive == Drive::Quantizer => return None,
            VbvSettings::Properties(rate, time) => {
                let rate = property(rate)?;
                (rate, rate * property(time)? / 1_000.0)
            }
            VbvSettings::Options(rate, size, target) => {
                let target = || property(target).filter(|_| drive == Drive::Bitrate);
                let rate = option(rate).filter(|&rate| rate > 0.0);
                (rate.or_else(target)?, option(size)?)
            }
        };
        let initial = match option(VBV_INITIAL).unwrap_or(DEFAULT_VBV_INITIAL) {
            kbits if kbits > 1.0 => kbits.min(size),
            part => part * size,
        };
        let steady = match drive {
            Drive::Bitrate => size * STEADY_VBV,
            _ => initial,
        };
        let (rate, size) = (bits(rate), bits(size));
        (rate > 0 && size > 0).then(|| Vbv {
            rate,
            size,
            initial: bits(initial),
            steady: bits(steady),
        })
    }

    /// Tells the encoder what is in its decoder's buffer when it begins, as a part of its size.
    pub(crate) fn begin_with(&self, encoder: &gst::Element, part: f64) {
        if self.vbv(encoder).is_none() {
            return;
        }
        let set: Option<String> = encoder.property(OPTIONS);
        let set = set.filter(|set| !set.is_empty());
        let begin = format!("{VBV_INITIAL}={part:.4}");
        encoder.set_property(
            OPTIONS,
            set.map_or(begin.clone(), |set| format!("{set}:{begin}")),
        );
    }

    /// Frames to feed before and after a chunk, where the user leaves it to us: none where they buy nothing, or where
    /// the encoder doesn't part them from the chunk.
    pub(crate) fn overlap(&self, encoder: &gst::Element) -> (u64, u64) {
        let lead = match self.drive(encoder) {
            _ if self.forced_key != ForcedKey::Closed => 0,
            Drive::Quantizer => 0,
            Drive::Quality => self.quality_lead,
            Drive::Bitrate => AUTOMATIC_OVERLAP,
        };
        if lead == 0 {
            return (0, 0);
        }
        let look_ahead = match self.look_ahead {
            LookAhead::Frames(frames) => frames,
            LookAhead::Property(property) => serialized(encoder, property).parse().unwrap_or(0),
        };
        (lead, look_ahead.min(AUTOMATIC_OVERLAP))
    }

    /// Where the encoder makes key frames by itself. `is_set`: the user has set this property.
    pub(crate) fn own_keys(
        &self,
        encoder: &gst::Element,
        is_set: impl Fn(&str) -> bool,
    ) -> OwnKeys {
        let option = |of: Option<(_, _)>| of.and_then(|(list, name)| option(encoder, list, name));
        let of_list = option(self.key_distance_option);
        let of_property = || serialized(encoder, self.key_distance?).parse().ok();
        let held = match &of_list {
            Some(set) => set.parse().ok(),
            None => of_property(),
        };
        let held = held.filter(|&frames| frames > 0);
        let is_set = of_list.is_some() || self.key_distance.is_some_and(is_set);
        // (What is set and no distance, as x265's keyint=-1, is none.)
        let default = self.default_distance.filter(|_| of_list.is_none());
        let finds_cuts = self.cuts_unless.is_some_and(|off| !any_has(encoder, off));
        OwnKeys {
            distance: held.map(Distance::Frames).or(default),
            is_set: is_set && held.is_some(),
            at_cuts: option(self.cuts_option).map_or(finds_cuts, |value| value != "0"),
            waits: self.cuts_wait,
        }
    }

    /// Prepares an encoder for encoding chunks beside others, with `threads` threads where it may have several.
    pub(crate) fn apply(
        &self,
        encoder: &gst::Element,
        threads: u32,
        is_set: impl Fn(&str) -> bool,
    ) {
        let settling = match self.beginning(encoder) {
            Beginning::Settling => self.settling,
            Beginning::Nothing | Beginning::KeyFrame => &[],
        };
        self.apply_threads(encoder, threads, &is_set);
        for (properties, value) in self.settings.iter().chain(settling) {
            self.prepare(encoder, properties, value, &is_set);
        }
    }

    /// Gives an encoder so many threads, if it can be told.
    pub(crate) fn apply_threads(
        &self,
        encoder: &gst::Element,
        threads: u32,
        is_set: impl Fn(&str) -> bool,
    ) {
        let number = |properties| most(encoder, properties).map_or(threads, |it| threads.min(it));
        match self.threads {
            Threads::Fixed => (),
            Threads::Free(properties) => {
                let number = number(properties).to_string();
                self.prepare(encoder, properties, &number, is_set);
            }
            Threads::Deciding(properties, value) => {
                let value = value.replace('@', &number(properties).to_string());
                self.prepare(encoder, properties, &value, is_set);
            }
        }
    }

    /// Sets what the user hasn't.
    fn prepare(
        &self,
        encoder: &gst::Element,
        properties: &str,
        value: &str,
        is_set: impl Fn(&str) -> bool,
    ) {
        let Some(property) = one_of(encoder, properties) else {
            return;
        };
        if self.list == Some(property) {
            let set = encoder.property::<Option<String>>(property);
            let set = set.filter(|set| !set.is_empty());
            let list = set.map_or(value.to_string(), |set| format!("{value}:{set}"));
            encoder.set_property(property, list);
        } else if !is_set(property) {
            // A row that was only read may be wrong about the type.
            let _ = set_from_text(encoder, property, value);
        }
    }
}

/// Of kbit. What is no number of them is none.
fn bits(kbits: f64) -> u64 {
    (kbits * 1_000.0) as u64
}

/// One of these properties has a value of its patterns.
pub(super) fn any_has(encoder: &gst::Element, properties: &[(&str, &str)]) -> bool {
    let mut properties = properties.iter();
    properties.any(|(property, values)| any_matches(values, &serialized(encoder, property)))
}

/// The value of an option in a property that is a list of them, in which later ones win; 0 where it is switched off.
fn option(encoder: &gst::Element, list: &str, name: &str) -> Option<String> {
    let options = serialized(encoder, list);
    let mut options = options.rsplit(':').map(str::trim);
    options.find_map(|option| match option.split_once('=') {
        Some((of, value)) => (of == name).then(|| value.to_string()),
        None => (option.strip_prefix("no-") == Some(name)).then(|| "0".to_string()),
    })
}

/// The greatest number that the property takes, where it takes numbers.
pub(super) fn most(encoder: &gst::Element, properties: &str) -> Option<u32> {
    let spec = encoder.find_property(one_of(encoder, properties)?)?;
    let unsigned = spec.downcast_ref::<glib::ParamSpecUInt>();
    let signed = spec.downcast_ref::<glib::ParamSpecInt>();
    let most = unsigned.map(|it| it.maximum());
    most.or(signed.and_then(|it| u32::try_from(it.maximum()).ok()))
}

/// The first of these properties that the encoder has.
fn one_of<'a>(encoder: &gst::Element, properties: &'a str) -> Option<&'a str> {
    let mut names = properties.split_whitespace();
    names.find(|property| encoder.has_property(property))
}

/// The property's value as text; empty where there is no such property.
fn serialized(encoder: &gst::Element, properties: &str) -> String {
    let property = one_of(encoder, properties);
    let value = property.and_then(|it| as_text(&encoder.property_value(it)));
    value.unwrap_or_default()
}

/// Of the plugin that the encoders are of.
pub(super) fn version(factory: &gst::ElementFactory) -> (u32, u32, u32) {
    let plugin = factory.plugin();
    let version = plugin.map(|plugin| plugin.version().to_string());
    let version = version.unwrap_or_default();
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

#[cfg(test)]
mod tests {
    use super::super::choice::is_ours;
    use super::*;

    fn make(factory: &str) -> Option<gst::Element> {
        gst::init().unwrap();
        gst::ElementFactory::make(factory).build().ok()
    }

    /// Every video encoder that is installed and isn't ours.
    fn installed() -> Vec<gst::Element> {
        gst::init().unwrap();
        let kind = gst::ElementFactoryType::VIDEO_ENCODER;
        let factories = gst::ElementFactory::factories_with_type(kind, gst::Rank::NONE);
        let made = factories
            .iter()
            .filter_map(|factory| factory.create().build().ok());
        made.filter(|encoder| !is_ours(&encoder.factory().unwrap()))
            .collect()
    }

    #[test]
    fn each_named_property_exists_where_the_encoder_is_installed() {
        let mut seen = 0;
        for encoder in installed() {
            let name = encoder.factory().unwrap().name();
            let row = Profile::of(&encoder);
            let threads = match row.threads {
                Threads::Free(property) | Threads::Deciding(property, _) => Some(property),
                Threads::Fixed => None,
            };
            let look_ahead = match row.look_ahead {
                LookAhead::Property(property) => Some(property),
                LookAhead::Frames(_) => None,
            };
            let cuts = row.cuts_unless.unwrap_or_default();
            let qualities = row.constant_quantizer.iter().chain(row.constant_quality);
            let patterns = qualities.chain(cuts);
            let quality = patterns.map(|(property, _)| *property);
            let settings = row.settings.iter().chain(row.settling);
            let settings = settings.map(|(property, _)| *property);
            let vbv = match row.vbv {
                Some(VbvSettings::Properties(rate, time)) => vec![rate, time],
                Some(VbvSettings::Options(_, _, target)) => vec![OPTIONS, target],
                None => Vec::new(),
            };
            let named = threads
                .into_iter()
                .chain(vbv)
                .chain(look_ahead)
                .chain(quality)
                .chain(settings)
                .chain(row.list)
                .chain(row.key_distance)
                .chain(row.key_distance_option.map(|(list, _)| list))
                .chain(row.cuts_option.map(|(list, _)| list));
            for property in named {
                assert!(one_of(&encoder, property).is_some(), "{name}: {property}");
                seen += 1;
            }
            // Each value is one that the property takes, and stays.
            row.apply(&encoder, 3, |_| false);
            match row.threads {
                Threads::Free(property) => {
                    assert_eq!(serialized(&encoder, property), "3", "{name}");
                }
                Threads::Deciding(property, value) => {
                    let value = value.replace('@', "3");
                    assert!(serialized(&encoder, property).contains(&value), "{name}");
                }
                Threads::Fixed => (),
            }
            for (property, value) in row.settings {
                assert!(
                    serialized(&encoder, property).contains(value),
                    "{name}: {property}"
                );
            }
        }
        eprintln!("{seen} properties of installed encoders");
        assert!(seen > 0);
    }

    #[test]
    fn each_quality_value_is_one_that_the_property_takes() {
        for encoder in installed() {
            let row = Profile::of(&encoder);
            let qualities = row.constant_quantizer.iter().chain(row.constant_quality);
            for (property, values) in qualities {
                for value in values
                    .split_whitespace()
                    .filter(|value| !value.contains(['*', '?']))
                {
                    encoder.set_property_from_str(property, value);
                    assert!(
                        any_has(&encoder, &[(property, value)]),
                        "{property}={value}"
                    );
                    assert!(row.overlap(&encoder).0 <= row.quality_lead);
                }
            }
        }
    }

    #[test]
    fn every_row_that_was_run_is_of_an_encoder_of_gstreamers_own_plugins() {
        let installed = installed();
        let names: Vec<_> = installed
            .iter()
            .map(|encoder| encoder.factory().unwrap().name())
            .collect();
        for row in ROWS.iter().filter(|row| row.was_run) {
            for pattern in row.factories.split_whitespace() {
                if !names.iter().any(|name| matches(pattern, name)) {
                    eprintln!("{pattern}: not installed, not checked");
                }
            }
        }
        // A row that is never reached is an error: each pattern's first match is its own row.
        let every = || ROWS.iter().filter(|row| row.since == (0, 0, 0));
        for (at, row) in every().enumerate() {
            for pattern in row.factories.split_whitespace() {
                let name = pattern.replace(['*', '?'], "x");
                let first = every().position(|row| any_matches(row.factories, &name));
                assert_eq!(first, Some(at), "{pattern}");
            }
        }
    }

    #[test]
    fn what_the_user_has_set_stays() {
        let Some(x264) = make("x264enc") else { return };
        // Even where it is the default.
        Profile::of(&x264).apply(&x264, 1, |property| property == "threads");
        assert_eq!(x264.property::<u32>("threads"), 0);
        Profile::of(&x264).apply(&x264, 1, |_| false);
        assert_eq!(x264.property::<u32>("threads"), 1);
        let options = || x264.property::<Option<String>>("option-string");
        assert_eq!(options().unwrap_or_default(), "");
        // Later ones win.
        x264.set_property("vbv-buf-capacity", 0u32);
        x264.set_property("option-string", "ratetol=2");
        Profile::of(&x264).apply(&x264, 1, |_| false);
        assert_eq!(options().unwrap(), "ratetol=0.1:ratetol=2");
        let Some(x265) = make("x265enc") else { return };
        x265.set_property("option-string", "open-gop=1");
        Profile::of(&x265).apply(&x265, 1, |_| false);
        let options: String = x265.property("option-string");
        assert_eq!(options, "open-gop=0:pools=1:frame-threads=1:open-gop=1");
    }

    #[test]
    fn a_bitrate_needs_a_long_overlap_quality_a_short_one_and_a_quantizer_none() {
        let Some(x264) = make("x264enc") else { return };
        let overlap = || Profile::of(&x264).overlap(&x264);
        assert_eq!(overlap(), (24, 24));
        x264.set_property("rc-lookahead", 10i32);
        assert_eq!(overlap(), (24, 10));
        x264.set_property_from_str("pass", "qual");
        assert_eq!(overlap(), (10, 10));
        x264.set_property_from_str("pass", "quant");
        assert_eq!(overlap(), (0, 0));
        let Some(x265) = make("x265enc") else { return };
        assert_eq!(Profile::of(&x265).overlap(&x265), (24, 20));
        x265.set_property("qp", 30i32);
        assert_eq!(Profile::of(&x265).overlap(&x265), (0, 0));
        x265.set_property("qp", -1i32);
        x265.set_property("option-string", "rc-lookahead=5:crf=22");
        assert_eq!(Profile::of(&x265).overlap(&x265), (10, 20));
    }

    #[test]
    fn a_decoders_buffer_is_what_the_settings_say() {
        let vbv = |factory: &str, settings: &[(&str, &str)]| {
            let encoder = make(factory)?;
            for (property, value) in settings {
                encoder.set_property_from_str(property, value);
            }
            let profile = Profile::of(&encoder);
            let vbv = profile.vbv(&encoder);
            let of = vbv.map(|vbv| (vbv.rate, vbv.size, vbv.initial, vbv.steady));
            // What it is told is what it has then.
            let size = vbv.map_or(1, |vbv| vbv.size);
            profile.begin_with(&encoder, 30_000.0 / size as f64);
            let told = profile.vbv(&encoder).map(|vbv| vbv.initial);
            let rounding = vbv.map_or(0, |vbv| vbv.size / 20_000);
            assert!(vbv.is_none() || told.unwrap().abs_diff(30_000) <= rounding);
            Some((of, profile.beginning(&encoder)))
        };
        let (none, settles, key) = (None, Beginning::Settling, Beginning::KeyFrame);
        if make("x264enc").is_some() {
            let x264 = |settings: &[_]| vbv("x264enc", settings).unwrap();
            let default = (2_048_000, 1_228_800, 1_105_920, 737_280);
            assert_eq!(x264(&[]), (Some(default), key));
            assert_eq!(x264(&[("vbv-buf-capacity", "0")]), (none, settles));
            assert_eq!(x264(&[("pass", "quant")]), (none, key));
            let quality = [
                ("pass", "qual"),
                ("bitrate", "500"),
                ("option-string", "vbv-init=0.5"),
            ];
            assert_eq!(
                x264(&quality),
                (Some((500_000, 300_000, 150_000, 150_000)), key)
            );
        }
        if make("x265enc").is_some() {
            let x265 = |options| {
                let settings = [("bitrate", "500"), ("option-string", options)];
                vbv("x265enc", &settings).unwrap()
            };
            assert_eq!(x265(""), (none, settles));
            let (rate, size, full) = (500_000, 800_000, 720_000);
            assert_eq!(
                x265("vbv-bufsize=800"),
                (Some((rate, size, full, 480_000)), key)
            );
            let given = "vbv-bufsize=800:vbv-maxrate=600:vbv-init=400";
            assert_eq!(x265(given), (Some((600_000, size, 400_000, 480_000)), key));
            // Without a rate it is ignored.
            assert_eq!(x265("crf=22:vbv-bufsize=800"), (none, key));
            let capped = "crf=22:vbv-bufsize=800:vbv-maxrate=500";
            assert_eq!(x265(capped), (Some((rate, size, full, full)), key));
        }
    }

    #[test]
    fn an_encoder_makes_key_frames_where_its_settings_say() {
        let keys = |factory: &str, settings: &[(&str, &str)]| {
            let encoder = make(factory)?;
            for (property, value) in settings {
                encoder.set_property_from_str(property, value);
            }
            let is_set = |property: &str| settings.iter().any(|(set, _)| *set == property);
            Some(Profile::of(&encoder).own_keys(&encoder, is_set))
        };
        let rate = |numer, denom| Some(gst::Fraction::new(numer, denom));
        if let Some(x264) = keys("x264enc", &[]) {
            let frames = |rate| x264.distance.unwrap().frames(rate);
            // x264enc rounds down, and leaves x264's own where the rate is variable.
            let rates = [(24, 1), (24_000, 1_001), (30_000, 1_001), (0, 1)];
            let distances = rates.map(|(numer, denom)| frames(rate(numer, denom)));
            assert_eq!(distances, [240, 239, 299, 250]);
            assert_eq!(frames(None), 250);
            let least = [(24, 1), (60, 1), (0, 1)].map(|(n, d)| x264.least_distance(rate(n, d)));
            assert_eq!(least, [24, 60, 0]);
        }
        let at_cuts = |factory, settings: &[_]| keys(factory, settings).map(|it| it.at_cuts);
        for (settings, expected) in [
            (&[][..], true),
            (&[("speed-preset", "ultrafast")], false),
            (&[("option-string", "ref=2:scenecut=0")], false),
            (&[("option-string", "no-scenecut")], false),
            (&[("option-string", "scenecut=0:scenecut=40")], true),
            (&[("option-string", "hist-scenecut=0")], true),
            (
                &[
                    ("speed-preset", "ultrafast"),
                    ("option-string", "scenecut=40"),
                ],
                true,
            ),
        ] {
            for factory in ["x264enc", "x265enc"] {
                let at_cuts = at_cuts(factory, settings);
                assert!(
                    at_cuts.is_none_or(|it| it == expected),
                    "{factory} {settings:?}"
                );
            }
        }
        let x265 = keys("x265enc", &[("option-string", "keyint=-1")]);
        assert!(x265.is_none_or(|it| it.distance.is_none() && !it.is_set));
        assert!(!at_cuts("vp9enc", &[]).unwrap_or(false));
    }

    #[test]
    fn unknown_hardware_has_one_engine() {
        let Some(identity) = make("identity") else {
            return;
        };
        assert_eq!(Profile::of(&identity).concurrency, Concurrency::Cores);
        assert_eq!(UNKNOWN_HARDWARE.concurrency, Concurrency::Engines(1));
    }
}
