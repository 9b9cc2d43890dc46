//! The backward pass.
use super::{AttentionShape, KEY_BLOCK, pack_all, panels_len};
use crate::buffer::{Scratch, Shared, filled};
use crate::gemm::{Lhs, Mat, Tile, tile_into};
use crate::math::exp;
use crate::simd::{Simd, Task, dispatch, steps};
use crate::trace;
use rayon::prelude::*;

/// Query rows per block of recomputed probabilities.
const QUERY_BLOCK: usize = 70;

/// Gradient of [`super::attention`] with respect to `qkv`; probabilities are recomputed block by block from `lse`.
///
/// # Shapes
/// `gy`, `out`: `[T, heads·head_dim]`; `lse`: `[T, heads]` as the forward pass kept it; `qkv` and the result: `[T, (heads + 2·kv_heads)·head_dim]`.
pub fn attention_backward(
    gy: &[f32],
    qkv: &[f32],
    out: &[f32],
    lse: &[f32],
    offsets: &[usize],
    shape: &AttentionShape,
) -> Vec<f32> {
    let tokens = shape.check(qkv, offsets, "attention_backward");
    // five products where the forward pass has two
    trace::operations(|| {
        offsets
            .windows(2)
            .map(|o| shape.operations(0, o[1] - o[0]) / 2 * 5)
            .sum()
    });
    let c = shape.heads * shape.head_dim;
    assert!(
        gy.len() == tokens * c && out.len() == tokens * c,
        "attention_backward: gy and out must be [tokens, heads * head_dim]"
    );
    assert_eq!(
        lse.len(),
        tokens * shape.heads,
        "attention_backward: lse must be [tokens, heads]"
    );
    let tasks: Vec<(usize, usize, usize)> = offsets
        .windows(2)
        .filter(|o| o[1] > o[0])
        .flat_map(|o| (0..shape.kv_heads).map(move |kv| (o[0], o[1] - o[0], kv)))
        .collect();
    // SAFETY: the tasks cover every sequence and key/value head; each writes the gradients of its queries, keys and values in full.
    unsafe {
        filled(qkv.len(), |grad| {
            tasks.par_iter().for_each(|&(start, n, kv)| {
                let w = shape.row();
                dispatch(Group {
                    gy: &gy[start * c..(start + n) * c],
                    qkv: &qkv[start * w..(start + n) * w],
                    out: &out[start * c..(start + n) * c],
                    lse: &lse[start * shape.heads..(start + n) * shape.heads],
                    shape,
                    n,
                    kv,
                    grad: grad.at(start * w),
                });
            });
        })
    }
}

/// One key/value head of one sequence, with the query heads that share it.
struct Group<'a> {
    gy: &'a [f32],
    qkv: &'a [f32],
    out: &'a [f32],
    lse: &'a [f32],
    shape: &'a AttentionShape,
    n: usize,
    kv: usize,
    /// The gradient of the sequence's rows.
    grad: Shared,
}

