//! The tables, their versions, and what the store remembers of itself.

use postgres::{GenericClient, Transaction};

use crate::error::StoreError;
use crate::store::ModelId;

use super::address::Address;
use super::connection::Failure;

/// What brings a store from each version to the next one; the first creates it. `@` is the schema, `#` the width of the vectors.
///
/// `own` is the metadata once more, for filters; null where PostgreSQL's JSON cannot hold or find it (see `filter::own`).
/// Sizes and times of SQLite's store are kept to the bit. Ids are given by the one writer, in the order of storing, and never twice.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE @state (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),
        fingerprint text NOT NULL,
        dim integer NOT NULL,
        name text NOT NULL,
        generation bigint NOT NULL DEFAULT 0,
        items bigint NOT NULL DEFAULT 0,
        vectors bigint NOT NULL DEFAULT 0,
        next_id bigint NOT NULL DEFAULT 1
    );
    CREATE TABLE @items (
        id bigint PRIMARY KEY,
        key text COLLATE \"C\" NOT NULL UNIQUE,
        size bigint NOT NULL CHECK (size >= 0),
        modified_ns bigint NOT NULL,
        hash bytea NOT NULL CHECK (octet_length(hash) = 32),
        metadata text NOT NULL,
        own jsonb
    );
    CREATE INDEX items_without_own ON @items (id) WHERE own IS NULL;
    CREATE TABLE @vectors (
        item bigint NOT NULL REFERENCES @items (id) ON DELETE CASCADE,
        part integer NOT NULL,
        vector halfvec(#) NOT NULL,
        PRIMARY KEY (item, part)
    );
    CREATE TABLE @thumbnails (
        item bigint PRIMARY KEY REFERENCES @items (id) ON DELETE CASCADE,
        jpeg bytea NOT NULL
    );
    -- JPEGs do not become smaller
    ALTER TABLE @thumbnails ALTER jpeg SET STORAGE EXTERNAL;
",
    "
    CREATE TABLE @failures (
        key text COLLATE \"C\" PRIMARY KEY,
        size bigint NOT NULL CHECK (size >= 0),
        modified_ns bigint NOT NULL,
        cause text NOT NULL,
        reason text NOT NULL,
        at bigint NOT NULL
    );
",
];
/// The newest version that is known here.
const FORMAT: i64 = MIGRATIONS.len() as i64;
/// Widest vector of pgvector's `halfvec`.
const MAX_DIM: usize = 16_000;
/// Widest vector that its HNSW index takes.
const MAX_INDEXED: usize = 4_000;
/// The first pgvector whose index goes on until a filter is satisfied often enough.
const PGVECTOR: (u32, u32) = (0, 8);

/// Held while the extension is made: "bifocal" in ASCII.
const EXTENSION_LOCK: i64 = 0x0062_6966_6f63_616c;

/// What the store says of itself.
pub(super) struct State {
    pub(super) model: ModelId,
    pub(super) generation: i64,
    pub(super) items: i64,
    pub(super) vectors: i64,
    pub(super) next_id: i64,
}

/// Whether there is a store, of a version that can be read.
pub(super) fn check(client: &mut impl GenericClient, address: &Address) -> Result<Option<i64>, Failure> {
    let path = || address.shown.clone();
    let known: bool = client
        .query_one("SELECT to_regclass($1) IS NOT NULL", &[&address.sql("@versions")])?
        .get(0);
    if !known {
        const TABLES: &str = "SELECT EXISTS (SELECT 1 FROM pg_class WHERE relnamespace = to_regnamespace($1))";
        let is_taken: bool = client.query_one(TABLES, &[&format!("\"{}\"", address.store)])?.get(0);
        if is_taken {
            return Err(StoreError::Foreign { path: path() }.into());
        }
        return Ok(None);
    }
    let found: Option<i64> = client
        .query_one(&address.sql("SELECT max(version)::bigint FROM @versions"), &[])?
        .get(0);
    match found {
        Some(found) if found > FORMAT => Err(StoreError::NewerFormat {
            path: path(),
            found,
            known: FORMAT,
        }
        .into()),
        Some(found) if found >= 1 => Ok(Some(found)),
        _ => Err(StoreError::Corrupt {
            path: path(),
            what: "its table of versions is empty".to_owned(),
        }
        .into()),
    }
}

