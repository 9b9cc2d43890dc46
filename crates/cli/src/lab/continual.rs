//! The lab of learning task after task: ways of not forgetting, on the same chain of tasks.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use bifocal_align::recipe::{Chain, FreezeRule, Task};
use bifocal_align::train::collective::Alone;
use serde::Serialize;

use super::plan::{self, Setting, data_of};
use super::table::Summary;
use crate::continual::{self, MATRIX, Matrix};
use crate::evaluating::put;
use crate::failure::wrong_use;

/// The recipe of all rows.
const RECIPE: &str = "continual.toml";
/// Folder of the runs, below that of the lab.
const FOLDER: &str = "continual";

/// A row of the table: what it changes of the recipe's profile.
struct Row {
    name: &'static str,
    what: &'static str,
    start: Start,
    sets: &'static [&'static str],
}

/// What a row's first task begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// The lab's base.
    Clip,
    /// The base's vision tower beside a language model.
    Llm,
}

impl Start {
    fn run(self, setting: &Setting) -> Result<plan::Run> {
        match self {
            Self::Clip => plan::base(setting),
            Self::Llm => plan::llm_base(setting),
        }
    }

    /// What its towers ask of the recipe.
    fn sets(self) -> &'static [&'static str] {
        match self {
            Self::Clip => &[],
            Self::Llm => &LLM,
        }
    }
}

/// ShareLock's space is the vision tower's own; a language model calls the layers of its MLP otherwise.
const LLM: [&str; 2] = [
    "embed_dim=1280",
    "lora.targets=[\"text.*.qkv.q\", \"text.*.qkv.v\", \"text.*.out\", \"text.*.gate_up.*\", \"text.*.down\"]",
];

/// What fine-tuning as a whole has in common: there are no adapters, and the text tower learns as the recipe's vision tower does.
const WHOLE: [&str; 2] = ["method=clip", "lora.rank=0"];
/// Learning rate of the text tower then, over that of the heads.
const TEXT_RATE: f64 = 0.3;

const ROWS: &[Row] = &[
    Row {
        name: "fine-tuning",
        what: "everything learns each task, nothing holds it back",
        start: Start::Clip,
        sets: &[],
    },
    Row {
        name: "LoRA",
        what: "C-CLIP's adapters and learning rates, all of what was learnt is kept and nothing holds it back",
        start: Start::Clip,
        sets: &["method=cclip", "consolidate.weight=0", "merge.keep=1"],
    },
    Row {
        name: "WiSE-FT",
        what: "fine-tuning, and after each task the mean of the weights before and after it",
        start: Start::Clip,
        sets: &["merge.keep=0.5"],
    },
    Row {
        name: "EWC",
        what: "fine-tuning with a spring on each weight, as stiff as the weight mattered to the tasks before",
        start: Start::Clip,
        sets: &["method=ewc", "elastic.batches=8", "elastic.weight=1e6"],
    },
    Row {
        name: "LwF",
        what: "fine-tuning beside the former model's similarities of the new pictures and texts",
        start: Start::Clip,
        sets: &[
            "method=cclip",
            "lora.rank=0",
            "consolidate.kind=similarities",
            "consolidate.temperature=2",
            "merge.keep=1",
        ],
    },
    Row {
        name: "ZSCL",
        what: "fine-tuning beside the first model's similarities of 600 photos that it had learnt, weights averaged on the way",
        start: Start::Clip,
        sets: &[
            "method=zscl",
            "reference.sources=[{ path = \"data/flickr8k\", languages = [\"en\"], holdout = 200 }]",
            "reference.batch=16",
            "merge.average_every=5",
        ],
    },
    Row {
        name: "replay",
        what: "fine-tuning with 16 pictures of each former task",
        start: Start::Clip,
        sets: &["continual.replay=16"],
    },
    Row {
        name: "C-CLIP",
        what: "adapters, a contrast with the former embeddings, half of what was learnt is kept",
        start: Start::Clip,
        sets: &["method=cclip"],
    },
    Row {
        name: "joint",
        what: "fine-tuning on all tasks at once: an upper bound",
        start: Start::Clip,
        sets: &[
            "continual.tasks=[\"all\"]",
            "continual.tests=[\"flickr8k\", \"coco\", \"stamps\", \"clipart\", \"emoji\"]",
        ],
    },
    Row {
        name: "fine-tuning, SmolLM2",
        what: "as fine-tuning, with a language model as the text tower: another start, so compare it with the row below",
        start: Start::Llm,
        sets: &[],
    },
    Row {
        name: "C-CLIP, SmolLM2",
        what: "as C-CLIP, with that language model",
        start: Start::Llm,
        sets: &["method=cclip"],
    },
];

/// A run of the table.
pub struct Run {
    row: &'static Row,
    seed: u64,
    folder: PathBuf,
    chain: Chain,
}

