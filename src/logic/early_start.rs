// SPDX-License-Identifier: MPL-2.0

//! The first packets of a stream leave before their chunk is finished.
//!
//! Frames are taken in long before they leave, and what comes after the element may want key frames at moments that it says only when
//! it gets packets (splitmuxsink asks for the next one when time passes the last one). So the first packets are sent as soon as their DTS
//! are known and time passes the first frame, and until downstream has them, the frames of all chunks stay: a key frame can still be
//! made wherever downstream asks for one.

/// Where a stream is with its first packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EarlyStart {
    /// They were sent, or aren't sent early.
    #[default]
    Off,
    /// They are sent when enough of them are there. `tells`: an encoder whose first DTS is its first PTS doesn't reorder.
    Armed { tells: bool },
    /// They are on their way downstream, which may ask for key frames when it gets them.
    Pushing,
}

/// What a packet of the first chunk means.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// Nothing.
    Not,
    /// Send the first packets, if these are all there: of the first so many frames.
    With { frames: usize },
    /// Nobody can tell how far the encoder reorders: it was called off, let go what waited for it.
    CalledOff,
}

impl EarlyStart {
    pub fn arm(&mut self, tells: bool) {
        *self = Self::Armed { tells };
    }

    /// Frames stay for what downstream may ask for.
    pub fn is_on(self) -> bool {
        self != Self::Off
    }

    pub fn is_pushing(self) -> bool {
        self == Self::Pushing
    }

    /// A packet came. `announced`: its encoder reorders by so many frames, by its first DTS; `is_in_order`: its own DTS is its PTS.
    pub fn packet(&mut self, announced: usize, is_in_order: bool) -> Ready {
        match self {
            Self::Armed { tells } if announced > 0 || *tells && is_in_order => Ready::With {
                // Until time passes the first frame.
                frames: announced + 1,
            },
            Self::Armed { .. } => {
                *self = Self::Off;
                Ready::CalledOff
            }
            Self::Off | Self::Pushing => Ready::Not,
        }
    }

    /// The first packets are taken out to be sent.
    pub fn push(&mut self) {
        *self = Self::Pushing;
    }

    /// Downstream has them, or nobody waits for that any more. `true`: what waited for it may go on.
    #[must_use]
    pub fn end(&mut self) -> bool {
        std::mem::take(self) != Self::Off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_needs_to_be_known_how_far_the_encoder_reorders() {
        for (announced, tells, is_in_order, expected) in [
            (2, false, false, Ready::With { frames: 3 }),
            (0, true, true, Ready::With { frames: 1 }),
            (0, true, false, Ready::CalledOff),
            (0, false, true, Ready::CalledOff),
        ] {
            let mut early = EarlyStart::default();
            assert_eq!(early.packet(announced, is_in_order), Ready::Not);
            early.arm(tells);
            assert_eq!(early.packet(announced, is_in_order), expected);
            assert_eq!(early.is_on(), expected != Ready::CalledOff);
        }
    }

    #[test]
    fn it_ends_once() {
        let mut early = EarlyStart::default();
        assert!(!early.end());
        early.arm(true);
        early.push();
        assert!(early.is_pushing());
        assert_eq!(early.packet(2, true), Ready::Not);
        assert!(early.end());
        assert!(!early.end());
    }
}
