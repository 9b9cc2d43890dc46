//! Features of frozen towers, computed once and shared between runs.
//!
//! A store is a folder `<root>/<hash of the specification>/` with a readable `spec.json` and shards in safetensors format. Items are
//! addressed by content, so renaming or moving a picture costs nothing, and changing one is noticed. Shards are written whole or not
//! at all, and verified when they are read; one that is damaged is renamed to `*.damaged`, and its items are computed anew.

mod error;
mod fill;
mod key;
mod shard;
mod store;

pub use error::{CacheError, FillError};
pub use fill::{Computed, FillOptions, FillReport, fill};
pub use key::{Dtype, FeatureSpec, ItemKey};
pub use store::{DamagedShard, FeatureStore, VerifyReport};
