//! FLAME (Cao et al. 2024): a vision tower learns against a frozen language model that is asked about several facets of each caption
//! (`text.facets` are the questions; the vector of the last token, an opening quotation mark, is the answer). Every patch passes
//! through the head, then the mean is taken; several facets are positives of a picture.

use super::{Contrastive, Entry, frozen};

pub(super) const ENTRY: Entry = Entry {
    name: "flame",
    summary: "frozen language model asked for facets of captions, the image side learns; multi-positive sigmoid (FLAME)",
    stages: &["contrastive"],
    defaults: r#"
[text]
pooling = "last"
attention = "causal"
[image_head]
kind = "patches"
layers = 2
ratio = 0
activation = "gelu"
[text_head]
kind = "identity"
[loss]
kind = "sigmoid"
scale_init = 10.0
bias_init = -10.0
normalizer = "texts"
captions = 6
[optimizer]
lr = 5e-4
weight_decay = 0.5
betas = [0.9, 0.95]
eps = 1e-8
[schedule]
warmup = 2000.0
"#,
    build: |_, recipe| Contrastive::stage("contrastive", vec![frozen("text.*")], recipe),
};
