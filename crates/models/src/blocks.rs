//! The transformer block that CLIP's towers share: norms before attention and before the feed-forward part.

use std::path::Path;
use std::sync::Arc;

use bifocal_nn::fused::{self, Activation, AttentionShape};
use bifocal_nn::init::{Init, Rng};
use bifocal_nn::layers::{LayerNorm, Linear, zeros};
use bifocal_nn::{Module, Param, Tensor};
use serde::{Deserialize, Serialize};

use crate::load::Loader;
use crate::weights::WeightsError;

/// CLIP's layer norms.
pub(crate) const EPS: f32 = 1e-5;

/// Which GELU a transformer was trained with. The wrong one costs several points and no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gelu {
    /// x·σ(1.702x): OpenAI, DFN, MetaCLIP 1.
    Quick,
    /// x·Φ(x): LAION, DataComp, BERT.
    Erf,
}

impl From<Gelu> for Activation {
    fn from(gelu: Gelu) -> Self {
        match gelu {
            Gelu::Quick => Self::QuickGelu,
            Gelu::Erf => Self::GeluErf,
        }
    }
}

/// Sizes of a stack of blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StackConfig {
    /// Width of the residual stream.
    pub width: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
    /// Width between the two layers of the feed-forward part.
    pub mlp: usize,
    /// Its activation.
    pub gelu: Gelu,
}

/// More than any transformer of its kind, and small enough that products of two of them do not overflow.
const MAX_SIZE: usize = 1 << 17;

/// Checks numbers that came from a file before anything is allocated for them.
pub(crate) fn check_sizes(path: &Path, sizes: &[(&str, usize)]) -> Result<(), WeightsError> {
    for &(key, value) in sizes {
        if value == 0 || value > MAX_SIZE {
            return Err(WeightsError::Metadata {
                path: path.to_owned(),
                key: key.to_owned(),
                problem: format!("is {value}, not in 1…{MAX_SIZE}"),
            });
        }
    }
    Ok(())
}

/// Checks that attention heads divide the width.
pub(crate) fn check_heads(path: &Path, width: usize, heads: usize) -> Result<(), WeightsError> {
    check_sizes(path, &[("width", width), ("heads", heads)])?;
    if width.is_multiple_of(heads) {
        return Ok(());
    }
    Err(WeightsError::Metadata {
        path: path.to_owned(),
        key: "heads".to_owned(),
        problem: format!("is {heads}, which does not divide the width {width}"),
    })
}

impl StackConfig {
    pub(crate) fn check(&self, path: &Path) -> Result<(), WeightsError> {
        check_heads(path, self.width, self.heads)?;
        check_sizes(path, &[("layers", self.layers), ("mlp", self.mlp)])
    }

    pub(crate) fn attention(&self, causal: bool) -> AttentionShape {
        let head_dim = self.width / self.heads;
        AttentionShape {
            heads: self.heads,
            kv_heads: self.heads,
            head_dim,
            causal,
            window: None,
            scale: 1.0 / (head_dim as f32).sqrt(),
        }
    }

    /// The blocks of a file, below `prefix`.
    pub(crate) fn load(&self, loader: Loader, prefix: &str, names: Names) -> Result<Vec<Block>, WeightsError> {
        (0..self.layers)
            .map(|i| {
                let name = |part: &str| match names {
                    Names::OpenAi => format!("{prefix}.resblocks.{i}.{part}"),
                    Names::HuggingFace => format!("{prefix}.layers.{i}.{part}"),
                    Names::Own => format!("{prefix}.{i}.{part}"),
                };
                match names {
                    Names::OpenAi => Block::packed(self, loader, OPEN_AI.map(name)),
                    Names::Own => Block::packed(self, loader, OWN.map(name)),
                    Names::HuggingFace => Block::hugging_face(self, loader, name),
                }
            })
            .collect()
    }

    /// Blocks with OpenAI's initial values: spec `initialize_parameters` of its text transformer.
    pub(crate) fn init(&self, rng: &mut Rng) -> Vec<Block> {
        (0..self.layers).map(|_| Block::new(self, rng)).collect()
    }
}

/// Whose names a checkpoint uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// OpenAI's and open_clip's.
    OpenAi,
    HuggingFace,
    /// The paths of this crate's parameters.
    Own,
}

const OPEN_AI: [&str; 7] = [
    "ln_1",
    "attn.in_proj_weight",
    "attn.in_proj_bias",
    "attn.out_proj",
    "ln_2",
    "mlp.c_fc",
    "mlp.c_proj",
];

const OWN: [&str; 7] = ["ln_1", "qkv.weight", "qkv.bias", "out", "ln_2", "fc", "proj"];

