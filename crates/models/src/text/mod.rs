//! Text towers: from token ids to one vector per token, and one per text.

mod bert;
mod choices;
mod clip;
mod dense;
mod latent;
mod llm;
mod pool;
mod tokens;

pub use bert::{Bert, BertConfig};
pub use choices::{Attention, UnknownChoice};
pub use clip::{ClipText, ClipTextConfig, TextFamily};
pub use dense::{Dense, DenseActivation, DenseConfig};
pub use latent::{LatentAttention, LatentConfig};
pub(crate) use llm::MAX_LAYERS;
pub use llm::{Family, Llm, LlmCache, LlmConfig, LlmNames, RopeScaling};

pub use pool::{Pooling, pool};
pub use tokens::{TokenBatch, TokensError};

use std::collections::BTreeMap;

use bifocal_nn::init::Rng;
use bifocal_nn::noise::{self, Rows};
use bifocal_nn::{Module, Tensor, trace};
use serde::{Deserialize, Serialize};

use crate::load::host_tensors;
use crate::weights::{HostTensor, TensorSource, WeightsError};

/// What a text tower is, apart from its weights: enough to build it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TextConfig {
    /// BERT.
    Bert(BertConfig),
    /// The text transformer of CLIP or SigLIP.
    Clip(ClipTextConfig),
}

/// A text tower.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // there are one or two in a process
pub enum TextTower {
    /// BERT and its sentence-embedding descendants (Devlin et al. 2019).
    Bert(Bert),
    /// The text transformer of CLIP (Radford et al. 2021) or SigLIP (Zhai et al. 2023).
    Clip(ClipText),
    /// A decoder-only language model.
    Llm(Llm),
}

impl TextTower {
    /// The last layer's vector of every token, after the final norm.
    ///
    /// # Shapes
    /// → `[t, width]`. For CLIP `width` is the transformer's, the projection comes with [`TextTower::embed`].
    ///
    /// # Panics
    /// When an id is beyond the vocabulary or a text longer than [`TextTower::max_tokens`]; see [`TextTower::check`].
    pub fn hidden(&self, tokens: &TokenBatch) -> Tensor<2> {
        match self {
            Self::Bert(tower) => tower.hidden(tokens),
            Self::Clip(tower) => tower.hidden(tokens),
            Self::Llm(tower) => tower.hidden(tokens),
        }
    }

    /// As [`TextTower::hidden`] for the layer that transformers calls `hidden_states[layer]`: 0 is what enters the first block, `k` what
    /// leaves the `k`-th. What leaves the last one has passed the final norm, but for CLIP, where transformers gives it without.
    ///
    /// # Panics
    /// As [`TextTower::hidden`], and when there are fewer than `layer` blocks.
    pub fn hidden_at(&self, tokens: &TokenBatch, layer: usize) -> Tensor<2> {
        assert!(
            layer <= self.layers(),
            "the tower has {} layers, not {layer}",
            self.layers()
        );
        match self {
            Self::Bert(tower) => tower.hidden_at(tokens, layer),
            Self::Clip(tower) => tower.hidden_at(tokens, layer),
            Self::Llm(tower) => tower.hidden_at(tokens, layer),
        }
    }

    /// Leaves out all blocks after a layer (see [`TextTower::hidden_at`]), so that [`TextTower::hidden`] is that layer. `false` when there are
    /// fewer, or the tower's last layer is no choice (CLIP).
    #[must_use]
    pub(crate) fn cut_at(&mut self, layer: usize) -> bool {
        let there = layer <= self.layers();
        match self {
            Self::Bert(tower) if there => tower.cut_at(layer),
            Self::Llm(tower) if there => tower.cut_at(layer),
            _ => return false,
        }
        true
    }

    /// Layers after pooling; an error says which widths do not fit.
    pub(crate) fn set_dense(&mut self, layers: Vec<Dense>) -> Result<(), String> {
        let Some(first) = layers.first() else {
            return Ok(());
        };
        if first.input() != self.dim() {
            return Err(format!(
                "a layer of {} values after a tower of {}",
                first.input(),
                self.dim()
            ));
        }
        match self {
            Self::Bert(tower) => tower.set_dense(layers),
            Self::Llm(tower) => tower.set_dense(layers),
            Self::Clip(_) => return Err("layers after CLIP's projection".to_owned()),
        }
        Ok(())
    }

    /// Number of blocks.
    pub fn layers(&self) -> usize {
        match self {
            Self::Bert(tower) => tower.config().layers,
            Self::Clip(tower) => tower.config().stack.layers,
            Self::Llm(tower) => tower.config().layers,
        }
    }

    /// One vector per text, not normalised.
    ///
    /// # Shapes
    /// → `[n, dim]`.
    ///
    /// # Panics
    /// As [`TextTower::hidden`]; and when a text has no tokens, unless pooling is a mean.
    pub fn embed(&self, tokens: &TokenBatch, pooling: Pooling) -> Tensor<2> {
        let _span = trace::span("text tower");
        self.pooled(self.hidden(tokens), tokens, pooling)
    }

