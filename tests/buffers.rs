// SPDX-License-Identifier: MPL-2.0

//! What a decoder's buffer holds (VBV): where one encoder never empties it, chunks don't either.

mod common;

use common::pictures::{encode_with_stats, pipeline, synthetic};
use common::{End, Output, record};
use gst::glib;
use gst::prelude::*;

/// 14 scenes.
const FRAMES: usize = 500;

struct Encoder {
    description: &'static str,
    /// Follows it where it is alone.
    alone: &'static str,
    /// Of its decoder's buffer: bits a second, and milliseconds of that.
    rate: f64,
    time: f64,
}

const ENCODERS: [Encoder; 4] = [
    Encoder {
        description: "x264enc speed-preset=ultrafast bitrate=800 vbv-buf-capacity=2000",
        alone: "threads=1",
        rate: 800e3,
        time: 2.0,
    },
    Encoder {
        description: "x264enc speed-preset=superfast bitrate=400",
        alone: "threads=1",
        rate: 400e3,
        time: 0.6,
    },
    Encoder {
        description: "x264enc speed-preset=superfast pass=qual quantizer=26 bitrate=500 vbv-buf-capacity=1000",
        alone: "threads=1",
        rate: 500e3,
        time: 1.0,
    },
    Encoder {
        description: "x265enc speed-preset=ultrafast bitrate=600 option-string=log-level=none:pools=1:frame-threads=1:vbv-bufsize=900:vbv-maxrate=600",
        alone: "",
        rate: 600e3,
        time: 1.5,
    },
];

/// What is in the buffer at its emptiest, as a part of its size.
fn least(encoder: &Encoder, output: &Output) -> f64 {
    let size = encoder.rate * encoder.time;
    let (mut level, mut least) = (0.9 * size, size);
    for packet in &output.packets {
        level -= packet.bytes.len() as f64 * 8.0;
        least = least.min(level);
        level = (level + encoder.rate / 25.0).min(size);
    }
    least / size
}

#[test]
fn chunks_never_empty_a_buffer_that_one_encoder_does_not() {
    common::init();
    let pictures = synthetic(FRAMES);
    let mut again = 0;
    for encoder in &ENCODERS {
        let Encoder {
            description, alone, ..
        } = encoder;
        let factory = description.split(' ').next().unwrap();
        if gst::ElementFactory::find(factory).is_none() {
            eprintln!("no {factory}");
            continue;
        }
        let (plain, _) = encode_with_stats(&pictures, &format!("{description} {alone}"));
        let of_one = least(encoder, &plain);
        let mut bytes = None;
        for sessions in [1, 2, 5] {
            let (output, stats) = encode_with_stats(
                &pictures,
                &format!(
                    "vtparallelenc name=enc sessions={sessions} chunk-frames=37 encoder=\"{description}\""
                ),
            );
            let stats = stats.unwrap();
            let stat = |name: &str| stats.get::<u64>(name).unwrap();
            let of_chunks = least(encoder, &output);
            eprintln!("{description}: {of_one:.3}, {of_chunks:.3}; {stats}");
            assert!(
                of_chunks >= of_one.min(0.0),
                "{description}: {of_chunks}, {stats}"
            );
            assert_eq!(stat("vbv-underflows") > 0, of_chunks < 0.0, "{description}");
            assert_eq!(stat("frames-out"), FRAMES as u64);
            again += stat("vbv-retries");
            let made: Vec<_> = output.bytes().iter().map(|it| it.to_vec()).collect();
            let first = bytes.get_or_insert_with(|| made.clone());
            assert!(*first == made, "{description}: other bytes with {sessions}");
        }
    }
    assert!(again > 0, "nothing was encoded again");
}

/// Where the account can't begin anew, one encoder encodes the whole stream, and says why.
#[test]
fn an_account_that_cannot_begin_anew_is_one_encoders() {
    common::init();
    let pictures = synthetic(30);
    for encoder in [
        "x264enc speed-preset=ultrafast option-string=nal-hrd=cbr",
        "x265enc speed-preset=ultrafast bitrate=600 option-string=log-level=none:hrd=1:vbv-bufsize=900:vbv-maxrate=600",
        "vp8enc deadline=1 end-usage=cbr target-bitrate=500000",
    ] {
        if gst::ElementFactory::find(encoder.split(' ').next().unwrap()).is_none() {
            continue;
        }
        let (output, stats) = encode_with_stats(
            &pictures,
            &format!("vtparallelenc name=enc sessions=2 chunk-frames=10 encoder=\"{encoder}\""),
        );
        let stats = stats.unwrap();
        let reason: glib::GString = stats.get("sequential-reason").unwrap();
        assert!(reason.contains("decoder's buffer"), "{encoder}: {reason}");
        assert_eq!(output.packets.len(), 30, "{encoder}");
    }
}

/// What is set in mid-stream holds from the next chunk on, and nobody reckons with the buffer that was.
#[test]
fn another_bitrate_in_mid_stream_is_no_underflow() {
    common::init();
    if gst::ElementFactory::find("x264enc").is_none() {
        return;
    }
    let pictures = synthetic(300);
    let bytes = |raised: bool| {
        let pipeline = pipeline(
            &pictures,
            "vtparallelenc name=enc sessions=2 chunk-frames=37 max-bitrate-overhead=100 encoder=\"x264enc speed-preset=ultrafast bitrate=200\"",
            "fakesink name=sink sync=false",
        );
        let warnings = pipeline.warnings();
        let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
        let enc: gst::Bin = pipeline.element("enc").downcast().unwrap();
        let sink = pipeline.element("sink").static_pad("sink").unwrap();
        let proxy = enc.clone().dynamic_cast::<gst::ChildProxy>().unwrap();
        sink.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            if raised {
                proxy.set_child_property("encoder::bitrate", 4_000u32);
            }
            gst::PadProbeReturn::Remove
        });
        match pipeline.run() {
            End::Eos => (),
            end => panic!("{end:?}"),
        }
        let stats = enc.property::<gst::Structure>("stats");
        pipeline.set_state(gst::State::Null).unwrap();
        let retries: u64 = stats.get("vbv-retries").unwrap();
        assert!(!raised || retries < 3, "{stats}");
        let said = warnings.lock().unwrap();
        assert!(!raised || said.is_empty(), "{said:?}");
        let output = output.lock().unwrap();
        assert_eq!(output.packets.len(), 300);
        output
            .packets
            .iter()
            .map(|it| it.bytes.len())
            .sum::<usize>()
    };
    let (low, high) = (bytes(false), bytes(true));
    assert!(high > 2 * low, "{high}, {low}");
}
