//! Which files have to be embedded (again), and which only moved.
//!
//! A file whose size and modification time are as stored is taken as unchanged without being read. All others are hashed:
//! content that the store knows is never embedded again, wherever it went.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use crate::error::StoreError;
use crate::item::{ContentHash, FileFacts};
use crate::store::Store;

/// A file as the listing of a folder gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The key that it has or will have in the store.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Modification time, nanoseconds since 1970.
    pub modified_ns: i64,
}

/// Why content that the store knows is stored under another key or with other facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// The item it comes from is no longer listed.
    Moved,
    /// The item it comes from is still there.
    Copied,
    /// The same key and content with another modification time.
    Touched,
}

/// An item whose embedding is taken from another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reused {
    /// The item to store.
    pub file: FileFacts,
    /// The key of the item with the same content.
    pub from: String,
    /// How the two are related.
    pub kind: Reuse,
}

/// What indexing has to do, in this order: reuse, embed, delete.
#[derive(Debug)]
pub struct Plan<E> {
    /// Unknown keys with unknown content: embed and store.
    pub new: Vec<FileFacts>,
    /// Known keys with unknown content: embed and store.
    pub changed: Vec<FileFacts>,
    /// Known content: see [`apply_reuse`].
    pub reused: Vec<Reused>,
    /// Keys whose file is gone, also those that moved: delete at the end.
    pub gone: Vec<String>,
    /// Keys for which nothing has to be done.
    pub unchanged: usize,
    /// Files that could not be read; what the store holds of them stays.
    pub failed: Vec<(String, E)>,
}

impl<E> Plan<E> {
    /// How many items moved.
    pub fn moved(&self) -> usize {
        self.reused.iter().filter(|r| r.kind == Reuse::Moved).count()
    }

    /// How many items were deleted: gone and not moved elsewhere.
    pub fn deleted(&self) -> usize {
        self.gone.len() - self.moved()
    }

    /// Whether the store is already as it should be.
    pub fn is_empty(&self) -> bool {
        self.new.is_empty() && self.changed.is_empty() && self.reused.is_empty() && self.gone.is_empty()
    }
}

/// Compares a listing with what the store knows ([`Store::files`]).
///
/// `in_scope` says of a stored key whether the listing would hold it if its file existed: items of folders that were not
/// listed are never gone. `hash` reads a file; it is called from several threads, for files that look new or changed.
/// When a key is listed twice, the first one counts.
pub fn plan<E: Send>(
    listed: &[Listed],
    known: &[FileFacts],
    in_scope: impl Fn(&str) -> bool,
    hash: impl Fn(&Listed) -> Result<ContentHash, E> + Sync,
) -> Plan<E> {
    let by_key: HashMap<&str, &FileFacts> = known.iter().map(|f| (f.key.as_str(), f)).collect();
    let mut seen = HashSet::new();
    let listed: Vec<&Listed> = listed.iter().filter(|l| seen.insert(l.key.as_str())).collect();
    let is_unchanged = |l: &Listed| {
        by_key
            .get(l.key.as_str())
            .is_some_and(|f| (f.size, f.modified_ns) == (l.size, l.modified_ns))
    };
    let (unchanged, open): (Vec<&Listed>, Vec<&Listed>) = listed.into_iter().partition(|l| is_unchanged(l));
    let gone: Vec<&str> = known
        .iter()
        .map(|f| f.key.as_str())
        .filter(|k| !seen.contains(k) && in_scope(k))
        .collect();
    let hashed: Vec<(&Listed, Result<ContentHash, E>)> = open.into_par_iter().map(|l| (l, hash(l))).collect();

    let mut sources = Sources::new(known, &gone);
    let mut plan = Plan {
        new: Vec::new(),
        changed: Vec::new(),
        reused: Vec::new(),
        gone: gone.iter().map(|&k| k.to_owned()).collect(),
        unchanged: unchanged.len(),
        failed: Vec::new(),
    };
    for (listed, hash) in hashed {
        let hash = match hash {
            Ok(hash) => hash,
            Err(error) => {
                plan.failed.push((listed.key.clone(), error));
                continue;
            }
        };
        let file = FileFacts {
            key: listed.key.clone(),
            size: listed.size,
            modified_ns: listed.modified_ns,
            hash,
        };
        let before = by_key.get(listed.key.as_str());
        if before.is_some_and(|f| f.hash == hash) {
            plan.reused.push(Reused {
                from: file.key.clone(),
                file,
                kind: Reuse::Touched,
            });
        } else if let Some((from, kind)) = sources.take(&hash) {
            plan.reused.push(Reused {
                file,
                from: from.to_owned(),
                kind,
            });
        } else if before.is_some() {
            plan.changed.push(file);
        } else {
            plan.new.push(file);
        }
    }
    plan
}

/// Where known content can be taken from.
struct Sources<'a> {
    /// Items whose file is gone: each is the origin of at most one move.
    gone: HashMap<ContentHash, Vec<&'a str>>,
    any: HashMap<ContentHash, &'a str>,
}

