//! Depthwise convolution: one kernel per channel, bias and activation in the same pass.
use super::ConvShape;
use crate::activation::{Activation, activation_backward, apply};
use crate::buffer::{Shared, filled, par_rows, par_rows_sums};
use crate::linear::{LinearGrads, LinearOut, column_sums};
use crate::simd::{Simd, Task, dispatch, steps};
use crate::trace;
use std::mem::MaybeUninit;

/// Pixels of a row whose sums grow together.
const TILE: usize = 4;

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
    trace::operations(|| 2 * shape.n * shape.out_h() * shape.out_w() * shape.patch());
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

/// [`depthwise`] on the calling thread; every number of `out` is written.
pub(super) fn filter(
    x: &[f32],
    wt: &[f32],
    bias: &[f32],
    act: Activation,
    shape: &ConvShape,
    out: &mut [MaybeUninit<f32>],
) {
    check(x, wt, shape, "filter");
    let numbers = shape.n * shape.out_h() * shape.out_w() * shape.c;
    assert_eq!(out.len(), numbers, "filter: out must be [n, out_h, out_w, c]");
    dispatch(Pixels {
        x,
        wt,
        bias: Some(bias),
        act,
        shape,
        first: 0,
        out,
        pre: None,
    });
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
    fn run<S: Simd>(mut self, s: S) {
        let (oh, ow, c) = (self.shape.out_h(), self.shape.out_w(), self.shape.c);
        let pixels = self.out.len() / c.max(1);
        let mut taps = Vec::with_capacity(self.shape.kh * self.shape.kw);
        let mut i = 0;
        while i < pixels {
            let at = self.first + i;
            let (image, oy, ox) = (at / (oh * ow), at / ow % oh, at % ow);
            let left = (ow - ox).min(pixels - i);
            // the last pixels of a row together with some before them, which are computed again
            let again = TILE.saturating_sub(left).min(i).min(ox);
            i += if left + again >= TILE && self.tiles(s, i - again, image, oy, ox - again) {
                TILE - again
            } else {
                self.pixel(s, i, image, oy, ox, &mut taps);
                1
            };
        }
    }
}

/// Of `count` places from `first` on, in an image of `side` that begins after `pad`, those over the image: from, to.
fn over(first: usize, pad: usize, side: usize, count: usize) -> [usize; 2] {
    [pad, side + pad].map(|edge| edge.saturating_sub(first).min(count))
}

impl Pixels<'_> {
    /// [`TILE`] pixels of a row at once, for the usual filters; false for others, and where all is padding.
    #[inline(always)]
    fn tiles<S: Simd>(&mut self, s: S, i: usize, image: usize, oy: usize, ox: usize) -> bool {
        let shape = self.shape;
        // rows of the filter that lie over the image, and columns under the tile's filters that do: from, to
        let rows = over(oy * shape.stride, shape.pad[0], shape.h, shape.kh);
        let seen = (TILE - 1) * shape.stride + shape.kw;
        let cols = over(ox * shape.stride, shape.pad[2], shape.w, seen);
        if cols[0] == cols[1] {
            return false;
        }
        let top = (oy * shape.stride + rows[0]).saturating_sub(shape.pad[0]).min(shape.h);
        let left = (ox * shape.stride + cols[0]).saturating_sub(shape.pad[2]).min(shape.w);
        let from = ((image * shape.h + top) * shape.w + left) * shape.c;
        macro_rules! tile {
            ($k:literal, $stride:literal) => {
                if cols == [0, seen] {
                    self.tile::<S, $k, $stride, true>(s, i, from, rows, cols)
                } else {
                    self.tile::<S, $k, $stride, false>(s, i, from, rows, cols)
                }
            };
        }
        match (shape.kh, shape.kw, shape.stride) {
            (3, 3, 1) => tile!(3, 1),
            (3, 3, 2) => tile!(3, 2),
            (5, 5, 1) => tile!(5, 1),
            (5, 5, 2) => tile!(5, 2),
            _ => return false,
        }
        true
    }

    /// A number that several pixels of the tile read is loaded once. `WHOLE`: no column lies over padding.
    #[inline(always)]
    fn tile<S: Simd, const K: usize, const STRIDE: usize, const WHOLE: bool>(
        &mut self,
        s: S,
        i: usize,
        from: usize,
        rows: [usize; 2],
        cols: [usize; 2],
    ) {
        let (c, bias) = (self.shape.c, self.bias.unwrap_or(&[]));
        for j in steps::<S>(c) {
            let n = S::LANES.min(c - j);
            let start = if bias.is_empty() { s.zero() } else { s.get(&bias[j..]) };
            let mut sums = [start; TILE];
            for ky in rows[0]..rows[1] {
                let row = &self.x[from + (ky - rows[0]) * self.shape.w * c + j..];
                let mut seen = [s.zero(); (TILE - 1) * 2 + 5];
                for (at, seen) in seen[..(TILE - 1) * STRIDE + K].iter_mut().enumerate() {
                    if WHOLE {
                        *seen = s.get(&row[at * c..][..n]);
                    } else if cols[0] <= at && at < cols[1] {
                        *seen = s.get(&row[(at - cols[0]) * c..][..n]);
                    }
                }
                for kx in 0..K {
                    let weight = s.get(&self.wt[(ky * K + kx) * c + j..][..n]);
                    for (q, sum) in sums.iter_mut().enumerate() {
                        *sum = s.fma(seen[q * STRIDE + kx], weight, *sum);
                    }
                }
            }
            for (q, sum) in sums.into_iter().enumerate() {
                self.put(s, i + q, j, n, sum);
            }
        }
    }

    /// Any pixel, place by place of the filter that is not over padding.
    #[inline(always)]
    fn pixel<S: Simd>(&mut self, s: S, i: usize, image: usize, oy: usize, ox: usize, taps: &mut Vec<(usize, usize)>) {
        let (shape, c, bias) = (self.shape, self.shape.c, self.bias.unwrap_or(&[]));
        // offset of the input pixel, offset of the filter's row
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
            for &(from, tap) in &*taps {
                sum = s.fma(s.get(&self.x[from + j..][..n]), s.get(&self.wt[tap + j..][..n]), sum);
            }
            self.put(s, i, j, n, sum);
        }
    }

    /// The result of channels `j..j + n` of pixel `i` of this task.
    #[inline(always)]
    fn put<S: Simd>(&mut self, s: S, i: usize, j: usize, n: usize, sum: S::V) {
        let c = self.shape.c;
        if let Some(pre) = self.pre {
            let at = (self.first + i) * c + j;
            // SAFETY: the pixel belongs to this task, and `pre` has room for all pixels.
            s.put(
                unsafe { std::slice::from_raw_parts_mut(pre.ptr().add(at).cast(), n) },
                sum,
            );
        }
        s.put(&mut self.out[i * c + j..][..n], apply(s, self.act, sum));
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
