// SPDX-License-Identifier: MPL-2.0

//! The cases of GStreamer's own encoder tests (1.22), and what they come to here. Each is passed by the plain encoder and by ours;
//! where another file of these tests has the case, it is named.
//!
//! | test of GStreamer | case | here |
//! |---|---|---|
//! | ugly `x264enc.c` | baseline, main, high, high10, high422, high444 in `avc`: one frame, raw formats that go with the profile, profile and `codec_data` in the caps | [`profiles_of_h264`]; passes |
//! | bad `x265enc.c` | ten frames, caps and durations | [`simple_encoding`]; passes |
//! | | a picture of 16x16 | [`a_tiny_picture`]; passes |
//! | good `vp8enc.c`, `vp9enc.c` | twenty frames: caps, times | [`simple_encoding`]; passes |
//! | | lag in frames: how many wait at EOS | [`frames_that_wait_leave_at_the_end`]; passes (a chunk is what waits) |
//! | | bitrate 0 | [`a_bitrate_of_zero`]; passes |
//! | | the automatic bitrate follows size and rate of the caps | the property of each fresh encoder does, as the plain one's: [`the_automatic_bitrate_follows_the_caps`]; passes. The child `encoder` has no caps: its `target-bitrate` shows what was set, 0 |
//! | | temporal scaling: layers, timestamps, `GstVP8Meta` on each packet | not repeated: its properties are arrays, which have no text in 1.22, so that only a handler of `encoder-setup` can set them; each chunk would begin with the base layer |
//! | | a fresh `GstVP8Meta` though the input has one | [`metas_of_the_encoder_are_its_own`]; passes |
//! | base `videoencoder.c` | playback | identity.rs |
//! | | tags before EOS, events before EOS | events.rs |
//! | | events at a flush: sticky ones stay, others go | [`a_flush_keeps_sticky_events`]; passes |
//! | | `pre_push` fails | an encoder that fails: errors.rs |
//! | | QoS | with `qos=true` an encoder drops what is late; the sessions' encoders are told of no time, so nothing is dropped: [`qos_is_passed_on`] |
//! | | subframes, events with subframes | no encoder of 1.22 that is installed makes them; in chunks a second packet of a frame is refused as doubled (errors.rs), alone they go straight through |
//! | | force-key-unit, and its least interval | keys.rs |
//! | | HDR metadata in the caps, one kind and both | metas.rs |
//! | base `encodebin.c` | profiles, presets, static and dynamic pads, several streams, impossible combinations, reuse | applications.rs has those that choose a video encoder: by format, by name (`preset-name`), in encodebin and encodebin2, with and without sound, again after NULL; the others have no encoder in them |
//! | | missing plugin messages | choice.rs |
//! | `generic/states.c` of each module | every element up and down through the states | lifecycle.rs |

mod common;

use common::rig::{Entry, Rig};
use gst::prelude::*;
use std::sync::{Arc, Mutex};

fn ours(encoder: &str) -> String {
    format!(
        "vtparallelenc encoder=\"{encoder}\" sessions=2 chunk-frames=7 min-chunk-frames=2 overlap-before=0 overlap-after=0"
    )
}

/// Does the same with the plain encoder and with ours.
fn both(encoder: &str, act: impl Fn(&str)) {
    act(encoder);
    act(&ours(encoder));
}

fn picture(size: usize, number: u64) -> gst::Buffer {
    let mut buffer = gst::Buffer::from_slice(vec![(number * 7) as u8; size]);
    let times = buffer.get_mut().unwrap();
    times.set_pts(gst::ClockTime::from_mseconds(40 * number));
    times.set_duration(gst::ClockTime::from_mseconds(40));
    buffer
}

fn packets(rig: &Rig) -> Vec<gst::Buffer> {
    let entries = rig.take().into_iter();
    let packets = entries.filter_map(|entry| match entry {
        Entry::Buffer(buffer) => Some(buffer),
        Entry::Event(_) => None,
    });
    packets.collect()
}

fn caps(rig: &Rig) -> gst::Caps {
    rig.sink.current_caps().unwrap()
}

