//! Vision transformers out of checkpoints, by the names of those who published them.

use std::sync::Arc;

use bifocal_nn::Param;
use bifocal_nn::layers::{Conv, Linear};

use super::codes::{CodeNames, CodeTokens};
use super::pool::{AttentionPool, PoolNames, PoolQkv};
use super::{Tokens, Vit, VitConfig, VitFamily};
use crate::load::Loader;
use crate::names::{self, Names};
use crate::vision::channels_last;
use crate::weights::{TensorSource, WeightsError};

/// How a checkpoint calls the parts of a tower, after a prefix.
struct TowerNames {
    patches: &'static str,
    codes: CodeNames,
    /// Whether its weight is stored as a convolution, `[c, 3, p, p]`.
    convolution: bool,
    class: &'static str,
    registers: &'static str,
    positions: &'static str,
    /// Whether class token, registers and positions have axes of length 1 before their own.
    batched: bool,
    ln_pre: &'static str,
    blocks: &'static str,
    block: &'static Names,
    ln_post: &'static str,
    pool: PoolNames,
    /// The projection, from the top of the file.
    proj: &'static str,
    /// Whether it is a matrix `[c, dim]` and not a layer.
    transposed: bool,
}

const OPEN_CLIP: TowerNames = TowerNames {
    patches: "conv1",
    codes: OWN.codes,
    convolution: true,
    class: "class_embedding",
    registers: "",
    positions: "positional_embedding",
    batched: false,
    ln_pre: "ln_pre",
    blocks: "transformer.resblocks",
    block: &names::OPEN_AI,
    ln_post: "ln_post",
    pool: OWN.pool,
    proj: "visual.proj",
    transposed: true,
};

const HUGGING_FACE: TowerNames = TowerNames {
    patches: "embeddings.patch_embedding",
    codes: OWN.codes,
    convolution: true,
    class: "embeddings.class_embedding",
    registers: "",
    positions: "embeddings.position_embedding.weight",
    batched: false,
    ln_pre: "pre_layrnorm", // so spelt in the files
    blocks: "encoder.layers",
    block: &names::HUGGING_FACE,
    ln_post: "post_layernorm",
    pool: PoolNames {
        probe: "head.probe",
        probe_shape: |c| vec![1, 1, c],
        qkv: PoolQkv::Packed(["head.attention.in_proj_weight", "head.attention.in_proj_bias"]),
        out: "head.attention.out_proj",
        norm: "head.layernorm",
        fc: "head.mlp.fc1",
        proj: "head.mlp.fc2",
    },
    proj: "visual_projection",
    transposed: false,
};

/// NaFlex's patches are a layer, its columns ordered as ours.
const NAFLEX: TowerNames = TowerNames {
    convolution: false,
    ..HUGGING_FACE
};

const DINOV2: TowerNames = TowerNames {
    patches: "embeddings.patch_embeddings.projection",
    class: "embeddings.cls_token",
    registers: "embeddings.register_tokens",
    positions: "embeddings.position_embeddings",
    batched: true,
    blocks: "encoder.layer",
    block: &names::DINOV2,
    ln_post: "layernorm",
    ..HUGGING_FACE
};

const TIMM: TowerNames = TowerNames {
    patches: "patch_embed.proj",
    codes: CodeNames {
        codec: "vq.",
        lookup: "vq_lookup", // not theirs
        table: "vq_table",
        mapping: "vq_mapping",
    },
    convolution: true,
    class: "cls_token",
    registers: "reg_token",
    positions: "pos_embed",
    batched: true,
    ln_pre: "norm_pre",
    blocks: "blocks",
    block: &names::TIMM,
    ln_post: "norm",
    pool: PoolNames {
        probe: "attn_pool.latent",
        probe_shape: |c| vec![1, 1, c],
        qkv: PoolQkv::Apart(["attn_pool.q", "attn_pool.kv"]),
        out: "attn_pool.proj",
        norm: "attn_pool.norm",
        fc: "attn_pool.mlp.fc1",
        proj: "attn_pool.mlp.fc2",
    },
    proj: "visual.trunk.head",
    transposed: false,
};

const EVA02: TowerNames = TowerNames {
    block: &names::EVA02,
    ..TIMM
};

/// The paths of this crate's parameters.
const OWN: TowerNames = TowerNames {
    patches: "patches",
    codes: CodeNames {
        codec: "patches.codec.",
        lookup: "patches.lookup",
        table: "patches.table",
        mapping: "patches.mapping",
    },
    convolution: false,
    class: "class",
    registers: "registers",
    positions: "positions",
    batched: false,
    ln_pre: "ln_pre",
    blocks: "blocks",
    block: &names::OWN,
    ln_post: "ln_post",
    pool: PoolNames {
        probe: "pool.probe",
        probe_shape: |c| vec![1, c],
        qkv: PoolQkv::Packed(["pool.qkv.weight", "pool.qkv.bias"]),
        out: "pool.out",
        norm: "pool.norm",
        fc: "pool.fc",
        proj: "pool.proj",
    },
    proj: "proj",
    transposed: false,
};

