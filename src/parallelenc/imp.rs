// SPDX-License-Identifier: MPL-2.0

//! The public bin: properties, pads, states, the children's messages. Wires, decides nothing.

use super::presets;
use super::settings::{
    AUTOMATIC_OVERLAP, DEFAULT_CACHE_MAX_BYTES, DEFAULT_MAX_ATTEMPTS, DEFAULT_MAX_OVERHEAD,
    DEFAULT_MIN_CHUNK_FRAMES, DEFAULT_PROGRESS_INTERVAL, DEFAULT_STALL_TIMEOUT, MAX_OVERLAP,
    Settings,
};
use crate::encoder::description::EncoderError;
use crate::encoder::model::{self, Models};
use crate::host::Host;
use crate::job::{Cut, Job, MAX_SESSIONS, MAX_THREADS};
use crate::logic::given::Given;
use crate::media::caps;
use crate::media::queries::ask_target;
use crate::panics::{self, Part};
use crate::stream::Shared;
use crate::stream::decision::Decision;
use glib::Properties;
use glib::subclass::Signal;
use gst::prelude::*;
use gst::subclass::prelude::*;
use once_cell::sync::{Lazy, OnceCell};
use parking_lot::Mutex;
use std::sync::{Arc, PoisonError};

static CAT: Lazy<gst::DebugCategory> =
    Lazy::new(|| crate::category("vtparallelenc", "the element"));

// The properties that hold structures, which the derive cannot declare.
const STATS: &str = "stats";
const ENCODER_PROPERTIES: &str = "encoder-properties";

/// Each fresh encoder, before it is opened.
pub(super) const ENCODER_SETUP: &str = "encoder-setup";

