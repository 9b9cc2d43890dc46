//! SAIL (Zhang et al. 2024, "Assessing and Learning Alignment of Unimodal Vision and Language Models"): both towers are frozen and
//! read once, two gated heads learn with the sigmoid loss averaged over all pairs, several captions per picture are positives.

use super::{Contrastive, Entry, frozen};

pub(super) const ENTRY: Entry = Entry {
    name: "sail",
    summary: "both towers frozen, gated heads learn; sigmoid loss, several captions per picture (SAIL)",
    stages: &["heads"],
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
kind = "lion"
lr = 1e-5
weight_decay = 1e-4
decay = "all"
betas = [0.9, 0.99]
eps = 1e-8
[schedule]
warmup = 0.1
"#,
    build: |_, recipe| Contrastive::stage("heads", vec![frozen("vision.*"), frozen("text.*")], recipe),
};
