// SPDX-License-Identifier: MPL-2.0

//! What is made on the way, in a directory: the plan, the chunks that are kept, and for each a record, which is written when the chunk is.

use crate::digest;
use crate::failure::Failure;
use crate::jobs::Step;
use crate::plan::Plan;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{DirEntry, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use vtparallelenc::export::Digest;
use vtparallelenc::export::given::SecondPass;

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
    /// The second pass, if it was one.
    pub pass: Option<Pass>,
}

/// What the second pass over a chunk follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// In bits per second, of all frames that its encoder is fed.
    pub bitrate: u64,
    /// Of the first one's statistics.
    pub digest: String,
    /// That the first one announced.
    pub level: Option<String>,
}

/// The second passes over all chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// The plan's.
    pub plan: String,
    pub passes: Vec<Pass>,
    /// No chunk's encoder takes fewer bits per second.
    pub least: Vec<u64>,
    /// Bytes that the first pass lets expect of each chunk's own frames.
    pub expected: Vec<u64>,
}

/// A first pass that was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FirstPass {
    /// The plan's.
    pub plan: String,
    pub index: usize,
    /// Of what it wrote.
    pub digest: String,
    /// That the encoder announced.
    pub level: Option<String>,
    /// That the job took.
    pub seconds: f64,
}

/// What is written with a checksum.
#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    record: T,
    checksum: String,
}

impl<T: Serialize + DeserializeOwned> Sealed<T> {
    fn write(path: &Path, record: T) -> Result<(), Failure> {
        let checksum = checksum(&record);
        write_whole(path, &Self { record, checksum })
    }

    /// `None`: it isn't there, or damaged.
    fn read(path: &Path) -> Option<T> {
        let text = std::fs::read(path).ok()?;
        let sealed: Self = serde_json::from_slice(&text).ok()?;
        (sealed.checksum == checksum(&sealed.record)).then_some(sealed.record)
    }
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

    /// Something was done for some chunk.
    pub fn has_records(&self) -> bool {
        let steps = [Step::FirstPass, Step::Packets];
        steps.iter().any(|step| !self.written(*step).is_empty())
    }

    /// Chunks of which there is a record, which may be another plan's or damaged. (Directories of network file systems are read anew when they
    /// are opened, and names that weren't there aren't looked for anew for a while.)
    pub fn written(&self, step: Step) -> HashSet<usize> {
        let directory = match step {
            Step::FirstPass => self.passes(),
            Step::Packets => self.0.join("records"),
        };
        let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let index = |file: DirEntry| {
            let name = file.file_name().into_string().ok()?;
            name.strip_suffix(".json")?.parse().ok()
        };
        files.filter_map(index).collect()
    }

    pub fn write_plan(&self, plan: &Plan) -> Result<(), Failure> {
        self.make()?;
        write_whole(&self.plan(), plan)
    }

    pub fn write(&self, record: &Record) -> Result<(), Failure> {
        make_within(&self.0.join("records"))?;
        Sealed::write(&self.record_of(record.index), record.clone())
    }

    /// The record of a chunk, if there is one that is whole, of this plan. `rates`: of its second pass.
    pub fn read(&self, plan: &Plan, rates: Option<&Rates>, index: usize) -> Option<Record> {
        let record: Record = Sealed::read(&self.record_of(index))?;
        let frames = plan.chunks.get(index)?.frames();
        let pass = rates.and_then(|rates| rates.passes.get(index));
        let is_this =
            record.plan == plan.id && record.index == index && record.pass.as_ref() == pass;
        (is_this && record.digests.len() as u64 == frames).then_some(record)
    }

    /// Those of all chunks, as far as they are done.
    pub fn read_all(&self, plan: &Plan) -> Vec<Option<Record>> {
        let rates = self.rates(plan);
        let chunks = 0..plan.chunks.len();
        chunks
            .map(|index| self.read(plan, rates.as_ref(), index))
            .collect()
    }

    fn rates_path(&self) -> PathBuf {
        self.0.join("rates.json")
    }

    pub fn write_rates(&self, rates: &Rates) -> Result<(), Failure> {
        Sealed::write(&self.rates_path(), rates.clone())
    }

    /// How the bits are spread over the chunks, where two passes are made and that is known.
    pub fn rates(&self, plan: &Plan) -> Option<Rates> {
        let rates: Rates = Sealed::read(&self.rates_path())?;
        (rates.plan == plan.id
            && [rates.passes.len(), rates.least.len(), rates.expected.len()]
                .iter()
                .all(|length| *length == plan.chunks.len()))
        .then_some(rates)
    }

    /// What is left to say to each chunk's encoder in the second pass.
    pub fn second_passes(&self, rates: Option<&Rates>) -> Arc<[SecondPass]> {
        let passes = rates.map_or(&[][..], |rates| &rates.passes);
        let passes = passes.iter().enumerate().map(|(index, pass)| SecondPass {
            bitrate: pass.bitrate,
            statistics: self.statistics(index),
            digest: pass.digest.clone(),
            level: pass.level.clone(),
        });
        passes.collect()
    }

