//! How a training run is shown: what learns, a bar with loss, rate and time left.

use anyhow::Result;
use bifocal_align::train::checkpoint::Skipped;
use bifocal_align::train::watch::Evaluation;
use bifocal_align::train::{Estimate, Overview, Progress as Report, StepReport};
use bifocal_align::vq::VqOverview;

use super::progress::Progress;
use crate::stop::Stop;

/// Shows a run on standard error.
pub struct Console {
    /// Of several processes, one speaks.
    speaks: bool,
    stop: Stop,
    /// The task that is shown, with its name.
    current: Option<(String, Progress)>,
}

impl Console {
    /// Shows a run that Ctrl-C and SIGTERM end in good order; without `speaks` it only listens to them.
    ///
    /// # Errors
    /// When the system does not let the program listen for them.
    pub fn new(speaks: bool) -> Result<Self> {
        Ok(Self {
            speaks,
            stop: Stop::listen()?,
            current: None,
        })
    }

    /// Removes the bar.
    pub fn finish(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.finish();
        }
    }

    fn show(&mut self, what: &str, done: u64, total: u64, message: &str) {
        if !self.speaks {
            return;
        }
        if self.current.as_ref().is_none_or(|(name, _)| name != what) {
            self.finish();
            self.current = Some((what.to_owned(), Progress::new(what, total)));
        }
        if let Some((_, bar)) = &mut self.current {
            bar.update(done, message);
        }
    }
}

/// What a run is about to do, on standard output.
pub fn print_overview(overview: &Overview) {
    println!(
        "{}: {} pictures, {} distinct texts, {} pictures held out, {} steps",
        overview.method,
        overview.images,
        overview.texts,
        overview.held_out,
        overview.steps()
    );
    if overview.device != "cpu" {
        println!("on {}", overview.device);
    }
    for stage in &overview.stages {
        println!(
            "\nstage {}: {} steps of {}\n{}",
            stage.name, stage.steps, stage.batch, stage.plan
        );
    }
}

/// What the training of an autoencoder is about to do, on standard output; what cannot be used on standard error.
pub fn print_vq(overview: &VqOverview) {
    for reason in &overview.unusable {
        eprintln!("left out {reason}");
    }
    println!(
        "vq: {} pictures, {} held out, {} steps; {} numbers learn, {} are frozen; a token for {} × {} pixels",
        overview.pictures,
        overview.held_out,
        overview.steps,
        overview.learns,
        overview.frozen,
        overview.factor,
        overview.factor
    );
}

/// What a run will take, on standard output.
pub fn print_estimates(estimates: &[Estimate]) {
    let mib = |bytes: Option<u64>| bytes.map_or("?".to_owned(), |bytes| (bytes >> 20).to_string());
    for e in estimates {
        println!(
            "estimate of stage {}: {} MiB ({} of the program with towers and data, {} of optimizer state, and the larger of {} of gradients \
             with {} of activations and {} for a checkpoint); {:.3} s a step, {:.0} s for {} steps",
            e.stage,
            mib(e.peak()),
            mib(e.open),
            mib(Some(e.moments)),
            mib(Some(e.gradients)),
            mib(e.activations),
            mib(Some(e.checkpoint)),
            e.step_seconds,
            e.step_seconds * e.steps as f64,
            e.steps
        );
    }
    if let Some(e) = estimates.first() {
        println!(
            "(from two steps on {} samples, activations and time in proportion to the batch; features of frozen towers, which are computed once \
             before, are not in the time, nor are evaluations and checkpoints)",
            e.tried
        );
    }
}

impl Report for Console {
    fn started(&mut self, overview: &Overview) {
        const SHOWN: usize = 5;
        if !self.speaks {
            return;
        }
        for reason in overview.unusable.iter().take(SHOWN) {
            eprintln!("left out {reason}");
        }
        if overview.unusable.len() > SHOWN {
            eprintln!("left out {} more", overview.unusable.len() - SHOWN);
        }
        print_overview(overview);
    }

    fn resumed(&mut self, step: u64, skipped: &[Skipped]) {
        if !self.speaks {
            return;
        }
        for skipped in skipped {
            eprintln!("passed over {}: {}", skipped.path.display(), skipped.reason);
        }
        eprintln!("going on after step {step}");
    }

    fn features(&mut self, what: &str, done: usize, total: usize) {
        self.show(&format!("features of {what}"), done as u64, total as u64, "");
    }

    fn step(&mut self, report: &StepReport<'_>) {
        let message = format!(
            "loss {:.4}  {:.0} pictures/s  {:.0} s left",
            report.metrics.loss, report.samples_per_second, report.seconds_left
        );
        self.show("training", report.metrics.step, report.total, &message);
    }

    fn evaluated(&mut self, evaluation: &Evaluation) {
        let of = |name: &str| 100.0 * evaluation.metrics.get(name).copied().unwrap_or(f64::NAN);
        eprintln!(
            "after step {}: held-out pictures by caption {:.1} / {:.1} / {:.1} %, captions by picture {:.1} / {:.1} / {:.1} % (R@1/5/10)",
            evaluation.step,
            of("t2i_r1"),
            of("t2i_r5"),
            of("t2i_r10"),
            of("i2t_r1"),
            of("i2t_r5"),
            of("i2t_r10")
        );
    }

    fn warning(&mut self, message: &str) {
        if self.speaks {
            eprintln!("warning: {message}");
        }
    }

    fn stop(&mut self) -> bool {
        self.stop.heard()
    }
}
