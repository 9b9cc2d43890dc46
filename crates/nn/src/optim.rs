//! AdamW on the parameters' own storage, with state that is saved and restored to the bit.

use std::collections::BTreeMap;

use bifocal_kernels::optim::{AdamW as Rule, adamw_step};
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients as Recorded, Tensor};

use crate::params::Path;

/// Gradients of one step by parameter name.
#[derive(Debug, Default)]
pub struct Gradients(BTreeMap<String, FlexTensor>);

impl Gradients {
    /// Takes the gradients of a module's trainable parameters out of a backward pass. A parameter that the
    /// loss does not depend on has none.
    pub fn collect<M: Module>(module: &M, recorded: Recorded) -> Self {
        let mut collector = Collect {
            path: Path::default(),
            recorded,
            found: BTreeMap::new(),
        };
        module.visit(&mut collector);
        Self(collector.found)
    }

    /// L2 norm over all parameters, in f64.
    pub fn norm(&self) -> f64 {
        let square = |t: &FlexTensor| -> f64 { slice(t).iter().map(|&g| f64::from(g) * f64::from(g)).sum() };
        self.0.values().map(square).sum::<f64>().sqrt()
    }

    /// Names of the parameters that have a gradient, with its largest magnitude.
    pub fn reach(&self) -> impl Iterator<Item = (&str, f32)> {
        self.0.iter().map(|(name, grad)| {
            let largest = slice(grad).iter().fold(0.0f32, |m, g| m.max(g.abs()));
            (name.as_str(), largest)
        })
    }

    /// Takes the gradient of one parameter out.
    pub(crate) fn take(&mut self, name: &str) -> Option<FlexTensor> {
        self.0.remove(name)
    }

    /// The gradient of one parameter, row-major.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.0.get(name).map(slice)
    }
}

fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice::<f32>().unwrap_or(&[])
}

struct Collect {
    path: Path,
    recorded: Recorded,
    found: BTreeMap<String, FlexTensor>,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if !value.is_require_grad() {
            return;
        }
        let Some(grad) = value.grad_remove(&mut self.recorded) else {
            return;
        };
        if let Ok(grad) = grad.without_autodiff().try_into_primitive::<Flex>() {
            self.found.insert(self.path.name(), grad.to_contiguous());
        }
    }
}

/// Constants of AdamW (Loshchilov & Hutter 2019) that do not change from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
}

/// What one parameter learns with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Learning rate.
    pub lr: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
}

/// First and second moment of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// First moment, row-major.
    pub m: Vec<f32>,
    /// Second moment, row-major.
    pub v: Vec<f32>,
}

/// The optimizer and its state.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    state: BTreeMap<String, Moments>,
}

impl AdamW {
    /// No steps taken.
    pub fn new(config: AdamWConfig) -> Self {
        Self {
            config,
            step: 0,
            state: BTreeMap::new(),
        }
    }

    /// Continues from saved state.
    pub fn restore(config: AdamWConfig, step: u64, state: BTreeMap<String, Moments>) -> Self {
        Self { config, step, state }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Moments by parameter name.
    pub fn state(&self) -> &BTreeMap<String, Moments> {
        &self.state
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
}

struct Update<'a, R> {
    path: Path,
    optimizer: &'a mut AdamW,
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
        let Some(grad) = self.grads.get(&name) else {
            return param;
        };
        let (id, value, mapper) = param.consume();
        // Dropping the recorded leaf leaves this handle the only owner, so that the storage is written in place.
        let mut storage = match value.without_autodiff().try_into_primitive::<Flex>() {
            Ok(storage) => storage,
            Err(error) => unreachable!("gradients were collected from CPU tensors: {error:?}"),
        };
        let Rate { lr, weight_decay } = (self.rate)(&name);
        let moments = self.optimizer.state.entry(name).or_insert_with(|| Moments {
            m: vec![0.0; grad.len()],
            v: vec![0.0; grad.len()],
        });
        let rule = Rule {
            lr,
            beta1: self.optimizer.config.beta1,
            beta2: self.optimizer.config.beta2,
            eps: self.optimizer.config.eps,
            weight_decay,
            step: self.optimizer.step,
        };
        adamw_step(
            storage.storage_mut::<f32>(),
            grad,
            &mut moments.m,
            &mut moments.v,
            &rule,
            self.scale,
        );
        let value = Tensor::<D>::from_primitive::<Flex>(storage).autodiff().require_grad();
        Param::from_mapped_value(id, value, mapper)
    }
}
