//! A model that embeds: a bundle, or a pretrained encoder by itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bifocal_data::Preprocess;
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::init::Rng;
use bifocal_nn::{Module, params};

use super::locate::list;
use super::{BundleError, FileEntry, Located, MANIFEST, Manifest, Reference, VisionPart, locate};
use crate::adapter::{Head, HeadConfig, normalize};
use crate::open::{TextEncoder, TextOptions, VisionEncoder, open_text, open_vision};
use crate::vision::VisionTower;
use crate::weights::safetensors::SafeTensors;
use crate::weights::{HostTensor, TensorSource, WeightsError, strict};

/// Rows that pass through a head at once.
const ROWS: usize = 1024;

/// Mean and standard deviation of each feature over the data that a head was trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct Standardize {
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Standardize {
    /// Statistics over rows, in f64; a feature that never changes keeps its scale.
    ///
    /// # Shapes
    /// `rows` `[n, dim]`.
    pub fn fit(rows: &[f32], dim: usize) -> Self {
        let n = (rows.len() / dim.max(1)).max(1) as f64;
        let mut mean = vec![0.0f64; dim];
        for row in rows.chunks_exact(dim.max(1)) {
            mean.iter_mut().zip(row).for_each(|(m, &v)| *m += f64::from(v) / n);
        }
        let mut variance = vec![0.0f64; dim];
        for row in rows.chunks_exact(dim.max(1)) {
            for ((s, &v), m) in variance.iter_mut().zip(row).zip(&mean) {
                *s += (f64::from(v) - m).powi(2) / n;
            }
        }
        let std = |v: f64| if v > 1e-12 { v.sqrt() as f32 } else { 1.0 };
        Self {
            mean: mean.into_iter().map(|m| m as f32).collect(),
            std: variance.into_iter().map(std).collect(),
        }
    }

    /// Shifts and scales rows in place.
    pub fn apply(&self, rows: &mut [f32]) {
        for row in rows.chunks_exact_mut(self.mean.len().max(1)) {
            for ((v, m), s) in row.iter_mut().zip(&self.mean).zip(&self.std) {
                *v = (*v - m) / s;
            }
        }
    }

    pub(super) fn tensors(&self) -> BTreeMap<String, HostTensor> {
        let vector = |data: &Vec<f32>| HostTensor {
            shape: vec![data.len()],
            data: data.clone(),
        };
        BTreeMap::from([
            ("mean".to_owned(), vector(&self.mean)),
            ("std".to_owned(), vector(&self.std)),
        ])
    }

    fn load(source: &dyn TensorSource, name: &str, dim: usize) -> Result<Self, WeightsError> {
        Ok(Self {
            mean: source.load_shaped(&format!("{name}.mean"), &[dim])?.data,
            std: source.load_shaped(&format!("{name}.std"), &[dim])?.data,
        })
    }
}

/// A head with what comes before it.
#[derive(Debug)]
struct Side {
    standardize: Option<Standardize>,
    head: Head,
}

impl Side {
    /// Tower features to embeddings.
    fn map(&self, mut features: Vec<f32>, dim: usize, unit: bool) -> Vec<f32> {
        if let Some(standardize) = &self.standardize {
            standardize.apply(&mut features);
        }
        if let (Head::Identity(_), false) = (&self.head, unit) {
            return features;
        }
        let mut out = Vec::with_capacity(features.len() / dim.max(1) * self.head.dim());
        for rows in features.chunks(ROWS * dim.max(1)) {
            let x = tensor(rows.to_vec(), [rows.len() / dim.max(1), dim]);
            let y = self.head.forward(x, None);
            out.extend(values(if unit { normalize(y) } else { y }));
        }
        out
    }
}

/// A model that embeds pictures, texts or both.
#[derive(Debug)]
pub struct Model {
    name: String,
    manifest: Option<Manifest>,
    fingerprint: String,
    dim: usize,
    vision: Option<(VisionEncoder, Side)>,
    text: Option<(TextEncoder, Side)>,
}

impl Model {
    /// Opens a bundle, or a pretrained encoder by itself. `options` are for language models; a bundle has its own.
    ///
    /// # Errors
    /// [`BundleError`] with what is missing, damaged or does not belong.
    pub fn open(path: &Path, options: &TextOptions) -> Result<Self, BundleError> {
        if path.join(MANIFEST).is_file() {
            return Self::load(path);
        }
        match open_text(path, options) {
            Ok(encoder) => Ok(Self::from_text(encoder)),
            Err(as_text) => match open_vision(path) {
                Ok(encoder) => Ok(Self::from_vision(encoder)),
                Err(_) => Err(as_text.into()),
            },
        }
    }

