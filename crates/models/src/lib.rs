//! Towers, tokenizers and the file formats that weights come in.
//!
//! - [`weights`]: named tensors out of the formats that published models come in;
//! - [`vision`], [`text`]: towers; [`adapter`]: heads into the joint space; [`towers`]: all of them together.
//!
//! Everything a tower computes is differentiable and packed: images and texts are rows one after the other, without padding.

pub mod adapter;
mod blocks;
mod load;
pub mod text;
pub mod towers;
pub mod vision;
pub mod weights;

pub use blocks::{Gelu, StackConfig};

/// The largest side of an image that a tower may read, in pixels: a limit for numbers that come from files.
const MAX_IMAGE_SIZE: usize = 4096;
