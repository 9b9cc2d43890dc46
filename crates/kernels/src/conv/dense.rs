//! Dense convolution of pictures whose patch matrix would not fit into the caches: the forward pass unfolds a band of output pixels at a time
//! and multiplies it at once, the backward pass unfolds whole pictures again instead of keeping their patches.
use super::{ConvShape, col2im, im2col, unfold};
use crate::activation::Activation;
use crate::buffer::{Scratch, as_uninit};
use crate::gemm::Precision;
use crate::linear::{LinearGrads, LinearOut, Weight, linear, linear_backward, pack_weight};
use rayon::prelude::*;

/// Numbers of a band of patches (2 MiB): what a core's second cache holds, with enough rows to a product.
const BAND: usize = 512 << 10;
/// Numbers of the patches of the pictures that the backward pass unfolds at a time, unless a single picture has more.
const PICTURES: usize = 4 << 20;

/// act(x ∗ w + bias), as [`super::im2col`] and [`linear`] would compute it.
///
/// # Shapes
/// `x`: `[n, h, w, c]`, `w`: `[dout, kh·kw·c]`, `bias`: `[dout]`; result `[n·out_h·out_w, dout]`. `pre` as [`linear`] has it.
pub fn dense<'a>(
    x: &[f32],
    w: impl Into<Weight<'a>>,
    bias: Option<&[f32]>,
    act: Activation,
    shape: &ConvShape,
    dout: usize,
    keep_pre: bool,
    precision: Precision,
) -> LinearOut {
    assert_eq!(x.len(), shape.inputs(), "dense convolution: x must be [n, h, w, c]");
    let (rows, patch) = (shape.n * shape.out_h() * shape.out_w(), shape.patch());
    let given: Weight = w.into();
    let packed = match given.state(precision) {
        (_, true) => None,
        (data, false) => Some((data, pack_weight(data, patch, dout, precision))),
    };
    let weight = match &packed {
        Some((data, packed)) => Weight::new(data, Some(packed)),
        None => given,
    };
    let keep_pre = keep_pre && act != Activation::Identity;
    let mut y = vec![0.0; rows * dout];
    let mut pre = vec![0.0; if keep_pre { rows * dout } else { 0 }];
    let band = (BAND / patch.max(1)).max(16);
    let run = |i: usize, y: &mut [f32], pre: &mut [f32]| {
        let count = y.len() / dout.max(1);
        let mut patches = Scratch::take(count * patch);
        unfold(x, shape, i * band, as_uninit(patches.numbers()));
        let out = linear(
            patches.numbers(),
            weight,
            bias,
            act,
            None,
            count,
            patch,
            dout,
            keep_pre,
            precision,
        );
        y.copy_from_slice(&out.y);
        if let Some(kept) = out.pre {
            pre.copy_from_slice(&kept);
        }
    };
    let numbers = (band * dout).max(1);
    if keep_pre {
        let bands = y.par_chunks_mut(numbers).zip(pre.par_chunks_mut(numbers));
        bands.enumerate().for_each(|(i, (y, pre))| run(i, y, pre));
    } else {
        let bands = y.par_chunks_mut(numbers).enumerate();
        bands.for_each(|(i, y)| run(i, y, &mut []));
    }
    LinearOut {
        y,
        pre: keep_pre.then_some(pre),
    }
}

/// Gradients of [`dense`]; `need` says which of x, w and bias. Pictures are taken in order, so that sums do not depend on threads.
///
/// # Shapes
/// As [`dense`]; `gy`: `[n·out_h·out_w, dout]`.
pub fn dense_backward(
    gy: &[f32],
    x: &[f32],
    w: &[f32],
    pre: Option<&[f32]>,
    act: Activation,
    shape: &ConvShape,
    dout: usize,
    need: [bool; 3],
    precision: Precision,
) -> LinearGrads {
    assert_eq!(x.len(), shape.inputs(), "dense convolution: x must be [n, h, w, c]");
    let (area, patch) = (shape.out_h() * shape.out_w(), shape.patch());
    let at_once = (PICTURES / (area * patch).max(1)).max(1);
    let picture = shape.h * shape.w * shape.c;
    let mut all = LinearGrads {
        x: need[0].then(|| Vec::with_capacity(x.len())),
        w: need[1].then(|| vec![0.0; w.len()]),
        b: need[2].then(|| vec![0.0; dout]),
    };
    for first in (0..shape.n).step_by(at_once) {
        let n = at_once.min(shape.n - first);
        let some = ConvShape { n, ..*shape };
        let part = first * area * dout..(first + n) * area * dout;
        let patches = im2col(&x[first * picture..(first + n) * picture], &some);
        let pre = pre.map(|pre| &pre[part.clone()]);
        let rows = n * area;
        let g = linear_backward(&gy[part], &patches, w, pre, act, rows, patch, dout, need, precision);
        drop(patches);
        if let (Some(all), Some(patches)) = (&mut all.x, g.x) {
            all.extend(col2im(&patches, &some));
        }
        for (sum, g) in [(&mut all.w, g.w), (&mut all.b, g.b)] {
            if let (Some(sum), Some(g)) = (sum, g) {
                sum.iter_mut().zip(g).for_each(|(sum, g)| *sum += g);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, numbers, wide};

    /// Several bands that end within a picture; several pictures at a time in the backward pass, and one that is too large for that.
    #[test]
    fn bands_and_pictures_add_up_to_the_whole() {
        each_isa(|isa| {
            for (n, side, c, dout, stride, pad) in [
                (3, 40, 48, 5, 1, [1, 1, 1, 1]),
                (2, 33, 40, 7, 2, [0, 1, 0, 1]),
                (2, 100, 64, 3, 1, [1, 1, 1, 1]),
                (0, 5, 3, 2, 1, [0; 4]),
            ] {
                let shape = ConvShape {
                    n,
                    h: side,
                    w: side + 1,
                    c,
                    kh: 3,
                    kw: 3,
                    stride,
                    pad,
                };
                let (x, w) = (numbers(shape.inputs(), 1), numbers(dout * shape.patch(), 2));
                let b = numbers(dout, 3);
                let (act, exact) = (Activation::Silu, Precision::F32);
                let rows = n * shape.out_h() * shape.out_w();
                let cols = im2col(&x, &shape);
                let patch = shape.patch();
                let whole = linear(&cols, &w, Some(&b), act, None, rows, patch, dout, true, exact);
                let banded = dense(&x, &w, Some(&b), act, &shape, dout, true, exact);
                assert_close(&banded.y, &wide(&whole.y), 1e-5, isa);
                let pre = whole.pre.unwrap();
                assert_close(&banded.pre.unwrap(), &wide(&pre), 1e-5, isa);
                let gy = numbers(rows * dout, 4);
                let need = [true; 3];
                let g = linear_backward(&gy, &cols, &w, Some(&pre), act, rows, patch, dout, need, exact);
                let found = dense_backward(&gy, &x, &w, Some(&pre), act, &shape, dout, need, exact);
                let gx = col2im(&g.x.unwrap(), &shape);
                assert_close(&found.x.unwrap(), &wide(&gx), 1e-4, "gx");
                // sums over thousands of positions, in another order
                assert_close(&found.w.unwrap(), &wide(&g.w.unwrap()), 1e-3, "gw");
                assert_close(&found.b.unwrap(), &wide(&g.b.unwrap()), 1e-3, "gb");
            }
        });
    }
}