    /// Where tasks of other machines write what they say.
    pub fn tasks(&self) -> PathBuf {
        self.0.join("tasks")
    }

    /// It is made anew, as tasks have the same names in each step and run.
    pub fn make_tasks(&self) -> Result<PathBuf, Failure> {
        let tasks = self.tasks();
        let _ = std::fs::remove_dir_all(&tasks);
        let made = std::fs::create_dir_all(&tasks).and_then(|()| std::path::absolute(&tasks));
        made.map_err(|error| Failure::unwritten(&tasks, &error))
    }

    fn passes(&self) -> PathBuf {
        self.0.join("passes")
    }

    /// What the first pass over a chunk wrote. Encoders write more beside it, with longer names.
    pub fn statistics(&self, index: usize) -> PathBuf {
        self.passes().join(format!("{index:06}"))
    }

    fn first_pass_of(&self, index: usize) -> PathBuf {
        self.passes().join(format!("{index:06}.json"))
    }

    /// A directory of one's own, and in it where an encoder may write its statistics.
    pub fn place_for_statistics(&self) -> Result<(TempDir, PathBuf), Failure> {
        let passes = self.passes();
        make_within(&passes)?;
        let directory = TempDir::new_in(&passes);
        let directory = directory.map_err(|error| Failure::unwritten(&passes, &error))?;
        let statistics = directory.path().join(STATISTICS);
        Ok((directory, statistics))
    }

    /// What an encoder wrote there stays.
    pub fn keep_statistics(&self, done: FirstPass, from: &TempDir) -> Result<FirstPass, Failure> {
        let to = self.statistics(done.index);
        let unwritten = |error| Failure::unwritten(&to, &error);
        let digest = digest_of_statistics(from.path(), STATISTICS).map_err(unwritten)?;
        let mut kept = Vec::new();
        for name in names_of_statistics(from.path(), STATISTICS).map_err(unwritten)? {
            let written = from.path().join(&name);
            File::open(&written)
                .and_then(|file| file.sync_all())
                .map_err(unwritten)?;
            let rest = name.strip_prefix(STATISTICS).unwrap_or_default();
            let name = format!("{:06}{rest}", done.index);
            std::fs::rename(written, self.passes().join(&name)).map_err(unwritten)?;
            kept.push(name);
        }
        // Another encoder's, of an earlier plan.
        let name = format!("{:06}", done.index);
        let there = names_of_statistics(&self.passes(), &name).map_err(unwritten)?;
        for other in there.iter().filter(|it| !kept.contains(it)) {
            let _ = std::fs::remove_file(self.passes().join(other));
        }
        let done = FirstPass { digest, ..done };
        Sealed::write(&self.first_pass_of(done.index), done.clone())?;
        Ok(done)
    }

    /// The first pass over a chunk, if it was made and what it wrote is as it was.
    pub fn first_pass(&self, plan: &Plan, index: usize) -> Option<FirstPass> {
        let done: FirstPass = Sealed::read(&self.first_pass_of(index))?;
        let statistics = self.statistics(index);
        let name = statistics.file_name()?.to_str()?;
        let is_this = done.plan == plan.id && done.index == index;
        let digest = is_this.then(|| digest_of_statistics(&self.passes(), name));
        (digest?.ok()? == done.digest).then_some(done)
    }

    /// The chunk isn't done.
    pub fn forget(&self, index: usize) {
        let _ = std::fs::remove_file(self.record_of(index));
    }

    /// What was done is of another plan.
    pub fn clear(&self) {
        let _ = std::fs::remove_dir_all(self.0.join("records"));
        let _ = std::fs::remove_dir_all(self.passes());
        let _ = std::fs::remove_file(self.rates_path());
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

/// The name of what encoders write in a directory of their own.
const STATISTICS: &str = "statistics";

/// Files of this name, or with more after it, that encoders wrote; in their order.
fn names_of_statistics(directory: &Path, name: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for file in std::fs::read_dir(directory)? {
        let file = file?.file_name().into_string().unwrap_or_default();
        let rest = file.strip_prefix(name);
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.') && rest != ".json") {
            names.push(file);
        }
    }
    names.sort();
    Ok(names)
}

fn digest_of_statistics(directory: &Path, name: &str) -> io::Result<String> {
    let mut all = String::new();
    for file in names_of_statistics(directory, name)? {
        all.push_str(file.strip_prefix(name).unwrap_or_default());
        all.push_str(&digest::of_file(&directory.join(&file))?);
    }
    Ok(digest::of_bytes(all.as_bytes()))
}

fn checksum(record: &impl Serialize) -> String {
    // (What was read can be written.)
    digest::of_bytes(&serde_json::to_vec(record).unwrap_or_default())
}

/// A directory in the folder, if that is still there: a machine that was out of reach may come to this when all is over.
fn make_within(directory: &Path) -> Result<(), Failure> {
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Failure::unwritten(directory, &error))
        }
        _ => Ok(()),
    }
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
