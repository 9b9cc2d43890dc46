//! A teacher that is the exponential moving average of a student (Tarvainen & Valpola 2017).

use std::collections::BTreeMap;

use bifocal_kernels::blend;
use burn::backend::Flex;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

use crate::fused::on_cpu;
use crate::params::Path;
use crate::storage::Storage;

/// One step of the teacher: `alpha · teacher + (1 - alpha) · student` for each parameter, on the CPU in place on the teacher's storage.
///
/// `counterpart` gets the name of a teacher's parameter and returns that of the student's, `None` where the teacher's stays as it is. A teacher that is a
/// copy of a student's vision tower: `|name| Some(format!("vision.{name}"))`.
///
/// It is computed as teacher + (1 - alpha)·(student - teacher) in f32, so that a teacher that equals its student stays so to the bit. What a parameter is
/// recorded for does not change; statistics that are no parameters (those of batch normalisation) are not followed.
///
/// # Errors
/// [`EmaError`] when a counterpart is missing or has another shape. The teacher is consumed either way.
pub fn update<M: Module, S: Module>(
    teacher: M,
    student: &S,
    alpha: f64,
    counterpart: impl Fn(&str) -> Option<String>,
) -> Result<M, EmaError> {
    let mut values = Values::default();
    student.visit(&mut values);
    let mut follow = Follow {
        path: Path::default(),
        student: values.found,
        share: (1.0 - alpha) as f32,
        counterpart,
        failure: None,
    };
    let teacher = teacher.map(&mut follow);
    follow.failure.map_or(Ok(teacher), Err)
}

/// Why a teacher cannot follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmaError {
    /// There is no such parameter in the student.
    #[error("the teacher's {teacher} should follow {student}, which the student does not have")]
    Missing {
        /// The teacher's parameter.
        teacher: String,
        /// What was looked for.
        student: String,
    },
    /// Both differ in size.
    #[error("the teacher's {teacher} is {expected:?}, but the student's {student} is {found:?}")]
    Shape {
        /// The teacher's parameter.
        teacher: String,
        /// The student's.
        student: String,
        /// The teacher's shape.
        expected: Vec<usize>,
        /// The student's.
        found: Vec<usize>,
    },
}

/// The numbers of all parameters, shared.
#[derive(Default)]
struct Values {
    path: Path,
    found: BTreeMap<String, Storage>,
}

impl ModuleVisitor for Values {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.insert(self.path.name(), Storage::of(param.val()));
    }
}

struct Follow<F> {
    path: Path,
    student: BTreeMap<String, Storage>,
    share: f32,
    counterpart: F,
    failure: Option<EmaError>,
}

impl<F: Fn(&str) -> Option<String>> ModuleMapper for Follow<F> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        self.path.exit(container);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let teacher = self.path.name();
        let Some(student) = (self.counterpart)(&teacher).filter(|_| self.failure.is_none()) else {
            return param;
        };
        let expected = param.val().dims().to_vec();
        let values = match self.student.get(&student) {
            Some(values) if values.shape() == expected => values,
            Some(values) => {
                let found = values.shape();
                self.failure = Some(EmaError::Shape {
                    teacher,
                    student,
                    expected,
                    found,
                });
                return param;
            }
            None => {
                self.failure = Some(EmaError::Missing { teacher, student });
                return param;
            }
        };
        let (id, value, mapper) = param.consume();
        let learns = value.is_require_grad();
        let value = value.without_autodiff();
        let value = if on_cpu(&value) {
            // Dropping the recorded leaf left this handle the only owner, so that the storage is written in place.
            let mut storage = match value.try_into_primitive::<Flex>() {
                Ok(storage) => storage.to_contiguous(),
                Err(error) => unreachable!("it is on the CPU: {error:?}"),
            };
            blend::approach(storage.storage_mut::<f32>(), &values.values(), self.share);
            Tensor::<D>::from_primitive::<Flex>(storage)
        } else {
            let student = values.on(&value.device()).reshape(value.dims());
            value.clone() + (student - value) * self.share
        };
        let value = if learns { value.autodiff().require_grad() } else { value };
        Param::from_mapped_value(id, value, mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fused::constant;
    use crate::init::Rng;
    use crate::layers::Linear;
    use crate::params;

    #[test]
    fn the_storage_stays_where_it_is() {
        let mut rng = Rng::new(1);
        let mut layer = || Linear::new(40, 30, false, &mut rng);
        let (teacher, student) = (layer(), params::set_trainable(layer(), |_| true));
        let at = |teacher: &Linear| {
            let storage = constant(&teacher.weight.val()).expect("a teacher does not learn");
            storage.as_slice::<f32>().map(<[f32]>::as_ptr)
        };
        let before = at(&teacher);
        let teacher = update(teacher, &student, 0.5, |name| Some(name.to_owned())).expect("names fit");
        assert_eq!(at(&teacher), before);
    }
}