#[derive(Default, Properties)]
#[properties(wrapper_type = super::ParallelEnc)]
pub struct ParallelEnc {
    #[property(name = "encoder", get, set, type = Option<String>, member = encoder, mutable_ready,
        nick = "Encoder",
        blurb = "The encoder of each session: a factory name, with properties and further elements as gst-launch-1.0 takes \
                 them (before it what works on raw video, after it parsers and the like), for example 'x264enc speed-preset=medium pass=qual quantizer=23'. If it is not set, the highest ranked \
                 encoder for the caps that downstream accepts is chosen. It must not come from strangers.")]
    #[property(name = "sessions", get, set, type = u32, member = sessions, minimum = 0, maximum = MAX_SESSIONS,
        default = 0, mutable_ready, nick = "Sessions",
        blurb = "The number of encoders that work at the same time. 0 means what is over first, by the film's length, the picture, the \
                 memory and max-bitrate-overhead: at most what the encoder recommends itself, one for each core that the process may use with a software encoder (all \
                 elements of the process with 0, from READY on, share the cores equally, but each has two at least), or the engines of the hardware (one unless more are \
                 known of); one encoder for the whole stream where its own threads are as fast. A session that can't be opened is closed, with a warning, as long as another one works.")]
    #[property(name = "threads-per-session", get, set, type = u32, member = threads_per_session, minimum = 0, maximum = MAX_THREADS,
        default = 0, mutable_ready, nick = "Threads of each session",
        blurb = "The number of threads that each encoder has, if it can be told and no property of its own says it. 0 means one if sessions or cache-location is set; \
                 otherwise the cores for each session, as far as threads gain anything. (Where what the encoder makes doesn't depend on it, always the latter.) What many encoders make depends on it, so the same \
                 bytes on another machine need the same number (stats says it) and the same chunks.")]
    #[property(name = "chunk-frames", get, set, type = u32, member = chunk_frames, default = 0, mutable_ready,
        nick = "Chunk length in frames",
        blurb = "The number of frames that one encoder encodes in a row. 0 means that cut says where chunks end, near 250 frames, 500 \
                 where a bitrate is the encoder's target and no VBV keeps it near that, or 100 where each frame is a key frame, or ten times the automatic overlap where that is more; near fewer where the memory doesn't hold that for all sessions. Where the length \
                 of the source is known, the last chunks are shorter, down to about 60 frames (240 where a rate control has to settle) and twice the overlap, so that all sessions end together; \
                 where it is not, the first ones are near 100 frames (240) or six times the overlap, and the next ones near more. If max-raw-bytes \
                 doesn't hold one chunk, chunks are shorter than set, with a warning.")]
    #[property(name = "cut", get, set, type = Cut, member = cut, builder(Cut::Scene).mutable_ready().nick("Where chunks end").blurb(
        "Where chunks end whose length is automatic. scene: where the encoder makes a key frame by itself, so that the next \
                 chunk's costs no bits: at a cut that is seen in the video, or at the encoder's greatest key frame distance; as \
                 far as max-raw-bytes allows for. A film without either is a single chunk up to that distance. fixed: by counting \
                 frames, in multiples of the greatest key frame distance where that is set, up to 120, or up to 600 where the memory \
                 holds that for all sessions. Live sources are always cut like that, and video in memory that isn't the system's by \
                 multiples of the distance that the encoder has."
    ))]
    #[property(name = "min-chunk-frames", get, set, type = u32, member = min_chunk_frames, minimum = 1,
        default = DEFAULT_MIN_CHUNK_FRAMES, mutable_ready, nick = "Minimum chunk length in frames",
        blurb = "A chunk with fewer frames than this at the end of the stream joins the chunk before it. It is at most \
                 the chunk length, and less, with a warning, if max-raw-bytes doesn't hold a chunk of it.")]
    #[property(name = "overlap-before", get, set, type = i32, member = overlap_before, minimum = AUTOMATIC_OVERLAP,
        maximum = MAX_OVERLAP, default = AUTOMATIC_OVERLAP, mutable_ready, nick = "Overlap before a chunk in frames",
        blurb = "The number of frames that an encoder is given before those of its chunk, whose packets are thrown away. It \
                 lets the encoder's rate control settle. -1 means 24 frames where a bitrate drives the encoder, 10 where that is \
                 the quality of x264enc or x265enc and 152 where it is that of vp8enc, at most a third of the chunk, if the encoder is known to honour \
                 force-key-unit events with a closed GOP; otherwise, and with a constant quantizer, none. If the encoder turns out not to honour them, the overlap \
                 is dropped with a warning.")]
    #[property(name = "overlap-after", get, set, type = i32, member = overlap_after, minimum = AUTOMATIC_OVERLAP,
        maximum = MAX_OVERLAP, default = AUTOMATIC_OVERLAP, mutable_ready, nick = "Overlap after a chunk in frames",
        blurb = "The number of frames that an encoder is given after those of its chunk, whose packets are thrown away. It \
                 feeds the look-ahead of the last frames, and is encoded no further than it takes to have them, unless the encoder does so anyway (x264enc, x265enc). -1 means the look-ahead of the encoder, at most 24 frames and at most a \
                 third of the chunk, under the same conditions as with overlap-before.")]
    #[property(name = "source-frame-count", get, set, type = u64, member = source_frame_count, default = 0,
        mutable_ready, nick = "Number of frames of the source",
        blurb = "The number of frames that the source has, which is used to make all chunks equal. 0 means to ask upstream \
                 for its duration, before the first frame.")]
    #[property(name = "key-frame-interval", get, set, type = u64, member = key_frame_interval, default = 0,
        mutable_ready, nick = "Key frame interval in nanoseconds",
        blurb = "The running time in nanoseconds after which a key frame comes at the latest, counted from zero: the first frame of each \
                 multiple is one, whatever the chunks. It is for segments and ladders of several elements, whose key frames have to \
                 stand at the same frames. 0 means that key frames come where the encoder, chunks and force-key-unit events make them.")]
    #[property(name = "allow-parallel", get, set, type = bool, member = allow_parallel, default = true, mutable_ready,
        nick = "Allow parallel encoding",
        blurb = "Whether the video may be encoded in chunks. If it is false, one encoder encodes the whole stream as it would \
                 without this element.")]
    #[property(name = "allow-parallel-live", get, set, type = bool, member = allow_parallel_live, default = false,
        mutable_ready, nick = "Allow parallel encoding of live sources",
        blurb = "Whether a live source may be encoded in chunks, too. It delays the stream by as many chunks as there are \
                 sessions, which the latency query tells, so set chunk-frames. It needs a frame rate in the caps. If it is false, one \
                 encoder encodes the whole stream of a live source.")]
    #[property(name = "max-bitrate-overhead", get, set, type = f64, member = max_bitrate_overhead, minimum = 0.0, maximum = 100.0,
        default = DEFAULT_MAX_OVERHEAD, mutable_ready, nick = "Maximum bitrate overhead in percent",
        blurb = "What chunks may cost in bits at the same quality, against one encoder, in percent, as expected of what was measured of the encoder. \
                 Chunks are as long as that asks for, and one encoder encodes the whole stream where the memory doesn't hold such chunks or the film is too \
                 short for them. What is set (sessions, chunk-frames, cut=fixed) is done all the same, with a warning if it costs more. stats says what is expected, in \
                 expected-overhead, unless nobody knows, in which case nothing is bounded.")]
    #[property(name = "max-raw-bytes", get, set, type = u64, member = max_raw_bytes, default = 0, mutable_ready,
        nick = "Maximum of raw video in bytes",
        blurb = "The most bytes of raw video that are held at once. 0 means an equal share of a quarter of what is available of the machine's \
                 memory, or of the container's limit where that is less, with all elements of the process that are at READY or above and \
                 have 0 as well. If it doesn't hold a chunk as long as chunk-frames says for each session, chunks are shorter; where they would \
                 have less than 24 frames, or less than 240 if a rate control has to settle in them, and sessions is 0, fewer sessions work, but two in any case. stats says what limited the \
                 plan, in limited-by. If it doesn't hold one chunk, chunks become shorter than set, with a warning; an error if \
                 it doesn't hold two frames and the overlap that was set.")]
    #[property(name = "max-attempts", get, set, type = u32, member = max_attempts, minimum = 1,
        default = DEFAULT_MAX_ATTEMPTS, mutable_ready, nick = "Maximum number of attempts",
        blurb = "The number of times that a chunk is encoded, the first included, before its failure is that of the stream. Each \
                 failed attempt is a warning on the bus, with details. A session that fails three times in a row is closed, and \
                 with the last one the stream fails. A chunk's frames are held until it is verified, whatever this is.")]
    #[property(name = "stall-timeout", get, set, type = u64, member = stall_timeout, default = DEFAULT_STALL_TIMEOUT,
        mutable_ready, nick = "Stall timeout in nanoseconds",
        blurb = "The time in nanoseconds after which an encoder is given up that has frames, but takes none and makes no packet, \
                 or that doesn't open or close. It is left to itself, and another one gets its chunk. 0 means never. When the \
                 element is stopped, encoders are waited for as long, but at most 10 seconds.")]
    #[property(name = "progress-interval", get, set, type = u64, member = progress_interval, default = DEFAULT_PROGRESS_INTERVAL,
        mutable_ready, nick = "Progress interval in nanoseconds",
        blurb = "The time in nanoseconds between two messages vtparallelenc-progress, which say how far the stream is and how long it \
                 still takes. The last one comes before the end of the stream. 0 means none.")]
    #[property(name = "timeline-location", get, set, type = Option<String>, member = timeline_location, mutable_ready,
        nick = "File for a timeline",
        blurb = "A file that is written with what every session does when, and what is held: trace events as Perfetto (ui.perfetto.dev) and \
                 chrome://tracing open them. It is replaced at each start, it can be read while it is written and after a crash, and nobody but the user may read \
                 it. If it can't be written, there is a warning. Unset means none.")]
    #[property(name = "cache-location", get, set, type = Option<String>, member = cache_location, mutable_ready,
        nick = "Directory of the cache",
        blurb = "A directory in which each encoded chunk is kept, so that another run, after a crash or an edit, encodes only the \
                 chunks whose frames, times, caps or encoder with its properties are others. It is made if it isn't there. One \
                 session encodes in chunks, too, then. If it can't be used, there is a warning. Unset means not to keep anything.")]
    #[property(name = "cache-max-bytes", get, set, type = u64, member = cache_max_bytes, default = DEFAULT_CACHE_MAX_BYTES,
        mutable_ready, nick = "Maximum of the cache in bytes",
        blurb = "The most bytes that chunks take in cache-location. Those that were not used for the longest time are removed first. \
                 0 means no bound.")]
    settings: std::sync::Mutex<Settings>,
    #[property(name = "active-encoder", type = Option<String>,
        get = |it: &Self| it.known().map(|it| it.encoder), nick = "Active encoder",
        blurb = "The factory name of the encoder that is used, whether it was set or chosen. It is unset until that is known: \
                 from the state READY on if the encoder is set, otherwise from the first caps on.")]
    #[property(name = "recommended-parallelization-limit", type = u32,
        get = |it: &Self| it.known().map_or(0, |it| it.automatic_sessions),
        nick = "Recommended number of sessions",
        blurb = "The number of sessions that sessions=0 uses at most: what the encoder recommends in a property of this name, or \
                 what is known of it. It is 0 until the encoder is known.")]
    #[property(name = "recommended-parallelized-subdivision-minimum-frame-count", type = u64,
        get = |it: &Self| it.known().map_or(0, |it| it.min_chunk_frames), nick = "Recommended minimum chunk length in frames",
        blurb = "The number of frames below which no chunk is planned, if its length is automatic: what the encoder recommends \
                 in a property of this name, or min-chunk-frames if that is more. It is 0 until the encoder is known.")]
    #[property(name = "recommended-parallelized-subdivision-minimum-duration", type = u64,
        get = |it: &Self| it.known().map_or(0, |it| it.min_chunk_duration), nick = "Recommended minimum chunk length in nanoseconds",
        blurb = "The time in nanoseconds below which no chunk is planned, if its length is automatic: what the encoder \
                 recommends in a property of this name. 0 means none.")]
    /// All that is behind the properties and pads, once the element is made.
    stream: OnceCell<Arc<Shared>>,
    /// What panicked at NULL, where the application may not have heard it: it is told again when the element is to leave that.
    panicked: Mutex<Option<gst::ErrorMessage>>,
}

