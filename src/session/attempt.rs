// SPDX-License-Identifier: MPL-2.0

//! One attempt at a chunk, from a fresh encoder to its end.
//!
//! Once all own frames of the chunk are there and the trail has begun, the output returns EOS to the encoder, and the session
//! doesn't wait for what is left of the trail.

use super::failure::Failure;
use super::instance::Instance;
use super::replay::Fingerprint;
use super::{Assignment, CAT, Keeping, Session, Work};
use crate::cache::Recording;
use crate::encoder::description::EncoderError;
use crate::encoder::passes;
use crate::logic::engine::Doing;
use crate::logic::ids::FrameNo;
use crate::media::raw::stampable;
use gst::prelude::*;
use std::io::ErrorKind;

impl Session {
    /// Makes one attempt, to the end.
    pub(crate) fn run(&self, work: &Work, assignment: &dyn Assignment) -> Result<(), Failure> {
        let (mut made, mut keep) = (None, None);
        let mut fingerprint = None;
        if let Keeping::Required(chunk) = work.keeping {
            let fresh = self.fresh(assignment, work)?;
            let begun = Fingerprint::new(work, chunk, &fresh.element);
            fingerprint = Some(begun.map_err(|why| cannot_keep(why.to_string()))?);
            let base = work.opens.buffer.pts();
            // (Metas that encoders pass on from frames are for elements that look at frames. Muxers don't.)
            assignment.record(base.map_or(0, gst::ClockTime::nseconds), false);
            made = Some(fresh);
        } else if let Some(files) = work.cache.as_deref()
            && let Some(content) = assignment.content()?
        {
            let fresh = self.fresh(assignment, work)?;
            let (chunk, base) = (work.chunk, content.base());
            match content.key(work, &fresh.element) {
                Ok(key) if self.deliver_kept(assignment, chunk, files, key, base)? => {
                    drop(fresh);
                    return assignment.delivered();
                }
                _ if work.keeping == Keeping::Only => return Err(Failure::NotKept),
                Ok(key) => {
                    assignment.record(base, true);
                    keep = Some((files, key));
                }
                Err(why) => {
                    gst::info!(CAT, obj = self.slot, "Chunk {chunk} isn't kept: {why}");
                }
            }
            made = Some(fresh);
            assignment.feed_from_first();
        } else if work.keeping == Keeping::Only {
            return Err(Failure::NotKept);
        }
        assignment.does(Doing::Opening);
        let instance = self.primed(work, made);
        let instance = instance.map_err(|error| unopened(assignment, error))?;
        if !work.hints.have_its_vbv(&instance.encoder, &work.recipe) {
            gst::info!(
                CAT,
                obj = self.slot,
                "VBV set anew: no account from here on"
            );
            assignment.end_account();
        }
        match self.feed(assignment, work, &instance, fingerprint.as_mut()) {
            Ok(()) => (),
            // Its encoder was told that it may end, whatever it says to that.
            Err(failure) if assignment.is_complete() && !failure.is_nobodys() => (),
            Err(failure) => return Err(failure),
        }
        assignment.verify(false)?;
        let recording = assignment.take_recording();
        // Before another session learns that this one has let go.
        assignment.does(Doing::Closing);
        drop(instance);
        if let Some(fingerprint) = fingerprint {
            keep_for_certain(work, fingerprint, recording)?;
            return assignment.delivered();
        }
        assignment.delivered()?;
        // The chunk needn't wait for the disk.
        if let (Some((files, key)), Some(recording)) = (keep, recording) {
            assignment.keeps();
            if let Err(error) = files.put(key, &recording) {
                assignment.cache_failed(&error.to_string());
            }
        }
        Ok(())
    }

    /// An encoder that nobody has opened or touched, so that it can be told which one it is.
    fn fresh(&self, assignment: &dyn Assignment, work: &Work) -> Result<Instance, Failure> {
        self.clear_in_task();
        let fresh = self.make(&work.recipe, Some(&work.hints));
        fresh.map_err(|error| unopened(assignment, error))
    }

