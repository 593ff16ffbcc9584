// SPDX-License-Identifier: MPL-2.0

//! What is decoded is what went in: every picture, in order, at its time.

mod common;

use common::pictures::{assert_transparent, clip, synthetic};

const CHUNKS: &str = "sessions=3 chunk-frames=23 min-chunk-frames=8";

fn assert_all(encoder: &str, decoder: &str, least_psnr: f64) {
    for pictures in [Some(synthetic(80)), clip(80)].into_iter().flatten() {
        for overlap in ["", "overlap-before=10 overlap-after=10"] {
            let ours = format!("vtparallelenc encoder=\"{encoder}\" {CHUNKS} {overlap}");
            assert_transparent(&pictures, &ours, decoder, least_psnr);
        }
    }
}

#[test]
fn h264() {
    assert_all(
        "x264enc threads=1 speed-preset=fast pass=qual quantizer=22",
        "h264parse ! avdec_h264",
        30.0,
    );
}

#[test]
fn h265_whose_gops_are_open_unless_told_otherwise() {
    assert_all(
        "x265enc speed-preset=ultrafast",
        "h265parse ! avdec_h265",
        25.0,
    );
}

/// Where a key frame is forced, x265 makes a clean random access then, which resets the decoder only as the first of all, so chunks lose
/// their overlap; and the chunk's last frames refer to the forced one behind them. (Not with repeat-headers=1: x265enc 1.22 puts uninitialised memory into its first
/// packet then, alone as well.)
#[test]
fn with_open_gops_where_the_user_wants_them() {
    for options in [
        "open-gop=1",
        "open-gop=1:bframes=4:b-pyramid=1:keyint=12",
        "open-gop=1:radl=2",
    ] {
        assert_all(
            &format!("x265enc speed-preset=ultrafast bitrate=800 option-string={options}"),
            "h265parse ! avdec_h265",
            25.0,
        );
    }
    for options in [
        "open-gop=1",
        "open-gop=1:bframes=3:b-pyramid=2:keyint=12",
        "intra-refresh=1",
        "slices=4:open-gop=1",
    ] {
        assert_all(
            &format!(
                "x264enc threads=1 speed-preset=veryfast bitrate=1500 option-string={options}"
            ),
            "h264parse ! avdec_h264",
            25.0,
        );
    }
}

#[test]
fn vp8_with_invisible_frames() {
    assert_all(
        "vp8enc target-bitrate=1500000 deadline=1 cpu-used=-8 auto-alt-ref=true lag-in-frames=10",
        "vp8dec",
        25.0,
    );
}

#[test]
fn vp9() {
    // Few frames held back: at a high rate and a small size vp9enc loses some of them at its end, alone as well.
    assert_all(
        "vp9enc target-bitrate=1500000 deadline=1 cpu-used=8 lag-in-frames=3",
        "vp9dec",
        25.0,
    );
}

#[test]
fn av1_which_ignores_forced_key_frames() {
    // Before 1.24.5: the overlap is dropped, with a warning.
    assert_all(
        "av1enc cpu-used=8 target-bitrate=1500 max-quantizer=63",
        "av1dec",
        25.0,
    );
}

#[test]
fn intra_only() {
    assert_all("jpegenc quality=90", "jpegdec", 28.0);
}

#[test]
fn a_chain_of_elements_is_an_encoder_too() {
    assert_all(
        "videoconvert ! queue ! x264enc threads=1 speed-preset=veryfast ! h264parse",
        "avdec_h264",
        25.0,
    );
}
