// SPDX-License-Identifier: MPL-2.0

//! The directory that chunks are kept in, each in a file that is named after its key.
//!
//! Files are written beside, synced and renamed, so under a key there is a whole file or none, whoever is killed. Nothing
//! is locked: processes that share the directory see each other's files appear and vanish, and a file that is open stays readable.
//!
//! A directory of many files takes long to list, so each process lists it when it opens it, counts what it puts there itself, and
//! lists it again only when the count passes the bound. Then the files go that were not used for the longest time, and a tenth of the bound
//! with them, so that the next put doesn't list it again. Until then, processes that share the directory may pass the bound together.
//!
//! The directory may hold files of others. Ours are known by name, kind, owner and first bytes; only such are read, replaced or
//! removed. The directory itself may be a link (the user named it); what is in it may not.

use super::format::{self, Damage};
use super::key::Key;
use super::recording::Recording;
use parking_lot::Mutex;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Seek};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use thiserror::Error;

const SUFFIX: &str = ".vtchunk";
const TEMPORARY_PREFIX: &str = ".vtchunk-";
const TEMPORARY_SUFFIX: &str = ".part";

/// Nobody writes a file for so long: who began it is gone.
const STALE: Duration = Duration::from_secs(60 * 60);

/// One part in so many of the bound is left free when files have to go.
const SPARE: u64 = 10;

/// The directory.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    /// Of all chunks together; 0 means no bound.
    max_bytes: u64,
    /// Bytes of all chunks: those that the last listing found, and those that were put since. Unused where there is no bound.
    used: Mutex<u64>,
    /// How often the directory was listed, and how many files were looked at for that.
    #[cfg(test)]
    looks: [std::sync::atomic::AtomicUsize; 2],
}

/// Why a file isn't used.
#[derive(Debug, Error)]
pub(crate) enum Unusable {
    #[error("{0}")]
    Damage(#[from] Damage),
    #[error("it isn't a file of this cache: {0}")]
    NotOurs(&'static str),
    #[error("it can't be read: {0}")]
    Unreadable(#[from] io::Error),
}

impl Files {
    /// Makes the directory if it isn't there, removes what was left half written, and what is beyond the bound. A directory that
    /// can only be read serves as well, until something is put there.
    pub(crate) fn open(dir: &Path, max_bytes: u64) -> io::Result<Self> {
        // The application may change its working directory.
        let dir = std::path::absolute(dir)?;
        create_private(&dir)?;
        let files = Self {
            dir,
            max_bytes,
            // Should it not be listed here, the first put lists it.
            used: Mutex::new(max_bytes),
            #[cfg(test)]
            looks: Default::default(),
        };
        for listed in files.list(is_temporary_name)? {
            if listed.modified.elapsed().is_ok_and(|age| age > STALE) {
                let _ = remove_own(&listed.path);
            }
        }
        if max_bytes != 0 {
            let _ = files.trim(&mut files.used.lock(), None);
        }
        Ok(files)
    }

    /// What is kept under the key, if anything is. An error: encode the chunk, and say why. The file is gone then, if it is one of ours.
    pub(crate) fn get(&self, key: Key) -> Result<Option<Recording>, Unusable> {
        let path = self.path(key);
        let (file, metadata) = match open_own(&path) {
            Err(Unusable::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            opened => opened?,
        };
        let recording = read(&file, &metadata, key).inspect_err(|unusable| {
            if matches!(unusable, Unusable::Damage(_)) && is_same(&path, &metadata) {
                let _ = fs::remove_file(&path);
            }
        })?;
        // Used last, so it goes last. On a disk that can't be written nothing goes.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(recording))
    }

    /// What is larger than the bound by itself isn't kept, and that isn't an error.
    pub(crate) fn put(&self, key: Key, recording: &Recording) -> io::Result<()> {
        let size = recording.size()?;
        if self.is_beyond_bound(size) {
            return Ok(());
        }
        let path = self.path(key);
        let replaced = self.replaced_size(&path)?;
        let named = tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .suffix(TEMPORARY_SUFFIX)
            .tempfile_in(&self.dir)?;
        let file = named.as_file();
        recording.write(key, BufWriter::new(file))?;
        // By the same clock as for a hit; that of the file system is coarser.
        let _ = file.set_modified(SystemTime::now());
        file.sync_all()?;
        named.persist(&path).map_err(|failed| failed.error)?;
        sync_directory(&self.dir);
        // Held while others are counted: what two sessions count at once is less than what both have put there.
        let mut used = self.used.lock();
        *used = used.saturating_sub(replaced).saturating_add(size);
        if self.is_beyond_bound(*used) {
            self.trim(&mut used, Some(&path))?;
        }
        Ok(())
    }

    fn is_beyond_bound(&self, bytes: u64) -> bool {
        self.max_bytes != 0 && bytes > self.max_bytes
    }

    fn path(&self, key: Key) -> PathBuf {
        self.dir.join(format!("{key}{SUFFIX}"))
    }

    /// Bytes of the chunk that is there already. An error if it isn't ours, as renaming replaces whatever is there.
    fn replaced_size(&self, path: &Path) -> io::Result<u64> {
        match open_own(path) {
            Ok((_, metadata)) => Ok(metadata.len()),
            Err(Unusable::NotOurs(why)) => Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} isn't a file of this cache: {why}", path.display()),
            )),
            Err(_) => Ok(0),
        }
    }

    /// Counts again, as other processes may have put files there or removed some. If it is too much, removes the oldest until the
    /// others leave room for more. `kept` was just written, and stays.
    fn trim(&self, used: &mut u64, kept: Option<&Path>) -> io::Result<()> {
        let mut files = self.list(is_chunk_name)?;
        let mut total: u64 = files.iter().map(|file| file.size).sum();
        let mut removed = Ok(());
        if total > self.max_bytes {
            let target = self.max_bytes - self.max_bytes / SPARE;
            files.sort_by(|a, b| (a.modified, &a.path).cmp(&(b.modified, &b.path)));
            for file in files {
                if total <= target || removed.is_err() {
                    break;
                }
                if kept != Some(&file.path) {
                    removed = remove_own(&file.path);
                    // Not ours, or removed by another process: neither counts.
                    total -= file.size;
                }
            }
        }
        *used = total;
        removed
    }

    /// Files that bear such a name. What vanishes meanwhile is left out.
    fn list(&self, has_name: fn(&str) -> bool) -> io::Result<Vec<Listed>> {
        #[cfg(test)]
        self.count_look(0);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(has_name) {
                continue;
            }
            #[cfg(test)]
            self.count_look(1);
            // Of a link this is its own.
            let Some(metadata) = entry.metadata().ok().filter(Metadata::is_file) else {
                continue;
            };
            files.push(Listed {
                modified: metadata.modified()?,
                size: metadata.len(),
                path: entry.path(),
            });
        }
        Ok(files)
    }
}

