// SPDX-License-Identifier: MPL-2.0

//! What tells one file from another. XXH3: against accidents, not against people.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use twox_hash::XxHash3_128;
use twox_hash::xxhash3_128::Hasher;

/// Bytes of a sample.
const SAMPLE: u64 = 64 << 10;

/// Bytes that are read at once.
const PART: usize = 1 << 20;

/// Samples of a large file, its beginning and its end among them.
const SAMPLES: u64 = 32;

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
