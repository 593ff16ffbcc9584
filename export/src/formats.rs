// SPDX-License-Identifier: MPL-2.0

//! Types of files that can be written, and the encoders that this installation has for each.
//!
//! What a type holds is what its muxer accepts, by the templates of its pads; which encoders make that, by the templates of theirs.

use crate::source::described;
use gst::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Endings of file names, the muxer that writes such files, and what they are called.
const TYPES: [(&str, &str, &str); 5] = [
    ("mp4", "mp4mux", "MPEG-4"),
    ("mov", "qtmux", "QuickTime"),
    ("mkv", "matroskamux", "Matroska"),
    ("webm", "webmmux", "WebM"),
    ("ts", "mpegtsmux", "MPEG transport stream"),
];

/// What tells two codecs of a name apart.
const VERSIONS: [&str; 4] = ["mpegversion", "layer", "variant", "wmvversion"];

/// A type of files.
#[derive(Debug, Serialize)]
pub struct FileType {
    pub ending: &'static str,
    pub name: &'static str,
    pub muxer: &'static str,
    /// It can be written here.
    pub is_installed: bool,
    pub video: Vec<Codec>,
    pub audio: Vec<Codec>,
}

/// A codec, with the encoders that make it, the one that is taken first being the first.
#[derive(Debug, Serialize)]
pub struct Codec {
    pub name: String,
    pub encoders: Vec<String>,
}

/// All of them.
pub fn formats() -> Vec<FileType> {
    let types = TYPES.iter();
    types
        .map(|&(ending, muxer, name)| {
            let factory = gst::ElementFactory::find(muxer);
            let accepted = factory.as_ref().map_or_else(gst::Caps::new_empty, accepted);
            let codecs = |kind| codecs(&accepted, kind);
            FileType {
                ending,
                name,
                muxer,
                is_installed: factory.is_some(),
                video: codecs(gst::ElementFactoryType::VIDEO_ENCODER),
                audio: codecs(gst::ElementFactoryType::AUDIO_ENCODER),
            }
        })
        .collect()
}

/// Codecs on pads of a direction, without what an encoder or a parser settles.
fn on_pads(factory: &gst::ElementFactory, direction: gst::PadDirection) -> Vec<gst::Structure> {
    let templates = factory.static_pad_templates();
    let templates = templates
        .into_iter()
        .filter(|template| template.direction() == direction);
    let caps: Vec<gst::Caps> = templates.map(|template| template.caps()).collect();
    let structures = caps.iter().flat_map(|caps| caps.iter());
    structures.map(codec_of).collect()
}

/// What says which codec it is, and nothing else.
pub(crate) fn codec_of(structure: &gst::StructureRef) -> gst::Structure {
    let mut codec = gst::Structure::new_empty(structure.name());
    for field in VERSIONS {
        if let Ok(value) = structure.value(field) {
            codec.set_value(field, value.clone());
        }
    }
    codec
}

/// Of which the first one is taken that is installed and that the type holds: with the bitrate at which nobody hears a difference in stereo.
const AUDIO_ENCODERS: [&str; 6] = [
    "fdkaacenc bitrate=192000",
    "avenc_aac bitrate=192000",
    "voaacenc bitrate=192000",
    "opusenc bitrate=160000",
    "vorbisenc quality=0.6",
    "lamemp3enc bitrate=192",
];

/// With which sound is encoded that a type doesn't hold.
pub(crate) fn default_audio_encoder(muxer: &gst::Element) -> Option<String> {
    let accepted = accepted(&muxer.factory()?);
    let fits = |description: &&&str| {
        let name = description.split(' ').next().unwrap_or_default();
        let factory = gst::ElementFactory::find(name);
        factory.is_some_and(|factory| {
            let makes: gst::Caps = on_pads(&factory, gst::PadDirection::Src)
                .into_iter()
                .collect();
            makes.can_intersect(&accepted)
        })
    };
    AUDIO_ENCODERS.iter().find(fits).map(ToString::to_string)
}

/// The type of a file of this name.
pub fn of_name(name: &std::path::Path) -> Option<FileType> {
    let ending = name.extension()?.to_str()?.to_ascii_lowercase();
    formats().into_iter().find(|kind| kind.ending == ending)
}

fn accepted(muxer: &gst::ElementFactory) -> gst::Caps {
    on_pads(muxer, gst::PadDirection::Sink)
        .into_iter()
        .collect()
}

/// Codecs among these, with the encoders of this kind that there are.
fn codecs(accepted: &gst::Caps, kind: gst::ElementFactoryType) -> Vec<Codec> {
    let encoders = gst::ElementFactory::factories_with_type(kind, gst::Rank::NONE);
    let mut codecs = BTreeMap::<String, Vec<(gst::Rank, String)>>::new();
    for encoder in encoders {
        // This project's own are encoders of encoders.
        let plugin = encoder.plugin_name();
        if plugin.is_some_and(|plugin| plugin == "vtparallelenc") {
            continue;
        }
        for made in on_pads(&encoder, gst::PadDirection::Src) {
            let made: gst::Caps = std::iter::once(made).collect();
            let mut both = made.intersect(accepted);
            let is_raw = made
                .structure(0)
                .is_some_and(|it| it.name().ends_with("/x-raw"));
            if both.is_empty() || is_raw {
                continue;
            }
            both.normalize();
            for codec in both.iter() {
                let codec: gst::Caps = std::iter::once(codec.to_owned()).collect();
                let encoder = (encoder.rank(), encoder.name().to_string());
                let encoders = codecs.entry(described(&codec)).or_default();
                if !encoders.contains(&encoder) {
                    encoders.push(encoder);
                }
            }
        }
    }
    let sorted = codecs.into_iter().map(|(name, mut encoders)| {
        encoders.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(&other.1)));
        let encoders = encoders.into_iter().map(|(_, encoder)| encoder).collect();
        Codec { name, encoders }
    });
    sorted.collect()
}

impl fmt::Display for FileType {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:<5} {}", self.ending, self.name)?;
        if !self.is_installed {
            return write!(
                to,
                ": not here, because GStreamer's element {} isn't",
                self.muxer
            );
        }
        for (kind, codecs) in [("video", &self.video), ("audio", &self.audio)] {
            for Codec { name, encoders } in codecs {
                write!(to, "\n      {kind}  {name}: {}", encoders.join(", "))?;
            }
        }
        Ok(())
    }
}
