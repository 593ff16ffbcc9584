// SPDX-License-Identifier: MPL-2.0

//! A session's attempt, as the session sees it: the engine's calls for one `AttemptId`, and the waits between them.

use super::shared::{Locked, Shared};
use super::video::Context;
use crate::cache::Recording;
use crate::logic::engine::{self, Next, Why};
use crate::logic::ids::{AttemptId, FrameNo};
use crate::panics::may_panic;
use crate::session::failure::Failure;
use crate::session::replay::{Content, Fed};
use crate::session::{Assignment, Session, Step};
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
    /// How long the attempt has taken, in nanoseconds.
    pub(super) fn busy(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// What the engine's word for it comes to.
    pub(super) fn failure_of(&self, why: Why) -> Failure {
        match why {
            Why::Aborted => Failure::Aborted,
            Why::Halted => Failure::Halted,
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
}

impl Assignment for Assigned {
    fn begin(&self) {
        let context = self.context.clone();
        self.intake
            .lock()
            .begin(self.attempt, self.own_from, context);
    }

    fn next(&self, position: FrameNo) -> Result<Step, Failure> {
        let next = self.wait(|engine| {
            may_panic!("feeding a frame, locked");
            engine.next(self.attempt, position)
        })?;
        Ok(match next {
            Next::Feed { frame, force_key } => Step::Feed {
                buffer: frame.buffer,
                force_key,
                tags: frame.tags,
            },
            Next::Drain => Step::Drain,
        })
    }

    fn content(&self) -> Result<Option<Content>, Failure> {
        let content = self.wait(|engine| engine.content(self.attempt))?;
        let engine::Content::All { chunk, frames } = content else {
            return Ok(None);
        };
        let fed = frames.into_iter().map(|(frame, time, force_key)| Fed {
            digest: frame.digest,
            time,
            duration: frame.buffer.duration(),
            force_key,
            tags: frame.tags,
        });
        let fed = fed.collect();
        Ok(Some(Content { chunk, fed }))
    }

    fn feed_from_first(&self) {
        self.shared.lock().feed_from_first(self.attempt);
    }

    fn wait_for_eos(&self) -> Result<(), Failure> {
        self.wait(|engine| engine.wait_for_eos(self.attempt))
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
        verified.map_err(|why| self.failure_of(why))
    }

    fn delivered(&self) -> Result<(), Failure> {
        let delivered = {
            let mut engine = self.shared.lock();
            let delivered = engine.delivered(self.attempt, self.busy());
            may_panic!("delivering a chunk, locked");
            delivered
        };
        delivered.map_err(|why| self.failure_of(why))?;
        self.shared.warn_of_closed_sessions();
        Ok(())
    }

    fn uses_cache(&self, uses: bool) {
        self.shared.lock().uses_cache(self.attempt, uses);
    }

    fn keeps(&self) {
        self.shared.lock().keeps_what_it_made(self.attempt);
    }

    fn is_unchanged(&self) -> bool {
        self.shared.lock().is_unchanged(self.attempt)
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
        self.intake.lock().take_recording()
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
