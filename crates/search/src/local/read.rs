//! The statements of the reading calls.

use half::f16;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::error::StoreError;
use crate::failure::Failure;
use crate::filter::Filter;
use crate::item::{ContentHash, Entry, FileFacts, Item, Metadata};
use crate::store::{Hit, ListOptions, from_bytes};

use super::engine::Context;
use super::top::Best;

/// One item with everything.
pub(super) fn entry(connection: &Connection, key: &str, dim: usize, cx: Context) -> Result<Option<Entry>, StoreError> {
    const SELECT: &str = "SELECT key, size, modified_ns, hash, metadata, f16, jpeg \
        FROM items JOIN vectors USING (id) LEFT JOIN thumbnails USING (id) WHERE key = ?1";
    let fail = |e| cx.engine("reading an item", e);
    let mut statement = connection.prepare_cached(SELECT).map_err(fail)?;
    let mut rows = statement.query([key]).map_err(fail)?;
    let Some(row) = rows.next().map_err(fail)? else {
        return Ok(None);
    };
    let mut item = item(row, cx)?;
    item.thumbnail = row.get(6).map_err(fail)?;
    let vectors = vectors(row, 5, &item.file.key, dim, cx)?;
    Ok(Some(Entry { item, vectors }))
}

/// The item in the first five columns, without its thumbnail.
fn item(row: &Row, cx: Context) -> Result<Item, StoreError> {
    let read = || Ok((facts(row)?, row.get_ref(4)?.as_str()?));
    let (file, metadata) = read().map_err(|e: rusqlite::Error| cx.engine("reading an item", e))?;
    Ok(Item {
        metadata: parse(metadata, &file.key, cx)?,
        file,
        thumbnail: None,
    })
}

fn vectors(row: &Row, column: usize, key: &str, dim: usize, cx: Context) -> Result<Vec<Vec<f32>>, StoreError> {
    let bytes = row
        .get_ref(column)
        .and_then(|v| Ok(v.as_blob()?))
        .map_err(|e| cx.engine("reading vectors", e))?;
    let values: Vec<f32> = from_bytes(bytes, dim)
        .ok_or_else(|| cx.corrupt(format!("the vectors of {key} are not {dim} numbers each")))?
        .map(f16::to_f32)
        .collect();
    Ok(values.chunks_exact(dim).map(<[f32]>::to_vec).collect())
}

/// A page of items in the order of their keys.
pub(super) fn list(connection: &Connection, options: &ListOptions, cx: Context) -> Result<Vec<Item>, StoreError> {
    const SELECT: &str = "SELECT key, size, modified_ns, hash, metadata FROM items WHERE key > ?1 ORDER BY key";
    page(connection, SELECT, options, cx, |_, item| Ok(item))
}

/// A page of items with their vectors.
pub(super) fn entries(
    connection: &Connection,
    options: &ListOptions,
    dim: usize,
    cx: Context,
) -> Result<Vec<Entry>, StoreError> {
    const SELECT: &str = "SELECT key, size, modified_ns, hash, metadata, f16 \
        FROM items JOIN vectors USING (id) WHERE key > ?1 ORDER BY key";
    page(connection, SELECT, options, cx, |row, item| {
        let vectors = vectors(row, 5, &item.file.key, dim, cx)?;
        Ok(Entry { item, vectors })
    })
}

fn page<T>(
    connection: &Connection,
    select: &str,
    options: &ListOptions,
    cx: Context,
    make: impl Fn(&Row, Item) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let fail = |e| cx.engine("listing items", e);
    let mut statement = connection.prepare_cached(select).map_err(fail)?;
    // No key is empty.
    let mut rows = statement
        .query([options.after.as_deref().unwrap_or_default()])
        .map_err(fail)?;
    let mut page = Vec::new();
    while page.len() < options.limit {
        let Some(row) = rows.next().map_err(fail)? else {
            break;
        };
        let item = item(row, cx)?;
        if options
            .filter
            .as_ref()
            .is_none_or(|f| f.matches(&item.file, &item.metadata))
        {
            page.push(make(row, item)?);
        }
    }
    Ok(page)
}

/// The ids of all items that satisfy a filter, ascending.
pub(super) fn matching(connection: &Connection, filter: &Filter, cx: Context) -> Result<Vec<i64>, StoreError> {
    let fail = |e| cx.engine("filtering items", e);
    let mut statement = connection
        .prepare_cached("SELECT key, size, modified_ns, hash, metadata, id FROM items ORDER BY id")
        .map_err(fail)?;
    let mut rows = statement.query([]).map_err(fail)?;
    let mut ids = Vec::new();
    while let Some(row) = rows.next().map_err(fail)? {
        let matches = if filter.needs_metadata() {
            let item = item(row, cx)?;
            filter.matches(&item.file, &item.metadata)
        } else {
            filter.matches(&facts(row).map_err(fail)?, &Metadata::new())
        };
        if matches {
            ids.push(row.get(5).map_err(fail)?);
        }
    }
    Ok(ids)
}

