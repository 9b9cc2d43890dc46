//! Picks the reader of a file by its content, never by its name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::file::DataFile;
use super::gguf::Gguf;
use super::safetensors::SafeTensors;
use super::sharded::{Sharded, read_index};
use super::torch::Torch;
use super::unwrap::unwrap;
use super::{TensorSource, WeightsError};

/// The names that a model's weights have in published folders, the better ones first.
const KNOWN: [&str; 6] = [
    "model.safetensors",
    "open_clip_model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// Opens a file of weights, or a folder that holds one model.
///
/// A folder is searched for `model.safetensors`, `open_clip_model.safetensors`, `pytorch_model.bin`, `open_clip_pytorch_model.bin` and
/// the indices of shards, safetensors first, and then for the only `.safetensors`, `.gguf`, `.pth`, `.pt` or `.bin` file in it. What training
/// programs wrap around the weights in a file of `torch.save` (`state_dict`, `module.`) is taken off.
///
/// # Errors
/// [`WeightsError::NotRecognised`] says what the file looks like; otherwise as the readers of the formats.
pub fn open(path: &Path) -> Result<Box<dyn TensorSource>, WeightsError> {
    let path = locate(path)?;
    if is_index(&path) {
        return Ok(Box::new(Sharded::open(&path)?));
    }
    single(&path)
}

/// As [`open`], for one file.
pub(super) fn single(path: &Path) -> Result<Box<dyn TensorSource>, WeightsError> {
    one(path, unwrap)
}

/// As [`open`] of a model in one file, with the names as they are stored: for who knows better what is wrapped how.
pub(crate) fn open_stored(path: &Path) -> Result<Box<dyn TensorSource>, WeightsError> {
    one(&locate(path)?, |torch| torch)
}

fn one(
    path: &Path,
    unwrap: impl FnOnce(Box<dyn TensorSource>) -> Box<dyn TensorSource>,
) -> Result<Box<dyn TensorSource>, WeightsError> {
    let file = DataFile::open(path)?;
    let head = file.head(512)?;
    if head.starts_with(b"GGUF") {
        return Ok(Box::new(Gguf::read(file)?));
    }
    if Torch::recognises(&head) {
        return Ok(unwrap(Box::new(Torch::read(file)?)));
    }
    if is_safetensors(&head, file.len()) {
        return Ok(Box::new(SafeTensors::read(file)?));
    }
    Err(WeightsError::NotRecognised {
        path: path.to_owned(),
        looks_like: describe(&head),
    })
}

/// All files that hold the weights of a model.
///
/// # Errors
/// As [`open`]; of shards only the index is read.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, WeightsError> {
    let path = locate(path)?;
    if !is_index(&path) {
        return Ok(vec![path]);
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let shards: BTreeSet<String> = read_index(&path)?.into_values().collect();
    Ok(shards.into_iter().map(|shard| folder.join(shard)).collect())
}

pub(super) fn is_index(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().ends_with(".index.json"))
}

/// The file that `path` is, or that the folder `path` holds.
pub(super) fn locate(path: &Path) -> Result<PathBuf, WeightsError> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    for name in KNOWN {
        let file = path.join(name);
        if file.is_file() {
            return Ok(file);
        }
    }
    let mut files = BTreeSet::new();
    for entry in path.read_dir().map_err(|e| WeightsError::io(path, e))? {
        files.insert(entry.map_err(|e| WeightsError::io(path, e))?.path());
    }
    for extensions in [&["safetensors"][..], &["gguf"], &["pth", "pt", "bin"]] {
        let fits = |f: &&PathBuf| {
            f.extension()
                .is_some_and(|e| extensions.iter().any(|x| e.eq_ignore_ascii_case(x)))
        };
        let found: Vec<&PathBuf> = files.iter().filter(fits).collect();
        match found.as_slice() {
            [] => {}
            [one] => return Ok((*one).clone()),
            several => {
                let names: Vec<_> = several
                    .iter()
                    .filter_map(|f| f.file_name())
                    .map(|n| n.to_string_lossy())
                    .collect();
                return Err(WeightsError::NotRecognised {
                    path: path.to_owned(),
                    looks_like: format!("a folder of several models ({}); name one of them", names.join(", ")),
                });
            }
        }
    }
    Err(WeightsError::NotRecognised {
        path: path.to_owned(),
        looks_like: "a folder without weights".into(),
    })
}

/// safetensors has no magic number: eight bytes of length that fit the file, then a JSON object.
fn is_safetensors(head: &[u8], len: u64) -> bool {
    match head.split_first_chunk::<8>() {
        Some((header, rest)) => rest.first() == Some(&b'{') && u64::from_le_bytes(*header) <= len - 8,
        None => false,
    }
}

/// What a file that is none of ours looks like, for the message.
fn describe(head: &[u8]) -> String {
    let starts = |magic: &[u8]| head.starts_with(magic);
    let text = String::from_utf8_lossy(head);
    let lower = text.trim_start().to_ascii_lowercase();
    let known = if head.is_empty() {
        "an empty file; fetch it again"
    } else if starts(b"version https://git-lfs") {
        "a Git LFS pointer, not the file itself; run `git lfs pull`"
    } else if head.get(257..262) == Some(b"ustar") {
        "a tar archive; unpack it first"
    } else if starts(b"\x1f\x8b") || starts(b"\xfd7zXZ") || starts(b"BZh") || starts(b"\x28\xb5\x2f\xfd") {
        "a compressed file; unpack it first"
    } else if starts(b"\x89HDF") {
        "an HDF5 file (Keras)"
    } else if starts(b"\x93NUMPY") {
        "a NumPy array"
    } else if head.get(4..8) == Some(b"TFL3") {
        "a TensorFlow Lite model"
    } else if starts(b"GGML") || starts(b"tjgg") || starts(b"fmgg") || starts(b"lmgg") {
        "a file of llama.cpp from before GGUF; convert the model anew"
    } else if lower.starts_with("<!doctype") || lower.starts_with("<html") || lower.starts_with("<?xml") {
        "a web page: the download failed, perhaps for want of a log-in"
    } else if starts(b"\x80") && head.get(1).is_some_and(|v| *v <= 5) {
        "a bare Python pickle, not a file of torch.save"
    } else if lower.starts_with('{') || lower.starts_with('[') {
        "a JSON text"
    } else {
        ""
    };
    if !known.is_empty() {
        return known.into();
    }
    let printable = head
        .iter()
        .filter(|b| (b' '..=b'~').contains(b) || b.is_ascii_whitespace())
        .count();
    if printable == head.len() {
        let first: String = text.chars().take(40).collect();
        return format!("a text that begins with {first:?}");
    }
    let hex: Vec<String> = head.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("unknown binary data (it begins with {})", hex.join(" "))
}

#[cfg(test)]
mod tests;
