//! One side of a model, for a training run that begins with it.

use std::path::Path;

use super::model::Scale;
use super::{BundleError, MANIFEST, Model};
use crate::adapter::{Head, HeadConfig};
use crate::open::{TextEncoder, TextOptions, VisionEncoder, open_text, open_vision};
use crate::weights;

/// A vision tower and, when it came from a bundle, what stands after it.
#[derive(Debug)]
pub struct VisionSide {
    /// The tower and its preprocessing.
    pub encoder: VisionEncoder,
    /// The head after it; only bundles have one.
    pub head: Option<(Head, HeadConfig)>,
    /// The logarithm of what similarities are multiplied by, where it is known.
    pub log_scale: Option<f32>,
}

/// A text tower and, when it came from a bundle, what stands around it.
#[derive(Debug)]
pub struct TextSide {
    /// The tower and its tokenizer.
    pub encoder: TextEncoder,
    /// The head after it; only bundles have one.
    pub head: Option<(Head, HeadConfig)>,
    /// A sentence with `{}` in which each text is put.
    pub prompt: Option<String>,
}

/// Opens the vision side of a bundle, or a vision encoder by itself (see [`open_vision`]).
///
/// # Errors
/// [`BundleError`] with what is missing, damaged or not supported; a bundle whose features are standardised first.
pub fn open_vision_side(path: &Path) -> Result<VisionSide, BundleError> {
    if path.join(MANIFEST).is_file() {
        return Model::load(path)?.into_vision_side();
    }
    let encoder = open_vision(path)?;
    // weights without both towers have no scale
    let log_scale = match weights::open(path)?.shape("logit_scale") {
        Some(_) => Some(Scale::of_weights(path)?.log),
        None => None,
    };
    Ok(VisionSide {
        encoder,
        head: None,
        log_scale,
    })
}

/// Opens the text side of a bundle, or a text encoder by itself (see [`open_text`]). A bundle has its own options.
///
/// # Errors
/// As [`open_vision_side`].
pub fn open_text_side(path: &Path, options: &TextOptions) -> Result<TextSide, BundleError> {
    if path.join(MANIFEST).is_file() {
        return Model::load(path)?.into_text_side();
    }
    Ok(TextSide {
        encoder: open_text(path, options)?,
        head: None,
        prompt: None,
    })
}
