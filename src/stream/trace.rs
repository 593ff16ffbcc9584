// SPDX-License-Identifier: MPL-2.0

//! The timeline: what each session did when, as trace events that Perfetto and chrome://tracing open.
//!
//! The file is an array of events, one in a line. It is written as it goes on, and readers take an array without its end (Trace Event
//! Format, the JSON array format), but not one that ends within an event. A process that is killed may leave a part of a write, but no part
//! of a page: so no line goes over the edge of one, and what is left of a page is blanks.
//!
//! Phases are written when they end. What is shorter than a millisecond isn't, where there may be one for each frame.

use super::shared::Shared;
use crate::clock;
use gst::prelude::*;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Waits for frames and memory that are shorter aren't written, in nanoseconds.
pub(super) const SHORTEST: u64 = 1_000_000;

/// What is held is written no more often than this, in nanoseconds.
const SAMPLES: u64 = 50_000_000;

/// Written at least so often, in nanoseconds.
const FLUSH: u64 = 1_000_000_000;

/// So long somebody else may be writing: a disk that hangs costs the timeline and nothing else.
const PATIENCE: Duration = Duration::from_millis(500);

/// Bytes of a page, on most machines; a part of one on others.
const PAGE: usize = 4096;

/// Of the title: no line is longer than a page.
const LONGEST_TITLE: usize = 200;

/// Rows of the timeline.
const INPUT: u64 = 1;
const SESSIONS: u64 = 10;

/// What a session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waiting for a chunk.
    Idle,
    Opening,
    Lead,
    Own,
    Trail,
    /// The chunk's next frame hasn't come.
    Waiting,
    Draining,
    Closing,
    /// Reading or writing the cache.
    Cache,
    /// Its encoder hangs, and it was given up.
    Hung,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Idle => "no chunk",
            Self::Opening => "opening",
            Self::Lead => "lead",
            Self::Own => "own frames",
            Self::Trail => "trail",
            Self::Waiting => "waiting for frames",
            Self::Draining => "draining",
            Self::Closing => "closing",
            Self::Cache => "cache",
            Self::Hung => "hung",
        }
    }
}

/// Of a session, since it began.
#[derive(Debug, Clone, Copy)]
struct Track {
    phase: Phase,
    since: u64,
    of: Option<Of>,
}

/// The attempt that a phase belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Of {
    pub(super) chunk: u64,
    pub(super) attempt: u32,
}

/// An event as it is written. Times are in microseconds.
#[derive(Serialize)]
struct Event<'a, A> {
    name: &'a str,
    ph: &'static str,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<A>,
}

#[derive(Serialize)]
struct Name<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Labels {
    labels: &'static str,
}

#[derive(Serialize)]
struct Sample {
    value: u64,
}

/// A file that is being written.
pub(super) struct Trace {
    file: File,
    /// Less than a page that isn't written yet.
    page: Vec<u8>,
    /// Time zero.
    start: u64,
    written: u64,
    sampled: Option<u64>,
    tracks: Vec<Track>,
}

