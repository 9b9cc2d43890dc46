//! safetensors: one file, or a folder of shards with an index.
//!
//! The crate `safetensors` parses and checks the header; data are read tensor by tensor, so that a file of many
//! gigabytes needs no more memory than its largest tensor.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::elements::Element;
use super::file::DataFile;
use super::{HostTensor, TensorSource, WeightsError};

/// The largest header; the same limit as the crate's own.
const MAX_HEADER: u64 = 100_000_000;
/// The largest index of shards.
const MAX_INDEX: u64 = 64 << 20;
/// The largest number of shards.
const MAX_SHARDS: usize = 4096;

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
        let info = self
            .tensors
            .get(name)
            .ok_or_else(|| WeightsError::missing(self.file.path(), name, self.tensors.keys().map(String::as_str)))?;
        let element = element(info.dtype).ok_or_else(|| {
            WeightsError::unsupported(
                self.file.path(),
                format!("the element type {:?} of tensor \"{name}\"", info.dtype),
                "store the model in F32, F16 or BF16",
            )
        })?;
        let (start, end) = info.data_offsets;
        let bytes = self.file.read(
            self.data + start as u64,
            (end - start) as u64,
            &format!("tensor \"{name}\""),
        )?;
        let mut data = Vec::with_capacity(bytes.len() / element.size());
        element.decode(&bytes, &mut data);
        Ok(HostTensor {
            shape: info.shape.clone(),
            data,
        })
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

/// A model whose tensors are spread over several safetensors files, as `model.safetensors.index.json` lists them.
#[derive(Debug)]
pub struct ShardedSafeTensors {
    index: PathBuf,
    shards: Vec<SafeTensors>,
    /// Tensor → position in `shards`.
    place: BTreeMap<String, usize>,
}

impl ShardedSafeTensors {
    /// Opens an index and all files that it names; they must lie beside it.
    ///
    /// # Errors
    /// [`WeightsError`] if the index is damaged, leads out of its folder, or a shard lacks a tensor that the index
    /// promises.
    pub fn open(index: &Path) -> Result<Self, WeightsError> {
        let place = read_index(index)?;
        let folder = index.parent().unwrap_or(Path::new(""));
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        let mut shards = Vec::new();
        for (tensor, file) in &place {
            let number = match numbers.get(file.as_str()) {
                Some(&number) => number,
                None => {
                    if shards.len() == MAX_SHARDS {
                        return Err(WeightsError::Limit {
                            path: index.to_owned(),
                            place: "the number of shards".into(),
                            value: MAX_SHARDS as u64 + 1,
                            limit: MAX_SHARDS as u64,
                        });
                    }
                    shards.push(SafeTensors::open(&folder.join(file))?);
                    numbers.insert(file, shards.len() - 1);
                    shards.len() - 1
                }
            };
            if !shards[number].tensors.contains_key(tensor) {
                return Err(WeightsError::malformed(
                    index,
                    format!("tensor \"{tensor}\""),
                    format!("the index says that it is in {file}, which does not have it"),
                ));
            }
        }
        let place = place
            .iter()
            .map(|(tensor, file)| (tensor.clone(), numbers[file.as_str()]))
            .collect();
        Ok(Self {
            index: index.to_owned(),
            shards,
            place,
        })
    }
}

/// The files that an index names, without opening them: tensor → file name.
pub(super) fn read_index(index: &Path) -> Result<BTreeMap<String, String>, WeightsError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let file = DataFile::open(index)?;
    if file.len() > MAX_INDEX {
        return Err(WeightsError::Limit {
            path: index.to_owned(),
            place: "the size of the index".into(),
            value: file.len(),
            limit: MAX_INDEX,
        });
    }
    let text = file.read(0, file.len(), "the index")?;
    let parsed: Index = serde_json::from_slice(&text)
        .map_err(|e| WeightsError::malformed(index, "the index of shards", e.to_string()))?;
    for (tensor, name) in &parsed.weight_map {
        // a name like "../../x" would read files that do not belong to the model
        let mut parts = Path::new(name).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(WeightsError::malformed(
                index,
                format!("tensor \"{tensor}\""),
                format!("its file \"{name}\" is not in the folder of the index"),
            ));
        }
    }
    Ok(parsed.weight_map)
}

impl TensorSource for ShardedSafeTensors {
    fn names(&self) -> Vec<String> {
        self.place.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.place.get(name).and_then(|&shard| self.shards[shard].shape(name))
    }

    fn load(&self, name: &str) -> Result<HostTensor, WeightsError> {
        match self.place.get(name) {
            Some(&shard) => self.shards[shard].load(name),
            None => Err(WeightsError::missing(
                &self.index,
                name,
                self.place.keys().map(String::as_str),
            )),
        }
    }

    fn path(&self) -> &Path {
        &self.index
    }
}

#[cfg(test)]
mod tests;
