//! Loss and gradient of a batch: whole, or in pieces with the loss of the whole (gradient caching, Gao et al. 2021, arXiv 2101.06983).
//!
//! In pieces, samples pass through the towers without a record first; the loss is computed on all embeddings at once, and its gradient
//! with respect to them kept; then each piece passes again, with a record, and hands that gradient on. Memory for activations is that of a
//! piece. Temperature and bias take part in the loss alone, so that their gradient comes from it once.

use std::collections::BTreeMap;

use bifocal_models::towers::Towers;
use bifocal_nn::engine::scalar;
use bifocal_nn::optim::Gradients;
use bifocal_nn::{Tensor, params};

use crate::batch::{Batch, Embeddings, Part};
use crate::methods::{LossTerms, MethodError, Objective};

/// What a batch gives.
pub(crate) struct Computed {
    pub loss: f32,
    pub terms: BTreeMap<&'static str, f32>,
    /// `None` when the loss is not finite.
    pub grads: Option<Gradients>,
}

impl Computed {
    fn of(terms: &LossTerms) -> Self {
        let value = |t: &Tensor<1>| scalar(t.clone());
        Self {
            loss: value(&terms.total),
            terms: terms.terms.iter().map(|(name, t)| (*name, value(t))).collect(),
            grads: None,
        }
    }
}

/// Computes loss and gradient; in pieces of `micro` samples if that is not 0 and the batch is larger.
pub(crate) fn compute(
    objective: &dyn Objective,
    towers: &Towers,
    batch: &Batch,
    micro: usize,
    seed: u64,
) -> Result<Computed, MethodError> {
    if micro > 0 && micro < batch.len() {
        return in_pieces(objective, towers, batch, micro, seed);
    }
    let all = objective.embed(towers, batch, seed)?;
    let terms = objective.loss(towers, &all)?;
    let mut computed = Computed::of(&terms);
    if computed.loss.is_finite() {
        let total = terms.total;
        // nothing may hold on to the parameters when the optimizer writes into their storage
        drop((all, terms.terms));
        computed.grads = Some(Gradients::collect(towers, total.backward()));
    }
    Ok(computed)
}

fn in_pieces(
    objective: &dyn Objective,
    towers: &Towers,
    batch: &Batch,
    micro: usize,
    seed: u64,
) -> Result<Computed, MethodError> {
    let n = batch.len();
    let pieces: Vec<Batch> = (0..n)
        .step_by(micro)
        .map(|start| batch.part(start..(start + micro).min(n)))
        .collect();
    let still = params::set_trainable(towers.clone(), |_| false);
    let seen = pieces
        .iter()
        .map(|piece| objective.embed(&still, piece, seed))
        .collect::<Result<Vec<_>, _>>()?;
    drop(still);
    let leaves = Embeddings::join(&seen).map(|_, rows| rows.clone().autodiff().require_grad());
    let terms = objective.loss(towers, &leaves)?;
    let mut computed = Computed::of(&terms);
    if !computed.loss.is_finite() {
        return Ok(computed);
    }
    let mut recorded = terms.total.backward();
    let wanted: BTreeMap<Part, Tensor<2>> = leaves
        .rows
        .iter()
        .filter_map(|(&part, leaf)| Some((part, leaf.grad_remove(&mut recorded)?.without_autodiff())))
        .collect();
    let mut grads = Gradients::collect(towers, recorded);
    let mut first: BTreeMap<Part, usize> = BTreeMap::new();
    for piece in &pieces {
        let embedded = objective.embed(towers, piece, seed)?;
        let mut surrogate: Option<Tensor<1>> = None;
        for (part, rows) in embedded.rows {
            let [count, width] = rows.dims();
            let start = first.entry(part).or_default();
            let range = *start..*start + count;
            *start += count;
            // rows that nothing learns from, a teacher's, have no record
            if let Some(gradient) = wanted.get(&part).filter(|_| rows.is_tracked()) {
                let term = (rows * gradient.clone().slice([range, 0..width])).sum();
                surrogate = Some(match surrogate {
                    Some(sum) => sum + term,
                    None => term,
                });
            }
        }
        if let Some(surrogate) = surrogate {
            grads.accumulate(Gradients::collect(towers, surrogate.backward()));
        }
    }
    computed.grads = Some(grads);
    Ok(computed)
}
