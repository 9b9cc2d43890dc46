//! Writing a bundle.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use bifocal_data::Preprocess;
use bifocal_nn::engine::scalar;

use super::load::original;
use super::manifest::FORMAT;
use super::{
    BundleError, ChatPart, FileEntry, MANIFEST, Manifest, Model, OwnTower, REFERENCE, Reference, Standardize, TextPart,
    VisionPart, reference,
};
use crate::adapter::HeadConfig;
use crate::load::host_tensors;
use crate::text::{Attention, Pooling};
use crate::towers::Towers;
use crate::weights::{HostTensor, write};
use bifocal_kernels::elements::Element;

/// A pretrained tower as a bundle refers to it.
#[derive(Clone, Debug)]
pub struct SaveTower {
    /// How it was named, and how it is to be found again.
    pub name: String,
    /// Where it was found.
    pub path: PathBuf,
    /// Hash of its weights.
    pub fingerprint: String,
    /// Whether it was trained: then what learnt is written.
    pub trained: bool,
}

/// What a bundle is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The method that trained it.
    pub method: &'a str,
    /// Under which terms it may be used.
    pub licence: Option<String>,
    /// Towers that were trained, heads, scale and bias. A tower that was not trained may be missing.
    pub towers: &'a Towers,
    /// The tower for pictures.
    pub vision: SaveTower,
    /// The tower for texts.
    pub text: SaveTower,
    /// How token vectors become one.
    pub pooling: Pooling,
    /// What a token of a language model sees.
    pub attention: Attention,
    /// The layer that is pooled; the last when `None`.
    pub layer: Option<usize>,
    /// The name of the pretrained tower's own prompt.
    pub prompt_name: Option<String>,
    /// A sentence with `{}` in which each text is put.
    pub prompt: Option<String>,
    /// From files to pixels.
    pub preprocess: Preprocess,
    /// How the image head is built.
    pub image_head: HeadConfig,
    /// How the text head is built.
    pub text_head: HeadConfig,
    /// Statistics of the image features.
    pub standardize_image: Option<&'a Standardize>,
    /// Statistics of the text features.
    pub standardize_text: Option<&'a Standardize>,
    /// For a model that talks: how.
    pub chat: Option<ChatPart>,
    /// Whether pretrained towers are copied into the bundle.
    pub copy_towers: bool,
}

/// Writes a bundle to a folder. A bundle that is there is replaced when the new one is whole on the disk; anything else that is
/// there is left alone.
///
/// # Errors
/// [`BundleError`]; what was there before is there still.
pub fn save(dir: &Path, parts: &Parts<'_>) -> Result<Manifest, BundleError> {
    if dir.exists() && !dir.join(MANIFEST).is_file() {
        return Err(BundleError::Manifest {
            path: dir.to_owned(),
            message: "is there already and is not a bundle; choose another place".to_owned(),
        });
    }
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(BundleError::io(parent))?;
    let unfinished = beside(dir, "unfinished");
    remove(&unfinished)?;
    fs::create_dir(&unfinished).map_err(BundleError::io(&unfinished))?;
    let mut manifest = write_all(&unfinished, parts)?;
    add_reference(&unfinished, &mut manifest)?;
    sync_dir(&unfinished)?;
    let old = beside(dir, "old");
    remove(&old)?;
    if dir.exists() {
        fs::rename(dir, &old).map_err(BundleError::io(dir))?;
    }
    if let Err(error) = fs::rename(&unfinished, dir) {
        if old.exists() {
            fs::rename(&old, dir).map_err(BundleError::io(dir))?;
        }
        return Err(BundleError::io(dir)(error));
    }
    sync_dir(parent)?;
    remove(&old)?;
    Ok(manifest)
}

pub(crate) fn beside(dir: &Path, what: &str) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    dir.with_file_name(format!(".{name}.{what}"))
}

pub(crate) fn remove(dir: &Path) -> Result<(), BundleError> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(BundleError::io(dir)(e)),
        _ => Ok(()),
    }
}

pub(crate) fn sync_dir(dir: &Path) -> Result<(), BundleError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(BundleError::io(dir))
}

/// What the bundle computes, as it will be read. A bundle whose towers cannot be opened from here is written without.
fn add_reference(dir: &Path, manifest: &mut Manifest) -> Result<(), BundleError> {
    let Ok(embeddings) = Model::load(dir).and_then(|model| reference::embeddings(&model)) else {
        return Ok(());
    };
    let entry = write_tensors(dir, REFERENCE, &embeddings)?;
    manifest.files.insert(REFERENCE.to_owned(), entry);
    write_manifest(dir, manifest)
}

pub(super) fn write_tensors(
    dir: &Path,
    name: &str,
    tensors: &BTreeMap<String, HostTensor>,
) -> Result<FileEntry, BundleError> {
    let bytes = write::bytes(tensors, Element::F32, None).map_err(|e| BundleError::Manifest {
        path: dir.to_owned(),
        message: format!("the weights cannot be written: {e}"),
    })?;
    write_file(&dir.join(name), &bytes)?;
    Ok(FileEntry {
        bytes: bytes.len() as u64,
        blake3: blake3::hash(&bytes).to_hex().to_string(),
    })
}

