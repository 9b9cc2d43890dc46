//! What a store holds about one picture (or text).

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::StoreError;

/// What the user knows about an item: any JSON object.
pub type Metadata = serde_json::Map<String, serde_json::Value>;

/// Bytes of a key; the longest path of common systems.
const MAX_KEY: usize = 4096;
/// Bytes of the metadata as JSON.
const MAX_METADATA: usize = 256 * 1024;
/// Bytes of a thumbnail.
const MAX_THUMBNAIL: usize = 1024 * 1024;

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

/// An item with its embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The item.
    pub item: Item,
    /// Its embedding; the store normalises it and keeps it as f16.
    pub vector: Vec<f32>,
}

impl Item {
    /// The metadata as JSON, after all limits were checked.
    ///
    /// # Errors
    /// An empty key, one with a NUL, a size beyond 2⁶³, and key, metadata or thumbnail beyond their limits.
    pub(crate) fn check(&self) -> Result<String, StoreError> {
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
        let metadata = serde_json::to_string(&self.metadata).map_err(|_| StoreError::Invalid {
            what: format!("the metadata of {key}"),
            why: "cannot be written as JSON",
        })?;
        let limit = |what: &str, found: usize, limit: usize| {
            if found <= limit {
                return Ok(());
            }
            let key: String = key.chars().take(80).collect();
            Err(StoreError::TooLarge {
                what: format!("the {what} of {key}"),
                found,
                limit,
            })
        };
        limit("key", key.len(), MAX_KEY)?;
        limit("metadata", metadata.len(), MAX_METADATA)?;
        limit("thumbnail", self.thumbnail.as_ref().map_or(0, Vec::len), MAX_THUMBNAIL)?;
        Ok(metadata)
    }
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
