// SPDX-License-Identifier: MPL-2.0

//! Values of GStreamer: caps, packets, tags, answers to queries. No element, no thread, and no lock.

pub(crate) mod bitstream;
pub(crate) mod caps;
pub(crate) mod outside;
pub(crate) mod pixels;
pub(crate) mod queries;
pub(crate) mod raw;
pub(crate) mod tags;
pub(crate) mod thumbnails;
