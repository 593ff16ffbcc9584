// SPDX-License-Identifier: MPL-2.0

//! Chunks that are kept: a run that was killed goes on where it was, and one after an edit encodes what was edited.

mod common;

use common::{End, Output, Pipeline, app_src, constant, gray, record, scripted_pipeline};
use gst::prelude::*;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Six chunks of ten.
const FRAMES: u64 = 60;
const SCRIPT: &str = "bframes=2 look-ahead=3";

struct Run {
    output: Output,
    stats: gst::Structure,
    warnings: Vec<String>,
}

impl Run {
    fn cached(&self) -> u64 {
        self.stats.get("chunks-from-cache").unwrap()
    }
}

fn properties(cache: Option<&Path>, more: &str) -> String {
    let location = cache.map_or(String::new(), |dir| {
        format!("cache-location={}", dir.display())
    });
    format!("sessions=2 chunk-frames=10 min-chunk-frames=4 {location} {more}")
}

/// Encodes frames with these numbers.
fn run_numbers(cache: Option<&Path>, more: &str, script: &str, numbers: &[u64]) -> Run {
    let pipeline = scripted_pipeline(&format!(
        "vtparallelenc name=enc {} encoder=\"scriptedenc {script}\"",
        properties(cache, more)
    ));
    let warnings = pipeline.warnings();
    let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
    let src = app_src(&pipeline);
    for (&number, time) in numbers.iter().zip(constant(numbers.len() as u64)) {
        src.push_buffer(gray(number, time)).unwrap();
    }
    src.end_of_stream().unwrap();
    pipeline.run().expect_eos();
    let stats = pipeline.stats();
    pipeline.set_state(gst::State::Null).unwrap();
    let warnings = warnings.lock().unwrap().clone();
    Run {
        output: output.lock().unwrap().clone(),
        stats,
        warnings,
    }
}

fn run(cache: Option<&Path>, more: &str, script: &str) -> Run {
    run_numbers(cache, more, script, &(0..FRAMES).collect::<Vec<_>>())
}

fn chunks(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Packets, caps and tags are the same.
fn assert_same(is: &Run, should: &Run, what: &str) {
    assert_eq!(is.output.packets, should.output.packets, "{what}");
    let told = |run: &Run| -> Vec<String> {
        let events = run.output.events.iter();
        let told = events.filter_map(|event| match event.view() {
            gst::EventView::Caps(caps) => Some(caps.caps().to_string()),
            gst::EventView::Tag(tag) => Some(format!("{:?} {}", tag.tag().scope(), tag.tag())),
            _ => None,
        });
        told.collect()
    };
    assert_eq!(told(is), told(should), "{what}");
    assert!(is.warnings.is_empty(), "{what}: {:?}", is.warnings);
}

#[test]
fn what_was_encoded_once_is_not_encoded_again() {
    for script in [SCRIPT, "", "skip-every=7", "look-ahead=30 bframes=1"] {
        for more in [
            "",
            "overlap-before=8 overlap-after=8",
            "sessions=1",
            "sessions=4",
        ] {
            let what = format!("{script} {more}");
            let dir = tempfile::tempdir().unwrap();
            let plain = run(None, more, script);
            let first = run(Some(dir.path()), more, script);
            assert_eq!(first.cached(), 0, "{what}");
            assert_same(&first, &plain, &what);
            assert_eq!(chunks(dir.path()).len(), 6, "{what}");
            let again = run(Some(dir.path()), more, script);
            assert_eq!(again.cached(), 6, "{what}: {}", again.stats);
            assert_same(&again, &plain, &what);
            // The number of sessions isn't in it.
            let more = format!("{more} sessions=3");
            assert_eq!(run(Some(dir.path()), &more, script).cached(), 6, "{what}");
        }
    }
}

#[test]
fn after_an_edit_only_what_changed_is_encoded() {
    let dir = tempfile::tempdir().unwrap();
    let numbers: Vec<u64> = (0..FRAMES).collect();
    run_numbers(Some(dir.path()), "", SCRIPT, &numbers);
    let mut edited = numbers.clone();
    edited[25] = 1_000;
    let plain = run_numbers(None, "", SCRIPT, &edited);
    let resumed = run_numbers(Some(dir.path()), "", SCRIPT, &edited);
    assert_eq!(resumed.cached(), 5);
    assert_same(&resumed, &plain, "an edited frame");
    // Two chunks are cut out: the others are the same, at other times.
    let cut: Vec<u64> = (0..10).chain(30..FRAMES).collect();
    let plain = run_numbers(None, "", SCRIPT, &cut);
    let resumed = run_numbers(Some(dir.path()), "", SCRIPT, &cut);
    assert_eq!(resumed.cached(), 4);
    assert_same(&resumed, &plain, "frames cut out");
}

#[test]
fn whatever_makes_other_bits_makes_another_chunk() {
    let dir = tempfile::tempdir().unwrap();
    run(Some(dir.path()), "", SCRIPT);
    for (more, script) in [
        ("", "bframes=2 look-ahead=3 bitrate=9"),
        ("", "bframes=1 look-ahead=3"),
        ("chunk-frames=11", SCRIPT),
        ("overlap-before=2", SCRIPT),
    ] {
        let other = run(Some(dir.path()), more, script);
        // (The first chunk has nothing before it.)
        assert!(other.cached() <= 1, "{more} {script}: {}", other.stats);
        assert_same(&other, &run(None, more, script), more);
    }
}

#[test]
fn a_damaged_file_is_encoded_again() {
    let dir = tempfile::tempdir().unwrap();
    let plain = run(None, "", SCRIPT);
    run(Some(dir.path()), "", SCRIPT);
    let files = chunks(dir.path());
    assert_eq!(files.len(), 6);
    let damage: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        },
        Vec::clear,
        |bytes| bytes.extend(b"more"),
    ];
    for (file, damage) in files.iter().zip(damage) {
        let mut bytes = std::fs::read(file).unwrap();
        damage(&mut bytes);
        std::fs::write(file, &bytes).unwrap();
    }
    let again = run(Some(dir.path()), "", SCRIPT);
    assert_eq!(again.cached(), 2);
    assert_same(&again, &plain, "damaged files");
    assert_eq!(
        run(Some(dir.path()), "", SCRIPT).cached(),
        6,
        "they were mended"
    );
}

