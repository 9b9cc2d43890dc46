//! LiT (arXiv 2111.07991): the vision tower is locked, everything on the side of the texts learns. With a language model as text tower and
//! its cached embeddings (`text.*` frozen in the recipe), this is the baseline "LiT" of ProCLIP.

use super::{Contrastive, Entry, frozen};

pub(super) const ENTRY: Entry = Entry {
    name: "lit",
    summary: "vision tower locked, text side learns; symmetric InfoNCE (LiT, arXiv 2111.07991)",
    stages: &["contrastive"],
    defaults: r#"
[image_head]
kind = "identity"
[text_head]
kind = "linear"
[loss]
kind = "infonce"
scale_init = 10.0
scale_max = 100.0
[optimizer]
lr = 1e-3
weight_decay = 1e-2
betas = [0.9, 0.999]
eps = 1e-8
clip_norm = 1.0
[schedule]
warmup = 0.03
"#,
    build: |_, recipe| Contrastive::stage("contrastive", vec![frozen("vision.*")], recipe),
};
