// SPDX-License-Identifier: MPL-2.0

//! What tells one file from another. XXH3: against accidents, not against people.

use crate::failure::Failure;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use twox_hash::XxHash3_128;
use twox_hash::xxhash3_128::Hasher;

/// Bytes of a sample.
const SAMPLE: u64 = 64 << 10;

/// Bytes that are read at once.
const PART: usize = 1 << 20;

/// Samples of a large file, its beginning and its end among them.
const SAMPLES: u64 = 32;

/// File systems round times, each in its way, to two seconds at most.
const ROUNDED_TIME: u64 = 2_000_000_000;

/// Which file it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceId {
    pub path: PathBuf,
    pub bytes: u64,
    /// When it was changed last, in nanoseconds since 1970.
    pub modified: u64,
    /// Of its beginning, its end, and of samples between.
    pub digest: String,
    /// Of all of it, if that was asked for.
    pub full_digest: Option<String>,
}

impl SourceId {
    pub fn of(path: &Path) -> Result<Self, Failure> {
        let metadata = path
            .metadata()
            .map_err(|error| Failure::source_gone(path, &error))?;
        let modified = metadata
            .modified()
            .ok()
            .and_then(|it| it.duration_since(UNIX_EPOCH).ok());
        let modified = modified.map_or(0, |it| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX));
        let digest = of_samples(path, metadata.len());
        Ok(Self {
            path: path.into(),
            bytes: metadata.len(),
            modified,
            digest: digest.map_err(|error| Failure::source_gone(path, &error))?,
            full_digest: None,
        })
    }

    /// It is still that file, or a copy of it, where that may be: its time is another.
    pub fn check(&self, may_be_copy: bool) -> Result<(), Failure> {
        let now = Self::of(&self.path)?;
        if (now.bytes, &now.digest) != (self.bytes, &self.digest) {
            return Err(self.is_another());
        }
        match may_be_copy || now.modified.abs_diff(self.modified) <= ROUNDED_TIME {
            true => Ok(()),
            false => Err(Failure::source(format!(
                "{} was written to since it was planned for, or is a copy. Plan anew; with --source-root copies may be used.",
                self.path.display()
            ))),
        }
    }

    /// It is that file, and wasn't even touched since.
    pub fn is_untouched(&self) -> bool {
        let full_digest = self.full_digest.clone();
        let now = Self::of(&self.path).map(|now| Self { full_digest, ..now });
        now.is_ok_and(|now| now == *self) && self.check_all(false).is_ok()
    }

    /// All of it is as it was, where its digest is known.
    pub fn check_all(&self, may_be_copy: bool) -> Result<(), Failure> {
        self.check(may_be_copy)?;
        let Some(planned) = &self.full_digest else {
            return Ok(());
        };
        let now = of_file(&self.path);
        match now.map_err(|error| Failure::source_gone(&self.path, &error))? == *planned {
            true => Ok(()),
            false => Err(self.is_another()),
        }
    }

    fn is_another(&self) -> Failure {
        Failure::source(format!(
            "{} isn't the file any more that was planned for. Plan anew.",
            self.path.display()
        ))
    }
}

pub fn of_bytes(bytes: &[u8]) -> String {
    format!("{:032x}", XxHash3_128::oneshot(bytes))
}

/// Of samples spread over the file, so that the digest of a film takes no time.
pub fn of_samples(path: &Path, bytes: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut seen = Vec::new();
    let step = bytes.saturating_sub(SAMPLE) / (SAMPLES - 1);
    let starts = (0..SAMPLES).map(|number| number * step);
    if bytes <= SAMPLE * SAMPLES {
        file.read_to_end(&mut seen)?;
        return Ok(of_bytes(&seen));
    }
    for start in starts {
        file.seek(SeekFrom::Start(start))?;
        file.by_ref().take(SAMPLE).read_to_end(&mut seen)?;
    }
    Ok(of_bytes(&seen))
}

/// Of all of a file.
pub fn of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new();
    let mut part = vec![0; PART];
    loop {
        match file.read(&mut part)? {
            0 => return Ok(format!("{:032x}", hasher.finish_128())),
            length => hasher.write(&part[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Code;

    #[test]
    fn a_source_that_changed_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("film");
        let mut bytes: Vec<u8> = (0..6_000_000_u32).map(|it| (it >> 3) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mut source = SourceId::of(&path).unwrap();
        source.full_digest = Some(of_file(&path).unwrap());
        assert!(source.is_untouched() && source.check(false).is_ok());
        let later = SourceId {
            modified: source.modified + 3_000_000_000,
            ..source.clone()
        };
        assert!(later.check(true).is_ok());
        let said = later.check(false).unwrap_err();
        assert_eq!(said.code, Code::Source);
        assert!(said.text.contains("written to since"), "{said}");
        assert_eq!(source.full_digest, Some(of_bytes(&bytes)));
        // Between two samples.
        bytes[150_000] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(source.check(true).is_ok() && !source.is_untouched());
        assert_eq!(source.check_all(true).unwrap_err().code, Code::Source);
        // In one.
        bytes[10] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(source.check(true).unwrap_err().code, Code::Source);
    }
}