impl Vit {
    /// Loads a checkpoint: CLIP with the names of OpenAI and open_clip (`visual.…`) or of transformers (`vision_model.…`), SigLIP with those of
    /// transformers or of timm in open_clip (`visual.trunk.…`), TokLIP's own, DINOv2 of transformers, EVA02 of timm in open_clip.
    ///
    /// # Errors
    /// [`WeightsError`] when the sizes cannot be, a tensor is missing or has another shape.
    pub fn load(config: VitConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        let has = |name: &str| source.shape(name).is_some();
        let (prefix, names) = match config.family {
            VitFamily::Clip if has("visual.conv1.weight") => ("visual.", &OPEN_CLIP),
            VitFamily::SigLip if has("visual.trunk.pos_embed") => ("visual.trunk.", &TIMM),
            VitFamily::TokLip => ("visual.trunk.", &TIMM),
            VitFamily::Eva02 => ("visual.trunk.", &EVA02),
            VitFamily::DinoV2 => {
                // with a classifier beside it, the tower has a name
                let prefixes = ["dinov2.", "dinov2_with_registers."];
                let found = prefixes
                    .into_iter()
                    .find(|prefix| has(&format!("{prefix}embeddings.cls_token")));
                (found.unwrap_or_default(), &DINOV2)
            }
            // a tower by itself may have been saved without its name
            VitFamily::SigLip if has("embeddings.patch_embedding.weight") => ("", &HUGGING_FACE),
            VitFamily::NaFlex if has("embeddings.patch_embedding.weight") => ("", &NAFLEX),
            VitFamily::NaFlex => ("vision_model.", &NAFLEX),
            VitFamily::Clip | VitFamily::SigLip => ("vision_model.", &HUGGING_FACE),
        };
        Self::build(config, source, prefix, names)
    }

    pub(crate) fn from_tensors(config: VitConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        Self::build(config, source, "", &OWN)
    }

    fn build(
        config: VitConfig,
        source: &dyn TensorSource,
        prefix: &str,
        names: &TowerNames,
    ) -> Result<Self, WeightsError> {
        config.check(source)?;
        let loader = Loader(source);
        let name = |part: &str| format!("{prefix}{part}");
        let (family, stack, registers) = (config.family, &config.stack, config.registers);
        let (width, patch, dim) = (stack.width, config.patch, config.dim);
        let stored = |shape: &[usize], batched: &[usize]| {
            if names.batched {
                batched.to_vec()
            } else {
                shape.to_vec()
            }
        };
        let bias = family.patch_bias();
        let patches = if family == VitFamily::TokLip {
            Tokens::Codes(CodeTokens::load(&config, loader, prefix, &names.codes)?)
        } else if names.convolution {
            Tokens::Patches(patch_embedding(loader, &name(names.patches), width, patch, bias)?)
        } else {
            let Linear { weight, bias, .. } = loader.linear(&name(names.patches), patch * patch * 3, width, bias)?;
            Tokens::Patches(Conv::from_params(patch, weight, bias))
        };
        let class = || loader.reshaped(&name(names.class), &stored(&[width], &[1, 1, width]), [width]);
        let rows =
            |part: &str, n: usize| loader.reshaped(&name(part), &stored(&[n, width], &[1, n, width]), [n, width]);
        let proj = |bias: bool| match names.transposed {
            true => Ok(Linear::from_params(loader.transposed(names.proj, width, dim)?, None)),
            false => loader.linear(names.proj, width, dim, bias),
        };
        Ok(Self {
            patches,
            class: family.has_class().then(class).transpose()?,
            registers: (registers > 0).then(|| rows(names.registers, registers)).transpose()?,
            positions: rows(names.positions, config.positions())?,
            ln_pre: family
                .norm_before()
                .then(|| loader.layer_norm(&name(names.ln_pre), width, stack.eps))
                .transpose()?,
            blocks: stack.load(loader, &name(names.blocks), names.block)?,
            ln_post: loader.layer_norm(&name(names.ln_post), width, stack.eps)?,
            pool: family
                .attention_pool()
                .then(|| AttentionPool::load(stack, loader, prefix, &names.pool))
                .transpose()?,
            proj: config.projection().map(proj).transpose()?,
            config: Arc::new(config),
            patch_dropout: 0.0,
        })
    }
}

/// `[out, 3, p, p]` as files store it → `[out, p·p·3]`.
fn patch_embedding(loader: Loader, prefix: &str, width: usize, patch: usize, bias: bool) -> Result<Conv, WeightsError> {
    let stored = loader.values(&format!("{prefix}.weight"), &[width, 3, patch, patch])?;
    let weight = Param::from_tensor(channels_last(&stored, width, 3, patch));
    let bias = bias
        .then(|| loader.param(&format!("{prefix}.bias"), [width]))
        .transpose()?;
    Ok(Conv::from_params(patch, weight, bias))
}
