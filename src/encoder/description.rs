// SPDX-License-Identifier: MPL-2.0

//! Makes an encoder from the property `encoder`, and says what is known of it.

use super::choice::is_ours;
use super::hints::{self, Recommended};
use super::profile::{Concurrency, OwnKeys, Profile};
use super::properties::{KEY_INTERVAL, Overrides, key_interval};
use crate::logic::bucket::Vbv;
use crate::logic::request::Beginning;
use crate::logic::split::SeamCost;
use crate::media::outside::Outside;
use crate::media::queries::answer_encoder;
use crate::media::{bitstream, caps};
use gst::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Why there is no encoder.
#[derive(Debug, Clone, Error)]
pub(crate) enum EncoderError {
    /// `encoder` isn't set, and downstream's caps don't say which one is meant, or ask for what nothing here makes.
    #[error(
        "No encoder can be chosen for what downstream accepts ({}); set the property 'encoder', for example encoder=x264enc",
        abridged(downstream)
    )]
    CannotChoose { downstream: gst::Caps },
    /// `encoder` isn't set, and none that makes what downstream accepts takes these raw caps.
    #[error(
        "No installed encoder that makes what downstream accepts ({}) takes the video {raw}; convert it before vtparallelenc, for \
         example with videoconvert or videoscale",
        abridged(downstream)
    )]
    NoneTakes {
        downstream: gst::Caps,
        raw: gst::Caps,
    },
    #[error(
        "The encoder '{description}' can't be made: {error}; set the property 'encoder' to the name of an installed encoder, with its \
         properties, as gst-launch-1.0 would take it"
    )]
    Description { description: String, error: String },
    #[error(
        "The property 'encoder' is '{description}', which {reason}; it takes a video encoder or a chain of elements with one sink pad \
         and one src pad that ends in one, after which parsers and the like may come"
    )]
    NotAnEncoder {
        description: String,
        reason: &'static str,
    },
    #[error(
        "The encoder '{encoder}' does not make {}; set the property 'encoder' to one that does, or use vtparallelenc, which takes any \
         encoder",
        abridged(makes)
    )]
    OtherFormat { encoder: String, makes: gst::Caps },
    #[error(
        "The property 'encoder-properties' has the field '{property}', which can't be set on the encoder '{encoder}': {reason}; \
         gst-inspect-1.0 lists the encoder's properties"
    )]
    Property {
        encoder: String,
        property: String,
        reason: &'static str,
    },
    /// It can't be told of the second of two passes.
    #[error("{0}")]
    Passes(String),
    #[error("The encoder {encoder} could not be started; try it alone with gst-launch-1.0")]
    CannotStart { encoder: String },
    /// It doesn't come back from being opened, or stood still for so long.
    #[error(
        "The encoder did not open within {time:?} (stall-timeout); try it alone with gst-launch-1.0"
    )]
    Hangs { time: Duration },
    #[error("The element was stopped before its encoder was opened")]
    Stopped,
    #[error("No thread can be started: {0}")]
    NoThread(String),
    #[error(
        "The encoder {encoder} refused the video {caps}, or what follows refused what it would make of it; convert the video before \
         vtparallelenc, for example with videoconvert or videoscale, or put the format's parser after it"
    )]
    CapsRefused { encoder: String, caps: gst::Caps },
}

impl EncoderError {
    /// As the application gets it.
    pub(crate) fn message(&self) -> gst::ErrorMessage {
        match self {
            Self::CannotChoose { downstream } if !downstream.is_any() && !downstream.is_empty() => {
                gst::error_msg!(gst::CoreError::MissingPlugin, ("{self}"))
            }
            Self::CannotChoose { .. }
            | Self::Description { .. }
            | Self::NotAnEncoder { .. }
            | Self::OtherFormat { .. }
            | Self::Passes(_)
            | Self::Property { .. } => {
                gst::error_msg!(gst::LibraryError::Settings, ("{self}"))
            }
            Self::CannotStart { .. } | Self::Hangs { .. } | Self::Stopped | Self::NoThread(_) => {
                gst::error_msg!(gst::LibraryError::Init, ("{self}"))
            }
            Self::CapsRefused { .. } | Self::NoneTakes { .. } => {
                gst::error_msg!(gst::StreamError::Format, ("{self}"))
            }
        }
    }
}

