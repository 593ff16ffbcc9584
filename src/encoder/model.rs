// SPDX-License-Identifier: MPL-2.0

//! The child `encoder`: an encoder that never encodes. What is set on it is set on every session's encoder, so that
//! applications and `gst-launch-1.0` set `encoder::bitrate` once, whatever number of encoders comes and goes.

use super::description::{self, EncoderError};
use super::properties::{self, Overrides};
use crate::host::Host;
use crate::panics;
use gst::prelude::*;
use parking_lot::Mutex;
use std::sync::Arc;

/// Its name among the children.
pub(crate) const NAME: &str = "encoder";

/// What is called with the name and value of each property that is set on the model.
pub(crate) type PropertySet = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// The encoder that stands for all, once it is known which one it is.
pub(crate) struct Models {
    host: Arc<dyn Host>,
    set: PropertySet,
    /// A leaf among the locks.
    model: Mutex<Option<Model>>,
    /// The structure `encoder-properties`; a leaf.
    properties: Mutex<Option<gst::Structure>>,
}

struct Model {
    description: String,
    /// All that the description made, which keeps the encoder alive.
    _made: gst::Element,
    encoder: gst::Element,
    /// What was set on it.
    overrides: Arc<Overrides>,
    /// What `encoder-properties` asked for in vain.
    refused: Option<EncoderError>,
}

impl Models {
    /// `set` is called for each property that is set on the encoder from now on.
    pub(crate) fn new(host: Arc<dyn Host>, set: PropertySet) -> Self {
        Self {
            host,
            set,
            model: Mutex::default(),
            properties: Mutex::default(),
        }
    }

    /// The element, as a child of the public bin.
    pub(crate) fn child(&self) -> Option<gst::Element> {
        let model = self.model.lock();
        model.as_ref().map(|model| model.encoder.clone())
    }

    /// Another encoder, or none: what was set on the last one is forgotten.
    pub(crate) fn renew(&self, description: Option<&str>) -> Result<(), EncoderError> {
        let old = self.model.lock().take();
        if let Some(old) = old {
            self.host.model_removed(&old.encoder);
        }
        let Some(description) = description else {
            return Ok(());
        };
        let model = self.make(description)?;
        let encoder = model.encoder.clone();
        *self.model.lock() = Some(model);
        self.apply_properties();
        self.host.model_added(&encoder);
        Ok(())
    }

    fn make(&self, description: &str) -> Result<Model, EncoderError> {
        let made = description::parse(description)?;
        let encoder = description::encoder_within(&made);
        if made == encoder {
            encoder.set_property("name", NAME);
        }
        let overrides = Arc::<Overrides>::default();
        let kept = overrides.clone();
        let (host, set) = (self.host.clone(), self.set.clone());
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
        Ok(Model {
            description: description.to_string(),
            _made: made,
            encoder,
            overrides,
            refused: None,
        })
    }

    pub(crate) fn properties(&self) -> Option<gst::Structure> {
        self.properties.lock().clone()
    }

    /// Another structure `encoder-properties`.
    pub(crate) fn set_properties(&self, properties: Option<gst::Structure>) {
        let old = std::mem::replace(&mut *self.properties.lock(), properties);
        let overrides = self.overrides();
        for field in old.iter().flat_map(|old| old.fields()) {
            overrides.forget(field);
        }
        self.apply_properties();
    }

    /// Sets `encoder-properties` on the model, and through it on every encoder.
    fn apply_properties(&self) {
        let Some(encoder) = self.child() else { return };
        let properties = self.properties();
        let set = properties.map(|it| properties::set_properties(&encoder, &it));
        if let Some(model) = self.model.lock().as_mut() {
            model.refused = set.and_then(Result::err);
        }
    }

    /// What `encoder-properties` asked in vain of the encoder.
    pub(crate) fn refused(&self) -> Result<(), EncoderError> {
        let model = self.model.lock();
        let refused = model.as_ref().and_then(|model| model.refused.clone());
        refused.map_or(Ok(()), Err)
    }

    /// The encoder was chosen by what downstream accepts. If it is the one of the last stream, what was set on it holds.
    pub(crate) fn chosen(&self, description: &str) -> Result<(), EncoderError> {
        let is_same = |model: &Model| model.description == description;
        if !self.model.lock().as_ref().is_some_and(is_same) {
            self.renew(Some(description))?;
        }
        self.refused()
    }

    /// The encoder's least time between key frames that are asked for, in nanoseconds.
    pub(crate) fn key_interval(&self) -> u64 {
        self.child()
            .map_or(0, |encoder| properties::key_interval(&encoder))
    }

    /// What was set on the encoder, beside its description.
    pub(crate) fn overrides(&self) -> Arc<Overrides> {
        let model = self.model.lock();
        let overrides = model.as_ref().map(|model| model.overrides.clone());
        overrides.unwrap_or_default()
    }
}
