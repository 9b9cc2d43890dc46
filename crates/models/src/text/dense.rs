//! Linear layers after pooling, as sentence-transformers has them.

use bifocal_nn::fused::Activation;
use bifocal_nn::init::Rng;
use bifocal_nn::layers::Linear;
use bifocal_nn::{Module, Tensor};
use serde::{Deserialize, Serialize};

use crate::blocks::check_sizes;
use crate::load::Loader;
use crate::weights::{TensorSource, WeightsError};

/// What follows the linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DenseActivation {
    /// Nothing.
    Identity,
    /// The hyperbolic tangent.
    Tanh,
}

/// Sizes of such a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseConfig {
    /// Width of what comes in.
    pub input: usize,
    /// Width of what goes out.
    pub output: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// What follows.
    pub activation: DenseActivation,
}

/// `act(x wᵀ + b)` on pooled vectors.
#[derive(Module, Debug)]
pub struct Dense {
    linear: Linear,
    #[module(skip)]
    activation: DenseActivation,
}

impl Dense {
    /// PyTorch's initial values.
    pub fn new(config: &DenseConfig, rng: &mut Rng) -> Self {
        Self {
            linear: Linear::new(config.input, config.output, config.bias, rng),
            activation: config.activation,
        }
    }

    /// One of the same sizes, with initial values.
    pub(super) fn untrained(&self, rng: &mut Rng) -> Self {
        let config = DenseConfig {
            input: self.input(),
            output: self.output(),
            bias: self.linear.bias.is_some(),
            activation: self.activation,
        };
        Self::new(&config, rng)
    }

    /// Loads `{prefix}.weight` and `{prefix}.bias`.
    ///
    /// # Errors
    /// [`WeightsError`] when sizes cannot be, a tensor is missing or has another shape.
    pub fn load(config: &DenseConfig, source: &dyn TensorSource, prefix: &str) -> Result<Self, WeightsError> {
        check_sizes(
            source.path(),
            &[("in_features", config.input), ("out_features", config.output)],
        )?;
        Ok(Self {
            linear: Loader(source).linear(prefix, config.input, config.output, config.bias)?,
            activation: config.activation,
        })
    }

    /// `[n, input]` → `[n, output]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = self.linear.fused(x, Activation::Identity, None);
        match self.activation {
            DenseActivation::Identity => y,
            DenseActivation::Tanh => y.tanh(),
        }
    }

    /// Width of what comes in.
    pub fn input(&self) -> usize {
        self.linear.weight.val().dims()[1]
    }

    /// Width of what goes out.
    pub fn output(&self) -> usize {
        self.linear.weight.val().dims()[0]
    }
}

/// All of them, one after the other.
pub(super) fn apply(layers: &[Dense], x: Tensor<2>) -> Tensor<2> {
    layers.iter().fold(x, |x, layer| layer.forward(x))
}

/// Width after all of them.
pub(super) fn dim(layers: &[Dense], width: usize) -> usize {
    layers.last().map_or(width, Dense::output)
}
