//! What the tests of all losses share: batches, f64 arithmetic, finite differences, PyTorch's numbers.

use bifocal_nn::Tensor;
use bifocal_nn::engine::{self, tensor, values};
use bifocal_nn::init::Rng;

use super::Positives;

/// A batch of unit rows.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub images: Vec<f32>,
    pub texts: Vec<f32>,
    /// Rows that belong to nobody: hard negatives, or what a teacher makes of the batch.
    pub extra: Vec<f32>,
    pub dim: usize,
    pub scale: f32,
    pub bias: f32,
    pub positives: Positives,
}

fn unit_rows(rows: &mut [f32], dim: usize) {
    for row in rows.chunks_mut(dim) {
        let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= length);
    }
}

impl Case {
    /// Rows of the specification's golden numbers.
    pub fn golden(scale: f32) -> Self {
        let mut images = vec![1., 2., 3., 4., 4., 3., 2., 1., 1., -1., 1., -1.];
        let mut texts = vec![2., 1., 0., 1., 0., 1., 2., 2., 1., 0., 1., -1.];
        unit_rows(&mut images, 4);
        unit_rows(&mut texts, 4);
        Self {
            images,
            texts,
            extra: Vec::new(),
            dim: 4,
            scale,
            bias: 0.0,
            positives: Positives::diagonal(3),
        }
    }

    /// `n` pictures with `per` texts each, in mixed order.
    pub fn random(n: usize, per: usize, dim: usize, scale: f32, bias: f32, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut images: Vec<f32> = (0..n * dim).map(|_| rng.normal()).collect();
        let mut texts: Vec<f32> = (0..n * per * dim).map(|_| rng.normal()).collect();
        unit_rows(&mut images, dim);
        unit_rows(&mut texts, dim);
        let of_text = (0..n * per).map(|j| (j * 5 + j / n) % n).collect();
        Self {
            images,
            texts,
            extra: Vec::new(),
            dim,
            scale,
            bias,
            positives: Positives::new(n, of_text).expect("5 is prime to the sizes used"),
        }
    }

    /// The same with `rows` more unit rows.
    pub fn with_extra(mut self, rows: usize) -> Self {
        let mut rng = Rng::new(rows as u64 + 77);
        self.extra = (0..rows * self.dim).map(|_| rng.normal()).collect();
        unit_rows(&mut self.extra, self.dim);
        self
    }

    /// One text per picture, several, and a single picture.
    pub fn several() -> Vec<Self> {
        vec![
            Self::random(7, 1, 5, 14.3, -3.0, 1),
            Self::random(4, 3, 6, 3.0, -10.0, 2),
            Self::random(1, 2, 3, 1.0, 0.5, 3),
            Self::golden(10.0),
        ]
    }

    /// The same pairs in another order.
    pub fn shuffled(&self) -> Self {
        let (n, m, d) = (self.positives.images(), self.positives.of_text().len(), self.dim);
        let (turn, flip) = (|i: usize| (i + 1) % n, |j: usize| m - 1 - j);
        let mut out = self.clone();
        for i in 0..n {
            out.images[turn(i) * d..][..d].copy_from_slice(&self.images[i * d..][..d]);
        }
        let mut of_text = vec![0; m];
        for j in 0..m {
            out.texts[flip(j) * d..][..d].copy_from_slice(&self.texts[j * d..][..d]);
            of_text[flip(j)] = turn(self.positives.of_text()[j]);
        }
        out.positives = Positives::new(n, of_text).expect("a permutation of valid positives");
        out
    }

    pub fn dot(&self, i: usize, j: usize) -> f64 {
        self.product(i, &self.texts[j * self.dim..])
    }

    pub fn dot_extra(&self, i: usize, k: usize) -> f64 {
        self.product(i, &self.extra[k * self.dim..])
    }

    fn product(&self, i: usize, other: &[f32]) -> f64 {
        let pairs = self.images[i * self.dim..][..self.dim].iter().zip(other);
        pairs.map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
    }

    pub fn leaves(&self) -> Leaves {
        let rows = |v: &[f32]| {
            let rows = tensor(v.to_vec(), [v.len() / self.dim, self.dim]);
            rows.autodiff().require_grad()
        };
        Leaves {
            images: rows(&self.images),
            texts: rows(&self.texts),
            extra: rows(&self.extra),
            scale: scalar(self.scale).autodiff().require_grad(),
            bias: scalar(self.bias).autodiff().require_grad(),
        }
    }
}

/// The tensors of a case, each asking for its gradient.
#[derive(Clone)]
pub(crate) struct Leaves {
    pub images: Tensor<2>,
    pub texts: Tensor<2>,
    pub extra: Tensor<2>,
    pub scale: Tensor<1>,
    pub bias: Tensor<1>,
}

impl Leaves {
    /// Of a loss of these leaves; zeros where it does not depend on one.
    pub fn gradients(&self, loss: Tensor<1>) -> Grads {
        let grads = loss.backward();
        let rows = |t: &Tensor<2>| {
            let [n, d] = t.dims();
            t.grad(&grads).map_or_else(|| vec![0.0; n * d], values)
        };
        let one = |t: &Tensor<1>| t.grad(&grads).map_or_else(|| vec![0.0], values);
        Grads([
            rows(&self.images),
            rows(&self.texts),
            rows(&self.extra),
            one(&self.scale),
            one(&self.bias),
        ])
    }
}

/// Gradients in the order of [`Leaves`].
#[derive(Clone, Debug)]
pub(crate) struct Grads(pub [Vec<f32>; 5]);

const NAMES: [&str; 5] = ["images", "texts", "extra", "scale", "bias"];

