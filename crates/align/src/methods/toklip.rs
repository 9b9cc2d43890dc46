//! TokLIP (arXiv 2505.05422): a tower that reads the codes of a frozen autoencoder learns to mean by them what a teacher sees in the picture. Texts, with their
//! head, stay as they are; the two layers over the codes and the token encoder learn, with InfoNCE beside a distillation of the teacher's rows.
//!
//! Stage `codes`, which is left out unless a recipe asks for it, lets the two layers alone learn ("stage 1" of the authors' code).

use bifocal_models::adapter::normalize;
use bifocal_models::towers::Towers;
use bifocal_nn::Tensor;

use super::embed::{self, Disturb, Draws};
use super::{BatchNeeds, Contrastive, Entry, LossTerms, MethodError, Objective, Stage, TeacherRows, frozen, learns};
use crate::batch::{Batch, Embeddings, Part};
use crate::losses;
use crate::recipe::{Per, Recipe, ToklipSpec};

pub(super) const ENTRY: Entry = Entry {
    name: "toklip",
    summary: "a causal tower over the codes of a frozen autoencoder, distilled from a CLIP (TokLIP, arXiv 2505.05422)",
    stages: &["codes", "align"],
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
[toklip]
weight = 1000.0
per = "value"
[optimizer]
lr = 1e-5
weight_decay = 0.1
betas = [0.9, 0.95]
eps = 1e-6
[schedule]
warmup = 782.0
[stage.codes]
skip = true
"#,
    build: |name, recipe| stage(name, recipe),
};

fn stage(name: &str, recipe: &Recipe) -> Stage {
    let spec = recipe.toklip.clone();
    let (name, rules, open) = match name {
        "codes" => (
            "codes",
            vec![frozen("*"), learns("vision.patches.*"), learns("logit_scale")],
            0.0,
        ),
        // what is left is the token encoder, with the head that stands for its projection
        _ => ("align", vec![frozen("text*")], spec.open),
    };
    Stage {
        name,
        rules,
        needs: BatchNeeds {
            teacher: spec.distils().then_some(TeacherRows::Pictures {
                tokens: spec.tokens > 0.0,
            }),
            ..Contrastive::needs(recipe)
        },
        keeps_teacher: false,
        elastic: false,
        projector: None,
        objective: Box::new(Toklip {
            contrastive: Contrastive::new(recipe),
            image: Disturb::of(&recipe.image_head),
            spec,
            open,
        }),
    }
}

/// InfoNCE, and the squared difference from the teacher's rows.
#[derive(Clone, Debug)]
struct Toklip {
    contrastive: Contrastive,
    image: Disturb,
    spec: ToklipSpec,
    /// Share of the steps in which codes see all others.
    open: f64,
}

impl Objective for Toklip {
    fn embed(&self, towers: &Towers, batch: &Batch, seed: u64) -> Result<Embeddings, MethodError> {
        let given = |rows: &Option<Tensor<2>>, part| rows.clone().ok_or(MethodError::NoRows { part });
        let mut all = if self.spec.tokens > 0.0 {
            let pictures = batch
                .images
                .as_ref()
                .ok_or(MethodError::NoRows { part: Part::Images })?;
            let draws = Draws::new(seed, Part::Images, batch.first[0]);
            let [rows, tokens] = embed::images_and_tokens(towers, pictures, self.image, draws)?;
            let rest = self
                .contrastive
                .text_rows(towers, batch, seed)?
                .with(Part::Images, rows);
            rest.map(|_, rows| normalize(rows.clone()))
                .with(Part::Tokens, tokens)
                .with(Part::TeacherTokens, given(&batch.teacher_tokens, Part::TeacherTokens)?)
        } else {
            self.contrastive.embed(towers, batch, seed)?
        };
        if self.spec.distils() {
            let seen = given(&batch.teacher_images, Part::TeacherImages)?;
            all = all.with(Part::TeacherImages, normalize(seen));
        }
        Ok(all)
    }

    fn loss(&self, towers: &Towers, all: &Embeddings) -> Result<LossTerms, MethodError> {
        let mut terms = self.contrastive.loss(towers, all)?;
        let spec = &self.spec;
        if spec.weight > 0.0 {
            let rows = all.get(Part::Images)?;
            let [n, width] = rows.dims();
            let by = match spec.per {
                Per::Value => n * width,
                Per::Picture => 2 * n,
            };
            let far = losses::instance_alignment(rows, all.get(Part::TeacherImages)?);
            terms = terms.plus("distill", far * (spec.weight / by as f32));
        }
        if spec.tokens > 0.0 {
            let rows = all.get(Part::Tokens)?;
            let [n, width] = rows.dims();
            let far = losses::instance_alignment(rows, all.get(Part::TeacherTokens)?);
            terms = terms.plus("tokens", far * (spec.tokens / (n * width) as f32));
        }
        Ok(terms)
    }

    fn before_step(&self, mut towers: Towers, done: f64) -> Towers {
        if self.open > 0.0 {
            towers.vision = towers.vision.map(|tower| tower.with_bidirectional(done < self.open));
        }
        towers
    }

    fn after_step(&self, towers: Towers) -> Towers {
        self.contrastive.after_step(towers)
    }
}
