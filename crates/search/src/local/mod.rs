//! A store in one SQLite file.
//!
//! The folder holds `store.db` (with SQLite's `-wal` and `-shm` beside it while it is open) and `writer.lock`. Items, vectors
//! and thumbnails of a call are written in one transaction. One process writes; any number read at the same time
//! and see whole calls only. Search scans all vectors, exactly, from memory; what other processes wrote in between is
//! noticed by the store's generation and read before each search. With the feature `hnsw` a graph (`vectors.hnsw`) proposes what to score
//! in large stores.

mod cache;
mod engine;
#[cfg(feature = "hnsw")]
mod graph;
mod lock;
mod masks;
mod read;
mod schema;
mod swap;
mod top;
mod write;

use std::path::{Path, PathBuf};
#[cfg(feature = "hnsw")]
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rusqlite::{Connection, OpenFlags};

use crate::error::StoreError;
use crate::failure::Failure;
use crate::filter::Filter;
use crate::item::{Entry, FileFacts, Item, Metadata};
use crate::store::{Found, ListOptions, ModelId, SearchOptions, Stats, Store, unit};

use cache::{Cache, Scanned, Wanted};
use engine::Context;
#[cfg(feature = "hnsw")]
pub use graph::GraphUse;
use lock::WriterLock;
use masks::Masks;

/// How often a search is repeated when items that it found were removed meanwhile, before it keeps writers' changes out of sight.
const FREE_ATTEMPTS: usize = 2;
/// The folder inside of the store's in which the one grows that is to take its place.
const BESIDE: &str = "rebuild";

/// A store in a folder.
#[derive(Debug)]
pub struct LocalStore {
    dir: PathBuf,
    model: ModelId,
    /// Taken before `cache` where both are needed.
    connection: Mutex<Connection>,
    cache: RwLock<Cache>,
    masks: Mutex<Masks>,
    /// `None`: opened for reading.
    lock: Option<WriterLock>,
    #[cfg(feature = "hnsw")]
    usage: GraphUse,
    /// Queries so far.
    #[cfg(feature = "hnsw")]
    asked: AtomicU32,
    /// Held while the graph's file is written: two threads would take the temporary file from each other.
    #[cfg(feature = "hnsw")]
    renewing: Mutex<()>,
}

