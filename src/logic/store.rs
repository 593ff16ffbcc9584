// SPDX-License-Identifier: MPL-2.0

//! Packets in as the sessions make them, out as one encoder would have made them.
//!
//! Each chunk has a store. A packet is held there, trimmed (it belongs to the overlap), or shows that the encoder did not do what was asked
//! of it. A chunk's packets leave once every own frame is accounted for, all chunks before it have left, and nothing else is needed.
//!
//! That a chunk stands alone is read off the order of its packets, which an encoder cannot fake: decoding order puts a picture after those
//! it refers to. So a lead packet after the first own one, or an own packet after the first trail one, refers across the edge (open GOP).
//!
//! Some packets leave before their chunk is verified: the first ones of a stream (`early_start`), and where input has stopped. The
//! store keeps a reference to each of them until the chunk is done, because another attempt has to make them again.

use super::ids::{Chunk, ChunkId, FrameNo, FrameRange};
use super::timeline::reorder_depth;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use thiserror::Error;

/// A packet, as far as it is compared with what another attempt makes of the same frames.
pub trait Payload: Clone {
    fn is_same(&self, other: &Self) -> bool;

    fn bits(&self) -> u64;
}

/// What an encoder says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A picture at which decoding can begin.
    Key,
    /// A picture that needs others.
    Delta,
    /// Decoded but not shown (an alternate reference frame of VP8): belongs to the frame after it.
    Invisible,
    /// Stream headers without a timestamp (Theora).
    Header,
}

/// What becomes of a packet.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is held in the chunk's store, or it has left before and was made again.
    Held,
    /// It was of the overlap and is gone.
    Trimmed,
    /// It was of the trail, and all own frames are there: the encoder needn't encode what is left of the trail.
    Complete,
}

/// The encoder did not deliver what the chunk needs; the attempt has failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("a packet has a timestamp that no input frame had")]
    UnknownTime,
    #[error("a packet of chunk {0} came unasked")]
    UnknownChunk(ChunkId),
    #[error("frame {0} was delivered twice")]
    Twice(FrameNo),
    #[error(
        "{count} frames were not delivered, the first is {first}; if the encoder loses frames at its end, set overlap-after to more \
         than that"
    )]
    Missing { first: FrameNo, count: u64 },
    #[error("none of the chunk's {count} frames was delivered, and the encoder posted no error")]
    Nothing { count: u64 },
    #[error(
        "the chunk begins with frame {0}, which is not marked as a key frame; the encoder can't be used in chunks, set \
         allow-parallel=false"
    )]
    StartNotKey(FrameNo),
    #[error("the chunk begins with frame {0}, which is not its first frame")]
    StartMissing(FrameNo),
    #[error("frame {0} refers across a forced key frame; set the encoder to closed GOPs")]
    LeadAfterOwn(FrameNo),
    #[error("frame {0} refers across a forced key frame; set the encoder to closed GOPs")]
    OwnAfterTrail(FrameNo),
    #[error(
        "frame {0}, which has left, came out otherwise at another attempt: the encoder isn't deterministic"
    )]
    Differs(FrameNo),
    /// By this alignment, each packet is a part of a frame.
    #[error(
        "the encoder's packets are parts of frames (its caps say alignment={alignment}), which can't be used in chunks; have it make \
         whole ones (alignment=au, for AV1 alignment=tu), or set allow-parallel=false"
    )]
    Parts { alignment: String },
}

/// A side of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Lead,
    Trail,
}

impl Fault {
    /// The overlap that explains it, if there was one.
    pub fn side(&self) -> Option<Side> {
        match self {
            Fault::StartNotKey(_) | Fault::StartMissing(_) | Fault::LeadAfterOwn(_) => {
                Some(Side::Lead)
            }
            Fault::OwnAfterTrail(_) => Some(Side::Trail),
            _ => None,
        }
    }
}

/// A packet of a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held<P> {
    /// `None` for stream headers.
    pub frame: Option<FrameNo>,
    pub kind: Kind,
    pub payload: P,
}

/// A packet that leaves.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct Left<P> {
    pub chunk: ChunkId,
    pub packet: Held<P>,
    /// It is the first of its chunk, whose packets are reordered by so many: as those that are there show, or as their encoder said.
    pub opens: Option<usize>,
}

