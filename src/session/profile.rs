// SPDX-License-Identifier: MPL-2.0

//! What is known of single encoders, as data: one row for each, and a row for the unknown.
//!
//! A row says what has to be set so that several of an encoder can encode the chunks of one stream, and what to expect of
//! it. What was set by the user, in the description or through `encoder::property`, is never changed. Nothing here is believed where
//! it can be seen: whether a chunk stands alone is read off its packets.

use super::overrides::{as_text, set_from_text};
use gst::prelude::*;

/// Frames of an automatic lead, and at most of a trail: with 24 each, x264 at an average bitrate loses 0.1 dB over 240-frame
/// chunks where it loses 0.3 dB without; more gained nothing.
const AUTOMATIC_OVERLAP: u64 = 24;

/// How many threads an encoder takes, and through which property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// It has one thread, or no say in it.
    Fixed,
    /// The property that holds their number. What is encoded doesn't depend on it: cores / sessions.
    Free(&'static str),
    /// The property and its value for one thread. What is encoded depends on their number, so it is the same for
    /// any number of sessions.
    One(&'static str, &'static str),
}

/// How many frames an encoder looks ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookAhead {
    None,
    /// As many as this property says.
    Property(&'static str),
    Frames(u64),
    Unknown,
}

/// What a force-key-unit event makes of the frame that it is sent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForcedKey {
    /// A key frame that no later frame refers across, with the settings of the row.
    Closed,
    /// A key frame, perhaps of an open GOP.
    Open,
    /// Nothing.
    Ignored,
    /// Every frame is one.
    Always,
    Unknown,
}

/// How many may be open beside each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beside {
    /// One for each core.
    Cores,
    /// As many as its hardware has engines: sessions beyond gain nothing.
    Engines(u32),
    /// It can't be used in chunks, for this reason.
    Alone(&'static str),
}

/// How the row came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// Run with GStreamer 1.22.
    Run,
    /// Read in the source of GStreamer 1.22 to 1.28; not run.
    Read,
}

