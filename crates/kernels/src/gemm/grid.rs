//! Weights that came out of four bits, or of eight: their numbers lie, 32 by 32 along a row, on 16 steps of a ladder, or on 127 to either side of 0. Products of a few
//! rows are bound by reading the weight, and five times less is read of steps and levels of four bits than of numbers, three times less of those of eight.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::each;
use super::thin::rounded;
use crate::simd::{Simd, Task, dispatch, steps};

/// Numbers that share a ladder.
const BLOCK: usize = 32;
/// Levels of a ladder of four bits.
const LEVELS: usize = 16;
/// Levels of one of eight bits to either side of 0.
const SIDE: f32 = 127.0;

/// A weight `[dout, din]` once more, as levels: number `i` of a block is `low + step · level`. It gives the very numbers of the weight, so that products with it have
/// the bits of products with the weight.
pub struct Grid {
    rows: usize,
    width: usize,
    /// Bits of a level.
    bits: Bits,
    /// Of four bits two a byte: byte `i` of a block's 16 has those of its numbers `i` and, in the upper half, `i + 16`. Of eight bits in order.
    levels: Vec<u8>,
    /// Step of each block, and the number of level 0.
    ladders: Vec<[f32; 2]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bits {
    Four,
    Eight,
}

impl Bits {
    /// Bytes of a block's levels.
    fn bytes(self) -> usize {
        match self {
            Self::Four => BLOCK / 2,
            Self::Eight => BLOCK,
        }
    }
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
        [Bits::Four, Bits::Eight]
            .into_iter()
            .find_map(|bits| Self::of_bits(w, din, dout, bits))
    }

    fn of_bits(w: &[f32], din: usize, dout: usize, bits: Bits) -> Option<Self> {
        let mut levels = vec![0u8; w.len() / BLOCK * bits.bytes()];
        let mut ladders = vec![[0.0; 2]; w.len() / BLOCK];
        let threads = rayon::current_num_threads();
        let some = dout.div_ceil(4 * threads).max(1);
        let parts = levels.chunks_mut(some * din / BLOCK * bits.bytes());
        let parts = parts.zip(ladders.chunks_mut(some * din / BLOCK));
        let parts: Vec<_> = w.chunks(some * din).zip(parts).map(Mutex::new).collect();
        let fits = AtomicBool::new(true);
        each(parts.len(), threads, |i| {
            let mut part = parts[i].lock().unwrap_or_else(PoisonError::into_inner);
            let (w, (levels, ladders)) = &mut *part;
            let (w, fits) = (*w, &fits);
            dispatch(Climb {
                w,
                bits,
                levels,
                ladders,
                fits,
            });
        });
        drop(parts);
        fits.into_inner().then_some(Self {
            rows: dout,
            width: din,
            bits,
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
        let bytes = blocks * self.bits.bytes();
        let levels: [&[u8]; J] = std::array::from_fn(|q| &self.levels[(first + q) * bytes..][..bytes]);
        let mut acc = [[s.zero(); J]; M];
        // written out so that the compiler knows which bits and which half they are, and keeps the sums in registers
        match self.bits {
            Bits::Four => {
                for block in 0..blocks {
                    half::<S, M, J, false>(s, &rows, &ladders, &levels, block, false, plain, &mut acc);
                    half::<S, M, J, false>(s, &rows, &ladders, &levels, block, true, plain, &mut acc);
                }
            }
            Bits::Eight => {
                for block in 0..blocks {
                    half::<S, M, J, true>(s, &rows, &ladders, &levels, block, false, plain, &mut acc);
                    half::<S, M, J, true>(s, &rows, &ladders, &levels, block, true, plain, &mut acc);
                }
            }
        }
        acc
    }
}

/// Adds the lower or the upper half of a block to the sums; levels are of eight bits where `BYTES`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn half<S: Simd, const M: usize, const J: usize, const BYTES: bool>(
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
    let first = if upper { BLOCK / 2 } else { 0 };
    while at < BLOCK / 2 {
        let mut x = [s.zero(); M];
        for i in 0..M {
            // SAFETY: the rows have BLOCK numbers for each block.
            x[i] = rounded(
                s,
                unsafe { s.load(rows[i].as_ptr().add(block * BLOCK + first + at)) },
                plain,
            );
        }
        for q in 0..J {
            // SAFETY: each row of the weight has one ladder, and BLOCK bytes of levels of eight bits or half as many of four, for each block.
            let ([step, low], levels) = unsafe {
                let row = levels[q].as_ptr();
                let levels = if BYTES {
                    s.signed_bytes(row.add(block * BLOCK + first + at).cast())
                } else {
                    s.nibbles(row.add(block * (BLOCK / 2) + at), upper)
                };
                (*ladders[q].get_unchecked(block), levels)
            };
            let w = rounded(s, s.fma(levels, s.splat(step), s.splat(low)), plain);
            for i in 0..M {
                acc[i][q] = s.fma(x[i], w, acc[i][q]);
            }
        }
        at += S::LANES;
    }
}

/// Finds the ladders and levels of some rows' blocks; tells where there is none.
struct Climb<'a> {
    w: &'a [f32],
    bits: Bits,
    levels: &'a mut [u8],
    ladders: &'a mut [[f32; 2]],
    fits: &'a AtomicBool,
}

