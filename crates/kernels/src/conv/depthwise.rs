//! Depthwise convolution: one kernel per channel, bias and activation in the same pass.
use super::ConvShape;
use crate::activation::{Activation, activation_backward, apply, per_activation};
use crate::buffer::{Shared, filled, par_rows, par_rows_sums};
use crate::linear::{LinearGrads, LinearOut, column_sums};
use crate::simd::{Simd, Task, dispatch, steps};
use std::mem::MaybeUninit;

fn check(x: &[f32], wt: &[f32], shape: &ConvShape, who: &str) {
    assert_eq!(x.len(), shape.inputs(), "{who}: x must be [n, h, w, c]");
    assert_eq!(wt.len(), shape.patch(), "{who}: wt must be [kh * kw, c]");
}

/// y = act(depthwise convolution of x + bias); `pre` is kept as by [`crate::linear::linear`].
///
/// # Shapes
/// `x`: `[n, h, w, c]`; `wt`: `[kh·kw, c]`; `bias`: `[c]`; results: `[n, out_h, out_w, c]`.
pub fn depthwise(
    x: &[f32],
    wt: &[f32],
    bias: Option<&[f32]>,
    act: Activation,
    shape: &ConvShape,
    keep_pre: bool,
) -> LinearOut {
    check(x, wt, shape, "depthwise");
    assert!(bias.is_none_or(|b| b.len() == shape.c), "depthwise: bias must be [c]");
    let (oh, ow, c) = (shape.out_h(), shape.out_w(), shape.c);
    let pixels = shape.n * oh * ow;
    let mut pre = (keep_pre && act != Activation::Identity).then(Vec::new);
    let run = |pre: Option<Shared>| {
        // SAFETY: `Pixels` writes every channel of every pixel of its block, to `pre` too.
        unsafe {
            par_rows(pixels, c, |first, out| {
                dispatch(Pixels {
                    x,
                    wt,
                    bias,
                    act,
                    shape,
                    first,
                    out,
                    pre,
                })
            })
        }
    };
    let y = match &mut pre {
        Some(pre) => {
            let mut y = Vec::new();
            // SAFETY: as above.
            *pre = unsafe { filled(pixels * c, |p| y = run(Some(p))) };
            y
        }
        None => run(None),
    };
    LinearOut { y, pre }
}

struct Pixels<'a> {
    x: &'a [f32],
    wt: &'a [f32],
    bias: Option<&'a [f32]>,
    act: Activation,
    shape: &'a ConvShape,
    /// Number of the first pixel.
    first: usize,
    out: &'a mut [MaybeUninit<f32>],
    pre: Option<Shared>,
}
impl Task for Pixels<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            x,
            wt,
            bias,
            act,
            shape,
            first,
            out,
            pre,
        } = self;
        let (oh, ow, c) = (shape.out_h(), shape.out_w(), shape.c);
        let bias = bias.unwrap_or(&[]);
        // (offset of the input pixel, offset of the kernel's row) for each place of the kernel that is not over padding.
        let mut taps = Vec::with_capacity(shape.kh * shape.kw);
        per_activation!(act, act => for (i, out) in out.chunks_exact_mut(c).enumerate() {
            let at = first + i;
            let (image, oy, ox) = (at / (oh * ow), at / ow % oh, at % ow);
            taps.clear();
            for ky in 0..shape.kh {
                let Some(row) = shape.input_y(oy, ky) else { continue };
                for kx in 0..shape.kw {
                    let Some(col) = shape.input_x(ox, kx) else { continue };
                    taps.push((((image * shape.h + row) * shape.w + col) * c, (ky * shape.kw + kx) * c));
                }
            }
            for j in steps::<S>(c) {
                let n = S::LANES.min(c - j);
                let mut sum = if bias.is_empty() { s.zero() } else { s.get(&bias[j..]) };
                for &(from, tap) in &taps {
                    sum = s.fma(s.get(&x[from + j..][..n]), s.get(&wt[tap + j..][..n]), sum);
                }
                if let Some(pre) = pre {
                    // SAFETY: pixel `at` belongs to this task, and `pre` has room for all pixels.
                    s.put(unsafe { std::slice::from_raw_parts_mut(pre.ptr().add(at * c + j).cast(), n) }, sum);
                }
                s.put(&mut out[j..], apply(s, act, sum));
            }
        });
    }
}

