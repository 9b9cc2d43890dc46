//! Decoder-only language models as text towers.
//!
//! Weights are expanded to f32, except for the token table, which is the largest part of a small model and of which a batch needs only
//! a few rows: it stays in memory as it is stored, quantised or in half precision.

mod block;
mod cache;
mod config;
mod head;
mod names;
mod once;

pub use block::LlmBlock;
pub use cache::LlmCache;
pub(crate) use config::MAX_LAYERS;
pub use config::{Family, LlmConfig, RopeScaling};
pub use names::LlmNames;

use std::collections::BTreeMap;
use std::sync::Arc;

use bifocal_nn::engine::tensor;
use bifocal_nn::layers::RmsNorm;
use bifocal_nn::{Module, Tensor};

use super::{Attention, Dense, LatentAttention, TokenBatch};
use crate::connector::flamingo::Looks;
use crate::load::Loader;
use crate::weights::gguf::Gguf;
use crate::weights::{StoredRows, TensorSource, WeightsError, strict};
use head::OutputLayer;
use names::Tensors;

/// A decoder-only language model; its output layer is there when it was asked for (see [`Llm::with_output`]).
#[derive(Module, Debug)]
pub struct Llm {
    blocks: Vec<LlmBlock>,
    norm: Option<RmsNorm>,
    /// Before pooling.
    latent: Option<LatentAttention>,
    /// After pooling.
    dense: Vec<Dense>,
    #[module(skip)]
    table: Arc<StoredRows>,
    #[module(skip)]
    output: Option<Arc<OutputLayer>>,
    #[module(skip)]
    config: Arc<LlmConfig>,
    #[module(skip)]
    attention: Attention,
}

impl Llm {
    /// Loads a model from a GGUF.
    ///
    /// # Errors
    /// As [`LlmConfig::from_gguf`] and [`Llm::load`]; and [`WeightsError::Mismatch`] for a tensor that the architecture does not know.
    pub fn from_gguf(gguf: &Gguf, attention: Attention) -> Result<Self, WeightsError> {
        let config = LlmConfig::from_gguf(gguf)?;
        // the output layer is not a text tower's; rotary frequencies were read with the settings
        strict(gguf, &["output.", "rope_freqs."], |source| {
            Self::load(config, source, LlmNames::Gguf, attention)
        })
    }

