// SPDX-License-Identifier: MPL-2.0

//! A real encoder, x264, that fails as real ones do: the file is the one of a run without failures, byte by byte.

mod common;

use common::{End, Output, Pipeline, init, record};
use gst::glib;
use gst::prelude::*;
use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, Once};

/// `faultyx264enc`: x264enc in a bin that breaks what comes out of it.
mod faulty {
    use super::*;
    use glib::Properties;
    use gst::subclass::prelude::*;

    /// How often each has happened, by name.
    static HAPPENED: LazyLock<Mutex<BTreeMap<String, u32>>> = LazyLock::new(Mutex::default);

    #[derive(Debug, Clone, Default)]
    struct Script {
        /// error (its message and an error flow), flow (without a message), drop, end (an early EOS).
        fault: String,
        /// The frame whose packet it happens to.
        frame: u64,
        /// So often, over all encoders of this name.
        times: u32,
        occasion: String,
    }

    #[derive(Properties, Default)]
    #[properties(wrapper_type = FaultyX264Enc)]
    pub struct Imp {
        #[property(name = "fault", get, set, type = String, member = fault)]
        #[property(name = "frame", get, set, type = u64, member = frame)]
        #[property(name = "times", get, set, type = u32, member = times)]
        #[property(name = "occasion", get, set, type = String, member = occasion)]
        script: Mutex<Script>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Imp {
        const NAME: &'static str = "VtTestFaultyX264Enc";
        type Type = FaultyX264Enc;
        type ParentType = gst::Bin;
    }

    #[glib::derived_properties]
    impl ObjectImpl for Imp {
        fn constructed(&self) {
            self.parent_constructed();
            let bin = self.obj();
            // Deterministic: one thread, and no macroblock tree, whose result depends on what was there before.
            let x264 = gst::ElementFactory::make("x264enc")
                .property("threads", 1u32)
                .property("bframes", 2u32)
                .property("rc-lookahead", 5i32)
                .property("option-string", "no-mbtree=1")
                .build()
                .unwrap();
            bin.add(&x264).unwrap();
            for name in ["sink", "src"] {
                let target = x264.static_pad(name).unwrap();
                let template = bin.pad_template(name).unwrap();
                let ghost = gst::GhostPad::builder_from_template_with_target(&template, &target);
                bin.add_pad(&ghost.unwrap().name(name).build()).unwrap();
            }
            let weak = self.downgrade();
            let src = x264.static_pad("src").unwrap();
            src.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
                weak.upgrade()
                    .map_or(gst::PadProbeReturn::Ok, |this| this.passes(pad, info))
            });
        }
    }

    impl GstObjectImpl for Imp {}

    impl ElementImpl for Imp {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
                gst::subclass::ElementMetadata::new("Test", "Codec/Encoder/Video", "Test", "Test")
            });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                let x264 = gst::ElementFactory::find("x264enc").unwrap();
                let templates = x264.static_pad_templates();
                templates.iter().map(|it| it.get()).collect()
            });
            &TEMPLATES
        }
    }

    impl BinImpl for Imp {}

    impl Imp {
        fn passes(&self, pad: &gst::Pad, info: &mut gst::PadProbeInfo<'_>) -> gst::PadProbeReturn {
            let script = self.script.lock().unwrap().clone();
            let pts = info.buffer().and_then(|it| it.pts()).unwrap();
            // Encoders get timestamps from 1000 hours on.
            let number = (pts.nseconds() - 3_600_000_000_000_000) / 40_000_000;
            if script.fault.is_empty() || number != script.frame {
                return gst::PadProbeReturn::Ok;
            }
            {
                let mut happened = HAPPENED.lock().unwrap();
                let count = happened.entry(script.occasion).or_default();
                *count += 1;
                if *count > script.times {
                    return gst::PadProbeReturn::Ok;
                }
            }
            match script.fault.as_str() {
                "drop" => return gst::PadProbeReturn::Drop,
                "end" => {
                    pad.push_event(gst::event::Eos::new());
                    return gst::PadProbeReturn::Ok;
                }
                "error" => gst::element_imp_error!(
                    self,
                    gst::StreamError::Encode,
                    ["the device fell off at frame {number}"]
                ),
                "flow" => (),
                other => panic!("no such fault: {other}"),
            }
            info.flow_res = Err(gst::FlowError::Error);
            gst::PadProbeReturn::Handled
        }
    }
}

glib::wrapper! {
    pub struct FaultyX264Enc(ObjectSubclass<faulty::Imp>)
        @extends gst::Bin, gst::Element, gst::Object, @implements gst::ChildProxy;
}

const FRAMES: usize = 50;

/// A file made with these properties of the encoder, and what went into it.
struct Run {
    end: End,
    file: Vec<u8>,
    output: Output,
    stats: gst::Structure,
    details: Option<gst::Structure>,
}

