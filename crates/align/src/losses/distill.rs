//! Distillation of similarity distributions (open_clip's `DistillClipLoss`; learning without forgetting over a batch's own pairs).

use bifocal_nn::Tensor;
use bifocal_nn::engine;
use bifocal_nn::fused::{self, Divergence};

/// What a teacher makes of the same pictures and texts; it gets no gradient.
#[derive(Clone, Debug)]
pub struct TeacherRows {
    /// `[n, e]`, rows of unit length.
    pub images: Tensor<2>,
    /// `[m, e]`, rows of unit length.
    pub texts: Tensor<2>,
    /// Its logit scale.
    pub scale: f32,
}

/// ½ (mean over pictures + mean over texts) of the divergence of the student's softmaxed similarities from the teacher's, both logits being
/// divided by `temperature` first.
///
/// With [`Divergence::CrossEntropy`] and temperature 1 it is open_clip's loss. Where a paper multiplies by the square of the temperature (ZSCL:
/// arXiv 2303.06628, temperature 2), [`reference_distillation`] does.
///
/// # Shapes
/// `images` `[n, d]` and `texts` `[m, d]`, rows of unit length; `scale` and the result `[1]`.
pub fn similarity_distillation(
    images: Tensor<2>,
    texts: Tensor<2>,
    scale: Tensor<1>,
    teacher: TeacherRows,
    temperature: f32,
    divergence: Divergence,
) -> Tensor<1> {
    let rows = [teacher.images, teacher.texts];
    fused::distill_pairs(
        images,
        texts,
        scale / temperature,
        rows,
        teacher.scale / temperature,
        divergence,
    )
}

