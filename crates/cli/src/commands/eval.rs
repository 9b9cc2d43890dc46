//! `bifocal eval`: how well a model finds and names things.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bifocal_align::train::collective::Ranks;
use bifocal_benchmarks::Options;
use bifocal_data::atomic::write_atomic;
use bifocal_data::corrupt::{Corruption, Kind, LEVELS};
use bifocal_data::source::{Dataset, Layout};
use bifocal_eval::{Role, Table, TemplateSet, class_weights, retrieval, zero_shot};
use bifocal_models::bundle::Model;

use crate::evaluating::compare::{compare, table};
use crate::evaluating::run::{Named, Plan};
use crate::evaluating::watch::watch;
use crate::evaluating::{self, plan};
use crate::failure::wrong_use;
use crate::model::Compute;
use crate::pictures::{self, Embedded};
use crate::ranks;

/// Evaluates models on benchmarks.
///
/// `bifocal eval list` names the suites and groups of suites, with --data also what is found there. Each suite is read in its official layout from
/// DATA/<suite>, or from DATA itself; `SUITE=FOLDER` names another folder below DATA. With several suites or models, or with one of
/// the options for that, a matrix is measured: results go to --out, one JSON file for a model and a benchmark, with tables and a
/// page (report.html) of everything there. What is there already is not measured again, so that the same command continues one
/// that was stopped.
///
/// `retrieval` and `zero-shot` on one folder print a table: recall at 1, 5 and 10 in both directions, a row for each language; or top-1, top-5 and the
/// mean over classes.
///
/// `bifocal eval compare A B` says whether two models differ by more than chance: A and B are folders below OUT/results.
#[derive(clap::Args)]
pub struct Args {
    /// Suites, SUITE=FOLDER, or groups of suites; or list, or compare A B
    #[arg(required = true)]
    suites: Vec<String>,
    /// A bundle made by `bifocal train`, the folder of a CLIP in Hugging Face or open_clip layout, or hf:org/name[@revision]. Again for more models;
    /// NAME=M says what it is called in tables
    #[arg(long = "model", value_name = "M")]
    models: Vec<String>,
    #[command(flatten)]
    compute: Compute,
    /// The folder of a data set, or of several
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Results, tables and report.html go into this folder; for `retrieval` or `zero-shot` alone the report as JSON
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Languages of captions or class names (all captions that there are; class names in English)
    #[arg(long, value_delimiter = ',')]
    languages: Vec<String>,
    /// Prompts for class names in `zero-shot` alone: a template set or a file with one template a line
    #[arg(long, value_name = "NAME|F", default_value = "simple")]
    templates: String,
    /// At most so many captions of each picture, the first ones
    #[arg(long, value_name = "N")]
    captions: Option<usize>,
    /// Also measure with corrupted pictures: blur-3, noise-1, jpeg-5, brightness-2, a kind for its five levels, or all; separate by commas
    #[arg(long, value_name = "WHICH", value_delimiter = ',')]
    corrupt: Vec<String>,
    /// Also fit a linear probe and nearest neighbours to the training pictures, where a set has them
    #[arg(long)]
    probe: bool,
    /// Take sets of which a part is missing; the protocol beside each number then says so
    #[arg(long)]
    partial: bool,
    /// Folder with CLIP_benchmark's class names, which Babel-ImageNet needs
    #[arg(long, value_name = "DIR")]
    class_names: Option<PathBuf>,
    /// Measure the checkpoints of this running training as they appear
    #[arg(long, value_name = "RUN")]
    watch: Option<PathBuf>,
    /// Where features are kept (OUT/features); the cache of a training (run.cache of its recipe) has those of its frozen towers already
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Seed of the bootstrap
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    match args.suites[0].as_str() {
        "list" => {
            print!("{}", evaluating::list(args.data.as_deref(), &options(&args))?);
            Ok(())
        }
        "compare" => {
            let [_, a, b] = &args.suites[..] else {
                return Err(wrong_use("give two: bifocal eval compare OUT/results/A OUT/results/B"));
            };
            let lines = compare(Path::new(a), Path::new(b))?;
            match args.json {
                true => println!("{}", serde_json::to_string_pretty(&lines)?),
                false => print!("{}", table(&lines)),
            }
            Ok(())
        }
        "retrieval" if alone(&args) => ranks::among(|ranks| run_retrieval(&args, ranks)),
        "zero-shot" if alone(&args) => ranks::among(|ranks| run_zero_shot(&args, ranks)),
        _ => ranks::among(|ranks| run_matrix(&args, ranks)),
    }
}

/// Whether one model is asked about one folder, and nothing else.
fn alone(args: &Args) -> bool {
    let more =
        args.probe || args.partial || args.watch.is_some() || args.captions.is_some() || !args.corrupt.is_empty();
    args.suites.len() == 1 && args.models.len() < 2 && !more
}

fn options(args: &Args) -> Options {
    Options {
        languages: args.languages.clone(),
        captions: args.captions,
        train: args.probe,
        partial: args.partial,
        class_names: args.class_names.clone(),
    }
}

