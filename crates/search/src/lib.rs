//! The store of embedded items, and search over it.
