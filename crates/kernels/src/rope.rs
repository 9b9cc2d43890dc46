//! Rotary positions (Su et al. 2021) and per-head RMS norms on packed q|k|v rows.
use crate::buffer::{par_rows, par_rows_sums};
use crate::norm::{inverse_rms, scale_row, scale_row_backward};
use crate::simd::{Simd, Task, dispatch, steps};
use std::mem::MaybeUninit;

/// Which numbers of a head form the rotated pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Pairs (i, i + d/2), as GPT-NeoX and the Hugging Face models.
    Half,
    /// Pairs (2i, 2i + 1), as the original paper and GGUF's llama layout.
    Interleaved,
}

/// The usual frequencies, `theta^(-2i/d)`, rounded to `f32` as the reference implementations do.
///
/// # Shapes
/// → `[head_dim / 2]`.
pub fn frequencies(theta: f32, head_dim: usize) -> Vec<f32> {
    (0..head_dim / 2)
        .map(|i| f64::from(theta).powf(-2.0 * i as f64 / head_dim as f64) as f32)
        .collect()
}

/// Rotates pair i of each head by `position · frequencies[i]`; `inverse` turns back, which is also the gradient.
///
/// The angle is rounded to `f32` as the reference implementations do, sine and cosine are exact to `f32`.
///
/// # Shapes
/// `qkv` and the result: `[T, heads_total·head_dim]`, of which the first `heads_rotated` heads (queries and keys) are rotated; `positions`: `[T]`; `frequencies`:
/// `[head_dim / 2]`.
pub fn rope(
    qkv: &[f32],
    positions: &[u32],
    heads_rotated: usize,
    heads_total: usize,
    frequencies: &[f32],
    style: RopeStyle,
    inverse: bool,
) -> Vec<f32> {
    let (t, half) = (positions.len(), frequencies.len());
    let head_dim = 2 * half;
    let width = heads_total * head_dim;
    assert_eq!(
        qkv.len(),
        t * width,
        "rope: qkv must be [positions, heads_total * head_dim]"
    );
    assert!(
        heads_rotated <= heads_total,
        "rope: {heads_rotated} heads to rotate, but a row has {heads_total}"
    );
    // One line of cosines and sines per position; short sequences start at 0 again and again, so a table pays unless positions are far beyond the number of tokens.
    let line = |position: u32, line: &mut [f32]| {
        for (i, f) in frequencies.iter().enumerate() {
            let (sin, cos) = f64::from(position as f32 * f).sin_cos();
            line[i] = cos as f32;
            line[half + i] = if inverse { -sin as f32 } else { sin as f32 };
        }
    };
    let longest = positions.iter().copied().max().unwrap_or(0) as usize;
    let mut table = Vec::new();
    if longest < t && half > 0 {
        table = vec![0.0; (longest + 1) * head_dim];
        table
            .chunks_exact_mut(head_dim)
            .enumerate()
            .for_each(|(p, l)| line(p as u32, l));
    }
    // SAFETY: every row of a block is written: rotated heads by `Row`, the others copied.
    unsafe {
        par_rows(t, width, |first, out| {
            let mut own = vec![0.0; if table.is_empty() { head_dim } else { 0 }];
            for (i, out) in out.chunks_exact_mut(width).enumerate() {
                let (row, position) = (&qkv[(first + i) * width..][..width], positions[first + i]);
                let angles = if table.is_empty() {
                    line(position, &mut own);
                    &own[..]
                } else {
                    &table[position as usize * head_dim..][..head_dim]
                };
                dispatch(Row {
                    row: &row[..heads_rotated * head_dim],
                    angles,
                    style,
                    out: &mut out[..heads_rotated * head_dim],
                });
                copy(&row[heads_rotated * head_dim..], &mut out[heads_rotated * head_dim..]);
            }
        })
    }
}

fn copy(from: &[f32], to: &mut [MaybeUninit<f32>]) {
    for (o, &x) in to.iter_mut().zip(from) {
        o.write(x);
    }
}

struct Row<'a> {
    row: &'a [f32],
    /// Cosines, then sines.
    angles: &'a [f32],
    style: RopeStyle,
    out: &'a mut [MaybeUninit<f32>],
}
impl Task for Row<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.angles.len();
        let (cos, sin) = self.angles.split_at(d / 2);
        if d == 0 {
            return;
        }
        for (x, out) in self.row.chunks_exact(d).zip(self.out.chunks_exact_mut(d)) {
            match self.style {
                RopeStyle::Half => {
                    let ((a, b), (out_a, out_b)) = (x.split_at(d / 2), out.split_at_mut(d / 2));
                    for i in steps::<S>(d / 2) {
                        let (a, b, cos, sin) = (s.get(&a[i..]), s.get(&b[i..]), s.get(&cos[i..]), s.get(&sin[i..]));
                        s.put(&mut out_a[i..], s.sub(s.mul(a, cos), s.mul(b, sin)));
                        s.put(&mut out_b[i..], s.fma(b, cos, s.mul(a, sin)));
                    }
                }
                RopeStyle::Interleaved => {
                    for i in 0..d / 2 {
                        let (a, b) = (x[2 * i], x[2 * i + 1]);
                        out[2 * i].write(a * cos[i] - b * sin[i]);
                        out[2 * i + 1].write(b * cos[i] + a * sin[i]);
                    }
                }
            }
        }
    }
}

