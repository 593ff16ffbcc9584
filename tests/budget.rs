// SPDX-License-Identifier: MPL-2.0

//! The budget for raw video: chunks that don't fit are made shorter, what is held stays below the bound whatever happens, and a failure
//! upstream is upstream's.

mod common;

use common::rig::Rig;
use common::scripted::Gate;
use common::{GRAY, Output, Pipeline, app_src, constant, feed, gray, record, scripted_pipeline};
use gst::glib;
use gst::prelude::*;
use std::sync::{Arc, Mutex};

/// Encodes 300 frames; what left, what was warned of, and the stats.
fn run(properties: &str) -> (Output, Vec<String>, gst::Structure) {
    let pipeline = scripted_pipeline(&format!(
        "vtparallelenc name=enc encoder=scriptedenc {properties}"
    ));
    let warnings = pipeline.warnings();
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    feed(&pipeline, &constant(300));
    pipeline.run().expect_eos();
    let output = output.lock().unwrap().clone();
    let warnings = warnings.lock().unwrap().clone();
    (output, warnings, pipeline.stats())
}

fn chunk_frames(stats: &gst::Structure) -> u64 {
    stats.get("chunk-frames").unwrap()
}

#[test]
fn a_chunk_that_does_not_fit_is_made_shorter_with_one_warning() {
    for (properties, chunk, parts) in [
        // 100 frames fit: 12 that may be a tail, two shares, and a quarter of the next one.
        (
            "sessions=2 chunk-frames=100",
            39,
            &[
                "needs 112 raw frames (28672 bytes)",
                "max-raw-bytes is 25600",
                "chunk-frames is 39 instead of 100",
                "raise max-raw-bytes to at least 28672",
            ][..],
        ),
        (
            "sessions=4 chunk-frames=4294967295",
            20,
            &["chunk-frames is 20 instead of 4294967295"],
        ),
        // The overlap is the user's.
        (
            "sessions=2 chunk-frames=100 overlap-before=20 overlap-after=20",
            26,
            &["chunk-frames is 26 instead of 100"],
        ),
        (
            "sessions=2 min-chunk-frames=70",
            33,
            &["min-chunk-frames is 25 instead of 70"],
        ),
        (
            "sessions=2 chunk-frames=90 min-chunk-frames=80",
            33,
            &["chunk-frames is 33 instead of 90 and min-chunk-frames is 25 instead of 80"],
        ),
    ] {
        let (output, warnings, stats) = run(&format!("{properties} max-raw-bytes=25600"));
        assert_eq!(warnings.len(), 1, "{properties}: {warnings:?}");
        for part in parts {
            assert!(warnings[0].contains(part), "{properties}: {warnings:?}");
        }
        assert_eq!(chunk_frames(&stats), chunk, "{properties}");
        assert_eq!(stats.get("limited-by"), Ok("max-raw-bytes"), "{stats}");
        assert_eq!(output.packets.len(), 300, "{properties}");
        let peak: u64 = stats.get("bytes-peak").unwrap();
        assert!(peak <= 25600, "{properties}: {stats}");
        // The plan depends on no timing.
        let again = run(&format!("{properties} max-raw-bytes=25600"));
        assert_eq!(output.bytes(), again.0.bytes(), "{properties}");
    }
}

#[test]
fn a_chunk_that_fits_is_as_long_as_it_was_set() {
    for properties in [
        "sessions=2 chunk-frames=100 max-raw-bytes=28672",
        "sessions=2 chunk-frames=100",
        "sessions=1 chunk-frames=100 overlap-before=30 max-raw-bytes=36352",
    ] {
        let (_, warnings, stats) = run(properties);
        assert_eq!(warnings, Vec::<String>::new(), "{properties}");
        assert_eq!(chunk_frames(&stats), 100, "{properties}");
    }
}

/// Where memory decides how many work, it is said what more of it would buy.
#[test]
fn what_more_memory_would_buy_is_said_once() {
    let run = |max_raw_bytes: u64| {
        let pipeline = scripted_pipeline(&format!(
            "vtparallelenc name=enc encoder=scriptedenc sessions=8 chunk-frames=50 max-raw-bytes={max_raw_bytes}"
        ));
        let infos = pipeline.infos();
        feed(&pipeline, &constant(300));
        pipeline.run().expect_eos();
        let infos = infos.lock().unwrap().clone();
        (infos, pipeline.stats())
    };
    let (infos, stats) = run(25600);
    assert_eq!(stats.get("sessions-planned"), Ok(1_u64), "{stats}");
    let ample: u64 = stats.get("ample-raw-bytes").unwrap();
    let speed_up: f64 = stats.get("ample-speed-up").unwrap();
    assert!((7.9..8.1).contains(&speed_up), "{stats}");
    assert_eq!(infos.len(), 1, "{infos:?}");
    for part in [
        "max-raw-bytes is 25600",
        &format!("with {ample} it"),
        "8.0 times",
    ] {
        assert!(infos[0].contains(part), "{infos:?}");
    }
    let (infos, stats) = run(ample);
    assert_eq!(stats.get("sessions-planned"), Ok(8_u64), "{stats}");
    assert!(infos.is_empty(), "{infos:?}");
    assert!(!stats.has_field("ample-raw-bytes"), "{stats}");
}

