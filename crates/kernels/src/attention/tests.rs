use super::*;
use crate::testing::{assert_close, each_isa, numbers, numeric_gradient, wide};

/// Attention by its definition, in `f64`.
fn naive(qkv: &[f64], offsets: &[usize], s: &AttentionShape) -> (Vec<f64>, Vec<f64>) {
    let (d, w) = (s.head_dim, s.row());
    let tokens = offsets[offsets.len() - 1];
    let (mut y, mut lse) = (vec![0.0; tokens * s.heads * d], vec![0.0; tokens * s.heads]);
    for o in offsets.windows(2) {
        for i in o[0]..o[1] {
            for h in 0..s.heads {
                let kv = h / (s.heads / s.kv_heads);
                let distance = |j: usize| i.abs_diff(j);
                let seen: Vec<usize> = (o[0]..o[1])
                    .filter(|&j| (!s.causal || j <= i) && s.window.is_none_or(|w| distance(j) < w))
                    .collect();
                let at = |token: usize, head: usize, x: usize| qkv[token * w + head * d + x];
                let scores: Vec<f64> = seen
                    .iter()
                    .map(|&j| f64::from(s.scale) * (0..d).map(|x| at(i, h, x) * at(j, s.heads + kv, x)).sum::<f64>())
                    .collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|v| (v - top).exp()).sum();
                lse[i * s.heads + h] = top + sum.ln();
                for (&j, score) in seen.iter().zip(&scores) {
                    for x in 0..d {
                        y[(i * s.heads + h) * d + x] += (score - top).exp() / sum * at(j, s.heads + s.kv_heads + kv, x);
                    }
                }
            }
        }
    }
    (y, lse)
}

fn shapes(head_dim: usize) -> Vec<AttentionShape> {
    let mut all = Vec::new();
    for (heads, kv_heads) in [(1, 1), (4, 2), (3, 1)] {
        for causal in [false, true] {
            for window in [None, Some(1), Some(3)] {
                all.push(AttentionShape {
                    heads,
                    kv_heads,
                    head_dim,
                    causal,
                    window,
                    scale: 0.3,
                });
            }
        }
    }
    all
}

#[test]
fn forward_agrees_with_f64() {
    each_isa(|isa| {
        for head_dim in [1, 8, 20, 32, 40, 64] {
            for s in shapes(head_dim) {
                let offsets = [0, 1, 1, 8, 41, 60];
                let qkv: Vec<f32> = numbers(60 * s.row(), 1).iter().map(|v| v * 3.0).collect();
                let (y, lse) = attention(&qkv, &offsets, &s, true);
                let (y64, lse64) = naive(&wide(&qkv), &offsets, &s);
                assert_close(&y, &y64, 1e-5, &format!("{isa} {s:?}"));
                assert_close(&lse.unwrap(), &lse64, 1e-5, "lse");
                assert!(attention(&qkv, &offsets, &s, false).1.is_none());
            }
        }
    });
}

#[test]
fn long_sequences_cross_key_and_query_blocks() {
    each_isa(|isa| {
        for (causal, window) in [
            (false, None),
            (true, None),
            (true, Some(100)),
            (true, Some(300)),
            (false, Some(150)),
        ] {
            let s = AttentionShape {
                heads: 2,
                kv_heads: 1,
                head_dim: 16,
                causal,
                window,
                scale: 0.5,
            };
            let offsets = [0, 301, 600];
            let qkv: Vec<f32> = numbers(600 * s.row(), 2).iter().map(|v| v * 3.0).collect();
            let (y, lse) = attention(&qkv, &offsets, &s, true);
            let (y64, _) = naive(&wide(&qkv), &offsets, &s);
            assert_close(&y, &y64, 1e-5, &format!("{isa} {s:?}"));
            // The gradient of a long sequence: a directional derivative in f64 against ours.
            let (gy, step) = (numbers(y.len(), 3), wide(&numbers(qkv.len(), 4)));
            let grad = attention_backward(&gy, &qkv, &y, &lse.unwrap(), &offsets, &s);
            let ours: f64 = grad.iter().zip(&step).map(|(&g, d)| f64::from(g) * d).sum();
            let at = |h: f64| -> f64 {
                let moved: Vec<f64> = wide(&qkv).iter().zip(&step).map(|(x, d)| x + h * d).collect();
                naive(&moved, &offsets, &s)
                    .0
                    .iter()
                    .zip(&gy)
                    .map(|(y, &g)| y * f64::from(g))
                    .sum()
            };
            let truth = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!(
                (ours - truth).abs() < 2e-4 * (1.0 + truth.abs()),
                "{isa} {s:?}: {ours} against {truth}"
            );
        }
    });
}

