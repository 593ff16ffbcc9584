// SPDX-License-Identifier: MPL-2.0

//! Chunks that other machines encode: which are submitted, again, and a second time. No clock, no process, no file: what is seen comes in, what is to be
//! done goes out.
//!
//! The longest chunks go first. When no task waits any more, machines that have become free get a second copy, or a third, of what would take
//! longer where it is than there: all make the same bytes, so that whoever is first wins, and a slow machine or one that hangs doesn't decide the end.

use crate::chunk::Made;
use crate::failure::{Code, Failure};
use crate::jobs::{Event, MOST_ATTEMPTS};
use crate::plan::{self, Plan};
use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A task that ended well, or nobody knows how, is believed to have made nothing if its record isn't seen after so long: machines see later what
/// others write. (A client of NFS knows so long by default what is in a directory: acdirmin.)
const LATE: Duration = Duration::from_secs(30);

/// Tasks that a chunk has at the same time, at most: two machines may both be slow.
const MOST_COPIES: usize = 3;

/// What a chunk still takes has to be so many times what another machine takes for all of it: both are guesses.
const SLOWER: f64 = 1.25;

/// Tasks that are submitted for a chunk because others are slow come to an end, too.
const MOST_SUBMITTED: u32 = MOST_ATTEMPTS + MOST_COPIES as u32;

/// A task that makes nothing for so long hangs.
const HANGS: Duration = Duration::from_secs(600);

/// One of the tasks that are submitted for a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Copy {
    pub index: usize,
    /// Counted from 1.
    pub number: u32,
}

/// The name of what it writes.
impl fmt::Display for Copy {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}-{}", self.index, self.number)
    }
}

impl FromStr for Copy {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let (index, number) = name.split_once('-').ok_or(())?;
        Ok(Self {
            index: index.parse().map_err(|_| ())?,
            number: number.parse().map_err(|_| ())?,
        })
    }
}

/// What the scheduler says of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Waits,
    Runs,
    /// Or it isn't known any more.
    Ended,
}

/// What is seen of the tasks.
pub trait Seen {
    fn state(&self, copy: Copy) -> State;
    /// Bytes of what is made of a chunk, if that is done.
    fn done(&self, index: usize) -> Option<u64>;
    /// How far a task is that runs, as far as that is known.
    fn made(&self, copy: Copy) -> Option<Made>;
    /// Why a task ended that made nothing. `None`: nobody knows yet. `is_late`: nobody will.
    fn failure(&self, copy: Copy, is_late: bool) -> Option<Failure>;
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    Submit(Copy),
    Cancel(Copy),
    Tell(Event),
}

/// A task that was submitted.
#[derive(Debug, Clone)]
struct Task {
    copy: Copy,
    state: State,
    /// Since when it is in that state.
    since: Duration,
    /// When it was first seen to run; else when it was last seen to wait.
    began: Duration,
    made: Made,
    /// When that was seen to become more.
    moved: Duration,
}

impl Task {
    /// Seconds that it still takes, if it goes on as it does: one that stands still or waits takes as long again as it has.
    fn left(&self, frames: u64, now: Duration) -> f64 {
        let gone = self.moved.saturating_sub(self.since).as_secs_f64();
        let made = self.made.packets.max(1) as f64;
        let rest = frames.saturating_sub(self.made.packets) as f64;
        let stands = now.saturating_sub(self.moved).as_secs_f64();
        match self.state {
            State::Ended => 0.0,
            State::Waits => now.saturating_sub(self.since).as_secs_f64(),
            State::Runs => (gone * rest / made).max(stands),
        }
    }
}

/// A chunk that isn't done.
#[derive(Debug, Clone)]
struct Chunk {
    planned: plan::Chunk,
    /// Where it is shown, while it is in work.
    place: Option<usize>,
    tasks: Vec<Task>,
    /// Tasks that were submitted for it.
    submitted: u32,
    /// One of them was seen to run, or that it had.
    is_begun: bool,
    failed: u32,
}

