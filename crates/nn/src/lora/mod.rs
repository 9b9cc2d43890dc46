//! Adapters of low rank (Hu et al. 2022, "LoRA"), as the library peft has them: `x wᵀ + b + alpha/rank · (drop(x) aᵀ) bᵀ`.
//!
//! - [`attach`] puts adapters on linear layers, [`merge`] folds them into the weights and takes them off, [`unmerge`] undoes that.
//! - Adapters are parameters like others: `….lora.a` `[rank, in]` and `….lora.b` `[out, rank]`, so that freezing, rates, checkpoints and the
//!   optimizer know them by name.
//! - A layer that is several of the reference implementation in one (queries, keys and values; gate and up) has an adapter of its own for each
//!   part, `….qkv.lora.v.a`, so that the rank is that of each projection, as peft's `target_modules = ["v_proj"]` means it.
//! - What an adapter costs is two thin products; its dense matrix is made when it is merged, and only then.
//! - Dropout takes its randomness from [`crate::noise::scope`]; outside of it nothing is dropped.

mod adapter;
pub(crate) mod walk;

pub(crate) use adapter::{Adapter, low_rank};

use burn::module::{Module, Param};

use crate::fused::{self, Activation};
use crate::init::{Init, Rng};
use crate::layers::{Linear, Part, zeros};

/// Far more than any adapter has.
const MAX_RANK: usize = 1 << 14;

/// What adapters are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rank of the update.
    pub rank: usize,
    /// The update is multiplied by this and divided by the rank.
    pub alpha: f32,
    /// Probability with which a number of an adapter's input is left out in training.
    pub dropout: f32,
}

impl LoraConfig {
    /// Checks numbers that came from a recipe.
    ///
    /// # Errors
    /// [`LoraError`] says which number cannot be.
    pub fn check(&self) -> Result<(), LoraError> {
        if self.rank == 0 || self.rank > MAX_RANK {
            return Err(LoraError::Rank(self.rank));
        }
        if !self.alpha.is_finite() {
            return Err(LoraError::Alpha(self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(LoraError::Dropout(self.dropout));
        }
        Ok(())
    }
}

/// Why adapters cannot be.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum LoraError {
    /// The rank.
    #[error("the rank of adapters is {0}, not in 1…{MAX_RANK}; 8 to 64 are usual")]
    Rank(usize),
    /// The factor.
    #[error("the alpha of adapters is {0}, not a number; one or two times the rank is usual")]
    Alpha(f32),
    /// The probability.
    #[error("the dropout of adapters is {0}, not at least 0 and below 1")]
    Dropout(f32),
}

/// Puts adapters on linear layers and says how many: with 0, `matches` fits no layer, which is nearly always a mistake.
///
/// `matches` is asked for the name of each linear layer (`text.blocks.0.out`), where a layer has parts for each of them
/// (`text.blocks.0.qkv.v`); when it wants none of the parts, for the layer as a whole (`text.blocks.0.qkv`, one adapter over all rows, as peft does with
/// timm's packed layers). What has an adapter already keeps it and does not count.
///
/// `a` is uniform in ±1/√in (He et al. 2015 with a = √5, PyTorch's default for linear layers), `b` is zero, so that nothing changes yet. Both are
/// constants until [`crate::params::set_trainable`] says otherwise.
///
/// # Errors
/// As [`LoraConfig::check`].
pub fn attach<M: Module>(
    module: M,
    config: &LoraConfig,
    matches: impl Fn(&str) -> bool,
    seed: u64,
) -> Result<(M, usize), LoraError> {
    config.check()?;
    let mut rng = Rng::new(seed);
    let mut count = 0;
    let layers: Vec<Linear> = walk::layers(&module)
        .into_iter()
        .map(|(name, mut layer)| {
            let [dout, din] = layer.weight.dims();
            let wanted = |part: &&Part| matches(&format!("{name}.{}", part.name));
            let parts: Vec<&Part> = layer.parts.iter().filter(wanted).collect();
            let places = match parts.is_empty() {
                true if matches(&name) => vec![(None, 0..dout)],
                _ => parts.iter().map(|p| (Some(p.name), p.rows.clone())).collect(),
            };
            for (part, rows) in places {
                let taken = |adapter: &Adapter| adapter.rows.start < rows.end && rows.start < adapter.rows.end;
                if layer.lora.iter().any(taken) {
                    continue;
                }
                count += 1;
                layer.lora.push(Adapter {
                    a: Param::from_tensor(Init::linear(din).tensor([config.rank, din], &mut rng)),
                    b: zeros([rows.len(), config.rank]),
                    part,
                    rows,
                    scale: config.alpha / config.rank as f32,
                    dropout: config.dropout,
                });
            }
            layer.lora.sort_by_key(|adapter| adapter.rows.start);
            layer
        })
        .collect();
    Ok((walk::exchange(module, layers), count))
}

/// How much of the adapters goes into the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fold {
    /// The factor: 1 for all of it; C-CLIP keeps half after each task.
    pub coefficient: f32,
    /// Whether alpha / rank multiplies too, as it does in the layer.
    pub scaled: bool,
}