#[glib::object_subclass]
impl ObjectSubclass for ParallelEnc {
    const NAME: &'static str = "GstVtParallelEnc";
    type Type = super::ParallelEnc;
    type ParentType = gst::Bin;
    type Interfaces = (gst::ChildProxy, gst::Preset);

    fn class_init(class: &mut Self::Class) {
        presets::adapt(class);
    }
}

impl ObjectImpl for ParallelEnc {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: Lazy<Vec<glib::ParamSpec>> = Lazy::new(|| {
            let encoder_properties =
                glib::ParamSpecBoxed::builder::<gst::Structure>(ENCODER_PROPERTIES)
                    .nick("Properties of the encoder")
                    .blurb(
                        "Properties that are set on each encoder, one for each field, beside those of the description: for tools \
                         that can set the element's own properties only, as encoding profiles do. For example \
                         'properties,bitrate=4000,speed-preset=fast'. The name of the structure doesn't matter.",
                    )
                    .mutable_ready()
                    .build();
            let stats = glib::ParamSpecBoxed::builder::<gst::Structure>(STATS)
                .nick("Statistics")
                .blurb(
                    "What was done since the start, in frames, chunks and bytes: parallel, chunk-frames (of the longest, as planned), chunks-planned, \
                     chunks-finished, chunks-from-cache (of these, encoded by an earlier run), attempts-failed, vbv-retries (how often a chunk was encoded again, as it would have emptied the decoder's buffer), vbv-underflows (those that empty it all the same), frames-in, frames-out, frames-skipped (by the encoder), frames-encoded (for chunks that were delivered, with their overlaps and those that were encoded again), frames-copied (out \
                     of a pool that is too small), frames-unseen (which couldn't be read to look for cuts), bytes-held, bytes-peak and bytes-bound (raw video), leaves-early (now, before chunks are finished, because input stands still), overlap-before, overlap-after (as planned), \
                     cut (where chunks end: scene or fixed), sessions-planned (which work at the same time), threads-per-session, source-frames (where known) and max-raw-bytes (with these four set, and the same encoder, another machine makes the same bytes, if there is more than one session), expected-overhead (of the bits, in percent; not there where nobody knows), limited-by (what keeps chunks from being longer or sessions from \
                     being more: chunk-frames, source-length, longest-chunk (longer ones gain nothing) or max-raw-bytes), ample-raw-bytes and ample-speed-up (with so much memory for raw video it would be so many times as fast; only where that is 1.1 or more), sessions-open, \
                     sessions (each with frames, frames-per-second and busy-share), frames-done, frames-total, fraction, elapsed and time-left in nanoseconds, average-frames-per-second and speed-up (as in the message vtparallelenc-progress), encoder (as set or chosen), sequential-reason and sequential-nick (as in the message vtparallelenc-sequential).",
                )
                .read_only()
                .build();
            let derived = ParallelEnc::derived_properties().iter().cloned();
            derived.chain([encoder_properties, stats]).collect()
        });
        &PROPERTIES
    }

    fn property(&self, id: usize, spec: &glib::ParamSpec) -> glib::Value {
        let get = || self.get(id, spec);
        panics::caught(self, spec.name(), || spec.default_value().clone(), get)
    }

    fn set_property(&self, id: usize, value: &glib::Value, spec: &glib::ParamSpec) {
        panics::caught(self, spec.name(), || (), || self.set(id, value, spec));
    }

    fn signals() -> &'static [Signal] {
        static SIGNALS: Lazy<Vec<Signal>> = Lazy::new(|| {
            vec![
                Signal::builder(ENCODER_SETUP)
                    .param_types([gst::Element::static_type()])
                    .run_last()
                    .build(),
            ]
        });
        &SIGNALS
    }

    fn constructed(&self) {
        self.parent_constructed();
        panics::caught(self, "making the element", || (), || self.assemble());
    }
}

