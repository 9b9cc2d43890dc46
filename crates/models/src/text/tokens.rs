//! Texts as towers read them.

use std::ops::Range;
use std::sync::Arc;

use crate::tokenizer::Encoding;

/// Texts as token ids, one after the other, without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    /// `[t]`: the ids of all texts.
    pub ids: Arc<[u32]>,
    /// `[n + 1]`: where each text begins, then `t`.
    pub offsets: Arc<[usize]>,
    /// `[t]`: the position of each token in its text.
    pub positions: Arc<[u32]>,
    /// `[n]`: how many tokens at the beginning of each text pooling leaves out: an instruction, or the header of a chat.
    pub skip: Arc<[usize]>,
}

impl TokenBatch {
    /// Packs texts. A text without tokens is allowed here and embeds as zeros.
    pub fn pack(texts: &[Vec<u32>]) -> Self {
        Self::collect(texts.iter().map(|ids| (&ids[..], 0)))
    }

    /// Packs texts with what pooling leaves out of each.
    pub fn of<'a>(texts: impl Iterator<Item = &'a Encoding> + Clone) -> Self {
        Self::collect(texts.map(|text| (&text.ids[..], text.skip)))
    }

    fn collect<'a>(texts: impl Iterator<Item = (&'a [u32], usize)> + Clone) -> Self {
        let total = texts.clone().map(|(ids, _)| ids.len()).sum();
        let mut ids = Vec::with_capacity(total);
        let mut positions = Vec::with_capacity(total);
        let mut offsets = vec![0];
        let mut skip = Vec::new();
        for (text, skipped) in texts {
            ids.extend_from_slice(text);
            positions.extend((0u32..).take(text.len()));
            offsets.push(ids.len());
            skip.push(skipped.min(text.len()));
        }
        Self {
            ids: ids.into(),
            offsets: offsets.into(),
            positions: positions.into(),
            skip: skip.into(),
        }
    }

    /// So many rows for each text that are not tokens; all ids are 0.
    pub fn of_lengths(lengths: &[usize]) -> Self {
        let texts: Vec<Vec<u32>> = lengths.iter().map(|&n| vec![0; n]).collect();
        Self::pack(&texts)
    }

    /// Some of the texts, in order.
    ///
    /// # Panics
    /// When the range goes beyond the texts.
    #[must_use]
    pub fn part(&self, texts: Range<usize>) -> Self {
        let first = self.offsets[texts.start];
        let tokens = first..self.offsets[texts.end];
        Self {
            ids: self.ids[tokens.clone()].into(),
            offsets: self.offsets[texts.start..=texts.end]
                .iter()
                .map(|at| at - first)
                .collect(),
            positions: self.positions[tokens].into(),
            skip: self.skip[texts].into(),
        }
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens of all texts.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// How many tokens all texts begin with alike; 0 without texts.
    pub fn common_prefix(&self) -> usize {
        let mut texts = self.offsets.windows(2).map(|bounds| &self.ids[bounds[0]..bounds[1]]);
        let Some(first) = texts.next() else {
            return 0;
        };
        let alike = |text: &[u32]| first.iter().zip(text).take_while(|(a, b)| a == b).count();
        texts.fold(first.len(), |most, text| most.min(alike(text)))
    }

    /// Number of tokens of the longest text.
    pub fn longest(&self) -> usize {
        self.offsets
            .windows(2)
            .map(|bounds| bounds[1] - bounds[0])
            .max()
            .unwrap_or(0)
    }
}

/// Token ids that a tower cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokensError {
    /// An id beyond the table of embeddings.
    #[error(
        "token id {id} is not among the tower's {vocabulary}; the tokenizer belongs to another model, use the one that came with the weights"
    )]
    UnknownId {
        /// The id.
        id: u32,
        /// Number of ids that the tower knows.
        vocabulary: usize,
    },
    /// A text that is not filled up, for a tower that was trained on texts that are.
    #[error("a text has {tokens} tokens, the tower reads exactly {length}; pad it, as the model's own tokenizer does")]
    NotPadded {
        /// Its tokens.
        tokens: usize,
        /// The tower's positions.
        length: usize,
    },
    /// Token by token, with a model whose tokens see those after them.
    #[error(
        "the model's tokens see those that come after them, so that it cannot write; open it with causal attention"
    )]
    LooksAhead,
    /// More tokens than the tower has positions.
    #[error("a text has {tokens} tokens, the tower reads at most {limit}; truncate it")]
    TooLong {
        /// Its tokens.
        tokens: usize,
        /// The tower's positions.
        limit: usize,
    },
}
