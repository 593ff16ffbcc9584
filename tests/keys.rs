// SPDX-License-Identifier: MPL-2.0

//! Key frames that downstream and upstream ask for, as with the plain encoder: at that frame, the event before it.

mod common;

use common::rig::{Entry, Rig};
use gst::prelude::*;

const PLAIN: &str = "scriptedenc keep-times=true";
/// More frames in one chunk than a test has, so that each key frame but the first was asked for.
const LONG: &str =
    "vtparallelenc encoder=scriptedenc sessions=3 chunk-frames=100 min-chunk-frames=4";

fn overlapping(encoder: &str) -> String {
    format!("{encoder} overlap-before=3 overlap-after=3")
}

fn ms(time: u64) -> gst::ClockTime {
    gst::ClockTime::from_mseconds(time)
}

fn from_downstream(time: Option<u64>, all_headers: bool, count: u32) -> gst::Event {
    gst_video::UpstreamForceKeyUnitEvent::builder()
        .running_time(time.map(ms))
        .all_headers(all_headers)
        .count(count)
        .build()
}

fn from_upstream(time: Option<u64>, all_headers: bool, count: u32) -> gst::Event {
    gst_video::DownstreamForceKeyUnitEvent::builder()
        .running_time(time.map(ms))
        .all_headers(all_headers)
        .count(count)
        .build()
}

/// Key frames and force-key-unit events as they leave.
fn keys(rig: &Rig) -> Vec<String> {
    let entries = rig.entries();
    let story = rig.story();
    assert_eq!(entries.len(), story.len());
    let is_key = |entry: &Entry, text: &str| entry.is_key() || text.starts_with("key at");
    let told = entries.iter().zip(story);
    told.filter(|(entry, text)| is_key(entry, text))
        .map(|(_, text)| text)
        .collect()
}

fn assert_same_keys(act: impl Fn(&Rig)) -> Vec<String> {
    let of = |encoder: &str| {
        let rig = Rig::new(encoder);
        act(&rig);
        rig.end();
        let frames = rig.frames().len();
        (keys(&rig), frames)
    };
    let plain = of(PLAIN);
    for ours in [LONG.to_string(), overlapping(LONG)] {
        assert_eq!(of(&ours), plain, "{ours}");
    }
    plain.0
}

#[test]
fn downstream_asks_for_moments_ahead() {
    let keys = assert_same_keys(|rig| {
        assert!(rig.sink.push_event(from_downstream(Some(400), true, 3)));
        // Not on a frame, twice, and long after the others.
        assert!(rig.sink.push_event(from_downstream(Some(750), false, 4)));
        assert!(rig.sink.push_event(from_downstream(Some(755), false, 5)));
        assert!(rig.sink.push_event(from_downstream(Some(60_000), false, 6)));
        rig.push_all(0..50);
    });
    // Frame 0, the answer at 10, and both at 19.
    assert_eq!(keys.len(), 6, "{keys:?}");
    assert!(
        keys[3].ends_with("count 4") && keys[4].ends_with("count 5"),
        "{keys:?}"
    );
}

#[test]
fn downstream_asks_for_the_next_frame() {
    assert_same_keys(|rig| {
        rig.push_all(0..7);
        assert!(rig.sink.push_event(from_downstream(None, true, 1)));
        rig.push_all(7..40);
        assert!(rig.sink.push_event(from_downstream(None, false, 2)));
        rig.push_all(40..50);
    });
}

#[test]
fn downstream_asks_before_there_are_frames_or_caps() {
    let of = |encoder: &str| {
        let rig = Rig::bare(encoder);
        assert!(rig.sink.push_event(from_downstream(Some(200), true, 9)));
        rig.begin(common::GRAY);
        rig.push_all(0..20);
        rig.end();
        keys(&rig)
    };
    assert_eq!(of(PLAIN), of(LONG));
}

