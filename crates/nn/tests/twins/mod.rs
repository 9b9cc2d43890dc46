//! An operation held against its twin: value and gradients, finite differences, and, with the feature `gpu`, itself on a graphics card.

#![allow(dead_code)] // each test file uses some

#[cfg(feature = "gpu")]
#[path = "../card/mod.rs"]
mod card;

use bifocal_nn::Tensor;
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::init::Rng;

/// An operation on flat leaves; it gives them their shapes itself, so that one harness serves all ranks.
pub type Op<'a> = &'a dyn Fn(&[Tensor<1>]) -> Tensor<2>;

pub struct Outcome {
    pub value: Vec<f32>,
    pub grads: Vec<Vec<f32>>,
}

pub fn run(op: Op, leaves: &[Vec<f32>]) -> Outcome {
    let leaves: Vec<Tensor<1>> = leaves
        .iter()
        .map(|v| tensor(v.clone(), [v.len()]).autodiff().require_grad())
        .collect();
    let y = op(&leaves);
    let [rows, cols] = y.dims();
    let direction = tensor(direction(rows * cols), [rows, cols]);
    let mut grads = (y.clone() * direction).sum().backward();
    Outcome {
        value: values(y),
        grads: leaves
            .iter()
            .map(|leaf| values(leaf.grad_remove(&mut grads).expect("every leaf gets a gradient")))
            .collect(),
    }
}

fn direction(n: usize) -> Vec<f32> {
    let mut rng = Rng::new(99);
    (0..n).map(|_| rng.normal()).collect()
}

/// The scalar whose gradient [`run`] computes, in f64 from a forward pass without gradients.
fn objective(op: Op, leaves: &[Vec<f32>]) -> f64 {
    let leaves: Vec<Tensor<1>> = leaves.iter().map(|v| tensor(v.clone(), [v.len()])).collect();
    let y = values(op(&leaves));
    let d = direction(y.len());
    y.iter().zip(d).map(|(&a, b)| f64::from(a) * f64::from(b)).sum()
}

pub fn close(name: &str, a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len(), "{name}: lengths");
    let scale = b.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert!((x - y).abs() <= tolerance * scale, "{name}[{i}]: {x} against {y}");
    }
}

/// The same on a graphics card: value and gradients are those of the CPU's kernels.
#[cfg(feature = "gpu")]
pub fn there(name: &str, op: Op, leaves: &[Vec<f32>], here: &Outcome) {
    let Some(device) = card::card() else { return };
    let found = bifocal_nn::engine::scope(device, || run(op, leaves));
    let mut most = card::distance(name, &found.value, &here.value);
    for (i, (a, b)) in found.grads.iter().zip(&here.grads).enumerate() {
        most = most.max(card::distance(&format!("{name}: gradient {i}"), a, b));
    }
    println!("{name}: {most:.1e} from the CPU");
}

#[cfg(not(feature = "gpu"))]
pub fn there(_: &str, _: Op, _: &[Vec<f32>], _: &Outcome) {}

pub fn check(name: &str, sizes: &[usize], fast: Op, twin: Op) {
    let mut rng = Rng::new(7);
    let leaves: Vec<Vec<f32>> = sizes.iter().map(|&n| (0..n).map(|_| rng.normal()).collect()).collect();
    let (a, b) = (run(fast, &leaves), run(twin, &leaves));
    close(name, &a.value, &b.value, 1e-5);
    for (i, (ga, gb)) in a.grads.iter().zip(&b.grads).enumerate() {
        close(&format!("{name}: gradient {i}"), ga, gb, 2e-5);
    }
    there(name, fast, &leaves, &a);
    let h = 5e-3f32;
    for (which, leaf) in leaves.iter().enumerate() {
        for _ in 0..6 {
            let at = rng.below(leaf.len());
            let shifted = |by: f32| {
                let mut moved = leaves.clone();
                moved[which][at] += by;
                objective(fast, &moved)
            };
            let numeric = (shifted(h) - shifted(-h)) / f64::from(2.0 * h);
            let exact = f64::from(a.grads[which][at]);
            assert!(
                (numeric - exact).abs() <= 2e-2 * (1.0 + exact.abs()),
                "{name}: leaf {which}[{at}]: {exact}, but finite differences say {numeric}"
            );
        }
    }
}

pub fn two(x: &Tensor<1>, rows: usize, cols: usize) -> Tensor<2> {
    x.clone().reshape([rows, cols])
}

pub fn scalar_loss(loss: Tensor<1>) -> Tensor<2> {
    loss.reshape([1, 1])
}
