//! The loop.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bifocal_data::atomic::{FileLock, write_atomic};
use bifocal_eval::picture::CodeUse;
use bifocal_models::vq::{Codec, Latents};
use bifocal_nn::engine::scalar;
use bifocal_nn::params;
use serde::{Deserialize, Serialize};

use super::learner::Learner;
use super::pictures::{Frozen, Latent, Listing};
use super::pixels::Pixels;
use crate::recipe::{BadStep, VqRecipe};
use crate::train::checkpoint::{Checkpoints, State};
use crate::train::metrics::{Log, Metrics, Timing};
use crate::train::schedule::Schedule;
use crate::train::{Options, Progress, StepReport, TrainError};

/// Held-out pictures that are looked at together.
const TOGETHER: usize = 8;

/// What a run is about to do.
#[derive(Clone, Debug)]
pub struct VqOverview {
    /// Pictures that are learnt from.
    pub pictures: usize,
    /// Pictures that are kept out of training.
    pub held_out: usize,
    /// Numbers that learn, and that stay.
    pub learns: usize,
    /// Of the frozen autoencoder.
    pub frozen: usize,
    /// Steps.
    pub steps: u64,
    /// Pixels on a side of a token.
    pub factor: usize,
    /// What could not be used of the data, with the reason.
    pub unusable: Vec<String>,
}

/// How the held-out pictures come out, in latents: a line of `evaluations.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VqEvaluation {
    /// Counted from 1.
    pub step: u64,
    /// Mean squared error of standardised latents: 1 is what their mean would give.
    pub latents: f64,
    /// Different codes that occur.
    pub used: usize,
    /// 2 to the entropy of their frequencies in bits.
    pub perplexity: f64,
}

/// What a run has done.
#[derive(Clone, Debug)]
pub struct VqSummary {
    /// Folder of the run: `recipe.toml`, `metrics.jsonl`, `evaluations.jsonl`, `timings.jsonl`, `holdout.json`, `checkpoints/`, `model/`.
    pub out: PathBuf,
    /// The folder of the finished model; `None` when the run was stopped before its end.
    pub model: Option<PathBuf>,
    /// Steps taken, in this and earlier sessions.
    pub steps: u64,
    /// The step it went on from.
    pub resumed_from: Option<u64>,
    /// Steps of this session that were left out because something was wrong with them.
    pub skipped_steps: u64,
    /// At the end of the run, when pictures were held out.
    pub evaluation: Option<VqEvaluation>,
}

/// What a recipe would do: opens data and autoencoder, computes nothing and writes nothing.
///
/// # Errors
/// Everything that would stop the run before its first step.
pub fn overview(recipe: &VqRecipe) -> Result<VqOverview, TrainError> {
    recipe.check()?;
    recipe.compute.device.scope(|| overview_here(recipe))
}

fn overview_here(recipe: &VqRecipe) -> Result<VqOverview, TrainError> {
    let (listing, frozen) = (Listing::open(recipe)?, Frozen::open(recipe)?);
    let channels = frozen.tiny.channels();
    let flat = Latents {
        shift: vec![0.0; channels],
        scale: vec![1.0; channels],
    };
    Pixels::open(recipe, &frozen.tiny)?;
    let learner = learner(recipe, flat, None)?;
    let count = |all: Vec<params::ParamInfo>| all.iter().map(|p| p.shape.iter().product::<usize>()).sum();
    Ok(VqOverview {
        pictures: listing.learnt(),
        held_out: listing.held.len(),
        learns: count(params::list(learner.model())),
        frozen: count(params::list(&frozen.tiny)),
        steps: schedule(recipe, &listing).total(),
        factor: recipe.config(channels).factor() * bifocal_models::vq::Tiny::FACTOR,
        unusable: listing.unusable,
    })
}

fn schedule(recipe: &VqRecipe, listing: &Listing) -> Schedule {
    let rows = listing
        .train
        .iter()
        .map(|(weight, rows)| weight * rows.len() as f64)
        .sum::<f64>();
    Schedule::from_spec(
        &recipe.schedule,
        recipe.optimizer.lr,
        rows.round() as usize,
        recipe.data.batch,
    )
}

