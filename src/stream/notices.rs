// SPDX-License-Identifier: MPL-2.0

//! What the application is told: errors that end the stream, and warnings.

use super::CAT;
use super::shared::Shared;
use crate::encoder::description::EncoderError;
use crate::logic::engine::{Again, FailedAttempt, GiveUpReason, Report, Stalled};
use crate::logic::ids::{ChunkId, SessionId};
use crate::logic::plan::Plan;
use crate::logic::request::BudgetTooSmall;
use crate::logic::split::Overhead;
use crate::session::Session;
use crate::session::failure::{self, Failure};
use gst::FlowError;
use gst::MessageErrorDomain;
use gst::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What was said, so that it isn't said again; replaced at each start.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// That the cache can't be written to.
    cache: bool,
    /// That the encoder can't be cut with an overlap.
    overlap: bool,
    /// That packets leave early.
    stall: bool,
    /// That downstream takes nothing that the encoder makes.
    refusal: bool,
    /// That a decoder's buffer runs dry was said.
    underflow: bool,
    /// What was said of plans.
    plan: BTreeSet<String>,
    /// The plan that was told last.
    pub(super) told: Option<Plan>,
    /// Sessions that were closed, and why, as far as that wasn't said yet.
    closed: Vec<(SessionId, String)>,
}

/// Posts an error.
pub(super) type Post = Box<dyn FnOnce(&gst::Bin) + Send>;

/// Posts this error of ours.
fn posting(error: gst::ErrorMessage) -> impl FnOnce(&gst::Bin) + Send {
    move |bin| {
        gst::error!(CAT, obj = bin, "{error}");
        bin.post_error_message(error);
    }
}

impl Shared {
    /// Ends the stream with an error. Said first: upstream, which gets an error flow, says that it got one.
    pub(super) fn fail(&self, error: gst::ErrorMessage) {
        self.fail_with(None, FlowError::Error, posting(error));
    }

    /// Ends the stream with the error that an encoder posted.
    pub(super) fn fail_as_posted(&self, session: &Session, message: gst::Message) {
        self.fail_with(Some(session.id), FlowError::Error, |_| {
            session.slot.post_kept(message);
        });
    }

    /// Ends the stream with caps that can't be encoded: all that came before leaves first.
    pub(super) fn fail_after_all(&self, error: gst::ErrorMessage) {
        let post = Box::new(posting(error));
        self.fail_later(None, FlowError::NotNegotiated, None, post);
    }

    /// Ends the stream as downstream doesn't take what the encoder makes.
    pub(super) fn fail_refused(&self, made: &gst::Caps) {
        let error = gst::error_msg!(gst::CoreError::Negotiation, ("{}", self.refusal(made)));
        self.fail_with(None, FlowError::NotNegotiated, posting(error));
    }

    /// Downstream takes nothing that the encoder makes, so no caps will come.
    pub(super) fn warn_of_refusal(&self, made: &gst::Caps) {
        if self.is_news(|said| &mut said.refusal) {
            self.warn(gst::CoreError::Negotiation, &self.refusal(made), None);
        }
    }

    /// Says that downstream doesn't take what the encoder makes.
    fn refusal(&self, made: &gst::Caps) -> String {
        let encoder = self.encoding.lock().encoder_name();
        format!(
            "What comes after vtparallelenc doesn't take what the encoder '{encoder}' makes: {made}; put an element between them that \
             converts it (such as a parser, for another stream-format or alignment), or set another encoder"
        )
    }

    /// Ends the stream with this chunk, or with what comes next, and with the error that `post` posts, when all that is good has left.
    fn fail_later(
        &self,
        chunk: Option<ChunkId>,
        flow: FlowError,
        of: Option<SessionId>,
        post: Post,
    ) {
        let mut engine = self.lock();
        if engine.doom(chunk) {
            *self.last_error.lock() = Some((of, flow, post));
        }
    }

    /// All that is good has left.
    pub(super) fn fail_at_last(&self) {
        let last = self.last_error.lock().take();
        match last {
            Some((of, flow, post)) => self.fail_with(of, flow, post),
            // Somebody else tells of another one.
            None => self.lock().fail(FlowError::Error),
        }
    }

