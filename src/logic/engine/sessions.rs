// SPDX-License-Identifier: MPL-2.0

//! What sessions do: they take chunks, feed them, deliver packets, and end their attempts.

use super::{Engine, Media, Stream, Verified};
use crate::logic::bucket::Vbv;
use crate::logic::chunker::{self, Neighbours};
use crate::logic::ids::{AttemptId, Chunk, ChunkId, FrameNo, FrameRange, SessionId};
use crate::logic::liveness::Liveness;
use crate::logic::progress::encoded;
use crate::logic::roster::Seat;
use crate::logic::store::{Fault, Kind, Side};
use crate::logic::tally::SessionTally;

/// Whether a session is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SessionState {
    #[default]
    Open,
    /// It takes no chunk any more.
    Closed,
    /// It hung, and is left to itself. Another one takes its place.
    Abandoned,
    /// It was abandoned, and taken out of the element.
    Unlinked,
}

/// Where an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum AttemptPhase {
    #[default]
    Encoding,
    /// Its chunk was verified, and its encoder is being closed, which left out so many frames.
    Closing(Chunk, u64),
    /// The cache is read or written.
    CacheIo,
    /// It is over, but for what follows from it.
    Done,
}

/// A session's attempt, until it rests.
#[derive(Default)]
pub(super) struct Work {
    pub(super) attempt: AttemptId,
    pub(super) chunk: ChunkId,
    pub(super) number: u32,
    /// When it began.
    pub(super) since: u64,
    /// The first frame that is fed.
    pub(super) first: FrameNo,
    /// The next frame that is fed, after the one that it was handed.
    pub(super) position: FrameNo,
    pub(super) phase: AttemptPhase,
    pub(super) waits_for_frame: bool,
    /// All frames were fed.
    pub(super) drains: bool,
    /// The encoder has sent EOS, or was told that it may.
    pub(super) has_eos: bool,
    /// The encoder posted an error.
    pub(super) encoder_failed: bool,
    /// The chunk lost its overlap, or is to have another key frame: the attempt ends.
    pub(super) replanned: bool,
    /// What came was taken from the cache.
    pub(super) from_cache: bool,
    /// Packets that came.
    pub(super) packets: u64,
    pub(super) made: Made,
    pub(super) liveness: Liveness,
    /// Key frames that had been forced late when the content was handed out.
    pub(super) late_keys: u64,
}

impl Work {
    /// Frames that its encoder has encoded.
    fn encoded(&self) -> f64 {
        encoded(self.packets, self.position.0.saturating_sub(self.first.0))
    }

    /// The chunk as this attempt is fed it, which may be without its lead.
    pub(super) fn fed(&self, chunk: Chunk) -> Chunk {
        Chunk {
            fed: FrameRange::new(self.first.0, chunk.fed.end.0),
            ..chunk
        }
    }
}

/// What an attempt has made so far.
#[derive(Default)]
pub(super) struct Made {
    /// A packet was accepted.
    pub(super) any: bool,
    /// What its first picture is.
    pub(super) opens_with: Option<Kind>,
    /// All own frames are there, and the trail has begun.
    pub(super) is_complete: bool,
    /// By so many frames the encoder reorders, as its first packet said.
    pub(super) announced: Option<usize>,
    pub(super) fault: Option<Fault>,
}

/// One session.
#[derive(Default)]
pub(super) struct Session {
    pub(super) state: SessionState,
    /// One of its encoders has made a packet.
    pub(super) works: bool,
    /// It has had a chunk.
    took: bool,
    pub(super) waits_for_chunk: bool,
    pub(super) work: Option<Work>,
}

impl Session {
    pub(super) fn is_abandoned(&self) -> bool {
        matches!(self.state, SessionState::Abandoned | SessionState::Unlinked)
    }

    pub(super) fn waits_for_frame(&self) -> bool {
        self.work.as_ref().is_some_and(Work::waits_for_frame)
    }
}

/// A session asks for work.
#[must_use]
pub enum Take<M: Media> {
    Chunk(Assigned<M>),
    /// Wait until it is woken.
    Wait,
    /// Nothing is to be done until the next start or the end of the flush.
    Stop,
}

