//! What most methods have in common: two towers, two heads, one loss over all pairs.

use std::convert::Infallible;

use bifocal_models::adapter::normalize;
use bifocal_models::towers::Towers;
use bifocal_nn::engine::{scalar, tensor};
use bifocal_nn::{Tensor, params};

use super::embed::{self, Disturb, Draws};
use super::{BatchNeeds, LossTerms, MethodError, Negatives, Objective, Stage};
use crate::batch::{Batch, Embeddings, Part};
use crate::losses::{self, PairCount};
use crate::recipe::{FreezeRule, LossKind, LossSpec, Normalizer, Recipe};

/// Alignment by a loss over all pairs of pictures and texts, or over the pairs that belong together.
#[derive(Clone, Debug)]
pub struct Contrastive {
    loss: LossSpec,
    image: Disturb,
    text: Disturb,
}

impl Contrastive {
    /// With the recipe's loss and heads.
    pub fn new(recipe: &Recipe) -> Self {
        Self {
            loss: recipe.loss.clone(),
            image: Disturb::of(&recipe.image_head),
            text: Disturb::of(&recipe.text_head),
        }
    }

    /// A stage of nothing else.
    pub(super) fn stage(name: &'static str, rules: Vec<FreezeRule>, recipe: &Recipe) -> Stage {
        Stage {
            name,
            rules,
            needs: Self::needs(recipe),
            keeps_teacher: false,
            elastic: false,
            projector: None,
            objective: Box::new(Self::new(recipe)),
        }
    }

    pub(super) fn needs(recipe: &Recipe) -> BatchNeeds {
        BatchNeeds {
            negatives: match recipe.loss.negatives {
                0 => Negatives::None,
                n => Negatives::Hard(n),
            },
            ..BatchNeeds::pictures(recipe.loss.captions)
        }
    }
}

impl Contrastive {
    /// The rows of a batch's pictures as they leave the head; noise is drawn as for this part.
    pub(super) fn pictures(
        &self,
        towers: &Towers,
        batch: &Batch,
        seed: u64,
        part: Part,
    ) -> Result<Tensor<2>, MethodError> {
        let pictures = batch.images.as_ref().ok_or(MethodError::NoRows { part })?;
        let draws = Draws::new(seed, part, batch.first[0]);
        embed::images(towers, pictures, self.image, draws)
    }

    /// The rows of a batch as they leave the heads.
    pub(super) fn rows(&self, towers: &Towers, batch: &Batch, seed: u64) -> Result<Embeddings, MethodError> {
        let pictures = self.pictures(towers, batch, seed, Part::Images)?;
        Ok(self.text_rows(towers, batch, seed)?.with(Part::Images, pictures))
    }

    /// As [`Contrastive::rows`], without those of the pictures.
    pub(super) fn text_rows(&self, towers: &Towers, batch: &Batch, seed: u64) -> Result<Embeddings, MethodError> {
        let draws = |part, first| Draws::new(seed, part, first);
        let mut all = Embeddings::of(batch).with(
            Part::Texts,
            embed::texts(towers, &batch.texts, self.text, draws(Part::Texts, batch.first[1]))?,
        );
        if let Some((negatives, _)) = &batch.negatives {
            all = all.with(
                Part::Negatives,
                embed::texts(towers, negatives, self.text, draws(Part::Negatives, batch.first[2]))?,
            );
        }
        Ok(all)
    }
}

impl Objective for Contrastive {
    fn embed(&self, towers: &Towers, batch: &Batch, seed: u64) -> Result<Embeddings, MethodError> {
        let rows = self.rows(towers, batch, seed)?;
        Ok(rows.map(|_, rows| normalize(rows.clone())))
    }

    fn loss(&self, towers: &Towers, all: &Embeddings) -> Result<LossTerms, MethodError> {
        let (images, texts) = (all.get(Part::Images)?, all.get(Part::Texts)?);
        let scale = towers.logit_scale.val().exp();
        Ok(match self.loss.kind {
            LossKind::Infonce => {
                let extra = all.rows.get(&Part::Negatives).cloned();
                let share = self.loss.smoothing;
                let even = (share > 0.0).then(|| {
                    let (images, texts, extra) = (images.clone(), texts.clone(), extra.clone());
                    losses::smoothing(images, texts, extra, scale.clone(), &all.positives) * share
                });
                let loss = losses::infonce_with(images, texts, extra, scale, &all.positives);
                LossTerms::one(
                    "infonce",
                    match even {
                        Some(even) => loss + even,
                        None => loss,
                    },
                )
            }
            LossKind::Sigmoid => {
                let bias = towers
                    .logit_bias
                    .as_ref()
                    .map_or_else(|| tensor(vec![0.0], [1]), |bias| bias.val());
                let divide_by = match self.loss.normalizer {
                    Normalizer::Pairs => PairCount::Pairs,
                    Normalizer::Images => PairCount::Images,
                    Normalizer::Texts => PairCount::Texts,
                };
                let loss = losses::sigmoid(images, texts, scale, bias, &all.positives, divide_by);
                LossTerms::one("sigmoid", loss)
            }
            LossKind::Cosine => LossTerms::one("cosine", losses::cosine(images, texts, &all.positives)),
        })
    }

    /// Keeps the logarithm of the scale in [0, ln max] (CLIP §2.5; open_clip clamps after each step).
    fn after_step(&self, towers: Towers) -> Towers {
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
