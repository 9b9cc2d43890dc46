//! The forward pass.
use super::{AttentionShape, KEY_BLOCK, pack_all, panels_len};
use crate::buffer::{Scratch, Shared, filled};
use crate::gemm::{Lhs, Mat, Tile, tile_into};
use crate::math::exp;
use crate::simd::{Simd, Task, dispatch, steps};
use crate::trace;
use rayon::prelude::*;

/// Query rows per task: short sequences are one task per head, long ones several.
pub(super) const QUERY_ROWS: usize = 256;

/// softmax(scale · q kᵀ) v per sequence and head, with the masks of `shape`.
///
/// The second result is the log-sum-exp of the scaled scores per token and head, when `keep_lse`; the backward pass needs it.
///
/// # Shapes
/// `qkv`: `[T, (heads + 2·kv_heads)·head_dim]` with rows q|k|v; `offsets`: `[n + 1]`, from 0 to T; result: `[T, heads·head_dim]`, lse `[T, heads]`.
pub fn attention(
    qkv: &[f32],
    offsets: &[usize],
    shape: &AttentionShape,
    keep_lse: bool,
) -> (Vec<f32>, Option<Vec<f32>>) {
    let tokens = shape.check(qkv, offsets, "attention");
    trace::operations(|| offsets.windows(2).map(|o| shape.operations(0, o[1] - o[0])).sum());
    let tasks: Vec<(usize, usize, usize, usize)> = offsets
        .windows(2)
        .flat_map(|o| {
            let (start, n) = (o[0], o[1] - o[0]);
            (0..shape.heads).flat_map(move |head| (0..n).step_by(QUERY_ROWS).map(move |row| (start, n, head, row)))
        })
        .collect();
    let mut lse = keep_lse.then(Vec::new);
    // SAFETY: the tasks cover every row of every head, and each writes its rows in full.
    let y = unsafe {
        filled(tokens * shape.heads * shape.head_dim, |y| {
            let run = |lse: Option<Shared>| {
                tasks.par_iter().for_each(|&(start, n, head, row)| {
                    let qkv = &qkv[start * shape.row()..(start + n) * shape.row()];
                    dispatch(Rows {
                        q: Heads::queries(qkv, shape),
                        k: Heads::new(qkv, shape.row(), shape.heads, shape),
                        v: Heads::new(qkv, shape.row(), shape.heads + shape.kv_heads, shape),
                        shape,
                        start,
                        before: 0,
                        n,
                        head,
                        first: row,
                        end: (row + QUERY_ROWS).min(n),
                        y,
                        lse,
                    });
                });
            };
            match &mut lse {
                Some(lse) => *lse = filled(tokens * shape.heads, |p| run(Some(p))),
                None => run(None),
            }
        })
    };
    (y, lse)
}

/// Vectors of all heads of one kind, of each token of a sequence.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    data: &'a [f32],
    /// Numbers from one token to the next.
    width: usize,
    /// Where the first head begins in a row.
    at: usize,
    head_dim: usize,
}

impl<'a> Heads<'a> {
    /// The heads that begin with head number `first` of packed rows.
    pub fn new(data: &'a [f32], width: usize, first: usize, shape: &AttentionShape) -> Self {
        Self {
            data,
            width,
            at: first * shape.head_dim,
            head_dim: shape.head_dim,
        }
    }

    /// The queries of packed rows q|k|v.
    pub fn queries(qkv: &'a [f32], shape: &AttentionShape) -> Self {
        Self::new(qkv, shape.row(), 0, shape)
    }

    /// Where a head's vector of a token begins, and all that follows.
    #[inline(always)]
    pub fn from(self, token: usize, head: usize) -> &'a [f32] {
        &self.data[token * self.width + self.at + head * self.head_dim..]
    }
}

/// Query rows `first..end` of one head of one sequence.
pub(super) struct Rows<'a> {
    /// Of the tokens from `before` on.
    pub q: Heads<'a>,
    /// Of all tokens.
    pub k: Heads<'a>,
    pub v: Heads<'a>,
    pub shape: &'a AttentionShape,
    /// The sequence's first token that has a row of output.
    pub start: usize,
    /// Tokens of the sequence before that one.
    pub before: usize,
    pub n: usize,
    pub head: usize,
    pub first: usize,
    pub end: usize,
    pub y: Shared,
    pub lse: Option<Shared>,
}