// What GObject asks for, where it may panic.
impl ParallelEnc {
    fn assemble(&self) {
        let bin = self.obj();
        // Sessions that are added to a running element don't begin its state change anew.
        bin.set_bin_flags(gst::BinFlags::NO_RESYNC);
        let stream = Shared::new(Arc::new(bin.downgrade()));
        // PANIC: they are new, and have no pad yet.
        let elements = stream.elements().expect("own elements");
        // PANIC: both are new, and their names differ.
        bin.add_many(elements).expect("own children");
        for (name, target) in [("sink", &stream.sink), ("src", &stream.src)] {
            // PANIC: the class has both templates, and the element has no other pad.
            let template = bin.pad_template(name).expect("own template");
            let pad = gst::GhostPad::builder_from_template_with_target(&template, target);
            let pad = pad
                .expect("own target")
                .name(name)
                .query_function(ask_target)
                .build();
            bin.add_pad(&pad).expect("own pad");
        }
        let _ = self.stream.set(stream);
    }

    /// The settings. What a panic left behind one lock is what was set.
    fn settings(&self) -> std::sync::MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn models(&self) -> Option<&Models> {
        self.stream.get().map(|stream| &stream.models)
    }

    fn get(&self, id: usize, spec: &glib::ParamSpec) -> glib::Value {
        match spec.name() {
            STATS => self.stats().to_value(),
            ENCODER_PROPERTIES => {
                let properties = self.models().and_then(|models| models.properties());
                properties.to_value()
            }
            _ => self.derived_property(id, spec),
        }
    }