struct Listed {
    modified: SystemTime,
    size: u64,
    path: PathBuf,
}

fn is_chunk_name(name: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    name.strip_suffix(SUFFIX)
        .is_some_and(|key| key.len() == 2 * size_of::<Key>() && key.bytes().all(is_digit))
}

fn is_temporary_name(name: &str) -> bool {
    name.starts_with(TEMPORARY_PREFIX) && name.ends_with(TEMPORARY_SUFFIX)
}

/// Opens a file if it is ours: the name is looked at before, all else here.
fn open_own(path: &Path) -> Result<(File, Metadata), Unusable> {
    const NO_FILE: Unusable = Unusable::NotOurs("it is a link, a directory or a device");
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(NO_FILE);
    }
    let mut file = open_unfollowed(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(NO_FILE);
    }
    if let Some(why) = belongs_to_others(&metadata) {
        return Err(Unusable::NotOurs(why));
    }
    let mut first = Vec::new();
    Read::by_ref(&mut file)
        .take(format::MAGIC.len() as u64)
        .read_to_end(&mut first)?;
    // One that was cut off sooner is ours too.
    if !format::MAGIC.starts_with(&first) {
        return Err(Unusable::NotOurs("it doesn't begin as one"));
    }
    file.rewind()?;
    Ok((file, metadata))
}

fn read(mut file: &File, metadata: &Metadata, key: Key) -> Result<Recording, Unusable> {
    let mut bytes = Vec::new();
    file.take(format::HEAD as u64).read_to_end(&mut bytes)?;
    // Before memory is taken for all of it.
    if format::length_by_head(&bytes, key)? != metadata.len() {
        return Err(Damage::Length.into());
    }
    file.read_to_end(&mut bytes)?;
    Ok(Recording::decode(&bytes, key)?)
}

