//! What CLIP, SAIL and LLM2CLIP have in common: two towers, two heads, one loss over all pairs.

use std::convert::Infallible;

use bifocal_models::adapter::{Head, normalize};
use bifocal_models::towers::Towers;
use bifocal_nn::Tensor;
use bifocal_nn::engine::{scalar, tensor};
use bifocal_nn::init::Rng;
use bifocal_nn::params;

use super::{BatchNeeds, LossTerms, Method, MethodError, Stage, Step};
use crate::batch::{Batch, Images, Texts};
use crate::losses::{self, PairCount};
use crate::recipe::{HeadSpec, LossKind, LossSpec, Normalizer, Recipe};

/// Alignment by a loss over all pairs of pictures and texts.
#[derive(Clone, Debug)]
pub struct Contrastive {
    stage: Stage,
    loss: LossSpec,
    image: Disturb,
    text: Disturb,
}

/// What is done to a head's inputs in training, against learning them by heart.
#[derive(Clone, Copy, Debug)]
struct Disturb {
    dropout: f32,
    noise: f32,
}

impl Disturb {
    fn of(head: &HeadSpec) -> Self {
        Self {
            dropout: head.input_dropout,
            noise: head.noise,
        }
    }

    /// Adds noise in units of the batch's root mean square, then drops values; those that stay are scaled up.
    fn apply(self, x: Tensor<2>, rng: &mut Rng) -> Tensor<2> {
        let dims = x.dims();
        let n = dims[0] * dims[1];
        let mut x = x;
        if self.noise > 0.0 {
            let size = x.clone().detach().powi_scalar(2).mean().sqrt().reshape([1, 1]);
            let noise = (0..n).map(|_| self.noise * rng.normal()).collect();
            x = x + tensor(noise, dims) * size;
        }
        if self.dropout > 0.0 {
            let kept = 1.0 / (1.0 - self.dropout);
            let mask = (0..n).map(|_| if rng.unit() < self.dropout { 0.0 } else { kept });
            x = x * tensor(mask.collect(), dims);
        }
        x
    }
}

impl Contrastive {
    /// One stage with the recipe's loss and heads.
    pub fn new(stage: Stage, recipe: &Recipe) -> Self {
        Self {
            stage,
            loss: recipe.loss.clone(),
            image: Disturb::of(&recipe.image_head),
            text: Disturb::of(&recipe.text_head),
        }
    }
}

/// A batch's pictures and texts as the towers see them.
///
/// # Shapes
/// `[n, width]` and `[m, width]`.
fn features(towers: &Towers, batch: &Batch) -> Result<(Tensor<2>, Tensor<2>), MethodError> {
    let images = match &batch.images {
        Images::Features(features) => features.clone(),
        Images::Pixels(pixels) => {
            let tower = towers.vision.as_ref().ok_or(MethodError::NoTower {
                what: "pixels",
                tower: "vision",
            })?;
            tower.embed(pixels)
        }
    };
    let texts = match &batch.texts {
        Texts::Features(features) => features.clone(),
        Texts::Tokens(tokens, pooling) => {
            let tower = towers.text.as_ref().ok_or(MethodError::NoTower {
                what: "tokens",
                tower: "text",
            })?;
            tower.check(tokens).map_err(|error| MethodError::Tower {
                tower: "text",
                message: error.to_string(),
            })?;
            tower.embed(tokens, *pooling)
        }
    };
    Ok((images, texts))
}

impl Method for Contrastive {
    fn stages(&self) -> Vec<Stage> {
        vec![self.stage.clone()]
    }

    fn needs(&self, _stage: &Stage) -> BatchNeeds {
        BatchNeeds {
            captions: self.loss.captions,
        }
    }

    fn forward(&self, towers: &Towers, batch: &Batch, step: &mut Step) -> Result<LossTerms, MethodError> {
        let (images, texts) = features(towers, batch)?;
        let rng = &mut step.rng;
        let mut unit = |head: &Head, disturb: Disturb, x| {
            let x = disturb.apply(x, rng);
            normalize(head.forward(x, Some(rng)))
        };
        let images = unit(&towers.image_head, self.image, images);
        let texts = unit(&towers.text_head, self.text, texts);
        let scale = towers.logit_scale.val().exp();
        let (name, total) = match self.loss.kind {
            LossKind::Infonce => ("infonce", losses::infonce(images, texts, scale, &batch.positives)),
            LossKind::Sigmoid => {
                let bias = towers
                    .logit_bias
                    .as_ref()
                    .map_or_else(|| tensor(vec![0.0], [1]), |bias| bias.val());
                let divide_by = match self.loss.normalizer {
                    Normalizer::Pairs => PairCount::Pairs,
                    Normalizer::Images => PairCount::Images,
                };
                let loss = losses::sigmoid(images, texts, scale, bias, &batch.positives, divide_by);
                ("sigmoid", loss)
            }
        };
        Ok(LossTerms {
            terms: vec![(name, total.clone())],
            total,
        })
    }

    /// Keeps the logarithm of the scale in [0, ln max] (CLIP §2.5; open_clip clamps after each step).
    fn after_step(&mut self, towers: Towers, _step: &Step) -> Towers {
        let Some(max) = self.loss.scale_max else {
            return towers;
        };
        let value = scalar(towers.logit_scale.val());
        let clamped = value.clamp(0.0, max.ln());
        // A value that is not a number is left for the trainer's guard to report.
        if value == clamped || value.is_nan() {
            return towers;
        }
        let clamped = params::load(towers, |name, _| {
            Ok::<_, Infallible>((name == "logit_scale").then(|| vec![clamped]))
        });
        match clamped {
            Ok(towers) => towers,
            Err(error) => unreachable!("one value for one parameter: {error}"),
        }
    }
}