    /// Loads a model. Whoever calls it sees to it that no tensor is left over (see [`strict`]).
    ///
    /// # Errors
    /// [`WeightsError`] when its numbers cannot be, a tensor is missing or has another shape.
    pub fn load(
        config: LlmConfig,
        source: &dyn TensorSource,
        names: LlmNames,
        attention: Attention,
    ) -> Result<Self, WeightsError> {
        config.check(source.path())?;
        let tensors = Tensors {
            loader: Loader(source),
            names,
            family: config.family,
            eps: config.eps,
        };
        let (table, shape) = (names.table(), [config.vocabulary, config.width]);
        if let Some(found) = source.shape(&table).filter(|s| *s != shape) {
            return Err(WeightsError::ShapeMismatch {
                path: source.path().to_owned(),
                name: table,
                found,
                expected: shape.to_vec(),
            });
        }
        let blocks = (0..config.layers)
            .map(|layer| LlmBlock::load(&config, tensors, layer, attention))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            blocks,
            norm: Some(tensors.norm(&names.last_norm(), config.width)?),
            latent: None,
            dense: Vec::new(),
            table: Arc::new(source.stored_rows(&table)?),
            output: None,
            config: Arc::new(config),
            attention,
        })
    }

    /// See [`super::TextTower::hidden`].
    pub fn hidden(&self, tokens: &TokenBatch) -> Tensor<2> {
        self.hidden_at(tokens, self.config.layers)
    }

    /// See [`super::TextTower::hidden_at`].
    pub fn hidden_at(&self, tokens: &TokenBatch, layer: usize) -> Tensor<2> {
        self.hidden_of(self.rows_of(&tokens.ids), tokens, layer, None)
    }

    /// As [`Llm::hidden`], of rows that stand in place of tokens' embeddings, as pictures' do; the ids of `tokens` don't count.
    ///
    /// # Shapes
    /// `x` `[t, width]` → `[t, width]`.
    pub fn hidden_of_rows(&self, x: Tensor<2>, tokens: &TokenBatch) -> Tensor<2> {
        self.hidden_of(x, tokens, self.config.layers, None)
    }

    /// As [`Llm::hidden_of_rows`], looking at pictures between layers.
    ///
    /// # Shapes
    /// As [`Llm::hidden_of_rows`].
    pub fn hidden_looking(&self, x: Tensor<2>, tokens: &TokenBatch, looks: &Looks<'_>) -> Tensor<2> {
        self.hidden_of(x, tokens, self.config.layers, Some(looks))
    }

    fn hidden_of(&self, mut x: Tensor<2>, tokens: &TokenBatch, layer: usize, looks: Option<&Looks<'_>>) -> Tensor<2> {
        let before = vec![0; tokens.len()];
        for (i, block) in self.blocks[..layer.min(self.blocks.len())].iter().enumerate() {
            if let Some(looks) = looks {
                x = looks.before_layer(i, x, &tokens.offsets, &before);
            }
            x = block.forward(x, tokens);
        }
        match layer == self.config.layers {
            true => self.last_norm(x),
            false => x,
        }
    }

    /// A model that was cut has no norm.
    fn last_norm(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    /// Keeps the first blocks only, so that [`Llm::hidden`] is what leaves the last of them, without the final norm.
    pub(super) fn cut_at(&mut self, layer: usize) {
        if layer < self.config.layers {
            self.blocks.truncate(layer);
            self.norm = None;
            self.latent = None;
            self.output = None;
            Arc::make_mut(&mut self.config).layers = layer;
        }
    }

    /// What is pooled of the last layer.
    pub(super) fn to_pool(&self, hidden: Tensor<2>) -> Tensor<2> {
        match &self.latent {
            Some(latent) => latent.forward(hidden),
            None => hidden,
        }
    }

    /// Puts a layer before pooling.
    #[must_use]
    pub fn with_latent(mut self, latent: LatentAttention) -> Self {
        self.latent = Some(latent);
        self
    }

    /// Layers after pooling.
    pub(super) fn dense(&self) -> &[Dense] {
        &self.dense
    }

    pub(super) fn set_dense(&mut self, dense: Vec<Dense>) {
        self.dense = dense;
    }

    /// The scaled embedding of each token. Each distinct token is expanded once.
    ///
    /// # Shapes
    /// `t` ids → `[t, width]`.
    ///
    /// # Panics
    /// For an id beyond the vocabulary; see [`super::TextTower::check`].
    pub fn rows_of(&self, ids: &[u32]) -> Tensor<2> {
        let (width, scale) = (self.config.width, self.config.embedding_scale);
        let mut seen = BTreeMap::new();
        for &id in ids {
            seen.entry(id).or_insert(0);
        }
        let distinct: Vec<u32> = seen.keys().copied().collect();
        let rows = match self.table.gather(&distinct) {
            Ok(rows) => rows.data,
            Err(error) => panic!("{error}"),
        };
        for (row, at) in seen.values_mut().enumerate() {
            *at = row * width;
        }
        let mut x = Vec::with_capacity(ids.len() * width);
        for id in ids {
            let at = seen[id];
            x.extend(rows[at..at + width].iter().map(|v| v * scale));
        }
        tensor(x, [ids.len(), width])
    }

    /// What a token sees.
    pub fn attention(&self) -> Attention {
        self.attention
    }

    /// Chooses what a token sees. Language models are trained causally; bidirectional attention is for those that were
    /// tuned for it.
    pub fn set_attention(&mut self, attention: Attention) {
        self.attention = attention;
        for block in &mut self.blocks {
            block.set_attention(attention);
        }
    }

    /// Bytes of the table of embeddings in memory.
    pub fn table_bytes(&self) -> usize {
        self.table.bytes()
    }

    /// Its sizes and constants.
    pub fn config(&self) -> &LlmConfig {
        &self.config
    }
}
