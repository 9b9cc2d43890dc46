//! From one layout to another: a folder or bundle as transformers, open_clip or Bifocal reads it.
//!
//! A checkpoint is opened as for embedding, which accounts for every tensor of it, and every parameter of the towers gets its name in
//! the new layout out of a family's table ([`clip`], [`siglip`]); a parameter without a name and a name without a parameter are errors.

mod clip;
mod names;
mod settings;
mod siglip;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bifocal_data::Preprocess;
use serde_json::Value;

use crate::adapter::HeadConfig;
use crate::bundle::save::{beside, remove, sync_dir, write_file};
use crate::bundle::{self, BundleError, MANIFEST, Model, Parts, SaveTower};
use crate::open::{TextEncoder, TextOptions, VisionEncoder};
use crate::text::{ClipTextConfig, TextFamily, TextTower};
use crate::tokenizer;
use crate::towers::Towers;
use crate::vision::{VisionTower, VitConfig, VitFamily};
use crate::weights::{self, HostTensor, WeightsError, write};
use bifocal_kernels::elements::Element;
use names::{Row, Unmatched, Whose, renamed};

/// A layout to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// transformers: `config.json`, `preprocessor_config.json`, `model.safetensors`.
    HuggingFace,
    /// The same for the vision tower by itself, which may have been trained with another text tower than its own.
    HuggingFaceVision,
    /// open_clip: `open_clip_config.json`, `open_clip_model.safetensors`.
    OpenClip,
    /// Bifocal's own, with the pretrained towers inside.
    Bundle,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Converted {
    /// Tensors under their new names; 0 for a bundle, which keeps the original files.
    pub tensors: usize,
    /// How they are stored.
    pub stored_as: &'static str,
    /// What the new layout says differently.
    pub notes: Vec<String>,
}

/// Why a model cannot be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The model cannot be opened, or a bundle not written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its weights cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Something stands where the result would go.
    #[error("{} is there already; choose another place", .0.display())]
    Exists(PathBuf),
    /// The layout has no place for a part of the model.
    #[error("{model}: {layout:?} has no place for {what}; keep it as a bundle, or take another layout")]
    NoPlace {
        /// The model.
        model: String,
        /// The layout asked for.
        layout: Layout,
        /// The part.
        what: String,
    },
    /// Names of a tower and of a layout that do not meet: a fault of Bifocal.
    #[error(
        "{model}: parameters without a name: {without_row:?}, names without a parameter: {without_tensor:?}, of another shape: {misshapen:?}; please report this"
    )]
    Names {
        /// The model.
        model: String,
        /// Parameters that the table does not know.
        without_row: Vec<String>,
        /// Names for which there is no parameter.
        without_tensor: Vec<String>,
        /// Parameters of a shape that cannot be.
        misshapen: Vec<String>,
    },
    /// A file cannot be made of the weights.
    #[error("{model}: the weights cannot be written: {message}")]
    Encode {
        /// The model.
        model: String,
        /// What is wrong.
        message: String,
    },
}

/// Files of a tokenizer that belong to any layout, beside a SentencePiece model.
const TOKENIZER: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
];

const HUGGING_FACE_WEIGHTS: &str = "model.safetensors";

/// What both layouts of a family of towers look like. An error is what a layout has no place for.
trait Family {
    /// Names of the vision tower's tensors.
    fn vision(&self) -> &'static [Row];
    /// Names of the text tower's tensors.
    fn text(&self) -> &'static [Row];
    /// The shape of scale and bias in transformers.
    fn scalar(&self) -> &'static [usize];
    /// The bias that transformers stores.
    fn bias(&self, bias: Option<f32>) -> Result<Option<f32>, String>;
    /// The vision tower in transformers' `config.json`, and its class when it is by itself.
    fn vision_settings(&self, vision: &VitConfig) -> (Value, &'static str);
    /// transformers' `config.json`.
    fn settings(&self, pair: &Pair) -> Value;
    /// transformers' `preprocessor_config.json`.
    fn processor(&self, preprocess: &Preprocess) -> Result<Value, String>;
    /// `model_cfg` in `open_clip_config.json`.
    fn model_cfg(&self, pair: &Pair) -> Result<Value, String>;
    /// What a layout says differently.
    fn notes(&self, pair: &Pair, whose: Whose) -> Vec<String>;
}

/// Both towers of a family.
struct Pair<'a> {
    vision: &'a VitConfig,
    text: &'a ClipTextConfig,
    encoder: &'a TextEncoder,
    /// What is added to similarities.
    bias: Option<f32>,
}

