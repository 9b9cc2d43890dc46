//! Weights that came out of four bits: their numbers lie, 32 by 32 along a row, on 16 steps of a ladder. Products of a few rows are bound by reading the weight,
//! and five times less is read of steps and levels than of numbers.
use rayon::prelude::*;

use super::thin::rounded;
use crate::simd::{Simd, Task, dispatch};

/// Numbers that share a ladder.
const BLOCK: usize = 32;
/// Levels of a ladder.
const LEVELS: usize = 16;

/// A weight `[dout, din]` once more, as levels: number `i` of a block is `low + step · level`. It gives the very bits of the weight, so that products with it have
/// the bits of products with the weight.
pub struct Grid {
    rows: usize,
    width: usize,
    /// Two levels a byte: byte `i` of a block's 16 has those of its numbers `i` and, in the upper half, `i + 16`.
    levels: Vec<u8>,
    /// Step and lowest number of each block.
    ladders: Vec<[f32; 2]>,
}

impl std::fmt::Debug for Grid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grid({} × {})", self.rows, self.width)
    }
}

impl Grid {
    /// Finds the ladders of a weight; `None` when a number lies on none, or rows are not whole blocks. On the threads of the pool.
    pub fn of(w: &[f32], din: usize, dout: usize) -> Option<Self> {
        if din == 0 || !din.is_multiple_of(BLOCK) || w.len() != din * dout {
            return None;
        }
        let mut levels = vec![0u8; w.len() / 2];
        let mut ladders = vec![[0.0; 2]; w.len() / BLOCK];
        let parts = levels.par_chunks_mut(din / 2).zip(ladders.par_chunks_mut(din / BLOCK));
        // most weights were never on a ladder: the first rows tell
        let fits = w.par_chunks(din).zip(parts).all(|(row, (levels, ladders))| {
            let blocks = row.chunks_exact(BLOCK).zip(levels.chunks_exact_mut(BLOCK / 2));
            blocks
                .zip(ladders)
                .all(|((block, levels), ladder)| match ladder_of(block) {
                    Some((found, of)) => {
                        *ladder = found;
                        for (i, level) in levels.iter_mut().enumerate() {
                            *level = of[i] | of[i + BLOCK / 2] << 4;
                        }
                        true
                    }
                    None => false,
                })
        });
        fits.then_some(Self {
            rows: dout,
            width: din,
            levels,
            ladders,
        })
    }

    /// Whether it is of a weight of that size.
    pub(super) fn fits(&self, din: usize, dout: usize) -> bool {
        (self.width, self.rows) == (din, dout)
    }

    /// What rows of this width and `J` rows of the weight add up to, lane by lane and in the order in which numbers would be; both are bf16 before unless `plain`.
    #[inline(always)]
    pub(super) fn dots<S: Simd, const M: usize, const J: usize>(
        &self,
        s: S,
        rows: [&[f32]; M],
        first: usize,
        plain: bool,
    ) -> [[S::V; J]; M] {
        const { assert!((BLOCK / 2).is_multiple_of(S::LANES)) };
        let blocks = self.width / BLOCK;
        assert!(first + J <= self.rows && rows.iter().all(|row| row.len() == self.width));
        let ladders: [&[[f32; 2]]; J] = std::array::from_fn(|q| &self.ladders[(first + q) * blocks..][..blocks]);
        let levels: [&[u8]; J] =
            std::array::from_fn(|q| &self.levels[(first + q) * self.width / 2..][..self.width / 2]);
        let mut acc = [[s.zero(); J]; M];
        for block in 0..blocks {
            // written twice so that the compiler knows which half it is, and keeps the sums in registers
            half::<S, M, J>(s, &rows, &ladders, &levels, block, false, plain, &mut acc);
            half::<S, M, J>(s, &rows, &ladders, &levels, block, true, plain, &mut acc);
        }
        acc
    }

    /// The weight itself.
    #[cfg(test)]
    fn weight(&self) -> Vec<f32> {
        let number = |i: usize| {
            let (block, at) = (i / BLOCK, i % BLOCK);
            let byte = self.levels[block * (BLOCK / 2) + at % (BLOCK / 2)];
            let level = if at < BLOCK / 2 { byte & 15 } else { byte >> 4 };
            let [step, low] = self.ladders[block];
            f32::from(level).mul_add(step, low)
        };
        (0..self.rows * self.width).map(number).collect()
    }
}

/// Adds the lower or the upper half of a block to the sums.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn half<S: Simd, const M: usize, const J: usize>(
    s: S,
    rows: &[&[f32]; M],
    ladders: &[&[[f32; 2]]; J],
    levels: &[&[u8]; J],
    block: usize,
    upper: bool,
    plain: bool,
    acc: &mut [[S::V; J]; M],
) {
    let mut at = 0;
    while at < BLOCK / 2 {
        let mut x = [s.zero(); M];
        for i in 0..M {
            let k = block * BLOCK + at + if upper { BLOCK / 2 } else { 0 };
            // SAFETY: the rows have BLOCK numbers for each block.
            x[i] = rounded(s, unsafe { s.load(rows[i].as_ptr().add(k)) }, plain);
        }
        for q in 0..J {
            // SAFETY: each row of the weight has one ladder and BLOCK / 2 bytes of levels for each block.
            let ([step, low], levels) = unsafe {
                let bytes = levels[q].as_ptr().add(block * (BLOCK / 2) + at);
                (*ladders[q].get_unchecked(block), s.nibbles(bytes, upper))
            };
            let w = rounded(s, s.fma(levels, s.splat(step), s.splat(low)), plain);
            for i in 0..M {
                acc[i][q] = s.fma(x[i], w, acc[i][q]);
            }
        }
        at += S::LANES;
    }
}

