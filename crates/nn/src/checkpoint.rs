//! Activation checkpointing (Chen et al. 2016): a block keeps its input only, and its backward pass computes what it needs from it once more.
//!
//! For another forward pass a training step holds the activations of one block, in place of those of all of them.
//!
//! # How it fits the engine
//! The block's forward runs on constants. One recorded operation stands for it; its backward pass runs the block again on new leaves, differentiates that small graph on
//! its own, and hands the gradients out. An operation of the engine has a fixed number of inputs, but a block any number of parameters: each is tied to the input by an
//! operation of two that passes the input on. They come before the block, hence go backward after it, when the parameters' gradients are there.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bifocal_kernels::trace;
use burn::backend::Flex;
use burn::backend::autodiff::{
    checkpoint::base::Checkpointer,
    grads::Gradients as Recorded,
    ops::{Backward, Ops},
};
use burn::backend::flex::FlexTensor;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

use crate::engine::cpu;
use crate::fused::{Fused, apply, contiguous, name_of, on_cpu, record, slice};
use crate::noise::{self, Place};
use crate::optim::Gradients;
use crate::params::{self, Path};
use crate::precision::{self, Precision};

thread_local! {
    static ENABLED: Cell<bool> = const { Cell::new(false) };
}

/// Whether blocks on this thread drop their activations: only within a [`scope`].
pub fn enabled() -> bool {
    ENABLED.get()
}

/// Runs `f`, in which [`block`]s drop their activations, or do not. Scopes nest; the former answer returns with the end, even by a panic.
pub fn scope<R>(enabled: bool, f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ENABLED.set(self.0);
        }
    }
    let _restore = Restore(ENABLED.replace(enabled));
    f()
}

/// `f(module, x)`. Within a [`scope`], what it computes on the way is dropped, and computed again for the backward pass: gradients of `x` and of the module's trainable
/// parameters are the same as without, to the bit. On other devices than the CPU nothing is dropped; recipes refuse to ask for it there.
///
/// `f` must give the same answer twice (dropout is that of [`noise::scope`], whose masks come again), and must not close over tensors that learn: they would get no gradient.
///
/// # Shapes
/// `[t, c]` → any rows and columns.
pub fn block<M, F>(module: &M, x: Tensor<2>, f: F) -> Tensor<2>
where
    M: Module + 'static,
    F: Fn(&M, Tensor<2>) -> Tensor<2> + Send + 'static,
{
    let _span = trace::span(name_of::<M>());
    let learns: BTreeSet<String> = if enabled() && on_cpu(&x) {
        let all = params::list(module).into_iter().filter(|param| param.trainable);
        all.map(|param| param.name).collect()
    } else {
        return f(module, x);
    };
    let (input, input_learns) = (x.clone().without_autodiff(), x.is_tracked());
    if learns.is_empty() && !input_learns {
        return f(module, x);
    }
    let found = Found::default();
    let mut tie = Tie {
        path: Path::default(),
        carrier: x,
        found: &found,
    };
    module.visit(&mut tie);
    let carrier = tie.carrier;
    let module = params::set_trainable(module.clone(), |_| false);
    let masks = noise::place();
    // both runs compute the same, and the second one is recorded
    let precision = precision::current().recorded();
    let output = precision::scope(precision, || scope(false, || f(&module, input.clone())));
    let (Ok(input), Ok(output)) = (input.try_into_primitive::<Flex>(), output.try_into_primitive::<Flex>()) else {
        unreachable!("constants on the CPU stay there")
    };
    let again = Again {
        module,
        f,
        learns,
        input_learns,
        precision,
        masks,
        found,
    };
    record(again, [carrier.into()], input, output)
}

/// Gradients that a block found, until its parameters fetch them.
#[derive(Clone, Debug, Default)]
struct Found(Arc<Mutex<Gradients>>);

/// Ties each trainable parameter to the carrier.
struct Tie<'a> {
    path: Path,
    carrier: Tensor<2>,
    found: &'a Found,
}

impl ModuleVisitor for Tie<'_> {
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
        let Ok(same) = self.carrier.clone().without_autodiff().try_into_primitive::<Flex>() else {
            unreachable!("the carrier lives on the CPU")
        };
        let fetch = Fetch {
            name: self.path.name(),
            found: self.found.clone(),
        };
        self.carrier = record(fetch, [self.carrier.clone().into(), value.into()], (), same);
    }
}

/// Passes its first input on; backward, the second one's gradient is fetched.
#[derive(Debug)]
struct Fetch {
    name: String,
    found: Found,
}

impl Backward<Flex, 2> for Fetch {
    type State = ();

    fn backward(self, ops: Ops<(), 2>, grads: &mut Recorded, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node);
        let [carrier, param] = ops.parents;
        if let Some(carrier) = carrier {
            grads.register::<Flex>(carrier.id, grad);
        }
        let mut found = self.found.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(param), Some(grad)) = (param, found.take(&self.name)) {
            grads.register::<Flex>(param.id, grad);
        }
    }
}

/// A block that runs again.
struct Again<M, F> {
    /// Its parameters are constants.
    module: M,
    f: F,
    /// Names of those that are none.
    learns: BTreeSet<String>,
    input_learns: bool,
    precision: Precision,
    masks: Place,
    found: Found,
}

impl<M, F> fmt::Debug for Again<M, F> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Again({:?})", self.learns)
    }
}

impl<M, F> Backward<Flex, 1> for Again<M, F>
where
    M: Module + 'static,
    F: Fn(&M, Tensor<2>) -> Tensor<2> + Send + 'static,
{
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 1>, grads: &mut Recorded, _checkpointer: &mut Checkpointer) {
        let seed = Seed(contiguous(grads.consume::<Flex>(&ops.node)));
        // Leaves of their own: the graph that is going backward is locked.
        // A clone forgets that its constant weights were seen before, which would have them packed for a single use.
        let module = params::set_trainable(self.module.clone(), |name| self.learns.contains(name));
        let mut x = Tensor::<2>::from_primitive::<Flex>(ops.state);
        let shape = x.dims();
        if self.input_learns {
            x = x.autodiff().require_grad();
        }
        let run = || noise::again(self.masks, || (self.f)(&module, x.clone()));
        let y = precision::scope(self.precision, || scope(false, run));
        let root: Tensor<1> = apply(seed, [y.into()]);
        let mut recorded = root.backward();
        let of_x = x.grad_remove(&mut recorded).map(|grad| grad.without_autodiff());
        // Without a gradient of the input, what ties the parameters to the block still waits for one to pass on.
        let of_x = of_x.unwrap_or_else(|| Tensor::zeros(shape, &cpu()));
        if let ([Some(parent)], Ok(grad)) = (ops.parents, of_x.try_into_primitive::<Flex>()) {
            grads.register::<Flex>(parent.id, grad);
        }
        *self.found.0.lock().unwrap_or_else(PoisonError::into_inner) = Gradients::collect(&module, recorded);
    }
}

/// The end of a block's own graph: its gradient is the one that came from outside.
#[derive(Clone, Debug)]
struct Seed(FlexTensor);

impl Fused<1> for Seed {
    type Saved = ();
    const READS: [bool; 1] = [false];

    fn forward(&self, _inputs: [&[f32]; 1], _keep: bool) -> (Vec<f32>, Vec<usize>, ()) {
        (vec![0.0], vec![1], ())
    }

    fn backward(&self, _: &[f32], _: [&[f32]; 1], _: &[f32], _: (), _: [bool; 1]) -> [Option<Vec<f32>>; 1] {
        [Some(slice(&self.0).to_vec())]
    }
}