#[test]
fn backward_agrees_with_finite_differences() {
    each_isa(|isa| {
        for head_dim in [3, 8] {
            for s in shapes(head_dim) {
                let offsets = [0, 1, 1, 6, 13];
                let qkv = numbers(13 * s.row(), 5);
                let gy = numbers(13 * s.heads * s.head_dim, 6);
                let (y, lse) = attention(&qkv, &offsets, &s, true);
                let grad = attention_backward(&gy, &qkv, &y, &lse.unwrap(), &offsets, &s);
                assert_close(
                    &grad,
                    &numeric_gradient(&qkv, &gy, |x| naive(x, &offsets, &s).0),
                    2e-5,
                    &format!("{isa} {s:?}"),
                );
            }
        }
    });
}

#[test]
fn huge_scores_do_not_overflow() {
    let s = AttentionShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
        causal: false,
        window: None,
        scale: 1.0,
    };
    let qkv: Vec<f32> = numbers(40 * s.row(), 7).iter().map(|v| v * 1e4).collect();
    let (y, lse) = attention(&qkv, &[0, 40], &s, true);
    assert!(y.iter().chain(&lse.unwrap()).all(|v| v.is_finite()));
    assert_close(&y, &naive(&wide(&qkv), &[0, 40], &s).0, 1e-3, "huge");
}

#[test]
fn no_sequences_no_output() {
    let s = shapes(8)[0];
    assert_eq!(attention(&[], &[0], &s, true), (vec![], Some(vec![])));
    assert!(attention_backward(&[], &[], &[], &[], &[0, 0], &s).is_empty());
}

#[test]
fn new_rows_over_kept_keys_give_the_bits_of_tiles_or_nearly() {
    each_isa(|isa| {
        for head_dim in [1, 20, 64] {
            for s in shapes(head_dim).into_iter().filter(|s| s.causal) {
                // sequences of these lengths, of which the last so many rows are new: one, a few, many, all, none
                let (lengths, new) = ([41usize, 9, 300, 12, 3], [1usize, 3, 270, 12, 0]);
                let (mut whole, mut rows, mut caches, mut offsets) = (vec![0], Vec::new(), Vec::new(), vec![0]);
                let mut all = Vec::new();
                for (i, (&n, &new)) in lengths.iter().zip(&new).enumerate() {
                    let qkv = numbers(n * s.row(), i as u64 + 1);
                    let keys = s.heads * s.head_dim;
                    caches.push(
                        qkv.chunks(s.row())
                            .flat_map(|row| row[keys..].to_vec())
                            .collect::<Vec<f32>>(),
                    );
                    rows.extend_from_slice(&qkv[(n - new) * s.row()..]);
                    offsets.push(offsets[i] + new);
                    whole.push(whole[i] + n);
                    all.extend(qkv);
                }
                let (expected, _) = attention(&all, &whole, &s, false);
                let caches: Vec<&[f32]> = caches.iter().map(Vec::as_slice).collect();
                let found = attention_cached(&rows, &offsets, &caches, &s);
                let width = s.heads * s.head_dim;
                let wanted: Vec<f32> = (0..lengths.len())
                    .flat_map(|i| expected[(whole[i + 1] - new[i]) * width..whole[i + 1] * width].to_vec())
                    .collect();
                assert_eq!(found.len(), wanted.len());
                for (a, b) in found.iter().zip(&wanted) {
                    assert!((a - b).abs() < 2e-6, "{isa:?} {s:?}: {a} {b}");
                }
            }
        }
    });
}