/// A chunk to encode.
pub struct Assigned<M: Media> {
    pub attempt: AttemptId,
    pub chunk: ChunkId,
    pub number: u32,
    /// The first frame that is fed.
    pub first: FrameNo,
    /// The first own frame.
    pub start: FrameNo,
    pub opens: M::Frame,
    /// Private time from which on a packet is one of the chunk's own frames, or of its trail.
    pub own_from: u64,
    pub neighbours: Neighbours,
    /// All of it, where that is known before its frames come.
    pub chunk_to_come: Option<Chunk>,
    /// What the encoder is told of its decoder's buffer.
    pub vbv: Option<Vbv>,
    /// What is in that at first isn't as the encoder is set.
    pub tells_vbv: bool,
    /// The session had none before.
    pub is_sessions_first: bool,
}

/// Why an attempt can't go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It is over: a flush, a stop, the end of the stream, or it was given up.
    Aborted,
    /// The stream has ended before its end.
    Halted,
    /// The chunk was planned anew.
    Replanned,
    Fault(Fault),
    /// The encoder posted an error.
    EncoderFailed,
}

/// What a session does next with its chunk.
#[must_use]
pub enum Next<M: Media> {
    /// Feed this frame; ask for a key frame first if `force_key`.
    Feed {
        frame: M::Frame,
        force_key: bool,
        /// Of the overlap; `None`: it is one of the chunk's own.
        side: Option<Side>,
    },
    /// All was fed: send EOS.
    Drain,
}

/// All that is fed to a chunk's encoder.
#[must_use]
pub enum Content<M: Media> {
    /// With private timestamps, and whether a key frame was asked for.
    All {
        chunk: Chunk,
        frames: Vec<(M::Frame, u64, bool)>,
    },
    /// Input has stopped in the midst of it: begin without it.
    Incomplete,
}

impl<M: Media> Engine<M> {
    /// There is one session more.
    pub fn add_session(&mut self) -> SessionId {
        self.stream.roster.seats.push(Seat::default());
        self.push_session(SessionState::Open)
    }

    pub(super) fn push_session(&mut self, state: SessionState) -> SessionId {
        self.sessions.push(Session {
            state,
            ..Session::default()
        });
        self.tally.sessions.push(SessionTally::default());
        SessionId(self.sessions.len() - 1)
    }

    /// Sessions in which an encoder can be opened, for all that is known.
    pub fn open_sessions(&self) -> usize {
        let sessions = self.sessions.iter();
        let open = sessions.filter(|session| session.state == SessionState::Open);
        open.count()
    }

    /// An encoder has made a packet.
    pub fn any_session_works(&self) -> bool {
        self.sessions.iter().any(|session| session.works)
    }

    /// A session asks for a chunk.
    pub fn take(&mut self, id: SessionId, now: u64) -> Take<M> {
        let is_aborting = self.is_aborting();
        let Some(session) = self.sessions.get_mut(id.0) else {
            return Take::Stop;
        };
        session.waits_for_chunk = false;
        if is_aborting || session.is_abandoned() {
            return Take::Stop;
        }
        while self.finish_empty(id) {}
        match self.assign(id, now) {
            Some(assigned) => Take::Chunk(assigned),
            None => {
                self.sessions[id.0].waits_for_chunk = true;
                Take::Wait
            }
        }
    }

    /// The chunk that is offered to the session has no frames: what was sent before it was resumed was all of it.
    fn finish_empty(&mut self, session: SessionId) -> bool {
        let stream = &mut self.stream;
        let is_empty = |chunk: &ChunkId| {
            let live = stream.chunker.live(*chunk);
            live.is_some_and(|live| live.bounds().own.is_empty())
        };
        let Some(chunk) = stream.roster.offered_to(session).filter(is_empty) else {
            return false;
        };
        stream.roster.waiting.remove(&chunk);
        let verified = Verified {
            skipped: 0,
            number: 1,
            from_cache: false,
        };
        stream.verified.insert(chunk, verified);
        self.finish_chunks();
        true
    }

