// SPDX-License-Identifier: MPL-2.0

//! The key of a chunk: a digest of everything that determines what an encoder makes of it.
//!
//! XXH3 with 128 bits reads as fast as memory does, and among 10¹² chunks the odds that any two share a key are below 1 to 10¹⁴.
//! It isn't a cryptographic hash: who builds two inputs with one key gets one in place of the other, in their own cache, and
//! gains nothing. What can't be hashed for certain (metas, objects, files that an encoder reads) is refused: such a chunk is
//! encoded every time. `session/replay.rs` puts the key together; `digest` says what is hashed of a frame, `identity` of an encoder.

use super::digest::FrameDigest;
use super::format;
use std::fmt;
use thiserror::Error;
use twox_hash::xxhash3_128::Hasher;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 16]);

impl Key {
    pub(super) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why there is no key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Unhashable {
    /// The frame's pixels can't be read as the caps say.
    #[error("frames can't be compared: {0}")]
    Pixels(&'static str),
    /// The frame carries something that encoders may look at.
    #[error("frames carry a {0}")]
    Meta(String),
    /// The element has no factory, so nothing says what it is.
    #[error("{0} has no factory")]
    Factory(String),
    #[error("property {name} of {of} {why}")]
    Property {
        of: String,
        name: String,
        why: &'static str,
    },
}

/// Takes the parts of a key. Each has a kind and a label, and its length stands before it, so that no two sequences of parts are
/// the same bytes. After an error it is of no use.
#[derive(Clone)]
pub(crate) struct KeyHasher(Hasher);

impl Default for KeyHasher {
    /// Chunks of another version of this plugin, or in another format, are other chunks.
    fn default() -> Self {
        let mut hasher = Self(Hasher::new());
        hasher.text(crate::PLUGIN_NAME, env!("CARGO_PKG_VERSION"));
        hasher.number("format", format::VERSION.into());
        hasher
    }
}

impl KeyHasher {
    /// Of what is a part of a key and no key itself.
    pub(super) fn of_part() -> Self {
        Self(Hasher::new())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    pub(crate) fn text(&mut self, label: &str, text: &str) {
        self.part(b't', label, text.as_bytes());
    }

    pub(crate) fn number(&mut self, label: &str, number: u64) {
        self.part(b'n', label, &number.to_le_bytes());
    }

    /// A frame that the encoder is fed, at this time after the first.
    pub(crate) fn frame(
        &mut self,
        digest: &FrameDigest,
        time: gst::ClockTime,
        duration: Option<gst::ClockTime>,
    ) {
        self.part(b'd', "picture", digest.as_bytes());
        self.number("time", time.nseconds());
        if let Some(duration) = duration {
            self.number("duration", duration.nseconds());
        }
    }

    pub(crate) fn finish(self) -> Key {
        Key(self.0.finish_128().to_be_bytes())
    }

    fn part(&mut self, kind: u8, label: &str, content: &[u8]) {
        self.open(kind, label, content.len());
        self.0.write(content);
    }

    /// Exactly `length` bytes come next, by [`write`](Self::write).
    pub(super) fn open(&mut self, kind: u8, label: &str, length: usize) {
        self.0.write(&[kind]);
        self.0.write(&(label.len() as u64).to_le_bytes());
        self.0.write(label.as_bytes());
        self.0.write(&(length as u64).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key_of(parts: &[(String, Result<String, u64>)]) -> Key {
        let mut hasher = KeyHasher::default();
        for (label, part) in parts {
            match part {
                Ok(text) => hasher.text(label, text),
                Err(number) => hasher.number(label, *number),
            }
        }
        hasher.finish()
    }

    #[test]
    fn where_a_part_ends_counts() {
        let mut keys = Vec::new();
        for parts in [
            &["a", "bc"][..],
            &["ab", "c"],
            &["abc", ""],
            &["", "abc"],
            &["a", "b", "c", ""],
        ] {
            let mut hasher = KeyHasher::default();
            for part in parts.chunks(2) {
                hasher.text(part[0], part[1]);
            }
            keys.push(hasher.finish());
        }
        let count = keys.len();
        keys.sort_by_key(ToString::to_string);
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn a_number_isnt_a_text_of_the_same_bytes() {
        let [mut text, mut number] = [(); 2].map(|()| KeyHasher::default());
        text.text("a", "8 bytes!");
        number.number("a", u64::from_le_bytes(*b"8 bytes!"));
        assert_ne!(text.finish(), number.finish());
    }

    #[test]
    fn a_frame_at_another_time_is_another_frame() {
        let digest = FrameDigest::from_bytes([1; 16]);
        let time = gst::ClockTime::from_mseconds;
        let key = |at: u64, duration: Option<u64>| {
            let mut hasher = KeyHasher::default();
            hasher.frame(&digest, time(at), duration.map(time));
            hasher.finish()
        };
        assert_eq!(key(0, Some(40)), key(0, Some(40)));
        let others = [key(40, Some(40)), key(0, Some(20)), key(0, None)];
        assert!(others.iter().all(|other| *other != key(0, Some(40))));
    }

    #[test]
    fn a_key_is_written_as_32_digits() {
        let text = KeyHasher::default().finish().to_string();
        assert_eq!(text.len(), 32);
        assert!(text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    proptest! {
        #[test]
        fn other_parts_give_another_key(
            one in prop::collection::vec(("[ab]{0,3}", prop_oneof!["[ab]{0,3}".prop_map(Ok), (0u64..3).prop_map(Err)]), 0..4),
            other in prop::collection::vec(("[ab]{0,3}", prop_oneof!["[ab]{0,3}".prop_map(Ok), (0u64..3).prop_map(Err)]), 0..4),
        ) {
            prop_assert_eq!(one == other, key_of(&one) == key_of(&other));
        }
    }
}