fn learner(recipe: &VqRecipe, latents: Latents, pixels: Option<Pixels>) -> Result<Learner, TrainError> {
    Learner::new(recipe, latents, pixels).map_err(|message| TrainError::Data {
        path: PathBuf::from(&recipe.autoencoder.model),
        message,
    })
}

/// Runs a recipe to its end, or until [`Progress::stop`] says so. As with [`crate::train::run`], a run that is killed at whatever moment goes on with
/// `resume`, and ends with the same bits.
///
/// # Errors
/// [`TrainError`]; what is in the run's folder then stays usable.
pub fn run(recipe: &VqRecipe, options: &Options, progress: &mut dyn Progress) -> Result<VqSummary, TrainError> {
    recipe.check()?;
    recipe.compute.device.scope(|| run_here(recipe, options, progress))
}

/// As [`run`], with all tensors where this thread puts them.
fn run_here(recipe: &VqRecipe, options: &Options, progress: &mut dyn Progress) -> Result<VqSummary, TrainError> {
    let out = options.out.as_path();
    std::fs::create_dir_all(out).map_err(TrainError::io(out))?;
    let _lock = FileLock::acquire(&out.join("lock"), "bifocal train")?;
    let checkpoints = open_folder(recipe, options)?;
    let (listing, frozen) = (Listing::open(recipe)?, Frozen::open(recipe)?);
    let (pixels, eye) = Pixels::open(recipe, &frozen.tiny)?.unzip();
    let schedule = schedule(recipe, &listing);
    write(&out.join("recipe.toml"), recipe.to_toml().as_bytes())?;
    let held_out = serde_json::json!(listing.held_out);
    write(&out.join("holdout.json"), format!("{held_out:#}\n").as_bytes())?;
    let (snapshot, skipped) = checkpoints.load_newest()?;
    let stopped = |steps: u64| VqSummary {
        out: out.to_owned(),
        model: None,
        steps,
        resumed_from: None,
        skipped_steps: 0,
        evaluation: None,
    };
    let latent = match Latent::open(recipe, &listing, &frozen, progress) {
        Ok(latent) => latent,
        // the cache has what was computed, and the last checkpoint is where the run is
        Err(TrainError::Stopped { .. }) => return Ok(stopped(snapshot.map_or(0, |s| s.state.step))),
        Err(error) => return Err(error),
    };
    let rows = latent.train.iter().map(|&row| latent.whole(row));
    let mut learner = learner(recipe, Latents::of(rows, frozen.tiny.channels()), pixels)?;
    let mut state = State::start(format!("{}{}", latent.fingerprint, eye.unwrap_or_default()));
    let other = |message: String| TrainError::OtherRun {
        path: out.to_owned(),
        message,
    };
    let resumed_from = snapshot.as_ref().map(|snapshot| snapshot.state.step);
    if let Some(snapshot) = snapshot {
        if snapshot.state.fingerprint != state.fingerprint {
            return Err(other(
                "the pictures or the autoencoder are not what they were when the run began; put them back, or begin anew in another folder"
                    .to_owned(),
            ));
        }
        state = snapshot.state.clone();
        learner
            .restore(snapshot)
            .map_err(|message| other(format!("{message}; begin anew in another folder")))?;
        // it may have been killed between writing a checkpoint and naming it the newest
        checkpoints.settle(state.step)?;
    }
    if resumed_from.is_some() || !skipped.is_empty() {
        progress.resumed(state.step, &skipped);
    }
    let log = |name: &str| {
        let path = out.join(name);
        Log::open(&path, state.step).map_err(TrainError::io(&path))
    };
    let session = Session {
        recipe,
        logs: [log("metrics.jsonl")?, log("timings.jsonl")?, log("evaluations.jsonl")?],
        out,
        checkpoints,
        schedule,
        latent,
        learner,
        state,
        pace: None,
        skipped_steps: 0,
        progress,
    };
    let (model, evaluation, steps, skipped_steps) = session.run(&frozen)?;
    Ok(VqSummary {
        model,
        resumed_from,
        skipped_steps,
        evaluation,
        ..stopped(steps)
    })
}