    fn set(&self, id: usize, value: &glib::Value, spec: &glib::ParamSpec) {
        match spec.name() {
            ENCODER_PROPERTIES => {
                // PANIC: GObject has checked the type.
                let properties: Option<gst::Structure> = value.get().expect("a structure");
                if let Some(models) = self.models() {
                    models.set_properties(properties);
                }
            }
            name => {
                self.derived_set_property(id, value, spec);
                if let ("encoder", Some(models)) = (name, self.models()) {
                    let description = self.settings().encoder.clone();
                    // A description that makes nothing is reported when it is used.
                    let _ = models.renew(description.as_deref());
                }
            }
        }
    }
}

impl GstObjectImpl for ParallelEnc {}

impl ElementImpl for ParallelEnc {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: Lazy<gst::subclass::ElementMetadata> =
            Lazy::new(|| metadata("Parallel video encoder"));
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: Lazy<Vec<gst::PadTemplate>> =
            Lazy::new(|| pad_templates(&caps::encoded()));
        &TEMPLATES
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        // Apart from what GstBin does, which goes down whatever happens here.
        let begun = panics::caught(
            self,
            &format!("before {transition:?}"),
            || Err(gst::StateChangeError),
            || self.before(transition),
        );
        let is_first = transition == gst::StateChange::NullToReady;
        let goes_down = transition.next() < transition.current();
        let changed = match begun {
            Err(refused) if !goes_down => {
                if let Some(stream) = self.stream.get().filter(|_| is_first) {
                    panics::reporting(self, "going back to NULL", || stream.unprepare());
                }
                Err(refused)
            }
            _ => {
                let changed = self.parent_change_state(transition)?;
                let what = format!("after {transition:?}");
                panics::reporting(self, &what, || self.after(transition));
                Ok(changed)
            }
        };
        if is_first {
            // It was heard.
            *self.panicked.lock() = None;
        }
        changed
    }
}

