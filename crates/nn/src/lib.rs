//! Trainable layers on the tensor engine: fused forward and backward on the CPU, composed of burn operations elsewhere.
//!
//! - [`fused`]: the operations; [`composed`]: their twins of ordinary burn operations;
//! - [`layers`]: modules with parameters, without any model's name in them;
//! - [`engine`]: where tensors are, and how values get in and out;
//! - [`params`]: parameters by name: loading, saving, freezing;
//! - [`plain`]: operations that no kernel is worth;
//! - [`optim`]: optimizers in place, gradients by name;
//! - [`lora`]: adapters of low rank on any linear layer; [`noise`]: dropout that does not depend on micro-batches;
//! - [`ema`]: a teacher that follows a student;
//! - [`precision`]: whether matrix products multiply in f32 or in bf16;
//! - [`checkpoint`]: blocks that drop their activations and compute them again;
//! - [`trace`]: where time goes; operations and blocks are spans of it.
//!
//! Activations are packed rows: a batch of sequences is `[t, c]` with `offsets` where each begins; there is no
//! padding anywhere, so that cost follows the real number of tokens.

pub mod checkpoint;
pub mod composed;
pub mod ema;
pub mod engine;
pub mod fused;
pub mod init;
pub mod layers;
pub mod lora;
pub mod noise;
pub mod optim;
pub mod params;
pub mod plain;
pub mod pool;
pub mod precision;

mod packed;
mod storage;

pub use bifocal_kernels::trace;
pub use burn::module::{Module, Param};
pub use burn::tensor::{Device, Tensor};
