//! Alignment: losses, methods and the training loop.
//!
//! [`losses`] are pure functions of tensors. A method is a list of [`methods::Stage`]s: which parameters learn, and, as a
//! [`methods::Objective`], how a batch becomes loss terms. A [`recipe::Recipe`] describes a run, and [`train::run`] runs it: data and towers become a bundle.
//! [`vq`] trains what has no towers: an autoencoder with a codebook.

pub mod batch;
pub mod losses;
pub mod methods;
mod random;
pub mod recipe;
pub mod train;
pub mod vq;

pub use recipe::Recipe;
