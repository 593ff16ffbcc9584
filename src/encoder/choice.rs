// SPDX-License-Identifier: MPL-2.0

//! Which encoder, where none was named: by what downstream accepts.

use super::description::EncoderError;
use super::profile::version;
use crate::media::caps;
use gst::prelude::*;
use std::cmp::Reverse;

/// The highest ranked installed encoder that makes some of `makes` that `downstream` accepts, from `raw`. Among equals the
/// one whose format downstream names first.
pub(crate) fn choose(
    downstream: &gst::Caps,
    raw: &gst::Caps,
    makes: &gst::Caps,
) -> Result<gst::ElementFactory, EncoderError> {
    let accepted = downstream.intersect_with_mode(makes, gst::CapsIntersectMode::First);
    let factories = gst::ElementFactory::factories_with_type(
        gst::ElementFactoryType::VIDEO_ENCODER,
        gst::Rank::MARGINAL,
    );
    // "Anything" names no format: only an element of a single one knows what is meant.
    let is_meant = !downstream.is_any() || *makes != caps::encoded();
    let preference = |factory: &gst::ElementFactory| {
        let mut formats = accepted
            .iter()
            .map(|format| gst::Caps::from(format.to_owned()));
        formats.position(|format| factory.can_src_any_caps(&format))
    };
    let making: Vec<_> = factories
        .iter()
        .filter(|factory| is_meant && !is_ours(factory) && factory.can_src_any_caps(&accepted))
        .collect();
    let chosen = making
        .iter()
        .filter(|factory| factory.can_sink_any_caps(raw))
        .max_by_key(|it| {
            let first = Reverse((preference(it), it.name()));
            (works(it), it.rank(), first)
        });
    if let Some(factory) = chosen {
        return Ok((*factory).clone());
    }
    let downstream = if is_meant {
        accepted
    } else {
        downstream.clone()
    };
    Err(if making.is_empty() {
        EncoderError::CannotChoose { downstream }
    } else {
        let raw = raw.clone();
        EncoderError::NoneTakes { downstream, raw }
    })
}

/// Before GStreamer 1.26 these give their library a frame rate that MPEG doesn't have, and fail.
fn works(factory: &gst::ElementFactory) -> bool {
    let fails = ["avenc_mpeg1video", "avenc_mpeg2video"].contains(&factory.name().as_str());
    !fails || version(factory) >= (1, 26, 0)
}

/// One of this plugin's own elements.
pub(crate) fn is_ours(factory: &gst::ElementFactory) -> bool {
    let plugin = factory.plugin_name();
    plugin.is_some_and(|plugin| plugin == crate::PLUGIN_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoder_is_chosen_by_what_downstream_accepts() {
        gst::init().unwrap();
        let raw = gst::Caps::builder("video/x-raw")
            .field("format", "I420")
            .build();
        let jpeg = gst::Caps::new_empty_simple("image/jpeg");
        let all = caps::encoded();
        assert!(choose(&jpeg, &raw, &all).unwrap().name().contains("jpeg"));
        let error = choose(&gst::Caps::new_any(), &raw, &all).unwrap_err();
        assert!(error.to_string().contains("encoder=x264enc"));
        let chosen = choose(&gst::Caps::new_any(), &raw, &jpeg).unwrap();
        assert!(chosen.name().contains("jpeg"));
    }
}
