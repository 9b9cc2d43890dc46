//! Cross-entropy of a choice among a few that learn themselves: the codes of a picture.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::{Fused, apply, on_cpu};
use crate::composed;

#[derive(Clone, Debug)]
struct ChoiceLoss {
    targets: Arc<[u32]>,
    choices: usize,
}

/// ln Σ exp of a row.
fn log_sum(row: &[f32]) -> f32 {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !top.is_finite() {
        return top;
    }
    let sum: f64 = row.iter().map(|&v| f64::from(v - top).exp()).sum();
    top + sum.ln() as f32
}

impl Fused<1> for ChoiceLoss {
    /// The logarithm of each row's sum.
    type Saved = Vec<f32>;
    const READS: [bool; 1] = [true];

    fn forward(&self, [x]: [&[f32]; 1], _keep: bool) -> (Vec<f32>, Vec<usize>, Self::Saved) {
        let lse: Vec<f32> = x.chunks_exact(self.choices).map(log_sum).collect();
        let rows = x.chunks_exact(self.choices).zip(self.targets.iter()).zip(&lse);
        let loss = rows.map(|((row, &target), lse)| lse - row[target as usize]).collect();
        (loss, vec![self.targets.len(), 1], lse)
    }

    fn backward(
        &self,
        grad: &[f32],
        [x]: [&[f32]; 1],
        _output: &[f32],
        lse: Self::Saved,
        _need: [bool; 1],
    ) -> [Option<Vec<f32>>; 1] {
        let mut out = Vec::with_capacity(x.len());
        let rows = x.chunks_exact(self.choices).zip(self.targets.iter());
        for ((row, &target), (g, lse)) in rows.zip(grad.iter().zip(&lse)) {
            let start = out.len();
            out.extend(row.iter().map(|v| g * (v - lse).exp()));
            out[start + target as usize] -= g;
        }
        [Some(out)]
    }
}

/// −ln p of each row's target, where p is the softmax over the row. Unlike [`super::token_loss`] the numbers are there already, so that the layer which
/// made them learns.
///
/// # Shapes
/// `logits` `[t, choices]`, `targets` `[t]` → `[t, 1]`.
///
/// # Panics
/// When there are not as many targets as rows, or a target is beyond the choices.
pub fn choice_loss(logits: Tensor<2>, targets: &Arc<[u32]>) -> Tensor<2> {
    let [t, choices] = logits.dims();
    assert_eq!(t, targets.len(), "choice_loss: a target a row");
    assert!(
        targets.iter().all(|&target| (target as usize) < choices),
        "choice_loss: a target is not below {choices}"
    );
    if on_cpu(&logits) {
        let targets = Arc::clone(targets);
        return apply(ChoiceLoss { targets, choices }, [logits.into()]);
    }
    composed::choice_loss(logits, targets)
}
