//! The one loop that runs every method, and what it stands on.

mod ahead;
mod build;
pub mod checkpoint;
mod classes;
pub mod collective;
pub(crate) mod corpus;
mod disk;
pub(crate) mod draw;
mod error;
mod estimate;
pub(crate) mod explode;
pub(crate) mod features;
mod feed;
mod gradient;
mod holdout;
mod importance;
mod judge;
pub mod metrics;
#[cfg(feature = "mpi")]
pub mod mpi;
mod pairs;
pub mod plan;
mod preview;
mod progress;
mod reading;
mod run;
pub mod schedule;
mod setup;
mod trainer;
pub mod watch;

pub use error::TrainError;
pub use estimate::{Estimate, estimate};
pub use features::{dealt, seen_by_all, text_features};
pub use holdout::{HeldPicture, held_out};
pub use importance::IMPORTANCE_FILE;
pub use pairs::{Pairs, pairs, pairs_among};
pub use preview::{bundle_of_newest, newest_step};
pub use progress::{Overview, Progress, Silent, StageOverview, StepReport};
pub use run::{Options, RunSummary, overview, run, run_among};