/// Removes a file that has our kind of name, if it is ours. Fine if it is gone.
fn remove_own(path: &Path) -> io::Result<()> {
    match open_own(path) {
        Ok((file, metadata)) if is_same(path, &metadata) => {
            // Windows removes what nobody has open.
            drop(file);
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn create_private(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(dir)
}

/// Doesn't wait for the other end either, if there is a pipe instead of a file.
#[cfg(unix)]
fn open_unfollowed(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut options = File::options();
    options
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
}

#[cfg(not(unix))]
fn open_unfollowed(path: &Path) -> io::Result<File> {
    // Setting the time of a file takes the right to write to it.
    let writable = File::options().read(true).write(true).open(path);
    writable.or_else(|_| File::open(path))
}

/// Why somebody else may have written the file.
#[cfg(unix)]
fn belongs_to_others(metadata: &Metadata) -> Option<&'static str> {
    use std::os::unix::fs::MetadataExt;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Some("it is another user's");
    }
    (metadata.mode() & 0o022 != 0).then_some("others may write to it")
}

#[cfg(not(unix))]
fn belongs_to_others(_: &Metadata) -> Option<&'static str> {
    None
}

/// There is still the file that was opened: another process may have put a whole one there since.
#[cfg(unix)]
fn is_same(path: &Path, opened: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path)
        .is_ok_and(|now| (now.dev(), now.ino()) == (opened.dev(), opened.ino()))
}

#[cfg(not(unix))]
fn is_same(_: &Path, _: &Metadata) -> bool {
    true
}

