//! Why a benchmark could not be opened.

use std::path::PathBuf;

use bifocal_data::source::SourceError;

/// What is wrong with a benchmark's folder.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BenchmarkError {
    /// No suite is called so.
    #[error("there is no suite {name:?}; `bifocal eval list` names them")]
    UnknownSuite {
        /// The name that was given.
        name: String,
    },
    /// A file or a folder of the layout is not there.
    #[error("{suite}: {missing} is missing in {root}; there is {found}. The folder should look like this:\n{layout}")]
    Missing {
        /// The suite.
        suite: &'static str,
        /// The folder that was given.
        root: PathBuf,
        /// What is not there, below the folder.
        missing: String,
        /// What is there instead.
        found: String,
        /// How the folder should look.
        layout: &'static str,
    },
    /// The set is only partly there.
    #[error(
        "{suite}: {root} is incomplete: {what}. Get the rest, or allow a part of the set, whose numbers compare with nothing else. \
         The folder should look like this:\n{layout}"
    )]
    Incomplete {
        /// The suite.
        suite: &'static str,
        /// The folder that was given.
        root: PathBuf,
        /// How much is there of how much, and an example of what is missing.
        what: String,
        /// How the folder should look.
        layout: &'static str,
    },
    /// A file that does not say what it should.
    #[error("{path}{}: {reason}", line.map(|l| format!(", line {l}")).unwrap_or_default())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Line or item, from 1.
        line: Option<u64>,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// The set has no names or captions in that language.
    #[error("{suite} has nothing in {language:?}; it has {known}")]
    Language {
        /// The suite.
        suite: &'static str,
        /// What was asked for.
        language: String,
        /// What there is.
        known: String,
    },
    /// A folder or table of the user's own that cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
}
