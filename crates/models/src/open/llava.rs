//! LLaVA in the layout of transformers: a vision tower of CLIP, a connector, a language model, in one folder.

use std::path::Path;

use bifocal_data::transform::CropRounding;
use bifocal_data::{Preprocess, ResizeMode};

use super::clip::HuggingFace;
use super::llm;
use super::preprocess::{self, small};
use super::settings::Settings;
use super::text::of_language_model;
use super::vision::finish;
use super::{Layout, OpenError};
use crate::chat::{ChatError, ChatModel, Eyes, Template};
use crate::connector::{self, MARGIN, Select, Tap};
use crate::text::{Attention, Llm, LlmNames};
use crate::vision::{VisionConfig, VisionTower, VitConfig};
use crate::weights::{self, HostTensor, StoredRows, TensorSource, WeightsError, strict};

/// Settings that change no number here: which id stands for a picture is the tokenizer's business, and how many rows it has the tower's.
const HARMLESS: &[&str] = &[
    "_name_or_path",
    "architectures",
    "dtype",
    "ignore_index",
    "image_seq_length",
    "image_token_id",
    "image_token_index",
    "initializer_range",
    "model_type",
    "multimodal_projector_bias",
    "pad_token_id",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "vocab_size",
];

/// Opens such a folder; `None` for anything else.
///
/// # Errors
/// [`ChatError`] with what is missing, damaged or not supported.
pub(crate) fn open_llava(path: &Path) -> Result<Option<ChatModel>, ChatError> {
    let Layout::HuggingFace(kind, mut s) = Layout::of(path)? else {
        return Ok(None);
    };
    if kind != "llava" {
        return Ok(None);
    }
    s.only("projector_hidden_act", "gelu".to_owned())?;
    let tap = tap(&mut s)?;
    let mut vision = s.object("vision_config")?;
    vision.only("model_type", "clip_vision_model".to_owned())?;
    let vision = HuggingFace::new(vision, "clip_vision_model")?.vision()?;
    let vision = VitConfig {
        dim: vision.stack.width,
        unprojected: true,
        ..vision
    };
    let mut text = s.object("text_config")?;
    let text_kind: String = text.take("model_type")?.unwrap_or_else(|| "llama".to_owned());
    let (text, _) = llm::config(text, &text_kind, Some(Attention::Causal))?;
    s.refuse_rest(HARMLESS)?;
    let preprocess = preprocessing(path, &s, vision.image_size)?;
    let (patch_width, width) = (vision.stack.width, text.width);
    let source = weights::open(path).map_err(OpenError::from)?;
    let unread = [".rotary_emb.inv_freq", ".post_layernorm.weight", ".post_layernorm.bias"];
    let (tower, llm, head) = strict(&*source, &unread, |source| {
        let tower = VisionTower::load(VisionConfig::Vit(vision), &Renamed::vision(source)?)?;
        let names = LlmNames::hugging_face(source)?;
        let llm = Llm::load(text, source, names, Attention::Causal)?.with_output(source, names)?;
        let (head, _) = connector::load(source, patch_width, width)?;
        Ok::<_, ChatError>((tower, llm, head))
    })?;
    let vision = finish(path, tower, preprocess, &["config.json", "preprocessor_config.json"])?;
    let text = of_language_model(llm, path)?;
    let whole = format!("{} {}", vision.fingerprint, text.fingerprint);
    Ok(Some(ChatModel {
        name: text.name.clone(),
        fingerprint: blake3::hash(whole.as_bytes()).to_hex().to_string(),
        template: Template::of_tokenizer(&text.tokenizer),
        eyes: Some(Eyes {
            vision,
            tap,
            connector: head,
            drawing: None,
        }),
        text,
    }))
}

fn tap(s: &mut Settings) -> Result<Tap, OpenError> {
    let select: Option<String> = s.take("vision_feature_select_strategy")?;
    Ok(Tap {
        layer: s.take("vision_feature_layer")?.unwrap_or(-2),
        select: match select.as_deref() {
            None | Some("default") => Select::Patch,
            Some("full") => Select::ClsPatch,
            Some(other) => {
                return Err(OpenError::unsupported(
                    s.path(),
                    format!("\"vision_feature_select_strategy\": \"{other}\""),
                    "take a model that reads default or full",
                ));
            }
        },
    })
}

/// What the folder's processor says; without one, margins and CLIP's resizing, as LLaVA 1.5's own code.
fn preprocessing(path: &Path, s: &Settings, side: usize) -> Result<Preprocess, OpenError> {
    let base = Preprocess {
        crop_rounding: CropRounding::Floor,
        ..Preprocess::clip(small(side, s)?)
    };
    if path.join("preprocessor_config.json").is_file() || path.join("processor_config.json").is_file() {
        return preprocess::fits(preprocess::hugging_face(path, base, true)?, path, side);
    }
    Ok(Preprocess {
        resize: ResizeMode::Padded { fill: MARGIN },
        ..base
    })
}

/// The tensors of the vision tower under the names that they have in a file of its own.
struct Renamed<'a> {
    inner: &'a dyn TensorSource,
    prefix: String,
}

/// What stands before the names of a vision tower by itself.
const OWN: &str = "vision_model.";
const LANDMARK: &str = "embeddings.class_embedding";

impl<'a> Renamed<'a> {
    fn vision(inner: &'a dyn TensorSource) -> Result<Self, WeightsError> {
        let names = inner.names();
        match names.iter().find_map(|name| name.strip_suffix(LANDMARK)) {
            Some(prefix) => Ok(Self {
                inner,
                prefix: prefix.to_owned(),
            }),
            None => {
                let wanted = "vision_tower.vision_model.embeddings.class_embedding";
                Err(WeightsError::missing(
                    inner.path(),
                    wanted,
                    names.iter().map(String::as_str),
                ))
            }
        }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{}", self.prefix, name.strip_prefix(OWN).unwrap_or(name))
    }
}

impl TensorSource for Renamed<'_> {
    fn names(&self) -> Vec<String> {
        let own = self.inner.names().into_iter();
        own.filter_map(|name| Some(format!("{OWN}{}", name.strip_prefix(&self.prefix)?)))
            .collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        // towers are told by names that other publishers give theirs
        if !name.starts_with(OWN) {
            return None;
        }
        self.inner.shape(&self.name(name))
    }

    fn load(&self, name: &str) -> Result<HostTensor, WeightsError> {
        self.inner.load(&self.name(name))
    }

    fn stored_rows(&self, name: &str) -> Result<StoredRows, WeightsError> {
        self.inner.stored_rows(&self.name(name))
    }

    fn path(&self) -> &Path {
        self.inner.path()
    }
}