/// The ids of those of the keys that are there.
pub(super) fn ids(connection: &Connection, keys: &[String], cx: Context) -> Result<Vec<i64>, StoreError> {
    let read = || {
        let mut statement = connection.prepare_cached("SELECT id FROM items WHERE key = ?1")?;
        let mut ids = Vec::with_capacity(keys.len());
        for key in keys {
            ids.extend(statement.query_row([key], |row| row.get::<_, i64>(0)).optional()?);
        }
        Ok(ids)
    };
    read().map_err(|e| cx.engine("looking up keys", e))
}

pub(super) fn thumbnail(connection: &Connection, key: &str, cx: Context) -> Result<Option<Vec<u8>>, StoreError> {
    connection
        .prepare_cached("SELECT jpeg FROM items JOIN thumbnails USING (id) WHERE key = ?1")
        .and_then(|mut s| s.query_row([key], |row| row.get(0)).optional())
        .map_err(|e| cx.engine("reading a thumbnail", e))
}

/// File facts of all items in the order of their keys.
pub(super) fn files(connection: &Connection, cx: Context) -> Result<Vec<FileFacts>, StoreError> {
    let read = || {
        let mut statement = connection.prepare_cached("SELECT key, size, modified_ns, hash FROM items ORDER BY key")?;
        statement.query_map([], facts)?.collect::<rusqlite::Result<Vec<_>>>()
    };
    read().map_err(|e| cx.engine("listing items", e))
}

/// What could not be indexed, in the order of keys; nothing in a store of an older format.
pub(super) fn failures(connection: &Connection, cx: Context) -> Result<Vec<Failure>, StoreError> {
    const TABLE: &str = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'failures')";
    const SELECT: &str = "SELECT key, size, modified_ns, cause, reason, at FROM failures ORDER BY key";
    let one = |row: &Row| {
        Ok(Failure {
            key: row.get(0)?,
            size: unsigned(row, 1)?,
            modified_ns: row.get(2)?,
            cause: row.get(3)?,
            reason: row.get(4)?,
            at: row.get(5)?,
        })
    };
    let read = || {
        if !connection.query_row(TABLE, [], |row| row.get::<_, bool>(0))? {
            return Ok(Vec::new());
        }
        let mut statement = connection.prepare_cached(SELECT)?;
        statement.query_map([], one)?.collect::<rusqlite::Result<Vec<_>>>()
    };
    read().map_err(|e| cx.engine("listing failures", e))
}

/// How many items there are.
pub(super) fn count(connection: &Connection, cx: Context) -> Result<u64, StoreError> {
    connection
        .prepare_cached("SELECT count(*) FROM items")
        .and_then(|mut s| s.query_row([], |row| unsigned(row, 0)))
        .map_err(|e| cx.engine("counting items", e))
}

/// How many items there are whose ids are not above `last`.
#[cfg(feature = "hnsw")]
pub(super) fn count_until(connection: &Connection, last: i64, cx: Context) -> Result<u64, StoreError> {
    connection
        .prepare_cached("SELECT count(*) FROM items WHERE id <= ?1")
        .and_then(|mut s| s.query_row([last], |row| unsigned(row, 0)))
        .map_err(|e| cx.engine("counting items", e))
}

/// The hit for an item, or `None` when it is no longer there.
pub(super) fn hit(connection: &Connection, best: &Best, cx: Context) -> Result<Option<Hit>, StoreError> {
    let found: Option<(String, u64, i64, String)> = connection
        .prepare_cached("SELECT key, size, modified_ns, metadata FROM items WHERE id = ?1")
        .and_then(|mut s| {
            s.query_row([best.id], |row| {
                Ok((row.get(0)?, unsigned(row, 1)?, row.get(2)?, row.get(3)?))
            })
            .optional()
        })
        .map_err(|e| cx.engine("reading hits", e))?;
    found
        .map(|(key, size, modified_ns, metadata)| {
            Ok(Hit {
                metadata: parse(&metadata, &key, cx)?,
                key,
                score: best.score,
                part: best.part,
                size,
                modified_ns,
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

/// The metadata of an item as it is stored.
pub(super) fn parse(metadata: &str, key: &str, cx: Context) -> Result<Metadata, StoreError> {
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
    let wrong = number(
        "SELECT count(*) FROM vectors WHERE length(f16) % ?1 <> 0 OR length(f16) = 0",
        2 * dim as i64,
    )?;
    if wrong > 0 {
        return Err(cx.corrupt(format!(
            "the vectors of {wrong} items do not have {dim} dimensions each"
        )));
    }
    Ok(())
}
