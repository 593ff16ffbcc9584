// SPDX-License-Identifier: MPL-2.0

//! How the frames of a film differ from those before them, which tells where its cuts are: all of it is decoded for that, in as many ranges at
//! once as there are cores.

use crate::failure::Failure;
use crate::range::{self, Step};
use crate::scan::Scan;
use gst_video::VideoInfo;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use vtparallelenc::export::Lookout;
use vtparallelenc::logic::scenes::Change;

/// So many frames before one say how it differs.
const BEFORE: usize = 2;

/// Of these pictures, the first of which stands alone. What can't be compared is `None`.
pub fn changes(
    path: &Path,
    stream: usize,
    scan: &Scan,
    info: &VideoInfo,
    frames: Range<usize>,
    stops: &AtomicBool,
) -> Result<Vec<Option<Change>>, Failure> {
    let parts = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let length = frames.len().div_ceil(parts).max(1);
    let starts = frames.clone().step_by(length);
    let parts = starts.map(|start| start..frames.end.min(start + length));
    let found: Vec<Result<_, Failure>> = thread::scope(|scope| {
        let of = |part: Range<usize>| {
            let first = frames.start;
            scope.spawn(move || of_part(path, stream, scan, info, part, first, stops))
        };
        let at_work: Vec<_> = parts.map(of).collect();
        let ended = at_work.into_iter().map(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|_| Err(Failure::failed("looking for cuts failed")))
        });
        ended.collect()
    });
    let mut all = Vec::with_capacity(frames.len());
    for part in found {
        all.extend(part?);
    }
    Ok(all)
}

fn of_part(
    path: &Path,
    stream: usize,
    scan: &Scan,
    info: &VideoInfo,
    part: Range<usize>,
    first: usize,
    stops: &AtomicBool,
) -> Result<Vec<Option<Change>>, Failure> {
    let mut lookout = Lookout::new(info);
    let mut changes = Vec::new();
    let begins = part.start.saturating_sub(BEFORE).max(first);
    range::decode(path, stream, scan, begins..part.end, |step| {
        if stops.load(Ordering::SeqCst) {
            return Err(Failure::again("interrupted"));
        }
        match step {
            Step::Begins(_) => {
                lookout = Lookout::new(info);
                changes.clear();
            }
            Step::Skipped => (),
            Step::Picture(number, sample) => {
                let looked = lookout.as_mut().zip(sample.buffer());
                let change = looked.and_then(|(lookout, frame)| lookout.look(frame));
                if part.contains(&number) {
                    changes.push(change);
                }
            }
        }
        Ok(())
    })?;
    Ok(changes)
}
