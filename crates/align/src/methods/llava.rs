//! LLaVA (Liu et al. 2023, arXiv 2304.08485; 1.5: 2310.03744): a connector turns a picture's patches into rows that a language model reads like words. Stage
//! `align`: the connector alone learns, from captions. Stage `tune`: the language model learns with it, through LoRA or as a whole, from questions and answers.
//!
//! The loss is the mean cross-entropy of the answers' tokens. A sample's row is the sum over its tokens and their number, so that the loss of a batch is that of
//! all its tokens however it is taken apart; logits exist for a block of the vocabulary at a time.

use bifocal_models::adapter::Head;
use bifocal_models::chat::{Sequence, Style, Template};
use bifocal_models::connector::flamingo::{Flamingo, Looks};
use bifocal_models::connector::{Tap, splice};
use bifocal_models::text::{Llm, TextTower};
use bifocal_models::towers::Towers;
use bifocal_nn::engine::tensor;
use bifocal_nn::noise::{self, Noise};
use bifocal_nn::{Tensor, fused};

use super::{BatchNeeds, DialogueNeeds, Entry, LossTerms, MethodError, Objective, Stage, frozen, learns};
use crate::batch::{Batch, Dialogues, Embeddings, Images, Part, Texts};
use crate::random::mix;
use crate::recipe::{FreezeRule, HeadKind, Recipe};

pub(super) const ENTRY: Entry = Entry {
    name: "llava",
    summary: "a connector lets a language model read pictures; then both learn from questions and answers (LLaVA, arXiv 2304.08485)",
    stages: &["align", "tune"],
    defaults: r#"
[image_head]
kind = "mlp"
layers = 2
ratio = 0
activation = "gelu"
[text_head]
kind = "identity"
[text]
attention = "causal"
[optimizer]
lr = 1e-3
weight_decay = 0.0
betas = [0.9, 0.999]
eps = 1e-8
clip_norm = 1.0
[schedule]
warmup = 0.03
[stage.tune]
skip = true
lora = { rank = 128, alpha = 256.0, dropout = 0.05, targets = ["text.*"] }
optimizer = { lr = 2e-4 }
freeze = [{ pattern = "image_head.*", frozen = false, lr = 0.1 }]
"#,
    build: |name, recipe| match name {
        "align" => stage("align", Template::of(Style::Plain), recipe),
        _ => {
            let template = Template {
                style: recipe.chat.template,
                system: recipe.chat.system.clone(),
            };
            stage("tune", template, recipe)
        }
    },
};

fn stage(name: &'static str, template: Template, recipe: &Recipe) -> Stage {
    let mut rules = connector(recipe);
    if name == "tune" {
        // without adapters the whole model learns
        rules.push(learns(if recipe.lora.rank > 0 {
            "text.*.lora.*"
        } else {
            "text.*"
        }));
    }
    Stage {
        name,
        rules,
        needs: needs(template, recipe),
        keeps_teacher: false,
        elastic: false,
        projector: None,
        objective: Box::new(Llava { tap: recipe.chat.tap() }),
    }
}

/// The connector learns: of a Q-Former what rows for a language model come from, not what reads texts.
pub(super) fn connector(recipe: &Recipe) -> Vec<FreezeRule> {
    let mut rules = vec![frozen("*"), learns("image_head.*")];
    if recipe.image_head.kind == HeadKind::QFormer {
        rules.extend(READS_TEXTS.map(frozen));
    }
    rules
}

/// What a Q-Former has for texts and for comparing.
const READS_TEXTS: [&str; 3] = [
    "image_head.temperature",
    "image_head.qformer.text.*",
    "image_head.qformer.layers.*.text_mlp.*",
];

/// Dialogues about pictures.
pub(super) fn needs(template: Template, recipe: &Recipe) -> BatchNeeds {
    BatchNeeds {
        dialogue: Some(DialogueNeeds {
            template,
            questions: recipe.chat.questions.clone(),
            tap: recipe.chat.tap(),
            cache: recipe.chat.cache,
            draws: false,
            max_tokens: recipe.chat.max_tokens,
        }),
        ..BatchNeeds::pictures(1)
    }
}

/// Next-token prediction of answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Llava {
    pub(super) tap: Tap,
}

