// SPDX-License-Identifier: MPL-2.0

//! What encoders made of chunks in earlier runs, in files, so that a run after a crash, a power cut or an edit encodes only what
//! is new.
//!
//! ```text
//! fed frames ─► digest ──┐
//!   caps, requests, tags ├─► KeyHasher ─► Key ─► Files::get ─► a Recording ─► the chunk's packets
//! encoder ─► identity ───┘                  │         └► none, or damage ─► encode ─┐
//!                                           └────────────► Files::put ◄─ Recording ─┘
//! ```
//!
//! - `key`: what determines a chunk, as 128 bits; `digest`: of a frame; `identity`: of an encoder.
//! - `recording`: what an encoder made of it; `format`: as bytes, and what is wrong with bytes.
//! - `files`: the directory.
//!
//! # What is in a key
//!
//! This plugin's version and the format of the files; GStreamer's version; of the encoder, or of each element of a bin, the factory,
//! its plugin with the version, all properties, and the links; of each frame fed, own or overlap, the visible pixels, the flags, and the
//! time and duration relative to the first. The sessions add what else they give to an encoder: the caps on both sides,
//! tags, where key frames are forced, which of the frames are own.
//!
//! # What isn't
//!
//! - When in the stream the chunk is: after an edit before it, it is the same chunk.
//! - The library behind the encoder's plugin (libx264, libvpx) with its version, and an encoder that an application registers
//!   without a plugin: nothing says what they are. What is in the cache stays good and decodable, but is what the library made when
//!   it was encoded. Whoever updates one for the sake of what it makes empties the directory.
//! - The machine: encoders that count its processors are told how many threads to take, by a property.
//!
//! # What isn't kept
//!
//! What can't be hashed for certain: frames with metas that an encoder may see, frames that can't be mapped, properties that are
//! objects, encoders that work in several passes or with files beside. Such chunks are encoded every time.
//!
//! # Guarantees
//!
//! - A file is whole and under its own key, or isn't used: everything in it is under a checksum, the key too. Whatever its bytes,
//!   reading it doesn't panic and takes memory in proportion to its length.
//! - A file is synced before it has its name. After a kill or a power cut there may be a file beside, which is removed an hour later.
//! - Processes that share the directory need not know of each other. The worst that happens is that one encodes what another has.
//! - Only the user can read the files. Links are not followed. What isn't ours by name, kind, owner and first bytes is neither
//!   read nor replaced nor removed.
//! - Errors are values: who calls warns and goes on without.
//!
//! All of it blocks, on disk or on memory: nothing here is called with a lock held.

mod digest;
mod files;
mod format;
mod identity;
mod key;
mod recording;

pub use self::digest::FrameDigest;

pub(crate) use self::{
    files::Files,
    identity::encoder_identity,
    key::{Key, KeyHasher, Unhashable},
    recording::{Entry, Recorder, Recording},
};
