//! Two towers and what brings them together.

use bifocal_nn::engine::tensor;
use bifocal_nn::{Module, Param, Tensor, ema};

use crate::adapter::Head;
use crate::text::TextTower;
use crate::unified::Drawing;
use crate::vision::{ImageBatch, VisionTower};

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
    /// What the vision tower was, or its moving average, while a method trains towards it. Not part of a finished model.
    pub teacher: Option<Teacher>,
    /// For a language model that draws pictures code by code.
    pub drawing: Option<Drawing>,
    /// What a method's loss looks at rows of the joint space through. Not part of a finished model.
    pub projector: Option<Head>,
}

/// A vision tower and its head that others learn from.
#[derive(Module, Debug)]
pub struct Teacher {
    /// Under the same names as in [`Towers`].
    pub vision: VisionTower,
    /// Under the same names as in [`Towers`].
    pub image_head: Head,
}

impl Teacher {
    /// Rows of pictures in the joint space, not normalised.
    ///
    /// # Shapes
    /// `[n, dim]`.
    pub fn embed(&self, pixels: &ImageBatch) -> Tensor<2> {
        let patches = || self.vision.patches(pixels);
        match self.image_head.reads_patches().then(patches).flatten() {
            Some((patches, each)) => self.image_head.over_patches(patches, each, false),
            None => self.image_head.forward(self.vision.embed(pixels), false),
        }
    }
}

impl Towers {
    /// Moves the teacher, if there is one, towards the vision tower and its head: it keeps this share of itself.
    #[must_use]
    pub fn follow(mut self, keep: f32) -> Self {
        if keep < 1.0
            && let Some(teacher) = self.teacher.take()
        {
            let same = |name: &str| Some(name.to_owned());
            self.teacher = match ema::update(teacher, &self, f64::from(keep), same) {
                Ok(teacher) => Some(teacher),
                Err(error) => unreachable!("a teacher is a copy of what it follows: {error}"),
            };
        }
        self
    }

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
            teacher: None,
            drawing: None,
            projector: None,
        }
    }
}