/// What ZSCL adds in its two directions (arXiv 2303.06628; the authors' code): T²·CE(softmax(t / T), softmax(s / T)) over the teacher's texts for each
/// picture, and over the pictures for each of those texts. The texts are the teacher's on both sides and the scale is the model's, so that only
/// `images` differ; a scale that learns gets the gradient of the model's side.
///
/// # Shapes
/// `images` `[n, d]`, the teacher's `[n, d]` and `[m, d]`, rows of unit length; `scale` and the result `[1]`.
pub fn reference_distillation(
    images: Tensor<2>,
    teacher: [Tensor<2>; 2],
    scale: Tensor<1>,
    temperature: f32,
) -> Tensor<1> {
    let [seen, texts] = teacher.map(Tensor::detach);
    let teacher = TeacherRows {
        images: seen,
        texts: texts.clone(),
        scale: engine::scalar(scale.clone()),
    };
    let mean = similarity_distillation(images, texts, scale, teacher, temperature, Divergence::CrossEntropy);
    mean * (2.0 * temperature * temperature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::testing::{self, Case, Leaves};

    const TEACHER_SCALE: f32 = 7.5;

    /// The teacher's pictures and texts are the first and last rows of `extra`.
    fn with(temperature: f32, divergence: Divergence) -> impl Fn(&Case, Leaves) -> Tensor<1> {
        move |case, of| {
            let (n, m) = (case.positives.images(), case.positives.of_text().len());
            let teacher = TeacherRows {
                images: of.extra.clone().slice([0..n, 0..case.dim]),
                texts: of.extra.slice([n..n + m, 0..case.dim]),
                scale: TEACHER_SCALE,
            };
            similarity_distillation(of.images, of.texts, of.scale, teacher, temperature, divergence)
        }
    }

    fn naive(case: &Case, temperature: f64, divergence: Divergence) -> f64 {
        let (n, m, d) = (case.positives.images(), case.positives.of_text().len(), case.dim);
        let row = |k: usize| case.extra[k * d..][..d].iter().map(|&v| f64::from(v));
        let z = |i: usize, j: usize| f64::from(case.scale) / temperature * case.dot(i, j);
        let t = |i: usize, j: usize| {
            let dot: f64 = row(i).zip(row(n + j)).map(|(a, b)| a * b).sum();
            f64::from(TEACHER_SCALE) / temperature * dot
        };
        let one = |at: &dyn Fn(usize) -> (usize, usize), count: usize| -> f64 {
            let z_lse = testing::log_sum_exp((0..count).map(|k| z(at(k).0, at(k).1)));
            let t_lse = testing::log_sum_exp((0..count).map(|k| t(at(k).0, at(k).1)));
            let terms = (0..count).map(|k| {
                let (i, j) = at(k);
                let (log_p, log_q) = (z(i, j) - z_lse, t(i, j) - t_lse);
                let own = if divergence == Divergence::KullbackLeibler {
                    log_q
                } else {
                    0.0
                };
                log_q.exp() * (own - log_p)
            });
            terms.sum()
        };
        let rows: f64 = (0..n).map(|i| one(&|j| (i, j), m)).sum();
        let cols: f64 = (0..m).map(|j| one(&|i| (i, j), n)).sum();
        0.5 * (rows / n as f64 + cols / m as f64)
    }

    fn cases() -> Vec<Case> {
        let several = Case::several().into_iter();
        several
            .map(|case| {
                let rows = case.positives.images() + case.positives.of_text().len();
                case.with_extra(rows)
            })
            .collect()
    }

    /// The teacher's pictures are the first rows of `extra`, its texts the case's own.
    fn reference(case: &Case, of: Leaves) -> Tensor<1> {
        let n = case.positives.images();
        let seen = of.extra.slice([0..n, 0..case.dim]);
        reference_distillation(of.images, [seen, of.texts], of.scale, 2.0)
    }

    fn naive_reference(case: &Case) -> f64 {
        let (n, m) = (case.positives.images(), case.positives.of_text().len());
        let student = |i: usize, j: usize| f64::from(case.scale) / 2.0 * case.dot(i, j);
        let seen = Case {
            images: case.extra[..n * case.dim].to_vec(),
            ..case.clone()
        };
        let teacher = |i: usize, j: usize| f64::from(case.scale) / 2.0 * seen.dot(i, j);
        let one = |at: &dyn Fn(usize) -> (usize, usize), count: usize| -> f64 {
            let lse = |z: &dyn Fn(usize, usize) -> f64| testing::log_sum_exp((0..count).map(|k| z(at(k).0, at(k).1)));
            let (s, t) = (lse(&student), lse(&teacher));
            let term = |k: usize| (teacher(at(k).0, at(k).1) - t).exp() * (s - student(at(k).0, at(k).1));
            (0..count).map(term).sum()
        };
        let rows: f64 = (0..n).map(|i| one(&|j| (i, j), m)).sum();
        let columns: f64 = (0..m).map(|j| one(&|i| (i, j), n)).sum();
        4.0 * (rows / n as f64 + columns / m as f64)
    }

    #[test]
    fn of_references_equals_pytorch_and_its_naive_twin() {
        testing::against_fixture("distill_zscl", reference);
        for case in cases() {
            let expected = naive_reference(&case);
            testing::close(testing::value(&case, reference), expected, 1e-5 * expected.max(1.0));
            let grads = testing::gradients(&case, reference).0;
            assert!(
                grads[1].iter().chain(&grads[2]).all(|&g| g == 0.0),
                "the teacher learns"
            );
            // without texts of its own, a case is that of a student whose pictures alone move
            testing::finite_differences_of_images(&case, reference, naive_reference);
        }
    }

    const BOTH: [Divergence; 2] = [Divergence::CrossEntropy, Divergence::KullbackLeibler];

    #[test]
    fn equals_open_clip_and_pytorch_with_gradients() {
        testing::against_fixture("distill_open_clip", with(1.0, Divergence::CrossEntropy));
        testing::against_fixture("distill_kl", with(2.0, Divergence::KullbackLeibler));
    }

    #[test]
    fn equals_its_naive_twin_with_its_slope() {
        for case in cases() {
            for divergence in BOTH {
                let loss = with(2.0, divergence);
                testing::close(testing::value(&case, &loss), naive(&case, 2.0, divergence), 1e-5);
                // The teacher is held still: only the student's rows are moved.
                testing::finite_differences_of_student(&case, &loss, |case| naive(case, 2.0, divergence));
            }
        }
    }

    #[test]
    fn does_not_depend_on_the_order_of_the_batch() {
        for case in cases() {
            let (n, d) = (case.positives.images(), case.dim);
            let mut turned = case.clone();
            turned.images.rotate_left(d);
            turned.extra[..n * d].rotate_left(d);
            let loss = with(1.0, Divergence::CrossEntropy);
            testing::close(testing::value(&case, &loss), testing::value(&turned, &loss), 2e-6);
        }
    }

    #[test]
    fn huge_logits_stay_finite() {
        for scale in [1e4, -1e4] {
            for divergence in BOTH {
                let case = Case::random(6, 2, 4, scale, 0.0, 3).with_extra(18);
                let expected = naive(&case, 1.0, divergence);
                testing::close(
                    testing::value(&case, with(1.0, divergence)),
                    expected,
                    expected.abs() * 1e-5,
                );
                testing::finite_gradients(&case, with(1.0, divergence));
            }
        }
    }
}