/// RMS norm of each query head with `wq` and of each key head with `wk` (Gemma 3, Qwen 3); values are copied.
///
/// # Shapes
/// `qkv` and the result: `[t, (heads + 2·kv_heads)·head_dim]`; `wq`, `wk`: `[head_dim]`.
pub fn head_rms_norm(
    qkv: &[f32],
    wq: &[f32],
    wk: &[f32],
    eps: f32,
    t: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
) -> Vec<f32> {
    let width = (heads + 2 * kv_heads) * head_dim;
    assert_eq!(
        qkv.len(),
        t * width,
        "head_rms_norm: qkv must be [t, (heads + 2 kv_heads) * head_dim]"
    );
    assert!(
        wq.len() == head_dim && wk.len() == head_dim,
        "head_rms_norm: wq and wk must be [head_dim]"
    );
    // SAFETY: `Heads` writes every number of its block.
    unsafe {
        par_rows(t, width, |first, out| {
            dispatch(Heads {
                qkv: &qkv[first * width..][..out.len()],
                wq,
                wk,
                eps,
                heads,
                kv_heads,
                out,
            })
        })
    }
}

struct Heads<'a> {
    qkv: &'a [f32],
    wq: &'a [f32],
    wk: &'a [f32],
    eps: f32,
    heads: usize,
    kv_heads: usize,
    out: &'a mut [MaybeUninit<f32>],
}
impl Task for Heads<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.wq.len();
        let per_row = self.heads + 2 * self.kv_heads;
        for (i, (x, out)) in self.qkv.chunks_exact(d).zip(self.out.chunks_exact_mut(d)).enumerate() {
            let head = i % per_row;
            if head < self.heads + self.kv_heads {
                scale_row(
                    s,
                    x,
                    0.0,
                    inverse_rms(s, x, self.eps),
                    if head < self.heads { self.wq } else { self.wk },
                    &[],
                    out,
                );
            } else {
                copy(x, out);
            }
        }
    }
}

/// Gradients of [`head_rms_norm`] with respect to qkv, wq and wk.
///
/// # Shapes
/// `gy`, `qkv` and the first result: `[t, (heads + 2·kv_heads)·head_dim]`; `wq`, `wk` and the others: `[head_dim]`.
pub fn head_rms_norm_backward(
    gy: &[f32],
    qkv: &[f32],
    wq: &[f32],
    wk: &[f32],
    eps: f32,
    t: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let width = (heads + 2 * kv_heads) * head_dim;
    assert!(
        gy.len() == t * width && qkv.len() == t * width,
        "head_rms_norm_backward: gy and qkv must be [t, (heads + 2 kv_heads) * head_dim]"
    );
    assert!(
        wq.len() == head_dim && wk.len() == head_dim,
        "head_rms_norm_backward: wq and wk must be [head_dim]"
    );
    // SAFETY: `HeadsBackward` writes every number of its block.
    let (gx, mut gq) = unsafe {
        par_rows_sums(t, width, width, 2 * head_dim, |r, out, sums| {
            let range = r.start * width..r.end * width;
            dispatch(HeadsBackward {
                gy: &gy[range.clone()],
                qkv: &qkv[range],
                wq,
                wk,
                eps,
                heads,
                kv_heads,
                out,
                sums,
            });
        })
    };
    let gk = gq.split_off(head_dim);
    (gx, gq, gk)
}

