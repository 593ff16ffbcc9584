// SPDX-License-Identifier: MPL-2.0

//! What went wrong, and what the command ends with for it. The numbers are those of sysexits.h.

use crate::range::RangeError;
use crate::source::SourceError;
use std::fmt;
use std::io;
use std::path::Path;

/// What a command ends with that fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Failed = 1,
    Usage = 2,
    /// EX_DATAERR: the source can't be used.
    Source = 65,
    /// EX_TEMPFAIL: it may go well another time.
    Again = 75,
    /// EX_CONFIG: this installation can't do it.
    Cannot = 78,
}

/// A sentence for people, and the code for programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: Code,
    pub text: String,
    /// The chunk that isn't kept.
    pub missing: Option<usize>,
}

impl Failure {
    fn new(code: Code, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            missing: None,
        }
    }

    pub fn failed(text: impl Into<String>) -> Self {
        Self::new(Code::Failed, text)
    }

    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Code::Usage, text)
    }

    pub fn source(text: impl Into<String>) -> Self {
        Self::new(Code::Source, text)
    }

    pub fn again(text: impl Into<String>) -> Self {
        Self::new(Code::Again, text)
    }

    pub fn cannot(text: impl Into<String>) -> Self {
        Self::new(Code::Cannot, text)
    }

    pub fn source_gone(path: &Path, error: &io::Error) -> Self {
        Self::source(format!("{} can't be read: {error}", path.display()))
    }

    /// Something couldn't be written: for want of space another time may be better.
    pub fn unwritten(path: &Path, error: &io::Error) -> Self {
        let text = format!("{} can't be written: {error}", path.display());
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::again(text),
            _ => Self::failed(text),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.text)
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let code = match error {
            SourceError::Missing(_) => Code::Cannot,
            _ => Code::Source,
        };
        Self::new(code, error.to_string())
    }
}

/// What GStreamer refuses that was expected of it.
impl From<gst::glib::BoolError> for Failure {
    fn from(error: gst::glib::BoolError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<gst::PadLinkError> for Failure {
    fn from(error: gst::PadLinkError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<RangeError> for Failure {
    fn from(error: RangeError) -> Self {
        match error {
            RangeError::Source(error) => error.into(),
            RangeError::Stopped(failure) => *failure,
            error => Self::source(error.to_string()),
        }
    }
}
