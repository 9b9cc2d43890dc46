//! What lets a person watch a run: event files for TensorBoard, a page with curves, evaluations and the best of them.
//!
//! Nothing here computes with tensors or decides what is written when; the trainer calls it.

mod best;
mod evaluations;
pub mod events;
mod records;
pub mod report;
mod run;
mod similarity;

pub use best::Best;
pub use evaluations::Evaluation;
pub use events::EventLog;
pub use report::Report;
pub(crate) use run::Watch;
pub use similarity::{Similarities, SimilarityError, similarities};