#[test]
fn profiles_of_h264() {
    for (profile, id, formats) in [
        ("constrained-baseline", 0x42, &["I420", "NV12", "YV12"][..]),
        ("main", 0x4d, &["I420", "NV12", "YV12"]),
        ("high", 0x64, &["I420", "NV12", "YV12"]),
        ("high-10", 0x6e, &["I420_10LE"]),
        ("high-4:2:2", 0x7a, &["Y42B", "I422_10LE"]),
        ("high-4:4:4", 0xf4, &["Y444", "Y444_10LE"]),
    ] {
        both("x264enc", |encoder| {
            for format in formats {
                let rig = Rig::bare(encoder);
                rig.downstream.lock().unwrap().caps =
                    format!("video/x-h264,profile=(string){profile},stream-format=avc")
                        .parse()
                        .unwrap();
                // Only formats that go with the profile.
                let accepted = rig.src.peer_query_caps(None);
                let of = |format: &str| {
                    format!("video/x-raw,format={format}")
                        .parse::<gst::Caps>()
                        .unwrap()
                };
                assert!(
                    accepted.can_intersect(&of(format)),
                    "{encoder} {profile} {format}"
                );
                assert_eq!(
                    accepted.can_intersect(&of("Y444_10LE")),
                    profile == "high-4:4:4"
                );
                let raw =
                    format!("video/x-raw,format={format},width=384,height=288,framerate=25/1");
                let info =
                    gst_video::VideoInfo::from_caps(&raw.parse::<gst::Caps>().unwrap()).unwrap();
                rig.begin(&raw);
                rig.src.push(picture(info.size(), 0)).unwrap();
                rig.end();
                let caps = caps(&rig);
                let about = caps.structure(0).unwrap();
                assert_eq!(
                    about.get::<&str>("profile"),
                    Ok(profile),
                    "{encoder} {format}"
                );
                assert_eq!(about.get::<&str>("stream-format"), Ok("avc"));
                let data: gst::Buffer = about.get("codec_data").unwrap();
                let data = data.map_readable().unwrap();
                assert_eq!((data[0], data[1]), (1, id), "{encoder} {profile} {format}");
                assert_eq!(packets(&rig).len(), 1);
            }
        });
    }
}

#[test]
fn simple_encoding() {
    for (encoder, encoded) in [
        ("x265enc speed-preset=ultrafast", "video/x-h265"),
        ("x264enc speed-preset=ultrafast", "video/x-h264"),
        ("vp8enc", "video/x-vp8"),
        ("vp9enc cpu-used=8 lag-in-frames=0", "video/x-vp9"),
    ] {
        both(encoder, |encoder| {
            let rig = Rig::with_caps(
                encoder,
                "video/x-raw,format=I420,width=320,height=240,framerate=25/1",
            );
            for number in 0..20 {
                rig.src.push(picture(320 * 240 * 3 / 2, number)).unwrap();
            }
            rig.end();
            let caps = caps(&rig);
            let expected = format!("{encoded},width=320,height=240,framerate=25/1");
            assert!(
                caps.can_intersect(&expected.parse::<gst::Caps>().unwrap()),
                "{encoder}: {caps}"
            );
            let packets = packets(&rig);
            assert_eq!(packets.len(), 20, "{encoder}");
            let mut times: Vec<_> = packets.iter().map(|it| it.pts().unwrap()).collect();
            times.sort_unstable();
            for (number, time) in times.iter().enumerate() {
                assert_eq!(
                    *time - times[0],
                    gst::ClockTime::from_mseconds(40 * number as u64)
                );
            }
            for packet in packets {
                assert_eq!(
                    packet.duration(),
                    Some(gst::ClockTime::from_mseconds(40)),
                    "{encoder}"
                );
            }
        });
    }
}

/// So many pictures of this size go in, and so many packets come out.
fn assert_all_leave(encoder: &str, (width, height): (usize, usize), pictures: u64) {
    both(encoder, |encoder| {
        let raw = format!("video/x-raw,format=I420,width={width},height={height},framerate=25/1");
        let rig = Rig::with_caps(encoder, &raw);
        for number in 0..pictures {
            rig.src
                .push(picture(width * height * 3 / 2, number))
                .unwrap();
        }
        rig.end();
        assert_eq!(packets(&rig).len() as u64, pictures, "{encoder}");
    });
}

#[test]
fn a_tiny_picture() {
    assert_all_leave("x265enc", (16, 16), 10);
}

#[test]
fn frames_that_wait_leave_at_the_end() {
    assert_all_leave("vp8enc lag-in-frames=5", (320, 240), 20);
    assert_all_leave(
        "vp9enc lag-in-frames=5 cpu-used=8 target-bitrate=100000",
        (320, 240),
        20,
    );
}

#[test]
fn a_bitrate_of_zero() {
    assert_all_leave("vp8enc target-bitrate=0", (320, 240), 20);
}

