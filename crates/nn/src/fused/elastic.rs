//! A weighted squared distance from a point, without a copy of what it is measured of.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{Fused, apply, on_cpu};
use crate::composed;

/// Numbers whose terms are summed in one go.
const CHUNK: usize = 32 * 1024;

#[derive(Clone, Debug)]
struct Elastic {
    weight: f32,
}

impl Fused<3> for Elastic {
    type Saved = ();
    const READS: [bool; 3] = [true; 3];

    fn forward(&self, [x, importance, center]: [&[f32]; 3], _keep: bool) -> (Vec<f32>, Vec<usize>, ()) {
        let parts: Vec<f64> = x
            .par_chunks(CHUNK)
            .zip(importance.par_chunks(CHUNK))
            .zip(center.par_chunks(CHUNK))
            .map(|((x, importance), center)| {
                let terms = x.iter().zip(importance).zip(center);
                terms
                    .map(|((&x, &a), &c)| f64::from(a) * f64::from(x - c).powi(2))
                    .sum()
            })
            .collect();
        let sum: f64 = parts.iter().sum();
        (vec![(0.5 * f64::from(self.weight) * sum) as f32], vec![1], ())
    }

    fn backward(
        &self,
        grad: &[f32],
        [x, importance, center]: [&[f32]; 3],
        _output: &[f32],
        _saved: (),
        [need, ..]: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        let slope = self.weight * grad.first().copied().unwrap_or(0.0);
        let pull = || {
            let terms = x.par_iter().zip(importance).zip(center);
            terms.map(|((&x, &a), &c)| slope * a * (x - c)).collect()
        };
        [need.then(pull), None, None]
    }
}

/// `weight / 2 · Σ importance · (x − center)²`; only `x` gets a gradient.
///
/// # Shapes
/// All of one length; the result `[1]`.
///
/// # Panics
/// When lengths differ.
pub fn elastic(x: Tensor<1>, importance: Tensor<1>, center: Tensor<1>, weight: f32) -> Tensor<1> {
    let lengths = [&importance, &center].map(|t| t.dims());
    assert_eq!([x.dims(); 2], lengths, "elastic: vectors differ in length");
    if !on_cpu(&x) {
        return composed::elastic(x, importance, center, weight);
    }
    apply(Elastic { weight }, [x.into(), importance.into(), center.into()])
}
