// SPDX-License-Identifier: MPL-2.0

//! `vtparallelenc`: one video, several encoders at once, one stream.

pub mod logic;
