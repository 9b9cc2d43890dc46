//! One step: batches in, weights changed, metrics out.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use bifocal_models::adapter::Head;
use bifocal_models::towers::Towers;
use bifocal_models::weights::HostTensor;
use bifocal_nn::engine::scalar;
use bifocal_nn::optim::{Gradients, Optimizer};
use bifocal_nn::{ema, params, trace};

use super::checkpoint::Snapshot;
use super::collective::Ranks;
use super::explode::WINDOW;
use super::gradient::{self, Computed};
use super::plan::Plan;
use crate::batch::Batch;
use crate::methods::{MethodError, Objective};
use crate::random::{STEP, mix};
use crate::recipe::Recipe;

/// Towers, optimizer and what drives them.
pub(crate) struct Trainer {
    /// `None` only inside a step, which consumes the towers and gives them back.
    towers: Option<Towers>,
    optimizer: Optimizer,
    plan: Plan,
    /// What changes in this stage, or did in an earlier one: the weights that a checkpoint holds.
    learnt: BTreeSet<String>,
    /// The even average of the weights along the way (`merge.average_every`).
    average: Option<Towers>,
    recipe: Recipe,
}

/// Before the names of averaged weights in a checkpoint.
const AVERAGE: &str = "average.";

fn unfit(error: params::LoadError<String>) -> String {
    match error {
        params::LoadError::Source(message) => message,
        params::LoadError::Length { .. } => "a tensor has another size".to_owned(),
    }
}

/// Numbers of a step.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub loss: f32,
    pub terms: BTreeMap<String, f32>,
    pub grad_norm: f64,
    /// What is wrong with the step, if anything is; then nothing was changed.
    pub bad: Option<String>,
}

impl Trainer {
    /// Makes the plan's parameters learn, with a fresh optimizer.
    pub fn new(towers: Towers, plan: &Plan, learnt: BTreeSet<String>, recipe: &Recipe) -> Self {
        let begin = || Towers {
            teacher: None,
            projector: None,
            ..params::set_trainable(towers.clone(), |_| false)
        };
        Self {
            average: (recipe.merge.average_every > 0).then(begin),
            towers: Some(params::set_trainable(towers, |name| plan.learns(name))),
            optimizer: Optimizer::new(recipe.optimizer.config()),
            plan: plan.clone(),
            learnt,
            recipe: recipe.clone(),
        }
    }

    /// Puts a checkpoint's weights and optimizer state in place; all of it has to fit.
    pub fn restore(&mut self, mut snapshot: Snapshot) -> Result<(), String> {
        let all = std::mem::take(&mut snapshot.weights).into_iter();
        let (averaged, weights) = all.partition(|(name, _)| name.starts_with(AVERAGE));
        snapshot.weights = weights;
        self.restore_average(averaged)?;
        let strange = snapshot.weights.keys().find(|name| !self.learnt.contains(*name));
        let strange = strange.or_else(|| snapshot.moments.keys().find(|name| !self.plan.learns(name)));
        if let Some(name) = strange {
            return Err(format!("the checkpoint has {name}, which does not learn in this run"));
        }
        let Some(towers) = self.towers.take() else {
            return Err("there are no towers to restore".to_owned());
        };
        let loaded = params::load(towers, |name, shape| {
            if !self.learnt.contains(name) {
                return Ok(None);
            }
            let size: usize = shape.iter().product();
            let fits = |moments: &bifocal_nn::optim::Moments| self.optimizer.config().fits(moments, size);
            if !snapshot.moments.get(name).is_none_or(fits) {
                return Err(format!("the optimizer state of {name} has another size"));
            }
            match snapshot.weights.get(name) {
                Some(tensor) if tensor.shape == shape => Ok(Some(tensor.data.clone())),
                Some(tensor) => Err(format!("{name} is {:?}, not {shape:?}", tensor.shape)),
                None => Err(format!("the checkpoint does not have {name}")),
            }
        });
        self.towers = Some(loaded.map_err(unfit)?);
        let steps = snapshot.state.optimizer_step;
        self.optimizer = Optimizer::restore(self.recipe.optimizer.config(), steps, snapshot.moments);
        Ok(())
    }

    fn restore_average(&mut self, mut averaged: BTreeMap<String, HostTensor>) -> Result<(), String> {
        let Some(average) = self.average.take() else {
            return match averaged.pop_first() {
                Some((name, _)) => Err(format!("the checkpoint has {name}, and this run averages nothing")),
                None => Ok(()),
            };
        };
        let loaded = params::load(average, |name, shape| {
            if !self.plan.learns(name) {
                return Ok(None);
            }
            match averaged.remove(&format!("{AVERAGE}{name}")) {
                Some(tensor) if tensor.shape == shape => Ok(Some(tensor.data)),
                Some(tensor) => Err(format!("the average of {name} is {:?}, not {shape:?}", tensor.shape)),
                None => Err(format!("the checkpoint does not have the average of {name}")),
            }
        });
        self.average = Some(loaded.map_err(unfit)?);
        match averaged.pop_first() {
            Some((name, _)) => Err(format!("the checkpoint has {name}, which does not learn in this run")),
            None => Ok(()),
        }
    }

