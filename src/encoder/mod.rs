// SPDX-License-Identifier: MPL-2.0

//! Encoders, one at a time and before they encode anything: which one, how it is made and set, and what is known of it.

pub(crate) mod choice;
pub(crate) mod description;
pub(crate) mod hints;
pub(crate) mod model;
pub(crate) mod passes;
pub(crate) mod profile;
pub(crate) mod properties;
pub(crate) mod turn;
#[cfg(any(target_os = "macos", test))]
mod videotoolbox;
