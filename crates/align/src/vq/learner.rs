//! One step of a network with a codebook.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use bifocal_models::vq::{Latents, VqModel};
use bifocal_models::weights::HostTensor;
use bifocal_nn::engine::{scalar, tensor, values};
use bifocal_nn::init::Rng;
use bifocal_nn::layers::Pictures;
use bifocal_nn::optim::{Gradients, Moments, Optimizer, OptimizerConfig, Rate};
use bifocal_nn::{Module, params, precision};

use super::critic::Critic;
use super::pixels::{Pixels, Seen};
use crate::random::{CODES, INIT, mix};
use crate::recipe::{Decay, VqRecipe};
use crate::train::checkpoint::{Snapshot, State};

/// The table of codes.
const TABLE: &str = "quantize.embedding.weight";
/// In a checkpoint: how often each code was chosen since codes were last revived.
const CHOSEN: &str = "codes.chosen";
/// What a revived code differs from the latent that it is made of, so that two of them are not the same.
const NOISE: f32 = 0.01;

/// A network, its optimizer, and which codes are in use.
pub(super) struct Learner {
    /// `None` only inside a step.
    model: Option<VqModel>,
    optimizer: Optimizer,
    /// Parameters with weight decay.
    decayed: BTreeSet<String>,
    /// Choices of each code since codes were last revived.
    chosen: Vec<f32>,
    latents: Latents,
    /// `None` when latents alone are judged.
    pixels: Option<Pixels>,
    critic: Option<Critic>,
    recipe: VqRecipe,
}

/// Numbers of a step.
pub(super) struct Outcome {
    pub loss: f32,
    pub terms: BTreeMap<String, f32>,
    pub grad_norm: f64,
    /// What is wrong with the step, if anything is; then nothing was changed.
    pub bad: Option<String>,
}

impl Learner {
    /// A network that has not learnt anything, on latents of so many channels.
    pub fn new(recipe: &VqRecipe, latents: Latents, pixels: Option<Pixels>) -> Result<Self, String> {
        let config = recipe.config(latents.shift.len());
        let model = VqModel::new(config, &mut Rng::new(mix(recipe.seed, INIT, 0)))?;
        let all = params::list(&model).into_iter();
        let decays = |shape: &[usize]| recipe.optimizer.decay == Decay::All || shape.len() > 1;
        Ok(Self {
            decayed: all.filter(|info| decays(&info.shape)).map(|info| info.name).collect(),
            model: Some(params::set_trainable(model, |_| true)),
            optimizer: Optimizer::new(recipe.optimizer.config()),
            chosen: vec![0.0; recipe.codebook.codes],
            latents,
            pixels,
            critic: Critic::new(recipe),
            recipe: recipe.clone(),
        })
    }

    pub fn model(&self) -> &VqModel {
        match &self.model {
            Some(model) => model,
            None => unreachable!("a step gives the model back before it ends"),
        }
    }

    pub fn latents(&self) -> &Latents {
        &self.latents
    }

    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// What a checkpoint holds.
    pub fn snapshot(&self, state: &State) -> Snapshot {
        let mut weights = BTreeMap::new();
        put(self.model(), &mut weights);
        let chosen = HostTensor {
            shape: vec![self.chosen.len()],
            data: self.chosen.clone(),
        };
        weights.insert(CHOSEN.to_owned(), chosen);
        let mut snapshot = Snapshot {
            state: state.clone(),
            weights,
            moments: self.optimizer.state(),
        };
        if let Some(critic) = &self.critic {
            critic.keep(&mut snapshot);
        }
        snapshot
    }

    /// Puts a checkpoint in place; all of it has to fit.
    pub fn restore(&mut self, mut snapshot: Snapshot) -> Result<(), String> {
        match snapshot.weights.remove(CHOSEN) {
            Some(tensor) if tensor.data.len() == self.chosen.len() => self.chosen = tensor.data,
            _ => return Err(format!("the checkpoint does not have {CHOSEN} of this codebook")),
        }
        if let Some(critic) = &mut self.critic {
            critic.restore(&mut snapshot)?;
        }
        let model = self.model.take().ok_or("there is no model to restore")?;
        let config = *self.optimizer.config();
        self.model = Some(take(model, "", config, &mut snapshot)?);
        if let Some((name, _)) = snapshot.weights.pop_first() {
            return Err(format!("the checkpoint has {name}, which this network has not"));
        }
        self.optimizer = Optimizer::restore(config, snapshot.state.optimizer_step, snapshot.moments);
        Ok(())
    }