impl Trace {
    /// Nobody else may read it: it says what somebody encodes, and when.
    pub(super) fn create(path: &Path, title: &str, now: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            let flags = rustix::fs::OFlags::NOFOLLOW;
            options.mode(0o600).custom_flags(flags.bits().cast_signed());
        }
        let file = options.open(path)?;
        #[cfg(unix)]
        {
            // One that was there may have been anybody's to read.
            use std::os::unix::fs::PermissionsExt;
            file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        }
        let mut trace = Self {
            file,
            page: b"[\n".to_vec(),
            start: now,
            written: now,
            sampled: None,
            tracks: Vec::new(),
        };
        let title: String = title.chars().take(LONGEST_TITLE).collect();
        trace.name("process_name", None, &title)?;
        trace.name("thread_name", Some(INPUT), "input")?;
        trace.write(now)?;
        Ok(trace)
    }

    fn name(&mut self, what: &str, tid: Option<u64>, name: &str) -> io::Result<()> {
        let args = Some(Name { name });
        self.push(what, "M", tid, None, args)
    }

    /// A line more. `times`: when it begins and how long it takes.
    fn push<A: Serialize>(
        &mut self,
        name: &str,
        ph: &'static str,
        tid: Option<u64>,
        times: Option<(u64, Option<u64>)>,
        args: Option<A>,
    ) -> io::Result<()> {
        let micros = |time: u64| time as f64 / 1000.0;
        let event = Event {
            name,
            ph,
            pid: 1,
            tid,
            ts: times.map(|(at, _)| micros(at.saturating_sub(self.start))),
            dur: times.and_then(|(_, takes)| takes).map(micros),
            args,
        };
        let mut line = serde_json::to_vec(&event)?;
        line.extend_from_slice(b",\n");
        if self.page.len() + line.len() >= PAGE {
            self.write(self.written)?;
        }
        self.page.extend_from_slice(&line);
        Ok(())
    }

    /// The page, up to its edge.
    fn write(&mut self, now: u64) -> io::Result<()> {
        self.written = now;
        if self.page.is_empty() {
            return Ok(());
        }
        self.page.resize(PAGE - 1, b' ');
        self.page.push(b'\n');
        let written = self.file.write_all(&self.page);
        self.page.clear();
        written
    }

    fn written(&mut self, now: u64) -> io::Result<()> {
        match now.saturating_sub(self.written) >= FLUSH {
            true => self.write(now),
            false => Ok(()),
        }
    }

    /// The session begins another phase.
    pub(super) fn phase(
        &mut self,
        session: usize,
        phase: Phase,
        of: Option<Of>,
        now: u64,
    ) -> io::Result<()> {
        while self.tracks.len() <= session {
            let id = self.tracks.len();
            let name = format!("session {id}");
            self.name("thread_name", Some(SESSIONS + id as u64), &name)?;
            self.tracks.push(Track {
                phase: Phase::Idle,
                since: now,
                of: None,
            });
        }
        let track = self.tracks[session];
        // Whoever was given up comes back late.
        if track.phase == Phase::Hung || (track.phase, track.of) == (phase, of) {
            return Ok(());
        }
        self.end_phase(session, now)?;
        self.tracks[session] = Track {
            phase,
            since: now,
            of,
        };
        self.written(now)
    }

    fn end_phase(&mut self, session: usize, now: u64) -> io::Result<()> {
        let Track { phase, since, of } = self.tracks[session];
        let takes = now.saturating_sub(since);
        if takes == 0 {
            return Ok(());
        }
        let tid = Some(SESSIONS + session as u64);
        self.push(phase.name(), "X", tid, Some((since, Some(takes))), of)
    }

    /// The session waited for a frame, in the midst of a phase.
    pub(super) fn waited(&mut self, session: usize, since: u64, now: u64) -> io::Result<()> {
        let track = self.tracks.get(session).copied();
        let Some(track) = track.filter(|_| now.saturating_sub(since) >= SHORTEST) else {
            return Ok(());
        };
        self.phase(session, Phase::Waiting, track.of, since.max(track.since))?;
        self.phase(session, track.phase, track.of, now)
    }

    /// Input waited for memory.
    pub(super) fn input_waited(&mut self, since: u64, now: u64) -> io::Result<()> {
        let takes = now.saturating_sub(since);
        if takes >= SHORTEST {
            let times = Some((since, Some(takes)));
            self.push("waiting for memory", "X", Some(INPUT), times, None::<Of>)?;
        }
        self.written(now)
    }

    /// What is held is asked for and written, unless that was a moment ago.
    pub(super) fn sample(&mut self, now: u64, held: impl FnOnce() -> Held) -> io::Result<()> {
        if self
            .sampled
            .is_some_and(|then| now.saturating_sub(then) < SAMPLES)
        {
            return Ok(());
        }
        self.sampled = Some(now);
        let Held { raw_bytes, packets } = held();
        for (name, value) in [("raw bytes held", raw_bytes), ("packets held", packets)] {
            self.push(name, "C", None, Some((now, None)), Some(Sample { value }))?;
        }
        self.written(now)
    }

    /// The array ends.
    pub(super) fn end(mut self, now: u64) -> io::Result<()> {
        for session in 0..self.tracks.len() {
            self.end_phase(session, now)?;
        }
        // (Without a comma after it.)
        let labels = Some(Labels { labels: "ended" });
        self.push("process_labels", "M", None, None, labels)?;
        self.page.truncate(self.page.len() - 2);
        self.page.extend_from_slice(b"\n]");
        self.write(now)
    }
}

/// What is held at a moment.
pub(super) struct Held {
    pub(super) raw_bytes: u64,
    /// That can't leave yet.
    pub(super) packets: u64,
}

impl Shared {
    /// Writes a timeline from now on, if one is asked for.
    pub(super) fn start_trace(&self) {
        let Some(path) = self.encoding.lock().job.timeline.clone() else {
            return;
        };
        let title = self.host.bin().map(|bin| bin.name().to_string());
        match Trace::create(&path, &title.unwrap_or_default(), clock::now()) {
            Ok(trace) => {
                let Some(mut place) = self.trace.try_lock_for(PATIENCE) else {
                    return self.timeline_failed(&io::ErrorKind::TimedOut.into());
                };
                *place = Some(trace);
                self.traces.store(true, Ordering::SeqCst);
            }
            Err(error) => self.timeline_failed(&error),
        }
    }

    pub(super) fn end_trace(&self) {
        if !self.traces.swap(false, Ordering::SeqCst) {
            return;
        }
        let trace = self.trace.try_lock_for(PATIENCE).map(|mut it| it.take());
        let ended = match trace {
            Some(trace) => trace.map(|trace| trace.end(clock::now())),
            None => Some(Err(io::ErrorKind::TimedOut.into())),
        };
        if let Some(Err(error)) = ended {
            self.timeline_failed(&error);
        }
    }

    pub(super) fn traces(&self) -> bool {
        self.traces.load(Ordering::Relaxed)
    }

