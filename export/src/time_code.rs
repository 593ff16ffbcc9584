// SPDX-License-Identifier: MPL-2.0

//! The time code of a film's first frame: of a track of its own in QuickTime and MPEG-4 files, which GStreamer doesn't read, or of the
//! frame, where a demuxer or a parser has found it (MXF, H.264's and H.265's pic_timing).
//!
//! Boxes and their fields are those of Apple's QuickTime File Format Specification, "Timecode Media".

use gst_video::{ValidVideoTimeCode, VideoTimeCode, VideoTimeCodeFlags, VideoTimeCodeMeta};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Boxes that tell of a film are no larger.
const LARGEST: u64 = 256 << 20;

/// Of the file's first frame, as editors write it: 01:02:03:04, with a semicolon before the frame where some numbers are dropped.
pub fn of(path: &Path, first: &gst::BufferRef) -> Option<String> {
    let of_frame = || Some(first.meta::<VideoTimeCodeMeta>()?.tc().to_string());
    of_track(path)
        .map(|code| code.to_string())
        .or_else(of_frame)
}

/// The one so many frames later, at this rate.
pub fn later(code: &str, rate: gst::Fraction, frames: u64) -> Option<ValidVideoTimeCode> {
    let mut parts = code.split([':', ';', '.']).map(str::parse::<u32>);
    let mut next = || parts.next()?.ok();
    let (hours, minutes, seconds, frame) = (next()?, next()?, next()?, next()?);
    let flags = match code.contains(';') {
        true => VideoTimeCodeFlags::DROP_FRAME,
        false => VideoTimeCodeFlags::empty(),
    };
    let code = VideoTimeCode::new(rate, None, flags, hours, minutes, seconds, frame, 0);
    let mut code = ValidVideoTimeCode::try_from(code).ok()?;
    code.add_frames(i64::try_from(frames).ok()?);
    Some(code)
}

/// A box's name and content.
fn boxes(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (name, content, size) = split(rest)?;
        rest = &rest[size..];
        Some((name, content))
    })
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let size = usize::try_from(number(bytes, 0)?).ok()?;
    let (start, size) = match size {
        0 => (8, bytes.len()),
        1 => (16, usize::try_from(long(bytes, 8)?).ok()?),
        size => (8, size),
    };
    Some((bytes.get(4..8)?, bytes.get(start..size)?, size))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

fn child<'a>(bytes: &'a [u8], name: &[u8; 4]) -> Option<&'a [u8]> {
    boxes(bytes)
        .find(|(is, _)| is == name)
        .map(|(_, content)| content)
}

fn of_track(path: &Path) -> Option<ValidVideoTimeCode> {
    let mut file = File::open(path).ok()?;
    let movie = movie(&mut file)?;
    let track = boxes(&movie).filter(|(name, _)| *name == b"trak");
    let mut media = track.filter_map(|(_, track)| child(track, b"mdia"));
    let media = media.find(|media| {
        let handler = child(media, b"hdlr").and_then(|it| it.get(8..12));
        handler == Some(b"tmcd")
    })?;
    let table = child(child(media, b"minf")?, b"stbl")?;
    // After the version and the number of entries: size, name, six reserved bytes, the place of the data, four reserved bytes.
    let entry = child(table, b"stsd")?.get(8..)?;
    let flags = number(entry, 20)?;
    let rate = (number(entry, 24)?, number(entry, 28)?);
    let place = match child(table, b"stco") {
        Some(offsets) => u64::from(number(offsets, 8)?),
        None => long(child(table, b"co64")?, 8)?,
    };
    let mut frames = [0; 4];
    file.seek(SeekFrom::Start(place)).ok()?;
    file.read_exact(&mut frames).ok()?;
    let rate = [rate.0, rate.1].map(|it| i32::try_from(it).ok());
    let [Some(numerator @ 1..), Some(denominator @ 1..)] = rate else {
        return None;
    };
    let drops = if flags & 1 == 1 { ";" } else { ":" };
    later(
        &format!("00:00:00{drops}00"),
        gst::Fraction::new(numerator, denominator),
        u32::from_be_bytes(frames).into(),
    )
}

/// What a file says of its tracks; it may stand at its end.
fn movie(file: &mut File) -> Option<Vec<u8>> {
    let mut at = 0;
    loop {
        file.seek(SeekFrom::Start(at)).ok()?;
        let mut head = [0; 16];
        file.read_exact(&mut head).ok()?;
        let (start, size) = match number(&head, 0)? {
            1 => (16, long(&head, 8)?),
            size => (8, u64::from(size)),
        };
        if &head[4..8] == b"moov" && size <= LARGEST {
            let mut movie = vec![0; usize::try_from(size.checked_sub(start)?).ok()?];
            file.seek(SeekFrom::Start(at + start)).ok()?;
            file.read_exact(&mut movie).ok()?;
            return Some(movie);
        }
        // (What isn't such a file ends soon.)
        at = at.checked_add(size).filter(|_| size >= start)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_on() {
        gst::init().unwrap();
        let said = |code, rate: (i32, i32), frames| {
            let code = later(code, gst::Fraction::new(rate.0, rate.1), frames);
            code.map(|code| code.to_string())
        };
        assert_eq!(
            said("01:02:03:04", (25, 1), 25).as_deref(),
            Some("01:02:04:04")
        );
        assert_eq!(
            said("00:00:59;29", (30_000, 1_001), 1).as_deref(),
            Some("00:01:00;02")
        );
        assert_eq!(said("00:00:00:40", (25, 1), 0), None);
        assert_eq!(said("nonsense", (25, 1), 0), None);
    }

    #[test]
    fn what_is_no_such_file_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for content in [
            &b""[..],
            b"\0\0\0\x08free",
            b"\0\0\0\x10moov\0\0\0\xfftrak",
            b"\0\0\0\x01moov\xff\xff\xff\xff\xff\xff\xff\xff",
            &[0; 100],
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(of_track(&path).map(|code| code.to_string()), None);
        }
    }
}
