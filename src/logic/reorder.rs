// SPDX-License-Identifier: MPL-2.0

//! Packets in as the sessions make them, out as one encoder would have made them.
//!
//! Each chunk has a store. A packet is held there, trimmed (it belongs to the overlap), or shows that
//! the encoder did not do what was asked of it. A chunk's packets leave once every own frame is
//! accounted for, all chunks before it have left, and nothing else is needed.
//!
//! That a chunk stands alone is read off the order of its packets, which an encoder cannot fake:
//! decoding order puts a picture after those it refers to. So a lead packet after the first own one, or an
//! own packet after the first trail one, refers across the edge (open GOP).

use super::frame::{Chunk, ChunkId, FrameNo, FrameRange};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

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
pub enum Accepted<P> {
    /// It is held in the chunk's store.
    Held,
    /// It was of the overlap and is gone.
    Trimmed,
    /// It has left already, ahead of an attempt before this one: as number `index` of those that did. It has to be the same.
    Again { index: usize, payload: P },
}

/// The encoder did not deliver what the chunk needs; the attempt has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    UnknownTime,
    UnknownChunk(ChunkId),
    Twice(FrameNo),
    Missing {
        first: FrameNo,
        count: u64,
    },
    StartNotKey(FrameNo),
    StartMissing(FrameNo),
    LeadAfterOwn(FrameNo),
    OwnAfterTrail(FrameNo),
    Differs(FrameNo),
    /// By this alignment, each packet is a part of a frame.
    Parts {
        alignment: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::UnknownTime => {
                write!(f, "a packet has a timestamp that no input frame had")
            }
            Fault::UnknownChunk(chunk) => write!(f, "a packet of chunk {chunk} came unasked"),
            Fault::Twice(frame) => write!(f, "frame {frame} was delivered twice"),
            Fault::Missing { first, count } => {
                write!(
                    f,
                    "{count} frames were not delivered, the first is {first}; if the encoder loses frames at \
                     its end, set overlap-after to more than that"
                )
            }
            Fault::StartNotKey(frame) => write!(
                f,
                "the chunk begins with frame {frame}, which is not marked as a key frame; the encoder can't be used in chunks, set \
                 allow-parallel=false"
            ),
            Fault::StartMissing(frame) => write!(
                f,
                "the chunk begins with frame {frame}, which is not its first frame"
            ),
            Fault::LeadAfterOwn(frame) | Fault::OwnAfterTrail(frame) => write!(
                f,
                "frame {frame} refers across a forced key frame; set the encoder to closed GOPs"
            ),
            Fault::Differs(frame) => write!(
                f,
                "frame {frame}, which has left, came out otherwise at another attempt: the encoder isn't deterministic"
            ),
            Fault::Parts { alignment } => write!(
                f,
                "the encoder's packets are parts of frames (its caps say alignment={alignment}), which can't be used in chunks; have \
                 it make whole ones (alignment=au, for AV1 alignment=tu), or set allow-parallel=false"
            ),
        }
    }
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

/// How the frames of a verified chunk were accounted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    pub frames: u64,
    /// Frames that the encoder said it left out.
    pub skipped: u64,
}

/// What leaves next.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Pop<P> {
    /// Send this packet. `frame` is `None` for stream headers. `ahead`: before its chunk is whole, so remember it: another attempt
    /// has to make it again.
    Packet {
        chunk: ChunkId,
        frame: Option<FrameNo>,
        payload: P,
        ahead: bool,
    },
    /// The last packet of this chunk was handed out before. `end`: the first frame of what comes after it.
    ChunkLeft { chunk: ChunkId, end: FrameNo },
    /// Wait for a chunk to be finished.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Lead,
    Own,
    Trail,
}

/// Frames of a chunk, of which most come to be in it: a bit for each.
#[derive(Debug, Default)]
struct FrameSet {
    /// By the number of the first frame in them, divided by the bits that they have.
    blocks: BTreeMap<u64, u64>,
    len: u64,
}

