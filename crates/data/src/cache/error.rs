//! What can be wrong with a feature cache.

use std::path::{Path, PathBuf};

use super::Dtype;

/// Why the cache could not do what was asked. A damaged shard is no error: it is set aside and its items are missing again.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The operating system refused.
    #[error("the feature cache cannot use {path}: {reason}; check the free space and that you may write there")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The folder belongs to other features.
    #[error("{path} does not describe the features that are asked for; remove the folder and it will be computed anew")]
    Foreign {
        /// The description found.
        path: PathBuf,
    },
    /// Numbers that do not fit together.
    #[error("{what}: {expected} expected, {got} given")]
    Length {
        /// What was counted.
        what: &'static str,
        /// How many there must be.
        expected: usize,
        /// How many there were.
        got: usize,
    },
    /// A feature that is no number or too large.
    #[error(
        "feature {column} of item {item} is {value}, which {dtype:?} cannot hold; look for the cause in the tower, or \
         store the features as f32 if they are only large"
    )]
    Unstorable {
        /// Place among the items given.
        item: usize,
        /// Place in its row.
        column: usize,
        /// The value.
        value: f32,
        /// How features are stored.
        dtype: Dtype,
    },
    /// Items without features.
    #[error(
        "{missing} of {of} items have no features in {path} ({damaged} damaged shards were set aside); compute them first"
    )]
    Missing {
        /// How many.
        missing: usize,
        /// Of how many.
        of: usize,
        /// Shards that were set aside since the store was opened.
        damaged: usize,
        /// The store.
        path: PathBuf,
    },
}

impl CacheError {
    pub(super) fn io(path: &Path, e: &std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            reason: e.to_string(),
        }
    }
}

/// Why [`fill`](super::fill) stopped. What had been computed until then is stored.
#[derive(Debug, thiserror::Error)]
pub enum FillError<E: std::error::Error + 'static> {
    /// The cache itself.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The tower.
    #[error("computing features failed: {0}")]
    Compute(#[source] E),
}
