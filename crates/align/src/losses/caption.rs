//! Caption-contrastive loss (stage 1 of LLM2CLIP, arXiv 2411.04997; supervised SimCSE with hard negatives).

use std::sync::Arc;

use bifocal_nn::Tensor;
use bifocal_nn::engine::tensor;
use bifocal_nn::fused::{Softmax, Targets, softmax_pairs};

use super::stack;

/// What LLM2CLIP multiplies cosines by (a temperature of 0.02); it is not learnt.
pub const CAPTION_SCALE: f32 = 50.0;

/// Mean cross-entropy of each query over all positives and negatives, its own positive being the target; there is no reverse direction.
///
/// # Shapes
/// `queries` and `positives` `[n, d]`, row by row two captions of one picture, `negatives` `[k, d]`; rows of unit length; the result `[1]`.
///
/// # Panics
/// If there are not as many positives as queries.
pub fn caption_contrastive(
    queries: Tensor<2>,
    positives: Tensor<2>,
    negatives: Option<Tensor<2>>,
    scale: f32,
) -> Tensor<1> {
    let [n, _] = queries.dims();
    assert_eq!(
        positives.dims()[0],
        n,
        "caption_contrastive: one positive for each query"
    );
    let candidates = match negatives {
        Some(negatives) => stack(vec![positives, negatives]),
        None => positives,
    };
    let [columns, _] = candidates.dims();
    let Some(targets) = Targets::new(n, columns, (0..n).map(|i| (i, i))) else {
        unreachable!("there are at least {n} candidates")
    };
    let what = Softmax::new(targets, vec![1.0 / n as f32; n], vec![0.0; columns]);
    softmax_pairs(queries, candidates, tensor(vec![scale], [1]), &Arc::new(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::testing::{self, Case, Leaves};

    fn naive(case: &Case) -> f64 {
        let n = case.positives.images();
        let scale = f64::from(case.scale);
        let total: f64 = (0..n)
            .map(|i| {
                let negatives = (0..case.extra.len() / case.dim).map(|k| scale * case.dot_extra(i, k));
                let all = (0..n).map(|j| scale * case.dot(i, j)).chain(negatives);
                testing::log_sum_exp(all) - scale * case.dot(i, i)
            })
            .sum();
        total / n as f64
    }

    fn loss(case: &Case, of: Leaves) -> Tensor<1> {
        let negatives = (!case.extra.is_empty()).then_some(of.extra);
        caption_contrastive(of.images, of.texts, negatives, case.scale)
    }

    fn cases() -> Vec<Case> {
        let case = Case::random(7, 1, 5, 20.0, 0.0, 4);
        vec![
            case.clone().with_extra(7),
            case.clone().with_extra(3),
            case,
            Case::golden(CAPTION_SCALE),
        ]
    }

    #[test]
    fn equals_pytorch_with_gradients() {
        testing::against_fixture("caption", loss);
        testing::against_fixture("caption_negatives", loss);
    }

    #[test]
    fn equals_its_naive_twin_with_its_slope() {
        for case in cases() {
            testing::close(testing::value(&case, loss), naive(&case), 1e-5);
            testing::finite_differences(&case, loss, naive);
        }
    }

    #[test]
    fn does_not_depend_on_the_order_of_the_batch() {
        let case = Case::random(7, 1, 5, 20.0, 0.0, 4).with_extra(6);
        let mut turned = case.clone();
        for rows in [&mut turned.images, &mut turned.texts] {
            rows.rotate_left(2 * case.dim);
        }
        turned.extra.rotate_left(3 * case.dim);
        testing::close(testing::value(&case, loss), testing::value(&turned, loss), 2e-6);
    }

    #[test]
    fn huge_logits_stay_finite() {
        for scale in [1e4, -1e4] {
            let case = Case::random(6, 1, 4, scale, 0.0, 3).with_extra(6);
            testing::close(testing::value(&case, loss), naive(&case), naive(&case).abs() * 1e-5);
            testing::finite_gradients(&case, loss);
        }
    }

    #[test]
    fn frozen_negatives_may_stand_beside_learning_positives() {
        let case = Case::random(6, 1, 4, 20.0, 0.0, 4).with_extra(6);
        let of = case.leaves();
        let frozen = tensor(case.extra.clone(), [6, 4]);
        let out = caption_contrastive(of.images.clone(), of.texts.clone(), Some(frozen), case.scale);
        let mut expected = testing::gradients(&case, loss);
        expected.0[2].fill(0.0);
        of.gradients(out).close(&expected, 1e-6);
    }
}