#[test]
fn upstream_asks_with_its_frames() {
    assert_same_keys(|rig| {
        for number in 0..60 {
            match number {
                // As scenechange sends it: for the next frame.
                11 => rig.send(from_upstream(None, true, 0)),
                // Too soon for a chunk of its own.
                13 => rig.send(from_upstream(Some(13 * 40), false, 2)),
                // Ahead.
                20 => rig.send(from_upstream(Some(33 * 40), false, 3)),
                _ => (),
            }
            rig.push(number).unwrap();
        }
    });
}

#[test]
fn running_time_is_that_of_the_segment() {
    assert_same_keys(|rig| {
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_start(ms(400));
        segment.set_time(ms(5000));
        segment.set_base(ms(100));
        rig.send(gst::event::Segment::new(&segment));
        // 100 ms is frame 10, so this is frame 25.
        assert!(rig.sink.push_event(from_downstream(Some(700), false, 0)));
        rig.push_all(0..40);
    });
}

#[test]
fn a_flush_forgets_what_was_asked_for() {
    assert_same_keys(|rig| {
        rig.push_all(0..5);
        assert!(rig.sink.push_event(from_downstream(Some(400), false, 0)));
        rig.flush();
        rig.take();
        rig.push_all(0..30);
    });
}

#[test]
fn the_encoders_least_interval_is_kept() {
    let of = |encoder: &str, interval: &str| {
        let rig = Rig::bare(encoder);
        let proxy = rig.enc.dynamic_cast_ref::<gst::ChildProxy>();
        match proxy {
            Some(proxy) => {
                proxy.set_child_property(&format!("encoder::{interval}"), 400_000_000u64);
            }
            None => rig.enc.set_property(interval, 400_000_000u64),
        }
        rig.begin(common::GRAY);
        for number in 0..60 {
            if number % 6 == 5 {
                rig.send(from_upstream(None, false, number as u32));
            }
            rig.push(number).unwrap();
        }
        rig.end();
        let entries = rig.entries();
        let keys = entries.iter().filter(|entry| entry.is_key());
        keys.filter_map(Entry::frame).collect::<Vec<_>>()
    };
    let interval = "min-force-key-unit-interval";
    let plain = of(PLAIN, interval);
    assert!(plain.len() < 10, "{plain:?}");
    // (In the plain encoder also key frames count that nobody asked for: its first one.)
    for ours in [LONG.to_string(), overlapping(LONG)] {
        let ours = of(&ours, interval);
        let gaps: Vec<_> = ours.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps[1..].iter().all(|&gap| gap >= 10), "{ours:?}");
        assert!(ours.len() >= plain.len(), "{ours:?} {plain:?}");
    }
}

/// How many chunks were made, by the attempts that it took.
fn chunks(rig: &Rig) -> u64 {
    rig.stats().get("chunks-planned").unwrap()
}

#[test]
fn a_chunk_that_is_long_enough_ends_at_the_request() {
    let rig = Rig::new(LONG);
    for number in 0..50 {
        if [20, 22, 40].contains(&number) {
            rig.send(from_upstream(None, true, 0));
        }
        rig.push(number).unwrap();
    }
    rig.end();
    // 0..20, 20..40 with a forced key frame at 22, 40..50.
    assert_eq!(chunks(&rig), 3);
    let entries = rig.entries();
    let keys: Vec<_> = entries.iter().filter(|entry| entry.is_key()).collect();
    let frames: Vec<_> = keys.iter().filter_map(|entry| entry.frame()).collect();
    assert_eq!(frames, [0, 20, 22, 40]);
}

