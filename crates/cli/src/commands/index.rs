//! `bifocal index`: pictures into a store.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use bifocal_data::source::{Dataset, Sample};
use bifocal_data::{ImageSource, Limits, load_images};
use bifocal_models::bundle::Model;
use bifocal_models::hub::HubName;
use bifocal_search::incremental::{Listed, Plan, apply_reuse, plan};
use bifocal_search::{ContentHash, Entry, FileFacts, Item, LocalStore, Metadata, ModelId, Store, StoreError};

use crate::failure::wrong_use;
use crate::model;
use crate::output::progress::Progress;
use crate::pictures;

/// Pictures that are stored in one transaction: what a kill at the worst moment costs.
const BATCH: usize = pictures::BATCH;

/// Embeds pictures into a store, incrementally.
///
/// Pictures that the store has unchanged are not embedded again; moved ones keep their embedding; those that are gone from the
/// given folders leave the store. A picture that cannot be read is told and left out, and the others are indexed. A
/// run that was killed is continued by the same call.
#[derive(clap::Args)]
pub struct Args {
    /// A bundle made by `bifocal train`, the folder of a CLIP in Hugging Face or open_clip layout, or hf:org/name[@revision]
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// The folder that keeps the store
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Pictures or folders of pictures
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

/// What a run did.
#[derive(serde::Serialize)]
struct Summary {
    added: usize,
    changed: usize,
    moved: usize,
    deleted: usize,
    unchanged: usize,
    failed: usize,
    items: u64,
}

pub fn run(args: Args) -> Result<()> {
    if args.store.to_string_lossy().starts_with("postgres://") {
        return Err(wrong_use("--store postgres://… is not there yet; give a folder"));
    }
    let roots = canonical(&args.paths)?;
    let samples = listing(&roots)?;
    let model = model::open_joint(&args.model)?;
    let id = model_id(&model, &args.model)?;
    let store = LocalStore::open_writer(&args.store, &id)?;
    let listed: Vec<Listed> = samples.keys().filter_map(|key| facts(Path::new(key))).collect();
    let plan = plan(
        &listed,
        &store.files()?,
        |key| roots.iter().any(|root| Path::new(key).starts_with(root)),
        |listed| ContentHash::of_file(Path::new(&listed.key)),
    );
    let summary = apply(&store, &model, &samples, plan)?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!(
            "{}: {} added, {} changed, {} moved, {} deleted, {} unchanged, {} left out; {} items",
            args.store.display(),
            summary.added,
            summary.changed,
            summary.moved,
            summary.deleted,
            summary.unchanged,
            summary.failed,
            summary.items
        );
    }
    Ok(())
}

/// What `search` needs to open the model again.
pub fn model_id(model: &Model, path: &Path) -> Result<ModelId> {
    // a name of the hub is where the model is found again, wherever its cache is
    let path = if HubName::is_meant(path) {
        path.to_owned()
    } else {
        path.canonicalize()
            .with_context(|| format!("finding {}", path.display()))?
    };
    Ok(ModelId {
        fingerprint: model.fingerprint().to_owned(),
        dim: model.dim(),
        name: path.to_string_lossy().into_owned(),
    })
}

/// Absolute paths without links, so that a picture has one key however it is named.
fn canonical(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    paths
        .iter()
        .map(|path| {
            path.canonicalize()
                .with_context(|| format!("{} cannot be indexed", path.display()))
        })
        .collect()
}

/// All pictures by key.
fn listing(roots: &[PathBuf]) -> Result<HashMap<String, Sample>> {
    let mut samples = HashMap::new();
    for root in roots {
        let data = Dataset::open(root)?;
        pictures::report_skipped(&data);
        for sample in data.samples {
            let Some(path) = sample.image.file() else {
                eprintln!(
                    "left out {}: only pictures with a file of their own can be indexed yet",
                    sample.image
                );
                continue;
            };
            let Some(key) = path.to_str() else {
                eprintln!("left out {}: its name is not UTF-8", path.display());
                continue;
            };
            samples.insert(key.to_owned(), sample);
        }
    }
    Ok(samples)
}

/// A file that vanished since it was listed is simply not there.
fn facts(path: &Path) -> Option<Listed> {
    let meta = std::fs::metadata(path).ok()?;
    let modified_ns = match meta.modified().ok()?.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).ok()?,
        Err(before) => -i64::try_from(before.duration().as_nanos()).ok()?,
    };
    Some(Listed {
        key: path.to_str()?.to_owned(),
        size: meta.len(),
        modified_ns,
    })
}

fn apply(
    store: &LocalStore,
    model: &Model,
    samples: &HashMap<String, Sample>,
    plan: Plan<StoreError>,
) -> Result<Summary> {
    for (key, error) in &plan.failed {
        eprintln!("left out {key}: {error}");
    }
    let (moved, deleted) = (plan.moved(), plan.deleted());
    let mut changed = apply_reuse(store, &plan.reused)?;
    changed.extend(plan.changed);
    let mut progress = Progress::new("indexing", (plan.new.len() + changed.len()) as u64);
    let mut stored = [0, 0];
    let mut done = 0;
    for (files, stored) in [&plan.new, &changed].into_iter().zip(&mut stored) {
        for chunk in files.chunks(BATCH) {
            *stored += embed_into(store, model, samples, chunk)?;
            done += chunk.len();
            progress.update(done as u64, "");
        }
    }
    progress.finish();
    let [added, updated] = stored;
    let failed = plan.failed.len() + done - added - updated;
    let gone: Vec<&str> = plan.gone.iter().map(String::as_str).collect();
    store.delete(&gone)?;
    store.flush()?;
    let items = store.count()?;
    if items == 0 {
        anyhow::bail!(
            "nothing was indexed: none of the {} pictures could be read",
            plan.failed.len() + done
        );
    }
    Ok(Summary {
        added,
        changed: updated,
        moved,
        deleted,
        unchanged: plan.unchanged,
        failed,
        items,
    })
}

/// Embeds and stores some files in one transaction; returns how many of them could be read.
fn embed_into(
    store: &LocalStore,
    model: &Model,
    samples: &HashMap<String, Sample>,
    files: &[FileFacts],
) -> Result<usize> {
    let paths: Vec<ImageSource> = files.iter().map(|f| Path::new(&f.key).into()).collect();
    let loaded = load_images(&paths, pictures::preprocess(model)?, &Limits::default())?;
    for bad in &loaded.bad {
        eprintln!("left out {}: {}", bad.image, bad.error);
    }
    let rows = model.embed_images(&loaded.pixels, loaded.good.len())?;
    let entries: Vec<Entry> = loaded
        .good
        .iter()
        .zip(rows.chunks_exact(model.dim()))
        .map(|(&at, row)| {
            let item = Item {
                file: files[at].clone(),
                metadata: metadata(samples.get(&files[at].key)),
                thumbnail: None,
            };
            Entry::new(item, row.to_vec())
        })
        .collect();
    store.upsert(&entries)?;
    Ok(entries.len())
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
