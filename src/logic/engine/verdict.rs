// SPDX-License-Identifier: MPL-2.0

//! What becomes of an attempt that ended without its chunk: one function, and the table that tests it.

use crate::logic::ids::FrameNo;
use crate::logic::store::{Fault, Side};

/// A session that fails so often without a success between is closed.
pub const MOST_FAILURES: u32 = 3;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// By a flush, a stop, or the end of the stream: nobody's fault.
    Aborted,
    /// The chunk was planned anew meanwhile.
    Replanned,
    /// No encoder could be opened.
    NotOpened,
    /// An encoder was opened and refused the video.
    CapsRefused,
    /// The encoder posted an error or returned one.
    EncoderFailed,
    /// What came out isn't what was asked for.
    Faulty(Fault),
    /// The encoder, or the cache, stood still and was left to itself.
    Stalled,
    /// It had to be taken from what is kept, or to be kept, and couldn't.
    NotKept,
}

/// What is known of an attempt when it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// 1 for the first try at the chunk.
    pub number: u32,
    /// Tries at one chunk, the first included, before the stream fails.
    pub max_attempts: u32,
    /// The chunk lost its overlap, or is to have another key frame.
    pub replanned: bool,
    /// Its encoder has made a packet.
    pub made_packets: bool,
    /// Its first picture wasn't a key frame.
    pub opened_without_key: bool,
    /// The chunk is fed frames on the side that would explain the fault.
    pub has_overlap: bool,
    /// Some encoder of the stream has made a packet.
    pub any_made_packets: bool,
    /// Some encoder of this session has.
    pub session_works: bool,
    /// Failures of the session since its last success, without this one.
    pub failures: u32,
    /// Another session has an encoder.
    pub others_run: bool,
    /// Sessions that aren't closed, this one included.
    pub open_sessions: usize,
    /// Where the rest of the chunk could begin, if some of it was sent that can't be made again.
    pub resume_at: Option<FrameNo>,
}

/// What becomes of it.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing follows from it.
    Dropped,
    /// The same attempt begins anew, through no fault of the session; with `drop` after the chunk, and those like it, lost its overlap.
    Anew { drop: Option<Side> },
    /// The same attempt, at the rest of the chunk from this frame on.
    Resume(FrameNo),
    /// The same attempt, when another session has let go of its encoder; one failure more for this session.
    AwaitDevice { closes: bool },
    /// The session is closed, and the same attempt is another session's.
    CloseSession,
    /// The next attempt; one failure more for this session.
    Again { closes: bool },
    /// The stream fails.
    GiveUp(GiveUpReason),
}

/// Why there is no other attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUpReason {
    /// There were as many as there may be.
    Attempts,
    /// What was sent can't be made again.
    AlreadySent,
    /// Another attempt would end the same way.
    Hopeless,
    /// No session is open that could make it.
    NoSession,
}

impl Ending {
    /// The side of the chunk whose overlap would explain it.
    pub fn side(&self, facts: &Facts) -> Option<Side> {
        match self {
            // Once, it may have got lost.
            Self::Faulty(Fault::StartMissing(_)) if facts.number < facts.max_attempts.min(2) => {
                None
            }
            // No seam explains that.
            Self::Faulty(Fault::StartNotKey(_)) if facts.opened_without_key => None,
            Self::Faulty(fault) => fault.side(),
            _ => None,
        }
    }
}

