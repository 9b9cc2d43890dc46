//! CPU kernels on plain slices: no tensors, no models.
//!
//! Every kernel takes row-major `f32` slices and returns fresh vectors; batches of sequences are packed (`[tokens, channels]` and `offsets`), images are NHWC.
//! The instruction set is chosen once per process ([`instruction_set`]): AVX-512, AVX2 with FMA, or a portable path.
//! Work is split over rayon's current thread pool; how it is split never changes a sum's order unless a kernel says so, therefore a run with the same number of
//! threads gives the same bits.
//!
//! # Panics
//! Kernels check the lengths of their arguments first and panic with a message that names the argument when they contradict each other: that is a programming error of
//! the caller, never something that a file or a user can cause, since layers check shapes before they call.
//!
//! # Accuracy
//! `exp`, the error function and the sigmoid behind the activations have a relative error below 1e-6 against `f64` over the range where the result is a normal number.
//!
//! The loops that matter work on vector registers through `std::arch` and write into uninitialised memory, neither of which safe Rust can express; this is the only
//! crate of the workspace that may.
#![allow(unsafe_code)]

pub mod activation;
pub mod allocator;
pub mod attention;
pub mod blend;
pub mod contrastive;
pub mod conv;
pub mod cross_entropy;
pub mod elements;
pub mod embedding;
pub mod gemm;
pub mod group_norm;
pub mod linear;
pub mod norm;
pub mod optim;
pub mod peak;
pub mod pool;
pub mod rope;
pub mod scan;
pub mod team;
pub mod trace;

mod buffer;
mod math;
mod simd;
#[cfg(test)]
mod testing;

/// A gradient, present when it was asked for.
pub type Gradient = Option<Vec<f32>>;

pub use activation::Activation;
pub use gemm::{Precision, bf16_unit, int8_unit};
pub use simd::instruction_set;