    /// Opens a bundle.
    ///
    /// # Errors
    /// [`BundleError`] with what is missing, damaged or does not belong.
    pub fn load(dir: &Path) -> Result<Self, BundleError> {
        let manifest = Manifest::read(dir)?;
        let heads = open_file(dir, &manifest, "heads.safetensors")?;
        let vision = load_vision(dir, &manifest)?;
        let text = load_text(dir, &manifest)?;
        let side = |name: &str, config: &HeadConfig, input: usize, standardized: bool| {
            let head = load_head(&heads, &format!("{name}_head"), config, input)?;
            if head.dim() != manifest.embed_dim {
                return Err(BundleError::Widths(format!(
                    "the {name} head gives {} values, the embedding has {}",
                    head.dim(),
                    manifest.embed_dim
                )));
            }
            let standardize = standardized.then(|| Standardize::load(&heads, name, input));
            Ok(Side {
                standardize: standardize.transpose()?,
                head,
            })
        };
        let image_side = side(
            "image",
            &manifest.image_head,
            vision.tower.dim(),
            manifest.standardize_image,
        )?;
        let text_side = side("text", &manifest.text_head, text.tower.dim(), manifest.standardize_text)?;
        Ok(Self {
            name: dir.display().to_string(),
            fingerprint: manifest.fingerprint.clone(),
            dim: manifest.embed_dim,
            vision: Some((vision, image_side)),
            text: Some((text, text_side)),
            manifest: Some(manifest),
        })
    }

    /// A text encoder by itself.
    pub fn from_text(encoder: TextEncoder) -> Self {
        let dim = encoder.tower.dim();
        let about = format!(
            "text {} {:?} {:?}",
            encoder.fingerprint, encoder.pooling, encoder.attention
        );
        Self {
            name: encoder.name.clone(),
            manifest: None,
            fingerprint: blake3::hash(about.as_bytes()).to_hex().to_string(),
            dim,
            text: Some((encoder, bare(dim))),
            vision: None,
        }
    }

    /// A vision encoder by itself.
    pub fn from_vision(encoder: VisionEncoder) -> Self {
        let dim = encoder.tower.dim();
        let about = format!("vision {} {}", encoder.fingerprint, encoder.preprocess.fingerprint());
        Self {
            name: encoder.name.clone(),
            manifest: None,
            fingerprint: blake3::hash(about.as_bytes()).to_hex().to_string(),
            dim,
            vision: Some((encoder, bare(dim))),
            text: None,
        }
    }

    /// Embeds texts as rows of unit length.
    ///
    /// # Shapes
    /// → `[texts, dim]`.
    ///
    /// # Errors
    /// [`BundleError`] when there is no text tower or it does not take a text.
    pub fn embed_texts(&self, texts: &[&str]) -> Result<Vec<f32>, BundleError> {
        self.text_rows(texts, true)
    }

    /// As [`Model::embed_texts`], with the lengths that the model gives.
    ///
    /// # Errors
    /// As [`Model::embed_texts`].
    pub fn embed_texts_raw(&self, texts: &[&str]) -> Result<Vec<f32>, BundleError> {
        self.text_rows(texts, false)
    }

    fn text_rows(&self, texts: &[&str], unit: bool) -> Result<Vec<f32>, BundleError> {
        let Some((encoder, side)) = &self.text else {
            return Err(BundleError::NoTower {
                name: self.name.clone(),
                side: "text",
                hint: "it embeds pictures only; to embed both, give a bundle that `bifocal train` wrote",
            });
        };
        let prompt = self.manifest.as_ref().and_then(|m| m.text.prompt.as_deref());
        let prompted: Vec<String>;
        let (features, dim) = match prompt {
            Some(prompt) => {
                prompted = texts.iter().map(|text| prompt.replace("{}", text)).collect();
                encoder.embed(&prompted.iter().map(String::as_str).collect::<Vec<_>>())?
            }
            None => encoder.embed(texts)?,
        };
        Ok(side.map(features, dim, unit))
    }

    /// Embeds preprocessed pictures as rows of unit length.
    ///
    /// # Shapes
    /// `pixels` `[n, size, size, 3]` as [`Model::preprocess`] gives them → `[n, dim]`.
    ///
    /// # Errors
    /// [`BundleError`] when there is no vision tower or the pixels are not of its size.
    pub fn embed_images(&self, pixels: &[f32], n: usize) -> Result<Vec<f32>, BundleError> {
        self.image_rows(pixels, n, true)
    }

    /// As [`Model::embed_images`], with the lengths that the model gives.
    ///
    /// # Errors
    /// As [`Model::embed_images`].
    pub fn embed_images_raw(&self, pixels: &[f32], n: usize) -> Result<Vec<f32>, BundleError> {
        self.image_rows(pixels, n, false)
    }

    fn image_rows(&self, pixels: &[f32], n: usize, unit: bool) -> Result<Vec<f32>, BundleError> {
        let Some((encoder, side)) = &self.vision else {
            return Err(BundleError::NoTower {
                name: self.name.clone(),
                side: "vision",
                hint: "it embeds texts only; to embed both, give a bundle that `bifocal train` wrote",
            });
        };
        let features = encoder.embed(pixels, n)?;
        Ok(side.map(features, encoder.tower.dim(), unit))
    }

