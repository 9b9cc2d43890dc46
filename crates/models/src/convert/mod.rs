//! From one layout to another: a folder or bundle as transformers, open_clip or Bifocal reads it.
//!
//! A checkpoint is opened as for embedding, which accounts for every tensor of it, and every parameter of the towers gets its name in
//! the new layout out of one table ([`names`]); a parameter without a name and a name without a parameter are errors.

mod names;
mod settings;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::adapter::HeadConfig;
use crate::bundle::save::{beside, remove, sync_dir, write_file};
use crate::bundle::{self, BundleError, MANIFEST, Model, Parts, SaveTower};
use crate::open::{TextEncoder, TextOptions, VisionEncoder};
use crate::text::{TextFamily, TextTower};
use crate::towers::Towers;
use crate::vision::{VisionTower, VitFamily};
use crate::weights::elements::Element;
use crate::weights::{self, HostTensor, WeightsError, write};
use names::{CLIP_TEXT, CLIP_VIT, Unmatched, Whose, renamed};

/// A layout to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// transformers: `config.json`, `preprocessor_config.json`, `model.safetensors`.
    HuggingFace,
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

/// Files of a tokenizer that belong to any layout.
const TOKENIZER: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
];

/// Converts the model at `from` into a new folder `to`, which appears whole or not at all.
///
/// # Errors
/// [`ConvertError`]: what the layout has no place for, and whatever keeps the model from being opened.
pub fn convert(from: &Path, to: &Path, layout: Layout) -> Result<Converted, ConvertError> {
    if to.exists() {
        return Err(ConvertError::Exists(to.to_owned()));
    }
    let model = Model::open(from, &TextOptions::default())?;
    let (Some(text), Some(vision)) = (model.text(), model.vision()) else {
        let side = if model.text().is_some() { "vision" } else { "text" };
        return Err(BundleError::NoTower {
            name: model.name().to_owned(),
            side,
            hint: "a layout of two towers needs both".to_owned(),
        }
        .into());
    };
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
        copy_towers: true,
    };
    bundle::save(to, &parts)?;
    Ok(Converted {
        tensors: 0,
        stored_as: "as they were",
        notes: vec![format!("both towers are inside, {MANIFEST} tells how they work")],
    })
}

fn to_folder(
    model: &Model,
    text: &TextEncoder,
    vision: &VisionEncoder,
    to: &Path,
    layout: Layout,
) -> Result<Converted, ConvertError> {
    if let Some(what) = model.beside_towers() {
        return Err(no_place(model, layout, what));
    }
    let vit = match &vision.tower {
        VisionTower::Vit(vit) if vit.config().family == VitFamily::Clip => vit,
        _ => return Err(no_place(model, layout, "this kind of vision tower")),
    };
    let clip = match &text.tower {
        TextTower::Clip(clip) if clip.config().family == TextFamily::Clip => clip,
        _ => return Err(no_place(model, layout, "this kind of text tower")),
    };
    let whose = match layout {
        Layout::OpenClip => Whose::OpenClip,
        _ => Whose::HuggingFace,
    };
    let name = |unmatched: Unmatched| ConvertError::Names {
        model: model.name().to_owned(),
        without_row: unmatched.without_row,
        without_tensor: unmatched.without_tensor,
        misshapen: unmatched.misshapen,
    };
    let mut tensors = renamed(vision.tower.tensors(), CLIP_VIT, whose).map_err(name)?;
    tensors.extend(renamed(text.tower.tensors(), CLIP_TEXT, whose).map_err(name)?);
    let scalar = |value: f32| HostTensor {
        shape: Vec::new(),
        data: vec![value],
    };
    tensors.insert("logit_scale".into(), scalar(model.scale().log));
    if let Some(bias) = model.scale().bias {
        if layout == Layout::HuggingFace {
            return Err(no_place(model, layout, "a bias of similarities"));
        }
        tensors.insert("logit_bias".into(), scalar(bias));
    }
    let element = element(model, &tensors)?;
    let preprocess = &vision.preprocess;
    let refused = |what: String| no_place(model, layout, what);
    let mut settings: Vec<(&str, Value)> = Vec::new();
    let weights_file = if layout == Layout::OpenClip {
        let config = settings::open_clip(vit.config(), clip.config(), preprocess).map_err(refused)?;
        settings.push(("open_clip_config.json", config));
        "open_clip_model.safetensors"
    } else {
        let dtype = match element {
            Element::F16 => "float16",
            Element::Bf16 => "bfloat16",
            _ => "float32",
        };
        let special = text.tokenizer.special();
        settings.push((
            "config.json",
            settings::hugging_face(vit.config(), clip.config(), special, dtype),
        ));
        settings.push((
            "preprocessor_config.json",
            settings::processor(preprocess).map_err(refused)?,
        ));
        "model.safetensors"
    };
    let bytes = write::bytes(&tensors, element, Some("pt")).map_err(|e| ConvertError::Encode {
        model: model.name().to_owned(),
        message: e.to_string(),
    })?;
    write_folder(to, model, &settings, (weights_file, &bytes))?;
    Ok(Converted {
        tensors: tensors.len(),
        stored_as: element.name(),
        notes: notes(layout),
    })
}

fn notes(layout: Layout) -> Vec<String> {
    let crop = "an odd margin of a picture is cut as this layout's own preprocessing does, which may move the crop by one pixel";
    let mut notes = vec![crop.to_owned()];
    if layout == Layout::OpenClip {
        notes.push("open_clip uses CLIP's own tokenizer unless text_cfg names another (hf_tokenizer_name)".to_owned());
    }
    notes
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

/// Settings, weights and the tokenizer into a new folder that appears when it is whole.
fn write_folder(
    to: &Path,
    model: &Model,
    settings: &[(&str, Value)],
    (weights_file, bytes): (&str, &[u8]),
) -> Result<(), ConvertError> {
    let parent = to.parent().filter(|p| !p.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(BundleError::io(parent))?;
    let unfinished = beside(to, "unfinished");
    remove(&unfinished)?;
    fs::create_dir(&unfinished).map_err(BundleError::io(&unfinished))?;
    for (name, value) in settings {
        write_file(&unfinished.join(name), format!("{value:#}\n").as_bytes())?;
    }
    write_file(&unfinished.join(weights_file), bytes)?;
    if let Some(source) = &model.sources().text {
        for name in TOKENIZER {
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
