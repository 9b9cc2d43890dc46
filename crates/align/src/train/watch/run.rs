//! What a run writes for those who watch it.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bifocal_data::atomic::write_atomic;

use super::report::Retrieval;
use super::{Best, Evaluation, EventLog, Report};
use crate::train::TrainError;
use crate::train::metrics::{Log, Metrics};
use crate::train::plan::Plan;

/// File of the best evaluation in a run's folder.
const BEST: &str = "best.json";

/// The files that a run in progress adds to.
pub(crate) struct Watch {
    events: EventLog,
    evaluations: Log,
    best: Best,
    best_file: PathBuf,
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}

impl Watch {
    /// Opens the files in a run's folder, cut back to a step.
    pub fn open(out: &Path, step: u64, metric: &str) -> Result<Self, TrainError> {
        let evaluations = Evaluation::log(out, step).map_err(TrainError::io(out))?;
        let best_file = out.join(BEST);
        // what came after the step will come again, and is told again from the evaluations that are left
        let mut best = Best::new(metric);
        let text = std::fs::read_to_string(evaluations.path()).map_err(TrainError::io(evaluations.path()))?;
        for row in text
            .lines()
            .filter_map(|line| serde_json::from_str::<Evaluation>(line).ok())
        {
            best.consider(row.step, &row.metrics);
        }
        Ok(Self {
            events: EventLog::open(out, step, now()).map_err(TrainError::io(out))?,
            evaluations,
            best,
            best_file,
        })
    }

    /// The step of the best evaluation, if there was one.
    pub fn best_step(&self) -> Option<u64> {
        self.best.value.map(|_| self.best.step)
    }

    /// A step was taken.
    pub fn step(&mut self, metrics: &Metrics) -> Result<(), TrainError> {
        let path = self.events.path().to_owned();
        self.events.metrics(metrics, now()).map_err(TrainError::io(&path))
    }

    /// Held-out pictures were looked at: adds the numbers everywhere, and tells whether they are the best.
    pub fn evaluated(&mut self, evaluation: &Evaluation) -> Result<bool, TrainError> {
        let best = self.best.consider(evaluation.step, &evaluation.metrics);
        self.evaluations
            .push(evaluation)
            .and_then(|()| self.evaluations.sync())
            .map_err(TrainError::io(self.evaluations.path()))?;
        let path = self.events.path().to_owned();
        self.events
            .evaluation(evaluation, now())
            .and_then(|()| self.events.flush())
            .map_err(TrainError::io(&path))?;
        if best {
            let json = serde_json::json!(self.best);
            write_atomic(&self.best_file, |file| {
                std::io::Write::write_all(file, format!("{json:#}\n").as_bytes())
            })
            .map_err(TrainError::io(&self.best_file))?;
        }
        Ok(best)
    }

    /// Writes the page about the run.
    pub fn page(&self, out: &Path, plan: &Plan, retrievals: Vec<Retrieval>) -> Result<(), TrainError> {
        let mut report = Report::of_run(out)?;
        report.freeze_table = plan.to_string();
        report.retrievals = retrievals;
        report.write(out)?;
        Ok(())
    }

    /// Everything is on the disk; a checkpoint stands for it afterwards.
    pub fn sync(&mut self) -> Result<(), TrainError> {
        let path = self.events.path().to_owned();
        self.events.sync().map_err(TrainError::io(&path))
    }
}
