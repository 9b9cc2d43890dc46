//! The layout that `torch.save` wrote before PyTorch 1.6 (and still writes on request): five pickles, then raw storages.
//!
//! 1. a magic number, 2. the protocol version (1001), 3. facts about the system, 4. the object, with references to storages by key,
//! 5. the list of storage keys; then for each key, in this order, the number of elements as i64 and the elements.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::elements::Element;
use super::file::{DataFile, Scan};
use super::pickle::{self, Heap, Object, Value};
use super::{HostTensor, TensorSource, WeightsError};

/// The first pickle: protocol 2, a number of ten bytes (0x1950a86a20f9469cfc6c), stop.
pub(super) const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// The version that all files of this layout carry.
const PROTOCOL: i128 = 1001;
/// The longest pickle accepted; that of a network of a thousand tensors takes 200 kB.
const MAX_PICKLE: u64 = 64 << 20;
/// How deep dictionaries and lists may nest.
const MAX_DEPTH: usize = 8;
/// How many entries a walk through them may meet; shared parts count each time that they are met.
const MAX_VISITS: usize = 1 << 17;
/// The longest key of a dictionary.
const MAX_KEY: usize = 512;

/// An open file of the old `torch.save` layout.
///
/// Tensors in nested dictionaries and lists have names joined by dots: `{"state_dict": {"fc.weight": …}}` gives
/// `state_dict.fc.weight`. A file that is a single tensor calls it `tensor`.
#[derive(Debug)]
pub struct LegacyPth {
    file: DataFile,
    tensors: BTreeMap<String, TensorInfo>,
}

/// A tensor: a strided view of elements in the file.
#[derive(Debug, Clone)]
struct TensorInfo {
    element: Element,
    /// Position in the file of the tensor's first element.
    start: u64,
    shape: Vec<usize>,
    strides: Vec<u64>,
    /// The number of elements from its first to its last one in the storage.
    span: u64,
}

impl LegacyPth {
    /// Opens a file and checks that every tensor lies within it. Nothing in the file is executed.
    ///
    /// # Errors
    /// [`WeightsError`] if the file cannot be read, is damaged, or holds anything but tensors, dictionaries, lists, tuples,
    /// numbers and texts.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        Self::read(DataFile::open(path)?)
    }

    /// As [`LegacyPth::open`], for bytes in memory; `path` is what messages call them.
    ///
    /// # Errors
    /// As [`LegacyPth::open`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, WeightsError> {
        Self::read(DataFile::from_bytes(path, bytes))
    }

    pub(super) fn read(file: DataFile) -> Result<Self, WeightsError> {
        let mut scan = file.scan(0, MAX_PICKLE);
        let magic: [u8; MAGIC.len()] = scan.array()?;
        if magic != MAGIC {
            return Err(scan.malformed("it does not begin with the magic number of torch.save"));
        }
        let version = pickle::run(&mut scan)?.root;
        if version != Value::Int(PROTOCOL) {
            return Err(scan.malformed("its protocol version is not 1001"));
        }
        check_system(&pickle::run(&mut scan)?, &scan)?;
        let heap = pickle::run(&mut scan)?;
        let keys = pickle::run(&mut scan)?;
        let places = storages(&file, &heap, &keys, scan.position())?;
        let tensors = Walk {
            file: &file,
            heap: &heap,
            places: &places,
            visits: 0,
            found: BTreeMap::new(),
        }
        .all()?;
        Ok(Self { file, tensors })
    }
}

/// Refuses files of big-endian machines.
fn check_system(heap: &Heap, scan: &Scan<'_>) -> Result<(), WeightsError> {
    let Some(Object::Dict(facts)) = heap.object(heap.root) else {
        return Err(scan.malformed("its third pickle is no dictionary of facts about the system"));
    };
    let big = facts
        .iter()
        .any(|(k, v)| heap.text(*k) == Some("little_endian") && *v == Value::Bool(false));
    if big {
        return Err(WeightsError::unsupported(
            scan.path(),
            "a file of big-endian numbers",
            "save it again on a little-endian machine",
        ));
    }
    Ok(())
}

/// Where the storages are: key → position of the first element and number of elements.
fn storages(
    file: &DataFile,
    heap: &Heap,
    keys: &Heap,
    mut position: u64,
) -> Result<HashMap<String, (u64, u64)>, WeightsError> {
    let fault = |key: &str, detail: String| WeightsError::malformed(file.path(), format!("storage \"{key}\""), detail);
    let Some(Object::List(list)) = keys.object(keys.root) else {
        return Err(WeightsError::malformed(
            file.path(),
            "its fifth pickle",
            "it is no list of storage keys",
        ));
    };
    let mut sizes: HashMap<&str, Element> = HashMap::new();
    for storage in heap.storages() {
        if *sizes.entry(&storage.key).or_insert(storage.element) != storage.element {
            return Err(fault(&storage.key, "its elements are of two different types".into()));
        }
    }
    let mut places = HashMap::new();
    for &key in list {
        let Some(key) = keys.text(key) else {
            return Err(WeightsError::malformed(
                file.path(),
                "its list of storage keys",
                "a key is no text",
            ));
        };
        let Some(element) = sizes.get(key) else {
            return Err(fault(
                key,
                "no tensor refers to it, so the type of its elements is unknown".into(),
            ));
        };
        let head = file.read(position, 8, &format!("storage \"{key}\""))?;
        let len = head.try_into().map(u64::from_le_bytes).unwrap_or(u64::MAX);
        let start = position + 8;
        let end = len
            .checked_mul(element.size() as u64)
            .and_then(|bytes| start.checked_add(bytes));
        match end {
            Some(end) if end <= file.len() => position = end,
            _ => {
                return Err(fault(key, format!("its {len} elements go beyond the end of the file")));
            }
        }
        places.insert(key.to_owned(), (start, len));
    }
    Ok(places)
}

