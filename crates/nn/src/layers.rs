//! Modules with parameters: linear, norms, embedding. Weights are stored as PyTorch stores them.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::fused::{self, Activation};
use crate::init::{Init, Rng};
use crate::packed::PackedWeight;

/// `act(x wᵀ + b)`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    pub(crate) packed: PackedWeight,
}

impl Linear {
    /// A layer with PyTorch's default initialisation.
    pub fn new(din: usize, dout: usize, bias: bool, rng: &mut Rng) -> Self {
        let init = Init::linear(din);
        Self::from_params(
            Param::from_tensor(init.tensor([dout, din], rng)),
            bias.then(|| Param::from_tensor(init.tensor([dout], rng))),
        )
    }

    /// A layer of a weight `[out, in]` and a bias `[out]`.
    pub fn from_params(weight: Param<Tensor<2>>, bias: Option<Param<Tensor<1>>>) -> Self {
        Self {
            weight,
            bias,
            packed: PackedWeight::default(),
        }
    }

    /// A layer whose weights are about to be loaded.
    pub fn empty(din: usize, dout: usize, bias: bool) -> Self {
        Self::from_params(zeros([dout, din]), bias.then(|| zeros([dout])))
    }

    /// `[t, in]` → `[t, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.fused(x, Activation::Identity, None)
    }

    /// `act(x wᵀ + b) + residual` in one pass.
    pub fn fused(&self, x: Tensor<2>, act: Activation, residual: Option<Tensor<2>>) -> Tensor<2> {
        let bias = self.bias.as_ref().map(Param::val);
        let weight = self.weight.val();
        let packed = self.packed.of(&weight, x.dims()[0]);
        fused::linear_packed(x, weight, packed, bias, act, residual)
    }
}

/// Layer normalisation with weight and bias.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[c]`.
    pub weight: Param<Tensor<1>>,
    /// `[c]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    eps: f32,
}

impl LayerNorm {
    /// Weight 1, bias 0.
    pub fn new(width: usize, eps: f32) -> Self {
        Self {
            weight: ones([width]),
            bias: zeros([width]),
            eps,
        }
    }

    /// `[t, c]` → `[t, c]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        fused::layer_norm(x, self.weight.val(), self.bias.val(), self.eps)
    }
}

/// Root-mean-square normalisation with weight.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[c]`.
    pub weight: Param<Tensor<1>>,
    #[module(skip)]
    eps: f32,
}

impl RmsNorm {
    /// Weight 1.
    pub fn new(width: usize, eps: f32) -> Self {
        Self {
            weight: ones([width]),
            eps,
        }
    }

    /// `[t, c]` → `[t, c]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        fused::rms_norm(x, self.weight.val(), self.eps)
    }

    /// The constant added to the mean square.
    pub fn eps(&self) -> f32 {
        self.eps
    }
}

/// A table of rows looked up by index.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[v, c]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// Rows from a normal distribution.
    pub fn new(rows: usize, width: usize, std: f32, rng: &mut Rng) -> Self {
        Self {
            weight: Param::from_tensor(Init::Normal(std).tensor([rows, width], rng)),
        }
    }

    /// A table whose rows are about to be loaded.
    pub fn empty(rows: usize, width: usize) -> Self {
        Self {
            weight: zeros([rows, width]),
        }
    }

    /// `[t]` → `[t, c]`; ids must be below the number of rows.
    pub fn forward(&self, ids: &Arc<[u32]>) -> Tensor<2> {
        fused::embedding(self.weight.val(), ids)
    }
}

/// A parameter of zeros.
pub fn zeros<const D: usize>(shape: [usize; D]) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::zeros(shape, &crate::engine::cpu()))
}

/// A parameter of ones.
pub fn ones<const D: usize>(shape: [usize; D]) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::ones(shape, &crate::engine::cpu()))
}
