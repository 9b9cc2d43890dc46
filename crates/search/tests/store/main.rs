//! Stores from the outside: the contract, the local store, killed writers, indexing a folder again.

mod contract;
mod crash;
mod incremental;
mod local;