/// One block: x ← x + attention(norm(x)); x ← x + mlp(norm(x)).
#[derive(Module, Debug)]
pub struct Block {
    /// Before attention.
    ln_1: LayerNorm,
    /// `[3c, c]`: queries, keys, values.
    qkv: Linear,
    /// `[c, c]`.
    out: Linear,
    /// Before the feed-forward part.
    ln_2: LayerNorm,
    /// `[mlp, c]`.
    fc: Linear,
    /// `[c, mlp]`.
    proj: Linear,
}

impl Block {
    fn new(config: &StackConfig, rng: &mut Rng) -> Self {
        let width = config.width;
        let std = (width as f32).powf(-0.5);
        let shallow = std * (2.0 * config.layers as f32).powf(-0.5);
        let mut linear = |din: usize, dout: usize, std: f32| {
            let weight = Init::Normal(std).tensor([dout, din], rng);
            Linear::from_params(Param::from_tensor(weight), Some(zeros([dout])))
        };
        Self {
            ln_1: LayerNorm::new(width, EPS),
            qkv: linear(width, 3 * width, std),
            out: linear(width, width, shallow),
            ln_2: LayerNorm::new(width, EPS),
            fc: linear(width, config.mlp, (2.0 * width as f32).powf(-0.5)),
            proj: linear(config.mlp, width, shallow),
        }
    }

    /// `names`: the norm before attention, weight and bias of queries, keys and values, the output layer, the second
    /// norm, the two layers of the feed-forward part.
    fn packed(c: &StackConfig, loader: Loader, names: [String; 7]) -> Result<Self, WeightsError> {
        let [ln_1, weight, bias, out, ln_2, fc, proj] = names;
        let qkv = Linear::from_params(
            loader.param(&weight, [3 * c.width, c.width])?,
            Some(loader.param(&bias, [3 * c.width])?),
        );
        Ok(Self {
            ln_1: loader.layer_norm(&ln_1, c.width, EPS)?,
            qkv,
            out: loader.linear(&out, c.width, c.width, true)?,
            ln_2: loader.layer_norm(&ln_2, c.width, EPS)?,
            fc: loader.linear(&fc, c.width, c.mlp, true)?,
            proj: loader.linear(&proj, c.mlp, c.width, true)?,
        })
    }

    fn hugging_face(c: &StackConfig, loader: Loader, name: impl Fn(&str) -> String) -> Result<Self, WeightsError> {
        let (q, k, v) = (
            name("self_attn.q_proj"),
            name("self_attn.k_proj"),
            name("self_attn.v_proj"),
        );
        let parts = [(&*q, c.width), (&*k, c.width), (&*v, c.width)];
        Ok(Self {
            ln_1: loader.layer_norm(&name("layer_norm1"), c.width, EPS)?,
            qkv: loader.stacked(&parts, c.width, true)?,
            out: loader.linear(&name("self_attn.out_proj"), c.width, c.width, true)?,
            ln_2: loader.layer_norm(&name("layer_norm2"), c.width, EPS)?,
            fc: loader.linear(&name("mlp.fc1"), c.width, c.mlp, true)?,
            proj: loader.linear(&name("mlp.fc2"), c.mlp, c.width, true)?,
        })
    }

    /// `[t, c]` → `[t, c]`.
    pub(crate) fn forward(
        &self,
        x: Tensor<2>,
        offsets: &Arc<[usize]>,
        shape: &AttentionShape,
        gelu: Gelu,
    ) -> Tensor<2> {
        let mixed = self.mix(&x, offsets, shape);
        self.finish(x, mixed, gelu)
    }

    /// As [`Self::forward`], of which only some rows are wanted: the last block of a tower that reads nothing but its class tokens leaves out three
    /// quarters of its products.
    ///
    /// # Shapes
    /// `[t, c]`, `r` rows below `t` → `[r, c]`.
    pub(crate) fn forward_rows(
        &self,
        x: Tensor<2>,
        offsets: &Arc<[usize]>,
        shape: &AttentionShape,
        gelu: Gelu,
        rows: &Arc<[u32]>,
    ) -> Tensor<2> {
        let mixed = self.mix(&x, offsets, shape);
        self.finish(fused::embedding(x, rows), fused::embedding(mixed, rows), gelu)
    }

    /// Attention over the normed rows, before its output layer.
    fn mix(&self, x: &Tensor<2>, offsets: &Arc<[usize]>, shape: &AttentionShape) -> Tensor<2> {
        fused::attention(self.qkv.forward(self.ln_1.forward(x.clone())), offsets, shape)
    }

    /// What follows attention, row by row.
    fn finish(&self, x: Tensor<2>, mixed: Tensor<2>, gelu: Gelu) -> Tensor<2> {
        let x = self.out.fused(mixed, Activation::Identity, Some(x));
        let h = self.fc.fused(self.ln_2.forward(x.clone()), gelu.into(), None);
        self.proj.fused(h, Activation::Identity, Some(x))
    }
}
