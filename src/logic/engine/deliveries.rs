// SPDX-License-Identifier: MPL-2.0

//! What sessions deliver: packets, and in the end their chunks.

use super::sessions::{AttemptPhase, Why, work_of};
use super::{Engine, Media, Verified};
use crate::logic::early_start::EarlyStart;
use crate::logic::ids::{AttemptId, Chunk, FrameNo};
use crate::logic::store::{Accepted, Fault, Kind};
use crate::logic::timeline::announced_depth;

/// Times that an encoder gave a packet, in private time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PacketTimes {
    pub pts: Option<u64>,
    pub dts: Option<u64>,
}

/// A chunk that an attempt has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// As it was fed.
    pub chunk: Chunk,
    /// Frames that its encoder left out.
    pub skipped: u64,
    /// Of the attempt.
    pub number: u32,
    /// An earlier run encoded it.
    pub from_cache: bool,
    /// Nanoseconds that the attempt took.
    pub busy: u64,
}

/// A packet wasn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused<F> {
    Flushing,
    /// The stream has ended before its end.
    Halted(F),
    /// The attempt is over, or the packet isn't what was asked for, which the attempt is told.
    Over,
}

impl<M: Media> Engine<M> {
    /// The attempt's encoder says that it leaves out the frame with this private time.
    pub fn skip(&mut self, attempt: AttemptId, private: u64) {
        let frame = self.stream.frames.find(private);
        let work = work_of(&mut self.sessions, attempt);
        if let (Some(work), Some(frame)) = (work, frame) {
            self.stream.stores.skip(work.chunk, frame);
        }
    }

    /// A packet of the attempt. `true`: the rest of the trail needn't be encoded.
    pub fn packet(
        &mut self,
        attempt: AttemptId,
        kind: Kind,
        times: PacketTimes,
        payload: M::Packet,
        now: u64,
    ) -> Result<bool, Refused<M::Flow>> {
        if self.is_stopped || self.is_flushing {
            return Err(Refused::Flushing);
        }
        if let Some(flow) = self.flow.filter(|_| self.is_refused) {
            return Err(Refused::Halted(flow));
        }
        let stream = &mut self.stream;
        let work = work_of(&mut self.sessions, attempt).ok_or(Refused::Over)?;
        work.packets += 1;
        if work.replanned {
            return Err(Refused::Over);
        }
        let made = &mut work.made;
        if made.is_complete {
            return Ok(true);
        }
        let frame = times.pts.and_then(|pts| stream.frames.find(pts));
        if let Some(frame) = frame
            && made.announced.is_none()
        {
            // Where the first frame is missing, the delay of another one says nothing.
            let delay = times.pts.zip(times.dts).filter(|_| frame == work.first);
            let delay = delay.map_or(0, |(pts, dts)| pts.saturating_sub(dts));
            // Of what it was fed: whether more has come is chance.
            let frames = (frame.0..work.position.0).map(FrameNo);
            let private = frames.map_while(|frame| stream.frames.private(frame));
            let depth = announced_depth(delay, private);
            made.announced = Some(depth);
            stream.stores.announce(work.chunk, depth);
        }
        if matches!(kind, Kind::Key | Kind::Delta) {
            made.opens_with.get_or_insert(kind);
        }
        let accepted = stream.stores.accept(work.chunk, frame, kind, payload);
        let accepted = accepted.map_err(|fault| {
            made.fault = Some(fault);
            Refused::Over
        })?;
        made.is_complete = accepted == Accepted::Complete && !self.settings.drains_anyway;
        made.any = true;
        self.since.packet.get_or_insert(now);
        stream.any_packets = true;
        let was_early = stream.early;
        if frame.is_some() {
            let is_in_order = times.dts.is_some() && times.dts == times.pts;
            let first = stream
                .early
                .packet(made.announced.unwrap_or(0), is_in_order);
            if first.is_some_and(|frames| stream.stores.take_first(work.chunk, frames)) {
                stream.early = EarlyStart::Pushing;
                self.wakes.output = true;
                // Who waits for room doesn't wait for ever while the first packets are sent.
                self.wakes.room = true;
            }
        }
        let is_called_off = was_early != stream.early && stream.early == EarlyStart::Off;
        let is_complete = made.is_complete;
        self.sessions[attempt.session.0].works = true;
        if is_called_off {
            self.finish_chunks();
        }
        self.wakes.output |= self.leaves_early();
        if is_complete {
            self.encoder_ended(attempt);
        }
        Ok(is_complete)
    }

