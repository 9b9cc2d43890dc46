//! Stores from the outside: the contract, random calls, the local store, its graph, the one in PostgreSQL, killed writers, swapped stores, indexing a folder again.

mod contract;
mod crash;
mod failures;
#[cfg(feature = "hnsw")]
mod graph;
mod incremental;
mod local;
mod made;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
mod postgres_rebuild;
mod rebuild;
mod twin;
