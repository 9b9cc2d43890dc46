//! Alignment: losses, methods and the training loop.
//!
//! [`losses`] are pure functions of tensors. A [`methods::Method`] says what a paper changes: which parameters learn and how a batch
//! becomes loss terms. A [`recipe::Recipe`] describes a run, and [`train::run`] runs it: data and towers become a bundle.

pub mod batch;
pub mod losses;
pub mod methods;
pub mod recipe;
pub mod train;

pub use recipe::Recipe;
