// SPDX-License-Identifier: MPL-2.0

//! How an attempt ends without its chunk, and what is said of it.

use crate::encoder::description::EncoderError;
use crate::logic::reorder::Fault;
use std::time::Duration;
use thiserror::Error;

/// Why an attempt ended without its chunk.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// A flush, a stop or another session's failure: nobody's fault, nothing to report.
    #[error("it was aborted")]
    Aborted,
    /// The chunk's overlap was dropped meanwhile, or a key frame is wanted where it has none: it begins anew.
    #[error("it was planned anew")]
    Replanned,
    /// Downstream takes no more, which upstream learns from the aggregator.
    #[error("downstream takes no more")]
    Downstream,
    #[error("{0}")]
    Encoder(EncoderError),
    /// No encoder could be opened, for this reason.
    #[error("{0}")]
    Unopened(Box<Failure>),
    /// The encoder's own error message.
    #[error("{}", with_debug(.0))]
    Posted(gst::Message),
    #[error("the encoder {encoder} returned {flow:?} without saying why")]
    Flow {
        encoder: String,
        flow: gst::FlowError,
    },
    #[error("{0}")]
    Fault(Fault),
    /// The encoder stood still and was left to itself.
    #[error("the encoder {encoder} stood still for {time:?} while {doing} (stall-timeout)")]
    Stalled {
        encoder: String,
        /// What it was doing.
        doing: &'static str,
        time: Duration,
    },
}

/// What an error message says, with its debug text.
fn with_debug(message: &gst::Message) -> String {
    let gst::MessageView::Error(error) = message.view() else {
        return format!("{message:?}");
    };
    let text = error.error();
    match error.debug() {
        Some(debug) => format!("{} ({debug})", text.message()),
        None => text.message().to_string(),
    }
}

impl Failure {
    /// What it is, for applications.
    pub(crate) fn cause(&self) -> &'static str {
        match self.innermost() {
            Self::Aborted | Self::Replanned | Self::Downstream => "aborted",
            Self::Encoder(_) | Self::Unopened(_) => "not-opened",
            Self::Posted(_) => "error-message",
            Self::Flow { .. } => "error-flow",
            Self::Fault(_) => "wrong-output",
            Self::Stalled { .. } => "stalled",
        }
    }

    /// The failure without what was said around it.
    pub(crate) fn innermost(&self) -> &Self {
        match self {
            Self::Unopened(why) => why.innermost(),
            other => other,
        }
    }

    /// In one line, without the encoder's debug text.
    pub(crate) fn summary(&self) -> String {
        match self.innermost() {
            Self::Posted(message) => match message.view() {
                gst::MessageView::Error(error) => error.error().message().to_string(),
                _ => self.to_string(),
            },
            other => other.to_string(),
        }
    }

    /// An error of the kind that the encoder posted, or that fits best, with this text.
    pub(crate) fn error(&self, text: &str) -> glib::Error {
        match self.innermost() {
            Self::Posted(message) => match message.view() {
                gst::MessageView::Error(error) => {
                    let error = error.error();
                    glib::Error::with_domain(error.domain(), error.code(), text)
                }
                _ => glib::Error::new(gst::StreamError::Encode, text),
            },
            Self::Encoder(EncoderError::CapsRefused { .. }) => {
                glib::Error::new(gst::StreamError::Format, text)
            }
            Self::Encoder(_) => glib::Error::new(gst::LibraryError::Init, text),
            _ => glib::Error::new(gst::StreamError::Encode, text),
        }
    }

    /// The encoder complained of what it is to encode, not of itself.
    pub(super) fn is_of_stream(&self) -> bool {
        match self {
            Self::Posted(message) => matches!(
                message.view(),
                gst::MessageView::Error(error)
                    if error.error().is::<gst::StreamError>()
                        || error.error().matches(gst::CoreError::Negotiation)
            ),
            Self::Encoder(EncoderError::CapsRefused { .. }) => true,
            _ => false,
        }
    }
}
