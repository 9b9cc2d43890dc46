//! What a model is, from its settings and the headers of its files: no tensor is read, so that the size of a model does not matter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bifocal_data::Preprocess;
use serde::Serialize;
use serde_json::Value;

use crate::bundle::{BundleError, Located, MANIFEST, Manifest, REFERENCE, VisionPart, locate};
use crate::open::{TowerFacts, facts};
use crate::weights::gguf::{Gguf, GgufValue};
use crate::weights::{self, TensorSource, WeightsError};

/// Weights up to this size are hashed without being asked: it takes less than a second.
const HASHED: u64 = 1 << 30;

/// What a model is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inspection {
    /// Where it is.
    pub model: String,
    /// What describes it: `bundle`, `transformers clip`, `open_clip`, `GGUF llama`, `weights`.
    pub kind: String,
    /// Width of an embedding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_width: Option<usize>,
    /// Of a bundle: equal for two bundles exactly when they embed alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// What a bundle has beside its towers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Value>,
    /// The tower for pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vision_tower: Option<Tower>,
    /// The tower for texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_tower: Option<Tower>,
    /// The files of weights.
    pub weights: Vec<Weights>,
}

/// What a tower is; what its settings don't say is absent.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tower {
    /// Number of parameters.
    pub parameters: u64,
    /// What the settings say.
    #[serde(flatten)]
    pub facts: TowerFacts,
    /// From pictures to pixels, or from texts to one vector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preprocessing: Option<Preprocess>,
}

/// A file of weights, or several that belong together.
#[derive(Clone, Debug, Serialize)]
pub struct Weights {
    /// The files.
    pub files: Vec<PathBuf>,
    /// Their length.
    pub bytes: u64,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of values.
    pub parameters: u64,
    /// How many values are stored in which way.
    pub stored_as: BTreeMap<String, u64>,
    /// Hash of the content, where it was computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// Which weights are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashing {
    /// Those of up to 1 GiB.
    Small,
    /// All, however long it takes.
    All,
}

/// Looks at a bundle, a folder of a pretrained encoder, or a file of weights.
///
/// # Errors
/// [`BundleError`] with what is missing or damaged in settings and headers; tensors are not looked at.
pub fn inspect(path: &Path, hashing: Hashing) -> Result<Inspection, BundleError> {
    let mut found = if path.join(MANIFEST).is_file() {
        bundle(path, hashing)?
    } else {
        folder(path, hashing)?
    };
    found.model = path.display().to_string();
    Ok(found)
}

fn bundle(dir: &Path, hashing: Hashing) -> Result<Inspection, BundleError> {
    let manifest = Manifest::read(dir)?;
    let mut found = Inspection {
        kind: "bundle".to_owned(),
        embedding_width: Some(manifest.embed_dim),
        fingerprint: Some(manifest.fingerprint.clone()),
        bundle: Some(serde_json::json!({
            "method": manifest.method,
            "image_head": manifest.image_head,
            "text_head": manifest.text_head,
            "prompt": manifest.text.prompt,
            "logit_scale": manifest.logit_scale,
            "logit_bias": manifest.logit_bias,
            "licence": manifest.licence,
        })),
        ..Inspection::default()
    };
    let referred = |name: &str| match locate(name, Some(dir)) {
        Located::At(path) => folder(&path, hashing).map(Some),
        Located::Nowhere(_) => Ok(None),
    };
    let named = |tower: Option<Tower>, name: &str| {
        let mut tower = tower.unwrap_or_default();
        tower.facts.name = Some(name.to_owned());
        tower
    };
    let mut vision = match &manifest.vision {
        VisionPart::Pretrained(reference) => {
            let inside = referred(&reference.path)?.unwrap_or_default();
            found.weights.extend(inside.weights);
            named(inside.vision_tower, &reference.path)
        }
        VisionPart::Trained(own) => {
            let weights = weights_of(&dir.join(&own.file), hashing)?;
            let parameters = weights.parameters;
            found.weights.push(weights);
            Tower {
                parameters,
                facts: TowerFacts {
                    name: Some(own.file.clone()),
                    ..TowerFacts::default()
                },
                preprocessing: None,
            }
        }
    };
    vision.preprocessing = Some(manifest.preprocess.clone());
    found.vision_tower = Some(vision);
    let inside = referred(&manifest.text.pretrained.path)?.unwrap_or_default();
    let mut text = named(inside.text_tower, &manifest.text.pretrained.path);
    text.facts.pooling = Some(manifest.text.pooling);
    text.facts.attention = Some(manifest.text.attention);
    found.text_tower = Some(text);
    let known = |w: &Weights| found.weights.iter().any(|k| k.files == w.files);
    let new: Vec<Weights> = inside.weights.into_iter().filter(|w| !known(w)).collect();
    found.weights.extend(new);
    for file in manifest.files.keys().filter(|file| *file != REFERENCE) {
        let path = dir.join(file);
        if !found.weights.iter().any(|w| w.files.contains(&path)) {
            found.weights.push(weights_of(&path, hashing)?);
        }
    }
    Ok(found)
}

