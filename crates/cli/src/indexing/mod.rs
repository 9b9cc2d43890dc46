//! Pictures into a store: what has to be done is planned from a listing, then embedded and stored batch by batch, while the next one is decoded.

pub mod listing;
pub mod rebuild;
mod refresh;
pub mod summary;
pub mod watch;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::SystemTime;

use anyhow::Result;
use bifocal_data::source::{Facts, ImageSource};
use bifocal_data::{DecodeError, Limits, LoadedImages, Preprocess, ahead, load_images_and, thumbnail};
use bifocal_kernels::trace;
use bifocal_models::bundle::Model;
use bifocal_search::incremental::{Listed, Plan, apply_reuse, plan};
use bifocal_search::{ContentHash, Entry, Failure, FileFacts, Item, Metadata, Store};

use crate::output::progress::Progress;
use crate::pictures;
use listing::{Listing, Root, metadata};
use summary::Summary;

/// Pictures that are stored in one transaction: what a kill at the worst moment costs.
const BATCH: usize = pictures::BATCH;

/// A model and the store that it writes.
pub struct Indexer<'a> {
    pub store: &'a dyn Store,
    pub model: &'a Model,
}

/// What a pass does besides what is new.
#[derive(Clone, Copy)]
pub struct Pass {
    /// Try again what has failed before and has not changed since.
    pub retry: bool,
    /// Compare captions and labels of unchanged pictures.
    pub refresh: bool,
}

/// A picture to embed.
struct Work {
    file: FileFacts,
    image: ImageSource,
    metadata: Metadata,
}

/// A batch that is decoded: width, height and thumbnail of each good picture.
struct Decoded {
    work: Vec<Work>,
    loaded: LoadedImages,
    seen: Vec<(u32, u32, Option<Vec<u8>>)>,
}

impl Indexer<'_> {
    /// Brings the store to what lies below `roots`.
    pub fn pass(&self, roots: &[Root], listing: &Listing, what: Pass) -> Result<Summary> {
        let known = self.store.files()?;
        let ledger = self.store.failures()?;
        let listed = listing.facts();
        let (bad, open) = remembered(&ledger, &known, listed, what.retry);
        // What is known to be bad is not taken for gone either: a store may hold what it was before.
        let bad_keys: HashSet<&str> = bad.iter().map(|l| l.key.as_str()).collect();
        let plan = plan(
            &open,
            &known,
            |key| !bad_keys.contains(key) && listing.is_in_scope(roots, key),
            |listed| match listing.samples.get(&listed.key) {
                Some(listable) => hash(&listable.sample.image),
                None => Err(DecodeError::NoPicture),
            },
        );
        let (mut summary, failed) = self.apply(listing, &open, plan)?;
        // Tried without failing again, or gone.
        let tried: HashSet<&str> = open.iter().map(|l| l.key.as_str()).collect();
        let is_solved = |key: &str| match tried.contains(key) {
            true => !failed.contains(key),
            false => !bad_keys.contains(key) && listing.is_in_scope(roots, key),
        };
        let before = ledger.iter().map(|f| f.key.as_str());
        let solved: Vec<&str> = before.filter(|key| is_solved(key)).collect();
        self.store.note_failures(&[], &solved)?;
        if what.refresh {
            summary.refreshed = refresh::refresh(self.store, listing)?;
        }
        summary.remembered = bad.len();
        for failure in ledger.iter().filter(|f| bad_keys.contains(f.key.as_str())) {
            summary.failed += 1;
            *summary.causes.entry(failure.cause.clone()).or_default() += 1;
        }
        Ok(summary)
    }

    /// Does what was planned; returns with the summary the keys that failed.
    fn apply(&self, listing: &Listing, open: &[Listed], plan: Plan<DecodeError>) -> Result<(Summary, HashSet<String>)> {
        let facts: HashMap<&str, &Listed> = open.iter().map(|l| (l.key.as_str(), l)).collect();
        let unread = plan.failed.iter().filter_map(|(key, error)| {
            eprintln!("left out {key}: {error}");
            let listed = facts.get(key.as_str())?;
            Some(failure(key, (listed.size, listed.modified_ns), error.cause(), error))
        });
        let mut failed: Vec<Failure> = unread.collect();
        self.store.note_failures(&failed, &[])?;
        let (moved, deleted) = (plan.moved(), plan.deleted());
        let mut changed = apply_reuse(self.store, &plan.reused)?;
        changed.extend(plan.changed);
        let mut progress = Progress::new("indexing", (plan.new.len() + changed.len()) as u64);
        let mut done = 0;
        let mut store = |files: Vec<FileFacts>| -> Result<usize> {
            let count = files.len();
            let work = files.into_iter().filter_map(|file| {
                let sample = &listing.samples.get(&file.key)?.sample;
                Some(Work {
                    image: sample.image.clone(),
                    metadata: metadata(sample),
                    file,
                })
            });
            let bad = self.store_all(batches(work).map(Ok), |n| {
                done += n;
                progress.update(done as u64, "");
            })?;
            let stored = count - bad.len();
            failed.extend(bad);
            Ok(stored)
        };
        let (added, updated) = (store(plan.new)?, store(changed)?);
        progress.finish();
        let gone: Vec<&str> = plan.gone.iter().map(String::as_str).collect();
        self.store.delete(&gone)?;
        let mut summary = Summary {
            added,
            changed: updated,
            moved,
            deleted,
            unchanged: plan.unchanged,
            failed: failed.len(),
            items: self.store.count()?,
            ..Summary::default()
        };
        for one in &failed {
            *summary.causes.entry(one.cause.clone()).or_default() += 1;
        }
        Ok((summary, failed.into_iter().map(|one| one.key).collect()))
    }

    /// Embeds and stores batches, each in one transaction, and remembers what could not be read; returns that. `done` hears how many
    /// pictures each batch had.
    fn store_all(
        &self,
        work: impl Iterator<Item = Result<Vec<Work>>> + Send,
        mut done: impl FnMut(usize),
    ) -> Result<Vec<Failure>> {
        let preprocess = pictures::preprocess(self.model)?;
        let mut failed = Vec::new();
        let load = |work: Result<Vec<Work>>| {
            let work = work?;
            let _span = trace::beside("reading pictures");
            decode(work, preprocess)
        };
        ahead(work, load, |decoded: Result<Decoded>| -> Result<()> {
            let decoded = decoded?;
            let count = decoded.work.len();
            failed.extend(self.store_batch(decoded)?);
            done(count);
            Ok(())
        })?;
        Ok(failed)
    }

    fn store_batch(&self, decoded: Decoded) -> Result<Vec<Failure>> {
        let Decoded { mut work, loaded, seen } = decoded;
        let mut failed = Vec::new();
        for bad in &loaded.bad {
            eprintln!("left out {}: {}", bad.image, bad.error);
            let file = &work[bad.index].file;
            failed.push(failure(
                &file.key,
                (file.size, file.modified_ns),
                bad.error.cause(),
                &bad.error,
            ));
        }
        let rows = self.model.embed_images(&loaded.pixels, loaded.good.len())?;
        let rows = rows.chunks_exact(self.model.dim());
        let mut entries = Vec::with_capacity(loaded.good.len());
        for (&at, (row, (width, height, thumbnail))) in loaded.good.iter().zip(rows.zip(seen)) {
            let Work { file, metadata, .. } = &mut work[at];
            metadata.insert("width".to_owned(), width.into());
            metadata.insert("height".to_owned(), height.into());
            let item = Item {
                file: file.clone(),
                metadata: std::mem::take(metadata),
                thumbnail,
            };
            match item.check() {
                Ok(_) => entries.push(Entry::new(item, row.to_vec())),
                Err(error) => {
                    eprintln!("left out {}: {error}", item.file.key);
                    let facts = (item.file.size, item.file.modified_ns);
                    failed.push(failure(&item.file.key, facts, "over-limit", &error));
                }
            }
        }
        self.store.upsert(&entries)?;
        if !failed.is_empty() {
            self.store.note_failures(&failed, &[])?;
        }
        Ok(failed)
    }
}

