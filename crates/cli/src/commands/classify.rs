//! `bifocal classify`: which of some labels fits a picture.

use std::path::PathBuf;

use anyhow::{Context, Result};
use bifocal_align::train::collective::Alone;
use bifocal_data::ImageSource;
use bifocal_eval::{Ranked, TemplateSet, class_weights, rank_classes};

use crate::failure::wrong_use;
use crate::model;
use crate::pictures;

/// Scores pictures against labels in any language.
///
/// Each label is put into every template; a label's score is the cosine between the picture and the mean of its prompts, the share
/// beside it the softmax over the labels at the model's temperature.
#[derive(clap::Args)]
pub struct Args {
    /// A bundle made by `bifocal train`, the folder of a CLIP in Hugging Face or open_clip layout, or hf:org/name[@revision]
    #[arg(long, value_name = "M")]
    model: PathBuf,
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
    #[arg(required = true, value_name = "PATH")]
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
    let samples = pictures::list(&args.paths)?;
    let model = model::open_joint(&args.model)?;
    let prompts = match &args.templates {
        Some(templates) => TemplateSet::resolve(templates)?.prompts(&labels),
        None => labels.clone(),
    };
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let rows = pictures::embed_texts(&model, &prompts, &Alone)?;
    let weights = class_weights(&rows, prompts.len() / labels.len(), model.dim())?;
    let embedded = pictures::embed(&model, &samples, &Alone)?;
    for (row, &sample) in embedded.rows.chunks_exact(model.dim()).zip(&embedded.samples) {
        let ranked = rank_classes(row, &weights, model.logit_scale());
        show(&args, &samples[sample].image, &labels, &ranked);
    }
    Ok(())
}

fn show(args: &Args, image: &ImageSource, labels: &[String], ranked: &[Ranked]) {
    let best = &ranked[..args.k.min(ranked.len())];
    if args.json {
        let labels: Vec<_> = best
            .iter()
            .map(|r| serde_json::json!({ "label": labels[r.class], "score": r.cosine, "share": r.share }))
            .collect();
        println!("{}", serde_json::json!({ "path": image.to_string(), "labels": labels }));
        return;
    }
    println!("{image}");
    for r in best {
        println!("  {:6.3}  {:5.1} %  {}", r.cosine, 100.0 * r.share, labels[r.class]);
    }
}
