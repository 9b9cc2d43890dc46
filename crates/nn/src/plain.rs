//! Operations made of the engine's own, without a kernel: few towers need them, and there they are a small part of the work.

use std::sync::Arc;

use burn::tensor::{Tensor, activation};

/// Softmax attention of one query over the tokens of its sequence (Lee et al. 2019, "Set Transformer": pooling by attention).
///
/// # Shapes
/// `query` `[n, c]`; `key_value` `[t, 2c]`, rows `k | v`; `offsets` `[n + 1]`: where each sequence begins, then `t`; the result is
/// `[n, c]`. `heads` divides `c`; no sequence is empty.
pub fn attend(query: Tensor<2>, key_value: Tensor<2>, offsets: &Arc<[usize]>, heads: usize) -> Tensor<2> {
    let [n, c] = query.dims();
    assert_eq!(
        key_value.dims()[1],
        2 * c,
        "attend: keys and values do not fit the query"
    );
    assert_eq!(offsets.len(), n + 1, "attend: one query a sequence");
    let d = c / heads.max(1);
    let query = query * (d as f32).powf(-0.5);
    let pooled = offsets
        .windows(2)
        .enumerate()
        .map(|(i, bounds)| {
            let tokens = bounds[1] - bounds[0];
            let part = |at: usize| {
                let part = key_value.clone().slice([bounds[0]..bounds[1], at * c..(at + 1) * c]);
                part.reshape([tokens, heads, d])
            };
            let query = query.clone().slice([i..i + 1, 0..c]).reshape([1, heads, d]);
            let weights = activation::softmax((part(0) * query).sum_dim(2), 0);
            (part(1) * weights).sum_dim(0).reshape([1, c])
        })
        .collect();
    Tensor::cat(pooled, 0)
}

/// Rotates the first heads of packed rows, numbers 2i and 2i + 1 of a head by angle i of the row (Su et al. 2021, with any angles).
///
/// # Shapes
/// `qkv` and the result `[n·p, heads·d]`; `cos`, `sin` `[p, d / 2]`: the angles of a sequence, the same for each of the `n`.
pub fn rotate(qkv: Tensor<2>, cos: Tensor<2>, sin: Tensor<2>, rotated_heads: usize, heads: usize) -> Tensor<2> {
    let [p, half] = cos.dims();
    let [t, width] = qkv.dims();
    assert_eq!(width, heads * 2 * half, "rotate: heads do not fit");
    assert!(p > 0 && t.is_multiple_of(p), "rotate: rows are not whole sequences");
    let (n, rotated) = (t / p, rotated_heads * 2 * half);
    let x = qkv
        .clone()
        .slice([0..t, 0..rotated])
        .reshape([n, p, rotated_heads * half, 2]);
    let pick = |i: usize| {
        let part = x.clone().slice([0..n, 0..p, 0..rotated_heads * half, i..i + 1]);
        part.reshape([n, p, rotated_heads, half])
    };
    let (cos, sin) = (cos.reshape([1, p, 1, half]), sin.reshape([1, p, 1, half]));
    let (a, b) = (pick(0), pick(1));
    let first = a.clone() * cos.clone() - b.clone() * sin.clone();
    let second = b * cos + a * sin;
    let turned = Tensor::stack::<5>(vec![first, second], 4).reshape([t, rotated]);
    Tensor::cat(vec![turned, qkv.slice([0..t, rotated..width])], 1)
}
