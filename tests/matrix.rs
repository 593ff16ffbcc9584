// SPDX-License-Identifier: MPL-2.0

//! Every video encoder that is installed, through chunks: 60 frames in chunks of 20, with 1 and 3 sessions, without an overlap and
//! with the automatic one. Decoded, each frame is compared with the source by the number burnt into it and by PSNR.
//!
//! An encoder that fails is only excused if it fails as well without us. The test prints the table that
//! `docs/encoders.md` shows.

mod common;

use common::pictures::{HEIGHT, I420, WIDTH, number_of, pipeline, psnr, synthetic};
use common::{End, Output, init, record};
use gst::prelude::*;

const FRAMES: usize = 60;

/// Properties and raw caps that an encoder needs to do anything here, or to do it within a minute.
const NEEDS: &[(&str, &str, &str)] = &[
    (
        "av1enc",
        "cpu-used=8 target-bitrate=1500 max-quantizer=63",
        "",
    ),
    (
        "vp8enc",
        "deadline=1 cpu-used=-8 target-bitrate=1500000",
        "",
    ),
    (
        "vp9enc",
        "deadline=1 cpu-used=8 target-bitrate=1500000 lag-in-frames=5",
        "",
    ),
    (
        "x264enc",
        "speed-preset=veryfast option-string=no-mbtree=1",
        "",
    ),
    ("x265enc", "speed-preset=ultrafast", ""),
    ("openh264enc", "bitrate=1500000", ""),
    ("rav1enc", "speed-preset=10", "width=160,height=120"),
    ("svtav1enc", "preset=10", ""),
    (
        "avenc_dnxhd",
        "bitrate=90000000",
        "format=Y42B,width=1280,height=720",
    ),
    (
        "avenc_dvvideo",
        "",
        "width=720,height=576,pixel-aspect-ratio=16/15",
    ),
    ("avenc_h261", "bitrate=2000000", "width=352,height=288"),
    ("avenc_h263", "bitrate=2000000", "width=352,height=288"),
    ("avenc_roqvideo", "", "width=64,height=64"),
    ("avenc_cinepak", "", "width=80,height=60"),
    ("avenc_zmbv", "", "width=160,height=120"),
    ("mpeg2enc", "", "width=160,height=120"),
    ("avenc_*", "bitrate=2000000", ""),
];

/// Encoders that give the same packets for the same frames, with the settings that they are given here.
const DETERMINISTIC: &[&str] = &[
    "av1enc",
    "avenc_*",
    "jpegenc",
    "openh264enc",
    "openjpegenc",
    "pngenc",
    "pnmenc",
    "theoraenc",
    "vp9enc",
    "webpenc",
    "x265enc",
];

/// `*` at its end stands for anything.
fn matches(pattern: &str, factory: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => factory.starts_with(start),
        None => factory == pattern,
    }
}

fn needs(factory: &str) -> (&'static str, &'static str) {
    let needs = NEEDS
        .iter()
        .find(|(pattern, _, _)| matches(pattern, factory));
    needs.map_or(("", ""), |(_, properties, caps)| (properties, caps))
}

/// y4mdec of 1.22 warns of a missing segment, with and without us, which is fatal here: its encoder's packets are compared
/// with those that it makes alone.
const Y4M: &str = "y4menc";

/// Nothing that is installed decodes its packets: they are compared as well.
const GIF: &str = "gifenc";

struct Run {
    end: Result<(), String>,
    encoded: Output,
    /// Numbers read from the decoded pictures.
    numbers: Vec<usize>,
    /// PSNR of each against its source, in dB.
    psnr: Vec<f64>,
    times: Vec<Option<gst::ClockTime>>,
    stats: Option<gst::Structure>,
}

impl Run {
    fn mean(&self) -> f64 {
        self.psnr.iter().sum::<f64>() / self.psnr.len().max(1) as f64
    }
}

