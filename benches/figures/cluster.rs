// SPDX-License-Identifier: MPL-2.0

//! Machines in virtual time: they aren't equally fast, some go away, and all share a scheduler and a storage. Tasks run on them, the longest
//! first, and those that are late a second time.
//!
//! A task is given by the scheduler, reads what it has to know, and then reads its part of the source while it encodes: it is over when both are.
//! A machine that goes away is replaced as soon as that is noticed; its task waits again then.

use crate::models::Random;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};

/// How long nobody notices that a machine is gone, in seconds.
const UNNOTICED: f64 = 60.0;

/// What a machine does in one go.
#[derive(Debug, Clone, Copy)]
pub struct Task {
    /// The longest begin first.
    pub frames: u64,
    /// On a machine of usual speed.
    pub seconds: f64,
    /// Bytes that are read before anything else, and then beside the work.
    pub head: f64,
    pub body: f64,
}

#[derive(Debug, Clone)]
pub struct Cluster {
    /// Of each machine; 1 is usual.
    pub speeds: Vec<f64>,
    /// How many of all machines go away in an hour.
    pub leaving: f64,
    /// Which of all ways in which they may go it is.
    pub draw: u64,
    /// What the scheduler takes for a task, in seconds.
    pub dispatch: f64,
    /// Bytes in a second that the storage has for all, and for one.
    pub storage: f64,
    pub each: f64,
    /// Late tasks run a second time.
    pub copies: bool,
}

impl Cluster {
    /// Seconds until all tasks are done.
    pub fn run(&self, tasks: &[Task]) -> f64 {
        let mut run = Run::new(self, tasks);
        while run.left > 0 {
            run.step();
        }
        run.now
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Begins(usize),
    Encoded(usize),
    /// This machine goes away.
    Leaves(usize),
    /// The machine of this copy is known to be gone.
    Noticed(usize),
    /// A task may be late now.
    Look,
}

/// What a task still takes has to be so many times what others take for all of it (as in export/src/tasks.rs).
const SLOWER: f64 = 1.25;

/// So many times a task runs at once, at most.
const MOST_COPIES: usize = 3;

/// One of the times that a task runs at once.
struct Copy {
    task: usize,
    machine: usize,
    since: f64,
    /// When its encoding ends, once that is begun.
    ends: f64,
    is_begun: bool,
    /// Neither over nor given up.
    is_live: bool,
    /// Its machine is gone, which nobody knows yet.
    is_lost: bool,
    /// It reads from the storage.
    reads: bool,
    has_head: bool,
    is_encoded: bool,
}

struct Run<'a> {
    cluster: &'a Cluster,
    tasks: &'a [Task],
    now: f64,
    left: usize,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    pipe: Pipe,
    /// The longest first.
    waiting: BTreeSet<(Reverse<u64>, usize)>,
    /// Who waits for longest is first.
    idle: VecDeque<usize>,
    copies: Vec<Copy>,
    /// Of each task, those that are live.
    live: Vec<Vec<usize>>,
    /// What each machine is at, and when it goes away.
    at: Vec<Option<usize>>,
    chance: Vec<Random>,
    /// Tasks that come on, by when the first of their copies ends.
    coming: BTreeSet<(u64, usize)>,
    /// Those that don't, by since when the last of their copies stands.
    standing: BTreeSet<(u64, usize)>,
    /// Where each task is in these.
    keys: Vec<(u64, u64)>,
    times: Median,
    /// Until when the scheduler is busy.
    scheduler: f64,
    /// When somebody looks for late tasks next.
    look: f64,
}

impl<'a> Run<'a> {
    fn new(cluster: &'a Cluster, tasks: &'a [Task]) -> Self {
        let machines = cluster.speeds.len();
        let seed = |machine: usize| cluster.draw << 32 | machine as u64;
        let mut run = Self {
            cluster,
            tasks,
            now: 0.0,
            left: tasks.len(),
            events: BinaryHeap::new(),
            pipe: Pipe::default(),
            waiting: (0..tasks.len())
                .map(|task| (Reverse(tasks[task].frames), task))
                .collect(),
            idle: (0..machines).collect(),
            copies: Vec::new(),
            live: vec![Vec::new(); tasks.len()],
            at: vec![None; machines],
            chance: (0..machines)
                .map(|machine| Random::of(seed(machine)))
                .collect(),
            coming: BTreeSet::new(),
            standing: BTreeSet::new(),
            keys: vec![(0, 0); tasks.len()],
            times: Median::default(),
            scheduler: 0.0,
            look: f64::INFINITY,
        };
        for machine in 0..machines {
            run.leaves_later(machine);
        }
        run.give();
        run
    }

