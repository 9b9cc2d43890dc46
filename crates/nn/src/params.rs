//! Parameters by name. A name is the path of fields to a parameter: `vision.blocks.0.attn.qkv.weight`.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

use crate::engine::{tensor, values};

/// The path to the parameter being visited.
#[derive(Default)]
pub(crate) struct Path(Vec<String>);

impl Path {
    /// Steps into a field. Which variant an enum holds is not part of a name, so that patterns like `vision.blocks.*` fit every tower.
    pub(crate) fn enter(&mut self, name: &str, container: &str) {
        if !is_variant(container) {
            self.0.push(name.to_owned());
        }
    }

    pub(crate) fn exit(&mut self, container: &str) {
        if !is_variant(container) {
            self.0.pop();
        }
    }

    pub(crate) fn name(&self) -> String {
        self.0.join(".")
    }
}

fn is_variant(container: &str) -> bool {
    container.starts_with("Enum:")
}

/// A parameter as [`list`] describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamInfo {
    /// Path of fields.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// Whether it is recorded for gradients.
    pub trainable: bool,
}

/// What is called with every parameter and a way to read its values.
type Each<'a> = dyn FnMut(ParamInfo, &dyn Fn() -> Vec<f32>) + 'a;

// Not generic over the function: a module's whole tree would be compiled once for each call.
struct Visit<'a> {
    path: Path,
    each: &'a mut Each<'a>,
}

impl ModuleVisitor for Visit<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let info = ParamInfo {
            name: self.path.name(),
            shape: value.dims().to_vec(),
            trainable: value.is_require_grad(),
        };
        (self.each)(info, &|| values(value.clone()));
    }
}

/// Calls `each` with every parameter and a way to read its values.
pub fn visit<M: Module>(module: &M, mut each: impl FnMut(ParamInfo, &dyn Fn() -> Vec<f32>)) {
    module.visit(&mut Visit {
        path: Path::default(),
        each: &mut each,
    });
}

struct Flat<'a> {
    path: Path,
    each: &'a mut dyn FnMut(&str, Tensor<1>),
}

impl ModuleVisitor for Flat<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let size: usize = value.dims().iter().product();
        (self.each)(&self.path.name(), value.reshape([size]));
    }
}

/// Calls `each` with every parameter as a vector; one that learns is recorded, so that a loss may be made of it.
pub fn vectors<M: Module>(module: &M, mut each: impl FnMut(&str, Tensor<1>)) {
    module.visit(&mut Flat {
        path: Path::default(),
        each: &mut each,
    });
}

/// All parameters in the order of their fields.
pub fn list<M: Module>(module: &M) -> Vec<ParamInfo> {
    let mut all = Vec::new();
    visit(module, |info, _| all.push(info));
    all
}

struct Map<'a> {
    path: Path,
    each: &'a mut dyn FnMut(&str, &[usize]) -> Change,
}

impl ModuleMapper for Map<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let dims = value.dims();
        let value = match (self.each)(&self.path.name(), &dims) {
            Change::Keep => value,
            Change::Values(data) => {
                let learns = value.is_require_grad();
                let new = tensor(data, dims);
                if learns { new.autodiff().require_grad() } else { new }
            }
            Change::Trainable(true) => value.without_autodiff().autodiff().require_grad(),
            Change::Trainable(false) => value.without_autodiff(),
        };
        Param::from_mapped_value(id, value, mapper)
    }
}

enum Change {
    Keep,
    Values(Vec<f32>),
    Trainable(bool),
}

fn map<M: Module>(module: M, mut each: impl FnMut(&str, &[usize]) -> Change) -> M {
    module.map(&mut Map {
        path: Path::default(),
        each: &mut each,
    })
}

/// Makes the parameters for which `learns` answers true record gradients, and all others constants.
pub fn set_trainable<M: Module>(module: M, learns: impl Fn(&str) -> bool) -> M {
    map(module, |name, _| Change::Trainable(learns(name)))
}

/// Replaces values. `find` gets a parameter's name and shape and returns its values, `None` to keep what is there.
///
/// # Errors
/// The first error of `find`; a vector of the wrong length is [`LoadError::Length`]. The module is
/// consumed either way.
pub fn load<M: Module, E>(
    module: M,
    mut find: impl FnMut(&str, &[usize]) -> Result<Option<Vec<f32>>, E>,
) -> Result<M, LoadError<E>> {
    let mut failure = None;
    let module = map(module, |name, shape| {
        if failure.is_some() {
            return Change::Keep;
        }
        match find(name, shape) {
            Ok(None) => Change::Keep,
            Ok(Some(data)) if data.len() == shape.iter().product::<usize>() => Change::Values(data),
            Ok(Some(data)) => {
                failure = Some(LoadError::Length {
                    name: name.to_owned(),
                    expected: shape.to_vec(),
                    found: data.len(),
                });
                Change::Keep
            }
            Err(error) => {
                failure = Some(LoadError::Source(error));
                Change::Keep
            }
        }
    });
    failure.map_or(Ok(module), Err)
}

/// Why values could not be put into a module.
#[derive(Debug, thiserror::Error)]
pub enum LoadError<E> {
    /// The number of values is not that of the parameter.
    #[error("parameter {name} has shape {expected:?}, but {found} values were found for it")]
    Length {
        /// The parameter.
        name: String,
        /// Its shape.
        expected: Vec<usize>,
        /// How many values came.
        found: usize,
    },
    /// The values could not be found or read.
    #[error(transparent)]
    Source(E),
}
