//! BERT (Devlin et al. 2019) and RoBERTa as sentence encoders use them.

use std::sync::Arc;

use bifocal_nn::engine::tensor;
use bifocal_nn::fused::{self, Activation, AttentionShape};
use bifocal_nn::init::{Init, Rng};
use bifocal_nn::layers::{Embedding, LayerNorm, Linear, feed_forward, zeros};
use bifocal_nn::{Module, Param, Tensor, trace};
use serde::{Deserialize, Serialize};

use super::{Dense, TokenBatch};
use crate::blocks::{check_heads, check_sizes, qkv_parts};
use crate::load::Loader;
use crate::weights::{TensorSource, WeightsError};

/// Sizes of a BERT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BertConfig {
    /// Number of token ids.
    pub vocabulary: usize,
    /// The longest text, in tokens.
    pub positions: usize,
    /// Number of kinds of segments; texts are of kind 0.
    pub token_types: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads; they divide the width.
    pub heads: usize,
    /// Width between the two layers of the feed-forward part.
    pub mlp: usize,
    /// The constant of the layer norms.
    pub eps: f32,
}

/// A bidirectional transformer with norms after each residual connection and exact GELU.
#[derive(Module, Debug)]
pub struct Bert {
    pub(crate) words: Embedding,
    pub(crate) positions: Embedding,
    /// `[token_types, c]`.
    pub(crate) types: Embedding,
    pub(crate) norm: LayerNorm,
    pub(crate) blocks: Vec<BertBlock>,
    /// After pooling.
    dense: Vec<Dense>,
    #[module(skip)]
    config: Arc<BertConfig>,
}

/// x ← norm(x + attention(x)); x ← norm(x + mlp(x)).
#[derive(Module, Debug)]
pub struct BertBlock {
    /// `[3c, c]`: queries, keys, values.
    pub(crate) qkv: Linear,
    /// `[c, c]`.
    pub(crate) out: Linear,
    /// After attention.
    pub(crate) ln_1: LayerNorm,
    /// `[mlp, c]`.
    pub(crate) fc: Linear,
    /// `[c, mlp]`.
    pub(crate) proj: Linear,
    /// After the feed-forward part.
    pub(crate) ln_2: LayerNorm,
}

impl Bert {
    /// Initial values as BERT chose them: normal with standard deviation 0.02, biases 0.
    pub fn new(config: BertConfig, rng: &mut Rng) -> Self {
        let (c, eps) = (config.width, config.eps);
        Self {
            words: Embedding::new(config.vocabulary, c, 0.02, rng),
            positions: Embedding::new(config.positions, c, 0.02, rng),
            types: Embedding::new(config.token_types, c, 0.02, rng),
            norm: LayerNorm::new(c, eps),
            blocks: (0..config.layers).map(|_| BertBlock::new(&config, rng)).collect(),
            dense: Vec::new(),
            config: Arc::new(config),
        }
    }

    /// One of the same sizes, with initial values.
    pub(super) fn untrained(&self, rng: &mut Rng) -> Self {
        let mut new = Self::new(self.config().clone(), rng);
        new.dense = self.dense.iter().map(|layer| layer.untrained(rng)).collect();
        new
    }

    fn check(config: &BertConfig, source: &dyn TensorSource) -> Result<(), WeightsError> {
        let sizes = [
            ("vocab_size", config.vocabulary),
            ("max_position_embeddings", config.positions),
            ("type_vocab_size", config.token_types),
            ("num_hidden_layers", config.layers),
            ("intermediate_size", config.mlp),
        ];
        // a multilingual vocabulary goes beyond the limit of the other sizes
        check_sizes(source.path(), &sizes[1..])?;
        check_sizes(source.path(), &[("vocab_size", config.vocabulary.div_ceil(32))])?;
        check_heads(source.path(), config.width, config.heads)
    }

    /// Loads a checkpoint with Hugging Face's names, with or without `bert.` before them.
    ///
    /// # Errors
    /// [`WeightsError`] when the sizes cannot be, a tensor is missing or has another shape.
    pub fn load(config: BertConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        Self::load_after(0, config, source)
    }

    /// As [`Bert::load`] for a table whose first rows are no positions of a text: RoBERTa's (Liu et al. 2019), where the first token has
    /// the position after the padding's id. Its names may have `roberta.` before them.
    ///
    /// # Errors
    /// As [`Bert::load`].
    pub fn load_after(first: usize, config: BertConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        Self::check(&config, source)?;
        check_sizes(source.path(), &[("pad_token_id", first.saturating_add(1))])?;
        let loader = Loader(source);
        let there = |prefix: &&str| {
            let words = format!("{prefix}embeddings.word_embeddings.weight");
            source.shape(&words).is_some()
        };
        let prefix = ["bert.", "roberta."].into_iter().find(there).unwrap_or_default();
        let name = |part: &str| format!("{prefix}embeddings.{part}");
        let (c, eps) = (config.width, config.eps);
        let position = name("position_embeddings.weight");
        let types = name("token_type_embeddings.weight");
        Ok(Self {
            words: loader.embedding(&name("word_embeddings.weight"), config.vocabulary, c)?,
            positions: Embedding {
                weight: Param::from_tensor(tensor(
                    loader
                        .values(&position, &[first + config.positions, c])?
                        .split_off(first * c),
                    [config.positions, c],
                )),
            },
            types: loader.embedding(&types, config.token_types, c)?,
            norm: loader.layer_norm(&name("LayerNorm"), c, eps)?,
            blocks: (0..config.layers)
                .map(|i| BertBlock::load(&config, loader, &format!("{prefix}encoder.layer.{i}")))
                .collect::<Result<_, _>>()?,
            dense: Vec::new(),
            config: Arc::new(config),
        })
    }

