// SPDX-License-Identifier: MPL-2.0

//! A session's attempt, as the session sees it: the engine's calls for one `AttemptId`, and the waits between them.

use super::output::intake::Intake;
use super::shared::{Branch, Locked, Shared};
use super::trace::{Of, Phase};
use super::video::{Context, Frame};
use crate::cache::{Recorder, Recording};
use crate::clock;
use crate::logic::engine::{self, Doing, Next, Why};
use crate::logic::ids::{AttemptId, FrameNo};
use crate::logic::store::Side;
use crate::panics::may_panic;
use crate::session::Assignment;
use crate::session::failure::Failure;
use crate::session::replay::Content;
use std::sync::Arc;

pub(super) struct Assigned {
    pub(super) shared: Arc<Shared>,
    pub(super) branch: Branch,
    pub(super) attempt: AttemptId,
    pub(super) own_from: u64,
    pub(super) context: Arc<Context>,
    /// In the timeline.
    pub(super) of: Of,
}

impl Assigned {
    /// What the engine's word for it comes to.
    pub(super) fn failure_of(&self, why: Why) -> Failure {
        match why {
            Why::Aborted | Why::Halted => Failure::Aborted,
            Why::Replanned => Failure::Replanned,
            Why::Fault(fault) => Failure::Fault(fault),
            Why::EncoderFailed => {
                let (session, caps) = (&self.branch.session, &self.context.caps);
                let posted = self.shared.posted(session, Some(caps));
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
                Ok(None) => engine.wait(&self.branch.session.wake),
                Err(why) => {
                    drop(engine);
                    return Err(self.failure_of(why));
                }
            }
        }
    }

    /// In the timeline.
    fn phase(&self, phase: Phase) {
        if self.branch.session.status.is_abandoned() {
            return;
        }
        let session = self.attempt.session.0;
        self.shared
            .traced(|trace, now| trace.phase(session, phase, Some(self.of), now));
    }

    /// What comes of the session from now on is of this attempt.
    pub(super) fn begin(&self) {
        let context = self.context.clone();
        let mut intake = self.branch.intake.lock();
        intake.begin(self.attempt, self.own_from, context);
    }
}

impl Assignment for Assigned {
    fn next(&self, position: FrameNo) -> Result<Option<(Frame, bool)>, Failure> {
        let since = clock::now();
        let next = self.wait(|engine| {
            may_panic!("feeding a frame, locked");
            engine.next(self.attempt, position)
        })?;
        let session = self.attempt.session.0;
        self.shared
            .traced(|trace, now| trace.waited(session, since, now));
        Ok(match next {
            Next::Feed {
                frame,
                force_key,
                side,
            } => {
                self.phase(match side {
                    Some(Side::Lead) => Phase::Lead,
                    Some(Side::Trail) => Phase::Trail,
                    None => Phase::Own,
                });
                Some((frame, force_key))
            }
            Next::Drain => None,
        })
    }

    fn does(&self, doing: Doing) {
        self.phase(match doing {
            Doing::Opening => Phase::Opening,
            Doing::Encoding => Phase::Own,
            Doing::Draining => Phase::Draining,
            Doing::Closing => Phase::Closing,
            Doing::CacheIo => Phase::Cache,
        });
    }

    fn content(&self) -> Result<Option<Content>, Failure> {
        self.phase(Phase::Waiting);
        let content = self.wait(|engine| engine.content(self.attempt))?;
        Ok(match content {
            engine::Content::All { chunk, frames: fed } => Some(Content { chunk, fed }),
            engine::Content::Incomplete => None,
        })
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
        let delivered = self.shared.delivered(self.attempt);
        delivered.map_err(|why| self.failure_of(why))
    }

    fn uses_cache(&self, uses: bool) {
        self.shared.lock().uses_cache(self.attempt, uses);
        if uses {
            self.does(Doing::CacheIo);
        }
    }

    fn keeps(&self) {
        self.shared.lock().keeps_what_it_made(self.attempt);
        self.does(Doing::CacheIo);
    }

    fn begin_again(&self) -> bool {
        *self.branch.intake.lock() = Intake::default();
        let begun = self.shared.lock().begin_again(self.attempt);
        self.begin();
        begun
    }

    fn record(&self, base: u64, needs_metas: bool) {
        let recorder = Recorder::new(base, needs_metas);
        self.branch.intake.lock().recorder = Some(recorder);
    }

    fn take_recording(&self) -> Option<Recording> {
        let recorder = self.branch.intake.lock().recorder.take()?;
        let is_unchanged = self.shared.lock().is_unchanged(self.attempt);
        recorder.finish().filter(|_| is_unchanged)
    }

    fn replay_event(&self, event: gst::Event) -> bool {
        self.shared.take_event(&self.branch.intake, event)
    }

    fn replay_packet(&self, packet: gst::Buffer) -> bool {
        matches!(
            self.shared.take_packet(&self.branch.intake, packet),
            Ok(_) | Err(gst::FlowError::Eos)
        )
    }

    fn skip(&self, private: gst::ClockTime) {
        self.shared.skip(&self.branch.intake, private);
    }

    fn end_account(&self) {
        self.shared.lock().end_account();
    }

    fn cache_failed(&self, reason: &str) {
        self.shared.cache_failed(reason);
    }
}

impl Shared {
    /// The attempt has made all of its chunk: its frames go, its packets may leave.
    pub(super) fn delivered(&self, attempt: AttemptId) -> Result<(), Why> {
        let finished = self.lock().finished(attempt, clock::now());
        self.tell_of_finished(attempt.session, &finished?);
        let delivered = {
            let mut engine = self.lock();
            let delivered = engine.delivered(attempt, clock::now());
            may_panic!("delivering a chunk, locked");
            delivered
        };
        delivered?;
        self.sample();
        self.warn_of_closed_sessions();
        Ok(())
    }
}
