// SPDX-License-Identifier: MPL-2.0

//! What is made on the way, in a directory: the plan, the chunks that are kept, and for each a record, which is written when the chunk is.

use crate::digest;
use crate::failure::Failure;
use crate::plan::Plan;
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use vtparallelenc::export::Digest;

/// What is known of a chunk that was encoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The plan's.
    pub plan: String,
    pub index: usize,
    /// Of its own frames.
    pub digests: Vec<String>,
    /// Of the frames after them that its encoder was fed.
    pub trail: Vec<String>,
    /// Bytes of its packets.
    pub bytes: u64,
    /// That the job took.
    pub seconds: f64,
    /// The number of the frame at which decoding began; `None`: at the beginning of the file.
    pub decoded_from: Option<usize>,
}

/// A record as it is written: with a checksum.
#[derive(Serialize, Deserialize)]
struct Sealed {
    record: Record,
    checksum: String,
}

/// The directory.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// Where it is, for an output.
    pub fn beside(output: &Path) -> Self {
        let mut name = output.as_os_str().to_owned();
        name.push(".vtexport");
        Self(name.into())
    }

    /// In a directory for such things.
    pub fn within(directory: &Path, output: &Path) -> Self {
        let name = output.file_name().unwrap_or_default();
        Self::beside(&directory.join(name))
    }

    /// That of a plan.
    pub fn of_plan(plan: &Path) -> Self {
        Self(plan.parent().unwrap_or(Path::new("")).into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn plan(&self) -> PathBuf {
        self.0.join("plan.json")
    }

    /// The element's cache.
    pub fn kept(&self) -> PathBuf {
        self.0.join("chunks")
    }

    fn record_of(&self, index: usize) -> PathBuf {
        self.0.join(format!("records/{index:06}.json"))
    }

    pub fn make(&self) -> Result<(), Failure> {
        let records = self.0.join("records");
        std::fs::create_dir_all(&records).map_err(|error| Failure::unwritten(&records, &error))
    }

    /// Nobody else is at work here for as long as this file is open. `None`: somebody is.
    pub fn lock(&self) -> Result<Option<File>, Failure> {
        self.make()?;
        let path = self.0.join("lock");
        let unwritten = |error| Failure::unwritten(&path, &error);
        let file = File::create(&path).map_err(unwritten)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            // A file system without locks.
            Err(TryLockError::Error(_)) => Ok(Some(file)),
        }
    }

    /// Some chunk was done.
    pub fn has_records(&self) -> bool {
        let records = std::fs::read_dir(self.0.join("records"));
        records.is_ok_and(|mut records| records.next().is_some())
    }

    pub fn write_plan(&self, plan: &Plan) -> Result<(), Failure> {
        self.make()?;
        write_whole(&self.plan(), plan)
    }

    pub fn write(&self, record: &Record) -> Result<(), Failure> {
        self.make()?;
        let sealed = Sealed {
            checksum: checksum(record),
            record: record.clone(),
        };
        write_whole(&self.record_of(record.index), &sealed)
    }

    /// The record of a chunk, if there is one that is whole, of this plan.
    pub fn read(&self, plan: &Plan, index: usize) -> Option<Record> {
        let text = std::fs::read(self.record_of(index)).ok()?;
        let Sealed {
            record,
            checksum: sum,
        } = serde_json::from_slice(&text).ok()?;
        let frames = plan.chunks.get(index)?.frames();
        let is_this = record.plan == plan.id && record.index == index && sum == checksum(&record);
        (is_this && record.digests.len() as u64 == frames).then_some(record)
    }

    /// Those of all chunks, as far as they are done.
    pub fn read_all(&self, plan: &Plan) -> Vec<Option<Record>> {
        let chunks = 0..plan.chunks.len();
        chunks.map(|index| self.read(plan, index)).collect()
    }

    /// The chunk isn't done.
    pub fn forget(&self, index: usize) {
        let _ = std::fs::remove_file(self.record_of(index));
    }

    /// What was done is of another plan.
    pub fn clear(&self) {
        let _ = std::fs::remove_dir_all(self.0.join("records"));
        let _ = std::fs::remove_dir_all(self.kept());
    }

    /// Nothing is needed any more.
    pub fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Record {
    /// Of its own frames, and of those after them.
    pub fn digests(&self) -> Option<(Vec<Digest>, Vec<Digest>)> {
        let parsed = |digests: &[String]| -> Option<Vec<Digest>> {
            digests.iter().map(|it| it.parse().ok()).collect()
        };
        Some((parsed(&self.digests)?, parsed(&self.trail)?))
    }
}

fn checksum(record: &Record) -> String {
    // (What was read can be written.)
    digest::of_bytes(&serde_json::to_vec(record).unwrap_or_default())
}

/// Written beside, synced, and renamed.
fn write_whole(path: &Path, data: &impl Serialize) -> Result<(), Failure> {
    let write = || {
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer(&mut file, data)?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| Failure::unwritten(path, &error))
}

/// A name beside the output, for what isn't whole.
pub fn beside(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".part");
    name.into()
}
