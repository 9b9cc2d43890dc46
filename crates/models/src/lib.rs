//! Towers, tokenizers and the file formats that weights come in.
//!
//! - [`weights`]: named tensors out of the formats that published models come in;
//! - [`tokenizer`]: from texts to token ids;
//! - [`vision`], [`text`]: towers; [`adapter`]: heads into the joint space; [`towers`]: all of them together;
//! - [`open`](mod@open): pretrained encoders from files and folders; [`inspect`](mod@inspect): what they are, without loading them;
//! - [`chat`]: dialogues; [`connector`]: from pictures to what a language model reads; [`generate`]: language models that write;
//! - [`vq`]: pictures as codes; [`unified`]: a language model that reads and draws them;
//! - [`doctor`]: what is wrong with a model;
//! - [`hub`]: models by their name on a hub, in the cache of its client;
//! - [`bundle`]: what training leaves; [`convert`](mod@convert): from one layout to another.
//!
//! Everything a tower computes is differentiable and packed: images and texts are rows one after the other, without padding.

pub mod adapter;
mod blocks;
pub mod bundle;
pub mod chat;
pub mod connector;
pub mod convert;
pub mod doctor;
pub mod generate;
pub mod hub;
pub mod inspect;
mod load;
mod names;
pub mod open;
pub mod text;
pub mod tokenizer;
pub mod towers;
pub mod unified;
pub mod vision;
pub mod vq;
pub mod weights;

pub use blocks::{Gelu, StackConfig};

/// The largest side of an image that a tower may read, in pixels: a limit for numbers that come from files.
const MAX_IMAGE_SIZE: usize = 4096;
