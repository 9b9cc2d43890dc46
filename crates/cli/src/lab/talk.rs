//! The lab of what a language model sees through: the first stage of LLaVA on the vision tower of some rows, other connectors on the base's, and what is then
//! said about held-out pictures. It is how LIFT and LLM2CLIP look at towers, at the size of a laptop.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bifocal_align::Recipe;
use bifocal_data::Limits;
use bifocal_data::source::Sample;
use bifocal_eval::answers::captions::figures;
use bifocal_models::chat::{ChatModel, Conversation, Speech};
use serde::{Deserialize, Serialize};

use super::cost;
use super::judge::held_out;
use super::plan::{self, Setting};
use super::table::Summary;
use crate::evaluating::put;
use crate::failure::wrong_use;

/// Folder of the runs, below that of the lab.
const FOLDER: &str = "talk";
/// What a run's model said, in its folder.
const SAID: &str = "captions.json";
/// Words that people use for a picture are twenty at most.
const LONGEST: usize = 40;
/// A row of the table.
struct Row {
    name: &'static str,
    /// File in the folder of recipes, without its ending.
    recipe: &'static str,
    /// The row of the lab whose vision tower is looked through.
    tower: &'static str,
}

const fn row(name: &'static str, recipe: &'static str, tower: &'static str) -> Row {
    Row { name, recipe, tower }
}

const ROWS: [Row; 6] = [
    row("base", "llava", plan::BASE),
    row("clip", "llava", "clip"),
    row("lift", "llava", "lift"),
    row("proclip", "llava", "proclip"),
    row("base, blip2", "blip2", plan::BASE),
    row("base, flamingo", "flamingo", plan::BASE),
];

/// A run: a connector on a tower.
pub struct Run {
    row: &'static Row,
    seed: u64,
    folder: PathBuf,
    /// What trains the tower.
    before: plan::Run,
    recipe: Recipe,
}

/// All runs, seed by seed; a tower's seed is that of the run.
///
/// # Errors
/// A name in `only` of no such row, a recipe that cannot be read.
pub fn runs(setting: &Setting, seeds: u64, only: &[String]) -> Result<Vec<Run>> {
    if let Some(unknown) = only.iter().find(|name| ROWS.iter().all(|row| row.name != **name)) {
        let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        return Err(wrong_use(format!(
            "this lab has no row {unknown:?}; it has {}",
            names.join("; ")
        )));
    }
    let mut all = Vec::new();
    for seed in 1..=seeds {
        for row in &ROWS {
            let name = row.name.replace(", ", "-");
            let folder = setting.out.join(FOLDER).join(format!("{name}-{seed}"));
            let wanted = only.is_empty() || only.iter().any(|name| name == row.name);
            if wanted || cost::has_ended(&folder) {
                let before = plan::named(setting, row.tower, seed)?;
                let recipe = recipe(setting, row, &before.folder.join("model"), seed)?;
                all.push(Run {
                    row,
                    seed,
                    folder,
                    before,
                    recipe,
                });
            }
        }
    }
    Ok(all)
}

fn recipe(setting: &Setting, row: &Row, tower: &Path, seed: u64) -> Result<Recipe> {
    let path = setting.recipes.join(format!("{}.toml", row.recipe));
    let sets = [
        format!("vision.model={}", tower.display()),
        format!("seed={seed}"),
        // judged by what it says
        "run.evaluate_on=0".to_owned(),
    ];
    let mut recipe = Recipe::load(&path, Some(&setting.profile), &sets)?;
    plan::place(&mut recipe, setting);
    Ok(recipe)
}

/// Tells what would run.
pub fn explain(runs: &[Run]) {
    for run in runs {
        println!(
            "{} (seed {}): recipes/{}.toml on the vision tower of {}",
            run.row.name,
            run.seed,
            run.row.recipe,
            run.before.folder.display()
        );
    }
}

/// A caption and what people say of the picture.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Said {
    image: String,
    caption: String,
    people: Vec<String>,
}

/// Trains what has not ended (nothing with `table`), writes the table anew after each run, and gives it.
///
/// # Errors
/// Runs that fail, pictures of which none can be read.
pub fn table(setting: &Setting, runs: &[Run], table: bool) -> Result<String> {
    let mut finished: Vec<(&Run, Vec<Said>)> = Vec::new();
    let out = setting.out.join(FOLDER);
    let mut text = String::new();
    for (number, run) in runs.iter().enumerate() {
        if table && !cost::has_ended(&run.folder) {
            continue;
        }
        eprintln!("run {} of {}: {}", number + 1, runs.len(), run.folder.display());
        if !table {
            let base = plan::base(setting)?;
            cost::in_a_process(&base.recipe, &base.folder)?;
            cost::in_a_process(&run.before.recipe, &run.before.folder)?;
            cost::in_a_process(&run.recipe, &run.folder)?;
        }
        finished.push((run, said(setting, run)?));
        let rows = rows(&finished);
        put(&out.join("table.json"), &serde_json::to_string_pretty(&rows)?)?;
        text = markdown(&rows);
        put(&out.join("table.md"), &text)?;
    }
    if finished.is_empty() {
        anyhow::bail!("no run has ended in {}", out.display());
    }
    Ok(text)
}