    fn assign(&mut self, session: SessionId, now: u64) -> Option<Assigned<M>> {
        let is_only = self.encodes_one_chunk();
        let stream = &mut self.stream;
        // Looked up before it is taken: what can't be begun stays for others.
        let chunk = stream.roster.offered_to(session)?;
        let live = stream.chunker.live(chunk)?;
        let (start, neighbours) = (live.start, live.neighbours);
        let joins = stream.joins.as_ref();
        let told = joins.map(|joins| joins.told(chunk));
        let first = match &told {
            Some(told) if told.is_exact => start,
            _ => live.lead_start,
        };
        // Of the only chunk the first own frame comes when those before it have gone. (They have the same caps.)
        let opens = if is_only { first } else { start };
        let opens = stream.frames.get(opens)?.held.clone()?;
        let chunk_to_come = live.chunk(live.end()).filter(|_| is_only);
        let own_from = if first == start {
            0
        } else {
            let before = stream.private(FrameNo(start.0 - 1));
            before.midpoint(stream.private(start)) + 1
        };
        let (chunk, number) = stream.roster.take(session)?;
        let attempt = self.name_attempt(session);
        let is_sessions_first = !std::mem::replace(&mut self.sessions[session.0].took, true);
        self.sessions[session.0].work = Some(Work {
            attempt,
            chunk,
            number,
            since: now,
            first,
            position: first,
            ..Work::default()
        });
        Some(Assigned {
            attempt,
            chunk,
            number,
            first,
            start,
            opens,
            own_from,
            neighbours,
            chunk_to_come,
            vbv: told.as_ref().map(|it| it.vbv),
            tells_vbv: told.is_some_and(|it| it.tells),
            is_sessions_first,
        })
    }

    /// A name that no attempt had.
    pub(super) fn name_attempt(&mut self, session: SessionId) -> AttemptId {
        let number = self.next_attempt;
        self.next_attempt += 1;
        AttemptId { session, number }
    }

    /// The attempt, unless it is over.
    pub(super) fn work(&mut self, attempt: AttemptId) -> Option<&mut Work> {
        work_of(&mut self.sessions, attempt)
    }

    /// The stream and the attempt, if that goes on.
    pub(super) fn at_work(
        &mut self,
        attempt: AttemptId,
    ) -> Result<(&mut Stream<M>, &mut Work), Why> {
        let is_aborted = self.is_stopped || self.is_flushing;
        let is_halted = self.flow.is_some();
        let work = work_of(&mut self.sessions, attempt).ok_or(Why::Aborted)?;
        work.waits_for_frame = false;
        // It says more than the error that it led to.
        if let Some(fault) = &work.made.fault {
            Err(Why::Fault(fault.clone()))
        } else if is_aborted {
            Err(Why::Aborted)
        } else if is_halted || self.stream.roster.is_doomed(work.chunk) {
            Err(Why::Halted)
        } else if work.replanned {
            Err(Why::Replanned)
        } else if work.encoder_failed {
            Err(Why::EncoderFailed)
        } else {
            Ok((&mut self.stream, work))
        }
    }

    /// Why the attempt can't go on; `None` if it can.
    pub fn why(&mut self, attempt: AttemptId) -> Option<Why> {
        self.at_work(attempt).err()
    }

    /// The next frame that the attempt at this chunk is fed.
    pub(super) fn position_in(&self, chunk: ChunkId) -> Option<FrameNo> {
        let work = self.sessions.iter().filter_map(|it| it.work.as_ref());
        let mut at_it = work.filter(|work| work.chunk == chunk && !work.replanned);
        at_it
            .find(|work| work.phase != AttemptPhase::Done)
            .map(|work| work.position)
    }

    /// What the attempt does that has fed its chunk's frames up to, not including, `position`. `None`: wait until it is woken.
    pub fn next(&mut self, attempt: AttemptId, position: FrameNo) -> Result<Option<Next<M>>, Why> {
        let goes = self.encodes_one_chunk();
        let (stream, work) = self.at_work(attempt)?;
        match stream.chunker.next(work.chunk, position) {
            None => Err(Why::Aborted),
            Some(chunker::Next::Feed { frame, force_key }) => {
                let entry = stream.frames.get(frame).ok_or(Why::Aborted)?;
                let frame = entry.held.clone().ok_or(Why::Aborted)?;
                work.position = FrameNo(position.0 + 1);
                let force_key = force_key || entry.force_key;
                let live = stream.chunker.live(work.chunk);
                let side = live.and_then(|live| live.side_of(position));
                if goes {
                    stream.let_go(&[position]);
                }
                Ok(Some(Next::Feed {
                    frame,
                    force_key,
                    side,
                }))
            }
            Some(chunker::Next::Drain(_)) => {
                work.drains = true;
                Ok(Some(Next::Drain))
            }
            Some(chunker::Next::Wait) => self.wait_for_frame(attempt),
        }
    }

