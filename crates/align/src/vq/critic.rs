//! The discriminator beside the network: how it learns, and what a checkpoint keeps of it.

use std::collections::BTreeMap;

use bifocal_models::weights::HostTensor;
use bifocal_nn::engine::scalar;
use bifocal_nn::init::Rng;
use bifocal_nn::layers::Pictures;
use bifocal_nn::optim::{Gradients, Optimizer, Rate};
use bifocal_nn::{Tensor, params};

use super::discriminator::{Discriminator, hinge};
use super::learner::{clipped, put, take};
use super::pixels::Seen;
use crate::random::{CRITIC, mix};
use crate::recipe::VqRecipe;
use crate::train::checkpoint::Snapshot;

/// Before its names in a checkpoint.
const PREFIX: &str = "discriminator.";

/// A discriminator and its optimizer, which has the constants of the network's.
pub(super) struct Critic {
    /// `None` only inside a step.
    net: Option<Discriminator>,
    optimizer: Optimizer,
    weight: f32,
    after: u64,
    clip: Option<f64>,
}

/// Where its next step goes.
pub(super) struct Verdict {
    pub loss: f32,
    grads: Gradients,
    pub norm: f64,
}

impl Critic {
    /// `None` when the recipe has none.
    pub fn new(recipe: &VqRecipe) -> Option<Self> {
        let net = || Discriminator::new(&mut Rng::new(mix(recipe.seed, CRITIC, 0)));
        (recipe.loss.adversarial > 0.0).then(|| Self {
            net: Some(params::set_trainable(net(), |_| true)),
            optimizer: Optimizer::new(recipe.optimizer.config()),
            weight: recipe.loss.adversarial,
            after: recipe.loss.adversarial_after,
            clip: recipe.optimizer.clip_norm,
        })
    }

    fn net(&self) -> &Discriminator {
        match &self.net {
            Some(net) => net,
            None => unreachable!("a step gives the discriminator back before it ends"),
        }
    }

    /// Whether it takes part in a step.
    pub fn takes_part(&self, step: u64) -> bool {
        step >= self.after
    }

    /// What the network minimises so that made pictures look real, and its weight.
    pub fn asks(&self, made: &Pictures) -> (Tensor<1>, f32) {
        let still = params::set_trainable(self.net().clone(), |_| false);
        (-still.forward(made).mean(), self.weight)
    }

    /// What it learns from a step's pictures.
    pub fn judge(&self, seen: &Seen) -> Verdict {
        let made = seen.made.with(seen.made.x.clone().detach());
        let loss = hinge(self.net().forward(&seen.real), self.net().forward(&made)) * self.weight;
        let value = scalar(loss.clone());
        let grads = Gradients::collect(self.net(), loss.backward());
        Verdict {
            loss: value,
            norm: grads.norm(),
            grads,
        }
    }

    /// Takes a step; `taken` are the network's so far, this one counted. The first one goes on from there: LlamaGen's optimizer of the discriminator counts from the
    /// beginning of the run, with gradients of zero.
    pub fn step(&mut self, verdict: &Verdict, lr: f64, taken: u64) {
        if self.optimizer.is_fresh() {
            self.optimizer = Optimizer::restore(*self.optimizer.config(), taken - 1, BTreeMap::new());
        }
        if let Some(net) = self.net.take() {
            let rate = |_: &str| Rate {
                lr: lr as f32,
                weight_decay: 0.0,
            };
            let scale = clipped(self.clip, verdict.norm);
            self.net = Some(self.optimizer.step(net, &verdict.grads, scale, rate));
        }
    }

    /// Adds what a checkpoint keeps.
    pub fn keep(&self, snapshot: &mut Snapshot) {
        let mut weights = BTreeMap::new();
        put(self.net(), &mut weights);
        let named = |(name, tensor): (String, HostTensor)| (format!("{PREFIX}{name}"), tensor);
        snapshot.weights.extend(weights.into_iter().map(named));
        let moments = self.optimizer.state();
        let named = moments.into_iter().map(|(name, one)| (format!("{PREFIX}{name}"), one));
        snapshot.moments.extend(named);
    }

    /// Takes its part out of a checkpoint.
    pub fn restore(&mut self, snapshot: &mut Snapshot) -> Result<(), String> {
        let Some(net) = self.net.take() else { return Ok(()) };
        let config = *self.optimizer.config();
        let mut state = BTreeMap::new();
        let loaded = take(net, PREFIX, config, snapshot)?;
        params::visit(&loaded, |info, _| {
            if let Some(moments) = snapshot.moments.remove(&format!("{PREFIX}{}", info.name)) {
                state.insert(info.name, moments);
            }
        });
        self.net = Some(loaded);
        self.optimizer = Optimizer::restore(config, snapshot.state.optimizer_step, state);
        Ok(())
    }
}
