// SPDX-License-Identifier: MPL-2.0

//! One attempt at a chunk: a fresh encoder is fed, and what it made verified.
//!
//! Once all own frames of the chunk are there and the trail has begun, the aggregator returns EOS to the encoder, and the session
//! doesn't wait for what is left of the trail.

use super::failure::Failure;
use super::instance::Live;
use super::replay::Known;
use super::{Input, Session};
use crate::aggregator;
use crate::cache::Files;
use crate::distributor;
use crate::encoder::description::{EncoderError, Recipe};
use crate::encoder::hints;
use crate::logic::ids::{Chunk, ChunkId, FrameNo};
use gst::prelude::*;
use std::sync::Arc;

/// A chunk to encode.
pub(crate) struct Work {
    pub(crate) chunk: ChunkId,
    /// The first frame that is fed.
    pub(crate) first: FrameNo,
    pub(crate) input: Input,
    pub(crate) recipe: Recipe,
    /// Where chunks are kept.
    pub(crate) cache: Option<Arc<Files>>,
}

/// What the session does next with its chunk.
pub(crate) enum Step {
    Feed {
        buffer: gst::Buffer,
        force_key: bool,
        /// TAG events that stood before the frame.
        tags: Vec<gst::Event>,
    },
    /// All was fed: send EOS.
    Drain(Chunk),
}

impl Session {
    /// The one that was made for this chunk, or else the placed encoder if it is primed for this input, or a fresh one.
    fn primed(&self, work: &Work, made: Option<Live>) -> Result<Live, EncoderError> {
        let placed = self.placed.lock().take();
        // What wants to know of its chunk had to be made for it.
        let fits = |live: &Live| {
            live.caps.as_ref() == Some(&work.input.caps)
                && live.downstream == work.input.downstream
                && !hints::are_wanted(&live.encoder)
        };
        let live = match placed.filter(|placed| made.is_none() && fits(placed)) {
            Some(live) => live,
            None => {
                let mut live = match made {
                    Some(made) => made,
                    None => self.make(&work.recipe, Some(&work.input.hints))?,
                };
                self.enter(&live)?;
                self.prime(&mut live, &work.input.caps)?;
                live
            }
        };
        if let Some(tags) = &work.input.tags {
            self.src.push_event(gst::event::Tag::new(tags.clone()));
        }
        Ok(live)
    }

    /// What comes of the session from now on is of this chunk.
    pub(super) fn begin(&self, aggregator: &aggregator::imp::Aggregator, work: &Work) {
        let downstream = work.input.downstream.clone();
        aggregator.begin(self.id, work.chunk, work.first, downstream);
    }

    /// One attempt at a chunk, to the end.
    pub(crate) fn run(
        &self,
        distributor: &distributor::imp::Distributor,
        aggregator: &aggregator::imp::Aggregator,
        work: &Work,
    ) -> Result<(), Failure> {
        self.begin(aggregator, work);
        let unopened = |error| {
            let is_open = matches!(error, EncoderError::CapsRefused { .. });
            match distributor.failure(self) {
                Some(none @ (Failure::Aborted | Failure::Downstream)) => none,
                // Where caps are refused, it isn't for want of room.
                None if is_open => Failure::Encoder(error),
                Some(why) if is_open && why.is_of_stream() => why,
                why => Failure::Unopened(Box::new(why.unwrap_or(Failure::Encoder(error)))),
            }
        };
        let mut made = None;
        let mut keep = None;
        if let Some(files) = work.cache.as_deref() {
            // What was placed is open, and may have changed its properties since: nobody could tell which one it is.
            self.clear();
            let fresh = self.make(&work.recipe, Some(&work.input.hints));
            let fresh = fresh.map_err(unopened)?;
            let (known, base) =
                self.look_up(distributor, aggregator, work, files, &fresh.element)?;
            match known {
                Known::Delivered(chunk, delivered) => {
                    drop(fresh);
                    distributor.verified(self, chunk, delivered, true);
                    return distributor.delivered(self, chunk, delivered);
                }
                Known::Keep(key, content) => {
                    aggregator.record(self.id, base);
                    keep = Some((files, key, content));
                }
                Known::No => (),
            }
            made = Some(fresh);
            distributor.feed_from(self, work.first);
        }
        let live = self.primed(work, made).map_err(unopened)?;
        let chunk = match self.feed(distributor, work, &live) {
            Ok(chunk) => chunk,
            Err(none @ (Failure::Aborted | Failure::Downstream | Failure::Replanned)) => {
                return Err(none);
            }
            // Its encoder was told that it may end, whatever it says to that.
            Err(failure) => match distributor.cut_short(self, work.chunk) {
                Some(chunk) => chunk,
                None => return Err(failure),
            },
        };
        let delivered = aggregator.verify(chunk).map_err(Failure::Fault)?;
        distributor.verified(self, chunk, delivered, false);
        let recording = aggregator.take_recording(self.id);
        let keep = keep.filter(|(.., content)| distributor.is_still(work.chunk, content));
        // Before another session learns that this one has let go.
        drop(live);
        distributor.delivered(self, chunk, delivered)?;
        // The chunk needn't wait for the disk.
        if let (Some((files, key, _)), Some(recording)) = (keep, recording) {
            self.keep(distributor, files, key, &recording);
        }
        Ok(())
    }

    /// Feeds the chunk to its encoder, and waits until that has ended.
    fn feed(
        &self,
        distributor: &distributor::imp::Distributor,
        work: &Work,
        live: &Live,
    ) -> Result<Chunk, Failure> {
        let refused = |flow| {
            distributor
                .failure(self)
                .unwrap_or_else(|| self.unexplained(live, flow))
        };
        let mut position = work.first;
        let chunk = loop {
            match distributor.next_step(self, work.chunk, position)? {
                Step::Feed {
                    buffer,
                    force_key,
                    tags,
                } => {
                    for tag in tags {
                        self.src.push_event(tag);
                    }
                    if force_key {
                        self.src.push_event(force_key_unit(buffer.pts()));
                    }
                    self.src.push(buffer).map_err(refused)?;
                    position = FrameNo(position.0 + 1);
                }
                Step::Drain(chunk) => break chunk,
            }
        };
        let drained = self.src.push_event(gst::event::Eos::new());
        if !drained && !distributor.has_ended(self) {
            return Err(refused(gst::FlowError::Error));
        }
        distributor.wait_for_eos(self)?;
        distributor.failure(self).map_or(Ok(chunk), Err)
    }

    /// The encoder returned an error and nobody said why.
    fn unexplained(&self, live: &Live, flow: gst::FlowError) -> Failure {
        match (&live.caps, flow) {
            (Some(caps), gst::FlowError::NotNegotiated) => {
                Failure::Encoder(EncoderError::CapsRefused {
                    encoder: live.name(),
                    caps: caps.clone(),
                })
            }
            _ => Failure::Flow {
                encoder: live.name(),
                flow,
            },
        }
    }
}

/// Asks the encoder for a key frame at exactly the frame with this private time, which is its running time too.
fn force_key_unit(time: Option<gst::ClockTime>) -> gst::Event {
    gst_video::DownstreamForceKeyUnitEvent::builder()
        .timestamp(time)
        .stream_time(time)
        .running_time(time)
        .all_headers(true)
        .build()
}
