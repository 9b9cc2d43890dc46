//! Two towers and what brings them together.

use bifocal_nn::engine::tensor;
use bifocal_nn::{Module, Param, Tensor};

use crate::adapter::Head;
use crate::text::TextTower;
use crate::vision::VisionTower;

/// The initial logarithm of the scale of similarities: ln(1 / 0.07) (Radford et al. 2021).
pub const INITIAL_LOGIT_SCALE: f32 = 2.659_26;

/// Both towers, their heads, and the scale of similarities. A tower that is missing is one whose features are cached.
#[derive(Module, Debug)]
pub struct Towers {
    /// The vision tower.
    pub vision: Option<VisionTower>,
    /// The text tower.
    pub text: Option<TextTower>,
    /// From the vision tower's embedding into the joint space.
    pub image_head: Head,
    /// From the text tower's embedding into the joint space.
    pub text_head: Head,
    /// `[1]`: the logarithm of the scale of similarities.
    pub logit_scale: Param<Tensor<1>>,
    /// `[1]`: added to scaled similarities, where a loss has use for it.
    pub logit_bias: Option<Param<Tensor<1>>>,
}

impl Towers {
    /// Puts towers and heads together.
    pub fn new(
        vision: Option<VisionTower>,
        text: Option<TextTower>,
        image_head: Head,
        text_head: Head,
        logit_scale: f32,
        logit_bias: Option<f32>,
    ) -> Self {
        let scalar = |value| Param::from_tensor(tensor(vec![value], [1]));
        Self {
            vision,
            text,
            image_head,
            text_head,
            logit_scale: scalar(logit_scale),
            logit_bias: logit_bias.map(scalar),
        }
    }
}
