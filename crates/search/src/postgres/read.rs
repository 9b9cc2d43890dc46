//! The statements of the reading calls.

use half::f16;
use pgvector::HalfVector;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::ToSql;
use postgres::{GenericClient, Row, Transaction};

use crate::error::StoreError;
use crate::failure::Failure as Remembered;
use crate::filter::Filter;
use crate::item::{ContentHash, Entry, FileFacts, Item, Metadata};
use crate::store::ListOptions;

use super::address::Address;
use super::connection::Failure;
use super::filter::Condition;

/// Items that are asked for at a time when pages are filtered here, or endless.
const CHUNK: usize = 1024;
/// Of entries with vectors, fewer.
const ENTRIES: usize = 256;

/// The columns that [`facts`] reads, and of [`item`] one more.
const FACTS: &str = "i.key, i.size, i.modified_ns, i.hash";

/// Whether PostgreSQL can hold such a key at all: the others are not there.
pub(super) fn is_key(key: &str) -> bool {
    !key.contains('\0')
}

/// A value of a column; one of another type was not written here.
pub(super) fn value<'a, T: postgres::types::FromSql<'a>>(
    row: &'a Row,
    column: usize,
    address: &Address,
) -> Result<T, StoreError> {
    row.try_get(column)
        .map_err(|e| corrupt(address, format!("column {column} of a row: {e}")))
}

pub(super) fn corrupt(address: &Address, what: String) -> StoreError {
    StoreError::Corrupt {
        path: address.shown.clone(),
        what,
    }
}

/// The metadata of an item as it is stored.
pub(super) fn parse(metadata: &str, key: &str, address: &Address) -> Result<Metadata, StoreError> {
    serde_json::from_str(metadata)
        .map_err(|e| corrupt(address, format!("the metadata of {key} is not a JSON object: {e}")))
}

/// The file in the first four columns.
pub(super) fn facts(row: &Row, address: &Address) -> Result<FileFacts, StoreError> {
    let key: String = value(row, 0, address)?;
    let size: i64 = value(row, 1, address)?;
    let hash: &[u8] = value(row, 3, address)?;
    Ok(FileFacts {
        size: u64::try_from(size).map_err(|_| corrupt(address, format!("the size of {key} is negative")))?,
        modified_ns: value(row, 2, address)?,
        hash: ContentHash(
            hash.try_into()
                .map_err(|_| corrupt(address, format!("the hash of {key}")))?,
        ),
        key,
    })
}

/// The item in the first five columns, without its thumbnail.
pub(super) fn item(row: &Row, address: &Address) -> Result<Item, StoreError> {
    let file = facts(row, address)?;
    Ok(Item {
        metadata: parse(value(row, 4, address)?, &file.key, address)?,
        file,
        thumbnail: None,
    })
}

/// What could not be indexed, in the order of keys; nothing in a store of an older version.
pub(super) fn failures(tx: &mut Transaction, address: &Address) -> Result<Vec<Remembered>, Failure> {
    const SELECT: &str = "SELECT key, size, modified_ns, cause, reason, at FROM @failures ORDER BY key";
    let known: bool = tx
        .query_one("SELECT to_regclass($1) IS NOT NULL", &[&address.sql("@failures")])?
        .get(0);
    if !known {
        return Ok(Vec::new());
    }
    let one = |row: &Row| {
        let key: String = value(row, 0, address)?;
        let size: i64 = value(row, 1, address)?;
        Ok(Remembered {
            size: u64::try_from(size).map_err(|_| corrupt(address, format!("the size of {key} is negative")))?,
            modified_ns: value(row, 2, address)?,
            cause: value(row, 3, address)?,
            reason: value(row, 4, address)?,
            at: value(row, 5, address)?,
            key,
        })
    };
    let rows = tx.query(&address.sql(SELECT), &[])?;
    Ok(rows.iter().map(one).collect::<Result<_, StoreError>>()?)
}

