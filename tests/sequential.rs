// SPDX-License-Identifier: MPL-2.0

//! Without chunks it is the plain encoder, byte for byte, timestamps and events included.

mod common;

use common::pictures::{clip, encode, synthetic};
use common::{Output, constant, encode_times};

fn assert_plain(plain: &Output, ours: &Output, what: &str) {
    assert_eq!(plain.packets.len(), ours.packets.len(), "{what}");
    for (plain, ours) in plain.packets.iter().zip(&ours.packets) {
        assert!(plain == ours, "{what}: {ours:?} is not {plain:?}");
    }
    assert_eq!(plain.event_types(), ours.event_types(), "{what}");
    for (plain, ours) in plain.events.iter().zip(&ours.events) {
        // Stream ids are made from element names, which differ; the rest is equal.
        if plain.type_() != gst::EventType::StreamStart {
            assert_eq!(
                plain.structure().map(|structure| structure.to_string()),
                ours.structure().map(|structure| structure.to_string()),
                "{what}"
            );
        }
    }
}

#[test]
fn real_encoders_give_what_they_give_alone() {
    for pictures in [Some(synthetic(60)), clip(60)].into_iter().flatten() {
        for encoder in [
            // (Its macroblock tree doesn't give the same twice, alone as well: see identity.rs.)
            "x264enc threads=1 speed-preset=veryfast option-string=no-mbtree=1",
            "x264enc threads=1 tune=zerolatency",
            "vp9enc target-bitrate=500000 cpu-used=8",
            "theoraenc",
            "jpegenc",
        ] {
            let plain = encode(&pictures, encoder);
            for alone in ["allow-parallel=false sessions=4", "sessions=1"] {
                let ours = encode(
                    &pictures,
                    &format!("vtparallelenc encoder=\"{encoder}\" {alone}"),
                );
                assert_plain(&plain, &ours, &format!("{encoder} {alone}"));
            }
        }
    }
}

#[test]
fn the_reason_is_reported() {
    let reason = |properties: &str| {
        let (end, output, stats) = encode_times(
            &format!("vtparallelenc name=enc encoder=scriptedenc {properties}"),
            &constant(30),
        );
        end.expect_eos();
        assert_eq!(output.packets.len(), 30);
        let stats = stats.unwrap();
        assert!(!stats.get::<bool>("parallel").unwrap());
        assert_eq!(stats.get::<u64>("frames-out").unwrap(), 30);
        stats.get::<String>("sequential-reason").unwrap()
    };
    assert!(reason("allow-parallel=false").contains("allow-parallel"));
    assert!(reason("sessions=1").contains("one session"));
}

#[test]
fn a_live_source_is_not_delayed_by_chunks() {
    let pipeline = common::Pipeline::parse(
        "videotestsrc is-live=true num-buffers=5 ! video/x-raw,format=GRAY8,width=16,height=16,framerate=100/1 ! \
         vtparallelenc name=enc encoder=scriptedenc sessions=2 ! fakesink",
    );
    pipeline.run().expect_eos();
    let reason: String = pipeline.stats().get("sequential-reason").unwrap();
    assert!(reason.contains("live"), "{reason}");
}
