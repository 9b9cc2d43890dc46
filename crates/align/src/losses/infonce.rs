//! Symmetric InfoNCE (CLIP, arXiv 2103.00020, figure 3), with any number of texts per picture.

use bifocal_nn::Tensor;
use bifocal_nn::fused::{Activation, linear};

use super::Positives;

/// ½ [CE(images → texts) + CE(texts → images)] on `scale · ⟨image, text⟩`.
///
/// With one text per picture this is CLIP's loss. With several, a picture's target is uniform over its own texts (cross-entropy
/// with soft labels), and each text's target is its picture; the texts are then weighted so that every
/// picture counts alike.
///
/// # Shapes
/// `images` `[n, d]` and `texts` `[m, d]`, rows of unit length; `scale` `[1]`; the result `[1]`.
pub fn infonce(images: Tensor<2>, texts: Tensor<2>, scale: Tensor<1>, positives: &Positives) -> Tensor<1> {
    let n = positives.images() as f32;
    let scale = scale.reshape([1, 1]);
    let own = positives.own(images.clone(), texts.clone()) * scale.clone();
    let logits = linear(images, texts, None, Activation::Identity, None) * scale;
    let shares = positives.shares();
    // Σ over a picture's texts of share · (lse − own) = lse − mean of own: the shares of a picture sum to 1.
    let own = (own * shares.clone()).sum();
    let by_image = log_sum_exp(logits.clone(), 1).sum() - own.clone();
    let by_text = (log_sum_exp(logits, 0).swap_dims(0, 1) * shares).sum() - own;
    (by_image + by_text) / (2.0 * n)
}

/// ln Σ exp along an axis, shifted by the largest value so that nothing overflows.
fn log_sum_exp(x: Tensor<2>, axis: usize) -> Tensor<2> {
    let largest = x.clone().detach().max_dim(axis);
    (x - largest.clone()).exp().sum_dim(axis).log() + largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::testing::{self, Case};

    /// The definition, entry by entry, in f64.
    fn naive(case: &Case) -> f64 {
        let z = |i: usize, j: usize| f64::from(case.scale) * case.dot(i, j);
        let (n, m) = (case.positives.images(), case.positives.of_text().len());
        let mut total = 0.0;
        for (j, &i) in case.positives.of_text().iter().enumerate() {
            let mates = case.positives.of_text().iter().filter(|&&k| k == i).count();
            let row: f64 = testing::log_sum_exp((0..m).map(|k| z(i, k)));
            let column: f64 = testing::log_sum_exp((0..n).map(|k| z(k, j)));
            total += (row + column - 2.0 * z(i, j)) / mates as f64;
        }
        total / (2 * n) as f64
    }

    fn loss(case: &Case, images: Tensor<2>, texts: Tensor<2>) -> Tensor<1> {
        infonce(images, texts, testing::scalar(case.scale), &case.positives)
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
        testing::against_fixture("infonce", |case, images, texts, scale, _| {
            infonce(images, texts, scale, &case.positives)
        });
    }

    #[test]
    fn equals_its_naive_twin() {
        for case in Case::several() {
            testing::close(testing::value(&case, loss), naive(&case), 1e-5);
        }
    }

    #[test]
    fn has_the_slope_of_its_naive_twin() {
        for case in Case::several() {
            testing::finite_differences(&case, loss, naive);
        }
    }

    #[test]
    fn does_not_depend_on_the_order_of_the_batch() {
        for case in Case::several() {
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
}
