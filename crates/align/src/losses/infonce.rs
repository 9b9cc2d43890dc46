//! Symmetric InfoNCE (CLIP, arXiv 2103.00020, figure 3), with any number of texts per picture.

use std::sync::Arc;

use bifocal_nn::Tensor;
use bifocal_nn::engine::tensor;
use bifocal_nn::fused::{Softmax, Targets, embedding, softmax_pairs};

use super::{Positives, Shard, stack};

/// ½ [CE(images → texts) + CE(texts → images)] on `scale · ⟨image, text⟩`.
///
/// With one text per picture this is CLIP's loss. With several, a picture's target is uniform over its own texts (cross-entropy
/// with soft labels), and each text's target is its picture; the texts are then weighted so that every
/// picture counts alike.
///
/// # Shapes
/// `images` `[n, d]` and `texts` `[m, d]`, rows of unit length; `scale` `[1]`; the result `[1]`.
pub fn infonce(images: Tensor<2>, texts: Tensor<2>, scale: Tensor<1>, positives: &Positives) -> Tensor<1> {
    infonce_with(images, texts, None, scale, positives)
}

/// As [`infonce`], with texts that belong to no picture (hard negatives, NegCLIP: arXiv 2210.01936): each picture must tell its own texts from
/// them too. They have no direction of their own, since no picture is theirs.
///
/// # Shapes
/// As [`infonce`]; `extra` `[k, d]`.
pub fn infonce_with(
    images: Tensor<2>,
    texts: Tensor<2>,
    extra: Option<Tensor<2>>,
    scale: Tensor<1>,
    positives: &Positives,
) -> Tensor<1> {
    let n = positives.images();
    let half = 0.5 / n as f32;
    let others = extra.as_ref().map_or(0, |extra| extra.dims()[0]);
    let mut by_text: Vec<f32> = positives.shares().iter().map(|share| share * half).collect();
    by_text.resize(by_text.len() + others, 0.0);
    let what = Softmax::new(positives.targets(0..n, others), vec![half; n], by_text);
    let candidates = match extra {
        Some(extra) => stack(vec![texts, extra]),
        None => texts,
    };
    softmax_pairs(images, candidates, scale, &Arc::new(what))
}

/// What label smoothing adds to [`infonce_with`] for each unit of the share that it spreads evenly over all candidates: with targets (1 − ε)·own + ε·even,
/// the loss is `infonce_with + ε·smoothing`.
///
/// The cross-entropy to an even target is the one to a picture's own texts plus how much more similar those are than all candidates are on the mean; and
/// the mean over all pairs is the product of two mean rows, so that this takes no pass over the pairs.
///
/// # Shapes
/// As [`infonce_with`].
pub fn smoothing(
    images: Tensor<2>,
    texts: Tensor<2>,
    extra: Option<Tensor<2>>,
    scale: Tensor<1>,
    positives: &Positives,
) -> Tensor<1> {
    let n = positives.images();
    let owners: Vec<u32> = positives.of_text().iter().map(|&image| image as u32).collect();
    let share = |share: &f32| share / n as f32;
    // every picture counts alike
    let by_text = tensor(positives.shares().iter().map(share).collect(), [1, owners.len()]);
    let own = (embedding(images.clone(), &owners.into()) * texts.clone()).sum_dim(1);
    let own = by_text.clone().matmul(own);
    let picture = images.mean_dim(0);
    let asked = by_text.matmul(texts.clone());
    let candidate = match extra {
        Some(extra) => stack(vec![texts, extra]),
        None => texts,
    };
    let candidate = candidate.mean_dim(0);
    let even = (picture * (asked + candidate)).sum_dim(1) * 0.5;
    scale * (own - even).reshape([1])
}

