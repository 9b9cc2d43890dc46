//! Modules with parameters: linear, convolution, norms, embedding. Weights are stored as PyTorch stores them.

mod conv;
mod feed_forward;
mod linear;

pub use conv::{Conv, GroupNorm, Pictures};
pub use feed_forward::{Before, feed_forward};
pub use linear::Linear;
pub(crate) use linear::{LAYER, Part};

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::fused;
use crate::init::{Init, Rng};

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

    /// The constant added to the variance.
    pub fn eps(&self) -> f32 {
        self.eps
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
    Param::from_tensor(Tensor::zeros(shape, &crate::engine::device()))
}

/// A parameter of ones.
pub fn ones<const D: usize>(shape: [usize; D]) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::ones(shape, &crate::engine::device()))
}
