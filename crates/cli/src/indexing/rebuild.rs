//! A store for another model: everything that it knows is embedded again beside it, then both are swapped in one transaction.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use bifocal_data::source::{Finder, ImageSource};
use bifocal_models::bundle::Model;
use bifocal_search::{FileFacts, Item, ListOptions, ModelId, Store};

use super::{BATCH, Indexer, Work, current};
use crate::finder::{open_reader, open_writer};
use crate::output::progress::Progress;

/// Embeds all items of the store `name` with this model, and lets them replace the old ones. A kill leaves the old store whole, and the
/// next call goes on. Returns how many items there are, and how many were left out because their files cannot be read.
pub fn rebuild(name: &Path, model: &Model, id: &ModelId) -> Result<(u64, usize)> {
    let stored = open_reader(name)?.model().clone();
    // Held until the end: what another writer stored meanwhile would be lost.
    let old = open_writer(name, &stored)?;
    let new = old.open_beside(id)?;
    let failed = fill(&*old, &Indexer { store: &*new, model })?;
    let items = new.count()?;
    if items == 0 {
        anyhow::bail!("none of the {failed} files of the store could be read; the store stays as it was");
    }
    new.flush()?;
    drop(new);
    old.replace_with_beside()?;
    Ok((items, failed))
}

/// Embeds what the new store has not yet; returns how many files could not be read.
fn fill(old: &dyn Store, indexer: &Indexer) -> Result<usize> {
    let done: HashMap<String, FileFacts> = indexer.store.files()?.into_iter().map(|f| (f.key.clone(), f)).collect();
    let gone = AtomicUsize::new(0);
    let mut finder = Finder::default();
    let mut find = |item: Item| {
        let image = finder.find(Path::new(&item.file.key)).unwrap_or(ImageSource::None);
        match current(&item.file.key, &image, Some(&item.file)) {
            Ok(file) => Some(Work {
                file,
                image,
                metadata: item.metadata,
            }),
            Err(error) => {
                eprintln!(
                    "left out {}: {error}; `bifocal index` of its folder takes it out of the store when it is gone",
                    item.file.key
                );
                gone.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    };
    let mut page = ListOptions {
        limit: BATCH,
        ..ListOptions::default()
    };
    let pages = std::iter::from_fn(|| {
        let items = match old.list(&page) {
            Ok(items) => items,
            Err(error) => return Some(Err(error.into())),
        };
        page.after = Some(items.last()?.file.key.clone());
        let open = items
            .into_iter()
            .filter(|item| done.get(&item.file.key) != Some(&item.file));
        Some(Ok(open.filter_map(&mut find).collect()))
    });
    let mut seen = done.len();
    let mut progress = Progress::new("embedding again", old.count()?);
    let failed = indexer.store_all(pages, |count| {
        seen += count;
        progress.update(seen as u64, "");
    })?;
    progress.finish();
    Ok(failed.len() + gone.into_inner())
}
