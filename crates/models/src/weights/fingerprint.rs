//! The fingerprint of weights: a hash of all their bytes.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::WeightsError;
use super::open::{is_index, locate};
use super::sharded::read_index;

/// The BLAKE3 hash (hexadecimal) of a file's content; of a model in several files, the hash of their names and hashes in
/// order of names.
///
/// # Errors
/// [`WeightsError::Io`] if something cannot be read; for a folder also as [`open`](super::open()).
pub fn fingerprint(path: &Path) -> Result<String, WeightsError> {
    let path = locate(path)?;
    if !is_index(&path) {
        return Ok(hash(&path)?.to_hex().to_string());
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let shards: BTreeSet<String> = read_index(&path)?.into_values().collect();
    let mut whole = blake3::Hasher::new();
    for shard in shards {
        whole.update(blake3::hash(shard.as_bytes()).as_bytes());
        whole.update(hash(&folder.join(&shard))?.as_bytes());
    }
    Ok(whole.finalize().to_hex().to_string())
}

/// How long a file must have been left alone before its hash is kept: clocks of file systems tick some hundred times a second, and two writes within one tick look
/// like one.
const SETTLED: Duration = Duration::from_secs(2);

/// A file as it was: path, length, time of the last change.
type Version = (PathBuf, u64, SystemTime);

/// A hash, or who computes it.
type Slot = Arc<Mutex<Option<blake3::Hash>>>;

/// Hashes that this process has computed, or is about to: both towers of a pair ask for that of the same file, at the same time.
static KNOWN: LazyLock<Mutex<HashMap<Version, Slot>>> = LazyLock::new(Mutex::default);

fn hash(path: &Path) -> Result<blake3::Hash, WeightsError> {
    let about = fs::metadata(path).map_err(|e| WeightsError::io(path, e))?;
    let settled = |time: &SystemTime| time.elapsed().is_ok_and(|age| age > SETTLED);
    let Some(changed) = about.modified().ok().filter(settled) else {
        return read(path);
    };
    let slot = {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry((path.to_owned(), about.len(), changed)).or_default())
    };
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    match *slot {
        Some(hash) => Ok(hash),
        None => Ok(*slot.insert(read(path)?)),
    }
}

fn read(path: &Path) -> Result<blake3::Hash, WeightsError> {
    let io = |e| WeightsError::io(path, e);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).map_err(io)?).map_err(io)?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_has_another_hash_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let long_ago = SystemTime::now() - Duration::from_secs(60);
        let write = |content: &[u8], time| {
            fs::write(&path, content).unwrap();
            File::open(&path).unwrap().set_modified(time).unwrap();
        };
        write(b"one", long_ago);
        for _ in 0..2 {
            assert_eq!(hash(&path).unwrap(), blake3::hash(b"one"));
        }
        // as long, written at another time
        write(b"two", long_ago + Duration::from_nanos(1_000_000));
        assert_eq!(hash(&path).unwrap(), blake3::hash(b"two"));
        // as long, written just now, twice within a tick
        let now = SystemTime::now();
        for content in [b"six", b"ten"] {
            write(content, now);
            assert_eq!(hash(&path).unwrap(), blake3::hash(content));
        }
        fs::remove_file(&path).unwrap();
        assert!(hash(&path).is_err());
    }
}