    /// Not with the engine's lock.
    pub(super) fn traced(&self, act: impl FnOnce(&mut Trace, u64) -> io::Result<()>) {
        if !self.traces() {
            return;
        }
        let failed = match self.trace.try_lock_for(PATIENCE) {
            Some(mut trace) => {
                let acted = trace.as_mut().map(|trace| act(trace, clock::now()));
                let failed = acted.and_then(Result::err);
                if failed.is_some() {
                    *trace = None;
                }
                failed
            }
            // Who writes hangs with the disk.
            None => Some(io::ErrorKind::TimedOut.into()),
        };
        if let Some(error) = failed
            && self.traces.swap(false, Ordering::SeqCst)
        {
            self.timeline_failed(&error);
        }
    }

    /// What is held now.
    pub(super) fn sample(&self) {
        self.traced(|trace, now| {
            trace.sample(now, || {
                let engine = self.lock();
                Held {
                    raw_bytes: engine.held_bytes().0,
                    packets: engine.held_pictures(),
                }
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const MS: u64 = 1_000_000;

    fn of(chunk: u64) -> Option<Of> {
        Some(Of { chunk, attempt: 1 })
    }

    fn phases(events: &[Value]) -> Vec<(u64, &str, f64, f64)> {
        let phases = events.iter().filter(|event| event["ph"] == "X");
        phases
            .map(|it| {
                let time = |name: &str| it[name].as_f64().unwrap() / 1000.0;
                let name = it["name"].as_str().unwrap();
                (it["tid"].as_u64().unwrap(), name, time("ts"), time("dur"))
            })
            .collect()
    }

    #[test]
    fn phases_follow_one_another_without_gaps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.json");
        let mut trace = Trace::create(&path, "x264enc \"fast\"", 7 * MS).unwrap();
        let at = |ms: u64| (7 + ms) * MS;
        trace.phase(0, Phase::Opening, of(3), at(10)).unwrap();
        trace.phase(0, Phase::Own, of(3), at(12)).unwrap();
        // The same again.
        trace.phase(0, Phase::Own, of(3), at(13)).unwrap();
        trace.waited(0, at(20), at(25)).unwrap();
        // Too short.
        trace.waited(0, at(30), at(30) + 1).unwrap();
        trace.input_waited(at(14), at(24)).unwrap();
        trace
            .sample(at(40), || Held {
                raw_bytes: 1_000,
                packets: 3,
            })
            .unwrap();
        trace.sample(at(41), || panic!("just asked")).unwrap();
        trace.phase(0, Phase::Idle, None, at(50)).unwrap();
        trace.end(at(60)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let events: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(
            phases(&events),
            [
                (10, "opening", 10.0, 2.0),
                (10, "own frames", 12.0, 8.0),
                (10, "waiting for frames", 20.0, 5.0),
                (1, "waiting for memory", 14.0, 10.0),
                (10, "own frames", 25.0, 25.0),
                (10, "no chunk", 50.0, 10.0),
            ]
        );
        let samples: Vec<_> = events.iter().filter(|it| it["ph"] == "C").collect();
        assert_eq!(samples.len(), 2);
        assert_eq!(samples[0]["args"]["value"], 1_000);
        let title = events.iter().find(|it| it["name"] == "process_name");
        assert_eq!(title.unwrap()["args"]["name"], "x264enc \"fast\"");
    }

    /// Each line is an event, so that what a crash leaves can be read.
    #[test]
    fn what_is_there_before_the_end_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.json");
        let mut trace = Trace::create(&path, "", 0).unwrap();
        for chunk in 0..100 {
            trace
                .phase(0, Phase::Own, of(chunk), chunk * 100 * MS)
                .unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("["));
        let mut events = 0;
        for line in lines.map(str::trim_end).filter(|line| !line.is_empty()) {
            let event = line.strip_suffix(',').unwrap();
            serde_json::from_str::<Value>(event).unwrap();
            events += 1;
        }
        assert!(events > 90, "{events}");
        // No event is on two pages.
        let bytes = text.as_bytes();
        assert_eq!(bytes.len() % PAGE, 0);
        assert!(bytes.len() > 2 * PAGE);
        for page in bytes.chunks(PAGE) {
            assert_eq!(page.last(), Some(&b'\n'));
        }
        drop(trace);
    }

    #[test]
    fn who_was_given_up_has_no_say() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.json");
        let mut trace = Trace::create(&path, "", 0).unwrap();
        trace.phase(0, Phase::Own, of(0), MS).unwrap();
        trace.phase(0, Phase::Hung, of(0), 2 * MS).unwrap();
        trace.phase(0, Phase::Closing, of(0), 3 * MS).unwrap();
        trace.end(9 * MS).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let events: Vec<Value> = serde_json::from_str(&text).unwrap();
        let phases = phases(&events);
        assert_eq!(phases.last(), Some(&(10, "hung", 2.0, 7.0)));
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read_it_and_no_link_is_followed() {
        use std::os::unix::fs::{MetadataExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.json");
        drop(Trace::create(&path, "", 0).unwrap());
        let mode = std::fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let link = dir.path().join("link.json");
        symlink(&path, &link).unwrap();
        assert!(Trace::create(&link, "", 0).is_err());
    }
}
