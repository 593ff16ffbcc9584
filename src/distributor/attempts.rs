// SPDX-License-Identifier: MPL-2.0

//! What becomes of an attempt that failed, and what the application is told of it.

use super::failure::encoder_error;
use super::imp::{CAT, Distributor};
use super::state::{Failed, State, Waiting};
use crate::locking::lock;
use crate::logic::frame::{ChunkId, FrameRange, SessionId};
use crate::logic::reorder::Fault;
use crate::logic::roster::{AfterFailure, Attempt, Because};
use crate::session::Failure;
use crate::session::encoder::EncoderError;
use gst::prelude::*;
use gst::subclass::prelude::*;

/// What a failed attempt comes to.
#[derive(Clone, Copy)]
enum Outcome {
    /// The chunk was planned anew, through no fault of the attempt. `says`: without its overlap, for the first time, for which
    /// the application gets a warning.
    Anew {
        says: bool,
    },
    /// The encoder can't be cut: all chunks become one. `says`: as above.
    Join {
        says: bool,
    },
    /// No encoder could be opened. `late`: or it failed with its first frames, as some encoders open what they encode with
    /// then.
    Unopened {
        late: bool,
    },
    /// What has left of the chunk can't be made again: it begins after that.
    Later,
    /// It fails, and there can be no other attempt.
    Final(Because),
    Failed,
}

/// A chunk, as messages name it.
struct About {
    chunk: ChunkId,
    frames: FrameRange,
    /// Timestamps of its first frame and of the end of its last one.
    times: (Option<gst::ClockTime>, Option<gst::ClockTime>),
    encoder: String,
    max_attempts: u32,
    /// Its attempts that failed, the last one too.
    failed: Vec<Failed>,
}

impl Distributor {
    pub(super) fn attempt_failed(&self, id: SessionId, failure: &Failure) {
        let Some(outcome) = self.judge(id, failure) else {
            return;
        };
        // Said before the chunk goes on, because with it the stream may end.
        let encoder = || {
            lock(&self.state)
                .as_ref()
                .map(State::encoder_name)
                .unwrap_or_default()
        };
        match &outcome {
            Outcome::Anew { says: true } => self.warn_of_dropped_overlap(&encoder(), failure),
            Outcome::Join { says: true } => self.warn_of_joined_chunks(&encoder(), failure),
            _ => (),
        }
        self.conclude(id, failure, outcome);
    }

    /// What a failure comes to. The session keeps its chunk until that is carried out.
    fn judge(&self, id: SessionId, failure: &Failure) -> Option<Outcome> {
        let mut guard = lock(&self.state);
        let state = guard.as_mut()?;
        state.count_attempt(id, 0);
        let aggregator = self.aggregator();
        let made_packets = aggregator.has_made_packets(id);
        state.slots[id.0].works |= made_packets;
        let stream = state.stream.as_mut()?;
        let Attempt { chunk, number } = stream.roster.attempt_of(id)?;
        let has_let_go = stream.planner.has_let_go(chunk);
        if has_let_go && !stream.planner.is_joined() {
            return Some(Outcome::Final(Because::Attempts));
        }
        if has_let_go || !aggregator.retract(chunk) {
            return Some(Outcome::Final(Because::Left));
        }
        let side = match failure {
            // Once, it may have got lost.
            Failure::Fault(Fault::StartMissing(_)) if number < state.job.max_attempts.min(2) => {
                None
            }
            // No seam explains that.
            Failure::Fault(Fault::StartNotKey(_)) if aggregator.opens_without_key(id) => None,
            Failure::Fault(fault) => fault.side(),
            _ => None,
        };
        let explained = side.is_some_and(|side| state.drop_overlap(id, side, aggregator));
        if explained || state.slots[id.0].progress.replanned {
            let says = explained && !std::mem::replace(&mut state.overlap_warned, true);
            return Some(Outcome::Anew { says });
        }
        Some(match failure {
            Failure::Fault(Fault::Differs(_)) => Outcome::Later,
            // Another attempt would be the same.
            Failure::Fault(Fault::Parts { .. }) => Outcome::Final(Because::Hopeless),
            Failure::Fault(Fault::StartNotKey(_)) if state.can_join(aggregator) => Outcome::Join {
                says: !std::mem::replace(&mut state.join_warned, true),
            },
            // What no encoder has taken yet, the next one doesn't either.
            Failure::Encoder(EncoderError::CapsRefused { .. }) if !aggregator.is_proven() => {
                Outcome::Final(Because::Hopeless)
            }
            Failure::Unopened(_) => Outcome::Unopened { late: false },
            Failure::Posted(_) | Failure::Flow { .. } if !made_packets => {
                Outcome::Unopened { late: true }
            }
            _ => Outcome::Failed,
        })
    }

