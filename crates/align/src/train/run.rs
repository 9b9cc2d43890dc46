//! The loop.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::checkpoint::{Checkpoints, FORMAT, Snapshot, State};
use super::disk::replace;
use super::metrics::{Log, Metrics, Timing};
use super::setup::Setup;
use super::trainer::{Outcome, Trainer};
use super::{Overview, Progress, StepReport, TrainError};
use crate::recipe::{BadStep, Recipe};

/// Where a run goes and whether it begins anew.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the run; created when it is not there.
    pub out: PathBuf,
    /// Go on from the newest checkpoint in `out`; without one, begin.
    pub resume: bool,
}

/// What a run has done.
#[derive(Clone, Debug)]
pub struct RunSummary {
    /// Folder of the run: `recipe.toml`, `metrics.jsonl`, `timings.jsonl`, `holdout.json`, `checkpoints/`, `model/`.
    pub out: PathBuf,
    /// The finished bundle; `None` when the run was stopped before its end.
    pub bundle: Option<PathBuf>,
    /// The bundle's fingerprint.
    pub fingerprint: Option<String>,
    /// Steps taken, in this and earlier sessions.
    pub steps: u64,
    /// The step it went on from.
    pub resumed_from: Option<u64>,
    /// Numbers of the last step that this session took.
    pub last: Option<Metrics>,
    /// Steps left out because they were not finite.
    pub skipped_steps: u64,
    /// Of this session's steps.
    pub seconds: f64,
}

/// What a recipe would do: opens data and towers, computes nothing and writes nothing.
///
/// # Errors
/// Everything that would stop the run before its first step.
pub fn overview(recipe: &Recipe) -> Result<Overview, TrainError> {
    Ok(Setup::open(recipe)?.overview(recipe))
}

/// Runs a recipe to its end, or until [`Progress::stop`] says so.
///
/// The run's folder has everything to go on from where it was, at whatever moment it is killed: with `resume` the result is the same to
/// the bit as that of a run that was never interrupted (on the same number of threads).
///
/// # Errors
/// [`TrainError`]; what is in the run's folder then stays usable.
pub fn run(recipe: &Recipe, options: &Options, progress: &mut dyn Progress) -> Result<RunSummary, TrainError> {
    recipe.check()?;
    let out = options.out.as_path();
    let checkpoints = open_folder(recipe, options)?;
    let setup = Setup::open(recipe)?;
    let overview = setup.overview(recipe);
    progress.started(&overview);
    let (snapshot, skipped) = checkpoints.load_newest()?;
    let fingerprint = setup.fingerprint();
    let start = match &snapshot {
        None => State::start(fingerprint),
        Some(snapshot) if snapshot.state.fingerprint == fingerprint => snapshot.state.clone(),
        Some(_) => {
            return Err(TrainError::OtherRun {
                path: out.to_owned(),
                message: "the data or a pretrained tower is not what it was when the run began; put it back, or begin \
                          anew in another folder"
                    .to_owned(),
            });
        }
    };
    if snapshot.is_some() || !skipped.is_empty() {
        progress.resumed(start.step, &skipped);
    }
    write(&out.join("recipe.toml"), recipe.to_toml().as_bytes())?;
    write(&out.join("holdout.json"), setup.held_out().as_bytes())?;
    let mut session = Session {
        recipe,
        out,
        checkpoints,
        metrics: open_log(out, "metrics.jsonl", start.step)?,
        timings: open_log(out, "timings.jsonl", start.step)?,
        state: start,
        progress,
        total: overview.steps * overview.stages.len() as u64,
        last: None,
        skipped_steps: 0,
        began: Instant::now(),
    };
    session.run(setup, snapshot)
}