    /// What happens next, by an event or because something is read.
    fn step(&mut self) {
        let copies = &self.copies;
        let read = self.pipe.next(self.cluster, |copy| copies[copy].reads);
        let event = self
            .events
            .peek()
            .map(|Reverse((at, _))| f64::from_bits(*at));
        let now = event.unwrap_or(f64::INFINITY);
        match read.filter(|(at, _)| *at <= now) {
            Some((at, copy)) => {
                self.now = at.max(self.now);
                self.pipe.pop(self.cluster, self.now);
                self.read(copy);
            }
            None => {
                let Reverse((_, event)) = self.events.pop().expect("somebody works");
                self.now = now;
                self.happens(event);
            }
        }
        self.give();
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Begins(copy) if self.is_at_work(copy) => {
                self.copies[copy].since = self.now;
                self.copies[copy].is_begun = true;
                self.look_at(self.copies[copy].task);
                let bytes = self.tasks[self.copies[copy].task].head;
                self.reads(copy, bytes);
            }
            Event::Encoded(copy) if self.is_at_work(copy) => {
                self.copies[copy].is_encoded = true;
                self.end_if_over(copy);
            }
            Event::Leaves(machine) => {
                self.leaves_later(machine);
                if let Some(copy) = self.at[machine].filter(|&copy| self.is_at_work(copy)) {
                    self.copies[copy].is_lost = true;
                    self.copies[copy].since = self.now;
                    self.stop_reading(copy);
                    self.look_at(self.copies[copy].task);
                    self.later(UNNOTICED, Event::Noticed(copy));
                }
            }
            Event::Noticed(copy) if self.copies[copy].is_live => {
                self.give_up(copy);
                let task = self.copies[copy].task;
                if self.live[task].is_empty() {
                    let frames = Reverse(self.tasks[task].frames);
                    self.waiting.insert((frames, task));
                }
            }
            Event::Look => self.look = f64::INFINITY,
            _ => (),
        }
    }

    /// Something was read to its end: what the work needs, or its part of the source.
    fn read(&mut self, copy: usize) {
        self.copies[copy].reads = false;
        let it = &self.copies[copy];
        if it.has_head {
            self.end_if_over(copy);
            return;
        }
        let task = self.tasks[it.task];
        let seconds = task.seconds / self.cluster.speeds[it.machine];
        self.copies[copy].has_head = true;
        self.copies[copy].ends = self.now + seconds;
        self.look_at(self.copies[copy].task);
        self.later(seconds, Event::Encoded(copy));
        self.reads(copy, task.body);
    }

    fn end_if_over(&mut self, copy: usize) {
        let it = &self.copies[copy];
        if !it.is_encoded || it.reads {
            return;
        }
        self.times.push(self.now - it.since);
        self.left -= 1;
        for copy in self.live[it.task].clone() {
            self.give_up(copy);
        }
    }

    /// Tasks to those that have none: what waits, or what is late.
    fn give(&mut self) {
        while let Some(&machine) = self.idle.front() {
            let task = match self.waiting.pop_first() {
                Some((_, task)) => task,
                None => match self.late() {
                    Some(task) => task,
                    None => return,
                },
            };
            self.idle.pop_front();
            let copy = self.copies.len();
            self.copies.push(Copy {
                task,
                machine,
                since: 0.0,
                ends: f64::INFINITY,
                is_begun: false,
                is_live: true,
                is_lost: false,
                reads: false,
                has_head: false,
                is_encoded: false,
            });
            self.live[task].push(copy);
            self.look_at(task);
            self.at[machine] = Some(copy);
            self.scheduler = self.scheduler.max(self.now) + self.cluster.dispatch;
            self.later(self.scheduler - self.now, Event::Begins(copy));
        }
    }

    /// How a task comes on has changed.
    fn look_at(&mut self, task: usize) {
        let (ends, stands) = self.keys[task];
        self.coming.remove(&(ends, task));
        self.standing.remove(&(stands, task));
        let live = &self.live[task];
        let copies = live.iter().map(|&copy| &self.copies[copy]);
        // One that isn't begun may be as fast as any.
        if live.is_empty() || live.len() == MOST_COPIES || copies.clone().any(|copy| !copy.is_begun)
        {
            return;
        }
        let comes = |copy: &&Copy| copy.has_head && !copy.is_lost;
        let ends = copies.clone().filter(comes).map(|copy| copy.ends.to_bits());
        let stands = copies.map(|copy| copy.since.to_bits()).max();
        match (ends.min(), stands) {
            (Some(ends), _) => {
                self.keys[task] = (ends, 0);
                self.coming.insert((ends, task));
            }
            (None, Some(stands)) => {
                self.keys[task] = (0, stands);
                self.standing.insert((stands, task));
            }
            (None, None) => (),
        }
    }

    /// The task that takes the longest from now on, if that is that much more than the median: one that stands still takes as long again as it has. Somebody
    /// looks again when there may be such a one.
    fn late(&mut self) -> Option<usize> {
        let median = self.times.median().filter(|_| self.cluster.copies)? * SLOWER;
        let comes = self.coming.last().copied();
        let left = comes.map(|(ends, task)| (f64::from_bits(ends) - self.now, task));
        let stands = self.standing.first().copied();
        let stood = stands.map(|(since, task)| (self.now - f64::from_bits(since), task));
        let longest = left.into_iter().chain(stood);
        let longest = longest.max_by(|(a, _), (b, _)| a.total_cmp(b));
        if let Some((_, task)) = longest.filter(|(left, _)| *left >= median) {
            return Some(task);
        }
        // (Rounded as it may be, it comes after now.)
        let is_late = (f64::from_bits(stands?.0) + median).max(self.now.next_up());
        if is_late < self.look {
            self.look = is_late;
            self.events.push(Reverse((is_late.to_bits(), Event::Look)));
        }
        None
    }

    /// It is over, was overtaken, or is lost: its machine is free.
    fn give_up(&mut self, copy: usize) {
        self.stop_reading(copy);
        let it = &mut self.copies[copy];
        it.is_live = false;
        self.at[it.machine] = None;
        self.idle.push_back(it.machine);
        let task = it.task;
        self.live[task].retain(|&other| other != copy);
        self.look_at(task);
    }

    fn is_at_work(&self, copy: usize) -> bool {
        self.copies[copy].is_live && !self.copies[copy].is_lost
    }

    fn reads(&mut self, copy: usize, bytes: f64) {
        self.copies[copy].reads = true;
        self.pipe.add(self.cluster, self.now, copy, bytes);
    }

    fn stop_reading(&mut self, copy: usize) {
        if std::mem::take(&mut self.copies[copy].reads) {
            self.pipe.less(self.cluster, self.now);
        }
    }

    fn leaves_later(&mut self, machine: usize) {
        if self.cluster.leaving > 0.0 {
            let part = 1.0 - self.chance[machine].part();
            let seconds = -part.ln() / self.cluster.leaving * 3_600.0;
            self.later(seconds, Event::Leaves(machine));
        }
    }

    fn later(&mut self, seconds: f64, event: Event) {
        // (The bits of numbers that aren't negative are in the order of the numbers.)
        let at = (self.now + seconds).to_bits();
        self.events.push(Reverse((at, event)));
    }
}