/// A property, and the values of it that mean constant quality or quantiser.
type ConstantQuality = (&'static str, &'static [&'static str]);

/// One row.
#[derive(Debug)]
pub(crate) struct Profile {
    /// Names of its factories; `*` stands for anything, once.
    pub(crate) factories: &'static [&'static str],
    pub(crate) threads: Threads,
    pub(crate) look_ahead: LookAhead,
    pub(crate) forced_key: ForcedKey,
    /// What has to be set for chunks: property and value.
    pub(crate) settings: &'static [(&'static str, &'static str)],
    /// The property that is a list in which later entries win: ours go before what the user has set.
    pub(crate) list: Option<&'static str>,
    /// Where the rate isn't driven by a bitrate, an overlap buys nothing.
    pub(crate) constant_quality: &'static [ConstantQuality],
    pub(crate) beside: Beside,
    pub(crate) evidence: Evidence,
}

/// What is assumed of an encoder without a row.
const UNKNOWN: Profile = Profile {
    factories: &[],
    threads: Threads::Fixed,
    look_ahead: LookAhead::Unknown,
    forced_key: ForcedKey::Unknown,
    settings: &[],
    list: None,
    constant_quality: &[],
    beside: Beside::Cores,
    evidence: Evidence::Run,
};

/// As [`UNKNOWN`], of the class "Hardware".
const UNKNOWN_HARDWARE: Profile = Profile {
    beside: Beside::Engines(1),
    ..UNKNOWN
};

const INTRA: Profile = Profile {
    look_ahead: LookAhead::None,
    forced_key: ForcedKey::Always,
    ..UNKNOWN
};

/// Encoders of libavcodec: their `threads` takes only 1 (the default) and "auto".
const LIBAV: Profile = Profile {
    look_ahead: LookAhead::None,
    forced_key: ForcedKey::Open,
    ..UNKNOWN
};

const HARDWARE: Profile = Profile {
    forced_key: ForcedKey::Closed,
    beside: Beside::Engines(1),
    evidence: Evidence::Read,
    ..UNKNOWN
};

const MARKS_NO_KEYS: &str = "its packets don't say which of them are key frames";

pub(crate) const ROWS: &[Profile] = &[
    // The encoder of the tests: it can be cut, and nothing else is known of it.
    #[cfg(feature = "failpoints")]
    Profile {
        factories: &["scriptedenc"],
        evidence: Evidence::Read,
        ..UNKNOWN
    },
    Profile {
        factories: &["x264enc"],
        // Its bits depend on the number of threads, and with several of them and a VBV on chance.
        threads: Threads::One("threads", "1"),
        look_ahead: LookAhead::Property("rc-lookahead"),
        forced_key: ForcedKey::Closed,
        constant_quality: &[("pass", &["quant", "qual"])],
        ..UNKNOWN
    },
    Profile {
        factories: &["x265enc"],
        // The number of threads stands in the stream, in the SEI that lists its options.
        threads: Threads::One("option-string", "pools=1:frame-threads=1"),
        look_ahead: LookAhead::Frames(20),
        forced_key: ForcedKey::Closed,
        // (Told to repeat its headers, x265enc 1.22 puts uninitialised memory into its first packet.)
        settings: &[("option-string", "open-gop=0")],
        list: Some("option-string"),
        constant_quality: &[
            ("option-string", &["*crf=*", "*qp=*"]),
            ("qp", &["?", "1?", "2?", "3?", "4?", "5?"]),
        ],
        ..UNKNOWN
    },
    Profile {
        factories: &["vp8enc"],
        threads: Threads::One("threads", "1"),
        look_ahead: LookAhead::Property("lag-in-frames"),
        forced_key: ForcedKey::Closed,
        // As with vp9enc.
        constant_quality: &[("end-usage", &["cq"])],
        ..UNKNOWN
    },
    Profile {
        factories: &["vp9enc"],
        // With row-mt its bits depend on whether there is more than one.
        threads: Threads::One("threads", "1"),
        look_ahead: LookAhead::Property("lag-in-frames"),
        forced_key: ForcedKey::Closed,
        // Measured where target-bitrate allows that quality: without an overlap the same size and PSNR.
        constant_quality: &[("end-usage", &["cq"])],
        ..UNKNOWN
    },
    Profile {
        factories: &["av1enc"],
        threads: Threads::One("threads", "1"),
        look_ahead: LookAhead::Property("lag-in-frames"),
        // Until 1.24.5; honoured from then on.
        forced_key: ForcedKey::Ignored,
        constant_quality: &[("end-usage", &["q"])],
        ..UNKNOWN
    },
    Profile {
        factories: &["openh264enc"],
        threads: Threads::One("multi-thread", "1"),
        look_ahead: LookAhead::None,
        forced_key: ForcedKey::Closed,
        constant_quality: &[("rate-control", &["off"])],
        ..UNKNOWN
    },
    Profile {
        factories: &["theoraenc"],
        look_ahead: LookAhead::None,
        forced_key: ForcedKey::Closed,
        constant_quality: &[("bitrate", &["0"])],
        ..UNKNOWN
    },
    Profile {
        factories: &["mpeg2enc"],
        forced_key: ForcedKey::Ignored,
        beside: Beside::Alone(MARKS_NO_KEYS),
        ..UNKNOWN
    },
    Profile {
        factories: &["y4menc"],
        beside: Beside::Alone("each of its streams begins with a header in its first packet"),
        ..INTRA
    },
    Profile {
        factories: &["gifenc"],
        evidence: Evidence::Read,
        beside: Beside::Alone("its stream has one header and one trailer"),
        ..INTRA
    },
    Profile {
        factories: &["avenc_*_omx"],
        forced_key: ForcedKey::Unknown,
        ..HARDWARE
    },
    Profile {
        factories: &["avenc_apng"],
        beside: Beside::Alone("its frames are numbered from the beginning of the stream"),
        ..LIBAV
    },
    Profile {
        factories: &["avenc_rpza"],
        beside: Beside::Alone(MARKS_NO_KEYS),
        ..LIBAV
    },
    Profile {
        factories: &["openjpegenc"],
        threads: Threads::Free("num-threads"),
        ..INTRA
    },
    Profile {
        factories: &["jpegenc", "pngenc", "webpenc", "pnmenc"],
        ..INTRA
    },
    Profile {
        factories: &[
            "avenc_mjpeg",
            "avenc_ljpeg",
            "avenc_jpegls",
            "avenc_jpeg2000",
            "avenc_prores*",
            "avenc_dnxhd",
            "avenc_dvvideo",
            "avenc_huffyuv",
            "avenc_ffvhuff",
            "avenc_utvideo",
            "avenc_magicyuv",
            "avenc_cfhd",
            "avenc_png",
            "avenc_tiff",
            "avenc_targa",
            "avenc_bmp",
            "avenc_dpx",
            "avenc_exr",
            "avenc_p?m",
            "avenc_pam",
            "avenc_sgi",
            "avenc_pcx",
            "avenc_qoi",
            "avenc_hap",
            "avenc_speedhq",
            "avenc_vc2",
            "avenc_amv",
            "avenc_sunrast",
            "avenc_xbm",
            "avenc_xwd",
            "avenc_asv1",
            "avenc_asv2",
            "avenc_cljr",
            "avenc_r10k",
        ],
        ..INTRA
    },
    // MPEG-1, -2 and -4, H.261, H.263, FLV, MS-MPEG4, WMV, FFV1, SVQ1, …: without B-frames, which are off by default,
    // no frame refers across a forced key frame.
    Profile {
        factories: &[
            "avenc_ffv1",
            "avenc_wmv*",
            "avenc_h263*",
            "avenc_flv",
            "avenc_msmpeg4*",
            "avenc_mpeg*",
        ],
        constant_quality: &[("pass", &["quant"])],
        ..LIBAV
    },
    Profile {
        factories: &["avenc_*"],
        ..LIBAV
    },
    Profile {
        factories: &["svtav1enc"],
        threads: Threads::One("logical-processors", "1"),
        // Honoured only without a target bitrate.
        forced_key: ForcedKey::Open,
        evidence: Evidence::Read,
        ..UNKNOWN
    },
    Profile {
        factories: &["svthevcenc"],
        threads: Threads::One("cores", "1"),
        look_ahead: LookAhead::Property("lookahead"),
        forced_key: ForcedKey::Closed,
        settings: &[("enable-open-gop", "false")],
        constant_quality: &[("rc", &["cqp"])],
        evidence: Evidence::Read,
        ..UNKNOWN
    },
    Profile {
        factories: &["rav1enc"],
        threads: Threads::One("threads", "1"),
        forced_key: ForcedKey::Closed,
        constant_quality: &[("bitrate", &["0"])],
        evidence: Evidence::Read,
        ..UNKNOWN
    },
    Profile {
        factories: &["svtjpegxsenc"],
        threads: Threads::Free("threads"),
        evidence: Evidence::Read,
        ..INTRA
    },
    Profile {
        factories: &[
            "nv*jpegenc",
            "nvjpeg*enc",
            "vajpeg*enc",
            "qsvjpeg*enc",
            "msdkmjpegenc",
            "v4l2jpegenc",
            "vaapijpegenc",
        ],
        evidence: Evidence::Read,
        beside: Beside::Engines(1),
        ..INTRA
    },
    // Consumer cards open 3 to 8 sessions in a system; one engine each on most.
    Profile {
        factories: &["nv*h264*enc", "nv*h265*enc", "nv*av1*enc"],
        look_ahead: LookAhead::Property("rc-lookahead"),
        constant_quality: &[
            ("rc-mode", &["constqp"]),
            ("rate-control", &["constqp", "cqp"]),
        ],
        ..HARDWARE
    },
    Profile {
        factories: &[
            "va*h264*enc",
            "va*h265*enc",
            "va*vp8*enc",
            "va*vp9*enc",
            "va*av1*enc",
            "va*mpeg2*enc",
        ],
        constant_quality: &[("rate-control", &["cqp", "icq"])],
        ..HARDWARE
    },
    Profile {
        factories: &["vtenc_prores*"],
        beside: Beside::Engines(1),
        evidence: Evidence::Read,
        ..INTRA
    },
    Profile {
        factories: &["qsv*enc", "msdk*enc"],
        look_ahead: LookAhead::Property("rc-lookahead"),
        constant_quality: &[("rate-control", &["cqp", "icq", "la-icq", "la_icq"])],
        ..HARDWARE
    },
    // Passes a wrong value where a key frame is forced.
    Profile {
        factories: &["amfav1*enc"],
        forced_key: ForcedKey::Ignored,
        ..HARDWARE
    },
    Profile {
        factories: &["amf*enc"],
        look_ahead: LookAhead::Property("pa-lookahead-buffer-depth"),
        constant_quality: &[("rate-control", &["cqp"])],
        ..HARDWARE
    },
    // A forced key frame is a control of the device, or a request for the next frame: not tied to the frame it is for.
    Profile {
        factories: &["v4l2*enc", "amcvidenc-*"],
        forced_key: ForcedKey::Ignored,
        ..HARDWARE
    },
    Profile {
        factories: &["omx*enc"],
        forced_key: ForcedKey::Open,
        ..HARDWARE
    },
    Profile {
        factories: &["mf*enc"],
        forced_key: ForcedKey::Unknown,
        ..HARDWARE
    },
    Profile {
        factories: &["d3d12*enc", "vtenc_*", "vulkan*enc"],
        ..HARDWARE
    },
];

/// `*` stands for anything, `?` for one character.
fn matches(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('*') => {
            let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.into_iter()
                .any(|at| matches(rest.as_str(), &name[at..]))
        }
        Some(letter) => {
            let mut name = name.chars();
            let same = name.next().is_some_and(|is| letter == '?' || letter == is);
            same && matches(rest.as_str(), name.as_str())
        }
    }
}

