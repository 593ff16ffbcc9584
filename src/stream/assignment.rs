// SPDX-License-Identifier: MPL-2.0

//! A session's attempt, as the session sees it: the engine's calls for one `AttemptId`, and the waits between them.

use super::shared::{Locked, Shared};
use super::video::{Context, Frame, Video};
use crate::cache::Recording;
use crate::logic::engine::{self, Freed, Next, Why};
use crate::logic::ids::{AttemptId, FrameNo};
use crate::panics::may_panic;
use crate::session::failure::Failure;
use crate::session::replay::Content;
use crate::session::{Assignment, Session};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Instant;

pub(super) struct Assigned {
    pub(super) shared: Arc<Shared>,
    pub(super) session: Arc<Session>,
    pub(super) intake: Arc<Mutex<super::output::intake::Intake>>,
    pub(super) attempt: AttemptId,
    pub(super) own_from: u64,
    pub(super) context: Arc<Context>,
    pub(super) since: Instant,
}

impl Assigned {
    /// What comes of the session from now on is of this attempt.
    pub(super) fn begin(&self) {
        let mut intake = self.intake.lock();
        intake.begin(self.attempt, self.own_from, self.context.clone());
    }

    /// How long the attempt has taken, in nanoseconds.
    pub(super) fn busy(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// What the engine's word for it comes to.
    pub(super) fn failure_of(&self, why: Why) -> Failure {
        match why {
            Why::Aborted | Why::Halted => Failure::Aborted,
            Why::Replanned => Failure::Replanned,
            Why::Fault(fault) => Failure::Fault(fault),
            Why::EncoderFailed => {
                let posted = self.shared.posted(&self.session, Some(&self.context.caps));
                posted.unwrap_or(Failure::Aborted)
            }
        }
    }

    /// Waits until `ready` gives something. Woken by a frame, the end of the chunk, the encoder's EOS or error, another plan, a flush, a
    /// stop, the end of the stream, and when the session is abandoned.
    fn wait<R>(
        &self,
        mut ready: impl FnMut(&mut Locked<'_>) -> Result<Option<R>, Why>,
    ) -> Result<R, Failure> {
        let mut engine = self.shared.lock();
        loop {
            match ready(&mut engine) {
                Ok(Some(ready)) => return Ok(ready),
                Ok(None) => engine.wait(&self.session.wake),
                Err(why) => {
                    drop(engine);
                    return Err(self.failure_of(why));
                }
            }
        }
    }

    /// The attempt is whole: drops what that frees, and warns of sessions that could not open an encoder.
    pub(super) fn finish(&self, freed: Freed<Video>) {
        self.shared.warn_of_closed_sessions();
        self.shared.drop_freed(freed);
    }
}

impl Assignment for Assigned {
    fn next(&self, position: FrameNo) -> Result<Option<(Frame, bool)>, Failure> {
        self.wait(|engine| {
            may_panic!("feeding a frame, locked");
            match engine.next(self.attempt, position) {
                Next::Wait => Ok(None),
                Next::Stop(why) => Err(why),
                Next::Feed { frame, force_key } => Ok(Some(Some((frame, force_key)))),
                Next::Drain => Ok(Some(None)),
            }
        })
    }

    fn content(&self) -> Result<Option<Content>, Failure> {
        self.wait(|engine| match engine.content(self.attempt) {
            engine::Content::All { chunk, frames: fed } => Ok(Some(Some(Content { chunk, fed }))),
            engine::Content::Incomplete => Ok(Some(None)),
            engine::Content::Wait => Ok(None),
            engine::Content::Stop(why) => Err(why),
        })
    }

    fn feed_from_first(&self) {
        self.shared.lock().feed_from_first(self.attempt);
    }

    fn wait_for_eos(&self) -> Result<(), Failure> {
        self.wait(|engine| {
            let ended = engine.wait_for_eos(self.attempt)?;
            Ok(ended.then_some(()))
        })
    }

    fn has_ended(&self) -> bool {
        self.shared.lock().has_ended(self.attempt)
    }

    fn failure(&self) -> Option<Failure> {
        let why = self.shared.lock().why(self.attempt)?;
        Some(self.failure_of(why))
    }

    fn is_complete(&self) -> bool {
        self.shared.lock().is_complete(self.attempt)
    }

    fn verify(&self, from_cache: bool) -> Result<(), Failure> {
        let verified = self.shared.lock().verify(self.attempt, from_cache);
        verified.map(drop).map_err(|why| self.failure_of(why))
    }

    fn delivered(&self) -> Result<(), Failure> {
        let delivered = {
            let mut engine = self.shared.lock();
            let delivered = engine.delivered(self.attempt, self.busy());
            may_panic!("delivering a chunk, locked");
            delivered
        };
        match delivered {
            Ok(freed) => {
                self.finish(freed);
                Ok(())
            }
            Err(why) => Err(self.failure_of(why)),
        }
    }

    fn uses_cache(&self, uses: bool) {
        self.shared.lock().uses_cache(self.attempt, uses);
    }

    fn keeps(&self) {
        self.shared.lock().keeps_what_it_made(self.attempt);
    }

    fn begin_again(&self) -> bool {
        *self.intake.lock() = super::output::intake::Intake::default();
        let begun = self.shared.lock().begin_again(self.attempt);
        self.begin();
        begun
    }

    fn record(&self, base: u64) {
        self.intake.lock().record(base);
    }

    fn take_recording(&self) -> Option<Recording> {
        let recording = self.intake.lock().take_recording();
        recording.filter(|_| self.shared.lock().is_unchanged(self.attempt))
    }

    fn replay_event(&self, event: gst::Event) -> bool {
        self.shared.take_event(&self.intake, event)
    }

    fn replay_packet(&self, packet: gst::Buffer) -> bool {
        matches!(
            self.shared.take_packet(&self.intake, packet),
            Ok(_) | Err(gst::FlowError::Eos)
        )
    }

    fn skip(&self, private: gst::ClockTime) {
        self.shared.skip(&self.intake, private);
    }

    fn cache_failed(&self, reason: &str) {
        self.shared.cache_failed(reason);
    }
}
