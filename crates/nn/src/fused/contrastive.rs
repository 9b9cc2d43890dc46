//! Losses over all pairs of two sets of rows; the matrix of pairs is never held.
//!
//! The forward pass computes the gradients too, since both need the same similarities; the backward pass multiplies them by what comes in.

use std::sync::Arc;

use bifocal_kernels::contrastive::{self as kernel, Contrast, Sides, Teacher};
use burn::tensor::Tensor;

use super::{Fused, apply, on_cpu};
use crate::composed;

pub use bifocal_kernels::contrastive::{Divergence, Penalty, Softmax, Targets};

/// A loss and its gradients with respect to `N` inputs, the first two being rows.
#[derive(Clone, Debug)]
struct Kept<const N: usize>([Option<Vec<f32>>; N]);

impl<const N: usize> Kept<N> {
    /// Multiplied by the incoming gradient.
    fn scaled(mut self, grad: &[f32], need: [bool; N]) -> [Option<Vec<f32>>; N] {
        let by = grad.first().copied().unwrap_or(0.0);
        for (kept, need) in self.0.iter_mut().zip(need) {
            match kept {
                Some(values) if need => values.iter_mut().for_each(|v| *v *= by),
                _ => *kept = None,
            }
        }
        self.0
    }
}

/// What a kernel gives as an operation's output and as what is kept for the backward pass.
fn outcome<const N: usize>(found: Contrast, keep: bool) -> (Vec<f32>, Vec<usize>, Kept<N>) {
    let Contrast {
        loss,
        x,
        y,
        scale,
        bias,
    } = found;
    let one = |v: f64| keep.then(|| vec![v as f32]);
    let mut all = [x, y, one(scale), one(bias)].into_iter();
    let kept = std::array::from_fn(|_| all.next().flatten());
    (vec![loss as f32], vec![1], Kept(kept))
}

fn first(scalar: &[f32]) -> f32 {
    scalar.first().copied().unwrap_or(f32::NAN)
}

fn sides<'a>(x: &'a [f32], y: &'a [f32], [n, m, d]: [usize; 3]) -> Sides<'a> {
    Sides { x, y, n, m, d }
}

/// `[n, m, d]` of two sets of rows.
fn sizes(x: &Tensor<2>, y: &Tensor<2>, name: &str) -> [usize; 3] {
    let ([n, d], [m, e]) = (x.dims(), y.dims());
    assert_eq!(d, e, "{name}: rows of {d} and of {e} numbers");
    [n, m, d]
}

#[derive(Clone, Debug)]
struct SoftmaxPairs {
    what: Arc<Softmax>,
    sizes: [usize; 3],
    need: [bool; 2],
}

impl Fused<3> for SoftmaxPairs {
    type Saved = Kept<3>;
    const READS: [bool; 3] = [false; 3];

    fn forward(&self, [x, y, scale]: [&[f32]; 3], keep: bool) -> (Vec<f32>, Vec<usize>, Kept<3>) {
        let need = self.need.map(|need| need && keep);
        let found = kernel::softmax(sides(x, y, self.sizes), first(scale), &self.what, need, None);
        outcome(found, keep)
    }

    fn backward(
        &self,
        grad: &[f32],
        _inputs: [&[f32]; 3],
        _output: &[f32],
        saved: Kept<3>,
        need: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        saved.scaled(grad, need)
    }
}

/// Cross-entropy of softmaxed similarities `scale · ⟨x, y⟩` over rows and columns, weighted as `what` says (InfoNCE and its relatives).
///
/// # Shapes
/// `x` `[n, d]`, `y` `[m, d]`, `scale` `[1]`; `what` has `n` rows and `m` columns; the result `[1]`.
pub fn softmax_pairs(x: Tensor<2>, y: Tensor<2>, scale: Tensor<1>, what: &Arc<Softmax>) -> Tensor<1> {
    let sizes = sizes(&x, &y, "softmax_pairs");
    assert_eq!(
        [what.targets().rows(), what.targets().cols()],
        sizes[..2],
        "softmax_pairs: targets"
    );
    assert_eq!(scale.dims(), [1], "softmax_pairs: one scale");
    if !on_cpu(&x) {
        return composed::softmax_pairs(x, y, scale, what);
    }
    let op = SoftmaxPairs {
        what: Arc::clone(what),
        sizes,
        need: [x.is_tracked(), y.is_tracked()],
    };
    apply(op, [x.into(), y.into(), scale.into()])
}

#[derive(Clone, Debug)]
struct SigmoidPairs {
    targets: Arc<Targets>,
    divisor: f64,
    sizes: [usize; 3],
    need: [bool; 2],
}

impl Fused<4> for SigmoidPairs {
    type Saved = Kept<4>;
    const READS: [bool; 4] = [false; 4];

    fn forward(&self, [x, y, scale, bias]: [&[f32]; 4], keep: bool) -> (Vec<f32>, Vec<usize>, Kept<4>) {
        let need = self.need.map(|need| need && keep);
        let (scale, bias, weight) = (first(scale), first(bias), 1.0 / self.divisor);
        let sides = sides(x, y, self.sizes);
        outcome(
            kernel::sigmoid(sides, scale, bias, &self.targets, weight, need, None),
            keep,
        )
    }

    fn backward(
        &self,
        grad: &[f32],
        _inputs: [&[f32]; 4],
        _output: &[f32],
        saved: Kept<4>,
        need: [bool; 4],
    ) -> [Option<Vec<f32>>; 4] {
        saved.scaled(grad, need)
    }
}