/// Creates the store, or brings it up to date, in one transaction.
pub(super) fn migrate(tx: &mut Transaction, address: &Address, model: &ModelId) -> Result<(), Failure> {
    let from = check(tx, address)?.unwrap_or(0);
    if from == FORMAT {
        return Ok(());
    }
    if from == 0 {
        prepare(tx, address, model)?;
    }
    let dim = model.dim.to_string();
    for (migration, version) in MIGRATIONS.iter().zip(1i64..).filter(|(_, v)| *v > from) {
        tx.batch_execute(&address.sql(&migration.replace('#', &dim)))?;
        tx.execute(&address.sql("INSERT INTO @versions (version) VALUES ($1)"), &[&version])?;
    }
    if from == 0 {
        let dim = i32::try_from(model.dim).unwrap_or(i32::MAX);
        tx.execute(
            &address.sql("INSERT INTO @state (fingerprint, dim, name) VALUES ($1, $2, $3)"),
            &[&model.fingerprint, &dim, &model.name],
        )?;
    }
    Ok(())
}

/// What must be there before the tables.
fn prepare(tx: &mut Transaction, address: &Address, model: &ModelId) -> Result<(), Failure> {
    let refuse = |what: String, why| Err(Failure::Store(StoreError::Invalid { what, why }));
    if !(1..=MAX_DIM).contains(&model.dim) || model.fingerprint.is_empty() {
        return refuse(
            format!(
                "a model of {} dimensions with fingerprint {:?}",
                model.dim, model.fingerprint
            ),
            "cannot be stored: 1 to 16000 dimensions and a fingerprint are needed",
        );
    }
    let encoding: String = tx.query_one("SHOW server_encoding", &[])?.get(0);
    if encoding != "UTF8" {
        return refuse(
            format!("the database of {} with encoding {encoding}", address.shown.display()),
            "cannot keep a store: create one WITH ENCODING 'UTF8'",
        );
    }
    // Two processes that make it at once would be in each other's way.
    tx.execute("SELECT pg_advisory_xact_lock($1)", &[&EXTENSION_LOCK])?;
    tx.batch_execute("CREATE EXTENSION IF NOT EXISTS vector")?;
    let version: String = tx
        .query_one("SELECT extversion FROM pg_extension WHERE extname = 'vector'", &[])?
        .get(0);
    let mut numbers = version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < PGVECTOR {
        return refuse(
            format!("the database of {} with pgvector {version}", address.shown.display()),
            "cannot keep a store: install pgvector 0.8 or later, then ALTER EXTENSION vector UPDATE",
        );
    }
    let versions = "CREATE TABLE @versions (version bigint PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now())";
    let exists: bool = tx
        .query_one("SELECT to_regnamespace($1) IS NOT NULL", &[&address.store])?
        .get(0);
    // Even IF NOT EXISTS needs the right to create one, which not every owner of a schema has.
    if !exists {
        tx.batch_execute(&format!("CREATE SCHEMA \"{}\"", address.store))?;
    }
    tx.batch_execute(&address.sql(versions))?;
    Ok(())
}

/// What the store says of itself; `FOR UPDATE` where it is about to change.
pub(super) fn state(client: &mut impl GenericClient, address: &Address, changes: bool) -> Result<State, Failure> {
    let select = "SELECT fingerprint, dim, name, generation, items, vectors, next_id FROM @state";
    let lock = if changes { " FOR UPDATE" } else { "" };
    let row = client.query_opt(&address.sql(&format!("{select}{lock}")), &[])?;
    let corrupt = |what: &str| StoreError::Corrupt {
        path: address.shown.clone(),
        what: what.to_owned(),
    };
    let row = row.ok_or_else(|| corrupt("it does not know its model"))?;
    let dim = usize::try_from(row.get::<_, i32>(1))
        .ok()
        .filter(|d| (1..=MAX_DIM).contains(d));
    Ok(State {
        model: ModelId {
            fingerprint: row.get(0),
            dim: dim.ok_or_else(|| corrupt("the width of its vectors is none"))?,
            name: row.get(2),
        },
        generation: row.get(3),
        items: row.get(4),
        vectors: row.get(5),
        next_id: row.get(6),
    })
}

/// Whether the HNSW index is there and complete.
pub(super) fn is_indexed(client: &mut impl GenericClient, address: &Address) -> Result<bool, Failure> {
    const VALID: &str = "SELECT EXISTS (SELECT 1 FROM pg_index WHERE indexrelid = to_regclass($1) AND indisvalid)";
    Ok(client.query_one(VALID, &[&address.sql("@vectors_hnsw")])?.get(0))
}

/// Builds the HNSW index of a collection that is large enough for one.
pub(super) fn index(tx: &mut Transaction, address: &Address) -> Result<(), Failure> {
    let state = state(tx, address, false)?;
    let is_large = u64::try_from(state.vectors).unwrap_or(0) > address.exact_until;
    if !is_large || state.model.dim > MAX_INDEXED || is_indexed(tx, address)? {
        return Ok(());
    }
    // Unit vectors: the inner product is the cosine.
    tx.batch_execute(&address.sql(
        "CREATE INDEX vectors_hnsw ON @vectors USING hnsw (vector halfvec_ip_ops); ANALYZE @items; ANALYZE @vectors",
    ))?;
    Ok(())
}
