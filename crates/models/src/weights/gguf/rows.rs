//! A matrix in its stored (quantised) form, expanded row by row.

use std::path::{Path, PathBuf};

use super::dequant::GgmlType;
use super::header::TensorInfo;
use crate::weights::{HostTensor, WeightsError};

/// A tensor that stays quantised in memory; its rows are expanded when they are asked for.
#[derive(Debug, Clone)]
pub struct QuantizedRows {
    path: PathBuf,
    name: String,
    storage: GgmlType,
    rows: usize,
    width: usize,
    row_bytes: usize,
    bytes: Vec<u8>,
}

impl QuantizedRows {
    pub(super) fn new(path: &Path, name: &str, info: &TensorInfo, bytes: Vec<u8>) -> Self {
        let (rows, row_bytes) = info.rows();
        Self {
            path: path.to_owned(),
            name: name.to_owned(),
            storage: info.storage,
            rows,
            width: info.elements().checked_div(rows).unwrap_or(0),
            // no more than `bytes`, which are in memory
            row_bytes: row_bytes as usize,
            bytes,
        }
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