impl FrameSet {
    fn place(frame: FrameNo) -> (u64, u64) {
        let bits = u64::from(u64::BITS);
        (frame.0 / bits, 1 << (frame.0 % bits))
    }

    fn contains(&self, frame: FrameNo) -> bool {
        let (block, bit) = Self::place(frame);
        self.blocks.get(&block).is_some_and(|bits| bits & bit != 0)
    }

    /// `false`: it was there already.
    fn insert(&mut self, frame: FrameNo) -> bool {
        let (block, bit) = Self::place(frame);
        let bits = self.blocks.entry(block).or_default();
        let is_new = *bits & bit == 0;
        *bits |= bit;
        self.len += u64::from(is_new);
        is_new
    }
}

#[derive(Debug)]
struct Store<P> {
    own: FrameRange,
    phase: Phase,
    /// In decoding order.
    packets: VecDeque<(Option<FrameNo>, P)>,
    delivered: FrameSet,
    skipped: BTreeSet<FrameNo>,
    /// All own frames are accounted for.
    verified: bool,
    /// Packets leave as they come.
    leaves: bool,
    /// Packets that left before the chunk was whole.
    ahead: usize,
    /// The first frame that didn't, where all before it did and the rest could be a chunk of its own.
    after_ahead: Option<FrameNo>,
    /// So many packets of this attempt have left ahead of it.
    again: usize,
}

