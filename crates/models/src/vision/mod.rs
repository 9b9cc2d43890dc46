//! Vision towers: from preprocessed pixels to one vector per image.

mod conv_norm;
mod efficientnet_lite;
mod resnet;
mod vit;

pub use efficientnet_lite::{EfficientNetLite, LiteSize};
pub use resnet::{ResNet, ResNetConfig};
pub use vit::{AttentionPool, CodeCache, CodeOptions, CodesError, ImageSizeError, Vit, VitConfig, VitFamily};

use std::collections::BTreeMap;

use bifocal_nn::engine::tensor;
use bifocal_nn::{Module, Tensor, trace};
use serde::{Deserialize, Serialize};

use crate::load::transpose;
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
    /// Wraps images of one size; `None` when the number of values is not `n·height·width·3`, or there are no pixels.
    ///
    /// # Shapes
    /// `pixels` `[n, height, width, 3]`, row-major.
    pub fn new(pixels: Vec<f32>, n: usize, height: usize, width: usize) -> Option<Self> {
        let rows = n.checked_mul(height)?.checked_mul(width)?;
        (rows > 0 && pixels.len() == rows.checked_mul(3)?).then(|| Self {
            n,
            height,
            width,
            pixels: tensor(pixels, [rows, 3]),
        })
    }

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
    /// EfficientNet-Lite; its sizes are fixed.
    #[serde(alias = "efficient-net-lite0")] // as bundles called it when there was no other
    EfficientNetLite {
        /// Which of the five.
        #[serde(default)]
        size: LiteSize,
        /// Number of classes of its classifier; 0 when it has none.
        classes: usize,
    },
    /// A vision transformer.
    #[serde(alias = "clip-vit")] // as bundles called it when there was no other
    Vit(VitConfig),
    /// CLIP's residual network.
    ResNet(ResNetConfig),
}