    /// Ends the stream with the error that `post` posts, which is a session's or ours.
    fn fail_with(&self, of: Option<SessionId>, flow: FlowError, post: impl FnOnce(&gst::Bin)) {
        // Whoever fails first gives up for all, as the end of the stream follows from that, and the error comes before the end.
        if !self.lock().begin_to_tell() {
            return;
        }
        if let Some(bin) = self.host.bin() {
            post(&bin);
        }
        let flow = self.combined(flow, of);
        self.lock().fail(flow);
    }

    /// The flow that upstream gets when the flow of one session's pad, or of all, is this from now on.
    pub(super) fn combined(&self, flow: FlowError, of: Option<SessionId>) -> FlowError {
        let branches = self.branches();
        let mut flows = self.flows.lock();
        let mut combined = flow;
        for branch in branches {
            if of.is_none_or(|id| branch.session.id == id) {
                let of_all = flows.update_pad_flow(&branch.sink, Err(flow));
                combined = of_all.err().unwrap_or(flow);
            }
        }
        combined
    }

    /// Our own code panicked: the stream ends. The application hears of it from the bin; what follows from it is no failure of its
    /// own.
    pub(crate) fn panicked(&self) {
        let _ = self.lock().begin_to_tell();
        self.lock().fail(FlowError::Error);
    }

    /// Downstream took no more, and upstream, which has ended, will not ask again: nobody else says so. Asked when either happens, as
    /// whichever comes second finds the other.
    pub(super) fn tell_of_unheard_refusal(&self) {
        let unheard = {
            let engine = self.lock();
            engine.flow().filter(|_| engine.is_unheard())
        };
        if let Some(flow) = unheard
            && !matches!(flow, FlowError::Eos | FlowError::Flushing)
        {
            self.fail(gst::error_msg!(
                gst::StreamError::Failed,
                ("Internal data stream error."),
                ["downstream of vtparallelenc returned {flow:?} after the last frame came in"]
            ));
        }
    }

    /// Posts a warning; `debug` is for whoever looks closer.
    fn warn(&self, kind: impl MessageErrorDomain, text: &str, debug: Option<&str>) {
        let Some(bin) = self.host.bin() else { return };
        match debug {
            Some(debug) => gst::element_warning!(bin, kind, ("{text}"), ["{debug}"]),
            None => gst::element_warning!(bin, kind, ("{text}")),
        }
    }

    /// What is said once only: whether it wasn't said before.
    fn is_news(&self, said: fn(&mut Said) -> &mut bool) -> bool {
        !std::mem::replace(said(&mut self.notices.lock()), true)
    }

    /// Input has stopped while output was held back.
    pub(super) fn tell_of_stall(&self, stalled: &Stalled) {
        match stalled {
            Stalled::No => return,
            Stalled::GivenOut { cut } => {
                gst::warning!(CAT, "Input has stopped; the open chunk ends here: {cut}");
                return;
            }
            Stalled::LeavesEarly => gst::info!(CAT, "Input has stopped, packets leave early"),
        }
        if !self.is_news(|said| &mut said.stall) {
            return;
        }
        let frames = self.lock().plan().map_or(0, |plan| plan.capacity_frames);
        let frame = self.input.lock().duration;
        let time = match frame {
            Some(frame) => {
                let time = frame.nseconds() as f64 * frames as f64 / 1e9;
                format!("{:.0} seconds", time + 1.0)
            }
            None => "as much time as the chunks being encoded".to_string(),
        };
        let text = format!(
            "No video came for a while in which encoded video was held back, so some of it leaves early, which \
             may cost parallelism. If another branch of the pipeline waits for it, let that branch's queue hold {time} \
             (max-size-time, with max-size-bytes=0 and max-size-buffers=0)"
        );
        self.warn(gst::StreamError::Encode, &text, None);
    }

