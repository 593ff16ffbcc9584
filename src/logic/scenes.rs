// SPDX-License-Identifier: MPL-2.0

//! How much of a picture isn't in the one before it, seen on small pictures: what a cut looks like to an encoder.

/// So many samples of a picture make one of its [`Thumbnail`], on each side: what is left is quick to compare, and grain, noise and
/// small motion are gone.
pub const REDUCTION: usize = 8;

/// Side of the blocks that are compared, in samples of a thumbnail.
const BLOCK: usize = 4;

/// What any block costs, and what one costs more that isn't taken from itself: so that flat pictures are neither still nor cut.
const LEAST: u32 = 4;
const CHOICE: u32 = 2;

/// A small picture of the means of a large one's luma.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Thumbnail {
    pub width: usize,
    /// Rows of `width` samples.
    pub samples: Vec<u8>,
}

/// What a frame costs, in absolute differences of a thumbnail's samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// By itself.
    pub intra: u32,
    /// With the frame before it at hand.
    pub inter: u32,
    /// With the frame before that at hand instead, if that one may be a cut or a flash: which of both, this tells.
    pub past_one: u32,
}

impl Change {
    /// What the frame before it doesn't save, from 0 to about 1.
    pub fn newness(&self) -> f64 {
        f64::from(self.inter) / f64::from(self.intra.max(1))
    }

    /// As if there were no frame between.
    pub fn newness_past_one(&self) -> f64 {
        f64::from(self.past_one) / f64::from(self.intra.max(1))
    }
}

/// Compares frames with those before them, as they come.
#[derive(Debug, Default)]
pub struct Scenes {
    /// The last one and the one before.
    last: [Thumbnail; 2],
    /// The last one is so new that it may be a flash.
    was_new: bool,
}

/// What is less new than that is neither a cut nor a flash.
const NEW: f64 = 0.5;

impl Scenes {
    /// The next frame. `None`: it can't be compared, as it is the first one of its size.
    pub fn look(&mut self, picture: Thumbnail) -> Option<Change> {
        let change = {
            let [last, before] = &self.last;
            let is_alike = |other: &Thumbnail| {
                other.width == picture.width && other.samples.len() == picture.samples.len()
            };
            let before = Some(before).filter(|it| self.was_new && is_alike(it));
            is_alike(last).then(|| compare(&picture, last, before))
        };
        self.was_new = change.is_some_and(|change| change.newness() >= NEW);
        self.last.swap(0, 1);
        self.last[0] = picture;
        change
    }
}

fn compare(picture: &Thumbnail, last: &Thumbnail, before: Option<&Thumbnail>) -> Change {
    let width = picture.width;
    let mut change = Change::default();
    let band = (width * BLOCK).max(1);
    let mut above: Option<&[u8]> = None;
    for (at, now) in picture.samples.chunks_exact(band).enumerate() {
        // (All of them are alike.)
        let rows = at * band..(at + 1) * band;
        let last = &last.samples[rows.clone()];
        let before = before.map(|it| &it.samples[rows.clone()]);
        for x in (0..(width / BLOCK) * BLOCK).step_by(BLOCK) {
            let block = block_at(now, width, x);
            let intra = by_itself(&block, now, above, width, x);
            change.intra += intra + LEAST;
            let with = |other| {
                let inter = difference(&block, &block_at(other, width, x));
                inter.min(intra + CHOICE) + LEAST
            };
            change.inter += with(last);
            change.past_one += before.map_or(0, with);
        }
        above = now.get((BLOCK - 1) * width..);
    }
    if before.is_none() {
        change.past_one = change.inter;
    }
    change
}

type Block = [[u8; BLOCK]; BLOCK];

fn block_at(band: &[u8], width: usize, x: usize) -> Block {
    let mut block = Block::default();
    for (y, row) in block.iter_mut().enumerate() {
        row.copy_from_slice(&band[y * width + x..][..BLOCK]);
    }
    block
}

fn difference(a: &Block, b: &Block) -> u32 {
    let rows = a.as_flattened().iter().zip(b.as_flattened());
    rows.map(|(a, b)| u32::from(a.abs_diff(*b))).sum()
}

/// As far from its mean, from its left neighbour or from its upper one, whichever is nearest.
fn by_itself(block: &Block, band: &[u8], above: Option<&[u8]>, width: usize, x: usize) -> u32 {
    let sum: u32 = block.as_flattened().iter().map(|&it| u32::from(it)).sum();
    let samples = (BLOCK * BLOCK) as u32;
    let mean = ((sum + samples / 2) / samples) as u8;
    let mut nearest = difference(block, &[[mean; BLOCK]; BLOCK]);
    if let Some(left) = x.checked_sub(1) {
        let column: [u8; BLOCK] = std::array::from_fn(|y| band[y * width + left]);
        nearest = nearest.min(difference(block, &column.map(|it| [it; BLOCK])));
    }
    if let Some(above) = above {
        let row: [u8; BLOCK] = std::array::from_fn(|at| above[x + at]);
        nearest = nearest.min(difference(block, &[row; BLOCK]));
    }
    nearest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize, sample: impl Fn(usize, usize) -> u8) -> Thumbnail {
        let rows = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        Thumbnail {
            width,
            samples: rows.map(|(x, y)| sample(x, y)).collect(),
        }
    }

    fn texture(seed: usize) -> Thumbnail {
        picture(40, 24, |x, y| {
            (((x * 37 + y * 91 + seed * 53) * 2_654_435) >> 7) as u8
        })
    }

    #[test]
    fn what_stays_is_not_new_and_what_comes_is() {
        let mut scenes = Scenes::default();
        assert_eq!(scenes.look(texture(1)), None);
        let still = scenes.look(texture(1)).unwrap();
        assert!(still.newness() < 0.1, "{still:?}");
        let cut = scenes.look(texture(2)).unwrap();
        assert!(cut.newness() > 0.9, "{cut:?}");
        assert_eq!(cut.inter, cut.past_one);
        // Back after one frame.
        let back = scenes.look(texture(1)).unwrap();
        assert!(
            back.newness() > 0.9 && back.newness_past_one() < 0.1,
            "{back:?}"
        );
    }

    #[test]
    fn a_flat_picture_is_neither_still_nor_cut() {
        let mut scenes = Scenes::default();
        let flat = |level| picture(40, 24, |_, _| level);
        let _ = scenes.look(flat(20));
        let same = scenes.look(flat(20)).unwrap();
        assert_eq!((same.newness(), same.intra), (1.0, 60 * LEAST));
        let other = scenes.look(flat(200)).unwrap();
        assert_eq!(other.newness(), 1.5);
    }

    #[test]
    fn pictures_of_other_sizes_are_not_compared() {
        let mut scenes = Scenes::default();
        for (width, height) in [(8, 8), (8, 4), (4, 8), (3, 3), (0, 0)] {
            let at = |_, _| 7;
            assert_eq!(scenes.look(picture(width, height, at)), None);
            assert!(scenes.look(picture(width, height, at)).is_some());
        }
    }
}