/// What leaves next.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Pop<P> {
    /// Send this packet.
    Packet(Left<P>),
    /// The last packet of this chunk was handed out before.
    ChunkDone(ChunkId),
    /// Wait for a chunk to be finished.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Lead,
    Own,
    Trail,
}

#[derive(Debug)]
struct Store<P> {
    own: FrameRange,
    phase: Phase,
    /// In decoding order.
    packets: VecDeque<Held<P>>,
    /// Own frames that are there, in order: most come near its end.
    delivered: Vec<FrameNo>,
    /// By so many frames the encoder said that it reorders.
    announced: usize,
    skipped: BTreeSet<FrameNo>,
    /// All own frames are accounted for: its packets may leave.
    finished: bool,
    /// A packet of it has left.
    begun: bool,
    /// Packets that left before the chunk was finished, as their attempt made them.
    sent_early: Vec<Held<P>>,
    /// How many of these this attempt has yet to make again.
    to_match: usize,
    /// The first frame that wasn't sent early, where all before it were and the rest could be a chunk of its own.
    resume_at: Option<FrameNo>,
}

impl<P: Payload> Store<P> {
    fn new(own: FrameRange) -> Self {
        Self {
            own,
            phase: Phase::Lead,
            packets: VecDeque::new(),
            delivered: Vec::new(),
            announced: 0,
            skipped: BTreeSet::new(),
            finished: false,
            begun: false,
            sent_early: Vec::new(),
            to_match: 0,
            resume_at: None,
        }
    }

    /// The frame is there. `false`: it was before.
    fn deliver(&mut self, frame: FrameNo) -> bool {
        let place = self.delivered.binary_search(&frame);
        if let Err(place) = place {
            self.delivered.insert(place, frame);
        }
        place.is_err()
    }

    fn is_delivered(&self, frame: FrameNo) -> bool {
        self.delivered.binary_search(&frame).is_ok()
    }

    fn phase_of(&self, frame: FrameNo) -> Phase {
        if frame < self.own.start {
            Phase::Lead
        } else if frame < self.own.end {
            Phase::Own
        } else {
            Phase::Trail
        }
    }

    /// A visible picture of `frame` comes next in decoding order.
    fn advance(&mut self, frame: FrameNo, kind: Kind) -> Result<Phase, Fault> {
        let phase = self.phase_of(frame);
        if phase < self.phase {
            return Err(match phase {
                Phase::Lead => Fault::LeadAfterOwn(frame),
                _ => Fault::OwnAfterTrail(frame),
            });
        }
        if phase > self.phase {
            if phase == Phase::Own {
                if !self.opens_with(frame) {
                    return Err(Fault::StartMissing(frame));
                }
                if kind != Kind::Key {
                    return Err(Fault::StartNotKey(frame));
                }
            }
            self.phase = phase;
        }
        Ok(phase)
    }

    /// At least so many frames are there, and none is missing that is shown before one of them.
    fn begins_without_gap(&self, least: usize) -> bool {
        let last = self.delivered.last().copied();
        let Some(last) = last.filter(|_| self.delivered.len() >= least) else {
            return false;
        };
        let skipped = self.skipped.range(self.own.start..=last);
        let skipped = skipped.filter(|frame| !self.is_delivered(**frame));
        let accounted = self.delivered.len() + skipped.count();
        accounted as u64 == last.0 + 1 - self.own.start.0
    }

    /// No own frame before `frame` can still come: it is the first, or those before it were skipped.
    fn opens_with(&self, frame: FrameNo) -> bool {
        let skipped = self.skipped.range(self.own.start..frame).count();
        skipped as u64 == frame.0 - self.own.start.0
    }

    /// A packet that another attempt sent is made again.
    fn matches(&mut self, frame: Option<FrameNo>, payload: &P) -> Result<(), Fault> {
        let index = self.sent_early.len() - self.to_match;
        self.to_match -= 1;
        let sent = &self.sent_early[index];
        if sent.frame == frame && sent.payload.is_same(payload) {
            return Ok(());
        }
        Err(Fault::Differs(frame.unwrap_or(self.own.start)))
    }