    /// Forced key frames don't part the encoder's chunks from their overlap.
    fn warn_of_dropped_overlap(&self, failure: &Failure) {
        if !self.is_news(|said| &mut said.overlap) {
            return;
        }
        let encoder = self.encoding.lock().encoder_name();
        let text = format!(
            "The encoder '{encoder}' does not begin a closed GOP where a key frame is forced; its chunks get no overlap. \
             Set overlap-before=0 and overlap-after=0 to have it so from the beginning"
        );
        let debug = failure.to_string();
        self.warn(gst::StreamError::Encode, &text, Some(&debug));
    }

    /// The encoder that was opened ahead of the first chunk is of no use.
    pub(super) fn warn_of_first(&self, session: &Session, error: &EncoderError) {
        if self.stops() {
            // None does.
            return;
        }
        // Its own message says more.
        let why = match self.posted_ahead(session) {
            Some(posted @ Failure::Posted(_)) => posted.to_string(),
            _ => error.to_string(),
        };
        let id = session.id;
        let text = format!(
            "The first encoder of session {id} could not be opened; another one takes its place"
        );
        self.warn(gst::LibraryError::Init, &text, Some(&why));
    }

    /// The error that the session's encoder has posted, which was given these raw caps.
    pub(super) fn posted(&self, session: &Session, caps: Option<&gst::Caps>) -> Option<Failure> {
        let message = session.posted.lock().clone()?;
        let encoder = self.encoding.lock().encoder_name();
        failure::posted(&message, &encoder, caps)
    }

    /// As above, of an encoder that is opened ahead of its first chunk.
    pub(super) fn posted_ahead(&self, session: &Session) -> Option<Failure> {
        let caps = self.input.lock().caps.clone();
        self.posted(session, caps.as_ref())
    }

    /// Chunks can't be kept.
    pub(super) fn cache_failed(&self, reason: &str) {
        if !self.is_news(|said| &mut said.cache) {
            return;
        }
        let cache = self.encoding.lock().job.cache.clone();
        let Some((directory, _)) = cache else { return };
        let text = format!(
            "Chunks can't be kept in cache-location '{}' ({reason}); encoding goes on without",
            directory.display()
        );
        self.warn(gst::ResourceError::Write, &text, None);
    }

    /// The timeline can't be written.
    pub(super) fn timeline_failed(&self, error: &std::io::Error) {
        let path = self
            .encoding
            .lock()
            .job
            .timeline
            .clone()
            .unwrap_or_default();
        let text = format!(
            "The timeline can't be written to timeline-location '{}' ({error}); encoding goes on without",
            path.display()
        );
        self.warn(gst::ResourceError::Write, &text, None);
    }

    /// No encoder can be opened in some sessions; others go on. Not said before one of them works: if none does, the
    /// stream fails for another reason.
    pub(super) fn warn_of_closed_sessions(&self) {
        let open = {
            let engine = self.lock();
            if !engine.any_session_works() {
                return;
            }
            engine.open_sessions()
        };
        let closed = std::mem::take(&mut self.notices.lock().closed);
        for (id, why) in closed {
            let text = format!(
                "Session {id} could not open an encoder, which may be a limit of the hardware or its driver; {open} \
                 sessions go on. Set sessions={open} to have it so from the beginning"
            );
            self.warn(gst::ResourceError::NoSpaceLeft, &text, Some(&why));
        }
    }

    /// What is sent empties the decoder's buffer, whatever its encoder was told. Said once.
    pub(super) fn warn_of_underflow(&self) {
        if self.is_news(|said| &mut said.underflow) {
            let text = "A decoder's buffer of the size that the encoder was told (VBV) runs dry at some moment, where players may \
                        stall; set a larger buffer, or see whether allow-parallel=false helps";
            self.warn(gst::StreamError::Encode, text, None);
        }
    }

    /// Chunks are shorter than they were to be, or cost more bits than they may, unless that was said before.
    pub(super) fn warn_of_plan(&self, plan: &Plan) {
        let most = self.encoding.lock().job.max_overhead;
        let texts = [describe_reduction(plan), describe_overhead(plan, most)];
        for text in texts.into_iter().flatten() {
            if self.notices.lock().plan.insert(text.clone()) {
                self.warn(gst::LibraryError::Settings, &text, None);
            }
        }
    }

