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

impl EarlyStart {
    /// A packet came; `announced`: its encoder reorders by so many frames, by its first DTS; `is_in_order`: its own DTS is its PTS. The
    /// first packets are sent if those of so many frames are all there. `None`: they aren't sent early. Where nobody can tell how far
    /// the encoder reorders, that is called off.
    #[must_use]
    pub fn packet(&mut self, announced: usize, is_in_order: bool) -> Option<usize> {
        let Self::Armed { tells } = *self else {
            return None;
        };
        if announced == 0 && !(tells && is_in_order) {
            *self = Self::Off;
            return None;
        }
        // Until time passes the first frame.
        Some(announced + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_needs_to_be_known_how_far_the_encoder_reorders() {
        for (announced, tells, is_in_order, expected) in [
            (2, false, false, Some(3)),
            (0, true, true, Some(1)),
            (0, true, false, None),
            (0, false, true, None),
        ] {
            let mut early = EarlyStart::default();
            assert_eq!(early.packet(announced, is_in_order), None);
            early = EarlyStart::Armed { tells };
            assert_eq!(early.packet(announced, is_in_order), expected);
            assert_eq!(early == EarlyStart::Off, expected.is_none());
        }
    }

    #[test]
    fn what_is_on_its_way_is_not_sent_again() {
        let mut early = EarlyStart::Pushing;
        assert_eq!(early.packet(2, true), None);
        assert_eq!(early, EarlyStart::Pushing);
    }
}
