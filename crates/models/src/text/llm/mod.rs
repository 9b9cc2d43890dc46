//! Decoder-only language models as text towers.
//!
//! Weights come from a GGUF and are expanded to f32, except for the token table, which is the largest part of a small model and
//! of which a batch needs only a few rows: it stays quantised in memory.

mod block;
mod config;

pub use block::LlmBlock;
pub use config::{Family, LlmConfig};

use std::collections::BTreeMap;
use std::sync::Arc;

use bifocal_nn::engine::tensor;
use bifocal_nn::layers::RmsNorm;
use bifocal_nn::{Module, Tensor};

use super::{Attention, TokenBatch};
use crate::load::Loader;
use crate::weights::gguf::{Gguf, QuantizedRows};
use crate::weights::{TensorSource, WeightsError};

/// A decoder-only language model without its output layer.
#[derive(Module, Debug)]
pub struct Llm {
    blocks: Vec<LlmBlock>,
    norm: RmsNorm,
    #[module(skip)]
    table: Arc<QuantizedRows>,
    #[module(skip)]
    config: Arc<LlmConfig>,
    #[module(skip)]
    attention: Attention,
}

impl Llm {
    /// Loads a model.
    ///
    /// # Errors
    /// [`WeightsError`] when the model is of another family, its numbers cannot be, or a tensor is missing or has
    /// another shape.
    pub fn load(gguf: &Gguf, attention: Attention) -> Result<Self, WeightsError> {
        let config = LlmConfig::from_gguf(gguf)?;
        let shape = [config.vocabulary, config.width];
        if let Some(found) = gguf.shape("token_embd.weight").filter(|s| *s != shape) {
            return Err(WeightsError::ShapeMismatch {
                path: gguf.path().to_owned(),
                name: "token_embd.weight".to_owned(),
                found,
                expected: shape.to_vec(),
            });
        }
        let loader = Loader(gguf);
        let causal = attention == Attention::Causal;
        Ok(Self {
            blocks: (0..config.layers)
                .map(|layer| LlmBlock::load(&config, loader, layer, causal))
                .collect::<Result<_, _>>()?,
            norm: loader.rms_norm("output_norm", config.width, config.eps)?,
            table: Arc::new(gguf.quantized_rows("token_embd.weight")?),
            config: Arc::new(config),
            attention,
        })
    }

    /// See [`super::TextTower::hidden`].
    pub fn hidden(&self, tokens: &TokenBatch) -> Tensor<2> {
        let mut x = self.rows(tokens);
        for block in &self.blocks {
            x = block.forward(x, tokens);
        }
        self.norm.forward(x)
    }

    /// `[t, c]`: the scaled embedding of each token. Each distinct token is expanded once.
    fn rows(&self, tokens: &TokenBatch) -> Tensor<2> {
        let (width, scale) = (self.config.width, self.config.embedding_scale);
        let mut seen = BTreeMap::new();
        for &id in tokens.ids.iter() {
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
        let mut x = Vec::with_capacity(tokens.tokens() * width);
        for id in tokens.ids.iter() {
            let at = seen[id];
            x.extend(rows[at..at + width].iter().map(|v| v * scale));
        }
        tensor(x, [tokens.tokens(), width])
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
            block.set_causal(attention == Attention::Causal);
        }
    }

    /// Its sizes and constants.
    pub fn config(&self) -> &LlmConfig {
        &self.config
    }
}
