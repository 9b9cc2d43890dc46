//! What encoder and decoder of a VQGAN are made of.

use std::sync::Arc;

use bifocal_nn::fused::{self, Activation, AttentionShape};
use bifocal_nn::init::Rng;
use bifocal_nn::layers::{Conv, GroupNorm, Pictures};
use bifocal_nn::{Module, Tensor};

use super::names::Names;
use crate::weights::WeightsError;

/// Groups of all norms.
pub(super) const GROUPS: usize = 32;
/// The constant of all norms.
pub(super) const EPS: f32 = 1e-6;

/// Norm, then SiLU.
pub(super) fn normed(norm: &GroupNorm, x: &Pictures) -> Pictures {
    let y = norm.forward(x);
    y.with(fused::activation(y.x.clone(), Activation::Silu))
}

/// Two 3×3 convolutions, each after norm and SiLU, beside a shortcut.
#[derive(Module, Debug)]
pub struct ResBlock {
    norm1: GroupNorm,
    conv1: Conv,
    norm2: GroupNorm,
    conv2: Conv,
    /// 1×1, where the width changes.
    nin_shortcut: Option<Conv>,
}

impl ResBlock {
    pub(super) fn new(input: usize, output: usize, rng: &mut Rng) -> Self {
        Self {
            norm1: GroupNorm::new(input, GROUPS, EPS),
            conv1: Conv::new(3, input, output, true, rng),
            norm2: GroupNorm::new(output, GROUPS, EPS),
            conv2: Conv::new(3, output, output, true, rng),
            nin_shortcut: (input != output).then(|| Conv::new(1, input, output, true, rng)),
        }
    }

    pub(super) fn load(at: Names, input: usize, output: usize) -> Result<Self, WeightsError> {
        Ok(Self {
            norm1: at.norm("norm1", input)?,
            conv1: at.conv("conv1", 3, input, output)?,
            norm2: at.norm("norm2", output)?,
            conv2: at.conv("conv2", 3, output, output)?,
            nin_shortcut: (input != output)
                .then(|| at.conv("nin_shortcut", 1, input, output))
                .transpose()?,
        })
    }

    /// Pictures of the same size.
    pub fn forward(&self, x: &Pictures) -> Pictures {
        let h = self.conv1.same(&normed(&self.norm1, x), Activation::Identity);
        let h = self.conv2.same(&normed(&self.norm2, &h), Activation::Identity);
        let beside = match &self.nin_shortcut {
            Some(shortcut) => shortcut.same(x, Activation::Identity).x,
            None => x.x.clone(),
        };
        h.with(h.x.clone() + beside)
    }
}

/// Attention of each position to all of its picture, with one head.
#[derive(Module, Debug)]
pub struct AttnBlock {
    norm: GroupNorm,
    q: Conv,
    k: Conv,
    v: Conv,
    proj_out: Conv,
}

impl AttnBlock {
    pub(super) fn new(width: usize, rng: &mut Rng) -> Self {
        let mut conv = || Conv::new(1, width, width, true, rng);
        Self {
            norm: GroupNorm::new(width, GROUPS, EPS),
            q: conv(),
            k: conv(),
            v: conv(),
            proj_out: conv(),
        }
    }

    pub(super) fn load(at: Names, width: usize) -> Result<Self, WeightsError> {
        let conv = |name: &str| at.conv(name, 1, width, width);
        Ok(Self {
            norm: at.norm("norm", width)?,
            q: conv("q")?,
            k: conv("k")?,
            v: conv("v")?,
            proj_out: conv("proj_out")?,
        })
    }

    /// Pictures of the same size.
    pub fn forward(&self, x: &Pictures) -> Pictures {
        let [_, width] = x.x.dims();
        let h = self.norm.forward(x);
        let part = |conv: &Conv| conv.same(&h, Activation::Identity).x;
        let qkv = Tensor::cat(vec![part(&self.q), part(&self.k), part(&self.v)], 1);
        let area = x.area();
        let offsets: Arc<[usize]> = (0..=x.n).map(|i| i * area).collect();
        let shape = AttentionShape {
            heads: 1,
            kv_heads: 1,
            head_dim: width,
            causal: false,
            window: None,
            scale: 1.0 / (width as f32).sqrt(),
        };
        let h = h.with(fused::attention(qkv, &offsets, &shape));
        let h = self.proj_out.same(&h, Activation::Identity);
        h.with(h.x.clone() + x.x.clone())
    }
}
