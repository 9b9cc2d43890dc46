//! `--watch RUN`: checkpoints of a running training are measured as they appear.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bifocal_align::train::{bundle_of_newest, collective::Ranks, newest_step};

use super::run::{Named, Opened, Plan};
use crate::stop::Stop;

/// Between two looks at the folder.
const EVERY: Duration = Duration::from_secs(2);

/// Measures the newest checkpoint again and again, until the run has its bundle (which is measured last) or the program is told to stop. Rows are called
/// `RUN@STEP`, and `RUN` for the bundle; of checkpoints that come faster than they can be measured, the newest is taken.
///
/// # Errors
/// A folder that is no run, a benchmark that cannot be measured.
pub fn watch(plan: &Plan, run: &Path, opened: &[Opened], ranks: &dyn Ranks) -> Result<()> {
    let stop = Stop::listen()?;
    let name = run
        .file_name()
        .map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned());
    let scratch = plan.out.join("watch").join("model");
    let mut seen = None;
    loop {
        let ended = run.join("model").join("bifocal.json").is_file();
        if !run.join("recipe.toml").is_file() {
            anyhow::bail!(
                "{} is no folder of a run, or not any more: `bifocal train` makes one",
                run.display()
            );
        }
        let step = newest_step(run).with_context(|| format!("{} is no folder of a run", run.display()))?;
        if step.is_some() && step != seen && !ended {
            match bundle_of_newest(run, &scratch) {
                Ok(Some(step)) => {
                    seen = Some(step);
                    let named = Named {
                        // steps sort as numbers
                        name: format!("{name}@{step:06}"),
                        path: scratch.clone(),
                    };
                    plan.run(&named, opened, ranks)?;
                    plan.publish()?;
                }
                Ok(None) => {}
                // it may have been deleted for a newer one while it was read
                Err(_) if newest_step(run)? != step => {}
                Err(error) => return Err(error.into()),
            }
        }
        if ended {
            let named = Named {
                name,
                path: run.join("model"),
            };
            plan.run(&named, opened, ranks)?;
            plan.publish()?;
            return Ok(());
        }
        if stop.heard() {
            return Ok(());
        }
        std::thread::sleep(EVERY);
    }
}
