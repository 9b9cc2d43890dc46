//! A model that embeds: a bundle, or a pretrained encoder by itself.

use std::path::{Path, PathBuf};

use bifocal_data::Preprocess;
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::precision::{self, Precision};
use bifocal_nn::{Module, params, pool};

use super::heads::{self, Side};
use super::load::{load_text, load_vision};
use super::{BundleError, FileEntry, MANIFEST, Manifest, TextSide, VisionSide};
use crate::adapter::{HeadKind, normalize};
use crate::open::{OpenError, TextEncoder, TextOptions, VisionEncoder, open_text, open_vision};
use crate::weights::safetensors::SafeTensors;
use crate::weights::{self, TensorSource, WeightsError};

/// What to do when a tower is missing.
const BOTH: &str = "to embed both, give a bundle that `bifocal train` wrote, or the folder of a CLIP";

/// A model that embeds pictures, texts or both.
#[derive(Debug)]
pub struct Model {
    name: String,
    pub(super) manifest: Option<Manifest>,
    fingerprint: String,
    dim: usize,
    vision: Option<(VisionEncoder, Side)>,
    pub(super) text: Option<(TextEncoder, Side)>,
    scale: Scale,
    /// Where the towers came from.
    sources: Sources,
    /// Why the other tower is not there, for an encoder by itself.
    absent: Option<String>,
    /// What products of its towers multiply.
    precision: Precision,
}

/// Where the pretrained towers of a model are; for a tower that was trained, nowhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    pub(crate) vision: Option<PathBuf>,
    pub(crate) text: Option<PathBuf>,
}

/// What a pair of towers does with similarities.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// The logarithm of what they are multiplied by, as files store it.
    pub(crate) log: f32,
    /// What is then added.
    pub(crate) bias: Option<f32>,
}

impl Scale {
    /// As the weights of a CLIP have it; 1 when they have none.
    pub(super) fn of_weights(path: &Path) -> Result<Self, WeightsError> {
        let source = weights::open(path)?;
        let one = |name: &str| match source.shape(name) {
            Some(shape) if shape.iter().product::<usize>() == 1 => Ok(source.load(name)?.data.first().copied()),
            _ => Ok::<_, WeightsError>(None),
        };
        Ok(Self {
            log: one("logit_scale")?.unwrap_or(0.0),
            bias: one("logit_bias")?,
        })
    }

    /// A bundle stores what similarities are multiplied by; the logarithm that its towers' file has is the same one where it fits.
    fn of_bundle(manifest: &Manifest, sources: &Sources) -> Self {
        let original = sources
            .vision
            .as_ref()
            .filter(|vision| sources.text.as_ref() == Some(vision));
        let original = original.and_then(|path| Self::of_weights(path).ok());
        Self {
            log: match original {
                Some(original) if original.log.exp() == manifest.logit_scale => original.log,
                _ => manifest.logit_scale.ln(),
            },
            bias: manifest.logit_bias,
        }
    }
}

impl Model {
    /// Opens a bundle, a folder with both towers of a CLIP, or a pretrained encoder by itself. `options` are for language
    /// models; a bundle has its own.
    ///
    /// # Errors
    /// [`BundleError`] with what is missing, damaged or does not belong.
    pub fn open(path: &Path, options: &TextOptions) -> Result<Self, BundleError> {
        if path.join(MANIFEST).is_file() {
            return Self::load(path);
        }
        let absent = |error: &OpenError| matches!(error, OpenError::NoEncoder { .. });
        match pool::both(|| open_text(path, options), || open_vision(path)) {
            (Ok(text), Ok(vision)) if text.tower.dim() == vision.tower.dim() => Self::joint(path, text, vision),
            (Ok(text), Ok(_)) => Ok(Self::from_text(text)),
            (Ok(text), Err(error)) if absent(&error) => Ok(Self::from_text(text)),
            (Ok(_), Err(error)) => Err(error.into()),
            // pictures can be embedded without a tokenizer
            (Err(error @ OpenError::Tokenizer(_)), Ok(vision)) => Ok(Self {
                absent: Some(error.to_string()),
                ..Self::from_vision(vision)
            }),
            (Err(error), Ok(vision)) if absent(&error) => Ok(Self::from_vision(vision)),
            (Err(error), Ok(_)) => Err(error.into()),
            (Err(text), Err(vision)) => Err(if absent(&text) && !absent(&vision) {
                vision
            } else {
                text
            }
            .into()),
        }
    }

