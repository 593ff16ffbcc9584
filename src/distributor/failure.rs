// SPDX-License-Identifier: MPL-2.0

//! Failures, and who gets to know of them.

use super::imp::{CAT, Distributor};
use crate::locking::lock;
use crate::logic::frame::SessionId;
use crate::logic::planner::BudgetTooSmall;
use crate::parallelenc::ParallelEnc;
use crate::session::encoder::EncoderError;
use crate::session::{Failure, Session};
use glib::translate::IntoGlib;
use gst::subclass::prelude::*;

impl Distributor {
    /// Ends the stream with an error. Said first: upstream, which gets an error flow, says that it got one.
    pub(crate) fn fail(&self, error: gst::ErrorMessage) {
        self.fail_with(|bin| {
            gst::error!(CAT, imp = self, "{error}");
            bin.imp().post_error_message(error);
        });
    }

    /// Ends the stream with the error that `post` posts.
    pub(super) fn fail_with(&self, post: impl FnOnce(&ParallelEnc)) {
        // Whoever fails first gives up for all, as the end of the stream follows from that, and the error comes before the end.
        if !self.begins_to_fail() {
            return;
        }
        if let Some(bin) = self.bin() {
            post(&bin);
        }
        self.give_up(gst::FlowError::Error);
    }

    /// Ends the stream with the error that an encoder posted.
    pub(super) fn fail_as_posted(&self, id: SessionId, message: gst::Message) {
        self.fail_with(|_| {
            if let Some(session) = self.session(id) {
                session.slot.post_kept(message);
            }
        });
    }

    /// Our own code panicked: the stream ends. The application hears of it from the bin; what follows from it is no failure of its
    /// own.
    pub(crate) fn panicked(&self) {
        let _ = self.begins_to_fail();
        self.give_up(gst::FlowError::Error);
    }

    /// The first failure of a stream is reported; those that follow from it, or from a stop or a flush, are not.
    fn begins_to_fail(&self) -> bool {
        let mut state = lock(&self.state);
        let Some(state) = state
            .as_mut()
            .filter(|state| !state.stopped && !state.flushing)
        else {
            return false;
        };
        !std::mem::replace(&mut state.fails, true)
    }

    /// The flow of all sessions is an error from now on: whatever waits returns.
    pub(super) fn give_up(&self, flow: gst::FlowError) {
        let mut guard = lock(&self.state);
        let Some(state) = guard.as_mut().filter(|state| state.flow.is_ok()) else {
            return;
        };
        // (All sessions may have been left just now.)
        state.flow = Err(flow);
        for slot in state.slots.iter().filter(|slot| !slot.gone) {
            let combined = state.combiner.update_pad_flow(&slot.session.src, Err(flow));
            // A session that is pushing may just have set its pad's flow back to OK.
            state.flow = Err(combined.err().unwrap_or(flow));
        }
        state.wake_all();
        drop(guard);
        self.room.notify_all();
        self.aggregator().fail();
    }

    /// Downstream takes no more: upstream gets the same. If upstream has ended, nobody else would say so. (Whichever comes
    /// second, EOS or the refusal, finds the other under the lock.)
    pub(crate) fn downstream_refused(&self, flow: gst::FlowError) {
        self.give_up(flow);
        let unheard = {
            let state = lock(&self.state);
            state.as_ref().is_some_and(|state| {
                let stream = state.stream.as_ref();
                !state.flow_returned && stream.is_none_or(|stream| stream.ended)
            })
        };
        if unheard {
            self.refused_after_end(flow);
        }
    }

    /// Downstream took no more, and upstream, which has ended, will not ask again.
    pub(super) fn refused_after_end(&self, flow: gst::FlowError) {
        if !matches!(flow, gst::FlowError::Eos | gst::FlowError::Flushing) {
            self.fail(gst::error_msg!(
                gst::StreamError::Failed,
                ("Internal data stream error."),
                ["downstream of vtparallelenc returned {flow:?} after the last frame came in"]
            ));
        }
    }

