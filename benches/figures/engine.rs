// SPDX-License-Identifier: MPL-2.0

//! `engineenc`: an encoder as a video card has one. A frame takes a fixed time of one of its engines, and none of any core's.
//!
//! With `time=0` it is the encoder that does nothing. Some frames may be harder than others (`scenes`).

use gst::glib;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use std::collections::BTreeSet;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

/// Which frames are hard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "VtEngineScenes")]
pub enum Scenes {
    /// All frames are alike.
    #[default]
    Even,
    /// One scene is ten times as hard as the others.
    OneHard,
    /// Any scene may be up to sixteen times as hard as another.
    Random,
}

/// The scene that is hard where one is.
const HARD_SCENE: u64 = 5;

impl Scenes {
    /// Percent of an even frame's time that a frame of this scene takes.
    pub fn percent(self, scene: u64) -> u64 {
        match self {
            Self::Even => 100,
            Self::OneHard if scene == HARD_SCENE => 1000,
            Self::OneHard => 100,
            // Any sequence that looks like chance will do: 25, 50, 100, 200 or 400.
            Self::Random => {
                let hash = (scene + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                25 << (hash % 5)
            }
        }
    }
}

/// Frames are this long, in nanoseconds, where some of them are hard: 25 in a second.
const FRAME: u64 = 40_000_000;

/// The number of a frame. In chunks it begins at 1000 hours, which are a multiple of a frame.
fn number(pts: Option<gst::ClockTime>) -> u64 {
    const THOUSAND_HOURS: u64 = 3_600_000_000_000_000;
    (pts.unwrap_or_default().nseconds() % THOUSAND_HOURS + FRAME / 2) / FRAME
}

/// The first frame of each encoder that there was: where chunks began.
static STARTS: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

pub fn starts() -> Vec<u64> {
    STARTS.lock().unwrap().iter().copied().collect()
}

/// When each engine is free again, in the order in which they were asked for.
struct Card {
    free_at: Mutex<Vec<Instant>>,
}

static CARD: LazyLock<Card> = LazyLock::new(|| Card {
    free_at: Mutex::default(),
});

impl Card {
    /// Takes the engine that is free first, for so long, and waits until it has done its work.
    fn work(&self, engines: usize, time: Duration) {
        let end = {
            let mut free_at = self.free_at.lock().unwrap();
            let now = Instant::now();
            free_at.resize(engines, now);
            // PANIC: there is at least one.
            let first = free_at.iter_mut().min().unwrap();
            *first = now.max(*first) + time;
            *first
        };
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
    }
}

mod imp {
    use super::*;
    use glib::Properties;

    #[derive(Debug, Clone, Default)]
    pub struct Settings {
        /// Microseconds that a frame takes.
        time: u64,
        /// Frames that can be worked on at once.
        engines: u32,
        /// Microseconds that opening takes.
        open_time: u64,
        /// Which frames are hard.
        scenes: Scenes,
        /// Frames of a scene.
        scene_frames: u64,
    }

    #[derive(Default, Properties)]
    #[properties(wrapper_type = super::EngineEnc)]
    pub struct EngineEnc {
        #[property(name = "time", get, set, type = u64, member = time, blurb = "Microseconds that a frame takes.")]
        #[property(name = "engines", get, set, type = u32, member = engines, blurb = "Frames that can be worked on at once.")]
        #[property(name = "open-time", get, set, type = u64, member = open_time, blurb = "Microseconds that opening takes.")]
        #[property(name = "scenes", get, set, type = Scenes, member = scenes, blurb = "Which frames are hard.", builder(Scenes::Even))]
        // It isn't known, and says by this that it can be cut.
        #[property(name = "recommended-parallelization-limit", get = |this: &Self| this.settings.lock().unwrap().engines.max(1),
            type = u32, blurb = "Encoders that may work at the same time.")]
        #[property(name = "scene-frames", get, set, type = u64, member = scene_frames, blurb = "Frames of a scene.")]
        settings: Mutex<Settings>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for EngineEnc {
        const NAME: &'static str = "VtEngineEnc";
        type Type = super::EngineEnc;
        type ParentType = gst_video::VideoEncoder;
    }

    #[glib::derived_properties]
    impl ObjectImpl for EngineEnc {}
    impl GstObjectImpl for EngineEnc {}

    impl ElementImpl for EngineEnc {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
                gst::subclass::ElementMetadata::new(
                    "Engine",
                    "Codec/Encoder/Video",
                    "Takes time",
                    "The vtparallelenc developers",
                )
            });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                let pad = |name, direction, caps: &str| {
                    let caps = caps.parse().unwrap();
                    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps).unwrap()
                };
                vec![
                    pad("sink", gst::PadDirection::Sink, "video/x-raw"),
                    pad("src", gst::PadDirection::Src, "video/x-engine"),
                ]
            });
            &TEMPLATES
        }
    }

    impl VideoEncoderImpl for EngineEnc {
        fn start(&self) -> Result<(), gst::ErrorMessage> {
            let open_time = self.settings.lock().unwrap().open_time;
            std::thread::sleep(Duration::from_micros(open_time));
            Ok(())
        }

        fn set_format(
            &self,
            state: &gst_video::VideoCodecState<'static, gst_video::video_codec_state::Readable>,
        ) -> Result<(), gst::LoggableError> {
            let obj = self.obj();
            let caps = gst::Caps::builder("video/x-engine").build();
            let negotiated = obj
                .set_output_state(caps, Some(state))
                .and_then(|output| obj.negotiate(output));
            negotiated.map_err(|flow| gst::loggable_error!(gst::CAT_RUST, "{flow}"))
        }

        fn handle_frame(
            &self,
            mut frame: gst_video::VideoCodecFrame<'_>,
        ) -> Result<gst::FlowSuccess, gst::FlowError> {
            let settings = self.settings.lock().unwrap().clone();
            if frame.system_frame_number() == 0 {
                STARTS.lock().unwrap().insert(number(frame.pts()));
            }
            if settings.time > 0 {
                let scene = number(frame.pts()) / settings.scene_frames.max(1);
                let time = settings.time * settings.scenes.percent(scene) / 100;
                CARD.work(
                    settings.engines.max(1) as usize,
                    Duration::from_micros(time),
                );
            }
            if frame.system_frame_number() == 0
                || frame
                    .flags()
                    .contains(gst_video::VideoCodecFrameFlags::FORCE_KEYFRAME)
            {
                frame.set_flags(gst_video::VideoCodecFrameFlags::SYNC_POINT);
            }
            frame.set_output_buffer(gst::Buffer::from_slice(*b"packet"));
            self.obj().finish_frame(frame)
        }
    }
}

glib::wrapper! {
    pub struct EngineEnc(ObjectSubclass<imp::EngineEnc>)
        @extends gst_video::VideoEncoder, gst::Element, gst::Object;
}

pub fn register() {
    gst::Element::register(None, "engineenc", gst::Rank::NONE, EngineEnc::static_type()).unwrap();
}
