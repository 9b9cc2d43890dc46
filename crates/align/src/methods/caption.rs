//! Caption-contrastive tuning of a language model (LLM2CLIP, arXiv 2411.04997 §3.1): captions of one picture are brought together,
//! captions of different pictures apart. No pictures, no heads; the language model learns through LoRA.

use bifocal_models::adapter::normalize;
use bifocal_models::towers::Towers;
use bifocal_nn::Tensor;

use super::embed::{Draws, text_features};
use super::{BatchNeeds, LossTerms, MethodError, Negatives, Objective, Stage, frozen};
use crate::batch::{Batch, Embeddings, Part, Texts};
use crate::losses;
use crate::recipe::Recipe;

/// Retrieval of a caption by another caption of the same picture, in one direction.
#[derive(Clone, Debug)]
struct CaptionContrastive {
    scale: f32,
}

/// The stage: LoRA learns, and nothing else.
pub(super) fn stage(name: &'static str, recipe: &Recipe) -> Stage {
    let mut rules = vec![frozen("*")];
    rules.push(super::learns("text.*.lora.*"));
    Stage {
        name,
        rules,
        needs: BatchNeeds {
            queries: Some(recipe.caption.instruction.clone()),
            negatives: if recipe.caption.negatives {
                Negatives::Random
            } else {
                Negatives::None
            },
            ..BatchNeeds::captions(1)
        },
        keeps_teacher: false,
        elastic: false,
        projector: None,
        objective: Box::new(CaptionContrastive {
            scale: recipe.caption.scale,
        }),
    }
}

impl Objective for CaptionContrastive {
    fn embed(&self, towers: &Towers, batch: &Batch, seed: u64) -> Result<Embeddings, MethodError> {
        let unit = |texts: &Texts, part, first| {
            let rows = text_features(towers, texts, Draws::new(seed, part, first))?;
            Ok::<Tensor<2>, MethodError>(normalize(rows))
        };
        let [samples, texts, others] = batch.first;
        let queries = batch
            .queries
            .as_ref()
            .ok_or(MethodError::NoRows { part: Part::Queries })?;
        let mut all = Embeddings::of(batch)
            .with(Part::Queries, unit(queries, Part::Queries, samples)?)
            .with(Part::Texts, unit(&batch.texts, Part::Texts, texts)?);
        if let Some((negatives, _)) = &batch.negatives {
            all = all.with(Part::Negatives, unit(negatives, Part::Negatives, others)?);
        }
        Ok(all)
    }

    fn loss(&self, _towers: &Towers, all: &Embeddings) -> Result<LossTerms, MethodError> {
        let (queries, texts) = (all.get(Part::Queries)?, all.get(Part::Texts)?);
        let negatives = all.rows.get(&Part::Negatives).cloned();
        let loss = losses::caption_contrastive(queries, texts, negatives, self.scale);
        Ok(LossTerms::one("caption", loss))
    }
}
