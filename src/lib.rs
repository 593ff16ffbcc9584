// SPDX-License-Identifier: MPL-2.0

//! `vtparallelenc`: one video, several encoders at once, one stream.
//!
//! ```text
//!  vtparallelenc (GstBin)
//! ┌───────────────────────────────────────────────────────────────────────────────────┐
//! │        distributor            session 0..N                aggregator              │
//! │      ┌─────────────┐ src_0  ┌──────────────┐  sink_0  ┌────────────────────┐      │
//! │ sink │ clip, count,├───────►│ fresh encoder├─────────►│ find frame, hold,  │ src  │
//! ├─────►│ cut, hold   │   ⋮    │ for each     │    ⋮     │ verify, reorder,   ├─────►│
//! │      │             ├───────►│ chunk        ├─────────►│ restore times      │      │
//! │      └──────┬──────┘ src_N  └──────────────┘  sink_N  └─────────┬──────────┘      │
//! │   brains: budget, planner, roster             brains: reorder, timeline           │
//! └───────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Modules in the order in which a frame flows through them:
//!
//! - [`parallelenc`]: the public bin. Properties, pads, states, the children's messages; wires, decides nothing.
//! - `distributor`: raw frames in, chunks to sessions.
//! - `session`: one live encoder in one slot; runs a chunk through a fresh encoder.
//! - `aggregator`: packets in, one stream out.
//! - `cache`: what encoders made of chunks in earlier runs, in files.
//! - `clock`: the time by which the input is watched.
//! - `pad_task`: starting what runs in pads.
//! - `panics`: what becomes of a panic, wherever we are called from.
//! - `queries`: answers to queries, apart from the pads that give them.
//! - [`logic`]: the brains of all of them: plain Rust that knows no GStreamer, no clock and no thread.
//!
//! # Locks
//!
//! There is one order, and nothing is called while a lock is held except what is after it in this list:
//!
//! 1. the settings of the bin (copied at READY, then let go),
//! 2. the distributor's state,
//! 3. the aggregator's state.
//!
//! Leaves, under which nothing is called: what stands for the encoder among the bin's children, the properties set on it
//! (`session/overrides.rs`), the encoder that a session has ahead of its first chunk, whose turn it is to open an encoder
//! (`session/opening.rs`), the aggregator's list of pads, the bytes that the cache has counted, and the watch's thread.
//!
//! No pad push, event, query, message, property or state change of another object happens while any of them is held. `locking` says
//! what a panic does to a lock, `panics` what it does otherwise. The watch also takes the bin's own state lock, of GStreamer, before all of these, and only if
//! nobody has it.
//!
//! # Who waits, and who wakes
//!
//! | waiter | waits for | woken by |
//! |---|---|---|
//! | `distributor` chain | room in the budget | a chunk done, flush, stop, failure, downstream's refusal |
//! | who asks DRAIN | no frame held | a chunk done, flush, stop, failure, downstream's refusal |
//! | session task | a chunk | a chunk opened, failed or left, flush, stop |
//! | session task | the chunk's next frame | a frame, a chunk closed, EOS, the encoder's error, flush, stop, failure |
//! | session task | the encoder's EOS | that EOS, the encoder's error, flush, stop, failure |
//! | session task, and threads that open and close the first encoder | its turn to open or close an encoder | whoever has it, when that encoder is open or closed, or its session is left to itself; `stall-timeout`, after which it has the turn; to open one, a stop |
//! | who starts the bin, and the upstream thread at the first caps | a thread that opens the first encoder | that encoder; `stall-timeout`; 10 seconds after a stop |
//! | who stops the bin | a thread that closes the first encoder | that encoder; `stall-timeout`, 10 seconds at most |
//! | session task | what an encoder does when it is called | that encoder; nobody waits for the session after `stall-timeout` |
//! | who stops the bin, and who flushes | no session at work, and the first encoder not being opened | a session that comes to rest, or is left to itself; whoever opens it |
//! | the watch | its next tick | time, a stop |
//! | encoder's thread, where the stream can't be cut | room for its packets | a packet that left, flush, stop, downstream's refusal |
//! | aggregator task | a chunk verified, EOS | a packet or chunk, EOS, flush, stop; a timeout where input has stopped |
//!
//! While whole chunks keep their frames until downstream has the first packets (see below), whoever waits in the distributor lets
//! those frames go after a second.
//!
//! Input that stands still while output is held may be waiting for that output, on the far side of a muxer. What counts as standing
//! still goes by the input's own pace (`logic/pace.rs`). Then the packets of one chunk leave as they come, of twice as many chunks
//! each time that it happens again. If it goes on, what waits for more frames is given up: a chunk gets a shorter trail, frames that
//! might have been a chunk of their own go to the one before, and a chunk that was to be looked up in the cache is encoded. That is the
//! one thing that makes chunks depend on timing.
//!
//! # Encoders that fail and hang
//!
//! A failed attempt costs its chunk's time: the roster hands the chunk out again. An encoder may also keep the thread that calls it.
//! So session tasks have threads that nobody but us waits for (`session/threads.rs`), and a watch (`distributor/watch.rs`) leaves a
//! session to itself that shows no sign of life: its pads and its slot are taken out of the element, another one takes its place
//! under a new number, and what it still does finds that nobody waits (`Standing`). The slot doesn't pass state changes on to
//! the encoder, as that would wait for it.
//!
//! # The first packets
//!
//! Frames are taken in long before they leave, and what comes after us may want key frames at moments that it says only when it
//! gets packets (splitmuxsink asks for the next one when time passes the last one). So the first packets of a stream leave before
//! their chunk is whole, where the encoder says how far it reorders, and until downstream has them no frames are let go, for a second
//! at most. A moment that is asked for too late is forced in another attempt at its chunk, as long as that
//! hasn't left, and the next ones are expected at the same distance. Requests depend on timing, and so does what they make; without
//! them nothing does. Another attempt at the first chunk has to make those packets again; if an encoder can't, the chunk
//! begins after them.

mod aggregator;
mod cache;
mod clock;
mod distributor;
mod locking;
pub mod logic;
mod pad_task;
mod panics;
pub mod parallelenc;
mod queries;
mod session;

/// For tests.
#[cfg(feature = "failpoints")]
pub use clock::by_hand as clock_by_hand;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    parallelenc::register(plugin)
}

/// As `plugin_define!` says it.
pub(crate) const PLUGIN_NAME: &str = "vtparallelenc";

gst::plugin_define!(
    vtparallelenc,
    env!("CARGO_PKG_DESCRIPTION"),
    plugin_init,
    env!("CARGO_PKG_VERSION"),
    // What GStreamer calls MPL-2.0.
    "MPL",
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_NAME"),
    // No address: the project has no home on the net yet.
    env!("CARGO_PKG_NAME"),
    "2026-11-22"
);