    /// The one that was made for this chunk, or else the placed encoder if it is primed for this input, or a fresh one.
    fn primed(&self, work: &Work, made: Option<Instance>) -> Result<Instance, EncoderError> {
        let context = &work.opens.context;
        // What wants to know of its chunk had to be made for it.
        let fits = |instance: &Instance| {
            made.is_none()
                && instance.caps.as_ref() == Some(&context.caps)
                && instance.downstream == context.downstream
                && instance.threads == work.recipe.threads()
                && !work.recipe.takes_hints()
                && !work.hints.tells_vbv
        };
        let instance = match self.take_placed().filter(fits) {
            Some(instance) => instance,
            None => {
                let make = || self.make(&work.recipe, Some(&work.hints));
                let mut instance = made.map_or_else(make, Ok)?;
                if let Some(pass) = &work.pass {
                    let told = passes::second(&instance.encoder, pass);
                    told.map_err(EncoderError::Passes)?;
                }
                self.enter(&mut instance)?;
                self.prime(&mut instance, &context.caps)?;
                instance
            }
        };
        if let Some(tags) = work.opens.tags_before() {
            self.src.push_event(gst::event::Tag::new(tags));
        }
        Ok(instance)
    }

    /// Feeds the chunk to its encoder, and waits until that has ended.
    fn feed(
        &self,
        assignment: &dyn Assignment,
        work: &Work,
        instance: &Instance,
        mut fingerprint: Option<&mut Fingerprint>,
    ) -> Result<(), Failure> {
        let refused = |flow| {
            let failure = assignment.failure();
            failure.unwrap_or_else(|| unexplained(instance, flow))
        };
        let mut position = work.first;
        let mut takes_more = true;
        while let Some((frame, is_key)) = assignment.next(position)? {
            if let Some(fingerprint) = &mut fingerprint {
                let time = frame.buffer.pts().map_or(0, gst::ClockTime::nseconds);
                // (That the chunk begins and ends here is another matter.)
                fingerprint.frame(&frame, time, false);
            }
            let is_first = position == work.first;
            position = FrameNo(position.0 + 1);
            if !takes_more {
                continue;
            }
            for tag in frame.tags {
                self.src.push_event(tag);
            }
            if is_key {
                self.src.push_event(force_key_unit(frame.buffer.pts()));
            }
            let mut buffer = frame.buffer;
            if is_first {
                buffer = stampable(buffer);
                buffer.make_mut().set_flags(gst::BufferFlags::DISCONT);
            }
            match self.src.push(buffer) {
                Ok(_) => (),
                // What is left of the trail is a part of the key.
                Err(_) if fingerprint.is_some() && assignment.is_complete() => takes_more = false,
                Err(flow) => return Err(refused(flow)),
            }
        }
        // One operation with the segment that the encoder got.
        let segment = self.src.sticky_event::<gst::event::Segment>(0);
        let eos = gst::event::Eos::builder().seqnum_if_some(segment.map(|it| it.seqnum()));
        assignment.does(Doing::Draining);
        let drained = self.src.push_event(eos.build());
        if !drained && !assignment.has_ended() {
            return Err(refused(gst::FlowError::Error));
        }
        assignment.wait_for_eos()?;
        assignment.failure().map_or(Ok(()), Err)
    }
}

fn cannot_keep(why: String) -> Failure {
    let is_full = false;
    Failure::CannotKeep { why, is_full }
}

/// The chunk is encoded for nothing else than to be kept.
fn keep_for_certain(
    work: &Work,
    fingerprint: Fingerprint,
    recording: Option<Recording>,
) -> Result<(), Failure> {
    let key = fingerprint
        .finish()
        .map_err(|why| cannot_keep(why.to_string()))?;
    let recording = recording
        .ok_or_else(|| cannot_keep("what the encoder made can't be written".to_string()))?;
    let files = work.cache.as_deref();
    let files = files.ok_or_else(|| cannot_keep("cache-location can't be used".to_string()))?;
    // (To the watch it is a part of closing the encoder.)
    let put = files.put(key, &recording);
    put.map_err(|error| Failure::CannotKeep {
        is_full: matches!(
            error.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded
        ),
        why: error.to_string(),
    })
}

/// Why no encoder could be opened: the reason at hand, or what else is known of it.
fn unopened(assignment: &dyn Assignment, error: EncoderError) -> Failure {
    let is_open = matches!(error, EncoderError::CapsRefused { .. });
    match assignment.failure() {
        Some(none) if none.is_nobodys() => none,
        // Where caps are refused, it isn't for want of room.
        None if is_open => Failure::Encoder(error),
        Some(why) if is_open && why.is_of_stream() => why,
        why => Failure::Unopened(Box::new(why.unwrap_or(Failure::Encoder(error)))),
    }
}

/// The encoder returned an error and nobody said why.
fn unexplained(instance: &Instance, flow: gst::FlowError) -> Failure {
    match &instance.caps {
        Some(caps) if flow == gst::FlowError::NotNegotiated => {
            Failure::Encoder(instance.refuses(caps))
        }
        _ => Failure::Flow {
            encoder: instance.name(),
            flow,
        },
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
