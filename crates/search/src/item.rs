//! What a store holds about one picture (or text).

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::query::combine;
use crate::store::{to_bytes, unit};

/// What the user knows about an item: any JSON object.
pub type Metadata = serde_json::Map<String, serde_json::Value>;

/// Bytes of a key; the longest path of common systems.
pub(crate) const MAX_KEY: usize = 4096;
/// Bytes of the metadata as JSON.
const MAX_METADATA: usize = 256 * 1024;
/// Bytes of a thumbnail.
const MAX_THUMBNAIL: usize = 1024 * 1024;
/// Vectors of one item.
const MAX_VECTORS: usize = 4096;

/// BLAKE3 of a file's content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// The hash of bytes in memory.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The hash of a file, read in pieces.
    ///
    /// # Errors
    /// A file that cannot be opened or read.
    pub fn of_file(path: &Path) -> Result<Self, StoreError> {
        let fail = |action| {
            move |source| StoreError::Io {
                path: path.to_owned(),
                action,
                source,
            }
        };
        let mut file = std::fs::File::open(path).map_err(fail("cannot be opened"))?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0u8; 64 * 1024];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(Self(*hasher.finalize().as_bytes())),
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(fail("cannot be read")(e)),
            }
        }
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

impl FromStr for ContentHash {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let invalid = |_| StoreError::Invalid {
            what: "the content hash".to_owned(),
            why: "must have 64 hexadecimal digits",
        };
        blake3::Hash::from_hex(text)
            .map(|h| Self(*h.as_bytes()))
            .map_err(invalid)
    }
}

impl Serialize for ContentHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What is known of a file without decoding it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// The item's key: its path, or whatever names it.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970 (negative before).
    pub modified_ns: i64,
    /// Hash of the content.
    pub hash: ContentHash,
}

/// An item without its vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Key and file.
    pub file: FileFacts,
    /// Any JSON object.
    #[serde(default)]
    pub metadata: Metadata,
    /// A small JPEG for display.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thumbnail: Option<Vec<u8>>,
}

/// An item with its embeddings.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The item.
    pub item: Item,
    /// One embedding, or one for each part of the item (the tiles of a picture, the chunks of a long text), each `[dim]`. A search finds
    /// the item by the one that fits best. The store normalises them and keeps them as f16.
    pub vectors: Vec<Vec<f32>>,
}

impl Entry {
    /// An item with one embedding.
    pub fn new(item: Item, vector: Vec<f32>) -> Self {
        Self {
            item,
            vectors: vec![vector],
        }
    }

    /// What the item looks like as a whole: the direction of all its embeddings, `[dim]`.
    ///
    /// # Errors
    /// Embeddings of another width or without direction, and such that cancel out.
    pub fn direction(&self, dim: usize) -> Result<Vec<f32>, StoreError> {
        // One is taken as it is stored, without being rounded again.
        if let [vector] = &self.vectors[..] {
            return unit(vector, dim, || self.item.file.key.clone());
        }
        let parts: Vec<_> = self.vectors.iter().map(|vector| (1.0, vector)).collect();
        combine(&parts, dim)
    }

    /// Metadata as JSON and vectors as the bytes that are stored, after all limits were checked.
    ///
    /// # Errors
    /// Those of [`Item::check`], and vectors that are too many, of another width, or without direction.
    pub(crate) fn check(&self, dim: usize) -> Result<(String, Vec<u8>), StoreError> {
        let metadata = self.item.check()?;
        if !(1..=MAX_VECTORS).contains(&self.vectors.len()) {
            return Err(StoreError::Invalid {
                what: format!("the item {} with {} vectors", self.item.file.key, self.vectors.len()),
                why: "cannot be stored: 1 to 4096 vectors are needed",
            });
        }
        let mut bytes = Vec::with_capacity(self.vectors.len() * dim * 2);
        for vector in &self.vectors {
            bytes.extend(to_bytes(&unit(vector, dim, || self.item.file.key.clone())?));
        }
        Ok((metadata, bytes))
    }
}

impl Item {
    /// The metadata as JSON, after all limits were checked.
    ///
    /// # Errors
    /// An empty key, one with a NUL, a size beyond 2⁶³, and key, metadata or thumbnail beyond their limits.
    pub fn check(&self) -> Result<String, StoreError> {
        let key = &self.file.key;
        if key.is_empty() || key.contains('\0') {
            return Err(StoreError::Invalid {
                what: format!("the key {key:?}"),
                why: "must not be empty and must not hold NUL",
            });
        }
        if i64::try_from(self.file.size).is_err() {
            return Err(StoreError::Invalid {
                what: format!("the size of {key}"),
                why: "must be below 2^63 bytes",
            });
        }
        limit(key, "key", key.len(), MAX_KEY)?;
        limit(
            key,
            "thumbnail",
            self.thumbnail.as_ref().map_or(0, Vec::len),
            MAX_THUMBNAIL,
        )?;
        metadata_json(key, &self.metadata)
    }
}

/// The metadata of an item as JSON, after its limit was checked.
pub(crate) fn metadata_json(key: &str, metadata: &Metadata) -> Result<String, StoreError> {
    let json = serde_json::to_string(metadata).map_err(|_| StoreError::Invalid {
        what: format!("the metadata of {key}"),
        why: "cannot be written as JSON",
    })?;
    limit(key, "metadata", json.len(), MAX_METADATA)?;
    Ok(json)
}

fn limit(key: &str, what: &str, found: usize, limit: usize) -> Result<(), StoreError> {
    if found <= limit {
        return Ok(());
    }
    let key: String = key.chars().take(80).collect();
    Err(StoreError::TooLarge {
        what: format!("the {what} of {key}"),
        found,
        limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_that_of_the_content_and_reads_back() {
        // BLAKE3 of the empty input, from its published test vectors.
        let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(ContentHash::of_bytes(b"").to_string(), empty);
        assert_eq!(empty.parse::<ContentHash>().unwrap(), ContentHash::of_bytes(b""));
        assert!("af13".parse::<ContentHash>().is_err());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let content = vec![7u8; 200_000];
        std::fs::write(&path, &content).unwrap();
        assert_eq!(ContentHash::of_file(&path).unwrap(), ContentHash::of_bytes(&content));
        assert!(matches!(
            ContentHash::of_file(&dir.path().join("none")),
            Err(StoreError::Io { .. })
        ));
    }

    #[test]
    fn limits_are_checked_and_the_message_stays_short() {
        let item = |key: &str| Item {
            file: FileFacts {
                key: key.to_owned(),
                size: 1,
                modified_ns: 0,
                hash: ContentHash([0; 32]),
            },
            metadata: Metadata::new(),
            thumbnail: None,
        };
        assert_eq!(item("a").check().unwrap(), "{}");
        assert!(matches!(item("").check(), Err(StoreError::Invalid { .. })));
        assert!(matches!(item("a\0b").check(), Err(StoreError::Invalid { .. })));
        let long = item(&"x".repeat(MAX_KEY + 1)).check().unwrap_err().to_string();
        assert!(long.len() < 200, "{long}");
        let mut big = item("a");
        big.thumbnail = Some(vec![0; MAX_THUMBNAIL + 1]);
        assert!(matches!(big.check(), Err(StoreError::TooLarge { .. })));
        let mut big = item("a");
        big.metadata.insert("a".into(), "x".repeat(MAX_METADATA).into());
        assert!(matches!(big.check(), Err(StoreError::TooLarge { .. })));
        let mut big = item("a");
        big.file.size = u64::MAX;
        assert!(matches!(big.check(), Err(StoreError::Invalid { .. })));
    }
}
