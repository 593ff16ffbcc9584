// SPDX-License-Identifier: MPL-2.0

//! The caps that are agreed on are those of the plain encoder in the same pipeline, upstream and downstream.

mod common;

use common::{End, Pipeline};
use gst::prelude::*;
use std::sync::{Arc, Mutex};

/// Encoders whose choice of a profile or of a colour model hangs on the raw format.
const ENCODERS: &[&str] = &[
    "x264enc speed-preset=ultrafast threads=1",
    "x265enc speed-preset=ultrafast",
    "vp8enc deadline=1 cpu-used=8",
    "vp9enc deadline=1 cpu-used=8",
    "av1enc cpu-used=8",
    "openh264enc",
    "jpegenc",
    "pngenc",
    "avenc_ffv1",
    "avenc_mjpeg",
    "theoraenc",
];

/// Raw formats, and none, which leaves the choice to the source.
const FORMATS: &[&str] = &[
    "",
    "I420",
    "NV12",
    "YUY2",
    "UYVY",
    "Y42B",
    "Y444",
    "AYUV",
    "BGRA",
    "BGRx",
    "RGB",
    "GRAY8",
    "I420_10LE",
    "I422_10LE",
    "P010_10LE",
    "v210",
];

/// What stands between the source and the encoder.
const BETWEEN: &[&str] = &["videoconvert", "identity"];

/// What comes after it.
fn behind(encoder: &str) -> &'static [&'static str] {
    match encoder.split(' ').next().unwrap() {
        "x264enc" | "openh264enc" => &[
            "",
            "video/x-h264,profile=high",
            "video/x-h264,profile=main",
            "video/x-h264,profile=constrained-baseline",
        ],
        "x265enc" => &[
            "",
            "video/x-h265,profile=main",
            "video/x-h265,profile=main-10",
        ],
        "vp9enc" => &["", "video/x-vp9,profile=(string)0"],
        _ => &[""],
    }
}

/// What came by a pad.
#[derive(Default)]
struct Kept {
    caps: Option<gst::Caps>,
    frames: usize,
}

fn watch(pad: &gst::Pad, keep: impl Fn(&dyn Fn(&mut Kept)) + Send + Sync + 'static) {
    let mask = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
    pad.add_probe(mask, move |_, info| {
        match &info.data {
            Some(gst::PadProbeData::Buffer(_)) => keep(&|kept| kept.frames += 1),
            Some(gst::PadProbeData::Event(event)) => {
                if let gst::EventView::Caps(caps) = event.view() {
                    keep(&|kept| kept.caps = Some(caps.caps_owned()));
                }
            }
            _ => (),
        }
        gst::PadProbeReturn::Ok
    });
}

/// What was agreed on.
#[derive(Debug, PartialEq, Eq)]
struct Agreed {
    raw: Option<gst::Caps>,
    coded: Option<gst::Caps>,
    frames: usize,
}

/// Fields that say what the pictures are; others hold parameter sets, which tell the number of threads.
fn of_pictures(mut caps: gst::Caps) -> gst::Caps {
    for structure in caps.make_mut().iter_mut() {
        structure.remove_fields(["codec_data", "streamheader"]);
    }
    caps
}

/// `None`: nothing could be agreed on.
fn agreed(format: &str, between: &str, encoder: &str, behind: &str) -> Option<Agreed> {
    let format = if format.is_empty() {
        String::new()
    } else {
        format!(",format={format}")
    };
    let behind = if behind.is_empty() {
        String::new()
    } else {
        format!("{behind} !")
    };
    let line = format!(
        "videotestsrc num-buffers=3 ! video/x-raw,width=64,height=64,framerate=25/1{format} ! {between} ! \
         {encoder} name=enc ! {behind} fakesink name=sink"
    );
    // Links may be refused as well.
    let pipeline = Pipeline(gst::parse::launch(&line).ok()?.downcast().unwrap());
    let kept: Arc<Mutex<(Kept, Kept)>> = Arc::default();
    let [source, sink] =
        ["enc", "sink"].map(|name| pipeline.element(name).static_pad("sink").unwrap());
    let (of_raw, of_coded) = (kept.clone(), kept.clone());
    watch(&source, move |change| change(&mut of_raw.lock().unwrap().0));
    watch(&sink, move |change| change(&mut of_coded.lock().unwrap().1));
    let end = pipeline.run();
    let (raw, coded) = std::mem::take(&mut *kept.lock().unwrap());
    if !matches!(end, End::Eos) {
        return None;
    }
    Some(Agreed {
        raw: raw.caps.map(of_pictures),
        coded: coded.caps.map(of_pictures),
        frames: coded.frames,
    })
}

/// Compares for each format; the encoders, the plain one and ours.
fn assert_agreed(encoders: &[(&str, String)]) {
    common::init();
    let (mut pairs, mut different) = (0, Vec::new());
    for (encoder, ours) in encoders {
        let factory = encoder.split(' ').next().unwrap();
        if gst::ElementFactory::find(factory).is_none() {
            eprintln!("{factory}: not installed, not compared");
            continue;
        }
        for format in FORMATS {
            for between in BETWEEN {
                for behind in behind(encoder) {
                    let plain = agreed(format, between, encoder, behind);
                    let ours = agreed(format, between, ours, behind);
                    pairs += 1;
                    if plain != ours {
                        different.push(format!(
                            "{format} ! {between} ! {encoder} ! {behind}:\n  {plain:?}\n  {ours:?}"
                        ));
                    }
                }
            }
        }
    }
    eprintln!("{pairs} pairs");
    assert!(
        different.is_empty(),
        "{} of {pairs} differ:\n{}",
        different.len(),
        different.join("\n")
    );
}

#[test]
fn whatever_the_format_the_caps_are_those_of_the_plain_encoder() {
    let ours = |encoder: &str| format!("vtparallelenc encoder=\"{encoder}\" sessions=2");
    let pairs: Vec<_> = ENCODERS.iter().map(|it| (*it, ours(it))).collect();
    assert_agreed(&pairs);
}

/// What links by caps takes no other pad of a muxer than the plain encoder gets, whichever it offers first.
#[test]
fn muxers_take_it_for_video() {
    for encoder in [
        "vtparallelenc encoder=jpegenc",
        "vtparallelenc encoder=\"videoconvert ! jpegenc\"",
        "vtparallelmpeg4enc",
        "vtparallelmpeg2enc",
    ] {
        for mux in ["avimux", "matroskamux", "qtmux"] {
            // (mpeg2enc says no MPEG version that qtmux knows, alone as well.)
            if mux == "qtmux" && encoder.contains("mpeg2") {
                continue;
            }
            let pipeline = Pipeline::parse(&format!(
                "videotestsrc num-buffers=60 ! video/x-raw,width=320,height=240,framerate=25/1 ! {encoder} name=enc ! \
                 {mux} name=mux ! fakesink"
            ));
            let peer = pipeline
                .element("enc")
                .static_pad("src")
                .unwrap()
                .peer()
                .unwrap();
            assert!(
                peer.name().starts_with("video"),
                "{encoder} ! {mux}: {}",
                peer.name()
            );
            pipeline.run().expect_eos();
        }
    }
}

/// Before an encoder is placed, what it can do for what comes after it is known as well.
#[test]
fn an_encoder_that_is_chosen_agrees_on_the_same() {
    assert_agreed(&[
        ("x264enc", "vtparallelh264enc sessions=2".to_string()),
        ("x265enc", "vtparallelh265enc sessions=2".to_string()),
        ("vp9enc", "vtparallelvp9enc sessions=2".to_string()),
    ]);
}
