//! `bifocal classify`: which of some labels fits a picture.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bifocal_align::train::collective::Alone;
use bifocal_eval::{Ranked, TemplateSet, class_weights, rank_classes};
use bifocal_models::bundle::Model;
use bifocal_search::{ListOptions, Metadata};

use super::search::parse_filter;
use crate::failure::wrong_use;
use crate::finder;
use crate::model::Compute;
use crate::pictures;

/// Items of a store that are labelled at a time, and written in one transaction.
const PAGE: usize = 1024;

/// Scores pictures against labels in any language.
///
/// Each label is put into every template; a label's score is the cosine between the picture and the mean of its prompts, the share
/// beside it the softmax over the labels at the model's temperature. With `--store`, all pictures of a store are labelled by their stored
/// embeddings: nothing is decoded, and a hundred thousand take seconds.
#[derive(clap::Args)]
pub struct Args {
    /// A bundle made by `bifocal train`, the folder of a CLIP in Hugging Face or open_clip layout, or hf:org/name[@revision]
    #[arg(long, value_name = "M", required_unless_present = "store")]
    model: Option<PathBuf>,
    #[command(flatten)]
    compute: Compute,
    /// Label the items of this store instead of PATHs
    #[arg(long, value_name = "S", conflicts_with = "paths")]
    store: Option<PathBuf>,
    /// Keep each item's best label as this column, for `bifocal search --where 'COLUMN = cat'`
    #[arg(long, value_name = "COLUMN")]
    write: Option<String>,
    /// Only items of the store that satisfy it, as in `bifocal search`
    #[arg(long = "where", value_name = "EXPR")]
    filter: Option<String>,
    /// Labels, separated by commas
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "a,b,c",
        required_unless_present = "labels_file"
    )]
    labels: Vec<String>,
    /// A file with one label a line
    #[arg(long, value_name = "F", conflicts_with = "labels")]
    labels_file: Option<PathBuf>,
    /// A template set or a file with one template a line; labels are taken as they are without it
    #[arg(long, value_name = "NAME|F")]
    templates: Option<String>,
    /// How many labels to show for each picture
    #[arg(short, default_value_t = 5)]
    k: usize,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Pictures or folders of pictures
    #[arg(required_unless_present = "store", value_name = "PATH")]
    paths: Vec<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    let labels = match &args.labels_file {
        None => args.labels.clone(),
        Some(file) => std::fs::read_to_string(file)
            .with_context(|| format!("reading labels from {}", file.display()))?
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(str::to_owned)
            .collect(),
    };
    if labels.is_empty() {
        return Err(wrong_use("no labels: give --labels a,b,c or --labels-file F"));
    }
    if let Some(store) = &args.store {
        return label_store(&args, store, &labels);
    }
    if args.write.is_some() || args.filter.is_some() {
        return Err(wrong_use(
            "--write and --where are about the items of a store: give --store S instead of PATHs",
        ));
    }
    let samples = pictures::list(&args.paths)?;
    // clap has asked for a model where there is no store
    let model = args
        .compute
        .open_joint(args.model.as_deref().unwrap_or(Path::new("")))?;
    let weights = label_weights(&args, &labels, &model)?;
    let embedded = pictures::embed(&model, &samples, &Alone)?;
    for (row, &sample) in embedded.rows.chunks_exact(model.dim()).zip(&embedded.samples) {
        let ranked = rank_classes(row, &weights, model.logit_scale());
        show(&args, &samples[sample].image.to_string(), &labels, &ranked);
    }
    Ok(())
}

/// Directions of the labels, `[labels.len(), dim]`, unit rows.
fn label_weights(args: &Args, labels: &[String], model: &Model) -> Result<Vec<f32>> {
    let prompts = match &args.templates {
        Some(templates) => TemplateSet::resolve(templates)?.prompts(labels),
        None => labels.to_vec(),
    };
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let rows = pictures::embed_texts(model, &prompts, &Alone)?;
    Ok(class_weights(&rows, prompts.len() / labels.len(), model.dim())?)
}

/// Labels what a store holds; with `--write`, a line for each label says how many items got it.
fn label_store(args: &Args, path: &Path, labels: &[String]) -> Result<()> {
    let filter = args.filter.as_deref().map(parse_filter).transpose()?;
    let mut store = finder::open_reader(path)?;
    let model = finder::open_model(&*store, path, args.model.as_deref(), args.compute)?;
    if args.write.is_some() {
        let id = store.model().clone();
        store = finder::open_writer(path, &id)?;
    }
    let weights = label_weights(args, labels, &model)?;
    let mut page = ListOptions {
        limit: PAGE,
        filter,
        ..ListOptions::default()
    };
    let mut counts = vec![0usize; labels.len()];
    loop {
        let entries = store.entries(&page)?;
        let Some(last) = entries.last() else { break };
        page.after = Some(last.item.file.key.clone());
        let mut changes = Vec::new();
        for entry in &entries {
            let ranked = rank_classes(&entry.direction(model.dim())?, &weights, model.logit_scale());
            let key = entry.item.file.key.as_str();
            match &args.write {
                None => show(args, key, labels, &ranked),
                Some(column) => {
                    let best = ranked[0].class;
                    counts[best] += 1;
                    changes.push((
                        key,
                        Metadata::from_iter([(column.clone(), labels[best].as_str().into())]),
                    ));
                }
            }
        }
        if args.write.is_some() {
            store.annotate(&changes)?;
        }
    }
    if let Some(column) = &args.write {
        show_counts(args, column, labels, &counts);
    }
    Ok(())
}

fn show_counts(args: &Args, column: &str, labels: &[String], counts: &[usize]) {
    if args.json {
        let labels: Vec<_> = labels
            .iter()
            .zip(counts)
            .map(|(l, n)| serde_json::json!({ "label": l, "items": n }))
            .collect();
        println!("{}", serde_json::json!({ "column": column, "labels": labels }));
        return;
    }
    for (label, count) in labels.iter().zip(counts) {
        println!("{count:>8}  {column} = {label}");
    }
}

fn show(args: &Args, image: &str, labels: &[String], ranked: &[Ranked]) {
    let best = &ranked[..args.k.min(ranked.len())];
    if args.json {
        let labels: Vec<_> = best
            .iter()
            .map(|r| serde_json::json!({ "label": labels[r.class], "score": r.cosine, "share": r.share }))
            .collect();
        println!("{}", serde_json::json!({ "path": image, "labels": labels }));
        return;
    }
    println!("{image}");
    for r in best {
        println!("  {:6.3}  {:5.1} %  {}", r.cosine, 100.0 * r.share, labels[r.class]);
    }
}
