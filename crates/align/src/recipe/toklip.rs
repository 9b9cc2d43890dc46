//! The part of a recipe that TokLIP's method reads.

use serde::{Deserialize, Serialize};

use super::check::{need, within};
use super::{Recipe, RecipeError};

/// What the squared difference of two rows of unit length is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// Pictures and the values of a row, as the authors' code has it: in a space of other width the same weight is another.
    Value,
    /// Twice the pictures: what is left is one minus the cosine, in any space.
    Picture,
}

/// `[toklip]`: what is learnt from the teacher beside the texts, and what codes see meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ToklipSpec {
    /// Weight of the squared difference between what student and teacher make of a picture; 0: there is no teacher.
    pub weight: f32,
    /// `value` or `picture`.
    pub per: Per,
    /// Weight of the mean squared difference of all tokens after the final norm, as they are (10 in the authors' code, where it is used); 0: none.
    pub tokens: f32,
    /// Share of the steps of the stage `align` in which codes see all others ("soft mask"); in the rest, and in the finished model, those before them.
    pub open: f64,
}

impl Default for ToklipSpec {
    fn default() -> Self {
        Self {
            weight: 1000.0,
            per: Per::Value,
            tokens: 0.0,
            open: 0.0,
        }
    }
}

impl ToklipSpec {
    /// Whether anything is learnt from a teacher.
    pub(crate) fn distils(&self) -> bool {
        self.weight > 0.0 || self.tokens > 0.0
    }
}

impl Recipe {
    pub(super) fn check_toklip(&self) -> Result<(), RecipeError> {
        let spec = &self.toklip;
        within("toklip.weight", f64::from(spec.weight), 0.0, 1e6)?;
        within("toklip.tokens", f64::from(spec.tokens), 0.0, 1e6)?;
        within("toklip.open", spec.open, 0.0, 0.999)?;
        if self.method != "toklip" {
            return Ok(());
        }
        let both = spec.open > 0.0 && self.vision.codes.as_ref().is_some_and(|codes| codes.bidirectional);
        need(!both, "toklip.open", || {
            "with vision.codes.bidirectional codes see all others to the end; take one of the two away".to_owned()
        })?;
        let augments = |name| self.of_stage(name).data.augment.is_some();
        need(
            !spec.distils() || !self.running().into_iter().any(augments),
            "data.augment",
            || {
                "what the teacher makes of a picture is computed once, of the picture as it is; take [data.augment] out, or set toklip.weight and \
             toklip.tokens to 0"
                .to_owned()
            },
        )
    }
}
