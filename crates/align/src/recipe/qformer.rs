//! `[qformer]`: the connector of BLIP-2, and what its first stage learns (Li et al. 2023, arXiv 2301.12597).

use serde::{Deserialize, Serialize};

use super::RecipeError;
use super::check::{need, within};

/// `[qformer]`, for `image_head.kind = "qformer"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QFormerSpec {
    /// Folder of the BERT that it begins as: its layers, its words, its tokenizer.
    pub trunk: String,
    /// Learnt queries: rows that a picture becomes; 32 in the paper.
    pub queries: usize,
    /// Every so many layers, from the first one on, queries look at the picture; 2 in the paper.
    pub cross_every: usize,
    /// Width of the space in which pictures and texts are compared; 256 in the paper.
    pub dim: usize,
    /// Captions are cut to so many tokens of the trunk in the stage `represent`; 32 in the authors' code.
    pub max_tokens: usize,
    /// Share of the targets of contrast and description that all others get; 0.1 in the authors' code.
    pub smoothing: f32,
}

impl Default for QFormerSpec {
    fn default() -> Self {
        Self {
            trunk: String::new(),
            queries: 32,
            cross_every: 2,
            dim: 256,
            max_tokens: 32,
            smoothing: 0.1,
        }
    }
}

impl QFormerSpec {
    pub(super) fn check(&self) -> Result<(), RecipeError> {
        need(!self.trunk.is_empty(), "qformer.trunk", || {
            "which BERT does it begin as? Write the folder of its weights".to_owned()
        })?;
        within("qformer.queries", self.queries as f64, 1.0, 4096.0)?;
        within("qformer.cross_every", self.cross_every as f64, 1.0, 64.0)?;
        within("qformer.dim", self.dim as f64, 1.0, 16_384.0)?;
        within("qformer.max_tokens", self.max_tokens as f64, 3.0, 4096.0)?;
        within("qformer.smoothing", f64::from(self.smoothing), 0.0, 0.99)
    }
}