impl LocalStore {
    /// Opens the store in `dir` for writing, and creates folder and store when there are none.
    ///
    /// # Errors
    /// Another writer, a store of another model, a file that is no store, is damaged or of a later format, no access.
    pub fn open_writer(dir: &Path, model: &ModelId) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(|source| StoreError::Io {
            path: dir.to_owned(),
            action: "cannot be created",
            source,
        })?;
        let lock = WriterLock::take(dir, &dir.join("writer.lock"))?;
        let cx = Context { path: dir };
        let file = dir.join("store.db");
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&file, flags).map_err(|e| cx.engine("opening it", e))?;
        schema::set_up(&connection, cx)?;
        // Checked before the writer's settings, which change the file.
        let exists = schema::check(&connection, cx, &file)?;
        if exists {
            fit(dir, schema::model(&connection, cx)?, Some(model))?;
        }
        schema::set_up_writer(&connection, cx)?;
        if exists {
            schema::migrate(&mut connection, cx)?;
        } else {
            schema::create(&mut connection, model, cx)?;
        }
        Self::with(dir, connection, Some(lock))
    }

    /// Opens the store in `dir` for reading, also while another process writes it. With a model, the store has to be of
    /// that model; without, [`Store::model`] says which one it needs.
    ///
    /// # Errors
    /// No store, a store of another model, a file that is no store, is damaged or of a later format, no access.
    pub fn open_reader(dir: &Path, model: Option<&ModelId>) -> Result<Self, StoreError> {
        let file = dir.join("store.db");
        if !file.is_file() {
            return Err(StoreError::Missing { path: dir.to_owned() });
        }
        let cx = Context { path: dir };
        // Not read-only: a reader keeps its place in the `-shm` file. SQLite itself falls back where it may not write.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&file, flags).map_err(|e| cx.engine("opening it", e))?;
        schema::set_up(&connection, cx)?;
        connection
            .pragma_update(None, "query_only", true)
            .map_err(|e| cx.engine("setting it up", e))?;
        if !schema::check(&connection, cx, &file)? {
            return Err(StoreError::Missing { path: dir.to_owned() });
        }
        fit(dir, schema::model(&connection, cx)?, model)?;
        Self::with(dir, connection, None)
    }

    fn with(dir: &Path, connection: Connection, lock: Option<WriterLock>) -> Result<Self, StoreError> {
        let model = schema::model(&connection, Context { path: dir })?;
        Ok(Self {
            dir: dir.to_owned(),
            model,
            connection: Mutex::new(connection),
            cache: RwLock::default(),
            masks: Mutex::default(),
            lock,
            #[cfg(feature = "hnsw")]
            usage: GraphUse::default(),
            #[cfg(feature = "hnsw")]
            asked: 0.into(),
            #[cfg(feature = "hnsw")]
            renewing: Mutex::default(),
        })
    }

    /// Checks the whole store: SQLite's own integrity, and that every item has a vector of the right width.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] with the first problem.
    pub fn verify(&self) -> Result<(), StoreError> {
        read::verify(&self.connection(), self.model.dim, self.cx())
    }

    /// Lets the content of the store in `other`, its model too, take the place of this one's, in one transaction: who reads sees the
    /// one or the other. Readers of another model get [`StoreError::ModelMismatch`] from then on; this value must not be used to write or
    /// search any more when the models differ.
    ///
    /// # Errors
    /// A store opened for reading, no store in `other`, or one that is being written; failures of the engine, and no space.
    pub fn replace_with(&self, other: &Path) -> Result<(), StoreError> {
        let mut connection = self.writer()?;
        let source = Self::open_reader(other, None)?;
        // Checked as a whole before it is let in, and kept from changing until it is.
        source.verify()?;
        let _lock = WriterLock::take(other, &other.join("writer.lock"))?;
        let model = source.model.clone();
        drop(source);
        swap::replace(&mut connection, &other.join("store.db"), &model, self.cx())
    }

    /// The same store, with another rule for when it is searched by its graph and not by a scan.
    #[cfg(feature = "hnsw")]
    #[must_use]
    pub fn with_graph(mut self, usage: GraphUse) -> Self {
        self.usage = usage;
        self
    }

    /// Takes up the graph's file when it has appeared or changed, and enough was asked for that to pay.
    #[cfg(feature = "hnsw")]
    fn take_graph(&self) {
        if self.asked.load(Ordering::Relaxed) <= self.usage.after {
            return;
        }
        let stamp = graph::Stamp::of(&graph::path(&self.dir));
        let is_needed = |cache: &Cache| cache.ids().len() as u64 >= self.usage.from && !cache.graph.has_seen(stamp);
        if is_needed(&self.cache.read().unwrap_or_else(PoisonError::into_inner)) {
            let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
            graph::load(&mut cache, &self.dir, &self.model, stamp);
        }
    }

    /// Builds or extends the graph's file where too much was stored or removed since it was written, or it is damaged.
    #[cfg(feature = "hnsw")]
    fn write_graph(&self) -> Result<(), StoreError> {
        let _renewing = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        let path = graph::path(&self.dir);
        let is_current = self.snapshot(|connection| {
            let items = read::count(connection, self.cx())?;
            if items == 0 || items < self.usage.from {
                return Ok(true);
            }
            self.refresh(connection)?;
            let rows = self.cache.read().unwrap_or_else(PoisonError::into_inner).row_count();
            let Some(facts) = graph::Facts::of(&path, &self.model, rows) else {
                return Ok(false);
            };
            let known = read::count_until(connection, facts.last, self.cx())?;
            Ok(graph::is_current(facts.items, known, items - known))
        })?;
        if is_current {
            return Ok(());
        }
        // Searches go on meanwhile; only the writer, who is waiting for this, changes anything.
        let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
        graph::renew(&cache, &path, &self.model).map_err(|source| StoreError::Io {
            path,
            action: "cannot be written (the store itself is complete and is searched without it)",
            source,
        })
    }

    fn cx(&self) -> Context<'_> {
        Context { path: &self.dir }
    }

    fn remove_beside(&self) -> Result<(), StoreError> {
        let path = self.dir.join(BESIDE);
        std::fs::remove_dir_all(&path).map_err(|source| StoreError::Io {
            path,
            action: "cannot be removed",
            source,
        })
    }

    /// A transaction of a thread that panicked was rolled back: the connection is as good as before.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> Result<MutexGuard<'_, Connection>, StoreError> {
        match self.lock {
            Some(_) => Ok(self.connection()),
            None => Err(StoreError::ReadOnly { path: self.dir.clone() }),
        }
    }

    /// Brings the vectors in memory to what the connection sees now.
    fn refresh(&self, connection: &Connection) -> Result<(), StoreError> {
        let cx = self.cx();
        self.check_model(connection)?;
        let generation = cache::current(connection, cx)?;
        if self.cache.read().unwrap_or_else(PoisonError::into_inner).generation() == Some(generation) {
            return Ok(());
        }
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        let result = cache.refresh(connection, generation, self.model.dim, cx);
        if result.is_err() {
            cache.clear();
        }
        result
    }

    /// Refuses what another process has put in this one's place with another model.
    fn check_model(&self, connection: &Connection) -> Result<(), StoreError> {
        let generation = cache::current(connection, self.cx())?;
        let seen = self.cache.read().unwrap_or_else(PoisonError::into_inner).generation();
        if seen == Some(generation) {
            return Ok(());
        }
        fit(&self.dir, schema::model(connection, self.cx())?, Some(&self.model))
    }

    /// What a search needs from the snapshot before it scans.
    fn prepare(&self, connection: &Connection, options: &SearchOptions) -> Result<Prepared, StoreError> {
        self.refresh(connection)?;
        #[cfg(feature = "hnsw")]
        self.take_graph();
        let generation = cache::current(connection, self.cx())?;
        let filter = options.filter.as_ref();
        Ok(Prepared {
            generation,
            chosen: filter
                .map(|filter| self.chosen(connection, generation, filter))
                .transpose()?,
            without: read::ids(connection, &options.without, self.cx())?,
        })
    }

    fn chosen(&self, connection: &Connection, generation: i64, filter: &Filter) -> Result<Arc<[i64]>, StoreError> {
        let masks = || self.masks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = masks().get(generation, filter) {
            return Ok(known);
        }
        let ids = Arc::from(read::matching(connection, filter, self.cx())?);
        masks().put(generation, filter, &ids);
        Ok(ids)
    }

    /// Scans; `None` when the vectors are of another generation than what was prepared.
    fn scan(&self, queries: &[Vec<f32>], options: &SearchOptions, prepared: &Prepared) -> Option<Vec<Scanned>> {
        let cache = self.cache.read().unwrap_or_else(PoisonError::into_inner);
        if cache.generation() != Some(prepared.generation) {
            return None;
        }
        let wanted = Wanted {
            k: options.k,
            chosen: prepared.chosen.as_deref(),
            without: &prepared.without,
            #[cfg(feature = "hnsw")]
            graph: (!options.exact).then_some(self.usage),
        };
        let mut scanned = cache.search(self.model.dim, queries, &wanted);
        if let Some(least) = options.min_score {
            scanned
                .iter_mut()
                .for_each(|one| one.best.retain(|best| best.score >= least));
        }
        Some(scanned)
    }

    /// What was found with its items, or `None` when one of the items is no longer there.
    fn found(&self, connection: &Connection, scanned: Vec<Scanned>) -> Result<Option<Vec<Found>>, StoreError> {
        let one = |scanned: Scanned| {
            let hits = scanned.best.iter().map(|best| read::hit(connection, best, self.cx()));
            let hits: Option<Vec<_>> = hits.collect::<Result<_, _>>()?;
            Ok(hits.map(|hits| Found {
                hits,
                matched: scanned.matched,
                scores: Some(scanned.scores),
            }))
        };
        scanned.into_iter().map(one).collect()
    }

    /// One snapshot for everything that `run` reads.
    fn snapshot<T>(&self, run: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut connection = self.connection();
        let cx = self.cx();
        let tx = connection
            .transaction()
            .map_err(|e| cx.engine("beginning to read", e))?;
        run(&tx)
    }
}