    pub(crate) fn from_tensors(config: BertConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        Self::check(&config, source)?;
        let loader = Loader(source);
        let (c, eps) = (config.width, config.eps);
        Ok(Self {
            words: loader.embedding("words.weight", config.vocabulary, c)?,
            positions: loader.embedding("positions.weight", config.positions, c)?,
            types: loader.embedding("types.weight", config.token_types, c)?,
            norm: loader.layer_norm("norm", c, eps)?,
            blocks: (0..config.layers)
                .map(|i| BertBlock::own(&config, loader, &format!("blocks.{i}")))
                .collect::<Result<_, _>>()?,
            dense: Vec::new(),
            config: Arc::new(config),
        })
    }

    /// See [`super::TextTower::hidden`].
    pub fn hidden(&self, tokens: &TokenBatch) -> Tensor<2> {
        self.hidden_at(tokens, self.blocks.len())
    }

    /// See [`super::TextTower::hidden_at`].
    pub fn hidden_at(&self, tokens: &TokenBatch, layer: usize) -> Tensor<2> {
        let types: Arc<[u32]> = vec![0; tokens.tokens()].into();
        let x =
            self.words.forward(&tokens.ids) + self.types.forward(&types) + self.positions.forward(&tokens.positions);
        let mut x = self.norm.forward(x);
        let shape = self.attention();
        for block in &self.blocks[..layer] {
            x = block.forward(x, &tokens.offsets, &shape);
        }
        x
    }

    /// Keeps the first blocks only.
    pub(super) fn cut_at(&mut self, layer: usize) {
        self.blocks.truncate(layer);
        Arc::make_mut(&mut self.config).layers = layer;
    }

    /// Layers after pooling.
    pub(super) fn dense(&self) -> &[Dense] {
        &self.dense
    }

    pub(super) fn set_dense(&mut self, dense: Vec<Dense>) {
        self.dense = dense;
    }

    fn attention(&self) -> AttentionShape {
        let heads = self.config.heads;
        let head_dim = self.config.width / heads;
        AttentionShape {
            heads,
            kv_heads: heads,
            head_dim,
            causal: false,
            window: None,
            scale: 1.0 / (head_dim as f32).sqrt(),
        }
    }

    /// Its sizes.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }
}

impl BertBlock {
    fn new(config: &BertConfig, rng: &mut Rng) -> Self {
        let (c, eps) = (config.width, config.eps);
        let mut linear = |din: usize, dout: usize| {
            let weight = Init::Normal(0.02).tensor([dout, din], rng);
            Linear::from_params(Param::from_tensor(weight), Some(zeros([dout])))
        };
        Self {
            qkv: linear(c, 3 * c).with_parts(&qkv_parts(c, c)),
            out: linear(c, c),
            ln_1: LayerNorm::new(c, eps),
            fc: linear(c, config.mlp),
            proj: linear(config.mlp, c),
            ln_2: LayerNorm::new(c, eps),
        }
    }

    fn load(config: &BertConfig, loader: Loader, prefix: &str) -> Result<Self, WeightsError> {
        let (c, mlp, eps) = (config.width, config.mlp, config.eps);
        let name = |part: &str| format!("{prefix}.{part}");
        let (q, k, v) = (
            name("attention.self.query"),
            name("attention.self.key"),
            name("attention.self.value"),
        );
        Ok(Self {
            qkv: (loader.stacked(&[(&q, c), (&k, c), (&v, c)], c, true)?).with_parts(&qkv_parts(c, c)),
            out: loader.linear(&name("attention.output.dense"), c, c, true)?,
            ln_1: loader.layer_norm(&name("attention.output.LayerNorm"), c, eps)?,
            fc: loader.linear(&name("intermediate.dense"), c, mlp, true)?,
            proj: loader.linear(&name("output.dense"), mlp, c, true)?,
            ln_2: loader.layer_norm(&name("output.LayerNorm"), c, eps)?,
        })
    }

    fn own(config: &BertConfig, loader: Loader, prefix: &str) -> Result<Self, WeightsError> {
        let (c, mlp, eps) = (config.width, config.mlp, config.eps);
        let name = |part: &str| format!("{prefix}.{part}");
        Ok(Self {
            qkv: (loader.linear(&name("qkv"), c, 3 * c, true)?).with_parts(&qkv_parts(c, c)),
            out: loader.linear(&name("out"), c, c, true)?,
            ln_1: loader.layer_norm(&name("ln_1"), c, eps)?,
            fc: loader.linear(&name("fc"), c, mlp, true)?,
            proj: loader.linear(&name("proj"), mlp, c, true)?,
            ln_2: loader.layer_norm(&name("ln_2"), c, eps)?,
        })
    }

    fn forward(&self, x: Tensor<2>, offsets: &Arc<[usize]>, shape: &AttentionShape) -> Tensor<2> {
        let _span = trace::span("Block");
        let mixed = fused::attention(self.qkv.forward(x.clone()), offsets, shape);
        let x = self.ln_1.forward(self.out.fused(mixed, Activation::Identity, Some(x)));
        let gelu = Activation::GeluErf;
        self.ln_2
            .forward(feed_forward(None, &self.fc, gelu, &self.proj, x.clone(), Some(x)))
    }
}
