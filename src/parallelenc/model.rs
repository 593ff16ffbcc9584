// SPDX-License-Identifier: MPL-2.0

//! The child `encoder`: an encoder that never encodes. What is set on it is set on every session's encoder, so that
//! applications and `gst-launch-1.0` set `encoder::bitrate` once, whatever number of encoders comes and goes.

use crate::encoder::description::{self, EncoderError};
use crate::encoder::properties::Overrides;
use crate::host::Host;
use crate::panics;
use gst::prelude::*;
use std::sync::Arc;

/// Its name among the children.
pub(super) const NAME: &str = "encoder";

pub(super) struct Model {
    pub(super) description: String,
    /// All that the description made, which keeps the encoder alive.
    _made: gst::Element,
    pub(super) encoder: gst::Element,
    /// What was set on it.
    pub(super) overrides: Arc<Overrides>,
    /// What `encoder-properties` asked for in vain.
    pub(super) refused: Option<EncoderError>,
}

impl Model {
    /// `set` is called with the name and value of each property that is set on it from now on.
    pub(super) fn new(
        description: &str,
        host: Arc<dyn Host>,
        set: impl Fn(&str, &str) + Send + Sync + 'static,
    ) -> Result<Self, EncoderError> {
        let made = description::parse(description)?;
        let encoder = description::encoder_within(&made);
        if made == encoder {
            encoder.set_property("name", NAME);
        }
        let overrides = Arc::<Overrides>::default();
        let kept = overrides.clone();
        encoder.connect_notify(None, move |encoder, spec| {
            let hand_on = || {
                let is_own = ["name", "parent"].contains(&spec.name());
                if !is_own
                    && spec.flags().contains(glib::ParamFlags::READWRITE)
                    && let Some(value) = kept.take_over(encoder, spec.name())
                {
                    set(spec.name(), &value);
                }
            };
            panics::caught(&host, "setting a property of the encoder", || (), hand_on);
        });
        Ok(Self {
            description: description.to_string(),
            _made: made,
            encoder,
            overrides,
            refused: None,
        })
    }
}