impl Grads {
    /// Each number within `tolerance` of the largest of its tensor.
    #[track_caller]
    pub fn close(&self, expected: &Grads, tolerance: f64) {
        for ((found, expected), name) in self.0.iter().zip(&expected.0).zip(NAMES) {
            assert_eq!(found.len(), expected.len(), "gradient of {name}");
            let largest = expected.iter().fold(1e-3f32, |m, g| m.max(g.abs()));
            for (f, e) in found.iter().zip(expected) {
                let error = (f64::from(*f) - f64::from(*e)).abs();
                assert!(
                    error <= f64::from(largest) * tolerance,
                    "gradient of {name}: {f} should be {e}"
                );
            }
        }
    }
}

pub(crate) fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    largest + values.map(|v| (v - largest).exp()).sum::<f64>().ln()
}

pub(crate) fn scalar(value: f32) -> Tensor<1> {
    tensor(vec![value], [1])
}

#[track_caller]
pub(crate) fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found} should be {expected}");
}

pub(crate) fn value(case: &Case, loss: impl Fn(&Case, Leaves) -> Tensor<1>) -> f64 {
    f64::from(engine::scalar(loss(case, case.leaves())))
}

pub(crate) fn gradients(case: &Case, loss: impl Fn(&Case, Leaves) -> Tensor<1>) -> Grads {
    let leaves = case.leaves();
    leaves.gradients(loss(case, leaves.clone()))
}

pub(crate) fn finite_gradients(case: &Case, loss: impl Fn(&Case, Leaves) -> Tensor<1>) {
    let grads = gradients(case, loss);
    assert!(grads.0.iter().flatten().all(|g| g.is_finite()));
}

/// The recorded gradient of all rows against central differences of the f64 twin.
pub(crate) fn finite_differences(case: &Case, loss: impl Fn(&Case, Leaves) -> Tensor<1>, naive: impl Fn(&Case) -> f64) {
    differences(
        case,
        loss,
        naive,
        &[|c| &mut c.images, |c| &mut c.texts, |c| &mut c.extra],
    );
}

/// As [`finite_differences`], where the texts or the extra rows are a teacher's: those must have no gradient if they are.
pub(crate) fn finite_differences_of_student(
    case: &Case,
    loss: impl Fn(&Case, Leaves) -> Tensor<1>,
    naive: impl Fn(&Case) -> f64,
) {
    if case.extra.is_empty() {
        assert!(
            gradients(case, &loss).0[1].iter().all(|&g| g == 0.0),
            "the teacher learns"
        );
        differences(case, loss, naive, &[|c| &mut c.images]);
    } else {
        assert!(
            gradients(case, &loss).0[2].iter().all(|&g| g == 0.0),
            "the teacher learns"
        );
        differences(case, loss, naive, &[|c| &mut c.images, |c| &mut c.texts]);
    }
}

/// As [`finite_differences`], where all but the pictures are a teacher's.
pub(crate) fn finite_differences_of_images(
    case: &Case,
    loss: impl Fn(&Case, Leaves) -> Tensor<1>,
    naive: impl Fn(&Case) -> f64,
) {
    differences(case, loss, naive, &[|c| &mut c.images]);
}

fn differences(
    case: &Case,
    loss: impl Fn(&Case, Leaves) -> Tensor<1>,
    naive: impl Fn(&Case) -> f64,
    picks: &[fn(&mut Case) -> &mut Vec<f32>],
) {
    let grads = gradients(case, loss).0;
    let largest = grads[..3].iter().flatten().fold(1e-3f32, |m, g| m.max(g.abs()));
    let step = 1e-3f32;
    for (grads, pick) in grads.iter().zip(picks) {
        for (k, &grad) in grads.iter().enumerate() {
            let (mut up, mut down) = (case.clone(), case.clone());
            pick(&mut up)[k] += step;
            pick(&mut down)[k] -= step;
            let width = f64::from(pick(&mut up)[k]) - f64::from(pick(&mut down)[k]);
            let slope = (naive(&up) - naive(&down)) / width;
            close(f64::from(grad), slope, f64::from(largest) * 2e-3);
        }
    }
}

/// Values and gradients that `scripts/fixtures/losses.py` computed with PyTorch in f64.
pub(crate) fn against_fixture(name: &str, loss: impl Fn(&Case, Leaves) -> Tensor<1>) {
    let text = include_str!("../../tests/fixtures/losses.json");
    let all: serde_json::Value = serde_json::from_str(text).expect("the fixture is JSON");
    let numbers = |v: &serde_json::Value| -> Vec<f32> {
        let list = v.as_array().expect("a list of numbers");
        list.iter().map(|x| x.as_f64().expect("a number") as f32).collect()
    };
    let mut cases = 0;
    for entry in all[name].as_array().expect("a list of cases") {
        let dim = entry["dim"].as_u64().expect("dim") as usize;
        let images = numbers(&entry["images"]);
        let of_text = numbers(&entry["positives"]).iter().map(|&i| i as usize).collect();
        let case = Case {
            positives: Positives::new(images.len() / dim, of_text).expect("valid positives"),
            texts: numbers(&entry["texts"]),
            extra: numbers(&entry["extra"]),
            images,
            dim,
            scale: entry["scale"].as_f64().expect("scale") as f32,
            bias: entry["bias"].as_f64().expect("bias") as f32,
        };
        let leaves = case.leaves();
        let out = loss(&case, leaves.clone());
        let expected = entry["loss"].as_f64().expect("loss");
        close(
            f64::from(engine::scalar(out.clone())),
            expected,
            1e-5 * expected.abs().max(1.0),
        );
        let expected = NAMES.map(|name| numbers(&entry[format!("grad_{name}")]));
        leaves.gradients(out).close(&Grads(expected), 1e-4);
        cases += 1;
    }
    assert!(cases >= 3, "the fixture has only {cases} cases of {name}");
}