    /// What more memory would buy, unless that was said before.
    pub(super) fn tell_of_memory(&self) {
        let (ample, most) = {
            let encoding = self.encoding.lock();
            (encoding.ample, encoding.memory.bytes())
        };
        let Some(ample) = ample else { return };
        let text = format!(
            "The memory for raw video limits the plan (max-raw-bytes is {most}): with {} it would be about {:.1} times as fast",
            ample.raw_bytes, ample.speed_up
        );
        if self.notices.lock().plan.insert(text.clone())
            && let Some(bin) = self.host.bin()
        {
            gst::element_info!(bin, gst::LibraryError::Settings, ("{text}"));
        }
    }

    /// What follows from a failed attempt at a chunk of the session's is told. Before the chunk goes on, because with it the stream may
    /// end.
    pub(super) fn tell_of_attempt(
        &self,
        id: SessionId,
        again: &Again<Arc<Failure>>,
        failure: &Failure,
    ) {
        match again {
            Again::Replanned => gst::info!(CAT, "Session {id}: its chunk begins anew: {failure}"),
            Again::WithoutOverlap => self.warn_of_dropped_overlap(failure),
            Again::SessionClosed => {
                gst::warning!(CAT, "Session {id} is closed: {failure}");
                let closed = (id, failure.to_string());
                self.notices.lock().closed.push(closed);
            }
            Again::Failed { report, closes } => self.warn_of_attempt(report, *closes, failure),
        }
    }

    /// An attempt failed, and there is another one.
    fn warn_of_attempt(&self, report: &Report<Arc<Failure>>, closes: bool, failure: &Failure) {
        let Some(bin) = self.host.bin() else { return };
        let id = report.session;
        let closed = match closes {
            true => format!("; session {id} failed too often in a row and is closed"),
            false => String::new(),
        };
        let text = format!(
            "Attempt {} of {} at {} failed in session {id}: {}{closed}; the chunk is encoded again",
            report.number,
            report.max_attempts,
            named(report),
            failure.summary()
        );
        gst::warning!(CAT, obj = bin, "{text}: {failure}");
        let warning = gst::message::Warning::builder_from_error(failure.error(&text))
            .src(&bin)
            .debug(&failure.to_string())
            .details(self.details(report, failure))
            .build();
        let _ = bin.post_message(warning);
    }

    /// The stream fails, because there is no other attempt at a chunk.
    pub(super) fn tell_of_failure(
        &self,
        report: &Report<Arc<Failure>>,
        reason: GiveUpReason,
        failure: &Failure,
    ) {
        let (chunk, of) = (Some(report.chunk), Some(report.session));
        if let (GiveUpReason::Hopeless, Failure::Encoder(error)) = (reason, failure) {
            let post = Box::new(posting(error.message()));
            return self.fail_later(chunk, FlowError::Error, of, post);
        }
        let because = match reason {
            GiveUpReason::Attempts => match report.attempts.len() {
                1 => String::new(),
                attempts => format!(" in {attempts} attempts"),
            },
            GiveUpReason::NoSession => ", and no session is left".to_string(),
            GiveUpReason::AlreadySent => {
                ", and some of it has left, which another attempt couldn't make again".to_string()
            }
            GiveUpReason::Hopeless => String::new(),
        };
        let text = format!(
            "{} could not be encoded{because}: {}",
            named(report),
            failure.summary()
        );
        let text = text.replacen("chunk", "Chunk", 1);
        let attempts: Vec<_> = report.attempts.iter().map(in_words).collect();
        let debug = attempts.join("\n");
        let (error, details) = (failure.error(&text), self.details(report, failure));
        let post = move |bin: &gst::Bin| {
            gst::error!(CAT, obj = bin, "{text}\n{debug}");
            let error = gst::message::Error::builder_from_error(error)
                .src(bin)
                .debug(&debug)
                .details(details)
                .build();
            let _ = bin.post_message(error);
        };
        self.fail_later(chunk, FlowError::Error, of, Box::new(post));
    }

