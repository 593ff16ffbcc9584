// SPDX-License-Identifier: MPL-2.0

//! New caps in mid-stream, from upstream and from downstream.

mod common;

use common::rig::{Entry, Rig, assert_same};
use gst::prelude::*;

const PLAIN: &str = "scriptedenc";
const OURS: &str = "vtparallelenc encoder=scriptedenc sessions=3 chunk-frames=12 min-chunk-frames=4 overlap-before=3 \
     overlap-after=3";

/// Raw caps with these fields changed.
fn caps(fields: &str) -> gst::Event {
    let caps: gst::Caps =
        format!("video/x-raw,format=GRAY8,width=16,height=16,framerate=25/1,{fields}")
            .parse()
            .unwrap();
    gst::event::Caps::new(&caps)
}

#[test]
fn changes_leave_with_the_first_frame_that_they_hold_for() {
    assert_same(PLAIN, OURS, None, |rig| {
        rig.send(gst::event::StreamStart::new("rig"));
        rig.send(caps("interlace-mode=progressive"));
        rig.begin_segment();
        let mut next = 0;
        for (number, fields) in [
            (7, "pixel-aspect-ratio=4/3"),
            (9, "colorimetry=1:1:0:1"),
            (25, "interlace-mode=mixed"),
            (26, "max-framerate=30/1"),
            (50, "chroma-site=jpeg"),
            (70, "interlace-mode=progressive"),
            (75, "multiview-mode=frame-by-frame"),
        ] {
            rig.push_all(next..number);
            next = number;
            rig.send(caps(fields));
        }
        rig.push_all(next..80);
        rig.end();
    });
}

#[test]
fn what_changes_nothing_is_ignored() {
    let rig = Rig::bare(OURS);
    rig.send(gst::event::StreamStart::new("rig"));
    rig.send(caps("interlace-mode=progressive"));
    rig.begin_segment();
    for number in 0..36 {
        // The same, in other words, and what GstVideoInfo doesn't have.
        rig.send(match number % 3 {
            0 => caps("pixel-aspect-ratio=1/1"),
            1 => caps("interlace-mode=progressive,note=again"),
            _ => caps("colorimetry=1:4:0:0"),
        });
        rig.push(number).unwrap();
    }
    rig.end();
    assert_eq!(rig.stats().get::<u64>("chunks-planned").unwrap(), 3);
    let changes = rig.entries();
    let changes = changes.iter().filter_map(Entry::event);
    assert_eq!(
        changes
            .filter(|event| event.type_() == gst::EventType::Caps)
            .count(),
        1
    );
}

#[test]
fn caps_that_the_encoder_does_not_take_are_refused() {
    for encoder in [
        "x264enc",
        "vtparallelenc encoder=x264enc sessions=2 chunk-frames=10 overlap-before=0",
    ] {
        let i420 = "video/x-raw,format=I420,width=64,height=64,framerate=25/1";
        let rig = Rig::with_caps(encoder, i420);
        let buffer = |number: u64| {
            let mut buffer = gst::Buffer::from_slice(vec![0; 64 * 64 * 3 / 2]);
            buffer
                .get_mut()
                .unwrap()
                .set_pts(gst::ClockTime::from_mseconds(40 * number));
            buffer
        };
        for number in 0..25 {
            rig.src.push(buffer(number)).unwrap();
        }
        let refused = "video/x-raw,format=AYUV,width=64,height=64,framerate=25/1";
        // (It is the next frame that hears of it.)
        rig.src
            .push_event(gst::event::Caps::new(&refused.parse().unwrap()));
        assert_eq!(
            rig.src.push(buffer(25)),
            Err(gst::FlowError::NotNegotiated),
            "{encoder}"
        );
    }
}

/// The plain encoder sends all but what it still looks ahead at.
#[test]
fn what_came_before_caps_that_are_refused_leaves() {
    for encoder in [
        "x265enc speed-preset=ultrafast",
        "vtparallelenc encoder=\"x265enc speed-preset=ultrafast\" sessions=2 chunk-frames=25",
    ] {
        let rig = Rig::with_caps(
            encoder,
            "video/x-raw,format=I420,width=64,height=64,framerate=25/1",
        );
        let push = |number: u64, size: usize| {
            let mut buffer = gst::Buffer::from_slice(vec![0; size * size * 3 / 2]);
            let of = buffer.get_mut().unwrap();
            of.set_pts(gst::ClockTime::from_mseconds(40 * number));
            of.set_duration(gst::ClockTime::from_mseconds(40));
            rig.src.push(buffer)
        };
        for number in 0..70 {
            push(number, 64).unwrap();
        }
        let small = "video/x-raw,format=I420,width=8,height=8,framerate=25/1";
        rig.src
            .push_event(gst::event::Caps::new(&small.parse().unwrap()));
        let refused = (70..999).find(|&number| push(number, 8).is_err());
        assert!(refused.is_some(), "{encoder}");
        let packets = rig.entries().iter().filter_map(Entry::buffer).count();
        assert!(
            packets > 50,
            "{encoder}: {packets} {:?}",
            rig.messages(&[gst::MessageType::Error])
        );
        if encoder.starts_with("vt") {
            assert_eq!(packets, 70);
            let errors = rig.messages(&[gst::MessageType::Error]);
            let [error] = &errors[..] else {
                panic!("{errors:?}")
            };
            let gst::MessageView::Error(error) = error.view() else {
                unreachable!()
            };
            assert!(error.error().message().contains("x265enc"), "{error:?}");
        }
    }
}