fn abridged(caps: &gst::Caps) -> String {
    const LONGEST: usize = 200;
    let text = caps.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// How each encoder of a stream is made.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    /// A factory name or bin description.
    pub(crate) description: String,
    pub(crate) overrides: Arc<Overrides>,
    pub(crate) chunked: Option<Chunked>,
    /// Where one encoder encodes the whole stream: it may take so many threads. `None` leaves it as it is.
    pub(crate) alone: Option<(&'static Profile, u32)>,
}

/// What an encoder of chunks is made with, beside others.
#[derive(Debug, Clone)]
pub(crate) struct Chunked {
    pub(crate) profile: &'static Profile,
    /// Each encoder may take so many.
    pub(crate) threads: u32,
    /// It wants to know of its chunk.
    pub(crate) takes_hints: bool,
}

impl Recipe {
    /// Threads of each encoder, where it is one of several.
    pub(crate) fn threads(&self) -> Option<u32> {
        self.chunked.as_ref().map(|chunked| chunked.threads)
    }

    /// An encoder, its pads `sink` and `src`.
    pub(crate) fn make(&self) -> Result<gst::Element, EncoderError> {
        let made = parse(&self.description)?;
        let encoder = encoder_within(&made);
        self.overrides.apply(&encoder);
        if let Some(chunked) = &self.chunked {
            // Where a key frame comes is decided before chunks are made: an encoder is asked for those only.
            if key_interval(&encoder) > 0 {
                encoder.set_property(KEY_INTERVAL, 0u64);
            }
            let sets = |property: &str| self.sets(property);
            chunked.profile.apply(&encoder, chunked.threads, sets);
        }
        if let Some((profile, threads)) = self.alone {
            profile.apply_threads(&encoder, threads, |property| self.sets(property));
        }
        Ok(made)
    }

    /// The encoder's row, where chunks are encoded.
    pub(super) fn profile(&self) -> Option<&'static Profile> {
        self.chunked.as_ref().map(|it| it.profile)
    }

    /// The encoder wants to know of its chunk.
    pub(crate) fn takes_hints(&self) -> bool {
        self.chunked.as_ref().is_some_and(|it| it.takes_hints)
    }

    /// The user has set this property of the encoder.
    pub(crate) fn sets(&self, property: &str) -> bool {
        is_mentioned(&self.description, property) || self.overrides.contains(property)
    }

    /// The raw video that its encoders take when this stands after them, in the order in which they offer it through this filter.
    pub(crate) fn takes(
        &self,
        downstream: gst::Caps,
        filter: Option<&gst::Caps>,
    ) -> Option<gst::Caps> {
        let made = self.make().ok()?;
        let peer = gst::Pad::builder(gst::PadDirection::Sink)
            .query_function(move |pad, parent, query| match query.view_mut() {
                gst::QueryViewMut::Caps(query) => {
                    answer_encoder(query, downstream.clone());
                    true
                }
                _ => gst::Pad::query_default(pad, parent, query),
            })
            .build();
        let (sink, src) = (made.static_pad("sink")?, made.static_pad("src")?);
        let linked = src.link_full(&peer, gst::PadLinkCheck::empty());
        linked.ok()?;
        let takes = sink.query_caps(filter);
        let _ = src.unlink(&peer);
        Some(takes)
    }

    /// What is known of the encoders that it makes; an error if they make nothing of `makes`.
    pub(crate) fn traits(&self, makes: Option<&gst::Caps>) -> Result<Traits, EncoderError> {
        let made = self.make()?;
        if let Some(makes) = makes.filter(|makes| !made_by(&made).can_intersect(makes)) {
            return Err(EncoderError::OtherFormat {
                encoder: self.description.clone(),
                makes: makes.clone(),
            });
        }
        Ok(Traits::of(&made, |property| self.sets(property)))
    }
}

/// The description sets a property of this name, of whichever of its elements.
pub(super) fn is_mentioned(description: &str, property: &str) -> bool {
    // GObject takes either for the other.
    let description = description.replace('_', "-");
    description.match_indices(property).any(|(at, _)| {
        let before = description[..at].chars().next_back();
        let after = description[at + property.len()..].trim_start();
        before.is_none_or(char::is_whitespace) && after.starts_with('=')
    })
}

/// What is made from a description.
pub(crate) fn parse(description: &str) -> Result<gst::Element, EncoderError> {
    let flags = gst::ParseFlags::FATAL_ERRORS
        | gst::ParseFlags::PLACE_IN_BIN
        | gst::ParseFlags::NO_SINGLE_ELEMENT_BINS;
    let encoder =
        gst::parse::bin_from_description_full(description, true, None, flags).map_err(|error| {
            EncoderError::Description {
                description: description.to_string(),
                error: error.message().to_string(),
            }
        })?;
    match check(&encoder) {
        Ok(()) => Ok(encoder),
        Err(reason) => Err(EncoderError::NotAnEncoder {
            description: description.to_string(),
            reason,
        }),
    }
}

/// The element itself, and those in it where it is a bin. What an encoder is made of is its own affair.
fn elements(made: &gst::Element) -> Vec<gst::Element> {
    let mut all = vec![made.clone()];
    if let Some(bin) = made.downcast_ref::<gst::Bin>()
        && !is_encoder(made)
    {
        let children = bin.iterate_elements().into_iter().flatten();
        all.extend(children.flat_map(|child| elements(&child)));
    }
    all
}

