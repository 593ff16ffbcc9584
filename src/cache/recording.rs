// SPDX-License-Identifier: MPL-2.0

//! What an encoder made of a chunk, as it is kept, and who remembers it.

use crate::media::tags;
use serde::{Deserialize, Serialize};

/// What an encoder made of a chunk, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Recording {
    pub(crate) entries: Vec<Entry>,
}

/// What came out of an encoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entry {
    Caps(String),
    Tags {
        text: String,
        is_global: bool,
    },
    Packet(Packet),
    /// A frame that the encoder said it left out: its time in ns since that of the first frame fed.
    Skipped(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Packet {
    /// In ns since the private time of the first frame fed.
    pub(crate) pts: Option<i64>,
    /// As `pts`.
    pub(crate) dts: Option<i64>,
    /// In ns.
    pub(crate) duration: Option<u64>,
    /// Those of the buffer.
    pub(crate) flags: u32,
    /// Offset and offset at the end, where there are any.
    pub(crate) offsets: Option<[u64; 2]>,
    /// Structures of its custom metas.
    pub(crate) metas: Vec<String>,
    /// `Bytes::from_owned` takes a mapped buffer without a copy, and `Buffer::from_slice` takes these.
    #[serde(with = "payload")]
    pub(crate) bytes: glib::Bytes,
}

/// Remembers what an encoder makes of a chunk.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    /// Private time of the first frame that is fed.
    base: u64,
    recording: Recording,
    /// Something was made that can't be kept.
    failed: bool,
}

impl Recorder {
    pub(crate) fn new(base: u64) -> Self {
        Self {
            base,
            ..Self::default()
        }
    }

    fn relative(&self, time: Option<gst::ClockTime>) -> Option<i64> {
        // (Private times and the differences between them are far from the ends of the range.)
        Some(time?.nseconds().wrapping_sub(self.base) as i64)
    }

    pub(crate) fn caps(&mut self, caps: &gst::Caps) {
        self.recording.entries.push(Entry::Caps(caps.to_string()));
    }

    pub(crate) fn tags(&mut self, event: &gst::Event) {
        if let gst::EventView::Tag(tag) = event.view() {
            let tags = tag.tag_owned();
            match tags::to_text(&tags) {
                Some(text) => self.recording.entries.push(Entry::Tags {
                    text,
                    is_global: tags.scope() == gst::TagScope::Global,
                }),
                None => self.failed = true,
            }
        }
    }

    pub(crate) fn skip(&mut self, private: u64) {
        let time = private.saturating_sub(self.base);
        self.recording.entries.push(Entry::Skipped(time));
    }

    pub(crate) fn packet(&mut self, buffer: &gst::Buffer) {
        let metas = buffer.iter_meta::<gst::Meta>().map(|meta| {
            let custom = meta.try_as_custom_meta()?;
            Some(custom.structure().to_string())
        });
        // Nobody knows how to write the others.
        let metas: Option<Vec<_>> = metas.collect();
        self.failed |= metas.is_none();
        let Ok(mapped) = buffer.clone().into_mapped_buffer_readable() else {
            self.failed = true;
            return;
        };
        let offsets = (buffer.offset(), buffer.offset_end());
        self.recording.entries.push(Entry::Packet(Packet {
            pts: self.relative(buffer.pts()),
            dts: self.relative(buffer.dts()),
            duration: buffer.duration().map(gst::ClockTime::nseconds),
            flags: buffer.flags().bits(),
            offsets: (offsets != (u64::MAX, u64::MAX)).then_some([offsets.0, offsets.1]),
            metas: metas.unwrap_or_default(),
            bytes: glib::Bytes::from_owned(mapped),
        }));
    }

    pub(crate) fn finish(self) -> Option<Recording> {
        (!self.failed).then_some(self.recording)
    }
}

/// Bytes of GLib for serde, as bytes and not as a list of numbers.
mod payload {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &glib::Bytes, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    /// Copied: else a packet that is held somewhere, as muxers do with the first, would hold the whole file.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<glib::Bytes, D::Error> {
        <&[u8]>::deserialize(from).map(glib::Bytes::from)
    }
}
