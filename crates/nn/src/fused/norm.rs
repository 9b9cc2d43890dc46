//! Layer norm, RMS norm, the RMS norm of query and key heads, and group norm.

use bifocal_kernels::{group_norm as groups_kernel, norm as kernel, rope as heads_kernel};
use burn::tensor::Tensor;

use super::{Fused, apply, on_cpu};
use crate::composed;

pub use bifocal_kernels::group_norm::GroupShape;

#[derive(Clone, Debug)]
pub(crate) struct LayerNorm {
    pub eps: f32,
    pub width: usize,
}

impl Fused<3> for LayerNorm {
    type Saved = ();
    const READS: [bool; 3] = [true, true, false];

    fn forward(&self, [x, w, b]: [&[f32]; 3], _keep: bool) -> (Vec<f32>, Vec<usize>, ()) {
        let rows = x.len() / self.width.max(1);
        let y = kernel::layer_norm(x, w, b, self.eps, rows, self.width);
        (y, vec![rows, self.width], ())
    }

    fn backward(
        &self,
        grad: &[f32],
        [x, w, _]: [&[f32]; 3],
        _output: &[f32],
        _saved: (),
        need: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        let rows = grad.len() / self.width.max(1);
        let (x, w, b) = kernel::layer_norm_backward(grad, x, w, self.eps, rows, self.width, need);
        [x, w, b]
    }
}

/// Layer normalisation over the last dimension, with weight and bias (Ba et al. 2016).
///
/// # Shapes
/// `x` and the result `[t, c]`; `w`, `b` `[c]`.
pub fn layer_norm(x: Tensor<2>, w: Tensor<1>, b: Tensor<1>, eps: f32) -> Tensor<2> {
    let [_, width] = x.dims();
    assert_eq!(w.dims(), [width], "layer_norm: weight does not fit input");
    assert_eq!(b.dims(), [width], "layer_norm: bias does not fit input");
    if !on_cpu(&x) {
        return composed::layer_norm(x, w, b, eps);
    }
    apply(LayerNorm { eps, width }, [x.into(), w.into(), b.into()])
}

#[derive(Clone, Debug)]
pub(crate) struct RmsNorm {
    pub eps: f32,
    pub width: usize,
}

impl Fused<2> for RmsNorm {
    type Saved = ();
    const READS: [bool; 2] = [true, true];

    fn forward(&self, [x, w]: [&[f32]; 2], _keep: bool) -> (Vec<f32>, Vec<usize>, ()) {
        let rows = x.len() / self.width.max(1);
        let y = kernel::rms_norm(x, w, self.eps, rows, self.width);
        (y, vec![rows, self.width], ())
    }

    fn backward(
        &self,
        grad: &[f32],
        [x, w]: [&[f32]; 2],
        _output: &[f32],
        _saved: (),
        need: [bool; 2],
    ) -> [Option<Vec<f32>>; 2] {
        let rows = grad.len() / self.width.max(1);
        let (x, w) = kernel::rms_norm_backward(grad, x, w, self.eps, rows, self.width, need);
        [x, w]
    }
}

/// Root-mean-square normalisation over the last dimension (Zhang & Sennrich 2019).
///
/// # Shapes
/// `x` and the result `[t, c]`; `w` `[c]`.
pub fn rms_norm(x: Tensor<2>, w: Tensor<1>, eps: f32) -> Tensor<2> {
    let [_, width] = x.dims();
    assert_eq!(w.dims(), [width], "rms_norm: weight does not fit input");
    if !on_cpu(&x) {
        return composed::rms_norm(x, w, eps);
    }
    apply(RmsNorm { eps, width }, [x.into(), w.into()])
}

