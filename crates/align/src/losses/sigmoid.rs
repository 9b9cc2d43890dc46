//! Pairwise sigmoid loss (SigLIP, arXiv 2303.15343 §3; SAIL's form with several captions).

use bifocal_nn::Tensor;
use bifocal_nn::fused::{Activation, linear};
use burn::tensor::activation::log_sigmoid;

use super::Positives;

/// What the sum over all pairs is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairCount {
    /// Images × texts (SAIL: the mean over all pairs).
    Pairs,
    /// Images (SigLIP).
    Images,
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
    let (n, m) = (positives.images(), positives.of_text().len());
    let (scale, bias) = (scale.reshape([1, 1]), bias.reshape([1, 1]));
    let logits = linear(images, texts, None, Activation::Identity, None) * scale + bias;
    // Summed row by row first: one long f32 sum over all pairs would lose the small terms.
    let total = log_sigmoid(logits * positives.signs()).sum_dim(1).sum();
    let divisor = match divide_by {
        PairCount::Pairs => n * m,
        PairCount::Images => n,
    };
    total.neg() / divisor as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::testing::{self, Case};

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

    fn with(divide_by: PairCount) -> impl Fn(&Case, Tensor<2>, Tensor<2>) -> Tensor<1> {
        move |case, images, texts| {
            let (scale, bias) = (testing::scalar(case.scale), testing::scalar(case.bias));
            sigmoid(images, texts, scale, bias, &case.positives, divide_by)
        }
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
        testing::against_fixture("sigmoid_images", |case, images, texts, scale, bias| {
            sigmoid(images, texts, scale, bias, &case.positives, PairCount::Images)
        });
        testing::against_fixture("sigmoid_pairs", |case, images, texts, scale, bias| {
            sigmoid(images, texts, scale, bias, &case.positives, PairCount::Pairs)
        });
    }

    #[test]
    fn equals_its_naive_twin() {
        for case in Case::several() {
            let texts = case.positives.of_text().len() as f64;
            testing::close(testing::value(&case, with(PairCount::Images)), naive(&case), 2e-5);
            let mean = testing::value(&case, with(PairCount::Pairs));
            testing::close(mean, naive(&case) / texts, 1e-5);
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
}
