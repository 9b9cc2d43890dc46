//! What every store does, whatever keeps its data.

use half::f16;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::failure::Failure;
use crate::filter::Filter;
use crate::item::{Entry, FileFacts, Item, Metadata};
use crate::scores::ScoreStats;

/// The model whose embeddings a store holds. Two stores fit together when fingerprint and dimensions are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelId {
    /// Hash of everything that determines an embedding: weights, preprocessing, pooling.
    pub fingerprint: String,
    /// Width of an embedding.
    pub dim: usize,
    /// How the user calls it; only shown, never compared.
    pub name: String,
}

impl ModelId {
    /// Whether embeddings of both can be compared.
    pub fn fits(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && self.dim == other.dim
    }
}

/// What to search for, apart from the vector.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchOptions {
    /// At most this many hits.
    pub k: usize,
    /// Only hits with at least this cosine.
    pub min_score: Option<f32>,
    /// Only items that satisfy it.
    pub filter: Option<Filter>,
    /// Keys of items that are left out: of "more like this", the item itself.
    pub without: Vec<String>,
    /// Look at all items that satisfy the filter, also where an index would find nearly the same sooner.
    pub exact: bool,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self {
            k: 10,
            min_score: None,
            filter: None,
            without: Vec::new(),
            exact: false,
        }
    }
}

/// Which items to list: a page of them, in the order of their keys.
#[derive(Debug, Clone, PartialEq)]
pub struct ListOptions {
    /// Only keys behind this one: the last key of the page before.
    pub after: Option<String>,
    /// At most this many.
    pub limit: usize,
    /// Only items that satisfy it.
    pub filter: Option<Filter>,
}

impl Default for ListOptions {
    fn default() -> Self {
        Self {
            after: None,
            limit: 100,
            filter: None,
        }
    }
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// The hits, best first.
    pub hits: Vec<Hit>,
    /// How many items there are that satisfy the filter, whatever their score.
    pub matched: u64,
    /// The scores of all these items, or of a sample of them (its `count` tells): what is typical. `None`: the store has not looked.
    pub scores: Option<ScoreStats>,
}

/// One result of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// The item's key.
    pub key: String,
    /// Cosine of query and item, f16 precision of the stored vector; of several vectors, of the best.
    pub score: f32,
    /// Which of the item's vectors that is.
    pub part: usize,
    /// Bytes of the file.
    pub size: u64,
    /// Modification time, nanoseconds since 1970 (negative before).
    pub modified_ns: i64,
    /// The item's metadata.
    pub metadata: Metadata,
}

/// What a store holds, in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Items.
    pub items: u64,
    /// Model of the embeddings.
    pub model: ModelId,
    /// Bytes on disk, with what is written but not yet merged.
    pub disk_bytes: u64,
    /// Bytes of vectors in this process; 0 before the first search.
    pub memory_bytes: u64,
    /// Writing calls that have changed the store since it exists.
    pub generation: u64,
}

/// A store of embedded items. All calls take `&self`: one store serves many threads.
///
/// Every writing call is atomic (all of it or nothing, also when the process is killed) and durable when it returns.
pub trait Store: Send + Sync {
    /// What keeps the data, in a word: for measures.
    fn kind(&self) -> &'static str;

    /// The model of the embeddings.
    fn model(&self) -> &ModelId;

    /// Stores entries; one with a known key replaces the old one, with a repeated key the last one counts.
    /// Vectors are normalised and kept as f16.
    ///
    /// # Errors
    /// Vectors of another width or without direction, items beyond the limits, no space, a store opened for reading.
    fn upsert(&self, entries: &[Entry]) -> Result<(), StoreError>;

    /// Removes items; returns how many of the keys were there.
    ///
    /// # Errors
    /// No space, a store opened for reading, and failures of the engine.
    fn delete(&self, keys: &[&str]) -> Result<usize, StoreError>;

    /// Changes own columns of items, and leaves everything else: each key that is given is set, one with null is removed.
    /// Returns how many of the items were there.
    ///
    /// # Errors
    /// Metadata that grows beyond its limit, no space, a store opened for reading, and failures of the engine.
    fn annotate(&self, changes: &[(&str, Metadata)]) -> Result<usize, StoreError>;

    /// One item with thumbnail and its (normalised, f16-rounded) vectors.
    ///
    /// # Errors
    /// Failures of the engine, and damaged content.
    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// The best items for a query vector of any length but zero, best first; equal scores in the order of storing.
    /// Sees everything that was stored, by any process, before the call. Returns `min(k, matches)` hits, also of a filter that
    /// few items satisfy.
    ///
    /// # Errors
    /// A query of another width or without direction; failures of the engine, and damaged content.
    fn search(&self, query: &[f32], options: &SearchOptions) -> Result<Found, StoreError>;

    /// As [`Store::search`], for several queries at once: what each of them found, in their order.
    ///
    /// # Errors
    /// Those of [`Store::search`].
    fn search_many(&self, queries: &[&[f32]], options: &SearchOptions) -> Result<Vec<Found>, StoreError> {
        queries.iter().map(|query| self.search(query, options)).collect()
    }

    /// A page of items without their thumbnails.
    ///
    /// # Errors
    /// Failures of the engine, and damaged content.
    fn list(&self, options: &ListOptions) -> Result<Vec<Item>, StoreError>;

    /// A page of items with vectors and without thumbnails.
    ///
    /// # Errors
    /// Failures of the engine, and damaged content.
    fn entries(&self, options: &ListOptions) -> Result<Vec<Entry>, StoreError>;

