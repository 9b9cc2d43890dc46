//! Linear layer with activation and residual in one pass, and gated activations.

use bifocal_kernels::{activation as functions, linear as kernel};
use burn::tensor::Tensor;

use super::{Fused, absent, apply, on_cpu};
use crate::composed;
use crate::packed::Prepared;
use crate::precision::{self, Precision};

pub use bifocal_kernels::activation::Activation;

#[derive(Clone, Debug)]
pub(super) struct Linear {
    prepared: Prepared,
    act: Activation,
    bias: bool,
    residual: bool,
    din: usize,
    dout: usize,
    precision: Precision,
}

impl Linear {
    /// For an input of that shape.
    pub(super) fn new(
        [t, din]: [usize; 2],
        w: &Tensor<2>,
        prepared: Prepared,
        bias: Option<&Tensor<1>>,
        act: Activation,
        residual: Option<&Tensor<2>>,
    ) -> Self {
        let [dout, win] = w.dims();
        assert_eq!(din, win, "linear: input width {din}, weight [{dout}, {win}]");
        if let Some(b) = bias {
            assert_eq!(b.dims(), [dout], "linear: bias does not fit weight");
        }
        if let Some(r) = residual {
            assert_eq!(r.dims(), [t, dout], "linear: residual does not fit output");
        }
        Self {
            prepared,
            act,
            bias: bias.is_some(),
            residual: residual.is_some(),
            din,
            dout,
            precision: precision::current(),
        }
    }
}

impl Fused<4> for Linear {
    /// The pre-activation, when the activation is not the identity.
    type Saved = Option<Vec<f32>>;
    const READS: [bool; 4] = [true, true, false, false];

    fn forward(&self, [x, w, b, r]: [&[f32]; 4], keep: bool) -> (Vec<f32>, Vec<usize>, Self::Saved) {
        let t = x.len() / self.din.max(1);
        let out = kernel::linear(
            x,
            kernel::Weight::new(w, self.prepared.packed.as_deref()).with_grid(self.prepared.grid.as_deref()),
            self.bias.then_some(b),
            self.act,
            self.residual.then_some(r),
            t,
            self.din,
            self.dout,
            keep,
            precision::of_product(self.precision, self.din, keep),
        );
        (out.y, vec![t, self.dout], out.pre)
    }

    fn backward(
        &self,
        grad: &[f32],
        [x, w, ..]: [&[f32]; 4],
        _output: &[f32],
        pre: Self::Saved,
        need: [bool; 4],
    ) -> [Option<Vec<f32>>; 4] {
        let t = grad.len() / self.dout.max(1);
        let g = kernel::linear_backward(
            grad,
            x,
            w,
            pre.as_deref(),
            self.act,
            t,
            self.din,
            self.dout,
            [need[0], need[1], need[2]],
            self.precision,
        );
        [g.x, g.w, g.b, need[3].then(|| grad.to_vec())]
    }
}

/// `act(x wᵀ + b) + residual`; the product is of the thread's [`precision`], in f32 in place of eight-bit integers when it is recorded for a backward pass.
///
/// # Shapes
/// `x` `[t, in]`, `w` `[out, in]`, `bias` `[out]`, `residual` and the result `[t, out]`.
///
/// # Panics
/// When the shapes do not fit each other; layers check their inputs when they are built.
pub fn linear(
    x: Tensor<2>,
    w: Tensor<2>,
    bias: Option<Tensor<1>>,
    act: Activation,
    residual: Option<Tensor<2>>,
) -> Tensor<2> {
    linear_prepared(x, w, Prepared::default(), bias, act, residual)
}

/// As [`linear`]; `prepared` is the weight once more, as the kernels read it best.
pub(crate) fn linear_prepared(
    x: Tensor<2>,
    w: Tensor<2>,
    prepared: Prepared,
    bias: Option<Tensor<1>>,
    act: Activation,
    residual: Option<Tensor<2>>,
) -> Tensor<2> {
    let op = Linear::new(x.dims(), &w, prepared, bias.as_ref(), act, residual.as_ref());
    if !on_cpu(&x) {
        return composed::linear(x, w, bias, act, residual);
    }
    apply(
        op,
        [
            x.into(),
            w.into(),
            bias.map_or_else(absent, Into::into),
            residual.map_or_else(absent, Into::into),
        ],
    )
}

#[derive(Clone, Debug)]
pub(crate) struct Activate {
    pub act: Activation,
    /// Of a row.
    pub width: usize,
}

impl Fused<1> for Activate {
    type Saved = ();
    const READS: [bool; 1] = [true];

    fn forward(&self, [x]: [&[f32]; 1], _keep: bool) -> (Vec<f32>, Vec<usize>, ()) {
        let rows = x.len() / self.width.max(1);
        (functions::activation(x, self.act), vec![rows, self.width], ())
    }

    fn backward(
        &self,
        grad: &[f32],
        [x]: [&[f32]; 1],
        _output: &[f32],
        _saved: (),
        _need: [bool; 1],
    ) -> [Option<Vec<f32>>; 1] {
        [Some(functions::activation_backward(grad, x, self.act))]
    }
}

/// `act(x)`, where it cannot be a part of [`linear`].
///
/// # Shapes
/// `[t, c]` → `[t, c]`.
pub fn activation(x: Tensor<2>, act: Activation) -> Tensor<2> {
    let [_, width] = x.dims();
    if !on_cpu(&x) {
        return composed::activate(x, act);
    }
    apply(Activate { act, width }, [x.into()])
}

#[derive(Clone, Debug)]
pub(crate) struct Gated {
    pub act: Activation,
    /// Of a row of the result.
    pub width: usize,
}

impl Fused<1> for Gated {
    type Saved = ();
    const READS: [bool; 1] = [true];

    fn forward(&self, [x]: [&[f32]; 1], _keep: bool) -> (Vec<f32>, Vec<usize>, ()) {
        let t = x.len() / (2 * self.width).max(1);
        let y = functions::gated(x, self.act, t, self.width);
        (y, vec![t, self.width], ())
    }

    fn backward(
        &self,
        grad: &[f32],
        [x]: [&[f32]; 1],
        _output: &[f32],
        _saved: (),
        _need: [bool; 1],
    ) -> [Option<Vec<f32>>; 1] {
        let t = grad.len() / self.width.max(1);
        [Some(functions::gated_backward(grad, x, self.act, t, self.width))]
    }
}

/// `act(gate) · up` of a packed row `gate | up` (GLU, SwiGLU, GeGLU).
///
/// # Shapes
/// `[t, 2h]` → `[t, h]`.
pub fn gated(gate_up: Tensor<2>, act: Activation) -> Tensor<2> {
    let [_, width] = gate_up.dims();
    assert_eq!(width % 2, 0, "gated: width {width} is not even");
    if !on_cpu(&gate_up) {
        return composed::gated(gate_up, act);
    }
    let op = Gated { act, width: width / 2 };
    apply(op, [gate_up.into()])
}
