//! Evaluation: retrieval, zero-shot classification and their baselines.
//!
//! Everything here is a function of plain row-major `f32` matrices, so that the same code judges a model that was just
//! trained, a matrix read from an `.npy` file and a baseline that never saw a network.
//!
//! - [`retrieval`](mod@retrieval): recall at 1, 5 and 10 and the median rank, text → image and image → text;
//! - [`zero_shot`](mod@zero_shot): class weights from prompts, top-1, top-5 and mean per class;
//! - [`composition`](mod@composition): captions against hard negatives (SugarCrepe);
//! - [`templates`]: the prompts;
//! - [`ridge`]: the linear baseline that a trained adaptor has to beat;
//! - [`report`]: tables and JSON, with the chance level and the protocol beside every number.

mod cholesky;
mod error;
mod scores;

pub mod composition;
pub mod report;
pub mod retrieval;
pub mod ridge;
pub mod templates;
pub mod zero_shot;

pub use composition::{CompositionReport, composition};
pub use error::EvalError;
pub use report::{Role, Table};
pub use retrieval::{Chance, Direction, RetrievalReport, retrieval};
pub use ridge::{Lambda, Ridge};
pub use templates::{Template, TemplateSet};
pub use zero_shot::{Ranked, ZeroShotReport, class_weights, rank_classes, zero_shot};
