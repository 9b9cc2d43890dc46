//! The statements of the reading calls.

use half::f16;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::error::StoreError;
use crate::item::{ContentHash, Entry, FileFacts, Item, Metadata};
use crate::store::{Hit, from_bytes};

use super::engine::Context;

/// One item with everything.
pub(super) fn entry(connection: &Connection, key: &str, dim: usize, cx: Context) -> Result<Option<Entry>, StoreError> {
    const SELECT: &str = "SELECT key, size, modified_ns, hash, metadata, f16, jpeg \
        FROM items JOIN vectors USING (id) LEFT JOIN thumbnails USING (id) WHERE key = ?1";
    let found = connection
        .prepare_cached(SELECT)
        .and_then(|mut s| {
            s.query_row([key], |row| {
                let rest: (String, Vec<u8>, Option<Vec<u8>>) = (row.get(4)?, row.get(5)?, row.get(6)?);
                Ok((facts(row)?, rest))
            })
            .optional()
        })
        .map_err(|e| cx.engine("reading an item", e))?;
    let Some((file, (metadata, bytes, thumbnail))) = found else {
        return Ok(None);
    };
    let vector: Vec<f32> = from_bytes(&bytes, dim)
        .ok_or_else(|| cx.corrupt(format!("the vector of {key} is not {dim} numbers")))?
        .map(f16::to_f32)
        .collect();
    let metadata = parse(&metadata, key, cx)?;
    Ok(Some(Entry {
        item: Item {
            file,
            metadata,
            thumbnail,
        },
        vector,
    }))
}

/// File facts of all items in the order of their keys.
pub(super) fn files(connection: &Connection, cx: Context) -> Result<Vec<FileFacts>, StoreError> {
    let read = || {
        let mut statement = connection.prepare_cached("SELECT key, size, modified_ns, hash FROM items ORDER BY key")?;
        statement.query_map([], facts)?.collect::<rusqlite::Result<Vec<_>>>()
    };
    read().map_err(|e| cx.engine("listing items", e))
}

/// How many items there are.
pub(super) fn count(connection: &Connection, cx: Context) -> Result<u64, StoreError> {
    connection
        .prepare_cached("SELECT count(*) FROM items")
        .and_then(|mut s| s.query_row([], |row| unsigned(row, 0)))
        .map_err(|e| cx.engine("counting items", e))
}

/// The hit for an id, or `None` when the item is no longer there.
pub(super) fn hit(connection: &Connection, id: i64, score: f32, cx: Context) -> Result<Option<Hit>, StoreError> {
    let found: Option<(String, String)> = connection
        .prepare_cached("SELECT key, metadata FROM items WHERE id = ?1")
        .and_then(|mut s| s.query_row([id], |row| Ok((row.get(0)?, row.get(1)?))).optional())
        .map_err(|e| cx.engine("reading hits", e))?;
    found
        .map(|(key, metadata)| {
            Ok(Hit {
                metadata: parse(&metadata, &key, cx)?,
                key,
                score,
            })
        })
        .transpose()
}

fn facts(row: &Row) -> rusqlite::Result<FileFacts> {
    Ok(FileFacts {
        key: row.get(0)?,
        size: unsigned(row, 1)?,
        modified_ns: row.get(2)?,
        hash: ContentHash(row.get(3)?),
    })
}

/// SQLite's integers are signed; a negative one in such a column was not written here.
fn unsigned(row: &Row, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

fn parse(metadata: &str, key: &str, cx: Context) -> Result<Metadata, StoreError> {
    serde_json::from_str(metadata).map_err(|e| cx.corrupt(format!("the metadata of {key} is not a JSON object: {e}")))
}

/// Looks for what cannot be in a sound store; the first problem that is found.
pub(super) fn verify(connection: &Connection, dim: usize, cx: Context) -> Result<(), StoreError> {
    let fail = |e| cx.engine("checking it", e);
    let text = |sql: &str| {
        connection
            .query_row(sql, [], |row| row.get::<_, String>(0))
            .optional()
            .map_err(fail)
    };
    match text("PRAGMA integrity_check(1)")? {
        Some(result) if result == "ok" => {}
        other => return Err(cx.corrupt(other.unwrap_or_default())),
    }
    if let Some(table) = text("PRAGMA foreign_key_check")? {
        return Err(cx.corrupt(format!("{table} has a row without an item")));
    }
    let number = |sql: &str, value: i64| {
        connection
            .query_row(sql, [value], |row| row.get::<_, i64>(0))
            .map_err(fail)
    };
    let bare = number(
        "SELECT count(*) FROM items WHERE id NOT IN (SELECT id FROM vectors) AND ?1 = ?1",
        0,
    )?;
    if bare > 0 {
        return Err(cx.corrupt(format!("{bare} items have no vector")));
    }
    let wrong = number("SELECT count(*) FROM vectors WHERE length(f16) <> ?1", 2 * dim as i64)?;
    if wrong > 0 {
        return Err(cx.corrupt(format!("{wrong} vectors do not have {dim} dimensions")));
    }
    Ok(())
}
