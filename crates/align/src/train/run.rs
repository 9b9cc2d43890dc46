//! The loop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bifocal_data::atomic::{FileLock, write_atomic};
use bifocal_nn::trace;

use super::checkpoint::{Checkpoints, Snapshot, State};
use super::collective::{Alone, Ranks, Wait};
use super::explode::Losses;
use super::feed::{Feed, Sampled};
use super::importance;
use super::judge::Judge;
use super::metrics::{Log, Metrics, Timing};
use super::plan::Plan;
use super::setup::{Prepared, Setup};
use super::trainer::Trainer;
use super::watch::Watch;
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
    /// The bundle's fingerprint, at rank 0.
    pub fingerprint: Option<String>,
    /// Steps taken, in this and earlier sessions.
    pub steps: u64,
    /// The step it went on from.
    pub resumed_from: Option<u64>,
    /// Numbers of the last step that this session took.
    pub last: Option<Metrics>,
    /// Steps left out because something was wrong with them.
    pub skipped_steps: u64,
    /// Of this session's steps.
    pub seconds: f64,
}

/// What a recipe would do: opens data and towers, computes nothing and writes nothing.
///
/// # Errors
/// Everything that would stop the run before its first step.
pub fn overview(recipe: &Recipe) -> Result<Overview, TrainError> {
    recipe
        .compute
        .device
        .scope(|| Ok(Setup::open(recipe)?.overview(recipe)))
}

/// Runs a recipe to its end, or until [`Progress::stop`] says so.
///
/// The run's folder has everything to go on from where it was, at whatever moment it is killed: with `resume` the result is the same to
/// the bit as that of a run that was never interrupted (on the CPU, on the same number of threads).
///
/// # Errors
/// [`TrainError`]; what is in the run's folder then stays usable.
pub fn run(recipe: &Recipe, options: &Options, progress: &mut dyn Progress) -> Result<RunSummary, TrainError> {
    run_among(recipe, options, progress, &Alone)
}

/// As [`run`], with each batch split over ranks: loss and gradient are those of the whole batch. Every rank calls this with the same recipe and
/// folder; rank 0 writes it, and a run that was begun by some number of ranks can be resumed by another.
///
/// # Errors
/// As [`run`], and [`TrainError::Ranks`]. A rank that gets an error has to end the others: they wait for it.
pub fn run_among(
    recipe: &Recipe,
    options: &Options,
    progress: &mut dyn Progress,
    ranks: &dyn Ranks,
) -> Result<RunSummary, TrainError> {
    recipe.check()?;
    recipe.check_ranks(ranks.size())?;
    ranks.agree_on_recipe(recipe)?;
    recipe
        .compute
        .device
        .scope(|| run_here(recipe, options, progress, ranks))
}

/// As [`run_among`], with all tensors where this thread puts them.
fn run_here(
    recipe: &Recipe,
    options: &Options,
    progress: &mut dyn Progress,
    ranks: &dyn Ranks,
) -> Result<RunSummary, TrainError> {
    let out = options.out.as_path();
    std::fs::create_dir_all(out).map_err(TrainError::io(out))?;
    let lock = || FileLock::acquire(&out.join("lock"), "bifocal train");
    let _lock = ranks.first().then(lock).transpose()?;
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
    // until here nobody has written anything that others might read
    ranks.agree(
        "the data, a pretrained tower or the newest checkpoint",
        "all ranks must see the same files; put data, models and --out where all machines see them",
        format!("{} {}", start.fingerprint, start.step).as_bytes(),
    )?;
    if ranks.first() {
        write(&out.join("recipe.toml"), recipe.to_toml().as_bytes())?;
        let held_out = serde_json::json!(setup.held_out());
        write(&out.join("holdout.json"), format!("{held_out:#}\n").as_bytes())?;
    }
    let logs = || {
        Ok::<_, TrainError>(Logs {
            metrics: open_log(out, "metrics.jsonl", start.step)?,
            timings: open_log(out, "timings.jsonl", start.step)?,
            watch: Watch::open(out, start.step, &recipe.run.best_by)?,
        })
    };
    let logs = ranks.first().then(logs).transpose()?;
    // a run may have been killed between writing a checkpoint and naming it the newest, or the best one
    if snapshot.is_some() && ranks.first() {
        checkpoints.settle(start.step)?;
    }
    if snapshot.is_some() && logs.as_ref().and_then(|logs| logs.watch.best_step()) == Some(start.step) {
        checkpoints.keep_best(&checkpoints.path(start.step))?;
    }
    let session = Session {
        recipe,
        ranks,
        out,
        checkpoints,
        logs,
        state: start,
        progress,
        total: overview.steps(),
        last: None,
        skipped_steps: 0,
        began: Instant::now(),
        pace: None,
    };
    session.run(setup, snapshot)
}