    /// What comes of the attempt can't be what was asked for.
    pub fn fault(&mut self, attempt: AttemptId, fault: Fault) {
        if let Some(work) = self.work(attempt) {
            work.made.fault.get_or_insert(fault);
        }
    }

    /// All own frames of the attempt's chunk are there, and its encoder was told that it may end.
    pub fn is_complete(&mut self, attempt: AttemptId) -> bool {
        self.work(attempt).is_some_and(|work| work.made.is_complete)
    }

    /// The attempt has delivered all it has: is that all of its chunk? From here on it counts as delivered, whatever becomes of its
    /// encoder when that is closed.
    pub fn verify(&mut self, attempt: AttemptId, from_cache: bool) -> Result<(), Why> {
        match self.why(attempt) {
            // An encoder that was told that it may end may say to that what it wants.
            Some(Why::EncoderFailed) if self.is_complete(attempt) => (),
            Some(why) => return Err(why),
            None => (),
        }
        let stream = &self.stream;
        let work = work_of(&mut self.sessions, attempt).ok_or(Why::Aborted)?;
        let live = stream.chunker.live(work.chunk).ok_or(Why::Aborted)?;
        let chunk = match work.made.is_complete {
            // No more of the trail is needed.
            true => live.chunk(work.position),
            false => stream.chunker.complete(work.chunk),
        };
        let chunk = work.fed(chunk.ok_or(Why::Aborted)?);
        let skipped = stream.stores.verify(chunk).map_err(Why::Fault)?;
        work.phase = AttemptPhase::Closing(chunk, skipped);
        work.from_cache = from_cache;
        Ok(())
    }

    /// What the attempt is about to deliver.
    pub fn finished(&mut self, attempt: AttemptId, now: u64) -> Result<Finished, Why> {
        let is_aborting = self.is_aborting();
        let work = self.work(attempt).filter(|_| !is_aborting);
        let work = work.ok_or(Why::Aborted)?;
        if work.replanned {
            return Err(Why::Replanned);
        }
        let AttemptPhase::Closing(chunk, skipped) = work.phase else {
            return Err(Why::Aborted);
        };
        Ok(Finished {
            chunk,
            skipped,
            number: work.number,
            from_cache: work.from_cache,
            busy: now.saturating_sub(work.since),
        })
    }

    /// The attempt's chunk was verified, and its encoder is closed: its frames go, its packets may leave.
    pub fn delivered(&mut self, attempt: AttemptId, now: u64) -> Result<(), Why> {
        let finished = self.finished(attempt, now)?;
        let Finished { chunk, skipped, .. } = finished;
        if let Some(work) = self.work(attempt) {
            work.phase = AttemptPhase::Done;
            // What the cache takes is another matter.
            work.since = now;
        }
        self.tally
            .attempt(attempt.session, chunk.fed.len(), finished.busy);
        self.sessions[attempt.session.0].works = true;
        let stream = &mut self.stream;
        stream.roster.succeeded(attempt.session);
        stream.verified.insert(
            chunk.id,
            Verified {
                skipped,
                number: finished.number,
                from_cache: finished.from_cache,
            },
        );
        let is_oldest = stream.chunker.oldest() == Some(chunk.id);
        if is_oldest && stream.early != EarlyStart::Pushing {
            // It made no packet that could have been sent first.
            stream.early = EarlyStart::Off;
        }
        self.finish_chunks();
        self.wake_takers();
        Ok(())
    }

    /// The attempt has delivered, and what it made is being kept: nobody but the watch has to do with it.
    pub fn keeps_what_it_made(&mut self, attempt: AttemptId) {
        let session = self.sessions.get_mut(attempt.session.0);
        let work = session.and_then(|session| session.work.as_mut());
        if let Some(work) = work.filter(|work| work.attempt == attempt) {
            work.phase = AttemptPhase::CacheIo;
            work.drains = true;
        }
    }
}