/// So that the new name outlives a power cut. Some file systems can't, and then the chunk is encoded again.
fn sync_directory(dir: &Path) {
    if cfg!(unix) {
        let _ = File::open(dir).and_then(|dir| dir.sync_all());
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::tests::{KEY, file_of, key, recording};
    use super::*;
    use std::sync::atomic::Ordering;
    use tempfile::{TempDir, tempdir};

    impl Files {
        pub(super) fn count_look(&self, at: usize) {
            self.looks[at].fetch_add(1, Ordering::SeqCst);
        }

        /// Listings of the directory, and files looked at for them, since this was asked last.
        fn looks(&self) -> [usize; 2] {
            self.looks
                .each_ref()
                .map(|looks| looks.swap(0, Ordering::SeqCst))
        }
    }

    fn open(dir: &TempDir) -> Files {
        Files::open(dir.path(), 0).unwrap()
    }

    fn is_hit(files: &Files, key: Key) -> bool {
        matches!(files.get(key), Ok(Some(_)))
    }

    /// Names in the directory, sorted.
    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// As if it had been used so many seconds ago.
    fn age(path: &Path, seconds: u64) {
        let then = SystemTime::now() - Duration::from_secs(seconds);
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_modified(then).unwrap();
    }

    #[test]
    fn a_chunk_comes_back() {
        let dir = tempdir().unwrap();
        let files = open(&dir);
        assert!(matches!(files.get(KEY), Ok(None)));
        files.put(KEY, &recording(3000)).unwrap();
        files.put(KEY, &recording(5000)).unwrap();
        let again = Files::open(dir.path(), 0).unwrap();
        let Ok(Some(found)) = again.get(KEY) else {
            panic!("it is there");
        };
        assert_eq!(found, recording(5000));
        assert!(matches!(files.get(key(8)), Ok(None)));
        assert_eq!(names(dir.path()), [format!("{KEY}.vtchunk")]);
    }

    #[test]
    fn a_chunk_under_the_name_of_another_is_refused() {
        let dir = tempdir().unwrap();
        let files = open(&dir);
        files.put(KEY, &recording(30)).unwrap();
        fs::rename(files.path(KEY), files.path(key(8))).unwrap();
        let Err(Unusable::Damage(damage)) = files.get(key(8)) else {
            panic!("it is another chunk");
        };
        assert_eq!(damage, Damage::OtherKey(KEY));
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_file_that_was_cut_off_anywhere_is_found_out_and_removed() {
        let dir = tempdir().unwrap();
        let files = open(&dir);
        let whole = file_of(&recording(60));
        for length in 0..whole.len() {
            private(&files.path(KEY), &whole[..length]);
            assert!(files.get(KEY).is_err(), "{length}");
            assert!(matches!(files.get(KEY), Ok(None)), "{length}");
        }
        files.put(KEY, &recording(60)).unwrap();
        assert!(is_hit(&files, KEY));
    }

    #[test]
    fn a_byte_that_was_altered_anywhere_is_found_out() {
        let dir = tempdir().unwrap();
        let files = open(&dir);
        let whole = file_of(&recording(60));
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 0x10;
            private(&files.path(KEY), &altered);
            assert!(files.get(KEY).is_err(), "{at}");
            // What doesn't begin as one of ours may be somebody's.
            let is_kept = at < format::MAGIC.len();
            assert_eq!(files.path(KEY).exists(), is_kept, "{at}");
        }
    }

    /// Writes as the cache does.
    fn private(path: &Path, bytes: &[u8]) {
        let _ = fs::remove_file(path);
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap()).unwrap();
        io::Write::write_all(&mut file, bytes).unwrap();
        file.persist(path).unwrap();
    }

    #[test]
    fn files_of_others_are_never_removed_nor_replaced() {
        let dir = tempdir().unwrap();
        let of_others = [
            "notes.txt".to_string(),
            "x.vtchunk".to_string(),
            format!("{KEY}.vtchunk"),
            format!("{TEMPORARY_PREFIX}notes{TEMPORARY_SUFFIX}"),
        ];
        for name in &of_others {
            let path = dir.path().join(name);
            private(&path, b"not a chunk at all");
            age(&path, 100_000);
        }
        // Begins as one of ours, and has another name.
        private(&dir.path().join("copy.vtchunk"), &file_of(&recording(9)));
        let files = Files::open(dir.path(), 1).unwrap();
        let found = files.get(KEY);
        assert!(matches!(found, Err(Unusable::NotOurs(_))), "{found:?}");
        let refused = files.put(KEY, &recording(9));
        assert!(refused.is_ok(), "it is larger than the bound");
        let files = Files::open(dir.path(), 1000).unwrap();
        let refused = files.put(KEY, &recording(9)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        for number in 10..30 {
            files.put(key(number), &recording(400)).unwrap();
        }
        for name in of_others {
            let content = fs::read(dir.path().join(&name)).unwrap();
            assert_eq!(content, b"not a chunk at all", "{name}");
        }
        assert!(dir.path().join("copy.vtchunk").exists());
    }

    #[cfg(unix)]
    #[test]
    fn files_are_private_and_what_others_may_write_isnt_trusted() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let dir = tempdir().unwrap();
        let below = dir.path().join("made/too");
        let files = Files::open(&below, 0).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&below), 0o700);
        assert_eq!(mode(&dir.path().join("made")), 0o700);
        files.put(KEY, &recording(30)).unwrap();
        let path = files.path(KEY);
        assert_eq!(mode(&path), 0o600);
        for (mode, is_ours) in [(0o620, false), (0o602, false), (0o644, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_hit(&files, KEY), is_ours, "{mode:o}");
            assert!(path.exists());
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_arent_followed_nor_removed() {
        let dir = tempdir().unwrap();
        let elsewhere = tempdir().unwrap();
        let there = open(&elsewhere);
        there.put(KEY, &recording(30)).unwrap();
        let files = Files::open(dir.path(), 500).unwrap();
        let link = files.path(KEY);
        std::os::unix::fs::symlink(there.path(KEY), &link).unwrap();
        let found = files.get(KEY);
        assert!(matches!(found, Err(Unusable::NotOurs(_))), "{found:?}");
        assert!(files.put(KEY, &recording(30)).is_err());
        assert!(open_unfollowed(&link).is_err());
        for number in 10..15 {
            files.put(key(number), &recording(300)).unwrap();
        }
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(is_hit(&there, KEY));
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_in_place_of_a_file_doesnt_hang() {
        let dir = tempdir().unwrap();
        let files = open(&dir);
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            files.path(KEY),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        );
        made.unwrap();
        assert!(matches!(files.get(KEY), Err(Unusable::NotOurs(_))));
        // As if it had come between looking and opening.
        assert!(open_unfollowed(&files.path(KEY)).is_ok());
    }

    #[test]
    fn the_one_that_was_used_least_recently_goes_first() {
        let dir = tempdir().unwrap();
        let size = recording(1000).size().unwrap();
        // Three, with the spare room.
        let files = Files::open(dir.path(), 3 * size + size / 2).unwrap();
        for number in 1..=3 {
            files.put(key(number), &recording(1000)).unwrap();
            age(&files.path(key(number)), 100 - u64::from(number));
        }
        assert!(is_hit(&files, key(1)));
        files.put(key(4), &recording(1000)).unwrap();
        let are_there = |numbers: &[u8]| {
            let expected = numbers
                .iter()
                .map(|&number| format!("{}.vtchunk", key(number)));
            assert_eq!(names(dir.path()), expected.collect::<Vec<_>>());
        };
        are_there(&[1, 3, 4]);
        age(&files.path(key(1)), 10);
        files.put(key(5), &recording(2000)).unwrap();
        are_there(&[4, 5]);
        // What was just written stays, even if the clock was set back since the others were.
        let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
        for number in [4, 5] {
            let file = File::options().write(true).open(files.path(key(number)));
            file.unwrap().set_modified(tomorrow).unwrap();
        }
        files.put(key(3), &recording(1000)).unwrap();
        are_there(&[3, 5]);
        files.put(key(4), &recording(1000)).unwrap();
        are_there(&[4, 5]);
        files.put(key(6), &recording(10_000)).unwrap();
        are_there(&[4, 5]);
        // A lower bound holds at once.
        Files::open(dir.path(), size).unwrap();
        are_there(&[]);
    }

    #[test]
    fn to_keep_a_chunk_takes_no_longer_the_more_there_are() {
        const CHUNKS: u16 = 5_000;
        // In memory, where there is such a place: a disk takes half a minute to sync all of them.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempdir());
        let dir = dir.unwrap();
        let number = |number: u16| {
            let mut bytes = [0; 16];
            bytes[..2].copy_from_slice(&number.to_be_bytes());
            Key::from_bytes(bytes)
        };
        let size = recording(100).size().unwrap();
        let put = |files: &Files, numbers: std::ops::Range<u16>| {
            for at in numbers {
                files.put(number(at), &recording(100)).unwrap();
            }
        };
        let total = || names(dir.path()).len() as u64 * size;

        let files = Files::open(dir.path(), u64::from(CHUNKS) * size).unwrap();
        files.looks();
        put(&files, 0..CHUNKS);
        assert_eq!(files.looks(), [0, 0]);
        assert_eq!(total(), u64::from(CHUNKS) * size);

        // Where there is no room for all, a tenth of them goes at once.
        let bound = 500;
        let files = Files::open(dir.path(), bound * size).unwrap();
        assert!(total() <= bound * size);
        files.looks();
        put(&files, 0..1_000);
        let [listings, files_looked_at] = files.looks();
        assert!((15..=25).contains(&listings), "{listings}");
        assert!(files_looked_at <= 12 * 1_000, "{files_looked_at}");
        assert!(total() <= bound * size);
        // A chunk that is kept again takes no more room than before.
        put(&files, 999..1_000);
        files.looks();
        for _ in 0..100 {
            put(&files, 999..1_000);
        }
        assert_eq!(files.looks(), [0, 0]);
    }

    #[test]
    fn what_was_left_half_written_is_removed_when_it_is_old() {
        let dir = tempdir().unwrap();
        let whole = file_of(&recording(100));
        let path = |name: &str| {
            dir.path()
                .join(format!("{TEMPORARY_PREFIX}{name}{TEMPORARY_SUFFIX}"))
        };
        for (name, length, seconds) in [("old", 50, 4000), ("empty", 0, 4000), ("new", 50, 3000)] {
            private(&path(name), &whole[..length]);
            age(&path(name), seconds);
        }
        open(&dir);
        assert_eq!(names(dir.path()), [".vtchunk-new.part"]);
    }

    #[test]
    fn a_place_where_nothing_can_be_written_is_an_error() {
        let dir = tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Files::open(&file, 0).is_err());
        assert!(Files::open(&file.join("below"), 0).is_err());
        // Taken away meanwhile.
        let gone = dir.path().join("gone");
        let files = Files::open(&gone, 1000).unwrap();
        fs::remove_dir(&gone).unwrap();
        assert!(files.put(KEY, &recording(30)).is_err());
        assert!(matches!(files.get(KEY), Ok(None)));
        fs::write(&gone, "").unwrap();
        assert!(files.put(KEY, &recording(30)).is_err());
        assert!(matches!(files.get(KEY), Err(Unusable::Unreadable(_))));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_directory_that_can_only_be_read_is_an_error_to_put() {
        let files = Files::open(Path::new("/proc/self"), 1000).unwrap();
        assert!(matches!(files.get(KEY), Ok(None)));
        assert!(files.put(KEY, &recording(30)).is_err());
    }

    /// Where in the child the directory is.
    #[cfg(unix)]
    const CHILD: &str = "VTPARALLELENC_TEST_CACHE_CHILD";

    /// This test again, in a process of its own.
    #[cfg(unix)]
    fn child(test: &str, before: &str, dir: &Path) -> std::process::Command {
        let mut child = std::process::Command::new("sh");
        child
            .args([
                "-c",
                &format!("{before} exec \"$0\" --exact \"$1\" --nocapture"),
            ])
            .arg(std::env::current_exe().unwrap())
            .arg(format!("cache::files::tests::{test}"))
            .env(CHILD, dir);
        child
    }

    /// A limit on the size of files stops a write in the middle, as a full disk does.
    #[cfg(unix)]
    #[test]
    fn a_full_disk_is_an_error_and_leaves_nothing() {
        if let Some(dir) = std::env::var_os(CHILD) {
            let files = Files::open(Path::new(&dir), 0).unwrap();
            files.put(key(1), &recording(100)).unwrap();
            let failed = files.put(KEY, &recording(1_000_000)).unwrap_err();
            assert_eq!(failed.kind(), io::ErrorKind::FileTooLarge, "{failed}");
            assert!(matches!(files.get(KEY), Ok(None)));
            assert!(is_hit(&files, key(1)));
            return;
        }
        let dir = tempdir().unwrap();
        let limited = "trap '' XFSZ; ulimit -f 8;";
        let this_test = "a_full_disk_is_an_error_and_leaves_nothing";
        let child = child(this_test, limited, dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&child.stdout).into_owned();
        assert!(child.status.success(), "{said}");
        assert!(said.contains("1 passed"), "{said}");
        assert_eq!(names(dir.path()), [format!("{}.vtchunk", key(1))]);
    }

    #[cfg(unix)]
    #[test]
    fn who_is_killed_leaves_whole_chunks() {
        use std::io::BufRead;
        const PUT: &str = "put";
        if let Some(dir) = std::env::var_os(CHILD) {
            let files = Files::open(Path::new(&dir), 0).unwrap();
            // Until it is killed; not for ever, should nobody do that.
            for number in (1..200).cycle().take(20_000) {
                files.put(key(number), &recording(100_000)).unwrap();
                println!("{PUT}");
            }
            return;
        }
        for round in 1..8 {
            let dir = tempdir().unwrap();
            let mut child = child("who_is_killed_leaves_whole_chunks", "", dir.path())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let lines = io::BufReader::new(child.stdout.take().unwrap()).lines();
            let put = lines.filter(|line| line.as_ref().is_ok_and(|line| line.ends_with(PUT)));
            assert_eq!(put.take(round).count(), round);
            child.kill().unwrap();
            child.wait().unwrap();
            let files = open(&dir);
            let chunks = names(dir.path())
                .iter()
                .filter(|name| is_chunk_name(name))
                .count();
            assert!(chunks >= round);
            for number in 1..=chunks {
                assert!(is_hit(&files, key(number as u8)), "{number} of {chunks}");
            }
        }
    }

    #[test]
    fn a_directory_can_be_shared() {
        const KEYS: u8 = 6;
        let dir = tempdir().unwrap();
        let length = |number: u8| 500 + 100 * usize::from(number);
        let share = |thread: u8| {
            // Room for half of them, so that they are removed all the time. Each has the directory to itself, it thinks.
            let files = Files::open(dir.path(), 3000).unwrap();
            let mut hits = 0;
            for round in 0..60 {
                let number = round * (thread + 1) % KEYS;
                match files.get(key(number)) {
                    Ok(Some(found)) => {
                        assert_eq!(found, recording(length(number)));
                        hits += 1;
                    }
                    Ok(None) => (),
                    Err(why) => panic!("{why}"),
                }
                files.put(key(number), &recording(length(number))).unwrap();
            }
            hits
        };
        let hits: u32 = std::thread::scope(|scope| {
            let share = &share;
            let threads: Vec<_> = (0..4).map(|it| scope.spawn(move || share(it))).collect();
            threads.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert!(hits > 0);
        assert!(names(dir.path()).iter().all(|name| is_chunk_name(name)));
    }
}
