//! EWC (Kirkpatrick et al. 2017, arXiv 1612.00796): both towers learn a task, and each weight is drawn to where former tasks left it, as strongly as
//! they have come to need it ([`losses::elastic`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use bifocal_models::towers::Towers;

use super::{Contrastive, Entry, LossTerms, MethodError, Objective, Stage};
use crate::batch::{Batch, Embeddings};
use crate::losses::{self, Held};

pub(super) const ENTRY: Entry = Entry {
    name: "ewc",
    summary: "a task learnt by all weights, each held where former tasks need it (EWC, arXiv 1612.00796)",
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
[optimizer]
lr = 1e-5
weight_decay = 0.0
betas = [0.9, 0.99]
eps = 1e-8
clip_norm = 1.0
"#,
    build: |_, recipe| Stage {
        elastic: true,
        ..Contrastive::stage("task", Vec::new(), recipe)
    },
};

/// A stage's objective with a spring on each parameter that former tasks need. It counts once, whatever the batch is split into.
#[derive(Debug)]
pub(crate) struct Elastic {
    /// What the task alone asks.
    pub task: Box<dyn Objective>,
    /// By parameter.
    pub held: Arc<BTreeMap<String, Held>>,
    /// λ.
    pub weight: f32,
}

impl Objective for Elastic {
    fn embed(&self, towers: &Towers, batch: &Batch, seed: u64) -> Result<Embeddings, MethodError> {
        self.task.embed(towers, batch, seed)
    }

    fn loss(&self, towers: &Towers, all: &Embeddings) -> Result<LossTerms, MethodError> {
        let terms = self.task.loss(towers, all)?;
        Ok(match losses::elastic(towers, &self.held, self.weight) {
            Some(pull) => terms.plus("elastic", pull),
            None => terms,
        })
    }

    fn before_step(&self, towers: Towers, done: f64) -> Towers {
        self.task.before_step(towers, done)
    }

    fn after_step(&self, towers: Towers) -> Towers {
        self.task.after_step(towers)
    }
}