impl<'a> Sources<'a> {
    fn new(known: &'a [FileFacts], gone: &[&'a str]) -> Self {
        let is_gone: HashSet<&str> = gone.iter().copied().collect();
        let mut sources = Self {
            gone: HashMap::new(),
            any: HashMap::new(),
        };
        for file in known {
            sources.any.entry(file.hash).or_insert(&file.key);
            if is_gone.contains(file.key.as_str()) {
                sources.gone.entry(file.hash).or_default().push(&file.key);
            }
        }
        sources
    }

    fn take(&mut self, hash: &ContentHash) -> Option<(&'a str, Reuse)> {
        if let Some(from) = self.gone.get_mut(hash).and_then(Vec::pop) {
            return Some((from, Reuse::Moved));
        }
        self.any.get(hash).map(|&from| (from, Reuse::Copied))
    }
}

/// Entries that are read and stored together.
const BATCH: usize = 256;

/// Stores the reused items of a plan with vector, metadata and thumbnail of where they come from.
/// Returns those whose origin no longer has that content (two files that swapped names): these must be embedded.
///
/// # Errors
/// Those of [`Store::get`] and [`Store::upsert`].
pub fn apply_reuse(store: &dyn Store, reused: &[Reused]) -> Result<Vec<FileFacts>, StoreError> {
    let mut left = Vec::new();
    for batch in reused.chunks(BATCH) {
        let mut entries = Vec::with_capacity(batch.len());
        for reuse in batch {
            match store.get(&reuse.from)? {
                Some(mut entry) if entry.item.file.hash == reuse.file.hash => {
                    entry.item.file = reuse.file.clone();
                    entries.push(entry);
                }
                _ => left.push(reuse.file.clone()),
            }
        }
        store.upsert(&entries)?;
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(content: &str) -> ContentHash {
        ContentHash::of_bytes(content.as_bytes())
    }

    fn known(key: &str, modified_ns: i64, content: &str) -> FileFacts {
        FileFacts {
            key: key.to_owned(),
            size: content.len() as u64,
            modified_ns,
            hash: hash(content),
        }
    }

    /// Plans for files given as (key, time, content); content `!` cannot be read.
    fn run(files: &[(&str, i64, &str)], known: &[FileFacts], scope: &str) -> Plan<String> {
        let listed: Vec<Listed> = files
            .iter()
            .map(|(key, modified_ns, content)| Listed {
                key: (*key).to_owned(),
                size: content.len() as u64,
                modified_ns: *modified_ns,
            })
            .collect();
        plan(
            &listed,
            known,
            |key| key.starts_with(scope),
            |l| {
                let content = files.iter().find(|f| f.0 == l.key).map(|f| f.2).unwrap_or_default();
                if content == "!" {
                    Err(format!("{} cannot be read", l.key))
                } else {
                    Ok(hash(content))
                }
            },
        )
    }

    fn keys(files: &[FileFacts]) -> Vec<&str> {
        files.iter().map(|f| f.key.as_str()).collect()
    }

    #[test]
    fn every_kind_of_change_is_told_apart() {
        let store = [
            known("a/same", 1, "one"),
            known("a/changed", 1, "two"),
            known("a/touched", 1, "three"),
            known("a/old-name", 1, "four"),
            known("a/deleted", 1, "five"),
            known("a/unreadable", 1, "x"),
            known("b/elsewhere", 1, "six"),
        ];
        let files = [
            ("a/same", 1, "one"),
            ("a/changed", 2, "TWO"),
            ("a/touched", 9, "three"),
            ("a/new-name", 1, "four"),
            ("a/copy", 3, "one"),
            ("a/unreadable", 2, "!"),
            ("a/new", 1, "seven"),
        ];
        let plan = run(&files, &store, "a/");
        assert_eq!(keys(&plan.new), ["a/new"]);
        assert_eq!(keys(&plan.changed), ["a/changed"]);
        let reused: Vec<_> = plan
            .reused
            .iter()
            .map(|r| (r.file.key.as_str(), r.from.as_str(), r.kind))
            .collect();
        assert_eq!(
            reused,
            [
                ("a/touched", "a/touched", Reuse::Touched),
                ("a/new-name", "a/old-name", Reuse::Moved),
                ("a/copy", "a/same", Reuse::Copied)
            ]
        );
        assert_eq!(plan.gone, ["a/old-name", "a/deleted"]);
        assert_eq!((plan.moved(), plan.deleted(), plan.unchanged), (1, 1, 1));
        assert_eq!(
            plan.failed,
            [("a/unreadable".to_owned(), "a/unreadable cannot be read".to_owned())]
        );
        assert!(!plan.is_empty());
    }

    #[test]
    fn unchanged_files_are_not_read() {
        let store = [known("a", 1, "!")];
        let plan = run(&[("a", 1, "!")], &store, "");
        assert!(plan.is_empty() && plan.failed.is_empty());
        assert_eq!(plan.unchanged, 1);
    }

    #[test]
    fn one_item_moves_to_one_place_and_is_copied_to_the_others() {
        let plan = run(&[("x", 1, "same"), ("y", 1, "same")], &[known("a", 1, "same")], "");
        let kinds: Vec<Reuse> = plan.reused.iter().map(|r| r.kind).collect();
        assert_eq!(kinds, [Reuse::Moved, Reuse::Copied]);
        assert_eq!((plan.moved(), plan.deleted()), (1, 0));
    }

    #[test]
    fn a_key_that_is_listed_twice_counts_once() {
        let plan = run(&[("x", 1, "same"), ("x", 1, "same")], &[], "");
        assert_eq!(keys(&plan.new), ["x"]);
    }
}
