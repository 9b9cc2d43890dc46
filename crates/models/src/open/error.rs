//! What can go wrong when an encoder is opened or used.

use std::path::{Path, PathBuf};

use crate::text::TokensError;
use crate::tokenizer::TokenizerError;
use crate::vision::ImageSizeError;
use crate::weights::WeightsError;

/// An error of an encoder. Each message says what is wrong, where, and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The operating system refused to read a file.
    #[error("cannot read {}: {source}; check that the path exists and is readable", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The weights cannot be read or do not fit the architecture.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer cannot be read, or fails on a text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Tokens that the tower cannot read.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// An image size that the tower cannot read.
    #[error(transparent)]
    ImageSize(#[from] ImageSizeError),
    /// A layer that the tower does not have.
    #[error(
        "{name} has no layer {layer} to read from: its blocks are numbered 1 to {layers}, 0 is what the first one reads"
    )]
    Layer {
        /// The encoder.
        name: String,
        /// The layer that was asked for.
        layer: usize,
        /// Number of blocks; 0 for a convolutional tower.
        layers: usize,
    },
    /// There is no encoder of this kind.
    #[error("{} holds no {side} encoder that Bifocal knows: {found}; give {advice}", path.display())]
    NoEncoder {
        /// The file or folder.
        path: PathBuf,
        /// "text" or "vision".
        side: &'static str,
        /// What is there.
        found: String,
        /// What would do.
        advice: &'static str,
    },
    /// A settings file is damaged.
    #[error("{}: {problem}; the file is damaged or was edited, fetch it again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Settings that are sound but not implemented; ignoring them would give wrong numbers.
    #[error("{}: {what} is not supported; {advice}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The setting.
        what: String,
        /// What to do next.
        advice: &'static str,
    },
    /// Pixels of another size than the tower reads.
    #[error(
        "{found} values are not {images} images of {side}×{side}×3; prepare images with the model's own preprocessing"
    )]
    Pixels {
        /// How many values came.
        found: usize,
        /// How many images they should be.
        images: usize,
        /// Side of an image.
        side: usize,
    },
}

impl OpenError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn malformed(path: &Path, problem: impl ToString) -> Self {
        Self::Malformed {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }

    pub(super) fn unsupported(path: &Path, what: impl Into<String>, advice: &'static str) -> Self {
        Self::Unsupported {
            path: path.to_owned(),
            what: what.into(),
            advice,
        }
    }
}
