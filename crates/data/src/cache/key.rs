//! What features are features of: the item by its content, the tower and its settings by a list of facts.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::decode::{DecodeError, Limits};
use crate::source::ImageSource;

/// Precision of stored features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// Half precision: relative error 2⁻¹¹, largest value 65504.
    F16,
    /// As computed.
    F32,
}

/// An item by its content: BLAKE3 of the bytes of an image file, or of the exact text in UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemKey(pub(super) [u8; 32]);

impl ItemKey {
    /// Key of the bytes of a file that has been read already.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Key of a text.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        Self::of_bytes(text.as_bytes())
    }

    /// Key of a file, which is read once through.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(std::fs::File::open(path)?)?;
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// Keys of many pictures by the bytes of their files, wherever those are, in their order, read on all threads.
    pub fn of_images<S: Borrow<ImageSource> + Sync>(images: &[S], limits: &Limits) -> Vec<Result<Self, DecodeError>> {
        images.par_iter().map(|image| image.borrow().key(limits)).collect()
    }

    /// The hash itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        blake3::Hash::from_bytes(self.0).to_hex().fmt(f)
    }
}

impl fmt::Debug for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ItemKey({:.12})", self.to_string())
    }
}

/// Everything that decides the value of a feature besides the item: the fingerprint of the tower's weights, preprocessing or tokenizer,
/// pooling, attention, prompt, normalisation. Two towers share features exactly when all facts are equal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FeatureSpec {
    facts: BTreeMap<String, String>,
}

impl FeatureSpec {
    /// No facts yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a fact, for example `("pooling", "mean")`; the last value of a name counts.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.facts.insert(name.into(), value.into());
        self
    }

    /// The facts by name.
    #[must_use]
    pub fn facts(&self) -> &BTreeMap<String, String> {
        &self.facts
    }
}

/// What `spec.json` in a store's folder says, for people and as a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Description {
    /// Version of the layout of the folder.
    pub format: u32,
    pub dim: usize,
    pub dtype: Dtype,
    pub features: FeatureSpec,
}

impl Description {
    /// Name of the folder: 128 bits of BLAKE3 over the facts, each with its length, so that no two lists read the same.
    pub fn folder(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("bifocal-data feature store v1");
        let mut put = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        put(&self.format.to_le_bytes());
        put(&(self.dim as u64).to_le_bytes());
        put(format!("{:?}", self.dtype).as_bytes());
        for (name, value) in self.features.facts() {
            put(name.as_bytes());
            put(value.as_bytes());
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }
}
