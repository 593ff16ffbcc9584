// SPDX-License-Identifier: MPL-2.0

//! The table: a row for each encoder, or for several of one kind, in the order in which they are looked up.

use super::{
    Concurrency, Distance, ForcedKey, LookAhead, Most, OwnThreads, Profile, Threads, VbvSettings,
};
use crate::encoder::passes::{Passes, Statistics};
use crate::logic::split::SeamCost;

/// What is assumed of an encoder without a row.
pub(super) const UNKNOWN: Profile = Profile {
    factories: "",
    since: (0, 0, 0),
    threads: Threads::Fixed,
    own_threads: None,
    look_ahead: LookAhead::Frames(0),
    forced_key: ForcedKey::Perhaps,
    key_distance: None,
    default_distance: None,
    key_distance_option: None,
    cuts_option: None,
    cuts_unless: None,
    cuts_wait: false,
    settings: &[],
    settling: &[],
    list: None,
    constant_quantizer: &[],
    constant_quality: &[],
    quality_lead: 0,
    drains_anyway: false,
    concurrency: Concurrency::Cores,
    seam_cost: None,
    vbv: None,
    alone_with: &[],
    passes: None,
    was_run: false,
};

/// As [`UNKNOWN`], of the class "Hardware".
pub(super) const UNKNOWN_HARDWARE: Profile = Profile {
    concurrency: Concurrency::Engines(1),
    ..UNKNOWN
};

/// The row rests on runs of the encoder.
const RUN: Profile = Profile {
    was_run: true,
    ..UNKNOWN
};

const INTRA: Profile = Profile {
    forced_key: ForcedKey::Always,
    ..RUN
};

const HARDWARE: Profile = Profile {
    forced_key: ForcedKey::Closed,
    ..UNKNOWN_HARDWARE
};

/// Until 1.24.5, which honours forced key frames.
const AV1ENC: Profile = Profile {
    factories: "av1enc",
    threads: Threads::Deciding("threads", "@"),
    // libaom: 4 threads 2.3 times as fast (read). Measured: 2 threads 1.6 times as fast as one at 480p, and 1.3 times at 360p, where two processes are
    // twice as fast.
    own_threads: Some(OwnThreads {
        exponent: 0.5,
        most: Most::Rows(135),
        are_automatic: true,
    }),
    look_ahead: LookAhead::Property("lag-in-frames"),
    forced_key: ForcedKey::Ignored,
    key_distance: Some("keyframe-max-dist"),
    constant_quality: &[("end-usage", "q")],
    seam_cost: at_key(10),
    alone_with: &[("end-usage", "cbr")],
    ..RUN
};

/// Measured on x264 and x265: a macroblock tree and a rate control that start cold cost the first frames 2 to 6 dB, and the last ones 1
/// to 3 dB without what comes after them. 8 to 12 frames before and 20 to 24 after leave 0.0 to 0.2 % of 1.5 and 3.4 %; more gains
/// nothing.
const QUALITY_LEAD: u64 = 10;

/// In one pass, libvpx's VP8 looks at its quality level only after 150 frames that refer to others (`ni_frames` in its source), and takes
/// its quantizer from the bitrate before. Measured at cq-level 32 and 4 Mbit/s: without a lead chunks have 75 % more bits.
const VP8_QUALITY_LEAD: u64 = 152;

/// What a seam costs that stands where the encoder makes a key frame by itself, in hundredths of the bits of an average frame: the BD-rate of
/// half a minute of Big Buck Bunny, and of a quarter of a fixed camera, at four qualities, in two to eight chunks, for each seam (`cargo bench -- seams`). A key frame that stands
/// elsewhere costs six and a half frames more: sequential x264enc with key frames forced there.
const fn at_key(cost: u64) -> Option<SeamCost> {
    Some(SeamCost {
        at_key: cost,
        elsewhere: cost + 650,
    })
}

/// libvpx's.
const VPX: Profile = Profile {
    // With row-mt vp9enc's bits depend on whether there is more than one.
    threads: Threads::Deciding("threads", "@"),
    // VP9: 4 threads and 4 columns of tiles, of 256 pixels at least, 2.3 to 2.5 times as fast (read). Measured at 360p and 480p: 2 threads 1.4 times as
    // fast as one, where two processes are twice as fast.
    own_threads: Some(OwnThreads {
        exponent: 0.55,
        most: Most::Columns(256),
        are_automatic: false,
    }),
    look_ahead: LookAhead::Property("lag-in-frames"),
    forced_key: ForcedKey::Closed,
    key_distance: Some("keyframe-max-dist"),
    // Measured where target-bitrate allows that quality: without an overlap the same size and PSNR.
    constant_quality: &[("end-usage", "cq")],
    seam_cost: at_key(440),
    alone_with: &[("end-usage", "cbr")],
    ..RUN
};

