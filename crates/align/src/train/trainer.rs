//! One step: batch in, weights changed, metrics out.

use std::collections::{BTreeMap, BTreeSet};

use bifocal_models::towers::Towers;
use bifocal_models::weights::HostTensor;
use bifocal_nn::engine::scalar;
use bifocal_nn::init::Rng;
use bifocal_nn::optim::{Gradients, Optimizer, OptimizerConfig, OptimizerKind};
use bifocal_nn::params;

use super::checkpoint::Snapshot;
use super::draw::{STEP, mix};
use super::plan::Plan;
use crate::batch::Batch;
use crate::methods::{Method, MethodError, Step};
use crate::recipe::OptimizerSpec;

/// Towers, optimizer and what drives them.
pub(crate) struct Trainer {
    method: Box<dyn Method>,
    /// `None` only inside a step, which consumes the towers and gives them back.
    towers: Option<Towers>,
    optimizer: Optimizer,
    config: OptimizerConfig,
    plan: Plan,
    /// What learns in this stage, or did in an earlier one: the weights that a checkpoint holds.
    learnt: BTreeSet<String>,
    clip_norm: Option<f64>,
    seed: u64,
}

/// Numbers of a step.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub loss: f32,
    pub terms: BTreeMap<String, f32>,
    pub grad_norm: f64,
    /// What is not finite, if anything is; then nothing was changed.
    pub not_finite: Option<String>,
}

impl Trainer {
    /// Makes the plan's parameters learn, with a fresh optimizer.
    pub fn new(
        method: Box<dyn Method>,
        towers: Towers,
        plan: Plan,
        learnt: BTreeSet<String>,
        optimizer: &OptimizerSpec,
        seed: u64,
    ) -> Self {
        let config = OptimizerConfig {
            kind: OptimizerKind::AdamW,
            beta1: optimizer.betas[0],
            beta2: optimizer.betas[1],
            eps: optimizer.eps,
        };
        Self {
            method,
            towers: Some(params::set_trainable(towers, |name| plan.learns(name))),
            optimizer: Optimizer::new(config),
            config,
            plan,
            learnt,
            clip_norm: optimizer.clip_norm,
            seed,
        }
    }

    /// Puts a checkpoint's weights and optimizer state in place; all of it has to fit.
    pub fn restore(&mut self, snapshot: Snapshot) -> Result<(), String> {
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
            let fits = |moments: &bifocal_nn::optim::Moments| moments.m.len() == size && moments.v.len() == size;
            if !snapshot.moments.get(name).is_none_or(fits) {
                return Err(format!("the optimizer state of {name} has another size"));
            }
            match snapshot.weights.get(name) {
                Some(tensor) if tensor.shape == shape => Ok(Some(tensor.data.clone())),
                Some(tensor) => Err(format!("{name} is {:?}, not {shape:?}", tensor.shape)),
                None => Err(format!("the checkpoint does not have {name}")),
            }
        });
        self.towers = Some(loaded.map_err(|error| match error {
            params::LoadError::Source(message) => message,
            params::LoadError::Length { .. } => "a tensor has another size".to_owned(),
        })?);
        let steps = snapshot.state.optimizer_step;
        self.optimizer = Optimizer::restore(self.config, steps, snapshot.moments);
        Ok(())
    }

    /// Takes a step at a learning rate. `index` counts the run's steps from 0.
    pub fn step(&mut self, index: u64, batch: &Batch, lr: f64) -> Result<Outcome, MethodError> {
        let mut step = Step {
            index,
            rng: Rng::new(mix(self.seed, STEP, index)),
        };
        let loss = self.method.forward(self.towers(), batch, &mut step)?;
        let value = |t: &bifocal_nn::Tensor<1>| scalar(t.clone());
        let mut outcome = Outcome {
            loss: value(&loss.total),
            terms: loss.terms.iter().map(|(n, t)| ((*n).to_owned(), value(t))).collect(),
            grad_norm: f64::NAN,
            not_finite: None,
        };
        if !outcome.loss.is_finite() {
            outcome.not_finite = Some(format!("the loss ({})", outcome.loss));
            return Ok(outcome);
        }
        let crate::methods::LossTerms { total, terms } = loss;
        // Nothing may hold on to the parameters when the optimizer writes into their storage.
        drop(terms);
        let grads = Gradients::collect(self.towers(), total.backward());
        outcome.grad_norm = grads.norm();
        if !outcome.grad_norm.is_finite() {
            let worst = grads.reach().find(|(_, largest)| !largest.is_finite());
            let name = worst.map_or("all parameters", |(name, _)| name).to_owned();
            outcome.not_finite = Some(format!("the gradient of {name}"));
            return Ok(outcome);
        }
        // As PyTorch's clip_grad_norm_: never scales up.
        let scale = self
            .clip_norm
            .map_or(1.0, |limit| (limit / (outcome.grad_norm + 1e-6)).min(1.0));
        if let Some(towers) = self.towers.take() {
            let plan = &self.plan;
            let towers = self
                .optimizer
                .step(towers, &grads, scale as f32, |name| plan.rate(name, lr));
            self.towers = Some(self.method.after_step(towers, &step));
        }
        Ok(outcome)
    }

    /// The method and the towers, for the next stage.
    pub fn into_parts(mut self) -> (Box<dyn Method>, Towers) {
        match self.towers.take() {
            Some(towers) => (self.method, towers),
            None => unreachable!("a step gives the towers back before it ends"),
        }
    }

    /// Values of what learns or has learnt.
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
