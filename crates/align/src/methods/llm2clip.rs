//! LLM2CLIP (arXiv 2411.04997). Stage `caption`: a language model learns, through LoRA and on captions alone, to tell pictures apart by
//! their captions. Stage `contrastive`: it is frozen and reads each caption once; a residual adaptor on top of it and the vision tower learn.

use super::{Contrastive, Entry, caption, frozen};

pub(super) const ENTRY: Entry = Entry {
    name: "llm2clip",
    summary: "language model tuned on captions, then frozen and cached; residual adaptor and vision tower learn (LLM2CLIP)",
    stages: &["caption", "contrastive"],
    defaults: r#"
embed_dim = 1280
[image_head]
kind = "linear"
[text_head]
kind = "residual"
blocks = 4
ratio = 2
normalize_input = true
[vision]
projection = false
[loss]
kind = "infonce"
scale_pretrained = true
scale_max = 100.0
[optimizer]
lr = 1e-5
weight_decay = 0.05
betas = [0.9, 0.999]
eps = 1e-8
clip_norm = 5.0
[stage.caption]
skip = true
lora = { rank = 16, alpha = 32.0, dropout = 0.05, targets = ["text.*"] }
optimizer = { lr = 2e-4, weight_decay = 0.0 }
schedule = { warmup = 300.0 }
data = { batch = 512 }
"#,
    build: |name, recipe| match name {
        "caption" => caption::stage("caption", recipe),
        _ => Contrastive::stage("contrastive", vec![frozen("text.*")], recipe),
    },
};
