// SPDX-License-Identifier: MPL-2.0

//! Caps: of what goes in, of what comes out, and what one says of the other.

/// Raw video in any memory.
pub(crate) fn raw() -> gst::Caps {
    let mut caps = gst::Caps::new_empty_simple("video/x-raw");
    let any = gst::Structure::new_empty("video/x-raw");
    caps.make_mut()
        .append_structure_full(any, Some(gst::CapsFeatures::new_any()));
    caps
}

/// What video encoders make. With a template that says no more than "anything", tools that link by template would
/// take the element for whatever a muxer offers first, sound included.
const ENCODED: &str = "\
    video/x-h264 video/x-h265 video/x-h266 video/x-vp8 video/x-vp9 video/x-av1 video/mpeg video/x-theora video/x-h261 \
    video/x-h263 video/x-divx video/x-xvid video/x-msmpeg video/x-wmv video/x-flash-video video/x-pn-realvideo video/x-svq \
    video/x-dirac video/x-prores video/x-dnxhd video/x-cineform video/x-dv video/x-ffv video/x-huffyuv video/x-ffvhuff video/x-hap video/x-gst-av-ffvhuff \
    video/x-speedhq video/x-rle video/x-zmbv video/x-amv video/x-cinepak video/x-asus video/x-cirrus-logic-accupak \
    video/x-flash-screen video/x-flash-screen2 video/x-msvideocodec video/x-apple-video video/x-smc video/x-gst-av-pgmyuv \
    video/x-gst-av-roqvideo application/x-yuv4mpeg image/jpeg image/png image/webp image/tiff image/jp2 image/x-j2c image/x-jpc \
    image/x-jpc-striped image/x-jxsc image/bmp image/qoi image/pbm image/ppm image/x-pcx image/x-sgi image/x-sun-raster image/x-tga \
    image/x-portable-anymap image/x-portable-bitmap image/x-portable-graymap image/x-portable-pixmap";

pub(crate) fn encoded() -> gst::Caps {
    let names = ENCODED.split_whitespace();
    names.map(gst::Structure::new_empty).collect()
}

/// The raw video that encoders of a factory can take.
pub(crate) fn taken_by(factory: &gst::ElementFactory) -> gst::Caps {
    let mut caps = gst::Caps::new_empty();
    for template in factory.static_pad_templates() {
        if template.direction() == gst::PadDirection::Sink {
            caps.merge(template.caps());
        }
    }
    caps
}

/// The template of a pad, whose name says its direction (`sink` or `src`), and by a number in it that it comes on request.
pub(crate) fn pad_template(name: &str, caps: &gst::Caps) -> gst::PadTemplate {
    let direction = match name.starts_with("sink") {
        true => gst::PadDirection::Sink,
        false => gst::PadDirection::Src,
    };
    let presence = match name.contains('%') {
        true => gst::PadPresence::Request,
        false => gst::PadPresence::Always,
    };
    let template = gst::PadTemplate::new(name, direction, presence, caps);
    // PANIC: a name with a number is of a pad that comes on request.
    template.expect("template")
}