impl Task for Climb<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let blocks = self.w.as_chunks::<BLOCK>().0.iter().zip(self.ladders);
        for ((block, ladder), levels) in blocks.zip(self.levels.chunks_exact_mut(self.bits.bytes())) {
            // most weights were never on a ladder: the first blocks tell
            if !self.fits.load(Ordering::Relaxed) {
                return;
            }
            let found = match self.bits {
                Bits::Four => climb(s, block, levels),
                Bits::Eight => balance(s, block, levels),
            };
            match found {
                Some(found) => *ladder = found,
                None => return self.fits.store(false, Ordering::Relaxed),
            }
        }
    }
}

/// The ladder of a block, and two levels a byte; `None` when there is none that gives its numbers.
#[inline(always)]
fn climb<S: Simd>(s: S, block: &[f32; BLOCK], levels: &mut [u8]) -> Option<[f32; 2]> {
    let (mut low, mut high) = (s.splat(f32::INFINITY), s.splat(f32::NEG_INFINITY));
    for at in steps::<S>(BLOCK) {
        let v = s.get(&block[at..]);
        (low, high) = (s.min(low, v), s.max(high, v));
    }
    let (low, high) = (0.0 - s.max_lane(s.sub(s.zero(), low)), s.max_lane(high));
    // the highest number is usually on the highest level (loops, since closures are compiled for any processor where they are not inlined)
    for highest in (1..LEVELS).rev() {
        let step = (high - low) / highest as f32;
        let per_step = if step > 0.0 { 1.0 / step } else { 0.0 };
        let mut wrong = s.zero();
        for at in steps::<S>(BLOCK / 2) {
            let mut two = s.zero();
            for (at, weight) in [(at, 1.0), (at + BLOCK / 2, LEVELS as f32)] {
                let v = s.get(&block[at..]);
                let level = s.round(s.mul(s.sub(v, s.splat(low)), s.splat(per_step)));
                let level = s.min(s.max(level, s.zero()), s.splat((LEVELS - 1) as f32));
                two = s.fma(level, s.splat(weight), two);
                // a product of a level and a step is exact where they came out of a file, so that it does not matter whether the sum is rounded once or twice
                let once = s.fma(level, s.splat(step), s.splat(low));
                let twice = s.add(s.mul(level, s.splat(step)), s.splat(low));
                wrong = s.max(wrong, s.max(differs(s, once, v), differs(s, twice, v)));
            }
            store(s, &mut levels[at..], two);
        }
        if s.max_lane(wrong) == 0.0 {
            return Some([step, low]);
        }
    }
    None
}

/// The step to either side of 0 that gives a block's numbers, and its levels.
#[inline(always)]
fn balance<S: Simd>(s: S, block: &[f32; BLOCK], levels: &mut [u8]) -> Option<[f32; 2]> {
    let mut top = s.zero();
    for at in steps::<S>(BLOCK) {
        let v = s.get(&block[at..]);
        top = s.max(top, s.max(v, s.sub(s.zero(), v)));
    }
    let step = s.max_lane(top) / SIDE;
    let per_step = s.splat(if step > 0.0 { 1.0 / step } else { 0.0 });
    let mut wrong = s.zero();
    for at in steps::<S>(BLOCK) {
        let v = s.get(&block[at..]);
        let level = s.round(s.mul(v, per_step));
        let level = s.min(s.max(level, s.splat(-SIDE)), s.splat(SIDE));
        wrong = s.max(wrong, differs(s, s.mul(level, s.splat(step)), v));
        // as a byte with a sign
        store(
            s,
            &mut levels[at..],
            s.select_lt(level, s.zero(), s.add(level, s.splat(256.0)), level),
        );
    }
    (s.max_lane(wrong) == 0.0).then_some([step, 0.0])
}

