//! What can go wrong with a store.

use std::path::{Path, PathBuf};

use crate::store::ModelId;

/// Why a store refused or failed. After any of them the store holds what it held before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no store.
    #[error("there is no store in {path}; check the path, or index pictures into it first")]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{path} is a database, but not a Bifocal store; give another folder, or another store= of an address")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The store was written with another model.
    #[error(
        "the store in {path} holds embeddings of {} ({} dimensions, fingerprint {}), but the model given is {} ({} dimensions, fingerprint {}); \
         their embeddings cannot be compared: use the store's model, or {}",
        stored.name, stored.dim, short(&stored.fingerprint), given.name, given.dim, short(&given.fingerprint), other_model(path, &given.name)
    )]
    ModelMismatch {
        /// The folder.
        path: PathBuf,
        /// The model of the store.
        stored: Box<ModelId>,
        /// The model that it was opened with.
        given: Box<ModelId>,
    },
    /// Another writer has the store.
    #[error(
        "the store in {path} is being written by {holder}; wait until it is done, or stop it (readers are not affected)"
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Who, as far as is known.
        holder: String,
    },
    /// A writing call on a store that was opened for reading.
    #[error("the store in {path} was opened for reading; open it for writing")]
    ReadOnly {
        /// The folder.
        path: PathBuf,
    },
    /// Written by a later version.
    #[error("the store in {path} has format {found}, this version reads up to {known}; use a newer version of Bifocal")]
    NewerFormat {
        /// The folder.
        path: PathBuf,
        /// The format of the store.
        found: i64,
        /// The newest format known here.
        known: i64,
    },
    /// The content contradicts itself.
    #[error("the store in {path} is damaged: {what}; restore a copy, or delete the folder and index again")]
    Corrupt {
        /// The folder.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// A vector of the wrong width.
    #[error("the vector of {what} has {found} dimensions, the store has {expected}; embed it with the store's model")]
    Dimensions {
        /// Which vector.
        what: String,
        /// Its width.
        found: usize,
        /// The store's.
        expected: usize,
    },
    /// A vector that has no direction, or whose values are not finite.
    #[error(
        "the vector of {what} cannot be normalised: it is zero or not finite; embed that input alone to find out why"
    )]
    NoDirection {
        /// Which vector.
        what: String,
    },
    /// Something exceeds a limit.
    #[error("{what} has {found} bytes, at most {limit} are stored")]
    TooLarge {
        /// What.
        what: String,
        /// Its size.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A value that can never be stored.
    #[error("{what} {why}")]
    Invalid {
        /// What.
        what: String,
        /// Why not, and what would be accepted.
        why: &'static str,
    },
    /// No space is left.
    #[error("no space is left for the store in {path}; nothing of this call was stored: free some space and repeat it")]
    Full {
        /// The folder.
        path: PathBuf,
    },
    /// The vectors do not fit into memory.
    #[error(
        "the {count} vectors of the store in {path} need {bytes} bytes of memory, which are not available; free memory or split the store"
    )]
    Memory {
        /// The folder.
        path: PathBuf,
        /// How many vectors.
        count: usize,
        /// What they need.
        bytes: usize,
    },
    /// The operating system refused.
    #[error("{path} {action}: {source}; check that it exists and who may read and write it")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as `cannot be …`.
        action: &'static str,
        /// Its reason.
        source: std::io::Error,
    },
    /// The way to the server broke, or there is none.
    #[error(
        "the connection to the store in {path} failed while {action}: {source}; see that the server runs and can be reached, then repeat the call \
         (one that writes may have been stored already; repeating it does no harm)"
    )]
    Connection {
        /// The address.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What broke.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A kind of store that this build does not have.
    #[error(
        "{path} needs PostgreSQL, which was left out of this build; build bifocal with `cargo build --release --features postgres`"
    )]
    NotBuilt {
        /// The address.
        path: PathBuf,
    },
    /// The database engine failed in a way that has no case of its own.
    #[error("the store in {path} failed while {action}: {source}")]
    Engine {
        /// The folder or address.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The engine's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What to do to use a store with another model.
fn other_model(path: &Path, name: &str) -> String {
    format!(
        "embed all of the store with the other one, beside it until both are swapped: bifocal index --rebuild --model {} --store {}",
        quoted(name),
        quoted(&path.to_string_lossy())
    )
}

/// An argument as a shell takes it.
fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-:@+,=%".contains(c);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', "'\\''"))
    }
}

/// The beginning of a fingerprint: enough to tell two apart on a line.
fn short(fingerprint: &str) -> String {
    fingerprint.chars().take(12).collect()
}
