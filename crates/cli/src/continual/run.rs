//! Task after task: each starts from the bundle of the one before.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bifocal_align::Recipe;
use bifocal_align::recipe::{Chain, Task};
use bifocal_align::train::collective::{Alone, Ranks, Wait};
use bifocal_align::train::{self, Options};
use bifocal_data::atomic::FileLock;
use bifocal_models::bundle::{Located, MANIFEST, locate};

use super::matrix::Matrix;
use super::measure::{Asked, Measured};
use super::report;
use crate::evaluating::{Features, put};
use crate::failure::wrong_use;
use crate::output::training;
use crate::{model, ranks as console_of};

/// The whole chain in numbers, in its folder.
pub const MATRIX: &str = "matrix.json";
/// The recipe of the chain, in its folder.
const RECIPE: &str = "recipe.toml";
/// Largest file of measurements that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Tells what would be trained, on what, and what it would take.
pub fn explain(chain: &Chain) -> Result<()> {
    for (number, task) in (1..).zip(&chain.tasks) {
        println!("task {number}, {}", task.name);
        training::print_overview(&train::overview(&task.recipe)?);
        println!();
    }
    let names = |tasks: &[Task]| {
        tasks
            .iter()
            .map(|task| task.name.clone())
            .collect::<Vec<_>>()
            .join(", ")
    };
    println!("measured after each: {}", names(&chain.tests));
    if !chain.keeps.is_empty() {
        println!("and what may be forgotten: {}", chain.keeps.join(", "));
    }
    println!("\n{}", chain.source);
    Ok(())
}

/// Trains all tasks of a chain and measures after each. What has ended is not done again, so that the same call with `resume` goes on after
/// whatever interrupted it. `None` when the run was stopped before its end.
pub fn run(chain: &Chain, out: &Path, resume: bool, ranks: &dyn Ranks) -> Result<Option<Matrix>> {
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let lock = || FileLock::acquire(&out.join("lock"), "bifocal train");
    let _lock = ranks.first().then(lock).transpose()?;
    let stored = out.join(RECIPE);
    if stored.is_file() && !resume {
        return Err(wrong_use(format!(
            "{} holds a run already: add --resume to go on with it, or choose another --out",
            out.display()
        )));
    }
    let asked = Asked::open(chain)?;
    // what cannot begin leaves no run behind
    let begins = !stored.is_file();
    if let Some(first) = chain.tasks.first().filter(|_| begins) {
        train::overview(&first.recipe)?;
    }
    ranks.barrier(Wait::Work)?;
    if ranks.first() && begins {
        put(&stored, &chain.source)?;
    }
    let mut progress = Progress {
        chain,
        out,
        asked,
        ranks,
        before: None,
        after: Vec::new(),
    };
    let mut start: Option<PathBuf> = None;
    if let Some(first) = chain
        .tasks
        .first()
        .filter(|first| first.recipe.vision.model == first.recipe.text.model)
    {
        let name = &first.recipe.vision.model;
        let path = match locate(name, None) {
            Located::At(path) => path,
            Located::Nowhere(_) => model::find(Path::new(name))?,
        };
        progress.measure(0, &path, &first.recipe)?;
    }
    for (number, task) in (1..).zip(&chain.tasks) {
        let folder = out.join(format!("{number}-{}", task.name));
        let recipe = match &start {
            None => task.recipe.clone(),
            Some(bundle) => from(&task.recipe, bundle, &chain.tasks[0].recipe),
        };
        if ranks.first() {
            eprintln!("task {number} of {}: {}", chain.tasks.len(), task.name);
        }
        let bundle = folder.join("model");
        if !has_ended(&folder, &recipe)? {
            let options = Options {
                out: folder.clone(),
                resume: true,
            };
            let mut console = console_of::console(ranks)?;
            let summary = train::run_among(&recipe, &options, &mut console, ranks)?;
            console.finish();
            if summary.bundle.is_none() {
                if ranks.first() {
                    println!(
                        "stopped in task {number}, {}; the same command with --resume goes on",
                        task.name
                    );
                }
                return Ok(None);
            }
        }
        progress.measure(number, &bundle, &recipe)?;
        // they were for going on with this task, which has ended
        let checkpoints = folder.join("checkpoints");
        if ranks.first() && checkpoints.is_dir() {
            fs::remove_dir_all(&checkpoints).with_context(|| format!("removing {}", checkpoints.display()))?;
        }
        start = Some(bundle);
    }
    // tasks may have been added; another recipe has been refused by then
    if ranks.first() {
        put(&stored, &chain.source)?;
    }
    progress.matrix().map(Some)
}