/// One process's part of [`infonce`] over a batch that several hold: its pictures against all texts, and its texts against all pictures.
///
/// The mean over the processes is the loss of the whole batch, and so are the gradients, if `all_images` and `all_texts` pass gradients back to
/// the processes that they came from, and if each process has as many pictures (open_clip's `--local-loss --gather-with-grad`).
///
/// # Shapes
/// `images` and `texts`: the rows that `shard` names of `all_images` `[n, d]` and `all_texts` `[m, d]`; `scale` and the result `[1]`.
pub fn infonce_local(
    images: Tensor<2>,
    texts: Tensor<2>,
    all_images: Tensor<2>,
    all_texts: Tensor<2>,
    scale: Tensor<1>,
    positives: &Positives,
    shard: &Shard,
) -> Tensor<1> {
    let half = 0.5 / shard.images.len() as f32;
    let columns = positives.of_text().len();
    let targets = positives.targets(shard.images.clone(), 0);
    let by_image = Softmax::new(targets, vec![half; shard.images.len()], vec![0.0; columns]);
    let own = shard
        .texts
        .clone()
        .map(|j| (j - shard.texts.start, positives.of_text()[j]));
    let Some(targets) = Targets::new(shard.texts.len(), positives.images(), own) else {
        unreachable!("each text has one picture, and it is below `images`")
    };
    let shares = positives.shares()[shard.texts.clone()]
        .iter()
        .map(|share| share * half)
        .collect();
    let by_text = Softmax::new(targets, shares, vec![0.0; positives.images()]);
    softmax_pairs(images, all_texts, scale.clone(), &Arc::new(by_image))
        + softmax_pairs(texts, all_images, scale, &Arc::new(by_text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::testing::{self, Case, Leaves};

    /// The definition, entry by entry, in f64.
    fn naive(case: &Case) -> f64 {
        let z = |i: usize, j: usize| f64::from(case.scale) * case.dot(i, j);
        let (n, m) = (case.positives.images(), case.positives.of_text().len());
        let mut total = 0.0;
        for (j, &i) in case.positives.of_text().iter().enumerate() {
            let mates = case.positives.of_text().iter().filter(|&&k| k == i).count();
            let to_extra = (0..case.extra.len() / case.dim).map(|k| f64::from(case.scale) * case.dot_extra(i, k));
            let row: f64 = testing::log_sum_exp((0..m).map(|k| z(i, k)).chain(to_extra));
            let column: f64 = testing::log_sum_exp((0..n).map(|k| z(k, j)));
            total += (row + column - 2.0 * z(i, j)) / mates as f64;
        }
        total / (2 * n) as f64
    }

    fn loss(case: &Case, of: Leaves) -> Tensor<1> {
        let extra = (!case.extra.is_empty()).then_some(of.extra);
        infonce_with(of.images, of.texts, extra, of.scale, &case.positives)
    }

    const SMOOTHED: f32 = 0.2;

    /// With an even part of each target, as PyTorch's `label_smoothing` has it.
    fn naive_smoothed(case: &Case) -> f64 {
        let (n, m) = (case.positives.images(), case.positives.of_text().len());
        let (others, scale) = (case.extra.len() / case.dim, f64::from(case.scale));
        let even = |i: usize| {
            let own: f64 = (0..m).map(|j| case.dot(i, j)).sum();
            (own + (0..others).map(|k| case.dot_extra(i, k)).sum::<f64>()) / (m + others) as f64
        };
        let mut total = 0.0;
        for (j, &i) in case.positives.of_text().iter().enumerate() {
            let mates = case.positives.of_text().iter().filter(|&&k| k == i).count();
            let column = (0..n).map(|k| case.dot(k, j)).sum::<f64>() / n as f64;
            total += scale * (2.0 * case.dot(i, j) - even(i) - column) / mates as f64;
        }
        naive(case) + f64::from(SMOOTHED) * total / (2 * n) as f64
    }

    fn smoothed(case: &Case, of: Leaves) -> Tensor<1> {
        let extra = (!case.extra.is_empty()).then(|| of.extra.clone());
        let more = smoothing(
            of.images.clone(),
            of.texts.clone(),
            extra,
            of.scale.clone(),
            &case.positives,
        );
        loss(case, of) + more * SMOOTHED
    }

    #[test]
    fn smoothed_targets_equal_pytorch_and_their_naive_twin_with_its_slope() {
        testing::against_fixture("infonce_smoothed", smoothed);
        testing::against_fixture("infonce_smoothed_extra", smoothed);
        for case in cases() {
            testing::close(testing::value(&case, smoothed), naive_smoothed(&case), 1e-5);
            testing::finite_differences(&case, smoothed, naive_smoothed);
        }
    }

    fn cases() -> Vec<Case> {
        let mut cases = Case::several();
        let with_extra = |case: &Case, k| case.clone().with_extra(k);
        cases.extend([with_extra(&cases[0], 4), with_extra(&cases[1], 1)]);
        cases
    }

    #[test]
    fn equals_the_published_numbers() {
        let case = Case::golden(1.0 / 0.07);
        testing::close(testing::value(&case, loss), 3.455_154_766_4, 1e-5);
        let case = Case::golden(1.0);
        testing::close(testing::value(&case, loss), 0.970_935_300_9, 1e-6);
    }

    #[test]
    fn equals_pytorch_with_gradients() {
        testing::against_fixture("infonce", loss);
        testing::against_fixture("infonce_extra", loss);
    }

    #[test]
    fn equals_its_naive_twin() {
        for case in cases() {
            testing::close(testing::value(&case, loss), naive(&case), 1e-5);
        }
    }

    #[test]
    fn has_the_slope_of_its_naive_twin() {
        for case in cases() {
            testing::finite_differences(&case, loss, naive);
        }
    }

    #[test]
    fn does_not_depend_on_the_order_of_the_batch() {
        for case in cases() {
            let shuffled = case.shuffled();
            testing::close(testing::value(&case, loss), testing::value(&shuffled, loss), 2e-6);
        }
    }

    #[test]
    fn huge_logits_stay_finite() {
        for scale in [1e4, -1e4] {
            let case = Case::random(6, 2, 4, scale, 0.0, 3);
            testing::close(testing::value(&case, loss), naive(&case), naive(&case).abs() * 1e-5);
            testing::finite_gradients(&case, loss);
        }
    }

    /// §7.1 of the golden numbers: three processes with a pair each.
    #[test]
    fn shards_equal_the_published_numbers() {
        let case = Case::golden(1.0 / 0.07);
        let parts = shards(&case, 3).0;
        for (found, expected) in parts.iter().zip([4.834_908_989_0, 5.526_622_940_7, 0.003_932_369_4]) {
            testing::close(*found, expected, 1e-5);
        }
    }

    /// Loss of each shard; gradients of their mean.
    fn shards(case: &Case, count: usize) -> (Vec<f64>, testing::Grads) {
        let of = case.leaves();
        let (n, m) = (case.positives.images(), case.positives.of_text().len());
        let parts: Vec<Tensor<1>> = (0..count)
            .map(|rank| {
                let shard = Shard {
                    images: n * rank / count..n * (rank + 1) / count,
                    texts: m * rank / count..m * (rank + 1) / count,
                };
                let rows =
                    |all: &Tensor<2>, range: &std::ops::Range<usize>| all.clone().slice([range.clone(), 0..case.dim]);
                infonce_local(
                    rows(&of.images, &shard.images),
                    rows(&of.texts, &shard.texts),
                    of.images.clone(),
                    of.texts.clone(),
                    of.scale.clone(),
                    &case.positives,
                    &shard,
                )
            })
            .collect();
        let values = parts
            .iter()
            .map(|part| f64::from(bifocal_nn::engine::scalar(part.clone())));
        let values = values.collect();
        let mean = Tensor::cat(parts, 0).mean();
        (values, of.gradients(mean))
    }

    #[test]
    fn the_mean_over_shards_is_the_loss_of_the_whole() {
        for case in [Case::random(6, 1, 5, 14.3, 0.0, 1), Case::random(4, 3, 6, 3.0, 0.0, 2)] {
            for count in [1, 2] {
                let (parts, grads) = shards(&case, count);
                let mean = parts.iter().sum::<f64>() / count as f64;
                testing::close(mean, testing::value(&case, loss), 1e-6);
                grads.close(&testing::gradients(&case, loss), 1e-5);
            }
        }
    }
}
