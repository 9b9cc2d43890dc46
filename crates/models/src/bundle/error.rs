//! What can be wrong with a bundle.

use std::path::PathBuf;

use crate::adapter::HeadError;
use crate::open::OpenError;
use crate::weights::WeightsError;

/// Why a bundle cannot be read, written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The system refused.
    #[error("bundle: {path}: {source}", path = path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The folder is not a bundle, or its description cannot be understood.
    #[error("{path}: {message}", path = path.display())]
    Manifest {
        /// The description.
        path: PathBuf,
        /// What is wrong with it and what to do.
        message: String,
    },
    /// A file is not what was written.
    #[error("{path} is damaged or from another bundle: {message}; copy the whole bundle again", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it differs.
        message: String,
    },
    /// A pretrained tower is not where it is looked for.
    #[error(
        "the {side} tower {name:?} is missing; looked for {looked}. Fetch it (scripts/fetch-encoders.py), or name the folder that holds it in BIFOCAL_MODELS"
    )]
    TowerMissing {
        /// `vision` or `text`.
        side: &'static str,
        /// As the bundle names it.
        name: String,
        /// Where it would have been found.
        looked: String,
    },
    /// A tower was found, but it is another one.
    #[error("the {side} tower at {path} is not the one that the bundle was trained with: its weights have the fingerprint {found}, the bundle needs {expected}; fetch the same version, or train again with this one", path = path.display())]
    OtherTower {
        /// `vision` or `text`.
        side: &'static str,
        /// What was found.
        path: PathBuf,
        /// Its fingerprint.
        found: String,
        /// The one needed.
        expected: String,
    },
    /// The model has no tower of this kind.
    #[error("{name} has no {side} tower; {hint}")]
    NoTower {
        /// The model.
        name: String,
        /// `vision` or `text`.
        side: &'static str,
        /// What to do.
        hint: String,
    },
    /// Parts with widths that do not meet.
    #[error("bundle: {0}")]
    Widths(String),
    /// A tower cannot be opened or does not embed.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Weights cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A head cannot be built.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// A bundle that cannot be the start of another run.
    #[error(
        "{name} standardises features before its head, which a tower that learns cannot keep up; begin with a bundle trained without standardize_input"
    )]
    Standardized {
        /// The bundle.
        name: String,
    },
    /// A bundle refers to another one for a tower that is not that one's own.
    #[error(
        "{path} is a bundle that itself takes this tower from {name:?}; a bundle refers to where a tower was trained: put that name in its place", path = path.display()
    )]
    Chain {
        /// The bundle in between.
        path: PathBuf,
        /// What it refers to.
        name: String,
    },
}

impl BundleError {
    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
