//! Cosine loss of positives alone (LIFT, arXiv 2506.04209: its simplest objective).

use bifocal_nn::Tensor;
use bifocal_nn::fused::embedding;

use super::Positives;

/// Mean over the texts of 1 − ⟨image, text⟩: no negatives, no temperature. Texts must be frozen, or everything collapses to one point.
///
/// # Shapes
/// `images` `[n, d]`, `texts` `[m, d]`, rows of unit length; the result `[1]`.
///
/// # Panics
/// If `positives` are of other numbers of images and texts.
pub fn cosine(images: Tensor<2>, texts: Tensor<2>, positives: &Positives) -> Tensor<1> {
    let owners = positives.of_text();
    let [m, _] = texts.dims();
    assert_eq!(
        (images.dims()[0], m),
        (positives.images(), owners.len()),
        "cosine: rows"
    );
    let of_texts = match owners.iter().enumerate().all(|(text, &image)| text == image) {
        true => images,
        // far fewer than 2³² pictures fit into a batch
        false => embedding(
            images,
            &owners.iter().map(|&image| image as u32).collect::<Vec<_>>().into(),
        ),
    };
    // Each difference before the sum: it keeps the digits of pairs that almost agree.
    ((of_texts * texts).sum_dim(1).neg() + 1.0).sum() / m as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::testing::{self, Case, Leaves};

    fn naive(case: &Case) -> f64 {
        let owners = case.positives.of_text();
        let pairs = owners.iter().enumerate().map(|(j, &i)| 1.0 - case.dot(i, j));
        pairs.sum::<f64>() / owners.len() as f64
    }

    fn loss(case: &Case, of: Leaves) -> Tensor<1> {
        cosine(of.images, of.texts, &case.positives)
    }

    #[test]
    fn equals_pytorch_with_gradients() {
        testing::against_fixture("cosine", loss);
    }

    #[test]
    fn equals_its_naive_twin_with_its_slope_in_any_order() {
        let random = |n, per| Case::random(n, per, 5, 1.0, 0.0, 3);
        for case in [Case::golden(1.0), random(9, 1), random(6, 2)] {
            testing::close(testing::value(&case, loss), naive(&case), 1e-6);
            testing::finite_differences(&case, loss, naive);
        }
        let pairs = Case {
            positives: Positives::diagonal(9),
            ..random(9, 1)
        };
        let mut turned = pairs.clone();
        for rows in [&mut turned.images, &mut turned.texts] {
            rows.rotate_left(pairs.dim);
        }
        testing::close(testing::value(&turned, loss), naive(&pairs), 1e-6);
    }

    #[test]
    fn huge_rows_stay_finite() {
        let mut case = Case::random(6, 1, 4, 1.0, 0.0, 3);
        case.images.iter_mut().for_each(|v| *v *= 1e4);
        testing::close(testing::value(&case, loss), naive(&case), 1e-2);
        testing::finite_gradients(&case, loss);
    }
}
