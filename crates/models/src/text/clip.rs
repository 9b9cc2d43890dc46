//! CLIP's text transformer (Radford et al. 2021).

use std::sync::Arc;

use bifocal_nn::init::{Init, Rng};
use bifocal_nn::layers::{Embedding, LayerNorm, Linear};
use bifocal_nn::{Module, Param, Tensor};
use serde::{Deserialize, Serialize};

use super::TokenBatch;
use crate::blocks::{Block, EPS, Names, StackConfig, check_sizes};
use crate::load::Loader;
use crate::weights::{TensorSource, WeightsError};

/// Sizes of CLIP's text transformer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// CLIP's text transformer: learned positions, causal pre-norm blocks, a final norm, the end-of-text token projected.
///
/// CLIP pads to 77 tokens after the end-of-text token; under causal attention nothing before the padding can see it,
/// so that packed texts give the same numbers.
#[derive(Module, Debug)]
pub struct ClipText {
    tokens: Embedding,
    positions: Embedding,
    blocks: Vec<Block>,
    ln_final: LayerNorm,
    /// `[dim, c]`, without bias.
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
            ln_final: LayerNorm::new(width, EPS),
            proj: Linear::from_params(Param::from_tensor(scale.tensor([config.dim, width], rng)), None),
            config: Arc::new(config),
        }
    }

    fn check(config: &ClipTextConfig, source: &dyn TensorSource) -> Result<(), WeightsError> {
        let sizes = [
            ("positions", config.positions),
            ("vocabulary", config.vocabulary),
            ("dim", config.dim),
        ];
        check_sizes(source.path(), &sizes)?;
        config.stack.check(source.path())
    }

    /// Loads a checkpoint with the names of OpenAI and open_clip (at the top or below `text.`) or of Hugging Face
    /// (`text_model.…`).
    ///
    /// # Errors
    /// [`WeightsError`] when the sizes cannot be, a tensor is missing or has another shape.
    pub fn load(config: ClipTextConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        Self::check(&config, source)?;
        let loader = Loader(source);
        let (v, p, c) = (config.vocabulary, config.positions, config.stack.width);
        let hugging_face = "text_model.embeddings.token_embedding.weight";
        if source.shape(hugging_face).is_some() {
            let positions = "text_model.embeddings.position_embedding.weight";
            let stack = &config.stack;
            return Ok(Self {
                tokens: loader.embedding(hugging_face, v, c)?,
                positions: loader.embedding(positions, p, c)?,
                blocks: stack.load(loader, "text_model.encoder", Names::HuggingFace)?,
                ln_final: loader.layer_norm("text_model.final_layer_norm", c, EPS)?,
                proj: loader.linear("text_projection", c, config.dim, false)?,
                config: Arc::new(config),
            });
        }
        let nested = source.shape("text.token_embedding.weight").is_some();
        let name = |part: &str| format!("{}{part}", if nested { "text." } else { "" });
        let stack = &config.stack;
        Ok(Self {
            tokens: loader.embedding(&name("token_embedding.weight"), v, c)?,
            positions: loader.embedding(&name("positional_embedding"), p, c)?,
            blocks: stack.load(loader, &name("transformer"), Names::OpenAi)?,
            ln_final: loader.layer_norm(&name("ln_final"), c, EPS)?,
            proj: Linear::from_params(loader.transposed(&name("text_projection"), c, config.dim)?, None),
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
            blocks: config.stack.load(loader, "blocks", Names::Own)?,
            ln_final: loader.layer_norm("ln_final", c, EPS)?,
            proj: loader.linear("proj", c, config.dim, false)?,
            config: Arc::new(config),
        })
    }

    /// See [`super::TextTower::hidden`].
    pub fn hidden(&self, tokens: &TokenBatch) -> Tensor<2> {
        let mut x = self.tokens.forward(&tokens.ids) + self.positions.forward(&tokens.positions);
        let attention = self.config.stack.attention(true);
        for block in &self.blocks {
            x = block.forward(x, &tokens.offsets, &attention, self.config.stack.gelu);
        }
        self.ln_final.forward(x)
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
