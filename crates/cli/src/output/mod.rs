//! What people and programs read: progress, training, files of rows.

pub mod progress;
pub mod rows;
pub mod trace;
pub mod training;