impl ParallelEnc {
    fn before(&self, transition: gst::StateChange) -> Result<(), gst::StateChangeError> {
        let is_first = transition == gst::StateChange::NullToReady;
        let panicked = self.panicked.lock().take_if(|_| is_first);
        if let Some(error) = panicked {
            self.post_error_message(error);
            return Err(gst::StateChangeError);
        }
        let Some(stream) = self.stream.get() else {
            // It couldn't be made, so it doesn't start.
            return if is_first {
                Err(gst::StateChangeError)
            } else {
                Ok(())
            };
        };
        let job = || -> Job { self.settings().job() };
        let begun = match transition {
            gst::StateChange::NullToReady => {
                let job = job();
                gst::info!(CAT, imp = self, "{job:?}");
                self.refused_property().and_then(|()| stream.prepare(job))
            }
            gst::StateChange::ReadyToPaused => {
                self.refused_property().and_then(|()| stream.start(&job()))
            }
            gst::StateChange::PausedToReady => {
                gst::info!(CAT, imp = self, "{}", self.stats());
                // Before the pads are deactivated: that waits for those who wait here.
                stream.shut_down();
                Ok(())
            }
            _ => Ok(()),
        };
        begun.map_err(|error| {
            gst::error!(CAT, imp = self, "{error}");
            self.post_error_message(error.message());
            gst::StateChangeError
        })
    }

    fn after(&self, transition: gst::StateChange) {
        match (transition, self.stream.get()) {
            (gst::StateChange::PausedToReady, Some(stream)) => stream.stopped(),
            (gst::StateChange::ReadyToNull, Some(stream)) => stream.unprepare(),
            _ => (),
        }
    }

