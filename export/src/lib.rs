// SPDX-License-Identifier: MPL-2.0

//! What `vtexport` is made of.
//!
//! | module | what it does |
//! |---|---|
//! | [`source`] | a file that is opened: what streams are in it |
//! | [`scan`] | the pictures of its video, found without decoding |
//! | [`range`] | some of them, decoded without what is before them |
//! | [`formats`] | types of files that can be written, and encoders for them |
//! | [`inspect`] | what is told of both, to people and to programs |

pub mod formats;
pub mod inspect;
pub mod range;
pub mod scan;
pub mod source;
