//! The tensors of a pickled object, as views of storages that were checked to lie within the file.

use std::collections::BTreeMap;

use super::Places;
use super::pickle::{self, Heap, Object, Value};
use crate::weights::WeightsError;
use crate::weights::file::DataFile;
use bifocal_kernels::elements::Element;

/// How deep dictionaries and lists may nest; TorchScript nests a module per level.
const MAX_DEPTH: usize = 24;
/// How many entries a walk through them may meet; shared parts count each time that they are met.
const MAX_VISITS: usize = 1 << 17;
/// The longest name, dots included.
const MAX_NAME: usize = 1024;

/// A tensor: a strided view of elements in the file.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) element: Element,
    /// Position in the file of the tensor's first element.
    pub(super) start: u64,
    pub(super) shape: Vec<usize>,
    strides: Vec<u64>,
    /// The number of elements from its first to its last one in the storage.
    pub(super) span: u64,
}

/// All tensors of the root object, by name.
pub(super) fn all(file: &DataFile, heap: &Heap, places: &Places) -> Result<BTreeMap<String, View>, WeightsError> {
    let mut walk = Walk {
        file,
        heap,
        places,
        visits: 0,
        found: BTreeMap::new(),
    };
    walk.visit("", heap.root, 0)?;
    Ok(walk.found)
}

/// Collects the tensors of an object and of all that it contains.
struct Walk<'a> {
    file: &'a DataFile,
    heap: &'a Heap,
    places: &'a Places,
    visits: usize,
    found: BTreeMap<String, View>,
}

impl Walk<'_> {
    fn limit(&self, place: &str, value: usize, limit: usize) -> WeightsError {
        let path = self.file.path().to_owned();
        WeightsError::Limit {
            path,
            place: place.into(),
            value: value as u64,
            limit: limit as u64,
        }
    }

    fn visit(&mut self, name: &str, value: Value, depth: usize) -> Result<(), WeightsError> {
        self.visits += 1;
        if self.visits > MAX_VISITS {
            return Err(self.limit("the number of entries in its dictionaries", self.visits, MAX_VISITS));
        }
        if depth > MAX_DEPTH {
            return Err(self.limit("the depth of its nested dictionaries", depth, MAX_DEPTH));
        }
        let join = |part: &str| {
            if name.is_empty() {
                part.to_owned()
            } else {
                format!("{name}.{part}")
            }
        };
        match self.heap.object(value) {
            Some(Object::Tensor(tensor)) => {
                let name = if name.is_empty() { "tensor" } else { name };
                let info = self.resolve(name, tensor)?;
                self.found.insert(name.to_owned(), info);
            }
            Some(Object::Dict(entries)) => {
                for &(key, value) in entries {
                    match (self.heap.text(key), key) {
                        (Some(key), _) if name.len() + key.len() >= MAX_NAME => {
                            return Err(self.limit("the length of a name", name.len() + key.len(), MAX_NAME));
                        }
                        (Some(key), _) => self.visit(&join(key), value, depth + 1)?,
                        (None, Value::Int(key)) => self.visit(&join(&key.to_string()), value, depth + 1)?,
                        // nothing that is called otherwise can be asked for by name
                        _ => {}
                    }
                }
            }
            Some(Object::List(items) | Object::Tuple(items)) => {
                for (i, &item) in items.iter().enumerate() {
                    self.visit(&join(&i.to_string()), item, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks that a tensor lies within its storage.
    fn resolve(&self, name: &str, tensor: &pickle::Tensor) -> Result<View, WeightsError> {
        let fault = |detail: &str| WeightsError::malformed(self.file.path(), format!("tensor \"{name}\""), detail);
        let storage = self.heap.storage(tensor).ok_or_else(|| fault("it has no storage"))?;
        let &(start, len) = self
            .places
            .get(&storage.key)
            .ok_or_else(|| fault("its storage is not in the file"))?;
        if storage.len != len {
            return Err(fault("the length of its storage is given in two different ways"));
        }
        let too_large = || fault("it goes beyond the end of its storage");
        let elements = tensor
            .shape
            .iter()
            .try_fold(1u64, |product, &size| product.checked_mul(size.max(1)))
            .ok_or_else(too_large)?;
        // a tensor that repeats its elements (stride 0) could be far larger than the file
        let empty = tensor.shape.contains(&0);
        if !empty && elements > len {
            return Err(fault("it has more elements than its storage"));
        }
        let span = if empty {
            0
        } else {
            let last = tensor
                .shape
                .iter()
                .zip(&tensor.strides)
                .try_fold(0u64, |sum, (&size, &stride)| {
                    stride.checked_mul(size - 1).and_then(|reach| sum.checked_add(reach))
                });
            last.and_then(|last| last.checked_add(1)).ok_or_else(too_large)?
        };
        if tensor.offset.checked_add(span).is_none_or(|end| end > len) {
            return Err(too_large());
        }
        Ok(View {
            element: storage.element,
            // within the storage, hence within the file
            start: start + tensor.offset * storage.element.size() as u64,
            shape: tensor.shape.iter().map(|&size| size as usize).collect(),
            // the stride of an axis of one element says nothing and may be any number
            strides: tensor
                .shape
                .iter()
                .zip(&tensor.strides)
                .map(|(&n, &s)| if n > 1 { s } else { 0 })
                .collect(),
            span,
        })
    }
}

impl View {
    pub(super) fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size <= 1 || stride == expected;
            expected *= size as u64;
            fits
        })
    }

    /// Brings the elements of a strided view into row-major order.
    pub(super) fn gather(&self, values: &[f32]) -> Vec<f32> {
        let count = self.shape.iter().product();
        let mut out = Vec::with_capacity(count);
        let mut index = vec![0; self.shape.len()];
        let mut at = 0;
        while out.len() < count {
            // `at` never exceeds the span, which is the length of `values`
            out.push(values[at as usize]);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                at += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= self.strides[axis] * self.shape[axis] as u64;
                index[axis] = 0;
            }
        }
        out
    }
}
