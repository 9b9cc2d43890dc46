//! What a run will take: memory by rule, from what the program holds and what two steps on a few samples add to it; time from the second of them.

use super::collective::Alone;
use std::fs;
use std::time::Instant;

use super::feed::Sampled;
use super::setup::Setup;
use super::{Overview, TrainError};
use crate::recipe::{Device, OptimizerKind, Recipe, RecipeError};

/// Samples that are tried.
const TRIED: usize = 8;

/// What a stage will take. Features of frozen towers are made up for this, so that the time to compute those is not in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// As recipes name the stage.
    pub stage: String,
    /// Bytes of the program with towers and data open, where the system tells.
    pub open: Option<u64>,
    /// Bytes of gradients: 4 for each value that learns.
    pub gradients: u64,
    /// Bytes of the optimizer's state: one or two times that.
    pub moments: u64,
    /// Bytes of activations and work space: what the steps tried added to the peak beside gradients and state, times the samples of a batch (of a
    /// piece with `compute.micro_batch`) over those tried.
    pub activations: Option<u64>,
    /// Bytes that writing a checkpoint takes for a moment: a copy of what learns with its state, and the same again as the content of files, twice.
    pub checkpoint: u64,
    /// Seconds of a step: those of the second step tried, times the samples of all its batches over those tried.
    pub step_seconds: f64,
    /// Steps.
    pub steps: u64,
    /// Samples that were tried.
    pub tried: usize,
}

impl Estimate {
    /// Peak of the stage in bytes; a checkpoint is written when gradients and activations are gone.
    pub fn peak(&self) -> Option<u64> {
        Some(self.open? + self.moments + (self.gradients + self.activations?).max(self.checkpoint))
    }
}

/// Tries two steps of each stage on a few samples, with made-up features where a tower is frozen. Writes nothing.
///
/// # Errors
/// As [`super::run`], before its second step.
pub fn estimate(recipe: &Recipe, overview: &Overview) -> Result<Vec<Estimate>, TrainError> {
    if recipe.compute.device != Device::Cpu {
        return Err(TrainError::Recipe(RecipeError::Value {
            key: "compute.device",
            message: "what a run takes is tried on the CPU; set it to cpu for an estimate".to_owned(),
        }));
    }
    let mut small = recipe.clone();
    // as large a part of the reference
    let part = small.data.batch.min(TRIED) as f64 / small.data.batch.max(1) as f64;
    if small.reference.batch > 0 {
        small.reference.batch = ((small.reference.batch as f64 * part).round() as usize).max(1);
    }
    let all = small.stage.values_mut().map(|stage| &mut stage.data);
    for data in all.chain([&mut small.data]) {
        data.batch = data.batch.min(TRIED);
        data.accumulate = 1;
    }
    let mut setup = Setup::open(&small)?;
    setup.features_are_made_up = true;
    let mut found = Vec::new();
    for (index, stage) in overview.stages.iter().enumerate() {
        let mut trainer = setup.trainer(index);
        let mut feed = setup.feed(index, trainer.towers(), &mut super::Silent, &Alone)?;
        let prepared = &setup.stages[index];
        let open = memory("VmRSS:");
        forget_peak();
        let mut seconds = 0.0;
        for i in 0..2 {
            let clock = Instant::now();
            let sampled: Sampled = feed.batch(i, i + 1, &Alone)?;
            trainer
                .step(&*prepared.stage.objective, i, &sampled.batches, 0.0, None, &Alone)
                .map_err(|source| TrainError::Method { step: i + 1, source })?;
            seconds = clock.elapsed().as_secs_f64();
        }
        let grown = open.and_then(|open| Some(memory("VmHWM:")?.saturating_sub(open)));
        let rows = prepared.plan.rows().iter().filter(|row| row.learns.is_some());
        let gradients = 4 * rows.map(|row| row.values as u64).sum::<u64>();
        let moments = match prepared.recipe.optimizer.kind {
            OptimizerKind::Lion => gradients,
            OptimizerKind::Adam | OptimizerKind::Adamw => 2 * gradients,
        };
        let whole = recipe.of_stage(&stage.name).data;
        let tried = prepared.recipe.data.batch;
        let piece = |batch: usize| match recipe.compute.micro_batch {
            0 => batch,
            piece => batch.min(piece),
        };
        let times = |a: usize, b: usize| a as f64 / b.max(1) as f64;
        found.push(Estimate {
            stage: stage.name.clone(),
            open,
            gradients,
            moments,
            activations: grown.map(|grown| {
                let own = grown.saturating_sub(gradients + moments) as f64;
                (own * times(piece(whole.batch), piece(tried))) as u64
            }),
            // what learns takes as much as its gradients
            checkpoint: 3 * (gradients + moments),
            step_seconds: seconds * times(whole.batch * whole.accumulate, tried),
            steps: stage.steps,
            tried,
        });
        drop(feed);
        setup.take_back(trainer);
    }
    Ok(found)
}

/// A line of what Linux says about this process, in bytes.
fn memory(key: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    Some(1024 * line.trim().trim_end_matches(" kB").parse::<u64>().ok()?)
}

/// Lets the peak begin anew at what is in use now. Where that cannot be done the peak is that of opening the towers, and activations are
/// estimated too high.
fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}
