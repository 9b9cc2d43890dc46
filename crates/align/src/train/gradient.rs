//! Loss and gradient of a batch: whole, or in pieces with the loss of the whole (gradient caching, Gao et al. 2021, arXiv 2101.06983).
//!
//! In pieces, samples pass through the towers without a record first; the loss is computed on all embeddings at once, and its gradient
//! with respect to them kept; then each piece passes again, with a record, and hands that gradient on. Memory for activations is that of a
//! piece. Temperature and bias take part in the loss alone, so that their gradient comes from it once.
//!
//! Several processes do the same: each embeds its part of the batch, all get all embeddings and compute the loss of the whole, each passes the
//! gradient of its own rows on, and the gradients of parameters are added up in the order of ranks.

use std::collections::BTreeMap;

use bifocal_models::towers::Towers;
use bifocal_nn::engine::{scalar, tensor, values};
use bifocal_nn::optim::Gradients;
use bifocal_nn::{Tensor, checkpoint, params, precision, trace};
use serde::{Deserialize, Serialize};

use super::collective::{RankError, Ranks, Wait};
use crate::batch::{Batch, Embeddings, Part};
use crate::losses::Positives;
use crate::methods::{LossTerms, MethodError, Objective};
use crate::recipe::ComputeSpec;

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

/// As [`compute`], as a recipe says.
pub(crate) fn compute_as(
    how: &ComputeSpec,
    objective: &dyn Objective,
    towers: &Towers,
    batch: Option<&Batch>,
    seed: u64,
    ranks: &dyn Ranks,
) -> Result<Computed, MethodError> {
    let compute = || compute(objective, towers, batch, how.micro_batch, seed, ranks);
    precision::scope(how.precision.into(), || checkpoint::scope(how.recompute, compute))
}

/// Computes loss and gradient of a batch of which this rank holds a part, or nothing: in pieces of `micro` samples if that is not 0.
fn compute(
    objective: &dyn Objective,
    towers: &Towers,
    batch: Option<&Batch>,
    micro: usize,
    seed: u64,
    ranks: &dyn Ranks,
) -> Result<Computed, MethodError> {
    let pieces: Vec<Batch> = match batch {
        None => Vec::new(),
        Some(batch) if micro == 0 || micro >= batch.len() => vec![batch.clone()],
        Some(batch) => (0..batch.len())
            .step_by(micro)
            .map(|start| batch.part(start..(start + micro).min(batch.len())))
            .collect(),
    };
    match pieces.as_slice() {
        [whole] if ranks.size() == 1 => at_once(objective, towers, whole, seed),
        _ => in_pieces(objective, towers, &pieces, seed, ranks),
    }
}

fn at_once(objective: &dyn Objective, towers: &Towers, batch: &Batch, seed: u64) -> Result<Computed, MethodError> {
    let span = trace::span("forward");
    let all = objective.embed(towers, batch, seed)?;
    let terms = objective.loss(towers, &all)?;
    drop(span);
    let mut computed = Computed::of(&terms);
    if computed.loss.is_finite() {
        let total = terms.total;
        // nothing may hold on to the parameters when the optimizer writes into their storage
        drop((all, terms.terms));
        let _span = trace::span("backward");
        computed.grads = Some(Gradients::collect(towers, total.backward()));
    }
    Ok(computed)
}

