// SPDX-License-Identifier: MPL-2.0

//! What can be said of a stream at one moment.

use super::decision::Sequential;
use crate::logic::planner::Plan;
use crate::logic::tally::Tally;

/// Everything that is reported, at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) tally: Tally,
    pub(crate) encoder: Option<String>,
    pub(crate) sequential: Option<Sequential>,
    pub(crate) sessions_open: u64,
    /// As it was made last.
    pub(crate) plan: Option<Plan>,
    pub(crate) bytes_held: u64,
    pub(crate) bytes_peak: u64,
    pub(crate) bytes_bound: u64,
    pub(crate) leaves_early: bool,
}