#[test]
fn a_file_that_lies_is_encoded_again() {
    // Whole, under its own key, but of an encoder that lost a frame when it was made: nothing is trusted for being there.
    let dir = tempfile::tempdir().unwrap();
    run(Some(dir.path()), "", SCRIPT);
    let files = chunks(dir.path());
    // One chunk under the name of another.
    std::fs::copy(&files[0], &files[1]).unwrap();
    let again = run(Some(dir.path()), "", SCRIPT);
    assert_eq!(again.cached(), 5);
    assert_same(
        &again,
        &run(None, "", SCRIPT),
        "a file under another's name",
    );
}

#[test]
fn a_cache_that_cannot_be_written_costs_nothing_but_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"not a directory").unwrap();
    for place in [
        file.clone(),
        file.join("below"),
        PathBuf::from("/proc/nowhere"),
    ] {
        let plain = run(None, "", SCRIPT);
        let run = run(Some(&place), "", SCRIPT);
        assert_eq!(run.output.packets, plain.output.packets);
        assert_eq!(run.warnings.len(), 1, "{:?}", run.warnings);
        assert!(
            run.warnings[0].contains("cache-location"),
            "{:?}",
            run.warnings
        );
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"not a directory");
}

#[test]
fn a_small_bound_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    run(Some(dir.path()), "", SCRIPT);
    let sizes = || -> Vec<u64> {
        let files = chunks(dir.path());
        let sizes = files
            .iter()
            .map(|file| std::fs::metadata(file).unwrap().len());
        sizes.collect()
    };
    let bound = sizes().iter().max().unwrap() * 3;
    let plain = run(None, "", SCRIPT);
    let bounded = run(
        Some(dir.path()),
        &format!("cache-max-bytes={bound}"),
        SCRIPT,
    );
    assert_same(&bounded, &plain, "a bound");
    assert!(sizes().iter().sum::<u64>() <= bound, "{:?}", sizes());
}

#[test]
fn pipelines_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let plain = run(None, "", SCRIPT);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert_same(&run(Some(dir.path()), "", SCRIPT), &plain, "at once");
                }
            });
        }
    });
    assert_eq!(run(Some(dir.path()), "", SCRIPT).cached(), 6);
}

#[test]
fn a_failed_attempt_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("{SCRIPT} failure=cache-fails fault=lose@frame fault-frame=25");
    let first = run(Some(dir.path()), "", &script);
    assert_eq!(first.stats.get::<u64>("attempts-failed").unwrap(), 1);
    let again = run(Some(dir.path()), "", &script);
    assert_eq!(again.cached(), 6);
    assert_eq!(again.output.packets, run(None, "", SCRIPT).output.packets);
}

