// SPDX-License-Identifier: MPL-2.0

//! N sessions give the bytes of one session, and of plain encoders fed chunk by chunk.

mod common;

use common::pictures::{self, clip, synthetic};
use common::{Output, constant, encode, encode_times};
use gst::prelude::*;

const SESSIONS: [u32; 4] = [1, 2, 3, 8];

fn assert_same(a: &Output, b: &Output, what: &str) {
    assert_eq!(a.packets.len(), b.packets.len(), "{what}");
    for (a, b) in a.packets.iter().zip(&b.packets) {
        assert!(a == b, "{what}: {a:?} is not {b:?}");
    }
}

#[test]
fn scripted_packets_are_those_of_one_session() {
    for encoder in ["scriptedenc", "scriptedenc bframes=2 look-ahead=7"] {
        for overlap in ["", "overlap-before=3 overlap-after=4", "overlap-before=25"] {
            let run = |sessions| {
                encode(
                    &format!(
                        "encoder=\"{encoder}\" sessions={sessions} chunk-frames=12 \
                         min-chunk-frames=5 {overlap}"
                    ),
                    100,
                )
            };
            let one = run(1);
            for sessions in SESSIONS {
                let what = format!("{encoder} {overlap}, {sessions} sessions");
                assert_same(&one, &run(sessions), &what);
            }
        }
    }
}

/// What a plain scripted encoder gives for frames `from..to` (its packets don't depend on times).
fn plain_chunk(encoder: &str, from: usize, to: usize) -> Vec<Vec<u8>> {
    let pipeline = common::scripted_pipeline(encoder);
    let output = common::record(&pipeline.element("sink").static_pad("sink").unwrap());
    let src = common::app_src(&pipeline);
    for (number, &time) in constant(to as u64).iter().enumerate().skip(from) {
        src.push_buffer(common::gray(number as u64, time)).unwrap();
    }
    src.end_of_stream().unwrap();
    pipeline.run().expect_eos();
    let output = output.lock().unwrap();
    output
        .packets
        .iter()
        .map(|packet| packet.bytes.clone())
        .collect()
}

#[test]
fn scripted_packets_are_those_of_plain_encoders_chunk_by_chunk() {
    let encoder = "scriptedenc bframes=2 look-ahead=3";
    let ours = encode(
        &format!("encoder=\"{encoder}\" sessions=3 chunk-frames=20 min-chunk-frames=5"),
        64,
    );
    let plain: Vec<Vec<u8>> = [(0, 20), (20, 40), (40, 64)]
        .into_iter()
        .flat_map(|(from, to)| plain_chunk(encoder, from, to))
        .collect();
    assert_eq!(ours.bytes(), plain);
}

#[test]
fn a_second_attempt_gives_the_bytes_of_the_first() {
    let run = |encoder: &str| {
        let (end, output, stats) = encode_times(
            &format!(
                "vtparallelenc name=enc encoder=\"{encoder}\" sessions=3 chunk-frames=10 \
                 min-chunk-frames=2 overlap-before=2 overlap-after=2"
            ),
            &constant(50),
        );
        end.expect_eos();
        (output, stats.unwrap())
    };
    let (well, _) = run("scriptedenc bframes=2");
    let (failed, stats) =
        run("scriptedenc bframes=2 fail-at=35 fail-times=2 failure=second-attempt");
    assert_same(&well, &failed, "with two failures");
    assert!(stats.get::<u64>("attempts-failed").unwrap() >= 1, "{stats}");
}

/// The pictures through plain encoders, each given one chunk.
fn plain_chunks(pictures: &[Vec<u8>], encoder: &str, chunk: usize) -> Vec<Vec<u8>> {
    pictures
        .chunks(chunk)
        .flat_map(|pictures| pictures::encode(pictures, encoder).packets)
        .map(|packet| packet.bytes)
        .collect()
}

/// Whatever the number of sessions, and in its first frames, as plain encoders make them of chunks; all are where no chunk has to know what
/// the one before has left in the decoder's buffer.
fn assert_identical(pictures: &[Vec<u8>], encoder: &str, rest: &str, first: usize) {
    let run = |sessions: u32, overlap: &str| {
        let ours = format!(
            "vtparallelenc encoder=\"{encoder}\" sessions={sessions} chunk-frames=24 \
             min-chunk-frames=6 {overlap} {rest}"
        );
        pictures::encode(pictures, &ours)
    };
    let none = "overlap-before=0 overlap-after=0";
    let one = run(1, none);
    one.assert_timestamps();
    for sessions in SESSIONS {
        assert_same(
            &one,
            &run(sessions, none),
            &format!("{encoder}, {sessions} sessions"),
        );
    }
    let plain = plain_chunks(pictures, &format!("{encoder} {rest}"), 24);
    assert_eq!(one.packets.len(), plain.len(), "{encoder}");
    let first = first.min(plain.len());
    assert!(
        one.bytes()[..first] == plain[..first],
        "{encoder}: not the bytes of plain encoders"
    );
    let overlap = "overlap-before=9 overlap-after=11";
    let (one, three) = (run(1, overlap), run(3, overlap));
    assert_same(&one, &three, &format!("{encoder} with an overlap"));
}

fn assert_real_encoder_is_identical(pictures: &[Vec<u8>], encoder: &str, rest: &str) {
    assert_identical(pictures, encoder, rest, usize::MAX);
}

fn pictures_of_both_kinds() -> Vec<Vec<Vec<u8>>> {
    // 4 chunks of 24.
    [Some(synthetic(96)), clip(96)]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn x264_gives_the_same_bytes() {
    for pictures in pictures_of_both_kinds() {
        // The macroblock tree of x264 r3095 and r3108 with AVX-512 reads what it never wrote: on some pictures it doesn't give the
        // same bytes twice, alone and with one thread (with asm=avx2 it does).
        assert_real_encoder_is_identical(
            &pictures,
            "x264enc threads=1 speed-preset=veryfast pass=qual quantizer=24 option-string=no-mbtree=1",
            "! video/x-h264,stream-format=byte-stream",
        );
        // Bitrate control with a VBV, the encoder's default, and codec_data.
        assert_identical(
            &pictures,
            "x264enc threads=1 speed-preset=superfast bitrate=400",
            "! video/x-h264,stream-format=avc,alignment=au",
            24,
        );
        assert_real_encoder_is_identical(
            &pictures,
            "x264enc threads=1 speed-preset=superfast bitrate=400 vbv-buf-capacity=0 option-string=ratetol=0.1:no-mbtree=1",
            "! video/x-h264,stream-format=avc,alignment=au",
        );
    }
}

#[test]
fn vp9_gives_the_same_bytes() {
    for pictures in pictures_of_both_kinds() {
        assert_real_encoder_is_identical(
            &pictures,
            "vp9enc threads=1 target-bitrate=400000 deadline=1 cpu-used=8",
            "",
        );
    }
}
