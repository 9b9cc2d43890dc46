//! Writing text with a language model: which token comes next, one after the other.
//!
//! [`sampling`] and [`repeats`] are pure functions on logits; [`Writer`] runs the model over what it reads and what it has written; [`beam_search`] looks for a
//! likely text as a whole. The order of steps is that of transformers' `generate`: repetition first, then temperature, `top_k`, `top_p`.

mod beam;
pub mod repeats;
pub mod sampling;
mod stream;
mod writer;

pub use beam::{Beams, beam_search};
pub use repeats::Repeats;
pub use sampling::Sampling;
pub use stream::TextStream;
pub use writer::Writer;

use crate::text::TokensError;

/// Why a model cannot write.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// No output layer.
    #[error(
        "the model was opened without its output layer, so that it can read but not write; open it as a language model"
    )]
    NoOutput,
    /// Nothing was read yet.
    #[error("there is nothing to go on from; give the model a text, or at least the token that begins one")]
    Nothing,
    /// Tokens that it cannot read, or too many.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// A choice that cannot be.
    #[error("`{field}` is {value}, it must be {allowed}; correct it")]
    Field {
        /// Which.
        field: &'static str,
        /// What it is.
        value: String,
        /// What would do.
        allowed: &'static str,
    },
    /// Logits that are not numbers.
    #[error("the model gives no finite number for any token; its weights are damaged, `bifocal doctor` says more")]
    NotFinite,
}
