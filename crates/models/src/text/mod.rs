//! Text towers: from token ids to one vector per token, and one per text.

mod bert;
mod clip;
mod llm;

pub use bert::{Bert, BertConfig};
pub use clip::{ClipText, ClipTextConfig, TextFamily};
pub use llm::{Family, Llm, LlmConfig};

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use bifocal_nn::{Module, Tensor, fused};
use serde::{Deserialize, Serialize};

use crate::load::host_tensors;
use crate::weights::{HostTensor, TensorSource, WeightsError};

/// Texts as token ids, one after the other, without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBatch {
    /// `[t]`: the ids of all texts.
    pub ids: Arc<[u32]>,
    /// `[n + 1]`: where each text begins, then `t`.
    pub offsets: Arc<[usize]>,
    /// `[t]`: the position of each token in its text.
    pub positions: Arc<[u32]>,
}

impl TokenBatch {
    /// Packs texts. A text without tokens is allowed here and embeds as zeros.
    pub fn pack(texts: &[Vec<u32>]) -> Self {
        let total = texts.iter().map(Vec::len).sum();
        let mut ids = Vec::with_capacity(total);
        let mut positions = Vec::with_capacity(total);
        let mut offsets = Vec::with_capacity(texts.len() + 1);
        offsets.push(0);
        for text in texts {
            ids.extend_from_slice(text);
            positions.extend((0u32..).take(text.len()));
            offsets.push(ids.len());
        }
        Self {
            ids: ids.into(),
            offsets: offsets.into(),
            positions: positions.into(),
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

    /// Number of tokens of the longest text.
    pub fn longest(&self) -> usize {
        self.offsets
            .windows(2)
            .map(|bounds| bounds[1] - bounds[0])
            .max()
            .unwrap_or(0)
    }
}

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean of all tokens, special ones included.
    Mean,
    /// The last token.
    Last,
    /// The first token.
    Cls,
    /// The end-of-text token. Whoever prepares the tokens ends each text with it, so that it is the last.
    Eos,
}

/// What a token of a language model sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attention {
    /// Itself and what came before.
    Causal,
    /// The whole text.
    Bidirectional,
}

/// A word that names no choice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{word}\" is not a kind of {what}; choose one of {choices}")]
pub struct UnknownChoice {
    what: &'static str,
    word: String,
    choices: &'static str,
}

impl FromStr for Pooling {
    type Err = UnknownChoice;

    fn from_str(word: &str) -> Result<Self, UnknownChoice> {
        Ok(match word {
            "mean" => Self::Mean,
            "last" => Self::Last,
            "cls" => Self::Cls,
            "eos" => Self::Eos,
            _ => {
                return Err(UnknownChoice {
                    what: "pooling",
                    word: word.to_owned(),
                    choices: "mean, last, cls, eos",
                });
            }
        })
    }
}

impl FromStr for Attention {
    type Err = UnknownChoice;

    fn from_str(word: &str) -> Result<Self, UnknownChoice> {
        Ok(match word {
            "causal" => Self::Causal,
            "bidirectional" => Self::Bidirectional,
            _ => {
                return Err(UnknownChoice {
                    what: "attention",
                    word: word.to_owned(),
                    choices: "causal, bidirectional",
                });
            }
        })
    }
}

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

    /// One vector per text, not normalised.
    ///
    /// # Shapes
    /// → `[n, dim]`.
    ///
    /// # Panics
    /// As [`TextTower::hidden`]; and when a text has no tokens, unless pooling is [`Pooling::Mean`].
    pub fn embed(&self, tokens: &TokenBatch, pooling: Pooling) -> Tensor<2> {
        let pooled = pool(self.hidden(tokens), &tokens.offsets, pooling);
        match self {
            Self::Clip(tower) => tower.project(pooled),
            Self::Bert(_) | Self::Llm(_) => pooled,
        }
    }

    /// Width of an embedding.
    pub fn dim(&self) -> usize {
        match self {
            Self::Bert(tower) => tower.config().width,
            Self::Clip(tower) => tower.config().dim,
            Self::Llm(tower) => tower.config().width,
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
    /// More tokens than the tower has positions.
    #[error("a text has {tokens} tokens, the tower reads at most {limit}; truncate it")]
    TooLong {
        /// Its tokens.
        tokens: usize,
        /// The tower's positions.
        limit: usize,
    },
}

/// One row per text.
///
/// # Shapes
/// `hidden` `[t, c]`, `offsets` `[n + 1]` → `[n, c]`.
///
/// # Panics
/// When a text has no tokens, unless pooling is [`Pooling::Mean`].
pub fn pool(hidden: Tensor<2>, offsets: &Arc<[usize]>, pooling: Pooling) -> Tensor<2> {
    let pick = |hidden, at: fn(usize, usize) -> usize| {
        let rows: Vec<u32> = offsets
            .windows(2)
            .map(|bounds| {
                assert!(bounds[0] < bounds[1], "pool: a text without tokens");
                // a batch has far fewer than 2³² tokens: its activations would not fit into memory
                at(bounds[0], bounds[1]) as u32
            })
            .collect();
        fused::embedding(hidden, &rows.into())
    };
    match pooling {
        Pooling::Mean => fused::segment_mean(hidden, offsets),
        Pooling::Cls => pick(hidden, |start, _| start),
        Pooling::Last | Pooling::Eos => pick(hidden, |_, end| end - 1),
    }
}
