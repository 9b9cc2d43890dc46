//! Means over the tokens of each packed sequence.
use crate::buffer::{Shared, filled};
use crate::linear::add;
use crate::simd::{Simd, Task, dispatch, steps};
use rayon::prelude::*;
use std::mem::MaybeUninit;

fn check(offsets: &[usize], who: &str) -> usize {
    assert!(
        offsets.first() == Some(&0) && offsets.is_sorted(),
        "{who}: offsets must start at 0 and not decrease"
    );
    offsets[offsets.len() - 1]
}

/// Mean of each sequence's rows; an empty sequence gives zeros.
///
/// # Shapes
/// `x`: `[T, c]`; `offsets`: `[n + 1]`, from 0 to T; result: `[n, c]`.
pub fn segment_mean(x: &[f32], offsets: &[usize], c: usize) -> Vec<f32> {
    assert_eq!(
        x.len(),
        check(offsets, "segment_mean") * c,
        "segment_mean: x must be [offsets.last(), c]"
    );
    let mut out = vec![0.0; (offsets.len() - 1) * c];
    if c > 0 {
        out.par_chunks_exact_mut(c)
            .zip(offsets.par_windows(2))
            .for_each(|(out, o)| {
                dispatch(Mean {
                    rows: &x[o[0] * c..o[1] * c],
                    out,
                });
            });
    }
    out
}

/// Gradient of [`segment_mean`]: each row of a sequence gets its share of the sequence's gradient.
///
/// # Shapes
/// `gy`: `[n, c]`; result: `[T, c]`.
pub fn segment_mean_backward(gy: &[f32], offsets: &[usize], c: usize) -> Vec<f32> {
    let t = check(offsets, "segment_mean_backward");
    assert_eq!(
        gy.len(),
        (offsets.len() - 1) * c,
        "segment_mean_backward: gy must be [sequences, c]"
    );
    let run = |grad: Shared| {
        offsets.par_windows(2).enumerate().for_each(|(i, o)| {
            // SAFETY: the sequences' rows do not overlap.
            let rows = unsafe { std::slice::from_raw_parts_mut(grad.ptr().add(o[0] * c).cast(), (o[1] - o[0]) * c) };
            dispatch(Spread {
                gy: &gy[i * c..][..c],
                rows,
            });
        });
    };
    // SAFETY: the sequences cover all rows, and `Spread` writes each of them.
    unsafe { filled(t * c, run) }
}

struct Mean<'a> {
    rows: &'a [f32],
    out: &'a mut [f32],
}
impl Task for Mean<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.out.len();
        let n = self.rows.len() / c;
        for row in self.rows.chunks_exact(c) {
            add(s, row, self.out);
        }
        let share = s.splat(1.0 / n.max(1) as f32);
        for i in steps::<S>(c) {
            let v = s.mul(s.get(&self.out[i..]), share);
            s.set(&mut self.out[i..], v);
        }
    }
}

struct Spread<'a> {
    gy: &'a [f32],
    rows: &'a mut [MaybeUninit<f32>],
}
impl Task for Spread<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.gy.len();
        if c == 0 {
            return;
        }
        let share = s.splat(1.0 / (self.rows.len() / c).max(1) as f32);
        for row in self.rows.chunks_exact_mut(c) {
            for i in steps::<S>(c) {
                s.put(&mut row[i..], s.mul(s.get(&self.gy[i..]), share));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, numbers, numeric_gradient, wide};

    fn naive(x: &[f64], offsets: &[usize], c: usize) -> Vec<f64> {
        offsets
            .windows(2)
            .flat_map(|o| {
                (0..c).map(move |j| {
                    if o[0] == o[1] {
                        0.0
                    } else {
                        (o[0]..o[1]).map(|i| x[i * c + j]).sum::<f64>() / (o[1] - o[0]) as f64
                    }
                })
            })
            .collect()
    }

    #[test]
    fn means_and_their_gradient() {
        each_isa(|_| {
            for c in [0, 1, 5, 37] {
                for offsets in [vec![0], vec![0, 0], vec![0, 1, 1, 4, 13]] {
                    let t = offsets[offsets.len() - 1];
                    let (x, gy) = (numbers(t * c, 1), numbers((offsets.len() - 1) * c, 2));
                    assert_close(
                        &segment_mean(&x, &offsets, c),
                        &naive(&wide(&x), &offsets, c),
                        1e-6,
                        "mean",
                    );
                    assert_close(
                        &segment_mean_backward(&gy, &offsets, c),
                        &numeric_gradient(&x, &gy, |x| naive(x, &offsets, c)),
                        1e-6,
                        "gradient",
                    );
                }
            }
        });
    }
}
