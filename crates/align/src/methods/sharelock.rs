//! ShareLock (Ruthardt et al. 2024): both towers are locked, an MLP on the side of the texts learns to land where the vision tower is; the
//! scale of similarities stays at its first value.

use super::{Contrastive, Entry, frozen};

pub(super) const ENTRY: Entry = Entry {
    name: "sharelock",
    summary: "both towers locked, an MLP on the text side learns; InfoNCE with a fixed scale (ShareLock)",
    stages: &["heads"],
    defaults: r#"
[image_head]
kind = "identity"
[text_head]
kind = "mlp"
layers = 4
ratio = 1
batch_norm = true
activation = "relu"
dropout = 0.2
[loss]
kind = "infonce"
[optimizer]
kind = "adam"
lr = 1e-3
weight_decay = 1e-4
decay = "all"
betas = [0.9, 0.999]
eps = 1e-8
clip_norm = 1.0
[schedule]
steps = 5000
warmup = 150.0
"#,
    build: |_, recipe| {
        Contrastive::stage(
            "heads",
            vec![frozen("vision.*"), frozen("text.*"), frozen("logit_scale")],
            recipe,
        )
    },
};
