//! Layer norm (Ba et al. 2016) and RMS norm (Zhang & Sennrich 2019) over the last dimension; the backward passes recompute the statistics instead of storing them.
use crate::Gradient;
use crate::buffer::{par_rows, par_rows_sums};
use crate::simd::{Simd, Task, dispatch, steps};
use std::mem::MaybeUninit;

/// Σ f(x) over a row; four accumulators hide the latency of the additions.
#[inline(always)]
fn row_sum<S: Simd>(s: S, x: &[f32], f: impl Fn(S::V, S::V) -> S::V) -> f32 {
    let mut acc = [s.zero(); 4];
    let mut blocks = x.chunks_exact(4 * S::LANES);
    for block in &mut blocks {
        for i in 0..4 {
            acc[i] = f(s.get(&block[i * S::LANES..]), acc[i]);
        }
    }
    let rest = blocks.remainder();
    for i in steps::<S>(rest.len()) {
        // Lanes beyond the row keep what they had.
        let n = rest.len() - i;
        let next = f(s.get(&rest[i..]), acc[0]);
        acc[0] = if n >= S::LANES {
            next
        } else {
            s.add(acc[0], s.head(s.sub(next, acc[0]), n))
        };
    }
    s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}

/// Mean and 1/√(variance + eps), in two passes over a row that is in cache: no cancellation.
#[inline(always)]
fn moments<S: Simd>(s: S, x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = row_sum(s, x, |v, acc| s.add(acc, v)) / n;
    let m = s.splat(mean);
    let squares = row_sum(s, x, |v, acc| {
        let d = s.sub(v, m);
        s.fma(d, d, acc)
    });
    (mean, 1.0 / (squares / n + eps).sqrt())
}

/// 1/√(mean of squares + eps).
#[inline(always)]
pub(crate) fn inverse_rms<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    1.0 / (row_sum(s, x, |v, acc| s.fma(v, v, acc)) / x.len() as f32 + eps).sqrt()
}

/// y = (x - mean)·r·w + b for one row; without `b` and with mean 0 an RMS norm.
#[inline(always)]
pub(crate) fn scale_row<S: Simd>(
    s: S,
    x: &[f32],
    mean: f32,
    r: f32,
    w: &[f32],
    b: &[f32],
    out: &mut [MaybeUninit<f32>],
) {
    let (m, r) = (s.splat(mean), s.splat(r));
    for i in steps::<S>(x.len()) {
        let scaled = s.mul(s.mul(s.sub(s.get(&x[i..]), m), r), s.get(&w[i..]));
        s.put(
            &mut out[i..],
            if b.is_empty() {
                scaled
            } else {
                s.add(scaled, s.get(&b[i..]))
            },
        );
    }
}

/// Backward of [`scale_row`]: writes gx, adds to `gw` and (unless empty) to `gb`. `centred` says that the mean was taken out.
#[inline(always)]
pub(crate) fn scale_row_backward<S: Simd>(
    s: S,
    gy: &[f32],
    x: &[f32],
    mean: f32,
    r: f32,
    w: &[f32],
    centred: bool,
    out: &mut [MaybeUninit<f32>],
    gw: &mut [f32],
    gb: &mut [f32],
) {
    let n = x.len() as f32;
    let (m, rv) = (s.splat(mean), s.splat(r));
    let (mut dot, mut total) = (s.zero(), s.zero());
    for i in steps::<S>(x.len()) {
        // Beyond the row's end gy is 0, which keeps those lanes out of every sum.
        let g = s.get(&gy[i..]);
        let hat = s.mul(s.sub(s.get(&x[i..]), m), rv);
        let through = s.mul(g, s.get(&w[i..]));
        dot = s.fma(through, hat, dot);
        total = s.add(total, through);
        let sum = s.fma(g, hat, s.get(&gw[i..]));
        s.set(&mut gw[i..], sum);
        if !gb.is_empty() {
            let sum = s.add(g, s.get(&gb[i..]));
            s.set(&mut gb[i..], sum);
        }
    }
    let dot = s.splat(s.sum(dot) / n);
    let total = s.splat(if centred { s.sum(total) / n } else { 0.0 });
    for i in steps::<S>(x.len()) {
        let hat = s.mul(s.sub(s.get(&x[i..]), m), rv);
        let through = s.mul(s.get(&gy[i..]), s.get(&w[i..]));
        s.put(&mut out[i..], s.mul(rv, s.sub(s.sub(through, total), s.mul(hat, dot))));
    }
}

