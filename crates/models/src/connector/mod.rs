//! What joins a vision tower with a language model: a few vectors for each picture, in a width that the model reads.
//!
//! - [`qformer`]: learnt queries that look at a picture and at a text (BLIP-2);
//! - [`resampler`]: learnt vectors that any number of pictures' patches become (Flamingo), and [`gated`]: the layers through which a language model looks at them.

pub mod gated;
mod perceiver;
pub mod qformer;
pub mod resampler;
