//! SAIL (Zhang et al. 2024, "Assessing and Learning Alignment of Unimodal Vision and Language Models"): both towers are frozen and
//! read once, two gated heads learn with the sigmoid loss averaged over all pairs, several captions per picture are positives.
//!
//! The published run uses Lion; here AdamW is the optimizer, with its own learning rate in the recipe.

use super::{Contrastive, Entry, Stage, frozen};

pub(super) const ENTRY: Entry = Entry {
    name: "sail",
    summary: "both towers frozen, gated heads learn; sigmoid loss, several captions per picture (SAIL)",
    defaults: r#"
[image_head]
kind = "glu"
ratio = 8
[text_head]
kind = "glu"
ratio = 8
[loss]
kind = "sigmoid"
scale_init = 20.0
scale_max = 100.0
bias_init = -10.0
normalizer = "pairs"
captions = 2
[optimizer]
lr = 1e-4
weight_decay = 1e-4
decay = "all"
betas = [0.9, 0.99]
eps = 1e-8
[schedule]
warmup = 0.1
"#,
    build: |recipe| {
        let stage = Stage {
            name: "heads",
            rules: vec![frozen("vision.*"), frozen("text.*")],
        };
        Box::new(Contrastive::new(stage, recipe))
    },
};