impl Task for Rows<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            q,
            k,
            v,
            shape,
            start,
            before,
            n,
            head,
            first,
            end,
            y,
            lse,
        } = self;
        // Everything is in cache: nothing to fetch ahead.
        let ahead = k.data.as_ptr();
        let (d, nr) = (shape.head_dim, 2 * S::LANES);
        let kv = head / (shape.heads / shape.kv_heads);
        // The keys that any of these rows sees.
        let (low, high) = (shape.keys(first, n).0, shape.keys(end - 1, n).1);
        let keys = high - low;
        let (k_len, v_len) = (panels_len::<S>(keys, d), panels_len::<S>(d, keys));
        let wide = d.next_multiple_of(nr);
        let mut memory = Scratch::take(k_len + v_len + S::MR * (KEY_BLOCK + wide));
        let scratch = memory.numbers();

        let (k_panels, rest) = scratch.split_at_mut(k_len);
        let (v_panels, rest) = rest.split_at_mut(v_len);
        let (scores, sums) = rest.split_at_mut(S::MR * KEY_BLOCK);
        pack_all(
            s,
            Mat {
                data: k.from(low, kv),
                rows: d,
                cols: keys,
                row_stride: 1,
                col_stride: k.width,
            },
            k_panels,
        );
        pack_all(
            s,
            Mat {
                data: v.from(low, kv),
                rows: keys,
                cols: d,
                row_stride: v.width,
                col_stride: 1,
            },
            v_panels,
        );
        let mut row = first;
        while row < end {
            let rows = S::MR.min(end - row);
            let (mut top, mut total) = ([f32::NEG_INFINITY; 16], [0f32; 16]);
            let span = (shape.keys(row, n).0 - low, shape.keys(row + rows - 1, n).1 - low);
            let mut block = span.0 / nr * nr;
            let mut started = false;
            while block < span.1 {
                let len = KEY_BLOCK.min(keys - block);
                // SAFETY: query rows lie inside those of `q`; panels hold d × 2·LANES and keys × 2·LANES numbers; the tiles fit `scores` (MR × KEY_BLOCK) and `sums` (MR × wide).
                unsafe {
                    let lhs = Lhs {
                        ptr: q.from(row - before, head).as_ptr(),
                        row: q.width,
                        k: 1,
                    };
                    for j in (0..len).step_by(nr) {
                        let to = Tile {
                            c: scores.as_mut_ptr().add(j),
                            stride: KEY_BLOCK,
                            rows,
                            cols: nr,
                            ahead,
                            hurry: false,
                        };
                        tile_into(s, d, lhs, k_panels.as_ptr().add((block + j) * d), to, false);
                    }
                    for i in 0..rows {
                        let seen = shape.keys(row + i, n);
                        let seen = (seen.0.saturating_sub(low + block), seen.1.saturating_sub(low + block));
                        let line = &mut scores[i * KEY_BLOCK..][..len.next_multiple_of(nr)];
                        let factor = softmax_line(s, line, seen, shape.scale, &mut top[i], &mut total[i]);
                        if started && factor != 1.0 {
                            let sums = &mut sums[i * wide..][..wide];
                            for j in steps::<S>(wide) {
                                let scaled = s.mul(s.get(&sums[j..]), s.splat(factor));
                                s.set(&mut sums[j..], scaled);
                            }
                        }
                    }
                    let p = Lhs {
                        ptr: scores.as_ptr(),
                        row: KEY_BLOCK,
                        k: 1,
                    };
                    for j in (0..wide).step_by(nr) {
                        let to = Tile {
                            c: sums.as_mut_ptr().add(j),
                            stride: wide,
                            rows,
                            cols: nr,
                            ahead,
                            hurry: false,
                        };
                        tile_into(s, len, p, v_panels.as_ptr().add(j * keys + block * nr), to, started);
                    }
                }
                started = true;
                block += KEY_BLOCK;
            }
            for i in 0..rows {
                let token = start + row + i - before;
                // SAFETY: this row of this head belongs to this task alone.
                let out =
                    unsafe { std::slice::from_raw_parts_mut(y.ptr().add((token * shape.heads + head) * d).cast(), d) };
                let inverse = s.splat(1.0 / total[i]);
                for j in steps::<S>(d) {
                    s.put(&mut out[j..], s.mul(s.get(&sums[i * wide + j..]), inverse));
                }
                if let Some(lse) = lse {
                    // SAFETY: as above.
                    unsafe { lse.ptr().add(token * shape.heads + head).write(top[i] + total[i].ln()) };
                }
            }
            row += rows;
        }
    }
}

/// Turns raw scores into e^(scale·score - maximum) where `seen`, 0 elsewhere; updates the running maximum and sum; returns the factor for what was summed before.
#[inline(always)]
fn softmax_line<S: Simd>(
    s: S,
    line: &mut [f32],
    seen: (usize, usize),
    scale: f32,
    top: &mut f32,
    total: &mut f32,
) -> f32 {
    let len = line.len();
    let (from, to) = (seen.0.min(len), seen.1.min(len));
    line[..from].fill(f32::NEG_INFINITY);
    line[to.max(from)..].fill(f32::NEG_INFINITY);
    let scale = s.splat(scale);
    let mut best = s.splat(f32::NEG_INFINITY);
    for j in steps::<S>(len) {
        // Hidden places stay -∞ whatever the sign of the scale.
        let raw = s.get(&line[j..]);
        let hidden = s.select_lt(raw, s.splat(f32::MIN), raw, s.mul(raw, scale));
        s.set(&mut line[j..], hidden);
        best = s.max(best, hidden);
    }
    let new = top.max(s.max_lane(best));
    // A line that has seen nothing yet keeps -∞; subtracting 0 avoids -∞ - -∞.
    let base = if new == f32::NEG_INFINITY { 0.0 } else { new };
    let (b, mut sum) = (s.splat(base), s.zero());
    for j in steps::<S>(len) {
        let p = exp(s, s.sub(s.get(&line[j..]), b));
        s.set(&mut line[j..], p);
        sum = s.add(sum, p);
    }
    let factor = if *top == f32::NEG_INFINITY {
        0.0
    } else {
        (*top - base).exp()
    };
    *top = new;
    *total = *total * factor + s.sum(sum);
    factor
}