struct Forward<'a> {
    x: &'a [f32],
    w: &'a [f32],
    /// Empty: RMS norm.
    b: Option<&'a [f32]>,
    eps: f32,
    out: &'a mut [MaybeUninit<f32>],
}
impl Task for Forward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.w.len();
        for (x, out) in self.x.chunks_exact(c).zip(self.out.chunks_exact_mut(c)) {
            let (mean, r) = if self.b.is_some() {
                moments(s, x, self.eps)
            } else {
                (0.0, inverse_rms(s, x, self.eps))
            };
            scale_row(s, x, mean, r, self.w, self.b.unwrap_or(&[]), out);
        }
    }
}

struct Backward<'a> {
    gy: &'a [f32],
    x: &'a [f32],
    w: &'a [f32],
    eps: f32,
    layer: bool,
    out: &'a mut [MaybeUninit<f32>],
    sums: &'a mut [f32],
}
impl Task for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.w.len();
        if c == 0 {
            return;
        }
        let (gw, gb) = self.sums.split_at_mut(c);
        for ((gy, x), out) in self
            .gy
            .chunks_exact(c)
            .zip(self.x.chunks_exact(c))
            .zip(self.out.chunks_exact_mut(c))
        {
            let (mean, r) = if self.layer {
                moments(s, x, self.eps)
            } else {
                (0.0, inverse_rms(s, x, self.eps))
            };
            scale_row_backward(s, gy, x, mean, r, self.w, self.layer, out, gw, gb);
        }
    }
}

fn forward(x: &[f32], w: &[f32], b: Option<&[f32]>, eps: f32, rows: usize, c: usize) -> Vec<f32> {
    // SAFETY: every row of a block is written.
    unsafe {
        par_rows(rows, c, |first, out| {
            dispatch(Forward {
                x: &x[first * c..][..out.len()],
                w,
                b,
                eps,
                out,
            })
        })
    }
}

fn backward(gy: &[f32], x: &[f32], w: &[f32], eps: f32, rows: usize, c: usize, layer: bool) -> (Vec<f32>, Vec<f32>) {
    let sums = if layer { 2 * c } else { c };
    // SAFETY: every row of a block is written.
    unsafe {
        par_rows_sums(rows, c, c, sums, |r, out, sums| {
            let range = r.start * c..r.end * c;
            dispatch(Backward {
                gy: &gy[range.clone()],
                x: &x[range],
                w,
                eps,
                layer,
                out,
                sums,
            });
        })
    }
}

/// y = (x - mean) / √(var + eps) · w + b, per row; the variance is the biased one.
///
/// # Shapes
/// `x` and the result: `[rows, c]`; `w`, `b`: `[c]`.
pub fn layer_norm(x: &[f32], w: &[f32], b: &[f32], eps: f32, rows: usize, c: usize) -> Vec<f32> {
    assert_eq!(x.len(), rows * c, "layer_norm: x must be [rows, c]");
    assert!(w.len() == c && b.len() == c, "layer_norm: w and b must be [c]");
    forward(x, w, Some(b), eps, rows, c)
}

/// Gradients of [`layer_norm`] with respect to x, w and b, those that `need` names.
///
/// # Shapes
/// `gy`, `x`: `[rows, c]`; `w`: `[c]`.
pub fn layer_norm_backward(
    gy: &[f32],
    x: &[f32],
    w: &[f32],
    eps: f32,
    rows: usize,
    c: usize,
    need: [bool; 3],
) -> (Gradient, Gradient, Gradient) {
    assert!(
        gy.len() == rows * c && x.len() == rows * c,
        "layer_norm_backward: gy and x must be [rows, c]"
    );
    assert_eq!(w.len(), c, "layer_norm_backward: w must be [c]");
    let (gx, mut gw) = backward(gy, x, w, eps, rows, c, true);
    let gb = gw.split_off(c);
    (need[0].then_some(gx), need[1].then_some(gw), need[2].then_some(gb))
}

/// y = x / √(mean(x²) + eps) · w, per row.
///
/// # Shapes
/// `x` and the result: `[rows, c]`; `w`: `[c]` (Gemma stores `w - 1`: add 1 when loading).
pub fn rms_norm(x: &[f32], w: &[f32], eps: f32, rows: usize, c: usize) -> Vec<f32> {
    assert_eq!(x.len(), rows * c, "rms_norm: x must be [rows, c]");
    assert_eq!(w.len(), c, "rms_norm: w must be [c]");
    forward(x, w, None, eps, rows, c)
}

