//! Contrastive knowledge consolidation (C-CLIP, ICLR 2025, eq. 5): each pair must find what the model made of it before.

use bifocal_models::adapter::normalize;
use bifocal_nn::Tensor;
use bifocal_nn::engine::tensor;

use super::{Positives, infonce, stack};

/// What is compared with what: equation 5 can be read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consolidation {
    /// Picture and text of a pair are one vector of twice the width, normalised as a whole: N × N similarities. The equation to the letter.
    Pairs,
    /// Pictures and texts are rows of their own: 2N × 2N similarities.
    Rows,
}

/// Symmetric InfoNCE between what the model makes of a batch and what its former self made of it; cosines are divided by `temperature`
/// (0.07 in the paper). The former rows get no gradient.
///
/// # Shapes
/// `images` and `texts` `[n, e]`, a text for each picture, of any length (the lengths count in [`Consolidation::Pairs`]); `former` the same two. The
/// result `[1]`.
pub fn consolidation(
    images: Tensor<2>,
    texts: Tensor<2>,
    former: [Tensor<2>; 2],
    how: Consolidation,
    temperature: f32,
) -> Tensor<1> {
    let [n, _] = images.dims();
    let [former_images, former_texts] = former.map(Tensor::detach);
    let (now, before) = match how {
        Consolidation::Pairs => (
            normalize(Tensor::cat(vec![images, texts], 1)),
            normalize(Tensor::cat(vec![former_images, former_texts], 1)),
        ),
        Consolidation::Rows => (
            stack(vec![normalize(images), normalize(texts)]),
            stack(vec![normalize(former_images), normalize(former_texts)]),
        ),
    };
    let rows = match how {
        Consolidation::Pairs => n,
        Consolidation::Rows => 2 * n,
    };
    let scale = tensor(vec![1.0 / temperature], [1]);
    infonce(now, before, scale, &Positives::diagonal(rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::testing::{self, Case, Leaves};

    const BOTH: [Consolidation; 2] = [Consolidation::Pairs, Consolidation::Rows];

    /// The former pictures and texts are the first and last rows of `extra`.
    fn with(how: Consolidation) -> impl Fn(&Case, Leaves) -> Tensor<1> {
        move |case, of| {
            let n = case.positives.images();
            let former = [0..n, n..2 * n].map(|rows| of.extra.clone().slice([rows, 0..case.dim]));
            consolidation(of.images, of.texts, former, how, 0.07)
        }
    }

    /// The definition in f64.
    fn naive(case: &Case, how: Consolidation) -> f64 {
        let (n, d) = (case.positives.images(), case.dim);
        let row = |all: &[f32], i: usize| all[i * d..][..d].iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let rows = |images: &[f32], texts: &[f32]| -> Vec<Vec<f64>> {
            let rows: Vec<Vec<f64>> = match how {
                Consolidation::Pairs => (0..n).map(|i| [row(images, i), row(texts, i)].concat()).collect(),
                Consolidation::Rows => [images, texts]
                    .iter()
                    .flat_map(|all| (0..n).map(|i| row(all, i)))
                    .collect(),
            };
            let unit = |row: Vec<f64>| {
                let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
                row.into_iter().map(|v| v / length).collect()
            };
            rows.into_iter().map(unit).collect()
        };
        let now = rows(&case.images, &case.texts);
        let before = rows(&case.extra[..n * d], &case.extra[n * d..]);
        let z = |i: usize, j: usize| now[i].iter().zip(&before[j]).map(|(a, b)| a * b).sum::<f64>() / 0.07;
        let count = now.len();
        let each = |i: usize| {
            let row = testing::log_sum_exp((0..count).map(|j| z(i, j)));
            let column = testing::log_sum_exp((0..count).map(|j| z(j, i)));
            row + column - 2.0 * z(i, i)
        };
        (0..count).map(each).sum::<f64>() / (2 * count) as f64
    }

    /// Rows of any length.
    fn cases() -> Vec<Case> {
        let sizes = [(6, 4, 1), (3, 6, 2), (1, 3, 3)];
        let one = |(n, dim, seed)| {
            let mut case = Case::random(n, 1, dim, 1.0, 0.0, seed).with_extra(2 * n);
            case.images.iter_mut().for_each(|v| *v *= 3.0);
            case.extra[..n * dim].iter_mut().for_each(|v| *v *= 0.5);
            case
        };
        sizes.map(one).to_vec()
    }

    /// §7 of the golden numbers.
    #[test]
    fn equals_the_published_numbers() {
        let mut case = Case::golden(1.0);
        case.extra = vec![1., 1., 3., 4., 4., 3., 1., 1., 1., -1., 2., -1.];
        case.extra.extend([2., 1., 1., 1., 0., 1., 2., 1., 1., 0., 1., -2.]);
        for row in case.extra.chunks_mut(4) {
            let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter_mut().for_each(|v| *v /= length);
        }
        testing::close(testing::value(&case, with(Consolidation::Rows)), 0.483_278_631_2, 1e-5);
        testing::close(testing::value(&case, with(Consolidation::Pairs)), 0.002_607_129_2, 1e-6);
    }

    #[test]
    fn equals_pytorch_with_gradients() {
        testing::against_fixture("consolidation_pairs", with(Consolidation::Pairs));
        testing::against_fixture("consolidation_rows", with(Consolidation::Rows));
    }

    #[test]
    fn equals_its_naive_twin_with_its_slope() {
        for case in cases() {
            for how in BOTH {
                testing::close(testing::value(&case, with(how)), naive(&case, how), 1e-5);
                testing::finite_differences_of_student(&case, with(how), |case| naive(case, how));
            }
        }
    }

    #[test]
    fn does_not_depend_on_the_order_of_the_batch() {
        let case = &cases()[0];
        let (n, d) = (case.positives.images(), case.dim);
        let mut turned = case.clone();
        turned.images.rotate_left(d);
        turned.texts.rotate_left(d);
        turned.extra[..n * d].rotate_left(d);
        turned.extra[n * d..].rotate_left(d);
        for how in BOTH {
            testing::close(
                testing::value(case, with(how)),
                testing::value(&turned, with(how)),
                2e-6,
            );
        }
    }

    #[test]
    fn huge_rows_stay_finite() {
        for how in BOTH {
            let mut case = cases()[0].clone();
            case.images.iter_mut().for_each(|v| *v *= 1e8);
            testing::finite_gradients(&case, with(how));
        }
    }
}
