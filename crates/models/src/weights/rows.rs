//! A matrix in its stored form (quantised, or half precision), expanded row by row.

use std::path::{Path, PathBuf};

use super::gguf::GgmlType;
use super::{HostTensor, WeightsError};

/// A tensor that stays in memory as it is stored; its rows are expanded when they are asked for.
#[derive(Debug, Clone)]
pub struct StoredRows {
    path: PathBuf,
    name: String,
    storage: GgmlType,
    rows: usize,
    width: usize,
    row_bytes: usize,
    bytes: Vec<u8>,
}

impl StoredRows {
    /// `bytes` of a tensor of `rows` rows, which are whole blocks of `storage`.
    pub(super) fn new(path: &Path, name: &str, storage: GgmlType, rows: usize, bytes: Vec<u8>) -> Self {
        let row_bytes = bytes.len().checked_div(rows).unwrap_or(0);
        Self {
            path: path.to_owned(),
            name: name.to_owned(),
            storage,
            rows,
            width: row_bytes / storage.block_bytes() * storage.block_len(),
            row_bytes,
            bytes,
        }
    }

    /// A tensor that is in memory already.
    pub(super) fn of(path: &Path, name: &str, tensor: &HostTensor) -> Self {
        let rows = tensor.shape.first().copied().unwrap_or(1);
        let bytes = tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self::new(path, name, GgmlType::F32, rows, bytes)
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The bytes that the table occupies in memory.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Expands some rows (in any order, repeats allowed).
    ///
    /// # Shapes
    /// `n` indices give `[n, width]`.
    ///
    /// # Errors
    /// [`WeightsError::RowOutOfRange`] for an index beyond the last row.
    pub fn gather(&self, indices: &[u32]) -> Result<HostTensor, WeightsError> {
        let mut data = Vec::with_capacity(indices.len().saturating_mul(self.width));
        for &index in indices {
            let row = index as usize;
            if row >= self.rows {
                return Err(WeightsError::RowOutOfRange {
                    path: self.path.clone(),
                    name: self.name.clone(),
                    row,
                    rows: self.rows,
                });
            }
            let start = row * self.row_bytes;
            self.storage
                .dequantize(&self.bytes[start..start + self.row_bytes], &mut data);
        }
        Ok(HostTensor {
            shape: vec![indices.len(), self.width],
            data,
        })
    }
}
