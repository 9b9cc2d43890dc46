//! Dense convolution of pictures whose patch matrix would not fit into the caches: the forward pass unfolds a band of output pixels at a time
//! and multiplies it at once, the backward pass unfolds whole pictures again instead of keeping their patches.
use super::{ConvShape, col2im, im2col, unfold};
use crate::activation::Activation;
use crate::buffer::{Scratch, Shared, as_uninit, filled};
use crate::gemm::{On, Precision};
use crate::linear::{LinearGrads, LinearOut, Weight, linear_backward, linear_into, pack_weight};
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
    let band = (BAND / patch.max(1)).max(16);
    let bands = rows.div_ceil(band);
    // as many as keep all threads busy, or each of them is computed by all
    let on = if bands >= 4 * rayon::current_num_threads() {
        On::Caller
    } else {
        On::Pool
    };
    let run = |i: usize, y: Shared, pre: Option<Shared>| {
        let (first, last) = (i * band, ((i + 1) * band).min(rows));
        let mut patches = Scratch::take((last - first) * patch);
        unfold(x, shape, first, as_uninit(patches.numbers()));
        let sizes = [last - first, patch, dout];
        let (y, pre) = (y.at(first * dout), pre.map(|pre| pre.at(first * dout)));
        // SAFETY: both have room for all rows, and these rows belong to this band.
        unsafe { linear_into(patches.numbers(), weight, bias, act, None, sizes, y, pre, precision, on) }
    };
    let mut pre = (keep_pre && act != Activation::Identity).then(Vec::new);
    let all = |y, pre| (0..bands).into_par_iter().for_each(|i| run(i, y, pre));
    // SAFETY: bands write every number of their rows.
    let y = unsafe {
        filled(rows * dout, |y| match &mut pre {
            Some(pre) => *pre = filled(rows * dout, |p| all(y, Some(p))),
            None => all(y, None),
        })
    };
    LinearOut { y, pre }
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
    use crate::linear::linear;
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