/// The ladder of a block, and the level of each of its numbers; `None` when there is none that gives their bits.
fn ladder_of(block: &[f32]) -> Option<([f32; 2], [u8; BLOCK])> {
    let (low, high) = block
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), &v| {
            (low.min(v), high.max(v))
        });
    // (not a number is neither smaller nor larger than anything)
    if !low.is_finite() || !high.is_finite() {
        return None;
    }
    let mut levels = [0; BLOCK];
    // the highest number is usually on the highest level
    for highest in (1..LEVELS).rev() {
        let step = (high - low) / highest as f32;
        if dispatch(Climb {
            block,
            step,
            low,
            levels: &mut levels,
        }) {
            return Some(([step, low], levels));
        }
    }
    None
}

/// Whether a ladder gives a block's bits; its levels.
struct Climb<'a> {
    block: &'a [f32],
    step: f32,
    low: f32,
    levels: &'a mut [u8; BLOCK],
}

impl Task for Climb<'_> {
    type Out = bool;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> bool {
        let Self {
            block,
            step,
            low,
            levels,
        } = self;
        let per_step = if step > 0.0 { 1.0 / step } else { 0.0 };
        let mut fits = true;
        for (level, &v) in levels.iter_mut().zip(block) {
            let found = ((v - low) * per_step + 0.5) as u8;
            *level = found & (LEVELS as u8 - 1);
            // a product of a level and a step is exact where they came out of a file, so that it does not matter whether the sum is rounded once or twice
            let (once, twice) = (f32::from(*level).mul_add(step, low), f32::from(*level) * step + low);
            fits &= once.to_bits() == v.to_bits() && twice.to_bits() == v.to_bits();
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;
    use crate::gemm::Precision;
    use crate::linear::{Weight, linear};
    use crate::testing::{each_isa, numbers};

    /// Numbers as a file of four bits has them: steps and offsets in half precision.
    fn stored(n: usize, symmetric: bool, seed: u64) -> Vec<f32> {
        let half = |v: f32| half::f16::from_f32(v).to_f32();
        let draws = numbers(n + n / BLOCK * 2, seed);
        let (levels, scales) = draws.split_at(n);
        let blocks = levels.chunks(BLOCK).zip(scales.chunks(2));
        blocks
            .flat_map(|(block, scales)| {
                let step = half(scales[0].abs() * 0.01 + 1e-4);
                let low = if symmetric { -8.0 * step } else { half(scales[1] * 0.05) };
                block.iter().map(move |v| {
                    let level = ((v + 3.0) * 2.6).clamp(0.0, 15.0).floor();
                    level * step + low
                })
            })
            .collect()
    }

    #[test]
    fn the_weight_comes_back_to_the_bit() {
        each_isa(|isa| {
            for symmetric in [false, true] {
                let w = stored(8 * 96, symmetric, 3);
                let grid = Grid::of(&w, 96, 8).unwrap_or_else(|| panic!("{isa}: it is on a grid"));
                assert!(grid.weight().iter().zip(&w).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
            let equal = vec![0.25; 64];
            assert_eq!(Grid::of(&equal, 64, 1).map(|grid| grid.weight()), Some(equal));
        });
    }

    #[test]
    fn what_is_on_no_grid_is_left_alone() {
        assert!(Grid::of(&numbers(64, 1), 64, 1).is_none());
        let mut w = stored(64, false, 1);
        assert!(Grid::of(&w, 16, 4).is_none(), "rows of half a block");
        for wrong in [f32::NAN, f32::INFINITY, 1e-3] {
            w[40] = wrong;
            assert!(Grid::of(&w, 64, 1).is_none(), "{wrong}");
        }
        assert!(Grid::of(&[], 32, 0).is_some_and(|grid| grid.weight().is_empty()));
    }

    #[test]
    fn products_have_the_bits_of_those_with_the_weight() {
        each_isa(|isa| {
            for (t, din, dout) in [(1, 32, 1), (1, 576, 1000), (2, 96, 7), (4, 64, 33), (5, 64, 20)] {
                let (x, w) = (numbers(t * din, 5), stored(din * dout, false, 7));
                let (bias, residual) = (numbers(dout, 9), numbers(t * dout, 11));
                let grid = Grid::of(&w, din, dout).expect("a grid");
                for precision in [Precision::F32, Precision::Bf16] {
                    let run = |grid: Option<&Grid>| {
                        let w = Weight::new(&w, None).with_grid(grid);
                        let act = Activation::Silu;
                        linear(&x, w, Some(&bias), act, Some(&residual), t, din, dout, false, precision).y
                    };
                    assert_eq!(run(Some(&grid)), run(None), "{isa} {t} {din} {dout}");
                }
            }
        });
    }
}