impl Profile {
    /// The encoder's row: the first that names it.
    pub(crate) fn of(encoder: &gst::Element) -> &'static Self {
        let name = encoder.factory().map(|factory| factory.name().to_string());
        let name = name.unwrap_or_default();
        let row = ROWS
            .iter()
            .find(|row| row.factories.iter().any(|pattern| matches(pattern, &name)));
        row.unwrap_or_else(|| {
            let class = encoder.metadata(gst::ELEMENT_METADATA_KLASS);
            if class.is_some_and(|class| class.contains("Hardware")) {
                &UNKNOWN_HARDWARE
            } else {
                &UNKNOWN
            }
        })
    }

    /// The encoder has a row of its own.
    pub(crate) fn is_known(&self) -> bool {
        !self.factories.is_empty()
    }

    /// Each of its frames is a key frame.
    pub(crate) fn is_intra(&self) -> bool {
        self.forced_key == ForcedKey::Always
    }

    /// Frames to feed before and after a chunk, where the user leaves it to us: none where they buy nothing, or where
    /// the encoder doesn't part them from the chunk.
    pub(crate) fn overlap(&self, encoder: &gst::Element) -> (u64, u64) {
        if self.forced_key != ForcedKey::Closed || self.is_constant_quality(encoder) {
            return (0, 0);
        }
        let look_ahead = match self.look_ahead {
            LookAhead::Frames(frames) => frames,
            LookAhead::Property(property) if encoder.has_property(property) => {
                serialized(encoder, property).parse().unwrap_or(0)
            }
            _ => 0,
        };
        (AUTOMATIC_OVERLAP, look_ahead.min(AUTOMATIC_OVERLAP))
    }

    fn is_constant_quality(&self, encoder: &gst::Element) -> bool {
        self.constant_quality.iter().any(|(property, values)| {
            let is = serialized(encoder, property);
            values.iter().any(|value| matches(value, &is))
        })
    }

    /// It is known from running it, not from reading.
    pub(crate) fn was_run(&self) -> bool {
        self.is_known() && self.evidence == Evidence::Run
    }

    /// Prepares an encoder for encoding chunks beside others, with `threads` threads where it may have several.
    pub(super) fn apply(
        &self,
        encoder: &gst::Element,
        threads: u32,
        is_set: impl Fn(&str) -> bool,
    ) {
        let threads = match self.threads {
            Threads::Fixed => None,
            Threads::Free(property) => Some((property, threads.to_string())),
            Threads::One(property, value) => Some((property, value.to_string())),
        };
        let settings = self.settings.iter();
        let settings = settings.map(|&(property, value)| (property, value.to_string()));
        for (property, value) in threads.into_iter().chain(settings) {
            if !encoder.has_property(property) {
                continue;
            }
            if self.list == Some(property) {
                let set = encoder.property::<Option<String>>(property);
                let set = set.filter(|set| !set.is_empty());
                let list = set.map_or(value.clone(), |set| format!("{value}:{set}"));
                encoder.set_property(property, list);
            } else if !is_set(property) {
                // A row that was only read may be wrong about the type.
                let _ = set_from_text(encoder, property, &value);
            }
        }
    }
}