/// Converts the model at `from` into a new folder `to`, which appears whole or not at all.
///
/// # Errors
/// [`ConvertError`]: what the layout has no place for, and whatever keeps the model from being opened.
pub fn convert(from: &Path, to: &Path, layout: Layout) -> Result<Converted, ConvertError> {
    if to.exists() {
        return Err(ConvertError::Exists(to.to_owned()));
    }
    let model = Model::open(from, &TextOptions::default())?;
    let missing = |side, hint: &str| BundleError::NoTower {
        name: model.name().to_owned(),
        side,
        hint: hint.to_owned(),
    };
    let both = "a layout of two towers needs both";
    let vision = model.vision().ok_or_else(|| missing("vision", both))?;
    if layout == Layout::HuggingFaceVision {
        return vision_to_folder(&model, vision, to);
    }
    let text = model.text().ok_or_else(|| missing("text", both))?;
    match layout {
        Layout::Bundle => to_bundle(&model, text, vision, from, to),
        _ => to_folder(&model, text, vision, to, layout),
    }
}

fn no_place(model: &Model, layout: Layout, what: impl Into<String>) -> ConvertError {
    ConvertError::NoPlace {
        model: model.name().to_owned(),
        layout,
        what: what.into(),
    }
}

/// Both towers of a folder, as they are, in a bundle.
fn to_bundle(
    model: &Model,
    text: &TextEncoder,
    vision: &VisionEncoder,
    from: &Path,
    to: &Path,
) -> Result<Converted, ConvertError> {
    if model.manifest().is_some() {
        return Err(no_place(model, Layout::Bundle, "another bundle: it is one already"));
    }
    let identity = HeadConfig::default();
    let head = || identity.build(model.dim(), &mut bifocal_nn::init::Rng::new(0));
    let (image_head, text_head) = (head().map_err(BundleError::from)?, head().map_err(BundleError::from)?);
    let scale = model.scale();
    let tower = |fingerprint: &str| SaveTower {
        name: from.display().to_string(),
        path: from.to_owned(),
        fingerprint: fingerprint.to_owned(),
        trained: false,
    };
    let parts = Parts {
        method: "pretrained",
        licence: None,
        towers: &Towers::new(None, None, image_head, text_head, scale.log, scale.bias),
        vision: tower(&vision.fingerprint),
        text: tower(&text.fingerprint),
        pooling: text.pooling,
        attention: text.attention,
        prompt: None,
        prompt_name: None,
        layer: None,
        preprocess: vision.preprocess.clone(),
        image_head: identity.clone(),
        text_head: identity.clone(),
        standardize_image: None,
        standardize_text: None,
        chat: None,
        copy_towers: true,
    };
    bundle::save(to, &parts)?;
    Ok(Converted {
        tensors: 0,
        stored_as: "as they were",
        notes: vec![format!("both towers are inside, {MANIFEST} tells how they work")],
    })
}

/// The tower's sizes and family; otherwise what a layout has no place for.
fn vit(tower: &VisionTower) -> Result<(&VitConfig, &'static dyn Family), String> {
    let VisionTower::Vit(vit) = tower else {
        return Err("this kind of vision tower".into());
    };
    let config = vit.config();
    let family: &dyn Family = match config.family {
        VitFamily::Clip => &clip::Clip,
        VitFamily::SigLip => &siglip::SigLip,
        _ => return Err("this kind of vision tower".into()),
    };
    match config.trained_size {
        Some(trained) => Err(format!(
            "positions for {trained} pixels that are resized for {} each time",
            config.image_size
        )),
        None => Ok((config, family)),
    }
}