    /// The thumbnail of an item, a JPEG, if there is one.
    ///
    /// # Errors
    /// Failures of the engine.
    fn thumbnail(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// How many items there are.
    ///
    /// # Errors
    /// Failures of the engine.
    fn count(&self) -> Result<u64, StoreError>;

    /// How many items satisfy a filter.
    ///
    /// # Errors
    /// Failures of the engine, and damaged content.
    fn matching(&self, filter: &Filter) -> Result<u64, StoreError>;

    /// The file facts of all items, in the order of their keys.
    ///
    /// # Errors
    /// Failures of the engine, and damaged content.
    fn files(&self) -> Result<Vec<FileFacts>, StoreError>;

    /// Remembers what could not be stored, the newest of a key, and forgets `solved` keys, in one transaction. Items are not touched.
    /// Failures of keys that no item can have are left out.
    ///
    /// # Errors
    /// No space, a store opened for reading, and failures of the engine.
    fn note_failures(&self, failed: &[Failure], solved: &[&str]) -> Result<(), StoreError>;

    /// All failures that are remembered, in the order of their keys.
    ///
    /// # Errors
    /// Failures of the engine, and damaged content.
    fn failures(&self) -> Result<Vec<Failure>, StoreError>;

    /// Merges what was written into the store's lasting form and gives free space back. Never needed for durability.
    ///
    /// # Errors
    /// A store opened for reading, and failures of the engine.
    fn flush(&self) -> Result<(), StoreError>;

    /// Numbers about the store.
    ///
    /// # Errors
    /// Failures of the engine.
    fn stats(&self) -> Result<Stats, StoreError>;

    /// Opens for writing the store that grows beside this one to take its place, of this or another model. What was stored in it for the
    /// same model before is still there.
    ///
    /// # Errors
    /// A store opened for reading, another writer, something of somebody else's in that place, and failures of the engine.
    fn open_beside(&self, model: &ModelId) -> Result<Box<dyn Store>, StoreError>;

    /// Lets the content of the store beside, its model too, take the place of this one's, in one transaction: who reads sees the one or the
    /// other. The one beside must be closed, and is gone then. Readers of another model get [`StoreError::ModelMismatch`] from then on, and
    /// this value must not be used to write or search any more when the models differ.
    ///
    /// # Errors
    /// A store opened for reading, no store beside, or one that is being written; failures of the engine, and no space.
    fn replace_with_beside(&self) -> Result<(), StoreError>;
}

/// Lengths this close to 1 count as normalised: what f16 rounding does to a unit vector. Normalising such a vector
/// again would change its bits each time that it is read and stored.
const UNIT: f64 = 1e-3;

/// Checks a vector and divides it by its length; `what` names it in messages.
pub(crate) fn unit(vector: &[f32], dim: usize, what: impl Fn() -> String) -> Result<Vec<f32>, StoreError> {
    if vector.len() != dim {
        return Err(StoreError::Dimensions {
            what: what(),
            found: vector.len(),
            expected: dim,
        });
    }
    let length = vector.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    if !length.is_finite() || length == 0.0 {
        return Err(StoreError::NoDirection { what: what() });
    }
    if (length - 1.0).abs() < UNIT {
        return Ok(vector.to_vec());
    }
    Ok(vector.iter().map(|&v| (f64::from(v) / length) as f32).collect())
}

/// A checked vector as the bytes that are stored: f16, little-endian.
pub(crate) fn to_bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()
}

/// The stored bytes as f16, one vector after another; `None` when there is none, the length does not fit or a value is not finite.
pub(crate) fn from_bytes(bytes: &[u8], dim: usize) -> Option<impl Iterator<Item = f16>> {
    let values = || bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b));
    let fits = !bytes.is_empty() && bytes.len().is_multiple_of(dim.checked_mul(2)?);
    (fits && values().all(f16::is_finite)).then(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storing_what_was_read_changes_no_bit() {
        for seed in 0..200u32 {
            let vector: Vec<f32> = (0..64).map(|i| ((i * 37 + seed * 101) % 89) as f32 - 44.3).collect();
            let once = to_bytes(&unit(&vector, 64, String::new).unwrap());
            let read: Vec<f32> = from_bytes(&once, 64).unwrap().map(f32::from).collect();
            assert_eq!(to_bytes(&unit(&read, 64, String::new).unwrap()), once);
        }
    }

    #[test]
    fn bytes_that_are_no_vector_are_refused() {
        assert!(from_bytes(&[0, 0, 0], 2).is_none());
        assert!(from_bytes(&[], 2).is_none());
        assert_eq!(from_bytes(&[0; 12], 2).map(Iterator::count), Some(6));
        assert!(from_bytes(&f16::NAN.to_le_bytes(), 1).is_none());
        assert!(from_bytes(&f16::INFINITY.to_le_bytes(), 1).is_none());
        assert!(from_bytes(&f16::ONE.to_le_bytes(), 1).is_some());
    }

    #[test]
    fn vectors_without_direction_are_refused() {
        let what = || "x".to_owned();
        assert!(matches!(
            unit(&[1.0], 2, what),
            Err(StoreError::Dimensions {
                found: 1,
                expected: 2,
                ..
            })
        ));
        for bad in [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 0.0]] {
            assert!(
                matches!(unit(&bad, 2, what), Err(StoreError::NoDirection { .. })),
                "{bad:?}"
            );
        }
        // Neither tiny nor huge values are lost on the way.
        for scale in [1e-30, 1e30] {
            let found = unit(&[3.0 * scale, 4.0 * scale], 2, what).unwrap();
            assert!(
                (found[0] - 0.6).abs() < 1e-6 && (found[1] - 0.8).abs() < 1e-6,
                "{found:?}"
            );
        }
    }
}