    /// Takes step `index` of `total`, counted from 0. With a loss above `limit` it is not taken.
    pub fn step(&mut self, windows: &Pictures, index: u64, total: u64, lr: f64, limit: Option<f32>) -> Outcome {
        let how = self.recipe.compute.precision;
        precision::scope(how.into(), || self.step_exactly(windows, index, total, lr, limit))
    }

    fn step_exactly(&mut self, windows: &Pictures, index: u64, total: u64, lr: f64, limit: Option<f32>) -> Outcome {
        let x = self.latents.enter(windows);
        let every = self.recipe.codebook.revive_every;
        let last = self.recipe.codebook.revive_until * total as f64;
        if every > 0 && index.is_multiple_of(every) && (index as f64) < last.max(1.0) {
            self.revive(&x, index);
        }
        let (z, quantized) = self.model().quantized(&x);
        let made = self.model().decode(&z);
        let latents = (made.x.clone() - x.x).powi_scalar(2).mean();
        let mut terms = vec![
            ("latents", latents, self.recipe.loss.latents),
            ("codebook", quantized.codebook, 1.0),
            ("commitment", quantized.commitment, self.recipe.codebook.commitment),
        ];
        let seen = self.pixels.as_ref().map(|pixels| {
            let seen = pixels.see(&self.latents.leave(&made), windows);
            terms.extend(pixels.terms(&seen));
            seen
        });
        let critic = self.critic.as_ref().filter(|critic| critic.takes_part(index));
        let judged: Option<(&Critic, &Seen)> = critic.zip(seen.as_ref());
        if let Some((critic, seen)) = judged {
            let (asked, weight) = critic.asks(&seen.made);
            terms.push(("adversarial", asked, weight));
        }
        let mut values: BTreeMap<String, f32> = BTreeMap::new();
        let mut loss = tensor(vec![0.0], [1]);
        for (name, term, weight) in terms {
            values.insert(name.to_owned(), scalar(term.clone()));
            loss = loss + term * weight;
        }
        let different: BTreeSet<u32> = quantized.codes.iter().copied().collect();
        values.insert("codes".to_owned(), different.len() as f32);
        let verdict = judged.map(|(critic, seen)| critic.judge(seen));
        if let Some(verdict) = &verdict {
            values.insert("discriminator".to_owned(), verdict.loss);
        }
        let mut outcome = Outcome {
            loss: scalar(loss.clone()),
            terms: values,
            grad_norm: f64::NAN,
            bad: None,
        };
        if !outcome.loss.is_finite() {
            outcome.bad = Some(format!("the loss ({}) is not finite", outcome.loss));
            return outcome;
        }
        // nothing may hold on to the parameters when the optimizer writes into their storage
        drop((z, quantized.z, made, seen));
        let grads = Gradients::collect(self.model(), loss.backward());
        outcome.grad_norm = grads.norm();
        if !outcome.grad_norm.is_finite() || verdict.as_ref().is_some_and(|v| !v.norm.is_finite()) {
            outcome.bad = Some("the gradient is not finite".to_owned());
            return outcome;
        }
        if let Some(limit) = limit.filter(|&limit| outcome.loss > limit) {
            let loss = outcome.loss;
            outcome.bad = Some(format!(
                "the loss ({loss}) has exploded, it is more than {limit} (run.explode)"
            ));
            return outcome;
        }
        quantized
            .codes
            .iter()
            .for_each(|&code| self.chosen[code as usize] += 1.0);
        let scale = clipped(self.recipe.optimizer.clip_norm, outcome.grad_norm);
        if let Some(model) = self.model.take() {
            let (decayed, decay) = (&self.decayed, self.recipe.optimizer.weight_decay as f32);
            let rate = |name: &str| Rate {
                lr: lr as f32,
                weight_decay: if decayed.contains(name) { decay } else { 0.0 },
            };
            self.model = Some(self.optimizer.step(model, &grads, scale, rate));
        }
        if let Some((critic, verdict)) = self.critic.as_mut().zip(verdict) {
            critic.step(&verdict, lr, self.optimizer.steps());
        }
        outcome
    }