/// One item with everything.
pub(super) fn entry(tx: &mut Transaction, address: &Address, key: &str, dim: usize) -> Result<Option<Entry>, Failure> {
    let select = format!(
        "SELECT {FACTS}, i.metadata, t.jpeg, i.id FROM @items i LEFT JOIN @thumbnails t ON t.item = i.id WHERE i.key = $1"
    );
    let Some(row) = tx.query_opt(&address.sql(&select), &[&key])? else {
        return Ok(None);
    };
    let mut item = item(&row, address)?;
    item.thumbnail = value(&row, 5, address)?;
    let id: i64 = value(&row, 6, address)?;
    let mut vectors = vectors(tx, address, &[id], dim)?;
    let rows = vectors.pop().map(|(_, rows)| rows).unwrap_or_default();
    let vectors = widened(&rows, dim);
    if vectors.is_empty() {
        return Err(corrupt(address, format!("{} has no vector", item.file.key)).into());
    }
    Ok(Some(Entry { item, vectors }))
}

/// All vectors of some items: ids, ascending, and the values of one vector after another.
pub(super) fn vectors(
    client: &mut impl GenericClient,
    address: &Address,
    ids: &[i64],
    dim: usize,
) -> Result<Vec<(i64, Vec<f16>)>, Failure> {
    const SELECT: &str = "SELECT item, vector FROM @vectors WHERE item = ANY($1) ORDER BY item, part";
    let parameters: [&(dyn ToSql + Sync); 1] = [&ids];
    let mut rows = client.query_raw(&address.sql(SELECT), parameters)?;
    let mut found: Vec<(i64, Vec<f16>)> = Vec::with_capacity(ids.len());
    while let Some(row) = rows.next()? {
        let id: i64 = value(&row, 0, address)?;
        let vector: HalfVector = value(&row, 1, address)?;
        if vector.as_slice().len() != dim || !vector.as_slice().iter().all(|v| v.is_finite()) {
            return Err(corrupt(address, format!("a vector of item {id} is not {dim} numbers")).into());
        }
        match found.last_mut() {
            Some((last, values)) if *last == id => values.extend(vector.as_slice()),
            _ => found.push((id, vector.into())),
        }
    }
    Ok(found)
}

fn widened(values: &[f16], dim: usize) -> Vec<Vec<f32>> {
    values
        .chunks_exact(dim)
        .map(|v| v.iter().map(|v| v.to_f32()).collect())
        .collect()
}

/// Which items are meant.
pub(super) struct Chosen {
    pub(super) condition: Condition,
    /// What the condition does not say.
    filter: Option<Filter>,
}

impl Chosen {
    /// All items that satisfy the filter, as far as the server understands it.
    pub(super) fn new(tx: &mut Transaction, address: &Address, filter: Option<&Filter>) -> Result<Self, Failure> {
        let mut condition = Condition::of(filter.map(Filter::expr), true);
        if condition.needs_own {
            const WITHOUT: &str = "SELECT EXISTS (SELECT 1 FROM @items WHERE own IS NULL)";
            let is_partial: bool = tx.query_one(&address.sql(WITHOUT), &[])?.get(0);
            if is_partial {
                condition = Condition::of(filter.map(Filter::expr), false);
            }
        }
        let filter = filter.filter(|_| !condition.is_whole).cloned();
        Ok(Self { condition, filter })
    }

    /// Whether items have to be looked at here.
    pub(super) fn is_open(&self) -> bool {
        self.filter.is_some()
    }

    /// The ids of all of them, ascending.
    pub(super) fn ids(&self, tx: &mut Transaction, address: &Address) -> Result<Vec<i64>, Failure> {
        let needs_metadata = self.filter.as_ref().is_some_and(Filter::needs_metadata);
        let metadata = if needs_metadata { "i.metadata" } else { "'{}'" };
        let select = format!(
            "SELECT {FACTS}, {metadata}, i.id FROM @items i WHERE {} ORDER BY i.id",
            self.condition.sql
        );
        let mut rows = tx.query_raw(&address.sql(&select), self.condition.parameters())?;
        let mut ids = Vec::new();
        while let Some(row) = rows.next()? {
            if self.passes(&item(&row, address)?) {
                ids.push(value(&row, 5, address)?);
            }
        }
        Ok(ids)
    }

