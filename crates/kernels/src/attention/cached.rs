//! Attention of new tokens over the keys and values of all tokens so far, for decoding.
use super::AttentionShape;
use super::forward::{Heads, QUERY_ROWS, Rows};
use crate::buffer::filled;
use crate::math::exp;
use crate::simd::{Simd, Task, dispatch, steps};
use crate::{team, trace};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// New rows up to which each walks over the keys as they lie in memory: packing them for tiles would cost as much as the products.
const FEW: usize = 4;
/// Products of fewer multiplications than this run on the calling thread.
const PARALLEL_FROM: usize = 1 << 17;
/// The same where the other threads are awake.
const LED_FROM: usize = 1 << 13;

/// As [`super::attention`] for the last tokens of sequences whose earlier keys and values are kept: row i of a sequence with `b` tokens before is its
/// token `b + i`. The new tokens' own keys and values are in the cache already.
///
/// # Shapes
/// `qkv`: `[T, (heads + 2·kv_heads)·head_dim]`, rows q|k|v of the new tokens, of which q is read; `offsets`: `[n + 1]`, where the new tokens of each
/// sequence begin, then T; `caches`: n times `[tokens so far, 2·kv_heads·head_dim]`, rows k|v; result: `[T, heads·head_dim]`.
pub fn attention_cached(qkv: &[f32], offsets: &[usize], caches: &[&[f32]], shape: &AttentionShape) -> Vec<f32> {
    let tokens = shape.check(qkv, offsets, "attention_cached");
    assert!(
        shape.causal,
        "attention_cached: what is kept must not depend on what comes"
    );
    assert_eq!(caches.len() + 1, offsets.len(), "attention_cached: a cache a sequence");
    let (d, row, width) = (shape.head_dim, shape.row(), 2 * shape.kv_heads * shape.head_dim);
    let sequences: Vec<Sequence> = offsets
        .windows(2)
        .zip(caches)
        .map(|(o, &kv)| {
            let (n, new) = (kv.len() / width, o[1] - o[0]);
            assert!(
                kv.len() == n * width && new <= n,
                "attention_cached: a cache must be [tokens, 2 kv_heads * head_dim] and hold the new tokens"
            );
            Sequence {
                q: Heads::queries(&qkv[o[0] * row..o[1] * row], shape),
                k: Heads::new(kv, width, 0, shape),
                v: Heads::new(kv, width, shape.kv_heads, shape),
                start: o[0],
                before: n - new,
                n,
            }
        })
        .collect();
    trace::operations(|| sequences.iter().map(|s| shape.operations(s.before, s.n)).sum());
    let few = |s: &Sequence| s.n - s.before <= FEW;
    let rows: Vec<(&Sequence, usize)> = sequences
        .iter()
        .filter(|s| few(s))
        .flat_map(|s| (s.before..s.n).map(move |row| (s, row)))
        .collect();
    let tiles: Vec<(&Sequence, usize, usize)> = sequences
        .iter()
        .filter(|s| !few(s))
        .flat_map(|s| {
            (0..shape.heads).flat_map(move |head| (s.before..s.n).step_by(QUERY_ROWS).map(move |row| (s, head, row)))
        })
        .collect();
    let work: usize = rows.iter().map(|(s, _)| s.n * shape.heads * d).sum();
    // SAFETY: each row of each head is written in full by the one task that it belongs to.
    unsafe {
        filled(tokens * shape.heads * d, |y| {
            let one = |&(s, row): &(&Sequence, usize), head: usize| {
                let at = ((s.start + row - s.before) * shape.heads + head) * d;
                // these d numbers of the output belong to this row of this head alone
                let out = std::slice::from_raw_parts_mut(y.ptr().add(at).cast(), d);
                dispatch(Row {
                    s,
                    shape,
                    row,
                    head,
                    out,
                });
            };
            let threads = if work < if team::is_led() { LED_FROM } else { PARALLEL_FROM } {
                1
            } else {
                rayon::current_num_threads()
            };
            let heads = shape.heads;
            team::each(rows.len() * heads, threads, |i| one(&rows[i / heads], i % heads));
            tiles.par_iter().for_each(|&(s, head, row)| {
                dispatch(Rows {
                    q: s.q,
                    k: s.k,
                    v: s.v,
                    shape,
                    start: s.start,
                    before: s.before,
                    n: s.n,
                    head,
                    first: row,
                    end: (row + QUERY_ROWS).min(s.n),
                    y,
                    lse: None,
                });
            });
        })
    }
}

/// Where a sequence's vectors are.
struct Sequence<'a> {
    q: Heads<'a>,
    k: Heads<'a>,
    v: Heads<'a>,
    /// Its first new token among all new ones.
    start: usize,
    /// Its tokens before that.
    before: usize,
    n: usize,
}

/// One row of one head.
struct Row<'a, 'b> {
    s: &'b Sequence<'a>,
    shape: &'b AttentionShape,
    row: usize,
    head: usize,
    out: &'b mut [MaybeUninit<f32>],
}

impl Task for Row<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            s: sequence,
            shape,
            row,
            head,
            out,
        } = self;
        let d = shape.head_dim;
        let kv = head / (shape.heads / shape.kv_heads);
        let (low, high) = shape.keys(row, sequence.n);
        let q = &sequence.q.from(row - sequence.before, head)[..d];
        let mut scores: Vec<f32> = (low..high)
            .map(|j| {
                let k = &sequence.k.from(j, kv)[..d];
                let mut sum = s.zero();
                for x in steps::<S>(d) {
                    sum = s.fma(s.get(&q[x..]), s.get(&k[x..]), sum);
                }
                shape.scale * s.sum(sum)
            })
            .collect();
        let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (base, mut sum) = (s.splat(top), s.zero());
        let n = scores.len();
        for x in steps::<S>(n) {
            let p = exp(s, s.sub(s.get(&scores[x..]), base));
            // what a register holds beyond the line does not count
            sum = s.add(sum, s.head(p, n - x));
            s.set(&mut scores[x..], p);
        }
        let inverse = s.splat(1.0 / s.sum(sum));
        for x in steps::<S>(d) {
            let mut mixed = s.zero();
            for (j, &p) in (low..high).zip(&scores) {
                mixed = s.fma(s.splat(p), s.get(&sequence.v.from(j, kv)[x..d]), mixed);
            }
            s.put(&mut out[x..], s.mul(mixed, inverse));
        }
    }
}
