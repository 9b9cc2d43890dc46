//! What settings say of a model, without its weights.

use std::path::Path;

use bifocal_data::Preprocess;
use serde::Serialize;
use serde_json::Value;

use super::clip::{HuggingFace, OpenClip};
use super::sentence::Sentence;
use super::settings::Settings;
use super::vision::of_transformers;
use super::{Layout, OpenError, bert, settings, siglip};
use crate::blocks::Gelu;
use crate::text::{Attention, ClipTextConfig, Pooling, TextFamily};
use crate::vision::{LiteSize, VisionConfig};
use crate::weights;

/// What is known of a tower; absent where its settings don't say it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TowerFacts {
    /// What it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Width of its embeddings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Number of blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// Side of its pictures, in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// Side of a patch, in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<usize>,
    /// The longest text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_text_in_tokens: Option<usize>,
    /// Number of token ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<usize>,
    /// The activation of its feed-forward parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<String>,
    /// How token vectors become one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// What a token sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<Attention>,
}

/// What settings say of a model.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) kind: String,
    pub(crate) embedding_width: Option<usize>,
    pub(crate) vision: Option<TowerFacts>,
    pub(crate) text: Option<TowerFacts>,
    pub(crate) preprocess: Option<Preprocess>,
}

/// Reads the settings of a folder; a file of weights has none.
pub(crate) fn facts(path: &Path) -> Result<Facts, OpenError> {
    match Layout::of(path)? {
        Layout::HuggingFace(kind, settings) if bert::knows(&kind) => {
            let (config, _) = bert::config(settings, &kind)?;
            Ok(Facts {
                embedding_width: Some(config.width),
                text: Some(TowerFacts {
                    width: Some(config.width),
                    layers: Some(config.layers),
                    longest_text_in_tokens: Some(config.positions),
                    vocabulary: Some(config.vocabulary),
                    activation: Some("gelu".to_owned()),
                    pooling: Some(Sentence::read(path)?.pooling.unwrap_or(Pooling::Mean)),
                    attention: Some(Attention::Bidirectional),
                    ..TowerFacts::default()
                }),
                ..named(&kind)
            })
        }
        Layout::HuggingFace(kind, settings) => {
            let Some(mut facts) = pair(path, &kind, settings)? else {
                return other(path, &kind);
            };
            facts.kind = named(&kind).kind;
            Ok(facts)
        }
        Layout::OpenClip(settings) => {
            let mut open_clip = OpenClip::new(settings)?;
            let pictures = vision(&open_clip.vision()?);
            let texts = open_clip.text()?;
            Ok(Facts {
                kind: "open_clip".to_owned(),
                embedding_width: Some(texts.dim),
                text: Some(text(&texts)),
                preprocess: match pictures.image_size {
                    Some(side) => Some(open_clip.preprocess(side)?),
                    None => None,
                },
                vision: Some(pictures),
            })
        }
        Layout::Bare => bare(path),
    }
}

/// The towers of CLIP, SigLIP or DINOv2 in transformers; `None` for another architecture.
fn pair(path: &Path, kind: &str, settings: Settings) -> Result<Option<Facts>, OpenError> {
    let Layout::HuggingFace(_, again) = Layout::of(path)? else {
        return Err(OpenError::malformed(path, "it changed while it was read"));
    };
    let mut facts = Facts::default();
    if let Some((config, preprocess)) = of_transformers(path, settings, kind)? {
        facts.embedding_width = Some(config.dim);
        facts.vision = Some(vision(&VisionConfig::Vit(config)));
        facts.preprocess = Some(preprocess);
    }
    let config = match kind {
        "clip" | "clip_text_model" => Some(HuggingFace::new(again, kind)?.text()?),
        _ if siglip::is_text(kind) => Some(siglip::text(again, kind)?.0),
        _ => None,
    };
    if let Some(config) = config {
        facts.embedding_width = Some(config.dim);
        facts.text = Some(text(&config));
    }
    Ok((facts.vision.is_some() || facts.text.is_some()).then_some(facts))
}

