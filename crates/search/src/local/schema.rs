//! The tables, their version, and how a connection is set up.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use crate::error::StoreError;
use crate::store::ModelId;

use super::engine::Context;

/// Marks the file as a Bifocal store in SQLite's header: "Bifc".
const APPLICATION: i64 = 0x4269_6663;
/// The version of the tables below. 1: one vector an item; 2: several, one after another in the same blob; 3: failures are remembered.
pub(super) const FORMAT: i64 = 3;
/// The oldest version that is read, and brought up to date by the next writer.
const OLDEST: i64 = 1;
/// Widest embedding.
const MAX_DIM: usize = 65_536;

/// Vectors and thumbnails have tables of their own, so that reading all vectors passes over nothing else.
/// An item that is replaced gets a new id, and ids are never used again: "all ids above the largest that I know" and
/// "ids removed since generation g" are then enough to bring vectors in memory up to date.
const TABLES: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE items (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        modified_ns INTEGER NOT NULL,
        hash BLOB NOT NULL,
        metadata TEXT NOT NULL
    ) STRICT;
    CREATE TABLE vectors (
        id INTEGER PRIMARY KEY REFERENCES items(id) ON DELETE CASCADE,
        f16 BLOB NOT NULL
    ) STRICT;
    CREATE TABLE thumbnails (
        id INTEGER PRIMARY KEY REFERENCES items(id) ON DELETE CASCADE,
        jpeg BLOB NOT NULL
    ) STRICT;
    CREATE TABLE removed (id INTEGER PRIMARY KEY, generation INTEGER NOT NULL) STRICT;
    CREATE INDEX removed_generation ON removed (generation);
";

/// What could not be indexed. Nothing refers to it: a failure has no item, or an older one.
const FAILURES: &str = "
    CREATE TABLE IF NOT EXISTS failures (
        key TEXT PRIMARY KEY,
        size INTEGER NOT NULL,
        modified_ns INTEGER NOT NULL,
        cause TEXT NOT NULL,
        reason TEXT NOT NULL,
        at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// Settings of every connection.
pub(super) fn set_up(connection: &Connection, cx: Context) -> Result<(), StoreError> {
    connection
        .busy_timeout(std::time::Duration::from_secs(10))
        .and_then(|()| connection.pragma_update(None, "foreign_keys", true))
        .and_then(|()| connection.pragma_update(None, "trusted_schema", false))
        .and_then(|()| connection.pragma_update(None, "cell_size_check", true))
        .map_err(|e| cx.engine("setting it up", e))
}

/// Settings of the writer's connection; the first ones take effect before there are tables.
pub(super) fn set_up_writer(connection: &Connection, cx: Context) -> Result<(), StoreError> {
    connection
        .pragma_update(None, "auto_vacuum", "incremental")
        .and_then(|()| connection.pragma_update(None, "journal_mode", "wal"))
        // Durable when the call returns, also when the power fails.
        .and_then(|()| connection.pragma_update(None, "synchronous", "full"))
        .and_then(|()| connection.pragma_update(None, "journal_size_limit", 64 << 20))
        .map_err(|e| cx.engine("setting it up for writing", e))
}

/// Whether the file holds a store of a format that is known here; `false`: it is empty.
pub(super) fn check(connection: &Connection, cx: Context, file: &Path) -> Result<bool, StoreError> {
    let number = |name| {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .map_err(|e| cx.engine("reading its header", e))
    };
    let (application, format) = (number("application_id")?, number("user_version")?);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|e| cx.engine("reading its tables", e))?;
    if tables == 0 && application == 0 && format == 0 {
        return Ok(false);
    }
    if application != APPLICATION {
        return Err(StoreError::Foreign { path: file.to_owned() });
    }
    if format > FORMAT {
        return Err(StoreError::NewerFormat {
            path: cx.path.to_owned(),
            found: format,
            known: FORMAT,
        });
    }
    if format < OLDEST {
        return Err(cx.corrupt(format!("its format is {format}")));
    }
    Ok(true)
}

/// Brings a store of an older format, which [`check`] has let pass, up to date.
pub(super) fn migrate(connection: &mut Connection, cx: Context) -> Result<(), StoreError> {
    // From 1 to 2 nothing has to be rewritten: one vector is a list of one.
    let mut run = || {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let format: i64 = tx.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if format < 3 {
            tx.execute_batch(FAILURES)?;
        }
        if format < FORMAT {
            tx.pragma_update(None, "user_version", FORMAT)?;
        }
        tx.commit()
    };
    run().map_err(|e| cx.engine("bringing it up to date", e))
}

/// Creates the tables in one transaction: a process that is killed here leaves an empty file or a whole store.
pub(super) fn create(connection: &mut Connection, model: &ModelId, cx: Context) -> Result<(), StoreError> {
    if model.dim == 0 || model.dim > MAX_DIM || model.fingerprint.is_empty() {
        let what = format!(
            "a model of {} dimensions with fingerprint {:?}",
            model.dim, model.fingerprint
        );
        return Err(StoreError::Invalid {
            what,
            why: "cannot be stored: 1 to 65536 dimensions and a fingerprint are needed",
        });
    }
    let fill = |tx: &Transaction| {
        tx.execute_batch(TABLES)?;
        tx.execute_batch(FAILURES)?;
        let mut insert = tx.prepare("INSERT INTO meta (key, value) VALUES (?1, ?2)")?;
        insert.execute(("model.fingerprint", &model.fingerprint))?;
        insert.execute(("model.dim", model.dim as i64))?;
        insert.execute(("model.name", &model.name))?;
        insert.execute(("generation", 0))?;
        tx.pragma_update(None, "application_id", APPLICATION)?;
        tx.pragma_update(None, "user_version", FORMAT)
    };
    let tx = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(|e| cx.engine("creating it", e))?;
    fill(&tx)
        .and_then(|()| tx.commit())
        .map_err(|e| cx.engine("creating it", e))
}

/// The model that the store was created for.
pub(super) fn model(connection: &Connection, cx: Context) -> Result<ModelId, StoreError> {
    let missing = |what: &str| cx.corrupt(format!("{what} is missing or not of its type"));
    let text = |key: &str| {
        connection
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| {
                row.get::<_, String>(0)
            })
            .optional()
            .ok()
            .flatten()
            .ok_or_else(|| missing(key))
    };
    let dim = connection
        .query_row("SELECT value FROM meta WHERE key = 'model.dim'", [], |row| {
            row.get::<_, i64>(0)
        })
        .ok()
        .and_then(|d| usize::try_from(d).ok())
        .filter(|d| (1..=MAX_DIM).contains(d))
        .ok_or_else(|| missing("model.dim"))?;
    Ok(ModelId {
        fingerprint: text("model.fingerprint")?,
        dim,
        name: text("model.name")?,
    })
}

/// How many writing calls have changed the store.
pub(super) fn generation(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE key = 'generation'")?
        .query_row([], |row| row.get(0))
}
