//! Products of eight-bit integers, for inference: rows of A are quantised when they come, columns of B once, sums are exact, and what follows them is f32.
//!
//! Each [`GROUP`] numbers along k of a column have a step (symmetric, -127 to 127), those of a row a step and a zero (0 to 255, from its lowest number there to its highest, as
//! Jacob et al. 2018 quantise activations). Transformers have a few channels whose numbers are much larger than the others, which would lose their bits to them
//! with one step for a whole row.
//!
//! Integers add to the same sum in any order, and each number of C takes the same few steps in f32 after them, so that a product has the same bits on all units,
//! instruction sets and numbers of threads.
mod quantize;
#[cfg(test)]
mod tests;
mod unit;

pub(super) use quantize::Bytes;
pub use unit::int8_unit;
pub(crate) use unit::spin;

use super::{Epilogue, Mat, On, PARALLEL_FROM, each};
use crate::activation::{apply, apply_near, per_activation};
use crate::buffer::{Scratch, Shared};
use crate::simd::{Isa, Simd, Task, dispatch_on, steps};
use quantize::{Rows, quantize_rows};
use std::mem::MaybeUninit;
use unit::Unit;

/// Numbers along k that share a step: a multiple of the 64 that a tile instruction takes, and few enough that sums of products, at most 255 · 127 for each, are exact as f32.
const GROUP: usize = 128;
const _: () = assert!(2 * GROUP * 255 * 127 < 1 << 24);
/// Numbers of a word.
const PER_WORD: usize = 4;
/// Words along k that stay together.
const UNIT: usize = 16;
/// Words of a group.
const GROUP_WORDS: usize = GROUP / PER_WORD;
/// Bytes of a block of A: a share of a second-level cache.
const A_BLOCK: usize = 256 * 1024;
/// Row panels of a block of A.
const A_PANELS: usize = 16;
/// Bytes are multiplied at least so many times as fast as f32: products become worth several threads later.
const FASTER: usize = 4;

/// Words of a line of `k` numbers.
fn words(k: usize) -> usize {
    k.div_ceil(PER_WORD).next_multiple_of(UNIT)
}

/// Groups of a line of `k` numbers.
fn groups(k: usize) -> usize {
    k.div_ceil(GROUP)
}

/// C = A·B with what follows it; every number of C, and of `pre`, is written.
///
/// # Safety
/// `c` must be writable for `m·n` numbers, and so must `epilogue.pre`; A has as many columns as B has rows, its numbers lie in its slice, and bias and residual are
/// as large as they should be.
pub(super) unsafe fn run(isa: Isa, a: Mat, b: &Bytes, c: Shared, epilogue: &Epilogue, on: On) {
    let threads = on.threads(a.rows * b.n * b.k, FASTER * PARALLEL_FROM);
    let mut memory = Scratch::take(Rows::len(a));
    let rows = quantize_rows(isa, a, threads, memory.numbers());
    let unit = Unit::of(isa);
    let (mr, nr) = dispatch_on(isa, Geometry(unit));
    let (row_panels, col_panels) = (a.rows.div_ceil(mr), b.n.div_ceil(nr));
    let block_panels = (A_BLOCK / (mr * rows.stride * 4)).clamp(1, A_PANELS);
    let row_blocks = row_panels
        .div_ceil(block_panels)
        .next_multiple_of(threads)
        .min(row_panels);
    // few rows: tasks share them, and divide the columns
    let col_chunks = if row_blocks >= 2 * threads || threads == 1 {
        1
    } else {
        (4 * threads).div_ceil(row_blocks).min(col_panels)
    };
    each(row_blocks * col_chunks, threads, |i| {
        let (r, q) = (i / col_chunks, i % col_chunks);
        dispatch_on(
            isa,
            Block {
                a: &rows,
                b,
                c,
                epilogue,
                unit,
                rows: (row_panels * r / row_blocks, row_panels * (r + 1) / row_blocks),
                cols: (col_panels * q / col_chunks, col_panels * (q + 1) / col_chunks),
            },
        );
    });
}

/// Rows and columns of a tile.
struct Geometry(Unit);
impl Task for Geometry {
    type Out = (usize, usize);
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> (usize, usize) {
        (self.0.rows::<S>(), 2 * S::LANES)
    }
}

/// Panels of rows against panels of columns.
struct Block<'a> {
    a: &'a Rows<'a>,
    b: &'a Bytes,
    c: Shared,
    epilogue: &'a Epilogue<'a>,
    unit: Unit,
    rows: (usize, usize),
    cols: (usize, usize),
}

/// The largest tile; aligned to a cache line.
#[repr(C, align(64))]
struct Sums([MaybeUninit<f32>; 32 * 32]);

