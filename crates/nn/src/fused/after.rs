//! A linear layer of what a norm or an activation gives, which a backward pass makes again: that is cheaper than to keep it.

use burn::tensor::Tensor;

use super::linear::{Activate, Gated, Linear};
use super::norm::{LayerNorm, RmsNorm};
use super::{Activation, Fused, absent, apply};
use crate::packed::Prepared;

/// What comes before the layer.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    LayerNorm(LayerNorm),
    RmsNorm(RmsNorm),
    Activation(Activate),
    Gated(Gated),
}

impl Source {
    /// Width of what it gives for rows of that width.
    fn width(&self, input: usize) -> usize {
        match self {
            Self::Gated(_) => input / 2,
            _ => input,
        }
    }

    /// Of an input, a weight and a bias, which are empty where it has none.
    fn make(&self, [x, w, b]: [&[f32]; 3]) -> Vec<f32> {
        match self {
            Self::LayerNorm(op) => op.forward([x, w, b], true).0,
            Self::RmsNorm(op) => op.forward([x, w], true).0,
            Self::Activation(op) => op.forward([x], true).0,
            Self::Gated(op) => op.forward([x], true).0,
        }
    }

    fn back(&self, grad: &[f32], [x, w, b]: [&[f32]; 3], need: [bool; 3]) -> [Option<Vec<f32>>; 3] {
        let one = |[x]: [Option<Vec<f32>>; 1]| [x, None, None];
        match self {
            Self::LayerNorm(op) => op.backward(grad, [x, w, b], &[], (), need),
            Self::RmsNorm(op) => {
                let [x, w] = op.backward(grad, [x, w], &[], (), [need[0], need[1]]);
                [x, w, None]
            }
            Self::Activation(op) => one(op.backward(grad, [x], &[], (), [need[0]])),
            Self::Gated(op) => one(op.backward(grad, [x], &[], (), [need[0]])),
        }
    }
}

#[derive(Clone, Debug)]
struct LinearAfter {
    source: Source,
    linear: Linear,
}

impl Fused<6> for LinearAfter {
    type Saved = ();
    const READS: [bool; 6] = [true, true, true, true, false, false];

    fn forward(&self, [x, sw, sb, w, b, r]: [&[f32]; 6], keep: bool) -> (Vec<f32>, Vec<usize>, ()) {
        let (y, shape, _) = self.linear.forward([&self.source.make([x, sw, sb]), w, b, r], keep);
        (y, shape, ())
    }

    fn backward(
        &self,
        grad: &[f32],
        [x, sw, sb, w, ..]: [&[f32]; 6],
        _output: &[f32],
        _saved: (),
        need: [bool; 6],
    ) -> [Option<Vec<f32>>; 6] {
        let before = [need[0], need[1], need[2]];
        let wanted = [before.contains(&true), need[3], need[4], need[5]];
        let [gx, gw, gb, gr] = {
            let made = self.source.make([x, sw, sb]);
            self.linear.backward(grad, [&made, w, &[], &[]], &[], None, wanted)
        };
        let [x, sw, sb] = gx.map_or_else(Default::default, |g| self.source.back(&g, [x, sw, sb], before));
        [x, sw, sb, gw, gb, gr]
    }
}

/// `source(x) wᵀ + bias + residual`, on the processor. The weight and bias of the source are `None` where it has none.
///
/// # Shapes
/// `x` `[t, c]`; `w` `[out, in]`, where the source gives rows of `in`; `bias` `[out]`, `residual` and the result `[t, out]`.
pub(crate) fn linear_after(
    source: Source,
    x: Tensor<2>,
    own: [Option<Tensor<1>>; 2],
    w: Tensor<2>,
    prepared: Prepared,
    bias: Option<Tensor<1>>,
    residual: Option<Tensor<2>>,
) -> Tensor<2> {
    let [t, width] = x.dims();
    let linear = Linear::new(
        [t, source.width(width)],
        &w,
        prepared,
        bias.as_ref(),
        Activation::Identity,
        residual.as_ref(),
    );
    let [sw, sb] = own.map(|tensor| tensor.map_or_else(absent, Into::into));
    let bias = bias.map_or_else(absent, Into::into);
    let residual = residual.map_or_else(absent, Into::into);
    apply(
        LinearAfter { source, linear },
        [x.into(), sw, sb, w.into(), bias, residual],
    )
}
