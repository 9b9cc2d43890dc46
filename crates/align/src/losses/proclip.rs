//! Alignment of a student's embeddings with a teacher's, row by row and in their distances (ProCLIP, arXiv 2510.18795, equations 2, 3 and 5).

use bifocal_nn::Tensor;
use bifocal_nn::fused::{self, Penalty};

/// Σ over rows of ‖student − teacher‖² (equation 2); the teacher gets no gradient.
///
/// # Shapes
/// `student` and `teacher` `[n, d]`; the result `[1]`.
pub fn instance_alignment(student: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
    assert_eq!(
        student.dims(),
        teacher.dims(),
        "instance_alignment: student and teacher differ in shape"
    );
    (student - teacher.inner()).powi_scalar(2).sum_dim(1).sum()
}

/// Σ over pairs of rows i < j of `penalty(‖sᵢ − sⱼ‖ − ‖tᵢ − tⱼ‖)` (equation 3; the paper prints the squared difference, its code has smooth L1).
///
/// The teacher gets no gradient, and neither do two student rows that coincide, towards each other.
///
/// # Shapes
/// `student` `[n, d]`, `teacher` `[n, e]`; the result `[1]`.
pub fn structure_alignment(student: Tensor<2>, teacher: Tensor<2>, penalty: Penalty) -> Tensor<1> {
    fused::structure(student, teacher, penalty)
}

/// The self-distillation regulariser of stage 2 (equation 5), with its weight in the total loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SelfDistillation {
    /// Weight of [`instance_alignment`].
    pub instance: f64,
    /// Weight of [`structure_alignment`].
    pub pair: f64,
    /// What differences of distances cost.
    pub penalty: Penalty,
}

impl SelfDistillation {
    /// The batch on one device that the paper's weight belongs to.
    pub const PAPER_BATCH: usize = 512;
    /// The paper's weight for both terms at that batch.
    pub const PAPER_WEIGHT: f64 = 4e-4;

    /// Weights for `batch` rows that keep those of the mean instance term and of the mean pair term what `lambda` makes them at 512 rows: both losses
    /// are sums, of `batch` and of `batch·(batch − 1)/2` terms. One row has no pairs, and weight 0 for them.
    pub fn for_batch(lambda: f64, batch: usize, penalty: Penalty) -> Self {
        let pairs = |b: usize| b as f64 * (b as f64 - 1.0) / 2.0;
        let share = |paper: f64, here: f64| if here > 0.0 { lambda * paper / here } else { 0.0 };
        Self {
            instance: share(Self::PAPER_BATCH as f64, batch as f64),
            pair: share(pairs(Self::PAPER_BATCH), pairs(batch)),
            penalty,
        }
    }

