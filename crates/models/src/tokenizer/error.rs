//! What can go wrong while a tokenizer is read or used.

use std::path::{Path, PathBuf};

use crate::weights::WeightsError;

/// An error of a tokenizer. Each message says what is wrong, where, and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The operating system refused to open or read a file.
    #[error("cannot read {}: {source}; check that the path exists and is readable", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The GGUF file that should hold the tokenizer cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A file contradicts its own format or other files of the model.
    #[error("{}: {detail}; the tokenizer is damaged or does not belong to this model, fetch it again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A file is larger than any tokenizer.
    #[error("{} has {size} bytes, more than the limit of {limit}; it is not read as a tokenizer", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The largest size accepted.
        limit: u64,
    },
    /// The tokenizer is sound but of a kind that Bifocal does not know.
    #[error("{}: {what} is not supported; {advice}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The kind.
        what: String,
        /// What to do next.
        advice: String,
    },
    /// The longest length asked for leaves no room beside the special tokens.
    #[error(
        "a text cannot be cut to {max_length} tokens, since {special} special tokens belong to each; allow more tokens"
    )]
    MaxLength {
        /// The length asked for.
        max_length: usize,
        /// The number of special tokens.
        special: usize,
    },
    /// A text could not be encoded, or tokens not decoded.
    #[error("the tokenizer of {} failed: {detail}; its vocabulary is probably incomplete, fetch it again", path.display())]
    Failed {
        /// The file that the tokenizer came from.
        path: PathBuf,
        /// What the tokenizer says.
        detail: String,
    },
}

impl TokenizerError {
    pub(super) fn malformed(path: &Path, detail: impl Into<String>) -> Self {
        Self::Malformed {
            path: path.to_owned(),
            detail: detail.into(),
        }
    }

    pub(super) fn unsupported(path: &Path, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Unsupported {
            path: path.to_owned(),
            what: what.into(),
            advice: advice.into(),
        }
    }
}