impl Chunk {
    fn new(plan: &Plan, index: usize) -> Result<Self, Failure> {
        Ok(Self {
            planned: plan.chunk(index)?.clone(),
            place: None,
            tasks: Vec::new(),
            submitted: 0,
            is_begun: false,
            failed: 0,
        })
    }

    fn index(&self) -> usize {
        self.planned.index
    }

    /// Frames that its encoder is fed.
    fn frames(&self) -> u64 {
        let fed = self.planned.fed();
        fed.end - fed.start
    }

    fn submit(&mut self, now: Duration) -> Act {
        self.submitted += 1;
        let copy = Copy {
            index: self.index(),
            number: self.submitted,
        };
        self.tasks.push(Task {
            copy,
            state: State::Waits,
            since: now,
            began: now,
            made: Made::default(),
            moved: now,
        });
        Act::Submit(copy)
    }

    /// Seconds that it still takes, if its tasks go on as they do.
    fn left(&self, now: Duration) -> f64 {
        let left = self.tasks.iter().map(|task| task.left(self.frames(), now));
        left.fold(f64::INFINITY, f64::min)
    }
}

/// The chunks that aren't done.
#[derive(Debug)]
pub struct Tasks {
    chunks: Vec<Chunk>,
    /// Chunks that are shown, by their place.
    places: Vec<bool>,
    /// Tasks that were seen to run at the same time, with those that were over before they were seen to: so many machines there are, more or less.
    most: usize,
    /// Seconds for a frame, of each task that was done.
    pace: Vec<f64>,
}

impl Tasks {
    pub fn new(plan: &Plan, chunks: &[usize]) -> Result<Self, Failure> {
        let chunks = chunks.iter().map(|&index| Chunk::new(plan, index));
        Ok(Self::of(chunks.collect::<Result<_, _>>()?))
    }

    fn of(mut chunks: Vec<Chunk>) -> Self {
        chunks.sort_by_key(|chunk| Reverse(chunk.frames()));
        Self {
            chunks,
            places: Vec::new(),
            most: 0,
            pace: Vec::new(),
        }
    }

    /// All are submitted.
    pub fn begin(&mut self, now: Duration) -> Vec<Act> {
        self.chunks.iter_mut().map(|it| it.submit(now)).collect()
    }