/// One of the words of the element's class, as its plugin gives it.
fn is_of_class(element: &gst::Element, classes: &[&str]) -> bool {
    let class = element.metadata(gst::ELEMENT_METADATA_KLASS);
    class.is_some_and(|class| class.split('/').any(|word| classes.contains(&word)))
}

fn is_encoder(element: &gst::Element) -> bool {
    is_of_class(element, &["Encoder"])
}

/// The encoder of what a description made: that itself, or the first one in its chain.
pub(crate) fn encoder_within(made: &gst::Element) -> gst::Element {
    let encoder = elements(made).into_iter().find(is_encoder);
    encoder.unwrap_or_else(|| made.clone())
}

/// The name of the element's factory.
pub(crate) fn name_of(element: &gst::Element) -> String {
    let factory = element.factory().map(|factory| factory.name());
    factory.map_or_else(|| element.name().to_string(), Into::into)
}

/// What is known of an encoder before it encodes anything.
#[derive(Debug, Clone)]
pub(crate) struct Traits {
    /// Factory name.
    pub(crate) name: String,
    pub(crate) profile: &'static Profile,
    /// Automatic lead and trail, in frames.
    pub(crate) overlap: (u64, u64),
    pub(crate) beginning: Beginning,
    pub(crate) own_keys: OwnKeys,
    pub(crate) vbv: Option<Vbv>,
    pub(crate) recommended: Recommended,
    pub(crate) takes_hints: bool,
    pub(crate) concurrency: Concurrency,
    pub(crate) seam_cost: Option<SeamCost>,
}

impl Traits {
    /// `made`: what a description made. `is_set`: the user has set this property of the encoder.
    pub(crate) fn of(made: &gst::Element, is_set: impl Fn(&str) -> bool) -> Self {
        let encoder = encoder_within(made);
        let profile = Profile::of(&encoder);
        let recommended = Recommended::of(&encoder);
        // Only its packets could show that a chunk of an unknown encoder stands alone. One that recommends a number of sessions says
        // itself that it can be cut.
        let is_blind = !profile.is_known()
            && recommended.sessions == 0
            && bitstream::Format::is_opaque(&made_by(made));
        Self {
            name: name_of(&encoder),
            profile,
            overlap: profile.overlap(&encoder),
            beginning: profile.beginning(&encoder),
            own_keys: profile.own_keys(&encoder, is_set),
            vbv: profile.vbv(&encoder),
            seam_cost: profile.seam_cost(&encoder),
            recommended,
            takes_hints: hints::are_wanted(&encoder),
            concurrency: match outside_of(made) {
                Some(outside) => Concurrency::Alone(outside.why_alone()),
                None if is_blind => {
                    Concurrency::Alone("it isn't known, and its packets aren't looked into")
                }
                None => profile.concurrency(&encoder),
            },
        }
    }
}

/// What the element, or one inside it, is set to read or write besides the video.
pub(super) fn outside_of(made: &gst::Element) -> Option<Outside> {
    let set = made.list_properties();
    let mut set = set
        .iter()
        .filter(|it| it.flags().contains(glib::ParamFlags::READWRITE));
    let own = set.find_map(|it| Outside::of(it, &made.property_value(it.name())));
    own.or_else(|| {
        let bin = made.downcast_ref::<gst::Bin>()?;
        bin.children().iter().find_map(outside_of)
    })
}

/// What comes out of what a description made, as far as it is known before it encodes.
pub(crate) fn made_by(made: &gst::Element) -> gst::Caps {
    let src = made.static_pad("src");
    src.map_or_else(gst::Caps::new_any, |src| src.query_caps(None))
}

fn check(encoder: &gst::Element) -> Result<(), &'static str> {
    let flags = encoder.element_flags();
    if flags.intersects(gst::ElementFlags::SINK | gst::ElementFlags::SOURCE) {
        return Err("contains a source or a sink");
    }
    if encoder.static_pad("sink").is_none() || encoder.static_pad("src").is_none() {
        return Err("doesn't have one sink pad and one src pad");
    }
    let elements = elements(encoder);
    let is_ours = |element: &gst::Element| element.factory().is_some_and(|it| is_ours(&it));
    if elements.iter().any(is_ours) {
        return Err("contains vtparallelenc itself");
    }
    match elements.iter().filter(|it| is_encoder(it)).count() {
        0 => return Err("contains no encoder"),
        1 => (),
        _ => return Err("contains more than one encoder"),
    }
    if elements.iter().any(|it| is_of_class(it, NOT_IN_A_CHAIN)) {
        return Err(
            "contains an element that decodes, muxes or sends, which belongs before or after it",
        );
    }
    // Where each has one way in and one way out, both linked, there is one way through all.
    let is_chain = |it: &gst::Element| it.is::<gst::Bin>() && !is_encoder(it);
    let is_link = |pads: Vec<gst::Pad>| matches!(&pads[..], [pad] if pad.is_linked());
    let is_on_way = |it: &gst::Element| is_link(it.sink_pads()) && is_link(it.src_pads());
    if elements.len() > 1 && !elements.iter().all(|it| is_chain(it) || is_on_way(it)) {
        return Err("has elements aside from the way from its sink pad to its src pad");
    }
    let takes = encoder.static_pad("sink").map(|pad| pad.query_caps(None));
    if takes.is_none_or(|takes| !takes.can_intersect(&caps::raw())) {
        return Err("takes no raw video");
    }
    if !may_be_encoded_video(&made_by(encoder)) {
        return Err("makes no encoded video");
    }
    Ok(())
}