    /// As [`TextTower::embed`] where no gradient is wanted: what all texts begin with, as with a prompt, passes through a causal language model once for all of them.
    ///
    /// # Shapes
    /// As [`TextTower::embed`].
    ///
    /// # Panics
    /// As [`TextTower::embed`].
    pub fn infer(&self, tokens: &TokenBatch, pooling: Pooling) -> Tensor<2> {
        let _span = trace::span("text tower");
        let hidden = match self {
            Self::Llm(tower) => tower.hidden_once(tokens),
            _ => self.hidden(tokens),
        };
        self.pooled(hidden, tokens, pooling)
    }

    /// One vector per text, of those of its tokens.
    fn pooled(&self, hidden: Tensor<2>, tokens: &TokenBatch, pooling: Pooling) -> Tensor<2> {
        let hidden = match self {
            Self::Llm(tower) => tower.to_pool(hidden),
            _ => hidden,
        };
        let pooled = pool(hidden, tokens, pooling);
        noise::rows(Rows::Items, || match self {
            Self::Bert(tower) => dense::apply(tower.dense(), pooled),
            Self::Clip(tower) => tower.project(pooled),
            Self::Llm(tower) => dense::apply(tower.dense(), pooled),
        })
    }

    /// Width of an embedding.
    pub fn dim(&self) -> usize {
        match self {
            Self::Bert(tower) => dense::dim(tower.dense(), tower.config().width),
            Self::Clip(tower) => tower.config().dim,
            Self::Llm(tower) => dense::dim(tower.dense(), tower.config().width),
        }
    }

    /// Number of ids that the tower knows.
    pub fn vocabulary(&self) -> usize {
        match self {
            Self::Bert(tower) => tower.config().vocabulary,
            Self::Clip(tower) => tower.config().vocabulary,
            Self::Llm(tower) => tower.config().vocabulary,
        }
    }

    /// The longest text that the tower reads, in tokens.
    pub fn max_tokens(&self) -> usize {
        match self {
            Self::Bert(tower) => tower.config().positions,
            Self::Clip(tower) => tower.config().positions,
            Self::Llm(tower) => tower.config().context,
        }
    }

    /// The one length that texts must have, for a tower that sees its padding.
    pub fn full_length(&self) -> Option<usize> {
        match self {
            Self::Clip(tower) if tower.config().family == TextFamily::SigLip => Some(tower.config().positions),
            _ => None,
        }
    }

    /// Whether every id is known and no text too long, or too short for a tower that sees its padding.
    ///
    /// # Errors
    /// [`TokensError`] for the first text that the tower cannot read.
    pub fn check(&self, tokens: &TokenBatch) -> Result<(), TokensError> {
        let (vocabulary, limit) = (self.vocabulary(), self.max_tokens());
        if tokens.longest() > limit {
            return Err(TokensError::TooLong {
                tokens: tokens.longest(),
                limit,
            });
        }
        if let Some(length) = self.full_length()
            && let Some(bounds) = tokens.offsets.windows(2).find(|b| b[1] - b[0] != length)
        {
            let tokens = bounds[1] - bounds[0];
            return Err(TokensError::NotPadded { tokens, length });
        }
        match tokens.ids.iter().find(|&&id| id as usize >= vocabulary) {
            Some(&id) => Err(TokensError::UnknownId { id, vocabulary }),
            None => Ok(()),
        }
    }

    /// What the tower is, apart from its weights; `None` for a language model, which stays in the file it came from.
    pub fn config(&self) -> Option<TextConfig> {
        match self {
            Self::Bert(tower) => Some(TextConfig::Bert(tower.config().clone())),
            Self::Clip(tower) => Some(TextConfig::Clip(tower.config().clone())),
            Self::Llm(_) => None,
        }
    }

    /// A tower of the same sizes that has learnt nothing, with its family's initial values; `None` for a language model.
    pub fn untrained(&self, rng: &mut Rng) -> Option<Self> {
        match self {
            Self::Bert(tower) => Some(Self::Bert(tower.untrained(rng))),
            Self::Clip(tower) => Some(Self::Clip(ClipText::new(tower.config().clone(), rng))),
            Self::Llm(_) => None,
        }
    }

    /// All parameters by name: what [`TextTower::from_tensors`] reads. A language model's token table is not a
    /// parameter and not among them.
    pub fn tensors(&self) -> BTreeMap<String, HostTensor> {
        match self {
            Self::Bert(tower) => host_tensors(tower),
            Self::Clip(tower) => host_tensors(tower),
            Self::Llm(tower) => host_tensors(tower),
        }
    }

    /// Builds a tower from what [`TextTower::config`] and [`TextTower::tensors`] gave.
    ///
    /// # Errors
    /// [`WeightsError`] when a tensor is missing or has another shape.
    pub fn from_tensors(config: &TextConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        Ok(match config {
            TextConfig::Bert(config) => Self::Bert(Bert::from_tensors(config.clone(), source)?),
            TextConfig::Clip(config) => Self::Clip(ClipText::from_tensors(config.clone(), source)?),
        })
    }
}
