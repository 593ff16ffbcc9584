// SPDX-License-Identifier: MPL-2.0

//! How the time falls with the number of sessions, where the encoder is a card with so many engines.

use crate::Form;
use crate::process::{player, side_by_side};
use crate::table::Table;

/// Of one frame, in microseconds.
const TIME: u64 = 10_000;

pub fn measure(form: Form) -> Vec<Table> {
    let (frames, rounds, counts): (u64, usize, &[u64]) = match form {
        Form::Full => (2400, 3, &[1, 2, 4, 8, 16, 32, 64]),
        Form::Short => (48, 1, &[2]),
    };
    let mut rows = Vec::new();
    for &sessions in counts {
        let pipeline = format!(
            "videotestsrc num-buffers={frames} pattern=black ! video/x-raw,width=64,height=64 ! \
             vtparallelenc sessions={sessions} encoder=\"engineenc time={TIME} engines={sessions}\" ! fakesink"
        );
        let taken = side_by_side(rounds, &mut [player(form, &pipeline)])[0];
        let linear = frames as f64 * TIME as f64 / 1e6 / sessions as f64;
        rows.push(vec![
            sessions.to_string(),
            format!("{:.3}", linear / taken.time.as_secs_f64()),
        ]);
    }
    vec![Table {
        title: "Scaling",
        about: format!("{frames} frames of {TIME} µs each."),
        columns: vec!["sessions and engines", "of linear"],
        rows,
    }]
}
