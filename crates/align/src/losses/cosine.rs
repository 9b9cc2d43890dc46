//! Cosine loss of positives alone (LIFT, arXiv 2506.04209: its simplest objective).

use bifocal_nn::Tensor;

/// Mean over the batch of 1 − ⟨image, text⟩: no negatives, no temperature. Texts must be frozen, or everything collapses to one point.
///
/// # Shapes
/// `images` and `texts` `[n, d]`, row by row a pair, rows of unit length; the result `[1]`.
pub fn cosine(images: Tensor<2>, texts: Tensor<2>) -> Tensor<1> {
    assert_eq!(
        images.dims(),
        texts.dims(),
        "cosine: one text for each picture, as wide"
    );
    let [n, _] = images.dims();
    // Each difference before the sum: it keeps the digits of pairs that almost agree.
    ((images * texts).sum_dim(1).neg() + 1.0).sum() / n as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::testing::{self, Case, Leaves};

    fn naive(case: &Case) -> f64 {
        let n = case.positives.images();
        (0..n).map(|i| 1.0 - case.dot(i, i)).sum::<f64>() / n as f64
    }

    fn loss(_: &Case, of: Leaves) -> Tensor<1> {
        cosine(of.images, of.texts)
    }

    #[test]
    fn equals_pytorch_with_gradients() {
        testing::against_fixture("cosine", loss);
    }

    #[test]
    fn equals_its_naive_twin_with_its_slope_in_any_order() {
        for case in [Case::golden(1.0), Case::random(9, 1, 5, 1.0, 0.0, 3)] {
            testing::close(testing::value(&case, loss), naive(&case), 1e-6);
            testing::finite_differences(&case, loss, naive);
            let mut turned = case.clone();
            for rows in [&mut turned.images, &mut turned.texts] {
                rows.rotate_left(case.dim);
            }
            testing::close(testing::value(&turned, loss), naive(&case), 1e-6);
        }
    }

    #[test]
    fn huge_rows_stay_finite() {
        let mut case = Case::random(6, 1, 4, 1.0, 0.0, 3);
        case.images.iter_mut().for_each(|v| *v *= 1e4);
        testing::close(testing::value(&case, loss), naive(&case), 1e-2);
        testing::finite_gradients(&case, loss);
    }
}