    /// `instance · instance_alignment + pair · structure_alignment`; the teacher gets no gradient.
    ///
    /// # Shapes
    /// `student` and `teacher` `[n, d]`, rows of unit length; the result `[1]`.
    pub fn loss(&self, student: Tensor<2>, teacher: Tensor<2>) -> Tensor<1> {
        instance_alignment(student.clone(), teacher.clone()) * self.instance as f32
            + structure_alignment(student, teacher, self.penalty) * self.pair as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::testing::{self, Case, Leaves};

    const BOTH: [Penalty; 2] = [Penalty::Squared, Penalty::SmoothL1];

    fn far(rows: &[f32], d: usize, i: usize, j: usize) -> f64 {
        let (a, b) = (&rows[i * d..][..d], &rows[j * d..][..d]);
        let squares = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
        squares.sum::<f64>().sqrt()
    }

    fn naive_instance(case: &Case) -> f64 {
        let pairs = case.images.iter().zip(&case.texts);
        pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum()
    }

    fn naive_structure(case: &Case, penalty: Penalty) -> f64 {
        let (n, d) = (case.positives.images(), case.dim);
        let mut total = 0.0;
        for i in 0..n {
            for j in i + 1..n {
                let u = (far(&case.images, d, i, j) - far(&case.texts, d, i, j)).abs();
                total += match penalty {
                    Penalty::Squared => u * u,
                    Penalty::SmoothL1 if u < 1.0 => u * u / 2.0,
                    Penalty::SmoothL1 => u - 0.5,
                };
            }
        }
        total
    }

    fn instance(_: &Case, of: Leaves) -> Tensor<1> {
        instance_alignment(of.images, of.texts)
    }

    fn structure(penalty: Penalty) -> impl Fn(&Case, Leaves) -> Tensor<1> {
        move |_, of| structure_alignment(of.images, of.texts, penalty)
    }

    /// Both branches of the smooth penalty: rows of unit length differ by up to 2, longer ones by more.
    fn cases() -> Vec<Case> {
        let mut long = Case::random(19, 1, 6, 1.0, 0.0, 5);
        long.texts.iter_mut().for_each(|v| *v *= 2.5);
        vec![
            Case::golden(1.0),
            Case::random(7, 1, 5, 1.0, 0.0, 3),
            long,
            Case::random(1, 1, 3, 1.0, 0.0, 1),
        ]
    }

    #[test]
    fn equals_pytorch_with_gradients() {
        testing::against_fixture("instance", instance);
        testing::against_fixture("structure_squared", structure(Penalty::Squared));
        testing::against_fixture("structure_smooth", structure(Penalty::SmoothL1));
    }

    #[test]
    fn equals_its_naive_twin_with_its_slope() {
        for case in cases() {
            testing::close(
                testing::value(&case, instance),
                naive_instance(&case),
                1e-5 * naive_instance(&case),
            );
            testing::finite_differences_of_student(&case, instance, naive_instance);
            for penalty in BOTH {
                let expected = naive_structure(&case, penalty);
                testing::close(
                    testing::value(&case, structure(penalty)),
                    expected,
                    1e-5 * expected.max(1.0),
                );
                testing::finite_differences_of_student(&case, structure(penalty), |case| {
                    naive_structure(case, penalty)
                });
            }
        }
    }

    #[test]
    fn does_not_depend_on_the_order_of_the_batch() {
        for case in cases() {
            let mut turned = case.clone();
            turned.images.rotate_left(case.dim);
            turned.texts.rotate_left(case.dim);
            for penalty in BOTH {
                let value = testing::value(&case, structure(penalty));
                testing::close(
                    testing::value(&turned, structure(penalty)),
                    value,
                    2e-6 * value.max(1.0),
                );
            }
        }
    }

    #[test]
    fn huge_rows_stay_finite() {
        let mut case = Case::random(6, 1, 4, 1.0, 0.0, 3);
        case.images.iter_mut().for_each(|v| *v *= 1e4);
        for penalty in BOTH {
            let expected = naive_structure(&case, penalty);
            testing::close(testing::value(&case, structure(penalty)), expected, 1e-5 * expected);
            testing::finite_gradients(&case, structure(penalty));
        }
    }

    #[test]
    fn a_student_that_is_its_teacher_pays_nothing() {
        let mut case = Case::random(9, 1, 6, 1.0, 0.0, 3);
        case.texts = case.images.clone();
        for penalty in BOTH {
            let weights = SelfDistillation::for_batch(4e-4, 9, penalty);
            let loss = |_: &Case, of: Leaves| weights.loss(of.images, of.texts);
            assert_eq!(testing::value(&case, loss), 0.0);
            assert!(testing::gradients(&case, loss).0.iter().flatten().all(|&g| g == 0.0));
        }
    }

    #[test]
    fn rows_that_coincide_have_a_finite_gradient() {
        let mut case = Case::random(6, 1, 6, 1.0, 0.0, 3);
        case.images.copy_within(0..6, 6);
        for penalty in BOTH {
            testing::finite_gradients(&case, structure(penalty));
            let two = Case {
                images: case.images[..12].to_vec(),
                texts: case.texts[..12].to_vec(),
                ..case.clone()
            };
            assert!(
                testing::gradients(&two, structure(penalty)).0[0]
                    .iter()
                    .all(|&g| g == 0.0)
            );
        }
    }

    #[test]
    fn weights_are_those_of_the_paper_at_its_batch_and_follow_the_batch() {
        let at = |b| SelfDistillation::for_batch(SelfDistillation::PAPER_WEIGHT, b, Penalty::SmoothL1);
        let close = |found: f64, expected: f64| testing::close(found / expected, 1.0, 1e-12);
        close(at(512).instance, 4e-4);
        close(at(512).pair, 4e-4);
        close(at(64).instance, 0.2048 / 64.0);
        close(at(64).pair, 4e-4 * 130_816.0 * 2.0 / (64.0 * 63.0));
        assert_eq!((at(1).pair, at(0).instance), (0.0, 0.0));
    }
}