/// Collects the tensors of an object and of all that it contains.
struct Walk<'a> {
    file: &'a DataFile,
    heap: &'a Heap,
    places: &'a HashMap<String, (u64, u64)>,
    visits: usize,
    found: BTreeMap<String, TensorInfo>,
}

impl Walk<'_> {
    fn all(mut self) -> Result<BTreeMap<String, TensorInfo>, WeightsError> {
        self.visit("", self.heap.root, 0)?;
        Ok(self.found)
    }

    fn limit(&self, place: &str, value: usize, limit: usize) -> WeightsError {
        let path = self.file.path().to_owned();
        WeightsError::Limit {
            path,
            place: place.into(),
            value: value as u64,
            limit: limit as u64,
        }
    }

    fn visit(&mut self, name: &str, value: Value, depth: usize) -> Result<(), WeightsError> {
        self.visits += 1;
        if self.visits > MAX_VISITS {
            return Err(self.limit("the number of entries in its dictionaries", self.visits, MAX_VISITS));
        }
        if depth > MAX_DEPTH {
            return Err(self.limit("the depth of its nested dictionaries", depth, MAX_DEPTH));
        }
        let join = |part: &str| {
            if name.is_empty() {
                part.to_owned()
            } else {
                format!("{name}.{part}")
            }
        };
        match self.heap.object(value) {
            Some(Object::Tensor(tensor)) => {
                let name = if name.is_empty() { "tensor" } else { name };
                let info = self.resolve(name, tensor)?;
                self.found.insert(name.to_owned(), info);
            }
            Some(Object::Dict(entries)) => {
                for &(key, value) in entries {
                    match (self.heap.text(key), key) {
                        (Some(key), _) if key.len() > MAX_KEY => {
                            return Err(self.limit("the length of a name", key.len(), MAX_KEY));
                        }
                        (Some(key), _) => self.visit(&join(key), value, depth + 1)?,
                        (None, Value::Int(key)) => self.visit(&join(&key.to_string()), value, depth + 1)?,
                        // nothing that is called otherwise can be asked for by name
                        _ => {}
                    }
                }
            }
            Some(Object::List(items) | Object::Tuple(items)) => {
                for (i, &item) in items.iter().enumerate() {
                    self.visit(&join(&i.to_string()), item, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks that a tensor lies within its storage.
    fn resolve(&self, name: &str, tensor: &pickle::Tensor) -> Result<TensorInfo, WeightsError> {
        let fault = |detail: &str| WeightsError::malformed(self.file.path(), format!("tensor \"{name}\""), detail);
        let storage = self.heap.storage(tensor).ok_or_else(|| fault("it has no storage"))?;
        let &(start, len) = self
            .places
            .get(&storage.key)
            .ok_or_else(|| fault("its storage is not in the file"))?;
        if storage.len != len {
            return Err(fault("the length of its storage is given in two different ways"));
        }
        let too_large = || fault("it goes beyond the end of its storage");
        let elements = tensor
            .shape
            .iter()
            .try_fold(1u64, |product, &size| product.checked_mul(size.max(1)))
            .ok_or_else(too_large)?;
        // a tensor that repeats its elements (stride 0) could be far larger than the file
        let empty = tensor.shape.contains(&0);
        if !empty && elements > len {
            return Err(fault("it has more elements than its storage"));
        }
        let span = if empty {
            0
        } else {
            let last = tensor
                .shape
                .iter()
                .zip(&tensor.strides)
                .try_fold(0u64, |sum, (&size, &stride)| {
                    stride.checked_mul(size - 1).and_then(|reach| sum.checked_add(reach))
                });
            last.and_then(|last| last.checked_add(1)).ok_or_else(too_large)?
        };
        if tensor.offset.checked_add(span).is_none_or(|end| end > len) {
            return Err(too_large());
        }
        Ok(TensorInfo {
            element: storage.element,
            // within the storage, hence within the file
            start: start + tensor.offset * storage.element.size() as u64,
            shape: tensor.shape.iter().map(|&size| size as usize).collect(),
            // the stride of an axis of one element says nothing and may be any number
            strides: tensor
                .shape
                .iter()
                .zip(&tensor.strides)
                .map(|(&n, &s)| if n > 1 { s } else { 0 })
                .collect(),
            span,
        })
    }
}

impl TensorInfo {
    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size <= 1 || stride == expected;
            expected *= size as u64;
            fits
        })
    }

    /// Brings the elements of a strided view into row-major order.
    fn gather(&self, values: &[f32]) -> Vec<f32> {
        let count = self.shape.iter().product();
        let mut out = Vec::with_capacity(count);
        let mut index = vec![0; self.shape.len()];
        let mut at = 0;
        while out.len() < count {
            // `at` never exceeds the span, which is the length of `values`
            out.push(values[at as usize]);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                at += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                at -= self.strides[axis] * self.shape[axis] as u64;
                index[axis] = 0;
            }
        }
        out
    }
}

impl TensorSource for LegacyPth {
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

    fn path(&self) -> &Path {
        self.file.path()
    }
}

#[cfg(test)]
mod tests;
