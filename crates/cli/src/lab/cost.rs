//! What a run costs. A run of the lab is a process of its own, so that the peak of its memory is its own.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use bifocal_align::Recipe;
use bifocal_align::train::checkpoint::Skipped;
use bifocal_align::train::watch::Evaluation;
use bifocal_align::train::{self, Options, Overview, Progress, StepReport};
use bifocal_data::atomic::write_atomic;
use serde::{Deserialize, Serialize};

use crate::output::training::Console;

/// The recipe of a run, in its folder.
const RECIPE: &str = "lab-recipe.toml";
/// Its cost, when it has ended.
const COST: &str = "lab-cost.json";

/// What training took. Reading features of frozen towers is counted apart: the first run that needs them does it for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Wall time of the steps.
    pub seconds: f64,
    /// Processor time of the steps, over all threads; what else the machine does matters less to it. 0 where the system does not tell.
    pub cpu_seconds: f64,
    /// Processor time of everything between and before the steps.
    pub other_cpu_seconds: f64,
    /// Highest resident memory of the process, in bytes. 0 where the system does not tell.
    pub peak_bytes: u64,
    /// Steps of the session that ended the run.
    pub steps: u64,
    /// Whether an earlier session was interrupted: then the numbers are those of the last one.
    pub resumed: bool,
}

/// Trains a recipe in a process of its own, unless its folder has the bundle; goes on with what was interrupted.
pub fn in_a_process(recipe: &Recipe, folder: &Path) -> Result<Cost> {
    let cost = folder.join(COST);
    if !has_ended(folder) {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let path = folder.join(RECIPE);
        let text = recipe.to_toml();
        write_atomic(&path, |file| file.write_all(text.as_bytes()))
            .with_context(|| format!("writing {}", path.display()))?;
        let program = std::env::current_exe().context("finding this program")?;
        let status = Command::new(program)
            .args(["lab", "--run"])
            .arg(folder)
            .status()
            .context("starting a run of the lab")?;
        if !status.success() {
            anyhow::bail!(
                "the run in {} failed ({status}); what it said stands above, and the same command goes on from there",
                folder.display()
            );
        }
    }
    let text = std::fs::read_to_string(&cost).with_context(|| format!("reading {}", cost.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", cost.display()))
}

/// Whether a folder has a bundle and what it cost.
pub fn has_ended(folder: &Path) -> bool {
    folder.join(COST).is_file() && folder.join("model").is_dir()
}

/// The other side of [`in_a_process`].
pub fn run_here(folder: &Path) -> Result<()> {
    let recipe = Recipe::load(&folder.join(RECIPE), None, &[])?;
    let options = Options {
        out: folder.to_owned(),
        resume: true,
    };
    let mut meter = Meter::new()?;
    train::run(&recipe, &options, &mut meter)?;
    meter.console.finish();
    meter.cost.peak_bytes = peak_bytes();
    let json = serde_json::to_string_pretty(&meter.cost)?;
    let path = folder.join(COST);
    write_atomic(&path, |file| file.write_all(json.as_bytes())).with_context(|| format!("writing {}", path.display()))
}

/// Counts the time of steps, and shows the run.
struct Meter {
    console: Console,
    cost: Cost,
    /// When the last thing ended: wall and processor.
    mark: (Instant, f64),
}

impl Meter {
    fn new() -> Result<Self> {
        Ok(Self {
            console: Console::new(true)?,
            cost: Cost::default(),
            mark: (Instant::now(), cpu_seconds()),
        })
    }

    /// Time since the last call.
    fn lap(&mut self) -> (f64, f64) {
        let now = (Instant::now(), cpu_seconds());
        let lap = ((now.0 - self.mark.0).as_secs_f64(), now.1 - self.mark.1);
        self.mark = now;
        lap
    }

    fn other(&mut self) {
        self.cost.other_cpu_seconds += self.lap().1;
    }
}

impl Progress for Meter {
    fn started(&mut self, overview: &Overview) {
        self.console.started(overview);
        self.other();
    }

    fn resumed(&mut self, step: u64, skipped: &[Skipped]) {
        self.cost.resumed = true;
        self.console.resumed(step, skipped);
    }

    fn features(&mut self, what: &str, done: usize, total: usize) {
        self.console.features(what, done, total);
        self.other();
    }

    fn step(&mut self, report: &StepReport<'_>) {
        self.console.step(report);
        let (wall, cpu) = self.lap();
        self.cost.seconds += wall;
        self.cost.cpu_seconds += cpu;
        self.cost.steps += 1;
    }

    fn evaluated(&mut self, evaluation: &Evaluation) {
        self.console.evaluated(evaluation);
        self.other();
    }

    fn checkpoint(&mut self, _step: u64, _path: &Path) {
        self.other();
    }

    fn warning(&mut self, message: &str) {
        self.console.warning(message);
    }
}

/// Processor time of this process so far.
fn cpu_seconds() -> f64 {
    // proc(5): fields 14 and 15, counted after the name in brackets; user space sees 100 ticks a second on every architecture
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = text.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks = after.split_whitespace().skip(11).take(2);
    ticks.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Highest resident memory of this process.
fn peak_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
