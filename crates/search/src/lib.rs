//! The store of embedded items, and search over it.
//!
//! - [`Store`]: what every store does; [`LocalStore`] keeps everything in one SQLite file in a folder;
//!   `PgStore` (feature `postgres`) in PostgreSQL with pgvector; [`open_reader`] and [`open_writer`] take the name of either;
//! - [`Item`], [`Entry`]: what is stored;
//! - [`Filter`]: which items a search may return;
//! - [`incremental`]: which files have to be embedded (again), and which only moved;
//! - [`query`]: what a query says, and one vector from several, with weights;
//! - [`duplicates`]: groups of items that are nearly the same.

mod error;
mod failure;
mod item;
mod local;
mod open;
#[cfg(feature = "postgres")]
mod postgres;
mod scores;
mod store;

pub mod duplicates;
pub mod filter;
pub mod incremental;
pub mod query;

#[cfg(feature = "postgres")]
pub use crate::postgres::PgStore;
pub use error::StoreError;
pub use failure::{Failure, is_key};
pub use filter::{Filter, FilterError};
pub use item::{ContentHash, Entry, FileFacts, Item, Metadata};
#[cfg(feature = "hnsw")]
pub use local::GraphUse;
pub use local::LocalStore;
pub use open::{is_postgres, open_reader, open_writer, shown};
pub use scores::ScoreStats;
pub use store::{Found, Hit, ListOptions, ModelId, SearchOptions, Stats, Store};