#[test]
fn two_frames_are_enough() {
    for sessions in 1..4 {
        let (output, warnings, stats) = run(&format!(
            "sessions={sessions} chunk-frames=50 max-raw-bytes=512"
        ));
        assert_eq!(output.packets.len(), 300);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(chunk_frames(&stats), 1);
        assert!(stats.get::<u64>("bytes-peak").unwrap() <= 512, "{stats}");
    }
}

fn caps(width: u32, rate: u32) -> gst::Event {
    let caps = GRAY.replace("width=16", &format!("width={width}"));
    let caps = caps.replace("25/1", &format!("{rate}/1"));
    gst::event::Caps::new(&caps.parse::<gst::Caps>().unwrap())
}

#[test]
fn the_warning_comes_again_only_where_it_says_something_else() {
    let rig =
        Rig::new("vtparallelenc encoder=scriptedenc sessions=2 chunk-frames=50 max-raw-bytes=8192");
    let said = |rig: &Rig| {
        let warnings = rig.messages(&[gst::MessageType::Warning]);
        let texts = warnings.iter().map(|warning| match warning.view() {
            gst::MessageView::Warning(it) => it.error().message().to_string(),
            _ => unreachable!(),
        });
        texts.collect::<Vec<_>>()
    };
    rig.push_all(0..20);
    assert_eq!(said(&rig).len(), 1);
    // At another rate the frames are as large.
    rig.send(caps(16, 30));
    rig.push_all(20..40);
    rig.flush();
    rig.push_all(0..20);
    assert_eq!(said(&rig), Vec::<String>::new());
    // Twice as large.
    rig.send(caps(32, 30));
    assert_eq!(said(&rig).len(), 1);
    // Half as large, and all fits.
    rig.send(caps(8, 30));
    rig.push_all(20..40);
    rig.end();
    assert_eq!(said(&rig), Vec::<String>::new());
}

/// The same numbers in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % end
    }
}

#[test]
fn the_budget_holds_whatever_comes_between_frames() {
    // 16 frames of 16 x 16.
    const BYTES: u64 = 4096;
    for seed in 0..30 {
        let mut dice = Dice(seed);
        let sessions = 1 + dice.below(4);
        let overlap = dice.below(4);
        let chunk = 1 + dice.below(40);
        // Some attempts fail, so that frames are needed again.
        let rig = Rig::new(&format!(
            "vtparallelenc encoder=\"scriptedenc bframes={} fail-at=33 fail-times=1 failure=budget-{seed}\" sessions={sessions} \
             chunk-frames={chunk} min-chunk-frames={} overlap-before={overlap} overlap-after={overlap} max-raw-bytes={BYTES}",
            dice.below(3),
            1 + dice.below(12),
        ));
        let peer = rig.enc.static_pad("src").unwrap();
        let mut number = 0;
        for _ in 0..250 {
            match dice.below(24) {
                0 => {
                    let width = [8, 16, 24][dice.below(3) as usize];
                    rig.send(caps(width, 25));
                }
                1 => {
                    let mut drain = gst::query::Drain::new();
                    rig.src.peer_query(&mut drain);
                }
                2 => rig.begin_segment(),
                3 if dice.below(4) == 0 => rig.flush(),
                4 | 5 => {
                    let time = gst::ClockTime::from_mseconds(40 * dice.below(number + 20));
                    peer.send_event(
                        gst_video::UpstreamForceKeyUnitEvent::builder()
                            .running_time(time)
                            .build(),
                    );
                }
                6 => rig.send(
                    gst_video::DownstreamForceKeyUnitEvent::builder()
                        .running_time(gst::ClockTime::NONE)
                        .build(),
                ),
                _ => {
                    let size = rig.src.current_caps().unwrap();
                    let width: i32 = size.structure(0).unwrap().get("width").unwrap();
                    let mut bytes = vec![0; 16 * width as usize];
                    bytes[..8].copy_from_slice(&(number % 60).to_le_bytes());
                    let mut buffer = gst::Buffer::from_slice(bytes);
                    let times = buffer.get_mut().unwrap();
                    times.set_pts(gst::ClockTime::from_mseconds(40 * number));
                    times.set_duration(gst::ClockTime::from_mseconds(40));
                    rig.src.push(buffer).unwrap();
                    number += 1;
                }
            }
        }
        rig.end();
        let stats = rig.stats();
        let peak: u64 = stats.get("bytes-peak").unwrap();
        assert!(peak <= BYTES, "{seed}: {stats}");
        assert_eq!(
            stats.get::<u64>("bytes-held").unwrap(),
            0,
            "{seed}: {stats}"
        );
        assert_eq!(rig.messages(&[gst::MessageType::Error]).len(), 0, "{seed}");
    }
}