/// Models × benchmarks.
fn run_matrix(args: &Args, ranks: &dyn Ranks) -> Result<()> {
    let data = args
        .data
        .clone()
        .ok_or_else(|| wrong_use("give --data: the folder of the data sets"))?;
    let targets = plan::targets(&args.suites, &data)?;
    if args.models.is_empty() && args.watch.is_none() {
        return Err(wrong_use(
            "give --model, or --watch with the folder of a running training",
        ));
    }
    let out = args
        .out
        .clone()
        .ok_or_else(|| wrong_use("give --out: the folder for results and report.html"))?;
    let plan = Plan {
        targets,
        corruptions: corruptions(&args.corrupt)?,
        options: options(args),
        probe: args.probe,
        seed: args.seed,
        compute: args.compute,
        cache: args.cache.clone().unwrap_or_else(|| out.join("features")),
        out,
    };
    let opened = plan.open(ranks)?;
    let mut models: Vec<Named> = args.models.iter().map(|model| Named::parse(model)).collect();
    models.dedup();
    for (i, model) in models.iter().enumerate() {
        if models[..i].iter().any(|other| other.name == model.name) {
            return Err(wrong_use(format!(
                "two models are called {:?}: say --model NAME=M",
                model.name
            )));
        }
    }
    for model in &models {
        plan.run(model, &opened, ranks)?;
    }
    if let Some(run) = &args.watch {
        watch(&plan, run, &opened, ranks)?;
    }
    if ranks.first() {
        let outcomes = plan.publish()?;
        match args.json {
            true => println!("{}", serde_json::to_string_pretty(&outcomes)?),
            false => print!("{}", evaluating::markdown(&outcomes)),
        }
        eprintln!("the page: {}", plan.out.join("report.html").display());
    }
    Ok(())
}

/// No corruption, and those that are named.
fn corruptions(names: &[String]) -> Result<Vec<Option<Corruption>>> {
    let mut found = vec![None];
    for name in names {
        let kinds = Kind::ALL
            .into_iter()
            .filter(|kind| name == "all" || name == kind.name());
        let levels: Vec<Corruption> = kinds
            .flat_map(|kind| (1..=LEVELS).filter_map(move |level| Corruption::new(kind, level)))
            .collect();
        match levels.is_empty() {
            true => found.push(Some(name.parse().map_err(|error| wrong_use(format!("{error}")))?)),
            false => found.extend(levels.into_iter().map(Some)),
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|corruption| seen.insert(*corruption));
    Ok(found)
}

/// The only model and the only folder.
struct One {
    model: PathBuf,
    data: PathBuf,
    compute: Compute,
}

fn one(args: &Args) -> Result<One> {
    let given = |given: Option<PathBuf>, flag: &str, what: &str| {
        given
            .filter(|path| !path.as_os_str().is_empty())
            .ok_or_else(|| wrong_use(format!("give {flag}: {what}")))
    };
    Ok(One {
        model: given(
            args.models.first().map(PathBuf::from),
            "--model",
            "the bundle to evaluate",
        )?,
        data: given(
            args.data.clone(),
            "--data",
            "a folder of captioned or labelled pictures",
        )?,
        compute: args.compute,
    })
}

fn open(one: &One) -> Result<(Model, Dataset)> {
    let data = Dataset::open(&one.data)?;
    pictures::report_skipped(&data);
    Ok((one.compute.open_joint(&one.model)?, data))
}

fn run_retrieval(args: &Args, ranks: &dyn Ranks) -> Result<()> {
    let one = one(args)?;
    let (model, data) = open(&one)?;
    if data.layout != Layout::Captions {
        anyhow::bail!("{} has no captions, which retrieval reads", one.data.display());
    }
    let languages: Vec<String> = if args.languages.is_empty() {
        data.languages().keys().map(|&l| l.to_owned()).collect()
    } else {
        args.languages.clone()
    };
    let pictures = pictures::embed(&model, &data.samples, ranks)?;
    let mut table = Table::new(&format!("retrieval on {}", one.data.display()));
    for language in &languages {
        let (texts, owners) = captions(&data, &pictures, language);
        if texts.is_empty() {
            anyhow::bail!(
                "{} has no captions in {language:?}; it has {}",
                one.data.display(),
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
    let one = one(args)?;
    let (model, data) = open(&one)?;
    let mut classes: Vec<&str> = data.samples.iter().filter_map(|s| s.label.as_deref()).collect();
    classes.sort_unstable();
    classes.dedup();
    if classes.len() < 2 {
        anyhow::bail!(
            "{} has {} classes: zero-shot needs labels.jsonl or one folder per class, with at least two",
            one.data.display(),
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
        one.data.display(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corruptions_are_kinds_levels_or_all() {
        let names = |of: &[&str]| {
            let of: Vec<String> = of.iter().map(|s| (*s).to_owned()).collect();
            corruptions(&of).map(|all| all.into_iter().flatten().map(|c| c.to_string()).collect::<Vec<_>>())
        };
        assert!(names(&[]).unwrap().is_empty());
        assert_eq!(names(&["blur-3", "blur-3"]).unwrap(), ["blur-3"]);
        assert_eq!(names(&["jpeg"]).unwrap().len(), 5);
        assert_eq!(names(&["all", "noise-1"]).unwrap().len(), 20);
        assert!(names(&["fog-1"]).is_err());
    }
}