/// What a search takes from the database before it scans.
struct Prepared {
    /// The generation that all of it belongs to.
    generation: i64,
    /// Items that satisfy the filter, ascending.
    chosen: Option<Arc<[i64]>>,
    without: Vec<i64>,
}

/// Refuses a model that is not the store's.
fn fit(dir: &Path, stored: ModelId, given: Option<&ModelId>) -> Result<(), StoreError> {
    match given {
        Some(given) if !stored.fits(given) => Err(StoreError::ModelMismatch {
            path: dir.to_owned(),
            stored: Box::new(stored),
            given: Box::new(given.clone()),
        }),
        _ => Ok(()),
    }
}

impl Store for LocalStore {
    fn kind(&self) -> &'static str {
        "local"
    }

    fn model(&self) -> &ModelId {
        &self.model
    }

    fn upsert(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let mut connection = self.writer()?;
        let mut prepared = Vec::with_capacity(entries.len());
        for entry in entries {
            let (metadata, vectors) = entry.check(self.model.dim)?;
            prepared.push(write::Prepared {
                item: &entry.item,
                metadata,
                vectors,
            });
        }
        write::upsert(&mut connection, &prepared, self.cx())
    }

    fn delete(&self, keys: &[&str]) -> Result<usize, StoreError> {
        write::delete(&mut *self.writer()?, keys, self.cx())
    }

    fn annotate(&self, changes: &[(&str, Metadata)]) -> Result<usize, StoreError> {
        write::annotate(&mut *self.writer()?, changes, self.cx())
    }

    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.snapshot(|connection| {
            self.check_model(connection)?;
            read::entry(connection, key, self.model.dim, self.cx())
        })
    }

    fn search(&self, query: &[f32], options: &SearchOptions) -> Result<Found, StoreError> {
        let mut found = self.search_many(&[query], options)?;
        found
            .pop()
            .ok_or_else(|| self.cx().corrupt("a search without a result".to_owned()))
    }

    fn search_many(&self, queries: &[&[f32]], options: &SearchOptions) -> Result<Vec<Found>, StoreError> {
        let dim = self.model.dim;
        let queries = queries.iter().map(|query| unit(query, dim, || "the query".to_owned()));
        let queries: Vec<Vec<f32>> = queries.collect::<Result<_, _>>()?;
        #[cfg(feature = "hnsw")]
        {
            let more = u32::try_from(queries.len()).unwrap_or(u32::MAX);
            let asked = self.asked.load(Ordering::Relaxed);
            self.asked.store(asked.saturating_add(more), Ordering::Relaxed);
        }
        // The connection is free while the vectors are scanned, so that searches run side by side.
        for _ in 0..FREE_ATTEMPTS {
            let prepared = self.snapshot(|connection| self.prepare(connection, options))?;
            if let Some(scanned) = self.scan(&queries, options, &prepared)
                && let Some(found) = self.snapshot(|connection| self.found(connection, scanned))?
            {
                return Ok(found);
            }
        }
        self.snapshot(|connection| {
            let prepared = self.prepare(connection, options)?;
            let missing = || self.cx().corrupt("a vector has no item".to_owned());
            let scanned = self.scan(&queries, options, &prepared).ok_or_else(missing)?;
            self.found(connection, scanned)?.ok_or_else(missing)
        })
    }

    fn list(&self, options: &ListOptions) -> Result<Vec<Item>, StoreError> {
        read::list(&self.connection(), options, self.cx())
    }

    fn entries(&self, options: &ListOptions) -> Result<Vec<Entry>, StoreError> {
        self.snapshot(|connection| {
            self.check_model(connection)?;
            read::entries(connection, options, self.model.dim, self.cx())
        })
    }

    fn thumbnail(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        read::thumbnail(&self.connection(), key, self.cx())
    }

    fn count(&self) -> Result<u64, StoreError> {
        read::count(&self.connection(), self.cx())
    }

    fn matching(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.snapshot(|connection| {
            let generation = cache::current(connection, self.cx())?;
            Ok(self.chosen(connection, generation, filter)?.len() as u64)
        })
    }

    fn files(&self) -> Result<Vec<FileFacts>, StoreError> {
        read::files(&self.connection(), self.cx())
    }

    fn note_failures(&self, failed: &[Failure], solved: &[&str]) -> Result<(), StoreError> {
        write::note_failures(&mut *self.writer()?, failed, solved, self.cx())
    }

    fn failures(&self) -> Result<Vec<Failure>, StoreError> {
        read::failures(&self.connection(), self.cx())
    }

    fn flush(&self) -> Result<(), StoreError> {
        let connection = self.writer()?;
        let fail = |e| self.cx().engine("merging what was written", e);
        // Both pragmas answer with rows, whose content does not matter: a reader that is in the way only delays the merge.
        for pragma in ["PRAGMA incremental_vacuum", "PRAGMA wal_checkpoint(TRUNCATE)"] {
            let mut statement = connection.prepare(pragma).map_err(fail)?;
            let mut rows = statement.query([]).map_err(fail)?;
            while rows.next().map_err(fail)?.is_some() {}
        }
        #[cfg(feature = "hnsw")]
        {
            drop(connection);
            self.write_graph()?;
        }
        Ok(())
    }

    fn stats(&self) -> Result<Stats, StoreError> {
        let memory_bytes = self.cache.read().unwrap_or_else(PoisonError::into_inner).bytes() as u64;
        let size = |name: &str| std::fs::metadata(self.dir.join(name)).map_or(0, |m| m.len());
        self.snapshot(|connection| {
            Ok(Stats {
                items: read::count(connection, self.cx())?,
                model: self.model.clone(),
                disk_bytes: size("store.db") + size("store.db-wal") + size("vectors.hnsw"),
                memory_bytes,
                generation: u64::try_from(cache::current(connection, self.cx())?).unwrap_or(0),
            })
        })
    }

    fn open_beside(&self, model: &ModelId) -> Result<Box<dyn Store>, StoreError> {
        drop(self.writer()?);
        let dir = self.dir.join(BESIDE);
        let opened = match Self::open_writer(&dir, model) {
            // of another model, and given up
            Err(StoreError::ModelMismatch { .. }) => {
                self.remove_beside()?;
                Self::open_writer(&dir, model)
            }
            other => other,
        };
        Ok(Box::new(opened?))
    }

    fn replace_with_beside(&self) -> Result<(), StoreError> {
        self.replace_with(&self.dir.join(BESIDE))?;
        self.flush()?;
        self.remove_beside()
    }
}