/// The names of the elements that posted errors.
fn errors(pipeline: &Pipeline) -> Arc<Mutex<Vec<String>>> {
    let errors = Arc::new(Mutex::new(Vec::new()));
    let kept = errors.clone();
    pipeline.bus().unwrap().set_sync_handler(move |_, message| {
        if let gst::MessageView::Error(error) = message.view() {
            let source = error.src().map(|src| src.name().to_string());
            kept.lock().unwrap().push(source.unwrap_or_default());
        }
        gst::BusSyncReply::Pass
    });
    errors
}

#[test]
fn a_failure_upstream_is_upstreams() {
    for sessions in [1, 2, 3] {
        for frames in [1, 2, 10, 11, 35, 90] {
            for more in ["", "overlap-before=4 overlap-after=4"] {
                let pipeline = Pipeline::parse(&format!(
                    "videotestsrc name=source num-buffers=1000 ! {GRAY} ! identity name=broken error-after={frames} ! \
                     vtparallelenc name=enc encoder=scriptedenc sessions={sessions} chunk-frames=10 min-chunk-frames=4 {more} ! \
                     fakesink sync=false"
                ));
                let errors = errors(&pipeline);
                let text = pipeline.run().error();
                assert!(text.contains("Failed after iterations"), "{text}");
                pipeline.set_state(gst::State::Null).unwrap();
                // (A source says that it was refused.)
                let mut errors = errors.lock().unwrap().clone();
                errors.retain(|source| source != "source");
                assert_eq!(errors, ["broken"], "{sessions} sessions, {frames} frames");
            }
        }
    }
}

/// A pool that has no memory after some buffers.
mod poor {
    use gst::glib;
    use gst::subclass::prelude::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Default)]
    pub struct Imp {
        pub left: AtomicU32,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Imp {
        const NAME: &'static str = "VtTestPoorPool";
        type Type = Pool;
        type ParentType = gst::BufferPool;
    }

    impl ObjectImpl for Imp {}
    impl GstObjectImpl for Imp {}

    impl BufferPoolImpl for Imp {
        fn acquire_buffer(
            &self,
            params: Option<&gst::BufferPoolAcquireParams>,
        ) -> Result<gst::Buffer, gst::FlowError> {
            let left = self.left.load(Ordering::SeqCst);
            if left == 0 {
                return Err(gst::FlowError::Error);
            }
            self.left.store(left - 1, Ordering::SeqCst);
            self.parent_acquire_buffer(params)
        }
    }

    glib::wrapper! {
        pub struct Pool(ObjectSubclass<Imp>) @extends gst::BufferPool, gst::Object;
    }
}

#[test]
fn an_allocation_that_fails_upstream_is_upstreams() {
    use gst::subclass::prelude::*;
    for sessions in [1, 3] {
        for frames in [0, 1, 25, 60] {
            let pipeline = scripted_pipeline(&format!(
                "vtparallelenc name=enc encoder=scriptedenc sessions={sessions} chunk-frames=10"
            ));
            let errors = errors(&pipeline);
            pipeline.set_state(gst::State::Playing).unwrap();
            let pool: poor::Pool = glib::Object::new();
            pool.imp()
                .left
                .store(frames, std::sync::atomic::Ordering::SeqCst);
            let mut config = pool.config();
            config.set_params(None, 256, 0, 0);
            pool.set_config(config).unwrap();
            pool.set_active(true).unwrap();
            let src = app_src(&pipeline);
            for (number, &time) in constant(100).iter().enumerate() {
                let Ok(mut buffer) = pool.acquire_buffer(None) else {
                    // No more frames, and no end.
                    gst::element_error!(src, gst::ResourceError::NoSpaceLeft, ["no memory"]);
                    break;
                };
                let frame = gray(number as u64, time);
                let taken = buffer.get_mut().unwrap();
                taken
                    .copy_from_slice(0, &frame.map_readable().unwrap())
                    .unwrap();
                taken.set_pts(time.0);
                src.push_buffer(buffer).unwrap();
            }
            assert!(pipeline.end().error().contains("no memory"));
            pipeline.set_state(gst::State::Null).unwrap();
            assert_eq!(*errors.lock().unwrap(), ["src"]);
            // All that was held went back.
            pool.set_active(false).unwrap();
            assert_eq!(pool.imp().left.load(std::sync::atomic::Ordering::SeqCst), 0);
        }
    }
}

#[test]
fn an_upstream_that_fails_while_it_waits_for_room_is_stopped() {
    let gate = Gate::named("upstream-waits");
    let pipeline = scripted_pipeline(
        "vtparallelenc name=enc encoder=\"scriptedenc gate=upstream-waits\" sessions=2 chunk-frames=10 max-raw-bytes=6400",
    );
    feed(&pipeline, &constant(500));
    pipeline.set_state(gst::State::Playing).unwrap();
    gate.wait_for(1);
    gst::element_error!(app_src(&pipeline), gst::ResourceError::Read, ["gone"]);
    assert!(pipeline.end().error().contains("gone"));
    gate.open();
    pipeline.set_state(gst::State::Null).unwrap();
}
