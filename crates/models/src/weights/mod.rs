//! Files of weights: one trait over the formats that published models come in.
//!
//! Every reader treats its file as hostile: counts, lengths and offsets are checked against the file's length
//! before memory is allocated, and nothing in a file is ever executed.

mod error;
mod file;
mod fingerprint;
pub mod gguf;
mod open;
mod rows;
pub mod safetensors;
mod sharded;
mod strict;
#[cfg(test)]
mod testing;
pub mod torch;
mod unwrap;
pub(crate) mod write;

use std::collections::BTreeMap;
use std::path::Path;

pub use error::{Misfit, WeightsError};
pub use fingerprint::fingerprint;
pub(crate) use open::open_stored;
pub use open::{files, open};
pub use rows::StoredRows;
pub use sharded::Sharded;
pub use strict::strict;
pub(crate) use unwrap::below;

/// A tensor in memory: row-major f32 values and their shape.
///
/// # Shapes
/// `data.len()` is the product of `shape`; a scalar has an empty shape and one value. Axes are in PyTorch's
/// order (slowest first), whatever the order in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Sizes, slowest axis first.
    pub shape: Vec<usize>,
    /// Values, row-major.
    pub data: Vec<f32>,
}

/// Named tensors that can be loaded one at a time as f32.
pub trait TensorSource: Send + Sync {
    /// The names of all tensors, sorted.
    fn names(&self) -> Vec<String>;

    /// The shape of a tensor in PyTorch's order, without loading it; `None` if there is no such tensor.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// Loads one tensor as f32.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`] for an unknown name; otherwise whatever is wrong with the file.
    fn load(&self, name: &str) -> Result<HostTensor, WeightsError>;

    /// How a tensor is stored, as its format calls it ("F32", "BF16", "Q4_1"); `None` if there is no such tensor or it is in memory.
    fn stored_as(&self, name: &str) -> Option<String> {
        let _ = name;
        None
    }

    /// Where the tensors come from, for messages.
    fn path(&self) -> &Path;

    /// Loads one tensor whose shape is known beforehand; the shape is checked before any data is read.
    ///
    /// # Errors
    /// [`WeightsError::ShapeMismatch`] if the shape differs; otherwise as [`TensorSource::load`].
    fn load_shaped(&self, name: &str, expected: &[usize]) -> Result<HostTensor, WeightsError> {
        match self.shape(name) {
            Some(found) if found != expected => Err(WeightsError::ShapeMismatch {
                path: self.path().to_owned(),
                name: name.to_owned(),
                found,
                expected: expected.to_vec(),
            }),
            _ => self.load(name),
        }
    }

    /// Reads a tensor as it is stored, so that its rows can be expanded one by one: a language model's table of embeddings is up to
    /// eight times smaller that way. A file that has to convert it anyway gives it as f32.
    ///
    /// # Errors
    /// As [`TensorSource::load`].
    fn stored_rows(&self, name: &str) -> Result<StoredRows, WeightsError> {
        Ok(StoredRows::of(self.path(), name, &self.load(name)?))
    }
}

/// A source that somebody else holds.
impl<T: TensorSource + ?Sized> TensorSource for &T {
    fn names(&self) -> Vec<String> {
        (**self).names()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        (**self).shape(name)
    }

    fn load(&self, name: &str) -> Result<HostTensor, WeightsError> {
        (**self).load(name)
    }

    fn stored_as(&self, name: &str) -> Option<String> {
        (**self).stored_as(name)
    }

    fn path(&self) -> &Path {
        (**self).path()
    }

    fn load_shaped(&self, name: &str, expected: &[usize]) -> Result<HostTensor, WeightsError> {
        (**self).load_shaped(name, expected)
    }

    fn stored_rows(&self, name: &str) -> Result<StoredRows, WeightsError> {
        (**self).stored_rows(name)
    }
}

/// Tensors that are already in memory: for weights that were computed, and for tests.
impl TensorSource for BTreeMap<String, HostTensor> {
    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.get(name).map(|t| t.shape.clone())
    }

    fn load(&self, name: &str) -> Result<HostTensor, WeightsError> {
        self.get(name)
            .cloned()
            .ok_or_else(|| WeightsError::missing(self.path(), name, self.keys().map(String::as_str)))
    }

    fn path(&self) -> &Path {
        Path::new("(memory)")
    }
}
