//! Layers of pictures out of files in PyTorch's layout, and back.

use std::collections::BTreeMap;

use bifocal_nn::layers::{Conv, GroupNorm};
use bifocal_nn::{Module, Param};

use super::blocks::{EPS, GROUPS};
use crate::load::{Loader, host_tensors};
use crate::vision::channels_last;
use crate::weights::{HostTensor, TensorSource, WeightsError};

/// A place in a file: what names of tensors begin with.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub source: &'a dyn TensorSource,
    pub prefix: &'a str,
}

impl<'a> Names<'a> {
    pub fn at(source: &'a dyn TensorSource, prefix: &'a str) -> Self {
        Self { source, prefix }
    }

    pub fn full(self, name: &str) -> String {
        match (self.prefix, name) {
            ("", name) => name.to_owned(),
            (prefix, name) => format!("{prefix}.{name}"),
        }
    }

    /// `{name}.weight` `[out, in, k, k]` and `{name}.bias` `[out]`.
    pub fn conv(self, name: &str, kernel: usize, input: usize, output: usize) -> Result<Conv, WeightsError> {
        self.conv_with(name, kernel, input, output, true)
    }

    /// As [`Names::conv`], perhaps without a bias.
    pub fn conv_with(
        self,
        name: &str,
        kernel: usize,
        input: usize,
        output: usize,
        bias: bool,
    ) -> Result<Conv, WeightsError> {
        let (loader, name) = (Loader(self.source), self.full(name));
        let stored = loader.values(&format!("{name}.weight"), &[output, input, kernel, kernel])?;
        let weight = Param::from_tensor(channels_last(&stored, output, input, kernel));
        let bias = bias.then(|| loader.param(&format!("{name}.bias"), [output]));
        Ok(Conv::from_params(kernel, weight, bias.transpose()?))
    }

    /// `{name}.weight` and `{name}.bias`, of a VQGAN.
    pub fn norm(self, name: &str, width: usize) -> Result<GroupNorm, WeightsError> {
        self.norm_with(name, width, GROUPS, EPS)
    }

    /// `{name}.weight` and `{name}.bias`.
    pub fn norm_with(self, name: &str, width: usize, groups: usize, eps: f32) -> Result<GroupNorm, WeightsError> {
        let (loader, full) = (Loader(self.source), self.full(name));
        if width == 0 || !width.is_multiple_of(groups) {
            let message = format!("has {width} channels, which are not {groups} groups");
            return Err(WeightsError::metadata(self.source.path(), &full, message));
        }
        let mut norm = GroupNorm::new(width, groups, eps);
        norm.weight = loader.param(&format!("{full}.weight"), [width])?;
        norm.bias = loader.param(&format!("{full}.bias"), [width])?;
        Ok(norm)
    }
}

/// A module's tensors as PyTorch stores them; `rename` gives a parameter's name there and, of a convolution, the size of its kernel.
pub(super) fn stored<M: Module>(
    module: &M,
    rename: impl Fn(&str) -> (String, Option<usize>),
) -> BTreeMap<String, HostTensor> {
    host_tensors(module)
        .into_iter()
        .map(|(name, tensor)| {
            let (name, kernel) = rename(&name);
            let tensor = match (kernel, tensor.shape.as_slice()) {
                (Some(k), &[output, patch]) => channels_first(&tensor.data, output, patch / (k * k).max(1), k),
                _ => tensor,
            };
            (name, tensor)
        })
        .collect()
}

/// `[out, k, k, in]` → `[out, in, k, k]`.
fn channels_first(rows: &[f32], output: usize, input: usize, k: usize) -> HostTensor {
    let area = k * k;
    let patch = area * input;
    HostTensor {
        data: (0..output * patch)
            .map(|i| {
                let (o, c, place) = (i / patch, i % patch / area, i % area);
                rows[o * patch + place * input + c]
            })
            .collect(),
        shape: vec![output, input, k, k],
    }
}
