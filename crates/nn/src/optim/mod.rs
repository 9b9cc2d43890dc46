//! Optimizers on the parameters' own storage (on the CPU; elsewhere they are composed of burn's operations), with state that is saved and restored to the bit.

mod composed;
mod gradients;
mod layer_decay;

pub use gradients::{FlatError, Gradients};
pub use layer_decay::layer_decay;

use std::collections::BTreeMap;

use bifocal_kernels::optim::{Adam, Lion, adam_step, lion_step};
use burn::backend::Flex;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;

use crate::fused::on_cpu;
use crate::params::Path;
use crate::storage::Storage;

/// Which rule parameters learn by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay (Loshchilov & Hutter 2019).
    #[default]
    AdamW,
    /// Adam with weight decay as a part of the gradient, as PyTorch's `Adam` has it (Kingma & Ba 2015).
    Adam,
    /// The sign of a momentum (Chen et al. 2023), with decoupled weight decay. It has no second moment, and no use for `eps`.
    Lion,
}

/// The rule and its constants, which do not change from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// The rule.
    pub kind: OptimizerKind,
    /// Decay of the first moment; for Lion the momentum's share in an update.
    pub beta1: f32,
    /// Decay of the second moment; for Lion of the momentum.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
}

impl OptimizerConfig {
    /// State of a parameter that has not learnt yet.
    fn fresh(&self, size: usize) -> Moments {
        let second = if self.kind == OptimizerKind::Lion { 0 } else { size };
        Moments {
            m: vec![0.0; size],
            v: vec![0.0; second],
        }
    }

    /// Whether restored state is that of a parameter with so many values.
    pub fn fits(&self, moments: &Moments, size: usize) -> bool {
        let second = if self.kind == OptimizerKind::Lion { 0 } else { size };
        moments.m.len() == size && moments.v.len() == second
    }
}

/// What one parameter learns with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Learning rate.
    pub lr: f32,
    /// Weight decay, of the kind that the optimizer has.
    pub weight_decay: f32,
}

/// State of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// First moment (Lion's momentum), row-major.
    pub m: Vec<f32>,
    /// Second moment, row-major; empty for Lion.
    pub v: Vec<f32>,
}

/// The optimizer and its state.
#[derive(Clone, Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    step: u64,
    state: BTreeMap<String, Moments>,
    /// Of parameters that are not on the CPU.
    there: BTreeMap<String, composed::Moments>,
}

impl Optimizer {
    /// No steps taken.
    pub fn new(config: OptimizerConfig) -> Self {
        Self {
            config,
            step: 0,
            state: BTreeMap::new(),
            there: BTreeMap::new(),
        }
    }

    /// Continues from saved state. Whoever reads it from a file checks it first (see [`OptimizerConfig::fits`]): state that does not fit its parameter is
    /// begun anew.
    pub fn restore(config: OptimizerConfig, step: u64, state: BTreeMap<String, Moments>) -> Self {
        Self {
            config,
            step,
            state,
            there: BTreeMap::new(),
        }
    }

    /// The rule and its constants.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// A copy of the moments by parameter name; what is not on the CPU is read.
    pub fn state(&self) -> BTreeMap<String, Moments> {
        let read = self.there.iter().map(|(name, moments)| (name.clone(), moments.read()));
        self.state.clone().into_iter().chain(read).collect()
    }

    /// Whether no parameter has moments yet.
    pub fn is_fresh(&self) -> bool {
        self.state.is_empty() && self.there.is_empty()
    }

    /// One step: gradients are multiplied by `scale` (clipping), `rate` says how each parameter learns.
    /// Parameters without a gradient stay as they are.
    pub fn step<M: Module>(&mut self, module: M, grads: &Gradients, scale: f32, rate: impl Fn(&str) -> Rate) -> M {
        self.step += 1;
        module.map(&mut Update {
            path: Path::default(),
            optimizer: self,
            grads,
            scale,
            rate,
        })
    }

    /// One step of one parameter.
    fn update(&mut self, name: String, p: &mut [f32], grad: &[f32], scale: f32, rate: Rate) {
        let config = self.config;
        let OptimizerConfig {
            kind,
            beta1,
            beta2,
            eps,
        } = config;
        let Rate { lr, weight_decay } = rate;
        let state = self.state.entry(name).or_insert_with(|| config.fresh(p.len()));
        if !config.fits(state, p.len()) {
            *state = config.fresh(p.len());
        }
        let Moments { m, v } = state;
        let (decoupled, l2) = match kind {
            OptimizerKind::Adam => (0.0, weight_decay),
            OptimizerKind::AdamW | OptimizerKind::Lion => (weight_decay, 0.0),
        };
        match kind {
            OptimizerKind::AdamW | OptimizerKind::Adam => {
                let rule = Adam {
                    lr,
                    beta1,
                    beta2,
                    eps,
                    weight_decay: decoupled,
                    l2,
                    step: self.step,
                };
                adam_step(p, grad, m, v, &rule, scale);
            }
            OptimizerKind::Lion => {
                let rule = Lion {
                    lr,
                    beta1,
                    beta2,
                    weight_decay: decoupled,
                };
                lion_step(p, grad, m, &rule, scale);
            }
        }
    }
}

impl Optimizer {
    /// One step of one parameter that is not on the CPU.
    fn update_there<const D: usize>(
        &mut self,
        name: String,
        p: Tensor<D>,
        grad: &Storage,
        scale: f32,
        rate: Rate,
    ) -> Tensor<D> {
        let (config, step) = (self.config, self.step);
        let (shape, device) = (p.dims(), p.device());
        let size = shape.iter().product();
        let host = self.state.remove(&name).filter(|moments| config.fits(moments, size));
        let moments = self.there.entry(name).or_insert_with(|| {
            let host = host.unwrap_or_else(|| config.fresh(size));
            composed::Moments::put(host, &device)
        });
        let p = moments.step(p.reshape([size]), grad.on(&device), scale, &config, rate, step);
        p.reshape(shape)
    }
}

struct Update<'a, R> {
    path: Path,
    optimizer: &'a mut Optimizer,
    grads: &'a Gradients,
    scale: f32,
    rate: R,
}

impl<R: Fn(&str) -> Rate> ModuleMapper for Update<'_, R> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let Some(grad) = self.grads.stored(&name) else {
            return param;
        };
        let rate = (self.rate)(&name);
        let (id, value, mapper) = param.consume();
        let value = value.without_autodiff();
        let value = if on_cpu(&value) {
            // Dropping the recorded leaf left this handle the only owner, so that the storage is written in place.
            let mut storage = match value.try_into_primitive::<Flex>() {
                // a view of a larger tensor has the storage of all of it
                Ok(storage) => storage.to_contiguous(),
                Err(error) => unreachable!("it is on the CPU: {error:?}"),
            };
            self.optimizer
                .update(name, storage.storage_mut::<f32>(), &grad.values(), self.scale, rate);
            Tensor::<D>::from_primitive::<Flex>(storage)
        } else {
            self.optimizer.update_there(name, value, grad, self.scale, rate)
        };
        let value = value.autodiff().require_grad();
        Param::from_mapped_value(id, value, mapper)
    }
}
