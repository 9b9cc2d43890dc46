//! A store in PostgreSQL with pgvector, for collections and teams that outgrow one machine. `docs/postgres.md` is for users.
//!
//! One store is one schema. One process writes, which an advisory lock of its connection sees to; any number reads, each call one snapshot.
//! A connection that breaks is made again: reading calls are repeated, writing ones fail, and the next one works.

mod address;
mod connection;
mod filter;
mod read;
mod schema;
mod search;
mod swap;
mod tls;
mod write;

use postgres::Transaction;

use crate::error::StoreError;
use crate::failure::Failure as Remembered;
use crate::filter::Filter;
use crate::item::{Entry, FileFacts, Item, Metadata};
use crate::store::{Found, ListOptions, ModelId, SearchOptions, Stats, Store, unit};

use address::Address;
use connection::{Connections, Failure};
use schema::State;

/// A store in a PostgreSQL database.
pub struct PgStore {
    connections: Connections,
    model: ModelId,
}

impl PgStore {
    /// Opens the store at `postgres://user:password@host:port/database?store=name` for writing, and creates it when it is not there.
    ///
    /// # Errors
    /// Another writer, a store of another model, a schema that is no store or of a later format, a server without pgvector 0.8,
    /// an address that cannot be read, a server that cannot be reached or refuses.
    pub fn open_writer(address: &str, model: &ModelId) -> Result<Self, StoreError> {
        Self::writer(Address::parse(address)?, model)
    }

    fn writer(address: Address, model: &ModelId) -> Result<Self, StoreError> {
        let connections = Connections::writer(address)?;
        let place = &connections.address;
        let stored = connections.write("opening it", |tx| {
            if schema::check(tx, place)?.is_some() {
                fit(place, schema::state(tx, place, false)?.model, Some(model))?;
            }
            schema::migrate(tx, place, model)?;
            Ok(schema::state(tx, place, false)?.model)
        })?;
        let store = Self {
            connections,
            model: stored,
        };
        store.index()?;
        Ok(store)
    }

    /// Opens the store for reading, also while another process writes it. With a model, the store has to be of that model.
    ///
    /// # Errors
    /// No store, and those of [`PgStore::open_writer`] but another writer.
    pub fn open_reader(address: &str, model: Option<&ModelId>) -> Result<Self, StoreError> {
        let connections = Connections::reader(Address::parse(address)?)?;
        let place = &connections.address;
        let stored = connections.snapshot("opening it", |tx| {
            if schema::check(tx, place)?.is_none() {
                return Err(StoreError::Missing {
                    path: place.shown.clone(),
                }
                .into());
            }
            let stored = schema::state(tx, place, false)?.model;
            fit(place, stored.clone(), model)?;
            Ok(stored)
        })?;
        Ok(Self {
            connections,
            model: stored,
        })
    }

    fn address(&self) -> &Address {
        &self.connections.address
    }

    /// Refuses what another process has put in this one's place with another model.
    fn state(&self, tx: &mut Transaction) -> Result<State, Failure> {
        let state = schema::state(tx, self.address(), false)?;
        fit(self.address(), state.model.clone(), Some(&self.model))?;
        Ok(state)
    }

    /// Builds the index of a large collection, once.
    fn index(&self) -> Result<(), StoreError> {
        self.connections
            .write("building the index", |tx| schema::index(tx, self.address()))
    }
}

/// Refuses a model that is not the store's.
fn fit(address: &Address, stored: ModelId, given: Option<&ModelId>) -> Result<(), StoreError> {
    match given {
        Some(given) if !stored.fits(given) => Err(StoreError::ModelMismatch {
            path: address.shown.clone(),
            stored: Box::new(stored),
            given: Box::new(given.clone()),
        }),
        _ => Ok(()),
    }
}

impl Store for PgStore {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn model(&self) -> &ModelId {
        &self.model
    }

    fn upsert(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let prepared = entries.iter().map(|entry| write::Prepared::of(entry, self.model.dim));
        let prepared: Vec<write::Prepared> = prepared.collect::<Result<_, _>>()?;
        self.connections.write("storing items", |tx| {
            self.state(tx)?;
            write::upsert(tx, self.address(), &prepared)
        })
    }

    fn delete(&self, keys: &[&str]) -> Result<usize, StoreError> {
        self.connections
            .write("deleting items", |tx| write::delete(tx, self.address(), keys))
    }

