//! Choices that are written as words.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Pooling;

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
            "caption" => Self::Caption,
            "max" => Self::Max,
            "last" => Self::Last,
            "cls" => Self::Cls,
            "eos" => Self::Eos,
            _ => {
                return Err(UnknownChoice {
                    what: "pooling",
                    word: word.to_owned(),
                    choices: "mean, caption, max, last, cls, eos",
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
