//! One language model that reads pictures and draws them, on the tokens of TokLIP (arXiv 2505.05422): each sample is read once as a picture and then its
//! caption, and once as a caption and then its picture, code by code. Codebook and token encoder stay as they are; the layer that makes rows of codes, the
//! marks around pictures, the output layer for codes and the language model (through LoRA, or as a whole) learn.
//!
//! Both losses are means of next-token cross-entropies. A sample's row is the sum over its tokens and their number, as LLaVA's.

use std::sync::Arc;

use bifocal_models::chat::{Sequence, Style, Template};
use bifocal_models::connector::{Tap, splice};
use bifocal_models::text::{Llm, TextTower};
use bifocal_models::towers::Towers;
use bifocal_models::unified::{Drawing, after_its_text, after_nothing};
use bifocal_nn::engine::tensor;
use bifocal_nn::init::Rng;
use bifocal_nn::noise::{self, Noise};
use bifocal_nn::{Tensor, fused};

use super::llava::answers;
use super::{BatchNeeds, DialogueNeeds, Entry, LossTerms, MethodError, Objective, Stage, frozen, learns};
use crate::batch::{Batch, Embeddings, Images, Part, Texts};
use crate::random::{UNGUIDED, mix};
use crate::recipe::UnifiedSpec;

pub(super) const ENTRY: Entry = Entry {
    name: "unified",
    summary: "a language model reads pictures and draws them, code by code, on TokLIP's tokens (arXiv 2505.05422)",
    stages: &["tune"],
    defaults: r#"
[image_head]
kind = "linear"
[text_head]
kind = "identity"
[text]
attention = "causal"
[chat]
pad = false
[lora]
rank = 16
alpha = 32.0
targets = ["text.*"]
[optimizer]
lr = 1e-3
weight_decay = 0.0
betas = [0.9, 0.999]
eps = 1e-8
clip_norm = 1.0
[schedule]
warmup = 0.03
"#,
    build: |_, recipe| {
        let text = if recipe.lora.rank > 0 {
            "text.*.lora.*"
        } else {
            "text.*"
        };
        Stage {
            name: "tune",
            rules: vec![frozen("*"), learns("image_head.*"), learns("drawing.*"), learns(text)],
            needs: BatchNeeds {
                dialogue: Some(DialogueNeeds {
                    template: Template::of(Style::Plain),
                    questions: recipe.chat.questions.clone(),
                    tap: Tap::default(),
                    cache: true,
                    draws: true,
                    max_tokens: recipe.chat.max_tokens,
                }),
                ..BatchNeeds::pictures(1)
            },
            keeps_teacher: false,
            elastic: false,
            projector: None,
            objective: Box::new(Unified {
                spec: recipe.unified.clone(),
            }),
        }
    },
};

/// Next-token prediction of captions and of codes.
#[derive(Clone, Debug)]
struct Unified {
    spec: UnifiedSpec,
}

