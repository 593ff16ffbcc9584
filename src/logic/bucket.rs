// SPDX-License-Identifier: MPL-2.0

//! The buffer of a decoder (VBV) as a leaky bucket: whether a stream that is joined of chunks ever leaves it empty.
//!
//! An encoder that is told of such a buffer keeps account of it, and each chunk's encoder begins that account anew. So what it believes
//! to be in the buffer isn't what the chunk before has left there. The first attempt at a chunk begins with [a guess](Vbv::steady) and a lead; when all chunks before are there, it is known what is in the buffer, and a chunk that would take
//! out more has to be encoded again, by an encoder that is told so. All of it follows from the packets of the chunks before, in order:
//! neither timing nor the number of sessions has a say in it.

/// A picture's time in nanoseconds times bits a second are billionths of a bit.
const NANOS: i128 = 1_000_000_000;

/// What an encoder is told of its decoder's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vbv {
    /// Bits a second that come in.
    pub rate: u64,
    /// Bits that it holds.
    pub size: u64,
    /// Bits that are in it when the stream begins.
    pub initial: u64,
    /// Bits that are in it on average: what is guessed at a chunk's beginning.
    pub steady: u64,
}

impl Vbv {
    /// A part of the buffer that an encoder needs to begin at all, and that it may miss its aim by.
    fn margin(&self) -> u64 {
        self.size / 50
    }

    fn clamp(&self, bits: u64, less: u64) -> u64 {
        bits.saturating_sub(less).max(self.margin())
    }

    /// Bits with which an attempt begins, if one that began with `bits` wanted so many that weren't there.
    pub fn corrected(&self, bits: u64, missing: u64) -> u64 {
        self.clamp(bits, missing.saturating_add(self.margin()))
    }
}

/// What is in the buffer.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    vbv: Vbv,
    /// In billionths of a bit.
    level: i128,
    /// Billionths of a bit that were wanted and weren't there, at the worst moment.
    missing: i128,
}

impl Bucket {
    pub fn new(vbv: Vbv) -> Self {
        Self {
            vbv,
            level: i128::from(vbv.initial) * NANOS,
            missing: 0,
        }
    }

    /// A picture is taken out.
    pub fn take(&mut self, bits: u64) {
        self.level -= i128::from(bits) * NANOS;
        self.missing = self.missing.max(-self.level);
    }

    /// So many nanoseconds pass.
    pub fn fill(&mut self, duration: u64) {
        let comes = i128::from(self.vbv.rate).saturating_mul(i128::from(duration));
        self.level = (self.level.saturating_add(comes)).min(i128::from(self.vbv.size) * NANOS);
    }

    /// Bits that are in it, a little less: no encoder hits it exactly.
    pub fn safe_level(&self) -> u64 {
        let level = u64::try_from(self.level / NANOS).unwrap_or(0);
        self.vbv.clamp(level, self.vbv.margin())
    }

    /// Bits that were wanted since the last call and weren't there, at the worst moment. The decoder has waited for them.
    pub fn take_missing(&mut self) -> u64 {
        self.level = self.level.max(0);
        let missing = std::mem::take(&mut self.missing);
        u64::try_from(missing / NANOS).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame takes a tenth of what comes in a second, on average.
    const FRAME: u64 = 100_000_000;
    const VBV: Vbv = Vbv {
        rate: 1_000,
        size: 500,
        initial: 450,
        steady: 300,
    };

    fn picture(bucket: &mut Bucket, bits: u64, duration: u64) {
        bucket.take(bits);
        bucket.fill(duration);
    }

    #[test]
    fn what_comes_in_beyond_its_size_is_lost() {
        let mut bucket = Bucket::new(VBV);
        picture(&mut bucket, 0, 10 * FRAME);
        picture(&mut bucket, 500, FRAME);
        assert_eq!(bucket.take_missing(), 0);
        // Of the 100 that came since.
        picture(&mut bucket, 101, FRAME);
        assert_eq!(bucket.take_missing(), 1);
    }

    #[test]
    fn after_an_underflow_the_decoder_has_waited() {
        let mut bucket = Bucket::new(VBV);
        picture(&mut bucket, 1_000, FRAME);
        assert_eq!(bucket.take_missing(), 550);
        picture(&mut bucket, 0, FRAME);
        picture(&mut bucket, 100, FRAME);
        assert_eq!(bucket.take_missing(), 0);
    }

    #[test]
    fn another_attempt_begins_with_what_there_is() {
        let mut bucket = Bucket::new(VBV);
        picture(&mut bucket, 350, FRAME);
        assert_eq!(bucket.safe_level(), 190);
        assert_eq!(VBV.corrected(190, 30), 150);
        // An encoder begins with something.
        assert_eq!(VBV.corrected(190, 300), 10);
        picture(&mut bucket, 200, 0);
        assert_eq!(bucket.safe_level(), 10);
    }

    #[test]
    fn nothing_is_too_large_or_too_small() {
        for extreme in [0, 1, u64::MAX] {
            let vbv = Vbv {
                rate: extreme,
                size: extreme,
                initial: extreme,
                steady: extreme,
            };
            let mut bucket = Bucket::new(vbv);
            picture(&mut bucket, u64::MAX, u64::MAX);
            let missing = bucket.take_missing();
            assert!(bucket.safe_level() <= extreme);
            assert!(vbv.corrected(extreme, missing) <= extreme);
        }
    }

    proptest! {
        #[test]
        fn a_buffer_that_is_fuller_misses_no_more(
            pictures in prop::collection::vec(0u64..300, 1..60),
            initial in 0u64..500, more in 0u64..500,
        ) {
            let missing = |initial: u64| {
                let mut bucket = Bucket::new(Vbv { initial: initial.min(500), ..VBV });
                for bits in &pictures {
                    picture(&mut bucket, *bits, FRAME);
                }
                bucket.take_missing()
            };
            prop_assert!(missing(initial + more) <= missing(initial));
        }
    }
}
