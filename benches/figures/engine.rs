// SPDX-License-Identifier: MPL-2.0

//! `engineenc`: an encoder as a video card has one. A frame takes a fixed time of one of its engines, and none of any core's.
//!
//! With `time=0` it is the encoder that does nothing.

use gst::glib;
use gst::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

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
    }

    #[derive(Default, Properties)]
    #[properties(wrapper_type = super::EngineEnc)]
    pub struct EngineEnc {
        #[property(name = "time", get, set, type = u64, member = time, blurb = "Microseconds that a frame takes.")]
        #[property(name = "engines", get, set, type = u32, member = engines, blurb = "Frames that can be worked on at once.")]
        #[property(name = "open-time", get, set, type = u64, member = open_time, blurb = "Microseconds that opening takes.")]
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
            let Settings { time, engines, .. } = self.settings.lock().unwrap().clone();
            if time > 0 {
                CARD.work(engines.max(1) as usize, Duration::from_micros(time));
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
