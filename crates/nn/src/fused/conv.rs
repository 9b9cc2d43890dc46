//! Convolutions on images stored row by row, channels last.

use bifocal_kernels::conv as kernel;
use bifocal_kernels::linear::Weight;
use burn::tensor::Tensor;

use super::linear::linear_prepared;
use super::{Activation, Fused, absent, apply, on_cpu};
use crate::composed;
use crate::packed::Prepared;
use crate::precision::{self, Precision};

pub use bifocal_kernels::conv::ConvShape;

#[derive(Clone, Debug)]
struct Im2col {
    shape: ConvShape,
}

impl Fused<1> for Im2col {
    type Saved = ();
    const READS: [bool; 1] = [false];

    fn forward(&self, [x]: [&[f32]; 1], _keep: bool) -> (Vec<f32>, Vec<usize>, ()) {
        let s = &self.shape;
        let rows = s.n * s.out_h() * s.out_w();
        (kernel::im2col(x, s), vec![rows, s.kh * s.kw * s.c], ())
    }

    fn backward(
        &self,
        grad: &[f32],
        _inputs: [&[f32]; 1],
        _output: &[f32],
        _saved: (),
        _need: [bool; 1],
    ) -> [Option<Vec<f32>>; 1] {
        [Some(kernel::col2im(grad, &self.shape))]
    }
}

/// Patches of more numbers than this (16 MiB) are not made all at once.
const LARGE: usize = 4 << 20;

#[derive(Clone, Debug)]
struct Dense {
    prepared: Prepared,
    act: Activation,
    bias: bool,
    shape: ConvShape,
    dout: usize,
    precision: Precision,
}

impl Fused<3> for Dense {
    type Saved = Option<Vec<f32>>;
    const READS: [bool; 3] = [true, true, false];

    fn forward(&self, [x, w, b]: [&[f32]; 3], keep: bool) -> (Vec<f32>, Vec<usize>, Self::Saved) {
        let (s, dout) = (&self.shape, self.dout);
        let precision = precision::of_product(self.precision, s.kh * s.kw * s.c, keep);
        let w = Weight::new(w, self.prepared.packed.as_deref());
        let out = kernel::dense(x, w, self.bias.then_some(b), self.act, s, dout, keep, precision);
        (out.y, vec![s.n * s.out_h() * s.out_w(), dout], out.pre)
    }

    fn backward(
        &self,
        grad: &[f32],
        [x, w, _]: [&[f32]; 3],
        _output: &[f32],
        pre: Self::Saved,
        need: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        let (s, dout) = (&self.shape, self.dout);
        let pre = pre.as_deref();
        let g = kernel::dense_backward(grad, x, w, pre, self.act, s, dout, need, self.precision);
        [g.x, g.w, g.b]
    }
}

/// A dense convolution with bias and activation, as a matrix product over unfolded patches. Large pictures are unfolded in bands; their patches
/// are not kept for the backward pass, which makes them again.
///
/// # Shapes
/// `x` `[n·h·w, c]`, `w` `[out, kh·kw·c]`, `bias` `[out]` → `[n·oh·ow, out]`.
pub fn conv2d(x: Tensor<2>, w: Tensor<2>, bias: Option<Tensor<1>>, act: Activation, shape: &ConvShape) -> Tensor<2> {
    conv2d_prepared(x, w, Prepared::default(), bias, act, shape)
}

/// As [`conv2d`]; `prepared` is the weight once more, as the kernels read it best.
pub(crate) fn conv2d_prepared(
    x: Tensor<2>,
    w: Tensor<2>,
    prepared: Prepared,
    bias: Option<Tensor<1>>,
    act: Activation,
    shape: &ConvShape,
) -> Tensor<2> {
    check(&x, shape);
    if !on_cpu(&x) {
        return composed::conv2d(x, w, bias, act, shape);
    }
    if shape.unfolded() > LARGE {
        let [dout, patch] = w.dims();
        assert_eq!(patch, shape.kh * shape.kw * shape.c, "conv2d: weight does not fit");
        let op = Dense {
            prepared,
            act,
            bias: bias.is_some(),
            shape: *shape,
            dout,
            precision: precision::current(),
        };
        return apply(op, [x.into(), w.into(), bias.map_or_else(absent, Into::into)]);
    }
    let op = Im2col { shape: *shape };
    linear_prepared(apply(op, [x.into()]), w, prepared, bias, act, None)
}

#[derive(Clone, Debug)]
struct Depthwise {
    act: Activation,
    bias: bool,
    shape: ConvShape,
}

impl Fused<3> for Depthwise {
    type Saved = Option<Vec<f32>>;
    const READS: [bool; 3] = [true, true, false];

    fn forward(&self, [x, w, b]: [&[f32]; 3], keep: bool) -> (Vec<f32>, Vec<usize>, Self::Saved) {
        let s = &self.shape;
        let out = kernel::depthwise(x, w, self.bias.then_some(b), self.act, s, keep);
        (out.y, vec![s.n * s.out_h() * s.out_w(), s.c], out.pre)
    }

    fn backward(
        &self,
        grad: &[f32],
        [x, w, _]: [&[f32]; 3],
        _output: &[f32],
        pre: Self::Saved,
        need: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        let g = kernel::depthwise_backward(grad, x, w, pre.as_deref(), self.act, &self.shape, need);
        [g.x, g.w, g.b]
    }
}

/// A convolution of each channel with its own filter, with bias and activation.
///
/// # Shapes
/// `x` `[n·h·w, c]`, `w` `[kh·kw, c]`, `bias` `[c]` → `[n·oh·ow, c]`.
pub fn depthwise_conv2d(
    x: Tensor<2>,
    w: Tensor<2>,
    bias: Option<Tensor<1>>,
    act: Activation,
    shape: &ConvShape,
) -> Tensor<2> {
    check(&x, shape);
    assert_eq!(
        w.dims(),
        [shape.kh * shape.kw, shape.c],
        "depthwise_conv2d: weight does not fit"
    );
    if !on_cpu(&x) {
        return composed::depthwise_conv2d(x, w, bias, act, shape);
    }
    let op = Depthwise {
        act,
        bias: bias.is_some(),
        shape: *shape,
    };
    apply(op, [x.into(), w.into(), bias.map_or_else(absent, Into::into)])
}

fn check(x: &Tensor<2>, shape: &ConvShape) {
    assert_eq!(
        x.dims(),
        [shape.n * shape.h * shape.w, shape.c],
        "convolution: image shape does not fit"
    );
}