    /// The attempt waits for its next frame, unless it is the one that has to give way for frames to come.
    fn wait_for_frame<R>(&mut self, attempt: AttemptId) -> Result<Option<R>, Why> {
        let (_, work) = self.at_work(attempt)?;
        work.waits_for_frame = true;
        self.recall_if_stuck();
        match self.work(attempt) {
            Some(work) if !work.replanned => Ok(None),
            _ => Err(Why::Replanned),
        }
    }

    /// All of the attempt's chunk, once that is there; it counts as fed. `None`: wait until it is woken.
    pub fn content(&mut self, attempt: AttemptId) -> Result<Option<Content<M>>, Why> {
        let (stream, work) = self.at_work(attempt)?;
        let Some(chunk) = stream.chunker.complete(work.chunk) else {
            let is_open = stream.chunker.open_chunk() == Some(work.chunk);
            return match stream.impatient && is_open {
                true => Ok(Some(Content::Incomplete)),
                false => self.wait_for_frame(attempt),
            };
        };
        let chunk = work.fed(chunk);
        let frames = chunk.fed.iter().map(|frame| {
            let entry = stream.frames.get(frame)?;
            Some((entry.held.clone()?, stream.private(frame), entry.force_key))
        });
        let frames = frames.collect::<Option<_>>().ok_or(Why::Aborted)?;
        work.position = chunk.fed.end;
        work.late_keys = stream.late_keys;
        Ok(Some(Content::All { chunk, frames }))
    }

    /// The attempt's chunk counted as fed, and is fed after all.
    pub fn feed_from_first(&mut self, attempt: AttemptId) {
        if let Some(work) = self.work(attempt) {
            work.position = work.first;
        }
    }

    /// The chunk is still what it was when its content was handed out.
    pub fn is_unchanged(&mut self, attempt: AttemptId) -> bool {
        let late_keys = self.stream.late_keys;
        let work = self.work(attempt);
        work.is_some_and(|work| !work.replanned && work.late_keys == late_keys)
    }

    /// The cache is being read or written for the attempt, or isn't any more: a disk may hang as well as an encoder.
    pub fn uses_cache(&mut self, attempt: AttemptId, uses: bool) {
        if let Some(work) = self.work(attempt) {
            work.phase = if uses {
                AttemptPhase::CacheIo
            } else {
                AttemptPhase::Encoding
            };
        }
    }

    /// What came for the attempt isn't what it should be, and is forgotten: it begins again. `false`: it can't.
    pub fn begin_again(&mut self, attempt: AttemptId) -> bool {
        let Some(work) = self.work(attempt) else {
            return false;
        };
        work.made = Made::default();
        let chunk = work.chunk;
        self.stream.stores.retract(chunk)
    }

    /// The session's encoder has sent its EOS.
    pub fn encoder_ended(&mut self, attempt: AttemptId) {
        if let Some(work) = self.work(attempt) {
            work.has_eos = true;
            self.wakes.session(attempt.session);
        }
    }

    pub fn has_ended(&mut self, attempt: AttemptId) -> bool {
        self.work(attempt).is_some_and(|work| work.has_eos)
    }

    /// The encoder has sent EOS. `None`: wait until it is woken.
    pub fn wait_for_eos(&mut self, attempt: AttemptId) -> Result<Option<()>, Why> {
        let (_, work) = self.at_work(attempt)?;
        Ok(work.has_eos.then_some(()))
    }

    /// The session's encoder posted an error.
    pub fn encoder_failed(&mut self, id: SessionId) {
        let session = self.sessions.get_mut(id.0);
        if let Some(work) = session.and_then(|session| session.work.as_mut()) {
            work.encoder_failed = true;
            self.wakes.session(id);
        }
    }

