//! Stores from the outside: the contract, random calls, the local store, killed writers, swapped stores, indexing a folder again.

mod contract;
mod crash;
mod incremental;
mod local;
mod rebuild;
mod twin;
