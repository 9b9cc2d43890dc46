//! `[unified]`: how a language model learns to read pictures and to draw them.

use serde::{Deserialize, Serialize};

use super::check::{need, within};
use super::{Recipe, RecipeError};

/// `[unified]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UnifiedSpec {
    /// Weight of captions that follow their pictures: the mean over their tokens.
    pub read: f32,
    /// Weight of pictures that follow their captions: the mean over their codes.
    pub draw: f32,
    /// Share of the pictures that are drawn from no caption, so that one can be asked for more than the model gives by itself (guidance without a
    /// classifier, Ho and Salimans 2022, arXiv 2207.12598).
    pub drop: f64,
}

impl Default for UnifiedSpec {
    fn default() -> Self {
        Self {
            read: 1.0,
            draw: 1.0,
            drop: 0.1,
        }
    }
}

impl Recipe {
    pub(super) fn check_unified(&self) -> Result<(), RecipeError> {
        let spec = &self.unified;
        within("unified.read", f64::from(spec.read), 0.0, 1e6)?;
        within("unified.draw", f64::from(spec.draw), 0.0, 1e6)?;
        within("unified.drop", spec.drop, 0.0, 1.0)?;
        if self.method != "unified" {
            return Ok(());
        }
        need(spec.read > 0.0 || spec.draw > 0.0, "unified.draw", || {
            "with unified.read it leaves nothing to learn; set one of them above 0".to_owned()
        })?;
        // what is left out cannot be known of the pieces before one
        let drops = spec.drop > 0.0 && spec.draw > 0.0;
        need(!drops || self.lora.dropout == 0.0, "lora.dropout", || {
            "dropout is drawn by a row's place in the step, and captions that are left out move it; set it to 0, or unified.drop".to_owned()
        })?;
        need(self.data.augment.is_none(), "data.augment", || {
            "codes of a picture are computed once, of the picture as it is; take [data.augment] out".to_owned()
        })
    }
}
