//! What can stop a run.

use std::path::PathBuf;

use bifocal_data::SourceError;
use bifocal_data::atomic::LockError;
use bifocal_data::cache::CacheError;
use bifocal_models::adapter::HeadError;
use bifocal_models::bundle::BundleError;
use bifocal_models::open::OpenError;

use super::checkpoint::CheckpointError;
use super::collective::RankError;
use super::plan::NoMatch;
use crate::methods::MethodError;
use crate::recipe::RecipeError;

/// Why a run did not start or did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A freeze rule without effect.
    #[error(transparent)]
    NoMatch(#[from] NoMatch),
    /// A dataset.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Data that cannot be learnt from.
    #[error("{path}: {message}", path = path.display())]
    Data {
        /// The source.
        path: PathBuf,
        /// Why, and what to do.
        message: String,
    },
    /// A pretrained tower is not there.
    #[error(
        "{key} = {name:?}: there is no such file or folder (looked for {looked}); fetch it with scripts/fetch-encoders.py, or name the folder that holds it in BIFOCAL_MODELS"
    )]
    TowerMissing {
        /// Key of the recipe.
        key: &'static str,
        /// Its value.
        name: String,
        /// Places.
        looked: String,
    },
    /// A tower cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A head cannot be built.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// Features of a frozen tower cannot be computed or kept.
    #[error("features of {what}: {message}")]
    Features {
        /// Which.
        what: String,
        /// Why.
        message: String,
    },
    /// [`super::Progress::stop`] said so while features were computed.
    #[error(
        "stopped while features of {what} were computed; those that are there are kept, and the same command goes on"
    )]
    Stopped {
        /// Which.
        what: String,
    },
    /// The cache of features.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A batch did not become a loss.
    #[error("step {step}: {source}")]
    Method {
        /// Counted from 1.
        step: u64,
        /// Why.
        source: MethodError,
    },
    /// A loss or gradient that is not finite, or a loss that has exploded.
    #[error("step {step}: {what}. The weights are those of step {before}; the samples of the step are listed in {listed}, the first are {samples}. Lower optimizer.lr, set optimizer.clip_norm, or set run.bad_step = \"skip\" to leave such steps out", before = step - 1, listed = listed.display())]
    BadStep {
        /// Counted from 1.
        step: u64,
        /// What is wrong with it.
        what: String,
        /// The first samples.
        samples: String,
        /// File with all of them.
        listed: PathBuf,
    },
    /// A weight that is not finite after a step.
    #[error(
        "step {step}: {name} is not finite any more and was not written to a checkpoint; lower optimizer.lr or set \
         optimizer.clip_norm, and begin anew in another folder"
    )]
    BrokenWeights {
        /// Counted from 1.
        step: u64,
        /// The parameter.
        name: String,
    },
    /// Too little data that can be read.
    #[error("step {step}: none of the batch's pictures can be read; the first: {first}")]
    NoPictures {
        /// Counted from 1.
        step: u64,
        /// What is wrong with it.
        first: String,
    },
    /// The processes of a run cannot go on together.
    #[error(transparent)]
    Ranks(#[from] RankError),
    /// Another process is at it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The folder holds another run.
    #[error("{path} holds a run that cannot go on like this: {message}", path = path.display())]
    OtherRun {
        /// The run's folder.
        path: PathBuf,
        /// What differs and what to do.
        message: String,
    },
    /// A file of the run.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The page about the run.
    #[error(transparent)]
    Report(#[from] super::watch::report::ReportError),
    /// The finished model could not be written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

impl TrainError {
    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