    fn passes(&self, item: &Item) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|f| f.matches(&item.file, &item.metadata))
    }
}

/// A page of items in the order of their keys.
pub(super) fn list(tx: &mut Transaction, address: &Address, options: &ListOptions) -> Result<Vec<Item>, Failure> {
    let page = page(tx, address, options, CHUNK, |_, found| Ok(found))?;
    Ok(page.into_iter().map(|(_, item)| item).collect())
}

/// A page of items with their vectors.
pub(super) fn entries(
    tx: &mut Transaction,
    address: &Address,
    options: &ListOptions,
    dim: usize,
) -> Result<Vec<Entry>, Failure> {
    page(tx, address, options, ENTRIES, |tx, found| {
        let ids: Vec<i64> = found.iter().map(|(id, _)| *id).collect();
        let vectors = vectors(tx, address, &ids, dim)?;
        let mut entries = Vec::with_capacity(found.len());
        for (id, item) in found {
            let at = vectors
                .binary_search_by_key(&id, |(id, _)| *id)
                .map_err(|_| corrupt(address, format!("{} has no vector", item.file.key)))?;
            entries.push(Entry {
                item,
                vectors: widened(&vectors[at].1, dim),
            });
        }
        Ok(entries)
    })
}

/// `make` gets items with their ids, up to `chunk` at a time.
fn page<T>(
    tx: &mut Transaction,
    address: &Address,
    options: &ListOptions,
    chunk: usize,
    make: impl Fn(&mut Transaction, Vec<(i64, Item)>) -> Result<Vec<T>, Failure>,
) -> Result<Vec<T>, Failure> {
    let chosen = Chosen::new(tx, address, options.filter.as_ref())?;
    let first = chosen.condition.parameters.len() + 1;
    let select = format!(
        "SELECT {FACTS}, i.metadata, i.id FROM @items i WHERE ({}) AND i.key > ${first} ORDER BY i.key LIMIT ${}",
        chosen.condition.sql,
        first + 1
    );
    let select = tx.prepare(&address.sql(&select))?;
    let mut page = Vec::new();
    // No key is empty, and none holds a NUL: what comes after one that does begins behind its part before the NUL.
    let after = options.after.as_deref().unwrap_or_default();
    let mut after = after.split('\0').next().unwrap_or_default().to_owned();
    while page.len() < options.limit {
        let wanted = chunk.min(options.limit - page.len());
        // Looking at few at a time takes longer than looking at too many.
        let asked = if chosen.is_open() { chunk } else { wanted } as i64;
        let parameters: Vec<&(dyn ToSql + Sync)> = [chosen.condition.parameters(), vec![&after, &asked]].concat();
        let rows = tx.query(&select, &parameters)?;
        let Some(last) = rows.last() else { break };
        let next: String = value(last, 0, address)?;
        let mut found = Vec::new();
        for row in &rows {
            let item = item(row, address)?;
            if found.len() < wanted && chosen.passes(&item) {
                found.push((value(row, 5, address)?, item));
            }
        }
        page.extend(make(tx, found)?);
        after = next;
        if (rows.len() as i64) < asked {
            break;
        }
    }
    Ok(page)
}

pub(super) fn thumbnail(
    client: &mut impl GenericClient,
    address: &Address,
    key: &str,
) -> Result<Option<Vec<u8>>, Failure> {
    const SELECT: &str = "SELECT t.jpeg FROM @items i JOIN @thumbnails t ON t.item = i.id WHERE i.key = $1";
    let row = client.query_opt(&address.sql(SELECT), &[&key])?;
    Ok(row.map(|row| value(&row, 0, address)).transpose()?)
}

/// File facts of all items in the order of their keys.
pub(super) fn files(client: &mut impl GenericClient, address: &Address) -> Result<Vec<FileFacts>, Failure> {
    let select = address.sql(&format!("SELECT {FACTS} FROM @items i ORDER BY i.key"));
    let none: [&(dyn ToSql + Sync); 0] = [];
    let mut rows = client.query_raw(&select, none)?;
    let mut files = Vec::new();
    while let Some(row) = rows.next()? {
        files.push(facts(&row, address)?);
    }
    Ok(files)
}
