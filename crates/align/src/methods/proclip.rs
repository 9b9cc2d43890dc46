//! ProCLIP (arXiv 2510.18795). Stage `inherit`: from texts alone, the adaptor on a frozen language model learns to give what CLIP's own
//! text tower gives. Stage `tune`: vision tower and adaptor learn together, and the vision tower is held near a slow copy of itself.

use bifocal_models::adapter::normalize;
use bifocal_models::towers::Towers;

use super::embed::{self, Disturb, Draws};
use super::{BatchNeeds, Contrastive, Entry, LossTerms, MethodError, Objective, Stage, TeacherRows, frozen, learns};
use crate::batch::{Batch, Embeddings, Images, Part};
use crate::losses::{self, Penalty, SelfDistillation};
use crate::recipe::{DistillSpec, Recipe, Rho};

pub(super) const ENTRY: Entry = Entry {
    name: "proclip",
    summary: "adaptor distilled from CLIP's text tower, then contrastive tuning with a slow copy as teacher (ProCLIP)",
    stages: &["inherit", "tune"],
    defaults: r#"
[image_head]
kind = "identity"
pretrained = true
[text_head]
kind = "residual"
blocks = 4
ratio = 2
normalize_input = true
[loss]
kind = "infonce"
scale_pretrained = true
scale_max = 100.0
[optimizer]
lr = 1e-5
weight_decay = 0.05
betas = [0.9, 0.98]
eps = 1e-6
[stage.inherit]
data = { batch = 1024 }
"#,
    build: |name, recipe| match name {
        "inherit" => inherit(recipe),
        _ => tune(recipe),
    },
};

fn penalty(spec: &DistillSpec) -> Penalty {
    match spec.rho {
        Rho::Squared => Penalty::Squared,
        Rho::SmoothL1 => Penalty::SmoothL1,
    }
}

/// Stage 1: the text head alone learns.
fn inherit(recipe: &Recipe) -> Stage {
    Stage {
        name: "inherit",
        rules: vec![frozen("*"), learns("text_head.*")],
        needs: BatchNeeds {
            teacher: Some(TeacherRows::Texts),
            ..BatchNeeds::captions(recipe.loss.captions)
        },
        keeps_teacher: false,
        elastic: false,
        projector: None,
        objective: Box::new(Inherit {
            spec: recipe.distill.clone(),
            text: Disturb::of(&recipe.text_head),
        }),
    }
}

/// Equations 2 and 3: to the teacher's embeddings, and to the distances between them. Sums over the batch.
#[derive(Clone, Debug)]
struct Inherit {
    spec: DistillSpec,
    text: Disturb,
}

impl Objective for Inherit {
    fn embed(&self, towers: &Towers, batch: &Batch, seed: u64) -> Result<Embeddings, MethodError> {
        let draws = |part, first| Draws::new(seed, part, first);
        let teacher = batch.teacher_texts.clone();
        let teacher = teacher.ok_or(MethodError::NoRows {
            part: Part::TeacherTexts,
        })?;
        Ok(Embeddings::of(batch)
            .with(
                Part::Texts,
                normalize(embed::texts(
                    towers,
                    &batch.texts,
                    self.text,
                    draws(Part::Texts, batch.first[1]),
                )?),
            )
            .with(Part::TeacherTexts, teacher))
    }

    fn loss(&self, _towers: &Towers, all: &Embeddings) -> Result<LossTerms, MethodError> {
        let (student, teacher) = (all.get(Part::Texts)?, all.get(Part::TeacherTexts)?);
        let instance = losses::instance_alignment(student, teacher);
        // with several captions, distances are compared between the first ones of the pictures, as the code has it
        let (first, seen) = (all.first_texts(Part::Texts)?, all.first_texts(Part::TeacherTexts)?);
        let between = losses::structure_alignment(first, seen, penalty(&self.spec));
        Ok(LossTerms::one("instance", instance * self.spec.instance).plus("structure", between * self.spec.structure))
    }
}

/// Stage 2: vision tower, its projection, adaptor and scale learn.
fn tune(recipe: &Recipe) -> Stage {
    Stage {
        name: "tune",
        rules: vec![frozen("text.*")],
        needs: Contrastive::needs(recipe),
        keeps_teacher: true,
        elastic: false,
        projector: None,
        objective: Box::new(Tune {
            contrastive: Contrastive::new(recipe),
            spec: recipe.distill.clone(),
        }),
    }
}

/// Equations 4 to 6: InfoNCE, and λ times the distance of the vision tower's embeddings from those of its moving average.
#[derive(Clone, Debug)]
struct Tune {
    contrastive: Contrastive,
    spec: DistillSpec,
}

impl Objective for Tune {
    fn embed(&self, towers: &Towers, batch: &Batch, seed: u64) -> Result<Embeddings, MethodError> {
        let all = self.contrastive.embed(towers, batch, seed)?;
        let (Some(Images::Pixels(pixels)), Some(teacher)) = (&batch.images, &towers.teacher) else {
            // a vision tower that stands still is its own average
            return Ok(all);
        };
        let seen = normalize(teacher.embed(pixels)).detach();
        Ok(all.with(Part::TeacherImages, seen))
    }

    fn loss(&self, towers: &Towers, all: &Embeddings) -> Result<LossTerms, MethodError> {
        let terms = self.contrastive.loss(towers, all)?;
        let Some(teacher) = all.rows.get(&Part::TeacherImages) else {
            return Ok(terms);
        };
        let student = all.get(Part::Images)?;
        let batch = student.dims()[0];
        let held = SelfDistillation::for_batch(f64::from(self.spec.lambda), batch, penalty(&self.spec));
        Ok(terms.plus("self_distillation", held.loss(student, teacher.clone())))
    }

    fn after_step(&self, towers: Towers) -> Towers {
        self.contrastive.after_step(towers).follow(self.spec.ema)
    }
}
