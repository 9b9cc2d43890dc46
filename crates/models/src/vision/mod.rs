//! Vision towers: from preprocessed pixels to one vector per image.

mod clip_vit;
mod efficientnet_lite;

pub use clip_vit::{ClipVit, ClipVitConfig};
pub use efficientnet_lite::EfficientNetLite;

use std::collections::BTreeMap;

use bifocal_nn::engine::tensor;
use bifocal_nn::{Module, Tensor};
use serde::{Deserialize, Serialize};

use crate::load::{host_tensors, transpose};
use crate::weights::{HostTensor, TensorSource, WeightsError};

/// Images of one size, preprocessed, channels last.
#[derive(Clone, Debug)]
pub struct ImageBatch {
    /// Number of images.
    pub n: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// `[n·height·width, 3]`.
    pub pixels: Tensor<2>,
}

impl ImageBatch {
    /// Wraps square images; `None` when the number of values is not `n·side·side·3`.
    ///
    /// # Shapes
    /// `pixels` `[n, side, side, 3]`, row-major.
    pub fn square(pixels: Vec<f32>, n: usize, side: usize) -> Option<Self> {
        let rows = n.checked_mul(side)?.checked_mul(side)?;
        (pixels.len() == rows.checked_mul(3)?).then(|| Self {
            n,
            height: side,
            width: side,
            pixels: tensor(pixels, [rows, 3]),
        })
    }
}

/// What a vision tower is, apart from its weights: enough to build it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum VisionConfig {
    /// EfficientNet-Lite0; its sizes are fixed.
    EfficientNetLite0 {
        /// Number of classes of its classifier; 0 when it has none.
        classes: usize,
    },
    /// CLIP's vision transformer.
    ClipVit(ClipVitConfig),
}

/// A vision tower.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // there are one or two in a process
pub enum VisionTower {
    /// EfficientNet-Lite (Tan & Le 2019; the Lite variant without squeeze-and-excitation and with ReLU6).
    EfficientNetLite(EfficientNetLite),
    /// CLIP's vision transformer (Radford et al. 2021).
    ClipVit(ClipVit),
}

impl VisionTower {
    /// One vector per image, not normalised.
    ///
    /// # Shapes
    /// → `[n, dim]`.
    ///
    /// # Panics
    /// When the images do not have [`VisionTower::image_size`] (a vision transformer) or no pixels at all.
    pub fn embed(&self, images: &ImageBatch) -> Tensor<2> {
        match self {
            Self::EfficientNetLite(tower) => tower.embed(images),
            Self::ClipVit(tower) => tower.embed(images),
        }
    }

    /// Width of an embedding.
    pub fn dim(&self) -> usize {
        match self {
            Self::EfficientNetLite(tower) => tower.dim(),
            Self::ClipVit(tower) => tower.dim(),
        }
    }

    /// Side of the square that the tower reads, in pixels.
    pub fn image_size(&self) -> usize {
        match self {
            Self::EfficientNetLite(tower) => tower.image_size(),
            Self::ClipVit(tower) => tower.image_size(),
        }
    }

    /// What the tower is, apart from its weights.
    pub fn config(&self) -> VisionConfig {
        match self {
            Self::EfficientNetLite(tower) => VisionConfig::EfficientNetLite0 {
                classes: tower.classes(),
            },
            Self::ClipVit(tower) => VisionConfig::ClipVit(tower.config().clone()),
        }
    }

    /// All parameters and, for batch normalisation, the frozen statistics, by name: what [`VisionTower::from_tensors`]
    /// reads.
    pub fn tensors(&self) -> BTreeMap<String, HostTensor> {
        match self {
            Self::EfficientNetLite(tower) => tower.tensors(),
            Self::ClipVit(tower) => host_tensors(tower),
        }
    }

    /// Builds a tower from what [`VisionTower::config`] and [`VisionTower::tensors`] gave.
    ///
    /// # Errors
    /// [`WeightsError`] when a tensor is missing or has another shape.
    pub fn from_tensors(config: &VisionConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        Ok(match config {
            VisionConfig::EfficientNetLite0 { classes } => {
                Self::EfficientNetLite(EfficientNetLite::from_tensors(*classes, source)?)
            }
            VisionConfig::ClipVit(config) => Self::ClipVit(ClipVit::from_tensors(config.clone(), source)?),
        })
    }
}

/// A convolution's weight as PyTorch stores it, `[out, in, k, k]`, with the input channels last.
///
/// # Shapes
/// → `[out, k·k·in]`.
pub(crate) fn channels_last(stored: &[f32], out: usize, input: usize, kernel: usize) -> Tensor<2> {
    let area = kernel * kernel;
    let rows = stored
        .chunks_exact((input * area).max(1))
        .flat_map(|filter| transpose(filter, input, area))
        .collect();
    tensor(rows, [out, area * input])
}
