// SPDX-License-Identifier: MPL-2.0

//! The public bin: properties, pads, states, the children's messages. Wires, decides nothing.

use super::model::{self, Model};
use super::presets;
use super::report::Snapshot;
use super::settings::{
    AUTOMATIC_OVERLAP, DEFAULT_CACHE_MAX_BYTES, DEFAULT_MAX_ATTEMPTS, DEFAULT_MIN_CHUNK_FRAMES,
    DEFAULT_STALL_TIMEOUT, MAX_OVERLAP, MAX_SESSIONS, Settings,
};
use crate::aggregator::Aggregator;
use crate::distributor::decision::Decision;
use crate::distributor::{Distributor, encoder_error};
use crate::locking::lock;
use crate::panics::{self, Part, may_panic};
use crate::session::encoder::{self, EncoderError};
use crate::session::overrides::Overrides;
use crate::session::threads;
use glib::Properties;
use glib::subclass::Signal;
use gst::prelude::*;
use gst::subclass::prelude::*;
use once_cell::sync::Lazy;
use std::sync::{Arc, Mutex};

static CAT: Lazy<gst::DebugCategory> = Lazy::new(|| {
    gst::DebugCategory::new(
        "vtparallelenc",
        gst::DebugColorFlags::empty(),
        Some("Encoding one video with several encoders at once"),
    )
});

// The properties that hold structures, which the derive cannot declare.
const STATS: &str = "stats";
const ENCODER_PROPERTIES: &str = "encoder-properties";

/// Each fresh encoder, before it is opened.
const ENCODER_SETUP: &str = "encoder-setup";

