// SPDX-License-Identifier: MPL-2.0

//! Chunks that an earlier run has encoded: what they are known by, and how they come back.
//!
//! What comes out of the cache takes the way of what comes out of an encoder, so it is verified in the same way: a file is
//! never trusted for what it says.

use super::{Failure, Session, Work};
use crate::aggregator;
use crate::cache::{
    Entry, Files, Found, Key, KeyHasher, Picture, Recording, Unhashable, encoder_identity,
};
use crate::distributor;
use crate::logic::frame::Chunk;
use crate::logic::reorder::{Delivered, Fault};
use gst::prelude::*;

/// A frame as the encoder is fed it.
pub(crate) struct Fed {
    /// `None`: nobody can say whether it is the same as another one.
    pub(crate) picture: Option<Picture>,
    /// Private time in nanoseconds.
    pub(crate) time: u64,
    pub(crate) duration: Option<gst::ClockTime>,
    pub(crate) force_key: bool,
    /// TAG events that stand before it.
    pub(crate) tags: Vec<gst::Event>,
}

/// All of a chunk that its key is made of, beside the encoder.
pub(crate) struct Content {
    pub(crate) chunk: Chunk,
    pub(crate) fed: Vec<Fed>,
}

impl Content {
    /// It is still fed like this: a key frame may have been asked for meanwhile.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let forced = |content: &Self| -> Vec<bool> {
            let fed = content.fed.iter();
            fed.map(|frame| frame.force_key).collect()
        };
        self.chunk == other.chunk && forced(self) == forced(other)
    }

    /// Private time of the first frame: what is kept is relative to it.
    pub(super) fn base(&self) -> u64 {
        self.fed.first().map_or(0, |first| first.time)
    }

    /// What the chunk is known by, if an encoder like this one encodes it.
    fn key(&self, work: &Work, encoder: &gst::Element) -> Result<Key, Unhashable> {
        let mut hasher = KeyHasher::default();
        encoder_identity(&mut hasher, encoder)?;
        let input = &work.input;
        hasher.text("caps", &input.caps.to_string());
        if let Some(downstream) = &input.downstream {
            hasher.text("downstream", &downstream.to_string());
        }
        if let Some(tags) = &input.tags {
            hasher.text("tags", &tags.to_string());
        }
        let Chunk { own, fed, .. } = self.chunk;
        hasher.number("lead", own.start.0 - fed.start.0);
        hasher.number("own", own.len());
        hasher.number("trail", fed.end.0 - own.end.0);
        for frame in &self.fed {
            let picture = frame
                .picture
                .ok_or(Unhashable::Pixels("a frame has no digest"))?;
            let time = gst::ClockTime::from_nseconds(frame.time.saturating_sub(self.base()));
            hasher.frame(&picture, time, frame.duration);
            hasher.number("force key", frame.force_key.into());
            for tags in &frame.tags {
                let structure = tags.structure().map(|tags| tags.to_string());
                hasher.text("tag", &structure.unwrap_or_default());
            }
        }
        Ok(hasher.finish())
    }
}

/// What is known of a chunk before it is encoded.
pub(super) enum Known {
    /// It needn't be.
    Delivered(Chunk, Delivered),
    /// Keep what is made of this under this key.
    Keep(Key, Content),
    /// It can't be told from others, or isn't waited for.
    No,
}