    /// After so many steps: lets the weights into the average where they are due. θ̂ ← (θ̂·n + θ) / (n + 1), with n = 1 for what the run began with
    /// (ZSCL, arXiv 2303.06628).
    pub fn average(&mut self, steps: u64) {
        let every = self.recipe.merge.average_every;
        if every == 0 || !steps.is_multiple_of(every) {
            return;
        }
        if let Some(average) = self.average.take() {
            let n = (steps / every) as f64;
            let same = |name: &str| self.plan.learns(name).then(|| name.to_owned());
            self.average = match ema::update(average, self.towers(), n / (n + 1.0), same) {
                Ok(average) => Some(average),
                Err(error) => unreachable!("the average is a copy of what it follows: {error}"),
            };
        }
    }

    /// The towers as the run leaves them: with averaged weights, where it averages.
    pub fn finished(&self) -> Towers {
        let towers = self.towers().clone();
        let Some(average) = &self.average else {
            return towers;
        };
        let mut averaged = BTreeMap::new();
        params::visit(average, |info, values| {
            if self.plan.learns(&info.name) {
                averaged.insert(info.name, values());
            }
        });
        match params::load(towers, |name, _| Ok::<_, Infallible>(averaged.remove(name))) {
            Ok(towers) => towers,
            Err(error) => unreachable!("the average is a copy of what it follows: {error}"),
        }
    }

    /// What the objective changes about the towers before the step that comes after a share of the stage's steps.
    pub fn before_step(&mut self, objective: &dyn Objective, done: f64) {
        self.towers = self.towers.take().map(|towers| objective.before_step(towers, done));
    }

    /// Takes a step at a learning rate on the mean over batches, of each of which this rank holds a part or nothing, as the recipe's `[compute]`
    /// says. `index` counts the run's steps from 0. With a loss above `limit` it is not taken.
    pub fn step(
        &mut self,
        objective: &dyn Objective,
        index: u64,
        batches: &[Option<Batch>],
        lr: f64,
        limit: Option<f32>,
        ranks: &dyn Ranks,
    ) -> Result<Outcome, MethodError> {
        let times = batches.len() as u64;
        let how = &self.recipe.compute;
        let mut outcome = Outcome {
            loss: 0.0,
            terms: BTreeMap::new(),
            grad_norm: f64::NAN,
            bad: None,
        };
        let share = 1.0 / batches.len().max(1) as f32;
        let mut sum: Option<Gradients> = None;
        for (i, batch) in (index * times..).zip(batches) {
            let seed = mix(self.recipe.seed, STEP, i);
            let Computed { loss, terms, grads } =
                gradient::compute_as(how, objective, self.towers(), batch.as_ref(), seed, ranks)?;
            outcome.loss += loss * share;
            for (name, value) in terms {
                *outcome.terms.entry(name.to_owned()).or_default() += value * share;
            }
            if !loss.is_finite() {
                outcome.bad = Some(format!("the loss ({loss}) is not finite"));
                return Ok(outcome);
            }
            match &mut sum {
                None => sum = grads,
                Some(sum) => grads.into_iter().for_each(|grads| sum.accumulate(grads)),
            }
        }
        let grads = sum.unwrap_or_default();
        outcome.grad_norm = grads.norm() * f64::from(share);
        if !outcome.grad_norm.is_finite() {
            let worst = grads.reach().find(|(_, largest)| !largest.is_finite());
            let name = worst.map_or("all parameters", |(name, _)| name).to_owned();
            outcome.bad = Some(format!("the gradient of {name} is not finite"));
            return Ok(outcome);
        }
        if let Some(limit) = limit.filter(|&limit| outcome.loss > limit) {
            let loss = outcome.loss;
            outcome.bad = Some(format!(
                "the loss ({loss}) has exploded, it is more than {limit} (run.explode times what it was in the last {WINDOW} steps)"
            ));
            return Ok(outcome);
        }
        // As PyTorch's clip_grad_norm_: never scales up.
        let clip = self.recipe.optimizer.clip_norm;
        let scale = clip.map_or(1.0, |limit| (limit / (outcome.grad_norm + 1e-6)).min(1.0));
        if let Some(towers) = self.towers.take() {
            let _span = trace::span("optimizer");
            let plan = &self.plan;
            let mut towers = self
                .optimizer
                .step(towers, &grads, scale as f32 * share, |name| plan.rate(name, lr));
            towers.image_head.settle();
            towers.text_head.settle();
            towers.projector.iter_mut().for_each(Head::settle);
            self.towers = Some(objective.after_step(towers));
        }
        Ok(outcome)
    }

    /// The towers, for the next stage.
    pub fn into_towers(self) -> Towers {
        self.finished()
    }

    /// Values of what learns or has learnt, and averages.
    pub fn learnt(&self) -> BTreeMap<String, HostTensor> {
        let mut weights = BTreeMap::new();
        params::visit(self.towers(), |info, values| {
            if self.learnt.contains(&info.name) {
                let tensor = HostTensor {
                    shape: info.shape,
                    data: values(),
                };
                weights.insert(info.name, tensor);
            }
        });
        if let Some(average) = &self.average {
            params::visit(average, |info, values| {
                if self.plan.learns(&info.name) {
                    let tensor = HostTensor {
                        shape: info.shape,
                        data: values(),
                    };
                    weights.insert(format!("{AVERAGE}{}", info.name), tensor);
                }
            });
        }
        weights
    }

    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    pub fn towers(&self) -> &Towers {
        match &self.towers {
            Some(towers) => towers,
            None => unreachable!("a step gives the towers back before it ends"),
        }
    }

    /// Scale and bias of similarities.
    pub fn temperature(&self) -> (f32, Option<f32>) {
        let bias = self.towers().logit_bias.as_ref();
        (
            scalar(self.towers().logit_scale.val()).exp(),
            bias.map(|b| scalar(b.val())),
        )
    }
}
