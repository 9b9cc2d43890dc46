//! Language models token by token: what is kept of the tokens before.

use std::sync::Arc;

use bifocal_nn::fused::KeyValues;
use bifocal_nn::{Tensor, pool};

use super::Llm;
use crate::connector::flamingo::Looks;
use crate::text::{Attention, TokensError};

/// Rows up to which a pass is a matter of milliseconds.
const FEW: usize = 4;

/// Keys and values of some sequences, layer by layer.
#[derive(Clone, Debug)]
pub struct LlmCache {
    /// Layers, of each a cache for each sequence.
    layers: Vec<Vec<KeyValues>>,
    /// Tokens of each sequence so far.
    lengths: Vec<usize>,
}

impl LlmCache {
    /// Of as many empty sequences, for a model.
    pub fn new(model: &Llm, sequences: usize) -> Self {
        Self {
            layers: vec![vec![KeyValues::default(); sequences]; model.blocks.len()],
            lengths: vec![0; sequences],
        }
    }

    /// Tokens of each sequence so far.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Sequences that continue these: the same one may come several times, as in a search with beams.
    ///
    /// # Panics
    /// For a number of a sequence that is not there.
    #[must_use]
    pub fn select(&self, sequences: &[usize]) -> Self {
        let pick = |layer: &Vec<KeyValues>| sequences.iter().map(|&i| layer[i].clone()).collect();
        Self {
            layers: self.layers.iter().map(pick).collect(),
            lengths: sequences.iter().map(|&i| self.lengths[i]).collect(),
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.layers.iter().flatten().map(KeyValues::bytes).sum()
    }
}

impl Llm {
    /// The last layer's vectors, after the final norm, of what comes next in each sequence, without running what came before again. `x` has the rows of all
    /// sequences one after the other, `counts` how many each has. Nothing is recorded for gradients.
    ///
    /// # Shapes
    /// `[t, width]` → `[t, width]`.
    ///
    /// # Errors
    /// [`TokensError`] for a sequence longer than the model's context, and for a model that looks ahead. The cache is then as it was.
    ///
    /// # Panics
    /// When `counts` does not have a number for each sequence of the cache, or they do not add up to the rows.
    pub fn extend(&self, x: Tensor<2>, counts: &[usize], cache: &mut LlmCache) -> Result<Tensor<2>, TokensError> {
        self.extend_looking(x, counts, cache, None)
    }

    /// As [`Llm::extend`], looking at pictures between layers.
    ///
    /// # Shapes
    /// As [`Llm::extend`].
    ///
    /// # Errors
    /// As [`Llm::extend`].
    ///
    /// # Panics
    /// As [`Llm::extend`].
    pub fn extend_looking(
        &self,
        x: Tensor<2>,
        counts: &[usize],
        cache: &mut LlmCache,
        looks: Option<&Looks<'_>>,
    ) -> Result<Tensor<2>, TokensError> {
        assert_eq!(counts.len(), cache.lengths.len(), "extend: a count a sequence");
        assert_eq!(
            counts.iter().sum::<usize>(),
            x.dims()[0],
            "extend: counts are of the rows"
        );
        if self.attention != Attention::Causal {
            return Err(TokensError::LooksAhead);
        }
        let limit = self.config.context;
        let longest = cache.lengths.iter().zip(counts).map(|(before, new)| before + new).max();
        if let Some(tokens) = longest.filter(|&tokens| tokens > limit) {
            return Err(TokensError::TooLong { tokens, limit });
        }
        let mut offsets = vec![0];
        let mut positions: Vec<u32> = Vec::with_capacity(x.dims()[0]);
        for (&before, &new) in cache.lengths.iter().zip(counts) {
            offsets.push(offsets[offsets.len() - 1] + new);
            // contexts are far below 2³²
            positions.extend((before..before + new).map(|at| at as u32));
        }
        let positions: Arc<[u32]> = positions.into();
        let LlmCache { layers, lengths } = cache;
        let few = x.dims()[0] <= FEW;
        let compute = || {
            let mut x = x;
            for (layer, (block, kept)) in self.blocks.iter().zip(layers).enumerate() {
                if let Some(looks) = looks {
                    x = looks.before_layer(layer, x, &offsets, lengths);
                }
                x = block.extend(x, &positions, &offsets, kept);
            }
            self.last_norm(x)
        };
        let last = if few {
            pool::pass_of_few(compute)
        } else {
            pool::pass(compute)
        };
        lengths.iter_mut().zip(counts).for_each(|(length, new)| *length += new);
        Ok(last)
    }

    /// Forgets what came after the first tokens of a sequence: a dialogue goes on from there.
    ///
    /// # Panics
    /// For a number of a sequence that is not there.
    pub fn rewind(&self, cache: &mut LlmCache, sequence: usize, tokens: usize) {
        let tokens = tokens.min(cache.lengths[sequence]);
        for (block, kept) in self.blocks.iter().zip(&mut cache.layers) {
            block.truncate(&mut kept[sequence], tokens);
        }
        cache.lengths[sequence] = tokens;
    }
}
