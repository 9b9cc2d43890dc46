//! `bifocal.json`.

use std::collections::BTreeMap;
use std::path::Path;

use bifocal_data::Preprocess;
use serde::{Deserialize, Serialize};

use super::{BundleError, REFERENCE};
use crate::adapter::HeadConfig;
use crate::chat::Template;
use crate::connector::Tap;
use crate::text::{Attention, Pooling};
use crate::vision::VisionConfig;

/// Name of the description.
pub const MANIFEST: &str = "bifocal.json";
/// The present layout.
pub(super) const FORMAT: u32 = 1;
/// A description is small; more than this is not one.
const MAX_BYTES: u64 = 4 << 20;

/// A pretrained tower that is referred to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// A path: relative to the bundle, to the current directory, or to `$BIFOCAL_MODELS`.
    pub path: String,
    /// Hash of its weights.
    pub fingerprint: String,
}

/// A tower whose weights are a file of the bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnTower {
    /// Architecture.
    pub config: VisionConfig,
    /// File name.
    pub file: String,
}

/// The vision tower of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum VisionPart {
    /// As it was pretrained.
    Pretrained(Reference),
    /// Trained in this run.
    Trained(OwnTower),
}

/// The text tower of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextPart {
    /// The pretrained tower with its tokenizer.
    pub pretrained: Reference,
    /// File with the parameters that were trained, laid over the pretrained ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained: Option<String>,
    /// How token vectors become one.
    pub pooling: Pooling,
    /// What a token of a language model sees.
    pub attention: Attention,
    /// The layer that is pooled; the last when it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// The name of the pretrained tower's own prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_name: Option<String>,
    /// A sentence with `{}` in which each text is put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
}

/// What makes a bundle one that talks about pictures: then its image head is a connector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatPart {
    /// How dialogues are written for it.
    pub template: Template,
    /// What the connector reads of the vision tower.
    pub tap: Tap,
    /// Whether it reads pictures as codes, and draws them: then the tap says nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub draws: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A file of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Length.
    pub bytes: u64,
    /// Hash of the content.
    pub blake3: String,
}

/// What belongs together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Layout of the bundle.
    pub format: u32,
    /// The method that trained it.
    pub method: String,
    /// Width of an embedding.
    pub embed_dim: usize,
    /// Under which terms it may be used, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// The tower for pictures.
    pub vision: VisionPart,
    /// The tower for texts.
    pub text: TextPart,
    /// From files to pixels.
    pub preprocess: Preprocess,
    /// After the vision tower.
    pub image_head: HeadConfig,
    /// After the text tower.
    pub text_head: HeadConfig,
    /// Whether features are standardised before the heads, with the statistics in `heads.safetensors`.
    #[serde(default)]
    pub standardize_image: bool,
    /// As `standardize_image`.
    #[serde(default)]
    pub standardize_text: bool,
    /// What similarities are multiplied by.
    pub logit_scale: f32,
    /// What is then added to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_bias: Option<f32>,
    /// Whether it talks, and how; otherwise it embeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<ChatPart>,
    /// All files of weights.
    pub files: BTreeMap<String, FileEntry>,
    /// Hash of all that decides what an embedding is; two bundles with the same one embed alike.
    #[serde(default)]
    pub fingerprint: String,
}

impl Manifest {
    /// Reads and checks the description of a bundle; its files are not looked at.
    ///
    /// # Errors
    /// [`BundleError::Manifest`] says what is wrong.
    pub fn read(dir: &Path) -> Result<Self, BundleError> {
        let path = dir.join(MANIFEST);
        let fail = |message: String| BundleError::Manifest {
            path: path.clone(),
            message,
        };
        let meta = std::fs::metadata(&path).map_err(|e| {
            fail(format!(
                "{e}; a bundle is a folder with a {MANIFEST}, as `bifocal train` writes it"
            ))
        })?;
        if meta.len() > MAX_BYTES {
            return Err(fail(format!("{} bytes are not a description", meta.len())));
        }
        let bytes = std::fs::read(&path).map_err(BundleError::io(&path))?;
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))?;
        manifest.check().map_err(fail)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!(
                "format {} is not {FORMAT}; it was written by another version of bifocal",
                self.format
            ));
        }
        if self.identity() != self.fingerprint {
            return Err(
                "it was changed after it was written: the fingerprint does not fit; train or export the bundle again"
                    .to_owned(),
            );
        }
        self.preprocess.validate().map_err(|e| e.to_string())?;
        for name in self.files.keys() {
            // A file name, not a way out of the bundle.
            let plain = Path::new(name).file_name().is_some_and(|f| f == name.as_str());
            if !plain {
                return Err(format!("{name:?} is not a file name"));
            }
        }
        let prompt = self.text.prompt.as_deref();
        if prompt.is_some_and(|p| !p.contains("{}")) {
            return Err("the prompt has no {}, where the text goes".to_owned());
        }
        if !self.logit_scale.is_finite() || self.logit_bias.is_some_and(|b| !b.is_finite()) {
            return Err("the scale or bias of similarities is not a number".to_owned());
        }
        Ok(())
    }

    /// The hash of all that decides what an embedding is: not where the towers are, and not the licence.
    pub(super) fn identity(&self) -> String {
        let mut content = self.clone();
        content.fingerprint.clear();
        content.licence = None;
        // processors round differently, and that does not make it another model
        content.files.remove(REFERENCE);
        content.text.pretrained.path.clear();
        if let VisionPart::Pretrained(reference) = &mut content.vision {
            reference.path.clear();
        }
        match serde_json::to_vec(&content) {
            Ok(bytes) => blake3::hash(&bytes).to_hex().to_string(),
            Err(error) => unreachable!("plain data with text keys is JSON: {error}"),
        }
    }
}
