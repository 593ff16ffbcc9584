// SPDX-License-Identifier: MPL-2.0

//! Chunks that an earlier run has encoded: what they are known by, and how they come back.
//!
//! What comes out of the cache takes the way of what comes out of an encoder, so it is verified in the same way: a file is
//! never trusted for what it says.

use super::failure::Failure;
use super::{Assignment, CAT, Frame, Session, Work};
use crate::cache::{Entry, Files, Key, KeyHasher, Recording, Unhashable, encoder_identity};
use crate::logic::ids::{Chunk, ChunkId};
use crate::logic::store::Fault;
use crate::media::tags;

/// The key of a chunk, made as its frames are fed.
pub(super) struct Fingerprint {
    hasher: KeyHasher,
    /// Private time of the first frame.
    base: Option<u64>,
    unhashable: Option<Unhashable>,
}

impl Fingerprint {
    /// `encoder`: one like that which encodes it, before it is opened.
    pub(super) fn new(
        work: &Work,
        chunk: Chunk,
        encoder: &gst::Element,
    ) -> Result<Self, Unhashable> {
        let mut hasher = KeyHasher::default();
        encoder_identity(&mut hasher, encoder)?;
        let context = &work.opens.context;
        hasher.text("caps", &context.caps.to_string());
        if let Some(downstream) = &context.downstream {
            hasher.text("downstream", &downstream.to_string());
        }
        if let Some(tags) = work.opens.tags_before() {
            hasher.text("tags", &tags.to_string());
        }
        if let Some(pass) = &work.pass {
            hasher.number("second pass", pass.bitrate);
            hasher.text("statistics", &pass.digest);
            hasher.text("level", pass.level.as_deref().unwrap_or_default());
        }
        let Chunk { own, fed, .. } = chunk;
        hasher.number("lead", own.start.0 - fed.start.0);
        hasher.number("own", own.len());
        hasher.number("trail", fed.end.0 - own.end.0);
        Ok(Self {
            hasher,
            base: None,
            unhashable: None,
        })
    }

    /// The next frame that is fed, with its private time in nanoseconds.
    pub(super) fn frame(&mut self, frame: &Frame, time: u64, is_key: bool) {
        let base = *self.base.get_or_insert(time);
        let Some(digest) = &frame.digest else {
            self.unhashable = Some(Unhashable::Pixels("a frame has no digest"));
            return;
        };
        let hasher = &mut self.hasher;
        let time = gst::ClockTime::from_nseconds(time.saturating_sub(base));
        hasher.frame(digest, time, frame.buffer.duration());
        hasher.number("force key", is_key.into());
        for tags in &frame.tags {
            let structure = tags.structure().map(|tags| tags.to_string());
            hasher.text("tag", &structure.unwrap_or_default());
        }
    }

    pub(super) fn finish(self) -> Result<Key, Unhashable> {
        match self.unhashable {
            Some(why) => Err(why),
            None => Ok(self.hasher.finish()),
        }
    }
}

/// All of a chunk that its key is made of, beside the encoder.
pub(crate) struct Content {
    pub(crate) chunk: Chunk,
    /// All that are fed: with the private time in nanoseconds, and whether a key frame is forced.
    pub(crate) fed: Vec<(Frame, u64, bool)>,
}

impl Content {
    /// Private time of the first frame: what is kept is relative to it.
    pub(super) fn base(&self) -> u64 {
        self.fed.first().map_or(0, |(_, time, _)| *time)
    }

    /// What the chunk is known by, if an encoder like this one encodes it.
    pub(super) fn key(&self, work: &Work, encoder: &gst::Element) -> Result<Key, Unhashable> {
        let mut fingerprint = Fingerprint::new(work, self.chunk, encoder)?;
        for (frame, time, is_key) in &self.fed {
            fingerprint.frame(frame, *time, *is_key);
        }
        fingerprint.finish()
    }
}

impl Session {
    /// Delivers the chunk as an earlier run has kept it, and verifies that. `false`: it is to be encoded. `base`: private time of its
    /// first frame.
    pub(super) fn deliver_kept(
        &self,
        assignment: &dyn Assignment,
        chunk: ChunkId,
        files: &Files,
        key: Key,
        base: u64,
    ) -> Result<bool, Failure> {
        let warn = |why: &dyn std::fmt::Display| {
            gst::warning!(
                CAT,
                obj = self.slot,
                "Chunk {chunk} is encoded again: {why}"
            );
        };
        assignment.uses_cache(true);
        let found = files.get(key);
        assignment.uses_cache(false);
        // Reading may have taken so long that nobody waits any more.
        if let Some(failure) = assignment.failure() {
            return Err(failure);
        }
        let recording = match found {
            Ok(Some(recording)) => recording,
            Ok(None) => return Ok(false),
            Err(why) => {
                warn(&why);
                return Ok(false);
            }
        };
        let replayed = replay(assignment, recording, base);
        if let Some(failure) = assignment.failure()
            && !matches!(failure, Failure::Fault(_))
        {
            return Err(failure);
        }
        if replayed && assignment.verify(true).is_ok() {
            return Ok(true);
        }
        warn(&"what was kept isn't what it should be");
        if !assignment.begin_again() {
            return Err(Failure::Fault(Fault::UnknownChunk(chunk)));
        }
        Ok(false)
    }
}

/// Sends what an encoder once made on its way again. `false`: it isn't taken.
fn replay(assignment: &dyn Assignment, recording: Recording, base: u64) -> bool {
    recording.entries.into_iter().all(|entry| match entry {
        Entry::Caps(caps) => {
            let caps = caps.parse::<gst::Caps>();
            caps.is_ok_and(|caps| assignment.replay_event(gst::event::Caps::new(&caps)))
        }
        Entry::Tags { text, is_global } => {
            let tags = tags::from_text(&text, is_global);
            tags.is_some_and(|tags| assignment.replay_event(gst::event::Tag::new(tags)))
        }
        Entry::Skipped(time) => {
            let time = base.saturating_add(time);
            assignment.skip(gst::ClockTime::from_nseconds(time));
            true
        }
        Entry::Packet(packet) => {
            let buffer = packet.into_buffer(base);
            buffer.is_some_and(|buffer| assignment.replay_packet(buffer))
        }
    })
}