impl Objective for Llava {
    fn embed(&self, towers: &Towers, batch: &Batch, seed: u64) -> Result<Embeddings, MethodError> {
        let Texts::Dialogues(dialogues) = &batch.texts else {
            return Err(MethodError::NoRows { part: Part::Answers });
        };
        let trouble = |tower, message: &str| MethodError::Tower {
            tower,
            message: message.to_owned(),
        };
        let Some(TextTower::Llm(llm)) = &towers.text else {
            return Err(MethodError::NoTower {
                what: "dialogues",
                tower: "text",
            });
        };
        let (patches, seen) = patches(self.tap, towers, batch)?;
        let each = towers.image_head.connected(seen);
        let longest = dialogues.all.iter().map(|s| s.rows(each)).max().unwrap_or(0);
        if longest > llm.config().context {
            return Err(trouble(
                "text",
                "a dialogue is longer than it reads; lower chat.max_tokens",
            ));
        }
        let before = dialogues.before[0] + dialogues.before[1] * each;
        let noise = Noise::new(mix(seed, Part::Answers as u64, 0)).after(before, batch.first[0]);
        let rows = noise::scope(noise, || {
            let looks = match &towers.image_head {
                Head::Flamingo(flamingo) => Some(look(flamingo, dialogues, batch, &patches)),
                _ => None,
            };
            let (pictures, _) = towers.image_head.connect(patches, seen, true);
            answers(
                llm,
                dialogues,
                batch.positives.of_text(),
                (pictures, each),
                looks.as_ref(),
            )
        });
        let rows = rows.ok_or_else(|| trouble("text", "it was opened without its output layer"))?;
        Ok(Embeddings::of(batch).with(Part::Answers, rows))
    }

    fn loss(&self, _towers: &Towers, all: &Embeddings) -> Result<LossTerms, MethodError> {
        let rows = all.get(Part::Answers)?;
        let [n, _] = rows.dims();
        let column = |i: usize| rows.clone().slice([0..n, i..i + 1]).sum();
        // a batch of which nothing is learnt has a loss of 0
        Ok(LossTerms::one("tokens", column(0) / column(1).detach().clamp_min(1.0)))
    }
}

/// Vectors of the pictures' patches, and how many a picture has.
pub(super) fn patches(tap: Tap, towers: &Towers, batch: &Batch) -> Result<(Tensor<2>, usize), MethodError> {
    let images = batch
        .images
        .as_ref()
        .ok_or(MethodError::NoRows { part: Part::Images })?;
    match images {
        Images::Patches { rows, each } => Ok((rows.clone(), *each)),
        Images::Features(_) | Images::Codes { .. } | Images::Drawn { .. } => {
            Err(MethodError::NoRows { part: Part::Images })
        }
        Images::Pixels(pixels) => {
            let tower = towers.vision.as_ref().ok_or(MethodError::NoTower {
                what: "pixels",
                tower: "vision",
            })?;
            tap.read(tower, pixels).ok_or_else(|| MethodError::Tower {
                tower: "vision",
                message: "it has no patches in that layer; set chat.layer, or take a vision transformer".to_owned(),
            })
        }
    }
}

/// What each dialogue looks at between the language model's layers: its picture, from the mark on.
fn look<'a>(flamingo: &'a Flamingo, dialogues: &Dialogues, batch: &Batch, patches: &Tensor<2>) -> Looks<'a> {
    let media = flamingo.media(patches.clone(), batch.len());
    let latents = flamingo.config().latents as u32;
    let owners = batch.positives.of_text().iter();
    // far fewer than 2³² vectors fit into a batch
    let rows = owners.flat_map(|&owner| owner as u32 * latents..(owner as u32 + 1) * latents);
    let media = fused::embedding(media, &rows.collect());
    Looks::new(flamingo, media, dialogues.all.iter().map(|s| s.image).collect())
}

/// Of each dialogue the sum of the losses of what is learnt of it, and how many tokens that is.
///
/// # Shapes
/// `pictures` `[n·each, width]`, `owners`: whose picture each of the `m` dialogues is about → `[m, 2]`.
pub(super) fn answers(
    llm: &Llm,
    dialogues: &Dialogues,
    owners: &[usize],
    (pictures, each): (Tensor<2>, usize),
    looks: Option<&Looks<'_>>,
) -> Option<Tensor<2>> {
    let output = llm.output()?;
    let all = &dialogues.all;
    // a sum of nothing that still hangs together with what learns
    let nothing = pictures.clone().slice([0..1, 0..1]) * 0.0;
    let (x, tokens) = splice(llm, all, owners, Some(pictures), each);
    let (mut rows, mut targets, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
    for (sequence, &start) in all.iter().zip(tokens.offsets.iter()) {
        for (row, target) in Sequence::targets(sequence, each) {
            rows.push((start + row) as u32);
            targets.push(target);
        }
        offsets.push(rows.len());
    }
    let counts: Vec<f32> = offsets.windows(2).map(|o| (o[1] - o[0]) as f32).collect();
    let m = counts.len();
    let counts = tensor(counts, [m, 1]);
    let sums = if rows.is_empty() {
        nothing.repeat_dim(0, m)
    } else {
        let hidden = match looks {
            Some(looks) => llm.hidden_looking(x, &tokens, looks),
            None => llm.hidden_of_rows(x, &tokens),
        };
        let losses = fused::token_loss(fused::embedding(hidden, &rows.into()), &output, &targets.into());
        fused::segment_mean(losses, &offsets.into()) * counts.clone()
    };
    Some(Tensor::cat(vec![sums, counts], 1))
}
