//! Why a dataset could not be opened.

use std::path::PathBuf;

use super::Skipped;

/// What is wrong with a dataset as a whole. A single bad row is never an error, see [`Skipped`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The operating system refused.
    #[error("cannot read {path}: {reason}; check that it exists and that you may read it")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// A folder without a single picture.
    #[error(
        "{path} has no pictures; expected are a captions.jsonl, a labels.jsonl, one folder for each class, or pictures \
         (JPEG, PNG, WebP, GIF, BMP, TIFF) in the folder or below it"
    )]
    NoImages {
        /// The folder.
        path: PathBuf,
    },
    /// A table of which no row could be used.
    #[error("{path} has no usable row: {}", summary(.skipped))]
    NoRows {
        /// The table.
        path: PathBuf,
        /// Why, row by row.
        skipped: Vec<Skipped>,
    },
    /// A text file that is not UTF-8.
    #[error("{path}, line {line}: the text is not UTF-8; convert the file (for example with iconv -t UTF-8)")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
}

impl SourceError {
    pub(super) fn io(path: &std::path::Path, e: &std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            reason: e.to_string(),
        }
    }
}

fn summary(skipped: &[Skipped]) -> String {
    if skipped.is_empty() {
        return "the file is empty; a row looks like {\"image\": \"images/1.jpg\", …}".into();
    }
    let shown: Vec<String> = skipped.iter().take(3).map(ToString::to_string).collect();
    let more = skipped.len() - shown.len();
    let more = if more > 0 {
        format!("; and {more} more")
    } else {
        String::new()
    };
    format!("{}{more}", shown.join("; "))
}
