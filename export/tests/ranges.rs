// SPDX-License-Identifier: MPL-2.0

//! A range of a file is decoded as it is in the whole, pixel by pixel, whatever the container and the codec.

mod common;

use common::{BFRAMES, X264, decoded, hash, made, made_by_ffmpeg};
use std::path::Path;
use vtexport::range::{RangeError, Start, Step, decode};
use vtexport::scan::scan;

/// Pictures of each range.
const RANGE: usize = 13;

/// Decodes a file in ranges, and compares each with the whole. Where each began in the end.
fn in_ranges(path: &Path) -> Vec<Start> {
    let whole: Vec<u64> = decoded(path).into_iter().map(|(_, hash)| hash).collect();
    let scan = scan(path, 0).unwrap();
    let mut starts = Vec::new();
    // The last ones first: nothing is left of one for the next.
    for first in (0..whole.len()).step_by(RANGE).rev() {
        let range = first..(first + RANGE).min(whole.len());
        let mut pictures = Vec::new();
        let start = decode(path, 0, &scan, range.clone(), |step| {
            match step {
                Step::Begins(_) => pictures.clear(),
                Step::Skipped => assert!(pictures.is_empty()),
                Step::Picture(number, sample) => {
                    pictures.push((
                        number,
                        hash(sample.buffer().unwrap(), sample.caps().unwrap()),
                    ));
                }
            }
            Ok(())
        });
        let start = start.unwrap_or_else(|error| panic!("{} {range:?}: {error}", path.display()));
        let expected: Vec<_> = range
            .clone()
            .map(|number| (number, whole[number]))
            .collect();
        assert!(
            pictures == expected,
            "{} {range:?} from {start:?}",
            path.display()
        );
        starts.push(start);
    }
    starts.reverse();
    starts
}

/// None but the ranges in the first group of pictures begins at the beginning.
fn begin_at_keys(path: &Path) {
    let starts = in_ranges(path);
    let scan = scan(path, 0).unwrap();
    for (index, start) in starts.iter().enumerate() {
        let before = &scan.pictures[..=index * RANGE];
        let key = before.iter().rposition(|picture| picture.is_key).unwrap();
        let expected = if key == 0 {
            Start::Beginning
        } else {
            Start::Key(key)
        };
        assert_eq!(*start, expected, "{} range {index}", path.display());
    }
}

#[test]
fn files_with_times() {
    gst::init().unwrap();
    let dir = tempfile::tempdir().unwrap();
    begin_at_keys(&made(dir.path(), "b.mp4", 75, &format!("{X264} ! mp4mux")));
    begin_at_keys(&made(
        dir.path(),
        "b.mkv",
        75,
        &format!("{X264} ! matroskamux"),
    ));
    let kinds = [
        (
            "hevc.mp4",
            "-c:v libx265 -x265-params log-level=0:keyint=20:open-gop=1",
        ),
        (
            "fragments.mp4",
            "-c:v libx264 -bf 3 -g 20 -movflags frag_keyframe+empty_moov",
        ),
        ("prores.mov", "-c:v prores_ks -pix_fmt yuv422p10le"),
        ("intra.avi", "-c:v huffyuv -pix_fmt yuv422p"),
        ("ffv1.mkv", "-c:v ffv1 -g 12"),
        (
            "vp8.webm",
            "-c:v libvpx -g 20 -auto-alt-ref 1 -lag-in-frames 10",
        ),
        (
            "vp9.webm",
            "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 20",
        ),
    ];
    for (name, encoder) in kinds {
        begin_at_keys(&made_by_ffmpeg(dir.path(), name, encoder));
    }
}

/// Containers without an index, and times that vary: right, wherever it begins.
#[test]
fn files_that_are_hard_to_seek_in() {
    gst::init().unwrap();
    let dir = tempfile::tempdir().unwrap();
    in_ranges(&made(
        dir.path(),
        "varies.mkv",
        100,
        &format!("identity drop-probability=0.3 ! {X264} ! matroskamux"),
    ));
    let kinds = [
        // (Not every decoder goes on at each key frame of an open GOP.)
        ("open.mp4", "-c:v libx264 -bf 3 -g 20 -x264opts open-gop=1"),
        ("mpeg2.ts", "-c:v mpeg2video -bf 2 -g 15"),
        ("b.ts", BFRAMES),
        ("open.ts", "-c:v libx264 -bf 3 -g 20 -x264opts open-gop=1"),
        ("b.flv", BFRAMES),
        ("b.m2ts", BFRAMES),
        ("v.wmv", "-c:v wmv2 -g 15"),
        ("v.ogv", "-c:v libtheora -g 20"),
        ("v.ivf", "-c:v libvpx -g 20"),
    ];
    for (name, encoder) in kinds {
        let starts = in_ranges(&made_by_ffmpeg(dir.path(), name, encoder));
        println!("{name}: {starts:?}");
    }
}

/// Without times, from the beginning, and counted.
#[test]
fn files_without_times() {
    gst::init().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let kinds = [
        ("b.avi", BFRAMES),
        ("mpeg4.avi", "-c:v mpeg4 -bf 2 -g 20"),
        ("v.vob", "-c:v mpeg2video -bf 2 -g 15"),
        ("v.m2v", "-c:v mpeg2video -bf 2"),
        ("b.h264", BFRAMES),
    ];
    for (name, encoder) in kinds {
        let starts = in_ranges(&made_by_ffmpeg(dir.path(), name, encoder));
        assert!(
            starts.iter().all(|start| *start == Start::Beginning),
            "{name}"
        );
    }
}

/// Another file than the one that was scanned: it is noticed that its pictures are others.
#[test]
fn a_file_that_has_changed() {
    gst::init().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = made(dir.path(), "b.mp4", 75, &format!("{X264} ! mp4mux"));
    let planned = scan(&path, 0).unwrap();
    made(
        dir.path(),
        "b.mp4",
        50,
        &format!("videorate ! video/x-raw,framerate=10/1 ! {X264} ! mp4mux"),
    );
    let mut begun = 0;
    let result = decode(&path, 0, &planned, 60..70, |step| {
        begun += usize::from(matches!(step, Step::Begins(_)));
        Ok(())
    });
    assert!(
        matches!(result, Err(RangeError::Differs { number: 60, .. })),
        "{result:?}"
    );
    // Two key frames, and the beginning.
    assert_eq!(begun, 3);
}

/// Who waits for a range hears of each picture that is decoded on the way, however long that is.
#[test]
fn what_is_decoded_on_the_way_is_told() {
    gst::init().unwrap();
    let dir = tempfile::tempdir().unwrap();
    // One key frame, at the beginning.
    let path = made(
        dir.path(),
        "long.mp4",
        75,
        "x264enc key-int-max=1000 speed-preset=ultrafast ! mp4mux",
    );
    let mut came = Vec::new();
    decode(&path, 0, &scan(&path, 0).unwrap(), 60..62, |step| {
        came.push(match step {
            Step::Begins(_) => 'b',
            Step::Skipped => 's',
            Step::Picture(..) => 'p',
        });
        Ok(())
    })
    .unwrap();
    let came: String = came.into_iter().collect();
    assert_eq!(came, format!("b{}pp", "s".repeat(60)));
}