fn named(model_type: &str) -> Facts {
    Facts {
        kind: format!("transformers {model_type}"),
        ..Facts::default()
    }
}

fn activation(gelu: Gelu) -> Option<String> {
    let name = match gelu {
        Gelu::Quick => "quick_gelu",
        Gelu::Erf => "gelu",
        Gelu::Tanh => "gelu_pytorch_tanh",
    };
    Some(name.to_owned())
}

fn vision(config: &VisionConfig) -> TowerFacts {
    match config {
        VisionConfig::Vit(config) => TowerFacts {
            width: Some(config.dim),
            layers: Some(config.stack.layers),
            image_size: Some(config.image_size),
            patch: Some(config.patch),
            activation: activation(config.stack.gelu),
            ..TowerFacts::default()
        },
        VisionConfig::ResNet(config) => TowerFacts {
            width: Some(config.dim),
            image_size: Some(config.image_size),
            ..TowerFacts::default()
        },
        VisionConfig::EfficientNetLite { size, .. } => TowerFacts {
            name: Some(format!("EfficientNet-{size:?}")),
            width: Some(1280),
            image_size: Some(size.image_size()),
            ..TowerFacts::default()
        },
    }
}

fn text(config: &ClipTextConfig) -> TowerFacts {
    TowerFacts {
        width: Some(config.dim),
        layers: Some(config.stack.layers),
        longest_text_in_tokens: Some(config.positions),
        vocabulary: Some(config.vocabulary),
        activation: activation(config.stack.gelu),
        pooling: Some(match config.family {
            TextFamily::Clip => Pooling::Eos,
            TextFamily::SigLip => Pooling::Last,
        }),
        attention: Some(match config.family {
            TextFamily::Clip => Attention::Causal,
            TextFamily::SigLip => Attention::Bidirectional,
        }),
        ..TowerFacts::default()
    }
}

/// An architecture whose settings are only looked through: what transformers calls most things.
fn other(path: &Path, kind: &str) -> Result<Facts, OpenError> {
    let file = path.join("config.json");
    let bytes = settings::bytes(&file)?.unwrap_or_default();
    let config: Value = serde_json::from_slice(&bytes).map_err(|e| OpenError::malformed(&file, e))?;
    let tower = |config: &Value| {
        let number = |key: &str| config[key].as_u64().and_then(|n| usize::try_from(n).ok());
        TowerFacts {
            width: number("hidden_size"),
            layers: number("num_hidden_layers"),
            image_size: number("image_size"),
            patch: number("patch_size"),
            longest_text_in_tokens: number("max_position_embeddings"),
            vocabulary: number("vocab_size"),
            activation: config["hidden_act"].as_str().map(str::to_owned),
            ..TowerFacts::default()
        }
    };
    let nested = |key: &str| config[key].is_object().then(|| tower(&config[key]));
    let mut facts = named(kind);
    (facts.vision, facts.text) = (nested("vision_config"), nested("text_config"));
    if facts.vision.is_none() && facts.text.is_none() {
        let alone = tower(&config);
        facts.embedding_width = alone.width;
        if alone.image_size.is_some() {
            facts.vision = Some(alone);
        } else {
            facts.text = Some(alone);
        }
    }
    Ok(facts)
}

/// Weights without settings: an EfficientNet is known by its names.
fn bare(path: &Path) -> Result<Facts, OpenError> {
    let mut facts = Facts {
        kind: "weights".to_owned(),
        ..Facts::default()
    };
    let source = weights::open(path)?;
    if source.shape("_conv_stem.weight").is_some() {
        let size = LiteSize::of(&*source);
        let tower = vision(&VisionConfig::EfficientNetLite { size, classes: 0 });
        facts.embedding_width = tower.width;
        // the five sizes are all far below 2³²
        facts.preprocess = Some(Preprocess::efficientnet_lite(size.image_size() as u32));
        facts.vision = Some(tower);
    }
    Ok(facts)
}
