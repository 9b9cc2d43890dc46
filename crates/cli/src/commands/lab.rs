//! `bifocal lab`: every method on the same small real data, and one table.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bifocal_data::atomic::write_atomic;
use bifocal_models::bundle::{Located, locate};
use bifocal_models::open::{TextOptions, open_text};
use bifocal_models::text::{Attention, Pooling};

use crate::lab::continual;
use crate::lab::cost::{self, Cost};
use crate::lab::judge::{Scores, Suite};
use crate::lab::plan::{self, Run, Setting};
use crate::lab::table::{self, Finished, Lab};
use crate::lab::talk;
use crate::model;

/// Scores of a run, in its folder.
const SCORES: &str = "lab-scores.json";

/// Trains all methods on the same small real data and writes one table.
///
/// First a base CLIP from EfficientNet-Lite0 and MiniLM; then every row of the table, seed by seed, from the base's vision tower. Each run
/// is a process of its own. A run that has ended is not repeated and one that was interrupted goes on, so that the same command continues a
/// lab that was stopped; the table (table.md, table.json in --out) is written anew after each run. See docs/lab.md.
#[derive(clap::Args)]
pub struct Args {
    /// Folder with flickr8k, imagenet-sample, coco and sugarcrepe ($BIFOCAL_DATA, or else data)
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder with the recipes
    #[arg(long, value_name = "DIR", default_value = "recipes")]
    recipes: PathBuf,
    /// Profile of the recipes
    #[arg(long, default_value = "lab")]
    profile: String,
    /// Where runs and table go
    #[arg(long, value_name = "DIR", default_value = "runs/lab")]
    out: PathBuf,
    /// Seeds of each row: 1, 2, …
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Train only these rows; separate by semicolons ("sail; lift, cosine"). The table also has the others that have ended
    #[arg(long, value_delimiter = ';')]
    only: Vec<String>,
    /// The lab of learning task after task in place of the lab of methods: docs/continual.md; its runs are in continual/ of --out
    #[arg(long)]
    continual: bool,
    /// The lab of towers and connectors that a language model sees through, in place of the lab of methods: docs/methods/llava.md; its runs are in talk/ of --out
    #[arg(long, conflicts_with = "continual")]
    talk: bool,
    /// Tell what would run, without running it
    #[arg(long)]
    explain: bool,
    /// Train nothing: the table of the runs that have ended
    #[arg(long)]
    table: bool,
    /// A run's folder, for a process that the lab has started
    #[arg(long, hide = true, value_name = "DIR")]
    run: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    if let Some(folder) = &args.run {
        return cost::run_here(folder);
    }
    let data = args
        .data
        .clone()
        .or_else(|| std::env::var_os("BIFOCAL_DATA").map(PathBuf::from));
    let setting = Setting {
        data: data.unwrap_or_else(|| PathBuf::from("data")),
        recipes: args.recipes.clone(),
        profile: args.profile.clone(),
        out: args.out.clone(),
    };
    let only: Vec<String> = args.only.iter().map(|name| name.trim().to_owned()).collect();
    if args.continual {
        return tasks(&args, &setting, &only);
    }
    if args.talk {
        return towers(&args, &setting, &only);
    }
    let runs = plan::runs(&setting, args.seeds, &only)?;
    if args.explain {
        for run in &runs {
            explain(run);
        }
        return Ok(());
    }
    let mut finished: Vec<Finished> = Vec::new();
    let mut suite: Option<Suite> = None;
    let mut untuned_c2c = None;
    for (number, run) in runs.iter().enumerate() {
        if args.table && !cost::has_ended(&run.folder) {
            continue;
        }
        eprintln!("run {} of {}: {}", number + 1, runs.len(), run.folder.display());
        let cost = cost::in_a_process(&run.recipe, &run.folder)?;
        let suite = match &mut suite {
            Some(suite) => suite,
            none => none.insert(Suite::open(
                &setting.data,
                &run.folder.join("holdout.json"),
                &run.recipe,
            )?),
        };
        finished.push(Finished {
            row: run.row.name.to_owned(),
            what: run.row.what,
            seed: run.recipe.seed,
            scores: scores(suite, run, &cost)?,
            cost,
        });
        if untuned_c2c.is_none() && runs.iter().any(|run| run.row.name.contains("SmolLM2")) {
            untuned_c2c = Some(untuned(suite)?);
        }
        let lab = Lab {
            command: command(&args, &only),
            version: env!("CARGO_PKG_VERSION"),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            data: suite.describe(),
            untuned_c2c: untuned_c2c.clone().unwrap_or_default(),
            rows: table::rows(&finished),
        };
        write(&setting.out.join("table.md"), &lab.to_markdown())?;
        write(&setting.out.join("table.json"), &serde_json::to_string_pretty(&lab)?)?;
    }
    if finished.is_empty() {
        anyhow::bail!(
            "no run has ended in {}; leave --table out to train them",
            setting.out.display()
        );
    }
    let path = setting.out.join("table.md");
    print!(
        "{}",
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?
    );
    Ok(())
}

