//! Gradients by parameter name.

use std::borrow::Cow;
use std::collections::BTreeMap;

use burn::backend::flex::FlexTensor;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients as Recorded, Tensor};

use crate::engine::values;
use crate::params::Path;
use crate::storage::Storage;

/// Gradients of one step by parameter name, where the parameters are.
#[derive(Debug, Default)]
pub struct Gradients(BTreeMap<String, Storage>);

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

    /// L2 norm over all parameters: summed in f64 on the CPU; elsewhere each parameter's squares are summed there in f32, and all sums read at once.
    pub fn norm(&self) -> f64 {
        let mut sum = 0.0;
        let mut there = Vec::new();
        for grad in self.0.values() {
            match grad.squares() {
                Ok(squares) => sum += squares,
                Err(squares) => there.push(*squares),
            }
        }
        if !there.is_empty() {
            sum += values(Tensor::cat(there, 0)).into_iter().map(f64::from).sum::<f64>();
        }
        sum.sqrt()
    }

    /// Names of the parameters that have a gradient, with its largest magnitude.
    pub fn reach(&self) -> impl Iterator<Item = (&str, f32)> {
        self.0.iter().map(|(name, grad)| {
            let largest = grad.values().iter().fold(0.0f32, |m, g| m.max(g.abs()));
            (name.as_str(), largest)
        })
    }

    /// Takes the gradient of one parameter out, of those on the CPU.
    pub(crate) fn take(&mut self, name: &str) -> Option<FlexTensor> {
        match self.0.remove(name) {
            Some(Storage::Host(grad)) => Some(grad),
            _ => None,
        }
    }

    /// The gradient of one parameter, row-major. From another device than the CPU it is read.
    pub fn get(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        self.0.get(name).map(Storage::values)
    }

    pub(crate) fn stored(&self, name: &str) -> Option<&Storage> {
        self.0.get(name)
    }

    /// Adds the gradients of another micro-batch. Additions are made in the order of the calls, so that the same micro-batches give the same bits. A
    /// parameter that only one of both has keeps that one's gradient.
    ///
    /// # Panics
    /// When a parameter has another shape in `other`: both are of the same module.
    pub fn accumulate(&mut self, other: Self) {
        for (name, grad) in other.0 {
            match self.0.get_mut(&name) {
                Some(sum) => sum.add(&grad),
                None => {
                    self.0.insert(name, grad);
                }
            }
        }
    }

    /// Multiplies all gradients.
    pub fn scale(&mut self, factor: f32) {
        for grad in self.0.values_mut() {
            grad.scale(factor);
        }
    }

    /// Names and shapes, in the order of [`Gradients::flat`]. Processes that add up flat gradients compare these first: a parameter that
    /// one process's loss does not depend on would shift all that follow, see [`Gradients::complete`].
    pub fn layout(&self) -> impl Iterator<Item = (&str, Vec<usize>)> {
        self.0.iter().map(|(name, grad)| (name.as_str(), grad.shape()))
    }

    /// Zeros for a parameter that has no gradient here, but has one in another process.
    pub fn complete(&mut self, name: &str, shape: &[usize]) {
        if !self.0.contains_key(name) {
            self.0.insert(name.to_owned(), Storage::zeros(shape));
        }
    }

    /// All gradients one after the other, in the order of names.
    pub fn flat(&self) -> Vec<f32> {
        let mut all = Vec::with_capacity(self.0.values().map(Storage::len).sum());
        for grad in self.0.values() {
            all.extend_from_slice(&grad.values());
        }
        all
    }

    /// Replaces all gradients by what [`Gradients::flat`] gave, perhaps summed over processes.
    ///
    /// # Errors
    /// [`FlatError`] when there are not as many values; nothing is changed then.
    pub fn set_flat(&mut self, flat: &[f32]) -> Result<(), FlatError> {
        let expected = self.0.values().map(Storage::len).sum();
        if flat.len() != expected {
            return Err(FlatError {
                expected,
                found: flat.len(),
            });
        }
        let mut rest = flat;
        for grad in self.0.values_mut() {
            let (head, tail) = rest.split_at(grad.len());
            grad.set(head);
            rest = tail;
        }
        Ok(())
    }
}

/// Flat gradients of another module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} values for gradients of {expected}: processes must train the same parameters, see Gradients::layout")]
pub struct FlatError {
    /// How many values the gradients have.
    pub expected: usize,
    /// How many came.
    pub found: usize,
}

struct Collect {
    path: Path,
    recorded: Recorded,
    found: BTreeMap<String, Storage>,
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
        self.found.insert(self.path.name(), Storage::of(grad));
    }
}