/// What a run's model says about the held-out pictures; asked once.
fn said(setting: &Setting, run: &Run) -> Result<Vec<Said>> {
    let path = run.folder.join(SAID);
    if path.is_file() {
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        return serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()));
    }
    let model = ChatModel::open(&run.folder.join("model"))?;
    let held = held_out(&setting.data, &run.folder.join("holdout.json"))?;
    let mut all = Vec::new();
    for sample in &held {
        // without words of people there is nothing to compare with
        let people = sample.captions.get("en").cloned().unwrap_or_default();
        match describe(&model, sample) {
            Ok(caption) if !people.is_empty() => all.push(Said {
                image: sample.key.clone(),
                caption,
                people,
            }),
            Ok(_) => eprintln!("{} is left out: nobody has described it", sample.key),
            Err(error) => eprintln!("{} is left out: {error:#}", sample.key),
        }
    }
    put(&path, &serde_json::to_string_pretty(&all)?)?;
    Ok(all)
}

/// The likeliest words, one after the other.
fn describe(model: &ChatModel, sample: &Sample) -> Result<String> {
    let eyes = model.eyes.as_ref().context("the model sees no pictures")?;
    let preprocess = &eyes.vision.preprocess;
    let picture = sample.image.open(&Limits::default(), preprocess.conventions)?;
    let speech = Speech {
        max_tokens: LONGEST,
        ..Speech::default()
    };
    let pixels = preprocess.apply(&picture)?;
    let mut talk = Conversation::new(model, Some(&pixels), None, speech)?;
    Ok(talk.ask("", |_| true)?.text.trim().to_owned())
}

type Column = (&'static str, fn(&[Said]) -> f64);
const COLUMNS: [Column; 5] = [
    ("CIDEr", |said| scored(said, 0).1),
    ("CIDEr, others' captions", |said| scored(said, 1).1),
    ("BLEU-4", |said| scored(said, 0).0[3]),
    ("BLEU-1", |said| scored(said, 0).0[0]),
    ("different", |said| {
        let different: std::collections::BTreeSet<&str> = said.iter().map(|one| one.caption.as_str()).collect();
        different.len() as f64 / said.len().max(1) as f64
    }),
];

/// BLEU-1 to 4 and CIDEr-D beside what people say of the picture `shift` places further on.
fn scored(said: &[Said], shift: usize) -> ([f64; 4], f64) {
    let of = |i: usize| -> Vec<&str> {
        said[(i + shift) % said.len()]
            .people
            .iter()
            .map(String::as_str)
            .collect()
    };
    let pairs: Vec<(&str, Vec<&str>)> = said
        .iter()
        .enumerate()
        .map(|(i, one)| (one.caption.as_str(), of(i)))
        .collect();
    figures(&pairs)
}

/// A row over its seeds; fractions.
#[derive(Serialize)]
struct Summed {
    name: &'static str,
    seeds: Vec<u64>,
    pictures: usize,
    numbers: BTreeMap<&'static str, Summary>,
}

fn rows(finished: &[(&Run, Vec<Said>)]) -> Vec<Summed> {
    let of = |row: &'static Row| {
        let own: Vec<&(&Run, Vec<Said>)> = finished.iter().filter(|(run, _)| run.row.name == row.name).collect();
        let number =
            |(name, value): Column| Some((name, Summary::of(own.iter().map(|(_, said)| value(said)).collect())?));
        (!own.is_empty()).then(|| Summed {
            name: row.name,
            seeds: own.iter().map(|(run, _)| run.seed).collect(),
            pictures: own.iter().map(|(_, said)| said.len()).min().unwrap_or(0),
            numbers: COLUMNS.into_iter().filter_map(number).collect(),
        })
    };
    ROWS.iter().filter_map(of).collect()
}

fn markdown(rows: &[Summed]) -> String {
    let heads: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
    let mut out = String::new();
    // writing into a string does not fail
    let _ = writeln!(
        out,
        "| row | n | pictures | {} |\n|---|---:|{}",
        heads.join(" | "),
        "---:|".repeat(heads.len() + 1)
    );
    for row in rows {
        let cells: Vec<String> = heads
            .iter()
            .map(|name| row.numbers.get(name).map_or("–".to_owned(), Summary::percent))
            .collect();
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} |",
            row.name,
            row.seeds.len(),
            row.pictures,
            cells.join(" | ")
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_seed_looks_through_the_tower_of_that_seed() {
        let setting = Setting {
            data: "elsewhere".into(),
            recipes: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes"),
            profile: "lab".to_owned(),
            out: "runs/lab".into(),
        };
        let all = runs(&setting, 2, &["lift".to_owned(), plan::BASE.to_owned()]).unwrap();
        let towers: Vec<&str> = all.iter().map(|run| run.recipe.vision.model.as_str()).collect();
        let expected = ["base", "lift-1", "base", "lift-2"].map(|run| format!("runs/lab/{run}/model"));
        assert_eq!(towers, expected);
        assert_eq!((all[3].recipe.seed, all[3].before.recipe.seed), (2, 2));
        assert_eq!(all[3].recipe.data.sources[0].path, "elsewhere/flickr8k");
        assert!(runs(&setting, 1, &["lit".to_owned()]).is_err());
    }

    #[test]
    fn captions_of_the_picture_count_more_than_those_of_another() {
        let said = |caption: &str| Said {
            image: String::new(),
            caption: caption.to_owned(),
            people: vec![caption.to_owned(), format!("{caption} indeed")],
        };
        let all = [said("a dog runs over wet sand"), said("two men sit on a red bench")];
        let [cider, others] = [0, 1].map(|shift| scored(&all, shift).1);
        assert!(cider > 1.0 && others < 0.1, "{cider} {others}");
        assert_eq!((COLUMNS[4].1)(&all), 1.0);
    }
}
