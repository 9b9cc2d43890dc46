//! From numbers to bytes: rows of A each time, columns of B once.
use super::{GROUP, GROUP_WORDS, PER_WORD, UNIT, groups, words};
use crate::buffer::{Scratch, Shared};
use crate::gemm::packed::Width;
use crate::gemm::{Mat, each};
use crate::simd::{Isa, Simd, Task, dispatch_on, isa, steps};

/// Rows that a tile instruction reads, whether they are there or not.
const WHOLE: usize = 32;
/// Numbers below which one thread quantises.
const PARALLEL_FROM: usize = 64 * 1024;

/// Rows of A as bytes without sign, four of a row in a word, and what they mean: number = step · (byte − zero).
pub(super) struct Rows<'a> {
    /// `stride` apart; as many as whole tiles have. What lies beyond k is unspecified: the weight is zero there.
    pub words: &'a [f32],
    pub stride: usize,
    pub count: usize,
    /// Of a row.
    pub groups: usize,
    /// Of each group of each row.
    pub steps: &'a [f32],
    /// The zeros, negative.
    pub minus_zeros: &'a [f32],
}

impl Rows<'_> {
    /// Words between rows: an odd number of cache lines, so that the rows of a tile do not compete for the same places of the first-level cache.
    fn stride(k: usize) -> usize {
        ((words(k) / UNIT) | 1) * UNIT
    }

    /// Words that [`quantize_rows`] needs.
    pub fn len(a: Mat) -> usize {
        a.rows.next_multiple_of(WHOLE) * Self::stride(a.cols) + 2 * a.rows * groups(a.cols).max(1)
    }
}

/// Quantises the rows of A into memory of [`Rows::len`] words.
pub(super) fn quantize_rows<'a>(isa: Isa, a: Mat, threads: usize, memory: &'a mut [f32]) -> Rows<'a> {
    let (stride, groups) = (Rows::stride(a.cols), groups(a.cols).max(1));
    let (words, rest) = memory.split_at_mut(a.rows.next_multiple_of(WHOLE) * stride);
    let (row_steps, rest) = rest.split_at_mut(a.rows * groups);
    let zeros = &mut rest[..a.rows * groups];
    let threads = if a.rows * a.cols < PARALLEL_FROM { 1 } else { threads };
    let chunks = if threads == 1 { 1 } else { (4 * threads).min(a.rows) };
    let (to, to_steps, to_zeros) = (Shared::of(words), Shared::of(row_steps), Shared::of(zeros));
    each(chunks, threads, |i| {
        let (from, end) = (a.rows * i / chunks, a.rows * (i + 1) / chunks);
        let count = end - from;
        // SAFETY: these rows lie inside the memory and belong to this task alone.
        let (words, steps, zeros) = unsafe {
            (
                std::slice::from_raw_parts_mut(to.ptr().add(from * stride), count * stride),
                std::slice::from_raw_parts_mut(to_steps.ptr().add(from * groups), count * groups),
                std::slice::from_raw_parts_mut(to_zeros.ptr().add(from * groups), count * groups),
            )
        };
        dispatch_on(
            isa,
            Quantize {
                a,
                from,
                words,
                steps,
                zeros,
            },
        );
    });
    Rows {
        words,
        stride,
        count: a.rows,
        groups,
        steps: row_steps,
        minus_zeros: zeros,
    }
}

struct Quantize<'a> {
    a: Mat<'a>,
    from: usize,
    words: &'a mut [f32],
    steps: &'a mut [f32],
    zeros: &'a mut [f32],
}

impl Task for Quantize<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            a,
            from,
            words,
            steps,
            zeros,
        } = self;
        let (stride, groups) = (Rows::stride(a.cols), groups(a.cols).max(1));
        let mut gathered = [0f32; GROUP];
        for (i, row) in words.chunks_exact_mut(stride).enumerate() {
            for g in 0..groups {
                let x = line(a, from + i, g * GROUP, &mut gathered);
                let (low, high) = range(s, x);
                let (step, per_step) = step_of(high / 255.0 - low / 255.0);
                let zero = (-low * per_step).round().clamp(0.0, 255.0);
                steps[i * groups + g] = step;
                zeros[i * groups + g] = -zero;
                // SAFETY: a row has bytes for all its groups, in whole registers.
                unsafe { bytes(s, x, per_step, zero, 0.0, row[g * GROUP_WORDS..].as_mut_ptr().cast()) };
            }
        }
    }
}