    fn pop(&mut self, chunk: ChunkId) -> Option<Left<P>> {
        let opens = (!self.begun).then(|| {
            let held = self.packets.iter();
            reorder_depth(held.filter_map(|held| held.frame)).max(self.announced)
        });
        let packet = self.packets.pop_front()?;
        self.begun = true;
        if !self.finished {
            self.sent_early.push(packet.clone());
        }
        Some(Left {
            chunk,
            packet,
            opens,
        })
    }
}

/// Packets leave before their chunk is finished.
#[derive(Debug, Default)]
struct Early {
    /// Once so many are there, where nothing was announced.
    packets: usize,
    /// Of the chunks before this one.
    until: ChunkId,
}

/// Holds what the sessions deliver until it may leave.
#[derive(Debug)]
pub struct Stores<P> {
    /// The first packets of the stream, which leave before all others.
    first: VecDeque<Left<P>>,
    /// Chunks that opened and haven't left, each with its store.
    chunks: BTreeMap<ChunkId, Store<P>>,
    /// The chunk whose packets leave next.
    next: ChunkId,
    early: Early,
}

impl<P> Default for Stores<P> {
    fn default() -> Self {
        Self {
            first: VecDeque::new(),
            chunks: BTreeMap::new(),
            next: ChunkId(0),
            early: Early::default(),
        }
    }
}

impl<P: Payload> Stores<P> {
    /// A chunk begins, with these own frames, or it is known where they end: before any frame of its trail is fed.
    pub fn set_own(&mut self, chunk: ChunkId, own: FrameRange) {
        let store = self.chunks.entry(chunk);
        store.or_insert_with(|| Store::new(own)).own = own;
    }

    /// Forgets what an attempt delivered, so that another can deliver it anew. What has left is compared. `false` if the chunk is finished.
    pub fn retract(&mut self, chunk: ChunkId) -> bool {
        let store = self.chunks.get_mut(&chunk);
        let Some(store) = store.filter(|store| !store.finished) else {
            return false;
        };
        let sent_early = std::mem::take(&mut store.sent_early);
        *store = Store {
            begun: store.begun,
            to_match: sent_early.len(),
            sent_early,
            resume_at: store.resume_at,
            ..Store::new(store.own)
        };
        true
    }

    /// Some of the chunk has left, and the rest of it couldn't begin after that.
    pub fn has_begun_to_leave(&self, chunk: ChunkId) -> bool {
        let store = self.chunks.get(&chunk);
        store.is_some_and(|store| !store.sent_early.is_empty() && store.resume_at.is_none())
    }

    /// Some of the chunk has left.
    pub fn has_left_in_part(&self, chunk: ChunkId) -> bool {
        let store = self.chunks.get(&chunk);
        store.is_some_and(|store| !store.sent_early.is_empty())
    }

    /// Frames of which packets are held.
    pub fn pictures(&self) -> u64 {
        let held = self.chunks.values().flat_map(|store| &store.packets);
        let held = held.chain(self.first.iter().map(|left| &left.packet));
        let shows = |held: &&Held<P>| matches!(held.kind, Kind::Key | Kind::Delta);
        held.filter(shows).count() as u64
    }

    /// What was made of the chunk, in decoding order, with its bits. Until the chunk is finished.
    pub fn made(&self, chunk: ChunkId) -> impl Iterator<Item = (Option<FrameNo>, Kind, u64)> {
        let store = self.chunks.get(&chunk).into_iter();
        let packets = store.flat_map(|store| store.sent_early.iter().chain(&store.packets));
        packets.map(|held| (held.frame, held.kind, held.payload.bits()))
    }

    /// Where the rest of the chunk could begin, if what was sent of it can't be made again.
    pub fn resume_at(&self, chunk: ChunkId) -> Option<FrameNo> {
        self.chunks.get(&chunk)?.resume_at
    }

    /// What was sent of the chunk can't be made again: the chunk is the rest of it, from this frame on.
    pub fn resume(&mut self, chunk: ChunkId, start: FrameNo) {
        if let Some(store) = self.chunks.get_mut(&chunk) {
            *store = Store::new(FrameRange::new(start.0, store.own.end.0));
        }
    }

