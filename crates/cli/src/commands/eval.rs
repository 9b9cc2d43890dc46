//! `bifocal eval`: how well a model finds and names things.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bifocal_align::train::collective::Ranks;
use bifocal_data::atomic::write_atomic;
use bifocal_data::source::{Dataset, Layout};
use bifocal_eval::{Role, Table, TemplateSet, class_weights, retrieval, zero_shot};
use bifocal_models::bundle::Model;

use crate::failure::wrong_use;
use crate::pictures::{self, Embedded};
use crate::{model, ranks};

/// Evaluates a model on a folder of captioned or labelled pictures.
///
/// `retrieval` reads `captions.jsonl` and reports recall at 1, 5 and 10 in both directions, a row for each language, next
/// to chance. `zero-shot` reads `labels.jsonl` or one folder per class and reports top-1, top-5 and the mean over
/// classes. `list` names the suites.
#[derive(clap::Args)]
pub struct Args {
    /// retrieval, zero-shot or list
    suite: String,
    /// A bundle made by `bifocal train`, the folder of a CLIP in Hugging Face or open_clip layout, or hf:org/name[@revision]
    #[arg(long, value_name = "M", default_value = "")]
    model: PathBuf,
    /// The folder to evaluate on
    #[arg(long, value_name = "DIR", default_value = "")]
    data: PathBuf,
    /// Also write the report as JSON into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Languages of the captions (all that there are)
    #[arg(long, value_delimiter = ',')]
    languages: Vec<String>,
    /// Prompts for class names: a template set or a file with one template a line
    #[arg(long, value_name = "NAME|F", default_value = "simple")]
    templates: String,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

const SUITES: [(&str, &str); 2] = [
    ("retrieval", "captions find their pictures and pictures their captions"),
    ("zero-shot", "pictures are named by prompts made of class names"),
];

pub fn run(args: Args) -> Result<()> {
    match args.suite.as_str() {
        "list" => {
            for (name, what) in SUITES {
                println!("{name:<10} {what}");
            }
            Ok(())
        }
        "retrieval" => ranks::among(|ranks| run_retrieval(&args, ranks)),
        "zero-shot" => ranks::among(|ranks| run_zero_shot(&args, ranks)),
        other => Err(wrong_use(format!(
            "there is no suite {other:?}; `bifocal eval list` names them: retrieval, zero-shot"
        ))),
    }
}

fn open(args: &Args) -> Result<(Model, Dataset)> {
    for (path, flag, what) in [
        (&args.model, "--model", "the bundle to evaluate"),
        (&args.data, "--data", "a folder of captioned or labelled pictures"),
    ] {
        if path.as_os_str().is_empty() {
            return Err(wrong_use(format!("give {flag}: {what}")));
        }
    }
    let data = Dataset::open(&args.data)?;
    pictures::report_skipped(&data);
    Ok((model::open_joint(&args.model)?, data))
}

fn run_retrieval(args: &Args, ranks: &dyn Ranks) -> Result<()> {
    let (model, data) = open(args)?;
    if data.layout != Layout::Captions {
        anyhow::bail!("{} has no captions, which retrieval reads", args.data.display());
    }
    let languages: Vec<String> = if args.languages.is_empty() {
        data.languages().keys().map(|&l| l.to_owned()).collect()
    } else {
        args.languages.clone()
    };
    let pictures = pictures::embed(&model, &data.samples, ranks)?;
    let mut table = Table::new(&format!("retrieval on {}", args.data.display()));
    for language in &languages {
        let (texts, owners) = captions(&data, &pictures, language);
        if texts.is_empty() {
            anyhow::bail!(
                "{} has no captions in {language:?}; it has {}",
                args.data.display(),
                data.languages().keys().copied().collect::<Vec<_>>().join(", ")
            );
        }
        let rows = pictures::embed_texts(&model, &texts, ranks)?;
        let report = retrieval(&pictures.rows, &rows, model.dim(), &owners)?;
        table.push(language, Role::Model, report);
    }
    finish(args, "retrieval", &table.to_text(), &table.to_json()?, ranks)
}

/// The captions of pictures that could be read, with the row of each one's picture.
fn captions<'a>(data: &'a Dataset, pictures: &Embedded, language: &str) -> (Vec<&'a str>, Vec<usize>) {
    let mut texts = Vec::new();
    let mut owners = Vec::new();
    for (row, &sample) in pictures.samples.iter().enumerate() {
        for text in data.samples[sample].captions.get(language).into_iter().flatten() {
            texts.push(text.as_str());
            owners.push(row);
        }
    }
    (texts, owners)
}

fn run_zero_shot(args: &Args, ranks: &dyn Ranks) -> Result<()> {
    let (model, data) = open(args)?;
    let mut classes: Vec<&str> = data.samples.iter().filter_map(|s| s.label.as_deref()).collect();
    classes.sort_unstable();
    classes.dedup();
    if classes.len() < 2 {
        anyhow::bail!(
            "{} has {} classes: zero-shot needs labels.jsonl or one folder per class, with at least two",
            args.data.display(),
            classes.len()
        );
    }
    let templates = TemplateSet::resolve(&args.templates)?;
    let prompts = templates.prompts(&classes);
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    let rows = pictures::embed_texts(&model, &prompts, ranks)?;
    let weights = class_weights(&rows, prompts.len() / classes.len(), model.dim())?;
    let labelled: Vec<_> = data.samples.iter().filter(|s| s.label.is_some()).cloned().collect();
    let pictures = pictures::embed(&model, &labelled, ranks)?;
    let labels: Vec<usize> = pictures
        .samples
        .iter()
        .filter_map(|&s| labelled[s].label.as_deref())
        .filter_map(|label| classes.binary_search(&label).ok())
        .collect();
    let report = zero_shot(&pictures.rows, &weights, model.dim(), &labels)?;
    let percent = |x: f64| format!("{:.1}", 100.0 * x);
    let text = format!(
        "zero-shot on {}\n{} pictures, {} classes, {} templates ({}); {}\n\n\
         top-1 {}   top-5 {}   mean per class {}   (chance {} and {})\n",
        args.data.display(),
        report.images,
        report.classes,
        prompts.len() / classes.len(),
        args.templates,
        report.ties,
        percent(report.top1),
        percent(report.top5),
        percent(report.mean_per_class),
        percent(report.chance_top1),
        percent(report.chance_top5),
    );
    finish(args, "zero-shot", &text, &serde_json::to_string_pretty(&report)?, ranks)
}

fn finish(args: &Args, suite: &str, text: &str, json: &str, ranks: &dyn Ranks) -> Result<()> {
    if !ranks.first() {
        return Ok(());
    }
    if args.json {
        println!("{json}");
    } else {
        print!("{text}");
    }
    if let Some(out) = &args.out {
        let path: &Path = &out.join(format!("{suite}.json"));
        std::fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
        write_atomic(path, |file| file.write_all(json.as_bytes()))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
