//! Vision encoders.

use std::path::Path;

use bifocal_data::{Preprocess, ResizeMode};
use bifocal_nn::engine::values;

use super::clip::{self, OpenClip};
use super::settings::Settings;
use super::{Layout, OpenError, TEXT_PARTS, dinov2, identity, load, name_of, preprocess, siglip};
use crate::connector::Tap;
use crate::vision::{EfficientNetLite, ImageBatch, VisionConfig, VisionTower, VitConfig};
use crate::weights;

/// Images that pass through a tower at once, at most.
const IMAGES: usize = 32;
/// Tokens that pass through a transformer at once: eight images of 224 pixels in patches of 14, all of [`IMAGES`] in patches of 32, which take a fifth longer eight by eight.
const TOKENS: usize = 2048;
/// What an image counts of a convolutional tower whose activations are large.
const CONVOLUTIONS: usize = 256;

/// A vision tower and what turns pictures into what it reads.
#[derive(Debug)]
pub struct VisionEncoder {
    /// The tower.
    pub tower: VisionTower,
    /// From pictures to pixels.
    pub preprocess: Preprocess,
    /// Hash of the weights and of settings that change what it computes.
    pub fingerprint: String,
    /// What to call it.
    pub name: String,
}

impl VisionEncoder {
    /// Embeds preprocessed pictures; rows are not normalised.
    ///
    /// # Shapes
    /// `pixels` `[n, size, size, 3]` → `[n, dim]`, row-major.
    ///
    /// # Errors
    /// [`OpenError::Pixels`] when the number of values is another.
    pub fn embed(&self, pixels: &[f32], n: usize) -> Result<Vec<f32>, OpenError> {
        let mut out = Vec::with_capacity(n.saturating_mul(self.tower.dim()));
        self.batches(pixels, n, |batch| {
            out.extend(values(self.tower.embed_all(batch)));
            Ok(())
        })?;
        Ok(out)
    }

