//! A run and what it leaves, for comparing it with another.
#![allow(dead_code)] // each test uses its part

use std::collections::BTreeMap;
use std::path::Path;

use bifocal_align::train::metrics::Metrics;
use bifocal_models::weights::TensorSource;
use bifocal_models::weights::safetensors::SafeTensors;

/// What a run has done.
pub struct Ran {
    pub metrics: Vec<Metrics>,
    pub weights: BTreeMap<String, Vec<f32>>,
    /// The mean gradients that the optimizer keeps.
    pub moments: BTreeMap<String, Vec<f32>>,
}

impl Ran {
    /// What the folder of a finished run says.
    pub fn read(out: &Path) -> Self {
        let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let metrics: Vec<Metrics> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let all = |file: &str| {
            let file = format!("checkpoints/step-{:012}/{file}.safetensors", metrics.len());
            let tensors = SafeTensors::open(&out.join(file)).unwrap();
            let load = |name: String| (name.clone(), tensors.load(&name).unwrap().data);
            tensors.names().into_iter().map(load).collect::<BTreeMap<_, _>>()
        };
        let mut moments = all("optimizer");
        moments.retain(|name, _| name.starts_with("m."));
        Self {
            weights: all("weights"),
            moments,
            metrics,
        }
    }

    /// Loss of each step.
    pub fn losses(&self) -> impl Iterator<Item = f32> {
        self.metrics.iter().map(|m| m.loss)
    }

    /// How far another run is from this one, in parts of this one's size.
    pub fn distance(&self, other: &Self) -> Distance {
        assert_eq!(self.metrics.len(), other.metrics.len());
        let steps = || self.metrics.iter().zip(&other.metrics);
        let part = |(a, b): (f64, f64)| (a - b).abs() / a.abs().max(1e-3);
        let of_step = |(a, b): (&Metrics, &Metrics)| {
            let loss = part((a.loss.into(), b.loss.into()));
            loss.max(part((a.grad_norm, b.grad_norm)))
        };
        Distance {
            first: steps().next().map_or(f64::NAN, of_step),
            later: steps().map(of_step).fold(0.0, f64::max),
            gradient: between(&self.moments, &other.moments),
            weights: between(&self.weights, &other.weights),
        }
    }
}

/// L2 norm of the difference of all values in parts of that of the first.
fn between(a: &BTreeMap<String, Vec<f32>>, b: &BTreeMap<String, Vec<f32>>) -> f64 {
    assert!(a.keys().eq(b.keys()));
    let values = |of: &BTreeMap<String, Vec<f32>>| of.values().flatten().map(|&v| f64::from(v)).collect::<Vec<_>>();
    let (a, b) = (values(a), values(b));
    let square = |all: &mut dyn Iterator<Item = f64>| all.map(|v| v * v).sum::<f64>();
    (square(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / square(&mut a.iter().copied())).sqrt()
}

/// Between two runs.
#[derive(Debug)]
pub struct Distance {
    /// Loss and size of the gradient of the first step, from the same weights.
    pub first: f64,
    /// Of the step that differs most: weights that differ by rounding lead to others.
    pub later: f64,
    /// Of all values of the mean gradient that the optimizer keeps.
    pub gradient: f64,
    /// Of all that learns.
    pub weights: f64,
}

impl Distance {
    /// Whether it is what the order of additions in f32 makes.
    pub fn is_rounding(&self) -> bool {
        [self.first, self.gradient, self.weights].iter().all(|&d| d <= 1e-6) && self.later <= 3e-6
    }
}
