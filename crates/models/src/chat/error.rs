//! What can go wrong when a model is to talk.

use std::path::PathBuf;

use crate::bundle::BundleError;
use crate::connector::ConnectorError;
use crate::generate::GenerateError;
use crate::open::OpenError;
use crate::tokenizer::TokenizerError;
use crate::vision::CodesError;
use crate::weights::WeightsError;

/// Recipes whose models see, as messages name them.
pub const THAT_SEE: &str = "recipes/llava.toml, blip2.toml, flamingo.toml or unified.toml";

/// An error of a model that talks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// A part cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A bundle cannot be opened.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Weights cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The tokenizer fails on a text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The connector cannot be built.
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    /// The model cannot write.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The model is none that talks.
    #[error("{}: {found}; give a language model (.gguf or its folder), a LLaVA in transformers' layout, or a bundle of {recipes}", path.display(), recipes = THAT_SEE)]
    NoChat {
        /// The file or folder.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// A picture for a model without eyes.
    #[error(
        "{name} is a language model alone and sees no pictures; leave the picture out, or give a bundle of {recipes}",
        recipes = THAT_SEE
    )]
    Blind {
        /// The model.
        name: String,
    },
    /// A picture is asked of a model that draws none.
    #[error("{name} draws no pictures; give a bundle of recipes/unified.toml")]
    NoDrawing {
        /// The model.
        name: String,
    },
    /// Codes do not fit the tower that reads them.
    #[error(transparent)]
    Codes(#[from] CodesError),
    /// The template has no place for this.
    #[error("{what}; {advice}")]
    Template {
        /// What is asked of it.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// A dialogue longer than the model reads.
    #[error(
        "the dialogue has {rows} tokens (a picture's rows included), the model reads {limit}; begin a new one, or leave something out"
    )]
    TooLong {
        /// Its rows.
        rows: usize,
        /// The model's context.
        limit: usize,
    },
    /// A file of dialogues that is damaged.
    #[error(
        "{what}; a dialogue is a list like [{{\"from\": \"human\", \"value\": \"<image>\\nWhat is this?\"}}, {{\"from\": \"gpt\", \"value\": \"A dog.\"}}]"
    )]
    Dialogue {
        /// What is wrong.
        what: String,
    },
}