/// Decides.
pub fn judge(facts: &Facts, ending: &Ending) -> Fate {
    if *ending == Ending::Aborted {
        return Fate::Dropped;
    }
    let side = ending.side(facts).filter(|_| facts.has_overlap);
    if side.is_some() || facts.replanned || *ending == Ending::Replanned {
        return Fate::Anew { drop: side };
    }
    let closes = facts.failures + 1 >= MOST_FAILURES;
    match ending {
        Ending::Faulty(Fault::Differs(_)) => {
            return match facts.resume_at {
                Some(frame) => Fate::Resume(frame),
                None => Fate::GiveUp(GiveUpReason::AlreadySent),
            };
        }
        // Another attempt would be the same.
        Ending::Faulty(Fault::Parts { .. }) | Ending::NotKept => {
            return Fate::GiveUp(GiveUpReason::Hopeless);
        }
        // What no encoder has taken yet, the next one doesn't either.
        Ending::CapsRefused if !facts.any_made_packets => {
            return Fate::GiveUp(GiveUpReason::Hopeless);
        }
        Ending::NotOpened | Ending::EncoderFailed => {
            // Some encoders open what they encode with at their first frames.
            let late = *ending == Ending::EncoderFailed;
            let works = facts.session_works || facts.made_packets;
            let unopened = !late || !facts.made_packets;
            if unopened && facts.others_run && (works || late) {
                return Fate::AwaitDevice { closes };
            }
            if unopened && !works && facts.open_sessions > 1 {
                return Fate::CloseSession;
            }
        }
        _ => (),
    }
    if facts.number >= facts.max_attempts {
        return Fate::GiveUp(GiveUpReason::Attempts);
    }
    if closes && facts.open_sessions <= 1 {
        return Fate::GiveUp(GiveUpReason::NoSession);
    }
    Fate::Again { closes }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first of three attempts at a chunk without overlap, by one of two sessions, both of which work.
    const FACTS: Facts = Facts {
        number: 1,
        max_attempts: 3,
        replanned: false,
        made_packets: true,
        opened_without_key: false,
        has_overlap: false,
        any_made_packets: true,
        session_works: true,
        failures: 0,
        others_run: true,
        open_sessions: 2,
        resume_at: None,
    };

    #[test]
    fn the_table() {
        use Ending::{
            Aborted, CapsRefused, EncoderFailed, Faulty, NotKept, NotOpened, Replanned, Stalled,
        };
        use Fate::{Again, Anew, AwaitDevice, CloseSession, Dropped, GiveUp, Resume};
        use GiveUpReason::{AlreadySent, Attempts, Hopeless, NoSession};
        const FRAME: FrameNo = FrameNo(7);
        let missing = || {
            Faulty(Fault::Missing {
                first: FRAME,
                count: 1,
            })
        };
        let start = || Faulty(Fault::StartMissing(FRAME));
        let not_key = || Faulty(Fault::StartNotKey(FRAME));
        let trail = || Faulty(Fault::OwnAfterTrail(FRAME));
        let differs = || Faulty(Fault::Differs(FRAME));
        let lead = Anew {
            drop: Some(Side::Lead),
        };
        let again = Again { closes: false };
        let overlap = Facts {
            has_overlap: true,
            ..FACTS
        };
        let last = Facts { number: 3, ..FACTS };
        let fresh = Facts {
            made_packets: false,
            session_works: false,
            ..FACTS
        };
        let idle = Facts {
            others_run: false,
            ..fresh
        };
        let third = Facts {
            failures: 2,
            ..FACTS
        };
        let alone = Facts {
            others_run: false,
            open_sessions: 1,
            ..FACTS
        };
        let table = [
            (FACTS, Aborted, Dropped),
            (
                Facts {
                    replanned: true,
                    ..last
                },
                Aborted,
                Dropped,
            ),
            (last, Replanned, Anew { drop: None }),
            // Whatever it ended with besides.
            (
                Facts {
                    replanned: true,
                    ..last
                },
                EncoderFailed,
                Anew { drop: None },
            ),
            // An overlap that explains it costs no attempt; one that doesn't explain it is kept.
            (overlap, Faulty(Fault::LeadAfterOwn(FRAME)), lead),
            (
                overlap,
                trail(),
                Anew {
                    drop: Some(Side::Trail),
                },
            ),
            (overlap, not_key(), lead),
            (
                Facts {
                    number: 3,
                    ..overlap
                },
                not_key(),
                lead,
            ),
            (
                Facts {
                    opened_without_key: true,
                    ..overlap
                },
                not_key(),
                again,
            ),
            (overlap, start(), again),
            (
                Facts {
                    number: 2,
                    ..overlap
                },
                start(),
                lead,
            ),
            (
                Facts {
                    max_attempts: 1,
                    ..overlap
                },
                start(),
                lead,
            ),
            (overlap, missing(), again),
            (FACTS, trail(), again),
            // What was sent has to be made again, or to be the end of a chunk.
            (FACTS, differs(), GiveUp(AlreadySent)),
            (
                Facts {
                    resume_at: Some(FRAME),
                    ..last
                },
                differs(),
                Resume(FRAME),
            ),
            (
                FACTS,
                Faulty(Fault::Parts {
                    alignment: "nal".to_string(),
                }),
                GiveUp(Hopeless),
            ),
            // What the encoder can't encode, against one that doesn't for once.
            (
                Facts {
                    any_made_packets: false,
                    ..fresh
                },
                CapsRefused,
                GiveUp(Hopeless),
            ),
            (FACTS, CapsRefused, again),
            (last, CapsRefused, GiveUp(Attempts)),
            // Devices that open fewer encoders than there are sessions.
            (fresh, NotOpened, CloseSession),
            (idle, NotOpened, CloseSession),
            (
                Facts {
                    open_sessions: 1,
                    ..idle
                },
                NotOpened,
                again,
            ),
            (FACTS, NotOpened, AwaitDevice { closes: false }),
            (third, NotOpened, AwaitDevice { closes: true }),
            (
                Facts {
                    others_run: false,
                    ..FACTS
                },
                NotOpened,
                again,
            ),
            (fresh, EncoderFailed, AwaitDevice { closes: false }),
            (idle, EncoderFailed, CloseSession),
            (FACTS, EncoderFailed, again),
            // Failures in a row.
            (last, EncoderFailed, GiveUp(Attempts)),
            (last, Stalled, GiveUp(Attempts)),
            (FACTS, NotKept, GiveUp(Hopeless)),
            (FACTS, Stalled, again),
            (third, missing(), Again { closes: true }),
            (
                Facts {
                    failures: 2,
                    ..alone
                },
                missing(),
                GiveUp(NoSession),
            ),
            (
                Facts {
                    failures: 1,
                    ..alone
                },
                missing(),
                again,
            ),
        ];
        for (facts, ending, fate) in table {
            assert_eq!(judge(&facts, &ending), fate, "{ending:?} with {facts:?}");
        }
    }
}
