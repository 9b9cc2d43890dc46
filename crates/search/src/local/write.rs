//! The statements of the writing calls, each inside one transaction.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use crate::error::StoreError;
use crate::failure::Failure as Remembered;
use crate::item::{Item, Metadata, metadata_json};

use super::engine::Context;
use super::read;

/// For so many generations the ids of removed items are remembered; who looks less often reads all vectors again.
pub(super) const KEPT_GENERATIONS: i64 = 256;

/// An entry that was checked.
pub(super) struct Prepared<'a> {
    pub(super) item: &'a Item,
    pub(super) metadata: String,
    /// All its vectors, one after another.
    pub(super) vectors: Vec<u8>,
}

/// Stores all of them or none.
pub(super) fn upsert(connection: &mut Connection, entries: &[Prepared], cx: Context) -> Result<(), StoreError> {
    transact(connection, cx, "storing items", |tx, generation| {
        for entry in entries {
            remove(tx, &entry.item.file.key, generation)?;
            insert(tx, entry)?;
        }
        Ok(entries.len())
    })
    .map(|_| ())
}

/// Removes all that are there; returns how many these were.
pub(super) fn delete(connection: &mut Connection, keys: &[&str], cx: Context) -> Result<usize, StoreError> {
    transact(connection, cx, "deleting items", |tx, generation| {
        let mut count = 0;
        for key in keys {
            count += usize::from(remove(tx, key, generation)?);
        }
        Ok(count)
    })
}

/// Changes own columns of those of the items that are there; returns how many these were.
pub(super) fn annotate(
    connection: &mut Connection,
    changes: &[(&str, Metadata)],
    cx: Context,
) -> Result<usize, StoreError> {
    transact(connection, cx, "changing metadata", |tx, _| {
        let mut count = 0;
        let mut select = tx.prepare_cached("SELECT metadata FROM items WHERE key = ?1")?;
        let mut update = tx.prepare_cached("UPDATE items SET metadata = ?2 WHERE key = ?1")?;
        for (key, change) in changes {
            let Some(before) = select.query_row([key], |row| row.get::<_, String>(0)).optional()? else {
                continue;
            };
            let mut metadata = read::parse(&before, key, cx)?;
            for (name, value) in change {
                if value.is_null() {
                    metadata.remove(name);
                } else {
                    metadata.insert(name.clone(), value.clone());
                }
            }
            update.execute((key, metadata_json(key, &metadata)?))?;
            count += 1;
        }
        Ok(count)
    })
}

/// Remembers failures and forgets others. Items stay, and with them the generation.
pub(super) fn note_failures(
    connection: &mut Connection,
    failed: &[Remembered],
    solved: &[&str],
    cx: Context,
) -> Result<(), StoreError> {
    const INSERT: &str =
        "INSERT OR REPLACE INTO failures (key, size, modified_ns, cause, reason, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let mut run = || {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for key in solved {
            tx.prepare_cached("DELETE FROM failures WHERE key = ?1")?
                .execute([key])?;
        }
        for one in failed.iter().filter(|one| one.is_storable()) {
            let size = i64::try_from(one.size).unwrap_or(i64::MAX);
            let (cause, reason) = (Remembered::short(&one.cause), Remembered::short(&one.reason));
            tx.prepare_cached(INSERT)?
                .execute((&one.key, size, one.modified_ns, cause, reason, one.at))?;
        }
        tx.commit()
    };
    run().map_err(|e| cx.engine("remembering failures", e))
}

/// Runs `change` with the number of the generation that it makes; when it changes nothing there is no new generation.
fn transact(
    connection: &mut Connection,
    cx: Context,
    action: &'static str,
    change: impl FnOnce(&Transaction, i64) -> Result<usize, Failure>,
) -> Result<usize, StoreError> {
    let run = || {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let generation = super::schema::generation(&tx)? + 1;
        let count = change(&tx, generation)?;
        if count > 0 {
            tx.prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'generation'")?
                .execute([generation])?;
            tx.prepare_cached("DELETE FROM removed WHERE generation <= ?1")?
                .execute([generation - KEPT_GENERATIONS])?;
        }
        tx.commit()?;
        Ok(count)
    };
    run().map_err(|e| match e {
        Failure::Engine(e) => cx.engine(action, e),
        Failure::Store(e) => e,
    })
}

/// What ends a transaction before it is committed.
enum Failure {
    Engine(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Engine(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn remove(tx: &Transaction, key: &str, generation: i64) -> rusqlite::Result<bool> {
    let id: Option<i64> = tx
        .prepare_cached("DELETE FROM items WHERE key = ?1 RETURNING id")?
        .query_row([key], |row| row.get(0))
        .optional()?;
    if let Some(id) = id {
        tx.prepare_cached("INSERT INTO removed (id, generation) VALUES (?1, ?2)")?
            .execute((id, generation))?;
    }
    Ok(id.is_some())
}

fn insert(tx: &Transaction, entry: &Prepared) -> rusqlite::Result<()> {
    let file = &entry.item.file;
    // `Item::check` has refused sizes beyond i64.
    let size = i64::try_from(file.size).unwrap_or(i64::MAX);
    tx.prepare_cached("INSERT INTO items (key, size, modified_ns, hash, metadata) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((&file.key, size, file.modified_ns, &file.hash.0[..], &entry.metadata))?;
    let id = tx.last_insert_rowid();
    tx.prepare_cached("INSERT INTO vectors (id, f16) VALUES (?1, ?2)")?
        .execute((id, &entry.vectors))?;
    if let Some(jpeg) = &entry.item.thumbnail {
        tx.prepare_cached("INSERT INTO thumbnails (id, jpeg) VALUES (?1, ?2)")?
            .execute((id, jpeg))?;
    }
    Ok(())
}
