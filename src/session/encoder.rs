// SPDX-License-Identifier: MPL-2.0

//! Makes an encoder from the `encoder` property, or picks one for what downstream accepts.

use super::profile;
use gst::prelude::*;
use std::fmt;

/// Why there is no encoder.
#[derive(Debug, Clone)]
pub(crate) enum EncoderError {
    /// `encoder` isn't set, and downstream's caps don't say which one is meant.
    CannotChoose { downstream: gst::Caps },
    /// The description isn't one of GStreamer's, or names what isn't installed.
    Description { description: String, error: String },
    /// It is something, but not a video encoder.
    NotAnEncoder {
        description: String,
        reason: &'static str,
    },
    /// It exists but could not be linked or started.
    CannotStart { encoder: String },
    /// It doesn't take these raw caps.
    CapsRefused { encoder: String, caps: gst::Caps },
}

impl fmt::Display for EncoderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CannotChoose { downstream } => write!(
                f,
                "No encoder can be chosen for what downstream accepts ({}); set the property \
                 'encoder', for example encoder=x264enc",
                abridged(downstream)
            ),
            Self::Description { description, error } => write!(
                f,
                "The encoder '{description}' can't be made: {error}; set the property 'encoder' to the name of an \
                 installed encoder, with its properties, as gst-launch-1.0 would take it"
            ),
            Self::NotAnEncoder {
                description,
                reason,
            } => write!(
                f,
                "The property 'encoder' is '{description}', which {reason}; it takes a video encoder or a chain \
                 of elements with one sink pad and one src pad that contains one"
            ),
            Self::CannotStart { encoder } => write!(
                f,
                "The encoder {encoder} could not be started; try it alone with gst-launch-1.0"
            ),
            Self::CapsRefused { encoder, caps } => write!(
                f,
                "The encoder {encoder} refused the video {caps}; convert it before vtparallelenc, for example \
                 with videoconvert or videoscale"
            ),
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

/// An encoder as described, its pads `sink` and `src`; with several sessions prepared to run beside others.
pub(crate) fn make(description: &str, beside_others: bool) -> Result<gst::Element, EncoderError> {
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
    if let Err(reason) = check(&encoder) {
        return Err(EncoderError::NotAnEncoder {
            description: description.to_string(),
            reason,
        });
    }
    if beside_others {
        profile::apply(&encoder);
    }
    Ok(encoder)
}

fn check(encoder: &gst::Element) -> Result<(), &'static str> {
    let flags = encoder.element_flags();
    if flags.intersects(gst::ElementFlags::SINK | gst::ElementFlags::SOURCE) {
        return Err("contains a source or a sink");
    }
    if encoder.static_pad("sink").is_none() || encoder.static_pad("src").is_none() {
        return Err("doesn't have one sink pad and one src pad");
    }
    let is_encoder = |element: &gst::Element| {
        let class = element.metadata(gst::ELEMENT_METADATA_KLASS);
        class.is_some_and(|class| class.contains("Encoder"))
    };
    let mut elements = vec![encoder.clone()];
    if let Some(bin) = encoder.downcast_ref::<gst::Bin>() {
        elements.extend(bin.iterate_recurse().into_iter().flatten());
    }
    if elements
        .iter()
        .any(|element| element.type_() == crate::parallelenc::ParallelEnc::static_type())
    {
        return Err("contains vtparallelenc itself");
    }
    if !elements.iter().any(is_encoder) {
        return Err("contains no encoder");
    }
    Ok(())
}

/// The highest ranked installed encoder that makes what `downstream` accepts from `raw`.
pub(crate) fn choose(
    downstream: &gst::Caps,
    raw: &gst::Caps,
) -> Result<gst::ElementFactory, EncoderError> {
    let factories = gst::ElementFactory::factories_with_type(
        gst::ElementFactoryType::VIDEO_ENCODER,
        gst::Rank::MARGINAL,
    );
    let chosen = factories
        .iter()
        .filter(|factory| !downstream.is_any() && factory.can_src_any_caps(downstream))
        .filter(|factory| factory.can_sink_any_caps(raw))
        .max_by_key(|factory| (factory.rank(), std::cmp::Reverse(factory.name())));
    chosen.cloned().ok_or_else(|| EncoderError::CannotChoose {
        downstream: downstream.clone(),
    })
}

/// The raw video that encoders of a factory can take.
pub(crate) fn raw_caps(factory: &gst::ElementFactory) -> gst::Caps {
    let mut caps = gst::Caps::new_empty();
    for template in factory.static_pad_templates() {
        if template.direction() == gst::PadDirection::Sink {
            caps.merge(template.caps());
        }
    }
    caps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(description: &str) -> String {
        gst::init().unwrap();
        make(description, false).unwrap_err().to_string()
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
        ] {
            let message = refused(description);
            assert!(message.contains(reason), "{description}: {message}");
            assert!(message.contains("encoder"), "{description}: {message}");
        }
    }

    #[test]
    fn an_encoder_alone_or_in_a_chain_is_taken() {
        gst::init().unwrap();
        for description in ["jpegenc quality=50", "videoconvert ! jpegenc ! identity"] {
            let encoder = make(description, true).unwrap();
            assert!(encoder.static_pad("sink").is_some());
        }
    }

    #[test]
    fn the_encoder_is_chosen_by_what_downstream_accepts() {
        gst::init().unwrap();
        let raw = gst::Caps::builder("video/x-raw")
            .field("format", "I420")
            .build();
        let jpeg = gst::Caps::new_empty_simple("image/jpeg");
        assert!(choose(&jpeg, &raw).unwrap().name().contains("jpeg"));
        let error = choose(&gst::Caps::new_any(), &raw).unwrap_err();
        assert!(error.to_string().contains("encoder=x264enc"));
    }
}
