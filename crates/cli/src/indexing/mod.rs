//! Pictures into a store: what has to be done is planned from a listing, then embedded and stored batch by batch.

pub mod rebuild;
pub mod watch;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use bifocal_data::source::{Dataset, Sample};
use bifocal_data::{ImageSource, Limits, load_images_and, thumbnail};
use bifocal_models::bundle::Model;
use bifocal_search::incremental::{Listed, Plan, apply_reuse, plan};
use bifocal_search::{ContentHash, Entry, FileFacts, Item, Metadata, Store, StoreError};

use crate::output::progress::Progress;
use crate::pictures;

/// Pictures that are stored in one transaction: what a kill at the worst moment costs.
const BATCH: usize = pictures::BATCH;

/// What a pass did.
#[derive(Debug, Default, serde::Serialize)]
pub struct Summary {
    pub added: usize,
    pub changed: usize,
    pub moved: usize,
    pub deleted: usize,
    pub unchanged: usize,
    pub failed: usize,
    pub items: u64,
}

impl Summary {
    /// Whether the store is another one than before.
    pub fn is_news(&self) -> bool {
        self.added + self.changed + self.moved + self.deleted + self.failed > 0
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} added, {} changed, {} moved, {} deleted, {} unchanged, {} left out; {} items",
            self.added, self.changed, self.moved, self.deleted, self.unchanged, self.failed, self.items
        )
    }
}

/// Absolute paths without links, so that a picture has one key however it is named.
pub fn canonical(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    paths
        .iter()
        .map(|path| {
            path.canonicalize()
                .with_context(|| format!("{} cannot be indexed", path.display()))
        })
        .collect()
}

/// All pictures by key; `speaks`: says what is left out.
pub fn listing(roots: &[PathBuf], speaks: bool) -> Result<HashMap<String, Sample>> {
    let say = |text: String| {
        if speaks {
            eprintln!("{text}");
        }
    };
    let mut samples = HashMap::new();
    for root in roots {
        let data = Dataset::open(root)?;
        if speaks {
            pictures::report_skipped(&data);
        }
        for sample in data.samples {
            let Some(path) = sample.image.file() else {
                say(format!(
                    "left out {}: only pictures with a file of their own can be indexed yet",
                    sample.image
                ));
                continue;
            };
            let Some(key) = path.to_str() else {
                say(format!("left out {}: its name is not UTF-8", path.display()));
                continue;
            };
            samples.insert(key.to_owned(), sample);
        }
    }
    Ok(samples)
}

/// A file that vanished since it was listed is simply not there.
pub fn facts(key: &str) -> Option<Listed> {
    let meta = std::fs::metadata(Path::new(key)).ok()?;
    let modified_ns = match meta.modified().ok()?.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).ok()?,
        Err(before) => -i64::try_from(before.duration().as_nanos()).ok()?,
    };
    Some(Listed {
        key: key.to_owned(),
        size: meta.len(),
        modified_ns,
    })
}

/// A model and the store that it writes.
pub struct Indexer<'a> {
    pub store: &'a dyn Store,
    pub model: &'a Model,
}