fn to_folder(
    model: &Model,
    text: &TextEncoder,
    vision: &VisionEncoder,
    to: &Path,
    layout: Layout,
) -> Result<Converted, ConvertError> {
    let refused = |what: String| no_place(model, layout, what);
    if let Some(what) = model.beside_towers(false) {
        return Err(refused(what.into()));
    }
    let (vit, family) = vit(&vision.tower).map_err(refused)?;
    let clip = match &text.tower {
        TextTower::Clip(clip) if (clip.config().family == TextFamily::SigLip) == (vit.family == VitFamily::SigLip) => {
            clip.config()
        }
        _ => {
            let what = "this kind of text tower beside this vision tower (of the latter by itself it has: hf-vision)";
            return Err(refused(what.into()));
        }
    };
    let whose = match layout {
        Layout::OpenClip => Whose::OpenClip,
        _ => Whose::HuggingFace,
    };
    let pair = Pair {
        vision: vit,
        text: clip,
        encoder: text,
        bias: model.scale().bias,
    };
    let mut tensors = named(model, vision.tower.tensors(), family.vision(), whose)?;
    tensors.extend(named(model, text.tower.tensors(), family.text(), whose)?);
    let (shape, bias) = match whose {
        Whose::HuggingFace => (family.scalar(), family.bias(pair.bias).map_err(refused)?),
        Whose::OpenClip => (&[][..], pair.bias),
    };
    let scalars = [("logit_scale", Some(model.scale().log)), ("logit_bias", bias)];
    tensors.extend(scalars.into_iter().filter_map(|(name, value)| {
        let tensor = HostTensor {
            shape: shape.to_vec(),
            data: vec![value?],
        };
        Some((name.to_owned(), tensor))
    }));
    let element = element(model, &tensors)?;
    let preprocess = &vision.preprocess;
    let (settings, weights_file) = if whose == Whose::OpenClip {
        let config = serde_json::json!({
            "model_cfg": family.model_cfg(&pair).map_err(refused)?,
            "preprocess_cfg": settings::preprocess_cfg(preprocess).map_err(refused)?,
        });
        (vec![("open_clip_config.json", config)], "open_clip_model.safetensors")
    } else {
        let processor = family.processor(preprocess).map_err(refused)?;
        (
            hugging_face(family.settings(&pair), processor, element),
            HUGGING_FACE_WEIGHTS,
        )
    };
    let content = Content {
        settings,
        weights_file,
        tensors: &tensors,
        element,
        tokenizer: model.sources().text.as_deref(),
    };
    write_folder(to, model, &content)?;
    Ok(Converted {
        tensors: tensors.len(),
        stored_as: element.name(),
        notes: family.notes(&pair, whose),
    })
}

/// The vision tower by itself for transformers.
fn vision_to_folder(model: &Model, vision: &VisionEncoder, to: &Path) -> Result<Converted, ConvertError> {
    let refused = |what: String| no_place(model, Layout::HuggingFaceVision, what);
    if let Some(what) = model.beside_towers(true) {
        return Err(refused(what.into()));
    }
    let (vit, family) = vit(&vision.tower).map_err(refused)?;
    let tensors = named(model, vision.tower.tensors(), family.vision(), Whose::HuggingFace)?;
    let element = element(model, &tensors)?;
    let (mut config, class) = family.vision_settings(vit);
    config["architectures"] = serde_json::json!([class]);
    let processor = family.processor(&vision.preprocess).map_err(refused)?;
    let content = Content {
        settings: hugging_face(config, processor, element),
        weights_file: HUGGING_FACE_WEIGHTS,
        tensors: &tensors,
        element,
        tokenizer: None,
    };
    write_folder(to, model, &content)?;
    Ok(Converted {
        tensors: tensors.len(),
        stored_as: element.name(),
        notes: vec![format!("transformers' class for it is {class}")],
    })
}

