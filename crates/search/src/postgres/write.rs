//! The statements of the writing calls, each inside one transaction.

use std::collections::HashMap;

use half::f16;
use pgvector::HalfVector;
use postgres::Transaction;

use crate::error::StoreError;
use crate::failure::Failure as Remembered;
use crate::item::{Entry, Item, Metadata, metadata_json};
use crate::store::from_bytes;

use super::address::Address;
use super::connection::Failure;
use super::filter::own;
use super::read;
use super::schema::{self, State};

/// Bytes that go to the server in one statement, about.
const STATEMENT: usize = 4 << 20;

/// An entry that was checked.
pub(super) struct Prepared<'a> {
    item: &'a Item,
    metadata: String,
    vectors: Vec<HalfVector>,
    bytes: usize,
}

impl<'a> Prepared<'a> {
    pub(super) fn of(entry: &'a Entry, dim: usize) -> Result<Self, StoreError> {
        let (metadata, bytes) = entry.check(dim)?;
        // `check` has made them from finite numbers.
        let values: Vec<f16> = from_bytes(&bytes, dim).map(Iterator::collect).unwrap_or_default();
        let thumbnail = entry.item.thumbnail.as_ref().map_or(0, Vec::len);
        Ok(Self {
            item: &entry.item,
            bytes: 2 * metadata.len() + bytes.len() + thumbnail + entry.item.file.key.len(),
            metadata,
            vectors: values.chunks_exact(dim).map(|v| HalfVector::from(v.to_vec())).collect(),
        })
    }
}

/// Stores all of them.
pub(super) fn upsert(tx: &mut Transaction, address: &Address, entries: &[Prepared]) -> Result<(), Failure> {
    if entries.is_empty() {
        return Ok(());
    }
    // Of a repeated key the last one counts, and its place.
    let last: HashMap<&str, usize> = entries
        .iter()
        .zip(0..)
        .map(|(e, i)| (e.item.file.key.as_str(), i))
        .collect();
    let entries: Vec<&Prepared> = entries
        .iter()
        .zip(0..)
        .filter(|(e, i)| last.get(e.item.file.key.as_str()) == Some(i))
        .map(|(e, _)| e)
        .collect();
    let state = schema::state(tx, address, true)?;
    let keys: Vec<&str> = entries.iter().map(|e| e.item.file.key.as_str()).collect();
    let (items, vectors) = remove(tx, address, &keys)?;
    let mut id = state.next_id;
    let mut rest = &entries[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |e: &&&Prepared| {
            bytes += e.bytes;
            bytes < STATEMENT
        };
        // At least one, however large it is.
        let count = rest.iter().take_while(fits).count().max(1);
        insert(tx, address, &rest[..count], id)?;
        id += count as i64;
        rest = &rest[count..];
    }
    let added: usize = entries.iter().map(|e| e.vectors.len()).sum();
    let changed = State {
        items: state.items - items + entries.len() as i64,
        vectors: state.vectors - vectors + added as i64,
        next_id: id,
        ..state
    };
    remember(tx, address, &changed)
}

/// Removes all that are there; returns how many these were.
pub(super) fn delete(tx: &mut Transaction, address: &Address, keys: &[&str]) -> Result<usize, Failure> {
    let state = schema::state(tx, address, true)?;
    let (items, vectors) = remove(tx, address, keys)?;
    if items > 0 {
        let changed = State {
            items: state.items - items,
            vectors: state.vectors - vectors,
            ..state
        };
        remember(tx, address, &changed)?;
    }
    Ok(usize::try_from(items).unwrap_or(0))
}

/// Changes own columns of those of the items that are there; returns how many these were.
pub(super) fn annotate(
    tx: &mut Transaction,
    address: &Address,
    changes: &[(&str, Metadata)],
) -> Result<usize, Failure> {
    let state = schema::state(tx, address, true)?;
    let keys: Vec<&str> = changes
        .iter()
        .map(|(key, _)| *key)
        .filter(|k| read::is_key(k))
        .collect();
    let rows = tx.query(
        &address.sql("SELECT key, metadata FROM @items WHERE key = ANY($1)"),
        &[&keys],
    )?;
    let mut known: HashMap<String, Metadata> = HashMap::new();
    for row in rows {
        let key: String = row.get(0);
        known.insert(key.clone(), read::parse(row.get(1), &key, address)?);
    }
    let mut count = 0;
    for (key, change) in changes {
        let Some(metadata) = known.get_mut(*key) else { continue };
        for (name, value) in change {
            if value.is_null() {
                metadata.remove(name);
            } else {
                metadata.insert(name.clone(), value.clone());
            }
        }
        // Each state between is checked as if the changes came one by one.
        metadata_json(key, metadata)?;
        count += 1;
    }
    if count == 0 {
        return Ok(0);
    }
    let (mut keys, mut texts, mut owns) = (Vec::new(), Vec::new(), Vec::new());
    for (key, metadata) in &known {
        keys.push(key);
        texts.push(metadata_json(key, metadata)?);
        owns.push(own(metadata).map(|json| json.to_string()));
    }
    const UPDATE: &str = "UPDATE @items i SET metadata = n.metadata, own = n.own::jsonb \
        FROM unnest($1::text[], $2::text[], $3::text[]) AS n (key, metadata, own) WHERE i.key = n.key";
    tx.execute(&address.sql(UPDATE), &[&keys, &texts, &owns])?;
    remember(tx, address, &state)?;
    Ok(count)
}

