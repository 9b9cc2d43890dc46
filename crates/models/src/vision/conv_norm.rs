//! A convolution and the batch normalisation after it.
//!
//! Batch normalisation runs on frozen statistics: it is an affine map per channel, folded into the convolution before it in each
//! forward pass. The fold is differentiable, so that convolution, scale and shift can still be fine-tuned.

use std::collections::BTreeMap;
use std::sync::Arc;

use bifocal_nn::engine::tensor;
use bifocal_nn::fused::{self, Activation, ConvShape};
use bifocal_nn::{Module, Param, Tensor};

use super::channels_last;
use crate::load::{Loader, transpose};
use crate::weights::{HostTensor, TensorSource, WeightsError};

/// A convolution without bias and the batch normalisation after it.
#[derive(Module, Debug)]
pub struct ConvNorm {
    /// Dense `[out, k·k·in]`; depthwise `[k·k, channels]`.
    weight: Param<Tensor<2>>,
    /// `[out]`: scale of the batch normalisation.
    gamma: Param<Tensor<1>>,
    /// `[out]`: its shift.
    beta: Param<Tensor<1>>,
    #[module(skip)]
    statistics: Arc<Statistics>,
}

/// Frozen statistics of a batch normalisation.
#[derive(Debug)]
struct Statistics {
    mean: Vec<f32>,
    var: Vec<f32>,
    /// The constant that is added to variances.
    eps: f32,
}

/// Where a [`ConvNorm`] is found in a file.
pub(super) struct Source<'a> {
    loader: Loader<'a>,
    /// Names of the convolution's weight and of the batch normalisation's four tensors.
    names: [String; 5],
    /// Whether the weight is stored as PyTorch stores convolutions, channels before rows.
    channels_first: bool,
    eps: f32,
}

impl<'a> Source<'a> {
    /// A convolution and its batch normalisation as PyTorch stores them.
    pub fn torch(source: &'a dyn TensorSource, conv: &str, norm: &str, eps: f32) -> Self {
        Self {
            loader: Loader(source),
            names: [
                format!("{conv}.weight"),
                format!("{norm}.weight"),
                format!("{norm}.bias"),
                format!("{norm}.running_mean"),
                format!("{norm}.running_var"),
            ],
            channels_first: true,
            eps,
        }
    }

    /// As this crate stores them.
    pub fn own(source: &'a dyn TensorSource, name: &str, eps: f32) -> Self {
        Self {
            loader: Loader(source),
            names: ["weight", "gamma", "beta", "mean", "var"].map(|part| format!("{name}.{part}")),
            channels_first: false,
            eps,
        }
    }

    pub fn dense(&self, input: usize, output: usize, kernel: usize) -> Result<ConvNorm, WeightsError> {
        let name = &self.names[0];
        let weight = if self.channels_first {
            let stored = self.loader.values(name, &[output, input, kernel, kernel])?;
            Param::from_tensor(channels_last(&stored, output, input, kernel))
        } else {
            self.loader.param(name, [output, kernel * kernel * input])?
        };
        self.norm(weight, output)
    }

    pub fn depthwise(&self, channels: usize, kernel: usize) -> Result<ConvNorm, WeightsError> {
        let (name, area) = (&self.names[0], kernel * kernel);
        let weight = if self.channels_first {
            let stored = self.loader.values(name, &[channels, 1, kernel, kernel])?;
            Param::from_tensor(tensor(transpose(&stored, channels, area), [area, channels]))
        } else {
            self.loader.param(name, [area, channels])?
        };
        self.norm(weight, channels)
    }

    fn norm(&self, weight: Param<Tensor<2>>, channels: usize) -> Result<ConvNorm, WeightsError> {
        let [_, gamma, beta, mean, var] = &self.names;
        Ok(ConvNorm {
            weight,
            gamma: self.loader.param(gamma, [channels])?,
            beta: self.loader.param(beta, [channels])?,
            statistics: Arc::new(Statistics {
                mean: self.loader.values(mean, &[channels])?,
                var: self.loader.values(var, &[channels])?,
                eps: self.eps,
            }),
        })
    }
}

impl ConvNorm {
    /// Scale and shift per channel.
    fn affine(&self) -> (Tensor<1>, Tensor<1>) {
        let Statistics { mean, var, eps } = &*self.statistics;
        let channels = mean.len();
        let inverse = var.iter().map(|v| 1.0 / (v + eps).sqrt()).collect();
        let scale = self.gamma.val() * tensor(inverse, [channels]);
        let shift = self.beta.val() - scale.clone() * tensor(mean.clone(), [channels]);
        (scale, shift)
    }

    /// Weight and bias with the norm in them; channels are rows of the weight, or its columns.
    fn folded(&self, channels: usize) -> (Tensor<2>, Tensor<1>) {
        let (scale, shift) = self.affine();
        (self.weight.val() * scale.unsqueeze_dim::<2>(channels), shift)
    }

    /// As a layer whose channels are rows.
    pub(super) fn rows(&self) -> (Tensor<2>, Tensor<1>) {
        self.folded(1)
    }

    /// As a filter of each channel, which is a column.
    pub(super) fn columns(&self) -> (Tensor<2>, Tensor<1>) {
        self.folded(0)
    }

    pub(super) fn dense(&self, x: Tensor<2>, act: Activation, shape: &ConvShape) -> Tensor<2> {
        let (weight, shift) = self.rows();
        fused::conv2d(x, weight, Some(shift), act, shape)
    }

    pub(super) fn pointwise(&self, x: Tensor<2>, act: Activation, residual: Option<Tensor<2>>) -> Tensor<2> {
        let (weight, shift) = self.rows();
        fused::linear(x, weight, Some(shift), act, residual)
    }

    /// Adds the statistics to what is saved.
    pub(super) fn statistics(&self, name: &str, into: &mut BTreeMap<String, HostTensor>) {
        let Statistics { mean, var, .. } = &*self.statistics;
        for (part, values) in [("mean", mean), ("var", var)] {
            let tensor = HostTensor {
                shape: vec![values.len()],
                data: values.clone(),
            };
            into.insert(format!("{name}.{part}"), tensor);
        }
    }
}