impl Indexer<'_> {
    /// Brings the store to what lies below `roots`; `is_known_bad` names files that are not tried again.
    pub fn pass(
        &self,
        roots: &[PathBuf],
        samples: &HashMap<String, Sample>,
        is_known_bad: impl Fn(&Listed) -> bool,
    ) -> Result<(Summary, Vec<Listed>)> {
        let listed: Vec<Listed> = samples.keys().filter_map(|key| facts(key)).collect();
        let known = self.store.files()?;
        // What is known to be bad is neither tried again nor taken for gone: a store may hold what it was before.
        let (bad, open): (Vec<Listed>, Vec<Listed>) = listed.into_iter().partition(is_known_bad);
        let bad: std::collections::HashSet<&str> = bad.iter().map(|l| l.key.as_str()).collect();
        let plan = plan(
            &open,
            &known,
            |key| !bad.contains(key) && roots.iter().any(|root| Path::new(key).starts_with(root)),
            |listed| ContentHash::of_file(Path::new(&listed.key)),
        );
        self.apply(samples, plan)
    }

    /// Does what was planned; returns with the summary the files that could not be read.
    fn apply(&self, samples: &HashMap<String, Sample>, plan: Plan<StoreError>) -> Result<(Summary, Vec<Listed>)> {
        for (key, error) in &plan.failed {
            eprintln!("left out {key}: {error}");
        }
        let mut failed: Vec<Listed> = plan.failed.iter().filter_map(|(key, _)| facts(key)).collect();
        let (moved, deleted) = (plan.moved(), plan.deleted());
        let mut changed = apply_reuse(self.store, &plan.reused)?;
        changed.extend(plan.changed);
        let mut progress = Progress::new("indexing", (plan.new.len() + changed.len()) as u64);
        let mut stored = [0, 0];
        let mut done = 0;
        for (files, stored) in [&plan.new, &changed].into_iter().zip(&mut stored) {
            for chunk in files.chunks(BATCH) {
                let bad = self.embed(chunk, |key| metadata(samples.get(key)))?;
                *stored += chunk.len() - bad.len();
                failed.extend(bad);
                done += chunk.len();
                progress.update(done as u64, "");
            }
        }
        progress.finish();
        let [added, updated] = stored;
        let gone: Vec<&str> = plan.gone.iter().map(String::as_str).collect();
        self.store.delete(&gone)?;
        let summary = Summary {
            added,
            changed: updated,
            moved,
            deleted,
            unchanged: plan.unchanged,
            failed: plan.failed.len() + done - added - updated,
            items: self.store.count()?,
        };
        Ok((summary, failed))
    }

    /// Embeds and stores some files in one transaction; returns those that could not be read.
    fn embed(&self, files: &[FileFacts], metadata: impl Fn(&str) -> Metadata) -> Result<Vec<Listed>> {
        let paths: Vec<ImageSource> = files.iter().map(|f| Path::new(&f.key).into()).collect();
        let preprocess = pictures::preprocess(self.model)?;
        let (loaded, seen) = load_images_and(&paths, preprocess, &Limits::default(), |picture| {
            (picture.width(), picture.height(), thumbnail::jpeg(picture))
        })?;
        let mut failed = Vec::new();
        for bad in &loaded.bad {
            eprintln!("left out {}: {}", bad.image, bad.error);
            let file = &files[bad.index];
            failed.push(Listed {
                key: file.key.clone(),
                size: file.size,
                modified_ns: file.modified_ns,
            });
        }
        let rows = self.model.embed_images(&loaded.pixels, loaded.good.len())?;
        let rows = rows.chunks_exact(self.model.dim());
        let entries: Vec<Entry> = loaded
            .good
            .iter()
            .zip(rows.zip(seen))
            .map(|(&at, (row, (width, height, thumbnail)))| {
                let mut metadata = metadata(&files[at].key);
                metadata.insert("width".to_owned(), width.into());
                metadata.insert("height".to_owned(), height.into());
                let item = Item {
                    file: files[at].clone(),
                    metadata,
                    thumbnail,
                };
                Entry::new(item, row.to_vec())
            })
            .collect();
        self.store.upsert(&entries)?;
        Ok(failed)
    }
}

/// What is known of a picture besides its pixels.
fn metadata(sample: Option<&Sample>) -> Metadata {
    let mut metadata = Metadata::new();
    if let Some(sample) = sample {
        if let Some(label) = &sample.label {
            metadata.insert("label".to_owned(), label.as_str().into());
        }
        if !sample.captions.is_empty() {
            metadata.insert("captions".to_owned(), serde_json::json!(sample.captions));
        }
    }
    metadata
}
