//! Convolutions on NHWC images: the patch matrix of a dense convolution, dense convolution band by band, depthwise convolution, inverted bottlenecks; upsampling.
mod bottleneck;
mod dense;
mod depthwise;
mod upsample;

use crate::buffer::par_rows;
use crate::linear::add;
use crate::simd::{Simd, Task, dispatch};
pub use bottleneck::{Bottleneck, bottleneck};
pub use dense::{dense, dense_backward};
pub use depthwise::{depthwise, depthwise_backward};
use std::mem::MaybeUninit;
pub use upsample::{upsample, upsample_backward};

/// Sizes of a convolution over `[n, h, w, c]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Images.
    pub n: usize,
    /// Input height.
    pub h: usize,
    /// Input width.
    pub w: usize,
    /// Input channels.
    pub c: usize,
    /// Kernel height.
    pub kh: usize,
    /// Kernel width.
    pub kw: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Zeros around the image: top, bottom, left, right.
    pub pad: [usize; 4],
}

impl ConvShape {
    /// Output height; 0 when the kernel does not fit.
    pub fn out_h(&self) -> usize {
        out(self.h + self.pad[0] + self.pad[1], self.kh, self.stride)
    }

    /// Output width; 0 when the kernel does not fit.
    pub fn out_w(&self) -> usize {
        out(self.w + self.pad[2] + self.pad[3], self.kw, self.stride)
    }

    /// Numbers of the patch matrix.
    pub fn unfolded(&self) -> usize {
        self.n * self.out_h() * self.out_w() * self.patch()
    }

    fn inputs(&self) -> usize {
        self.n * self.h * self.w * self.c
    }

    fn patch(&self) -> usize {
        self.kh * self.kw * self.c
    }

    /// Input row of output row `oy` and kernel row `ky`, if it is not padding.
    #[inline(always)]
    fn input_y(&self, oy: usize, ky: usize) -> Option<usize> {
        (oy * self.stride + ky).checked_sub(self.pad[0]).filter(|&y| y < self.h)
    }

    #[inline(always)]
    fn input_x(&self, ox: usize, kx: usize) -> Option<usize> {
        (ox * self.stride + kx).checked_sub(self.pad[2]).filter(|&x| x < self.w)
    }

    /// Output row that reads input row `y` with kernel row `ky`.
    #[inline(always)]
    fn output_y(&self, y: usize, ky: usize) -> Option<usize> {
        let at = (y + self.pad[0]).checked_sub(ky)?;
        (at.is_multiple_of(self.stride) && at / self.stride < self.out_h()).then_some(at / self.stride)
    }

    #[inline(always)]
    fn output_x(&self, x: usize, kx: usize) -> Option<usize> {
        let at = (x + self.pad[2]).checked_sub(kx)?;
        (at.is_multiple_of(self.stride) && at / self.stride < self.out_w()).then_some(at / self.stride)
    }
}

fn out(padded: usize, kernel: usize, stride: usize) -> usize {
    assert!(
        stride > 0 && kernel > 0,
        "convolution: stride and kernel must be positive"
    );
    padded.checked_sub(kernel).map_or(0, |room| room / stride + 1)
}

/// The patches under the kernel, one row per output pixel: multiply by a `[kh·kw·c, out]` weight and the convolution is done.
///
/// # Shapes
/// `x`: `[n, h, w, c]`; result: `[n·out_h·out_w, kh·kw·c]`.
pub fn im2col(x: &[f32], shape: &ConvShape) -> Vec<f32> {
    assert_eq!(x.len(), shape.inputs(), "im2col: x must be [n, h, w, c]");
    let patch = shape.patch();
    // SAFETY: `unfold` writes every place of every patch.
    unsafe {
        par_rows(shape.n * shape.out_h() * shape.out_w(), patch, |first, out| {
            unfold(x, shape, first, out);
        })
    }
}

/// Writes the patches of output pixels from `first` on, with zeros where the kernel lies over padding.
fn unfold(x: &[f32], shape: &ConvShape, first: usize, out: &mut [MaybeUninit<f32>]) {
    let (oh, ow, patch, c) = (shape.out_h(), shape.out_w(), shape.patch(), shape.c);
    for (i, out) in out.chunks_exact_mut(patch).enumerate() {
        let at = first + i;
        let (image, oy, ox) = (at / (oh * ow), at / ow % oh, at % ow);
        for ky in 0..shape.kh {
            let line = &mut out[ky * shape.kw * c..][..shape.kw * c];
            let Some(y) = shape.input_y(oy, ky) else {
                line.fill(MaybeUninit::new(0.0));
                continue;
            };
            // The columns inside the image are one run of the input's row.
            let from = shape.pad[2].saturating_sub(ox * shape.stride).min(shape.kw);
            let to = (shape.w + shape.pad[2])
                .saturating_sub(ox * shape.stride)
                .clamp(from, shape.kw);
            line[..from * c].fill(MaybeUninit::new(0.0));
            line[to * c..].fill(MaybeUninit::new(0.0));
            if from < to {
                let col = ox * shape.stride + from - shape.pad[2];
                copy(
                    &x[((image * shape.h + y) * shape.w + col) * c..],
                    &mut line[from * c..to * c],
                );
            }
        }
    }
}

fn copy(from: &[f32], to: &mut [MaybeUninit<f32>]) {
    for (o, &x) in to.iter_mut().zip(from) {
        o.write(x);
    }
}

/// Gradient of [`im2col`]: every input pixel sums the places of the patches that it went to, in a fixed order.
///
/// # Shapes
/// `cols`: `[n·out_h·out_w, kh·kw·c]`; result: `[n, h, w, c]`.
pub fn col2im(cols: &[f32], shape: &ConvShape) -> Vec<f32> {
    let (oh, ow, patch, c) = (shape.out_h(), shape.out_w(), shape.patch(), shape.c);
    assert_eq!(
        cols.len(),
        shape.n * oh * ow * patch,
        "col2im: cols must be [n * out_h * out_w, kh * kw * c]"
    );
    // SAFETY: every pixel is first set to zero.
    unsafe {
        par_rows(shape.n * shape.h * shape.w, c, |first, out| {
            out.fill(MaybeUninit::new(0.0));
            // SAFETY: just initialised.
            let out = std::slice::from_raw_parts_mut(out.as_mut_ptr().cast::<f32>(), out.len());
            dispatch(Collect {
                cols,
                shape,
                first,
                out,
            });
        })
    }
}

struct Collect<'a> {
    cols: &'a [f32],
    shape: &'a ConvShape,
    first: usize,
    out: &'a mut [f32],
}
impl Task for Collect<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            cols,
            shape,
            first,
            out,
        } = self;
        let (oh, ow, patch, c) = (shape.out_h(), shape.out_w(), shape.patch(), shape.c);
        for (i, out) in out.chunks_exact_mut(c).enumerate() {
            let at = first + i;
            let (image, y, x) = (at / (shape.h * shape.w), at / shape.w % shape.h, at % shape.w);
            for ky in 0..shape.kh {
                let Some(oy) = shape.output_y(y, ky) else { continue };
                for kx in 0..shape.kw {
                    let Some(ox) = shape.output_x(x, kx) else { continue };
                    let from = ((image * oh + oy) * ow + ox) * patch + (ky * shape.kw + kx) * c;
                    add(s, &cols[from..][..c], out);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
