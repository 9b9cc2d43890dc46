//! Twice the height and the width, each pixel four times.
use super::copy;
use crate::buffer::par_rows;
use crate::linear::add;
use crate::simd::{Simd, Task, dispatch};
use std::mem::MaybeUninit;

/// Nearest-neighbour upsampling by 2.
///
/// # Shapes
/// `x`: `[n, h, w, c]`; result: `[n, 2h, 2w, c]`.
pub fn upsample(x: &[f32], [n, h, w, c]: [usize; 4]) -> Vec<f32> {
    assert_eq!(x.len(), n * h * w * c, "upsample: x must be [n, h, w, c]");
    // SAFETY: every pixel of a block is copied.
    unsafe {
        par_rows(n * 4 * h * w, c, |first, out| {
            for (i, out) in out.chunks_exact_mut(c).enumerate() {
                let at = first + i;
                let (line, col) = (at / (2 * w), at % (2 * w));
                let (image, y) = (line / (2 * h), line % (2 * h));
                copy(&x[((image * h + y / 2) * w + col / 2) * c..][..c], out);
            }
        })
    }
}

/// Gradient of [`upsample`]: the sum over the four.
///
/// # Shapes
/// `gy`: `[n, 2h, 2w, c]`; result: `[n, h, w, c]`.
pub fn upsample_backward(gy: &[f32], [n, h, w, c]: [usize; 4]) -> Vec<f32> {
    assert_eq!(
        gy.len(),
        4 * n * h * w * c,
        "upsample_backward: gy must be [n, 2h, 2w, c]"
    );
    // SAFETY: every pixel is first set to zero.
    unsafe {
        par_rows(n * h * w, c, |first, out| {
            out.fill(MaybeUninit::new(0.0));
            // SAFETY: just initialised.
            let out = std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<f32>(), out.len());
            dispatch(Collect { gy, w, c, first, out });
        })
    }
}

struct Collect<'a> {
    gy: &'a [f32],
    w: usize,
    c: usize,
    first: usize,
    out: &'a mut [f32],
}
impl Task for Collect<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { gy, w, c, first, out } = self;
        for (i, out) in out.chunks_exact_mut(c).enumerate() {
            // lines of all pictures are numbered through
            let (line, col) = ((first + i) / w, (first + i) % w);
            for (dy, dx) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let from = ((2 * line + dy) * 2 * w + 2 * col + dx) * c;
                add(s, &gy[from..][..c], out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, numbers, numeric_gradient};

    fn naive(x: &[f64], [n, h, w, c]: [usize; 4]) -> Vec<f64> {
        let mut y = Vec::new();
        for image in 0..n {
            for row in 0..2 * h {
                for col in 0..2 * w {
                    let from = ((image * h + row / 2) * w + col / 2) * c;
                    y.extend_from_slice(&x[from..from + c]);
                }
            }
        }
        y
    }

    #[test]
    fn each_pixel_stands_four_times_and_collects_four_gradients() {
        each_isa(|isa| {
            for size in [[0, 2, 2, 3], [1, 1, 1, 1], [2, 3, 2, 5], [2, 2, 5, 17], [1, 40, 60, 9]] {
                let len = size.iter().product();
                let x = numbers(len, 1);
                let wide: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
                assert_close(&upsample(&x, size), &naive(&wide, size), 0.0, isa);
                if len < 500 {
                    let gy = numbers(4 * len, 2);
                    let numeric = numeric_gradient(&x, &gy, |x| naive(x, size));
                    assert_close(&upsample_backward(&gy, size), &numeric, 1e-5, isa);
                }
            }
        });
    }
}
