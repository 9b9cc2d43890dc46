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
        "{path} has no pictures; expected are a captions.jsonl, a labels.jsonl, one folder for each class, pictures \
         (JPEG, PNG, WebP, GIF, BMP, TIFF) in the folder or below it, or tar and parquet files"
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
    /// A table whose columns mean nothing here.
    #[error(
        "{path} has no column of pictures or captions; its columns are {}; name them in the first line, for example \
         filepath,caption", names(.found)
    )]
    NoColumns {
        /// The table.
        path: PathBuf,
        /// The names there are.
        found: Vec<String>,
    },
    /// A kind of file that this build cannot read.
    #[error("{path} cannot be read: {reason}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
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

fn names(found: &[String]) -> String {
    let shown: Vec<String> = found
        .iter()
        .take(8)
        .map(|name| format!("{:?}", name.chars().take(40).collect::<String>()))
        .collect();
    if shown.is_empty() {
        "none".to_owned()
    } else {
        shown.join(", ")
    }
}

fn summary(skipped: &[Skipped]) -> String {
    if skipped.is_empty() {
        return "it is empty; a row looks like {\"image\": \"images/1.jpg\", …}".into();
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
