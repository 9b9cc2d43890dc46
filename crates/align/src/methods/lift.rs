//! LIFT (arXiv 2506.04209): the texts' embeddings, computed once by a frozen language model, are the space; the vision tower and an MLP on
//! its side learn to reach it, with InfoNCE or with the cosine of the pairs alone (`loss.kind = "cosine"`).

use super::{Contrastive, Entry, frozen};

pub(super) const ENTRY: Entry = Entry {
    name: "lift",
    summary: "frozen text embeddings are the space, the image side learns; InfoNCE or cosine (LIFT, arXiv 2506.04209)",
    stages: &["contrastive"],
    defaults: r#"
[image_head]
kind = "mlp"
layers = 2
ratio = 0
activation = "gelu"
[text_head]
kind = "identity"
[loss]
kind = "infonce"
scale_max = 100.0
[optimizer]
lr = 1e-3
weight_decay = 0.2
betas = [0.9, 0.98]
eps = 1e-6
[schedule]
warmup = 500.0
"#,
    build: |_, recipe| Contrastive::stage("contrastive", vec![frozen("text.*")], recipe),
};