/// Gradients of [`rms_norm`] with respect to x and w, those that `need` names.
///
/// # Shapes
/// `gy`, `x`: `[rows, c]`; `w`: `[c]`.
pub fn rms_norm_backward(
    gy: &[f32],
    x: &[f32],
    w: &[f32],
    eps: f32,
    rows: usize,
    c: usize,
    need: [bool; 2],
) -> (Gradient, Gradient) {
    assert!(
        gy.len() == rows * c && x.len() == rows * c,
        "rms_norm_backward: gy and x must be [rows, c]"
    );
    assert_eq!(w.len(), c, "rms_norm_backward: w must be [c]");
    let (gx, gw) = backward(gy, x, w, eps, rows, c, false);
    (need[0].then_some(gx), need[1].then_some(gw))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, numbers, numeric_gradient, wide};

    fn naive(x: &[f64], w: &[f64], b: &[f64], c: usize, layer: bool) -> Vec<f64> {
        x.chunks(c.max(1))
            .flat_map(|row| {
                let mean = if layer { row.iter().sum::<f64>() / c as f64 } else { 0.0 };
                let r = 1.0 / (row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / c as f64 + 1e-5).sqrt();
                row.iter()
                    .zip(w.iter().zip(b))
                    .map(move |(v, (w, b))| (v - mean) * r * w + b)
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    const SHAPES: [(usize, usize); 7] = [(0, 8), (1, 1), (1, 16), (3, 17), (5, 40), (2, 768), (700, 33)];

    #[test]
    fn forward_agrees_with_f64() {
        each_isa(|isa| {
            for (rows, c) in SHAPES {
                // A large offset shows cancellation.
                let x: Vec<f32> = numbers(rows * c, 1).iter().map(|v| v + 30.0).collect();
                let (w, b) = (numbers(c, 2), numbers(c, 3));
                assert_close(
                    &layer_norm(&x, &w, &b, 1e-5, rows, c),
                    &naive(&wide(&x), &wide(&w), &wide(&b), c, true),
                    2e-5,
                    isa,
                );
                assert_close(
                    &rms_norm(&x, &w, 1e-5, rows, c),
                    &naive(&wide(&x), &wide(&w), &vec![0.0; c], c, false),
                    2e-6,
                    isa,
                );
            }
        });
    }

    #[test]
    fn backward_agrees_with_finite_differences() {
        each_isa(|_| {
            for (rows, c) in [(0, 3), (1, 2), (3, 17), (4, 40)] {
                let (x, w, b, gy) = (numbers(rows * c, 4), numbers(c, 5), numbers(c, 6), numbers(rows * c, 7));
                let (x64, w64, b64) = (wide(&x), wide(&w), wide(&b));
                let zero = vec![0.0; c];
                let (gx, gw, gb) = layer_norm_backward(&gy, &x, &w, 1e-5, rows, c, [true; 3]);
                assert_close(
                    &gx.unwrap(),
                    &numeric_gradient(&x, &gy, |x| naive(x, &w64, &b64, c, true)),
                    5e-5,
                    "gx",
                );
                assert_close(
                    &gw.unwrap(),
                    &numeric_gradient(&w, &gy, |w| naive(&x64, w, &b64, c, true)),
                    2e-5,
                    "gw",
                );
                assert_close(
                    &gb.unwrap(),
                    &numeric_gradient(&b, &gy, |b| naive(&x64, &w64, b, c, true)),
                    2e-5,
                    "gb",
                );
                let (gx, gw) = rms_norm_backward(&gy, &x, &w, 1e-5, rows, c, [true; 2]);
                assert_close(
                    &gx.unwrap(),
                    &numeric_gradient(&x, &gy, |x| naive(x, &w64, &zero, c, false)),
                    5e-5,
                    "rms gx",
                );
                assert_close(
                    &gw.unwrap(),
                    &numeric_gradient(&w, &gy, |w| naive(&x64, w, &zero, c, false)),
                    2e-5,
                    "rms gw",
                );
                assert_eq!(
                    layer_norm_backward(&gy, &x, &w, 1e-5, rows, c, [false; 3]),
                    (None, None, None)
                );
            }
        });
    }

    #[test]
    fn sums_over_many_blocks_do_not_depend_on_threads() {
        let (rows, c) = (3000, 40);
        let (x, w, gy) = (numbers(rows * c, 1), numbers(c, 2), numbers(rows * c, 3));
        let run = |n| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(n)
                .build()
                .unwrap()
                .install(|| layer_norm_backward(&gy, &x, &w, 1e-5, rows, c, [true; 3]))
        };
        assert_eq!(run(1), run(3));
    }
}
