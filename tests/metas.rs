// SPDX-License-Identifier: MPL-2.0

//! What frames carry beside their picture: the plain encoder's packet and ours have the same of it for the same frame.

mod common;

use common::rig::Rig;
use gst::prelude::*;
use gst_video::prelude::*;
use std::collections::BTreeMap;

const CHUNKS: &str =
    "sessions=3 chunk-frames=11 min-chunk-frames=4 overlap-before=3 overlap-after=2";

fn register() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        common::init();
        gst::meta::CustomMeta::register("VtTestMeta", &[]);
        gst::meta::CustomMeta::register("VtTestVideoMeta", &["video"]);
        gst::meta::CustomMeta::register("VtTestColorMeta", &["colorspace"]);
    });
}

/// CEA-708 as x264enc and libav take it: one field of 608 data for this frame.
fn caption(number: u64) -> [u8; 6] {
    let byte = 0x20 + (number % 0x5f) as u8;
    [0xfc, byte, byte, 0xfd, byte, 0x20]
}

fn dress(buffer: &mut gst::BufferRef, number: u64) {
    use gst_video::VideoCaptionType;
    let small = number as u32;
    gst_video::VideoCaptionMeta::add(buffer, VideoCaptionType::Cea708Raw, &caption(number));
    gst_video::VideoRegionOfInterestMeta::add(buffer, "face", (small, 2, 3, 4));
    let timecode = gst_video::ValidVideoTimeCode::new(
        gst::Fraction::new(25, 1),
        None,
        gst_video::VideoTimeCodeFlags::empty(),
        1,
        2,
        small / 25,
        small % 25,
        0,
    );
    gst_video::VideoTimeCodeMeta::add(buffer, &timecode.unwrap());
    gst_video::VideoAFDMeta::add(
        buffer,
        (number % 2) as u8,
        gst_video::VideoAFDSpec::AtscA53,
        gst_video::VideoAFDValue::_43Full149Center,
    );
    gst_video::VideoBarMeta::add(buffer, 0, true, small, 20);
    for name in ["VtTestMeta", "VtTestVideoMeta", "VtTestColorMeta"] {
        let mut meta = gst::meta::CustomMeta::add(buffer, name).unwrap();
        meta.mut_structure().set("frame", number);
    }
    let reference = gst::Caps::new_empty_simple("timestamp/x-test");
    gst::ReferenceTimestampMeta::add(
        buffer,
        &reference,
        gst::ClockTime::from_nseconds(number),
        gst::ClockTime::NONE,
    );
    gst_video::VideoMeta::add(
        buffer,
        gst_video::VideoFrameFlags::empty(),
        gst_video::VideoFormat::Gray8,
        16,
        16,
    )
    .unwrap();
}

/// All metas of a packet, as text.
fn worn(buffer: &gst::BufferRef) -> Vec<String> {
    let mut worn = Vec::new();
    for meta in buffer.iter_meta::<gst_video::VideoCaptionMeta>() {
        worn.push(format!(
            "caption {:?} {:?}",
            meta.caption_type(),
            meta.data()
        ));
    }
    for meta in buffer.iter_meta::<gst_video::VideoRegionOfInterestMeta>() {
        worn.push(format!("region {:?}", meta.rect()));
    }
    for meta in buffer.iter_meta::<gst_video::VideoTimeCodeMeta>() {
        worn.push(format!("time code {}", meta.tc()));
    }
    for meta in buffer.iter_meta::<gst_video::VideoAFDMeta>() {
        worn.push(format!("AFD {} {:?}", meta.field(), meta.afd()));
    }
    for meta in buffer.iter_meta::<gst_video::VideoBarMeta>() {
        worn.push(format!("bar {:?}", meta.bar_data1()));
    }
    for meta in buffer.iter_meta::<gst::ReferenceTimestampMeta>() {
        worn.push(format!("reference {}", meta.timestamp()));
    }
    for name in ["VtTestMeta", "VtTestVideoMeta", "VtTestColorMeta"] {
        if let Ok(meta) = gst::meta::CustomMeta::from_buffer(buffer, name) {
            worn.push(format!("{name} {}", meta.structure()));
        }
    }
    let mut kinds = 0;
    buffer.foreach_meta(|_| {
        kinds += 1;
        std::ops::ControlFlow::Continue(())
    });
    worn.push(format!("{kinds} in all"));
    worn
}