/// Up to [`GROUP`] numbers of row `row` of A from column `first` on.
#[inline(always)]
fn line<'a>(a: Mat<'a>, row: usize, first: usize, gathered: &'a mut [f32; GROUP]) -> &'a [f32] {
    let count = GROUP.min(a.cols - first);
    if count == 0 {
        return &[];
    }
    let start = row * a.row_stride + first * a.col_stride;
    if a.col_stride == 1 {
        return &a.data[start..start + count];
    }
    for (i, v) in gathered[..count].iter_mut().enumerate() {
        *v = a.data[start + i * a.col_stride];
    }
    &gathered[..count]
}

/// The lowest number, at most 0, and the highest, at least 0; not a number where one is not finite, so that nothing finite comes of it.
#[inline(always)]
fn range<S: Simd>(s: S, x: &[f32]) -> (f32, f32) {
    let (mut low, mut high, mut odd) = (s.zero(), s.zero(), s.zero());
    for i in steps::<S>(x.len()) {
        let v = s.get(&x[i..]);
        (low, high) = (s.min(low, v), s.max(high, v));
        odd = s.fma(v, s.zero(), odd);
    }
    let odd = s.sum(odd);
    (odd - s.max_lane(s.sub(s.zero(), low)), odd + s.max_lane(high))
}

/// A step, and how many of it make one. Steps that f32 calls subnormal are none: their numbers become zero.
#[inline(always)]
fn step_of(step: f32) -> (f32, f32) {
    if step < f32::MIN_POSITIVE {
        (0.0, 0.0)
    } else {
        (step, 1.0 / step)
    }
}

/// Numbers as bytes: in steps, `zero` further on, not below `lowest`. Whole registers are written.
///
/// # Safety
/// `to` must be writable for as many bytes as `x` has numbers, rounded up to whole registers.
#[inline(always)]
unsafe fn bytes<S: Simd>(s: S, x: &[f32], per_step: f32, zero: f32, lowest: f32, to: *mut u8) {
    let (per_step, zero) = (s.splat(per_step), s.splat(zero));
    let (lowest, highest) = (s.splat(lowest), s.splat(255.0));
    for i in steps::<S>(x.len()) {
        let v = s.add(s.round(s.mul(s.get(&x[i..]), per_step)), zero);
        // SAFETY: the caller's contract.
        unsafe { s.store_bytes(to.add(i), s.min(highest, s.max(lowest, v))) };
    }
}

/// Columns of B as bytes with a sign, as tiles read them.
pub(in crate::gemm) struct Bytes {
    isa: Isa,
    pub(in crate::gemm) k: usize,
    pub(in crate::gemm) n: usize,
    /// Along k.
    pub(super) words: usize,
    /// Panels of as many columns as a tile has; word `w` of column `j` of a panel at `w · columns + j`. They begin at a cache line.
    data: Vec<f32>,
    first: usize,
    /// Columns of whole panels.
    columns: usize,
    /// Of each group of each column, group by group: number = step · byte.
    steps: Vec<f32>,
    /// What the bytes of each add up to.
    sums: Vec<f32>,
}