/// Encodes and decodes. `encoder` has the name `enc`.
fn run(pictures: &[Vec<u8>], caps: &str, encoder: &str) -> Run {
    let own = if caps.is_empty() {
        String::new()
    } else {
        format!(",{caps}")
    };
    let through = format!(
        "videoconvert ! videoscale method=nearest-neighbour ! video/x-raw{own} ! {encoder}"
    );
    let back = I420
        .replace(",framerate=25/1", "")
        .replace(",interlace-mode=progressive", "")
        .replace(",colorimetry=bt601,chroma-site=jpeg", "");
    let rest = format!(
        "identity name=encoded ! decodebin ! videoconvert ! videoscale method=nearest-neighbour ! {back} ! \
         fakesink name=sink sync=false"
    );
    let pipeline = pipeline(pictures, &through, &rest);
    let encoded = record(&pipeline.element("encoded").static_pad("sink").unwrap());
    let decoded = record(&pipeline.element("sink").static_pad("sink").unwrap());
    let end = match pipeline.run() {
        End::Eos => Ok(()),
        End::Error {
            source,
            message,
            debug,
        } => Err(format!("{source}: {message} [{debug}]")),
    };
    let enc = pipeline.element("enc");
    let stats = enc.has_property("stats").then(|| enc.property("stats"));
    pipeline.set_state(gst::State::Null).unwrap();
    let decoded = decoded.lock().unwrap();
    let encoded = encoded.lock().unwrap().clone();
    let pictures_out = || {
        decoded
            .packets
            .iter()
            .filter(|packet| packet.bytes.len() == WIDTH * HEIGHT * 3 / 2)
    };
    Run {
        end,
        encoded,
        numbers: pictures_out()
            .map(|packet| number_of(&packet.bytes))
            .collect(),
        psnr: pictures_out()
            .zip(pictures)
            .map(|(packet, picture)| psnr(&packet.bytes, picture))
            .collect(),
        times: pictures_out().map(|packet| packet.running_time).collect(),
        stats,
    }
}

/// Why the run isn't what an encoder should give, if it isn't. `readable`: its numbers survive encoding.
fn complaint(run: &Run, readable: bool) -> Option<String> {
    if let Err(error) = &run.end {
        return Some(error.clone());
    }
    if run.encoded.packets.is_empty() {
        return Some("no packet".into());
    }
    if run.psnr.is_empty() {
        return Some("nothing decodes it".into());
    }
    if run.psnr.len() != FRAMES {
        return Some(format!("{} frames decoded", run.psnr.len()));
    }
    if readable && run.numbers != (0..FRAMES).collect::<Vec<_>>() {
        return Some(format!("frames in another order: {:?}", run.numbers));
    }
    let frame = gst::ClockTime::from_mseconds(40);
    let late = run.times.iter().enumerate().find(|(number, time)| {
        // Time bases of formats round.
        let expected = frame * *number as u64;
        time.is_none_or(|time| time.absdiff(expected) > gst::ClockTime::from_mseconds(2))
    });
    late.map(|(number, time)| format!("frame {number} at {time:?}"))
}

/// The first words of an error, for a table.
fn short(text: &str) -> String {
    let line = text.replace('\n', " ").replace('|', "/");
    let reason = line.split("streaming stopped, ").nth(1);
    let end = |text: &str| text.find([']', '[', '(']).unwrap_or(text.len());
    let text = reason.unwrap_or(&line);
    text[..end(text)].trim().chars().take(90).collect()
}

/// The encoders that no Debian package has. (One that is registered twice at the same time may have no factory for a moment.)
fn register() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        init();
        gstrav1e::plugin_register_static().unwrap();
        gstgif::plugin_register_static().unwrap();
    });
}

fn encoders() -> Vec<String> {
    register();
    let kind = gst::ElementFactoryType::VIDEO_ENCODER;
    let factories = gst::ElementFactory::factories_with_type(kind, gst::Rank::NONE);
    // For trying a few by hand.
    let only = std::env::var("ENCODERS").ok();
    let mut names: Vec<String> = factories
        .iter()
        .filter(|factory| {
            let plugin = factory.plugin_name();
            // Neither our own nor those of the tests.
            plugin.is_some_and(|plugin| plugin != "vtparallelenc")
        })
        .map(|factory| factory.name().to_string())
        .filter(|name| name != Y4M && name != GIF)
        .filter(|name| {
            only.as_ref()
                .is_none_or(|only| only.split(',').any(|it| it == name))
        })
        .collect();
    names.sort();
    names
}