    /// Output was held back while no input came, and some of it leaves early.
    pub(crate) fn warn_of_stall(&self, holds_back: Option<gst::ClockTime>) {
        let Some(bin) = self.bin() else { return };
        let time = holds_back.map_or_else(
            || "as much time as the chunks being encoded".to_string(),
            |time| format!("{:.0} seconds", time.nseconds() as f64 / 1e9 + 1.0),
        );
        gst::element_warning!(
            bin,
            gst::StreamError::Encode,
            ("No video came for a while in which encoded video was held back, so some of it leaves early, which \
                 may cost parallelism. If another branch of the pipeline waits for it, let that branch's queue hold {time} \
                 (max-size-time, with max-size-bytes=0 and max-size-buffers=0)")
        );
    }

    /// Forced key frames don't part the encoder's chunks from their overlap.
    pub(super) fn warn_of_dropped_overlap(&self, encoder: &str, failure: &Failure) {
        let Some(bin) = self.bin() else { return };
        gst::element_warning!(
            bin,
            gst::StreamError::Encode,
            ("The encoder '{encoder}' does not begin a closed GOP where a key frame is forced; its chunks get no overlap. \
                 Set overlap-before=0 and overlap-after=0 to have it so from the beginning"),
            ["{failure}"]
        );
    }

    /// The encoder that was opened ahead of the first chunk is of no use.
    pub(super) fn warn_of_first(&self, session: &Session, error: &EncoderError) {
        if self.is_stopped() {
            // None does.
            return;
        }
        let Some(bin) = self.bin() else { return };
        // Its own message says more.
        let why = match self.failure(session) {
            Some(posted @ Failure::Posted(_)) => posted.to_string(),
            _ => error.to_string(),
        };
        gst::element_warning!(
            bin,
            gst::LibraryError::Init,
            (
                "The first encoder of session {} could not be opened; another one takes its place",
                session.id
            ),
            ["{why}"]
        );
    }

    /// Chunks can't be kept, which is said once.
    pub(crate) fn cache_failed(&self, reason: &str) {
        let directory = {
            let mut state = lock(&self.state);
            let Some(state) = state.as_mut() else { return };
            if std::mem::replace(&mut state.cache_warned, true) {
                return;
            }
            let cache = state.job.cache.as_ref();
            cache.map(|(directory, _)| directory.display().to_string())
        };
        let (Some(directory), Some(bin)) = (directory, self.bin()) else {
            return;
        };
        gst::warning!(CAT, imp = self, "{directory}: {reason}");
        gst::element_warning!(
            bin,
            gst::ResourceError::Write,
            ("Chunks can't be kept in cache-location '{directory}' ({reason}); encoding goes on without")
        );
    }

    /// The encoder can't be cut: one encodes the rest of the stream.
    pub(super) fn warn_of_joined_chunks(&self, encoder: &str, failure: &Failure) {
        let Some(bin) = self.bin() else { return };
        gst::element_warning!(
            bin,
            gst::StreamError::Encode,
            ("The encoder '{encoder}' does not say which of its packets are key frames, so it can't be used in chunks: one \
                 encoder encodes the whole stream. Set allow-parallel=false to have it so from the beginning"),
            ["{failure}"]
        );
    }

    /// No encoder can be opened in some sessions; others go on. Not said before one of them works: if none does, the
    /// stream fails for another reason.
    pub(super) fn warn_of_closed_sessions(&self) {
        let (closings, open) = {
            let mut state = lock(&self.state);
            let Some(state) = state.as_mut() else { return };
            if !state.slots.iter().any(|slot| slot.works) {
                return;
            }
            let open = state.open_sessions();
            (std::mem::take(&mut state.closings), open)
        };
        let Some(bin) = self.bin() else { return };
        for (id, why) in closings {
            gst::element_warning!(
                bin,
                gst::ResourceError::NoSpaceLeft,
                ("Session {id} could not open an encoder, which may be a limit of the hardware or its driver; {open} \
                     sessions go on. Set sessions={open} to have it so from the beginning"),
                ["{why}"]
            );
        }
    }