    fn conclude(&self, id: SessionId, failure: &Failure, outcome: Outcome) {
        let mut guard = lock(&self.state);
        let Some(state) = guard.as_mut() else { return };
        let joins = matches!(outcome, Outcome::Join { .. });
        // Another session may have said so meanwhile.
        let joined = joins && (state.joined || state.join(self.aggregator()));
        let works = state.slots[id.0].works;
        let Some(stream) = &mut state.stream else {
            return;
        };
        let chunk = stream.roster.chunk_of(id);
        let later = chunk
            .filter(|_| matches!(outcome, Outcome::Later))
            .and_then(|chunk| Some((chunk, self.aggregator().begin_after_ahead(chunk)?)));
        let gone = later.map(|(chunk, start)| stream.begin_at(chunk, start));
        let roster = &mut stream.roster;
        let rested = match outcome {
            Outcome::Unopened { late } if works || late => roster.rest(id),
            _ => None,
        };
        let verdict = match outcome {
            Outcome::Join { .. } if !joined => roster.failed(id, None),
            Outcome::Later if gone.is_none() => roster.failed(id, Some(Because::Left)),
            Outcome::Anew { .. } | Outcome::Join { .. } | Outcome::Later => {
                roster.give_back(id);
                None
            }
            Outcome::Unopened { .. } if rested.is_some() => rested,
            Outcome::Unopened { .. } if !works && roster.close(id) => {
                gst::warning!(CAT, imp = self, "Session {id} is closed: {failure}");
                state.slots[id.0].closed = true;
                state.closings.push((id, failure.to_string()));
                None
            }
            Outcome::Final(because) => roster.failed(id, Some(because)),
            _ => roster.failed(id, None),
        };
        let about = match verdict {
            Some(AfterFailure::Again {
                attempt, closes, ..
            }) => {
                state.tally.attempts_failed += 1;
                state.slots[id.0].closed |= closes;
                Some(state.about(self.aggregator(), id, attempt, failure))
            }
            Some(AfterFailure::GiveUp { attempt, .. }) => {
                Some(state.about(self.aggregator(), id, attempt, failure))
            }
            None => None,
        };
        // Said before the chunk goes on, because with it the stream may end.
        drop(guard);
        drop(gone);
        match (verdict, about) {
            (
                Some(AfterFailure::Again {
                    attempt,
                    next,
                    closes,
                }),
                Some(about),
            ) => {
                self.warn_of_attempt(&about, id, attempt, closes, failure);
                if let Some(stream) = lock(&self.state).as_mut().and_then(|it| it.stream.as_mut()) {
                    // (Another session may have joined all chunks meanwhile.)
                    if stream.planner.first_fed(next.chunk).is_some() {
                        stream.roster.offer_again(next);
                    }
                }
            }
            (Some(AfterFailure::GiveUp { attempt, because }), Some(about)) => {
                self.report_failure(&about, id, attempt, because, failure);
            }
            _ => gst::info!(
                CAT,
                imp = self,
                "Session {id}: its chunk begins anew: {failure}"
            ),
        }
        if let Some(state) = &*lock(&self.state) {
            state.wake(Waiting::Chunk);
        }
        // A session less may be what the budget was waiting for.
        self.room.notify_all();
    }

    /// An attempt failed, and there is another one.
    fn warn_of_attempt(
        &self,
        about: &About,
        id: SessionId,
        attempt: Attempt,
        closes: bool,
        failure: &Failure,
    ) {
        let closed = match closes {
            true => format!("; session {id} failed too often in a row and is closed"),
            false => String::new(),
        };
        let text = format!(
            "Attempt {} of {} at {about} failed in session {id}: {}{closed}; the chunk is encoded again",
            attempt.number,
            about.max_attempts,
            failure.summary()
        );
        gst::warning!(CAT, imp = self, "{text}: {failure}");
        let Some(bin) = self.bin() else { return };
        let warning = gst::message::Warning::builder_from_error(failure.error(&text))
            .src(&bin)
            .debug(&failure.to_string())
            .details(about.details(id, attempt, failure))
            .build();
        let _ = bin.post_message(warning);
    }

