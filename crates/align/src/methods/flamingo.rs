//! Flamingo (Alayrac et al. 2022, arXiv 2204.14198): a frozen language model looks at a picture between its layers, through gated layers that begin closed. What it
//! looks at is what a resampler makes of a frozen tower's patches. Captions stand after the mark of their picture.
//!
//! The loss is LLaVA's: next tokens of captions. Resampler, gated layers and the mark's row learn.

use bifocal_models::chat::{Style, Template};

use super::llava::{Llava, connector, needs};
use super::{Entry, Stage};

pub(super) const ENTRY: Entry = Entry {
    name: "flamingo",
    summary: "a frozen language model looks at pictures through gated layers between its own (Flamingo, arXiv 2204.14198)",
    stages: &["align"],
    defaults: r#"
[image_head]
kind = "flamingo"
[text_head]
kind = "identity"
[text]
attention = "causal"
[optimizer]
lr = 1e-4
weight_decay = 0.1
betas = [0.9, 0.999]
eps = 1e-8
clip_norm = 1.0
[schedule]
kind = "constant"
warmup = 0.03
"#,
    build: |_, recipe| Stage {
        name: "align",
        rules: connector(recipe),
        needs: needs(Template::of(Style::Plain), recipe),
        keeps_teacher: false,
        elastic: false,
        projector: None,
        objective: Box::new(Llava { tap: recipe.chat.tap() }),
    },
};
