//! CLIP (arXiv 2103.00020): both towers and both projections learn, symmetric InfoNCE.

use super::{Contrastive, Entry};

pub(super) const ENTRY: Entry = Entry {
    name: "clip",
    summary: "both towers learn; symmetric InfoNCE (CLIP, arXiv 2103.00020)",
    stages: &["contrastive"],
    defaults: r#"
[image_head]
kind = "linear"
[text_head]
kind = "linear"
[loss]
kind = "infonce"
scale_max = 100.0
[optimizer]
lr = 5e-4
weight_decay = 0.2
betas = [0.9, 0.98]
eps = 1e-6
"#,
    build: |_, recipe| Contrastive::stage("contrastive", Vec::new(), recipe),
};
