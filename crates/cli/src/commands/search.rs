//! `bifocal search`: pictures by text, by picture, or by both.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bifocal_data::{ImageSource, Limits, load_images};
use bifocal_models::bundle::Model;
use bifocal_search::query::{Part, combine};
use bifocal_search::{Hit, LocalStore, SearchOptions, Store};

use crate::failure::wrong_use;
use crate::model;
use crate::pictures;

/// Finds pictures in a store.
///
/// The query is a text in any language that the model's text tower reads, a picture, or both (their directions are added).
/// Scores are cosines: comparable within one model, not between models.
#[derive(clap::Args)]
pub struct Args {
    /// What to look for
    #[arg(value_name = "QUERY")]
    query: Option<String>,
    /// A picture to look for
    #[arg(long, value_name = "PATH")]
    image: Option<PathBuf>,
    /// The folder that keeps the store
    #[arg(long, value_name = "S")]
    store: PathBuf,
    /// The model, if it is no longer where it was when the store was made
    #[arg(long, value_name = "M")]
    model: Option<PathBuf>,
    /// How many results at most
    #[arg(short, default_value_t = 10)]
    k: usize,
    /// Leave out results with a lower score
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    min_score: Option<f32>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    if args.query.is_none() && args.image.is_none() {
        return Err(wrong_use("nothing to look for: give a text, --image PATH, or both"));
    }
    let (store, model, _) = open(&args.store, args.model.as_deref())?;
    let query = query_vector(&args, &model)?;
    let options = SearchOptions {
        k: args.k,
        min_score: args.min_score,
        ..SearchOptions::default()
    };
    let found = store.search(&query, &options)?;
    show(&args, &found.hits, store.count()?);
    Ok(())
}

/// A store for reading and the model that it was made with, or `given` in its place; the name of the model too.
pub fn open(dir: &Path, given: Option<&Path>) -> Result<(LocalStore, Model, PathBuf)> {
    let store = LocalStore::open_reader(dir, None)?;
    let path = match given {
        Some(path) => path.to_owned(),
        None => PathBuf::from(&store.model().name),
    };
    let model = model::open_joint(&path).with_context(|| {
        format!(
            "the store {} was made with the model {}; if it has moved, give --model",
            dir.display(),
            path.display()
        )
    })?;
    // Opening with the model's identity refuses a model that the embeddings do not belong to.
    let id = super::index::model_id(&model, &path)?;
    let store = if store.model().fits(&id) {
        store
    } else {
        LocalStore::open_reader(dir, Some(&id))?
    };
    Ok((store, model, path))
}

fn query_vector(args: &Args, model: &Model) -> Result<Vec<f32>> {
    let mut vectors = Vec::new();
    if let Some(text) = &args.query {
        vectors.push(model.embed_texts(&[text])?);
    }
    if let Some(image) = &args.image {
        let loaded = load_images(
            &[ImageSource::from(image.as_path())],
            pictures::preprocess(model)?,
            &Limits::default(),
        )?;
        if let Some(bad) = loaded.bad.first() {
            anyhow::bail!("--image {}: {}", image.display(), bad.error);
        }
        vectors.push(model.embed_images(&loaded.pixels, 1)?);
    }
    let parts: Vec<Part> = vectors.iter().map(|vector| Part { weight: 1.0, vector }).collect();
    Ok(combine(&parts, model.dim())?)
}

fn show(args: &Args, hits: &[Hit], items: u64) {
    if args.json {
        let object = serde_json::json!({ "query": args.query, "image": args.image, "items": items, "hits": hits });
        println!("{object}");
        return;
    }
    if hits.is_empty() {
        println!("nothing found among {items} items; a lower --min-score shows more");
    }
    for (i, hit) in hits.iter().enumerate() {
        println!("{:>3}  {:.3}  {}", i + 1, hit.score, shown(&hit.key));
    }
}

/// The path relative to the current folder where it lies below it.
fn shown(key: &str) -> String {
    let here = std::env::current_dir().ok();
    let relative = here.and_then(|here| {
        std::path::Path::new(key)
            .strip_prefix(here)
            .ok()
            .map(|p| p.display().to_string())
    });
    relative.unwrap_or_else(|| key.to_owned())
}
