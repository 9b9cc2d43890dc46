//! `[flamingo]`: the connector of Flamingo (Alayrac et al. 2022, arXiv 2204.14198).

use serde::{Deserialize, Serialize};

use super::RecipeError;
use super::check::within;

/// `[flamingo]`, for `image_head.kind = "flamingo"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlamingoSpec {
    /// Vectors that a picture becomes; 64 in the paper.
    pub latents: usize,
    /// Layers of the resampler; 6 in the paper.
    pub layers: usize,
    /// Heads of resampler and gated layers; 8 in open_flamingo.
    pub heads: usize,
    /// Width of a head; 64 in open_flamingo.
    pub head: usize,
    /// A gated layer stands before every so many-th layer of the language model; 1, 2 or 4 in open_flamingo, by size.
    pub every: usize,
}

impl Default for FlamingoSpec {
    fn default() -> Self {
        Self {
            latents: 64,
            layers: 6,
            heads: 8,
            head: 64,
            every: 4,
        }
    }
}

impl FlamingoSpec {
    pub(super) fn check(&self) -> Result<(), RecipeError> {
        within("flamingo.latents", self.latents as f64, 1.0, 4096.0)?;
        within("flamingo.layers", self.layers as f64, 1.0, 64.0)?;
        within("flamingo.heads", self.heads as f64, 1.0, 128.0)?;
        within("flamingo.head", self.head as f64, 1.0, 512.0)?;
        within("flamingo.every", self.every as f64, 1.0, 1024.0)
    }
}
