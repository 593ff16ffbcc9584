// SPDX-License-Identifier: MPL-2.0

/**
 * SECTION:element-vtparallelenc
 *
 * `vtparallelenc` encodes one video with several encoders at once and hands on a single stream, as one encoder would have
 * made it. It stands wherever a video encoder stands.
 *
 * The video is cut into *chunks*: runs of frames that one encoder encodes from the first to the last. Each chunk is encoded
 * by a fresh encoder, up to #vtparallelenc:sessions of them at the same time, and its packets leave when it was verified: every frame
 * there, once, beginning with a key frame. PTS and durations are those of the input; DTS are made anew and increase strictly.
 *
 * With the same chunks the output is the same to the byte for any number of sessions, as long as the encoder is
 * deterministic itself. Known encoders are given one thread each where their threads weren't set, because several encoders with
 * all threads each hold each other up, and because x264 is deterministic only so.
 *
 * Parallel encoding holds raw video: at most #vtparallelenc:max-raw-bytes. It holds encoded video back, too, so that a
 * pipeline with sound needs a queue in the audio branch that holds as much time as is held back.
 *
 * Where parallel encoding isn't possible (#vtparallelenc:allow-parallel is false, one session, a live source), one encoder encodes
 * the whole stream, and everything goes straight through it.
 *
 * ## Example
 *
 * |[
 * gst-launch-1.0 videotestsrc num-buffers=1000 ! vtparallelenc encoder="x264enc pass=qual quantizer=23" ! h264parse ! mp4mux ! filesink location=out.mp4
 * ]|
 *
 * ## Security
 *
 * #vtparallelenc:encoder builds elements as `gst-launch-1.0` does. It must not come from strangers.
 */
use gst::prelude::*;

mod codecs;
pub(crate) mod imp;
mod model;
pub(crate) mod report;
pub(crate) mod settings;

glib::wrapper! {
    pub struct ParallelEnc(ObjectSubclass<imp::ParallelEnc>)
        @extends gst::Bin, gst::Element, gst::Object, @implements gst::ChildProxy;
}

/// Raw video in any memory.
pub(crate) fn raw_caps() -> gst::Caps {
    let mut caps = gst::Caps::new_empty_simple("video/x-raw");
    let any = gst::Structure::new_empty("video/x-raw");
    caps.make_mut()
        .append_structure_full(any, Some(gst::CapsFeatures::new_any()));
    caps
}

/// What video encoders make. With a template that says no more than "anything", tools that link by template would
/// take the element for whatever a muxer offers first, sound included.
const ENCODED: &[&str] = &[
    "video/x-h264",
    "video/x-h265",
    "video/x-h266",
    "video/x-vp8",
    "video/x-vp9",
    "video/x-av1",
    "video/mpeg",
    "video/x-theora",
    "video/x-h261",
    "video/x-h263",
    "video/x-divx",
    "video/x-xvid",
    "video/x-msmpeg",
    "video/x-wmv",
    "video/x-flash-video",
    "video/x-pn-realvideo",
    "video/x-svq",
    "video/x-dirac",
    "video/x-prores",
    "video/x-dnxhd",
    "video/x-cineform",
    "video/x-dv",
    "video/x-ffv",
    "video/x-huffyuv",
    "video/x-gst-av-ffvhuff",
    "video/x-speedhq",
    "video/x-rle",
    "video/x-zmbv",
    "video/x-amv",
    "video/x-cinepak",
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/tiff",
    "image/jp2",
    "image/x-j2c",
    "image/x-jpc",
    "image/x-jpc-striped",
    "image/x-jxsc",
];

pub(crate) fn encoded_caps() -> gst::Caps {
    let structures = ENCODED.iter().map(|name| gst::Structure::new_empty(*name));
    gst::Caps::from_iter(structures)
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(
        Some(plugin),
        "vtparallelenc",
        gst::Rank::NONE,
        ParallelEnc::static_type(),
    )?;
    codecs::register(plugin)
}