/// Remembers failures and forgets others.
pub(super) fn note_failures(
    tx: &mut Transaction,
    address: &Address,
    failed: &[Remembered],
    solved: &[&str],
) -> Result<(), Failure> {
    const INSERT: &str = "INSERT INTO @failures (key, size, modified_ns, cause, reason, at) \
        SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::bigint[])";
    // Of a repeated key the last one counts.
    let failed: HashMap<&str, &Remembered> = failed
        .iter()
        .filter(|one| one.is_storable())
        .map(|one| (one.key.as_str(), one))
        .collect();
    let gone: Vec<&str> = solved.iter().copied().filter(|k| read::is_key(k)).collect();
    let keys: Vec<&str> = failed.keys().copied().collect();
    let all: Vec<&str> = gone.iter().chain(&keys).copied().collect();
    tx.execute(&address.sql("DELETE FROM @failures WHERE key = ANY($1)"), &[&all])?;
    let failed = || failed.values();
    let sizes: Vec<i64> = failed().map(|f| i64::try_from(f.size).unwrap_or(i64::MAX)).collect();
    let times: Vec<i64> = failed().map(|f| f.modified_ns).collect();
    let causes: Vec<String> = failed().map(|f| Remembered::short(&f.cause)).collect();
    let reasons: Vec<String> = failed().map(|f| Remembered::short(&f.reason)).collect();
    let whens: Vec<i64> = failed().map(|f| f.at).collect();
    tx.execute(
        &address.sql(INSERT),
        &[&keys, &sizes, &times, &causes, &reasons, &whens],
    )?;
    Ok(())
}

/// Removes items; how many they were, and how many vectors they had.
fn remove(tx: &mut Transaction, address: &Address, keys: &[&str]) -> Result<(i64, i64), Failure> {
    const COUNT: &str = "SELECT count(DISTINCT i.id), count(v.part) FROM @items i JOIN @vectors v ON v.item = i.id WHERE i.key = ANY($1)";
    let keys: Vec<&str> = keys.iter().copied().filter(|k| read::is_key(k)).collect();
    let row = tx.query_one(&address.sql(COUNT), &[&keys])?;
    let (items, vectors): (i64, i64) = (row.get(0), row.get(1));
    if items > 0 {
        tx.execute(&address.sql("DELETE FROM @items WHERE key = ANY($1)"), &[&keys])?;
    }
    Ok((items, vectors))
}

/// Inserts items with the ids from `first` on.
fn insert(tx: &mut Transaction, address: &Address, entries: &[&Prepared], first: i64) -> Result<(), Failure> {
    const ITEMS: &str = "INSERT INTO @items (id, key, size, modified_ns, hash, metadata, own) \
        SELECT id, key, size, modified_ns, hash, metadata, own::jsonb FROM \
        unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[], $6::text[], $7::text[]) \
        AS n (id, key, size, modified_ns, hash, metadata, own)";
    const VECTORS: &str =
        "INSERT INTO @vectors (item, part, vector) SELECT * FROM unnest($1::bigint[], $2::integer[], $3::halfvec[])";
    const THUMBNAILS: &str = "INSERT INTO @thumbnails (item, jpeg) SELECT * FROM unnest($1::bigint[], $2::bytea[])";
    let files = || entries.iter().map(|e| &e.item.file);
    let ids: Vec<i64> = (first..).take(entries.len()).collect();
    let keys: Vec<&str> = files().map(|f| f.key.as_str()).collect();
    // `Item::check` has refused sizes beyond i64.
    let sizes: Vec<i64> = files().map(|f| i64::try_from(f.size).unwrap_or(i64::MAX)).collect();
    let times: Vec<i64> = files().map(|f| f.modified_ns).collect();
    let hashes: Vec<&[u8]> = files().map(|f| &f.hash.0[..]).collect();
    let metadata: Vec<&str> = entries.iter().map(|e| e.metadata.as_str()).collect();
    let owns = entries
        .iter()
        .map(|e| own(&e.item.metadata).map(|json| json.to_string()));
    let owns: Vec<Option<String>> = owns.collect();
    tx.execute(
        &address.sql(ITEMS),
        &[&ids, &keys, &sizes, &times, &hashes, &metadata, &owns],
    )?;
    let (mut items, mut parts, mut vectors) = (Vec::new(), Vec::new(), Vec::new());
    for (entry, &id) in entries.iter().zip(&ids) {
        for (vector, part) in entry.vectors.iter().zip(0i32..) {
            items.push(id);
            parts.push(part);
            vectors.push(vector);
        }
    }
    tx.execute(&address.sql(VECTORS), &[&items, &parts, &vectors])?;
    let pictured = entries
        .iter()
        .zip(&ids)
        .filter_map(|(e, id)| Some((*id, e.item.thumbnail.as_deref()?)));
    let (items, jpegs): (Vec<i64>, Vec<&[u8]>) = pictured.unzip();
    if !items.is_empty() {
        tx.execute(&address.sql(THUMBNAILS), &[&items, &jpegs])?;
    }
    Ok(())
}

/// The next generation.
fn remember(tx: &mut Transaction, address: &Address, state: &State) -> Result<(), Failure> {
    tx.execute(
        &address.sql("UPDATE @state SET generation = generation + 1, items = $1, vectors = $2, next_id = $3"),
        &[&state.items, &state.vectors, &state.next_id],
    )?;
    Ok(())
}
