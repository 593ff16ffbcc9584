// SPDX-License-Identifier: MPL-2.0

//! What is muxed can be demuxed: each encoder in each muxer that takes it, as with the plain encoder.

mod common;

use common::{End, Packet, Pipeline, record};
use gst::prelude::*;

/// With what stands between them and a muxer.
const ENCODERS: &[(&str, &str)] = &[
    ("x264enc speed-preset=ultrafast", "! h264parse"),
    (
        "x264enc speed-preset=ultrafast bframes=2 b-adapt=false",
        "! h264parse",
    ),
    (
        "x265enc speed-preset=ultrafast option-string=log-level=0",
        "! h265parse",
    ),
    ("vp8enc deadline=1 cpu-used=8", ""),
    (
        "vp8enc deadline=1 cpu-used=8 auto-alt-ref=true lag-in-frames=12",
        "",
    ),
    ("vp9enc deadline=1 cpu-used=8", "! vp9parse"),
    ("av1enc cpu-used=8 usage-profile=realtime", "! av1parse"),
    ("openh264enc bitrate=300000", "! h264parse"),
    ("theoraenc", ""),
    ("jpegenc", ""),
    ("avenc_ffv1", ""),
    ("avenc_prores_ks", ""),
    ("avenc_flv", ""),
    ("avenc_msmpeg4", ""),
    ("avenc_dnxhd", ""),
];

/// With what reads what they write.
const MUXERS: &[(&str, &str)] = &[
    ("mp4mux", "qtdemux"),
    ("qtmux", "qtdemux"),
    ("matroskamux", "matroskademux"),
    ("webmmux", "matroskademux"),
    ("mpegtsmux", "tsdemux"),
    ("flvmux", "flvdemux"),
    ("avimux", "avidemux"),
    ("oggmux", "oggdemux"),
];

/// 1001 times, so that no muxer's clock hits them all.
const VIDEO: &str = "videotestsrc num-buffers=40 pattern=ball ! video/x-raw,width=256,height=128,framerate=30000/1001";

/// Muxes to a file, and demuxes that. `None`: these elements can't be linked, or don't get to the end.
fn muxed(encoder: &str, (muxer, demuxer): (&str, &str)) -> Option<Vec<Packet>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display();
    let writer = format!("{VIDEO} ! {encoder} ! {muxer} ! filesink location={path}");
    // What can't be linked is no pipeline at all.
    gst::parse::launch(&writer).ok()?;
    if let End::Error { .. } = Pipeline::parse(&writer).run() {
        return None;
    }
    let reader = format!("filesrc location={path} ! {demuxer} ! fakesink name=sink");
    let reader = Pipeline::parse(&reader);
    let output = record(&reader.element("sink").static_pad("sink").unwrap());
    reader.run().expect_eos();
    let packets = output.lock().unwrap().packets.clone();
    Some(packets)
}

/// In the order of time. (avidemux has none but those of key frames, which aren't the same ones.)
fn times(packets: &[Packet]) -> Vec<Option<gst::ClockTime>> {
    let mut times: Vec<_> = packets.iter().map(|packet| packet.running_time).collect();
    times.sort();
    times
}

#[test]
fn each_encoder_in_each_muxer() {
    common::init();
    let (mut pairs, mut faults) = (0, Vec::new());
    for (encoder, parser) in ENCODERS {
        if gst::parse::launch(encoder).is_err() {
            eprintln!("{encoder} isn't installed");
            continue;
        }
        for muxer in MUXERS.iter().copied() {
            // (What can't be linked can't be negotiated with us either, and mp4mux 1.22 trips over the end of that.)
            let Some(plain) = muxed(&format!("{encoder} {parser}"), muxer) else {
                continue;
            };
            for overlap in [0, 5] {
                let ours = format!(
                    "vtparallelenc sessions=2 chunk-frames=15 min-chunk-frames=1 overlap-before={overlap} overlap-after={overlap} \
                     encoder=\"{encoder}\" {parser}"
                );
                let what = format!("{encoder} in {}, overlap {overlap}", muxer.0);
                let Some(ours) = muxed(&ours, muxer) else {
                    faults.push(format!("{what}: fails, the plain encoder doesn't"));
                    continue;
                };
                let (is, should) = (times(&ours), times(&plain));
                let all = is == should || muxer.0 == "avimux";
                if !all || is.len() != should.len() {
                    faults.push(format!("{what}: {is:?}, plain {should:?}"));
                }
                let dts = ours.iter().filter_map(|packet| packet.dts);
                if !dts.is_sorted() {
                    faults.push(format!("{what}: DTS"));
                }
                pairs += 1;
            }
        }
    }
    eprintln!("{pairs} pairs");
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(pairs > 50);
}