    /// The fields that docs/messages.md describes.
    fn details(&self, report: &Report<Arc<Failure>>, failure: &Failure) -> gst::Structure {
        let reasons = report.attempts.iter().map(in_words);
        let mut details = gst::Structure::builder("vtparallelenc-attempt-failed")
            .field("session", report.session.0 as u64)
            .field("chunk", report.chunk.0)
            .field("first-frame", report.frames.start.0)
            .field("frames", report.frames.len())
            .field("attempt", report.number)
            .field("max-attempts", report.max_attempts)
            .field("encoder", self.encoding.lock().encoder_name())
            .field("cause", failure.cause())
            .field("reason", failure.to_string())
            .field("attempts", gst::Array::new(reasons));
        if let Some((from, to)) = span(report) {
            details = details.field("start-time", from).field("end-time", to);
        }
        if let Failure::Posted(posted) = failure.innermost() {
            details = details
                .field("encoder-message", posted.error.message())
                .field_if_some("encoder-debug", posted.debug.as_deref());
        }
        details.build()
    }
}

fn in_words(failed: &FailedAttempt<Arc<Failure>>) -> String {
    let FailedAttempt {
        number,
        session,
        failure,
    } = failed;
    format!("attempt {number} in session {session}: {failure}")
}

/// When its chunk begins and ends, where its frames have times. (What they say of them may add up to more than a time can be.)
fn span(report: &Report<Arc<Failure>>) -> Option<(gst::ClockTime, gst::ClockTime)> {
    let time = |time: Option<u64>| gst::ClockTime::try_from(time?).ok();
    Some((time(report.start)?, time(report.end)?))
}

/// Its chunk, as messages name it.
fn named(report: &Report<Arc<Failure>>) -> String {
    let Report { chunk, frames, .. } = report;
    let last = frames.end.0.saturating_sub(1).max(frames.start.0);
    let span = span(report).map(|(from, to)| format!(", from {from} to {to}"));
    let span = span.unwrap_or_default();
    format!("chunk {chunk} (frames {} to {last}{span})", frames.start)
}

/// What the plan made less of than was asked for, if it did.
fn describe_reduction(plan: &Plan) -> Option<String> {
    let shrunk = plan.shrunk?;
    let min_asked = shrunk.chunk_frames.map_or(shrunk.min_chunk_frames, |own| {
        own.min(shrunk.min_chunk_frames)
    });
    let less = [
        ("chunk-frames", shrunk.chunk_frames, plan.length.longest()),
        ("min-chunk-frames", Some(min_asked), plan.min_frames),
    ];
    let less = less.into_iter().filter_map(|(property, asked, is)| {
        let asked = asked.filter(|asked| *asked > is)?;
        Some(format!("{property} is {is} instead of {asked}"))
    });
    let others = shrunk.key_distance.map(|distance| {
        let is = plan.length.longest();
        format!("chunks are {is} frames long and no multiples of the key frame distance, which is {distance}")
    });
    let less: Vec<_> = less.chain(others).collect();
    Some(format!(
        "The memory for raw video is too small: {}, so {}; raise max-raw-bytes to at least {} to have what was set",
        shrunk.needs,
        less.join(" and "),
        shrunk.needs.needed_bytes
    ))
}

/// What the plan costs, if that is more than it may.
fn describe_overhead(plan: &Plan, most: Overhead) -> Option<String> {
    let overhead = plan.overhead.filter(|&overhead| overhead > most)?;
    Some(format!(
        "Chunks of {} frames are expected to cost about {:.1} % more bits than one encoder, more than max-bitrate-overhead ({:.1} %); leave \
         sessions, chunk-frames and cut to the element where they are set, or raise max-raw-bytes",
        plan.length.longest(),
        overhead.percent(),
        most.percent()
    ))
}

impl From<EncoderError> for gst::ErrorMessage {
    fn from(error: EncoderError) -> Self {
        error.message()
    }
}

impl From<BudgetTooSmall> for gst::ErrorMessage {
    fn from(error: BudgetTooSmall) -> Self {
        gst::error_msg!(
            gst::LibraryError::Settings,
            ("The memory for raw video is too small: {error}; raise max-raw-bytes, or lower \
                 overlap-before or overlap-after if they are set")
        )
    }
}