/// Opens the run's folder and makes sure that it is this run's.
fn open_folder(recipe: &VqRecipe, options: &Options) -> Result<Checkpoints, TrainError> {
    let out = options.out.as_path();
    let other = |message: String| TrainError::OtherRun {
        path: out.to_owned(),
        message,
    };
    let stored = out.join("recipe.toml");
    if stored.is_file() && !options.resume {
        return Err(other(
            "add --resume to go on with it, or choose another --out".to_owned(),
        ));
    }
    if stored.is_file() {
        let differences = recipe.differences(&VqRecipe::load(&stored, None, &[])?);
        if !differences.is_empty() {
            return Err(other(format!(
                "its recipe differs ({}); set these back, or begin anew in another folder",
                differences.join("; ")
            )));
        }
    }
    Ok(Checkpoints::open(&out.join("checkpoints"), recipe.run.keep)?)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    write_atomic(path, |file| std::io::Write::write_all(file, bytes)).map_err(TrainError::io(path))
}

struct Session<'a> {
    recipe: &'a VqRecipe,
    out: &'a Path,
    checkpoints: Checkpoints,
    /// Metrics, timings, evaluations.
    logs: [Log; 3],
    schedule: Schedule,
    latent: Latent,
    learner: Learner,
    state: State,
    /// Seconds per step, averaged with a memory of some twenty steps.
    pace: Option<f64>,
    skipped_steps: u64,
    progress: &'a mut dyn Progress,
}

type Done = (Option<PathBuf>, Option<VqEvaluation>, u64, u64);

