// SPDX-License-Identifier: MPL-2.0

//! What an encoder made of a chunk, as the bytes of a file.
//!
//! ```text
//! magic 8 │ version 4 │ key 16 │ length of the entries 8 │ entries … │ checksum 16
//! ```
//!
//! Numbers are little-endian. The entries are in postcard's format, one after another without a count: nothing in a file says how
//! much memory to take but what is there. The checksum (XXH3, 128 bits) is over all before it. It tells accidents; who can
//! write to the user's files needs no forged chunk.

use super::key::Key;
use super::recording::Recording;
use std::io::{self, Write};
use thiserror::Error;
use twox_hash::xxhash3_128::Hasher;

/// What a file begins with. As PNG does it: not text, and another one where line ends were "corrected".
pub(super) const MAGIC: &[u8; 8] = b"\x89VTC\r\n\x1a\n";

/// Counts the formats. It is in the keys as well, so files in another format aren't found.
pub(super) const VERSION: u32 = 1;

pub(super) const HEAD: usize = MAGIC.len() + 4 + KEY + 8;
const KEY: usize = size_of::<Key>();
const CHECKSUM: usize = 16;

/// Why a file isn't used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Damage {
    #[error("it isn't a chunk")]
    Magic,
    #[error("it is in format {0}, {VERSION} is expected")]
    Version(u32),
    #[error("it is the chunk with the key {0}")]
    OtherKey(Key),
    #[error("it was truncated or something was added to it")]
    Length,
    #[error("it was altered")]
    Checksum,
    /// The sum is right.
    #[error("its entries can't be read: {0}")]
    Entries(postcard::Error),
}