/// All runs, seed by seed.
///
/// # Errors
/// A name in `only` that no row has, a recipe that cannot be read.
pub fn runs(setting: &Setting, seeds: u64, only: &[String]) -> Result<Vec<Run>> {
    if let Some(unknown) = only.iter().find(|name| ROWS.iter().all(|row| row.name != **name)) {
        let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        return Err(wrong_use(format!(
            "the lab of continual learning has no row {unknown:?}; it has {}",
            names.join("; ")
        )));
    }
    let mut all = Vec::new();
    for seed in 1..=seeds {
        for row in ROWS {
            let run = run(setting, row, seed)?;
            if only.is_empty() || only.iter().any(|name| row.name == name) || ended(&run).is_some() {
                all.push(run);
            }
        }
    }
    Ok(all)
}

fn run(setting: &Setting, row: &'static Row, seed: u64) -> Result<Run> {
    let path = setting.recipes.join(RECIPE);
    let base = row.start.run(setting)?.folder.join("model").display().to_string();
    let own = row.sets.iter().map(|set| (*set).to_owned());
    let mut sets = vec![
        format!("vision.model={base}"),
        format!("text.model={base}"),
        format!("seed={seed}"),
    ];
    sets.extend(row.start.sets().iter().map(|set| (*set).to_owned()));
    let whole = !row.sets.contains(&"method=cclip") || row.sets.contains(&"lora.rank=0");
    if whole {
        sets.extend(WHOLE.map(str::to_owned));
    }
    sets.extend(own);
    let chain = Chain::load(&path, Some(&setting.profile), &sets)
        .with_context(|| format!("row {:?} of the lab of continual learning", row.name))?;
    let mut chain = chain.with_context(|| format!("{} names no tasks", path.display()))?;
    let place = |task: &mut Task| {
        let recipe = &mut task.recipe;
        recipe.freeze.extend(whole.then(|| FreezeRule {
            pattern: "text.*".to_owned(),
            frozen: false,
            lr: TEXT_RATE,
            weight_decay: None,
        }));
        for source in recipe.data.sources.iter_mut().chain(&mut recipe.reference.sources) {
            source.path = data_of(&source.path, setting);
        }
    };
    chain.tasks.iter_mut().chain(&mut chain.tests).for_each(place);
    for keep in &mut chain.keeps {
        if let Some((suite, folder)) = keep.split_once('=') {
            *keep = format!("{suite}={}", data_of(folder, setting));
        }
    }
    let name = row.name.replace(", ", "-").replace(' ', "-");
    Ok(Run {
        row,
        seed,
        folder: setting.out.join(FOLDER).join(format!("{name}-{seed}")),
        chain,
    })
}

/// The matrix of a run that has ended.
fn ended(run: &Run) -> Option<Matrix> {
    let bytes = fs::read(run.folder.join(MATRIX)).ok()?;
    let matrix: Matrix = serde_json::from_slice(&bytes).ok()?;
    (matrix.tasks.len() == run.chain.tasks.len()).then_some(matrix)
}

/// What the runs start from.
///
/// # Errors
/// A recipe that cannot be read.
pub fn starts(setting: &Setting, runs: &[Run]) -> Result<Vec<plan::Run>> {
    // SmolLM2's starts from the base too
    let llm = runs.iter().any(|run| run.row.start == Start::Llm);
    let starts = [Some(Start::Clip), llm.then_some(Start::Llm)];
    starts.into_iter().flatten().map(|start| start.run(setting)).collect()
}

/// Tells what would run.
pub fn explain(runs: &[Run]) {
    for run in runs {
        let tasks: Vec<&str> = run.chain.tasks.iter().map(|task| task.name.as_str()).collect();
        println!(
            "{} (seed {}): {}\n    {}\n    {}",
            run.row.name,
            run.seed,
            run.row.what,
            run.row.sets.join("  "),
            tasks.join(" → ")
        );
    }
}

/// Trains what has not ended (nothing with `table`), writes the table anew after each run, and gives it.
pub fn table(setting: &Setting, runs: &[Run], table: bool) -> Result<String> {
    let mut finished: Vec<(&Run, Matrix)> = Vec::new();
    let mut text = String::new();
    for (number, run) in runs.iter().enumerate() {
        let matrix = match ended(run) {
            Some(matrix) => matrix,
            None if table => continue,
            None => {
                eprintln!("run {} of {}: {}", number + 1, runs.len(), run.folder.display());
                match continual::run(&run.chain, &run.folder, true, &Alone)? {
                    Some(matrix) => matrix,
                    None => break,
                }
            }
        };
        // a hundred megabytes a task: the table has been measured
        for (task, of) in (1..).zip(&run.chain.tasks) {
            let bundle = run.folder.join(format!("{task}-{}/model", of.name));
            if bundle.is_dir() {
                fs::remove_dir_all(&bundle).with_context(|| format!("removing {}", bundle.display()))?;
            }
        }
        finished.push((run, matrix));
        let rows = rows(&finished);
        let out = setting.out.join(FOLDER);
        put(&out.join("table.json"), &serde_json::to_string_pretty(&rows)?)?;
        text = markdown(&rows);
        put(&out.join("table.md"), &text)?;
    }
    if finished.is_empty() {
        anyhow::bail!("no run has ended in {}", setting.out.join(FOLDER).display());
    }
    Ok(text)
}

