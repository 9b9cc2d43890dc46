//! The header of a GGUF file: counts, metadata, and where each tensor lies.

use std::collections::BTreeMap;

use super::super::WeightsError;
use super::super::file::{DataFile, Scan};
use super::GgmlType;
use super::value::{self, GgufValue, ValueReader};

/// The first four bytes.
pub(in super::super) const MAGIC: &[u8; 4] = b"GGUF";

/// The largest header accepted; the vocabulary of Gemma 3 with its scores makes one of 6 MB.
const MAX_HEADER: u64 = 256 << 20;
/// The largest number of tensors and of metadata entries accepted.
const MAX_ENTRIES: u64 = 1 << 17;
/// ggml itself knows four axes.
const MAX_AXES: u32 = 8;
/// Where tensors start if `general.alignment` says nothing.
const DEFAULT_ALIGNMENT: u64 = 32;

/// A tensor within the file.
#[derive(Debug, Clone)]
pub(super) struct TensorInfo {
    pub(super) storage: GgmlType,
    /// Sizes in PyTorch's order.
    pub(super) shape: Vec<usize>,
    /// Position in the file of the first byte.
    pub(super) offset: u64,
    /// Size in the file.
    pub(super) bytes: u64,
}

impl TensorInfo {
    /// The number of elements; their product was checked when the header was read.
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Number of rows (of the first axis) and bytes of each. A vector's rows are its elements, which only types
    /// that are not quantised can give singly; a quantised vector therefore is one row.
    pub(super) fn rows(&self) -> (usize, u64) {
        let single = self.shape.len() < 2 && self.storage.block_len() > 1;
        let count = if single {
            1
        } else {
            self.shape.first().copied().unwrap_or(1)
        };
        (count, self.bytes.checked_div(count as u64).unwrap_or(0))
    }
}

type Header = (BTreeMap<String, GgufValue>, BTreeMap<String, TensorInfo>);

/// Reads and checks the header.
pub(super) fn read(file: &DataFile) -> Result<Header, WeightsError> {
    let mut scan = file.scan(0, MAX_HEADER);
    if &scan.array::<4>()? != MAGIC {
        return Err(scan.malformed("it does not begin with GGUF"));
    }
    match scan.u32()? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=3) => {
            return Err(WeightsError::unsupported(
                file.path(),
                "a GGUF file of big-endian numbers",
                "take the little-endian edition of this model",
            ));
        }
        version => {
            return Err(WeightsError::unsupported(
                file.path(),
                format!("GGUF version {version}"),
                "convert the model anew with a current llama.cpp, which writes version 3",
            ));
        }
    }
    let tensor_count = entries(&mut scan, "the number of tensors")?;
    let metadata_count = entries(&mut scan, "the number of metadata entries")?;
    let metadata = read_metadata(&mut scan, metadata_count)?;
    let alignment = alignment(file, &metadata)?;
    let mut tensors = BTreeMap::new();
    for _ in 0..tensor_count {
        let at = scan.position();
        let (name, info) = read_tensor(&mut scan, alignment)?;
        if tensors.contains_key(&name) {
            return Err(WeightsError::malformed(
                file.path(),
                format!("byte {at}"),
                format!("there are two tensors \"{name}\""),
            ));
        }
        tensors.insert(name, info);
    }
    // positions were relative to the end of the header; a header is too short for this to overflow
    let data = scan.position().next_multiple_of(alignment);
    for (name, info) in &mut tensors {
        let start = data.checked_add(info.offset);
        let end = start.and_then(|s| s.checked_add(info.bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= file.len() => info.offset = start,
            _ => {
                return Err(WeightsError::malformed(
                    file.path(),
                    format!("tensor \"{name}\""),
                    format!(
                        "its {} bytes at {} after byte {data} lie beyond the end of the file at byte {}",
                        info.bytes,
                        info.offset,
                        file.len()
                    ),
                ));
            }
        }
    }
    Ok((metadata, tensors))
}

fn entries(scan: &mut Scan<'_>, what: &str) -> Result<u64, WeightsError> {
    let value = scan.u64()?;
    if value > MAX_ENTRIES {
        return Err(WeightsError::Limit {
            path: scan.path().to_owned(),
            place: what.into(),
            value,
            limit: MAX_ENTRIES,
        });
    }
    Ok(value)
}

fn read_metadata(scan: &mut Scan<'_>, count: u64) -> Result<BTreeMap<String, GgufValue>, WeightsError> {
    let mut metadata = BTreeMap::new();
    let mut reader = ValueReader::new();
    for _ in 0..count {
        let key = value::text(scan)?;
        let value = reader.value(scan)?;
        if metadata.contains_key(&key) {
            return Err(scan.malformed(format!("there are two metadata entries \"{key}\"")));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn alignment(file: &DataFile, metadata: &BTreeMap<String, GgufValue>) -> Result<u64, WeightsError> {
    match metadata.get("general.alignment").map(GgufValue::as_u64) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Some(a)) if a.is_power_of_two() && a <= 1 << 20 => Ok(a),
        Some(_) => Err(WeightsError::malformed(
            file.path(),
            "metadata \"general.alignment\"",
            "it is not a power of two",
        )),
    }
}

/// Reads one tensor's entry; its offset is relative to the end of the header as yet.
fn read_tensor(scan: &mut Scan<'_>, alignment: u64) -> Result<(String, TensorInfo), WeightsError> {
    let name = value::text(scan)?;
    let path = scan.path().to_owned();
    let fault = |detail: String| WeightsError::malformed(&path, format!("tensor \"{name}\""), detail);
    let axes = scan.u32()?;
    if axes > MAX_AXES {
        return Err(fault(format!("it has {axes} axes, at most {MAX_AXES} are possible")));
    }
    let mut sizes = Vec::with_capacity(axes as usize);
    for _ in 0..axes {
        sizes.push(scan.u64()?);
    }
    let code = scan.u32()?;
    let offset = scan.u64()?;
    let storage = GgmlType::from_code(code).map_err(|known| {
        WeightsError::unsupported(
            &path,
            format!("the element type {known} ({code}) of tensor \"{name}\""),
            "take an edition of the model in F16, Q8_0, Q4_0 … Q5_1 or Q2_K … Q6_K",
        )
    })?;
    let block = storage.block_len() as u64;
    let row = sizes.first().copied().unwrap_or(1);
    if row % block != 0 {
        return Err(fault(format!(
            "its rows of {row} elements are no whole blocks of {block}"
        )));
    }
    if offset % alignment != 0 {
        return Err(fault(format!("its offset {offset} is no multiple of {alignment}")));
    }
    // an empty axis must not hide the product of the others, which is formed in another order later
    let elements = sizes
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size.max(1)));
    let bytes = elements
        .map(|elements| if sizes.contains(&0) { 0 } else { elements })
        .and_then(|elements| (elements / block).checked_mul(storage.block_bytes() as u64))
        .filter(|&bytes| bytes < 1 << 52 && usize::try_from(bytes.saturating_mul(16)).is_ok())
        .ok_or_else(|| fault(format!("its sizes {sizes:?} are too large")))?;
    let shape = sizes.iter().rev().map(|&size| size as usize).collect();
    Ok((
        name,
        TensorInfo {
            storage,
            shape,
            offset,
            bytes,
        },
    ))
}