/// libvpx's, whose statistics have what is left after prediction in this place.
const fn vpx_passes(error: usize) -> Option<Passes> {
    Some(Passes {
        quality: &[("end-usage", "cq")],
        defaults: &[],
        first: &[
            ("end-usage", "vbr"),
            ("multipass-mode", "first-pass"),
            ("multipass-cache-file", "@F"),
            ("target-bitrate", "@R"),
        ],
        second: &[
            ("end-usage", "vbr"),
            ("multipass-mode", "last-pass"),
            ("multipass-cache-file", "@F"),
            ("target-bitrate", "@R"),
        ],
        rate: ("target-bitrate", 1),
        // (In real time libvpx makes one, whatever it is told, and writes no statistics.)
        one_pass: &[("deadline", "1")],
        statistics: Statistics::Errors(error),
    })
}

/// x264 and x265.
const X26X: Profile = Profile {
    forced_key: ForcedKey::Closed,
    key_distance: Some("key-int-max"),
    cuts_option: Some(("option-string", "scenecut")),
    cuts_unless: Some(&[("speed-preset", "ultrafast")]),
    cuts_wait: true,
    seam_cost: at_key(70),
    list: Some("option-string"),
    quality_lead: QUALITY_LEAD,
    // (gst_x264_enc_flush_frames and gst_x265_enc_flush_frames, measured: the frames of a trail in the library's turn.)
    drains_anyway: true,
    ..RUN
};