/// Tensors of a tower under the names of a layout.
fn named(
    model: &Model,
    own: BTreeMap<String, HostTensor>,
    table: &[Row],
    whose: Whose,
) -> Result<BTreeMap<String, HostTensor>, ConvertError> {
    renamed(own, table, whose).map_err(|unmatched: Unmatched| ConvertError::Names {
        model: model.name().to_owned(),
        without_row: unmatched.without_row,
        without_tensor: unmatched.without_tensor,
        misshapen: unmatched.misshapen,
    })
}

/// The settings files of transformers.
fn hugging_face(mut config: Value, processor: Value, element: Element) -> Vec<(&'static str, Value)> {
    let dtype = match element {
        Element::F16 => "float16",
        Element::Bf16 => "bfloat16",
        _ => "float32",
    };
    config["torch_dtype"] = dtype.into();
    vec![("config.json", config), ("preprocessor_config.json", processor)]
}

/// What all weights of the source are stored as, where that is a half: values that came from halves are halves again without loss.
fn element(model: &Model, tensors: &BTreeMap<String, HostTensor>) -> Result<Element, ConvertError> {
    let sources = model.sources();
    let (Some(path), true) = (&sources.vision, sources.vision == sources.text) else {
        return Ok(Element::F32);
    };
    let source = weights::open(path)?;
    let kinds: Vec<_> = source
        .names()
        .iter()
        .filter_map(|name| source.stored_as(name))
        .collect();
    let all = |kind: &str| kinds.iter().filter(|k| !k.starts_with(['I', 'U'])).all(|k| k == kind);
    let lossless = |to: fn(f32) -> f32| {
        let mut values = tensors.values().flat_map(|t| &t.data);
        values.all(|&v| to(v).to_bits() == v.to_bits())
    };
    if all("F16") && lossless(|v| half::f16::from_f32(v).to_f32()) {
        return Ok(Element::F16);
    }
    if all("BF16") && lossless(|v| half::bf16::from_f32(v).to_f32()) {
        return Ok(Element::Bf16);
    }
    Ok(Element::F32)
}

/// What a folder is made of.
struct Content<'a> {
    settings: Vec<(&'static str, Value)>,
    weights_file: &'static str,
    tensors: &'a BTreeMap<String, HostTensor>,
    element: Element,
    /// The folder that has the tokenizer.
    tokenizer: Option<&'a Path>,
}

/// Settings, weights and the tokenizer into a new folder that appears when it is whole.
fn write_folder(to: &Path, model: &Model, content: &Content<'_>) -> Result<(), ConvertError> {
    let bytes = write::bytes(content.tensors, content.element, Some("pt")).map_err(|e| ConvertError::Encode {
        model: model.name().to_owned(),
        message: e.to_string(),
    })?;
    let parent = to.parent().filter(|p| !p.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(BundleError::io(parent))?;
    let unfinished = beside(to, "unfinished");
    remove(&unfinished)?;
    fs::create_dir(&unfinished).map_err(BundleError::io(&unfinished))?;
    for (name, value) in &content.settings {
        write_file(&unfinished.join(name), format!("{value:#}\n").as_bytes())?;
    }
    write_file(&unfinished.join(content.weights_file), &bytes)?;
    if let Some(source) = content.tokenizer {
        for name in TOKENIZER.into_iter().chain(tokenizer::SENTENCE_PIECE) {
            let file = source.join(name);
            if file.is_file() {
                let content = fs::read(&file).map_err(BundleError::io(&file))?;
                write_file(&unfinished.join(name), &content)?;
            }
        }
    }
    sync_dir(&unfinished)?;
    fs::rename(&unfinished, to).map_err(BundleError::io(to))?;
    sync_dir(parent)?;
    Ok(())
}