#[test]
fn a_request_for_what_was_taken_in_but_not_encoded() {
    let gate = common::scripted::Gate::named("late");
    let rig = Rig::new(
        "vtparallelenc encoder=\"scriptedenc gate=late\" sessions=2 chunk-frames=20 min-chunk-frames=4",
    );
    rig.push_all(0..50);
    // Frames 0 and 20 stand before the gate; all others wait behind them.
    let mut waiting = gate.wait_for(2);
    waiting.sort_unstable();
    assert_eq!(waiting, [0, 20]);
    for (time, count) in [(400, 1), (799, 2), (25 * 40 - 1, 3), (45 * 40, 4)] {
        assert!(
            rig.sink
                .push_event(from_downstream(Some(time), false, count))
        );
    }
    gate.open();
    rig.end();
    let keys = keys(&rig);
    let answers: Vec<_> = keys.iter().filter(|key| key.starts_with("key")).collect();
    let times: Vec<_> = answers
        .iter()
        .map(|key| key.split(' ').nth(2).unwrap())
        .collect();
    // 799 ms is frame 20, with which a chunk begins.
    assert_eq!(
        times,
        [
            "0:00:00.400000000",
            "0:00:00.800000000",
            "0:00:01.000000000",
            "0:00:01.800000000"
        ],
        "{keys:#?}"
    );
    // Each just before its key frame: 0, 10, 20, 25, 40 (a chunk), 45.
    let frames = keys.iter().filter(|key| key.starts_with("frame")).count();
    assert_eq!(frames, 6, "{keys:#?}");
}

#[test]
fn an_encoder_that_ignores_requests_answers_with_its_next_key_frame() {
    let ours = "vtparallelenc encoder=\"scriptedenc ignore-keys=true\" sessions=2 chunk-frames=20 min-chunk-frames=30 \
         overlap-before=0 overlap-after=0";
    let rig = Rig::new(ours);
    rig.push_all(0..5);
    rig.send(from_upstream(None, true, 7));
    rig.push_all(5..60);
    rig.end();
    let keys = keys(&rig);
    assert_eq!(keys.len(), 4, "{keys:?}");
    assert!(keys[0].starts_with("frame 0 "), "{keys:?}");
    assert!(keys[1].starts_with("key at 0:00:00.8"), "{keys:?}");
    assert!(keys[2].starts_with("frame 20 "), "{keys:?}");
}

const I420: &str = "video/x-raw,format=I420,width=64,height=64,framerate=25/1";

fn picture(number: u64) -> gst::Buffer {
    let mut bytes = vec![128; 64 * 64 * 3 / 2];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = (at as u64 * (number + 1) % 251) as u8;
    }
    let mut buffer = gst::Buffer::from_slice(bytes);
    let times = buffer.get_mut().unwrap();
    times.set_pts(ms(number * 40));
    times.set_duration(ms(40));
    buffer
}

#[test]
fn real_encoders_make_the_key_frames_and_their_headers() {
    for encoder in [
        "x264enc threads=1 speed-preset=ultrafast key-int-max=1000",
        "x265enc speed-preset=ultrafast key-int-max=1000",
        "vp8enc target-bitrate=300000 keyframe-max-dist=1000",
        "vp9enc target-bitrate=300000 keyframe-max-dist=1000 cpu-used=8 lag-in-frames=0",
        "theoraenc keyframe-force=1000",
    ] {
        let of = |encoder: &str| {
            let rig = Rig::with_caps(encoder, I420);
            for number in 0..60 {
                // One that a chunk ends for, and one that is forced within one.
                if [25, 30].contains(&number) {
                    rig.send(from_upstream(None, true, number as u32));
                }
                rig.src.push(picture(number)).unwrap();
            }
            rig.end();
            let entries = rig.entries();
            // After each answer: its stream headers and its key frame.
            let mut answers = Vec::new();
            for (at, entry) in entries.iter().enumerate() {
                let Some(event) = entry.event() else { continue };
                let Ok(key) = gst_video::DownstreamForceKeyUnitEvent::parse(event) else {
                    continue;
                };
                let mut headers = 0;
                let next = entries[at + 1..].iter().find(|entry| {
                    let is_header = entry.buffer().is_some_and(|it| {
                        it.flags().contains(gst::BufferFlags::HEADER) && it.pts().is_none()
                    });
                    headers += u32::from(is_header);
                    !is_header
                });
                let is_key = next.is_some_and(Entry::is_key);
                answers.push((key.running_time, key.count, headers, is_key));
            }
            answers
        };
        let plain = of(encoder);
        let ours = of(&format!(
            "vtparallelenc encoder=\"{encoder}\" sessions=2 chunk-frames=100 min-chunk-frames=12"
        ));
        let of_frame = |number: u64| Some(ms(number * 40));
        assert!(ours.iter().all(|it| it.3), "{encoder}: {ours:?}");
        assert_eq!(ours.len(), 2, "{encoder}: {ours:?}");
        assert_eq!(
            (ours[0].0, ours[1].0),
            (of_frame(25), of_frame(30)),
            "{encoder}"
        );
        // Encoders that set a least PTS lose these events in 1.22 (fixed in 1.24.13), and others answer the second
        // request with the first one.
        let is_right =
            plain.len() == 2 && plain.iter().all(|it| it.3) && plain[1].0 == of_frame(30);
        if is_right {
            assert_eq!(ours, plain, "{encoder}");
        }
    }
}