impl Session<'_> {
    fn run(mut self, frozen: &Frozen) -> Result<Done, TrainError> {
        let total = self.schedule.total();
        let mut last = None;
        while self.state.step < total {
            self.step(total)?;
            let step = self.state.step;
            let (ended, every) = (step == total, self.recipe.run.evaluate_every);
            if ended || (every > 0 && step.is_multiple_of(every)) {
                last = self.evaluate()?;
            }
            let stop = !ended && self.progress.stop();
            if stop || ended || step.is_multiple_of(self.recipe.run.checkpoint_every) {
                self.checkpoint()?;
            }
            if stop {
                return Ok((None, last, step, self.skipped_steps));
            }
        }
        if last.is_none() {
            // a run that is resumed after its last step has its evaluation in the log already
            last = self.measure();
        }
        let folder = self.out.join("model");
        let (model, latents) = (self.learner.model(), self.learner.latents());
        let size = self.recipe.data.size;
        Codec::save(&folder, model, latents, size, &frozen.files).map_err(|error| TrainError::Data {
            path: folder.clone(),
            message: error.to_string(),
        })?;
        Ok((Some(folder), last, self.state.step, self.skipped_steps))
    }

    fn step(&mut self, total: u64) -> Result<(), TrainError> {
        let clock = Instant::now();
        let index = self.state.step;
        let side = self.recipe.data.window as usize / bifocal_models::vq::Tiny::FACTOR;
        let (windows, rows) = self.latent.windows(index, side);
        let lr = self.schedule.at(index);
        let limit = self.state.losses.limit(self.recipe.run.explode);
        let outcome = self.learner.step(&windows, index, total, lr, limit);
        let number = index + 1;
        if let Some(what) = &outcome.bad {
            self.bad_step(number, what, &rows)?;
        }
        let state = &mut self.state;
        state.losses.push(outcome.loss);
        (state.step, state.stage_step) = (number, number);
        state.samples += rows.len() as u64;
        state.optimizer_step = self.learner.optimizer().steps();
        let skipped = outcome.bad.is_some();
        let metrics = Metrics {
            step: number,
            loss: outcome.loss,
            terms: if skipped { Default::default() } else { outcome.terms },
            lr,
            grad_norm: outcome.grad_norm,
            // there are no similarities here
            logit_scale: 1.0,
            logit_bias: None,
            samples: self.state.samples,
            skipped,
        };
        let seconds = clock.elapsed().as_secs_f64();
        let timing = Timing {
            step: number,
            seconds,
            samples_per_second: rows.len() as f64 / seconds.max(1e-9),
        };
        let [log, timings, _] = &mut self.logs;
        log.push(&metrics).map_err(TrainError::io(log.path()))?;
        timings.push(&timing).map_err(TrainError::io(timings.path()))?;
        let pace = self.pace.map_or(seconds, |pace| 0.95 * pace + 0.05 * seconds);
        self.pace = Some(pace);
        self.progress.step(&StepReport {
            metrics: &metrics,
            total,
            samples_per_second: rows.len() as f64 / pace.max(1e-9),
            seconds_left: total.saturating_sub(number) as f64 * pace,
        });
        Ok(())
    }

    /// Notes the pictures of a step that cannot be taken, and stops the run unless the recipe says to go on.
    fn bad_step(&mut self, step: u64, what: &str, rows: &[usize]) -> Result<(), TrainError> {
        let listed = self.out.join(format!("bad-step-{step}.json"));
        let list = serde_json::json!({"step": step, "what": what, "pictures": rows});
        write(&listed, format!("{list:#}\n").as_bytes())?;
        self.skipped_steps += 1;
        match self.recipe.run.bad_step {
            BadStep::Skip => {
                self.progress.warning(&format!("step {step} is left out: {what}"));
                Ok(())
            }
            BadStep::Stop => Err(TrainError::BadStep {
                step,
                what: what.to_owned(),
                samples: format!(
                    "{:?} (places among the pictures that can be read)",
                    &rows[..rows.len().min(3)]
                ),
                listed,
            }),
        }
    }

    fn evaluate(&mut self) -> Result<Option<VqEvaluation>, TrainError> {
        let evaluation = self.measure();
        if let Some(evaluation) = &evaluation {
            let [_, _, log] = &mut self.logs;
            log.push(evaluation).map_err(TrainError::io(log.path()))?;
        }
        Ok(evaluation)
    }

    /// Looks at whole held-out pictures.
    fn measure(&self) -> Option<VqEvaluation> {
        let held = &self.latent.held;
        let held = &held[..held.len().min(self.recipe.run.evaluate_on)];
        if held.is_empty() {
            return None;
        }
        let model = params::set_trainable(self.learner.model().clone(), |_| false);
        let (mut sum, mut codes) = (0.0, Vec::new());
        for rows in held.chunks(TOGETHER) {
            let x = self.learner.latents().enter(&self.latent.pictures(rows));
            let (z, quantized) = model.quantized(&x);
            let error = (model.decode(&z).x - x.x).powi_scalar(2).mean();
            sum += f64::from(scalar(error)) * rows.len() as f64;
            codes.extend_from_slice(&quantized.codes);
        }
        let used = CodeUse::count(codes, self.recipe.codebook.codes);
        Some(VqEvaluation {
            step: self.state.step,
            latents: sum / held.len() as f64,
            used: used.used,
            perplexity: used.perplexity,
        })
    }

    fn checkpoint(&mut self) -> Result<(), TrainError> {
        for log in &mut self.logs {
            let path = log.path().to_owned();
            log.sync().map_err(TrainError::io(&path))?;
        }
        let snapshot = self.learner.snapshot(&self.state);
        let broken = snapshot
            .weights
            .iter()
            .find(|(_, t)| !t.data.iter().all(|v| v.is_finite()));
        if let Some((name, _)) = broken {
            return Err(TrainError::BrokenWeights {
                step: self.state.step,
                name: name.clone(),
            });
        }
        let path = self.checkpoints.save(&snapshot)?;
        self.progress.checkpoint(self.state.step, &path);
        Ok(())
    }
}