#[test]
fn what_is_held_while_input_stands_still_leaves_all_the_same() {
    // As behind a muxer that waits for this branch. Nothing is begun before it is whole, so the chunk ends where it is.
    let dir = tempfile::tempdir().unwrap();
    let pipeline = scripted_pipeline(&format!(
        "vtparallelenc name=enc {} encoder=\"scriptedenc {SCRIPT}\"",
        properties(Some(dir.path()), "")
    ));
    let sink = pipeline.element("sink").static_pad("sink").unwrap();
    let (sender, left) = std::sync::mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    sink.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let _ = sender.lock().unwrap().send(());
        gst::PadProbeReturn::Ok
    });
    let output = record(&sink);
    let src = app_src(&pipeline);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for (number, time) in constant(FRAMES).into_iter().enumerate() {
                if number == 7 {
                    left.recv().unwrap();
                }
                src.push_buffer(gray(number as u64, time)).unwrap();
            }
            src.end_of_stream().unwrap();
        });
        pipeline.run().expect_eos();
    });
    let mut frames: Vec<_> = output.lock().unwrap().frames();
    frames.sort_unstable();
    assert_eq!(frames, (0..FRAMES).collect::<Vec<_>>());
}

#[test]
fn a_stream_that_cannot_be_cut_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let alone = run(Some(dir.path()), "allow-parallel=false", "");
        assert_eq!(alone.cached(), 0);
        assert_eq!(alone.output.packets.len() as u64, FRAMES);
        assert_eq!(chunks(dir.path()), [] as [PathBuf; 0]);
    }
}

#[test]
fn a_killed_export_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let export = |file: &Path, cache: Option<&Path>| {
        let mut launch = common::tool(dir.path(), "gst-launch-1.0");
        let before = "-q videotestsrc num-buffers=400 pattern=ball ! video/x-raw,width=320,height=240,framerate=25/1 ! \
                      vtparallelenc sessions=2 chunk-frames=20";
        let after = "! video/x-h264,stream-format=byte-stream ! filesink";
        launch.args(before.split_whitespace());
        if let Some(cache) = cache {
            launch.arg(format!("cache-location={}", cache.display()));
        }
        launch
            // (x264's macroblock tree isn't deterministic on some machines.)
            .arg("encoder=x264enc option-string=no-mbtree=1")
            .args(after.split_whitespace())
            .arg(format!("location={}", file.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        launch
    };
    let reference = dir.path().join("reference.h264");
    let start = std::time::Instant::now();
    let made = export(&reference, None).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let whole = start.elapsed();
    let should = std::fs::read(&reference).unwrap();
    assert!(!should.is_empty());

    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut resumed = 0;
    for kill in 0..10 {
        let cache = dir.path().join(format!("cache{kill}"));
        let file = dir.path().join("killed.h264");
        let mut killed = export(&file, Some(&cache)).spawn().unwrap();
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        // At a random moment of its life.
        std::thread::sleep(whole.mul_f64((seed % 1_000) as f64 / 1_000.0));
        let _ = killed.kill();
        let _ = killed.wait();
        let is_chunk = |file: &PathBuf| file.extension().is_some_and(|it| it == "vtchunk");
        let kept = match cache.exists() {
            true => chunks(&cache).iter().filter(|file| is_chunk(file)).count(),
            false => 0,
        };
        resumed += usize::from(kept > 0);
        let what = format!("seed {seed:x}, {kept} chunks");
        let made = export(&file, Some(&cache)).output().unwrap();
        assert!(made.status.success(), "{what}: {made:?}");
        assert!(std::fs::read(&file).unwrap() == should, "{what}");
        // All of it is there now.
        assert_eq!(
            chunks(&cache).into_iter().filter(is_chunk).count(),
            20,
            "{what}"
        );
    }
    assert!(resumed > 0, "nothing was ever kept");
}

#[test]
fn real_encoders_come_back_the_same() {
    for encoder in [
        "x264enc option-string=no-mbtree=1 threads=1",
        "x265enc",
        "vp8enc",
        "vp9enc cpu-used=8 deadline=1",
        "theoraenc",
        "jpegenc",
        "openh264enc",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let encode = |cache: bool| -> (Output, u64) {
            let cache = match cache {
                true => format!("cache-location={}", dir.path().display()),
                false => String::new(),
            };
            let pipeline = Pipeline::parse(&format!(
                "videotestsrc num-buffers=60 pattern=ball ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 ! \
                 vtparallelenc name=enc sessions=2 chunk-frames=20 {cache} encoder=\"{encoder}\" ! fakesink name=sink sync=false"
            ));
            let output = record(&pipeline.element("sink").static_pad("sink").unwrap());
            let end = pipeline.run();
            assert!(matches!(end, End::Eos), "{encoder}: {end:?}");
            let cached = pipeline.stats().get("chunks-from-cache").unwrap();
            pipeline.set_state(gst::State::Null).unwrap();
            (output.lock().unwrap().clone(), cached)
        };
        let (plain, _) = encode(false);
        let (first, cached) = encode(true);
        assert_eq!(cached, 0, "{encoder}");
        let (again, cached) = encode(true);
        assert_eq!(cached, 3, "{encoder}");
        assert!(first.packets == again.packets, "{encoder}");
        assert!(plain.packets == again.packets, "{encoder}");
    }
}
