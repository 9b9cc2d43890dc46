//! safetensors files.
//!
//! The crate `safetensors` parses and checks the header; data are read tensor by tensor, so that a file of many
//! gigabytes needs no more memory than its largest tensor.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::file::DataFile;
use super::gguf::GgmlType;
use super::{HostTensor, StoredRows, TensorSource, WeightsError};
use bifocal_kernels::elements::Element;

/// The largest header; the same limit as the crate's own.
const MAX_HEADER: u64 = 100_000_000;

/// An open safetensors file.
#[derive(Debug)]
pub struct SafeTensors {
    file: DataFile,
    metadata: Metadata,
    tensors: BTreeMap<String, TensorInfo>,
    /// Position in the file of the first tensor's first byte.
    data: u64,
}

impl SafeTensors {
    /// Opens a file and checks its header: tensors cover the rest of the file exactly.
    ///
    /// # Errors
    /// [`WeightsError`] if the file cannot be read or is damaged.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        Self::read(DataFile::open(path)?)
    }

    /// As [`SafeTensors::open`], for bytes in memory; `path` is what messages call them.
    ///
    /// # Errors
    /// As [`SafeTensors::open`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, WeightsError> {
        Self::read(DataFile::from_bytes(path, bytes))
    }

    pub(super) fn read(file: DataFile) -> Result<Self, WeightsError> {
        let mut scan = file.scan(0, MAX_HEADER + 8);
        let len = scan.u64()?;
        let header = scan.bytes(len)?;
        let data = scan.position();
        let fault = |detail: String| WeightsError::malformed(file.path(), "its header", detail);
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| fault(e.to_string()))?;
        let (needed, present) = (metadata.data_len() as u64, file.len() - data);
        if needed != present {
            return Err(fault(format!("its tensors take {needed} bytes, but {present} follow")));
        }
        let tensors = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, info.clone()))
            .collect();
        Ok(Self {
            file,
            metadata,
            tensors,
            data,
        })
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, WeightsError> {
        self.tensors
            .get(name)
            .ok_or_else(|| WeightsError::missing(self.file.path(), name, self.tensors.keys().map(String::as_str)))
    }

    fn element(&self, name: &str, info: &TensorInfo) -> Result<Element, WeightsError> {
        element(info.dtype).ok_or_else(|| {
            WeightsError::unsupported(
                self.file.path(),
                format!("the element type {:?} of tensor \"{name}\"", info.dtype),
                "store the model in F32, F16 or BF16",
            )
        })
    }

    fn bytes(&self, name: &str, info: &TensorInfo) -> Result<Vec<u8>, WeightsError> {
        let (start, end) = info.data_offsets;
        let (at, len) = (self.data + start as u64, (end - start) as u64);
        self.file.read(at, len, &format!("tensor \"{name}\""))
    }

    /// The free-text metadata (`__metadata__`) of the file, if any.
    pub fn metadata(&self) -> Option<&std::collections::HashMap<String, String>> {
        self.metadata.metadata().as_ref()
    }
}

impl TensorSource for SafeTensors {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|t| t.shape.clone())
    }

    fn load(&self, name: &str) -> Result<HostTensor, WeightsError> {
        let info = self.info(name)?;
        let element = self.element(name, info)?;
        let bytes = self.bytes(name, info)?;
        let mut data = Vec::with_capacity(bytes.len() / element.size());
        element.decode(&bytes, &mut data);
        Ok(HostTensor {
            shape: info.shape.clone(),
            data,
        })
    }

    fn stored_as(&self, name: &str) -> Option<String> {
        self.tensors.get(name).map(|t| format!("{:?}", t.dtype))
    }

    fn stored_rows(&self, name: &str) -> Result<StoredRows, WeightsError> {
        let info = self.info(name)?;
        let storage = match info.dtype {
            Dtype::F32 => GgmlType::F32,
            Dtype::F16 => GgmlType::F16,
            Dtype::BF16 => GgmlType::BF16,
            _ => return Ok(StoredRows::of(self.file.path(), name, &self.load(name)?)),
        };
        let rows = info.shape.first().copied().unwrap_or(1);
        let bytes = self.bytes(name, info)?;
        Ok(StoredRows::new(self.file.path(), name, storage, rows, bytes))
    }

    fn path(&self) -> &Path {
        self.file.path()
    }
}

fn element(dtype: Dtype) -> Option<Element> {
    Some(match dtype {
        Dtype::F64 => Element::F64,
        Dtype::F32 => Element::F32,
        Dtype::F16 => Element::F16,
        Dtype::BF16 => Element::Bf16,
        Dtype::I64 => Element::I64,
        Dtype::I32 => Element::I32,
        Dtype::I16 => Element::I16,
        Dtype::I8 => Element::I8,
        Dtype::U64 => Element::U64,
        Dtype::U32 => Element::U32,
        Dtype::U16 => Element::U16,
        Dtype::U8 => Element::U8,
        Dtype::BOOL => Element::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