/// The storage: all who read have equal parts of it.
#[derive(Default)]
struct Pipe {
    /// Up to when is known what was read.
    at: f64,
    /// Bytes that whoever read from the beginning has by then.
    served: f64,
    readers: usize,
    /// How many bytes are served when each has its own.
    ends: BinaryHeap<Reverse<(u64, usize)>>,
}

impl Pipe {
    fn rate(&self, cluster: &Cluster) -> f64 {
        cluster
            .each
            .min(cluster.storage / self.readers.max(1) as f64)
    }

    fn advance(&mut self, cluster: &Cluster, now: f64) {
        self.served += (now - self.at) * self.rate(cluster);
        self.at = now;
    }

    fn add(&mut self, cluster: &Cluster, now: f64, copy: usize, bytes: f64) {
        self.advance(cluster, now);
        self.readers += 1;
        let end = (self.served + bytes).to_bits();
        self.ends.push(Reverse((end, copy)));
    }

    fn less(&mut self, cluster: &Cluster, now: f64) {
        self.advance(cluster, now);
        self.readers -= 1;
    }

    fn pop(&mut self, cluster: &Cluster, now: f64) {
        self.less(cluster, now);
        self.ends.pop();
    }

    /// Who has all that it wants next, and when.
    fn next(&mut self, cluster: &Cluster, reads: impl Fn(usize) -> bool) -> Option<(f64, usize)> {
        while let Some(&Reverse((end, copy))) = self.ends.peek() {
            if reads(copy) {
                let left = (f64::from_bits(end) - self.served).max(0.0);
                return Some((self.at + left / self.rate(cluster), copy));
            }
            self.ends.pop();
        }
        None
    }
}

/// Of times so far.
#[derive(Default)]
struct Median {
    /// The lower half, and the upper one.
    lower: BinaryHeap<u64>,
    upper: BinaryHeap<Reverse<u64>>,
}

impl Median {
    fn push(&mut self, seconds: f64) {
        self.lower.push(seconds.to_bits());
        self.upper.extend(self.lower.pop().map(Reverse));
        if self.upper.len() > self.lower.len() {
            self.lower.extend(self.upper.pop().map(|Reverse(it)| it));
        }
    }

    fn median(&self) -> Option<f64> {
        self.lower.peek().map(|it| f64::from_bits(*it))
    }
}
