//! A bar on a terminal, plain lines now and then otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a plain line is printed when standard error is not a terminal.
const EVERY: Duration = Duration::from_secs(10);

/// Progress of one task with a known number of items, on standard error.
pub struct Progress {
    what: String,
    total: u64,
    bar: Option<ProgressBar>,
    started: Instant,
    printed: Instant,
}

impl Progress {
    /// Begins a task.
    pub fn new(what: &str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            let template = "{prefix} {bar:30} {pos}/{len} {msg} [{elapsed} < {eta}]";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_prefix(what.to_owned());
            bar
        });
        Self {
            what: what.to_owned(),
            total,
            bar,
            started: Instant::now(),
            printed: Instant::now(),
        }
    }

    /// `done` items of the total; `message` stands beside the bar (a loss, a rate).
    pub fn update(&mut self, done: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(message.to_owned());
        } else if self.printed.elapsed() >= EVERY {
            self.printed = Instant::now();
            let elapsed = self.started.elapsed().as_secs_f64();
            let left = elapsed / done.max(1) as f64 * self.total.saturating_sub(done) as f64;
            eprintln!(
                "{} {done}/{} {message} ({elapsed:.0} s, {left:.0} s left)",
                self.what, self.total
            );
        }
    }

    /// Ends the task and removes the bar.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