#[test]
fn the_automatic_bitrate_follows_the_caps() {
    // Halving the rate halves it, halving the size quarters it.
    let of_plain = |raw: &str| {
        let rig = Rig::with_caps("vp8enc", raw);
        rig.enc.property::<i32>("target-bitrate")
    };
    let of_ours = |raw: &str| {
        let rig = Rig::bare(&ours("vp8enc"));
        let encoders = Arc::new(Mutex::new(Vec::new()));
        let kept = encoders.clone();
        rig.enc.connect("encoder-setup", false, move |values| {
            kept.lock()
                .unwrap()
                .push(values[1].get::<gst::Element>().unwrap());
            None
        });
        rig.begin(raw);
        let info = gst_video::VideoInfo::from_caps(&raw.parse::<gst::Caps>().unwrap()).unwrap();
        for number in 0..20 {
            rig.src.push(picture(info.size(), number)).unwrap();
        }
        rig.end();
        let rates: Vec<i32> = encoders
            .lock()
            .unwrap()
            .iter()
            .map(|it| it.property("target-bitrate"))
            .collect();
        assert!(
            !rates.is_empty() && rates.iter().all(|rate| *rate == rates[0]),
            "{rates:?}"
        );
        rates[0]
    };
    for raw in [
        "width=320,height=240,framerate=30/1",
        "width=320,height=240,framerate=15/1",
        "width=160,height=120,framerate=15/1",
    ] {
        let raw = format!("video/x-raw,format=I420,{raw}");
        assert_eq!(of_plain(&raw), of_ours(&raw), "{raw}");
    }
}

/// What vp8enc says of a packet's layer.
fn layer(packet: &gst::BufferRef) -> Option<(bool, u32)> {
    let meta = gst::meta::CustomMeta::from_buffer(packet, "GstVP8Meta").ok()?;
    let about = meta.structure();
    Some((
        about.get("use-temporal-scaling").ok()?,
        about.get("layer-id").ok()?,
    ))
}

#[test]
fn metas_of_the_encoder_are_its_own() {
    both("vp8enc deadline=1", |encoder| {
        let rig = Rig::with_caps(
            encoder,
            "video/x-raw,format=I420,width=320,height=240,framerate=25/1",
        );
        for number in 0..10 {
            let mut buffer = picture(320 * 240 * 3 / 2, number);
            let mut meta =
                gst::meta::CustomMeta::add(buffer.get_mut().unwrap(), "GstVP8Meta").unwrap();
            let about = meta.mut_structure();
            about.set("use-temporal-scaling", true);
            about.set("layer-id", 9u32);
            rig.src.push(buffer).unwrap();
        }
        rig.end();
        for packet in packets(&rig) {
            assert_eq!(layer(&packet), Some((false, 0)), "{encoder}");
            let mut metas = 0;
            packet.foreach_meta(|_| {
                metas += 1;
                std::ops::ControlFlow::Continue(())
            });
            assert_eq!(metas, 1, "{encoder}");
        }
    });
}

#[test]
fn a_flush_keeps_sticky_events() {
    for encoder in ["scriptedenc".to_string(), ours("scriptedenc")] {
        let rig = Rig::new(&encoder);
        rig.push_all(0..10);
        // Events before a frame that never comes.
        let mut tags = gst::TagList::new();
        tags.get_mut()
            .unwrap()
            .add::<gst::tags::Title>(&"kept", gst::TagMergeMode::Append);
        rig.send(gst::event::Tag::new(tags));
        rig.send(gst::event::CustomDownstreamSticky::new(
            gst::Structure::new_empty("kept"),
        ));
        rig.send(gst::event::CustomDownstream::new(
            gst::Structure::new_empty("gone"),
        ));
        rig.flush();
        rig.push_all(10..30);
        rig.end();
        let story = rig.story();
        let count = |text: &str| story.iter().filter(|entry| entry.contains(text)).count();
        assert_eq!(count("gone"), 0, "{encoder}: {story:#?}");
        assert!(
            rig.sink
                .sticky_event::<gst::event::CustomDownstreamSticky>(0)
                .is_some(),
            "{encoder}"
        );
        let title = rig.sink.sticky_event::<gst::event::Tag>(0);
        let title = title.and_then(|event| {
            event
                .tag()
                .get::<gst::tags::Title>()
                .map(|it| it.get().to_string())
        });
        assert_eq!(title.as_deref(), Some("kept"), "{encoder}: {story:#?}");
    }
}

#[test]
fn qos_is_passed_on() {
    for encoder in [
        "scriptedenc qos=true",
        "vtparallelenc encoder=\"scriptedenc qos=true\" sessions=2 chunk-frames=7",
    ] {
        let rig = Rig::new(encoder);
        rig.push_all(0..5);
        // All up to 20 s are late.
        let late = gst::event::Qos::new(
            gst::QOSType::Underflow,
            2.0,
            10_000_000_000i64,
            gst::ClockTime::from_seconds(0),
        );
        assert!(rig.sink.push_event(late));
        rig.push_all(5..30);
        rig.end();
        let heard = rig.upstream.lock().unwrap();
        let heard = heard
            .events
            .iter()
            .filter(|event| event.type_() == gst::EventType::Qos);
        assert_eq!(heard.count(), 1, "{encoder}");
        // (What is dropped is the encoder's own decision: this one makes none.)
        assert_eq!(packets(&rig).len(), 30, "{encoder}");
    }
}
