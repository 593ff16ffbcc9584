// SPDX-License-Identifier: MPL-2.0

//! The brains: state machines that decide and never act.
//!
//! Nothing below this module knows GStreamer, a clock, a thread or a file (`tests/layering.rs` keeps
//! it so). Times are nanoseconds that the caller brings, buffers are payloads of a type that the
//! caller chooses, and each verdict tells the caller what to do next.
//!
//! In the order in which a frame meets them: [`frame`] names things, [`budget`] lets a frame in,
//! [`planner`] gives it to chunks, [`roster`] gives chunks to sessions, [`watch`] sees
//! whether these live, [`reorder`] puts the packets back in order, [`pace`] sees whether the input waits for them, [`timeline`] restores
//! their times, [`tally`] counts all of it.

pub mod budget;
pub mod frame;
pub mod keys;
pub mod pace;
pub mod planner;
pub mod reorder;
pub mod roster;
pub mod tally;
pub mod timeline;
pub mod watch;