pub(super) fn write_manifest(dir: &Path, manifest: &Manifest) -> Result<(), BundleError> {
    let path = dir.join(MANIFEST);
    let mut text = serde_json::to_vec_pretty(manifest).map_err(|e| BundleError::Manifest {
        path: path.clone(),
        message: e.to_string(),
    })?;
    text.push(b'\n');
    write_file(&path, &text)
}

fn write_all(dir: &Path, parts: &Parts<'_>) -> Result<Manifest, BundleError> {
    let mut files = BTreeMap::new();
    let mut write = |name: &str, tensors: &BTreeMap<String, HostTensor>| {
        let entry = write_tensors(dir, name, tensors)?;
        files.insert(name.to_owned(), entry);
        Ok::<_, BundleError>(name.to_owned())
    };
    let mut heads = prefixed("image_head", host_tensors(&parts.towers.image_head));
    heads.extend(prefixed("text_head", host_tensors(&parts.towers.text_head)));
    if let Some(drawing) = &parts.towers.drawing {
        heads.extend(prefixed("drawing", host_tensors(drawing)));
    }
    for (name, statistics) in [("image", parts.standardize_image), ("text", parts.standardize_text)] {
        if let Some(statistics) = statistics {
            heads.extend(prefixed(name, statistics.tensors()));
        }
    }
    write("heads.safetensors", &heads)?;
    let text_trained = parts.text.trained && parts.towers.text.is_some();
    let [vision_from, text_from] = [
        original(&parts.vision, false, false)?,
        original(&parts.text, true, text_trained)?,
    ];
    // both towers may come from one folder
    let together = vision_from.path == text_from.path;
    let folders = if together { ["towers"; 2] } else { ["vision", "text"] };
    let vision = match &parts.towers.vision {
        Some(tower) if parts.vision.trained => VisionPart::Trained(OwnTower {
            config: tower.config(),
            file: write("vision.safetensors", &tower.tensors())?,
        }),
        _ => VisionPart::Pretrained(refer(dir, folders[0], &vision_from, parts.copy_towers)?),
    };
    let trained = match &parts.towers.text {
        Some(tower) if parts.text.trained => Some(write("text.safetensors", &host_tensors(tower))?),
        _ => None,
    };
    let text = TextPart {
        pretrained: refer(dir, folders[1], &text_from, parts.copy_towers)?,
        trained,
        pooling: parts.pooling,
        attention: parts.attention,
        layer: parts.layer,
        prompt_name: parts.prompt_name.clone(),
        prompt: parts.prompt.clone(),
    };
    let mut manifest = Manifest {
        format: FORMAT,
        method: parts.method.to_owned(),
        embed_dim: parts.towers.image_head.dim(),
        licence: parts.licence.clone(),
        vision,
        text,
        preprocess: parts.preprocess.clone(),
        image_head: parts.image_head.clone(),
        text_head: parts.text_head.clone(),
        standardize_image: parts.standardize_image.is_some(),
        standardize_text: parts.standardize_text.is_some(),
        logit_scale: scalar(parts.towers.logit_scale.val()).exp(),
        logit_bias: parts.towers.logit_bias.as_ref().map(|b| scalar(b.val())),
        chat: parts.chat.clone(),
        files,
        fingerprint: String::new(),
    };
    manifest.fingerprint = manifest.identity();
    write_manifest(dir, &manifest)?;
    Ok(manifest)
}

fn prefixed(prefix: &str, tensors: BTreeMap<String, HostTensor>) -> BTreeMap<String, HostTensor> {
    let name = |(name, tensor)| (format!("{prefix}.{name}"), tensor);
    tensors.into_iter().map(name).collect()
}

pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), BundleError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(BundleError::io(path))
}

/// Refers to a tower, or copies it to `dir/side` and refers to that.
fn refer(dir: &Path, side: &str, tower: &SaveTower, copy: bool) -> Result<Reference, BundleError> {
    let path = if copy {
        let target = dir.join(side);
        if !target.exists() {
            copy_tower(&tower.path, &target)?;
        }
        side.to_owned()
    } else {
        tower.name.clone()
    };
    Ok(Reference {
        path,
        fingerprint: tower.fingerprint.clone(),
    })
}

/// Copies a file into a folder, or a folder with its files and the folders directly in it.
fn copy_tower(from: &Path, to: &Path) -> Result<(), BundleError> {
    fs::create_dir_all(to).map_err(BundleError::io(to))?;
    let copy = |from: &Path, to: &Path| {
        fs::copy(from, to).map_err(BundleError::io(from))?;
        let file = File::open(to).and_then(|f| f.sync_all());
        file.map_err(BundleError::io(to))
    };
    if from.is_file() {
        copy(from, &to.join(from.file_name().unwrap_or_default()))?;
        return sync_dir(to);
    }
    for entry in fs::read_dir(from).map_err(BundleError::io(from))? {
        let path = entry.map_err(BundleError::io(from))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_file() {
            copy(&path, &target)?;
        } else if path.join("config.json").is_file() {
            // sentence-transformers keeps a module's settings in a folder of its own
            copy_tower(&path, &target)?;
        }
    }
    sync_dir(to)
}
