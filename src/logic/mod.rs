// SPDX-License-Identifier: MPL-2.0

//! The brains: state machines that decide and never act.
//!
//! Nothing below this module knows GStreamer, a clock, a thread or a file (`tests/layering.rs` keeps it so). Times are nanoseconds that the
//! caller brings, frames and packets are payloads of types that the caller chooses, and each verdict tells the caller what to do next.
//!
//! In the order in which a frame meets them: [`ids`] names things, [`budget`] lets a frame in, [`keys`] says whether it is to be a key
//! frame, [`scenes`] how much of it is new, [`split`] has settled how many sessions share the
//! cores and [`plan`] how long chunks are ([`lengths`]), by what was asked for ([`request`]), [`chunker`] gives the frame to one ([`live`]), by
//! the best seam that [`cuts`] finds or that was [`given`], [`roster`] gives chunks to sessions,
//! [`liveness`] sees whether these live, [`store`] holds packets until they are in order, [`bucket`] sees whether the decoder's buffer is ever empty, [`timeline`] restores their times,
//! [`early_start`] and [`pace`] say when some leave before that, [`tally`] counts all of it. [`engine`] is all of them as one machine.

pub mod bucket;
pub mod budget;
pub mod chunker;
pub mod cuts;
pub mod early_start;
pub mod engine;
pub mod given;
pub mod ids;
pub mod keys;
pub mod lengths;
pub mod live;
pub mod liveness;
pub mod pace;
pub mod plan;
pub mod progress;
pub mod request;
pub mod roster;
pub mod scenes;
pub mod split;
pub mod store;
pub mod tally;
pub mod timeline;
