//! Pairwise sigmoid loss (SigLIP, arXiv 2303.15343 §3; with several captions as in SAIL and FLAME).

use std::sync::Arc;

use bifocal_nn::Tensor;
use bifocal_nn::fused::sigmoid_pairs;

use super::{Positives, Shard};

/// What the sum over all pairs is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairCount {
    /// Images × texts (SAIL: the mean over all pairs).
    Pairs,
    /// Images (SigLIP).
    Images,
    /// Texts (FLAME).
    Texts,
}

impl PairCount {
    fn of(self, images: usize, texts: usize) -> f64 {
        match self {
            PairCount::Pairs => images as f64 * texts as f64,
            PairCount::Images => images as f64,
            PairCount::Texts => texts as f64,
        }
    }
}

/// −Σ log σ(y z) over all pairs, z = `scale · ⟨image, text⟩ + bias`, y = 1 for a picture with its own text and −1 otherwise.
///
/// With k texts per picture this is SAIL's loss on the concatenation of k blocks of logits: the order of columns does not matter.
///
/// # Shapes
/// `images` `[n, d]` and `texts` `[m, d]`, rows of unit length; `scale` and `bias` `[1]`; the result `[1]`.
pub fn sigmoid(
    images: Tensor<2>,
    texts: Tensor<2>,
    scale: Tensor<1>,
    bias: Tensor<1>,
    positives: &Positives,
    divide_by: PairCount,
) -> Tensor<1> {
    let n = positives.images();
    let divisor = divide_by.of(n, positives.of_text().len());
    sigmoid_pairs(
        images,
        texts,
        scale,
        bias,
        &Arc::new(positives.targets(0..n, 0)),
        divisor,
    )
}

/// One process's part of [`sigmoid`] over a batch that several hold: its pictures against the texts of all.
///
/// The mean over the processes is the loss of the whole batch, and so are the gradients, if `all_texts` passes gradients back to
/// the processes that they came from, and if each has as many pictures.
///
/// # Shapes
/// `images`: the rows that `shard` names; `all_texts` `[m, d]`; `scale`, `bias` and the result `[1]`.
pub fn sigmoid_local(
    images: Tensor<2>,
    all_texts: Tensor<2>,
    scale: Tensor<1>,
    bias: Tensor<1>,
    positives: &Positives,
    divide_by: PairCount,
    shard: &Shard,
) -> Tensor<1> {
    let share = shard.images.len() as f64 / positives.images() as f64;
    let divisor = share * divide_by.of(positives.images(), positives.of_text().len());
    let targets = Arc::new(positives.targets(shard.images.clone(), 0));
    sigmoid_pairs(images, all_texts, scale, bias, &targets, divisor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::testing::{self, Case, Leaves};

    /// The definition, entry by entry, in f64.
    fn naive(case: &Case) -> f64 {
        let (n, m) = (case.positives.images(), case.positives.of_text().len());
        let mut total = 0.0;
        for i in 0..n {
            for j in 0..m {
                let z = f64::from(case.scale) * case.dot(i, j) + f64::from(case.bias);
                let y = if case.positives.of_text()[j] == i { 1.0 } else { -1.0 };
                let x: f64 = -y * z;
                total += x.max(0.0) + (-x.abs()).exp().ln_1p();
            }
        }
        total / n as f64
    }

    fn with(divide_by: PairCount) -> impl Fn(&Case, Leaves) -> Tensor<1> {
        move |case, of| sigmoid(of.images, of.texts, of.scale, of.bias, &case.positives, divide_by)
    }

    #[test]
    fn equals_the_published_numbers() {
        for (bias, expected) in [(-10.0, 3.679_485_715_9), (0.0, 8.507_853_101_6)] {
            let mut case = Case::golden(10.0);
            case.bias = bias;
            testing::close(testing::value(&case, with(PairCount::Images)), expected, 1e-5);
        }
    }

    #[test]
    fn equals_pytorch_with_gradients() {
        testing::against_fixture("sigmoid_images", with(PairCount::Images));
        testing::against_fixture("sigmoid_pairs", with(PairCount::Pairs));
        testing::against_fixture("sigmoid_texts", with(PairCount::Texts));
    }

    #[test]
    fn equals_its_naive_twin() {
        for case in Case::several() {
            let texts = case.positives.of_text().len() as f64;
            testing::close(testing::value(&case, with(PairCount::Images)), naive(&case), 2e-5);
            let mean = testing::value(&case, with(PairCount::Pairs));
            testing::close(mean, naive(&case) / texts, 1e-5);
            let by_text = testing::value(&case, with(PairCount::Texts));
            let images = case.positives.images() as f64;
            testing::close(by_text, naive(&case) * images / texts, 2e-5);
        }
    }

    #[test]
    fn has_the_slope_of_its_naive_twin() {
        for case in Case::several() {
            testing::finite_differences(&case, with(PairCount::Images), naive);
        }
    }

    #[test]
    fn does_not_depend_on_the_order_of_the_batch() {
        for case in Case::several() {
            let loss = with(PairCount::Pairs);
            testing::close(
                testing::value(&case, &loss),
                testing::value(&case.shuffled(), &loss),
                2e-6,
            );
        }
    }

    #[test]
    fn huge_logits_stay_finite() {
        for scale in [1e4, -1e4] {
            let case = Case::random(6, 2, 4, scale, -10.0, 3);
            let expected = naive(&case);
            testing::close(
                testing::value(&case, with(PairCount::Images)),
                expected,
                expected * 1e-5,
            );
            testing::finite_gradients(&case, with(PairCount::Images));
        }
    }

    #[test]
    fn the_mean_over_shards_is_the_loss_of_the_whole() {
        for divide_by in [PairCount::Pairs, PairCount::Images, PairCount::Texts] {
            let case = Case::random(4, 3, 6, 3.0, -4.0, 2);
            let of = case.leaves();
            let parts = (0..2).map(|rank| {
                let shard = Shard {
                    images: 2 * rank..2 * rank + 2,
                    texts: 6 * rank..6 * rank + 6,
                };
                let images = of.images.clone().slice([shard.images.clone(), 0..case.dim]);
                let (texts, scale, bias) = (of.texts.clone(), of.scale.clone(), of.bias.clone());
                sigmoid_local(images, texts, scale, bias, &case.positives, divide_by, &shard)
            });
            let mean = Tensor::cat(parts.collect(), 0).mean();
            let whole = testing::value(&case, with(divide_by));
            testing::close(f64::from(bifocal_nn::engine::scalar(mean.clone())), whole, 1e-6 * whole);
            of.gradients(mean)
                .close(&testing::gradients(&case, with(divide_by)), 1e-5);
        }
    }
}
