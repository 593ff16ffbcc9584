// SPDX-License-Identifier: MPL-2.0

//! What sessions deliver: packets, and in the end their chunks.

use super::sessions::{AttemptPhase, Why, work_of};
use super::{Engine, Freed, Lifecycle, Media};
use crate::logic::early_start::Ready;
use crate::logic::ids::{AttemptId, FrameNo};
use crate::logic::store::{self, Delivered, Fault, Kind};
use crate::logic::timeline::announced_depth;

/// Times that an encoder gave a packet, in private time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PacketTimes {
    pub pts: Option<u64>,
    pub dts: Option<u64>,
}

/// A packet was taken.
#[must_use]
pub struct Accepted<M: Media> {
    /// The rest of the trail needn't be encoded.
    pub is_complete: bool,
    pub freed: Freed<M>,
}

/// A packet wasn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused<F> {
    Flushing,
    /// The stream has ended before its end.
    Halted(F),
    /// The attempt is over.
    Over,
    /// It isn't what was asked for; the attempt is told why.
    Faulty,
}

impl<M: Media> Engine<M> {
    /// The attempt's encoder says that it leaves out the frame with this private time.
    pub fn skip(&mut self, attempt: AttemptId, private: u64) {
        let Some(chunk) = self.work(attempt).map(|work| work.chunk) else {
            return;
        };
        if let Some(stream) = &mut self.stream
            && let Some(frame) = stream.frames.find(private)
        {
            stream.stores.skip(chunk, frame);
        }
    }

    /// A packet of the attempt.
    pub fn packet(
        &mut self,
        attempt: AttemptId,
        kind: Kind,
        times: PacketTimes,
        payload: M::Packet,
    ) -> Result<Accepted<M>, Refused<M::Flow>> {
        if self.is_stopped || self.is_flushing {
            return Err(Refused::Flushing);
        }
        if let Lifecycle::Refused(flow) = self.lifecycle {
            return Err(Refused::Halted(flow));
        }
        let work = work_of(&mut self.sessions, attempt);
        let (Some(work), Some(stream)) = (work, &mut self.stream) else {
            return Err(Refused::Over);
        };
        work.packets += 1;
        if work.replanned {
            return Err(Refused::Over);
        }
        let mut accepted = Accepted {
            is_complete: work.is_complete,
            freed: Freed(Vec::new()),
        };
        if work.is_complete {
            return Ok(accepted);
        }
        let frame = times.pts.and_then(|pts| stream.frames.find(pts));
        if let Some(frame) = frame
            && work.announced.is_none()
        {
            // Where the first frame is missing, the delay of another one says nothing.
            let delay = times.pts.zip(times.dts).filter(|_| frame == work.first);
            let delay = delay.map_or(0, |(pts, dts)| pts.saturating_sub(dts));
            // Of what it was fed: whether more has come is chance.
            let frames = (frame.0..work.position.0).map(FrameNo);
            let private = frames.map_while(|frame| stream.frames.private(frame));
            let depth = announced_depth(delay, private);
            work.announced = Some(depth);
            stream.stores.announce(work.chunk, depth);
        }
        if matches!(kind, Kind::Key | Kind::Delta) {
            work.opens_with.get_or_insert(kind);
        }
        match stream.stores.accept(work.chunk, frame, kind, payload) {
            Ok(store::Accepted::Complete) => {
                work.is_complete = true;
                accepted.is_complete = true;
            }
            Ok(store::Accepted::Held | store::Accepted::Trimmed) => (),
            Err(fault) => {
                work.fault = Some(fault);
                return Err(Refused::Faulty);
            }
        }
        work.made_packets = true;
        let (chunk, announced) = (work.chunk, work.announced.unwrap_or(0));
        self.sessions[attempt.session.0].works = true;
        stream.any_packets = true;
        if frame.is_some() {
            let is_in_order = times.dts.is_some() && times.dts == times.pts;
            match stream.early.packet(announced, is_in_order) {
                Ready::Not => (),
                Ready::With { frames } => {
                    let first = stream.stores.take_first(chunk, frames);
                    if !first.is_empty() {
                        stream.first.extend(first);
                        stream.early.push();
                        self.wakes.output = true;
                        // Who waits for room doesn't wait for ever while the first packets are sent.
                        self.wakes.room = true;
                    }
                }
                Ready::CalledOff => accepted.freed = self.finish_chunks(),
            }
        }
        self.wakes.output |= self.leaves_early();
        if accepted.is_complete {
            self.encoder_ended(attempt);
        }
        Ok(accepted)
    }