impl Run {
    fn of(properties: &str, fault: &str) -> Self {
        let name = "faultyx264enc";
        // A second registration would take the first one's factory from who uses it.
        static REGISTERED: Once = Once::new();
        REGISTERED.call_once(|| {
            init();
            let kind = FaultyX264Enc::static_type();
            gst::Element::register(None, name, gst::Rank::NONE, kind).unwrap();
        });
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("out.h264");
        let pipeline = Pipeline::parse(&format!(
            "videotestsrc num-buffers={FRAMES} pattern=ball ! \
             video/x-raw,format=I420,width=96,height=64,framerate=25/1 ! \
             vtparallelenc name=enc chunk-frames=10 min-chunk-frames=4 {properties} encoder=\"{name} {fault}\" ! \
             video/x-h264,stream-format=byte-stream ! filesink name=sink location={}",
            to.display()
        ));
        let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
        let details = std::sync::Arc::new(Mutex::new(None));
        let kept = details.clone();
        pipeline.bus().unwrap().set_sync_handler(move |_, message| {
            if let gst::MessageView::Error(error) = message.view() {
                let mut kept = kept.lock().unwrap();
                *kept = kept.take().or(error.details().map(|it| it.to_owned()));
            }
            gst::BusSyncReply::Pass
        });
        let end = pipeline.run();
        let stats = pipeline.stats();
        pipeline.set_state(gst::State::Null).unwrap();
        let output = output.lock().unwrap().clone();
        Self {
            end,
            file: std::fs::read(&to).unwrap(),
            output,
            stats,
            details: details.lock().unwrap().take(),
        }
    }
}

#[test]
fn what_x264_makes_is_the_same_whatever_fails() {
    for overlap in [0, 4] {
        let properties = |sessions: u64| {
            format!("sessions={sessions} overlap-before={overlap} overlap-after={overlap}")
        };
        let reference = Run::of(&properties(2), "");
        assert!(matches!(reference.end, End::Eos), "{:?}", reference.end);
        assert_eq!(reference.output.packets.len(), FRAMES);
        assert!(reference.file.len() > FRAMES);
        for sessions in [1, 2, 3] {
            for fault in ["error", "flow", "drop", "end"] {
                // The first one of a chunk, one within, the last one; of the first chunk, and of the last.
                for (frame, times) in [(0, 1), (15, 1), (15, 2), (20, 2), (29, 1), (49, 2)] {
                    // If a chunk's start is lost again and again, it is the overlap that is at fault, and goes.
                    let times = if overlap > 0 && frame == 20 { 1 } else { times };
                    let occasion = format!("{fault}-{frame}-{times}-{sessions}-{overlap}");
                    let what = format!("{occasion}, {}", properties(sessions));
                    let run = Run::of(
                        &properties(sessions),
                        &format!("fault={fault} frame={frame} times={times} occasion={occasion}"),
                    );
                    assert!(matches!(run.end, End::Eos), "{what}: {:?}", run.end);
                    for (at, packet) in run.output.packets.iter().enumerate() {
                        assert_eq!(*packet, reference.output.packets[at], "{what}: {at}");
                    }
                    assert!(run.file == reference.file, "{what}: the file differs");
                    let failed: u64 = run.stats.get("attempts-failed").unwrap();
                    // One that fails before its first packet counts as one that can't be opened: its session may be closed instead.
                    // And what happens in the overlap matters to nobody.
                    let counts = overlap == 0 && (frame % 10 != 0 || fault == "drop");
                    let is_right = failed == times || failed < times && !counts;
                    assert!(is_right, "{what}: {}", run.stats);
                }
            }
        }
    }
}

#[test]
fn the_error_says_what_failed_and_what_the_encoder_said() {
    for (sessions, fault, reason) in [1, 3].into_iter().flat_map(|sessions| {
        [
            (sessions, "error", "the device fell off at frame 25"),
            // What comes out when x264 is drained has no flow that anybody sees.
            (
                sessions,
                "flow",
                "4 frames were not delivered, the first is 25",
            ),
            (
                sessions,
                "drop",
                "1 frames were not delivered, the first is 25",
            ),
            (sessions, "end", "frames were not delivered"),
        ]
    }) {
        let run = Run::of(
            &format!("sessions={sessions} max-attempts=3 overlap-before=0 overlap-after=0"),
            &format!("fault={fault} frame=25 times=1000 occasion=final-{fault}-{sessions}"),
        );
        let End::Error {
            source,
            message,
            debug,
        } = run.end
        else {
            panic!("{fault}: it ended well");
        };
        let details = run.details.unwrap();
        let what = format!("{fault}: {message}\n{debug}\n{details}");
        assert_eq!(source, "enc", "{what}");
        for part in [
            "Chunk 2 (frames 20 to 29, from 0:00:00.800000000 to 0:00:01.200000000)",
            "in 3 attempts",
        ] {
            assert!(message.contains(part), "{what}");
        }
        for number in 1..=3 {
            assert!(
                debug.contains(&format!("attempt {number} in session")),
                "{what}"
            );
        }
        assert!(debug.matches(reason).count() >= 3, "{what}");
        assert_eq!(details.get::<u64>("chunk"), Ok(2), "{what}");
        assert_eq!(details.get::<u64>("first-frame"), Ok(20), "{what}");
        assert_eq!(details.get::<u64>("frames"), Ok(10), "{what}");
        let start: gst::ClockTime = details.get("start-time").unwrap();
        let end: gst::ClockTime = details.get("end-time").unwrap();
        assert_eq!((start.mseconds(), end.mseconds()), (800, 1200), "{what}");
        let attempts: gst::ArrayRef<'_> = details.get("attempts").unwrap();
        assert_eq!(attempts.len(), 3, "{what}");
        for attempt in attempts.iter() {
            assert!(attempt.get::<&str>().unwrap().contains(reason), "{what}");
        }
        let encoders = details.get::<&str>("encoder-debug");
        assert_eq!(
            encoders.is_ok_and(|it| it.contains(reason)),
            fault == "error",
            "{what}"
        );
    }
}
