//! C-CLIP (ICLR 2025): learning one task after another without forgetting. Both towers learn a task through LoRA, beside InfoNCE each pair must
//! find what the model made of it before ([`losses::consolidation`]), and at the end a part of what was learnt is folded into the weights
//! (`[merge]` of the recipe). With other settings the same stage is plain LoRA, or learning without forgetting (LwF).

use bifocal_models::adapter::normalize;
use bifocal_models::towers::Towers;
use bifocal_nn::engine::scalar;

use super::{BatchNeeds, Contrastive, Entry, LossTerms, MethodError, Objective, Stage, TeacherRows, frozen, learns};
use crate::batch::{Batch, Embeddings, Part};
use crate::losses::{self, Consolidation, Divergence};
use crate::recipe::{ConsolidateKind, ConsolidateSpec, Recipe};

pub(super) const ENTRY: Entry = Entry {
    name: "cclip",
    summary: "a task learnt through LoRA beside what the model knew; half of it is kept (C-CLIP, ICLR 2025)",
    stages: &["task"],
    defaults: r#"
[image_head]
kind = "identity"
pretrained = true
[text_head]
kind = "identity"
pretrained = true
[lora]
rank = 16
alpha = 32.0
dropout = 0.1
targets = ["*.blocks.*.qkv.q", "*.blocks.*.qkv.v", "*.blocks.*.out", "*.blocks.*.fc", "*.blocks.*.proj"]
[loss]
kind = "infonce"
scale_pretrained = true
scale_max = 100.0
[consolidate.projector]
kind = "mlp"
layers = 2
ratio = 2
activation = "relu"
batch_norm = true
[merge]
keep = 0.5
[optimizer]
lr = 3e-5
weight_decay = 0.2
betas = [0.9, 0.99]
eps = 1e-8
clip_norm = 1.0
"#,
    build: |_, recipe| task(recipe),
};

fn task(recipe: &Recipe) -> Stage {
    let spec = recipe.consolidate.clone();
    let consolidates = spec.weight > 0.0;
    let looks_through = consolidates && spec.kind != ConsolidateKind::Similarities;
    let rules = match recipe.lora.rank {
        // without LoRA everything learns
        0 => Vec::new(),
        _ => {
            let through = looks_through.then(|| learns("projector.*"));
            let rules = [frozen("*"), learns("*.lora.*"), learns("logit_scale")];
            rules.into_iter().chain(through).collect()
        }
    };
    Stage {
        name: "task",
        rules,
        needs: BatchNeeds {
            teacher: consolidates.then_some(TeacherRows::FormerSelf),
            ..Contrastive::needs(recipe)
        },
        keeps_teacher: false,
        elastic: false,
        projector: looks_through.then(|| spec.projector.clone()),
        objective: Box::new(Task {
            contrastive: Contrastive::new(recipe),
            spec,
        }),
    }
}

/// InfoNCE, and a weight times the consolidation. Rows pass as they leave the heads, since their lengths count in the consolidation.
#[derive(Clone, Debug)]
struct Task {
    contrastive: Contrastive,
    spec: ConsolidateSpec,
}

impl Objective for Task {
    fn embed(&self, towers: &Towers, batch: &Batch, seed: u64) -> Result<Embeddings, MethodError> {
        let all = self.contrastive.rows(towers, batch, seed)?;
        let former = batch.teacher_images.clone().zip(batch.teacher_texts.clone());
        Ok(match former {
            Some((images, texts)) => all.with(Part::TeacherImages, images).with(Part::TeacherTexts, texts),
            None => all,
        })
    }

    fn loss(&self, towers: &Towers, all: &Embeddings) -> Result<LossTerms, MethodError> {
        let unit = all.map(|_, rows| normalize(rows.clone()));
        let terms = self.contrastive.loss(towers, &unit)?;
        if self.spec.weight == 0.0 {
            return Ok(terms);
        }
        let how = match self.spec.kind {
            ConsolidateKind::Pairs => Consolidation::Pairs,
            ConsolidateKind::Rows => Consolidation::Rows,
            ConsolidateKind::Similarities => {
                let scale = towers.logit_scale.val().exp();
                let teacher = losses::TeacherRows {
                    images: unit.get(Part::TeacherImages)?,
                    texts: unit.get(Part::TeacherTexts)?,
                    scale: scalar(scale.clone()),
                };
                let (images, texts) = (unit.get(Part::Images)?, unit.get(Part::Texts)?);
                let temperature = self.spec.temperature;
                let kept = losses::similarity_distillation(
                    images,
                    texts,
                    scale,
                    teacher,
                    temperature,
                    Divergence::CrossEntropy,
                );
                return Ok(terms.plus("similarities", kept * self.spec.weight));
            }
        };
        let through = |rows| match &towers.projector {
            Some(projector) => projector.forward(rows, true),
            None => rows,
        };
        let kept = losses::consolidation(
            through(all.get(Part::Images)?),
            through(all.first_texts(Part::Texts)?),
            [all.get(Part::TeacherImages)?, all.first_texts(Part::TeacherTexts)?],
            how,
            self.spec.temperature,
        );
        Ok(terms.plus("consolidation", kept * self.spec.weight))
    }

    fn after_step(&self, towers: Towers) -> Towers {
        self.contrastive.after_step(towers)
    }
}