#[test]
fn parameter_sets_come_with_a_key_frame_within_a_chunk() {
    // x265enc sends them once.
    let rig = Rig::with_caps(
        "vtparallelenc encoder=\"x265enc speed-preset=ultrafast key-int-max=1000\" sessions=2 chunk-frames=100",
        I420,
    );
    rig.downstream.lock().unwrap().caps = "video/x-h265,stream-format=byte-stream".parse().unwrap();
    for number in 0..30 {
        if number == 5 {
            rig.send(from_upstream(None, true, 0));
        }
        rig.src.push(picture(number)).unwrap();
    }
    rig.end();
    let entries = rig.entries();
    let keys: Vec<_> = entries.iter().filter(|entry| entry.is_key()).collect();
    assert_eq!(keys.len(), 2);
    for key in keys {
        let map = key.buffer().unwrap().map_readable().unwrap();
        // NAL unit types 32 to 34: video, sequence and picture parameter sets.
        let starts = map.windows(5).filter(|it| it[..3] == [0, 0, 1]);
        let types: Vec<_> = starts.map(|it| (it[3] >> 1) & 0x3f).collect();
        for set in 32..=34 {
            assert!(types.contains(&set), "{types:?}");
        }
    }
}

/// The frames that are key frames in what an encoder makes of a moving picture.
fn key_frames((width, height): (u32, u32), encoder: &str) -> Vec<usize> {
    let source = format!(
        "pattern=ball ! video/x-raw,format=I420,width={width},height={height},framerate=25/1"
    );
    common::key_frames(300, &source, encoder)
}

/// A ladder's streams can be cut at the same places, each alone or all of it.
#[test]
fn a_distance_of_key_frames_that_was_set_is_kept() {
    for encoder in [
        "x264enc speed-preset=ultrafast key-int-max=48 option-string=scenecut=0:min-keyint=48",
        "x265enc speed-preset=ultrafast option-string=keyint=48:min-keyint=48:scenecut=0:log-level=0",
        "x265enc speed-preset=ultrafast key-int-max=48 option-string=scenecut=0:min-keyint=48:log-level=0",
        "vp8enc deadline=1 cpu-used=8 keyframe-max-dist=47",
        "openh264enc gop-size=48 scene-change-detection=false bitrate=300000",
        "avenc_flv gop-size=48",
    ] {
        let plain = key_frames((160, 96), encoder);
        for (sessions, more) in [(2, ""), (3, ""), (3, "source-frame-count=300")] {
            // Memory is short for the larger size.
            let ours = format!(
                "vtparallelenc sessions={sessions} max-raw-bytes=16000000 {more} encoder=\"{encoder}\""
            );
            for size in [(160, 96), (320, 192)] {
                assert_eq!(key_frames(size, &ours), plain, "{size:?} {ours}");
            }
        }
    }
}