impl Task for Group<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            gy,
            qkv,
            out,
            lse,
            shape,
            n,
            kv,
            grad,
        } = self;
        // Everything is in cache: nothing to fetch ahead.
        let ahead = qkv.as_ptr();
        let (d, width, nr, heads) = (shape.head_dim, shape.row(), 2 * S::LANES, shape.heads);
        let c = heads * d;
        let (k_at, v_at) = ((heads + kv) * d, (heads + shape.kv_heads + kv) * d);
        let group = heads / shape.kv_heads;
        for row in 0..n {
            for at in [k_at, v_at] {
                // SAFETY: row < n; these columns belong to this task alone.
                unsafe { std::slice::from_raw_parts_mut(grad.ptr().add(row * width + at).cast(), d) }
                    .fill(std::mem::MaybeUninit::new(0f32));
            }
        }
        let (across, along) = (panels_len::<S>(n, d), panels_len::<S>(d, n));
        let mut memory = Scratch::take(2 * across + 3 * along + 2 * QUERY_BLOCK * KEY_BLOCK);
        let scratch = memory.numbers();

        let (k_across, rest) = scratch.split_at_mut(across);
        let (v_across, rest) = rest.split_at_mut(across);
        let (k_along, rest) = rest.split_at_mut(along);
        let (q_along, rest) = rest.split_at_mut(along);
        let (g_along, rest) = rest.split_at_mut(along);
        let (p, ds) = rest.split_at_mut(QUERY_BLOCK * KEY_BLOCK);
        pack_all(
            s,
            Mat {
                data: &qkv[k_at..],
                rows: d,
                cols: n,
                row_stride: 1,
                col_stride: width,
            },
            k_across,
        );
        pack_all(
            s,
            Mat {
                data: &qkv[v_at..],
                rows: d,
                cols: n,
                row_stride: 1,
                col_stride: width,
            },
            v_across,
        );
        pack_all(
            s,
            Mat {
                data: &qkv[k_at..],
                rows: n,
                cols: d,
                row_stride: width,
                col_stride: 1,
            },
            k_along,
        );
        for head in kv * group..(kv + 1) * group {
            pack_all(
                s,
                Mat {
                    data: &qkv[head * d..],
                    rows: n,
                    cols: d,
                    row_stride: width,
                    col_stride: 1,
                },
                q_along,
            );
            pack_all(
                s,
                Mat {
                    data: &gy[head * d..],
                    rows: n,
                    cols: d,
                    row_stride: c,
                    col_stride: 1,
                },
                g_along,
            );
            for q0 in (0..n).step_by(QUERY_BLOCK) {
                let q1 = (q0 + QUERY_BLOCK).min(n);
                let mut delta = [0f32; QUERY_BLOCK];
                for i in q0..q1 {
                    delta[i - q0] = dot(s, &gy[i * c + head * d..][..d], &out[i * c + head * d..][..d]);
                }
                let (low, high) = (shape.keys(q0, n).0, shape.keys(q1 - 1, n).1);
                let mut block = low / KEY_BLOCK * KEY_BLOCK;
                let mut started = false;
                while block < high {
                    let len = KEY_BLOCK.min(n - block);
                    // SAFETY: all operands are rows of the sequence or packed panels of matching depth; the tiles of P and dS fit QUERY_BLOCK × KEY_BLOCK (rows q1 - q0,
                    // columns len rounded up to a panel, which divides KEY_BLOCK); gradients go to rows below n and to columns that this task owns.
                    unsafe {
                        for i in (q0..q1).step_by(S::MR) {
                            let rows = S::MR.min(q1 - i);
                            let q = Lhs {
                                ptr: qkv.as_ptr().add(i * width + head * d),
                                row: width,
                                k: 1,
                            };
                            let g = Lhs {
                                ptr: gy.as_ptr().add(i * c + head * d),
                                row: c,
                                k: 1,
                            };
                            for j in (0..len).step_by(nr) {
                                let at = (i - q0) * KEY_BLOCK + j;
                                tile_into(
                                    s,
                                    d,
                                    q,
                                    k_across.as_ptr().add((block + j) * d),
                                    Tile {
                                        c: p.as_mut_ptr().add(at),
                                        stride: KEY_BLOCK,
                                        rows,
                                        cols: nr,
                                        ahead,
                                        hurry: false,
                                    },
                                    false,
                                );
                                tile_into(
                                    s,
                                    d,
                                    g,
                                    v_across.as_ptr().add((block + j) * d),
                                    Tile {
                                        c: ds.as_mut_ptr().add(at),
                                        stride: KEY_BLOCK,
                                        rows,
                                        cols: nr,
                                        ahead,
                                        hurry: false,
                                    },
                                    false,
                                );
                            }
                        }
                        for i in q0..q1 {
                            let seen = shape.keys(i, n);
                            let seen = (seen.0.saturating_sub(block), seen.1.saturating_sub(block));
                            let at = (i - q0) * KEY_BLOCK;
                            let padded = len.next_multiple_of(nr);
                            line(
                                s,
                                &mut p[at..at + padded],
                                &mut ds[at..at + padded],
                                seen,
                                shape.scale,
                                lse[i * heads + head],
                                delta[i - q0],
                            );
                        }
                        for j in (0..d).step_by(nr) {
                            let cols = nr.min(d - j);
                            let (panel, rows) = (j * n, q1 - q0);
                            for i in (0..len).step_by(S::MR) {
                                let (from, count) = (i, S::MR.min(len - i));
                                let row = grad.ptr().add((block + i) * width + j);
                                let left = |m: &[f32]| Lhs {
                                    ptr: m.as_ptr().wrapping_add(from),
                                    row: 1,
                                    k: KEY_BLOCK,
                                };
                                tile_into(
                                    s,
                                    rows,
                                    left(p),
                                    g_along.as_ptr().add(panel + q0 * nr),
                                    Tile {
                                        c: row.add(v_at),
                                        stride: width,
                                        rows: count,
                                        cols,
                                        ahead,
                                        hurry: false,
                                    },
                                    true,
                                );
                                tile_into(
                                    s,
                                    rows,
                                    left(ds),
                                    q_along.as_ptr().add(panel + q0 * nr),
                                    Tile {
                                        c: row.add(k_at),
                                        stride: width,
                                        rows: count,
                                        cols,
                                        ahead,
                                        hurry: false,
                                    },
                                    true,
                                );
                            }
                            for i in (q0..q1).step_by(S::MR) {
                                let left = Lhs {
                                    ptr: ds.as_ptr().add((i - q0) * KEY_BLOCK),
                                    row: KEY_BLOCK,
                                    k: 1,
                                };
                                let to = Tile {
                                    c: grad.ptr().add(i * width + head * d + j),
                                    stride: width,
                                    rows: S::MR.min(q1 - i),
                                    cols,
                                    ahead,
                                    hurry: false,
                                };
                                tile_into(s, len, left, k_along.as_ptr().add(panel + block * nr), to, started);
                            }
                        }
                    }
                    started = true;
                    block += KEY_BLOCK;
                }
            }
        }
    }
}

/// Scores → probabilities e^(scale·score - lse); dP → dS = P·(dP - delta)·scale. Both are 0 where a key is hidden.
#[inline(always)]
fn line<S: Simd>(s: S, p: &mut [f32], ds: &mut [f32], seen: (usize, usize), scale: f32, lse: f32, delta: f32) {
    let len = p.len();
    let (from, to) = (seen.0.min(len), seen.1.min(len));
    let (scale, lse, delta) = (s.splat(scale), s.splat(lse), s.splat(delta));
    for j in steps::<S>(len) {
        let prob = exp(s, s.sub(s.mul(s.get(&p[j..]), scale), lse));
        s.set(&mut p[j..], prob);
        let slope = s.mul(s.mul(prob, s.sub(s.get(&ds[j..]), delta)), scale);
        s.set(&mut ds[j..], slope);
    }
    for line in [p, ds] {
        line[..from].fill(0.0);
        line[to.max(from)..].fill(0.0);
    }
}

#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut acc = s.zero();
    for i in steps::<S>(a.len()) {
        acc = s.fma(s.get(&a[i..]), s.get(&b[i..]), acc);
    }
    s.sum(acc)
}