struct HeadsBackward<'a> {
    gy: &'a [f32],
    qkv: &'a [f32],
    wq: &'a [f32],
    wk: &'a [f32],
    eps: f32,
    heads: usize,
    kv_heads: usize,
    out: &'a mut [MaybeUninit<f32>],
    sums: &'a mut [f32],
}
impl Task for HeadsBackward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.wq.len();
        let per_row = self.heads + 2 * self.kv_heads;
        if d == 0 {
            return;
        }
        let (gq, gk) = self.sums.split_at_mut(d);
        for (i, ((gy, x), out)) in self
            .gy
            .chunks_exact(d)
            .zip(self.qkv.chunks_exact(d))
            .zip(self.out.chunks_exact_mut(d))
            .enumerate()
        {
            let head = i % per_row;
            if head < self.heads + self.kv_heads {
                let (w, gw) = if head < self.heads {
                    (self.wq, &mut *gq)
                } else {
                    (self.wk, &mut *gk)
                };
                scale_row_backward(s, gy, x, 0.0, inverse_rms(s, x, self.eps), w, false, out, gw, &mut []);
            } else {
                copy(gy, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, numbers, numeric_gradient, wide};

    fn naive_rope(
        x: &[f64],
        positions: &[u32],
        rotated: usize,
        total: usize,
        d: usize,
        theta: f32,
        style: RopeStyle,
    ) -> Vec<f64> {
        let mut y = x.to_vec();
        for (t, &p) in positions.iter().enumerate() {
            for h in 0..rotated {
                for i in 0..d / 2 {
                    let angle = f64::from(p) * f64::from(theta).powf(-2.0 * i as f64 / d as f64);
                    let at = (t * total + h) * d;
                    let (a, b) = if style == RopeStyle::Half {
                        (at + i, at + i + d / 2)
                    } else {
                        (at + 2 * i, at + 2 * i + 1)
                    };
                    y[a] = x[a] * angle.cos() - x[b] * angle.sin();
                    y[b] = x[b] * angle.cos() + x[a] * angle.sin();
                }
            }
        }
        y
    }

    #[test]
    fn rope_agrees_with_f64_and_turns_back() {
        each_isa(|isa| {
            for d in [2, 6, 40, 64] {
                for positions in [vec![], vec![0], vec![900], vec![0, 1, 2, 0, 1, 2, 3], vec![5, 100, 7]] {
                    for style in [RopeStyle::Half, RopeStyle::Interleaved] {
                        let x = numbers(positions.len() * 5 * d, 1);
                        let turns = frequencies(10_000.0, d);
                        let y = rope(&x, &positions, 4, 5, &turns, style, false);
                        // 900 rounds to 6e-5 in an f32 angle.
                        assert_close(
                            &y,
                            &naive_rope(&wide(&x), &positions, 4, 5, d, 10_000.0, style),
                            1e-4,
                            isa,
                        );
                        assert_close(
                            &rope(&y, &positions, 4, 5, &turns, style, true),
                            &wide(&x),
                            1e-6,
                            "back",
                        );
                    }
                }
            }
        });
    }

    #[test]
    fn the_inverse_is_the_gradient() {
        let (positions, d) = (vec![0, 3, 1], 6);
        let (x, gy) = (numbers(3 * 3 * d, 1), numbers(3 * 3 * d, 2));
        for style in [RopeStyle::Half, RopeStyle::Interleaved] {
            let truth = numeric_gradient(&x, &gy, |x| naive_rope(x, &positions, 2, 3, d, 100.0, style));
            assert_close(
                &rope(&gy, &positions, 2, 3, &frequencies(100.0, d), style, true),
                &truth,
                1e-5,
                "gradient",
            );
        }
    }

    fn naive_heads(x: &[f64], wq: &[f64], wk: &[f64], heads: usize, kv: usize, d: usize) -> Vec<f64> {
        x.chunks(d)
            .enumerate()
            .flat_map(|(i, row)| {
                let head = i % (heads + 2 * kv);
                let r = 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / d as f64 + 1e-6).sqrt();
                let w = if head < heads {
                    Some(wq)
                } else {
                    (head < heads + kv).then_some(wk)
                };
                row.iter()
                    .enumerate()
                    .map(|(j, v)| w.map_or(*v, |w| v * r * w[j]))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn head_norm_agrees_with_f64_and_finite_differences() {
        each_isa(|_| {
            for (t, heads, kv, d) in [(0, 2, 1, 4), (1, 1, 1, 2), (3, 4, 2, 6), (2, 2, 1, 20)] {
                let n = t * (heads + 2 * kv) * d;
                let (x, wq, wk, gy) = (numbers(n, 1), numbers(d, 2), numbers(d, 3), numbers(n, 4));
                let (x64, q64, k64) = (wide(&x), wide(&wq), wide(&wk));
                assert_close(
                    &head_rms_norm(&x, &wq, &wk, 1e-6, t, heads, kv, d),
                    &naive_heads(&x64, &q64, &k64, heads, kv, d),
                    2e-6,
                    "forward",
                );
                let (gx, gq, gk) = head_rms_norm_backward(&gy, &x, &wq, &wk, 1e-6, t, heads, kv, d);
                assert_close(
                    &gx,
                    &numeric_gradient(&x, &gy, |x| naive_heads(x, &q64, &k64, heads, kv, d)),
                    5e-5,
                    "gx",
                );
                assert_close(
                    &gq,
                    &numeric_gradient(&wq, &gy, |w| naive_heads(&x64, w, &k64, heads, kv, d)),
                    2e-5,
                    "gq",
                );
                assert_close(
                    &gk,
                    &numeric_gradient(&wk, &gy, |w| naive_heads(&x64, &q64, w, heads, kv, d)),
                    2e-5,
                    "gk",
                );
            }
        });
    }
}
