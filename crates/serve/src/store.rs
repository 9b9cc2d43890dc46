//! The store, asked from asynchronous code: every call runs on a thread that may wait for the disk.

use std::sync::Arc;

use bifocal_search::{Entry, Hit, Metadata, SearchOptions, Store};

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

/// What a search found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) items: u64,
    pub(crate) hits: Vec<Hit>,
    /// Mean and deviation of the scores of all items.
    pub(crate) stats: Option<(f32, f32)>,
}

/// A page of items: key and metadata.
pub(crate) struct Page {
    pub(crate) items: u64,
    pub(crate) rows: Vec<(String, Metadata)>,
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

fn no_filter(filter: Option<&String>) -> Answer<()> {
    match filter {
        Some(_) => Err(ApiError::field(
            "where",
            "filters are not supported yet; leave the field out",
        )),
        None => Ok(()),
    }
}

/// The best items for a query vector.
pub(crate) fn search(store: &dyn Store, query: &[f32], wanted: &Wanted) -> Answer<Found> {
    no_filter(wanted.filter.as_ref())?;
    let options = SearchOptions {
        k: wanted.k + usize::from(wanted.without.is_some()),
        min_score: wanted.min_score,
    };
    let mut hits = store.search(query, &options)?;
    hits.retain(|hit| wanted.without.as_ref() != Some(&hit.key));
    hits.truncate(wanted.k);
    Ok(Found {
        items: store.count()?,
        hits,
        stats: None,
    })
}

/// A page of items in the order of their keys.
pub(crate) fn page(store: &dyn Store, after: Option<&str>, limit: usize, filter: Option<&String>) -> Answer<Page> {
    no_filter(filter)?;
    let files = store.files()?;
    let begin = after.map_or(0, |after| files.partition_point(|file| file.key.as_str() <= after));
    let some = files[begin..].iter().take(limit);
    let mut rows = Vec::with_capacity(limit);
    for file in some {
        if let Some(entry) = store.get(&file.key)? {
            rows.push((entry.item.file.key, entry.item.metadata));
        }
    }
    Ok(Page {
        items: files.len() as u64,
        rows,
        more: files.len() - begin > limit,
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

/// At most `most` keys and their vectors `[keys, dim]`, evenly spaced in the order of keys.
pub(crate) fn sample(store: &dyn Store, most: usize) -> Answer<(Vec<String>, Vec<f32>)> {
    let files = store.files()?;
    let n = files.len().min(most);
    let (mut keys, mut vectors) = (Vec::with_capacity(n), Vec::with_capacity(n * store.model().dim));
    for at in 0..n {
        // removed since they were listed: not on the map
        if let Some(entry) = store.get(&files[at * files.len() / n].key)? {
            keys.push(entry.item.file.key);
            vectors.extend(entry.vector);
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
