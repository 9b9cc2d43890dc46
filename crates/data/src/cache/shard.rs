//! One file of features: a safetensors file with `keys` (U8, `[n, 32]`) and `features` (F16 or F32, `[n, dim]`), called by the BLAKE3 of
//! its content. A shard is never changed; whoever reads the features of one computes its hash first.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::tensor::{Metadata, TensorView};
use safetensors::{Dtype as TensorDtype, SafeTensors};

use super::{CacheError, Dtype, ItemKey};
use crate::atomic::write_atomic;

/// Ending of shards.
pub(super) const ENDING: &str = ".safetensors";
/// Longest header that a shard of ours can have.
const MAX_HEADER: u64 = 64 << 10;

/// Why a shard cannot be used.
pub(super) enum ShardError {
    /// It is gone, or the operating system refused.
    Io(std::io::Error),
    /// Its content is not what was written.
    Damaged(String),
}

impl From<std::io::Error> for ShardError {
    fn from(e: std::io::Error) -> Self {
        if e.kind() == std::io::ErrorKind::UnexpectedEof {
            Self::Damaged("it is cut off".into())
        } else {
            Self::Io(e)
        }
    }
}

fn damaged<T>(reason: impl Into<String>) -> Result<T, ShardError> {
    Err(ShardError::Damaged(reason.into()))
}

/// Writes a shard durably and gives its name. `rows` is `[keys.len(), dim]` and has been checked.
pub(super) fn write(
    dir: &Path,
    keys: &[ItemKey],
    rows: &[f32],
    dim: usize,
    dtype: Dtype,
) -> Result<String, CacheError> {
    let failed = |reason: String| CacheError::Io {
        path: dir.to_owned(),
        reason,
    };
    let key_bytes: Vec<u8> = keys.iter().flat_map(|k| k.0).collect();
    let (tensor_dtype, row_bytes): (_, Vec<u8>) = match dtype {
        Dtype::F32 => (TensorDtype::F32, rows.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Dtype::F16 => (
            TensorDtype::F16,
            rows.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        ),
    };
    let view = |dtype, shape, data| TensorView::new(dtype, shape, data).map_err(|e| failed(e.to_string()));
    let tensors = [
        ("keys", view(TensorDtype::U8, vec![keys.len(), 32], &key_bytes)?),
        ("features", view(tensor_dtype, vec![keys.len(), dim], &row_bytes)?),
    ];
    let bytes = safetensors::serialize(tensors, None).map_err(|e| failed(e.to_string()))?;
    let name = format!("{}{ENDING}", blake3::hash(&bytes).to_hex());
    let path = dir.join(&name);
    write_atomic(&path, |f| f.write_all(&bytes)).map_err(|e| CacheError::io(&path, &e))?;
    Ok(name)
}

/// Reads the keys only, without the hash: enough to know what a shard claims to hold.
pub(super) fn read_keys(path: &Path, dim: usize, dtype: Dtype) -> Result<Vec<ItemKey>, ShardError> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut word = [0; 8];
    file.read_exact(&mut word)?;
    let header = u64::from_le_bytes(word);
    if header > MAX_HEADER || header + 8 > size {
        return damaged("its header has an impossible length");
    }
    let mut json = vec![0; header as usize];
    file.read_exact(&mut json)?;
    let Ok(meta) = serde_json::from_slice::<Metadata>(&json) else {
        return damaged("its header is not readable");
    };
    let (Some(keys), Some(rows)) = (meta.info("keys"), meta.info("features")) else {
        return damaged("it has no keys or no features");
    };
    let n = keys.shape.first().copied().unwrap_or(0);
    let wanted = if dtype == Dtype::F16 {
        TensorDtype::F16
    } else {
        TensorDtype::F32
    };
    let spans = |at: (usize, usize), each: usize| {
        n.checked_mul(each)
            .is_some_and(|len| at.1.checked_sub(at.0) == Some(len))
    };
    let fits = keys.shape == [n, 32]
        && keys.dtype == TensorDtype::U8
        && rows.shape == [n, dim]
        && rows.dtype == wanted
        && spans(keys.data_offsets, 32)
        && dim
            .checked_mul(width(dtype))
            .is_some_and(|each| spans(rows.data_offsets, each));
    // both tensors, the header and nothing else
    let end = (keys.data_offsets.1.max(rows.data_offsets.1) as u64).saturating_add(8 + header);
    if !fits || end != size {
        return damaged("its tensors do not have the sizes that they must have");
    }
    file.seek(SeekFrom::Start(8 + header + keys.data_offsets.0 as u64))?;
    let mut bytes = vec![0; n * 32];
    file.read_exact(&mut bytes)?;
    Ok(to_keys(&bytes))
}

/// Bytes of a number.
fn width(dtype: Dtype) -> usize {
    if dtype == Dtype::F16 { 2 } else { 4 }
}

fn to_keys(bytes: &[u8]) -> Vec<ItemKey> {
    bytes.as_chunks::<32>().0.iter().map(|k| ItemKey(*k)).collect()
}

/// A shard whose hash was found to be right.
pub(super) struct Shard {
    bytes: Vec<u8>,
    rows: std::ops::Range<usize>,
    dim: usize,
    dtype: Dtype,
}

impl Shard {
    /// Reads and verifies; `keys` are those that [`read_keys`] gave.
    pub fn open(path: PathBuf, keys: usize, dim: usize, dtype: Dtype) -> Result<Self, ShardError> {
        let bytes = std::fs::read(&path)?;
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_suffix(ENDING));
        if name != Some(blake3::hash(&bytes).to_hex().as_str()) {
            return damaged("its checksum is wrong");
        }
        // the hash is right, so these are the sizes that `read_keys` saw unless the file was replaced since
        let Ok((header, meta)) = SafeTensors::read_metadata(&bytes) else {
            return damaged("it is not readable");
        };
        let Some(info) = meta.info("features") else {
            return damaged("it has no features");
        };
        if info.shape != [keys, dim] || info.data_offsets.1 - info.data_offsets.0 != keys * dim * width(dtype) {
            return damaged("its size changed");
        }
        let rows = 8 + header + info.data_offsets.0..8 + header + info.data_offsets.1;
        Ok(Self {
            bytes,
            rows,
            dim,
            dtype,
        })
    }

    /// Copies a row to `to`, which has `dim` elements.
    pub fn copy(&self, row: usize, to: &mut [f32]) {
        let rows = &self.bytes[self.rows.clone()];
        match self.dtype {
            Dtype::F32 => {
                let row = &rows[row * self.dim * 4..(row + 1) * self.dim * 4];
                for (to, from) in to.iter_mut().zip(row.as_chunks::<4>().0) {
                    *to = f32::from_le_bytes(*from);
                }
            }
            Dtype::F16 => {
                let row = &rows[row * self.dim * 2..(row + 1) * self.dim * 2];
                let half: Vec<f16> = row.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b)).collect();
                half.convert_to_f32_slice(to);
            }
        }
    }
}