/// A task's recipe, starting from the bundle of the one before. `first`: the recipe of the first task.
fn from(recipe: &Recipe, bundle: &Path, first: &Recipe) -> Recipe {
    let mut recipe = recipe.clone();
    if recipe.method == "ewc" {
        let former = bundle.with_file_name(train::IMPORTANCE_FILE);
        recipe.elastic.former = former.display().to_string();
    }
    // what the model before the first task made of reference pictures is what is held on to
    if recipe.method == "zscl" && recipe.reference.teacher.is_empty() {
        recipe.reference.teacher.clone_from(&first.vision.model);
    }
    recipe.vision.model = bundle.display().to_string();
    recipe.text.model.clone_from(&recipe.vision.model);
    // nothing of what the tasks before have learnt begins anew
    recipe.vision.new = None;
    recipe.vision.codes = None;
    recipe.text.from_scratch = false;
    recipe.image_head.pretrained = true;
    recipe.text_head.pretrained = true;
    recipe.loss.scale_pretrained = true;
    recipe
}

/// Whether a task's folder has its bundle, of this recipe.
fn has_ended(folder: &Path, recipe: &Recipe) -> Result<bool> {
    if !folder.join("model").join(MANIFEST).is_file() {
        return Ok(false);
    }
    let stored = Recipe::load(&folder.join(RECIPE), None, &[])?;
    let differences = recipe.differences(&stored);
    if differences.is_empty() {
        return Ok(true);
    }
    anyhow::bail!(
        "{} was trained by another recipe ({}); set these back, or begin anew in another folder",
        folder.display(),
        differences.join("; ")
    )
}

/// What was measured so far.
struct Progress<'a> {
    chain: &'a Chain,
    out: &'a Path,
    asked: Asked,
    ranks: &'a dyn Ranks,
    before: Option<Measured>,
    after: Vec<Measured>,
}

impl Progress<'_> {
    /// Measures the model after so many tasks, unless that was done before, and writes everything anew. Rank 0 does it.
    fn measure(&mut self, number: usize, path: &Path, recipe: &Recipe) -> Result<()> {
        if self.ranks.first() {
            let measured = self.asked_of(number, path, recipe)?;
            match number {
                0 => self.before = Some(measured),
                _ => self.after.push(measured),
            }
            let matrix = self.matrix()?;
            put(&self.out.join(MATRIX), &serde_json::to_string_pretty(&matrix)?)?;
            put(&self.out.join("matrix.md"), &matrix.to_markdown())?;
            report::write(self.out, &matrix)?;
        }
        Ok(self.ranks.barrier(Wait::Work)?)
    }

    fn asked_of(&self, number: usize, path: &Path, recipe: &Recipe) -> Result<Measured> {
        let model = model::open_joint(path)?;
        let file = self.out.join(format!("measured-{number}.json"));
        if let Some(known) = read(&file)?
            && known.asked == self.asked.digest
            && known.fingerprint == model.fingerprint()
        {
            return Ok(known);
        }
        // nobody will ask again what a model makes of these that goes on learning
        let own = self.out.join("features");
        let features = Features {
            cache: match number {
                0 => PathBuf::from(&recipe.run.cache),
                _ => own.clone(),
            },
            ranks: &Alone,
        };
        let measured = self.asked.ask(&model, &features)?;
        put(&file, &serde_json::to_string_pretty(&measured)?)?;
        if own.is_dir() {
            fs::remove_dir_all(&own).with_context(|| format!("removing {}", own.display()))?;
        }
        Ok(measured)
    }

    fn matrix(&self) -> Result<Matrix> {
        let names = |tasks: &[Task]| tasks.iter().map(|task| task.name.clone()).collect::<Vec<_>>();
        let mut tasks = names(&self.chain.tasks);
        tasks.truncate(self.after.len());
        Matrix::of(
            tasks,
            names(&self.chain.tests),
            self.asked.keeps().map(str::to_owned).collect(),
            self.before.clone(),
            self.after.clone(),
        )
    }
}

/// What was measured before; a file that is damaged is measured again.
fn read(path: &Path) -> Result<Option<Measured>> {
    let length = match path.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    if length > MAX_FILE {
        return Ok(None);
    }
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(serde_json::from_slice(&bytes).ok())
}