    fn annotate(&self, changes: &[(&str, Metadata)]) -> Result<usize, StoreError> {
        self.connections
            .write("changing metadata", |tx| write::annotate(tx, self.address(), changes))
    }

    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        if !read::is_key(key) {
            return Ok(None);
        }
        self.connections.snapshot("reading an item", |tx| {
            self.state(tx)?;
            read::entry(tx, self.address(), key, self.model.dim)
        })
    }

    fn search(&self, query: &[f32], options: &SearchOptions) -> Result<Found, StoreError> {
        let mut found = self.search_many(&[query], options)?;
        found
            .pop()
            .ok_or_else(|| read::corrupt(self.address(), "a search without a result".to_owned()))
    }

    fn search_many(&self, queries: &[&[f32]], options: &SearchOptions) -> Result<Vec<Found>, StoreError> {
        let queries = queries
            .iter()
            .map(|query| unit(query, self.model.dim, || "the query".to_owned()));
        let queries: Vec<Vec<f32>> = queries.collect::<Result<_, _>>()?;
        self.connections.snapshot("searching", |tx| {
            let items = u64::try_from(self.state(tx)?.items).unwrap_or(0);
            search::search(tx, self.address(), &queries, options, items)
        })
    }

    fn list(&self, options: &ListOptions) -> Result<Vec<Item>, StoreError> {
        self.connections
            .snapshot("listing items", |tx| read::list(tx, self.address(), options))
    }

    fn entries(&self, options: &ListOptions) -> Result<Vec<Entry>, StoreError> {
        self.connections.snapshot("listing items", |tx| {
            self.state(tx)?;
            read::entries(tx, self.address(), options, self.model.dim)
        })
    }

    fn thumbnail(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        if !read::is_key(key) {
            return Ok(None);
        }
        self.connections.read("reading a thumbnail", |client| {
            read::thumbnail(client, self.address(), key)
        })
    }

    fn count(&self) -> Result<u64, StoreError> {
        let state = self
            .connections
            .read("counting items", |client| schema::state(client, self.address(), false))?;
        Ok(u64::try_from(state.items).unwrap_or(0))
    }

    fn matching(&self, filter: &Filter) -> Result<u64, StoreError> {
        self.connections.snapshot("counting items", |tx| {
            let items = self.state(tx)?.items;
            search::matching(tx, self.address(), filter, u64::try_from(items).unwrap_or(0))
        })
    }

    fn files(&self) -> Result<Vec<FileFacts>, StoreError> {
        self.connections
            .read("listing items", |client| read::files(client, self.address()))
    }

    fn note_failures(&self, failed: &[Remembered], solved: &[&str]) -> Result<(), StoreError> {
        self.connections.write("remembering failures", |tx| {
            write::note_failures(tx, self.address(), failed, solved)
        })
    }

    fn failures(&self) -> Result<Vec<Remembered>, StoreError> {
        self.connections
            .snapshot("listing failures", |tx| read::failures(tx, self.address()))
    }

    fn flush(&self) -> Result<(), StoreError> {
        // Merging and freeing space is what the server's autovacuum does.
        self.index()
    }

    fn stats(&self) -> Result<Stats, StoreError> {
        const BYTES: &str = "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class \
            WHERE relnamespace = to_regnamespace($1) AND relkind = 'r'";
        self.connections.snapshot("reading its numbers", |tx| {
            let state = self.state(tx)?;
            let bytes: i64 = tx.query_one(BYTES, &[&self.address().store])?.get(0);
            Ok(Stats {
                items: u64::try_from(state.items).unwrap_or(0),
                model: state.model,
                disk_bytes: u64::try_from(bytes).unwrap_or(0),
                memory_bytes: 0,
                generation: u64::try_from(state.generation).unwrap_or(0),
            })
        })
    }

    fn open_beside(&self, model: &ModelId) -> Result<Box<dyn Store>, StoreError> {
        let (address, beside) = (self.address(), self.address().beside());
        let write = |run: fn(&mut Transaction, &Address, &Address) -> Result<(), Failure>| {
            self.connections
                .write("making room beside it", |tx| run(tx, address, &beside))
        };
        write(swap::prepare)?;
        let opened = match Self::writer(beside.clone(), model) {
            // Of another model, and given up.
            Err(StoreError::ModelMismatch { .. }) => {
                write(swap::empty)?;
                Self::writer(beside.clone(), model)
            }
            other => other,
        };
        Ok(Box::new(opened?))
    }

    fn replace_with_beside(&self) -> Result<(), StoreError> {
        swap::replace(&self.connections)
    }
}

impl std::fmt::Debug for PgStore {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "PgStore({}, {:?})", self.address().shown.display(), self.model)
    }
}