/// 1 where numbers differ or are not finite, 0 elsewhere. Zeros with and without a sign are the same, since no sum that begins with 0 tells them apart.
#[inline(always)]
fn differs<S: Simd>(s: S, a: S::V, b: S::V) -> S::V {
    let apart = s.sub(a, b);
    let apart = s.max(apart, s.sub(b, a));
    s.select_lt(apart, s.splat(f32::from_bits(1)), s.zero(), s.splat(1.0))
}

/// Integral numbers from 0 to 255 as bytes.
#[inline(always)]
fn store<S: Simd>(s: S, to: &mut [u8], v: S::V) {
    let to = &mut to[..S::LANES];
    // SAFETY: `to` has as many bytes.
    unsafe { s.store_bytes(to.as_mut_ptr(), v) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;
    use crate::gemm::Precision;
    use crate::linear::{Weight, linear};
    use crate::testing::{each_isa, numbers};

    /// The weight itself: what products with a single 1 give.
    fn weight(grid: &Grid) -> Vec<f32> {
        let (din, dout) = (grid.width, grid.rows);
        let mut w = vec![0.0; din * dout];
        for i in 0..din {
            let (mut x, none) = (vec![0.0; din], vec![0.0; din * dout]);
            x[i] = 1.0;
            let (weight, act) = (Weight::new(&none, None).with_grid(Some(grid)), Activation::Identity);
            let column = linear(&x, weight, None, act, None, 1, din, dout, false, Precision::F32).y;
            column.iter().enumerate().for_each(|(j, v)| w[j * din + i] = *v);
        }
        w
    }

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
                assert_eq!(weight(&grid), w, "{isa}");
            }
            // a scale below zero, which files with a middle level have often, makes zeros with a sign
            let mut signed = stored(8 * 96, true, 4);
            signed.iter_mut().for_each(|v| *v = -*v);
            assert!(signed.iter().any(|v| v.to_bits() == (-0.0f32).to_bits()), "{isa}");
            assert_eq!(
                Grid::of(&signed, 96, 8).map(|grid| weight(&grid)),
                Some(signed),
                "{isa}"
            );
            let equal = vec![0.25; 64];
            assert_eq!(Grid::of(&equal, 64, 1).map(|grid| weight(&grid)), Some(equal));
        });
    }

    /// As a file of eight bits has them.
    fn stored_in_bytes(n: usize, seed: u64) -> Vec<f32> {
        let half = |v: f32| half::f16::from_f32(v).to_f32();
        let draws = numbers(n, seed);
        let block = |block: &[f32]| {
            let step = half(block.iter().fold(0.0, |top: f32, v| top.max(v.abs())) / SIDE);
            let per_step = if step > 0.0 { 1.0 / step } else { 0.0 };
            block
                .iter()
                .map(|v| (v * per_step).round().clamp(-SIDE, SIDE) * step + 0.0)
                .collect::<Vec<_>>()
        };
        draws.chunks(BLOCK).flat_map(block).collect()
    }

    #[test]
    fn bytes_come_back_to_the_bit() {
        each_isa(|isa| {
            let mut w = stored_in_bytes(8 * 96, 3);
            w[96..128].fill(0.0);
            let grid = Grid::of(&w, 96, 8).unwrap_or_else(|| panic!("{isa}: it is on a grid"));
            assert_eq!(grid.bits, Bits::Eight);
            assert_eq!(weight(&grid), w, "{isa}");
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
        assert!(Grid::of(&[], 32, 0).is_some_and(|grid| weight(&grid).is_empty()));
    }

    #[test]
    fn products_have_the_bits_of_those_with_the_weight() {
        each_isa(|isa| {
            for (t, din, dout) in [(1, 32, 1), (1, 576, 1000), (2, 96, 7), (4, 64, 33), (5, 64, 20)] {
                let x = numbers(t * din, 5);
                let (bias, residual) = (numbers(dout, 9), numbers(t * dout, 11));
                let weights = [stored(din * dout, false, 7), stored_in_bytes(din * dout, 7)];
                for (w, precision) in weights.iter().flat_map(|w| [(w, Precision::F32), (w, Precision::Bf16)]) {
                    let grid = Grid::of(w, din, dout).expect("a grid");
                    let run = |grid: Option<&Grid>| {
                        let w = Weight::new(w, None).with_grid(grid);
                        let act = Activation::Silu;
                        linear(&x, w, Some(&bias), act, Some(&residual), t, din, dout, false, precision).y
                    };
                    assert_eq!(run(Some(&grid)), run(None), "{isa} {t} {din} {dout}");
                }
            }
        });
    }
}