    /// The first packets of the chunk that is next leave before it is finished: those of at least `frames` frames, and of no frame that
    /// is shown after one which isn't among them. `false` if they aren't there yet. (Ask at each packet: all of them leave.)
    pub fn take_first(&mut self, chunk: ChunkId, frames: usize) -> bool {
        let store = self.chunks.get_mut(&chunk).filter(|_| chunk == self.next);
        let store = store.filter(|store| !store.finished && !store.begun);
        let Some(store) = store.filter(|store| store.begins_without_gap(frames)) else {
            return false;
        };
        store.resume_at = store.delivered.last().map(|last| FrameNo(last.0 + 1));
        self.first.extend(std::iter::from_fn(|| store.pop(chunk)));
        true
    }

    /// None of the first packets is left to be sent.
    pub fn has_sent_first(&self) -> bool {
        self.first.is_empty()
    }

    /// A packet of an attempt at `chunk`; `frame` is the frame that its timestamp stands for.
    pub fn accept(
        &mut self,
        chunk: ChunkId,
        frame: Option<FrameNo>,
        kind: Kind,
        payload: P,
    ) -> Result<Accepted, Fault> {
        let store = self.chunks.get_mut(&chunk);
        let store = store
            .filter(|store| !store.finished)
            .ok_or(Fault::UnknownChunk(chunk))?;
        let phase = match (kind, frame) {
            // Those before the first own picture belong to it.
            (Kind::Header, _) => store.phase.max(Phase::Own),
            (_, None) => return Err(Fault::UnknownTime),
            (Kind::Invisible, Some(frame)) => store.phase_of(frame),
            (Kind::Key | Kind::Delta, Some(frame)) => {
                let phase = store.advance(frame, kind)?;
                if phase == Phase::Own && !store.deliver(frame) {
                    return Err(Fault::Twice(frame));
                }
                phase
            }
        };
        if phase != Phase::Own {
            let has_all = store.delivered.len() as u64 == store.own.len();
            return Ok(match store.phase {
                Phase::Trail if has_all => Accepted::Complete,
                _ => Accepted::Trimmed,
            });
        }
        if store.to_match > 0 {
            store.matches(frame, &payload)?;
        } else {
            store.packets.push_back(Held {
                frame,
                kind,
                payload,
            });
        }
        Ok(Accepted::Held)
    }

    /// The encoder of the attempt at `chunk` says that it reorders by so many frames.
    pub fn announce(&mut self, chunk: ChunkId, depth: usize) {
        if let Some(store) = self.chunks.get_mut(&chunk) {
            store.announced = depth;
        }
    }

    /// The encoder said that it leaves this frame out.
    pub fn skip(&mut self, chunk: ChunkId, frame: FrameNo) {
        if let Some(store) = self.chunks.get_mut(&chunk) {
            store.skipped.insert(frame);
        }
    }

    /// The session has delivered all it has: is it all that the chunk owns? Returns how many frames its encoder said it left out.
    pub fn verify(&self, chunk: Chunk) -> Result<u64, Fault> {
        let store = self.chunks.get(&chunk.id);
        let store = store.ok_or(Fault::UnknownChunk(chunk.id))?;
        // One that was delivered before it was known where the chunk ends may be none of its own.
        let own = store
            .delivered
            .partition_point(|frame| *frame < chunk.own.end);
        let skipped = chunk.own.len() - own as u64;
        if skipped == 0 {
            return Ok(0);
        }
        let is_missing =
            |frame: &FrameNo| !store.is_delivered(*frame) && !store.skipped.contains(frame);
        let mut missing = chunk.own.iter().filter(is_missing);
        if let Some(first) = missing.next() {
            if store.delivered.is_empty() && store.skipped.is_empty() {
                let count = chunk.own.len();
                return Err(Fault::Nothing { count });
            }
            return Err(Fault::Missing {
                first,
                count: 1 + missing.count() as u64,
            });
        }
        Ok(skipped)
    }

    /// The chunk was verified: its packets may leave.
    pub fn finish(&mut self, chunk: ChunkId) {
        if let Some(store) = self.chunks.get_mut(&chunk) {
            store.finished = true;
            // Nobody makes them again.
            store.sent_early.clear();
        }
    }

