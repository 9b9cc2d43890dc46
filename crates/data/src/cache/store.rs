//! A folder of shards.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use half::f16;

use super::key::Description;
use super::shard::{self, Shard, ShardError};
use super::{CacheError, Dtype, FeatureSpec, ItemKey};
use crate::atomic::{remove_stale, write_atomic};

/// Version of the layout.
const FORMAT: u32 = 1;
/// Temporary files of this age belong to writers that no longer live.
const STALE: Duration = Duration::from_secs(3600);

/// A shard that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedShard {
    /// Where it is now.
    pub path: PathBuf,
    /// What was wrong with it.
    pub reason: String,
    /// How many items it seemed to hold; they are missing again.
    pub items: usize,
}

/// What [`FeatureStore::verify`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// Shards that are as they were written.
    pub shards: usize,
    /// Different items in them.
    pub items: usize,
    /// Shards that were set aside by this call.
    pub damaged: Vec<DamagedShard>,
}

/// Features of one tower with one set of settings, by the content of the item.
///
/// Any number of processes may read and [`append`](Self::append) at the same time: a shard appears whole under a name that depends on
/// its content, and is never changed. A process sees the shards of others after [`refresh`](Self::refresh).
#[derive(Debug)]
pub struct FeatureStore {
    dir: PathBuf,
    dim: usize,
    dtype: Dtype,
    /// File names and the number of rows; an index into this never changes its meaning.
    shards: Vec<(String, usize)>,
    /// The shards that are there now, by file name.
    live: HashMap<String, u32>,
    /// Shards found right by [`check`](Self::check) in this process.
    checked: HashSet<u32>,
    items: HashMap<ItemKey, (u32, u32)>,
    damaged: Vec<DamagedShard>,
}

impl FeatureStore {
    /// Opens or creates the store for `spec` below `root`; features have `dim` numbers.
    ///
    /// # Errors
    /// [`CacheError`] when the folder cannot be used or describes other features.
    pub fn open(root: &Path, spec: &FeatureSpec, dim: usize, dtype: Dtype) -> Result<Self, CacheError> {
        if dim == 0 {
            return Err(CacheError::Length {
                what: "numbers in a feature",
                expected: 1,
                got: 0,
            });
        }
        let description = Description {
            format: FORMAT,
            dim,
            dtype,
            features: spec.clone(),
        };
        let dir = root.join(description.folder());
        fs::create_dir_all(&dir).map_err(|e| CacheError::io(&dir, &e))?;
        let path = dir.join("spec.json");
        match fs::read(&path) {
            Ok(bytes) => {
                if serde_json::from_slice::<Description>(&bytes).ok() != Some(description) {
                    return Err(CacheError::Foreign { path });
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let json = serde_json::to_vec_pretty(&description).map_err(|e| CacheError::Io {
                    path: path.clone(),
                    reason: e.to_string(),
                })?;
                write_atomic(&path, |f| f.write_all(&json)).map_err(|e| CacheError::io(&path, &e))?;
            }
            Err(e) => return Err(CacheError::io(&path, &e)),
        }
        remove_stale(&dir, STALE).map_err(|e| CacheError::io(&dir, &e))?;
        let mut store = Self {
            dir,
            dim,
            dtype,
            shards: Vec::new(),
            live: HashMap::new(),
            checked: HashSet::new(),
            items: HashMap::new(),
            damaged: Vec::new(),
        };
        store.refresh()?;
        Ok(store)
    }

    /// The folder of this store.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Numbers in a feature.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Items with features.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no features at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Shards that this process has set aside.
    #[must_use]
    pub fn damaged(&self) -> &[DamagedShard] {
        &self.damaged
    }

    /// Looks for shards that appeared or went since.
    ///
    /// # Errors
    /// When the folder cannot be listed, or a shard cannot be read for a reason other than damage.
    pub fn refresh(&mut self) -> Result<(), CacheError> {
        let mut present = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|e| CacheError::io(&self.dir, &e))? {
            let entry = entry.map_err(|e| CacheError::io(&self.dir, &e))?;
            if let Some(name) = entry.file_name().to_str()
                && name.ends_with(shard::ENDING)
                && !name.starts_with('.')
            {
                present.push(name.to_owned());
            }
        }
        // so that every process sees the same row when two shards hold the same item
        present.sort_unstable();
        let here: HashSet<&str> = present.iter().map(String::as_str).collect();
        let gone: Vec<String> = self
            .live
            .keys()
            .filter(|name| !here.contains(name.as_str()))
            .cloned()
            .collect();
        for name in gone {
            self.forget(&name);
        }
        let new: Vec<String> = present
            .into_iter()
            .filter(|name| !self.live.contains_key(name))
            .collect();
        for name in new {
            match shard::read_keys(&self.dir.join(&name), self.dim, self.dtype) {
                Ok(keys) => self.add(name, &keys),
                Err(e) => self.set_aside(&name, 0, e)?,
            }
        }
        Ok(())
    }

    fn add(&mut self, name: String, keys: &[ItemKey]) {
        let shard = self.shards.len() as u32;
        self.live.insert(name.clone(), shard);
        self.shards.push((name, keys.len()));
        for (row, key) in (0u32..).zip(keys) {
            self.items.entry(*key).or_insert((shard, row));
        }
    }

    /// Makes the items of a shard missing; gives their number.
    fn forget(&mut self, name: &str) -> usize {
        let Some(index) = self.live.remove(name) else { return 0 };
        let before = self.items.len();
        self.items.retain(|_, (shard, _)| *shard != index);
        before - self.items.len()
    }