impl Default for Fold {
    fn default() -> Self {
        Self {
            coefficient: 1.0,
            scaled: true,
        }
    }
}

/// Adapters that were folded into weights.
#[derive(Clone, Debug)]
pub struct Merged {
    fold: Fold,
    /// In the order of layers.
    layers: Vec<(String, Vec<Adapter>)>,
}

impl Merged {
    /// How many adapters.
    pub fn count(&self) -> usize {
        self.layers.iter().map(|(_, adapters)| adapters.len()).sum()
    }
}

/// Folds the adapters into the weights and takes them off: `w + coefficient · alpha/rank · b a`.
pub fn merge<M: Module>(module: M, fold: Fold) -> (M, Merged) {
    let mut merged = Merged {
        fold,
        layers: Vec::new(),
    };
    let layers: Vec<Linear> = walk::layers(&module)
        .into_iter()
        .map(|(name, mut layer)| {
            let adapters = std::mem::take(&mut layer.lora);
            if !adapters.is_empty() {
                layer = shifted(layer, &adapters, fold, 1.0);
                merged.layers.push((name, adapters));
            }
            layer
        })
        .collect();
    (walk::exchange(module, layers), merged)
}

/// Takes adapters out of the weights again and puts them back on their layers.
///
/// The same update is taken off that was added, so that a weight differs from what it was by the rounding of one addition and one subtraction: at most
/// one unit in the last place of the larger of the former and the merged weight. Whoever needs the former bits keeps a copy.
///
/// # Errors
/// [`UnmergeError`] when the module does not have the layers that the adapters came from, or has adapters on them again.
pub fn unmerge<M: Module>(module: M, merged: Merged) -> Result<M, UnmergeError> {
    let mut layers = walk::layers(&module);
    for (name, adapters) in merged.layers {
        let Some((_, layer)) = layers.iter_mut().find(|(found, _)| *found == name) else {
            return Err(UnmergeError::Missing(name));
        };
        let [dout, din] = layer.weight.dims();
        let fits = |adapter: &Adapter| adapter.a.dims()[1] == din && adapter.rows.end <= dout;
        if !adapters.iter().all(fits) {
            return Err(UnmergeError::Shape(name));
        }
        if !layer.lora.is_empty() {
            return Err(UnmergeError::Taken(name));
        }
        *layer = shifted(layer.clone(), &adapters, merged.fold, -1.0);
        layer.lora = adapters;
    }
    Ok(walk::exchange(module, layers.into_iter().map(|(_, layer)| layer)))
}

/// Why adapters cannot be taken out of weights.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnmergeError {
    /// There is no such layer.
    #[error(
        "the adapters of {0} were merged, but the module has no such layer: unmerge the module that they were merged into"
    )]
    Missing(String),
    /// The layer has another shape.
    #[error("{0} has another shape than the layer that its adapters were merged into")]
    Shape(String),
    /// The layer has adapters.
    #[error("{0} has new adapters: merge or drop them before the former ones are taken out")]
    Taken(String),
}

/// The layer with the adapters' update added to its weight, or taken off.
fn shifted(mut layer: Linear, adapters: &[Adapter], fold: Fold, sign: f32) -> Linear {
    let learns = layer.weight.val().is_require_grad();
    let (id, weight, mapper) = layer.weight.consume();
    let mut weight = weight.without_autodiff();
    let [_, din] = weight.dims();
    for adapter in adapters {
        let factor = if fold.scaled { adapter.scale } else { 1.0 } * fold.coefficient;
        let a = adapter.a.val().without_autodiff();
        let b = adapter.b.val().without_autodiff() * factor;
        let update = fused::linear(b, a.transpose(), None, Activation::Identity, None);
        let place = [adapter.rows.clone(), 0..din];
        let former = weight.clone().slice(place.clone());
        weight = weight.slice_assign(place, former + update * sign);
    }
    let weight = if learns {
        weight.autodiff().require_grad()
    } else {
        weight
    };
    layer.weight = Param::from_mapped_value(id, weight, mapper);
    layer
}