#[test]
fn each_packet_carries_what_the_plain_encoders_does() {
    register();
    for encoder in [
        "scriptedenc",
        "scriptedenc bframes=2",
        "scriptedenc bframes=3 look-ahead=5",
    ] {
        let of = |encoder: &str| {
            let rig = Rig::new(encoder);
            for number in 0..50 {
                let time = gst::ClockTime::from_mseconds(40 * number);
                let mut buffer =
                    common::gray(number, (time, Some(gst::ClockTime::from_mseconds(40))));
                dress(buffer.get_mut().unwrap(), number);
                rig.src.push(buffer).unwrap();
            }
            rig.end();
            let packets: BTreeMap<u64, Vec<String>> = rig
                .entries()
                .iter()
                .filter_map(|entry| Some((entry.frame()?, worn(entry.buffer()?))))
                .collect();
            packets
        };
        let plain = of(encoder);
        assert!(plain[&7].len() > 5, "{:?}", plain[&7]);
        let ours = of(&format!("vtparallelenc encoder=\"{encoder}\" {CHUNKS}"));
        assert_eq!(plain, ours, "{encoder}");
    }
}

/// Captions in the order of the decoded pictures.
fn captions(encoder: &str, decoder: &str) -> Vec<Vec<u8>> {
    let pipeline = common::Pipeline::parse(&format!(
        "appsrc name=src format=time max-bytes=0 caps=video/x-raw\\,format=I420\\,width=64\\,height=64\\,framerate=25/1 \
         ! {encoder} ! {decoder} ! fakesink name=sink"
    ));
    let captions = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = captions.clone();
    let pad = pipeline.element("sink").static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let buffer = info.buffer().unwrap();
        let meta = buffer.meta::<gst_video::VideoCaptionMeta>();
        let data = meta.map(|meta| meta.data().to_vec());
        kept.lock().unwrap().push(data.unwrap_or_default());
        gst::PadProbeReturn::Ok
    });
    let src = common::app_src(&pipeline);
    for number in 0..40 {
        let mut buffer = gst::Buffer::from_slice(vec![number as u8 * 5; 64 * 64 * 3 / 2]);
        let frame = buffer.get_mut().unwrap();
        frame.set_pts(gst::ClockTime::from_mseconds(40 * number));
        frame.set_duration(gst::ClockTime::from_mseconds(40));
        gst_video::VideoCaptionMeta::add(
            frame,
            gst_video::VideoCaptionType::Cea708Raw,
            &caption(number),
        );
        src.push_buffer(buffer).unwrap();
    }
    src.end_of_stream().unwrap();
    pipeline.run().expect_eos();
    std::mem::take(&mut *captions.lock().unwrap())
}

#[test]
fn closed_captions_are_in_the_picture_that_they_came_with() {
    register();
    for (encoder, decoder) in [
        ("x264enc threads=1 bframes=3", "h264parse ! avdec_h264"),
        (
            "x264enc threads=1 tune=zerolatency",
            "h264parse ! avdec_h264",
        ),
    ] {
        let plain = captions(encoder, decoder);
        assert_eq!(plain.len(), 40);
        assert_eq!(plain[17], caption(17), "the plain encoder writes none");
        let ours = captions(
            &format!("vtparallelenc encoder=\"{encoder}\" {CHUNKS}"),
            decoder,
        );
        assert_eq!(plain, ours, "{encoder}");
    }
}

/// The caps that leave.
fn caps_of(encoder: &str, raw: &str) -> gst::Caps {
    let rig = Rig::with_caps(encoder, raw);
    let info = gst_video::VideoInfo::from_caps(&raw.parse::<gst::Caps>().unwrap()).unwrap();
    for number in 0..24 {
        let mut buffer = gst::Buffer::from_slice(vec![number as u8; info.size()]);
        let times = buffer.get_mut().unwrap();
        times.set_pts(gst::ClockTime::from_mseconds(40 * number));
        times.set_duration(gst::ClockTime::from_mseconds(40));
        rig.src.push(buffer).unwrap();
    }
    rig.end();
    let entries = rig.entries();
    let mut caps = entries
        .iter()
        .filter_map(|entry| match entry.event()?.view() {
            gst::EventView::Caps(caps) => Some(caps.caps_owned()),
            _ => None,
        });
    let only = caps.next().unwrap();
    assert!(caps.next().is_none());
    assert_eq!(
        entries
            .iter()
            .filter(|entry| entry.buffer().is_some())
            .count(),
        24
    );
    only
}

