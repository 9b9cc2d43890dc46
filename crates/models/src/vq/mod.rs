//! Pictures as a few thousand small numbers, and back: autoencoders whose middle is a list of codes.
//!
//! - [`VqModel`]: LlamaGen's (Sun et al. 2024, arXiv 2406.06525), which is VQGAN's (Esser et al. 2021, arXiv 2012.09841) with codes on a sphere. The
//!   same network with other widths is what `recipes/vq.toml` trains.
//! - [`Tiny`]: the tiny autoencoders of Stable Diffusion and FLUX (TAESD and its kin, of which TAEF2 is one): no codes, but a decoder that
//!   makes pictures on a laptop.
//! - [`Codec`]: what a command needs, whichever it is: pictures → codes → pictures. A `VqModel` may stand on a frozen `Tiny`, whose latents it
//!   reads and writes in place of pixels.

mod blocks;
mod codec;
mod inside;
mod llamagen;
mod names;
mod quantizer;
mod read;
mod tiny;

pub use blocks::{AttnBlock, ResBlock};
pub use codec::{Codec, CodecError, Latents, VQ_FILE};
pub use llamagen::{Decoder, Encoder, VqConfig, VqModel};
pub use quantizer::{Quantized, Quantizer, nearest};
pub use tiny::Tiny;