fn in_pieces(
    objective: &dyn Objective,
    towers: &Towers,
    pieces: &[Batch],
    seed: u64,
    ranks: &dyn Ranks,
) -> Result<Computed, MethodError> {
    // a single piece passes once: its record is kept until the others' embeddings are here
    let mut kept = match pieces {
        [one] => Some(objective.embed(towers, one, seed)?),
        _ => None,
    };
    let seen = match &kept {
        Some(one) => vec![one.map(|_, rows| rows.clone().without_autodiff())],
        None => {
            let still = params::set_trainable(towers.clone(), |_| false);
            let seen = pieces.iter().map(|piece| objective.embed(&still, piece, seed));
            seen.collect::<Result<Vec<_>, _>>()?
        }
    };
    let (all, mut next) = gather(&seen, ranks)?;
    let leaves = all.map(|_, rows| rows.clone().autodiff().require_grad());
    let terms = objective.loss(towers, &leaves)?;
    let mut computed = Computed::of(&terms);
    // whether the step counts is for one rank to say: another kind of processor may round in another way
    if let Some(&loss) = ranks.gather_f32(&[computed.loss])?.first().and_then(|l| l.first()) {
        computed.loss = loss;
    }
    if !computed.loss.is_finite() {
        return Ok(computed);
    }
    let mut recorded = terms.total.backward();
    let wanted: BTreeMap<Part, Tensor<2>> = leaves
        .rows
        .iter()
        .filter_map(|(&part, leaf)| Some((part, leaf.grad_remove(&mut recorded)?.without_autodiff())))
        .collect();
    let mut grads = match ranks.first() {
        true => Gradients::collect(towers, recorded),
        // the loss is the same at all ranks, and its own parameters count once
        false => Gradients::default(),
    };
    for piece in pieces {
        let embedded = match kept.take() {
            Some(embedded) => embedded,
            None => objective.embed(towers, piece, seed)?,
        };
        let mut surrogate: Option<Tensor<1>> = None;
        for (part, rows) in embedded.rows {
            let [count, width] = rows.dims();
            let start = next.entry(part).or_default();
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
    sum(&mut grads, ranks)?;
    computed.grads = Some(grads);
    Ok(computed)
}

/// What a rank says of its rows before it sends them.
#[derive(Serialize, Deserialize)]
struct Heading {
    samples: usize,
    of_text: Vec<usize>,
    parts: Vec<(Part, [usize; 2])>,
}

/// The rows of all ranks as those of the whole batch, and where this rank's begin.
fn gather(own: &[Embeddings], ranks: &dyn Ranks) -> Result<(Embeddings, BTreeMap<Part, usize>), RankError> {
    let own = Embeddings::join(own);
    if ranks.size() == 1 {
        return Ok((own, BTreeMap::new()));
    }
    let heading = Heading {
        samples: own.positives.images(),
        of_text: own.positives.of_text().to_vec(),
        parts: own.rows.iter().map(|(&part, rows)| (part, rows.dims())).collect(),
    };
    let headings = ranks.tell("the shape of its part of the batch", &heading, Wait::Step)?;
    let own = own.rows.into_values().flat_map(values).collect::<Vec<_>>();
    let rows = ranks.gather_f32(&own)?;
    let mut begins = BTreeMap::new();
    let mut all = Vec::with_capacity(headings.len());
    for (rank, (heading, rows)) in headings.into_iter().zip(rows).enumerate() {
        let garbled = || RankError::Garbled {
            what: "rows of its part of the batch",
            other: rank,
        };
        let positives = Positives::new(heading.samples, heading.of_text).ok_or_else(garbled)?;
        let mut part_of = Embeddings {
            rows: BTreeMap::new(),
            positives,
        };
        let mut rest = rows.as_slice();
        for (part, [count, width]) in heading.parts {
            let size = count.checked_mul(width).ok_or_else(garbled)?;
            let (head, tail) = rest.split_at_checked(size).ok_or_else(garbled)?;
            rest = tail;
            part_of = part_of.with(part, tensor(head.to_vec(), [count, width]));
            if rank < ranks.rank() {
                *begins.entry(part).or_default() += count;
            }
        }
        all.push(part_of);
    }
    Ok((Embeddings::join(&all), begins))
}

/// Adds up the gradients of all ranks. A rank without a share of some rows has no gradient where another has one.
fn sum(grads: &mut Gradients, ranks: &dyn Ranks) -> Result<(), RankError> {
    if ranks.size() == 1 {
        return Ok(());
    }
    let layout: BTreeMap<String, Vec<usize>> = grads.layout().map(|(name, shape)| (name.to_owned(), shape)).collect();
    for other in ranks.tell("the layout of its gradients", &layout, Wait::Step)? {
        other.iter().for_each(|(name, shape)| grads.complete(name, shape));
    }
    let mut flat = grads.flat();
    // all ranks sum as many, or fail here together
    ranks.agree(
        "the number of values that learn",
        "start the same version of bifocal on all machines",
        &flat.len().to_le_bytes(),
    )?;
    ranks.sum(&mut flat)?;
    grads.set_flat(&flat).map_err(|_| RankError::Garbled {
        what: "gradients",
        other: ranks.rank(),
    })
}
