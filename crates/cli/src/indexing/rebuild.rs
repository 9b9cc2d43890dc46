//! A store for another model: everything that it knows is embedded again beside it, then both are swapped in one transaction.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use bifocal_models::bundle::Model;
use bifocal_search::{ContentHash, FileFacts, ListOptions, Metadata, ModelId, Store};

use super::{BATCH, Indexer, facts};
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
    let mut progress = Progress::new("embedding again", old.count()?);
    let (mut seen, mut failed) = (0, 0);
    let mut page = ListOptions {
        limit: BATCH,
        ..ListOptions::default()
    };
    loop {
        let items = old.list(&page)?;
        let Some(last) = items.last() else { break };
        page.after = Some(last.file.key.clone());
        seen += items.len();
        let open: HashMap<&str, &Metadata> = items
            .iter()
            .filter(|item| done.get(&item.file.key) != Some(&item.file))
            .map(|item| (item.file.key.as_str(), &item.metadata))
            .collect();
        let mut files = Vec::new();
        for item in items.iter().filter(|item| open.contains_key(item.file.key.as_str())) {
            match current(&item.file) {
                Ok(file) => files.push(file),
                Err(error) => {
                    eprintln!("left out {}: {error:#}", item.file.key);
                    failed += 1;
                }
            }
        }
        failed += indexer
            .embed(&files, |key| open.get(key).map(|&m| m.clone()).unwrap_or_default())?
            .len();
        progress.update(seen as u64, "");
    }
    progress.finish();
    Ok(failed)
}

/// The file as it is now: it may have changed since it was indexed.
fn current(file: &FileFacts) -> Result<FileFacts> {
    let listed =
        facts(&file.key).context("its file is gone; `bifocal index` of its folder takes it out of the store")?;
    let hash = if (listed.size, listed.modified_ns) == (file.size, file.modified_ns) {
        file.hash
    } else {
        ContentHash::of_file(Path::new(&file.key))?
    };
    Ok(FileFacts {
        key: listed.key,
        size: listed.size,
        modified_ns: listed.modified_ns,
        hash,
    })
}