#[test]
fn what_the_caps_say_is_said_of_the_encoded_video() {
    register();
    let size = "width=64,height=64,framerate=25/1";
    for more in [
        "pixel-aspect-ratio=12/11",
        "colorimetry=bt709,chroma-site=mpeg2",
        "colorimetry=bt2100-pq,mastering-display-info=(string)34000:16000:13250:34500:7500:3000:15635:16450:10000000:1,\
         content-light-level=(string)1000:400",
        "interlace-mode=interleaved,field-order=top-field-first",
        "interlace-mode=mixed",
        "multiview-mode=side-by-side,multiview-flags=0:ffffffff:half-aspect",
        "max-framerate=50/1",
    ] {
        for (encoder, format) in [
            ("x264enc threads=1", "I420"),
            ("jpegenc", "I420"),
            ("scriptedenc", "GRAY8"),
        ] {
            let raw = format!("video/x-raw,format={format},{size},{more}");
            let plain = caps_of(encoder, &raw);
            let ours = caps_of(
                &format!("vtparallelenc encoder=\"{encoder}\" {CHUNKS}"),
                &raw,
            );
            assert_eq!(plain, ours, "{encoder} {more}");
        }
    }
}

#[test]
fn interlaced_pictures_are_decoded_as_the_plain_encoders() {
    register();
    // Field flags that change from picture to picture, as in mixed material.
    let of = |encoder: &str| {
        let pipeline = common::Pipeline::parse(&format!(
            "videotestsrc num-buffers=60 pattern=ball ! video/x-raw,format=I420,width=64,height=64,framerate=50/1 \
             ! interlace top-field-first=false ! {encoder} ! h264parse ! avdec_h264 ! fakesink name=sink"
        ));
        let flags = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = flags.clone();
        let pad = pipeline.element("sink").static_pad("sink").unwrap();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let buffer = info.buffer().unwrap();
            let of_fields = buffer.video_flags()
                & (gst_video::VideoBufferFlags::INTERLACED | gst_video::VideoBufferFlags::TFF);
            kept.lock().unwrap().push((buffer.pts(), of_fields));
            gst::PadProbeReturn::Ok
        });
        pipeline.run().expect_eos();
        std::mem::take(&mut *flags.lock().unwrap())
    };
    let encoder = "x264enc threads=1 interlaced=true bframes=2";
    let plain = of(encoder);
    let ours = of(&format!("vtparallelenc encoder=\"{encoder}\" {CHUNKS}"));
    assert_eq!(plain.len(), ours.len());
    let is_interlaced = |it: &gst_video::VideoBufferFlags| !it.is_empty();
    // (avdec_h264 of 1.28 says nothing of fields, whoever has encoded them.)
    let is_told = gst::version() < (1, 27, 0, 0);
    let any = plain.iter().any(|(_, fields)| is_interlaced(fields));
    assert_eq!(any, is_told);
    let fields = |it: &[(Option<gst::ClockTime>, gst_video::VideoBufferFlags)]| {
        it.iter().map(|(_, fields)| *fields).collect::<Vec<_>>()
    };
    assert_eq!(fields(&plain), fields(&ours));
}

const FIELDS: &str = "video/x-raw(format:Interlaced),format=GRAY8,width=16,height=32,framerate=25/1,interlace-mode=alternate,\
     field-order=top-field-first";

fn push_fields(rig: &Rig) {
    for number in 0..60 {
        let time = gst::ClockTime::from_mseconds(20 * number);
        let mut buffer = common::gray(number, (time, Some(gst::ClockTime::from_mseconds(20))));
        let field = match number % 2 {
            0 => gst_video::VideoBufferFlags::TOP_FIELD,
            _ => gst_video::VideoBufferFlags::BOTTOM_FIELD,
        };
        let field = field | gst_video::VideoBufferFlags::INTERLACED;
        buffer.get_mut().unwrap().set_video_flags(field);
        if rig.src.push(buffer).is_err() {
            return;
        }
    }
    rig.end();
}

#[test]
fn alternating_fields_are_encoded_by_one_session() {
    register();
    let encoder = "scriptedenc keep-times=true";
    let plain = Rig::with_caps(encoder, FIELDS);
    push_fields(&plain);
    let ours = Rig::with_caps(
        &format!("vtparallelenc encoder=\"{encoder}\" {CHUNKS}"),
        FIELDS,
    );
    push_fields(&ours);
    assert_eq!(ours.story(), plain.story());
    let reason: String = ours.stats().get("sequential-reason").unwrap();
    assert!(reason.contains("interlace-mode=alternate"), "{reason}");
}

#[test]
fn fields_that_begin_to_alternate_in_mid_stream_are_an_error() {
    register();
    let rig = Rig::new(&format!("vtparallelenc encoder=scriptedenc {CHUNKS}"));
    rig.push_all(0..30);
    let caps: gst::Caps = FIELDS.parse().unwrap();
    rig.send(gst::event::Caps::new(&caps));
    push_fields(&rig);
    let errors = rig.messages(&[gst::MessageType::Error]);
    let gst::MessageView::Error(error) = errors[0].view() else {
        unreachable!("only errors were asked for");
    };
    let text = error.error().message().to_string();
    assert!(text.contains("set allow-parallel=false"), "{text}");
}