    /// The stream fails, because there is no other attempt at a chunk.
    fn report_failure(
        &self,
        about: &About,
        id: SessionId,
        attempt: Attempt,
        because: Because,
        failure: &Failure,
    ) {
        if let (Because::Hopeless, Failure::Encoder(error)) = (because, failure) {
            return self.fail(encoder_error(error));
        }
        let because = match because {
            Because::Attempts => match about.failed.len() {
                1 => String::new(),
                attempts => format!(" in {attempts} attempts"),
            },
            Because::Sessions => ", and no session is left".to_string(),
            Because::Left => {
                ", and some of it has left, which another attempt couldn't make again".to_string()
            }
            Because::Hopeless => String::new(),
        };
        let text = format!(
            "{about} could not be encoded{because}: {}",
            failure.summary()
        );
        let text = text.replacen("chunk", "Chunk", 1);
        let attempts: Vec<_> = about.failed.iter().map(Failed::to_string).collect();
        let debug = attempts.join("\n");
        self.fail_with(|bin| {
            gst::error!(CAT, imp = self, "{text}\n{debug}");
            let error = gst::message::Error::builder_from_error(failure.error(&text))
                .src(bin)
                .debug(&debug)
                .details(about.details(id, attempt, failure))
                .build();
            let _ = bin.post_message(error);
        });
    }
}

impl State {
    /// Remembers a failed attempt, and says all that is known of its chunk.
    fn about(
        &mut self,
        aggregator: &crate::aggregator::imp::Aggregator,
        session: SessionId,
        attempt: Attempt,
        failure: &Failure,
    ) -> About {
        let encoder = self.encoder_name();
        let max_attempts = self.job.max_attempts;
        let (frames, failed) = match &mut self.stream {
            Some(stream) => {
                let failures = stream.failures.entry(attempt.chunk).or_default();
                failures.push(Failed {
                    attempt: attempt.number,
                    session,
                    reason: failure.to_string(),
                });
                (stream.planner.own(attempt.chunk), failures.clone())
            }
            None => (None, Vec::new()),
        };
        let frames = frames.unwrap_or(FrameRange::new(0, 0));
        About {
            chunk: attempt.chunk,
            frames,
            times: aggregator.times_of(frames),
            encoder,
            max_attempts,
            failed,
        }
    }
}

impl std::fmt::Display for About {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { chunk, frames, .. } = self;
        let last = frames.end.0.saturating_sub(1).max(frames.start.0);
        write!(f, "chunk {chunk} (frames {} to {last}", frames.start)?;
        if let (Some(from), Some(to)) = self.times {
            write!(f, ", from {from} to {to}")?;
        }
        f.write_str(")")
    }
}

impl About {
    /// The fields that docs/messages.md describes.
    fn details(&self, id: SessionId, attempt: Attempt, failure: &Failure) -> gst::Structure {
        let reasons = self.failed.iter().map(Failed::to_string);
        let mut details = gst::Structure::builder("vtparallelenc-attempt-failed")
            .field("session", id.0 as u64)
            .field("chunk", self.chunk.0)
            .field("first-frame", self.frames.start.0)
            .field("frames", self.frames.len())
            .field("attempt", attempt.number)
            .field("max-attempts", self.max_attempts)
            .field("encoder", &self.encoder)
            .field("cause", failure.cause())
            .field("reason", failure.to_string())
            .field("attempts", gst::Array::new(reasons));
        if let (Some(from), Some(to)) = self.times {
            details = details.field("start-time", from).field("end-time", to);
        }
        if let Failure::Posted(message) = failure.innermost()
            && let gst::MessageView::Error(error) = message.view()
        {
            details = details
                .field("encoder-message", error.error().message())
                .field_if_some("encoder-debug", error.debug().map(|it| it.to_string()));
        }
        details.build()
    }
}