pub(super) const ROWS: &[Profile] = &[
    // The encoder of the tests: it can be cut, and nothing else is known of it.
    #[cfg(feature = "failpoints")]
    Profile {
        factories: "scriptedenc",
        ..UNKNOWN
    },
    Profile {
        factories: "x264enc",
        // Its bits depend on the number of threads, and with several of them and a VBV on chance.
        threads: Threads::Deciding("threads", "@"),
        // At 1080p 8 threads 5.8 times as fast, and 12 on 8 cores 7.0 times (read). Measured at 360p and 480p: 2 threads 1.6 times as fast
        // as one, where two processes are twice as fast.
        own_threads: Some(OwnThreads {
            exponent: 0.75,
            most: Most::Rows(68),
            are_automatic: true,
        }),
        look_ahead: LookAhead::Property("rc-lookahead"),
        // Each chunk begins a little too well, and a rate control that may take its time doesn't make up for that in 500 frames. Measured
        // over three minutes at 300 and 900 kbit/s, one encoder's size and PSNR: with 1, x264's default, +3.3 %, 0.00 dB and +4.5 %,
        // +0.17 dB; so +1.4 %, -0.15 dB and +1.3 %, +0.20 dB.
        settling: &[("option-string", "ratetol=0.1")],
        // (Its option-string can't set it: x264enc does that itself.)
        default_distance: Some(Distance::Seconds(10, 250)),
        constant_quantizer: &[("pass", "quant")],
        constant_quality: &[("pass", "qual")],
        // (Its option-string can't set them.)
        vbv: Some(VbvSettings::Properties("bitrate", "vbv-buf-capacity")),
        alone_with: &[
            ("nal-hrd", "vbr cbr"),
            ("option-string", "*nal-hrd=vbr* *nal-hrd=cbr*"),
        ],
        // (x264enc gives each of its passes a VBV of the bitrate itself, as for CBR, unless that is none.)
        passes: Some(Passes {
            quality: &[("pass", "qual")],
            defaults: &[("vbv-buf-capacity", "0")],
            first: &[
                ("pass", "pass1"),
                ("multipass-cache-file", "@F"),
                ("bitrate", "@R"),
            ],
            // (It fits a stream's headers to its statistics, unless the stream is to be a part of another.)
            second: &[
                ("pass", "pass2"),
                ("multipass-cache-file", "@F"),
                ("bitrate", "@R"),
                ("option-string", "stitchable=1"),
                ("option-string", "level=@L"),
            ],
            rate: ("bitrate", 1_000),
            one_pass: &[],
            statistics: Statistics::Quantizers,
        }),
        ..X26X
    },
    Profile {
        factories: "x265enc",
        // The number of threads stands in the stream, in the SEI that lists its options.
        threads: Threads::Deciding("option-string", "pools=@:frame-threads=1"),
        // Measured at 360p: 2 threads 1.8 times as fast as one, where two processes are 1.9 times as fast.
        own_threads: Some(OwnThreads {
            exponent: 0.85,
            most: Most::Rows(128),
            are_automatic: true,
        }),
        look_ahead: LookAhead::Frames(20),
        default_distance: Some(Distance::Frames(250)),
        key_distance_option: Some(("option-string", "keyint")),
        // (Told to repeat its headers, x265enc 1.22 puts uninitialised memory into its first packet.)
        settings: &[("option-string", "open-gop=0")],
        constant_quantizer: &[("option-string", "*qp=*"), ("qp", "? 1? 2? 3? 4? 5?")],
        constant_quality: &[("option-string", "*crf=*")],
        vbv: Some(VbvSettings::Options(
            "vbv-maxrate",
            "vbv-bufsize",
            "bitrate",
        )),
        alone_with: &[("option-string", "hrd hrd=1* *:hrd *:hrd=1* hrd:* *:hrd:*")],
        // (Of options that name a target the last one counts.)
        passes: Some(Passes {
            quality: &[("option-string", "crf=28")],
            defaults: &[],
            first: &[("option-string", "pass=1:slow-firstpass=0:stats=@F")],
            second: &[("option-string", "pass=2:stats=@F:bitrate=@R")],
            rate: ("bitrate", 1_000),
            one_pass: &[],
            statistics: Statistics::Quantizers,
        }),
        ..X26X
    },
    Profile {
        factories: "vp8enc",
        // (Not in real time, and not where it was told to make none by itself.)
        cuts_unless: Some(&[("deadline", "1"), ("keyframe-mode", "disabled")]),
        quality_lead: VP8_QUALITY_LEAD,
        seam_cost: at_key(800),
        // Measured at 360p and 480p: 2 threads 1.2 to 1.35 times as fast as one, where two processes are twice as fast. (More threads than cores wait in loops:
        // two sessions with two each on 2 cores take four times as long.)
        own_threads: Some(OwnThreads {
            exponent: 0.35,
            most: Most::Rows(270),
            are_automatic: false,
        }),
        passes: vpx_passes(2),
        ..VPX
    },
    Profile {
        factories: "vp9enc",
        passes: vpx_passes(3),
        ..VPX
    },
    Profile {
        factories: "av1enc",
        since: (1, 24, 5),
        forced_key: ForcedKey::Closed,
        ..AV1ENC
    },
    AV1ENC,
    Profile {
        factories: "openh264enc",
        threads: Threads::Deciding("multi-thread", "@"),
        forced_key: ForcedKey::Closed,
        key_distance: Some("gop-size"),
        cuts_unless: Some(&[("scene-change-detection", "false")]),
        constant_quality: &[("rate-control", "off")],
        // (Of its size: it has no quality to compare at.)
        seam_cost: at_key(100),
        ..RUN
    },
    Profile {
        factories: "theoraenc",
        forced_key: ForcedKey::Closed,
        key_distance: Some("keyframe-force"),
        cuts_unless: Some(&[("keyframe-auto", "false")]),
        constant_quality: &[("bitrate", "0")],
        ..RUN
    },
    Profile {
        factories: "mpeg2enc avenc_rpza",
        concurrency: Concurrency::Alone("its packets don't say which of them are key frames"),
        ..RUN
    },
    Profile {
        factories: "y4menc",
        concurrency: Concurrency::Alone(
            "each of its streams begins with a header in its first packet",
        ),
        ..INTRA
    },
    Profile {
        factories: "gifenc",
        concurrency: Concurrency::Alone("its stream has one header and one trailer"),
        ..INTRA
    },
    Profile {
        factories: "avenc_*_omx omx*enc mf*enc",
        forced_key: ForcedKey::Perhaps,
        ..HARDWARE
    },
    Profile {
        factories: "avenc_apng",
        concurrency: Concurrency::Alone("its frames are numbered from the beginning of the stream"),
        ..RUN
    },
    Profile {
        factories: "openjpegenc",
        threads: Threads::Free("num-threads"),
        ..INTRA
    },
    Profile {
        factories: "jpegenc pngenc webpenc pnmenc \
            avenc_mjpeg avenc_ljpeg avenc_jpegls avenc_jpeg2000 avenc_prores* avenc_dnxhd avenc_dvvideo avenc_huffyuv avenc_ffvhuff \
            avenc_utvideo avenc_magicyuv avenc_cfhd avenc_png avenc_tiff avenc_targa avenc_bmp avenc_dpx avenc_exr avenc_p?m avenc_pam \
            avenc_sgi avenc_pcx avenc_qoi avenc_hap avenc_speedhq avenc_vc2 avenc_amv avenc_sunrast avenc_xbm avenc_xwd avenc_asv1 \
            avenc_asv2 avenc_cljr avenc_r10k",
        ..INTRA
    },
    Profile {
        factories: "avenc_mpeg4",
        since: (1, 26, 0),
        ..RUN
    },
    Profile {
        factories: "avenc_mpeg4",
        concurrency: Concurrency::Alone("before GStreamer 1.26 its packets have no times"),
        ..RUN
    },
    Profile {
        factories: "avenc_ffv1",
        key_distance: Some("gop-size"),
        constant_quality: &[("pass", "quant")],
        ..RUN
    },
    // Encoders of libavcodec: their `threads` takes only 1 (the default) and "auto". Without B-frames, which are off by default, no frame
    // refers across a forced key frame.
    Profile {
        factories: "avenc_wmv* avenc_h263* avenc_flv avenc_msmpeg4* avenc_mpeg*",
        key_distance: Some("gop-size"),
        cuts_unless: Some(&[]),
        constant_quality: &[("pass", "quant")],
        ..RUN
    },
    Profile {
        factories: "avenc_*",
        ..RUN
    },
    Profile {
        // A forced key frame is honoured only without a target bitrate. On 2 cores its own threads take 0.79 to 0.83 of the time that
        // chunks do; with them and a target bitrate each run makes other bits.
        factories: "svtav1enc",
        threads: Threads::Deciding("level-of-parallelism logical-processors", "@"),
        concurrency: Concurrency::Engines(1),
        ..RUN
    },
    Profile {
        factories: "svthevcenc",
        threads: Threads::Deciding("cores", "@"),
        look_ahead: LookAhead::Property("lookahead"),
        forced_key: ForcedKey::Closed,
        settings: &[("enable-open-gop", "false")],
        constant_quality: &[("rc", "cqp")],
        ..UNKNOWN
    },
    Profile {
        factories: "rav1enc",
        key_distance: Some("max-key-frame-interval"),
        cuts_unless: Some(&[]),
        threads: Threads::Deciding("threads", "@"),
        forced_key: ForcedKey::Closed,
        constant_quality: &[("bitrate", "0")],
        ..RUN
    },
    // It hears of no forced key frame.
    Profile {
        factories: "lcevch264enc",
        forced_key: ForcedKey::Ignored,
        key_distance: Some("gop-length"),
        ..UNKNOWN
    },
    Profile {
        factories: "svtjpegxsenc",
        threads: Threads::Free("threads"),
        was_run: false,
        ..INTRA
    },
    Profile {
        factories: "nv*jpegenc nvjpeg*enc vajpeg*enc qsvjpeg*enc msdkmjpegenc v4l2jpegenc vaapijpegenc vtenc_prores*",
        forced_key: ForcedKey::Always,
        ..HARDWARE
    },
    // Consumer cards open 3 to 8 sessions in a system; one engine each on most.
    Profile {
        factories: "nv*h264*enc nv*h265*enc nv*av1*enc",
        key_distance: Some("gop-size"),
        look_ahead: LookAhead::Property("rc-lookahead"),
        constant_quality: &[("rc-mode", "constqp"), ("rate-control", "constqp cqp")],
        alone_with: &[("rc-mode", "cbr*"), ("rate-control", "cbr*")],
        ..HARDWARE
    },
    Profile {
        factories: "va*h264*enc va*h265*enc va*vp8*enc va*vp9*enc va*av1*enc va*mpeg2*enc",
        key_distance: Some("key-int-max"),
        constant_quality: &[("rate-control", "cqp icq")],
        alone_with: &[("rate-control", "cbr vcm")],
        ..HARDWARE
    },
    Profile {
        factories: "qsv*enc msdk*enc",
        key_distance: Some("gop-size"),
        look_ahead: LookAhead::Property("rc-lookahead"),
        constant_quality: &[("rate-control", "cqp icq la-icq la_icq")],
        alone_with: &[("rate-control", "cbr vcm la-hrd la_hrd")],
        ..HARDWARE
    },
    // amfav1enc passes a wrong value where a key frame is forced. With the others that is a control of the device, or a request for the
    // next frame: not tied to the frame it is for.
    Profile {
        factories: "amfav1*enc v4l2*enc amcvidenc-*",
        forced_key: ForcedKey::Ignored,
        ..HARDWARE
    },
    Profile {
        factories: "amf*enc",
        key_distance: Some("gop-size"),
        look_ahead: LookAhead::Property("pa-lookahead-buffer-depth"),
        constant_quality: &[("rate-control", "cqp")],
        alone_with: &[("rate-control", "cbr")],
        ..HARDWARE
    },
    Profile {
        factories: "d3d12*enc vtenc_* vulkan*enc",
        ..HARDWARE
    },
];