    /// What `encoder-properties` asked in vain of the encoder that is set. One that was chosen may be another next time.
    fn refused_property(&self) -> Result<(), EncoderError> {
        match self.models() {
            Some(models) if self.settings().encoder.is_some() => models.refused(),
            _ => Ok(()),
        }
    }

    /// Our own code panicked: says so, and ends the stream. Each time: who is second may not end it before the first was heard.
    pub(super) fn panicked(&self, text: &str, what: &str) {
        // The derived properties take the lock as it is.
        self.settings.clear_poison();
        let error = gst::error_msg!(gst::LibraryError::Failed, ("{text}"), ["{what}"]);
        if self.obj().current_state() == gst::State::Null {
            *self.panicked.lock() = Some(error.clone());
        }
        self.post_error_message(error);
        if let Some(stream) = self.stream.get() {
            stream.panicked();
        }
    }
}

impl Part for ParallelEnc {
    fn host(&self) -> Option<Arc<dyn Host>> {
        Some(Arc::new(self.obj().downgrade()))
    }
}

impl BinImpl for ParallelEnc {
    fn handle_message(&self, message: gst::Message) {
        if let Some(stream) = self.stream.get() {
            panics::reporting(self, "a message", || stream.see(&message));
        }
        self.parent_handle_message(message);
    }
}

impl PresetImpl for ParallelEnc {}

/// One child, `encoder`, which stands for the encoders of all sessions.
impl ChildProxyImpl for ParallelEnc {
    fn children_count(&self) -> u32 {
        u32::from(self.child_by_index(0).is_some())
    }

    fn child_by_index(&self, index: u32) -> Option<glib::Object> {
        let child = || {
            let child = self.models().filter(|_| index == 0)?.child();
            child.map(Cast::upcast)
        };
        panics::caught(self, "a child", || None, child)
    }

    fn child_by_name(&self, name: &str) -> Option<glib::Object> {
        (name == model::NAME).then(|| self.child_by_index(0))?
    }
}

/// What a subclass of the element has to be: see `codecs`.
pub trait ParallelEncImpl: BinImpl + ObjectSubclass<Type: IsA<super::ParallelEnc>> {}

// SAFETY: the class structure is GstBin's, and has nothing that a subclass would have to fill in.
unsafe impl<T: ParallelEncImpl> IsSubclassable<T> for super::ParallelEnc {}

pub(super) fn metadata(long_name: &str) -> gst::subclass::ElementMetadata {
    gst::subclass::ElementMetadata::new(
        long_name,
        "Codec/Encoder/Video",
        "Encodes one video with several encoders at once and hands on a single stream",
        env!("CARGO_PKG_AUTHORS"),
    )
}

pub(super) fn pad_templates(encoded: &gst::Caps) -> Vec<gst::PadTemplate> {
    vec![
        caps::pad_template("sink", &caps::raw()),
        caps::pad_template("src", encoded),
    ]
}

impl ParallelEnc {
    /// Chunks that were planned before, from the next start on.
    pub(crate) fn give(&self, given: Given) {
        self.settings().given = Some(given);
    }

    /// Automatic chunks may be so long, from the next start on.
    pub(crate) fn plan_up_to(&self, frames: u64) {
        self.settings().longest_chunk = Some(frames);
    }

    pub(crate) fn stream(&self) -> Option<&Arc<Shared>> {
        self.stream.get()
    }
}

// Getters.
impl ParallelEnc {
    fn stats(&self) -> gst::Structure {
        let stats = self.stream.get().map(|stream| stream.stats());
        stats.unwrap_or_else(|| gst::Structure::new_empty("vtparallelenc-stats"))
    }

    /// What is known once the encoder is.
    fn known(&self) -> Option<Decision> {
        self.stream.get()?.decision()
    }
}
