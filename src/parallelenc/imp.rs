// SPDX-License-Identifier: MPL-2.0

//! The public bin: properties, pads, states, the children's messages. Wires, decides nothing.

use super::report::Snapshot;
use super::settings::{DEFAULT_MIN_CHUNK_FRAMES, MAX_OVERLAP, MAX_SESSIONS, Settings};
use crate::aggregator::Aggregator;
use crate::distributor::{Distributor, encoder_error};
use crate::locking::lock;
use glib::Properties;
use gst::prelude::*;
use gst::subclass::prelude::*;
use once_cell::sync::Lazy;
use std::sync::Mutex;

static CAT: Lazy<gst::DebugCategory> = Lazy::new(|| {
    gst::DebugCategory::new(
        "vtparallelenc",
        gst::DebugColorFlags::empty(),
        Some("Encoding one video with several encoders at once"),
    )
});

/// The one property that is not a setting.
const STATS: &str = "stats";

#[derive(Properties)]
#[properties(wrapper_type = super::ParallelEnc)]
pub struct ParallelEnc {
    #[property(name = "encoder", get, set, type = Option<String>, member = encoder, mutable_ready,
        nick = "Encoder",
        blurb = "The encoder of each session: a factory name, with properties and further elements as gst-launch-1.0 takes \
                 them, for example 'x264enc speed-preset=medium pass=qual quantizer=23'. If it is not set, the highest ranked \
                 encoder for the caps that downstream accepts is chosen. It must not come from strangers.")]
    #[property(name = "sessions", get, set, type = u32, member = sessions, minimum = 0, maximum = MAX_SESSIONS,
        default = 0, mutable_ready, nick = "Sessions",
        blurb = "The number of encoders that work at the same time. 0 means as many as there are cores.")]
    #[property(name = "chunk-frames", get, set, type = u32, member = chunk_frames, default = 0, mutable_ready,
        nick = "Chunk length in frames",
        blurb = "The number of frames that one encoder encodes in a row. 0 means as many as the memory allows for all \
                 sessions, at most 250, and equal chunks for all sessions where the length of the source is known.")]
    #[property(name = "min-chunk-frames", get, set, type = u32, member = min_chunk_frames, minimum = 1,
        default = DEFAULT_MIN_CHUNK_FRAMES, mutable_ready, nick = "Minimum chunk length in frames",
        blurb = "A chunk with fewer frames than this at the end of the stream joins the chunk before it. It is at most \
                 the chunk length.")]
    #[property(name = "overlap-before", get, set, type = u32, member = overlap_before, maximum = MAX_OVERLAP,
        default = 0, mutable_ready, nick = "Overlap before a chunk in frames",
        blurb = "The number of frames that an encoder is given before those of its chunk, whose packets are thrown away. It \
                 lets the rate control of bitrate driven encoding settle; constant quality encoding gains nothing. The \
                 encoder has to honour force-key-unit events with a closed GOP.")]
    #[property(name = "overlap-after", get, set, type = u32, member = overlap_after, maximum = MAX_OVERLAP,
        default = 0, mutable_ready, nick = "Overlap after a chunk in frames",
        blurb = "The number of frames that an encoder is given after those of its chunk, whose packets are thrown away. It \
                 feeds the look-ahead of the last frames. The encoder has to honour force-key-unit events with a \
                 closed GOP.")]
    #[property(name = "source-frame-count", get, set, type = u64, member = source_frame_count, default = 0,
        mutable_ready, nick = "Number of frames of the source",
        blurb = "The number of frames that the source has, which is used to make all chunks equal. 0 means to ask upstream \
                 for its duration.")]
    #[property(name = "allow-parallel", get, set, type = bool, member = allow_parallel, default = true, mutable_ready,
        nick = "Allow parallel encoding",
        blurb = "Whether the video may be encoded in chunks. If it is false, one encoder encodes the whole stream as it would \
                 without this element.")]
    #[property(name = "max-raw-bytes", get, set, type = u64, member = max_raw_bytes, default = 0, mutable_ready,
        nick = "Maximum of raw video in bytes",
        blurb = "The most bytes of raw video that are held at once. 0 means a quarter of the machine's memory, or of the \
                 container's limit where one is set.")]
    settings: Mutex<Settings>,
    distributor: Distributor,
    aggregator: Aggregator,
}

