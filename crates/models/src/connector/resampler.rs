//! Flamingo's Perceiver resampler (Alayrac et al. 2022, arXiv 2204.14198, §2.1): a fixed number of vectors out of any number of patches.

use bifocal_nn::init::{Init, Rng};
use bifocal_nn::layers::LayerNorm;
use bifocal_nn::{Module, Param, Tensor};

use super::perceiver::{Cross, EPS, FeedForward};
use crate::blocks::check_sizes;
use crate::load::Loader;
use crate::weights::{TensorSource, WeightsError};

/// Sizes of a resampler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResamplerConfig {
    /// Width of patches and of the learnt vectors.
    pub width: usize,
    /// Number of learnt vectors: what a picture becomes.
    pub latents: usize,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub head: usize,
}

impl Default for ResamplerConfig {
    /// As open_flamingo for CLIP ViT-L/14.
    fn default() -> Self {
        Self {
            width: 1024,
            latents: 64,
            layers: 6,
            heads: 8,
            head: 64,
        }
    }
}

/// Learnt vectors look at patches and at themselves, layer after layer.
#[derive(Module, Debug)]
pub struct Resampler {
    /// `[latents, c]`.
    latents: Param<Tensor<2>>,
    layers: Vec<Layer>,
    norm: LayerNorm,
}

/// l ← l + attention(norm(l); norm(x), norm(l)); l ← l + mlp(l).
#[derive(Module, Debug)]
struct Layer {
    norm_media: LayerNorm,
    norm_latents: LayerNorm,
    attention: Cross,
    mlp: FeedForward,
}

impl Resampler {
    /// Learnt vectors from N(0, 1), the rest as PyTorch does.
    pub fn new(c: ResamplerConfig, rng: &mut Rng) -> Self {
        let layer = |rng: &mut Rng| Layer {
            norm_media: LayerNorm::new(c.width, EPS),
            norm_latents: LayerNorm::new(c.width, EPS),
            attention: Cross::new(c.width, c.width, c.heads, c.head, rng),
            mlp: FeedForward::new(c.width, rng),
        };
        Self {
            latents: Param::from_tensor(Init::Normal(1.0).tensor([c.latents, c.width], rng)),
            layers: (0..c.layers).map(|_| layer(rng)).collect(),
            norm: LayerNorm::new(c.width, EPS),
        }
    }

    /// Loads one with the names of open_flamingo below `prefix` (`perceiver.`). Embeddings of frames and of time are not read: pictures have neither.
    ///
    /// # Errors
    /// [`WeightsError`] when the sizes cannot be, a tensor is missing or has another shape.
    pub fn load(c: ResamplerConfig, source: &dyn TensorSource, prefix: &str) -> Result<Self, WeightsError> {
        let sizes = [
            ("width", c.width),
            ("latents", c.latents),
            ("layers", c.layers),
            ("heads of all", c.heads.saturating_mul(c.head)),
        ];
        check_sizes(source.path(), &sizes)?;
        let loader = Loader(source);
        let layer = |i: usize| {
            let name = |part: &str| format!("{prefix}layers.{i}.{part}");
            Ok(Layer {
                norm_media: loader.layer_norm(&name("0.norm_media"), c.width, EPS)?,
                norm_latents: loader.layer_norm(&name("0.norm_latents"), c.width, EPS)?,
                attention: Cross::load([c.width, c.width, c.heads, c.head], loader, &name("0."))?,
                mlp: FeedForward::load(c.width, loader, &name("1."))?,
            })
        };
        Ok(Self {
            latents: loader.param(&format!("{prefix}latents"), [c.latents, c.width])?,
            layers: (0..c.layers).map(layer).collect::<Result<_, _>>()?,
            norm: loader.layer_norm(&format!("{prefix}norm"), c.width, EPS)?,
        })
    }

    /// What pictures become.
    ///
    /// # Shapes
    /// `patches` `[n·p, c]`, equally many of each picture, row by row → `[n·latents, c]`.
    pub fn forward(&self, patches: Tensor<2>, items: usize) -> Tensor<2> {
        let [rows, c] = patches.dims();
        let [latents, _] = self.latents.dims();
        let each = rows / items.max(1);
        let all = self.latents.val().unsqueeze::<3>().expand([items, latents, c]);
        let mut x = all.reshape([items * latents, c]);
        for layer in &self.layers {
            let media = layer.norm_media.forward(patches.clone()).reshape([items, each, c]);
            let own = layer.norm_latents.forward(x.clone());
            let seen = Tensor::cat(vec![media, own.clone().reshape([items, latents, c])], 1);
            let seen = seen.reshape([items * (each + latents), c]);
            x = layer.attention.forward(own, seen, items, None) + x;
            x = layer.mlp.forward(x.clone(), Some(x));
        }
        self.norm.forward(x)
    }
}
