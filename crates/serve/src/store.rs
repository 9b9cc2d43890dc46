//! The store, asked from asynchronous code: every call runs on a thread that may wait for the disk.

use std::sync::Arc;

use bifocal_search::{Entry, Filter, Found, Item, ListOptions, SearchOptions, Store};

use crate::error::{Answer, ApiError};

/// What to search for, apart from the vector.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) k: usize,
    pub(crate) min_score: Option<f32>,
    /// An expression over metadata.
    pub(crate) filter: Option<String>,
    /// A key that is left out.
    pub(crate) without: Option<String>,
}

/// A page of items.
pub(crate) struct Page {
    /// How many the store holds.
    pub(crate) items: u64,
    /// How many of them satisfy the filter.
    pub(crate) matched: u64,
    pub(crate) rows: Vec<Item>,
    /// Whether there are more.
    pub(crate) more: bool,
}

/// Runs a call of the store.
pub(crate) async fn ask<T: Send + 'static>(
    store: &Arc<dyn Store>,
    call: impl FnOnce(&dyn Store) -> Answer<T> + Send + 'static,
) -> Answer<T> {
    let store = store.clone();
    let asked = tokio::task::spawn_blocking(move || call(&*store));
    asked.await.unwrap_or_else(|_| Err(ApiError::lost()))
}

/// An expression as users write it.
fn filter(expression: Option<&String>) -> Answer<Option<Filter>> {
    let parsed = expression.map(|text| text.parse::<Filter>()).transpose();
    parsed.map_err(|error| ApiError::field("where", error.to_string()))
}

/// The best items for a query vector.
pub(crate) fn search(store: &dyn Store, query: &[f32], wanted: &Wanted) -> Answer<Found> {
    let options = SearchOptions {
        k: wanted.k,
        min_score: wanted.min_score,
        filter: filter(wanted.filter.as_ref())?,
        without: wanted.without.iter().cloned().collect(),
        ..SearchOptions::default()
    };
    Ok(store.search(query, &options)?)
}

/// A page of items in the order of their keys.
pub(crate) fn page(
    store: &dyn Store,
    after: Option<String>,
    limit: usize,
    expression: Option<&String>,
) -> Answer<Page> {
    let options = ListOptions {
        after,
        limit: limit + 1,
        filter: filter(expression)?,
    };
    let mut rows = store.list(&options)?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let items = store.count()?;
    let matched = options.filter.as_ref().map(|filter| store.matching(filter));
    Ok(Page {
        items,
        matched: matched.transpose()?.unwrap_or(items),
        rows,
        more,
    })
}

/// One item.
///
/// # Errors
/// 404 for a key that the store does not hold.
pub(crate) fn entry(store: &dyn Store, key: &str) -> Answer<Entry> {
    let unknown = || ApiError::missing("the store holds no item with this key").at("key");
    store.get(key)?.ok_or_else(unknown)
}

/// The direction of one item.
///
/// # Errors
/// As [`entry`].
pub(crate) fn vector(store: &dyn Store, key: &str) -> Answer<Vec<f32>> {
    Ok(entry(store, key)?.direction(store.model().dim)?)
}

/// At most `most` keys and the directions of their items `[keys, dim]`, evenly spaced in the order of keys.
pub(crate) fn sample(store: &dyn Store, most: usize) -> Answer<(Vec<String>, Vec<f32>)> {
    let files = store.files()?;
    let n = files.len().min(most);
    let (mut keys, mut vectors) = (Vec::with_capacity(n), Vec::with_capacity(n * store.model().dim));
    for at in 0..n {
        // removed since they were listed, or vectors that cancel out: not on the map
        let entry = store.get(&files[at * files.len() / n].key)?;
        if let Some((entry, vector)) = entry.and_then(|e| e.direction(store.model().dim).ok().map(|v| (e, v))) {
            keys.push(entry.item.file.key);
            vectors.extend(vector);
        }
    }
    Ok((keys, vectors))
}

/// Where the item is shown in small.
pub(crate) fn thumbnail_url(key: &str) -> String {
    format!("/v1/items/thumbnail?key={}", escaped(key))
}

/// The last part of a key that is a path.
pub(crate) fn name(key: &str) -> &str {
    key.rsplit(['/', '\\'])
        .next()
        .filter(|name| !name.is_empty())
        .unwrap_or(key)
}

/// For a query string: everything but unreserved characters and `/` as `%XX`.
fn escaped(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // writing to a string cannot fail
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_addresses_and_names() {
        assert_eq!(
            thumbnail_url("/a b/ä&=.jpg"),
            "/v1/items/thumbnail?key=/a%20b/%C3%A4%26%3D.jpg"
        );
        assert_eq!(name("/photos/dog.jpg"), "dog.jpg");
        assert_eq!(name("C:\\photos\\dog.jpg"), "dog.jpg");
        assert_eq!((name("dog"), name("/")), ("dog", "/"));
    }
}
