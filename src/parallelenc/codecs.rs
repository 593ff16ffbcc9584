// SPDX-License-Identifier: MPL-2.0

//! One element for each format that people export to: `vtparallelenc` with an exact source template. Tools that choose an
//! encoder by its template (encodebin, and with it uritranscodebin, GES and camerabin) find these, by caps or by name, which
//! they can't do with an element that may make anything. Rank MARGINAL: they are candidates, but never the first.

use super::{ParallelEnc, imp};
use gst::prelude::*;
use gst::subclass::prelude::*;
use once_cell::sync::Lazy;

macro_rules! codecs {
    ($($module:ident: $factory:literal, $type:literal, $name:literal, $caps:literal;)*) => {
        $(mod $module {
            use super::*;

            #[derive(Default)]
            pub struct Enc;

            #[glib::object_subclass]
            impl ObjectSubclass for Enc {
                const NAME: &'static str = $type;
                type Type = super::$module::Element;
                type ParentType = ParallelEnc;
            }

            impl ObjectImpl for Enc {}
            impl GstObjectImpl for Enc {}
            impl BinImpl for Enc {}
            impl imp::ParallelEncImpl for Enc {}

            impl ElementImpl for Enc {
                fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
                    static METADATA: Lazy<gst::subclass::ElementMetadata> =
                        Lazy::new(|| imp::metadata(concat!("Parallel ", $name, " encoder")));
                    Some(&METADATA)
                }

                fn pad_templates() -> &'static [gst::PadTemplate] {
                    static TEMPLATES: Lazy<Vec<gst::PadTemplate>> = Lazy::new(|| {
                        // PANIC: a test makes each of these elements.
                        imp::pad_templates(&$caps.parse().expect("caps"))
                    });
                    &TEMPLATES
                }
            }

            glib::wrapper! {
                pub struct Element(ObjectSubclass<Enc>)
                    @extends ParallelEnc, gst::Bin, gst::Element, gst::Object,
                    @implements gst::ChildProxy;
            }
        })*

        pub(super) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
            $(gst::Element::register(
                Some(plugin),
                $factory,
                gst::Rank::MARGINAL,
                $module::Element::static_type(),
            )?;)*
            Ok(())
        }

        #[cfg(test)]
        const FACTORIES: &[&str] = &[$($factory),*];
    };
}

codecs! {
    h264: "vtparallelh264enc", "GstVtParallelH264Enc", "H.264",
        "video/x-h264,stream-format=(string){avc,byte-stream},alignment=(string)au";
    h265: "vtparallelh265enc", "GstVtParallelH265Enc", "H.265",
        "video/x-h265,stream-format=(string){hvc1,byte-stream},alignment=(string)au";
    vp8: "vtparallelvp8enc", "GstVtParallelVp8Enc", "VP8", "video/x-vp8";
    vp9: "vtparallelvp9enc", "GstVtParallelVp9Enc", "VP9", "video/x-vp9";
    av1: "vtparallelav1enc", "GstVtParallelAv1Enc", "AV1",
        "video/x-av1,alignment=(string)tu";
    mpeg2: "vtparallelmpeg2enc", "GstVtParallelMpeg2Enc", "MPEG-2",
        "video/mpeg,mpegversion=(int)2,systemstream=(boolean)false";
    mpeg4: "vtparallelmpeg4enc", "GstVtParallelMpeg4Enc", "MPEG-4 Part 2",
        "video/mpeg,mpegversion=(int)4,systemstream=(boolean)false";
    theora: "vtparalleltheoraenc", "GstVtParallelTheoraEnc", "Theora", "video/x-theora";
    prores: "vtparallelproresenc", "GstVtParallelProresEnc", "ProRes", "video/x-prores";
    dnxhd: "vtparalleldnxhdenc", "GstVtParallelDnxhdEnc", "DNxHD", "video/x-dnxhd";
    ffv1: "vtparallelffv1enc", "GstVtParallelFfv1Enc", "FFV1", "video/x-ffv,ffvversion=(int)1";
    jpeg: "vtparalleljpegenc", "GstVtParallelJpegEnc", "Motion JPEG", "image/jpeg";
    jpeg2000: "vtparalleljpeg2000enc", "GstVtParallelJpeg2000Enc", "JPEG 2000",
        "image/jp2; image/x-j2c; image/x-jpc";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generic_element_makes_what_any_installed_encoder_makes() {
        gst::init().unwrap();
        let kind = gst::ElementFactoryType::VIDEO_ENCODER;
        let ours = crate::media::caps::encoded();
        let mut missing = Vec::new();
        for factory in gst::ElementFactory::factories_with_type(kind, gst::Rank::NONE) {
            for template in factory.static_pad_templates() {
                let caps = template.caps();
                let has_name =
                    !caps.is_any() && caps.iter().all(|it| it.name() != "unknown/unknown");
                let is_src = template.direction() == gst::PadDirection::Src;
                if is_src && has_name && !caps.can_intersect(&ours) {
                    missing.push(format!("{}: {caps}", factory.name()));
                }
            }
        }
        assert!(missing.is_empty(), "{missing:#?}");
    }

    #[test]
    fn each_makes_one_format_and_is_otherwise_the_same_element() {
        gst::init().unwrap();
        crate::plugin_register_static().unwrap();
        for name in FACTORIES {
            let element = gst::ElementFactory::make(name).build().unwrap();
            assert!(element.is::<ParallelEnc>(), "{name}");
            let src = element.static_pad("src").unwrap();
            let format = src.pad_template_caps();
            assert!(!format.is_any() && !format.is_empty(), "{name}");
            // The generic element makes it too.
            assert!(
                format.is_subset(&crate::media::caps::encoded()),
                "{name}: {format}"
            );
            let factory = element.factory().unwrap();
            assert_eq!(factory.rank(), gst::Rank::MARGINAL, "{name}");
            assert_eq!(element.metadata("klass"), Some("Codec/Encoder/Video"));
        }
    }
}