    /// Codes that nothing has chosen become latents of these pictures, drawn by the seed and the step; their moments begin anew.
    fn revive(&mut self, x: &Pictures, index: u64) {
        let still = params::set_trainable(self.model().clone(), |_| false);
        let found = still.encode(x);
        let [rows, dim] = found.x.dims();
        let found = values(bifocal_models::adapter::normalize(found.x));
        let mut rng = Rng::new(mix(self.recipe.seed, CODES, index));
        let chosen = std::mem::replace(&mut self.chosen, vec![0.0; self.recipe.codebook.codes]);
        let dead: Vec<usize> = (0..chosen.len()).filter(|&code| chosen[code] == 0.0).collect();
        let fresh: Vec<f32> = dead
            .iter()
            .flat_map(|_| {
                let row = rng.below(rows.max(1));
                let code: Vec<f32> = found[row * dim..][..dim]
                    .iter()
                    .map(|v| v + NOISE * rng.normal())
                    .collect();
                code
            })
            .collect();
        let put = |table: &mut [f32], values: &mut dyn FnMut(usize) -> f32| {
            for (i, &code) in dead.iter().enumerate() {
                for k in 0..dim {
                    table[code * dim + k] = values(i * dim + k);
                }
            }
        };
        let mut table = values(still.quantize.embedding.weight.val());
        put(&mut table, &mut |i| fresh[i]);
        drop(still);
        let Some(model) = self.model.take() else { return };
        let mut table = Some(table);
        let replaced = params::load(model, |name, _| {
            Ok::<_, Infallible>(if name == TABLE { table.take() } else { None })
        });
        self.model = match replaced {
            Ok(model) => Some(model),
            Err(error) => unreachable!("the table has the size that it had: {error}"),
        };
        let mut state = self.optimizer.state();
        if let Some(Moments { m, v }) = state.get_mut(TABLE) {
            put(m, &mut |_| 0.0);
            if !v.is_empty() {
                put(v, &mut |_| 0.0);
            }
        }
        self.optimizer = Optimizer::restore(*self.optimizer.config(), self.optimizer.steps(), state);
    }
}

/// What a gradient of some length is multiplied by, as PyTorch's `clip_grad_norm_` does: never scales up.
pub(super) fn clipped(limit: Option<f64>, norm: f64) -> f32 {
    limit.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0)) as f32
}

/// Adds a module's parameters to what a checkpoint holds.
pub(super) fn put<M: Module>(module: &M, weights: &mut BTreeMap<String, HostTensor>) {
    params::visit(module, |info, values| {
        let tensor = HostTensor {
            shape: info.shape,
            data: values(),
        };
        weights.insert(info.name, tensor);
    });
}

/// Takes a module's parameters, whose names have `prefix` before them, out of a checkpoint; the optimizer's state has to fit them.
pub(super) fn take<M: Module>(
    module: M,
    prefix: &str,
    config: OptimizerConfig,
    snapshot: &mut Snapshot,
) -> Result<M, String> {
    let loaded = params::load(module, |name, shape| {
        let name = format!("{prefix}{name}");
        let size: usize = shape.iter().product();
        if !snapshot
            .moments
            .get(&name)
            .is_none_or(|moments| config.fits(moments, size))
        {
            return Err(format!("the optimizer state of {name} has another size"));
        }
        match snapshot.weights.remove(&name) {
            Some(tensor) if tensor.shape == shape => Ok(Some(tensor.data)),
            Some(tensor) => Err(format!("{name} is {:?}, not {shape:?}", tensor.shape)),
            None => Err(format!("the checkpoint does not have {name}")),
        }
    });
    loaded.map_err(|error| error.to_string())
}