    pub fn are_done(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Tasks that run.
    pub fn running(&self) -> usize {
        self.count(State::Runs)
    }

    fn count(&self, state: State) -> usize {
        let tasks = self.chunks.iter().flat_map(|chunk| &chunk.tasks);
        tasks.filter(|task| task.state == state).count()
    }

    /// What is seen now. The error: it can't be had.
    pub fn see(&mut self, now: Duration, seen: &impl Seen) -> Result<Vec<Act>, Failure> {
        let mut acts = Vec::new();
        let mut left = Vec::new();
        let mut unseen = 0;
        for mut chunk in std::mem::take(&mut self.chunks) {
            let ran = chunk.tasks.iter().any(|task| task.state == State::Runs);
            match self.look(&mut chunk, now, seen, &mut acts)? {
                true => unseen += usize::from(!ran),
                false => left.push(chunk),
            }
        }
        self.chunks = left;
        self.most = self.most.max(self.running() + unseen);
        acts.extend(self.more_copies(now));
        Ok(acts)
    }

    /// Whether the chunk is done.
    fn look(
        &mut self,
        chunk: &mut Chunk,
        now: Duration,
        seen: &impl Seen,
        acts: &mut Vec<Act>,
    ) -> Result<bool, Failure> {
        for task in &mut chunk.tasks {
            let state = seen.state(task.copy);
            if state == State::Waits {
                task.began = now;
            }
            if state != task.state {
                (task.state, task.since, task.moved) = (state, now, now);
                if state == State::Runs {
                    task.began = now;
                }
            }
        }
        let all_wait = chunk.tasks.iter().all(|task| task.state == State::Waits);
        // (A task that is queued again may have made it all the same: its machine was only out of reach.)
        let done = match all_wait && !chunk.is_begun {
            true => None,
            false => seen.done(chunk.index()),
        };
        if all_wait && done.is_none() {
            self.leave(chunk, acts);
            return Ok(false);
        }
        chunk.is_begun = true;
        let place = self.enter(chunk, acts);
        if let Some(bytes) = done {
            self.done(chunk, place, bytes, now, acts);
            return Ok(true);
        }
        let run = |task: &&mut Task| task.state == State::Runs;
        for task in chunk.tasks.iter_mut().filter(run) {
            let made = seen.made(task.copy);
            if let Some(made) = made.filter(|made| *made != task.made) {
                (task.made, task.moved) = (made, now);
            }
        }
        let furthest = chunk.tasks.iter().map(|task| task.made);
        if let Some(made) = furthest.max_by_key(|made| made.packets) {
            acts.push(Act::Tell(Event::Made { place, made }));
        }
        self.failures(chunk, place, now, seen, acts)?;
        Ok(false)
    }

    fn failures(
        &mut self,
        chunk: &mut Chunk,
        place: usize,
        now: Duration,
        seen: &impl Seen,
        acts: &mut Vec<Act>,
    ) -> Result<(), Failure> {
        for task in chunk.tasks.clone() {
            let is_late = now.saturating_sub(task.since) >= LATE;
            let stands = now.saturating_sub(task.moved);
            let failure = match task.state {
                State::Waits => None,
                State::Runs if stands >= HANGS => Some(Failure::failed(format!(
                    "it made nothing for {} s and was ended",
                    stands.as_secs()
                ))),
                State::Runs => None,
                State::Ended => seen.failure(task.copy, is_late),
            };
            let Some(failure) = failure else {
                continue;
            };
            chunk.tasks.retain(|it| it.copy != task.copy);
            chunk.failed += 1;
            // (The scheduler may hold it still.)
            acts.push(Act::Cancel(task.copy));
            acts.push(Act::Tell(Event::Failed {
                place,
                index: chunk.index(),
                attempt: chunk.failed,
                why: failure.text.clone(),
            }));
            // (A source that one machine doesn't see another one may.)
            let is_final = matches!(failure.code, Code::Usage | Code::Cannot);
            if !chunk.tasks.is_empty() {
                // Another one is at work: how that ends counts.
                let index = chunk.index();
                acts.push(Act::Tell(Event::Begun { place, index }));
            } else if is_final || chunk.failed >= MOST_ATTEMPTS {
                return Err(chunk.planned.cannot_be_encoded(&failure));
            } else {
                acts.push(chunk.submit(now));
            }
        }
        if chunk.tasks.iter().all(|task| task.state == State::Waits) {
            self.leave(chunk, acts);
        }
        Ok(())
    }

    fn done(
        &mut self,
        chunk: &mut Chunk,
        place: usize,
        bytes: u64,
        now: Duration,
        acts: &mut Vec<Act>,
    ) {
        // (It took less, if it wasn't seen to run.)
        if let Some(began) = chunk.tasks.iter().map(|task| task.began).min() {
            let took = now.saturating_sub(began).as_secs_f64();
            self.pace.push(took / chunk.frames().max(1) as f64);
        }
        let others = chunk.tasks.iter().filter(|it| it.state != State::Ended);
        acts.extend(others.map(|task| Act::Cancel(task.copy)));
        let index = chunk.index();
        acts.push(Act::Tell(Event::Done {
            place,
            index,
            bytes,
        }));
        self.free(chunk);
    }

    /// The chunk is in work, in the first place that is free.
    fn enter(&mut self, chunk: &mut Chunk, acts: &mut Vec<Act>) -> usize {
        if let Some(place) = chunk.place {
            return place;
        }
        let free = self.places.iter().position(|is_taken| !is_taken);
        let place = free.unwrap_or(self.places.len());
        self.places.resize(self.places.len().max(place + 1), false);
        self.places[place] = true;
        chunk.place = Some(place);
        let index = chunk.index();
        acts.push(Act::Tell(Event::Begun { place, index }));
        place
    }

    /// The chunk waits again.
    fn leave(&mut self, chunk: &mut Chunk, acts: &mut Vec<Act>) {
        if let Some(place) = self.free(chunk) {
            let index = chunk.index();
            acts.push(Act::Tell(Event::Left { place, index }));
        }
    }

    fn free(&mut self, chunk: &mut Chunk) -> Option<usize> {
        let place = chunk.place.take()?;
        self.places[place] = false;
        Some(place)
    }

    /// For machines that have become free.
    fn more_copies(&mut self, now: Duration) -> Vec<Act> {
        let waiting = self.count(State::Waits);
        let free = self.most.saturating_sub(self.running() + waiting);
        if free == 0 {
            return Vec::new();
        }
        let Some(pace) = self.median_pace() else {
            return Vec::new();
        };
        let slow = self.chunks.iter_mut().filter_map(|chunk| {
            let left = chunk.left(now);
            let is_slow = left > pace * chunk.frames() as f64 * SLOWER;
            let may_have_more = chunk.tasks.len() < MOST_COPIES && chunk.submitted < MOST_SUBMITTED;
            (is_slow && may_have_more).then_some((left, chunk))
        });
        let mut slow: Vec<(f64, &mut Chunk)> = slow.collect();
        slow.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let slow = slow.into_iter().take(free);
        slow.map(|(_, chunk)| chunk.submit(now)).collect()
    }

    fn median_pace(&self) -> Option<f64> {
        let mut sorted = self.pace.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::ops::RangeInclusive;

    /// Machines that aren't there: each takes a task that waits, in their order, and so many seconds for it.
    struct Machines {
        seconds: Vec<f64>,
        now: Duration,
        waiting: Vec<Copy>,
        /// What each works at, and since when.
        at: Vec<Option<(Copy, Duration)>>,
        done: Vec<usize>,
        failures: HashMap<Copy, Failure>,
        submitted: Vec<Copy>,
        told: Vec<Event>,
        /// A machine that comes no further than this part of a chunk.
        stands: Option<(usize, f64)>,
    }

    impl Machines {
        fn new(seconds: &[f64]) -> Self {
            Self {
                seconds: seconds.to_vec(),
                now: Duration::ZERO,
                waiting: Vec::new(),
                at: vec![None; seconds.len()],
                done: Vec::new(),
                failures: HashMap::new(),
                submitted: Vec::new(),
                told: Vec::new(),
                stands: None,
            }
        }

        /// Tasks of these numbers for a chunk fail like that.
        fn fail(&mut self, index: usize, numbers: RangeInclusive<u32>, failure: &Failure) {
            for number in numbers {
                let copy = Copy { index, number };
                self.failures.insert(copy, failure.clone());
            }
        }

        fn part(&self, machine: usize) -> f64 {
            let (_, since) = self.at[machine].unwrap();
            let part = (self.now - since).as_secs_f64() / self.seconds[machine];
            match self.stands {
                Some((stands, most)) if stands == machine => part.min(most),
                _ => part,
            }
        }

        fn work(&mut self) {
            for machine in 0..self.at.len() {
                if let Some((copy, _)) = self.at[machine]
                    && self.part(machine) >= 1.0
                {
                    if !self.failures.contains_key(&copy) {
                        self.done.push(copy.index);
                    }
                    self.at[machine] = None;
                }
                if self.at[machine].is_none() && !self.waiting.is_empty() {
                    self.at[machine] = Some((self.waiting.remove(0), self.now));
                }
            }
        }

        fn carry_out(&mut self, acts: Vec<Act>) {
            for act in acts {
                match act {
                    Act::Submit(copy) => {
                        self.submitted.push(copy);
                        self.waiting.push(copy);
                    }
                    Act::Cancel(copy) => {
                        self.waiting.retain(|it| *it != copy);
                        for at in &mut self.at {
                            *at = at.filter(|(it, _)| *it != copy);
                        }
                    }
                    Act::Tell(event) => self.told.push(event),
                }
            }
        }

        /// Seconds until all is done.
        fn run(&mut self, chunks: usize) -> Result<f64, Failure> {
            let mut tasks = tasks(&vec![100; chunks]);
            let acts = tasks.begin(self.now);
            self.carry_out(acts);
            while !tasks.are_done() {
                self.work();
                let acts = tasks.see(self.now, self)?;
                self.carry_out(acts);
                self.now += Duration::from_secs(1);
                assert!(self.now.as_secs() < 10_000, "it doesn't end");
            }
            Ok(self.now.as_secs_f64())
        }
    }

    impl Seen for Machines {
        fn state(&self, copy: Copy) -> State {
            let runs = self.at.iter().flatten().any(|(at, _)| *at == copy);
            match self.waiting.contains(&copy) {
                true => State::Waits,
                false if runs => State::Runs,
                false => State::Ended,
            }
        }

        fn done(&self, index: usize) -> Option<u64> {
            self.done.contains(&index).then_some(1)
        }

        fn made(&self, copy: Copy) -> Option<Made> {
            let at = |at: &Option<(Copy, Duration)>| at.is_some_and(|(at, _)| at == copy);
            let machine = self.at.iter().position(at)?;
            let packets = (self.part(machine) * 100.0) as u64;
            let fed = packets;
            let skipped = 0;
            Some(Made {
                fed,
                packets,
                skipped,
            })
        }

        fn failure(&self, copy: Copy, is_late: bool) -> Option<Failure> {
            let said = self.failures.get(&copy).cloned();
            said.or(is_late.then(|| Failure::failed("it left no record")))
        }
    }

    fn tasks(frames: &[u64]) -> Tasks {
        let chunk = |(index, &frames): (usize, &u64)| Chunk {
            planned: plan::Chunk {
                index,
                own: [0, frames],
                lead: 0,
                trail: 0,
                from: 0.0,
                to: 0.0,
            },
            place: None,
            tasks: Vec::new(),
            submitted: 0,
            is_begun: false,
            failed: 0,
        };
        Tasks::of(frames.iter().enumerate().map(chunk).collect())
    }

    #[test]
    fn the_longest_chunk_is_first() {
        let acts = tasks(&[50, 200, 100]).begin(Duration::ZERO);
        let order = acts.iter().map(|act| match act {
            Act::Submit(copy) => copy.to_string(),
            act => panic!("{act:?}"),
        });
        assert_eq!(order.collect::<Vec<_>>(), ["1-1", "2-1", "0-1"]);
    }

    #[test]
    fn machines_that_are_alike_get_no_second_copies() {
        let mut machines = Machines::new(&[20.0, 20.0, 20.0]);
        assert!(machines.run(12).unwrap() < 84.0);
        assert_eq!(machines.submitted.len(), 12);
        // Three places are enough to show them.
        let places = machines.told.iter().filter_map(|event| match event {
            Event::Begun { place, .. } => Some(*place),
            _ => None,
        });
        assert_eq!(places.max(), Some(2));
    }

    #[test]
    fn a_slow_machine_does_not_decide_the_end() {
        let without = Machines::new(&[20.0; 9]).run(45).unwrap();
        for slow in [60.0, 1e6] {
            let mut machines = Machines::new(&[&[slow][..], &[20.0; 9]].concat());
            let with = machines.run(45).unwrap();
            assert!(with <= without * 1.25, "{slow}: {with}, {without}");
            assert!(machines.submitted.len() <= 47);
        }
    }

    #[test]
    fn tasks_that_are_over_before_anybody_looks_tell_as_well_how_long_they_take() {
        let mut machines = Machines::new(&[0.5, 0.5, 1e6]);
        assert!(machines.run(3).unwrap() < 10.0);
        assert_eq!(machines.submitted.len(), 4);
    }

    #[test]
    fn a_machine_that_stands_still_does_not_decide_the_end() {
        let without = Machines::new(&[20.0; 9]).run(45).unwrap();
        // At its first chunk, when nearly all of that is made.
        let mut machines = Machines::new(&[20.0; 10]);
        machines.stands = Some((0, 0.95));
        let with = machines.run(45).unwrap();
        assert!(with <= without * 1.25, "{with}, {without}");
        assert_eq!(machines.submitted.len(), 46);
    }

    #[test]
    fn copies_that_fail_end_nothing_while_the_first_one_works() {
        let mut machines = Machines::new(&[100.0, 10.0, 10.0]);
        // (The longest one first, which the slow machine has.)
        machines.fail(0, 2..=20, &Failure::cannot("no encoder"));
        machines.run(6).unwrap();
        assert!(machines.submitted.len() <= 5 + MOST_SUBMITTED as usize);
    }

    #[test]
    fn what_hangs_on_the_only_machine_is_ended() {
        let mut machines = Machines::new(&[20.0]);
        machines.stands = Some((0, 0.5));
        let failure = machines.run(1).unwrap_err();
        assert!(failure.text.contains("made nothing for 600 s"), "{failure}");
        assert_eq!(machines.submitted.len(), 3);
    }

    #[test]
    fn what_is_shown_is_left_as_often_as_it_is_begun() {
        let mut machines = Machines::new(&[20.0, 60.0, 20.0]);
        machines.fail(1, 1..=2, &Failure::again("no space"));
        machines.run(7).unwrap();
        let mut shown = HashMap::new();
        for event in &machines.told {
            match event {
                Event::Begun { place, index } => {
                    assert!(!shown.values().any(|it| it == index), "{event:?}");
                    assert_eq!(shown.insert(*place, *index), None, "{event:?}");
                }
                Event::Failed { place, index, .. } | Event::Done { place, index, .. } => {
                    assert_eq!(shown.remove(place), Some(*index), "{event:?}");
                }
                Event::Left { place, .. } => assert_eq!(shown.remove(place), None),
                Event::Made { place, .. } => assert!(shown.contains_key(place)),
                Event::Said { .. } => (),
            }
        }
        assert!(shown.is_empty());
    }

    #[test]
    fn what_fails_is_submitted_three_times_and_no_oftener() {
        let mut machines = Machines::new(&[20.0, 20.0]);
        machines.fail(1, 1..=2, &Failure::again("no space"));
        machines.run(4).unwrap();
        assert_eq!(machines.submitted.len(), 6);

        let mut machines = Machines::new(&[20.0, 20.0]);
        machines.fail(1, 1..=3, &Failure::failed("it crashed"));
        let failure = machines.run(4).unwrap_err();
        assert_eq!(failure.code, Code::Failed);
        assert!(failure.text.contains("chunk 1 (frames 0 to 99"));
        assert!(failure.text.contains("it crashed"), "{failure}");
        assert_eq!(machines.submitted.len(), 6);
    }

    #[test]
    fn what_would_fail_anywhere_is_submitted_once() {
        for failure in [
            Failure::usage("no such plan"),
            Failure::cannot("no encoder"),
        ] {
            let mut machines = Machines::new(&[20.0, 20.0]);
            machines.fail(0, 1..=1, &failure);
            assert_eq!(machines.run(4).unwrap_err().code, failure.code);
            assert_eq!(machines.submitted.len(), 4);
        }
    }
}