/// −Σ log σ(±(`scale · ⟨x, y⟩ + bias`)) / `divisor` over all pairs, + for rows with their targets and − elsewhere (SigLIP).
///
/// # Shapes
/// `x` `[n, d]`, `y` `[m, d]`, `scale` and `bias` `[1]`; `targets` has `n` rows and `m` columns; the result `[1]`.
pub fn sigmoid_pairs(
    x: Tensor<2>,
    y: Tensor<2>,
    scale: Tensor<1>,
    bias: Tensor<1>,
    targets: &Arc<Targets>,
    divisor: f64,
) -> Tensor<1> {
    let sizes = sizes(&x, &y, "sigmoid_pairs");
    assert_eq!([targets.rows(), targets.cols()], sizes[..2], "sigmoid_pairs: targets");
    assert_eq!(
        [scale.dims(), bias.dims()],
        [[1], [1]],
        "sigmoid_pairs: one scale, one bias"
    );
    if !on_cpu(&x) {
        return composed::sigmoid_pairs(x, y, scale, bias, targets, divisor);
    }
    let op = SigmoidPairs {
        targets: Arc::clone(targets),
        divisor,
        sizes,
        need: [x.is_tracked(), y.is_tracked()],
    };
    apply(op, [x.into(), y.into(), scale.into(), bias.into()])
}

#[derive(Clone, Debug)]
struct DistilPairs {
    divergence: Divergence,
    teacher_scale: f32,
    sizes: [usize; 3],
    teacher_width: usize,
    need: [bool; 2],
}

impl Fused<5> for DistilPairs {
    type Saved = Kept<5>;
    const READS: [bool; 5] = [false; 5];

    fn forward(&self, [x, y, scale, tx, ty]: [&[f32]; 5], keep: bool) -> (Vec<f32>, Vec<usize>, Kept<5>) {
        let need = self.need.map(|need| need && keep);
        let [n, m, _] = self.sizes;
        let teacher = Teacher {
            sides: sides(tx, ty, [n, m, self.teacher_width]),
            scale: self.teacher_scale,
        };
        let sides = sides(x, y, self.sizes);
        outcome(
            kernel::distill(sides, first(scale), teacher, self.divergence, need, None),
            keep,
        )
    }

    fn backward(
        &self,
        grad: &[f32],
        _inputs: [&[f32]; 5],
        _output: &[f32],
        saved: Kept<5>,
        need: [bool; 5],
    ) -> [Option<Vec<f32>>; 5] {
        // The teacher learns nothing.
        saved.scaled(grad, [need[0], need[1], need[2], false, false])
    }
}

/// ½ (mean over rows + mean over columns) of the divergence of softmaxed similarities `scale · ⟨x, y⟩` from those of a teacher, which gets no gradient.
///
/// # Shapes
/// `x` `[n, d]`, `y` `[m, d]`, `scale` `[1]`; `teacher` `[n, e]` and `[m, e]`; the result `[1]`.
pub fn distill_pairs(
    x: Tensor<2>,
    y: Tensor<2>,
    scale: Tensor<1>,
    teacher: [Tensor<2>; 2],
    teacher_scale: f32,
    divergence: Divergence,
) -> Tensor<1> {
    let student = sizes(&x, &y, "distill_pairs");
    let [tx, ty] = teacher.map(Tensor::inner);
    let [n, m, teacher_width] = sizes(&tx, &ty, "distill_pairs, teacher");
    assert_eq!(
        [n, m],
        student[..2],
        "distill_pairs: teacher and student differ in rows"
    );
    assert_eq!(scale.dims(), [1], "distill_pairs: one scale");
    if !on_cpu(&x) {
        return composed::distill_pairs(x, y, scale, [tx, ty], teacher_scale, divergence);
    }
    let op = DistilPairs {
        divergence,
        teacher_scale,
        sizes: student,
        teacher_width,
        need: [x.is_tracked(), y.is_tracked()],
    };
    apply(op, [x.into(), y.into(), scale.into(), tx.into(), ty.into()])
}

#[derive(Clone, Debug)]
struct Structure {
    penalty: Penalty,
    rows: usize,
}

impl Fused<2> for Structure {
    type Saved = Kept<2>;
    const READS: [bool; 2] = [false; 2];

    fn forward(&self, [x, teacher]: [&[f32]; 2], keep: bool) -> (Vec<f32>, Vec<usize>, Kept<2>) {
        let (loss, gradient) = kernel::structure(x, teacher, self.rows, self.penalty, keep);
        (vec![loss as f32], vec![1], Kept([gradient, None]))
    }

    fn backward(
        &self,
        grad: &[f32],
        _inputs: [&[f32]; 2],
        _output: &[f32],
        saved: Kept<2>,
        need: [bool; 2],
    ) -> [Option<Vec<f32>>; 2] {
        saved.scaled(grad, [need[0], false])
    }
}

/// Σ over pairs of rows i < j of `penalty(‖xᵢ − xⱼ‖ − ‖tᵢ − tⱼ‖)`; the teacher `t` gets no gradient, and two rows that coincide none towards each other.
///
/// # Shapes
/// `x` `[n, d]`, `teacher` `[n, e]`; the result `[1]`.
pub fn structure(x: Tensor<2>, teacher: Tensor<2>, penalty: Penalty) -> Tensor<1> {
    let [rows, _] = x.dims();
    assert_eq!(teacher.dims()[0], rows, "structure: teacher and student differ in rows");
    let teacher = teacher.inner();
    if !on_cpu(&x) {
        return composed::structure(x, teacher, penalty);
    }
    apply(Structure { penalty, rows }, [x.into(), teacher.into()])
}