/// Encodes pictures of two sizes, and decodes them.
fn decode_two_sizes(encoder: &str, parser_and_decoder: &str) -> Vec<(i32, i32)> {
    let pipeline = common::Pipeline::parse(&format!(
        "concat name=c ! {encoder} ! {parser_and_decoder} ! fakesink name=sink \
         videotestsrc num-buffers=33 ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 ! c. \
         videotestsrc num-buffers=27 ! video/x-raw,format=I420,width=96,height=64,framerate=25/1 ! c."
    ));
    let sizes = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = sizes.clone();
    let pad = pipeline.element("sink").static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
        let caps = pad.current_caps().unwrap();
        let caps = caps.structure(0).unwrap();
        let size = |field| caps.get::<i32>(field).unwrap();
        kept.lock().unwrap().push((size("width"), size("height")));
        gst::PadProbeReturn::Ok
    });
    pipeline.run().expect_eos();
    std::mem::take(&mut *sizes.lock().unwrap())
}

#[test]
fn real_encoders_change_size_in_mid_stream() {
    for (encoder, decoder) in [
        (
            "x264enc threads=1 speed-preset=ultrafast",
            "h264parse ! avdec_h264",
        ),
        ("vp8enc target-bitrate=300000", "vp8dec"),
        ("jpegenc", "jpegdec"),
    ] {
        let plain = decode_two_sizes(encoder, decoder);
        for overlap in [0, 5] {
            let ours = format!(
                "vtparallelenc encoder=\"{encoder}\" sessions=2 chunk-frames=10 min-chunk-frames=4 overlap-before={overlap} \
                 overlap-after={overlap}"
            );
            let ours = decode_two_sizes(&ours, decoder);
            assert_eq!(ours.len(), 60, "{encoder}");
            assert_eq!(ours, plain, "{encoder}");
        }
    }
}

#[test]
fn downstream_accepts_something_else_from_a_chunk_on() {
    // x264enc makes what downstream accepts. Asked again for every chunk, it would answer itself.
    let encoder = "vtparallelenc encoder=\"x264enc threads=1\" sessions=2 chunk-frames=10 min-chunk-frames=2 overlap-before=0 \
         overlap-after=0";
    let rig = Rig::bare(encoder);
    let accept = |caps: &str| rig.downstream.lock().unwrap().caps = caps.parse().unwrap();
    accept("video/x-h264,stream-format=byte-stream,profile=high");
    rig.begin("video/x-raw,format=I420,width=64,height=64,framerate=25/1");
    for number in 0..60 {
        if number == 25 {
            accept("video/x-h264,stream-format=byte-stream,profile=constrained-baseline");
            assert!(rig.sink.push_event(gst::event::Reconfigure::new()));
        }
        let mut buffer = gst::Buffer::from_slice(vec![number as u8; 64 * 64 * 3 / 2]);
        buffer
            .get_mut()
            .unwrap()
            .set_pts(gst::ClockTime::from_mseconds(40 * number));
        rig.src.push(buffer).unwrap();
    }
    rig.end();
    // Upstream hears of it, once.
    let heard = rig.upstream.lock().unwrap();
    let heard = heard
        .events
        .iter()
        .filter(|event| event.type_() == gst::EventType::Reconfigure);
    assert_eq!(heard.count(), 1);
    let mut frames = 0;
    let mut changes = Vec::new();
    for entry in rig.entries() {
        match &entry {
            Entry::Buffer(_) => frames += 1,
            Entry::Event(event) => {
                if let gst::EventView::Caps(caps) = event.view() {
                    let profile = caps.caps().structure(0).unwrap().get::<String>("profile");
                    changes.push((frames, profile.unwrap()));
                }
            }
        }
    }
    assert_eq!(
        changes,
        [
            (0, "high".to_string()),
            (30, "constrained-baseline".to_string())
        ]
    );
}

#[test]
fn upstream_hears_what_downstream_accepts_now() {
    // A size that downstream wants from now on is made by what stands before us, as with the plain encoder.
    for encoder in [
        "jpegenc",
        "vtparallelenc encoder=jpegenc sessions=2 chunk-frames=10 min-chunk-frames=2",
    ] {
        let pipeline = common::Pipeline::parse(&format!(
            "videotestsrc num-buffers=400 ! video/x-raw,format=I420,width=48,height=48,framerate=25/1 ! videoscale ! {encoder} \
             ! capsfilter name=filter caps-change-mode=delayed caps=image/jpeg,width=64,height=64 ! fakesink name=sink sync=false"
        ));
        let sizes = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = sizes.clone();
        let filter = pipeline.element("filter");
        let pad = pipeline.element("sink").static_pad("sink").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
            let caps = pad.current_caps().unwrap();
            let width: i32 = caps.structure(0).unwrap().get("width").unwrap();
            let mut sizes = kept.lock().unwrap();
            sizes.push(width);
            if sizes.len() == 20 {
                let caps: gst::Caps = "image/jpeg,width=32,height=32".parse().unwrap();
                filter.set_property("caps", caps);
            }
            gst::PadProbeReturn::Ok
        });
        pipeline.run().expect_eos();
        let sizes = sizes.lock().unwrap();
        assert_eq!(sizes.len(), 400, "{encoder}");
        let changed = sizes
            .iter()
            .position(|size| *size == 32)
            .expect("it never changes");
        assert!(sizes[..changed].iter().all(|size| *size == 64), "{encoder}");
        assert!(sizes[changed..].iter().all(|size| *size == 32), "{encoder}");
    }
}