    /// The session has no attempt any more, and waits for nothing.
    pub fn rest(&mut self, attempt: AttemptId) {
        let session = self.sessions.get(attempt.session.0);
        let work = session.and_then(|session| session.work.as_ref());
        if work.is_some_and(|work| work.attempt == attempt) {
            self.rest_after_panic(attempt.session);
        }
    }

    /// The session's task panicked: it has no attempt any more.
    pub fn rest_after_panic(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id.0) {
            session.work = None;
            session.waits_for_chunk = false;
            self.wakes.idle = true;
        }
    }

    /// Nanoseconds that each session had a chunk.
    pub(in crate::logic) fn busy(&self, now: u64) -> impl Iterator<Item = u64> {
        let sessions = self.sessions.iter().zip(&self.tally.sessions);
        sessions.map(move |(session, tally)| {
            let work = session.work.as_ref();
            let work = work.filter(|work| work.phase != AttemptPhase::Done);
            tally.busy + work.map_or(0, |work| now.saturating_sub(work.since))
        })
    }

    /// Attempts whose chunks aren't delivered. (What is kept in the cache is.)
    fn attempts(&self) -> impl Iterator<Item = &Work> {
        let works = self.sessions.iter().filter_map(|it| it.work.as_ref());
        works.filter(|work| !matches!(work.phase, AttemptPhase::Done | AttemptPhase::CacheIo))
    }

    /// Frames of which packets were made for chunks, overlaps included, and nanoseconds that it took all sessions together.
    pub(in crate::logic) fn encoded(&self, now: u64) -> (f64, u64) {
        let at_work: f64 = self.attempts().map(Work::encoded).sum();
        let frames = self.tally.frames_encoded() as f64 + at_work;
        (frames, self.busy(now).sum())
    }

    /// Frames that the attempts at hand have taken, and packets that they have made.
    pub fn at_hand(&self) -> (u64, u64) {
        let attempts = self.attempts();
        attempts.fold((0, 0), |(fed, packets), work| {
            let taken = work.position.0.saturating_sub(work.first.0);
            (fed + taken, packets + work.packets)
        })
    }

    /// Frames of a stream of `total` that each session that may work has still to encode of its chunk, overlap included.
    pub(in crate::logic) fn left_to_sessions(&self, total: u64) -> Vec<f64> {
        let stream = &self.stream;
        let attempts = self.attempts();
        let mut left: Vec<f64> = attempts
            .filter_map(|work| {
                let end = stream.chunker.expected_fed_end(work.chunk, total)?;
                Some((end.saturating_sub(work.first.0) as f64 - work.encoded()).max(0.0))
            })
            .collect();
        let places = usize::try_from(stream.roster.sessions).unwrap_or(usize::MAX);
        let places = places.min(stream.roster.open()).max(1);
        left.resize(left.len().max(places), 0.0);
        left
    }

    /// The chunks of a stream of `total` that no session has: frames that each is fed, as far as anyone can tell.
    pub(in crate::logic) fn chunks_to_come(&self, total: u64) -> impl Iterator<Item = u64> {
        let (chunker, waiting) = (&self.stream.chunker, &self.stream.roster.waiting);
        let waiting = waiting.keys().filter_map(move |&chunk| {
            let end = chunker.expected_fed_end(chunk, total)?;
            Some(end.saturating_sub(chunker.live(chunk)?.lead_start.0))
        });
        waiting.chain(chunker.to_come(total))
    }

    fn all_at_work(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().filter(|it| it.work.is_some())
    }

    /// No session is at work but those that were abandoned.
    pub fn has_only_abandoned_at_work(&self) -> bool {
        self.all_at_work().all(Session::is_abandoned)
    }

    /// No session is at work.
    pub fn is_idle(&self) -> bool {
        self.all_at_work().next().is_none()
    }
}

/// The attempt, unless it is over. (Apart from the engine, whose stream may be in use beside it.)
pub(super) fn work_of(sessions: &mut [Session], attempt: AttemptId) -> Option<&mut Work> {
    let work = sessions.get_mut(attempt.session.0)?.work.as_mut();
    work.filter(|work| work.attempt == attempt && work.phase != AttemptPhase::Done)
}
