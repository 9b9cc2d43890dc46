//! Evaluation: retrieval, zero-shot classification and their baselines.
//!
//! Everything here is a function of plain row-major `f32` matrices, so that the same code judges a model that was just
//! trained, a matrix read from an `.npy` file and a baseline that never saw a network.
//!
//! - [`retrieval`](mod@retrieval): recall at 1, 5 and 10 and the median rank, text → image and image → text;
//! - [`zero_shot`](mod@zero_shot): class weights from prompts, top-1, top-5 and mean per class;
//! - [`composition`](mod@composition) and [`rules`]: captions against hard negatives (SugarCrepe, Winoground, MMVP, ARO), rank correlation (STS);
//! - [`calibration`](mod@calibration): what is confused, and whether certainty is deserved;
//! - [`continual`](mod@continual): what was learnt and forgotten, task after task;
//! - [`answers`]: what vision-language models answered, by the rules of POPE, GQA, VQAv2, TextVQA, MME, MMBench, ScienceQA and captions;
//! - [`neighbours`], [`probe`]: what features are good for without text;
//! - [`bootstrap`]: intervals, and whether two models differ;
//! - [`templates`]: the prompts;
//! - [`ridge`]: the linear baseline that a trained adaptor has to beat;
//! - [`picture`]: how near a picture is to another one, how much of a codebook is used;
//! - [`report`]: tables and JSON, with the chance level and the protocol beside every number.

mod cholesky;
mod error;
mod scores;

pub mod answers;
pub mod bootstrap;
pub mod calibration;
pub mod composition;
pub mod continual;
pub mod neighbours;
pub mod page;
pub mod picture;
pub mod probe;
pub mod report;
pub mod retrieval;
pub mod ridge;
pub mod rules;
pub mod templates;
pub mod zero_shot;

pub use bootstrap::{Interval, Paired, Unit, interval, paired};
pub use composition::{CompositionReport, composition};
pub use continual::{Continual, continual};
pub use error::EvalError;
pub use report::{Role, Table};
pub use retrieval::{Asks, Chance, Direction, Ranks, RetrievalReport, ranks, retrieval};
pub use ridge::{Lambda, Ridge};
pub use templates::{Template, TemplateSet};
pub use zero_shot::{Ranked, ZeroShotReport, class_weights, rank_classes, zero_shot};