impl Session {
    /// Looks whether the chunk was encoded before, and delivers it if so.
    pub(super) fn look_up(
        &self,
        distributor: &distributor::imp::Distributor,
        aggregator: &aggregator::imp::Aggregator,
        work: &Work,
        files: &Files,
        encoder: &gst::Element,
    ) -> Result<(Known, u64), Failure> {
        let Some(content) = distributor.content(self, work.chunk)? else {
            return Ok((Known::No, 0));
        };
        let base = content.base();
        let key = match content.key(work, encoder) {
            Ok(key) => key,
            Err(why) => {
                gst::info!(
                    super::CAT,
                    obj = self.slot,
                    "Chunk {} isn't kept: {why}",
                    work.chunk
                );
                return Ok((Known::No, base));
            }
        };
        distributor.on_disk(self, true, false);
        let found = files.get(key);
        distributor.on_disk(self, false, false);
        // Reading may have taken so long that nobody waits any more.
        if self.standing.is_left() {
            return Err(Failure::Aborted);
        }
        let recording = match found {
            Found::Hit(recording) => recording,
            Found::Miss => return Ok((Known::Keep(key, content), base)),
            Found::Damaged(why) => {
                gst::warning!(
                    super::CAT,
                    obj = self.slot,
                    "Chunk {} is encoded again: {why}",
                    work.chunk
                );
                return Ok((Known::Keep(key, content), base));
            }
        };
        let replayed = self.replay(aggregator, recording, base);
        if let Some(failure) = distributor.failure(self)
            && !matches!(failure, Failure::Fault(_))
        {
            return Err(failure);
        }
        match replayed.then(|| aggregator.verify(content.chunk)) {
            Some(Ok(delivered)) => Ok((Known::Delivered(content.chunk, delivered), base)),
            _ => {
                gst::warning!(
                    super::CAT,
                    obj = self.slot,
                    "Chunk {} is encoded again: what was kept isn't what it should be",
                    work.chunk
                );
                aggregator.leave(self.id);
                if !aggregator.retract(work.chunk) {
                    return Err(Failure::Fault(Fault::UnknownChunk(work.chunk)));
                }
                self.begin(aggregator, work);
                Ok((Known::Keep(key, content), base))
            }
        }
    }

    /// Sends what an encoder once made on its way again. `false`: it isn't taken.
    fn replay(
        &self,
        aggregator: &aggregator::imp::Aggregator,
        recording: Recording,
        base: u64,
    ) -> bool {
        let time = |relative: Option<i64>| {
            let time = relative.and_then(|time| base.checked_add_signed(time));
            time.map(gst::ClockTime::from_nseconds)
        };
        recording.entries.into_iter().all(|entry| match entry {
            Entry::Caps(caps) => caps
                .parse::<gst::Caps>()
                .is_ok_and(|caps| aggregator.replay_event(self.id, gst::event::Caps::new(&caps))),
            Entry::Tags { text, is_global } => tag_list(&text).is_some_and(|mut tags| {
                let scope = match is_global {
                    true => gst::TagScope::Global,
                    false => gst::TagScope::Stream,
                };
                tags.make_mut().set_scope(scope);
                aggregator.replay_event(self.id, gst::event::Tag::new(tags))
            }),
            Entry::Skipped(time) => {
                let time = gst::ClockTime::from_nseconds(base.saturating_add(time));
                aggregator.skip(self.id, time);
                true
            }
            Entry::Packet(packet) => {
                let mut buffer = gst::Buffer::from_slice(packet.bytes);
                let metas = packet
                    .metas
                    .iter()
                    .map(|meta| meta.parse::<gst::Structure>());
                let Ok(metas) = metas.collect::<Result<Vec<_>, _>>() else {
                    return false;
                };
                {
                    // PANIC: the buffer is new.
                    let buffer = buffer.get_mut().expect("own buffer");
                    buffer.set_pts(time(packet.pts));
                    buffer.set_dts(time(packet.dts));
                    buffer.set_duration(packet.duration.map(gst::ClockTime::from_nseconds));
                    buffer.set_flags(gst::BufferFlags::from_bits_truncate(packet.flags));
                    if let Some([offset, end]) = packet.offsets {
                        buffer.set_offset(offset);
                        buffer.set_offset_end(end);
                    }
                    for structure in metas {
                        let Ok(mut meta) = gst::meta::CustomMeta::add(buffer, structure.name())
                        else {
                            return false;
                        };
                        for (field, value) in structure.iter() {
                            meta.mut_structure().set_value(field, value.clone());
                        }
                    }
                }
                aggregator.replay_packet(self.id, buffer)
            }
        })
    }

    /// Keeps what an encoder made of a chunk.
    pub(super) fn keep(
        &self,
        distributor: &distributor::imp::Distributor,
        files: &Files,
        key: Key,
        recording: &Recording,
    ) {
        distributor.on_disk(self, true, true);
        let put = files.put(key, recording);
        distributor.on_disk(self, false, true);
        if let Err(error) = put {
            distributor.cache_failed(&error.to_string());
        }
    }
}

/// As it was written by [`Recorder`](crate::aggregator), if it was.
fn tag_list(text: &str) -> Option<gst::TagList> {
    let value = glib::Value::deserialize(text, gst::TagList::static_type()).ok()?;
    value.get().ok()
}
