//! Following folders: they are listed again and again. That works on every file system, also those of the network, which tell
//! nobody what changed on the other side; a listing costs one `stat` a picture.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use bifocal_search::incremental::Listed;

use super::{Indexer, listing};
use crate::stop::Stop;

/// How often the wish to stop is looked for.
const TICK: Duration = Duration::from_millis(100);

/// Brings the store up to date every `interval` until Ctrl-C or SIGTERM; says only what changed. `bad` is not tried again before it changes.
pub fn watch(indexer: &Indexer, name: &Path, roots: &[PathBuf], bad: Vec<Listed>, interval: Duration) -> Result<()> {
    let stop = Stop::listen()?;
    eprintln!(
        "watching {} every {} s; Ctrl-C ends it",
        roots
            .iter()
            .map(|r| r.display().to_string())
            .collect::<Vec<_>>()
            .join(", "),
        interval.as_secs()
    );
    let mut bad: HashMap<String, Listed> = bad.into_iter().map(|l| (l.key.clone(), l)).collect();
    let mut told = String::new();
    loop {
        let mut waited = Duration::ZERO;
        while waited < interval {
            if stop.heard() {
                return Ok(());
            }
            std::thread::sleep(TICK);
            waited += TICK;
        }
        // A folder that is away for a while (a disk that is not mounted) is no reason to empty the store, nor to end.
        let samples = match listing(roots, false) {
            Ok(samples) => samples,
            Err(error) => {
                let text = error.to_string();
                if text != told {
                    eprintln!("cannot list: {text}; trying again");
                    told = text;
                }
                continue;
            }
        };
        told.clear();
        let (summary, failed) = indexer.pass(roots, &samples, |listed| bad.get(&listed.key) == Some(listed))?;
        bad.extend(failed.into_iter().map(|l| (l.key.clone(), l)));
        if summary.is_news() {
            indexer.store.flush()?;
            println!("{}: {summary}", name.display());
        }
    }
}
