//! Reaching the linear layers of a module, whatever it is.
//!
//! The engine's visitors see parameters only, and a mapper cannot put a parameter where none was. So a layer reports itself, or is exchanged,
//! while one of the two functions of this file walks through a module on the same thread; at any other time the two hooks do nothing.

use std::cell::RefCell;
use std::collections::VecDeque;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

use crate::layers::{LAYER, Linear};
use crate::params::Path;

#[derive(Default)]
enum Walk {
    #[default]
    None,
    List(Vec<Linear>),
    Exchange(VecDeque<Linear>),
}

thread_local! {
    static WALK: RefCell<Walk> = RefCell::default();
}

/// A layer's hook while it is visited.
pub(crate) fn seen(layer: &Linear) {
    WALK.with_borrow_mut(|walk| {
        if let Walk::List(layers) = walk {
            layers.push(layer.clone());
        }
    });
}

/// A layer's hook before it is mapped.
pub(crate) fn exchanged(layer: Linear) -> Linear {
    WALK.with_borrow_mut(|walk| match walk {
        Walk::Exchange(layers) => layers.pop_front().unwrap_or(layer),
        _ => layer,
    })
}

#[derive(Default)]
struct Names {
    path: Path,
    found: Vec<String>,
}

impl ModuleVisitor for Names {
    fn enter_module(&mut self, name: &str, container: &str) {
        if name == "weight" && container == LAYER {
            self.found.push(self.path.name());
        }
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {}
}

/// All linear layers, which share their parameters with the module's, and their names, in the order of fields.
pub(super) fn layers<M: Module>(module: &M) -> Vec<(String, Linear)> {
    let mut names = Names::default();
    WALK.set(Walk::List(Vec::new()));
    module.visit(&mut names);
    match WALK.take() {
        Walk::List(layers) => names.found.into_iter().zip(layers).collect(),
        _ => Vec::new(),
    }
}

struct Same;

impl ModuleMapper for Same {}

/// The module with other linear layers, as many as [`layers`] found and in its order.
pub(super) fn exchange<M: Module>(module: M, layers: impl IntoIterator<Item = Linear>) -> M {
    WALK.set(Walk::Exchange(layers.into_iter().collect()));
    let module = module.map(&mut Same);
    WALK.take();
    module
}