/// The lab of learning task after task.
fn tasks(args: &Args, setting: &Setting, only: &[String]) -> Result<()> {
    let runs = continual::runs(setting, args.seeds, only)?;
    if args.explain {
        continual::explain(&runs);
        return Ok(());
    }
    if !args.table {
        for start in continual::starts(setting, &runs)? {
            cost::in_a_process(&start.recipe, &start.folder)?;
        }
    }
    print!("{}", continual::table(setting, &runs, args.table)?);
    Ok(())
}

/// The lab of towers and connectors that a language model sees through.
fn towers(args: &Args, setting: &Setting, only: &[String]) -> Result<()> {
    let runs = talk::runs(setting, args.seeds, only)?;
    if args.explain {
        talk::explain(&runs);
    } else {
        print!("{}", talk::table(setting, &runs, args.table)?);
    }
    Ok(())
}

fn explain(run: &Run) {
    let seed = run
        .seed
        .map_or_else(|| "one seed".to_owned(), |seed| format!("seed {seed}"));
    println!(
        "{} ({seed}): recipes/{}.toml; {}",
        run.row.name, run.row.recipe, run.row.what
    );
    for set in run.row.sets {
        println!("    {set}");
    }
    for stage in run.recipe.running() {
        let recipe = run.recipe.of_stage(stage);
        let length = match (recipe.schedule.steps, recipe.schedule.epochs) {
            (Some(steps), _) => format!("{steps} steps"),
            (None, epochs) => format!("{} epochs", epochs.unwrap_or_default()),
        };
        println!("    stage {stage}: {length}, {} pictures a step", recipe.data.batch);
    }
}

/// What a run's bundle reaches; measured once.
fn scores(suite: &Suite, run: &Run, cost: &Cost) -> Result<Scores> {
    let path = run.folder.join(SCORES);
    if path.is_file() {
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        return serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()));
    }
    let scores = suite.judge(&model::open_joint(&run.folder.join("model"))?)?;
    write(&path, &serde_json::to_string_pretty(&scores)?)?;
    let of = |name: &str| 100.0 * scores.get(name).copied().unwrap_or(f64::NAN);
    eprintln!(
        "{}: en {:.1} / {:.1}, zero-shot {:.1}; {:.0} s of steps",
        run.row.name,
        of("en_t2i"),
        of("en_i2t"),
        of("zero_shot"),
        cost.seconds
    );
    Ok(scores)
}

/// Caption-to-caption retrieval of SmolLM2 before any tuning, read as the tuned one is.
fn untuned(suite: &Suite) -> Result<BTreeMap<String, f64>> {
    let Located::At(path) = locate("models/smollm2", None) else {
        anyhow::bail!("there is no models/smollm2: fetch it with scripts/fetch-encoders.py, or set BIFOCAL_MODELS");
    };
    let options = TextOptions {
        attention: Some(Attention::Causal),
        pooling: Some(Pooling::Mean),
        ..TextOptions::default()
    };
    let encoder = open_text(&path, &options)?;
    let name = "SmolLM2 as it comes (causal, mean)".to_owned();
    Ok(BTreeMap::from([(name, suite.caption_to_caption(&encoder, None)?)]))
}

fn command(args: &Args, only: &[String]) -> String {
    let mut command = format!("bifocal lab --seeds {}", args.seeds);
    if args.profile != "lab" {
        command.push_str(&format!(" --profile {}", args.profile));
    }
    if !only.is_empty() {
        command.push_str(&format!(" --only \"{}\"", only.join("; ")));
    }
    command
}

fn write(path: &Path, text: &str) -> Result<()> {
    write_atomic(path, |file| file.write_all(text.as_bytes())).with_context(|| format!("writing {}", path.display()))
}