impl Bytes {
    /// Quantises a matrix, on the threads of the pool.
    pub fn new(b: Mat) -> Self {
        let isa = isa();
        let nr = dispatch_on(isa, Width);
        let (words, groups) = (words(b.rows), groups(b.rows).max(1));
        let panels = b.cols.div_ceil(nr);
        let mut data = vec![0.0; panels * words * nr + UNIT];
        let first = data.as_ptr().align_offset(64).min(UNIT);
        let columns = panels * nr;
        let (mut steps, mut sums) = (vec![0.0; groups * columns], vec![0.0; groups * columns]);
        let (to, to_steps) = (Shared::of(&mut data[first..]), Shared::of(&mut steps));
        let to_sums = Shared::of(&mut sums);
        let threads = if b.rows * b.cols < PARALLEL_FROM {
            1
        } else {
            rayon::current_num_threads()
        };
        let chunks = if threads == 1 { 1 } else { (4 * threads).min(panels) };
        each(chunks, threads, |i| {
            for p in panels * i / chunks..panels * (i + 1) / chunks {
                // SAFETY: each panel has its own part of the data, and belongs to one task.
                let data = unsafe { std::slice::from_raw_parts_mut(to.ptr().add(p * words * nr), words * nr) };
                let mut found = vec![[0.0; 2]; groups * nr];
                let cols = (p * nr, (p * nr + nr).min(b.cols));
                dispatch_on(
                    isa,
                    Panel {
                        b,
                        cols,
                        data,
                        found: &mut found,
                    },
                );
                for (at, [step, sum]) in found.into_iter().enumerate() {
                    let at = at / nr * columns + p * nr + at % nr;
                    // SAFETY: these places belong to this panel's columns.
                    unsafe {
                        to_steps.ptr().add(at).write(step);
                        to_sums.ptr().add(at).write(sum);
                    }
                }
            }
        });
        Self {
            isa,
            k: b.rows,
            n: b.cols,
            words,
            data,
            first,
            columns,
            steps,
            sums,
        }
    }

    /// Whether it is what that instruction set reads.
    pub fn serves(&self, isa: Isa) -> bool {
        self.isa == isa
    }

    /// Whether it is of a matrix of that size.
    pub fn fits(&self, isa: Isa, b: Mat) -> bool {
        (self.isa, self.k, self.n) == (isa, b.rows, b.cols)
    }

    /// Panel `j`, of `nr` columns.
    #[inline(always)]
    pub(super) fn panel(&self, j: usize, nr: usize) -> &[f32] {
        &self.data[self.first + j * self.words * nr..][..self.words * nr]
    }

    /// Steps and sums of a group, one for each column of whole panels.
    #[inline(always)]
    pub(super) fn group(&self, group: usize) -> (&[f32], &[f32]) {
        let from = group * self.columns;
        (&self.steps[from..][..self.columns], &self.sums[from..][..self.columns])
    }
}

/// The columns of a panel.
struct Panel<'a> {
    b: Mat<'a>,
    cols: (usize, usize),
    data: &'a mut [f32],
    /// Step and sum of each group of each column, group by group.
    found: &'a mut [[f32; 2]],
}

impl Task for Panel<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { b, cols, data, found } = self;
        let (t, nr) = (b.t(), 2 * S::LANES);
        let (words, groups) = (words(b.rows), groups(b.rows));
        let mut memory = Scratch::take(nr * words);
        let lines = memory.numbers();
        lines.fill(0.0);
        let mut gathered = [0f32; GROUP];
        for (j, column) in (cols.0..cols.1).enumerate() {
            for g in 0..groups {
                let x = line(t, column, g * GROUP, &mut gathered);
                let (low, high) = range(s, x);
                // (not a number stays: both are, or neither)
                let most = if high > -low { high } else { -low };
                let (step, per_step) = step_of(most / 127.0);
                let to = lines[j * words + g * GROUP_WORDS..(j + 1) * words]
                    .as_mut_ptr()
                    .cast::<u8>();
                // SAFETY: a line has bytes for all its groups, in whole registers.
                let of = unsafe {
                    bytes(s, x, per_step, 128.0, 1.0, to);
                    std::slice::from_raw_parts_mut(to, x.len().next_multiple_of(UNIT * PER_WORD))
                };
                let mut sum = 0;
                for byte in &mut of[..x.len()] {
                    *byte ^= 0x80;
                    sum += i32::from(*byte as i8);
                }
                of[x.len()..].fill(0);
                found[g * nr + j] = [step, sum as f32];
            }
        }
        for w in (0..words).step_by(S::LANES) {
            for first in [0, S::LANES] {
                // SAFETY: both are `words` times `nr` words large, and `words` is a multiple of LANES.
                unsafe {
                    let (from, to) = (
                        lines.as_ptr().add(first * words + w),
                        data.as_mut_ptr().add(w * nr + first),
                    );
                    s.transpose(from, words, S::LANES, to, nr);
                }
            }
        }
    }
}
