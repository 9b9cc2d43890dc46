//! Embeddings as one file: `.npy` (float32, version 1.0), `.jsonl` and `.parquet`.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use bifocal_data::atomic::write_atomic;
use bifocal_data::table::{self, Column};

use crate::failure::wrong_use;

/// A file format for rows, chosen by the name's ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// NumPy's array file.
    Npy,
    /// One JSON object a line: `{"input": …, "embedding": […]}`.
    Jsonl,
    /// Columns `input` (text) and `embedding` (list of float).
    Parquet,
}

impl Format {
    /// # Errors
    /// Another ending than `.npy`, `.jsonl` or `.parquet` is wrong use.
    pub fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("jsonl") => Ok(Self::Jsonl),
            Some("parquet") => Ok(Self::Parquet),
            _ => Err(wrong_use(format!(
                "--out {}: the name must end in .npy, .jsonl or .parquet, which says what is written, or in / for a folder of parts",
                path.display()
            ))),
        }
    }
}

/// Writes `[inputs.len(), dim]` rows; the file appears whole or not at all.
pub fn write(path: &Path, format: Format, inputs: &[String], rows: &[f32], dim: usize) -> Result<()> {
    write_atomic(path, |file| match format {
        Format::Npy => npy(file, rows, dim),
        Format::Jsonl => jsonl(file, inputs, rows, dim),
        Format::Parquet => {
            let inputs = inputs.iter().map(|input| Some(input.as_str())).collect();
            table::write(
                file,
                &[
                    ("input", Column::Text(inputs)),
                    ("embedding", Column::Vector(rows, dim)),
                ],
            )
        }
    })
    .with_context(|| format!("writing {}", path.display()))
}

/// NumPy's format, `[rows.len() / dim, dim]`.
pub fn npy(file: &mut dyn Write, rows: &[f32], dim: usize) -> std::io::Result<()> {
    let n = rows.len() / dim.max(1);
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, {dim}), }}");
    // Magic, version and length take 10 bytes; data begins at a multiple of 64; the header ends with a newline.
    let padding = 63 - (10 + header.len()) % 64;
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&(header.len() as u16).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    for value in rows {
        file.write_all(&value.to_le_bytes())?;
    }
    Ok(())
}

fn jsonl(file: &mut dyn Write, inputs: &[String], rows: &[f32], dim: usize) -> std::io::Result<()> {
    for (input, embedding) in inputs.iter().zip(rows.chunks_exact(dim.max(1))) {
        let line = serde_json::json!({ "input": input, "embedding": embedding });
        writeln!(file, "{line}")?;
    }
    Ok(())
}