impl Task for Block<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mr, nr) = (self.unit.rows::<S>(), 2 * S::LANES);
        let (mut sums, mut total) = (
            Sums([MaybeUninit::uninit(); 32 * 32]),
            Sums([MaybeUninit::uninit(); 32 * 32]),
        );
        let (sums, total): (*mut f32, *mut f32) = (sums.0.as_mut_ptr().cast(), total.0.as_mut_ptr().cast());
        let groups = groups(self.b.k).max(1);
        let _ready = self.unit.begin();
        for j in self.cols.0..self.cols.1 {
            let panel = self.b.panel(j, nr);
            for p in self.rows.0..self.rows.1 {
                let tile = Part {
                    row: p * mr,
                    rows: mr.min(self.a.count - p * mr),
                    col: j * nr,
                    cols: nr.min(self.b.n - j * nr),
                };
                for i in 0..tile.rows {
                    let line = self.c.ptr().wrapping_add((tile.row + i) * self.b.n + tile.col);
                    s.prefetch(line);
                    s.prefetch(line.wrapping_add(S::LANES));
                }
                for group in 0..groups {
                    let from = group * GROUP_WORDS;
                    let count = GROUP_WORDS.min(self.b.words - from);
                    // SAFETY: a panel holds `words` words of `nr` columns; rows are readable up to a whole tile (`Rows`); `sums` and `total` have room for the largest tile, and the
                    // first is written before it is read, the second with the first group; the tile lies inside C and belongs to this task.
                    unsafe {
                        let b = panel.as_ptr().add(from * nr);
                        let a = self.a.words.as_ptr().add(tile.row * self.a.stride + from);
                        self.unit.tile(s, count, (a, self.a.stride), tile.rows, b, sums);
                        if group + 1 < groups {
                            self.fold(s, tile, group, sums, total);
                        } else {
                            self.finish(s, tile, group, sums, total);
                        }
                    }
                }
            }
        }
    }
}

/// A tile's place in C.
#[derive(Clone, Copy)]
struct Part {
    row: usize,
    rows: usize,
    col: usize,
    cols: usize,
}

impl Block<'_> {
    /// Numbers `at..` of row `i` of a tile so far: what the groups up to this one add up to.
    ///
    /// # Safety
    /// `sums` and, after the first group, `total` must hold the tile.
    #[inline(always)]
    unsafe fn so_far<S: Simd>(
        &self,
        s: S,
        tile: Part,
        (i, at): (usize, usize),
        group: usize,
        sums: *const f32,
        total: *const f32,
    ) -> S::V {
        let row = (tile.row + i) * self.a.groups + group;
        // SAFETY: the caller's contract; each column of whole panels has its step and its sum, each row its step and its zero.
        unsafe {
            let (steps, columns) = self.b.group(group);
            let (step, columns) = (
                s.load(steps.as_ptr().add(tile.col + at)),
                s.load(columns.as_ptr().add(tile.col + at)),
            );
            let (row_step, minus_zero) = (*self.a.steps.get_unchecked(row), *self.a.minus_zeros.get_unchecked(row));
            let sum = s.integers(s.load(sums.add(i * 2 * S::LANES + at)));
            // exact, rounded once or twice
            let exact = s.fma(s.splat(minus_zero), columns, sum);
            let v = s.mul(exact, s.mul(s.splat(row_step), step));
            if group == 0 {
                v
            } else {
                s.add(s.load(total.add(i * 2 * S::LANES + at)), v)
            }
        }
    }

    /// # Safety
    /// As [`Self::so_far`]; `total` must be writable.
    #[inline(always)]
    unsafe fn fold<S: Simd>(&self, s: S, tile: Part, group: usize, sums: *const f32, total: *mut f32) {
        for at in [0, S::LANES] {
            for i in 0..tile.rows {
                // SAFETY: the caller's contract.
                unsafe {
                    let v = self.so_far(s, tile, (i, at), group, sums, total);
                    s.store(total.add(i * 2 * S::LANES + at), v);
                }
            }
        }
    }

    /// The last group, then bias, activation and residual.
    ///
    /// # Safety
    /// As [`Self::so_far`]; the tile must lie inside C.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, tile: Part, group: usize, sums: *const f32, total: *const f32) {
        let e = self.epilogue;
        let bias = e.bias.map_or(&[][..], |b| &b[tile.col..][..tile.cols]);
        per_activation!(e.act, act => for i in 0..tile.rows {
            let first = (tile.row + i) * self.b.n + tile.col;
            for at in steps::<S>(tile.cols) {
                // SAFETY: the caller's contract.
                let mut v = unsafe { self.so_far(s, tile, (i, at), group, sums, total) };
                if !bias.is_empty() {
                    v = s.add(v, s.get(&bias[at..]));
                }
                let here = tile.cols - at;
                if let Some(pre) = e.pre {
                    // SAFETY: `pre` is as large as C.
                    let pre = unsafe { std::slice::from_raw_parts_mut(pre.ptr().add(first + at).cast::<MaybeUninit<f32>>(), here) };
                    s.put(pre, v);
                }
                v = if e.near { apply_near(s, act, v) } else { apply(s, act, v) };
                if let Some(residual) = e.residual {
                    v = s.add(v, s.get(&residual[first + at..][..here]));
                }
                // SAFETY: the row lies inside C, and nobody else touches it here.
                let c = unsafe { std::slice::from_raw_parts_mut(self.c.ptr().add(first + at).cast::<MaybeUninit<f32>>(), here) };
                s.put(c, v);
            }
        });
    }
}
