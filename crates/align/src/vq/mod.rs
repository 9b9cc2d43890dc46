//! Training of a codebook on the latents of a frozen autoencoder (`recipes/vq.toml`).
//!
//! There are no towers and no texts here, so the loop is not that of [`crate::train`]; checkpoints, schedule, optimizer, order of the data and logs
//! are the same, and so is the promise: a run that was killed goes on, and ends with the same bits.

mod critic;
mod discriminator;
mod learner;
mod perceptual;
mod pictures;
mod pixels;
mod run;

pub use pictures::HeldOut;
pub use run::{VqEvaluation, VqOverview, VqSummary, overview, run};