/// The length that the file should have, by its first [`HEAD`] bytes.
pub(super) fn length_by_head(head: &[u8], key: Key) -> Result<u64, Damage> {
    let mut rest = head;
    if take(&mut rest)? != *MAGIC {
        return Err(Damage::Magic);
    }
    let version = u32::from_le_bytes(take(&mut rest)?);
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    let inside = Key::from_bytes(take(&mut rest)?);
    if inside != key {
        return Err(Damage::OtherKey(inside));
    }
    let length = u64::from_le_bytes(take(&mut rest)?);
    length
        .checked_add((HEAD + CHECKSUM) as u64)
        .ok_or(Damage::Length)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Damage> {
    let (taken, after) = rest.split_first_chunk().ok_or(Damage::Length)?;
    *rest = after;
    Ok(*taken)
}

impl Recording {
    /// Whatever the bytes are: gives a recording, or says what is wrong, and takes no more memory than a few times their length.
    pub(crate) fn decode(file: &[u8], key: Key) -> Result<Self, Damage> {
        if length_by_head(file, key)? != file.len() as u64 {
            return Err(Damage::Length);
        }
        let (summed, checksum) = file.split_last_chunk().ok_or(Damage::Length)?;
        if Hasher::oneshot(summed).to_le_bytes() != *checksum {
            return Err(Damage::Checksum);
        }
        let mut rest = summed.get(HEAD..).ok_or(Damage::Length)?;
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (entry, after) = postcard::take_from_bytes(rest).map_err(Damage::Entries)?;
            entries.push(entry);
            rest = after;
        }
        Ok(Self { entries })
    }

    /// How long its file is.
    pub(crate) fn size(&self) -> io::Result<u64> {
        self.entries_as_bytes()
            .try_fold((HEAD + CHECKSUM) as u64, |size, entry| {
                Ok(size + entry?.len() as u64)
            })
    }

    /// Writes its file. No more than one entry at a time is in memory a second time.
    pub(crate) fn write(&self, key: Key, mut out: impl Write) -> io::Result<()> {
        let length = self.size()? - (HEAD + CHECKSUM) as u64;
        let mut sum = Hasher::new();
        let mut write = |bytes: &[u8]| {
            sum.write(bytes);
            out.write_all(bytes)
        };
        write(MAGIC)?;
        write(&VERSION.to_le_bytes())?;
        write(key.as_bytes())?;
        write(&length.to_le_bytes())?;
        for entry in self.entries_as_bytes() {
            write(&entry?)?;
        }
        out.write_all(&sum.finish_128().to_le_bytes())?;
        out.flush()
    }

    fn entries_as_bytes(&self) -> impl Iterator<Item = io::Result<Vec<u8>>> {
        let entries = self.entries.iter().map(postcard::to_stdvec);
        entries.map(|entry| entry.map_err(io::Error::other))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::recording::{Entry, Packet};
    use super::*;
    use proptest::prelude::*;
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    /// Counts what a thread takes, freed or not.
    struct Counting;

    thread_local! {
        static TAKEN: Cell<usize> = const { Cell::new(0) };
    }

    fn count(size: usize) {
        // A thread that ends may still take some.
        let _ = TAKEN.try_with(|taken| taken.set(taken.get().saturating_add(size)));
    }

    // SAFETY: all is done by the system's.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count(layout.size());
            // SAFETY: as the caller promises.
            unsafe { System.alloc(layout) }
        }

        unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            count(size);
            // SAFETY: as the caller promises.
            unsafe { System.realloc(at, layout, size) }
        }

        unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
            // SAFETY: as the caller promises.
            unsafe { System.dealloc(at, layout) }
        }
    }

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    pub(in crate::cache) const KEY: Key = key(7);

    pub(in crate::cache) const fn key(number: u8) -> Key {
        Key::from_bytes([number; 16])
    }

    pub(in crate::cache) fn packet(bytes: &[u8]) -> Entry {
        Entry::Packet(Packet {
            pts: Some(40_000_000),
            dts: Some(-40_000_000),
            duration: Some(40_000_000),
            flags: 1 << 13,
            offsets: Some([7, u64::MAX]),
            metas: vec!["meta, of=it;".to_string()],
            bytes: glib::Bytes::from(bytes),
        })
    }

    pub(in crate::cache) fn recording(length: usize) -> Recording {
        let bytes: Vec<u8> = (0..length).map(|at| at as u8).collect();
        Recording {
            entries: vec![
                Entry::Caps("video/x-h264".to_string()),
                Entry::Tags {
                    text: "taglist, video-codec=(string)H.264".to_string(),
                    is_global: false,
                },
                packet(&bytes),
                Entry::Skipped(80_000_000),
            ],
        }
    }

    pub(in crate::cache) fn file_of(recording: &Recording) -> Vec<u8> {
        let mut file = Vec::new();
        recording.write(KEY, &mut file).unwrap();
        file
    }

    /// A file with these bytes for entries, and all else right.
    fn file_with(entries: &[u8]) -> Vec<u8> {
        let mut file = file_of(&Recording::default());
        file.truncate(HEAD);
        file[HEAD - 8..].copy_from_slice(&(entries.len() as u64).to_le_bytes());
        file.extend(entries);
        let sum = Hasher::oneshot(&file);
        file.extend(sum.to_le_bytes());
        file
    }

    /// What it gives, and that it took no more than is in proportion.
    fn decode(file: &[u8]) -> Result<Recording, Damage> {
        // The shortest entry is two bytes long, and a list that grows was taken twice.
        let bound = 4096 + file.len() * 2 * size_of::<Entry>();
        let before = TAKEN.get();
        let decoded = Recording::decode(file, KEY);
        let taken = TAKEN.get() - before;
        assert!(taken <= bound, "{taken} bytes for {}", file.len());
        decoded
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let bytes = prop::collection::vec(any::<u8>(), 0..200);
        let packet = (
            any::<[Option<i64>; 2]>(),
            any::<Option<u64>>(),
            any::<u32>(),
            bytes,
        );
        prop_oneof![
            "\\PC{0,20}".prop_map(Entry::Caps),
            ("\\PC{0,20}", any::<bool>())
                .prop_map(|(text, is_global)| Entry::Tags { text, is_global }),
            any::<u64>().prop_map(Entry::Skipped),
            packet.prop_map(
                |([pts, dts], duration, flags, bytes)| Entry::Packet(Packet {
                    pts,
                    dts,
                    duration,
                    flags,
                    offsets: (flags % 2 == 0).then_some([flags.into(), 1]),
                    metas: Vec::new(),
                    bytes: glib::Bytes::from_owned(bytes),
                })
            ),
        ]
    }

    fn any_recording() -> impl Strategy<Value = Recording> {
        let entries = prop::collection::vec(entry(), 0..12);
        entries.prop_map(|entries| Recording { entries })
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let file = file_of(&recording(100));
        let altered = |at: usize| {
            let mut file = file.clone();
            file[at] ^= 1;
            decode(&file).unwrap_err()
        };
        assert_eq!(altered(0), Damage::Magic);
        assert_eq!(altered(8), Damage::Version(VERSION ^ 1));
        assert!(matches!(altered(12), Damage::OtherKey(_)));
        assert_eq!(altered(28), Damage::Length);
        assert_eq!(altered(HEAD), Damage::Checksum);
        assert_eq!(altered(file.len() - 1), Damage::Checksum);
        assert_eq!(decode(&file[..file.len() - 1]), Err(Damage::Length));
        assert_eq!(
            decode(&[file.as_slice(), &[0]].concat()),
            Err(Damage::Length)
        );
        assert_eq!(decode(&[]), Err(Damage::Length));
        let other = Recording::decode(&file, key(8));
        assert_eq!(other, Err(Damage::OtherKey(KEY)));
        assert!(matches!(decode(&file_with(&[9])), Err(Damage::Entries(_))));
    }

    #[test]
    fn a_length_that_an_entry_claims_takes_no_memory() {
        const HUGE: [u8; 10] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        const LARGE: [u8; 5] = [0xff, 0xff, 0xff, 0xff, 7];
        let (caps, no_times) = ([0], [2, 0, 0, 0, 0]);
        for length in [&HUGE[..], &LARGE] {
            for entry in [&caps[..], &no_times] {
                let file = file_with(&[entry, length].concat());
                assert!(matches!(decode(&file), Err(Damage::Entries(_))));
            }
        }
        // As many as fit.
        let most = file_with(&[3, 0].repeat(10_000));
        assert_eq!(decode(&most).unwrap().entries.len(), 10_000);
    }

    #[test]
    fn packets_are_taken_and_given_without_a_copy() {
        gst::init().unwrap();
        let buffer = gst::Buffer::from_slice([1; 100]);
        let at = buffer.map_readable().unwrap().as_ptr();
        let bytes = glib::Bytes::from_owned(buffer.into_mapped_buffer_readable().unwrap());
        assert_eq!(bytes.as_ref().as_ptr(), at);
        let again = gst::Buffer::from_slice(bytes);
        assert_eq!(again.map_readable().unwrap().as_ptr(), at);
    }

    #[test]
    fn why_writing_fails_is_said() {
        let mut room = [0; 200];
        let failed = recording(1000).write(KEY, &mut room[..]).unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::WriteZero);
    }

    proptest! {
        #[test]
        fn a_recording_comes_back(recording in any_recording()) {
            let file = file_of(&recording);
            prop_assert_eq!(recording.size().unwrap(), file.len() as u64);
            prop_assert_eq!(decode(&file), Ok(recording));
        }

        #[test]
        fn an_altered_file_is_refused_or_the_same(
            recording in any_recording(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
            tail in prop::collection::vec(any::<u8>(), 0..4),
        ) {
            let mut file = file_of(&recording);
            for (at, byte) in changes {
                let at = at.index(file.len());
                file[at] = byte;
            }
            if let Some(cut) = cut {
                file.truncate(cut.index(file.len()));
            }
            file.extend(tail);
            prop_assert!(decode(&file).map_or(true, |decoded| decoded == recording));
        }

        #[test]
        fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&bytes).is_err());
        }

        /// As of one who knows how to make a sum.
        #[test]
        fn any_entries_with_the_right_sum_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&file_with(&bytes));
        }

        #[test]
        fn altered_entries_with_the_right_sum_do_no_harm(
            recording in any_recording(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let file = file_of(&recording);
            let mut entries = file[HEAD..file.len() - CHECKSUM].to_vec();
            if !entries.is_empty() {
                let at = at.index(entries.len());
                entries[at] = byte;
            }
            let _ = decode(&file_with(&entries));
        }
    }
}
