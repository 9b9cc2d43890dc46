//! BLIP-2 (Li et al. 2023, arXiv 2301.12597): a Q-Former, whose queries look at a frozen tower's patches, learns what of a picture texts speak about (stage
//! `represent`), then to say it in rows that a frozen language model reads (stage `generate`).
//!
//! Stage `represent` has three losses of weight 1. Contrast (ITC) and description (ITG) need each sample alone and one pass. Matching (ITM) reads pictures
//! with texts of others, which the whole batch decides: so patches, tokens and the numbers that pairs are drawn with are rows of a sample too, and the
//! loss runs the Q-Former on the pairs. The draws come from the step's seed and a sample's place, and not from a state that a resumed run would lack.

use bifocal_models::adapter::{Head, QFormerHead};
use bifocal_models::chat::{Style, Template};
use bifocal_models::connector::Tap;
use bifocal_models::text::TokenBatch;
use bifocal_models::towers::Towers;
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::init::Rng;
use bifocal_nn::{Tensor, fused};

use super::llava::{Llava, connector, needs, patches};
use super::{BatchNeeds, Entry, LossTerms, MethodError, Objective, Stage, TrunkNeeds, frozen, learns};
use crate::batch::{Batch, Embeddings, Part, Texts};
use crate::losses::{hard_negatives, matching, query_contrast, query_similarities, word_losses};
use crate::random::{PAIRS, mix};
use crate::recipe::Recipe;

pub(super) const ENTRY: Entry = Entry {
    name: "blip2",
    summary: "a Q-Former learns what texts say of pictures, then to tell it to a frozen language model (BLIP-2, arXiv 2301.12597)",
    stages: &["represent", "generate"],
    defaults: r#"
[image_head]
kind = "qformer"
[text_head]
kind = "identity"
[text]
attention = "causal"
[optimizer]
lr = 1e-4
weight_decay = 0.05
betas = [0.9, 0.999]
eps = 1e-8
clip_norm = 1.0
[schedule]
warmup = 0.03
"#,
    build: |name, recipe| match name {
        "represent" => represent(recipe),
        _ => Stage {
            name: "generate",
            rules: connector(recipe),
            needs: needs(Template::of(Style::Plain), recipe),
            keeps_teacher: false,
            elastic: false,
            projector: None,
            objective: Box::new(Llava { tap: recipe.chat.tap() }),
        },
    },
};

fn represent(recipe: &Recipe) -> Stage {
    let objective = Represent {
        tap: recipe.chat.tap(),
        max_tokens: recipe.qformer.max_tokens,
        smoothing: recipe.qformer.smoothing,
    };
    Stage {
        name: "represent",
        rules: vec![frozen("*"), learns("image_head.*"), frozen("image_head.out.*")],
        needs: BatchNeeds {
            trunk: Some(TrunkNeeds {
                tap: objective.tap,
                cache: recipe.chat.cache,
                max_tokens: objective.max_tokens,
            }),
            ..BatchNeeds::pictures(1)
        },
        keeps_teacher: false,
        elastic: false,
        projector: None,
        objective: Box::new(objective),
    }
}

/// Contrast, matching, description.
#[derive(Clone, Copy, Debug)]
struct Represent {
    tap: Tap,
    /// No text of a batch is longer.
    max_tokens: usize,
    smoothing: f32,
}