/// What comes of these isn't encoded video, of which each packet is one of a frame, or isn't made of raw video. Muxers and
/// payloaders can't tell: some of what they make is called video as well.
const NOT_IN_A_CHAIN: &[&str] = &[
    "Decoder",
    "Demuxer",
    "Muxer",
    "Payloader",
    "Depayloader",
    "Network",
];

fn may_be_encoded_video(made: &gst::Caps) -> bool {
    let is_video = |name: &str| name.starts_with("video/") || name.starts_with("image/");
    let mut formats = made.iter().map(|format| format.name().as_str());
    // (In this order: the long list is made only where the name doesn't say it.)
    made.is_any()
        || formats.any(|name| is_video(name) && name != "video/x-raw")
        || made.can_intersect(&caps::encoded())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(description: &str) -> String {
        gst::init().unwrap();
        parse(description).unwrap_err().to_string()
    }

    #[test]
    fn what_isnt_an_encoder_is_refused_by_name() {
        for (description, reason) in [
            ("nosuchenc", "nosuchenc"),
            ("jpegenc nosuchproperty=3", "nosuchproperty"),
            ("jpegenc quality=oh", "quality"),
            ("jpegenc !", "jpegenc !"),
            ("", "''"),
            ("identity", "contains no encoder"),
            ("videotestsrc", "contains a source or a sink"),
            ("jpegenc ! fakesink", "contains a source or a sink"),
            ("funnel ! jpegenc", "one sink pad and one src pad"),
            ("jpegenc ! tee", "one sink pad and one src pad"),
            ("jpegenc ! jpegdec", "decodes, muxes or sends"),
            ("jpegdec ! jpegenc", "decodes, muxes or sends"),
            ("jpegenc ! avimux", "decodes, muxes or sends"),
            ("jpegenc ! multipartmux ! queue", "decodes, muxes or sends"),
            ("jpegenc ! rtpjpegpay", "decodes, muxes or sends"),
            ("jpegenc ! gdppay", "decodes, muxes or sends"),
            ("jpegenc ! netsim", "decodes, muxes or sends"),
            ("jpegenc ! jpegdec ! jpegenc", "more than one encoder"),
            ("jpegenc ! identity ! queue ! srtpenc", "srtpenc"),
            ("identity jpegenc", "aside from the way"),
            ("tee name=t ! identity t. ! jpegenc", "aside from the way"),
            ("jpegenc ! id3mux", "makes no encoded video"),
            ("avenc_aac", "takes no raw video"),
        ] {
            let message = refused(description);
            assert!(message.contains(reason), "{description}: {message}");
            assert!(message.contains("encoder"), "{description}: {message}");
        }
    }

    #[test]
    fn what_the_description_sets_is_known() {
        assert!(is_mentioned("x264enc threads = 0 ! h264parse", "threads"));
        assert!(is_mentioned("openh264enc multi_thread=4", "multi-thread"));
        assert!(!is_mentioned("x264enc my-threads=4", "threads"));
        assert!(!is_mentioned("threads", "threads"));
    }

    #[test]
    fn an_encoder_alone_or_in_a_chain_is_taken() {
        gst::init().unwrap();
        for description in [
            "jpegenc quality=50",
            "y4menc",
            "videoconvert ! jpegenc ! identity",
            "queue ! jpegenc ! jpegparse ! queue",
            "videoscale ! video/x-raw,width=64 ! jpegenc ! image/jpeg ! taginject tags=title=t",
            "x264enc ! video/x-h264,profile=baseline ! h264parse ! h264timestamper",
            "( videoconvert ! jpegenc ) ! identity",
            "identity ! ( queue ! ( jpegenc ! identity ) ! queue ) ! identity",
        ] {
            let encoder = parse(description).unwrap();
            assert!(encoder.static_pad("sink").is_some());
        }
    }
}
