// SPDX-License-Identifier: MPL-2.0

//! What `vtexport` is made of.
//!
//! ```text
//!  source, scan ─► plan ─► chunk, chunk, chunk … ─► join ─► a file
//!                            range ─► element
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | [`source`] | a file that is opened: what streams are in it |
//! | [`scan`] | the pictures of its video, found without decoding |
//! | [`range`] | some of them, decoded without what is before them |
//! | [`scenes`] | how they differ from those before them |
//! | [`plan`] | which frames each chunk has, and how it is encoded |
//! | [`element`] | the element that encodes and joins, as a plan says |
//! | [`feed`] | frames into a pipeline, and what that says of itself |
//! | [`passes`] | two passes, and how many bits each chunk gets in the second |
//! | [`statistics`] | what a first pass found, and how many bits frames take by that |
//! | [`chunk`] | one chunk: decoded, encoded and kept |
//! | [`folder`] | what is kept on the way |
//! | [`join`] | all chunks, with what is beside the picture, as a file |
//! | [`streams`] | sound, subtitles, tags and chapters |
//! | [`time_code`] | the number that editors know a film's first frame by |
//! | [`subtitles`] | text with markup as plain text |
//! | [`fitting`] | an output that may be no larger than a size |
//! | [`jobs`] | a process for each chunk |
//! | [`machines`] | a task for each chunk, on other machines |
//! | [`tasks`] | which of these are submitted, again, and a second time |
//! | [`slurm`], [`dask`] | what runs them |
//! | [`export`] | all of that for one command |
//! | [`progress`] | what is told of it meanwhile |
//! | [`formats`] | types of files that can be written, and encoders for them |
//! | [`presets`] | encoders by name |
//! | [`inspect`] | what is told of a source, to people and to programs |
//! | [`digest`] | what tells one file from another |
//! | [`failure`] | what went wrong, and what a command ends with for it |

// They panic where nothing can be written.
#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod chunk;
pub mod dask;
pub mod digest;
pub mod element;
pub mod export;
pub mod failure;
pub mod feed;
pub mod fitting;
pub mod folder;
pub mod formats;
pub mod inspect;
pub mod jobs;
pub mod join;
pub mod machines;
pub mod passes;
pub mod plan;
pub mod presets;
pub mod progress;
pub mod range;
pub mod scan;
pub mod scenes;
pub mod slurm;
pub mod source;
pub mod statistics;
pub mod streams;
pub mod subtitles;
pub mod tasks;
pub mod time_code;
