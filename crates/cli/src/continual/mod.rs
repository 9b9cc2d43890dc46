//! Recipes of several tasks: trained one after another, measured after each, summed up in a matrix.
//!
//! `run` trains, `measure` asks one model, `matrix` sums up, `report` shows.

mod matrix;
mod measure;
mod report;
mod run;

pub use matrix::Matrix;
pub use run::{MATRIX, explain, run};