fn folder(path: &Path, hashing: Hashing) -> Result<Inspection, BundleError> {
    let source = weights::open(path)?;
    let facts = facts(path)?;
    let mut found = Inspection {
        kind: facts.kind,
        embedding_width: facts.embedding_width,
        ..Inspection::default()
    };
    let [vision, text] = parameters(&*source, facts.vision.is_some(), facts.text.is_some());
    found.vision_tower = facts.vision.map(|facts| Tower {
        parameters: vision,
        facts,
        preprocessing: None,
    });
    if let Some(tower) = &mut found.vision_tower {
        tower.preprocessing = facts.preprocess;
    }
    found.text_tower = facts.text.map(|facts| Tower {
        parameters: text,
        facts,
        preprocessing: None,
    });
    let files = weights::files(path)?;
    if let (None, [file]) = (&found.text_tower, files.as_slice())
        && let Some((kind, tower)) = language_model(file)?
    {
        found.kind = kind;
        found.embedding_width = tower.facts.width;
        found.text_tower = Some(Tower {
            parameters: text,
            ..tower
        });
    }
    found.weights.push(weights_from(path, &*source, hashing)?);
    Ok(found)
}

/// Parameters of the vision and of the text tower of one file.
fn parameters(source: &dyn TensorSource, vision: bool, text: bool) -> [u64; 2] {
    let mut count = [0, 0];
    for name in source.names() {
        let is_vision = match (vision, text) {
            (true, false) => true,
            (false, _) => false,
            (true, true) => crate::open::belongs_to_vision(&name),
        };
        if !crate::open::belongs_to_both(&name) {
            count[usize::from(!is_vision)] += values(source, &name);
        }
    }
    count
}

fn values(source: &dyn TensorSource, name: &str) -> u64 {
    source
        .shape(name)
        .unwrap_or_default()
        .iter()
        .map(|&n| n as u64)
        .product()
}

/// What a GGUF says of itself; `None` for other files.
fn language_model(file: &Path) -> Result<Option<(String, Tower)>, BundleError> {
    let mut head = [0; 4];
    let read = std::fs::File::open(file).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut head));
    if read.is_err() || &head != b"GGUF" {
        return Ok(None);
    }
    let gguf = Gguf::open(file)?;
    let architecture = gguf.require("general.architecture", GgufValue::as_str)?.to_owned();
    let number = |key: &str| -> Result<Option<usize>, WeightsError> {
        let value = gguf.optional(&format!("{architecture}.{key}"), GgufValue::as_u64)?;
        Ok(value.and_then(|n| usize::try_from(n).ok()))
    };
    let facts = TowerFacts {
        name: gguf.optional("general.name", GgufValue::as_str)?.map(str::to_owned),
        width: number("embedding_length")?,
        longest_text_in_tokens: number("context_length")?,
        pooling: Some(crate::text::Pooling::Mean),
        attention: Some(crate::text::Attention::Causal),
        ..TowerFacts::default()
    };
    let tower = Tower {
        parameters: 0,
        facts,
        preprocessing: None,
    };
    Ok(Some((format!("GGUF {architecture}"), tower)))
}

fn weights_of(path: &Path, hashing: Hashing) -> Result<Weights, BundleError> {
    weights_from(path, &*weights::open(path)?, hashing)
}

fn weights_from(path: &Path, source: &dyn TensorSource, hashing: Hashing) -> Result<Weights, BundleError> {
    let files = weights::files(path)?;
    let mut bytes = 0;
    for file in &files {
        bytes += file.metadata().map_err(BundleError::io(file))?.len();
    }
    let names = source.names();
    let mut stored_as = BTreeMap::new();
    for name in &names {
        let kind = source.stored_as(name).unwrap_or_else(|| "unknown".to_owned());
        *stored_as.entry(kind).or_default() += values(source, name);
    }
    let hashed = hashing == Hashing::All || bytes <= HASHED;
    let fingerprint = hashed.then(|| weights::fingerprint(path)).transpose()?;
    Ok(Weights {
        files,
        bytes,
        tensors: names.len(),
        parameters: stored_as.values().sum(),
        stored_as,
        fingerprint,
    })
}