impl Objective for Unified {
    fn embed(&self, towers: &Towers, batch: &Batch, seed: u64) -> Result<Embeddings, MethodError> {
        let Texts::Dialogues(dialogues) = &batch.texts else {
            return Err(MethodError::NoRows { part: Part::Answers });
        };
        let Some(Images::Drawn { codes, looks, each }) = &batch.images else {
            return Err(MethodError::NoRows { part: Part::Images });
        };
        let trouble = |message: &str| MethodError::Tower {
            tower: "text",
            message: message.to_owned(),
        };
        let Some(TextTower::Llm(llm)) = &towers.text else {
            return Err(MethodError::NoTower {
                what: "dialogues",
                tower: "text",
            });
        };
        let drawing = towers.drawing.as_ref().ok_or(MethodError::NoTower {
            what: "codes",
            tower: "text",
        })?;
        let (each, owners) = (*each, batch.positives.of_text());
        let longest = dialogues.all.iter().map(|s| s.ids.len()).max().unwrap_or(0);
        if longest + Drawing::rows(each) > llm.config().context {
            return Err(trouble(
                "a caption with its picture is longer than it reads; lower chat.max_tokens, or take a tower of fewer codes",
            ));
        }
        let noise = |part: Part, rows: usize| {
            let before = dialogues.before[0] + dialogues.before[1] * rows;
            Noise::new(mix(seed, part as u64, 0)).after(before, batch.first[0])
        };
        let rows = noise::scope(noise(Part::Images, each), || {
            towers.image_head.forward(looks.clone(), true)
        });
        let mut all = Embeddings::of(batch);
        if self.spec.read > 0.0 {
            let framed = drawing.framed(rows.clone(), each);
            let read = noise::scope(noise(Part::Answers, Drawing::rows(each)), || {
                answers(llm, dialogues, owners, (framed, Drawing::rows(each)), None)
            });
            let read = read.ok_or_else(|| trouble("it was opened without its output layer"))?;
            all = all.with(Part::Answers, read);
        }
        if self.spec.draw > 0.0 {
            let numbered = dialogues.all.iter().zip(batch.first[1]..);
            let texts: Vec<Sequence> = numbered
                .map(|(read, place)| {
                    match f64::from(Rng::new(mix(seed, UNGUIDED, place as u64)).unit()) < self.spec.drop {
                        // by its place in the step, so that pieces of a batch leave out what the whole would
                        true => after_nothing(read),
                        false => after_its_text(read),
                    }
                })
                .collect();
            let drawn = noise::scope(noise(Part::Drawn, each), || {
                drawn(llm, drawing, &texts, owners, rows, codes, each)
            });
            all = all.with(Part::Drawn, drawn);
        }
        Ok(all)
    }

    fn loss(&self, _towers: &Towers, all: &Embeddings) -> Result<LossTerms, MethodError> {
        let mean = |part: Part, weight: f32| {
            let rows = all.get(part)?;
            let [n, _] = rows.dims();
            let column = |i: usize| rows.clone().slice([0..n, i..i + 1]).sum();
            // a batch of which nothing is learnt has a loss of 0
            Ok::<_, MethodError>(column(0) / column(1).detach().clamp_min(1.0) * weight)
        };
        let UnifiedSpec { read, draw, .. } = self.spec;
        match (read > 0.0, draw > 0.0) {
            (true, true) => {
                Ok(LossTerms::one("captions", mean(Part::Answers, read)?).plus("codes", mean(Part::Drawn, draw)?))
            }
            (true, false) => Ok(LossTerms::one("captions", mean(Part::Answers, read)?)),
            _ => Ok(LossTerms::one("codes", mean(Part::Drawn, draw)?)),
        }
    }
}

/// Of each picture the sum of the losses of its codes, and how many these are.
///
/// # Shapes
/// `rows` `[n·each, width]`, `codes` `[n·each]`, `owners`: which picture follows each of the `m` texts → `[m, 2]`.
fn drawn(
    llm: &Llm,
    drawing: &Drawing,
    texts: &[Sequence],
    owners: &[usize],
    rows: Tensor<2>,
    codes: &Arc<[u32]>,
    each: usize,
) -> Tensor<2> {
    let (x, tokens) = splice(llm, texts, owners, Some(drawing.unfinished(rows, each)), each);
    // a picture's rows are the last of its text
    let places = tokens.offsets.iter().skip(1).flat_map(|&end| end - each..end);
    let places: Arc<[u32]> = places.map(|place| place as u32).collect();
    let targets: Arc<[u32]> = owners
        .iter()
        .flat_map(|&o| codes[o * each..(o + 1) * each].iter().copied())
        .collect();
    let hidden = fused::embedding(llm.hidden_of_rows(x, &tokens), &places);
    let losses = fused::choice_loss(drawing.logits(hidden), &targets);
    let m = texts.len();
    let offsets: Arc<[usize]> = (0..=m).map(|i| i * each).collect();
    let sums = fused::segment_mean(losses, &offsets) * each as f32;
    Tensor::cat(vec![sums, tensor(vec![each as f32; m], [m, 1])], 1)
}
