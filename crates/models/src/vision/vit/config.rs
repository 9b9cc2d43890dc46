//! Sizes of vision transformers.

use bifocal_nn::engine::tensor;
use serde::{Deserialize, Serialize};

use crate::blocks::{Rotation, StackConfig, check_sizes};
use crate::weights::{TensorSource, WeightsError};

/// What sets the families apart, other than sizes and what is inside their blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VitFamily {
    /// A class token; a norm before the blocks; the class token projected (Radford et al. 2021).
    #[default]
    Clip,
    /// No class token; attention pools the patches (Zhai et al. 2023).
    SigLip,
    /// As SigLIP, for images of any size in whole patches (Tschannen et al. 2025).
    NaFlex,
    /// A class token, which is the vector, and perhaps registers (Oquab et al. 2023; Darcet et al. 2023).
    DinoV2,
    /// A class token, projected; positions in a table and rotary (Fang et al. 2023).
    Eva02,
    /// As SigLIP, but of a picture's codes in place of its patches, each seeing those before it (Lin et al. 2025, TokLIP).
    TokLip,
}

impl VitFamily {
    pub(super) fn has_class(self) -> bool {
        !matches!(self, Self::SigLip | Self::NaFlex | Self::TokLip)
    }

    pub(super) fn patch_bias(self) -> bool {
        self != Self::Clip
    }

    pub(super) fn norm_before(self) -> bool {
        self == Self::Clip
    }

    pub(super) fn attention_pool(self) -> bool {
        matches!(self, Self::SigLip | Self::NaFlex | Self::TokLip)
    }

    /// Whether there is a projection, and whether it has a bias.
    pub(super) fn projection(self) -> Option<bool> {
        match self {
            Self::Clip => Some(false),
            Self::Eva02 => Some(true),
            Self::SigLip | Self::NaFlex | Self::TokLip | Self::DinoV2 => None,
        }
    }
}

/// Sizes of a vision transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Side of the square that it reads, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Width of an embedding; without a projection, the transformer's.
    pub dim: usize,
    /// The transformer.
    pub stack: StackConfig,
    /// How it is put together. Where this and what follows is missing, it is CLIP.
    #[serde(default)]
    pub family: VitFamily,
    /// Tokens beside the class token that belong to no patch.
    #[serde(default)]
    pub registers: usize,
    /// Whether its table of positions is smoothed when it is resized to a smaller image, as the library of its checkpoint does.
    #[serde(default)]
    pub antialias: bool,
    /// Side of the images that its table of positions is for, when that is not `image_size`.
    #[serde(default)]
    pub trained_size: Option<usize>,
    /// Whether the family's projection was taken away, see [`Vit::without_projection`](super::Vit::without_projection).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unprojected: bool,
    /// TokLIP's: whether codes see all others, and not only those before them. Such a tower cannot go on code by code.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bidirectional: bool,
    /// TokLIP's: whether each code has a vector that is learnt, in place of the one in the codebook.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lookup: bool,
}

impl VitConfig {
    /// A transformer of CLIP.
    pub fn clip(image_size: usize, patch: usize, dim: usize, stack: StackConfig) -> Self {
        Self {
            image_size,
            patch,
            dim,
            stack,
            family: VitFamily::Clip,
            registers: 0,
            antialias: false,
            trained_size: None,
            unprojected: false,
            bidirectional: false,
            lookup: false,
        }
    }

    /// Whether there is a projection, and whether it has a bias.
    pub(super) fn projection(&self) -> Option<bool> {
        self.family.projection().filter(|_| !self.unprojected)
    }

    /// Whether a token sees only those before it.
    pub fn causal(&self) -> bool {
        self.family == VitFamily::TokLip && !self.bidirectional
    }

    /// Patches, or codes, on a side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch
    }

    pub(super) fn trained(&self) -> usize {
        self.trained_size.unwrap_or(self.image_size)
    }

    pub(super) fn trained_grid(&self) -> usize {
        self.trained() / self.patch
    }

    /// Rows of the table of positions.
    pub(super) fn positions(&self) -> usize {
        self.trained_grid() * self.trained_grid() + usize::from(self.family.has_class())
    }

    /// Rows of an image of this many patches.
    pub(crate) fn tokens(&self, patches: usize) -> usize {
        patches + usize::from(self.family.has_class()) + self.registers
    }

    pub(super) fn check(&self, source: &dyn TensorSource) -> Result<(), WeightsError> {
        let path = source.path();
        let refuse = |key: &str, problem: String| Err(WeightsError::metadata(path, key, problem));
        check_sizes(
            path,
            &[
                ("image_size", self.image_size),
                ("trained_size", self.trained()),
                ("patch", self.patch),
                ("dim", self.dim),
                ("registers", self.registers.saturating_add(1)),
            ],
        )?;
        self.stack.check(path)?;
        let most = crate::MAX_IMAGE_SIZE;
        for side in [self.image_size, self.trained()] {
            if side <= most && self.patch <= side {
                continue;
            }
            let patch = self.patch;
            let problem = format!("is {side} with patches of {patch}; it may be at most {most}, a patch no larger");
            return refuse("image_size", problem);
        }
        if self.projection().is_none() && self.dim != self.stack.width {
            let problem = format!(
                "is {}, but without a projection it is the width {}",
                self.dim, self.stack.width
            );
            return refuse("dim", problem);
        }
        if self.registers > 0 && !self.family.has_class() {
            return refuse("registers", "come after a class token, and there is none".to_owned());
        }
        let head = self.stack.width / self.stack.heads;
        if self.family == VitFamily::Eva02 && !head.is_multiple_of(4) {
            let problem = format!("give a head {head} numbers, which rotary positions cannot divide by 4");
            return refuse("heads", problem);
        }
        Ok(())
    }

    /// EVA02's rotary positions: half of a head turns with the patch's row, the other half with its column, both counted as if the grid
    /// were the one of pre-training, 16 × 16. The class token does not turn.
    pub(super) fn rotation(&self) -> Option<Rotation> {
        const GRID: f32 = 16.0;
        const THETA: f64 = 10_000.0;
        if self.family != VitFamily::Eva02 {
            return None;
        }
        let (grid, bands) = (self.grid(), self.stack.width / self.stack.heads / 4);
        let frequencies: Vec<f32> = (0..bands)
            .map(|i| THETA.powf(-(i as f64) / bands as f64) as f32)
            .collect();
        let mut angles = vec![0.0; 2 * bands];
        for patch in 0..grid * grid {
            for place in [patch / grid, patch % grid] {
                let place = place as f32 / grid as f32 * GRID;
                angles.extend(frequencies.iter().map(|f| place * f));
            }
        }
        let table = |f: fn(f64) -> f64| {
            let values = angles.iter().map(|&angle| f(f64::from(angle)) as f32).collect();
            tensor(values, [grid * grid + 1, 2 * bands])
        };
        Some(Rotation {
            cos: table(f64::cos),
            sin: table(f64::sin),
        })
    }
}
