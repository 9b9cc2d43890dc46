//! Captions and labels that changed while their pictures did not.

use anyhow::Result;
use bifocal_search::{ListOptions, Metadata, Store};

use super::listing::{Listable, Listing, metadata};

/// Items that are compared, and written, at a time.
const PAGE: usize = 1000;

/// Brings captions and labels of the store to those of the listing; returns how many items changed. A picture that was listed without its
/// table keeps what is known of it.
pub fn refresh(store: &dyn Store, listing: &Listing) -> Result<usize> {
    let says = |l: &Listable| l.is_captioned || l.sample.label.is_some() || !l.sample.captions.is_empty();
    if !listing.samples.values().any(says) {
        return Ok(0);
    }
    let mut page = ListOptions {
        limit: PAGE,
        ..ListOptions::default()
    };
    let mut refreshed = 0;
    loop {
        let items = store.list(&page)?;
        let Some(last) = items.last() else {
            return Ok(refreshed);
        };
        page.after = Some(last.file.key.clone());
        let changes: Vec<(&str, Metadata)> = items
            .iter()
            .filter_map(|item| {
                let key = item.file.key.as_str();
                Some((key, change(&item.metadata, listing.samples.get(key)?)?))
            })
            .collect();
        if !changes.is_empty() {
            refreshed += store.annotate(&changes)?;
        }
    }
}

/// What has to be set, and null for what has to go; `None` when nothing has.
fn change(stored: &Metadata, listed: &Listable) -> Option<Metadata> {
    let mut wanted = metadata(&listed.sample);
    if listed.is_captioned && !wanted.contains_key("captions") && stored.contains_key("captions") {
        wanted.insert("captions".to_owned(), serde_json::Value::Null);
    }
    wanted.retain(|name, value| stored.get(name) != Some(value));
    (!wanted.is_empty()).then_some(wanted)
}
