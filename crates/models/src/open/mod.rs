//! Pretrained encoders from files and folders: a tower with everything that it needs to embed.

mod bert;
mod clip;
mod dinov2;
mod error;
mod facts;
mod llava;
mod llm;
mod preprocess;
mod sentence;
mod settings;
mod siglip;
mod template;
mod text;
pub(crate) mod timm;
mod vision;

pub use error::OpenError;
pub use facts::TowerFacts;
pub(crate) use facts::facts;
pub(crate) use llava::open_llava;
pub use template::Template;
pub(crate) use text::only_gguf;
pub use text::{TextEncoder, TextOptions, open_text};
pub use vision::{VisionEncoder, open_vision};

use std::path::Path;

use settings::Settings;

use crate::weights::{self, TensorSource, WeightsError};

/// What a folder says that it holds.
enum Layout {
    /// transformers' `config.json` and its `model_type`.
    HuggingFace(String, Settings),
    /// open_clip's settings.
    OpenClip(Settings),
    /// No settings: a file of weights, or a folder with one.
    Bare,
}

impl Layout {
    fn of(path: &Path) -> Result<Self, OpenError> {
        let found = path.metadata().map_err(|error| OpenError::io(path, error))?;
        if !found.is_dir() {
            return Ok(Self::Bare);
        }
        // open_clip's repositories may hold a config.json for transformers beside their own; then both describe the same weights
        if let Some(settings) = Settings::read(&path.join("open_clip_config.json"))? {
            return Ok(Self::OpenClip(settings));
        }
        match Settings::read(&path.join("config.json"))? {
            Some(mut settings) => Ok(Self::HuggingFace(settings.require("model_type")?, settings)),
            None => Ok(Self::Bare),
        }
    }
}

/// What a text tower leaves to the vision tower of the same file, and the other way round.
const VISION_PARTS: [&str; 3] = ["visual.", "vision_model.", "visual_projection."];
const TEXT_PARTS: [&str; 8] = [
    "text.",
    "text_model.",
    "text_projection.",
    "text_projection",
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
];
/// Parts of BERT that sentence encoders don't use.
const BERT_PARTS: [&str; 6] = [
    "pooler.",
    "bert.pooler.",
    "roberta.pooler.",
    "cls.",
    "lm_head.",
    "classifier.",
];

/// Parts of language models that vectors of tokens don't need; of those with pictures, what reads these.
const LLM_PARTS: [&str; 6] = [
    "lm_head.",
    "score.",
    ".rotary_emb.inv_freq",
    "vision_tower.",
    "model.vision_tower.",
    "multi_modal_projector.",
];

/// Whether a tensor of a pair of towers is the vision tower's.
pub(crate) fn belongs_to_vision(name: &str) -> bool {
    let other = ["vision_tower.", "vision_encoder.", "image_encoder."];
    VISION_PARTS.iter().chain(&other).any(|prefix| name.starts_with(prefix))
}

/// Whether a tensor is neither tower's.
pub(crate) fn belongs_to_both(name: &str) -> bool {
    matches!(name, "logit_scale" | "logit_bias") || name.ends_with(".position_ids")
}

/// Loads a tower from the weights of a model; tensors that it does not read must be in `unread` (see [`weights::strict`]).
fn load<T>(
    path: &Path,
    unread: &[&str],
    load: impl FnOnce(&dyn TensorSource) -> Result<T, WeightsError>,
) -> Result<T, OpenError> {
    Ok(weights::strict(&*weights::open(path)?, unread, load)?)
}

/// The hash of a model's weights; with settings beside them that change what it computes, the hash of all of these.
fn identity(path: &Path, settings: &[&str]) -> Result<String, OpenError> {
    let weights = weights::fingerprint(path)?;
    let mut whole = blake3::Hasher::new();
    whole.update(weights.as_bytes());
    let mut alone = true;
    for name in settings {
        if let Some(bytes) = settings::bytes(&path.join(name))? {
            alone = false;
            whole.update(name.as_bytes());
            whole.update(blake3::hash(&bytes).as_bytes());
        }
    }
    Ok(if alone {
        weights
    } else {
        whole.finalize().to_hex().to_string()
    })
}

fn name_of(path: &Path) -> String {
    let named = path.file_stem().filter(|_| path.is_file()).or_else(|| path.file_name());
    named.map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}
