//! An inverted bottleneck in one go: a band of rows is expanded, filtered and projected while it is in a core's second cache.
use super::ConvShape;
use super::depthwise::filter;
use crate::activation::Activation;
use crate::buffer::{Scratch, Shared, as_uninit, filled};
use crate::gemm::{On, Packed, Precision};
use crate::linear::{Weight, linear_into, pack_weight};
use crate::trace;
use rayon::prelude::*;

/// Numbers of a band's expanded rows (768 KiB): with what is made of them they fit a second-level cache of 2 MiB.
const BAND: usize = 192 << 10;

/// Weights and sizes of [`bottleneck`], with norms folded in.
#[derive(Clone, Copy, Debug)]
pub struct Bottleneck<'a> {
    /// `[c, input]` and `[c]`; without them the filter reads the input.
    pub expand: Option<[&'a [f32]; 2]>,
    /// `[kh·kw, c]` and `[c]`.
    pub filter: [&'a [f32]; 2],
    /// `[output, c]` and `[output]`.
    pub project: [&'a [f32]; 2],
    /// After expansion and filter.
    pub act: Activation,
    /// Of the filter.
    pub shape: ConvShape,
    /// Channels of the input.
    pub input: usize,
    /// Channels of the result.
    pub output: usize,
    /// Whether the input is added to the result.
    pub residual: bool,
}

/// project(act(filter(act(expand(x))))) (+ x), to the bits that the three layers give one after the other (Sandler et al. 2018, "MobileNetV2"). The precisions are those of the
/// two products.
///
/// # Shapes
/// `x`: `[n, h, w, input]`; result: `[n·out_h·out_w, output]`.
pub fn bottleneck(x: &[f32], b: &Bottleneck, precisions: [Precision; 2]) -> Vec<f32> {
    let s = &b.shape;
    assert_eq!(
        x.len(),
        s.n * s.h * s.w * b.input,
        "bottleneck: x must be [n, h, w, input]"
    );
    assert_eq!(b.filter[1].len(), s.c, "bottleneck: the filter's bias must be [c]");
    assert!(
        b.expand.is_some() || b.input == s.c,
        "bottleneck: nothing expands {} channels to {}",
        b.input,
        s.c
    );
    let same = s.out_h() == s.h && s.out_w() == s.w && b.input == b.output;
    assert!(
        !b.residual || same,
        "bottleneck: the input can be added to a result of its size alone"
    );
    let weights = Weights {
        expand: b.expand.map(|layer| Product::new(layer, [b.input, s.c], precisions[0])),
        project: Product::new(b.project, [s.c, b.output], precisions[1]),
    };
    let (row, oh) = (s.out_w() * b.output, s.out_h());
    if s.n * oh * row == 0 {
        return Vec::new();
    }
    // as many rows of the result as their expanded input fits the cache
    let expanded = BAND / (s.w * s.c).max(1);
    let band = (expanded.saturating_sub(s.kh) / s.stride + 1).clamp(1, oh);
    let bands = oh.div_ceil(band);
    // as many as keep all threads busy, or the products of each are computed by all
    let on = if s.n * bands >= 4 * rayon::current_num_threads() {
        On::Caller
    } else {
        On::Pool
    };
    let run = |at: usize, y: Shared| {
        let (image, first) = (at / bands, at % bands * band);
        let x = &x[image * s.h * s.w * b.input..][..s.h * s.w * b.input];
        let y = y.at((image * oh + first) * row);
        // SAFETY: the result has these rows, and they belong to this band.
        unsafe { rows(x, b, &weights, first, band.min(oh - first), y, on) }
    };
    // SAFETY: bands write every number of their rows.
    unsafe {
        filled(s.n * oh * row, |y| {
            (0..s.n * bands).into_par_iter().for_each(|at| run(at, y));
        })
    }
}

struct Weights<'a> {
    expand: Option<Product<'a>>,
    project: Product<'a>,
}

/// A convolution of single pixels.
struct Product<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
    packed: Packed,
    /// Channels before and after it.
    width: [usize; 2],
    precision: Precision,
}

impl<'a> Product<'a> {
    fn new([weight, bias]: [&'a [f32]; 2], width: [usize; 2], precision: Precision) -> Self {
        Self {
            weight,
            bias,
            packed: pack_weight(weight, width[0], width[1], precision),
            width,
            precision,
        }
    }

    /// # Safety
    /// `y` must be writable for a row for each pixel of `x`.
    unsafe fn apply(&self, x: &[f32], act: Activation, residual: Option<&[f32]>, y: Shared, on: On) {
        let [din, dout] = self.width;
        let weight = Weight::new(self.weight, Some(&self.packed));
        let sizes = [x.len() / din, din, dout];
        // SAFETY: the caller's contract.
        unsafe {
            linear_into(
                x,
                weight,
                Some(self.bias),
                act,
                residual,
                sizes,
                y,
                None,
                self.precision,
                on,
            )
        }
    }
}

/// `count` rows of one image's result from `first` on.
///
/// # Safety
/// `y` must be writable for them.
unsafe fn rows(x: &[f32], b: &Bottleneck, weights: &Weights<'_>, first: usize, count: usize, y: Shared, on: On) {
    let s = &b.shape;
    // rows under the filter, and those of them that are there
    let (from, to) = (first * s.stride, (first + count - 1) * s.stride + s.kh);
    let (low, high) = (
        from.saturating_sub(s.pad[0]).min(s.h),
        to.saturating_sub(s.pad[0]).min(s.h),
    );
    let above = s.pad[0].saturating_sub(from).min(to - from);
    let shape = ConvShape {
        n: 1,
        h: high - low,
        pad: [above, to - from - above - (high - low), s.pad[2], s.pad[3]],
        ..*s
    };
    let seen = &x[low * s.w * b.input..high * s.w * b.input];
    let mut expanded = weights.expand.as_ref().map(|product| {
        let mut expanded = Scratch::take((high - low) * s.w * s.c);
        // SAFETY: a row for each pixel that is seen.
        unsafe { product.apply(seen, b.act, None, Shared::of(expanded.numbers()), on) };
        expanded
    });
    let under = expanded.as_mut().map_or(seen, |expanded| expanded.numbers());
    let pixels = count * s.out_w();
    trace::operations(|| 2 * pixels * s.kh * s.kw * s.c);
    let mut filtered = Scratch::take(pixels * s.c);
    filter(
        under,
        b.filter[0],
        b.filter[1],
        b.act,
        &shape,
        as_uninit(filtered.numbers()),
    );
    let own = &x[first * s.w * b.input..];
    let residual = b.residual.then(|| &own[..pixels * b.output]);
    let act = Activation::Identity;
    // SAFETY: a row for each pixel; the caller's contract.
    unsafe { weights.project.apply(filtered.numbers(), act, residual, y, on) }
}
