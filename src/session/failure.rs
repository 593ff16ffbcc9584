// SPDX-License-Identifier: MPL-2.0

//! Why an attempt ended without its chunk.

use crate::encoder::description::EncoderError;
use crate::logic::engine::{Doing, Ending};
use crate::logic::store::Fault;
use glib::translate::IntoGlib;
use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// Why an attempt ended without its chunk.
#[derive(Debug, Clone, Error)]
pub(crate) enum Failure {
    /// A flush, a stop, the end of the stream or another session's failure: nobody's fault, nothing to report.
    #[error("it was aborted")]
    Aborted,
    /// The chunk's overlap was dropped meanwhile, or a key frame is wanted where it has none: it begins anew.
    #[error("it was planned anew")]
    Replanned,
    #[error("{0}")]
    Encoder(EncoderError),
    /// No encoder could be opened, for this reason.
    #[error("{0}")]
    Unopened(Box<Failure>),
    #[error("{0}")]
    Posted(Posted),
    #[error("the encoder {encoder} returned {flow:?} without saying why")]
    Flow {
        encoder: String,
        flow: gst::FlowError,
    },
    #[error("{0}")]
    Fault(Fault),
    #[error("it isn't kept, or what is kept isn't what these frames and this encoder make")]
    NotKept,
    #[error("it can't be kept: {why}")]
    CannotKeep {
        why: String,
        /// There is no room for it.
        is_full: bool,
    },
    /// The encoder stood still and was left to itself.
    #[error("the encoder {encoder} stood still for {time:?} while {} (stall-timeout)", in_words(*doing))]
    Stalled {
        encoder: String,
        doing: Doing,
        time: Duration,
    },
}

/// The encoder's own error message.
#[derive(Debug, Clone)]
pub(crate) struct Posted {
    pub(crate) message: gst::Message,
    pub(crate) error: glib::Error,
    pub(crate) debug: Option<glib::GString>,
}

impl fmt::Display for Posted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error.message())?;
        match &self.debug {
            Some(debug) => write!(f, " ({debug})"),
            None => Ok(()),
        }
    }
}

impl Failure {
    /// What it is, for applications.
    pub(crate) fn cause(&self) -> &'static str {
        match self.innermost() {
            Self::Aborted | Self::Replanned => "aborted",
            Self::Encoder(_) | Self::Unopened(_) => "not-opened",
            Self::Posted(_) => "error-message",
            Self::Flow { .. } => "error-flow",
            Self::Fault(_) => "wrong-output",
            Self::NotKept | Self::CannotKeep { .. } => "not-kept",
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
            Self::Posted(posted) => posted.error.message().to_string(),
            other => other.to_string(),
        }
    }

    /// An error of the kind that the encoder posted, or that fits best, with this text.
    pub(crate) fn error(&self, text: &str) -> glib::Error {
        match self.innermost() {
            Self::Posted(Posted { error, .. }) => {
                glib::Error::with_domain(error.domain(), error.code(), text)
            }
            Self::Encoder(EncoderError::CapsRefused { .. }) => {
                glib::Error::new(gst::StreamError::Format, text)
            }
            Self::Encoder(_) => glib::Error::new(gst::LibraryError::Init, text),
            Self::NotKept => glib::Error::new(gst::ResourceError::NotFound, text),
            Self::CannotKeep { is_full: true, .. } => {
                glib::Error::new(gst::ResourceError::NoSpaceLeft, text)
            }
            Self::CannotKeep { .. } => glib::Error::new(gst::ResourceError::Write, text),
            _ => glib::Error::new(gst::StreamError::Encode, text),
        }
    }

    /// Nobody's fault: nothing to report.
    pub(super) fn is_nobodys(&self) -> bool {
        matches!(self, Self::Aborted | Self::Replanned)
    }

    /// How the attempt ended, for whoever decides what becomes of it.
    pub(crate) fn ending(&self) -> Ending {
        match self {
            Self::Aborted => Ending::Aborted,
            Self::Replanned => Ending::Replanned,
            Self::Encoder(EncoderError::CapsRefused { .. }) => Ending::CapsRefused,
            Self::Unopened(_) => Ending::NotOpened,
            Self::Encoder(_) | Self::Posted(_) | Self::Flow { .. } => Ending::EncoderFailed,
            Self::NotKept | Self::CannotKeep { .. } => Ending::NotKept,
            Self::Fault(fault) => Ending::Faulty(fault.clone()),
            Self::Stalled { .. } => Ending::Stalled,
        }
    }

    /// The encoder complained of what it is to encode, not of itself.
    pub(super) fn is_of_stream(&self) -> bool {
        match self {
            Self::Posted(Posted { error, .. }) => {
                error.is::<gst::StreamError>() || error.matches(gst::CoreError::Negotiation)
            }
            Self::Encoder(EncoderError::CapsRefused { .. }) => true,
            _ => false,
        }
    }
}

fn in_words(doing: Doing) -> &'static str {
    match doing {
        Doing::Opening => "opening",
        Doing::Encoding => "encoding",
        Doing::Draining => "draining",
        Doing::Closing => "closing",
        Doing::CacheIo => "the cache was used",
    }
}

/// An encoder that was given these raw caps posted this message; `None` if that is no error.
pub(crate) fn posted(
    message: &gst::Message,
    encoder: &str,
    caps: Option<&gst::Caps>,
) -> Option<Failure> {
    let gst::MessageView::Error(error) = message.view() else {
        return None;
    };
    let details = error.details();
    let flow = details.and_then(|details| details.get::<i32>("flow-return").ok());
    Some(match caps {
        // An element in a chain, a queue for example, says no more than that its stream was refused.
        Some(caps) if flow == Some(gst::FlowReturn::NotNegotiated.into_glib()) => {
            Failure::Encoder(EncoderError::CapsRefused {
                encoder: encoder.to_string(),
                caps: caps.clone(),
            })
        }
        _ => Failure::Posted(Posted {
            message: message.clone(),
            error: error.error(),
            debug: error.debug(),
        }),
    })
}
