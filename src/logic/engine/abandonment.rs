// SPDX-License-Identifier: MPL-2.0

//! Sessions that hang are abandoned, and others take their places.

use super::sessions::{AttemptPhase, Session, SessionState, Work};
use super::{Engine, Media};
use crate::logic::ids::{AttemptId, SessionId};
use crate::logic::liveness::Sign;
use crate::logic::roster::Slot;

/// What a session was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    Opening,
    Encoding,
    Draining,
    Closing,
    CacheIo,
}

/// A session that was abandoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abandoned {
    /// What its attempt is called from now on: whoever still has the old name comes too late.
    pub attempt: AttemptId,
    pub doing: Doing,
    /// What it made was verified: it delivers that.
    pub is_verified: bool,
    /// A flush, a stop or the end of the stream ends it anyway, or its chunk was delivered before.
    pub is_over: bool,
}

impl<M: Media> Engine<M> {
    /// Nobody waits for the session any more, which hangs in its attempt. `None`: it has come to rest since it was found to hang, or was
    /// abandoned before.
    pub fn abandon(&mut self, id: SessionId) -> Option<Abandoned> {
        let is_aborting = self.is_aborting();
        let session = self.sessions.get_mut(id.0)?;
        if session.is_abandoned() || session.work.is_none() {
            return None;
        }
        session.state = SessionState::Abandoned;
        self.wakes.session(id);
        let attempt = self.name_attempt(id);
        let work = self.sessions[id.0].work.as_mut()?;
        work.attempt = attempt;
        let was_delivered = work.phase == AttemptPhase::CacheIo && work.drains;
        Some(Abandoned {
            attempt,
            doing: work.doing(),
            is_verified: matches!(work.phase, AttemptPhase::Closing(..)),
            is_over: is_aborting || was_delivered || work.phase == AttemptPhase::Done,
        })
    }

    /// Nobody waits for the session any more, which hangs with an encoder that it has ahead of its first chunk.
    pub fn abandon_placed(&mut self, id: SessionId) {
        if let Some(abandoned) = self.abandon(id) {
            self.rest(abandoned.attempt);
        } else if let Some(session) = self.sessions.get_mut(id.0)
            && !session.is_abandoned()
        {
            session.state = SessionState::Abandoned;
            session.waits_for_chunk = false;
            self.wakes.session(id);
        }
    }

    /// Abandoned sessions that are still part of the element.
    pub fn abandoned(&self) -> Vec<SessionId> {
        let sessions = self.sessions.iter().enumerate();
        let abandoned = sessions.filter(|(_, it)| it.state == SessionState::Abandoned);
        abandoned.map(|(id, _)| SessionId(id)).collect()
    }

    /// The session was taken out of the element.
    pub fn unlinked(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id.0) {
            session.state = SessionState::Unlinked;
        }
    }

    pub fn is_abandoned(&self, id: SessionId) -> bool {
        self.sessions.get(id.0).is_none_or(Session::is_abandoned)
    }

    /// Another session takes the place of one that was abandoned. `None`: not now, as a flush or a stop makes places anew.
    pub fn replace(&mut self, id: SessionId) -> Option<SessionId> {
        if self.is_stopped || self.is_flushing {
            return None;
        }
        let roster = &mut self.stream.roster;
        let next = roster.replace(id);
        let state = match roster.seats[next.0].slot {
            Slot::Closed => SessionState::Closed,
            _ => SessionState::Open,
        };
        Some(self.push_session(state))
    }

    /// A tick passed. Returns the sessions that are to be abandoned: those at work that showed no sign of life for `stall` ticks, if
    /// that isn't for ever, or all of them `stop` ticks after a stop. `excused`: waits for somebody else, outside.
    pub fn tick(
        &mut self,
        stall: Option<u32>,
        stop: u32,
        excused: impl Fn(SessionId) -> bool,
    ) -> Vec<SessionId> {
        self.stop_ticks = if self.is_stopped {
            self.stop_ticks + 1
        } else {
            0
        };
        let mut hung = Vec::new();
        for (id, session) in self.sessions.iter_mut().enumerate() {
            let id = SessionId(id);
            let is_abandoned = session.is_abandoned();
            let Some(work) = session.work.as_mut().filter(|_| !is_abandoned) else {
                continue;
            };
            let hangs = if self.is_stopped {
                self.stop_ticks >= stop
            } else {
                let sign = work.sign().filter(|_| !excused(id));
                work.liveness.tick(sign, stall.unwrap_or(u32::MAX))
            };
            if hangs {
                hung.push(id);
            }
        }
        hung
    }
}

impl Work {
    fn doing(&self) -> Doing {
        match self.phase {
            AttemptPhase::CacheIo => Doing::CacheIo,
            AttemptPhase::Closing(..) | AttemptPhase::Done => Doing::Closing,
            AttemptPhase::Encoding if self.drains => Doing::Draining,
            AttemptPhase::Encoding if self.position == self.first => Doing::Opening,
            AttemptPhase::Encoding => Doing::Encoding,
        }
    }

    pub(super) fn waits_for_frame(&self) -> bool {
        self.waits_for_frame && self.phase == AttemptPhase::Encoding
    }

    /// How far it has come, unless it is over or waits for somebody else.
    fn sign(&self) -> Option<Sign> {
        if self.phase == AttemptPhase::Done || self.waits_for_frame() {
            return None;
        }
        Some(Sign {
            position: self.position,
            packets: self.packets,
            ended: self.has_eos,
            verified: matches!(self.phase, AttemptPhase::Closing(..)),
        })
    }
}