    /// Where it came from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Width of an embedding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Equal for two models exactly when they embed alike; stored with embeddings.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// From files to pixels; `None` without a vision tower.
    pub fn preprocess(&self) -> Option<&Preprocess> {
        self.vision.as_ref().map(|(encoder, _)| &encoder.preprocess)
    }

    /// The text tower with its tokenizer.
    pub fn text(&self) -> Option<&TextEncoder> {
        self.text.as_ref().map(|(encoder, _)| encoder)
    }

    /// The vision tower.
    pub fn vision(&self) -> Option<&VisionEncoder> {
        self.vision.as_ref().map(|(encoder, _)| encoder)
    }

    /// The description of a bundle; `None` for an encoder by itself.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }
}

/// No head.
fn bare(width: usize) -> Side {
    let head = HeadConfig::default().build(width, &mut Rng::new(0));
    match head {
        Ok(head) => Side {
            standardize: None,
            head,
        },
        Err(error) => unreachable!("an identity head fits any tower: {error}"),
    }
}

/// Reads a file of a bundle after checking it against the description.
fn open_file(dir: &Path, manifest: &Manifest, name: &str) -> Result<SafeTensors, BundleError> {
    let path = dir.join(name);
    let damaged = |message: String| BundleError::Damaged {
        path: path.clone(),
        message,
    };
    let entry = manifest
        .files
        .get(name)
        .ok_or_else(|| damaged(format!("{MANIFEST} does not list it")))?;
    let length = std::fs::metadata(&path).map_err(BundleError::io(&path))?.len();
    if length != entry.bytes {
        return Err(damaged(format!("{length} bytes in place of {}", entry.bytes)));
    }
    let bytes = std::fs::read(&path).map_err(BundleError::io(&path))?;
    let found = FileEntry {
        bytes: bytes.len() as u64,
        blake3: blake3::hash(&bytes).to_hex().to_string(),
    };
    if found != *entry {
        return Err(damaged("its hash is another".to_owned()));
    }
    Ok(SafeTensors::from_bytes(&path, bytes)?)
}

fn load_head(source: &dyn TensorSource, prefix: &str, config: &HeadConfig, input: usize) -> Result<Head, BundleError> {
    let head = config.build(input, &mut Rng::new(0))?;
    lay_over(head, source, prefix)
}

/// Replaces all parameters of a module by those in a file.
fn lay_over<M: Module>(module: M, source: &dyn TensorSource, prefix: &str) -> Result<M, BundleError> {
    let loaded = params::load(module, |name, shape| {
        let name = if prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{prefix}.{name}")
        };
        source.load_shaped(&name, shape).map(|t| Some(t.data))
    });
    loaded.map_err(|error| match error {
        params::LoadError::Source(error) => error.into(),
        error @ params::LoadError::Length { .. } => BundleError::Widths(error.to_string()),
    })
}

fn load_vision(dir: &Path, manifest: &Manifest) -> Result<VisionEncoder, BundleError> {
    match &manifest.vision {
        VisionPart::Pretrained(reference) => {
            let path = find(dir, "vision", reference)?;
            let mut encoder = open_vision(&path)?;
            same("vision", &path, &encoder.fingerprint, reference)?;
            encoder.preprocess = manifest.preprocess.clone();
            Ok(encoder)
        }
        VisionPart::Trained(own) => {
            let source = open_file(dir, manifest, &own.file)?;
            Ok(VisionEncoder {
                tower: strict(&source, &[], |source| VisionTower::from_tensors(&own.config, source))?,
                preprocess: manifest.preprocess.clone(),
                fingerprint: manifest.fingerprint.clone(),
                name: dir.display().to_string(),
            })
        }
    }
}

fn load_text(dir: &Path, manifest: &Manifest) -> Result<TextEncoder, BundleError> {
    let part = &manifest.text;
    let path = find(dir, "text", &part.pretrained)?;
    let options = TextOptions {
        pooling: Some(part.pooling),
        attention: Some(part.attention),
    };
    let mut encoder = open_text(&path, &options)?;
    same("text", &path, &encoder.fingerprint, &part.pretrained)?;
    if let Some(file) = &part.trained {
        let source = open_file(dir, manifest, file)?;
        encoder.tower = strict(&source, &[], |source| lay_over(encoder.tower, source, ""))?;
    }
    Ok(encoder)
}

fn find(dir: &Path, side: &'static str, reference: &Reference) -> Result<PathBuf, BundleError> {
    match locate(&reference.path, Some(dir)) {
        Located::At(path) => Ok(path),
        Located::Nowhere(places) => Err(BundleError::TowerMissing {
            side,
            name: reference.path.clone(),
            looked: list(&places),
        }),
    }
}

fn same(side: &'static str, path: &Path, found: &str, reference: &Reference) -> Result<(), BundleError> {
    if found == reference.fingerprint {
        return Ok(());
    }
    Err(BundleError::OtherTower {
        side,
        path: path.to_owned(),
        found: found.to_owned(),
        expected: reference.fingerprint.clone(),
    })
}
