//! Operations made of the engine's own, without a kernel: few towers need them, and there they are a small part of the work.

use std::sync::Arc;

use burn::tensor::{Tensor, activation};

use crate::engine::tensor;

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

/// Softmax attention of the queries of each item over the item's keys, every item with equally many of both. `seen` says which keys a query sees; one
/// that sees none gets zeros. The weights of all pairs are held: it is for items of some hundred rows.
///
/// # Shapes
/// `query` `[n·q, heads·d]`; `keys`, `values` `[n·k, heads·d]`; `seen` `[n, q, k]`, row-major; the result is `[n·q, heads·d]`.
pub fn attend_items(
    query: Tensor<2>,
    keys: Tensor<2>,
    values: Tensor<2>,
    items: usize,
    heads: usize,
    seen: Option<&[bool]>,
) -> Tensor<2> {
    let [rows, c] = query.dims();
    let [others, _] = keys.dims();
    assert!(
        items > 0 && rows.is_multiple_of(items) && others.is_multiple_of(items) && c.is_multiple_of(heads.max(1)),
        "attend_items: rows are not whole items, or heads do not divide them"
    );
    let (q, k, d) = (rows / items, others / items, c / heads.max(1));
    let apart = |x: Tensor<2>, each: usize| x.reshape([items, each, heads, d]).swap_dims(1, 2);
    let query = apart(query * (d as f32).powf(-0.5), q);
    let mut scores = query.matmul(apart(keys, k).swap_dims(2, 3));
    let mask = seen.map(|seen| {
        assert_eq!(seen.len(), items * q * k, "attend_items: the mask does not fit");
        let seen = seen.iter().map(|&seen| f32::from(u8::from(seen))).collect();
        tensor::<4>(seen, [items, 1, q, k])
    });
    if let Some(mask) = &mask {
        // far below any score, and finite: a row that sees nothing stays a number
        scores = scores + (mask.clone() - 1.0) * 1e30;
    }
    let mut weights = activation::softmax(scores, 3);
    if let Some(mask) = mask {
        weights = weights * mask;
    }
    weights.matmul(apart(values, k)).swap_dims(1, 2).reshape([rows, c])
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