/// What of a listing has failed before and is as it was then, and the rest.
fn remembered(ledger: &[Failure], known: &[FileFacts], listed: Vec<Listed>, retry: bool) -> (Vec<Listed>, Vec<Listed>) {
    if retry || ledger.is_empty() {
        return (Vec::new(), listed);
    }
    let mut bad: HashMap<&str, (u64, i64)> = ledger
        .iter()
        .map(|f| (f.key.as_str(), (f.size, f.modified_ns)))
        .collect();
    // Of a pass that was killed before it could forget them.
    for file in known {
        if bad.get(file.key.as_str()) == Some(&(file.size, file.modified_ns)) {
            bad.remove(file.key.as_str());
        }
    }
    listed
        .into_iter()
        .partition(|l| bad.get(l.key.as_str()) == Some(&(l.size, l.modified_ns)))
}

fn failure(key: &str, (size, modified_ns): (u64, i64), cause: &str, reason: &dyn std::fmt::Display) -> Failure {
    Failure {
        key: key.to_owned(),
        size,
        modified_ns,
        cause: cause.to_owned(),
        reason: reason.to_string(),
        at: seconds_now(),
    }
}

/// Seconds since 1970.
pub fn seconds_now() -> i64 {
    let since = SystemTime::UNIX_EPOCH.elapsed();
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// The content of a picture, wherever it is.
fn hash(image: &ImageSource) -> Result<ContentHash, DecodeError> {
    match image.file() {
        Some(path) => ContentHash::of_file(path).map_err(|e| DecodeError::Io {
            path: path.to_owned(),
            reason: std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string),
        }),
        None => Ok(ContentHash::of_bytes(&image.read(&Limits::default())?)),
    }
}

/// A picture as it is now.
fn current(key: &str, image: &ImageSource, before: Option<&FileFacts>) -> Result<FileFacts, DecodeError> {
    let Facts { size, modified_ns } = image.facts().ok_or_else(|| DecodeError::Io {
        path: Path::new(key).to_owned(),
        reason: "it is gone".to_owned(),
    })?;
    let same = before.filter(|b| (b.size, b.modified_ns) == (size, modified_ns));
    Ok(FileFacts {
        key: key.to_owned(),
        size,
        modified_ns,
        hash: match same {
            Some(before) => before.hash,
            None => hash(image)?,
        },
    })
}

/// Groups of what is stored together.
fn batches(mut work: impl Iterator<Item = Work>) -> impl Iterator<Item = Vec<Work>> {
    std::iter::from_fn(move || {
        let batch: Vec<Work> = work.by_ref().take(BATCH).collect();
        (!batch.is_empty()).then_some(batch)
    })
}

fn decode(work: Vec<Work>, preprocess: &Preprocess) -> Result<Decoded> {
    let images: Vec<&ImageSource> = work.iter().map(|w| &w.image).collect();
    let (loaded, seen) = load_images_and(&images, preprocess, &Limits::default(), |picture| {
        (picture.width(), picture.height(), thumbnail::jpeg(picture))
    })?;
    Ok(Decoded { work, loaded, seen })
}
