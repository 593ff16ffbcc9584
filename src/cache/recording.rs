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

impl Packet {
    /// `base`: private time of the first frame that is fed. `None` where it can't be kept. `needs_metas`: without its metas it isn't what it was.
    fn of(buffer: &gst::Buffer, base: u64, needs_metas: bool) -> Option<Self> {
        // (Private times and the differences between them are far from the ends of the range.)
        let relative = |time: gst::ClockTime| time.nseconds().wrapping_sub(base) as i64;
        // Nobody knows how to write metas that aren't custom.
        let metas = buffer.iter_meta::<gst::Meta>().map(|meta| {
            let custom = meta.try_as_custom_meta()?;
            Some(custom.structure().to_string())
        });
        let metas = metas.filter(|meta| needs_metas || meta.is_some());
        let offsets = [buffer.offset(), buffer.offset_end()];
        let mapped = buffer.clone().into_mapped_buffer_readable().ok()?;
        Some(Self {
            pts: buffer.pts().map(relative),
            dts: buffer.dts().map(relative),
            duration: buffer.duration().map(gst::ClockTime::nseconds),
            flags: buffer.flags().bits(),
            offsets: Some(offsets).filter(|offsets| *offsets != [u64::MAX; 2]),
            metas: metas.collect::<Option<_>>()?,
            bytes: glib::Bytes::from_owned(mapped),
        })
    }

    /// As it was, where the first frame that is fed has this private time. `None` where it can't be made.
    pub(crate) fn into_buffer(self, base: u64) -> Option<gst::Buffer> {
        let time = |relative: Option<i64>| {
            let time = base.checked_add_signed(relative?)?;
            Some(gst::ClockTime::from_nseconds(time))
        };
        let mut buffer = gst::Buffer::from_slice(self.bytes);
        // PANIC: the buffer is new.
        let new = buffer.get_mut().expect("own buffer");
        new.set_pts(time(self.pts));
        new.set_dts(time(self.dts));
        new.set_duration(self.duration.map(gst::ClockTime::from_nseconds));
        new.set_flags(gst::BufferFlags::from_bits_truncate(self.flags));
        if let Some([offset, end]) = self.offsets {
            new.set_offset(offset);
            new.set_offset_end(end);
        }
        for meta in self.metas {
            let structure: gst::Structure = meta.parse().ok()?;
            let mut meta = gst::meta::CustomMeta::add(new, structure.name()).ok()?;
            for (field, value) in structure.iter() {
                meta.mut_structure().set_value(field, value.clone());
            }
        }
        Some(buffer)
    }
}

/// Remembers what an encoder makes of a chunk.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// Private time of the first frame that is fed.
    base: u64,
    /// `None`: something was made that can't be kept.
    entries: Option<Vec<Entry>>,
    /// Packets are kept with all of their metas, or not at all.
    needs_metas: bool,
}

impl Recorder {
    pub(crate) fn new(base: u64, needs_metas: bool) -> Self {
        Self {
            base,
            entries: Some(Vec::new()),
            needs_metas,
        }
    }

    fn push(&mut self, entry: Option<Entry>) {
        match (&mut self.entries, entry) {
            (Some(entries), Some(entry)) => entries.push(entry),
            (entries, _) => *entries = None,
        }
    }

    pub(crate) fn caps(&mut self, caps: &gst::Caps) {
        self.push(Some(Entry::Caps(caps.to_string())));
    }

    pub(crate) fn tags(&mut self, event: &gst::Event) {
        if let gst::EventView::Tag(tag) = event.view() {
            let tags = tag.tag_owned();
            let is_global = tags.scope() == gst::TagScope::Global;
            self.push(tags::to_text(&tags).map(|text| Entry::Tags { text, is_global }));
        }
    }

    pub(crate) fn skip(&mut self, private: u64) {
        self.push(Some(Entry::Skipped(private.saturating_sub(self.base))));
    }

    pub(crate) fn packet(&mut self, buffer: &gst::Buffer) {
        self.push(Packet::of(buffer, self.base, self.needs_metas).map(Entry::Packet));
    }

    pub(crate) fn finish(self) -> Option<Recording> {
        let entries = self.entries?;
        Some(Recording { entries })
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