impl Objective for Represent {
    fn embed(&self, towers: &Towers, batch: &Batch, seed: u64) -> Result<Embeddings, MethodError> {
        let Texts::Tokens(tokens) = &batch.texts else {
            return Err(MethodError::NoRows { part: Part::Texts });
        };
        let head = head(towers)?;
        let (rows, each) = patches(self.tap, towers, batch)?;
        // a picture that is drawn twice comes once, with two texts
        let ids = tokens.batch.offsets.windows(2);
        let ids: Vec<&[u32]> = ids.map(|bounds| &tokens.batch.ids[bounds[0]..bounds[1]]).collect();
        let ids: Vec<Vec<u32>> = batch
            .positives
            .firsts()
            .iter()
            .map(|&text| ids[text as usize].to_vec())
            .collect();
        let n = ids.len();
        let texts = TokenBatch::pack(&ids);
        let read = head.read(rows.clone(), &texts).ok_or_else(blind)?;
        let (mut next, mut offsets) = (Vec::new(), vec![0]);
        for bounds in texts.offsets.windows(2) {
            next.extend((bounds[0] + 1..bounds[1]).map(|at| (at as u32 - 1, texts.ids[at])));
            offsets.push(next.len());
        }
        let counts: Vec<f32> = offsets.windows(2).map(|o| (o[1] - o[0]) as f32).collect();
        let counts = tensor(counts, [n, 1]);
        let told = match next.is_empty() {
            true => read.words.clone().slice([0..1, 0..1]).repeat_dim(0, n) * 0.0,
            false => {
                let losses = word_losses(read.words, &next, self.smoothing);
                fused::segment_mean(losses, &offsets.into()) * counts.clone()
            }
        };
        let draws = (0..n as u64).flat_map(|i| {
            let mut rng = Rng::new(mix(seed, PAIRS, batch.first[0] as u64 + i));
            [rng.unit(), rng.unit()]
        });
        let width = rows.dims()[1];
        Ok(Embeddings::of(batch)
            .with(Part::Images, read.images)
            .with(Part::Texts, read.texts)
            .with(Part::Answers, Tensor::cat(vec![told, counts], 1))
            .with(Part::Patches, rows.reshape([n, each * width]))
            .with(Part::Words, numbers(&ids, self.max_tokens))
            .with(Part::Draws, tensor(draws.collect(), [n, 2])))
    }

    fn loss(&self, towers: &Towers, all: &Embeddings) -> Result<LossTerms, MethodError> {
        let head = head(towers)?;
        let [n, pixels] = all.get(Part::Patches)?.dims();
        let (width, queries) = (head.config().image_width, head.config().queries);
        let similarities = query_similarities(all.get(Part::Images)?, all.get(Part::Texts)?, queries);
        let temperature = head.temperature();
        let logits = similarities.clone() / temperature.clone().unsqueeze::<2>();
        let (pictures, texts) = hard_negatives(&values(logits), &values(all.get(Part::Draws)?));
        // true pairs, then pictures that do not belong to the texts, then texts that do not belong to the pictures
        let own = || 0..n as u32;
        let (wrong_pictures, wrong_texts) = (pictures.is_empty(), texts.is_empty());
        let pictures: Vec<u32> = own().chain(pictures).chain(own().filter(|_| !wrong_texts)).collect();
        let texts: Vec<u32> = own().chain(own().filter(|_| !wrong_pictures)).chain(texts).collect();
        let pairs = pictures.len();
        // nothing learns through them: they are the frozen tower's
        let patches = fused::embedding(all.get(Part::Patches)?.detach(), &pictures.into());
        let patches = patches.reshape([pairs * pixels / width.max(1), width]);
        let ids = ids(&values(all.get(Part::Words)?), n);
        let ids: Vec<Vec<u32>> = texts.iter().map(|&text| ids[text as usize].clone()).collect();
        let matches = head.matches(patches, &TokenBatch::pack(&ids)).ok_or_else(blind)?;
        let told = all.get(Part::Answers)?;
        let column = |i: usize| told.clone().slice([0..n, i..i + 1]).sum();
        let terms = LossTerms::one("contrast", query_contrast(similarities, temperature, self.smoothing));
        let terms = terms.plus("matching", matching(matches, n));
        Ok(terms.plus("tokens", column(0) / column(1).detach().clamp_min(1.0)))
    }
}

fn head(towers: &Towers) -> Result<&QFormerHead, MethodError> {
    match &towers.image_head {
        Head::QFormer(head) => Ok(head),
        _ => Err(blind()),
    }
}

fn blind() -> MethodError {
    MethodError::NoTower {
        what: "pictures with texts",
        tower: "Q-Former that reads texts as a",
    }
}

/// Tokens as rows of numbers; f32 holds ids exactly, vocabularies end far below 2²⁴.
fn numbers(texts: &[Vec<u32>], width: usize) -> Tensor<2> {
    let row = |ids: &Vec<u32>| {
        let ids = ids.iter().map(|&id| id as f32);
        ids.chain(std::iter::repeat(-1.0)).take(width).collect::<Vec<_>>()
    };
    tensor(texts.iter().flat_map(row).collect(), [texts.len(), width])
}

/// What [`numbers`] were made of.
fn ids(numbers: &[f32], texts: usize) -> Vec<Vec<u32>> {
    let rows = numbers.chunks_exact((numbers.len() / texts.max(1)).max(1));
    rows.map(|row| row.iter().take_while(|&&id| id >= 0.0).map(|&id| id as u32).collect())
        .collect()
}
