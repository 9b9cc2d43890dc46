//! LLM2CLIP, stage 2 (arXiv 2411.04997): a frozen language model whose caption embeddings are computed once, a residual adaptor on
//! top of them, and a vision tower that learns whole, with a new projection.

use super::{Contrastive, Entry, Stage, frozen};

pub(super) const ENTRY: Entry = Entry {
    name: "llm2clip",
    summary: "frozen language model with cached embeddings, residual adaptor and vision tower learn (LLM2CLIP)",
    defaults: r#"
embed_dim = 1280
[image_head]
kind = "linear"
[text_head]
kind = "residual"
blocks = 4
ratio = 2
normalize_input = true
[loss]
kind = "infonce"
scale_max = 100.0
[optimizer]
lr = 1e-5
weight_decay = 0.05
betas = [0.9, 0.999]
eps = 1e-8
clip_norm = 5.0
"#,
    build: |recipe| {
        let stage = Stage {
            name: "contrastive",
            rules: vec![frozen("text.*")],
        };
        Box::new(Contrastive::new(stage, recipe))
    },
};
