//! The layout before PyTorch 1.6 (and still on request): five pickles, then raw storages.
//!
//! 1. a magic number, 2. the protocol version (1001), 3. facts about the system, 4. the object, with references to storages by key,
//! 5. the list of storage keys; then for each key, in this order, the number of elements as i64 and the elements.

use std::collections::HashMap;

use super::pickle::{self, Heap, Object, Value};
use super::{MAX_PICKLE, Places};
use crate::weights::WeightsError;
use crate::weights::file::{DataFile, Scan};
use bifocal_kernels::elements::Element;

/// The first pickle: protocol 2, a number of ten bytes (0x1950a86a20f9469cfc6c), stop.
pub(super) const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// The version that all files of this layout carry.
const PROTOCOL: i128 = 1001;

/// The object, and where its storages are.
pub(super) fn read(file: &DataFile) -> Result<(Heap, Places), WeightsError> {
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
    let places = storages(file, &heap, &keys, scan.position())?;
    Ok((heap, places))
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
fn storages(file: &DataFile, heap: &Heap, keys: &Heap, mut position: u64) -> Result<Places, WeightsError> {
    let fault = |key: &str, detail: String| WeightsError::malformed(file.path(), format!("storage \"{key}\""), detail);
    let Some(Object::List(list)) = keys.object(keys.root) else {
        return Err(WeightsError::malformed(
            file.path(),
            "its fifth pickle",
            "it is no list of storage keys",
        ));
    };
    let sizes: HashMap<&str, Element> = element_types(file, heap)?;
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

/// The type of each storage's elements.
pub(super) fn element_types<'a>(file: &DataFile, heap: &'a Heap) -> Result<HashMap<&'a str, Element>, WeightsError> {
    let mut types = HashMap::new();
    for storage in heap.storages() {
        if *types.entry(storage.key.as_str()).or_insert(storage.element) != storage.element {
            return Err(WeightsError::malformed(
                file.path(),
                format!("storage \"{}\"", storage.key),
                "its elements are of two different types",
            ));
        }
    }
    Ok(types)
}