/// Opens the run's folder and makes sure that it is this run's.
fn open_folder(recipe: &Recipe, options: &Options) -> Result<Checkpoints, TrainError> {
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
        let before = Recipe::load(&stored, None, &[])?;
        let differences = recipe.differences(&before);
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

fn open_log(out: &Path, name: &str, step: u64) -> Result<Log, TrainError> {
    let path = out.join(name);
    Log::open(&path, step).map_err(TrainError::io(&path))
}

/// What is told of each step, at rank 0.
struct Logs {
    metrics: Log,
    timings: Log,
    watch: Watch,
}

impl Logs {
    /// What checkpoints and the page stand for goes to the disk first.
    fn sync(&mut self) -> Result<(), TrainError> {
        for log in [&mut self.metrics, &mut self.timings] {
            let path = log.path().to_owned();
            log.sync().map_err(TrainError::io(&path))?;
        }
        self.watch.sync()
    }
}

/// A run between its first and its last step of this process.
struct Session<'a> {
    recipe: &'a Recipe,
    out: &'a Path,
    ranks: &'a dyn Ranks,
    checkpoints: Checkpoints,
    logs: Option<Logs>,
    state: State,
    progress: &'a mut dyn Progress,
    /// Steps of all stages.
    total: u64,
    last: Option<Metrics>,
    skipped_steps: u64,
    began: Instant,
    /// Seconds per step, averaged with a memory of some twenty steps.
    pace: Option<f64>,
}