    /// What comes of the attempt can't be what was asked for.
    pub fn fault(&mut self, attempt: AttemptId, fault: Fault) {
        if let Some(work) = self.work(attempt) {
            work.fault.get_or_insert(fault);
        }
    }

    /// All own frames of the attempt's chunk are there, and its encoder was told that it may end.
    pub fn is_complete(&mut self, attempt: AttemptId) -> bool {
        self.work(attempt).is_some_and(|work| work.is_complete)
    }

    /// The attempt has delivered all it has: is that all of its chunk? From here on it counts as delivered, whatever becomes of its
    /// encoder when that is closed.
    pub fn verify(&mut self, attempt: AttemptId, from_cache: bool) -> Result<Delivered, Why> {
        if let Some(why) = self.why(attempt) {
            // An encoder that was told that it may end may say to that what it wants.
            if why != Why::EncoderFailed || !self.is_complete(attempt) {
                return Err(why);
            }
        }
        let (stream, work) = self.at_work(attempt).ok_or(Why::Aborted)?;
        let chunk = match work.is_complete {
            true => stream.chunker.cut_short(work.chunk, work.position),
            false => stream.chunker.complete(work.chunk),
        };
        let chunk = chunk.ok_or(Why::Aborted)?;
        let delivered = stream.stores.verify(chunk).map_err(Why::Fault)?;
        work.phase = AttemptPhase::Closing(chunk, delivered);
        work.from_cache = from_cache;
        Ok(delivered)
    }

    /// The attempt's chunk was verified, and its encoder is closed: its frames go, its packets may leave. `busy`: how long it took.
    pub fn delivered(&mut self, attempt: AttemptId, busy: u64) -> Result<Freed<M>, Why> {
        if self.is_aborting() {
            return Err(Why::Aborted);
        }
        let Some(work) = self.work(attempt) else {
            return Err(Why::Aborted);
        };
        if work.replanned {
            return Err(Why::Replanned);
        }
        let AttemptPhase::Closing(chunk, delivered) = work.phase else {
            return Err(Why::Aborted);
        };
        work.phase = AttemptPhase::Done;
        let from_cache = work.from_cache;
        self.sessions[attempt.session.0].works = true;
        self.tally.attempt(attempt.session, chunk.fed.len(), busy);
        self.tally.chunks_from_cache += u64::from(from_cache);
        let mut freed = Freed(Vec::new());
        if let Some(stream) = &mut self.stream {
            stream.roster.succeeded(attempt.session);
            stream.verified.insert(chunk.id, delivered);
            let is_oldest = stream.chunker.oldest() == Some(chunk.id);
            if is_oldest && !stream.early.is_pushing() {
                // It made no packet that could have been sent first.
                let _ = stream.early.end();
            }
            freed = self.finish_chunks();
        }
        self.wake_takers();
        Ok(freed)
    }

    /// The attempt has delivered, and what it made is being kept: nobody but the watch has to do with it.
    pub fn keeps_what_it_made(&mut self, attempt: AttemptId) -> bool {
        let session = self.sessions.get_mut(attempt.session.0);
        let work = session.and_then(|session| session.work.as_mut());
        match work.filter(|work| work.attempt == attempt) {
            Some(work) => {
                work.phase = AttemptPhase::CacheIo;
                work.drains = true;
                true
            }
            None => false,
        }
    }
}
