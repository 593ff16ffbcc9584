// SPDX-License-Identifier: MPL-2.0

//! What is said that can be written, can be.

mod common;

use common::{made, play};
use std::process::Command;
use vtexport::formats::{FileType, formats};
use vtexport::scan::scan;

fn encoders<'a>(types: &'a [FileType], ending: &str, codec: &str) -> &'a [String] {
    let file_type = types.iter().find(|it| it.ending == ending).unwrap();
    assert!(file_type.is_installed, "{ending}");
    let mut codecs = file_type.video.iter().chain(&file_type.audio);
    let codec = codecs.find(|it| it.name == codec);
    codec.map_or(&[], |codec| &codec.encoders)
}

#[test]
fn what_muxers_accept_and_encoders_make() {
    gst::init().unwrap();
    let types = formats();
    for ending in ["mp4", "mov", "mkv", "ts"] {
        assert_eq!(encoders(&types, ending, "H.264")[0], "x264enc", "{ending}");
        assert_eq!(encoders(&types, ending, "H.265"), ["x265enc"], "{ending}");
        assert!(
            !encoders(&types, ending, "MPEG-4 AAC").is_empty(),
            "{ending}"
        );
    }
    assert_eq!(encoders(&types, "webm", "VP8"), ["vp8enc"]);
    assert_eq!(encoders(&types, "webm", "H.264"), [""; 0]);
    assert_eq!(encoders(&types, "mp4", "Theora"), [""; 0]);
    let all = types.iter().flat_map(|it| it.video.iter().chain(&it.audio));
    let mut all = all.flat_map(|codec| &codec.encoders);
    assert!(!all.any(|encoder| encoder.starts_with("vtparallel")));
}

#[test]
fn they_write_such_files() {
    gst::init().unwrap();
    let types = formats();
    let dir = tempfile::tempdir().unwrap();
    let h264 = "x264enc speed-preset=ultrafast ! h264parse";
    for (ending, codec, encoder) in [
        ("mp4", "H.264", h264),
        ("mov", "H.264", h264),
        ("mkv", "H.264", h264),
        ("ts", "H.264", h264),
        ("webm", "VP8", "vp8enc deadline=1"),
        ("mkv", "Theora", "theoraenc"),
        ("mov", "JPEG", "jpegenc"),
        ("ts", "MPEG-2 Video", "mpeg2enc ! mpegvideoparse"),
    ] {
        let factory = encoder.split(' ').next().unwrap();
        let named = encoders(&types, ending, codec);
        assert!(
            named.iter().any(|it| it == factory),
            "{ending} {codec}: {named:?}"
        );
        let muxer = types.iter().find(|it| it.ending == ending).unwrap().muxer;
        let name = format!("{factory}.{ending}");
        let path = made(dir.path(), &name, 10, &format!("{encoder} ! {muxer}"));
        assert_eq!(scan(&path, 0).unwrap().pictures.len(), 10, "{name}");
    }
    for (ending, codec, encoder) in [
        ("mp4", "MPEG-4 AAC", "avenc_aac"),
        ("webm", "Opus", "opusenc"),
        ("mkv", "Free Lossless Audio Codec (FLAC)", "flacenc"),
    ] {
        let named = encoders(&types, ending, codec);
        assert!(
            named.iter().any(|it| it == encoder),
            "{ending} {codec}: {named:?}"
        );
        let muxer = types.iter().find(|it| it.ending == ending).unwrap().muxer;
        play(&format!(
            "audiotestsrc num-buffers=10 ! audioconvert ! {encoder} ! {muxer} ! fakesink"
        ));
    }
}

#[test]
fn it_is_told_to_people_and_programs() {
    let vtexport = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_vtexport"))
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let said = String::from_utf8(vtexport(&["formats"])).unwrap();
    assert!(said.starts_with("mp4   MPEG-4\n"), "{said}");
    assert!(said.contains("\n      video  H.264: x264enc"), "{said}");
    let told: serde_json::Value =
        serde_json::from_slice(&vtexport(&["formats", "--json"])).unwrap();
    assert_eq!(told["types"][0]["ending"], "mp4");
    assert_eq!(told["types"][0]["muxer"], "mp4mux");
}