#[derive(Clone, Debug)]
struct HeadRmsNorm {
    eps: f32,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl HeadRmsNorm {
    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

impl Fused<3> for HeadRmsNorm {
    type Saved = ();
    const READS: [bool; 3] = [true, true, true];

    fn forward(&self, [qkv, wq, wk]: [&[f32]; 3], _keep: bool) -> (Vec<f32>, Vec<usize>, ()) {
        let t = qkv.len() / self.width().max(1);
        let y = heads_kernel::head_rms_norm(qkv, wq, wk, self.eps, t, self.heads, self.kv_heads, self.head_dim);
        (y, vec![t, self.width()], ())
    }

    fn backward(
        &self,
        grad: &[f32],
        [qkv, wq, wk]: [&[f32]; 3],
        _output: &[f32],
        _saved: (),
        need: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        let t = grad.len() / self.width().max(1);
        let (x, wq, wk) = heads_kernel::head_rms_norm_backward(
            grad,
            qkv,
            wq,
            wk,
            self.eps,
            t,
            self.heads,
            self.kv_heads,
            self.head_dim,
        );
        [need[0].then_some(x), need[1].then_some(wq), need[2].then_some(wk)]
    }
}

/// RMS norm of each query and key head of a packed row `q | k | v`, as Gemma 3 and Qwen 3 do; values pass unchanged.
///
/// # Shapes
/// `qkv` and the result `[t, (heads + 2·kv_heads)·head_dim]`; `wq`, `wk` `[head_dim]`.
pub fn head_rms_norm(
    qkv: Tensor<2>,
    wq: Tensor<1>,
    wk: Tensor<1>,
    eps: f32,
    heads: usize,
    kv_heads: usize,
) -> Tensor<2> {
    let [head_dim] = wq.dims();
    let [_, width] = qkv.dims();
    let op = HeadRmsNorm {
        eps,
        heads,
        kv_heads,
        head_dim,
    };
    assert_eq!(width, op.width(), "head_rms_norm: heads do not fit the row");
    assert_eq!(wk.dims(), [head_dim], "head_rms_norm: key weight");
    if !on_cpu(&qkv) {
        return composed::head_rms_norm(qkv, wq, wk, eps, heads, kv_heads);
    }
    apply(op, [qkv.into(), wq.into(), wk.into()])
}

#[derive(Clone, Debug)]
struct GroupNorm {
    shape: GroupShape,
}

impl Fused<3> for GroupNorm {
    type Saved = ();
    const READS: [bool; 3] = [true, true, false];

    fn forward(&self, [x, w, b]: [&[f32]; 3], _keep: bool) -> (Vec<f32>, Vec<usize>, ()) {
        let GroupShape { n, area, c, .. } = self.shape;
        (groups_kernel::group_norm(x, w, b, &self.shape), vec![n * area, c], ())
    }

    fn backward(
        &self,
        grad: &[f32],
        [x, w, _]: [&[f32]; 3],
        _output: &[f32],
        _saved: (),
        need: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        let (x, w, b) = groups_kernel::group_norm_backward(grad, x, w, &self.shape, need);
        [x, w, b]
    }
}

/// Group normalisation with weight and bias (Wu & He 2018): each picture's groups of channels over all its positions.
///
/// # Shapes
/// `x` and the result `[n·area, c]`; `w`, `b` `[c]`.
pub fn group_norm(x: Tensor<2>, w: Tensor<1>, b: Tensor<1>, shape: &GroupShape) -> Tensor<2> {
    let GroupShape { n, area, c, groups, .. } = *shape;
    assert_eq!(x.dims(), [n * area, c], "group_norm: pictures do not fit the rows");
    assert_eq!(w.dims(), [c], "group_norm: weight does not fit input");
    assert_eq!(b.dims(), [c], "group_norm: bias does not fit input");
    assert!(
        groups > 0 && c.is_multiple_of(groups),
        "group_norm: groups must divide the channels"
    );
    if !on_cpu(&x) {
        return composed::group_norm(x, w, b, shape);
    }
    apply(GroupNorm { shape: *shape }, [x.into(), w.into(), b.into()])
}