impl<P> Store<P> {
    fn new(own: FrameRange) -> Self {
        Self {
            own,
            phase: Phase::Lead,
            packets: VecDeque::new(),
            delivered: FrameSet::default(),
            skipped: BTreeSet::new(),
            verified: false,
            leaves: false,
            ahead: 0,
            after_ahead: None,
            again: 0,
        }
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

    /// A visible picture of `frame` comes next in decoding order. A chunk that isn't cut from others (`joined`) stands alone
    /// whatever it begins with.
    fn advance(&mut self, frame: FrameNo, kind: Kind, joined: bool) -> Result<Phase, Fault> {
        let phase = self.phase_of(frame);
        if phase < self.phase {
            return Err(match phase {
                Phase::Lead => Fault::LeadAfterOwn(frame),
                _ => Fault::OwnAfterTrail(frame),
            });
        }
        if phase > self.phase {
            if phase == Phase::Own && !joined {
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

    /// Of how many packets in decoding order the frames are the first ones that are shown, without a gap, and at least `least`.
    fn packets_of_first(&self, least: usize) -> Option<usize> {
        let skipped =
            |frame: &FrameNo| self.skipped.contains(frame) && !self.delivered.contains(*frame);
        // (An invisible one has the frame of the next.)
        let mut frames = BTreeSet::new();
        for (index, (frame, _)) in self.packets.iter().enumerate() {
            frames.extend(*frame);
            let Some(last) = frames.last().filter(|_| frames.len() >= least) else {
                continue;
            };
            let shown = FrameRange::new(self.own.start.0, last.0 + 1);
            if shown
                .iter()
                .all(|frame| frames.contains(&frame) || skipped(&frame))
            {
                return Some(index + 1);
            }
        }
        None
    }

    /// No own frame before `frame` can still come: it is the first, or those before it were skipped.
    fn opens_with(&self, frame: FrameNo) -> bool {
        FrameRange::new(self.own.start.0, frame.0)
            .iter()
            .all(|earlier| self.skipped.contains(&earlier))
    }
}

/// Holds what the sessions deliver until it may leave.
#[derive(Debug)]
pub struct Reorder<P> {
    /// Chunks that opened and haven't left, each with its store.
    chunks: BTreeMap<ChunkId, Store<P>>,
    /// The chunk whose packets leave next.
    next: ChunkId,
    /// Chunks aren't cut from each other any more.
    joined: bool,
    /// Packets leave before their chunk is whole.
    early: Option<Early>,
}

/// How packets leave that don't wait for their chunk to be whole.
#[derive(Debug, Clone, Copy)]
struct Early {
    /// The first of a chunk leave when so many of it are there; the others as they come.
    packets: usize,
    /// The first chunk that is whole again before it leaves.
    end: ChunkId,
}

impl<P> Default for Reorder<P> {
    fn default() -> Self {
        Self {
            chunks: BTreeMap::new(),
            next: ChunkId(0),
            joined: false,
            early: None,
        }
    }
}

impl<P> Reorder<P> {
    /// A chunk begins at `start`; where it ends isn't known yet.
    pub fn open(&mut self, chunk: ChunkId, start: FrameNo) {
        let own = FrameRange::new(start.0, u64::MAX);
        self.chunks.insert(chunk, Store::new(own));
    }

    /// The chunk's own frames are known. Comes before any frame of its trail is fed.
    pub fn close(&mut self, chunk: ChunkId, own: FrameRange) {
        if let Some(store) = self.chunks.get_mut(&chunk) {
            store.own = own;
        }
    }

    /// An attempt failed: forgets what it delivered, so that another can deliver it anew. What has left is compared. `false` if
    /// all of it was verified, or leaves for good because it isn't cut from anything.
    pub fn retract(&mut self, chunk: ChunkId) -> bool {
        let gone_for_good = self.joined;
        let store = self.chunks.get_mut(&chunk);
        let lasts = |store: &&mut Store<P>| store.verified || gone_for_good && store.leaves;
        let Some(store) = store.filter(|store| !lasts(store)) else {
            return false;
        };
        *store = Store {
            leaves: store.leaves,
            ahead: store.ahead,
            after_ahead: store.after_ahead,
            again: store.ahead,
            ..Store::new(store.own)
        };
        true
    }

    /// Some of the chunk has left, and the rest of it couldn't begin after that.
    pub fn has_begun_to_leave(&self, chunk: ChunkId) -> bool {
        let store = self.chunks.get(&chunk);
        store.is_some_and(|store| store.ahead > 0 && store.after_ahead.is_none())
    }

    /// What left ahead of the chunk can't be made again: the rest of it begins after that frame. Returns where.
    pub fn begin_after_ahead(&mut self, chunk: ChunkId) -> Option<FrameNo> {
        let store = self.chunks.get_mut(&chunk)?;
        let start = store.after_ahead?;
        *store = Store::new(FrameRange::new(start.0, store.own.end.0));
        Some(start)
    }

    /// The first packets of the chunk that is next, before it is whole: those of at least `frames` frames, and of no frame that
    /// is shown after one which isn't among them. `None` if they aren't there yet.
    pub fn take_first(
        &mut self,
        chunk: ChunkId,
        frames: usize,
    ) -> Option<Vec<(Option<FrameNo>, P)>> {
        let store = self.chunks.get_mut(&chunk).filter(|_| chunk == self.next)?;
        if store.verified || store.leaves || store.ahead > 0 {
            return None;
        }
        let packets = store.packets_of_first(frames)?;
        let first: Vec<_> = store.packets.drain(..packets).collect();
        store.ahead = packets;
        let last = first.iter().filter_map(|(frame, _)| *frame).max();
        store.after_ahead = last.map(|last| FrameNo(last.0 + 1));
        Some(first)
    }

    /// Some packet has left.
    pub fn has_left(&self) -> bool {
        self.next > ChunkId(0)
            || self
                .chunks
                .get(&self.next)
                .is_some_and(|store| store.leaves || store.ahead > 0)
    }

    /// So many packets of a chunk that has no end wait to leave that no more should come.
    pub fn is_crowded(&self) -> bool {
        const CROWD: usize = 64;
        let next = self.chunks.get(&self.next);
        self.joined && next.is_some_and(|store| store.packets.len() > CROWD)
    }

    /// All chunks become this one, which isn't cut from others: its packets leave as they come, as soon as `packets` of them
    /// are there.
    pub fn join(&mut self, chunk: ChunkId, own: FrameRange, packets: usize) {
        self.chunks.clear();
        self.joined = true;
        self.chunks.insert(chunk, Store::new(own));
        self.leave_early(packets, u64::MAX);
    }

    /// A visible picture of `frame` would be the first of the chunk's own ones.
    pub fn is_first(&self, chunk: ChunkId, frame: FrameNo) -> bool {
        let store = self.chunks.get(&chunk);
        store.is_some_and(|store| store.phase == Phase::Lead && store.phase_of(frame) == Phase::Own)
    }

    /// A packet of an attempt at `chunk`; `frame` is the frame that its timestamp stands for.
    pub fn accept(
        &mut self,
        chunk: ChunkId,
        frame: Option<FrameNo>,
        kind: Kind,
        payload: P,
    ) -> Result<Accepted<P>, Fault> {
        let store = self
            .chunks
            .get_mut(&chunk)
            .filter(|store| !store.verified)
            .ok_or(Fault::UnknownChunk(chunk))?;
        let kept = match (kind, frame) {
            (Kind::Header, _) => store.phase != Phase::Trail,
            (_, None) => return Err(Fault::UnknownTime),
            (Kind::Invisible, Some(frame)) => store.phase_of(frame) == Phase::Own,
            (Kind::Key | Kind::Delta, Some(frame)) => {
                let phase = store.advance(frame, kind, self.joined)?;
                if phase == Phase::Own && !store.delivered.insert(frame) {
                    return Err(Fault::Twice(frame));
                }
                phase == Phase::Own
            }
        };
        if !kept {
            return Ok(Accepted::Trimmed);
        }
        if store.again > 0 {
            let index = store.ahead - store.again;
            store.again -= 1;
            return Ok(Accepted::Again { index, payload });
        }
        store.packets.push_back((frame, payload));
        Ok(Accepted::Held)
    }

    /// All own frames are there and the trail has begun: whatever still comes is not of the chunk.
    pub fn is_whole(&self, chunk: ChunkId) -> bool {
        self.chunks.get(&chunk).is_some_and(|store| {
            store.phase == Phase::Trail && store.delivered.len == store.own.len()
        })
    }

    /// The encoder said that it leaves this frame out.
    pub fn skip(&mut self, chunk: ChunkId, frame: FrameNo) {
        if let Some(store) = self.chunks.get_mut(&chunk) {
            store.skipped.insert(frame);
        }
    }

    /// The session has delivered all it has: is it all that the chunk owns?
    pub fn verify(&self, chunk: Chunk) -> Result<Delivered, Fault> {
        let store = self
            .chunks
            .get(&chunk.id)
            .ok_or(Fault::UnknownChunk(chunk.id))?;
        let skipped =
            |frame: &FrameNo| store.skipped.contains(frame) && !store.delivered.contains(*frame);
        let mut missing = chunk
            .own
            .iter()
            .filter(|frame| !store.delivered.contains(*frame) && !skipped(frame));
        if let Some(first) = missing.next().filter(|_| !self.joined) {
            return Err(Fault::Missing {
                first,
                count: 1 + missing.count() as u64,
            });
        }
        let skipped = match self.joined {
            // What a plain encoder leaves out, nobody misses.
            true => chunk.own.len().saturating_sub(store.delivered.len),
            false => chunk.own.iter().filter(skipped).count() as u64,
        };
        Ok(Delivered {
            frames: store.delivered.len,
            skipped,
        })
    }

    /// The chunk was verified: its packets may leave.
    pub fn finish(&mut self, chunk: ChunkId) {
        if let Some(store) = self.chunks.get_mut(&chunk) {
            store.verified = true;
        }
    }

    /// Packets of the chunk that is next, and of `chunks` chunks in all, leave as soon as they come; the first of a chunk when
    /// `packets` of it are there, which is at least 1.
    pub fn leave_early(&mut self, packets: usize, chunks: u64) {
        let end = ChunkId(self.next.0.saturating_add(chunks));
        self.early = Some(Early { packets, end });
    }

    /// Where packets leave early, the first of a chunk do, too.
    pub fn leave_at_once(&mut self) {
        if let Some(early) = &mut self.early {
            early.packets = 1;
        }
    }

    pub fn leaves_early(&self) -> bool {
        self.early.is_some()
    }

    /// The first frame that is still to leave, if a chunk is under way.
    pub fn oldest_held(&self) -> Option<FrameNo> {
        self.chunks
            .first_key_value()
            .map(|(_, store)| store.own.start)
    }

    /// The packets of `chunk` that wait to leave, in decoding order.
    pub fn held(&self, chunk: ChunkId) -> impl Iterator<Item = (Option<FrameNo>, &P)> {
        self.chunks
            .get(&chunk)
            .into_iter()
            .flat_map(|store| store.packets.iter().map(|(frame, packet)| (*frame, packet)))
    }

    /// Takes what leaves next.
    pub fn pop(&mut self) -> Pop<P> {
        let chunk = self.next;
        let early = self.early;
        let Some(store) = self.chunks.get_mut(&chunk) else {
            return Pop::Nothing;
        };
        let enough = |early: Early| store.leaves || store.packets.len() >= early.packets;
        let leaves = store.verified || early.is_some_and(enough);
        if !leaves {
            return Pop::Nothing;
        }
        if let Some((frame, payload)) = store.packets.pop_front() {
            let ahead = !store.verified && !self.joined;
            if ahead {
                store.ahead += 1;
                // In the middle of what refers to each other nothing begins.
                store.after_ahead = None;
            }
            store.leaves = true;
            return Pop::Packet {
                chunk,
                frame,
                payload,
                ahead,
            };
        }
        if !store.verified {
            return Pop::Nothing;
        }
        let end = store.own.end;
        self.chunks.remove(&chunk);
        self.next = chunk.next();
        self.early = early.filter(|early| self.next < early.end);
        Pop::ChunkLeft { chunk, end }
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

    #[test]
    fn a_set_of_frames_has_each_once() {
        let mut set = FrameSet::default();
        let frames = [64, 0, 63, 1_000_000, 65];
        for frame in frames {
            assert!(!set.contains(FrameNo(frame)));
            assert!(set.insert(FrameNo(frame)));
            assert!(!set.insert(FrameNo(frame)));
            assert!(set.contains(FrameNo(frame)));
        }
        assert!(!set.contains(FrameNo(66)));
        assert_eq!(set.len, frames.len() as u64);
    }

    /// Chunks 0 (frames 0..3) and 1 (frames 3..6).
    fn two() -> Reorder<u64> {
        let mut reorder = Reorder::default();
        reorder.open(C0, FrameNo(0));
        reorder.close(C0, FrameRange::new(0, 3));
        reorder.open(C1, FrameNo(3));
        reorder.close(C1, FrameRange::new(3, 6));
        reorder
    }

    fn give(
        reorder: &mut Reorder<u64>,
        chunk: ChunkId,
        kind: Kind,
        frame: u64,
    ) -> Result<Accepted<u64>, Fault> {
        reorder.accept(chunk, Some(FrameNo(frame)), kind, frame)
    }

    /// One key frame, then the others; panics on a fault.
    fn give_all(reorder: &mut Reorder<u64>, chunk: ChunkId, frames: &[u64]) {
        for (index, &frame) in frames.iter().enumerate() {
            let kind = if index == 0 { Kind::Key } else { Kind::Delta };
            let _ = give(reorder, chunk, kind, frame).unwrap();
        }
    }

    /// What a session does at its end.
    fn finish(reorder: &mut Reorder<u64>, chunk: Chunk) -> Result<Delivered, Fault> {
        let delivered = reorder.verify(chunk)?;
        reorder.finish(chunk.id);
        Ok(delivered)
    }

    fn drain(reorder: &mut Reorder<u64>) -> Vec<u64> {
        let mut out = Vec::new();
        loop {
            match reorder.pop() {
                Pop::Packet { payload, .. } => out.push(payload),
                Pop::ChunkLeft { .. } => (),
                Pop::Nothing => break out,
            }
        }
    }

    #[test]
    fn a_later_chunk_waits_for_the_earlier_one() {
        let mut reorder = two();
        give_all(&mut reorder, C1, &[3, 5, 4]);
        assert!(finish(&mut reorder, chunk(1, 3, 6)).is_ok());
        assert_eq!(reorder.pop(), Pop::Nothing);
        give_all(&mut reorder, C0, &[0, 2, 1]);
        assert_eq!(reorder.pop(), Pop::Nothing, "not verified yet");
        assert!(finish(&mut reorder, chunk(0, 0, 3)).is_ok());
        assert_eq!(drain(&mut reorder), [0, 2, 1, 3, 5, 4]);
        assert!(reorder.is_empty());
    }

    #[test]
    fn the_overlap_is_trimmed() {
        let mut reorder = two();
        for (frame, kind) in [(1, Kind::Key), (2, Kind::Delta)] {
            assert_eq!(give(&mut reorder, C1, kind, frame), Ok(Accepted::Trimmed));
        }
        give_all(&mut reorder, C1, &[3, 4, 5]);
        assert_eq!(give(&mut reorder, C1, Kind::Key, 6), Ok(Accepted::Trimmed));
        let delivered = finish(&mut reorder, chunk(1, 3, 6)).unwrap();
        assert_eq!(delivered.frames, 3);
    }

    #[test]
    fn pictures_that_refer_across_an_edge_are_found() {
        let mut reorder = two();
        let _ = give(&mut reorder, C1, Kind::Key, 0);
        let _ = give(&mut reorder, C1, Kind::Key, 3);
        assert_eq!(
            give(&mut reorder, C1, Kind::Delta, 2),
            Err(Fault::LeadAfterOwn(FrameNo(2)))
        );
        let _ = give(&mut reorder, C0, Kind::Key, 0);
        let _ = give(&mut reorder, C0, Kind::Key, 3);
        assert_eq!(
            give(&mut reorder, C0, Kind::Delta, 2),
            Err(Fault::OwnAfterTrail(FrameNo(2)))
        );
    }

    #[test]
    fn an_ignored_forced_key_frame_is_found() {
        let mut reorder = two();
        let _ = give(&mut reorder, C1, Kind::Key, 2);
        assert_eq!(
            give(&mut reorder, C1, Kind::Delta, 3),
            Err(Fault::StartNotKey(FrameNo(3)))
        );
        // After the own frames it doesn't matter: none of them can refer to what comes after all of them.
        give_all(&mut reorder, C0, &[0, 1, 2]);
        assert_eq!(
            give(&mut reorder, C0, Kind::Delta, 3),
            Ok(Accepted::Trimmed)
        );
    }

    #[test]
    fn a_whole_stream_needs_no_key_frame_and_leaves_as_it_comes() {
        let mut reorder = two();
        reorder.join(C0, FrameRange::new(0, u64::MAX), 2);
        let _ = give(&mut reorder, C0, Kind::Delta, 0);
        assert!(matches!(reorder.pop(), Pop::Nothing));
        let _ = give(&mut reorder, C0, Kind::Delta, 2);
        assert!(matches!(
            reorder.pop(),
            Pop::Packet {
                frame: Some(FrameNo(0)),
                ..
            }
        ));
        reorder.close(C0, FrameRange::new(0, 4));
        let whole = Chunk {
            id: C0,
            own: FrameRange::new(0, 4),
            fed: FrameRange::new(0, 4),
        };
        let delivered = reorder.verify(whole).unwrap();
        assert_eq!((delivered.frames, delivered.skipped), (2, 2));
    }

    #[test]
    fn a_key_frame_that_isnt_the_first_frame_is_found() {
        let mut reorder = two();
        assert_eq!(
            give(&mut reorder, C0, Kind::Key, 1),
            Err(Fault::StartMissing(FrameNo(1)))
        );
    }

    #[test]
    fn lost_and_doubled_frames_are_found() {
        let mut reorder = two();
        give_all(&mut reorder, C0, &[0, 1]);
        assert_eq!(
            give(&mut reorder, C0, Kind::Delta, 1),
            Err(Fault::Twice(FrameNo(1)))
        );
        assert_eq!(
            finish(&mut reorder, chunk(0, 0, 3)),
            Err(Fault::Missing {
                first: FrameNo(2),
                count: 1
            })
        );
    }

    #[test]
    fn a_frame_that_the_encoder_says_it_skipped_is_accounted_for() {
        let mut reorder = two();
        reorder.skip(C0, FrameNo(0));
        give_all(&mut reorder, C0, &[1, 2]);
        assert_eq!(
            finish(&mut reorder, chunk(0, 0, 3)),
            Ok(Delivered {
                frames: 2,
                skipped: 1
            })
        );
    }

    #[test]
    fn headers_and_invisible_pictures_keep_their_place() {
        let mut reorder = two();
        assert_eq!(
            reorder.accept(C0, None, Kind::Header, 100),
            Ok(Accepted::Held)
        );
        let _ = give(&mut reorder, C0, Kind::Key, 0);
        let _ = reorder.accept(C0, Some(FrameNo(1)), Kind::Invisible, 101);
        let _ = give(&mut reorder, C0, Kind::Delta, 1);
        let _ = give(&mut reorder, C0, Kind::Delta, 2);
        assert!(finish(&mut reorder, chunk(0, 0, 3)).is_ok());
        assert_eq!(drain(&mut reorder), [100, 0, 101, 1, 2]);
        assert_eq!(
            reorder.accept(C1, None, Kind::Key, 0),
            Err(Fault::UnknownTime)
        );
    }

    #[test]
    fn a_second_attempt_starts_from_nothing() {
        let mut reorder = two();
        give_all(&mut reorder, C0, &[0, 1]);
        assert!(reorder.retract(C0));
        give_all(&mut reorder, C0, &[0, 1, 2]);
        assert!(finish(&mut reorder, chunk(0, 0, 3)).is_ok());
        assert_eq!(drain(&mut reorder), [0, 1, 2]);
    }

    #[test]
    fn what_left_early_comes_again_and_doesnt_leave_again() {
        let mut reorder = two();
        give_all(&mut reorder, C0, &[0, 2]);
        reorder.leave_early(1, 1);
        assert_eq!(drain(&mut reorder), [0, 2]);
        assert!(reorder.retract(C0));
        assert_eq!(reorder.begin_after_ahead(C0), None, "frame 1 is missing");
        for (index, frame) in [0, 2].into_iter().enumerate() {
            let kind = if index == 0 { Kind::Key } else { Kind::Delta };
            let again = give(&mut reorder, C0, kind, frame);
            assert!(matches!(again, Ok(Accepted::Again { index: at, .. }) if at == index));
        }
        let _ = give(&mut reorder, C0, Kind::Delta, 1);
        assert!(finish(&mut reorder, chunk(0, 0, 3)).is_ok());
        assert_eq!(drain(&mut reorder), [1]);
        assert_eq!(reorder.next, C1);
    }

    #[test]
    fn a_chunk_begins_to_leave_early_when_enough_of_it_is_there() {
        let mut reorder = two();
        reorder.leave_early(2, 1);
        give_all(&mut reorder, C0, &[0]);
        assert_eq!(drain(&mut reorder), [] as [u64; 0]);
        let _ = give(&mut reorder, C0, Kind::Delta, 2).unwrap();
        assert_eq!(drain(&mut reorder), [0, 2]);
        let _ = give(&mut reorder, C0, Kind::Delta, 1).unwrap();
        assert_eq!(drain(&mut reorder), [1]);
    }

    #[test]
    fn after_so_many_chunks_they_are_whole_again() {
        let mut reorder = two();
        reorder.leave_early(3, 1);
        let _ = give(&mut reorder, C0, Kind::Key, 0).unwrap();
        assert_eq!(drain(&mut reorder), [] as [u64; 0]);
        reorder.leave_at_once();
        assert_eq!(drain(&mut reorder), [0]);
        for frame in [1, 2] {
            let _ = give(&mut reorder, C0, Kind::Delta, frame).unwrap();
        }
        assert!(finish(&mut reorder, chunk(0, 0, 3)).is_ok());
        assert_eq!(drain(&mut reorder), [1, 2]);
        assert!(!reorder.leaves_early());
        give_all(&mut reorder, C1, &[3, 4]);
        reorder.leave_at_once();
        assert_eq!(drain(&mut reorder), [] as [u64; 0]);
        reorder.leave_early(1, u64::MAX);
        assert_eq!(drain(&mut reorder), [3, 4]);
    }

    proptest! {
        #[test]
        fn any_interleaving_of_sessions_gives_one_order(
            lengths in prop::collection::vec(1u64..12, 1..6),
            overlap in 0u64..4,
            early in any::<bool>(),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 400),
        ) {
            let mut reorder = Reorder::default();
            let total: u64 = lengths.iter().sum();
            let mut start = 0;
            let mut sessions = Vec::new();
            for (id, length) in lengths.iter().enumerate() {
                let id = ChunkId(id as u64);
                let own = FrameRange::new(start, start + length);
                reorder.open(id, own.start);
                reorder.close(id, own);
                let fed = FrameRange::new(start.saturating_sub(overlap), (own.end.0 + overlap).min(total));
                sessions.push((Chunk { id, own, fed }, fed.iter().collect::<VecDeque<_>>()));
                start = own.end.0;
            }
            if early {
                reorder.leave_early(1, 3);
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
                    let accepted = reorder.accept(chunk.id, Some(frame), kind, frame.0);
                    prop_assert_eq!(accepted == Ok(Accepted::Held), chunk.own.contains(frame));
                } else {
                    prop_assert!(finish(&mut reorder, *chunk).is_ok());
                    sessions.remove(at);
                }
                out.extend(drain(&mut reorder));
            }
            prop_assert!(sessions.is_empty());
            prop_assert_eq!(out, (0..total).collect::<Vec<_>>());
        }
    }

    fn first(reorder: &mut Reorder<u64>, frames: usize) -> Option<Vec<u64>> {
        let first = reorder.take_first(C0, frames)?;
        Some(first.into_iter().map(|(_, payload)| payload).collect())
    }

    #[test]
    fn the_first_frame_leaves_ahead_and_isnt_sent_again() {
        let mut reorder = two();
        assert_eq!(first(&mut reorder, 1), None);
        let _ = give(&mut reorder, C0, Kind::Key, 0).unwrap();
        let _ = give(&mut reorder, C0, Kind::Delta, 1).unwrap();
        assert_eq!(first(&mut reorder, 1), Some(vec![0]));
        assert_eq!(first(&mut reorder, 1), None);
        assert!(drain(&mut reorder).is_empty());
        assert!(reorder.has_left());
        // Another attempt makes it again.
        assert!(reorder.retract(C0));
        let again = give(&mut reorder, C0, Kind::Key, 0).unwrap();
        assert_eq!(
            again,
            Accepted::Again {
                index: 0,
                payload: 0
            }
        );
        let _ = give(&mut reorder, C0, Kind::Delta, 2).unwrap();
        let _ = give(&mut reorder, C0, Kind::Delta, 1).unwrap();
        assert_eq!(finish(&mut reorder, chunk(0, 0, 3)).unwrap().frames, 3);
        assert_eq!(drain(&mut reorder), [2, 1]);
    }

    #[test]
    fn what_leaves_ahead_has_no_gap() {
        let mut reorder = Reorder::default();
        reorder.open(C0, FrameNo(0));
        reorder.close(C0, FrameRange::new(0, 9));
        give_all(&mut reorder, C0, &[0, 4, 2, 1]);
        assert_eq!(first(&mut reorder, 2), None);
        // With 3, all up to 4 are there.
        let _ = give(&mut reorder, C0, Kind::Delta, 3).unwrap();
        let _ = give(&mut reorder, C0, Kind::Delta, 8).unwrap();
        assert_eq!(first(&mut reorder, 2), Some(vec![0, 4, 2, 1, 3]));
        // What can't be made again is left as it left.
        assert!(reorder.retract(C0));
        assert_eq!(reorder.begin_after_ahead(C0), Some(FrameNo(5)));
        give_all(&mut reorder, C0, &[5, 6, 7, 8]);
        let _ = finish(&mut reorder, chunk(0, 5, 9)).unwrap();
        assert_eq!(drain(&mut reorder), [5, 6, 7, 8]);
    }
}
