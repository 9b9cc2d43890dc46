//! Between files of weights and modules: layers out of a [`TensorSource`]: each call says the name and the shape that the architecture needs.

use std::collections::BTreeMap;

use bifocal_nn::engine::tensor;
use bifocal_nn::layers::{Embedding, LayerNorm, Linear, RmsNorm};
use bifocal_nn::{Module, Param, Tensor, params};

use crate::weights::{HostTensor, TensorSource, WeightsError};

/// Builds layers from named tensors.
#[derive(Clone, Copy)]
pub(crate) struct Loader<'a>(pub &'a dyn TensorSource);

impl Loader<'_> {
    /// Values of a tensor whose shape must be this.
    pub fn values(self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        Ok(self.0.load_shaped(name, shape)?.data)
    }

    /// A parameter of the same shape as in the source.
    pub fn param<const D: usize>(self, name: &str, shape: [usize; D]) -> Result<Param<Tensor<D>>, WeightsError> {
        Ok(Param::from_tensor(tensor(self.values(name, &shape)?, shape)))
    }

    /// A parameter that is stored with axes of length 1 too many or too few.
    pub fn reshaped<const D: usize>(
        self,
        name: &str,
        stored: &[usize],
        shape: [usize; D],
    ) -> Result<Param<Tensor<D>>, WeightsError> {
        Ok(Param::from_tensor(tensor(self.values(name, stored)?, shape)))
    }

    /// `{prefix}.weight` `[out, in]` and, when asked for, `{prefix}.bias` `[out]`.
    pub fn linear(self, prefix: &str, din: usize, dout: usize, bias: bool) -> Result<Linear, WeightsError> {
        self.stacked(&[(prefix, dout)], din, bias)
    }

    /// Several linear layers with the same input as one: their rows below each other, in this order.
    pub fn stacked(self, parts: &[(&str, usize)], din: usize, bias: bool) -> Result<Linear, WeightsError> {
        let dout = parts.iter().map(|part| part.1).sum();
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for &(prefix, rows) in parts {
            let rows_of = self.values(&format!("{prefix}.weight"), &[rows, din])?;
            if weights.is_empty() {
                weights = rows_of;
            } else {
                weights.extend_from_slice(&rows_of);
            }
            if bias {
                biases.extend(self.values(&format!("{prefix}.bias"), &[rows])?);
            }
        }
        Ok(Linear::from_params(
            Param::from_tensor(tensor(weights, [dout, din])),
            bias.then(|| Param::from_tensor(tensor(biases, [dout]))),
        ))
    }

    /// A linear layer without bias whose weight is stored as `[in, out]`.
    pub fn transposed(self, name: &str, din: usize, dout: usize) -> Result<Param<Tensor<2>>, WeightsError> {
        let stored = self.values(name, &[din, dout])?;
        Ok(Param::from_tensor(tensor(transpose(&stored, din, dout), [dout, din])))
    }

    /// `{prefix}.weight` and `{prefix}.bias`.
    pub fn layer_norm(self, prefix: &str, width: usize, eps: f32) -> Result<LayerNorm, WeightsError> {
        let mut norm = LayerNorm::new(width, eps);
        norm.weight = self.param(&format!("{prefix}.weight"), [width])?;
        norm.bias = self.param(&format!("{prefix}.bias"), [width])?;
        Ok(norm)
    }

    /// `{prefix}.weight`.
    pub fn rms_norm(self, prefix: &str, width: usize, eps: f32) -> Result<RmsNorm, WeightsError> {
        let mut norm = RmsNorm::new(width, eps);
        norm.weight = self.param(&format!("{prefix}.weight"), [width])?;
        Ok(norm)
    }

    /// A table of rows.
    pub fn embedding(self, name: &str, rows: usize, width: usize) -> Result<Embedding, WeightsError> {
        Ok(Embedding {
            weight: self.param(name, [rows, width])?,
        })
    }
}

/// `[rows, cols]` → `[cols, rows]`.
pub(crate) fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
}

/// All parameters of a module by name.
pub(crate) fn host_tensors<M: Module>(module: &M) -> BTreeMap<String, HostTensor> {
    let mut all = BTreeMap::new();
    params::visit(module, |info, values| {
        let tensor = HostTensor {
            shape: info.shape,
            data: values(),
        };
        all.insert(info.name, tensor);
    });
    all
}
