//! Dialogues with a language model, about a picture or without one.
//!
//! A [`Dialogue`] is what was said; a [`Template`] writes it as the model was trained to read it; a [`Sequence`] is that as tokens, with the place where a
//! picture's rows go and which tokens are learnt. [`ChatModel`] holds all parts of a model that talks, [`Conversation`] is one talk.

mod conversation;
mod dialogue;
mod error;
mod model;
mod sequence;
mod template;

pub use conversation::{Answer, Conversation, Ended, Speech};
pub use dialogue::{Dialogue, Role, Turn};
pub use error::{ChatError, THAT_SEE};
pub use model::{ChatModel, Eyes, Seen};
pub use sequence::Sequence;
pub use template::{Style, Template};
