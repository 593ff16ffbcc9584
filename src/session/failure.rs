// SPDX-License-Identifier: MPL-2.0

//! Why an attempt ended without its chunk.

use crate::encoder::description::EncoderError;
use crate::logic::engine::{Doing, Ending};
use crate::logic::store::Fault;
use glib::translate::IntoGlib;
use std::fmt;
use std::time::Duration;

/// Why an attempt ended without its chunk.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// A flush, a stop or another session's failure: nobody's fault, nothing to report.
    Aborted,
    /// The chunk's overlap was dropped meanwhile, or a key frame is wanted where it has none: it begins anew.
    Replanned,
    /// The stream has ended before its end, which upstream learns otherwise.
    Halted,
    Encoder(EncoderError),
    /// No encoder could be opened, for this reason.
    Unopened(Box<Failure>),
    /// The encoder's own error message.
    Posted(gst::Message),
    Flow {
        encoder: String,
        flow: gst::FlowError,
    },
    Fault(Fault),
    /// The encoder stood still and was left to itself.
    Stalled {
        encoder: String,
        doing: Doing,
        time: Duration,
    },
}

impl Failure {
    /// What it is, for applications.
    pub(crate) fn cause(&self) -> &'static str {
        match self.innermost() {
            Self::Aborted | Self::Replanned | Self::Halted => "aborted",
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

    /// A flush, a stop, the end of the stream or another plan: nothing to report.
    pub(super) fn is_nobodys(&self) -> bool {
        matches!(self, Self::Aborted | Self::Halted | Self::Replanned)
    }

    /// How the attempt ended, for whoever decides what becomes of it.
    pub(crate) fn ending(&self) -> Ending {
        match self {
            Self::Aborted | Self::Halted => Ending::Aborted,
            Self::Replanned => Ending::Replanned,
            Self::Encoder(EncoderError::CapsRefused { .. }) => Ending::CapsRefused,
            Self::Unopened(_) => Ending::NotOpened,
            Self::Encoder(_) | Self::Posted(_) | Self::Flow { .. } => Ending::EncoderFailed,
            Self::Fault(fault) => Ending::Faulty(fault.clone()),
            Self::Stalled { .. } => Ending::Stalled,
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

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aborted => f.write_str("it was aborted"),
            Self::Replanned => f.write_str("it was planned anew"),
            Self::Halted => f.write_str("the stream has ended"),
            Self::Encoder(error) => error.fmt(f),
            Self::Unopened(why) => why.fmt(f),
            Self::Posted(message) => match message.view() {
                gst::MessageView::Error(error) => {
                    write!(f, "{}", error.error().message())?;
                    match error.debug() {
                        Some(debug) => write!(f, " ({debug})"),
                        None => Ok(()),
                    }
                }
                _ => write!(f, "{message:?}"),
            },
            Self::Flow { encoder, flow } => {
                write!(
                    f,
                    "the encoder {encoder} returned {flow:?} without saying why"
                )
            }
            Self::Fault(fault) => fault.fmt(f),
            Self::Stalled {
                encoder,
                doing,
                time,
            } => write!(
                f,
                "the encoder {encoder} stood still for {time:?} while {} (stall-timeout)",
                in_words(*doing)
            ),
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

/// The error is a flow error, and its reason are caps that were refused.
fn is_not_negotiated(message: &gst::Message) -> bool {
    let gst::MessageView::Error(error) = message.view() else {
        return false;
    };
    let flow = error
        .details()
        .and_then(|details| details.get::<i32>("flow-return").ok());
    flow == Some(gst::FlowReturn::NotNegotiated.into_glib())
}

/// An encoder that was given these raw caps posted this error.
pub(crate) fn posted(message: gst::Message, encoder: &str, caps: Option<&gst::Caps>) -> Failure {
    match caps {
        // An element in a chain, a queue for example, says no more than that its stream was refused.
        Some(caps) if is_not_negotiated(&message) => Failure::Encoder(EncoderError::CapsRefused {
            encoder: encoder.to_string(),
            caps: caps.clone(),
        }),
        _ => Failure::Posted(message),
    }
}