#[derive(Properties)]
#[properties(wrapper_type = super::ParallelEnc)]
pub struct ParallelEnc {
    #[property(name = "encoder", get, set, type = Option<String>, member = encoder, mutable_ready,
        nick = "Encoder",
        blurb = "The encoder of each session: a factory name, with properties and further elements as gst-launch-1.0 takes \
                 them (before it what works on raw video, after it parsers and the like), for example 'x264enc speed-preset=medium pass=qual quantizer=23'. If it is not set, the highest ranked \
                 encoder for the caps that downstream accepts is chosen. It must not come from strangers.")]
    #[property(name = "sessions", get, set, type = u32, member = sessions, minimum = 0, maximum = MAX_SESSIONS,
        default = 0, mutable_ready, nick = "Sessions",
        blurb = "The number of encoders that work at the same time. 0 means as many as the encoder gains from: what it \
                 recommends itself, one for each core with a software encoder, or the engines of the hardware (one unless more are \
                 known of). A session that can't be opened is closed, with a warning, as long as another one works.")]
    #[property(name = "chunk-frames", get, set, type = u32, member = chunk_frames, default = 0, mutable_ready,
        nick = "Chunk length in frames",
        blurb = "The number of frames that one encoder encodes in a row. 0 means as many as the memory allows for all \
                 sessions, at most 250, or 100 where each frame is a key frame. Where the length of the source is known, the last \
                 chunks are shorter, down to 60 frames, so that all sessions end together; where it is not, the first ones have \
                 100 frames and the next ones more. If max-raw-bytes \
                 doesn't hold one chunk, chunks are shorter than set, with a warning.")]
    #[property(name = "min-chunk-frames", get, set, type = u32, member = min_chunk_frames, minimum = 1,
        default = DEFAULT_MIN_CHUNK_FRAMES, mutable_ready, nick = "Minimum chunk length in frames",
        blurb = "A chunk with fewer frames than this at the end of the stream joins the chunk before it. It is at most \
                 the chunk length, and less, with a warning, if max-raw-bytes doesn't hold a chunk of it.")]
    #[property(name = "overlap-before", get, set, type = i32, member = overlap_before, minimum = AUTOMATIC_OVERLAP,
        maximum = MAX_OVERLAP, default = AUTOMATIC_OVERLAP, mutable_ready, nick = "Overlap before a chunk in frames",
        blurb = "The number of frames that an encoder is given before those of its chunk, whose packets are thrown away. It \
                 lets the rate control of bitrate driven encoding settle; constant quality encoding gains nothing. -1 means \
                 24 frames, at most a quarter of the chunk, where the encoder is known to honour force-key-unit events with a closed \
                 GOP and is driven by a bitrate, and otherwise none. If the encoder turns out not to honour them, the overlap \
                 is dropped with a warning.")]
    #[property(name = "overlap-after", get, set, type = i32, member = overlap_after, minimum = AUTOMATIC_OVERLAP,
        maximum = MAX_OVERLAP, default = AUTOMATIC_OVERLAP, mutable_ready, nick = "Overlap after a chunk in frames",
        blurb = "The number of frames that an encoder is given after those of its chunk, whose packets are thrown away. It \
                 feeds the look-ahead of the last frames, and is encoded no further than it takes to have them. -1 means the look-ahead of the encoder, at most 24 frames and at most a \
                 quarter of the chunk, under the same conditions as with overlap-before.")]
    #[property(name = "source-frame-count", get, set, type = u64, member = source_frame_count, default = 0,
        mutable_ready, nick = "Number of frames of the source",
        blurb = "The number of frames that the source has, which is used to make all chunks equal. 0 means to ask upstream \
                 for its duration, before the first frame.")]
    #[property(name = "allow-parallel", get, set, type = bool, member = allow_parallel, default = true, mutable_ready,
        nick = "Allow parallel encoding",
        blurb = "Whether the video may be encoded in chunks. If it is false, one encoder encodes the whole stream as it would \
                 without this element.")]
    #[property(name = "allow-parallel-live", get, set, type = bool, member = allow_parallel_live, default = false,
        mutable_ready, nick = "Allow parallel encoding of live sources",
        blurb = "Whether a live source may be encoded in chunks, too. It delays the stream by as many chunks as there are \
                 sessions, which the latency query tells, so set chunk-frames. It needs a frame rate in the caps. If it is false, one \
                 encoder encodes the whole stream of a live source.")]
    #[property(name = "max-raw-bytes", get, set, type = u64, member = max_raw_bytes, default = 0, mutable_ready,
        nick = "Maximum of raw video in bytes",
        blurb = "The most bytes of raw video that are held at once. 0 means a quarter of the machine's memory, or of the \
                 container's limit where one is set. If it doesn't hold 250 frames for each session, chunks are shorter; where they would \
                 have less than 24 frames and sessions is 0, fewer sessions work, but two in any case. stats says what limited the \
                 plan, in limited-by. If it doesn't hold one chunk, chunks become shorter than set, with a warning; an error if \
                 it doesn't hold two frames and the overlap that was set.")]
    #[property(name = "max-attempts", get, set, type = u32, member = max_attempts, minimum = 1,
        default = DEFAULT_MAX_ATTEMPTS, mutable_ready, nick = "Maximum number of attempts",
        blurb = "The number of times that a chunk is encoded, the first included, before its failure is that of the stream. Each \
                 failed attempt is a warning on the bus, with details. A session that fails three times in a row is closed, and \
                 with the last one the stream fails. With 1, frames go as they are fed to an encoder, which needs half of the memory, except \
                 those of the first chunks, until the encoder has shown that it can be cut, and all with cache-location. What encoders hold back themselves, for \
                 their look-ahead, then comes on top of max-raw-bytes.")]
    #[property(name = "stall-timeout", get, set, type = u64, member = stall_timeout, default = DEFAULT_STALL_TIMEOUT,
        mutable_ready, nick = "Stall timeout in nanoseconds",
        blurb = "The time in nanoseconds after which an encoder is given up that has frames, but takes none and makes no packet, \
                 or that doesn't open or close. It is left to itself, and another one gets its chunk. 0 means never. When the \
                 element is stopped, encoders are waited for as long, but at most 10 seconds.")]
    #[property(name = "cache-location", get, set, type = Option<String>, member = cache_location, mutable_ready,
        nick = "Directory of the cache",
        blurb = "A directory in which each encoded chunk is kept, so that another run, after a crash or an edit, encodes only the                  chunks whose frames, times, caps or encoder with its properties are others. It is made if it isn't there. One                  session encodes in chunks, too, then. If it can't be used, there is a warning. Unset means not to keep anything.")]
    #[property(name = "cache-max-bytes", get, set, type = u64, member = cache_max_bytes, default = DEFAULT_CACHE_MAX_BYTES,
        mutable_ready, nick = "Maximum of the cache in bytes",
        blurb = "The most bytes that chunks take in cache-location. Those that were not used for the longest time are removed first. Processes that share it may pass the bound for a while.                  0 means no bound.")]
    settings: Mutex<Settings>,
    #[property(name = "active-encoder", get = Self::active_encoder, type = Option<String>, nick = "Active encoder",
        blurb = "The factory name of the encoder that is used, whether it was set or chosen. It is unset until that is known: \
                 from the state READY on if the encoder is set, otherwise from the first caps on.")]
    #[property(name = "recommended-parallelization-limit", get = Self::recommended_sessions, type = u32,
        nick = "Recommended number of sessions",
        blurb = "The number of sessions that sessions=0 uses: what the encoder recommends in a property of this name, or \
                 what is known of it. It is 0 until the encoder is known.")]
    #[property(name = "recommended-parallelized-subdivision-minimum-frame-count", get = Self::recommended_frames,
        type = u64, nick = "Recommended minimum chunk length in frames",
        blurb = "The number of frames below which no chunk is planned, if its length is automatic: what the encoder recommends \
                 in a property of this name, or min-chunk-frames if that is more. It is 0 until the encoder is known.")]
    #[property(name = "recommended-parallelized-subdivision-minimum-duration", get = Self::recommended_duration,
        type = u64, nick = "Recommended minimum chunk length in nanoseconds",
        blurb = "The time in nanoseconds below which no chunk is planned, if its length is automatic: what the encoder \
                 recommends in a property of this name. 0 means none.")]
    distributor: Distributor,
    aggregator: Aggregator,
    /// What stands for the sessions' encoders among the children, once the encoder is known.
    model: Mutex<Option<Model>>,
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

    fn new() -> Self {
        let distributor = Distributor::new();
        let aggregator = Aggregator::new(&distributor);
        distributor.imp().connect(&aggregator);
        Self {
            settings: Mutex::default(),
            distributor,
            aggregator,
            model: Mutex::default(),
            panicked: Mutex::default(),
        }
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
                     chunks-finished, chunks-from-cache (of these, encoded by an earlier run), attempts-failed, frames-in, frames-out, frames-skipped (by the encoder), frames-copied (out \
                     of a pool that is too small), bytes-held, bytes-peak and bytes-bound (raw video), leaves-early (now, before chunks are whole, because input stands still), overlap-before, overlap-after (as planned), \
                     sessions-planned (which work at the same time), limited-by (what keeps chunks from being longer or sessions from \
                     being more: chunk-frames, source-length, longest-chunk (longer ones gain nothing) or max-raw-bytes), sessions-open, \
                     sessions (each with frames and frames-per-second), encoder (as set or chosen), profile (what is known of it: known, \
                     deterministic, forced-key, headers), sequential-reason.",
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
        may_panic!("bin-constructed");
        let bin = self.obj();
        // Sessions that are added to a running element don't begin its state change anew.
        bin.set_bin_flags(gst::BinFlags::NO_RESYNC);
        let children: [&gst::Element; 2] =
            [self.distributor.upcast_ref(), self.aggregator.upcast_ref()];
        // PANIC: both are new, and their names differ.
        bin.add_many(children).expect("own children");
        for (name, target) in [
            ("sink", self.distributor.sink()),
            ("src", self.aggregator.imp().src()),
        ] {
            // PANIC: the class has both templates, and the element has no other pad.
            let template = bin.pad_template(name).expect("own template");
            let pad = gst::GhostPad::builder_from_template_with_target(&template, target);
            let pad = pad.expect("own target").name(name).build();
            bin.add_pad(&pad).expect("own pad");
        }
    }

    fn get(&self, id: usize, spec: &glib::ParamSpec) -> glib::Value {
        may_panic!("bin-get");
        match spec.name() {
            STATS => self.stats().to_value(),
            ENCODER_PROPERTIES => lock(&self.settings).encoder_properties.to_value(),
            _ => self.derived_property(id, spec),
        }
    }

    fn set(&self, id: usize, value: &glib::Value, spec: &glib::ParamSpec) {
        may_panic!("bin-set");
        match spec.name() {
            ENCODER_PROPERTIES => {
                // PANIC: GObject has checked the type.
                let properties: Option<gst::Structure> = value.get().expect("a structure");
                let old =
                    std::mem::replace(&mut lock(&self.settings).encoder_properties, properties);
                for field in old.iter().flat_map(|old| old.fields()) {
                    self.overrides().forget(field);
                }
                self.set_encoder_properties();
            }
            name => {
                self.derived_set_property(id, value, spec);
                if name == "encoder" {
                    let description = lock(&self.settings).encoder.clone();
                    // A description that makes nothing is reported when it is used.
                    let _ = self.renew_model(description.as_deref());
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
            Lazy::new(|| pad_templates(&super::encoded_caps()));
        &TEMPLATES
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        // Apart from what GstBin does, which goes down whatever happens here.
        let begun = panics::caught(
            self,
            "changing the state",
            || Err(gst::StateChangeError),
            || self.before(transition),
        );
        let down = [
            gst::StateChange::PlayingToPaused,
            gst::StateChange::PausedToReady,
            gst::StateChange::ReadyToNull,
        ];
        if begun.is_err() && !down.contains(&transition) {
            if transition == gst::StateChange::NullToReady {
                let undo = || self.distributor.imp().unprepare();
                panics::caught(self, "going back to NULL", || (), undo);
                // It was heard.
                *lock(&self.panicked) = None;
            }
            return begun.map(|()| gst::StateChangeSuccess::Success);
        }
        let changed = self.parent_change_state(transition)?;
        panics::caught(self, "changing the state", || (), || self.after(transition));
        if transition == gst::StateChange::NullToReady {
            // It was heard.
            *lock(&self.panicked) = None;
        }
        Ok(changed)
    }
}

impl ParallelEnc {
    fn before(&self, transition: gst::StateChange) -> Result<(), gst::StateChangeError> {
        may_panic!(&format!("bin-before-{transition:?}"));
        if transition == gst::StateChange::NullToReady
            && let Some(error) = lock(&self.panicked).take()
        {
            self.post_error_message(error);
            return Err(gst::StateChangeError);
        }
        let distributor = self.distributor.imp();
        let job = || lock(&self.settings).job();
        let placed = match transition {
            gst::StateChange::NullToReady => {
                let job = job();
                gst::info!(CAT, imp = self, "{job:?}");
                self.refused_property()
                    .and_then(|()| distributor.prepare(job))
            }
            gst::StateChange::ReadyToPaused => self
                .refused_property()
                .and_then(|()| distributor.start(&job())),
            gst::StateChange::PausedToReady => {
                gst::info!(CAT, imp = self, "{}", self.stats());
                // Before the pads are deactivated: that waits for those who wait here.
                distributor.shut_down();
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = placed {
            gst::error!(CAT, imp = self, "{error}");
            self.post_error_message(encoder_error(&error));
            return Err(gst::StateChangeError);
        }
        Ok(())
    }

    fn after(&self, transition: gst::StateChange) {
        may_panic!(&format!("bin-after-{transition:?}"));
        let distributor = self.distributor.imp();
        match transition {
            gst::StateChange::PausedToReady => distributor.stopped(),
            gst::StateChange::ReadyToNull => distributor.unprepare(),
            _ => (),
        }
    }

    /// Our own code panicked: says so, and ends the stream. Each time: who is second may not end it before the first was heard.
    pub(crate) fn panicked(&self, text: &str, what: &str) {
        // The derived properties take the lock without `locking`.
        self.settings.clear_poison();
        let error = gst::error_msg!(gst::LibraryError::Failed, ("{text}"), ["{what}"]);
        if self.obj().current_state() == gst::State::Null {
            *lock(&self.panicked) = Some(error.clone());
        }
        self.post_error_message(error);
        self.distributor.imp().panicked();
    }
}

impl Part for ParallelEnc {
    fn whole(&self) -> Option<super::ParallelEnc> {
        Some(self.obj().clone())
    }
}

impl BinImpl for ParallelEnc {
    fn handle_message(&self, message: gst::Message) {
        let see = || {
            may_panic!("bin-message");
            let of_session = message.src().and_then(|pad| pad.parent());
            let ours = self.distributor.upcast_ref::<gst::Object>();
            if of_session.is_some_and(|parent| parent == *ours) {
                threads::give_to(&message);
            }
        };
        panics::caught(self, "a message", || (), see);
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
            may_panic!("child");
            let model = lock(&self.model);
            let encoder = model.as_ref().filter(|_| index == 0);
            encoder.map(|model| model.encoder.clone().upcast())
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
    let always = gst::PadPresence::Always;
    [
        gst::PadTemplate::new("sink", gst::PadDirection::Sink, always, &super::raw_caps()),
        gst::PadTemplate::new("src", gst::PadDirection::Src, always, encoded),
    ]
    .into_iter()
    .flatten()
    .collect()
}

// Getters of what is known once the encoder is.
impl ParallelEnc {
    fn stats(&self) -> gst::Structure {
        may_panic!("bin-stats");
        let snapshot: Option<Snapshot> = self.distributor.imp().snapshot();
        snapshot.unwrap_or_default().structure()
    }

    fn decision(&self) -> Option<Decision> {
        self.distributor.imp().decision()
    }

    fn active_encoder(&self) -> Option<String> {
        self.decision().map(|decision| decision.encoder)
    }

    fn recommended_sessions(&self) -> u32 {
        let sessions = self
            .decision()
            .map_or(0, |decision| decision.automatic_sessions);
        u32::try_from(sessions).unwrap_or(u32::MAX)
    }

    fn recommended_frames(&self) -> u64 {
        self.decision()
            .map_or(0, |decision| decision.min_chunk_frames)
    }

    fn recommended_duration(&self) -> u64 {
        self.decision()
            .map_or(0, |decision| decision.min_chunk_duration)
    }
}

// The encoder that stands for all.
impl ParallelEnc {
    /// Another encoder, or none: what was set on the last one is forgotten.
    fn renew_model(&self, description: Option<&str>) -> Result<(), EncoderError> {
        let old = lock(&self.model).take();
        if let Some(old) = old {
            self.obj().child_removed(&old.encoder, model::NAME);
        }
        let Some(description) = description else {
            return Ok(());
        };
        let weak = self.distributor.downgrade();
        let part = weak.clone();
        let model = Model::new(description, part, move |property, value| {
            if let Some(distributor) = weak.upgrade() {
                distributor.imp().encoder_property_set(property, value);
            }
        })?;
        let encoder = model.encoder.clone();
        *lock(&self.model) = Some(model);
        self.set_encoder_properties();
        self.obj().child_added(&encoder, model::NAME);
        Ok(())
    }

    /// Sets `encoder-properties` on the model, and through it on every encoder.
    fn set_encoder_properties(&self) {
        let properties = lock(&self.settings).encoder_properties.clone();
        let encoder = lock(&self.model)
            .as_ref()
            .map(|model| model.encoder.clone());
        let Some(encoder) = encoder else { return };
        let set = properties.map(|properties| encoder::set_properties(&encoder, &properties));
        if let Some(model) = lock(&self.model).as_mut() {
            model.refused = set.and_then(Result::err);
        }
    }

    /// What `encoder-properties` asked in vain of the encoder that is set. One that was chosen may be another next time.
    fn refused_property(&self) -> Result<(), EncoderError> {
        if lock(&self.settings).encoder.is_none() {
            return Ok(());
        }
        self.refused()
    }

    fn refused(&self) -> Result<(), EncoderError> {
        let model = lock(&self.model);
        let refused = model.as_ref().and_then(|model| model.refused.clone());
        refused.map_or(Ok(()), Err)
    }

    /// The encoder was chosen by what downstream accepts. If it is the one of the last stream, what was set on it holds.
    pub(crate) fn encoder_chosen(&self, description: &str) -> Result<(), EncoderError> {
        let model = lock(&self.model);
        let is_same = model
            .as_ref()
            .is_some_and(|model| model.description == description);
        drop(model);
        if !is_same {
            self.renew_model(Some(description))?;
        }
        self.refused()
    }

    pub(crate) fn encoder_known(&self) {
        self.obj().notify("active-encoder");
    }

    /// No installed encoder makes what downstream accepts: tells the application which would be needed.
    pub(crate) fn encoder_missing(&self, accepted: &gst::Caps) {
        let Some(format) = accepted.structure(0).filter(|_| !accepted.is_any()) else {
            return;
        };
        let mut caps = gst::Caps::new_empty_simple(format.name());
        if let Ok(version) = format.get::<i32>("mpegversion") {
            caps.make_mut().set("mpegversion", version);
        }
        let message = gst_pbutils::MissingPluginMessage::builder_for_encoder(&caps);
        let _ = self.obj().post_message(message.src(&*self.obj()).build());
    }

    pub(crate) fn announce_encoder(&self, encoder: &gst::Element) {
        self.obj().emit_by_name::<()>(ENCODER_SETUP, &[encoder]);
    }

    /// The encoder's least time between key frames that are asked for, in nanoseconds.
    pub(crate) fn key_interval(&self) -> u64 {
        let encoder = lock(&self.model)
            .as_ref()
            .map(|model| model.encoder.clone());
        encoder.map_or(0, |encoder| encoder::key_interval(&encoder))
    }

    /// What was set on the encoder.
    pub(crate) fn overrides(&self) -> Arc<Overrides> {
        let model = lock(&self.model);
        let overrides = model.as_ref().map(|model| model.overrides.clone());
        overrides.unwrap_or_default()
    }
}
