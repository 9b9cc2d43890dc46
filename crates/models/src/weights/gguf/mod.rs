//! GGUF, versions 2 and 3: metadata and (usually quantised) tensors in one file.
//!
//! Source: the format's specification, <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod header;
mod value;

use std::collections::BTreeMap;
use std::path::Path;

pub use bifocal_kernels::elements::ggml::GgmlType;
pub use value::{GgufArray, GgufValue};

use super::file::DataFile;
use super::{HostTensor, StoredRows, TensorSource, WeightsError};
use header::TensorInfo;

/// An open GGUF file. Metadata are in memory, tensors are read when they are asked for.
///
/// Sizes of tensors are given in PyTorch's order (a file lists the fastest axis first).
#[derive(Debug)]
pub struct Gguf {
    file: DataFile,
    metadata: BTreeMap<String, GgufValue>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Gguf {
    /// Opens a file and checks its header: every tensor lies within the file.
    ///
    /// # Errors
    /// [`WeightsError`] if the file cannot be read, is damaged, or uses another version or byte order.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        Self::read(DataFile::open(path)?)
    }

    /// As [`Gguf::open`], for bytes in memory; `path` is what messages call them.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, WeightsError> {
        Self::read(DataFile::from_bytes(path, bytes))
    }

    pub(super) fn read(file: DataFile) -> Result<Self, WeightsError> {
        let (metadata, tensors) = header::read(&file)?;
        Ok(Self {
            file,
            metadata,
            tensors,
        })
    }

    /// All metadata.
    pub fn metadata(&self) -> &BTreeMap<String, GgufValue> {
        &self.metadata
    }

    /// A metadata value that must be there, as the type that `convert` gives.
    ///
    /// ```no_run
    /// # use bifocal_models::weights::gguf::{Gguf, GgufValue};
    /// # fn f(gguf: &Gguf) -> Result<(), bifocal_models::weights::WeightsError> {
    /// let layers = gguf.require("llama.block_count", GgufValue::as_u64)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`WeightsError::Metadata`] if there is no such key or its value is of another type.
    pub fn require<'a, T>(
        &'a self,
        key: &str,
        convert: impl FnOnce(&'a GgufValue) -> Option<T>,
    ) -> Result<T, WeightsError> {
        let fault = |problem: &str| WeightsError::metadata(self.file.path(), key, problem);
        let value = self.metadata.get(key).ok_or_else(|| fault("is missing"))?;
        convert(value).ok_or_else(|| fault("has a value of the wrong type"))
    }

    /// A metadata value that may be absent; a value of another type is an error all the same.
    ///
    /// # Errors
    /// [`WeightsError::Metadata`] if the value is of another type.
    pub fn optional<'a, T>(
        &'a self,
        key: &str,
        convert: impl FnOnce(&'a GgufValue) -> Option<T>,
    ) -> Result<Option<T>, WeightsError> {
        if self.metadata.contains_key(key) {
            self.require(key, convert).map(Some)
        } else {
            Ok(None)
        }
    }

    /// How a tensor is stored; `None` if there is no such tensor.
    pub fn storage_type(&self, name: &str) -> Option<GgmlType> {
        self.tensors.get(name).map(|t| t.storage)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, WeightsError> {
        self.tensors
            .get(name)
            .ok_or_else(|| WeightsError::missing(self.file.path(), name, self.tensors.keys().map(String::as_str)))
    }
}

impl TensorSource for Gguf {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|t| t.shape.clone())
    }

    fn load(&self, name: &str) -> Result<HostTensor, WeightsError> {
        let info = self.info(name)?;
        // the header was checked: `bytes` lie within the file, and elements are at most 256/84 times as many
        let mut data = Vec::with_capacity(info.elements());
        let block = info.storage.block_bytes() as u64;
        // expand piece by piece, so that the stored form is never in memory as a whole
        let piece = (1 << 20) / block * block;
        let mut done = 0;
        while done < info.bytes {
            let len = piece.min(info.bytes - done);
            let bytes = self.file.read(info.offset + done, len, &format!("tensor \"{name}\""))?;
            info.storage.dequantize(&bytes, &mut data);
            done += len;
        }
        Ok(HostTensor {
            shape: info.shape.clone(),
            data,
        })
    }

    fn stored_as(&self, name: &str) -> Option<String> {
        self.storage_type(name).map(|storage| format!("{storage:?}"))
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    fn stored_rows(&self, name: &str) -> Result<StoredRows, WeightsError> {
        let info = self.info(name)?;
        let bytes = self.file.read(info.offset, info.bytes, &format!("tensor \"{name}\""))?;
        Ok(StoredRows::new(
            self.file.path(),
            name,
            info.storage,
            info.rows().0,
            bytes,
        ))
    }
}

#[cfg(test)]
mod tests;
