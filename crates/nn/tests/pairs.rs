//! Losses over all pairs against their composed twins, as `fused.rs` does with layers.

mod twins;

use std::sync::Arc;

use bifocal_nn::engine::{tensor, values};
use bifocal_nn::fused::{self, Divergence, Penalty, Softmax, Targets};
use bifocal_nn::init::Rng;
use bifocal_nn::{Tensor, composed};
use twins::{check, scalar_loss, two};

#[test]
fn softmax_over_pairs() {
    let (n, m, d) = (7, 9, 5);
    let targets = || Targets::new(n, m, (0..8).map(|j| (j % n, j))).expect("each pair once");
    let weights = |k: usize| (0..k).map(|i| 0.1 + 0.05 * i as f32).collect::<Vec<_>>();
    for cols in [weights(m), vec![0.0; m]] {
        let what = Arc::new(Softmax::new(targets(), weights(n), cols));
        check(
            "softmax_pairs",
            &[n * d, m * d, 1],
            &|l| {
                let loss = fused::softmax_pairs(two(&l[0], n, d), two(&l[1], m, d), l[2].clone(), &what);
                scalar_loss(loss)
            },
            &|l| {
                let loss = composed::softmax_pairs(two(&l[0], n, d), two(&l[1], m, d), l[2].clone(), &what);
                scalar_loss(loss)
            },
        );
    }
}

#[test]
fn sigmoid_over_pairs() {
    let (n, m, d) = (7, 9, 5);
    let targets = Arc::new(Targets::new(n, m, (0..8).map(|j| (j % n, j))).expect("each pair once"));
    let rows = |l: &[Tensor<1>]| (two(&l[0], n, d), two(&l[1], m, d), l[2].clone(), l[3].clone());
    check(
        "sigmoid_pairs",
        &[n * d, m * d, 1, 1],
        &|l| {
            let (x, y, scale, bias) = rows(l);
            scalar_loss(fused::sigmoid_pairs(x, y, scale, bias, &targets, 7.0))
        },
        &|l| {
            let (x, y, scale, bias) = rows(l);
            scalar_loss(composed::sigmoid_pairs(x, y, scale, bias, &targets, 7.0))
        },
    );
}

#[test]
fn distillation_over_pairs() {
    let (n, m, d) = (7, 9, 5);
    let mut rng = Rng::new(3);
    let mut random = |k: usize| (0..k * 4).map(|_| rng.normal()).collect::<Vec<f32>>();
    let numbers = [random(n), random(m)];
    let teacher = || numbers.clone().map(|v| tensor(v.clone(), [v.len() / 4, 4]));
    for divergence in [Divergence::CrossEntropy, Divergence::KullbackLeibler] {
        let rows = |l: &[Tensor<1>]| (two(&l[0], n, d), two(&l[1], m, d), l[2].clone());
        check(
            &format!("distill_pairs {divergence:?}"),
            &[n * d, m * d, 1],
            &|l| {
                let (x, y, scale) = rows(l);
                scalar_loss(fused::distill_pairs(x, y, scale, teacher(), 0.7, divergence))
            },
            &|l| {
                let (x, y, scale) = rows(l);
                scalar_loss(composed::distill_pairs(x, y, scale, teacher(), 0.7, divergence))
            },
        );
    }
}

#[test]
fn structure_over_pairs() {
    let (n, d) = (9, 5);
    let mut rng = Rng::new(3);
    let numbers: Vec<f32> = (0..n * 4).map(|_| rng.normal()).collect();
    let teacher = || tensor(numbers.clone(), [n, 4]);
    for penalty in [Penalty::Squared, Penalty::SmoothL1] {
        check(
            &format!("structure {penalty:?}"),
            &[n * d],
            &|l| scalar_loss(fused::structure(two(&l[0], n, d), teacher(), penalty)),
            &|l| scalar_loss(composed::structure(two(&l[0], n, d), teacher(), penalty)),
        );
    }
}

#[test]
fn a_side_that_does_not_learn_gets_no_gradient() {
    let (n, d) = (6, 4);
    let mut rng = Rng::new(3);
    let mut rows = || tensor::<2>((0..n * d).map(|_| rng.normal()).collect(), [n, d]);
    let (learning, frozen) = (rows().autodiff().require_grad(), rows());
    let scale = tensor(vec![2.0], [1]);
    let targets = Targets::new(n, n, (0..n).map(|i| (i, i))).expect("each pair once");
    let what = Arc::new(Softmax::new(targets, vec![0.1; n], vec![0.1; n]));
    for frozen in [frozen.clone(), frozen.clone().autodiff()] {
        for swapped in [false, true] {
            let (x, y) = (learning.clone(), frozen.clone());
            let (x, y) = if swapped { (y, x) } else { (x, y) };
            let grads = fused::softmax_pairs(x, y, scale.clone(), &what).backward();
            assert!(frozen.grad(&grads).is_none());
            let found = learning.grad(&grads).expect("it learns");
            assert!(values(found).iter().any(|&g| g != 0.0));
        }
    }
    let plain = fused::softmax_pairs(frozen.clone(), frozen, scale, &what);
    assert!(!plain.is_autodiff());
}