#[glib::object_subclass]
impl ObjectSubclass for ParallelEnc {
    const NAME: &'static str = "GstVtParallelEnc";
    type Type = super::ParallelEnc;
    type ParentType = gst::Bin;

    fn new() -> Self {
        let distributor = Distributor::new();
        let aggregator = Aggregator::new(&distributor);
        distributor.imp().connect(&aggregator);
        Self {
            settings: Mutex::default(),
            distributor,
            aggregator,
        }
    }
}

impl ObjectImpl for ParallelEnc {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: Lazy<Vec<glib::ParamSpec>> = Lazy::new(|| {
            // A structure is the one type that the derive cannot declare.
            let stats = glib::ParamSpecBoxed::builder::<gst::Structure>(STATS)
                .nick("Statistics")
                .blurb(
                    "What was done since the start, in frames, chunks and bytes: parallel, chunks-planned, \
                     chunks-finished, attempts-failed, frames-in, frames-out, frames-skipped (by the encoder), bytes-held, \
                     bytes-peak and bytes-bound (raw video), leaves-early, sessions (each with frames and \
                     frames-per-second), encoder, sequential-reason.",
                )
                .read_only()
                .build();
            let derived = ParallelEnc::derived_properties().iter().cloned();
            derived.chain([stats]).collect()
        });
        &PROPERTIES
    }

    fn property(&self, id: usize, spec: &glib::ParamSpec) -> glib::Value {
        match spec.name() {
            STATS => self.stats().to_value(),
            _ => self.derived_property(id, spec),
        }
    }

    fn set_property(&self, id: usize, value: &glib::Value, spec: &glib::ParamSpec) {
        self.derived_set_property(id, value, spec);
    }

    fn constructed(&self) {
        self.parent_constructed();
        let bin = self.obj();
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
}

impl GstObjectImpl for ParallelEnc {}

impl ElementImpl for ParallelEnc {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: Lazy<gst::subclass::ElementMetadata> = Lazy::new(|| {
            gst::subclass::ElementMetadata::new(
                "Parallel video encoder",
                "Codec/Encoder/Video",
                "Encodes one video with several encoders at once and hands on a single stream",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: Lazy<Vec<gst::PadTemplate>> = Lazy::new(|| {
            let always = gst::PadPresence::Always;
            [
                gst::PadTemplate::new("sink", gst::PadDirection::Sink, always, &super::raw_caps()),
                gst::PadTemplate::new(
                    "src",
                    gst::PadDirection::Src,
                    always,
                    &super::encoded_caps(),
                ),
            ]
            .into_iter()
            .flatten()
            .collect()
        });
        &TEMPLATES
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        let distributor = self.distributor.imp();
        let job = lock(&self.settings).job();
        let placed = match transition {
            gst::StateChange::NullToReady => {
                gst::info!(CAT, imp = self, "{job:?}");
                distributor.prepare(job)
            }
            gst::StateChange::ReadyToPaused => distributor.start(&job),
            gst::StateChange::PausedToReady => {
                gst::info!(CAT, imp = self, "{}", self.stats());
                // Before the pads are deactivated: that waits for those who wait here.
                distributor.stop();
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = placed {
            gst::error!(CAT, imp = self, "{error}");
            self.post_error_message(encoder_error(&error));
            if transition == gst::StateChange::NullToReady {
                distributor.unprepare();
            }
            return Err(gst::StateChangeError);
        }
        let changed = self.parent_change_state(transition)?;
        match transition {
            gst::StateChange::PausedToReady => distributor.stopped(),
            gst::StateChange::ReadyToNull => distributor.unprepare(),
            _ => (),
        }
        Ok(changed)
    }
}

impl BinImpl for ParallelEnc {}

impl ParallelEnc {
    fn stats(&self) -> gst::Structure {
        let snapshot: Option<Snapshot> = self.distributor.imp().snapshot();
        snapshot.unwrap_or_default().structure()
    }
}