impl Session<'_> {
    fn run(mut self, mut setup: Setup, mut snapshot: Option<Snapshot>) -> Result<RunSummary, TrainError> {
        let resumed_from = snapshot.as_ref().map(|s| s.state.step);
        for index in self.state.stage..setup.stages.len() {
            let mut trainer = setup.trainer(index);
            if let Some(snapshot) = snapshot.take() {
                trainer.restore(snapshot).map_err(|message| TrainError::OtherRun {
                    path: self.out.to_owned(),
                    message: format!("{message}; begin anew in another folder"),
                })?;
            }
            let opened = setup
                .feed(index, trainer.towers(), self.progress, self.ranks)
                .and_then(|feed| Ok((feed, setup.judge(index, self.progress, self.ranks)?)));
            let (mut feed, judge) = match opened {
                Ok(both) => both,
                // the cache has what was computed, and the last checkpoint is where the run is
                Err(TrainError::Stopped { .. }) => return Ok(self.summary(resumed_from, None)),
                Err(error) => return Err(error),
            };
            let prepared = &setup.stages[index];
            let steps = prepared.schedule.total();
            self.began = Instant::now();
            while self.state.stage_step < steps {
                self.step(&mut trainer, &mut feed, prepared)?;
                let ended = self.state.stage_step == steps;
                let stop = self.ranks.any(self.progress.stop())? && !(ended && index + 1 == setup.stages.len());
                let every = self.recipe.run.evaluate_every;
                let due = ended || (every > 0 && self.state.step.is_multiple_of(every));
                let best = due && self.look(judge.as_ref(), &trainer, &prepared.plan)?;
                if stop || ended || best || self.state.step.is_multiple_of(self.recipe.run.checkpoint_every) {
                    self.checkpoint(&trainer, best)?;
                }
                if stop {
                    return Ok(self.summary(resumed_from, None));
                }
            }
            if prepared.stage.elastic && !self.importance(&setup, index, &trainer, &mut feed)? {
                return Ok(self.summary(resumed_from, None));
            }
            drop(feed);
            setup.take_back(trainer);
            if index + 1 < setup.stages.len() {
                self.state.stage += 1;
                self.state.stage_step = 0;
                self.state.optimizer_step = 0;
                self.state.losses = Losses::default();
            }
        }
        let bundle = self.out.join("model");
        let save = || setup.save(self.recipe, &bundle);
        let manifest = self.ranks.first().then(save).transpose()?;
        self.ranks.barrier(Wait::Work)?;
        Ok(self.summary(resumed_from, Some((bundle, manifest.map(|m| m.fingerprint)))))
    }

    fn step(&mut self, trainer: &mut Trainer, feed: &mut Feed, prepared: &Prepared) -> Result<(), TrainError> {
        let clock = Instant::now();
        let _span = trace::span("training step");
        let number = self.state.step + 1;
        let lr = prepared.schedule.at(self.state.stage_step);
        let times = prepared.recipe.data.accumulate as u64;
        let first = self.state.stage_step * times;
        let mut sampled = Sampled::default();
        let reading = trace::span("reading the batch");
        for i in first..first + times {
            sampled.add(feed.batch(i, number, self.ranks)?);
        }
        if self.state.stage_step + 1 < prepared.schedule.total() {
            feed.read_ahead(first + times..first + 2 * times, self.ranks);
        }
        drop(reading);
        sampled.warnings.iter().for_each(|w| self.progress.warning(w));
        let done = self.state.stage_step as f64 / prepared.schedule.total().max(1) as f64;
        trainer.before_step(&*prepared.stage.objective, done);
        let outcome = trainer
            .step(
                &*prepared.stage.objective,
                self.state.step,
                &sampled.batches,
                lr,
                self.state.losses.limit(self.recipe.run.explode),
                self.ranks,
            )
            .map_err(|source| TrainError::Method { step: number, source })?;
        if let Some(what) = &outcome.bad {
            self.bad_step(number, what, &sampled)?;
        }
        self.state.losses.push(outcome.loss);
        self.state.step = number;
        self.state.stage_step += 1;
        self.state.samples += sampled.keys.len() as u64;
        self.state.optimizer_step = trainer.optimizer().steps();
        trainer.average(self.state.stage_step);
        let (logit_scale, logit_bias) = trainer.temperature();
        let skipped = outcome.bad.is_some();
        let metrics = Metrics {
            step: number,
            loss: outcome.loss,
            terms: if skipped { BTreeMap::new() } else { outcome.terms },
            lr,
            grad_norm: outcome.grad_norm,
            logit_scale,
            logit_bias,
            samples: self.state.samples,
            skipped,
        };
        let seconds = clock.elapsed().as_secs_f64();
        let n = sampled.keys.len() as f64;
        let timing = Timing {
            step: number,
            seconds,
            samples_per_second: n / seconds.max(1e-9),
        };
        if let Some(logs) = &mut self.logs {
            let (log, timings) = (&mut logs.metrics, &mut logs.timings);
            log.push(&metrics).map_err(TrainError::io(log.path()))?;
            timings.push(&timing).map_err(TrainError::io(timings.path()))?;
            logs.watch.step(&metrics)?;
        }
        let pace = self.pace.map_or(seconds, |pace| 0.95 * pace + 0.05 * seconds);
        self.pace = Some(pace);
        self.progress.step(&StepReport {
            metrics: &metrics,
            total: self.total,
            samples_per_second: n / pace.max(1e-9),
            seconds_left: (self.total.saturating_sub(number)) as f64 * pace,
        });
        self.last = Some(metrics);
        Ok(())
    }

    /// Measures how much each weight matters to what the run has learnt, and leaves it to the runs that come after; false when the run is asked to stop
    /// meanwhile. One that is resumed does it again.
    fn importance(
        &mut self,
        setup: &Setup,
        index: usize,
        trainer: &Trainer,
        feed: &mut Feed,
    ) -> Result<bool, TrainError> {
        let towers = setup.finished(self.recipe, trainer.finished());
        let measured = importance::measure(&setup.stages[index], towers, feed, self.progress, self.ranks)?;
        let Some(measured) = measured else { return Ok(false) };
        if self.ranks.first() {
            let held = importance::added((*setup.held).clone(), measured);
            let path = self.out.join(importance::IMPORTANCE_FILE);
            write(&path, &importance::encode(&held)?)?;
        }
        self.ranks.barrier(Wait::Work)?;
        Ok(true)
    }

    /// Notes the samples of a step that cannot be taken, and stops the run unless the recipe says to go on.
    fn bad_step(&mut self, step: u64, what: &str, sampled: &Sampled) -> Result<(), TrainError> {
        let listed = self.out.join(format!("bad-step-{step}.json"));
        let list = serde_json::json!({
            "step": step,
            "why": what,
            "samples": sampled.keys,
            "samples_with_broken_features": sampled.broken,
        });
        if self.ranks.first() {
            write(&listed, format!("{list:#}\n").as_bytes())?;
        }
        let first = if sampled.broken.is_empty() {
            &sampled.keys
        } else {
            &sampled.broken
        };
        let samples = first.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
        match self.recipe.run.bad_step {
            BadStep::Stop => Err(TrainError::BadStep {
                step,
                what: what.to_owned(),
                samples,
                listed,
            }),
            BadStep::Skip => {
                self.skipped_steps += 1;
                let listed = listed.display();
                self.progress
                    .warning(&format!("step {step} is left out: {what}; its samples: {listed}"));
                Ok(())
            }
        }
    }

    /// Rank 0 looks at the held-out pictures, if there are some, and writes the page about the run; tells whether they were never found
    /// better.
    fn look(&mut self, judge: Option<&Judge>, trainer: &Trainer, plan: &Plan) -> Result<bool, TrainError> {
        let mut best = false;
        if let Some(logs) = &mut self.logs {
            logs.sync()?;
            let mut retrievals = Vec::new();
            if let Some(judge) = judge {
                let rows = judge.embed(&trainer.finished())?;
                let evaluation = judge.evaluate(&rows, self.state.step)?;
                self.progress.evaluated(&evaluation);
                best = logs.watch.evaluated(&evaluation)?;
                retrievals = judge.retrievals(&rows);
            }
            logs.watch.page(self.out, plan, retrievals)?;
        }
        self.ranks.barrier(Wait::Work)?;
        Ok(self.ranks.any(best)?)
    }

    fn checkpoint(&mut self, trainer: &Trainer, best: bool) -> Result<(), TrainError> {
        self.logs.as_mut().map_or(Ok(()), Logs::sync)?;
        let snapshot = Snapshot {
            state: self.state.clone(),
            weights: trainer.learnt(),
            moments: trainer.optimizer().state(),
        };
        // An update can overflow although loss and gradient were finite; good checkpoints must not make room for that.
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
        if self.ranks.size() > 1 {
            let weights = snapshot.weights.values().flat_map(|t| &t.data);
            let bytes: Vec<u8> = weights.flat_map(|v| v.to_le_bytes()).collect();
            let advice = "it was not written to a checkpoint; start the same build of bifocal on machines of one kind, with --resume";
            self.ranks.agree("the model", advice, &bytes)?;
        }
        if self.ranks.first() {
            let path = self.checkpoints.save(&snapshot)?;
            if best {
                self.checkpoints.keep_best(&path)?;
            }
            self.progress.checkpoint(self.state.step, &path);
        }
        Ok(self.ranks.barrier(Wait::Work)?)
    }

    fn summary(self, resumed_from: Option<u64>, bundle: Option<(PathBuf, Option<String>)>) -> RunSummary {
        let (bundle, fingerprint) = bundle.unzip();
        let fingerprint = fingerprint.flatten();
        RunSummary {
            out: self.out.to_owned(),
            bundle,
            fingerprint,
            steps: self.state.step,
            resumed_from,
            last: self.last,
            skipped_steps: self.skipped_steps,
            seconds: self.began.elapsed().as_secs_f64(),
        }
    }
}