/// The property's value as text; empty where there is no such property.
fn serialized(encoder: &gst::Element, property: &str) -> String {
    let spec = encoder.find_property(property);
    let value = spec.and_then(|_| as_text(&encoder.property_value(property)));
    value.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(factory: &str) -> Option<gst::Element> {
        gst::init().unwrap();
        gst::ElementFactory::make(factory).build().ok()
    }

    /// Every video encoder that is installed and isn't ours.
    fn installed() -> Vec<gst::Element> {
        gst::init().unwrap();
        let kind = gst::ElementFactoryType::VIDEO_ENCODER;
        let factories = gst::ElementFactory::factories_with_type(kind, gst::Rank::NONE);
        let made = factories
            .iter()
            .filter_map(|factory| factory.create().build().ok());
        made.filter(|encoder| !encoder.is::<crate::parallelenc::ParallelEnc>())
            .collect()
    }

    #[test]
    fn each_named_property_exists_where_the_encoder_is_installed() {
        let mut seen = 0;
        for encoder in installed() {
            let name = encoder.factory().unwrap().name();
            let row = Profile::of(&encoder);
            let threads = match row.threads {
                Threads::Free(property) | Threads::One(property, _) => Some(property),
                Threads::Fixed => None,
            };
            let look_ahead = match row.look_ahead {
                LookAhead::Property(property) => Some(property),
                _ => None,
            };
            let quality = row.constant_quality.iter().map(|(property, _)| *property);
            let settings = row.settings.iter().map(|(property, _)| *property);
            let named = threads
                .into_iter()
                .chain(look_ahead)
                .chain(quality)
                .chain(settings)
                .chain(row.list);
            for property in named {
                assert!(encoder.has_property(property), "{name}: {property}");
                seen += 1;
            }
            // Each value is one that the property takes, and stays.
            row.apply(&encoder, 3, |_| false);
            match row.threads {
                Threads::Free(property) => {
                    assert_eq!(serialized(&encoder, property), "3", "{name}");
                }
                Threads::One(property, value) => {
                    assert!(serialized(&encoder, property).contains(value), "{name}");
                }
                Threads::Fixed => (),
            }
            for (property, value) in row.settings {
                assert!(
                    serialized(&encoder, property).contains(value),
                    "{name}: {property}"
                );
            }
        }
        eprintln!("{seen} properties of installed encoders");
        assert!(seen > 0);
    }

    #[test]
    fn each_quality_value_is_one_that_the_property_takes() {
        for encoder in installed() {
            let row = Profile::of(&encoder);
            for (property, values) in row.constant_quality {
                for value in values.iter().filter(|value| !value.contains(['*', '?'])) {
                    encoder.set_property_from_str(property, value);
                    assert!(row.is_constant_quality(&encoder), "{property}={value}");
                    assert_eq!(row.overlap(&encoder), (0, 0));
                }
            }
        }
    }

    #[test]
    fn every_row_that_was_run_is_of_an_encoder_of_gstreamers_own_plugins() {
        let installed = installed();
        let names: Vec<_> = installed
            .iter()
            .map(|encoder| encoder.factory().unwrap().name())
            .collect();
        for row in ROWS.iter().filter(|row| row.evidence == Evidence::Run) {
            for pattern in row.factories {
                if !names.iter().any(|name| matches(pattern, name)) {
                    eprintln!("{pattern}: not installed, not checked");
                }
            }
        }
        // A row that is never reached is an error: each pattern's first match is its own row.
        for (at, row) in ROWS.iter().enumerate() {
            for pattern in row.factories {
                let name = pattern.replace(['*', '?'], "x");
                let first = ROWS
                    .iter()
                    .position(|row| row.factories.iter().any(|other| matches(other, &name)));
                assert_eq!(first, Some(at), "{pattern}");
            }
        }
    }

    #[test]
    fn what_the_user_has_set_stays() {
        let Some(x264) = make("x264enc") else { return };
        // Even where it is the default.
        Profile::of(&x264).apply(&x264, 1, |property| property == "threads");
        assert_eq!(x264.property::<u32>("threads"), 0);
        Profile::of(&x264).apply(&x264, 1, |_| false);
        assert_eq!(x264.property::<u32>("threads"), 1);
        let Some(x265) = make("x265enc") else { return };
        x265.set_property("option-string", "open-gop=1");
        Profile::of(&x265).apply(&x265, 1, |_| false);
        let options: String = x265.property("option-string");
        assert_eq!(options, "open-gop=0:pools=1:frame-threads=1:open-gop=1");
    }

    #[test]
    fn a_bitrate_needs_an_overlap_and_quality_does_not() {
        let Some(x264) = make("x264enc") else { return };
        let overlap = || Profile::of(&x264).overlap(&x264);
        assert_eq!(overlap(), (24, 24));
        x264.set_property("rc-lookahead", 10i32);
        assert_eq!(overlap(), (24, 10));
        x264.set_property_from_str("pass", "qual");
        assert_eq!(overlap(), (0, 0));
        let Some(x265) = make("x265enc") else { return };
        assert_eq!(Profile::of(&x265).overlap(&x265), (24, 20));
        x265.set_property("qp", 30i32);
        assert_eq!(Profile::of(&x265).overlap(&x265), (0, 0));
        x265.set_property("qp", -1i32);
        x265.set_property("option-string", "rc-lookahead=5:crf=22");
        assert_eq!(Profile::of(&x265).overlap(&x265), (0, 0));
    }

    #[test]
    fn unknown_hardware_has_one_engine() {
        let Some(identity) = make("identity") else {
            return;
        };
        assert_eq!(Profile::of(&identity).beside, Beside::Cores);
        assert_eq!(UNKNOWN_HARDWARE.beside, Beside::Engines(1));
    }
}
