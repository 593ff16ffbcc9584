// SPDX-License-Identifier: MPL-2.0

//! How long chunks are, one after the other, as far as counts say it: so that all sessions end together.

use super::split::Overhead;

/// Where the length of the source isn't known, the first round has chunks of this length, in frames, or of a longer one, and each further round is longer
/// by a quarter: whenever the source ends, what the sessions end apart is a part of what they have done.
pub(super) const FIRST_CHUNK: u64 = 100;

/// As many of these frames as are whole units.
pub(super) fn whole(frames: u64, unit: u64) -> u64 {
    frames - frames % unit
}

/// How long each chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// All chunks have this many frames.
    Fixed(u64),
    /// Of a source of known length.
    Tapering(Taper),
    /// Of a source of unknown length: see [`FIRST_CHUNK`].
    Growing {
        first: u64,
        sessions: u64,
        longest: u64,
        unit: u64,
    },
}

/// Rounds of one chunk for each session. Each takes two thirds of what is left, but no chunk is longer than `longest`; what is left is
/// spread evenly once chunks would be shorter than `shortest`. (Two thirds and 60 frames are what came out best in simulated films of 400
/// to 150,000 frames and 2 to 64 sessions, of scenes of 30 to 200 frames whose difficulty is log-normal with a deviation of 0.2 and 0.4, by
/// the sum of the time over the ideal and of 20 frames' bits for each chunk. Equal chunks, three rounds at least, were 1 to 7 % worse.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taper {
    /// Frames; the others count these.
    pub unit: u64,
    pub total: u64,
    pub sessions: u64,
    pub longest: u64,
    pub shortest: u64,
    /// Chunks may not be shorter than this.
    pub least: u64,
}

/// Chunks that are as long as each other, but for one frame.
struct Round {
    chunks: u128,
    /// Of all of them.
    units: u128,
}

impl Taper {
    /// Chunk number `index`, if those before it have their planned lengths.
    fn of(&self, index: u64) -> u64 {
        let mut index = u128::from(index);
        for Round { chunks, units } in self.rounds() {
            if index < chunks {
                return self.frames(units / chunks + u128::from(index < units % chunks));
            }
            index -= chunks;
        }
        self.first()
    }

    /// A chunk that begins after so many frames, whatever the lengths of those before it.
    fn after(&self, done: u64) -> u64 {
        let mut done = u128::from(done / self.unit.max(1));
        for Round { chunks, units } in self.rounds() {
            if done < units {
                return self.frames(units.div_ceil(chunks));
            }
            done -= units;
        }
        self.first()
    }

    /// More came than was announced, which the memory wasn't planned for.
    fn first(&self) -> u64 {
        let first = self.rounds().next();
        first.map_or(1, |first| self.frames(first.units.div_ceil(first.chunks)))
    }

    /// (Where even chunks would have to be longer, as none may be shorter than `least`, the rest is a tail.)
    fn frames(&self, units: u128) -> u64 {
        let units = u64::try_from(units).unwrap_or(u64::MAX);
        units
            .clamp(1, self.longest.max(1))
            .saturating_mul(self.unit)
    }

    fn rounds(&self) -> impl Iterator<Item = Round> {
        // Wide enough for any figures.
        let wide = |frames: u64| u128::from(frames);
        let (sessions, longest) = (wide(self.sessions.max(1)), wide(self.longest.max(1)));
        let (least, shortest) = (wide(self.least), wide(self.shortest));
        // As long as two thirds of what is left are longer than that.
        let full = match (wide(self.total) / sessions * 2).checked_sub(longest * 3) {
            Some(beyond) => beyond / (longest * 2) + 1,
            None => 0,
        };
        let full = Round {
            chunks: full * sessions,
            units: full * sessions * longest,
        };
        let mut left = wide(self.total) - full.units;
        let mut is_over = false;
        let rest = std::iter::from_fn(move || {
            if is_over {
                return None;
            }
            let share = left / sessions;
            let length = (share * 2 / 3).min(longest);
            // What doesn't fit into one round takes another one in any case.
            let least_of_round = if share > longest { least } else { shortest };
            is_over = length < least_of_round || share - length < least_of_round;
            let round = match is_over {
                true => {
                    let rounds = left.div_ceil(sessions * longest);
                    let most = left / least.max(1);
                    Round {
                        chunks: (rounds * sessions).min(most).max(1),
                        units: left,
                    }
                }
                false => Round {
                    chunks: sessions,
                    units: sessions * length,
                },
            };
            left -= round.units;
            Some(round)
        });
        std::iter::once(full)
            .chain(rest)
            .filter(|round| round.units > 0)
    }
}

impl Default for Length {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

impl Length {
    /// Frames that chunk number `index` should own.
    pub(super) fn of(self, index: u64) -> u64 {
        match self {
            Length::Fixed(frames) => frames,
            Length::Tapering(taper) => taper.of(index),
            Length::Growing {
                first,
                sessions,
                longest,
                unit,
            } => {
                let mut length = first;
                for _ in 0..index / sessions.max(1) {
                    if length >= longest {
                        break;
                    }
                    length += length / 4;
                }
                whole(length, unit).max(unit).min(longest)
            }
        }
    }

    /// Frames that a chunk should own, number `index`, which begins after so many frames.
    pub(super) fn after(self, index: u64, done: u64) -> u64 {
        match self {
            Length::Tapering(taper) => taper.after(done),
            other => other.of(index),
        }
    }

    /// What seams cost of a film, if one costs so many hundredths of a frame's bits. (Its first chunk begins with no seam.)
    pub(super) fn overhead(self, cost: u64, frames: Option<u64>, min_frames: u64) -> Overhead {
        let wide = u128::from;
        let (seams, frames) = match (self, frames) {
            (Self::Tapering(taper), _) => {
                let frames = taper.total.saturating_mul(taper.unit.max(1));
                (
                    taper.rounds().map(|round| round.chunks).sum::<u128>(),
                    frames,
                )
            }
            (_, Some(frames)) => {
                let longest = self.longest().max(1);
                let rest = u64::from(frames % longest >= min_frames.max(1));
                (wide((frames / longest).saturating_add(rest)), frames)
            }
            // (It grows to that.)
            (_, None) => return Overhead(cost.saturating_mul(100) / self.longest().max(1)),
        };
        let cost = (wide(cost) * 100).saturating_mul(seams.saturating_sub(1)) / wide(frames.max(1));
        Overhead(u64::try_from(cost).unwrap_or(u64::MAX))
    }

    /// Frames of the shortest chunk that is planned, but for a rest.
    pub(super) fn shortest(self) -> u64 {
        match self {
            Self::Fixed(frames) => frames,
            Self::Growing { first, longest, .. } => first.min(longest),
            Self::Tapering(taper) => {
                let rounds = taper.rounds();
                let of = rounds.map(|round| taper.frames(round.units / round.chunks.max(1)));
                of.min().unwrap_or(1)
            }
        }
    }

    /// Frames of the longest chunk that is planned.
    pub fn longest(self) -> u64 {
        match self {
            Length::Growing { longest, .. } => longest,
            other => other.of(0),
        }
    }
}