    /// Renames a damaged shard, so that nobody reads it again and somebody can look at it.
    fn set_aside(&mut self, name: &str, items: usize, e: ShardError) -> Result<(), CacheError> {
        let path = self.dir.join(name);
        let reason = match e {
            // another process has set it aside already
            ShardError::Io(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            ShardError::Io(e) => return Err(CacheError::io(&path, &e)),
            ShardError::Damaged(reason) => reason,
        };
        let to = self.dir.join(format!("{name}.damaged"));
        match fs::rename(&path, &to) {
            Ok(()) => self.damaged.push(DamagedShard {
                path: to,
                reason,
                items,
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(CacheError::io(&path, &e)),
        }
        Ok(())
    }

    /// Reads and verifies a shard; `None` when it was damaged or gone and its items are now missing.
    fn load(&mut self, index: u32) -> Result<Option<Shard>, CacheError> {
        let (name, rows) = self.shards[index as usize].clone();
        match Shard::open(self.dir.join(&name), rows, self.dim, self.dtype) {
            Ok(shard) => {
                self.checked.insert(index);
                Ok(Some(shard))
            }
            Err(e) => {
                let items = self.forget(&name);
                self.set_aside(&name, items, e)?;
                Ok(None)
            }
        }
    }

    /// Indices of the items that have no features, ascending; the same item twice is listed twice.
    #[must_use]
    pub fn missing(&self, items: &[ItemKey]) -> Vec<usize> {
        (0..items.len())
            .filter(|&i| !self.items.contains_key(&items[i]))
            .collect()
    }

    /// Verifies the shards that hold any of `items`, those that this process has verified before excepted.
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh).
    pub fn check(&mut self, items: &[ItemKey]) -> Result<(), CacheError> {
        let mut shards: Vec<u32> = items.iter().filter_map(|k| self.items.get(k)).map(|at| at.0).collect();
        shards.sort_unstable();
        shards.dedup();
        for index in shards {
            if !self.checked.contains(&index) {
                self.load(index)?;
            }
        }
        Ok(())
    }

    /// Stores features as one shard; when this returns they are on the disk.
    ///
    /// # Shapes
    /// `rows` is `[keys.len(), dim]`.
    ///
    /// # Errors
    /// [`CacheError::Length`], [`CacheError::Unstorable`] for values that are not finite or exceed half precision, [`CacheError::Io`]. Nothing
    /// is stored then.
    pub fn append(&mut self, keys: &[ItemKey], rows: &[f32]) -> Result<(), CacheError> {
        let expected = keys.len() * self.dim;
        if rows.len() != expected {
            return Err(CacheError::Length {
                what: "numbers to store",
                expected,
                got: rows.len(),
            });
        }
        if keys.is_empty() {
            return Ok(());
        }
        let storable = |v: f32| v.is_finite() && (self.dtype == Dtype::F32 || f16::from_f32(v).is_finite());
        if let Some(at) = rows.iter().position(|&v| !storable(v)) {
            let (item, column) = (at / self.dim, at % self.dim);
            return Err(CacheError::Unstorable {
                item,
                column,
                value: rows[at],
                dtype: self.dtype,
            });
        }
        let name = shard::write(&self.dir, keys, rows, self.dim, self.dtype)?;
        if !self.live.contains_key(&name) {
            self.add(name, keys);
        }
        Ok(())
    }

    /// Features of `items`, in their order. Every shard is verified as it is read.
    ///
    /// # Shapes
    /// `[items.len(), dim]`, row-major.
    ///
    /// # Errors
    /// [`CacheError::Missing`] when an item has no features, also because its shard proved damaged: compute and ask again.
    pub fn gather(&mut self, items: &[ItemKey]) -> Result<Vec<f32>, CacheError> {
        let mut by_shard: BTreeMap<u32, Vec<(usize, u32)>> = BTreeMap::new();
        let mut missing = 0;
        for (i, key) in items.iter().enumerate() {
            match self.items.get(key) {
                Some(&(shard, row)) => by_shard.entry(shard).or_default().push((i, row)),
                None => missing += 1,
            }
        }
        let mut out = vec![0.0; if missing == 0 { items.len() * self.dim } else { 0 }];
        if missing == 0 {
            for (index, rows) in by_shard {
                let Some(shard) = self.load(index)? else {
                    missing += rows.len();
                    continue;
                };
                for (i, row) in rows {
                    shard.copy(row as usize, &mut out[i * self.dim..(i + 1) * self.dim]);
                }
            }
        }
        if missing > 0 {
            let (of, damaged, path) = (items.len(), self.damaged.len(), self.dir.clone());
            return Err(CacheError::Missing {
                missing,
                of,
                damaged,
                path,
            });
        }
        Ok(out)
    }

    /// Reads and verifies everything; damaged shards are set aside.
    ///
    /// # Errors
    /// As [`refresh`](Self::refresh).
    pub fn verify(&mut self) -> Result<VerifyReport, CacheError> {
        let before = self.damaged.len();
        self.refresh()?;
        let mut indices: Vec<u32> = self.items.values().map(|at| at.0).collect();
        indices.sort_unstable();
        indices.dedup();
        let mut shards = 0;
        for index in indices {
            shards += usize::from(self.load(index)?.is_some());
        }
        Ok(VerifyReport {
            shards,
            items: self.items.len(),
            damaged: self.damaged[before..].to_vec(),
        })
    }
}
