//! What could not be stored, and why: the ledger of indexing.

use serde::{Deserialize, Serialize};

use crate::item::MAX_KEY;

/// Characters of a reason that are kept.
const MAX_REASON: usize = 1000;

/// A file that could not be indexed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The key that its item would have.
    pub key: String,
    /// Bytes, as its listing gave them.
    pub size: u64,
    /// Modification time, nanoseconds since 1970 (negative before).
    pub modified_ns: i64,
    /// A short word for the kind of failure, to count by.
    pub cause: String,
    /// What happened, for people.
    pub reason: String,
    /// When, seconds since 1970.
    pub at: i64,
}

impl Failure {
    /// Whether any store can keep it: its key is one that an item may have.
    pub(crate) fn is_storable(&self) -> bool {
        is_key(&self.key) && i64::try_from(self.size).is_ok()
    }

    /// A text without what databases refuse, and not too long.
    pub(crate) fn short(text: &str) -> String {
        text.chars().filter(|&c| c != '\0').take(MAX_REASON).collect()
    }
}

/// Whether an item may have this key: not empty, without NUL, at most 4096 bytes.
pub fn is_key(key: &str) -> bool {
    !key.is_empty() && !key.contains('\0') && key.len() <= MAX_KEY
}
