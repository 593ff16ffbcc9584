// SPDX-License-Identifier: MPL-2.0

//! Encoders by name, with settings that fit most films, for `--video`.
//!
//! Of the numbers of constant quality, the middle one is where few see a difference, and the others are about half and twice as many bits from
//! it. libvpx's constrained quality has a bitrate that it doesn't pass, which is a fixed number where nobody sets it; it is set to what no film needs at this
//! quality. av1enc of GStreamer 1.22 can't be told a quality but as the best that it may make. (GStreamer's `bits-per-pixel` says so, too, but isn't heeded.)

use gst_video::VideoInfo;
use serde::Serialize;
use std::fmt;

/// An encoder by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Preset {
    pub name: &'static str,
    pub about: &'static str,
    /// The first one that is installed is taken.
    encoders: &'static [Encoder],
}

/// As `gst-launch-1.0` takes it. `@R` stands for the bitrate that isn't passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Encoder {
    base: &'static str,
    /// What is said in one pass, and what in two.
    one: &'static str,
    two: &'static str,
}

/// Bits of a pixel that no film needs at such a quality: five times what libvpx takes for a film of 480 lines.
const AMPLE: f64 = 0.3;

/// Bits per second that libvpx takes.
const MOST: u64 = 2_000_000_000;

const fn only(base: &'static str, one: &'static str, two: &'static str) -> [Encoder; 1] {
    [Encoder { base, one, two }]
}

const PRESETS: [Preset; 14] = [
    Preset {
        name: "h264",
        about: "H.264, which everything plays",
        encoders: &only(
            "x264enc speed-preset=medium",
            "pass=qual quantizer=21 vbv-buf-capacity=0",
            "",
        ),
    },
    Preset {
        name: "h264-high",
        about: "H.264 for what is edited or encoded again",
        encoders: &only(
            "x264enc speed-preset=slow",
            "pass=qual quantizer=16 vbv-buf-capacity=0",
            "",
        ),
    },
    Preset {
        name: "h264-low",
        about: "H.264, small and quick",
        encoders: &only(
            "x264enc speed-preset=veryfast",
            "pass=qual quantizer=26 vbv-buf-capacity=0",
            "",
        ),
    },
    Preset {
        name: "h265",
        about: "H.265, smaller and slower than H.264",
        encoders: &only("x265enc speed-preset=medium", "option-string=crf=23", ""),
    },
    Preset {
        name: "h265-high",
        about: "H.265 for what is edited or encoded again",
        encoders: &only("x265enc speed-preset=medium", "option-string=crf=18", ""),
    },
    Preset {
        name: "h265-low",
        about: "H.265, small and quick",
        encoders: &only("x265enc speed-preset=fast", "option-string=crf=28", ""),
    },
    Preset {
        name: "vp8",
        about: "VP8",
        encoders: &only(
            "vp8enc deadline=1000000 cpu-used=4",
            "end-usage=cq cq-level=16 target-bitrate=@R",
            "",
        ),
    },
    Preset {
        name: "vp9",
        about: "VP9, which browsers play",
        encoders: &VP9,
    },
    Preset {
        name: "vp9-high",
        about: "VP9 for what is encoded again",
        encoders: &only(
            "vp9enc deadline=1000000 cpu-used=4",
            "end-usage=cq cq-level=20 target-bitrate=@R",
            "",
        ),
    },
    Preset {
        name: "vp9-low",
        about: "VP9, small",
        encoders: &only(
            "vp9enc deadline=1000000 cpu-used=5",
            "end-usage=cq cq-level=42 target-bitrate=@R",
            "",
        ),
    },
    Preset {
        name: "av1",
        about: "AV1, smaller and slower than all of these",
        encoders: &[
            Encoder {
                base: "svtav1enc preset=8",
                one: "crf=32",
                two: "",
            },
            Encoder {
                base: "av1enc cpu-used=6",
                one: "end-usage=q min-quantizer=32 max-quantizer=48",
                two: "",
            },
        ],
    },
    Preset {
        name: "av1-low",
        about: "AV1, small and quick",
        encoders: &[
            Encoder {
                base: "svtav1enc preset=10",
                one: "crf=42",
                two: "",
            },
            Encoder {
                base: "av1enc cpu-used=8",
                one: "end-usage=q min-quantizer=44 max-quantizer=56",
                two: "",
            },
        ],
    },
    Preset {
        name: "prores",
        about: "ProRes 422, for editing",
        encoders: &only("avenc_prores_ks", "", ""),
    },
    Preset {
        name: "lossless",
        about: "FFV1: every bit of the picture",
        encoders: &only("avenc_ffv1", "", ""),
    },
];

/// In real time: in one pass as good as libvpx's slower modes at the same size, and twice as fast. Two passes it makes in those only.
const VP9: [Encoder; 1] = only(
    "vp9enc cpu-used=4",
    "deadline=1 end-usage=cq cq-level=31 target-bitrate=@R",
    "deadline=1000000",
);

/// All of them.
pub fn presets() -> &'static [Preset] {
    &PRESETS
}

/// With which video is encoded where nobody says it.
pub fn default(ending: &str) -> &'static str {
    match ending {
        "webm" => "vp9",
        _ => "h264",
    }
}

/// The encoder of this name, if it is one, for such pictures; in two passes without what says a quality.
pub fn encoder(name: &str, info: &VideoInfo, two_passes: bool) -> Option<String> {
    let preset = PRESETS.iter().find(|preset| preset.name == name)?;
    let Encoder { base, one, two } = preset.encoder();
    let rest = if two_passes { two } else { one };
    let rate = ample(info).to_string();
    let text = format!("{base} {rest}").replace("@R", &rate);
    Some(text.trim_end().into())
}

/// In bits per second.
fn ample(info: &VideoInfo) -> u64 {
    let rate = info.fps();
    let rate = match f64::from(rate.numer()) / f64::from(rate.denom()) {
        unknown if unknown <= 0.0 => 60.0,
        rate => rate,
    };
    let pixels = f64::from(info.width()) * f64::from(info.height());
    ((pixels * rate * AMPLE) as u64).min(MOST)
}

impl Preset {
    fn encoder(&self) -> Encoder {
        let is_here = |encoder: &&Encoder| {
            let name = encoder.base.split(' ').next().unwrap_or_default();
            gst::ElementFactory::find(name).is_some()
        };
        let here = self.encoders.iter().find(is_here);
        *here.unwrap_or(&self.encoders[0])
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Encoder { base, one, .. } = self.encoder();
        let one = one.replace("@R", "…");
        let text = format!("{base} {one}");
        write!(to, "{:<10} {} ({})", self.name, self.about, text.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_encoders_that_can_be_made() {
        gst::init().unwrap();
        let info = VideoInfo::builder(gst_video::VideoFormat::I420, 1920, 1080)
            .fps(gst::Fraction::new(25, 1))
            .build()
            .unwrap();
        for preset in presets() {
            let name = preset.encoder().base.split(' ').next().unwrap();
            if gst::ElementFactory::find(name).is_none() {
                continue;
            }
            let text = encoder(preset.name, &info, false).unwrap();
            let made = gst::parse::bin_from_description(&text, true);
            assert!(made.is_ok(), "{text}: {made:?}");
        }
        let vp8 = encoder("vp8", &info, false).unwrap();
        assert!(vp8.ends_with("target-bitrate=15552000"), "{vp8}");
        let two = encoder("vp8", &info, true).unwrap();
        assert_eq!(two, "vp8enc deadline=1000000 cpu-used=4");
        assert_eq!(encoder("x264enc", &info, false), None);
    }
}
