//! ZSCL (arXiv 2303.06628): both towers learn a task, while pictures of no task are to look to the vision tower as they did to the model before, compared
//! by that model's own texts; the finished model is the average of those along the way (`merge.average_every`).

use bifocal_models::adapter::normalize;
use bifocal_models::towers::Towers;

use super::{BatchNeeds, Contrastive, Entry, LossTerms, MethodError, Objective, Stage, frozen};
use crate::batch::{Batch, Embeddings, Part, Texts};
use crate::losses;
use crate::recipe::{Recipe, ReferenceSpec};

pub(super) const ENTRY: Entry = Entry {
    name: "zscl",
    summary: "a task learnt by all weights, while reference pictures stay what they were; averaged weights (ZSCL, arXiv 2303.06628)",
    stages: &["task"],
    defaults: r#"
[image_head]
kind = "identity"
pretrained = true
[text_head]
kind = "identity"
pretrained = true
[loss]
kind = "infonce"
scale_pretrained = true
scale_max = 100.0
smoothing = 0.2
[merge]
average_every = 100
[optimizer]
lr = 1e-5
weight_decay = 0.0
betas = [0.9, 0.999]
eps = 1e-8
"#,
    build: |_, recipe| task(recipe),
};

fn task(recipe: &Recipe) -> Stage {
    Stage {
        // as the authors' code has it
        rules: vec![frozen("logit_scale")],
        needs: BatchNeeds {
            reference: recipe.has_reference(),
            ..Contrastive::needs(recipe)
        },
        objective: Box::new(Task {
            contrastive: Contrastive::new(recipe),
            spec: recipe.reference.clone(),
        }),
        ..Contrastive::stage("task", Vec::new(), recipe)
    }
}

/// The task's loss, and a weight times the distillation on reference pictures.
#[derive(Clone, Debug)]
struct Task {
    contrastive: Contrastive,
    spec: ReferenceSpec,
}

impl Objective for Task {
    fn embed(&self, towers: &Towers, batch: &Batch, seed: u64) -> Result<Embeddings, MethodError> {
        let all = self.contrastive.embed(towers, batch, seed)?;
        let Some(reference) = batch.reference.as_deref().filter(|_| self.spec.weight > 0.0) else {
            return Ok(all);
        };
        let Texts::Features(texts) = &reference.texts else {
            return Err(MethodError::NoRows {
                part: Part::TeacherTexts,
            });
        };
        let seen = reference.teacher_images.clone();
        let seen = seen.ok_or(MethodError::NoRows {
            part: Part::TeacherImages,
        })?;
        let rows = self.contrastive.pictures(towers, reference, seed, Part::Reference)?;
        Ok(all
            .with(Part::Reference, normalize(rows))
            .with(Part::TeacherImages, normalize(seen))
            .with(Part::TeacherTexts, normalize(texts.clone())))
    }

    fn loss(&self, towers: &Towers, all: &Embeddings) -> Result<LossTerms, MethodError> {
        let terms = self.contrastive.loss(towers, all)?;
        if self.spec.weight == 0.0 {
            return Ok(terms);
        }
        let kept = losses::reference_distillation(
            all.get(Part::Reference)?,
            [all.get(Part::TeacherImages)?, all.get(Part::TeacherTexts)?],
            towers.logit_scale.val().exp(),
            self.spec.temperature,
        );
        Ok(terms.plus("reference", kept * self.spec.weight))
    }

    fn after_step(&self, towers: Towers) -> Towers {
        self.contrastive.after_step(towers)
    }
}
