//! The bundle of a run that has not ended, from its newest checkpoint.

use std::path::Path;

use super::checkpoint::{Checkpoints, Snapshot};
use super::collective::Alone;
use super::setup::Setup;
use super::{Silent, TrainError};
use crate::recipe::Recipe;

/// The step of the newest checkpoint in a run's folder; `None` when there is none yet.
///
/// # Errors
/// A folder that cannot be listed.
pub fn newest_step(run: &Path) -> Result<Option<u64>, TrainError> {
    let dir = run.join("checkpoints");
    match dir.is_dir() {
        true => Ok(Checkpoints::open(&dir, 1)?.newest()?),
        false => Ok(None),
    }
}

/// Writes what the newest whole checkpoint of a run would be as a bundle; the run goes on meanwhile, and nothing in its folder changes. Gives the step,
/// `None` when there is no whole checkpoint.
///
/// # Errors
/// A folder that holds no run, data or towers that are not what they were, a bundle that cannot be written.
pub fn bundle_of_newest(run: &Path, bundle: &Path) -> Result<Option<u64>, TrainError> {
    let recipe = Recipe::load(&run.join("recipe.toml"), None, &[])?;
    let (snapshot, _) = Checkpoints::open(&run.join("checkpoints"), recipe.run.keep)?.load_newest()?;
    let Some(snapshot) = snapshot else { return Ok(None) };
    recipe.compute.device.scope(|| write(&recipe, snapshot, run, bundle))
}

fn write(recipe: &Recipe, snapshot: Snapshot, run: &Path, bundle: &Path) -> Result<Option<u64>, TrainError> {
    let other = |message: String| TrainError::OtherRun {
        path: run.to_owned(),
        message,
    };
    let mut setup = Setup::open(recipe)?;
    let (step, stage) = (snapshot.state.step, snapshot.state.stage);
    if snapshot.state.fingerprint != setup.fingerprint() || stage >= setup.stages.len() {
        return Err(other(
            "the data or a pretrained tower is not what it was when the run began; put it back".to_owned(),
        ));
    }
    let mut trainer = setup.trainer(stage);
    trainer.restore(snapshot).map_err(other)?;
    // features of frozen towers are in the cache; what they are standardised by is part of the bundle
    drop(setup.feed(stage, trainer.towers(), &mut Silent, &Alone)?);
    setup.take_back(trainer);
    setup.save(recipe, bundle)?;
    Ok(Some(step))
}
