//! The text transformers of CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023).

use std::sync::Arc;

use bifocal_nn::init::{Init, Rng};
use bifocal_nn::layers::{Embedding, LayerNorm, Linear, zeros};
use bifocal_nn::{Module, Param, Tensor};
use serde::{Deserialize, Serialize};

use super::TokenBatch;
use crate::blocks::{Block, StackConfig, check_sizes};
use crate::load::Loader;
use crate::names;
use crate::weights::{TensorSource, WeightsError};

/// What sets the families apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextFamily {
    /// Causal; the end of the text projected without bias.
    #[default]
    Clip,
    /// Every token sees every other, padding too, so that texts must have the full length; the last one projected with bias.
    SigLip,
}

/// Sizes of a text transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipTextConfig {
    /// Number of token ids.
    pub vocabulary: usize,
    /// The longest text, in tokens (77).
    pub positions: usize,
    /// Width of an embedding.
    pub dim: usize,
    /// The transformer.
    pub stack: StackConfig,
    /// How it was trained; CLIP when it is missing.
    #[serde(default)]
    pub family: TextFamily,
}

impl ClipTextConfig {
    /// A transformer of CLIP.
    pub fn clip(vocabulary: usize, positions: usize, dim: usize, stack: StackConfig) -> Self {
        Self {
            vocabulary,
            positions,
            dim,
            stack,
            family: TextFamily::Clip,
        }
    }

    /// Whether there is a bias after pooling.
    fn proj_bias(&self) -> bool {
        self.family == TextFamily::SigLip
    }
}

/// The text transformer of CLIP and SigLIP: learned positions, pre-norm blocks, a final norm, one token projected.
///
/// CLIP pads to 77 tokens after the end-of-text token; under causal attention nothing before the padding can see it,
/// so that packed texts give the same numbers.
#[derive(Module, Debug)]
pub struct ClipText {
    tokens: Embedding,
    positions: Embedding,
    blocks: Vec<Block>,
    ln_final: LayerNorm,
    /// `[dim, c]`.
    proj: Linear,
    #[module(skip)]
    config: Arc<ClipTextConfig>,
}

impl ClipText {
    /// Initial values as OpenAI chose them.
    pub fn new(config: ClipTextConfig, rng: &mut Rng) -> Self {
        let width = config.stack.width;
        let scale = Init::Normal((width as f32).powf(-0.5));
        Self {
            tokens: Embedding::new(config.vocabulary, width, 0.02, rng),
            positions: Embedding::new(config.positions, width, 0.01, rng),
            blocks: config.stack.init(rng),
            ln_final: LayerNorm::new(width, config.stack.eps),
            proj: Linear::from_params(
                Param::from_tensor(scale.tensor([config.dim, width], rng)),
                config.proj_bias().then(|| zeros([config.dim])),
            ),
            config: Arc::new(config),
        }
    }

    fn check(config: &ClipTextConfig, source: &dyn TensorSource) -> Result<(), WeightsError> {
        let sizes = [
            ("positions", config.positions),
            // a multilingual vocabulary goes beyond the limit of the other sizes
            ("vocabulary", config.vocabulary.div_ceil(32)),
            ("dim", config.dim),
        ];
        check_sizes(source.path(), &sizes)?;
        config.stack.check(source.path())
    }

    /// Loads a checkpoint with the names of OpenAI and open_clip (at the top or below `text.`) or of transformers
    /// (`text_model.…`, or without that for a tower by itself).
    ///
    /// # Errors
    /// [`WeightsError`] when the sizes cannot be, a tensor is missing or has another shape.
    pub fn load(config: ClipTextConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        Self::check(&config, source)?;
        let loader = Loader(source);
        let (v, p, c) = (config.vocabulary, config.positions, config.stack.width);
        let has = |name: &str| source.shape(name).is_some();
        let stack = &config.stack;
        let bias = config.proj_bias();
        let hugging_face = ["text_model.", ""]
            .into_iter()
            .find(|prefix| has(&format!("{prefix}embeddings.token_embedding.weight")));
        if let Some(prefix) = hugging_face {
            let name = |part: &str| format!("{prefix}{part}");
            let proj = match config.family {
                TextFamily::Clip => "text_projection".to_owned(),
                TextFamily::SigLip => name("head"),
            };
            return Ok(Self {
                tokens: loader.embedding(&name("embeddings.token_embedding.weight"), v, c)?,
                positions: loader.embedding(&name("embeddings.position_embedding.weight"), p, c)?,
                blocks: stack.load(loader, &name("encoder.layers"), &names::HUGGING_FACE)?,
                ln_final: loader.layer_norm(&name("final_layer_norm"), c, stack.eps)?,
                proj: loader.linear(&proj, c, config.dim, bias)?,
                config: Arc::new(config),
            });
        }
        let nested = has("text.token_embedding.weight");
        let name = |part: &str| format!("{}{part}", if nested { "text." } else { "" });
        let proj = name("text_projection");
        Ok(Self {
            tokens: loader.embedding(&name("token_embedding.weight"), v, c)?,
            positions: loader.embedding(&name("positional_embedding"), p, c)?,
            blocks: stack.load(loader, &name("transformer.resblocks"), &names::OPEN_AI)?,
            ln_final: loader.layer_norm(&name("ln_final"), c, stack.eps)?,
            // a bare matrix for CLIP, a layer for SigLIP
            proj: if bias {
                loader.linear(&proj, c, config.dim, true)?
            } else {
                Linear::from_params(loader.transposed(&proj, c, config.dim)?, None)
            },
            config: Arc::new(config),
        })
    }

    pub(crate) fn from_tensors(config: ClipTextConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        Self::check(&config, source)?;
        let loader = Loader(source);
        let (v, p, c) = (config.vocabulary, config.positions, config.stack.width);
        Ok(Self {
            tokens: loader.embedding("tokens.weight", v, c)?,
            positions: loader.embedding("positions.weight", p, c)?,
            blocks: config.stack.load(loader, "blocks", &names::OWN)?,
            ln_final: loader.layer_norm("ln_final", c, config.stack.eps)?,
            proj: loader.linear("proj", c, config.dim, config.proj_bias())?,
            config: Arc::new(config),
        })
    }

    /// See [`super::TextTower::hidden`].
    pub fn hidden(&self, tokens: &TokenBatch) -> Tensor<2> {
        self.ln_final.forward(self.hidden_at(tokens, self.blocks.len()))
    }

    /// See [`super::TextTower::hidden_at`].
    pub fn hidden_at(&self, tokens: &TokenBatch, layer: usize) -> Tensor<2> {
        let mut x = self.tokens.forward(&tokens.ids) + self.positions.forward(&tokens.positions);
        let pass = self
            .config
            .stack
            .pass(&tokens.offsets, self.config.family == TextFamily::Clip);
        for block in &self.blocks[..layer] {
            x = block.forward(x, &pass);
        }
        x
    }

    /// Projects pooled vectors into the joint space.
    ///
    /// # Shapes
    /// `[n, c]` → `[n, dim]`.
    pub fn project(&self, pooled: Tensor<2>) -> Tensor<2> {
        self.proj.forward(pooled)
    }

    /// Its sizes.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }
}