    /// The vectors of all tokens of preprocessed pictures after some of the blocks; see [`VisionTower::hidden`].
    ///
    /// # Shapes
    /// `pixels` `[n, size, size, 3]` → `[n·tokens, width]`, row-major.
    ///
    /// # Errors
    /// [`OpenError::Pixels`] when the number of values is another, [`OpenError::Layer`] when there is no such layer.
    pub fn hidden(&self, pixels: &[f32], n: usize, layer: usize) -> Result<Vec<f32>, OpenError> {
        let mut out = Vec::new();
        self.batches(pixels, n, |batch| {
            for images in batch {
                let rows = self.tower.hidden(images, layer).ok_or_else(|| OpenError::Layer {
                    name: self.name.clone(),
                    layer,
                    layers: self.tower.layers(),
                })?;
                out.extend(values(rows));
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// The vectors of all patches of preprocessed pictures, how many a picture has, and their width; see [`VisionTower::patches`].
    ///
    /// # Shapes
    /// `pixels` `[n, size, size, 3]` → `[n·patches, width]`, row-major.
    ///
    /// # Errors
    /// [`OpenError::Pixels`] when the number of values is another, [`OpenError::Layer`] for a tower without patches.
    pub fn patches(&self, pixels: &[f32], n: usize) -> Result<(Vec<f32>, usize, usize), OpenError> {
        let (mut out, mut each, mut width) = (Vec::new(), 0, 0);
        self.batches(pixels, n, |batch| {
            for images in batch {
                let (rows, patches) = self.tower.patches(images).ok_or_else(|| OpenError::Layer {
                    name: self.name.clone(),
                    layer: 0,
                    layers: 0,
                })?;
                (each, width) = (patches, rows.dims()[1]);
                out.extend(values(rows));
            }
            Ok(())
        })?;
        Ok((out, each, width))
    }

    /// As [`VisionEncoder::patches`], from another place of the tower.
    ///
    /// # Errors
    /// [`OpenError::Pixels`] when the number of values is another, [`OpenError::Layer`] for a tower without patches or without that layer.
    pub fn tapped(&self, tap: &Tap, pixels: &[f32], n: usize) -> Result<(Vec<f32>, usize, usize), OpenError> {
        let (mut out, mut each, mut width) = (Vec::new(), 0, 0);
        self.batches(pixels, n, |batch| {
            for images in batch {
                let (rows, patches) = tap.read(&self.tower, images).ok_or_else(|| OpenError::Layer {
                    name: self.name.clone(),
                    layer: usize::try_from(tap.layer.unsigned_abs()).unwrap_or(usize::MAX),
                    layers: self.tower.layers(),
                })?;
                (each, width) = (patches, rows.dims()[1]);
                out.extend(values(rows));
            }
            Ok(())
        })?;
        Ok((out, each, width))
    }

    /// Codes of preprocessed pictures, for a tower that reads them; see [`Vit::codes`](crate::vision::Vit::codes).
    ///
    /// # Shapes
    /// `pixels` `[n, size, size, 3]` → `[n·codes]`.
    ///
    /// # Errors
    /// [`OpenError::Pixels`] when the number of values is another, [`OpenError::Layer`] for a tower that reads pixels.
    pub fn codes(&self, pixels: &[f32], n: usize) -> Result<Vec<u32>, OpenError> {
        let mut out = Vec::new();
        self.batches(pixels, n, |batch| {
            for images in batch {
                let tower = self.tower.token_encoder();
                let codes = tower
                    .and_then(|tower| tower.codes(images))
                    .ok_or_else(|| self.no_tokens())?;
                out.extend_from_slice(&codes);
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// All tokens of preprocessed pictures after the final norm; see [`Vit::features`](crate::vision::Vit::features).
    ///
    /// # Shapes
    /// `pixels` `[n, size, size, 3]` → `[n·tokens, width]`, row-major.
    ///
    /// # Errors
    /// [`OpenError::Pixels`] when the number of values is another, [`OpenError::Layer`] for a tower that is no vision transformer.
    pub fn features(&self, pixels: &[f32], n: usize) -> Result<Vec<f32>, OpenError> {
        let mut out = Vec::new();
        self.batches(pixels, n, |batch| {
            for images in batch {
                let rows = match &self.tower {
                    VisionTower::Vit(tower) => tower.features(images),
                    _ => None,
                };
                out.extend(values(rows.ok_or_else(|| self.no_tokens())?));
            }
            Ok(())
        })?;
        Ok(out)
    }

    fn no_tokens(&self) -> OpenError {
        OpenError::Layer {
            name: self.name.clone(),
            layer: 0,
            layers: 0,
        }
    }

    /// The same encoder for pictures of another size; what is cut off at the margin keeps its share. See
    /// [`VisionTower::with_image_size`].
    ///
    /// # Errors
    /// [`OpenError::ImageSize`] for a side that the tower cannot read.
    pub fn with_image_size(self, side: u32) -> Result<Self, OpenError> {
        let scaled = |resize_to: u32| {
            let scaled = f64::from(resize_to) * f64::from(side) / f64::from(self.preprocess.size.max(1));
            (scaled.round() as u32).max(side)
        };
        let resize = match self.preprocess.resize {
            ResizeMode::ShortestThenCrop { resize_to } => ResizeMode::ShortestThenCrop {
                resize_to: scaled(resize_to),
            },
            ResizeMode::SquashThenCrop { resize_to } => ResizeMode::SquashThenCrop {
                resize_to: scaled(resize_to),
            },
            ResizeMode::Patches { patch, .. } => ResizeMode::Patches {
                patch,
                most: (side / patch.max(1)).saturating_pow(2).max(1),
            },
            other => other,
        };
        Ok(Self {
            tower: self.tower.with_image_size(side as usize)?,
            preprocess: Preprocess {
                size: side,
                resize,
                ..self.preprocess
            },
            ..self
        })
    }

    /// Calls `each` with a few pictures at a time: one batch of them, or for a tower that reads any size one batch a picture.
    fn batches(
        &self,
        pixels: &[f32],
        n: usize,
        mut each: impl FnMut(&[ImageBatch]) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        let side = self.preprocess.size as usize;
        let wrong = || OpenError::Pixels {
            found: pixels.len(),
            images: n,
            side,
        };
        let per_image = self.preprocess.values();
        if n.checked_mul(per_image) != Some(pixels.len()) || side != self.expected_side() {
            return Err(wrong());
        }
        let any_size = matches!(self.preprocess.resize, ResizeMode::Patches { .. });
        let tokens = match &self.tower {
            // it works band by band
            VisionTower::EfficientNetLite(_) => 1,
            VisionTower::ResNet(_) => CONVOLUTIONS,
            VisionTower::Vit(tower) => tower.tokens_of_a_picture(),
        };
        let images = (TOKENS / tokens.max(1)).clamp(1, IMAGES);
        for chunk in pixels.chunks(images * per_image.max(1)) {
            let batch: Option<Vec<ImageBatch>> = if any_size {
                let pictures = chunk
                    .chunks_exact(per_image)
                    .map(|values| self.preprocess.picture(values));
                pictures
                    .map(|picture| picture.and_then(|(h, w, pixels)| ImageBatch::new(pixels.to_vec(), 1, h, w)))
                    .collect()
            } else {
                ImageBatch::square(chunk.to_vec(), chunk.len() / per_image, side).map(|batch| vec![batch])
            };
            each(&batch.ok_or_else(wrong)?)?;
        }
        Ok(())
    }

    /// A tower with a table of positions reads the size that the table is for; a convolutional tower reads any size.
    fn expected_side(&self) -> usize {
        match &self.tower {
            VisionTower::EfficientNetLite(_) => self.preprocess.size as usize,
            tower => tower.image_size(),
        }
    }
}

/// What TokLIP's files have and its code does not use: the embedding of patches, and how often codes were chosen.
const TOKLIP_UNUSED: [&str; 2] = ["visual.trunk.vq.quantize.codebook_used", "visual.trunk.patch_embed."];

/// Opens a vision encoder: an EfficientNet-Lite as a file of weights (or a folder with one); CLIP and SigLIP as a folder in
/// the layout of transformers or of open_clip, DINOv2 in that of transformers, EVA02-CLIP, TokLIP and CLIP's residual networks in that of open_clip.
/// How many patches its training left out (open_clip's `patch_dropout`) is nothing that it goes on with: see [`Vit::with_patch_dropout`](crate::vision::Vit::with_patch_dropout).
///
/// # Errors
/// [`OpenError`] with what is missing, damaged or not supported.
pub fn open_vision(path: &Path) -> Result<VisionEncoder, OpenError> {
    let none = |found: String| OpenError::NoEncoder {
        path: path.to_owned(),
        side: "vision",
        found,
        advice: "an EfficientNet-Lite (.pth), or the folder of a CLIP, SigLIP or DINOv2 with its config.json or open_clip_config.json",
    };
    match Layout::of(path)? {
        Layout::HuggingFace(kind, settings) => {
            let Some((config, preprocess)) = of_transformers(path, settings, &kind)? else {
                return Err(none(format!("its config.json describes a \"{kind}\"")));
            };
            let [first, second] = preprocess::FILES;
            let tower = load(path, &TEXT_PARTS, |source| {
                VisionTower::load(VisionConfig::Vit(config), source)
            })?;
            finish(path, tower, preprocess, &["config.json", first, second])
        }
        Layout::OpenClip(settings) => {
            let mut open_clip = OpenClip::new(settings)?;
            let config = open_clip.vision()?;
            let unread = [&TEXT_PARTS[..], &TOKLIP_UNUSED].concat();
            let tower = load(path, &unread, |source| VisionTower::load(config, source))?;
            let side = tower.image_size();
            finish(path, tower, open_clip.preprocess(side)?, &["open_clip_config.json"])
        }
        Layout::Bare => {
            let source = weights::open(path)?;
            if source.shape("_conv_stem.weight").is_none() {
                let first = source.names().into_iter().next().unwrap_or_default();
                return Err(none(format!("weights without settings, the first of them \"{first}\"")));
            }
            let tower = weights::strict(&*source, &[], EfficientNetLite::load)?;
            Ok(VisionEncoder {
                // the five sizes are all far below 2³²
                preprocess: Preprocess::efficientnet_lite(tower.size().image_size() as u32),
                tower: VisionTower::EfficientNetLite(tower),
                fingerprint: identity(path, &[])?,
                name: name_of(path),
            })
        }
    }
}

/// The vision tower that a `config.json` of transformers describes, and what it reads; `None` when it describes no tower that we know.
pub(super) fn of_transformers(
    path: &Path,
    settings: Settings,
    kind: &str,
) -> Result<Option<(VitConfig, Preprocess)>, OpenError> {
    Ok(Some(match kind {
        "clip" | "clip_vision_model" => clip::vision(path, settings, kind)?,
        siglip::BOTH | siglip::VISION => siglip::vision(path, settings, kind)?,
        siglip::NAFLEX | siglip::NAFLEX_VISION => siglip::naflex(path, settings, kind)?,
        dinov2::PLAIN | dinov2::REGISTERS => dinov2::vision(path, settings, kind)?,
        _ => return Ok(None),
    }))
}

pub(super) fn finish(
    path: &Path,
    tower: VisionTower,
    preprocess: Preprocess,
    settings: &[&str],
) -> Result<VisionEncoder, OpenError> {
    Ok(VisionEncoder {
        tower: tower.with_image_size(preprocess.size as usize)?,
        preprocess,
        fingerprint: identity(path, settings)?,
        name: name_of(path),
    })
}