    /// No input comes although all that could leave has left: what waits for more frames gets what is there, so that nothing
    /// stands still for ever.
    pub(crate) fn release_withheld(&self) {
        gst::info!(CAT, imp = self, "Input has stopped");
        if let Some(state) = &mut *lock(&self.state) {
            state.give_out(self.aggregator());
        }
    }

    /// What is known of why the session's attempt cannot go on; `None` if nothing is.
    pub(crate) fn failure(&self, session: &Session) -> Option<Failure> {
        let id = session.id;
        let mut state = lock(&self.state);
        let Some(state) = state.as_mut() else {
            return Some(Failure::Aborted);
        };
        if session.standing.is_left() {
            return Some(Failure::Aborted);
        }
        if let Some(fault) = self.aggregator().take_fault(id) {
            return Some(Failure::Fault(fault));
        }
        if state.stopped || state.flushing {
            return Some(Failure::Aborted);
        }
        if state.flow.is_err() || self.aggregator().flow().is_err() {
            return Some(Failure::Downstream);
        }
        let error = state.slots.get_mut(id.0)?.progress.error.take()?;
        Some(match (is_not_negotiated(&error), &state.caps) {
            // An element in a chain, a queue for example, says no more than that its stream was refused.
            (true, Some(caps)) => Failure::Encoder(EncoderError::CapsRefused {
                encoder: state.encoder_name(),
                caps: caps.clone(),
            }),
            _ => Failure::Posted(error),
        })
    }
}

/// The error is a flow error, and its reason are caps that were refused.
fn is_not_negotiated(message: &gst::Message) -> bool {
    let gst::MessageView::Error(error) = message.view() else {
        return false;
    };
    let flow = error
        .details()
        .and_then(|details| details.get::<i32>("flow-return").ok());
    flow == Some(gst::FlowReturn::NotNegotiated.into_glib())
}

/// Why a stream doesn't begin.
pub(super) enum Refusal {
    Ours(gst::ErrorMessage),
    /// The encoder's own error message says it better than we could.
    Encoders(gst::Message),
}

impl From<gst::ErrorMessage> for Refusal {
    fn from(error: gst::ErrorMessage) -> Self {
        Self::Ours(error)
    }
}

impl Refusal {
    /// The encoder's own error where it posted one.
    pub(super) fn of(distributor: &Distributor, session: &Session, error: &EncoderError) -> Self {
        match distributor.failure(session) {
            Some(Failure::Posted(message)) => Self::Encoders(message),
            _ => Self::Ours(encoder_error(error)),
        }
    }
}

impl From<EncoderError> for Refusal {
    fn from(error: EncoderError) -> Self {
        Self::Ours(encoder_error(&error))
    }
}

pub(super) fn budget_error(error: BudgetTooSmall) -> gst::ErrorMessage {
    gst::error_msg!(
        gst::LibraryError::Settings,
        ("The memory for raw video is too small: {error}; raise max-raw-bytes, or lower \
             overlap-before or overlap-after if they are set")
    )
}

pub(crate) fn encoder_error(error: &EncoderError) -> gst::ErrorMessage {
    match error {
        EncoderError::CannotChoose { downstream }
            if !downstream.is_any() && !downstream.is_empty() =>
        {
            gst::error_msg!(gst::CoreError::MissingPlugin, ("{error}"))
        }
        EncoderError::CannotChoose { .. }
        | EncoderError::Description { .. }
        | EncoderError::NotAnEncoder { .. }
        | EncoderError::OtherFormat { .. }
        | EncoderError::Property { .. } => {
            gst::error_msg!(gst::LibraryError::Settings, ("{error}"))
        }
        EncoderError::CannotStart { .. }
        | EncoderError::Hangs { .. }
        | EncoderError::Stopped
        | EncoderError::NoThread(_) => gst::error_msg!(gst::LibraryError::Init, ("{error}")),
        EncoderError::CapsRefused { .. } | EncoderError::NoneTakes { .. } => {
            gst::error_msg!(gst::StreamError::Format, ("{error}"))
        }
    }
}