/// A vision tower.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // there are one or two in a process
pub enum VisionTower {
    /// EfficientNet-Lite (Tan & Le 2019; the Lite variant without squeeze-and-excitation and with ReLU6).
    EfficientNetLite(EfficientNetLite),
    /// A vision transformer (Dosovitskiy et al. 2021).
    Vit(Vit),
    /// CLIP's residual network (Radford et al. 2021).
    ResNet(ResNet),
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
        let _span = trace::span("vision tower");
        match self {
            Self::EfficientNetLite(tower) => tower.embed(images),
            Self::Vit(tower) => tower.embed(images),
            Self::ResNet(tower) => tower.embed(images),
        }
    }

    /// As [`VisionTower::embed`], for images of several sizes, in their order. A tower that reads any size takes them all at once, without
    /// padding.
    ///
    /// # Shapes
    /// → `[n of all, dim]`; at least one batch.
    ///
    /// # Panics
    /// As [`VisionTower::embed`], and without images.
    pub fn embed_all(&self, batches: &[ImageBatch]) -> Tensor<2> {
        match self {
            Self::Vit(tower) => {
                let _span = trace::span("vision tower");
                tower.embed_all(batches)
            }
            _ => Tensor::cat(batches.iter().map(|images| self.embed(images)).collect(), 0),
        }
    }

    /// The vectors of all tokens after some of the blocks, for those who read an image before it is pooled: numbered as transformers'
    /// `hidden_states`, 0 is what the first block reads, k what block k gives; no final norm. `None` for a tower without blocks of
    /// tokens, and beyond [`VisionTower::layers`].
    ///
    /// # Shapes
    /// → `[n·tokens, width]`: class token and registers first, where there are any, then patches row by row, without those that are left out in training.
    ///
    /// # Panics
    /// As [`VisionTower::embed`].
    pub fn hidden(&self, images: &ImageBatch, layer: usize) -> Option<Tensor<2>> {
        match self {
            Self::EfficientNetLite(_) | Self::ResNet(_) => None,
            Self::Vit(tower) => tower.hidden(images, layer),
        }
    }

    /// The vectors of all patches as they leave the last layer (in training without those that are left out), before any norm or pooling, and how many an
    /// image has; `None` for a tower that has none. A convolutional tower's are the places of its last map.
    ///
    /// # Shapes
    /// → `[n·patches, width]`, row by row.
    ///
    /// # Panics
    /// As [`VisionTower::embed`].
    pub fn patches(&self, images: &ImageBatch) -> Option<(Tensor<2>, usize)> {
        match self {
            Self::EfficientNetLite(tower) => Some(tower.patches(images)),
            Self::Vit(tower) => tower.patches(images),
            Self::ResNet(_) => None,
        }
    }

    /// Width of what [`VisionTower::patches`] gives.
    pub fn patch_width(&self) -> Option<usize> {
        match self {
            Self::EfficientNetLite(tower) => Some(tower.dim()),
            Self::Vit(tower) => Some(tower.config().stack.width),
            Self::ResNet(_) => None,
        }
    }

    /// How many tokens images become in training, where patches may be left out: what [`bifocal_nn::noise::Noise::after`] counts when a batch is run in
    /// parts. 0 for a tower of convolutions alone, in which there is no dropout.
    pub fn tokens(&self, images: &ImageBatch) -> usize {
        images.n
            * match self {
                Self::EfficientNetLite(_) => 0,
                Self::ResNet(tower) => tower.config().grid() * tower.config().grid() + 1,
                Self::Vit(tower) => {
                    let patch = tower.config().patch;
                    let patches = images.height / patch * (images.width / patch);
                    tower.config().tokens(tower.patches_in_training(patches))
                }
            }
    }

    /// See [`Vit::with_patch_dropout`]; `None` for a tower that has no patches of pixels to leave out.
    pub fn with_patch_dropout(self, share: f64) -> Option<Self> {
        match self {
            Self::Vit(tower) => tower.with_patch_dropout(share).map(Self::Vit),
            Self::EfficientNetLite(_) | Self::ResNet(_) => None,
        }
    }

    /// The tower as one that reads codes, if it does.
    pub fn token_encoder(&self) -> Option<&Vit> {
        match self {
            Self::Vit(tower) if tower.codec().is_some() => Some(tower),
            _ => None,
        }
    }

    /// See [`Vit::with_bidirectional`].
    #[must_use]
    pub fn with_bidirectional(self, bidirectional: bool) -> Self {
        match self {
            Self::Vit(tower) => Self::Vit(tower.with_bidirectional(bidirectional)),
            other => other,
        }
    }

    /// Number of transformer blocks; 0 for a convolutional tower.
    pub fn layers(&self) -> usize {
        match self {
            Self::EfficientNetLite(_) | Self::ResNet(_) => 0,
            Self::Vit(tower) => tower.config().stack.layers,
        }
    }

    /// The same tower for squares of another size; see [`Vit::with_image_size`]. A convolutional tower reads any size as it is.
    ///
    /// # Errors
    /// [`ImageSizeError`] for a side that it cannot read.
    pub fn with_image_size(self, side: usize) -> Result<Self, ImageSizeError> {
        Ok(match self {
            Self::EfficientNetLite(tower) => Self::EfficientNetLite(tower),
            Self::Vit(tower) => Self::Vit(tower.with_image_size(side)?),
            Self::ResNet(tower) if tower.config().image_size == side => Self::ResNet(tower),
            Self::ResNet(_) => {
                let problem =
                    "the positions of its attention pool are for one size; take a checkpoint of the size you need";
                return Err(ImageSizeError { side, problem });
            }
        })
    }

    /// The tower without the projection at its end, for a new one to be trained; only vision transformers have one that comes off.
    #[must_use]
    pub fn without_projection(self) -> Self {
        match self {
            Self::Vit(tower) => Self::Vit(tower.without_projection()),
            other => other,
        }
    }

    /// Width of an embedding.
    pub fn dim(&self) -> usize {
        match self {
            Self::EfficientNetLite(tower) => tower.dim(),
            Self::Vit(tower) => tower.config().dim,
            Self::ResNet(tower) => tower.config().dim,
        }
    }

    /// Side of the square that the tower reads, in pixels.
    pub fn image_size(&self) -> usize {
        match self {
            Self::EfficientNetLite(tower) => tower.size().image_size(),
            Self::Vit(tower) => tower.config().image_size,
            Self::ResNet(tower) => tower.config().image_size,
        }
    }

    /// What the tower is, apart from its weights.
    pub fn config(&self) -> VisionConfig {
        match self {
            Self::EfficientNetLite(tower) => VisionConfig::EfficientNetLite {
                size: tower.size(),
                classes: tower.classes(),
            },
            Self::Vit(tower) => VisionConfig::Vit(tower.config().clone()),
            Self::ResNet(tower) => VisionConfig::ResNet(tower.config().clone()),
        }
    }

    /// All parameters and, for batch normalisation, the frozen statistics, by name: what [`VisionTower::from_tensors`]
    /// reads.
    pub fn tensors(&self) -> BTreeMap<String, HostTensor> {
        match self {
            Self::EfficientNetLite(tower) => tower.tensors(),
            Self::Vit(tower) => tower.tensors(),
            Self::ResNet(tower) => tower.tensors(),
        }
    }

    /// Loads a tower from a published checkpoint, by the names of those who published it; see [`Vit::load`], [`ResNet::load`],
    /// [`EfficientNetLite::load`].
    ///
    /// # Errors
    /// [`WeightsError`] when the sizes cannot be, a tensor is missing or has another shape.
    pub fn load(config: VisionConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        Ok(match config {
            VisionConfig::EfficientNetLite { .. } => Self::EfficientNetLite(EfficientNetLite::load(source)?),
            VisionConfig::Vit(config) => Self::Vit(Vit::load(config, source)?),
            VisionConfig::ResNet(config) => Self::ResNet(ResNet::load(config, source)?),
        })
    }

    /// Builds a tower from what [`VisionTower::config`] and [`VisionTower::tensors`] gave.
    ///
    /// # Errors
    /// [`WeightsError`] when a tensor is missing or has another shape.
    pub fn from_tensors(config: &VisionConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        Ok(match config {
            VisionConfig::EfficientNetLite { size, classes } => {
                Self::EfficientNetLite(EfficientNetLite::from_tensors(*size, *classes, source)?)
            }
            VisionConfig::ResNet(config) => Self::ResNet(ResNet::from_tensors(config.clone(), source)?),
            VisionConfig::Vit(config) => Self::Vit(Vit::from_tensors(config.clone(), source)?),
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
