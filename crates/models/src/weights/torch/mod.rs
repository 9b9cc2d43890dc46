//! What `torch.save` writes: a pickle that describes tensors as views of storages, and the storages.
//!
//! Since PyTorch 1.6 these are entries of a zip archive ([`archive`]); before, they followed one another in a file ([`legacy`]). TorchScript
//! archives are laid out like the former; their modules are read as dictionaries, their code is not read at all.

mod archive;
mod legacy;
mod pickle;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::file::DataFile;
use super::{HostTensor, TensorSource, WeightsError};
use view::View;

/// The longest pickle accepted; that of a network of a thousand tensors takes 200 kB.
const MAX_PICKLE: u64 = 64 << 20;

/// Where storages are: key → position of the first element and number of elements.
type Places = HashMap<String, (u64, u64)>;

/// An open file of `torch.save`, of either layout.
///
/// Tensors in nested dictionaries and lists have names joined by dots: `{"state_dict": {"fc.weight": …}}` gives
/// `state_dict.fc.weight`. A file that is a single tensor calls it `tensor`.
#[derive(Debug)]
pub struct Torch {
    file: DataFile,
    tensors: BTreeMap<String, View>,
}

impl Torch {
    /// Whether a file that begins so is one of `torch.save`, or a zip archive that may be one.
    pub(super) fn recognises(head: &[u8]) -> bool {
        head.starts_with(legacy::MAGIC) || archive::recognises(head)
    }

    /// Opens a file and checks that every tensor lies within it. Nothing in the file is executed.
    ///
    /// # Errors
    /// [`WeightsError`] if the file cannot be read, is damaged, or holds anything but tensors, dictionaries, lists, tuples,
    /// numbers and texts.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        Self::read(DataFile::open(path)?)
    }

    /// As [`Torch::open`], for bytes in memory; `path` is what messages call them.
    ///
    /// # Errors
    /// As [`Torch::open`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, WeightsError> {
        Self::read(DataFile::from_bytes(path, bytes))
    }

    pub(super) fn read(file: DataFile) -> Result<Self, WeightsError> {
        let zipped = archive::recognises(&file.head(4)?);
        let (heap, places) = if zipped {
            archive::read(&file)?
        } else {
            legacy::read(&file)?
        };
        let tensors = view::all(&file, &heap, &places)?;
        Ok(Self { file, tensors })
    }
}

impl TensorSource for Torch {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|t| t.shape.clone())
    }

    fn load(&self, name: &str) -> Result<HostTensor, WeightsError> {
        let info = self
            .tensors
            .get(name)
            .ok_or_else(|| WeightsError::missing(self.file.path(), name, self.tensors.keys().map(String::as_str)))?;
        let bytes = self.file.read(
            info.start,
            info.span * info.element.size() as u64,
            &format!("tensor \"{name}\""),
        )?;
        let mut data = Vec::with_capacity(info.span as usize);
        info.element.decode(&bytes, &mut data);
        if !info.is_contiguous() {
            data = info.gather(&data);
        }
        Ok(HostTensor {
            shape: info.shape.clone(),
            data,
        })
    }

    fn stored_as(&self, name: &str) -> Option<String> {
        self.tensors.get(name).map(|t| t.element.name().to_owned())
    }

    fn path(&self) -> &Path {
        self.file.path()
    }
}

#[cfg(test)]
mod tests;