#[test]
fn every_installed_encoder() {
    let pictures = synthetic(FRAMES);
    let mut table = Vec::new();
    let mut failures = Vec::new();
    let mut whole = 0;
    for encoder in encoders() {
        let begun = std::time::Instant::now();
        let (properties, caps) = needs(&encoder);
        let plain = run(&pictures, caps, &format!("{encoder} name=enc {properties}"));
        let readable = plain.numbers == (0..FRAMES).collect::<Vec<_>>();
        let excuse = complaint(&plain, readable);
        let mut cells = Vec::new();
        let mut same = "";
        let mut notes = String::new();
        for overlap in ["overlap-before=0 overlap-after=0", ""] {
            let ours = |sessions: u32| {
                let description = format!("{encoder} {properties}");
                run(
                    &pictures,
                    caps,
                    &format!(
                        "vtparallelenc name=enc encoder=\"{}\" sessions={sessions} chunk-frames=20 \
                         min-chunk-frames=5 {overlap}",
                        description.trim()
                    ),
                )
            };
            let three = ours(3);
            let complaint = complaint(&three, readable);
            if let (Some(complaint), None) = (&complaint, &excuse) {
                failures.push(format!("{encoder} {overlap}: {complaint}"));
            }
            if complaint.is_some() {
                cells.push(if excuse.is_some() {
                    "–".to_string()
                } else {
                    "**fails**".to_string()
                });
                continue;
            }
            if excuse.is_some() {
                notes.push_str("works only in chunks; ");
            }
            let stats = three.stats.clone().unwrap();
            if three.mean() < plain.mean() - 6.0 {
                failures.push(format!(
                    "{encoder} {overlap}: {:.1} dB, alone {:.1} dB",
                    three.mean(),
                    plain.mean()
                ));
            }
            if three
                .encoded
                .packets
                .iter()
                .all(|packet| packet.dts.is_some())
            {
                three.encoded.assert_timestamps();
            }
            let one = ours(1);
            let equal = one.encoded.bytes() == three.encoded.bytes();
            let mut deterministic = DETERMINISTIC.iter();
            if deterministic.any(|pattern| matches(pattern, &encoder)) && !equal {
                failures.push(format!("{encoder} {overlap}: 1 and 3 sessions differ"));
            }
            same = if equal { "equal" } else { "differ" };
            let lead = stats.get::<u64>("overlap-before").unwrap();
            let trail = stats.get::<u64>("overlap-after").unwrap();
            cells.push(match stats.get::<String>("sequential-reason") {
                Ok(reason) => {
                    notes = format!("one session: {reason}");
                    format!("{:.1}", three.mean())
                }
                Err(_) => format!("{:.1} ({lead}+{trail})", three.mean()),
            });
            whole += 1;
        }
        let alone = match &excuse {
            Some(excuse) => short(excuse),
            None => format!("{:.1}", plain.mean()),
        };
        let line = format!(
            "| {encoder} | {alone} | {} | {same} | {notes} |",
            cells.join(" | ")
        );
        eprintln!("{line} {:?}", begun.elapsed());
        table.push(line);
    }
    println!(
        "| encoder | alone, dB | chunks, dB | automatic overlap, dB (frames) | bytes of 1 and 3 sessions | |"
    );
    println!("|---|---|---|---|---|---|");
    for line in &table {
        println!("{line}");
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(
        whole > 0 || std::env::var("ENCODERS").is_ok(),
        "not one encoder works"
    );
}

#[test]
fn an_encoder_that_cannot_be_cut_gives_what_it_gives_alone() {
    let pictures = synthetic(FRAMES);
    register();
    for encoder in [Y4M, GIF] {
        let alone = common::pictures::encode(&pictures, &format!("videoconvert ! {encoder}"));
        let ours =
            format!("videoconvert ! vtparallelenc encoder={encoder} sessions=3 chunk-frames=20");
        let ours = common::pictures::encode(&pictures, &ours);
        assert_eq!(ours.packets, alone.packets, "{encoder}");
    }
}
