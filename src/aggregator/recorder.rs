// SPDX-License-Identifier: MPL-2.0

//! Remembers what an encoder makes of a chunk, so that it can be kept.

use crate::cache::{Entry, Packet, Recording};
use crate::media::tags;

#[derive(Debug)]
pub(super) struct Recorder {
    /// Private time of the first frame that is fed.
    base: u64,
    recording: Recording,
    /// Something was made that can't be kept.
    failed: bool,
}

impl Recorder {
    pub(super) fn new(base: u64) -> Self {
        Self {
            base,
            recording: Recording::default(),
            failed: false,
        }
    }

    fn relative(&self, time: Option<gst::ClockTime>) -> Option<i64> {
        // (Private times and the differences between them are far from the ends of the range.)
        Some(time?.nseconds().wrapping_sub(self.base) as i64)
    }

    pub(super) fn caps(&mut self, caps: &gst::Caps) {
        self.recording.entries.push(Entry::Caps(caps.to_string()));
    }

    pub(super) fn tags(&mut self, event: &gst::Event) {
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

    pub(super) fn skip(&mut self, private: u64) {
        let time = private.saturating_sub(self.base);
        self.recording.entries.push(Entry::Skipped(time));
    }

    pub(super) fn packet(&mut self, buffer: &gst::Buffer) {
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

    pub(super) fn finish(self) -> Option<Recording> {
        (!self.failed).then_some(self.recording)
    }
}