/// A row over its seeds; fractions.
#[derive(Serialize)]
struct Summed {
    name: &'static str,
    what: &'static str,
    seeds: Vec<u64>,
    numbers: Vec<(&'static str, Option<Summary>)>,
}

/// Headings, and where the number is in a matrix.
type Column = (&'static str, fn(&Matrix) -> Option<f64>);
const COLUMNS: [Column; 11] = [
    ("i→t", |m| Some(m.sums.get("i2t")?.average)),
    ("t→i", |m| Some(m.sums.get("t2i")?.average)),
    ("learnt i→t", |m| m.sums.get("i2t")?.learning),
    ("learnt t→i", |m| m.sums.get("t2i")?.learning),
    ("forgotten i→t", |m| m.sums.get("i2t")?.forgetting),
    ("forgotten t→i", |m| m.sums.get("t2i")?.forgetting),
    ("forward i→t", |m| m.sums.get("i2t")?.forward),
    ("forward t→i", |m| m.sums.get("t2i")?.forward),
    ("one pool i→t", |m| Some(m.sums.get("merged_i2t")?.average)),
    ("one pool t→i", |m| Some(m.sums.get("merged_t2i")?.average)),
    ("zero-shot lost", |m| m.lost.values().next().copied()),
];

fn rows(finished: &[(&Run, Matrix)]) -> Vec<Summed> {
    let of = |row: &'static Row| -> Option<Summed> {
        let own: Vec<&(&Run, Matrix)> = finished.iter().filter(|(run, _)| run.row.name == row.name).collect();
        let number = |(name, value): Column| (name, Summary::of(own.iter().filter_map(|(_, m)| value(m)).collect()));
        (!own.is_empty()).then(|| Summed {
            name: row.name,
            what: row.what,
            seeds: own.iter().map(|(run, _)| run.seed).collect(),
            numbers: COLUMNS.into_iter().map(number).collect(),
        })
    };
    ROWS.iter().filter_map(of).collect()
}

fn markdown(rows: &[Summed]) -> String {
    let mut out = String::new();
    let heads: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
    // writing into a string does not fail
    let _ = writeln!(
        out,
        "| row | n | {} |\n|---|{}",
        heads.join(" | "),
        "---:|".repeat(heads.len() + 1)
    );
    for row in rows {
        let cell = |(_, s): &(&str, Option<Summary>)| s.as_ref().map_or("–".to_owned(), Summary::percent);
        let cells: Vec<String> = row.numbers.iter().map(cell).collect();
        let _ = writeln!(out, "| {} | {} | {} |", row.name, row.seeds.len(), cells.join(" | "));
    }
    out.push('\n');
    for row in rows {
        let _ = writeln!(out, "- {}: {}", row.name, row.what);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_row_is_a_chain_of_the_same_tests() {
        let setting = Setting {
            data: "elsewhere".into(),
            recipes: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes"),
            profile: "lab".to_owned(),
            out: "runs/lab".into(),
        };
        let all = runs(&setting, 2, &[]).unwrap();
        assert_eq!(all.len(), 2 * ROWS.len());
        for run in &all {
            let name = run.row.name;
            let tests: Vec<&str> = run.chain.tests.iter().map(|test| test.name.as_str()).collect();
            assert_eq!(tests, ["flickr8k", "coco", "stamps", "clipart", "emoji"], "{name}");
            assert_eq!(run.chain.keeps, ["zero-shot=elsewhere/imagenet-sample"], "{name}");
            let first = &run.chain.tasks[0].recipe;
            let start = match run.row.start {
                Start::Clip => "runs/lab/base/model",
                Start::Llm => "runs/lab/base-SmolLM2/model",
            };
            assert_eq!((first.seed, first.vision.model.as_str()), (run.seed, start), "{name}");
            assert_eq!(first.data.sources[0].path, "elsewhere/flickr8k", "{name}");
        }
        let methods: std::collections::BTreeSet<&str> = all
            .iter()
            .map(|run| run.chain.tasks[0].recipe.method.as_str())
            .collect();
        assert_eq!(
            methods.into_iter().collect::<Vec<_>>(),
            ["cclip", "clip", "ewc", "zscl"]
        );
        assert!(runs(&setting, 1, &["EWK".to_owned()]).is_err());
    }
}
