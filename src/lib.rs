// SPDX-License-Identifier: MPL-2.0

//! `vtparallelenc`: one video, several encoders at once, one stream.
//!
//! ```text
//!  vtparallelenc (GstBin)
//! ┌───────────────────────────────────────────────────────────────────────────────────┐
//! │      distributor (input)      session 0..N           aggregator (output)          │
//! │      ┌─────────────┐ src_0  ┌──────────────┐  sink_0  ┌────────────────────┐      │
//! │ sink │ clip, copy, ├───────►│ fresh encoder├─────────►│ look into, hold,   │ src  │
//! ├─────►│ hold        │   ⋮    │ for each     │    ⋮     │ verify, reorder,   ├─────►│
//! │      │             ├───────►│ chunk        ├─────────►│ restore times      │      │
//! │      └──────┬──────┘ src_N  └──────┬───────┘  sink_N  └─────────┬──────────┘      │
//! │             └──────────────► engine, one lock ◄─────────────────┘                 │
//! └───────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! # Layers
//!
//! A layer uses lower ones and its own modules; `tests/layering.rs` holds the source to it.
//!
//! | layer | modules |
//! |---|---|
//! | 7 | [`export`]: what programs want that have each chunk encoded by a process of its own |
//! | 6 | [`parallelenc`]: the public bin. Properties, pads, states, the children's messages; wires, decides nothing |
//! | 5 | `stream`: the two private elements and what runs between them |
//! | 4 | `session`: one live encoder in one slot; makes an attempt at a chunk with a fresh encoder |
//! | 3 | `encoder`: encoders before they encode anything, and what is known of them; `cache`: what encoders made in earlier runs, in files |
//! | 2 | `media`: GStreamer's values; `host`, `job`, `shares`, `panics`, `tasks`, `clock`: what all parts want of the bin, the settings, the system |
//! | 1 | [`logic`]: the brains: plain Rust that knows no GStreamer, no clock and no thread. [`logic::engine`] is all of them as one machine |
//!
//! Where to look first: a frame is cut in `logic/chunker.rs`, an attempt is judged in `logic/engine/verdict.rs`, a packet gets its DTS in
//! `logic/timeline.rs`, by `stream/output/writer.rs`. How many sessions share the cores, with how many threads, is chosen in `logic/split.rs`. That one encoder has to do is decided in `stream/decision.rs` and, for what is only
//! known of the stream, in `stream/negotiate.rs`; an encoder that hangs is noticed in `logic/liveness.rs` and left in
//! `stream/watchdog.rs`; what programs are told is in `stream/messages.rs`, what people are told in `stream/notices.rs`; a chunk's key in the cache is put together in `session/replay.rs`.
//!
//! # One lock and its leaves
//!
//! The engine is behind one lock (`stream/shared.rs`). What a call returns is carried out when the lock is let go: no pad push, event,
//! query, message, property or state change of another object happens while it is held, and what was freed is dropped afterwards. Whoever
//! a call has given something to do is woken when the lock is let go.
//!
//! Leaves, under which nothing of ours is called, and which are taken by themselves: how the stream is encoded, what is known of
//! its input, what was said and what was sent; the sessions and what comes on their pads; the watch's thread; what stands for the
//! encoder among the bin's children and the properties set on it (`encoder/`); the bytes that the cache has. Two are also taken under the
//! engine's lock: the list of the sessions, to wake or to watch them, and whose turn it is to open an encoder (`encoder/turn.rs`), when a
//! session is abandoned (which also sets a flag of its slot, under that object's lock). One is taken before the engine's: the timeline's, for a look at what is held. The watch takes the bin's own state lock, of GStreamer, before all of these, and only if
//! nobody has it. A panic poisons none of them (`panics` says what becomes of it).
//!
//! # Who waits, and who wakes
//!
//! | waiter | waits for | woken by |
//! |---|---|---|
//! | the input's chain function | room in the budget | a chunk done, another plan, a session less, flush, stop, failure, downstream's refusal |
//! | who asks DRAIN | no frame held | a chunk done, flush, stop, failure, downstream's refusal |
//! | session task | a chunk | a chunk opened, failed, is to be encoded again or was sent, flush, stop, failure; being abandoned |
//! | session task | the chunk's next frame, or all of them | a frame, a chunk closed, EOS, another plan, the encoder's error, flush, stop, failure; being abandoned |
//! | session task | the encoder's EOS | that EOS, the last own frame's packet, the encoder's error, another plan, flush, stop, failure; being abandoned |
//! | session task, and threads that open and close the first encoder | its turn to open or close an encoder | whoever has it, when that encoder is open or closed, or its session is abandoned; `stall-timeout`, after which it has the turn; to open one, a stop |
//! | who starts the bin, and the upstream thread at the first caps | a thread that opens the first encoder | that encoder; `stall-timeout`; as long as a shutdown waits after a stop |
//! | who stops the bin | a thread that closes the first encoder | that encoder; `stall-timeout`, 10 seconds at most |
//! | session task | another one that removes files of the cache, which are too many | that one; nobody waits for the session after `stall-timeout` |
//! | session task | what an encoder does when it is called | that encoder; nobody waits for the session after `stall-timeout` |
//! | who stops the bin, and who flushes | no session at work, and the first encoder not being opened | a session that comes to rest, or is abandoned; whoever opens it |
//! | the watch, and who tells of progress | the next tick | time, a stop |
//! | who stops the bin | the watch, unless it is that | the end of its tick; an application's handler that it is in |
//! | whoever writes the timeline | whoever else writes it | that; half a second, after which there is none any more |
//! | the output's task | a chunk verified, EOS | a packet, a chunk, EOS, flush, stop, failure; a timeout where input has stopped |
//!
//! While finished chunks keep their frames until downstream has the first packets (see below), whoever waits (for room, or in a
//! session for a chunk, a frame or EOS) lets those frames go after a second.
//!
//! Input that stands still while output is held may be waiting for that output, on the far side of a muxer. What counts as standing
//! still goes by the input's own pace (`logic/pace.rs`). Then the packets of one chunk leave as they come, of twice as many chunks
//! each time that it happens again. If it goes on, what waits for more frames is given up: a chunk gets a shorter trail, frames that
//! might have been a chunk of their own go to the one before, and a chunk that was to be looked up in the cache is encoded. That is the
//! one thing that makes chunks depend on timing.
//!
//! # Encoders that fail and hang
//!
//! A failed attempt costs its chunk's time: the chunk is handed out again. An encoder may also keep the thread that calls it.
//! So session tasks have threads that nobody but us waits for (`tasks`), and a watch (`stream/watchdog.rs`) abandons a
//! session that shows no sign of life: its pads and its slot are taken out of the element, another one takes its place
//! under a new number, and what it still does is for an attempt that is over (`AttemptId`), so nothing comes of it. The slot doesn't
//! pass state changes on to the encoder, as that would wait for it.
//!
//! # The first packets
//!
//! Frames are taken in long before they leave, and what comes after us may want key frames at moments that it says only when it
//! gets packets (splitmuxsink asks for the next one when time passes the last one). So the first packets of a stream leave before
//! their chunk is finished, where the encoder says how far it reorders, and until downstream has them no frames are let go, for a second
//! at most. A moment that is asked for too late is forced in another attempt at its chunk, as long as that
//! isn't finished, and the next ones are expected at the same distance. Requests depend on timing, and so does what they make; without
//! them nothing does, and `key-frame-interval` makes regular key frames that don't. Another attempt at the first chunk has to make those
//! packets again; if an encoder can't, the chunk begins after them.

mod cache;
mod clock;
mod encoder;
pub mod export;
mod host;
mod job;
pub mod logic;
mod media;
mod panics;
pub mod parallelenc;
mod session;
mod shares;
mod stream;
mod tasks;

/// For tests.
#[cfg(feature = "failpoints")]
pub use clock::by_hand as clock_by_hand;

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    parallelenc::register(plugin)
}

/// What is logged of a part of the plugin.
pub(crate) fn category(name: &str, part: &str) -> gst::DebugCategory {
    let description = format!("vtparallelenc: {part}");
    gst::DebugCategory::new(name, gst::DebugColorFlags::empty(), Some(&description))
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
