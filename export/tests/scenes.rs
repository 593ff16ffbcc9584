// SPDX-License-Identifier: MPL-2.0

//! Chunks that end at cuts, and encoders by name.

mod common;

use common::command::{done, fails, made_of, packets};
use common::play;
use gst_video::VideoInfo;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use vtexport::range::{Step, decode_all};
use vtexport::scan::scan;
use vtexport::scenes::changes;
use vtparallelenc::export::Lookout;

const FRAMES: usize = 1_500;

/// A film with one cut, before the frame of this number.
fn film(dir: &Path, cut: usize) -> PathBuf {
    let path = dir.join(format!("cut-at-{cut}.mp4"));
    let video = "video/x-raw,format=I420,width=160,height=128,framerate=25/1";
    gst::init().unwrap();
    play(&format!(
        "concat name=c ! x264enc speed-preset=ultrafast key-int-max=50 ! h264parse ! mp4mux ! filesink location={} \
         videotestsrc num-buffers={cut} pattern=ball ! {video} ! c. \
         videotestsrc num-buffers={} pattern=smpte horizontal-speed=1 ! {video} ! c.",
        path.display(),
        FRAMES - cut
    ));
    path
}

/// Where the chunks end.
fn ends(dir: &Path, film: &Path, more: &[&str]) -> Vec<u64> {
    let (plan, film) = ("plan/plan.json", film.to_str().unwrap());
    done(
        dir,
        &[&["plan", film, "-o", "a.mp4", "--plan", plan][..], more].concat(),
    );
    let plan = std::fs::read(dir.join(plan)).unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&plan).unwrap();
    let chunks = plan["chunks"].as_array().unwrap().iter();
    chunks
        .map(|chunk| chunk["own"][1].as_u64().unwrap())
        .collect()
}

#[test]
fn chunks_end_at_cuts_if_asked() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let options = ["--jobs", "2", "--threads", "1", "--video", "h264-low"];
    let by_length = ends(dir, &film(dir, 100), &options);
    assert!(by_length.len() > 1, "{by_length:?}");
    // (From there on, the encoder makes a key frame at another place than where the chunk ended.)
    let cut = by_length[0] as usize - 20;
    let film = film(dir, cut);
    assert_eq!(ends(dir, &film, &options), by_length);
    let options = [&options[..], &["--scene-cuts"]].concat();
    let at_cuts = ends(dir, &film, &options);
    assert_eq!(at_cuts[0], cut as u64, "{at_cuts:?}");
    let made = packets(&made_of(dir, &film, "a.mp4", &options), "v");
    assert_eq!(made.len(), FRAMES);
    let at_cut = made.iter().filter(|packet| packet.contains("\"K"));
    let time = format!("\"{:.6}\"", cut as f64 / 25.0);
    assert!(at_cut.clone().any(|it| it.starts_with(&time)), "{time}");
    let said = fails(
        dir,
        &[
            "plan",
            "a.mp4",
            "-o",
            "b.mp4",
            "--scene-cuts",
            "--chunk-frames",
            "9",
        ],
        2,
    );
    assert!(said.contains("cannot be used with"), "{said}");
}

#[test]
fn ranges_differ_as_the_whole_does() {
    let dir = tempfile::tempdir().unwrap();
    let film = film(dir.path(), FRAMES / 2 + 1);
    let scanned = scan(&film, 0).unwrap();
    let mut lookout = None;
    let mut info = None;
    let mut expected = Vec::new();
    decode_all(&film, 0, |step| {
        if let Step::Picture(_, sample) = step {
            let caps = VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
            let lookout = lookout.get_or_insert_with(|| Lookout::new(&caps).unwrap());
            expected.push(lookout.look(sample.buffer().unwrap()));
            info = Some(caps);
        }
        Ok(())
    })
    .unwrap();
    let info = info.unwrap();
    let goes_on = AtomicBool::new(false);
    let all = changes(&film, 0, &scanned, &info, 0..FRAMES, &goes_on).unwrap();
    assert_eq!(all.len(), FRAMES);
    assert!(all == expected);
    let part = changes(&film, 0, &scanned, &info, 700..800, &goes_on).unwrap();
    assert_eq!(part[0], None);
    assert!(part[1].is_some());
    // (Its second one doesn't know of a flash before it.)
    assert!(part[2..] == expected[702..800]);
}

#[test]
fn encoders_have_names() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let film = dir.join("film.mp4");
    gst::init().unwrap();
    play(&format!(
        "videotestsrc num-buffers=20 ! video/x-raw,format=I420,width=160,height=128 ! x264enc ! mp4mux ! filesink location={}",
        film.display()
    ));
    let of = |output: &str, name: &str| {
        let output = made_of(dir, &film, output, &["--video", name]);
        packets(&output, "v").len()
    };
    for (output, name) in [
        ("a.mp4", "h264-low"),
        ("a.mkv", "h265-low"),
        ("a.webm", "vp8"),
        ("a.webm", "vp9"),
        ("a.mov", "prores"),
        ("a.mkv", "lossless"),
    ] {
        assert_eq!(of(output, name), 20, "{name}");
    }
    let sized = ["--video", "vp9", "--file-length-limit", "20kB"];
    let sized = made_of(dir, &film, "b.webm", &sized);
    assert!(sized.metadata().unwrap().len() <= 20_000);
    let film = film.to_str().unwrap();
    let said = fails(dir, &[film, "-o", "c.webm", "--video", "h264"], 78);
    assert!(said.contains("takes no H.264"), "{said}");
}