    /// Packets of so many chunks, counted from the one that is next, leave as they come from now on: from the first one where the encoder
    /// has said how far it reorders, and otherwise once so many packets are there, which show it.
    pub fn leave_early(&mut self, chunks: u64, packets: usize) {
        let until = ChunkId(self.next.0.saturating_add(chunks));
        self.early = Early { packets, until };
    }

    /// Where packets leave as they come, the first of a chunk do, too, and those of all chunks that have opened: that is the last thing
    /// that is done for whoever waits for them.
    pub fn leave_at_once(&mut self) {
        self.early.packets = 1;
        if let Some((last, _)) = self.chunks.last_key_value() {
            self.early.until = self.early.until.max(last.next());
        }
    }

    /// Packets leave as they come.
    pub fn leaves_early(&self) -> bool {
        self.next < self.early.until
    }

    /// The chunk's own frames; without an end until that is known.
    pub fn own(&self, chunk: ChunkId) -> Option<FrameRange> {
        self.chunks.get(&chunk).map(|store| store.own)
    }

    /// The oldest frame of which a packet may leave.
    pub fn oldest_held(&self) -> Option<FrameNo> {
        let oldest = self.chunks.values().next().map(|store| store.own.start);
        let first = self.first.iter().filter_map(|left| left.packet.frame);
        first.chain(oldest).min()
    }

    /// Takes what leaves next.
    pub fn pop(&mut self) -> Pop<P> {
        if let Some(left) = self.first.pop_front() {
            return Pop::Packet(left);
        }
        let chunk = self.next;
        let leaves_early = self.leaves_early();
        let Some(store) = self.chunks.get_mut(&chunk) else {
            return Pop::Nothing;
        };
        let is_known = store.begun || store.announced > 0;
        let is_enough = is_known || store.packets.len() >= self.early.packets;
        if !(store.finished || leaves_early && is_enough) {
            return Pop::Nothing;
        }
        match store.pop(chunk) {
            Some(left) => {
                if !store.finished {
                    // In the middle of what refers to each other nothing begins.
                    store.resume_at = None;
                }
                Pop::Packet(left)
            }
            None if !store.finished => Pop::Nothing,
            None => {
                self.chunks.remove(&chunk);
                self.next = chunk.next();
                Pop::ChunkDone(chunk)
            }
        }
    }

    /// Every chunk that opened has left.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Payload for u64 {
        fn is_same(&self, other: &Self) -> bool {
            self == other
        }