    /// Both towers of one checkpoint, whose embeddings are in one space.
    fn joint(path: &Path, text: TextEncoder, vision: VisionEncoder) -> Result<Self, BundleError> {
        let dim = text.tower.dim();
        let scale = Scale::of_weights(path)?;
        let about = format!(
            "joint {} {:?} {:?} {} {}",
            text.fingerprint,
            text.pooling,
            text.attention,
            vision.fingerprint,
            vision.preprocess.fingerprint()
        );
        Ok(Self {
            name: path.display().to_string(),
            manifest: None,
            fingerprint: blake3::hash(about.as_bytes()).to_hex().to_string(),
            dim,
            vision: Some((vision, Side::bare(dim))),
            text: Some((text, Side::bare(dim))),
            scale,
            sources: Sources {
                vision: Some(path.to_owned()),
                text: Some(path.to_owned()),
            },
            absent: None,
            precision: Precision::F32,
        })
    }

    /// Opens a bundle.
    ///
    /// # Errors
    /// [`BundleError`] with what is missing, damaged or does not belong.
    pub fn load(dir: &Path) -> Result<Self, BundleError> {
        let manifest = Manifest::read(dir)?;
        if manifest.chat.is_some() {
            return Err(BundleError::Manifest {
                path: dir.to_owned(),
                message: "is a model that talks about pictures and embeds nothing; use it with `bifocal chat`"
                    .to_owned(),
            });
        }
        let heads = open_file(dir, &manifest, "heads.safetensors")?;
        let (vision, text) = pool::both(|| load_vision(dir, &manifest), || load_text(dir, &manifest));
        let ((vision, vision_source), (text, text_source)) = (vision?, text?);
        let sources = Sources {
            vision: vision_source,
            text: Some(text_source),
        };
        let seen = match manifest.image_head.kind {
            HeadKind::Patches => vision.tower.patch_width().unwrap_or_default(),
            _ => vision.tower.dim(),
        };
        let (image_side, text_side) = heads::load(&heads, &manifest, [seen, text.tower.dim()])?;
        Ok(Self {
            name: dir.display().to_string(),
            fingerprint: manifest.fingerprint.clone(),
            dim: manifest.embed_dim,
            vision: Some((vision, image_side)),
            text: Some((text, text_side)),
            scale: Scale::of_bundle(&manifest, &sources),
            sources,
            absent: None,
            precision: Precision::F32,
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
            text: Some((encoder, Side::bare(dim))),
            vision: None,
            scale: Scale { log: 0.0, bias: None },
            sources: Sources::default(),
            absent: None,
            precision: Precision::F32,
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
            vision: Some((encoder, Side::bare(dim))),
            text: None,
            scale: Scale { log: 0.0, bias: None },
            sources: Sources::default(),
            absent: None,
            precision: Precision::F32,
        }
    }

    /// The same model with products of that precision in its towers: f32 when it is opened. Its fingerprint stays, and so does what is kept under it: rows differ by
    /// rounding only. Heads are small, and stay f32.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// What products of its towers multiply.
    pub fn precision(&self) -> Precision {
        self.precision
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

    /// As [`Model::embed_texts`], from what the text tower has made of the texts already (in the model's prompt, if it has one).
    ///
    /// # Shapes
    /// `features` `[texts, width of the tower]` → `[texts, dim]`.
    ///
    /// # Errors
    /// [`BundleError`] when there is no text tower, or the features are not of its width.
    pub fn embed_text_features(&self, features: Vec<f32>) -> Result<Vec<f32>, BundleError> {
        let Some((encoder, side)) = &self.text else {
            return Err(self.no_text());
        };
        let width = encoder.tower.dim();
        if !features.len().is_multiple_of(width.max(1)) {
            return Err(BundleError::Widths(format!(
                "{} values are not rows of the {width} that the text tower gives",
                features.len()
            )));
        }
        Ok(side.map(features, width, true))
    }

    /// Whether what the vision tower makes of a picture is a row of its own, so that it can be kept and given to
    /// [`Model::embed_image_features`]; a head that reads patches has no such row.
    pub fn keeps_image_features(&self) -> bool {
        self.vision.as_ref().is_some_and(|(_, side)| !side.head.reads_patches())
    }

    /// As [`Model::embed_images`], from what the vision tower has made of the pictures already.
    ///
    /// # Shapes
    /// `features` `[pictures, width of the tower]` → `[pictures, dim]`.
    ///
    /// # Errors
    /// [`BundleError`] when there is no vision tower, its head reads patches, or the features are not of its width.
    pub fn embed_image_features(&self, features: Vec<f32>) -> Result<Vec<f32>, BundleError> {
        let Some((encoder, side)) = self.vision.as_ref().filter(|(_, side)| !side.head.reads_patches()) else {
            return Err(BundleError::NoTower {
                name: self.name.clone(),
                side: "vision",
                hint: format!("features of whole pictures cannot be used; {BOTH}"),
            });
        };
        let width = encoder.tower.dim();
        if !features.len().is_multiple_of(width.max(1)) {
            return Err(BundleError::Widths(format!(
                "{} values are not rows of the {width} that the vision tower gives",
                features.len()
            )));
        }
        Ok(side.map(features, width, true))
    }

    pub(super) fn no_text(&self) -> BundleError {
        BundleError::NoTower {
            name: self.name.clone(),
            side: "text",
            hint: match &self.absent {
                Some(error) => error.clone(),
                None => format!("it embeds pictures only; {BOTH}"),
            },
        }
    }

    fn text_rows(&self, texts: &[&str], unit: bool) -> Result<Vec<f32>, BundleError> {
        self.token_rows(&self.tokenize(texts)?, unit)
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
        pool::pass(|| self.image_rows_here(pixels, n, unit))
    }

    fn image_rows_here(&self, pixels: &[f32], n: usize, unit: bool) -> Result<Vec<f32>, BundleError> {
        let Some((encoder, side)) = &self.vision else {
            return Err(BundleError::NoTower {
                name: self.name.clone(),
                side: "vision",
                hint: format!("it embeds texts only; {BOTH}"),
            });
        };
        if side.head.reads_patches() {
            let (patches, each, width) = precision::scope(self.precision, || encoder.patches(pixels, n))?;
            let rows = side.head.over_patches(tensor(patches, [n * each, width]), each, false);
            return Ok(values(if unit { normalize(rows) } else { rows }));
        }
        let features = precision::scope(self.precision, || encoder.embed(pixels, n))?;
        Ok(side.map(features, encoder.tower.dim(), unit))
    }

    /// The vision side alone.
    pub(super) fn into_vision_side(self) -> Result<VisionSide, BundleError> {
        let (name, log_scale) = (self.name, self.scale.log);
        let config = self.manifest.map(|m| m.image_head);
        match self.vision {
            Some((
                encoder,
                Side {
                    head,
                    standardize: None,
                },
            )) => Ok(VisionSide {
                encoder,
                head: config.map(|config| (head, config)),
                log_scale: Some(log_scale),
            }),
            Some(_) => Err(BundleError::Standardized { name }),
            None => Err(BundleError::NoTower {
                name,
                side: "vision",
                hint: BOTH.to_owned(),
            }),
        }
    }

    /// The text side alone.
    pub(super) fn into_text_side(self) -> Result<TextSide, BundleError> {
        let name = self.name;
        let (config, prompt) = self
            .manifest
            .map_or((None, None), |m| (Some(m.text_head), m.text.prompt));
        match self.text {
            Some((
                encoder,
                Side {
                    head,
                    standardize: None,
                },
            )) => Ok(TextSide {
                encoder,
                head: config.map(|config| (head, config)),
                prompt,
            }),
            Some(_) => Err(BundleError::Standardized { name }),
            None => Err(BundleError::NoTower {
                name,
                side: "text",
                hint: BOTH.to_owned(),
            }),
        }
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

    /// What similarities are multiplied by; 1 for an encoder by itself.
    pub fn logit_scale(&self) -> f32 {
        match &self.manifest {
            Some(manifest) => manifest.logit_scale,
            None => self.scale.log.exp(),
        }
    }

    pub(crate) fn scale(&self) -> Scale {
        self.scale
    }

    pub(crate) fn sources(&self) -> &Sources {
        &self.sources
    }

    /// What this model does beside its tower for pictures or, unless `vision_only`, both, and a checkpoint of towers cannot express; `None`
    /// if nothing.
    pub(crate) fn beside_towers(&self, vision_only: bool) -> Option<&'static str> {
        let headed = |side: Option<&Side>| side.is_some_and(Side::has_head);
        let standardized = |side: Option<&Side>| side.is_some_and(|side| side.standardize.is_some());
        let text = self.text.as_ref().filter(|_| !vision_only);
        let sides = [self.vision.as_ref().map(|v| &v.1), text.map(|t| &t.1)];
        if sides.into_iter().any(headed) {
            Some("its heads")
        } else if sides.into_iter().any(standardized) {
            Some("the standardisation of its features")
        } else if !vision_only && self.manifest.as_ref().is_some_and(|m| m.text.prompt.is_some()) {
            Some("the prompt around its texts")
        } else {
            None
        }
    }

    /// The description of a bundle; `None` for an encoder by itself.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }
}

/// Reads a file of a bundle after checking it against the description.
pub(super) fn open_file(dir: &Path, manifest: &Manifest, name: &str) -> Result<SafeTensors, BundleError> {
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

/// Replaces all parameters of a module by those in a file.
pub(super) fn lay_over<M: Module>(module: M, source: &dyn TensorSource, prefix: &str) -> Result<M, BundleError> {
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
