//! Bundles: what a training run leaves, and what everything else works with.
//!
//! ```text
//! my-model/
//!   bifocal.json              what belongs together, with sizes and hashes
//!   heads.safetensors         both heads, and the statistics that features are standardised with
//!   reference.safetensors     what it computes for built-in pictures and texts
//!   vision.safetensors        the vision tower, if it was trained
//!   text.safetensors          what was trained of the text tower, if anything was
//!   vision/ text/ (towers/)   copies of pretrained towers, if they are inside; one copy where both came from one folder
//! ```
//!
//! A pretrained tower is large and mostly shared, so that a bundle usually names it and the hash of its weights. A tower with
//! another hash, or a file that is not what was written, is refused: embeddings of parts that don't belong together
//! look like embeddings and mean nothing.

mod chat;
mod error;
mod heads;
mod load;
mod locate;
mod manifest;
mod model;
pub(crate) mod reference;
pub(crate) mod save;
mod side;
mod tokens;

pub(crate) use chat::open_chat;
pub use error::BundleError;
pub use heads::Standardize;
pub use locate::{Located, locate};
pub use manifest::{ChatPart, FileEntry, MANIFEST, Manifest, OwnTower, Reference, TextPart, VisionPart};
pub use model::Model;
pub use reference::REFERENCE;
pub use save::{Parts, SaveTower, save};
pub use side::{TextSide, VisionSide, open_text_side, open_vision_side};
