//! Which vectors of a vision tower a connector reads.

use bifocal_nn::Tensor;
use serde::{Deserialize, Serialize};

use crate::vision::{ImageBatch, VisionTower};

/// Which tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// Patches, without class token and registers.
    #[default]
    Patch,
    /// All tokens.
    ClsPatch,
}

/// A place in a vision tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tap {
    /// As transformers numbers `hidden_states`, from the end when negative: −1 is what the last block gives, −2 what the one before it gives (LLaVA). A
    /// convolutional tower has its last map only.
    pub layer: i64,
    /// `patch` or `cls_patch`.
    pub select: Select,
}

impl Default for Tap {
    /// LLaVA's.
    fn default() -> Self {
        Self {
            layer: -2,
            select: Select::Patch,
        }
    }
}

impl Tap {
    /// Vectors of each picture, and how many each has; `None` for a tower without patches or without that layer.
    ///
    /// # Shapes
    /// → `[n·tokens, width]`, row by row of a picture.
    ///
    /// # Panics
    /// As [`VisionTower::embed`].
    pub fn read(&self, tower: &VisionTower, images: &ImageBatch) -> Option<(Tensor<2>, usize)> {
        let VisionTower::Vit(vit) = tower else {
            return tower.patches(images);
        };
        let last = i64::try_from(tower.layers()).ok()?;
        let layer = if self.layer < 0 {
            last + 1 + self.layer
        } else {
            self.layer
        };
        let x = tower.hidden(images, usize::try_from(layer).ok()?)?;
        let tokens = x.dims()[0] / images.n.max(1);
        match self.select {
            Select::ClsPatch => Some((x, tokens)),
            Select::Patch => {
                let patch = vit.config().patch;
                let area = (images.height / patch) * (images.width / patch);
                let width = x.dims()[1];
                let x = x.reshape([images.n, tokens, width]);
                let x = x.slice([0..images.n, tokens - area..tokens]);
                Some((x.reshape([images.n * area, width]), area))
            }
        }
    }

    /// How many vectors a picture of the tower's own size has; `None` as [`Tap::read`].
    pub fn tokens(&self, tower: &VisionTower, side: usize) -> Option<usize> {
        match tower {
            VisionTower::Vit(vit) => {
                let grid = side / vit.config().patch;
                Some(match self.select {
                    Select::Patch => grid * grid,
                    Select::ClsPatch => vit.config().tokens(grid * grid),
                })
            }
            // all five sizes halve it five times
            VisionTower::EfficientNetLite(_) => Some(side.div_ceil(32) * side.div_ceil(32)),
            VisionTower::ResNet(_) => None,
        }
    }
}
