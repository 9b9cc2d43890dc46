//! Group norm (Wu & He 2018) on NHWC pictures: statistics over the positions and a group of channels of one picture.
//!
//! A row holds all groups of a position beside each other, so sums are taken channel by channel along rows, which the vector registers
//! like, and only then added up over a group. The backward pass recomputes the statistics instead of storing them.
use crate::Gradient;
use crate::buffer::{par_rows, par_rows_sums};
use crate::simd::{Simd, Task, dispatch, steps};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Sizes of a group norm over `[n, area, c]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupShape {
    /// Pictures.
    pub n: usize,
    /// Positions of a picture: height times width.
    pub area: usize,
    /// Channels.
    pub c: usize,
    /// Groups of channels; they divide the channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl GroupShape {
    fn picture(&self) -> usize {
        self.area * self.c
    }

    /// Sums over groups of values per channel, handed back to each channel of the group.
    fn spread(&self, channels: &mut [f32]) {
        for group in channels.chunks_exact_mut((self.c / self.groups.max(1)).max(1)) {
            let sum: f32 = group.iter().sum();
            group.fill(sum);
        }
    }

    fn check(&self, x: &[f32], w: &[f32]) {
        assert!(
            self.groups > 0 && self.c.is_multiple_of(self.groups),
            "group_norm: groups must divide the channels"
        );
        assert_eq!(x.len(), self.n * self.picture(), "group_norm: x must be [n * area, c]");
        assert_eq!(w.len(), self.c, "group_norm: w must be [c]");
    }
}

/// Per channel: Σ x, or Σ (x − mean)².
struct Sums<'a> {
    x: &'a [f32],
    mean: Option<&'a [f32]>,
    sums: &'a mut [f32],
}
impl Task for Sums<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, mean, sums } = self;
        let c = sums.len();
        for i in steps::<S>(c) {
            let width = (c - i).min(S::LANES);
            let mut sum = s.zero();
            let m = mean.map_or(s.zero(), |mean| s.get(&mean[i..]));
            for row in x.chunks_exact(c) {
                let v = s.get(&row[i..][..width]);
                sum = match mean {
                    None => s.add(sum, v),
                    Some(_) => {
                        let d = s.sub(v, m);
                        s.fma(d, d, sum)
                    }
                };
            }
            let sum = s.add(s.get(&sums[i..]), sum);
            s.set(&mut sums[i..], sum);
        }
    }
}

/// Per channel: Σ gy and Σ gy·(x − mean).
struct Products<'a> {
    gy: &'a [f32],
    x: &'a [f32],
    mean: &'a [f32],
    sums: &'a mut [f32],
}
impl Task for Products<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { gy, x, mean, sums } = self;
        let c = mean.len();
        let (plain, products) = sums.split_at_mut(c);
        for i in steps::<S>(c) {
            let width = (c - i).min(S::LANES);
            let (mut sum, mut product) = (s.zero(), s.zero());
            let m = s.get(&mean[i..]);
            for (gy, x) in gy.chunks_exact(c).zip(x.chunks_exact(c)) {
                let g = s.get(&gy[i..][..width]);
                sum = s.add(sum, g);
                product = s.fma(g, s.sub(s.get(&x[i..][..width]), m), product);
            }
            let sum = s.add(s.get(&plain[i..]), sum);
            s.set(&mut plain[i..], sum);
            let product = s.add(s.get(&products[i..]), product);
            s.set(&mut products[i..], product);
        }
    }
}

/// a·(x − mean) + b·gy + d, channel by channel; without `gy` the middle term is not there.
struct Affine<'a> {
    x: &'a [f32],
    gy: Option<&'a [f32]>,
    mean: &'a [f32],
    a: &'a [f32],
    b: &'a [f32],
    d: &'a [f32],
    out: &'a mut [MaybeUninit<f32>],
}
impl Task for Affine<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.mean.len();
        for (r, out) in self.out.chunks_exact_mut(c).enumerate() {
            let x = &self.x[r * c..][..c];
            for i in steps::<S>(c) {
                let centred = s.sub(s.get(&x[i..]), s.get(&self.mean[i..]));
                let mut y = s.fma(centred, s.get(&self.a[i..]), s.get(&self.d[i..]));
                if let Some(gy) = self.gy {
                    y = s.fma(s.get(&gy[r * c + i..(r + 1) * c]), s.get(&self.b[i..]), y);
                }
                s.put(&mut out[i..], y);
            }
        }
    }
}

/// Per channel of one picture: the mean of its group, and 1/√(variance + eps).
fn moments(x: &[f32], shape: &GroupShape) -> (Vec<f32>, Vec<f32>) {
    let (area, c) = (shape.area, shape.c);
    let numbers = (area * (c / shape.groups.max(1))).max(1) as f32;
    let sums = |mean: Option<&[f32]>| {
        // SAFETY: no numbers are written but the totals, which begin as zeros.
        let (_, mut sums) = unsafe {
            par_rows_sums(area, 0, c, c, |rows, _, sums| {
                let x = &x[rows.start * c..rows.end * c];
                dispatch(Sums { x, mean, sums });
            })
        };
        shape.spread(&mut sums);
        sums
    };
    let mean: Vec<f32> = sums(None).iter().map(|sum| sum / numbers).collect();
    // two passes: no cancellation
    let inverse = sums(Some(&mean))
        .iter()
        .map(|squares| 1.0 / (squares / numbers + shape.eps).sqrt())
        .collect();
    (mean, inverse)
}

/// y = (x − mean) / √(variance + eps) · w + b, with mean and (biased) variance over the positions and channels of a picture's group.
///
/// # Shapes
/// `x` and the result: `[n·area, c]`; `w`, `b`: `[c]`.
pub fn group_norm(x: &[f32], w: &[f32], b: &[f32], shape: &GroupShape) -> Vec<f32> {
    shape.check(x, w);
    assert_eq!(b.len(), shape.c, "group_norm: b must be [c]");
    let all: Vec<(Vec<f32>, Vec<f32>)> = x
        .par_chunks(shape.picture().max(1))
        .map(|x| {
            let (mean, inverse) = moments(x, shape);
            let scale = inverse.iter().zip(w).map(|(r, w)| r * w).collect();
            (mean, scale)
        })
        .collect();
    per_picture(shape, |picture, first, out| {
        let (mean, scale) = &all[picture];
        dispatch(Affine {
            x: &x[first..][..out.len()],
            gy: None,
            mean,
            a: scale,
            b: &[],
            d: b,
            out,
        });
    })
}

/// Gradients of [`group_norm`] with respect to x, w and b, those that `need` names.
///
/// # Shapes
/// `gy`, `x`: `[n·area, c]`; `w`: `[c]`.
pub fn group_norm_backward(
    gy: &[f32],
    x: &[f32],
    w: &[f32],
    shape: &GroupShape,
    need: [bool; 3],
) -> (Gradient, Gradient, Gradient) {
    shape.check(x, w);
    assert_eq!(gy.len(), x.len(), "group_norm_backward: gy must be [n * area, c]");
    let (area, c) = (shape.area, shape.c);
    let numbers = (area * (c / shape.groups.max(1))).max(1) as f32;
    struct Picture {
        mean: Vec<f32>,
        /// Gradients of w and b from this picture.
        gw: Vec<f32>,
        gb: Vec<f32>,
        /// Factors of (x − mean) and gy in the gradient of x, and what is added.
        a: Vec<f32>,
        b: Vec<f32>,
        d: Vec<f32>,
    }
    let picture = shape.picture().max(1);
    let all: Vec<Picture> = x
        .par_chunks(picture)
        .zip(gy.par_chunks(picture))
        .map(|(x, gy)| {
            let (mean, inverse) = moments(x, shape);
            // SAFETY: no numbers are written but the totals, which begin as zeros.
            let (_, mut gb) = unsafe {
                par_rows_sums(area, 0, c, 2 * c, |rows, _, sums| {
                    let range = rows.start * c..rows.end * c;
                    dispatch(Products {
                        gy: &gy[range.clone()],
                        x: &x[range],
                        mean: &mean,
                        sums,
                    });
                })
            };
            let products = gb.split_off(c);
            let gw: Vec<f32> = products.iter().zip(&inverse).map(|(p, r)| p * r).collect();
            let times_w = |g: &[f32]| {
                let mut sums: Vec<f32> = g.iter().zip(w).map(|(g, w)| g * w).collect();
                shape.spread(&mut sums);
                sums
            };
            let (through, along) = (times_w(&gb), times_w(&gw));
            let each = |f: &dyn Fn(usize) -> f32| (0..c).map(f).collect::<Vec<f32>>();
            Picture {
                a: each(&|i| -inverse[i] * inverse[i] * along[i] / numbers),
                b: each(&|i| inverse[i] * w[i]),
                d: each(&|i| -inverse[i] * through[i] / numbers),
                mean,
                gw,
                gb,
            }
        })
        .collect();
    let total = |of: fn(&Picture) -> &[f32]| {
        all.iter().fold(vec![0.0; c], |mut sum, one| {
            sum.iter_mut().zip(of(one)).for_each(|(sum, g)| *sum += g);
            sum
        })
    };
    let gx = need[0].then(|| {
        per_picture(shape, |picture, first, out| {
            let Picture { mean, a, b, d, .. } = &all[picture];
            let range = first..first + out.len();
            dispatch(Affine {
                x: &x[range.clone()],
                gy: Some(&gy[range]),
                mean,
                a,
                b,
                d,
                out,
            });
        })
    });
    (
        gx,
        need[1].then(|| total(|one| &one.gw)),
        need[2].then(|| total(|one| &one.gb)),
    )
}

/// `[n·area, c]`, filled by `body(picture, first number, rows of that picture)`, which writes all of the rows.
fn per_picture(shape: &GroupShape, body: impl Fn(usize, usize, &mut [MaybeUninit<f32>]) + Sync) -> Vec<f32> {
    let (area, c) = (shape.area, shape.c);
    // SAFETY: the tasks that are handed in write all rows that they get, and the loop hands out every row once.
    unsafe {
        par_rows(shape.n * area, c, |first, mut out| {
            let mut row = first;
            while !out.is_empty() {
                let picture = row / area;
                let rows = ((picture + 1) * area - row).min(out.len() / c);
                let (head, tail) = out.split_at_mut(rows * c);
                body(picture, row * c, head);
                row += rows;
                out = tail;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, numbers, numeric_gradient, wide};

    fn naive(x: &[f64], w: &[f64], b: &[f64], s: &GroupShape) -> Vec<f64> {
        let size = s.c / s.groups;
        let mut y = vec![0.0; x.len()];
        for (n, x) in x.chunks(s.picture().max(1)).enumerate() {
            for g in 0..s.groups {
                let places: Vec<usize> = (0..s.area)
                    .flat_map(|p| (0..size).map(move |k| p * s.c + g * size + k))
                    .collect();
                let count = places.len() as f64;
                let mean = places.iter().map(|&i| x[i]).sum::<f64>() / count;
                let var = places.iter().map(|&i| (x[i] - mean).powi(2)).sum::<f64>() / count;
                for i in places {
                    let hat = (x[i] - mean) / (var + f64::from(s.eps)).sqrt();
                    y[n * s.picture() + i] = hat * w[i % s.c] + b[i % s.c];
                }
            }
        }
        y
    }

    fn shape(n: usize, area: usize, c: usize, groups: usize) -> GroupShape {
        GroupShape {
            n,
            area,
            c,
            groups,
            eps: 1e-6,
        }
    }

    #[test]
    fn forward_agrees_with_f64() {
        each_isa(|isa| {
            // the last ones take several blocks of rows, which do not end with a picture
            for s in [
                shape(0, 4, 8, 2),
                shape(1, 1, 4, 2),
                shape(3, 5, 12, 4),
                shape(2, 9, 33, 11),
                shape(2, 700, 40, 8),
                shape(5, 301, 64, 32),
            ] {
                let x: Vec<f32> = numbers(s.n * s.area * s.c, 1).iter().map(|v| v + 9.0).collect();
                let (w, b) = (numbers(s.c, 2), numbers(s.c, 3));
                let expected = naive(&wide(&x), &wide(&w), &wide(&b), &s);
                assert_close(&group_norm(&x, &w, &b, &s), &expected, 2e-5, isa);
            }
        });
    }

    #[test]
    fn backward_agrees_with_finite_differences() {
        each_isa(|_| {
            for s in [shape(1, 3, 2, 1), shape(2, 4, 6, 3), shape(2, 5, 20, 4)] {
                let len = s.n * s.area * s.c;
                let (x, w, b, gy) = (numbers(len, 4), numbers(s.c, 5), numbers(s.c, 6), numbers(len, 7));
                let (x64, w64, b64) = (wide(&x), wide(&w), wide(&b));
                let (gx, gw, gb) = group_norm_backward(&gy, &x, &w, &s, [true; 3]);
                let numeric = numeric_gradient(&x, &gy, |x| naive(x, &w64, &b64, &s));
                assert_close(&gx.unwrap(), &numeric, 5e-5, "gx");
                let numeric = numeric_gradient(&w, &gy, |w| naive(&x64, w, &b64, &s));
                assert_close(&gw.unwrap(), &numeric, 2e-5, "gw");
                let numeric = numeric_gradient(&b, &gy, |b| naive(&x64, &w64, b, &s));
                assert_close(&gb.unwrap(), &numeric, 2e-5, "gb");
                assert_eq!(group_norm_backward(&gy, &x, &w, &s, [false; 3]), (None, None, None));
            }
        });
    }

    #[test]
    fn sums_over_many_blocks_do_not_depend_on_threads() {
        let s = shape(2, 3000, 40, 8);
        let len = s.n * s.area * s.c;
        let (x, w, gy) = (numbers(len, 1), numbers(s.c, 2), numbers(len, 3));
        let run = |n| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(n)
                .build()
                .unwrap()
                .install(|| group_norm_backward(&gy, &x, &w, &s, [true; 3]))
        };
        assert_eq!(run(1), run(3));
    }
}