        fn bits(&self) -> u64 {
            *self
        }
    }

    const C0: ChunkId = ChunkId(0);
    const C1: ChunkId = ChunkId(1);

    fn chunk(id: u64, start: u64, end: u64) -> Chunk {
        let own = FrameRange::new(start, end);
        Chunk {
            id: ChunkId(id),
            own,
            fed: own,
        }
    }

    /// Chunks 0 (frames 0..3) and 1 (frames 3..6).
    fn two() -> Stores<u64> {
        let mut stores = Stores::default();
        stores.set_own(C0, FrameRange::new(0, 3));
        stores.set_own(C1, FrameRange::new(3, 6));
        stores
    }

    fn give(
        stores: &mut Stores<u64>,
        chunk: ChunkId,
        kind: Kind,
        frame: u64,
    ) -> Result<Accepted, Fault> {
        stores.accept(chunk, Some(FrameNo(frame)), kind, frame)
    }

    /// One key frame, then the others; panics on a fault.
    fn give_all(stores: &mut Stores<u64>, chunk: ChunkId, frames: &[u64]) {
        for (index, &frame) in frames.iter().enumerate() {
            let kind = if index == 0 { Kind::Key } else { Kind::Delta };
            let _ = give(stores, chunk, kind, frame).unwrap();
        }
    }

    /// What a session does at its end.
    fn finish(stores: &mut Stores<u64>, chunk: Chunk) -> Result<u64, Fault> {
        let skipped = stores.verify(chunk)?;
        stores.finish(chunk.id);
        Ok(skipped)
    }

    fn drain(stores: &mut Stores<u64>) -> Vec<u64> {
        let mut out = Vec::new();
        loop {
            match stores.pop() {
                Pop::Packet(left) => out.push(left.packet.payload),
                Pop::ChunkDone(_) => (),
                Pop::Nothing => break out,
            }
        }
    }

    #[test]
    fn a_later_chunk_waits_for_the_earlier_one() {
        let mut stores = two();
        give_all(&mut stores, C1, &[3, 5, 4]);
        assert!(finish(&mut stores, chunk(1, 3, 6)).is_ok());
        assert_eq!(stores.pop(), Pop::Nothing);
        give_all(&mut stores, C0, &[0, 2, 1]);
        assert_eq!(stores.pop(), Pop::Nothing, "not verified yet");
        assert!(finish(&mut stores, chunk(0, 0, 3)).is_ok());
        assert_eq!(drain(&mut stores), [0, 2, 1, 3, 5, 4]);
        assert!(stores.is_empty());
    }

    #[test]
    fn the_overlap_is_trimmed() {
        let mut stores = two();
        for (frame, kind) in [(1, Kind::Key), (2, Kind::Delta)] {
            assert_eq!(give(&mut stores, C1, kind, frame), Ok(Accepted::Trimmed));
        }
        give_all(&mut stores, C1, &[3, 4, 5]);
        assert_eq!(give(&mut stores, C1, Kind::Key, 6), Ok(Accepted::Complete));
        assert_eq!(finish(&mut stores, chunk(1, 3, 6)), Ok(0));
    }

    #[test]
    fn pictures_that_refer_across_an_edge_are_found() {
        let mut stores = two();
        let _ = give(&mut stores, C1, Kind::Key, 0);
        let _ = give(&mut stores, C1, Kind::Key, 3);
        assert_eq!(
            give(&mut stores, C1, Kind::Delta, 2),
            Err(Fault::LeadAfterOwn(FrameNo(2)))
        );
        let _ = give(&mut stores, C0, Kind::Key, 0);
        let _ = give(&mut stores, C0, Kind::Key, 3);
        assert_eq!(
            give(&mut stores, C0, Kind::Delta, 2),
            Err(Fault::OwnAfterTrail(FrameNo(2)))
        );
    }

    #[test]
    fn an_ignored_forced_key_frame_is_found() {
        let mut stores = two();
        let _ = give(&mut stores, C1, Kind::Key, 2);
        assert_eq!(
            give(&mut stores, C1, Kind::Delta, 3),
            Err(Fault::StartNotKey(FrameNo(3)))
        );
        // After the own frames it doesn't matter: none of them can refer to what comes after all of them.
        give_all(&mut stores, C0, &[0, 1, 2]);
        assert_eq!(
            give(&mut stores, C0, Kind::Delta, 3),
            Ok(Accepted::Complete)
        );
    }

    #[test]
    fn a_key_frame_that_isnt_the_first_frame_is_found() {
        let mut stores = two();
        assert_eq!(
            give(&mut stores, C0, Kind::Key, 1),
            Err(Fault::StartMissing(FrameNo(1)))
        );
    }

    #[test]
    fn lost_and_doubled_frames_are_found() {
        let mut stores = two();
        give_all(&mut stores, C0, &[0, 1]);
        assert_eq!(
            give(&mut stores, C0, Kind::Delta, 1),
            Err(Fault::Twice(FrameNo(1)))
        );
        assert_eq!(
            finish(&mut stores, chunk(0, 0, 3)),
            Err(Fault::Missing {
                first: FrameNo(2),
                count: 1
            })
        );
    }

    #[test]
    fn a_frame_that_the_encoder_says_it_skipped_is_accounted_for() {
        let mut stores = two();
        stores.skip(C0, FrameNo(0));
        give_all(&mut stores, C0, &[1, 2]);
        assert_eq!(finish(&mut stores, chunk(0, 0, 3)), Ok(1));
    }

    #[test]
    fn headers_and_invisible_pictures_keep_their_place() {
        let mut stores = two();
        assert_eq!(
            stores.accept(C0, None, Kind::Header, 100),
            Ok(Accepted::Held)
        );
        let _ = give(&mut stores, C0, Kind::Key, 0);
        let _ = stores.accept(C0, Some(FrameNo(1)), Kind::Invisible, 101);
        let _ = give(&mut stores, C0, Kind::Delta, 1);
        let _ = give(&mut stores, C0, Kind::Delta, 2);
        assert!(finish(&mut stores, chunk(0, 0, 3)).is_ok());
        assert_eq!(drain(&mut stores), [100, 0, 101, 1, 2]);
        assert_eq!(
            stores.accept(C1, None, Kind::Key, 0),
            Err(Fault::UnknownTime)
        );
    }

    #[test]
    fn a_second_attempt_starts_from_nothing() {
        let mut stores = two();
        give_all(&mut stores, C0, &[0, 1]);
        assert!(stores.retract(C0));
        give_all(&mut stores, C0, &[0, 1, 2]);
        assert!(finish(&mut stores, chunk(0, 0, 3)).is_ok());
        assert_eq!(drain(&mut stores), [0, 1, 2]);
    }

    #[test]
    fn what_left_early_comes_again_and_doesnt_leave_again() {
        let mut stores = two();
        give_all(&mut stores, C0, &[0, 2]);
        stores.leave_early(u64::MAX, 1);
        assert_eq!(drain(&mut stores), [0, 2]);
        assert!(stores.retract(C0));
        assert_eq!(stores.resume_at(C0), None, "frame 1 is missing");
        give_all(&mut stores, C0, &[0, 2]);
        let _ = give(&mut stores, C0, Kind::Delta, 1);
        assert!(finish(&mut stores, chunk(0, 0, 3)).is_ok());
        assert_eq!(drain(&mut stores), [1]);
        assert_eq!(stores.next, C1);
    }

    #[test]
    fn a_chunk_begins_to_leave_early_when_enough_of_it_is_there() {
        let mut stores = two();
        stores.leave_early(u64::MAX, 2);
        give_all(&mut stores, C0, &[0]);
        assert_eq!(drain(&mut stores), [] as [u64; 0]);
        let _ = give(&mut stores, C0, Kind::Delta, 2).unwrap();
        assert_eq!(drain(&mut stores), [0, 2]);
        let _ = give(&mut stores, C0, Kind::Delta, 1).unwrap();
        assert_eq!(drain(&mut stores), [1]);
    }

    #[test]
    fn in_the_end_all_that_has_opened_leaves_at_once() {
        let mut stores = two();
        stores.leave_early(1, 17);
        stores.leave_at_once();
        give_all(&mut stores, C0, &[0, 1, 2]);
        give_all(&mut stores, C1, &[3]);
        assert!(finish(&mut stores, chunk(0, 0, 3)).is_ok());
        assert_eq!(drain(&mut stores), [0, 1, 2, 3]);
    }

    /// Whether it was before input stopped that its encoder said so is chance.
    #[test]
    fn a_chunk_whose_encoder_says_how_far_it_reorders_leaves_at_once() {
        let mut stores = two();
        stores.leave_early(u64::MAX, 17);
        stores.announce(C0, 1);
        give_all(&mut stores, C0, &[0]);
        assert_eq!(drain(&mut stores), [0]);
    }

    proptest! {
        #[test]
        fn any_interleaving_of_sessions_gives_one_order(
            lengths in prop::collection::vec(1u64..12, 1..6),
            overlap in 0u64..4,
            early in any::<bool>(),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 400),
        ) {
            let mut stores = Stores::default();
            let total: u64 = lengths.iter().sum();
            let mut start = 0;
            let mut sessions = Vec::new();
            for (id, length) in lengths.iter().enumerate() {
                let id = ChunkId(id as u64);
                let own = FrameRange::new(start, start + length);
                stores.set_own(id, own);
                let fed = FrameRange::new(start.saturating_sub(overlap), (own.end.0 + overlap).min(total));
                sessions.push((Chunk { id, own, fed }, fed.iter().collect::<VecDeque<_>>()));
                start = own.end.0;
            }
            if early {
                stores.leave_early(u64::MAX, 1);
            }
            let mut out = Vec::new();
            for pick in picks {
                if sessions.is_empty() {
                    break;
                }
                let at = pick.index(sessions.len());
                let (chunk, frames) = &mut sessions[at];
                if let Some(frame) = frames.pop_front() {
                    let edge = frame == chunk.fed.start || frame == chunk.own.start || frame == chunk.own.end;
                    let kind = if edge { Kind::Key } else { Kind::Delta };
                    let accepted = stores.accept(chunk.id, Some(frame), kind, frame.0);
                    prop_assert_eq!(accepted == Ok(Accepted::Held), chunk.own.contains(frame));
                } else {
                    prop_assert!(finish(&mut stores, *chunk).is_ok());
                    sessions.remove(at);
                }
                out.extend(drain(&mut stores));
            }
            prop_assert!(sessions.is_empty());
            prop_assert_eq!(out, (0..total).collect::<Vec<_>>());
        }
    }

    fn first(stores: &mut Stores<u64>, frames: usize) -> Vec<u64> {
        let taken = stores.take_first(C0, frames);
        assert_eq!(taken, !stores.has_sent_first());
        let first = stores.first.drain(..);
        first.map(|left| left.packet.payload).collect()
    }

    #[test]
    fn the_first_frame_leaves_early_and_isnt_sent_again() {
        let mut stores = two();
        assert!(first(&mut stores, 1).is_empty());
        let _ = give(&mut stores, C0, Kind::Key, 0).unwrap();
        assert_eq!(first(&mut stores, 1), [0]);
        let _ = give(&mut stores, C0, Kind::Delta, 1).unwrap();
        assert!(first(&mut stores, 1).is_empty(), "once");
        assert!(drain(&mut stores).is_empty());
        assert!(!stores.has_begun_to_leave(C0), "the rest could be a chunk");
        // Another attempt makes it again.
        assert!(stores.retract(C0));
        give_all(&mut stores, C0, &[0, 2, 1]);
        assert_eq!(finish(&mut stores, chunk(0, 0, 3)), Ok(0));
        assert_eq!(drain(&mut stores), [2, 1]);
    }

    #[test]
    fn what_comes_out_otherwise_than_it_was_sent_is_found() {
        let mut stores = two();
        let _ = give(&mut stores, C0, Kind::Key, 0).unwrap();
        assert_eq!(first(&mut stores, 1), [0]);
        assert!(stores.retract(C0));
        let other = stores.accept(C0, Some(FrameNo(0)), Kind::Key, 7);
        assert_eq!(other, Err(Fault::Differs(FrameNo(0))));
    }

    #[test]
    fn what_leaves_first_has_no_gap() {
        let mut stores = Stores::default();
        stores.set_own(C0, FrameRange::new(0, 9));
        give_all(&mut stores, C0, &[0, 4, 2, 1]);
        assert!(first(&mut stores, 2).is_empty());
        // With 3, all up to 4 are there.
        let _ = give(&mut stores, C0, Kind::Delta, 3).unwrap();
        assert_eq!(first(&mut stores, 2), [0, 4, 2, 1, 3]);
        let _ = give(&mut stores, C0, Kind::Delta, 8).unwrap();
        // What can't be made again is left as it was sent.
        assert!(stores.retract(C0));
        assert_eq!(stores.resume_at(C0), Some(FrameNo(5)));
        stores.resume(C0, FrameNo(5));
        give_all(&mut stores, C0, &[5, 6, 7, 8]);
        let _ = finish(&mut stores, chunk(0, 5, 9)).unwrap();
        assert_eq!(drain(&mut stores), [5, 6, 7, 8]);
    }

    #[test]
    fn the_first_ones_may_come_backwards() {
        const FRAMES: u64 = 1 << 10;
        let mut stores = Stores::default();
        stores.set_own(C0, FrameRange::new(0, u64::MAX));
        let _ = give(&mut stores, C0, Kind::Key, 0).unwrap();
        for frame in (2..FRAMES).rev() {
            let _ = give(&mut stores, C0, Kind::Delta, frame).unwrap();
            assert!(!stores.take_first(C0, 2));
        }
        let _ = give(&mut stores, C0, Kind::Delta, 1).unwrap();
        assert!(stores.take_first(C0, 2));
        assert_eq!(stores.first.len() as u64, FRAMES);
    }
}
