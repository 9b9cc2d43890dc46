//! How a run tells what it is doing. Nothing here prints; the command line does.

use std::path::Path;

use super::metrics::Metrics;
use super::plan::Plan;

/// What a run is about to do.
#[derive(Clone, Debug)]
pub struct Overview {
    /// Method of the recipe.
    pub method: String,
    /// What it runs on: `cpu`, or the name of a card.
    pub device: String,
    /// What each stage does.
    pub stages: Vec<StageOverview>,
    /// Training pictures, held-out pictures and distinct texts.
    pub images: usize,
    /// Pictures that are kept out of training.
    pub held_out: usize,
    /// Distinct texts.
    pub texts: usize,
    /// Rows of the data that could not be used, with the reason.
    pub unusable: Vec<String>,
}

/// What a stage is about to do.
#[derive(Clone, Debug)]
pub struct StageOverview {
    /// As recipes name it.
    pub name: String,
    /// Which parameters learn.
    pub plan: Plan,
    /// How many steps.
    pub steps: u64,
    /// Samples a step.
    pub batch: usize,
}

impl Overview {
    /// Steps of all stages.
    pub fn steps(&self) -> u64 {
        self.stages.iter().map(|stage| stage.steps).sum()
    }
}

/// A step that was taken.
#[derive(Clone, Debug)]
pub struct StepReport<'a> {
    /// As it stands in `metrics.jsonl`.
    pub metrics: &'a Metrics,
    /// Steps of the whole run.
    pub total: u64,
    /// Pictures per second, averaged over the last steps.
    pub samples_per_second: f64,
    /// Estimate until the last step.
    pub seconds_left: f64,
}

/// Where a run reports to. All methods do nothing unless they are overridden.
pub trait Progress {
    /// Data and towers are open, nothing is computed yet.
    fn started(&mut self, _overview: &Overview) {}
    /// A run goes on from a checkpoint; damaged ones that were passed over are named.
    fn resumed(&mut self, _step: u64, _skipped: &[super::checkpoint::Skipped]) {}
    /// Features of frozen towers: `done` of `total` different `what` ("pictures", "texts") are there. The first call says how many
    /// an earlier run has left.
    fn features(&mut self, _what: &str, _done: usize, _total: usize) {}
    /// A step was taken.
    fn step(&mut self, _report: &StepReport<'_>) {}
    /// Held-out pictures were looked at.
    fn evaluated(&mut self, _evaluation: &super::watch::Evaluation) {}
    /// A checkpoint is on the disk.
    fn checkpoint(&mut self, _step: u64, _path: &Path) {}
    /// Something that the user should know.
    fn warning(&mut self, _message: &str) {}
    /// Asked after each step and before each batch of features that are computed; `true` writes a checkpoint and ends the run.
    fn stop(&mut self) -> bool {
        false
    }
}

/// Reports to nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}
