//! The three losses of BLIP-2's first stage (Li et al. 2023, arXiv 2301.12597, §3.1; constants as in its authors' code).

use std::sync::Arc;

use bifocal_nn::Tensor;
use bifocal_nn::engine::{device, tensor};
use bifocal_nn::fused::embedding;
use burn::tensor::Int;
use burn::tensor::activation::log_softmax;

/// How alike pictures and texts are: the query that fits a text best counts.
///
/// # Shapes
/// `images` `[n·queries, d]`, picture by picture, `texts` `[m, d]`, rows of unit length → `[n, m]`.
pub fn query_similarities(images: Tensor<2>, texts: Tensor<2>, queries: usize) -> Tensor<2> {
    let [rows, _] = images.dims();
    let [m, _] = texts.dims();
    let n = rows / queries.max(1);
    let all = images.matmul(texts.transpose()).reshape([n, queries, m]);
    all.max_dim(1).reshape([n, m])
}

/// ITC: mean of the cross-entropies of both directions. Targets give `smoothing` of themselves to all in equal parts.
///
/// # Shapes
/// `similarities` `[n, n]`, row and column of a number belong together; `temperature` `[1]`, they are divided by it; the result is `[1]`.
pub fn query_contrast(similarities: Tensor<2>, temperature: Tensor<1>, smoothing: f32) -> Tensor<1> {
    let [n, _] = similarities.dims();
    let logits = similarities / temperature.unsqueeze::<2>();
    let other = smoothing / n.max(1) as f32;
    let target = |at: usize| {
        if at.is_multiple_of(n + 1) {
            1.0 - smoothing + other
        } else {
            other
        }
    };
    let targets: Tensor<2> = tensor((0..n * n).map(target).collect(), [n, n]);
    let one = |logits: Tensor<2>| (log_softmax(logits, 1) * targets.clone()).sum() / -(n.max(1) as f32);
    (one(logits.clone()) + one(logits.transpose())) / 2.0
}

/// Pairs that do not belong together and look as if they did: for each text a picture drawn from the softmax over the pictures of another number, and for
/// each picture a text likewise. `draws` are even in 0…1, so that the same draws give the same pairs. Nothing when there is one pair alone.
///
/// # Shapes
/// `logits` `[n, n]`, pictures × texts, divided by the temperature; `draws` `[n, 2]`: of each number's picture and text → a picture for each text, a text for
/// each picture.
pub fn hard_negatives(logits: &[f32], draws: &[f32]) -> (Vec<u32>, Vec<u32>) {
    let n = draws.len() / 2;
    if n < 2 {
        return (Vec::new(), Vec::new());
    }
    let pick = |own: usize, draw: f32, logit: &dyn Fn(usize) -> f32| {
        let most = (0..n)
            .filter(|&i| i != own)
            .map(logit)
            .fold(f32::NEG_INFINITY, f32::max);
        let weight = |i: usize| {
            if i == own {
                0.0
            } else {
                f64::from(logit(i) - most).exp()
            }
        };
        let mut left = f64::from(draw) * (0..n).map(weight).sum::<f64>();
        let hit = (0..n).filter(|&i| i != own).find(|&i| {
            left -= weight(i);
            left < 0.0
        });
        // rounding, or similarities that are no numbers, may leave nobody
        hit.unwrap_or(if own == n - 1 { n - 2 } else { n - 1 }) as u32
    };
    let pictures = (0..n).map(|text| pick(text, draws[2 * text], &|i| logits[i * n + text]));
    let texts = (0..n).map(|picture| pick(picture, draws[2 * picture + 1], &|i| logits[picture * n + i]));
    (pictures.collect(), texts.collect())
}

/// ITM: mean cross-entropy of whether picture and text belong together.
///
/// # Shapes
/// `logits` `[k, 2]`: no, yes; the first `pairs` rows belong together, the others don't; the result is `[1]`.
pub fn matching(logits: Tensor<2>, pairs: usize) -> Tensor<1> {
    let [k, _] = logits.dims();
    let targets = (0..k).flat_map(|i| if i < pairs { [0.0, 1.0] } else { [1.0, 0.0] });
    let targets: Tensor<2> = tensor(targets.collect(), [k, 2]);
    (log_softmax(logits, 1) * targets).sum() / -(k.max(1) as f32)
}

/// ITG: of each token the cross-entropy of the one that comes next; `smoothing` of a target goes to all words in equal parts.
///
/// # Shapes
/// `logits` `[t, words]`, `next`: of some rows the word that follows → `[rows, 1]`.
pub fn word_losses(logits: Tensor<2>, next: &[(u32, u32)], smoothing: f32) -> Tensor<2> {
    let [_, words] = logits.dims();
    let rows: Arc<[u32]> = next.iter().map(|(row, _)| *row).collect();
    let targets: Vec<i32> = next.iter().map(|&(_, word)| word as i32).collect();
    let logs = log_softmax(embedding(logits, &rows), 1);
    let targets = burn::tensor::Tensor::<1, Int>::from_ints(targets.as_slice(), &device());
    let own = logs.clone().gather(1, targets.reshape([rows.len(), 1]));
    let all = logs.sum_dim(1) / words.max(1) as f32;
    (own * (1.0 - smoothing) + all * smoothing) * -1.0
}
