//! SigLIP (arXiv 2303.15343): both towers learn, every pair of picture and text is a yes-or-no question.
//!
//! The scale is not limited: the published models ended at 112 to 118 (`loss.scale_max` limits it as open_clip does).

use super::{Contrastive, Entry};

pub(super) const ENTRY: Entry = Entry {
    name: "siglip",
    summary: "both towers learn; pairwise sigmoid loss (SigLIP, arXiv 2303.15343)",
    stages: &["contrastive"],
    defaults: r#"
[image_head]
kind = "linear"
[text_head]
kind = "linear"
[loss]
kind = "sigmoid"
scale_init = 10.0
bias_init = -10.0
normalizer = "images"
[optimizer]
lr = 1e-3
weight_decay = 1e-4
betas = [0.9, 0.95]
eps = 1e-8
clip_norm = 1.0
"#,
    build: |_, recipe| Contrastive::stage("contrastive", Vec::new(), recipe),
};