/// Gradients of [`depthwise`] with respect to x, wt and bias, those that `need` names; `pre` as the forward pass kept it.
///
/// # Shapes
/// `gy`, `pre`: `[n, out_h, out_w, c]`; gradients as the arguments of [`depthwise`].
pub fn depthwise_backward(
    gy: &[f32],
    x: &[f32],
    wt: &[f32],
    pre: Option<&[f32]>,
    act: Activation,
    shape: &ConvShape,
    need: [bool; 3],
) -> LinearGrads {
    check(x, wt, shape, "depthwise_backward");
    let (oh, ow, c) = (shape.out_h(), shape.out_w(), shape.c);
    let pixels = shape.n * oh * ow;
    assert_eq!(
        gy.len(),
        pixels * c,
        "depthwise_backward: gy must be [n, out_h, out_w, c]"
    );
    let through;
    let g = if act == Activation::Identity {
        gy
    } else {
        let Some(pre) = pre else {
            panic!("depthwise_backward: the gradient of {act:?} needs `pre`; call depthwise with keep_pre")
        };
        through = activation_backward(gy, pre, act);
        &through[..]
    };
    LinearGrads {
        // SAFETY: `Inputs` writes every channel of every pixel of its block.
        x: need[0].then(|| unsafe {
            par_rows(shape.n * shape.h * shape.w, c, |first, out| {
                dispatch(Inputs {
                    g,
                    wt,
                    shape,
                    first,
                    out,
                })
            })
        }),
        // SAFETY: there is no output besides the sums.
        w: need[1].then(|| unsafe {
            par_rows_sums(pixels, 0, c, wt.len(), |r, _, sums| {
                dispatch(Taps {
                    g,
                    x,
                    shape,
                    pixels: r,
                    sums,
                })
            })
            .1
        }),
        b: need[2].then(|| column_sums(g, pixels, c)),
    }
}

/// Gradient of a block of input pixels.
struct Inputs<'a> {
    g: &'a [f32],
    wt: &'a [f32],
    shape: &'a ConvShape,
    first: usize,
    out: &'a mut [MaybeUninit<f32>],
}
impl Task for Inputs<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            g,
            wt,
            shape,
            first,
            out,
        } = self;
        let (oh, ow, c) = (shape.out_h(), shape.out_w(), shape.c);
        let mut taps = Vec::with_capacity(shape.kh * shape.kw);
        for (i, out) in out.chunks_exact_mut(c).enumerate() {
            let at = first + i;
            let (image, y, x) = (at / (shape.h * shape.w), at / shape.w % shape.h, at % shape.w);
            taps.clear();
            for ky in 0..shape.kh {
                let Some(oy) = shape.output_y(y, ky) else { continue };
                for kx in 0..shape.kw {
                    let Some(ox) = shape.output_x(x, kx) else { continue };
                    taps.push((((image * oh + oy) * ow + ox) * c, (ky * shape.kw + kx) * c));
                }
            }
            for j in steps::<S>(c) {
                let n = S::LANES.min(c - j);
                let mut sum = s.zero();
                for &(from, tap) in &taps {
                    sum = s.fma(s.get(&g[from + j..][..n]), s.get(&wt[tap + j..][..n]), sum);
                }
                s.put(&mut out[j..], sum);
            }
        }
    }
}

/// Gradient of the kernel from a block of output pixels.
struct Taps<'a> {
    g: &'a [f32],
    x: &'a [f32],
    shape: &'a ConvShape,
    pixels: std::ops::Range<usize>,
    sums: &'a mut [f32],
}
impl Task for Taps<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            g,
            x,
            shape,
            pixels,
            sums,
        } = self;
        let (oh, ow, c) = (shape.out_h(), shape.out_w(), shape.c);
        for at in pixels {
            let (image, oy, ox) = (at / (oh * ow), at / ow % oh, at % ow);
            let g = &g[at * c..][..c];
            for ky in 0..shape.kh {
                let Some(row) = shape.input_y(oy, ky) else { continue };
                for kx in 0..shape.kw {
                    let Some(col) = shape.input_x(ox, kx) else { continue };
                    let x = &x[((image * shape.h + row) * shape.w + col) * c..][..c];
                    let sums = &mut sums[(ky * shape.kw + kx) * c..][..c];
                    for j in steps::<S>(c) {
                        let sum = s.fma(s.get(&g[j..]), s.get(&x[j..]), s.get(&sums[j..]));
                        s.set(&mut sums[j..], sum);
                    }
                }
            }
        }
    }
}
